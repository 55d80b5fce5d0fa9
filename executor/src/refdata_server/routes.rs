//! The URL space and its handlers: extract, check, call, answer.

use std::sync::Arc;

use axum::extract::{OriginalUri, Path, RawPathParams, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use cts_shared::id::{InvalidRefdataId, RefdataId};
use cts_shared::site::Site;
use cts_shared::validation::{Checked, Fault, Faults};
use cts_shared::wire::root::{REFDATA_SERVICE_NAME, Root, WhoAmI};
use serde::Serialize;

use super::auth::Authenticator;
use super::error::ApiError;
use super::request::{Caller, PROBE, with_context};
use super::stagings::{ItemView, Stagings, blocking};
use crate::clock::Clock;

/// What the handlers work with. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Api {
    /// Who is who.
    pub users: Arc<Authenticator>,
    /// What was asked for.
    pub stagings: Stagings,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Every route, and what happens to every request before routing. There is no CORS here.
pub fn router(api: Api) -> Router {
    let routes = Router::new()
        .route("/", get(root))
        .route("/whoami", get(who_am_i))
        .route("/whoami/", any(without_slash))
        .route("/refdata", get(list))
        .route("/refdata/", any(without_slash))
        // The slash at its end is part of the path.
        .route("/refdata/{refdata_id}/", get(status))
        .route("/refdata/{refdata_id}", any(with_slash))
        .route("/refdata/{refdata_id}/{cluster}", post(stage))
        .route("/refdata/{refdata_id}/{cluster}/", any(without_slash))
        .route(PROBE, get(live))
        .fallback(|| async { ApiError::not_found() })
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .with_state(api.clone());
    // A router that routes nothing: it only puts the layer around the other, before routing.
    Router::new()
        .fallback_service(routes)
        .layer(from_fn_with_state(api, with_context))
}

/// `GET /`
async fn root(State(api): State<Api>) -> Json<Root> {
    Json(Root {
        service_name: REFDATA_SERVICE_NAME.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        git_hash: cts_build_info::GIT_HASH.to_owned(),
        server_time: api.clock.now(),
        notes: "This service is a prototype".to_owned(),
        capabilities: Vec::new(),
    })
}

/// `GET /whoami`
async fn who_am_i(caller: Caller) -> Result<Json<WhoAmI>, ApiError> {
    let user = caller.user()?;
    let roles = user.is_full_admin.then(|| "full_admin".to_owned());
    Ok(Json(WhoAmI {
        user: user.name.clone(),
        roles: roles.into_iter().collect(),
        allowed_paths: Vec::new(),
    }))
}

/// `POST /refdata/{id}/{cluster}`: a service wants it staged.
async fn stage(
    State(api): State<Api>,
    caller: Caller,
    PathParams((id, cluster)): PathParams<(String, String)>,
) -> Result<StatusCode, ApiError> {
    caller.user()?;
    let mut faults = Faults::default();
    let id = faults.collect(refdata_id(&id));
    let site = faults.collect(site(&cluster));
    let (Some(id), Some(site)) = (id, site) else {
        return Err(ApiError::Invalid(faults.into_details("path")));
    };
    caller.require_service()?;
    api.stagings.ask(id, site).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /refdata/{id}/`: how far it is here.
async fn status(
    State(api): State<Api>,
    caller: Caller,
    PathParams(id): PathParams<String>,
) -> Result<Response, ApiError> {
    caller.user()?;
    let id = refdata_id(&id).map_err(|faults| ApiError::Invalid(faults.into_details("path")))?;
    caller.require_full_admin()?;
    let status = api.stagings.status(&id).await?;
    // A million files take a while.
    let body = blocking(move || serde_json::to_vec(&status))
        .await
        .map_err(|error| ApiError::Internal(error.to_string()))?;
    let json = (header::CONTENT_TYPE, "application/json");
    Ok(([json], body).into_response())
}

/// Answer of `GET /refdata`, which is not in the contract.
#[derive(Debug, Serialize)]
struct Listing {
    /// By id.
    data: Vec<ItemView>,
}

/// `GET /refdata`: everything that is here or on its way.
async fn list(State(api): State<Api>, caller: Caller) -> Result<Json<Listing>, ApiError> {
    caller.require_full_admin()?;
    let data = api.stagings.list().await?;
    Ok(Json(Listing { data }))
}

/// `GET /livez`: the process runs and answers. Says nothing about what it depends on.
async fn live() -> &'static str {
    "ok\n"
}

/// Path parameters, decoded. What cannot be decoded names no path of ours, nor does an encoded `/`.
struct PathParams<T>(T);

impl<T: serde::de::DeserializeOwned + Send, S: Send + Sync> axum::extract::FromRequestParts<S>
    for PathParams<T>
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let raw = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::not_found())?;
        if raw.iter().any(|(_, value)| value.contains('/')) {
            return Err(ApiError::not_found());
        }
        let Path(params) = Path::<T>::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::not_found())?;
        Ok(Self(params))
    }
}

fn refdata_id(text: &str) -> Checked<RefdataId> {
    let kind = if text.chars().count() > RefdataId::MAX_LENGTH {
        "string_too_long"
    } else {
        "string_pattern_mismatch"
    };
    text.parse()
        .map_err(|error: InvalidRefdataId| fault(kind, "refdata_id", text, error.to_string()))
}

/// The contract's sites; our own one stages by itself.
fn site(text: &str) -> Checked<Site> {
    let known = [Site::PerlmutterJaws, Site::LawrenciumJaws, Site::Kbase];
    let found = known.into_iter().find(|site| site.as_str() == text);
    found.ok_or_else(|| {
        let names = known.map(Site::as_str).join(", ");
        fault("enum", "cluster", text, format!("use one of {names}"))
    })
}

fn fault(kind: &'static str, parameter: &str, input: &str, message: String) -> Faults {
    Faults::from(Fault::new(kind, &input.into(), message)).under_member(parameter)
}

/// 307 to the same path without the slash, query kept. Told relative to the path asked for, which a proxy may
/// have shortened.
async fn without_slash(OriginalUri(uri): OriginalUri) -> Response {
    let last = last_segment(uri.path().trim_end_matches('/'));
    redirect(&format!("../{last}"), uri.query())
}

/// 307 to the same path with a slash at its end.
async fn with_slash(OriginalUri(uri): OriginalUri) -> Response {
    redirect(&format!("{}/", last_segment(uri.path())), uri.query())
}

fn last_segment(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

fn redirect(target: &str, query: Option<&str>) -> Response {
    let target = match query {
        Some(query) => format!("{target}?{query}"),
        None => target.to_owned(),
    };
    Redirect::temporary(&target).into_response()
}
