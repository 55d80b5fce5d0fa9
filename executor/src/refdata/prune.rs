//! Removing what nothing uses. The listing loses its name first, then the tree leaves its place in one rename, then it
//! is deleted: whoever looks at any moment sees a whole tree that is done, or none that is.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use cts_shared::id::RefdataId;

use super::error::RefdataError;
use super::layout::Layout;
use super::lock::{self, Lock};
use super::staging::sync_directory;
use super::status::{self, ItemState, StagedItem};
use super::unpack::remove_tree;

/// Everything that is neither kept, nor foreign, nor worked on, nor noted by the staging server.
pub(super) fn prunable(
    layout: &Layout,
    keep: &BTreeSet<RefdataId>,
) -> Result<Vec<StagedItem>, RefdataError> {
    let mut items = status::list(layout)?;
    items.retain(|item| {
        !keep.contains(&item.id)
            && matches!(item.state, ItemState::Done | ItemState::Damaged)
            && !layout.note(&item.id).exists()
    });
    Ok(items)
}

/// An item whose lock is held because it is to be removed. Dropped, it stays as it is.
#[derive(Debug)]
pub struct Removal {
    layout: Arc<Layout>,
    id: RefdataId,
    lock: Lock,
}

impl Removal {
    pub(super) fn begin(layout: &Arc<Layout>, id: &RefdataId) -> Result<Self, RefdataError> {
        // Also before: the lock's file would be the first thing that this metadata has of it.
        status::refuse_foreign(layout, id)?;
        let path = layout.lock(id);
        let lock = Lock::try_take(&path).map_err(RefdataError::local("take the lock", &path))?;
        let Some(lock) = lock else {
            let holder = lock::holder(&path);
            let id = id.clone();
            return Err(RefdataError::Busy { id, holder });
        };
        status::refuse_foreign(layout, id)?;
        Ok(Self {
            layout: Arc::clone(layout),
            id: id.clone(),
            lock,
        })
    }

    /// Removes the tree and the metadata, whatever state they are in, and what a killed removal left. No half of
    /// a tree is ever at its finished place. Blocks.
    ///
    /// # Errors
    /// What could not be removed.
    pub fn finish(self) -> Result<(), RefdataError> {
        let Self { layout, id, lock } = self;
        clear(&layout, &id)?;
        // Last, and by its own name, so that a file that nobody knows of keeps the directory.
        let path = layout.lock(&id);
        lock.remove_file()
            .map_err(RefdataError::local("remove", &path))?;
        let directory = layout.metadata_of(&id);
        match fs::remove_dir(&directory) {
            // Someone waits for the lock, and has made a new one.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            removed => removed.map_err(RefdataError::local("remove", &directory)),
        }
    }
}

/// Removes tree and metadata, done or not, but nothing foreign. Only under the lock.
pub(super) fn clear(layout: &Layout, id: &RefdataId) -> Result<(), RefdataError> {
    // It stays until the last: as long as it is there, the tree is known to be this metadata's.
    let (listing, unfinished) = (layout.listing(id), layout.unfinished_listing(id));
    unless_absent(fs::rename(&listing, &unfinished))
        .map_err(RefdataError::local("rename", &listing))?;
    let removing = layout.removing(id);
    // What an earlier, killed removal left.
    remove_whole(&removing)?;
    for tree in [layout.tree(id), layout.staging(id)] {
        // A tree goes in one step, also one that another process still writes to.
        unless_absent(fs::rename(&tree, &removing))
            .map_err(RefdataError::local("move away", &tree))?;
        remove_whole(&removing)?;
    }
    if unfinished.exists() {
        // Only when nothing of the tree can come back after a power cut.
        sync_directory(&layout.root)?;
        remove_file(&unfinished)?;
    }
    remove_file(&layout.fingerprint(id))
}

fn remove_file(path: &Path) -> Result<(), RefdataError> {
    unless_absent(fs::remove_file(path)).map_err(RefdataError::local("remove", path))
}

fn remove_whole(tree: &Path) -> Result<(), RefdataError> {
    unless_absent(remove_tree(tree)).map_err(RefdataError::local("remove", tree))
}

/// What is not there need not go.
fn unless_absent(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
