//! An outbox, leases and a broker in memory. What they do is decided by the test, step by step.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use uuid::Uuid;

use cts_service::broker::{BrokerError, Delivery, MessageBroker};
use cts_service::clock::Clock;
use cts_service::job_store::StoreError;
use cts_service::lease_store::{Lease, LeaseRequest, LeaseStore};
use cts_service::outbox::{Event, Outbox, Unsent};
use cts_shared::id::JobId;
use cts_shared::state::JobState;
use cts_shared::timestamp::UtcTime;

/// The runtime's clock, which tests may have stopped.
#[derive(Debug)]
pub(crate) struct RuntimeClock(tokio::time::Instant);

impl RuntimeClock {
    pub(crate) fn new() -> Self {
        Self(tokio::time::Instant::now())
    }
}

impl Clock for RuntimeClock {
    fn now(&self) -> UtcTime {
        start().plus(self.0.elapsed())
    }
}

fn start() -> UtcTime {
    UtcTime::new("2031-02-03T04:05:06Z".parse().unwrap())
}

fn store_is_away() -> StoreError {
    StoreError::Unavailable {
        action: "do what the test asks",
        cause: "the test wants it so".to_owned(),
    }
}

/// Keeps transitions in memory.
#[derive(Debug)]
pub(crate) struct MemoryOutbox {
    events: Mutex<Vec<(Event, bool)>>,
    changes: watch::Sender<u64>,
    /// Whether each next call fails; none does when there are no more.
    failures: Mutex<VecDeque<bool>>,
    pub(crate) adoptions: Mutex<Vec<UtcTime>>,
    pub(crate) longest_page: Mutex<usize>,
}

impl MemoryOutbox {
    pub(crate) fn new(failures: Vec<bool>) -> Arc<Self> {
        Arc::new(Self {
            events: Mutex::default(),
            changes: watch::Sender::new(0),
            failures: Mutex::new(failures.into()),
            adoptions: Mutex::default(),
            longest_page: Mutex::default(),
        })
    }

    /// Stores a job's next transition; returns its id.
    pub(crate) fn add(&self, job_id: JobId) -> String {
        let trans_id = Uuid::new_v4().to_string();
        let event = Event {
            trans_id: trans_id.clone(),
            job_id,
            user: "alice".to_owned(),
            state: JobState::JobSubmitted,
            time: start(),
        };
        self.events.lock().unwrap().push((event, false));
        self.changes.send_modify(|changes| *changes += 1);
        trans_id
    }

    /// Every transition's id and job, in order.
    pub(crate) fn all(&self) -> Vec<(String, JobId)> {
        let events = self.events.lock().unwrap();
        events
            .iter()
            .map(|(event, _)| (event.trans_id.clone(), event.job_id))
            .collect()
    }

    pub(crate) fn unsent(&self) -> usize {
        let events = self.events.lock().unwrap();
        events.iter().filter(|(_, sent)| !sent).count()
    }

    fn fails(&self) -> Result<(), StoreError> {
        match self.failures.lock().unwrap().pop_front() {
            Some(true) => Err(store_is_away()),
            _ => Ok(()),
        }
    }
}

impl Outbox for MemoryOutbox {
    fn events_after(
        &self,
        _: Option<String>,
        _: Option<String>,
        _: u32,
    ) -> BoxFuture<'_, Result<Option<Vec<Event>>, StoreError>> {
        unimplemented!("the sender does not ask")
    }

    fn newest(&self) -> BoxFuture<'_, Result<Option<String>, StoreError>> {
        unimplemented!("the sender does not ask")
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn to_send(
        &self,
        after: Option<String>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<Event>, StoreError>> {
        let page = self.fails().map(|()| {
            let events = self.events.lock().unwrap();
            let position = events
                .iter()
                .position(|(event, _)| Some(&event.trans_id) == after.as_ref());
            let page: Vec<Event> = events
                .iter()
                .skip(position.map_or(0, |position| position + 1))
                .filter(|(_, sent)| !sent)
                .map(|(event, _)| event.clone())
                .take(usize::try_from(limit).unwrap())
                .collect();
            let mut longest = self.longest_page.lock().unwrap();
            *longest = page.len().max(*longest);
            page
        });
        futures::future::ready(page).boxed()
    }

    fn adopt(&self, before: UtcTime) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.adoptions.lock().unwrap().push(before);
        futures::future::ready(Ok(0)).boxed()
    }

    fn mark_sent(&self, trans_ids: Vec<String>) -> BoxFuture<'_, Result<(), StoreError>> {
        let marked = self.fails().map(|()| {
            for (event, sent) in self.events.lock().unwrap().iter_mut() {
                *sent |= trans_ids.contains(&event.trans_id);
            }
        });
        futures::future::ready(marked).boxed()
    }

    fn resend(&self, _: JobId, _: JobState) -> BoxFuture<'_, Result<bool, StoreError>> {
        unimplemented!("the sender does not ask")
    }

    fn unsent(&self, _: Option<UtcTime>) -> BoxFuture<'_, Result<Unsent, StoreError>> {
        unimplemented!("the sender does not ask")
    }
}

/// One lease in memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryLeases {
    held: Mutex<Option<(String, UtcTime)>>,
    generous: bool,
}

impl MemoryLeases {
    /// Grants whatever is asked for: as many believe that the lease is theirs as ask.
    pub(crate) fn generous() -> Arc<Self> {
        Arc::new(Self {
            generous: true,
            ..Self::default()
        })
    }

    pub(crate) fn holder(&self) -> Option<String> {
        let held = self.held.lock().unwrap();
        held.as_ref().map(|(holder, _)| holder.clone())
    }

    /// Another service has the lease from now on, for ever.
    pub(crate) fn give_to_another(&self) {
        let until = start().plus(Duration::from_hours(1_000_000));
        *self.held.lock().unwrap() = Some(("another".to_owned(), until));
    }
}

impl LeaseStore for MemoryLeases {
    fn take_lease(&self, request: LeaseRequest) -> BoxFuture<'_, Result<Lease, StoreError>> {
        let mut held = self.held.lock().unwrap();
        let lease = match &*held {
            Some((holder, until))
                if *holder != request.holder && *until > request.now && !self.generous =>
            {
                Lease::Held
            }
            _ => {
                *held = Some((request.holder, request.until));
                Lease::Renewed
            }
        };
        futures::future::ready(Ok(lease)).boxed()
    }

    fn give_back_lease(&self, _: String, holder: String) -> BoxFuture<'_, Result<(), StoreError>> {
        let mut held = self.held.lock().unwrap();
        if held.as_ref().is_some_and(|(current, _)| *current == holder) {
            *held = None;
        }
        futures::future::ready(Ok(())).boxed()
    }
}

/// What the broker does with the messages of one partition in one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Stored,
    /// Stored, but nobody learns of it.
    StoredInSilence,
    Refused,
}

/// What the broker does with one request.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    /// It is stored after that time, and as much later the answer comes.
    pub(crate) takes: Duration,
    /// None: nothing answers.
    pub(crate) fates: Option<[Fate; PARTITIONS]>,
}

impl Step {
    pub(crate) const GOOD: Self = Self {
        takes: Duration::ZERO,
        fates: Some([Fate::Stored; PARTITIONS]),
    };

    pub(crate) const AWAY: Self = Self {
        takes: Duration::ZERO,
        fates: None,
    };
}

pub(crate) const PARTITIONS: usize = 3;

/// The partition of a job's messages.
pub(crate) fn partition(job: JobId) -> usize {
    let last = job.to_string().bytes().last().unwrap();
    usize::from(last) % PARTITIONS
}

/// A broker in memory.
#[derive(Debug)]
pub(crate) struct MemoryBroker {
    /// What arrived, in the order in which it did.
    pub(crate) arrived: Arc<Mutex<Vec<Event>>>,
    /// What happens next; when there is nothing more, `then`.
    steps: Mutex<VecDeque<Step>>,
    then: Mutex<Step>,
    pub(crate) requests: watch::Sender<usize>,
}

impl MemoryBroker {
    pub(crate) fn new(steps: Vec<Step>, then: Step) -> Arc<Self> {
        Arc::new(Self {
            arrived: Arc::default(),
            steps: Mutex::new(steps.into()),
            then: Mutex::new(then),
            requests: watch::Sender::new(0),
        })
    }

    pub(crate) fn from_now_on(&self, step: Step) {
        *self.then.lock().unwrap() = step;
    }

    pub(crate) fn arrived(&self) -> Vec<String> {
        let arrived = self.arrived.lock().unwrap();
        arrived.iter().map(|event| event.trans_id.clone()).collect()
    }

    pub(crate) async fn wait_for_requests(&self, number: usize) {
        let mut requests = self.requests.subscribe();
        requests
            .wait_for(|requests| *requests >= number)
            .await
            .unwrap();
    }
}

impl MessageBroker for MemoryBroker {
    fn send(&self, events: Vec<Event>) -> BoxFuture<'_, Delivery> {
        let step = self.steps.lock().unwrap().pop_front();
        let step = step.unwrap_or_else(|| self.then.lock().unwrap().clone());
        self.requests.send_modify(|requests| *requests += 1);
        let Some(fates) = step.fates else {
            let failure = Some(away());
            let delivery = Delivery {
                failure,
                ..Delivery::default()
            };
            return async move {
                tokio::time::sleep(step.takes).await;
                delivery
            }
            .boxed();
        };
        let arrived = Arc::clone(&self.arrived);
        // What was sent arrives although the sender has given up, as it does over a network.
        let storing = tokio::spawn(async move {
            tokio::time::sleep(step.takes).await;
            let mut delivery = Delivery::default();
            for (number, fate) in fates.into_iter().enumerate() {
                let share = events
                    .iter()
                    .filter(|event| partition(event.job_id) == number);
                if fate != Fate::Refused {
                    arrived.lock().unwrap().extend(share.clone().cloned());
                }
                if fate == Fate::Stored {
                    let ids = share.clone().map(|event| event.trans_id.clone());
                    delivery.acknowledged.extend(ids);
                } else if share.count() > 0 {
                    delivery.failure = Some(refused());
                }
            }
            tokio::time::sleep(step.takes).await;
            delivery
        });
        async move { storing.await.unwrap() }.boxed()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        let there = self.then.lock().unwrap().fates.is_some();
        futures::future::ready(if there { Ok(()) } else { Err(away()) }).boxed()
    }
}

fn away() -> BrokerError {
    BrokerError::Unreachable {
        servers: "kafka1:9092".to_owned(),
        cause: "connection refused".to_owned(),
    }
}

fn refused() -> BrokerError {
    BrokerError::Partition {
        servers: "kafka1:9092".to_owned(),
        topic: "cts-jobs".to_owned(),
        partition: 1,
        cause: "no leader".to_owned(),
    }
}
