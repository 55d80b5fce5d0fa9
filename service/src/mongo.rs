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
//! When the answer to an update is lost, its id in `_cts.commit` or, of earlier steps, `_cts.commits` tells
//! whether it arrived.
//! Writing the subjob first and lifting the job afterwards would leave, after a crash between them, a
//! container that has ended in a job that nobody moves on; and the repair would need the domain's
//! rules here.
//!
//! The existing service ends containers without touching the job, so the version does not catch that. Ours and
//! another may end at the same moment, neither service seeing the other's container ended: so after
//! a step that ended a container, all are looked at again, and the job is marked `_cts.pending`
//! if none is left. A job's state may then be behind until the next report; the end takes it through all states.
//!
//! What a crash leaves: containers whose job was never stored, and parts of outputs that nothing names. Nobody
//! reads either; they only take room.
//!
//! # Order of transitions
//!
//! The transitions of all jobs have one order: `cts_transitions` numbers them 1, 2, 3, ... A writer takes the
//! number after the greatest it sees, and the unique index refuses it if another was faster, so
//! nobody ever sees a number before the ones below it. A step does not wait for that: one task of the process
//! numbers what has come meanwhile, many jobs' at a time. A job is marked `_cts.unlogged` by the step
//! that changes its state, until its transitions are numbered; whoever reads the log numbers what a
//! dead service left.
//!
//! # Time
//!
//! The driver waits for answers without end. Here a call has 15 seconds, and an operation with its repetitions 25;
//! then it is unavailable, which clients see as 503, and may have been carried out.
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
    Acknowledgment, CollectionOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern,
};
use mongodb::{Collection, Database};
use tokio::sync::{Mutex, MutexGuard, mpsc, watch};

use cts_net::secret::Secret;
use cts_shared::id::JobId;

use crate::job_store::StoreError;

use connection::Connection;
use numbering::{History, Numbering};
use retry::timely;

mod connection;
mod copy;
mod documents;
mod images;
mod indexes;
mod jobs;
mod leases;
mod numbering;
mod outbox;
mod outputs;
mod refdata;
mod retry;
mod sites;
mod steps;

/// For the server to be found and to answer for the first time.
const CONNECT_WITHIN: Duration = Duration::from_secs(20);
/// For a majority to acknowledge a write.
const MAJORITY_TIMEOUT: Duration = Duration::from_secs(10);
/// For the steps before a job's step, in a process. They queue up when the server does not answer.
const TURN_WITHIN: Duration = Duration::from_secs(30);
/// Steps of one process on one job go one after another, so that they do not make each other repeat.
const TURNS: usize = 64;

const CONNECT: &str = "connect to the database";

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
    connection: Connection,
    /// What reads ask for: a standalone server has no majority.
    read_concern: ReadConcern,
    turns: Arc<Turns>,
    changes: watch::Sender<u64>,
    numbering: Numbering,
    /// Jobs with new transitions, for the task that numbers them.
    untold: mpsc::Sender<History>,
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
    Refdata,
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
            Self::Refdata => "refdata",
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
        let connection = Connection::new(settings).await?;
        let database = &connection.database;
        let hello = async { database.run_command(doc! {"hello": 1}).await };
        let hello = timely(CONNECT, CONNECT_WITHIN, hello)
            .await
            .map_err(|error| cannot_connect(&connection, error))?;
        let is_standalone = !hello.contains_key("setName") && !hello.contains_key("msg");
        let changes = watch::Sender::new(0);
        let numbering = Numbering::new(
            collection(database, Name::Transitions, ReadConcern::local()),
            collection(database, Name::Jobs, ReadConcern::local()),
        );
        let store = Self {
            read_concern: if is_standalone {
                ReadConcern::local()
            } else {
                ReadConcern::majority()
            },
            turns: Arc::new(Turns {
                hasher: RandomState::new(),
                turns: std::array::from_fn(|_| Mutex::new(())),
            }),
            untold: numbering.start(changes.clone()),
            numbering,
            changes,
            connection,
        };
        store.create_indexes().await?;
        Ok(store)
    }

    /// Whether there is a database with jobs, or with room for them. Makes nothing.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn exists(settings: &MongoSettings) -> Result<bool, StoreError> {
        let connection = Connection::new(settings).await?;
        let names = async { connection.database.list_collection_names().await };
        let names = timely(CONNECT, CONNECT_WITHIN, names)
            .await
            .map_err(|error| cannot_connect(&connection, error))?;
        Ok(names.iter().any(|name| name == Name::Jobs.as_str()))
    }

    /// A collection, read as a majority has it.
    fn settled(&self, name: Name) -> Collection<Document> {
        collection(&self.connection.database, name, self.read_concern.clone())
    }

    /// A collection, read as the primary has it: to change it, or to be read again.
    fn newest_of(&self, name: Name) -> Collection<Document> {
        collection(&self.connection.database, name, ReadConcern::local())
    }

    /// Waits for a job's turn among the steps of this process.
    async fn turn(&self, id: JobId) -> Result<MutexGuard<'_, ()>, StoreError> {
        let hash = usize::try_from(self.turns.hasher.hash_one(id) % TURNS as u64);
        let turn = hash
            .ok()
            .and_then(|index| self.turns.turns.get(index))
            .ok_or(StoreError::Closed)?;
        tokio::time::timeout(TURN_WITHIN, turn.lock())
            .await
            .map_err(|_| StoreError::Unavailable {
                action: "change a job",
                cause: "earlier changes still wait for it".to_owned(),
            })
    }
}

fn cannot_connect(connection: &Connection, error: StoreError) -> StoreError {
    StoreError::Connect {
        address: connection.address.clone(),
        cause: match error {
            StoreError::Unavailable { cause, .. } | StoreError::Failed { cause, .. } => cause,
            other => other.to_string(),
        },
    }
}

fn collection(database: &Database, name: Name, read_concern: ReadConcern) -> Collection<Document> {
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
    database.collection_with_options(name.as_str(), options)
}
