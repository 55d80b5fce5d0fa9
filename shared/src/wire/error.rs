//! The error envelope (contract service.md, section 2).

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Every error body: one member, `error`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorEnvelope {
    /// The error.
    pub error: ErrorDetail,
}

/// Members that do not apply are absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// HTTP status code.
    pub httpcode: u16,
    /// HTTP reason phrase.
    pub httpstatus: String,
    /// When, in the `+00:00` form.
    pub time: String,
    /// The request's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Application code; see [`crate::error_code`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub appcode: Option<u32>,
    /// The application code's fixed text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apperror: Option<String>,
    /// What happened; absent on a validation failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The faults of a request that failed validation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_validation_detail: Option<Vec<ValidationDetail>>,
}

/// One fault of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValidationDetail {
    /// Kind of fault, e.g. `missing`, `greater_than_equal`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where: `body`, `path` or `query`, then member names and indexes.
    pub loc: Vec<Value>,
    /// In words.
    pub msg: String,
    /// What was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Value>,
    /// The bounds broken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ctx: Option<Value>,
}
