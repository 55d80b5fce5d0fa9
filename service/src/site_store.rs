//! What the service remembers about sites, and the trait of whatever keeps it.

use std::collections::BTreeSet;

use futures::future::BoxFuture;

use cts_shared::site::Site;

use crate::job_store::StoreError;

/// Keeps which sites an administrator has switched off.
pub trait SiteStore: Send + Sync + std::fmt::Debug {
    /// The sites that take no new jobs.
    ///
    /// # Errors
    /// When the store fails.
    fn inactive_sites(&self) -> BoxFuture<'_, Result<BTreeSet<Site>, StoreError>>;

    /// Switches a site on or off; fine if it is so already.
    ///
    /// # Errors
    /// When the store fails.
    fn set_site_active(&self, site: Site, active: bool) -> BoxFuture<'_, Result<(), StoreError>>;
}
