//! A staging server with all its doubles, and requests to it.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use cts_executor::clock::{Clock, SimulatedClock, SystemClock};
use cts_executor::refdata_server::{
    Authenticator, Parts, RefdataService, Roles, RunningServer, StagingArea, StagingsSettings,
};
use cts_net::secret::{Secret, SecretSource};
use reqwest::Method;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::area::FakeArea;
use crate::auth2::{self, Auth2};
use crate::service::{self, Service};

/// Longest wait for something that has to happen.
const PATIENCE: Duration = Duration::from_secs(120);

/// CRC64NVME of `123456789`, as it is registered.
pub(crate) const CHECKSUM: &str = "rosUhgp5mIg=";

pub(crate) struct Bed {
    pub(crate) auth2: Auth2,
    pub(crate) service: Service,
    pub(crate) area: Arc<FakeArea>,
    pub(crate) metadata: tempfile::TempDir,
    concurrency: usize,
    clock: Arc<dyn Clock>,
    server: Option<RunningServer>,
    client: reqwest::Client,
}

/// An answer of the server.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    /// `null` if there is none, or it is no JSON.
    pub(crate) body: Value,
}

impl Answer {
    /// Checks status and application code; gives the error.
    #[track_caller]
    pub(crate) fn expect_error(&self, status: u16, appcode: Option<u32>) -> &Value {
        let error = &self.body["error"];
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(error["httpcode"], status, "{self:?}");
        assert_eq!(error["appcode"], Value::from(appcode), "{self:?}");
        assert!(error["request_id"].is_string(), "{self:?}");
        error
    }
}

impl Bed {
    pub(crate) async fn start() -> Self {
        Self::with_concurrency(2).await
    }

    pub(crate) async fn with_concurrency(concurrency: usize) -> Self {
        let mut bed = Self::without_server(concurrency).await;
        bed.start_server().await;
        bed
    }

    pub(crate) async fn without_server(concurrency: usize) -> Self {
        cts_net::tls::install_provider();
        Self {
            auth2: Auth2::start().await,
            service: Service::start().await,
            area: Arc::default(),
            metadata: tempfile::tempdir().unwrap(),
            concurrency,
            clock: Arc::new(SystemClock::default()),
            server: None,
            // Redirects are looked at, not followed.
            client: reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .unwrap(),
        }
    }

    /// Hours of waiting pass in a moment from the next start on.
    pub(crate) fn simulate_time(&mut self) -> Arc<SimulatedClock> {
        let clock = Arc::new(SimulatedClock::default());
        self.clock = Arc::<SimulatedClock>::clone(&clock);
        clock
    }

    /// The time of the next start on.
    pub(crate) fn set_clock(&mut self, clock: Arc<dyn Clock>) {
        self.clock = clock;
    }

    pub(crate) async fn start_server(&mut self) {
        let roles = Roles {
            full_admin: BTreeSet::from(["CTS_ADMIN".to_owned()]),
            service: "CDM_TASK_SERVICE_SERVER".to_owned(),
        };
        let token = SecretSource::from_value(Secret::from(service::TOKEN));
        let parts = Parts {
            users: Arc::new(Authenticator::new(self.auth2.url.parse().unwrap(), roles).unwrap()),
            stagings: StagingsSettings {
                area: Arc::<FakeArea>::clone(&self.area) as Arc<dyn StagingArea>,
                service: RefdataService::new(self.service.url.parse().unwrap(), Arc::new(token))
                    .unwrap(),
                metadata: self.metadata.path().to_owned(),
                concurrency: NonZeroUsize::new(self.concurrency).unwrap(),
                clock: Arc::clone(&self.clock),
            },
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.server = Some(RunningServer::start(parts, listener).await.unwrap());
    }

    pub(crate) async fn stop_server(&mut self) {
        let server = self.server.take().unwrap();
        tokio::time::timeout(PATIENCE, server.stop()).await.unwrap();
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.as_ref().unwrap().address())
    }

    /// A request with a token, or without one if it is empty.
    pub(crate) async fn call(&self, token: &str, method: Method, path: &str) -> Answer {
        let header = match token {
            "" => String::new(),
            token => format!("Bearer {token}"),
        };
        self.call_with(&header, method, path).await
    }

    /// A request with such an `Authorization` header.
    pub(crate) async fn call_with(&self, header: &str, method: Method, path: &str) -> Answer {
        let request = self
            .client
            .request(method, self.url(path))
            .header("authorization", header)
            .timeout(PATIENCE);
        let response = request.send().await.unwrap();
        Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default(),
        }
    }

    pub(crate) async fn get(&self, token: &str, path: &str) -> Answer {
        self.call(token, Method::GET, path).await
    }

    /// Registers an archive at the service.
    pub(crate) fn register(&self, id: &str) {
        let file = format!("refdata/{id}.tar.gz");
        self.service.register(id, &file, CHECKSUM, true);
    }

    /// The service asks for an item at `kbase`.
    pub(crate) async fn ask(&self, id: &str) -> Answer {
        let path = format!("/refdata/{id}/kbase");
        self.call(auth2::SERVICE, Method::POST, &path).await
    }

    pub(crate) fn note_path(&self, id: &str) -> std::path::PathBuf {
        self.metadata.path().join(id).join("staging.json")
    }

    /// Waits until the service has an item in a state and the server has forgotten it.
    #[track_caller]
    pub(crate) fn settled(
        &self,
        id: &'static str,
        state: &'static str,
    ) -> impl Future<Output = ()> {
        eventually(state, move || {
            self.service.state(id) == state && !self.note_path(id).exists()
        })
    }
}

/// Waits until something is so.
pub(crate) async fn eventually(what: &str, so: impl Fn() -> bool) {
    let waiting = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_elapsed| panic!("never: {what}"));
}
