//! What a run works with in these tests: the double of the service, and a bed that puts all doubles
//! together, runs the executor and keeps what can be looked at afterwards.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use cts_executor::clock::{Clock, SimulatedClock, SteppedClock};
use cts_executor::condor::pool_view::PoolView;
use cts_executor::config::RunConfig;
use cts_executor::container_engine::ContainerEngine;
use cts_executor::container_engine::fake::{FakeEngine, Script};
use cts_executor::coordinator::Coordinator;
use cts_executor::coordinator::http::HttpCoordinator;
use cts_executor::exit::ExitStatus;
use cts_executor::failure::RunFailure;
use cts_executor::object_store::memory::MemoryStore;
use cts_executor::object_store::{ObjectChecksum, ObjectName, ObjectStore};
use cts_executor::progress_display::Display;
use cts_executor::run::{self, Parts};
use cts_executor::shutdown::Shutdown;
use cts_executor::transfer::TransferRuntime;
use cts_shared::crc64nvme::Crc64Nvme;
use serde_json::{Value, json};

use super::refdata::names;

/// No test of a run takes longer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// One request that the service got.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) auth: String,
    pub(crate) body: Option<Value>,
}

impl Call {
    /// `GET`, `announce`, `renew`, or the state that an update reports.
    pub(crate) fn short(&self) -> String {
        match self.method.as_str() {
            "POST" => "announce".to_owned(),
            "PUT" if self.path.contains("/attempts/") => "renew".to_owned(),
            "PUT" => self.path.rsplit('/').next().unwrap().to_owned(),
            method => method.to_owned(),
        }
    }
}

/// What the service answers to one call instead of success.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// A status with the service's error envelope.
    Error { status: u16, appcode: Option<u32> },
    /// A status with something that is not JSON.
    Html { status: u16 },
    /// The call has its effect, and the connection breaks before the answer.
    Lost,
    /// Nothing, for ever.
    Never,
    /// The call has its effect at once, its answer comes when the test calls [`Service::release`].
    Held,
}

#[derive(Debug)]
pub(crate) struct Service {
    job: Mutex<Value>,
    refdata: Mutex<Value>,
    /// By 1-based number of the call.
    answers: BTreeMap<usize, Answer>,
    calls: Mutex<Vec<Call>>,
    /// Answer repeated updates as the existing service does: 404.
    refuse_repeats: bool,
    /// Where it counts attempts.
    attempts: Option<Mutex<Attempts>>,
    released: tokio::sync::watch::Sender<bool>,
}

/// What the service knows about the executors of the container.
#[derive(Debug, Default)]
struct Attempts {
    /// Instances, oldest first; the last one is current.
    instances: Vec<String>,
    unwanted: bool,
    /// Renewals get no usable answer.
    away: bool,
    /// The routes are not known: the existing service has taken the other's place.
    forgotten: bool,
    /// What the answers say of an earlier attempt.
    publish_after_ms: Option<u64>,
}

impl Service {
    pub(crate) fn new(
        job: Value,
        answers: BTreeMap<usize, Answer>,
        refuse_repeats: bool,
    ) -> Arc<Self> {
        Arc::new(Self::with(job, answers, refuse_repeats, None))
    }

    /// A service that counts attempts and takes what containers used.
    pub(crate) fn counting_attempts(job: Value, answers: BTreeMap<usize, Answer>) -> Arc<Self> {
        Arc::new(Self::with(job, answers, false, Some(Mutex::default())))
    }

    fn with(
        job: Value,
        answers: BTreeMap<usize, Answer>,
        refuse_repeats: bool,
        attempts: Option<Mutex<Attempts>>,
    ) -> Self {
        Self {
            job: Mutex::new(job),
            refdata: Mutex::default(),
            answers,
            calls: Mutex::default(),
            refuse_repeats,
            attempts,
            released: tokio::sync::watch::Sender::new(false),
        }
    }

    fn attempts(&self) -> std::sync::MutexGuard<'_, Attempts> {
        self.attempts.as_ref().unwrap().lock().unwrap()
    }

    /// Another executor has announced itself.
    pub(crate) fn supersede(&self) {
        self.attempts().instances.push("another".to_owned());
    }

    /// The container is not wanted any more.
    pub(crate) fn no_longer_want(&self) {
        self.attempts().unwanted = true;
    }

    /// An earlier attempt may publish for that long, by every answer.
    pub(crate) fn has_a_predecessor_for(&self, time: Duration) {
        self.attempts().publish_after_ms = u64::try_from(time.as_millis()).ok();
    }

    /// Whether renewals get an answer.
    pub(crate) fn set_away(&self, away: bool) {
        self.attempts().away = away;
    }

    /// The existing service takes this one's place.
    pub(crate) fn forget_attempts(&self) {
        self.attempts().forgotten = true;
    }

    /// Answers the calls that are held.
    pub(crate) fn release(&self) {
        self.released.send_replace(true);
    }

    /// All calls, each in a word.
    pub(crate) fn short_calls(&self) -> Vec<String> {
        self.calls().iter().map(Call::short).collect()
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// The states reported, in order.
    pub(crate) fn reported(&self) -> Vec<String> {
        self.calls()
            .iter()
            .filter(|call| call.path.contains("/update/"))
            .map(Call::short)
            .collect()
    }

    /// What it says of reference data, whichever is asked for.
    pub(crate) fn set_refdata(&self, document: Value) {
        *self.refdata.lock().unwrap() = document;
    }

    pub(crate) fn set_job_state(&self, state: &str) {
        self.job.lock().unwrap()["state"] = state.into();
    }

    /// Serves on a free port of this machine until the runtime ends.
    async fn listen(self: &Arc<Self>) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(Arc::clone(self));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        format!("http://{address}/services/cts/")
    }
}

fn error(status: u16, appcode: Option<u32>) -> Response {
    let mut error = json!({
        "httpcode": status, "httpstatus": "x", "time": "2031-01-01T00:00:00.000000+00:00",
        "request_id": "r", "message": "as the test wants it",
    });
    if let Some(code) = appcode {
        error["appcode"] = code.into();
        error["apperror"] = "x".into();
    }
    let body = json!({ "error": error }).to_string();
    let json = (header::CONTENT_TYPE, "application/json");
    (StatusCode::from_u16(status).unwrap(), [json], body).into_response()
}

async fn answer(
    State(service): State<Arc<Service>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let call = Call {
        method: method.to_string(),
        path: uri.path().to_owned(),
        auth: headers
            .get(header::AUTHORIZATION)
            .map(|value| value.to_str().unwrap().to_owned())
            .unwrap_or_default(),
        body: (!body.is_empty()).then(|| serde_json::from_slice(&body).unwrap()),
    };
    let (planned, answer) = {
        // Whoever sees a call finds its effect, too.
        let mut calls = service.calls.lock().unwrap();
        let taken = |earlier: &Call| earlier.method == "PUT" && earlier.path == call.path;
        let repeated = calls.iter().any(taken);
        calls.push(call.clone());
        let planned = service.answers.get(&calls.len());
        let answer = match planned {
            Some(Answer::Error { status, appcode }) => error(*status, *appcode),
            Some(Answer::Html { status }) => {
                (StatusCode::from_u16(*status).unwrap(), "<html>not json").into_response()
            }
            // A success status whose body is cut: for the client the answer never came.
            Some(Answer::Lost) => {
                let _lost = carry_out(&service, &call, repeated);
                let json = (header::CONTENT_TYPE, "application/json");
                (StatusCode::OK, [json], "{\"cut").into_response()
            }
            // Never sent.
            Some(Answer::Never) => StatusCode::REQUEST_TIMEOUT.into_response(),
            Some(Answer::Held) | None => carry_out(&service, &call, repeated),
        };
        (planned, answer)
    };
    match planned {
        Some(Answer::Never) => std::future::pending().await,
        Some(Answer::Held) => {
            let mut released = service.released.subscribe();
            let _ = released.wait_for(|now| *now).await;
        }
        _ => {}
    }
    answer
}

/// What a call does, and its answer.
fn carry_out(service: &Service, call: &Call, repeated: bool) -> Response {
    if call.path.contains("/attempts") {
        return answer_attempt(service, call);
    }
    if let Some(attempts) = &service.attempts
        && call.path.contains("/update/")
        && let Some(body) = &call.body
        && !attempts.lock().unwrap().forgotten
        && body["attempt"] != attempts.lock().unwrap().instances.len()
    {
        return error(409, Some(50200));
    }
    if call.method == "PUT" {
        if repeated && service.refuse_repeats {
            return error(404, Some(40050));
        }
        return StatusCode::NO_CONTENT.into_response();
    }
    if call.path.contains("/refdata/id/") {
        let refdata = service.refdata.lock().unwrap().to_string();
        return ([(header::CONTENT_TYPE, "application/json")], refdata).into_response();
    }
    if call.path.contains("/admin/jobs/") && call.path.contains("/container/") {
        // The existing service shows containers to administrators only.
        return error(403, Some(20000));
    }
    let body = if call.path.contains("/admin/jobs/") {
        service.job.lock().unwrap().to_string()
    } else {
        let mut root = json!({
            "service_name": "CDM Task Service", "version": "0.1.0", "git_hash": "abc",
            "server_time": "2031-01-01T00:00:00Z", "notes": "",
        });
        if service.attempts.is_some() {
            root["capabilities"] = json!(["idempotent_updates", "attempts", "usage"]);
        }
        root.to_string()
    };
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// `POST .../attempts` and `PUT .../attempts/{attempt}`.
fn answer_attempt(service: &Service, call: &Call) -> Response {
    let mut attempts = service.attempts();
    if attempts.forgotten {
        return error(404, Some(40000));
    }
    if attempts.away && call.method == "PUT" {
        return (StatusCode::BAD_GATEWAY, "<html>not json").into_response();
    }
    let instance = call.body.as_ref().unwrap()["instance"].as_str().unwrap();
    let known = attempts
        .instances
        .iter()
        .position(|known| known == instance);
    let attempt = match known {
        Some(index) => index + 1,
        None if call.method == "POST" => {
            attempts.instances.push(instance.to_owned());
            attempts.instances.len()
        }
        None => return error(409, Some(50200)),
    };
    if attempt != attempts.instances.len() {
        return error(409, Some(50200));
    }
    let state = service.job.lock().unwrap()["state"].clone();
    let body = json!({
        "attempt": attempt,
        "wanted": !attempts.unwanted,
        "job_state": state,
        "publish_after_ms": attempts.publish_after_ms,
    });
    let json = (header::CONTENT_TYPE, "application/json");
    ([json], body.to_string()).into_response()
}

/// The job of `executor_calls.jsonl` and of most tests.
pub(crate) const JOB_ID: &str = "b9faffb2-453a-4ebe-9bba-1b96636cb3b1";

/// A job document with the given parameters and input files (all of them empty objects).
pub(crate) fn job(
    params: &Value,
    input_files: &[&str],
    num_containers: u64,
    output_dir: &str,
) -> Value {
    let files: Vec<Value> = input_files
        .iter()
        .map(|file| json!({ "file": file, "crc64nvme": "AAAAAAAAAAA=" }))
        .collect();
    json!({
        "id": JOB_ID, "state": "download_submitted", "user": "alice", "admin_meta": {},
        "transition_times": [
            { "state": "created", "time": "2031-01-01T00:00:00Z", "trans_id": "a", "notif_sent": true },
            { "state": "download_submitted", "time": "2031-01-01T00:00:00Z", "trans_id": "b",
              "notif_sent": true },
        ],
        "job_input": {
            "cluster": "kbase", "image": "x", "params": params, "num_containers": num_containers,
            "cpus": 1, "memory": 10_000_000, "runtime": "PT1M",
            "output_dir": format!("{output_dir}/"), "input_files": files,
        },
        "image": {
            "registered_by": "adm", "registered_on": "2031-01-01T00:00:00Z",
            "name": "docker.io/library/x", "digest": "sha256:aa", "entrypoint": ["e"],
        },
        "input_file_count": files.len(), "cleaned": false,
    })
}

/// Everything a run needs, and everything it left.
pub(crate) struct Bed {
    pub(crate) service: Arc<Service>,
    pub(crate) engine: FakeEngine,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) clock: Arc<SimulatedClock>,
    /// Where the test moves the time: used instead of `clock`.
    pub(crate) stepped: Option<Arc<SteppedClock>>,
    pub(crate) shutdown: Shutdown,
    pub(crate) pool: PoolView,
    pub(crate) directory: tempfile::TempDir,
    variables: BTreeMap<&'static str, String>,
}

impl Bed {
    pub(crate) async fn new(service: Arc<Service>, script: Script) -> Self {
        cts_net::tls::install_provider();
        let root = service.listen().await;
        let variables = BTreeMap::from([
            ("JOB_ID", JOB_ID.to_owned()),
            ("CONTAINER_NUMBER", "0".to_owned()),
            ("SERVICE_ROOT_URL", root),
            ("TOKEN", "tok".to_owned()),
            ("S3_URL", "http://127.0.0.1:1".to_owned()),
            ("S3_ACCESS_KEY", "ak".to_owned()),
            ("S3_SECRET", "sk".to_owned()),
            ("S3_ERROR_LOG_PATH", format!("logs/cts/{JOB_ID}")),
            ("REFDATA_HOST_PATH", "/refroot".to_owned()),
            ("JOB_UPDATE_TIMEOUT_MIN", "360".to_owned()),
        ]);
        Self {
            service,
            engine: FakeEngine::new(script),
            store: Arc::new(MemoryStore::with_buckets(&["buk", "logs"])),
            clock: Arc::new(SimulatedClock::default()),
            stepped: None,
            shutdown: Shutdown::default(),
            pool: PoolView::default(),
            directory: tempfile::tempdir().unwrap(),
            variables,
        }
    }

    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.variables.insert(name, value.into());
    }

    /// Puts an object with its checksum into the store.
    pub(crate) fn put(&self, path: &str, body: &[u8]) {
        let (bucket, key) = path.split_once('/').unwrap();
        let checksum = ObjectChecksum::FullObject(Crc64Nvme::of(body));
        self.store
            .insert(&ObjectName::new(bucket, key), body.to_vec(), checksum);
    }

    /// An object's content.
    pub(crate) fn get(&self, path: &str) -> Option<Vec<u8>> {
        let (bucket, key) = path.split_once('/').unwrap();
        self.store
            .object(&ObjectName::new(bucket, key))
            .map(|bytes| bytes.to_vec())
    }

    /// Paths of all objects below a prefix.
    pub(crate) fn objects(&self, prefix: &str) -> Vec<String> {
        let mut paths: Vec<String> = self
            .store
            .objects()
            .iter()
            .map(|name| format!("{}/{}", name.bucket, name.key))
            .filter(|path| path.starts_with(prefix))
            .collect();
        paths.sort();
        paths
    }

    /// Runs the executor to its end.
    pub(crate) async fn run(&self) -> ExitStatus {
        let store: Arc<dyn ObjectStore> = Arc::<MemoryStore>::clone(&self.store);
        self.run_over(Box::new(move || Ok(Arc::clone(&store))))
            .await
    }

    pub(crate) async fn run_over(
        &self,
        open_store: Box<dyn Fn() -> Result<Arc<dyn ObjectStore>, RunFailure> + Send + Sync>,
    ) -> ExitStatus {
        let config = self.config();
        let clock: Arc<dyn Clock> = match &self.stepped {
            Some(stepped) => Arc::<SteppedClock>::clone(stepped),
            None => Arc::<SimulatedClock>::clone(&self.clock),
        };
        let parts = Parts {
            coordinator: self.coordinator(),
            connect_engine: {
                let engine = self.engine.clone();
                Box::new(move || {
                    let engine: Arc<dyn ContainerEngine> = Arc::new(engine.clone());
                    Box::pin(async move { Ok(engine) })
                })
            },
            registry: None,
            open_store,
            clock,
            guardian: None,
            transfers: TransferRuntime::start().unwrap(),
            display: Display::none(),
            pool: self.pool.clone(),
            directory: self.path(),
        };
        tokio::time::timeout(DEADLINE, run::run(&config, &parts, &self.shutdown))
            .await
            .expect("the run does not end")
    }

    fn config(&self) -> RunConfig {
        RunConfig::read(&|name| self.variables.get(name).cloned()).unwrap()
    }

    /// What asks the service.
    pub(crate) fn coordinator(&self) -> Arc<dyn Coordinator> {
        let config = self.config();
        let coordinator =
            HttpCoordinator::new(config.service, config.token, config.job, config.container)
                .unwrap()
                .with_observer(self.pool.observe_service());
        Arc::new(coordinator)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().canonicalize().unwrap()
    }

    /// What must hold after every run, however it ended.
    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(self.engine.containers(), [], "a container is left");
        assert_eq!(
            self.store.open_uploads(),
            0,
            "a multipart upload is left open"
        );
        let input = self.path().join("__input__");
        let begun = Instant::now();
        // A run ends although a file system takes its time; what it began to remove it does remove.
        let is_partial = |name: &String| name.starts_with(".cts-partial-");
        while input.is_dir() && names(&input).iter().any(is_partial) {
            assert!(begun.elapsed() < DEADLINE, "{:?} is left", names(&input));
            std::thread::yield_now();
        }
        for stream in ["out", "err"] {
            let log = self
                .path()
                .join(format!("cts-{JOB_ID}-{}-container.{stream}", self.number()));
            assert!(
                log.is_file(),
                "{} is missing: HTCondor would hold the job",
                log.display()
            );
        }
    }

    fn number(&self) -> &str {
        &self.variables["CONTAINER_NUMBER"]
    }
}

/// Polls `happened` until it is so.
pub(crate) async fn eventually(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !happened() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{what} never happened"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
