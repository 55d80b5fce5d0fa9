//! `/refdata`, `/admin/refdata` and `/external_exec/refdata`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::Value;

use cts_shared::job_input::rules::CHECKSUM;
use cts_shared::site::Site;
use cts_shared::validation::scalars::{any_text, boolean};
use cts_shared::validation::{Checked, Members};
use cts_shared::wire::refdata::{RefdataList, RefdataStatusNow, RefdataUpdate, ReferenceData};

use crate::app::App;
use crate::identity::{Role, User};
use crate::refdata::{self, refdata_id};
use crate::refdata_store::{Refdata, user_view};

use super::checks::{Checks, only_path};
use super::error::ApiError;
use super::extract::{JsonBody, PathParams, QueryParams, RestOfPath};
use super::parameters;
use super::request_context::Caller;

/// `GET /refdata`
pub async fn list(State(app): State<Arc<App>>) -> Result<Json<RefdataList>, ApiError> {
    Ok(Json(as_list(refdata::list(&app).await?)))
}

/// `GET /refdata/id/{refdata_id}`
pub async fn by_id(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams(id): PathParams<String>,
) -> Result<Json<ReferenceData>, ApiError> {
    let id = only_path("refdata_id", &id, parameters::id)?;
    let found = refdata::get(&app, &refdata_id(&id)?).await?;
    Ok(Json(user_view(as_read_by(&caller, found))))
}

/// `GET /refdata/path/{*s3_path}`: a list of one, or of none; of two where the existing service has registered a
/// file twice.
pub async fn by_path(
    State(app): State<Arc<App>>,
    caller: Caller,
    RestOfPath(path): RestOfPath,
) -> Result<Json<RefdataList>, ApiError> {
    let path = only_path("s3_path", &path, parameters::s3_path)?;
    let found = refdata::of_file(&app, &path).await?.into_iter();
    Ok(Json(as_list(
        found.map(|refdata| as_read_by(&caller, refdata)),
    )))
}

/// Without the site `local` for a staging server: the existing one knows its own sites only, and fails over any
/// other before it stages.
fn as_read_by(caller: &Caller, mut refdata: Refdata) -> Refdata {
    let is_server = caller
        .user()
        .is_ok_and(|user| user.has(Role::RefdataService) && !user.has(Role::FullAdmin));
    if is_server {
        let statuses = &mut refdata.statuses;
        statuses.retain(|status| status.status.cluster != Site::Local);
    }
    refdata
}

fn as_list(found: impl IntoIterator<Item = Refdata>) -> RefdataList {
    RefdataList {
        data: found.into_iter().map(user_view).collect(),
    }
}

/// `POST /admin/refdata/{*refdata_s3_path}`
pub async fn register(
    State(app): State<Arc<App>>,
    caller: Caller,
    RestOfPath(path): RestOfPath,
    query: QueryParams,
) -> Result<Json<ReferenceData>, ApiError> {
    let admin = caller.user()?;
    let mut checks = Checks::default();
    let (Some(path), Some(crc64nvme), Some(unpack)) = (
        checks.path("refdata_s3_path", &path, parameters::s3_path),
        checks.query(&query, "crc64nvme", |value| CHECKSUM.check(value)),
        checks.query(&query, "unpack", boolean),
    ) else {
        return Err(checks.refuse());
    };
    admin.require_any(&[Role::FullAdmin])?;
    let wanted = refdata::register::Registration {
        path,
        crc64nvme,
        unpack: unpack.unwrap_or(false),
    };
    let registered = refdata::register::register(&app, admin, wanted).await?;
    Ok(Json(user_view(registered)))
}

/// `GET /admin/refdata/{refdata_id}`
pub async fn admin_view(
    State(app): State<Arc<App>>,
    caller: Caller,
    RestOfPath(rest): RestOfPath,
) -> Result<Json<ReferenceData<RefdataStatusNow>>, ApiError> {
    if rest.contains('/') {
        return Err(ApiError::MethodNotAllowed);
    }
    let admin = caller.user()?;
    let id = only_path("refdata_id", &rest, parameters::id)?;
    admin.require_any(&[Role::FullAdmin])?;
    Ok(Json(refdata::get_now(&app, &refdata_id(&id)?).await?))
}

/// `PUT /admin/refdata/{refdata_id}/{cluster}/recover`
pub async fn recover(
    State(app): State<Arc<App>>,
    caller: Caller,
    RestOfPath(rest): RestOfPath,
    query: QueryParams,
) -> Result<StatusCode, ApiError> {
    let (id, site) = id_and_site(&rest, "recover")?;
    let admin = caller.user()?;
    let mut checks = Checks::default();
    let (Some((id, site)), Some(force)) = (
        check_id_and_site(&mut checks, id, site),
        checks.query(&query, "force", boolean),
    ) else {
        return Err(checks.refuse());
    };
    admin.require_any(&[Role::FullAdmin])?;
    let force = force.unwrap_or(false);
    refdata::recover::recover(&app, admin, &refdata_id(&id)?, site, force).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /admin/refdata/{refdata_id}/{cluster}/clean`: `force` is the contract's, and changes nothing at the
/// sites of this service.
pub async fn clean(
    State(app): State<Arc<App>>,
    caller: Caller,
    RestOfPath(rest): RestOfPath,
    query: QueryParams,
) -> Result<StatusCode, ApiError> {
    let (id, site) = id_and_site(&rest, "clean")?;
    let admin = caller.user()?;
    let mut checks = Checks::default();
    let (Some((id, site)), Some(_force)) = (
        check_id_and_site(&mut checks, id, site),
        checks.query(&query, "force", boolean),
    ) else {
        return Err(checks.refuse());
    };
    admin.require_any(&[Role::FullAdmin])?;
    refdata::clean::clean_refdata(&app, &refdata_id(&id)?, site).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `PUT /external_exec/refdata/{refdata_id}/{cluster}/update/{new_state}`
pub async fn update(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams((id, site, state)): PathParams<(String, String, String)>,
    body: JsonBody,
) -> Result<StatusCode, ApiError> {
    let service: &User = caller.user()?;
    let mut checks = Checks::default();
    let (Some((id, site)), Some(state), Some(report)) = (
        check_id_and_site(&mut checks, &id, &site),
        checks.path("new_state", &state, parameters::refdata_state),
        checks.optional_body(&body, refdata_update),
    ) else {
        return Err(checks.refuse());
    };
    service.require_any(&[Role::RefdataService])?;
    let report = report.unwrap_or_default();
    refdata::update::update(&app, &refdata_id(&id)?, site, state, report).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The parameters in `{refdata_id}/{cluster}/{action}`. Any other path below `/admin/refdata/` is one that only
/// `POST` has.
fn id_and_site<'a>(rest: &'a str, action: &str) -> Result<(&'a str, &'a str), ApiError> {
    let mut parts = rest.split('/');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(id), Some(site), Some(last), None) if last == action => Ok((id, site)),
        _ => Err(ApiError::MethodNotAllowed),
    }
}

fn check_id_and_site(checks: &mut Checks, id: &str, site: &str) -> Option<(String, Site)> {
    let id = checks.path("refdata_id", id, parameters::id);
    let site = checks.path("cluster", site, parameters::site);
    id.zip(site)
}

fn refdata_update(body: &Value) -> Checked<RefdataUpdate> {
    let text = |value: &Value| any_text(value).map(str::to_owned);
    let mut members = Members::of(body)?;
    let admin_error = members.optional("admin_error", text);
    let traceback = members.optional("traceback", text);
    let faults = members.finish_open();
    match (admin_error, traceback) {
        (Some(admin_error), Some(traceback)) => Ok(RefdataUpdate {
            admin_error,
            traceback,
        }),
        _ => Err(faults),
    }
}
