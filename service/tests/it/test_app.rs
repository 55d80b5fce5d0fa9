//! Builds a service for one test and talks to it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt;
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::{Map, Value, json};
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower::util::BoxCloneService;

use cts_service::app::App;
use cts_service::background::finisher::finish_pending_jobs;
use cts_service::clock::Clock;
use cts_service::compute_site::{CleanError, ComputeSite, SiteError};
use cts_service::config::{Cleaning, Config, RequestLimits, WorkerFiles};
use cts_service::error::Error;
use cts_service::identity::{Role, TokenFile, User};
use cts_service::image_registry::{FixedImageRegistry, MeteredImageRegistry, RegistryImage};
use cts_service::job_store::CountedJobStore;
use cts_service::metrics::Metrics;
use cts_service::object_store::{MemoryObjectStore, MeteredObjectStore};
use cts_service::readiness::Readiness;
use cts_service::refdata_stager::RefdataStagers;
use cts_service::router;
use cts_service::sites::{SiteStatus, Sites};
use cts_service::sqlite::SqliteStore;
use cts_shared::error_code::ErrorCode;
use cts_shared::id::{ContainerNumber, JobId};
use cts_shared::job_input::JobInput;
use cts_shared::site::Site;
use cts_shared::timestamp::UtcTime;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::description;
use crate::pool_app::eventually;
use crate::stager_double::StagerDouble;

pub(crate) const CRC: &str = "6YwqZlRfOM4=";
pub(crate) const OUTPUT_CRC: &str = "akP7S61aVgc=";
pub(crate) const DIGEST: &str =
    "sha256:ab3bdf804cd7252cefc91cd726c1892b9510acc53c0f246916869f299298b895";

/// A clock that moves a millisecond each time it is read.
#[derive(Debug)]
pub(crate) struct TestClock(AtomicI64);

impl TestClock {
    pub(crate) fn advance(&self, time: Duration) {
        let micros = i64::try_from(time.as_micros()).unwrap();
        self.0.fetch_add(micros, Ordering::SeqCst);
    }

    /// Microseconds it has come to, without moving it.
    pub(crate) fn peek(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Clock for TestClock {
    fn now(&self) -> UtcTime {
        let micros = self.0.fetch_add(1000, Ordering::SeqCst);
        UtcTime::new(Timestamp::from_microsecond(micros).unwrap())
    }
}

/// A site that only remembers what it was asked.
#[derive(Debug, Default)]
pub(crate) struct RecordingSite {
    started: Mutex<Vec<(JobId, Vec<ContainerNumber>)>>,
    cancelled: Mutex<Vec<JobId>>,
    cleaned: Mutex<Vec<(JobId, Vec<ContainerNumber>)>>,
    something_started: Notify,
}

impl RecordingSite {
    /// Waits until the job was handed over.
    pub(crate) async fn wait_for(&self, job: &str) -> Vec<ContainerNumber> {
        loop {
            let changed = self.something_started.notified();
            if let Some((_, containers)) = self
                .started
                .lock()
                .await
                .iter()
                .find(|(id, _)| id.to_string() == job)
            {
                return containers.clone();
            }
            changed.await;
        }
    }

    pub(crate) async fn cleaned(&self) -> Vec<(String, Vec<ContainerNumber>)> {
        let cleaned = self.cleaned.lock().await;
        cleaned
            .iter()
            .map(|(id, containers)| (id.to_string(), containers.clone()))
            .collect()
    }

    pub(crate) async fn cancelled(&self) -> Vec<String> {
        let cancelled = self.cancelled.lock().await;
        cancelled.iter().map(ToString::to_string).collect()
    }
}

impl ComputeSite for RecordingSite {
    fn check(&self, _user: &User, _job_input: &JobInput) -> Result<(), Error> {
        Ok(())
    }

    fn start(
        &self,
        job: JobId,
        containers: Vec<ContainerNumber>,
    ) -> BoxFuture<'_, Result<(), SiteError>> {
        async move {
            self.started.lock().await.push((job, containers));
            self.something_started.notify_waiters();
            Ok(())
        }
        .boxed()
    }

    fn cancel(&self, job: JobId) -> BoxFuture<'_, Result<(), SiteError>> {
        async move {
            self.cancelled.lock().await.push(job);
            Ok(())
        }
        .boxed()
    }

    fn runner_status(
        &self,
        _job: JobId,
        _container: ContainerNumber,
    ) -> BoxFuture<'_, Result<Map<String, Value>, Error>> {
        let refusal = Error::refused(ErrorCode::UnsupportedOperation, "no batch system");
        futures::future::ready(Err(refusal)).boxed()
    }

    fn clean(
        &self,
        job: JobId,
        containers: Vec<ContainerNumber>,
    ) -> BoxFuture<'_, Result<(), CleanError>> {
        async move {
            self.cleaned.lock().await.push((job, containers));
            Ok(())
        }
        .boxed()
    }

    fn shut_down(&self) -> BoxFuture<'_, ()> {
        futures::future::ready(()).boxed()
    }
}

pub(crate) struct TestApp {
    pub(crate) app: Arc<App>,
    /// Made once: making it builds the API's description, too.
    service: std::sync::Mutex<BoxCloneService<Request, Response, Infallible>>,
    pub(crate) objects: Arc<MemoryObjectStore>,
    pub(crate) site: Arc<RecordingSite>,
    /// Of the site `local`.
    pub(crate) stager: Arc<StagerDouble>,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) store: SqliteStore,
    directory: tempfile::TempDir,
    config: Config,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
    pub(crate) bytes: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self
    }

    /// Asserts the application code, null for none.
    #[track_caller]
    pub(crate) fn expect_error(self, status: u16, appcode: impl Into<Value>) -> Self {
        let answer = self.expect(status);
        let appcode: Value = appcode.into();
        assert_eq!(
            answer.json()["error"]["appcode"],
            appcode,
            "{}",
            answer.text
        );
        answer
    }

    pub(crate) fn message(&self) -> String {
        self.json()["error"]["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

impl TestApp {
    pub(crate) fn new() -> Self {
        Self::with_config(|_| {})
    }

    pub(crate) fn with_allowed_paths(allowed_paths: &[&str]) -> Self {
        Self::with_config(|config| {
            config.allowed_paths = allowed_paths
                .iter()
                .map(|path| path.parse().unwrap())
                .collect();
        })
    }

    pub(crate) fn with_config(configure: impl FnOnce(&mut Config)) -> Self {
        Self::with(|app| configure(&mut app.config))
    }

    /// A service of which parts or settings are others.
    pub(crate) fn with(customise: impl FnOnce(&mut App)) -> Self {
        Self::with_sites(&[Site::Local], customise)
    }

    /// All sites take jobs, of any size.
    pub(crate) fn with_every_site() -> Self {
        Self::with_sites(&Site::ALL, |app| app.config.max_cpu_hours = f64::INFINITY)
    }

    /// A service whose parts depend on its store.
    pub(crate) fn with_store(customise: impl FnOnce(&mut App, &SqliteStore)) -> Self {
        Self::fresh(&[Site::Local], customise)
    }

    fn with_sites(available: &[Site], customise: impl FnOnce(&mut App)) -> Self {
        Self::fresh(available, |app, _store| customise(app))
    }

    fn fresh(available: &[Site], customise: impl FnOnce(&mut App, &SqliteStore)) -> Self {
        let objects = Arc::new(MemoryObjectStore::default());
        objects.insert("cts/io/in/a.txt", "a", Some(CRC));
        Self::build(tempfile::tempdir().unwrap(), objects, available, customise)
    }

    fn build(
        directory: tempfile::TempDir,
        objects: Arc<MemoryObjectStore>,
        available: &[Site],
        customise: impl FnOnce(&mut App, &SqliteStore),
    ) -> Self {
        let store = SqliteStore::open(&directory.path().join("cts.sqlite")).unwrap();
        Self::over(store, directory, objects, available, customise)
    }

    fn over(
        store: SqliteStore,
        directory: tempfile::TempDir,
        objects: Arc<MemoryObjectStore>,
        available: &[Site],
        customise: impl FnOnce(&mut App, &SqliteStore),
    ) -> Self {
        let site = Arc::new(RecordingSite::default());
        let stager = Arc::new(StagerDouble::default());
        let kbase = SiteStatus::Unavailable {
            reason: "no pool is configured".to_owned(),
        };
        let available = available.iter().map(|available| {
            let site = Arc::clone(&site) as Arc<dyn ComputeSite>;
            (*available, SiteStatus::Available(site))
        });
        // 2031-02-03T04:05:06Z
        let clock = Arc::new(TestClock(AtomicI64::new(1_927_857_906_000_000)));
        let metrics = Arc::new(Metrics::new());
        let mut app = App {
            jobs: Arc::new(CountedJobStore::new(
                Arc::new(store.clone()),
                metrics.job_transitions(),
            )),
            images: Arc::new(store.clone()),
            refdata: Arc::new(store.clone()),
            site_store: Arc::new(store.clone()),
            outbox: Arc::new(store.clone()),
            leases: Arc::new(store.clone()),
            broker: None,
            identity: Arc::new(users()),
            sites: Sites::new(std::iter::once((Site::Kbase, kbase)).chain(available)),
            refdata_stagers: RefdataStagers::new([(Site::Local, Arc::clone(&stager) as _)]),
            object_store: Arc::new(MeteredObjectStore::new(
                Arc::clone(&objects) as _,
                metrics.dependency_calls(),
            )),
            registry: Arc::new(MeteredImageRegistry::new(
                Arc::new(registry()),
                metrics.dependency_calls(),
            )),
            clock: Arc::clone(&clock) as _,
            config: Config {
                allowed_paths: Vec::new(),
                log_dir: "cts/logs".parse().unwrap(),
                max_cpu_hours: 100.0,
                worker_files: WorkerFiles::default(),
                start_jobs: true,
                cleaning: Cleaning::default(),
                request_limits: RequestLimits::default(),
                root_path: None,
                cors_origins: Vec::new(),
            },
            metrics,
            readiness: Readiness::default(),
            // No finisher runs: tests call it when they want it.
            due_jobs: tokio::sync::mpsc::unbounded_channel().0,
            followers: Arc::default(),
            draining: CancellationToken::new(),
            stopping: CancellationToken::new(),
        };
        customise(&mut app, &store);
        let config = app.config.clone();
        let app = Arc::new(app);
        Self {
            service: BoxCloneService::new(router::service(Arc::clone(&app))).into(),
            app,
            objects,
            site,
            stager,
            clock,
            store,
            directory,
            config,
        }
    }

    /// The same data directory under a new service.
    pub(crate) fn restart(self) -> Self {
        self.restart_with(|_| {})
    }

    /// The same, with other parts or settings.
    pub(crate) fn restart_with(self, customise: impl FnOnce(&mut App)) -> Self {
        let Self {
            app,
            objects,
            store,
            directory,
            config,
            ..
        } = self;
        drop((app, store));
        Self::build(directory, objects, &[Site::Local], |app, _store| {
            app.config = config;
            customise(app);
        })
    }

    /// Another service over the same store.
    pub(crate) fn beside(&self, customise: impl FnOnce(&mut App)) -> Self {
        let store = SqliteStore::open(&self.directory.path().join("cts.sqlite")).unwrap();
        let objects = Arc::clone(&self.objects);
        let directory = tempfile::tempdir().unwrap();
        Self::over(store, directory, objects, &[Site::Local], |app, _store| {
            customise(app);
        })
    }

    /// Sends a request whose answer does not end by itself.
    pub(crate) async fn open(&self, user: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = Request::builder()
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {user}-token"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.respond(request.body(Body::empty()).unwrap()).await
    }

    /// The head of the answer has come, its body may not.
    pub(crate) async fn respond(&self, request: Request) -> Response {
        self.respond_as_described(request).await.0
    }

    /// The answer, and what its body must be by the API's description.
    async fn respond_as_described(&self, request: Request) -> (Response, description::Body) {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let service = self.service.lock().unwrap().clone();
        let response = service.oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let described = description::described_body(&method, &path, &head)
            .unwrap_or_else(|fault| panic!("{method} {path}: {}: {fault}", head.status));
        (Response::from_parts(head, body), described)
    }

    pub(crate) async fn send(&self, request: Request) -> Answer {
        let place = format!("{} {}", request.method(), request.uri());
        let (response, described) = self.respond_as_described(request).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        if let Err(fault) = described.check(&parts, &bytes) {
            panic!("{place}: {}: {fault}", parts.status);
        }
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8_lossy(&bytes).into_owned(),
            bytes,
        }
    }

    /// Sends as a user (`alice`, `bob`, `admin`, `half_admin`, `executor`, `refdata`), or nobody if
    /// empty. Any other name is that of an invalid token.
    pub(crate) async fn call(
        &self,
        user: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        self.send(request(user, method, path, body)).await
    }

    pub(crate) async fn get(&self, user: &str, path: &str) -> Answer {
        self.call(user, "GET", path, None).await
    }

    pub(crate) async fn register_image(&self) {
        self.call(
            "admin",
            "POST",
            "/admin/images/reg.example.org/kbase/sh:1",
            None,
        )
        .await
        .expect(200);
    }

    /// Submits a job of alice's with that many containers and waits until its site has it.
    pub(crate) async fn submit(&self, containers: u32) -> String {
        self.submit_job(self.job_input(containers)).await
    }

    /// A job of that many containers, each with a stored input of its own.
    pub(crate) fn job_input(&self, containers: u32) -> Value {
        let files: Vec<String> = (0..containers)
            .map(|number| {
                let file = format!("cts/io/in/{number}.txt");
                self.objects.insert(&file, "x", Some(CRC));
                file
            })
            .collect();
        let mut job = job_input();
        job["num_containers"] = json!(containers);
        job["input_files"] = json!(files);
        job
    }

    pub(crate) async fn submit_job(&self, job: Value) -> String {
        let answer = self
            .call("alice", "POST", "/jobs", Some(job))
            .await
            .expect(200);
        let id = answer.json()["job_id"].as_str().unwrap().to_owned();
        self.site.wait_for(&id).await;
        id
    }

    /// Registers an object that is made for it; the id. Its staging goes as [`Self::stager`] plans.
    pub(crate) async fn register_refdata(&self, file: &str) -> String {
        self.objects.insert(file, "refdata", Some(CRC));
        let path = format!("/admin/refdata/{file}");
        let answer = self.call("admin", "POST", &path, None).await.expect(200);
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// What administrators see of reference data at its first site.
    pub(crate) async fn refdata_status(&self, id: &str) -> Value {
        let path = format!("/admin/refdata/{id}");
        let answer = self.get("admin", &path).await.expect(200);
        answer.json()["statuses"][0].clone()
    }

    /// Waits until reference data is in a state at its first site.
    pub(crate) async fn wait_for_refdata(&self, id: &str, state: &str) -> Value {
        eventually(&format!("reference data {id} is {state}"), async || {
            self.refdata_status(id).await["state"] == state
        })
        .await;
        self.refdata_status(id).await
    }

    pub(crate) async fn update(
        &self,
        job: &str,
        container: u32,
        state: &str,
        body: Value,
    ) -> Answer {
        let path = format!("/external_exec/jobs/{job}/container/{container}/update/{state}");
        self.call("executor", "PUT", &path, Some(body)).await
    }

    pub(crate) async fn state(&self, job: &str) -> String {
        let answer = self
            .get("alice", &format!("/jobs/{job}/status"))
            .await
            .expect(200);
        answer.json()["state"].as_str().unwrap().to_owned()
    }

    /// What the finisher does when it is woken.
    pub(crate) async fn finish_jobs(&self) {
        finish_pending_jobs(&self.app).await.unwrap();
    }
}

/// A request of a user (see [`TestApp::call`]).
pub(crate) fn request(user: &str, method: &str, path: &str, body: Option<Value>) -> Request {
    let mut request = Request::builder().method(method).uri(path);
    if !user.is_empty() {
        request = request.header(header::AUTHORIZATION, format!("Bearer {user}-token"));
    }
    let body = match body {
        Some(body) => {
            request = request.header(header::CONTENT_TYPE, "application/json");
            Body::from(body.to_string())
        }
        None => Body::empty(),
    };
    request.body(body).unwrap()
}

pub(crate) fn job_input() -> Value {
    json!({
        "cluster": "local",
        "image": "reg.example.org/kbase/sh:1",
        "params": {"args": ["noop"]},
        "output_dir": "cts/io/out",
        "input_files": ["cts/io/in/a.txt"],
    })
}

pub(crate) fn user(name: &str, roles: &[Role]) -> (SecretString, User) {
    (
        SecretString::from(format!("{name}-token")),
        User {
            name: name.to_owned(),
            roles: roles.iter().copied().collect::<BTreeSet<_>>(),
        },
    )
}

fn users() -> TokenFile {
    let admin = [Role::FullAdmin, Role::KbaseStaff, Role::NerscAccount];
    TokenFile::from_users([
        user("alice", &[Role::KbaseStaff]),
        user("bob", &[]),
        user("admin", &admin),
        user("half_admin", &[Role::FullAdmin]),
        user("executor", &[Role::ExternalExecutor]),
        user("refdata", &[Role::RefdataService]),
    ])
}

fn registry() -> FixedImageRegistry {
    let image = |digest: &str, entrypoint: &[&str]| RegistryImage {
        digest: digest.to_owned(),
        entrypoint: entrypoint.iter().map(|&part| part.to_owned()).collect(),
    };
    let other = format!("sha256:{}", "b".repeat(64));
    let sh = ["/bin/busybox", "sh", "/entry.sh"];
    FixedImageRegistry::new([
        ("reg.example.org/kbase/sh:1".to_owned(), image(DIGEST, &sh)),
        (
            format!("reg.example.org/kbase/sh@{DIGEST}"),
            image(DIGEST, &sh),
        ),
        (
            "reg.example.org/kbase/sh:same".to_owned(),
            image(DIGEST, &sh),
        ),
        ("reg.example.org/kbase/sh:2".to_owned(), image(&other, &sh)),
        (
            "reg.example.org/kbase/none:1".to_owned(),
            image(DIGEST, &[]),
        ),
    ])
}
