//! Where reference data is staged, as the server sees it.

use std::sync::Arc;

use cts_shared::id::RefdataId;
use cts_shared::wire::refdata::RefdataLocalStatus;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::refdata::{
    Item, RefdataError, RefdataStore, Staged, StagedItem, StagingCounters, StagingError,
};
use crate::transfer::TransferEngine;

/// A place for reference data. The double in tests stages nothing and says what the test wants.
pub trait StagingArea: Send + Sync + std::fmt::Debug {
    /// Sees to it that the item is there, complete and checked; see [`RefdataStore::stage`].
    fn stage<'a>(
        &'a self,
        item: &'a Item,
        counters: Arc<StagingCounters>,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Staged, StagingError>>;

    /// How far an item is. Blocks.
    ///
    /// # Errors
    /// When the place cannot be read.
    fn status(&self, id: &RefdataId) -> Result<RefdataLocalStatus, RefdataError>;

    /// All there is. Blocks.
    ///
    /// # Errors
    /// When the place cannot be read.
    fn list(&self) -> Result<Vec<StagedItem>, RefdataError>;
}

/// Directories of this machine, filled from S3.
#[derive(Debug)]
pub struct DiskArea {
    /// The directories.
    pub store: RefdataStore,
    /// Fetches the objects.
    pub engine: TransferEngine,
}

impl StagingArea for DiskArea {
    fn stage<'a>(
        &'a self,
        item: &'a Item,
        counters: Arc<StagingCounters>,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Staged, StagingError>> {
        self.store
            .stage(item, &self.engine, counters, cancel)
            .boxed()
    }

    fn status(&self, id: &RefdataId) -> Result<RefdataLocalStatus, RefdataError> {
        self.store.status(id)
    }

    fn list(&self) -> Result<Vec<StagedItem>, RefdataError> {
        self.store.list()
    }
}
