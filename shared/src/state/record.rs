//! What the service keeps of a job while it runs: histories of states, and what came of them. How
//! they change is in [`job_flow`](crate::state::job_flow).

use serde::{Deserialize, Serialize};

use crate::state::JobState;
use crate::state::attempts::AttemptRecord;
use crate::timestamp::UtcTime;
use crate::wire::container::ContainerUsage;
use crate::wire::job::S3File;

/// One entry of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// The state entered.
    pub state: JobState,
    /// When; never before the previous entry.
    pub time: UtcTime,
    /// The time the worker's clock gave, where it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_time: Option<UtcTime>,
}

impl Transition {
    /// The time as it was reported.
    #[must_use]
    pub fn reported(&self) -> UtcTime {
        self.reported_time.unwrap_or(self.time)
    }

    /// The next entry of a history, put off to the last entry's time if it were before it.
    #[must_use]
    pub fn after(history: &[Self], state: JobState, time: UtcTime) -> Self {
        let stored = history.last().map_or(time, |last| last.time.max(time));
        Self {
            state,
            time: stored,
            reported_time: (stored != time).then_some(time),
        }
    }
}

/// The state a history has come to.
fn current(transitions: &[Transition]) -> JobState {
    transitions
        .last()
        .map_or(JobState::Created, |last| last.state)
}

/// One container of a job, as the service keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Its history, oldest first.
    pub transitions: Vec<Transition>,
    /// Exit code of its process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// What it wrote; there from `complete` on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Vec<S3File>>,
    /// What went wrong, for administrators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_error: Option<String>,
    /// Where in the program it went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceback: Option<String>,
    /// The executors that announced themselves, oldest first; see [`crate::state::attempts`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<AttemptRecord>,
    /// What it used, where its executor told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<ContainerUsage>,
}

impl ContainerRecord {
    /// The container's state.
    #[must_use]
    pub fn state(&self) -> JobState {
        current(&self.transitions)
    }
}

/// What a job came to; every member is absent until it is known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JobOutcome {
    /// What it used.
    #[serde(flatten)]
    pub statistics: Statistics,
    /// Whether the batch system's account is still to come.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub statistics_due: bool,
    /// What the containers wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Vec<S3File>>,
    /// Number of `outputs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_file_count: Option<u64>,
    /// What went wrong, for the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What went wrong, for administrators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_error: Option<String>,
    /// Where in the program it went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceback: Option<String>,
    /// S3 path below which the container logs are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logpath: Option<String>,
}

/// What a job used, by the batch system's account and its executors' measurements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// CPU hours used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_hours: Option<f64>,
    /// CPU time used over CPU time reserved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_factor: Option<f64>,
    /// Largest memory of a container, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory: Option<u64>,
}

/// The part of a job that changes while it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its history, oldest first.
    pub transitions: Vec<Transition>,
    /// Its containers, by number.
    pub containers: Vec<ContainerRecord>,
    /// What it came to.
    #[serde(flatten)]
    pub outcome: JobOutcome,
}

impl JobRecord {
    /// A job that has just been submitted: `created`, its containers already `download_submitted`
    /// (contract section 5.2). The `created` transition is to be notified like all others.
    #[must_use]
    pub fn new(num_containers: u32, submitted: UtcTime) -> Self {
        let entry = |state| Transition {
            state,
            time: submitted,
            reported_time: None,
        };
        let container = ContainerRecord {
            transitions: vec![entry(JobState::Created), entry(JobState::DownloadSubmitted)],
            ..ContainerRecord::default()
        };
        Self {
            transitions: vec![entry(JobState::Created)],
            containers: (0..num_containers).map(|_| container.clone()).collect(),
            outcome: JobOutcome::default(),
        }
    }

    /// The job's state.
    #[must_use]
    pub fn state(&self) -> JobState {
        current(&self.transitions)
    }
}
