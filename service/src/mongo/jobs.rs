//! Jobs read, listed and noted upon.

use std::cmp::Reverse;
use std::str::FromStr;
use std::time::Duration;

use futures::TryStreamExt;
use futures::future::BoxFuture;
use mongodb::bson::{Document, doc};
use serde_json::{Map, Value};

use cts_shared::id::JobId;
use cts_shared::site::Site;
use cts_shared::state::JobState;
use cts_shared::state::job_flow::{Change, JobRecord};
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::job::SiteNotice;

use crate::error::Error;
use crate::job_store::{
    FOREIGN_FOR, JobFilter, JobStep, JobStore, JobSummary, ListedJob, NewJob, StoreError, StoredJob,
};

use super::documents::{JobDocument, corrupt, date, from_json, readable};
use super::indexes::{running_states, terminal_states};
use super::retry::retried;
use super::{MongoStore, Name};

/// A job that the existing service left behind longer ago than that is for an administrator to judge: nobody may want it any more.
const FOREIGN_AT_MOST: Duration = Duration::from_hours(24);

impl JobStore for MongoStore {
    fn insert_job(&self, job: NewJob) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.insert(job))
    }

    fn job(&self, id: JobId) -> BoxFuture<'_, Result<Option<StoredJob>, StoreError>> {
        Box::pin(async move {
            let without = doc! {"_cts.redo": 0};
            let Some(mut job) = self.find_job(id, without).await? else {
                return Ok(None);
            };
            self.complete_outputs(id, &mut job).await?;
            let site = job.site()?;
            Ok(Some(StoredJob {
                job_input: job.job_input()?,
                image: job.image()?,
                input_file_count: job.input_file_count(),
                summary: job.into_summary(site),
            }))
        })
    }

    fn job_summary(&self, id: JobId) -> BoxFuture<'_, Result<Option<JobSummary>, StoreError>> {
        Box::pin(async move {
            let Some(job) = self.find_job(id, without_files()).await? else {
                return Ok(None);
            };
            let site = job.site()?;
            Ok(Some(job.into_summary(site)))
        })
    }

    fn job_record(&self, id: JobId) -> BoxFuture<'_, Result<Option<JobRecord>, StoreError>> {
        Box::pin(self.read_record(id))
    }

    fn change_job(&self, id: JobId, step: JobStep) -> BoxFuture<'_, Result<Option<Change>, Error>> {
        Box::pin(self.step(id, step))
    }

    fn pending_jobs(
        &self,
        after: Option<JobId>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<JobId>, StoreError>> {
        Box::pin(async move {
            // Every id is greater than the empty text.
            let after = after.map(|id| id.to_string()).unwrap_or_default();
            let filter = doc! {
                "id": {"$gt": after},
                // What the existing service is canceling has no mark of ours.
                "$or": [{"_cts.pending": true}, {"state": JobState::Canceling.as_str()}],
            };
            self.find_ids("find jobs to finish", filter, doc! {"id": 1}, limit)
                .await
        })
    }

    fn running_jobs(&self, site: Site) -> BoxFuture<'_, Result<Vec<JobId>, StoreError>> {
        Box::pin(async move {
            let filter = doc! {
                "job_input.cluster": site.as_str(),
                "state": {"$in": running_states()},
            };
            self.find_ids(
                "find running jobs",
                filter,
                doc! {"_update_time": 1},
                u32::MAX,
            )
            .await
        })
    }

    fn unstarted_jobs(
        &self,
        before: UtcTime,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<(JobId, Site)>, StoreError>> {
        Box::pin(async move {
            let filter = doc! {
                "state": JobState::Created.as_str(),
                "$or": [
                    {"_cts.version": {"$exists": true}, "_update_time": {"$lt": date(before)}},
                    {"_cts.version": {"$exists": false}, "_update_time": {
                        "$gt": date(before.minus(FOREIGN_AT_MOST)),
                        "$lt": date(before.minus(FOREIGN_FOR)),
                    }},
                ],
            };
            let found = self
                .find_jobs(
                    "find jobs that no site has taken",
                    filter,
                    doc! {"id": 1, "job_input.cluster": 1},
                    doc! {"_update_time": 1},
                    limit,
                )
                .await?;
            Ok(readable(found, |document| {
                Ok((id_of(&document)?, site_of(&document)?))
            }))
        })
    }

    fn list_jobs(
        &self,
        filter: JobFilter,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<ListedJob>, StoreError>> {
        Box::pin(async move {
            let found = self
                .find_jobs(
                    "list jobs",
                    query(&filter),
                    without_files(),
                    // As the indexes have it; those of the same time are put in order below.
                    doc! {"_update_time": -1},
                    limit,
                )
                .await?;
            let mut jobs = readable(found, |document| {
                let mut job = JobDocument::read(document)?;
                let site = job.site()?;
                Ok(ListedJob {
                    job_input: job.preview()?,
                    image: job.image()?,
                    input_file_count: job.input_file_count(),
                    summary: job.into_summary(site),
                })
            });
            jobs.sort_by_cached_key(|job| {
                let last = job.summary.transitions.last();
                (Reverse(last.map(|last| last.time)), job.summary.id)
            });
            Ok(jobs)
        })
    }

    fn change_admin_meta(
        &self,
        id: JobId,
        set: Map<String, Value>,
        unset: Vec<String>,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(async move {
            let path = |key: &str| format!("admin_meta.{key}");
            let setting: Document = set
                .into_iter()
                .filter(|(key, _)| !unset.contains(key))
                .map(|(key, value)| (path(&key), from_json(value)))
                .collect();
            let unsetting: Document = unset.iter().map(|key| (path(key), "".into())).collect();
            let mut update = Document::new();
            for (operator, members) in [("$set", setting), ("$unset", unsetting)] {
                if !members.is_empty() {
                    update.insert(operator, members);
                }
            }
            if update.is_empty() {
                return Ok(self.job_summary(id).await?.is_some());
            }
            self.note(
                "note something on a job",
                doc! {"id": id.to_string()},
                update,
            )
            .await
        })
    }

    fn add_htcondor_cluster(
        &self,
        id: JobId,
        cluster: i64,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.note(
                "note the cluster of a job",
                doc! {"id": id.to_string()},
                doc! {"$addToSet": {"htcondor_details.cluster_id": cluster}},
            )
            .await
            .map(drop)
        })
    }

    fn set_site_notice(
        &self,
        id: JobId,
        notice: Option<SiteNotice>,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let update = match notice {
                Some(SiteNotice { message, since }) => doc! {"$set": {
                    "_cts.site_notice": {"message": message, "since": date(since)},
                }},
                None => doc! {"$unset": {"_cts.site_notice": ""}},
            };
            self.note(
                "note what a job waits for",
                doc! {"id": id.to_string()},
                update,
            )
            .await
            .map(drop)
        })
    }

    fn jobs_with_statistics_due(
        &self,
        site: Site,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<JobId>, StoreError>> {
        Box::pin(async move {
            let filter = doc! {
                "_cts.statistics_due": true,
                "job_input.cluster": site.as_str(),
            };
            self.find_ids(
                "find jobs without statistics",
                filter,
                doc! {"id": 1},
                limit,
            )
            .await
        })
    }

    fn jobs_to_clean(
        &self,
        before: UtcTime,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<JobId>, StoreError>> {
        Box::pin(async move {
            let filter = doc! {
                "cleaned": false,
                "state": {"$in": terminal_states()},
                "_update_time": {"$lt": date(before)},
            };
            self.find_ids(
                "find jobs to clean",
                filter,
                doc! {"_update_time": 1},
                limit,
            )
            .await
        })
    }

    fn mark_cleaned(&self, id: JobId) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            self.note(
                "note that a job is cleaned",
                doc! {"id": id.to_string(), "state": {"$in": terminal_states()}},
                doc! {"$set": {"cleaned": true}},
            )
            .await
            .map(drop)
        })
    }
}

impl MongoStore {
    async fn find_job(
        &self,
        id: JobId,
        projection: Document,
    ) -> Result<Option<JobDocument>, StoreError> {
        let jobs = self.settled(Name::Jobs);
        let found = retried("read a job", |_| {
            jobs.find_one(doc! {"id": id.to_string()})
                .projection(projection.clone())
                .into_future()
        })
        .await?;
        found.map(JobDocument::read).transpose()
    }

    async fn find_jobs(
        &self,
        action: &'static str,
        filter: Document,
        projection: Document,
        sort: Document,
        limit: u32,
    ) -> Result<Vec<Document>, StoreError> {
        if limit == 0 {
            // Which means no limit to the server.
            return Ok(Vec::new());
        }
        let jobs = self.settled(Name::Jobs);
        retried(action, |_| async {
            jobs.find(filter.clone())
                .projection(projection.clone())
                .sort(sort.clone())
                .limit(limit.into())
                .await?
                .try_collect()
                .await
        })
        .await
    }

    async fn find_ids(
        &self,
        action: &'static str,
        filter: Document,
        sort: Document,
        limit: u32,
    ) -> Result<Vec<JobId>, StoreError> {
        let found = self
            .find_jobs(action, filter, doc! {"id": 1}, sort, limit)
            .await?;
        Ok(readable(found, |document| id_of(&document)))
    }

    /// Changes what is noted on a job. False if the filter finds none.
    async fn note(
        &self,
        action: &'static str,
        filter: Document,
        update: Document,
    ) -> Result<bool, StoreError> {
        let jobs = self.newest_of(Name::Jobs);
        let updated = retried(action, |_| {
            jobs.update_one(filter.clone(), update.clone())
                .into_future()
        })
        .await?;
        Ok(updated.matched_count > 0)
    }
}

/// The members of a job that lists and summaries leave out.
fn without_files() -> Document {
    doc! {"job_input.input_files": 0, "outputs": 0, "_cts.outputs": 0, "_cts.redo": 0}
}

fn query(filter: &JobFilter) -> Document {
    let mut query = Document::new();
    if let Some(user) = &filter.user {
        query.insert("user", user);
    }
    if let Some(site) = filter.site {
        query.insert("job_input.cluster", site.as_str());
    }
    if let Some(state) = filter.state {
        query.insert("state", state.as_str());
    }
    let mut times = Document::new();
    if let Some(after) = filter.after {
        times.insert("$gte", date(after));
    }
    if let Some(before) = filter.before {
        times.insert("$lt", date(before));
    }
    if !times.is_empty() {
        query.insert("_update_time", times);
    }
    query
}

fn id_of(document: &Document) -> Result<JobId, StoreError> {
    let id = document.get_str("id").unwrap_or_default();
    JobId::from_str(id).map_err(|error| corrupt("job id", error))
}

fn site_of(document: &Document) -> Result<Site, StoreError> {
    let site = document
        .get_document("job_input")
        .and_then(|input| input.get_str("cluster"))
        .unwrap_or_default();
    Site::from_str(site).map_err(|error| corrupt("site of a job", error))
}
