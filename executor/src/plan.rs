//! The plan of a container: everything that follows from the job before anything is touched. A run
//! carries it out, `cts-executor plan` shows it.

use std::path::{Path, PathBuf};

use cts_shared::container_args::{ContainerArgsError, container_command};
use cts_shared::container_log::log_name_prefix;
use cts_shared::crc64nvme::{Crc64Nvme, InvalidCrc64Nvme};
use cts_shared::file_location::{FileLocationError, RelativePath, file_locations};
use cts_shared::id::{ContainerNumber, InvalidRefdataId, RefdataId};
use cts_shared::manifest::{ManifestError, manifest_content, manifest_name, manifest_parameter};
use cts_shared::mount_point::{InvalidMountPoint, check_mount_points};
use cts_shared::s3_path::{InvalidS3Path, S3Path};
use cts_shared::wire::job::AdminJob;
use serde::{Serialize, Serializer};

/// The input directory below the job directory (contract executor.md, section 4).
pub const INPUT_DIRECTORY: &str = "__input__";
/// The output directory below the job directory (contract executor.md, section 4).
pub const OUTPUT_DIRECTORY: &str = "__output__";

/// What the worker adds to the job.
#[derive(Debug, Clone)]
pub struct WorkerFacts {
    /// Where the logs go in S3, without a slash at the end.
    pub log_path: String,
    /// Root of the reference data on the container host.
    pub refdata_host_path: String,
    /// The most processes and threads of the container.
    pub pids: u32,
}

/// One container, ready to be carried out. Serialises as `plan --format json` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ContainerPlan {
    /// `name@digest`.
    pub image: String,
    /// The whole argument list, entrypoint first.
    pub command: Vec<String>,
    /// In the job's order.
    #[serde(serialize_with = "as_map")]
    pub environment: Vec<(String, String)>,
    /// What the container sees of the host.
    pub mounts: Vec<PlannedMount>,
    /// The input objects, in input order.
    pub files: Vec<PlannedFile>,
    /// What the container may use.
    pub limits: PlannedLimits,
    /// Where outputs go: bucket and key prefix; an output's path below the output mount follows.
    pub output_prefix: String,
    /// Where logs go: bucket and key prefix; `stdout.txt` or `stderr.txt` follows.
    pub log_prefix: String,
    /// The job's owner.
    #[serde(skip)]
    pub user: String,
    /// The reference data that the image needs.
    #[serde(skip)]
    pub refdata: Option<RefdataId>,
    /// A file that lists the inputs, for jobs that ask for one.
    #[serde(skip)]
    pub manifest: Option<Manifest>,
}

/// A file that the executor itself writes into the input directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its place below the input directory.
    pub path: RelativePath,
    /// Its content.
    pub content: Vec<u8>,
}

/// A directory of the host that the container sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedMount {
    /// Relative to the job directory, or absolute for reference data.
    pub host: PathBuf,
    /// In the container, as the job names it.
    pub container: String,
    /// Whether the container cannot write there.
    pub read_only: bool,
}

/// An input object and where it lands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedFile {
    /// S3 path, bucket first.
    #[serde(serialize_with = "as_text")]
    pub file: S3Path,
    /// The checksum it must have.
    #[serde(serialize_with = "as_text")]
    pub crc64nvme: Crc64Nvme,
    /// Its place below the input directory.
    #[serde(serialize_with = "as_text")]
    pub path: RelativePath,
}

/// What the container may use.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PlannedLimits {
    /// CPUs.
    pub cpus: u32,
    /// Memory; swap comes on top of nothing.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u32,
    /// Longest time it may run.
    #[serde(rename = "runtime_seconds", serialize_with = "as_seconds")]
    pub runtime: std::time::Duration,
}

fn as_text<T: ToString, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

fn as_map<S: Serializer>(pairs: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

/// A whole number where it is one.
fn as_seconds<S: Serializer>(
    duration: &std::time::Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    if duration.subsec_nanos() == 0 {
        serializer.serialize_u64(duration.as_secs())
    } else {
        serializer.serialize_f64(duration.as_secs_f64())
    }
}

/// The job cannot run as it is.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// Arguments, environment or the container's number.
    #[error(transparent)]
    Command(#[from] ContainerArgsError),
    /// Where the inputs land.
    #[error(transparent)]
    Placement(#[from] FileLocationError),
    /// The manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Mount points.
    #[error(transparent)]
    MountPoint(#[from] InvalidMountPoint),
    /// An input's S3 path.
    #[error("job_input.input_files[{index}].file: {cause}")]
    InputPath {
        /// Position in the job.
        index: usize,
        /// What is wrong.
        cause: InvalidS3Path,
    },
    /// An input's checksum.
    #[error("job_input.input_files[{index}].crc64nvme of {file:?}: {cause}")]
    Checksum {
        /// Position in the job.
        index: usize,
        /// The file's S3 path.
        file: String,
        /// What is wrong.
        cause: InvalidCrc64Nvme,
    },
    /// An input without a checksum.
    #[error(
        "job_input.input_files[{index}] {file:?} has no crc64nvme; the executor runs only what it can \
         check"
    )]
    NoChecksum {
        /// Position in the job.
        index: usize,
        /// The file's S3 path.
        file: String,
    },
    /// The output directory.
    #[error("job_input.output_dir: {0}")]
    OutputDirectory(InvalidS3Path),
    /// The image needs reference data and nobody says where to mount it.
    #[error(
        "image {image} needs reference data {refdata_id}, and neither job_input.params.\
         refdata_mount_point nor the image says where to mount it"
    )]
    NoRefdataMountPoint {
        /// The image.
        image: String,
        /// The reference data.
        refdata_id: String,
    },
    /// The image needs reference data and this worker has none.
    #[error(
        "image {image} needs reference data {refdata_id}, and REFDATA_HOST_PATH is empty on this worker"
    )]
    NoRefdataHere {
        /// The image.
        image: String,
        /// The reference data.
        refdata_id: String,
    },
    /// The reference data's id would leave its directory.
    #[error("image.refdata_id: {0}")]
    RefdataId(#[from] InvalidRefdataId),
}

impl ContainerPlan {
    /// Works out one container of a job.
    ///
    /// # Errors
    /// When the job cannot run as it is; the words name the place in the job.
    pub fn new(
        job: &AdminJob,
        container: ContainerNumber,
        worker: &WorkerFacts,
    ) -> Result<Self, PlanError> {
        let input = &job.job.job_input;
        let image = &job.job.image;
        let params = &input.params;
        let manifest_name = match manifest_parameter(params) {
            Some(_) => {
                let roots = input.input_roots.as_deref().unwrap_or_default();
                let locations = file_locations(&input.input_files, roots)?;
                Some(manifest_name(container, &locations))
            }
            None => None,
        };
        let command =
            container_command(input, &image.entrypoint, container, manifest_name.as_ref())?;
        let manifest = match manifest_name {
            Some(path) => {
                manifest_content(input, &command.files)?.map(|content| Manifest { path, content })
            }
            None => None,
        };
        let refdata = match &image.refdata_id {
            Some(id) => Some(id.parse::<RefdataId>()?),
            None => None,
        };
        let output_dir = S3Path::parse(&input.output_dir)
            .map_err(PlanError::OutputDirectory)?
            .to_string();
        let output_prefix = match (output_dir.trim_end_matches('/'), params.declobber) {
            (directory, true) => format!("{directory}/{container}/"),
            (directory, false) => format!("{directory}/"),
        };
        Ok(Self {
            image: format!("{}@{}", image.name, image.digest),
            mounts: mounts(job, container, refdata.as_ref(), worker)?,
            files: files(job, command.files.iter())?,
            command: command.args,
            environment: command.environment,
            limits: PlannedLimits {
                cpus: input.cpus,
                memory_bytes: input.memory_bytes,
                pids: worker.pids,
                runtime: input.runtime.duration(),
            },
            output_prefix,
            log_prefix: log_prefix(&worker.log_path, container),
            user: job.job.status.user.clone(),
            refdata,
            manifest,
        })
    }

    /// The directory whose files are the outputs, below the job directory.
    #[must_use]
    pub fn output_directory(declobber: bool, container: ContainerNumber) -> PathBuf {
        let root = Path::new(OUTPUT_DIRECTORY);
        if declobber {
            root.join(container.to_string())
        } else {
            root.to_owned()
        }
    }
}

/// Where a container's logs go: bucket and key prefix (contract executor.md, section 4).
#[must_use]
pub fn log_prefix(log_path: &str, container: ContainerNumber) -> String {
    format!("{log_path}/{}", log_name_prefix(container))
}

fn files<'a>(
    job: &AdminJob,
    placed: impl Iterator<Item = &'a cts_shared::container_args::PlacedFile>,
) -> Result<Vec<PlannedFile>, PlanError> {
    // Positions in messages are those of the whole job, which is what the reader has before them.
    let all = job.job.job_input.input_files.to_files();
    placed
        .map(|placed| {
            let file = &placed.file.file;
            let index = || {
                all.iter()
                    .position(|other| other.file == *file)
                    .unwrap_or_default()
            };
            let crc64nvme =
                placed
                    .file
                    .crc64nvme
                    .as_deref()
                    .ok_or_else(|| PlanError::NoChecksum {
                        index: index(),
                        file: file.clone(),
                    })?;
            Ok(PlannedFile {
                file: S3Path::parse(file).map_err(|cause| PlanError::InputPath {
                    index: index(),
                    cause,
                })?,
                crc64nvme: Crc64Nvme::from_base64(crc64nvme).map_err(|cause| {
                    PlanError::Checksum {
                        index: index(),
                        file: file.clone(),
                        cause,
                    }
                })?,
                path: placed.location.clone(),
            })
        })
        .collect()
}

fn mounts(
    job: &AdminJob,
    container: ContainerNumber,
    refdata: Option<&RefdataId>,
    worker: &WorkerFacts,
) -> Result<Vec<PlannedMount>, PlanError> {
    let params = &job.job.job_input.params;
    let mut mounts = vec![
        PlannedMount {
            host: INPUT_DIRECTORY.into(),
            container: params.input_mount_point.clone(),
            // Inputs are verified data; a tool that must write beside them writes to its output.
            read_only: true,
        },
        PlannedMount {
            host: ContainerPlan::output_directory(params.declobber, container),
            container: params.output_mount_point.clone(),
            read_only: false,
        },
    ];
    let mut named = vec![
        (
            "job_input.params.input_mount_point",
            params.input_mount_point.as_str(),
        ),
        (
            "job_input.params.output_mount_point",
            params.output_mount_point.as_str(),
        ),
    ];
    let image = &job.job.image;
    if let Some(refdata_id) = refdata {
        let name = || format!("{}@{}", image.name, image.digest);
        let mount_point = params
            .refdata_mount_point
            .as_deref()
            .or(image.default_refdata_mount_point.as_deref())
            .ok_or_else(|| PlanError::NoRefdataMountPoint {
                image: name(),
                refdata_id: refdata_id.to_string(),
            })?;
        if worker.refdata_host_path.is_empty() {
            return Err(PlanError::NoRefdataHere {
                image: name(),
                refdata_id: refdata_id.to_string(),
            });
        }
        named.push(("the reference data's mount point", mount_point));
        mounts.push(PlannedMount {
            host: Path::new(&worker.refdata_host_path).join(refdata_id.as_str()),
            container: mount_point.to_owned(),
            read_only: true,
        });
    }
    check_mount_points(&named)?;
    Ok(mounts)
}

mod text;
pub use text::to_text;
