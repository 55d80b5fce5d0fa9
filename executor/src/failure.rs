//! What ends a run that is neither the container's doing nor a signal's: the error, classified
//! (stable code, whom it concerns, whether another try can help) and traced.

use std::error::Error;
use std::fmt::Write;
use std::io;

use cts_net::registry::RegistryError;
use cts_net::secret::SecretError;
use cts_net::tls::TlsError;
use cts_shared::failure::{Failure, FailureCode};
use cts_shared::s3_path::InvalidS3Path;

use crate::collect::CollectError;
use crate::container_engine::EngineError;
use crate::container_engine::logs::LogFileError;
use crate::coordinator::CoordinatorError;
use crate::object_store::{StoreError, StoreErrorKind};
use crate::plan::PlanError;
use crate::refdata::unpack::UnpackError;
use crate::refdata::{RefdataError, StagingError};
use crate::report::ReportError;
use crate::run_state::IllegalEvent;
use crate::transfer::TransferError;
use crate::workdir::WorkdirError;

/// A failure around the container: what the report's `admin_error` says, and the chain of causes for
/// its `traceback`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFailure {
    /// What failed, with the object, the cause and the next step, and its class.
    pub failure: Failure,
    /// Which step, and every cause below it.
    pub trace: String,
}

impl RunFailure {
    /// From an error met in a step of the run, e.g. `download the inputs`.
    #[must_use]
    pub fn new<E: Classify + 'static>(step: &str, error: &E) -> Self {
        let mut trace = format!("while trying to {step}: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            // Writing to a String cannot fail.
            let _infallible = write!(trace, "\n  caused by: {cause}");
            source = cause.source();
        }
        Self {
            failure: Failure::from_error(error.code(), error),
            trace,
        }
    }
}

/// Errors that know what kind of failure they are.
pub trait Classify: Error {
    /// The kind.
    fn code(&self) -> FailureCode;
}

/// A disk that is full is told from one that fails.
fn disk_code(cause: &io::Error) -> FailureCode {
    match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FailureCode::DiskFull,
        _ => FailureCode::DiskFailed,
    }
}

impl Classify for PlanError {
    fn code(&self) -> FailureCode {
        match self {
            Self::NoRefdataHere { .. } => FailureCode::ConfigInvalid,
            _ => FailureCode::JobInvalid,
        }
    }
}

impl Classify for StagingError {
    fn code(&self) -> FailureCode {
        match self {
            Self::UnusableName { .. }
            | Self::UnknownArchive { .. }
            | Self::ObjectChanged { .. }
            | Self::ChecksumMismatch {
                is_other_content: true,
                ..
            } => FailureCode::RefdataInvalid,
            Self::ChecksumMismatch { .. } => FailureCode::InputCorrupt,
            Self::Transfer(error) => error.code(),
            Self::Unpack { cause, .. } => cause.code(),
            Self::NoSpace { .. } | Self::NoMoreFiles { .. } => FailureCode::DiskFull,
            Self::Damaged { .. } | Self::OtherObject { .. } => FailureCode::RefdataDamaged,
            Self::Store(error) => error.code(),
            Self::Cancelled => FailureCode::Stopped,
            Self::Internal { .. } => FailureCode::Internal,
        }
    }
}

impl Classify for UnpackError {
    fn code(&self) -> FailureCode {
        match self {
            Self::Member { .. } | Self::Archive { .. } => FailureCode::RefdataInvalid,
            Self::Reserve { .. } | Self::DiskFull { .. } | Self::QuotaExceeded { .. } => {
                FailureCode::DiskFull
            }
            Self::DiskFailed { .. } | Self::Io { .. } => FailureCode::DiskFailed,
            Self::Source(_) => FailureCode::S3Unavailable,
            Self::Cancelled => FailureCode::Stopped,
        }
    }
}

impl Classify for RefdataError {
    fn code(&self) -> FailureCode {
        match self {
            Self::Local { cause, .. } => disk_code(cause),
            Self::Busy { .. } | Self::NotStaged { .. } | Self::Foreign { .. } => {
                FailureCode::RefdataDamaged
            }
            Self::Listing(error) => error.io().map_or(FailureCode::RefdataDamaged, disk_code),
            Self::Directory { .. } => FailureCode::ConfigInvalid,
            Self::Cancelled => FailureCode::Stopped,
        }
    }
}

impl Classify for InvalidS3Path {
    fn code(&self) -> FailureCode {
        FailureCode::JobInvalid
    }
}

impl Classify for WorkdirError {
    fn code(&self) -> FailureCode {
        match self {
            Self::Io { cause, .. } => disk_code(cause),
            Self::OutsideOverride { .. } => FailureCode::ConfigInvalid,
        }
    }
}

impl Classify for SecretError {
    fn code(&self) -> FailureCode {
        FailureCode::ConfigInvalid
    }
}

impl Classify for TlsError {
    fn code(&self) -> FailureCode {
        FailureCode::ConfigInvalid
    }
}

impl Classify for LogFileError {
    fn code(&self) -> FailureCode {
        FailureCode::DiskFailed
    }
}

impl Classify for IllegalEvent {
    fn code(&self) -> FailureCode {
        FailureCode::Internal
    }
}

impl Classify for StoreError {
    fn code(&self) -> FailureCode {
        match self.kind() {
            StoreErrorKind::NotFound | StoreErrorKind::BucketMissing => FailureCode::InputMissing,
            StoreErrorKind::AccessDenied => FailureCode::S3Denied,
            StoreErrorKind::Changed => FailureCode::InputChanged,
            StoreErrorKind::ChecksumRefused => FailureCode::S3ChecksumBroken,
            StoreErrorKind::InvalidRange
            | StoreErrorKind::Throttled
            | StoreErrorKind::Unavailable
            | StoreErrorKind::Other => FailureCode::S3Unavailable,
            StoreErrorKind::ClockSkew => FailureCode::ConfigInvalid,
        }
    }
}

impl Classify for TransferError {
    fn code(&self) -> FailureCode {
        match self {
            Self::Store(error) => error.code(),
            Self::ChecksumMismatch {
                is_other_content: false,
                ..
            }
            | Self::ReadDifferently { .. } => FailureCode::InputCorrupt,
            Self::ChecksumMismatch { .. } => FailureCode::InputChanged,
            Self::InputChanged { .. } => FailureCode::InputChanged,
            Self::NoSpace { .. } => FailureCode::DiskFull,
            Self::Destination { .. } => FailureCode::JobInvalid,
            Self::Local { cause, .. } => disk_code(cause),
            Self::SourceChanged { .. } => FailureCode::OutputChanged,
            Self::TooLarge { .. } => FailureCode::OutputNames,
            Self::NotConfirmed { .. } => FailureCode::S3ChecksumBroken,
            Self::MemoryCorrupted { .. } => FailureCode::DiskFailed,
            Self::Closed => FailureCode::Superseded,
            Self::Cancelled => FailureCode::Stopped,
            Self::Internal { .. } => FailureCode::Internal,
        }
    }
}

impl Classify for CollectError {
    fn code(&self) -> FailureCode {
        match self {
            Self::Root { .. } => FailureCode::OutputUnreadable,
            Self::Unusable(_) => FailureCode::OutputNames,
            Self::TooMany { .. } => FailureCode::OutputTooMany,
            Self::Cancelled => FailureCode::Stopped,
        }
    }
}

impl Classify for RegistryError {
    fn code(&self) -> FailureCode {
        match self {
            Self::InvalidReference { .. } => FailureCode::JobInvalid,
            Self::NotFound { .. } | Self::NotAnImage { .. } => FailureCode::ImageMissing,
            Self::Denied { .. } => FailureCode::ImageDenied,
            Self::WrongPlatform { .. } => FailureCode::ImagePlatform,
            Self::DigestMismatch { .. } => FailureCode::ImageCorrupt,
            Self::RateLimited { .. } => FailureCode::RegistryRateLimit,
            _ => FailureCode::RegistryUnavailable,
        }
    }
}

impl Classify for EngineError {
    fn code(&self) -> FailureCode {
        match self {
            Self::InvalidHost { .. } => FailureCode::ConfigInvalid,
            Self::Unreachable { .. } | Self::ApiTooOld { .. } => FailureCode::EngineUnavailable,
            Self::Hung { .. } => FailureCode::EngineHung,
            Self::ImageNotFound { .. } => FailureCode::ImageMissing,
            Self::PullRefused { .. } => FailureCode::ImageDenied,
            Self::PullFailed { .. } => FailureCode::RegistryUnavailable,
            Self::NoSpace { .. } => FailureCode::DiskFull,
            Self::NotStarted { .. } => FailureCode::ContainerStart,
            Self::ContainerGone { .. } | Self::ExitUnknown { .. } | Self::Lost { .. } => {
                FailureCode::ContainerLost
            }
            _ => FailureCode::EngineFailed,
        }
    }
}

impl Classify for CoordinatorError {
    fn code(&self) -> FailureCode {
        match self {
            Self::Unreachable { .. } | Self::Unavailable { .. } | Self::NotNow { .. } => {
                FailureCode::ServiceUnavailable
            }
            // The one document that is read with care is the job.
            Self::Malformed { .. } => FailureCode::JobInvalid,
            Self::TokenRefused { .. } => FailureCode::TokenRefused,
            Self::Refused { .. } => FailureCode::ReportRefused,
        }
    }
}

impl Classify for ReportError {
    fn code(&self) -> FailureCode {
        match self {
            Self::Refused(error) => error.code(),
            Self::BudgetUsedUp { last, .. } => last.code(),
            Self::JobEnded { .. } => FailureCode::Stopped,
            Self::Superseded => FailureCode::Superseded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refdata::listing::ListingError;

    #[test]
    fn a_full_disk_of_listings_is_no_damaged_data() {
        let listing = |kind: io::ErrorKind| {
            RefdataError::from(ListingError::Io {
                path: "/metadata/x/md5.json.tmp".into(),
                action: "written",
                source: kind.into(),
            })
        };
        let full = listing(io::ErrorKind::StorageFull);
        assert_eq!(full.code(), FailureCode::DiskFull);
        assert!(full.to_string().contains("make room there"), "{full}");
        let failing = listing(io::ErrorKind::Other);
        assert_eq!(failing.code(), FailureCode::DiskFailed);
        assert!(!failing.to_string().contains("room"), "{failing}");
    }
}
