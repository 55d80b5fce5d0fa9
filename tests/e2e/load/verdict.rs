//! What a stored job must look like, given what its clients were answered.
//!
//! The table of legal steps is written down here once more, from the contract (service.md, section 5.1 with
//! decisions 5 to 7), so that it is not the service's own table that judges the service.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use jiff::Timestamp;
use serde_json::Value;

use super::{ContainerStory, JobStory};

const NOT_TERMINAL: [&str; 8] = [
    "created",
    "download_submitted",
    "job_submitting",
    "job_submitted",
    "upload_submitting",
    "upload_submitted",
    "error_processing_submitting",
    "error_processing_submitted",
];

/// A new state, and those it may follow.
const STEPS: [(&str, &[&str]); 12] = [
    ("created", &[]),
    ("download_submitted", &["created"]),
    ("job_submitting", &["download_submitted"]),
    ("job_submitted", &["job_submitting"]),
    ("upload_submitting", &["job_submitted"]),
    ("upload_submitted", &["upload_submitting"]),
    ("complete", &["upload_submitted"]),
    ("error_processing_submitting", &["job_submitted"]),
    (
        "error_processing_submitted",
        &["error_processing_submitting"],
    ),
    ("error", &NOT_TERMINAL),
    ("canceling", &NOT_TERMINAL),
    ("canceled", &["canceling"]),
];

/// How the site words the end of a container whose executor it lost.
const LOST_EXECUTOR: &str = "the executor of container";

pub(crate) fn is_terminal(state: &str) -> bool {
    ["complete", "error", "canceled"].contains(&state)
}

/// What all jobs together came to.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    transition_ids: HashSet<String>,
    jobs: BTreeMap<String, u32>,
    reports: usize,
    lost_executors: usize,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "jobs by state {:?}, {} reports stored, {} executors lost by the site",
            self.jobs, self.reports, self.lost_executors
        )
    }
}

impl Verdict {
    /// Compares a job that has ended with what its clients were told. Panics at the first contradiction.
    pub(crate) fn judge(&mut self, story: &JobStory, job: &Value, containers: &[Value]) {
        let whole = || {
            let containers = Value::from(containers.to_vec());
            format!("\n{story:#?}\njob: {job:#}\ncontainers: {containers:#}")
        };
        let check = |holds: bool, rule: &str| assert!(holds, "{rule}{}", whole());
        let states = history(job).unwrap_or_else(|problem| panic!("job: {problem}{}", whole()));
        for id in transition_ids(job) {
            check(
                self.transition_ids.insert(id),
                "a transition id is used twice",
            );
        }
        let end = states.last().copied().unwrap_or_default();
        check(
            is_terminal(end) && job["state"] == end,
            "the job's state is its last transition, and terminal",
        );
        check(
            containers.len() == story.containers.len(),
            "the number of containers",
        );
        for (told, stored) in story.containers.iter().zip(containers) {
            if let Err(problem) = self.judge_container(told, stored) {
                panic!("container {}: {problem}{}", stored["sub_id"], whole());
            }
        }

        let canceling = states.contains(&"canceling");
        check(
            canceling == (end == "canceled"),
            "a job that entered canceling ends in canceled",
        );
        match &story.cancel {
            None => check(!canceling, "a job nobody canceled is not canceled"),
            Some(cancel) if cancel.accepted => check(canceling, "an accepted cancel is stored"),
            // An earlier try that was cut off may have been the one that canceled the job.
            Some(cancel) => check(
                !canceling || cancel.repeated,
                "a refused cancel changes nothing",
            ),
        }
        if !canceling {
            let failed = containers
                .iter()
                .any(|container| container["state"] == "error");
            let expected = if failed { "error" } else { "complete" };
            check(
                end == expected,
                "the job's end follows from its containers' ends",
            );
        }
        if end == "complete" {
            let mut named: Vec<_> = story.containers.iter().flat_map(|c| &c.output).collect();
            let outputs = job["outputs"].as_array().cloned().unwrap_or_default();
            let mut stored: Vec<_> = outputs.iter().flat_map(|o| o["file"].as_str()).collect();
            named.sort();
            stored.sort_unstable();
            check(named == stored, "the job's outputs are its containers'");
        }
        *self.jobs.entry(end.to_owned()).or_default() += 1;
    }

    fn judge_container(&mut self, told: &ContainerStory, stored: &Value) -> Result<(), String> {
        let mut states = history(stored)?;
        if stored["state"] != states.last().copied().unwrap_or_default() {
            return Err("its state is not its last transition".to_owned());
        }
        if states.iter().any(|state| state.starts_with("cancel")) {
            return Err("containers are never canceled".to_owned());
        }
        let error = stored["admin_error"].as_str().unwrap_or_default();
        if states.last() == Some(&"error") && error.starts_with(LOST_EXECUTOR) {
            self.lost_executors += 1;
            states.pop();
        } else if let Some(refusal) = &told.refused {
            return Err(format!("a report was refused without need: {refusal}"));
        }
        let expected: Vec<&str> = ["created", "download_submitted"]
            .into_iter()
            .chain(told.taken.iter().copied())
            .collect();
        if states != expected {
            return Err(format!("has {states:?}, was told {expected:?}"));
        }
        if stored["exit_code"].as_i64() != told.exit_code {
            return Err("has another exit code than was reported".to_owned());
        }
        self.reports += told.taken.len();
        Ok(())
    }

    /// A run in which nothing was canceled, or nothing failed, would prove little.
    pub(crate) fn assert_saw_everything(&self) {
        for state in ["complete", "error", "canceled"] {
            assert!(self.jobs.contains_key(state), "no job ended in {state}");
        }
    }
}

/// The states of a job or container, after the checks that hold for both: legal steps, no state twice,
/// times that never go back.
fn history(record: &Value) -> Result<Vec<&str>, String> {
    let transitions = record["transition_times"].as_array();
    let mut states: Vec<&str> = Vec::new();
    let mut last_time = Timestamp::MIN;
    for transition in transitions.into_iter().flatten() {
        let state = transition["state"].as_str().unwrap_or_default();
        let before = STEPS.iter().find(|(name, _)| *name == state);
        let (_, before) = before.ok_or_else(|| format!("{state} is no state"))?;
        let legal = match states.last() {
            None => before.is_empty(),
            Some(last) => before.contains(last),
        };
        if !legal || states.contains(&state) {
            return Err(format!("{state} cannot follow {states:?}"));
        }
        let time = transition["time"].as_str().unwrap_or_default();
        let time: Timestamp = time.parse().map_err(|error| format!("{time}: {error}"))?;
        if time < last_time {
            return Err(format!("the time of {state} is before the previous one"));
        }
        last_time = time;
        states.push(state);
    }
    Ok(states)
}

fn transition_ids(job: &Value) -> impl Iterator<Item = String> {
    let transitions = job["transition_times"].as_array().into_iter().flatten();
    transitions.map(|transition| {
        transition["trans_id"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    })
}
