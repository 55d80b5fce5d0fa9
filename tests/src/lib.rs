//! The testbed of CTS and what the end-to-end tests and the demo share.
//!
//! [`testbed`] starts the real components (container engine, image registries, S3 server, HTCondor pool) in a
//! directory of their own and stops them again; [`service_process`] runs the service on them; [`auth2`] is a
//! double of KBase auth2 in this process;
//! [`object_store`] reads and writes objects the way a user of the service would; [`binaries`] finds
//! the programs under test. [`load`], [`machine`] and [`markdown`] are what the benchmarks measure and
//! print with. The tests themselves are in `e2e/`.

pub mod auth2;
pub mod binaries;
pub mod load;
pub mod machine;
pub mod markdown;
pub mod object_store;
pub mod service_process;
pub mod testbed;
