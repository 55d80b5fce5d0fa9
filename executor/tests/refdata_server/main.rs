//! The staging server of reference data against doubles on loopback: KBase auth2, and a service as strict as the
//! existing one. One module per behaviour.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod area;
mod auth2;
mod bed;
mod documentation;
mod program;
mod restarts;
mod routes;
mod s3;
mod service;
mod stagings;
