//! A service of one job that answers at once and notes when each request came.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::{Value, json};

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    /// The last part of its path: of an update, the state that is reported.
    pub(crate) name: String,
    pub(crate) at: Instant,
}

#[derive(Debug)]
struct Shared {
    job: Value,
    arrivals: Mutex<Vec<Arrival>>,
}

/// A running service; it ends with the runtime.
#[derive(Debug)]
pub(crate) struct ServiceStub {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl ServiceStub {
    /// Serves `job` on a free port.
    ///
    /// # Errors
    /// When no port can be had.
    pub(crate) async fn start(job: Value) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            job,
            arrivals: Mutex::default(),
        });
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&shared));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, shared })
    }

    /// The service root that the executor is given.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// What came so far, oldest first; forgets it.
    pub(crate) fn take_arrivals(&self) -> Vec<Arrival> {
        let arrivals = self.shared.arrivals.lock();
        std::mem::take(&mut *arrivals.unwrap_or_else(PoisonError::into_inner))
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let at = Instant::now();
    let path = request.uri().path();
    let name = path.rsplit('/').next().unwrap_or_default().to_owned();
    let response = match (request.method(), name.as_str()) {
        (&Method::PUT, _) => StatusCode::NO_CONTENT.into_response(),
        (_, "") => Json(json!({
            "service_name": "CDM Task Service",
            "version": "0.0.0",
            "git_hash": "bench",
            "server_time": "2031-02-03T04:05:06.070809Z",
            "notes": "This is the service of the benchmark",
        }))
        .into_response(),
        _ => Json(shared.job.clone()).into_response(),
    };
    let mut arrivals = shared
        .arrivals
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    arrivals.push(Arrival { name, at });
    response
}
