//! Reference data: an object staged as a directory, whole and checked or not at all.

pub mod limits;
pub mod listing;
pub mod progress;
pub mod unpack;
