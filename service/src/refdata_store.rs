//! What the service remembers about reference data, and the trait of whatever keeps it.

use std::time::Duration;

use futures::future::BoxFuture;

use cts_shared::id::RefdataId;
use cts_shared::site::Site;
use cts_shared::state::Step;
use cts_shared::state::refdata::{IllegalRefdataTransition, RefdataState};
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::refdata::{
    AdminRefdataStatus, RefdataStatus, RefdataTransition, RefdataUpdate, ReferenceData,
};

use crate::job_store::StoreError;

/// At most this many are listed (contract service.md, section 10).
pub const MAX_LISTED_REFDATA: u32 = 1000;

/// What users are told of a staging that failed (contract service.md, section 5.5).
pub const USER_ERROR: &str = "An unexpected error occurred";

/// Reference data as it is remembered: as administrators see it.
pub type Refdata = ReferenceData<AdminRefdataStatus>;

/// Reference data enters a state at a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefdataEvent {
    /// The state.
    pub state: RefdataState,
    /// When, by the service's clock.
    pub time: UtcTime,
    /// The state it must be in, where only that one will do.
    pub only_from: Option<RefdataState>,
    /// When the status must have begun ([`began`]), where only that one will do and none that took its place.
    pub only_begun: Option<UtcTime>,
    /// What went wrong; counts for [`RefdataState::Error`] only.
    pub report: RefdataUpdate,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// The state was entered.
    Entered,
    /// It was the state already.
    AlreadyTrue,
    /// It cannot follow the current state, which stays.
    Refused(RefdataState),
    /// There is no such reference data, or it has no status for the site.
    Unknown,
}

/// What became of a status that was to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// It is in state `created`.
    Yes,
    /// There is one that has not failed, or whose staging was not cleaned up: it is in this state.
    Exists(RefdataState),
    /// There is no such reference data.
    Unknown,
}

/// Keeps registered reference data.
pub trait RefdataStore: Send + Sync + std::fmt::Debug {
    /// Registers reference data unless its file is registered: false then.
    ///
    /// # Errors
    /// When the store fails.
    fn insert_refdata(&self, refdata: Refdata) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// The reference data of that id, if there is any.
    ///
    /// # Errors
    /// When the store fails.
    fn refdata(&self, id: RefdataId) -> BoxFuture<'_, Result<Option<Refdata>, StoreError>>;

    /// The reference data of exactly that file: the existing service may have registered it twice.
    ///
    /// # Errors
    /// When the store fails.
    fn refdata_of_file(&self, file: String) -> BoxFuture<'_, Result<Vec<Refdata>, StoreError>>;

    /// At most [`MAX_LISTED_REFDATA`], by file.
    ///
    /// # Errors
    /// When the store fails.
    fn list_refdata(&self) -> BoxFuture<'_, Result<Vec<Refdata>, StoreError>>;

    /// Has reference data enter a state at a site, if that may follow the state it is in at that moment.
    ///
    /// # Errors
    /// When the store fails.
    fn record_refdata(
        &self,
        id: RefdataId,
        site: Site,
        event: RefdataEvent,
    ) -> BoxFuture<'_, Result<Recorded, StoreError>>;

    /// Gives reference data a status for a site, in state `created`: it has none, or one that failed and was
    /// cleaned, which this replaces. None of the same site has begun at the same time.
    ///
    /// # Errors
    /// When the store fails.
    fn begin_refdata(
        &self,
        id: RefdataId,
        site: Site,
        time: UtcTime,
    ) -> BoxFuture<'_, Result<Begun, StoreError>>;

    /// Notes that what a staging left behind was removed. Changes nothing while it is under way.
    ///
    /// # Errors
    /// When the store fails.
    fn mark_refdata_cleaned(
        &self,
        id: RefdataId,
        site: Site,
    ) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Ended before that time and not cleaned.
    ///
    /// # Errors
    /// When the store fails.
    fn refdata_to_clean(
        &self,
        before: UtcTime,
    ) -> BoxFuture<'_, Result<Vec<(RefdataId, Site)>, StoreError>>;

    /// All that is not staged somewhere where it is to be, and has not failed there.
    ///
    /// # Errors
    /// When the store fails.
    fn unstaged_refdata(&self) -> BoxFuture<'_, Result<Vec<Refdata>, StoreError>>;
}

/// The status for a site.
#[must_use]
pub fn status_at(refdata: &Refdata, site: Site) -> Option<&AdminRefdataStatus> {
    let mut statuses = refdata.statuses.iter();
    statuses.find(|status| status.status.cluster == site)
}

/// A status that begins.
#[must_use]
pub fn new_status(site: Site, time: UtcTime) -> AdminRefdataStatus {
    AdminRefdataStatus {
        status: RefdataStatus {
            cluster: site,
            state: RefdataState::Created,
            transition_times: vec![RefdataTransition {
                state: RefdataState::Created,
                time,
            }],
            error: None,
        },
        cleaned: false,
        nersc_download_task_id: None,
        admin_error: None,
        traceback: None,
    }
}

/// The status that takes the place of one that failed. It begins later, whatever the clocks of several services
/// say.
pub(crate) fn begin_anew(failed: &AdminRefdataStatus, time: UtcTime) -> AdminRefdataStatus {
    let after = last_change(failed).plus(Duration::from_millis(1));
    new_status(failed.status.cluster, time.max(after))
}

/// When a status began: it tells a status from those that had its place before.
#[must_use]
pub fn began(status: &AdminRefdataStatus) -> UtcTime {
    time_of(status.status.transition_times.first())
}

/// When a status last changed.
#[must_use]
pub fn last_change(status: &AdminRefdataStatus) -> UtcTime {
    time_of(status.status.transition_times.last())
}

fn time_of(transition: Option<&RefdataTransition>) -> UtcTime {
    transition.map_or_else(
        || UtcTime::new(jiff::Timestamp::UNIX_EPOCH),
        |transition| transition.time,
    )
}

/// Takes a status to the state of an event; what there is to be written where a store has it.
///
/// # Errors
/// The state cannot follow the current one.
pub(crate) fn enter(
    status: &mut AdminRefdataStatus,
    event: &RefdataEvent,
) -> Result<Step, IllegalRefdataTransition> {
    let current = status.status.state;
    let step = current.enter(event.state)?;
    let is_another = event.only_begun.is_some_and(|only| only != began(status));
    let is_elsewhere = event.only_from.is_some_and(|only| only != current);
    if is_another || step == Step::Enter && is_elsewhere {
        return Err(IllegalRefdataTransition {
            current,
            next: event.state,
        });
    }
    if step == Step::Enter {
        // Clocks of several services differ; the history does not go back.
        let time = event.time.max(last_change(status));
        let public = &mut status.status;
        public.state = event.state;
        public.transition_times.push(RefdataTransition {
            state: event.state,
            time,
        });
        if event.state == RefdataState::Error {
            public.error = Some(USER_ERROR.to_owned());
            status.admin_error.clone_from(&event.report.admin_error);
            status.traceback.clone_from(&event.report.traceback);
            // What a failure leaves behind, also that of something complete, is still to be removed.
            status.cleaned = false;
        }
    }
    Ok(step)
}

/// Whether a status may give way to one that begins.
pub(crate) fn may_begin_anew(status: &AdminRefdataStatus) -> bool {
    status.status.state == RefdataState::Error && status.cleaned
}

/// Whether a status has ended before that time and was not cleaned.
pub(crate) fn is_to_clean(status: &AdminRefdataStatus, before: UtcTime) -> bool {
    status.status.state.is_terminal() && !status.cleaned && last_change(status) < before
}

/// Reference data as users see it.
#[must_use]
pub fn user_view(mut refdata: Refdata) -> ReferenceData {
    let statuses = std::mem::take(&mut refdata.statuses).into_iter();
    let statuses = statuses.map(|status| status.status).collect();
    refdata.with_statuses(statuses)
}
