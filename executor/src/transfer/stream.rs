//! An object as one stream of bytes, for a reader that blocks.
//!
//! ```text
//!   parts, in order:  [reading] [ready] [in flight] [in flight]   <- no further: all buffers are out
//!                         └ Read::read                    └ a task each, retried alone (`part`)
//! ```
//!
//! Each part has a buffer and a task of its own, which go to the reader through a channel in the order of the
//! object. Buffers come from a pool of fixed size and go back when their part has been read: a slow reader
//! stops the fetching, and memory is bounded whatever the object's size. A task fills its buffer whether or not
//! anybody reads, so that a slow reader never looks like a stalled store.
//!
//! The checksum is over all bytes in their order, also those that the reader did not ask for:
//! [`ObjectStream::finish`] reads the rest. Bytes that were read ahead by [`ObjectStream::read_at`] come once more in
//! their order, and must then be the same.

use std::fmt;
use std::future::Future;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use cts_shared::crc64nvme::{Crc64Nvme, Crc64NvmeHasher};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

use super::buffer::{Buffer, BufferPool, UNIT_BYTES};
use super::options::TransferOptions;
use super::part::{Origin, PartFetcher, Version};
use super::{StreamRequest, TransferError};
use crate::object_store::{GetResponse, ObjectStore};
use crate::progress::Counters;

/// A part with all its bytes.
struct Part {
    bytes: Buffer,
    checksum: Crc64Nvme,
}

/// Bytes that were read before their turn.
struct Ahead {
    bytes: Range<u64>,
    checksum: Crc64Nvme,
    /// Over those of them that have come in order.
    in_order: Crc64NvmeHasher,
}

impl Ahead {
    /// Takes what `part`, from `start` on, has of them.
    fn pass(&mut self, start: u64, part: &[u8]) {
        let within = |position: u64| {
            let within = position.clamp(start, start.saturating_add(part.len() as u64)) - start;
            usize::try_from(within).unwrap_or(usize::MAX)
        };
        let bytes = part.get(within(self.bytes.start)..within(self.bytes.end));
        self.in_order.update(bytes.unwrap_or_default());
    }
}

type PartTask = AbortOnDropHandle<Result<Part, TransferError>>;

/// An object being read in order. Dropping it stops the fetching.
///
/// Its methods block: call them on a thread that may (`spawn_blocking`), never in async code. A read fails
/// within a second after the token that the stream was begun with is cancelled.
pub struct ObjectStream {
    source: Arc<Source>,
    handle: Handle,
    parts: mpsc::Receiver<PartTask>,
    current: Option<Part>,
    /// Bytes of the current part that have been read.
    read: usize,
    /// Bytes of the object in the parts that have come.
    received: u64,
    /// Over the same bytes.
    checksum: Crc64Nvme,
    /// What was read ahead.
    ahead: Vec<Ahead>,
    failure: Option<TransferError>,
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
}

impl fmt::Debug for ObjectStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectStream")
            .field("object", &self.source.request.object)
            .field("version", &self.source.version)
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}

/// The version of the object that is read, and how.
struct Source {
    request: StreamRequest,
    version: Version,
    fetcher: PartFetcher,
}

impl Source {
    fn origin(&self) -> Origin<'_> {
        Origin {
            object: &self.request.object,
            version: &self.version,
            fresh_connection: self.request.earlier.is_some(),
        }
    }

    /// Fetches the bytes from `start` on into `buffer`, all of it.
    async fn fetch(
        &self,
        start: u64,
        buffer: &mut [u8],
        response: Option<GetResponse>,
    ) -> Result<Crc64Nvme, TransferError> {
        let end = start.saturating_add(buffer.len() as u64);
        let mut free = buffer;
        let mut take = |_, chunk: &[u8]| {
            // Chunks come in order, and no more of them than the part has.
            if let Some((now, later)) = std::mem::take(&mut free).split_at_mut_checked(chunk.len())
            {
                now.copy_from_slice(chunk);
                free = later;
            }
            Ok(())
        };
        self.fetcher
            .fetch(self.origin(), start..end, response, &mut take)
            .await
    }
}

impl ObjectStream {
    /// Asks for the first part; its answer tells the size. The parts are fetched on `handle`'s threads.
    pub(super) async fn open(
        store: Arc<dyn ObjectStore>,
        options: Arc<TransferOptions>,
        handle: Handle,
        request: StreamRequest,
        counters: Arc<Counters>,
        stop: CancellationToken,
    ) -> Result<Self, TransferError> {
        let part_bytes = options.stream_part_bytes.max(1);
        let count = options.stream_parts.max(1);
        let stop_when_dropped = stop.clone().drop_guard();
        let fetcher = PartFetcher {
            store,
            options,
            counters,
        };
        let fresh_connection = request.earlier.is_some();
        let asked = fetcher.first_answer(
            &request.object,
            request.expected,
            part_bytes,
            fresh_connection,
        );
        let response = stop
            .run_until_cancelled(asked)
            .await
            .unwrap_or(Err(TransferError::Cancelled))?;
        let version = Version::of(&response);
        fetcher.counters.expect(1, version.size);
        let source = Arc::new(Source {
            request,
            version,
            fetcher,
        });
        let (sender, parts) = mpsc::channel(count);
        let feeding = feed(Arc::clone(&source), response, part_bytes, count, sender);
        let stopped = stop.clone();
        handle.spawn(async move { stopped.run_until_cancelled(feeding).await });
        Ok(Self {
            source,
            handle,
            parts,
            current: None,
            read: 0,
            received: 0,
            checksum: Crc64Nvme::EMPTY,
            ahead: Vec::new(),
            failure: None,
            stop,
            _stop_when_dropped: stop_when_dropped,
        })
    }

    /// The object's size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.source.version.size
    }

    /// Size, `ETag` and time of the object that is read, for messages.
    #[must_use]
    pub fn version(&self) -> String {
        self.source.version.to_string()
    }

    /// Exactly `length` bytes from `offset` on, of the same version of the object; the reading in order is not
    /// disturbed. They take memory of their own. Whether they are right only [`finish`](Self::finish) knows, which
    /// compares them with those that come in order.
    ///
    /// # Errors
    /// As [`Read::read`]; `UnexpectedEof` where the object ends before, `InvalidInput` for bytes that have come
    /// already, which nothing would be compared with.
    pub fn read_at(&mut self, offset: u64, length: usize) -> io::Result<Bytes> {
        if offset.saturating_add(length as u64) > self.size() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if offset < self.received {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let source = Arc::clone(&self.source);
        let fetched = self.wait(async move {
            let mut bytes = vec![0; length];
            let checksum = source.fetch(offset, &mut bytes, None).await?;
            Ok((Bytes::from(bytes), checksum))
        });
        let (bytes, checksum) = fetched.map_err(|error| self.keep(error))?;
        self.ahead.push(Ahead {
            bytes: offset..offset.saturating_add(length as u64),
            checksum,
            in_order: Crc64NvmeHasher::new(),
        });
        Ok(bytes)
    }

    /// Reads what is left, and compares the checksum of the whole and of what was read ahead.
    ///
    /// # Errors
    /// The error that a read met, [`TransferError::ChecksumMismatch`], [`TransferError::ReadDifferently`], or
    /// [`TransferError::Cancelled`].
    pub fn finish(mut self) -> Result<Crc64Nvme, TransferError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        while self.next_part()? {}
        let StreamRequest {
            object,
            expected,
            earlier,
        } = &self.source.request;
        let (expected, actual) = (*expected, self.checksum);
        if actual == expected {
            let differs = |ahead: &&Ahead| ahead.in_order.clone().finish() != ahead.checksum;
            if let Some(ahead) = self.ahead.iter().find(differs) {
                return Err(TransferError::ReadDifferently {
                    object: object.clone(),
                    bytes: ahead.bytes.clone(),
                    version: self.version(),
                });
            }
            self.source.fetcher.counters.finish_file();
            return Ok(actual);
        }
        Err(TransferError::ChecksumMismatch {
            object: object.clone(),
            expected,
            actual,
            version: self.version(),
            // The same wrong bytes twice are what the store has; others were damaged on the way.
            is_other_content: *earlier == Some(actual),
        })
    }

    /// Waits for the next part; whether there is one.
    fn next_part(&mut self) -> Result<bool, TransferError> {
        // Its buffer goes back first: it may be the one that the next part waits for.
        self.current = None;
        self.read = 0;
        if self.received == self.size() {
            return Ok(false);
        }
        let next = self.parts.blocking_recv();
        let part = match next {
            Some(task) => self.wait(async move {
                task.await.unwrap_or_else(|error| {
                    Err(TransferError::Internal {
                        cause: error.to_string(),
                    })
                })
            })?,
            // The feeding ends early only when it is told to.
            None => return Err(TransferError::Cancelled),
        };
        for ahead in &mut self.ahead {
            ahead.pass(self.received, &part.bytes);
        }
        let len = part.bytes.len() as u64;
        self.checksum = self.checksum.combine(part.checksum, len);
        self.received += len;
        self.current = Some(part);
        Ok(true)
    }

    /// Waits for something, or for the end.
    fn wait<T>(
        &self,
        work: impl Future<Output = Result<T, TransferError>>,
    ) -> Result<T, TransferError> {
        self.handle
            .block_on(self.stop.run_until_cancelled(work))
            .unwrap_or(Err(TransferError::Cancelled))
    }

    /// Keeps an error for [`finish`](Self::finish); readers get its words.
    fn keep(&mut self, error: TransferError) -> io::Error {
        let words = io::Error::other(error.to_string());
        self.failure = Some(error);
        words
    }
}

impl Read for ObjectStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if let Some(failure) = &self.failure {
            return Err(io::Error::other(failure.to_string()));
        }
        loop {
            let unread = self
                .current
                .as_ref()
                .and_then(|part| part.bytes.get(self.read..))
                .unwrap_or_default();
            if !unread.is_empty() {
                let count = unread.len().min(buffer.len());
                if let (Some(to), Some(from)) = (buffer.get_mut(..count), unread.get(..count)) {
                    to.copy_from_slice(from);
                }
                self.read += count;
                return Ok(count);
            }
            match self.next_part() {
                Ok(true) => {}
                Ok(false) => return Ok(0),
                Err(error) => return Err(self.keep(error)),
            }
        }
    }
}

/// Begins part after part, as buffers become free; ends when the reader is gone.
async fn feed(
    source: Arc<Source>,
    first: GetResponse,
    part_bytes: u64,
    count: usize,
    parts: mpsc::Sender<PartTask>,
) {
    // The pool counts in units, and takes a power of two for each buffer.
    let buffer_bytes = part_bytes.max(UNIT_BYTES as u64).next_power_of_two();
    let pool = BufferPool::new(buffer_bytes.saturating_mul(count as u64), buffer_bytes);
    let mut first = Some(first);
    let mut start = 0;
    while start < source.version.size {
        let end = start.saturating_add(part_bytes).min(source.version.size);
        let len = usize::try_from(end - start).unwrap_or(usize::MAX);
        // In order: the part that the reader needs next never waits for one behind it.
        let mut bytes = pool.acquire(len).await;
        let (source, response) = (Arc::clone(&source), first.take());
        let task = tokio::spawn(async move {
            let checksum = source.fetch(start, &mut bytes, response).await?;
            Ok(Part { bytes, checksum })
        });
        if parts.send(AbortOnDropHandle::new(task)).await.is_err() {
            return;
        }
        start = end;
    }
}
