//! `/external_exec`: what executors report.

use std::str::FromStr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

use cts_shared::s3_path::S3Path;
use cts_shared::state::JobState;
use cts_shared::state::job_flow::ContainerReport;
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::error::ValidationDetail;
use cts_shared::wire::job::S3File;

use crate::app::App;
use crate::error::Error;
use crate::identity::Role;
use crate::jobs;

use super::error::ApiError;
use super::extract::{JsonBody, PathParams, check_id, container_number};
use super::request_context::Caller;

/// `PUT /external_exec/jobs/{job_id}/container/{container_num}/update/{new_state}`
pub async fn update_container(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams((job_id, container, state)): PathParams<(String, String, String)>,
    body: JsonBody,
) -> Result<StatusCode, ApiError> {
    let user = caller.user()?;
    let job_id = check_id(&job_id, "job_id")?;
    let container = container_number(&container)?;
    let state = JobState::from_str(&state)
        .map_err(|error| Error::invalid("enum", &["path", "new_state"], error.to_string()))?;
    let report = container_report(state, &body.required()?)?;
    user.require_any(&[Role::ExternalExecutor])?;
    let id = jobs::job_id(job_id)?;
    jobs::report::report_container(&app, id, container, report).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Reads the body of an update (`ContainerUpdate` in the contract), reporting every fault.
fn container_report(state: JobState, body: &Value) -> Result<ContainerReport, Error> {
    let Some(body) = body.as_object() else {
        return Err(Error::invalid(
            "model_attributes_type",
            &["body"],
            "give a JSON object",
        ));
    };
    let mut faults = Faults::default();
    let time = match body.get("time") {
        None => faults.add("missing", &["time"], "give the time of the update", None),
        Some(value) => time(value).or_else(|| {
            faults.add(
                "datetime_parsing",
                &["time"],
                "give an ISO 8601 date and time, or seconds since the epoch",
                Some(value),
            )
        }),
    };
    let report = ContainerReport {
        state,
        time: time.unwrap_or_else(|| UtcTime::new(Timestamp::UNIX_EPOCH)),
        exit_code: faults.exit_code(body),
        outputs: faults.outputs(body),
        admin_error: faults.text(body, "admin_error"),
        traceback: faults.text(body, "traceback"),
    };
    if faults.0.is_empty() {
        Ok(report)
    } else {
        Err(Error::Invalid(faults.0))
    }
}

#[derive(Default)]
struct Faults(Vec<ValidationDetail>);

impl Faults {
    fn add<T>(
        &mut self,
        kind: &str,
        path: &[&str],
        message: &str,
        input: Option<&Value>,
    ) -> Option<T> {
        let mut loc = vec![json!("body")];
        loc.extend(path.iter().map(|part| match part.parse::<usize>() {
            Ok(index) => json!(index),
            Err(_) => json!(part),
        }));
        self.0.push(ValidationDetail {
            kind: kind.to_owned(),
            loc,
            msg: message.to_owned(),
            input: input
                .filter(|value| !value.is_object() && !value.is_array())
                .cloned(),
            ctx: None,
        });
        None
    }

    fn text(&mut self, body: &Map<String, Value>, name: &str) -> Option<String> {
        match body.get(name) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.clone()),
            Some(other) => self.add("string_type", &[name], "give a string", Some(other)),
        }
    }

    fn exit_code(&mut self, body: &Map<String, Value>) -> Option<i64> {
        let value = match body.get("exit_code") {
            None | Some(Value::Null) => return None,
            Some(value) => value,
        };
        let number = match value {
            Value::Number(number) => number.as_i64(),
            Value::Bool(flag) => Some(i64::from(*flag)),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        number.or_else(|| {
            self.add(
                "int_parsing",
                &["exit_code"],
                "give a whole number",
                Some(value),
            )
        })
    }

    fn outputs(&mut self, body: &Map<String, Value>) -> Option<Vec<S3File>> {
        let items = match body.get("outputs") {
            None | Some(Value::Null) => return None,
            Some(Value::Array(items)) => items,
            Some(other) => {
                return self.add(
                    "list_type",
                    &["outputs"],
                    "give a list of objects",
                    Some(other),
                );
            }
        };
        let mut outputs = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            outputs.extend(self.output(&index.to_string(), item));
        }
        Some(outputs)
    }

    fn output(&mut self, index: &str, item: &Value) -> Option<S3File> {
        let Some(members) = item.as_object() else {
            return self.add(
                "model_attributes_type",
                &["outputs", index],
                "give a JSON object",
                None,
            );
        };
        if let Some(extra) = members
            .keys()
            .find(|name| !matches!(name.as_str(), "file" | "crc64nvme"))
        {
            return self.add(
                "extra_forbidden",
                &["outputs", index, extra],
                "leave this out",
                None,
            );
        }
        let file = match members.get("file") {
            Some(Value::String(text)) => match S3Path::parse(text) {
                Ok(path) => path.to_string(),
                Err(error) => {
                    let message = error.to_string();
                    return self.add("value_error", &["outputs", index, "file"], &message, None);
                }
            },
            other => {
                let kind = if other.is_some() {
                    "string_type"
                } else {
                    "missing"
                };
                return self.add(
                    kind,
                    &["outputs", index, "file"],
                    "give the S3 path of the output",
                    other,
                );
            }
        };
        let crc64nvme = match members.get("crc64nvme") {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if text.chars().count() == 12 => Some(text.clone()),
            other => {
                let message = "give the checksum in base64, 12 characters";
                return self.add(
                    "string_type",
                    &["outputs", index, "crc64nvme"],
                    message,
                    other,
                );
            }
        };
        Some(S3File { file, crc64nvme })
    }
}

/// An ISO 8601 time (a naive one is UTC), or seconds since the epoch: milliseconds when the number is
/// too large for seconds, as the existing service reads it.
fn time(value: &Value) -> Option<UtcTime> {
    /// Seconds until the year 2603; above it, numbers are milliseconds.
    const MAX_SECONDS: f64 = 2e10;
    let from_number = |number: f64| {
        let seconds = if number.abs() > MAX_SECONDS {
            number / 1000.0
        } else {
            number
        };
        jiff::SignedDuration::try_from_secs_f64(seconds)
            .ok()
            .and_then(|since_epoch| Timestamp::from_duration(since_epoch).ok())
    };
    let timestamp = match value {
        Value::Number(number) => number.as_f64().and_then(from_number),
        Value::String(text) => {
            let text = text.trim();
            Timestamp::from_str(text)
                .ok()
                .or_else(|| {
                    let naive = DateTime::from_str(text).ok()?;
                    naive
                        .to_zoned(TimeZone::UTC)
                        .ok()
                        .map(|zoned| zoned.timestamp())
                })
                .or_else(|| text.parse().ok().and_then(from_number))
        }
        _ => None,
    };
    timestamp.map(UtcTime::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_every_form() {
        let expected = "2031-02-03T04:05:06.250000Z";
        for value in [
            json!("2031-02-03T04:05:06.250000+00:00"),
            json!("2031-02-03T04:05:06.25Z"),
            json!("2031-02-03T05:05:06.25+01:00"),
            json!("2031-02-03T04:05:06.25"),
            json!("2031-02-03 04:05:06.25"),
            json!(1_927_857_906.25),
            json!(1_927_857_906_250_i64),
            json!("1927857906.25"),
        ] {
            let time = time(&value).map(|time| time.to_string());
            assert_eq!(time.as_deref(), Some(expected), "{value}");
        }
        for value in [
            json!("yesterday"),
            json!(null),
            json!([]),
            json!(1e300),
            json!(""),
        ] {
            assert_eq!(time(&value), None, "{value}");
        }
    }

    #[test]
    fn every_fault_has_its_place() {
        let body = json!({
            "exit_code": "x",
            "outputs": [{"file": "buk/a"}, {"file": "nope"}, 1, {"file": "buk/b", "more": 1}],
            "admin_error": 3,
        });
        let Err(Error::Invalid(faults)) = container_report(JobState::Complete, &body) else {
            panic!("accepted");
        };
        let places: Vec<String> = faults
            .iter()
            .map(|fault| serde_json::to_string(&fault.loc).unwrap())
            .collect();
        assert_eq!(
            places,
            [
                r#"["body","time"]"#,
                r#"["body","exit_code"]"#,
                r#"["body","outputs",1,"file"]"#,
                r#"["body","outputs",2]"#,
                r#"["body","outputs",3,"more"]"#,
                r#"["body","admin_error"]"#,
            ]
        );
    }
}
