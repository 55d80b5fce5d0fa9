//! End-to-end tests: the real executor on a real container engine, image registry and S3 server,
//! under a coordinator that records what is reported. `tests/README.md` says how to run them and how
//! to read a failure.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on must stop where it stands"
)]

mod harness;

mod attempts;
mod auth2;
mod condor;
mod container_failure;
mod credentials;
mod image;
mod input_failure;
mod load;
mod notifications;
mod output;
mod people;
mod pool;
mod python_client;
mod refdata;
mod replicas;
mod service;
mod service_kills;
mod static_binary;
mod success;
mod termination;
mod wrapper;
