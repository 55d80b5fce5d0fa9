//! What is taken up again when the service starts: jobs that were stored but not handed to their
//! site, and containers whose site must find out what became of their executors.

use std::sync::Arc;

use cts_shared::id::{ContainerNumber, JobId};
use cts_shared::site::Site;
use cts_shared::state::job_flow::{Change, Refusal};

use crate::app::App;
use crate::error::Error;

use super::change;

/// Hands a stored job to its site, and records that the site has it. Safe to repeat at any point.
///
/// # Errors
/// When the site does not take it, or the store fails. The job stays as it is and is tried again; see
/// [`crate::background::starter`].
pub async fn start_on_site(app: &Arc<App>, site: Site, id: JobId) -> Result<(), Error> {
    let Some(record) = app.jobs.job_record(id).await? else {
        return Ok(());
    };
    if record.state().is_terminal() || record.state().is_cancel() {
        return Ok(());
    }
    let containers: Vec<ContainerNumber> = (0..)
        .zip(&record.containers)
        .filter(|(_, container)| !container.state().is_terminal())
        .map(|(number, _)| number)
        .collect();
    app.sites
        .available(site)?
        .start(id, containers)
        .await
        .map_err(|error| Error::Internal(format!("site {site} did not take job {id}: {error}")))?;
    let now = app.clock.now();
    change(app, id, move |record| match record.queued(now) {
        // Canceled meanwhile: the cancel stops what was started.
        Err(Refusal::JobState { .. }) => Ok(Change::default()),
        outcome => outcome,
    })
    .await?;
    Ok(())
}

/// Hands every job of a site that has not ended to it again.
///
/// # Errors
/// When the store fails.
pub async fn resume_site(app: &Arc<App>, site: Site) -> Result<(), Error> {
    for id in app.jobs.running_jobs(site).await? {
        match start_on_site(app, site, id).await {
            Ok(()) => tracing::info!(job.id = %id, site = %site, "job taken up again"),
            Err(error) => {
                tracing::error!(job.id = %id, site = %site, %error, "job not taken up again");
            }
        }
    }
    Ok(())
}
