//! The labels that tell whose container it is, for people with `docker ps` and for the next executor.

use cts_shared::id::{ContainerNumber, JobId};

/// The job's id.
pub const JOB: &str = "us.kbase.cts.job";
/// The container's number.
pub const CONTAINER: &str = "us.kbase.cts.container";
/// The job's owner.
pub const USER: &str = "us.kbase.cts.user";
/// This executor: tells it from an earlier one of the same container.
pub const INSTANCE: &str = "us.kbase.cts.executor";
/// The number of its executor's attempt, where the service counts them.
pub const ATTEMPT: &str = "us.kbase.cts.attempt";
/// The executor's process ([`ProcessMark`](crate::orphans::process_mark::ProcessMark)): tells whether it lives.
pub const PROCESS: &str = "us.kbase.cts.process";

/// The labels that every container of this job and number has.
#[must_use]
pub fn of_container(job: JobId, container: ContainerNumber) -> Vec<(String, String)> {
    vec![
        (JOB.to_owned(), job.to_string()),
        (CONTAINER.to_owned(), container.to_string()),
    ]
}
