//! Why a use case failed, in terms of what the caller can do. Turned into HTTP in `api::error` only.

use std::time::Duration;

use cts_shared::error_code::ErrorCode;
use cts_shared::wire::error::ValidationDetail;

use crate::job_store::StoreError;
use crate::object_store::ObjectStoreError;

/// A failed use case.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The caller can act on it: the code is for programs, the message for people.
    #[error("{message}")]
    Refused {
        /// Decides the HTTP status, too.
        code: ErrorCode,
        /// What is wrong with which object.
        message: String,
    },
    /// The request breaks the rules of its shape.
    #[error("the request is not valid: {}", .0.first().map_or("", |fault| fault.msg.as_str()))]
    Invalid(Vec<ValidationDetail>),
    /// Something the service needs does not answer; the same request may succeed later.
    #[error("{message}")]
    Unavailable {
        /// What is missing.
        message: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// A fault of the service. The text is for administrators only.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// An error the caller can act on.
    pub fn refused(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Refused {
            code,
            message: message.into(),
        }
    }

    /// A fault of a whole part of the request: `body` or `query`.
    pub fn invalid(part: &str, message: impl Into<String>) -> Self {
        Self::Invalid(vec![ValidationDetail {
            kind: "value_error".to_owned(),
            loc: vec![part.into()],
            msg: message.into(),
            input: None,
            ctx: None,
        }])
    }

    /// The application code, if the error has one.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::Invalid(_) => Some(ErrorCode::RequestValidationFailed),
            Self::Unavailable { .. } | Self::Internal(_) => None,
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Closed | StoreError::Unavailable { .. } => Self::Unavailable {
                message: error.to_string(),
                retry_after: Duration::from_secs(10),
            },
            StoreError::Open { .. }
            | StoreError::Connect { .. }
            | StoreError::Duplicate { .. }
            | StoreError::Gone { .. }
            | StoreError::TooNew { .. }
            | StoreError::Failed { .. }
            | StoreError::Corrupt { .. } => Self::Internal(error.to_string()),
        }
    }
}

impl From<ObjectStoreError> for Error {
    fn from(error: ObjectStoreError) -> Self {
        let message = error.to_string();
        match error {
            // A missing bucket, too (contract service.md, section 4).
            ObjectStoreError::NoSuchObject { .. } | ObjectStoreError::NoSuchBucket { .. } => {
                Self::refused(ErrorCode::S3PathNotFound, message)
            }
            ObjectStoreError::Denied { .. } => {
                Self::refused(ErrorCode::S3PathInaccessible, message)
            }
            ObjectStoreError::Unavailable { .. } => Self::Unavailable {
                message,
                retry_after: Duration::from_secs(10),
            },
        }
    }
}
