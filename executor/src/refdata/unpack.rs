//! Unpacking an object into a tree: one pass over its bytes, every file written and hashed as it comes.
//!
//! ```text
//!  object -> stream (decoder) -> tar | zip | single file -> sink  ==steps==>  writer -> tree, listing
//!  the caller's thread                                                        a thread of its own
//! ```
//!
//! What an archive may hold is decided in one place each: names and targets in `member`, amounts in
//! `sink` and `stream`, what is in the way of what by the file system in `writer`.
//!
//! The object is read to its very end, also where the archive ends before: its checksum is over all bytes, and
//! is whoever's that gives the [`ArchiveSource`]. Nothing here is trusted for it: a plain tar has no checksums
//! of its files.
//!
//! Memory: 4 MiB of buffers, 128 KiB of input, the decoder's window (32 KiB of deflate; of Zstandard what
//! the archive asks for, 8 MiB at its usual levels and at most 128 MiB), the listing, and of a zip its directory.

mod error;
mod member;
mod modes;
mod sink;
mod stream;
mod tar;
#[cfg(test)]
mod tests;
mod writer;
mod zip;

use std::fmt;
use std::io::{self, BufReader, Read};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::mpsc;

use bytes::Bytes;
use cts_shared::refdata_archive::ArchiveFormat;

use self::member::{MemberPath, quoted};
use self::sink::Sink;
use self::stream::{Bounded, Gunzip, Unzstd, read_error};
use self::writer::Writer;
use super::limits::StagingLimits;
use super::listing::Listing;
use super::progress::StagingCounters;

pub use self::error::{Reason, UnpackError};
pub use self::modes::{make_read_only, remove_tree};

/// Steps that may wait for the writer; what bounds their bytes is the number of buffers.
const MAX_STEPS: usize = 64;
/// Buffer between a decoder and the headers of a tar, in bytes.
const TAR_BUFFER_BYTES: usize = 64 * 1024;

/// An object's bytes in order, and before them ranges of it. Whether those are the same bytes is the source's to see to, as
/// is the checksum of the whole.
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
    /// Asked before more bytes are written, with the least and the most that are wanted; says how many may be, which
    /// are then no longer asked about.
    pub has_space: &'a (dyn Fn(RangeInclusive<u64>) -> Result<u64, UnpackError> + Sync),
    /// Asked now and then whether to stop.
    pub cancelled: &'a (dyn Fn() -> bool + Sync),
}

impl fmt::Debug for Unpacking<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unpacking")
            .field("packing", &self.packing)
            .field("name", &self.name)
            .field("tree", &self.tree)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Unpacks `source` and returns what the tree then holds; all of it is on the disk. Blocks, and takes a second
/// thread. After an error the tree is of no use.
///
/// # Errors
/// [`UnpackError`].
pub fn unpack(source: &mut dyn ArchiveSource, how: &Unpacking<'_>) -> Result<Listing, UnpackError> {
    how.counters.set_object_bytes(source.size());
    // Bounded twice: steps by this channel, buffers by the number that the sink makes.
    let (steps, to_write) = mpsc::sync_channel(MAX_STEPS);
    let (used, free) = mpsc::channel();
    let writer = Writer::new(how.tree, how.limits, how.counters, used)?;
    let limit = how.limits.unpacked_bytes_of(source.size());
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("refdata-writer".to_owned())
            .spawn_scoped(scope, move || writer.run(&to_write))
            .map_err(|source| UnpackError::Io {
                path: ".".to_owned(),
                source,
            })?;
        let read = read_members(source, how, limit, Sink::new(how, limit, steps, free));
        let written = match thread.join() {
            Ok(written) => written,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        // The writer's error first: it is about a member before the one that was being read.
        let writer = written?;
        read?;
        writer.finish()
    })
}

/// Reads the object to its end and gives its members to the sink. The steps end with the sink.
fn read_members<'a>(
    source: &'a mut dyn ArchiveSource,
    how: &Unpacking<'a>,
    limit: u64,
    mut sink: Sink<'a>,
) -> Result<(), UnpackError> {
    let at_start = |error| read_error(error, None, how.name);
    let stem = || ArchiveFormat::of_name(how.name).map_or("", |(_, stem)| stem);
    match how.packing {
        Packing::Plain => single_file(how.name, &mut stream::input(source, how), &mut sink),
        Packing::Archive(ArchiveFormat::Tar) => {
            let stream = stream::input(source, how);
            tar::unpack(&mut buffered(stream, limit, how), &mut sink)
        }
        Packing::Archive(ArchiveFormat::TarGz) => {
            let stream = Gunzip::new(stream::input(source, how));
            tar::unpack(&mut buffered(stream, limit, how), &mut sink)
        }
        Packing::Archive(ArchiveFormat::TarZst) => {
            let stream = Unzstd::new(stream::input(source, how)).map_err(at_start)?;
            tar::unpack(&mut buffered(stream, limit, how), &mut sink)
        }
        Packing::Archive(ArchiveFormat::Gz) => {
            let mut stream = Gunzip::new(stream::input(source, how));
            single_file(stem(), &mut stream, &mut sink)
        }
        Packing::Archive(ArchiveFormat::Zst) => {
            let mut stream = Unzstd::new(stream::input(source, how)).map_err(at_start)?;
            single_file(stem(), &mut stream, &mut sink)
        }
        Packing::Archive(ArchiveFormat::Zip) => zip::unpack(source, &mut sink),
    }
}

/// A decoded stream, bounded: its headers and padding count as well.
fn buffered<'a, R: Read>(stream: R, limit: u64, how: &Unpacking<'a>) -> BufReader<Bounded<'a, R>> {
    BufReader::with_capacity(TAR_BUFFER_BYTES, Bounded::new(stream, limit, how))
}

/// Writes all of `stream` to the file `name`.
fn single_file(name: &str, stream: &mut impl Read, sink: &mut Sink<'_>) -> Result<(), UnpackError> {
    let archive = sink.how().name;
    let wrong = |reason| UnpackError::Archive {
        name: quoted(archive.as_bytes()),
        reason,
    };
    let path = MemberPath::parse_file(name.as_bytes()).map_err(wrong)?;
    sink.file(path, false, stream, None)?;
    Ok(())
}
