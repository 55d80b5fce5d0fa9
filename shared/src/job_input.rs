//! A job submission: the model. Its rules are applied by [`JobInput::from_json`], which reports
//! every fault with the place it has in the body.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::site::Site;

/// A validated job submission, in the form the service holds and returns it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobInput {
    /// Where the containers run.
    pub cluster: Site,
    /// The image as the user named it.
    pub image: String,
    /// Mount points, arguments, environment.
    pub params: Parameters,
    /// Number of containers, 1 to 1000.
    #[serde(default = "one")]
    pub num_containers: u32,
    /// CPUs per container.
    #[serde(default = "one")]
    pub cpus: u32,
    /// Memory per container in bytes.
    #[serde(rename = "memory", default = "default_memory_bytes")]
    pub memory_bytes: u64,
    /// Longest time one container may run.
    #[serde(default)]
    pub runtime: Runtime,
    /// Prefixes of input paths below which the rest of the path is kept; see `file_location`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_roots: Option<Vec<String>>,
    /// Where outputs go: bucket and key prefix, ending in one `/`.
    pub output_dir: String,
    /// The input objects, in order.
    pub input_files: InputFiles,
}

const fn one() -> u32 {
    1
}

const fn default_memory_bytes() -> u64 {
    10_000_000
}

/// Mount points, arguments and environment of every container of the job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parameters {
    /// Where the input directory is mounted in the container.
    #[serde(default = "default_input_mount_point")]
    pub input_mount_point: String,
    /// Where the output directory is mounted in the container.
    #[serde(default = "default_output_mount_point")]
    pub output_mount_point: String,
    /// Give each container its own numbered output directory.
    #[serde(default)]
    pub declobber: bool,
    /// Where reference data is mounted, overriding the image's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refdata_mount_point: Option<String>,
    /// Arguments after the image's entrypoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<Argument>>,
    /// Environment variables, in the order given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<IndexMap<String, EnvironmentValue>>,
}

fn default_input_mount_point() -> String {
    "/input_files".to_owned()
}

fn default_output_mount_point() -> String {
    "/output_files".to_owned()
}

/// One element of `args`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Argument {
    /// A literal argument or flag.
    Literal(String),
    /// A value the container's own files or number fill in.
    Parameter(Parameter),
}

/// One value of `environment`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EnvironmentValue {
    /// A literal value.
    Literal(String),
    /// A value the container's own files or number fill in.
    Parameter(Parameter),
}

/// A placeholder that is filled in for each container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// What fills it in.
    #[serde(rename = "type")]
    pub kind: ParameterKind,
    /// How several input files are written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_files_format: Option<InputFilesFormat>,
    /// What each line of the manifest file holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_file_format: Option<ManifestFileFormat>,
    /// First line of the manifest file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_file_header: Option<String>,
    /// Text in front of the container number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_num_prefix: Option<String>,
    /// Text after the container number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_num_suffix: Option<String>,
    /// Flag in front of the value; one ending in `=` is glued to it. Only in `args`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flag: Option<String>,
}

/// What fills in a [`Parameter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParameterKind {
    /// The container's input files.
    InputFiles,
    /// The place of a file that lists them.
    ManifestFile,
    /// The container's number.
    ContainerNumber,
}

/// How several input files become arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputFilesFormat {
    /// `a,b,c`
    CommaSeparatedList,
    /// `a b c`, each its own argument
    SpaceSeparatedList,
    /// `-i a -i b -i c`
    RepeatParameter,
}

/// What each line of a manifest file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ManifestFileFormat {
    /// The file's place in the container.
    Files,
    /// The file's data id.
    DataIds,
}

/// The input files in the form they were given: bare paths, or objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum InputFiles {
    /// Bare S3 paths.
    Paths(Vec<String>),
    /// S3 paths with checksum and data id.
    Files(Vec<InputFile>),
}

/// One input object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    /// S3 path, bucket first.
    pub file: String,
    /// Base64 of the big-endian CRC64NVME, 12 characters. In a stored job always there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc64nvme: Option<String>,
    /// The user's name for the data in this file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_id: Option<String>,
}

impl InputFiles {
    /// Number of files.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self {
            Self::Paths(paths) => paths.len(),
            Self::Files(files) => files.len(),
        }
    }

    /// Whether there are none; never so in a validated job.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The files as objects, bare paths without checksum and data id.
    #[must_use]
    pub fn to_files(&self) -> Vec<InputFile> {
        match self {
            Self::Files(files) => files.clone(),
            Self::Paths(paths) => paths
                .iter()
                .map(|path| InputFile {
                    file: path.clone(),
                    crc64nvme: None,
                    data_id: None,
                })
                .collect(),
        }
    }
}

mod runtime;
pub use runtime::Runtime;
