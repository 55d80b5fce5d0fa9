//! Who this executor process is: for the service, and for the labels of its container.

use crate::orphans::process_mark::ProcessMark;

/// Tells this process from all other executors.
#[derive(Debug, Clone)]
pub struct Identity {
    /// A random UUID.
    pub instance: String,
    /// The worker's name, if it has one.
    pub host: Option<String>,
    /// The process, if the system tells.
    pub process: Option<ProcessMark>,
}

impl Identity {
    /// This process, on this machine, with a new instance.
    #[must_use]
    pub fn new() -> Self {
        let name = rustix::system::uname();
        let host = name.nodename().to_string_lossy().into_owned();
        Self {
            instance: uuid::Uuid::new_v4().to_string(),
            host: Some(host).filter(|host| !host.is_empty()),
            process: ProcessMark::of_this_process().ok(),
        }
    }
}

impl Default for Identity {
    fn default() -> Self {
        Self::new()
    }
}
