//! Jobs, containers and transitions as rows.

use std::str::FromStr;

use futures::future::BoxFuture;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use uuid::Uuid;

use cts_shared::id::JobId;
use cts_shared::job_input::InputFiles;
use cts_shared::site::Site;
use cts_shared::state::JobState;
use cts_shared::state::job_flow::{Change, ContainerRecord, JobOutcome, JobRecord, Transition};
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::job::{JobInputPreview, S3File, SiteNotice};

use crate::error::Error;
use crate::job_store::{
    JobFilter, JobNotes, JobStep, JobStore, JobSummary, ListedJob, NewJob, NotifiedTransition,
    StoreError, StoredJob,
};

use super::{ReadError, SqliteStore};

/// The member of a job input that is stored apart from the others.
const INPUT_FILES: &str = "input_files";

impl JobStore for SqliteStore {
    fn insert_job(&self, job: NewJob) -> BoxFuture<'_, Result<(), StoreError>> {
        const ACTION: &str = "store a job";
        Box::pin(async move {
            // Before it queues: with 10,000 input files this takes milliseconds.
            let rows = JobRows::new(job).map_err(|error| error.into_store_error(ACTION))?;
            self.writer
                .write(ACTION, move |session| {
                    rows.insert(&session.connection)
                        .map_err(|error| error.into_store_error(ACTION))?;
                    session.records.put(rows.id, rows.record);
                    Ok(())
                })
                .await
        })
    }

    fn job(&self, id: JobId) -> BoxFuture<'_, Result<Option<StoredJob>, StoreError>> {
        Box::pin(self.read("read a job", move |connection| {
            let Some((mut summary, input_file_count)) = read_summary(connection, id)? else {
                return Ok(None);
            };
            summary.outcome.outputs = read_outputs(connection, id)?;
            let (job_input, image, input_files): (String, String, String) = connection
                .prepare_cached(
                    "SELECT job_input, image, input_files FROM submissions WHERE job_id = ?1",
                )?
                .query_row((id.to_string(),), |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })?;
            let JobInputPreview(mut job_input) = from_json(id, "job input", &job_input)?;
            job_input.insert(
                INPUT_FILES.to_owned(),
                from_json(id, "input files", &input_files)?,
            );
            Ok(Some(StoredJob {
                job_input: serde_json::from_value(Value::Object(job_input))
                    .map_err(|error| ReadError::corrupt(format!("job input of job {id}"), error))?,
                image: from_json(id, "image", &image)?,
                input_file_count,
                summary,
            }))
        }))
    }

    fn job_summary(&self, id: JobId) -> BoxFuture<'_, Result<Option<JobSummary>, StoreError>> {
        Box::pin(self.read("read a job's state", move |connection| {
            Ok(read_summary(connection, id)?.map(|(summary, _)| summary))
        }))
    }

    fn job_record(&self, id: JobId) -> BoxFuture<'_, Result<Option<JobRecord>, StoreError>> {
        Box::pin(self.read("read a job's containers", move |connection| {
            read_record(connection, id)
        }))
    }

    fn change_job(&self, id: JobId, step: JobStep) -> BoxFuture<'_, Result<Option<Change>, Error>> {
        const ACTION: &str = "change a job";
        Box::pin(self.writer.write(ACTION, move |session| {
            let store_error = |error: ReadError| Error::from(error.into_store_error(ACTION));
            let record = match session.records.take(id) {
                Some(record) => Some(record),
                None => read_record(&session.connection, id).map_err(store_error)?,
            };
            let Some(mut record) = record else {
                return Ok(None);
            };
            let was_pending = record.pending().is_some();
            let change = step(&mut record)?;
            if !change.is_empty() {
                save(&session.connection, id, &record, &change, was_pending)
                    .map_err(store_error)?;
                session.records.put(id, record);
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

    fn unstarted_jobs(
        &self,
        before: UtcTime,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<(JobId, Site)>, StoreError>> {
        Box::pin(
            self.read("find jobs that no site has taken", move |connection| {
                let mut statement = connection.prepare_cached(
                    "SELECT id, site FROM jobs WHERE state = ?1 AND update_time < ?2 \
                 ORDER BY update_time LIMIT ?3",
                )?;
                let mut rows =
                    statement.query((JobState::Created.as_str(), micros(before), limit))?;
                let mut jobs = Vec::new();
                while let Some(row) = rows.next()? {
                    let id = read_id(row, 0)?;
                    jobs.push((id, read_site(id, row, 1)?));
                }
                Ok(jobs)
            }),
        )
    }

    fn list_jobs(
        &self,
        filter: JobFilter,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<ListedJob>, StoreError>> {
        Box::pin(self.read("list jobs", move |connection| {
            list_jobs(connection, &filter, limit)
        }))
    }

    fn change_admin_meta(
        &self,
        id: JobId,
        set: Map<String, Value>,
        unset: Vec<String>,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        const ACTION: &str = "note something on a job";
        Box::pin(self.writer.write(ACTION, move |session| {
            change_notes(&session.connection, id, |notes| {
                notes.admin_meta.extend(set);
                for key in &unset {
                    notes.admin_meta.shift_remove(key);
                }
            })
            .map_err(|error| error.into_store_error(ACTION))
        }))
    }

    fn add_htcondor_cluster(
        &self,
        id: JobId,
        cluster: i64,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        self.note("note the cluster of a job", id, move |notes| {
            if !notes.htcondor_cluster_ids.contains(&cluster) {
                notes.htcondor_cluster_ids.push(cluster);
            }
        })
    }

    fn set_site_notice(
        &self,
        id: JobId,
        notice: Option<SiteNotice>,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        self.note("note what a job waits for", id, move |notes| {
            notes.site_notice.clone_from(&notice);
        })
    }

    fn jobs_with_statistics_due(
        &self,
        site: Site,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<JobId>, StoreError>> {
        Box::pin(self.read("find jobs without statistics", move |connection| {
            read_ids(
                connection,
                "SELECT id FROM jobs WHERE site = ?1 AND statistics_due = 1 ORDER BY id LIMIT ?2",
                (site.as_str(), limit),
            )
        }))
    }

    fn jobs_to_clean(
        &self,
        before: UtcTime,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<JobId>, StoreError>> {
        Box::pin(self.read("find jobs to clean", move |connection| {
            read_ids(
                connection,
                "SELECT id FROM jobs WHERE terminal = 1 AND cleaned = 0 AND update_time < ?1 \
                 ORDER BY update_time LIMIT ?2",
                (micros(before), limit),
            )
        }))
    }

    fn mark_cleaned(&self, id: JobId) -> BoxFuture<'_, Result<(), StoreError>> {
        const ACTION: &str = "note that a job is cleaned";
        Box::pin(self.writer.write(ACTION, move |session| {
            session
                .connection
                .prepare_cached("UPDATE jobs SET cleaned = 1 WHERE id = ?1 AND terminal = 1")
                .and_then(|mut statement| statement.execute((id.to_string(),)))
                .map_err(|error| ReadError::from(error).into_store_error(ACTION))?;
            Ok::<_, StoreError>(())
        }))
    }
}

impl SqliteStore {
    /// Changes what is noted on a job.
    fn note(
        &self,
        action: &'static str,
        id: JobId,
        change: impl Fn(&mut JobNotes) + Send + 'static,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.writer.write(action, move |session| {
            change_notes(&session.connection, id, change)
                .map(drop)
                .map_err(|error| error.into_store_error(action))
        }))
    }
}

/// A job, ready to be written.
pub(super) struct JobRows {
    id: JobId,
    user: String,
    site: Site,
    pub(super) input_file_count: i64,
    job_input: String,
    input_files: String,
    image: String,
    pub(super) notes: String,
    pub(super) cleaned: bool,
    record: JobRecord,
}

impl JobRows {
    pub(super) fn new(job: NewJob) -> Result<Self, ReadError> {
        let NewJob {
            id,
            user,
            mut job_input,
            image,
            input_bytes,
            record,
        } = job;
        let site = job_input.cluster;
        let input_files =
            std::mem::replace(&mut job_input.input_files, InputFiles::Files(Vec::new()));
        let mut preview = serde_json::to_value(&job_input)
            .map_err(|error| ReadError::corrupt(format!("job input of job {id}"), error))?;
        if let Value::Object(preview) = &mut preview {
            preview.shift_remove(INPUT_FILES);
        }
        Ok(Self {
            site,
            input_file_count: i64::try_from(input_files.len()).unwrap_or(i64::MAX),
            job_input: to_json(id, "job input", &preview)?,
            input_files: to_json(id, "input files", &input_files)?,
            image: to_json(id, "image", &image)?,
            notes: to_json(
                id,
                "job notes",
                &JobNotes {
                    input_bytes,
                    ..JobNotes::default()
                },
            )?,
            cleaned: false,
            id,
            user,
            record,
        })
    }

    fn insert(&self, connection: &Connection) -> Result<(), ReadError> {
        self.insert_without_transitions(connection)?;
        insert_transitions(connection, self.id, &self.record.transitions)
    }

    pub(super) fn insert_without_transitions(
        &self,
        connection: &Connection,
    ) -> Result<(), ReadError> {
        let id = self.id;
        let record = &self.record;
        connection
            .prepare_cached(
                "INSERT INTO jobs (id, user, site, state, update_time, terminal, pending, \
                 input_file_count, outcome, notes, cleaned) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?
            .execute((
                id.to_string(),
                &self.user,
                self.site.as_str(),
                record.state().as_str(),
                update_time(record),
                record.state().is_terminal(),
                record.pending().is_some(),
                self.input_file_count,
                to_json(id, "job outcome", &record.outcome)?,
                &self.notes,
                self.cleaned,
            ))?;
        connection
            .prepare_cached(
                "INSERT INTO submissions (job_id, job_input, image, input_files) \
                 VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute((
                id.to_string(),
                &self.job_input,
                &self.image,
                &self.input_files,
            ))?;
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
}

/// Writes what a step changed.
fn save(
    connection: &Connection,
    id: JobId,
    record: &JobRecord,
    change: &Change,
    was_pending: bool,
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
        save_outcome(connection, id, &record.outcome)?;
    }
    let pending = record.pending().is_some();
    // Most reports move their container only.
    if !change.transitions.is_empty() || pending != was_pending {
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
                pending,
            ))?;
    }
    Ok(())
}

/// Writes what a job came to, its outputs apart.
pub(super) fn save_outcome(
    connection: &Connection,
    id: JobId,
    outcome: &JobOutcome,
) -> Result<(), ReadError> {
    let mut outcome = outcome.clone();
    if let Some(outputs) = outcome.outputs.take() {
        connection
            .prepare_cached("INSERT OR REPLACE INTO job_outputs (job_id, outputs) VALUES (?1, ?2)")?
            .execute((id.to_string(), to_json(id, "outputs", &outputs)?))?;
    }
    connection
        .prepare_cached("UPDATE jobs SET outcome = ?2, statistics_due = ?3 WHERE id = ?1")?
        .execute((
            id.to_string(),
            to_json(id, "job outcome", &outcome)?,
            outcome.statistics_due,
        ))?;
    Ok(())
}

/// Changes what is noted on a job. False if there is no such job.
fn change_notes(
    connection: &Connection,
    id: JobId,
    change: impl FnOnce(&mut JobNotes),
) -> Result<bool, ReadError> {
    let notes: Option<String> = connection
        .prepare_cached("SELECT notes FROM jobs WHERE id = ?1")?
        .query_row((id.to_string(),), |row| row.get(0))
        .optional()?;
    let Some(notes) = notes else {
        return Ok(false);
    };
    let mut notes: JobNotes = from_json(id, "job notes", &notes)?;
    change(&mut notes);
    connection
        .prepare_cached("UPDATE jobs SET notes = ?2 WHERE id = ?1")?
        .execute((id.to_string(), to_json(id, "job notes", &notes)?))?;
    Ok(true)
}

fn insert_transitions(
    connection: &Connection,
    id: JobId,
    transitions: &[Transition],
) -> Result<(), ReadError> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO transitions (job_id, user, trans_id, state, time) \
         VALUES (?1, (SELECT user FROM jobs WHERE id = ?1), ?2, ?3, ?4)",
    )?;
    for transition in transitions {
        statement.execute((
            id.to_string(),
            Uuid::new_v4().to_string(),
            transition.state.as_str(),
            micros(transition.time),
        ))?;
    }
    Ok(())
}

/// The columns of [`summary_of`], of table `jobs`.
const SUMMARY_COLUMNS: &str = "user, site, outcome, notes, cleaned, input_file_count";

/// A job's summary and its number of input files.
fn read_summary(
    connection: &Connection,
    id: JobId,
) -> Result<Option<(JobSummary, u64)>, ReadError> {
    let mut statement =
        connection.prepare_cached(&format!("SELECT {SUMMARY_COLUMNS} FROM jobs WHERE id = ?1"))?;
    let mut rows = statement.query((id.to_string(),))?;
    rows.next()?
        .map(|row| summary_of(connection, id, row))
        .transpose()
}

/// Reads [`SUMMARY_COLUMNS`], the first of a row.
fn summary_of(
    connection: &Connection,
    id: JobId,
    row: &Row<'_>,
) -> Result<(JobSummary, u64), ReadError> {
    let text = |column| -> Result<&str, ReadError> {
        Ok(row
            .get_ref(column)?
            .as_str()
            .map_err(rusqlite::Error::from)?)
    };
    let mut notes: JobNotes = from_json(id, "job notes", text(3)?)?;
    notes.cleaned = row.get(4)?;
    let summary = JobSummary {
        id,
        user: row.get(0)?,
        site: read_site(id, row, 1)?,
        transitions: read_transitions(connection, id)?,
        outcome: from_json(id, "job outcome", text(2)?)?,
        notes,
        is_foreign: false,
    };
    Ok((summary, row.get::<_, i64>(5)?.unsigned_abs()))
}

fn list_jobs(
    connection: &Connection,
    filter: &JobFilter,
    limit: u32,
) -> Result<Vec<ListedJob>, ReadError> {
    let mut conditions = Vec::new();
    let mut parameters: Vec<rusqlite::types::Value> = Vec::new();
    let mut restrict = |condition: &'static str, value: Option<rusqlite::types::Value>| {
        if let Some(value) = value {
            conditions.push(condition);
            parameters.push(value);
        }
    };
    restrict("user = ?", filter.user.clone().map(Into::into));
    restrict("site = ?", filter.site.map(|site| site.to_string().into()));
    restrict(
        "state = ?",
        filter.state.map(|state| state.as_str().to_owned().into()),
    );
    restrict(
        "update_time >= ?",
        filter.after.map(|time| micros(time).into()),
    );
    restrict(
        "update_time < ?",
        filter.before.map(|time| micros(time).into()),
    );
    parameters.push(limit.into());
    let condition = if conditions.is_empty() {
        "1".to_owned()
    } else {
        conditions.join(" AND ")
    };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {SUMMARY_COLUMNS}, id, job_input, image \
         FROM jobs JOIN submissions ON job_id = id \
         WHERE {condition} ORDER BY update_time DESC, id LIMIT ?"
    ))?;
    let mut rows = statement.query(rusqlite::params_from_iter(parameters))?;
    let mut jobs = Vec::new();
    while let Some(row) = rows.next()? {
        let id = read_id(row, 6)?;
        let text = |column| -> Result<&str, ReadError> {
            Ok(row
                .get_ref(column)?
                .as_str()
                .map_err(rusqlite::Error::from)?)
        };
        let (summary, input_file_count) = summary_of(connection, id, row)?;
        jobs.push(ListedJob {
            job_input: from_json(id, "job input", text(7)?)?,
            image: from_json(id, "image", text(8)?)?,
            input_file_count,
            summary,
        });
    }
    Ok(jobs)
}

fn read_outputs(connection: &Connection, id: JobId) -> Result<Option<Vec<S3File>>, ReadError> {
    let outputs: Option<String> = connection
        .prepare_cached("SELECT outputs FROM job_outputs WHERE job_id = ?1")?
        .query_row((id.to_string(),), |row| row.get(0))
        .optional()?;
    outputs
        .map(|outputs| from_json(id, "outputs", &outputs))
        .transpose()
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
    let mut outcome: JobOutcome = from_json(id, "job outcome", &outcome)?;
    outcome.outputs = read_outputs(connection, id)?;
    Ok(Some(JobRecord {
        transitions,
        containers: read_containers(connection, id)?,
        outcome,
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
            time: parse_time(&format!("job {id}"), row.get(1)?)?,
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
        ids.push(read_id(row, 0)?);
    }
    Ok(ids)
}

fn read_id(row: &Row<'_>, column: usize) -> Result<JobId, ReadError> {
    let id = row
        .get_ref(column)?
        .as_str()
        .map_err(rusqlite::Error::from)?;
    JobId::from_str(id).map_err(|error| ReadError::corrupt("job id", error))
}

fn read_site(id: JobId, row: &Row<'_>, column: usize) -> Result<Site, ReadError> {
    let site = row
        .get_ref(column)?
        .as_str()
        .map_err(rusqlite::Error::from)?;
    Site::from_str(site).map_err(|error| ReadError::corrupt(format!("site of job {id}"), error))
}

fn update_time(record: &JobRecord) -> i64 {
    record
        .transitions
        .last()
        .map_or(0, |last| micros(last.time))
}

pub(super) fn micros(time: UtcTime) -> i64 {
    time.timestamp().as_microsecond()
}

/// A time as it is stored: microseconds since 1970-01-01 UTC.
pub(super) fn parse_time(what: &str, micros: i64) -> Result<UtcTime, ReadError> {
    Timestamp::from_microsecond(micros)
        .map(UtcTime::new)
        .map_err(|error| ReadError::corrupt(format!("time in {what}"), error))
}

pub(super) fn to_json(id: JobId, what: &str, value: &impl Serialize) -> Result<String, ReadError> {
    serde_json::to_string(value)
        .map_err(|error| ReadError::corrupt(format!("{what} of job {id}"), error))
}

fn from_json<T: DeserializeOwned>(id: JobId, what: &str, text: &str) -> Result<T, ReadError> {
    serde_json::from_str(text)
        .map_err(|error| ReadError::corrupt(format!("{what} of job {id}"), error))
}
