//! The few calls the service makes to S3, as a trait.

use bytes::Bytes;
use futures::future::BoxFuture;

use cts_shared::s3_path::{Bucket, S3Path};

mod memory;
mod metered;
mod s3;

pub use memory::MemoryObjectStore;
pub use metered::MeteredObjectStore;
pub use s3::S3ObjectStore;

/// What is known of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectHead {
    /// Size in bytes.
    pub size_bytes: u64,
    /// Base64 of the CRC64NVME over the whole object, if the store keeps one.
    pub crc64nvme: Option<String>,
}

/// Why a call failed, by what the caller does next.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ObjectStoreError {
    /// There is no such object.
    #[error("S3 object {path} was not found; check the path")]
    NoSuchObject {
        /// Bucket and key.
        path: String,
    },
    /// There is no such bucket.
    #[error("the bucket of S3 path {path} was not found; check the path")]
    NoSuchBucket {
        /// Bucket and key.
        path: String,
    },
    /// The store refuses the service's credentials for it.
    #[error("access to S3 path {path} is denied")]
    Denied {
        /// Bucket and key.
        path: String,
    },
    /// The store does not answer, or not sensibly; trying again may help.
    #[error("the S3 store does not answer for {path}: {cause}; try again later")]
    Unavailable {
        /// Bucket and key.
        path: String,
        /// What happened.
        cause: String,
    },
}

/// A part of an object: `first` byte, and how many at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// Offset of the first byte.
    pub first: u64,
    /// Most bytes wanted; to the end if absent.
    pub length: Option<u64>,
}

/// The calls the service makes. Each is one request with a deadline, tried again a few times when the
/// store does not answer.
pub trait ObjectStore: Send + Sync + std::fmt::Debug {
    /// Size and checksum of an object.
    ///
    /// # Errors
    /// As [`ObjectStoreError`] says.
    fn head<'a>(&'a self, path: &'a S3Path) -> BoxFuture<'a, Result<ObjectHead, ObjectStoreError>>;

    /// Part of an object, in chunks as they arrive.
    ///
    /// # Errors
    /// As [`ObjectStoreError`] says.
    fn get<'a>(
        &'a self,
        path: &'a S3Path,
        range: ByteRange,
    ) -> BoxFuture<'a, Result<ObjectStream, ObjectStoreError>>;

    /// Writes a small object.
    ///
    /// # Errors
    /// As [`ObjectStoreError`] says.
    fn put<'a>(
        &'a self,
        path: &'a S3Path,
        body: Bytes,
    ) -> BoxFuture<'a, Result<(), ObjectStoreError>>;

    /// Removes an object; one that is not there is fine.
    ///
    /// # Errors
    /// As [`ObjectStoreError`] says.
    fn delete<'a>(&'a self, path: &'a S3Path) -> BoxFuture<'a, Result<(), ObjectStoreError>>;

    /// Makes sure a bucket exists. Used by `dev` for the bucket it promises.
    ///
    /// # Errors
    /// As [`ObjectStoreError`] says.
    fn ensure_bucket<'a>(
        &'a self,
        bucket: &'a Bucket,
    ) -> BoxFuture<'a, Result<(), ObjectStoreError>>;
}

/// Name of the object by which the right to write below a prefix is tried.
pub const WRITE_TEST_NAME: &str = "__cts_write_test_a7d1__";

/// Tries to write an object, which should have that name: puts it and deletes it at once.
///
/// # Errors
/// As [`ObjectStoreError`] says.
pub async fn try_writing(store: &dyn ObjectStore, path: &S3Path) -> Result<(), ObjectStoreError> {
    let content = Bytes::from_static(b"written and deleted by the CDM Task Service\n");
    store.put(path, content).await?;
    store.delete(path).await
}

/// Chunks of an object's content.
pub type ObjectStream = futures::stream::BoxStream<'static, Result<Bytes, std::io::Error>>;
