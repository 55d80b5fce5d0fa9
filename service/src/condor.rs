//! `HTCondor` (contract condor.md): what is submitted, what is read back, and what follows from it.
//!
//! | module | what lives there |
//! |---|---|
//! | [`submit_description`], `quoting` | the text of a submission |
//! | [`proc_ad`], [`machine_ad`] | what the pool says of a proc, of a machine |
//! | [`statistics`] | what a job used |
//! | [`holds`] | what a held proc means, and who can help |
//! | [`reconcile`] | what to do where store and pool disagree |
//! | [`pool`], [`commands`] | the pool as a trait, and by its command line |
//! | [`start_up`] | what must be there before anything is submitted |
//!
//! Only [`commands`] and [`start_up`] do IO.

pub mod commands;
pub mod holds;
pub mod machine_ad;
pub mod pool;
pub mod proc_ad;
mod quoting;
pub mod reconcile;
pub mod start_up;
pub mod statistics;
pub mod submit_description;
