//! How the process ends: numbers of BSD's `sysexits.h`, as the executor has them.

use std::process::ExitCode;

/// The statuses. A supervisor may start the service again after 1 and 75; after 78 somebody has to change
/// something first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// Stopped in order.
    Done,
    /// Something the service cannot do without has failed.
    Failed,
    /// It could not start now: the port or the data directory is taken (`EX_TEMPFAIL`).
    TryAgain,
    /// A setting is missing or wrong, or names something that cannot be used (`EX_CONFIG`).
    Configuration,
}

impl ExitStatus {
    /// The number the process ends with.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::TryAgain => 75,
            Self::Configuration => 78,
        }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}
