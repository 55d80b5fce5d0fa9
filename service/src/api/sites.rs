//! `/sites` and `/admin/sites`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;

use cts_shared::site::Site;

use crate::app::App;
use crate::error::Error;
use crate::identity::Role;

use super::checks::only_path;
use super::error::ApiError;
use super::extract::PathParams;
use super::parameters;
use super::request_context::Caller;

/// Answer of `GET /sites`. Nulls are kept here.
#[derive(Debug, Serialize)]
pub struct SitesView {
    sites: Vec<SiteView>,
}

#[derive(Debug, Serialize)]
struct SiteView {
    cluster: Site,
    nodes: Option<u32>,
    cpus_per_node: u32,
    memory_per_node_gb: u32,
    max_runtime_min: u32,
    notes: Vec<String>,
    active: bool,
    available: bool,
    unavailable_reason: Option<String>,
}

/// `GET /sites`
pub async fn list(State(app): State<Arc<App>>) -> Result<Json<SitesView>, ApiError> {
    let inactive = app.site_store.inactive_sites().await.map_err(Error::from)?;
    let sites = app
        .sites
        .iter()
        .map(|(site, status)| {
            let limits = site.limits();
            let unavailable_reason = status.usable().err();
            SiteView {
                cluster: site,
                nodes: limits.nodes,
                cpus_per_node: limits.cpus_per_node,
                memory_per_node_gb: limits.memory_per_node_gb,
                max_runtime_min: limits.max_runtime_min,
                notes: Vec::new(),
                active: !inactive.contains(&site),
                available: unavailable_reason.is_none(),
                unavailable_reason,
            }
        })
        .collect();
    Ok(Json(SitesView { sites }))
}

/// `PUT /admin/sites/{site}/active`
pub async fn activate(
    state: State<Arc<App>>,
    caller: Caller,
    site: PathParams<String>,
) -> Result<StatusCode, ApiError> {
    set_active(state, caller, site, true).await
}

/// `DELETE /admin/sites/{site}/active`
pub async fn deactivate(
    state: State<Arc<App>>,
    caller: Caller,
    site: PathParams<String>,
) -> Result<StatusCode, ApiError> {
    set_active(state, caller, site, false).await
}

async fn set_active(
    State(app): State<Arc<App>>,
    caller: Caller,
    PathParams(site): PathParams<String>,
    active: bool,
) -> Result<StatusCode, ApiError> {
    let admin = caller.user()?;
    let site = only_path("site", &site, parameters::site)?;
    admin.require_any(&[Role::FullAdmin])?;
    app.site_store
        .set_site_active(site, active)
        .await
        .map_err(Error::from)?;
    tracing::info!(site = %site, active, "site switched");
    Ok(StatusCode::NO_CONTENT)
}
