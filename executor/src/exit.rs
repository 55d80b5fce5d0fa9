//! Exit statuses. The submit description holds a job whose executor ends with anything but 0
//! (contract executor.md, section 2; condor.md, section 2). Beyond the contract's 0, 1 and
//! 128 + signal the numbers are those of BSD's `sysexits.h`.

use std::process::ExitCode;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// The executor did its work; also when the container failed and that was reported.
    Done,
    /// Something around the container failed.
    Failed,
    /// The service could not be reached at the start: another worker or time may help (`EX_TEMPFAIL`).
    ServiceUnavailable,
    /// The service refused at the start (`EX_NOPERM`).
    NoPermission,
    /// A setting is missing or wrong (`EX_CONFIG`).
    Configuration,
    /// SIGTERM or SIGINT ended the run.
    Signal(u8),
}

impl ExitStatus {
    /// The number the process ends with.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::ServiceUnavailable => 75,
            Self::NoPermission => 77,
            Self::Configuration => 78,
            Self::Signal(number) => 128_u8.saturating_add(number),
        }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}
