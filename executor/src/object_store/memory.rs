//! A store in memory, for tests: complete, strict about checksums, and able to show what was left
//! behind.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cts_shared::crc64nvme::Crc64Nvme;
use futures::FutureExt;
use futures::future::ready;

use super::{
    CompletedPart, GetRequest, GetResponse, ObjectChecksum, ObjectInfo, ObjectName, ObjectStore,
    OpenUpload, StoreError, StoreErrorKind, StoreFuture,
};

/// Bodies come in chunks of this many bytes unless told otherwise.
const DEFAULT_CHUNK_BYTES: usize = 64 * 1024;

/// The store. Buckets are made with [`create_bucket`](Self::create_bucket).
#[derive(Debug)]
pub struct MemoryStore {
    contents: Mutex<Contents>,
    chunk_bytes: usize,
}

#[derive(Debug, Default)]
struct Contents {
    buckets: BTreeMap<String, BTreeMap<String, Stored>>,
    uploads: BTreeMap<String, Upload>,
    writes: u64,
}

#[derive(Debug, Clone)]
struct Stored {
    body: Bytes,
    etag: String,
    checksum: ObjectChecksum,
    last_modified: String,
}

#[derive(Debug)]
struct Upload {
    object: ObjectName,
    parts: BTreeMap<u16, (Bytes, String, Crc64Nvme)>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self {
            contents: Mutex::default(),
            chunk_bytes: DEFAULT_CHUNK_BYTES,
        }
    }
}

impl MemoryStore {
    /// An empty store with these buckets.
    #[must_use]
    pub fn with_buckets(buckets: &[&str]) -> Self {
        let store = Self::default();
        for bucket in buckets {
            store.create_bucket(bucket);
        }
        store
    }

    /// Bodies come in chunks of at most this many bytes (at least one).
    #[must_use]
    pub fn with_chunk_bytes(mut self, chunk_bytes: usize) -> Self {
        self.chunk_bytes = chunk_bytes.max(1);
        self
    }

    /// Makes a bucket; nothing happens if it exists.
    pub fn create_bucket(&self, bucket: &str) {
        self.lock().buckets.entry(bucket.to_owned()).or_default();
    }

    /// Puts an object there as if someone else had, with the checksum that the store will report.
    /// Makes the bucket if need be.
    pub fn insert(&self, object: &ObjectName, body: impl Into<Bytes>, checksum: ObjectChecksum) {
        let mut contents = self.lock();
        contents.buckets.entry(object.bucket.clone()).or_default();
        contents.write(object, body.into(), checksum);
    }

    /// An object's bytes.
    #[must_use]
    pub fn object(&self, object: &ObjectName) -> Option<Bytes> {
        let contents = self.lock();
        let stored = contents.buckets.get(&object.bucket)?.get(&object.key)?;
        Some(stored.body.clone())
    }

    /// The names of all objects.
    #[must_use]
    pub fn objects(&self) -> Vec<ObjectName> {
        let contents = self.lock();
        let names = contents.buckets.iter().flat_map(|(bucket, objects)| {
            objects.keys().map(|key| ObjectName::new(bucket.clone(), key.clone()))
        });
        names.collect()
    }

    /// How many multipart uploads are open.
    #[must_use]
    pub fn open_uploads(&self) -> usize {
        self.lock().uploads.len()
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    fn stored(&self, action: &'static str, object: &ObjectName) -> Result<&Stored, StoreError> {
        let Some(objects) = self.buckets.get(&object.bucket) else {
            let kind = StoreErrorKind::BucketMissing;
            return Err(StoreError::new(kind, action, object, ""));
        };
        objects
            .get(&object.key)
            .ok_or_else(|| StoreError::new(StoreErrorKind::NotFound, action, object, ""))
    }

    fn write(&mut self, object: &ObjectName, body: Bytes, checksum: ObjectChecksum) {
        self.writes += 1;
        let stored = Stored {
            body,
            etag: format!("\"{}\"", self.writes),
            checksum,
            last_modified: format!("2026-01-01T00:00:{:02}Z", self.writes % 60),
        };
        if let Some(objects) = self.buckets.get_mut(&object.bucket) {
            objects.insert(object.key.clone(), stored);
        }
    }

    fn upload(
        &mut self,
        action: &'static str,
        object: &ObjectName,
        upload_id: &str,
    ) -> Result<&mut Upload, StoreError> {
        self.uploads
            .get_mut(upload_id)
            .filter(|upload| upload.object == *object)
            .ok_or_else(|| {
                StoreError::new(StoreErrorKind::NotFound, action, object, "NoSuchUpload")
            })
    }

    fn bucket_exists(&self, action: &'static str, object: &ObjectName) -> Result<(), StoreError> {
        if self.buckets.contains_key(&object.bucket) {
            return Ok(());
        }
        Err(StoreError::new(StoreErrorKind::BucketMissing, action, object, ""))
    }
}

fn check(
    action: &'static str,
    object: &ObjectName,
    actual: Crc64Nvme,
    given: Crc64Nvme,
) -> Result<(), StoreError> {
    if actual == given {
        return Ok(());
    }
    let detail = format!("BadDigest: {given} was sent, the bytes have {actual}");
    Err(StoreError::new(StoreErrorKind::ChecksumRefused, action, object, &detail))
}

impl ObjectStore for MemoryStore {
    fn head<'a>(&'a self, object: &'a ObjectName) -> StoreFuture<'a, ObjectInfo> {
        let result = self.lock().stored("look up", object).map(|stored| ObjectInfo {
            size: stored.body.len() as u64,
            etag: Some(stored.etag.clone()),
            checksum: stored.checksum.clone(),
            last_modified: Some(stored.last_modified.clone()),
        });
        ready(result).boxed()
    }

    fn get<'a>(&'a self, request: GetRequest<'a>) -> StoreFuture<'a, GetResponse> {
        let object = request.object;
        let result = self.lock().stored("get", object).cloned().and_then(|stored| {
            if request.if_match.is_some_and(|etag| etag != stored.etag) {
                return Err(StoreError::new(StoreErrorKind::Changed, "get", object, ""));
            }
            let size = stored.body.len() as u64;
            let range = match request.range {
                None => 0..size,
                Some(range) if range.start < size => range.start..range.end.min(size),
                Some(_) => {
                    let kind = StoreErrorKind::InvalidRange;
                    return Err(StoreError::new(kind, "get", object, ""));
                }
            };
            let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(stored.body.len());
            let body = stored.body.slice(index(range.start)..index(range.end));
            let starts = (0..body.len()).step_by(self.chunk_bytes);
            let chunks: Vec<_> = starts
                .map(|start| Ok(body.slice(start..body.len().min(start + self.chunk_bytes))))
                .collect();
            Ok(GetResponse {
                range,
                object_size: size,
                etag: Some(stored.etag),
                last_modified: Some(stored.last_modified),
                body: Box::pin(futures::stream::iter(chunks)),
            })
        });
        ready(result).boxed()
    }

    fn put<'a>(
        &'a self,
        object: &'a ObjectName,
        body: Bytes,
        checksum: Crc64Nvme,
    ) -> StoreFuture<'a, ObjectChecksum> {
        let mut contents = self.lock();
        let result = contents
            .bucket_exists("put", object)
            .and_then(|()| check("put", object, Crc64Nvme::of(&body), checksum))
            .map(|()| {
                let checksum = ObjectChecksum::FullObject(checksum);
                // A copy: the body may lie in a buffer that its owner wants back.
                let body = Bytes::copy_from_slice(&body);
                contents.write(object, body, checksum.clone());
                checksum
            });
        ready(result).boxed()
    }

    fn create_multipart<'a>(&'a self, object: &'a ObjectName) -> StoreFuture<'a, String> {
        let mut contents = self.lock();
        let result = contents
            .bucket_exists("begin the multipart upload of", object)
            .map(|()| {
                contents.writes += 1;
                let upload_id = format!("upload-{}", contents.writes);
                let upload = Upload {
                    object: object.clone(),
                    parts: BTreeMap::new(),
                };
                contents.uploads.insert(upload_id.clone(), upload);
                upload_id
            });
        ready(result).boxed()
    }

    fn upload_part<'a>(
        &'a self,
        object: &'a ObjectName,
        upload_id: &'a str,
        number: u16,
        body: Bytes,
        checksum: Crc64Nvme,
    ) -> StoreFuture<'a, String> {
        const ACTION: &str = "upload a part of";
        let result = check(ACTION, object, Crc64Nvme::of(&body), checksum).and_then(|()| {
            let mut contents = self.lock();
            let upload = contents.upload(ACTION, object, upload_id)?;
            let etag = format!("\"part-{number}-{checksum}\"");
            // A copy, as in `put`.
            let body = Bytes::copy_from_slice(&body);
            upload.parts.insert(number, (body, etag.clone(), checksum));
            Ok(etag)
        });
        ready(result).boxed()
    }

    fn complete_multipart<'a>(
        &'a self,
        object: &'a ObjectName,
        upload_id: &'a str,
        parts: &'a [CompletedPart],
        checksum: Crc64Nvme,
    ) -> StoreFuture<'a, ObjectChecksum> {
        const ACTION: &str = "complete the upload of";
        let mut contents = self.lock();
        let body = contents.upload(ACTION, object, upload_id).and_then(|upload| {
            let mut body = Vec::new();
            let mut previous = 0;
            for part in parts {
                let kept = upload.parts.get(&part.number).filter(|(_, etag, checksum)| {
                    *etag == part.etag && *checksum == part.checksum && part.number > previous
                });
                let Some((bytes, ..)) = kept else {
                    let detail = format!("InvalidPart: {}", part.number);
                    let kind = StoreErrorKind::Other;
                    return Err(StoreError::new(kind, ACTION, object, &detail));
                };
                previous = part.number;
                body.extend_from_slice(bytes);
            }
            check(ACTION, object, Crc64Nvme::of(&body), checksum)?;
            Ok(body)
        });
        let result = body.map(|body| {
            contents.uploads.remove(upload_id);
            let checksum = ObjectChecksum::FullObject(checksum);
            contents.write(object, body.into(), checksum.clone());
            checksum
        });
        ready(result).boxed()
    }

    fn abort_multipart<'a>(
        &'a self,
        object: &'a ObjectName,
        upload_id: &'a str,
    ) -> StoreFuture<'a, ()> {
        let mut contents = self.lock();
        if contents.upload("abort the upload of", object, upload_id).is_ok() {
            contents.uploads.remove(upload_id);
        }
        ready(Ok(())).boxed()
    }

    fn list_multipart<'a>(
        &'a self,
        bucket: &'a str,
        prefix: &'a str,
    ) -> StoreFuture<'a, Vec<OpenUpload>> {
        let contents = self.lock();
        let open = contents.uploads.iter().filter(|(_, upload)| {
            upload.object.bucket == bucket && upload.object.key.starts_with(prefix)
        });
        let found = open.map(|(upload_id, upload)| OpenUpload {
            object: upload.object.clone(),
            upload_id: upload_id.clone(),
        });
        ready(Ok(found.collect())).boxed()
    }

    fn delete<'a>(&'a self, object: &'a ObjectName) -> StoreFuture<'a, ()> {
        if let Some(objects) = self.lock().buckets.get_mut(&object.bucket) {
            objects.remove(&object.key);
        }
        ready(Ok(())).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object_store::conformance;

    #[tokio::test]
    async fn behaves_like_a_store() {
        let store = MemoryStore::with_buckets(&["b"]);
        conformance::check(&store, "b", "some/prefix").await.unwrap();
        assert_eq!(store.objects(), []);
        assert_eq!(store.open_uploads(), 0);
    }
}
