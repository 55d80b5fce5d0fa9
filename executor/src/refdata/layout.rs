//! Which file is where. See the picture in [`super`].

use std::path::PathBuf;

use cts_shared::id::RefdataId;

/// The two directories of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// Holds the trees.
    pub(super) root: PathBuf,
    /// Holds a directory for each item.
    pub(super) metadata: PathBuf,
}

/// Begins the name of a tree that grows. No id begins with a dot.
pub(super) const STAGING_PREFIX: &str = ".staging-";
/// Begins the name of a tree that goes.
pub(super) const REMOVING_PREFIX: &str = ".removing-";

impl Layout {
    pub(super) fn tree(&self, id: &RefdataId) -> PathBuf {
        self.root.join(id.as_str())
    }

    pub(super) fn staging(&self, id: &RefdataId) -> PathBuf {
        self.root.join(format!("{STAGING_PREFIX}{id}"))
    }

    pub(super) fn removing(&self, id: &RefdataId) -> PathBuf {
        self.root.join(format!("{REMOVING_PREFIX}{id}"))
    }

    pub(super) fn metadata_of(&self, id: &RefdataId) -> PathBuf {
        self.metadata.join(id.as_str())
    }

    pub(super) fn listing(&self, id: &RefdataId) -> PathBuf {
        self.metadata_of(id).join("md5.json")
    }

    pub(super) fn unfinished_listing(&self, id: &RefdataId) -> PathBuf {
        self.metadata_of(id).join("md5.json.tmp")
    }

    pub(super) fn fingerprint(&self, id: &RefdataId) -> PathBuf {
        self.metadata_of(id).join("verified.json")
    }

    pub(super) fn note(&self, id: &RefdataId) -> PathBuf {
        self.metadata_of(id).join("staging.json")
    }

    pub(super) fn lock(&self, id: &RefdataId) -> PathBuf {
        self.metadata_of(id).join("lock")
    }
}
