//! The three requests of the OCI distribution API that put an image into a registry.

use std::fmt::Write as _;

use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use reqwest::{Client, RequestBuilder, Response, Url};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::super::error::TestbedError;
use super::super::http;
use super::root_fs::RootFs;
use super::{COMPONENT, Image};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A registry to push to.
#[derive(Debug)]
pub(super) struct Registry<'a> {
    address: &'a str,
    login: Option<(&'a str, &'a str)>,
    client: Client,
}

fn digest(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .fold("sha256:".to_owned(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a string cannot fail");
            text
        })
}

impl<'a> Registry<'a> {
    pub(super) fn new(
        address: &'a str,
        login: Option<(&'a str, &'a str)>,
    ) -> Result<Self, TestbedError> {
        let client = http::client().map_err(|problem| failed(address, problem))?;
        Ok(Self {
            address,
            login,
            client,
        })
    }

    /// Pushes an image of one layer.
    pub(super) async fn push(
        &self,
        repository: &str,
        tag: &str,
        architecture: &str,
        content: &RootFs,
    ) -> Result<Image, TestbedError> {
        let layer = digest(&content.archive);
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": { "Entrypoint": content.entrypoint, "Env": ["PATH=/usr/bin:/bin"] },
            "rootfs": { "type": "layers", "diff_ids": [layer] },
        })
        .to_string()
        .into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": CONFIG, "size": config.len(), "digest": digest(&config) },
            "layers": [{ "mediaType": LAYER, "size": content.archive.len(), "digest": layer }],
        })
        .to_string()
        .into_bytes();
        self.push_blob(repository, config).await?;
        self.push_blob(repository, content.archive.clone()).await?;
        let url = format!("http://{}/v2/{repository}/manifests/{tag}", self.address);
        let digest = digest(&manifest);
        let request = self
            .client
            .put(&url)
            .header(CONTENT_TYPE, MANIFEST)
            .body(manifest);
        self.send(&url, request).await?;
        Ok(Image {
            name: format!("{}/{repository}", self.address),
            tag: tag.to_owned(),
            digest,
            entrypoint: content.entrypoint.clone(),
        })
    }

    async fn push_blob(&self, repository: &str, content: Vec<u8>) -> Result<(), TestbedError> {
        let url = format!("http://{}/v2/{repository}/blobs/uploads/", self.address);
        let begun = self
            .send(&url, self.client.post(&url).header(CONTENT_LENGTH, 0))
            .await?;
        let upload = begun
            .headers()
            .get(LOCATION)
            .and_then(|location| location.to_str().ok())
            .and_then(|location| Url::parse(&url).ok()?.join(location).ok());
        let Some(mut upload) = upload else {
            return Err(failed(&url, "the answer names no place to upload to"));
        };
        upload
            .query_pairs_mut()
            .append_pair("digest", &digest(&content));
        let request = self
            .client
            .put(upload)
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(content);
        self.send(&url, request).await.map(|_| ())
    }

    async fn send(&self, url: &str, request: RequestBuilder) -> Result<Response, TestbedError> {
        let request = match self.login {
            Some((user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        };
        let response = request
            .send()
            .await
            .map_err(|error| failed(url, http::reason(&error)))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.text().await.unwrap_or_default();
        Err(failed(url, format!("answers {status}: {body}")))
    }
}

fn failed(what: &str, problem: impl std::fmt::Display) -> TestbedError {
    TestbedError::new(
        COMPONENT,
        format!("{what}: {problem}"),
        "read the registry's log",
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn digest_has_the_oci_form() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(super::digest(b""), empty);
    }
}
