//! Leases as rows.

use futures::future::BoxFuture;
use rusqlite::{Connection, OptionalExtension};

use crate::job_store::StoreError;
use crate::lease_store::{Lease, LeaseRequest, LeaseStore};

use super::{ReadError, SqliteStore};

impl LeaseStore for SqliteStore {
    fn take_lease(&self, request: LeaseRequest) -> BoxFuture<'_, Result<Lease, StoreError>> {
        const ACTION: &str = "take a lease";
        Box::pin(self.writer.write(ACTION, move |session| {
            take(&session.connection, &request)
                .map_err(|error| ReadError::from(error).into_store_error(ACTION))
        }))
    }

    fn give_back_lease(
        &self,
        name: String,
        holder: String,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        const ACTION: &str = "give a lease back";
        Box::pin(self.writer.write(ACTION, move |session| {
            session
                .connection
                .prepare_cached("DELETE FROM leases WHERE name = ?1 AND holder = ?2")
                .and_then(|mut statement| statement.execute((name, holder)))
                .map_err(|error| ReadError::from(error).into_store_error(ACTION))?;
            Ok::<_, StoreError>(())
        }))
    }
}

impl SqliteStore {
    /// Has every lease lapse now, for a service that knows that it is the only one. They are not
    /// forgotten: what they protected may be half done.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn lapse_leases(&self) -> Result<(), StoreError> {
        const ACTION: &str = "end the leases of the last run";
        self.writer
            .write(ACTION, move |session| {
                session
                    .connection
                    .execute("UPDATE leases SET until = 0", ())
                    .map_err(|error| ReadError::from(error).into_store_error(ACTION))?;
                Ok::<_, StoreError>(())
            })
            .await
    }
}

fn take(connection: &Connection, request: &LeaseRequest) -> Result<Lease, rusqlite::Error> {
    let now = request.now.timestamp().as_microsecond();
    let found: Option<(String, i64)> = connection
        .prepare_cached("SELECT holder, until FROM leases WHERE name = ?1")?
        .query_row((&request.name,), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let lease = match found {
        None => Lease::Fresh,
        Some((_, until)) if until <= now => Lease::TakenOver,
        Some((holder, _)) if holder == request.holder => Lease::Renewed,
        Some(_) => return Ok(Lease::Held),
    };
    connection
        .prepare_cached("INSERT OR REPLACE INTO leases (name, holder, until) VALUES (?1, ?2, ?3)")?
        .execute((
            &request.name,
            &request.holder,
            request.until.timestamp().as_microsecond(),
        ))?;
    Ok(lease)
}
