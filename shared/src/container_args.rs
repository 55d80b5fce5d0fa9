//! From a job to one container's command, environment and files (contract service.md, section 3.5).
//!
//! Nothing is quoted: every element reaches the program as it stands here, no shell is involved.

use std::sync::LazyLock;

use regex::Regex;

use crate::file_location::{FileLocationError, RelativePath, file_locations};
use crate::id::ContainerNumber;
use crate::job_input::{
    Argument, EnvironmentValue, InputFile, InputFilesFormat, JobInput, Parameter, ParameterKind,
};
use crate::split::file_range;

/// What one container runs, and on which files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerCommand {
    /// The complete command: the image's entrypoint, then the arguments. Never empty if the
    /// entrypoint is not.
    pub args: Vec<String>,
    /// The environment, in the order given.
    pub environment: Vec<(String, String)>,
    /// The container's input files, in order.
    pub files: Vec<PlacedFile>,
}

impl ContainerCommand {
    /// The environment as the container engine takes it: `NAME=value`.
    pub fn environment_assignments(&self) -> impl Iterator<Item = String> {
        self.environment
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
    }
}

/// An input file and its place in the input directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedFile {
    /// The object.
    pub file: InputFile,
    /// Its place.
    pub location: RelativePath,
}

/// A container's command cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContainerArgsError {
    /// The input files cannot all be placed.
    #[error(transparent)]
    Location(#[from] FileLocationError),
    /// The job has no such container.
    #[error(
        "the job has {num_containers} containers, numbered from 0; there is no container {container}"
    )]
    NoSuchContainer {
        /// The number asked for.
        container: ContainerNumber,
        /// How many there are.
        num_containers: u32,
    },
    /// A manifest is asked for, and the caller has made none.
    #[error(
        "the job has a manifest_file parameter, but no manifest was made for container {container}"
    )]
    NoManifest {
        /// The container.
        container: ContainerNumber,
    },
    /// The manifest's name could be taken for something else on a command line.
    #[error(
        "the manifest name {name:?} cannot be an argument; use letters, digits, '.', '_' and '-', \
         and do not begin with '-'"
    )]
    ManifestName {
        /// The name.
        name: String,
    },
    /// A parameter for several files does not say how to write them.
    #[error(
        "an input_files parameter in {place} has no input_files_format; set it to \
         \"comma_separated_list\"{more}",
        more = if place == "args" { ", \"space_separated_list\" or \"repeat_parameter\"" } else { "" }
    )]
    MissingFormat {
        /// `args`, or the environment variable's name.
        place: String,
    },
    /// An environment variable is one value, and the format makes several.
    #[error(
        "environment variable {name} has an input_files parameter with a format other than \
         \"comma_separated_list\", the only one that makes one value"
    )]
    EnvironmentFormat {
        /// The variable.
        name: String,
    },
}

impl ContainerArgsError {
    /// A stable label of the fault.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Location(error) => error.kind(),
            Self::NoSuchContainer { .. } => "container_number_out_of_range",
            Self::NoManifest { .. } => "manifest_list",
            Self::ManifestName { .. } => "manifest_path",
            Self::MissingFormat { .. } => "missing_format",
            Self::EnvironmentFormat { .. } => "environment_format",
        }
    }
}

/// The input files of one container with their places.
///
/// # Errors
///
/// The job has no such container, or its files (all of them, not this container's only) cannot be
/// placed.
pub fn container_files(
    job: &JobInput,
    container: ContainerNumber,
) -> Result<Vec<PlacedFile>, ContainerArgsError> {
    let range = file_range(job.input_files.len(), job.num_containers, container).ok_or(
        ContainerArgsError::NoSuchContainer {
            container,
            num_containers: job.num_containers,
        },
    )?;
    let locations = file_locations(
        &job.input_files,
        job.input_roots.as_deref().unwrap_or_default(),
    )?;
    let placed = job.input_files.to_files().into_iter().zip(locations);
    Ok(placed
        .skip(range.start)
        .take(range.len())
        .map(|(file, location)| PlacedFile { file, location })
        .collect())
}

/// The command, environment and files of one container. `manifest` is the manifest's place in the
/// input directory ([`crate::manifest::manifest_name`]), needed only by jobs with a manifest parameter.
///
/// # Errors
///
/// See [`ContainerArgsError`].
pub fn container_command(
    job: &JobInput,
    entrypoint: &[String],
    container: ContainerNumber,
    manifest: Option<&RelativePath>,
) -> Result<ContainerCommand, ContainerArgsError> {
    let files = container_files(job, container)?;
    let mount_point = &job.params.input_mount_point;
    let values = Values {
        container,
        paths: files
            .iter()
            .map(|placed| placed.location.below(mount_point))
            .collect(),
        manifest: manifest.map(|name| (name, mount_point.as_str())),
    };
    let mut args = entrypoint.to_vec();
    for argument in job.params.args.iter().flatten() {
        match argument {
            Argument::Literal(text) => args.push(text.clone()),
            Argument::Parameter(parameter) => values.push_argument(parameter, &mut args)?,
        }
    }
    let mut environment = Vec::new();
    for (name, value) in job.params.environment.iter().flatten() {
        let value = match value {
            EnvironmentValue::Literal(text) => text.clone(),
            EnvironmentValue::Parameter(parameter) => values.environment_value(name, parameter)?,
        };
        environment.push((name.clone(), value));
    }
    Ok(ContainerCommand {
        args,
        environment,
        files,
    })
}

/// What a container's parameters are filled in with.
struct Values<'a> {
    container: ContainerNumber,
    /// The files' places in the container.
    paths: Vec<String>,
    /// The manifest's place in the input directory, and the mount point.
    manifest: Option<(&'a RelativePath, &'a str)>,
}

impl Values<'_> {
    fn push_argument(
        &self,
        parameter: &Parameter,
        args: &mut Vec<String>,
    ) -> Result<(), ContainerArgsError> {
        let flag = parameter.flag.as_deref();
        match parameter.kind {
            ParameterKind::ContainerNumber => push(args, flag, self.container_number(parameter)),
            ParameterKind::ManifestFile => push(args, flag, self.manifest_path()?),
            ParameterKind::InputFiles => match parameter.input_files_format {
                None => {
                    return Err(ContainerArgsError::MissingFormat {
                        place: "args".to_owned(),
                    });
                }
                Some(InputFilesFormat::CommaSeparatedList) => {
                    push(args, flag, self.paths.join(","))
                }
                Some(InputFilesFormat::SpaceSeparatedList) => {
                    let mut flag = flag;
                    for path in &self.paths {
                        push(args, flag.take(), path.clone());
                    }
                }
                Some(InputFilesFormat::RepeatParameter) => {
                    for path in &self.paths {
                        push(args, flag, path.clone());
                    }
                }
            },
        }
        Ok(())
    }

    fn environment_value(
        &self,
        name: &str,
        parameter: &Parameter,
    ) -> Result<String, ContainerArgsError> {
        match parameter.kind {
            ParameterKind::ContainerNumber => Ok(self.container_number(parameter)),
            ParameterKind::ManifestFile => self.manifest_path(),
            ParameterKind::InputFiles => match parameter.input_files_format {
                Some(InputFilesFormat::CommaSeparatedList) => Ok(self.paths.join(",")),
                Some(_) => Err(ContainerArgsError::EnvironmentFormat {
                    name: name.to_owned(),
                }),
                None => Err(ContainerArgsError::MissingFormat {
                    place: name.to_owned(),
                }),
            },
        }
    }

    fn container_number(&self, parameter: &Parameter) -> String {
        let prefix = parameter
            .container_num_prefix
            .as_deref()
            .unwrap_or_default();
        let suffix = parameter
            .container_num_suffix
            .as_deref()
            .unwrap_or_default();
        format!("{prefix}{}{suffix}", self.container)
    }

    fn manifest_path(&self) -> Result<String, ContainerArgsError> {
        // The pattern of plain arguments, service.md section 3.1, for one segment.
        static ARGUMENT: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(r"\A[\w.][\w.-]*\z").expect("the pattern is a constant that compiles")
        });
        let (name, mount_point) = self.manifest.ok_or(ContainerArgsError::NoManifest {
            container: self.container,
        })?;
        if name
            .as_str()
            .split('/')
            .all(|segment| ARGUMENT.is_match(segment))
        {
            Ok(name.below(mount_point))
        } else {
            Err(ContainerArgsError::ManifestName {
                name: name.to_string(),
            })
        }
    }
}

/// Adds a value; a flag that ends in `=` is glued to it, another one goes before it.
fn push(args: &mut Vec<String>, flag: Option<&str>, value: String) {
    match flag {
        None => args.push(value),
        Some(flag) if flag.ends_with('=') => args.push(format!("{flag}{value}")),
        Some(flag) => args.extend([flag.to_owned(), value]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::manifest::manifest_name;

    fn job(params: Value, num_containers: u32) -> JobInput {
        serde_json::from_value(json!({
            "cluster": "kbase", "image": "i", "output_dir": "buk/out/", "params": params,
            "num_containers": num_containers, "input_files": ["buk/a b", "buk/c$d", "buk/e"],
        }))
        .unwrap()
    }

    fn args(argument: Value) -> Vec<String> {
        let job = job(json!({"args": [argument]}), 2);
        let manifest = manifest_name(0, &[]);
        container_command(&job, &["run".to_owned()], 0, Some(&manifest))
            .unwrap()
            .args
    }

    #[test]
    fn flags_are_glued_by_their_equals_sign() {
        let files = |format: &str, flag: &str| {
            args(json!({"type": "input_files", "input_files_format": format, "flag": flag}))
        };
        let (first, second) = ("/input_files/a b", "/input_files/c$d");
        let both = format!("{first},{second}");
        assert_eq!(
            files("comma_separated_list", "-i"),
            ["run", "-i", both.as_str()]
        );
        assert_eq!(
            files("comma_separated_list", "-i="),
            ["run", &format!("-i={both}")]
        );
        assert_eq!(
            files("space_separated_list", "-i"),
            ["run", "-i", first, second]
        );
        assert_eq!(
            files("space_separated_list", "-i="),
            ["run", &format!("-i={first}"), second]
        );
        assert_eq!(
            files("repeat_parameter", "-i"),
            ["run", "-i", first, "-i", second]
        );
        assert_eq!(
            files("repeat_parameter", "-i="),
            ["run", &format!("-i={first}"), &format!("-i={second}")]
        );
        assert_eq!(
            args(json!({"type": "manifest_file", "manifest_file_format": "files", "flag": "-m="})),
            ["run", "-m=/input_files/.cts-manifest-0.txt"]
        );
    }

    #[test]
    fn environment_keeps_its_order_and_ignores_flags() {
        let job = job(
            json!({"environment": {
                "Z": "plain $HOME", "B": {"type": "container_number", "container_num_prefix": "n", "flag": "-x"},
                "A": {"type": "input_files", "input_files_format": "comma_separated_list"},
            }}),
            3,
        );
        let command = container_command(&job, &[], 1, None).unwrap();
        let environment: Vec<String> = command.environment_assignments().collect();
        assert_eq!(environment, ["Z=plain $HOME", "B=n1", "A=/input_files/c$d"]);
    }

    #[test]
    fn faults_have_their_labels() {
        let kind = |params: Value, container, manifest: Option<&RelativePath>| {
            container_command(&job(params, 2), &[], container, manifest)
                .unwrap_err()
                .kind()
        };
        let files = json!({"type": "input_files"});
        let spaced = json!({"type": "input_files", "input_files_format": "space_separated_list"});
        let manifest = json!({"type": "manifest_file", "manifest_file_format": "files"});
        let odd = RelativePath::new("-rf").unwrap();
        assert_eq!(kind(json!({}), 2, None), "container_number_out_of_range");
        assert_eq!(kind(json!({"args": [files]}), 0, None), "missing_format");
        assert_eq!(
            kind(json!({"environment": {"A": files}}), 0, None),
            "missing_format"
        );
        assert_eq!(
            kind(json!({"environment": {"A": spaced}}), 0, None),
            "environment_format"
        );
        assert_eq!(kind(json!({"args": [manifest]}), 0, None), "manifest_list");
        assert_eq!(
            kind(json!({"args": [manifest]}), 0, Some(&odd)),
            "manifest_path"
        );
    }
}
