//! Removing what nothing uses. The listing goes first, then the tree leaves its place in one rename, then it
//! is deleted: whoever looks at any moment sees a whole tree that is done, or none that is.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use cts_shared::id::RefdataId;

use super::error::RefdataError;
use super::layout::Layout;
use super::lock::{self, Lock};
use super::status::{self, ItemState, StagedItem};
use super::unpack::remove_tree;

/// Everything that is neither kept, nor worked on, nor noted by the staging server.
pub(super) fn prunable(
    layout: &Layout,
    keep: &BTreeSet<RefdataId>,
) -> Result<Vec<StagedItem>, RefdataError> {
    let mut items = status::list(layout)?;
    items.retain(|item| {
        !keep.contains(&item.id)
            && item.state != ItemState::Staging
            && !layout.note(&item.id).exists()
    });
    Ok(items)
}

/// Removes all there is of an item.
pub(super) fn remove(layout: &Layout, id: &RefdataId) -> Result<(), RefdataError> {
    let path = layout.lock(id);
    let lock = Lock::try_take(&path).map_err(RefdataError::local("take the lock", &path))?;
    let Some(lock) = lock else {
        let holder = lock::holder(&path);
        let id = id.clone();
        return Err(RefdataError::Busy { id, holder });
    };
    clear(layout, id)?;
    // Last, and by its own name, so that a file that nobody knows of keeps the directory.
    lock.remove_file()
        .map_err(RefdataError::local("remove", &path))?;
    let directory = layout.metadata_of(id);
    match fs::remove_dir(&directory) {
        // Someone waits for the lock, and has made a new one.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        removed => removed.map_err(RefdataError::local("remove", &directory)),
    }
}

/// Removes tree and metadata, done or not. Only under the lock.
pub(super) fn clear(layout: &Layout, id: &RefdataId) -> Result<(), RefdataError> {
    remove_file(&layout.listing(id))?;
    let (tree, removing) = (layout.tree(id), layout.removing(id));
    // What an earlier, killed removal left.
    remove_whole(&removing)?;
    match fs::rename(&tree, &removing) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        renamed => renamed.map_err(RefdataError::local("move away", &tree))?,
    }
    remove_whole(&removing)?;
    remove_whole(&layout.staging(id))?;
    // Last: as long as one of them is there, the tree is known to be this metadata's.
    remove_file(&layout.unfinished_listing(id))?;
    remove_file(&layout.fingerprint(id))
}

fn remove_file(path: &Path) -> Result<(), RefdataError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(RefdataError::local("remove", path)),
    }
}

fn remove_whole(tree: &Path) -> Result<(), RefdataError> {
    match remove_tree(tree) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(RefdataError::local("remove", tree)),
    }
}
