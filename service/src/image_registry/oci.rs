//! Registries that speak the OCI distribution API.

use futures::FutureExt;
use futures::future::BoxFuture;

use cts_net::registry::{Registry, RegistryOptions};

use super::{ImageRegistry, RegistryError, RegistryImage};

/// Any registry, by the host in the image's name.
#[derive(Debug)]
pub struct OciImageRegistry {
    registry: Registry,
}

impl OciImageRegistry {
    /// Registries reached as `options` say.
    #[must_use]
    pub fn new(options: RegistryOptions) -> Self {
        Self {
            registry: Registry::new(options),
        }
    }
}

impl ImageRegistry for OciImageRegistry {
    fn lookup<'a>(
        &'a self,
        reference: &'a str,
    ) -> BoxFuture<'a, Result<RegistryImage, RegistryError>> {
        async move {
            match self.registry.lookup(reference).await {
                Ok(found) => Ok(RegistryImage {
                    digest: found.digest,
                    entrypoint: found.entrypoint,
                }),
                // It has tried again already where that could help.
                Err(error) => Err(RegistryError(error.to_string())),
            }
        }
        .boxed()
    }
}
