//! Notifications of the jobs' transitions, for administrators.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;

use cts_shared::validation::durations::duration;

use crate::app::App;
use crate::identity::Role;
use crate::jobs::{self, notify};

use super::checks::Checks;
use super::error::ApiError;
use super::extract::{PathParams, QueryParams};
use super::parameters;
use super::request_context::Caller;

/// Age from which a transition counts as unsent, if the request does not say.
pub const DEFAULT_AGE: Duration = Duration::from_mins(10);

/// Least age that may be asked for: younger transitions are on their way.
const LEAST_AGE: Duration = Duration::from_mins(1);

/// Answer of `POST /admin/unsent_notifications`.
#[derive(Debug, Serialize)]
pub struct UnsentNotifications {
    jobs: u64,
    transitions: u64,
}

/// `PUT /admin/jobs/{job_id}/notify`
pub async fn resend(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams(job_id): PathParams<String>,
    query: QueryParams,
) -> Result<StatusCode, ApiError> {
    let admin = caller.user()?;
    let mut checks = Checks::default();
    let (Some(job_id), Some(state)) = (
        checks.path("job_id", &job_id, parameters::id),
        checks.required_query(&query, "state", parameters::state),
    ) else {
        return Err(checks.refuse());
    };
    admin.require_any(&[Role::FullAdmin])?;
    notify::resend(&app, jobs::job_id(&job_id)?, state).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /admin/unsent_notifications`: how many transitions wait to be sent. It queues only what
/// the existing service stored and left: the sender sends all that wait, whatever their age.
pub async fn unsent(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: QueryParams,
) -> Result<Json<UnsentNotifications>, ApiError> {
    let admin = caller.user()?;
    let mut checks = Checks::default();
    let age = checks.query(&query, "notification_age", |value| {
        duration(value, LEAST_AGE, "PT1M")
    });
    let Some(age) = age else {
        return Err(checks.refuse());
    };
    admin.require_any(&[Role::FullAdmin])?;
    let unsent = notify::unsent(&app, age.unwrap_or(DEFAULT_AGE)).await?;
    Ok(Json(UnsentNotifications {
        jobs: unsent.jobs,
        transitions: unsent.transitions,
    }))
}
