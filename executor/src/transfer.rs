//! The transfer engine: moves objects to files and files to objects, and hands out objects as streams, every
//! byte once, hashed as it passes.
//!
//! ```text
//!   downloads                                   uploads
//!   GET ─▶ chunk ─▶ CRC ─▶ pwrite               read ─▶ CRC ─▶ pooled buffer ─▶ PUT / part
//!    └ part by part, any order, into a           └ part by part; combined checksum completes
//!      partial file; CRCs combined, compared,      the multipart upload and is compared with
//!      then renamed into place                     what the store says it has
//! ```
//!
//! - **Work** is one queue of parts over all objects (`queue`), with a fixed number in flight.
//! - **Retries** are per part: a download goes on after the last byte that arrived (`retry`).
//! - **Memory** is bounded by [`TransferOptions`], not by file sizes or counts.
//! - **Threads** are its own ([`TransferRuntime`]): files are read and written inline there, so a
//!   stalled disk never stalls reports or signals. Any runtime may call and await the engine.
//! - **Failure** leaves nothing behind: no file that looks like a finished input, no open multipart
//!   upload, except where the store cannot be reached to abort it.

mod buffer;
mod download;
mod error;
mod options;
mod part;
mod partial;
mod queue;
mod retry;
mod runtime;
mod source;
mod stream;
mod upload;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cts_shared::crc64nvme::Crc64Nvme;
use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::object_store::{ObjectName, ObjectStore, StoreError, StoreErrorKind};
use crate::progress::Counters;

pub use error::TransferError;
pub use options::{RetryPolicy, TransferOptions};
pub use runtime::TransferRuntime;
pub use source::Source;
pub use stream::ObjectStream;

/// How much longer than its time limit a clean-up may take before it is given up.
const CLEANUP_SLACK: Duration = Duration::from_millis(200);

/// An object to fetch.
#[derive(Debug, Clone)]
pub struct Download {
    /// The object.
    pub object: ObjectName,
    /// Where it goes, relative to the input root: plain names separated by `/`.
    pub destination: PathBuf,
    /// What its bytes must have.
    pub expected: Crc64Nvme,
}

/// An object to read in order.
#[derive(Debug, Clone)]
pub struct StreamRequest {
    /// The object.
    pub object: ObjectName,
    /// What its bytes must have.
    pub expected: Crc64Nvme,
    /// What its bytes had at the first try, if this is the second: no connection of the first is used then.
    pub earlier: Option<Crc64Nvme>,
}

/// A file to send.
#[derive(Debug, Clone)]
pub struct Upload {
    /// The file.
    pub source: Source,
    /// Where it goes; an existing object is overwritten.
    pub object: ObjectName,
}

/// A file that was sent and whose checksum the store confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploaded {
    /// The object.
    pub object: ObjectName,
    /// The checksum of its bytes.
    pub checksum: Crc64Nvme,
    /// Its size in bytes.
    pub size: u64,
}

/// Says whether this process may still change what others see in the store. Asked before each request that
/// makes an object visible or removes one (PUT, completing a multipart upload, DELETE), which is broken off when
/// that becomes uncertain, and before uploads are aborted that may be another's.
pub trait PublishGate: Send + Sync + std::fmt::Debug {
    /// Waits until it is known. Cancel safe.
    ///
    /// # Errors
    /// [`Closed`] when it may not any more.
    fn pass(&self) -> BoxFuture<'_, Result<(), Closed>>;

    /// Waits until it is not known any more: [`pass`](Self::pass) would not say yes at once. Cancel safe.
    fn lapsed(&self) -> BoxFuture<'_, ()>;
}

/// A [`PublishGate`] lets nothing through any more; who closed it knows why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

/// What a download moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Files written.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// The engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TransferEngine {
    store: Arc<dyn ObjectStore>,
    options: Arc<TransferOptions>,
    handle: Handle,
    gate: Option<Arc<dyn PublishGate>>,
}

impl TransferEngine {
    /// An engine that works on `runtime`'s threads.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        options: TransferOptions,
        runtime: &TransferRuntime,
    ) -> Self {
        Self {
            store,
            options: Arc::new(options),
            handle: runtime.handle().clone(),
            gate: None,
        }
    }

    /// The same engine, whose uploads ask `gate`.
    #[must_use]
    pub fn with_gate(mut self, gate: Arc<dyn PublishGate>) -> Self {
        self.gate = Some(gate);
        self
    }

    /// Fetches all objects to files below `input_root`, an existing directory that nobody else
    /// writes to, and checks each against its checksum. All or nothing is renamed into place object
    /// by object; on failure or cancellation partial files are removed, finished ones stay.
    ///
    /// Not cancel safe in the sense of undoing work: use `cancel`, which ends it within a second.
    ///
    /// # Errors
    /// The first failure that retries could not mend, or [`TransferError::Cancelled`].
    pub async fn download(
        &self,
        items: Vec<Download>,
        input_root: PathBuf,
        counters: Arc<Counters>,
        cancel: &CancellationToken,
    ) -> Result<Summary, TransferError> {
        let (store, options) = (Arc::clone(&self.store), Arc::clone(&self.options));
        let stop = cancel.child_token();
        self.on_own_threads(stop.clone(), async move {
            download::run(store, options, items, input_root, counters, stop).await
        })
        .await
    }

    /// Begins to read an object in order, with a few parts fetched ahead. The size is known when this returns.
    /// Cancel safe.
    ///
    /// # Errors
    /// What its first request ended with, or [`TransferError::Cancelled`].
    pub async fn stream(
        &self,
        request: StreamRequest,
        counters: Arc<Counters>,
        cancel: &CancellationToken,
    ) -> Result<ObjectStream, TransferError> {
        let (store, options) = (Arc::clone(&self.store), Arc::clone(&self.options));
        let (handle, stop) = (self.handle.clone(), cancel.child_token());
        self.on_own_threads(cancel.child_token(), async move {
            ObjectStream::open(store, options, handle, request, counters, stop).await
        })
        .await
    }

    /// Sends all files; returns what was sent in the order of `items`. On failure or cancellation
    /// open multipart uploads are aborted; objects already complete stay.
    ///
    /// # Errors
    /// The first failure that retries could not mend, [`TransferError::Closed`], or
    /// [`TransferError::Cancelled`].
    pub async fn upload(
        &self,
        items: Vec<Upload>,
        counters: Arc<Counters>,
        cancel: &CancellationToken,
    ) -> Result<Vec<Uploaded>, TransferError> {
        let (store, options) = (Arc::clone(&self.store), Arc::clone(&self.options));
        let (gate, stop) = (self.gate.clone(), cancel.child_token());
        self.on_own_threads(stop.clone(), async move {
            upload::run(store, options, gate, items, counters, stop).await
        })
        .await
    }

    /// Aborts the multipart uploads that an earlier, killed run left open below `prefix` (a key
    /// prefix that is this container's alone); returns how many.
    ///
    /// # Errors
    /// When the store cannot list or abort them.
    pub async fn abort_orphans(&self, bucket: &str, prefix: &str) -> Result<usize, StoreError> {
        let (store, limit) = (Arc::clone(&self.store), self.options.response_timeout);
        let below = ObjectName::new(bucket, prefix);
        let target = below.clone();
        let gate = self.gate.clone();
        let work = self.handle.spawn(async move {
            let list = store.list_multipart(&below.bucket, &below.key);
            let open = within(limit, "list the open uploads below", &below, list).await?;
            // They may be another executor's by now.
            if let (Some(gate), false) = (gate, open.is_empty())
                && gate.pass().await == Err(Closed)
            {
                return Ok(0);
            }
            for upload in &open {
                let abort = store.abort_multipart(&upload.object, &upload.upload_id);
                within(limit, "abort the upload of", &upload.object, abort).await?;
            }
            Ok(open.len())
        });
        work.await.unwrap_or_else(|error| {
            let detail = error.to_string();
            let kind = StoreErrorKind::Other;
            Err(StoreError::new(
                kind,
                "abort the uploads below",
                &target,
                &detail,
            ))
        })
    }

    /// Runs `work` on the engine's threads; ends soon after `stop` even when a disk does not answer.
    async fn on_own_threads<T: Send + 'static>(
        &self,
        stop: CancellationToken,
        work: impl Future<Output = Result<T, TransferError>> + Send + 'static,
    ) -> Result<T, TransferError> {
        // A caller that drops this future stops the work too.
        let _stop_when_dropped = stop.clone().drop_guard();
        let mut work = self.handle.spawn(work);
        let finished = tokio::select! {
            finished = &mut work => finished,
            () = stop.cancelled() => {
                let limit = self.options.cleanup_timeout + CLEANUP_SLACK;
                match timeout(limit, work).await {
                    Ok(finished) => finished,
                    Err(_) => {
                        tracing::warn!("a transfer did not end within {limit:?}: the disk hangs");
                        return Err(TransferError::Cancelled);
                    }
                }
            }
        };
        finished.unwrap_or_else(|error| {
            Err(TransferError::Internal {
                cause: error.to_string(),
            })
        })
    }
}

/// Waits for all workers. The first failure stops the others and is the one returned: what they say
/// after that is only that they were stopped.
async fn first_failure(
    mut workers: JoinSet<Result<(), TransferError>>,
    stop: &CancellationToken,
) -> Result<(), TransferError> {
    let mut first = Ok(());
    while let Some(joined) = workers.join_next().await {
        let result = joined.unwrap_or_else(|error| {
            Err(TransferError::Internal {
                cause: error.to_string(),
            })
        });
        if first.is_ok() && result.is_err() {
            first = result;
            stop.cancel();
        }
    }
    first
}

/// A call of the store with a time limit.
async fn within<T>(
    limit: Duration,
    action: &'static str,
    object: &ObjectName,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    timeout(limit, call).await.unwrap_or_else(|_| {
        let detail = format!("no answer within {limit:?}");
        let kind = StoreErrorKind::Unavailable;
        Err(StoreError::new(kind, action, object, &detail))
    })
}
