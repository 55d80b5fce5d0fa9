//! The file as a source and as a copy.
//!
//! The number of a transition in the log is its `seq`. Transitions that are in no log have a `seq` below 1,
//! in their order: nobody who follows the log sees them, and the job's history has them in front.

use std::collections::HashMap;

use futures::future::{BoxFuture, ready};
use rusqlite::{Connection, ErrorCode};

use cts_shared::wire::image::Image;

use crate::job_store::{JobSummary, StoreError};
use crate::refdata_store::Refdata;
use crate::store_copy::{KeptLease, LogEntry, Sizes, StoreCopy, TimeUnit, WholeJob, as_new};

use super::images::parse;
use super::jobs::{JobRows, micros, save_outcome, to_json};
use super::{ReadError, SqliteStore};

impl StoreCopy for SqliteStore {
    fn time_unit(&self) -> TimeUnit {
        TimeUnit::Microsecond
    }

    fn settle(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        // Every change is whole when it is committed.
        Box::pin(ready(Ok(())))
    }

    fn sizes(&self) -> BoxFuture<'_, Result<Sizes, StoreError>> {
        Box::pin(self.read("count the jobs", |connection| {
            let count = |sql| -> Result<u64, ReadError> {
                let count: i64 = connection.query_row(sql, (), |row| row.get(0))?;
                Ok(count.unsigned_abs())
            };
            Ok(Sizes {
                jobs: count("SELECT count(*) FROM jobs")?,
                log: count("SELECT count(*) FROM transitions WHERE seq > 0")?,
            })
        }))
    }

    fn job_ids(
        &self,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        Box::pin(self.read("list the jobs", move |connection| {
            // Every id is greater than the empty text.
            let after = after.unwrap_or_default();
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            connection
                .prepare_cached("SELECT id FROM jobs WHERE id > ?1 ORDER BY id LIMIT ?2")?
                .query_map((after, limit), |row| row.get(0))?
                .collect::<Result<_, _>>()
                .map_err(ReadError::from)
        }))
    }

    fn log_entries<'a>(
        &'a self,
        job: &'a JobSummary,
    ) -> BoxFuture<'a, Result<Vec<LogEntry>, StoreError>> {
        let id = job.id.to_string();
        Box::pin(self.read("read a job's transitions", move |connection| {
            connection
                .prepare_cached(
                    // One that was not sent is sent anyway.
                    "SELECT trans_id, seq, resend AND notif_sent FROM transitions \
                     WHERE job_id = ?1 AND seq > 0 ORDER BY seq",
                )?
                .query_map((id,), |row| {
                    Ok(LogEntry {
                        trans_id: row.get(0)?,
                        number: row.get(1)?,
                        resend: row.get(2)?,
                    })
                })?
                .collect::<Result<_, _>>()
                .map_err(ReadError::from)
        }))
    }

    fn insert_whole_job(&self, job: WholeJob) -> BoxFuture<'_, Result<(), StoreError>> {
        const ACTION: &str = "store a copy of a job";
        Box::pin(async move {
            let copy = Copy::new(job).map_err(|error| error.into_store_error(ACTION))?;
            self.writer
                .write(ACTION, move |session| {
                    copy.insert(&session.connection)
                        .map_err(|error| match error {
                            ReadError::Sqlite(error) if is_duplicate(&error) => {
                                StoreError::Duplicate {
                                    action: ACTION,
                                    cause: error.to_string(),
                                }
                            }
                            error => error.into_store_error(ACTION),
                        })
                })
                .await
        })
    }

    fn all_images(&self) -> BoxFuture<'_, Result<Vec<Result<Image, StoreError>>, StoreError>> {
        const ACTION: &str = "read the images";
        Box::pin(self.read(ACTION, |connection| {
            connection
                .prepare_cached("SELECT record FROM images ORDER BY name, rowid")?
                .query_map((), |row| {
                    let record = row.get_ref(0)?.as_str()?;
                    Ok(parse(record).map_err(|error| error.into_store_error(ACTION)))
                })?
                .collect::<Result<_, _>>()
                .map_err(ReadError::from)
        }))
    }

    fn all_refdata(&self) -> BoxFuture<'_, Result<Vec<Result<Refdata, StoreError>>, StoreError>> {
        Box::pin(self.every_refdata("read the reference data"))
    }

    fn leases(&self) -> BoxFuture<'_, Result<Vec<KeptLease>, StoreError>> {
        Box::pin(self.read("read the leases", |connection| {
            connection
                .prepare_cached("SELECT name, holder FROM leases ORDER BY name")?
                .query_map((), |row| {
                    Ok(KeptLease {
                        name: row.get(0)?,
                        holder: row.get(1)?,
                        // The data directory is this process's alone: whoever held it is gone.
                        until: None,
                    })
                })?
                .collect::<Result<_, _>>()
                .map_err(ReadError::from)
        }))
    }
}

/// A job of another store, ready to be written.
struct Copy {
    rows: JobRows,
    summary: JobSummary,
    log: Vec<LogEntry>,
}

impl Copy {
    fn new(copied: WholeJob) -> Result<Self, ReadError> {
        let WholeJob {
            job,
            containers,
            log,
        } = copied;
        let input_file_count = job.input_file_count;
        // The outcome is written after the row, as when a job ends.
        let (new, summary) = as_new(job, containers);
        let id = summary.id;
        if summary
            .transitions
            .iter()
            .any(|one| one.trans_id.is_empty())
        {
            return Err(ReadError::corrupt(
                format!("job {id}"),
                "a transition has no trans_id, by which consumers tell repeats",
            ));
        }
        let mut rows = JobRows::new(new)?;
        rows.input_file_count = i64::try_from(input_file_count).unwrap_or(i64::MAX);
        rows.notes = to_json(id, "job notes", &summary.notes)?;
        rows.cleaned = summary.notes.cleaned;
        Ok(Self { rows, summary, log })
    }

    fn insert(&self, connection: &Connection) -> Result<(), ReadError> {
        self.rows.insert_without_transitions(connection)?;
        save_outcome(connection, self.summary.id, &self.summary.outcome)?;
        self.insert_transitions(connection)
    }

    fn insert_transitions(&self, connection: &Connection) -> Result<(), ReadError> {
        let logged: HashMap<&str, &LogEntry> = self
            .log
            .iter()
            .map(|entry| (entry.trans_id.as_str(), entry))
            .collect();
        let unlogged = self.summary.transitions.len().saturating_sub(logged.len());
        let mut unlogged_seq = connection
            .prepare_cached("SELECT min(0, coalesce(min(seq), 0)) - ?1 FROM transitions")?
            .query_row((i64::try_from(unlogged).unwrap_or(i64::MAX),), |row| {
                row.get::<_, i64>(0)
            })?;
        let mut statement = connection.prepare_cached(
            "INSERT INTO transitions (seq, job_id, user, trans_id, state, time, notif_sent, resend) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?;
        for transition in &self.summary.transitions {
            let (seq, resend) = match logged.get(transition.trans_id.as_str()) {
                Some(entry) => (entry.number, entry.resend),
                None => {
                    let seq = unlogged_seq;
                    unlogged_seq += 1;
                    (seq, false)
                }
            };
            statement.execute((
                seq,
                self.summary.id.to_string(),
                &self.summary.user,
                &transition.trans_id,
                transition.state.as_str(),
                micros(transition.time),
                transition.notif_sent,
                resend,
            ))?;
        }
        Ok(())
    }
}

fn is_duplicate(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation)
}
