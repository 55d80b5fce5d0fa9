//! `s3_paths.jsonl`: the syntax of S3 paths.

use cts_shared::s3_path::S3Path;
use serde_json::json;

use crate::loader::{assert_no_faults, rows};

#[test]
fn s3_paths() {
    let rows = rows("s3_paths.jsonl");
    let faults: Vec<String> = rows
        .iter()
        .filter_map(|row| {
            let text = row
                .input
                .as_str()
                .expect("the input of every row is a string");
            let actual = match S3Path::parse(text) {
                Ok(path) => json!({"ok": path.to_string()}),
                Err(error) => json!({"error": error.kind()}),
            };
            (actual != row.expect).then(|| {
                format!(
                    "{}: {text:?} gave {actual}, expected {}",
                    row.name, row.expect
                )
            })
        })
        .collect();
    assert_no_faults("s3_paths.jsonl", rows.len(), &faults);
}
