//! Why a run failed, in a form that people and programs can act on: a stable code, whom it concerns,
//! and whether running it again can help.
//!
//! The executor reports a [`Failure`] as `admin_error`, with its classification at the end:
//!
//! ```
//! use cts_shared::failure::{Failure, FailureCode};
//!
//! let failure = Failure::new(FailureCode::InputMissing, "input buk/a is not in S3; upload it again");
//! assert_eq!(
//!     failure.to_string(),
//!     "input buk/a is not in S3; upload it again [input_missing, blame data, retry never]"
//! );
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who can do something about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The job as submitted, or the tool in the image.
    User,
    /// The input objects.
    Data,
    /// What all sites share: S3, registry, network.
    Infra,
    /// The machine or pool where the container ran.
    Site,
    /// The coordinating service.
    Service,
    /// This program.
    Bug,
}

impl Blame {
    /// The name in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Data => "data",
            Self::Infra => "infra",
            Self::Site => "site",
            Self::Service => "service",
            Self::Bug => "bug",
        }
    }
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether running the container again, with nothing changed, can succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// No: something must be changed first.
    Never,
    /// Yes, here or elsewhere, after a while.
    Later,
    /// Yes, on another machine.
    Elsewhere,
}

impl Retry {
    /// The name in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Later => "later",
            Self::Elsewhere => "elsewhere",
        }
    }
}

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What kind of failure it was. The names are stable: logs, metrics and people rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// The job cannot be run as it was submitted: colliding inputs, a parameter without its format.
    JobInvalid,
    /// The executor's own settings are wrong.
    ConfigInvalid,

    /// The store does not answer, or only with errors.
    S3Unavailable,
    /// The store refuses the executor's keys.
    S3Denied,
    /// The store does not keep checksums as S3 does.
    S3ChecksumBroken,

    /// An input object is gone.
    InputMissing,
    /// An input object is not the one that was submitted.
    InputChanged,
    /// An input object arrived damaged, twice.
    InputCorrupt,

    /// Reference data that cannot be staged: its object is another one than was registered, or an archive that is
    /// damaged or refused.
    RefdataInvalid,
    /// Reference data on this machine is not what was staged.
    RefdataDamaged,

    /// The registry does not answer, or only with errors.
    RegistryUnavailable,
    /// The registry asks for fewer requests.
    RegistryRateLimit,
    /// The registry refuses the executor's credentials.
    ImageDenied,
    /// The registry does not have the image.
    ImageMissing,
    /// The registry serves something else under the image's digest.
    ImageCorrupt,
    /// The image is made for other machines.
    ImagePlatform,

    /// The container engine cannot be reached.
    EngineUnavailable,
    /// The container engine does not answer in time.
    EngineHung,
    /// The container engine failed at an operation.
    EngineFailed,

    /// Not enough space for inputs, outputs or image.
    DiskFull,
    /// The disk reports errors, or returns other bytes than were written.
    DiskFailed,

    /// The container could not be started: no such entrypoint, not executable.
    ContainerStart,
    /// The tool ended with a non-zero exit code.
    ContainerExit,
    /// The tool needed more memory than the job asked for.
    ContainerOutOfMemory,
    /// The tool ran longer than the job asked for.
    ContainerTimeout,
    /// The container ended and nobody knows how.
    ContainerLost,

    /// Names of output files that S3 paths cannot have.
    OutputNames,
    /// Output files that cannot be read, or are not files.
    OutputUnreadable,
    /// Output files that changed while they were uploaded.
    OutputChanged,
    /// More output files than allowed.
    OutputTooMany,

    /// The service does not answer, or only with errors.
    ServiceUnavailable,
    /// The service refuses the executor's token.
    TokenRefused,
    /// The service refuses a report.
    ReportRefused,
    /// Another attempt runs this container now.
    Superseded,
    /// The executor was told to stop.
    Stopped,

    /// Something that cannot happen did.
    Internal,
}

impl FailureCode {
    /// Every code.
    pub const ALL: [Self; 36] = [
        Self::JobInvalid,
        Self::ConfigInvalid,
        Self::S3Unavailable,
        Self::S3Denied,
        Self::S3ChecksumBroken,
        Self::InputMissing,
        Self::InputChanged,
        Self::InputCorrupt,
        Self::RefdataInvalid,
        Self::RefdataDamaged,
        Self::RegistryUnavailable,
        Self::RegistryRateLimit,
        Self::ImageDenied,
        Self::ImageMissing,
        Self::ImageCorrupt,
        Self::ImagePlatform,
        Self::EngineUnavailable,
        Self::EngineHung,
        Self::EngineFailed,
        Self::DiskFull,
        Self::DiskFailed,
        Self::ContainerStart,
        Self::ContainerExit,
        Self::ContainerOutOfMemory,
        Self::ContainerTimeout,
        Self::ContainerLost,
        Self::OutputNames,
        Self::OutputUnreadable,
        Self::OutputChanged,
        Self::OutputTooMany,
        Self::ServiceUnavailable,
        Self::TokenRefused,
        Self::ReportRefused,
        Self::Superseded,
        Self::Stopped,
        Self::Internal,
    ];

    const fn row(self) -> (&'static str, Blame, Retry) {
        match self {
            Self::JobInvalid => ("job_invalid", Blame::User, Retry::Never),
            Self::ConfigInvalid => ("config_invalid", Blame::Site, Retry::Never),
            Self::S3Unavailable => ("s3_unavailable", Blame::Infra, Retry::Later),
            Self::S3Denied => ("s3_denied", Blame::Infra, Retry::Never),
            Self::S3ChecksumBroken => ("s3_checksum_broken", Blame::Infra, Retry::Never),
            Self::InputMissing => ("input_missing", Blame::Data, Retry::Never),
            Self::InputChanged => ("input_changed", Blame::Data, Retry::Never),
            Self::InputCorrupt => ("input_corrupt", Blame::Infra, Retry::Elsewhere),
            Self::RefdataInvalid => ("refdata_invalid", Blame::Data, Retry::Never),
            Self::RefdataDamaged => ("refdata_damaged", Blame::Site, Retry::Elsewhere),
            Self::RegistryUnavailable => ("registry_unavailable", Blame::Infra, Retry::Later),
            Self::RegistryRateLimit => ("registry_rate_limit", Blame::Infra, Retry::Later),
            Self::ImageDenied => ("image_denied", Blame::Infra, Retry::Never),
            Self::ImageMissing => ("image_missing", Blame::User, Retry::Never),
            Self::ImageCorrupt => ("image_corrupt", Blame::Infra, Retry::Never),
            Self::ImagePlatform => ("image_platform", Blame::User, Retry::Elsewhere),
            Self::EngineUnavailable => ("engine_unavailable", Blame::Site, Retry::Elsewhere),
            Self::EngineHung => ("engine_hung", Blame::Site, Retry::Elsewhere),
            Self::EngineFailed => ("engine_failed", Blame::Site, Retry::Elsewhere),
            Self::DiskFull => ("disk_full", Blame::Site, Retry::Elsewhere),
            Self::DiskFailed => ("disk_failed", Blame::Site, Retry::Elsewhere),
            Self::ContainerStart => ("container_start", Blame::User, Retry::Never),
            Self::ContainerExit => ("container_exit", Blame::User, Retry::Never),
            Self::ContainerOutOfMemory => ("container_out_of_memory", Blame::User, Retry::Never),
            Self::ContainerTimeout => ("container_timeout", Blame::User, Retry::Never),
            Self::ContainerLost => ("container_lost", Blame::Site, Retry::Elsewhere),
            Self::OutputNames => ("output_names", Blame::User, Retry::Never),
            Self::OutputUnreadable => ("output_unreadable", Blame::User, Retry::Never),
            Self::OutputChanged => ("output_changed", Blame::User, Retry::Never),
            Self::OutputTooMany => ("output_too_many", Blame::User, Retry::Never),
            Self::ServiceUnavailable => ("service_unavailable", Blame::Service, Retry::Later),
            Self::TokenRefused => ("token_refused", Blame::Site, Retry::Never),
            Self::ReportRefused => ("report_refused", Blame::Service, Retry::Never),
            Self::Superseded => ("superseded", Blame::Infra, Retry::Never),
            Self::Stopped => ("stopped", Blame::Site, Retry::Later),
            Self::Internal => ("internal", Blame::Bug, Retry::Never),
        }
    }

    /// The name in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// Who can do something about it.
    #[must_use]
    pub const fn blame(self) -> Blame {
        self.row().1
    }

    /// Whether running it again can help.
    #[must_use]
    pub const fn retry(self) -> Retry {
        self.row().2
    }
}

impl fmt::Display for FailureCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failure with what happened, in words. Displays as one line that is never blank, as a report
/// to the service must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Failure {
    code: FailureCode,
    message: String,
}

impl Failure {
    /// `message` is one sentence that names the object, the cause and the next step; line breaks
    /// become spaces.
    #[must_use]
    pub fn new(code: FailureCode, message: impl Into<String>) -> Self {
        let message: String = message.into();
        let lines: Vec<&str> = message
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        Self {
            code,
            message: lines.join(" "),
        }
    }

    /// A failure described by an error and what caused it.
    #[must_use]
    pub fn from_error(code: FailureCode, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::new(code, message)
    }

    /// What kind of failure it is.
    #[must_use]
    pub const fn code(&self) -> FailureCode {
        self.code
    }

    /// Who can do something about it.
    #[must_use]
    pub const fn blame(&self) -> Blame {
        self.code.blame()
    }

    /// Whether running it again can help.
    #[must_use]
    pub const fn retry(&self) -> Retry {
        self.code.retry()
    }

    /// What happened, without the classification.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.message.is_empty() {
            write!(f, "{} ", self.message)?;
        }
        write!(
            f,
            "[{}, blame {}, retry {}]",
            self.code,
            self.blame(),
            self.retry()
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_stable_and_distinct() {
        let names: HashSet<&str> = FailureCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), FailureCode::ALL.len());
        for code in FailureCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }

    #[test]
    fn a_failure_is_one_line_and_never_blank() {
        let failure = Failure::new(FailureCode::Internal, " \n ");
        assert_eq!(failure.to_string(), "[internal, blame bug, retry never]");
        let failure = Failure::new(FailureCode::DiskFull, "no space\n  left\r\n");
        assert_eq!(
            failure.to_string(),
            "no space left [disk_full, blame site, retry elsewhere]"
        );
    }

    #[test]
    fn causes_are_in_the_message() {
        #[derive(Debug, thiserror::Error)]
        #[error("read job")]
        struct Outer(#[source] std::num::ParseIntError);
        let error = Outer("x".parse::<i32>().unwrap_err());
        let failure = Failure::from_error(FailureCode::ServiceUnavailable, &error);
        assert_eq!(failure.message(), "read job: invalid digit found in string");
    }
}
