//! The contract's vectors, run whole: one module per vector file.
//!
//! Set `CTS_VECTORS_DIR` to run another directory of the same format.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at what it did not expect")]

mod crc64nvme;
mod loader;
