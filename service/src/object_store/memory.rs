//! An object store in memory: a double for tests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};

use cts_shared::s3_path::{Bucket, S3Path};

use super::{ByteRange, ObjectHead, ObjectStore, ObjectStoreError, ObjectStream};

/// Objects in memory, with faults to order.
#[derive(Debug, Default)]
pub struct MemoryObjectStore {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Object>,
    denied_prefixes: BTreeSet<String>,
    missing_buckets: BTreeSet<String>,
    down: bool,
    puts: Vec<String>,
}

#[derive(Debug, Clone)]
struct Object {
    body: Bytes,
    crc64nvme: Option<String>,
}

impl MemoryObjectStore {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an object with the checksum it claims to have, or none.
    pub fn insert(&self, path: &str, body: impl Into<Bytes>, crc64nvme: Option<&str>) {
        self.state().objects.insert(
            path.to_owned(),
            Object {
                body: body.into(),
                crc64nvme: crc64nvme.map(str::to_owned),
            },
        );
    }

    /// Denies everything below a prefix.
    pub fn deny(&self, prefix: &str) {
        self.state().denied_prefixes.insert(prefix.to_owned());
    }

    /// Answers as if a bucket did not exist.
    pub fn remove_bucket(&self, bucket: &str) {
        self.state().missing_buckets.insert(bucket.to_owned());
    }

    /// Stops or starts answering.
    pub fn set_down(&self, down: bool) {
        self.state().down = down;
    }

    /// Every object that was ever put, in order.
    pub fn puts(&self) -> Vec<String> {
        self.state().puts.clone()
    }

    /// The objects there are now.
    pub fn paths(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    fn usable(&self, path: &S3Path) -> Result<MutexGuard<'_, State>, ObjectStoreError> {
        let state = self.state();
        let text = path.to_string();
        if state.down {
            return Err(ObjectStoreError::Unavailable {
                path: text,
                cause: "connection refused".to_owned(),
            });
        }
        if state.missing_buckets.contains(path.bucket().as_str()) {
            return Err(ObjectStoreError::NoSuchBucket { path: text });
        }
        if state
            .denied_prefixes
            .iter()
            .any(|prefix| text.starts_with(prefix.as_str()))
        {
            return Err(ObjectStoreError::Denied { path: text });
        }
        Ok(state)
    }

    fn object(&self, path: &S3Path) -> Result<Object, ObjectStoreError> {
        let text = path.to_string();
        self.usable(path)?
            .objects
            .get(&text)
            .cloned()
            .ok_or(ObjectStoreError::NoSuchObject { path: text })
    }
}

impl ObjectStore for MemoryObjectStore {
    fn head<'a>(&'a self, path: &'a S3Path) -> BoxFuture<'a, Result<ObjectHead, ObjectStoreError>> {
        let head = self.object(path).map(|object| ObjectHead {
            size_bytes: object.body.len() as u64,
            crc64nvme: object.crc64nvme,
        });
        futures::future::ready(head).boxed()
    }

    fn get<'a>(
        &'a self,
        path: &'a S3Path,
        range: ByteRange,
    ) -> BoxFuture<'a, Result<ObjectStream, ObjectStoreError>> {
        let stream = self.object(path).map(|object| {
            let end = object.body.len();
            let first = usize::try_from(range.first).unwrap_or(end).min(end);
            let length = range
                .length
                .and_then(|length| usize::try_from(length).ok())
                .unwrap_or(end);
            let body = object
                .body
                .slice(first..first.saturating_add(length).min(end));
            futures::stream::once(futures::future::ready(Ok(body))).boxed()
        });
        futures::future::ready(stream).boxed()
    }

    fn put<'a>(
        &'a self,
        path: &'a S3Path,
        body: Bytes,
    ) -> BoxFuture<'a, Result<(), ObjectStoreError>> {
        let result = self.usable(path).map(|mut state| {
            state.puts.push(path.to_string());
            state.objects.insert(
                path.to_string(),
                Object {
                    body,
                    crc64nvme: None,
                },
            );
        });
        futures::future::ready(result).boxed()
    }

    fn delete<'a>(&'a self, path: &'a S3Path) -> BoxFuture<'a, Result<(), ObjectStoreError>> {
        let result = self.usable(path).map(|mut state| {
            state.objects.remove(&path.to_string());
        });
        futures::future::ready(result).boxed()
    }

    fn ensure_bucket<'a>(
        &'a self,
        bucket: &'a Bucket,
    ) -> BoxFuture<'a, Result<(), ObjectStoreError>> {
        self.state().missing_buckets.remove(bucket.as_str());
        futures::future::ready(Ok(())).boxed()
    }
}
