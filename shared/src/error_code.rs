//! The application codes users see (contract service.md, section 2).

use std::fmt;

/// An application code: what went wrong, in a form programs act on. Its text and HTTP status are
/// fixed; the message beside it says the particulars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each variant's text stands in the table below")]
pub enum ErrorCode {
    AuthenticationFailed,
    NoToken,
    InvalidToken,
    InvalidAuthHeader,
    InvalidUserName,
    Unauthorized,
    S3PathInaccessible,
    S3BucketInaccessible,
    MissingParameter,
    IllegalParameter,
    RequestValidationFailed,
    IllegalS3Path,
    ChecksumMismatch,
    ImageNameParse,
    ImageFetch,
    ImageNoEntrypoint,
    ClientLifetime,
    InvalidJobState,
    InvalidRefdataState,
    NotFound,
    S3PathNotFound,
    S3BucketNotFound,
    NoSuchImage,
    NoSuchJob,
    NoSuchSubjob,
    NoSuchRefdata,
    NoLogs,
    ImageTagExists,
    ImageDigestExists,
    RefdataExists,
    AttemptSuperseded,
    ResourceUnavailable,
    JobFlowInactive,
    JobFlowUnavailable,
    UnsupportedOperation,
}

impl ErrorCode {
    /// Every code, in numeric order.
    pub const ALL: [Self; 35] = [
        Self::AuthenticationFailed,
        Self::NoToken,
        Self::InvalidToken,
        Self::InvalidAuthHeader,
        Self::InvalidUserName,
        Self::Unauthorized,
        Self::S3PathInaccessible,
        Self::S3BucketInaccessible,
        Self::MissingParameter,
        Self::IllegalParameter,
        Self::RequestValidationFailed,
        Self::IllegalS3Path,
        Self::ChecksumMismatch,
        Self::ImageNameParse,
        Self::ImageFetch,
        Self::ImageNoEntrypoint,
        Self::ClientLifetime,
        Self::InvalidJobState,
        Self::InvalidRefdataState,
        Self::NotFound,
        Self::S3PathNotFound,
        Self::S3BucketNotFound,
        Self::NoSuchImage,
        Self::NoSuchJob,
        Self::NoSuchSubjob,
        Self::NoSuchRefdata,
        Self::NoLogs,
        Self::ImageTagExists,
        Self::ImageDigestExists,
        Self::RefdataExists,
        Self::AttemptSuperseded,
        Self::ResourceUnavailable,
        Self::JobFlowInactive,
        Self::JobFlowUnavailable,
        Self::UnsupportedOperation,
    ];

    /// Code, text and HTTP status: one row of the contract's table. The two codes that are defined
    /// but never used have the status of their neighbours.
    const fn row(self) -> (u32, &'static str, u16) {
        match self {
            Self::AuthenticationFailed => (10000, "Authentication failed", 401),
            Self::NoToken => (10010, "No authentication token", 401),
            Self::InvalidToken => (10020, "Invalid token", 401),
            Self::InvalidAuthHeader => (10030, "Invalid authentication header", 401),
            Self::InvalidUserName => (10040, "Invalid user name", 400),
            Self::Unauthorized => (20000, "Unauthorized", 403),
            Self::S3PathInaccessible => (20010, "S3 path inaccessible", 403),
            Self::S3BucketInaccessible => (20020, "S3 bucket inaccessible", 403),
            Self::MissingParameter => (30000, "Missing input parameter", 400),
            Self::IllegalParameter => (30001, "Illegal input parameter", 400),
            Self::RequestValidationFailed => (30010, "Request validation failed", 400),
            Self::IllegalS3Path => (30020, "Illegal S3 path", 400),
            Self::ChecksumMismatch => (30030, "Checksum mismatch", 400),
            Self::ImageNameParse => (30040, "Image name parse error", 400),
            Self::ImageFetch => (30050, "Image fetch error", 400),
            Self::ImageNoEntrypoint => (30060, "Image has no entrypoint", 400),
            Self::ClientLifetime => (30200, "Client lifetime too short", 400),
            Self::InvalidJobState => (30300, "Invalid job state", 400),
            Self::InvalidRefdataState => (30400, "Invalid reference data state", 400),
            Self::NotFound => (40000, "Not Found", 404),
            Self::S3PathNotFound => (40010, "S3 path not found", 404),
            Self::S3BucketNotFound => (40020, "S3 bucket not found", 404),
            Self::NoSuchImage => (40030, "No such image", 404),
            Self::NoSuchJob => (40040, "No such job", 404),
            Self::NoSuchSubjob => (40050, "No such sub job", 404),
            Self::NoSuchRefdata => (40060, "No such reference data", 404),
            Self::NoLogs => (40070, "No logs available", 404),
            Self::ImageTagExists => (50000, "Image tag exists", 400),
            Self::ImageDigestExists => (50010, "Image digest exists", 400),
            Self::RefdataExists => (50100, "Refdata already exists", 400),
            // Not in the contract: see wire::attempt.
            Self::AttemptSuperseded => (50200, "Attempt superseded", 409),
            Self::ResourceUnavailable => (60000, "Resource unavailable", 400),
            Self::JobFlowInactive => (60010, "Job flow inactive", 400),
            Self::JobFlowUnavailable => (60020, "Job flow unavailable", 400),
            Self::UnsupportedOperation => (100_000, "Unsupported operation", 400),
        }
    }

    /// The number in `appcode`.
    #[must_use]
    pub const fn code(self) -> u32 {
        self.row().0
    }

    /// The fixed text in `apperror`.
    #[must_use]
    pub const fn apperror(self) -> &'static str {
        self.row().1
    }

    /// The HTTP status it is sent with.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        self.row().2
    }

    /// The code with this number, if there is one.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.code() == code)
    }

    /// Whether the same request may succeed later without the caller changing anything: its site is
    /// switched off or not started yet.
    #[must_use]
    pub const fn is_temporary(self) -> bool {
        matches!(self, Self::JobFlowInactive | Self::JobFlowUnavailable)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code(), self.apperror())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_ordered_and_found_again() {
        assert!(ErrorCode::ALL.is_sorted_by(|a, b| a.code() < b.code()));
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_code(code.code()), Some(code));
        }
        assert_eq!(ErrorCode::from_code(1), None);
    }

    #[test]
    fn statuses_follow_the_families() {
        for code in ErrorCode::ALL {
            let expected = match code.code() {
                10040 => 400,
                10000..20000 => 401,
                20000..30000 => 403,
                40000..50000 => 404,
                50200 => 409,
                _ => 400,
            };
            assert_eq!(code.http_status(), expected, "{code}");
        }
    }
}
