//! `GET /sites`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use cts_shared::site::Site;

use crate::app::App;
use crate::sites::SiteStatus;

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
pub async fn list(State(app): State<Arc<App>>) -> Json<SitesView> {
    let sites = app
        .sites
        .iter()
        .map(|(site, status)| {
            let limits = site.limits();
            let unavailable_reason = match status {
                SiteStatus::Available(_) => None,
                SiteStatus::Unavailable { reason } => Some(reason.clone()),
            };
            SiteView {
                cluster: site,
                nodes: limits.nodes,
                cpus_per_node: limits.cpus_per_node,
                memory_per_node_gb: limits.memory_per_node_gb,
                max_runtime_min: limits.max_runtime_min,
                notes: Vec::new(),
                active: true,
                available: unavailable_reason.is_none(),
                unavailable_reason,
            }
        })
        .collect();
    Json(SitesView { sites })
}
