//! The embedded store: one `SQLite` file in WAL mode.
//!
//! One thread owns the writing connection and takes changes from a bounded queue; changes that wait
//! together are committed together, each in a savepoint of its own, so that a burst costs one sync to
//! disk. Readers use a few connections of their own and never wait for the writer. Nothing here
//! blocks the async runtime.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use crate::job_store::StoreError;

mod copy;
mod images;
mod jobs;
mod leases;
mod migrations;
mod outbox;
mod records;
mod refdata;
mod sites;
mod writer;

use writer::Writer;

/// Read connections: more than the cores of a small machine can keep busy.
const READERS: usize = 4;

/// A database file. Clones share it.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    writer: Writer,
    readers: Arc<Readers>,
}

#[derive(Debug)]
struct Readers {
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl SqliteStore {
    /// Opens the file, creating it and bringing its schema up to date as needed. Blocks: call it
    /// before serving, or from a blocking thread.
    ///
    /// # Errors
    /// When the file cannot be opened, or a newer program wrote it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let open_error = |cause: rusqlite::Error| StoreError::Open {
            path: path.display().to_string(),
            cause: cause.to_string(),
        };
        let mut connection = Connection::open(path).map_err(open_error)?;
        configure(&connection).map_err(open_error)?;
        migrations::migrate(&mut connection)?;

        let mut idle = Vec::with_capacity(READERS);
        for _ in 0..READERS {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
                | OpenFlags::SQLITE_OPEN_NO_MUTEX
                | OpenFlags::SQLITE_OPEN_URI;
            let reader = Connection::open_with_flags(path, flags).map_err(open_error)?;
            configure_reader(&reader).map_err(open_error)?;
            idle.push(reader);
        }
        Ok(Self {
            writer: Writer::start(connection)?,
            readers: Arc::new(Readers {
                permits: Arc::new(Semaphore::new(READERS)),
                idle: Mutex::new(idle),
            }),
        })
    }

    /// Runs a query on a read connection, on a blocking thread.
    async fn read<T: Send + 'static>(
        &self,
        action: &'static str,
        query: impl FnOnce(&Connection) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = Arc::clone(&self.readers.permits)
            .acquire_owned()
            .await
            .map_err(|_| StoreError::Closed)?;
        let pool = Arc::clone(&self.readers);
        tokio::task::spawn_blocking(move || {
            // Goes with the query, which ends even when nobody waits for it any more: there is a
            // connection for each permit.
            let _permit = permit;
            let connection = pool
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop()
                .ok_or(StoreError::Closed)?;
            let result = query(&connection).map_err(|error| error.into_store_error(action));
            pool.idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(connection);
            result
        })
        .await
        .map_err(|error| StoreError::Failed {
            action,
            cause: error.to_string(),
        })?
    }
}

fn configure(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // An answered request must survive a power cut, not only a killed process.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // 16 MiB of log before it is copied into the database (SQLite: 4 MiB): pages that change again
    // and again are copied once. The file may stay as large.
    connection.pragma_update(None, "wal_autocheckpoint", 4096)?;
    connection.pragma_update(None, "journal_size_limit", 32 * 1024 * 1024)?;
    connection.busy_timeout(std::time::Duration::from_secs(10))
}

fn configure_reader(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.pragma_update(None, "query_only", true)?;
    connection.busy_timeout(std::time::Duration::from_secs(10))
}

/// Why a query failed: the database, or what it holds.
#[derive(Debug)]
enum ReadError {
    Sqlite(rusqlite::Error),
    Corrupt { what: String, cause: String },
}

impl From<rusqlite::Error> for ReadError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl ReadError {
    fn corrupt(what: impl Into<String>, cause: impl std::fmt::Display) -> Self {
        Self::Corrupt {
            what: what.into(),
            cause: cause.to_string(),
        }
    }

    fn into_store_error(self, action: &'static str) -> StoreError {
        match self {
            Self::Sqlite(error) => StoreError::Failed {
                action,
                cause: error.to_string(),
            },
            Self::Corrupt { what, cause } => StoreError::Corrupt { what, cause },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn queries_that_nobody_waits_for_any_more_do_not_fail_others() {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&directory.path().join("cts.sqlite")).unwrap();
        let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
        let (release, released) = std::sync::mpsc::channel::<()>();
        let released = Arc::new(Mutex::new(released));
        for _ in 0..READERS {
            let (started, released) = (started.clone(), Arc::clone(&released));
            let query = store.read("wait", move |_| {
                started.send(()).unwrap();
                released.lock().unwrap().recv().unwrap();
                Ok(())
            });
            // Dropped while the query runs: a client has gone away.
            tokio::select! {
                _ = query => unreachable!("nothing was released"),
                _ = starts.recv() => {}
            }
        }
        let mut other = std::pin::pin!(store.read("ask", |_| Ok(7)));
        let too_early = tokio::time::timeout(Duration::from_millis(100), &mut other).await;
        assert!(too_early.is_err(), "{too_early:?}");
        for _ in 0..READERS {
            release.send(()).unwrap();
        }
        let answer = tokio::time::timeout(Duration::from_secs(10), other).await;
        assert_eq!(answer.unwrap().unwrap(), 7);
    }
}
