//! Jobs through the real service: submitted over REST, run by executors of its `local` site.

use std::time::Duration;

use cts_tests::object_store::crc64nvme;
use cts_tests::service_process::{As, ServiceProcess};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Case, eventually};

const JOB_DEADLINE: Duration = Duration::from_secs(90);

/// A service of the test's own, and its directory.
async fn service(case: &Case) -> (ServiceProcess, TempDir) {
    let dir = tempfile::Builder::new()
        .prefix("cts-e2e-service-")
        .tempdir()
        .unwrap();
    let log = dir.path().join("service.log");
    let started = ServiceProcess::start(case.testbed, &dir.path().join("data"), &log).await;
    (started.unwrap_or_else(|error| panic!("{error}")), dir)
}

async fn call(
    service: &ServiceProcess,
    who: As,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Value {
    let answer = service.call(who, method, path, body).await;
    answer.unwrap_or_else(|error| panic!("{error}"))
}

/// Registers the image and submits the case's job to the local site. Returns its id.
async fn submit(case: &Case, service: &ServiceProcess) -> String {
    let mut body = case.job()["job_input"].clone();
    body["cluster"] = json!("local");
    let image = format!("/admin/images/{}", case.testbed.images.test_tool.tagged());
    call(service, As::Admin, Method::POST, &image, None).await;
    let submitted = call(service, As::User, Method::POST, "/jobs", Some(&body)).await;
    submitted["job_id"].as_str().unwrap().to_owned()
}

/// Waits until the job is in one of the states, and returns it.
async fn wait_for(
    service: &ServiceProcess,
    id: &str,
    states: &[&str],
    deadline: Duration,
) -> Value {
    let path = format!("/admin/jobs/{id}");
    eventually("the job's state", deadline, async || {
        let job = call(service, As::Admin, Method::GET, &path, None).await;
        let state = job["state"].as_str().unwrap_or_default().to_owned();
        if states.contains(&state.as_str()) {
            Ok(job)
        } else {
            Err(state)
        }
    })
    .await
}

/// Submits the case's job and waits for its end.
async fn run(case: &Case, service: &ServiceProcess) -> Value {
    let id = submit(case, service).await;
    wait_for(
        service,
        &id,
        &["complete", "error", "canceled"],
        JOB_DEADLINE,
    )
    .await
}

fn states(job: &Value) -> Vec<&str> {
    let transitions = job["transition_times"].as_array().unwrap();
    transitions
        .iter()
        .map(|transition| transition["state"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_job_of_two_containers_completes() {
    let case = Case::new("service", &["copy_inputs"]).await.containers(2);
    let case = case.input("a.txt", b"a").await.input("b.txt", b"b").await;
    let (service, _dir) = service(&case).await;
    let job = run(&case, &service).await;

    assert_eq!(
        states(&job),
        [
            "created",
            "download_submitted",
            "job_submitting",
            "job_submitted",
            "upload_submitting",
            "upload_submitted",
            "complete"
        ],
        "{job}"
    );
    let mut outputs = job["outputs"].as_array().unwrap().clone();
    outputs.sort_by_key(|output| output["file"].as_str().map(str::to_owned));
    let expected = [("a.txt", b"a"), ("b.txt", b"b")].map(|(name, content)| {
        json!({ "file": case.output_path(name), "crc64nvme": crc64nvme(content) })
    });
    assert_eq!(outputs, expected, "{job}");
    service.stop().await.unwrap();
}

#[tokio::test]
async fn a_failing_container_ends_the_job_in_an_error_with_its_exit_code() {
    let case = Case::new("service-fails", &["complain oh", "exit 3"]).await;
    let case = case.input("a.txt", b"a").await;
    let (service, _dir) = service(&case).await;
    let job = run(&case, &service).await;

    assert_eq!(states(&job).last(), Some(&"error"), "{job}");
    let text = job["error"].as_str().unwrap_or_default().to_owned()
        + job["admin_error"].as_str().unwrap_or_default();
    assert!(!text.is_empty(), "a reason: {job}");
    service.stop().await.unwrap();
}

#[tokio::test]
async fn a_canceled_job_loses_its_container_within_seconds() {
    let case = Case::new("service-cancel", &["started_and_waiting"]).await;
    let case = case.input("a.txt", b"a").await;
    let (service, _dir) = service(&case).await;
    let id = submit(&case, &service).await;
    wait_for(&service, &id, &["job_submitted"], JOB_DEADLINE).await;
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
    call(&service, As::User, Method::PUT, &path, None).await;
    let within = Duration::from_secs(10);
    let job = wait_for(&service, &id, &["canceled"], within).await;
    assert_eq!(
        states(&job)[states(&job).len() - 2..],
        ["canceling", "canceled"],
        "{job}"
    );
    assert_eq!(case.containers_of(&id).await, Vec::<String>::new());
    service.stop().await.unwrap();
}
