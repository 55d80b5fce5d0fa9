//! Where the service keeps what it remembers: one store behind six traits.

use std::sync::Arc;

use crate::image_store::ImageStore;
use crate::job_store::JobStore;
use crate::lease_store::LeaseStore;
use crate::mongo::MongoSettings;
use crate::outbox::Outbox;
use crate::refdata_store::RefdataStore;
use crate::site_store::SiteStore;

/// Which store.
#[derive(Debug, Clone)]
pub enum StoreSettings {
    /// A file in the data directory, for one service.
    Sqlite,
    /// A database that several services may share.
    Mongo(MongoSettings),
}

/// A store, by what is asked of it.
#[derive(Debug, Clone)]
pub struct Stores {
    /// Jobs and their containers.
    pub jobs: Arc<dyn JobStore>,
    /// Registered images.
    pub images: Arc<dyn ImageStore>,
    /// Registered reference data.
    pub refdata: Arc<dyn RefdataStore>,
    /// Which sites are switched off.
    pub sites: Arc<dyn SiteStore>,
    /// The jobs' transitions, for those who are told of them.
    pub outbox: Arc<dyn Outbox>,
    /// Which of several services does what.
    pub leases: Arc<dyn LeaseStore>,
}

impl Stores {
    /// All that one store keeps.
    pub fn of<S>(store: S) -> Self
    where
        S: JobStore + ImageStore + RefdataStore + SiteStore + Outbox + LeaseStore + 'static,
    {
        let store = Arc::new(store);
        Self {
            jobs: Arc::clone(&store) as Arc<dyn JobStore>,
            images: Arc::clone(&store) as Arc<dyn ImageStore>,
            refdata: Arc::clone(&store) as Arc<dyn RefdataStore>,
            sites: Arc::clone(&store) as Arc<dyn SiteStore>,
            outbox: Arc::clone(&store) as Arc<dyn Outbox>,
            leases: store,
        }
    }
}
