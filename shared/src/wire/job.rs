//! Jobs as users, administrators and executors see them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::job_input::JobInput;
use crate::state::JobState;
use crate::timestamp::UtcTime;
use crate::wire::image::JobImage;

mod admin_job;
pub use admin_job::InvalidJob;

/// Answer of `POST /jobs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmitJobResponse {
    /// The new job's id.
    pub job_id: String,
}

/// An object and its checksum.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct S3File {
    /// S3 path, bucket first.
    pub file: String,
    /// Base64 of the big-endian CRC64NVME.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc64nvme: Option<String>,
}

/// A state and when it was entered. The admin view adds the notification's id and whether it was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateTransition {
    /// The state entered.
    pub state: JobState,
    /// When.
    pub time: UtcTime,
    /// Id of the transition's notification; admin view only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trans_id: Option<String>,
    /// Whether the notification was sent; admin view only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notif_sent: Option<bool>,
}

/// Answer of `GET /jobs/{id}/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobStatus {
    /// The job's id.
    pub id: String,
    /// Its state.
    pub state: JobState,
    /// Its transitions, oldest first.
    pub transition_times: Vec<StateTransition>,
    /// Its owner.
    pub user: String,
    /// What administrators noted on it.
    #[serde(default)]
    pub admin_meta: Map<String, Value>,
    /// What keeps it from going on at its site, if something does; not in the contract.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site_notice: Option<SiteNotice>,
}

/// Something at a job's site that keeps it waiting, or ended it: no machine fits, the batch system holds
/// it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteNotice {
    /// What, and who can do something about it.
    pub message: String,
    /// Since when.
    pub since: UtcTime,
}

/// What a job came to, as far as it is known, without its outputs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JobResult {
    /// CPU hours used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_hours: Option<f64>,
    /// CPU time used over CPU time reserved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_factor: Option<f64>,
    /// Largest memory of a container, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory: Option<u64>,
    /// Number of output files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_file_count: Option<u64>,
    /// What went wrong, for the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// S3 path below which the container logs are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logpath: Option<String>,
}

/// A job as its owner sees it: answer of `GET /jobs/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Id, state, transitions, owner, notes.
    #[serde(flatten)]
    pub status: JobStatus,
    /// What was submitted, `input_files` always as objects with checksums.
    pub job_input: JobInput,
    /// The image at submission.
    pub image: JobImage,
    /// Number of input files.
    pub input_file_count: u64,
    /// What it came to.
    #[serde(flatten)]
    pub result: JobResult,
    /// What the containers wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Vec<S3File>>,
}

/// What was submitted, without its files: the members that [`JobInput`] is written with, but
/// `input_files`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobInputPreview(pub Map<String, Value>);

/// A job in a list: without its input files and outputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobPreview {
    /// Id, state, transitions, owner, notes.
    #[serde(flatten)]
    pub status: JobStatus,
    /// What was submitted.
    pub job_input: JobInputPreview,
    /// The image at submission.
    pub image: JobImage,
    /// Number of input files.
    pub input_file_count: u64,
    /// What it came to.
    #[serde(flatten)]
    pub result: JobResult,
}

/// Answer of `GET /jobs` and `GET /admin/jobs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ListJobsResponse {
    /// The jobs, last changed first.
    pub jobs: Vec<JobPreview>,
}

/// A job as administrators and executors see it: answer of `GET /admin/jobs/{id}`.
///
/// An executor needs only the part in [`Job`]. Members this version does not know are passed over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdminJob {
    /// What the owner sees.
    #[serde(flatten)]
    pub job: Job,
    /// What went wrong, for administrators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_error: Option<String>,
    /// Where in the program it went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceback: Option<String>,
    /// Whether intermediate files were cleaned.
    #[serde(default)]
    pub cleaned: bool,
    /// HTCondor's cluster ids, newest last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub htcondor_details: Option<HtcondorDetails>,
}

/// HTCondor's side of a job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HtcondorDetails {
    /// Cluster ids, newest last.
    pub cluster_id: Vec<i64>,
}
