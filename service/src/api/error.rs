//! Errors as HTTP (contract service.md, section 2).
//!
//! A handler's error travels in the response's extensions; [`render`] turns it into the envelope where
//! the request's id and user are known.

use std::sync::Arc;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use cts_shared::wire::error::{ErrorDetail, ErrorEnvelope};

use crate::clock::Clock;
use crate::error::Error;
use crate::identity::{Role, User};

/// What everyone but administrators sees of a fault of the service.
const UNEXPECTED: &str = "An unexpected error occurred";

/// Why a request failed.
#[derive(Debug, Clone)]
pub enum ApiError {
    /// A use case failed.
    UseCase(Error),
    /// The path is known, the method is not.
    MethodNotAllowed,
    /// The body is larger than any request needs to be.
    BodyTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// No byte of what the `Range` header asks for exists.
    RangeNotSatisfiable {
        /// Bytes that exist.
        size: u64,
    },
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self::UseCase(error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

impl ApiError {
    fn status(&self) -> StatusCode {
        match self {
            Self::UseCase(error) => match (error, error.code()) {
                (Error::Unavailable { .. }, _) => StatusCode::SERVICE_UNAVAILABLE,
                (_, Some(code)) => StatusCode::from_u16(code.http_status())
                    .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                (_, None) => StatusCode::INTERNAL_SERVER_ERROR,
            },
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::RangeNotSatisfiable { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
        }
    }

    fn message(&self, user: Option<&User>) -> Option<String> {
        match self {
            Self::UseCase(Error::Invalid(_)) => None,
            Self::UseCase(Error::Internal(text)) => {
                let admin = user.is_some_and(|user| user.has(Role::FullAdmin));
                Some(if admin {
                    text.clone()
                } else {
                    UNEXPECTED.to_owned()
                })
            }
            Self::UseCase(error) => Some(error.to_string()),
            Self::MethodNotAllowed => Some("Method Not Allowed".to_owned()),
            Self::BodyTooLarge { limit } => {
                Some(format!("the request body is larger than {limit} bytes"))
            }
            Self::RangeNotSatisfiable { size } => Some(format!(
                "the range begins behind the end; there are {size} bytes"
            )),
        }
    }
}

/// Gives a failed response its body, and logs faults of the service.
pub fn render(
    response: Response,
    request_id: &str,
    user: Option<&User>,
    clock: &dyn Clock,
) -> Response {
    let Some(error) = response.extensions().get::<Arc<ApiError>>().cloned() else {
        return response;
    };
    let status = error.status();
    match &*error {
        ApiError::UseCase(Error::Internal(cause)) => {
            tracing::error!(%cause, "request failed");
        }
        ApiError::UseCase(Error::Unavailable { message, .. }) => {
            tracing::warn!(cause = %message, "request failed for now");
        }
        _ => {}
    }
    let code = match &*error {
        ApiError::UseCase(error) => error.code(),
        ApiError::MethodNotAllowed
        | ApiError::BodyTooLarge { .. }
        | ApiError::RangeNotSatisfiable { .. } => None,
    };
    let details = match &*error {
        ApiError::UseCase(Error::Invalid(details)) => Some(details.clone()),
        _ => None,
    };
    let body = ErrorEnvelope {
        error: ErrorDetail {
            httpcode: status.as_u16(),
            httpstatus: status.canonical_reason().unwrap_or("").to_owned(),
            time: clock.now().to_offset_string(),
            request_id: Some(request_id.to_owned()),
            appcode: code.map(|code| code.code()),
            apperror: code.map(|code| code.apperror().to_owned()),
            message: error.message(user),
            request_validation_detail: details,
        },
    };
    let mut rendered = (status, Json(body)).into_response();
    // 405 says which methods there are. The router counts HEAD among them, the contract does not.
    if let Some(allow) = response.headers().get(header::ALLOW)
        && let Ok(allow) = allow.to_str()
    {
        let methods: Vec<&str> = allow
            .split(',')
            .filter(|method| *method != "HEAD")
            .collect();
        if let Ok(allow) = HeaderValue::from_str(&methods.join(", ")) {
            rendered.headers_mut().insert(header::ALLOW, allow);
        }
    }
    if let ApiError::RangeNotSatisfiable { size } = *error
        && let Ok(range) = HeaderValue::from_str(&format!("bytes */{size}"))
    {
        rendered.headers_mut().insert(header::CONTENT_RANGE, range);
    }
    if let ApiError::UseCase(Error::Unavailable { retry_after, .. }) = &*error {
        rendered.headers_mut().insert(
            header::RETRY_AFTER,
            HeaderValue::from(retry_after.as_secs().max(1)),
        );
    }
    rendered
}
