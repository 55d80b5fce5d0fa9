//! `cts-executor run`: carries out one container of a job. [`crate::run_state`] says what is reported,
//! this module does the work in between:
//!
//! 1. `fetch`: who is the service, what is the job;
//! 2. [`stage`]: image and inputs side by side;
//! 3. [`execute`]: the container, its limits, its end;
//! 4. `publish`: outputs and logs to S3;
//! 5. clean up, always.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cts_net::registry::RegistryOptions;
use cts_shared::failure::FailureCode;
use cts_shared::state::JobState;
use cts_shared::wire::job::{AdminJob, S3File};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::{Instant, timeout, timeout_at};

use crate::clock::Clock;
use crate::config::RunConfig;
use crate::container_engine::{
    ContainerEngine, EngineError, LogTail, RunningContainer, STOP_MARGIN, Usage,
};
use crate::coordinator::{Coordinator, CoordinatorError};
use crate::exit::ExitStatus;
use crate::failure::{Classify, RunFailure};
use crate::object_store::ObjectStore;
use crate::plan::{ContainerPlan, WorkerFacts};
use crate::progress_display::Display;
use crate::report::{self, Budget, ReportError, Reporter};
use crate::run_state::{Event, Outcome, Phase};
use crate::shutdown::{Interrupted, Shutdown};
use crate::transfer::TransferRuntime;
use crate::workdir::Workdir;

pub mod execute;
mod publish;
pub mod stage;

/// How long the report of an error is tried when the service was away too long already: waiting the
/// whole budget a second time would hold the worker for hours (contract executor.md, section 6.23).
const LAST_REPORT_BUDGET: Duration = Duration::from_secs(5 * 60);

/// After a signal everything must be over ten seconds after the stop grace. Cleaning up gets this much
/// of it, also when the engine hangs.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(8);

/// Removing a container at an end without a signal: a busy engine needs its time, and nobody waits.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(2 * 60);

/// Storing logs may take this long after a failure: they must not hold up the report for ever.
const LOG_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// Opens the object store when it is first needed: only then is the secret read.
pub type OpenStore = Box<dyn Fn() -> Result<Arc<dyn ObjectStore>, RunFailure> + Send + Sync>;

/// Connects to the container engine.
pub type ConnectEngine = Box<
    dyn Fn() -> BoxFuture<'static, Result<Arc<dyn ContainerEngine>, EngineError>> + Send + Sync,
>;

/// What a run works with. Tests put doubles here.
pub struct Parts {
    /// The service.
    pub coordinator: Arc<dyn Coordinator>,
    /// Connects to the container engine when it is first needed: what keeps it from answering is
    /// then reported to the service.
    pub connect_engine: ConnectEngine,
    /// Looks the image up before it is pulled; without one the engine's own errors must do.
    pub registry: Option<RegistryOptions>,
    /// Opens the object store.
    pub open_store: OpenStore,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where transfers run.
    pub transfers: TransferRuntime,
    /// Where progress shows.
    pub display: Display,
    /// The job directory, absolute.
    pub directory: PathBuf,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

/// Why a step did not finish.
#[derive(Debug)]
enum Stop {
    /// A signal came.
    Interrupted,
    /// The service refused a report, was away too long, or the job has ended meanwhile.
    Report(ReportError),
    /// Something around the container failed.
    Failure(RunFailure),
}

impl From<Interrupted> for Stop {
    fn from(_: Interrupted) -> Self {
        Self::Interrupted
    }
}

impl From<RunFailure> for Stop {
    fn from(failure: RunFailure) -> Self {
        Self::Failure(failure)
    }
}

/// Turns an error of a step into the failure that ends the run.
fn failed<E: Classify + 'static>(step: &'static str) -> impl FnOnce(E) -> Stop {
    move |error| Stop::Failure(RunFailure::new(step, &error))
}

/// One run.
struct Run<'a> {
    config: &'a RunConfig,
    parts: &'a Parts,
    shutdown: &'a Shutdown,
    workdir: Workdir,
    reporter: Reporter,
    phase: Phase,
    /// The container engine, once connected.
    engine: Option<Arc<dyn ContainerEngine>>,
    /// The container, from its start until it is removed.
    container: Option<Arc<dyn RunningContainer>>,
    /// Whether a container was started, so that there are logs.
    has_logs: bool,
}

/// Carries out the container and reports it. Always cleans up, also after a panic.
pub async fn run(config: &RunConfig, parts: &Parts, shutdown: &Shutdown) -> ExitStatus {
    // First of all, because HTCondor holds a job whose log files are missing. A directory that cannot
    // be used is not the end yet: the service must be told why.
    let (root, job, container) = (parts.directory.clone(), config.job, config.container);
    let opening = off_the_async_threads(parts, move || Workdir::open(root, job, container));
    tokio::pin!(opening);
    let Ok(opened) = shutdown.unless_interrupted(&mut opening).await else {
        // The log files are wanted all the same, unless the disk hangs.
        let _in_time = timeout(CLEANUP_TIMEOUT, opening).await;
        return signal_status(shutdown);
    };
    let job = match fetch(config, parts, shutdown).await {
        Ok(job) => job,
        Err(status) => return status,
    };
    let state = job.job.status.state;
    if state.is_terminal() || state == JobState::Canceling {
        tracing::info!(%state, "the job has ended already, nothing to do");
        return ExitStatus::Done;
    }
    let workdir = match opened {
        Ok(Ok(workdir)) => workdir,
        Ok(Err(error)) => {
            let failure = RunFailure::new("prepare the job directory", &error);
            return fail_before_the_run(config, parts, shutdown, failure).await;
        }
        Err(lost) => {
            let failure = RunFailure::new("prepare the job directory", &lost);
            return fail_before_the_run(config, parts, shutdown, failure).await;
        }
    };
    let mut run = Run {
        config,
        parts,
        shutdown,
        workdir,
        reporter: Reporter::start(
            Arc::clone(&parts.coordinator),
            Arc::clone(&parts.clock),
            config.update_budget,
        ),
        phase: Phase::Staging,
        engine: None,
        container: None,
        has_logs: false,
    };
    let carried_out = AssertUnwindSafe(run.carry_out(&job)).catch_unwind().await;
    // The panic's own words are on standard error already.
    let ended = carried_out.unwrap_or_else(|_panic| Err(failed("carry out the job")(Panicked)));
    run.finish(ended).await
}

/// A bug of the executor.
#[derive(Debug, thiserror::Error)]
#[error("bug: the executor panicked; its log says where")]
struct Panicked;

impl Classify for Panicked {
    fn code(&self) -> FailureCode {
        FailureCode::Internal
    }
}

/// A task for file work went away: it panicked.
#[derive(Debug, thiserror::Error)]
#[error("bug: a task for file work ended unexpectedly: {0}")]
struct TaskLost(String);

impl Classify for TaskLost {
    fn code(&self) -> FailureCode {
        FailureCode::Internal
    }
}

/// Does file work where it may block, so that a disk that hangs holds up no signal.
async fn off_the_async_threads<T: Send + 'static>(
    parts: &Parts,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TaskLost> {
    let done = parts.transfers.handle().spawn_blocking(work).await;
    done.map_err(|error| TaskLost(error.to_string()))
}

/// A refused token is told at once at the start: nothing is lost yet, and somebody may be watching.
fn refused_token_is_final<T>(
    result: Result<T, CoordinatorError>,
) -> Result<Result<T, CoordinatorError>, CoordinatorError> {
    match result {
        Err(error @ CoordinatorError::TokenRefused { .. }) => Ok(Err(error)),
        other => other.map(Ok),
    }
}

/// Contract executor.md, section 2, start. Tried again while the service is away.
async fn fetch(
    config: &RunConfig,
    parts: &Parts,
    shutdown: &Shutdown,
) -> Result<AdminJob, ExitStatus> {
    let clock = parts.clock.as_ref();
    let coordinator = parts.coordinator.as_ref();
    let budget = config.update_budget;
    let calls = async {
        let root = report::retry(clock, budget, "greeting the service", || {
            coordinator.root().map(refused_token_is_final)
        })
        .await?
        .map_err(ReportError::Refused)?;
        tracing::info!(
            service = root.service_name,
            version = root.version,
            commit = root.git_hash,
            "reached the service"
        );
        report::retry(clock, budget, "fetching the job", || {
            coordinator.job().map(refused_token_is_final)
        })
        .await?
        .map_err(ReportError::Refused)
    };
    let result = shutdown.unless_interrupted(calls).await;
    match result {
        Err(Interrupted) => Err(signal_status(shutdown)),
        Ok(Ok(job)) => Ok(job),
        Ok(Err(error)) => {
            let status = match &error {
                ReportError::Refused(
                    CoordinatorError::TokenRefused { .. } | CoordinatorError::Refused { .. },
                ) => ExitStatus::NoPermission,
                ReportError::BudgetUsedUp { .. } => ExitStatus::ServiceUnavailable,
                ReportError::Refused(_) | ReportError::JobEnded { .. } => {
                    // The service is there and would wait for ever: it must hear why.
                    let failure = RunFailure::new("read the job", &error);
                    return Err(fail_before_the_run(config, parts, shutdown, failure).await);
                }
            };
            tracing::error!("cannot start: {error}");
            Err(status)
        }
    }
}

/// Reports what keeps the run from beginning.
async fn fail_before_the_run(
    config: &RunConfig,
    parts: &Parts,
    shutdown: &Shutdown,
    failure: RunFailure,
) -> ExitStatus {
    tracing::error!("{}", failure.failure);
    let report = send_failure(config, parts, Phase::Staging, failure, config.update_budget);
    match shutdown.unless_interrupted(report).await {
        Ok(status) => status,
        Err(Interrupted) => signal_status(shutdown),
    }
}

/// Reports a failure past the queue. The exit status of the run.
async fn send_failure(
    config: &RunConfig,
    parts: &Parts,
    phase: Phase,
    failure: RunFailure,
    budget: Budget,
) -> ExitStatus {
    let event = Event::Failed {
        message: failure.failure.to_string(),
        trace: failure.trace,
    };
    match phase.next(event, parts.clock.now()) {
        Ok((_, reports)) => {
            for report in reports {
                let sent = report::send(
                    parts.coordinator.as_ref(),
                    parts.clock.as_ref(),
                    budget,
                    &report,
                );
                match sent.await {
                    Ok(()) => {}
                    // Cancelled, most likely: nobody waits for this container any more.
                    Err(ReportError::JobEnded { state }) => {
                        tracing::info!(%state, "the job has ended meanwhile");
                        return ExitStatus::Done;
                    }
                    Err(error) => tracing::error!(
                        job.id = %config.job,
                        "the failure could not be reported: {error}"
                    ),
                }
            }
        }
        Err(illegal) => tracing::error!("{illegal}"),
    }
    ExitStatus::Failed
}

fn signal_status(shutdown: &Shutdown) -> ExitStatus {
    // 15 only if somebody cancelled without a signal, which nothing in this program does.
    ExitStatus::Signal(shutdown.signal().unwrap_or(15))
}

impl Run<'_> {
    /// Everything from the plan to the last report of an orderly end.
    async fn carry_out(&mut self, job: &AdminJob) -> Result<Outcome, Stop> {
        let worker = WorkerFacts {
            log_path: self.config.log_path.to_string(),
            refdata_host_path: self.config.refdata_host_path.clone(),
            pids: self.config.limits.pids,
        };
        let plan = ContainerPlan::new(job, self.config.container, &worker)
            .map_err(failed("work out the container"))?;
        let declobber = job.job.job_input.params.declobber;

        let (store, engine) = self.stage(&plan, declobber).await?;
        self.step(Event::Staged).await?;
        // The container must not start before the service agrees: the job may be cancelled.
        self.settle().await?;

        let event = self.execute(&plan, engine.as_ref()).await?;
        self.step(event).await?;
        // Publish only what the service still wants.
        self.settle().await?;

        let event = match self.phase {
            Phase::Publishing => self.publish(&plan, declobber, &store).await?,
            _ => Event::LogsSaved {
                problem: self.save_logs(&plan, &store).await?,
            },
        };
        self.step(event).await?;
        self.settle().await?;
        match self.phase {
            Phase::Ended(outcome) => Ok(outcome),
            _ => Ok(Outcome::Failed),
        }
    }

    /// Takes the step of an event and reports it.
    async fn step(&mut self, event: Event) -> Result<(), Stop> {
        let phase = self.phase.clone();
        let (next, reports) = phase
            .next(event, self.parts.clock.now())
            .map_err(failed("keep the states"))?;
        self.phase = next;
        for report in reports {
            self.reporter.report(report).await;
        }
        Ok(())
    }

    /// File work of one step. A signal does not wait for it.
    async fn on_disk<T, E>(
        &self,
        step: &'static str,
        work: impl FnOnce(&Workdir) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Stop>
    where
        T: Send + 'static,
        E: Classify + Send + 'static,
    {
        let workdir = self.workdir.clone();
        let working = off_the_async_threads(self.parts, move || work(&workdir));
        self.shutdown
            .unless_interrupted(working)
            .await?
            .map_err(failed(step))?
            .map_err(failed(step))
    }

    /// Waits until the service has taken every report.
    async fn settle(&mut self) -> Result<(), Stop> {
        self.shutdown
            .unless_interrupted(self.reporter.settled())
            .await?
            .map_err(Stop::Report)
    }

    /// Cleans up, reports a failure if there was one, and says how the process ends.
    async fn finish(mut self, ended: Result<Outcome, Stop>) -> ExitStatus {
        let removed = match &ended {
            Err(Stop::Interrupted) => Err(Interrupted),
            Ok(_) | Err(Stop::Report(_) | Stop::Failure(_)) => self.remove_container().await,
        };
        if let Err(Interrupted) = removed {
            self.clean_up_after_signal().await;
        }
        match ended {
            Ok(Outcome::Completed) => {
                tracing::info!("complete");
                ExitStatus::Done
            }
            Ok(Outcome::ContainerFailed) => {
                tracing::info!("the container failed, which is reported");
                ExitStatus::Done
            }
            Ok(Outcome::Failed) => ExitStatus::Failed,
            Err(Stop::Interrupted) => self.interrupted(),
            Err(Stop::Report(error)) => self.fail_to_report(&error, None).await,
            Err(Stop::Failure(failure)) => {
                // What is queued goes first; the error follows it.
                match self
                    .shutdown
                    .unless_interrupted(self.reporter.settled())
                    .await
                {
                    Err(Interrupted) => self.interrupted(),
                    Ok(Ok(())) => {
                        let budget = self.config.update_budget;
                        self.fail(failure, budget).await
                    }
                    Ok(Err(error)) => self.fail_to_report(&error, Some(failure)).await,
                }
            }
        }
    }

    fn interrupted(&self) -> ExitStatus {
        let status = signal_status(self.shutdown);
        tracing::info!(exit_status = status.code(), "stopped by a signal");
        status
    }

    /// Ends a run some of whose reports the service did not take; `failure` is what else went wrong.
    async fn fail_to_report(self, error: &ReportError, failure: Option<RunFailure>) -> ExitStatus {
        let budget = match error {
            ReportError::JobEnded { state } => {
                tracing::info!(%state, "the job has ended meanwhile, nothing more is reported");
                if self.has_logs
                    && let Err(problem) = self.save_logs_after_failure().await
                {
                    tracing::warn!("the container's logs could not be stored: {problem}");
                }
                return ExitStatus::Done;
            }
            ReportError::BudgetUsedUp { .. } => {
                Budget(LAST_REPORT_BUDGET.min(self.config.update_budget.0))
            }
            ReportError::Refused(_) => self.config.update_budget,
        };
        let failure = failure.unwrap_or_else(|| RunFailure::new("report the state", error));
        self.fail(failure, budget).await
    }

    /// Keeps the logs, reports the failure.
    async fn fail(self, mut failure: RunFailure, budget: Budget) -> ExitStatus {
        tracing::error!("{}", failure.failure);
        if self.has_logs
            && let Err(problem) = self.save_logs_after_failure().await
        {
            failure.trace.push_str(&format!(
                "\n  the container's logs could not be stored: {problem}"
            ));
        }
        // After an orderly end was refused, the error is still ours to report.
        let phase = match self.phase {
            Phase::Ended(_) => Phase::Publishing,
            phase => phase,
        };
        let report = send_failure(self.config, self.parts, phase, failure, budget);
        match self.shutdown.unless_interrupted(report).await {
            Ok(status) => status,
            Err(Interrupted) => signal_status(self.shutdown),
        }
    }

    /// Removes the container, if there is one. After a signal [`Self::clean_up_after_signal`] does the
    /// rest.
    async fn remove_container(&mut self) -> Result<(), Interrupted> {
        let Some(engine) = self.engine.clone() else {
            return Ok(());
        };
        let container = self.container.clone();
        let removal = async {
            if let Some(container) = container {
                note_removal(timeout(REMOVAL_TIMEOUT, container.remove()).await);
            }
            engine.settle().await;
        };
        self.shutdown.unless_interrupted(removal).await?;
        self.container = None;
        Ok(())
    }

    /// Stops and removes the container. All together at most the stop grace and [`CLEANUP_TIMEOUT`],
    /// also when the engine hangs.
    async fn clean_up_after_signal(&mut self) {
        let Some(engine) = self.engine.clone() else {
            return;
        };
        let grace = self.config.limits.stop_grace;
        let now = Instant::now();
        let deadline = match self.container.take() {
            Some(container) => {
                let stop = async {
                    container.stop(grace).await?;
                    // What it said last is on disk then.
                    container.wait().await.map(drop)
                };
                match timeout_at(now + grace + STOP_MARGIN, stop).await {
                    Ok(Ok(())) => tracing::info!("container stopped"),
                    Ok(Err(error)) => tracing::warn!("{error}"),
                    Err(_) => tracing::warn!("the engine did not stop the container in time"),
                }
                let deadline = now + grace + CLEANUP_TIMEOUT;
                note_removal(timeout_at(deadline, container.remove()).await);
                deadline
            }
            None => now + CLEANUP_TIMEOUT,
        };
        if timeout_at(deadline, engine.settle()).await.is_err() {
            tracing::warn!("a container may be left behind: the engine gave no answer in time");
        }
    }
}

/// The next executor of this container finds by its labels what was left.
fn note_removal(removed: Result<Result<(), EngineError>, tokio::time::error::Elapsed>) {
    match removed {
        Ok(Ok(())) => tracing::debug!("container removed"),
        Ok(Err(error)) => tracing::warn!("the container may be left behind: {error}"),
        Err(_) => tracing::warn!("the container may be left behind: no answer in time"),
    }
}

/// One line on what the container used.
fn log_usage(usage: Usage) {
    if let (Some(cpu_seconds), Some(peak)) = (usage.cpu_seconds, usage.peak_memory_bytes) {
        tracing::info!(cpu_seconds, peak_memory_bytes = peak, "container usage");
    }
}

/// The end of what the container said, for the log of a failure.
fn log_tail(tail: &LogTail) {
    for (stream, text) in [("stderr", &tail.stderr), ("stdout", &tail.stdout)] {
        let lines: Vec<&str> = text.lines().rev().take(10).collect();
        for line in lines.iter().rev() {
            // Debug quoting keeps the container's control characters off the operator's terminal.
            tracing::info!("container {stream}: {line:?}");
        }
    }
}

/// Outputs in the order of the report.
fn sorted(mut outputs: Vec<S3File>) -> Vec<S3File> {
    outputs.sort();
    outputs
}
