//! Attempts: which of several executors of one container is the one whose reports count.
//!
//! The batch system starts a container's executor again when a worker is lost or a slot is taken
//! back. An executor announces itself before it does anything else and gets the number of its attempt.
//! Its reports carry that number; those of an earlier attempt are refused with
//! [`AttemptSuperseded`](crate::error_code::ErrorCode::AttemptSuperseded), and so is its next renewal.
//! An addition to the contract (decisions.md, 18): a service that has it says so in
//! [`Root::capabilities`](crate::wire::root::Root::capabilities).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::state::JobState;

/// From one renewal of an attempt to the next, at most.
pub const RENEWAL_INTERVAL: Duration = Duration::from_secs(20);

/// How old the service's last word to an executor may be when it makes an object visible in the store. Two
/// renewals fit into it, so that one that gets lost holds up nothing. It counts from the question.
pub const PUBLISH_LEASE: Duration = Duration::from_secs(45);

/// How long a request that the store has wholly when the lease lapses may take to have its effect; others are
/// broken off then. After lease and this an executor that was not heard of publishes nothing any more, and its
/// successor may.
pub const PUBLISH_MARGIN: Duration = Duration::from_secs(15);

/// Body of `POST /external_exec/jobs/{job}/container/{n}/attempts`: an executor begins. Safe to repeat.
/// Body of `PUT .../attempts/{attempt}` as well: the executor is still at work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptNotice {
    /// The worker's clock, as in [`ContainerUpdate`](crate::wire::container::ContainerUpdate).
    pub time: String,
    /// Tells this executor process from all others: a random UUID.
    pub instance: String,
    /// The worker's name, for administrators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// With `PUT`: the executor ends, and has nothing under way to the store. Its successor need not wait.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
}

/// Answer to both: where the executor stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptStanding {
    /// The number of the executor's attempt, from 1. If it is not wanted: of the last attempt, 0 if
    /// there was none.
    pub attempt: u32,
    /// Whether the container is still to be carried out. If not, the executor ends at once, with
    /// success: the container has ended, or the job has or is being canceled.
    pub wanted: bool,
    /// The job's state.
    pub job_state: JobState,
    /// How long from now the executor must make nothing visible in the store, in milliseconds: an earlier
    /// attempt that has not been heard of may still do so. Absent if it need not wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish_after_ms: Option<u64>,
}

/// One attempt as administrators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its number, from 1.
    pub attempt: u32,
    /// The worker's name, if it told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// When the executor announced itself, by the service's clock.
    pub started: crate::timestamp::UtcTime,
    /// When it was last heard of, by the service's clock.
    pub last_seen: crate::timestamp::UtcTime,
}
