//! The contract's vectors about the service's own text, run whole: one module per vector file.
//!
//! Set `CTS_VECTORS_DIR` to run another directory of the same format.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod condor_stats;
mod condor_submit;
#[path = "../../../shared/tests/vectors/loader.rs"]
mod loader;
