//! This executor's attempt: which of several executors of one container it is, and whether it is still the
//! one whose reports and objects count ([`cts_shared::wire::attempt`]).
//!
//! *Compute optimistically, publish fenced.* A service that is away never stops a container. But before
//! anything becomes visible in the store, the service must have said within [`PUBLISH_LEASE`] that this
//! attempt is the current one, and a request that is under way when that grows too old is broken off; and a
//! definite "superseded" or "not wanted" stops the run at once. An attempt that follows another waits until
//! that one's lease has lapsed, unless it has said that it left.
//!
//! A service can be taken back to one that counts no attempts, while a container runs: its word is then what it
//! was before there were attempts, the answers to the reports.

use std::sync::Arc;
use std::time::Duration;

use cts_shared::error_code::ErrorCode;
use cts_shared::state::JobState;
use cts_shared::wire::attempt::{AttemptNotice, AttemptStanding, PUBLISH_LEASE, RENEWAL_INTERVAL};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Budget, ReportError, retry, retry_at_start, shortened_at_random};
use crate::clock::Clock;
use crate::coordinator::{Coordinator, CoordinatorError};
use crate::identity::Identity;
use crate::transfer::{Closed, PublishGate};

/// A renewal that has no answer by then is worth another one: its connection is dead.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Between two looks at the age of the service's word: timers stand still while the machine sleeps, its age does
/// not.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long the last word to the service may take: the slot is wanted back.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

fn notice(identity: &Identity, clock: &dyn Clock) -> AttemptNotice {
    AttemptNotice {
        time: clock.now().to_offset_string(),
        instance: identity.instance.clone(),
        host: identity.host.clone(),
        leaving: false,
    }
}

/// When an attempt may publish by an answer that came now.
fn publish_from(standing: &AttemptStanding, clock: &dyn Clock) -> Duration {
    let wait = standing.publish_after_ms.unwrap_or(0);
    clock.elapsed().saturating_add(Duration::from_millis(wait))
}

/// What the service has said about this attempt.
#[derive(Debug, Clone)]
struct View {
    /// When the last question was asked whose answer was that this attempt is current.
    confirmed: Duration,
    /// Until then an earlier attempt may still publish.
    publish_from: Duration,
    /// Why the run has to stop, once it has to.
    end: Option<ReportError>,
}

impl View {
    /// Whether nothing may be published any more, whatever the service says.
    const fn is_closed(&self) -> bool {
        match self.end {
            // A job that is being canceled is still this attempt's: its logs may be stored.
            None | Some(ReportError::JobEnded { .. }) => false,
            Some(_) => true,
        }
    }

    /// How long the service's word is good for.
    fn lease_left(&self, now: Duration) -> Duration {
        PUBLISH_LEASE.saturating_sub(now.saturating_sub(self.confirmed))
    }
}

/// An announced attempt.
#[derive(Debug)]
pub struct Attempt {
    number: u32,
    identity: Identity,
    coordinator: Arc<dyn Coordinator>,
    clock: Arc<dyn Clock>,
    view: watch::Sender<View>,
    /// Somebody waits for the service's word.
    urgent: Notify,
    /// Cancelled when the run has to stop.
    halt: CancellationToken,
}

impl Attempt {
    /// Announces the executor, until the service has taken it. `halt` is cancelled when the service says
    /// that the run has to stop, now or later.
    ///
    /// None if the service counts no attempts after all.
    ///
    /// # Errors
    /// [`ReportError::Superseded`] or [`ReportError::JobEnded`] when there is nothing to do for this
    /// executor; else that the service refuses or cannot be reached.
    pub async fn announce(
        coordinator: Arc<dyn Coordinator>,
        clock: Arc<dyn Clock>,
        budget: Budget,
        identity: Identity,
        halt: CancellationToken,
    ) -> Result<Option<Arc<Self>>, ReportError> {
        let notice = notice(&identity, clock.as_ref());
        let what = "announcing this executor";
        let announced = retry_at_start(clock.as_ref(), budget, what, || {
            let asked = clock.elapsed();
            let announced = coordinator.announce(&notice);
            announced.map(move |answer| answer.map(|standing| (asked, standing)))
        })
        .await;
        let (asked, standing) = match announced {
            Err(ReportError::Refused(refusal)) if told_unknown_by(&refusal) => return Ok(None),
            other => other.map_err(told_superseded)?,
        };
        if !standing.wanted {
            let state = standing.job_state;
            return Err(ReportError::JobEnded { state });
        }
        tracing::info!(
            attempt = standing.attempt,
            instance = identity.instance,
            publish_after_ms = standing.publish_after_ms,
            "announced"
        );
        let publish_from = publish_from(&standing, clock.as_ref());
        Ok(Some(Arc::new(Self {
            number: standing.attempt,
            identity,
            coordinator,
            clock,
            view: watch::Sender::new(View {
                confirmed: asked,
                publish_from,
                end: None,
            }),
            urgent: Notify::new(),
            halt,
        })))
    }

    /// Its number, which reports carry.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Why the run has to stop, once it has to.
    #[must_use]
    pub fn end(&self) -> Option<ReportError> {
        self.view.borrow().end.clone()
    }

    /// The run has to stop. Being superseded is told before every other reason.
    pub(super) fn stop(&self, error: ReportError) {
        self.view.send_modify(|view| {
            if view.end.is_none() || error == ReportError::Superseded {
                view.end = Some(error);
            }
        });
        self.halt.cancel();
    }

    /// Renews the attempt until the handle is dropped, in a task of its own that nothing else holds up.
    pub fn keep(self: &Arc<Self>, budget: Budget) -> AbortOnDropHandle<()> {
        let attempt = Arc::clone(self);
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut is_away = false;
            loop {
                let pause = attempt.clock.sleep(shortened_at_random(RENEWAL_INTERVAL));
                tokio::select! {
                    () = pause => attempt.renew_in_passing(&mut is_away).await,
                    () = attempt.urgent.notified() => attempt.renew_urgently(budget).await,
                }
            }
        }))
    }

    /// One try; without an answer the run goes on.
    async fn renew_in_passing(&self, is_away: &mut bool) {
        match self.renew_once().await {
            Ok(()) => {
                if std::mem::take(is_away) {
                    tracing::info!("the service answers again");
                }
            }
            Err(error) => {
                if told_superseded_by(&error) {
                    self.stop(ReportError::Superseded);
                } else if !std::mem::replace(is_away, true) {
                    tracing::warn!(%error, "the attempt could not be renewed; the run goes on");
                }
            }
        }
    }

    /// Until there is an answer, or the time for it is used up: then the run cannot go on.
    async fn renew_urgently(&self, budget: Budget) {
        let what = "asking whether this attempt is the current one";
        let clock = self.clock.as_ref();
        if let Err(error) = retry(clock, budget, what, || self.renew_once()).await {
            self.stop(told_superseded(error));
        }
    }

    /// Asks once whether the job is being canceled while this attempt is the current one. Not certain: no.
    pub async fn is_job_canceled(&self) -> bool {
        let asked = self.renew_once().await;
        let state = match self.end() {
            Some(ReportError::JobEnded { state }) => state,
            _ => return false,
        };
        asked.is_ok() && matches!(state, JobState::Canceling | JobState::Canceled)
    }

    async fn renew_once(&self) -> Result<(), CoordinatorError> {
        let notice = notice(&self.identity, self.clock.as_ref());
        let asked = self.clock.elapsed();
        let renewal = self.coordinator.renew(self.number, &notice);
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, renewal).await;
        let answer = answer.unwrap_or_else(|_| {
            Err(CoordinatorError::Unavailable {
                call: "the renewal of the attempt".to_owned(),
                cause: format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()),
            })
        });
        let standing = match answer {
            Err(error) if told_unknown_by(&error) => {
                tracing::debug!("the service counts no attempts any more");
                None
            }
            answer => Some(answer?),
        };
        self.view
            .send_modify(|view| view.confirmed = view.confirmed.max(asked));
        if let Some(AttemptStanding {
            wanted: false,
            job_state: state,
            ..
        }) = standing
        {
            self.stop(ReportError::JobEnded { state });
        }
        Ok(())
    }

    /// Tells the service that this executor ends and has nothing under way to the store, so that its successor
    /// need not wait. Without an answer the successor waits.
    pub async fn leave(&self) {
        let notice = AttemptNotice {
            leaving: true,
            ..notice(&self.identity, self.clock.as_ref())
        };
        let told = self.coordinator.renew(self.number, &notice);
        match tokio::time::timeout(LEAVE_TIMEOUT, told).await {
            Ok(Ok(_standing)) => tracing::debug!("told the service that this attempt leaves"),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the service does not know that this attempt leaves");
            }
            Err(_elapsed) => tracing::debug!("the service does not know that this attempt leaves"),
        }
    }

    async fn wait_until_certain(&self) -> Result<(), Closed> {
        let mut view = self.view.subscribe();
        loop {
            let seen = view.borrow_and_update().clone();
            if seen.is_closed() {
                return Err(Closed);
            }
            let now = self.clock.elapsed();
            let wait = seen.publish_from.saturating_sub(now);
            if !wait.is_zero() {
                tokio::select! {
                    () = self.clock.sleep(wait) => {}
                    changed = view.changed() => changed.map_err(|_| Closed)?,
                }
                continue;
            }
            if !seen.lease_left(now).is_zero() {
                return Ok(());
            }
            self.urgent.notify_one();
            if view.changed().await.is_err() {
                return Err(Closed);
            }
        }
    }

    async fn wait_until_uncertain(&self) {
        loop {
            let (is_closed, left) = {
                let seen = self.view.borrow();
                (seen.is_closed(), seen.lease_left(self.clock.elapsed()))
            };
            if is_closed || left.is_zero() {
                return;
            }
            self.clock.sleep(left.min(LOOK_EVERY)).await;
        }
    }
}

impl PublishGate for Attempt {
    fn pass(&self) -> BoxFuture<'_, Result<(), Closed>> {
        self.wait_until_certain().boxed()
    }

    fn lapsed(&self) -> BoxFuture<'_, ()> {
        self.wait_until_uncertain().boxed()
    }
}

fn told_superseded_by(error: &CoordinatorError) -> bool {
    error.refusal() == Some(ErrorCode::AttemptSuperseded)
}

/// Whether the service does not know the route.
fn told_unknown_by(error: &CoordinatorError) -> bool {
    error.refusal() == Some(ErrorCode::NotFound)
}

/// A refusal because of another attempt, by its own name.
pub(super) fn told_superseded(error: ReportError) -> ReportError {
    match error {
        ReportError::Refused(refusal) if told_superseded_by(&refusal) => ReportError::Superseded,
        other => other,
    }
}
