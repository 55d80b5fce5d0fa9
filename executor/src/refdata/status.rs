//! What is on the disk, as it is.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cts_shared::id::RefdataId;
use cts_shared::wire::refdata::{RefdataLocalState, RefdataLocalStatus};
use serde::Serialize;

use super::error::RefdataError;
use super::layout::{Layout, REMOVING_PREFIX, STAGING_PREFIX};
use super::listing::Listing;
use super::lock::{Lock, is_absent};

/// How an item is, for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemState {
    /// Someone holds its lock: it is being staged, verified or removed.
    Staging,
    /// Tree and listing are there.
    Done,
    /// Something is there that is not done, and nobody works on it: see the problem.
    Damaged,
    /// Something is there that this metadata knows nothing of.
    Foreign,
}

/// An item that has left anything on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StagedItem {
    /// Which.
    pub id: RefdataId,
    /// How it is.
    pub state: ItemState,
    /// Files in its listing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Bytes in them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// When its listing was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<jiff::Timestamp>,
    /// Why it is damaged or foreign.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What there is of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) tree: bool,
    pub(super) listing: bool,
    /// A tree that grew or went when its process died, unless it still lives.
    pub(super) leftover: bool,
    /// The metadata knows of it.
    known: bool,
}

impl Found {
    pub(super) fn of(layout: &Layout, id: &RefdataId) -> Result<Self, RefdataError> {
        Ok(Self {
            tree: exists(&layout.tree(id))?,
            listing: exists(&layout.listing(id))?,
            leftover: exists(&layout.staging(id))? || exists(&layout.removing(id))?,
            known: any_exists(&layout.marks(id))?,
        })
    }

    pub(super) const fn is_done(self) -> bool {
        self.tree && self.listing
    }

    const fn is_foreign(self) -> bool {
        (self.tree || self.leftover) && !self.known
    }
}

/// What was staged with other metadata may be in use, and what was not staged at all is somebody's.
pub(super) fn refuse_foreign(layout: &Layout, id: &RefdataId) -> Result<(), RefdataError> {
    if !Found::of(layout, id)?.is_foreign() {
        return Ok(());
    }
    let path = match exists(&layout.tree(id))? {
        true => layout.tree(id),
        false => layout.staging(id),
    };
    Err(RefdataError::Foreign {
        id: id.clone(),
        path,
        metadata: layout.metadata.clone(),
    })
}

fn any_exists(paths: &[PathBuf]) -> Result<bool, RefdataError> {
    paths
        .iter()
        .try_fold(false, |found, path| Ok(found || exists(path)?))
}

fn exists(path: &Path) -> Result<bool, RefdataError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(RefdataError::local("look at", path)(error)),
    }
}

/// In the contract's words (service.md, section 10).
pub(super) fn of(layout: &Layout, id: &RefdataId) -> Result<RefdataLocalStatus, RefdataError> {
    let found = Found::of(layout, id)?;
    let (state, files) = if found.is_done() {
        let listing = Listing::load(&layout.listing(id))?;
        (RefdataLocalState::Done, Some(listing.files))
    } else if found.tree || found.leftover {
        (RefdataLocalState::Staging, None)
    } else {
        (RefdataLocalState::None, None)
    };
    Ok(RefdataLocalStatus {
        state,
        files,
        progress: None,
        error: None,
    })
}

/// Every item that has left anything, by id.
pub(super) fn list(layout: &Layout) -> Result<Vec<StagedItem>, RefdataError> {
    let mut ids = BTreeSet::new();
    for name in names(&layout.root)? {
        let name = [STAGING_PREFIX, REMOVING_PREFIX]
            .iter()
            .find_map(|prefix| name.strip_prefix(prefix))
            .unwrap_or(&name);
        ids.extend(name.parse::<RefdataId>());
    }
    for name in names(&layout.metadata)? {
        ids.extend(name.parse::<RefdataId>());
    }
    ids.into_iter()
        .filter_map(|id| item(layout, id).transpose())
        .collect()
}

/// Names in a directory, if it is there. Names that are not UTF-8 are nobody's id.
fn names(directory: &Path) -> Result<Vec<String>, RefdataError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(RefdataError::local("list", directory)(error)),
    };
    entries
        .filter_map(|entry| match entry {
            Ok(entry) => entry.file_name().into_string().ok().map(Ok),
            Err(error) => Some(Err(RefdataError::local("list", directory)(error))),
        })
        .collect()
}

/// One item, if it has left anything but a lock.
fn item(layout: &Layout, id: RefdataId) -> Result<Option<StagedItem>, RefdataError> {
    let found = Found::of(layout, &id)?;
    let lock = layout.lock(&id);
    let is_held = Lock::is_held(&lock).map_err(RefdataError::local("look at the lock", &lock))?;
    let listing_path = layout.listing(&id);
    let mut problem = match found {
        found if found.is_foreign() => Some(
            "this metadata knows nothing of it: staged with another, or no reference data; it is left alone"
                .to_owned(),
        ),
        Found { leftover: true, .. } => {
            Some("a killed staging or removal left it; stage it again or prune it".to_owned())
        }
        Found {
            tree: true,
            listing: false,
            ..
        } => Some("a tree whose listing is not finished; stage it again or prune it".to_owned()),
        Found {
            tree: false,
            listing: true,
            ..
        } => Some("a listing without a tree; stage it again or prune it".to_owned()),
        _ => None,
    };
    let listing = match found.listing.then(|| Listing::load(&listing_path)) {
        Some(Ok(listing)) => Some(listing),
        Some(Err(error)) => {
            problem = Some(RefdataError::from(error).to_string());
            None
        }
        None => None,
    };
    let state = match problem {
        _ if is_held => ItemState::Staging,
        Some(_) if found.is_foreign() => ItemState::Foreign,
        Some(_) => ItemState::Damaged,
        None if found.is_done() => ItemState::Done,
        None => return Ok(None),
    };
    Ok(Some(StagedItem {
        id,
        state,
        files: listing.as_ref().map(|listing| listing.files.len() as u64),
        bytes: listing.as_ref().map(Listing::bytes),
        since: found.listing.then(|| written(listing_path)).flatten(),
        problem: problem.filter(|_| state != ItemState::Staging),
    }))
}

/// When a file was written; unknown is good enough for a list.
fn written(path: PathBuf) -> Option<jiff::Timestamp> {
    let modified = fs::metadata(path).ok()?.modified().ok()?;
    jiff::Timestamp::try_from(modified).ok()
}
