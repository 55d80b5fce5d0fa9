//! Canceling a job (contract service.md, section 5.4).

use std::sync::Arc;

use cts_shared::id::JobId;

use crate::app::App;
use crate::error::Error;
use crate::identity::User;

use super::{change, get_own_summary, no_such_job};

/// The owner cancels a job: it is `canceling` when this returns. Its executors are stopped and the
/// job ends in `canceled` in the background.
///
/// # Errors
/// 40040 (also if it has ended or is being canceled), 20000, or a failure of the store.
pub async fn cancel_own(app: &Arc<App>, user: &User, id: JobId) -> Result<(), Error> {
    get_own_summary(app, user, id).await?;
    cancel_any(app, id).await
}

/// As [`cancel_own`], whoever's job it is.
///
/// # Errors
/// 40040 (also if it has ended or is being canceled), or a failure of the store.
pub async fn cancel_any(app: &Arc<App>, id: JobId) -> Result<(), Error> {
    let now = app.clock.now();
    let canceled = change(app, id, move |record| record.cancel(now)).await?;
    if canceled.is_none() {
        return Err(no_such_job(id));
    }
    tracing::info!(job.id = %id, "job is being canceled");
    Ok(())
}
