//! `job_flow.jsonl` through the routes: whole lives of jobs, with the service's clock where the rows have it.

use std::sync::{Arc, Mutex};

use cts_service::clock::Clock;
use cts_shared::timestamp::UtcTime;
use serde_json::{Value, json};

use crate::job_flow_decisions::{expected, sorted, time};
use crate::loader::{Row, equal, rows};
use crate::test_app::{Answer, TestApp};

const CRC_IN_S3: &str = "4ekt2WB1KO4=";
const SUBMITTED: &str = "2031-01-01T00:00:00Z";

/// A clock that stands still until it is set.
#[derive(Debug)]
struct SetClock(Mutex<UtcTime>);

impl Clock for SetClock {
    fn now(&self) -> UtcTime {
        *self.0.lock().unwrap()
    }
}

#[tokio::test]
async fn every_row() {
    let mut failures = Vec::new();
    let rows = rows("job_flow.jsonl");
    for row in &rows {
        if let Err(failure) = check(row).await {
            failures.push(format!("{}: {failure}", row.name));
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {} rows failed\n{}",
        failures.len(),
        rows.len(),
        failures.join("\n")
    );
}

async fn check(row: &Row) -> Result<(), String> {
    let clock = Arc::new(SetClock(Mutex::new(time(SUBMITTED))));
    let app = TestApp::with(|app| app.clock = Arc::clone(&clock) as _);
    app.register_image().await;
    store_outputs(&app, row);
    let containers = row.input["num_containers"].as_u64().unwrap();
    let id = app.submit(u32::try_from(containers).unwrap()).await;
    while app.state(&id).await != "download_submitted" {
        tokio::task::yield_now().await;
    }
    let expected = expected(row);
    let steps = row.input["steps"].as_array().unwrap();
    for (number, (step, expected)) in steps.iter().zip(&expected.steps).enumerate() {
        *clock.0.lock().unwrap() = time(step["service_time"].as_str().unwrap());
        let answer = take(&app, &id, step).await;
        app.finish_jobs().await;
        let mut actual = json!({"status": answer.status.as_u16()});
        if answer.status != 204 {
            actual["appcode"] = answer.json()["error"]["appcode"].clone();
        }
        actual["job_state"] = json!(app.state(&id).await);
        equal(
            &format!("step {number} {step}"),
            &sorted(actual),
            &sorted(expected.clone()),
        )?;
    }
    equal(
        "job",
        &job(&app, &id).await,
        &without_statistics(expected.job),
    )?;
    let codes = format!("/jobs/{id}/exit_codes");
    let exit_codes = app.get("alice", &codes).await.json()["exit_codes"].clone();
    equal("exit codes", &exit_codes, &row.expect["exit_codes"])?;
    let containers = format!("/admin/jobs/{id}/container");
    let containers = app.get("admin", &containers).await.json();
    let states: Vec<&Value> = containers["subjobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|container| &container["state"])
        .collect();
    equal(
        "container states",
        &json!(states),
        &row.expect["subjob_states"],
    )?;
    let events = app.app.outbox.events_after(None, None, 1000).await.unwrap();
    let messages: Vec<Value> = events
        .unwrap()
        .iter()
        .map(|event| json!({"state": event.state, "time": event.time}))
        .collect();
    equal("messages", &json!(messages), &expected.messages)
}

/// S3 as the row has it: every reported output is there with its checksum, but for those it names.
fn store_outputs(app: &TestApp, row: &Row) {
    for step in row.input["steps"].as_array().unwrap() {
        for output in step["body"]["outputs"].as_array().into_iter().flatten() {
            let path = output["file"].as_str().unwrap();
            let checksum = match row
                .input
                .get("s3_checksums")
                .and_then(|known| known.get(path))
            {
                Some(known) => known.as_str(),
                None => Some(CRC_IN_S3),
            };
            app.objects.insert(path, "x", checksum);
        }
    }
}

async fn take(app: &TestApp, id: &str, step: &Value) -> Answer {
    if step["op"] == "cancel" {
        let path = format!("/jobs/{id}/cancel");
        return app.call("alice", "PUT", &path, None).await;
    }
    let container = u32::try_from(step["container"].as_u64().unwrap()).unwrap();
    let state = step["state"].as_str().unwrap();
    app.update(id, container, state, step["body"].clone()).await
}

/// The job as the rows write it.
async fn job(app: &TestApp, id: &str) -> Value {
    let job = app.get("admin", &format!("/admin/jobs/{id}")).await.json();
    let mut shown = json!({
        "state": job["state"],
        "has_error": job.get("error").is_some(),
        "has_admin_error": job.get("admin_error").is_some(),
        "transitions": job["transition_times"].as_array().unwrap().iter()
            .map(|one| json!({"state": one["state"], "time": one["time"]}))
            .collect::<Vec<_>>(),
    });
    for name in ["outputs", "output_file_count", "logpath"] {
        if let Some(value) = job.get(name) {
            let text = value
                .to_string()
                .replace("cts/logs", "logs/x")
                .replace(id, "<job>");
            shown[name] = serde_json::from_str(&text).unwrap();
        }
    }
    sorted(shown)
}

/// The site of these tests measures nothing.
fn without_statistics(mut job: Value) -> Value {
    let members = job.as_object_mut().unwrap();
    members.retain(|name, _| !matches!(&**name, "cpu_hours" | "cpu_factor" | "max_memory"));
    job
}
