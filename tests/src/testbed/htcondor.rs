//! A whole HTCondor pool on this machine: collector, negotiator, scheduler and worker, with a user of its
//! own that submits and owns the jobs.
//!
//! HTCondor needs root, and a Debian that has it. So it lives in a Debian tree of its own, which is a tool
//! (`tools/`, made once), with this run's data mounted over it. The tree is entered in a mount and a
//! process namespace of the pool's own:
//!
//! - nothing is ever mounted where others see it, so that no removal of a directory can run into a live
//!   mount;
//! - the kernel ends every process and every mount of the pool with `condor_master`, its first process;
//! - what a killed run left is known by its root directory, which is the tree.
//!
//! Commands enter with `nsenter`; scripts that do so are in [`HtCondor::bin_dir`]. The pool shares the
//! machine's network, users' ids and processes' visibility: from outside, jobs can be looked at and killed.
//!
//! The engine is outside and sees a job's directory under another prefix
//! ([`HtCondor::mount_prefix_override`]). What jobs and the outside share under one path is in
//! [`HtCondor::exchange_dir`].

mod commands;
mod pool;
mod tree;

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::component::{Component, cannot_start, fresh_data_dir, remove_data_dir, stop_processes};
use super::engine::Engine;
use super::error::TestbedError;
use super::layout::Layout;
use super::packages::system_path;
use super::ports::free_ports;
use super::process::{self, ProcessId};

pub use pool::{Ad, Pool, PoolError};

/// The component's name.
pub const NAME: &str = "htcondor";
/// The user that submits jobs and as whom they run.
pub const USER: &str = "cts";
/// Its id, on the outside too; one that no system gives away by itself.
const USER_ID: u32 = 48_000;

/// `EXECUTE` of the pool, as jobs see it.
const EXECUTE_DIR: &str = "/var/lib/condor/execute";
const CONFIG: &str = include_str!("htcondor/condor_config");
const START: &str = include_str!("htcondor/start.sh");
const MOUNTED_WITHIN: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// A running pool.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HtCondor {
    /// Host and port of the collector, which is also the scheduler's and the worker's.
    pub collector: String,
    /// HTCondor's commands (`condor_submit`, `condor_q`, ...), as if it were installed here: run by the
    /// pool's user, in [`HtCondor::exchange_dir`].
    pub bin_dir: PathBuf,
    /// A directory of the pool's user that has the same path inside and outside of the pool.
    pub exchange_dir: PathBuf,
    /// The parent of the jobs' directories, as seen from outside.
    pub execute_dir: PathBuf,
    /// What executors need as `MOUNT_PREFIX_OVERRIDE`.
    pub mount_prefix_override: String,
    /// The root of what the pool's processes see.
    tree: PathBuf,
    /// The engine's socket, on the outside.
    engine_socket: PathBuf,
    /// `condor_master`.
    process: Option<ProcessId>,
    #[serde(skip)]
    docker_host: String,
}

impl HtCondor {
    /// The engine that jobs are to find at `/var/run/docker.sock`.
    pub(super) fn use_engine(&mut self, engine: &Engine) {
        self.docker_host.clone_from(&engine.docker_host);
    }

    /// What tests do with the pool.
    pub fn pool(&self) -> Pool {
        Pool::new(self.clone())
    }

    /// Makes a file that the pool's user alone may read, at the same path inside of the pool.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn share_file(&self, name: &str, content: &[u8]) -> io::Result<PathBuf> {
        let path = self.exchange_dir.join(name);
        std::fs::write(&path, content)?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
        std::os::unix::fs::chown(&path, Some(USER_ID), Some(USER_ID))?;
        Ok(path)
    }

    /// Makes a directory that the pool's user may write in, at the same path inside of the pool.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn share_dir(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.exchange_dir.join(name);
        std::fs::create_dir_all(&path)?;
        std::os::unix::fs::chown(&path, Some(USER_ID), Some(USER_ID))?;
        Ok(path)
    }

    fn error(problem: String, next_step: &str) -> TestbedError {
        TestbedError::new(Self::NAME, problem, next_step)
    }

    /// The engine's socket, if an ordinary user's job can open it.
    fn usable_socket(docker_host: &str) -> Result<PathBuf, TestbedError> {
        let path = docker_host.strip_prefix("unix://").ok_or_else(|| {
            Self::error(
                format!(
                    "jobs reach the container engine by a Unix socket only, not at {docker_host:?}"
                ),
                "unset DOCKER_HOST, or set it to unix://PATH",
            )
        })?;
        let unusable = |problem: String| {
            Self::error(
                format!("jobs cannot use the container engine's socket {path}: {problem}"),
                "give its group read and write access (chmod g+rw)",
            )
        };
        // Resolved, as the pool would resolve a link by its own tree.
        let socket = Path::new(path)
            .canonicalize()
            .map_err(|error| unusable(error.to_string()))?;
        let metadata = socket
            .metadata()
            .map_err(|error| unusable(error.to_string()))?;
        if !metadata.file_type().is_socket() {
            return Err(unusable("it is no socket".to_owned()));
        }
        if metadata.mode() & 0o060 != 0o060 {
            let mode = metadata.mode() & 0o777;
            return Err(unusable(format!("its mode is {mode:o}")));
        }
        Ok(socket)
    }

    /// The directories that `start.sh` mounts, empty.
    fn make_dirs(&self, data: &Path, logs: &Path) -> io::Result<()> {
        for dir in ["etc/condor", "var/lib/condor/execute", "var/spool/condor"] {
            std::fs::create_dir_all(data.join(dir))?;
        }
        std::fs::create_dir_all(logs)?;
        std::fs::create_dir_all(&self.exchange_dir)
    }

    /// The pool's processes, also those of an earlier run and those of jobs. No other process has the tree
    /// as its root.
    fn processes(layout: &Layout) -> Vec<ProcessId> {
        let tree = tree::path(layout);
        let all = process::all().into_iter();
        all.filter(|seen| seen.root().as_ref() == Some(&tree))
            .map(|seen| seen.id)
            .collect()
    }
}

impl Component for HtCondor {
    const NAME: &'static str = NAME;
    const READY_WITHIN: Duration = Duration::from_secs(60);

    async fn ensure_installed(&mut self, layout: &Layout) -> Result<(), TestbedError> {
        self.engine_socket = Self::usable_socket(&self.docker_host)?;
        self.tree = tree::ensure(layout).await?;
        Ok(())
    }

    async fn start(&mut self, layout: &Layout) -> Result<(), TestbedError> {
        let failed = |error: io::Error| cannot_start(Self::NAME, layout, &error);
        let [port] = free_ports(Self::NAME)?;
        let data = fresh_data_dir(Self::NAME, layout)?;
        let logs = layout.dir().join("logs").join(Self::NAME);
        self.exchange_dir = layout.create_run_dir()?.join("exchange");
        self.execute_dir = data.join(EXECUTE_DIR.trim_start_matches('/'));
        self.mount_prefix_override = format!("{EXECUTE_DIR}:{}", self.execute_dir.display());
        self.make_dirs(&data, &logs).map_err(failed)?;
        let collector = format!("127.0.0.1:{port}");
        let config = format!("COLLECTOR_HOST = {collector}\nSHARED_PORT_PORT = {port}\n\n{CONFIG}");
        std::fs::write(data.join("etc/condor/condor_config"), config).map_err(failed)?;

        let script = data.join("start.sh");
        std::fs::write(&script, START).map_err(failed)?;
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--", "sh"])
            .args([&script, &self.tree, &data, &logs])
            .args([&self.exchange_dir, &self.engine_socket])
            .arg(USER)
            .env("PATH", system_path());
        let unshare =
            process::spawn_daemon(&mut command, &layout.log(Self::NAME)).map_err(failed)?;
        let master = wait_for_master(&unshare, &data.join("pid"))
            .await
            .map_err(failed)?;
        self.bin_dir = commands::write(self, &master, &data).map_err(failed)?;
        self.process = Some(master);
        self.collector = collector;
        Ok(())
    }

    async fn ready(&self) -> Result<(), String> {
        self.pool()
            .ready()
            .await
            .map_err(|error| error.to_string())?;
        // An engine that was started again listens at another socket of the same name.
        let pid = self.process.as_ref().map_or(0, |process| process.pid);
        let inside = format!("/proc/{pid}/root/run/docker.sock");
        if is_same(Path::new(&inside), &self.engine_socket) {
            Ok(())
        } else {
            Err("the container engine was started again since".to_owned())
        }
    }

    async fn stop(&mut self, layout: &Layout) -> Result<(), TestbedError> {
        // Nothing of the pool's survives: no reason to let it end its jobs one by one.
        let processes = Self::processes(layout);
        stop_processes(Self::NAME, &processes, Duration::ZERO).await?;
        let docker_host = std::mem::take(&mut self.docker_host);
        *self = Self {
            docker_host,
            ..Self::default()
        };
        let exchange = layout.run_dir().join("exchange");
        match std::fs::remove_dir_all(&exchange) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Self::error(
                format!("cannot remove {}: {error}", exchange.display()),
                "remove it by hand",
            )),
            _ => remove_data_dir(Self::NAME, layout),
        }
    }

    fn process(&self) -> Option<&ProcessId> {
        self.process.as_ref()
    }

    fn address(&self) -> String {
        self.collector.clone()
    }
}

/// `condor_master`, once everything is mounted.
async fn wait_for_master(unshare: &ProcessId, pid_file: &Path) -> io::Result<ProcessId> {
    let deadline = Instant::now() + MOUNTED_WITHIN;
    loop {
        let text = std::fs::read_to_string(pid_file).unwrap_or_default();
        let pid = text.strip_suffix('\n').and_then(|pid| pid.parse().ok());
        if let Some(master) = pid.and_then(ProcessId::of) {
            return Ok(master);
        }
        if !unshare.is_running() {
            return Err(io::Error::other("its directories could not be mounted"));
        }
        if Instant::now() >= deadline {
            return Err(io::Error::other(format!(
                "its directories were not mounted within {} s",
                MOUNTED_WITHIN.as_secs()
            )));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Whether two paths lead to one file.
fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| {
        let metadata = path.metadata().ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    identity(one).is_some_and(|one| identity(other) == Some(one))
}
