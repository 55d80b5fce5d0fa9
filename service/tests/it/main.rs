//! The service over its router, with a database file, users, objects and a registry of the test's own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at what it did not expect"
)]

mod auth;
mod description;
mod docs;
mod envelope;
mod images;
mod jobs;
mod local_site;
mod openapi;
mod submit;
mod test_app;
mod transcripts;
mod updates;
