//! What every store must do: cases, and random histories compared with a model. Each kind of store
//! has a file that runs them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at what it did not expect"
)]

mod fixtures;
mod images;
mod jobs;
mod leases;
mod lists;
mod migrate;
mod model;
mod mongo;
mod outbox;
mod refdata;
mod sites;
mod sqlite;

use cts_service::image_store::ImageStore;
use cts_service::job_store::JobStore;
use cts_service::lease_store::LeaseStore;
use cts_service::outbox::Outbox;
use cts_service::refdata_store::RefdataStore;
use cts_service::site_store::SiteStore;

/// Keeps everything that the service remembers.
pub(crate) trait Store:
    JobStore + ImageStore + RefdataStore + SiteStore + LeaseStore + Outbox + Clone + 'static
{
}

impl<T: JobStore + ImageStore + RefdataStore + SiteStore + LeaseStore + Outbox + Clone + 'static>
    Store for T
{
}

/// Runs every case on a store of its own.
pub(crate) async fn check<S: Store, F: Future<Output = S>>(mut fresh: impl FnMut() -> F) {
    jobs::check(&mut fresh).await;
    lists::check(&mut fresh).await;
    outbox::check(&mut fresh).await;
    images::check(&mut fresh).await;
    refdata::check(&mut fresh).await;
    sites::check(&fresh().await).await;
    leases::check(&fresh().await).await;
}
