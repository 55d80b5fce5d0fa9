//! Ends jobs that can end, as soon as they can; see [`crate::jobs::finish`].

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::error::Error;
use crate::jobs::finish::finish_job;

/// How long a job that could not be ended waits for the next try, and how long one that nobody woke
/// us for (left over from a crash) can be overlooked.
const ROUND: Duration = Duration::from_secs(30);

/// Jobs found at a time.
const BATCH: u32 = 100;

/// Tries to end every job that is due. One that cannot be ended now is logged and stays due.
///
/// # Errors
/// When the store fails.
pub async fn finish_pending_jobs(app: &App) -> Result<(), Error> {
    let mut after = None;
    loop {
        let ids = app.jobs.pending_jobs(after, BATCH).await?;
        let Some(last) = ids.last() else {
            return Ok(());
        };
        after = Some(*last);
        for id in ids {
            if let Err(error) = finish_job(app, id).await {
                tracing::warn!(job.id = %id, %error, "the job cannot be ended now and is tried again");
            }
        }
    }
}

/// Ends jobs until told to stop.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    loop {
        if let Err(error) = finish_pending_jobs(&app).await {
            tracing::error!(%error, "cannot look for jobs to end");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = app.job_pending.notified() => {}
            () = tokio::time::sleep(ROUND) => {}
        }
    }
}
