//! Zip archives (APPNOTE.TXT 6.3.10): the directory at the end first, then the members in the order of their
//! bytes.
//!
//! Sizes and checksums are the directory's; the header before a member's bytes only has to agree. So members
//! written as a stream, with their sizes after their bytes, are like any others.

mod directory;

use std::io::{self, BufRead, Read};

use flate2::CrcReader;
use flate2::bufread::DeflateDecoder;

use self::directory::{Directory, Entry, Fields};
use super::error::{Reason, UnpackError};
use super::member::{MAX_PATH_BYTES, MemberPath, refused};
use super::sink::{Sink, fill};
use super::stream::{Unzstd, drain, read_error, skip};
use super::{ArchiveSource, Unpacking, stream};

/// A local header without its name and extra fields.
const LOCAL_BYTES: usize = 30;

const STORED: u16 = 0;
const DEFLATED: u16 = 8;
const ZSTANDARD: u16 = 93;

/// Flags: encrypted, "strong" encryption, headers masked by it.
const ENCRYPTED: u16 = 1 | 1 << 6 | 1 << 13;

/// Unpacks the zip that `source` is, and reads it to its very end.
pub(super) fn unpack<'a>(
    source: &'a mut dyn super::ArchiveSource,
    sink: &mut Sink<'a>,
) -> Result<(), UnpackError> {
    let how = *sink.how();
    let directory = read_directory(source, &how)?;
    let mut input = stream::input(source, &how);
    let mut position = 0;
    for entry in &directory.entries {
        let wrong = |reason| refused(&entry.name, reason);
        let gap = entry
            .offset
            .checked_sub(position)
            .ok_or_else(|| wrong(Reason::Overlap))?;
        let in_member = |error| read_error(error, Some(&entry.name), how.name);
        skip(&mut input, gap).map_err(in_member)?;
        let header = local_header(&mut input, entry, how.name)?;
        // Saturated it is past the directory.
        let start = entry.offset.saturating_add(header);
        position = start.saturating_add(entry.packed);
        if position > directory.offset {
            return Err(wrong(Reason::Overlap));
        }
        let mut packed = (&mut input).take(entry.packed);
        member(&mut packed, entry, sink)?;
        if packed.limit() > 0 {
            return Err(wrong(Reason::SizeMismatch));
        }
    }
    drain(&mut input).map_err(|error| read_error(error, None, how.name))
}

fn read_directory(
    source: &mut dyn ArchiveSource,
    how: &Unpacking<'_>,
) -> Result<Directory, UnpackError> {
    let directory = directory::read(source, how.name, how.limits.max_entries)?;
    for entry in &directory.entries {
        let wrong = |reason| Err(refused(&entry.name, reason));
        if entry.flags & ENCRYPTED != 0 {
            return wrong(Reason::Encrypted);
        }
        if ![STORED, DEFLATED, ZSTANDARD].contains(&entry.method) {
            return wrong(Reason::Method(entry.method));
        }
    }
    Ok(directory)
}

/// Reads the header before a member's bytes; returns its length.
fn local_header(
    input: &mut impl BufRead,
    entry: &Entry,
    archive: &str,
) -> Result<u64, UnpackError> {
    let in_member = |error| read_error(error, Some(&entry.name), archive);
    let differs = || refused(&entry.name, Reason::HeaderMismatch);
    let mut fixed = [0; LOCAL_BYTES];
    input.read_exact(&mut fixed).map_err(in_member)?;
    let read = || {
        let mut fields = Fields(fixed.strip_prefix(b"PK\x03\x04")?);
        fields.take(2)?;
        let flags = fields.u16()?;
        let method = fields.u16()?;
        fields.take(16)?;
        Some((flags, method, fields.u16()?, fields.u16()?))
    };
    let (flags, method, name_bytes, extra_bytes) = read().ok_or_else(differs)?;
    if flags & ENCRYPTED != 0 || method != entry.method {
        return Err(differs());
    }
    let mut name = vec![0; name_bytes.into()];
    input.read_exact(&mut name).map_err(in_member)?;
    if *name != *entry.name {
        return Err(differs());
    }
    skip(input, extra_bytes.into()).map_err(in_member)?;
    Ok(LOCAL_BYTES as u64 + u64::from(name_bytes) + u64::from(extra_bytes))
}

/// What a member is.
enum Kind {
    File { executable: bool },
    Directory,
    Link,
}

fn kind(entry: &Entry) -> Result<Kind, Reason> {
    // As <sys/stat.h>; APPNOTE.TXT leaves it to the system.
    match entry.unix_mode & 0o170_000 {
        0o120_000 => Ok(Kind::Link),
        0o040_000 => Ok(Kind::Directory),
        0o020_000 | 0o060_000 => Err(Reason::Device),
        0o010_000 => Err(Reason::Fifo),
        0o140_000 => Err(Reason::Socket),
        // None: packed by something that knows no types.
        0 | 0o100_000 if entry.name.ends_with(b"/") => Ok(Kind::Directory),
        0 | 0o100_000 if entry.unix_mode & 0o6000 != 0 => Err(Reason::SetId),
        0 | 0o100_000 => Ok(Kind::File {
            executable: entry.unix_mode & 0o111 != 0,
        }),
        other => Err(Reason::Damaged(format!("its file type is {other:o}"))),
    }
}

/// Unpacks one member from its bytes.
fn member(
    packed: &mut io::Take<impl BufRead>,
    entry: &Entry,
    sink: &mut Sink<'_>,
) -> Result<(), UnpackError> {
    let wrong = |reason| refused(&entry.name, reason);
    let archive = sink.how().name;
    let in_member = |error| read_error(error, Some(&entry.name), archive);
    if entry.name.contains(&b'\\') {
        return Err(wrong(Reason::Backslash));
    }
    let kind = kind(entry).map_err(wrong)?;
    let path = match kind {
        Kind::Directory => MemberPath::parse(&entry.name),
        Kind::File { .. } | Kind::Link => MemberPath::parse_file(&entry.name),
    }
    .map_err(wrong)?;
    // One byte more than it should have shows that it is not what it should be.
    let most = entry.size.saturating_add(1);
    let mut bytes = match entry.method {
        DEFLATED => Unpacked::Deflated(DeflateDecoder::new(&mut *packed)),
        ZSTANDARD => Unpacked::Zstandard(Unzstd::new(&mut *packed).map_err(in_member)?),
        _ => Unpacked::Stored(&mut *packed),
    };
    let mut checked = CrcReader::new((&mut bytes).take(most));
    let size = match kind {
        Kind::Directory if entry.size != 0 => return Err(wrong(Reason::SizeMismatch)),
        Kind::Directory => {
            sink.directory(path)?;
            // One byte at most: more is a mismatch.
            io::copy(&mut checked, &mut io::sink()).map_err(in_member)?
        }
        Kind::File { executable } => {
            sink.file(path, executable, &mut checked, Some(&entry.name))?
        }
        Kind::Link => {
            let mut target = vec![0; MAX_PATH_BYTES + 1];
            let length = fill(&mut checked, &mut target).map_err(in_member)?;
            sink.link(path, target.get(..length).unwrap_or_default(), &entry.name)?;
            length as u64
        }
    };
    if size != entry.size {
        return Err(wrong(Reason::SizeMismatch));
    }
    if checked.crc().sum() != entry.crc32 {
        return Err(wrong(Reason::Checksum));
    }
    // The end of a compressed member's last block may be unread yet.
    match bytes.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(wrong(Reason::SizeMismatch)),
        Err(error) => Err(in_member(error)),
    }
}

/// A member's bytes by its method.
enum Unpacked<R: BufRead> {
    Stored(R),
    Deflated(DeflateDecoder<R>),
    Zstandard(Unzstd<'static, R>),
}

impl<R: BufRead> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Stored(bytes) => bytes.read(buffer),
            Self::Deflated(bytes) => bytes.read(buffer),
            Self::Zstandard(bytes) => bytes.read(buffer),
        }
    }
}
