//! Having reference data staged at a site, and recording what comes of it.
//!
//! One staging of an item at a site is under way at a time, over all services: it has a lease. What a killed
//! service has begun, [`crate::background::refdata_stager`] begins again. A status that is given up and begins
//! anew is another: its staging is not ended by that of the earlier one, which is dropped.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

use cts_shared::id::RefdataId;
use cts_shared::site::Site;
use cts_shared::state::refdata::RefdataState;
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::refdata::RefdataUpdate;

use crate::app::App;
use crate::error::Error;
use crate::lease_store::{Lease, LeaseRequest};
use crate::refdata_stager::{RefdataStager, Staging, StagingError, StagingItem};
use crate::refdata_store::{Recorded, RefdataEvent, began, status_at};

/// How long a staging stays a service's own that does not go on with it.
const LEASE: Duration = Duration::from_mins(1);

/// How often one that goes on says so.
const RENEW_EVERY: Duration = Duration::from_secs(15);

/// Between the first two questions to one who does not answer; twice as long each time, up to [`MAX_DELAY`].
const FIRST_DELAY: Duration = Duration::from_secs(1);

const MAX_DELAY: Duration = Duration::from_secs(15);

/// Has reference data staged by a task of its own. Not in test mode (contract config.md).
pub fn in_background(app: &Arc<App>, id: &RefdataId, site: Site) -> JoinHandle<()> {
    let (app, id) = (Arc::clone(app), id.clone());
    tokio::spawn(async move {
        if !app.config.start_jobs {
            tracing::info!(refdata.id = %id, %site, "test mode: the reference data is not staged");
            return;
        }
        if let Err(error) = stage(&app, &id, site).await {
            tracing::warn!(refdata.id = %id, %site, %error, "the reference data is to be staged still");
        }
    })
}

/// Stages reference data at a site, unless that is done or somebody is at it.
async fn stage(app: &Arc<App>, id: &RefdataId, site: Site) -> Result<(), Error> {
    app.sites.available(site)?;
    let Some(stager) = app.refdata_stagers.of(site) else {
        return Ok(());
    };
    let now = app.clock.now();
    // Each try is a holder of its own: this service, too, may be at it twice.
    let lease = LeaseRequest {
        name: format!("stage reference data {id} at {site}"),
        holder: Uuid::new_v4().to_string(),
        now,
        until: now.plus(LEASE),
    };
    if app.leases.take_lease(lease.clone()).await? == Lease::Held {
        return Ok(());
    }
    let outcome = stage_under_lease(app, &**stager, id, site, &lease).await;
    // Nothing happens if it is another's by now.
    let given = app.leases.give_back_lease(lease.name, lease.holder);
    if let Err(error) = given.await {
        tracing::debug!(%error, "the lease of a staging lapses by itself");
    }
    outcome
}

async fn stage_under_lease(
    app: &App,
    stager: &dyn RefdataStager,
    id: &RefdataId,
    site: Site,
    lease: &LeaseRequest,
) -> Result<(), Error> {
    let Some(refdata) = app.refdata.refdata(id.clone()).await? else {
        return Ok(());
    };
    let Some(status) = status_at(&refdata, site) else {
        return Ok(());
    };
    let is_to_stage = match status.status.state {
        RefdataState::Created => true,
        RefdataState::DownloadSubmitted => !stager.hands_over(),
        RefdataState::Complete | RefdataState::Error => false,
    };
    if !is_to_stage {
        return Ok(());
    }
    let attempt = Attempt {
        app,
        stager,
        id,
        site,
        began: began(status),
    };
    let item = StagingItem {
        id: refdata.id,
        file: refdata.file,
        crc64nvme: refdata.crc64nvme,
        unpack: refdata.unpack,
    };
    tokio::select! {
        outcome = attempt.run(item) => outcome,
        reason = attempt.renew_until_lost(lease) => {
            tracing::warn!(refdata.id = %id, %site, reason, "a staging is dropped");
            Ok(())
        }
        () = app.stopping.cancelled() => Ok(()),
    }
}

/// The staging of a status, from its beginning to its end.
struct Attempt<'a> {
    app: &'a App,
    stager: &'a dyn RefdataStager,
    id: &'a RefdataId,
    site: Site,
    /// When the status began: one that takes its place is not this attempt's.
    began: UtcTime,
}

impl Attempt<'_> {
    async fn run(&self, item: StagingItem) -> Result<(), Error> {
        let (id, site) = (self.id, self.site);
        let outcome = match self.begin(item).await {
            Ok(Staging::HandedOver) => {
                tracing::info!(refdata.id = %id, %site, "the staging of reference data is another's now");
                return Ok(());
            }
            Ok(Staging::UnderWay(staged)) => {
                let submitted = self.enter(RefdataState::DownloadSubmitted, None);
                if let Recorded::Refused(_) | Recorded::Unknown = submitted.await? {
                    return Ok(());
                }
                staged.await
            }
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => self.enter(RefdataState::Complete, None).await.map(drop),
            Err(StagingError::Stopped) => Ok(()),
            Err(StagingError::Failed(problem) | StagingError::Unavailable(problem)) => {
                self.fail(problem).await
            }
        }
    }

    /// Asks for the staging; again for a while if there is no answer. What was heard, and only its answer lost, is
    /// not asked for twice: the existing server would stage it twice at the same time.
    async fn begin(&self, item: StagingItem) -> Result<Staging, StagingError> {
        let (id, site) = (self.id, self.site);
        let first = Instant::now();
        let mut delay = FIRST_DELAY;
        loop {
            let cause = match self.stager.stage(item.clone()).await {
                Err(StagingError::Unavailable(cause)) => cause,
                answer => return answer,
            };
            if first.elapsed() + delay > self.stager.ask_for() {
                return Err(StagingError::Unavailable(format!(
                    "{cause}; it was asked for {} s; when it answers, recover this with force=true",
                    first.elapsed().as_secs()
                )));
            }
            tracing::warn!(refdata.id = %id, %site, %cause, "asking again for reference data to be staged");
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(MAX_DELAY);
            match self.state().await {
                Ok(Some(RefdataState::Created)) => {}
                Ok(_) => return Ok(Staging::HandedOver),
                Err(error) => {
                    tracing::warn!(refdata.id = %id, %site, %error, "cannot look whether it is heard");
                }
            }
        }
    }

    /// Keeps the lease. Ends when the staging is no longer this attempt's, and says why.
    async fn renew_until_lost(&self, lease: &LeaseRequest) -> &'static str {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            let now = self.app.clock.now();
            let renewed = self.app.leases.take_lease(LeaseRequest {
                now,
                until: now.plus(LEASE),
                ..lease.clone()
            });
            match renewed.await {
                Ok(Lease::Held) => return "another service may stage it: this one was too slow",
                Ok(_) => {}
                // A staging that two are at is done once: whoever stages has a lock of their own.
                Err(error) => {
                    tracing::warn!(%error, "the lease of a staging could not be renewed");
                }
            }
            match self.state().await {
                Ok(Some(_)) => {}
                Ok(None) => return "it was given up, and begins anew",
                Err(error) => {
                    tracing::warn!(%error, "cannot look whether a staging is still wanted");
                }
            }
        }
    }

    /// The status's state; none if another took its place.
    async fn state(&self) -> Result<Option<RefdataState>, Error> {
        let refdata = self.app.refdata.refdata(self.id.clone()).await?;
        let status = refdata
            .as_ref()
            .and_then(|refdata| status_at(refdata, self.site));
        let same = status.filter(|status| began(status) == self.began);
        Ok(same.map(|status| status.status.state))
    }

    async fn enter(
        &self,
        state: RefdataState,
        only_from: Option<(RefdataState, &str)>,
    ) -> Result<Recorded, Error> {
        let event = RefdataEvent {
            state,
            time: self.app.clock.now(),
            only_from: only_from.map(|(from, _)| from),
            only_begun: Some(self.began),
            report: RefdataUpdate {
                admin_error: only_from.map(|(_, problem)| problem.to_owned()),
                traceback: None,
            },
        };
        let (id, site) = (self.id, self.site);
        let recorded = self.app.refdata.record_refdata(id.clone(), site, event);
        let recorded = recorded.await?;
        if recorded == Recorded::Entered {
            tracing::info!(refdata.id = %id, %site, refdata.state = %state, "reference data changed state");
        }
        Ok(recorded)
    }

    /// Records a failure. Whoever takes stagings over may have taken this one, and the answer was lost: then it
    /// has said so by the status, which is no longer `created`.
    async fn fail(&self, problem: String) -> Result<(), Error> {
        let (id, site) = (self.id, self.site);
        let from = if self.stager.hands_over() {
            &[RefdataState::Created][..]
        } else {
            &[RefdataState::Created, RefdataState::DownloadSubmitted]
        };
        for from in from {
            let failed = self.enter(RefdataState::Error, Some((*from, &problem)));
            if let Recorded::Entered | Recorded::AlreadyTrue | Recorded::Unknown = failed.await? {
                tracing::error!(refdata.id = %id, %site, %problem, "reference data could not be staged");
                return Ok(());
            }
        }
        tracing::warn!(
            refdata.id = %id, %site, %problem,
            "the staging is another's, who has not answered, or was given up"
        );
        Ok(())
    }
}
