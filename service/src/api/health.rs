//! `GET /livez` and `GET /readyz`: for whoever restarts processes and sends them requests. Both need no
//! user.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::app::App;

/// `GET /livez`: the process runs and answers. Says nothing about what it depends on.
pub async fn live() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: what the service depends on, each by name; 503 if requests should go elsewhere.
pub async fn ready(State(app): State<Arc<App>>) -> Response {
    let report = app.readiness.report(&app).await;
    let status = if report.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(&*report)).into_response()
}
