//! SIGTERM and SIGINT in every phase: the container stopped and removed, nothing reported, nothing
//! left, exit status 128 + signal (contract executor.md, section 5).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cts_executor::container_engine::fake::{Call, End, Script};
use cts_executor::object_store::ObjectStore;
use cts_executor::object_store::faulty::{Fault, FaultyStore, Operation};
use cts_executor::object_store::memory::MemoryStore;
use serde_json::json;

use super::bed::{Answer, Bed, JOB_ID, Service, eventually, job};

async fn bed(script: Script, answers: BTreeMap<usize, Answer>) -> Bed {
    let document = job(&json!({}), &["buk/a/x"], 1, "buk/out");
    let bed = Bed::new(Service::new(document, answers, false), script).await;
    bed.put("buk/a/x", b"");
    bed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_container_runs() {
    for signal in [15, 2] {
        let bed = bed(
            Script {
                end: End::WhenStopped,
                ..Script::default()
            },
            BTreeMap::new(),
        )
        .await;
        let stop = async {
            bed.engine.wait_started(1).await;
            eventually("the report", || bed.service.reported().len() == 2).await;
            bed.shutdown.request(signal);
        };
        let (status, ()) = tokio::join!(bed.run(), stop);
        assert_eq!(status.code(), 128 + signal);
        assert_eq!(bed.service.reported(), ["job_submitting", "job_submitted"]);
        let grace = Duration::from_secs(10);
        let stopped = |call: &Call| matches!(call, Call::Stop(_, given) if *given == grace);
        assert!(
            bed.engine.calls().iter().any(stopped),
            "{:?}",
            bed.engine.calls()
        );
        bed.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_inputs_hang() {
    let bed = bed(Script::default(), BTreeMap::new()).await;
    let memory: Arc<dyn ObjectStore> = Arc::<MemoryStore>::clone(&bed.store);
    let hanging: Arc<FaultyStore> =
        Arc::new(FaultyStore::new(memory).always(Operation::Get, Fault::Stall));
    let opened: Arc<dyn ObjectStore> = Arc::<FaultyStore>::clone(&hanging);
    let stop = async {
        eventually("the download", || hanging.calls().contains(&Operation::Get)).await;
        bed.shutdown.request(15);
    };
    let (status, ()) = tokio::join!(
        bed.run_over(Box::new(move || Ok(Arc::clone(&opened)))),
        stop
    );
    assert_eq!(status.code(), 143);
    assert_eq!(bed.service.reported(), Vec::<String>::new());
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_outputs_hang() {
    let script = Script {
        writes: vec![("/output_files/a".to_owned(), b"1".to_vec())],
        ..Script::default()
    };
    let bed = bed(script, BTreeMap::new()).await;
    let memory: Arc<dyn ObjectStore> = Arc::<MemoryStore>::clone(&bed.store);
    let hanging: Arc<FaultyStore> =
        Arc::new(FaultyStore::new(memory).always(Operation::Put, Fault::Stall));
    let opened: Arc<dyn ObjectStore> = Arc::<FaultyStore>::clone(&hanging);
    let stop = async {
        eventually("the upload", || hanging.calls().contains(&Operation::Put)).await;
        bed.shutdown.request(15);
    };
    let (status, ()) = tokio::join!(
        bed.run_over(Box::new(move || Ok(Arc::clone(&opened)))),
        stop
    );
    assert_eq!(status.code(), 143);
    assert!(!bed.service.reported().contains(&"complete".to_owned()));
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_anything_began() {
    let bed = bed(Script::default(), BTreeMap::new()).await;
    bed.shutdown.request(15);
    assert_eq!(bed.run().await.code(), 143);
    assert_eq!(bed.service.reported(), Vec::<String>::new());
    bed.assert_nothing_left();
}

/// Stops, removes and waits that never answer: all together end ten seconds after the grace.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_engine_hangs() {
    let script = Script {
        end: End::EngineHangs,
        ..Script::default()
    };
    let mut bed = bed(script, BTreeMap::new()).await;
    bed.set("CTS_STOP_GRACE_SECS", "0");
    let stop = async {
        bed.engine.wait_started(1).await;
        bed.shutdown.request(15);
        tokio::time::Instant::now()
    };
    let (status, since) = tokio::join!(bed.run(), stop);
    assert_eq!(status.code(), 143);
    // With what a busy machine adds.
    assert!(since.elapsed() < Duration::from_secs(20), "{since:?}");
    assert!(!bed.service.reported().contains(&"error".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_report_of_an_unusable_directory_hangs() {
    let bed = bed(Script::default(), BTreeMap::from([(3, Answer::Never)])).await;
    let log = format!("cts-{JOB_ID}-0-container.out");
    std::fs::create_dir(bed.path().join(log)).unwrap();
    let stop = async {
        eventually("the report", || bed.service.reported() == ["error"]).await;
        bed.shutdown.request(15);
    };
    let (status, ()) = tokio::join!(bed.run(), stop);
    assert_eq!(status.code(), 143);
}

/// HTCondor's grace, less what cleaning up may take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_container_runs_and_htcondor_grants_less_than_our_grace() {
    let script = Script {
        end: End::WhenStopped,
        ..Script::default()
    };
    let mut bed = bed(script, BTreeMap::new()).await;
    let ad = bed.path().join(".job.ad");
    std::fs::write(&ad, "JobStatus = 2\nJobMaxVacateTime = 13\n").unwrap();
    bed.set("_CONDOR_JOB_AD", ad.to_str().unwrap());
    let stop = async {
        bed.engine.wait_started(1).await;
        bed.shutdown.request(15);
    };
    let (status, ()) = tokio::join!(bed.run(), stop);
    assert_eq!(status.code(), 143);
    let grace = Duration::from_secs(3);
    let stopped = |call: &Call| matches!(call, Call::Stop(_, given) if *given == grace);
    let calls = bed.engine.calls();
    assert!(calls.iter().any(stopped), "{calls:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_logs_hang() {
    let script = Script {
        end: End::Exit {
            code: 3,
            oom_killed: false,
        },
        stdout: b"said".to_vec(),
        ..Script::default()
    };
    let bed = bed(script, BTreeMap::new()).await;
    let memory: Arc<dyn ObjectStore> = Arc::<MemoryStore>::clone(&bed.store);
    let hanging: Arc<FaultyStore> =
        Arc::new(FaultyStore::new(memory).always(Operation::Put, Fault::Stall));
    let opened: Arc<dyn ObjectStore> = Arc::<FaultyStore>::clone(&hanging);
    let stop = async {
        eventually("the upload", || hanging.calls().contains(&Operation::Put)).await;
        bed.shutdown.request(15);
    };
    let (status, ()) = tokio::join!(
        bed.run_over(Box::new(move || Ok(Arc::clone(&opened)))),
        stop
    );
    assert_eq!(status.code(), 143);
    assert!(!bed.service.reported().contains(&"error".to_owned()));
    bed.assert_nothing_left();
}

/// Image and inputs are there; the container may not start before the service agrees.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_first_report_hangs() {
    let bed = bed(Script::default(), BTreeMap::from([(3, Answer::Never)])).await;
    let stop = async {
        eventually("the report", || bed.service.reported().len() == 1).await;
        bed.shutdown.request(15);
    };
    let (status, ()) = tokio::join!(bed.run(), stop);
    assert_eq!(status.code(), 143);
    assert_eq!(bed.engine.specs(), []);
    bed.assert_nothing_left();
}
