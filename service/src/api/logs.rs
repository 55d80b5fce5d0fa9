//! `GET /jobs/{job_id}/log/{container_num}/stdout` and `/stderr`.
//!
//! A part is asked for with `seek` and `length`, which the contract has and which are answered with 200,
//! or with a `Range` header, which is answered as HTTP says (RFC 9110, section 14). Where both are
//! given the header is passed over.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_range_header::{
    EndPosition, StartPosition, SyntacticallyCorrectRange, parse_range_header,
};

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
    let Some(range) = single_range(range) else {
        let everything = ByteRange {
            first: 0,
            length: None,
        };
        return Ok(whole(log.read(app, everything).await?));
    };
    let size = log.size(app).await?;
    let Some((first, length)) = within(&range, size) else {
        return Err(ApiError::RangeNotSatisfiable { size });
    };
    let last = first + length - 1;
    let wanted = ByteRange {
        first,
        length: Some(length),
    };
    let content = log.read(app, wanted).await?;
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

fn single_range(text: &str) -> Option<SyntacticallyCorrectRange> {
    let ranges = parse_range_header(text).ok()?.ranges;
    let [range] = ranges.as_slice() else {
        return None;
    };
    match (range.start, range.end) {
        (StartPosition::Index(first), EndPosition::Index(last)) if last < first => None,
        _ => Some(*range),
    }
}

/// First byte and number of bytes of a range, if any of them exists.
fn within(range: &SyntacticallyCorrectRange, size: u64) -> Option<(u64, u64)> {
    let first = match range.start {
        StartPosition::Index(first) => first,
        StartPosition::FromLast(count) => size.saturating_sub(count),
    };
    let end = match range.end {
        EndPosition::Index(last) => last.saturating_add(1).min(size),
        EndPosition::LastByte => size,
    };
    (first < end).then(|| (first, end - first))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_range_lies_within_the_log(text in "bytes=([0-9]{0,20}-[0-9]{0,20}|\\PC*)", size: u64) {
            if let Some((first, length)) = single_range(&text).and_then(|range| within(&range, size)) {
                prop_assert!(length > 0);
                prop_assert!(first.checked_add(length).is_some_and(|end| end <= size));
            }
        }
    }
}
