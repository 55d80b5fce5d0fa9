//! What an executor reports about its container, and what the service shows of it.

use serde::{Deserialize, Serialize};

use crate::id::ContainerNumber;
use crate::state::JobState;
use crate::timestamp::UtcTime;
use crate::wire::attempt::Attempt;
use crate::wire::job::{S3File, StateTransition};

/// Body of `PUT /external_exec/jobs/{job}/container/{n}/update/{state}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerUpdate {
    /// When the container entered the state, by the worker's clock. The executor writes the
    /// `+00:00` form; the service also takes naive times (as UTC) and numbers.
    pub time: String,
    /// For `upload_submitting` and `error_processing_submitting`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// For `complete`; absent when there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Vec<S3File>>,
    /// For `error`; not blank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_error: Option<String>,
    /// For `error`: where in the program it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceback: Option<String>,
    /// The number of the executor's attempt, where the service counts them
    /// ([`crate::wire::attempt`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// With `exit_code`: what the container used, where the service takes it
    /// ([`crate::wire::root::USAGE`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<ContainerUsage>,
}

/// What a container used, measured where it ran. The batch system sees only the executor: the
/// container is a child of the container engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerUsage {
    /// CPU time, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    /// From its start to its end, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_ms: Option<u64>,
    /// The most memory it had, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory_bytes: Option<u64>,
}

/// One container as the admin endpoints show it (`SubJob` in the contract).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// The job's id.
    pub id: String,
    /// The container's state.
    pub state: JobState,
    /// Its transitions, oldest first.
    pub transition_times: Vec<StateTransition>,
    /// The container's number.
    pub sub_id: ContainerNumber,
    /// Exit code of the container's process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// What it wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Vec<S3File>>,
    /// What went wrong, for administrators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_error: Option<String>,
    /// Where in the program it went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceback: Option<String>,
    /// The time the worker's clock gave, where it differs from the stored time of the last transition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_time: Option<UtcTime>,
    /// The executors that announced themselves for it, oldest first; the last one's reports count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
    /// What it used, where its executor told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<ContainerUsage>,
}
