//! The service over its router, with a database file, users, objects and a registry of the test's own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at what it did not expect"
)]

mod admin;
mod attempts;
mod auth;
mod authz;
mod background;
mod bad_input;
mod condor_ads;
mod condor_commands;
mod condor_site;
mod description;
mod docs;
mod documentation;
mod envelope;
mod events;
mod images;
mod installed;
#[path = "../../../shared/tests/vectors/job_flow_decisions.rs"]
mod job_flow_decisions;
#[path = "../../../shared/tests/vectors/job_input_decisions.rs"]
mod job_input_decisions;
mod jobs;
mod kafka;
mod lists;
#[path = "../../../shared/tests/vectors/loader.rs"]
mod loader;
mod local_site;
mod log_lines;
mod openapi;
mod operations;
mod pool_app;
mod pool_double;
mod reconciler;
mod refdata;
mod refdata_local;
mod refdata_server;
mod refdata_staging;
mod request_limits;
mod sender;
mod serve;
mod server;
mod settings;
mod stager_double;
mod submit;
mod test_app;
mod transcripts;
mod updates;
mod vectors_job_flow;
mod vectors_job_input;
mod worker_files;
