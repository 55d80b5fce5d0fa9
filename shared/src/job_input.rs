//! A job submission: the model. Its rules are applied by [`JobInput::from_json`], which reports
//! every fault with the place it has in the body.

use indexmap::IndexMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::job_input::rules::{CONTAINERS, CPUS, IMAGE};
use crate::site::Site;
use crate::validation::scalars::{integer, word};
use crate::validation::{Checked, Fault, Members};
use crate::wire::error::ValidationDetail;

/// A validated job submission, in the form the service holds and returns it.
///
/// [`JobInput::from_json`] applies the rules. Deserialising is for what a service returns: it takes
/// any texts, and passes over members it does not know.
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
    rules::DEFAULT_MEMORY_BYTES
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

impl Parameters {
    /// Bytes of the arguments and of the names and values of environment variables that are given as
    /// text; what input files and container numbers fill in does not count.
    #[must_use]
    pub fn literal_bytes(&self) -> usize {
        let args = self.args.iter().flatten().map(|argument| match argument {
            Argument::Literal(text) => text.len(),
            Argument::Parameter(_) => 0,
        });
        let environment = self.environment.iter().flatten().map(|(name, value)| {
            name.len()
                + match value {
                    EnvironmentValue::Literal(text) => text.len(),
                    EnvironmentValue::Parameter(_) => 0,
                }
        });
        args.chain(environment).sum()
    }
}

fn default_input_mount_point() -> String {
    rules::DEFAULT_INPUT_MOUNT_POINT.to_owned()
}

fn default_output_mount_point() -> String {
    rules::DEFAULT_OUTPUT_MOUNT_POINT.to_owned()
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

impl ParameterKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::InputFiles, Self::ManifestFile, Self::ContainerNumber];
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

impl InputFilesFormat {
    /// Every format.
    pub const ALL: [Self; 3] = [
        Self::CommaSeparatedList,
        Self::SpaceSeparatedList,
        Self::RepeatParameter,
    ];
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

impl ManifestFileFormat {
    /// Every format.
    pub const ALL: [Self; 2] = [Self::Files, Self::DataIds];
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

mod files;
mod memory;
mod parameters;
pub mod rules;
mod runtime;

pub use files::{ILLEGAL_S3_PATH, s3_path};
pub use runtime::{InvalidRuntime, Runtime};

impl JobInput {
    /// Checks the body of a submission against every rule of the contract (service.md, section 3)
    /// and normalises it. What was normalised once passes again unchanged.
    ///
    /// Not checked here: limits of the site, and where the files land in the container
    /// (`file_location`).
    ///
    /// # Errors
    ///
    /// With every fault found, in the existing service's form. They are answered with 30010, or
    /// with 30020 if each is an [`ILLEGAL_S3_PATH`].
    pub fn from_json(body: &Value) -> Result<Self, Vec<ValidationDetail>> {
        Self::check(body).map_err(|faults| faults.into_details("body"))
    }

    /// As [`JobInput::from_json`], for documents that hold a job input.
    pub(crate) fn check(value: &Value) -> Checked<Self> {
        let mut members = Members::of(value)?;
        let cluster = members.required("cluster", |value| {
            word(value, "perlmutter-jaws, lawrencium-jaws, kbase, local")
        });
        let image = members.required("image", |value| IMAGE.check(value));
        let params = members.required("params", parameters::parameters);
        let num_containers =
            members.defaulted("num_containers", one(), |value| integer(value, CONTAINERS));
        let cpus = members.defaulted("cpus", one(), |value| integer(value, CPUS));
        let memory_bytes = members.defaulted("memory", default_memory_bytes(), memory::memory);
        let runtime = members.defaulted("runtime", Runtime::default(), Runtime::check);
        let input_roots = members.optional("input_roots", files::input_roots);
        let output_dir = members.required("output_dir", files::output_dir);
        let input_files = members.required("input_files", files::input_files);
        let faults = members.finish();
        let (
            true,
            Some(cluster),
            Some(image),
            Some(params),
            Some(num_containers),
            Some(cpus),
            Some(memory_bytes),
            Some(runtime),
            Some(input_roots),
            Some(output_dir),
            Some(input_files),
        ) = (
            faults.is_empty(),
            cluster,
            image,
            params,
            num_containers,
            cpus,
            memory_bytes,
            runtime,
            input_roots,
            output_dir,
            input_files,
        )
        else {
            return Err(faults);
        };
        let job_input = Self {
            cluster,
            image,
            params,
            num_containers,
            cpus,
            memory_bytes,
            runtime,
            input_roots,
            output_dir,
            input_files,
        };
        match job_input.rule_across_members() {
            None => Ok(job_input),
            Some(message) => Err(Fault::new("value_error", value, message).into()),
        }
    }

    /// What is wrong with the members taken together.
    fn rule_across_members(&self) -> Option<String> {
        let (containers, files) = (self.num_containers, self.input_files.len());
        if usize::try_from(containers).is_ok_and(|containers| containers > files) {
            return Some(format!(
                "give at most as many containers as input files; there are {containers} \
                 containers and {files} files"
            ));
        }
        let lists_data_ids = self.params.all().any(|parameter| {
            parameter.kind == ParameterKind::ManifestFile
                && parameter.manifest_file_format == Some(ManifestFileFormat::DataIds)
        });
        let has_data_ids = match &self.input_files {
            InputFiles::Paths(_) => false,
            InputFiles::Files(files) => files.iter().all(|file| file.data_id.is_some()),
        };
        (lists_data_ids && !has_data_ids)
            .then(|| "give the input files data_ids; the manifest file is to list them".to_owned())
    }
}

impl Parameters {
    /// The placeholders in `args` and `environment`.
    pub fn all(&self) -> impl Iterator<Item = &Parameter> {
        self.in_args().chain(self.in_environment())
    }

    /// The placeholders in `args`.
    pub fn in_args(&self) -> impl Iterator<Item = &Parameter> {
        self.args
            .iter()
            .flatten()
            .filter_map(|argument| match argument {
                Argument::Parameter(parameter) => Some(parameter),
                Argument::Literal(_) => None,
            })
    }

    /// The placeholders in `environment`.
    pub fn in_environment(&self) -> impl Iterator<Item = &Parameter> {
        self.environment
            .iter()
            .flatten()
            .filter_map(|(_, value)| match value {
                EnvironmentValue::Parameter(parameter) => Some(parameter),
                EnvironmentValue::Literal(_) => None,
            })
    }
}

impl Parameter {
    /// Whether the container's input files fill it in, directly or through a manifest file.
    #[must_use]
    pub const fn carries_files(&self) -> bool {
        matches!(
            self.kind,
            ParameterKind::InputFiles | ParameterKind::ManifestFile
        )
    }
}

#[cfg(test)]
mod tests;
