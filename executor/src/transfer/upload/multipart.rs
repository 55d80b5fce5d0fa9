//! Multipart uploads: parts side by side, completed with the combined checksum, and aborted on every
//! other end.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cts_shared::crc64nvme::Crc64Nvme;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio_util::task::TaskTracker;

use super::{Uploads, Work};
use crate::object_store::{
    CompletedPart, ObjectChecksum, ObjectName, ObjectStore, StoreError, StoreErrorKind,
};
use crate::transfer::retry::Attempts;
use crate::transfer::source::OpenSource;
use crate::transfer::{TransferError, within};

/// [S3's limits](https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html).
const MAX_PARTS: u64 = 10_000;
const MAX_PART_BYTES: u64 = 5 * 1024 * 1024 * 1024;

const MIB: u64 = 1024 * 1024;

/// A file that is sent in parts.
#[derive(Debug)]
pub(super) struct LargeUpload {
    index: usize,
    source: OpenSource,
    part_bytes: u64,
    upload_id: String,
    parts: Mutex<Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    taken: u16,
    /// In order of arrival, each with its length.
    done: Vec<(CompletedPart, u64)>,
}

/// One part of the file.
#[derive(Debug)]
struct Part {
    number: u16,
    offset: u64,
    len: u64,
    is_last: bool,
}

/// Parts of at least `least` bytes, in whole MiB above that, and no more than 10,000 of them; `None`
/// for a file that S3 cannot hold.
fn part_size(size: u64, least: u64) -> Option<u64> {
    let needed = size.div_ceil(MAX_PARTS).div_ceil(MIB).checked_mul(MIB)?;
    let part_bytes = if size.div_ceil(least) <= MAX_PARTS {
        least
    } else {
        needed
    };
    (size <= MAX_PARTS * MAX_PART_BYTES).then_some(part_bytes)
}

impl LargeUpload {
    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_part(&self) -> Option<Part> {
        let mut parts = self.lock();
        let offset = u64::from(parts.taken) * self.part_bytes;
        let left = self
            .source
            .size()
            .checked_sub(offset)
            .filter(|left| *left > 0)?;
        parts.taken = parts.taken.checked_add(1)?;
        Some(Part {
            number: parts.taken,
            offset,
            len: left.min(self.part_bytes),
            is_last: left <= self.part_bytes,
        })
    }

    /// Notes a part; all of them in order and the checksum of the whole if it was the last to come.
    fn part_done(&self, part: CompletedPart, len: u64) -> Option<(Vec<CompletedPart>, Crc64Nvme)> {
        let mut parts = self.lock();
        parts.done.push((part, len));
        if parts.done.iter().map(|(_, len)| len).sum::<u64>() < self.source.size() {
            return None;
        }
        let mut done = std::mem::take(&mut parts.done);
        done.sort_unstable_by_key(|(part, _)| part.number);
        let whole = done.iter().fold(Crc64Nvme::EMPTY, |whole, (part, len)| {
            whole.combine(part.checksum, *len)
        });
        Some((done.into_iter().map(|(part, _)| part).collect(), whole))
    }
}

impl Uploads {
    pub(super) async fn begin_multipart(
        &self,
        index: usize,
        object: &ObjectName,
        source: OpenSource,
    ) -> Result<Arc<LargeUpload>, TransferError> {
        let Some(part_bytes) = part_size(source.size(), self.options.upload_part_bytes) else {
            return Err(TransferError::TooLarge {
                path: source.path().clone(),
                size: source.size(),
            });
        };
        let mut attempts = Attempts::new(&self.options.retry, &self.counters);
        let upload_id = loop {
            match self
                .open
                .create(object, self.options.response_timeout)
                .await
            {
                Ok(upload_id) => break upload_id,
                Err(error) => {
                    if !error.is_permanent() {
                        self.open.maybe_lost(object);
                    }
                    attempts.wait_after(error).await?;
                }
            }
        };
        Ok(Arc::new(LargeUpload {
            index,
            source,
            part_bytes,
            upload_id,
            parts: Mutex::default(),
        }))
    }

    pub(super) async fn send_next_part(
        &self,
        upload: Arc<LargeUpload>,
    ) -> Result<(), TransferError> {
        let (Some(part), Some(item)) = (upload.take_part(), self.items.get(upload.index)) else {
            return Ok(());
        };
        if !part.is_last {
            // Before the others: few files are open at a time.
            self.queue.push_front(Work::Continue(Arc::clone(&upload)));
        }
        let object = &item.object;
        let (body, checksum) = self.read(&upload.source, part.offset, part.len).await?;
        let mut attempts = Attempts::new(&self.options.retry, &self.counters);
        let etag = loop {
            let limit = self.send_limit(body.len(), &attempts);
            let send = self.store.upload_part(
                object,
                &upload.upload_id,
                part.number,
                body.clone(),
                checksum,
            );
            match within(limit, "upload a part of", object, send).await {
                Ok(etag) => break etag,
                Err(error) => {
                    self.wait_to_resend(&mut attempts, error, object, &body, checksum)
                        .await?;
                }
            }
        };
        // Back to the pool before anything else is waited for.
        drop(body);
        self.counters.add_bytes(part.len);
        let completed = CompletedPart {
            number: part.number,
            etag,
            checksum,
        };
        if let Some((parts, whole)) = upload.part_done(completed, part.len) {
            upload.source.check_unchanged()?;
            self.complete(&upload, object, &parts, whole).await?;
            self.finish(upload.index, object, whole, upload.source.size());
        }
        Ok(())
    }

    /// Makes the object. When the answer is lost, what the store has decides.
    async fn complete(
        &self,
        upload: &LargeUpload,
        object: &ObjectName,
        parts: &[CompletedPart],
        whole: Crc64Nvme,
    ) -> Result<(), TransferError> {
        const ACTION: &str = "complete the upload of";
        let size = upload.source.size();
        let mut attempts = Attempts::new(&self.options.retry, &self.counters);
        loop {
            // A store may join the parts only now.
            let limit = self.send_limit(0, &attempts) * 5;
            let complete = self.behind_gate(object, async {
                let upload_id = &upload.upload_id;
                let complete = self
                    .store
                    .complete_multipart(object, upload_id, parts, whole);
                within(limit, ACTION, object, complete).await
            });
            let Some(answer) = complete.await? else {
                continue;
            };
            let error = match answer {
                Ok(answered) => {
                    self.open.closed(&upload.upload_id);
                    return self.confirm(object, whole, size, answered).await;
                }
                Err(error) => error,
            };
            let may_be_done = match error.kind() {
                StoreErrorKind::Unavailable
                | StoreErrorKind::Throttled
                | StoreErrorKind::NotFound => true,
                // Every part was checked when it was sent: sending the same again is of no use.
                _ => return Err(error.into()),
            };
            if may_be_done {
                // Once: if this cannot be answered either, completing is tried again first.
                let head = self.store.head(object);
                let limit = self.options.response_timeout;
                // Still registered as open: aborting an upload that is complete does nothing.
                if let Ok(info) = within(limit, "look up", object, head).await
                    && info.checksum == ObjectChecksum::FullObject(whole)
                    && info.size == size
                {
                    return Ok(());
                }
            }
            attempts.wait_after(error).await?;
        }
    }
}

/// The multipart uploads that are open, so that none stays behind.
#[derive(Debug)]
pub(super) struct OpenUploads {
    store: Arc<dyn ObjectStore>,
    open: Arc<Mutex<BTreeMap<String, ObjectName>>>,
    /// Objects of which one more upload may be open, because the answer that had its id was lost.
    lost: Mutex<Vec<ObjectName>>,
    /// Requests that begin an upload are never dropped: the store may have heard them.
    creating: TaskTracker,
}

impl OpenUploads {
    pub(super) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            store,
            open: Arc::default(),
            lost: Mutex::default(),
            creating: TaskTracker::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, ObjectName>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an upload. Goes on when the caller gives up waiting, so that [`abort_all`](Self::abort_all)
    /// knows the id.
    async fn create(&self, object: &ObjectName, limit: Duration) -> Result<String, StoreError> {
        const ACTION: &str = "begin the upload of";
        let (store, open) = (Arc::clone(&self.store), Arc::clone(&self.open));
        let name = object.clone();
        let creating = self.creating.spawn(async move {
            let upload_id = within(limit, ACTION, &name, store.create_multipart(&name)).await?;
            let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
            open.insert(upload_id.clone(), name);
            Ok(upload_id)
        });
        creating.await.unwrap_or_else(|error| {
            let detail = error.to_string();
            Err(StoreError::new(
                StoreErrorKind::Other,
                ACTION,
                object,
                &detail,
            ))
        })
    }

    fn maybe_lost(&self, object: &ObjectName) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if !lost.contains(object) {
            lost.push(object.clone());
        }
    }

    fn closed(&self, upload_id: &str) {
        self.lock().remove(upload_id);
    }

    /// Aborts what is still open, within `limit`. What cannot be aborted is logged; the next attempt
    /// of this container, or the bucket's lifecycle rule, removes it.
    ///
    /// Of an upload whose id was lost nothing tells whether it is another executor's. So those are aborted
    /// only after `pass_gate`.
    pub(super) async fn abort_all(
        &self,
        limit: Duration,
        pass_gate: impl Future<Output = Result<(), TransferError>>,
    ) {
        self.creating.close();
        let all = async {
            // Those that are known first: a store that hangs on one request may answer others.
            self.abort_known().await;
            self.creating.wait().await;
            self.abort_known().await;
            let lost =
                std::mem::take(&mut *self.lost.lock().unwrap_or_else(PoisonError::into_inner));
            if lost.is_empty() || pass_gate.await.is_err() {
                return;
            }
            for object in &lost {
                self.abort_lost(object).await;
            }
        };
        if tokio::time::timeout(limit, all).await.is_err() {
            let open: Vec<_> = self.lock().values().map(ToString::to_string).collect();
            tracing::warn!(
                "multipart uploads may stay open, aborting them took longer than {limit:?}: {}",
                open.join(", ")
            );
        }
    }

    async fn abort_known(&self) {
        let open: Vec<_> = self.lock().clone().into_iter().collect();
        let aborts: FuturesUnordered<_> = open
            .iter()
            .map(|(upload_id, object)| self.abort(object, upload_id))
            .collect();
        aborts.collect::<()>().await;
    }

    async fn abort(&self, object: &ObjectName, upload_id: &str) {
        // Once more, because there is no later: this is the last word to the store.
        for is_last in [false, true] {
            match self.store.abort_multipart(object, upload_id).await {
                Ok(()) => return self.closed(upload_id),
                Err(error) if is_last => tracing::warn!("a multipart upload stays open: {error}"),
                Err(_) => {}
            }
        }
    }

    /// Aborts every upload of this very object: its key is this container's alone.
    async fn abort_lost(&self, object: &ObjectName) {
        match self.store.list_multipart(&object.bucket, &object.key).await {
            Ok(uploads) => {
                for upload in uploads.iter().filter(|upload| upload.object == *object) {
                    self.abort(object, &upload.upload_id).await;
                }
            }
            Err(error) => tracing::warn!("a multipart upload may stay open: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn part_sizes_at_the_limits() {
        let least = 16 * MIB;
        assert_eq!(part_size(17 * MIB, least), Some(least));
        assert_eq!(part_size(MAX_PARTS * least, least), Some(least));
        assert_eq!(part_size(MAX_PARTS * least + 1, least), Some(17 * MIB));
        let largest = MAX_PARTS * MAX_PART_BYTES;
        assert_eq!(part_size(largest, least), Some(MAX_PART_BYTES));
        assert_eq!(part_size(largest + 1, least), None);
        assert_eq!(part_size(u64::MAX, least), None);
    }

    proptest! {
        #[test]
        fn parts_are_never_too_many_too_small_or_too_large(size in 1..=MAX_PARTS * MAX_PART_BYTES) {
            let part = part_size(size, 16 * MIB).unwrap();
            prop_assert!(size.div_ceil(part) <= MAX_PARTS);
            prop_assert!((16 * MIB..=MAX_PART_BYTES).contains(&part));
        }
    }
}
