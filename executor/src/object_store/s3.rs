//! Any S3 store, through the AWS SDK. The client's settings are `cts_net::s3`'s.
//!
//! What is special about stores other than AWS stands in the methods concerned. Checksums are always
//! computed by the caller and sent as plain headers: the SDK's own (chunked trailers) are refused or
//! mis-stored by many stores.

mod error;

use std::ops::Range;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::primitives::{ByteStream, DateTime, SdkBody};
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedMultipartUpload,
    CompletedPart as S3CompletedPart,
};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_types::date_time::Format;
use bytes::Bytes;
use cts_net::s3::S3Settings;
use cts_net::tls::TlsError;
use cts_shared::crc64nvme::Crc64Nvme;
use futures::TryStreamExt;
use http_body_util::{BodyStream, Limited};
use secrecy::ExposeSecret;

use super::{
    Body, CompletedPart, GetRequest, GetResponse, ObjectChecksum, ObjectInfo, ObjectName,
    ObjectStore, OpenUpload, StoreError, StoreErrorKind, StoreFuture,
};
use error::{describe, store_error};

/// An error document is some hundred bytes; no store gets more of our memory than this.
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// The largest answer we ask for, a page of 1,000 open uploads, is below 2 MiB.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// Pages of open uploads read at most, of up to 1,000 each.
const MAX_LIST_PAGES: usize = 10;

/// A store reached through the AWS SDK. Cheap to share, expensive to make (TLS set-up).
#[derive(Debug)]
pub struct S3Store {
    settings: S3Settings,
    client: Client,
    sign_payload: bool,
}

impl S3Store {
    /// A store of these settings; payloads are signed where `settings` say so (plain HTTP only).
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(settings: S3Settings) -> Result<Self, TlsError> {
        Ok(Self {
            client: limited_client(&settings)?,
            sign_payload: settings.sign_payload(),
            settings,
        })
    }

    /// Whether payloads are hashed with SHA-256 for the signature, which costs 30 times what the
    /// CRC64NVME costs. Some stores insist on it over plain HTTP.
    #[must_use]
    pub fn with_payload_signing(mut self, sign_payload: bool) -> Self {
        self.sign_payload = sign_payload;
        self
    }

    /// Runs a call; when it is refused (403) reads the secret again, and if that is another one than
    /// the call was signed with, runs it once more.
    async fn signed<T, F>(&self, call: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let used = self.settings.secret.current();
        let error = match call().await {
            Err(error) if error.kind() == StoreErrorKind::AccessDenied => error,
            result => return result,
        };
        // Another call may have read the new secret already: compare with the one used here, not
        // with what the file held before.
        if let Err(cause) = self.settings.secret.reread() {
            tracing::warn!("cannot read the S3 secret again after a refusal: {cause}");
            return Err(error);
        }
        if self.settings.secret.current().expose_secret() == used.expose_secret() {
            return Err(error);
        }
        tracing::info!("the S3 secret has changed; trying again with the new one");
        call().await
    }

    async fn get_once(
        &self,
        client: &Client,
        request: &GetRequest<'_>,
    ) -> Result<GetResponse, StoreError> {
        let object = request.object;
        // Never checksum_mode here: of a range, some stores return the checksum of the whole.
        let output = client
            .get_object()
            .bucket(&object.bucket)
            .key(&object.key)
            .set_range(request.range.as_ref().map(range_header))
            .set_if_match(request.if_match.map(ToOwned::to_owned))
            .send()
            .await
            .map_err(|error| store_error("get", object, &error))?;
        let malformed = |what: &str| StoreError::new(StoreErrorKind::Other, "get", object, what);
        let (range, object_size) = match output.content_range() {
            Some(header) => parse_content_range(header).ok_or_else(|| {
                malformed(&format!("the store sent the Content-Range {header:?}"))
            })?,
            None => {
                let size = output
                    .content_length()
                    .and_then(|size| u64::try_from(size).ok())
                    .ok_or_else(|| malformed("the store did not send the object's size"))?;
                (0..size, size)
            }
        };
        let name = object.clone();
        let body: Body = Box::pin(
            BodyStream::new(output.body.into_inner())
                .map_err(move |error| {
                    StoreError::new(
                        StoreErrorKind::Unavailable,
                        "get",
                        &name,
                        &describe(error.as_ref()),
                    )
                })
                // Trailers are not bytes of the object.
                .try_filter_map(|frame| async move { Ok(frame.into_data().ok()) }),
        );
        Ok(GetResponse {
            range,
            object_size,
            etag: output.e_tag,
            last_modified: output.last_modified.as_ref().and_then(timestamp),
            body,
        })
    }
}

impl ObjectStore for S3Store {
    fn head<'a>(&'a self, object: &'a ObjectName) -> StoreFuture<'a, ObjectInfo> {
        Box::pin(self.signed(move || async move {
            let output = self
                .client
                .head_object()
                .bucket(&object.bucket)
                .key(&object.key)
                .checksum_mode(ChecksumMode::Enabled)
                .send()
                .await
                .map_err(|error| store_error("look up", object, &error))?;
            let size = output
                .content_length()
                .and_then(|size| u64::try_from(size).ok())
                .ok_or_else(|| {
                    let detail = "the store did not send the object's size";
                    StoreError::new(StoreErrorKind::Other, "look up", object, detail)
                })?;
            let checksum_type = output.checksum_type().map(ChecksumType::as_str);
            Ok(ObjectInfo {
                size,
                checksum: ObjectChecksum::parse(output.checksum_crc64_nvme(), checksum_type),
                last_modified: output.last_modified().and_then(timestamp),
                etag: output.e_tag,
            })
        }))
    }

    fn get<'a>(&'a self, request: GetRequest<'a>) -> StoreFuture<'a, GetResponse> {
        Box::pin(async move {
            // A client of its own has connections of its own.
            let fresh = if request.fresh_connection {
                let client = limited_client(&self.settings).map_err(|error| {
                    let detail = error.to_string();
                    StoreError::new(StoreErrorKind::Other, "get", request.object, &detail)
                })?;
                Some(client)
            } else {
                None
            };
            let client = fresh.as_ref().unwrap_or(&self.client);
            let request = &request;
            self.signed(move || self.get_once(client, request)).await
        })
    }

    fn put<'a>(
        &'a self,
        object: &'a ObjectName,
        body: Bytes,
        checksum: Crc64Nvme,
    ) -> StoreFuture<'a, ObjectChecksum> {
        Box::pin(async move {
            let body = &body;
            self.signed(move || async move {
                let request = self
                    .client
                    .put_object()
                    .bucket(&object.bucket)
                    .key(&object.key)
                    .checksum_crc64_nvme(checksum.to_string())
                    .body(ByteStream::from(body.clone()))
                    .customize();
                let request = if self.sign_payload {
                    request
                } else {
                    request.disable_payload_signing()
                };
                let output = request
                    .send()
                    .await
                    .map_err(|error| store_error("put", object, &error))?;
                let checksum_type = output.checksum_type().map(ChecksumType::as_str);
                Ok(ObjectChecksum::parse(
                    output.checksum_crc64_nvme(),
                    checksum_type,
                ))
            })
            .await
        })
    }

    fn create_multipart<'a>(&'a self, object: &'a ObjectName) -> StoreFuture<'a, String> {
        const ACTION: &str = "begin the multipart upload of";
        Box::pin(self.signed(move || async move {
            let output = self
                .client
                .create_multipart_upload()
                .bucket(&object.bucket)
                .key(&object.key)
                .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
                .checksum_type(ChecksumType::FullObject)
                .send()
                .await
                .map_err(|error| store_error(ACTION, object, &error))?;
            output.upload_id.filter(|id| !id.is_empty()).ok_or_else(|| {
                let detail = "the store did not send an upload id";
                StoreError::new(StoreErrorKind::Other, ACTION, object, detail)
            })
        }))
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
        Box::pin(async move {
            let body = &body;
            self.signed(move || async move {
                let request = self
                    .client
                    .upload_part()
                    .bucket(&object.bucket)
                    .key(&object.key)
                    .upload_id(upload_id)
                    .part_number(i32::from(number))
                    .checksum_crc64_nvme(checksum.to_string())
                    .body(ByteStream::from(body.clone()))
                    .customize();
                let request = if self.sign_payload {
                    request
                } else {
                    request.disable_payload_signing()
                };
                let output = request
                    .send()
                    .await
                    .map_err(|error| store_error(ACTION, object, &error))?;
                output.e_tag.ok_or_else(|| {
                    let detail = "the store did not send the part's ETag";
                    StoreError::new(StoreErrorKind::Other, ACTION, object, detail)
                })
            })
            .await
        })
    }

    fn complete_multipart<'a>(
        &'a self,
        object: &'a ObjectName,
        upload_id: &'a str,
        parts: &'a [CompletedPart],
        checksum: Crc64Nvme,
    ) -> StoreFuture<'a, ObjectChecksum> {
        Box::pin(self.signed(move || async move {
            let parts = parts.iter().map(|part| {
                S3CompletedPart::builder()
                    .part_number(i32::from(part.number))
                    .e_tag(&part.etag)
                    .checksum_crc64_nvme(part.checksum.to_string())
                    .build()
            });
            let upload = CompletedMultipartUpload::builder()
                .set_parts(Some(parts.collect()))
                .build();
            let output = self
                .client
                .complete_multipart_upload()
                .bucket(&object.bucket)
                .key(&object.key)
                .upload_id(upload_id)
                .multipart_upload(upload)
                .checksum_crc64_nvme(checksum.to_string())
                .checksum_type(ChecksumType::FullObject)
                .send()
                .await
                .map_err(|error| store_error("complete the upload of", object, &error))?;
            let checksum_type = output.checksum_type().map(ChecksumType::as_str);
            Ok(ObjectChecksum::parse(
                output.checksum_crc64_nvme(),
                checksum_type,
            ))
        }))
    }

    fn abort_multipart<'a>(
        &'a self,
        object: &'a ObjectName,
        upload_id: &'a str,
    ) -> StoreFuture<'a, ()> {
        Box::pin(self.signed(move || async move {
            let result = self
                .client
                .abort_multipart_upload()
                .bucket(&object.bucket)
                .key(&object.key)
                .upload_id(upload_id)
                .send()
                .await
                .map_err(|error| store_error("abort the upload of", object, &error));
            match result {
                Err(error) if error.kind() != StoreErrorKind::NotFound => Err(error),
                Ok(_) | Err(_) => Ok(()),
            }
        }))
    }

    fn list_multipart<'a>(
        &'a self,
        bucket: &'a str,
        prefix: &'a str,
    ) -> StoreFuture<'a, Vec<OpenUpload>> {
        Box::pin(self.signed(move || async move {
            let mut found = Vec::new();
            let (mut key_marker, mut id_marker) = (None, None);
            for _ in 0..MAX_LIST_PAGES {
                let page = self
                    .client
                    .list_multipart_uploads()
                    .bucket(bucket)
                    .prefix(prefix)
                    .set_key_marker(key_marker.take())
                    .set_upload_id_marker(id_marker.take())
                    .send()
                    .await
                    .map_err(|error| {
                        let target = ObjectName::new(bucket, prefix);
                        store_error("list the open uploads below", &target, &error)
                    })?;
                for upload in page.uploads() {
                    let (Some(key), Some(id)) = (upload.key(), upload.upload_id()) else {
                        continue;
                    };
                    // Some stores take the prefix for a hint.
                    if key.starts_with(prefix) {
                        found.push(OpenUpload {
                            object: ObjectName::new(bucket, key),
                            upload_id: id.to_owned(),
                        });
                    }
                }
                if page.is_truncated() != Some(true) {
                    break;
                }
                key_marker = page.next_key_marker;
                id_marker = page.next_upload_id_marker;
            }
            Ok(found)
        }))
    }

    fn delete<'a>(&'a self, object: &'a ObjectName) -> StoreFuture<'a, ()> {
        Box::pin(self.signed(move || async move {
            let result = self
                .client
                .delete_object()
                .bucket(&object.bucket)
                .key(&object.key)
                .send()
                .await
                .map_err(|error| store_error("delete", object, &error));
            match result {
                Err(error) if error.kind() != StoreErrorKind::NotFound => Err(error),
                Ok(_) | Err(_) => Ok(()),
            }
        }))
    }
}

fn limited_client(settings: &S3Settings) -> Result<Client, TlsError> {
    let client = cts_net::s3::client(settings)?;
    let config = client.config().to_builder().interceptor(LimitAnswers);
    Ok(Client::from_conf(config.build()))
}

/// Bounds what the SDK reads into memory: error documents, and every answer that is not an object.
#[derive(Debug)]
struct LimitAnswers;

impl Intercept for LimitAnswers {
    fn name(&self) -> &'static str {
        "LimitAnswers"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _runtime_components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let is_get = config
            .load::<Metadata>()
            .is_some_and(|metadata| metadata.name() == "GetObject");
        let response = context.response_mut();
        let limit = match (response.status().is_success(), is_get) {
            (true, true) => return Ok(()),
            (true, false) => MAX_ANSWER_BYTES,
            (false, _) => MAX_ERROR_BYTES,
        };
        let body = response.take_body();
        *response.body_mut() = SdkBody::from_body_1_x(Limited::new(body, limit));
        Ok(())
    }
}

/// `Range` names its last byte, a Rust range the one after.
fn range_header(range: &Range<u64>) -> String {
    format!("bytes={}-{}", range.start, range.end.saturating_sub(1))
}

/// Reads `bytes 0-9/100`: the range and the object's size.
fn parse_content_range(header: &str) -> Option<(Range<u64>, u64)> {
    let (range, size) = header.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let size = size.parse().ok()?;
    (first <= last && last < size).then_some((first..last + 1, size))
}

fn timestamp(time: &DateTime) -> Option<String> {
    time.fmt(Format::DateTime).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_range_is_read_or_refused() {
        assert_eq!(
            parse_content_range("bytes 0-9/100"),
            Some((0..10, 100))
        );
        for bad in [
            "",
            "bytes */100",
            "bytes 0-9/*",
            "bytes 9-0/100",
            "bytes 0-100/100",
            "bytes 0-18446744073709551615/18446744073709551615",
            "items 0-9/100",
        ] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
        assert_eq!(range_header(&(5..10)), "bytes=5-9");
    }
}
