//! What the decisions change of `job_input.jsonl`.

use cts_shared::s3_path::check_segments;
use serde_json::Value;

use crate::loader::Row;

/// The decisions (decisions.md) that change rows which upstream accepts.
pub(crate) enum Decision {
    /// Row 2: `.`, `..` and empty segments are refused.
    UnsafeSegments,
    /// Row 4: an argument's files need a format. Holds the argument's number.
    MissingFormat(usize),
}

impl Decision {
    /// The decision that changes the row, if one does.
    pub(crate) fn of(row: &Row) -> Option<Self> {
        let normalized = row.expect.get("normalized")?;
        let files = normalized["input_files"].as_array().into_iter().flatten();
        let paths = files.map(|file| file.get("file").unwrap_or(file).as_str().unwrap());
        let output_dir = normalized["output_dir"]
            .as_str()
            .unwrap()
            .trim_end_matches('/');
        if paths
            .chain([output_dir])
            .any(|path| check_segments(path).is_err())
        {
            return Some(Self::UnsafeSegments);
        }
        let args = normalized["params"]["args"].as_array()?;
        let lacks_format = |argument: &Value| match argument["type"].as_str() {
            Some("input_files") => argument.get("input_files_format").is_none(),
            Some("manifest_file") => argument.get("manifest_file_format").is_none(),
            _ => false,
        };
        args.iter().position(lacks_format).map(Self::MissingFormat)
    }
}

/// The order of roots is not defined.
pub(crate) fn with_sorted_roots(mut job_input: Value) -> Value {
    if let Some(roots) = job_input["input_roots"].as_array_mut() {
        roots.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    }
    job_input
}
