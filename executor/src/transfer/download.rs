//! Objects to files.
//!
//! The first GET of an object asks for its first part and tells its size, so small objects need one
//! request and no HEAD. First parts go before all others: the space that everything needs is known
//! after one part of each, and checked each time it grows, before a byte of the new object is
//! written.

mod large;
mod space;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use cts_shared::crc64nvme::{Crc64Nvme, Crc64NvmeHasher};
use futures::StreamExt;
use tokio::task::JoinSet;
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;

use super::options::TransferOptions;
use super::partial::InputTree;
use super::queue::WorkQueue;
use super::retry::{Attempts, Watchdog};
use super::{Download, Summary, TransferError};
use crate::object_store::{GetRequest, GetResponse, ObjectStore, StoreError, StoreErrorKind};
use crate::progress::Counters;
use large::LargeObject;
use space::Space;

pub(super) async fn run(
    store: Arc<dyn ObjectStore>,
    options: Arc<TransferOptions>,
    items: Vec<Download>,
    input_root: PathBuf,
    counters: Arc<Counters>,
    cancel: CancellationToken,
) -> Result<Summary, TransferError> {
    counters.expect(items.len() as u64, 0);
    let tree = InputTree::prepare(&input_root, &items)?;
    let firsts = (0..items.len()).map(|index| Work::Begin {
        index,
        earlier: None,
    });
    let downloads = Arc::new(Downloads {
        queue: WorkQueue::new(firsts),
        space: Space::new(options.reserve_bytes),
        store,
        options,
        tree,
        items,
        counters,
    });
    let stop = cancel.child_token();
    let mut workers = JoinSet::new();
    for _ in 0..downloads.options.download_concurrency.max(1) {
        let (downloads, stop) = (Arc::clone(&downloads), stop.clone());
        workers.spawn(async move {
            let work = stop.run_until_cancelled(downloads.work());
            work.await.unwrap_or(Err(TransferError::Cancelled))
        });
    }
    let result = super::first_failure(workers, &stop).await;
    downloads.tree.remove_partials();
    result?;
    Ok(Summary {
        files: downloads.items.len() as u64,
        bytes: downloads.space.written(),
    })
}

/// What the workers share.
#[derive(Debug)]
struct Downloads {
    store: Arc<dyn ObjectStore>,
    options: Arc<TransferOptions>,
    items: Vec<Download>,
    tree: InputTree,
    queue: WorkQueue<Work>,
    space: Space,
    counters: Arc<Counters>,
}

#[derive(Debug)]
enum Work {
    /// Fetch an object's first part, or all of it.
    Begin {
        index: usize,
        /// 1, or 2 after a mismatch.
        /// What its bytes had at the first try, if this is the second.
        earlier: Option<Crc64Nvme>,
    },
    /// Fetch another part.
    Continue(Arc<LargeObject>),
}

/// An object as it was when its first byte came.
#[derive(Debug, Clone)]
struct Version {
    size: u64,
    etag: Option<String>,
    last_modified: Option<String>,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unknown = "unknown";
        write!(
            f,
            "{} bytes, ETag {}, last modified {}",
            self.size,
            // S3 puts an ETag into quotes; here they only clutter.
            self.etag
                .as_deref()
                .unwrap_or(unknown)
                .trim_matches('"')
                .escape_debug(),
            self.last_modified
                .as_deref()
                .unwrap_or(unknown)
                .escape_debug()
        )
    }
}

/// Where a part comes from: one version of one object.
#[derive(Debug, Clone, Copy)]
struct Origin<'a> {
    item: &'a Download,
    version: &'a Version,
    fresh_connection: bool,
}

impl Downloads {
    async fn work(&self) -> Result<(), TransferError> {
        while let Some((work, _taken)) = self.queue.next().await {
            match work {
                Work::Begin { index, earlier } => self.begin(index, earlier).await?,
                Work::Continue(object) => self.fetch_next_part(object).await?,
            }
        }
        Ok(())
    }

    async fn begin(&self, index: usize, earlier: Option<Crc64Nvme>) -> Result<(), TransferError> {
        let Some(item) = self.items.get(index) else {
            return Ok(());
        };
        let fresh_connection = earlier.is_some();
        let response = self.first_answer(item, fresh_connection).await?;
        let version = Version {
            size: response.object_size,
            etag: response.etag.clone(),
            last_modified: response.last_modified.clone(),
        };
        if earlier.is_none() {
            self.counters.expect(0, version.size);
            self.space.need(version.size, &self.tree)?;
        }
        let file = self
            .tree
            .create(index)
            .map_err(|cause| self.local("create the partial file of", item, cause))?;
        // A store that ignores ranges sends everything at once.
        let first_part = 0..version.size.min(response.range.end);
        let rest = LargeObject::new(index, earlier, version.clone(), first_part.end);
        if first_part.end < version.size {
            self.queue.push_back(Work::Continue(Arc::clone(&rest)));
        }
        let origin = Origin {
            item,
            version: &version,
            fresh_connection,
        };
        let checksum = self
            .fetch_part(origin, &file, first_part.clone(), Some(response))
            .await?;
        drop(file);
        self.part_done(&rest, first_part, checksum)
    }

    async fn fetch_next_part(&self, object: Arc<LargeObject>) -> Result<(), TransferError> {
        let Some((part, is_last)) = object.take_part(self.options.part_bytes) else {
            return Ok(());
        };
        if !is_last {
            self.queue.push_front(Work::Continue(Arc::clone(&object)));
        }
        let Some(item) = self.items.get(object.index) else {
            return Ok(());
        };
        let file = self
            .tree
            .reopen(object.index)
            .map_err(|cause| self.local("open the partial file of", item, cause))?;
        let origin = Origin {
            item,
            version: &object.version,
            fresh_connection: object.earlier.is_some(),
        };
        let checksum = self.fetch_part(origin, &file, part.clone(), None).await?;
        drop(file);
        self.part_done(&object, part, checksum)
    }

    fn part_done(
        &self,
        object: &LargeObject,
        part: Range<u64>,
        checksum: Crc64Nvme,
    ) -> Result<(), TransferError> {
        match object.part_done(part, checksum) {
            Some(checksum) => self.finish(object, checksum),
            None => Ok(()),
        }
    }

    /// All bytes are there: compares, and gives the file its name or fetches it once more.
    fn finish(&self, object: &LargeObject, actual: Crc64Nvme) -> Result<(), TransferError> {
        let Some(item) = self.items.get(object.index) else {
            return Ok(());
        };
        if actual == item.expected {
            self.tree
                .place(object.index, &item.destination)
                .map_err(|cause| self.local("put into place", item, cause))?;
            self.counters.finish_file();
            return Ok(());
        }
        let mismatch = TransferError::ChecksumMismatch {
            object: item.object.clone(),
            expected: item.expected,
            actual,
            version: object.version.to_string(),
            // The same wrong bytes twice are what the store has; others were damaged on the way.
            is_other_content: object.earlier == Some(actual),
        };
        // Once more: a bit can flip on the way. Not twice: then the object itself is another one.
        if object.earlier.is_some() {
            return Err(mismatch);
        }
        tracing::warn!("{mismatch}; fetching it once more on a new connection");
        self.counters.count_retry();
        self.counters.take_back_bytes(object.version.size);
        self.space.take_back(object.version.size);
        self.queue.push_front(Work::Begin {
            index: object.index,
            earlier: Some(actual),
        });
        Ok(())
    }

    /// The answer to an object's first GET.
    async fn first_answer(
        &self,
        item: &Download,
        fresh_connection: bool,
    ) -> Result<GetResponse, TransferError> {
        let first_part = 0..self.options.first_part_bytes.max(1);
        // Of an empty object no range can be had.
        let mut range = (item.expected != Crc64Nvme::EMPTY).then_some(first_part);
        let mut attempts = Attempts::new(&self.options.retry, &self.counters);
        loop {
            let request = GetRequest {
                object: &item.object,
                range: range.clone(),
                if_match: None,
                fresh_connection,
            };
            match self.request(request).await {
                Ok(response) if response.range.start == 0 => return Ok(response),
                Ok(_) => return Err(wrong_range(item).into()),
                Err(error) if error.kind() == StoreErrorKind::InvalidRange && range.is_some() => {
                    range = None;
                }
                Err(error) => attempts.wait_after(error).await?,
            }
        }
    }

    /// Writes a part to its place in the file; returns its checksum. A try goes on where the last
    /// one ended, with the checksum carried over.
    async fn fetch_part(
        &self,
        origin: Origin<'_>,
        file: &File,
        part: Range<u64>,
        mut response: Option<GetResponse>,
    ) -> Result<Crc64Nvme, TransferError> {
        let mut attempts = Attempts::new(&self.options.retry, &self.counters);
        let mut hasher = Crc64NvmeHasher::new();
        let mut at = part.start;
        loop {
            let begun_at = at;
            let range = at..part.end;
            let received = match response.take() {
                Some(response) => {
                    self.receive(origin, file, response, range, &mut at, &mut hasher)
                        .await
                }
                None if range.is_empty() => Ok(()),
                None => {
                    let request = GetRequest {
                        object: &origin.item.object,
                        range: Some(range.clone()),
                        if_match: origin.version.etag.as_deref(),
                        fresh_connection: origin.fresh_connection,
                    };
                    match self.request(request).await {
                        Ok(response) => {
                            self.receive(origin, file, response, range, &mut at, &mut hasher)
                                .await
                        }
                        Err(error) => Err(error.into()),
                    }
                }
            };
            match received {
                Ok(()) => return Ok(hasher.finish()),
                Err(TransferError::Store(error)) => {
                    if matches!(
                        error.kind(),
                        StoreErrorKind::Changed | StoreErrorKind::InvalidRange
                    ) {
                        return Err(changed(origin));
                    }
                    // Bytes that come by drops are no progress.
                    if at - begun_at >= self.options.stall_min_bytes {
                        attempts.made_progress();
                    }
                    attempts.wait_after(error).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn request(&self, request: GetRequest<'_>) -> Result<GetResponse, StoreError> {
        let (object, limit) = (request.object, self.options.response_timeout);
        super::within(limit, "get", object, self.store.get(request)).await
    }

    /// Writes what comes, up to the end of `range`. `at` and `hasher` say how far it got, also when
    /// it fails.
    async fn receive(
        &self,
        origin: Origin<'_>,
        file: &File,
        mut response: GetResponse,
        range: Range<u64>,
        at: &mut u64,
        hasher: &mut Crc64NvmeHasher,
    ) -> Result<(), TransferError> {
        let item = origin.item;
        let unavailable = |detail: &str| {
            StoreError::new(StoreErrorKind::Unavailable, "get", &item.object, detail)
        };
        if response.object_size != origin.version.size || response.etag != origin.version.etag {
            return Err(changed(origin));
        }
        if response.range.start != range.start {
            return Err(wrong_range(item).into());
        }
        let mut watchdog = Watchdog::new(&self.options);
        while *at < range.end {
            let next = timeout_at(watchdog.deadline(), response.body.next()).await;
            let Ok(next) = next else {
                let window = self.options.stall_window;
                let detail = format!("the transfer stalled at byte {at} for {window:?}");
                return Err(unavailable(&detail).into());
            };
            let Some(chunk) = next else {
                let detail = format!("the answer ended at byte {at} instead of {}", range.end);
                return Err(unavailable(&detail).into());
            };
            let mut chunk = chunk?;
            chunk.truncate(usize::try_from(range.end - *at).unwrap_or(usize::MAX));
            file.write_all_at(&chunk, *at)
                .map_err(|cause| self.local("write the partial file of", item, cause))?;
            hasher.update(&chunk);
            let len = chunk.len() as u64;
            *at += len;
            self.space.wrote(len);
            self.counters.add_bytes(len);
            watchdog.saw(len);
        }
        Ok(())
    }

    fn local(&self, action: &'static str, item: &Download, cause: io::Error) -> TransferError {
        if matches!(
            cause.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ) {
            return self.space.exhausted(&self.tree);
        }
        TransferError::Local {
            action,
            path: self.tree.path().join(&item.destination),
            cause,
        }
    }
}

fn changed(origin: Origin<'_>) -> TransferError {
    TransferError::InputChanged {
        object: origin.item.object.clone(),
        version: origin.version.to_string(),
    }
}

fn wrong_range(item: &Download) -> StoreError {
    let detail = "it answered with another range than was asked for";
    StoreError::new(StoreErrorKind::Other, "get", &item.object, detail)
}
