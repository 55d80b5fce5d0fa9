//! Images: the collection `images`. Absent fields are explicit nulls.

use futures::TryStreamExt;
use futures::future::BoxFuture;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document, doc};

use cts_shared::image_name::{ImageLookup, ImageName};
use cts_shared::wire::image::Image;

use crate::image_store::{ImageStore, Inserted, MAX_LISTED_IMAGES};
use crate::job_store::StoreError;

use super::documents::{date, read, readable};
use super::retry::retried;
use super::{MongoStore, Name};

impl ImageStore for MongoStore {
    fn insert_image(&self, image: Image) -> BoxFuture<'_, Result<Inserted, StoreError>> {
        Box::pin(async move {
            let images = self.newest_of(Name::Images);
            let mut document = document_of(&image);
            // Tells it from another's after a lost answer.
            let id = ObjectId::new();
            document.insert("_id", id);
            let inserted = retried("register an image", |_| {
                images.insert_one(&document).into_future()
            })
            .await;
            match inserted {
                Ok(_) => return Ok(Inserted::Yes),
                Err(StoreError::Duplicate { .. }) => {}
                Err(error) => return Err(error),
            }
            let this = retried("look up an image", |_| {
                images.find_one(doc! {"_id": id}).into_future()
            });
            if this.await?.is_some() {
                return Ok(Inserted::Yes);
            }
            // Which of the two it is, the error says in words only.
            let same_tag = doc! {"name": &image.image.name, "tag": &image.image.tag};
            let found = retried("look up an image", |_| {
                images.find_one(same_tag.clone()).into_future()
            })
            .await?;
            Ok(match found {
                Some(_) => Inserted::TagExists,
                None => Inserted::DigestExists,
            })
        })
    }

    fn image(&self, name: ImageName) -> BoxFuture<'_, Result<Option<Image>, StoreError>> {
        Box::pin(async move {
            let images = self.settled(Name::Images);
            let found = retried("look up an image", |_| {
                images.find_one(meant(&name)).into_future()
            })
            .await?;
            found.map(|document| read("image", document)).transpose()
        })
    }

    fn delete_image(&self, name: ImageName) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(async move {
            let images = self.newest_of(Name::Images);
            let deleted = retried("delete an image", |attempt| {
                let call = images.delete_one(meant(&name)).into_future();
                // After a lost answer, one that is gone was most likely deleted by the lost call.
                async move { Ok(call.await?.deleted_count > 0 || attempt > 0) }
            });
            deleted.await
        })
    }

    fn images(&self) -> BoxFuture<'_, Result<Vec<Image>, StoreError>> {
        Box::pin(async {
            let images = self.settled(Name::Images);
            let found: Vec<Document> = retried("list images", |_| async {
                images
                    .find(doc! {})
                    .sort(doc! {"name": 1, "_id": 1})
                    .limit(MAX_LISTED_IMAGES.into())
                    .await?
                    .try_collect()
                    .await
            })
            .await?;
            Ok(readable(found, |document| read("image", document)))
        })
    }
}

fn meant(name: &ImageName) -> Document {
    match name.db_lookup() {
        ImageLookup::Digest { name, digest } => doc! {"name": name, "digest": digest},
        ImageLookup::Tag { name, tag } => doc! {"name": name, "tag": tag},
    }
}

fn document_of(image: &Image) -> Document {
    let Image {
        image,
        urls,
        usage_notes,
    } = image;
    doc! {
        "name": &image.name,
        "digest": &image.digest,
        "entrypoint": &image.entrypoint,
        "tag": &image.tag,
        "refdata_id": &image.refdata_id,
        "default_refdata_mount_point": &image.default_refdata_mount_point,
        "registered_by": &image.registered_by,
        "registered_on": date(image.registered_on),
        "urls": urls,
        "usage_notes": usage_notes,
    }
}
