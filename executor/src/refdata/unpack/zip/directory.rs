//! The central directory of a zip (APPNOTE.TXT 6.3.10, sections 4.3.12 to 4.3.16 and 4.5.3).
//!
//! Read here and not by a crate: names must be compared as bytes, not guessed at, numbers of disks looked at,
//! and what is kept of a million entries be little.

use super::super::ArchiveSource;
use super::super::error::{Reason, UnpackError};
use super::super::member::{MAX_PATH_BYTES, quoted, refused};

/// The end record without its comment.
const END_BYTES: usize = 22;
const MAX_COMMENT_BYTES: usize = 65_535;
const LOCATOR_BYTES: usize = 20;
const END_64_BYTES: usize = 56;
/// An entry's header without its name, extra fields and comment.
const HEADER_BYTES: usize = 46;
/// Bytes of the directory that are read at a time; more than any one entry has.
const STEP_BYTES: usize = 1024 * 1024;
/// A directory has at most this many bytes for each entry that is allowed: 46, and a name of average length.
const BYTES_PER_ENTRY: u64 = 256;
/// Beside those: one entry has up to 192 KiB.
const BYTES_FOR_FEW_ENTRIES: u64 = 1024 * 1024;

const UNIX: u16 = 3;
const MACOS: u16 = 19;

/// What the directory says of one member.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Box<[u8]>,
    /// Where its local header begins.
    pub(super) offset: u64,
    /// Bytes in the archive.
    pub(super) packed: u64,
    /// Bytes unpacked.
    pub(super) size: u64,
    pub(super) crc32: u32,
    pub(super) method: u16,
    pub(super) flags: u16,
    /// Type and permissions if a Unix packed it, else 0.
    pub(super) unix_mode: u32,
}

/// The members in the order of their bytes, and where the directory begins.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) entries: Vec<Entry>,
    pub(super) offset: u64,
}

/// Where the directory is and how much it has.
struct Extent {
    offset: u64,
    bytes: u64,
    entries: u64,
}

/// Reads the directory of the archive `name`.
pub(super) fn read(
    source: &mut dyn ArchiveSource,
    name: &str,
    max_entries: u64,
) -> Result<Directory, UnpackError> {
    let whole = |reason| UnpackError::Archive {
        name: quoted(name.as_bytes()),
        reason,
    };
    let extent = find(source)?.map_err(whole)?;
    let allowed = max_entries
        .saturating_mul(BYTES_PER_ENTRY)
        .saturating_add(BYTES_FOR_FEW_ENTRIES);
    if extent.entries > max_entries || extent.bytes > allowed {
        return Err(whole(Reason::TooManyEntries { limit: max_entries }));
    }
    let mut entries = Vec::new();
    let mut offset = extent.offset;
    let mut left = extent.bytes;
    let mut kept = Vec::new();
    while left > 0 {
        let step = usize::try_from(left).map_or(STEP_BYTES, |left| left.min(STEP_BYTES));
        kept.extend_from_slice(&source.read_at(offset, step).map_err(UnpackError::Source)?);
        offset = offset.saturating_add(step as u64);
        left -= step as u64;
        let mut fields = Fields(&kept);
        let mut rest = fields.0;
        while let Some(entry) = header(&mut fields)? {
            if entries.len() as u64 >= extent.entries {
                return Err(whole(damaged(
                    "its directory has more entries than its end says",
                )));
            }
            entries.push(entry);
            rest = fields.0;
        }
        kept = rest.to_vec();
        if kept.len() > STEP_BYTES {
            return Err(whole(damaged("its directory has an entry without end")));
        }
    }
    if !kept.is_empty() || entries.len() as u64 != extent.entries {
        return Err(whole(damaged(
            "its directory does not have the entries its end says",
        )));
    }
    entries.sort_by_key(|entry| entry.offset);
    Ok(Directory {
        entries,
        offset: extent.offset,
    })
}

/// Finds the directory by the archive's end.
fn find(source: &mut dyn ArchiveSource) -> Result<Result<Extent, Reason>, UnpackError> {
    let size = source.size();
    let longest = LOCATOR_BYTES + END_BYTES + MAX_COMMENT_BYTES;
    let length = usize::try_from(size).map_or(longest, |size| size.min(longest));
    let tail_offset = size - length as u64;
    let tail = source
        .read_at(tail_offset, length)
        .map_err(UnpackError::Source)?;
    // The last place that can be the end: its comment ends where the archive does.
    let Some(end) = (0..(length + 1).saturating_sub(END_BYTES))
        .rev()
        .find(|start| is_end(tail.get(*start..).unwrap_or_default()))
    else {
        return Ok(Err(Reason::NoDirectory));
    };
    let Some(mut extent) = end_record(tail.get(end + 4..).unwrap_or_default()) else {
        return Ok(Err(Reason::MultiDisk));
    };
    let mut directory_end = tail_offset + end as u64;
    let locator = end
        .checked_sub(LOCATOR_BYTES)
        .and_then(|start| tail.get(start..end));
    // Without a 64-bit end these are the numbers: as many entries as mean "elsewhere" (65,535) can be meant.
    if extent.is_elsewhere()
        && let Some(offset) = locator.and_then(locator_offset)
    {
        if offset.saturating_add((END_64_BYTES + LOCATOR_BYTES) as u64) > directory_end {
            return Ok(Err(damaged("its 64-bit end is outside")));
        }
        let record = source
            .read_at(offset, END_64_BYTES)
            .map_err(UnpackError::Source)?;
        extent = match end_record_64(&record) {
            Ok(extent) => extent,
            Err(reason) => return Ok(Err(reason)),
        };
        directory_end = offset;
    }
    if extent
        .offset
        .checked_add(extent.bytes)
        .is_none_or(|end| end > directory_end)
    {
        return Ok(Err(damaged("its directory is not where its end says")));
    }
    Ok(Ok(extent))
}

/// Whether this is an end record and nothing after it.
fn is_end(bytes: &[u8]) -> bool {
    let comment = bytes.get(20..END_BYTES);
    bytes.starts_with(b"PK\x05\x06")
        && comment.is_some_and(|length| {
            Fields(length).u16().map(usize::from) == bytes.len().checked_sub(END_BYTES)
        })
}

/// The fields of the end record; none if there are several disks.
fn end_record(bytes: &[u8]) -> Option<Extent> {
    let mut fields = Fields(bytes);
    let disks = [fields.u16()?, fields.u16()?];
    let here = fields.u16()?;
    let entries = fields.u16()?;
    let extent = Extent {
        entries: entries.into(),
        bytes: fields.u32()?.into(),
        offset: fields.u32()?.into(),
    };
    let one_disk = disks.iter().all(|disk| *disk == 0 || *disk == u16::MAX) && here == entries;
    one_disk.then_some(extent)
}

impl Extent {
    /// Whether a field says that the 64-bit end, if there is one, has the number.
    fn is_elsewhere(&self) -> bool {
        self.entries == u64::from(u16::MAX)
            || self.bytes == u64::from(u32::MAX)
            || self.offset == u64::from(u32::MAX)
    }
}

fn locator_offset(bytes: &[u8]) -> Option<u64> {
    let mut fields = Fields(bytes.strip_prefix(b"PK\x06\x07")?);
    fields.u32()?;
    fields.u64()
}

fn end_record_64(bytes: &[u8]) -> Result<Extent, Reason> {
    let malformed = || damaged("its 64-bit end is malformed");
    let read = || {
        let mut fields = Fields(bytes.strip_prefix(b"PK\x06\x06")?);
        fields.take(12)?;
        let disks = [fields.u32()?, fields.u32()?];
        let here = fields.u64()?;
        let extent = Extent {
            entries: fields.u64()?,
            bytes: fields.u64()?,
            offset: fields.u64()?,
        };
        Some((disks, here, extent))
    };
    let (disks, here, extent) = read().ok_or_else(malformed)?;
    if disks != [0, 0] || here != extent.entries {
        return Err(Reason::MultiDisk);
    }
    Ok(extent)
}

/// The next entry; none if its bytes are not all there.
fn header(fields: &mut Fields<'_>) -> Result<Option<Entry>, UnpackError> {
    let Some((entry, disk, wide)) = raw_header(fields) else {
        return Ok(None);
    };
    let wrong = |reason| Err(refused(&entry.name, reason));
    if !wide {
        return wrong(damaged("its 64-bit sizes are missing"));
    }
    if disk != 0 && disk != u16::MAX {
        return wrong(Reason::MultiDisk);
    }
    if entry.name.len() > MAX_PATH_BYTES {
        return wrong(Reason::PathTooLong {
            limit: MAX_PATH_BYTES,
        });
    }
    Ok(Some(entry))
}

/// The fields of an entry, its disk, and whether its 64-bit sizes are there if it needs them.
fn raw_header(fields: &mut Fields<'_>) -> Option<(Entry, u16, bool)> {
    let mut fixed = Fields(fields.0.get(..HEADER_BYTES)?.strip_prefix(b"PK\x01\x02")?);
    let made_by = fixed.u16()?;
    fixed.u16()?;
    let flags = fixed.u16()?;
    let method = fixed.u16()?;
    fixed.u32()?;
    let crc32 = fixed.u32()?;
    let mut packed = u64::from(fixed.u32()?);
    let mut size = u64::from(fixed.u32()?);
    let name_bytes = fixed.u16()?;
    let extra_bytes = fixed.u16()?;
    let comment_bytes = fixed.u16()?;
    let disk = fixed.u16()?;
    fixed.u16()?;
    let attributes = fixed.u32()?;
    let mut offset = u64::from(fixed.u32()?);

    let mut after = Fields(fields.0.get(HEADER_BYTES..)?);
    let name = after.take(name_bytes.into())?;
    let extra = after.take(extra_bytes.into())?;
    after.take(comment_bytes.into())?;
    fields.0 = after.0;

    let mut wide = zip64(extra).map(Fields);
    let mut complete = true;
    for number in [&mut size, &mut packed, &mut offset] {
        if *number == u64::from(u32::MAX) {
            match wide.as_mut().and_then(Fields::u64) {
                Some(stated) => *number = stated,
                None => complete = false,
            }
        }
    }
    let unix_mode = match made_by >> 8 {
        UNIX | MACOS => attributes >> 16,
        _ => 0,
    };
    let entry = Entry {
        name: name.into(),
        offset,
        packed,
        size,
        crc32,
        method,
        flags,
        unix_mode,
    };
    Some((entry, disk, complete))
}

/// The extra field with 64-bit numbers.
fn zip64(extra: &[u8]) -> Option<&[u8]> {
    let mut fields = Fields(extra);
    loop {
        let id = fields.u16()?;
        let length = fields.u16()?;
        let content = fields.take(length.into())?;
        if id == 1 {
            return Some(content);
        }
    }
}

fn damaged(what: &str) -> Reason {
    Reason::Damaged(what.to_owned())
}

/// Little-endian numbers, one after the other.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read};

    use bytes::Bytes;

    use super::*;

    struct Archive(Bytes);

    impl Read for Archive {
        fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    impl ArchiveSource for Archive {
        fn size(&self) -> u64 {
            self.0.len() as u64
        }

        fn read_at(&mut self, offset: u64, length: usize) -> io::Result<Bytes> {
            let start = usize::try_from(offset).unwrap();
            Ok(self.0.slice(start..start + length))
        }
    }

    /// A directory of so many members, each with the name `n`, without the members.
    fn directory_of(entries: u16) -> Archive {
        let header = [&b"PK\x01\x02"[..], &[0; 24], &[1, 0], &[0; 16], b"n"].concat();
        assert_eq!(header.len(), HEADER_BYTES + 1);
        let mut bytes = header.repeat(entries.into());
        let length = u32::try_from(bytes.len()).unwrap();
        bytes.extend_from_slice(b"PK\x05\x06\0\0\0\0");
        bytes.extend_from_slice(&entries.to_le_bytes().repeat(2));
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&[0; 6]);
        Archive(bytes.into())
    }

    /// As Python's zipfile packs 65,535 members: that is also the number that stands for "see the 64-bit end".
    #[test]
    fn as_many_members_as_a_zip_may_have_without_a_64_bit_end_are_read() {
        for entries in [0, 1, u16::MAX - 1, u16::MAX] {
            let directory = read(&mut directory_of(entries), "x.zip", 100_000).unwrap();
            assert_eq!(directory.entries.len(), usize::from(entries));
        }
    }
}
