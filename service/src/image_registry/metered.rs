//! Counts and times the lookups in registries.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::metrics::{Dependency, DependencyCalls, Outcome};

use super::{ImageRegistry, RegistryError, RegistryImage};

/// Image registries whose lookups are counted.
#[derive(Debug)]
pub struct MeteredImageRegistry {
    registry: Arc<dyn ImageRegistry>,
    calls: DependencyCalls,
}

impl MeteredImageRegistry {
    /// Counts the lookups.
    pub fn new(registry: Arc<dyn ImageRegistry>, calls: DependencyCalls) -> Self {
        Self { registry, calls }
    }
}

impl ImageRegistry for MeteredImageRegistry {
    fn lookup<'a>(
        &'a self,
        reference: &'a str,
    ) -> BoxFuture<'a, Result<RegistryImage, RegistryError>> {
        let lookup = self.registry.lookup(reference);
        self.calls
            .measure(Dependency::Registry, "lookup", lookup, |_| Outcome::Failed)
            .boxed()
    }
}
