//! What the executor knows of HTCondor, where it was started by it; without it nothing of this happens.
//!
//! [`ads`]: what the job's and the machine's ads say, which HTCondor leaves in files.

pub mod ads;

/// HTCondor's own variables that the executor reads. Not settings: HTCondor sets them for each job.
pub const VARIABLES: [&str; 2] = [ads::JOB_AD, ads::MACHINE_AD];
