//! The manifest: a file in the input directory that lists a container's input files.
//!
//! An optional header line, then one line per file: its place in the container, or its data id. Each
//! line ends in a newline. The executor writes it under a name that no input file has.

use std::collections::HashSet;

use crate::container_args::PlacedFile;
use crate::file_location::RelativePath;
use crate::id::ContainerNumber;
use crate::job_input::{
    Argument, EnvironmentValue, JobInput, ManifestFileFormat, Parameter, ParameterKind, Parameters,
};

/// The parameter that asks for a manifest, if any. A validated job has at most one.
#[must_use]
pub fn manifest_parameter(params: &Parameters) -> Option<&Parameter> {
    let args = params
        .args
        .iter()
        .flatten()
        .filter_map(|argument| match argument {
            Argument::Parameter(parameter) => Some(parameter),
            Argument::Literal(_) => None,
        });
    let environment = params
        .environment
        .iter()
        .flatten()
        .filter_map(|(_, value)| match value {
            EnvironmentValue::Parameter(parameter) => Some(parameter),
            EnvironmentValue::Literal(_) => None,
        });
    args.chain(environment)
        .find(|parameter| parameter.kind == ParameterKind::ManifestFile)
}

/// A manifest cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The parameter does not say what a line holds.
    #[error(
        "a manifest_file parameter has no manifest_file_format; set it to \"files\" or \"data_ids\""
    )]
    MissingFormat,
    /// The manifest is to list data ids, and a file has none.
    #[error(
        "input file {file:?} has no data_id, which the manifest is to list; give every input file one"
    )]
    MissingDataId {
        /// The file's S3 path.
        file: String,
    },
}

/// The content of a container's manifest, `None` if the job asks for none.
///
/// # Errors
///
/// See [`ManifestError`]; a validated job has neither fault.
pub fn manifest_content(
    job: &JobInput,
    files: &[PlacedFile],
) -> Result<Option<Vec<u8>>, ManifestError> {
    let Some(parameter) = manifest_parameter(&job.params) else {
        return Ok(None);
    };
    let format = parameter
        .manifest_file_format
        .ok_or(ManifestError::MissingFormat)?;
    let mut content = String::new();
    if let Some(header) = parameter
        .manifest_file_header
        .as_deref()
        .filter(|text| !text.is_empty())
    {
        content.push_str(header);
        content.push('\n');
    }
    for placed in files {
        match format {
            ManifestFileFormat::Files => {
                content.push_str(&placed.location.below(&job.params.input_mount_point));
            }
            ManifestFileFormat::DataIds => {
                let data_id =
                    placed
                        .file
                        .data_id
                        .as_deref()
                        .ok_or_else(|| ManifestError::MissingDataId {
                            file: placed.file.file.clone(),
                        })?;
                content.push_str(data_id);
            }
        }
        content.push('\n');
    }
    Ok(Some(content.into_bytes()))
}

/// The manifest's name in the input directory: hidden, so that a tool that is given the whole
/// directory does not take it for data, and different from every top-level name of `locations`.
#[must_use]
pub fn manifest_name(container: ContainerNumber, locations: &[RelativePath]) -> RelativePath {
    let taken: HashSet<&str> = locations
        .iter()
        .map(|location| {
            location
                .as_str()
                .split_once('/')
                .map_or(location.as_str(), |(top, _)| top)
        })
        .collect();
    let mut name = format!(".cts-manifest-{container}.txt");
    let mut attempt = 1;
    while taken.contains(name.as_str()) {
        name = format!(".cts-manifest-{container}-{attempt}.txt");
        attempt += 1;
    }
    RelativePath::new(&name).expect("the name is one plain segment")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::container_args::container_command;

    fn job(manifest: &serde_json::Value) -> JobInput {
        serde_json::from_value(json!({
            "cluster": "kbase", "image": "i", "output_dir": "buk/out/", "num_containers": 2,
            "params": {"args": [manifest], "input_mount_point": "/in/"}, "input_roots": ["buk"],
            "input_files": [
                {"file": "buk/a/x", "data_id": "one"},
                {"file": "buk/b/x", "data_id": "two"},
                {"file": "buk/c"},
            ],
        }))
        .unwrap()
    }

    fn content(
        job: &JobInput,
        container: ContainerNumber,
    ) -> Result<Option<String>, ManifestError> {
        let name = manifest_name(container, &[]);
        let command = container_command(job, &[], container, Some(&name)).unwrap();
        Ok(manifest_content(job, &command.files)?.map(|bytes| String::from_utf8(bytes).unwrap()))
    }

    #[test]
    fn lists_the_containers_own_files() {
        let job = job(&json!({"type": "manifest_file", "manifest_file_format": "files"}));
        assert_eq!(content(&job, 0).unwrap().unwrap(), "/in/a/x\n/in/b/x\n");
        assert_eq!(content(&job, 1).unwrap().unwrap(), "/in/c\n");
    }

    #[test]
    fn header_and_data_ids() {
        let job = job(&json!({
            "type": "manifest_file", "manifest_file_format": "data_ids", "manifest_file_header": "a\tb"
        }));
        assert_eq!(content(&job, 0).unwrap().unwrap(), "a\tb\none\ntwo\n");
        let error = content(&job, 1).unwrap_err();
        assert!(error.to_string().contains("\"buk/c\""), "{error}");
    }

    #[test]
    fn no_parameter_no_manifest() {
        let job = job(&json!("plain"));
        assert_eq!(content(&job, 0), Ok(None));
    }

    #[test]
    fn name_collides_with_nothing() {
        let taken = [
            RelativePath::new(".cts-manifest-3.txt").unwrap(),
            RelativePath::new(".cts-manifest-3-1.txt/inner").unwrap(),
        ];
        assert_eq!(manifest_name(3, &[]).as_str(), ".cts-manifest-3.txt");
        assert_eq!(manifest_name(3, &taken).as_str(), ".cts-manifest-3-2.txt");
    }
}
