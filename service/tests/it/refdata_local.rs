//! Staging for the site `local`, with shell scripts as executors.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cts_service::background::refdata_stager::stage_waiting_refdata;
use cts_service::refdata_stager::{
    LocalStager, LocalStagerSettings, RefdataStager, RefdataStagers, Staging, StagingError,
    StagingItem,
};
use cts_shared::site::Site;
use serde_json::{Value, json};

use crate::installed::install;
use crate::pool_app::{DEADLINE, eventually};
use crate::test_app::{CRC, TestApp};

const FILE: &str = "cts/refdata/db.tar.gz";

fn settings(directory: &Path, script: &str) -> LocalStagerSettings {
    let executor = directory.join("executor");
    install(&executor, &format!("#!/bin/sh\n{script}\n"));
    LocalStagerSettings {
        executor,
        root: directory.join("refdata"),
        log_dir: directory.join("staging"),
        s3_url: "http://127.0.0.1:2".to_owned(),
        s3_access_key: "key".to_owned(),
        s3_secret_path: PathBuf::from("/secret"),
        s3_insecure: false,
        log_level: "INFO".to_owned(),
        limits: vec![("CTS_REFDATA_RESERVE_MIB", "7".into())],
        path: Some("/usr/bin:/bin".into()),
    }
}

fn stager(directory: &Path, script: &str) -> Arc<LocalStager> {
    Arc::new(LocalStager::new(settings(directory, script)))
}

/// Where the executor says how far it is.
fn progress_file(directory: &Path, id: &str) -> PathBuf {
    directory
        .join("staging")
        .join(format!("{id}.progress.json"))
}

fn item(id: &str) -> StagingItem {
    StagingItem {
        id: id.parse().unwrap(),
        file: FILE.to_owned(),
        crc64nvme: Some(CRC.to_owned()),
        unpack: true,
    }
}

async fn staged(stager: &LocalStager, item: StagingItem) -> Result<(), StagingError> {
    let Staging::UnderWay(staging) = stager.stage(item).await? else {
        panic!("nobody else stages for this site");
    };
    tokio::time::timeout(DEADLINE, staging).await.unwrap()
}

fn app(stager: Arc<dyn RefdataStager>) -> TestApp {
    TestApp::with(|app| app.refdata_stagers = RefdataStagers::new([(Site::Local, stager)]))
}

#[tokio::test]
async fn the_executor_gets_what_it_needs_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let stager = stager(directory.path(), "echo \"$@\" >&2; env >&2");
    let mut plain = item("b");
    plain.unpack = false;
    for one in [item("a"), plain] {
        staged(&stager, one).await.unwrap();
    }
    let root = directory.path().join("refdata");
    let said = |id: &str| {
        let log = directory.path().join("staging").join(format!("{id}.log"));
        std::fs::read_to_string(log).unwrap()
    };
    let arguments = |id: &str| {
        format!(
            "refdata stage --root {} --id={id} --object={FILE} --crc64nvme={CRC} --progress {}",
            root.display(),
            progress_file(directory.path(), id).display()
        )
    };
    let text = said("a");
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some(&*format!("{} --unpack", arguments("a"))));
    let of_the_shell = ["PWD=", "_=", "SHLVL=", "OLDPWD="];
    let mut environment: Vec<&str> = lines
        .filter(|line| !of_the_shell.iter().any(|name| line.starts_with(name)))
        .collect();
    environment.sort_unstable();
    assert_eq!(
        environment,
        [
            "CTS_LOG_LEVEL=INFO",
            "CTS_REFDATA_RESERVE_MIB=7",
            "PATH=/usr/bin:/bin",
            "S3_ACCESS_KEY=key",
            "S3_INSECURE=false",
            "S3_SECRET_PATH=/secret",
            "S3_URL=http://127.0.0.1:2",
        ]
    );
    assert_eq!(said("b").lines().next(), Some(&*arguments("b")));
    assert!(root.is_dir());
}

#[tokio::test]
async fn what_is_registered_is_staged() {
    let directory = tempfile::tempdir().unwrap();
    let app = app(stager(directory.path(), "exit 0"));
    let id = app.register_refdata(FILE).await;
    let status = app.wait_for_refdata(&id, "complete").await;
    assert_eq!(status["transition_times"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn administrators_see_how_far_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let progress = json!({
        "downloaded_bytes": 5, "object_bytes": 10, "unpacked_bytes": 50, "unpacked_files": 2,
        "bytes_per_second": 4,
    });
    let go_on = directory.path().join("go_on");
    // The last argument is the file's name.
    let script = format!(
        "mkfifo {0}; for file; do :; done; echo '{progress}' > $file.new; mv $file.new $file; read x < {0}; rm $file",
        go_on.display()
    );
    let app = app(stager(directory.path(), &script));
    let id = app.register_refdata(FILE).await;
    eventually("it is seen", async || {
        app.refdata_status(&id).await["progress"] == progress
    })
    .await;
    let everyone = app.get("", &format!("/refdata/id/{id}")).await.json();
    assert_eq!(everyone["statuses"][0]["progress"], Value::Null);
    std::fs::write(&go_on, "\n").unwrap();
    let status = app.wait_for_refdata(&id, "complete").await;
    assert_eq!(status["progress"], Value::Null, "{status}");
}

/// What a killed one left says nothing about the next.
#[tokio::test]
async fn progress_is_that_of_the_running_executor() {
    let directory = tempfile::tempdir().unwrap();
    let stager = stager(directory.path(), "exit 0");
    let item = item("a");
    let file = progress_file(directory.path(), "a");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "half a li").unwrap();
    assert_eq!(stager.progress(&item.id).await, None);
    staged(&stager, item).await.unwrap();
    assert!(!file.exists());
}

#[tokio::test]
async fn the_last_words_of_a_failure_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let script =
        "echo starting >&2; echo 'cts-executor: the checksum differs' >&2; echo hint >&2; exit 65";
    let app = app(stager(directory.path(), script));
    let id = app.register_refdata(FILE).await;
    let status = app.wait_for_refdata(&id, "error").await;
    assert_eq!(status["admin_error"], "the checksum differs");
}

#[tokio::test]
async fn a_silent_failure_is_told_by_its_status() {
    let directory = tempfile::tempdir().unwrap();
    let failed = |error: StagingError| match error {
        StagingError::Failed(problem) => problem,
        other => panic!("nobody stopped it: {other:?}"),
    };
    let silent = stager(directory.path(), "exit 3");
    let problem = failed(staged(&silent, item("a")).await.unwrap_err());
    assert!(problem.contains("exit status 3"), "{problem}");
    let killed = stager(directory.path(), "kill -9 $$");
    let problem = failed(staged(&killed, item("a")).await.unwrap_err());
    assert!(problem.contains("signal 9"), "{problem}");
    let ended = stager(directory.path(), "kill -TERM $$");
    let error = staged(&ended, item("a")).await.unwrap_err();
    assert!(matches!(error, StagingError::Stopped), "{error:?}");
    let wordy = stager(directory.path(), "echo half >&2; exit 7");
    let problem = failed(staged(&wordy, item("a")).await.unwrap_err());
    assert!(
        problem.contains("exit status 7") && problem.ends_with("half"),
        "{problem}"
    );
    let mut absent = settings(directory.path(), "");
    absent.executor = directory.path().join("none");
    let absent = LocalStager::new(absent);
    let problem = failed(staged(&absent, item("a")).await.unwrap_err());
    assert!(problem.contains("none"), "{problem}");
    let mut unknown = item("a");
    unknown.crc64nvme = None;
    let problem = failed(staged(&silent, unknown).await.unwrap_err());
    assert!(problem.contains("checksum"), "{problem}");
}

#[tokio::test]
async fn a_few_run_at_once() {
    let directory = tempfile::tempdir().unwrap();
    // `>>` of a short line is atomic.
    let log = directory.path().join("log");
    let script = format!("echo + >> {0}; sleep 0.2; echo - >> {0}", log.display());
    let stager = stager(directory.path(), &script);
    let ids = ["a", "b", "c", "d", "e", "f"];
    let stagings = ids.map(|id| staged(&stager, item(id)));
    for staging in futures::future::join_all(stagings).await {
        staging.unwrap();
    }
    let text = std::fs::read_to_string(&log).unwrap();
    assert_eq!(text.matches('+').count(), ids.len());
    let mut running = 0;
    for line in text.lines() {
        running += if line == "+" { 1 } else { -1 };
        assert!(running <= 2, "{text}");
    }
}

/// The service stops in the middle; the next one begins again.
#[tokio::test]
async fn a_stop_ends_the_executor_and_is_no_failure() {
    let directory = tempfile::tempdir().unwrap();
    let (started, stopped) = (
        directory.path().join("started"),
        directory.path().join("stopped"),
    );
    // Not blocked in a call: a signal right before that would be lost.
    let script = format!(
        "trap 'touch {1}; exit 143' TERM; touch {0}; while :; do sleep 0.1; done",
        started.display(),
        stopped.display()
    );
    let stopping = stager(directory.path(), &script);
    let app = app(Arc::clone(&stopping) as Arc<dyn RefdataStager>);
    let id = app.register_refdata(FILE).await;
    let waits = app.register_refdata("cts/other.gz").await;
    eventually("it has started", async || started.exists()).await;
    tokio::time::timeout(DEADLINE, stopping.shut_down())
        .await
        .unwrap();
    assert!(stopped.exists(), "it was asked to stop, not killed");
    let next = stager(directory.path(), "exit 0") as Arc<dyn RefdataStager>;
    assert_eq!(app.refdata_status(&id).await["state"], "download_submitted");
    let app = app.restart_with(|app| {
        app.refdata_stagers = RefdataStagers::new([(Site::Local, next)]);
    });
    // As a service does that opens a file of its own.
    app.store.lapse_leases().await.unwrap();
    app.clock.advance(Duration::from_secs(60));
    for staging in stage_waiting_refdata(&app.app, Duration::from_secs(15))
        .await
        .unwrap()
    {
        staging.await.unwrap();
    }
    for id in [id, waits] {
        assert_eq!(app.refdata_status(&id).await["state"], "complete");
    }
}

#[tokio::test]
async fn one_that_does_not_stop_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let started = directory.path().join("started");
    let script = format!(
        "trap '' TERM; echo $$ > {0}.new; mv {0}.new {0}; while :; do sleep 1; done",
        started.display()
    );
    let stager = stager(directory.path(), &script);
    let staging = tokio::spawn({
        let stager = Arc::clone(&stager);
        async move { staged(&stager, item("a")).await }
    });
    eventually("it has started", async || started.exists()).await;
    tokio::time::timeout(DEADLINE, stager.shut_down())
        .await
        .unwrap();
    assert_eq!(staging.await.unwrap(), Err(StagingError::Stopped));
    let pid = std::fs::read_to_string(&started).unwrap();
    let process = PathBuf::from(format!("/proc/{}", pid.trim()));
    assert!(!process.exists(), "{}", process.display());
    assert_eq!(
        staged(&stager, item("b")).await,
        Err(StagingError::Stopped),
        "nothing is begun any more"
    );
}
