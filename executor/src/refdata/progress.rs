//! How far a staging is: counters that the work adds to and whoever shows them reads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use cts_shared::wire::refdata::StagingProgress;

use crate::progress::{Progress, Snapshot};

/// The rate is that of this many whole seconds before the present one.
const RATE_SECS: u64 = 5;
/// One second more than the rate needs: the present one.
const KEPT_SECS: usize = 6;

/// Counters of one staging. Shared by reference; every method is safe to call from anywhere.
#[derive(Debug)]
pub struct StagingCounters {
    started: Instant,
    object_bytes: AtomicU64,
    downloaded_bytes: AtomicU64,
    unpacked_bytes: AtomicU64,
    unpacked_files: AtomicU64,
    recent: Mutex<Recent>,
}

impl Default for StagingCounters {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            object_bytes: AtomicU64::new(0),
            downloaded_bytes: AtomicU64::new(0),
            unpacked_bytes: AtomicU64::new(0),
            unpacked_files: AtomicU64::new(0),
            recent: Mutex::default(),
        }
    }
}

impl StagingCounters {
    /// The object's size has become known.
    pub fn set_object_bytes(&self, bytes: u64) {
        self.object_bytes.store(bytes, Ordering::Relaxed);
    }

    /// What was done is of no use: it begins again.
    pub fn start_over(&self) {
        for counter in [
            &self.downloaded_bytes,
            &self.unpacked_bytes,
            &self.unpacked_files,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
    }

    /// Bytes of the object have been taken in.
    pub fn add_downloaded(&self, bytes: u64) {
        self.downloaded_bytes.fetch_add(bytes, Ordering::Relaxed);
        let second = self.started.elapsed().as_secs();
        self.recent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .add(second, bytes);
    }

    /// Bytes of a file have been written.
    pub fn add_unpacked(&self, bytes: u64) {
        self.unpacked_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A file is complete.
    pub fn finish_file(&self) {
        self.unpacked_files.fetch_add(1, Ordering::Relaxed);
    }

    /// Reads all counters.
    #[must_use]
    pub fn snapshot(&self) -> StagingProgress {
        let second = self.started.elapsed().as_secs();
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        StagingProgress {
            downloaded_bytes: self.downloaded_bytes.load(Ordering::Relaxed),
            object_bytes: self.object_bytes.load(Ordering::Relaxed),
            unpacked_bytes: self.unpacked_bytes.load(Ordering::Relaxed),
            unpacked_files: self.unpacked_files.load(Ordering::Relaxed),
            bytes_per_second: recent.rate(second),
        }
    }
}

/// As the display shows it: the object's bytes, and the files that came of them.
impl Progress for StagingCounters {
    fn snapshot(&self) -> Snapshot {
        let seen = self.snapshot();
        Snapshot {
            bytes_total: seen.object_bytes,
            bytes_done: seen.downloaded_bytes,
            files_total: seen.unpacked_files,
            files_done: seen.unpacked_files,
            retries: 0,
        }
    }
}

/// Bytes of the last seconds, each with the second it belongs to.
#[derive(Debug, Default)]
struct Recent {
    seconds: [(u64, u64); KEPT_SECS],
}

impl Recent {
    fn add(&mut self, second: u64, bytes: u64) {
        let slot = usize::try_from(second).unwrap_or(0) % KEPT_SECS;
        if let Some(kept) = self.seconds.get_mut(slot) {
            if kept.0 != second {
                *kept = (second, 0);
            }
            kept.1 = kept.1.saturating_add(bytes);
        }
    }

    /// Bytes per second over the whole seconds before `now`; in the first second what there is of it.
    fn rate(&self, now: u64) -> u64 {
        let from = now.saturating_sub(RATE_SECS);
        let sum = |seconds: std::ops::Range<u64>| -> u64 {
            self.seconds
                .iter()
                .filter(|(second, _)| seconds.contains(second))
                .map(|(_, bytes)| bytes)
                .sum()
        };
        match now - from {
            0 => sum(0..1),
            whole => sum(from..now) / whole,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_whole_seconds() {
        let mut recent = Recent::default();
        recent.add(0, 100);
        assert_eq!(recent.rate(0), 100);
        recent.add(0, 100);
        recent.add(1, 400);
        assert_eq!(recent.rate(1), 200);
        assert_eq!(recent.rate(2), 300);
        recent.add(7, 50);
        assert_eq!(recent.rate(8), 10);
        assert_eq!(recent.rate(60), 0);
    }

    #[test]
    fn a_snapshot_has_all_counters() {
        let counters = StagingCounters::default();
        counters.set_object_bytes(10);
        counters.add_downloaded(4);
        counters.add_unpacked(40);
        counters.finish_file();
        let seen = counters.snapshot();
        assert_eq!((seen.object_bytes, seen.downloaded_bytes), (10, 4));
        assert_eq!((seen.unpacked_bytes, seen.unpacked_files), (40, 1));
        counters.start_over();
        let seen = counters.snapshot();
        assert_eq!((seen.object_bytes, seen.downloaded_bytes), (10, 0));
        assert_eq!((seen.unpacked_bytes, seen.unpacked_files), (0, 0));
    }
}
