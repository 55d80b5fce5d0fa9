//! Acts on what the sites notice; see [`crate::jobs::report::handle_site_event`].

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::compute_site::SiteEvent;
use crate::jobs::report::handle_site_event;

/// Wait before an event that the store did not take is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Times an event is tried. What is lost then is found at the next start.
const ATTEMPTS: u32 = 30;

/// Handles events until told to stop, and then those that wait already.
pub async fn run(app: Arc<App>, mut events: mpsc::Receiver<SiteEvent>, stop: CancellationToken) {
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => record(&app, event).await,
                None => return,
            },
            () = stop.cancelled() => break,
        }
    }
    events.close();
    while let Some(event) = events.recv().await {
        record(&app, event).await;
    }
}

async fn record(app: &Arc<App>, event: SiteEvent) {
    for attempt in 1..=ATTEMPTS {
        match handle_site_event(app, event.clone()).await {
            Ok(()) => return,
            Err(error) if attempt == ATTEMPTS => {
                tracing::error!(?event, %error, "gave up recording the end of an executor");
            }
            Err(error) => {
                tracing::warn!(%error, attempt, "cannot record the end of an executor yet");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
