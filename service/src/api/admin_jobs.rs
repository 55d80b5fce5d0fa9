//! `/admin/jobs/{job_id}`: one job, for administrators.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value};

use cts_shared::validation::scalars::{any_text, boolean};
use cts_shared::validation::{Checked, Fault, Members, Reading, any_of, list, object};
use cts_shared::wire::container::Container;
use cts_shared::wire::job::AdminJob;

use crate::app::App;
use crate::identity::Role;
use crate::job_store::container_view;
use crate::jobs::admin_meta::AdminMetaChange;
use crate::jobs::{self, admin_meta, cancel, clean, containers};

use super::checks::{Checks, only_path};
use super::error::ApiError;
use super::extract::{JsonBody, PathParams, QueryParams};
use super::jobs::ExitCodes;
use super::parameters;
use super::request_context::Caller;

/// Answer of `GET /admin/jobs/{id}/container`.
#[derive(Debug, Serialize)]
pub struct SubJobs {
    subjobs: Vec<Container>,
}

/// `GET /admin/jobs/{job_id}`: administrators and executors.
pub async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams(job_id): PathParams<String>,
) -> Result<Json<AdminJob>, ApiError> {
    let user = caller.user()?;
    let job_id = only_path("job_id", &job_id, parameters::id)?;
    user.require_any(&[Role::FullAdmin, Role::ExternalExecutor])?;
    let id = jobs::job_id(&job_id)?;
    Ok(Json(jobs::get(&app, id).await?.into_admin_job()))
}

/// `GET /admin/jobs/{job_id}/exit_codes`
pub async fn exit_codes(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams(job_id): PathParams<String>,
) -> Result<Json<ExitCodes>, ApiError> {
    let admin = caller.user()?;
    let job_id = only_path("job_id", &job_id, parameters::id)?;
    admin.require_any(&[Role::FullAdmin])?;
    let id = jobs::job_id(&job_id)?;
    Ok(Json(jobs::get_record(&app, id).await?.into()))
}

/// `GET /admin/jobs/{job_id}/container`
pub async fn containers(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams(job_id): PathParams<String>,
) -> Result<Json<SubJobs>, ApiError> {
    let admin = caller.user()?;
    let job_id = only_path("job_id", &job_id, parameters::id)?;
    admin.require_any(&[Role::FullAdmin])?;
    let id = jobs::job_id(&job_id)?;
    let containers = containers::all(&app, id).await?;
    Ok(Json(SubJobs {
        subjobs: (0..)
            .zip(containers)
            .map(|(number, container)| container_view(id, number, container))
            .collect(),
    }))
}

/// `GET /admin/jobs/{job_id}/container/{container_num}`
pub async fn container(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams((job_id, number)): PathParams<(String, String)>,
) -> Result<Json<Container>, ApiError> {
    let admin = caller.user()?;
    let mut checks = Checks::default();
    let (Some(job_id), Some(number)) = (
        checks.path("job_id", &job_id, parameters::id),
        checks.path("container_num", &number, parameters::container_number),
    ) else {
        return Err(checks.refuse());
    };
    admin.require_any(&[Role::FullAdmin])?;
    let id = jobs::job_id(&job_id)?;
    let container = containers::one(&app, id, number).await?;
    Ok(Json(container_view(id, number, container)))
}

/// `GET /admin/jobs/{job_id}/runner_status`
pub async fn runner_status(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams(job_id): PathParams<String>,
    query: QueryParams,
) -> Result<Json<Map<String, Value>>, ApiError> {
    let admin = caller.user()?;
    let mut checks = Checks::default();
    let (Some(job_id), Some(number)) = (
        checks.path("job_id", &job_id, parameters::id),
        checks.query(&query, "container_number", parameters::container_number),
    ) else {
        return Err(checks.refuse());
    };
    admin.require_any(&[Role::FullAdmin])?;
    let id = jobs::job_id(&job_id)?;
    let status = containers::runner_status(&app, id, number.unwrap_or(0)).await?;
    Ok(Json(status))
}

/// `PUT /admin/jobs/{job_id}/cancel`
pub async fn cancel_any(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams(job_id): PathParams<String>,
) -> Result<StatusCode, ApiError> {
    let admin = caller.user()?;
    let job_id = only_path("job_id", &job_id, parameters::id)?;
    admin.require_any(&[Role::FullAdmin])?;
    cancel::cancel_any(&app, jobs::job_id(&job_id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `PUT /admin/jobs/{job_id}/meta`
pub async fn change_meta(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams(job_id): PathParams<String>,
    body: JsonBody,
) -> Result<StatusCode, ApiError> {
    let admin = caller.user()?;
    let mut checks = Checks::default();
    let (Some(job_id), Some((set, unset))) = (
        checks.path("job_id", &job_id, parameters::id),
        checks.body(&body, meta_change),
    ) else {
        return Err(checks.refuse());
    };
    admin.require_any(&[Role::FullAdmin])?;
    let change = AdminMetaChange::new(set, unset)?;
    admin_meta::change(&app, jobs::job_id(&job_id)?, change).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /admin/jobs/{job_id}/clean`
pub async fn clean_job(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams(job_id): PathParams<String>,
    query: QueryParams,
) -> Result<StatusCode, ApiError> {
    let admin = caller.user()?;
    let mut checks = Checks::default();
    let (Some(job_id), Some(force)) = (
        checks.path("job_id", &job_id, parameters::id),
        checks.query(&query, "force", boolean),
    ) else {
        return Err(checks.refuse());
    };
    admin.require_any(&[Role::FullAdmin])?;
    clean::clean_job(&app, jobs::job_id(&job_id)?, force.unwrap_or(false)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `UpdateAdminMeta` in the contract.
fn meta_change(body: &Value) -> Checked<(Map<String, Value>, Vec<String>)> {
    let mut members = Members::of(body)?;
    let set = members.defaulted("set_fields", Map::new(), |value| {
        object(value, meta_value).map(|fields| fields.into_iter().collect())
    });
    let unset = members.defaulted("unset_keys", Vec::new(), |value| {
        if !value.is_array() {
            return Err(Fault::new("set_type", value, "give a JSON list of keys").into());
        }
        list(value, |key| any_text(key).map(str::to_owned))
    });
    let faults = members.finish();
    match (set, unset) {
        (Some(set), Some(unset)) if faults.is_empty() => Ok((set, unset)),
        _ => Err(faults),
    }
}

/// A text or a number; true and false are 1 and 0.
fn meta_value(value: &Value) -> Checked<Value> {
    let fault = |kind| Err(Fault::new(kind, value, "give a text or a number").into());
    any_of(
        value,
        &[
            Reading {
                name: "str",
                check: &|value| match value {
                    Value::String(_) => Ok(value.clone()),
                    _ => fault("string_type"),
                },
            },
            Reading {
                name: "int",
                check: &|value| match value {
                    Value::Bool(flag) => Ok(Value::from(u8::from(*flag))),
                    Value::Number(_) => Ok(value.clone()),
                    _ => fault("int_type"),
                },
            },
            Reading {
                name: "float",
                check: &|_| fault("float_type"),
            },
        ],
    )
}
