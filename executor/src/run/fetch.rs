//! Fetch: who is the service, what is the job (contract executor.md, section 2, start).

use cts_shared::wire::job::AdminJob;
use futures::FutureExt;

use super::Parts;
use super::finish::{send_failure, signal_status};
use crate::config::RunConfig;
use crate::coordinator::CoordinatorError;
use crate::exit::ExitStatus;
use crate::failure::RunFailure;
use crate::report::{self, ReportError};
use crate::run_state::Phase;
use crate::shutdown::{Interrupted, Shutdown};

/// A refused token is told at once at the start: nothing is lost yet, and somebody may be watching.
fn refused_token_is_final<T>(
    result: Result<T, CoordinatorError>,
) -> Result<Result<T, CoordinatorError>, CoordinatorError> {
    match result {
        Err(error @ CoordinatorError::TokenRefused { .. }) => Ok(Err(error)),
        other => other.map(Ok),
    }
}

/// The job, and how the process ends when it cannot be had. Tried again while the service is away.
pub(super) async fn fetch(
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
pub(super) async fn fail_before_the_run(
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
