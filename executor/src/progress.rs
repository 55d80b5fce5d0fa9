//! Progress of a phase: counters that whoever does the work adds to, and whoever shows them reads.

use std::sync::atomic::{AtomicU64, Ordering};

/// Work whose progress can be shown.
pub trait Progress: Send + Sync + std::fmt::Debug {
    /// Reads all counters.
    fn snapshot(&self) -> Snapshot;
}

/// Counters of one phase. Shared by reference; every method is safe to call from anywhere.
#[derive(Debug, Default)]
pub struct Counters {
    bytes_total: AtomicU64,
    bytes_done: AtomicU64,
    files_total: AtomicU64,
    files_done: AtomicU64,
    retries: AtomicU64,
}

/// What the counters said at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Bytes that will have to move, as far as known.
    pub bytes_total: u64,
    /// Bytes moved.
    pub bytes_done: u64,
    /// Files that will have to move, as far as known.
    pub files_total: u64,
    /// Files finished.
    pub files_done: u64,
    /// Requests that were repeated.
    pub retries: u64,
}

impl Counters {
    /// Announces work.
    pub fn expect(&self, files: u64, bytes: u64) {
        self.files_total.fetch_add(files, Ordering::Relaxed);
        self.bytes_total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes have moved.
    pub fn add_bytes(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that had moved must move again: a part is repeated.
    pub fn take_back_bytes(&self, bytes: u64) {
        self.bytes_done.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// A file is finished.
    pub fn finish_file(&self) {
        self.files_done.fetch_add(1, Ordering::Relaxed);
    }

    /// A request is repeated.
    pub fn count_retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// Reads all counters.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            bytes_total: self.bytes_total.load(Ordering::Relaxed),
            bytes_done: self.bytes_done.load(Ordering::Relaxed),
            files_total: self.files_total.load(Ordering::Relaxed),
            files_done: self.files_done.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
        }
    }
}

impl Progress for Counters {
    fn snapshot(&self) -> Snapshot {
        self.snapshot()
    }
}
