//! An object that arrives in parts: which are taken, which are there.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use cts_shared::crc64nvme::Crc64Nvme;

use crate::transfer::part::Version;

/// The object. One of a single part is complete after the first.
#[derive(Debug)]
pub(super) struct LargeObject {
    pub(super) index: usize,
    /// What its bytes had at the first try, if this is the second.
    pub(super) earlier: Option<Crc64Nvme>,
    pub(super) version: Version,
    parts: Mutex<Parts>,
}

#[derive(Debug)]
struct Parts {
    /// Where the next part begins.
    next: u64,
    /// Bytes that are there.
    received: u64,
    /// Start, length and checksum of the parts that are there, in order of arrival.
    done: Vec<(u64, u64, Crc64Nvme)>,
}

impl LargeObject {
    /// An object whose first part, taken already, ends at `first_part_end`.
    pub(super) fn new(
        index: usize,
        earlier: Option<Crc64Nvme>,
        version: Version,
        first_part_end: u64,
    ) -> Arc<Self> {
        Arc::new(Self {
            index,
            earlier,
            version,
            parts: Mutex::new(Parts {
                next: first_part_end,
                received: 0,
                done: Vec::new(),
            }),
        })
    }

    /// The next part to fetch, and whether it is the last.
    pub(super) fn take_part(&self, part_bytes: u64) -> Option<(Range<u64>, bool)> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let start = parts.next;
        let end = start
            .saturating_add(part_bytes.max(1))
            .min(self.version.size);
        parts.next = end;
        (start < end).then_some((start..end, end == self.version.size))
    }

    /// A part is there; the checksum of the whole if it was the last to come.
    pub(super) fn part_done(&self, part: Range<u64>, checksum: Crc64Nvme) -> Option<Crc64Nvme> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let len = part.end - part.start;
        parts.received += len;
        parts.done.push((part.start, len, checksum));
        if parts.received < self.version.size {
            return None;
        }
        parts.done.sort_unstable_by_key(|(start, ..)| *start);
        let whole = parts
            .done
            .iter()
            .fold(Crc64Nvme::EMPTY, |whole, (_, len, checksum)| {
                whole.combine(*checksum, *len)
            });
        Some(whole)
    }
}
