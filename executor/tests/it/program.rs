//! The program as a process: what it prints and how it ends, where no engine, store or service is
//! needed.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::bed::job;

fn program(arguments: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_cts-executor"))
        .args(arguments)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(stdin.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

fn plan(document: &Value, more: &[&str]) -> Output {
    let mut arguments = vec!["plan", "--job", "-"];
    arguments.extend(more);
    program(&arguments, &document.to_string())
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The JSON form is read by programs: its keys are fixed.
#[test]
fn plan_as_json() {
    let params = json!({
        "declobber": true,
        "args": ["run", { "type": "input_files", "input_files_format": "repeat_parameter", "flag": "-i" }],
        "environment": { "Z": "last", "A": { "type": "container_number" } },
    });
    let document = job(&params, &["buk/a/x y", "buk/a/z"], 2, "buk/out");
    let output = plan(
        &document,
        &[
            "--container",
            "1",
            "--format",
            "json",
            "--s3-error-log-path",
            "logs/cts/j/",
        ],
    );
    assert!(output.status.success(), "{}", text(&output.stderr));
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        plan,
        json!({
            "image": "docker.io/library/x@sha256:aa",
            "command": ["e", "run", "-i", "/input_files/z"],
            "environment": { "Z": "last", "A": "1" },
            "mounts": [
                { "host": "__input__", "container": "/input_files", "read_only": true },
                { "host": "__output__/1", "container": "/output_files", "read_only": false },
            ],
            "files": [{ "file": "buk/a/z", "crc64nvme": "AAAAAAAAAAA=", "path": "z" }],
            "limits": { "cpus": 1, "memory_bytes": 10_000_000, "pids": 4096, "runtime_seconds": 60 },
            "output_prefix": "buk/out/1/",
            "log_prefix": "logs/cts/j/container-1-",
        })
    );
    let names: Vec<&String> = plan["environment"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["Z", "A"], "the job's order");
}

#[test]
fn plan_as_text_shows_every_part_and_no_control_characters() {
    let document = job(&json!({ "args": ["-v"] }), &["buk/a/x"], 1, "buk/out");
    let output = plan(&document, &[]);
    let shown = text(&output.stdout);
    for part in [
        "docker.io/library/x@sha256:aa",
        "\"-v\"",
        "__output__ -> /output_files",
        "buk/out/",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    assert!(!shown.contains('\u{1b}'));
}

/// The words are those of a run's error report.
#[test]
fn a_job_that_cannot_run_is_refused_by_plan() {
    let twice = job(&json!({}), &["buk/a/x", "buk/b/x"], 1, "buk/out");
    let mut climbing = job(&json!({}), &["buk/a/../x"], 1, "buk/out");
    climbing["job_input"]["input_roots"] = json!(["buk"]);
    let formatless = job(
        &json!({ "args": [{ "type": "input_files" }] }),
        &["buk/a"],
        1,
        "buk/out",
    );
    let nested = json!({ "input_mount_point": "/d", "output_mount_point": "/d/out" });
    let nested = job(&nested, &["buk/a"], 1, "buk/out");
    for (document, parts) in [
        (twice, ["buk/a/x", "buk/b/x"]),
        (climbing, ["buk/a/../x", ".."]),
        (
            formatless,
            ["job_input.params.args[0]", "input_files_format"],
        ),
        (nested, ["/d/out", "overlap"]),
    ] {
        let output = plan(&document, &[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        let said = text(&output.stderr);
        for part in parts {
            assert!(said.contains(part), "{part} is not in {said}");
        }
    }
    let output = plan(
        &job(&json!({}), &["buk/a"], 1, "buk/out"),
        &["--container", "7"],
    );
    assert!(
        text(&output.stderr).contains("no container 7"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_document_that_is_no_job_is_refused_with_the_place() {
    for (document, part) in [
        ("", "not JSON"),
        ("[]", "-"),
        ("{\"id\": 3}", "id"),
        ("\u{0}", "-"),
    ] {
        let output = program(&["plan", "--job", "-"], document);
        assert_eq!(output.status.code(), Some(1), "{document:?}");
        assert!(
            text(&output.stderr).contains(part),
            "{}",
            text(&output.stderr)
        );
    }
}

#[test]
fn settings_that_are_missing_are_named_one_a_line_and_the_status_is_78() {
    let output = program(&["run"], "");
    assert_eq!(output.status.code(), Some(78));
    let said = text(&output.stderr);
    assert_eq!(said.lines().count(), 10, "{said}");
    assert!(
        said.lines().all(|line| line.starts_with("cts-executor: ")),
        "{said}"
    );
}

#[test]
fn doctor_says_what_it_did_not_check() {
    let output = program(
        &["doctor", "--docker-host", "unix:///nonexistent/docker.sock"],
        "",
    );
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stdout);
    assert!(
        said.contains("FAIL  engine") && said.contains("DOCKER_HOST"),
        "{said}"
    );
    for name in ["secret", "s3", "service", "token", "clock", "refdata"] {
        assert!(said.contains(&format!("skip  {name}")), "{said}");
    }
}

/// As a start-up check of a worker that has the secrets and no job yet.
#[test]
fn doctor_checks_the_files_that_it_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, "t").unwrap();
    let absent = directory.path().join("absent");
    let engine = ["--docker-host", "unix:///nonexistent/docker.sock"];
    let files = [
        "--token-path",
        token.to_str().unwrap(),
        "--s3-secret-path",
        absent.to_str().unwrap(),
    ];
    let refdata = ["--refdata-dir", "/nonexistent/refdata"];
    let output = program(&[&["doctor"][..], &engine, &files, &refdata].concat(), "");
    let said = text(&output.stdout);
    assert!(said.contains("ok    token"), "{said}");
    assert!(
        said.contains("FAIL  refdata  /nonexistent/refdata"),
        "{said}"
    );
    assert!(said.contains("FAIL  secret"), "{said}");
}

#[test]
fn doctor_speaks_to_the_startd_and_always_ends_with_0() {
    let host = "unix:///nonexistent/docker \".sock";
    let output = program(&["doctor", "--classad", "--docker-host", host], "");
    assert_eq!(output.status.code(), Some(0));
    let lines: Vec<&str> = text(&output.stdout).lines().collect();
    let [healthy, problem, version, "-"] = lines[..] else {
        panic!("{lines:?}")
    };
    assert_eq!(healthy, "CtsExecutorHealthy = false");
    let begin =
        r#"CtsExecutorProblem = "engine: container engine at unix:///nonexistent/docker \".sock: "#;
    assert!(
        problem.starts_with(begin) && problem.ends_with('"'),
        "{problem}"
    );
    let expected = format!("CtsExecutorVersion = \"{}\"", env!("CARGO_PKG_VERSION"));
    assert_eq!(version, expected);
}

/// `HTCondor` holds a job whose log files are missing, which would hide what is wrong with its settings.
#[test]
fn log_files_are_there_after_a_wrong_setting_and_readable_whatever_the_umask() {
    use std::os::unix::fs::PermissionsExt;

    let directory = tempfile::tempdir().unwrap();
    let output = Command::new("/bin/sh")
        .args([
            "-c",
            "umask 077; exec \"$0\" run",
            env!("CARGO_BIN_EXE_cts-executor"),
        ])
        .current_dir(directory.path())
        .env_clear()
        .envs([("JOB_ID", super::bed::JOB_ID), ("CONTAINER_NUMBER", "3")])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78), "{}", text(&output.stderr));
    for stream in ["out", "err"] {
        let name = format!("cts-{}-3-container.{stream}", super::bed::JOB_ID);
        let log = std::fs::metadata(directory.path().join(name)).unwrap();
        assert_eq!(log.permissions().mode() & 0o777, 0o644);
    }
}
