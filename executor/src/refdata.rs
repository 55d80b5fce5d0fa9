//! Reference data on a disk: staged once, checked, mounted read-only.
//!
//! A [`RefdataStore`] is a directory of staged data. The staging server, the `refdata` commands and runs that
//! stage what their job needs all work through it; there is no HTTP here.
//!
//! ```text
//!   ROOT/<id>/...                     a finished tree, read-only: what containers mount
//!   ROOT/.staging-<id>/               a tree while it grows
//!   ROOT/.removing-<id>/              a tree while it goes
//!   METADATA/<id>/md5.json            its listing: path, size and checksums of every file
//!   METADATA/<id>/md5.json.tmp        says that what grows or goes is of this metadata; the listing, before the tree
//!                                     has its name
//!   METADATA/<id>/verified.json       the tree's fingerprint when its bytes were last known to be right
//!   METADATA/<id>/staging.json        the staging server's note of what it was asked for
//!   METADATA/<id>/lock                held (flock) by whoever stages, verifies or removes
//! ```
//!
//! The life of a staging, all of it under the lock: what a killed one left is removed; the space is checked;
//! an empty `md5.json.tmp` is made; the object streams through the unpacker into `.staging-<id>`, hashed as it passes; its checksum must be the
//! registered one; the listing is written as `md5.json.tmp`; the tree is made read-only and gets its name in
//! one rename; then the listing gets its own.
//!
//! - **Done** means: tree and `md5.json` are both there. No crash and no failure leaves both behind without
//!   every byte having been checked.
//! - **Trusted** means: done, and the tree's fingerprint is the one in `verified.json`. Else the tree is read
//!   whole and compared with its listing before anything uses it.
//! - **Foreign** is what is in ROOT under a name that could be an id and of which METADATA has no listing, finished or
//!   not, and no fingerprint: staged with other metadata, or no reference data at all. It is never touched.
//! - **One staging per item**, however many ask and in however many processes: the kernel frees the lock of a
//!   holder that dies.

mod error;
mod fingerprint;
mod layout;
pub mod limits;
pub mod listing;
mod lock;
pub mod progress;
mod prune;
mod space;
mod staging;
mod status;
pub mod unpack;
mod verify;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cts_shared::crc64nvme::Crc64Nvme;
use cts_shared::id::RefdataId;
use cts_shared::wire::refdata::RefdataLocalStatus;
use tokio_util::sync::CancellationToken;

use crate::object_store::ObjectName;
use crate::transfer::TransferEngine;

pub use error::{RefdataError, StagingError};
pub use layout::{MetadataAmongTrees, check_directories};
pub use limits::StagingLimits;
pub(crate) use lock::host_name;
pub use progress::StagingCounters;
pub use prune::Removal;
pub use space::NoSpace;
pub use status::{ItemState, StagedItem};
pub use verify::{Difference, Verification};

use layout::Layout;
use space::SpaceLedger;

/// Reference data that can be staged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its id: the name of its directory.
    pub id: RefdataId,
    /// Its object.
    pub object: ObjectName,
    /// What the object's bytes must have.
    pub expected: Crc64Nvme,
    /// Whether the object is an archive that is unpacked; else the tree is the one file.
    pub unpack: bool,
}

/// Reference data that is done and trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    /// The tree.
    pub tree: PathBuf,
    /// Files in it.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// It was there before this call began or this call waited for who staged it.
    pub was_there: bool,
}

/// A directory of staged reference data. Cheap to clone; stagings through clones of one store share its view
/// of the free space.
#[derive(Debug, Clone)]
pub struct RefdataStore {
    layout: Arc<Layout>,
    limits: StagingLimits,
    space: Arc<SpaceLedger>,
}

impl RefdataStore {
    /// The store whose trees are below `root` and whose listings are below `metadata`. Does no IO; staging
    /// makes `metadata` if it does not exist, never `root`.
    #[must_use]
    pub fn new(root: PathBuf, metadata: PathBuf, limits: StagingLimits) -> Self {
        Self {
            layout: Arc::new(Layout { root, metadata }),
            limits,
            space: Arc::new(SpaceLedger::new(limits.reserve_bytes)),
        }
    }

    /// Where listings are unless something else is set: `.metadata` below the root.
    #[must_use]
    pub fn default_metadata(root: &Path) -> PathBuf {
        root.join(".metadata")
    }

    /// Where the finished tree of `id` is or will be.
    #[must_use]
    pub fn tree(&self, id: &RefdataId) -> PathBuf {
        self.layout.tree(id)
    }

    /// The directory of `id`'s listing, lock and notes. May not exist.
    #[must_use]
    pub fn metadata_of(&self, id: &RefdataId) -> PathBuf {
        self.layout.metadata_of(id)
    }

    /// The staging server's note of what it was asked for, which only that server reads and writes. An item
    /// that has one is not pruned.
    #[must_use]
    pub fn note(&self, id: &RefdataId) -> PathBuf {
        self.layout.note(id)
    }

    /// Sees to it that `item` is done and trusted: stages it, or waits for who is staging it, or reads what
    /// is there. Costs a look at every file's metadata if it is done and trusted already.
    ///
    /// Everything but the waiting happens on a thread that may block. Use `cancel` to end it: within a second
    /// or two, with everything removed that was staged; if the file system hangs, that comes later. If the future is dropped instead, the same happens in
    /// the background.
    ///
    /// Where the metadata cannot be written (a worker with a read-only mount), an item that is done is checked
    /// all the same, without a lock; one that is not is an error.
    ///
    /// # Errors
    /// See [`StagingError`].
    pub async fn stage(
        &self,
        item: &Item,
        engine: &TransferEngine,
        counters: Arc<StagingCounters>,
        cancel: &CancellationToken,
    ) -> Result<Staged, StagingError> {
        staging::stage(self, item, engine, counters, cancel).await
    }

    /// How far `id` is on this disk, by what is on it: `staging` also for what a killed staging left. Progress
    /// and error are not known here. Blocks; reads the whole listing if it is done.
    ///
    /// # Errors
    /// When the disk or the listing cannot be read.
    pub fn status(&self, id: &RefdataId) -> Result<RefdataLocalStatus, RefdataError> {
        status::of(&self.layout, id)
    }

    /// Everything that is on this disk, by id. Blocks; reads all listings, no tree.
    ///
    /// # Errors
    /// When the directories cannot be read.
    pub fn list(&self) -> Result<Vec<StagedItem>, RefdataError> {
        status::list(&self.layout)
    }

    /// Compares the tree of `id` with its listing: every file's path and size, and if `deep` every byte (the
    /// CRC64NVME where the listing has it, else the MD5). A deep one that finds nothing wrong makes the tree
    /// trusted, if the metadata can be written. Blocks; waits for nobody: an item that is being staged is
    /// [`RefdataError::Busy`].
    ///
    /// # Errors
    /// When there is nothing to compare, a file cannot be read, or `cancel` was cancelled; differences are no
    /// error here.
    pub fn verify(
        &self,
        id: &RefdataId,
        deep: bool,
        cancel: &CancellationToken,
    ) -> Result<Verification, RefdataError> {
        verify::verify(&self.layout, id, deep, cancel)
    }

    /// What can be removed: everything not kept, not foreign, not being staged, and not noted by the staging
    /// server. Blocks.
    ///
    /// # Errors
    /// When the directories cannot be read.
    pub fn prunable(&self, keep: &BTreeSet<RefdataId>) -> Result<Vec<StagedItem>, RefdataError> {
        prune::prunable(&self.layout, keep)
    }

    /// Takes the lock of `id`, which is to be removed; nothing else is done yet. Blocks.
    ///
    /// # Errors
    /// [`RefdataError::Busy`] while it is being staged or verified, [`RefdataError::Foreign`] for what this
    /// metadata knows nothing of.
    pub fn begin_removal(&self, id: &RefdataId) -> Result<Removal, RefdataError> {
        Removal::begin(&self.layout, id)
    }
}
