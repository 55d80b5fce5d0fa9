//! Counts the states that jobs enter, whoever has them do so.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Map, Value};

use cts_shared::id::JobId;
use cts_shared::site::Site;
use cts_shared::state::JobState;
use cts_shared::state::job_flow::{Change, JobRecord};
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::job::SiteNotice;

use crate::error::Error;
use crate::metrics::JobTransitions;

use super::{JobFilter, JobStep, JobStore, JobSummary, ListedJob, NewJob, StoreError, StoredJob};

/// A job store whose stored transitions are counted.
#[derive(Debug)]
pub struct CountedJobStore {
    store: Arc<dyn JobStore>,
    transitions: JobTransitions,
}

impl CountedJobStore {
    /// Counts the transitions stored from now on.
    pub fn new(store: Arc<dyn JobStore>, transitions: JobTransitions) -> Self {
        Self { store, transitions }
    }
}

impl JobStore for CountedJobStore {
    fn insert_job(&self, job: NewJob) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            let entered: Vec<JobState> = job
                .record
                .transitions
                .iter()
                .map(|transition| transition.state)
                .collect();
            self.store.insert_job(job).await?;
            self.transitions.count(entered);
            Ok(())
        }
        .boxed()
    }

    fn change_job(&self, id: JobId, step: JobStep) -> BoxFuture<'_, Result<Option<Change>, Error>> {
        async move {
            let change = self.store.change_job(id, step).await?;
            let transitions = change.iter().flat_map(|change| &change.transitions);
            self.transitions
                .count(transitions.map(|transition| transition.state));
            Ok(change)
        }
        .boxed()
    }

    fn job(&self, id: JobId) -> BoxFuture<'_, Result<Option<StoredJob>, StoreError>> {
        self.store.job(id)
    }

    fn job_summary(&self, id: JobId) -> BoxFuture<'_, Result<Option<JobSummary>, StoreError>> {
        self.store.job_summary(id)
    }

    fn job_record(&self, id: JobId) -> BoxFuture<'_, Result<Option<JobRecord>, StoreError>> {
        self.store.job_record(id)
    }

    fn pending_jobs(
        &self,
        after: Option<JobId>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<JobId>, StoreError>> {
        self.store.pending_jobs(after, limit)
    }

    fn running_jobs(&self, site: Site) -> BoxFuture<'_, Result<Vec<JobId>, StoreError>> {
        self.store.running_jobs(site)
    }

    fn unstarted_jobs(
        &self,
        before: UtcTime,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<(JobId, Site)>, StoreError>> {
        self.store.unstarted_jobs(before, limit)
    }

    fn list_jobs(
        &self,
        filter: JobFilter,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<ListedJob>, StoreError>> {
        self.store.list_jobs(filter, limit)
    }

    fn change_admin_meta(
        &self,
        id: JobId,
        set: Map<String, Value>,
        unset: Vec<String>,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.store.change_admin_meta(id, set, unset)
    }

    fn add_htcondor_cluster(
        &self,
        id: JobId,
        cluster: i64,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        self.store.add_htcondor_cluster(id, cluster)
    }

    fn set_site_notice(
        &self,
        id: JobId,
        notice: Option<SiteNotice>,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        self.store.set_site_notice(id, notice)
    }

    fn jobs_with_statistics_due(
        &self,
        site: Site,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<JobId>, StoreError>> {
        self.store.jobs_with_statistics_due(site, limit)
    }

    fn jobs_to_clean(
        &self,
        before: UtcTime,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<JobId>, StoreError>> {
        self.store.jobs_to_clean(before, limit)
    }

    fn mark_cleaned(&self, id: JobId) -> BoxFuture<'_, Result<(), StoreError>> {
        self.store.mark_cleaned(id)
    }
}
