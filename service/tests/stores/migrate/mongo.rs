//! Copies to MongoDB and back, on the server that `CTS_TEST_MONGO_URL` names.

use mongodb::bson::{Bson, Document, doc};
use uuid::Uuid;

use cts_service::job_store::{JobFilter, JobStore, StoreError};
use cts_service::lease_store::{LeaseRequest, LeaseStore};
use cts_service::migrate::copying::CopyError;
use cts_service::outbox::Outbox;
use cts_service::store_copy::StoreCopy;
use cts_shared::id::JobId;
use cts_shared::state::JobState;
use cts_shared::state::job_flow::Change;
use cts_shared::wire::job::S3File;

use super::program::{fill, kill_again_and_again, migrate, output, place};
use super::{TestFile, check, copy, events, furnish, is_copied, whole};
use crate::fixtures::{at, insert, reported};
use crate::model;
use crate::mongo::refdata::old_refdata;
use crate::mongo::{TestDatabase, old_job, old_subjob, way_to};

#[tokio::test]
async fn a_file_is_copied_to_a_database() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let file = TestFile::new();
    let (source, target) = (file.open(), database.open().await);
    is_copied(&source, &target, &source, &target).await;
    // And goes on there.
    let last = target.newest().await.unwrap();
    let new = insert(&target, 1).await.id;
    let step = reported(0, JobState::JobSubmitting, at(100));
    target.change_job(new, step).await.unwrap();
    let after = target.events_after(last, None, 10).await.unwrap().unwrap();
    assert_eq!(after.len(), 3);
    assert!(after.iter().all(|event| event.job_id == new));
}

#[tokio::test]
async fn a_database_is_copied_to_a_file() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let file = TestFile::new();
    let (source, target) = (database.open().await, file.open());
    is_copied(&source, &target, &source, &target).await;
}

/// There and back, and each of the three stores does as the model.
#[test]
fn copies_do_as_the_model() {
    if TestDatabase::new().is_none() {
        return;
    }
    let ended = model::run(
        12,
        || Ok(TestFile::new()),
        async |file: &TestFile| file.open(),
        async |source, model| {
            let (database, file) = (TestDatabase::new().unwrap(), TestFile::new());
            let (there, back) = (database.open().await, file.open());
            copy(source, &there).await.unwrap();
            model::compare(&there, model).await;
            copy(&there, &back).await.unwrap();
            model::compare(&back, model).await;
            assert_eq!(events(&back).await, events(source).await);
        },
    );
    // So few that chance alone may end only some.
    assert!(ended > 0, "no job came to an end");
}

/// Steps that are taken in the same millisecond, of jobs that take turns.
#[tokio::test]
async fn order_outlives_times_that_are_cut() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let file = TestFile::new();
    let (source, target) = (file.open(), database.open().await);
    let jobs = [insert(&source, 1).await.id, insert(&source, 1).await.id];
    let micro = |micro: i64| {
        let time = jiff::Timestamp::from_microsecond(20_000_000 + micro).unwrap();
        cts_shared::timestamp::UtcTime::new(time)
    };
    let states = [
        JobState::JobSubmitting,
        JobState::JobSubmitted,
        JobState::UploadSubmitting,
    ];
    for (number, state) in (0..).zip(states) {
        for job in jobs {
            let step = reported(0, state, micro(number));
            source.change_job(job, step).await.unwrap();
        }
    }
    copy(&source, &target).await.unwrap();
    let (ours, theirs) = (events(&source).await, events(&target).await);
    assert!(
        ours.iter()
            .zip(&theirs)
            .all(|(ours, theirs)| ours.trans_id == theirs.trans_id)
    );
    assert_eq!(ours.len(), theirs.len());
    assert_ne!(ours.last().unwrap().time, theirs.last().unwrap().time);
    assert_eq!(theirs.last().unwrap().time, micro(0));
}

#[tokio::test]
async fn a_hundred_thousand_outputs_of_a_container_go_both_ways() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let (file, back) = (TestFile::new(), TestFile::new());
    let (source, target, back) = (file.open(), database.open().await, back.open());
    let id = insert(&source, 2).await.id;
    let outputs = |container: usize| -> Vec<S3File> {
        let count = if container == 0 { 100_000 } else { 10_000 };
        (0..count)
            .map(|number| S3File {
                file: format!("buk/out/{}/{container}/{number}", "a".repeat(150)),
                crc64nvme: Some("AAAAAAAAAAA=".to_owned()),
            })
            .collect()
    };
    for container in 0..2 {
        let step = Box::new(move |record: &mut cts_shared::state::job_flow::JobRecord| {
            let number = usize::try_from(container).unwrap();
            record.containers[number].outputs = Some(outputs(number));
            record.outcome.outputs = Some(outputs(number));
            Ok(Change {
                container: Some(container),
                outcome: true,
                ..Change::default()
            })
        });
        source.change_job(id, step).await.unwrap();
    }
    // As a killed run may leave it: a part of another list.
    let parts = database.collection("cts_outputs").await;
    let left = doc! {
        "set": format!("{id} 1"), "part": 7_i64, "last": false, "outputs": [{"file": "buk/strange"}],
    };
    parts.insert_one(left).await.unwrap();
    copy(&source, &target).await.unwrap();
    copy(&target, &back).await.unwrap();
    let (ours, theirs) = (whole(&source, id).await, whole(&back, id).await);
    assert_eq!(theirs.containers, ours.containers);
    assert_eq!(theirs.job.summary.outcome, ours.job.summary.outcome);
}

#[tokio::test]
async fn what_a_killed_run_has_left_of_a_job_is_replaced() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let file = TestFile::new();
    let (source, target) = (file.open(), database.open().await);
    let jobs = furnish(&source).await;
    let subjobs = database.collection("subjobs").await;
    let left = old_subjob(jobs[0], 1, &[JobState::Created]);
    subjobs.insert_one(left).await.unwrap();
    let log = database.collection("cts_transitions").await;
    let entry = whole(&source, jobs[4]).await.log[0].clone();
    let left = doc! {
        "_id": entry.number, "trans_id": entry.trans_id, "job_id": jobs[4].to_string(),
    };
    log.insert_one(left).await.unwrap();
    copy(&source, &target).await.unwrap();
    check(&source, &target).await.unwrap();
}

/// A number in the log that is another job's is nothing to remove.
#[tokio::test]
async fn a_log_with_other_transitions_is_left_alone() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let file = TestFile::new();
    let (source, target) = (file.open(), database.open().await);
    let jobs = furnish(&source).await;
    let log = database.collection("cts_transitions").await;
    let entry = whole(&source, jobs[4]).await.log[0].clone();
    let strange = doc! {"_id": entry.number, "trans_id": "strange", "job_id": "strange"};
    log.insert_one(strange.clone()).await.unwrap();
    let failed = copy(&source, &target).await.unwrap_err();
    assert!(matches!(failed, CopyError::NotCopied(_)), "{failed}");
    assert!(
        failed.to_string().contains(&jobs[4].to_string()),
        "{failed}"
    );
    assert_eq!(log.count_documents(strange).await.unwrap(), 1);
    assert_eq!(target.job(jobs[4]).await.unwrap(), None);
}

/// What the existing service has written is served the same from a file.
#[tokio::test]
async fn documents_of_the_existing_service_are_copied() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let (jobs, subjobs) = (
        database.collection("jobs").await,
        database.collection("subjobs").await,
    );
    let mut ids = Vec::new();
    for state in JobState::ALL {
        let id = JobId::new(Uuid::new_v4());
        let way = way_to(state);
        let mut job = old_job(id, &way);
        if state == JobState::Canceled {
            // Everything of it was sent: it is in no log.
            for transition in job.get_array_mut("transition_times").unwrap() {
                let transition = transition.as_document_mut().unwrap();
                transition.insert("notif_sent", true);
            }
        }
        jobs.insert_one(job).await.unwrap();
        let contained: Vec<JobState> = way
            .iter()
            .copied()
            .filter(|state| !state.is_cancel())
            .collect();
        for number in 0..2 {
            let subjob = old_subjob(id, number, &contained);
            subjobs.insert_one(subjob).await.unwrap();
        }
        ids.push((id, state));
    }
    let images = database.collection("images").await;
    let image = doc! {
        "name": "docker.io/library/x", "digest": "sha256:0", "entrypoint": ["e"], "tag": Bson::Null,
        "refdata_id": Bson::Null, "default_refdata_mount_point": Bson::Null,
        "registered_by": "admin", "registered_on": mongodb::bson::DateTime::from_millis(5),
        "urls": Bson::Null, "usage_notes": "read this",
    };
    images.insert_one(image).await.unwrap();
    let refdata = database.collection("refdata").await;
    refdata.insert_one(old_refdata("r1")).await.unwrap();
    let (file, again) = (TestFile::new(), TestDatabase::new().unwrap());
    let (source, target) = (database.open().await, file.open());
    let counts = copy(&source, &target).await.unwrap();
    assert_eq!(counts.jobs, u64::try_from(ids.len()).unwrap());
    assert_eq!(counts.images, 1);
    assert_eq!(counts.refdata, 1);
    for (id, _) in &ids {
        let (mut ours, theirs) = (
            source.job(*id).await.unwrap().unwrap(),
            target.job(*id).await.unwrap().unwrap(),
        );
        // A copy is of the service that copied.
        assert!(std::mem::take(&mut ours.summary.is_foreign));
        assert_eq!(theirs, ours);
        let (ours, theirs) = (source.job_record(*id).await, target.job_record(*id).await);
        assert_eq!(theirs.unwrap(), ours.unwrap());
    }
    let all = JobFilter::default;
    let (mut ours, theirs) = (
        source.list_jobs(all(), 100).await.unwrap(),
        target.list_jobs(all(), 100).await.unwrap(),
    );
    for job in &mut ours {
        job.summary.is_foreign = false;
    }
    assert_eq!(theirs, ours);
    assert_eq!(events(&target).await, events(&source).await);
    let (ours, theirs) = (
        source.to_send(None, 100).await,
        target.to_send(None, 100).await,
    );
    assert_eq!(theirs.unwrap(), ours.unwrap());
    assert_eq!(
        target.newest().await.unwrap(),
        source.newest().await.unwrap()
    );

    // One that is in no log is in none, until somebody asks for it.
    let (canceled, _) = *ids.iter().find(|one| one.1 == JobState::Canceled).unwrap();
    assert!(
        events(&target)
            .await
            .iter()
            .all(|event| event.job_id != canceled)
    );
    let unlogged = whole(&target, canceled).await;
    assert_eq!(unlogged.log, []);
    let last = unlogged.job.summary.transitions.last().unwrap().clone();
    let after = target
        .events_after(Some(last.trans_id.clone()), None, 10)
        .await;
    assert_eq!(after.unwrap(), None);
    let back = again.open().await;
    copy(&target, &back).await.unwrap();
    assert_eq!(events(&back).await, events(&source).await);
    assert!(target.resend(canceled, JobState::Canceled).await.unwrap());
    let to_send = target.to_send(None, 100).await.unwrap();
    assert!(to_send.iter().any(|event| event.trans_id == last.trans_id));
}

/// Each that cannot be read is named in one run, and nothing of it is copied.
#[tokio::test]
async fn documents_that_cannot_be_read_are_all_named() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let (jobs, subjobs) = (
        database.collection("jobs").await,
        database.collection("subjobs").await,
    );
    let good = JobId::new(Uuid::new_v4());
    let job = || old_job(JobId::new(Uuid::new_v4()), &[JobState::Created]);
    let change = |name: &str, value: Bson| {
        let mut job = job();
        job.insert(name, value);
        job
    };
    let mut without_image = job();
    without_image.remove("image");
    let mut without_trans_id = job();
    without_trans_id.insert(
        "transition_times",
        vec![doc! {"state": "created", "time": mongodb::bson::DateTime::from_millis(5), "notif_sent": true}],
    );
    let mut bad: Vec<Document> = vec![
        change("transition_times", "never".into()),
        without_image,
        without_trans_id,
        change("id", "no-uuid".into()),
        change("user", Bson::Null),
    ];
    let mut with_strange_subjob = job();
    let id: JobId = with_strange_subjob.get_str("id").unwrap().parse().unwrap();
    with_strange_subjob.insert("cleaned", true);
    subjobs
        .insert_one(old_subjob(id, 3, &[JobState::Created]))
        .await
        .unwrap();
    bad.push(with_strange_subjob);
    jobs.insert_many(&bad).await.unwrap();
    jobs.insert_one(change("id", 7.into())).await.unwrap();
    jobs.insert_one(old_job(good, &[JobState::Created]))
        .await
        .unwrap();

    let file = TestFile::new();
    let (source, target) = (database.open().await, file.open());
    let failed = copy(&source, &target).await.unwrap_err();
    assert!(matches!(failed, CopyError::NotCopied(_)), "{failed}");
    let text = failed.to_string();
    for document in &bad {
        let id = document.get_str("id").unwrap();
        assert!(
            text.contains(&format!("job {id} in the ")),
            "{id} in {text}"
        );
    }
    assert_eq!(target.job_ids(None, 10).await.unwrap(), [good.to_string()]);

    for document in &bad {
        let id = document.get_str("id").unwrap();
        jobs.delete_one(doc! {"id": id}).await.unwrap();
    }
    // What is no job at all shows in the end.
    let text = copy(&source, &target).await.unwrap_err().to_string();
    assert!(
        text.contains("only 1 of 2 jobs in the source have a text as id"),
        "{text}"
    );
    jobs.delete_one(doc! {"id": 7}).await.unwrap();
    copy(&source, &target).await.unwrap();
}

/// The existing service went on with a job of ours, and sent what it did.
#[tokio::test]
async fn transitions_of_the_other_service_come_after_ours() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let file = TestFile::new();
    let (source, target) = (database.open().await, file.open());
    let id = insert(&source, 1).await.id;
    let jobs = database.collection("jobs").await;
    let transition = doc! {
        "state": "canceling", "time": mongodb::bson::DateTime::from_millis(20_000),
        "trans_id": "theirs", "notif_sent": true, "_retry": 0,
    };
    let update = doc! {
        "$set": {"state": "canceling"}, "$push": {"transition_times": transition},
    };
    jobs.update_one(doc! {"id": id.to_string()}, update)
        .await
        .unwrap();
    copy(&source, &target).await.unwrap();
    let told: Vec<String> = events(&target)
        .await
        .into_iter()
        .map(|one| one.trans_id)
        .collect();
    assert_eq!(told.len(), 2);
    assert_eq!(told[1], "theirs");
    assert_eq!(
        target.job_summary(id).await.unwrap().unwrap().state(),
        JobState::Canceling
    );
}

#[tokio::test]
async fn a_job_that_is_there_is_not_inserted_twice() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let file = TestFile::new();
    let (source, target) = (file.open(), database.open().await);
    let jobs = furnish(&source).await;
    copy(&source, &target).await.unwrap();
    let job = whole(&source, jobs[0]).await;
    for store in [&source as &dyn StoreCopy, &target] {
        let refused = store.insert_whole_job(job.clone()).await.unwrap_err();
        assert!(matches!(refused, StoreError::Duplicate { .. }), "{refused}");
    }
    check(&source, &target).await.unwrap();
}

/// The database of a test, for the program.
fn url(database: &TestDatabase) -> String {
    let (servers, options) = database.url.split_once('?').unwrap_or((&database.url, ""));
    format!(
        "{}/{}?{options}",
        servers.trim_end_matches('/'),
        database.name
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_program_is_completed_by_the_next_run() {
    const JOBS: u64 = 150;
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let (file, back) = (TestFile::new(), TestFile::new());
    let source = file.open();
    fill(&source, JOBS).await;
    let target = database.open().await;
    let in_database = async || target.sizes().await.unwrap().jobs;
    kill_again_and_again(&place(&file), &url(&database), JOBS, in_database).await;
    assert_eq!(check(&source, &target).await.unwrap().jobs, JOBS);

    let back_store = back.open();
    let in_file = async || back_store.sizes().await.unwrap().jobs;
    kill_again_and_again(&url(&database), &place(&back), JOBS, in_file).await;
    assert_eq!(check(&target, &back_store).await.unwrap().jobs, JOBS);
    let ids = |told: Vec<cts_service::outbox::Event>| -> Vec<String> {
        told.into_iter().map(|one| one.trans_id).collect()
    };
    assert_eq!(ids(events(&back_store).await), ids(events(&source).await));
}

/// A service that works on the database shows, and where the database is may stand in the configuration.
#[tokio::test]
async fn a_database_in_use_is_refused() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let file = TestFile::new();
    furnish(&file.open()).await;
    let target = database.open().await;
    let now = cts_shared::timestamp::UtcTime::new(jiff::Timestamp::now());
    let lease = LeaseRequest {
        name: "reconcile kbase".to_owned(),
        holder: "node 7".to_owned(),
        now,
        until: now.plus(std::time::Duration::from_secs(600)),
    };
    target.take_lease(lease.clone()).await.unwrap();
    let environment = [
        ("KBCTS_MONGO_HOST", database.url.as_str()),
        ("KBCTS_MONGO_DB", database.name.as_str()),
    ];
    let (status, text) = output(migrate(&place(&file), "mongodb", &environment));
    assert_eq!(status, Some(75), "{text}");
    assert!(
        text.contains("node 7 has the lease \"reconcile kbase\""),
        "{text}"
    );
    assert_eq!(target.sizes().await.unwrap().jobs, 0);
    target
        .give_back_lease(lease.name, lease.holder)
        .await
        .unwrap();
    let (status, text) = output(migrate(&place(&file), "mongodb", &environment));
    assert_eq!(status, Some(0), "{text}");
}
