//! Removes what ended jobs, and ended stagings of reference data, left behind at their sites, once they are old
//! enough (contract service.md, section 6, "Clean job"). Their records stay.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::error::Error;
use crate::jobs::clean::clean_job;
use crate::refdata::clean::clean_refdata;

/// Added to each wait, at random, so that several services do not clean at the same moment.
const MAX_JITTER: Duration = Duration::from_mins(10);

/// Jobs found at a time.
const BATCH: u32 = 500;

/// Cleans until told to stop.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    loop {
        let jitter = MAX_JITTER.mul_f64(rand::rng().random());
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(app.config.cleaning.interval + jitter) => {}
        }
        match clean_old_jobs(&app).await {
            Ok(cleaned) => tracing::info!(cleaned, "jobs cleaned"),
            Err(error) => tracing::error!(%error, "cannot look for jobs to clean"),
        }
        match clean_old_refdata(&app).await {
            Ok(cleaned) => tracing::info!(cleaned, "stagings of reference data cleaned"),
            Err(error) => tracing::error!(%error, "cannot look for reference data to clean"),
        }
    }
}

/// Cleans the jobs that are old enough; tells how many. One that cannot be cleaned is logged and
/// tried again in the next round.
///
/// # Errors
/// When the store fails.
pub async fn clean_old_jobs(app: &App) -> Result<usize, Error> {
    let before = app.clock.now().minus(app.config.cleaning.age);
    let mut cleaned = 0;
    loop {
        let ids = app.jobs.jobs_to_clean(before, BATCH).await?;
        let mut succeeded = 0;
        for id in ids {
            match clean_job(app, id, false).await {
                Ok(()) => succeeded += 1,
                Err(error) => tracing::warn!(job.id = %id, %error, "the job cannot be cleaned now"),
            }
        }
        cleaned += succeeded;
        // Only jobs that cannot be cleaned are left, or none.
        if succeeded == 0 {
            return Ok(cleaned);
        }
    }
}

/// Cleans the stagings of reference data that are old enough; tells how many. One that cannot be cleaned is
/// logged and tried again in the next round.
///
/// # Errors
/// When the store fails.
pub async fn clean_old_refdata(app: &App) -> Result<usize, Error> {
    let before = app.clock.now().minus(app.config.cleaning.age);
    let mut cleaned = 0;
    for (id, site) in app.refdata.refdata_to_clean(before).await? {
        // Statuses of sites that only the existing service had stay as they are.
        if app.sites.available(site).is_err() {
            continue;
        }
        match clean_refdata(app, &id, site).await {
            Ok(()) => cleaned += 1,
            Err(error) => {
                tracing::warn!(refdata.id = %id, %site, %error, "reference data cannot be cleaned now");
            }
        }
    }
    Ok(cleaned)
}
