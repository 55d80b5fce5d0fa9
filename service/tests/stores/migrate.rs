//! Stores copied into others: what is copied, what is refused, and runs that were killed.

mod mongo;
mod program;

use jiff::Timestamp;
use rusqlite::Connection;
use serde_json::json;
use tempfile::TempDir;

use cts_service::error::Error;
use cts_service::image_store::{ImageStore, Inserted};
use cts_service::job_store::JobStep;
use cts_service::lease_store::{Lease, LeaseRequest};
use cts_service::migrate::Progress;
use cts_service::migrate::copying::{self, CopyError, Counts};
use cts_service::outbox::{Event, Outbox};
use cts_service::refdata_store::{Recorded, RefdataStore};
use cts_service::site_store::SiteStore;
use cts_service::sqlite::SqliteStore;
use cts_service::store_copy::{StoreCopy, WholeJob, read_whole_job};
use cts_shared::id::JobId;
use cts_shared::site::Site;
use cts_shared::state::JobState;
use cts_shared::state::attempts::Announcement;
use cts_shared::state::job_flow::{Change, Evidence, JobRecord, Refusal, Reporter, Statistics};
use cts_shared::state::refdata::RefdataState;
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::container::ContainerUsage;
use cts_shared::wire::job::{S3File, SiteNotice};

use crate::Store;
use crate::fixtures::{at, failed, insert, new_job, report, reported};
use crate::images::{digest, image};
use crate::model;
use crate::refdata::{event as refdata_event, refdata};

/// A database file in a directory of its own.
struct TestFile {
    directory: TempDir,
}

impl TestFile {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { directory }
    }

    fn open(&self) -> SqliteStore {
        SqliteStore::open(&self.directory.path().join("cts.sqlite")).unwrap()
    }

    /// As a connection of the test's own.
    fn connection(&self) -> Connection {
        Connection::open(self.directory.path().join("cts.sqlite")).unwrap()
    }
}

async fn copy(source: &dyn StoreCopy, target: &dyn StoreCopy) -> Result<Counts, CopyError> {
    copying::copy(source, target, &Progress::default()).await
}

async fn check(source: &dyn StoreCopy, target: &dyn StoreCopy) -> Result<Counts, CopyError> {
    copying::check(source, target, &Progress::default()).await
}

async fn events(store: &impl Outbox) -> Vec<Event> {
    let events = store.events_after(None, None, u32::MAX).await;
    events.unwrap().unwrap()
}

async fn whole(store: &dyn StoreCopy, id: JobId) -> WholeJob {
    read_whole_job(store, id).await.unwrap().unwrap()
}

/// A time that only a store of microseconds keeps.
fn exactly(second: i64) -> UtcTime {
    UtcTime::new(Timestamp::from_microsecond(second * 1_000_000 + 123_456).unwrap())
}

fn step(step: impl Fn(&mut JobRecord) -> Result<Change, Refusal> + Send + 'static) -> JobStep {
    Box::new(move |record| step(record).map_err(|refusal| Error::Internal(refusal.to_string())))
}

/// Stores one of everything. Returns the ids of the jobs.
async fn furnish(store: &impl Store) -> Vec<JobId> {
    let complete = a_complete_job(store).await;
    let broken = insert(store, 1).await.id;
    store.change_job(broken, failed(exactly(30))).await.unwrap();
    let ended = insert(store, 1).await.id;
    let report = reported(0, JobState::Error, exactly(20));
    store.change_job(ended, report).await.unwrap();
    let canceling = insert(store, 2).await.id;
    store
        .change_job(canceling, step(|record| record.cancel(exactly(40))))
        .await
        .unwrap();
    let waiting = a_waiting_job(store).await;
    let empty = insert(store, 0).await.id;

    let told = events(store).await;
    let ids = |range: std::ops::Range<usize>| -> Vec<String> {
        told[range].iter().map(|one| one.trans_id.clone()).collect()
    };
    store.mark_sent(ids(0..6)).await.unwrap();
    assert!(store.resend(complete, JobState::Created).await.unwrap());
    // Not sent, so that the mark says nothing.
    assert!(store.resend(empty, JobState::Created).await.unwrap());

    for image in [
        image("tool", Some("1"), digest(9)),
        image("tool", None, digest(3)),
        image("tool", Some("2"), digest(5)),
        image("other", None, digest(3)),
    ] {
        assert_eq!(store.insert_image(image).await.unwrap(), Inserted::Yes);
    }
    for (file, ways) in [
        (
            "db",
            &[RefdataState::DownloadSubmitted, RefdataState::Complete][..],
        ),
        ("broken", &[RefdataState::Error]),
    ] {
        let one = refdata(file, exactly(50));
        assert!(store.insert_refdata(one.clone()).await.unwrap());
        for state in ways {
            let event = refdata_event(*state, exactly(51));
            let recorded = store.record_refdata(one.id.clone(), Site::Local, event);
            assert_eq!(recorded.await.unwrap(), Recorded::Entered);
        }
    }
    store.set_site_active(Site::Kbase, false).await.unwrap();
    store.set_site_active(Site::Local, false).await.unwrap();
    store.set_site_active(Site::Local, true).await.unwrap();
    let lease = LeaseRequest {
        name: "submit something".to_owned(),
        holder: "dead".to_owned(),
        now: at(1),
        until: at(2),
    };
    store.take_lease(lease).await.unwrap();
    vec![complete, broken, ended, canceling, waiting, empty]
}

/// With two attempts of a container, usage, outputs, a report from a slow clock, statistics to come.
async fn a_complete_job(store: &impl Store) -> JobId {
    let mut job = new_job(2);
    job.image.registered_on = exactly(1);
    let id = job.id;
    store.insert_job(job).await.unwrap();
    for instance in ["one", "two"] {
        let announced = step(move |record| {
            let announcement = Announcement {
                instance: instance.to_owned(),
                host: Some("node.example.org".to_owned()),
            };
            record.announce(0, &announcement, exactly(11))
        });
        store.change_job(id, announced).await.unwrap();
    }
    for container in 0..2 {
        for (state, second) in [
            (JobState::JobSubmitting, 15),
            (JobState::JobSubmitted, 14),
            (JobState::UploadSubmitting, 17),
            (JobState::UploadSubmitted, 18),
            (JobState::Complete, 19),
        ] {
            let reported = step(move |record| {
                let mut report = report(state, exactly(second));
                if container == 0 {
                    report.from = Reporter::Attempt(2);
                }
                report.usage = Some(ContainerUsage {
                    cpu_ms: Some(12),
                    wall_ms: Some(u64::from(u32::MAX) * 2),
                    max_memory_bytes: None,
                });
                report.outputs = Some(vec![output(container)]);
                record.apply_report(container, &report)
            });
            store.change_job(id, reported).await.unwrap();
        }
    }
    let finished = step(|record| {
        let checksums = record
            .merged_outputs()
            .into_iter()
            .filter_map(|file| Some((file.file, file.crc64nvme?)))
            .collect();
        let evidence = Evidence {
            statistics: Statistics {
                cpu_hours: Some(0.1 + 0.2),
                cpu_factor: Some(1.0 / 3.0),
                max_memory: Some(5_000_000_000),
            },
            statistics_due: true,
            checksums: &checksums,
            log_path: "buk/logs/x",
            logs_stored: true,
        };
        record.finish(&evidence, exactly(50))
    });
    store.change_job(id, finished).await.unwrap();
    store.mark_cleaned(id).await.unwrap();
    let record = store.job_record(id).await.unwrap().unwrap();
    assert_eq!(record.state(), JobState::Complete);
    let first = &record.containers[0];
    assert_eq!(first.attempts.len(), 2);
    assert!(first.usage.is_some() && first.outputs.is_some());
    assert!(
        first
            .transitions
            .iter()
            .any(|one| one.reported_time.is_some())
    );
    id
}

fn output(container: u32) -> S3File {
    S3File {
        file: format!("buk/out/{container}"),
        crc64nvme: Some("AAAAAAAAAAA=".to_owned()),
    }
}

/// With everything that is noted on jobs.
async fn a_waiting_job(store: &impl Store) -> JobId {
    let id = insert(store, 3).await.id;
    let noted = json!({
        "text": "\u{e9}", "whole": 7, "half": 0.5, "third": 1.0 / 3.0, "large": i64::MAX, "no": null,
        "list": [1, {"a": [true]}],
    });
    let noted = noted.as_object().unwrap().clone();
    store
        .change_admin_meta(id, noted, Vec::new())
        .await
        .unwrap();
    for cluster in [9, 7] {
        store.add_htcondor_cluster(id, cluster).await.unwrap();
    }
    let notice = SiteNotice {
        message: "no machine has 1000 CPUs".to_owned(),
        since: exactly(20),
    };
    store.set_site_notice(id, Some(notice)).await.unwrap();
    id
}

/// What a furnished store holds.
const FURNISHED: Counts = Counts {
    jobs: 6,
    containers: 9,
    transitions: 14,
    images: 4,
    refdata: 2,
    inactive_sites: 1,
};

/// Copies a furnished store, and asks the copy.
async fn is_copied(
    source: &impl Store,
    target: &impl Store,
    source_copy: &dyn StoreCopy,
    target_copy: &dyn StoreCopy,
) {
    let jobs = furnish(source).await;
    let counts = copy(source_copy, target_copy).await.unwrap();
    assert_eq!(counts, FURNISHED);
    let unit = source_copy.time_unit().max(target_copy.time_unit());
    for id in jobs {
        let ours = whole(source_copy, id).await.with_times_in(unit);
        let theirs = whole(target_copy, id).await;
        assert_eq!(theirs.log, ours.log);
        assert_eq!(theirs.containers, ours.containers);
        assert_eq!(theirs.job.summary.transitions, ours.job.summary.transitions);
        assert_eq!(ours.differences(theirs), Vec::<&str>::new());
    }
    let ids = async |told: Vec<Event>| -> Vec<String> {
        told.into_iter().map(|one| one.trans_id).collect()
    };
    assert_eq!(
        ids(events(target).await).await,
        ids(events(source).await).await
    );
    let to_send = |events: Vec<Event>| -> Vec<String> {
        events.into_iter().map(|one| one.trans_id).collect()
    };
    assert_eq!(
        to_send(target.to_send(None, 100).await.unwrap()),
        to_send(source.to_send(None, 100).await.unwrap())
    );
    assert_eq!(
        target.newest().await.unwrap(),
        source.newest().await.unwrap()
    );
    assert_eq!(
        target.unsent(None).await.unwrap().transitions,
        source.unsent(None).await.unwrap().transitions
    );
    assert_eq!(
        target.images().await.unwrap(),
        source.images().await.unwrap()
    );
    let (ours, theirs) = (
        source_copy.all_refdata().await.unwrap(),
        target_copy.all_refdata().await.unwrap(),
    );
    assert_eq!(theirs.len(), 2);
    for (ours, theirs) in ours.into_iter().zip(theirs) {
        let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
        assert_eq!(
            ours.statuses[0].status.state,
            theirs.statuses[0].status.state
        );
        assert_eq!(ours.statuses[0].admin_error, theirs.statuses[0].admin_error);
        assert_eq!((ours.id, ours.file), (theirs.id, theirs.file));
    }
    assert_eq!(
        target.inactive_sites().await.unwrap(),
        source.inactive_sites().await.unwrap()
    );

    // Whoever takes the lease over must know that what it protects may be half done.
    let lease = LeaseRequest {
        name: "submit something".to_owned(),
        holder: "living".to_owned(),
        now: at(3),
        until: at(4),
    };
    assert_eq!(target.take_lease(lease).await.unwrap(), Lease::TakenOver);

    // Again, nothing is left to do.
    assert_eq!(copy(source_copy, target_copy).await.unwrap(), FURNISHED);
}

#[tokio::test]
async fn a_file_is_copied_to_a_file() {
    let (source, target) = (TestFile::new(), TestFile::new());
    let (source, target) = (source.open(), target.open());
    is_copied(&source, &target, &source, &target).await;
    // New transitions come after the copied ones.
    let last = target.newest().await.unwrap();
    let new = insert(&target, 1).await.id;
    let after = target.events_after(last, None, 10).await.unwrap().unwrap();
    assert_eq!(after.len(), 1);
    assert_eq!(after[0].job_id, new);
}

#[test]
fn a_copied_file_does_as_the_model() {
    let ended = model::run(
        48,
        || Ok(TestFile::new()),
        async |file: &TestFile| file.open(),
        async |source, model| {
            let file = TestFile::new();
            let target = file.open();
            copy(source, &target).await.unwrap();
            model::compare(&target, model).await;
        },
    );
    assert!(ended > 16, "only {ended} jobs came to an end");
}

/// What the target has stays as it is, and is named.
async fn is_refused(source: &SqliteStore, target: &SqliteStore, wanted: &str) {
    let before = target.sizes().await.unwrap();
    let refused = copy(source, target).await.unwrap_err();
    assert!(matches!(refused, CopyError::OtherTarget(_)), "{refused}");
    let text = refused.to_string();
    assert!(text.contains(wanted), "{wanted:?} in {text}");
    assert_eq!(target.sizes().await.unwrap(), before);
}

#[tokio::test]
async fn a_target_with_anything_else_is_refused_before_anything_is_written() {
    let source_file = TestFile::new();
    let source = source_file.open();
    let jobs = furnish(&source).await;

    let file = TestFile::new();
    let strange = insert(&file.open(), 1).await.id;
    let wanted = format!("job {strange} is in the target and not in the source");
    is_refused(&source, &file.open(), &wanted).await;

    let file = TestFile::new();
    let target = file.open();
    let mut changed = whole(&source, jobs[0]).await;
    changed.containers[1].exit_code = Some(3);
    changed.job.summary.transitions[2].notif_sent ^= true;
    target.insert_whole_job(changed).await.unwrap();
    let wanted = format!(
        "job {} is another in the target, in: transitions, containers",
        jobs[0]
    );
    is_refused(&source, &target, &wanted).await;

    let file = TestFile::new();
    let target = file.open();
    let mut other = image("tool", Some("1"), digest(9));
    other.usage_notes = Some("another".to_owned());
    target.insert_image(other).await.unwrap();
    is_refused(&source, &target, "is another in the target").await;

    let file = TestFile::new();
    let target = file.open();
    target
        .insert_image(image("new", None, digest(1)))
        .await
        .unwrap();
    is_refused(&source, &target, "image reg.example.org/new@sha256:").await;

    let file = TestFile::new();
    let target = file.open();
    target.set_site_active(Site::Local, false).await.unwrap();
    is_refused(&source, &target, "site local is switched off in the target").await;
}

#[tokio::test]
async fn a_begun_copy_is_completed() {
    let (source_file, file) = (TestFile::new(), TestFile::new());
    let (source, target) = (source_file.open(), file.open());
    let jobs = furnish(&source).await;
    for id in [jobs[1], jobs[4]] {
        let job = whole(&source, id).await;
        target.insert_whole_job(job).await.unwrap();
    }
    let first = source.images().await.unwrap().remove(0);
    target.insert_image(first).await.unwrap();
    let first = source.list_refdata().await.unwrap().remove(0);
    assert!(target.insert_refdata(first).await.unwrap());
    assert_eq!(copy(&source, &target).await.unwrap(), FURNISHED);
    assert_eq!(events(&target).await, events(&source).await);
}

#[tokio::test]
async fn a_check_writes_nothing_and_names_what_is_missing() {
    let (source_file, file) = (TestFile::new(), TestFile::new());
    let (source, target) = (source_file.open(), file.open());
    let jobs = furnish(&source).await;
    let different = check(&source, &target).await.unwrap_err();
    assert!(matches!(different, CopyError::Different(_)), "{different}");
    let text = different.to_string();
    for wanted in [
        &format!("job {} is not in the target", jobs[0]),
        "is not in the target",
        "site kbase is not switched off in the target",
        "the lease \"submit something\" is not in the target",
    ] {
        assert!(text.contains(wanted), "{wanted:?} in {text}");
    }
    assert_eq!(target.sizes().await.unwrap().jobs, 0);
    assert!(target.images().await.unwrap().is_empty());

    copy(&source, &target).await.unwrap();
    assert_eq!(check(&source, &target).await.unwrap(), FURNISHED);

    // Whatever is lost later shows.
    for (damage, wanted) in [
        ("UPDATE jobs SET cleaned = 1 - cleaned", "in: notes"),
        (
            "UPDATE transitions SET resend = 1 - resend WHERE notif_sent = 1",
            "in: place in the log",
        ),
        (
            "UPDATE transitions SET seq = seq + 1000",
            "in: place in the log",
        ),
        ("DELETE FROM job_outputs", "in: outcome"),
        (
            "UPDATE submissions SET image = json_set(image, '$.digest', 'x')",
            "in: image",
        ),
        ("UPDATE jobs SET user = 'mallory'", "in: owner"),
        (
            "DELETE FROM images WHERE tag IS NULL",
            "is not in the target",
        ),
        (
            "UPDATE refdata SET record = json_set(record, '$.unpack', json('false'))",
            "is another in the target",
        ),
        (
            "DELETE FROM refdata WHERE file = 'buk/db'",
            "is not in the target",
        ),
    ] {
        let file = TestFile::new();
        let target = file.open();
        copy(&source, &target).await.unwrap();
        let changed = file.connection().execute(damage, ()).unwrap();
        assert!(changed > 0, "{damage}");
        let text = check(&source, &target).await.unwrap_err().to_string();
        assert!(text.contains(wanted), "{damage}: {wanted:?} in {text}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_named_and_the_rest_copied() {
    let (source_file, file) = (TestFile::new(), TestFile::new());
    let (source, target) = (source_file.open(), file.open());
    let jobs = furnish(&source).await;
    let connection = source_file.connection();
    let damage = |sql: &str, id: JobId| {
        assert_eq!(connection.execute(sql, (id.to_string(),)).unwrap(), 1);
    };
    damage("UPDATE jobs SET outcome = '{' WHERE id = ?1", jobs[1]);
    damage(
        "UPDATE containers SET record = '[]' WHERE job_id = ?1 AND number = 2",
        jobs[4],
    );
    connection
        .execute("UPDATE images SET record = '{}' WHERE tag = '2'", ())
        .unwrap();
    connection
        .execute("UPDATE refdata SET record = '{}' WHERE file = 'buk/db'", ())
        .unwrap();
    let failed = copy(&source, &target).await.unwrap_err();
    assert!(matches!(failed, CopyError::NotCopied(_)), "{failed}");
    let text = failed.to_string();
    for wanted in [
        "reference data in the source: ",
        &format!("job {} in the source: ", jobs[1]),
        &format!("job {} in the source: ", jobs[4]),
        "an image in the source: ",
    ] {
        assert!(text.contains(wanted), "{wanted:?} in {text}");
    }
    assert_eq!(text.matches(" in the source: ").count(), 4, "{text}");
    assert_eq!(target.sizes().await.unwrap().jobs, 4);

    damage("UPDATE jobs SET outcome = '{}' WHERE id = ?1", jobs[1]);
    damage(
        "UPDATE containers SET record = (SELECT record FROM containers WHERE job_id = ?1 AND number = 1) \
         WHERE job_id = ?1 AND number = 2",
        jobs[4],
    );
    connection
        .execute("DELETE FROM images WHERE record = '{}'", ())
        .unwrap();
    connection
        .execute("DELETE FROM refdata WHERE record = '{}'", ())
        .unwrap();
    let counts = copy(&source, &target).await.unwrap();
    assert_eq!(counts.jobs, FURNISHED.jobs);
    assert_eq!(counts.images, FURNISHED.images - 1);
    assert_eq!(counts.refdata, FURNISHED.refdata - 1);
}
