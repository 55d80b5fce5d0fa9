//! The commands `run`, `plan` and `reap`, put together from the parts; `local`, `doctor` and `guard` have
//! files of their own.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cts_net::registry::{Credentials, RegistryOptions};
use cts_net::tls::TlsError;
use cts_shared::wire::job::AdminJob;

use crate::cli::{JobArguments, PlanArguments, PlanFormat, ReapArguments};
use crate::clock::SystemClock;
use crate::condor::pool_view::PoolView;
use crate::config::{self, Lookup, RunConfig};
use crate::container_engine::ContainerEngine;
use crate::container_engine::docker::{self, DEFAULT_HOST, DockerEngine, DockerOptions};
use crate::coordinator::http::HttpCoordinator;
use crate::exit::ExitStatus;
use crate::guardian::GuardianProgram;
use crate::orphans::process_mark::{Judgement, Machine};
use crate::orphans::{self, Finding};
use crate::plan::{self, ContainerPlan, WorkerFacts};
use crate::progress_display::Display;
use crate::registry_logins;
use crate::run::{self, ConnectEngine, Parts, stage};
use crate::shutdown::Shutdown;
use crate::telemetry::Screen;
use crate::transfer::TransferRuntime;
use crate::workdir::Workdir;

/// A job document has at most this many bytes; 10,000 files with the longest names need 15 MB.
const MAX_JOB_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// One line on standard error, for what must be readable without a log reader.
pub(crate) fn complain(message: impl std::fmt::Display) {
    // Nothing is left to do if standard error is gone.
    let _unwritable = writeln!(std::io::stderr(), "cts-executor: {message}");
}

/// `cts-executor run`.
pub async fn run(lookup: Lookup<'_>, screen: Screen) -> ExitStatus {
    let config = match RunConfig::read(lookup) {
        Ok(config) => config,
        Err(errors) => {
            keep_log_files(lookup);
            errors.iter().for_each(complain);
            return ExitStatus::Configuration;
        }
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        commit = cts_build_info::GIT_HASH,
        "cts-executor"
    );
    for (name, value) in config.describe() {
        tracing::info!("{name}: {value}");
    }
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    match parts(&config, lookup, screen) {
        Ok((parts, shutdown)) => {
            let status = run::run(&config, &parts, &shutdown).await;
            parts.pool.end().await;
            status
        }
        Err(error) => {
            complain(error);
            ExitStatus::Failed
        }
    }
}

/// `HTCondor` holds a job whose declared output files are missing, and that would hide what is wrong
/// with the settings.
fn keep_log_files(lookup: Lookup<'_>) {
    if let (Some((job, container)), Ok(directory)) =
        (config::which_container(lookup), std::env::current_dir())
        && let Err(error) = Workdir::open(directory, job, container)
    {
        complain(error);
    }
}

/// Why nothing can begin.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("cannot listen for signals: {0}")]
    Signals(std::io::Error),
    #[error("cannot start the threads of the transfer engine: {0}; raise the limit of processes")]
    Threads(std::io::Error),
    #[error("cannot tell the working directory: {0}; start in a directory that exists")]
    Directory(std::io::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

fn parts(
    config: &RunConfig,
    lookup: Lookup<'_>,
    screen: Screen,
) -> Result<(Parts, Shutdown), StartError> {
    let directory = std::env::current_dir().map_err(StartError::Directory)?;
    let pool = PoolView::start(lookup, &directory);
    let shutdown = Shutdown::listen().map_err(StartError::Signals)?;
    let coordinator = HttpCoordinator::new(
        config.service.clone(),
        Arc::clone(&config.token),
        config.job,
        config.container,
    )?
    .with_observer(pool.observe_service());
    let s3 = config.s3.clone();
    let logins = registry_logins::load(config.docker_config.as_deref());
    let parts = Parts {
        coordinator: Arc::new(coordinator),
        connect_engine: connect_engine(config.docker_host.clone(), logins.clone()),
        registry: Some(RegistryOptions {
            plain_http_hosts: config.plain_http_registries.iter().cloned().collect(),
            credentials: logins,
        }),
        open_store: Box::new(move || stage::open_store(&s3)),
        guardian: Some(GuardianProgram {
            // Also where the file was replaced or removed meanwhile.
            executable: "/proc/self/exe".into(),
            docker_host: config.docker_host.clone(),
        }),
        clock: Arc::new(SystemClock::default()),
        transfers: TransferRuntime::start().map_err(StartError::Threads)?,
        display: Display::new(screen),
        pool,
        directory,
    };
    Ok((parts, shutdown))
}

/// Connects to the engine at `DOCKER_HOST`, or where engines listen by default.
pub(crate) fn connect_engine(
    docker_host: Option<String>,
    credentials: BTreeMap<String, Credentials>,
) -> ConnectEngine {
    Box::new(move || {
        let options = DockerOptions {
            host: docker_host
                .clone()
                .unwrap_or_else(|| DEFAULT_HOST.to_owned()),
            credentials: credentials.clone(),
            ..DockerOptions::default()
        };
        Box::pin(async move {
            let engine = DockerEngine::connect(options).await?;
            Ok(Arc::new(engine) as Arc<dyn ContainerEngine>)
        })
    })
}

/// A job document that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JobFileError {
    /// Not readable.
    #[error("cannot read the job {path}: {cause}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// Larger than any job.
    #[error("{path} has more than {MAX_JOB_FILE_BYTES} bytes, which is more than any job")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Not a job.
    #[error("{path}: {cause}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The fault with its JSON path.
        cause: String,
    },
}

/// Reads a job document from a file, or from standard input for `-`.
///
/// # Errors
/// When it cannot be read or is not a job; the text names the JSON path of the fault.
pub fn read_job(path: &Path) -> Result<AdminJob, JobFileError> {
    let unreadable = |cause| JobFileError::Unreadable {
        path: path.to_owned(),
        cause,
    };
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path).map_err(unreadable)?)
    };
    let mut text = Vec::new();
    let read = source.take(MAX_JOB_FILE_BYTES + 1).read_to_end(&mut text);
    if read.map_err(unreadable)? as u64 > MAX_JOB_FILE_BYTES {
        return Err(JobFileError::TooLarge {
            path: path.to_owned(),
        });
    }
    AdminJob::from_json(&text).map_err(|error| JobFileError::Invalid {
        path: path.to_owned(),
        cause: error.to_string(),
    })
}

/// The plan of one container from a job document. What only a worker knows is shown by its variable's
/// name where it is not given.
///
/// # Errors
/// When the document cannot be read or the job cannot run.
pub fn plan_of(
    arguments: &JobArguments,
    refdata_host_path: String,
    log_path: Option<&str>,
) -> Result<(AdminJob, ContainerPlan), Box<dyn std::error::Error>> {
    let job = read_job(&arguments.job)?;
    let log_path = log_path
        .or(job.job.result.logpath.as_deref())
        .unwrap_or("<S3_ERROR_LOG_PATH>");
    let worker = WorkerFacts {
        log_path: log_path.trim_matches('/').to_owned(),
        refdata_host_path,
        pids: arguments.pids_limit,
    };
    let plan = ContainerPlan::new(&job, arguments.container, &worker)?;
    Ok((job, plan))
}

/// `cts-executor plan`.
#[must_use]
pub fn plan(arguments: &PlanArguments) -> ExitStatus {
    let refdata_host_path = match arguments.job.refdata_host_path.as_str() {
        "" => "<REFDATA_HOST_PATH>".to_owned(),
        path => path.to_owned(),
    };
    let log_path = arguments.s3_error_log_path.as_deref();
    let planned = plan_of(&arguments.job, refdata_host_path, log_path);
    let text = planned.and_then(|(_, plan)| match arguments.format {
        PlanFormat::Text => Ok(plan::to_text(&plan)),
        PlanFormat::Json => Ok(serde_json::to_string_pretty(&plan)? + "\n"),
    });
    match text {
        Ok(text) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitStatus::Done,
            // The reader has seen enough: `plan ... | head`.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitStatus::Done,
            Err(error) => {
                complain(error);
                ExitStatus::Failed
            }
        },
        Err(error) => {
            complain(error);
            ExitStatus::Failed
        }
    }
}

/// `cts-executor reap`. One line for each container: for a cron's mail, or the pool's log.
pub async fn reap(arguments: &ReapArguments) -> ExitStatus {
    let host = arguments
        .docker_host
        .clone()
        .filter(|host| !host.is_empty());
    let is_local = host.as_deref().is_none_or(docker::is_local);
    let swept = async {
        let machine = Machine::here(is_local)?;
        let engine = connect_engine(host, BTreeMap::new())().await?;
        let findings = orphans::sweep(engine.as_ref(), &machine, arguments.dry_run).await?;
        Ok::<_, Box<dyn std::error::Error>>(findings)
    };
    let findings = match swept.await {
        Ok(findings) => findings,
        Err(error) => {
            complain(error);
            return ExitStatus::Failed;
        }
    };
    for Finding {
        container,
        judgement,
        problem,
    } in findings
    {
        let (verb, reason) = match (judgement, &problem) {
            (Judgement::Dead(_), Some(error)) => ("cannot remove", error.to_string()),
            (Judgement::Dead(reason), None) if arguments.dry_run => ("would remove", reason.into()),
            (Judgement::Dead(reason), None) => ("removed", reason.into()),
            _ if arguments.quiet => continue,
            (Judgement::Alive, _) => ("left", "its executor is at work".to_owned()),
            (Judgement::Unknown(reason), _) => ("left", reason.into()),
        };
        let line = format!("{verb} {} ({}): {reason}", container.name, container.state);
        // Nothing is left to do if standard output is gone.
        let _unwritable = writeln!(std::io::stdout(), "{line}");
    }
    ExitStatus::Done
}
