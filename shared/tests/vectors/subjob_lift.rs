//! `subjob_lift.jsonl`: whether the job moves after a container did.

use cts_shared::state::JobState;
use cts_shared::state::lift::lift;
use cts_shared::timestamp::UtcTime;
use serde_json::{Value, json};

use crate::loader::{equal, run};

#[test]
fn vectors() {
    run("subjob_lift.jsonl", |row| {
        let num_containers = u32::try_from(row.input["num_containers"].as_u64().unwrap()).unwrap();
        let state: JobState = serde_json::from_value(row.input["new_state"].clone()).unwrap();
        let containers: Vec<Vec<(JobState, UtcTime)>> = row.input["subjobs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|transitions| {
                transitions
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(transition)
                    .collect()
            })
            .collect();
        let actual = match lift(num_containers, state, containers) {
            Ok(None) => json!({"update": null}),
            Ok(Some(lift)) => json!({"update": {"state": lift.state, "time": lift.time}}),
            Err(error) => json!({"error": error.kind()}),
        };
        let mut expected = row.expect.clone();
        if expected["update"].is_object() {
            let (state, time) = transition(&expected["update"]);
            expected = json!({"update": {"state": state, "time": time}});
        }
        equal("lift", &actual, &expected)
    });
}

fn transition(value: &Value) -> (JobState, UtcTime) {
    (
        serde_json::from_value(value["state"].clone()).unwrap(),
        serde_json::from_value(value["time"].clone()).unwrap(),
    )
}
