//! Having reference data staged at a site, and recording what comes of it.
//!
//! One staging of an item at a site is under way at a time, over all services: it has a lease. What a killed
//! service has begun, [`crate::background::refdata_stager`] begins again.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use uuid::Uuid;

use cts_shared::id::RefdataId;
use cts_shared::site::Site;
use cts_shared::state::refdata::RefdataState;
use cts_shared::wire::refdata::RefdataUpdate;

use crate::app::App;
use crate::error::Error;
use crate::lease_store::{Lease, LeaseRequest};
use crate::refdata_stager::{RefdataStager, Staging, StagingError, StagingItem};
use crate::refdata_store::{Recorded, RefdataEvent, status_at};

/// How long a staging stays a service's own that does not go on with it.
const LEASE: Duration = Duration::from_mins(1);

/// How often one that goes on says so.
const RENEW_EVERY: Duration = Duration::from_secs(15);

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
    let request = LeaseRequest {
        name: format!("stage reference data {id} at {site}"),
        holder: Uuid::new_v4().to_string(),
        now,
        until: now.plus(LEASE),
    };
    if app.leases.take_lease(request.clone()).await? == Lease::Held {
        return Ok(());
    }
    let outcome = tokio::select! {
        outcome = stage_under_lease(app, &**stager, id, site) => outcome,
        () = renew_until_lost(app, &request) => {
            tracing::warn!(refdata.id = %id, %site, "another service may stage it: this one was too slow");
            return Ok(());
        }
        () = app.stopping.cancelled() => Ok(()),
    };
    let given = app.leases.give_back_lease(request.name, request.holder);
    if let Err(error) = given.await {
        tracing::debug!(%error, "the lease of a staging lapses by itself");
    }
    outcome
}

async fn renew_until_lost(app: &App, request: &LeaseRequest) {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        let now = app.clock.now();
        let renewed = app.leases.take_lease(LeaseRequest {
            now,
            until: now.plus(LEASE),
            ..request.clone()
        });
        match renewed.await {
            Ok(Lease::Held) => return,
            Ok(_) => {}
            // A staging that two are at is done once: whoever stages has a lock of their own.
            Err(error) => tracing::warn!(%error, "the lease of a staging could not be renewed"),
        }
    }
}

async fn stage_under_lease(
    app: &App,
    stager: &dyn RefdataStager,
    id: &RefdataId,
    site: Site,
) -> Result<(), Error> {
    let Some(refdata) = app.refdata.refdata(id.clone()).await? else {
        return Ok(());
    };
    let state = status_at(&refdata, site).map(|status| status.status.state);
    let is_to_stage = match state {
        Some(RefdataState::Created) => true,
        Some(RefdataState::DownloadSubmitted) => !stager.hands_over(),
        Some(RefdataState::Complete | RefdataState::Error) | None => false,
    };
    if !is_to_stage {
        return Ok(());
    }
    let item = StagingItem {
        id: refdata.id,
        file: refdata.file,
        crc64nvme: refdata.crc64nvme,
        unpack: refdata.unpack,
    };
    let recorder = Recorder { app, id, site };
    let outcome = match stager.stage(item).await {
        Ok(Staging::HandedOver) => {
            tracing::info!(refdata.id = %id, %site, "the staging of reference data is another's now");
            return Ok(());
        }
        Ok(Staging::UnderWay(staged)) => {
            let submitted = recorder.enter(RefdataState::DownloadSubmitted, None);
            if let Recorded::Refused(_) | Recorded::Unknown = submitted.await? {
                return Ok(());
            }
            staged.await
        }
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => recorder.enter(RefdataState::Complete, None).await.map(drop),
        Err(StagingError::Stopped) => Ok(()),
        Err(StagingError::Failed(problem)) => recorder.fail(stager, problem).await,
    }
}

struct Recorder<'a> {
    app: &'a App,
    id: &'a RefdataId,
    site: Site,
}

impl Recorder<'_> {
    async fn enter(
        &self,
        state: RefdataState,
        only_from: Option<(RefdataState, &str)>,
    ) -> Result<Recorded, Error> {
        let event = RefdataEvent {
            state,
            time: self.app.clock.now(),
            only_from: only_from.map(|(from, _)| from),
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
    async fn fail(&self, stager: &dyn RefdataStager, problem: String) -> Result<(), Error> {
        let (id, site) = (self.id, self.site);
        let from = if stager.hands_over() {
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
        tracing::warn!(refdata.id = %id, %site, %problem, "the staging is another's, who has not answered");
        Ok(())
    }
}
