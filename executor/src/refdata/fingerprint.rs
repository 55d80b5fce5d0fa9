//! A tree's fingerprint: SHA-256 over what the file system says of every entry (path, type, mode, size,
//! times of last change, inode) and of the listing. While it stays the same nobody wrote to the tree or its
//! listing: the change time (ctime) cannot be set by a program.
//!
//! Whoever reads files does not change it; copying the tree to another disk does, and has the tree read again.

use std::ffi::OsString;
use std::fs::{self, Metadata, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::layout::Layout;
use super::listing::Origin;
use super::lock::open_to_read;
use cts_shared::id::RefdataId;

/// Changes when the fingerprint is made of something else.
const SCHEME: &[u8] = b"cts-refdata-fingerprint-1";

/// Some hundred bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// How much a tree holds and what it was made of, so that nobody needs to read its listing for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Contents {
    pub(super) files: u64,
    pub(super) bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) origin: Option<Origin>,
}

/// `verified.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Verified {
    /// Hexadecimal digits.
    fingerprint: String,
    #[serde(flatten)]
    contents: Contents,
    /// When every byte was last known to be right; for people.
    time: String,
}

/// The fingerprint of a finished item, in hexadecimal digits.
pub(super) fn of(layout: &Layout, id: &RefdataId) -> io::Result<String> {
    let mut hasher = Sha256::new();
    hasher.update(SCHEME);
    let listing = fs::symlink_metadata(layout.listing(id))?;
    add(&mut hasher, Path::new(""), &listing);
    let tree = layout.tree(id);
    add(&mut hasher, Path::new(""), &fs::symlink_metadata(&tree)?);
    walk(&mut hasher, &tree, Path::new(""))?;
    Ok(hex(&hasher.finalize()))
}

/// What the tree holds, if it is what it was when it was last verified.
pub(super) fn check(layout: &Layout, id: &RefdataId) -> io::Result<Option<Contents>> {
    let mut text = Vec::new();
    match open_to_read(&layout.fingerprint(id)) {
        Ok(file) => file.take(MAX_FILE_BYTES).read_to_end(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // A half written or foreign one proves nothing.
    let Ok(verified) = serde_json::from_slice::<Verified>(&text) else {
        return Ok(None);
    };
    let is_current = verified.fingerprint == of(layout, id)?;
    Ok(is_current.then_some(verified.contents))
}

/// Writes down that every byte of what has that fingerprint is right.
pub(super) fn write(
    layout: &Layout,
    id: &RefdataId,
    fingerprint: String,
    contents: Contents,
) -> io::Result<()> {
    let verified = Verified {
        fingerprint,
        contents,
        time: jiff::Timestamp::now().to_string(),
    };
    let path = layout.fingerprint(id);
    let directory = layout.metadata_of(id);
    // A new file of a name that nobody can foresee: others may write in the directory, too.
    let mut file = tempfile::Builder::new()
        .prefix("verified.json.")
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(directory)?;
    file.write_all(&serde_json::to_vec(&verified)?)?;
    file.persist(path)?;
    Ok(())
}

/// Adds all entries below a directory, by name, each directory before what is in it: the memory is that of
/// the largest directories on one path.
fn walk(hasher: &mut Sha256, root: &Path, directory: &Path) -> io::Result<()> {
    let mut names: Vec<OsString> = fs::read_dir(root.join(directory))?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<_>>()?;
    names.sort_unstable();
    for name in names {
        let path = directory.join(name);
        let metadata = fs::symlink_metadata(root.join(&path))?;
        add(hasher, &path, &metadata);
        if metadata.is_dir() {
            walk(hasher, root, &path)?;
        }
    }
    Ok(())
}

fn add(hasher: &mut Sha256, path: &Path, metadata: &Metadata) {
    let path = path.as_os_str().as_bytes();
    hasher.update((path.len() as u64).to_le_bytes());
    hasher.update(path);
    // Type and permissions. A directory's size says nothing and is not the same everywhere.
    hasher.update(metadata.mode().to_le_bytes());
    let size = if metadata.is_dir() {
        0
    } else {
        metadata.size()
    };
    for number in [size, metadata.ino()] {
        hasher.update(number.to_le_bytes());
    }
    for time in [
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    ] {
        hasher.update(time.to_le_bytes());
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn every_change_shows_and_reading_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout {
            root: dir.path().to_owned(),
            metadata: dir.path().join(".metadata"),
        };
        let id: RefdataId = "x".parse().unwrap();
        let tree = layout.tree(&id);
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/b/file"), "text").unwrap();
        fs::create_dir_all(layout.metadata_of(&id)).unwrap();
        fs::write(layout.listing(&id), "{}").unwrap();
        let contents = Contents {
            files: 1,
            bytes: 4,
            origin: None,
        };
        assert_eq!(check(&layout, &id).unwrap(), None, "never verified");
        write(&layout, &id, of(&layout, &id).unwrap(), contents).unwrap();
        fs::read(tree.join("a/b/file")).unwrap();
        assert_eq!(check(&layout, &id).unwrap(), Some(contents));

        let file = tree.join("a/b/file");
        type Change<'a> = (&'a str, Box<dyn Fn() + 'a>);
        let changes: [Change<'_>; 5] = [
            (
                "content",
                Box::new(|| {
                    // Where times are coarse, two changes in one tick are one.
                    let changed = || fs::metadata(&file).map(|of| (of.ctime(), of.ctime_nsec()));
                    let before = changed().unwrap();
                    while changed().unwrap() == before {
                        fs::write(&file, "tixt").unwrap();
                    }
                }),
            ),
            (
                "mode",
                Box::new(|| fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap()),
            ),
            (
                "new file",
                Box::new(|| fs::write(tree.join("new"), "").unwrap()),
            ),
            (
                "lost file",
                Box::new(|| fs::remove_file(tree.join("new")).unwrap()),
            ),
            (
                "listing",
                Box::new(|| fs::write(layout.listing(&id), "{ }").unwrap()),
            ),
        ];
        for (what, change) in changes {
            change();
            assert_eq!(check(&layout, &id).unwrap(), None, "{what}");
            write(&layout, &id, of(&layout, &id).unwrap(), contents).unwrap();
            assert_eq!(check(&layout, &id).unwrap(), Some(contents), "{what}");
        }
        fs::write(layout.fingerprint(&id), "half a no").unwrap();
        assert_eq!(check(&layout, &id).unwrap(), None);
    }
}
