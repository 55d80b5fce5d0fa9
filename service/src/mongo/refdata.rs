//! Reference data: the collection `refdata`. Absent fields are explicit nulls.
//!
//! The contract has no unique index on `file`, and two upserts at the same moment can both insert. So a
//! document's `_id` is made of its file here: of several services, one inserts it. (The existing service makes
//! ids of its own; nothing keeps it from registering a file in the moment in which this one does.)
//!
//! A change is an update of one document that applies only while the status is in the state in which it was
//! read; else it is looked at again.

use futures::TryStreamExt;
use futures::future::BoxFuture;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, Document, doc};
use sha2::{Digest, Sha256};

use cts_shared::id::RefdataId;
use cts_shared::site::Site;
use cts_shared::state::Step;
use cts_shared::state::refdata::RefdataState;
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::refdata::{AdminRefdataStatus, RefdataTransition};

use crate::job_store::StoreError;
use crate::refdata_store::{
    Begun, MAX_LISTED_REFDATA, Recorded, Refdata, RefdataEvent, RefdataStore, began, begin_anew,
    enter, is_to_clean, last_change, may_begin_anew, new_status, status_at,
};

use super::documents::{date, read, readable};
use super::retry::retried;
use super::{MongoStore, Name};

/// Times a change is tried that others are faster than. A status has four states.
const TRIES: usize = 16;

const LOOK_UP: &str = "look up reference data";

const CHANGE: &str = "change the state of reference data";

impl RefdataStore for MongoStore {
    fn insert_refdata(&self, refdata: Refdata) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(async move {
            let collection = self.newest_of(Name::Refdata);
            let of_file = doc! {"file": &refdata.file};
            let insert = doc! {"$setOnInsert": document_of(&refdata)};
            let inserted = retried("register reference data", |_| {
                collection
                    .update_one(of_file.clone(), insert.clone())
                    .upsert(true)
                    .into_future()
            })
            .await;
            match inserted {
                Ok(result) if result.upserted_id.is_some() => return Ok(true),
                // Another service, or a call of this one whose answer was lost, was faster.
                Ok(_) | Err(StoreError::Duplicate { .. }) => {}
                Err(error) => return Err(error),
            }
            let ours = doc! {"file": &refdata.file, "id": refdata.id.as_str()};
            let found = retried(LOOK_UP, |_| collection.find_one(ours.clone()).into_future());
            Ok(found.await?.is_some())
        })
    }

    fn refdata(&self, id: RefdataId) -> BoxFuture<'_, Result<Option<Refdata>, StoreError>> {
        Box::pin(async move {
            let collection = self.settled(Name::Refdata);
            let found = retried(LOOK_UP, |_| {
                collection.find_one(doc! {"id": id.as_str()}).into_future()
            });
            found.await?.map(read_refdata).transpose()
        })
    }

    fn refdata_of_file(&self, file: String) -> BoxFuture<'_, Result<Vec<Refdata>, StoreError>> {
        Box::pin(async move {
            let found = self.refdata_where(LOOK_UP, doc! {"file": file});
            found.await?.into_iter().map(read_refdata).collect()
        })
    }

    fn list_refdata(&self) -> BoxFuture<'_, Result<Vec<Refdata>, StoreError>> {
        Box::pin(async {
            let collection = self.settled(Name::Refdata);
            let found: Vec<Document> = retried("list reference data", |_| async {
                collection
                    .find(doc! {})
                    .sort(doc! {"file": 1, "_id": 1})
                    .limit(MAX_LISTED_REFDATA.into())
                    .await?
                    .try_collect()
                    .await
            })
            .await?;
            Ok(readable(found, read_refdata))
        })
    }

    fn record_refdata(
        &self,
        id: RefdataId,
        site: Site,
        event: RefdataEvent,
    ) -> BoxFuture<'_, Result<Recorded, StoreError>> {
        Box::pin(async move {
            for _ in 0..TRIES {
                let Some(mut status) = self.newest_status(&id, site).await? else {
                    return Ok(Recorded::Unknown);
                };
                let before = status.clone();
                match enter(&mut status, &event) {
                    Err(illegal) => return Ok(Recorded::Refused(illegal.current)),
                    Ok(Step::AlreadyTrue) => return Ok(Recorded::AlreadyTrue),
                    Ok(Step::Enter) => {}
                }
                if self.replace_status(&id, &before, &status).await? {
                    return Ok(Recorded::Entered);
                }
            }
            Err(too_many_changes())
        })
    }

    fn begin_refdata(
        &self,
        id: RefdataId,
        site: Site,
        time: UtcTime,
    ) -> BoxFuture<'_, Result<Begun, StoreError>> {
        Box::pin(async move {
            let mut new = new_status(site, time);
            for attempt in 0..TRIES {
                let Some(refdata) = self.newest_refdata(&id).await? else {
                    return Ok(Begun::Unknown);
                };
                let begun = match status_at(&refdata, site) {
                    None => self.push_status(&id, &new).await?,
                    Some(failed) if may_begin_anew(failed) => {
                        new = begin_anew(failed, time);
                        self.replace_status(&id, failed, &new).await?
                    }
                    // A call of ours whose answer was lost has begun it.
                    Some(status) if attempt > 0 && is_same_beginning(status, &new) => true,
                    Some(other) => return Ok(Begun::Exists(other.status.state)),
                };
                if begun {
                    return Ok(Begun::Yes);
                }
            }
            Err(too_many_changes())
        })
    }

    fn mark_refdata_cleaned(
        &self,
        id: RefdataId,
        site: Site,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let collection = self.newest_of(Name::Refdata);
            let ended = doc! {
                "id": id.as_str(),
                "statuses": {"$elemMatch": {
                    "cluster": site.as_str(), "state": {"$in": states(RefdataState::is_terminal)},
                }},
            };
            retried("mark reference data as cleaned", |_| {
                let cleaned = doc! {"$set": {"statuses.$.cleaned": true}};
                collection.update_one(ended.clone(), cleaned).into_future()
            })
            .await?;
            Ok(())
        })
    }

    fn refdata_to_clean(
        &self,
        before: UtcTime,
    ) -> BoxFuture<'_, Result<Vec<(RefdataId, Site)>, StoreError>> {
        Box::pin(async move {
            let ended = doc! {
                "statuses.cleaned": false,
                "statuses.state": {"$in": terminal_states()},
                "statuses._update_time": {"$lt": date(before)},
            };
            let found = self.refdata_where("look for reference data to clean", ended);
            let found = readable(found.await?, read_refdata).into_iter();
            Ok(found
                .flat_map(|refdata| {
                    let old = refdata.statuses.into_iter();
                    // The conditions may be met by several statuses together.
                    let old = old.filter(move |status| is_to_clean(status, before));
                    old.map(move |status| (refdata.id.clone(), status.status.cluster))
                })
                .collect())
        })
    }

    fn unstaged_refdata(&self) -> BoxFuture<'_, Result<Vec<Refdata>, StoreError>> {
        Box::pin(async {
            let under_way = states(|state| !state.is_terminal());
            let under_way = doc! {"statuses.state": {"$in": under_way}};
            let found = self.refdata_where("look for reference data to stage", under_way);
            Ok(readable(found.await?, read_refdata))
        })
    }
}

impl MongoStore {
    async fn newest_refdata(&self, id: &RefdataId) -> Result<Option<Refdata>, StoreError> {
        let collection = self.newest_of(Name::Refdata);
        let found = retried(CHANGE, |_| {
            collection.find_one(doc! {"id": id.as_str()}).into_future()
        });
        found.await?.map(read_refdata).transpose()
    }

    async fn newest_status(
        &self,
        id: &RefdataId,
        site: Site,
    ) -> Result<Option<AdminRefdataStatus>, StoreError> {
        let refdata = self.newest_refdata(id).await?;
        Ok(refdata.and_then(|refdata| status_at(&refdata, site).cloned()))
    }

    /// The documents that a filter finds, by file.
    pub(super) async fn refdata_where(
        &self,
        action: &'static str,
        filter: Document,
    ) -> Result<Vec<Document>, StoreError> {
        let collection = self.settled(Name::Refdata);
        retried(action, |_| async {
            collection
                .find(filter.clone())
                .sort(doc! {"file": 1, "_id": 1})
                .await?
                .try_collect()
                .await
        })
        .await
    }

    /// Writes a status over one as it was read. False if that has changed since, or a call of ours whose answer
    /// was lost has done it: looking again tells.
    async fn replace_status(
        &self,
        id: &RefdataId,
        before: &AdminRefdataStatus,
        after: &AdminRefdataStatus,
    ) -> Result<bool, StoreError> {
        let transitions = before.status.transition_times.len();
        let unchanged = doc! {
            "id": id.as_str(),
            "statuses": {"$elemMatch": {
                "cluster": before.status.cluster.as_str(),
                "state": before.status.state.as_str(),
                "transition_times": {"$size": i64::try_from(transitions).unwrap_or(i64::MAX)},
                // Not another one that took its place.
                "transition_times.0.time": date(began(before)),
            }},
        };
        // Member by member: what a later version of the existing service adds stays.
        let members: Document = status_document(after)
            .into_iter()
            .map(|(name, value)| (format!("statuses.$.{name}"), value))
            .collect();
        self.update_refdata(unchanged, doc! {"$set": members}).await
    }

    /// Adds a status. False if there is one for its site.
    async fn push_status(
        &self,
        id: &RefdataId,
        status: &AdminRefdataStatus,
    ) -> Result<bool, StoreError> {
        let without = doc! {
            "id": id.as_str(),
            "statuses.cluster": {"$ne": status.status.cluster.as_str()},
        };
        let push = doc! {"$push": {"statuses": status_document(status)}};
        self.update_refdata(without, push).await
    }

    async fn update_refdata(&self, filter: Document, update: Document) -> Result<bool, StoreError> {
        let collection = self.newest_of(Name::Refdata);
        let updated = retried(CHANGE, |_| {
            collection
                .update_one(filter.clone(), update.clone())
                .into_future()
        });
        Ok(updated.await?.matched_count > 0)
    }
}

fn too_many_changes() -> StoreError {
    StoreError::Unavailable {
        action: CHANGE,
        cause: "others change it again and again".to_owned(),
    }
}

/// Times are stored in milliseconds.
fn is_same_beginning(stored: &AdminRefdataStatus, new: &AdminRefdataStatus) -> bool {
    stored.status.state == RefdataState::Created
        && last_change(stored) == last_change(new).truncated_to_millis()
}

fn states(condition: impl Fn(RefdataState) -> bool) -> Vec<Bson> {
    let states = RefdataState::ALL.into_iter();
    let states = states.filter(|state| condition(*state));
    states.map(|state| state.as_str().into()).collect()
}

/// States in which a staging has ended.
pub(super) fn terminal_states() -> Vec<Bson> {
    states(RefdataState::is_terminal)
}

pub(super) fn read_refdata(document: Document) -> Result<Refdata, StoreError> {
    let id = document.get_str("id").unwrap_or("without id");
    read(&format!("reference data {id}"), document)
}

fn document_of(refdata: &Refdata) -> Document {
    let statuses: Vec<Document> = refdata.statuses.iter().map(status_document).collect();
    doc! {
        "_id": document_id(&refdata.file),
        "id": refdata.id.as_str(),
        "crc64nvme": &refdata.crc64nvme,
        "unpack": refdata.unpack,
        "registered_by": &refdata.registered_by,
        "registered_on": date(refdata.registered_on),
        "statuses": statuses,
    }
}

/// The same for the same file: the first bytes of its hash.
fn document_id(file: &str) -> ObjectId {
    let hash = Sha256::digest(file);
    let mut bytes = [0; 12];
    for (byte, hashed) in bytes.iter_mut().zip(hash) {
        *byte = hashed;
    }
    ObjectId::from_bytes(bytes)
}

fn status_document(status: &AdminRefdataStatus) -> Document {
    let AdminRefdataStatus {
        status: public,
        cleaned,
        nersc_download_task_id,
        admin_error,
        traceback,
    } = status;
    let transitions: Vec<Document> = public
        .transition_times
        .iter()
        .map(
            |RefdataTransition { state, time }| doc! {"state": state.as_str(), "time": date(*time)},
        )
        .collect();
    doc! {
        "cluster": public.cluster.as_str(),
        "state": public.state.as_str(),
        "transition_times": transitions,
        "cleaned": *cleaned,
        "nersc_download_task_id": nersc_download_task_id,
        "error": &public.error,
        "admin_error": admin_error,
        "traceback": traceback,
        "_update_time": date(last_change(status)),
    }
}
