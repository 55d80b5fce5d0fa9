//! The worker's executor: one process, one container, one working directory.

mod beneath;
pub mod collect;
pub mod container_engine;
pub mod object_store;
pub mod progress;
pub mod transfer;
