//! One job, for its owner; [`super::job_lists`] has the lists, [`super::logs`] the logs.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;

use cts_shared::error_code::ErrorCode;
use cts_shared::job_input::{ILLEGAL_S3_PATH, JobInput};
use cts_shared::state::job_flow::JobRecord;
use cts_shared::wire::error::ValidationDetail;
use cts_shared::wire::job::{Job, JobStatus, SubmitJobResponse};

use crate::app::App;
use crate::error::Error;
use crate::jobs;

use super::checks::only_path;
use super::error::ApiError;
use super::extract::{JsonBody, PathParams};
use super::parameters;
use super::request_context::Caller;

/// Answer of `GET /jobs/{id}/exit_codes` and the administrators' like: by container number, null
/// where unknown.
#[derive(Debug, Serialize)]
pub struct ExitCodes {
    exit_codes: Vec<Option<i64>>,
}

impl From<JobRecord> for ExitCodes {
    fn from(record: JobRecord) -> Self {
        Self {
            exit_codes: record
                .containers
                .iter()
                .map(|container| container.exit_code)
                .collect(),
        }
    }
}

/// `POST /jobs`
pub async fn submit(
    State(app): State<Arc<App>>,
    caller: Caller,
    body: JsonBody,
) -> Result<Json<SubmitJobResponse>, ApiError> {
    let user = caller.user()?;
    let job_input = submission(&body)?;
    // The checks take their time, and the JSON of 10,000 files its room.
    drop(body);
    let id = jobs::submit::submit_job(&app, user, job_input).await?;
    Ok(Json(SubmitJobResponse {
        job_id: id.to_string(),
    }))
}

fn submission(body: &JsonBody) -> Result<JobInput, Error> {
    let body = body
        .required()
        .map_err(|faults| Error::Invalid(faults.into_details("body")))?;
    JobInput::from_json(body).map_err(invalid_job_input)
}

/// Faults that are all about path segments have a code of their own.
fn invalid_job_input(details: Vec<ValidationDetail>) -> Error {
    let Some(first) = details.first() else {
        return Error::Invalid(details);
    };
    if details.iter().all(|detail| detail.kind == ILLEGAL_S3_PATH) {
        Error::refused(ErrorCode::IllegalS3Path, first.msg.clone())
    } else {
        Error::Invalid(details)
    }
}

/// `GET /jobs/{job_id}`
pub async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams(job_id): PathParams<String>,
) -> Result<Json<Job>, ApiError> {
    let user = caller.user()?;
    let id = jobs::job_id(&only_path("job_id", &job_id, parameters::id)?)?;
    Ok(Json(jobs::get_own(&app, user, id).await?.into_job()))
}

/// `GET /jobs/{job_id}/status`
pub async fn status(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams(job_id): PathParams<String>,
) -> Result<Json<JobStatus>, ApiError> {
    let user = caller.user()?;
    let id = jobs::job_id(&only_path("job_id", &job_id, parameters::id)?)?;
    Ok(Json(
        jobs::get_own_summary(&app, user, id).await?.to_status(),
    ))
}

/// `GET /jobs/{job_id}/exit_codes`
pub async fn exit_codes(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams(job_id): PathParams<String>,
) -> Result<Json<ExitCodes>, ApiError> {
    let user = caller.user()?;
    let id = jobs::job_id(&only_path("job_id", &job_id, parameters::id)?)?;
    jobs::get_own_summary(&app, user, id).await?;
    Ok(Json(jobs::get_record(&app, id).await?.into()))
}

/// `PUT /jobs/{job_id}/cancel`
pub async fn cancel(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams(job_id): PathParams<String>,
) -> Result<StatusCode, ApiError> {
    let user = caller.user()?;
    let id = jobs::job_id(&only_path("job_id", &job_id, parameters::id)?)?;
    jobs::cancel::cancel_own(&app, user, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
