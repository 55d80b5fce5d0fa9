//! `/external_exec`: what executors report.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use serde_json::Value;

use cts_shared::job_input::rules::CHECKSUM;
use cts_shared::job_input::s3_path;
use cts_shared::state::job_flow::ContainerReport;
use cts_shared::timestamp::UtcTime;
use cts_shared::validation::scalars::{any_text, integer};
use cts_shared::validation::times::time;
use cts_shared::validation::{Checked, Members, list};
use cts_shared::wire::container::{ContainerUpdate, ContainerUsage};
use cts_shared::wire::job::S3File;

use crate::app::App;
use crate::identity::Role;
use crate::jobs;

use super::checks::Checks;
use super::error::ApiError;
use super::extract::{JsonBody, PathParams};
use super::parameters;
use super::request_context::Caller;

/// `PUT /external_exec/jobs/{job_id}/container/{container_num}/update/{new_state}`
pub async fn update_container(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams((job_id, container, state)): PathParams<(String, String, String)>,
    body: JsonBody,
) -> Result<StatusCode, ApiError> {
    let user = caller.user()?;
    let mut checks = Checks::default();
    let (Some(job_id), Some(container), Some(state), Some(update)) = (
        checks.path("job_id", &job_id, parameters::id),
        checks.path("container_num", &container, parameters::container_number),
        checks.path("new_state", &state, parameters::state),
        checks.body(&body, container_update),
    ) else {
        return Err(checks.refuse());
    };
    user.require_any(&[Role::ExternalExecutor])?;
    let id = jobs::job_id(&job_id)?;
    let (time, update) = update;
    let report = ContainerReport::new(state, time, update);
    jobs::report::report_container(&app, id, container, report).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Reads the body of an update, and the time in it.
fn container_update(body: &Value) -> Checked<(UtcTime, ContainerUpdate)> {
    let text = |value: &Value| any_text(value).map(str::to_owned);
    let mut members = Members::of(body)?;
    let time = members.required("time", time);
    let exit_code = members.optional("exit_code", |value| integer(value, i64::MIN..=i64::MAX));
    let outputs = members.optional("outputs", |value| list(value, output));
    let admin_error = members.optional("admin_error", text);
    let traceback = members.optional("traceback", text);
    let attempt = members.optional("attempt", |value| integer(value, 1..=u32::MAX));
    let usage = members.optional("usage", usage);
    let faults = members.finish_open();
    match (
        time,
        exit_code,
        outputs,
        admin_error,
        traceback,
        attempt,
        usage,
    ) {
        (
            Some(time),
            Some(exit_code),
            Some(outputs),
            Some(admin_error),
            Some(traceback),
            Some(attempt),
            Some(usage),
        ) => {
            let update = ContainerUpdate {
                time: time.to_offset_string(),
                exit_code,
                outputs,
                admin_error,
                traceback,
                attempt,
                usage,
            };
            Ok((time, update))
        }
        _ => Err(faults),
    }
}

fn usage(value: &Value) -> Checked<ContainerUsage> {
    let amount = |value: &Value| integer(value, 0..=u64::MAX);
    let mut members = Members::of(value)?;
    let cpu_ms = members.optional("cpu_ms", amount);
    let wall_ms = members.optional("wall_ms", amount);
    let max_memory_bytes = members.optional("max_memory_bytes", amount);
    let faults = members.finish_open();
    match (cpu_ms, wall_ms, max_memory_bytes) {
        (Some(cpu_ms), Some(wall_ms), Some(max_memory_bytes)) => Ok(ContainerUsage {
            cpu_ms,
            wall_ms,
            max_memory_bytes,
        }),
        _ => Err(faults),
    }
}

fn output(value: &Value) -> Checked<S3File> {
    let mut members = Members::of(value)?;
    let file = members.required("file", s3_path);
    let crc64nvme = members.optional("crc64nvme", |value| CHECKSUM.check(value));
    let faults = members.finish();
    match (file, crc64nvme) {
        (Some(file), Some(crc64nvme)) if faults.is_empty() => Ok(S3File { file, crc64nvme }),
        _ => Err(faults),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_fault_has_its_place() {
        let body = json!({
            "exit_code": "x",
            "outputs": [
                {"file": "buk/a"}, {"file": "nope"}, 1, {"file": "buk/b", "more": 1}, {"file": 1},
            ],
            "admin_error": 3,
            "attempt": 0,
            "usage": {"cpu_ms": -1, "wall_ms": "soon", "max_memory_bytes": 0.5, "more": "too"},
            "more": "is passed over",
        });
        let faults = container_update(&body).unwrap_err().into_details("body");
        let found: Vec<_> = faults
            .iter()
            .map(|fault| (Value::from(fault.loc.clone()), fault.kind.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                (json!(["body", "time"]), "missing"),
                (json!(["body", "exit_code"]), "int_parsing"),
                (json!(["body", "outputs", 1, "file"]), "value_error"),
                (json!(["body", "outputs", 2]), "model_attributes_type"),
                (json!(["body", "outputs", 3, "more"]), "extra_forbidden"),
                (json!(["body", "outputs", 4, "file"]), "value_error"),
                (json!(["body", "admin_error"]), "string_type"),
                (json!(["body", "attempt"]), "greater_than_equal"),
                (json!(["body", "usage", "cpu_ms"]), "greater_than_equal"),
                (json!(["body", "usage", "wall_ms"]), "int_parsing"),
                (
                    json!(["body", "usage", "max_memory_bytes"]),
                    "int_from_float"
                ),
            ]
        );
    }

    #[test]
    fn a_time_may_be_naive_or_a_number() {
        for time in [
            json!("2031-02-03T04:05:06.25"),
            json!("2031-02-03T05:05:06.25+01:00"),
            json!(1_927_857_906.25),
            json!(1_927_857_906_250_i64),
        ] {
            let (time, _) = container_update(&json!({"time": time})).unwrap();
            assert_eq!(time.to_string(), "2031-02-03T04:05:06.250000Z");
        }
    }
}
