//! What the executor knows of `HTCondor`, where it was started by it; without it nothing of this happens.
//!
//! - [`ads`]: what the job's and the machine's ads say, which `HTCondor` leaves in files;
//! - [`pool_view`]: what the pool's people see of a run, told by [`chirp`];
//! - [`class_ad`]: how values are written for it.

pub mod ads;
pub mod chirp;
pub mod class_ad;
pub mod pool_view;

/// `HTCondor`'s own variables that the executor reads. Not settings: `HTCondor` sets them for each job.
pub const VARIABLES: [&str; 3] = [ads::JOB_AD, ads::MACHINE_AD, chirp::CONFIG];
