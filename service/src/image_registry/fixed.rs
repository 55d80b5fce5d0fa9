//! A registry of images given in advance: a double for tests.

use std::collections::BTreeMap;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::{ImageRegistry, RegistryError, RegistryImage};

/// Knows the references it was made with.
#[derive(Debug, Default)]
pub struct FixedImageRegistry {
    images: BTreeMap<String, RegistryImage>,
}

impl FixedImageRegistry {
    /// A registry of these references.
    pub fn new(images: impl IntoIterator<Item = (String, RegistryImage)>) -> Self {
        Self {
            images: images.into_iter().collect(),
        }
    }
}

impl ImageRegistry for FixedImageRegistry {
    fn lookup<'a>(
        &'a self,
        reference: &'a str,
    ) -> BoxFuture<'a, Result<RegistryImage, RegistryError>> {
        let found = self
            .images
            .get(reference)
            .cloned()
            .ok_or_else(|| RegistryError(format!("image {reference} is not in the registry")));
        futures::future::ready(found).boxed()
    }
}
