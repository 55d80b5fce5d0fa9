//! A place where executors run, as a trait.

use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use cts_shared::id::{ContainerNumber, JobId};
use cts_shared::job_input::JobInput;

use crate::error::Error;
use crate::identity::User;

pub mod htcondor;
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
pub enum SiteError {
    /// Not now: trying again may help.
    #[error("{0}")]
    Unavailable(String),
    /// Never: it cannot take this job.
    #[error("{0}")]
    Refused(String),
    /// Another service over the same store is at it.
    #[error("another service is doing it")]
    Busy,
}

/// Something of a job is left at its site.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CleanError {
    /// Executors have reported the ends of their containers and have not ended yet.
    #[error("the executors of {} of its containers are still running", .0.len())]
    StillRunning(Vec<ContainerNumber>),
    /// Something could not be removed.
    #[error("{0}")]
    Failed(String),
}

impl From<CleanError> for Error {
    fn from(error: CleanError) -> Self {
        match error {
            CleanError::StillRunning(_) => Self::Unavailable {
                message: format!("the job cannot be cleaned yet: {error}; try again later"),
                retry_after: Duration::from_secs(30),
            },
            CleanError::Failed(message) => Self::Internal(message),
        }
    }
}

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

    /// What the site's batch system says about a container: its own attributes by name, none if it
    /// does not have the container yet.
    ///
    /// # Errors
    /// 100000 if the site has no batch system; or when that does not know the container or does not
    /// answer.
    fn runner_status(
        &self,
        job: JobId,
        container: ContainerNumber,
    ) -> BoxFuture<'_, Result<Map<String, Value>, Error>>;

    /// Removes what ended containers of a job left behind. Those that are not there are passed over.
    /// What a running executor has is left alone.
    ///
    /// # Errors
    /// [`CleanError::StillRunning`], when all the others are removed, or that something could not be
    /// removed.
    fn clean(
        &self,
        job: JobId,
        containers: Vec<ContainerNumber>,
    ) -> BoxFuture<'_, Result<(), CleanError>>;

    /// Stops all executors because the service stops. Containers that were not started stay as they
    /// are.
    fn shut_down(&self) -> BoxFuture<'_, ()>;
}
