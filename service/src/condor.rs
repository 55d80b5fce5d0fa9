//! The text spoken with `HTCondor` (contract condor.md): what is submitted, and what is read back.
//!
//! All of it is pure; running the command line tools is not done here.

mod quoting;
pub mod statistics;
pub mod submit_description;
