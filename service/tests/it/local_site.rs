//! The local site with shell scripts as executors.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;

use cts_service::compute_site::local::{LocalSite, LocalSiteSettings};
use cts_service::compute_site::{CleanError, ComputeSite, SiteEvent};
use cts_shared::id::JobId;

use crate::installed::install;

const DEADLINE: Duration = Duration::from_secs(30);

fn settings(directory: &Path, script: &str) -> LocalSiteSettings {
    let executor = directory.join("executor");
    install(&executor, &format!("#!/bin/sh\n{script}\n"));
    LocalSiteSettings {
        executor,
        jobs_dir: directory.join("jobs"),
        max_executors: 2,
        service_root_url: "http://127.0.0.1:1".to_owned(),
        token_path: PathBuf::from("/token"),
        s3_url: "http://127.0.0.1:2".to_owned(),
        s3_access_key: "key".to_owned(),
        s3_secret_path: PathBuf::from("/secret"),
        s3_insecure: false,
        log_dir: "cts/logs".parse().unwrap(),
        refdata_host_path: PathBuf::from("/refdata"),
        job_update_timeout_min: 5,
        log_level: "INFO".to_owned(),
        refdata_limits: vec![("CTS_REFDATA_MAX_ENTRIES", "5".into())],
        path: Some("/usr/bin:/bin".into()),
        docker_host: Some("unix:///x.sock".to_owned()),
    }
}

fn job() -> JobId {
    JobId::new(uuid::Uuid::new_v4())
}

async fn next(events: &mut mpsc::Receiver<SiteEvent>) -> (JobId, u32, String) {
    let event = tokio::time::timeout(DEADLINE, events.recv())
        .await
        .expect("an event in time")
        .expect("the site is there");
    let SiteEvent::ExecutorEnded {
        job,
        container,
        description,
        ..
    } = event;
    (job, container, description)
}

#[tokio::test]
async fn an_executor_gets_the_contracts_environment_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let (sender, mut events) = mpsc::channel(8);
    let site = LocalSite::new(settings(directory.path(), "echo \"$@\"; env"), sender);
    let job = job();
    site.start(job, vec![3]).await.unwrap();
    next(&mut events).await;
    let workdir = directory
        .path()
        .join("jobs")
        .join(job.to_string())
        .join("3");
    let out = std::fs::read_to_string(workdir.join("executor.out")).unwrap();
    let mut lines: Vec<&str> = out
        .lines()
        // Set by the shell itself.
        .filter(|line| {
            !line.starts_with("PWD=")
                && !line.starts_with("_=")
                && !line.starts_with("SHLVL=")
                && !line.starts_with("OLDPWD=")
        })
        .collect();
    lines.sort_unstable();
    let mut expected = vec![
        "run".to_owned(),
        format!("JOB_ID={job}"),
        "CONTAINER_NUMBER=3".to_owned(),
        "SERVICE_ROOT_URL=http://127.0.0.1:1".to_owned(),
        "TOKEN_PATH=/token".to_owned(),
        "S3_URL=http://127.0.0.1:2".to_owned(),
        "S3_ACCESS_KEY=key".to_owned(),
        "S3_SECRET_PATH=/secret".to_owned(),
        format!("S3_ERROR_LOG_PATH=cts/logs/{job}"),
        "S3_INSECURE=false".to_owned(),
        "REFDATA_HOST_PATH=/refdata".to_owned(),
        "CTS_REFDATA_DIR=/refdata".to_owned(),
        "JOB_UPDATE_TIMEOUT_MIN=5".to_owned(),
        "CTS_LOG_LEVEL=INFO".to_owned(),
        "CTS_REFDATA_MAX_ENTRIES=5".to_owned(),
        "PATH=/usr/bin:/bin".to_owned(),
        "DOCKER_HOST=unix:///x.sock".to_owned(),
    ];
    expected.sort_unstable();
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn an_end_is_told_with_status_and_last_words() {
    let directory = tempfile::tempdir().unwrap();
    let (sender, mut events) = mpsc::channel(8);
    let site = LocalSite::new(
        settings(directory.path(), "echo oh no >&2; exit 78"),
        sender,
    );
    let job = job();
    site.start(job, vec![0]).await.unwrap();
    let (ended, container, description) = next(&mut events).await;
    assert_eq!((ended, container), (job, 0));
    assert_eq!(
        description,
        "the executor of container 0 did not report how the container ended: it ended with exit \
         status 78; its last words were: oh no"
    );
}

#[tokio::test]
async fn a_missing_program_is_told_too() {
    let directory = tempfile::tempdir().unwrap();
    let (sender, mut events) = mpsc::channel(8);
    let mut settings = settings(directory.path(), "");
    settings.executor = directory.path().join("none");
    let site = LocalSite::new(settings, sender);
    site.start(job(), vec![0]).await.unwrap();
    let (_, _, description) = next(&mut events).await;
    assert!(
        description.contains("could not be started"),
        "{description}"
    );
    assert!(description.contains("none"), "{description}");
}

#[tokio::test]
async fn asking_twice_starts_once_and_no_more_than_allowed_run() {
    let directory = tempfile::tempdir().unwrap();
    let (sender, mut events) = mpsc::channel(32);
    // Each writes a line when it starts and when it ends; `>>` of a short line is atomic.
    let log = directory.path().join("log");
    let script = format!("echo + >> {0}; sleep 0.2; echo - >> {0}", log.display());
    let site = LocalSite::new(settings(directory.path(), &script), sender);
    let job = job();
    let containers: Vec<u32> = (0..6).collect();
    site.start(job, containers.clone()).await.unwrap();
    site.start(job, containers).await.unwrap();
    for _ in 0..6 {
        next(&mut events).await;
    }
    let text = std::fs::read_to_string(&log).unwrap();
    assert_eq!(text.matches('+').count(), 6);
    let mut running = 0;
    for line in text.lines() {
        running += if line == "+" { 1 } else { -1 };
        assert!(running <= 2, "{text}");
    }
}

#[tokio::test]
async fn cancel_stops_a_running_executor() {
    let directory = tempfile::tempdir().unwrap();
    let (sender, mut events) = mpsc::channel(8);
    let started = directory.path().join("started");
    // Not blocked in a call: a signal right before that would be lost.
    let script = format!(
        "trap 'echo stopping >&2; exit 143' TERM; touch {}; while :; do sleep 0.1; done",
        started.display()
    );
    let site = LocalSite::new(settings(directory.path(), &script), sender);
    let job = job();
    site.start(job, vec![0, 1, 2]).await.unwrap();
    // Two run, the third waits; wait until one has set its trap.
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !started.exists() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "no executor started"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::timeout(DEADLINE, site.cancel(job))
        .await
        .unwrap()
        .unwrap();
    let mut ended = vec![next(&mut events).await, next(&mut events).await];
    ended.sort_by_key(|(_, container, _)| *container);
    assert!(
        ended
            .iter()
            .any(|(_, _, description)| description.contains("143")),
        "{ended:?}"
    );
    assert!(
        events.try_recv().is_err(),
        "the waiting container was never started"
    );
}

#[tokio::test]
async fn after_a_restart_lost_executors_are_told_and_waiting_containers_start() {
    let directory = tempfile::tempdir().unwrap();
    let (sender, mut events) = mpsc::channel(8);
    let settings = settings(directory.path(), "exit 0");
    let job = job();
    // What a killed service leaves of container 0: a directory with an id no process has.
    let lost = directory
        .path()
        .join("jobs")
        .join(job.to_string())
        .join("0");
    std::fs::create_dir_all(&lost).unwrap();
    std::fs::write(lost.join("executor.pid"), "999999999 1\n").unwrap();
    std::fs::write(lost.join("executor.err"), "last words\n").unwrap();
    let site = LocalSite::new(settings, sender);
    site.start(job, vec![0, 1]).await.unwrap();
    let mut ended = vec![next(&mut events).await, next(&mut events).await];
    ended.sort_by_key(|(_, container, _)| *container);
    assert!(
        ended[0].2.contains("while the service was down"),
        "{ended:?}"
    );
    assert!(
        ended[0].2.contains("last words were: last words"),
        "{ended:?}"
    );
    assert!(ended[1].2.contains("exit status 0"), "{ended:?}");
}

#[tokio::test]
async fn cleaning_removes_what_ended_executors_left_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let (sender, mut events) = mpsc::channel(8);
    let script = "mkdir -p out/deep; echo x > out/deep/file\n\
                  [ $CONTAINER_NUMBER = 1 ] && exec sleep 300";
    let site = LocalSite::new(settings(directory.path(), script), sender);
    let job = job();
    let other = self::job();
    let jobs_dir = directory.path().join("jobs");
    let container = |number: u32| jobs_dir.join(job.to_string()).join(number.to_string());
    site.start(job, vec![0, 1]).await.unwrap();
    assert_eq!(next(&mut events).await.1, 0);
    site.start(other, vec![0]).await.unwrap();
    assert_eq!(next(&mut events).await.0, other);
    // The site forgets an ended container right after it has told of it.
    let cleaned = tokio::time::timeout(DEADLINE, async {
        while site.clean(job, vec![0]).await.is_err() {
            tokio::task::yield_now().await;
        }
    });
    cleaned.await.unwrap();
    assert!(!container(0).exists());
    assert!(container(1).exists());
    let refused = site.clean(job, vec![0, 1]).await;
    assert!(
        matches!(&refused, Err(CleanError::StillRunning(running)) if running == &[1]),
        "{refused:?}"
    );
    assert!(container(1).exists());
    site.cancel(job).await.unwrap();
    site.clean(job, vec![0, 1]).await.unwrap();
    assert!(!jobs_dir.join(job.to_string()).exists());
    assert!(jobs_dir.join(other.to_string()).exists());
    // Once more, and for a job that was never here.
    site.clean(job, vec![0, 1]).await.unwrap();
    site.clean(self::job(), vec![0]).await.unwrap();
}

#[tokio::test]
async fn an_executor_that_outlived_the_service_is_not_cleaned_away() {
    let directory = tempfile::tempdir().unwrap();
    let (sender, _events) = mpsc::channel(8);
    let script = settings(directory.path(), "exec sleep 300");
    let first = LocalSite::new(script.clone(), sender.clone());
    let job = job();
    first.start(job, vec![0]).await.unwrap();
    let pid_file = script.jobs_dir.join(job.to_string()).join("0/executor.pid");
    let started = tokio::time::timeout(DEADLINE, async {
        while !pid_file.exists() {
            tokio::task::yield_now().await;
        }
    });
    started.await.unwrap();
    let second = LocalSite::new(script, sender);
    let refused = second.clean(job, vec![0]).await;
    assert!(
        matches!(&refused, Err(CleanError::StillRunning(running)) if running == &[0]),
        "{refused:?}"
    );
    assert!(pid_file.exists());
    first.cancel(job).await.unwrap();
    second.clean(job, vec![0]).await.unwrap();
    assert!(!pid_file.exists());
}

/// Others may have taken all the room before the service comes to it again.
#[tokio::test]
async fn an_executor_that_outlived_the_service_is_stopped_though_there_is_no_room() {
    let directory = tempfile::tempdir().unwrap();
    let (sender, _events) = mpsc::channel(8);
    let script = "trap 'exit 143' TERM; touch started; while :; do sleep 0.1; done";
    let started = |job: JobId, container: u32| {
        let path = format!("jobs/{job}/{container}/started");
        let path = directory.path().join(path);
        async move {
            let deadline = tokio::time::Instant::now() + DEADLINE;
            while !path.exists() {
                assert!(tokio::time::Instant::now() < deadline, "not started");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    let before = LocalSite::new(settings(directory.path(), script), sender);
    let outlived = job();
    before.start(outlived, vec![0]).await.unwrap();
    started(outlived, 0).await;

    let (sender, mut events) = mpsc::channel(8);
    let after = LocalSite::new(settings(directory.path(), script), sender);
    let fresh = job();
    after.start(fresh, vec![0, 1]).await.unwrap();
    started(fresh, 0).await;
    started(fresh, 1).await;
    after.start(outlived, vec![0]).await.unwrap();
    tokio::time::timeout(DEADLINE, after.cancel(outlived))
        .await
        .unwrap()
        .unwrap();
    let (ended, _, description) = next(&mut events).await;
    assert_eq!(ended, outlived);
    assert!(description.contains("outlived a restart"), "{description}");
    after.shut_down().await;
}
