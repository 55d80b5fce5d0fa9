//! The sites jobs can be sent to, and which of them can be used.

use std::collections::BTreeMap;
use std::sync::Arc;

use cts_shared::error_code::ErrorCode;
use cts_shared::site::Site;

use crate::compute_site::ComputeSite;
use crate::error::Error;
use crate::site_store::SiteStore;

/// One site's standing.
#[derive(Debug, Clone)]
pub enum SiteStatus {
    /// Jobs can be sent there.
    Available(Arc<dyn ComputeSite>),
    /// It is known but cannot be used now.
    Unavailable {
        /// Why, for users.
        reason: String,
    },
}

/// All sites by name.
#[derive(Debug, Default)]
pub struct Sites {
    statuses: BTreeMap<Site, SiteStatus>,
}

impl Sites {
    /// Sites in these standings; all others are not part of this service.
    pub fn new(statuses: impl IntoIterator<Item = (Site, SiteStatus)>) -> Self {
        Self {
            statuses: statuses.into_iter().collect(),
        }
    }

    /// The site, if it can be used.
    ///
    /// # Errors
    /// 60020, with the reason.
    pub fn available(&self, site: Site) -> Result<&Arc<dyn ComputeSite>, Error> {
        let reason = match self.statuses.get(&site) {
            Some(SiteStatus::Available(compute_site)) => return Ok(compute_site),
            Some(SiteStatus::Unavailable { reason }) => reason.as_str(),
            None => "this service is not connected to it",
        };
        Err(Error::refused(
            ErrorCode::JobFlowUnavailable,
            format!("site {site} is unavailable: {reason}"),
        ))
    }

    /// The site, if it takes new jobs. Only new ones: what an administrator switches off finishes the
    /// jobs it has.
    ///
    /// # Errors
    /// In the contract's order: 60020 (not part of this service), 60010 (switched off), 60020 (cannot
    /// be used now), or a failure of the store.
    pub async fn open(
        &self,
        site: Site,
        store: &dyn SiteStore,
    ) -> Result<&Arc<dyn ComputeSite>, Error> {
        if self.statuses.contains_key(&site) && store.inactive_sites().await?.contains(&site) {
            return Err(Error::refused(
                ErrorCode::JobFlowInactive,
                format!(
                    "site {site} takes no new jobs: an administrator has switched it off; use \
                     another site or try again later"
                ),
            ));
        }
        self.available(site)
    }

    /// Every known site and its standing, in the contract's order.
    pub fn iter(&self) -> impl Iterator<Item = (Site, &SiteStatus)> {
        Site::ALL
            .into_iter()
            .filter_map(|site| self.statuses.get(&site).map(|status| (site, status)))
    }
}
