//! Sends the messages about jobs' transitions, in the outbox's order, until the broker has acknowledged each.
//!
//! Of several services over one store one sends, as long as it has the role; another takes over within
//! [`LAPSES_AFTER`] of its death. That there is one is not what the order rests on: a sender that was held up
//! may find that it is the second. A message is sent only when all that come before it of the same job were
//! acknowledged, whoever sent them, or are in the same request to the same partition before it. So
//! whatever is sent again, by whomever and however late, was there before what follows it. What is
//! acknowledged and not marked is sent again: consumers go by `trans_id`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use cts_shared::id::JobId;

use crate::broker::{BrokerError, MessageBroker};
use crate::clock::Clock;
use crate::job_store::StoreError;
use crate::metrics::Notifications;
use crate::outbox::{Event, Outbox};
use crate::role::Role;

/// The name of the role.
pub const SEND_NOTIFICATIONS: &str = "send notifications";

/// How long nobody sends after the sender has died.
pub const LAPSES_AFTER: Duration = Duration::from_secs(10);

/// Between two renewals of the role, and two tries to get it.
const RENEW_EVERY: Duration = Duration::from_secs(3);

/// Transitions that are read and sent at a time.
const PAGE: u32 = 500;

/// Jobs that are passed over because an earlier message of theirs was not acknowledged. With more of them, the
/// others wait for the next pass.
const MAX_HELD_JOBS: usize = 100_000;

/// How soon what other services stored is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Between two looks for what another program stored unsent.
const ADOPT_EVERY: Duration = Duration::from_mins(1);

/// The first and the longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// Between two log lines about a failure that lasts.
const SAY_EVERY: Duration = Duration::from_mins(1);

/// How long what was begun may take after the service was told to stop.
const FLUSH: Duration = Duration::from_secs(5);

/// Sends what the outbox has.
#[derive(Debug)]
pub struct Sender {
    /// What is to be sent.
    pub outbox: Arc<dyn Outbox>,
    /// Where to.
    pub broker: Arc<dyn MessageBroker>,
    /// The part of the one that sends.
    pub role: Role,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: Notifications,
    /// How old a transition is that another program stored unsent and left to this one; none is taken over
    /// if absent.
    pub adopt_after: Option<Duration>,
}

/// Why a pass ended before it had come to the end, or left something out.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What one pass through the outbox did.
#[derive(Debug, Default)]
struct Pass {
    sent: u64,
    trouble: Option<Trouble>,
}

impl Sender {
    /// Sends, whenever this service has the role, until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            match self.role.take().await {
                Ok(true) => self.play(&stop).await,
                Ok(false) => {}
                // Whoever asks for a job says so aloud.
                Err(error) => tracing::debug!(%error, "no role without the store"),
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(RENEW_EVERY) => {}
            }
        }
        self.role.give_up().await;
    }

    /// Sends as long as the role is this service's.
    async fn play(&self, stop: &CancellationToken) {
        tracing::info!("this service sends the notifications");
        self.metrics.set_sending(true);
        tokio::select! {
            () = self.keep_role() => tracing::warn!(
                "another service may send the notifications now: this one could not renew its role in time"
            ),
            () = self.send_until(stop) => {}
        }
        self.metrics.set_sending(false);
    }

    /// Ends when the role is lost.
    async fn keep_role(&self) {
        let mut taken = Instant::now();
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            let begun = Instant::now();
            match tokio::time::timeout(RENEW_EVERY, self.role.take()).await {
                Ok(Ok(true)) => taken = begun,
                Ok(Ok(false)) => return,
                Ok(Err(_)) | Err(_) => {}
            }
            if taken.elapsed() >= LAPSES_AFTER {
                return;
            }
        }
    }

    /// Sends until told to stop; then what was begun is finished, if that takes no longer than [`FLUSH`].
    async fn send_until(&self, stop: &CancellationToken) {
        let mut sending = std::pin::pin!(self.send(stop));
        tokio::select! {
            () = &mut sending => return,
            () = stop.cancelled() => {}
        }
        if tokio::time::timeout(FLUSH, sending).await.is_err() {
            tracing::info!(
                "the broker did not answer in time; what waits is sent after the next start"
            );
        }
    }

    async fn send(&self, stop: &CancellationToken) {
        let mut changes = self.outbox.changes();
        let mut pauses = Pauses::default();
        let mut outage = None;
        let mut adoption = None;
        loop {
            changes.mark_unchanged();
            let pass = self.pass(stop).await;
            note(&mut outage, &pass);
            if pass.trouble.is_some() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pauses.next()) => {}
                }
                continue;
            }
            pauses = Pauses::default();
            // Only now that nothing waits: what is taken in is sent in the next pass.
            self.adopt_at_times(&mut adoption).await;
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = changes.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Goes through all that waits, once. Jobs of which a message was not acknowledged are passed over from
    /// there on, so that they hold up no others.
    async fn pass(&self, stop: &CancellationToken) -> Pass {
        let mut pass = Pass::default();
        let mut held = HashSet::new();
        let mut after = None;
        while !stop.is_cancelled() && held.len() <= MAX_HELD_JOBS {
            let page = match self.outbox.to_send(after, PAGE).await {
                Ok(page) => page,
                Err(error) => {
                    pass.trouble = Some(error.into());
                    break;
                }
            };
            let Some(last) = page.last() else {
                break;
            };
            after = Some(last.trans_id.clone());
            let events: Vec<Event> = page
                .into_iter()
                .filter(|event| !held.contains(&event.job_id))
                .collect();
            if events.is_empty() {
                continue;
            }
            match self.send_page(events, &mut held).await {
                Ok(sent) => pass.sent += sent,
                Err((sent, trouble)) => {
                    pass.sent += sent;
                    let go_on = matches!(&trouble, Trouble::Broker(error) if error.concerns_some_jobs_only());
                    pass.trouble = Some(trouble);
                    if !go_on {
                        break;
                    }
                }
            }
        }
        pass
    }

    /// Sends messages and notes which arrived: how many, also if not all did. Those jobs are added to `held`
    /// whose messages did not all arrive.
    async fn send_page(
        &self,
        events: Vec<Event>,
        held: &mut HashSet<JobId>,
    ) -> Result<u64, (u64, Trouble)> {
        let jobs: Vec<(String, JobId)> = events
            .iter()
            .map(|event| (event.trans_id.clone(), event.job_id))
            .collect();
        let delivery = self.broker.send(events).await;
        let arrived: HashSet<&str> = delivery.acknowledged.iter().map(String::as_str).collect();
        let lacking = jobs
            .iter()
            .filter(|(trans_id, _)| !arrived.contains(trans_id.as_str()));
        held.extend(lacking.map(|(_, job)| *job));

        let sent = delivery.acknowledged.len() as u64;
        self.metrics.count_sent(sent);
        if sent > 0
            && let Err(error) = self.outbox.mark_sent(delivery.acknowledged).await
        {
            return Err((sent, error.into()));
        }
        match delivery.failure {
            None => Ok(sent),
            Some(error) => {
                self.metrics.count_failure();
                Err((sent, error.into()))
            }
        }
    }

    /// Takes in what another program left, when it is time to look.
    async fn adopt_at_times(&self, last: &mut Option<Instant>) {
        let Some(age) = self.adopt_after else {
            return;
        };
        if last.is_some_and(|last| last.elapsed() < ADOPT_EVERY) {
            return;
        }
        *last = Some(Instant::now());
        match self.outbox.adopt(self.clock.now().minus(age)).await {
            Ok(0) => {}
            Ok(jobs) => {
                tracing::info!(
                    jobs,
                    "took over notifications that another service did not send"
                )
            }
            Err(error) => tracing::warn!(
                %error,
                "cannot look for notifications that another service did not send; trying again in a minute"
            ),
        }
    }
}

/// A time in which something could not be sent.
#[derive(Debug)]
struct Outage {
    began: Instant,
    said: Instant,
    sent: u64,
}

/// Says when sending fails, now and then while it does, and when it works again.
fn note(outage: &mut Option<Outage>, pass: &Pass) {
    let now = Instant::now();
    match (&pass.trouble, outage.take()) {
        (None, None) => {}
        (None, Some(over)) => tracing::info!(
            seconds = now.duration_since(over.began).as_secs(),
            sent = over.sent + pass.sent,
            "notifications are sent again"
        ),
        (Some(trouble), before) => {
            let said = before.as_ref().map(|outage| outage.said);
            let silent = said.is_some_and(|said| now.duration_since(said) < SAY_EVERY);
            if !silent {
                tracing::warn!(
                    error = %trouble,
                    "notifications are not sent now; they wait in the store, and sending is tried again"
                );
            }
            *outage = Some(Outage {
                began: before.as_ref().map_or(now, |outage| outage.began),
                said: said.filter(|_| silent).unwrap_or(now),
                sent: before.map_or(0, |outage| outage.sent) + pass.sent,
            });
        }
    }
}

/// Pauses that get longer, each of a random length, so that services do not ask in step.
#[derive(Debug, Default)]
struct Pauses(u32);

impl Pauses {
    fn next(&mut self) -> Duration {
        let (first, longest) = PAUSES;
        let pause = first.saturating_mul(1_u32.checked_shl(self.0).unwrap_or(u32::MAX));
        let pause = pause.min(longest);
        self.0 = self.0.saturating_add(1);
        pause.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}
