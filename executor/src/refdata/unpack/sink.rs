//! The side that reads: takes members from a format's reader, keeps to the bounds, and hands the bytes to the
//! writer.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender};

use super::Unpacking;
use super::error::{Reason, UnpackError};
use super::member::{MemberPath, refused};
use super::stream::read_error;
use super::writer::{Chunk, Step};

/// Size of a buffer between reading and writing.
const BUFFER_BYTES: usize = 256 * 1024;
/// Buffers on their way: 4 MiB, which evens out files of very different sizes.
const MAX_BUFFERS: usize = 16;
/// Space is asked for in steps of this many bytes.
const SPACE_STEP_BYTES: u64 = 64 * 1024 * 1024;

/// The disk is given out in blocks of this many bytes, nearly everywhere.
const BLOCK_BYTES: u64 = 4096;

/// Where members go.
pub(super) struct Sink<'a> {
    how: Unpacking<'a>,
    steps: SyncSender<Step>,
    used: Receiver<Vec<u8>>,
    buffers: usize,
    /// All bytes of files may be at most this many.
    limit: u64,
    unpacked: u64,
    /// Bytes for which there was space when it was asked for.
    granted: u64,
}

impl<'a> Sink<'a> {
    /// A sink for an object that may unpack to `limit` bytes. Buffers come back through `used`.
    pub(super) fn new(
        how: &Unpacking<'a>,
        limit: u64,
        steps: SyncSender<Step>,
        used: Receiver<Vec<u8>>,
    ) -> Self {
        Self {
            how: *how,
            steps,
            used,
            buffers: 0,
            limit,
            unpacked: 0,
            granted: 0,
        }
    }

    pub(super) fn how(&self) -> &Unpacking<'a> {
        &self.how
    }

    pub(super) fn directory(&mut self, path: MemberPath) -> Result<(), UnpackError> {
        self.take_space(0)?;
        self.send(Step::Directory(path))
    }

    /// Writes all that `reader` has; returns how much that was. `name`: the member's, for errors.
    pub(super) fn file(
        &mut self,
        path: MemberPath,
        executable: bool,
        reader: &mut impl Read,
        name: Option<&[u8]>,
    ) -> Result<u64, UnpackError> {
        let shown = path.as_str().as_bytes().to_vec();
        let mut begun = Some(path);
        let mut size = 0;
        loop {
            let mut buffer = self.buffer()?;
            let filled = fill(reader, &mut buffer)
                .map_err(|error| read_error(error, name, self.how.name))?;
            let last = filled < buffer.len();
            size += filled as u64;
            self.admit(filled as u64, &shown)?;
            let chunk = Chunk {
                buffer,
                filled,
                last,
            };
            self.send(match begun.take() {
                Some(path) => Step::File {
                    path,
                    executable,
                    first: chunk,
                },
                None => Step::More(chunk),
            })?;
            if last {
                return Ok(size);
            }
        }
    }

    pub(super) fn link(
        &mut self,
        path: MemberPath,
        target: &[u8],
        name: &[u8],
    ) -> Result<(), UnpackError> {
        let target = path
            .link_target(target)
            .map_err(|reason| refused(name, reason))?
            .to_owned();
        self.take_space(0)?;
        self.send(Step::Link { path, target })
    }

    pub(super) fn hard_link(
        &mut self,
        path: MemberPath,
        target: MemberPath,
    ) -> Result<(), UnpackError> {
        self.send(Step::HardLink { path, target })
    }

    /// Bytes are about to be written.
    fn admit(&mut self, bytes: u64, name: &[u8]) -> Result<(), UnpackError> {
        self.unpacked += bytes;
        if self.unpacked > self.limit {
            let limit = self.limit;
            return Err(refused(name, Reason::TooLarge { limit }));
        }
        self.take_space(bytes)
    }

    /// Something with that many bytes is about to take blocks of the disk, one at least: a million of small files
    /// take more than their bytes.
    fn take_space(&mut self, bytes: u64) -> Result<(), UnpackError> {
        let bytes = bytes.max(1).next_multiple_of(BLOCK_BYTES);
        if self.granted < bytes {
            let most = bytes.max(SPACE_STEP_BYTES);
            self.granted = (self.how.has_space)(bytes..=most)?;
        }
        self.granted = self.granted.saturating_sub(bytes);
        Ok(())
    }

    fn buffer(&mut self) -> Result<Vec<u8>, UnpackError> {
        if let Ok(buffer) = self.used.try_recv() {
            return Ok(buffer);
        }
        if self.buffers < MAX_BUFFERS {
            self.buffers += 1;
            return Ok(vec![0; BUFFER_BYTES]);
        }
        self.used.recv().map_err(|_| writer_ended())
    }

    fn send(&mut self, step: Step) -> Result<(), UnpackError> {
        if (self.how.cancelled)() {
            return Err(UnpackError::Cancelled);
        }
        self.steps.send(step).map_err(|_| writer_ended())
    }
}

/// The writer has ended before its time. Its own error says why, and is the one that is returned.
fn writer_ended() -> UnpackError {
    UnpackError::Cancelled
}

/// Reads until the buffer is full or there is no more.
pub(super) fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..)
        && !rest.is_empty()
    {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
