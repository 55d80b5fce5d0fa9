//! The domain of the CDM Task Service (CTS): everything the worker's executor and the coordinating
//! service must agree on, and nothing that does IO. No network, no disk, no clock, no environment.
//!
//! # Glossary
//!
//! - **job**: one submission; **container** (in the wire format also *subjob*): one of the job's
//!   `num_containers` parallel runs, numbered from 0.
//! - **site** (in the wire format also *cluster*): a place where containers run; `kbase` is HTCondor.
//! - **refdata**: reference data mounted read-only into containers of images that ask for it.
//! - **CRC64NVME**: the checksum every object of the system carries; see [`crc64nvme`].
//!
//! # Module map
//!
//! | module | what lives there |
//! |---|---|
//! | [`id`] | job, image and refdata ids, container numbers |
//! | [`s3_path`] | bucket and key rules |
//! | [`refdata_archive`] | which archives of reference data can be unpacked, by their names |
//! | [`image_name`] | `registry/repository:tag@digest` |
//! | [`crc64nvme`] | hash, base64, combine |
//! | [`site`] | the sites and their limits |
//! | [`job_input`] | a job submission and every rule about it |
//! | [`split`], [`file_location`], [`container_args`], [`manifest`], [`mount_point`] | from a job to one container's files, command and environment |
//! | [`state`] | job, container and refdata states; the lift from containers to the job |
//! | [`error_code`], [`failure`] | the codes users see; who is to blame and whether a retry helps |
//! | [`container_log`] | where a container's output is kept |
//! | [`validation`] | the pieces that checks of requests are built from |
//! | [`wire`] | REST and Kafka payloads |

pub mod container_args;
pub mod container_log;
pub mod crc64nvme;
pub mod error_code;
pub mod failure;
pub mod file_location;
pub mod id;
pub mod image_name;
pub mod job_input;
pub mod manifest;
pub mod mount_point;
pub mod refdata_archive;
pub mod s3_path;
pub mod site;
pub mod split;
pub mod state;
pub mod timestamp;
mod unicode;
pub mod validation;
pub mod wire;
