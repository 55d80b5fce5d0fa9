//! The indexes: the contract's, with the names the existing service makes them with, and those of what is
//! added.

use std::time::Duration;

use mongodb::bson::{Bson, Document, doc};
use mongodb::error::Error;
use mongodb::options::IndexOptions;
use mongodb::{Collection, IndexModel};

use cts_shared::state::JobState;

use crate::job_store::StoreError;

use super::retry::{code, timely};
use super::{MongoStore, Name, refdata};

const ACTION: &str = "create the indexes";
/// Over a large collection it takes minutes, once.
const CREATE_WITHIN: Duration = Duration::from_secs(30 * 60);
/// `IndexOptionsConflict`, `IndexKeySpecsConflict`.
const CONFLICT: [i32; 2] = [85, 86];

impl MongoStore {
    /// Makes the indexes that are missing; those there are stay.
    pub(super) async fn create_indexes(&self) -> Result<(), StoreError> {
        for (name, indexes) in all() {
            create(&self.newest_of(name), indexes).await?;
        }
        Ok(())
    }
}

/// Makes those of a collection's indexes that are missing: all at once, for a service starts the sooner the
/// less it asks of a busy server.
async fn create(
    collection: &Collection<Document>,
    indexes: Vec<IndexModel>,
) -> Result<(), StoreError> {
    let created = timely(ACTION, CREATE_WITHIN, async {
        match collection.create_indexes(indexes.clone()).await {
            Err(error) if is_conflict(&error) => Ok(false),
            created => created.map(|_| true),
        }
    });
    if !created.await? {
        for index in indexes {
            create_one(collection, index).await?;
        }
    }
    Ok(())
}

/// Makes an index if it is missing. One with the same name or keys may be there with other options; that
/// matters only if it is what keeps documents unique.
async fn create_one(
    collection: &Collection<Document>,
    index: IndexModel,
) -> Result<(), StoreError> {
    let keys = index.keys.clone();
    let is_unique = index
        .options
        .as_ref()
        .is_some_and(|options| options.unique == Some(true));
    let created = timely(ACTION, CREATE_WITHIN, async {
        match collection.create_index(index).await {
            Err(error) if !is_unique && is_conflict(&error) => {
                tracing::warn!(
                    collection = collection.name(), %keys, %error,
                    "another index is there instead of the contract's; some queries may be slow"
                );
                Ok(())
            }
            created => created.map(drop),
        }
    });
    created.await
}

fn is_conflict(error: &Error) -> bool {
    code(error).is_some_and(|code| CONFLICT.contains(&code))
}

/// States in which a job or container has ended.
pub(super) fn terminal_states() -> Vec<Bson> {
    states(JobState::is_terminal)
}

/// States from which a job goes on.
pub(super) fn running_states() -> Vec<Bson> {
    states(|state| !state.is_terminal())
}

fn states(condition: impl Fn(JobState) -> bool) -> Vec<Bson> {
    JobState::ALL
        .into_iter()
        .filter(|state| condition(*state))
        .map(|state| state.as_str().into())
        .collect()
}

fn all() -> Vec<(Name, Vec<IndexModel>)> {
    vec![
        (
            Name::Jobs,
            vec![
                unique(doc! {"id": 1}),
                plain(doc! {"_update_time": -1}),
                plain(doc! {"state": 1, "_update_time": -1}),
                plain(doc! {"job_input.cluster": 1, "_update_time": -1}),
                plain(doc! {"user": 1, "_update_time": -1}),
                plain(doc! {"user": 1, "state": 1, "_update_time": -1}),
                plain(doc! {"user": 1, "job_input.cluster": 1, "_update_time": -1}),
                partial(
                    doc! {"transition_times.time": -1},
                    doc! {"transition_times.notif_sent": false},
                ),
                partial(
                    doc! {"cleaned": 1, "state": 1, "_update_time": 1},
                    doc! {"cleaned": false, "state": {"$in": terminal_states()}},
                ),
                partial(
                    doc! {"_cts.pending": 1, "id": 1},
                    doc! {"_cts.pending": true},
                ),
                partial(
                    doc! {"_cts.statistics_due": 1, "job_input.cluster": 1, "id": 1},
                    doc! {"_cts.statistics_due": true},
                ),
                // Those that another service did not send, in the order in which they are paged.
                partial(
                    doc! {"transition_times.notif_sent": 1, "id": 1},
                    doc! {"transition_times.notif_sent": false},
                ),
                partial(
                    doc! {"_cts.unlogged": 1, "id": 1},
                    doc! {"_cts.unlogged": true},
                ),
            ],
        ),
        (
            Name::Subjobs,
            vec![
                unique(doc! {"id": 1, "sub_id": 1}),
                plain(doc! {
                    "id": 1, "transition_times.state": 1, "transition_times._retry": 1
                }),
            ],
        ),
        (
            Name::Images,
            vec![
                index(
                    doc! {"name": 1, "digest": 1},
                    IndexOptions::builder()
                        .unique(true)
                        .name("UNIQUE_IMAGE_DIGEST_INDEX".to_owned())
                        .build(),
                ),
                index(
                    doc! {"name": 1, "tag": 1},
                    IndexOptions::builder()
                        .unique(true)
                        .sparse(true)
                        .name("UNIQUE_IMAGE_TAG_INDEX".to_owned())
                        .build(),
                ),
            ],
        ),
        (
            Name::Refdata,
            vec![
                unique(doc! {"id": 1}),
                plain(doc! {"file": 1}),
                partial(
                    doc! {
                        "statuses.cleaned": 1, "statuses.state": 1, "statuses._update_time": 1
                    },
                    doc! {
                        "statuses.cleaned": false,
                        "statuses.state": {"$in": refdata::terminal_states()},
                    },
                ),
            ],
        ),
        (Name::Sites, vec![unique(doc! {"site": 1})]),
        (Name::Outputs, vec![unique(doc! {"set": 1, "part": 1})]),
        (
            Name::Transitions,
            vec![
                unique(doc! {"trans_id": 1}),
                plain(doc! {"job_id": 1, "_id": 1}),
                plain(doc! {"user": 1, "_id": 1}),
                partial(doc! {"to_send": 1, "_id": 1}, doc! {"to_send": true}),
                // All that is read to count what waits.
                partial(
                    doc! {"to_send": 1, "sent": 1, "time": 1, "job_id": 1},
                    doc! {"to_send": true},
                ),
            ],
        ),
    ]
}

fn index(keys: Document, options: IndexOptions) -> IndexModel {
    IndexModel::builder().keys(keys).options(options).build()
}

fn plain(keys: Document) -> IndexModel {
    IndexModel::builder().keys(keys).build()
}

fn unique(keys: Document) -> IndexModel {
    index(keys, IndexOptions::builder().unique(true).build())
}

fn partial(keys: Document, filter: Document) -> IndexModel {
    let options = IndexOptions::builder()
        .partial_filter_expression(filter)
        .build();
    index(keys, options)
}
