//! `GET /metrics`: for Prometheus. Needs no user.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::error::Error;
use crate::job_store::StoreError;
use crate::metrics::Backlog;

use super::error::ApiError;

/// Of the text that [`crate::metrics::Metrics::to_text`] makes.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Jobs are counted up to this number.
const MAX_JOBS: u32 = 1000;

/// Longest time that counting what waits in the store may take; the rest is shown without it.
const DEADLINE: Duration = Duration::from_secs(2);

/// `GET /metrics`
pub async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let count = async {
        match tokio::time::timeout(DEADLINE, backlog(&app)).await {
            Ok(Ok(backlog)) => return Some(backlog),
            Ok(Err(error)) => tracing::warn!(%error, "cannot count what waits in the store"),
            Err(_elapsed) => tracing::warn!("counting what waits in the store took too long"),
        }
        None
    };
    app.metrics.update_backlog(count).await;
    let text = app
        .metrics
        .to_text()
        .map_err(|error| Error::Internal(format!("cannot write the metrics: {error}")))?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response())
}

async fn backlog(app: &App) -> Result<Backlog, StoreError> {
    let now = app.clock.now();
    let (unstarted, pending, unsent) = futures::try_join!(
        app.jobs.unstarted_jobs(now, MAX_JOBS),
        app.jobs.pending_jobs(None, MAX_JOBS),
        app.outbox.unsent(None),
    )?;
    Ok(Backlog {
        waiting_for_site: unstarted.len(),
        waiting_for_end: pending.len(),
        unsent_transitions: unsent.transitions,
        oldest_unsent: unsent.oldest.map_or(Duration::ZERO, |oldest| {
            let age = now.timestamp().duration_since(oldest.timestamp());
            // Not negative, but clocks are set.
            Duration::try_from(age).unwrap_or_default()
        }),
    })
}
