//! The one thread that writes. It takes changes from a queue, runs each in a savepoint, commits what
//! waited together at once, and answers only after the commit.

use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::job_store::StoreError;

/// Changes that may wait; senders wait beyond that.
const QUEUE: usize = 256;

/// Most changes in one commit: bounds how long the first waits for the last.
const BATCH: usize = 64;

/// Runs a change, returns what to do once the commit is known.
type Task = Box<dyn FnOnce(&Connection) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// The queue to the writing thread. The thread ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Task>,
}

impl Writer {
    /// Hands the connection to a new thread.
    pub(super) fn start(mut connection: Connection) -> Result<Self, StoreError> {
        let (queue, mut tasks) = mpsc::channel::<Task>(QUEUE);
        std::thread::Builder::new()
            .name("sqlite-writer".to_owned())
            .spawn(move || {
                let mut batch = Vec::with_capacity(BATCH);
                while tasks.blocking_recv_many(&mut batch, BATCH) > 0 {
                    commit_batch(&mut connection, &mut batch);
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
            let result = in_savepoint(connection, action, change);
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

fn commit_batch(connection: &mut Connection, batch: &mut Vec<Task>) {
    let mut answers = Vec::with_capacity(batch.len());
    let outcome = connection
        .execute_batch("BEGIN IMMEDIATE")
        .and_then(|()| {
            for task in batch.drain(..) {
                answers.push(task(connection));
            }
            connection.execute_batch("COMMIT")
        })
        .map_err(|error| StoreError::Failed {
            action: "commit changes",
            cause: error.to_string(),
        });
    if outcome.is_err() {
        // After a failed COMMIT the transaction may still be open; without one this is an error
        // that says nothing new.
        let _no_transaction = connection.execute_batch("ROLLBACK");
        // Tasks that never ran are dropped, which answers their callers with `Closed`; better to
        // let them fail with the cause.
        for task in batch.drain(..) {
            answers.push(Box::new(move |_| drop(task)));
        }
    }
    let outcome = Arc::new(outcome);
    for answer in answers {
        answer((*outcome).clone());
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
    connection.execute_batch("SAVEPOINT change").map_err(failed)?;
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
