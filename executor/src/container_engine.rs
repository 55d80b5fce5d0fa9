//! The container engine as the executor sees it: the few calls it makes, in its own words.
//!
//! [`docker`] speaks to a real engine (Docker, or Podman's Docker-compatible socket), [`fake`] is the
//! test double, [`logs`] keeps what a container prints. The engine's own types stop at [`docker`].
//!
//! # Never a container left behind
//!
//! A container exists from the moment [`ContainerEngine::run`] asks for it until it is removed.
//! - Call [`RunningContainer::remove`] when done: it waits for the removal and reports a failure.
//! - A handle that is dropped instead, or a `run` whose future is dropped half way, is removed in the
//!   background. [`ContainerEngine::settle`] waits for those removals: call it before the process ends.
//! - What a killed process left is found again by its labels with [`ContainerEngine::list`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use cts_shared::id::{ContainerNumber, JobId};
use futures::future::BoxFuture;

use crate::progress::Counters;

pub mod docker;
pub mod error;
pub mod exit;
pub mod fake;
pub mod logs;

pub use docker::{DockerEngine, DockerOptions};
pub use error::{EngineError, StartFault, Unreachable};
pub use exit::{Exit, explain_exit};
pub use logs::{ContainerLogs, LogSummary};

/// A container engine on this host.
///
/// Every call has a deadline of its own; none blocks the runtime. Unless a method says otherwise its
/// future may be dropped at any point without harm.
pub trait ContainerEngine: fmt::Debug + Send + Sync {
    /// Who the engine is and what it can do. The cheap check of `doctor` and of a run's start.
    ///
    /// # Errors
    /// [`EngineError::Unreachable`], [`EngineError::Hung`], [`EngineError::ApiTooOld`]; each with the remedy in words.
    fn info(&self) -> BoxFuture<'_, Result<EngineInfo, EngineError>>;

    /// Whether the engine holds `image` (`name@digest`), so that no registry is needed.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    fn has_image<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<bool, EngineError>>;

    /// Fetches `image` (`name@digest`) from its registry; at once done when it is there. Failures that may
    /// pass are retried with growing, jittered waits; a pull is given up when nothing moves for a while, never
    /// because it is long. Layers that arrived are reused by the next try, and by other executors on this
    /// node that want the same image: the engine fetches each layer once.
    ///
    /// `progress` counts compressed bytes and layers.
    ///
    /// # Errors
    /// [`EngineError::PullRefused`], [`EngineError::ImageNotFound`], [`EngineError::NoSpace`] and
    /// [`EngineError::PullFailed`].
    fn pull<'a>(
        &'a self,
        image: &'a str,
        progress: &'a Counters,
    ) -> BoxFuture<'a, Result<(), EngineError>>;

    /// Creates the container, listens to its output, starts it: in that order, so that no output is
    /// lost. What it prints goes to `logs` until it ends.
    ///
    /// When the future is dropped, or start fails, the container is removed (see the module's documentation).
    ///
    /// # Errors
    /// [`EngineError::ImageNotFound`] when the image went away since the pull (pull again), [`EngineError::NotStarted`]
    /// when the entrypoint or a mount is at fault.
    fn run(
        &self,
        spec: ContainerSpec,
        logs: ContainerLogs,
    ) -> BoxFuture<'_, Result<Box<dyn RunningContainer>, EngineError>>;

    /// All containers, running or not, that carry every one of `labels`; an empty value stands for any.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    fn list<'a>(
        &'a self,
        labels: &'a [(String, String)],
    ) -> BoxFuture<'a, Result<Vec<ContainerSummary>, EngineError>>;

    /// Kills and removes the container with this id or name. One that is gone already is a success.
    ///
    /// # Errors
    /// When the engine cannot be asked or refuses.
    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), EngineError>>;

    /// Removes an image (`name@digest`) that no container uses. One that is gone already is a success.
    ///
    /// # Errors
    /// When the engine cannot be asked or refuses, for example because a container still uses the image.
    fn remove_image<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<(), EngineError>>;

    /// Waits, within a bound, until the removals started for dropped handles are done.
    fn settle(&self) -> BoxFuture<'_, ()>;
}

/// A started container. Dropping it kills and removes the container in the background; prefer
/// [`remove`](RunningContainer::remove).
pub trait RunningContainer: fmt::Debug + Send + Sync {
    /// The engine's id of the container.
    fn id(&self) -> &str;

    /// Waits until the container has ended and its output is on disk. May be called again, dropped
    /// and called concurrently with [`stop`](Self::stop): the answer stays the same.
    ///
    /// A wait that breaks because the engine went away is taken up again when it comes back within a bound.
    ///
    /// # Errors
    /// [`EngineError::ExitUnknown`] when no exit code can be had or believed: a failure of the
    /// infrastructure, never the tool's success. [`EngineError::ContainerGone`] when someone else removed
    /// it. [`EngineError::Lost`] when the engine did not come back.
    fn wait(&self) -> BoxFuture<'_, Result<Exit, EngineError>>;

    /// SIGTERM, then SIGKILL after `grace` (whole seconds, rounded up). Done when the container has
    /// stopped; one that has ended already is a success. Needs at most `grace` plus [`STOP_MARGIN`].
    ///
    /// # Errors
    /// When the engine cannot be asked or refuses.
    fn stop(&self, grace: Duration) -> BoxFuture<'_, Result<(), EngineError>>;

    /// SIGKILL, at once. A container that has ended already is a success.
    ///
    /// # Errors
    /// When the engine cannot be asked or refuses.
    fn kill(&self) -> BoxFuture<'_, Result<(), EngineError>>;

    /// Kills and removes the container with its anonymous volumes. One that is gone already is a success.
    /// Goes on in the background when its future is dropped.
    ///
    /// # Errors
    /// When the engine cannot be asked or refuses.
    fn remove(&self) -> BoxFuture<'_, Result<(), EngineError>>;

    /// What the container has used so far, as last heard from the engine (about once a second). Kept
    /// after its end.
    fn usage(&self) -> Usage;

    /// The last bytes of both outputs (up to [`logs::TAIL_BYTES`] each), to quote in a failure.
    fn log_tail(&self) -> LogTail;
}

/// What a stop may take beyond its grace before the engine counts as hung.
pub const STOP_MARGIN: Duration = Duration::from_secs(4);

/// The oldest Engine API the executor speaks: Docker 19.03, Podman 3.
pub const MINIMUM_API_VERSION: (usize, usize) = (1, 40);

/// Who the engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// `Docker`, `Podman` or what else it calls itself.
    pub product: String,
    /// Its version.
    pub version: String,
    /// The API version agreed on, such as `1.41`.
    pub api_version: String,
    /// Where it keeps images, on its own host: the file system whose free space matters. None when untold.
    pub root_dir: Option<PathBuf>,
    /// Operating system and architecture in OCI words, such as `linux/amd64`.
    pub platform: String,
    /// Processors the engine can give out.
    pub cpus: Option<u64>,
    /// Memory the engine can give out.
    pub memory_bytes: Option<u64>,
    /// Limits that it says it cannot enforce and other warnings of its own.
    pub warnings: Vec<String>,
    /// Where it was reached, such as `unix:///var/run/docker.sock`.
    pub host: String,
}

/// Everything that is decided per container. What is not here is the same for all of them: no
/// capabilities, no new privileges, the engine's default seccomp and `AppArmor` profiles, never privileged,
/// swap equal to memory, no core dumps, an init process, no terminal, no restart, no automatic removal; user, network
/// and working directory as in the image.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerSpec {
    /// Name, see [`container_name`]. Must be free.
    pub name: String,
    /// Image as `name@digest`.
    pub image: String,
    /// The whole argv. Given as the container's entrypoint, so that the image's own CMD is dropped.
    pub command: Vec<String>,
    /// `NAME=value`, in order.
    pub environment: Vec<String>,
    /// Bind mounts.
    pub mounts: Vec<Mount>,
    /// Processors; fractions allowed.
    pub cpus: f64,
    /// Memory, and memory plus swap: there is no swap beyond it.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids_limit: u32,
    /// Labels that tell whose container it is; see [`ContainerEngine::list`].
    pub labels: BTreeMap<String, String>,
    /// Between SIGTERM and SIGKILL when something other than the executor stops it (engine shutdown).
    pub stop_grace: Duration,
}

/// A bind mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Absolute path on the engine's host; must exist (Docker refuses a missing one, Podman creates a directory).
    pub host: PathBuf,
    /// Absolute path in the container.
    pub container: String,
    /// Whether the container may only read.
    pub read_only: bool,
}

/// A container found by [`ContainerEngine::list`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSummary {
    /// The engine's id.
    pub id: String,
    /// Its name, without the leading `/`.
    pub name: String,
    /// The engine's word for its state: `created`, `running`, `exited`, ...
    pub state: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// What a container used. None where the engine did not tell (for example because it ended within a second).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Processor time, user and system.
    pub cpu_seconds: Option<f64>,
    /// Highest memory seen: the kernel's own peak where the engine passes it on, else the highest sample.
    pub peak_memory_bytes: Option<u64>,
}

/// Last bytes of both outputs; not UTF-8 is shown as the replacement character.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogTail {
    /// Of standard output.
    pub stdout: String,
    /// Of standard error.
    pub stderr: String,
}

/// The container's name: `cts-<job>-<number>-<instance>`. `instance` tells this executor from an
/// earlier one of the same container; characters an engine refuses in names become `-`.
#[must_use]
pub fn container_name(job: &JobId, number: ContainerNumber, instance: &str) -> String {
    let instance: String = instance
        .chars()
        .take(32)
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    format!("cts-{job}-{number}-{instance}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_deterministic_and_legal() {
        let job: JobId = "986E5DF7-F7F3-48D3-B388-29346DDB6656".parse().unwrap();
        assert_eq!(
            container_name(&job, 3, "a1/b"),
            "cts-986e5df7-f7f3-48d3-b388-29346ddb6656-3-a1-b"
        );
    }
}
