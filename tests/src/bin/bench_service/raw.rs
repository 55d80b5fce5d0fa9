//! What the database server itself allows: the least that a status and an update need, through the same
//! driver, without the service.

use std::error::Error;
use std::time::{Duration, Instant};

use cts_tests::load::Figures;
use futures::future::try_join_all;
use mongodb::bson::{Document, doc};
use mongodb::options::{Acknowledgment, ClientOptions, WriteConcern};
use mongodb::{Client, Collection};

use crate::stage::Measured;

/// Documents that are read and updated.
const DOCUMENTS: i64 = 100;

/// A call that is made again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// `find_one` by an indexed field.
    Find,
    /// `update_one` by an indexed field, acknowledged by a majority with its journal.
    Update,
}

impl Call {
    pub(crate) const ALL: [(Self, &'static str); 2] = [
        (Self::Find, "the server alone: `find_one`"),
        (Self::Update, "the server alone: `update_one`"),
    ];

    async fn make(
        self,
        collection: &Collection<Document>,
        id: i64,
    ) -> Result<(), mongodb::error::Error> {
        match self {
            Self::Find => collection.find_one(doc! {"id": id}).await.map(drop),
            Self::Update => {
                let update = doc! {"$inc": {"version": 1}, "$set": {"state": "created"}};
                collection
                    .update_one(doc! {"id": id}, update)
                    .await
                    .map(drop)
            }
        }
    }
}

/// A collection with some documents.
#[derive(Debug)]
pub(crate) struct Raw {
    collection: Collection<Document>,
}

impl Raw {
    /// # Errors
    /// When the server fails.
    pub(crate) async fn new(url: &str, database: &str) -> Result<Self, Box<dyn Error>> {
        let mut options = ClientOptions::parse(url).await?;
        options.max_pool_size = Some(32);
        let concern = WriteConcern::builder()
            .w(Acknowledgment::Majority)
            .journal(true)
            .build();
        options.write_concern = Some(concern);
        let database = Client::with_options(options)?.database(database);
        let collection = database.collection("raw");
        let index = mongodb::IndexModel::builder().keys(doc! {"id": 1}).build();
        collection.create_index(index).await?;
        let documents = (0..DOCUMENTS).map(|id| doc! {"id": id, "version": 0, "state": "created"});
        collection.insert_many(documents).await?;
        Ok(Self { collection })
    }

    /// Removes the database, the service's collections too.
    ///
    /// # Errors
    /// When the server fails.
    pub(crate) async fn drop_database(url: &str, database: &str) -> Result<(), Box<dyn Error>> {
        let client = Client::with_uri_str(url).await?;
        Ok(client.database(database).drop().await?)
    }

    /// Makes the call over and over, `connections` at a time.
    ///
    /// # Errors
    /// When the server fails.
    pub(crate) async fn load(
        &self,
        call: Call,
        connections: usize,
        duration: Duration,
    ) -> Result<Measured, Box<dyn Error>> {
        let begun = Instant::now();
        let workers = (0..connections).map(|worker| async move {
            let mut latencies = Vec::new();
            let mut ids = (0..DOCUMENTS).cycle().skip(worker);
            while begun.elapsed() < duration {
                let sent = Instant::now();
                let id = ids.next().unwrap_or_default();
                call.make(&self.collection, id).await?;
                latencies.push(sent.elapsed());
            }
            Ok::<_, mongodb::error::Error>(latencies)
        });
        let latencies = try_join_all(workers).await?;
        Ok(Measured {
            figures: Figures::of(latencies.into_iter().flatten(), begun.elapsed()),
            cpu: Duration::ZERO,
        })
    }
}
