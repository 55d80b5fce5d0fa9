//! `runtime`: how long a container may run. Microsecond resolution, written as an ISO 8601 duration.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Longest time one container may run; default 60 s. On the wire an ISO 8601 duration (`PT1H30M`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Runtime(Duration);

impl Default for Runtime {
    fn default() -> Self {
        Self(Duration::from_secs(60))
    }
}

impl Runtime {
    /// The runtime as a duration.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }
}
