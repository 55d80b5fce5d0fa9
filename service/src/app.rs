//! The service's parts, built once and shared.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::api::events::Followers;
use crate::background::finisher::DueJobs;
use crate::broker::MessageBroker;
use crate::clock::Clock;
use crate::config::Config;
use crate::identity::Identity;
use crate::image_registry::ImageRegistry;
use crate::image_store::ImageStore;
use crate::job_store::JobStore;
use crate::lease_store::LeaseStore;
use crate::metrics::Metrics;
use crate::object_store::ObjectStore;
use crate::outbox::Outbox;
use crate::readiness::Readiness;
use crate::refdata_stager::RefdataStagers;
use crate::refdata_store::RefdataStore;
use crate::site_store::SiteStore;
use crate::sites::Sites;

/// The ports and the settings.
#[derive(Debug)]
pub struct App {
    /// Jobs.
    pub jobs: Arc<dyn JobStore>,
    /// Registered images.
    pub images: Arc<dyn ImageStore>,
    /// Registered reference data.
    pub refdata: Arc<dyn RefdataStore>,
    /// Which sites are switched off.
    pub site_store: Arc<dyn SiteStore>,
    /// The jobs' transitions, for those who are told of them.
    pub outbox: Arc<dyn Outbox>,
    /// Which of several services does what.
    pub leases: Arc<dyn LeaseStore>,
    /// Who is told of the transitions, if anyone.
    pub broker: Option<Arc<dyn MessageBroker>>,
    /// Users.
    pub identity: Arc<dyn Identity>,
    /// Where containers run.
    pub sites: Sites,
    /// Who brings reference data to the sites.
    pub refdata_stagers: RefdataStagers,
    /// Inputs, outputs and logs.
    pub object_store: Arc<dyn ObjectStore>,
    /// Where images come from.
    pub registry: Arc<dyn ImageRegistry>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The settings.
    pub config: Config,
    /// What is counted and measured.
    pub metrics: Arc<Metrics>,
    /// Whether what the service depends on is there.
    pub readiness: Readiness,
    /// To the finisher, when a job can end.
    pub due_jobs: DueJobs,
    /// Who follows events.
    pub followers: Arc<Followers>,
    /// Cancelled when the service begins to stop: requests are better sent elsewhere.
    pub draining: CancellationToken,
    /// Cancelled when the service stops: answers that never end by themselves end then.
    pub stopping: CancellationToken,
}
