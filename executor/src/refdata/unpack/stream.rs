//! The bytes on their way from the object to the members: counted, bounded, and stopped when asked.
//!
//! Decoders of others sit between this module's readers, and they know [`io::Error`] only. What must not be
//! mistaken for damage travels through them as a [`Stopped`].

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;

use super::error::{Reason, UnpackError};
use super::member::quoted;
use super::{ArchiveSource, Unpacking};

/// Buffer between an object and its decoder, in bytes.
const INPUT_BUFFER_BYTES: usize = 128 * 1024;
/// Windows of Zstandard up to 2^27 bytes: what `zstd -d` takes without being told to.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Why reading stopped, other than by what the bytes are.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error("cancelled")]
    Cancelled,
    #[error("the object cannot be read")]
    Source(#[source] io::Error),
    #[error("more than {0} bytes")]
    TooLarge(u64),
    #[error("bytes after the end")]
    TrailingBytes,
    #[error("no bytes at all")]
    Empty,
}

impl Stopped {
    fn into_io(self) -> io::Error {
        // Not the source's own kind: decoders try again at some, and see the end of file in others.
        io::Error::other(self)
    }
}

/// What an error of a reader of this module means. `member`: what was being read, if it was a member.
pub(super) fn read_error(error: io::Error, member: Option<&[u8]>, archive: &str) -> UnpackError {
    let about = |reason| match member {
        Some(name) => UnpackError::Member {
            name: quoted(name),
            reason,
        },
        None => UnpackError::Archive {
            name: quoted(archive.as_bytes()),
            reason,
        },
    };
    let kind = error.kind();
    let text = error.to_string();
    match error.downcast::<Stopped>() {
        Ok(Stopped::Cancelled) => UnpackError::Cancelled,
        Ok(Stopped::Source(error)) => UnpackError::Source(error),
        Ok(Stopped::TooLarge(limit)) => about(Reason::TooLarge { limit }),
        Ok(Stopped::TrailingBytes) => UnpackError::Archive {
            name: quoted(archive.as_bytes()),
            reason: Reason::TrailingBytes,
        },
        Ok(Stopped::Empty) => about(Reason::Truncated),
        Err(_) if kind == io::ErrorKind::UnexpectedEof => about(Reason::Truncated),
        Err(_) => about(damage(&text)),
    }
}

/// What a decoder's message means: zlib-rs and Zstandard have no other way to say it.
fn damage(text: &str) -> Reason {
    if text.contains("requires too much memory") {
        return Reason::WindowTooLarge {
            limit_mib: (1 << ZSTD_WINDOW_LOG_MAX) / (1024 * 1024),
        };
    }
    if text.contains("checksum") {
        return Reason::Checksum;
    }
    Reason::Damaged(text.to_owned())
}

/// The object in order: counts what is taken, and stops when asked.
struct Watched<'a> {
    source: &'a mut dyn ArchiveSource,
    how: Unpacking<'a>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.how.cancelled)() {
            return Err(Stopped::Cancelled.into_io());
        }
        loop {
            match self.source.read(buffer) {
                Ok(count) => {
                    self.how.counters.add_downloaded(count as u64);
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Stopped::Source(error).into_io()),
            }
        }
    }
}

/// The object's bytes in order, buffered.
pub(super) fn input<'a>(
    source: &'a mut dyn ArchiveSource,
    how: &Unpacking<'a>,
) -> impl BufRead + use<'a> {
    BufReader::with_capacity(INPUT_BUFFER_BYTES, Watched { source, how: *how })
}

/// Ends in an error when more comes out of `inner` than an object of this size may unpack to. Padding and
/// headers count as well: a decoder must not run for ever.
pub(super) struct Bounded<'a, R> {
    inner: R,
    limit: u64,
    left: u64,
    cancelled: &'a (dyn Fn() -> bool + Sync),
}

impl<'a, R: Read> Bounded<'a, R> {
    pub(super) fn new(inner: R, limit: u64, how: &Unpacking<'a>) -> Self {
        Self {
            inner,
            limit,
            left: limit,
            cancelled: how.cancelled,
        }
    }
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.cancelled)() {
            return Err(Stopped::Cancelled.into_io());
        }
        let count = self.inner.read(buffer)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => self.left = left,
            None => return Err(Stopped::TooLarge(self.limit).into_io()),
        }
        Ok(count)
    }
}

/// The members of a gzip file one after the other (RFC 1952, section 2.2), then zeros or nothing.
pub(super) struct Gunzip<R> {
    /// Taken only while one member's decoder becomes the next one's.
    decoder: Option<GzDecoder<R>>,
}

impl<R: BufRead> Gunzip<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            decoder: Some(GzDecoder::new(input)),
        }
    }
}

impl<R: BufRead> Read for Gunzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(decoder) = self.decoder.as_mut() {
            let count = decoder.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            match decoder.get_mut().fill_buf()?.first() {
                None => self.decoder = None,
                Some(0) => {
                    only_zeros(decoder.get_mut())?;
                    self.decoder = None;
                }
                // The first byte of a member.
                Some(0x1f) => {
                    self.decoder = self
                        .decoder
                        .take()
                        .map(|done| GzDecoder::new(done.into_inner()));
                }
                Some(_) => return Err(Stopped::TrailingBytes.into_io()),
            }
        }
        Ok(0)
    }
}

/// Zstandard's frames one after the other (RFC 8878, section 3.1).
pub(super) struct Unzstd<'a, R: BufRead> {
    decoder: zstd::stream::read::Decoder<'a, R>,
    some: bool,
}

impl<R: BufRead> Unzstd<'static, R> {
    pub(super) fn new(mut input: R) -> io::Result<Self> {
        // No frame at all is no error to the decoder.
        if input.fill_buf()?.is_empty() {
            return Err(Stopped::Empty.into_io());
        }
        let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
        Ok(Self {
            decoder,
            some: false,
        })
    }
}

impl<R: BufRead> Read for Unzstd<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.decoder.read(buffer) {
            Ok(count) => {
                self.some |= count > 0;
                Ok(count)
            }
            Err(error) if self.some && error.to_string().contains("Unknown frame descriptor") => {
                Err(Stopped::TrailingBytes.into_io())
            }
            Err(error) => Err(error),
        }
    }
}

/// Reads to the end; what is not zero is an error.
pub(super) fn only_zeros(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let bytes = input.fill_buf()?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Err(Stopped::TrailingBytes.into_io());
        }
        let count = bytes.len();
        if count == 0 {
            return Ok(());
        }
        input.consume(count);
    }
}

/// Reads and drops `count` bytes.
pub(super) fn skip(input: &mut impl BufRead, mut count: u64) -> io::Result<()> {
    while count > 0 {
        let available = input.fill_buf()?.len();
        if available == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let step = usize::try_from(count).map_or(available, |count| count.min(available));
        input.consume(step);
        count -= step as u64;
    }
    Ok(())
}

/// Reads and drops what is left.
pub(super) fn drain(input: &mut impl BufRead) -> io::Result<()> {
    loop {
        let count = input.fill_buf()?.len();
        if count == 0 {
            return Ok(());
        }
        input.consume(count);
    }
}
