//! Jobs on a real HTCondor pool, from REST to the objects in S3, and what the pool may do to them.

use std::time::Duration;

use cts_tests::object_store::crc64nvme;
use cts_tests::service_process::{As, Launch, OnPool};
use cts_tests::testbed::htcondor::Pool;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Case, Fault, Proxy, TestService, eventually, states};

/// Queue, start, and whatever the test has the job do.
const JOB_DEADLINE: Duration = Duration::from_secs(120);
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// A service whose jobs run on the pool.
async fn service(case: &Case) -> TestService {
    TestService::start(case, Launch::on_pool()).await
}

/// The same, set in another way.
async fn service_with(case: &Case, set: impl FnOnce(&mut OnPool)) -> TestService {
    let launch = Launch::on_pool().map(|mut launch| {
        set(launch.pool.as_mut().unwrap());
        launch
    });
    TestService::start(case, launch).await
}

/// The workers reach S3 through a proxy, the service does not.
async fn service_behind(case: &Case, proxy: &Proxy) -> TestService {
    let url = proxy.url();
    service_with(case, |on_pool| {
        on_pool.settings = vec![
            (
                "KBCTS_HTC_USE_S3_EXTERNAL_URL".to_owned(),
                "true".to_owned(),
            ),
            ("KBCTS_S3_EXTERNAL_URL".to_owned(), url),
        ];
    })
    .await
}

/// A job's newest cluster.
fn cluster(job: &Value) -> u64 {
    let clusters = job["htcondor_details"]["cluster_id"].as_array();
    let newest = clusters.and_then(|clusters| clusters.last()?.as_u64());
    newest.unwrap_or_else(|| panic!("no cluster: {job}"))
}

fn constraint(id: &str) -> String {
    format!("CTSJobID == \"{id}\"")
}

/// The procs of a job in the queue.
async fn queued(pool: &Pool, id: &str) -> usize {
    pool.q(&constraint(id)).await.unwrap().len()
}

/// Waits until a container of the job runs.
async fn a_container_of(case: &Case, id: &str) {
    eventually("a container", JOB_DEADLINE, async || {
        let containers = case.containers_of(id).await;
        (!containers.is_empty())
            .then_some(())
            .ok_or("none".to_owned())
    })
    .await;
}

/// Waits until nothing of the job is left, neither in the queue nor in the engine.
async fn nothing_left(case: &Case, id: &str) {
    let pool = case.testbed.htcondor.pool();
    eventually("nothing left of the job", GONE_WITHIN, async || {
        let procs = queued(&pool, id).await;
        let containers = case.containers_of(id).await;
        if procs == 0 && containers.is_empty() {
            Ok(())
        } else {
            Err(format!("{procs} procs, containers {containers:?}"))
        }
    })
    .await;
}

/// That the job completed with its inputs as outputs.
fn assert_copied(case: &Case, job: &Value, inputs: &[(&str, &[u8])]) {
    assert_eq!(states(job).last(), Some(&"complete"), "{job}");
    let mut outputs = job["outputs"].as_array().unwrap().clone();
    outputs.sort_by_key(|output| output["file"].as_str().map(str::to_owned));
    let expected: Vec<Value> = inputs
        .iter()
        .map(|(name, content)| {
            json!({ "file": case.output_path(name), "crc64nvme": crc64nvme(content) })
        })
        .collect();
    assert_eq!(outputs, expected, "{job}");
}

/// The attempts that a container took.
async fn attempts(service: &TestService, id: &str) -> u64 {
    let containers = service.containers(id).await;
    let attempts = containers
        .first()
        .and_then(|one| one["attempts"].as_array());
    let last = attempts.and_then(|attempts| attempts.last()?["attempt"].as_u64());
    last.unwrap_or_default()
}

#[tokio::test]
async fn a_job_completes_and_its_use_is_told() {
    let case = Case::new("condor", &["copy_inputs", "say hello"]).await;
    let case = case.input("a.txt", b"a").await;
    let service = service(&case).await;
    let id = service.submit(&case, "kbase").await;
    let job = service.end_of(&id, JOB_DEADLINE).await;

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
    assert_copied(&case, &job, &[("a.txt", b"a")]);
    assert_eq!(
        job["htcondor_details"]["cluster_id"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    // What the executor measured is there at once, what HTCondor measured soon.
    assert!(job["max_memory"].as_u64().is_some(), "{job}");
    eventually("the use of CPUs", JOB_DEADLINE, async || {
        let job = service.job(&id).await;
        job["cpu_factor"].as_f64().ok_or_else(|| job.to_string())
    })
    .await;
    let status = format!("/admin/jobs/{id}/runner_status?container_number=0");
    let status = service.call(As::Admin, Method::GET, &status, None).await;
    assert_eq!(status["CTSJobID"], json!(id), "{status}");
    assert_eq!(status["JobStatus"], json!(4), "{status}");
    assert_eq!(status["ExitCode"], json!(0), "{status}");
    // The pool's people saw what the executor was doing.
    assert_eq!(status["ChirpCtsPhase"], json!("ended"), "{status}");
    let log = format!("/jobs/{id}/log/0/stdout");
    let text = service.text(As::User, &log).await.unwrap();
    assert_eq!(text, "hello\n");
    nothing_left(&case, &id).await;
    service.stop().await;
}

#[tokio::test]
async fn a_job_of_eight_containers_completes() {
    let mut case = Case::new("condor-8", &["copy_inputs"])
        .await
        .containers(8)
        .memory_mb(64);
    let names: Vec<String> = (0..8).map(|number| format!("{number}.txt")).collect();
    for name in &names {
        case = case.input(name, name.as_bytes()).await;
    }
    let service = service(&case).await;
    let id = service.submit(&case, "kbase").await;
    let job = service.end_of(&id, JOB_DEADLINE).await;
    let expected: Vec<(&str, &[u8])> = names
        .iter()
        .map(|name| (name.as_str(), name.as_bytes()))
        .collect();
    assert_copied(&case, &job, &expected);
    service.stop().await;
}

#[tokio::test]
async fn a_failing_container_ends_the_job_in_error_and_is_not_held() {
    let case = Case::new("condor-fails", &["complain oh", "exit 3"]).await;
    let case = case.input("a.txt", b"a").await;
    let service = service(&case).await;
    let id = service.submit(&case, "kbase").await;
    let job = service.end_of(&id, JOB_DEADLINE).await;
    assert_eq!(states(&job).last(), Some(&"error"), "{job}");
    let codes = format!("/jobs/{id}/exit_codes");
    let codes = service.call(As::User, Method::GET, &codes, None).await;
    assert_eq!(codes, json!({"exit_codes": [3]}));
    let log = format!("/jobs/{id}/log/0/stderr");
    assert_eq!(service.text(As::User, &log).await.unwrap(), "oh\n");
    nothing_left(&case, &id).await;
    service.stop().await;
}

#[tokio::test]
async fn an_executor_that_fails_is_reported_and_does_not_stay_held() {
    // Declared, and never stored after the checks of the submission.
    let case = Case::new("condor-input", &["copy_inputs"]).await;
    let case = case.input("a.txt", b"a").await;
    let proxy = Proxy::start(
        &case.testbed.s3.url,
        Fault::Corrupt {
            text: b"content of a",
        },
    )
    .await;
    let case = case.input("b.txt", b"content of a").await;
    let service = service_behind(&case, &proxy).await;
    let id = service.submit(&case, "kbase").await;
    let job = service.end_of(&id, JOB_DEADLINE).await;
    assert_eq!(states(&job).last(), Some(&"error"), "{job}");
    let reason = job["admin_error"].as_str().unwrap();
    assert!(reason.contains("CRC64NVME"), "{reason}");
    nothing_left(&case, &id).await;
    service.stop().await;
}

async fn cancel(service: &TestService, id: &str) -> Value {
    let path = format!("/jobs/{id}/cancel");
    service.call(As::User, Method::PUT, &path, None).await;
    let job = service.end_of(id, GONE_WITHIN).await;
    assert_eq!(
        states(&job)[states(&job).len() - 2..],
        ["canceling", "canceled"],
        "{job}"
    );
    job
}

#[tokio::test]
async fn a_job_is_canceled_while_it_waits_for_a_machine() {
    // More memory than the pool has, less than the site's limit.
    let case = Case::new("condor-idle", &["copy_inputs"])
        .await
        .memory_mb(200_000);
    let case = case.input("a.txt", b"a").await;
    let service = service(&case).await;
    let id = service.submit(&case, "kbase").await;
    service
        .wait_for(&id, &["download_submitted"], JOB_DEADLINE)
        .await;
    // A request that no machine fits is told before hours have passed.
    let notice = eventually("a notice", JOB_DEADLINE, async || {
        let job = service.job(&id).await;
        let notice = job["site_notice"]["message"].as_str().map(str::to_owned);
        notice.ok_or_else(|| job.to_string())
    })
    .await;
    assert!(
        notice.contains("of memory, the largest machine has 8.0 GiB"),
        "{notice}"
    );
    cancel(&service, &id).await;
    nothing_left(&case, &id).await;
    service.stop().await;
}

#[tokio::test]
async fn a_running_job_is_canceled_and_its_container_goes() {
    let case = Case::new("condor-cancel", &["say begun", "started_and_waiting"]).await;
    let case = case.input("a.txt", b"a").await;
    let service = service(&case).await;
    let id = service.submit(&case, "kbase").await;
    service
        .wait_for(&id, &["job_submitted"], JOB_DEADLINE)
        .await;
    cancel(&service, &id).await;
    nothing_left(&case, &id).await;
    assert_eq!(case.published().await, Vec::<String>::new());
    service.stop().await;
}

#[tokio::test]
async fn a_job_is_canceled_while_it_uploads() {
    let case = Case::new("condor-cancel-upload", &["big out 8"]).await;
    let case = case.input("a.txt", b"a").await;
    let fault = Fault::StallUpload { after: 1_000_000 };
    let proxy = Proxy::start(&case.testbed.s3.url, fault).await;
    let service = service_behind(&case, &proxy).await;
    let id = service.submit(&case, "kbase").await;
    proxy.struck().await;
    cancel(&service, &id).await;
    nothing_left(&case, &id).await;
    assert_eq!(case.published().await, Vec::<String>::new());
    service.stop().await;
}

#[tokio::test]
async fn what_an_administrator_holds_or_removes_ends_with_the_reason() {
    let case = Case::new("condor-behind", &["started_and_waiting"]).await;
    let case = case.input("a.txt", b"a").await;
    let service = service(&case).await;
    let pool = case.testbed.htcondor.pool();
    let held = service.submit(&case, "kbase").await;
    let removed = service.submit_again(&case, "kbase").await;
    for id in [&held, &removed] {
        service.wait_for(id, &["job_submitted"], JOB_DEADLINE).await;
    }
    pool.hold(cluster(&service.job(&held).await)).await.unwrap();
    pool.rm(cluster(&service.job(&removed).await))
        .await
        .unwrap();
    for (id, expected) in [
        (&held, "somebody held it by hand"),
        (&removed, "was removed from HTCondor's queue outside CTS"),
    ] {
        let job = service.end_of(id, GONE_WITHIN).await;
        assert_eq!(states(&job).last(), Some(&"error"), "{job}");
        let reason = job["admin_error"].as_str().unwrap();
        assert!(reason.contains(expected), "{reason}");
        nothing_left(&case, id).await;
    }
    service.stop().await;
}

#[tokio::test]
async fn a_job_evicted_while_it_stages_completes() {
    let case = Case::new("condor-evict-stage", &["copy_inputs"]).await;
    let content = vec![b'x'; 2_000_000];
    let case = case.input("a.bin", &content).await;
    let fault = Fault::StallDownload { after: 1_000_000 };
    let proxy = Proxy::start(&case.testbed.s3.url, fault).await;
    let service = service_behind(&case, &proxy).await;
    let id = service.submit(&case, "kbase").await;
    proxy.struck().await;
    let cluster = cluster(&service.job(&id).await);
    proxy.heal();
    case.testbed
        .htcondor
        .pool()
        .vacate(cluster, 0)
        .await
        .unwrap();
    let job = service.end_of(&id, JOB_DEADLINE).await;
    assert_copied(&case, &job, &[("a.bin", &content)]);
    assert_eq!(attempts(&service, &id).await, 2);
    service.stop().await;
}

#[tokio::test]
async fn a_job_evicted_while_it_runs_completes() {
    let case = Case::new("condor-evict-run", &["sleep 6", "copy_inputs"]).await;
    let case = case.input("a.txt", b"a").await;
    let service = service(&case).await;
    let id = service.submit(&case, "kbase").await;
    service
        .wait_for(&id, &["job_submitted"], JOB_DEADLINE)
        .await;
    let cluster = cluster(&service.job(&id).await);
    case.testbed
        .htcondor
        .pool()
        .vacate(cluster, 0)
        .await
        .unwrap();
    let job = service.end_of(&id, JOB_DEADLINE).await;
    assert_copied(&case, &job, &[("a.txt", b"a")]);
    assert_eq!(attempts(&service, &id).await, 2);
    // The states of the job went one way only.
    assert_eq!(states(&job).len(), 7, "{job}");
    nothing_left(&case, &id).await;
    service.stop().await;
}

#[tokio::test]
async fn a_job_evicted_while_it_uploads_completes() {
    let case = Case::new("condor-evict-upload", &["copy_inputs"]).await;
    let content = vec![b'x'; 2_000_000];
    let case = case.input("a.bin", &content).await;
    let fault = Fault::StallUpload { after: 1_000_000 };
    let proxy = Proxy::start(&case.testbed.s3.url, fault).await;
    let service = service_behind(&case, &proxy).await;
    let id = service.submit(&case, "kbase").await;
    proxy.struck().await;
    let cluster = cluster(&service.job(&id).await);
    proxy.heal();
    case.testbed
        .htcondor
        .pool()
        .vacate(cluster, 0)
        .await
        .unwrap();
    let job = service.end_of(&id, JOB_DEADLINE).await;
    assert_copied(&case, &job, &[("a.bin", &content)]);
    assert_eq!(attempts(&service, &id).await, 2);
    service.stop().await;
}

/// The pid of the job's executor, once its container runs.
async fn running_executor(case: &Case, service: &TestService, id: &str) -> (Pool, u64, i32) {
    service.wait_for(id, &["job_submitted"], JOB_DEADLINE).await;
    a_container_of(case, id).await;
    let cluster = cluster(&service.job(id).await);
    let pool = case.testbed.htcondor.pool();
    let executor = *pool.processes_of(cluster, 0).first().unwrap();
    (pool, cluster, executor)
}

#[tokio::test]
async fn a_job_whose_executor_is_killed_completes() {
    let case = Case::new("condor-kill", &["sleep 6", "copy_inputs"]).await;
    let case = case.input("a.txt", b"a").await;
    let service = service(&case).await;
    let id = service.submit(&case, "kbase").await;
    let (pool, _, executor) = running_executor(&case, &service, &id).await;
    pool.kill(executor).unwrap();
    let job = service.end_of(&id, JOB_DEADLINE).await;
    assert_copied(&case, &job, &[("a.txt", b"a")]);
    assert_eq!(attempts(&service, &id).await, 2);
    nothing_left(&case, &id).await;
    service.stop().await;
}

#[tokio::test]
async fn a_job_whose_starter_is_killed_completes() {
    let case = Case::new("condor-kill-starter", &["sleep 6", "copy_inputs"]).await;
    let case = case.input("a.txt", b"a").await;
    let service = service(&case).await;
    let id = service.submit(&case, "kbase").await;
    let (pool, cluster, _) = running_executor(&case, &service, &id).await;
    pool.kill(pool.starter_of(cluster, 0).unwrap()).unwrap();
    let job = service.end_of(&id, JOB_DEADLINE).await;
    assert_copied(&case, &job, &[("a.txt", b"a")]);
    nothing_left(&case, &id).await;
    service.stop().await;
}
