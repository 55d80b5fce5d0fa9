//! `/jobs` and `/admin/jobs`.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use cts_shared::error_code::ErrorCode;
use cts_shared::job_input::{ILLEGAL_S3_PATH, JobInput};
use cts_shared::wire::container::Container;
use cts_shared::wire::error::ValidationDetail;
use cts_shared::wire::job::{AdminJob, Job, JobStatus, SubmitJobResponse};

use crate::app::App;
use crate::error::Error;
use crate::identity::Role;
use crate::job_store::container_view;
use crate::jobs;
use crate::jobs::logs::LogStream;
use crate::object_store::ByteRange;

use super::error::ApiError;
use super::extract::{JsonBody, PathParams, QueryParams, check_id, container_number};
use super::request_context::Caller;

/// Answer of `GET /jobs/{id}/exit_codes`: by container number, null where unknown.
#[derive(Debug, Serialize)]
pub struct ExitCodes {
    exit_codes: Vec<Option<i64>>,
}

/// Answer of `GET /admin/jobs/{id}/container`.
#[derive(Debug, Serialize)]
pub struct SubJobs {
    subjobs: Vec<Container>,
}

/// `POST /jobs`
pub async fn submit(
    State(app): State<Arc<App>>,
    caller: Caller,
    body: JsonBody,
) -> Result<Json<SubmitJobResponse>, ApiError> {
    let user = caller.user()?;
    let job_input = JobInput::from_json(&body.required()?).map_err(invalid_job_input)?;
    let id = jobs::submit::submit_job(&app, user, job_input).await?;
    Ok(Json(SubmitJobResponse {
        job_id: id.to_string(),
    }))
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
    let id = jobs::job_id(check_id(&job_id, "job_id")?)?;
    Ok(Json(jobs::get_own(&app, user, id).await?.into_job()))
}

/// `GET /jobs/{job_id}/status`
pub async fn status(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams(job_id): PathParams<String>,
) -> Result<Json<JobStatus>, ApiError> {
    let user = caller.user()?;
    let id = jobs::job_id(check_id(&job_id, "job_id")?)?;
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
    let id = jobs::job_id(check_id(&job_id, "job_id")?)?;
    jobs::get_own_summary(&app, user, id).await?;
    let record = jobs::get_record(&app, id).await?;
    Ok(Json(ExitCodes {
        exit_codes: record
            .containers
            .iter()
            .map(|container| container.exit_code)
            .collect(),
    }))
}

/// `PUT /jobs/{job_id}/cancel`
pub async fn cancel(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams(job_id): PathParams<String>,
) -> Result<StatusCode, ApiError> {
    let user = caller.user()?;
    let id = jobs::job_id(check_id(&job_id, "job_id")?)?;
    jobs::cancel::cancel_own(&app, user, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /jobs/{job_id}/log/{container_num}/stdout`
pub async fn stdout_log(
    state: State<Arc<App>>,
    caller: Caller,
    params: PathParams<(String, String)>,
    query: QueryParams,
) -> Result<Response, ApiError> {
    log(state, caller, params, query, LogStream::Stdout).await
}

/// `GET /jobs/{job_id}/log/{container_num}/stderr`
pub async fn stderr_log(
    state: State<Arc<App>>,
    caller: Caller,
    params: PathParams<(String, String)>,
    query: QueryParams,
) -> Result<Response, ApiError> {
    log(state, caller, params, query, LogStream::Stderr).await
}

async fn log(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams((job_id, container)): PathParams<(String, String)>,
    query: QueryParams,
    stream: LogStream,
) -> Result<Response, ApiError> {
    let user = caller.user()?;
    let job_id = check_id(&job_id, "job_id")?;
    let container = container_number(&container)?;
    let range = ByteRange {
        first: query.integer("seek", 0)?.unwrap_or(0),
        length: query.integer("length", 1)?,
    };
    let id = jobs::job_id(job_id)?;
    let content = jobs::logs::read(&app, user, id, container, stream, range).await?;
    let disposition = format!("attachment; filename={}", stream.file_name(container));
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8".to_owned()),
        (header::CONTENT_DISPOSITION, disposition),
    ];
    Ok((headers, Body::from_stream(content)).into_response())
}

/// `GET /admin/jobs/{job_id}`: administrators and executors.
pub async fn admin_get(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams(job_id): PathParams<String>,
) -> Result<Json<AdminJob>, ApiError> {
    let user = caller.user()?;
    let job_id = check_id(&job_id, "job_id")?;
    user.require_any(&[Role::FullAdmin, Role::ExternalExecutor])?;
    let id = jobs::job_id(job_id)?;
    Ok(Json(jobs::get(&app, id).await?.into_admin_job()))
}

/// `GET /admin/jobs/{job_id}/container`
pub async fn admin_containers(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams(job_id): PathParams<String>,
) -> Result<Json<SubJobs>, ApiError> {
    let user = caller.user()?;
    let job_id = check_id(&job_id, "job_id")?;
    user.require_any(&[Role::FullAdmin])?;
    let id = jobs::job_id(job_id)?;
    let record = jobs::get_record(&app, id).await?;
    Ok(Json(SubJobs {
        subjobs: (0..)
            .zip(record.containers)
            .map(|(number, container)| container_view(id, number, container))
            .collect(),
    }))
}
