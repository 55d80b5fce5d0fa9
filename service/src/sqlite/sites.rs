//! Sites as rows.

use std::collections::BTreeSet;
use std::str::FromStr;

use futures::future::BoxFuture;

use cts_shared::site::Site;

use crate::job_store::StoreError;
use crate::site_store::SiteStore;

use super::{ReadError, SqliteStore};

impl SiteStore for SqliteStore {
    fn inactive_sites(&self) -> BoxFuture<'_, Result<BTreeSet<Site>, StoreError>> {
        Box::pin(self.read("read which sites are active", |connection| {
            let mut statement =
                connection.prepare_cached("SELECT site FROM sites WHERE active = 0")?;
            let mut rows = statement.query(())?;
            let mut sites = BTreeSet::new();
            while let Some(row) = rows.next()? {
                let site = row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?;
                sites.insert(
                    Site::from_str(site).map_err(|error| ReadError::corrupt("site", error))?,
                );
            }
            Ok(sites)
        }))
    }

    fn set_site_active(&self, site: Site, active: bool) -> BoxFuture<'_, Result<(), StoreError>> {
        const ACTION: &str = "switch a site on or off";
        Box::pin(self.writer.write(ACTION, move |session| {
            session
                .connection
                .prepare_cached(
                    "INSERT INTO sites (site, active) VALUES (?1, ?2) \
                     ON CONFLICT (site) DO UPDATE SET active = excluded.active",
                )
                .and_then(|mut statement| statement.execute((site.as_str(), active)))
                .map_err(|error| ReadError::from(error).into_store_error(ACTION))?;
            Ok::<_, StoreError>(())
        }))
    }
}
