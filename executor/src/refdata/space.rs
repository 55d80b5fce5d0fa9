//! Free space, shared out: stagings side by side must not count on the same bytes.

use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::HumanBytes;

use crate::disk;

/// What the stagings of this process still mean to write.
#[derive(Debug)]
pub(super) struct SpaceLedger {
    reserve_bytes: u64,
    promised_bytes: Mutex<u64>,
}

/// The object does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no space in {}: {} needed, {} free of which {} stay free and {} are for what is being staged beside it; \
     free some (`cts-executor refdata prune`), or use a larger disk",
    directory.display(),
    HumanBytes(*need_bytes),
    HumanBytes(*free_bytes),
    HumanBytes(*reserve_bytes),
    HumanBytes(*promised_bytes)
)]
pub struct NoSpace {
    /// Where.
    pub directory: PathBuf,
    /// What is still to be written, as far as known.
    pub need_bytes: u64,
    /// What an unprivileged process may still write there.
    pub free_bytes: u64,
    /// What is to stay free.
    pub reserve_bytes: u64,
    /// What other stagings of this process still mean to write.
    pub promised_bytes: u64,
}

/// Why there is no answer, or not the wanted one.
#[derive(Debug, thiserror::Error)]
pub(super) enum SpaceError {
    #[error(transparent)]
    NoSpace(#[from] NoSpace),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// One staging's share; given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    ledger: Arc<SpaceLedger>,
    directory: PathBuf,
    /// Of what was promised, what has not been written.
    left_bytes: Mutex<u64>,
}

impl SpaceLedger {
    /// Keeps `reserve_bytes` of the file system free.
    pub(super) fn new(reserve_bytes: u64) -> Self {
        Self {
            reserve_bytes,
            promised_bytes: Mutex::new(0),
        }
    }

    /// Promises `need_bytes` of the file system of `directory`.
    pub(super) fn promise(
        self: &Arc<Self>,
        directory: &Path,
        need_bytes: u64,
    ) -> Result<Share, SpaceError> {
        let free_bytes = disk::free_bytes(directory)?;
        let mut promised = lock(&self.promised_bytes);
        self.check(directory, need_bytes, free_bytes, *promised)?;
        *promised = promised.saturating_add(need_bytes);
        Ok(Share {
            ledger: Arc::clone(self),
            directory: directory.to_owned(),
            left_bytes: Mutex::new(need_bytes),
        })
    }

    fn check(
        &self,
        directory: &Path,
        need_bytes: u64,
        free_bytes: u64,
        promised_bytes: u64,
    ) -> Result<(), NoSpace> {
        let taken = need_bytes
            .saturating_add(promised_bytes)
            .saturating_add(self.reserve_bytes);
        if taken <= free_bytes {
            return Ok(());
        }
        Err(NoSpace {
            directory: directory.to_owned(),
            need_bytes,
            free_bytes,
            reserve_bytes: self.reserve_bytes,
            promised_bytes,
        })
    }
}

impl Share {
    /// How many of the bytes that are wanted, at least and at most, may be written; they then count as written.
    /// What was promised needs only the disk to have kept it; what goes beyond must be free beside what others
    /// were promised.
    pub(super) fn spend(&self, wanted: RangeInclusive<u64>) -> Result<u64, SpaceError> {
        let free_bytes = disk::free_bytes(&self.directory)?;
        let mut left = lock(&self.left_bytes);
        let mut promised = lock(&self.ledger.promised_bytes);
        let others = promised.saturating_sub(*left);
        let need = (*wanted.start()).max(*left);
        self.ledger
            .check(&self.directory, need, free_bytes, others)?;
        let available = free_bytes
            .saturating_sub(self.ledger.reserve_bytes)
            .saturating_sub(others);
        let granted = (*wanted.end()).min(available);
        let spent = granted.min(*left);
        *left -= spent;
        *promised = promised.saturating_sub(spent);
        Ok(granted)
    }

    /// What to say when there is no space for `next_bytes` more, or the system said so itself.
    pub(super) fn refusal(&self, next_bytes: u64) -> NoSpace {
        let left = *lock(&self.left_bytes);
        let promised = *lock(&self.ledger.promised_bytes);
        NoSpace {
            directory: self.directory.clone(),
            need_bytes: left.max(next_bytes),
            free_bytes: disk::free_bytes(&self.directory).unwrap_or(0),
            reserve_bytes: self.ledger.reserve_bytes,
            promised_bytes: promised.saturating_sub(left),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let left = *lock(&self.left_bytes);
        let mut promised = lock(&self.ledger.promised_bytes);
        *promised = promised.saturating_sub(left);
    }
}

fn lock(bytes: &Mutex<u64>) -> std::sync::MutexGuard<'_, u64> {
    bytes.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_are_not_promised_twice() {
        let ledger = SpaceLedger::new(10);
        let here = Path::new("/here");
        ledger.check(here, 90, 100, 0).unwrap();
        let refused = ledger.check(here, 91, 100, 0).unwrap_err();
        assert_eq!((refused.need_bytes, refused.free_bytes), (91, 100));
        let refused = ledger.check(here, 50, 100, 41).unwrap_err();
        assert_eq!(refused.promised_bytes, 41);
        assert!(
            refused.to_string().contains("50 B needed, 100 B free"),
            "{refused}"
        );
    }

    #[test]
    fn a_share_is_used_up_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Arc::new(SpaceLedger::new(0));
        let share = ledger.promise(dir.path(), 100).unwrap();
        assert_eq!(share.spend(1..=60).unwrap(), 60);
        assert_eq!(*lock(&ledger.promised_bytes), 40);
        share.spend(60..=60).unwrap();
        assert_eq!(*lock(&ledger.promised_bytes), 0);
        let other = ledger.promise(dir.path(), 7).unwrap();
        drop(share);
        assert_eq!(*lock(&ledger.promised_bytes), 7);
        // All that is free, where that is less than the most that is wanted; but the others' seven bytes.
        let share = ledger.promise(dir.path(), 0).unwrap();
        let free = disk::free_bytes(dir.path()).unwrap();
        let granted = share.spend(1..=u64::MAX).unwrap();
        // Others write and remove meanwhile.
        let about = free / 2..free.saturating_mul(2);
        assert!(about.contains(&granted), "{granted} of {free}");
        assert!(share.spend(u64::MAX..=u64::MAX).is_err());
        drop(share);
        drop(other);
        assert_eq!(*lock(&ledger.promised_bytes), 0);
        assert!(matches!(
            ledger.promise(dir.path(), u64::MAX),
            Err(SpaceError::NoSpace(_))
        ));
    }
}
