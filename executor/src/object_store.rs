//! The object store as this crate sees it: the few S3 operations a run needs, in S3's nouns, and
//! errors sorted by what the caller does next.
//!
//! Vendor types stop at [`s3`]. [`memory`] is a complete double, [`faulty`] wraps any store and
//! breaks chosen calls, [`conformance`] is the suite that every store must pass, so that the double
//! cannot drift from the real thing.
//!
//! No method retries: a caller repeats the whole step, body included (`crate::transfer`). The one
//! exception is a 403, after which the real adapter reads its secret again and tries once more.

pub mod conformance;
mod error;
pub mod faulty;
pub mod memory;
pub mod s3;

use std::fmt;
use std::ops::Range;
use std::pin::Pin;

use bytes::Bytes;
use cts_shared::crc64nvme::Crc64Nvme;
use futures::Stream;
use futures::future::BoxFuture;

pub use error::{StoreError, StoreErrorKind};

/// An object's place. Displays as `s3://bucket/key` with control characters escaped.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    /// The bucket.
    pub bucket: String,
    /// The key, without a leading `/`.
    pub key: String,
}

impl ObjectName {
    /// Names an object; no rule is checked here.
    pub fn new(bucket: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            key: key.into(),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "s3://{}/{}",
            self.bucket.escape_debug(),
            self.key.escape_debug()
        )
    }
}

/// What a store says about an object's CRC64NVME.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectChecksum {
    /// The checksum of the whole object.
    FullObject(Crc64Nvme),
    /// A checksum of the parts' checksums, as the store gave it (`…-N`). Says nothing about the
    /// object's bytes.
    Composite(String),
    /// The store has none.
    Absent,
    /// Something that is no CRC64NVME, as the store gave it.
    Unreadable(String),
}

impl ObjectChecksum {
    /// Reads the checksum header's value and the checksum type's (`FULL_OBJECT`, `COMPOSITE`).
    ///
    /// A single PUT's type may be missing: no type and no `-N` suffix means the whole object.
    #[must_use]
    pub fn parse(value: Option<&str>, checksum_type: Option<&str>) -> Self {
        let Some(value) = value.filter(|value| !value.is_empty()) else {
            return Self::Absent;
        };
        let has_part_count = value
            .rsplit_once('-')
            .is_some_and(|(_, count)| count.parse::<u32>().is_ok());
        if has_part_count || checksum_type == Some("COMPOSITE") {
            return Self::Composite(value.chars().take(40).collect());
        }
        match Crc64Nvme::from_base64(value) {
            Ok(checksum) => Self::FullObject(checksum),
            Err(_) => Self::Unreadable(value.chars().take(40).collect()),
        }
    }
}

/// Why there is no checksum to compare with; `Display` of the value itself for a full-object one.
impl fmt::Display for ObjectChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FullObject(checksum) => write!(f, "{checksum}"),
            Self::Composite(value) => write!(f, "only a composite CRC64NVME ({value:?})"),
            Self::Absent => f.write_str("no CRC64NVME"),
            Self::Unreadable(value) => write!(f, "an unreadable CRC64NVME ({value:?})"),
        }
    }
}

/// An object's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Size in bytes.
    pub size: u64,
    /// `ETag`, with its quotes, as `If-Match` wants it.
    pub etag: Option<String>,
    /// The checksum kept by the store.
    pub checksum: ObjectChecksum,
    /// When it was last written, RFC 3339, for error messages.
    pub last_modified: Option<String>,
}

/// Which bytes of which object.
#[derive(Debug, Clone)]
pub struct GetRequest<'a> {
    /// The object.
    pub object: &'a ObjectName,
    /// The bytes wanted, never empty; all of them when `None`. May reach beyond the object's end;
    /// must begin before it ([`StoreErrorKind::InvalidRange`]).
    pub range: Option<Range<u64>>,
    /// Fail with [`StoreErrorKind::Changed`] unless the object still has this `ETag`.
    pub if_match: Option<&'a str>,
    /// Use no connection that has carried anything before: what arrived through the old ones is in
    /// doubt.
    pub fresh_connection: bool,
}

/// Chunks of an object's bytes as they arrive.
pub type Body = Pin<Box<dyn Stream<Item = Result<Bytes, StoreError>> + Send>>;

/// Answer to a GET.
pub struct GetResponse {
    /// The bytes that the body carries. A store may ignore the range that was asked for.
    pub range: Range<u64>,
    /// Size of the whole object in bytes.
    pub object_size: u64,
    /// `ETag`, with its quotes.
    pub etag: Option<String>,
    /// When it was last written, RFC 3339.
    pub last_modified: Option<String>,
    /// The bytes. May end early or run on: count them.
    pub body: Body,
}

impl fmt::Debug for GetResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GetResponse")
            .field("range", &self.range)
            .field("object_size", &self.object_size)
            .field("etag", &self.etag)
            .finish_non_exhaustive()
    }
}

/// A finished part of a multipart upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletedPart {
    /// From 1.
    pub number: u16,
    /// `ETag` that the store gave the part.
    pub etag: String,
    /// Checksum of the part's bytes.
    pub checksum: Crc64Nvme,
}

/// A multipart upload that was begun and neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenUpload {
    /// The object it would make.
    pub object: ObjectName,
    /// Its upload id.
    pub upload_id: String,
}

/// What a method of [`ObjectStore`] returns.
pub type StoreFuture<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// The S3 operations of a run. Every call may be dropped at any time; none has a time limit of its
/// own. Each is safe to repeat, except that a repeated [`create_multipart`](Self::create_multipart)
/// begins a second upload.
pub trait ObjectStore: fmt::Debug + Send + Sync + 'static {
    /// Size, `ETag` and checksum of an object.
    fn head<'a>(&'a self, object: &'a ObjectName) -> StoreFuture<'a, ObjectInfo>;

    /// An object's bytes.
    fn get<'a>(&'a self, request: GetRequest<'a>) -> StoreFuture<'a, GetResponse>;

    /// Writes an object in one request; the store checks the bytes against the checksum. Returns
    /// the checksum in the store's answer.
    fn put<'a>(
        &'a self,
        object: &'a ObjectName,
        body: Bytes,
        checksum: Crc64Nvme,
    ) -> StoreFuture<'a, ObjectChecksum>;

    /// Begins a multipart upload with a full-object CRC64NVME; returns its upload id.
    fn create_multipart<'a>(&'a self, object: &'a ObjectName) -> StoreFuture<'a, String>;

    /// Sends part `number` (from 1, at most 10,000); the store checks it against the checksum.
    /// Returns the part's `ETag`.
    fn upload_part<'a>(
        &'a self,
        object: &'a ObjectName,
        upload_id: &'a str,
        number: u16,
        body: Bytes,
        checksum: Crc64Nvme,
    ) -> StoreFuture<'a, String>;

    /// Makes the object of its parts, given in order. Returns the checksum in the store's answer:
    /// some stores accept a wrong one silently.
    fn complete_multipart<'a>(
        &'a self,
        object: &'a ObjectName,
        upload_id: &'a str,
        parts: &'a [CompletedPart],
        checksum: Crc64Nvme,
    ) -> StoreFuture<'a, ObjectChecksum>;

    /// Throws the upload and its parts away. One that is already gone is a success.
    fn abort_multipart<'a>(
        &'a self,
        object: &'a ObjectName,
        upload_id: &'a str,
    ) -> StoreFuture<'a, ()>;

    /// Multipart uploads still open whose keys begin with `prefix`; at most some thousands.
    fn list_multipart<'a>(
        &'a self,
        bucket: &'a str,
        prefix: &'a str,
    ) -> StoreFuture<'a, Vec<OpenUpload>>;

    /// Removes an object. One that is not there is a success.
    fn delete<'a>(&'a self, object: &'a ObjectName) -> StoreFuture<'a, ()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_full_object_unless_something_says_otherwise() {
        let value = Crc64Nvme::of(b"123456789").to_string();
        let full = ObjectChecksum::FullObject(Crc64Nvme::of(b"123456789"));
        assert_eq!(ObjectChecksum::parse(Some(&value), None), full);
        assert_eq!(
            ObjectChecksum::parse(Some(&value), Some("FULL_OBJECT")),
            full
        );
        assert_eq!(ObjectChecksum::parse(None, None), ObjectChecksum::Absent);
        assert_eq!(
            ObjectChecksum::parse(Some(""), None),
            ObjectChecksum::Absent
        );
        let composite = format!("{value}-3");
        for checksum_type in [None, Some("FULL_OBJECT"), Some("COMPOSITE")] {
            assert_eq!(
                ObjectChecksum::parse(Some(&composite), checksum_type),
                ObjectChecksum::Composite(composite.clone())
            );
        }
        assert!(matches!(
            ObjectChecksum::parse(Some("AAAA"), None),
            ObjectChecksum::Unreadable(_)
        ));
    }

    #[test]
    fn a_name_prints_on_one_line() {
        assert_eq!(
            ObjectName::new("b", "a b/\n\u{1b}[31mc").to_string(),
            "s3://b/a b/\\n\\u{1b}[31mc"
        );
    }
}
