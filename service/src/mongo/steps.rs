//! Jobs stored and changed; how is said in the module above.

use std::collections::HashSet;
use std::time::Duration;

use futures::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ReturnDocument;
use uuid::Uuid;

use cts_shared::id::{ContainerNumber, JobId};
use cts_shared::state::job_flow::{Change, ContainerRecord, JobRecord, Pending, Transition};

use crate::error::Error;
use crate::job_store::{JobStep, NewJob, NotifiedTransition, StoreError};

use super::documents::{
    self, JobDocument, Redo, StoredOutputs, SubjobDocument, corrupt, job_transition, update_time,
};
use super::indexes::terminal_states;
use super::numbering::History;
use super::retry::{pause, retried};
use super::{MongoStore, Name};

/// A step is taken at most so often. Only other processes make it be repeated.
const STEP_ATTEMPTS: u32 = 60;
/// Between two of them.
const STEP_DELAY: Duration = Duration::from_millis(20);

/// Steps of a job that are remembered, for those who lost the answer to theirs.
const REMEMBERED_COMMITS: i32 = 16;

const ACTION: &str = "change a job";

/// What became of a step's update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is stored.
    Stored,
    /// It is not, and will not be: another step came first.
    Refused,
    /// Its answer was lost, and the job remembers nothing of it; many others came since.
    Unknown,
}

/// A job as it was read, and the record it means.
struct Loaded {
    job: JobDocument,
    record: JobRecord,
}

impl MongoStore {
    /// Stores a job: its containers, then the job. Before the job is there, nobody looks for containers.
    pub(super) async fn insert(&self, job: NewJob) -> Result<(), StoreError> {
        const ACTION: &str = "store a job";
        let id = job.id;
        let _turn = self.turn(id).await?;
        let containers: Vec<Document> = (0..)
            .zip(&job.record.containers)
            .map(|(number, container)| documents::new_subjob(id, number, container))
            .collect();
        let trans_ids = new_trans_ids(job.record.transitions.len());
        let commit = new_id();
        let document = documents::new_job(&job, &trans_ids, &commit)?;
        let (jobs, subjobs) = (self.newest_of(Name::Jobs), self.newest_of(Name::Subjobs));
        if !containers.is_empty() {
            retried(ACTION, |attempt| {
                let (subjobs, containers) = (&subjobs, &containers);
                async move {
                    match subjobs.insert_many(containers).ordered(false).await {
                        // They came there with a lost call. A majority that has the job has them.
                        Err(error) if attempt > 0 && is_duplicate(&error) => Ok(()),
                        other => other.map(drop),
                    }
                }
            })
            .await?;
        }
        retried(ACTION, |attempt| {
            let (jobs, document, commit) = (&jobs, &document, &commit);
            async move {
                match jobs.insert_one(document).await {
                    Err(error) if attempt > 0 && is_duplicate(&error) => {
                        let found = confirmed(jobs, id).await?;
                        let is_this = found
                            .and_then(|document| JobDocument::read(document).ok())
                            .is_some_and(|job| job.has_commit(commit));
                        if is_this { Ok(()) } else { Err(error) }
                    }
                    other => other.map(drop),
                }
            }
        })
        .await?;
        self.log_soon(History {
            job_id: id,
            user: job.user,
            transitions: notified(&job.record.transitions, trans_ids),
            commit: Some(commit),
        });
        Ok(())
    }

    /// Takes a step and stores what it changed.
    pub(super) async fn step(&self, id: JobId, step: JobStep) -> Result<Option<Change>, Error> {
        let _turn = self.turn(id).await?;
        for _ in 0..STEP_ATTEMPTS {
            let Some(Loaded {
                job,
                record: before,
            }) = self.load(id).await?
            else {
                return Ok(None);
            };
            let mut record = before.clone();
            let change = step(&mut record)?;
            if change.is_empty() {
                if record.pending().is_some() && !job.is_marked_pending() {
                    self.mark_pending(id, &job).await?;
                }
                return Ok(Some(change));
            }
            if self.commit(id, &job, &before, &record, &change).await? {
                let pending = match change.pending {
                    None => self.overlooked(id, &record, change.container).await?,
                    pending => pending,
                };
                return Ok(Some(Change { pending, ..change }));
            }
            pause(STEP_DELAY).await;
        }
        Err(others_are_faster().into())
    }

    /// What is pending although the step did not see it: the existing service does not change the job when
    /// it ends a container but for the last. When it ends one while a step here ends another, neither may
    /// see the other's. So who wrote looks once more.
    async fn overlooked(
        &self,
        id: JobId,
        record: &JobRecord,
        container: Option<ContainerNumber>,
    ) -> Result<Option<Pending>, StoreError> {
        let has_ended = container
            .and_then(|number| record.container(number).ok())
            .is_some_and(|container| container.state().is_terminal());
        if !has_ended || record.containers.len() == 1 || record.state().is_terminal() {
            return Ok(None);
        }
        let subjobs = self.newest_of(Name::Subjobs);
        let running = retried(ACTION, |_| {
            subjobs
                .find_one(doc! {"id": id.to_string(), "state": {"$nin": terminal_states()}})
                .projection(doc! {"sub_id": 1})
                .into_future()
        })
        .await?;
        if running.is_some() {
            return Ok(None);
        }
        let Some(Loaded { job, record }) = self.load(id).await? else {
            return Ok(None);
        };
        let pending = record.pending();
        if pending.is_some() && !job.is_marked_pending() {
            self.mark_pending(id, &job).await?;
        }
        Ok(pending)
    }

    /// Marks a job as one for which something is pending, unless another step came meanwhile.
    async fn mark_pending(&self, id: JobId, job: &JobDocument) -> Result<(), StoreError> {
        let jobs = self.newest_of(Name::Jobs);
        let marked = retried(ACTION, |_| {
            jobs.update_one(job.unchanged(), doc! {"$set": {"_cts.pending": true}})
                .into_future()
        })
        .await?;
        tracing::debug!(job_id = %id, matched = marked.matched_count, "marked as pending");
        Ok(())
    }

    /// The job's record as a majority has it.
    pub(super) async fn read_record(&self, id: JobId) -> Result<Option<JobRecord>, StoreError> {
        let mut versions = HashSet::new();
        for _ in 0..STEP_ATTEMPTS {
            let (jobs, subjobs) = (self.settled(Name::Jobs), self.settled(Name::Subjobs));
            let Some((job, redo)) = self.read_job(id, &jobs).await? else {
                return Ok(None);
            };
            let read = self
                .read_containers(&job, id, redo.as_ref(), &subjobs)
                .await?;
            if let Some((containers, _)) = read {
                return Ok(Some(job.record(containers)));
            }
            versions.insert(job.version());
            pause(STEP_DELAY).await;
        }
        Err(not_of_one_version(id, &versions))
    }

    /// Reads a job to change it, what its last step left undone done.
    async fn load(&self, id: JobId) -> Result<Option<Loaded>, StoreError> {
        let (jobs, subjobs) = (self.newest_of(Name::Jobs), self.newest_of(Name::Subjobs));
        let mut versions = HashSet::new();
        for _ in 0..STEP_ATTEMPTS {
            let Some((job, redo)) = self.read_job(id, &jobs).await? else {
                return Ok(None);
            };
            let read = self
                .read_containers(&job, id, redo.as_ref(), &subjobs)
                .await?;
            if let Some((containers, was_undone)) = read {
                if was_undone && let Some(redo) = &redo {
                    self.write_container(id, redo).await?;
                }
                let record = job.record(containers);
                return Ok(Some(Loaded { job, record }));
            }
            versions.insert(job.version());
            pause(STEP_DELAY).await;
        }
        Err(not_of_one_version(id, &versions))
    }

    /// Reads what steps need of a job's document, and what its last step writes to a container.
    async fn read_job(
        &self,
        id: JobId,
        jobs: &Collection<Document>,
    ) -> Result<Option<(JobDocument, Option<Redo>)>, StoreError> {
        let found = retried("read a job", |_| {
            jobs.find_one(doc! {"id": id.to_string()})
                .projection(doc! {"job_input.input_files": 0, "image": 0})
                .into_future()
        })
        .await?;
        let Some(mut document) = found else {
            return Ok(None);
        };
        let redo = Redo::take(&mut document)?;
        let mut job = JobDocument::read(document)?;
        self.complete_outputs(id, &mut job).await?;
        Ok(Some((job, redo)))
    }

    /// Reads a job's outputs if they are in documents of their own.
    pub(super) async fn complete_outputs(
        &self,
        id: JobId,
        job: &mut JobDocument,
    ) -> Result<(), StoreError> {
        if let Some(set) = job.outputs_set() {
            let outputs = self.read_outputs(id, set).await?;
            job.set_outputs(outputs);
        }
        Ok(())
    }

    /// Reads a job's containers as of the job's version, and whether the last step's was not written yet.
    /// None if a step came between.
    async fn read_containers(
        &self,
        job: &JobDocument,
        id: JobId,
        redo: Option<&Redo>,
        subjobs: &Collection<Document>,
    ) -> Result<Option<(Vec<ContainerRecord>, bool)>, StoreError> {
        let found: Vec<Document> = retried("read a job's containers", |_| async {
            subjobs
                .find(doc! {"id": id.to_string()})
                .sort(doc! {"sub_id": 1})
                .await?
                .try_collect()
                .await
        })
        .await?;
        let mut containers = Vec::with_capacity(found.len());
        let mut was_undone = false;
        for (number, mut document) in (0..).zip(found) {
            was_undone |= redo.is_some_and(|redo| redo.apply(&mut document));
            let container = SubjobDocument::read(id, document)?;
            if container.number() != number {
                return Err(StoreError::Gone {
                    what: format!("container {number} of job {id}"),
                });
            }
            if container.version() > job.version() {
                return Ok(None);
            }
            let outputs = match container.outputs_set() {
                Some(set) => Some(self.read_outputs(id, set).await?),
                None => None,
            };
            containers.push(container.into_record(outputs));
        }
        // Of sites that follow their containers themselves there are none.
        let expected = job.num_containers();
        if !containers.is_empty() && expected.is_some_and(|all| all > containers.len() as u64) {
            return Err(StoreError::Gone {
                what: format!("container {} of job {id}", containers.len()),
            });
        }
        Ok(Some((containers, was_undone)))
    }

    /// Stores what a step changed. False if another step came first.
    async fn commit(
        &self,
        id: JobId,
        job: &JobDocument,
        before: &JobRecord,
        after: &JobRecord,
        change: &Change,
    ) -> Result<bool, StoreError> {
        let version = job.version() + 1;
        let commit = new_id();
        let trans_ids = new_trans_ids(change.transitions.len());
        let mut set = doc! {
            "_cts.version": version,
            "_cts.commit": &commit,
            "_cts.pending": after.pending().is_some(),
        };
        let mut push = doc! {
            "_cts.commits": {"$each": [&commit], "$slice": -REMEMBERED_COMMITS},
        };
        let mut unset = Document::new();
        let mut stored = Vec::new();

        let redo = match change.container {
            None => None,
            Some(number) => {
                let (old, new) = (before.container(number), after.container(number));
                let (Ok(old), Ok(new)) = (old, new) else {
                    return Err(corrupt(
                        format!("job {id}"),
                        format!("no container {number}"),
                    ));
                };
                let outputs = if old.outputs == new.outputs {
                    None
                } else {
                    Some(self.store_outputs(id, new.outputs.as_deref()).await?)
                };
                stored.extend(outputs.clone());
                Some(Redo::new(number, version, old, new, outputs)?)
            }
        };
        match &redo {
            Some(redo) => set.insert("_cts.redo", redo.to_document()),
            None => unset.insert("_cts.redo", ""),
        };
        if change.outcome {
            let outputs = if before.outcome.outputs == after.outcome.outputs {
                None
            } else {
                let outputs = after.outcome.outputs.as_deref();
                Some(self.store_outputs(id, outputs).await?)
            };
            stored.extend(outputs.clone());
            let (outcome_set, outcome_unset) =
                documents::outcome_update(id, &after.outcome, outputs)?;
            set.extend(outcome_set);
            unset.extend(outcome_unset);
        }
        if !change.transitions.is_empty() {
            set.insert("state", after.state().as_str());
            set.insert("_update_time", update_time(&after.transitions));
            set.insert("_cts.unlogged", true);
            let transitions: Vec<Bson> = change
                .transitions
                .iter()
                .zip(&trans_ids)
                .map(|(transition, trans_id)| job_transition(transition, trans_id).into())
                .collect();
            push.insert("transition_times", doc! {"$each": transitions});
        }
        let mut update = doc! {"$set": set, "$push": push};
        if !unset.is_empty() {
            update.insert("$unset", unset);
        }

        let fate = self
            .update_job(id, job.unchanged(), update, &commit, trans_ids.first())
            .await?;
        match fate {
            Fate::Stored => {}
            Fate::Refused => {
                self.drop_all(&stored).await;
                return Ok(false);
            }
            // The step is taken once more, and sees what it did. Its outputs must stay.
            Fate::Unknown => return Ok(false),
        }
        if !change.transitions.is_empty() {
            let mut history = job.history();
            history
                .transitions
                .extend(notified(&change.transitions, trans_ids));
            history.commit = Some(commit);
            self.log_soon(history);
        }
        if let Some(redo) = &redo
            && let Err(error) = self.write_container(id, redo).await
        {
            // The step is stored; whoever reads the job next knows.
            tracing::warn!(job_id = %id, %error, "a container's record is written with the next step");
        }
        Ok(true)
    }

    async fn drop_all(&self, stored: &[StoredOutputs]) {
        for outputs in stored {
            self.drop_outputs(Some(outputs)).await;
        }
    }

    /// Updates a job if nobody else has. After a lost answer the job says whether it was this update.
    async fn update_job(
        &self,
        id: JobId,
        filter: Document,
        update: Document,
        commit: &str,
        trans_id: Option<&String>,
    ) -> Result<Fate, StoreError> {
        let jobs = self.newest_of(Name::Jobs);
        retried(ACTION, |attempt| {
            let (jobs, filter, update) = (&jobs, filter.clone(), update.clone());
            async move {
                if jobs.update_one(filter, update).await?.matched_count > 0 {
                    return Ok(Fate::Stored);
                }
                if attempt == 0 {
                    return Ok(Fate::Refused);
                }
                let is_stored = confirmed(jobs, id)
                    .await?
                    .and_then(|document| JobDocument::read(document).ok())
                    .is_some_and(|job| {
                        job.has_commit(commit)
                            || trans_id.is_some_and(|trans_id| job.has_transition(trans_id))
                    });
                Ok(if is_stored {
                    Fate::Stored
                } else {
                    Fate::Unknown
                })
            }
        })
        .await
    }

    /// Writes to a container's document what the job's says; nothing if it is written.
    async fn write_container(&self, id: JobId, redo: &Redo) -> Result<(), StoreError> {
        let subjobs = self.newest_of(Name::Subjobs);
        let written = retried("change a container", |_| {
            subjobs
                .update_one(redo.filter(id), redo.update())
                .into_future()
        })
        .await?;
        tracing::trace!(job_id = %id, matched = written.matched_count, "container written");
        Ok(())
    }
}

/// A job as a majority has it when this returns: a read that is a write.
async fn confirmed(
    jobs: &Collection<Document>,
    id: JobId,
) -> Result<Option<Document>, mongodb::error::Error> {
    jobs.find_one_and_update(
        doc! {"id": id.to_string()},
        doc! {"$set": {"id": id.to_string()}},
    )
    .return_document(ReturnDocument::After)
    .projection(doc! {"job_input.input_files": 0, "image": 0, "outputs": 0, "_cts.redo": 0})
    .await
}

/// New transitions, nobody told of them.
fn notified(transitions: &[Transition], trans_ids: Vec<String>) -> Vec<NotifiedTransition> {
    transitions
        .iter()
        .zip(trans_ids)
        .map(|(transition, trans_id)| NotifiedTransition {
            state: transition.state,
            time: transition.time,
            trans_id,
            notif_sent: false,
        })
        .collect()
}

fn others_are_faster() -> StoreError {
    StoreError::Unavailable {
        action: ACTION,
        cause: "other services keep changing it".to_owned(),
    }
}

/// Why a job was never read together with its containers; with the versions that it had meanwhile.
fn not_of_one_version(id: JobId, versions: &HashSet<i64>) -> StoreError {
    if versions.len() > 1 {
        return others_are_faster();
    }
    // A step writes the job first.
    corrupt(
        format!("job {id}"),
        "its containers are newer than the job itself, and no service is changing it: a backup seems \
         restored in part; restore all collections from the same backup",
    )
}

fn is_duplicate(error: &mongodb::error::Error) -> bool {
    matches!(
        super::retry::store_error(ACTION, error),
        StoreError::Duplicate { .. }
    )
}

fn new_id() -> String {
    Uuid::new_v4().to_string()
}

fn new_trans_ids(count: usize) -> Vec<String> {
    (0..count).map(|_| new_id()).collect()
}
