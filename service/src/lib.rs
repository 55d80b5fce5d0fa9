//! The CDM Task Service (CTS): takes jobs, has their containers run at compute sites, and tells what
//! became of them.
//!
//! # The life of a job
//!
//! 1. `POST /jobs` ([`api::jobs`]) checks everything that can be checked ([`jobs::submit`]) and stores
//!    the job with all its containers ([`job_store`]).
//! 2. The job is handed to its site ([`jobs::resume`], [`compute_site`]), which starts an executor for
//!    each container.
//! 3. Executors report states ([`api::external_exec`], [`jobs::report`]); each report and what it means
//!    for the job is one atomic step on the stored record.
//! 4. When all containers have ended, the [`background::finisher`] compares the outputs with S3 and
//!    ends the job ([`jobs::finish`]).
//!
//! # Module map
//!
//! | module | what lives there |
//! |---|---|
//! | [`cli`], [`serve`], [`dev`], [`exit`], [`telemetry`] | the program: options, commands, how it ends, logs |
//! | [`config`] | the settings: what there is, where it comes from, what is wrong with it |
//! | `assembly`, `data_dir` | the parts put together, started and stopped; their directory |
//! | [`app`], [`router`] | the parts, the URL space |
//! | [`api`] | HTTP |
//! | [`jobs`], [`images`], [`refdata`], [`sites`] | use cases |
//! | [`job_store`], [`image_store`], [`refdata_store`], [`site_store`], [`lease_store`], [`outbox`] | what is remembered; [`sqlite`] keeps it in one file, [`mongo`] in a database that several services share |
//! | [`store_copy`], [`migrate`] | one store copied into another |
//! | [`identity`] | tokens to users |
//! | [`compute_site`], [`condor`] | where executors run |
//! | [`refdata_stager`] | who brings reference data to the sites |
//! | [`object_store`], [`image_registry`], [`broker`] | S3, registries, Kafka |
//! | [`background`] | loops that no request waits for |
//! | [`metrics`], [`readiness`] | what operators watch |

pub mod api;
pub mod app;
mod assembly;
pub mod background;
pub mod broker;
mod child_process;
pub mod cli;
pub mod clock;
pub mod compute_site;
pub mod condor;
pub mod config;
mod data_dir;
pub mod dev;
pub mod error;
pub mod exit;
pub mod identity;
pub mod image_registry;
pub mod image_store;
pub mod images;
pub mod job_store;
pub mod jobs;
pub mod lease_store;
pub mod metrics;
pub mod migrate;
pub mod mongo;
pub mod object_store;
pub mod outbox;
mod process_identity;
mod programs;
pub mod readiness;
pub mod refdata;
pub mod refdata_stager;
pub mod refdata_store;
pub mod role;
pub mod router;
pub mod serve;
pub mod site_store;
pub mod sites;
pub mod sqlite;
pub mod store_copy;
pub mod stores;
pub mod telemetry;
