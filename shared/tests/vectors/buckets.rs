//! `buckets.jsonl`: the rules of bucket names.

use cts_shared::s3_path::Bucket;
use serde_json::json;

use crate::loader::{equal, run};

#[test]
fn buckets() {
    run("buckets.jsonl", |row| {
        let text = row.input.as_str().ok_or("the input is no text")?;
        let actual = match Bucket::parse(text) {
            Ok(parsed) => json!({"ok": parsed.to_string()}),
            Err(error) => json!({"error": error.kind()}),
        };
        equal(text, &actual, &row.expect)
    });
}
