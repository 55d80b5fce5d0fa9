//! What `job_flow.jsonl` shows, changed by the decisions:
//! - decision 5: a refused (404, 40050) update that equals an accepted one is a success;
//! - decision 6: where all containers have ended but a clock that is ahead keeps the job from ending,
//!   the job ends as its containers demand, at the time of its last transition;
//! - decision 7: a refused (404, 40040) container update after the cancel is a success;
//! - decision 9: 500 for missing data is 400 with code 30001.

use cts_shared::state::JobState;
use cts_shared::timestamp::UtcTime;
use serde_json::{Value, json};

use crate::loader::Row;

/// What comes out of a row's steps.
pub(crate) struct Expected {
    /// Status, application code, and the job's state after each step.
    pub(crate) steps: Vec<Value>,
    /// The job at the end.
    pub(crate) job: Value,
    /// All notifications.
    pub(crate) messages: Value,
}

/// What the row shows, changed by the decisions.
pub(crate) fn expected(row: &Row) -> Expected {
    let inputs = row.input["steps"].as_array().unwrap();
    let mut steps = row.expect["steps"].as_array().unwrap().clone();
    let mut canceled = false;
    for number in 0..steps.len() {
        let state = steps[number]["job_state"].clone();
        let success = json!({"status": 204, "job_state": state});
        let update = inputs[number]["op"] == "update";
        let same_as_before = (0..number).any(|earlier| {
            ["container", "state", "body"]
                .iter()
                .all(|key| inputs[earlier][key] == inputs[number][key])
                && steps[earlier]["status"] == 204
        });
        let appcode = &steps[number]["appcode"];
        if update && ((appcode == 40050 && same_as_before) || (appcode == 40040 && canceled)) {
            steps[number] = success;
        } else if steps[number]["status"] == 500 {
            steps[number] = json!({"status": 400, "appcode": 30001, "job_state": state});
        }
        canceled |= inputs[number]["op"] == "cancel" && steps[number]["status"] == 204;
    }
    let mut job = row.expect["job"].clone();
    let mut messages = row.expect["messages"].clone();
    for entry in messages.as_array_mut().unwrap() {
        entry["time"] = json!(time(entry["time"].as_str().unwrap()));
    }
    for entry in job["transitions"].as_array_mut().unwrap() {
        entry["time"] = json!(time(entry["time"].as_str().unwrap()));
    }
    let ended = |state: &Value| {
        serde_json::from_value::<JobState>(state.clone())
            .unwrap()
            .is_terminal()
    };
    let containers = row.expect["subjob_states"].as_array().unwrap();
    if !ended(&job["state"]) && containers.iter().all(ended) {
        let failed = containers.iter().any(|state| state == "error");
        assert!(
            failed,
            "{}: completing needs outputs, which this rule does not make up",
            row.name
        );
        let last = job["transitions"].as_array().unwrap().last().unwrap()["time"].clone();
        let end = json!({"state": "error", "time": last});
        messages.as_array_mut().unwrap().push(end.clone());
        job["transitions"].as_array_mut().unwrap().push(end);
        job["state"] = json!("error");
        job["has_error"] = json!(true);
        job["has_admin_error"] = json!(true);
        job["cpu_hours"] = json!(1.0);
        job["cpu_factor"] = json!(0.5);
        job["max_memory"] = json!(100 * 1024 * 1024);
        if row.expect["exit_codes"]
            .as_array()
            .unwrap()
            .iter()
            .any(|code| code.as_i64() > Some(0))
        {
            job["logpath"] = json!("logs/x/<job>");
        }
        steps.last_mut().unwrap()["job_state"] = json!("error");
    }
    Expected {
        steps,
        job: sorted(job),
        messages,
    }
}

/// Members in alphabetical order, so that a failure is easy to read.
pub(crate) fn sorted(value: Value) -> Value {
    let Value::Object(members) = value else {
        return value;
    };
    let mut members: Vec<_> = members.into_iter().collect();
    members.sort_by(|a, b| a.0.cmp(&b.0));
    Value::Object(members.into_iter().collect())
}

/// A time as the rows write it.
pub(crate) fn time(text: &str) -> UtcTime {
    serde_json::from_value(json!(text)).unwrap()
}
