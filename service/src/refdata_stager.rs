//! Who brings reference data to a site, as a trait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use cts_shared::id::RefdataId;
use cts_shared::site::Site;
use cts_shared::wire::refdata::StagingProgress;

mod executors;
mod local;
mod server;

pub use executors::StagedByExecutors;
pub use local::{LocalStager, LocalStagerSettings};
pub use server::{ServerStager, ServerStagerSettings};

/// What is to be staged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagingItem {
    /// The reference data.
    pub id: RefdataId,
    /// The object: bucket and key.
    pub file: String,
    /// Base64 of the object's CRC64NVME, if it was noted.
    pub crc64nvme: Option<String>,
    /// Whether the object is an archive that is unpacked.
    pub unpack: bool,
}

/// What became of a request to stage something.
#[expect(missing_debug_implementations, reason = "a future has nothing to show")]
pub enum Staging {
    /// Somebody else stages it, and reports the states from `download_submitted` on.
    HandedOver,
    /// It is staged while somebody waits for this.
    UnderWay(BoxFuture<'static, Result<(), StagingError>>),
}

/// Why something is not staged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StagingError {
    /// It cannot be; a sentence for administrators.
    #[error("{0}")]
    Failed(String),
    /// Whoever would take it over does not answer, or their answer was lost. Asking again may help.
    #[error("{0}")]
    Unavailable(String),
    /// The service stops, or somebody ended the work. It is taken up again.
    #[error("it was told to stop")]
    Stopped,
}

/// Brings reference data to a site.
pub trait RefdataStager: Send + Sync + std::fmt::Debug {
    /// Has something staged. Asking again, even while it is under way or when it is there, is safe. May take
    /// minutes.
    ///
    /// # Errors
    /// [`StagingError`].
    fn stage(&self, item: StagingItem) -> BoxFuture<'_, Result<Staging, StagingError>>;

    /// Whether somebody else reports how a staging goes on, so that one in state `download_submitted` is theirs.
    fn hands_over(&self) -> bool;

    /// How long one that is [`StagingError::Unavailable`] is asked again.
    fn ask_for(&self) -> Duration {
        Duration::ZERO
    }

    /// Whether a staging could be begun now.
    ///
    /// # Errors
    /// Why not, for operators.
    fn check(&self) -> BoxFuture<'_, Result<(), String>>;

    /// How far a staging is, if it is known here.
    fn progress<'a>(&'a self, _id: &'a RefdataId) -> BoxFuture<'a, Option<StagingProgress>> {
        futures::future::ready(None).boxed()
    }

    /// Stops what is under way because the service stops.
    fn shut_down(&self) -> BoxFuture<'_, ()> {
        futures::future::ready(()).boxed()
    }
}

/// The stagers by site. Sites without one have no reference data.
#[derive(Debug, Clone, Default)]
pub struct RefdataStagers(BTreeMap<Site, Arc<dyn RefdataStager>>);

impl RefdataStagers {
    /// Stagers of these sites.
    pub fn new(stagers: impl IntoIterator<Item = (Site, Arc<dyn RefdataStager>)>) -> Self {
        Self(stagers.into_iter().collect())
    }

    /// A site's stager, if it has one.
    #[must_use]
    pub fn of(&self, site: Site) -> Option<&Arc<dyn RefdataStager>> {
        self.0.get(&site)
    }

    /// All of them, by site.
    pub fn iter(&self) -> impl Iterator<Item = (Site, &Arc<dyn RefdataStager>)> {
        self.0.iter().map(|(site, stager)| (*site, stager))
    }
}
