//! Staging for the site `local`: the executor program as a child process of the service, a few at a time.
//!
//! `cts-executor refdata stage` takes a lock on what it stages, tidies up what a killed one has left, and returns
//! at once if there is nothing to do. So it may be started again at any time: after a restart of the
//! service it waits for one that has outlived the service.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rustix::process::{Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use cts_shared::id::RefdataId;
use cts_shared::wire::refdata::StagingProgress;

use crate::child_process::{describe, tail};
use crate::process_identity::child_pid;

use super::{RefdataStager, Staging, StagingError, StagingItem};

/// Stagings at the same time: each can keep the network and several CPUs busy.
const AT_ONCE: usize = 2;

/// How long a process may take to end that was told to.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// What the program needs to know.
#[derive(Debug, Clone)]
pub struct LocalStagerSettings {
    /// The executor program.
    pub executor: PathBuf,
    /// Directory of the reference data; each has a directory of its id's name there.
    pub root: PathBuf,
    /// Directory of what the processes write, a log and a file with the progress for each reference data.
    pub log_dir: PathBuf,
    /// `S3_URL`
    pub s3_url: String,
    /// `S3_ACCESS_KEY`
    pub s3_access_key: String,
    /// `S3_SECRET_PATH`
    pub s3_secret_path: PathBuf,
    /// `S3_INSECURE`
    pub s3_insecure: bool,
    /// `CTS_LOG_LEVEL`
    pub log_level: String,
    /// `CTS_REFDATA_MAX_ENTRIES` and its like, as the service has them.
    pub limits: Vec<(&'static str, OsString)>,
    /// `PATH`, as the service has it.
    pub path: Option<OsString>,
}

impl LocalStagerSettings {
    fn progress_of(&self, id: &RefdataId) -> PathBuf {
        self.log_dir.join(format!("{id}.progress.json"))
    }
}

/// Stages on this machine.
#[derive(Debug)]
pub struct LocalStager {
    settings: Arc<LocalStagerSettings>,
    room: Arc<Semaphore>,
    stopping: CancellationToken,
    running: TaskTracker,
}

impl LocalStager {
    /// A stager that has nothing to do yet.
    #[must_use]
    pub fn new(settings: LocalStagerSettings) -> Self {
        Self {
            settings: Arc::new(settings),
            room: Arc::new(Semaphore::new(AT_ONCE)),
            stopping: CancellationToken::new(),
            running: TaskTracker::new(),
        }
    }
}

impl RefdataStager for LocalStager {
    fn stage(&self, item: StagingItem) -> BoxFuture<'_, Result<Staging, StagingError>> {
        async move {
            let permit = tokio::select! {
                biased;
                () = self.stopping.cancelled() => return Err(StagingError::Stopped),
                permit = Arc::clone(&self.room).acquire_owned() => {
                    permit.map_err(|_closed| StagingError::Stopped)?
                }
            };
            let settings = Arc::clone(&self.settings);
            let stopping = self.stopping.clone();
            let run = async move { run(&settings, &item, &stopping, permit).await };
            Ok(Staging::UnderWay(self.running.track_future(run).boxed()))
        }
        .boxed()
    }

    fn hands_over(&self) -> bool {
        false
    }

    fn check(&self) -> BoxFuture<'_, Result<(), String>> {
        futures::future::ready(Ok(())).boxed()
    }

    fn progress<'a>(&'a self, id: &'a RefdataId) -> BoxFuture<'a, Option<StagingProgress>> {
        async move {
            let text = tokio::fs::read(self.settings.progress_of(id)).await.ok()?;
            serde_json::from_slice(&text).ok()
        }
        .boxed()
    }

    fn shut_down(&self) -> BoxFuture<'_, ()> {
        async {
            self.stopping.cancel();
            self.running.close();
            self.running.wait().await;
        }
        .boxed()
    }
}

/// One process from its start to its end. Dropped, it kills the process.
async fn run(
    settings: &LocalStagerSettings,
    item: &StagingItem,
    stopping: &CancellationToken,
    _room: OwnedSemaphorePermit,
) -> Result<(), StagingError> {
    let log = settings.log_dir.join(format!("{}.log", item.id));
    let mut child = spawn(settings, item, &log).map_err(StagingError::Failed)?;
    tracing::info!(refdata.id = %item.id, process.id = child.id(), "staging started");
    let status = tokio::select! {
        status = child.wait() => status,
        () = stopping.cancelled() => {
            stop(&mut child).await;
            return Err(StagingError::Stopped);
        }
    };
    let ended = match status {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) if was_told_to_end(status) => {
            tracing::warn!(refdata.id = %item.id, "somebody ended the staging; it is begun again");
            return Err(StagingError::Stopped);
        }
        Ok(status) => describe(status),
        Err(error) => format!("it ended, cannot tell how: {error}"),
    };
    let id = &item.id;
    let output = tail(&log);
    let said = |prefix: &str| {
        output
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix(prefix))
    };
    Err(StagingError::Failed(
        match (
            said("cts-executor: ").or_else(|| said("error: ")),
            output.lines().last(),
        ) {
            (Some(words), _) => words.to_owned(),
            (None, Some(line)) => {
                format!(
                    "the executor did not stage reference data {id}: {ended}; its last words: {line}"
                )
            }
            (None, None) => format!(
                "the executor did not stage reference data {id}: {ended}, and wrote nothing to its standard error"
            ),
        },
    ))
}

/// Whether a process ended because of SIGTERM or SIGINT: killed by it, or in order with the status that tells.
fn was_told_to_end(status: ExitStatus) -> bool {
    let by = |signal: Signal| {
        let signal = signal.as_raw();
        status.signal() == Some(signal) || status.code() == Some(128 + signal)
    };
    by(Signal::TERM) || by(Signal::INT)
}

fn spawn(settings: &LocalStagerSettings, item: &StagingItem, log: &Path) -> Result<Child, String> {
    let failed = |action: &str, path: &Path, cause: &std::io::Error| {
        format!("cannot {action} {}: {cause}", path.display())
    };
    for directory in [&settings.root, &settings.log_dir] {
        std::fs::create_dir_all(directory)
            .map_err(|cause| failed("make the directory", directory, &cause))?;
    }
    let crc64nvme = item.crc64nvme.as_deref().ok_or(
        "the object's checksum was not noted when it was registered; register it under another path",
    )?;
    // A file and no pipe: a process that outlives a killed service can still write. It keeps its own.
    let _absent = std::fs::remove_file(log);
    // Of one that was killed.
    let _absent = std::fs::remove_file(settings.progress_of(&item.id));
    let stderr = File::create(log).map_err(|cause| failed("create", log, &cause))?;
    command(settings, item, crc64nvme)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .kill_on_drop(true)
        .spawn()
        .map_err(|cause| failed("run", &settings.executor, &cause))
}

/// The program with what it needs in its environment and nothing else.
fn command(settings: &LocalStagerSettings, item: &StagingItem, crc64nvme: &str) -> Command {
    let mut command = Command::new(&settings.executor);
    command
        .args(["refdata", "stage", "--root"])
        .arg(&settings.root)
        // With `=`: an id may begin with a hyphen.
        .arg(format!("--id={}", item.id))
        .arg(format!("--object={}", item.file))
        .arg(format!("--crc64nvme={crc64nvme}"))
        .arg("--progress")
        .arg(settings.progress_of(&item.id));
    if item.unpack {
        command.arg("--unpack");
    }
    command
        .env_clear()
        .env("S3_URL", &settings.s3_url)
        .env("S3_ACCESS_KEY", &settings.s3_access_key)
        .env("S3_SECRET_PATH", &settings.s3_secret_path)
        .env("S3_INSECURE", settings.s3_insecure.to_string())
        .env("CTS_LOG_LEVEL", &settings.log_level)
        .envs(settings.limits.iter().cloned())
        // A group of its own: Ctrl-C on the terminal must reach the service, which then stops it.
        .process_group(0);
    if let Some(path) = &settings.path {
        command.env("PATH", path);
    }
    command
}

/// Has the process end; by force if it does not within its grace.
async fn stop(child: &mut Child) {
    if let Some(pid) = child_pid(child) {
        // It may have ended by itself in between, which is what is wanted.
        let _ended = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(STOP_GRACE, child.wait())
        .await
        .is_err()
        && let Err(error) = child.kill().await
    {
        tracing::warn!(%error, "a staging cannot be stopped");
    }
}
