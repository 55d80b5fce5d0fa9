//! Tar archives: ustar, GNU's and pax's extensions (POSIX.1-2024, pax, "ustar Interchange Format" and "pax
//! Header Block").
//!
//! The blocks are walked here and not by the tar crate's archive reader, which allocates what a header says
//! and takes any end for the end. The fields of a header are read by that crate.

use std::io::{BufRead, Read};

use ::tar::Header;

use super::error::{Reason, UnpackError};
use super::member::{MemberPath, quoted, refused};
use super::sink::{Sink, fill};
use super::stream::{only_zeros, read_error, skip};

const BLOCK_BYTES: usize = 512;
/// Bytes of a long name or of a member's extended header: paths are shorter, and attributes of more are rare.
const MAX_EXTENSION_BYTES: usize = 64 * 1024;

/// What extension headers say about the member after them.
#[derive(Debug, Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
    /// There was one.
    any: bool,
}

/// Unpacks the tar that `stream` is, to its very end.
pub(super) fn unpack(stream: &mut impl BufRead, sink: &mut Sink<'_>) -> Result<(), UnpackError> {
    let archive = sink.how().name;
    let whole = |reason| UnpackError::Archive {
        name: quoted(archive.as_bytes()),
        reason,
    };
    let mut extensions = Extensions::default();
    loop {
        let mut block = [0; BLOCK_BYTES];
        let filled = fill(stream, &mut block).map_err(|error| read_error(error, None, archive))?;
        // Also where a member ends: a tar that is complete ends in zeros.
        if filled < BLOCK_BYTES {
            return Err(whole(Reason::Truncated));
        }
        if block.iter().all(|byte| *byte == 0) {
            if extensions.any {
                return Err(whole(damaged("an extended header has no member")));
            }
            return only_zeros(stream).map_err(|error| read_error(error, None, archive));
        }
        let header = Header::from_byte_slice(&block);
        if !has_checksum(header, &block) {
            return Err(whole(damaged("a header does not have its checksum")));
        }
        let name = header.path_bytes().into_owned();
        let kind = header.entry_type().as_byte();
        match kind {
            b'L' => extensions.path = Some(extension(stream, header, &name, archive)?),
            b'K' => extensions.link = Some(extension(stream, header, &name, archive)?),
            b'x' => {
                let records = extension(stream, header, &name, archive)?;
                extensions
                    .add(&records)
                    .map_err(|reason| refused(&name, reason))?;
            }
            b'g' => {
                let records = extension(stream, header, &name, archive)?;
                let mut global = Extensions::default();
                global
                    .add(&records)
                    .map_err(|reason| refused(&name, reason))?;
                if global.names_members() {
                    return Err(refused(&name, Reason::GlobalPath));
                }
                continue;
            }
            _ => {
                member(stream, header, std::mem::take(&mut extensions), sink)?;
                continue;
            }
        }
        extensions.any = true;
    }
}

/// Unpacks one member.
fn member(
    stream: &mut impl BufRead,
    header: &Header,
    extensions: Extensions,
    sink: &mut Sink<'_>,
) -> Result<(), UnpackError> {
    let archive = sink.how().name;
    let name = match extensions.path {
        Some(path) => path,
        None => header.path_bytes().into_owned(),
    };
    let wrong = |reason| refused(&name, reason);
    if extensions.sparse {
        return Err(wrong(Reason::Sparse));
    }
    let size = match extensions.size {
        Some(size) => size,
        None => header
            .entry_size()
            .map_err(|_| wrong(damaged("its size is no number")))?,
    };
    let parse = |name: &[u8]| MemberPath::parse_file(name).map_err(wrong);
    let target = || match &extensions.link {
        Some(link) => link.clone(),
        None => header.link_name_bytes().unwrap_or_default().into_owned(),
    };
    match header.entry_type().as_byte() {
        // Before POSIX a directory was a file whose name ends in a slash.
        0 | b'0' if name.ends_with(b"/") && size == 0 => {
            sink.directory(MemberPath::parse(&name).map_err(wrong)?)
        }
        0 | b'0' | b'7' => {
            let path = parse(&name)?;
            let mode = header
                .mode()
                .map_err(|_| wrong(damaged("its mode is no number")))?;
            if mode & 0o6000 != 0 {
                return Err(wrong(Reason::SetId));
            }
            let mut bytes = stream.take(size);
            let written = sink.file(path, mode & 0o111 != 0, &mut bytes, Some(&name))?;
            if written < size {
                return Err(wrong(Reason::Truncated));
            }
            skip(stream, padding(size)).map_err(|error| read_error(error, Some(&name), archive))
        }
        b'1' => {
            let path = parse(&name)?;
            let target = target();
            let target = MemberPath::parse_file(&target).map_err(|reason| match reason {
                Reason::EmptyName => wrong(Reason::HardLinkTarget),
                reason => wrong(reason),
            })?;
            sink.hard_link(path, target)
        }
        b'2' => sink.link(parse(&name)?, &target(), &name),
        b'3' | b'4' => Err(wrong(Reason::Device)),
        b'5' => sink.directory(MemberPath::parse(&name).map_err(wrong)?),
        b'6' => Err(wrong(Reason::Fifo)),
        b'S' => Err(wrong(Reason::Sparse)),
        other => Err(wrong(Reason::UnknownType(other.into()))),
    }
}

/// The bytes of an extension header; a zero byte ends those that are a name.
fn extension(
    stream: &mut impl BufRead,
    header: &Header,
    name: &[u8],
    archive: &str,
) -> Result<Vec<u8>, UnpackError> {
    let wrong = |reason| refused(name, reason);
    let size = header
        .entry_size()
        .map_err(|_| wrong(damaged("its size is no number")))?;
    let length = usize::try_from(size)
        .ok()
        .filter(|length| *length <= MAX_EXTENSION_BYTES)
        .ok_or_else(|| {
            wrong(Reason::ExtensionTooLong {
                limit: MAX_EXTENSION_BYTES,
            })
        })?;
    let in_member = |error| read_error(error, Some(name), archive);
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).map_err(in_member)?;
    skip(stream, padding(size)).map_err(in_member)?;
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

impl Extensions {
    /// Adds what the records of a pax header say: "length key=value\n" each, the length that of the record.
    fn add(&mut self, mut records: &[u8]) -> Result<(), Reason> {
        while !records.is_empty() {
            let (key, value, rest) =
                pax_record(records).ok_or_else(|| damaged("a pax record is malformed"))?;
            records = rest;
            // No value: as if the key had not been given.
            let given = || (!value.is_empty()).then(|| value.to_vec());
            match key {
                b"path" => self.path = given(),
                b"linkpath" => self.link = given(),
                b"size" if value.is_empty() => self.size = None,
                b"size" => {
                    let size = decimal(value).ok_or_else(|| damaged("a pax size is no number"))?;
                    self.size = Some(size);
                }
                key if key.starts_with(b"GNU.sparse.") => self.sparse = true,
                _ => {}
            }
        }
        Ok(())
    }

    fn names_members(&self) -> bool {
        self.path.is_some() || self.link.is_some() || self.size.is_some() || self.sparse
    }
}

/// The first record: key, value and the records after it.
fn pax_record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(records.get(..space)?)?).ok()?;
    let (record, rest) = records.split_at_checked(length)?;
    let pair = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    let (key, value) = pair.split_at_checked(equals)?;
    (!key.is_empty()).then_some((key, value.get(1..)?, rest))
}

/// Decimal digits, and nothing else.
fn decimal(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

/// Whether the header's checksum holds: the sum of its bytes with blanks in the checksum's place. Some old
/// programs added the bytes as signed.
fn has_checksum(header: &Header, block: &[u8; BLOCK_BYTES]) -> bool {
    let Ok(stated) = header.cksum() else {
        return false;
    };
    let summed = |(index, byte): (usize, &u8)| {
        if (148..156).contains(&index) {
            b' '
        } else {
            *byte
        }
    };
    let bytes = || block.iter().enumerate().map(summed);
    let unsigned: u32 = bytes().map(u32::from).sum();
    let signed: i32 = bytes().map(|byte| i32::from(byte.cast_signed())).sum();
    stated == unsigned || i64::from(stated) == i64::from(signed)
}

/// Bytes from a member's end to the next block.
fn padding(size: u64) -> u64 {
    let block = BLOCK_BYTES as u64;
    (block - size % block) % block
}

fn damaged(what: &str) -> Reason {
    Reason::Damaged(what.to_owned())
}
