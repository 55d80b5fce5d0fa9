//! The items that were asked for, from the request to the service's receipt of the outcome.
//!
//! ```text
//!   ask ▶ checked at the service ▶ noted ▶ download_submitted told ▶ queued ▶ staging ▶ reporting ▶ forgotten
//!                                    ▲                                                      │
//!   next start: every note ──────────┴──────── asked again meanwhile, and still wanted ◀────┘
//! ```

use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cts_shared::id::RefdataId;
use cts_shared::site::Site;
use cts_shared::state::refdata::RefdataState;
use cts_shared::wire::refdata::RefdataUpdate;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::area::StagingArea;
use super::journal::{Journal, JournalError, Note, Outcome};
use super::reports::{Report, Standing, Told, standing};
use super::service::RefdataService;
use crate::clock::Clock;
use crate::refdata::StagingCounters;
use items::Items;

mod accept;
mod items;
mod view;

pub(super) use view::ItemView;

/// Between two lines about a staging in the log.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

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
            self.items().enlist(&note);
            let this = self.clone();
            self.0
                .tasks
                .spawn(async move { this.carry_out(note, false).await });
        }
        Ok(())
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
                let told = submitted(&note.id, note.site).try_once(&self.0.service);
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
            self.items().enter_queue(note);
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
            if !self.items().enter_ending(&note.id) {
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
        self.items().forget(&note.id);
        Ok(())
    }

    /// Stages an item, notes what came of it, and tells the service.
    async fn stage_and_report(&self, note: &Note) -> Result<(), Interrupted> {
        let (outcome, is_fresh) = match note.outcome.clone() {
            Some(outcome) => (outcome, false),
            None => (self.stage_and_note(note).await?, true),
        };
        let hurry = self.items().enter_reporting(&note.id, &outcome);
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
        let counters = self.items().enter_staging(&note.id);
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

/// The word that a staging begins.
const fn submitted(id: &RefdataId, site: Site) -> Report<'_> {
    Report {
        id,
        site,
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
