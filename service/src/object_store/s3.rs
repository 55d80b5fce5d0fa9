//! The S3 adapter.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumMode;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use rand::Rng;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::io::ReaderStream;

use cts_net::s3::S3Settings;
use cts_net::tls::{TlsError, certificate_refusal};
use cts_shared::s3_path::{Bucket, S3Path};

use super::{ByteRange, ObjectHead, ObjectStore, ObjectStoreError, ObjectStream};

/// Longest time one request may take; all are small.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Times a request is sent before the store counts as unavailable.
const ATTEMPTS: u32 = 3;

/// Longest wait before the second attempt; doubled for each further one, and jittered.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// HEADs under way at the same time, over all requests. More do not get their answers sooner, and
/// first come, first served lets a job of one input in between those of 10,000.
const CONCURRENT_HEADS: usize = 64;

/// Longest wait for one of them: behind the largest jobs it is a second, so the store must be stuck.
const HEAD_QUEUE_TIMEOUT: Duration = Duration::from_secs(60);

/// Any S3 store.
#[derive(Clone)]
pub struct S3ObjectStore {
    client: Client,
    url: String,
    heads: Arc<Semaphore>,
}

impl fmt::Debug for S3ObjectStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3ObjectStore")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl S3ObjectStore {
    /// A store reached with these settings. Sends nothing yet.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(settings: &S3Settings) -> Result<Self, TlsError> {
        Ok(Self {
            client: cts_net::s3::client(settings)?,
            url: settings.url.to_string(),
            heads: Arc::new(Semaphore::new(CONCURRENT_HEADS)),
        })
    }

    /// Waits for the turn of a HEAD, which lasts until the permit is dropped.
    async fn head_turn(&self, path: &S3Path) -> Result<SemaphorePermit<'_>, ObjectStoreError> {
        match tokio::time::timeout(HEAD_QUEUE_TIMEOUT, self.heads.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(ObjectStoreError::Unavailable {
                path: path.to_string(),
                cause: format!(
                    "{CONCURRENT_HEADS} other requests have been waiting for {} s",
                    HEAD_QUEUE_TIMEOUT.as_secs()
                ),
            }),
        }
    }
}

impl ObjectStore for S3ObjectStore {
    fn head<'a>(&'a self, path: &'a S3Path) -> BoxFuture<'a, Result<ObjectHead, ObjectStoreError>> {
        async move {
            let _turn = self.head_turn(path).await?;
            let head = with_retries(path, || {
                self.client
                    .head_object()
                    .bucket(path.bucket().as_str())
                    .key(path.key())
                    .checksum_mode(ChecksumMode::Enabled)
                    .send()
            })
            .await?;
            Ok(ObjectHead {
                size_bytes: head
                    .content_length()
                    .and_then(|length| u64::try_from(length).ok())
                    .unwrap_or(0),
                // A value with a `-N` suffix is a checksum of part checksums, not of the object.
                crc64nvme: head
                    .checksum_crc64_nvme()
                    .filter(|value| !value.contains('-'))
                    .map(str::to_owned),
            })
        }
        .boxed()
    }

    fn get<'a>(
        &'a self,
        path: &'a S3Path,
        range: ByteRange,
    ) -> BoxFuture<'a, Result<ObjectStream, ObjectStoreError>> {
        async move {
            let header = (range.first > 0 || range.length.is_some()).then(|| {
                let last = range
                    .length
                    .map(|length| range.first.saturating_add(length.saturating_sub(1)));
                format!(
                    "bytes={}-{}",
                    range.first,
                    last.map(|last| last.to_string()).unwrap_or_default()
                )
            });
            let object = with_retries(path, || {
                self.client
                    .get_object()
                    .bucket(path.bucket().as_str())
                    .key(path.key())
                    .set_range(header.clone())
                    .send()
            })
            .await?;
            Ok(ReaderStream::new(object.body.into_async_read()).boxed())
        }
        .boxed()
    }

    fn put<'a>(
        &'a self,
        path: &'a S3Path,
        body: Bytes,
    ) -> BoxFuture<'a, Result<(), ObjectStoreError>> {
        async move {
            with_retries(path, || {
                self.client
                    .put_object()
                    .bucket(path.bucket().as_str())
                    .key(path.key())
                    .body(ByteStream::from(body.clone()))
                    .send()
            })
            .await
            .map(|_| ())
        }
        .boxed()
    }

    fn delete<'a>(&'a self, path: &'a S3Path) -> BoxFuture<'a, Result<(), ObjectStoreError>> {
        async move {
            with_retries(path, || {
                self.client
                    .delete_object()
                    .bucket(path.bucket().as_str())
                    .key(path.key())
                    .send()
            })
            .await
            .map(|_| ())
        }
        .boxed()
    }

    fn ensure_bucket<'a>(
        &'a self,
        bucket: &'a Bucket,
    ) -> BoxFuture<'a, Result<(), ObjectStoreError>> {
        async move {
            let head = send(
                bucket.as_str(),
                self.client.head_bucket().bucket(bucket.as_str()).send(),
            );
            match head.await {
                Ok(_) => return Ok(()),
                Err(
                    ObjectStoreError::NoSuchBucket { .. } | ObjectStoreError::NoSuchObject { .. },
                ) => {}
                Err(error) => return Err(error),
            }
            send(
                bucket.as_str(),
                self.client.create_bucket().bucket(bucket.as_str()).send(),
            )
            .await
            .map(|_| ())
        }
        .boxed()
    }
}

/// Sends a request until the store answers, at most [`ATTEMPTS`] times.
async fn with_retries<T, E, F>(
    path: &S3Path,
    mut request: impl FnMut() -> F,
) -> Result<T, ObjectStoreError>
where
    F: Future<Output = Result<T, SdkError<E>>>,
    E: ProvideErrorMetadata + fmt::Debug,
{
    let path = path.to_string();
    let mut attempt = 1;
    loop {
        match send(&path, request()).await {
            Err(error @ ObjectStoreError::Unavailable { .. }) if attempt < ATTEMPTS => {
                tracing::info!(s3.path = %path, attempt, %error, "S3 request failed, trying again");
                let longest = FIRST_WAIT * 2_u32.pow(attempt - 1);
                let wait = longest.mul_f64(rand::rng().random_range(0.5..1.0));
                tokio::time::sleep(wait).await;
                attempt += 1;
            }
            outcome => return outcome,
        }
    }
}

async fn send<T, E>(
    path: &str,
    request: impl Future<Output = Result<T, SdkError<E>>>,
) -> Result<T, ObjectStoreError>
where
    E: ProvideErrorMetadata + fmt::Debug,
{
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(classify(path, &error)),
        Err(_elapsed) => Err(ObjectStoreError::Unavailable {
            path: path.to_owned(),
            cause: format!("no answer within {} s", REQUEST_TIMEOUT.as_secs()),
        }),
    }
}

fn classify<E>(path: &str, error: &SdkError<E>) -> ObjectStoreError
where
    E: ProvideErrorMetadata + fmt::Debug,
{
    let path = path.to_owned();
    let status = error
        .raw_response()
        .map(|response| response.status().as_u16());
    match (error.code(), status) {
        (Some("NoSuchBucket"), _) => ObjectStoreError::NoSuchBucket { path },
        // The answer to a HEAD has no body, so no code either.
        (_, Some(404)) => ObjectStoreError::NoSuchObject { path },
        (_, Some(401 | 403)) => ObjectStoreError::Denied { path },
        (code, status) => {
            let cause = match (code, status) {
                (Some(code), Some(status)) => {
                    format!("{code} (HTTP {status}) {}", error.message().unwrap_or(""))
                }
                (None, Some(status)) => format!("HTTP {status}"),
                _ => source_chain(error),
            };
            ObjectStoreError::Unavailable { path, cause }
        }
    }
}

/// The innermost causes say what happened; the outermost only that something did.
fn source_chain<E: fmt::Debug>(error: &SdkError<E>) -> String {
    let mut source: Option<&(dyn std::error::Error + 'static)> = match error {
        SdkError::DispatchFailure(failure) => failure.as_connector_error().map(|e| e as _),
        SdkError::TimeoutError(_) => return "the request timed out".to_owned(),
        _ => None,
    };
    if let Some(refusal) = source.and_then(certificate_refusal) {
        return refusal;
    }
    let mut text = Vec::new();
    while let Some(cause) = source {
        text.push(cause.to_string());
        source = cause.source();
    }
    text.pop()
        .unwrap_or_else(|| "the request failed".to_owned())
}
