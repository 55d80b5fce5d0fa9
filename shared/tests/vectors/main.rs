//! The contract's vectors, run whole: one module per vector file.
//!
//! Set `CTS_VECTORS_DIR` to run another directory of the same format.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod buckets;
mod container_args;
mod crc64nvme;
mod file_locations;
mod image_names;
mod job_flow;
mod job_flow_decisions;
mod job_input;
mod job_input_decisions;
mod loader;
mod s3_paths;
mod split;
mod subjob_lift;
