//! `cts-executor local`: one container of a job over local files, with no service and no S3. For
//! developers who try out an image or a job's arguments.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cts_shared::crc64nvme::{Crc64Nvme, Crc64NvmeHasher};
use cts_shared::id::JobId;
use indicatif::HumanBytes;
use tokio_util::sync::CancellationToken;

use crate::cli::LocalArguments;
use crate::collect::{self, CollectLimits};
use crate::commands::{complain, connect_engine, plan_of};
use crate::config::Limits;
use crate::container_engine::{ContainerLogs, Exit, Mount, RunningContainer};
use crate::exit::ExitStatus;
use crate::plan::{ContainerPlan, INPUT_DIRECTORY, PlannedFile};
use crate::progress::Counters;
use crate::run::execute::{container_spec, judge};
use crate::shutdown::{Interrupted, Shutdown};
use crate::telemetry::Screen;

/// Copies and checksums go through a buffer of this size.
const BUFFER_BYTES: usize = 1024 * 1024;

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
    #[error("the output directory {0} is not empty; what is there would be taken for this run's")]
    OutputsNotEmpty(PathBuf),
    #[error("{path}: {cause}")]
    Io { path: PathBuf, cause: io::Error },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> LocalError {
    let path = path.to_owned();
    move |cause| LocalError::Io { path, cause }
}

/// Runs the container; its output goes to this process's, its files to the output directory.
pub async fn local(arguments: &LocalArguments, _screen: Screen) -> ExitStatus {
    let shutdown = match Shutdown::listen() {
        Ok(shutdown) => shutdown,
        Err(error) => {
            complain(error);
            return ExitStatus::Failed;
        }
    };
    match attempt(arguments, &shutdown).await {
        Ok(status) => status,
        Err(error) => {
            complain(error);
            ExitStatus::Failed
        }
    }
}

async fn attempt(arguments: &LocalArguments, shutdown: &Shutdown) -> Result<ExitStatus, Failure> {
    let (job, plan) =
        plan_of(&arguments.job, None).map_err(|error| Failure::from(error.to_string()))?;
    let job_id: JobId = job.job.status.id.parse()?;
    let outputs = prepare_outputs(&arguments.outputs)?;
    let workdir = tempfile::Builder::new().prefix("cts-local-").tempdir()?;
    let input = workdir.path().join(INPUT_DIRECTORY);
    let staging = stage(plan.clone(), arguments.clone(), input);
    match shutdown.unless_interrupted(staging).await {
        Ok(staged) => staged?,
        Err(Interrupted) => return Ok(interrupted(shutdown)),
    }
    let engine = connect_engine(arguments.docker_host.clone())().await?;
    if !engine.has_image(&plan.image).await? {
        tracing::info!(image = plan.image, "pulling");
        let counters = Counters::default();
        match shutdown
            .unless_interrupted(engine.pull(&plan.image, &counters))
            .await
        {
            Ok(pulled) => pulled?,
            Err(Interrupted) => return Ok(interrupted(shutdown)),
        }
    }
    let (stdout, stderr) = (workdir.path().join("stdout"), workdir.path().join("stderr"));
    let logs = ContainerLogs::create(&stdout, &stderr, Limits::default().log_bytes)?;
    let grace = Duration::from_secs(arguments.stop_grace_secs);
    let info = engine.info().await?;
    let owner = (job_id, arguments.job.container);
    let mounts = mounts(&plan, workdir.path(), &outputs);
    let spec = container_spec(&plan, owner, mounts, &info, grace);
    let container = engine.run(spec, logs).await?;
    let ended = wait(container.as_ref(), &plan, grace, shutdown).await;
    let removed = container.remove().await;
    engine.settle().await;
    copy_to(&stdout, &mut io::stdout())?;
    copy_to(&stderr, &mut io::stderr())?;
    removed?;
    let Some((exit, timed_out)) = ended? else {
        return Ok(interrupted(shutdown));
    };
    let (exit_code, explanation) = judge(&plan, &exit, timed_out);
    let words = explanation
        .map(|words| format!(": {words}"))
        .unwrap_or_default();
    if exit_code != 0 {
        return Err(format!("container exit code: {exit_code}{words}").into());
    }
    if !words.is_empty() {
        tracing::warn!("{}", words.trim_start_matches(": "));
    }
    list_outputs(&outputs, &plan.output_prefix)?;
    Ok(ExitStatus::Done)
}

fn interrupted(shutdown: &Shutdown) -> ExitStatus {
    ExitStatus::Signal(shutdown.signal().unwrap_or(15))
}

/// The end, and the runtime limit if that ended it; nothing when a signal came.
async fn wait(
    container: &dyn RunningContainer,
    plan: &ContainerPlan,
    grace: Duration,
    shutdown: &Shutdown,
) -> Result<Option<(Exit, Option<Duration>)>, Failure> {
    let limit = plan.limits.runtime;
    let in_time = tokio::time::timeout(limit, container.wait());
    match shutdown.unless_interrupted(in_time).await {
        Ok(Ok(exit)) => Ok(Some((exit?, None))),
        Ok(Err(_elapsed)) => {
            container.stop(grace).await?;
            Ok(Some((container.wait().await?, Some(limit))))
        }
        Err(Interrupted) => {
            container.stop(grace).await?;
            Ok(None)
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
) -> Result<(), Failure> {
    let staged = tokio::task::spawn_blocking(move || {
        fs::create_dir(&input).map_err(at(&input))?;
        for file in &plan.files {
            let source = find(&arguments.inputs, file)?;
            let target = input.join(file.path.as_str());
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).map_err(at(parent))?;
            }
            let mut writer = File::create_new(&target).map_err(at(&target))?;
            let actual = hash_into(&source, &mut writer)?;
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

/// Copies a file, hashing it as it passes.
fn hash_into(path: &Path, target: &mut dyn Write) -> Result<Crc64Nvme, LocalError> {
    let mut file = File::open(path).map_err(at(path))?;
    let mut hasher = Crc64NvmeHasher::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match file.read(&mut buffer).map_err(at(path))? {
            0 => return Ok(hasher.finish()),
            count => {
                let chunk = buffer.get(..count).unwrap_or_default();
                hasher.update(chunk);
                target.write_all(chunk).map_err(at(path))?;
            }
        }
    }
}

fn copy_to(log: &Path, target: &mut dyn Write) -> Result<(), LocalError> {
    let mut file = File::open(log).map_err(at(log))?;
    io::copy(&mut file, target).map_err(at(log))?;
    target.flush().map_err(at(log))
}

/// What a run would have uploaded.
fn list_outputs(outputs: &Path, output_prefix: &str) -> Result<(), Failure> {
    let output_dir = output_prefix.trim_end_matches('/');
    let cancel = CancellationToken::new();
    let collected = collect::collect(outputs, output_dir, CollectLimits::default(), &cancel)?.files;
    let mut out = io::stderr();
    writeln!(
        out,
        "{} output files in {}",
        collected.len(),
        outputs.display()
    )?;
    for file in collected {
        let crc64nvme = hash_into(&outputs.join(file.path()), &mut io::sink())?;
        let size = HumanBytes(file.size()).to_string();
        writeln!(out, "  {crc64nvme}  {size:>12}  {:?}", file.path())?;
    }
    Ok(())
}
