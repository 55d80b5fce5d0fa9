//! What can go wrong at an object store, sorted by what the caller does next.

use std::time::Duration;

/// Longest text of a store's own that goes into an error message, in characters.
const MAX_DETAIL_CHARS: usize = 500;

/// The classes of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// No such object (or, where the store does not tell, no such bucket).
    NotFound,
    /// No such bucket.
    BucketMissing,
    /// The keys are refused, also after the secret was read again.
    AccessDenied,
    /// The object does not have the `ETag` that was asked for.
    Changed,
    /// The range begins at or after the object's end.
    InvalidRange,
    /// The bytes that arrived at the store do not have the checksum that was sent with them.
    ChecksumRefused,
    /// The store asks for fewer requests.
    Throttled,
    /// The network or the store failed; the same request may work later.
    Unavailable,
    /// This machine's clock is too far from the store's.
    ClockSkew,
    /// Anything else; the same request would fail again.
    Other,
}

impl StoreErrorKind {
    fn words(self) -> &'static str {
        match self {
            Self::NotFound => "there is no such object; check the path",
            Self::BucketMissing => "there is no such bucket; check the path",
            Self::AccessDenied => "access denied; check the S3 keys and what they may do",
            Self::Changed => "the object was replaced meanwhile",
            Self::InvalidRange => "the object ends before the range that was asked for",
            Self::ChecksumRefused => "the store got other bytes than were sent",
            Self::Throttled => "the store asks for fewer requests",
            Self::Unavailable => "the store cannot be used at the moment",
            Self::ClockSkew => {
                "this machine's clock is too far from the store's; set the clock (NTP)"
            }
            Self::Other => "the store refused the request",
        }
    }
}

/// An operation on a store that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot {action} {target}: {}{}", kind.words(), in_brackets(detail))]
pub struct StoreError {
    kind: StoreErrorKind,
    action: &'static str,
    target: String,
    detail: String,
    retry_after: Option<Duration>,
}

fn in_brackets(detail: &str) -> String {
    if detail.is_empty() {
        String::new()
    } else {
        format!(" ({detail})")
    }
}

impl StoreError {
    /// An error while doing `action` (a verb, "get") to `target` (an object or bucket). `detail` is
    /// the cause in the words of the store or the network: shortened, control characters escaped.
    pub fn new(
        kind: StoreErrorKind,
        action: &'static str,
        target: &impl ToString,
        detail: &str,
    ) -> Self {
        let detail = detail
            .trim()
            .chars()
            .take(MAX_DETAIL_CHARS)
            .flat_map(|c| {
                let escaped = c.is_control().then(|| c.escape_default());
                let plain = escaped.is_none().then_some(c);
                escaped.into_iter().flatten().chain(plain)
            })
            .collect();
        Self {
            kind,
            action,
            target: target.to_string(),
            detail,
            retry_after: None,
        }
    }

    /// Adds how long the store asked to wait.
    #[must_use]
    pub fn with_retry_after(mut self, retry_after: Option<Duration>) -> Self {
        self.retry_after = retry_after;
        self
    }

    /// The class of failure.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// How long the store asked to wait before the next request.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Whether the same request would fail again.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self.kind {
            StoreErrorKind::NotFound
            | StoreErrorKind::BucketMissing
            | StoreErrorKind::AccessDenied
            | StoreErrorKind::Changed
            | StoreErrorKind::InvalidRange
            | StoreErrorKind::ClockSkew
            | StoreErrorKind::Other => true,
            StoreErrorKind::ChecksumRefused
            | StoreErrorKind::Throttled
            | StoreErrorKind::Unavailable => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object_store::ObjectName;

    #[test]
    fn messages_name_object_cause_and_next_step_on_one_line() {
        let object = ObjectName::new("b", "k");
        let error = StoreError::new(StoreErrorKind::NotFound, "get", &object, "");
        assert_eq!(
            error.to_string(),
            "cannot get s3://b/k: there is no such object; check the path"
        );
        let error = StoreError::new(StoreErrorKind::Other, "get", &object, " Weird\n\u{1b}[0m ");
        assert_eq!(
            error.to_string(),
            "cannot get s3://b/k: the store refused the request (Weird\\n\\u{1b}[0m)"
        );
    }
}
