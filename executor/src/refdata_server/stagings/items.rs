//! Where each item is on its way, as this server knows it. Nothing here waits.

use std::collections::BTreeMap;
use std::sync::Arc;

use cts_shared::id::RefdataId;
use cts_shared::site::Site;
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::refdata::RefdataUpdate;
use futures::future::{BoxFuture, Shared};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::super::error::ApiError;
use super::super::journal::{Note, Outcome};
use crate::refdata::StagingCounters;

/// Most failures that are remembered for those who look.
const MAX_FAILURES: usize = 1000;

/// Every item on its way.
#[derive(Debug, Default)]
pub(super) struct Items {
    /// Being checked at the service.
    pub(super) asked: BTreeMap<RefdataId, Asked>,
    /// Noted, and not forgotten yet.
    pub(super) live: BTreeMap<RefdataId, Live>,
    /// Why the last staging of an item failed.
    pub(super) failures: BTreeMap<RefdataId, String>,
    /// Number of the next one to come.
    next: u64,
}

/// What everyone who asks for an item at the same time is answered.
pub(super) type Answer = Shared<BoxFuture<'static, Result<(), ApiError>>>;

/// An item that is being checked at the service.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) site: Site,
    pub(super) answer: Answer,
}

/// An item that is noted.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) site: Site,
    /// Grows in the order of the queue.
    pub(super) number: u64,
    pub(super) since: UtcTime,
    pub(super) phase: Phase,
    pub(super) counters: Arc<StagingCounters>,
    /// Asked for while it was too late, or too early, for that to make a difference.
    pub(super) asked_again: bool,
    /// The report need not wait: the service is there, and asks.
    pub(super) hurry: Arc<Notify>,
    /// Cancelled when the item is nobody's business any more.
    pub(super) forgotten: CancellationToken,
}

/// Where an item is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The service is asked whether it still waits for it.
    Checking,
    Queued,
    Staging,
    Reporting,
    /// The note goes.
    Ending,
}

impl Items {
    /// From now on the item is one of those that are noted.
    pub(super) fn enlist(&mut self, note: &Note) {
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
        self.live.insert(note.id.clone(), live);
    }

    /// Whoever has asked for it until now gets what is staged from now on.
    pub(super) fn enter_queue(&mut self, note: &Note) {
        let number = self.next;
        self.next += 1;
        if let Some(live) = self.live.get_mut(&note.id) {
            live.phase = Phase::Queued;
            live.number = number;
            live.since = note.since;
            live.counters = Arc::default();
            live.asked_again = false;
        }
    }

    /// Gives where its progress is counted.
    pub(super) fn enter_staging(&mut self, id: &RefdataId) -> Arc<StagingCounters> {
        let live = self.live.get_mut(id);
        live.map_or_else(Arc::default, |live| {
            live.phase = Phase::Staging;
            Arc::clone(&live.counters)
        })
    }

    /// Gives what calls for haste with the report.
    pub(super) fn enter_reporting(&mut self, id: &RefdataId, outcome: &Outcome) -> Arc<Notify> {
        match outcome {
            Outcome::Failed(RefdataUpdate {
                admin_error: Some(failure),
                ..
            }) => {
                if self.failures.len() >= MAX_FAILURES {
                    self.failures.pop_first();
                }
                self.failures.insert(id.clone(), failure.clone());
            }
            _ => {
                self.failures.remove(id);
            }
        }
        let live = self.live.get_mut(id);
        live.map_or_else(Arc::default, |live| {
            live.phase = Phase::Reporting;
            Arc::clone(&live.hurry)
        })
    }

    /// Whether it was asked for while that made no difference. If not, nobody can any more until it is forgotten.
    pub(super) fn enter_ending(&mut self, id: &RefdataId) -> bool {
        let Some(live) = self.live.get_mut(id) else {
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

    /// Its note is gone; whoever waits to ask for it may.
    pub(super) fn forget(&mut self, id: &RefdataId) {
        if let Some(live) = self.live.remove(id) {
            live.forgotten.cancel();
        }
    }

    /// Counted from 1.
    pub(super) fn queue_position(&self, number: u64) -> usize {
        let before = |other: &&Live| other.phase == Phase::Queued && other.number < number;
        self.live.values().filter(before).count() + 1
    }
}
