//! Jobs on a real HTCondor pool, from REST to the objects in S3, and what the pool may do to them.

use std::time::Duration;

use cts_tests::object_store::crc64nvme;
use cts_tests::service_process::{As, Launch, OnPool};
use cts_tests::testbed::htcondor::Pool;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{
    Case, Fault, GOOD_STATES, Proxy, TestService, eventually, scheduler_alone, scheduler_stays,
    states,
};

/// Queue, start, and whatever the test has the job do.
const JOB_DEADLINE: Duration = Duration::from_secs(300);
const GONE_WITHIN: Duration = Duration::from_secs(120);
/// The lease, and then a job's time.
const WORKER_BACK_WITHIN: Duration = Duration::from_secs(240);

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

/// A job's newest cluster. The executor may be faster than the service that notes it.
async fn cluster(service: &TestService, id: &str) -> u64 {
    eventually("the cluster", JOB_DEADLINE, async || {
        let job = service.job(id).await;
        let clusters = job["htcondor_details"]["cluster_id"].as_array();
        let newest = clusters.and_then(|clusters| clusters.last()?.as_u64());
        newest.ok_or_else(|| job.to_string())
    })
    .await
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
    let _scheduler = scheduler_stays().await;
    // Much more memory and time than the executor needs for itself.
    let commands = ["hog_memory 100", "sleep 10", "copy_inputs", "say hello"];
    let case = Case::new("condor", &commands).await.memory_mb(400);
    let case = case.input("a.txt", b"a").await;
    let service = service(&case).await;
    let id = service.submit(&case, "kbase").await;
    let job = service.end_of(&id, JOB_DEADLINE).await;

    assert_eq!(states(&job), GOOD_STATES, "{job}");
    assert_copied(&case, &job, &[("a.txt", b"a")]);
    assert_eq!(
        job["htcondor_details"]["cluster_id"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    // What the executor measured of the container is there at once, what HTCondor measured soon.
    let memory = job["max_memory"].as_u64().unwrap_or_default();
    assert!(memory > 100_000_000, "{job}");
    assert!(job["cpu_hours"].as_f64().is_some(), "{job}");
    let status = eventually("HTCondor's account", JOB_DEADLINE, async || {
        let job = service.job(&id).await;
        let path = format!("/admin/jobs/{id}/runner_status?container_number=0");
        let status = service.call(As::Admin, Method::GET, &path, None).await;
        let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
        let reserved = number(&status["CommittedTime"]);
        let used = number(&job["cpu_hours"]) * 3600.0;
        if (number(&job["cpu_factor"]) - used / reserved).abs() < 1e-9 {
            Ok(status)
        } else {
            Err(format!("{job} {status}"))
        }
    })
    .await;
    assert_eq!(status["CTSJobID"], json!(id), "{status}");
    assert_eq!(status["JobStatus"], json!(4), "{status}");
    assert_eq!(status["ExitCode"], json!(0), "{status}");
    // The pool's people saw what the executor was doing; its last word waits a second at most for the starter.
    let phase = status["ChirpCtsPhase"].as_str();
    assert!(matches!(phase, Some("publishing" | "ended")), "{status}");
    let log = format!("/jobs/{id}/log/0/stdout");
    let text = service.text(As::User, &log).await.unwrap();
    assert_eq!(text, "hello\n");
    // HTCondor took every line of the description: of one that it does not know it says nothing.
    let ads = case.testbed.htcondor.pool().history(&constraint(&id)).await;
    let ad = &ads.unwrap()[0];
    for name in [
        "JobMaxVacateTime",
        "AllowedExecuteDuration",
        "RequestDisk",
        "JobLeaseDuration",
    ] {
        let value = ad.get(name).and_then(Value::as_u64);
        assert!(value > Some(0), "{name}: {ad:?}");
    }
    let batch_name = ad.get("JobBatchName");
    assert_eq!(batch_name, Some(&json!(format!("cts {id}"))), "{ad:?}");
    assert_eq!(ad.get("WantGracefulRemoval"), Some(&json!(true)), "{ad:?}");
    nothing_left(&case, &id).await;
    service.stop().await;
}

#[tokio::test]
async fn a_job_of_eight_containers_completes() {
    let _scheduler = scheduler_stays().await;
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
    let _scheduler = scheduler_stays().await;
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
    let _scheduler = scheduler_stays().await;
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

/// What a job's views say of why it waits, once they do.
async fn notice(service: &TestService, id: &str) -> String {
    eventually("a notice", JOB_DEADLINE, async || {
        let job = service.job(id).await;
        let notice = job["site_notice"]["message"].as_str().map(str::to_owned);
        notice.ok_or_else(|| job.to_string())
    })
    .await
}

#[tokio::test]
async fn a_job_is_canceled_while_it_waits_for_a_machine() {
    let _scheduler = scheduler_stays().await;
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
    let notice = notice(&service, &id).await;
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
    let _scheduler = scheduler_stays().await;
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

/// The job is canceled when its executor's traffic with S3 has stalled.
async fn is_canceled_at(name: &str, fault: Fault) {
    let _scheduler = scheduler_stays().await;
    let case = Case::new(name, &["big out 8", "copy_inputs"]).await;
    let case = case.input("a.bin", &vec![b'x'; 2_000_000]).await;
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
async fn a_job_is_canceled_while_it_stages() {
    let fault = Fault::StallDownload { after: 1_000_000 };
    is_canceled_at("condor-cancel-stage", fault).await;
}

#[tokio::test]
async fn a_job_is_canceled_while_it_uploads() {
    let fault = Fault::StallUpload { after: 1_000_000 };
    is_canceled_at("condor-cancel-upload", fault).await;
}

#[tokio::test]
async fn what_an_administrator_holds_or_removes_ends_with_the_reason() {
    let _scheduler = scheduler_stays().await;
    let case = Case::new("condor-behind", &["started_and_waiting"]).await;
    let case = case.input("a.txt", b"a").await;
    let service = service(&case).await;
    let pool = case.testbed.htcondor.pool();
    let held = service.submit(&case, "kbase").await;
    let removed = service.submit_again(&case, "kbase").await;
    for id in [&held, &removed] {
        service.wait_for(id, &["job_submitted"], JOB_DEADLINE).await;
    }
    pool.hold(cluster(&service, &held).await).await.unwrap();
    pool.rm(cluster(&service, &removed).await).await.unwrap();
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
async fn a_job_is_canceled_while_it_is_held() {
    let _scheduler = scheduler_stays().await;
    let case = Case::new("condor-cancel-held", &["started_and_waiting"]).await;
    let case = case.input("a.txt", b"a").await;
    // The hold is the test's: the service does not look meanwhile.
    let service = service_with(&case, |on_pool| {
        on_pool.settings = vec![(
            "CTS_HTC_RECONCILE_INTERVAL_SEC".to_owned(),
            "3600".to_owned(),
        )];
    })
    .await;
    let pool = case.testbed.htcondor.pool();
    let id = service.submit(&case, "kbase").await;
    service
        .wait_for(&id, &["job_submitted"], JOB_DEADLINE)
        .await;
    pool.hold(cluster(&service, &id).await).await.unwrap();
    eventually("held", JOB_DEADLINE, async || {
        let ads = pool.q(&constraint(&id)).await.unwrap();
        let is_held = ads.iter().any(|ad| ad["JobStatus"] == json!(5));
        is_held.then_some(()).ok_or_else(|| format!("{ads:?}"))
    })
    .await;
    cancel(&service, &id).await;
    nothing_left(&case, &id).await;
    service.stop().await;
}

/// The job is evicted when its executor's traffic with S3 has stalled.
async fn completes_when_evicted_at(name: &str, fault: Fault) {
    let _scheduler = scheduler_stays().await;
    let case = Case::new(name, &["copy_inputs"]).await;
    let content = vec![b'x'; 2_000_000];
    let case = case.input("a.bin", &content).await;
    let proxy = Proxy::start(&case.testbed.s3.url, fault).await;
    let service = service_behind(&case, &proxy).await;
    let id = service.submit(&case, "kbase").await;
    proxy.struck().await;
    let cluster = cluster(&service, &id).await;
    let pool = case.testbed.htcondor.pool();
    pool.vacate(cluster, 0).await.unwrap();
    // Not before: what has stalled would be tried again.
    proxy.heal();
    let job = service.end_of(&id, JOB_DEADLINE).await;
    assert_copied(&case, &job, &[("a.bin", &content)]);
    assert_eq!(attempts(&service, &id).await, 2);
    service.stop().await;
}

#[tokio::test]
async fn a_job_evicted_while_it_stages_completes() {
    let fault = Fault::StallDownload { after: 1_000_000 };
    completes_when_evicted_at("condor-evict-stage", fault).await;
}

#[tokio::test]
async fn a_job_evicted_while_it_uploads_completes() {
    let fault = Fault::StallUpload { after: 1_000_000 };
    completes_when_evicted_at("condor-evict-upload", fault).await;
}

#[tokio::test]
async fn a_job_evicted_while_it_runs_completes() {
    let _scheduler = scheduler_stays().await;
    let case = Case::new("condor-evict-run", &["sleep 30", "copy_inputs"]).await;
    let case = case.input("a.txt", b"a").await;
    let service = service(&case).await;
    let id = service.submit(&case, "kbase").await;
    service
        .wait_for(&id, &["job_submitted"], JOB_DEADLINE)
        .await;
    let cluster = cluster(&service, &id).await;
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
    assert_eq!(states(&job), GOOD_STATES, "{job}");
    nothing_left(&case, &id).await;
    service.stop().await;
}

/// The pid of the job's executor, once its container runs.
async fn running_executor(case: &Case, service: &TestService, id: &str) -> (Pool, u64, i32) {
    service.wait_for(id, &["job_submitted"], JOB_DEADLINE).await;
    a_container_of(case, id).await;
    let cluster = cluster(service, id).await;
    let pool = case.testbed.htcondor.pool();
    let executor = *pool.processes_of(cluster, 0).first().unwrap();
    (pool, cluster, executor)
}

#[tokio::test]
async fn a_job_whose_executor_is_killed_completes() {
    let _scheduler = scheduler_stays().await;
    let case = Case::new("condor-kill", &["sleep 30", "copy_inputs"]).await;
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
    let _scheduler = scheduler_stays().await;
    let case = Case::new("condor-kill-starter", &["sleep 30", "copy_inputs"]).await;
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

#[tokio::test]
async fn a_job_whose_worker_loses_power_completes() {
    let _scheduler = scheduler_alone().await;
    let case = Case::new("condor-power", &["sleep 30", "copy_inputs"]).await;
    let case = case.input("a.txt", b"a").await;
    // HTCondor runs the proc again when its lease is over, not before, whether the worker is back or not.
    let service = service_with(&case, |on_pool| {
        on_pool.settings = vec![("CTS_HTC_JOB_LEASE_SEC".to_owned(), "20".to_owned())];
    })
    .await;
    let id = service.submit(&case, "kbase").await;
    let (pool, _, _) = running_executor(&case, &service, &id).await;
    pool.cut_power_of_worker().unwrap();
    let notice = notice(&service, &id).await;
    assert!(notice.contains("HTCondor has lost contact"), "{notice}");
    let job = service.end_of(&id, WORKER_BACK_WITHIN).await;
    assert_copied(&case, &job, &[("a.txt", b"a")]);
    assert_eq!(attempts(&service, &id).await, 2);
    nothing_left(&case, &id).await;
    service.stop().await;
}

#[tokio::test]
async fn odd_values_reach_the_worker_as_they_are() {
    let _scheduler = scheduler_stays().await;
    let case = Case::new("condor-odd", &["copy_inputs"]).await;
    let case = case.input("a.txt", b"a").await;
    // What means something to submit files, ClassAds, the old and the new form of environments, and shells.
    let odd =
        r#"/opt/it's "odd"  $(HOME) $(container_number) $ENV(HOME) $5 %(x) a=b;c|d\e"f ünï/#g"#;
    let logs = case
        .testbed
        .htcondor
        .share_dir(&format!("odd-{}", uuid::Uuid::new_v4()))
        .unwrap();
    let service = service_with(&case, |on_pool| {
        on_pool.settings = vec![
            ("KBCTS_HTC_ADDL_PATH".to_owned(), odd.to_owned()),
            (
                "KBCTS_HTC_INITIAL_DIR".to_owned(),
                logs.display().to_string(),
            ),
        ];
    })
    .await;
    let id = service.submit(&case, "kbase").await;
    let job = service.end_of(&id, JOB_DEADLINE).await;
    assert_copied(&case, &job, &[("a.txt", b"a")]);
    // The wrapper prints the variables, quoted for the shell.
    let out = logs.join(format!("cts-{id}-0.out"));
    let arrived = eventually("the wrapper's output", JOB_DEADLINE, async || {
        let printed = std::fs::read_to_string(&out).unwrap_or_default();
        let line = printed
            .lines()
            .find(|line| line.starts_with("ADDITIONAL_PATH="));
        line.map(str::to_owned).ok_or(printed)
    })
    .await;
    let script = "eval \"$1\"; printf %s \"$ADDITIONAL_PATH\"";
    let read = std::process::Command::new("bash")
        .args(["-c", script, "bash", &arrived])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(read.stdout).unwrap(), odd);
    service.stop().await;
}

#[tokio::test]
async fn a_scheduler_that_restarts_costs_nothing() {
    let _scheduler = scheduler_alone().await;
    let case = Case::new("condor-schedd", &["sleep 10", "copy_inputs"]).await;
    let case = case.input("a.txt", b"a").await;
    let service = service(&case).await;
    let id = service.submit(&case, "kbase").await;
    let pool = case.testbed.htcondor.pool();
    service
        .wait_for(&id, &["job_submitted"], JOB_DEADLINE)
        .await;
    pool.stop_schedd().await.unwrap();
    // While it is away jobs are taken, and say what they wait for.
    let waiting = service.submit_again(&case, "kbase").await;
    let notice = notice(&service, &waiting).await;
    assert!(notice.contains("it waits for site kbase"), "{notice}");
    pool.start_schedd().await.unwrap();
    let job = service.end_of(&id, JOB_DEADLINE).await;
    assert_copied(&case, &job, &[("a.txt", b"a")]);
    assert_eq!(attempts(&service, &id).await, 1, "it ran once");
    let job = service.end_of(&waiting, JOB_DEADLINE).await;
    assert_eq!(states(&job).last(), Some(&"complete"), "{job}");
    assert!(job["site_notice"].is_null(), "{job}");
    service.stop().await;
}

/// HTCondor's commands, but that `condor_submit` is another script, which finds the real one as `$REAL`
/// and a directory of its own as `$DIR`.
fn commands_with(case: &Case, submit: &str) -> tempfile::TempDir {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let dir = tempfile::tempdir().unwrap();
    let real = &case.testbed.htcondor.bin_dir;
    for entry in std::fs::read_dir(real).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "condor_submit" {
            symlink(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
    }
    let script = format!(
        "#!/bin/sh\nREAL={}/condor_submit\nDIR={}\n{submit}\n",
        real.display(),
        dir.path().display()
    );
    let path = dir.path().join("condor_submit");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    dir
}

/// A submission goes wrong once, in a way that may kill the service: the job has one cluster and completes.
async fn submission_survives(name: &str, submit: &str, service_dies: bool) {
    let _scheduler = scheduler_stays().await;
    let case = Case::new(name, &["copy_inputs"]).await;
    let case = case.input("a.txt", b"a").await;
    let commands = commands_with(&case, submit);
    let mut service = service_with(&case, |on_pool| {
        on_pool.commands = Some(commands.path().to_owned());
    })
    .await;
    let id = service.submit(&case, "kbase").await;
    if service_dies {
        service.ended().await.unwrap();
        service.restart().await.unwrap();
    }
    let job = service.end_of(&id, JOB_DEADLINE).await;
    assert_copied(&case, &job, &[("a.txt", b"a")]);
    // The executor may be faster than the service that looks for it.
    let clusters = eventually("the cluster", JOB_DEADLINE, async || {
        let job = service.job(&id).await;
        let clusters = job["htcondor_details"]["cluster_id"].as_array().cloned();
        clusters.ok_or_else(|| job.to_string())
    })
    .await;
    assert_eq!(clusters.len(), 1, "{job}");
    assert_eq!(attempts(&service, &id).await, 1, "no second executor");
    nothing_left(&case, &id).await;
    let known = case.testbed.htcondor.pool().history(&constraint(&id)).await;
    assert_eq!(known.unwrap().len(), 1, "one proc was ever submitted");
    service.stop().await;
}

#[tokio::test]
async fn a_service_killed_before_the_pool_has_the_job_submits_it_once() {
    let submit = "if [ ! -e $DIR/tried ]; then touch $DIR/tried; sleep 1; kill -9 $PPID; exit 1; fi\n\
                  exec $REAL \"$@\"";
    submission_survives("condor-killed-before", submit, true).await;
}

#[tokio::test]
async fn a_service_killed_before_it_knows_the_cluster_adopts_it() {
    let submit = "if [ ! -e $DIR/tried ]; then touch $DIR/tried; $REAL \"$@\"; kill -9 $PPID; exit 1; fi\n\
                  exec $REAL \"$@\"";
    submission_survives("condor-killed-after", submit, true).await;
}

#[tokio::test]
async fn a_submission_whose_answer_is_lost_is_found() {
    let submit = "if [ ! -e $DIR/tried ]; then touch $DIR/tried; $REAL \"$@\" >/dev/null; exit 1; fi\n\
                  exec $REAL \"$@\"";
    submission_survives("condor-lost", submit, false).await;
}

#[tokio::test]
async fn a_worker_that_cannot_have_the_executor_is_tried_again_and_then_told() {
    let _scheduler = scheduler_stays().await;
    let case = Case::new("condor-404", &["copy_inputs"]).await;
    let case = case.input("a.txt", b"a").await;
    let missing = format!("{}/not-there.tgz", case.testbed.s3.url);
    let service = service_with(&case, |on_pool| {
        on_pool.settings = vec![
            ("KBCTS_CODE_ARCHIVE_URL_OVERRIDE".to_owned(), missing),
            ("CTS_HTC_MAX_RELEASES".to_owned(), "1".to_owned()),
        ];
    })
    .await;
    let id = service.submit(&case, "kbase").await;
    let job = service.end_of(&id, JOB_DEADLINE).await;
    assert_eq!(states(&job).last(), Some(&"error"), "{job}");
    let reason = job["admin_error"].as_str().unwrap();
    assert!(reason.contains("for the 2nd time"), "{reason}");
    assert!(
        reason.contains("the worker did not get the executor"),
        "{reason}"
    );
    nothing_left(&case, &id).await;
    service.stop().await;
}
