//! Errors as HTTP (contract service.md, section 2).
//!
//! A handler's error travels in the response's extensions; [`render`] turns it into the envelope where the
//! request's id and user are known.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cts_shared::error_code::ErrorCode;
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::error::{ErrorDetail, ErrorEnvelope, ValidationDetail};

use super::auth::User;

/// What everyone but administrators sees of a fault of the server.
const UNEXPECTED: &str = "An unexpected error occurred";

/// Why a request failed.
#[derive(Debug, Clone)]
pub(super) enum ApiError {
    /// The caller can act on it.
    Refused {
        /// For programs; decides the HTTP status.
        code: ErrorCode,
        /// For people.
        message: String,
    },
    /// The request breaks the rules of its shape.
    Invalid(Vec<ValidationDetail>),
    /// The path is known, the method is not.
    MethodNotAllowed,
    /// Something the server needs does not answer; the same request may succeed later.
    Unavailable {
        /// What is missing.
        message: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// A fault. The text is for administrators only.
    Internal(String),
}

impl ApiError {
    pub(super) fn refused(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Refused {
            code,
            message: message.into(),
        }
    }

    /// The answer to unknown paths.
    pub(super) fn not_found() -> Self {
        Self::refused(ErrorCode::NotFound, "Not Found")
    }

    const fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::Invalid(_) => Some(ErrorCode::RequestValidationFailed),
            Self::MethodNotAllowed | Self::Unavailable { .. } | Self::Internal(_) => None,
        }
    }

    fn status(&self) -> StatusCode {
        match (self, self.code()) {
            (_, Some(code)) => StatusCode::from_u16(code.http_status())
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            (Self::MethodNotAllowed, None) => StatusCode::METHOD_NOT_ALLOWED,
            (Self::Unavailable { .. }, None) => StatusCode::SERVICE_UNAVAILABLE,
            (_, None) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn message(&self, user: Option<&User>) -> Option<String> {
        match self {
            Self::Invalid(_) => None,
            Self::Refused { message, .. } | Self::Unavailable { message, .. } => {
                Some(message.clone())
            }
            Self::MethodNotAllowed => Some("Method Not Allowed".to_owned()),
            Self::Internal(text) if user.is_some_and(|user| user.is_full_admin) => {
                Some(text.clone())
            }
            Self::Internal(_) => Some(UNEXPECTED.to_owned()),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

/// Gives a failed response its body, and logs faults of the server.
pub(super) fn render(
    response: Response,
    request_id: &str,
    user: Option<&User>,
    now: UtcTime,
) -> Response {
    let Some(error) = response.extensions().get::<Arc<ApiError>>().cloned() else {
        return response;
    };
    match &*error {
        ApiError::Internal(cause) => tracing::error!(%cause, "request failed"),
        ApiError::Unavailable { message, .. } => {
            tracing::warn!(cause = %message, "request failed for now");
        }
        _ => {}
    }
    let status = error.status();
    let body = ErrorEnvelope {
        error: ErrorDetail {
            httpcode: status.as_u16(),
            httpstatus: status.canonical_reason().unwrap_or("").to_owned(),
            time: now.to_offset_string(),
            request_id: Some(request_id.to_owned()),
            appcode: error.code().map(ErrorCode::code),
            apperror: error.code().map(|code| code.apperror().to_owned()),
            message: error.message(user),
            request_validation_detail: match &*error {
                ApiError::Invalid(details) => Some(details.clone()),
                _ => None,
            },
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
    if let ApiError::Unavailable { retry_after, .. } = &*error {
        let seconds = HeaderValue::from(retry_after.as_secs().max(1));
        rendered.headers_mut().insert(header::RETRY_AFTER, seconds);
    }
    rendered
}
