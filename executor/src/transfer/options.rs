//! Sizes, counts and time limits of transfers. The defaults are measured; tests make them small.

use std::time::Duration;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Sizes, counts and time limits of transfers.
#[derive(Debug, Clone)]
pub struct TransferOptions {
    /// Downloads: parts in flight.
    pub download_concurrency: usize,
    /// Downloads: the first request of an object asks for this many bytes, so that anything up to
    /// this size comes whole.
    pub first_part_bytes: u64,
    /// Downloads: size of the other parts.
    pub part_bytes: u64,
    /// Downloads: bytes that must stay free on the file system.
    pub reserve_bytes: u64,
    /// Streams: parts in memory, those in flight and the one that is being read together.
    pub stream_parts: usize,
    /// Streams: size of a part.
    pub stream_part_bytes: u64,
    /// Uploads: requests in flight.
    pub upload_concurrency: usize,
    /// Uploads: a file up to this size is one PUT; a larger one is cut into parts of at least this
    /// size. S3's smallest part is 5 MiB.
    pub upload_part_bytes: u64,
    /// Uploads: memory for the bytes in flight. A single part that is larger (of a file above
    /// 10,000 parts) is sent alone.
    pub upload_memory_bytes: u64,
    /// How long a store may take to answer, not counting a body.
    pub response_timeout: Duration,
    /// A body must bring [`stall_min_bytes`](Self::stall_min_bytes) in every span of this length.
    pub stall_window: Duration,
    /// See [`stall_window`](Self::stall_window).
    pub stall_min_bytes: u64,
    /// A request that sends a body gets the time that this rate needs, and more from try to try.
    pub upload_min_bytes_per_sec: u64,
    /// How long cleaning up after a cancellation may take.
    pub cleanup_timeout: Duration,
    /// When and how often to try again.
    pub retry: RetryPolicy,
}

impl Default for TransferOptions {
    fn default() -> Self {
        Self {
            download_concurrency: 8,
            first_part_bytes: 32 * MIB,
            part_bytes: 16 * MIB,
            reserve_bytes: 0,
            stream_parts: 4,
            stream_part_bytes: 8 * MIB,
            upload_concurrency: 16,
            upload_part_bytes: 16 * MIB,
            upload_memory_bytes: 64 * MIB,
            response_timeout: Duration::from_secs(60),
            stall_window: Duration::from_secs(20),
            stall_min_bytes: 64 * KIB,
            upload_min_bytes_per_sec: 64 * KIB,
            cleanup_timeout: Duration::from_millis(800),
            retry: RetryPolicy::default(),
        }
    }
}

/// When and how often a part is tried again. Both limits count from the last progress.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// Tries in all.
    pub max_attempts: u32,
    /// Time in all.
    pub max_elapsed: Duration,
    /// Upper limit of the first wait; doubles from try to try.
    pub base_delay: Duration,
    /// Upper limit of any wait.
    pub max_delay: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 40,
            max_elapsed: Duration::from_secs(600),
            base_delay: Duration::from_millis(250),
            max_delay: Duration::from_secs(30),
        }
    }
}
