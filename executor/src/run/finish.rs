//! Finish: clean up, report a failure, say how the process ends.

use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Parts, Run, Stop};
use crate::config::{CLEANUP_TIMEOUT, RunConfig};
use crate::container_engine::{EngineError, STOP_MARGIN};
use crate::exit::ExitStatus;
use crate::failure::RunFailure;
use crate::report::attempt::Attempt;
use crate::report::{self, Budget, ReportError};
use crate::run_state::{Event, Outcome, Phase};
use crate::shutdown::{Interrupted, Shutdown};

/// How long the report of an error is tried when the service was away too long already: waiting the
/// whole budget a second time would hold the worker for hours (contract executor.md, section 6.23).
const LAST_REPORT_BUDGET: Duration = Duration::from_secs(5 * 60);

/// An upload of logs that is told to stop needs a moment to leave nothing half done.
const LOG_MARGIN: Duration = Duration::from_secs(1);

/// Removing a container at an end without a signal: a busy engine needs its time, and nobody waits.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(2 * 60);

impl Run<'_> {
    /// Cleans up, reports a failure if there was one, and says how the process ends.
    pub(super) async fn finish(mut self, ended: Result<Outcome, Stop>) -> ExitStatus {
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
            ReportError::Superseded => return superseded(),
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
        self.parts.pool.message(&failure.failure.to_string());
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
        let attempt = self.attempt.as_deref();
        let report = send_failure(self.config, self.parts, attempt, phase, failure, budget);
        match self.shutdown.unless_interrupted(report).await {
            Ok(status) => status,
            Err(Interrupted) => signal_status(self.shutdown),
        }
    }

    /// Removes the container, if there is one. After a signal [`Self::clean_up_after_signal`] does the
    /// rest.
    pub(super) async fn remove_container(&mut self) -> Result<(), Interrupted> {
        let Some(engine) = self.engine.clone() else {
            return Ok(());
        };
        let container = self.container.clone();
        let removal = async {
            let is_removed = match container {
                Some(container) => note_removal(timeout(REMOVAL_TIMEOUT, container.remove()).await),
                None => false,
            };
            engine.settle().await;
            is_removed
        };
        let is_removed = self.shutdown.unless_interrupted(removal).await?;
        self.container = None;
        if is_removed {
            self.dismiss_guardian().await;
        }
        Ok(())
    }

    /// The container is certainly gone. Where that is not certain, the guardian looks for itself when this
    /// process ends.
    async fn dismiss_guardian(&mut self) {
        if let Some(guardian) = self.guardian.take() {
            guardian.dismiss().await;
        }
    }

    /// Stops and removes the container. All together at most the stop grace and [`CLEANUP_TIMEOUT`],
    /// also when the engine hangs.
    async fn clean_up_after_signal(&mut self) {
        let Some(engine) = self.engine.clone() else {
            return;
        };
        let has_run = self.has_logs;
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
                if note_removal(timeout_at(deadline, container.remove()).await) {
                    self.dismiss_guardian().await;
                }
                deadline
            }
            None => now + CLEANUP_TIMEOUT,
        };
        if timeout_at(deadline, engine.settle()).await.is_err() {
            tracing::warn!("a container may be left behind: the engine gave no answer in time");
        }
        if has_run {
            self.save_logs_of_canceled_job(deadline).await;
        }
    }

    /// The batch system stops an executor when its job is canceled, and also when the worker is wanted for
    /// something else. Only in the first case is this container's log its last one and worth the time that
    /// is left.
    async fn save_logs_of_canceled_job(&self, deadline: Instant) {
        let Some(attempt) = &self.attempt else { return };
        let asked = timeout_at(deadline - LOG_MARGIN, attempt.is_job_canceled());
        if !matches!(asked.await, Ok(true)) {
            return;
        }
        let left = deadline.saturating_duration_since(Instant::now() + LOG_MARGIN);
        match self.save_logs_on_the_way_out(left).await {
            Ok(()) => tracing::info!("the job was canceled; the container's logs are stored"),
            Err(problem) => {
                tracing::warn!("the container's logs could not be stored: {problem}");
            }
        }
    }
}

/// Whether it is gone. Others find by its labels what is left: the guardian, the next executor.
fn note_removal(removed: Result<Result<(), EngineError>, Elapsed>) -> bool {
    match &removed {
        Ok(Ok(())) => tracing::debug!("container removed"),
        Ok(Err(error)) => tracing::warn!("the container may be left behind: {error}"),
        Err(_) => tracing::warn!("the container may be left behind: no answer in time"),
    }
    matches!(removed, Ok(Ok(())))
}

/// Reports a failure past the queue. The exit status of the run.
pub(super) async fn send_failure(
    config: &RunConfig,
    parts: &Parts,
    attempt: Option<&Attempt>,
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
                    attempt,
                    &report,
                );
                match sent.await {
                    Ok(()) => {}
                    // Cancelled, most likely: nobody waits for this container any more.
                    Err(ReportError::JobEnded { state }) => {
                        tracing::info!(%state, "the job has ended meanwhile");
                        return ExitStatus::Done;
                    }
                    Err(ReportError::Superseded) => return superseded(),
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

/// Another executor carries the container out: everything else is its business.
fn superseded() -> ExitStatus {
    tracing::warn!(
        "another attempt runs this container now; this one ends without a report, and nothing of it is \
         published from now on"
    );
    ExitStatus::Done
}

pub(super) fn signal_status(shutdown: &Shutdown) -> ExitStatus {
    // 15 only if somebody cancelled without a signal, which nothing in this program does.
    ExitStatus::Signal(shutdown.signal().unwrap_or(15))
}
