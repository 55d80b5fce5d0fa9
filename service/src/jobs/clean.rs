//! Removing what jobs leave behind at their sites (contract service.md, section 6, "Clean job").

use cts_shared::error_code::ErrorCode;
use cts_shared::id::{ContainerNumber, JobId};

use crate::app::App;
use crate::error::Error;

use super::{get_record, get_summary};

/// Removes what a job left behind at its site, and notes that on a job that has ended. Does nothing
/// for a job that is cleaned.
///
/// A job that has not ended is cleaned only by `force`, and then of the containers that have ended:
/// the others need what they have.
///
/// # Errors
/// 40040; 30300 (it has not ended); 60020; [`Error::Unavailable`] if an executor is about to end; or a
/// failure of site or store. What could not be removed now is removed when this is called again.
pub async fn clean_job(app: &App, id: JobId, force: bool) -> Result<(), Error> {
    let job = get_summary(app, id).await?;
    if job.notes.cleaned {
        return Ok(());
    }
    let ended = job.state().is_terminal();
    if !ended && !force {
        return Err(Error::refused(
            ErrorCode::InvalidJobState,
            format!(
                "job {id} is in state {}; it can be cleaned when it has ended, or with force=true",
                job.state()
            ),
        ));
    }
    let containers: Vec<ContainerNumber> = (0..)
        .zip(&get_record(app, id).await?.containers)
        // Once the job has ended no container of it is started any more.
        .filter(|(_, container)| ended || container.state().is_terminal())
        .map(|(number, _)| number)
        .collect();
    app.sites.available(job.site)?.clean(id, containers).await?;
    if ended {
        app.jobs.mark_cleaned(id).await?;
    }
    tracing::info!(job.id = %id, job.state = %job.state(), "job cleaned");
    Ok(())
}
