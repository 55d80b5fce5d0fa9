//! The input directory while inputs arrive.
//!
//! Partial files live in a directory of their own, `.cts-partial-<random>`, at the top of the input
//! directory (so that a rename into place stays on one file system), under numbers: nothing in there
//! can be taken for an input, and no input can be meant to go there. It is removed at the end,
//! whatever the end, and what a killed run left is removed at the next start.
//!
//! Every path is opened beneath the input directory without following links.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::{Download, TransferError};
use crate::beneath::{self, Links};

const STAGING_PREFIX: &str = ".cts-partial-";

/// Readable by the container's user, whoever that is and whatever our umask.
const FILE_MODE: Mode = Mode::from_raw_mode(0o644);
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);

const DIRECTORY: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The input directory, prepared for a set of downloads.
#[derive(Debug)]
pub(super) struct InputTree {
    path: PathBuf,
    root: OwnedFd,
    staging_name: String,
    staging: OwnedFd,
}

impl InputTree {
    /// Checks all destinations, removes what killed runs left, and makes all directories.
    pub(super) fn prepare(path: &Path, items: &[Download]) -> Result<Self, TransferError> {
        let parents = check_destinations(items)?;
        let failed = |action| {
            move |errno: Errno| TransferError::Local {
                action,
                path: path.to_owned(),
                cause: errno.into(),
            }
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())
            .map_err(failed("open the input directory"))?;
        remove_leftovers(&root).map_err(failed("remove partial files of an earlier run in"))?;
        let staging_name = format!("{STAGING_PREFIX}{}", uuid::Uuid::new_v4().simple());
        rustix::fs::mkdirat(&root, &staging_name, Mode::RWXU)
            .map_err(failed("make a directory for partial files in"))?;
        let staging = rustix::fs::openat(&root, &staging_name, DIRECTORY, Mode::empty())
            .map_err(failed("open the directory for partial files in"))?;
        let tree = Self {
            path: path.to_owned(),
            root,
            staging_name,
            staging,
        };
        for parent in parents {
            tree.make_directories(parent).map_err(|errno| {
                // The caller never gets the tree that it could clean up.
                tree.remove_partials();
                TransferError::Local {
                    action: "make the input directory",
                    path: tree.path.join(parent),
                    cause: errno.into(),
                }
            })?;
        }
        Ok(tree)
    }

    /// The input directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that an ordinary user may still write.
    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        crate::disk::free_bytes(&self.path)
    }

    /// Makes the partial file of an input, or empties it.
    pub(super) fn create(&self, index: usize) -> io::Result<File> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.staging, partial_name(index), flags, FILE_MODE)?;
        rustix::fs::fchmod(&fd, FILE_MODE)?;
        Ok(fd.into())
    }

    /// Opens the partial file of an input. Parts are opened one by one, so that open files are
    /// bounded by the parts in flight and not by the number of large inputs.
    pub(super) fn reopen(&self, index: usize) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = partial_name(index);
        Ok(rustix::fs::openat(&self.staging, name, flags, Mode::empty())?.into())
    }

    /// Gives a complete and checked file its name.
    pub(super) fn place(&self, index: usize, destination: &Path) -> io::Result<()> {
        let parent = destination.parent().unwrap_or(Path::new(""));
        let name = destination.file_name().unwrap_or(OsStr::new(""));
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let parent = beneath::open(&self.root, parent, flags, Mode::empty(), Links::Refuse)?;
        rustix::fs::renameat(&self.staging, partial_name(index), &parent, name)?;
        Ok(())
    }

    /// Removes whatever is still partial. What cannot be removed is logged: its name shows what it
    /// is, and the next run removes it.
    pub(super) fn remove_partials(&self) {
        if let Err(errno) = remove_staging(&self.root, self.staging_name.as_str()) {
            let directory = self.path.join(&self.staging_name);
            tracing::warn!("cannot remove {}: {errno}", directory.display());
        }
    }

    fn make_directories(&self, path: &Path) -> Result<(), Errno> {
        let mut parent: Option<OwnedFd> = None;
        for name in path {
            let at = parent.as_ref().unwrap_or(&self.root).as_fd();
            match rustix::fs::mkdirat(at, name, DIRECTORY_MODE) {
                Ok(()) => {
                    rustix::fs::chmodat(at, name, DIRECTORY_MODE, AtFlags::empty())?;
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            parent = Some(rustix::fs::openat(at, name, DIRECTORY, Mode::empty())?);
        }
        Ok(())
    }
}

fn partial_name(index: usize) -> String {
    index.to_string()
}

/// All destinations are plain, different, and none is a directory of another; returns the
/// directories they need. The job's submission checks this too; here it keeps us inside our tree.
fn check_destinations(items: &[Download]) -> Result<BTreeSet<&Path>, TransferError> {
    let refuse = |item: &Download, reason| TransferError::Destination {
        object: item.object.clone(),
        destination: item.destination.clone(),
        reason,
    };
    let mut places = BTreeSet::new();
    let mut parents = BTreeSet::new();
    for item in items {
        let path = item.destination.as_path();
        let mut components = path.components();
        let Some(Component::Normal(first)) = components.next() else {
            return Err(refuse(item, "it is not a path below the input directory"));
        };
        // Rebuilt from its components a plain path stays the same: no "//", "/./" or final "/".
        let is_plain = path
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
            && path.components().as_path().as_os_str() == path.as_os_str()
            && path.iter().collect::<PathBuf>().as_os_str() == path.as_os_str();
        if !is_plain {
            return Err(refuse(item, "it has empty, \".\" or \"..\" segments"));
        }
        if first
            .as_encoded_bytes()
            .starts_with(STAGING_PREFIX.as_bytes())
        {
            return Err(refuse(item, "its name is reserved for partial files"));
        }
        if !places.insert(path) {
            return Err(refuse(item, "another input goes to the same place"));
        }
        if let Some(parent) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            parents.insert(parent);
        }
    }
    let directories: BTreeSet<&Path> = parents
        .iter()
        .flat_map(|parent| parent.ancestors())
        .collect();
    for item in items {
        if directories.contains(item.destination.as_path()) {
            return Err(refuse(
                item,
                "other inputs go below it, so it must be a directory",
            ));
        }
    }
    Ok(parents)
}

fn remove_leftovers(root: &OwnedFd) -> Result<(), Errno> {
    for entry in Dir::read_from(root)? {
        let entry = entry?;
        if entry
            .file_name()
            .to_bytes()
            .starts_with(STAGING_PREFIX.as_bytes())
        {
            remove_staging(root, entry.file_name())?;
        }
    }
    Ok(())
}

/// Removes a directory of partial files: it holds nothing but files.
fn remove_staging(root: &OwnedFd, name: impl rustix::path::Arg + Copy) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let staging = rustix::fs::openat(root, name, flags, Mode::empty())?;
    for entry in Dir::read_from(&staging)? {
        let entry = entry?;
        let file = entry.file_name();
        if file != c"." && file != c".." {
            rustix::fs::unlinkat(&staging, file, AtFlags::empty())?;
        }
    }
    rustix::fs::unlinkat(root, name, AtFlags::REMOVEDIR)
}

#[cfg(test)]
mod tests {
    use cts_shared::crc64nvme::Crc64Nvme;

    use super::*;
    use crate::object_store::ObjectName;

    fn to(destinations: &[&str]) -> Vec<Download> {
        destinations
            .iter()
            .map(|destination| Download {
                object: ObjectName::new("b", *destination),
                destination: destination.into(),
                expected: Crc64Nvme::EMPTY,
            })
            .collect()
    }

    #[test]
    fn only_plain_free_places_below_the_directory() {
        for bad in [
            &[""][..],
            &["/a"],
            &["../a"],
            &["a/../b"],
            &["a/./b"],
            &["./a"],
            &["a//b"],
            &["a/"],
            &[".cts-partial-0/a"],
            &["a", "a"],
            &["a/b/c", "a/b"],
            &["a/b/c", "a"],
        ] {
            let items = to(bad);
            assert!(check_destinations(&items).is_err(), "{bad:?}");
        }
        let items = to(&["a", "b/c", "b/d/e", "..x", "b/.cts-partial-0"]);
        assert_eq!(check_destinations(&items).unwrap().len(), 2);
    }

    #[test]
    fn leftovers_of_a_killed_run_are_removed_and_links_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("input");
        std::fs::create_dir_all(root.join(".cts-partial-dead")).unwrap();
        std::fs::write(root.join(".cts-partial-dead/0"), "half").unwrap();
        std::fs::create_dir(dir.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("../elsewhere", root.join("linked")).unwrap();

        let items = to(&["x/y"]);
        let tree = InputTree::prepare(&root, &items).unwrap();
        tree.create(0).unwrap();
        tree.place(0, Path::new("x/y")).unwrap();
        tree.create(1).unwrap();
        tree.place(1, Path::new("linked/z")).unwrap_err();
        tree.remove_partials();
        let mut names: Vec<_> = std::fs::read_dir(&root)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["linked", "x"]);

        InputTree::prepare(&root, &to(&["linked/z"])).unwrap_err();
        assert_eq!(
            std::fs::read_dir(dir.path().join("elsewhere"))
                .unwrap()
                .count(),
            0
        );
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 2);
    }
}
