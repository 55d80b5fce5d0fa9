//! Objects as a user of the service puts and gets them.
//!
//! Checksums are computed here with `crc64fast-nvme`, not with the implementation under test.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::error::{DisplayErrorContext, SdkError};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumMode;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use cts_net::s3::S3Settings;
use cts_net::secret::SecretSource;
use cts_net::tls::Verify;
use url::Url;

/// For one call; everything is on one machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// The store refused or did not answer.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {path}: {reason}")]
pub struct ObjectStoreError {
    operation: &'static str,
    path: String,
    reason: String,
}

/// A client of an S3 server. Paths are `bucket/key`, as everywhere in CTS.
#[derive(Debug, Clone)]
pub struct ObjectStore {
    client: Client,
}

/// Base64 of the big-endian CRC64NVME of `content`, computed by an implementation of its own.
pub fn crc64nvme(content: &[u8]) -> String {
    let mut digest = crc64fast_nvme::Digest::new();
    digest.write(content);
    BASE64_STANDARD.encode(digest.sum64().to_be_bytes())
}

impl ObjectStore {
    /// A client with the settings CTS itself uses, and a deadline on every call.
    ///
    /// # Errors
    /// When `url` is none or TLS cannot be set up.
    pub fn new(url: &str, access_key: &str, secret: &str) -> Result<Self, ObjectStoreError> {
        let failed = |error: &dyn std::error::Error| ObjectStoreError {
            operation: "connect to",
            path: url.to_owned(),
            reason: error.to_string(),
        };
        let settings = S3Settings {
            url: Url::parse(url).map_err(|error| failed(&error))?,
            access_key: access_key.to_owned(),
            secret: Arc::new(SecretSource::from_value(secret.to_owned().into())),
            verify: Verify::Certificates,
        };
        let client = cts_net::s3::client(&settings).map_err(|error| failed(&error))?;
        let timeouts = TimeoutConfig::builder().operation_timeout(DEADLINE).build();
        let config = client
            .config()
            .to_builder()
            .timeout_config(timeouts)
            .build();
        Ok(Self {
            client: Client::from_conf(config),
        })
    }

    /// Makes a bucket; one that exists is fine.
    ///
    /// # Errors
    /// When the store refuses or does not answer.
    pub async fn create_bucket(&self, bucket: &str) -> Result<(), ObjectStoreError> {
        if self
            .client
            .head_bucket()
            .bucket(bucket)
            .send()
            .await
            .is_ok()
        {
            return Ok(());
        }
        match self.client.create_bucket().bucket(bucket).send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(failed("create bucket", bucket, &error)),
        }
    }

    /// Removes a bucket with all that is in it. S3 itself refuses that; the testbed's server does not.
    ///
    /// # Errors
    /// When the store refuses or does not answer.
    pub async fn remove_bucket(&self, bucket: &str) -> Result<(), ObjectStoreError> {
        match self.client.delete_bucket().bucket(bucket).send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(failed("remove bucket", bucket, &error)),
        }
    }

    /// A URL with which anyone can get the object for an hour.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub async fn presigned_get(&self, path: &str) -> Result<String, ObjectStoreError> {
        let (bucket, key) = split(path);
        let request = self.client.get_object().bucket(bucket).key(key);
        match request.presigned(presigning(path)?).await {
            Ok(presigned) => Ok(presigned.uri().to_owned()),
            Err(error) => Err(failed("presign get", path, &error)),
        }
    }

    /// A URL with which anyone can put the object for an hour.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub async fn presigned_put(&self, path: &str) -> Result<String, ObjectStoreError> {
        let (bucket, key) = split(path);
        let request = self.client.put_object().bucket(bucket).key(key);
        match request.presigned(presigning(path)?).await {
            Ok(presigned) => Ok(presigned.uri().to_owned()),
            Err(error) => Err(failed("presign put", path, &error)),
        }
    }

    /// Stores an object with its CRC64NVME, which is returned.
    ///
    /// # Errors
    /// When the store refuses or does not answer.
    pub async fn put(&self, path: &str, content: &[u8]) -> Result<String, ObjectStoreError> {
        let checksum = crc64nvme(content);
        self.put_with(path, content, Some(&checksum)).await?;
        Ok(checksum)
    }

    /// Stores an object that has no checksum.
    ///
    /// # Errors
    /// When the store refuses or does not answer.
    pub async fn put_without_checksum(
        &self,
        path: &str,
        content: &[u8],
    ) -> Result<(), ObjectStoreError> {
        self.put_with(path, content, None).await
    }

    async fn put_with(
        &self,
        path: &str,
        content: &[u8],
        checksum: Option<&str>,
    ) -> Result<(), ObjectStoreError> {
        let (bucket, key) = split(path);
        let request = self
            .client
            .put_object()
            .bucket(bucket)
            .key(key)
            .body(ByteStream::from(Bytes::copy_from_slice(content)))
            .set_checksum_crc64_nvme(checksum.map(str::to_owned));
        request
            .send()
            .await
            .map(|_| ())
            .map_err(|error| failed("put", path, &error))
    }

    /// The content of an object; `None` if there is no such object.
    ///
    /// # Errors
    /// When the store refuses or does not answer.
    pub async fn get(&self, path: &str) -> Result<Option<Bytes>, ObjectStoreError> {
        let (bucket, key) = split(path);
        let response = match self
            .client
            .get_object()
            .bucket(bucket)
            .key(key)
            .send()
            .await
        {
            Ok(response) => response,
            Err(error) if error.as_service_error().is_some_and(|e| e.is_no_such_key()) => {
                return Ok(None);
            }
            Err(error) => return Err(failed("get", path, &error)),
        };
        let body = response
            .body
            .collect()
            .await
            .map_err(|error| ObjectStoreError {
                operation: "get",
                path: path.to_owned(),
                reason: error.to_string(),
            })?;
        Ok(Some(body.into_bytes()))
    }

    /// The checksum the store holds for an object; `None` if there is no object or no checksum.
    ///
    /// # Errors
    /// When the store refuses or does not answer.
    pub async fn stored_checksum(&self, path: &str) -> Result<Option<String>, ObjectStoreError> {
        let (bucket, key) = split(path);
        let request = self.client.head_object().bucket(bucket).key(key);
        match request.checksum_mode(ChecksumMode::Enabled).send().await {
            Ok(response) => Ok(response.checksum_crc64_nvme().map(str::to_owned)),
            Err(error) if error.as_service_error().is_some_and(|e| e.is_not_found()) => Ok(None),
            Err(error) => Err(failed("head", path, &error)),
        }
    }

    /// The paths below `prefix` (`bucket/key prefix`), sorted.
    ///
    /// # Errors
    /// When the store refuses or does not answer.
    pub async fn list(&self, prefix: &str) -> Result<Vec<String>, ObjectStoreError> {
        let (bucket, key) = split(prefix);
        let request = self.client.list_objects_v2().bucket(bucket).prefix(key);
        let mut pages = request.into_paginator().send();
        let mut paths = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| failed("list", prefix, &error))?;
            let keys = page.contents().iter().filter_map(|object| object.key());
            paths.extend(keys.map(|key| format!("{bucket}/{key}")));
        }
        paths.sort();
        Ok(paths)
    }
}

fn split(path: &str) -> (&str, &str) {
    path.split_once('/').unwrap_or((path, ""))
}

fn presigning(path: &str) -> Result<PresigningConfig, ObjectStoreError> {
    PresigningConfig::expires_in(Duration::from_secs(3600)).map_err(|error| ObjectStoreError {
        operation: "presign",
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn failed<E, R>(operation: &'static str, path: &str, error: &SdkError<E, R>) -> ObjectStoreError
where
    SdkError<E, R>: std::error::Error,
{
    ObjectStoreError {
        operation,
        path: path.to_owned(),
        reason: DisplayErrorContext(error).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_has_the_contract_form() {
        assert_eq!(crc64nvme(b""), "AAAAAAAAAAA=");
        assert_eq!(crc64nvme(b"123456789"), "rosUhgp5mIg=");
    }
}
