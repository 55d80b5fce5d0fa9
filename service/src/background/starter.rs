//! Hands jobs to their site that were stored but that no site has taken: the service was killed in
//! between, or the site did not answer.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::error::Error;
use crate::jobs::resume::start_on_site;

/// How often it is tried.
const ROUND: Duration = Duration::from_secs(15);

/// How long after a submission a job is first looked for here: the submission itself hands it over.
const GRACE: Duration = Duration::from_secs(15);

/// Jobs handed over in a round.
const BATCH: u32 = 1000;

/// Hands jobs over until told to stop. The first round is at once: a service that is killed again and again
/// gets on, too.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    loop {
        if let Err(error) = start_waiting_jobs(&app, GRACE).await {
            tracing::error!(%error, "cannot look for jobs that wait for their site");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(ROUND) => {}
        }
    }
}

/// Hands every job to its site that was submitted that long ago and is still not taken. One that is
/// not taken now is logged and stays as it is.
///
/// # Errors
/// When the store fails.
pub async fn start_waiting_jobs(app: &Arc<App>, age: Duration) -> Result<(), Error> {
    let before = app.clock.now().minus(age);
    for (id, site) in app.jobs.unstarted_jobs(before, BATCH).await? {
        match start_on_site(app, site, id).await {
            Ok(()) => tracing::info!(job.id = %id, site = %site, "job handed to its site"),
            Err(error) => {
                tracing::warn!(job.id = %id, site = %site, %error, "the job waits for its site");
            }
        }
    }
    Ok(())
}
