//! `cts-service dev`: everything on one machine, out of one directory.
//!
//! ```text
//! DATA_DIR/
//!   lock             held while the service runs
//!   cts.sqlite       jobs and images
//!   tokens.toml      users and tokens, mode 0600
//!   tokens/<user>    each user's token alone, mode 0600
//!   s3_secret        secret key of the S3 server, mode 0600
//!   s3/              objects; s3.ports, s3.pid and s3.log belong to its server
//!   jobs/<job>/<n>/  working directory of each executor
//! ```

use std::collections::BTreeSet;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::ServiceExt;
use axum::extract::Request;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use cts_net::registry::RegistryOptions;
use cts_net::s3::S3Settings;
use cts_net::secret::SecretSource;
use cts_net::tls::Verify;
use cts_shared::s3_path::Bucket;
use cts_shared::site::Site;

use crate::app::App;
use crate::background::{finisher, site_watcher};
use crate::cli::DevArgs;
use crate::clock::SystemClock;
use crate::compute_site::local::{LocalSite, LocalSiteSettings};
use crate::compute_site::{ComputeSite, SiteEvents};
use crate::config::{Config, WorkerFiles};
use crate::identity::TokenFile;
use crate::image_registry::OciImageRegistry;
use crate::object_store::{ObjectStore, S3ObjectStore};
use crate::sites::{SiteStatus, Sites};
use crate::sqlite::SqliteStore;
use crate::{jobs, router};

mod programs;
mod summary;
mod weed;

use programs::find_executor;
use weed::Weed;

/// Access key of the S3 server that `dev` starts.
const S3_ACCESS_KEY: &str = "cts";

/// Site events that may wait to be recorded.
const SITE_EVENTS: usize = 256;

/// How long requests in progress may take to end when the service stops.
const DRAIN: Duration = Duration::from_secs(10);

/// Why the service did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// Another service works in the directory.
    #[error(
        "another cts-service uses the directory {0}; stop it, or give another one with --data-dir"
    )]
    Locked(PathBuf),
    /// The file system says no.
    #[error("cannot {action} {path}: {cause}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The port is taken, or not ours to take.
    #[error(
        "cannot listen on {address}: {cause}; give another port with --port (0 takes a free one)"
    )]
    Listen {
        /// Address and port.
        address: SocketAddr,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Token file.
    #[error(transparent)]
    Tokens(#[from] crate::identity::TokenFileError),
    /// A secret file.
    #[error(transparent)]
    Secret(#[from] cts_net::secret::SecretError),
    /// TLS set-up.
    #[error(transparent)]
    Tls(#[from] cts_net::tls::TlsError),
    /// The database.
    #[error(transparent)]
    Store(#[from] crate::job_store::StoreError),
    /// The S3 store.
    #[error("cannot make sure that bucket {bucket} exists in the S3 store {url}: {cause}")]
    ObjectStore {
        /// Its address.
        url: String,
        /// The bucket of the log directory.
        bucket: Bucket,
        /// What happened.
        cause: crate::object_store::ObjectStoreError,
    },
    /// The S3 server.
    #[error("{0}")]
    Weed(#[from] weed::WeedError),
    /// Something that should not happen.
    #[error("cannot {action}: {cause}")]
    Unexpected {
        /// What was tried.
        action: &'static str,
        /// What happened.
        cause: String,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> DevError {
    let path = path.to_owned();
    move |cause| DevError::Io {
        action,
        path,
        cause,
    }
}

fn unexpected(action: &'static str) -> impl FnOnce(std::io::Error) -> DevError {
    move |cause| DevError::Unexpected {
        action,
        cause: cause.to_string(),
    }
}

/// Runs the service until SIGINT or SIGTERM.
///
/// # Errors
/// When it cannot start, or a part it cannot do without has failed.
pub fn run(args: DevArgs) -> Result<(), DevError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(unexpected("start the async runtime"))?
        .block_on(run_async(args))
}

async fn run_async(args: DevArgs) -> Result<(), DevError> {
    let stop = stop_on_signals()?;
    let data_dir = prepare_data_dir(&args.data_dir)?;
    let _lock = lock(&data_dir)?;
    let identity = TokenFile::open_or_create(&data_dir.join("tokens.toml"))?;
    identity.write_single_tokens(&data_dir.join("tokens"))?;
    let address = SocketAddr::new(args.bind, args.port);
    let listener = TcpListener::bind(address)
        .await
        .map_err(|cause| DevError::Listen { address, cause })?;
    let local_address = listener
        .local_addr()
        .map_err(|cause| DevError::Listen { address, cause })?;
    let store_path = data_dir.join("cts.sqlite");
    let store = tokio::task::spawn_blocking(move || SqliteStore::open(&store_path))
        .await
        .map_err(|error| DevError::Unexpected {
            action: "open the database",
            cause: error.to_string(),
        })??;

    let mut s3 = start_s3(&args, &data_dir, &stop).await?;
    let outcome = serve(ServeParts {
        args: &args,
        data_dir: &data_dir,
        identity,
        listener,
        local_address,
        store,
        s3: &mut s3,
        stop,
    })
    .await;
    if let Some(weed) = s3.weed {
        weed.stop().await;
    }
    outcome
}

struct ServeParts<'a> {
    args: &'a DevArgs,
    data_dir: &'a Path,
    identity: TokenFile,
    listener: TcpListener,
    local_address: SocketAddr,
    store: SqliteStore,
    s3: &'a mut S3,
    stop: CancellationToken,
}

async fn serve(parts: ServeParts<'_>) -> Result<(), DevError> {
    let ServeParts {
        args,
        data_dir,
        identity,
        listener,
        local_address,
        store,
        s3,
        stop,
    } = parts;
    let object_store = S3ObjectStore::new(&s3.settings)?;
    if let Some(bucket) = log_bucket(args)
        && let Err(cause) = object_store.ensure_bucket(&bucket).await
    {
        return Err(DevError::ObjectStore {
            url: s3.settings.url.to_string(),
            bucket,
            cause,
        });
    }

    let (events, event_receiver) = mpsc::channel(SITE_EVENTS);
    let root_url = executors_root_url(local_address);
    let local = local_site(args, data_dir, &root_url, s3, events);
    let app = Arc::new(App {
        jobs: Arc::new(store.clone()),
        images: Arc::new(store.clone()),
        site_store: Arc::new(store.clone()),
        outbox: Arc::new(store),
        identity: Arc::new(identity),
        sites: sites(&local),
        object_store: Arc::new(object_store),
        registry: Arc::new(OciImageRegistry::new(RegistryOptions {
            plain_http_hosts: args
                .plain_http_registry
                .iter()
                .cloned()
                .collect::<BTreeSet<_>>(),
            ..RegistryOptions::default()
        })),
        clock: Arc::new(SystemClock),
        config: Config {
            allowed_paths: args.allowed_s3_path.clone(),
            log_dir: args.log_dir.clone(),
            max_cpu_hours: args.max_cpu_hours,
            worker_files: WorkerFiles::default(),
        },
        job_pending: Notify::new(),
    });

    let background_stop = CancellationToken::new();
    let watcher = tokio::spawn(site_watcher::run(
        Arc::clone(&app),
        event_receiver,
        background_stop.clone(),
    ));
    let finisher = tokio::spawn(finisher::run(Arc::clone(&app), background_stop.clone()));
    let server_stop = CancellationToken::new();
    let service = router::service(Arc::clone(&app));
    let server = axum::serve(
        listener,
        ServiceExt::<Request>::into_make_service_with_connect_info::<SocketAddr>(service),
    )
    .with_graceful_shutdown(server_stop.clone().cancelled_owned());
    let mut server = tokio::spawn(server.into_future());

    if local.is_ok() {
        // After the server listens: executors that outlived the last run report at once.
        if let Err(error) = jobs::resume::resume_site(&app, Site::Local).await {
            tracing::error!(%error, "jobs of the last run are not taken up again");
        }
    }
    summary::print(&summary::Summary {
        url: &root_url,
        data_dir,
        s3_url: s3.settings.url.as_str(),
        s3_access_key: &s3.settings.access_key,
        s3_secret_path: &s3.secret_path,
        bucket: log_bucket(args).as_ref().map(Bucket::as_str),
        local_problem: local.as_ref().err().map(String::as_str),
    });

    let outcome = tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = &mut server => Err(DevError::Unexpected {
            action: "serve requests",
            cause: format!("the server ended: {ended:?}"),
        }),
        error = weed_end(s3.weed.as_mut()) => Err(error.into()),
    };

    tracing::info!("stopping: executors first, then requests in progress");
    // The server still answers: executors report their end while they stop.
    if let Ok(site) = &local {
        site.shut_down().await;
    }
    background_stop.cancel();
    for (name, task) in [("site watcher", watcher), ("finisher", finisher)] {
        if let Err(error) = task.await {
            tracing::error!(%error, name, "a background task failed");
        }
    }
    server_stop.cancel();
    if tokio::time::timeout(DRAIN, server).await.is_err() {
        tracing::warn!("requests in progress were cut off");
    }
    outcome
}

fn log_bucket(args: &DevArgs) -> Option<Bucket> {
    let bucket = args.log_dir.as_str().split('/').next()?;
    Bucket::parse(bucket).ok()
}

async fn weed_end(weed: Option<&mut Weed>) -> weed::WeedError {
    match weed {
        Some(weed) => weed.ended().await,
        None => std::future::pending().await,
    }
}

fn sites(local: &Result<Arc<LocalSite>, String>) -> Sites {
    let unavailable = |reason: &str| SiteStatus::Unavailable {
        reason: reason.to_owned(),
    };
    let local = match local {
        Ok(site) => SiteStatus::Available(Arc::clone(site) as Arc<dyn ComputeSite>),
        Err(reason) => unavailable(reason),
    };
    Sites::new([
        (
            Site::PerlmutterJaws,
            unavailable("this service has no connection to NERSC"),
        ),
        (
            Site::LawrenciumJaws,
            unavailable("this service has no connection to NERSC"),
        ),
        (
            Site::Kbase,
            unavailable("no HTCondor pool is configured; this service runs jobs on site local"),
        ),
        (Site::Local, local),
    ])
}

/// The site, or why there is none.
fn local_site(
    args: &DevArgs,
    data_dir: &Path,
    root_url: &str,
    s3: &S3,
    events: SiteEvents,
) -> Result<Arc<LocalSite>, String> {
    let executor = find_executor(args.executor.as_deref())?;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let settings = LocalSiteSettings {
        executor,
        jobs_dir: data_dir.join("jobs"),
        max_executors: args.max_executors.map_or(cpus, usize::from),
        service_root_url: root_url.to_owned(),
        token_path: data_dir.join("tokens").join("executor"),
        s3_url: s3.settings.url.as_str().trim_end_matches('/').to_owned(),
        s3_access_key: s3.settings.access_key.clone(),
        s3_secret_path: s3.secret_path.clone(),
        s3_insecure: args.s3_insecure,
        log_dir: args.log_dir.clone(),
        refdata_host_path: data_dir.join("refdata"),
        job_update_timeout_min: args.job_update_timeout_min,
        log_level: args.log_level.as_str().to_owned(),
        path: std::env::var_os("PATH"),
        docker_host: args.docker_host.clone(),
    };
    Ok(Arc::new(LocalSite::new(settings, events)))
}

/// Executors run on this machine: an address that means "all" is reached over the loopback.
fn executors_root_url(address: SocketAddr) -> String {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{address}")
}

struct S3 {
    settings: S3Settings,
    secret_path: PathBuf,
    weed: Option<Weed>,
}

async fn start_s3(
    args: &DevArgs,
    data_dir: &Path,
    stop: &CancellationToken,
) -> Result<S3, DevError> {
    if let (Some(url), Some(access_key), Some(secret_file)) =
        (&args.s3_url, &args.s3_access_key, &args.s3_secret_file)
    {
        let secret_path = std::path::absolute(secret_file)
            .map_err(io_error("find the secret file", secret_file))?;
        return Ok(S3 {
            settings: S3Settings {
                url: url.clone(),
                access_key: access_key.clone(),
                secret: Arc::new(SecretSource::from_file(&secret_path)?),
                verify: if args.s3_insecure {
                    Verify::Nothing
                } else {
                    Verify::Certificates
                },
            },
            secret_path,
            weed: None,
        });
    }
    let secret_path = data_dir.join("s3_secret");
    let weed = Weed::start(
        args.weed.as_deref(),
        data_dir,
        S3_ACCESS_KEY,
        &secret_path,
        stop,
    )
    .await?;
    Ok(S3 {
        settings: weed.settings().clone(),
        secret_path,
        weed: Some(weed),
    })
}

fn prepare_data_dir(data_dir: &Path) -> Result<PathBuf, DevError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        // It holds tokens and a secret.
        .mode(0o700)
        .create(data_dir)
        .map_err(io_error("make the data directory", data_dir))?;
    data_dir
        .canonicalize()
        .map_err(io_error("find the data directory", data_dir))
}

/// Takes the directory for this process; the kernel gives it back however the process ends.
fn lock(data_dir: &Path) -> Result<File, DevError> {
    let path = data_dir.join("lock");
    let file = File::create(&path).map_err(io_error("create", &path))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(DevError::Locked(data_dir.to_owned())),
        Err(errno) => Err(io_error("lock", &path)(errno.into())),
    }
}

/// A token that is cancelled at the first SIGINT or SIGTERM. A second one ends the process at once.
fn stop_on_signals() -> Result<CancellationToken, DevError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unexpected("listen for SIGINT"))?;
    let mut terminate =
        signal(SignalKind::terminate()).map_err(unexpected("listen for SIGTERM"))?;
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
