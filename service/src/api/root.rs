//! `GET /` and `GET /whoami`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use cts_shared::wire::root::{
    ATTEMPTS, AllowedPath, IDEMPOTENT_UPDATES, Root, SERVICE_NAME, USAGE, WhoAmI,
};

use crate::app::App;
use crate::identity::Role;

use super::error::ApiError;
use super::request_context::Caller;

/// `GET /`
pub async fn root(State(app): State<Arc<App>>) -> Json<Root> {
    Json(Root {
        service_name: SERVICE_NAME.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        git_hash: cts_build_info::GIT_HASH.to_owned(),
        server_time: app.clock.now(),
        notes: "This service is a prototype".to_owned(),
        // What executors may rely on beyond the contract.
        capabilities: [IDEMPOTENT_UPDATES, ATTEMPTS, USAGE]
            .map(str::to_owned)
            .to_vec(),
    })
}

/// `GET /whoami`
pub async fn who_am_i(
    State(app): State<Arc<App>>,
    caller: Caller,
) -> Result<Json<WhoAmI>, ApiError> {
    let user = caller.user()?;
    Ok(Json(WhoAmI {
        user: user.name.clone(),
        roles: if user.has(Role::FullAdmin) {
            vec!["full_admin".to_owned()]
        } else {
            Vec::new()
        },
        allowed_paths: app
            .config
            .allowed_paths
            .iter()
            .map(|path| AllowedPath {
                path: path.as_str().to_owned(),
                perm: "write".to_owned(),
            })
            .collect(),
    }))
}
