//! The outbox: transitions of jobs, numbered in `cts_transitions`. Whether one was sent is in the job's
//! document too, as the contract has it.

use std::time::Duration;

use futures::TryStreamExt;
use futures::future::BoxFuture;
use mongodb::bson::{Bson, Document, doc};
use serde::Deserialize;
use tokio::sync::watch;

use cts_shared::id::JobId;
use cts_shared::state::JobState;
use cts_shared::timestamp::UtcTime;

use crate::job_store::StoreError;
use crate::outbox::{Event, Outbox, Unsent};

use super::documents::{JobDocument, corrupt, date, read, readable};
use super::numbering::{self, History, number};
use super::retry::retried;
use super::{MongoStore, Name};

/// Jobs whose documents are read at a time.
const PAGE: i64 = 500;

/// After that the server gives a query up. Less than what an answer is waited for: nobody would take it.
const QUERY_WITHIN: Duration = Duration::from_secs(10);

/// A document of `cts_transitions`; `_id` is the number.
#[derive(Debug, Deserialize)]
struct Logged {
    trans_id: String,
    job_id: JobId,
    user: String,
    state: JobState,
    time: UtcTime,
}

impl From<Logged> for Event {
    fn from(logged: Logged) -> Self {
        Self {
            trans_id: logged.trans_id,
            job_id: logged.job_id,
            user: logged.user,
            state: logged.state,
            time: logged.time,
        }
    }
}

impl Outbox for MongoStore {
    fn events_after(
        &self,
        trans_id: Option<String>,
        user: Option<String>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Option<Vec<Event>>, StoreError>> {
        Box::pin(async move {
            self.log_forgotten().await?;
            let number = match trans_id {
                None => 0,
                Some(trans_id) => match self.number_of(&trans_id).await? {
                    Some(number) => number,
                    None => return Ok(None),
                },
            };
            let mut filter = doc! {"_id": {"$gt": number}};
            if let Some(user) = user {
                filter.insert("user", user);
            }
            self.find_events(filter, limit).await.map(Some)
        })
    }

    fn newest(&self) -> BoxFuture<'_, Result<Option<String>, StoreError>> {
        Box::pin(async {
            self.log_forgotten().await?;
            let log = self.settled(Name::Transitions);
            let newest = retried("read the newest transition", |_| {
                log.find_one(doc! {})
                    .sort(doc! {"_id": -1})
                    .max_time(QUERY_WITHIN)
                    .into_future()
            })
            .await?;
            newest
                .map(|document| text(&document, "trans_id"))
                .transpose()
        })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn to_send(
        &self,
        after: Option<String>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<Event>, StoreError>> {
        Box::pin(async move {
            self.log_forgotten().await?;
            let number = match after {
                None => 0,
                Some(trans_id) => self.number_of(&trans_id).await?.unwrap_or(0),
            };
            let filter = doc! {"to_send": true, "_id": {"$gt": number}};
            self.find_events(filter, limit).await
        })
    }

    fn adopt(&self, before: UtcTime) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            self.log_jobs(doc! {
                "transition_times": {"$elemMatch": {
                    "notif_sent": false, "time": {"$lt": date(before)},
                }},
                // For the partial indexes.
                "transition_times.notif_sent": false,
            })
            .await
        })
    }

    fn mark_sent(&self, trans_ids: Vec<String>) -> BoxFuture<'_, Result<(), StoreError>> {
        const ACTION: &str = "note that messages were sent";
        Box::pin(async move {
            let log = self.newest_of(Name::Transitions);
            let jobs = self.newest_of(Name::Jobs);
            let these = doc! {"trans_id": {"$in": &trans_ids}};
            let job_ids = retried(ACTION, |_| {
                log.distinct("job_id", these.clone()).into_future()
            })
            .await?;
            // The jobs first: what is not noted in the log is sent again and noted then.
            let sent = doc! {"$set": {"transition_times.$[one].notif_sent": true}};
            retried(ACTION, |_| {
                jobs.update_many(doc! {"id": {"$in": &job_ids}}, sent.clone())
                    .array_filters([doc! {"one.trans_id": {"$in": &trans_ids}}])
                    .into_future()
            })
            .await?;
            let sent = doc! {"$set": {"sent": true, "to_send": false}};
            retried(ACTION, |_| {
                log.update_many(these.clone(), sent.clone()).into_future()
            })
            .await?;
            Ok(())
        })
    }

    fn resend(&self, job: JobId, state: JobState) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(async move {
            self.log_job(job).await?;
            let log = self.newest_of(Name::Transitions);
            let newest = doc! {"job_id": job.to_string(), "state": state.as_str()};
            let found = retried("have a message sent again", |_| {
                log.find_one_and_update(newest.clone(), doc! {"$set": {"to_send": true}})
                    .sort(doc! {"_id": -1})
                    .into_future()
            })
            .await?;
            Ok(found.is_some())
        })
    }

    fn unsent(&self, before: Option<UtcTime>) -> BoxFuture<'_, Result<Unsent, StoreError>> {
        Box::pin(async move {
            self.log_forgotten().await?;
            let mut filter = doc! {"to_send": true, "sent": false};
            if let Some(before) = before {
                filter.insert("time", doc! {"$lt": date(before)});
            }
            let pipeline = [
                doc! {"$match": filter},
                doc! {"$group": {
                    "_id": "$job_id", "transitions": {"$sum": 1_i64}, "oldest": {"$min": "$time"},
                }},
                doc! {"$group": {
                    "_id": Bson::Null,
                    "transitions": {"$sum": "$transitions"},
                    "jobs": {"$sum": 1_i64},
                    "oldest": {"$min": "$oldest"},
                }},
            ];
            let log = self.settled(Name::Transitions);
            let found: Vec<Document> = retried("count what is to be sent", |_| async {
                log.aggregate(pipeline.clone())
                    .max_time(QUERY_WITHIN)
                    .await?
                    .try_collect()
                    .await
            })
            .await?;
            found
                .into_iter()
                .next()
                .map_or(Ok(Unsent::default()), |document| {
                    let Counted {
                        transitions,
                        jobs,
                        oldest,
                    } = read("number of unsent transitions", document)?;
                    Ok(Unsent {
                        transitions,
                        jobs,
                        oldest,
                    })
                })
        })
    }
}

#[derive(Deserialize)]
struct Counted {
    transitions: u64,
    jobs: u64,
    oldest: Option<UtcTime>,
}

impl MongoStore {
    /// Has a job's new transitions numbered. When too many wait, they are left to the next reader.
    pub(super) fn log_soon(&self, history: History) {
        let id = history.job_id;
        if self.untold.try_send(history).is_err() {
            tracing::debug!(job_id = %id, "a job's transitions are told with the next ones");
        }
    }

    /// Numbers what services left that died, or that others are about to number.
    pub(super) async fn log_forgotten(&self) -> Result<(), StoreError> {
        self.log_jobs(doc! {"_cts.unlogged": true}).await.map(drop)
    }

    /// Numbers those of a job's transitions that have no number.
    pub(super) async fn log_job(&self, id: JobId) -> Result<(), StoreError> {
        self.log_jobs(doc! {"id": id.to_string()}).await.map(drop)
    }

    /// Numbers the transitions of those jobs that the filter finds, page by page; says of how many jobs
    /// there were some without a number.
    async fn log_jobs(&self, filter: Document) -> Result<u64, StoreError> {
        let jobs = self.newest_of(Name::Jobs);
        let mut numbered = 0;
        let mut page = filter.clone();
        loop {
            let found: Vec<Document> = retried(numbering::ACTION, |_| async {
                jobs.find(page.clone())
                    .projection(doc! {
                        "job_input.input_files": 0, "image": 0, "outputs": 0, "_cts.redo": 0
                    })
                    .sort(doc! {"id": 1})
                    .limit(PAGE)
                    .max_time(QUERY_WITHIN)
                    .await?
                    .try_collect()
                    .await
            })
            .await?;
            let is_last = (found.len() as u64) < PAGE.unsigned_abs();
            let last = found.last().and_then(|job| job.get("id").cloned());
            let mut histories = readable(found, |document| {
                JobDocument::read(document).map(|job| job.history())
            });
            // As they were stored, as far as times tell.
            histories.sort_by_key(|one| one.transitions.last().map(|newest| newest.time));
            numbered += self.numbering.number(&histories).await?;
            match last {
                Some(last) if !is_last => {
                    page = doc! {"$and": [&filter, {"id": {"$gt": last}}]};
                }
                _ => return Ok(numbered),
            }
        }
    }

    async fn number_of(&self, trans_id: &str) -> Result<Option<i64>, StoreError> {
        let log = self.settled(Name::Transitions);
        let found = retried("read transitions", |_| {
            log.find_one(doc! {"trans_id": trans_id})
                .max_time(QUERY_WITHIN)
                .into_future()
        })
        .await?;
        found.map(|document| number(&document)).transpose()
    }

    async fn find_events(&self, filter: Document, limit: u32) -> Result<Vec<Event>, StoreError> {
        if limit == 0 {
            // Which means no limit to the server.
            return Ok(Vec::new());
        }
        let log = self.settled(Name::Transitions);
        let found: Vec<Document> = retried("read transitions", |_| async {
            log.find(filter.clone())
                .sort(doc! {"_id": 1})
                .limit(limit.into())
                .max_time(QUERY_WITHIN)
                .await?
                .try_collect()
                .await
        })
        .await?;
        found
            .into_iter()
            .map(|document| read::<Logged>("transition", document).map(Event::from))
            .collect()
    }
}

fn text(document: &Document, name: &str) -> Result<String, StoreError> {
    document
        .get_str(name)
        .map(ToOwned::to_owned)
        .map_err(|error| corrupt("transition", error))
}
