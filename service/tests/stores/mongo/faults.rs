//! Lost answers, other writers at the same moment, a server that does not answer.

use std::io::Write;
use std::time::{Duration, Instant};

use mongodb::bson::{Bson, Document, doc};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use cts_service::error::Error;
use cts_service::image_store::{ImageStore, Inserted};
use cts_service::job_store::{JobFilter, JobStore, StoreError};
use cts_service::lease_store::{Lease, LeaseRequest, LeaseStore};
use cts_service::mongo::{MongoSettings, MongoStore};
use cts_service::outbox::Outbox;
use cts_shared::state::JobState;
use cts_shared::state::job_flow::{Change, Pending};
use cts_shared::wire::image::Image;
use cts_shared::wire::job::S3File;

use super::{TestDatabase, date};
use crate::fixtures::{at, insert, new_job, reported};

/// A write that is carried out, and its answer says that this is not known.
fn lost() -> Document {
    doc! {"writeConcernError": {"code": 64, "errmsg": "no majority in time"}}
}

/// Outputs that have documents of their own must not be removed because it is not known whether they are
/// named.
#[tokio::test(flavor = "multi_thread")]
async fn outputs_survive_a_lost_answer_and_a_faster_service() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let other = database.open().await;
    let mut named = TestDatabase {
        url: database.url.clone(),
        name: database.name.clone(),
        is_dropped: false,
        fail_point: None,
    };
    named.name_calls().await;
    let store = named.open().await;
    let id = insert(&store, 2).await.id;
    let outputs: Vec<S3File> = (0..20_000)
        .map(|number| S3File {
            file: format!("buk/out/{}/{number}", "a".repeat(50)),
            crc64nvme: None,
        })
        .collect();
    let mode = doc! {"times": 3};
    named.fail("update", mode.into(), lost()).await;
    let written = outputs.clone();
    let step = tokio::spawn(async move {
        store
            .change_job(
                id,
                Box::new(move |record| {
                    if record.containers[0].outputs.is_some() {
                        return Ok(Change::default());
                    }
                    record.containers[0].outputs = Some(written.clone());
                    Ok(Change {
                        container: Some(0),
                        ..Change::default()
                    })
                }),
            )
            .await
    });
    let begun = Instant::now();
    loop {
        let record = other.job_record(id).await.unwrap().unwrap();
        if record.containers[0].outputs.is_some() {
            break;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "the update arrives"
        );
    }
    other
        .change_job(id, reported(1, JobState::JobSubmitting, at(20)))
        .await
        .unwrap();
    let changed = step.await.unwrap().unwrap().unwrap();
    assert_eq!(changed.container, Some(0), "it was this call");
    let record = other.job_record(id).await.unwrap().unwrap();
    assert_eq!(record.containers[0].outputs.as_ref(), Some(&outputs));
}

/// The existing service ends a container while a step here ends the other: it does not see ours yet, and does
/// not touch the job.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_two_containers_may_end_in_two_services() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let store = database.open().await;
    let id = insert(&store, 2).await.id;
    for container in 0..2 {
        for (state, second) in [
            (JobState::JobSubmitting, 20),
            (JobState::JobSubmitted, 21),
            (JobState::UploadSubmitting, 22),
            (JobState::UploadSubmitted, 23),
        ] {
            let step = reported(container, state, at(second));
            store.change_job(id, step).await.unwrap();
        }
    }
    let subjobs = database.collection("subjobs").await;
    let runtime = tokio::runtime::Handle::current();
    let last = reported(0, JobState::Complete, at(24));
    let change = store
        .change_job(
            id,
            Box::new(move |record| {
                let ended = doc! {
                    "$set": {"state": "complete", "outputs": [{"file": "buk/out/b"}]},
                    "$push": {"transition_times": {
                        "state": "complete", "time": date(24), "_retry": 0,
                    }},
                };
                let other = doc! {"id": id.to_string(), "sub_id": 1, "state": "upload_submitted"};
                let update = async { subjobs.update_one(other, ended).await };
                let ended = std::thread::scope(|scope| {
                    scope.spawn(|| runtime.block_on(update)).join().unwrap()
                });
                assert_eq!(ended.unwrap().matched_count, 1);
                last(record)
            }),
        )
        .await
        .unwrap()
        .unwrap();
    assert_eq!(change.pending, Some(Pending::Complete));
    assert_eq!(store.pending_jobs(None, 10).await.unwrap(), [id]);
}

/// The same, and the service dies before it looks: the report comes again.
#[tokio::test]
async fn what_is_pending_is_found_when_the_last_report_comes_again() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let store = database.open().await;
    let id = insert(&store, 1).await.id;
    let error = || reported(0, JobState::Error, at(20));
    store.change_job(id, error()).await.unwrap();
    let jobs = database.collection("jobs").await;
    let forgotten = doc! {"$set": {"_cts.pending": false}};
    jobs.update_one(doc! {"id": id.to_string()}, forgotten)
        .await
        .unwrap();
    let again = store.change_job(id, error()).await.unwrap().unwrap();
    assert_eq!(again.pending, Some(Pending::Error));
    assert_eq!(store.pending_jobs(None, 10).await.unwrap(), [id]);
}

/// A container whose document is gone must not make a job end without its outputs.
#[tokio::test]
async fn a_job_without_its_last_container_is_not_changed() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let store = database.open().await;
    let id = insert(&store, 3).await.id;
    let subjobs = database.collection("subjobs").await;
    let last = doc! {"id": id.to_string(), "sub_id": 2};
    subjobs.delete_one(last).await.unwrap();
    let step = reported(0, JobState::JobSubmitting, at(20));
    let error = store.change_job(id, step).await.unwrap_err();
    assert!(error.to_string().contains("container 2"), "{error}");
}

/// What the server gives up in the midst of a query, another try may answer.
#[tokio::test]
async fn a_query_that_the_server_gave_up_is_made_again() {
    let Some(mut database) = TestDatabase::new() else {
        return;
    };
    database.name_calls().await;
    let store = database.open().await;
    let job = insert(&store, 1).await;
    // Cursor not found, time exceeded, plan killed.
    for code in [43, 50, 175] {
        let once = doc! {"times": 1};
        let failure = doc! {"errorCode": code};
        database.fail("find", once.into(), failure).await;
        let record = store.job_record(job.id).await.unwrap();
        assert_eq!(record.as_ref(), Some(&job.record), "{code}");
    }
}

/// A backup of which only the containers were restored: that others change the job would be no help.
#[tokio::test]
async fn a_job_older_than_its_containers_is_named_as_restored_in_part() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let store = database.open().await;
    let id = insert(&store, 2).await.id;
    let subjobs = database.collection("subjobs").await;
    let newer = doc! {"$set": {"_cts.version": 9_i64}};
    let one = doc! {"id": id.to_string(), "sub_id": 1};
    subjobs.update_one(one, newer).await.unwrap();
    let read = store.job_record(id).await.unwrap_err();
    assert!(matches!(read, StoreError::Corrupt { .. }), "{read}");
    let step = reported(0, JobState::JobSubmitting, at(20));
    let changed = store.change_job(id, step).await.unwrap_err();
    assert!(matches!(changed, Error::Internal(_)), "{changed}");
    for error in [read.to_string(), changed.to_string()] {
        assert!(error.contains(&id.to_string()), "{error}");
        assert!(error.contains("backup"), "{error}");
    }
}

#[tokio::test]
async fn an_image_and_a_lease_are_the_askers_after_a_lost_answer() {
    let Some(mut database) = TestDatabase::new() else {
        return;
    };
    database.name_calls().await;
    let store = database.open().await;
    let image = Image {
        image: new_job(0).image,
        urls: None,
        usage_notes: None,
    };
    let once = || Bson::from(doc! {"times": 1});
    database.fail("insert", once(), lost()).await;
    let inserted = store.insert_image(image.clone()).await.unwrap();
    assert_eq!(inserted, Inserted::Yes);
    let again = store.insert_image(image).await.unwrap();
    assert_eq!(again, Inserted::TagExists);

    database.fail("insert", once(), lost()).await;
    let request = |holder: &str| LeaseRequest {
        name: "sweep".to_owned(),
        holder: holder.to_owned(),
        now: at(0),
        until: at(10),
    };
    let lease = store.take_lease(request("a")).await.unwrap();
    assert_eq!(lease, Lease::Fresh);
    let lease = store.take_lease(request("b")).await.unwrap();
    assert_eq!(lease, Lease::Held);
}

/// What stands between store and server. While it stalls, bytes are taken and not passed on.
struct Proxy {
    port: u16,
    stalled: watch::Sender<bool>,
}

impl Proxy {
    async fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stalled = watch::Sender::new(false);
        let state = stalled.clone();
        tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let (server, mut stall, mut resume) =
                    (server.clone(), state.subscribe(), state.subscribe());
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(server).await.unwrap();
                    tokio::select! {
                        _ended = copy_bidirectional(&mut client, &mut server) => return,
                        _stalled = stall.wait_for(|stalled| *stalled) => {}
                    }
                    // Open, and silent. Then both ends see it closed, as after a restart.
                    let _sender = resume.wait_for(|stalled| !*stalled).await;
                });
            }
        });
        Self { port, stalled }
    }
}

/// The driver alone would wait for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_is_unavailable_in_time_and_used_again_after() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let proxy = Proxy::start(database.address()).await;
    let store = MongoStore::open(&MongoSettings {
        host: format!(
            "mongodb://127.0.0.1:{}/?retryWrites=false&directConnection=true",
            proxy.port
        ),
        database: database.name.clone(),
        credentials: None,
        retry_writes: false,
    })
    .await
    .unwrap();
    let id = insert(&store, 1).await.id;
    proxy.stalled.send_replace(true);
    let begun = Instant::now();
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let store = store.clone();
            let step = reported(0, JobState::JobSubmitting, at(20));
            tokio::spawn(async move { store.change_job(id, step).await })
        })
        .collect();
    let status = store.job_summary(id).await.unwrap_err();
    assert!(matches!(status, StoreError::Unavailable { .. }), "{status}");
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(90), "{took:?}");

    proxy.stalled.send_replace(false);
    let step = reported(0, JobState::JobSubmitting, at(20));
    store.change_job(id, step).await.unwrap();
    let record = store.job_record(id).await.unwrap().unwrap();
    assert_eq!(record.state(), JobState::JobSubmitting);
    assert_eq!(record.transitions.len(), 3, "nothing twice");
    let events = store.events_after(None, None, 10).await.unwrap().unwrap();
    assert_eq!(events.len(), 3);
}

/// One document that nobody can read must not keep all others from everybody.
#[tokio::test]
async fn what_cannot_be_read_is_left_out_of_lists() {
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let store = database.open().await;
    let bad = insert(&store, 1).await.id;
    let good = insert(&store, 1).await.id;
    let jobs = database.collection("jobs").await;
    let unreadable = doc! {"$set": {"transition_times.0.time": "yesterday", "_cts.unlogged": true}};
    jobs.update_one(doc! {"id": bad.to_string()}, unreadable)
        .await
        .unwrap();
    jobs.insert_one(doc! {"id": "no-id", "state": "created", "_update_time": date(1)})
        .await
        .unwrap();
    let images = database.collection("images").await;
    images.insert_one(doc! {"name": 7}).await.unwrap();

    let listed = store.list_jobs(JobFilter::default(), 10).await.unwrap();
    let listed: Vec<_> = listed.iter().map(|job| job.summary.id).collect();
    assert_eq!(listed, [good]);
    let unstarted = store.unstarted_jobs(at(100_000), 10).await.unwrap();
    assert!(unstarted.iter().any(|one| one.0 == good), "{unstarted:?}");
    assert_eq!(store.images().await.unwrap(), []);
    let events = store.events_after(None, None, 10).await.unwrap().unwrap();
    assert!(events.iter().any(|event| event.job_id == good));
    let error = store.job(bad).await.unwrap_err();
    assert!(error.to_string().contains(&bad.to_string()), "{error}");
}

/// The server is killed and started again while two services work. Run by hand: `CTS_TEST_MONGO_RESTART` is a
/// shell command that does that, some seconds after it was started itself, over the same data and on the same port.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_under_load_loses_and_doubles_nothing() {
    const JOBS: usize = 40;
    let Ok(restart) = std::env::var("CTS_TEST_MONGO_RESTART") else {
        let text = b"SKIPPED: MongoDB killed under load; CTS_TEST_MONGO_RESTART has no command\n";
        std::io::stderr().write_all(text).unwrap();
        return;
    };
    let Some(database) = TestDatabase::new() else {
        return;
    };
    let stores = [database.open().await, database.open().await];
    let mut ids = Vec::new();
    for number in 0..JOBS {
        ids.push(insert(&stores[number % 2], 2).await.id);
    }
    let states = [
        JobState::JobSubmitting,
        JobState::JobSubmitted,
        JobState::UploadSubmitting,
        JobState::UploadSubmitted,
        JobState::Complete,
    ];
    let work: Vec<_> = ids
        .iter()
        .flat_map(|id| [0, 1].map(|container| (*id, container)))
        .map(|(id, container)| {
            let stores = stores.clone();
            tokio::spawn(async move {
                for (state, second) in states.into_iter().zip(20..) {
                    for attempt in 0_usize.. {
                        let step = reported(container, state, at(second));
                        match stores[attempt % 2].change_job(id, step).await {
                            Ok(_) => break,
                            Err(Error::Unavailable { .. }) if attempt < 20 => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            })
        })
        .collect();
    let status = tokio::process::Command::new("sh")
        .args(["-c", &restart])
        .status()
        .await
        .unwrap();
    assert!(status.success());
    for one in work {
        one.await.unwrap();
    }
    let mut events = stores[0]
        .events_after(None, None, 1000)
        .await
        .unwrap()
        .unwrap();
    for id in &ids {
        let record = stores[1].job_record(*id).await.unwrap().unwrap();
        assert_eq!(record.pending(), Some(Pending::Complete));
        let entered: Vec<JobState> = record.transitions.iter().map(|one| one.state).collect();
        let told: Vec<JobState> = events
            .iter()
            .filter(|event| event.job_id == *id)
            .map(|event| event.state)
            .collect();
        assert_eq!(told, entered);
    }
    let count = events.len();
    events.sort_by(|a, b| a.trans_id.cmp(&b.trans_id));
    events.dedup_by(|a, b| a.trans_id == b.trans_id);
    assert_eq!(events.len(), count, "nothing twice");
    let mut pending = stores[0].pending_jobs(None, 1000).await.unwrap();
    pending.sort();
    ids.sort();
    assert_eq!(pending, ids);
}
