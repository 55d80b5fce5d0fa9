//! The service from its parts: put together, running, and stopped in order. `serve` and `dev` differ in where
//! the parts come from.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use cts_net::http_server as server;
use cts_net::registry::RegistryOptions;
use cts_net::s3::S3Settings;
use cts_net::secret::SecretError;
use cts_net::tls::TlsError;
use cts_shared::site::Site;

use crate::app::App;
use crate::background::local_site_holder::{LAPSES_AFTER, LOCAL_SITE};
use crate::background::reconciler::Reconciler;
use crate::background::sender::{self, SEND_NOTIFICATIONS, Sender};
use crate::background::{
    cleaner, finisher, local_site_holder, refdata_stager, site_watcher, starter,
};
use crate::broker::{KafkaBroker, MessageBroker};
use crate::clock::SystemClock;
use crate::compute_site::ComputeSite;
use crate::compute_site::htcondor::HtcondorSite;
use crate::compute_site::local::{LocalSite, LocalSiteSettings};
use crate::condor::pool::Pool;
use crate::condor::reconcile::{Rules, longest_silence};
use crate::condor::start_up::StartUp;
use crate::condor::submit_description::SubmitSettings;
use crate::config::Config;
use crate::config::settings::{LocalSiteChoice, NotificationSettings};
use crate::data_dir::{DataDir, DataDirError};
use crate::exit::ExitStatus;
use crate::identity::{Identity, TokenFileError};
use crate::image_registry::{MeteredImageRegistry, OciImageRegistry};
use crate::job_store::{CountedJobStore, JobStore, StoreError};
use crate::lease_store::LeaseStore;
use crate::metrics::Metrics;
use crate::mongo::MongoStore;
use crate::object_store::{MeteredObjectStore, ObjectStore};
use crate::programs::find_executor;
use crate::readiness::Readiness;
use crate::refdata_stager::{LocalStager, LocalStagerSettings, RefdataStager, RefdataStagers};
use crate::role::Role;
use crate::sites::{SiteGate, SiteStatus, Sites};
use crate::sqlite::SqliteStore;
use crate::stores::{StoreSettings, Stores};
use crate::telemetry::LogLevel;
use crate::{jobs, router};

/// The executor's settings of how much reference data may be: it stages, so it reads and checks them.
const REFDATA_LIMITS: [&str; 4] = [
    "CTS_REFDATA_MAX_ENTRIES",
    "CTS_REFDATA_MAX_EXPANSION",
    "CTS_REFDATA_MAX_UNPACKED_GIB",
    "CTS_REFDATA_RESERVE_MIB",
];

/// Site events that may wait to be recorded.
const SITE_EVENTS: usize = 256;

/// What background work is under way may take to end: a store or a pool may not answer.
const BACKGROUND_STOPS_WITHIN: Duration = Duration::from_secs(10);

/// Why the service did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The port is taken, or not ours to take.
    #[error("cannot listen on {address}: {cause}; give another port (0 takes a free one)")]
    Listen {
        /// Address and port.
        address: SocketAddr,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Token file.
    #[error(transparent)]
    Tokens(#[from] TokenFileError),
    /// A secret file.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// TLS set-up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A setting names something that cannot be used.
    #[error("{0}")]
    Configuration(String),
    /// Something the service cannot do without.
    #[error("cannot {action}: {cause}")]
    Failed {
        /// What was tried.
        action: &'static str,
        /// What happened.
        cause: String,
    },
}

impl StartError {
    pub(crate) fn failed(action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |cause| Self::Failed {
            action,
            cause: cause.to_string(),
        }
    }

    /// How the process ends.
    #[must_use]
    pub fn exit_status(&self) -> ExitStatus {
        match self {
            Self::DataDir(DataDirError::Locked(_)) => ExitStatus::TryAgain,
            Self::Listen { cause, .. } if cause.kind() == std::io::ErrorKind::AddrInUse => {
                ExitStatus::TryAgain
            }
            Self::DataDir(DataDirError::Io { .. })
            | Self::Listen { .. }
            | Self::Tokens(_)
            | Self::Secret(_)
            | Self::Configuration(_) => ExitStatus::Configuration,
            Self::Tls(_) | Self::Store(_) | Self::Failed { .. } => ExitStatus::Failed,
        }
    }
}

/// A token that is cancelled at the first SIGINT or SIGTERM. A second one ends the process at once.
pub(crate) fn stop_on_signals() -> Result<CancellationToken, StartError> {
    let listen = |kind| signal(kind).map_err(StartError::failed("listen for signals"));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if first {
                stopping.cancel();
            }
        }
        tracing::warn!("second signal: stopping without waiting for anything");
        #[expect(clippy::exit, reason = "the user asked twice")]
        std::process::exit(130);
    });
    Ok(stop)
}

/// Runs a command on the async runtime.
pub(crate) fn block_on(
    command: impl Future<Output = Result<(), StartError>>,
) -> Result<(), StartError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(StartError::failed("start the async runtime"))?
        .block_on(command)
}

/// Opens the store.
pub(crate) async fn open_stores(
    settings: &StoreSettings,
    data_dir: &DataDir,
) -> Result<Stores, StartError> {
    match settings {
        StoreSettings::Sqlite => {
            let store = open_sqlite(data_dir).await?;
            tracing::info!(path = %data_dir.path().display(), "jobs are kept in a file");
            Ok(Stores::of(store))
        }
        StoreSettings::Mongo(settings) => {
            let store = MongoStore::open(settings).await?;
            tracing::info!(database = settings.database, "jobs are kept in MongoDB");
            Ok(Stores::of(store))
        }
    }
}

async fn open_sqlite(data_dir: &DataDir) -> Result<SqliteStore, StartError> {
    let path = data_dir.join("cts.sqlite");
    match tokio::task::spawn_blocking(move || SqliteStore::open(&path)).await {
        Ok(store) => {
            let store = store?;
            // The directory is this process's alone: whoever held them is gone.
            store.lapse_leases().await?;
            Ok(store)
        }
        Err(error) => Err(StartError::Failed {
            action: "open the database",
            cause: error.to_string(),
        }),
    }
}

/// Takes the port.
pub(crate) async fn listen(address: SocketAddr) -> Result<Listening, StartError> {
    let error = |cause| StartError::Listen { address, cause };
    let listener = TcpListener::bind(address).await.map_err(error)?;
    let address = listener.local_addr().map_err(error)?;
    Ok(Listening { listener, address })
}

/// A port that is ours.
#[derive(Debug)]
pub(crate) struct Listening {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listening {
    /// How programs on this machine reach the service: an address that means "all" is reached over the
    /// loopback.
    pub(crate) fn local_url(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        format!("http://{address}")
    }
}

/// What a service is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) data_dir: Arc<DataDir>,
    pub(crate) listening: Listening,
    pub(crate) server: server::Limits,
    pub(crate) stores: Stores,
    /// The service's name for others over the same store.
    pub(crate) service_name: String,
    /// Who is told of the jobs' transitions, if anyone.
    pub(crate) notifications: Option<NotificationSettings>,
    pub(crate) identity: Arc<dyn Identity>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) object_store: Arc<dyn ObjectStore>,
    pub(crate) plain_http_registries: BTreeSet<String>,
    pub(crate) config: Config,
    pub(crate) log_level: LogLevel,
    pub(crate) s3: S3Settings,
    /// File with the secret key of `s3`, for executors.
    pub(crate) s3_secret_path: PathBuf,
    /// The site `local`, if it is offered.
    pub(crate) local_site: Option<LocalSiteChoice>,
    /// The site `kbase`, or why it is not available.
    pub(crate) condor_site: Result<CondorSiteParts, String>,
}

/// What the site `kbase` is made of.
#[derive(Debug)]
pub(crate) struct CondorSiteParts {
    /// What must be there before it can be used.
    pub(crate) start_up: StartUp,
    /// What of that is missing, and what to do.
    pub(crate) missing: Option<String>,
    pub(crate) submit: SubmitSettings,
    pub(crate) pool: Arc<dyn Pool>,
    pub(crate) refdata: Arc<dyn RefdataStager>,
    pub(crate) reconcile_interval: Duration,
    pub(crate) max_releases: u32,
}

/// A service that answers.
#[derive(Debug)]
pub(crate) struct RunningService {
    /// How programs on this machine reach it.
    pub(crate) url: String,
    /// Why jobs do not run at the site `local`, if they do not.
    pub(crate) local_problem: Option<String>,
    local: Option<Arc<LocalSite>>,
    refdata_stagers: RefdataStagers,
    background: Vec<(&'static str, JoinHandle<()>)>,
    background_stop: CancellationToken,
    server: JoinHandle<()>,
    server_stop: CancellationToken,
    draining: CancellationToken,
    answers_stop: CancellationToken,
    /// Ours until everything has stopped.
    _data_dir: Arc<DataDir>,
}

impl RunningService {
    /// Puts the parts together, answers requests, and takes up the jobs of the last run.
    pub(crate) async fn start(parts: Parts) -> Self {
        let url = parts.listening.local_url();
        let (events, event_receiver) = mpsc::channel(SITE_EVENTS);
        let (due_jobs, due) = mpsc::unbounded_channel();
        let clock = Arc::new(SystemClock);
        let local_role = Role::new(
            Arc::clone(&parts.stores.leases),
            clock.clone(),
            LOCAL_SITE,
            LAPSES_AFTER,
        );
        let local_role = local_role.held_by(parts.service_name.clone());
        let local = match local_site_settings(&parts, &url) {
            Ok(settings) => take_local_site(&local_role).await.map(|()| settings),
            Err(problem) => Err(problem),
        };
        let local_stager = local
            .as_ref()
            .map(|settings| local_stager(settings, &parts.data_dir));
        let refdata_stagers = refdata_stagers(local_stager.ok(), parts.condor_site.as_ref().ok());
        let local = local.map(|settings| Arc::new(LocalSite::new(settings, events)));
        let metrics = parts.metrics;
        let registry = OciImageRegistry::new(RegistryOptions {
            plain_http_hosts: parts.plain_http_registries,
            ..RegistryOptions::default()
        });
        let jobs: Arc<dyn JobStore> = Arc::new(CountedJobStore::new(
            parts.stores.jobs,
            metrics.job_transitions(),
        ));
        let leases = parts.stores.leases;
        let condor = parts.condor_site.as_ref().map_err(String::clone);
        let condor = condor.map(|condor| {
            let site = HtcondorSite::new(
                condor.submit.clone(),
                Arc::clone(&condor.pool),
                Arc::clone(&jobs),
                Arc::clone(&leases),
                clock.clone(),
            );
            Arc::new(SiteGate::new(Arc::new(site), condor.missing.clone()))
        });
        let broker = parts.notifications.as_ref().map(|settings| {
            let broker = KafkaBroker::new(settings.kafka.clone(), metrics.dependency_calls());
            Arc::new(broker) as Arc<dyn MessageBroker>
        });
        let app = Arc::new(App {
            jobs,
            images: parts.stores.images,
            refdata: parts.stores.refdata,
            site_store: parts.stores.sites,
            outbox: parts.stores.outbox,
            leases: Arc::clone(&leases),
            broker,
            identity: parts.identity,
            sites: sites(&local, condor.as_ref().map_err(String::as_str)),
            refdata_stagers: refdata_stagers.clone(),
            object_store: Arc::new(MeteredObjectStore::new(
                parts.object_store,
                metrics.dependency_calls(),
            )),
            registry: Arc::new(MeteredImageRegistry::new(
                Arc::new(registry),
                metrics.dependency_calls(),
            )),
            clock,
            config: parts.config,
            metrics,
            readiness: Readiness::default(),
            due_jobs,
            followers: Arc::default(),
            draining: CancellationToken::new(),
            stopping: CancellationToken::new(),
        });

        let background_stop = CancellationToken::new();
        let watcher = site_watcher::run(Arc::clone(&app), event_receiver, background_stop.clone());
        let finisher = finisher::run(Arc::clone(&app), due, background_stop.clone());
        let mut background = vec![
            ("site watcher", tokio::spawn(watcher)),
            ("finisher", tokio::spawn(finisher)),
        ];
        match (parts.notifications, &app.broker) {
            (Some(settings), Some(broker)) => {
                let checked = Arc::clone(broker);
                // The service starts without Kafka too, but a wrong address should show at once.
                tokio::spawn(async move {
                    if let Err(error) = checked.check().await {
                        tracing::warn!(%error, "Kafka does not answer as it should; starting all the same");
                    }
                });
                let sender = sender(&app, Arc::clone(broker), &leases, &settings);
                background.push(("sender", tokio::spawn(sender.run(background_stop.clone()))));
            }
            _ => tracing::info!(
                "Kafka.bootstrap_servers is not set: messages about jobs wait in the store, unsent"
            ),
        }
        check_stagers(&refdata_stagers);
        if local.is_ok() {
            let holder = local_site_holder::run(local_role, background_stop.clone());
            background.push(("holder of site local", tokio::spawn(holder)));
        }
        if app.config.start_jobs {
            let starter = starter::run(Arc::clone(&app), background_stop.clone());
            let cleaner = cleaner::run(Arc::clone(&app), background_stop.clone());
            background.push(("starter", tokio::spawn(starter)));
            background.push(("cleaner", tokio::spawn(cleaner)));
            let stager = refdata_stager::run(Arc::clone(&app), background_stop.clone());
            background.push(("refdata stager", tokio::spawn(stager)));
        }
        if let (Ok(condor), Ok(gate)) = (parts.condor_site, condor) {
            let start_jobs = app.config.start_jobs;
            let reconciler = reconciler(Arc::clone(&app), leases, &condor);
            let stop = background_stop.clone();
            let look_after_jobs = async move {
                condor.start_up.open(&gate, &stop).await;
                if start_jobs && !stop.is_cancelled() {
                    reconciler.run(stop).await;
                }
            };
            background.push(("reconciler", tokio::spawn(look_after_jobs)));
        }
        let server_stop = CancellationToken::new();
        let address = parts.listening.address;
        let server = tokio::spawn(server::serve(
            parts.listening.listener,
            router::service(Arc::clone(&app)),
            parts.server,
            server_stop.clone(),
        ));
        tracing::info!(%address, "listening");

        if local.is_ok() && app.config.start_jobs {
            // After the server listens: executors that outlived the last run report at once.
            if let Err(error) = jobs::resume::resume_site(&app, Site::Local).await {
                tracing::error!(%error, "jobs of the last run are not taken up again");
            }
        }
        let (local, local_problem) = match local {
            Ok(site) => (Some(site), None),
            Err(problem) => (None, Some(problem)),
        };
        Self {
            url,
            local_problem,
            local,
            refdata_stagers,
            background,
            background_stop,
            server,
            server_stop,
            draining: app.draining.clone(),
            answers_stop: app.stopping.clone(),
            _data_dir: parts.data_dir,
        }
    }

    /// Waits until the server ends by itself, which it never should. Cancel safe.
    pub(crate) async fn ended(&mut self) -> StartError {
        let ended = (&mut self.server).await;
        StartError::Failed {
            action: "serve requests",
            cause: format!("the server ended: {ended:?}"),
        }
    }

    /// Stops executors, stagings, background work and requests, in this order.
    pub(crate) async fn stop(self) {
        tracing::info!("stopping: stagings and executors first, then requests in progress");
        self.draining.cancel();
        // Stagings are begun again by the next service, and must not be taken to have failed.
        for (_, stager) in self.refdata_stagers.iter() {
            stager.shut_down().await;
        }
        // The server still answers: executors report their end while they stop.
        if let Some(site) = &self.local {
            site.shut_down().await;
        }
        self.background_stop.cancel();
        let deadline = tokio::time::Instant::now() + BACKGROUND_STOPS_WITHIN;
        for (name, mut task) in self.background {
            match tokio::time::timeout_at(deadline, &mut task).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, name, "a background task failed"),
                Err(_elapsed) => {
                    tracing::warn!(name, "a background task does not end, and is cut off");
                    task.abort();
                }
            }
        }
        self.answers_stop.cancel();
        self.server_stop.cancel();
        if !self.server.is_finished()
            && let Err(error) = self.server.await
        {
            tracing::error!(%error, "the server failed");
        }
        tracing::info!("stopped");
    }
}

/// Looks for those that stage elsewhere. The service starts without them too, but a wrong address should show at
/// once.
fn check_stagers(stagers: &RefdataStagers) {
    for (site, stager) in stagers.iter().filter(|(_, stager)| stager.hands_over()) {
        let stager = Arc::clone(stager);
        tokio::spawn(async move {
            if let Err(error) = stager.check().await {
                tracing::warn!(%site, %error, "no reference data can be staged now; starting all the same");
            }
        });
    }
}

/// Makes sure that no other service over the same store has the site `local`; else says so.
async fn take_local_site(role: &Role) -> Result<(), String> {
    match role.take().await {
        Ok(true) => Ok(()),
        Ok(false) => Err(
            "another service over the same database has it; set LocalSite.enabled = false in all but one"
                .to_owned(),
        ),
        Err(error) => Err(error.to_string()),
    }
}

fn reconciler(app: Arc<App>, leases: Arc<dyn LeaseStore>, condor: &CondorSiteParts) -> Reconciler {
    let trying = Duration::from_secs(u64::from(condor.submit.job_update_timeout_min) * 60);
    let rules = Rules {
        max_releases: condor.max_releases,
        client_group: condor.submit.client_group.clone(),
        idle: condor.reconcile_interval,
        silence: longest_silence(trying, condor.submit.job_lease),
        lease: condor.submit.job_lease,
    };
    let pool = Arc::clone(&condor.pool);
    Reconciler::new(app, pool, leases, rules, condor.reconcile_interval)
}

fn sender(
    app: &App,
    broker: Arc<dyn MessageBroker>,
    leases: &Arc<dyn LeaseStore>,
    settings: &NotificationSettings,
) -> Sender {
    tracing::info!(
        servers = settings.kafka.servers.join(","),
        topic = settings.kafka.topic,
        "messages about jobs go to Kafka"
    );
    Sender {
        outbox: Arc::clone(&app.outbox),
        broker,
        role: Role::new(
            Arc::clone(leases),
            Arc::clone(&app.clock),
            SEND_NOTIFICATIONS,
            sender::LAPSES_AFTER,
        ),
        clock: Arc::clone(&app.clock),
        metrics: app.metrics.notifications(),
        adopt_after: settings.adopt_after,
    }
}

fn sites(local: &Result<Arc<LocalSite>, String>, condor: Result<&Arc<SiteGate>, &str>) -> Sites {
    let unavailable = |reason: &str| SiteStatus::Unavailable {
        reason: reason.to_owned(),
    };
    let local = match local {
        Ok(site) => SiteStatus::Available(Arc::clone(site) as Arc<dyn ComputeSite>),
        Err(reason) => unavailable(reason),
    };
    let condor = match condor {
        Ok(gate) => SiteStatus::Gated(Arc::clone(gate)),
        Err(reason) => unavailable(reason),
    };
    let no_nersc = "this service has no connection to NERSC";
    Sites::new([
        (Site::PerlmutterJaws, unavailable(no_nersc)),
        (Site::LawrenciumJaws, unavailable(no_nersc)),
        (Site::Kbase, condor),
        (Site::Local, local),
    ])
}

/// Stages where this machine's executors look for reference data.
fn local_stager(site: &LocalSiteSettings, data_dir: &DataDir) -> Arc<dyn RefdataStager> {
    Arc::new(LocalStager::new(LocalStagerSettings {
        executor: site.executor.clone(),
        root: site.refdata_host_path.clone(),
        log_dir: data_dir.join("staging"),
        s3_url: site.s3_url.clone(),
        s3_access_key: site.s3_access_key.clone(),
        s3_secret_path: site.s3_secret_path.clone(),
        s3_insecure: site.s3_insecure,
        log_level: site.log_level.clone(),
        limits: site.refdata_limits.clone(),
        path: site.path.clone(),
    }))
}

fn refdata_stagers(
    local: Option<Arc<dyn RefdataStager>>,
    condor: Option<&CondorSiteParts>,
) -> RefdataStagers {
    let condor = condor.map(|condor| (Site::Kbase, Arc::clone(&condor.refdata)));
    let local = local.map(|stager| (Site::Local, stager));
    RefdataStagers::new(condor.into_iter().chain(local))
}

/// What executors on this machine need to know, or why there are none.
fn local_site_settings(parts: &Parts, url: &str) -> Result<LocalSiteSettings, String> {
    let choice = parts
        .local_site
        .as_ref()
        .ok_or("this service runs no executors on its own machine")?;
    let executor = find_executor(choice.executor.as_deref())?;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(LocalSiteSettings {
        executor,
        jobs_dir: parts.data_dir.join("jobs"),
        max_executors: choice.max_executors.unwrap_or(cpus),
        service_root_url: url.to_owned(),
        token_path: choice.token_path.clone(),
        s3_url: parts.s3.url.as_str().trim_end_matches('/').to_owned(),
        s3_access_key: parts.s3.access_key.clone(),
        s3_secret_path: parts.s3_secret_path.clone(),
        s3_insecure: parts.s3.verify == cts_net::tls::Verify::Nothing,
        log_dir: parts.config.log_dir.clone(),
        // Never the workers' directory: whoever stages there keeps its listings elsewhere.
        refdata_host_path: parts.data_dir.join("refdata"),
        job_update_timeout_min: choice.job_update_timeout_min,
        log_level: parts.log_level.as_str().to_owned(),
        refdata_limits: REFDATA_LIMITS
            .into_iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?)))
            .collect(),
        path: std::env::var_os("PATH"),
        docker_host: choice.docker_host.clone(),
    })
}
