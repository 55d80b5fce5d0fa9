//! A coordinator of one job: hands the job out and writes down what is reported.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use serde_json::{Value, json};

use super::eventually;

/// The token that the coordinator takes. Distinct enough to be found wherever it leaks.
pub(crate) const TOKEN: &str = "e2e-token-7f2c5d51-canary";

/// One state update as it came.
#[derive(Debug, Clone)]
pub(crate) struct Update {
    /// The last part of the path.
    pub(crate) state: String,
    pub(crate) body: Value,
}

#[derive(Debug)]
struct Shared {
    job: Mutex<Value>,
    requests: Mutex<Vec<String>>,
    updates: Mutex<Vec<Update>>,
    /// Updates whose first answer is lost: applied, then the connection is answered with a 502.
    lose_answer_of: Option<&'static str>,
    /// Instances of the executors that announced themselves, oldest first; none where attempts are not counted.
    attempts: Option<Mutex<Vec<String>>>,
}

/// A running coordinator; it ends with the test's runtime.
#[derive(Debug)]
pub(crate) struct Coordinator {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Coordinator {
    /// Serves `job` on a free port.
    pub(crate) async fn start(job: Value) -> Self {
        Self::start_with(job, None, None).await
    }

    /// The same, but the first answer to the update to `state` is lost after it was applied.
    pub(crate) async fn losing_the_answer_of(job: Value, state: &'static str) -> Self {
        Self::start_with(job, Some(state), None).await
    }

    /// The same, and it counts attempts: the reports of any but the last executor are refused.
    pub(crate) async fn counting_attempts(job: Value) -> Self {
        Self::start_with(job, None, Some(Mutex::default())).await
    }

    async fn start_with(
        job: Value,
        lose_answer_of: Option<&'static str>,
        attempts: Option<Mutex<Vec<String>>>,
    ) -> Self {
        let shared = Arc::new(Shared {
            job: Mutex::new(job),
            requests: Mutex::default(),
            updates: Mutex::default(),
            lose_answer_of,
            attempts,
        });
        let router = Router::new()
            .route("/services/cts", get(root))
            .route("/services/cts/", get(root))
            .route("/services/cts/whoami", get(whoami))
            .route("/services/cts/admin/jobs/{job}", get(admin_job))
            .route(
                "/services/cts/external_exec/jobs/{job}/container/{container}/update/{state}",
                put(update),
            )
            .route(
                "/services/cts/external_exec/jobs/{job}/container/{container}/attempts",
                post(attempt),
            )
            .route(
                "/services/cts/external_exec/jobs/{job}/container/{container}/attempts/{attempt}",
                put(attempt),
            )
            .fallback(unknown)
            .layer(axum::middleware::from_fn(authorize))
            .layer(axum::middleware::from_fn_with_state(
                Arc::clone(&shared),
                record,
            ))
            .with_state(Arc::clone(&shared));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, shared }
    }

    /// The service root that the executor is given.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/services/cts/", self.address)
    }

    /// What was asked so far, oldest first: methods and paths below the root.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Hands out another job from now on.
    pub(crate) fn set_job(&self, job: Value) {
        *self.shared.job.lock().unwrap() = job;
    }

    /// What was reported so far, oldest first.
    pub(crate) fn updates(&self) -> Vec<Update> {
        self.shared.updates.lock().unwrap().clone()
    }

    /// Waits until `state` is reported.
    pub(crate) async fn wait_for(&self, state: &str, deadline: Duration) {
        eventually(&format!("report of {state}"), deadline, async || {
            let states: Vec<String> = self.updates().into_iter().map(|u| u.state).collect();
            if states.iter().any(|seen| seen == state) {
                Ok(())
            } else {
                Err(states.join(", "))
            }
        })
        .await;
    }
}

async fn record(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: axum::middleware::Next,
) -> Response {
    let path = request.uri().path();
    let path = path.strip_prefix("/services/cts").unwrap_or(path);
    let line = format!("{} {path}", request.method());
    shared.requests.lock().unwrap().push(line);
    next.run(request).await
}

async fn authorize(headers: HeaderMap, request: Request, next: axum::middleware::Next) -> Response {
    let expected = format!("Bearer {TOKEN}");
    if headers
        .get(header::AUTHORIZATION)
        .is_some_and(|given| given == expected.as_str())
    {
        return next.run(request).await;
    }
    error(
        StatusCode::UNAUTHORIZED,
        10_020,
        "Invalid token",
        "KBase auth server reported token is invalid",
    )
}

async fn whoami() -> Response {
    axum::Json(json!({ "user": "executor", "roles": [], "allowed_paths": [] })).into_response()
}

async fn root(State(shared): State<Arc<Shared>>) -> Response {
    let capabilities: &[&str] = match &shared.attempts {
        Some(_) => &["attempts", "usage"],
        None => &[],
    };
    axum::Json(json!({
        "service_name": "CDM Task Service",
        "version": "0.1.0-prototype6",
        "git_hash": "e2e",
        "server_time": jiff::Timestamp::now().to_string(),
        "notes": "This is the coordinator of the end-to-end tests",
        "capabilities": capabilities,
    }))
    .into_response()
}

async fn admin_job(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let job = shared.job.lock().unwrap().clone();
    let id = job["id"].as_str().unwrap_or_default();
    if request.uri().path().ends_with(id) {
        axum::Json(job).into_response()
    } else {
        error(StatusCode::NOT_FOUND, 40_040, "No such job", "no such job")
    }
}

async fn update(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let state = request
        .uri()
        .path()
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .to_owned();
    let body: Bytes = axum::body::to_bytes(request.into_body(), 64 << 20)
        .await
        .unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    if let Some(attempts) = &shared.attempts
        && body["attempt"] != attempts.lock().unwrap().len()
    {
        return superseded();
    }
    let mut updates = shared.updates.lock().unwrap();
    if updates.last().is_some_and(|last| last.state == state) {
        // As the real service answers an update that was applied already.
        return error(
            StatusCode::NOT_FOUND,
            40_050,
            "No such subjob",
            "not in the state needed",
        );
    }
    updates.push(Update {
        state: state.clone(),
        body,
    });
    if shared.lose_answer_of == Some(state.as_str()) {
        return (StatusCode::BAD_GATEWAY, "<html>bad gateway</html>").into_response();
    }
    StatusCode::NO_CONTENT.into_response()
}

/// An executor begins, or is still at work.
async fn attempt(
    State(shared): State<Arc<Shared>>,
    axum::Json(notice): axum::Json<Value>,
) -> Response {
    let Some(attempts) = &shared.attempts else {
        return unknown().await;
    };
    let mut instances = attempts.lock().unwrap();
    let instance = notice["instance"].as_str().unwrap_or_default();
    let known = instances.iter().position(|known| known == instance);
    let index = known.unwrap_or_else(|| {
        instances.push(instance.to_owned());
        instances.len() - 1
    });
    if index + 1 != instances.len() {
        return superseded();
    }
    let state = &shared.job.lock().unwrap()["state"];
    axum::Json(json!({ "attempt": index + 1, "wanted": true, "job_state": state })).into_response()
}

fn superseded() -> Response {
    error(
        StatusCode::CONFLICT,
        50_200,
        "Attempt superseded",
        "another executor has taken over",
    )
}

async fn unknown() -> Response {
    error(StatusCode::NOT_FOUND, 40_000, "Not Found", "Not Found")
}

fn error(status: StatusCode, appcode: u32, apperror: &str, message: &str) -> Response {
    let body = json!({ "error": {
        "httpcode": status.as_u16(),
        "httpstatus": status.canonical_reason(),
        "appcode": appcode,
        "apperror": apperror,
        "message": message,
        "request_id": "e2e",
        "time": "2031-02-03T04:05:06.070809+00:00",
    }});
    (status, axum::Json(body)).into_response()
}
