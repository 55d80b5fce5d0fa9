//! Time as the executor uses it. Durations come from a monotonic clock; the wall clock is only ever
//! written into reports. Behind a trait so that hours of retries can be tested in milliseconds.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use cts_shared::timestamp::UtcTime;
use futures::future::BoxFuture;

/// The time, and waiting for it to pass.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Wall clock time, UTC.
    fn now(&self) -> UtcTime;
    /// Time since an arbitrary point that never steps back.
    fn elapsed(&self) -> Duration;
    /// Waits. Cancel safe.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// The system's clocks.
#[derive(Debug)]
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> UtcTime {
        UtcTime::new(jiff::Timestamp::now())
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
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
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> UtcTime {
        UtcTime::new(jiff::Timestamp::now())
    }

    fn elapsed(&self) -> Duration {
        self.waits().iter().sum()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(duration);
        // Lets the other tasks of the test run.
        Box::pin(tokio::task::yield_now())
    }
}
