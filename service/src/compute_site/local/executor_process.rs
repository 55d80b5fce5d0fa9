//! One executor process: started with exactly the environment of the contract, waited for, stopped,
//! and found again after a restart of the service.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use tokio::process::{Child, Command};

use cts_shared::id::{ContainerNumber, JobId};

use crate::child_process::{describe, tail};
use crate::process_identity::{ProcessIdentity, child_pid};

use super::LocalSiteSettings;

/// How often a process that is not our child is looked at.
const ORPHAN_POLL: Duration = Duration::from_secs(1);

/// A running executor.
#[derive(Debug)]
pub(super) struct ExecutorProcess {
    handle: Handle,
    stderr: PathBuf,
}

#[derive(Debug)]
enum Handle {
    /// Our child.
    Child(Child),
    /// Started by an earlier run of the service: its exit status is not for us to have.
    Orphan(ProcessIdentity),
}

/// What is left of an earlier run of a container.
#[derive(Debug)]
pub(super) enum PreviousRun {
    /// Nothing: it was never started.
    Never,
    /// Its executor still runs.
    Alive(ExecutorProcess),
    /// Its executor ended while nobody watched.
    Gone(Ended),
}

/// How an executor ended, or why it was never started.
#[derive(Debug)]
pub(super) struct Ended {
    /// In a few words: `it ended with exit status 1`.
    pub(super) summary: String,
    /// The end of its standard error; empty if it wrote nothing.
    pub(super) last_output: String,
}

impl Ended {
    fn new(summary: impl Into<String>, stderr: &Path) -> Self {
        Self {
            summary: summary.into(),
            last_output: tail(stderr),
        }
    }

    /// With the reason why it was made to end.
    pub(super) fn because(self, reason: &str) -> Self {
        Self {
            summary: format!(
                "{} after it was told to stop because {reason}",
                self.summary
            ),
            ..self
        }
    }

    /// The sentence for administrators.
    pub(super) fn description(&self, container: ContainerNumber) -> String {
        let last_words = match self.last_output.lines().last() {
            Some(line) => format!("its last words were: {line}"),
            None => "it wrote nothing to its standard error".to_owned(),
        };
        format!(
            "the executor of container {container} did not report how the container ended: {}; \
             {last_words}",
            self.summary
        )
    }
}

impl ExecutorProcess {
    /// Looks for a run of the container by an earlier service process.
    pub(super) fn previous(
        settings: &LocalSiteSettings,
        job: JobId,
        container: ContainerNumber,
    ) -> PreviousRun {
        let directory = container_directory(settings, job, container);
        if !directory.exists() {
            return PreviousRun::Never;
        }
        let stderr = directory.join("executor.err");
        match ProcessIdentity::read(&directory.join("executor.pid")) {
            Some(identity) if identity.is_alive() => PreviousRun::Alive(Self {
                handle: Handle::Orphan(identity),
                stderr,
            }),
            _ => PreviousRun::Gone(Ended::new("it ended while the service was down", &stderr)),
        }
    }

    /// Starts an executor in a directory of its own.
    ///
    /// # Errors
    /// Why it could not be started.
    pub(super) fn spawn(
        settings: &LocalSiteSettings,
        job: JobId,
        container: ContainerNumber,
    ) -> Result<Self, Ended> {
        let directory = container_directory(settings, job, container);
        let failed = |action: &str, path: &Path, cause: &std::io::Error| Ended {
            summary: format!(
                "it could not be started: cannot {action} {}: {cause}",
                path.display()
            ),
            last_output: String::new(),
        };
        std::fs::create_dir_all(&directory)
            .map_err(|cause| failed("make the directory", &directory, &cause))?;
        let create = |name: &str| {
            let path = directory.join(name);
            File::create(&path).map_err(|cause| failed("create", &path, &cause))
        };
        let stdout = create("executor.out")?;
        let stderr = create("executor.err")?;
        let child = command(settings, job, container)
            .current_dir(&directory)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .map_err(|cause| failed("run", &settings.executor, &cause))?;
        if let Some(identity) = child_pid(&child).and_then(ProcessIdentity::of) {
            let path = directory.join("executor.pid");
            if let Err(error) = identity.write(&path) {
                // The executor runs all the same; only a restart of the service would not find it.
                tracing::warn!(path = %path.display(), %error, "cannot write the process id file");
            }
        }
        tracing::info!(job.id = %job, container.num = container, process.id = child.id(), "executor started");
        Ok(Self {
            handle: Handle::Child(child),
            stderr: directory.join("executor.err"),
        })
    }

    /// Waits for the end. Cancel safe.
    pub(super) async fn wait(&mut self) -> Ended {
        let summary = match &mut self.handle {
            Handle::Child(child) => match child.wait().await {
                Ok(status) => describe(status),
                Err(error) => format!("it ended, cannot tell how: {error}"),
            },
            Handle::Orphan(identity) => {
                // Not our child: the kernel tells nobody but its parent.
                while identity.is_alive() {
                    tokio::time::sleep(ORPHAN_POLL).await;
                }
                "it ended with an unknown exit status, having outlived a restart of the service"
                    .to_owned()
            }
        };
        Ended::new(summary, &self.stderr)
    }

    /// Asks the executor to stop, and kills it when it has not within `grace`.
    pub(super) async fn terminate(&mut self, grace: Duration) -> Ended {
        self.signal(Signal::TERM);
        match tokio::time::timeout(grace, self.wait()).await {
            Ok(ended) => ended,
            Err(_elapsed) => {
                tracing::warn!(
                    ?grace,
                    "an executor did not stop when asked to and is killed"
                );
                self.signal(Signal::KILL);
                self.wait().await
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = match &self.handle {
            // `None` once it has been waited for, so no other process can be hit.
            Handle::Child(child) => child_pid(child),
            Handle::Orphan(identity) => identity.is_alive().then(|| identity.pid()),
        };
        if let Some(pid) = pid {
            // It may have ended by itself in between, which is what is wanted.
            let _ended = kill_process(pid, signal);
        }
    }
}

/// The executor with the environment of the contract and nothing else.
fn command(settings: &LocalSiteSettings, job: JobId, container: ContainerNumber) -> Command {
    let mut command = Command::new(&settings.executor);
    command
        .arg("run")
        .env_clear()
        .env("JOB_ID", job.to_string())
        .env("CONTAINER_NUMBER", container.to_string())
        .env("SERVICE_ROOT_URL", &settings.service_root_url)
        .env("TOKEN_PATH", &settings.token_path)
        .env("S3_URL", &settings.s3_url)
        .env("S3_ACCESS_KEY", &settings.s3_access_key)
        .env("S3_SECRET_PATH", &settings.s3_secret_path)
        .env("S3_ERROR_LOG_PATH", settings.log_dir.join(job))
        .env("S3_INSECURE", settings.s3_insecure.to_string())
        .env("REFDATA_HOST_PATH", &settings.refdata_host_path)
        // The same directory: executors check what they find there before they mount it.
        .env("CTS_REFDATA_DIR", &settings.refdata_host_path)
        .env(
            "JOB_UPDATE_TIMEOUT_MIN",
            settings.job_update_timeout_min.to_string(),
        )
        .env("CTS_LOG_LEVEL", &settings.log_level)
        .envs(settings.refdata_limits.iter().cloned())
        // A group of its own: Ctrl-C on the terminal must reach the service, which then tells its
        // executors in order.
        .process_group(0);
    if let Some(path) = &settings.path {
        command.env("PATH", path);
    }
    if let Some(docker_host) = &settings.docker_host {
        command.env("DOCKER_HOST", docker_host);
    }
    command
}

/// The directory of a job's containers' directories.
pub(super) fn job_directory(settings: &LocalSiteSettings, job: JobId) -> PathBuf {
    settings.jobs_dir.join(job.to_string())
}

/// Where the executor of a container works.
pub(super) fn container_directory(
    settings: &LocalSiteSettings,
    job: JobId,
    container: ContainerNumber,
) -> PathBuf {
    job_directory(settings, job).join(container.to_string())
}
