//! Work no request waits for. Each is a step that can be taken at any time, and a loop around it.

pub mod cleaner;
pub mod finisher;
pub mod local_site_holder;
pub mod reconciler;
pub mod refdata_stager;
pub mod sender;
pub mod site_watcher;
pub mod starter;
