//! `/callback`: what the transfer services of the NERSC sites call. No site of this service has need of
//! them.

use std::sync::Arc;

use axum::extract::State;

use cts_shared::error_code::ErrorCode;
use cts_shared::site::Site;

use crate::app::App;
use crate::error::Error;
use crate::{jobs, refdata};

use super::checks::{Checks, only_path};
use super::error::ApiError;
use super::extract::PathParams;
use super::parameters;

/// `GET /callback/download/{job_id}`, `/callback/job/{job_id}`, `/callback/upload/{job_id}` and
/// `/callback/errlogs/{job_id}`
pub async fn job(
    State(app): State<Arc<App>>,
    PathParams(job_id): PathParams<String>,
) -> Result<(), ApiError> {
    let job_id = only_path("job_id", &job_id, parameters::id)?;
    let site = jobs::get_summary(&app, jobs::job_id(&job_id)?).await?.site;
    no_callbacks(&app, site).await
}

/// `GET /callback/refdata_download/{refdata_id}/{cluster}`
pub async fn refdata(
    State(app): State<Arc<App>>,
    PathParams((refdata_id, site)): PathParams<(String, String)>,
) -> Result<(), ApiError> {
    let mut checks = Checks::default();
    let (Some(refdata_id), Some(site)) = (
        checks.path("refdata_id", &refdata_id, parameters::id),
        checks.path("cluster", &site, parameters::site),
    ) else {
        return Err(checks.refuse());
    };
    refdata::get(&app, &refdata::refdata_id(&refdata_id)?).await?;
    no_callbacks(&app, site).await
}

async fn no_callbacks(app: &App, site: Site) -> Result<(), ApiError> {
    app.sites.open(site, &*app.site_store).await?;
    Err(Error::refused(
        ErrorCode::UnsupportedOperation,
        format!("site {site} needs no callbacks"),
    )
    .into())
}
