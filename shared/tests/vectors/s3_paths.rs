//! `s3_paths.jsonl`: the syntax of S3 paths.

use cts_shared::s3_path::S3Path;
use serde_json::json;

use crate::loader::{equal, run};

#[test]
fn s3_paths() {
    run("s3_paths.jsonl", |row| {
        let text = row.input.as_str().ok_or("the input is no text")?;
        let actual = match S3Path::parse(text) {
            Ok(parsed) => json!({"ok": parsed.to_string()}),
            Err(error) => json!({"error": error.kind()}),
        };
        equal(text, &actual, &row.expect)
    });
}
