//! `job_flow.jsonl`: whole lives of jobs.
//! Scored as [`crate::job_flow_decisions`] says.

use std::collections::HashMap;

use cts_shared::state::JobState;
use cts_shared::state::job_flow::{
    Change, ContainerReport, Evidence, JobRecord, Refusal, Statistics, Transition,
};
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::container::ContainerUpdate;
use serde_json::{Value, json};

use crate::job_flow_decisions::{expected, sorted, time};
use crate::loader::{Row, equal, run};

const CRC_IN_S3: &str = "4ekt2WB1KO4=";

#[test]
fn vectors() {
    run("job_flow.jsonl", check);
}

fn check(row: &Row) -> Result<(), String> {
    let mut flow = Flow::submit(row);
    let expected = expected(row);
    for (number, (step, expected)) in row.input["steps"]
        .as_array()
        .unwrap()
        .iter()
        .zip(&expected.steps)
        .enumerate()
    {
        let actual = flow.step(step);
        equal(&format!("step {number} {step}"), &actual, expected)?;
    }
    equal("job", &flow.job(), &expected.job)?;
    let record = &flow.record;
    let exit_codes: Vec<_> = record.containers.iter().map(|one| one.exit_code).collect();
    equal("exit codes", &json!(exit_codes), &row.expect["exit_codes"])?;
    let states: Vec<_> = record.containers.iter().map(|one| one.state()).collect();
    equal(
        "container states",
        &json!(states),
        &row.expect["subjob_states"],
    )?;
    equal("messages", &json!(flow.messages), &expected.messages)?;
    flow.check_times()
}

/// A service of one job.
struct Flow {
    record: JobRecord,
    messages: Vec<Value>,
    checksums: HashMap<String, Option<String>>,
    /// Container, state, reported time of every update taken.
    taken: Vec<(usize, JobState, UtcTime)>,
}

impl Flow {
    fn submit(row: &Row) -> Self {
        let submitted = time("2031-01-01T00:00:00Z");
        let num_containers = u32::try_from(row.input["num_containers"].as_u64().unwrap()).unwrap();
        let record = JobRecord::new(num_containers, submitted);
        let checksums = row
            .input
            .get("s3_checksums")
            .cloned()
            .unwrap_or_else(|| json!({}));
        let mut flow = Self {
            messages: record.transitions.iter().map(message).collect(),
            record,
            checksums: serde_json::from_value(checksums).unwrap(),
            taken: Vec::new(),
        };
        let queued = flow.record.queued(submitted).unwrap();
        flow.note(&queued);
        flow
    }

    fn note(&mut self, change: &Change) {
        self.messages.extend(change.transitions.iter().map(message));
        assert_eq!(change.pending, self.record.pending());
    }

    fn step(&mut self, step: &Value) -> Value {
        let now = time(step["service_time"].as_str().unwrap());
        let before = self.record.clone();
        let result = if step["op"] == "cancel" {
            self.record.cancel(now)
        } else {
            let body: ContainerUpdate = serde_json::from_value(step["body"].clone()).unwrap();
            let state = serde_json::from_value(step["state"].clone()).unwrap();
            let report = ContainerReport::new(state, time(&body.time), body);
            let container = u32::try_from(step["container"].as_u64().unwrap()).unwrap();
            let result = self.record.apply_report(container, &report);
            if result
                .as_ref()
                .is_ok_and(|change| change.container.is_some())
            {
                self.taken
                    .push((container as usize, report.state, report.time));
            }
            result
        };
        match result {
            Ok(change) => {
                assert_eq!(change.is_empty(), self.record == before);
                self.note(&change);
                self.finish(now);
                json!({"status": 204, "job_state": self.record.state()})
            }
            Err(refusal) => {
                assert!(
                    self.record == before,
                    "a refusal changed the record: {refusal}"
                );
                let mut answer = refusal_answer(&refusal);
                answer["job_state"] = json!(self.record.state());
                answer
            }
        }
    }

    /// The background work, with what S3 and HTCondor answer in the rows.
    fn finish(&mut self, now: UtcTime) {
        let mut checksums = HashMap::new();
        for output in self.record.merged_outputs() {
            let stored = match self.checksums.get(&output.file) {
                Some(stored) => stored.clone(),
                None => Some(CRC_IN_S3.to_owned()),
            };
            checksums.extend(stored.map(|stored| (output.file, stored)));
        }
        let evidence = Evidence {
            statistics: Statistics {
                cpu_hours: Some(1.0),
                cpu_factor: Some(0.5),
                max_memory: Some(100 * 1024 * 1024),
            },
            statistics_due: false,
            checksums: &checksums,
            log_path: "logs/x/<job>",
            logs_stored: false,
        };
        let change = self.record.finish(&evidence, now).unwrap();
        self.note(&change);
        assert_eq!(self.record.pending(), None);
        let again = self.record.finish(&evidence, now).unwrap();
        assert!(again.is_empty(), "finishing twice changed {again:?}");
    }

    fn job(&self) -> Value {
        let mut job = serde_json::to_value(&self.record.outcome).unwrap();
        let members = job.as_object_mut().unwrap();
        let has_error = members.remove("error").is_some();
        let has_admin_error = members.remove("admin_error").is_some();
        job["has_error"] = json!(has_error);
        job["has_admin_error"] = json!(has_admin_error);
        job["state"] = json!(self.record.state());
        job["transitions"] = self.record.transitions.iter().map(message).collect();
        sorted(job)
    }

    /// Decision 6: no history goes back in time, and what was reported is kept.
    fn check_times(&self) -> Result<(), String> {
        let containers = self.record.containers.iter().map(|one| &one.transitions);
        for history in containers.chain([&self.record.transitions]) {
            if !history.is_sorted_by_key(|entry| entry.time) {
                return Err(format!("times go back: {history:?}"));
            }
        }
        for (container, state, reported) in &self.taken {
            let entry = self.record.containers[*container]
                .transitions
                .iter()
                .find(|entry| entry.state == *state)
                .unwrap();
            equal("reported time", &entry.reported(), reported)?;
        }
        Ok(())
    }
}

fn refusal_answer(refusal: &Refusal) -> Value {
    match refusal.error_code() {
        Some(code) => json!({"status": code.http_status(), "appcode": code.code()}),
        None => json!({"status": 500}),
    }
}

fn message(entry: &Transition) -> Value {
    json!({"state": entry.state, "time": entry.time})
}
