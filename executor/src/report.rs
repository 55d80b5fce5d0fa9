//! Reports: state updates in order, each tried until the service has taken or refused it.
//!
//! A task of its own sends them, so that a service that is away never holds up the container
//! (contract executor.md, section 6.18). What must not happen before the service knows (publishing
//! outputs) waits with [`Reporter::settled`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cts_shared::error_code::ErrorCode;
use cts_shared::state::JobState;
use futures::FutureExt;
use rand::Rng;
use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::coordinator::{Coordinator, CoordinatorError};
use crate::run_state::Report;
use attempt::{Attempt, told_superseded};

pub mod attempt;

/// Waits between tries, the last one repeated (contract executor.md, section 3).
const WAITS_SECS: [u64; 7] = [5, 10, 30, 60, 120, 300, 600];

/// Each wait is shortened by up to this share, at random, so that a thousand executors do not
/// come back to a restarted service in the same second.
const JITTER: f64 = 0.2;

/// The most reports that can wait: one more than a run has.
const QUEUE: usize = 8;

/// How long one call is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget(pub Duration);

/// A wait, shortened so that many executors do not act in the same second.
fn shortened_at_random(wait: Duration) -> Duration {
    wait.mul_f64(1.0 - JITTER * rand::rng().random::<f64>())
}

/// How long to wait after the n-th failed try, counted from 1; shortened at random.
pub(crate) fn wait_after_failure(tries: usize) -> Duration {
    shortened_at_random(wait_after(tries))
}

/// The wait after the n-th failed try, before jitter.
fn wait_after(tries: usize) -> Duration {
    Duration::from_secs(WAITS_SECS[tries.min(WAITS_SECS.len()) - 1])
}

/// Gave up on a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Trying again cannot help.
    #[error(transparent)]
    Refused(CoordinatorError),
    /// The time for trying is used up.
    #[error("gave up after {tries} tries in {} s: {last}", elapsed.as_secs())]
    BudgetUsedUp {
        /// Number of tries.
        tries: usize,
        /// Time since the first.
        elapsed: Duration,
        /// What the last one said.
        last: CoordinatorError,
    },
    /// The container's work is no longer wanted: its job was cancelled, or is in error, or the container
    /// itself counts as ended.
    #[error("this container's work is no longer wanted; the job is {state}")]
    JobEnded {
        /// The job's state.
        state: JobState,
    },
    /// Another executor carries out this container now.
    #[error("another attempt runs this container now")]
    Superseded,
}

/// Tries a call until it succeeds, cannot succeed, or the budget is used up.
///
/// # Errors
/// When the call is refused or the budget is used up.
pub async fn retry<T, F, Attempt>(
    clock: &dyn Clock,
    budget: Budget,
    what: &str,
    mut attempt: F,
) -> Result<T, ReportError>
where
    F: FnMut() -> Attempt,
    Attempt: Future<Output = Result<T, CoordinatorError>>,
{
    let start = clock.elapsed();
    let mut tries = 0;
    loop {
        let error = match attempt().await {
            Ok(value) => {
                if tries > 0 {
                    tracing::info!(tries = tries + 1, "{what} succeeded");
                }
                return Ok(value);
            }
            Err(error) if error.is_permanent() => return Err(ReportError::Refused(error)),
            Err(error) => error,
        };
        tries += 1;
        let elapsed = clock.elapsed().saturating_sub(start);
        let wait = wait_after(tries);
        if elapsed + wait >= budget.0 {
            return Err(ReportError::BudgetUsedUp {
                tries,
                elapsed,
                last: error,
            });
        }
        let wait = shortened_at_random(wait);
        tracing::warn!(%error, tries, wait_secs = wait.as_secs(), "{what} failed, trying again");
        clock.sleep(wait).await;
    }
}

/// As [`retry`], at the start of a run: a refused token is told at once, since nothing is lost yet and somebody
/// may be watching.
///
/// # Errors
/// As [`retry`].
pub async fn retry_at_start<T, F, Attempt>(
    clock: &dyn Clock,
    budget: Budget,
    what: &str,
    mut attempt: F,
) -> Result<T, ReportError>
where
    F: FnMut() -> Attempt,
    Attempt: Future<Output = Result<T, CoordinatorError>>,
{
    let tried = retry(clock, budget, what, || {
        attempt().map(|result| match result {
            Err(error @ CoordinatorError::TokenRefused { .. }) => Ok(Err(error)),
            other => other.map(Ok),
        })
    });
    tried.await?.map_err(ReportError::Refused)
}

/// Sends one report until it is taken.
///
/// A refusal as "wrong state" of a report whose earlier try had no answer is most likely the echo
/// of our own success: the service is asked where the container, or else the job, stands. That of an
/// `error` most likely means that the job was cancelled: it is asked as well.
///
/// Where the service counts attempts, the report carries this one's number, and what the service says about
/// it is passed on to `attempt`.
///
/// # Errors
/// When the service refuses it, the job has ended, another attempt has taken over, or the budget is used up.
pub async fn send(
    coordinator: &dyn Coordinator,
    clock: &dyn Clock,
    budget: Budget,
    attempt: Option<&Attempt>,
    report: &Report,
) -> Result<(), ReportError> {
    let an_answer_was_lost = &AtomicBool::new(false);
    let what = format!("reporting {}", report.state);
    let mut body = report.body.clone();
    body.attempt = attempt.map(Attempt::number);
    let body = &body;
    let sent = retry(clock, budget, &what, || async move {
        let result = coordinator.update(report.state, body).await;
        if result.as_ref().is_err_and(CoordinatorError::is_ambiguous) {
            an_answer_was_lost.store(true, Ordering::Relaxed);
        }
        result
    })
    .await;
    match sent.map_err(told_superseded) {
        Err(ReportError::Superseded) => {
            if let Some(attempt) = attempt {
                attempt.stop(ReportError::Superseded);
            }
            Err(ReportError::Superseded)
        }
        Err(ReportError::Refused(refusal)) if is_wrong_state(&refusal) => {
            if an_answer_was_lost.load(Ordering::Relaxed) {
                resolve_lost_answer(coordinator, clock, budget, report.state, refusal).await
            } else if report.state == JobState::Error {
                let state = job_state(coordinator, clock, budget).await?;
                Err(if has_ended(state) {
                    ReportError::JobEnded { state }
                } else {
                    ReportError::Refused(refusal)
                })
            } else {
                Err(ReportError::Refused(refusal))
            }
        }
        other => other,
    }
}

async fn job_state(
    coordinator: &dyn Coordinator,
    clock: &dyn Clock,
    budget: Budget,
) -> Result<JobState, ReportError> {
    let job = retry(clock, budget, "asking for the job", || coordinator.job()).await?;
    Ok(job.job.status.state)
}

/// Nothing of the job is wanted any more.
fn has_ended(state: JobState) -> bool {
    state.is_terminal() || state == JobState::Canceling
}

/// "No such (sub) job" also means: it exists, but not in a state that allows the update.
fn is_wrong_state(error: &CoordinatorError) -> bool {
    matches!(
        error.refusal(),
        Some(ErrorCode::NoSuchJob | ErrorCode::NoSuchSubjob)
    )
}

async fn resolve_lost_answer(
    coordinator: &dyn Coordinator,
    clock: &dyn Clock,
    budget: Budget,
    wanted: JobState,
    refusal: CoordinatorError,
) -> Result<(), ReportError> {
    let accept = |how: &str| {
        tracing::info!(state = %wanted, "an earlier try had arrived, its answer was lost ({how})");
        Ok(())
    };
    match coordinator.container_state().await {
        Ok(state) if state == wanted => return accept("the container is in that state"),
        Ok(_) => return Err(ReportError::Refused(refusal)),
        // The existing service shows containers to administrators only.
        Err(_) => {}
    }
    let state = job_state(coordinator, clock, budget).await?;
    let is_ours = wanted.is_terminal() && state == wanted;
    if has_ended(state) && !is_ours {
        return Err(ReportError::JobEnded { state });
    }
    accept("the job is still at work")
}

/// What the sending task has done so far.
#[derive(Debug, Clone, Default)]
struct Progress {
    taken: u64,
    failure: Option<ReportError>,
}

/// Queue of reports and the task that sends them.
#[derive(Debug)]
pub struct Reporter {
    queue: mpsc::Sender<Report>,
    progress: watch::Receiver<Progress>,
    queued: u64,
    task: tokio::task::JoinHandle<()>,
}

impl Reporter {
    /// Starts the sending task.
    #[must_use]
    pub fn start(
        coordinator: Arc<dyn Coordinator>,
        clock: Arc<dyn Clock>,
        budget: Budget,
        attempt: Option<Arc<Attempt>>,
    ) -> Self {
        let (queue, mut reports) = mpsc::channel::<Report>(QUEUE);
        let (progress_sender, progress) = watch::channel(Progress::default());
        let task = tokio::spawn(async move {
            while let Some(report) = reports.recv().await {
                let (service, clock) = (coordinator.as_ref(), clock.as_ref());
                let sent = send(service, clock, budget, attempt.as_deref(), &report).await;
                match sent {
                    Ok(()) => {
                        tracing::info!(state = %report.state, "reported");
                        progress_sender.send_modify(|progress| progress.taken += 1);
                    }
                    Err(error) => {
                        progress_sender.send_modify(|progress| progress.failure = Some(error));
                        // What follows a report that was not taken cannot be taken either.
                        return;
                    }
                }
            }
        });
        Self {
            queue,
            progress,
            queued: 0,
            task,
        }
    }

    /// Puts a report into the queue. Never waits for the service.
    pub async fn report(&mut self, report: Report) {
        self.queued += 1;
        // The queue is closed only after a failure, which `settled` then tells.
        let _failure_is_told_by_settled = self.queue.send(report).await;
    }

    /// Waits until the service has taken every report so far.
    ///
    /// # Errors
    /// When one was refused or given up. Cancel safe.
    pub async fn settled(&mut self) -> Result<(), ReportError> {
        let queued = self.queued;
        let settled = self
            .progress
            .wait_for(|progress| progress.failure.is_some() || progress.taken >= queued)
            .await;
        match settled {
            Ok(progress) => progress.failure.clone().map_or(Ok(()), Err),
            Err(_closed) => Err(ReportError::Refused(CoordinatorError::Malformed {
                call: "reporting".to_owned(),
                cause: "the reporting task ended".to_owned(),
            })),
        }
    }

    /// Waits until a report is refused or given up; for ever, if none is. Cancel safe.
    pub async fn failed(&mut self) -> ReportError {
        let failed = self
            .progress
            .wait_for(|progress| progress.failure.is_some())
            .await;
        if let Ok(progress) = failed
            && let Some(failure) = &progress.failure
        {
            return failure.clone();
        }
        std::future::pending().await
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}
