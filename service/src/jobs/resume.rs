//! What is taken up again when the service starts: jobs that were stored but not handed to their
//! site, and containers whose site must find out what became of their executors.

use std::sync::Arc;

use cts_shared::id::{ContainerNumber, JobId};
use cts_shared::site::Site;
use cts_shared::state::job_flow::{Change, Refusal, UNEXPECTED_ERROR};
use cts_shared::wire::job::SiteNotice;

use crate::app::App;
use crate::compute_site::SiteError;
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
    match app.sites.available(site)?.start(id, containers).await {
        Ok(()) => note_taken(app, id).await,
        Err(SiteError::Busy) => Ok(()),
        Err(SiteError::Unavailable(cause)) => {
            let message = format!("it waits for site {site}: {cause}");
            let known = app.jobs.job_summary(id).await?;
            let told = known.and_then(|summary| summary.notes.site_notice);
            if told.is_none_or(|notice| notice.message != message) {
                let since = app.clock.now();
                let notice = SiteNotice {
                    message: message.clone(),
                    since,
                };
                app.jobs.set_site_notice(id, Some(notice)).await?;
            }
            Err(Error::Internal(format!("job {id}: {message}")))
        }
        Err(SiteError::Refused(cause)) => {
            let now = app.clock.now();
            let admin_error = format!("site {site} does not take the job: {cause}");
            let notice = SiteNotice {
                message: format!("{admin_error}; ask the service's administrators"),
                since: now,
            };
            tracing::error!(job.id = %id, %admin_error, "the job fails");
            change(app, id, move |record| {
                match record.fail(UNEXPECTED_ERROR, &admin_error, None, now) {
                    // Ended or canceled meanwhile.
                    Err(Refusal::JobState { .. }) => Ok(Change::default()),
                    outcome => outcome,
                }
            })
            .await?;
            app.jobs.set_site_notice(id, Some(notice)).await?;
            Ok(())
        }
    }
}

/// Records that its site has a job.
///
/// # Errors
/// When the store fails.
pub async fn note_taken(app: &Arc<App>, id: JobId) -> Result<(), Error> {
    let now = app.clock.now();
    change(app, id, move |record| match record.queued(now) {
        // Canceled meanwhile: the cancel stops what was started.
        Err(Refusal::JobState { .. }) => Ok(Change::default()),
        outcome => outcome,
    })
    .await?;
    let waited = app.jobs.job_summary(id).await?;
    if waited.is_some_and(|summary| summary.notes.site_notice.is_some()) {
        // Whatever it waited for.
        app.jobs.set_site_notice(id, None).await?;
    }
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
