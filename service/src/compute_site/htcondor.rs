//! The site `kbase`: executors as procs of an `HTCondor` pool (contract condor.md).
//!
//! What is submitted and what becomes of it is in [`crate::condor`]; this is the site's part in the life of a
//! job: submit once, cancel, say what the pool says.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Map, Value};
use uuid::Uuid;

use cts_shared::error_code::ErrorCode;
use cts_shared::id::{ContainerNumber, JobId};
use cts_shared::job_input::JobInput;

use crate::clock::Clock;
use crate::compute_site::{CleanError, ComputeSite, SiteError};
use crate::condor::pool::{Pool, PoolError, Procs};
use crate::condor::proc_ad::{ProcAd, ProcName, ProcStatus};
use crate::condor::reconcile::newest;
use crate::condor::submit_description::{SubmitDescription, SubmitJob, SubmitSettings};
use crate::error::Error;
use crate::identity::{Role, User};
use crate::job_store::{JobStore, JobSummary, StoreError, StoredJob};
use crate::lease_store::{Lease, LeaseRequest, LeaseStore};

/// How long a submission stays a service's own that does not go on with it.
const SUBMISSION_LEASE: Duration = Duration::from_mins(1);

/// A job older than that may have been submitted, by a program that took no lease.
const SUBMITTED_AT_ONCE: Duration = Duration::from_secs(10);

/// How often a submission that goes on says so: the pool's commands may take minutes.
const RENEW_EVERY: Duration = Duration::from_secs(15);

/// How long a submission that the pool refuses in the same words is tried again before the job fails: what the
/// pool refuses now (a limit, a full disk) it may take later.
const REFUSED_FOR: Duration = Duration::from_hours(1);

/// How long a cancel waits for the executors' end. The pool stops them in any case.
const CANCEL_WAIT: Duration = Duration::from_secs(60);

/// Between two looks at the queue meanwhile.
const CANCEL_POLL: Duration = Duration::from_secs(1);

/// The site.
#[derive(Debug)]
pub struct HtcondorSite {
    settings: SubmitSettings,
    pool: Arc<dyn Pool>,
    jobs: Arc<dyn JobStore>,
    leases: Arc<dyn LeaseStore>,
    clock: Arc<dyn Clock>,
}

/// What became of a submission.
#[derive(Debug)]
enum Submission {
    /// The pool has the job.
    Done,
    /// The lease may have been another's meanwhile.
    Lost,
}

impl HtcondorSite {
    /// A site over a pool.
    #[must_use]
    pub fn new(
        settings: SubmitSettings,
        pool: Arc<dyn Pool>,
        jobs: Arc<dyn JobStore>,
        leases: Arc<dyn LeaseStore>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            settings,
            pool,
            jobs,
            leases,
            clock,
        }
    }

    /// Submits a job that no cluster is known of, or finds the cluster of an earlier try.
    async fn submit_once(&self, job: JobId) -> Result<(), SiteError> {
        let now = self.clock.now();
        // Each try is a holder of its own: this service, too, may be at it twice.
        let request = LeaseRequest {
            name: format!("submit {job}"),
            holder: Uuid::new_v4().to_string(),
            now,
            until: now.plus(SUBMISSION_LEASE),
        };
        let lease = self.leases.take_lease(request.clone()).await;
        let earlier_try = match lease.map_err(store_failed)? {
            Lease::Held => return Err(SiteError::Busy),
            Lease::Fresh => false,
            Lease::Renewed | Lease::TakenOver => true,
        };
        let outcome = tokio::select! {
            outcome = self.submit_under_lease(job, earlier_try, &request) => outcome,
            () = self.renew_until_lost(&request) => Ok(Submission::Lost),
        };
        let outcome = match outcome {
            Ok(Submission::Done) => Ok(()),
            Ok(Submission::Lost) => {
                tracing::warn!(job.id = %job, "another service may submit the job: this one was too slow");
                return Err(SiteError::Busy);
            }
            Err(error) => Err(error),
        };
        match outcome {
            Err(error @ (SiteError::Unavailable(_) | SiteError::Busy)) => {
                self.lapse(request).await;
                Err(error)
            }
            outcome => {
                self.leases
                    .give_back_lease(request.name, request.holder)
                    .await
                    .map_err(store_failed)?;
                outcome
            }
        }
    }

    /// Keeps a lease; returns when it may have been another service's meanwhile.
    async fn renew_until_lost(&self, request: &LeaseRequest) {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            match self.is_renewed(request).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(%error, "a submission could not be kept for this service");
                }
            }
        }
    }

    /// Renews a lease that has been this try's without a break. One that has lapsed, or that is nobody's, was
    /// perhaps another service's, who took it, submitted the job and gave it back.
    async fn is_renewed(&self, request: &LeaseRequest) -> Result<bool, StoreError> {
        let now = self.clock.now();
        let renewed = LeaseRequest {
            now,
            until: now.plus(SUBMISSION_LEASE),
            ..request.clone()
        };
        Ok(self.leases.take_lease(renewed).await? == Lease::Renewed)
    }

    /// Lets the next try begin at once. It finds a lease that was not given back: the pool may have taken
    /// the job and must be asked first.
    async fn lapse(&self, request: LeaseRequest) {
        let now = self.clock.now();
        let lapsed = LeaseRequest {
            now,
            until: now,
            ..request
        };
        // If the store does not answer, it lapses later by itself.
        let _lapses_anyway = self.leases.take_lease(lapsed).await;
    }

    async fn submit_under_lease(
        &self,
        job: JobId,
        earlier_try: bool,
        lease: &LeaseRequest,
    ) -> Result<Submission, SiteError> {
        let Some(stored) = self.jobs.job(job).await.map_err(store_failed)? else {
            return Ok(Submission::Done);
        };
        if !stored.summary.notes.htcondor_cluster_ids.is_empty() {
            return Ok(Submission::Done);
        }
        // Over the same database, the existing service submits without a lease.
        let is_old = stored.summary.submitted() < self.clock.now().minus(SUBMITTED_AT_ONCE);
        let found = if earlier_try || is_old {
            self.find_cluster(job, &stored.summary).await?
        } else {
            None
        };
        // The process may have stood still since it took the lease.
        if found.is_none() && !self.is_renewed(lease).await.map_err(store_failed)? {
            return Ok(Submission::Lost);
        }
        let cluster = match found {
            Some(cluster) => {
                tracing::info!(job.id = %job, cluster, "found the cluster of an earlier submission");
                cluster
            }
            None => self.submit(job, &stored).await?,
        };
        self.jobs
            .add_htcondor_cluster(job, cluster)
            .await
            .map_err(store_failed)?;
        Ok(Submission::Done)
    }

    /// The cluster of a job whose submission had no answer, if there is one.
    async fn find_cluster(
        &self,
        job: JobId,
        summary: &JobSummary,
    ) -> Result<Option<i64>, SiteError> {
        let queued = self.pool.queue(Procs::OfJob(job)).await;
        let mut ads = queued.map_err(pool_failed)?;
        if ads.is_empty() {
            let procs = Procs::OfJob(job);
            let left = self.pool.history_of_job(procs, summary.submitted()).await;
            ads = left.map_err(pool_failed)?;
        }
        Ok(ads.iter().filter_map(ProcAd::cluster).min())
    }

    /// The clusters of a job: those that the store knows, without any the oldest in the queue. Others may say that
    /// they are the job's and be somebody else's.
    async fn clusters(&self, job: JobId) -> Result<Vec<i64>, SiteError> {
        let summary = self.jobs.job_summary(job).await.map_err(store_failed)?;
        let known = summary.map(|summary| summary.notes.htcondor_cluster_ids);
        if let Some(known) = known.filter(|known| !known.is_empty()) {
            return Ok(known);
        }
        let queued = self.pool.queue(Procs::OfJob(job)).await;
        Ok(newest(&[], &queued.map_err(pool_failed)?)
            .into_iter()
            .collect())
    }

    async fn submit(&self, job: JobId, stored: &StoredJob) -> Result<i64, SiteError> {
        let input = &stored.job_input;
        let submit_job = SubmitJob {
            id: job,
            user: &stored.summary.user,
            num_containers: input.num_containers,
            cpus: input.cpus,
            memory_bytes: input.memory_bytes,
            runtime: input.runtime.duration(),
            input_bytes: stored.summary.notes.input_bytes,
        };
        let description = SubmitDescription::new(&self.settings, &submit_job)
            .map_err(|error| SiteError::Refused(error.to_string()))?;
        let cluster = match self.pool.submit(description.to_string()).await {
            Ok(cluster) => cluster,
            Err(PoolError::Refused(message)) => {
                // Not since the job was submitted: until now the pool may have been away.
                let notice = stored.summary.notes.site_notice.as_ref();
                let refused_since = notice
                    .filter(|notice| notice.message.ends_with(&message))
                    .map(|notice| notice.since);
                let patience_ended = self.clock.now().minus(REFUSED_FOR);
                return Err(
                    if refused_since.is_some_and(|since| since < patience_ended) {
                        SiteError::Refused(message)
                    } else {
                        SiteError::Unavailable(message)
                    },
                );
            }
            Err(error) => return Err(pool_failed(error)),
        };
        tracing::info!(job.id = %job, cluster, "submitted to HTCondor");
        Ok(cluster)
    }
}

fn store_failed(error: crate::job_store::StoreError) -> SiteError {
    SiteError::Unavailable(error.to_string())
}

fn pool_failed(error: PoolError) -> SiteError {
    SiteError::Unavailable(error.to_string())
}

impl ComputeSite for HtcondorSite {
    fn check(&self, user: &User, job_input: &JobInput) -> Result<(), Error> {
        user.require_any(&[Role::KbaseStaff])?;
        // What cannot be written into a submit description is told now and not in the background.
        let job = SubmitJob {
            id: JobId::new(Uuid::nil()),
            user: &user.name,
            num_containers: job_input.num_containers,
            cpus: job_input.cpus,
            memory_bytes: job_input.memory_bytes,
            runtime: job_input.runtime.duration(),
            input_bytes: None,
        };
        SubmitDescription::new(&self.settings, &job)
            .map(drop)
            .map_err(|error| Error::refused(ErrorCode::IllegalParameter, error.to_string()))
    }

    fn start(
        &self,
        job: JobId,
        _containers: Vec<ContainerNumber>,
    ) -> BoxFuture<'_, Result<(), SiteError>> {
        async move {
            let known = self.jobs.job_summary(job).await.map_err(store_failed)?;
            match known {
                Some(summary) if summary.notes.htcondor_cluster_ids.is_empty() => {
                    self.submit_once(job).await
                }
                _ => Ok(()),
            }
        }
        .boxed()
    }

    fn cancel(&self, job: JobId) -> BoxFuture<'_, Result<(), SiteError>> {
        async move {
            let procs = Procs::OfClusters(self.clusters(job).await?);
            self.pool
                .remove(procs.clone(), "canceled by CTS".to_owned())
                .await
                .map_err(pool_failed)?;
            let waiting = async {
                loop {
                    let ads = self.pool.queue(procs.clone()).await.map_err(pool_failed)?;
                    if ads.is_empty() {
                        return Ok(());
                    }
                    tokio::time::sleep(CANCEL_POLL).await;
                }
            };
            match tokio::time::timeout(CANCEL_WAIT, waiting).await {
                Ok(gone) => gone,
                Err(_elapsed) => {
                    tracing::warn!(
                        job.id = %job,
                        "HTCondor has not stopped all executors of the canceled job yet; it will, when their \
                         workers answer"
                    );
                    Ok(())
                }
            }
        }
        .boxed()
    }

    fn runner_status(
        &self,
        job: JobId,
        container: ContainerNumber,
    ) -> BoxFuture<'_, Result<Map<String, Value>, Error>> {
        async move {
            let Some(summary) = self.jobs.job_summary(job).await? else {
                return Ok(Map::new());
            };
            let Some(cluster) = summary.notes.htcondor_cluster_ids.last().copied() else {
                return Ok(Map::new());
            };
            let procs = Procs::Named(vec![ProcName::of_container(cluster, container)]);
            let queued = self.pool.queue(procs.clone()).await.map_err(no_answer)?;
            let ad = match queued.into_iter().next() {
                Some(ad) => Some(ad),
                None => {
                    let left = self.pool.history_of_job(procs, summary.submitted()).await;
                    left.map_err(no_answer)?.into_iter().next()
                }
            };
            ad.map(|ad| ad.view()).ok_or_else(|| {
                Error::Internal(format!(
                    "HTCondor knows nothing of container {container} of job {job} (cluster {cluster}), neither in \
                     its queue nor in its history"
                ))
            })
        }
        .boxed()
    }

    /// Nothing: what the pool wrote into `HTCondor.initialdir` is its administrators' (contract service.md,
    /// section 6, "Clean job").
    fn clean(
        &self,
        job: JobId,
        containers: Vec<ContainerNumber>,
    ) -> BoxFuture<'_, Result<(), CleanError>> {
        async move {
            let clusters = self.clusters(job).await;
            let clusters = clusters.map_err(|error| CleanError::Failed(error.to_string()))?;
            let queued = self
                .pool
                .queue(Procs::OfClusters(clusters))
                .await
                .map_err(|error| CleanError::Failed(error.to_string()))?;
            let running: Vec<ContainerNumber> = queued
                .iter()
                .filter(|ad| ad.status() != Some(ProcStatus::Held))
                .filter_map(ProcAd::container)
                .filter(|container| containers.contains(container))
                .collect();
            if running.is_empty() {
                Ok(())
            } else {
                Err(CleanError::StillRunning(running))
            }
        }
        .boxed()
    }

    /// Executors go on without the service: they are the pool's.
    fn shut_down(&self) -> BoxFuture<'_, ()> {
        futures::future::ready(()).boxed()
    }
}

fn no_answer(error: PoolError) -> Error {
    Error::Unavailable {
        message: format!("HTCondor does not answer: {error}"),
        retry_after: Duration::from_secs(30),
    }
}
