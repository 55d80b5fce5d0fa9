//! Reference data as rows.

use futures::future::BoxFuture;
use rusqlite::{Connection, OptionalExtension, Rows};

use cts_shared::id::RefdataId;
use cts_shared::site::Site;
use cts_shared::state::Step;
use cts_shared::timestamp::UtcTime;

use crate::job_store::StoreError;
use crate::refdata_store::{
    Begun, MAX_LISTED_REFDATA, Recorded, Refdata, RefdataEvent, RefdataStore, begin_anew, enter,
    is_to_clean, may_begin_anew, new_status,
};

use super::{ReadError, SqliteStore};

impl RefdataStore for SqliteStore {
    fn insert_refdata(&self, refdata: Refdata) -> BoxFuture<'_, Result<bool, StoreError>> {
        const ACTION: &str = "register reference data";
        Box::pin(self.writer.write(ACTION, move |session| {
            insert(&session.connection, &refdata).map_err(|error| error.into_store_error(ACTION))
        }))
    }

    fn refdata(&self, id: RefdataId) -> BoxFuture<'_, Result<Option<Refdata>, StoreError>> {
        Box::pin(self.read("look up reference data", move |connection| {
            find(connection, &id)
        }))
    }

    fn refdata_of_file(&self, file: String) -> BoxFuture<'_, Result<Vec<Refdata>, StoreError>> {
        Box::pin(self.read("look up reference data", move |connection| {
            let mut statement = connection
                .prepare_cached("SELECT record FROM refdata WHERE file = ?1 ORDER BY id")?;
            parse_all(statement.query((file,))?)
        }))
    }

    fn list_refdata(&self) -> BoxFuture<'_, Result<Vec<Refdata>, StoreError>> {
        Box::pin(self.read("list reference data", |connection| {
            let mut statement =
                connection.prepare_cached("SELECT record FROM refdata ORDER BY file LIMIT ?1")?;
            parse_all(statement.query((MAX_LISTED_REFDATA,))?)
        }))
    }

    fn record_refdata(
        &self,
        id: RefdataId,
        site: Site,
        event: RefdataEvent,
    ) -> BoxFuture<'_, Result<Recorded, StoreError>> {
        Box::pin(
            self.change_refdata("change the state of reference data", id, move |refdata| {
                let status = refdata.and_then(|refdata| {
                    let mut statuses = refdata.statuses.iter_mut();
                    statuses.find(|status| status.status.cluster == site)
                });
                match status.map(|status| enter(status, &event)) {
                    None => (Recorded::Unknown, false),
                    Some(Ok(Step::Enter)) => (Recorded::Entered, true),
                    Some(Ok(Step::AlreadyTrue)) => (Recorded::AlreadyTrue, false),
                    Some(Err(illegal)) => (Recorded::Refused(illegal.current), false),
                }
            }),
        )
    }

    fn begin_refdata(
        &self,
        id: RefdataId,
        site: Site,
        time: UtcTime,
    ) -> BoxFuture<'_, Result<Begun, StoreError>> {
        Box::pin(
            self.change_refdata("begin with reference data", id, move |refdata| {
                let Some(refdata) = refdata else {
                    return (Begun::Unknown, false);
                };
                let mut statuses = refdata.statuses.iter_mut();
                match statuses.find(|status| status.status.cluster == site) {
                    None => refdata.statuses.push(new_status(site, time)),
                    Some(failed) if may_begin_anew(failed) => *failed = begin_anew(failed, time),
                    Some(other) => return (Begun::Exists(other.status.state), false),
                }
                (Begun::Yes, true)
            }),
        )
    }

    fn mark_refdata_cleaned(
        &self,
        id: RefdataId,
        site: Site,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(
            self.change_refdata("mark reference data as cleaned", id, move |refdata| {
                let status = refdata.and_then(|refdata| {
                    let mut statuses = refdata.statuses.iter_mut();
                    statuses.find(|status| status.status.cluster == site)
                });
                let ended = status.filter(|status| status.status.state.is_terminal());
                let is_changed = ended.is_some();
                if let Some(status) = ended {
                    status.cleaned = true;
                }
                ((), is_changed)
            }),
        )
    }

    fn refdata_to_clean(
        &self,
        before: UtcTime,
    ) -> BoxFuture<'_, Result<Vec<(RefdataId, Site)>, StoreError>> {
        Box::pin(async move {
            let all = self
                .every_refdata("look for reference data to clean")
                .await?;
            Ok(all
                .into_iter()
                .flatten()
                .flat_map(|refdata| {
                    let old = refdata.statuses.into_iter();
                    let old = old.filter(move |status| is_to_clean(status, before));
                    old.map(move |status| (refdata.id.clone(), status.status.cluster))
                })
                .collect())
        })
    }

    fn unstaged_refdata(&self) -> BoxFuture<'_, Result<Vec<Refdata>, StoreError>> {
        Box::pin(async {
            let all = self
                .every_refdata("look for reference data to stage")
                .await?;
            let is_under_way = |refdata: &Refdata| {
                let mut statuses = refdata.statuses.iter();
                statuses.any(|status| !status.status.state.is_terminal())
            };
            Ok(all.into_iter().flatten().filter(is_under_way).collect())
        })
    }
}

impl SqliteStore {
    /// Every record, by file. One that cannot be read is an error of its own.
    pub(super) async fn every_refdata(
        &self,
        action: &'static str,
    ) -> Result<Vec<Result<Refdata, StoreError>>, StoreError> {
        self.read(action, move |connection| {
            connection
                .prepare_cached("SELECT record FROM refdata ORDER BY file")?
                .query_map((), |row| {
                    let record = row.get_ref(0)?.as_str()?;
                    Ok(parse(record).map_err(|error| error.into_store_error(action)))
                })?
                .collect::<Result<_, _>>()
                .map_err(ReadError::from)
        })
        .await
    }

    /// Changes a record, or is told that there is none. The change says whether it is to be stored.
    async fn change_refdata<T: Send + 'static>(
        &self,
        action: &'static str,
        id: RefdataId,
        change: impl FnOnce(Option<&mut Refdata>) -> (T, bool) + Send + 'static,
    ) -> Result<T, StoreError> {
        self.writer
            .write(action, move |session| {
                let connection = &session.connection;
                let changed = || -> Result<T, ReadError> {
                    let mut found = find(connection, &id)?;
                    let (value, is_changed) = change(found.as_mut());
                    if let Some(refdata) = found.filter(|_| is_changed) {
                        connection
                            .prepare_cached("UPDATE refdata SET record = ?2 WHERE id = ?1")?
                            .execute((id.as_str(), to_json(&refdata)?))?;
                    }
                    Ok(value)
                };
                changed().map_err(|error| error.into_store_error(action))
            })
            .await
    }
}

fn find(connection: &Connection, id: &RefdataId) -> Result<Option<Refdata>, ReadError> {
    let record: Option<String> = connection
        .prepare_cached("SELECT record FROM refdata WHERE id = ?1")?
        .query_row((id.as_str(),), |row| row.get(0))
        .optional()?;
    record.as_deref().map(parse).transpose()
}

fn insert(connection: &Connection, refdata: &Refdata) -> Result<bool, ReadError> {
    let is_registered = connection
        .prepare_cached("SELECT 1 FROM refdata WHERE file = ?1")?
        .exists((&refdata.file,))?;
    if is_registered {
        return Ok(false);
    }
    connection
        .prepare_cached("INSERT INTO refdata (id, file, record) VALUES (?1, ?2, ?3)")?
        .execute((refdata.id.as_str(), &refdata.file, to_json(refdata)?))?;
    Ok(true)
}

fn to_json(refdata: &Refdata) -> Result<String, ReadError> {
    serde_json::to_string(refdata)
        .map_err(|error| ReadError::corrupt(format!("reference data {}", refdata.id), error))
}

fn parse_all(mut rows: Rows<'_>) -> Result<Vec<Refdata>, ReadError> {
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let record = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
        found.push(parse(record)?);
    }
    Ok(found)
}

fn parse(record: &str) -> Result<Refdata, ReadError> {
    serde_json::from_str(record).map_err(|error| ReadError::corrupt("reference data", error))
}
