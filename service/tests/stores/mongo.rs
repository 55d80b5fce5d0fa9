//! The shared store, on the server that `CTS_TEST_MONGO_URL` names; without it, nothing is tested and that
//! is said. `make e2e` names one. Each case has a database of its own, dropped at its end.

use std::sync::Arc;

use mongodb::bson::{Bson, DateTime, Document, doc};
use mongodb::{Client, Collection};
use uuid::Uuid;

use cts_service::job_store::{JobFilter, JobStore, StoreError};
use cts_service::mongo::{MongoSettings, MongoStore};
use cts_service::outbox::Outbox;
use cts_shared::id::JobId;
use cts_shared::site::Site;
use cts_shared::state::JobState;
use cts_shared::state::job_flow::Change;
use cts_shared::wire::job::S3File;

use crate::fixtures::{at, insert, new_job, reported};
use crate::model;

/// A database that is dropped with this.
struct TestDatabase {
    url: String,
    name: String,
}

impl TestDatabase {
    /// None, loudly, where there is no server.
    #[expect(clippy::print_stderr, reason = "a test that tests nothing says so")]
    fn new() -> Option<Self> {
        let Ok(url) = std::env::var("CTS_TEST_MONGO_URL") else {
            eprintln!("SKIPPED: the MongoDB store; CTS_TEST_MONGO_URL names no server");
            return None;
        };
        Some(Self {
            url,
            name: format!("cts_test_{}", Uuid::new_v4().simple()),
        })
    }

    async fn open(&self) -> MongoStore {
        let settings = MongoSettings {
            host: self.url.clone(),
            database: self.name.clone(),
            credentials: None,
            retry_writes: false,
        };
        MongoStore::open(&settings).await.unwrap()
    }

    async fn collection(&self, name: &str) -> Collection<Document> {
        let client = Client::with_uri_str(&self.url).await.unwrap();
        client.database(&self.name).collection(name)
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (url, name) = (self.url.clone(), self.name.clone());
        // A thread of its own, for this may run inside a runtime, or outside.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let client = Client::with_uri_str(&url).await.unwrap();
                client.database(&name).drop().await
            })
        });
        if !std::thread::panicking() {
            dropped.join().unwrap().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    if TestDatabase::new().is_none() {
        return;
    }
    let mut databases = Vec::new();
    crate::check(|| {
        let database = Arc::new(TestDatabase::new().unwrap());
        databases.push(Arc::clone(&database));
        async move { database.open().await }
    })
    .await;
}

#[test]
fn does_as_the_model() {
    if TestDatabase::new().is_none() {
        return;
    }
    model::check(
        || Ok(TestDatabase::new().unwrap()),
        async |database: &TestDatabase| database.open().await,
    );
}
