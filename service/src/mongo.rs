//! The shared store: a MongoDB database, with the collections, documents and indexes of the contract
//! (service.md, section 7.1), so that the existing service can work on the same database side by side.
//!
//! What this service adds is below `_cts` in jobs and subjobs, `reported_time` in the transitions of
//! subjobs, and the collections `cts_outputs`, `cts_transitions` and `cts_leases`. Documents without any
//! of it are read as well.
//!
//! # Steps without transactions
//!
//! A step may change a job and one of its containers, which are two documents. A standalone server has
//! no transactions, and the contract promises no replica set, so a step is one conditional update
//! of one document, the job:
//!
//! - It applies only if the job's `_cts.version`, state and number of transitions are those of the record
//!   that the step was taken on; else the step is taken again on a fresh record. The version catches
//!   other replicas of this service, the rest the existing one, which knows no version.
//! - It carries what is to be written to the container, `_cts.redo`. That is written to the subjob right
//!   after; should the service die between the two, the next to take a step writes it first,
//!   and whoever reads the containers meanwhile reads them as if it were written. A subjob has
//!   the version of the step that wrote it, so nothing is written twice and no stale step late.
//! - A subjob whose version is greater than the job's shows that the two were read on both sides of a
//!   step; they are read again.
//!
//! When the answer to an update is lost, `_cts.commit`, an id of the update's own, tells whether it arrived.
//! Writing the subjob first and lifting the job afterwards would leave, after a crash between them, a
//! container that has ended in a job that nobody moves on; and the repair would need the domain's
//! rules here.
//!
//! # Order of transitions
//!
//! The transitions of all jobs have one order: `cts_transitions` numbers them 1, 2, 3, ... A writer takes the
//! number after the greatest it sees, and the unique index refuses it if another was faster, so
//! nobody ever sees a number before the ones below it. A job is marked `_cts.unlogged` by the step
//! that changes its state, until its transitions are numbered; whoever reads the log numbers what a
//! dead service left.
//!
//! # Durability
//!
//! Writes are acknowledged by a majority with their journal. Steps read the primary's newest state: a
//! majority that has the step's update has what it was based on. All other reads see what a majority
//! has, so that nothing read is lost by a change of the primary.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::options::{
    Acknowledgment, ClientOptions, CollectionOptions, Credential, ReadConcern, ReadPreference,
    SelectionCriteria, WriteConcern,
};
use mongodb::{Client, Collection, Database};
use secrecy::ExposeSecret;
use tokio::sync::{Mutex, MutexGuard, watch};

use cts_net::secret::Secret;
use cts_shared::id::JobId;

use crate::job_store::StoreError;

mod copy;
mod documents;
mod images;
mod indexes;
mod jobs;
mod leases;
mod outbox;
mod outputs;
mod retry;
mod sites;
mod steps;

/// For a server to be found: longer than the driver takes to notice a new primary.
const SELECTION_TIMEOUT: Duration = Duration::from_secs(12);
/// For a majority to acknowledge a write.
const MAJORITY_TIMEOUT: Duration = Duration::from_secs(10);
/// Steps of one process on one job go one after another, so that they do not make each other repeat.
const TURNS: usize = 64;

/// Where the database is.
#[derive(Clone)]
pub struct MongoSettings {
    /// A connection string, `mongodb://...`.
    pub host: String,
    /// The database, also the one that knows the user.
    pub database: String,
    /// User and password, where the server asks for them.
    pub credentials: Option<(String, Secret)>,
    /// Whether the driver may send a write again by itself; not every server can tell the two.
    pub retry_writes: bool,
}

impl std::fmt::Debug for MongoSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A connection string can hold a password.
        f.debug_struct("MongoSettings")
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

/// A database. Clones share the connections.
#[derive(Debug, Clone)]
pub struct MongoStore {
    database: Database,
    /// What reads ask for: a standalone server has no majority.
    read_concern: ReadConcern,
    turns: Arc<Turns>,
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Turns {
    hasher: RandomState,
    turns: [Mutex<()>; TURNS],
}

/// The collections, the contract's first.
#[derive(Debug, Clone, Copy)]
enum Name {
    Jobs,
    Subjobs,
    Images,
    Sites,
    Outputs,
    Transitions,
    Leases,
}

impl Name {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Jobs => "jobs",
            Self::Subjobs => "subjobs",
            Self::Images => "images",
            Self::Sites => "sites",
            Self::Outputs => "cts_outputs",
            Self::Transitions => "cts_transitions",
            Self::Leases => "cts_leases",
        }
    }
}

impl MongoStore {
    /// Connects, and makes the indexes that are missing.
    ///
    /// # Errors
    /// When the server does not answer within seconds, or does not take the credentials.
    pub async fn open(settings: &MongoSettings) -> Result<Self, StoreError> {
        let mut options = ClientOptions::parse(&settings.host)
            .await
            .map_err(|error| invalid_host(&settings.host, &error))?;
        let hosts: Vec<String> = options.hosts.iter().map(ToString::to_string).collect();
        let connect_error = |error: mongodb::error::Error| StoreError::Connect {
            address: hosts.join(","),
            cause: error.to_string(),
        };
        options
            .app_name
            .get_or_insert_with(|| "cts-service".to_owned());
        options.retry_writes = Some(settings.retry_writes);
        options.server_selection_timeout = Some(SELECTION_TIMEOUT);
        if let Some((user, password)) = &settings.credentials {
            options.credential = Some(
                Credential::builder()
                    .username(user.clone())
                    .password(password.expose_secret().to_owned())
                    .source(settings.database.clone())
                    .build(),
            );
        }
        let database = Client::with_options(options)
            .map_err(connect_error)?
            .database(&settings.database);
        let hello = database
            .run_command(doc! {"hello": 1})
            .await
            .map_err(connect_error)?;
        let is_standalone = !hello.contains_key("setName") && !hello.contains_key("msg");
        let store = Self {
            database,
            read_concern: if is_standalone {
                ReadConcern::local()
            } else {
                ReadConcern::majority()
            },
            turns: Arc::new(Turns {
                hasher: RandomState::new(),
                turns: std::array::from_fn(|_| Mutex::new(())),
            }),
            changes: watch::Sender::new(0),
        };
        store.create_indexes().await?;
        Ok(store)
    }

    /// A collection, read as a majority has it.
    fn settled(&self, name: Name) -> Collection<Document> {
        self.collection(name, self.read_concern.clone())
    }

    /// A collection, read as the primary has it: to change it, or to be read again.
    fn newest_of(&self, name: Name) -> Collection<Document> {
        self.collection(name, ReadConcern::local())
    }

    fn collection(&self, name: Name, read_concern: ReadConcern) -> Collection<Document> {
        // Everything is said here, so that options of a connection string cannot weaken it.
        let options = CollectionOptions::builder()
            .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
            .read_concern(read_concern)
            .write_concern(
                WriteConcern::builder()
                    .w(Acknowledgment::Majority)
                    .journal(true)
                    .w_timeout(MAJORITY_TIMEOUT)
                    .build(),
            )
            .build();
        self.database
            .collection_with_options(name.as_str(), options)
    }

    /// Waits for a job's turn among the steps of this process.
    async fn turn(&self, id: JobId) -> Result<MutexGuard<'_, ()>, StoreError> {
        let hash = usize::try_from(self.turns.hasher.hash_one(id) % TURNS as u64);
        let turn = hash
            .ok()
            .and_then(|index| self.turns.turns.get(index))
            .ok_or(StoreError::Closed)?;
        Ok(turn.lock().await)
    }
}

/// The connection string can hold a password, and the driver's words can hold parts of it.
fn invalid_host(host: &str, error: &mongodb::error::Error) -> StoreError {
    StoreError::Connect {
        address: "the configured address".to_owned(),
        cause: if host.contains('@') {
            "it is no valid connection string (in a password, encode @ / : and % as in a URL)"
                .to_owned()
        } else {
            error.to_string()
        },
    }
}
