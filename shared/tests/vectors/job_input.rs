//! `job_input.jsonl`: the rules of a job submission.

use std::collections::BTreeSet;

use cts_shared::job_input::{ILLEGAL_S3_PATH, JobInput};
use cts_shared::wire::error::ValidationDetail;
use serde_json::{Value, json};

use crate::job_input_decisions::{Decision, with_sorted_roots};
use crate::loader::{Row, run};

#[test]
fn job_input() {
    run("job_input.jsonl", |row| difference(row).map_or(Ok(()), Err));
}

/// What differs from the row, or from the decision that stands above it.
fn difference(row: &Row) -> Option<String> {
    let actual = JobInput::from_json(&row.input);
    if let Some(decision) = Decision::of(row) {
        return decision.difference(actual);
    }
    match (actual, row.expect["accepted"] == true) {
        (Ok(job_input), true) => normalisation_difference(&job_input, &row.expect["normalized"]),
        (Err(details), false) => rejection_difference(&details, &row.expect),
        (Ok(_), false) => Some(format!("accepted, expected {}", row.expect)),
        (Err(details), true) => Some(format!("rejected with {details:?}")),
    }
}

/// Compares the normalised input, and checks that it stays the same when it is read again.
fn normalisation_difference(job_input: &JobInput, expected: &Value) -> Option<String> {
    let written = serde_json::to_value(job_input).unwrap();
    let checked_again = JobInput::from_json(&written);
    if checked_again.as_ref() != Ok(job_input) {
        return Some(format!(
            "became another when checked again: {checked_again:?}"
        ));
    }
    let read_again: JobInput = serde_json::from_value(written.clone()).unwrap();
    if read_again != *job_input {
        return Some(format!("became another when read again: {read_again:?}"));
    }
    let actual = with_sorted_roots(written);
    let expected = with_sorted_roots(expected.clone());
    (actual != expected).then(|| format!("normalized to\n    {actual}\n  expected\n    {expected}"))
}

/// Compares the places and kinds of faults. Rows with status 500 have none: any will do.
fn rejection_difference(details: &[ValidationDetail], expect: &Value) -> Option<String> {
    if expect["status"] == 500 {
        return details.is_empty().then(|| "no faults".to_owned());
    }
    let mut locs: Vec<Value> = details.iter().map(|d| Value::from(d.loc.clone())).collect();
    locs.dedup();
    let types: BTreeSet<&str> = details.iter().map(|detail| detail.kind.as_str()).collect();
    let actual = json!({"locs": locs, "types": types});
    let expected = json!({"locs": expect["locs"], "types": expect["types"]});
    (actual != expected).then(|| format!("rejected with\n    {actual}\n  expected\n    {expected}"))
}

impl Decision {
    fn difference(&self, actual: Result<JobInput, Vec<ValidationDetail>>) -> Option<String> {
        let Err(details) = actual else {
            return Some("accepted against the decision".to_owned());
        };
        let as_decided = match self {
            Self::UnsafeSegments => details.iter().all(|detail| detail.kind == ILLEGAL_S3_PATH),
            Self::MissingFormat(index) => details.iter().any(|detail| {
                let loc = Value::from(detail.loc.clone());
                detail.kind == "value_error"
                    && loc.as_array().unwrap().starts_with(&[
                        json!("body"),
                        json!("params"),
                        json!("args"),
                        json!(index),
                    ])
            }),
        };
        (!as_decided).then(|| format!("rejected for another reason: {details:?}"))
    }
}
