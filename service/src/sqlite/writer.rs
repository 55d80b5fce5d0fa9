//! The one thread that writes. It takes changes from a queue, runs each in a savepoint, commits what
//! waited together at once, and answers only after the commit.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use crate::job_store::StoreError;

use super::records::Records;

/// Changes that may wait; senders wait beyond that.
const QUEUE: usize = 256;

/// Most changes in one commit: bounds how long the first waits for the last.
const BATCH: usize = 64;

/// Runs a change, or takes why there is no transaction for it; returns what to do once the commit is
/// known.
type Task = Box<dyn FnOnce(Result<&mut Session, StoreError>) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// What the writing thread works with.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) connection: Connection,
    pub(super) records: Records,
    data_version: i64,
}

/// The queue to the writing thread. The thread ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Task>,
    commits: watch::Receiver<u64>,
}

impl Writer {
    /// Hands the connection to a new thread.
    pub(super) fn start(connection: Connection) -> Result<Self, StoreError> {
        let (queue, mut tasks) = mpsc::channel::<Task>(QUEUE);
        let (committed, commits) = watch::channel(0);
        let mut session = Session {
            connection,
            records: Records::new(),
            data_version: 0,
        };
        std::thread::Builder::new()
            .name("sqlite-writer".to_owned())
            .spawn(move || {
                let mut batch = Vec::with_capacity(BATCH);
                while tasks.blocking_recv_many(&mut batch, BATCH) > 0 {
                    let done = catch_unwind(AssertUnwindSafe(|| session.commit_batch(&mut batch)));
                    if done.is_err() {
                        // Without this thread nothing could be stored any more. Those who waited are
                        // told that it failed.
                        tracing::error!("storing changes panicked; they are not stored");
                        batch.clear();
                        session.roll_back();
                    }
                    committed.send_modify(|count| *count += 1);
                }
            })
            .map_err(|error| StoreError::Failed {
                action: "start the writing thread",
                cause: error.to_string(),
            })?;
        Ok(Self { queue, commits })
    }

    /// Changes after each commit.
    pub(super) fn commits(&self) -> watch::Receiver<u64> {
        self.commits.clone()
    }

    /// Runs a change; nothing of it stays when it fails. When the future is dropped the change may
    /// or may not happen, but never half.
    pub(super) async fn write<T, E>(
        &self,
        action: &'static str,
        change: impl FnOnce(&mut Session) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let task: Task = Box::new(move |session| {
            let result = match session {
                Ok(session) => session.in_savepoint(action, change),
                Err(error) => Err(E::from(error)),
            };
            Box::new(move |committed| {
                let result = match (committed, result) {
                    // A refusal stands whether or not the others' commit succeeds.
                    (_, Err(error)) => Err(error),
                    (Err(error), Ok(_)) => Err(E::from(error)),
                    (Ok(()), Ok(value)) => Ok(value),
                };
                // The caller may have gone away; the change stands all the same.
                let _gone = sender.send(result);
            })
        });
        self.queue
            .send(task)
            .await
            .map_err(|_| E::from(StoreError::Closed))?;
        receiver.await.unwrap_or_else(|_| {
            Err(E::from(StoreError::Failed {
                action,
                cause: "it was given up because of a fault in the program".to_owned(),
            }))
        })
    }
}

impl Session {
    fn commit_batch(&mut self, batch: &mut Vec<Task>) {
        let failed = |error: rusqlite::Error| StoreError::Failed {
            action: "commit changes",
            cause: error.to_string(),
        };
        let begun = self.begin().map_err(failed);
        let answers: Vec<Answer> = batch
            .drain(..)
            .map(|task| {
                task(match &begun {
                    Ok(()) => Ok(&mut *self),
                    Err(error) => Err(error.clone()),
                })
            })
            .collect();
        let committed =
            begun.and_then(|()| self.connection.execute_batch("COMMIT").map_err(failed));
        if committed.is_err() {
            self.roll_back();
        }
        for answer in answers {
            answer(committed.clone());
        }
    }

    fn roll_back(&mut self) {
        self.records.clear();
        // After a failed COMMIT the transaction may still be open; where there is none, this fails
        // and says nothing new.
        let _no_transaction = self.connection.execute_batch("ROLLBACK");
    }

    /// Begins a transaction, and forgets the records if another process has written meanwhile.
    fn begin(&mut self) -> Result<(), rusqlite::Error> {
        self.connection
            .prepare_cached("BEGIN IMMEDIATE")?
            .execute(())?;
        let version = self
            .connection
            .prepare_cached("PRAGMA data_version")?
            .query_row((), |row| row.get(0))?;
        if self.data_version != version {
            self.data_version = version;
            self.records.clear();
        }
        Ok(())
    }

    fn in_savepoint<T, E: From<StoreError>>(
        &mut self,
        action: &'static str,
        change: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        self.savepoint("SAVEPOINT change", action)?;
        match change(self) {
            Ok(value) => {
                self.savepoint("RELEASE change", action)?;
                Ok(value)
            }
            Err(error) => {
                self.savepoint("ROLLBACK TO change", action)?;
                self.savepoint("RELEASE change", action)?;
                Err(error)
            }
        }
    }

    fn savepoint<E: From<StoreError>>(&mut self, sql: &str, action: &'static str) -> Result<(), E> {
        let done = self
            .connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(()));
        match done {
            Ok(_rows) => Ok(()),
            Err(cause) => {
                // What the change put there may not be what is stored.
                self.records.clear();
                Err(E::from(StoreError::Failed {
                    action,
                    cause: cause.to_string(),
                }))
            }
        }
    }
}
