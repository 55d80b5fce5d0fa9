//! One job: stored, changed, found when it is due.

use std::sync::Arc;

use cts_service::error::Error;
use cts_service::job_store::JobStore;
use cts_shared::id::JobId;
use cts_shared::site::Site;
use cts_shared::state::JobState;
use cts_shared::state::attempts::Announcement;
use cts_shared::state::job_flow::{Change, Pending, Reporter};
use cts_shared::wire::job::SiteNotice;

use crate::Store;
use crate::fixtures::{self, at, insert, reported};

pub(crate) async fn check<S: Store, F: Future<Output = S>>(fresh: &mut impl FnMut() -> F) {
    what_is_stored_is_read(&fresh().await).await;
    unknown_jobs_are_none(&fresh().await).await;
    a_change_is_stored_with_its_notifications(&fresh().await).await;
    a_refused_step_changes_nothing(&fresh().await).await;
    a_step_without_change_writes_nothing(&fresh().await).await;
    steps_do_not_interleave(Arc::new(fresh().await)).await;
    pending_jobs_are_found_in_order(&fresh().await).await;
    running_jobs_are_those_that_have_not_ended(&fresh().await).await;
    unstarted_jobs_are_those_no_site_has_taken(&fresh().await).await;
    outputs_are_kept_with_the_whole_job_only(&fresh().await).await;
    jobs_are_cleaned_once_they_have_ended(&fresh().await).await;
    what_the_batch_system_says_is_noted(&fresh().await).await;
    a_container_that_starts_again_and_again_is_kept(&fresh().await).await;
}

async fn what_is_stored_is_read(store: &impl JobStore) {
    let new = insert(store, 2).await;
    let job = store.job(new.id).await.expect("read").expect("stored");
    assert_eq!(job.job_input, new.job_input);
    assert_eq!(job.image, new.image);
    assert_eq!(job.input_file_count, 2);
    assert_eq!(job.summary.user, "alice");
    assert_eq!(job.summary.site, Site::Local);
    assert_eq!(job.summary.notes.input_bytes, Some(2));
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
        .change_job(failed, fixtures::failed(at(30)))
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

async fn unstarted_jobs_are_those_no_site_has_taken(store: &impl JobStore) {
    let waiting = insert(store, 1).await.id;
    let taken = insert(store, 1).await.id;
    let canceled = insert(store, 1).await.id;
    let step = |take: bool| -> cts_service::job_store::JobStep {
        Box::new(move |record| {
            let change = if take {
                record.queued(at(20))
            } else {
                record.cancel(at(20))
            };
            change.map_err(|refusal| Error::Internal(refusal.to_string()))
        })
    };
    store.change_job(taken, step(true)).await.unwrap();
    store.change_job(canceled, step(false)).await.unwrap();
    assert_eq!(
        store.unstarted_jobs(at(11), 10).await.unwrap(),
        [(waiting, Site::Local)]
    );
    // Submitted at second 10: not before it.
    assert_eq!(store.unstarted_jobs(at(10), 10).await.unwrap(), []);
    assert_eq!(store.unstarted_jobs(at(11), 0).await.unwrap(), []);
}

async fn outputs_are_kept_with_the_whole_job_only(store: &impl JobStore) {
    let id = insert(store, 1).await.id;
    let outputs = vec![cts_shared::wire::job::S3File {
        file: "buk/out/a".to_owned(),
        crc64nvme: Some("AAAAAAAAAAA=".to_owned()),
    }];
    let stored = outputs.clone();
    store
        .change_job(
            id,
            Box::new(move |record| {
                record.outcome.outputs = Some(stored.clone());
                record.outcome.output_file_count = Some(1);
                Ok(Change {
                    outcome: true,
                    ..Change::default()
                })
            }),
        )
        .await
        .unwrap();
    let job = store.job(id).await.unwrap().unwrap();
    assert_eq!(job.summary.outcome.outputs, Some(outputs.clone()));
    let record = store.job_record(id).await.unwrap().unwrap();
    assert_eq!(record.outcome.outputs, Some(outputs));
    let summary = store.job_summary(id).await.unwrap().unwrap();
    assert_eq!(summary.outcome.outputs, None);
    assert_eq!(summary.outcome.output_file_count, Some(1));
}

async fn jobs_are_cleaned_once_they_have_ended(store: &impl JobStore) {
    let running = insert(store, 1).await.id;
    let ended = insert(store, 1).await.id;
    store
        .change_job(ended, fixtures::failed(at(30)))
        .await
        .unwrap();
    assert_eq!(store.jobs_to_clean(at(30), 10).await.unwrap(), []);
    assert_eq!(store.jobs_to_clean(at(31), 10).await.unwrap(), [ended]);
    store.mark_cleaned(ended).await.unwrap();
    store.mark_cleaned(running).await.unwrap();
    assert_eq!(store.jobs_to_clean(at(31), 10).await.unwrap(), []);
    let cleaned = async |id| store.job_summary(id).await.unwrap().unwrap().notes.cleaned;
    assert!(cleaned(ended).await);
    assert!(!cleaned(running).await);
}

async fn what_the_batch_system_says_is_noted(store: &impl JobStore) {
    let id = insert(store, 1).await.id;
    let meta = [("a".to_owned(), 1.into())].into_iter().collect();
    assert!(store.change_admin_meta(id, meta, Vec::new()).await.unwrap());
    for cluster in [7, 9, 7] {
        store.add_htcondor_cluster(id, cluster).await.unwrap();
    }
    let notice = SiteNotice {
        message: "no machine has 1000 CPUs".to_owned(),
        since: at(20),
    };
    store
        .set_site_notice(id, Some(notice.clone()))
        .await
        .unwrap();
    let notes = store.job_summary(id).await.unwrap().unwrap().notes;
    assert_eq!(notes.htcondor_cluster_ids, [7, 9]);
    assert_eq!(notes.site_notice.as_ref(), Some(&notice));
    assert_eq!(notes.admin_meta["a"], 1);
    let job = store.job(id).await.unwrap().unwrap().into_admin_job();
    assert_eq!(job.job.status.site_notice, Some(notice));
    assert_eq!(job.htcondor_details.unwrap().cluster_id, [7, 9]);
    store.set_site_notice(id, None).await.unwrap();
    let notes = store.job_summary(id).await.unwrap().unwrap().notes;
    assert_eq!(notes.site_notice, None);

    let nobody = JobId::new(uuid::Uuid::new_v4());
    store.add_htcondor_cluster(nobody, 1).await.unwrap();
    store.set_site_notice(nobody, None).await.unwrap();
}

/// Its oldest runs are forgotten, in the middle of its history.
async fn a_container_that_starts_again_and_again_is_kept(store: &impl JobStore) {
    let id = insert(store, 1).await.id;
    let mut expected = store.job_record(id).await.unwrap().unwrap();
    for run in 0..15 {
        let announcement = Announcement {
            instance: format!("executor {run}"),
            host: None,
        };
        let started = at(100 + 10 * run);
        let submitted = JobState::JobSubmitting;
        let attempt = u32::try_from(run).unwrap() + 1;
        let mut report = fixtures::report(submitted, at(105 + 10 * run));
        report.from = Reporter::Attempt(attempt);
        let _change = expected.announce(0, &announcement, started).unwrap();
        let _change = expected.apply_report(0, &report).unwrap();
        store
            .change_job(
                id,
                Box::new(move |record| Ok(record.announce(0, &announcement, started).unwrap())),
            )
            .await
            .unwrap();
        store
            .change_job(
                id,
                Box::new(move |record| Ok(record.apply_report(0, &report).unwrap())),
            )
            .await
            .unwrap();
        let record = store.job_record(id).await.unwrap();
        assert_eq!(record.as_ref(), Some(&expected));
    }
}
