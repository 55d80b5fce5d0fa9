//! Containers whose executor was killed: who removes what, and what is left alone.

use std::collections::BTreeMap;

use cts_executor::container_engine::ContainerSummary;
use cts_executor::container_engine::fake::{FakeEngine, Script};
use cts_executor::labels;
use cts_executor::orphans::process_mark::{Judgement, Machine, ProcessMark};
use cts_executor::orphans::sweep;
use serde_json::json;

use super::bed::{Bed, JOB_ID, Service, job};

const OTHER_JOB: &str = "00000000-0000-4000-8000-000000000000";

fn alive() -> String {
    ProcessMark::of_this_process().unwrap().to_string()
}

/// A process of an earlier boot of this machine, so certainly gone.
fn dead() -> String {
    let alive = alive();
    let (_boot, process) = alive.split_once('/').unwrap();
    format!("00000000-0000-0000-0000-000000000000/{process}")
}

/// `id`, of that job, whose executor is that process if any.
fn container(id: &str, job: &str, process: Option<&str>) -> ContainerSummary {
    let mut labels = BTreeMap::from([
        (labels::JOB.to_owned(), job.to_owned()),
        (labels::CONTAINER.to_owned(), "0".to_owned()),
        (labels::INSTANCE.to_owned(), "another".to_owned()),
    ]);
    labels.extend(process.map(|mark| (labels::PROCESS.to_owned(), mark.to_owned())));
    ContainerSummary {
        id: id.to_owned(),
        name: format!("cts-{id}"),
        state: "running".to_owned(),
        labels,
    }
}

fn script(leftovers: Vec<ContainerSummary>) -> Script {
    Script {
        leftovers,
        ..Script::default()
    }
}

fn left(engine: &FakeEngine) -> Vec<String> {
    let containers = engine.containers();
    containers.into_iter().map(|left| left.id).collect()
}

async fn run(counts_attempts: bool, leftovers: Vec<ContainerSummary>) -> Vec<String> {
    let document = job(&json!({}), &["buk/a/x"], 1, "buk/out");
    let answers = BTreeMap::new();
    let service = if counts_attempts {
        Service::counting_attempts(document, answers)
    } else {
        Service::new(document, answers, false)
    };
    let mut bed = Bed::new(service, script(leftovers)).await;
    bed.stepped = Some(std::sync::Arc::default());
    bed.put("buk/a/x", b"");
    assert_eq!(bed.run().await.code(), 0);
    left(&bed.engine)
}

/// The same container: whoever the service has made current has it alone. Where nobody is made current, an
/// executor that lives keeps its container.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_same_container_only_one_of_a_living_executor_may_stay() {
    let leftovers = || {
        let alive = alive();
        vec![
            container("alive", JOB_ID, Some(&alive)),
            container("dead", JOB_ID, Some(&dead())),
            container("unknown", JOB_ID, None),
        ]
    };
    assert_eq!(run(true, leftovers()).await, Vec::<String>::new());
    assert_eq!(run(false, leftovers()).await, ["alive"]);
}

/// This executor stood still after it got its number, and another has begun since: that one's container is
/// not an orphan.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_same_container_a_later_attempts_stays() {
    let of_attempt = |number: u32| {
        let mut container = container(&number.to_string(), JOB_ID, None);
        let label = (labels::ATTEMPT.to_owned(), number.to_string());
        container.labels.extend([label]);
        container
    };
    // This run is attempt 1.
    assert_eq!(run(true, vec![of_attempt(1), of_attempt(2)]).await, ["2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_other_containers_only_those_of_the_dead_go() {
    let alive = alive();
    let leftovers = vec![
        container("alive", OTHER_JOB, Some(&alive)),
        container("dead", OTHER_JOB, Some(&dead())),
        container("unknown", OTHER_JOB, None),
        container("garbled", OTHER_JOB, Some("x")),
    ];
    assert_eq!(run(true, leftovers).await, ["alive", "garbled", "unknown"]);
}

#[tokio::test]
async fn a_dry_run_judges_and_removes_nothing() {
    let engine = FakeEngine::new(script(vec![container("dead", OTHER_JOB, Some(&dead()))]));
    let machine = Machine::here(true).unwrap();
    let findings = sweep(&engine, &machine, true).await.unwrap();
    assert!(matches!(findings[0].judgement, Judgement::Dead(_)));
    assert_eq!(left(&engine), ["dead"]);
    sweep(&engine, &machine, false).await.unwrap();
    assert_eq!(left(&engine), Vec::<String>::new());
}

/// Another boot may be another machine's where the engine serves several.
#[tokio::test]
async fn an_engine_elsewhere_has_executors_that_cannot_be_judged() {
    let engine = FakeEngine::new(script(vec![container("dead", OTHER_JOB, Some(&dead()))]));
    let machine = Machine::here(false).unwrap();
    sweep(&engine, &machine, false).await.unwrap();
    assert_eq!(left(&engine), ["dead"]);
}
