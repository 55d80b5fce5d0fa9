//! The server put together, started and stopped.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cts_net::http_server::{self, Limits};
use cts_net::tls::TlsError;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::area::{DiskArea, StagingArea};
use super::auth::Authenticator;
use super::config::RefdataServerConfig;
use super::routes::{Api, router};
use super::service::RefdataService;
use super::stagings::{Stagings, StagingsSettings};
use crate::clock::{Clock, SystemClock};
use crate::commands::complain;
use crate::config::Lookup;
use crate::exit::ExitStatus;
use crate::object_store::{ObjectName, ObjectStore, StoreErrorKind};
use crate::refdata::{MetadataAmongTrees, RefdataStore, check_directories};
use crate::run::stage::open_store;
use crate::shutdown::Shutdown;
use crate::transfer::{TransferEngine, TransferOptions, TransferRuntime};

/// Longest time that stagings may take to clean up when the server stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest time that what the server depends on may take to answer when it is looked at.
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(
        "{0}, Refdata.local_path, is not there: is the file system mounted? This server makes no such directory"
    )]
    NoRoot(PathBuf),
    #[error("cannot write to {path}, {setting}: {cause}; let this user write to it")]
    Directory {
        setting: &'static str,
        path: PathBuf,
        cause: io::Error,
    },
    #[error(
        "cannot listen on {address}: {cause}; stop what uses it, or set another KBCTS_PORT or KBCTS_HOST"
    )]
    Listen {
        address: SocketAddr,
        cause: io::Error,
    },
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    #[error("cannot start the threads of the transfer engine: {0}; raise the limit of processes")]
    Threads(io::Error),
    #[error("cannot use the object store's settings: {0}")]
    Store(String),
    #[error("cannot take up what an earlier server left: {0}")]
    TakeUp(String),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("Refdata.metadata_path: {0}")]
    Metadata(#[from] MetadataAmongTrees),
}

impl StartError {
    const fn status(&self) -> ExitStatus {
        match self {
            Self::NoRoot(_)
            | Self::Directory { .. }
            | Self::Listen { .. }
            | Self::Store(_)
            | Self::Metadata(_) => ExitStatus::Configuration,
            Self::Signals(_) | Self::Threads(_) | Self::TakeUp(_) | Self::Tls(_) => {
                ExitStatus::Failed
            }
        }
    }
}

/// `cts-executor refdata-server`.
pub async fn refdata_server(environment: Lookup<'_>) -> ExitStatus {
    let config = match RefdataServerConfig::read(environment) {
        Ok(config) => config,
        Err(errors) => {
            errors.iter().for_each(complain);
            return ExitStatus::Configuration;
        }
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        commit = cts_build_info::GIT_HASH,
        "cts-executor refdata-server"
    );
    for (name, value) in &config.description {
        tracing::info!("{name}: {value}");
    }
    for name in &config.unknown {
        tracing::warn!("the configuration's {name} is no setting of this server, it is ignored");
    }
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    match run(config).await {
        Ok(()) => ExitStatus::Done,
        Err(error) => {
            complain(&error);
            error.status()
        }
    }
}

/// Serves until a signal comes.
async fn run(config: RefdataServerConfig) -> Result<(), StartError> {
    let shutdown = Shutdown::listen().map_err(StartError::Signals)?;
    check_directories(&config.root, &config.metadata)?;
    check_usable(&config.root, &config.metadata)?;
    let store = open_store(&config.s3)
        .map_err(|failure| StartError::Store(failure.failure.message().to_owned()))?;
    let threads = TransferRuntime::start().map_err(StartError::Threads)?;
    let area = DiskArea {
        store: RefdataStore::new(config.root, config.metadata.clone(), config.limits),
        engine: TransferEngine::new(Arc::clone(&store), TransferOptions::default(), &threads),
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let users = Arc::new(Authenticator::new(config.auth2, config.roles)?);
    let parts = Parts {
        users: Arc::clone(&users),
        stagings: StagingsSettings {
            area: Arc::new(area) as Arc<dyn StagingArea>,
            service: RefdataService::new(config.service, config.token)?,
            metadata: config.metadata,
            concurrency: config.concurrency,
            clock,
        },
    };
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|cause| StartError::Listen {
            address: config.listen,
            cause,
        })?;
    let server = RunningServer::start(parts, listener)
        .await
        .map_err(StartError::TakeUp)?;
    tracing::info!("listening on {}", server.address());
    // Beside the work: the server starts without them.
    let checks =
        tokio::spawn(async move { tokio::join!(check_store(&*store), check_users(&users)) });
    shutdown.token().cancelled().await;
    tracing::info!("told to stop: what is not finished begins again at the next start");
    checks.abort();
    server.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// What a server is made of.
#[derive(Debug)]
pub struct Parts {
    /// Who is who.
    pub users: Arc<Authenticator>,
    /// What is asked for.
    pub stagings: StagingsSettings,
}

/// A server at work.
#[derive(Debug)]
pub struct RunningServer {
    address: Option<SocketAddr>,
    stagings: Stagings,
    stop: CancellationToken,
    connections: JoinHandle<()>,
}

impl RunningServer {
    /// Takes up what an earlier server left, and serves.
    ///
    /// # Errors
    /// When the notes of the earlier server cannot be listed.
    pub async fn start(parts: Parts, listener: TcpListener) -> Result<Self, String> {
        let clock = Arc::clone(&parts.stagings.clock);
        let stagings = Stagings::new(parts.stagings);
        stagings.take_up().await?;
        let service = router(Api {
            users: parts.users,
            stagings: stagings.clone(),
            clock,
        });
        let stop = CancellationToken::new();
        let address = listener.local_addr().ok();
        let connections = tokio::spawn(http_server::serve(
            listener,
            service,
            Limits::default(),
            stop.clone(),
        ));
        Ok(Self {
            address,
            stagings,
            stop,
            connections,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> String {
        self.address
            .map_or_else(|| "an unknown address".to_owned(), |it| it.to_string())
    }

    /// Breaks all stagings off, answers what was asked, closes all connections.
    pub async fn stop(self) {
        self.stop.cancel();
        let connections = async {
            if let Err(error) = self.connections.await {
                tracing::error!(%error, "the HTTP server failed");
            }
        };
        tokio::join!(self.stagings.stop(STOP_TIMEOUT), connections);
    }
}

/// Makes the directory of the metadata unless it is there, and writes a file to each that is gone at once. The
/// root is never made: it would be the mount point of a file system that is not mounted.
fn check_usable(root: &Path, metadata: &Path) -> Result<(), StartError> {
    if matches!(root.try_exists(), Ok(false)) {
        return Err(StartError::NoRoot(root.to_owned()));
    }
    let failed = |setting, path: &Path| {
        let path = path.to_owned();
        move |cause| StartError::Directory {
            setting,
            path,
            cause,
        }
    };
    probe(root).map_err(failed("Refdata.local_path", root))?;
    std::fs::create_dir_all(metadata)
        .and_then(|()| probe(metadata))
        .map_err(failed("Refdata.metadata_path", metadata))
}

fn probe(directory: &Path) -> io::Result<()> {
    tempfile::NamedTempFile::with_prefix_in(".writable-", directory)?.close()
}

/// Asks for an object that is not there: an answer of "no such object" proves address and keys.
async fn check_store(store: &dyn ObjectStore) {
    let probe = ObjectName::new("cts-refdata-server-probe", "probe");
    let answer = timeout(CHECK_TIMEOUT, store.head(&probe)).await;
    match answer {
        Ok(Ok(_)) => {}
        Ok(Err(error))
            if matches!(
                error.kind(),
                StoreErrorKind::NotFound | StoreErrorKind::BucketMissing
            ) => {}
        // Keys that may see some buckets only are told so for one that is not theirs.
        Ok(Err(error)) if error.kind() == StoreErrorKind::AccessDenied => {}
        Ok(Err(error)) => tracing::warn!(%error, "the object store does not answer as it should"),
        Err(_elapsed) => tracing::warn!("the object store does not answer; check S3.url"),
    }
}

async fn check_users(users: &Authenticator) {
    if let Err(error) = users.check().await {
        tracing::warn!(%error, "KBase auth2 does not answer as it should");
    }
}
