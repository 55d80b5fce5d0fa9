//! Numbers the transitions of all jobs (the module above says why), those of many jobs at a time: a step
//! leaves its job's history here and does not wait. What fails here is done by the next reader.

use std::collections::HashSet;
use std::sync::Arc;

use futures::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{Document, doc};
use tokio::sync::{Mutex, mpsc, watch};

use cts_shared::id::JobId;

use crate::job_store::{NotifiedTransition, StoreError};

use super::documents::{corrupt, date};
use super::retry::retried;

/// How often transitions are tried to be numbered, while other services number theirs.
const ATTEMPTS: u32 = 100;
/// Histories of this process that wait. Those beyond are left to the next reader.
const WAITING: usize = 1000;
/// Jobs numbered at a time.
const AT_ONCE: usize = 100;

pub(super) const ACTION: &str = "number a transition";

/// A job's transitions, all of them: what is numbered is left out when they are, so that those of one job
/// cannot come in another order.
#[derive(Debug, Clone)]
pub(super) struct History {
    pub(super) job_id: JobId,
    pub(super) user: String,
    pub(super) transitions: Vec<NotifiedTransition>,
    /// Of the version that has these transitions.
    pub(super) commit: Option<String>,
}

/// Numbers transitions. Clones share what they know.
#[derive(Debug, Clone)]
pub(super) struct Numbering {
    log: Collection<Document>,
    jobs: Collection<Document>,
    /// The greatest number that was seen, none if it is to be looked up. One at a time numbers in this
    /// process.
    newest: Arc<Mutex<Option<i64>>>,
}

impl Numbering {
    pub(super) fn new(log: Collection<Document>, jobs: Collection<Document>) -> Self {
        Self {
            log,
            jobs,
            newest: Arc::default(),
        }
    }

    /// Starts the task that numbers what it is sent and tells those who wait. It ends with the senders.
    pub(super) fn start(&self, changes: watch::Sender<u64>) -> mpsc::Sender<History> {
        let (sender, mut waiting) = mpsc::channel(WAITING);
        let numbering = self.clone();
        tokio::spawn(async move {
            let mut histories = Vec::new();
            while waiting.recv_many(&mut histories, AT_ONCE).await > 0 {
                if let Err(error) = numbering.number(&histories).await {
                    tracing::warn!(%error, jobs = histories.len(), "jobs' transitions are told with the next ones");
                }
                histories.clear();
                changes.send_modify(|changes| *changes += 1);
            }
        });
        sender
    }

    /// Numbers those transitions that have no number, and removes the jobs' marks. Says of how many jobs
    /// there were such.
    pub(super) async fn number(&self, histories: &[History]) -> Result<u64, StoreError> {
        let mut jobs = 0;
        for histories in histories.chunks(AT_ONCE) {
            jobs += self.insert(histories).await?;
            self.unmark(histories).await?;
        }
        Ok(jobs)
    }

    async fn insert(&self, histories: &[History]) -> Result<u64, StoreError> {
        let mut newest = self.newest.lock().await;
        let mut jobs = 0;
        for _ in 0..ATTEMPTS {
            let numbered = self.numbered(histories).await?;
            let greatest = match newest.take() {
                Some(number) => number,
                None => self.greatest().await?,
            };
            let documents = documents(histories, numbered, greatest);
            if documents.is_empty() {
                *newest = Some(greatest);
                return Ok(jobs);
            }
            // With each attempt there may be fewer.
            jobs = jobs.max(count_jobs(&documents));
            // In order: after a number that is taken, none is. Those before it are there.
            let written = retried(ACTION, |_| {
                self.log.insert_many(&documents).ordered(true).into_future()
            })
            .await;
            match written {
                Ok(_) => {
                    *newest = documents.last().map(number).transpose()?;
                    return Ok(jobs);
                }
                Err(StoreError::Duplicate { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Unavailable {
            action: ACTION,
            cause: "other services keep numbering theirs".to_owned(),
        })
    }

    /// Ids of these jobs' transitions that have a number.
    async fn numbered(&self, histories: &[History]) -> Result<HashSet<String>, StoreError> {
        let jobs: Vec<String> = histories.iter().map(|one| one.job_id.to_string()).collect();
        let found: Vec<Document> = retried(ACTION, |_| async {
            self.log
                .find(doc! {"job_id": {"$in": &jobs}})
                .projection(doc! {"trans_id": 1})
                .await?
                .try_collect()
                .await
        })
        .await?;
        let ids = found.iter().filter_map(|one| one.get_str("trans_id").ok());
        Ok(ids.map(ToOwned::to_owned).collect())
    }

    async fn greatest(&self) -> Result<i64, StoreError> {
        let found = retried(ACTION, |_| {
            self.log
                .find_one(doc! {})
                .sort(doc! {"_id": -1})
                .projection(doc! {"_id": 1})
                .into_future()
        })
        .await?;
        found.as_ref().map_or(Ok(0), number)
    }

    /// A job that took another step since stays marked.
    async fn unmark(&self, histories: &[History]) -> Result<(), StoreError> {
        let (jobs, commits): (Vec<String>, Vec<&String>) = histories
            .iter()
            .filter_map(|one| Some((one.job_id.to_string(), one.commit.as_ref()?)))
            .unzip();
        if jobs.is_empty() {
            return Ok(());
        }
        let filter = doc! {
            "id": {"$in": jobs}, "_cts.commit": {"$in": commits}, "_cts.unlogged": true,
        };
        retried(ACTION, |_| {
            self.jobs
                .update_many(filter.clone(), doc! {"$unset": {"_cts.unlogged": ""}})
                .into_future()
        })
        .await?;
        Ok(())
    }
}

/// The documents of `cts_transitions` for what is not numbered, after the greatest number.
fn documents(histories: &[History], mut numbered: HashSet<String>, greatest: i64) -> Vec<Document> {
    let mut documents = Vec::new();
    let mut numbers = greatest + 1..;
    for history in histories {
        for one in &history.transitions {
            // One without an id cannot be told of. A job can be here more than once.
            if one.trans_id.is_empty() || !numbered.insert(one.trans_id.clone()) {
                continue;
            }
            documents.extend(numbers.next().map(|number| {
                doc! {
                    "_id": number,
                    "trans_id": &one.trans_id,
                    "job_id": history.job_id.to_string(),
                    "user": &history.user,
                    "state": one.state.as_str(),
                    "time": date(one.time),
                    "sent": one.notif_sent,
                    "to_send": !one.notif_sent,
                }
            }));
        }
    }
    documents
}

/// Of how many jobs these documents of `cts_transitions` are.
fn count_jobs(documents: &[Document]) -> u64 {
    let jobs = documents
        .iter()
        .filter_map(|one| one.get_str("job_id").ok());
    jobs.collect::<HashSet<_>>().len() as u64
}

/// A transition's number.
pub(super) fn number(document: &Document) -> Result<i64, StoreError> {
    document
        .get_i64("_id")
        .map_err(|error| corrupt("number of a transition", error))
}
