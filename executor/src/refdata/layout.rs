//! Which file is where. See the picture in [`super`].

use std::fs;
use std::path::{Component, Path, PathBuf};

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

    /// The files that say that what is in the root was staged with this metadata. One of them is there from
    /// before anything is made in the root until it is gone.
    pub(super) fn marks(&self, id: &RefdataId) -> [PathBuf; 3] {
        [
            self.listing(id),
            self.unfinished_listing(id),
            self.fingerprint(id),
        ]
    }

    pub(super) fn lock(&self, id: &RefdataId) -> PathBuf {
        self.metadata_of(id).join("lock")
    }
}

/// The metadata directory would be taken for a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the metadata directory {} lies among the trees of {} and would be taken for one: name one elsewhere, or \
     below a name that begins with a dot (.metadata)",
    metadata.display(),
    root.display()
)]
pub struct MetadataAmongTrees {
    /// Where the trees are.
    pub root: PathBuf,
    /// Where the metadata was to be.
    pub metadata: PathBuf,
}

/// Whether the two directories of a store can be told apart, whatever links lead to them. Blocks.
///
/// # Errors
/// [`MetadataAmongTrees`].
pub fn check_directories(root: &Path, metadata: &Path) -> Result<(), MetadataAmongTrees> {
    let among = MetadataAmongTrees {
        root: real(root),
        metadata: real(metadata),
    };
    let Ok(below) = among.metadata.strip_prefix(&among.root) else {
        return Ok(());
    };
    match below.components().next() {
        Some(Component::Normal(name)) if name.as_encoded_bytes().starts_with(b".") => Ok(()),
        _ => Err(among),
    }
}

/// The path without links, as far as there is anything.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let found = path.ancestors().find_map(|there| {
        let rest = path.strip_prefix(there).ok()?;
        Some(fs::canonicalize(there).ok()?.join(rest))
    });
    found.unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_not_among_the_trees() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("refdata");
        fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink(&root, dir.path().join("link")).unwrap();
        let check = |metadata: &str| check_directories(&root, &dir.path().join(metadata));
        for good in ["refdata-metadata", "refdata/.metadata", "link/.a/b", "."] {
            check(good).unwrap();
        }
        for bad in ["refdata", "refdata/", "refdata/metadata", "link/metadata/x"] {
            let words = check(bad).unwrap_err().to_string();
            assert!(words.contains("begins with a dot"), "{bad}: {words}");
        }
    }
}
