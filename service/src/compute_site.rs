//! A place where executors run, as a trait.

use futures::future::BoxFuture;
use tokio::sync::mpsc;

use cts_shared::id::{ContainerNumber, JobId};
use cts_shared::job_input::JobInput;

use crate::error::Error;
use crate::identity::User;

pub mod local;

/// Something a site noticed by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SiteEvent {
    /// An executor is gone. If its container has not ended by then, it never will.
    ExecutorEnded {
        /// The job.
        job: JobId,
        /// The container.
        container: ContainerNumber,
        /// How it ended, as a sentence for administrators.
        description: String,
        /// The end of what it wrote, for administrators; empty if it wrote nothing.
        last_output: String,
    },
}

/// Where sites send what they notice. Bounded: a site waits while the service is busy.
pub type SiteEvents = mpsc::Sender<SiteEvent>;

/// A site did not do what it was asked to.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct SiteError(pub String);

/// Runs executors.
pub trait ComputeSite: Send + Sync + std::fmt::Debug {
    /// The site's own rules for submissions, beyond its limits.
    ///
    /// # Errors
    /// What the user must be told.
    fn check(&self, user: &User, job_input: &JobInput) -> Result<(), Error>;

    /// Takes over containers of a stored job: an executor is started for each as soon as there is
    /// room. Containers the site has taken over already are left alone, so that asking again is safe.
    ///
    /// # Errors
    /// When the site does not take them.
    fn start(
        &self,
        job: JobId,
        containers: Vec<ContainerNumber>,
    ) -> BoxFuture<'_, Result<(), SiteError>>;

    /// Stops all executors of a job and returns when they are gone. A job the site does not know has
    /// none: that is fine.
    ///
    /// # Errors
    /// When executors may be left.
    fn cancel(&self, job: JobId) -> BoxFuture<'_, Result<(), SiteError>>;

    /// Stops all executors because the service stops. Containers that were not started stay as they
    /// are.
    fn shut_down(&self) -> BoxFuture<'_, ()>;
}
