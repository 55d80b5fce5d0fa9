//! Files to objects.
//!
//! A file of up to one part is a single PUT. A larger one is a multipart upload with a full-object
//! checksum, its parts sent side by side. Either way the store must confirm the checksum of the
//! whole before the file counts as sent.

mod multipart;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cts_shared::crc64nvme::Crc64Nvme;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::buffer::BufferPool;
use super::options::TransferOptions;
use super::queue::WorkQueue;
use super::retry::Attempts;
use super::source::OpenSource;
use super::{Closed, PublishGate, TransferError, Upload, Uploaded, within};
use crate::object_store::{ObjectChecksum, ObjectName, ObjectStore, StoreError, StoreErrorKind};
use crate::progress::Counters;
use multipart::{LargeUpload, OpenUploads};

pub(super) async fn run(
    store: Arc<dyn ObjectStore>,
    options: Arc<TransferOptions>,
    gate: Option<Arc<dyn PublishGate>>,
    items: Vec<Upload>,
    counters: Arc<Counters>,
    cancel: CancellationToken,
) -> Result<Vec<Uploaded>, TransferError> {
    counters.expect(
        items.len() as u64,
        items.iter().map(Upload::known_size).sum(),
    );
    let uploads = Arc::new(Uploads {
        queue: WorkQueue::new((0..items.len()).map(|index| Work::Begin { index })),
        buffers: BufferPool::new(options.upload_memory_bytes, options.upload_part_bytes),
        open: OpenUploads::new(Arc::clone(&store)),
        sent: Mutex::new(Vec::with_capacity(items.len())),
        store,
        options,
        gate,
        items,
        counters,
    });
    let stop = cancel.child_token();
    let mut workers = JoinSet::new();
    for _ in 0..uploads.options.upload_concurrency.max(1) {
        let (uploads, stop) = (Arc::clone(&uploads), stop.clone());
        workers.spawn(async move {
            let work = stop.run_until_cancelled(uploads.work());
            work.await.unwrap_or(Err(TransferError::Cancelled))
        });
    }
    let result = super::first_failure(workers, &stop).await;
    let limit = if cancel.is_cancelled() {
        uploads.options.cleanup_timeout
    } else {
        uploads.options.response_timeout
    };
    uploads.open.abort_all(limit, uploads.pass_gate()).await;
    result?;
    let mut sent = uploads.sent.lock().unwrap_or_else(PoisonError::into_inner);
    sent.sort_unstable_by_key(|(index, _)| *index);
    Ok(sent.drain(..).map(|(_, uploaded)| uploaded).collect())
}

impl Upload {
    /// Size in bytes as far as known before it is opened.
    fn known_size(&self) -> u64 {
        match &self.source {
            super::Source::Output(file) => file.size(),
            super::Source::File(path) => path.metadata().map_or(0, |metadata| metadata.len()),
        }
    }
}

/// What the workers share.
#[derive(Debug)]
struct Uploads {
    store: Arc<dyn ObjectStore>,
    options: Arc<TransferOptions>,
    gate: Option<Arc<dyn PublishGate>>,
    items: Vec<Upload>,
    queue: WorkQueue<Work>,
    buffers: Arc<BufferPool>,
    open: OpenUploads,
    sent: Mutex<Vec<(usize, Uploaded)>>,
    counters: Arc<Counters>,
}

#[derive(Debug)]
enum Work {
    /// Send a file, or begin its multipart upload.
    Begin { index: usize },
    /// Send another part.
    Continue(Arc<LargeUpload>),
}

impl Uploads {
    async fn work(&self) -> Result<(), TransferError> {
        while let Some((work, _taken)) = self.queue.next().await {
            match work {
                Work::Begin { index } => self.begin(index).await?,
                Work::Continue(upload) => self.send_next_part(upload).await?,
            }
        }
        Ok(())
    }

    async fn begin(&self, index: usize) -> Result<(), TransferError> {
        let Some(item) = self.items.get(index) else {
            return Ok(());
        };
        let source = item.source.open()?;
        if source.size() > self.options.upload_part_bytes {
            let upload = self.begin_multipart(index, &item.object, source).await?;
            self.queue.push_front(Work::Continue(upload));
            return Ok(());
        }
        let (body, checksum) = self.read(&source, 0, source.size()).await?;
        source.check_unchanged()?;
        let size = source.size();
        drop(source);
        let answered = self.put(&item.object, body, checksum).await?;
        self.confirm(&item.object, checksum, size, answered).await?;
        self.counters.add_bytes(size);
        self.finish(index, &item.object, checksum, size);
        Ok(())
    }

    /// Waits until it is certain that this process may still publish.
    async fn pass_gate(&self) -> Result<(), TransferError> {
        match &self.gate {
            Some(gate) => gate.pass().await.map_err(|Closed| TransferError::Closed),
            None => Ok(()),
        }
    }

    /// Sends a request that makes an object visible or removes one. Nothing if it was broken off, because it is not
    /// certain any more that this process may, and is to be sent again: under way for long, it could undo what
    /// another executor has stored meanwhile. A store takes no body that ends early.
    async fn behind_gate<T>(
        &self,
        object: &ObjectName,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<Option<Result<T, StoreError>>, TransferError> {
        self.pass_gate().await?;
        let Some(gate) = &self.gate else {
            return Ok(Some(request.await));
        };
        tokio::select! {
            // A process that was stopped looks at this first.
            biased;
            () = gate.lapsed() => {
                tracing::warn!(
                    s3.object = %object,
                    "a request is broken off: the service has not confirmed this attempt for too long"
                );
                Ok(None)
            }
            answer = request => Ok(Some(answer)),
        }
    }

    /// Reads and hashes a part into a buffer of the pool.
    async fn read(
        &self,
        source: &OpenSource,
        offset: u64,
        len: u64,
    ) -> Result<(Bytes, Crc64Nvme), TransferError> {
        let Ok(len) = usize::try_from(len) else {
            return Err(TransferError::TooLarge {
                path: source.path().clone(),
                size: source.size(),
            });
        };
        let mut buffer = self.buffers.acquire(len).await;
        let checksum = source.read(&mut buffer, offset).await?;
        Ok((buffer.freeze(), checksum))
    }

    async fn put(
        &self,
        object: &ObjectName,
        body: Bytes,
        checksum: Crc64Nvme,
    ) -> Result<ObjectChecksum, TransferError> {
        let mut attempts = Attempts::new(&self.options.retry, &self.counters);
        loop {
            let limit = self.send_limit(body.len(), &attempts);
            let put = self.behind_gate(object, async {
                let put = self.store.put(object, body.clone(), checksum);
                within(limit, "put", object, put).await
            });
            let Some(answer) = put.await? else {
                continue;
            };
            match answer {
                Ok(answered) => return Ok(answered),
                Err(error) => {
                    self.wait_to_resend(&mut attempts, error, object, &body, checksum)
                        .await?
                }
            }
        }
    }

    /// How long a request with a body of `len` bytes may take. Longer from try to try: a way that is
    /// slow but not dead must end up with enough.
    fn send_limit(&self, len: usize, attempts: &Attempts<'_>) -> Duration {
        let rate = self.options.upload_min_bytes_per_sec.max(1);
        let sending = Duration::from_secs(len as u64 / rate);
        self.options.response_timeout + sending * attempts.number()
    }

    /// Waits before the same bytes are sent again; a store that got other bytes than were hashed
    /// may be right, so they are hashed again.
    async fn wait_to_resend(
        &self,
        attempts: &mut Attempts<'_>,
        error: StoreError,
        object: &ObjectName,
        body: &Bytes,
        checksum: Crc64Nvme,
    ) -> Result<(), TransferError> {
        if error.kind() == StoreErrorKind::ChecksumRefused && Crc64Nvme::of(body) != checksum {
            return Err(TransferError::MemoryCorrupted {
                object: object.clone(),
            });
        }
        Ok(attempts.wait_after(error).await?)
    }

    /// Compares what was sent with what the store says it has; asks when the answer did not say. An
    /// object that is not as sent is removed: nobody shall take it for an output.
    async fn confirm(
        &self,
        object: &ObjectName,
        sent: Crc64Nvme,
        size: u64,
        answered: ObjectChecksum,
    ) -> Result<(), TransferError> {
        let (stored, stored_size) = match answered {
            ObjectChecksum::FullObject(_) => (answered, size),
            _ => {
                let info = self.head(object).await?;
                (info.checksum, info.size)
            }
        };
        if stored == ObjectChecksum::FullObject(sent) && stored_size == size {
            return Ok(());
        }
        // By now the object may be another executor's.
        let removed = loop {
            let removal = self.behind_gate(object, async {
                let delete = self.store.delete(object);
                within(self.options.response_timeout, "delete", object, delete).await
            });
            if let Some(removed) = removal.await? {
                break removed;
            }
        };
        if let Err(error) = removed {
            tracing::warn!("an object that is not as it was sent stays: {error}");
        }
        let stored = if stored_size == size {
            stored.to_string()
        } else {
            format!("{stored} and {stored_size} bytes instead of {size}")
        };
        Err(TransferError::NotConfirmed {
            object: object.clone(),
            sent,
            stored,
        })
    }

    async fn head(
        &self,
        object: &ObjectName,
    ) -> Result<crate::object_store::ObjectInfo, StoreError> {
        let mut attempts = Attempts::new(&self.options.retry, &self.counters);
        loop {
            let head = self.store.head(object);
            match within(self.options.response_timeout, "look up", object, head).await {
                Ok(info) => return Ok(info),
                Err(error) => attempts.wait_after(error).await?,
            }
        }
    }

    fn finish(&self, index: usize, object: &ObjectName, checksum: Crc64Nvme, size: u64) {
        let uploaded = Uploaded {
            object: object.clone(),
            checksum,
            size,
        };
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.push((index, uploaded));
        drop(sent);
        self.counters.finish_file();
    }
}
