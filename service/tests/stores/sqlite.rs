//! The embedded store.

use tempfile::TempDir;

use cts_service::job_store::{JobStore, StoreError};
use cts_service::sqlite::SqliteStore;
use cts_shared::state::JobState;
use rusqlite::Connection;

use crate::fixtures::{at, insert, new_job, reported};
use crate::model;

fn open(directory: &TempDir) -> SqliteStore {
    SqliteStore::open(&directory.path().join("cts.sqlite")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let mut directories = Vec::new();
    crate::check(|| {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory);
        directories.push(directory);
        std::future::ready(store)
    })
    .await;
}

#[test]
fn does_as_the_model() {
    model::check(tempfile::tempdir, async |directory| open(directory));
}

#[tokio::test]
async fn a_reopened_file_has_everything() {
    let directory = tempfile::tempdir().unwrap();
    let job = new_job(3);
    let store = open(&directory);
    store.insert_job(job.clone()).await.unwrap();
    drop(store);
    let store = open(&directory);
    assert_eq!(store.job_record(job.id).await.unwrap(), Some(job.record));
}

#[tokio::test]
async fn one_that_fails_does_not_take_others_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let job = new_job(1);
    let other = new_job(1);
    // Sent together, so that they meet in one commit; the second copy breaks the primary key.
    let (first, second, third) = tokio::join!(
        store.insert_job(job.clone()),
        store.insert_job(job.clone()),
        store.insert_job(other.clone()),
    );
    first.unwrap();
    second.unwrap_err();
    third.unwrap();
    assert_eq!(
        store.job_record(other.id).await.unwrap(),
        Some(other.record)
    );
}

/// A fault of the program in one change must not be the end of all.
#[tokio::test]
async fn a_change_that_panics_is_not_stored_and_others_are() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let id = insert(&store, 1).await.id;
    let before = store.job_record(id).await.unwrap();
    store
        .change_job(
            id,
            Box::new(|record| {
                record.transitions.clear();
                panic!("a fault of the test's own")
            }),
        )
        .await
        .unwrap_err();
    assert_eq!(store.job_record(id).await.unwrap(), before);
    store
        .change_job(id, reported(0, JobState::JobSubmitting, at(20)))
        .await
        .unwrap();
    let record = store.job_record(id).await.unwrap().unwrap();
    assert_eq!(record.state(), JobState::JobSubmitting);
}

/// The store remembers the records of changing jobs; what another process writes must show.
#[tokio::test]
async fn what_another_process_wrote_is_seen_by_the_next_change() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (open(&directory), open(&directory));
    let id = insert(&one, 2).await.id;
    for (store, container) in [(&one, 0), (&other, 1)] {
        store
            .change_job(id, reported(container, JobState::JobSubmitting, at(20)))
            .await
            .unwrap();
    }
    // Both containers got there, so the job did: `other` saw what `one` had written.
    let record = one.job_record(id).await.unwrap().unwrap();
    assert_eq!(record.state(), JobState::JobSubmitting);
    one.change_job(id, reported(1, JobState::JobSubmitted, at(21)))
        .await
        .unwrap();
    let record = other.job_record(id).await.unwrap().unwrap();
    assert_eq!(record.containers[1].state(), JobState::JobSubmitted);
}

#[test]
fn a_newer_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(&directory));
    let path = directory.path().join("cts.sqlite");
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 999).unwrap();
    drop(connection);
    assert!(matches!(
        SqliteStore::open(&path),
        Err(StoreError::TooNew { found: 999, .. })
    ));
}

/// A file of the first version, with a job that has ended, comes through all migrations.
#[tokio::test]
async fn a_file_of_the_first_version_is_brought_up_to_date() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cts.sqlite");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(include_str!("version_1.sql"))
        .unwrap();
    drop(connection);

    let store = open(&directory);
    let id = "905455f7-815e-4e36-a12d-042806224ebb".parse().unwrap();
    let job = store.job(id).await.unwrap().unwrap();
    assert_eq!(job.summary.user, "dev");
    assert_eq!(job.summary.state(), JobState::Complete);
    assert_eq!(job.summary.notes.admin_meta["ticket"], 7);
    assert!(job.summary.notes.cleaned);
    assert_eq!(job.job_input.input_files.len(), 2);
    assert_eq!(job.summary.outcome.outputs.unwrap()[0].file, "cts/out/a");
    assert_eq!(job.summary.outcome.output_file_count, Some(1));
    let events = {
        use cts_service::outbox::Outbox;
        store
            .events_after(None, Some("dev".to_owned()), 10)
            .await
            .unwrap()
            .unwrap()
    };
    assert_eq!(events.len(), 2);
    assert_eq!(events[1].trans_id, "t2");
}
