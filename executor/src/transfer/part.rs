//! One part of one version of an object, fetched whatever the connection does: a try goes on where the last
//! one ended, and a part of another version is never taken for one of this.

use std::ops::Range;
use std::sync::Arc;

use cts_shared::crc64nvme::{Crc64Nvme, Crc64NvmeHasher};
use futures::StreamExt;
use tokio::time::timeout_at;

use super::TransferError;
use super::options::TransferOptions;
use super::retry::{Attempts, Watchdog};
use crate::object_store::{
    GetRequest, GetResponse, ObjectName, ObjectStore, StoreError, StoreErrorKind,
};
use crate::progress::Counters;

/// An object as it was when its first byte came.
#[derive(Debug, Clone)]
pub(super) struct Version {
    pub(super) size: u64,
    pub(super) etag: Option<String>,
    last_modified: Option<String>,
}

impl Version {
    /// The version that an answer comes from.
    pub(super) fn of(response: &GetResponse) -> Self {
        Self {
            size: response.object_size,
            etag: response.etag.clone(),
            last_modified: response.last_modified.clone(),
        }
    }
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
pub(super) struct Origin<'a> {
    pub(super) object: &'a ObjectName,
    pub(super) version: &'a Version,
    pub(super) fresh_connection: bool,
}

/// Takes bytes of a part: where they begin in the object, and the bytes. They come in order, once.
pub(super) type Take<'a> = &'a mut (dyn FnMut(u64, &[u8]) -> Result<(), TransferError> + Send);

/// Fetches parts.
#[derive(Debug, Clone)]
pub(super) struct PartFetcher {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) options: Arc<TransferOptions>,
    pub(super) counters: Arc<Counters>,
}

impl PartFetcher {
    /// The answer to an object's first GET, which asks for its first `part_bytes`. The object is known to
    /// have `expected`, if it still is the one that is meant.
    pub(super) async fn first_answer(
        &self,
        object: &ObjectName,
        expected: Crc64Nvme,
        part_bytes: u64,
        fresh_connection: bool,
    ) -> Result<GetResponse, TransferError> {
        let first_part = 0..part_bytes.max(1);
        // Of an empty object no range can be had.
        let mut range = (expected != Crc64Nvme::EMPTY).then_some(first_part);
        let mut attempts = Attempts::new(&self.options.retry, &self.counters);
        loop {
            let request = GetRequest {
                object,
                range: range.clone(),
                if_match: None,
                fresh_connection,
            };
            match self.request(request).await {
                Ok(response) if response.range.start == 0 => return Ok(response),
                Ok(_) => return Err(wrong_range(object).into()),
                Err(error) if error.kind() == StoreErrorKind::InvalidRange && range.is_some() => {
                    range = None;
                }
                Err(error) => attempts.wait_after(error).await?,
            }
        }
    }

    /// Hands a part to `take` and returns its checksum. A try goes on where the last one ended, with the
    /// checksum carried over. The first bytes come from `response`, if there is one already.
    pub(super) async fn fetch(
        &self,
        origin: Origin<'_>,
        part: Range<u64>,
        mut response: Option<GetResponse>,
        take: Take<'_>,
    ) -> Result<Crc64Nvme, TransferError> {
        let mut attempts = Attempts::new(&self.options.retry, &self.counters);
        let mut progress = Progress {
            at: part.start,
            hasher: Crc64NvmeHasher::new(),
        };
        loop {
            let begun_at = progress.at;
            let range = begun_at..part.end;
            let received = match response.take() {
                Some(response) => {
                    self.receive(origin, response, range, &mut progress, take)
                        .await
                }
                None if range.is_empty() => Ok(()),
                None => {
                    let request = GetRequest {
                        object: origin.object,
                        range: Some(range.clone()),
                        if_match: origin.version.etag.as_deref(),
                        fresh_connection: origin.fresh_connection,
                    };
                    match self.request(request).await {
                        Ok(response) => {
                            self.receive(origin, response, range, &mut progress, take)
                                .await
                        }
                        Err(error) => Err(error.into()),
                    }
                }
            };
            match received {
                Ok(()) => return Ok(progress.hasher.finish()),
                Err(TransferError::Store(error)) => {
                    if matches!(
                        error.kind(),
                        StoreErrorKind::Changed | StoreErrorKind::InvalidRange
                    ) {
                        return Err(changed(origin));
                    }
                    // Bytes that come by drops are no progress.
                    if progress.at - begun_at >= self.options.stall_min_bytes {
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

    /// Hands on what comes, up to the end of `range`. `progress` says how far it got, also when it fails.
    async fn receive(
        &self,
        origin: Origin<'_>,
        mut response: GetResponse,
        range: Range<u64>,
        progress: &mut Progress,
        take: Take<'_>,
    ) -> Result<(), TransferError> {
        let unavailable = |detail: &str| {
            StoreError::new(StoreErrorKind::Unavailable, "get", origin.object, detail)
        };
        if response.object_size != origin.version.size || response.etag != origin.version.etag {
            return Err(changed(origin));
        }
        if response.range.start != range.start {
            return Err(wrong_range(origin.object).into());
        }
        let mut watchdog = Watchdog::new(&self.options);
        while progress.at < range.end {
            let at = progress.at;
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
            chunk.truncate(usize::try_from(range.end - at).unwrap_or(usize::MAX));
            take(at, &chunk)?;
            progress.hasher.update(&chunk);
            let len = chunk.len() as u64;
            progress.at += len;
            self.counters.add_bytes(len);
            watchdog.saw(len);
        }
        Ok(())
    }
}

/// How far a part is.
struct Progress {
    /// The next byte of the object.
    at: u64,
    /// Has seen all before it.
    hasher: Crc64NvmeHasher,
}

fn changed(origin: Origin<'_>) -> TransferError {
    TransferError::InputChanged {
        object: origin.object.clone(),
        version: origin.version.to_string(),
    }
}

fn wrong_range(object: &ObjectName) -> StoreError {
    let detail = "it answered with another range than was asked for";
    StoreError::new(StoreErrorKind::Other, "get", object, detail)
}
