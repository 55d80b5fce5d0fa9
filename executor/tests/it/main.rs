//! The executor's runs against in-process doubles: a service on loopback, a scripted container engine,
//! an object store in memory. One module per behaviour.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod attempts;
mod bed;
mod documentation;
mod executor_calls;
mod failures;
#[path = "../../../shared/tests/vectors/loader.rs"]
mod loader;
mod lost_answers;
mod orphans;
mod pool_view;
mod program;
mod refdata;
mod refdata_commands;
mod refdata_runs;
mod signals;
mod transcripts;
