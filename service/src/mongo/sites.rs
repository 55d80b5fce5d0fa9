//! Sites: the collection `sites`.

use std::collections::BTreeSet;
use std::str::FromStr;

use futures::TryStreamExt;
use futures::future::BoxFuture;
use mongodb::bson::{Document, doc};

use cts_shared::site::Site;

use crate::job_store::StoreError;
use crate::site_store::SiteStore;

use super::retry::retried;
use super::{MongoStore, Name};

impl SiteStore for MongoStore {
    fn inactive_sites(&self) -> BoxFuture<'_, Result<BTreeSet<Site>, StoreError>> {
        Box::pin(async {
            let sites = self.settled(Name::Sites);
            let found: Vec<Document> = retried("read which sites are active", |_| async {
                sites
                    .find(doc! {"active": false})
                    .await?
                    .try_collect()
                    .await
            })
            .await?;
            let mut inactive = BTreeSet::new();
            for document in &found {
                let name = document.get_str("site").unwrap_or_default();
                // One that only the existing service knows takes no jobs of ours anyway.
                inactive.extend(Site::from_str(name).ok());
            }
            Ok(inactive)
        })
    }

    fn set_site_active(&self, site: Site, active: bool) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let sites = self.newest_of(Name::Sites);
            retried("switch a site on or off", |_| {
                sites
                    .update_one(
                        doc! {"site": site.as_str()},
                        doc! {"$set": {"active": active}},
                    )
                    .upsert(true)
                    .into_future()
            })
            .await?;
            Ok(())
        })
    }
}
