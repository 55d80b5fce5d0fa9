//! `cts-executor run`: carries out one container of a job. [`crate::run_state`] says what is reported,
//! this module does the work in between:
//!
//! 1. `fetch`: who is the service, which attempt is this, what is the job;
//! 2. [`stage`]: image, inputs and reference data side by side;
//! 3. [`execute`]: the container, its limits, its end;
//! 4. `publish`: outputs and logs to S3;
//! 5. `finish`: clean up, always; report a failure; the exit status.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;

use cts_net::registry::RegistryOptions;
use cts_shared::failure::FailureCode;
use cts_shared::state::JobState;
use cts_shared::wire::job::AdminJob;
use cts_shared::wire::root::{ATTEMPTS, USAGE};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::condor::pool_view::PoolView;
use crate::config::{CLEANUP_TIMEOUT, RunConfig};
use crate::container_engine::{ContainerEngine, EngineError, RunningContainer};
use crate::coordinator::Coordinator;
use crate::exit::ExitStatus;
use crate::failure::{Classify, RunFailure};
use crate::guardian::{Guardian, GuardianProgram};
use crate::identity::Identity;
use crate::object_store::ObjectStore;
use crate::plan::{ContainerPlan, WorkerFacts};
use crate::progress_display::Display;
use crate::report::attempt::Attempt;
use crate::report::{ReportError, Reporter};
use crate::run_state::{Event, Outcome, Phase};
use crate::shutdown::{Interrupted, Shutdown};
use crate::transfer::TransferRuntime;
use crate::workdir::{Workdir, WorkdirError};

pub mod execute;
mod fetch;
mod finish;
mod publish;
mod refdata;
pub mod stage;

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
    /// Starts the process that removes the container when this one is killed; none in tests.
    pub guardian: Option<GuardianProgram>,
    /// Where transfers run.
    pub transfers: TransferRuntime,
    /// Where progress shows.
    pub display: Display,
    /// What the pool's people see.
    pub pool: PoolView,
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
    /// The service refused a report, was away too long, or this run is not wanted any more.
    Report(ReportError),
    /// Something around the container failed.
    Failure(RunFailure),
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
    /// Cancelled when the work has to stop: by a signal, or because the service says so.
    halt: CancellationToken,
    identity: Identity,
    /// Where the service counts attempts.
    attempt: Option<Arc<Attempt>>,
    /// The service takes what a container used.
    reports_usage: bool,
    workdir: Workdir,
    reporter: Reporter,
    phase: Phase,
    /// The container engine, once connected.
    engine: Option<Arc<dyn ContainerEngine>>,
    /// The container, from its start until it is removed.
    container: Option<Arc<dyn RunningContainer>>,
    /// Beside the container.
    guardian: Option<Guardian>,
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
        return finish::signal_status(shutdown);
    };
    let identity = Identity::new();
    let halt = shutdown.token().child_token();
    let root = match fetch::greet(config, parts, shutdown).await {
        Ok(root) => root,
        Err(status) => return status,
    };
    let attempt = if root.can(ATTEMPTS) {
        match fetch::announce(config, parts, shutdown, &identity, &halt).await {
            Ok(attempt) => attempt,
            Err(status) => return status,
        }
    } else {
        None
    };
    if let Some(attempt) = &attempt {
        parts.pool.attempt(attempt.number());
    }
    let renewal = attempt
        .as_ref()
        .map(|attempt| attempt.keep(config.update_budget));
    let begun = Begun {
        can_report_usage: root.can(USAGE),
        opened,
        identity,
        halt,
        attempt: attempt.clone(),
    };
    let status = begun.carry_on(config, parts, shutdown).await;
    drop(renewal);
    if let (ExitStatus::Signal(_), Some(attempt)) = (status, attempt) {
        // Nothing of the run is left.
        attempt.leave().await;
    }
    status
}

/// A run that the service knows of.
struct Begun {
    can_report_usage: bool,
    opened: Result<Result<Workdir, WorkdirError>, TaskLost>,
    identity: Identity,
    halt: CancellationToken,
    attempt: Option<Arc<Attempt>>,
}

impl Begun {
    async fn carry_on(self, config: &RunConfig, parts: &Parts, shutdown: &Shutdown) -> ExitStatus {
        let Self {
            can_report_usage,
            opened,
            identity,
            halt,
            attempt,
        } = self;
        let job = match fetch::fetch(config, parts, shutdown, attempt.as_deref()).await {
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
                let attempt = attempt.as_deref();
                return fetch::fail_before_the_run(config, parts, shutdown, attempt, failure).await;
            }
            Err(lost) => {
                let failure = RunFailure::new("prepare the job directory", &lost);
                let attempt = attempt.as_deref();
                return fetch::fail_before_the_run(config, parts, shutdown, attempt, failure).await;
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
                attempt.clone(),
            ),
            halt,
            identity,
            attempt,
            reports_usage: can_report_usage,
            phase: Phase::Staging,
            engine: None,
            container: None,
            guardian: None,
            has_logs: false,
        };
        let carried_out = AssertUnwindSafe(run.carry_out(&job)).catch_unwind().await;
        // The panic's own words are on standard error already.
        let ended = carried_out.unwrap_or_else(|_panic| Err(failed("carry out the job")(Panicked)));
        run.finish(ended).await
    }
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
        // The last report: that nothing more is wanted of this container follows from it.
        self.shutdown
            .unless_interrupted(self.reporter.settled())
            .await
            .map_err(|Interrupted| Stop::Interrupted)?
            .map_err(Stop::Report)?;
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
        self.parts.pool.phase(&self.phase);
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
        let done = self.unless_halted(working).await?.map_err(failed(step))?;
        match done {
            // What work says that was told to stop follows from that.
            Err(_) if self.halt.is_cancelled() => Err(self.why_halted()),
            done => done.map_err(failed(step)),
        }
    }

    /// Waits until the service has taken every report.
    async fn settle(&mut self) -> Result<(), Stop> {
        let halted = self.halt.clone();
        let settled = halted.run_until_cancelled(self.reporter.settled()).await;
        match settled {
            Some(settled) => settled.map_err(Stop::Report),
            None => Err(self.why_halted()),
        }
    }

    /// Waits for `work`, unless the run has to stop. The work is dropped then, so it must be safe to drop.
    async fn unless_halted<T>(&self, work: impl Future<Output = T>) -> Result<T, Stop> {
        let done = self.halt.run_until_cancelled(work).await;
        done.ok_or_else(|| self.why_halted())
    }

    /// Why the work has to stop, once `halt` is cancelled or the gate to the store is closed.
    fn why_halted(&self) -> Stop {
        let told_by_service = self.attempt.as_ref().and_then(|attempt| attempt.end());
        match told_by_service {
            Some(error) if !self.shutdown.token().is_cancelled() => Stop::Report(error),
            _ => Stop::Interrupted,
        }
    }
}
