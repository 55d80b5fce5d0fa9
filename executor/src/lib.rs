//! The worker's executor: one process, one container, one working directory.
//!
//! The life of one container ([`run`]):
//! 1. settings from the environment ([`variables`], [`config`]), secrets from files;
//! 2. the job from the service ([`coordinator`]);
//! 3. the plan: what will run, with which files ([`plan`]);
//! 4. image ([`container_engine`]) and inputs ([`transfer`]) side by side into the job directory
//!    ([`workdir`]), every byte checked against the job's checksums;
//! 5. the container, within the job's limits; its output into two log files;
//! 6. outputs ([`collect`]) and logs to S3 ([`object_store`]);
//! 7. each step reported in order ([`run_state`], [`report`]), whatever the network does;
//! 8. SIGTERM at any point ends in a stopped container and no stray files ([`shutdown`]), SIGKILL in a
//!    container that soon is gone ([`guardian`], [`orphans`]).

mod beneath;
pub mod checksum;
pub mod cli;
pub mod clock;
pub mod collect;
pub mod commands;
pub mod condor;
pub mod config;
pub mod container_engine;
pub mod coordinator;
pub mod disk;
pub mod doctor;
pub mod exit;
pub mod failure;
pub mod guardian;
pub mod identity;
pub mod labels;
pub mod local;
pub mod object_store;
pub mod orphans;
pub mod plan;
pub mod process;
pub mod progress;
pub mod progress_display;
pub mod refdata;
pub mod refdata_commands;
pub mod refdata_server;
pub mod registry_logins;
pub mod report;
pub mod run;
pub mod run_state;
pub mod shutdown;
pub mod telemetry;
pub mod transfer;
pub mod variables;
pub mod workdir;
