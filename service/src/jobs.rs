//! What can be done with jobs: no HTTP here, and no SQL.

use std::str::FromStr;
use std::sync::Arc;

use cts_shared::error_code::ErrorCode;
use cts_shared::id::JobId;
use cts_shared::state::job_flow::{Change, JobRecord, Refusal};

use crate::app::App;
use crate::error::Error;
use crate::identity::User;
use crate::job_store::{JobFilter, JobStep, JobSummary, ListedJob, StoredJob};

pub mod admin_meta;
pub mod attempts;
pub mod cancel;
pub mod clean;
pub mod containers;
pub mod finish;
pub mod logs;
pub mod notify;
pub mod report;
pub mod resume;
pub mod submit;

/// The id of a job named in a request. What is not an id, in the form in which ids are written, belongs
/// to no job.
///
/// # Errors
/// 40040.
pub fn job_id(text: &str) -> Result<JobId, Error> {
    JobId::from_str(text)
        .ok()
        .filter(|id| id.to_string() == text)
        .ok_or_else(|| no_such_job(text))
}

fn no_such_job(id: impl std::fmt::Display) -> Error {
    Error::refused(
        ErrorCode::NoSuchJob,
        format!("No job with ID '{id}' exists"),
    )
}

/// Any job: for administrators and executors.
///
/// # Errors
/// 40040, or a failure of the store.
pub async fn get(app: &App, id: JobId) -> Result<StoredJob, Error> {
    app.jobs.job(id).await?.ok_or_else(|| no_such_job(id))
}

/// The states and containers of any job.
///
/// # Errors
/// 40040, or a failure of the store.
pub async fn get_record(app: &App, id: JobId) -> Result<JobRecord, Error> {
    app.jobs
        .job_record(id)
        .await?
        .ok_or_else(|| no_such_job(id))
}

/// A job of the user's own.
///
/// # Errors
/// 40040; 20000 if it is another user's, for administrators too (contract section 1.3).
pub async fn get_own(app: &App, user: &User, id: JobId) -> Result<StoredJob, Error> {
    let job = get(app, id).await?;
    check_owner(user, &job.summary)?;
    Ok(job)
}

/// A job of the user's own, without its input.
///
/// # Errors
/// As [`get_own`].
pub async fn get_own_summary(app: &App, user: &User, id: JobId) -> Result<JobSummary, Error> {
    let job = get_summary(app, id).await?;
    check_owner(user, &job)?;
    Ok(job)
}

/// Any job, without its input.
///
/// # Errors
/// 40040, or a failure of the store.
pub async fn get_summary(app: &App, id: JobId) -> Result<JobSummary, Error> {
    app.jobs
        .job_summary(id)
        .await?
        .ok_or_else(|| no_such_job(id))
}

/// The jobs the filter lets through, last changed first, at most `limit`.
///
/// # Errors
/// A failure of the store.
pub async fn list(app: &App, filter: JobFilter, limit: u32) -> Result<Vec<ListedJob>, Error> {
    Ok(app.jobs.list_jobs(filter, limit).await?)
}

fn check_owner(user: &User, job: &JobSummary) -> Result<(), Error> {
    if job.user == user.name {
        return Ok(());
    }
    Err(Error::refused(
        ErrorCode::Unauthorized,
        format!("User {} may not access job {}", user.name, job.id),
    ))
}

/// Takes a step on a job, and tells the finisher if something is to be done then. Both happen once this
/// was polled, even if the caller goes away. None if there is no such job.
///
/// # Errors
/// The refusal's code, or a failure of the store.
pub async fn change<F>(app: &Arc<App>, id: JobId, step: F) -> Result<Option<Change>, Error>
where
    F: Fn(&mut JobRecord) -> Result<Change, Refusal> + Send + 'static,
{
    let step: JobStep =
        Box::new(move |record| step(record).map_err(|refusal| refused_step(id, &refusal)));
    let app = Arc::clone(app);
    let changed = tokio::spawn(async move {
        let change = app.jobs.change_job(id, step).await?;
        if change
            .as_ref()
            .is_some_and(|change| change.pending.is_some())
        {
            // Without a finisher (the service stops) it is found in the store at the next start.
            let _nobody_listens = app.due_jobs.send(id);
        }
        Ok(change)
    });
    changed
        .await
        .unwrap_or_else(|error| Err(Error::Internal(format!("changing job {id}: {error}"))))
}

/// A refused step of a job, for the caller.
fn refused_step(job: JobId, refusal: &Refusal) -> Error {
    match refusal.error_code() {
        Some(code) => Error::refused(code, format!("job {job}: {refusal}")),
        None => Error::Internal(format!("job {job}: {refusal}")),
    }
}
