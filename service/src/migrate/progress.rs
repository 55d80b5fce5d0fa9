//! What a run tells people while it works.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Between two lines.
const INTERVAL: Duration = Duration::from_secs(5);

/// How far a run has come.
#[derive(Debug, Default)]
pub struct Progress {
    stage: Mutex<&'static str>,
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// Begins a stage that has to do with that many jobs.
    pub(super) fn begin(&self, stage: &'static str, total: u64) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    /// One more job is done.
    pub(super) fn advance(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// Tells on standard error how far the work has come, every few seconds until it is done.
    pub(super) async fn told_during<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            match tokio::time::timeout(INTERVAL, &mut work).await {
                Ok(outcome) => return outcome,
                Err(_elapsed) => self.tell(),
            }
        }
    }

    fn tell(&self) {
        let stage = *self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let done = self.done.load(Ordering::Relaxed);
        let total = self.total.load(Ordering::Relaxed);
        // Nobody may be reading; the exit status still tells.
        let _closed = writeln!(std::io::stderr(), "{stage}: {done} of {total} jobs");
    }
}
