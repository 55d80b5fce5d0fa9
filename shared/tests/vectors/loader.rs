//! Reads a vector file: JSON Lines, `{"name", "input", "expect"}` per row.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

/// One row of a vector file.
#[derive(Debug, Deserialize)]
pub(crate) struct Row {
    /// Names the row in failure messages.
    pub(crate) name: String,
    /// What goes in.
    pub(crate) input: Value,
    /// What upstream made of it.
    pub(crate) expect: Value,
}

/// The rows of `file` (such as `buckets.jsonl`) in the directory `CTS_VECTORS_DIR`, by default
/// this crate's `vectors/`.
///
/// # Panics
///
/// When the file is missing, malformed or empty: a test that ran no row would prove nothing.
pub(crate) fn rows(file: &str) -> Vec<Row> {
    let directory = std::env::var_os("CTS_VECTORS_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/vectors")),
        PathBuf::from,
    );
    let path = directory.join(file);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("read vectors {}: {error}", path.display()));
    let rows: Vec<Row> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .enumerate()
        .map(|(index, line)| {
            serde_json::from_str(line).unwrap_or_else(|error| {
                panic!("parse row {} of {}: {error}", index + 1, path.display())
            })
        })
        .collect();
    assert!(!rows.is_empty(), "{} has no rows", path.display());
    rows
}

/// Fails with every fault in `faults`, each its own line, when there is any.
///
/// # Panics
///
/// When `faults` is not empty.
pub(crate) fn assert_no_faults(file: &str, rows: usize, faults: &[String]) {
    assert!(
        faults.is_empty(),
        "{} of {rows} rows of {file} differ:\n{}",
        faults.len(),
        faults.join("\n")
    );
}
