//! Reads the admin view of a job so that a malformed one is reported with the place of the fault.

use serde_json::{Map, Value};

use super::{AdminJob, HtcondorDetails, S3File, StateTransition};
use crate::job_input::JobInput;
use crate::state::JobState;
use crate::validation::scalars::by_serde;
use crate::validation::{Checked, Faults, Members, list};
use crate::wire::image::JobImage;

/// The document is not the admin view of a job.
#[derive(Debug, thiserror::Error)]
pub enum InvalidJob {
    /// No JSON.
    #[error("the job document is not JSON; save the answer of GET /admin/jobs/{{id}} unchanged")]
    Syntax(#[source] serde_json::Error),
    /// JSON, but not of a job, or of one that this system refuses.
    #[error("the job document is not valid{}: {message}{}", at(path), and_more(*more))]
    Content {
        /// Where: `job_input.params.args[2].type`. Empty for the whole document.
        path: String,
        /// What is wrong and what to do.
        message: String,
        /// Number of further faults.
        more: usize,
    },
}

fn at(path: &str) -> String {
    if path.is_empty() {
        String::new()
    } else {
        format!(" at {path}")
    }
}

fn and_more(more: usize) -> String {
    if more == 0 {
        String::new()
    } else {
        format!(" (and {more} more)")
    }
}

impl From<Faults> for InvalidJob {
    fn from(faults: Faults) -> Self {
        let (path, message) = faults
            .most_telling()
            .map_or_else(Default::default, |fault| {
                (fault.json_path(), fault.message().to_owned())
            });
        Self::Content {
            path,
            message,
            more: faults.len().saturating_sub(1),
        }
    }
}

impl AdminJob {
    /// Reads the answer of `GET /admin/jobs/{id}`. The job input must obey the rules of a
    /// submission, because an executor acts on it; members not known, of newer services or other
    /// sites, are passed over.
    ///
    /// # Errors
    ///
    /// With the place and the words of the fault that tells most.
    pub fn from_json(document: &[u8]) -> Result<Self, InvalidJob> {
        let mut document: Value = serde_json::from_slice(document).map_err(InvalidJob::Syntax)?;
        let job_input = check(&document)?;
        let normalised = serde_json::to_value(job_input).map_err(InvalidJob::Syntax)?;
        document["job_input"] = normalised;
        Ok(by_serde(&document)?)
    }
}

/// Looks at each member by itself, for the place of its faults; gives the job input.
fn check(document: &Value) -> Checked<JobInput> {
    let mut members = Members::of(document)?;
    members.required("id", by_serde::<String>);
    members.required("state", by_serde::<JobState>);
    members.required("transition_times", |value| {
        list(value, by_serde::<StateTransition>)
    });
    members.required("user", by_serde::<String>);
    members.defaulted("admin_meta", Map::new(), by_serde);
    let job_input = members.required("job_input", JobInput::check);
    members.required("image", by_serde::<JobImage>);
    members.required("input_file_count", by_serde::<u64>);
    members.optional("cpu_hours", by_serde::<f64>);
    members.optional("cpu_factor", by_serde::<f64>);
    members.optional("max_memory", by_serde::<u64>);
    members.optional("output_file_count", by_serde::<u64>);
    for text in ["error", "logpath", "admin_error", "traceback"] {
        members.optional(text, by_serde::<String>);
    }
    members.optional("outputs", |value| list(value, by_serde::<S3File>));
    members.defaulted("cleaned", false, by_serde);
    members.optional("htcondor_details", by_serde::<HtcondorDetails>);
    let faults = members.finish_open();
    match job_input {
        Some(job_input) if faults.is_empty() => Ok(job_input),
        _ => Err(faults),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document() -> Value {
        json!({
            "id": "986e5df7-f7f3-48d3-b388-29346ddb6656",
            "state": "download_submitted",
            "transition_times": [{
                "state": "created",
                "time": "2026-11-22T07:36:02.261000Z",
                "trans_id": "48ec08e1-d6a0-4358-9b30-0a51ecfb372f",
                "notif_sent": true,
            }],
            "user": "alice",
            "admin_meta": {"a": 1},
            "job_input": {
                "cluster": "kbase",
                "image": "ghcr.io/kbase/sh:1",
                "params": {
                    "input_mount_point": "/input_files",
                    "output_mount_point": "/output_files",
                    "declobber": false,
                    "args": ["noop", {"type": "input_files", "input_files_format": "repeat_parameter", "flag": "-i"}],
                },
                "num_containers": 1,
                "cpus": 1,
                "memory": 100_000_000,
                "runtime": "PT5M",
                "output_dir": "cts/out/",
                "input_files": [{"file": "cts/in/a.txt", "crc64nvme": "6YwqZlRfOM4="}],
            },
            "image": {
                "registered_by": "admin",
                "registered_on": "2026-11-22T07:36:01Z",
                "name": "ghcr.io/kbase/sh",
                "digest": "sha256:ab",
                "entrypoint": ["/bin/sh"],
                "tag": "1",
            },
            "input_file_count": 1,
            "cleaned": false,
            "htcondor_details": {"cluster_id": [9]},
        })
    }

    fn read(document: &Value) -> Result<AdminJob, InvalidJob> {
        AdminJob::from_json(document.to_string().as_bytes())
    }

    #[test]
    fn reads_and_writes_what_the_service_returns() {
        let job = read(&document()).unwrap();
        assert_eq!(serde_json::to_value(job).unwrap(), document());
    }

    #[test]
    fn passes_over_members_of_newer_services() {
        let mut newer = document();
        newer["attempt"] = json!({"number": 2});
        newer["image"]["urls"] = json!([]);
        newer["transition_times"][0]["attempt"] = json!(1);
        newer["cpu_hours"] = Value::Null;
        assert_eq!(read(&newer).unwrap(), read(&document()).unwrap());
    }

    #[test]
    fn names_the_place_of_a_fault() {
        for (pointer, value, expected) in [
            (
                "/job_input/params/args/1/type",
                json!("x"),
                "the job document is not valid at job_input.params.args[1].type: give one of \
                 input_files, manifest_file, container_number (and 2 more)",
            ),
            (
                "/job_input/params/args/0",
                json!("a b"),
                "the job document is not valid at job_input.params.args[0]: give a text of \
                 letters, digits and _./-, not starting with a hyphen (and 2 more)",
            ),
            (
                "/job_input/input_files/0/file",
                json!("cts/in/../a"),
                "the job document is not valid at job_input.input_files[0].file: \"cts/in/../a\" has \
                 the segment \"..\"; rename the object so that each part between slashes is a file \
                 name",
            ),
            (
                "/job_input/runtime",
                json!("5m"),
                "the job document is not valid at job_input.runtime: give seconds as a number, \
                 or a duration such as \"PT1H30M\" or \"01:30:00\"",
            ),
            (
                "/image",
                json!({}),
                "the job document is not valid at image: missing field `registered_by`",
            ),
            (
                "/transition_times/0/time",
                json!("yesterday"),
                "the job document is not valid at transition_times[0]: \"yesterday\" is not a time; \
                 give an ISO 8601 time such as \"2031-02-03T04:05:06Z\", or seconds since the epoch",
            ),
        ] {
            let mut document = document();
            *document.pointer_mut(pointer).unwrap() = value;
            assert_eq!(read(&document).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn names_what_is_missing() {
        let mut document = document();
        document["job_input"]
            .as_object_mut()
            .unwrap()
            .remove("params");
        assert_eq!(
            read(&document).unwrap_err().to_string(),
            "the job document is not valid at job_input.params: give \"params\""
        );
        assert_eq!(
            read(&json!([])).unwrap_err().to_string(),
            "the job document is not valid: give a JSON object"
        );
        assert!(matches!(
            AdminJob::from_json(b"{"),
            Err(InvalidJob::Syntax(_))
        ));
    }
}
