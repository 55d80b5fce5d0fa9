//! `MOUNT_PREFIX_OVERRIDE`: how the container host sees the job directory.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// `OLD:NEW`: the container host sees below NEW what lies below OLD here. For workers that are
/// containers themselves (contract executor.md, section 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPrefixOverride {
    old: PathBuf,
    new: PathBuf,
}

impl MountPrefixOverride {
    /// The place on the container host of an absolute path here, if it lies below OLD.
    #[must_use]
    pub fn on_host(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(&self.old)
            .ok()
            .map(|rest| self.new.join(rest))
    }

    /// The prefix that paths must lie below.
    #[must_use]
    pub fn old(&self) -> &Path {
        &self.old
    }
}

impl FromStr for MountPrefixOverride {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (old, new) = text.split_once(':').ok_or(())?;
        let is_one_path = |text: &str| text.starts_with('/') && !text.contains(':');
        if !is_one_path(old) || !is_one_path(new) {
            return Err(());
        }
        Ok(Self {
            old: old.into(),
            new: new.into(),
        })
    }
}

impl fmt::Display for MountPrefixOverride {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.old.display(), self.new.display())
    }
}
