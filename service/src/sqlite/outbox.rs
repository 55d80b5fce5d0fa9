//! The outbox: the rows of `transitions` in the order of their `seq`. Those that were in no log when they
//! were copied here ([`super::copy`]) have a `seq` below 1.

use std::str::FromStr;

use futures::future::BoxFuture;
use rusqlite::{Connection, OptionalExtension, Row};
use tokio::sync::watch;

use cts_shared::id::JobId;
use cts_shared::state::JobState;
use cts_shared::timestamp::UtcTime;

use crate::job_store::StoreError;
use crate::outbox::{Event, Outbox, Unsent};

use super::jobs::parse_time;
use super::{ReadError, SqliteStore};

const COLUMNS: &str = "trans_id, job_id, user, state, time";

impl Outbox for SqliteStore {
    fn events_after(
        &self,
        trans_id: Option<String>,
        user: Option<String>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Option<Vec<Event>>, StoreError>> {
        Box::pin(self.read("read transitions", move |connection| {
            let seq: i64 = match trans_id {
                None => 0,
                Some(trans_id) => {
                    let found = connection
                        .prepare_cached(
                            "SELECT seq FROM transitions WHERE trans_id = ?1 AND seq > 0",
                        )?
                        .query_row((trans_id,), |row| row.get(0))
                        .optional()?;
                    let Some(seq) = found else {
                        return Ok(None);
                    };
                    seq
                }
            };
            match user {
                None => read_events(
                    connection,
                    &format!(
                        "SELECT {COLUMNS} FROM transitions WHERE seq > ?1 ORDER BY seq LIMIT ?2"
                    ),
                    (seq, limit),
                ),
                Some(user) => read_events(
                    connection,
                    &format!(
                        "SELECT {COLUMNS} FROM transitions WHERE seq > ?1 AND user = ?3 \
                         ORDER BY seq LIMIT ?2"
                    ),
                    (seq, limit, user),
                ),
            }
            .map(Some)
        }))
    }

    fn newest(&self) -> BoxFuture<'_, Result<Option<String>, StoreError>> {
        Box::pin(self.read("read the newest transition", |connection| {
            Ok(connection
                .prepare_cached(
                    "SELECT trans_id FROM transitions WHERE seq > 0 ORDER BY seq DESC LIMIT 1",
                )?
                .query_row((), |row| row.get(0))
                .optional()?)
        }))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.writer.commits()
    }

    fn to_send(
        &self,
        after: Option<String>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<Event>, StoreError>> {
        Box::pin(self.read("read what is to be sent", move |connection| {
            read_events(
                connection,
                &format!(
                    "SELECT {COLUMNS} FROM transitions WHERE (notif_sent = 0 OR resend = 1) \
                     AND seq > coalesce((SELECT seq FROM transitions WHERE trans_id = ?1), ?3) \
                     ORDER BY seq LIMIT ?2"
                ),
                (after, limit, i64::MIN),
            )
        }))
    }

    fn adopt(&self, _before: UtcTime) -> BoxFuture<'_, Result<u64, StoreError>> {
        // Nobody else writes to the file.
        Box::pin(std::future::ready(Ok(0)))
    }

    fn mark_sent(&self, trans_ids: Vec<String>) -> BoxFuture<'_, Result<(), StoreError>> {
        const ACTION: &str = "note that messages were sent";
        Box::pin(self.writer.write(ACTION, move |session| {
            let mark = || -> Result<(), rusqlite::Error> {
                let mut statement = session.connection.prepare_cached(
                    "UPDATE transitions SET notif_sent = 1, resend = 0 WHERE trans_id = ?1",
                )?;
                for trans_id in &trans_ids {
                    statement.execute((trans_id,))?;
                }
                Ok(())
            };
            mark().map_err(|error| ReadError::from(error).into_store_error(ACTION))
        }))
    }

    fn resend(&self, job: JobId, state: JobState) -> BoxFuture<'_, Result<bool, StoreError>> {
        const ACTION: &str = "have a message sent again";
        Box::pin(self.writer.write(ACTION, move |session| {
            let changed = session
                .connection
                .prepare_cached(
                    "UPDATE transitions SET resend = 1 WHERE seq = (SELECT max(seq) \
                     FROM transitions WHERE job_id = ?1 AND state = ?2)",
                )
                .and_then(|mut statement| statement.execute((job.to_string(), state.as_str())))
                .map_err(|error| ReadError::from(error).into_store_error(ACTION))?;
            Ok::<_, StoreError>(changed > 0)
        }))
    }

    fn unsent(&self, before: Option<UtcTime>) -> BoxFuture<'_, Result<Unsent, StoreError>> {
        Box::pin(self.read("count what is to be sent", move |connection| {
            let before = before.map_or(i64::MAX, |time| time.timestamp().as_microsecond());
            let (transitions, jobs, oldest): (i64, i64, Option<i64>) = connection
                .prepare_cached(
                    "SELECT count(*), count(DISTINCT job_id), min(time) FROM transitions \
                     WHERE notif_sent = 0 AND time < ?1",
                )?
                .query_row((before,), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            Ok(Unsent {
                transitions: transitions.unsigned_abs(),
                jobs: jobs.unsigned_abs(),
                oldest: oldest
                    .map(|time| parse_time("the outbox", time))
                    .transpose()?,
            })
        }))
    }
}

fn read_events(
    connection: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<Event>, ReadError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        events.push(read_event(row)?);
    }
    Ok(events)
}

fn read_event(row: &Row<'_>) -> Result<Event, ReadError> {
    let text = |column| -> Result<&str, ReadError> {
        Ok(row
            .get_ref(column)?
            .as_str()
            .map_err(rusqlite::Error::from)?)
    };
    let job_id = text(1)?;
    let what = || format!("transition of job {job_id}");
    Ok(Event {
        trans_id: row.get(0)?,
        job_id: JobId::from_str(job_id).map_err(|error| ReadError::corrupt(what(), error))?,
        user: row.get(2)?,
        state: JobState::from_str(text(3)?).map_err(|error| ReadError::corrupt(what(), error))?,
        time: parse_time(&what(), row.get(4)?)?,
    })
}
