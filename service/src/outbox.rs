//! The jobs' transitions as others are told of them, and the trait of whatever keeps them.
//!
//! A transition is stored unsent in the step that changes the job's state ([`crate::job_store`]). It is
//! told twice over: to everyone who follows `GET /events` as it happens, and to the message
//! broker, which acknowledges it. Both may tell it again; `trans_id` is how a consumer notices.

use futures::future::BoxFuture;
use serde::Serialize;
use tokio::sync::watch;

use cts_shared::id::JobId;
use cts_shared::state::JobState;
use cts_shared::timestamp::UtcTime;

use crate::job_store::StoreError;

/// One transition of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Id of the transition: a random UUID.
    pub trans_id: String,
    /// The job.
    pub job_id: JobId,
    /// The job's owner.
    pub user: String,
    /// The state entered.
    pub state: JobState,
    /// When.
    pub time: UtcTime,
}

/// What is sent of an [`Event`] (contract service.md, section 7.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    job_id: String,
    state: JobState,
    time: String,
    trans_id: String,
}

impl Event {
    /// The message about it.
    #[must_use]
    pub fn to_message(&self) -> Message {
        Message {
            job_id: self.job_id.to_string(),
            state: self.state,
            time: self.time.to_offset_string(),
            trans_id: self.trans_id.clone(),
        }
    }
}

/// Transitions that wait to be sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unsent {
    /// How many.
    pub transitions: u64,
    /// Of how many jobs.
    pub jobs: u64,
    /// When the oldest was entered.
    pub oldest: Option<UtcTime>,
}

/// Keeps the transitions of all jobs in one order: that in which they were stored.
pub trait Outbox: Send + Sync + std::fmt::Debug {
    /// The transitions after that one (from the first if none is named), of one user's jobs or of
    /// all, oldest first, at most `limit`. None if no transition has that id.
    ///
    /// # Errors
    /// When the store fails.
    fn events_after(
        &self,
        trans_id: Option<String>,
        user: Option<String>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Option<Vec<Event>>, StoreError>>;

    /// The id of the newest transition, if there is any.
    ///
    /// # Errors
    /// When the store fails.
    fn newest(&self) -> BoxFuture<'_, Result<Option<String>, StoreError>>;

    /// Changes whenever transitions may have been stored. What is stored by other processes shows
    /// when [`events_after`](Self::events_after) is asked.
    fn changes(&self) -> watch::Receiver<u64>;

    /// The transitions to send, oldest first, at most `limit`: those unsent, and those to be sent
    /// once more. After that one, or from the first; from the first too if no transition has that id.
    ///
    /// # Errors
    /// When the store fails.
    fn to_send(
        &self,
        after: Option<String>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<Event>, StoreError>>;

    /// Takes in what another program stored unsent and entered before that time: the existing service
    /// works on the same database and sends its own, until it dies. How many jobs they were of; what
    /// was taken in before does not count.
    ///
    /// # Errors
    /// When the store fails.
    fn adopt(&self, before: UtcTime) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Notes that messages have arrived. Ids that are not known are passed over.
    ///
    /// # Errors
    /// When the store fails; the messages are sent again then.
    fn mark_sent(&self, trans_ids: Vec<String>) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Has a job's newest transition to a state sent once more, whether or not it was sent. False if
    /// the job never entered that state, or there is none such.
    ///
    /// # Errors
    /// When the store fails.
    fn resend(&self, job: JobId, state: JobState) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// What waits to be sent and was entered before `before`, or at any time.
    ///
    /// # Errors
    /// When the store fails.
    fn unsent(&self, before: Option<UtcTime>) -> BoxFuture<'_, Result<Unsent, StoreError>>;
}
