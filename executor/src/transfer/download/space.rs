//! Whether what is still to come fits on the disk.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::transfer::TransferError;
use crate::transfer::partial::InputTree;

/// Bytes needed, as far as sizes are known, and bytes written.
#[derive(Debug)]
pub(super) struct Space {
    reserve: u64,
    needed: AtomicU64,
    written: AtomicU64,
}

impl Space {
    /// Keeps `reserve` bytes of the file system free.
    pub(super) fn new(reserve: u64) -> Self {
        Self {
            reserve,
            needed: AtomicU64::new(0),
            written: AtomicU64::new(0),
        }
    }

    /// Another object of `bytes` will be written; refuses if it no longer fits with all that is
    /// known to come.
    pub(super) fn need(&self, bytes: u64, tree: &InputTree) -> Result<(), TransferError> {
        self.needed.fetch_add(bytes, Ordering::Relaxed);
        let have_bytes = tree.free_bytes().map_err(|cause| TransferError::Local {
            action: "see how much space is free in",
            path: tree.path().to_owned(),
            cause,
        })?;
        let need_bytes = self.outstanding().saturating_add(self.reserve);
        if need_bytes > have_bytes {
            return Err(TransferError::NoSpace {
                directory: tree.path().to_owned(),
                need_bytes,
                have_bytes,
            });
        }
        Ok(())
    }

    pub(super) fn wrote(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// An object of `bytes` will be written again over itself.
    pub(super) fn take_back(&self, bytes: u64) {
        self.written.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes written.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// The system said that the disk is full: someone else filled it.
    pub(super) fn exhausted(&self, tree: &InputTree) -> TransferError {
        TransferError::NoSpace {
            directory: tree.path().to_owned(),
            need_bytes: self.outstanding(),
            have_bytes: tree.free_bytes().unwrap_or(0),
        }
    }

    fn outstanding(&self) -> u64 {
        self.needed.load(Ordering::Relaxed).saturating_sub(self.written())
    }
}
