//! Executors of the site `local` are this machine's own: of several services over one store only one can have
//! the site, or each job would run on each of them.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::role::Role;

/// The name of the role.
pub const LOCAL_SITE: &str = "site local";

/// How long the site stays a dead service's. Should it start again meanwhile, it has the site at once.
pub const LAPSES_AFTER: Duration = Duration::from_secs(60);

const RENEW_EVERY: Duration = Duration::from_secs(15);

/// Keeps the role until told to stop.
pub async fn run(role: Role, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(RENEW_EVERY) => {}
        }
        match role.take().await {
            Ok(true) => {}
            // What runs here goes on: of two executors of one container, only one can publish.
            Ok(false) => tracing::error!(
                "another service over the same database has taken the site local, for this one did not \
                 answer for a minute; stop one of them, or set LocalSite.enabled = false for it"
            ),
            Err(error) => {
                tracing::warn!(%error, "the site local could not be kept for this service")
            }
        }
    }
    role.give_up().await;
}
