//! `condor_stats.jsonl`: what a job used.

use cts_service::condor::proc_ad::ProcAd;
use cts_service::condor::statistics::{all_held, statistics};

use crate::loader::{equal, run};

#[test]
fn vectors() {
    run("condor_stats.jsonl", |row| {
        let ads: Vec<ProcAd> = serde_json::from_value(row.input["ads"].clone()).unwrap();
        let cpus = u32::try_from(row.input["cpus"].as_u64().unwrap()).unwrap();
        let actual = statistics(&ads, &[], cpus);
        close(
            "cpu_hours",
            actual.cpu_hours,
            row.expect["cpu_hours"].as_f64(),
        )?;
        close(
            "cpu_factor",
            actual.cpu_factor,
            row.expect["cpu_factor"].as_f64(),
        )?;
        equal(
            "max_memory",
            &actual.max_memory,
            &row.expect["max_memory"].as_u64(),
        )?;
        equal(
            "all_held",
            &Some(all_held(&ads)),
            &row.expect["all_held"].as_bool(),
        )
    });
}

fn close(what: &str, actual: Option<f64>, expected: Option<f64>) -> Result<(), String> {
    match (actual, expected) {
        (Some(actual), Some(expected)) if (actual - expected).abs() <= expected.abs() * 1e-9 => {
            Ok(())
        }
        (actual, expected) => equal(what, &actual, &expected),
    }
}
