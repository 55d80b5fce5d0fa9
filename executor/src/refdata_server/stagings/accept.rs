//! What is asked for: checked at the service, noted, and the service told that it begins.

use std::sync::OnceLock;
use std::time::Duration;

use cts_shared::crc64nvme::Crc64Nvme;
use cts_shared::error_code::ErrorCode;
use cts_shared::id::RefdataId;
use cts_shared::s3_path::S3Path;
use cts_shared::site::Site;
use cts_shared::state::refdata::RefdataState;
use cts_shared::wire::refdata::ReferenceData;
use futures::FutureExt;
use tokio_util::sync::CancellationToken;

use super::super::error::ApiError;
use super::super::journal::Note;
use super::super::reports::{Standing, Told, standing};
use super::items::{Answer, Asked, Phase};
use super::{Stagings, submitted};
use crate::coordinator::CoordinatorError;

/// Longest time that a request waits for the service.
const ASKING_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest time for the question whether the service has heard that a staging begins.
const SECOND_LOOK_TIMEOUT: Duration = Duration::from_secs(15);

/// When to ask again if the service does not answer.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// How an item that is asked for is found.
enum Asking {
    /// It is on its way, and its outcome will be told.
    Promised,
    /// It is on its way.
    OnItsWay,
    /// It is being checked at the service.
    Underway(Answer),
    /// Its note is about to go: only then it can be asked for.
    Ending(CancellationToken),
}

/// Takes an item off the list of those that are being checked when that has ended, however it has.
struct BeingAsked<'a>(&'a Stagings, &'a RefdataId);

impl Drop for BeingAsked<'_> {
    fn drop(&mut self) {
        self.0.items().asked.remove(self.1);
    }
}

impl Stagings {
    /// A site's service asks for an item. On return it is noted and the service knows; the rest is done in the
    /// background. Asking again changes nothing, unless the outcome is being reported: that is then of no use if
    /// the service has the item as created again.
    pub(in crate::refdata_server) async fn ask(
        &self,
        id: RefdataId,
        site: Site,
    ) -> Result<(), ApiError> {
        loop {
            match self.find_or_accept(&id, site)? {
                Asking::Promised => return Ok(()),
                Asking::OnItsWay => return self.tell_again(&id, site).await,
                Asking::Underway(answer) => return answer.await,
                Asking::Ending(forgotten) => forgotten.cancelled().await,
            }
        }
    }

    fn find_or_accept(&self, id: &RefdataId, site: Site) -> Result<Asking, ApiError> {
        let other_site = |other: Site| {
            ApiError::refused(
                ErrorCode::InvalidRefdataState,
                format!("reference data {id} is being staged for site {other}, not {site}"),
            )
        };
        let mut items = self.items();
        if let Some(live) = items.live.get_mut(id) {
            if live.site != site {
                return Err(other_site(live.site));
            }
            return Ok(match live.phase {
                Phase::Queued | Phase::Staging => Asking::OnItsWay,
                Phase::Checking | Phase::Reporting => {
                    live.asked_again = true;
                    live.hurry.notify_one();
                    Asking::Promised
                }
                Phase::Ending => Asking::Ending(live.forgotten.clone()),
            });
        }
        match items.asked.get(id) {
            Some(asked) if asked.site != site => return Err(other_site(asked.site)),
            Some(asked) => return Ok(Asking::Underway(asked.answer.clone())),
            None => {}
        }
        if self.0.stop.is_cancelled() {
            return Err(unavailable("this server is stopping".to_owned()));
        }
        // Not in the request's own task: it would be dropped with the caller's connection.
        let task = self.0.tasks.spawn(self.clone().accept(id.clone(), site));
        let answer: Answer = task
            .map(|ended| ended.unwrap_or_else(|error| Err(ApiError::Internal(error.to_string()))))
            .boxed()
            .shared();
        let asked = Asked {
            site,
            answer: answer.clone(),
        };
        items.asked.insert(id.clone(), asked);
        Ok(Asking::Underway(answer))
    }

    /// Of an item on its way: the service may have it as created, because it was recovered meanwhile or the word that it
    /// begins was lost. It would ask again and again, and take this server for one that is away.
    async fn tell_again(&self, id: &RefdataId, site: Site) -> Result<(), ApiError> {
        let service = &self.0.service;
        let telling = async {
            match standing(service, id, site).await? {
                Standing::Is(RefdataState::Created) => submitted(id, site).try_once(service).await,
                // What nobody waits for is found out at its end.
                Standing::Is(_) | Standing::Gone => Ok(Told::Taken),
            }
        };
        match tokio::time::timeout(ASKING_TIMEOUT, telling).await {
            Ok(Ok(Told::Taken | Told::Unwanted(_))) => Ok(()),
            Ok(Err(error)) => Err(from_service(error)),
            Err(_elapsed) => Err(unavailable("the service is too slow".to_owned())),
        }
    }

    async fn accept(self, id: RefdataId, site: Site) -> Result<(), ApiError> {
        // Also after a panic: whoever asks next begins afresh.
        let _asked = BeingAsked(&self, &id);
        let written = OnceLock::new();
        let noted = tokio::time::timeout(ASKING_TIMEOUT, self.check_and_note(&id, site, &written))
            .await
            .unwrap_or_else(|_elapsed| Err(unavailable("the service is too slow".to_owned())));
        // First the one, then the other: whoever asks finds it in one of them.
        match (noted, written.into_inner()) {
            (Ok(()), Some(note)) => self.begin(note),
            // What was not answered may have been heard.
            (Err(_), Some(note)) if self.is_submitted(&note).await => self.begin(note),
            // Only what this call wrote: another server over the same directories may have noted it.
            (Err(error), Some(_)) => {
                if let Err(error) = self.forget_note(&id).await {
                    tracing::error!(refdata.id = %id, %error, "a note that promises nothing is left");
                }
                return Err(error);
            }
            (noted, None) => return noted,
        }
        Ok(())
    }

    /// Whether the item is wanted; if so it is noted, and the service told that the staging begins.
    /// `written`: the note, once it is this call's.
    async fn check_and_note(
        &self,
        id: &RefdataId,
        site: Site,
        written: &OnceLock<Note>,
    ) -> Result<(), ApiError> {
        let refdata = self.0.service.refdata(id).await.map_err(from_service)?;
        let note = self.note(id, site, refdata)?;
        self.write_note(note.clone())
            .await
            .map_err(|error| ApiError::Internal(error.to_string()))?;
        let note = written.get_or_init(|| note);
        match submitted(&note.id, note.site)
            .try_once(&self.0.service)
            .await
        {
            Ok(Told::Taken) => Ok(()),
            Ok(Told::Unwanted(why)) => Err(ApiError::refused(
                ErrorCode::InvalidRefdataState,
                format!("reference data {id} is not wanted any more: {why}"),
            )),
            Err(error) => Err(from_service(error)),
        }
    }

    fn note(
        &self,
        id: &RefdataId,
        site: Site,
        refdata: Option<ReferenceData>,
    ) -> Result<Note, ApiError> {
        let refdata = refdata.ok_or_else(|| {
            ApiError::refused(
                ErrorCode::NoSuchRefdata,
                format!("No reference data with ID '{id}' exists"),
            )
        })?;
        let status = refdata
            .statuses
            .iter()
            .find(|status| status.cluster == site);
        let state = status.map(|status| status.state);
        if state != Some(RefdataState::Created) {
            let state = state.map_or("not known", RefdataState::as_str);
            return Err(ApiError::refused(
                ErrorCode::InvalidRefdataState,
                format!(
                    "reference data {id} is {state} at site {site}, only what is created can be staged; \
                     let an administrator recover it"
                ),
            ));
        }
        let unusable = |what: &str, cause: String| {
            ApiError::Internal(format!(
                "the service's reference data {id} has no {what} that can be used: {cause}"
            ))
        };
        let crc64nvme = refdata.crc64nvme.as_deref().unwrap_or_default();
        Ok(Note {
            id: id.clone(),
            site,
            file: S3Path::parse(&refdata.file)
                .map_err(|error| unusable("file", error.to_string()))?,
            crc64nvme: Crc64Nvme::from_base64(crc64nvme)
                .map_err(|error| unusable("crc64nvme", error.to_string()))?,
            unpack: refdata.unpack,
            since: self.0.clock.now(),
            outcome: None,
        })
    }

    /// Whether the service has heard that the staging begins. Not certain: no.
    async fn is_submitted(&self, note: &Note) -> bool {
        let asked = standing(&self.0.service, &note.id, note.site);
        let answer = tokio::time::timeout(SECOND_LOOK_TIMEOUT, asked).await;
        matches!(
            answer,
            Ok(Ok(Standing::Is(RefdataState::DownloadSubmitted)))
        )
    }

    /// Does in the background what was asked for.
    fn begin(&self, note: Note) {
        self.items().enlist(&note);
        // Here, not in the task: whoever looks sees it in the order in which it was asked for.
        self.items().enter_queue(&note);
        let this = self.clone();
        self.0
            .tasks
            .spawn(async move { this.carry_out(note, true).await });
    }
}

fn from_service(error: CoordinatorError) -> ApiError {
    if error.is_permanent() {
        ApiError::Internal(error.to_string())
    } else {
        unavailable(error.to_string())
    }
}

const fn unavailable(message: String) -> ApiError {
    ApiError::Unavailable {
        message,
        retry_after: ASK_AGAIN_AFTER,
    }
}
