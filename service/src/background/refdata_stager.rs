//! Has reference data staged that was registered or recovered and that nobody stages: the service was killed in
//! between, or while it was staging.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use cts_shared::site::Site;
use cts_shared::state::refdata::RefdataState;
use cts_shared::wire::refdata::AdminRefdataStatus;

use crate::app::App;
use crate::error::Error;
use crate::refdata::stage;
use crate::refdata_store::last_change;

/// How often it is looked for.
const ROUND: Duration = Duration::from_secs(15);

/// How long after a registration it is first looked for here: the registration itself has it staged.
const GRACE: Duration = Duration::from_secs(15);

/// Looks until told to stop. The first round is at once.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    loop {
        if let Err(error) = stage_waiting_refdata(&app, GRACE).await {
            tracing::error!(%error, "cannot look for reference data to stage");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(ROUND) => {}
        }
    }
}

/// Begins with all that has waited that long, and with what this service's sites were staging when it was killed.
/// What somebody is at is left to them. The tasks end with the stagings.
///
/// # Errors
/// When the store fails.
pub async fn stage_waiting_refdata(
    app: &Arc<App>,
    age: Duration,
) -> Result<Vec<JoinHandle<()>>, Error> {
    let before = app.clock.now().minus(age);
    let is_waiting = |status: &AdminRefdataStatus| match status.status.state {
        RefdataState::Created => last_change(status) <= before,
        RefdataState::DownloadSubmitted => !is_handed_over(app, status.status.cluster),
        RefdataState::Complete | RefdataState::Error => false,
    };
    let mut begun = Vec::new();
    for refdata in app.refdata.unstaged_refdata().await? {
        let waiting = refdata.statuses.iter().filter(|status| is_waiting(status));
        for site in waiting.map(|status| status.status.cluster) {
            if app.sites.available(site).is_ok() {
                begun.push(stage::in_background(app, &refdata.id, site));
            }
        }
    }
    Ok(begun)
}

fn is_handed_over(app: &App, site: Site) -> bool {
    let stager = app.refdata_stagers.of(site);
    stager.is_none_or(|stager| stager.hands_over())
}
