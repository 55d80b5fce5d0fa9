//! What the service asks of image registries, as a trait.

use futures::future::BoxFuture;

mod fixed;
mod metered;
mod oci;

pub use fixed::FixedImageRegistry;
pub use metered::MeteredImageRegistry;
pub use oci::OciImageRegistry;

/// What a registry says about an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryImage {
    /// Digest of the manifest (or index) the reference names, `sha256:...`.
    pub digest: String,
    /// The image's entrypoint; empty if it has none.
    pub entrypoint: Vec<String>,
}

/// Why a lookup failed. The caller named the registry, so it is the caller's to act on in every case;
/// the message says how.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct RegistryError(pub String);

/// Looks images up.
pub trait ImageRegistry: Send + Sync + std::fmt::Debug {
    /// Resolves `host/repository:tag`, `host/repository@digest` or `host/repository`.
    ///
    /// # Errors
    /// As [`RegistryError`] says.
    fn lookup<'a>(
        &'a self,
        reference: &'a str,
    ) -> BoxFuture<'a, Result<RegistryImage, RegistryError>>;
}
