//! The contract's conformance vectors, each file run whole, one module per file.

mod buckets;
mod loader;
mod s3_paths;
