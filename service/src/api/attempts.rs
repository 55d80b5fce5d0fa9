//! `/external_exec/.../attempts`: executors announce themselves, and say that they are still at work.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::Value;

use cts_shared::state::attempts::Announcement;
use cts_shared::validation::scalars::{TextRule, boolean};
use cts_shared::validation::times::time;
use cts_shared::validation::{Checked, Members};
use cts_shared::wire::attempt::AttemptStanding;

use crate::app::App;
use crate::identity::Role;
use crate::jobs;

use super::checks::Checks;
use super::error::ApiError;
use super::extract::{JsonBody, PathParams};
use super::parameters;
use super::request_context::Caller;

/// What tells an executor's process from others.
pub static INSTANCE: TextRule = TextRule::of_pattern(
    1..=64,
    r"^[!-~]+$",
    "only visible ASCII characters, such as a UUID",
);

/// Names of workers.
pub static HOST: TextRule = TextRule::of_pattern(
    0..=255,
    r"^\P{C}*$",
    "a host name without control characters",
);

/// `POST /external_exec/jobs/{job_id}/container/{container_num}/attempts`
pub async fn announce(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams((job_id, container)): PathParams<(String, String)>,
    body: JsonBody,
) -> Result<Json<AttemptStanding>, ApiError> {
    let user = caller.user()?;
    let mut checks = Checks::default();
    let (Some(job_id), Some(container), Some((executor, _))) = (
        checks.path("job_id", &job_id, parameters::id),
        checks.path("container_num", &container, parameters::container_number),
        checks.body(&body, notice),
    ) else {
        return Err(checks.refuse());
    };
    user.require_any(&[Role::ExternalExecutor])?;
    let id = jobs::job_id(&job_id)?;
    let standing = jobs::attempts::announce(&app, id, container, executor).await?;
    Ok(Json(standing))
}

/// `PUT /external_exec/jobs/{job_id}/container/{container_num}/attempts/{attempt}`
pub async fn renew(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams((job_id, container, attempt)): PathParams<(String, String, String)>,
    body: JsonBody,
) -> Result<Json<AttemptStanding>, ApiError> {
    let user = caller.user()?;
    let mut checks = Checks::default();
    let (Some(job_id), Some(container), Some(attempt), Some((executor, leaving))) = (
        checks.path("job_id", &job_id, parameters::id),
        checks.path("container_num", &container, parameters::container_number),
        checks.path("attempt", &attempt, parameters::attempt),
        checks.body(&body, notice),
    ) else {
        return Err(checks.refuse());
    };
    user.require_any(&[Role::ExternalExecutor])?;
    let id = jobs::job_id(&job_id)?;
    let instance = executor.instance;
    let standing = jobs::attempts::renew(&app, id, container, attempt, instance, leaving).await?;
    Ok(Json(standing))
}

/// Reads an [`AttemptNotice`](cts_shared::wire::attempt::AttemptNotice): who it is, and whether it is leaving.
fn notice(body: &Value) -> Checked<(Announcement, bool)> {
    let mut members = Members::of(body)?;
    // Attempts are dated by the service's clock; the worker's must only be a time, as in updates.
    let time = members.required("time", time);
    let instance = members.required("instance", |value| INSTANCE.check(value));
    let host = members.optional("host", |value| HOST.check(value));
    let leaving = members.defaulted("leaving", false, boolean);
    let faults = members.finish_open();
    match (time, instance, host, leaving) {
        (Some(_), Some(instance), Some(host), Some(leaving)) => {
            Ok((Announcement { instance, host }, leaving))
        }
        _ => Err(faults),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_fault_has_its_place() {
        let faulty = [
            (json!({"instance": "a"}), "time", "missing"),
            (json!({"time": 1}), "instance", "missing"),
            (json!({"time": "soon", "instance": "a"}), "time", ""),
            (json!({"time": 1, "instance": 7}), "instance", "string_type"),
            (
                json!({"time": 1, "instance": ""}),
                "instance",
                "string_too_short",
            ),
            (
                json!({"time": 1, "instance": "a".repeat(65)}),
                "instance",
                "string_too_long",
            ),
            (
                json!({"time": 1, "instance": "a b"}),
                "instance",
                "string_pattern_mismatch",
            ),
            (
                json!({"time": 1, "instance": "a\n"}),
                "instance",
                "string_pattern_mismatch",
            ),
            (
                json!({"time": 1, "instance": "a", "host": "h".repeat(256)}),
                "host",
                "string_too_long",
            ),
            (
                json!({"time": 1, "instance": "a", "host": "h\n"}),
                "host",
                "string_pattern_mismatch",
            ),
        ];
        for (body, member, kind) in faulty {
            let faults = notice(&body).unwrap_err().into_details("body");
            let [fault] = faults.as_slice() else {
                panic!("{body}: {faults:?}");
            };
            let place = Value::from(fault.loc.clone());
            assert_eq!(place, json!(["body", member]), "{body}");
            assert!(kind.is_empty() || fault.kind == kind, "{body}: {fault:?}");
        }
    }

    #[test]
    fn the_longest_that_is_allowed_is_taken_and_the_rest_is_passed_over() {
        let (instance, host) = ("~".repeat(64), "é".repeat(255));
        let body = json!({"time": 1, "instance": instance, "host": host, "more": 1});
        let expected = Announcement {
            instance,
            host: Some(host),
        };
        assert_eq!(notice(&body).unwrap(), (expected, false));
        let body = json!({"time": 1, "instance": "a", "leaving": true});
        assert!(notice(&body).unwrap().1);
        for body in [
            json!({"time": 1, "instance": "!"}),
            json!({"time": 1, "instance": "!", "host": null}),
        ] {
            assert_eq!(notice(&body).unwrap().0.host, None);
        }
    }
}
