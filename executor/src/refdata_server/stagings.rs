//! The items that were asked for, from the request to the service's receipt of the outcome.
//!
//! ```text
//!   ask ▶ checked at the service ▶ noted ▶ download_submitted told ▶ queued ▶ staging ▶ reporting ▶ forgotten
//!                                    ▲                                                      │
//!   next start: every note ──────────┴──────── asked again meanwhile, and still wanted ◀────┘
//! ```

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use cts_shared::crc64nvme::Crc64Nvme;
use cts_shared::error_code::ErrorCode;
use cts_shared::id::RefdataId;
use cts_shared::s3_path::S3Path;
use cts_shared::site::Site;
use cts_shared::state::refdata::RefdataState;
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::refdata::{
    RefdataLocalState, RefdataLocalStatus, RefdataUpdate, ReferenceData, StagingProgress,
};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use serde::Serialize;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::area::StagingArea;
use super::error::ApiError;
use super::journal::{Journal, JournalError, Note, Outcome};
use super::reports::{Report, Standing, Told, standing};
use super::service::RefdataService;
use crate::clock::Clock;
use crate::coordinator::CoordinatorError;
use crate::refdata::{ItemState, RefdataError, StagedItem, StagingCounters};

/// Longest time that a request waits for the service.
const ASKING_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest time for the question whether the service has heard that a staging begins.
const SECOND_LOOK_TIMEOUT: Duration = Duration::from_secs(15);

/// When to ask again if the service does not answer.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Between two lines about a staging in the log.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Most failures that are remembered for those who look.
const MAX_FAILURES: usize = 1000;

/// What a [`Stagings`] works with.
#[derive(Debug)]
pub struct StagingsSettings {
    /// Where items are staged.
    pub area: Arc<dyn StagingArea>,
    /// Who asks, and hears what came of it.
    pub service: RefdataService,
    /// The directory with the notes.
    pub metadata: PathBuf,
    /// Most items that are staged at the same time.
    pub concurrency: NonZeroUsize,
    /// Waits between reports.
    pub clock: Arc<dyn Clock>,
}

/// All stagings of this server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stagings(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    area: Arc<dyn StagingArea>,
    service: RefdataService,
    journal: Journal,
    clock: Arc<dyn Clock>,
    room: Semaphore,
    items: Mutex<Items>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Items {
    /// Being checked at the service.
    asked: BTreeMap<RefdataId, Asked>,
    /// Noted, and not forgotten yet.
    live: BTreeMap<RefdataId, Live>,
    /// Why the last staging of an item failed.
    failures: BTreeMap<RefdataId, String>,
    /// Number of the next one to come.
    next: u64,
}

type Answer = Shared<BoxFuture<'static, Result<(), ApiError>>>;

#[derive(Debug)]
struct Asked {
    site: Site,
    answer: Answer,
}

#[derive(Debug)]
struct Live {
    site: Site,
    /// Grows in the order of the queue.
    number: u64,
    since: UtcTime,
    phase: Phase,
    counters: Arc<StagingCounters>,
    /// Asked for while it was too late, or too early, for that to make a difference.
    asked_again: bool,
    /// The report need not wait: the service is there, and asks.
    hurry: Arc<Notify>,
    /// Cancelled when the item is nobody's business any more.
    forgotten: CancellationToken,
}

/// Where an item is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The service is asked whether it still waits for it.
    Checking,
    Queued,
    Staging,
    Reporting,
    /// The note goes.
    Ending,
}

/// An item as administrators see it.
#[derive(Debug, Serialize)]
pub(super) struct ItemView {
    id: RefdataId,
    state: ViewState,
    /// Bytes and files of a complete item.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<u64>,
    /// When it was asked for; of one that is complete, when it became so.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<UtcTime>,
    /// 1 for the next to be staged.
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_position: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<StagingProgress>,
    /// The service has not taken the outcome yet.
    reporting: bool,
    /// What is wrong with what is on the disk, or why the last staging failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// How an item is on this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum ViewState {
    /// Nothing is there: its staging failed.
    None,
    /// It waits for its turn.
    Queued,
    /// It is on its way, or another process works on it.
    Staging,
    /// It is complete.
    Done,
    /// What is there is not complete, and nobody works on it.
    Damaged,
}

/// How an item that is asked for is found.
enum Asking {
    /// It is on its way.
    Promised,
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

/// The server stops: what is not finished is left to the next start.
struct Interrupted;

impl Stagings {
    /// No stagings yet. Call [`take_up`](Self::take_up) before anything is asked for.
    #[must_use]
    pub fn new(settings: StagingsSettings) -> Self {
        Self(Arc::new(Inner {
            area: settings.area,
            service: settings.service,
            journal: Journal::new(settings.metadata),
            clock: settings.clock,
            room: Semaphore::new(settings.concurrency.get().min(Semaphore::MAX_PERMITS)),
            items: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }))
    }

    /// Goes on with everything that an earlier server left unfinished.
    ///
    /// # Errors
    /// When the notes cannot be listed.
    pub async fn take_up(&self) -> Result<(), String> {
        let notes = self
            .with_journal(|journal| journal.read_all())
            .await
            .map_err(|error| error.to_string())?;
        for note in notes {
            tracing::info!(
                refdata.id = %note.id, s3.object = %note.file,
                "taking up what an earlier server left"
            );
            self.enlist(&note);
            let this = self.clone();
            self.0
                .tasks
                .spawn(async move { this.carry_out(note, false).await });
        }
        Ok(())
    }

    /// A site's service asks for an item. On return it is noted and the service knows; the rest is done in the
    /// background. Asking again changes nothing, unless the outcome is being reported: that is then of no use if
    /// the service has the item as created again.
    pub(super) async fn ask(&self, id: RefdataId, site: Site) -> Result<(), ApiError> {
        loop {
            match self.find_or_accept(&id, site)? {
                Asking::Promised => return Ok(()),
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
                Phase::Queued | Phase::Staging => Asking::Promised,
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
        match submitted(note).try_once(&self.0.service).await {
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
        self.enlist(&note);
        // Here, not in the task: whoever looks sees it in the order in which it was asked for.
        self.enter_queue(&note);
        let this = self.clone();
        self.0
            .tasks
            .spawn(async move { this.carry_out(note, true).await });
    }

    /// From now on the item is one of those that are noted.
    fn enlist(&self, note: &Note) {
        let live = Live {
            site: note.site,
            number: 0,
            since: note.since,
            phase: Phase::Checking,
            counters: Arc::default(),
            asked_again: false,
            hurry: Arc::default(),
            forgotten: CancellationToken::new(),
        };
        self.items().live.insert(note.id.clone(), live);
    }

    /// Whoever has asked for it until now gets what is staged from now on.
    fn enter_queue(&self, note: &Note) {
        let mut items = self.items();
        let number = items.next;
        items.next += 1;
        if let Some(live) = items.live.get_mut(&note.id) {
            live.phase = Phase::Queued;
            live.number = number;
            live.since = note.since;
            live.counters = Arc::default();
            live.asked_again = false;
        }
    }

    fn enter_staging(&self, id: &RefdataId) -> Arc<StagingCounters> {
        let mut items = self.items();
        let live = items.live.get_mut(id);
        live.map_or_else(Arc::default, |live| {
            live.phase = Phase::Staging;
            Arc::clone(&live.counters)
        })
    }

    /// Gives what calls for haste with the report.
    fn enter_reporting(&self, id: &RefdataId, outcome: &Outcome) -> Arc<Notify> {
        let mut items = self.items();
        match outcome {
            Outcome::Failed(RefdataUpdate {
                admin_error: Some(failure),
                ..
            }) => {
                if items.failures.len() >= MAX_FAILURES {
                    items.failures.pop_first();
                }
                items.failures.insert(id.clone(), failure.clone());
            }
            _ => {
                items.failures.remove(id);
            }
        }
        let live = items.live.get_mut(id);
        live.map_or_else(Arc::default, |live| {
            live.phase = Phase::Reporting;
            Arc::clone(&live.hurry)
        })
    }

    /// Whether it was asked for while that made no difference. If not, nobody can any more until it is forgotten.
    fn enter_ending(&self, id: &RefdataId) -> bool {
        let mut items = self.items();
        let Some(live) = items.live.get_mut(id) else {
            return false;
        };
        let is_asked_again = std::mem::take(&mut live.asked_again);
        live.phase = if is_asked_again {
            Phase::Checking
        } else {
            Phase::Ending
        };
        is_asked_again
    }

    /// Whether the service still waits for an item that was noted earlier. While the service is away, it is taken
    /// to. If it has the item as created, a failure that was noted is of the time before, and forgotten.
    async fn is_still_wanted(&self, note: &mut Note) -> Result<bool, Interrupted> {
        let asked = standing(&self.0.service, &note.id, note.site);
        let answer = self.unless_stopped(asked).await?;
        match answer {
            Ok(Standing::Is(RefdataState::Created)) => {
                if matches!(note.outcome, Some(Outcome::Failed(_))) {
                    note.outcome = None;
                }
                let told = submitted(note).try_once(&self.0.service);
                if let Err(error) = self.unless_stopped(told).await? {
                    // It is made up for when the staging is complete.
                    tracing::warn!(refdata.id = %note.id, %error, "cannot report that the staging begins");
                }
                Ok(true)
            }
            Ok(Standing::Is(RefdataState::DownloadSubmitted)) => Ok(true),
            Ok(standing) => {
                let state = match standing {
                    Standing::Gone => "gone".to_owned(),
                    Standing::Is(state) => state.to_string(),
                };
                tracing::warn!(
                    refdata.id = %note.id, state,
                    "dropping what was asked for earlier: the service does not wait for it"
                );
                Ok(false)
            }
            Err(error) => {
                tracing::warn!(
                    refdata.id = %note.id, %error,
                    "the service does not say whether it still waits, staging all the same"
                );
                Ok(true)
            }
        }
    }

    /// Queues an item that was noted earlier, unless only its report is left to do, or not even that.
    async fn take_up_again(&self, note: &mut Note) -> Result<bool, Interrupted> {
        let is_wanted = self.is_still_wanted(note).await?;
        if is_wanted && note.outcome.is_none() {
            self.enter_queue(note);
        }
        Ok(is_wanted)
    }

    /// Sees a noted item through; or leaves its note to the next start.
    async fn carry_out(&self, note: Note, is_new: bool) {
        let id = note.id.clone();
        if let Err(Interrupted) = self.see_through(note, is_new).await {
            tracing::info!(refdata.id = %id, "left to the next start");
        }
    }

    /// Stages an item, tells the service, and forgets it; as often as it is asked for meanwhile. Unless it is new,
    /// the service may not wait for it any more.
    async fn see_through(&self, mut note: Note, is_new: bool) -> Result<(), Interrupted> {
        let mut is_wanted = is_new || self.take_up_again(&mut note).await?;
        loop {
            if is_wanted {
                self.stage_and_report(&note).await?;
            }
            if !self.enter_ending(&note.id) {
                break;
            }
            note.outcome = None;
            note.since = self.0.clock.now();
            if let Err(error) = self.write_note(note.clone()).await {
                // The old one is a promise as well.
                tracing::error!(refdata.id = %note.id, %error, "cannot note that it was asked for again");
            }
            is_wanted = self.take_up_again(&mut note).await?;
        }
        if let Err(error) = self.forget_note(&note.id).await {
            // The next start will find that the service knows.
            tracing::error!(refdata.id = %note.id, %error, "a finished note is left");
        }
        if let Some(live) = self.items().live.remove(&note.id) {
            live.forgotten.cancel();
        }
        Ok(())
    }

    /// Stages an item, notes what came of it, and tells the service.
    async fn stage_and_report(&self, note: &Note) -> Result<(), Interrupted> {
        let (outcome, is_fresh) = match note.outcome.clone() {
            Some(outcome) => (outcome, false),
            None => (self.stage_and_note(note).await?, true),
        };
        let hurry = self.enter_reporting(&note.id, &outcome);
        let (state, failure) = match &outcome {
            Outcome::Complete => (RefdataState::Complete, None),
            Outcome::Failed(failure) => (RefdataState::Error, Some(failure)),
        };
        let report = Report {
            id: &note.id,
            site: note.site,
            state,
            failure,
        };
        let delivery = report.deliver(&self.0.service, self.0.clock.as_ref(), &hurry, is_fresh);
        match self.unless_stopped(delivery).await? {
            Told::Taken => tracing::info!(refdata.id = %note.id, %state, "the service knows"),
            Told::Unwanted(why) => {
                tracing::warn!(refdata.id = %note.id, %state, why, "nobody waits for the report");
            }
        }
        Ok(())
    }

    async fn stage_and_note(&self, note: &Note) -> Result<Outcome, Interrupted> {
        let outcome = self.stage(note).await?;
        let ended = Note {
            outcome: Some(outcome.clone()),
            ..note.clone()
        };
        if let Err(error) = self.write_note(ended).await {
            // Only costs another look at the disk, or another staging, if this server is killed before the
            // report is taken.
            tracing::error!(refdata.id = %note.id, %error, "cannot note the outcome");
        }
        Ok(outcome)
    }

    /// Waits for a turn and stages.
    async fn stage(&self, note: &Note) -> Result<Outcome, Interrupted> {
        // Without one the semaphore was closed, which nobody does.
        let _turn = self.unless_stopped(self.0.room.acquire()).await?;
        let counters = self.enter_staging(&note.id);
        tracing::info!(
            refdata.id = %note.id, s3.object = %note.file, unpack = note.unpack, "staging begins"
        );
        let begun = Instant::now();
        let item = note.item();
        let staging = self
            .0
            .area
            .stage(&item, Arc::clone(&counters), &self.0.stop);
        let result = tokio::select! {
            result = staging => result,
            never = log_progress(&note.id, &counters) => match never {},
        };
        let seconds = begun.elapsed().as_secs();
        match result {
            Ok(staged) => {
                tracing::info!(
                    refdata.id = %note.id, bytes = staged.bytes, files = staged.files, seconds,
                    was_there = staged.was_there, "staging is done"
                );
                Ok(Outcome::Complete)
            }
            Err(error) if error.is_cancelled() => Err(Interrupted),
            Err(error) => {
                tracing::error!(refdata.id = %note.id, %error, seconds, "staging failed");
                Ok(Outcome::Failed(RefdataUpdate {
                    admin_error: Some(error.to_string()),
                    traceback: Some(chain(&error)),
                }))
            }
        }
    }

    async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T, Interrupted> {
        tokio::select! {
            // What another one leaves when it stops is not begun with.
            biased;
            () = self.0.stop.cancelled() => Err(Interrupted),
            done = work => Ok(done),
        }
    }

    async fn write_note(&self, note: Note) -> Result<(), JournalError> {
        self.with_journal(move |journal| journal.write(&note)).await
    }

    async fn forget_note(&self, id: &RefdataId) -> Result<(), JournalError> {
        let id = id.clone();
        self.with_journal(move |journal| journal.remove(&id)).await
    }

    /// How far an item is: what the disk says, and what is known of it beyond that.
    pub(super) async fn status(&self, id: &RefdataId) -> Result<RefdataLocalStatus, ApiError> {
        let area = Arc::clone(&self.0.area);
        let on_disk = id.clone();
        let mut status = blocking(move || area.status(&on_disk))
            .await
            .map_err(from_disk)?;
        let items = self.items();
        status.error = items.failures.get(id).cloned();
        if let Some(live) = items.live.get(id)
            && !matches!(live.phase, Phase::Reporting | Phase::Ending)
        {
            status.state = RefdataLocalState::Staging;
            status.files = None;
            status.progress = Some(live.counters.snapshot());
        }
        Ok(status)
    }

    /// Every item that is on the disk, on its way, or failed.
    pub(super) async fn list(&self) -> Result<Vec<ItemView>, ApiError> {
        let area = Arc::clone(&self.0.area);
        let staged = blocking(move || area.list()).await.map_err(from_disk)?;
        let items = self.items();
        let mut views: BTreeMap<RefdataId, ItemView> = staged
            .into_iter()
            .map(|staged| (staged.id.clone(), ItemView::of_disk(staged)))
            .collect();
        for (id, failure) in &items.failures {
            let view = views
                .entry(id.clone())
                .or_insert_with(|| ItemView::nothing(id));
            view.error = Some(failure.clone());
        }
        for (id, live) in &items.live {
            let view = views
                .entry(id.clone())
                .or_insert_with(|| ItemView::nothing(id));
            match live.phase {
                Phase::Checking | Phase::Queued => {
                    *view = ItemView {
                        state: ViewState::Queued,
                        since: Some(live.since),
                        queue_position: (live.phase == Phase::Queued)
                            .then(|| items.queue_position(live.number)),
                        ..ItemView::nothing(id)
                    };
                }
                Phase::Staging => {
                    *view = ItemView {
                        state: ViewState::Staging,
                        since: Some(live.since),
                        progress: Some(live.counters.snapshot()),
                        ..ItemView::nothing(id)
                    };
                }
                Phase::Reporting => view.reporting = true,
                Phase::Ending => {}
            }
        }
        Ok(views.into_values().collect())
    }

    /// Breaks all stagings off, and waits until they have cleaned up, but no longer than `limit`.
    pub async fn stop(&self, limit: Duration) {
        self.0.stop.cancel();
        self.0.tasks.close();
        if tokio::time::timeout(limit, self.0.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("stagings do not end in time; the next start cleans up after them");
        }
    }

    fn items(&self) -> MutexGuard<'_, Items> {
        self.0.items.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn with_journal<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Journal) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        let journal = self.0.journal.clone();
        blocking(move || work(&journal)).await
    }
}

impl Items {
    /// Counted from 1.
    fn queue_position(&self, number: u64) -> usize {
        let before = |other: &&Live| other.phase == Phase::Queued && other.number < number;
        self.live.values().filter(before).count() + 1
    }
}

impl ItemView {
    fn nothing(id: &RefdataId) -> Self {
        Self {
            id: id.clone(),
            state: ViewState::None,
            bytes: None,
            files: None,
            since: None,
            queue_position: None,
            progress: None,
            reporting: false,
            error: None,
        }
    }

    fn of_disk(staged: StagedItem) -> Self {
        Self {
            state: match staged.state {
                ItemState::Staging => ViewState::Staging,
                ItemState::Done => ViewState::Done,
                ItemState::Damaged | ItemState::Foreign => ViewState::Damaged,
            },
            bytes: staged.bytes,
            files: staged.files,
            since: staged.since.map(UtcTime::new),
            error: staged.problem,
            ..Self::nothing(&staged.id)
        }
    }
}

/// The word that a staging begins.
const fn submitted(note: &Note) -> Report<'_> {
    Report {
        id: &note.id,
        site: note.site,
        state: RefdataState::DownloadSubmitted,
        failure: None,
    }
}

/// Work that blocks, on a thread for that.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        // It is never cancelled, so it panicked, and that goes on here.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// A line about a staging, again and again; never ends.
async fn log_progress(id: &RefdataId, counters: &StagingCounters) -> Infallible {
    loop {
        tokio::time::sleep(PROGRESS_EVERY).await;
        let progress = counters.snapshot();
        tracing::info!(
            refdata.id = %id,
            downloaded_bytes = progress.downloaded_bytes,
            object_bytes = progress.object_bytes,
            unpacked_bytes = progress.unpacked_bytes,
            unpacked_files = progress.unpacked_files,
            bytes_per_second = progress.bytes_per_second,
            "staging goes on"
        );
    }
}

/// An error and what caused it, a line each.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let lines: Vec<String> = causes.map(ToString::to_string).collect();
    lines.join("\ncaused by: ")
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

fn from_disk(error: RefdataError) -> ApiError {
    ApiError::Internal(error.to_string())
}
