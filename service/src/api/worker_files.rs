//! `/external_exec/files`: what workers download before they start an executor. Public.

use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use tower::ServiceExt;
use tower_http::services::ServeFile;

use cts_shared::error_code::ErrorCode;

use crate::app::App;
use crate::error::Error;

use super::error::ApiError;

/// `GET /external_exec/files/condor/executable.sh`
pub async fn executable(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let file = app.config.worker_files.executable.as_deref();
    serve(file, "executable.sh", "text/x-sh; charset=utf-8", request).await
}

/// `GET /external_exec/files/code_archive.tgz`
pub async fn archive(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let file = app.config.worker_files.archive.as_deref();
    serve(file, "code_archive.tgz", "application/x-tar", request).await
}

/// The file, or a part of it, or that it has not changed: as the request's headers ask.
async fn serve(
    file: Option<&Path>,
    name: &str,
    content_type: &'static str,
    request: Request,
) -> Result<Response, ApiError> {
    let missing = |reason: &str| {
        let message = format!("{name} is not served here: {reason}");
        ApiError::from(Error::refused(ErrorCode::NotFound, message))
    };
    let file = file.ok_or_else(|| missing("the service's configuration names no such file"))?;
    let is_there = tokio::fs::metadata(file)
        .await
        .is_ok_and(|metadata| metadata.is_file());
    if !is_there {
        tracing::error!(path = %file.display(), "a file for workers is not there");
        return Err(missing(
            "the file that the configuration names is not there",
        ));
    }
    let response = ServeFile::new(file)
        .oneshot(request)
        .await
        .unwrap_or_else(|never| match never {});
    let mut response = response.map(Body::new).into_response();
    if response.status().is_server_error() {
        let message = format!("cannot read {}, which workers download", file.display());
        return Err(Error::Internal(message).into());
    }
    if response.status().is_success() {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        let disposition = format!("attachment; filename=\"{name}\"");
        if let Ok(disposition) = HeaderValue::from_str(&disposition) {
            headers.insert(header::CONTENT_DISPOSITION, disposition);
        }
    }
    Ok(response)
}
