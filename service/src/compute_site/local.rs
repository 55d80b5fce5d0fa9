//! The `local` site: executors as child processes of the service, a few at a time.
//!
//! Each container has the directory `<jobs directory>/<job>/<container>`: the executor's working
//! directory, its output (`executor.out`, `executor.err`) and `executor.pid`. The directory is made
//! just before the executor is started, so a container without one was never started and can be
//! started after a restart of the service; one with a live process is watched again; any other
//! has lost its executor.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use cts_shared::error_code::ErrorCode;
use cts_shared::id::{ContainerNumber, JobId};
use cts_shared::job_input::JobInput;

use crate::compute_site::{CleanError, ComputeSite, SiteError, SiteEvent, SiteEvents};
use crate::config::PathPrefix;
use crate::error::Error;
use crate::identity::User;

mod executor_process;

use executor_process::{Ended, ExecutorProcess, PreviousRun, container_directory, job_directory};

/// How long an executor may take to stop its container and clean up: ten seconds of its own, the
/// container's stop grace, and some more.
const STOP_GRACE: Duration = Duration::from_secs(40);

/// What executors need to know (contract executor.md, section 1).
#[derive(Debug, Clone)]
pub struct LocalSiteSettings {
    /// The executor program.
    pub executor: PathBuf,
    /// Directory of all jobs' directories.
    pub jobs_dir: PathBuf,
    /// Executors running at the same time.
    pub max_executors: usize,
    /// `SERVICE_ROOT_URL`: this service.
    pub service_root_url: String,
    /// `TOKEN_PATH`: file with the token of a user that is an external executor.
    pub token_path: PathBuf,
    /// `S3_URL`
    pub s3_url: String,
    /// `S3_ACCESS_KEY`
    pub s3_access_key: String,
    /// `S3_SECRET_PATH`
    pub s3_secret_path: PathBuf,
    /// `S3_INSECURE`
    pub s3_insecure: bool,
    /// `S3_ERROR_LOG_PATH` without the job id.
    pub log_dir: PathPrefix,
    /// `REFDATA_HOST_PATH`
    pub refdata_host_path: PathBuf,
    /// `JOB_UPDATE_TIMEOUT_MIN`
    pub job_update_timeout_min: u32,
    /// `CTS_LOG_LEVEL`
    pub log_level: String,
    /// `CTS_REFDATA_MAX_ENTRIES` and its like, as the service has them.
    pub refdata_limits: Vec<(&'static str, OsString)>,
    /// `PATH`, as the service has it.
    pub path: Option<OsString>,
    /// `DOCKER_HOST`; the executor's default if absent.
    pub docker_host: Option<String>,
}

/// The site.
#[derive(Debug)]
pub struct LocalSite {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: LocalSiteSettings,
    events: SiteEvents,
    room: Semaphore,
    stopping: CancellationToken,
    jobs: Mutex<HashMap<JobId, RunningJob>>,
}

#[derive(Debug)]
struct RunningJob {
    stop: CancellationToken,
    tasks: TaskTracker,
    containers: HashSet<ContainerNumber>,
}

impl LocalSite {
    /// A site without executors.
    #[must_use]
    pub fn new(settings: LocalSiteSettings, events: SiteEvents) -> Self {
        Self {
            shared: Arc::new(Shared {
                room: Semaphore::new(settings.max_executors.clamp(1, Semaphore::MAX_PERMITS)),
                settings,
                events,
                stopping: CancellationToken::new(),
                jobs: Mutex::new(HashMap::new()),
            }),
        }
    }
}

impl ComputeSite for LocalSite {
    fn check(&self, _user: &User, _job_input: &JobInput) -> Result<(), Error> {
        Ok(())
    }

    fn start(
        &self,
        job: JobId,
        containers: Vec<ContainerNumber>,
    ) -> BoxFuture<'_, Result<(), SiteError>> {
        let started = if self.shared.stopping.is_cancelled() {
            Err(SiteError::Unavailable("the service is stopping".to_owned()))
        } else {
            let mut jobs = self.shared.jobs();
            let running = jobs.entry(job).or_insert_with(|| RunningJob {
                stop: self.shared.stopping.child_token(),
                tasks: TaskTracker::new(),
                containers: HashSet::new(),
            });
            for container in containers {
                if running.containers.insert(container) {
                    let shared = Arc::clone(&self.shared);
                    let stop = running.stop.clone();
                    running
                        .tasks
                        .spawn(async move { shared.run(job, container, stop).await });
                }
            }
            Ok(())
        };
        futures::future::ready(started).boxed()
    }

    fn cancel(&self, job: JobId) -> BoxFuture<'_, Result<(), SiteError>> {
        async move {
            let tasks = {
                let jobs = self.shared.jobs();
                let Some(running) = jobs.get(&job) else {
                    return Ok(());
                };
                running.stop.cancel();
                running.tasks.close();
                running.tasks.clone()
            };
            tasks.wait().await;
            self.shared.jobs().remove(&job);
            Ok(())
        }
        .boxed()
    }

    fn runner_status(
        &self,
        _job: JobId,
        _container: ContainerNumber,
    ) -> BoxFuture<'_, Result<Map<String, Value>, Error>> {
        futures::future::ready(Err(Error::refused(
            ErrorCode::UnsupportedOperation,
            "site local has no batch system that could be asked about a container",
        )))
        .boxed()
    }

    fn clean(
        &self,
        job: JobId,
        containers: Vec<ContainerNumber>,
    ) -> BoxFuture<'_, Result<(), CleanError>> {
        async move {
            let watched = {
                let jobs = self.shared.jobs();
                let running = jobs.get(&job).map(|running| running.containers.clone());
                running.unwrap_or_default()
            };
            let shared = Arc::clone(&self.shared);
            let removing = move || remove_directories(&shared.settings, job, containers, &watched);
            tokio::task::spawn_blocking(removing)
                .await
                .unwrap_or_else(|error| Err(CleanError::Failed(format!("cannot clean: {error}"))))
        }
        .boxed()
    }

    fn shut_down(&self) -> BoxFuture<'_, ()> {
        async move {
            self.shared.stopping.cancel();
            let all: Vec<TaskTracker> = self
                .shared
                .jobs()
                .values()
                .map(|running| running.tasks.clone())
                .collect();
            for tasks in all {
                tasks.close();
                tasks.wait().await;
            }
        }
        .boxed()
    }
}

/// Removes the directories of containers that have no executor, and the job's if that leaves it empty.
fn remove_directories(
    settings: &LocalSiteSettings,
    job: JobId,
    containers: Vec<ContainerNumber>,
    watched: &HashSet<ContainerNumber>,
) -> Result<(), CleanError> {
    let mut running = Vec::new();
    for container in containers {
        // One that is watched may be about to start its executor.
        let previous = ExecutorProcess::previous(settings, job, container);
        if watched.contains(&container) || matches!(previous, PreviousRun::Alive(_)) {
            running.push(container);
            continue;
        }
        let directory = container_directory(settings, job, container);
        match std::fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(CleanError::Failed(format!(
                    "cannot remove {}: {error}; remove it by hand",
                    directory.display()
                )));
            }
            _removed => {}
        }
    }
    // Not empty while other containers run: it goes with the last of them.
    let _kept = std::fs::remove_dir(job_directory(settings, job));
    if running.is_empty() {
        Ok(())
    } else {
        Err(CleanError::StillRunning(running))
    }
}

impl Shared {
    fn jobs(&self) -> std::sync::MutexGuard<'_, HashMap<JobId, RunningJob>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One container from its place in the queue to the end of its executor.
    async fn run(&self, job: JobId, container: ContainerNumber, stop: CancellationToken) {
        let ended = match ExecutorProcess::previous(&self.settings, job, container) {
            PreviousRun::Never => tokio::select! {
                biased;
                // Not started: nothing to report, a restarted service takes it up again.
                () = stop.cancelled() => None,
                permit = self.room.acquire() => match permit {
                    Ok(_permit) => Some(self.start_executor(job, container, &stop).await),
                    Err(_closed) => None,
                },
            },
            PreviousRun::Alive(process) => {
                // It runs whether or not there is room, and must be told to stop when the job is.
                let _permit = self.room.try_acquire();
                Some(self.watch(process, &stop).await)
            }
            PreviousRun::Gone(ended) => Some(ended),
        };
        if let Some(ended) = ended {
            tracing::info!(job.id = %job, container.num = container, ended = %ended.summary, "executor ended");
            let event = SiteEvent::ExecutorEnded {
                job,
                container,
                description: ended.description(container),
                last_output: ended.last_output,
            };
            if self.events.send(event).await.is_err() {
                tracing::error!(job.id = %job, container.num = container, "nobody listens to the site any more");
            }
        }
        self.forget(job, container);
    }

    /// Starts the executor and waits for its end. Returns how it ended.
    async fn start_executor(
        &self,
        job: JobId,
        container: ContainerNumber,
        stop: &CancellationToken,
    ) -> Ended {
        match ExecutorProcess::spawn(&self.settings, job, container) {
            Ok(process) => self.watch(process, stop).await,
            Err(ended) => ended,
        }
    }

    /// Waits for the executor's end, and has it end when told to stop. Returns how it ended.
    async fn watch(&self, mut process: ExecutorProcess, stop: &CancellationToken) -> Ended {
        tokio::select! {
            ended = process.wait() => ended,
            () = stop.cancelled() => {
                let reason = if self.stopping.is_cancelled() {
                    "the service was stopped"
                } else {
                    "the job was canceled"
                };
                process.terminate(STOP_GRACE).await.because(reason)
            }
        }
    }

    fn forget(&self, job: JobId, container: ContainerNumber) {
        let mut jobs = self.jobs();
        if let Some(running) = jobs.get_mut(&job) {
            running.containers.remove(&container);
            if running.containers.is_empty() && !running.stop.is_cancelled() {
                jobs.remove(&job);
            }
        }
    }
}
