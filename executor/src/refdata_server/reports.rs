//! Tells the service what came of a staging, for as long as it takes.
//!
//! A refusal may be the trace of a report that was taken and whose answer was lost: the existing service refuses
//! what it has heard already. So whatever it refuses, it is asked for the state, which decides.

use cts_shared::id::RefdataId;
use cts_shared::site::Site;
use cts_shared::state::refdata::RefdataState;
use cts_shared::wire::refdata::RefdataUpdate;
use tokio::sync::Notify;

use super::service::RefdataService;
use crate::clock::Clock;
use crate::coordinator::CoordinatorError;
use crate::report::wait_after_failure;

/// A state that the service is to learn of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Report<'a> {
    pub(super) id: &'a RefdataId,
    pub(super) site: Site,
    pub(super) state: RefdataState,
    /// Goes with [`RefdataState::Error`].
    pub(super) failure: Option<&'a RefdataUpdate>,
}

/// How one try ended.
#[derive(Debug)]
pub(super) enum Told {
    /// The service has the state.
    Taken,
    /// Nobody waits for it: the item is gone, or its status went another way.
    Unwanted(String),
}

/// What the service says of an item at a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// No such item, or none for this site.
    Gone,
    /// The state it has.
    Is(RefdataState),
}

/// Asks the service for the state.
pub(super) async fn standing(
    service: &RefdataService,
    id: &RefdataId,
    site: Site,
) -> Result<Standing, CoordinatorError> {
    let refdata = service.refdata(id).await?;
    let status = refdata
        .iter()
        .flat_map(|refdata| &refdata.statuses)
        .find(|status| status.cluster == site);
    Ok(status.map_or(Standing::Gone, |status| Standing::Is(status.state)))
}

impl Report<'_> {
    /// Tries until the service has taken it or does not want it; at once when `hurry` says that it asks. Of a
    /// report that is not fresh the service may have heard.
    pub(super) async fn deliver(
        self,
        service: &RefdataService,
        clock: &dyn Clock,
        hurry: &Notify,
        is_fresh: bool,
    ) -> Told {
        let mut tries = 0;
        loop {
            let told = if is_fresh && tries == 0 {
                self.try_once(service).await
            } else {
                self.try_again(service).await
            };
            let error = match told {
                Ok(told) => return told,
                Err(error) => error,
            };
            tries += 1;
            let wait = wait_after_failure(tries);
            tracing::warn!(
                refdata.id = %self.id, %error, tries, wait_secs = wait.as_secs(),
                "cannot report {}, trying again", self.state
            );
            tokio::select! {
                () = hurry.notified() => {}
                () = clock.sleep(wait) => {}
            }
        }
    }

    /// A failure that the service has heard of may have been recovered since. It must not be told once more.
    async fn try_again(self, service: &RefdataService) -> Result<Told, CoordinatorError> {
        if self.state == RefdataState::Error
            && standing(service, self.id, self.site).await? == Standing::Is(RefdataState::Created)
        {
            return Ok(Told::Unwanted("it was recovered meanwhile".to_owned()));
        }
        self.try_once(service).await
    }

    /// One try: the report, and what the service's state makes of a failure.
    pub(super) async fn try_once(self, service: &RefdataService) -> Result<Told, CoordinatorError> {
        let Err(error) = self.send(service, self.state).await else {
            return Ok(Told::Taken);
        };
        if !error.is_permanent() && !error.is_ambiguous() {
            return Err(error);
        }
        match standing(service, self.id, self.site).await? {
            Standing::Is(state) if state == self.state => Ok(Told::Taken),
            Standing::Gone => Ok(Told::Unwanted("the service has no such item".to_owned())),
            // Somebody recovered it meanwhile, or the word that the staging begins was lost.
            Standing::Is(RefdataState::Created) if self.state == RefdataState::Complete => {
                self.send(service, RefdataState::DownloadSubmitted).await?;
                self.send(service, self.state).await?;
                Ok(Told::Taken)
            }
            Standing::Is(state) if self.state.predecessors().contains(&state) => Err(error),
            Standing::Is(state) => Ok(Told::Unwanted(format!("the service has it as {state}"))),
        }
    }

    async fn send(
        self,
        service: &RefdataService,
        state: RefdataState,
    ) -> Result<(), CoordinatorError> {
        service
            .update(self.id, self.site, state, self.failure)
            .await
    }
}
