//! The coordinating REST service of CTS.

pub mod condor;
