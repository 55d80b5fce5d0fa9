//! The contract's conformance vectors, each file run whole, one module per file.

mod buckets;
mod job_input;
mod loader;
mod s3_paths;
