//! `buckets.jsonl`: the rules of bucket names.

use cts_shared::s3_path::Bucket;
use serde_json::json;

use crate::loader::{assert_no_faults, rows};

#[test]
fn buckets() {
    let rows = rows("buckets.jsonl");
    let faults: Vec<String> = rows
        .iter()
        .filter_map(|row| {
            let text = row
                .input
                .as_str()
                .expect("the input of every row is a string");
            let actual = match Bucket::parse(text) {
                Ok(bucket) => json!({"ok": bucket.to_string()}),
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
    assert_no_faults("buckets.jsonl", rows.len(), &faults);
}
