//! `GET /jobs/{job_id}/log/{container_num}/stdout` and `/stderr`.
//!
//! A part is asked for with `seek` and `length`, which the contract has and which are answered with 200,
//! or with a `Range` header, which is answered as HTTP says (RFC 9110, section 14). Where both are
//! given the header is passed over.

use std::ops::RangeInclusive;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_range_header::parse_range_header;

use cts_shared::container_log::LogStream;
use cts_shared::validation::scalars::at_least;

use crate::app::App;
use crate::jobs;
use crate::jobs::logs::Log;
use crate::object_store::{ByteRange, ObjectStream};

use super::checks::Checks;
use super::error::ApiError;
use super::extract::{PathParams, QueryParams};
use super::parameters;
use super::request_context::Caller;

/// `GET /jobs/{job_id}/log/{container_num}/stdout`
pub async fn stdout(
    state: State<Arc<App>>,
    caller: Caller,
    params: PathParams<(String, String)>,
    query: QueryParams,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    log(state, caller, params, query, &headers, LogStream::Stdout).await
}

/// `GET /jobs/{job_id}/log/{container_num}/stderr`
pub async fn stderr(
    state: State<Arc<App>>,
    caller: Caller,
    params: PathParams<(String, String)>,
    query: QueryParams,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    log(state, caller, params, query, &headers, LogStream::Stderr).await
}

async fn log(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams((job_id, container)): PathParams<(String, String)>,
    query: QueryParams,
    headers: &HeaderMap,
    stream: LogStream,
) -> Result<Response, ApiError> {
    let user = caller.user()?;
    let mut checks = Checks::default();
    let (Some(job_id), Some(container), Some(seek), Some(length)) = (
        checks.path("job_id", &job_id, parameters::id),
        checks.path("container_num", &container, parameters::container_number),
        checks.query(&query, "seek", |value| at_least(value, 0)),
        checks.query(&query, "length", |value| at_least(value, 1)),
    ) else {
        return Err(checks.refuse());
    };
    let log = Log::of(&app, user, jobs::job_id(&job_id)?, container, stream).await?;
    let mut response = match requested_range(headers) {
        Some(range) if seek.is_none() && length.is_none() => part(&app, &log, range).await?,
        _ => {
            let first = seek.unwrap_or(0);
            whole(log.read(&app, ByteRange { first, length }).await?)
        }
    };
    let disposition = format!("attachment; filename={}", stream.file_name(container));
    let headers = response.headers_mut();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    if let Ok(disposition) = HeaderValue::from_str(&disposition) {
        headers.insert(header::CONTENT_DISPOSITION, disposition);
    }
    Ok(response)
}

/// The text of a `Range` header that is to be obeyed. With `If-Range` it is not: logs have no
/// validator that could match.
fn requested_range(headers: &HeaderMap) -> Option<&str> {
    if headers.contains_key(header::IF_RANGE) {
        return None;
    }
    headers.get(header::RANGE)?.to_str().ok()
}

fn whole(content: ObjectStream) -> Response {
    Body::from_stream(content).into_response()
}

/// One range as 206. A header that makes no sense, or asks for several ranges, is passed over.
async fn part(app: &App, log: &Log, range: &str) -> Result<Response, ApiError> {
    let everything = ByteRange {
        first: 0,
        length: None,
    };
    let Ok(ranges) = parse_range_header(range) else {
        return Ok(whole(log.read(app, everything).await?));
    };
    if ranges.ranges.len() != 1 {
        return Ok(whole(log.read(app, everything).await?));
    }
    let size = log.size(app).await?;
    let satisfiable = ranges.validate(size).ok();
    let Some(range) = satisfiable.and_then(|ranges| ranges.into_iter().next()) else {
        return Err(ApiError::RangeNotSatisfiable { size });
    };
    let (first, last): (u64, u64) = RangeInclusive::into_inner(range);
    let length = last - first + 1;
    let content = log
        .read(
            app,
            ByteRange {
                first,
                length: Some(length),
            },
        )
        .await?;
    let headers = [
        (
            header::CONTENT_RANGE,
            format!("bytes {first}-{last}/{size}"),
        ),
        (header::CONTENT_LENGTH, length.to_string()),
    ];
    let content = Body::from_stream(content);
    Ok((StatusCode::PARTIAL_CONTENT, headers, content).into_response())
}
