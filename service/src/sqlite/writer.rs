//! The one thread that writes. It takes changes from a queue, runs each in a savepoint, commits what
//! waited together at once, and answers only after the commit.

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::job_store::StoreError;

/// Changes that may wait; senders wait beyond that.
const QUEUE: usize = 256;

/// Most changes in one commit: bounds how long the first waits for the last.
const BATCH: usize = 64;

/// Runs a change, or takes why there is no transaction for it; returns what to do once the commit is
/// known.
type Task = Box<dyn FnOnce(Result<&Connection, StoreError>) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// The queue to the writing thread. The thread ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Task>,
}

impl Writer {
    /// Hands the connection to a new thread.
    pub(super) fn start(connection: Connection) -> Result<Self, StoreError> {
        let (queue, mut tasks) = mpsc::channel::<Task>(QUEUE);
        std::thread::Builder::new()
            .name("sqlite-writer".to_owned())
            .spawn(move || {
                let mut batch = Vec::with_capacity(BATCH);
                while tasks.blocking_recv_many(&mut batch, BATCH) > 0 {
                    commit_batch(&connection, &mut batch);
                }
            })
            .map_err(|error| StoreError::Failed {
                action: "start the writing thread",
                cause: error.to_string(),
            })?;
        Ok(Self { queue })
    }

    /// Runs a change; nothing of it stays when it fails. When the future is dropped the change may
    /// or may not happen, but never half.
    pub(super) async fn write<T, E>(
        &self,
        action: &'static str,
        change: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let task: Task = Box::new(move |connection| {
            let result = match connection {
                Ok(connection) => in_savepoint(connection, action, change),
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
        receiver
            .await
            .unwrap_or_else(|_| Err(E::from(StoreError::Closed)))
    }
}

fn commit_batch(connection: &Connection, batch: &mut Vec<Task>) {
    let failed = |error: rusqlite::Error| StoreError::Failed {
        action: "commit changes",
        cause: error.to_string(),
    };
    let begun = connection.execute_batch("BEGIN IMMEDIATE").map_err(failed);
    let answers: Vec<Answer> = batch
        .drain(..)
        .map(|task| task(begun.clone().map(|()| connection)))
        .collect();
    let committed = begun.and_then(|()| connection.execute_batch("COMMIT").map_err(failed));
    if committed.is_err() {
        // After a failed COMMIT the transaction may still be open; where there is none, this fails
        // and says nothing new.
        let _no_transaction = connection.execute_batch("ROLLBACK");
    }
    for answer in answers {
        answer(committed.clone());
    }
}

fn in_savepoint<T, E: From<StoreError>>(
    connection: &Connection,
    action: &'static str,
    change: impl FnOnce(&Connection) -> Result<T, E>,
) -> Result<T, E> {
    let failed = |cause: rusqlite::Error| {
        E::from(StoreError::Failed {
            action,
            cause: cause.to_string(),
        })
    };
    connection
        .execute_batch("SAVEPOINT change")
        .map_err(failed)?;
    match change(connection) {
        Ok(value) => {
            connection.execute_batch("RELEASE change").map_err(failed)?;
            Ok(value)
        }
        Err(error) => {
            connection
                .execute_batch("ROLLBACK TO change; RELEASE change")
                .map_err(failed)?;
            Err(error)
        }
    }
}
