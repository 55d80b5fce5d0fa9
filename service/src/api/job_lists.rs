//! `GET /jobs` and `GET /admin/jobs`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use cts_shared::validation::scalars::integer;
use cts_shared::validation::times::aware_time;
use cts_shared::wire::job::ListJobsResponse;

use crate::app::App;
use crate::error::Error;
use crate::identity::Role;
use crate::job_store::JobFilter;
use crate::jobs;

use super::checks::Checks;
use super::error::ApiError;
use super::extract::QueryParams;
use super::parameters::{self, USER_NAME};
use super::request_context::Caller;

/// Most jobs in an answer, and as many as are asked for by default.
pub const MAX_JOBS: u32 = 1000;

/// `GET /jobs`
pub async fn list_own(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: QueryParams,
) -> Result<Json<ListJobsResponse>, ApiError> {
    let user = caller.user()?;
    let mut checks = Checks::default();
    let Some((filter, limit)) = filter(&mut checks, &query) else {
        return Err(checks.refuse());
    };
    let filter = JobFilter {
        user: Some(user.name.clone()),
        ..filter
    };
    list(&app, filter, limit).await
}

/// `GET /admin/jobs`
pub async fn list_all(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: QueryParams,
) -> Result<Json<ListJobsResponse>, ApiError> {
    let admin = caller.user()?;
    let mut checks = Checks::default();
    let (Some(user), Some((filter, limit))) = (
        checks.query(&query, "user", |value| USER_NAME.check(value)),
        filter(&mut checks, &query),
    ) else {
        return Err(checks.refuse());
    };
    admin.require_any(&[Role::FullAdmin])?;
    if let Some(user) = &user {
        app.identity
            .check_user_name(user, caller.token()?)
            .await
            .map_err(Error::from)?;
    }
    list(&app, JobFilter { user, ..filter }, limit).await
}

/// Reads what both lists take.
fn filter(checks: &mut Checks, query: &QueryParams) -> Option<(JobFilter, u32)> {
    let (site, state, after, before, limit) = (
        checks.query(query, "cluster", parameters::site),
        checks.query(query, "state", parameters::state),
        checks.query(query, "after", aware_time),
        checks.query(query, "before", aware_time),
        checks.query(query, "limit", |value| integer(value, 1..=MAX_JOBS)),
    );
    let filter = JobFilter {
        user: None,
        site: site?,
        state: state?,
        after: after?,
        before: before?,
    };
    Some((filter, limit?.unwrap_or(MAX_JOBS)))
}

async fn list(
    app: &App,
    filter: JobFilter,
    limit: u32,
) -> Result<Json<ListJobsResponse>, ApiError> {
    Ok(Json(ListJobsResponse {
        jobs: jobs::list(app, filter, limit)
            .await?
            .into_iter()
            .map(|job| job.into_preview())
            .collect(),
    }))
}
