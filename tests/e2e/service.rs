//! Jobs through the real service: submitted over REST, run by executors of its `local` site.

use std::time::Duration;

use cts_tests::object_store::crc64nvme;
use cts_tests::service_process::{As, Launch};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Case, GOOD_STATES, TestService, eventually, states};

const JOB_DEADLINE: Duration = Duration::from_secs(90);

/// Submits the case's job to the local site and waits for its end.
async fn run(case: &Case, service: &TestService) -> Value {
    let id = service.submit(case, "local").await;
    service.end_of(&id, JOB_DEADLINE).await
}

#[tokio::test]
async fn a_job_of_two_containers_completes() {
    let case = Case::new("service", &["copy_inputs"]).await.containers(2);
    let case = case.input("a.txt", b"a").await.input("b.txt", b"b").await;
    let service = TestService::start(&case, Launch::development()).await;
    let job = run(&case, &service).await;

    assert_eq!(states(&job), GOOD_STATES, "{job}");
    let mut outputs = job["outputs"].as_array().unwrap().clone();
    outputs.sort_by_key(|output| output["file"].as_str().map(str::to_owned));
    let expected = [("a.txt", b"a"), ("b.txt", b"b")].map(|(name, content)| {
        json!({ "file": case.output_path(name), "crc64nvme": crc64nvme(content) })
    });
    assert_eq!(outputs, expected, "{job}");
    service.stop().await;
}

#[tokio::test]
async fn a_failing_container_ends_the_job_in_an_error_with_its_exit_code() {
    let case = Case::new("service-fails", &["complain oh", "exit 3"]).await;
    let case = case.input("a.txt", b"a").await;
    let service = TestService::start(&case, Launch::development()).await;
    let job = run(&case, &service).await;

    assert_eq!(states(&job).last(), Some(&"error"), "{job}");
    let text = job["error"].as_str().unwrap_or_default().to_owned()
        + job["admin_error"].as_str().unwrap_or_default();
    assert!(!text.is_empty(), "a reason: {job}");
    service.stop().await;
}

#[tokio::test]
async fn a_canceled_job_loses_its_container() {
    let case = Case::new("service-cancel", &["started_and_waiting"]).await;
    let case = case.input("a.txt", b"a").await;
    let service = TestService::start(&case, Launch::development()).await;
    let id = service.submit(&case, "local").await;
    service
        .wait_for(&id, &["job_submitted"], JOB_DEADLINE)
        .await;
    eventually("a container", JOB_DEADLINE, async || {
        let containers = case.containers_of(&id).await;
        if containers.is_empty() {
            Err("none".to_owned())
        } else {
            Ok(())
        }
    })
    .await;

    let path = format!("/jobs/{id}/cancel");
    service.call(As::User, Method::PUT, &path, None).await;
    let within = Duration::from_secs(60);
    let job = service.wait_for(&id, &["canceled"], within).await;
    assert_eq!(
        states(&job)[states(&job).len() - 2..],
        ["canceling", "canceled"],
        "{job}"
    );
    case.no_container_of(&id).await;
    service.stop().await;
}
