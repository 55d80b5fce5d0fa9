//! When to try again: full jitter, limits on tries and time that count from the last progress, and
//! the watchdog that tells a slow body from a stalled one.

use std::time::Duration;

use tokio::time::Instant;

use super::options::{RetryPolicy, TransferOptions};
use crate::object_store::{StoreError, StoreErrorKind};
use crate::progress::Counters;

/// A store that refuses the checksum this often is not seeing a bad connection.
const MAX_CHECKSUM_REFUSALS: u32 = 3;

/// The tries of one step.
#[derive(Debug)]
pub(super) struct Attempts<'a> {
    policy: &'a RetryPolicy,
    counters: &'a Counters,
    failures: u32,
    refusals: u32,
    since: Instant,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(policy: &'a RetryPolicy, counters: &'a Counters) -> Self {
        Self {
            policy,
            counters,
            failures: 0,
            refusals: 0,
            since: Instant::now(),
        }
    }

    /// The number of the try that is going on, from 1.
    pub(super) fn number(&self) -> u32 {
        self.failures + 1
    }

    /// The step got somewhere: the limits count from here.
    pub(super) fn made_progress(&mut self) {
        self.failures = 0;
        self.since = Instant::now();
    }

    /// Waits until it makes sense to try again after `error`.
    ///
    /// # Errors
    /// `error`, if it is permanent or the limits are reached.
    pub(super) async fn wait_after(&mut self, error: StoreError) -> Result<(), StoreError> {
        if error.kind() == StoreErrorKind::ChecksumRefused {
            self.refusals += 1;
        }
        self.failures += 1;
        let wait = self.next_wait(&error);
        if error.is_permanent()
            || self.refusals >= MAX_CHECKSUM_REFUSALS
            || self.failures >= self.policy.max_attempts
            || self.since.elapsed() + wait >= self.policy.max_elapsed
        {
            return Err(error);
        }
        tracing::info!(
            attempt = self.failures,
            wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            "trying again: {error}"
        );
        self.counters.count_retry();
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Anything between nothing and the doubled limit, so that many clients do not come back
    /// together; after what the store asked for, if it did.
    fn next_wait(&self, error: &StoreError) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        let limit = (self.policy.base_delay * (1 << doublings)).min(self.policy.max_delay);
        error.retry_after().unwrap_or_default() + limit.mul_f64(rand::random::<f64>())
    }
}

/// Notices a body that stalls or trickles: every window must bring a least number of bytes.
#[derive(Debug)]
pub(super) struct Watchdog {
    window: Duration,
    min_bytes: u64,
    moved: u64,
    deadline: Instant,
}

impl Watchdog {
    pub(super) fn new(options: &TransferOptions) -> Self {
        Self {
            window: options.stall_window,
            min_bytes: options.stall_min_bytes,
            moved: 0,
            deadline: Instant::now() + options.stall_window,
        }
    }

    /// When the body is given up unless more has come.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(super) fn saw(&mut self, bytes: u64) {
        self.moved += bytes;
        if self.moved >= self.min_bytes {
            self.moved = 0;
            self.deadline = Instant::now() + self.window;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: StoreErrorKind) -> StoreError {
        StoreError::new(kind, "get", &"s3://b/k", "")
    }

    #[tokio::test(start_paused = true)]
    async fn tries_end_by_number_by_time_and_at_permanent_errors() {
        let counters = Counters::default();
        let policy = RetryPolicy {
            max_attempts: 3,
            ..RetryPolicy::default()
        };
        let mut attempts = Attempts::new(&policy, &counters);
        attempts.wait_after(error(StoreErrorKind::Unavailable)).await.unwrap();
        attempts.wait_after(error(StoreErrorKind::Throttled)).await.unwrap();
        attempts.made_progress();
        attempts.wait_after(error(StoreErrorKind::Unavailable)).await.unwrap();
        attempts.wait_after(error(StoreErrorKind::Unavailable)).await.unwrap();
        attempts.wait_after(error(StoreErrorKind::Unavailable)).await.unwrap_err();
        assert_eq!(counters.snapshot().retries, 4);

        let mut attempts = Attempts::new(&policy, &counters);
        attempts.wait_after(error(StoreErrorKind::NotFound)).await.unwrap_err();

        let policy = RetryPolicy::default();
        let mut attempts = Attempts::new(&policy, &counters);
        let long = error(StoreErrorKind::Throttled).with_retry_after(Some(policy.max_elapsed));
        attempts.wait_after(long).await.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn waits_stay_within_their_limits() {
        let counters = Counters::default();
        let policy = RetryPolicy::default();
        let mut attempts = Attempts::new(&policy, &counters);
        for failures in 0..100 {
            attempts.failures = failures;
            let wait = attempts.next_wait(&error(StoreErrorKind::Unavailable));
            assert!(wait <= policy.max_delay);
        }
        let asked = Duration::from_secs(7);
        let error = error(StoreErrorKind::Throttled).with_retry_after(Some(asked));
        assert!(attempts.next_wait(&error) >= asked);
    }
}
