//! A state update whose answer was lost is not a failed job, whether the service knows repeats or, as
//! the existing one, refuses them.

use std::collections::BTreeMap;

use cts_executor::container_engine::fake::Script;
use cts_executor::object_store::ObjectStore;
use cts_executor::object_store::memory::MemoryStore;
use serde_json::json;

use super::bed::{Answer, Bed, Service, job};

fn service(answers: BTreeMap<usize, Answer>, refuse_repeats: bool) -> std::sync::Arc<Service> {
    Service::new(
        job(&json!({}), &["buk/a/x"], 1, "buk/out"),
        answers,
        refuse_repeats,
    )
}

async fn bed(service: std::sync::Arc<Service>) -> Bed {
    let bed = Bed::new(service, Script::default()).await;
    bed.put("buk/a/x", b"");
    bed
}

const STATES: [&str; 5] = [
    "job_submitting",
    "job_submitted",
    "upload_submitting",
    "upload_submitted",
    "complete",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_update_survives_the_loss_of_its_answer() {
    for refuse_repeats in [false, true] {
        for (index, state) in STATES.iter().enumerate() {
            // A repeat, and with the existing service a question about the job, follow the loss.
            let lost = BTreeMap::from([(index + 3, Answer::Lost)]);
            let bed = bed(service(lost, refuse_repeats)).await;
            let status = bed.run().await;
            assert_eq!(status.code(), 0, "{state} {refuse_repeats}");
            let mut expected: Vec<&str> = STATES.to_vec();
            expected.insert(index, state);
            assert_eq!(bed.service.reported(), expected);
            bed.assert_nothing_left();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_at_the_first_try_is_a_refusal() {
    let refused = BTreeMap::from([(
        3,
        Answer::Error {
            status: 404,
            appcode: Some(40050),
        },
    )]);
    let bed = bed(service(refused, true)).await;
    assert_eq!(bed.run().await.code(), 1);
    assert_eq!(bed.service.reported(), ["job_submitting", "error"]);
    assert_eq!(
        bed.engine.specs(),
        [],
        "the container was started all the same"
    );
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_was_cancelled_meanwhile_is_left_alone() {
    // The answer is lost, and when asked again the job is cancelled.
    let answers = BTreeMap::from([
        (5, Answer::Lost),
        (
            6,
            Answer::Error {
                status: 404,
                appcode: Some(40050),
            },
        ),
    ]);
    let service = service(answers, false);
    let bed = bed(std::sync::Arc::clone(&service)).await;
    // The run fetches the job at call 2; nothing else looks at the job's state before call 6.
    let run = bed.run();
    let cancel = async {
        let deadline = tokio::time::Instant::now() + super::bed::DEADLINE;
        while service.calls().len() < 2 {
            assert!(
                tokio::time::Instant::now() < deadline,
                "the job was never fetched"
            );
            tokio::task::yield_now().await;
        }
        service.set_job_state("canceling");
    };
    let (status, ()) = tokio::join!(run, cancel);
    assert_eq!(status.code(), 0);
    assert_eq!(
        bed.objects("buk/out"),
        Vec::<String>::new(),
        "outputs were published"
    );
    assert!(!bed.service.reported().contains(&"error".to_owned()));
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_has_ended_before_the_start_is_left_alone() {
    let service = service(BTreeMap::new(), false);
    service.set_job_state("canceled");
    let bed = bed(service).await;
    assert_eq!(bed.run().await.code(), 0);
    assert_eq!(bed.service.reported(), Vec::<String>::new());
}

/// A failure of a job that was cancelled meanwhile is nobody's business any more: exit status 0, so
/// that `HTCondor` does not hold it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_that_the_cancelled_job_refuses_is_not_a_failure() {
    let refused = || Answer::Error {
        status: 404,
        appcode: Some(40050),
    };
    let answers = BTreeMap::from([(4, refused()), (5, refused())]);
    let service = service(answers, false);
    let bed = bed(std::sync::Arc::clone(&service)).await;
    let store = std::sync::Arc::clone(&bed.store);
    // After the job was fetched and before the first report.
    let cancel_and_open = move || {
        service.set_job_state("canceling");
        Ok(std::sync::Arc::<MemoryStore>::clone(&store) as std::sync::Arc<dyn ObjectStore>)
    };
    let status = bed.run_over(Box::new(cancel_and_open)).await;
    assert_eq!(
        bed.service.reported(),
        ["job_submitting", "job_submitted", "error"]
    );
    assert_eq!(status.code(), 0);
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_without_the_right_is_read_again_from_its_file() {
    let refused = Answer::Error {
        status: 403,
        appcode: Some(20000),
    };
    let mut bed = bed(service(BTreeMap::from([(3, refused)]), false)).await;
    let secrets = tempfile::tempdir().unwrap();
    let path = secrets.path().join("token");
    std::fs::write(&path, "old").unwrap();
    bed.set("TOKEN_PATH", path.to_str().unwrap());
    let store = std::sync::Arc::clone(&bed.store);
    // After the job was fetched and before the first report.
    let rotate_and_open = move || {
        std::fs::write(&path, "new").unwrap();
        Ok(std::sync::Arc::<MemoryStore>::clone(&store) as std::sync::Arc<dyn ObjectStore>)
    };
    let status = bed.run_over(Box::new(rotate_and_open)).await;
    assert_eq!(status.code(), 0, "{:?}", bed.service.calls());
    let tokens: Vec<String> = bed
        .service
        .calls()
        .into_iter()
        .map(|call| call.auth)
        .collect();
    assert_eq!(tokens[2..4], ["Bearer old", "Bearer new"]);
}
