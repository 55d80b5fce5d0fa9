//! `cts-executor local`: one container of a job over local files, with no service and no S3. For
//! developers who try out an image or a job's arguments.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cts_shared::crc64nvme::{Crc64Nvme, Crc64NvmeHasher};
use cts_shared::id::JobId;
use cts_shared::wire::job::AdminJob;
use indicatif::HumanBytes;
use tokio_util::sync::CancellationToken;

use crate::cli::LocalArguments;
use crate::collect::{self, CollectLimits};
use crate::commands::{complain, connect_engine, plan_of};
use crate::config::Limits;
use crate::container_engine::{ContainerEngine, ContainerLogs, Exit, Mount, RunningContainer};
use crate::exit::ExitStatus;
use crate::identity::Identity;
use crate::plan::{ContainerPlan, INPUT_DIRECTORY, PlannedFile};
use crate::progress::Counters;
use crate::progress_display::Display;
use crate::registry_logins;
use crate::run::execute::{Owner, container_spec, judge};
use crate::shutdown::{Interrupted, Shutdown};
use crate::telemetry::Screen;

/// Copies and checksums go through a buffer of this size.
const BUFFER_BYTES: usize = 1024 * 1024;

/// Between two looks at what the container has said.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

/// A person waits: what takes longer goes on in the background while the engine is waited for.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(10);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What is wrong with the local files.
#[derive(Debug, thiserror::Error)]
enum LocalError {
    #[error("input {file} is at neither {at_place} nor {at_key}; put it at one of them")]
    MissingInput {
        file: String,
        at_place: PathBuf,
        at_key: PathBuf,
    },
    #[error(
        "input {path} has CRC64NVME {actual}, the job expects {expected}; use the job's file, or \
         --any-content to run with this one"
    )]
    Mismatch {
        path: PathBuf,
        actual: Crc64Nvme,
        expected: Crc64Nvme,
    },
    #[error(
        "the output directory {0} is not empty, and what is there would be taken for this run's; \
         empty it or give another one"
    )]
    OutputsNotEmpty(PathBuf),
    #[error(
        "cannot copy {input} to {target}: {cause}; if that disk is full, set TMPDIR to a directory \
         with more room"
    )]
    Copy {
        input: PathBuf,
        target: PathBuf,
        cause: io::Error,
    },
    #[error("stopped by a signal")]
    Interrupted,
    #[error("{path}: {cause}")]
    Io { path: PathBuf, cause: io::Error },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> LocalError {
    let path = path.to_owned();
    move |cause| LocalError::Io { path, cause }
}

/// Runs the container; its output goes to this process's, its files to the output directory.
pub async fn local(arguments: &LocalArguments, screen: Screen) -> ExitStatus {
    // Before signals are caught: nothing else could end the wait for a job on standard input.
    let planned = refdata_host_path(&arguments.job.refdata_host_path)
        .map_err(Into::into)
        .and_then(|path| plan_of(&arguments.job, path, None));
    let (job, plan) = match planned {
        Ok(planned) => planned,
        Err(error) => {
            complain(error);
            return ExitStatus::Failed;
        }
    };
    let shutdown = match Shutdown::listen() {
        Ok(shutdown) => shutdown,
        Err(error) => {
            complain(format!("cannot listen for signals: {error}"));
            return ExitStatus::Failed;
        }
    };
    let display = Display::new(screen);
    match attempt(arguments, &job, &plan, &shutdown, &display).await {
        Ok(()) => ExitStatus::Done,
        // Whatever it says follows from the signal.
        Err(_) if shutdown.token().is_cancelled() => {
            ExitStatus::Signal(shutdown.signal().unwrap_or(15))
        }
        Err(error) => {
            complain(error);
            ExitStatus::Failed
        }
    }
}

/// Engines take absolute paths only. The empty one means that there is none.
fn refdata_host_path(given: &str) -> io::Result<String> {
    if given.is_empty() {
        return Ok(String::new());
    }
    Ok(std::path::absolute(given)?.to_string_lossy().into_owned())
}

async fn attempt(
    arguments: &LocalArguments,
    job: &AdminJob,
    plan: &ContainerPlan,
    shutdown: &Shutdown,
    display: &Display,
) -> Result<(), Failure> {
    let job_id: JobId = job.job.status.id.parse()?;
    let outputs = prepare_outputs(&arguments.outputs)?;
    let workdir = tempfile::Builder::new().prefix("cts-local-").tempdir()?;
    let input = workdir.path().join(INPUT_DIRECTORY);
    let counters = Arc::new(Counters::default());
    let phase = display.phase("copy", Arc::clone(&counters));
    stage(plan.clone(), arguments.clone(), input, counters, shutdown).await?;
    phase.finish();
    let docker_host = arguments.docker_host.clone();
    let docker_host = docker_host.filter(|host| !host.trim().is_empty());
    let logins = registry_logins::directory(&|name| std::env::var(name).ok());
    let logins = registry_logins::load(logins.as_deref());
    let engine = shutdown
        .unless_interrupted(connect_engine(docker_host, logins)())
        .await??;
    let spec = Spec {
        owner: Owner {
            job: job_id,
            container: arguments.job.container,
            executor: Identity::new(),
            attempt: None,
        },
        mounts: mounts(plan, workdir.path(), &outputs),
        grace: Duration::from_secs(arguments.stop_grace_secs),
    };
    let ran = run_container(
        engine.as_ref(),
        plan,
        spec,
        workdir.path(),
        shutdown,
        display,
    )
    .await;
    // Also what was started half way when a signal came.
    engine.settle().await;
    let (exit_code, explanation) = ran?;
    let words = explanation
        .map(|words| format!(": {words}"))
        .unwrap_or_default();
    if exit_code != 0 {
        return Err(format!("container exit code: {exit_code}{words}").into());
    }
    if !words.is_empty() {
        tracing::warn!("{}", words.trim_start_matches(": "));
    }
    let (outputs, output_prefix) = (outputs.clone(), plan.output_prefix.clone());
    let listing = tokio::task::spawn_blocking(move || list_outputs(&outputs, &output_prefix));
    shutdown.unless_interrupted(listing).await??
}

/// What the plan does not know of the container.
struct Spec {
    owner: Owner,
    mounts: Vec<Mount>,
    grace: Duration,
}

/// From the image to the end: the exit code, and words where it does not say it all. The container is
/// removed in every case.
async fn run_container(
    engine: &dyn ContainerEngine,
    plan: &ContainerPlan,
    Spec {
        owner,
        mounts,
        grace,
    }: Spec,
    workdir: &Path,
    shutdown: &Shutdown,
    display: &Display,
) -> Result<(i64, Option<String>), Failure> {
    let (stdout, stderr) = (workdir.join("stdout"), workdir.join("stderr"));
    let starting = async {
        if !engine.has_image(&plan.image).await? {
            tracing::info!(image = plan.image, "pulling");
            let counters = Arc::new(Counters::default());
            let phase = display.phase("pull", Arc::clone(&counters));
            engine.pull(&plan.image, &counters).await?;
            phase.finish();
        }
        let logs = ContainerLogs::create(&stdout, &stderr, Limits::default().log_bytes)?;
        let info = engine.info().await?;
        let spec = container_spec(plan, owner, mounts, &info, grace);
        Ok::<_, Failure>(engine.run(spec, logs).await?)
    };
    let container = shutdown.unless_interrupted(starting).await??;
    let follower = Follower::start(&stdout, &stderr);
    let ended = wait(container.as_ref(), plan, grace, shutdown).await;
    match tokio::time::timeout(REMOVAL_TIMEOUT, container.remove()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => complain(format!("the container may be left behind: {error}")),
        Err(_) => complain("the container may be left behind: the engine gave no answer in time"),
    }
    shutdown.unless_interrupted(follower?.finish()).await?;
    let (exit, timed_out) = ended?;
    Ok(judge(plan, &exit, timed_out))
}

/// Passes on what the container says, soon after it says it.
struct Follower {
    ended: Arc<AtomicBool>,
    thread: tokio::task::JoinHandle<()>,
}

impl Follower {
    /// Starts to follow two files that only grow.
    fn start(stdout: &Path, stderr: &Path) -> Result<Self, LocalError> {
        let mut stdout = File::open(stdout).map_err(at(stdout))?;
        let mut stderr = File::open(stderr).map_err(at(stderr))?;
        let ended = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ended);
        let thread = tokio::task::spawn_blocking(move || {
            loop {
                // Asked first: what was written before the end is passed on after it.
                let is_last = seen.load(Ordering::Acquire);
                let passed_on = pass_on(&mut stdout, &mut io::stdout())
                    .and_then(|()| pass_on(&mut stderr, &mut io::stderr()));
                // An error means that nobody listens any more: `local ... | head`.
                if is_last || passed_on.is_err() {
                    return;
                }
                std::thread::sleep(FOLLOW_INTERVAL);
            }
        });
        Ok(Self { ended, thread })
    }

    /// Everything is in the files: passes the rest on.
    async fn finish(self) {
        self.ended.store(true, Ordering::Release);
        // It has nothing to say that the files do not say.
        let _ended = self.thread.await;
    }
}

fn pass_on(log: &mut File, target: &mut dyn Write) -> io::Result<()> {
    io::copy(log, target)?;
    target.flush()
}

/// The end, and the runtime limit if that ended it.
async fn wait(
    container: &dyn RunningContainer,
    plan: &ContainerPlan,
    grace: Duration,
    shutdown: &Shutdown,
) -> Result<(Exit, Option<Duration>), Failure> {
    let limit = plan.limits.runtime;
    let in_time = tokio::time::timeout(limit, container.wait());
    match shutdown.unless_interrupted(in_time).await {
        Ok(Ok(exit)) => Ok((exit?, None)),
        Ok(Err(_elapsed)) => {
            container.stop(grace).await?;
            Ok((container.wait().await?, Some(limit)))
        }
        Err(Interrupted) => {
            container.stop(grace).await?;
            Err(Interrupted.into())
        }
    }
}

fn mounts(plan: &ContainerPlan, workdir: &Path, outputs: &Path) -> Vec<Mount> {
    let host = |planned: &Path| {
        if planned.is_absolute() {
            planned.to_owned()
        } else if planned.starts_with(INPUT_DIRECTORY) {
            workdir.join(planned)
        } else {
            outputs.to_owned()
        }
    };
    plan.mounts
        .iter()
        .map(|mount| Mount {
            host: host(&mount.host),
            container: mount.container.clone(),
            read_only: mount.read_only,
        })
        .collect()
}

fn prepare_outputs(directory: &Path) -> Result<PathBuf, LocalError> {
    fs::create_dir_all(directory).map_err(at(directory))?;
    if fs::read_dir(directory)
        .map_err(at(directory))?
        .next()
        .is_some()
    {
        return Err(LocalError::OutputsNotEmpty(directory.to_owned()));
    }
    // The container's user is unknown; whatever it is, it must be able to write here.
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).map_err(at(directory))?;
    directory.canonicalize().map_err(at(directory))
}

/// Copies the inputs to their places, checking them on the way. File work: not on the async runtime.
async fn stage(
    plan: ContainerPlan,
    arguments: LocalArguments,
    input: PathBuf,
    counters: Arc<Counters>,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    let stop = shutdown.token().clone();
    let staged = tokio::task::spawn_blocking(move || {
        fs::create_dir(&input).map_err(at(&input))?;
        let files = plan.files.iter();
        let found: Vec<(&PlannedFile, PathBuf)> = files
            .map(|file| Ok((file, find(&arguments.inputs, file)?)))
            .collect::<Result<_, LocalError>>()?;
        for (_, source) in &found {
            let size = fs::metadata(source).map_err(at(source))?.len();
            counters.expect(1, size);
        }
        for (file, source) in found {
            let target = input.join(file.path.as_str());
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).map_err(at(parent))?;
            }
            let mut writer = File::create_new(&target).map_err(at(&target))?;
            let actual = read_hashed(&source, |chunk| {
                if stop.is_cancelled() {
                    return Err(LocalError::Interrupted);
                }
                counters.add_bytes(chunk.len() as u64);
                writer.write_all(chunk).map_err(|cause| LocalError::Copy {
                    input: source.clone(),
                    target: target.clone(),
                    cause,
                })
            })?;
            counters.finish_file();
            if actual != file.crc64nvme && !arguments.any_content {
                let expected = file.crc64nvme;
                return Err(LocalError::Mismatch {
                    path: source,
                    actual,
                    expected,
                });
            }
        }
        if let Some(manifest) = &plan.manifest {
            let path = input.join(manifest.path.as_str());
            fs::write(&path, &manifest.content).map_err(at(&path))?;
        }
        Ok(())
    });
    Ok(staged.await??)
}

fn find(inputs: &Path, file: &PlannedFile) -> Result<PathBuf, LocalError> {
    let at_place = inputs.join(file.path.as_str());
    if at_place.is_file() {
        return Ok(at_place);
    }
    // The key was checked for `..` when it was placed.
    let at_key = inputs.join(file.file.to_string());
    if at_key.is_file() {
        return Ok(at_key);
    }
    Err(LocalError::MissingInput {
        file: file.file.to_string(),
        at_place,
        at_key,
    })
}

/// Reads a file piece by piece; its checksum.
fn read_hashed(
    path: &Path,
    mut each: impl FnMut(&[u8]) -> Result<(), LocalError>,
) -> Result<Crc64Nvme, LocalError> {
    let mut file = File::open(path).map_err(at(path))?;
    let mut hasher = Crc64NvmeHasher::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match file.read(&mut buffer).map_err(at(path))? {
            0 => return Ok(hasher.finish()),
            count => {
                let chunk = buffer.get(..count).unwrap_or_default();
                hasher.update(chunk);
                each(chunk)?;
            }
        }
    }
}

/// What a run would have uploaded.
fn list_outputs(outputs: &Path, output_prefix: &str) -> Result<(), Failure> {
    let output_dir = output_prefix.trim_end_matches('/');
    let cancel = CancellationToken::new();
    let collected = collect::collect(outputs, output_dir, CollectLimits::default(), &cancel)?.files;
    let mut out = io::stderr();
    writeln!(out, "outputs in {}: {}", outputs.display(), collected.len())?;
    for file in collected {
        let crc64nvme = read_hashed(&outputs.join(file.path()), |_| Ok(()))?;
        let size = HumanBytes(file.size()).to_string();
        writeln!(out, "  {crc64nvme}  {size:>12}  {:?}", file.path())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_data_is_named_by_an_absolute_path_or_not_at_all() {
        assert_eq!(refdata_host_path("").unwrap(), "");
        assert_eq!(refdata_host_path("/ref").unwrap(), "/ref");
        assert!(refdata_host_path("ref").unwrap().starts_with('/'));
    }

    #[test]
    fn what_is_not_written_names_the_place() {
        let error = LocalError::Copy {
            input: "in/a".into(),
            target: "/tmp/x/a".into(),
            cause: io::ErrorKind::StorageFull.into(),
        };
        let words = error.to_string();
        for part in ["in/a", "/tmp/x/a", "TMPDIR"] {
            assert!(words.contains(part), "{words}");
        }
    }

    #[tokio::test]
    async fn what_a_container_says_is_passed_on_to_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::write(&log, "first").unwrap();
        let mut file = File::open(&log).unwrap();
        let mut heard = Vec::new();
        pass_on(&mut file, &mut heard).unwrap();
        let mut more = fs::OpenOptions::new().append(true).open(&log).unwrap();
        more.write_all(b" last").unwrap();
        pass_on(&mut file, &mut heard).unwrap();
        assert_eq!(heard, b"first last");
        let follower = Follower::start(&log, &log).unwrap();
        let finished = tokio::time::timeout(Duration::from_secs(60), follower.finish());
        finished.await.unwrap();
    }
}
