//! Time as the executor uses it. Durations come from a monotonic clock; the wall clock is only ever
//! written into reports. Behind a trait so that hours of retries can be tested in milliseconds.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cts_shared::timestamp::UtcTime;
use futures::future::BoxFuture;
use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

/// The time, and waiting for it to pass.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Wall clock time, UTC; never before an earlier answer, also when the clock is set back: the
    /// service refuses transitions that go back in time (contract executor.md, section 2).
    fn now(&self) -> UtcTime;
    /// Time since an arbitrary point that never steps back. Goes on while the process is stopped and while
    /// the machine sleeps: what was true before may not be true any more.
    fn elapsed(&self) -> Duration;
    /// Waits. Cancel safe.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// The system's clocks.
#[derive(Debug)]
pub struct SystemClock {
    latest: Mutex<Timestamp>,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self {
            latest: Mutex::new(Timestamp::now()),
        }
    }
}

impl SystemClock {
    fn not_before_an_earlier_answer(&self, now: Timestamp) -> UtcTime {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        *latest = now.max(*latest);
        UtcTime::new(*latest)
    }
}

impl Clock for SystemClock {
    fn now(&self) -> UtcTime {
        self.not_before_an_earlier_answer(Timestamp::now())
    }

    fn elapsed(&self) -> Duration {
        let since_boot = clock_gettime(ClockId::Boottime);
        // Linux has it and it is never negative; zero would only make answers look fresh in a process
        // that has no clock at all.
        Duration::try_from(since_boot).unwrap_or_default()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// A test double: time passes only by sleeping, at once, and every wait is written down.
#[derive(Debug, Default)]
pub struct SimulatedClock(Mutex<Vec<Duration>>);

impl SimulatedClock {
    /// Every wait so far, in order.
    #[must_use]
    pub fn waits(&self) -> Vec<Duration> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> UtcTime {
        UtcTime::new(Timestamp::now())
    }

    fn elapsed(&self) -> Duration {
        self.waits().iter().sum()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(duration);
        // Lets the other tasks of the test run.
        Box::pin(tokio::task::yield_now())
    }
}

/// A test double: time passes only when the test says so; who sleeps wakes when it is due.
#[derive(Debug, Default)]
pub struct SteppedClock(watch::Sender<Duration>);

impl SteppedClock {
    /// Lets time pass, all at once, as a process sees it that was stopped meanwhile.
    pub fn advance(&self, by: Duration) {
        self.0.send_modify(|now| *now += by);
    }
}

impl Clock for SteppedClock {
    fn now(&self) -> UtcTime {
        UtcTime::new(Timestamp::now())
    }

    fn elapsed(&self) -> Duration {
        *self.0.borrow()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let due = self.elapsed() + duration;
        let mut time = self.0.subscribe();
        Box::pin(async move {
            if time.wait_for(|now| *now >= due).await.is_err() {
                // No clock any more: it is never due.
                std::future::pending::<()>().await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_back_does_not_take_reports_back() {
        let clock = SystemClock::default();
        let first = clock.now();
        let earlier = Timestamp::UNIX_EPOCH;
        assert_eq!(clock.not_before_an_earlier_answer(earlier), first);
        assert!(clock.now() >= first);
    }
}
