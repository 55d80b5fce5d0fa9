//! auth2's errors: an envelope in JSON, with codes of its own.

use std::time::SystemTime;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// What auth2 refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    NoToken,
    InvalidToken,
    IllegalUserName(String),
    NotFound,
    MethodNotAllowed,
    Failed,
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoToken | Self::IllegalUserName(_) => StatusCode::BAD_REQUEST,
            Self::InvalidToken => StatusCode::UNAUTHORIZED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Code and name; faults of the request as such, and of auth2, have none.
    fn code(&self) -> Option<(u32, &'static str)> {
        match self {
            Self::NoToken => Some((10010, "No authentication token")),
            Self::InvalidToken => Some((10020, "Invalid token")),
            Self::IllegalUserName(_) => Some((30010, "Illegal user name")),
            Self::NotFound | Self::MethodNotAllowed | Self::Failed => None,
        }
    }

    fn details(&self) -> Option<&str> {
        match self {
            Self::NoToken => Some("No user token provided"),
            Self::IllegalUserName(details) => Some(details),
            Self::InvalidToken => None,
            Self::NotFound => Some("HTTP 404 Not Found"),
            Self::MethodNotAllowed => Some("HTTP 405 Method Not Allowed"),
            Self::Failed => Some("Connection to database failed: Timed out after 30000 ms"),
        }
    }

    pub(super) fn message(&self) -> String {
        let details = self.details();
        match self.code() {
            None => details.unwrap_or_default().to_owned(),
            Some((code, name)) => {
                let details = details.map(|details| format!(": {details}"));
                format!("{code} {name}{}", details.unwrap_or_default())
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut error = json!({
            "httpcode": status.as_u16(),
            "httpstatus": status.canonical_reason(),
            "message": self.message(),
            "callid": call_id(),
            "time": millis(SystemTime::now()),
        });
        // What there is not is left out, as auth2 does.
        if let (Some((code, name)), Value::Object(members)) = (self.code(), &mut error) {
            members.insert("appcode".to_owned(), code.into());
            members.insert("apperror".to_owned(), name.into());
        }
        (status, Json(json!({ "error": error }))).into_response()
    }
}

/// Sixteen digits, made for each request.
fn call_id() -> String {
    let id = uuid::Uuid::new_v4().as_u128() % 10_000_000_000_000_000;
    format!("{id:016}")
}

/// Milliseconds since 1970.
pub(super) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
