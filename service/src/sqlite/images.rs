//! Images as rows.

use futures::future::BoxFuture;
use rusqlite::{Connection, OptionalExtension};

use cts_shared::image_name::{ImageLookup, ImageName};
use cts_shared::wire::image::Image;

use crate::image_store::{ImageStore, Inserted, MAX_LISTED_IMAGES};
use crate::job_store::StoreError;

use super::{ReadError, SqliteStore};

impl ImageStore for SqliteStore {
    fn insert_image(&self, image: Image) -> BoxFuture<'_, Result<Inserted, StoreError>> {
        Box::pin(self.writer.write("register an image", move |session| {
            insert(&session.connection, &image)
                .map_err(|error| error.into_store_error("register an image"))
        }))
    }

    fn image(&self, name: ImageName) -> BoxFuture<'_, Result<Option<Image>, StoreError>> {
        Box::pin(self.read("look up an image", move |connection| {
            let (condition, parameters) = meant(&name);
            let record: Option<String> = connection
                .prepare_cached(&format!("SELECT record FROM images WHERE {condition}"))?
                .query_row(parameters, |row| row.get(0))
                .optional()?;
            record.as_deref().map(parse).transpose()
        }))
    }

    fn delete_image(&self, name: ImageName) -> BoxFuture<'_, Result<bool, StoreError>> {
        const ACTION: &str = "delete an image";
        Box::pin(self.writer.write(ACTION, move |session| {
            let (condition, parameters) = meant(&name);
            let deleted = session
                .connection
                .prepare_cached(&format!("DELETE FROM images WHERE {condition}"))
                .and_then(|mut statement| statement.execute(parameters))
                .map_err(|error| ReadError::from(error).into_store_error(ACTION))?;
            Ok::<_, StoreError>(deleted > 0)
        }))
    }

    fn images(&self) -> BoxFuture<'_, Result<Vec<Image>, StoreError>> {
        Box::pin(self.read("list images", |connection| {
            let mut statement = connection
                .prepare_cached("SELECT record FROM images ORDER BY name, rowid LIMIT ?1")?;
            let mut rows = statement.query((MAX_LISTED_IMAGES,))?;
            let mut images = Vec::new();
            while let Some(row) = rows.next()? {
                images.push(parse(
                    row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?,
                )?);
            }
            Ok(images)
        }))
    }
}

/// The condition, and its parameters, that the row of the image meant by a name meets.
fn meant(name: &ImageName) -> (&'static str, (String, String)) {
    match name.db_lookup() {
        ImageLookup::Digest { name, digest } => (
            "name = ?1 AND digest = ?2",
            (name.to_owned(), digest.to_owned()),
        ),
        ImageLookup::Tag { name, tag } => {
            ("name = ?1 AND tag = ?2", (name.to_owned(), tag.to_owned()))
        }
    }
}

fn insert(connection: &Connection, image: &Image) -> Result<Inserted, ReadError> {
    let exists = |sql: &str, value: &str| -> Result<bool, rusqlite::Error> {
        connection
            .prepare_cached(sql)?
            .exists((&image.image.name, value))
    };
    let tag = image.image.tag.as_deref();
    if exists(
        "SELECT 1 FROM images WHERE name = ?1 AND coalesce(tag, '') = ?2",
        tag.unwrap_or(""),
    )? {
        return Ok(Inserted::TagExists);
    }
    if exists(
        "SELECT 1 FROM images WHERE name = ?1 AND digest = ?2",
        &image.image.digest,
    )? {
        return Ok(Inserted::DigestExists);
    }
    let record = serde_json::to_string(image)
        .map_err(|error| ReadError::corrupt(format!("image {}", image.image.name), error))?;
    connection
        .prepare_cached("INSERT INTO images (name, digest, tag, record) VALUES (?1, ?2, ?3, ?4)")?
        .execute((&image.image.name, &image.image.digest, tag, record))?;
    Ok(Inserted::Yes)
}

pub(super) fn parse(record: &str) -> Result<Image, ReadError> {
    serde_json::from_str(record).map_err(|error| ReadError::corrupt("image", error))
}
