//! The commands for people on real components: `local` and `doctor`. `plan` needs none and is tested in
//! the executor's own crate.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use cts_tests::binaries;
use tokio::process::Command;

use crate::harness::{Case, Coordinator, Executor};

const DEADLINE: Duration = Duration::from_secs(60);

/// Runs the executor program with nothing in its environment but what is given.
async fn program(case: &Case, arguments: &[&str], dir: &Path) -> Output {
    let run = Command::new(binaries::executor().unwrap())
        .args(arguments)
        .env_clear()
        .env("DOCKER_HOST", &case.testbed.engine.docker_host)
        .current_dir(dir)
        .kill_on_drop(true)
        .output();
    tokio::time::timeout(DEADLINE, run)
        .await
        .expect("the program does not end")
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The job document, and one input file where a run would place it.
async fn directory(case: &Case, content: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("job.json"), case.job().to_string()).unwrap();
    std::fs::create_dir(dir.path().join("in")).unwrap();
    std::fs::write(dir.path().join("in/a.txt"), content).unwrap();
    dir
}

const LOCAL: [&str; 7] = [
    "local",
    "--job",
    "job.json",
    "--inputs",
    "in",
    "--outputs",
    "out",
];

#[tokio::test]
async fn local_runs_the_container_over_local_files() {
    let case = Case::new("local", &["copy_inputs", "say done", "complain hm"])
        .await
        .input("a.txt", b"content")
        .await;
    let dir = directory(&case, b"content").await;
    let output = program(&case, &LOCAL, dir.path()).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(
        std::fs::read(dir.path().join("out/a.txt")).unwrap(),
        b"content"
    );
    assert_eq!(text(&output.stdout), "done\n");
    assert!(
        text(&output.stderr).contains("hm\n"),
        "{}",
        text(&output.stderr)
    );
    assert!(
        text(&output.stderr).contains("\"a.txt\""),
        "{}",
        text(&output.stderr)
    );
    case.no_container_left().await;
}

#[tokio::test]
async fn local_refuses_other_content_and_says_how_to_go_on() {
    let case = Case::new("local-other", &["copy_inputs"])
        .await
        .input("a.txt", b"content")
        .await;
    let dir = directory(&case, b"other content").await;
    let output = program(&case, &LOCAL, dir.path()).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("--any-content"),
        "{}",
        text(&output.stderr)
    );
    let mut arguments = LOCAL.to_vec();
    arguments.push("--any-content");
    let output = program(&case, &arguments, dir.path()).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(
        std::fs::read(dir.path().join("out/a.txt")).unwrap(),
        b"other content"
    );
}

#[tokio::test]
async fn local_says_how_a_container_failed() {
    let case = Case::new("local-fails", &["exit 3"])
        .await
        .input("a.txt", b"x")
        .await;
    let dir = directory(&case, b"x").await;
    let output = program(&case, &LOCAL, dir.path()).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("exit code: 3"),
        "{}",
        text(&output.stderr)
    );
    case.no_container_left().await;
}

#[tokio::test]
async fn doctor_finds_a_good_worker_good() {
    let case = Case::new("doctor", &["copy_inputs"])
        .await
        .input("a", b"a")
        .await;
    let coordinator = Coordinator::start(case.job()).await;
    let outcome = Executor::new(&case).doctor(&coordinator).await;
    let said = text(&outcome.stdout);
    assert!(outcome.status.success(), "{said}");
    for name in ["engine", "s3", "service", "token", "clock", "disk"] {
        assert!(said.contains(&format!("ok    {name}")), "{said}");
    }
}

#[tokio::test]
async fn doctor_names_each_thing_that_is_wrong() {
    let case = Case::new("doctor-bad", &["copy_inputs"])
        .await
        .input("a", b"a")
        .await;
    let coordinator = Coordinator::start(case.job()).await;
    let executor = Executor::new(&case)
        .token("not-the-right-one")
        .env("S3_ACCESS_KEY", "nobody");
    let outcome = executor.doctor(&coordinator).await;
    let said = text(&outcome.stdout);
    assert_eq!(outcome.status.code(), Some(1), "{said}");
    assert!(
        said.contains("FAIL  s3") && said.contains("FAIL  token"),
        "{said}"
    );
    assert!(
        said.contains("TOKEN_PATH") && said.contains("S3_ACCESS_KEY"),
        "{said}"
    );
    assert!(!said.contains("not-the-right-one"), "{said}");
}
