//! Time as the executor uses it. Durations come from a monotonic clock; the wall clock is only ever
//! written into reports. Behind a trait so that hours of retries can be tested in milliseconds.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cts_shared::timestamp::UtcTime;
use futures::future::BoxFuture;
use jiff::Timestamp;

/// The time, and waiting for it to pass.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Wall clock time, UTC; never before an earlier answer, also when the clock is set back: the
    /// service refuses transitions that go back in time (contract executor.md, section 2).
    fn now(&self) -> UtcTime;
    /// Time since an arbitrary point that never steps back.
    fn elapsed(&self) -> Duration;
    /// Waits. Cancel safe.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// The system's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
    latest: Mutex<Timestamp>,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self {
            start: Instant::now(),
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
        self.start.elapsed()
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
