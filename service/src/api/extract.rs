//! Bodies, path and query parameters as they arrive; [`super::checks`] looks into them.

use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Path, Query, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use cts_shared::error_code::ErrorCode;
use cts_shared::validation::{Checked, Fault};
use cts_shared::wire::error::ValidationDetail;

use crate::app::App;
use crate::error::Error;

use super::error::ApiError;
use super::request_context::Caller;

/// Largest body that is read where there is no user, only to tell what is wrong with its JSON before the
/// caller is refused: every route that reads one needs a user. Strangers cost no more memory than that.
pub const MAX_ANONYMOUS_BODY_BYTES: usize = 1024 * 1024;

/// A request body whose syntax is checked. Extracting it comes first: bad JSON is reported even
/// without a token.
#[derive(Debug)]
pub enum JsonBody {
    /// There is none.
    Absent,
    /// JSON that was sent as JSON.
    Json(Value),
    /// Something sent as another content type: counts as one string.
    Other,
}

impl JsonBody {
    /// The JSON value.
    ///
    /// # Errors
    /// If there is none.
    pub fn required(&self) -> Checked<&Value> {
        self.optional()?
            .ok_or_else(|| Fault::without_input("missing", "send a JSON body").into())
    }

    /// The JSON value, or none if it is absent or null.
    ///
    /// # Errors
    /// If there is something else.
    pub fn optional(&self) -> Checked<Option<&Value>> {
        match self {
            Self::Json(Value::Null) | Self::Absent => Ok(None),
            Self::Json(value) => Ok(Some(value)),
            Self::Other => Err(Fault::without_input(
                "model_attributes_type",
                "send a JSON object with the content type application/json",
            )
            .into()),
        }
    }
}

impl FromRequest<Arc<App>> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let json = is_json(request.headers());
        let (mut head, body) = request.into_parts();
        let caller = Caller::from_request_parts(&mut head, app).await?;
        let mut limit = app.config.request_limits.max_body_bytes;
        if caller.user().is_err() {
            limit = limit.min(MAX_ANONYMOUS_BODY_BYTES);
        }
        let bytes = match axum::body::to_bytes(body, limit).await {
            Ok(bytes) => bytes,
            Err(error) => {
                caller.user()?;
                return Err(body_error(&error, limit));
            }
        };
        if bytes.is_empty() {
            return Ok(Self::Absent);
        }
        if !json {
            return Ok(Self::Other);
        }
        serde_json::from_slice(&bytes)
            .map(Self::Json)
            .map_err(|error| ApiError::from(invalid_json(&bytes, &error)))
    }
}

fn body_error(error: &axum::Error, limit: usize) -> ApiError {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(cause) = source {
        if cause.is::<http_body_util::LengthLimitError>() {
            return ApiError::BodyTooLarge { limit };
        }
        source = cause.source();
    }
    // The connection broke: nobody reads the answer.
    ApiError::from(Error::invalid(
        "body",
        format!("the request body could not be read: {error}"),
    ))
}

/// `application/json` or `application/*+json`, parameters allowed.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    let essence = content_type.split(';').next().unwrap_or("").trim();
    let Some((main, sub)) = essence.split_once('/') else {
        return false;
    };
    let sub = sub.to_ascii_lowercase();
    main.eq_ignore_ascii_case("application") && (sub == "json" || sub.ends_with("+json"))
}

fn invalid_json(bytes: &[u8], error: &serde_json::Error) -> Error {
    // The place as a count of characters from the start, as the existing service has it.
    let before: usize = bytes
        .split_inclusive(|byte| *byte == b'\n')
        .take(error.line().saturating_sub(1))
        .map(<[u8]>::len)
        .sum();
    let place = before + error.column().saturating_sub(1);
    let place = String::from_utf8_lossy(bytes.get(..place).unwrap_or(bytes))
        .chars()
        .count();
    Error::Invalid(vec![ValidationDetail {
        kind: "json_invalid".to_owned(),
        loc: vec![json!("body"), json!(place)],
        msg: "JSON decode error".to_owned(),
        input: Some(json!({})),
        ctx: Some(json!({"error": error.to_string()})),
    }])
}

/// Path parameters, decoded. What cannot be decoded names no path of ours, nor does an encoded `/`.
#[derive(Debug)]
pub struct PathParams<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathParams<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let raw = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| not_found())?;
        if raw.iter().any(|(_, value)| value.contains('/')) {
            return Err(not_found());
        }
        let Path(params) = Path::<T>::from_request_parts(parts, state)
            .await
            .map_err(|_| not_found())?;
        Ok(Self(params))
    }
}

/// The rest of the path, decoded, slashes included; empty if there is none.
#[derive(Debug)]
pub struct RestOfPath(pub String);

impl<S: Send + Sync> FromRequestParts<S> for RestOfPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| not_found())?;
        let rest = params.iter().next().map(|(_, value)| value.to_owned());
        Ok(Self(rest.unwrap_or_default()))
    }
}

/// Query parameters by name; the last of several with one name counts.
#[derive(Debug)]
pub struct QueryParams(std::collections::HashMap<String, String>);

impl QueryParams {
    /// The parameter, if given.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for QueryParams {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(params) = Query::from_request_parts(parts, state)
            .await
            .map_err(|error| {
                ApiError::from(Error::invalid(
                    "query",
                    format!("the query string cannot be read: {error}"),
                ))
            })?;
        Ok(Self(params))
    }
}

/// The answer to unknown paths.
#[must_use]
pub fn not_found() -> ApiError {
    ApiError::from(Error::refused(ErrorCode::NotFound, "Not Found"))
}
