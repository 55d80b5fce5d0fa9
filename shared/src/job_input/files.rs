//! Input files, input roots and the output directory.

use indexmap::IndexSet;
use serde_json::Value;

use super::rules::{CHECKSUM, DATA_ID, INPUT_FILES};
use super::{InputFile, InputFiles};
use crate::s3_path::{Bucket, InvalidS3Path, S3Path, check_segments};
use crate::unicode;
use crate::validation::scalars::any_text;
use crate::validation::{Checked, Fault, Faults, Members, Reading, any_of, list};

/// Kind of the fault of a path with a segment that cannot be part of a path on a disk. A request
/// whose faults are all of this kind is answered with 30020, any other with 30010.
pub const ILLEGAL_S3_PATH: &str = "illegal_s3_path";

/// A broken rule that the schema cannot express.
fn rule_broken(value: &Value, message: impl Into<String>) -> Faults {
    Fault::new("value_error", value, message).into()
}

/// An S3 path, normalised. Whether it can be a file on a disk is another question, with a code of its own:
/// [`ILLEGAL_S3_PATH`].
///
/// # Errors
/// With the fault, when it is none.
pub fn s3_path(value: &Value) -> Checked<String> {
    let text = value
        .as_str()
        .ok_or_else(|| rule_broken(value, "give an S3 path: bucket/key"))?;
    let path = S3Path::parse(text).map_err(|error| rule_broken(value, error.to_string()))?;
    Ok(path.to_string())
}

/// The fault of a path, bucket first, that cannot become a path on a disk (decisions.md, row 2).
fn illegal_segments(path: &str) -> Option<Faults> {
    let error = check_segments(path).err()?;
    Some(
        Fault::new(
            ILLEGAL_S3_PATH,
            &Value::from(path),
            format!("{path:?} {error}"),
        )
        .into(),
    )
}

/// A bucket and a prefix; the result ends in one slash.
pub(super) fn output_dir(value: &Value) -> Checked<String> {
    // The slash that this check adds does not count: what was checked once passes again.
    let text = value.as_str().map(|text| match text.strip_suffix('/') {
        Some(path) if !path.ends_with('/') => path,
        _ => text,
    });
    let directory = s3_path(&text.map_or_else(|| value.clone(), Value::from))?;
    if let Some(faults) = illegal_segments(&directory) {
        return Err(faults);
    }
    let directory = directory + "/";
    let most = *S3Path::CHARS.end();
    if directory.chars().count() > most {
        let message = format!("give at most {most} characters with a final slash");
        return Err(Fault::new("string_too_long", value, message).into());
    }
    Ok(directory)
}

/// Prefixes of input paths: buckets, S3 paths, or nothing for all. Each once, in the order given.
pub(super) fn input_roots(value: &Value) -> Checked<Vec<String>> {
    let elements = match value {
        Value::Array(elements) => elements.as_slice(),
        // The existing service takes an empty object for an empty list.
        Value::Object(members) if members.is_empty() => &[],
        _ => {
            return Err(rule_broken(
                value,
                "give a JSON list of S3 paths or buckets",
            ));
        }
    };
    let mut faults = Faults::default();
    let mut roots = IndexSet::new();
    for (index, element) in elements.iter().enumerate() {
        // The existing service reports these as faults of the list.
        let root = input_root(element)
            .map_err(|faults| faults.with_message(|words| format!("input root {index}: {words}")));
        roots.extend(faults.collect(root));
    }
    if faults.is_empty() {
        Ok(roots.into_iter().collect())
    } else {
        Err(faults)
    }
}

fn input_root(value: &Value) -> Checked<String> {
    let text = value
        .as_str()
        .ok_or_else(|| rule_broken(value, "give a text"))?;
    normalised_root(text).map_err(|error| rule_broken(value, error.to_string()))
}

fn normalised_root(text: &str) -> Result<String, InvalidS3Path> {
    let root = text.trim_start_matches(unicode::is_whitespace);
    if root.is_empty() {
        return Ok(String::new());
    }
    match root.split_once('/') {
        None => Ok(Bucket::parse(root)?.to_string()),
        Some((bucket, key)) if !bucket.is_empty() && key.chars().all(unicode::is_whitespace) => {
            Ok(Bucket::parse(bucket)?.to_string())
        }
        Some(_) => Ok(S3Path::parse(root)?.to_string()),
    }
}

/// The input files: all paths, or all objects with a path each.
pub(super) fn input_files(value: &Value) -> Checked<InputFiles> {
    match value {
        Value::Array(files) if files.len() > *INPUT_FILES.end() => {
            let most = *INPUT_FILES.end();
            let message = format!("give at most {most} input files");
            let fault = Fault::without_input("too_long", message);
            return Err(fault.with_bound("max_length", most).into());
        }
        Value::Array(files) => bare_paths_are_valid(files)?,
        Value::String(_) | Value::Object(_) => {
            return Err(rule_broken(
                value,
                "give a JSON list of S3 paths, or of file objects",
            ));
        }
        _ => {}
    }
    let files = any_of(
        value,
        &[
            Reading {
                name: "list[str]",
                check: &|value| list(value, bare_path).map(InputFiles::Paths),
            },
            Reading {
                name: "list[S3FileWithDataID]",
                check: &|value| list(value, input_file).map(InputFiles::Files),
            },
        ],
    )?;
    if files.is_empty() {
        let fault = Fault::new("too_short", value, "give at least one input file");
        return Err(fault.with_bound("min_length", 1).into());
    }
    if let InputFiles::Files(files) = &files {
        let with_data_id = files.iter().filter(|file| file.data_id.is_some()).count();
        if with_data_id != 0 && with_data_id != files.len() {
            return Err(rule_broken(value, "give every file a data_id, or none"));
        }
    }
    every_path_can_be_a_file(&files)?;
    Ok(files)
}

/// The paths among `files` that are bare texts. The existing service reports their faults as
/// those of the list, whatever the other elements are.
fn bare_paths_are_valid(files: &[Value]) -> Checked<()> {
    let mut faults = Faults::default();
    for (index, file) in files
        .iter()
        .enumerate()
        .filter(|(_, file)| file.is_string())
    {
        faults.collect(
            s3_path(file).map_err(|faults| {
                faults.with_message(|words| format!("input file {index}: {words}"))
            }),
        );
    }
    if faults.is_empty() {
        Ok(())
    } else {
        Err(faults)
    }
}

/// Looked at last, when nothing else is wrong with the files: such paths have a code of their own.
fn every_path_can_be_a_file(files: &InputFiles) -> Checked<()> {
    let mut all = Faults::default();
    match files {
        InputFiles::Paths(paths) => {
            for (index, path) in paths.iter().enumerate() {
                let faults = illegal_segments(path).unwrap_or_default();
                all.add(faults.under_element(index));
            }
        }
        InputFiles::Files(files) => {
            for (index, file) in files.iter().enumerate() {
                let faults = illegal_segments(&file.file).unwrap_or_default();
                all.add(faults.under_member("file").under_element(index));
            }
        }
    }
    if all.is_empty() { Ok(()) } else { Err(all) }
}

fn bare_path(value: &Value) -> Checked<String> {
    any_text(value)?;
    s3_path(value)
}

fn input_file(value: &Value) -> Checked<InputFile> {
    let mut members = Members::of(value)?;
    let file = members.required("file", s3_path);
    let crc64nvme = members.optional("crc64nvme", |value| CHECKSUM.check(value));
    let data_id = members.optional("data_id", data_id);
    let faults = members.finish();
    match (file, crc64nvme, data_id) {
        (Some(file), Some(crc64nvme), Some(data_id)) if faults.is_empty() => Ok(InputFile {
            file,
            crc64nvme,
            data_id,
        }),
        _ => Err(faults),
    }
}

fn data_id(value: &Value) -> Checked<String> {
    let id = DATA_ID.check(value)?;
    if id.contains(unicode::is_control) {
        return Err(rule_broken(
            value,
            "give a data_id without control characters",
        ));
    }
    Ok(id)
}
