//! Counts and times the calls to an object store.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use cts_shared::s3_path::{Bucket, S3Path};

use crate::metrics::{Dependency, DependencyCalls, Outcome};

use super::{ByteRange, ObjectHead, ObjectStore, ObjectStoreError, ObjectStream};

/// An object store whose calls are counted.
#[derive(Debug)]
pub struct MeteredObjectStore {
    store: Arc<dyn ObjectStore>,
    calls: DependencyCalls,
}

impl MeteredObjectStore {
    /// Counts the calls to a store.
    pub fn new(store: Arc<dyn ObjectStore>, calls: DependencyCalls) -> Self {
        Self { store, calls }
    }

    fn measure<'a, T: 'a>(
        &'a self,
        operation: &'static str,
        call: BoxFuture<'a, Result<T, ObjectStoreError>>,
    ) -> BoxFuture<'a, Result<T, ObjectStoreError>> {
        self.calls
            .measure(Dependency::S3, operation, call, failure)
            .boxed()
    }
}

fn failure(error: &ObjectStoreError) -> Outcome {
    match error {
        ObjectStoreError::NoSuchObject { .. }
        | ObjectStoreError::NoSuchBucket { .. }
        | ObjectStoreError::Denied { .. } => Outcome::Refused,
        ObjectStoreError::Unavailable { .. } => Outcome::Unavailable,
    }
}

impl ObjectStore for MeteredObjectStore {
    fn head<'a>(&'a self, path: &'a S3Path) -> BoxFuture<'a, Result<ObjectHead, ObjectStoreError>> {
        self.measure("head", self.store.head(path))
    }

    fn get<'a>(
        &'a self,
        path: &'a S3Path,
        range: ByteRange,
    ) -> BoxFuture<'a, Result<ObjectStream, ObjectStoreError>> {
        self.measure("get", self.store.get(path, range))
    }

    fn put<'a>(
        &'a self,
        path: &'a S3Path,
        body: Bytes,
    ) -> BoxFuture<'a, Result<(), ObjectStoreError>> {
        self.measure("put", self.store.put(path, body))
    }

    fn delete<'a>(&'a self, path: &'a S3Path) -> BoxFuture<'a, Result<(), ObjectStoreError>> {
        self.measure("delete", self.store.delete(path))
    }

    fn ensure_bucket<'a>(
        &'a self,
        bucket: &'a Bucket,
    ) -> BoxFuture<'a, Result<(), ObjectStoreError>> {
        self.measure("ensure_bucket", self.store.ensure_bucket(bucket))
    }
}
