//! HTTP: take a request apart, call a use case, put the answer together. No rules of the domain here.
//!
//! The order of checks is the contract's (service.md, section 1.1), and handlers show it: body syntax,
//! user, parameters and body, role, use case.

pub mod admin_jobs;
pub mod attempts;
pub mod callbacks;
pub mod checks;
pub mod docs;
pub mod error;
pub mod events;
pub mod external_exec;
pub mod extract;
pub mod health;
pub mod images;
pub mod job_lists;
pub mod jobs;
pub mod logs;
pub mod metrics;
pub mod nersc;
pub mod notifications;
pub mod openapi;
pub mod parameters;
pub mod refdata;
pub mod request_context;
pub mod response_headers;
pub mod root;
pub mod sites;
pub mod worker_files;
