//! Fetch: who is the service, which attempt is this, what is the job (contract executor.md, section 2, start).

use std::sync::Arc;

use cts_shared::wire::job::AdminJob;
use cts_shared::wire::root::Root;
use tokio_util::sync::CancellationToken;

use super::Parts;
use super::finish::{send_failure, signal_status};
use crate::config::RunConfig;
use crate::coordinator::CoordinatorError;
use crate::exit::ExitStatus;
use crate::failure::RunFailure;
use crate::identity::Identity;
use crate::report::attempt::Attempt;
use crate::report::{self, ReportError};
use crate::run_state::Phase;
use crate::shutdown::{Interrupted, Shutdown};

/// Who the service is and what it can do. Tried again while it is away.
pub(super) async fn greet(
    config: &RunConfig,
    parts: &Parts,
    shutdown: &Shutdown,
) -> Result<Root, ExitStatus> {
    let coordinator = parts.coordinator.as_ref();
    let (clock, budget) = (parts.clock.as_ref(), config.update_budget);
    let call = report::retry_at_start(clock, budget, "greeting the service", || coordinator.root());
    let root = match shutdown.unless_interrupted(call).await {
        Err(Interrupted) => return Err(signal_status(shutdown)),
        Ok(Err(error)) => {
            return Err(cannot_start(config, parts, shutdown, None, error).await);
        }
        Ok(Ok(root)) => root,
    };
    tracing::info!(
        service = root.service_name,
        version = root.version,
        commit = root.git_hash,
        "reached the service"
    );
    Ok(root)
}

/// Announces this executor. None where the service counts no attempts after all.
pub(super) async fn announce(
    config: &RunConfig,
    parts: &Parts,
    shutdown: &Shutdown,
    identity: &Identity,
    halt: &CancellationToken,
) -> Result<Option<Arc<Attempt>>, ExitStatus> {
    let announced = Attempt::announce(
        Arc::clone(&parts.coordinator),
        Arc::clone(&parts.clock),
        config.update_budget,
        identity.clone(),
        halt.clone(),
    );
    match shutdown.unless_interrupted(announced).await {
        Err(Interrupted) => Err(signal_status(shutdown)),
        Ok(Err(error)) => Err(cannot_start(config, parts, shutdown, None, error).await),
        Ok(Ok(attempt)) => Ok(attempt),
    }
}

/// The job, and how the process ends when it cannot be had. Tried again while the service is away.
pub(super) async fn fetch(
    config: &RunConfig,
    parts: &Parts,
    shutdown: &Shutdown,
    attempt: Option<&Attempt>,
) -> Result<AdminJob, ExitStatus> {
    let coordinator = parts.coordinator.as_ref();
    let (clock, budget) = (parts.clock.as_ref(), config.update_budget);
    let call = report::retry_at_start(clock, budget, "fetching the job", || coordinator.job());
    match shutdown.unless_interrupted(call).await {
        Err(Interrupted) => Err(signal_status(shutdown)),
        Ok(Err(error)) => Err(cannot_start(config, parts, shutdown, attempt, error).await),
        Ok(Ok(job)) => Ok(job),
    }
}

/// Nothing has begun, and nothing can: how the process ends.
async fn cannot_start(
    config: &RunConfig,
    parts: &Parts,
    shutdown: &Shutdown,
    attempt: Option<&Attempt>,
    error: ReportError,
) -> ExitStatus {
    let status = match error {
        ReportError::BudgetUsedUp { .. } => ExitStatus::ServiceUnavailable,
        ReportError::Refused(CoordinatorError::Malformed { .. }) => {
            // The service is there and would wait for ever: it must hear why.
            let failure = RunFailure::new("read the job", &error);
            return fail_before_the_run(config, parts, shutdown, attempt, failure).await;
        }
        ReportError::JobEnded { .. } | ReportError::Superseded => {
            tracing::info!("nothing to do: {error}");
            return ExitStatus::Done;
        }
        ReportError::Refused(_) => ExitStatus::NoPermission,
    };
    tracing::error!("cannot start: {error}");
    status
}

/// Reports what keeps the run from beginning.
pub(super) async fn fail_before_the_run(
    config: &RunConfig,
    parts: &Parts,
    shutdown: &Shutdown,
    attempt: Option<&Attempt>,
    failure: RunFailure,
) -> ExitStatus {
    tracing::error!("{}", failure.failure);
    let budget = config.update_budget;
    let report = send_failure(config, parts, attempt, Phase::Staging, failure, budget);
    match shutdown.unless_interrupted(report).await {
        Ok(status) => status,
        Err(Interrupted) => signal_status(shutdown),
    }
}
