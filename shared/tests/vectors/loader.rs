//! Reads the contract's vectors.

// Three crates include this file, and only the domain's lints forbid it the disk.
#![allow(
    clippy::disallowed_methods,
    dead_code,
    reason = "tests read the vectors from disk, the domain does not; not every crate needs all"
)]

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

/// One line of a vector file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    /// Unique in its file; the prefix often tells the kind.
    pub(crate) name: String,
    /// What goes in.
    pub(crate) input: Value,
    /// What the contract says comes out.
    pub(crate) expect: Value,
}

/// All rows of a vector file, from the directory in `CTS_VECTORS_DIR` or else the domain's `vectors/`.
///
/// # Panics
///
/// If the file cannot be read, is empty, or has a line that is no row: a test that runs nothing must
/// not pass.
pub(crate) fn rows(file: &str) -> Vec<Row> {
    let directory = match std::env::var_os("CTS_VECTORS_DIR") {
        Some(directory) if !directory.is_empty() => PathBuf::from(directory),
        _ => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors"),
    };
    let path = directory.join(file);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("vectors {} cannot be read: {error}", path.display()));
    let rows: Vec<Row> = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| {
            serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{}:{}: {error}", path.display(), number + 1))
        })
        .collect();
    assert!(!rows.is_empty(), "vectors {} hold no row", path.display());
    rows
}

/// Runs `check` over all rows of a file and reports every failure before failing.
///
/// # Panics
///
/// If any row fails.
pub(crate) fn run(file: &str, check: impl Fn(&Row) -> Result<(), String>) {
    let rows = rows(file);
    let failures: Vec<String> = rows
        .iter()
        .filter_map(|row| {
            check(row)
                .err()
                .map(|failure| format!("{}: {failure}", row.name))
        })
        .collect();
    assert!(
        failures.is_empty(),
        "{file}: {} of {} rows failed\n{}",
        failures.len(),
        rows.len(),
        failures.join("\n")
    );
}

/// `Ok` if both are equal, else a line that shows both.
pub(crate) fn equal<T: PartialEq + std::fmt::Debug>(
    what: &str,
    actual: &T,
    expected: &T,
) -> Result<(), String> {
    if actual == expected {
        Ok(())
    } else {
        Err(format!(
            "{what}\n    is       {actual:?}\n    expected {expected:?}"
        ))
    }
}
