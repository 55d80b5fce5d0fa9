//! Lists of jobs, and what is noted on them.

use serde_json::{Map, Value, json};

use cts_service::job_store::{JobFilter, JobStore};
use cts_shared::id::JobId;
use cts_shared::site::Site;
use cts_shared::state::JobState;

use crate::Store;
use crate::fixtures::{at, new_job, reported};

pub(crate) async fn check<S: Store, F: Future<Output = S>>(fresh: &mut impl FnMut() -> F) {
    a_listed_job_has_all_but_its_files(&fresh().await).await;
    filters_choose_and_the_last_changed_come_first(&fresh().await).await;
    notes_are_set_and_removed_one_by_one(&fresh().await).await;
}

async fn a_listed_job_has_all_but_its_files(store: &impl JobStore) {
    let job = new_job(2);
    store.insert_job(job.clone()).await.unwrap();
    let [listed] = &store.list_jobs(JobFilter::default(), 10).await.unwrap()[..] else {
        panic!("one job");
    };
    let mut expected = serde_json::to_value(&job.job_input).unwrap();
    expected.as_object_mut().unwrap().remove("input_files");
    assert_eq!(serde_json::to_value(&listed.job_input).unwrap(), expected);
    assert_eq!(listed.image, job.image);
    assert_eq!(listed.input_file_count, 2);
    let summary = store.job_summary(job.id).await.unwrap().unwrap();
    assert_eq!(listed.summary, summary);
}

async fn filters_choose_and_the_last_changed_come_first(store: &impl JobStore) {
    let mut ids = Vec::new();
    for (number, (user, site)) in [
        ("alice", Site::Local),
        ("bob", Site::Local),
        ("alice", Site::Kbase),
        ("alice", Site::Local),
    ]
    .into_iter()
    .enumerate()
    {
        let mut job = new_job(1);
        job.user = user.to_owned();
        job.job_input.cluster = site;
        ids.push(job.id);
        store.insert_job(job.clone()).await.unwrap();
        // The first changes last.
        let second = 40 - i64::try_from(number).unwrap();
        store
            .change_job(job.id, reported(0, JobState::JobSubmitting, at(second)))
            .await
            .unwrap();
    }
    store
        .change_job(ids[1], reported(0, JobState::JobSubmitted, at(50)))
        .await
        .unwrap();
    let list = async |filter: JobFilter| -> Vec<JobId> {
        let jobs = store.list_jobs(filter, 10).await.unwrap();
        jobs.into_iter().map(|job| job.summary.id).collect()
    };
    let all = JobFilter::default;
    assert_eq!(list(all()).await, [ids[1], ids[0], ids[2], ids[3]]);
    let alices = JobFilter {
        user: Some("alice".to_owned()),
        ..all()
    };
    assert_eq!(list(alices.clone()).await, [ids[0], ids[2], ids[3]]);
    let at_kbase = JobFilter {
        site: Some(Site::Kbase),
        ..alices
    };
    assert_eq!(list(at_kbase).await, [ids[2]]);
    let submitting = JobFilter {
        state: Some(JobState::JobSubmitting),
        ..all()
    };
    assert_eq!(list(submitting.clone()).await, [ids[0], ids[2], ids[3]]);
    let then = JobFilter {
        after: Some(at(38)),
        before: Some(at(40)),
        ..submitting
    };
    assert_eq!(
        list(then).await,
        [ids[2]],
        "the start counts, the end does not"
    );
    let nobodys = JobFilter {
        user: Some("nobody".to_owned()),
        ..all()
    };
    assert_eq!(list(nobodys).await, []);
    let two = store.list_jobs(all(), 2).await.unwrap();
    assert_eq!(two.len(), 2);
}

async fn notes_are_set_and_removed_one_by_one(store: &impl JobStore) {
    let job = new_job(1);
    store.insert_job(job.clone()).await.unwrap();
    let set = |value: Value| -> Map<String, Value> { value.as_object().unwrap().clone() };
    let change = async |value: Value, unset: &[&str]| {
        let unset = unset.iter().map(ToString::to_string).collect();
        assert!(
            store
                .change_admin_meta(job.id, set(value), unset)
                .await
                .unwrap()
        );
        let summary = store.job_summary(job.id).await.unwrap().unwrap();
        Value::Object(summary.notes.admin_meta)
    };
    assert_eq!(
        change(json!({"a": 1, "b": "two"}), &[]).await,
        json!({"a": 1, "b": "two"})
    );
    assert_eq!(
        change(json!({"c": 1.5, "a": 3}), &["b", "never set"]).await,
        json!({"a": 3, "c": 1.5})
    );
    // A change of the job leaves its notes alone.
    store
        .change_job(job.id, reported(0, JobState::JobSubmitting, at(20)))
        .await
        .unwrap();
    let summary = store.job_summary(job.id).await.unwrap().unwrap();
    assert_eq!(
        Value::Object(summary.notes.admin_meta),
        json!({"a": 3, "c": 1.5})
    );
    let unknown = JobId::new(uuid::Uuid::new_v4());
    assert!(
        !store
            .change_admin_meta(unknown, Map::new(), Vec::new())
            .await
            .unwrap()
    );
}
