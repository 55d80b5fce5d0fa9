//! From the SDK's errors to ours: by the code in the error document, else by the HTTP status.

use std::error::Error;
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use cts_net::tls::certificate_refusal;

use crate::object_store::{StoreError, StoreErrorKind};

/// A store that asks for a longer rest than this is asked again anyway.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

pub(super) fn store_error<E>(
    action: &'static str,
    target: &impl ToString,
    error: &SdkError<E, HttpResponse>,
) -> StoreError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let status = error
        .raw_response()
        .map(|response| response.status().as_u16());
    let (kind, detail) = match error {
        SdkError::ServiceError(context) => {
            let metadata = context.err().meta();
            let kind = classify(metadata.code(), status);
            let mut detail = metadata.code().unwrap_or_default().to_owned();
            if let Some(message) = metadata.message() {
                detail = format!("{detail}: {message}");
            }
            if let Some(status) = status {
                detail = format!("{detail}, HTTP status {status}");
            }
            (kind, detail)
        }
        SdkError::ConstructionFailure(_) => (StoreErrorKind::Other, describe(error)),
        // No answer, or one that makes no sense: a document cut short, a page of a proxy's.
        SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) | SdkError::ResponseError(_) => {
            match status {
                Some(status) if status >= 400 => (
                    classify(None, Some(status)),
                    format!("HTTP status {status}, {}", describe(error)),
                ),
                _ => (StoreErrorKind::Unavailable, describe(error)),
            }
        }
        _ => (StoreErrorKind::Unavailable, describe(error)),
    };
    let retry_after = error
        .raw_response()
        .and_then(|response| response.headers().get("retry-after"))
        .and_then(|value| value.trim().parse().ok())
        .map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
    StoreError::new(kind, action, target, detail.trim_start_matches(", ").trim())
        .with_retry_after(retry_after)
}

/// How the SDK names the layers through which a cause came.
const SAYS_NOTHING: [&str; 3] = ["dispatch failure", "io error", "streaming error"];

/// The whole chain of causes: the SDK's own `Display` stops at its outermost layer.
pub(super) fn describe(error: &(dyn Error + 'static)) -> String {
    if let Some(refusal) = certificate_refusal(error) {
        return refusal;
    }
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let message = error.to_string();
        if !SAYS_NOTHING.contains(&&*message) && !text.ends_with(&message) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&message);
        }
        next = error.source();
    }
    text
}

/// Codes first: the same status carries several meanings, and an error document may come with
/// status 200 when a multipart upload is completed.
fn classify(code: Option<&str>, status: Option<u16>) -> StoreErrorKind {
    match code {
        Some("NoSuchBucket") => StoreErrorKind::BucketMissing,
        Some("NoSuchKey" | "NotFound" | "NoSuchUpload") => StoreErrorKind::NotFound,
        Some(
            "AccessDenied"
            | "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "ExpiredToken"
            | "InvalidToken"
            | "AllAccessDisabled"
            | "AccountProblem"
            | "Forbidden",
        ) => StoreErrorKind::AccessDenied,
        Some("RequestTimeTooSkewed") => StoreErrorKind::ClockSkew,
        Some("PreconditionFailed") => StoreErrorKind::Changed,
        Some("InvalidRange") => StoreErrorKind::InvalidRange,
        Some("BadDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch") => {
            StoreErrorKind::ChecksumRefused
        }
        Some("SlowDown" | "ServiceUnavailable" | "TooManyRequests" | "RequestLimitExceeded") => {
            StoreErrorKind::Throttled
        }
        Some("InternalError" | "RequestTimeout" | "IncompleteBody" | "OperationAborted") => {
            StoreErrorKind::Unavailable
        }
        Some("NotImplemented" | "QuotaExceeded" | "XMinioStorageFull") => StoreErrorKind::Other,
        _ => match status {
            Some(401 | 403) => StoreErrorKind::AccessDenied,
            Some(404) => StoreErrorKind::NotFound,
            Some(412) => StoreErrorKind::Changed,
            Some(416) => StoreErrorKind::InvalidRange,
            Some(429 | 503) => StoreErrorKind::Throttled,
            // Not implemented, HTTP version, out of space: the next try ends the same way.
            Some(501 | 505 | 507) => StoreErrorKind::Other,
            Some(408 | 409 | 425 | 500..) => StoreErrorKind::Unavailable,
            _ => StoreErrorKind::Other,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_come_before_statuses() {
        assert_eq!(
            classify(Some("RequestTimeTooSkewed"), Some(403)),
            StoreErrorKind::ClockSkew
        );
        assert_eq!(
            classify(Some("InternalError"), Some(200)),
            StoreErrorKind::Unavailable
        );
        assert_eq!(
            classify(Some("BadDigest"), Some(400)),
            StoreErrorKind::ChecksumRefused
        );
        assert_eq!(classify(Some("Unknown"), Some(400)), StoreErrorKind::Other);
        assert_eq!(classify(None, Some(403)), StoreErrorKind::AccessDenied);
        assert_eq!(classify(None, Some(502)), StoreErrorKind::Unavailable);
        assert_eq!(classify(None, Some(501)), StoreErrorKind::Other);
        assert_eq!(classify(None, None), StoreErrorKind::Other);
    }
}
