//! The sites jobs can be sent to, and which of them can be used.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// It is known but cannot be used while this service runs.
    Unavailable {
        /// Why, for users.
        reason: String,
    },
    /// Whether it can be used may change.
    Gated(Arc<SiteGate>),
}

impl SiteStatus {
    /// The site, if it can be used; else why not.
    ///
    /// # Errors
    /// The reason, for users.
    pub fn usable(&self) -> Result<&Arc<dyn ComputeSite>, String> {
        match self {
            Self::Available(site) => Ok(site),
            Self::Unavailable { reason } => Err(reason.clone()),
            Self::Gated(gate) => match &*gate.closed() {
                None => Ok(&gate.site),
                Some(reason) => Err(reason.clone()),
            },
        }
    }
}

/// A site that may not be usable yet.
#[derive(Debug)]
pub struct SiteGate {
    site: Arc<dyn ComputeSite>,
    /// Why it cannot be used.
    closed: Mutex<Option<String>>,
}

impl SiteGate {
    /// Open, or closed for a reason.
    #[must_use]
    pub fn new(site: Arc<dyn ComputeSite>, closed: Option<String>) -> Self {
        Self {
            site,
            closed: Mutex::new(closed),
        }
    }

    fn closed(&self) -> MutexGuard<'_, Option<String>> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the site cannot be used.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed().is_some()
    }

    /// From now on the site can be used.
    pub fn open(&self) {
        if self.closed().take().is_some() {
            tracing::info!("a site that could not be used can be used now");
        }
    }

    /// The site cannot be used, for a reason that users are told.
    pub fn close(&self, reason: String) {
        let last = self.closed().replace(reason.clone());
        if last.as_ref() != Some(&reason) {
            tracing::warn!(reason, "a site cannot be used; it is looked at again");
        }
    }
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
        let status = self.statuses.get(&site);
        let usable = status.map_or_else(
            || Err("this service is not connected to it".to_owned()),
            SiteStatus::usable,
        );
        usable.map_err(|reason| {
            Error::refused(
                ErrorCode::JobFlowUnavailable,
                format!("site {site} is unavailable: {reason}"),
            )
        })
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
