//! The pool as the service sees it: what it can be asked and told, as a trait.

use std::time::Duration;

use futures::future::BoxFuture;

use cts_shared::id::JobId;
use cts_shared::timestamp::UtcTime;

use super::machine_ad::MachineAd;
use super::proc_ad::{ProcAd, ProcName};

/// How far clocks may differ: the history is read back to that long before a submission.
const CLOCK_DIFFERENCE: Duration = Duration::from_hours(1);

/// Which procs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Procs {
    /// Every one that belongs to a job of this system.
    All,
    /// Those that say that they are a job's, in whatever cluster: anybody may submit one that does.
    OfJob(JobId),
    /// Those of these clusters, none if empty.
    OfClusters(Vec<i64>),
    /// These, none if empty.
    Named(Vec<ProcName>),
}

/// The pool did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// It did not answer, or a tool is missing: trying again may help.
    #[error("{0}")]
    Unavailable(String),
    /// It had no time to answer, and may have done it all the same: trying again may help.
    #[error("{0}")]
    TimedOut(String),
    /// It answered that it will not.
    #[error("{0}")]
    Refused(String),
}

/// A pool's queue, history and machines.
pub trait Pool: Send + Sync + std::fmt::Debug {
    /// Submits a description; the new cluster's id.
    ///
    /// # Errors
    /// When the description is refused, or the schedd does not answer: it may have taken it all the same.
    fn submit(&self, description: String) -> BoxFuture<'_, Result<i64, PoolError>>;

    /// The procs in the queue.
    ///
    /// # Errors
    /// When the schedd does not answer.
    fn queue(&self, procs: Procs) -> BoxFuture<'_, Result<Vec<ProcAd>, PoolError>>;

    /// The procs that have left the queue since `since`. It is read from its end, and for [`Procs::Named`] no
    /// further than until all have been found.
    ///
    /// # Errors
    /// When the schedd does not answer.
    fn history(
        &self,
        procs: Procs,
        since: UtcTime,
    ) -> BoxFuture<'_, Result<Vec<ProcAd>, PoolError>>;

    /// The procs of a job that have left the queue; `submitted` is when the job was.
    ///
    /// # Errors
    /// As for [`history`](Self::history).
    fn history_of_job(
        &self,
        procs: Procs,
        submitted: UtcTime,
    ) -> BoxFuture<'_, Result<Vec<ProcAd>, PoolError>> {
        self.history(procs, submitted.minus(CLOCK_DIFFERENCE))
    }

    /// Takes procs out of the queue; their executors get SIGTERM. Fine if there are none.
    ///
    /// # Errors
    /// When the schedd does not answer, or does not allow it.
    fn remove(&self, procs: Procs, reason: String) -> BoxFuture<'_, Result<(), PoolError>>;

    /// Lets held procs wait for a machine again. Fine if there are none.
    ///
    /// # Errors
    /// As for [`remove`](Self::remove).
    fn release(&self, procs: Procs, reason: String) -> BoxFuture<'_, Result<(), PoolError>>;

    /// The machines of the pool.
    ///
    /// # Errors
    /// When the collector does not answer.
    fn machines(&self) -> BoxFuture<'_, Result<Vec<MachineAd>, PoolError>>;
}
