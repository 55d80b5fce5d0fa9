//! The schema, as numbered steps that are only ever added to. `PRAGMA user_version` holds the number
//! of the last one applied.

use rusqlite::{Connection, TransactionBehavior};

use crate::job_store::StoreError;

/// Step n brings a file of version n - 1 to version n.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_jobs_and_images.sql"),
    include_str!("migrations/0002_large_parts_apart.sql"),
    include_str!("migrations/0003_outbox_and_sites.sql"),
    include_str!("migrations/0004_batch_system.sql"),
    include_str!("migrations/0005_refdata.sql"),
];

/// Applies the steps the file lacks, each in a transaction.
///
/// # Errors
/// When a step fails, or the file is newer than this program.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let failed = |cause: rusqlite::Error| StoreError::Failed {
        action: "bring the schema up to date",
        cause: cause.to_string(),
    };
    let known = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    let found: u32 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(failed)?;
    if found > known {
        return Err(StoreError::TooNew { found, known });
    }
    for (version, step) in (1_u32..)
        .zip(MIGRATIONS)
        .filter(|(version, _)| *version > found)
    {
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(failed)?;
        transaction.execute_batch(step).map_err(failed)?;
        transaction
            .pragma_update(None, "user_version", version)
            .map_err(failed)?;
        transaction.commit().map_err(failed)?;
        tracing::info!(version, "database schema brought up to date");
    }
    Ok(())
}
