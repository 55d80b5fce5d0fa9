//! The shared store, on the server that `CTS_TEST_MONGO_URL` names; without it, nothing is tested and that
//! is said. `make e2e` names one. Each case has a database of its own, dropped at its end.

use std::io::Write;
use std::sync::Arc;

use mongodb::bson::{Bson, DateTime, Document, doc};
use mongodb::{Client, Collection};
use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

use cts_service::error::Error;
use cts_service::job_store::{JobFilter, JobStep, JobStore, StoreError};
use cts_service::mongo::{MongoSettings, MongoStore};
use cts_service::outbox::Outbox;
use cts_shared::id::JobId;
use cts_shared::site::Site;
use cts_shared::state::JobState;
use cts_shared::state::job_flow::Change;
use cts_shared::wire::job::S3File;

use crate::fixtures::{at, insert, new_job, reported};
use crate::model;

mod connection;
mod documents;
mod faults;
pub(crate) mod refdata;

/// A database that is dropped with this, or is another's to drop.
pub(crate) struct TestDatabase {
    pub(crate) url: String,
    pub(crate) name: String,
    pub(crate) is_dropped: bool,
    /// Held by who may have commands fail.
    pub(crate) fail_point: Option<MutexGuard<'static, ()>>,
}

/// The server has one setting for the commands that fail, whoever they are for.
static FAIL_POINT: Mutex<()> = Mutex::const_new(());

impl TestDatabase {
    /// None, loudly, where there is no server.
    pub(crate) fn new() -> Option<Self> {
        let Ok(url) = std::env::var("CTS_TEST_MONGO_URL") else {
            // Not `eprintln`, which the test harness keeps to itself.
            let text = b"SKIPPED: the MongoDB store; CTS_TEST_MONGO_URL names no server\n";
            std::io::stderr().write_all(text).unwrap();
            return None;
        };
        Some(Self {
            url,
            name: format!("cts_test_{}", Uuid::new_v4().simple()),
            is_dropped: true,
            fail_point: None,
        })
    }

    pub(crate) async fn open(&self) -> MongoStore {
        let settings = MongoSettings {
            host: self.url.clone(),
            database: self.name.clone(),
            credentials: None,
            retry_writes: false,
        };
        MongoStore::open(&settings).await.unwrap()
    }

    /// Host and port of the server.
    fn address(&self) -> String {
        let rest = self.url.trim_start_matches("mongodb://");
        rest.split(['/', '?']).next().unwrap().to_owned()
    }

    /// Has the server tell the calls of stores opened from now on from those of other tests, which wait if they
    /// want commands to fail too.
    async fn name_calls(&mut self) {
        self.fail_point = Some(FAIL_POINT.lock().await);
        let separator = if self.url.contains('?') { '&' } else { '?' };
        self.url = format!("{}{separator}appName={}", self.url, self.name);
    }

    /// Has a command of these stores fail.
    async fn fail(&self, command: &str, mode: Bson, failure: Document) {
        assert!(self.fail_point.is_some(), "the calls have a name");
        let client = Client::with_uri_str(&self.url).await.unwrap();
        let mut data = doc! {"failCommands": [command], "appName": &self.name};
        data.extend(failure);
        let command = doc! {"configureFailPoint": "failCommand", "mode": mode, "data": data};
        let set = client.database("admin").run_command(command).await;
        set.expect("the server takes test commands");
    }

    pub(crate) async fn collection(&self, name: &str) -> Collection<Document> {
        let client = Client::with_uri_str(&self.url).await.unwrap();
        client.database(&self.name).collection(name)
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if !self.is_dropped {
            return;
        }
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

/// Two services over one database: all containers of a job report at the same moment, each to the one or
/// the other.
#[tokio::test(flavor = "multi_thread")]
async fn two_services_lose_and_double_nothing() {
    const CONTAINERS: u32 = 12;
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let stores = [database.open().await, database.open().await];
    let ids = [
        insert(&stores[0], CONTAINERS).await.id,
        insert(&stores[1], CONTAINERS).await.id,
    ];
    for state in [JobState::JobSubmitting, JobState::JobSubmitted] {
        let steps: Vec<_> = (0..CONTAINERS)
            .flat_map(|container| ids.map(|id| (id, container)))
            .map(|(id, container)| {
                let store = stores[container as usize % 2].clone();
                tokio::spawn(async move {
                    store
                        .change_job(id, reported(container, state, at(20)))
                        .await
                })
            })
            .collect();
        for step in steps {
            let change = step.await.unwrap().unwrap().unwrap();
            assert!(change.container.is_some());
        }
    }
    let states = [
        JobState::Created,
        JobState::DownloadSubmitted,
        JobState::JobSubmitting,
        JobState::JobSubmitted,
    ];
    let events = stores[0].events_after(None, None, 100).await.unwrap();
    let events = events.unwrap();
    for id in ids {
        let record = stores[0].job_record(id).await.unwrap().unwrap();
        let containers: Vec<JobState> = record.containers.iter().map(|one| one.state()).collect();
        assert_eq!(containers, [JobState::JobSubmitted; CONTAINERS as usize]);
        let entered: Vec<JobState> = record.transitions.iter().map(|one| one.state).collect();
        assert_eq!(entered, states);
        let told: Vec<JobState> = events
            .iter()
            .filter(|event| event.job_id == id)
            .map(|event| event.state)
            .collect();
        assert_eq!(told, states);
    }
    assert_eq!(events.len(), 8);
    let log = database.collection("cts_transitions").await;
    let mut numbers: Vec<i64> = log
        .distinct("_id", doc! {})
        .await
        .unwrap()
        .iter()
        .map(|number| number.as_i64().unwrap())
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=8).collect::<Vec<_>>(), "no gap");
}

/// A service that dies after it has changed the job and before it has written the container and
/// numbered the transitions: the container is read and changed as if it had done both.
#[tokio::test]
async fn what_a_dead_service_left_half_done_is_done() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let store = database.open().await;
    let id = insert(&store, 1).await.id;
    let subjobs = database.collection("subjobs").await;
    let filter = doc! {"id": id.to_string()};
    let before = subjobs.find_one(filter.clone()).await.unwrap().unwrap();
    store
        .change_job(id, reported(0, JobState::JobSubmitting, at(20)))
        .await
        .unwrap();
    let record = store.job_record(id).await.unwrap();
    let events = store.events_after(None, None, 10).await.unwrap().unwrap();

    subjobs.replace_one(filter.clone(), &before).await.unwrap();
    let jobs = database.collection("jobs").await;
    let unlogged = doc! {"$set": {"_cts.unlogged": true}};
    jobs.update_one(filter.clone(), unlogged).await.unwrap();
    let log = database.collection("cts_transitions").await;
    log.delete_many(doc! {"_id": {"$gt": 1}}).await.unwrap();

    assert_eq!(store.job_record(id).await.unwrap(), record);
    let again = store.events_after(None, None, 10).await.unwrap().unwrap();
    assert_eq!(again, events);
    store
        .change_job(id, reported(0, JobState::JobSubmitted, at(21)))
        .await
        .unwrap();
    let after = subjobs.find_one(filter).await.unwrap().unwrap();
    let states: Vec<&str> = after
        .get_array("transition_times")
        .unwrap()
        .iter()
        .map(|one| one.as_document().unwrap().get_str("state").unwrap())
        .collect();
    assert_eq!(
        states,
        [
            "created",
            "download_submitted",
            "job_submitting",
            "job_submitted"
        ]
    );
}

/// Updates are carried out, but their answers say that it is not known: once, then always; and then the
/// server is not the primary for one of them.
#[tokio::test]
async fn a_step_whose_answer_is_lost_is_taken_once() {
    let Some(mut database) = TestDatabase::new() else {
        return;
    };
    database.name_calls().await;
    let store = database.open().await;
    let id = insert(&store, 1).await.id;
    let fail = async |mode: Bson, failure| database.fail("update", mode, failure).await;
    let once = || Bson::from(doc! {"times": 1});
    let lost = || doc! {"writeConcernError": {"code": 64, "errmsg": "no majority in time"}};
    let change = async |state, second| {
        let step = reported(0, state, at(second));
        store.change_job(id, step).await.map(Option::unwrap)
    };

    fail(once(), lost()).await;
    let changed = change(JobState::JobSubmitting, 20).await.unwrap();
    assert_eq!(changed.container, Some(0), "this call changed it");

    fail("alwaysOn".into(), lost()).await;
    let error = change(JobState::JobSubmitted, 21).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    fail("off".into(), Document::new()).await;
    let again = change(JobState::JobSubmitted, 21).await.unwrap();
    assert!(again.is_empty(), "it had arrived: {again:?}");

    fail(once(), doc! {"errorCode": 10107}).await;
    let changed = change(JobState::UploadSubmitting, 22).await.unwrap();
    assert_eq!(changed.container, Some(0));

    let record = store.job_record(id).await.unwrap().unwrap();
    assert_eq!(record.state(), JobState::UploadSubmitting);
    assert_eq!(record.transitions.len(), 5);
    assert_eq!(record.containers[0].transitions.len(), 5);
    let events = store.events_after(None, None, 10).await.unwrap().unwrap();
    assert_eq!(events.len(), 5);
}

/// The same for what a new job is inserted with: its containers, and itself where it has none.
#[tokio::test]
async fn a_job_whose_insertion_is_not_known_of_is_stored_once() {
    let Some(mut database) = TestDatabase::new() else {
        return;
    };
    database.name_calls().await;
    let store = database.open().await;
    for containers in [2, 0] {
        let lost = doc! {"writeConcernError": {"code": 64, "errmsg": "no majority in time"}};
        let once = doc! {"times": 1};
        database.fail("insert", once.into(), lost).await;
        let job = new_job(containers);
        store.insert_job(job.clone()).await.unwrap();
        assert_eq!(store.job_record(job.id).await.unwrap(), Some(job.record));
    }
    let events = store.events_after(None, None, 10).await.unwrap().unwrap();
    assert_eq!(events.len(), 2);
}

#[tokio::test]
async fn a_job_of_the_same_id_is_told_apart_and_does_no_harm() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let store = database.open().await;
    let job = new_job(2);
    store.insert_job(job.clone()).await.unwrap();
    let refused = store.insert_job(job.clone()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Duplicate { .. }), "{refused}");
    assert_eq!(store.job_record(job.id).await.unwrap(), Some(job.record));
}

/// Neither the error nor the settings show a password.
#[tokio::test]
async fn a_connection_string_is_never_shown() {
    let settings = MongoSettings {
        host: "mongodb://cts:canary@[nowhere:1".to_owned(),
        database: "cts".to_owned(),
        credentials: Some(("cts".to_owned(), "canary".to_owned().into())),
        retry_writes: false,
    };
    let error = MongoStore::open(&settings).await.unwrap_err();
    assert!(matches!(error, StoreError::Connect { .. }), "{error}");
    let shown = format!("{error} {error:?} {settings:?}");
    assert!(!shown.contains("canary"), "{shown}");
}

/// 16 MB and more of outputs, of a container and of its job.
#[tokio::test]
async fn outputs_may_be_longer_than_a_document() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let store = database.open().await;
    let id = insert(&store, 1).await.id;
    let outputs: Vec<S3File> = (0..100_000)
        .map(|number| S3File {
            file: format!("buk/out/{}/{number}", "a".repeat(150)),
            crc64nvme: Some("AAAAAAAAAAA=".to_owned()),
        })
        .collect();
    let written = outputs.clone();
    store
        .change_job(
            id,
            Box::new(move |record| {
                record.containers[0].outputs = Some(written.clone());
                record.outcome.outputs = Some(written.clone());
                Ok(Change {
                    container: Some(0),
                    outcome: true,
                    ..Change::default()
                })
            }),
        )
        .await
        .unwrap();
    let record = store.job_record(id).await.unwrap().unwrap();
    assert_eq!(record.containers[0].outputs.as_ref(), Some(&outputs));
    assert_eq!(record.outcome.outputs.as_ref(), Some(&outputs));
    let job = store.job(id).await.unwrap().unwrap();
    assert_eq!(job.summary.outcome.outputs, Some(outputs));

    let parts = database.collection("cts_outputs").await;
    parts.delete_one(doc! {"last": true}).await.unwrap();
    parts.delete_one(doc! {"last": true}).await.unwrap();
    let gone = store.job(id).await.unwrap_err();
    assert!(matches!(gone, StoreError::Gone { .. }), "{gone}");
}

fn date(second: i64) -> Bson {
    DateTime::from_millis(second * 1000).into()
}

/// A job as the existing service writes it: the contract's fields and no others.
pub(crate) fn old_job(id: JobId, states: &[JobState]) -> Document {
    let last = states.last().unwrap();
    let transitions: Vec<Document> = states
        .iter()
        .zip(100..)
        .map(|(state, second)| {
            doc! {
                "state": state.as_str(), "time": date(second), "trans_id": Uuid::new_v4().to_string(),
                "notif_sent": state != last, "_retry": 0,
            }
        })
        .collect();
    let mut job = doc! {
        "id": id.to_string(),
        "state": last.as_str(),
        "transition_times": transitions,
        "user": "carol",
        "admin_meta": {"ticket": 7},
        "job_input": {
            "cluster": "kbase",
            "image": "docker.io/library/x:1",
            "params": {
                "input_mount_point": "/in", "output_mount_point": "/out", "declobber": false,
                "refdata_mount_point": Bson::Null,
                "args": ["-x", {"type": "input_files", "input_files_format": "space_separated_list"}],
                "environment": {"B": "1", "A": "2"},
            },
            "num_containers": 2, "cpus": 1, "memory": 10_000_000, "runtime": 3600.0,
            "output_dir": "buk/out/",
            "input_files": [{"file": "buk/in/a", "crc64nvme": "AAAAAAAAAAA=", "data_id": Bson::Null}],
        },
        "image": {
            "registered_by": "admin", "registered_on": date(1), "name": "docker.io/library/x",
            "digest": format!("sha256:{}", "a".repeat(64)), "entrypoint": ["e"], "tag": "1",
        },
        "input_file_count": 1,
        "cleaned": false,
        "_update_time": date(99 + i64::try_from(states.len()).unwrap()),
        "_retry": 0,
    };
    if *last == JobState::Complete {
        job.extend(doc! {
            "htcondor_details": {"cluster_id": [7]},
            "outputs": [{"file": "buk/out/a", "crc64nvme": "AAAAAAAAAAA="}],
            "output_file_count": 1, "cpu_hours": 0.5, "cpu_factor": 0.25, "max_memory": 5_i64,
        });
    }
    if *last == JobState::Error {
        job.extend(doc! {"error": "e", "admin_error": "a", "traceback": "t", "logpath": "buk/l"});
    }
    job
}

pub(crate) fn old_subjob(id: JobId, number: i32, states: &[JobState]) -> Document {
    let transitions: Vec<Document> = states
        .iter()
        .zip(100..)
        .map(|(state, second)| {
            doc! {"state": state.as_str(), "time": date(second), "_retry": 0}
        })
        .collect();
    doc! {
        "id": id.to_string(), "sub_id": number, "state": states.last().unwrap().as_str(),
        "transition_times": transitions, "exit_code": Bson::Null, "outputs": Bson::Null,
        "admin_error": Bson::Null, "traceback": Bson::Null, "_update_time": date(100),
    }
}

/// Every way to a state, as the contract's state machine has it.
pub(crate) fn way_to(state: JobState) -> Vec<JobState> {
    let mut way = vec![state];
    while let Some(before) = way[0].predecessors().first() {
        way.insert(0, *before);
    }
    way
}

#[tokio::test]
async fn jobs_of_the_existing_service_are_read_in_every_state() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    // The collections are the other service's before ours sees them.
    let (jobs, subjobs) = (
        database.collection("jobs").await,
        database.collection("subjobs").await,
    );
    let mut expected = Vec::new();
    for state in JobState::ALL {
        let id = JobId::new(Uuid::new_v4());
        let way = way_to(state);
        jobs.insert_one(old_job(id, &way)).await.unwrap();
        let contained: Vec<JobState> = way
            .iter()
            .copied()
            .filter(|state| !state.is_cancel())
            .collect();
        for number in 0..2 {
            let subjob = old_subjob(id, number, &contained);
            subjobs.insert_one(subjob).await.unwrap();
        }
        expected.push((id, state, way));
    }
    // One that cannot be read keeps nobody from the others.
    let mut unreadable = old_job(JobId::new(Uuid::new_v4()), &[JobState::Created]);
    unreadable.insert("state", "unheard_of");
    jobs.insert_one(&unreadable).await.unwrap();
    let store = database.open().await;
    let id = unreadable.get_str("id").unwrap().parse().unwrap();
    let error = store.job(id).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    jobs.delete_one(doc! {"state": "unheard_of"}).await.unwrap();
    for (id, state, way) in &expected {
        let job = store.job(*id).await.unwrap().unwrap();
        let states: Vec<JobState> = job
            .summary
            .transitions
            .iter()
            .map(|one| one.state)
            .collect();
        assert_eq!(states, *way);
        assert_eq!(job.summary.user, "carol");
        assert_eq!(job.summary.site, Site::Kbase);
        assert_eq!(job.summary.notes.admin_meta["ticket"], 7);
        assert_eq!(job.job_input.runtime.to_string(), "PT1H");
        assert_eq!(job.job_input.memory_bytes, 10_000_000);
        assert_eq!(job.job_input.input_files.len(), 1);
        let names: Vec<&String> = job
            .job_input
            .params
            .environment
            .as_ref()
            .unwrap()
            .keys()
            .collect();
        assert_eq!(names, ["B", "A"]);
        let outcome = &job.summary.outcome;
        match state {
            JobState::Complete => {
                assert_eq!(outcome.statistics.max_memory, Some(5));
                assert_eq!(outcome.outputs.as_ref().unwrap()[0].file, "buk/out/a");
                assert_eq!(job.summary.notes.htcondor_cluster_ids, [7]);
            }
            JobState::Error => assert_eq!(outcome.logpath.as_deref(), Some("buk/l")),
            _ => assert_eq!(*outcome, cts_shared::state::job_flow::JobOutcome::default()),
        }
        let record = store.job_record(*id).await.unwrap().unwrap();
        assert_eq!(record.state(), *state);
        assert_eq!(record.containers.len(), 2);
    }
    let listed = store.list_jobs(JobFilter::default(), 100).await.unwrap();
    assert_eq!(listed.len(), JobState::ALL.len());
    assert!(
        listed
            .iter()
            .all(|job| job.job_input.0["runtime"] == "PT1H")
    );
    let canceling = expected.iter().find(|one| one.1 == JobState::Canceling);
    assert_eq!(
        store.pending_jobs(None, 100).await.unwrap(),
        [canceling.unwrap().0]
    );
    // What the other service has not sent is taken from it only when it is old.
    assert_eq!(store.to_send(None, 100).await.unwrap(), []);
    assert_eq!(store.adopt(at(0)).await.unwrap(), 0);
    let adopted = store.adopt(at(100_000)).await.unwrap();
    assert_eq!(adopted, JobState::ALL.len() as u64);
    // What it had not sent, and no more than that.
    let unsent = store.to_send(None, 100).await.unwrap();
    assert_eq!(unsent.len(), JobState::ALL.len());

    // A job that it began goes on here.
    let (id, ..) = expected
        .iter()
        .find(|one| one.1 == JobState::DownloadSubmitted)
        .unwrap();
    for container in 0..2 {
        store
            .change_job(*id, reported(container, JobState::JobSubmitting, at(200)))
            .await
            .unwrap();
    }
    let job = store.job_summary(*id).await.unwrap().unwrap();
    assert_eq!(job.state(), JobState::JobSubmitting);
}

/// It takes no lease: for five minutes, its cluster is its own to note.
#[tokio::test]
async fn a_job_that_the_existing_service_may_be_submitting_is_left_to_it() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let store = database.open().await;
    let ours = insert(&store, 1).await.id;
    let its = JobId::new(Uuid::new_v4());
    let created = [JobState::Created];
    let containers = (0..2).map(|number| old_subjob(its, number, &created));
    let subjobs = database.collection("subjobs").await;
    subjobs.insert_many(containers).await.unwrap();
    let jobs = database.collection("jobs").await;
    jobs.insert_one(old_job(its, &created)).await.unwrap();
    let is_left = async |id, now| {
        let summary = store.job_summary(id).await.unwrap().unwrap();
        let unstarted = store.unstarted_jobs(now, 10).await.unwrap();
        let is_ours_to_start = unstarted.iter().any(|(one, _)| *one == id);
        let is_left = summary.may_be_submitted_by_another(now);
        assert_eq!(is_ours_to_start, !is_left);
        is_left
    };
    assert!(!is_left(ours, at(11)).await);
    assert!(is_left(its, at(101)).await);
    assert!(is_left(its, at(399)).await);
    assert!(!is_left(its, at(401)).await);

    // From our first step on it is ours.
    let queued: JobStep = Box::new(|record| {
        let change = record.queued(at(102));
        change.map_err(|refusal| Error::Internal(refusal.to_string()))
    });
    store.change_job(its, queued).await.unwrap();
    let summary = store.job_summary(its).await.unwrap().unwrap();
    assert!(!summary.may_be_submitted_by_another(at(103)));
}

/// More than are read at a time; and they count once, not each time as long as the broker is away.
#[tokio::test]
async fn what_another_service_left_is_taken_over_once() {
    const JOBS: usize = 600;
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let store = database.open().await;
    insert(&store, 1).await;
    let left: Vec<Document> = (0..JOBS)
        .map(|_| old_job(JobId::new(Uuid::new_v4()), &[JobState::Created]))
        .collect();
    let jobs = database.collection("jobs").await;
    jobs.insert_many(left).await.unwrap();
    assert_eq!(store.to_send(None, 1000).await.unwrap().len(), 1);
    assert_eq!(store.adopt(at(100_000)).await.unwrap(), JOBS as u64);
    let waiting = store.to_send(None, 1000).await.unwrap();
    assert_eq!(waiting.len(), JOBS + 1);
    assert_eq!(store.adopt(at(100_000)).await.unwrap(), 0);
    assert_eq!(store.to_send(None, 1000).await.unwrap(), waiting);
}

/// What the contract's table says of documents, of ones that this service wrote; additions are marked as
/// such.
#[tokio::test]
async fn documents_are_as_the_contract_has_them() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let store = database.open().await;
    let id = insert(&store, 1).await.id;
    let filter = doc! {"id": id.to_string()};
    let names = |document: &Document| -> Vec<String> {
        let mut names: Vec<String> = document.keys().cloned().collect();
        names.retain(|name| name != "_id");
        names.sort();
        names
    };
    let jobs = database.collection("jobs").await;
    let job = jobs.find_one(filter.clone()).await.unwrap().unwrap();
    assert_eq!(
        names(&job),
        [
            "_cts",
            "_retry",
            "_update_time",
            "admin_meta",
            "cleaned",
            "id",
            "image",
            "input_file_count",
            "job_input",
            "state",
            "transition_times",
            "user"
        ]
    );
    let first = job.get_array("transition_times").unwrap()[0]
        .as_document()
        .unwrap();
    assert_eq!(
        names(first),
        ["_retry", "notif_sent", "state", "time", "trans_id"]
    );
    assert_eq!(first.get("time"), Some(&date(10)));
    let input = job.get_document("job_input").unwrap();
    assert_eq!(input.get("runtime"), Some(&Bson::Double(60.0)));
    assert_eq!(input.get("memory"), Some(&Bson::Int64(10_000_000)));
    let image = job.get_document("image").unwrap();
    assert_eq!(image.get("registered_on"), Some(&date(1)));

    let subjobs = database.collection("subjobs").await;
    let subjob = subjobs.find_one(filter.clone()).await.unwrap().unwrap();
    assert_eq!(
        names(&subjob),
        [
            "_update_time",
            "admin_error",
            "exit_code",
            "id",
            "outputs",
            "state",
            "sub_id",
            "traceback",
            "transition_times"
        ]
    );
    let first = subjob.get_array("transition_times").unwrap()[0]
        .as_document()
        .unwrap();
    assert_eq!(names(first), ["_retry", "state", "time"]);

    store
        .change_job(id, reported(0, JobState::Error, at(20)))
        .await
        .unwrap();
    let subjob = subjobs.find_one(filter).await.unwrap().unwrap();
    assert_eq!(subjob.get_str("state").unwrap(), "error");
    assert_eq!(subjob.get_str("admin_error").unwrap(), "broken");
    assert_eq!(subjob.get("_update_time"), Some(&date(20)));
}
