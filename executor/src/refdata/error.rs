//! Why something failed, by what the caller does next.

use std::io;
use std::path::{Path, PathBuf};

use cts_shared::crc64nvme::Crc64Nvme;
use cts_shared::id::RefdataId;
use cts_shared::refdata_archive::ArchiveFormat;

use super::listing::{ListingError, Origin};
use super::lock::{is_absent, is_read_only};
use super::space::{NoSpace, SpaceError};
use super::unpack::UnpackError;
use super::verify::Verification;
use crate::object_store::ObjectName;
use crate::transfer::TransferError;

/// Why what is on the disk cannot be looked at, verified or removed.
#[derive(Debug, thiserror::Error)]
pub enum RefdataError {
    /// Someone works on it.
    #[error("reference data {id} is being worked on by {holder}; try again when that has ended")]
    Busy {
        /// Which.
        id: RefdataId,
        /// Who holds the lock.
        holder: String,
    },
    /// It is not done.
    #[error("reference data {id} is not staged in {}; stage it first", root.display())]
    NotStaged {
        /// Which.
        id: RefdataId,
        /// Where.
        root: PathBuf,
    },
    /// Something is there that was staged with other metadata, or is no reference data.
    #[error(
        "{} is there, and {} knows nothing of it: name the metadata directory it was staged with, or move it away \
         if nothing uses it; reference data {id} needs the place",
        path.display(),
        metadata.display()
    )]
    Foreign {
        /// Which.
        id: RefdataId,
        /// What is there.
        path: PathBuf,
        /// What knows nothing of it.
        metadata: PathBuf,
    },
    /// A listing cannot be read or written, or is none.
    #[error("{}{}", with_causes(.0), .0.io().map_or("", room))]
    Listing(#[from] ListingError),
    /// A file or directory.
    #[error("cannot {action} {}: {cause}{}", path.display(), room(cause))]
    Local {
        /// Verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The directories cannot be used as they are.
    #[error(
        "cannot {action} {}: {cause}; the directory of reference data (CTS_REFDATA_DIR of executors, --root of \
         commands, Refdata.local_path of the server) must be there, and this user must be able to write to it and to \
         its metadata",
        path.display()
    )]
    Directory {
        /// Verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Told to stop.
    #[error("it was cancelled")]
    Cancelled,
}

/// What to do when a file system is full.
fn room(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; make room there, for bytes and for files, and stage it again"
        }
        _ => "",
    }
}

impl RefdataError {
    /// For `map_err`: what was tried with which file.
    pub(super) fn local(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Local {
            action,
            path,
            cause,
        }
    }

    /// For `map_err`, of the first that is done in a directory: it may not be what its setting should name.
    pub(super) fn directory(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |cause| {
            if is_absent(&cause) || is_read_only(&cause) {
                return Self::Directory {
                    action,
                    path,
                    cause,
                };
            }
            Self::Local {
                action,
                path,
                cause,
            }
        }
    }
}

/// Why reference data could not be staged. Nothing of it is left behind that looks finished.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// The end of the object's name is no name for a file.
    #[error(
        "{object} cannot be staged: the last part of its key is no usable file name; copy it to another key \
         and register that"
    )]
    UnusableName {
        /// The object.
        object: ObjectName,
    },
    /// It is to be unpacked, and is no archive that is known here.
    #[error(
        "{object} cannot be unpacked: its name ends in none of {}; register it without unpack, or pack it as \
         one of these",
        ArchiveFormat::endings()
    )]
    UnknownArchive {
        /// The object.
        object: ObjectName,
    },
    /// The store, or the way to it.
    #[error(transparent)]
    Transfer(TransferError),
    /// The object's bytes are not those that were registered, also at the second try.
    #[error(
        "{object} has CRC64NVME {actual}, registered is {expected} ({version}); {}",
        mismatch_advice(*is_other_content)
    )]
    ChecksumMismatch {
        /// The object.
        object: ObjectName,
        /// What was registered.
        expected: Crc64Nvme,
        /// What its bytes have.
        actual: Crc64Nvme,
        /// Size, `ETag` and time of the object that was read.
        version: String,
        /// Both tries gave the same bytes. Else they were damaged on the way.
        is_other_content: bool,
    },
    /// The object was replaced while it was read.
    #[error(
        "{object} was replaced while it was being staged (was {version}); register the new object under another \
         path, which does not change"
    )]
    ObjectChanged {
        /// The object.
        object: ObjectName,
        /// Size, `ETag` and time of the object that was begun.
        version: String,
    },
    /// The archive is refused or damaged, although its bytes are those that were registered; or its files
    /// could not be written.
    #[error("{object} cannot be unpacked: {}", with_causes(cause))]
    Unpack {
        /// The object.
        object: ObjectName,
        /// Why not.
        cause: UnpackError,
    },
    /// It does not fit.
    #[error("{object} cannot be staged: {cause}")]
    NoSpace {
        /// The object.
        object: ObjectName,
        /// What there is and what is needed.
        cause: NoSpace,
    },
    /// It has too many files.
    #[error(
        "{object} cannot be staged: no more files fit into {} (its inodes are used up), where {path:?} was to be \
         written; remove files, or use a file system that was made with more inodes",
        directory.display()
    )]
    NoMoreFiles {
        /// The object.
        object: ObjectName,
        /// Where.
        directory: PathBuf,
        /// What was being written, below the tree.
        path: String,
    },
    /// What is there is not what was staged.
    #[error(
        "reference data {id} in {} is not what was staged: {verification}; {}",
        tree.display(),
        again(listing)
    )]
    Damaged {
        /// Which.
        id: RefdataId,
        /// The tree.
        tree: PathBuf,
        /// Its listing.
        listing: PathBuf,
        /// What differs.
        verification: Box<Verification>,
    },
    /// What is there was staged from another object, or otherwise.
    #[error(
        "asked for is {object} with {asked}, and what is there was staged from an object with {staged} (so says {}); \
         register another object under another path, which gives it another id; or, if this one is right, {}",
        listing.display(),
        again(listing)
    )]
    OtherObject {
        /// The object that is asked for.
        object: ObjectName,
        /// What is asked for.
        asked: Origin,
        /// What is there.
        staged: Origin,
        /// The listing of what is there.
        listing: PathBuf,
    },
    /// The disk.
    #[error(transparent)]
    Store(RefdataError),
    /// Told to stop.
    #[error("the staging was cancelled")]
    Cancelled,
    /// A panic.
    #[error("internal error while staging: {cause}; please report it")]
    Internal {
        /// The panic.
        cause: String,
    },
}

/// An error and all below it in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        words.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    words
}

/// How a tree is staged anew, by whom ever: without its name the listing only says that the tree is this metadata's.
fn again(listing: &Path) -> String {
    let listing = listing.display();
    format!(
        "when no container uses it any more, rename {listing} to {listing}.tmp and stage it again"
    )
}

fn mismatch_advice(is_other_content: bool) -> &'static str {
    if is_other_content {
        "the object is another one than was registered: register the new object under another path"
    } else {
        "its bytes were damaged on the way, twice: check the network and the store, and stage it again"
    }
}

impl From<RefdataError> for StagingError {
    fn from(error: RefdataError) -> Self {
        match error {
            RefdataError::Cancelled => Self::Cancelled,
            other => Self::Store(other),
        }
    }
}

impl From<TransferError> for StagingError {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::ChecksumMismatch {
                object,
                expected,
                actual,
                version,
                is_other_content,
            } => Self::ChecksumMismatch {
                object,
                expected,
                actual,
                version,
                is_other_content,
            },
            TransferError::InputChanged { object, version } => {
                Self::ObjectChanged { object, version }
            }
            TransferError::Cancelled => Self::Cancelled,
            other => Self::Transfer(other),
        }
    }
}

impl StagingError {
    /// From the answer of the space ledger about `directory`, where `object` is to be staged.
    pub(super) fn space(object: &ObjectName, directory: &Path) -> impl FnOnce(SpaceError) -> Self {
        let (object, directory) = (object.clone(), directory.to_owned());
        move |error| match error {
            SpaceError::NoSpace(cause) => Self::NoSpace { object, cause },
            SpaceError::Io(cause) => Self::Store(RefdataError::Local {
                action: "see how much space is free in",
                path: directory,
                cause,
            }),
        }
    }

    /// Whether the caller asked for it.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled)
    }
}
