//! The staging server: brings reference data onto this machine's disk when the service asks for it
//! (`cts-executor refdata-server`; contract service.md, section 10, and `openapi.refdata.json`).
//!
//! ```text
//!   service ── POST /refdata/{id}/{site} ──▶ server     is it wanted? noted (staging.json), told
//!           ◀─ download_submitted ─────────             then 204, and the rest in the background:
//!                                                       queue ▶ stage ▶ report ▶ note removed
//!           ◀─ complete | error ───────────
//! ```
//!
//! - **What was asked for is noted before it is promised.** The note goes when the service has taken the outcome.
//!   In between the server may be killed at any moment: the next start takes every note up.
//! - **One staging per item**, however many ask, and at most so many items at a time as the settings say.
//! - **`complete` means done and checked**: it is reported only after the store on disk said so.
//! - **The service may be away**, for as long as it takes. Reports are repeated until they are taken, or until the
//!   service says that nobody waits for them.
//! - It needs nothing of the service that the existing one does not have.

mod area;
mod auth;
mod config;
mod error;
mod journal;
mod reports;
mod request;
mod routes;
mod serve;
mod service;
mod stagings;

pub use area::{DiskArea, StagingArea};
pub use auth::{Authenticator, Roles};
pub use config::{RefdataServerConfig, SETTINGS, Setting};
pub use routes::{Api, router};
pub use serve::{Parts, RunningServer, refdata_server};
pub use service::RefdataService;
pub use stagings::{Stagings, StagingsSettings};
