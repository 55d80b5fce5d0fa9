//! The output tree: which files will be uploaded, and opening them so that nothing outside the tree
//! is ever read (contract executor.md, section 4; decisions.md, row 15).
//!
//! The container wrote the tree and is hostile until shown otherwise; a stray process may even go on
//! changing it. So nothing is opened by a path that anyone could redirect: everything goes through
//! the one descriptor of the root (module `beneath`), and only what is a regular file when it is
//! open is read.
//!
//! | found | what happens |
//! |---|---|
//! | regular file, hard link | uploaded |
//! | link that ends at a regular file of this tree | uploaded under the link's name, as its target's bytes |
//! | link that ends at a directory of this tree | left out: what is in there has names of its own |
//! | empty directory | left out |
//! | link out of the tree, dangling, absolute, or in a loop | unusable |
//! | FIFO, socket, device | unusable; never opened |
//! | unreadable file or directory | unusable |
//! | name that cannot be an S3 key | unusable |
//!
//! Unusable names fail the whole collection, before anything is uploaded, in one error that lists
//! them together: half of a container's outputs are no result.

mod report;
mod walk;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use crate::beneath::{self, Links};

pub use report::UnusableOutputs;
pub use walk::{CollectLimits, collect};

/// What a walk found.
#[derive(Debug, Clone)]
pub struct Collected {
    /// The files to upload, ordered by path.
    pub files: Vec<CollectedFile>,
    /// Links to directories of the tree, left out.
    pub skipped_links: u64,
}

impl Collected {
    /// Bytes in all files together.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.files
            .iter()
            .fold(0, |total: u64, file| total.saturating_add(file.size()))
    }
}

/// Why outputs cannot be collected.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The output directory itself.
    #[error("cannot read the output directory {}: {cause}", path.display())]
    Root {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Some names cannot be uploaded.
    #[error(transparent)]
    Unusable(UnusableOutputs),
    /// More than anyone can use.
    #[error(
        "the container left more than {limit} files and directories in its output directory; let \
         it pack them into archives"
    )]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// Told to stop.
    #[error("collecting the outputs was cancelled")]
    Cancelled,
}

/// What tells whether a file is still the one that was found, unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
    /// Size in bytes.
    pub size: u64,
    modified_ns: i64,
    changed_ns: i64,
}

impl FileIdentity {
    /// The identity of an open file.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        // Wrapping: times are whatever the container set, and only compared.
        let nanoseconds =
            |secs: i64, nanos: i64| secs.wrapping_mul(1_000_000_000).wrapping_add(nanos);
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// Why a collected file cannot be opened again.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is another file, or has changed.
    #[error("it has changed since it was found")]
    Changed,
    /// Anything else.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A file of the output tree.
#[derive(Debug, Clone)]
pub struct CollectedFile {
    root: Arc<OwnedFd>,
    /// Boxed: there may be a million.
    path: Box<str>,
    identity: FileIdentity,
    is_link: bool,
}

impl CollectedFile {
    /// Its path relative to the output directory, as it goes into the S3 key.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.identity.size
    }

    /// Opens it for reading, if it still is what was found. Blocks on the disk.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self) -> Result<(File, FileIdentity), OpenError> {
        let links = if self.is_link {
            Links::FollowInside
        } else {
            Links::Refuse
        };
        let file = open_regular(&self.root, Path::new(&*self.path), links).map_err(|error| {
            match error
                .raw_os_error()
                .map(rustix::io::Errno::from_raw_os_error)
            {
                // What was there is gone or has become something else.
                Some(
                    rustix::io::Errno::NOENT
                    | rustix::io::Errno::NOTDIR
                    | rustix::io::Errno::LOOP
                    | rustix::io::Errno::XDEV
                    | rustix::io::Errno::NXIO,
                ) => OpenError::Changed,
                _ => OpenError::Io(error),
            }
        })?;
        let identity = FileIdentity::of(&file)?;
        if identity == self.identity {
            Ok((file, identity))
        } else {
            Err(OpenError::Changed)
        }
    }
}

/// Opens a file beneath `root` for reading. NONBLOCK: should it be a FIFO by now, opening must not
/// hang. The caller looks at what it got.
fn open_regular(root: &OwnedFd, path: &Path, links: Links) -> io::Result<File> {
    let mut flags = OFlags::RDONLY | OFlags::NONBLOCK;
    if links == Links::Refuse {
        flags |= OFlags::NOFOLLOW;
    }
    let fd = beneath::open(root, path, flags, Mode::empty(), links)?;
    Ok(fd.into())
}
