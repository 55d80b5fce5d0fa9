//! The memory of parts: buffers that are handed out and come back. Uploads give them to the HTTP client without
//! a copy, streams fill them ahead of their reader.
//!
//! A fixed budget bounds all of them together. Buffers are kept for the next part: fresh ones of 16
//! MiB each made the process three times as large.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The smallest buffer, and the unit in which the budget is counted.
pub(super) const UNIT_BYTES: usize = 256 * 1024;

/// Buffers within a budget.
#[derive(Debug)]
pub(super) struct BufferPool {
    /// A permit per unit.
    budget: Arc<Semaphore>,
    units: usize,
    /// Buffers of at most this many bytes are kept.
    keep_bytes: usize,
    kept: Mutex<Vec<Vec<u8>>>,
}

impl BufferPool {
    /// A pool of `budget_bytes` that keeps buffers of up to `part_bytes`.
    pub(super) fn new(budget_bytes: u64, part_bytes: u64) -> Arc<Self> {
        let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
        let units = (bytes(budget_bytes) / UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Self {
            budget: Arc::new(Semaphore::new(units)),
            units,
            keep_bytes: bytes(part_bytes).max(UNIT_BYTES),
            kept: Mutex::default(),
        })
    }

    /// A buffer of `len` bytes, as soon as the budget allows. One larger than the whole budget is
    /// handed out when no other is.
    pub(super) async fn acquire(self: &Arc<Self>, len: usize) -> Buffer {
        // Few sizes, so that what one part leaves fits the next.
        let capacity = if len <= self.keep_bytes {
            len.next_power_of_two().clamp(UNIT_BYTES, self.keep_bytes)
        } else {
            len
        };
        let units = capacity.div_ceil(UNIT_BYTES).min(self.units);
        let permit = Arc::clone(&self.budget)
            .acquire_many_owned(u32::try_from(units).unwrap_or(u32::MAX))
            .await
            .expect("the semaphore is never closed");
        Buffer {
            bytes: self.take(capacity),
            len,
            pool: Arc::clone(self),
            _permit: permit,
        }
    }

    fn take(&self, capacity: usize) -> Vec<u8> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = kept.iter().position(|buffer| buffer.len() == capacity) {
            return kept.swap_remove(found);
        }
        // What is handed out, this one included, and what is kept stay within the budget together.
        let handed_out = (self.units - self.budget.available_permits()) * UNIT_BYTES;
        let room = (self.units * UNIT_BYTES).saturating_sub(handed_out);
        while kept.iter().map(Vec::len).sum::<usize>() > room {
            kept.pop();
        }
        drop(kept);
        vec![0; capacity]
    }

    fn put_back(&self, buffer: Vec<u8>) {
        if buffer.len() <= self.keep_bytes {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push(buffer);
        }
    }
}

/// A buffer; goes back to its pool when dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    len: usize,
    pool: Arc<BufferPool>,
    _permit: OwnedSemaphorePermit,
}

impl Buffer {
    /// The filled buffer as `Bytes`, without a copy; it goes back when the last clone is dropped.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.len).unwrap_or_default()
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.put_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const MIB: usize = 1024 * 1024;

    #[tokio::test]
    async fn the_budget_holds_and_buffers_come_back() {
        let pool = BufferPool::new(4 * MIB as u64, 2 * MIB as u64);
        let first = pool.acquire(2 * MIB).await;
        let address = first.as_ptr();
        let second = pool.acquire(MIB + 1).await;
        assert_eq!(second.len(), MIB + 1);
        assert!(pool.acquire(1).now_or_never().is_none());
        let bytes = first.freeze();
        let clone = bytes.clone();
        drop(bytes);
        assert!(pool.acquire(1).now_or_never().is_none());
        drop(clone);
        let third = pool.acquire(2 * MIB).now_or_never().unwrap();
        assert_eq!(third.as_ptr(), address);
    }

    #[tokio::test]
    async fn a_buffer_above_the_budget_waits_for_all_others_and_is_not_kept() {
        let pool = BufferPool::new(MIB as u64, MIB as u64);
        let small = pool.acquire(1).await;
        assert!(pool.acquire(3 * MIB).now_or_never().is_none());
        drop(small);
        let large = pool.acquire(3 * MIB).now_or_never().unwrap();
        assert_eq!(large.len(), 3 * MIB);
        assert!(pool.acquire(1).now_or_never().is_none());
        drop(large);
        assert!(
            pool.kept
                .lock()
                .unwrap()
                .iter()
                .all(|buffer| buffer.len() <= MIB)
        );
    }
}
