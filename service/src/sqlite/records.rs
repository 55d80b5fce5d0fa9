//! The records of jobs that are changing, in the memory of the writing thread: reading and parsing
//! the other 299 containers of a job for each report of one would be most of the work.
//!
//! The thread is the only writer of the file, so what is here is what is stored, except
//! - after a change that failed or was not committed: its record is not put back, or all are dropped;
//! - when another process writes to the file: noticed by `PRAGMA data_version`, all are dropped.

use lru::LruCache;

use cts_shared::id::JobId;
use cts_shared::state::job_flow::JobRecord;

/// Containers, transitions, attempts and outputs kept at most, over all jobs: some ten megabytes.
const MAX_WEIGHT: usize = 50_000;

/// Records by job, last used last to go.
#[derive(Debug)]
pub(super) struct Records {
    records: LruCache<JobId, JobRecord>,
    weight: usize,
}

impl Records {
    pub(super) fn new() -> Self {
        Self {
            records: LruCache::unbounded(),
            weight: 0,
        }
    }

    /// Takes a job's record out; put it back when it is stored as it is.
    pub(super) fn take(&mut self, id: JobId) -> Option<JobRecord> {
        let record = self.records.pop(&id)?;
        self.weight -= weight(&record);
        Some(record)
    }

    /// Keeps a record that equals what is stored. Ended jobs do not change, so they are not kept.
    pub(super) fn put(&mut self, id: JobId, record: JobRecord) {
        if record.state().is_terminal() {
            return;
        }
        self.weight += weight(&record);
        if let Some(replaced) = self.records.put(id, record) {
            self.weight -= weight(&replaced);
        }
        while self.weight > MAX_WEIGHT
            && let Some((_, evicted)) = self.records.pop_lru()
        {
            self.weight -= weight(&evicted);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.weight = 0;
    }
}

fn weight(record: &JobRecord) -> usize {
    record
        .containers
        .iter()
        .map(|container| {
            1 + container.transitions.len()
                + container.attempts.len()
                + container.outputs.as_ref().map_or(0, Vec::len)
        })
        .sum::<usize>()
        + record.transitions.len()
        + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use cts_shared::timestamp::UtcTime;

    fn at(second: i64) -> UtcTime {
        UtcTime::new(jiff::Timestamp::from_second(second).unwrap())
    }

    fn id() -> JobId {
        JobId::new(uuid::Uuid::new_v4())
    }

    #[test]
    fn what_was_put_is_taken_once() {
        let mut records = Records::new();
        let id = id();
        let record = JobRecord::new(3, at(1));
        records.put(id, record.clone());
        assert_eq!(records.take(id), Some(record));
        assert_eq!(records.take(id), None);
        assert_eq!(records.weight, 0);
    }

    #[test]
    fn memory_is_bounded_and_the_longest_unused_goes_first() {
        let mut records = Records::new();
        let (first, second) = (id(), id());
        let record = JobRecord::new(1000, at(1));
        records.put(first, record.clone());
        records.put(second, record.clone());
        for _ in 0..MAX_WEIGHT / weight(&record) {
            records.put(id(), record.clone());
            if let Some(used) = records.take(second) {
                records.put(second, used);
            }
            assert!(records.weight <= MAX_WEIGHT);
        }
        assert_eq!(records.take(first), None);
        assert!(records.take(second).is_some());
    }

    #[test]
    fn ended_jobs_are_not_kept() {
        let mut records = Records::new();
        let id = id();
        let mut record = JobRecord::new(1, at(1));
        let _change = record.fail("", "", None, at(2)).unwrap();
        records.put(id, record);
        assert_eq!(records.take(id), None);
    }
}
