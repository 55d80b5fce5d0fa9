//! The database as a source and as a copy.
//!
//! A copied job is written as a new one is, the job's document last: before it is there, nobody looks for
//! the rest. What a run that was killed has left of a job is found under the job's id, and replaced.

use futures::TryStreamExt;
use futures::future::{BoxFuture, try_join};
use mongodb::bson::{Bson, Document, doc};
use serde::Deserialize;
use uuid::Uuid;

use cts_shared::id::{ContainerNumber, JobId};
use cts_shared::state::job_flow::{ContainerRecord, JobOutcome};
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::image::Image;

use crate::job_store::{JobSummary, NewJob, StoreError};
use crate::outbox::Outbox;
use crate::refdata_store::Refdata;
use crate::store_copy::{KeptLease, LogEntry, Sizes, StoreCopy, TimeUnit, WholeJob, as_new};

use super::documents::{self, OURS, Redo, date, from_json, read};
use super::refdata::read_refdata;
use super::retry::{retried, store_error};
use super::{MongoStore, Name};

const ACTION: &str = "store a copy of a job";

/// The version of a copied job, and of each of its containers.
const VERSION: i64 = 1;

#[derive(Deserialize)]
struct Logged {
    #[serde(rename = "_id")]
    number: i64,
    trans_id: String,
    #[serde(default)]
    to_send: bool,
}

#[derive(Deserialize)]
struct StoredLease {
    #[serde(rename = "_id")]
    name: String,
    holder: String,
    until: UtcTime,
}

impl StoreCopy for MongoStore {
    fn time_unit(&self) -> TimeUnit {
        TimeUnit::Millisecond
    }

    /// Numbers the transitions that were not numbered or not sent yet, as a service does that starts.
    fn settle(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async {
            self.log_forgotten().await?;
            let any_time = UtcTime::new(jiff::Timestamp::MAX);
            self.adopt(any_time).await.map(drop)
        })
    }

    fn sizes(&self) -> BoxFuture<'_, Result<Sizes, StoreError>> {
        Box::pin(async {
            let count = async |name| {
                let collection = self.settled(name);
                retried("count the jobs", |_| {
                    collection.count_documents(doc! {}).into_future()
                })
                .await
            };
            let (jobs, log) = try_join(count(Name::Jobs), count(Name::Transitions)).await?;
            Ok(Sizes { jobs, log })
        })
    }

    fn job_ids(
        &self,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        Box::pin(async move {
            let jobs = self.settled(Name::Jobs);
            // Only texts are greater than a text.
            let filter = match after {
                Some(after) => doc! {"id": {"$gt": after}},
                None => doc! {"id": {"$gte": ""}},
            };
            let found: Vec<Document> = retried("list the jobs", |_| async {
                jobs.find(filter.clone())
                    .projection(doc! {"_id": 0, "id": 1})
                    .sort(doc! {"id": 1})
                    .limit(i64::try_from(limit).unwrap_or(i64::MAX))
                    .await?
                    .try_collect()
                    .await
            })
            .await?;
            Ok(found
                .iter()
                .filter_map(|document| document.get_str("id").ok())
                .map(ToOwned::to_owned)
                .collect())
        })
    }

    fn log_entries<'a>(
        &'a self,
        job: &'a JobSummary,
    ) -> BoxFuture<'a, Result<Vec<LogEntry>, StoreError>> {
        Box::pin(async move {
            let entries = self.logged(job).await?;
            let is_logged = |trans_id: &str| entries.iter().any(|entry| entry.trans_id == trans_id);
            let comes_later = job
                .transitions
                .iter()
                .skip_while(|one| !is_logged(&one.trans_id))
                .any(|one| !is_logged(&one.trans_id));
            if !comes_later {
                return Ok(entries);
            }
            // The existing service went on with a job of ours. Our next step on it would number these.
            self.log_job(job.id).await?;
            self.logged(job).await
        })
    }

    fn insert_whole_job(&self, job: WholeJob) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.insert_copy(job))
    }

    fn all_images(&self) -> BoxFuture<'_, Result<Vec<Result<Image, StoreError>>, StoreError>> {
        Box::pin(async {
            let images = self.settled(Name::Images);
            let found: Vec<Document> = retried("read the images", |_| async {
                images
                    .find(doc! {})
                    .sort(doc! {"name": 1, "_id": 1})
                    .await?
                    .try_collect()
                    .await
            })
            .await?;
            Ok(found
                .into_iter()
                .map(|document| {
                    let name = document.get_str("name").unwrap_or("without name");
                    read(&format!("image {name}"), document)
                })
                .collect())
        })
    }

    fn all_refdata(&self) -> BoxFuture<'_, Result<Vec<Result<Refdata, StoreError>>, StoreError>> {
        Box::pin(async {
            let found = self.refdata_where("read the reference data", doc! {});
            Ok(found.await?.into_iter().map(read_refdata).collect())
        })
    }

    fn leases(&self) -> BoxFuture<'_, Result<Vec<KeptLease>, StoreError>> {
        Box::pin(async {
            let leases = self.newest_of(Name::Leases);
            let found: Vec<Document> = retried("read the leases", |_| async {
                leases
                    .find(doc! {})
                    .sort(doc! {"_id": 1})
                    .await?
                    .try_collect()
                    .await
            })
            .await?;
            found
                .into_iter()
                .map(|document| {
                    let lease: StoredLease = read("lease", document)?;
                    Ok(KeptLease {
                        name: lease.name,
                        holder: lease.holder,
                        until: Some(lease.until),
                    })
                })
                .collect()
        })
    }
}

impl MongoStore {
    /// A job's part of the log as it is.
    async fn logged(&self, job: &JobSummary) -> Result<Vec<LogEntry>, StoreError> {
        let log = self.newest_of(Name::Transitions);
        let of_job = doc! {"job_id": job.id.to_string()};
        let found: Vec<Document> = retried("read a job's transitions", |_| async {
            log.find(of_job.clone())
                .sort(doc! {"_id": 1})
                .await?
                .try_collect()
                .await
        })
        .await?;
        found
            .into_iter()
            .map(|document| {
                let logged: Logged = read(&format!("transition of job {}", job.id), document)?;
                // One that was not sent is sent anyway.
                let was_sent = job
                    .transitions
                    .iter()
                    .any(|one| one.trans_id == logged.trans_id && one.notif_sent);
                Ok(LogEntry {
                    trans_id: logged.trans_id,
                    number: logged.number,
                    resend: logged.to_send && was_sent,
                })
            })
            .collect()
    }

    async fn insert_copy(&self, copied: WholeJob) -> Result<(), StoreError> {
        let WholeJob {
            job,
            containers,
            log,
        } = copied;
        let input_file_count = job.input_file_count;
        let (job, mut summary) = as_new(job, containers);
        let id = summary.id;
        self.must_be_absent(id).await?;
        let outcome = std::mem::take(&mut summary.outcome);
        let subjobs = self.subjobs(id, &job.record.containers).await?;
        let document = self
            .job_document(&job, input_file_count, &summary, &outcome)
            .await?;
        let log = log_documents(&summary, &log);
        self.insert_parts(id, Name::Subjobs, "id", &subjobs).await?;
        self.insert_parts(id, Name::Transitions, "job_id", &log)
            .await?;
        let jobs = self.newest_of(Name::Jobs);
        let inserted = retried(ACTION, |_| jobs.insert_one(&document).into_future()).await;
        match inserted {
            // It was not there before: a call whose answer was lost has stored it.
            Ok(_) | Err(StoreError::Duplicate { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn must_be_absent(&self, id: JobId) -> Result<(), StoreError> {
        let jobs = self.newest_of(Name::Jobs);
        let found = retried(ACTION, |_| {
            jobs.count_documents(doc! {"id": id.to_string()})
                .into_future()
        })
        .await?;
        if found == 0 {
            return Ok(());
        }
        Err(StoreError::Duplicate {
            action: ACTION,
            cause: format!("job {id}"),
        })
    }

    /// Writes documents of a job that is not there yet, in the place of those that a killed run has left.
    async fn insert_parts(
        &self,
        id: JobId,
        name: Name,
        id_member: &str,
        documents: &[Document],
    ) -> Result<(), StoreError> {
        if documents.is_empty() {
            return Ok(());
        }
        let collection = self.newest_of(name);
        retried(ACTION, |_| {
            let collection = &collection;
            async move {
                match collection.insert_many(documents).await {
                    Ok(_) => Ok(()),
                    Err(error)
                        if matches!(store_error(ACTION, &error), StoreError::Duplicate { .. }) =>
                    {
                        let left = doc! {id_member: id.to_string()};
                        collection.delete_many(left).await?;
                        collection.insert_many(documents).await.map(drop)
                    }
                    Err(error) => Err(error),
                }
            }
        })
        .await
    }

    async fn subjobs(
        &self,
        id: JobId,
        containers: &[ContainerRecord],
    ) -> Result<Vec<Document>, StoreError> {
        let mut subjobs = Vec::with_capacity(containers.len());
        for (number, container) in (0..).zip(containers) {
            let number: ContainerNumber = number;
            let outputs = match container.outputs.as_deref() {
                None => None,
                outputs => {
                    let set = format!("{id} {number}");
                    Some(self.store_outputs_as(&set, id, outputs).await?)
                }
            };
            let mut document = documents::new_subjob(id, number, container);
            // As a step writes a container that has come this far.
            Redo::new(number, VERSION, container, container, outputs)?.apply(&mut document);
            subjobs.push(document);
        }
        Ok(subjobs)
    }

    async fn job_document(
        &self,
        job: &NewJob,
        input_file_count: u64,
        summary: &JobSummary,
        outcome: &JobOutcome,
    ) -> Result<Document, StoreError> {
        let id = job.id;
        let trans_ids: Vec<String> = summary
            .transitions
            .iter()
            .map(|one| one.trans_id.clone())
            .collect();
        let mut document = documents::new_job(job, &trans_ids, &Uuid::new_v4().to_string())?;
        if let Ok(transitions) = document.get_array_mut("transition_times") {
            for (stored, transition) in transitions.iter_mut().zip(&summary.transitions) {
                if let Some(stored) = stored.as_document_mut() {
                    stored.insert("notif_sent", transition.notif_sent);
                }
            }
        }
        let outputs = self
            .store_outputs_as(&id.to_string(), id, outcome.outputs.as_deref())
            .await?;
        let (outcome, _absent) = documents::outcome_update(id, outcome, Some(outputs))?;
        let mut ours = document
            .remove(OURS)
            .and_then(|ours| match ours {
                Bson::Document(ours) => Some(ours),
                _ => None,
            })
            .unwrap_or_default();
        // Its transitions are in the log already, or in none.
        ours.remove("unlogged");
        for (name, value) in outcome {
            match name.split_once('.') {
                None => document.insert(name, value),
                Some((_, name)) => ours.insert(name, value),
            };
        }
        let notes = &summary.notes;
        if let Some(notice) = &notes.site_notice {
            ours.insert(
                "site_notice",
                doc! {"message": &notice.message, "since": date(notice.since)},
            );
        }
        if !notes.htcondor_cluster_ids.is_empty() {
            document.insert(
                "htcondor_details",
                doc! {"cluster_id": &notes.htcondor_cluster_ids},
            );
        }
        document.insert("admin_meta", from_json(notes.admin_meta.clone().into()));
        document.insert("cleaned", notes.cleaned);
        document.insert(
            "input_file_count",
            i64::try_from(input_file_count).unwrap_or(i64::MAX),
        );
        document.insert(OURS, ours);
        Ok(document)
    }
}

/// The documents of a job in the log.
fn log_documents(summary: &JobSummary, log: &[LogEntry]) -> Vec<Document> {
    summary
        .transitions
        .iter()
        .filter_map(|one| {
            let entry = log.iter().find(|entry| entry.trans_id == one.trans_id)?;
            Some(doc! {
                "_id": entry.number,
                "trans_id": &one.trans_id,
                "job_id": summary.id.to_string(),
                "user": &summary.user,
                "state": one.state.as_str(),
                "time": date(one.time),
                "sent": one.notif_sent,
                "to_send": !one.notif_sent || entry.resend,
            })
        })
        .collect()
}
