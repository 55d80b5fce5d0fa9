//! The states of jobs and containers and the legal steps between them
//! (contract service.md, section 5).

use std::fmt;

use serde::{Deserialize, Serialize};

/// State of a job or of one of its containers. Containers never enter the cancel states.
///
/// ```text
/// created -> download_submitted -> job_submitting -> job_submitted
///     -> upload_submitting -> upload_submitted -> complete
///     -> error_processing_submitting -> error_processing_submitted -> error
/// any non-terminal -> error;  job: any non-terminal -> canceling -> canceled
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "the diagram above says it better than one line each"
)]
pub enum JobState {
    Created,
    DownloadSubmitted,
    JobSubmitting,
    JobSubmitted,
    UploadSubmitting,
    UploadSubmitted,
    Complete,
    Canceling,
    Canceled,
    ErrorProcessingSubmitting,
    ErrorProcessingSubmitted,
    Error,
}

impl JobState {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::DownloadSubmitted => "download_submitted",
            Self::JobSubmitting => "job_submitting",
            Self::JobSubmitted => "job_submitted",
            Self::UploadSubmitting => "upload_submitting",
            Self::UploadSubmitted => "upload_submitted",
            Self::Complete => "complete",
            Self::Canceling => "canceling",
            Self::Canceled => "canceled",
            Self::ErrorProcessingSubmitting => "error_processing_submitting",
            Self::ErrorProcessingSubmitted => "error_processing_submitted",
            Self::Error => "error",
        }
    }

    /// Whether nothing can follow.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Complete | Self::Error | Self::Canceled)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
