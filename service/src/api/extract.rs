//! Bodies and path parameters, checked in the contract's order and answered with its details.

use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use cts_shared::error_code::ErrorCode;
use cts_shared::id::ContainerNumber;
use cts_shared::wire::error::ValidationDetail;

use crate::app::App;
use crate::error::Error;

use super::error::ApiError;
use super::parameters::ID;

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
    /// 30010 if there is none.
    pub fn required(self) -> Result<Value, Error> {
        match self {
            Self::Json(value) => Ok(value),
            Self::Absent => Err(Error::invalid("missing", &["body"], "Field required")),
            Self::Other => Err(not_json()),
        }
    }

    /// The JSON value, or none if it is absent or null.
    ///
    /// # Errors
    /// 30010 if there is something else.
    pub fn optional(self) -> Result<Option<Value>, Error> {
        match self {
            Self::Json(Value::Null) | Self::Absent => Ok(None),
            Self::Json(value) => Ok(Some(value)),
            Self::Other => Err(not_json()),
        }
    }
}

fn not_json() -> Error {
    Error::invalid(
        "model_attributes_type",
        &["body"],
        "send a JSON object with the content type application/json",
    )
}

impl FromRequest<Arc<App>> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let json = is_json(request.headers());
        let limit = app.config.request_limits.max_body_bytes;
        let bytes = axum::body::to_bytes(request.into_body(), limit)
            .await
            .map_err(|error| body_error(&error, limit))?;
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
        "value_error",
        &["body"],
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

/// Path parameters. What cannot be decoded names no path of ours.
#[derive(Debug)]
pub struct PathParams<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathParams<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(params) = Path::<T>::from_request_parts(parts, state)
            .await
            .map_err(|_| not_found())?;
        Ok(Self(params))
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

    /// An integer of at least `min`, if given.
    ///
    /// # Errors
    /// 30010.
    pub fn integer(&self, name: &'static str, min: u64) -> Result<Option<u64>, Error> {
        self.get(name)
            .map(|text| integer(text, min, &["query", name]))
            .transpose()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for QueryParams {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(params) = Query::from_request_parts(parts, state)
            .await
            .map_err(|error| {
                ApiError::from(Error::invalid(
                    "value_error",
                    &["query"],
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

/// Checks an id in a path.
///
/// # Errors
/// 30010; 404 if it contains an encoded `/`, which no path of ours has there.
pub fn check_id<'a>(text: &'a str, name: &'static str) -> Result<&'a str, ApiError> {
    if text.contains('/') {
        return Err(not_found());
    }
    ID.check_text(text, &["path", name]).map_err(Error::Invalid)?;
    Ok(text)
}

/// A container number in a path.
///
/// # Errors
/// 30010; 404 if it contains an encoded `/`.
pub fn container_number(text: &str) -> Result<ContainerNumber, ApiError> {
    if text.contains('/') {
        return Err(not_found());
    }
    let number = integer(text, 0, &["path", "container_num"])?;
    // Larger than any job's: as unknown as any other number that is too large.
    Ok(ContainerNumber::try_from(number).unwrap_or(ContainerNumber::MAX))
}

fn integer(text: &str, min: u64, loc: &[&str]) -> Result<u64, Error> {
    let trimmed = text.trim();
    let digits = trimmed.strip_prefix('+').unwrap_or(trimmed);
    let fault = |kind: &str, message: String| {
        Error::Invalid(vec![ValidationDetail {
            kind: kind.to_owned(),
            loc: loc.iter().map(|&part| part.into()).collect(),
            msg: message,
            input: Some(json!(text)),
            ctx: (kind == "greater_than_equal").then(|| json!({"ge": min})),
        }])
    };
    let too_small = || fault("greater_than_equal", format!("give a number from {min}"));
    if let Some(rest) = digits.strip_prefix('-')
        && !rest.is_empty()
        && rest.bytes().all(|byte| byte.is_ascii_digit())
    {
        return Err(too_small());
    }
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(fault("int_parsing", "give a whole number".to_owned()));
    }
    let number = digits
        .parse::<u64>()
        .map_err(|_| fault("int_parsing_size", "give a smaller number".to_owned()))?;
    if number < min {
        return Err(too_small());
    }
    Ok(number)
}
