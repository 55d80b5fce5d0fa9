//! Jobs, containers and transitions as rows.

use std::str::FromStr;

use futures::future::BoxFuture;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use cts_shared::id::JobId;
use cts_shared::site::Site;
use cts_shared::state::JobState;
use cts_shared::state::job_flow::{Change, ContainerRecord, JobRecord, Transition};
use cts_shared::timestamp::UtcTime;

use crate::error::Error;
use crate::job_store::{
    JobStep, JobStore, JobSummary, NewJob, NotifiedTransition, StoreError, StoredJob,
};

use super::{ReadError, SqliteStore};

impl JobStore for SqliteStore {
    fn insert_job(&self, job: NewJob) -> BoxFuture<'_, Result<(), StoreError>> {
        const ACTION: &str = "store a job";
        Box::pin(self.writer.write(ACTION, move |connection| {
            insert_job(connection, &job).map_err(|error| error.into_store_error(ACTION))
        }))
    }

    fn job(&self, id: JobId) -> BoxFuture<'_, Result<Option<StoredJob>, StoreError>> {
        Box::pin(self.read("read a job", move |connection| {
            let Some(summary) = read_summary(connection, id)? else {
                return Ok(None);
            };
            let (job_input, image, input_file_count): (String, String, i64) = connection
                .prepare_cached(
                    "SELECT job_input, image, input_file_count FROM jobs WHERE id = ?1",
                )?
                .query_row((id.to_string(),), |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })?;
            Ok(Some(StoredJob {
                job_input: from_json(id, "job input", &job_input)?,
                image: from_json(id, "image", &image)?,
                input_file_count: input_file_count.unsigned_abs(),
                summary,
            }))
        }))
    }

    fn job_summary(&self, id: JobId) -> BoxFuture<'_, Result<Option<JobSummary>, StoreError>> {
        Box::pin(self.read("read a job's state", move |connection| {
            read_summary(connection, id)
        }))
    }

    fn job_record(&self, id: JobId) -> BoxFuture<'_, Result<Option<JobRecord>, StoreError>> {
        Box::pin(self.read("read a job's containers", move |connection| {
            read_record(connection, id)
        }))
    }

    fn change_job(&self, id: JobId, step: JobStep) -> BoxFuture<'_, Result<Option<Change>, Error>> {
        const ACTION: &str = "change a job";
        Box::pin(self.writer.write(ACTION, move |connection| {
            let store_error = |error: ReadError| Error::from(error.into_store_error(ACTION));
            let Some(mut record) = read_record(connection, id).map_err(store_error)? else {
                return Ok(None);
            };
            let change = step(&mut record)?;
            if !change.is_empty() {
                save(connection, id, &record, &change).map_err(store_error)?;
            }
            Ok(Some(change))
        }))
    }

    fn pending_jobs(
        &self,
        after: Option<JobId>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<JobId>, StoreError>> {
        Box::pin(self.read("find jobs to finish", move |connection| {
            // Every id is greater than the empty text.
            let after = after.map(|id| id.to_string()).unwrap_or_default();
            read_ids(
                connection,
                "SELECT id FROM jobs WHERE pending = 1 AND id > ?1 ORDER BY id LIMIT ?2",
                (after, limit),
            )
        }))
    }

    fn running_jobs(&self, site: Site) -> BoxFuture<'_, Result<Vec<JobId>, StoreError>> {
        Box::pin(self.read("find running jobs", move |connection| {
            read_ids(
                connection,
                "SELECT id FROM jobs WHERE site = ?1 AND terminal = 0",
                (site.as_str(),),
            )
        }))
    }
}

fn insert_job(connection: &Connection, job: &NewJob) -> Result<(), ReadError> {
    let id = job.id;
    let record = &job.record;
    connection
        .prepare_cached(
            "INSERT INTO jobs (id, user, site, state, update_time, terminal, pending, \
             input_file_count, job_input, image, outcome, notes) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?
        .execute((
            id.to_string(),
            &job.user,
            job.job_input.cluster.as_str(),
            record.state().as_str(),
            update_time(record),
            record.state().is_terminal(),
            record.pending().is_some(),
            i64::try_from(job.job_input.input_files.len()).unwrap_or(i64::MAX),
            to_json(id, "job input", &job.job_input)?,
            to_json(id, "image", &job.image)?,
            to_json(id, "job outcome", &record.outcome)?,
            "{}",
        ))?;
    insert_transitions(connection, id, &record.transitions)?;
    let mut statement = connection.prepare_cached(
        "INSERT INTO containers (job_id, number, state, record) VALUES (?1, ?2, ?3, ?4)",
    )?;
    for (number, container) in (0_u32..).zip(&record.containers) {
        statement.execute((
            id.to_string(),
            number,
            container.state().as_str(),
            to_json(id, "container", container)?,
        ))?;
    }
    Ok(())
}

/// Writes what a step changed.
fn save(
    connection: &Connection,
    id: JobId,
    record: &JobRecord,
    change: &Change,
) -> Result<(), ReadError> {
    if let Some(number) = change.container {
        let container = usize::try_from(number)
            .ok()
            .and_then(|index| record.containers.get(index))
            .ok_or_else(|| {
                ReadError::corrupt(format!("job {id}"), format!("no container {number}"))
            })?;
        connection
            .prepare_cached(
                "UPDATE containers SET state = ?3, record = ?4 WHERE job_id = ?1 AND number = ?2",
            )?
            .execute((
                id.to_string(),
                number,
                container.state().as_str(),
                to_json(id, "container", container)?,
            ))?;
    }
    insert_transitions(connection, id, &change.transitions)?;
    if change.outcome {
        connection
            .prepare_cached("UPDATE jobs SET outcome = ?2 WHERE id = ?1")?
            .execute((id.to_string(), to_json(id, "job outcome", &record.outcome)?))?;
    }
    connection
        .prepare_cached(
            "UPDATE jobs SET state = ?2, update_time = ?3, terminal = ?4, pending = ?5 \
             WHERE id = ?1",
        )?
        .execute((
            id.to_string(),
            record.state().as_str(),
            update_time(record),
            record.state().is_terminal(),
            record.pending().is_some(),
        ))?;
    Ok(())
}

fn insert_transitions(
    connection: &Connection,
    id: JobId,
    transitions: &[Transition],
) -> Result<(), ReadError> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO transitions (job_id, trans_id, state, time) VALUES (?1, ?2, ?3, ?4)",
    )?;
    for transition in transitions {
        statement.execute((
            id.to_string(),
            Uuid::new_v4().to_string(),
            transition.state.as_str(),
            transition.time.timestamp().as_microsecond(),
        ))?;
    }
    Ok(())
}

fn read_summary(connection: &Connection, id: JobId) -> Result<Option<JobSummary>, ReadError> {
    let row: Option<(String, String, String, String)> = connection
        .prepare_cached("SELECT user, site, outcome, notes FROM jobs WHERE id = ?1")?
        .query_row((id.to_string(),), |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .optional()?;
    let Some((user, site, outcome, notes)) = row else {
        return Ok(None);
    };
    Ok(Some(JobSummary {
        id,
        user,
        site: Site::from_str(&site)
            .map_err(|error| ReadError::corrupt(format!("job {id}"), error))?,
        transitions: read_transitions(connection, id)?,
        outcome: from_json(id, "job outcome", &outcome)?,
        notes: from_json(id, "job notes", &notes)?,
    }))
}

fn read_record(connection: &Connection, id: JobId) -> Result<Option<JobRecord>, ReadError> {
    let outcome: Option<String> = connection
        .prepare_cached("SELECT outcome FROM jobs WHERE id = ?1")?
        .query_row((id.to_string(),), |row| row.get(0))
        .optional()?;
    let Some(outcome) = outcome else {
        return Ok(None);
    };
    let transitions = read_transitions(connection, id)?
        .into_iter()
        .map(|transition| Transition {
            state: transition.state,
            time: transition.time,
            reported_time: None,
        })
        .collect();
    Ok(Some(JobRecord {
        transitions,
        containers: read_containers(connection, id)?,
        outcome: from_json(id, "job outcome", &outcome)?,
    }))
}

fn read_transitions(
    connection: &Connection,
    id: JobId,
) -> Result<Vec<NotifiedTransition>, ReadError> {
    let mut statement = connection.prepare_cached(
        "SELECT state, time, trans_id, notif_sent FROM transitions WHERE job_id = ?1 ORDER BY seq",
    )?;
    let mut rows = statement.query((id.to_string(),))?;
    let mut transitions = Vec::new();
    while let Some(row) = rows.next()? {
        let state = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
        transitions.push(NotifiedTransition {
            state: JobState::from_str(state)
                .map_err(|error| ReadError::corrupt(format!("state of job {id}"), error))?,
            time: parse_time(id, row.get(1)?)?,
            trans_id: row.get(2)?,
            notif_sent: row.get(3)?,
        });
    }
    Ok(transitions)
}

fn read_containers(connection: &Connection, id: JobId) -> Result<Vec<ContainerRecord>, ReadError> {
    let mut statement = connection
        .prepare_cached("SELECT record FROM containers WHERE job_id = ?1 ORDER BY number")?;
    let mut rows = statement.query((id.to_string(),))?;
    let mut containers = Vec::new();
    while let Some(row) = rows.next()? {
        let record = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
        containers.push(from_json(id, "container", record)?);
    }
    Ok(containers)
}

fn read_ids(
    connection: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<JobId>, ReadError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    let mut ids = Vec::new();
    while let Some(row) = rows.next()? {
        let id = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
        ids.push(JobId::from_str(id).map_err(|error| ReadError::corrupt("job id", error))?);
    }
    Ok(ids)
}

fn update_time(record: &JobRecord) -> i64 {
    record
        .transitions
        .last()
        .map_or(0, |last| last.time.timestamp().as_microsecond())
}

fn parse_time(id: JobId, micros: i64) -> Result<UtcTime, ReadError> {
    Timestamp::from_microsecond(micros)
        .map(UtcTime::new)
        .map_err(|error| ReadError::corrupt(format!("time in job {id}"), error))
}

fn to_json(id: JobId, what: &str, value: &impl Serialize) -> Result<String, ReadError> {
    serde_json::to_string(value)
        .map_err(|error| ReadError::corrupt(format!("{what} of job {id}"), error))
}

fn from_json<T: DeserializeOwned>(id: JobId, what: &str, text: &str) -> Result<T, ReadError> {
    serde_json::from_str(text)
        .map_err(|error| ReadError::corrupt(format!("{what} of job {id}"), error))
}
