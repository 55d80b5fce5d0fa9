//! Looks images up in an OCI registry: whether an image is there for this platform, under which digest, how
//! big it is and what it runs. Nothing is pulled; that is the container engine's work.
//!
//! The client is `oci-client`, which is oci-distribution under its present name. It speaks the
//! [OCI distribution API](https://github.com/opencontainers/distribution-spec/blob/main/spec.md).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::Duration;

use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::manifest::{ImageIndexEntry, OciDescriptor, OciImageManifest, OciManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use secrecy::ExposeSecret;

use crate::tls;

pub mod credentials;
pub mod error;

pub use credentials::Credentials;
pub use error::RegistryError;

/// Largest image configuration accepted. Real ones are a few KiB; each layer adds a line of history.
const MAX_CONFIG_BYTES: usize = 4 << 20;
/// Time to connect to a registry.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Time for one lookup without its repetitions: three small requests and a login.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(30);
/// How often a lookup is tried when the failure may pass.
const TRIES: u32 = 3;

/// How registries are reached.
#[derive(Debug, Clone, Default)]
pub struct RegistryOptions {
    /// Registries (`host` or `host:port`) that speak plain HTTP, besides those on this machine: `localhost` and
    /// loopback addresses are taken to do so always, as Docker does.
    pub plain_http_hosts: BTreeSet<String>,
    /// Logins by registry (`host` or `host:port`, `docker.io` for Docker Hub). Others are asked anonymously.
    pub credentials: BTreeMap<String, Credentials>,
}

/// What a registry said about an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLookup {
    /// Digest of what the reference names: the index of a multi-platform image, else the manifest. Equal to
    /// the digest asked for, if one was.
    pub digest: String,
    /// Digest of the manifest for this platform; equal to `digest` unless that is an index.
    pub platform_digest: String,
    /// Sum of the layers as they travel, compressed. On disk they take two to four times as much.
    pub compressed_bytes: u64,
    /// Number of layers.
    pub layers: u64,
    /// The image's entrypoint; empty when it has none.
    pub entrypoint: Vec<String>,
    /// The image's default arguments; empty when it has none.
    pub cmd: Vec<String>,
    /// Architecture in OCI words, such as `amd64`.
    pub architecture: String,
    /// Operating system in OCI words, such as `linux`.
    pub os: String,
}

/// Registries, reached with the process's trust roots. Cheap to make: clients are built at first use, then kept.
#[derive(Default)]
pub struct Registry {
    options: RegistryOptions,
    https: OnceLock<Client>,
    http: OnceLock<Client>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Registry {
    /// Registries reached as `options` say.
    #[must_use]
    pub fn new(options: RegistryOptions) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// Looks up `reference`: `registry/repository`, followed by `:tag`, `@digest` or both (the digest then
    /// decides). Short names mean Docker Hub, no tag means `latest`. The image must exist for Linux on
    /// this machine's architecture.
    ///
    /// Failures that may pass are repeated with growing, jittered waits.
    /// May be dropped at any point; changes nothing.
    ///
    /// # Errors
    /// See [`RegistryError`]: each names the image or registry and the next step.
    pub async fn lookup(&self, reference: &str) -> Result<ImageLookup, RegistryError> {
        let parsed: Reference = reference.parse().map_err(|error: oci_client::ParseError| {
            RegistryError::InvalidReference {
                reference: reference.to_owned(),
                reason: error.to_string(),
            }
        })?;
        let mut tries = 1;
        loop {
            let error = match self.lookup_once(&parsed).await {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            if error.is_permanent() || tries >= TRIES {
                return Err(error);
            }
            // The client does not pass on what the registry says in Retry-After.
            let base = match error {
                RegistryError::RateLimited { .. } => Duration::from_secs(5),
                _ => Duration::from_millis(500),
            };
            let wait = base
                .saturating_mul(tries)
                .mul_f64(rand::random_range(0.5..1.5));
            tracing::warn!(image = reference, %error, wait_ms = wait.as_millis(), tries, "image lookup is repeated");
            tokio::time::sleep(wait).await;
            tries += 1;
        }
    }

    async fn lookup_once(&self, image: &Reference) -> Result<ImageLookup, RegistryError> {
        let client = self.client_for(image.resolve_registry())?;
        let auth = self.auth_for(image.registry());
        let lookup = lookup(client, image, &auth);
        match tokio::time::timeout(LOOKUP_DEADLINE, lookup).await {
            Ok(result) => result,
            Err(_) => Err(RegistryError::TimedOut {
                registry: image.registry().to_owned(),
                after: LOOKUP_DEADLINE,
            }),
        }
    }

    fn auth_for(&self, registry: &str) -> RegistryAuth {
        match self.options.credentials.get(registry) {
            Some(login) => RegistryAuth::Basic(
                login.username.clone(),
                login.password.expose_secret().to_owned(),
            ),
            None => RegistryAuth::Anonymous,
        }
    }

    fn client_for(&self, registry: &str) -> Result<&Client, RegistryError> {
        let plain = self.options.plain_http_hosts.contains(registry) || is_local(registry);
        let (slot, protocol) = if plain {
            (&self.http, ClientProtocol::Http)
        } else {
            (&self.https, ClientProtocol::Https)
        };
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        tls::install_provider();
        let config = ClientConfig {
            protocol,
            // Plain HTTP too: a registry may send us on to a storage service that speaks HTTPS, and
            // the HTTP client cannot be built where the system has no certificates.
            tls_certs_only: tls::trust_roots()
                .certificates
                .iter()
                .map(|certificate| Certificate {
                    encoding: CertificateEncoding::Der,
                    data: certificate.to_vec(),
                })
                .collect(),
            connect_timeout: Some(CONNECT_DEADLINE),
            read_timeout: Some(LOOKUP_DEADLINE),
            user_agent: tls::USER_AGENT,
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|error| RegistryError::ClientSetUp {
            detail: error.to_string(),
        })?;
        Ok(slot.get_or_init(|| client))
    }
}

/// Docker's rule for registries it talks to over plain HTTP without being told.
fn is_local(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => registry,
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The platform images must have, in OCI words: architectures are named as Go names them.
#[must_use]
pub fn wanted_platform() -> (&'static str, &'static str) {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    };
    ("linux", architecture)
}

async fn lookup(
    client: &Client,
    image: &Reference,
    auth: &RegistryAuth,
) -> Result<ImageLookup, RegistryError> {
    let failed = |cause| RegistryError::from_client(image, auth, cause);
    let (manifest, digest) = client.pull_manifest(image, auth).await.map_err(failed)?;
    let (manifest, platform_digest) = match manifest {
        OciManifest::Image(manifest) => (manifest, digest.clone()),
        OciManifest::ImageIndex(index) => {
            let chosen = choose(image, &index.manifests)?;
            let entry = image.clone_with_digest(chosen.clone());
            match client.pull_manifest(&entry, auth).await.map_err(failed)?.0 {
                OciManifest::Image(manifest) => (manifest, chosen),
                OciManifest::ImageIndex(_) => {
                    return Err(RegistryError::NotAnImage {
                        image: image.whole(),
                        detail: "its index leads to another index".to_owned(),
                    });
                }
            }
        }
    };
    let config = image_config(client, image, auth, &manifest.config).await?;
    let (os, architecture) = wanted_platform();
    if (config.os.as_str(), config.architecture.as_str()) != (os, architecture) {
        return Err(RegistryError::WrongPlatform {
            image: image.whole(),
            wanted: format!("{os}/{architecture}"),
            available: format!("{}/{}", config.os, config.architecture),
        });
    }
    Ok(ImageLookup {
        digest,
        platform_digest,
        compressed_bytes: compressed_bytes(&manifest),
        layers: u64::try_from(manifest.layers.len()).unwrap_or(u64::MAX),
        entrypoint: config.run.entrypoint.unwrap_or_default(),
        cmd: config.run.cmd.unwrap_or_default(),
        architecture: config.architecture,
        os: config.os,
    })
}

/// The entry of an index for our platform.
fn choose(image: &Reference, entries: &[ImageIndexEntry]) -> Result<String, RegistryError> {
    let (os, architecture) = wanted_platform();
    let wanted = format!("{os}/{architecture}");
    let mut available = BTreeSet::new();
    for entry in entries {
        let Some(platform) = &entry.platform else {
            continue;
        };
        let found = format!("{}/{}", platform.os, platform.architecture);
        if found == wanted {
            return Ok(entry.digest.clone());
        }
        // Build tools store attestations as entries of the platform unknown/unknown.
        if !found.starts_with("unknown/") {
            available.insert(found);
        }
    }
    Err(RegistryError::WrongPlatform {
        image: image.whole(),
        wanted,
        available: Vec::from_iter(available).join(", "),
    })
}

fn compressed_bytes(manifest: &OciImageManifest) -> u64 {
    manifest
        .layers
        .iter()
        .map(|layer| u64::try_from(layer.size).unwrap_or(0))
        .fold(0, u64::saturating_add)
}

/// The part of an [image configuration](https://github.com/opencontainers/image-spec/blob/main/config.md) that matters here.
#[derive(Debug, serde::Deserialize)]
struct ImageConfig {
    architecture: String,
    os: String,
    #[serde(default, rename = "config")]
    run: RunConfig,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RunConfig {
    #[serde(default)]
    entrypoint: Option<Vec<String>>,
    #[serde(default)]
    cmd: Option<Vec<String>>,
}

async fn image_config(
    client: &Client,
    image: &Reference,
    auth: &RegistryAuth,
    descriptor: &OciDescriptor,
) -> Result<ImageConfig, RegistryError> {
    let mut body = BoundedBody::default();
    let pulled = client.pull_blob(image, descriptor, &mut body).await;
    if body.overflowed {
        return Err(RegistryError::NotAnImage {
            image: image.whole(),
            detail: format!("its configuration is larger than {MAX_CONFIG_BYTES} bytes"),
        });
    }
    pulled.map_err(|cause| RegistryError::from_client(image, auth, cause))?;
    serde_json::from_slice(&body.bytes).map_err(|error| RegistryError::NotAnImage {
        image: image.whole(),
        detail: format!("its configuration cannot be read: {error}"),
    })
}

/// Collects a body, and refuses one that is too large before it is in memory.
#[derive(Debug, Default)]
struct BoundedBody {
    bytes: Vec<u8>,
    overflowed: bool,
}

impl tokio::io::AsyncWrite for BoundedBody {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
        piece: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        if self.bytes.len() + piece.len() > MAX_CONFIG_BYTES {
            self.overflowed = true;
            return std::task::Poll::Ready(Err(std::io::ErrorKind::FileTooLarge.into()));
        }
        self.bytes.extend_from_slice(piece);
        std::task::Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
