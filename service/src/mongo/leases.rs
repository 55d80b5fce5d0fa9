//! Leases: the collection `cts_leases`, one document for each name.

use futures::future::BoxFuture;
use mongodb::bson::doc;

use crate::job_store::StoreError;
use crate::lease_store::{Lease, LeaseRequest, LeaseStore};

use super::documents::date;
use super::retry::retried;
use super::{MongoStore, Name};

impl LeaseStore for MongoStore {
    fn take_lease(&self, request: LeaseRequest) -> BoxFuture<'_, Result<Lease, StoreError>> {
        Box::pin(async move {
            let leases = self.newest_of(Name::Leases);
            let (name, holder) = (&request.name, &request.holder);
            let held = doc! {"holder": holder, "until": date(request.until)};
            let taken = retried("take a lease", |attempt| {
                let leases = &leases;
                let held = &held;
                let request = &request;
                async move {
                    let mine_or_lapsed = doc! {
                        "_id": &request.name,
                        "$or": [
                            {"holder": &request.holder},
                            {"until": {"$lte": date(request.now)}},
                        ],
                    };
                    let before = leases
                        .find_one_and_update(mine_or_lapsed, doc! {"$set": held.clone()})
                        .await?;
                    Ok(before.map(|before| {
                        let now = request.now.timestamp().as_millisecond();
                        let lapsed = before
                            .get_datetime("until")
                            .is_ok_and(|until| until.timestamp_millis() <= now);
                        // After a lost answer the document may be as the lost call left it: nothing is
                        // known of who had the lease before.
                        if lapsed || attempt > 0 {
                            Lease::TakenOver
                        } else {
                            Lease::Renewed
                        }
                    }))
                }
            })
            .await?;
            if let Some(lease) = taken {
                return Ok(lease);
            }
            let mut document = held.clone();
            document.insert("_id", name);
            let inserted = retried("take a lease", |_| {
                leases.insert_one(&document).into_future()
            })
            .await;
            match inserted {
                Ok(_) => return Ok(Lease::Fresh),
                Err(StoreError::Duplicate { .. }) => {}
                Err(error) => return Err(error),
            }
            // After a lost answer it is there, and the asker's.
            let found = retried("take a lease", |_| {
                leases.find_one(document.clone()).into_future()
            })
            .await?;
            Ok(if found.is_some() {
                Lease::Fresh
            } else {
                Lease::Held
            })
        })
    }

    fn give_back_lease(
        &self,
        name: String,
        holder: String,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            let leases = self.newest_of(Name::Leases);
            let filter = doc! {"_id": name, "holder": holder};
            retried("give a lease back", |_| {
                leases.delete_one(filter.clone()).into_future()
            })
            .await?;
            Ok(())
        })
    }
}
