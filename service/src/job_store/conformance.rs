//! What every job store must do. A test of an adapter calls [`check`] with a fresh store for each
//! case.

use std::future::Future;
use std::sync::Arc;

use jiff::Timestamp;

use cts_shared::error_code::ErrorCode;
use cts_shared::id::JobId;
use cts_shared::job_input::{InputFile, InputFiles, JobInput, Parameters, Runtime};
use cts_shared::site::Site;
use cts_shared::state::JobState;
use cts_shared::state::job_flow::{Change, ContainerReport, JobRecord, Pending};
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::image::JobImage;

use crate::error::Error;

use super::{JobStep, JobStore, NewJob};

/// Runs every case on a store of its own.
///
/// # Panics
/// At the first thing the store does wrong.
pub async fn check<S, F>(mut fresh: impl FnMut() -> F)
where
    S: JobStore + 'static,
    F: Future<Output = S>,
{
    what_is_stored_is_read(&fresh().await).await;
    unknown_jobs_are_none(&fresh().await).await;
    a_change_is_stored_with_its_notifications(&fresh().await).await;
    a_refused_step_changes_nothing(&fresh().await).await;
    a_step_without_change_writes_nothing(&fresh().await).await;
    steps_do_not_interleave(Arc::new(fresh().await)).await;
    pending_jobs_are_found_in_order(&fresh().await).await;
    running_jobs_are_those_that_have_not_ended(&fresh().await).await;
}

/// A time, in seconds since the epoch.
///
/// # Panics
/// Beyond the years a timestamp can hold.
#[must_use]
pub fn at(second: i64) -> UtcTime {
    UtcTime::new(Timestamp::from_second(second).expect("tests use times of this century"))
}

/// A job with that many containers and input files.
#[must_use]
pub fn new_job(containers: u32) -> NewJob {
    let files = (0..containers.max(1))
        .map(|number| InputFile {
            file: format!("buk/in/{number}"),
            crc64nvme: Some("AAAAAAAAAAA=".to_owned()),
            data_id: None,
        })
        .collect();
    NewJob {
        id: JobId::new(uuid::Uuid::new_v4()),
        user: "alice".to_owned(),
        job_input: JobInput {
            cluster: Site::Local,
            image: "docker.io/library/x:1".to_owned(),
            params: Parameters {
                input_mount_point: "/in".to_owned(),
                output_mount_point: "/out".to_owned(),
                declobber: false,
                refdata_mount_point: None,
                args: None,
                environment: None,
            },
            num_containers: containers,
            cpus: 1,
            memory_bytes: 10_000_000,
            runtime: Runtime::default(),
            input_roots: None,
            output_dir: "buk/out/".to_owned(),
            input_files: InputFiles::Files(files),
        },
        image: JobImage {
            registered_by: "admin".to_owned(),
            registered_on: at(1),
            name: "docker.io/library/x".to_owned(),
            digest: format!("sha256:{}", "a".repeat(64)),
            entrypoint: vec!["e".to_owned()],
            tag: Some("1".to_owned()),
            refdata_id: None,
            default_refdata_mount_point: None,
        },
        record: JobRecord::new(containers, at(10)),
    }
}

fn report(state: JobState, time: UtcTime) -> ContainerReport {
    ContainerReport {
        state,
        time,
        exit_code: Some(0),
        outputs: None,
        admin_error: Some("broken".to_owned()),
        traceback: None,
    }
}

fn reported(container: u32, state: JobState, time: UtcTime) -> JobStep {
    Box::new(move |record| {
        record
            .apply_report(container, &report(state, time))
            .map_err(|refusal| Error::refused(ErrorCode::NoSuchSubjob, refusal.to_string()))
    })
}

async fn insert(store: &impl JobStore, containers: u32) -> NewJob {
    let job = new_job(containers);
    store
        .insert_job(job.clone())
        .await
        .expect("a job is stored");
    job
}

async fn what_is_stored_is_read(store: &impl JobStore) {
    let new = insert(store, 2).await;
    let job = store.job(new.id).await.expect("read").expect("stored");
    assert_eq!(job.job_input, new.job_input);
    assert_eq!(job.image, new.image);
    assert_eq!(job.input_file_count, 2);
    assert_eq!(job.summary.user, "alice");
    assert_eq!(job.summary.site, Site::Local);
    assert_eq!(job.summary.state(), JobState::Created);
    let [created] = job.summary.transitions.as_slice() else {
        panic!("one transition, got {:?}", job.summary.transitions);
    };
    assert_eq!(created.time, at(10));
    assert!(!created.notif_sent);
    assert!(!created.trans_id.is_empty());
    let summary = store.job_summary(new.id).await.expect("read");
    assert_eq!(summary, Some(job.summary));
    let record = store.job_record(new.id).await.expect("read");
    assert_eq!(record, Some(new.record));
}

async fn unknown_jobs_are_none(store: &impl JobStore) {
    let id = JobId::new(uuid::Uuid::new_v4());
    assert_eq!(store.job(id).await.expect("read"), None);
    assert_eq!(store.job_summary(id).await.expect("read"), None);
    assert_eq!(store.job_record(id).await.expect("read"), None);
    let step = reported(0, JobState::JobSubmitting, at(20));
    assert_eq!(store.change_job(id, step).await.expect("no failure"), None);
}

async fn a_change_is_stored_with_its_notifications(store: &impl JobStore) {
    let id = insert(store, 1).await.id;
    let change = store
        .change_job(id, reported(0, JobState::JobSubmitting, at(20)))
        .await
        .expect("a legal step")
        .expect("stored");
    assert_eq!(change.container, Some(0));
    let summary = store.job_summary(id).await.expect("read").expect("stored");
    let states: Vec<JobState> = summary.transitions.iter().map(|one| one.state).collect();
    assert_eq!(
        states,
        [
            JobState::Created,
            JobState::DownloadSubmitted,
            JobState::JobSubmitting
        ]
    );
    assert!(summary.transitions.iter().all(|one| !one.notif_sent));
    let mut ids: Vec<&str> = summary
        .transitions
        .iter()
        .map(|one| one.trans_id.as_str())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 3, "each notification has an id of its own");
    let record = store.job_record(id).await.expect("read").expect("stored");
    let states: Vec<JobState> = record.containers.iter().map(|one| one.state()).collect();
    assert_eq!(states, [JobState::JobSubmitting]);
}

async fn a_refused_step_changes_nothing(store: &impl JobStore) {
    let id = insert(store, 1).await.id;
    let before = store.job_record(id).await.expect("read");
    store
        .change_job(id, reported(0, JobState::Complete, at(20)))
        .await
        .expect_err("an illegal step");
    assert_eq!(store.job_record(id).await.expect("read"), before);
}

async fn a_step_without_change_writes_nothing(store: &impl JobStore) {
    let id = insert(store, 1).await.id;
    let before = store.job_summary(id).await.expect("read");
    let change = store
        .change_job(
            id,
            Box::new(|record| {
                // A step that claims to have changed nothing is believed.
                record.containers.clear();
                Ok(Change::default())
            }),
        )
        .await
        .expect("no failure")
        .expect("stored");
    assert!(change.is_empty());
    assert_eq!(store.job_summary(id).await.expect("read"), before);
    let record = store.job_record(id).await.expect("read").expect("stored");
    assert_eq!(record.containers.len(), 1);
}

/// All containers report at the same time: the job gets each transition once.
async fn steps_do_not_interleave(store: Arc<impl JobStore + 'static>) {
    const CONTAINERS: u32 = 8;
    let id = insert(&*store, CONTAINERS).await.id;
    for state in [JobState::JobSubmitting, JobState::JobSubmitted] {
        let steps: Vec<_> = (0..CONTAINERS)
            .map(|container| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    store
                        .change_job(id, reported(container, state, at(20)))
                        .await
                })
            })
            .collect();
        for step in steps {
            step.await.expect("no panic").expect("a legal step");
        }
    }
    let summary = store.job_summary(id).await.expect("read").expect("stored");
    let states: Vec<JobState> = summary.transitions.iter().map(|one| one.state).collect();
    assert_eq!(
        states,
        [
            JobState::Created,
            JobState::DownloadSubmitted,
            JobState::JobSubmitting,
            JobState::JobSubmitted
        ]
    );
}

async fn pending_jobs_are_found_in_order(store: &impl JobStore) {
    let mut expected = Vec::new();
    for _ in 0..3 {
        let id = insert(store, 1).await.id;
        let change = store
            .change_job(id, reported(0, JobState::Error, at(20)))
            .await
            .expect("a legal step")
            .expect("stored");
        assert_eq!(change.pending, Some(Pending::Error));
        expected.push(id);
    }
    insert(store, 1).await;
    expected.sort_by_key(ToString::to_string);
    assert_eq!(store.pending_jobs(None, 10).await.expect("read"), expected);
    let mut found = Vec::new();
    while let [id] = store
        .pending_jobs(found.last().copied(), 1)
        .await
        .expect("read")[..]
    {
        found.push(id);
    }
    assert_eq!(found, expected);
}

async fn running_jobs_are_those_that_have_not_ended(store: &impl JobStore) {
    let running = insert(store, 1).await.id;
    let failed = insert(store, 1).await.id;
    store
        .change_job(
            failed,
            Box::new(|record| {
                record
                    .fail("for users", "for administrators", None, at(30))
                    .map_err(|refusal| Error::Internal(refusal.to_string()))
            }),
        )
        .await
        .expect("a legal step");
    assert_eq!(
        store.running_jobs(Site::Local).await.expect("read"),
        [running]
    );
    assert!(
        store
            .running_jobs(Site::Kbase)
            .await
            .expect("read")
            .is_empty()
    );
    let outcome = store
        .job_summary(failed)
        .await
        .expect("read")
        .expect("stored")
        .outcome;
    assert_eq!(outcome.error.as_deref(), Some("for users"));
    assert_eq!(outcome.admin_error.as_deref(), Some("for administrators"));
}
