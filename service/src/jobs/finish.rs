//! Ends jobs: what is left to do when all containers have ended, or the job is being canceled
//! (contract service.md, section 5.3, "Terminal lifts").
//!
//! Each step can be repeated: nothing is changed before the last one, which is atomic. That a job is
//! due follows from its record, so it is found again after a crash.

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};

use cts_shared::container_log::LogStream;
use cts_shared::id::JobId;
use cts_shared::s3_path::S3Path;
use cts_shared::state::JobState;
use cts_shared::state::job_flow::{Evidence, JobRecord, Pending, Statistics};
use cts_shared::wire::container::ContainerUsage;
use cts_shared::wire::job::{S3File, SiteNotice};

use crate::app::App;
use crate::condor::statistics::measured;
use crate::error::Error;
use crate::object_store::ObjectStoreError;

use super::change;

/// Objects asked about at the same time.
const CONCURRENT_HEADS: usize = 32;

/// Ends the job if it is due.
///
/// # Errors
/// When S3, the site or the store does not answer: the job stays due.
pub async fn finish_job(app: &Arc<App>, id: JobId) -> Result<(), Error> {
    let Some(record) = app.jobs.job_record(id).await? else {
        return Ok(());
    };
    let checksums = match record.pending() {
        None => return Ok(()),
        Some(Pending::Cancel) => {
            stop_executors(app, id).await?;
            HashMap::new()
        }
        Some(Pending::Error) => HashMap::new(),
        Some(Pending::Complete) => stored_checksums(app, record.merged_outputs()).await?,
    };
    let log_path = app.config.log_dir.join(id);
    let logs_stored = logs_stored(app, &log_path, &record).await?;
    let (statistics, statistics_due) = statistics_by_now(app, id, &record).await?;
    let now = app.clock.now();
    let ended = record;
    let change = change(app, id, move |record| {
        let evidence = Evidence {
            statistics,
            statistics_due,
            checksums: &checksums,
            log_path: &log_path,
            logs_stored,
        };
        record.finish(&evidence, now)
    })
    .await?;
    for transition in change.iter().flat_map(|change| &change.transitions) {
        tracing::info!(job.id = %id, job.state = %transition.state, "job ended");
        if transition.state == JobState::Error && !is_told_of_an_end(app, id, &ended).await? {
            // Whatever it once waited for.
            app.jobs.set_site_notice(id, None).await?;
        }
    }
    Ok(())
}

/// Whether the job's notice tells why one of its containers ended.
async fn is_told_of_an_end(app: &App, id: JobId, record: &JobRecord) -> Result<bool, Error> {
    let notice = app.jobs.job_summary(id).await?;
    let notice = notice.and_then(|summary| summary.notes.site_notice);
    Ok(notice.is_none_or(|notice| tells_of_an_end(&notice, record)))
}

/// Whether a notice tells why a container ended, and so stays true.
#[must_use]
pub fn tells_of_an_end(notice: &SiteNotice, record: &JobRecord) -> bool {
    record
        .containers
        .iter()
        .filter(|container| container.state() == JobState::Error)
        .filter_map(|container| container.admin_error.as_deref())
        .any(|reason| notice.message.contains(reason))
}

async fn stop_executors(app: &App, id: JobId) -> Result<(), Error> {
    let Some(job) = app.jobs.job_summary(id).await? else {
        return Ok(());
    };
    // A site that is unavailable now keeps the job in `canceling` until it is back.
    app.sites
        .available(job.site)?
        .cancel(id)
        .await
        .map_err(|error| Error::Unavailable {
            message: format!("the executors of job {id} could not be stopped: {error}"),
            retry_after: std::time::Duration::from_secs(30),
        })
}

/// What the executors measured, and whether a batch system's account is still to come: the job's end does
/// not wait for it.
async fn statistics_by_now(
    app: &App,
    id: JobId,
    record: &JobRecord,
) -> Result<(Statistics, bool), Error> {
    let Some(summary) = app.jobs.job_summary(id).await? else {
        return Ok((Statistics::default(), false));
    };
    // Also where this service has no pool: another over the same store may fill it in.
    let is_due = summary.site.gives_account();
    let usage: Vec<ContainerUsage> = record
        .containers
        .iter()
        .filter_map(|container| container.usage)
        .collect();
    if usage.is_empty() {
        return Ok((Statistics::default(), is_due));
    }
    let cpus = match app.jobs.job(id).await? {
        Some(job) => job.job_input.cpus,
        None => return Ok((Statistics::default(), is_due)),
    };
    Ok((measured(&usage, cpus), is_due))
}

/// The checksums S3 has for the outputs. One that is missing, or may not be seen, is left out.
async fn stored_checksums(
    app: &App,
    outputs: Vec<S3File>,
) -> Result<HashMap<String, String>, Error> {
    futures::stream::iter(outputs)
        .map(|output| async move {
            let Ok(path) = S3Path::parse(&output.file) else {
                return Ok(None);
            };
            match app.object_store.head(&path).await {
                Ok(head) => Ok(head.crc64nvme.map(|checksum| (output.file, checksum))),
                Err(error @ ObjectStoreError::Unavailable { .. }) => Err(Error::from(error)),
                Err(_not_there) => Ok(None),
            }
        })
        .buffer_unordered(CONCURRENT_HEADS)
        .try_filter_map(|checksum| async move { Ok(checksum) })
        .try_collect()
        .await
}

/// Whether any container's log is there.
async fn logs_stored(app: &App, log_path: &str, record: &JobRecord) -> Result<bool, Error> {
    let containers = u32::try_from(record.containers.len()).unwrap_or(u32::MAX);
    let found = futures::stream::iter(0..containers)
        .map(|number| async move {
            let key = format!("{log_path}/{}", LogStream::Stdout.file_name(number));
            let Ok(path) = S3Path::parse(&key) else {
                return Ok(false);
            };
            match app.object_store.head(&path).await {
                Ok(_head) => Ok(true),
                Err(error @ ObjectStoreError::Unavailable { .. }) => Err(Error::from(error)),
                Err(_not_there) => Ok(false),
            }
        })
        .buffered(CONCURRENT_HEADS);
    futures::pin_mut!(found);
    while let Some(stored) = found.try_next().await? {
        if stored {
            return Ok(true);
        }
    }
    Ok(false)
}
