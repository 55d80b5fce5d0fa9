//! An executor begins with a container, or is still at work with it ([`cts_shared::state::attempts`]).

use std::sync::Arc;

use cts_shared::id::{ContainerNumber, JobId};
use cts_shared::state::attempts::Announcement;
use cts_shared::state::job_flow::{Change, JobRecord, Refusal};
use cts_shared::wire::attempt::AttemptStanding;

use crate::app::App;
use crate::error::Error;

use super::{change, no_such_job};

/// An executor announces itself. The same executor again keeps its number.
///
/// # Errors
/// 40040; 40050 if there is no such container; 50200 if a later executor has begun; or a failure of the
/// store.
pub async fn announce(
    app: &Arc<App>,
    job: JobId,
    container: ContainerNumber,
    executor: Announcement,
) -> Result<AttemptStanding, Error> {
    let now = app.clock.now();
    let host = executor.host.clone();
    let standing = step_and_standing(app, job, move |record| {
        record.announce(container, &executor, now)
    })
    .await?;
    tracing::info!(
        job.id = %job,
        container.num = container,
        attempt = standing.attempt,
        wanted = standing.wanted,
        host,
        "executor announced itself"
    );
    Ok(standing)
}

/// The executor of an attempt is still at work, or is `leaving`.
///
/// # Errors
/// As [`announce`]; 50200 also if the attempt is another executor's.
pub async fn renew(
    app: &Arc<App>,
    job: JobId,
    container: ContainerNumber,
    attempt: u32,
    instance: String,
    leaving: bool,
) -> Result<AttemptStanding, Error> {
    let now = app.clock.now();
    step_and_standing(app, job, move |record| {
        if leaving {
            record.leave(container, attempt, &instance, now)
        } else {
            record.renew(container, attempt, &instance, now)
        }
    })
    .await
}

async fn step_and_standing<F>(app: &Arc<App>, job: JobId, step: F) -> Result<AttemptStanding, Error>
where
    F: Fn(&mut JobRecord) -> Result<Change, Refusal> + Send + 'static,
{
    change(app, job, step)
        .await?
        .ok_or_else(|| no_such_job(job))?
        .standing
        .ok_or_else(|| Error::Internal(format!("job {job}: an attempt without a standing")))
}
