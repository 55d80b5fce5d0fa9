//! The executor as a child process, started as HTCondor's wrapper starts it, or by the wrapper.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use cts_tests::binaries;
use cts_tests::object_store::crc64nvme;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::coordinator::Update;
use super::{Case, Coordinator, TOKEN};

/// For one run; every wait inside is much shorter.
const DEADLINE: Duration = Duration::from_secs(120);

/// An executor about to be started.
#[derive(Debug)]
pub(crate) struct Executor {
    environment: BTreeMap<&'static str, String>,
    directory: TempDir,
    by_wrapper: bool,
}

/// Names that the worker's files have when URL overrides give them other ones.
const WRAPPER: &str = "run the job.sh";
const ARCHIVE: &str = "code:archive.tgz";

impl Executor {
    /// For container 0 of the case's job, with the environment of the contract.
    pub(crate) fn new(case: &Case) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("cts-e2e-")
            .tempdir()
            .unwrap();
        let secrets = directory.path().join("secrets");
        std::fs::create_dir(&secrets).unwrap();
        let secret_file = |name: &str, content: &str| {
            let path = secrets.join(name);
            std::fs::write(&path, format!("{content}\n")).unwrap();
            path.display().to_string()
        };
        let s3 = &case.testbed.s3;
        let environment = BTreeMap::from([
            ("JOB_ID", case.job_id.clone()),
            ("CONTAINER_NUMBER", "0".to_owned()),
            ("TOKEN_PATH", secret_file("token", TOKEN)),
            ("S3_URL", s3.url.clone()),
            ("S3_ACCESS_KEY", s3.access_key.clone()),
            ("S3_SECRET_PATH", secret_file("s3", &s3.secret)),
            ("S3_ERROR_LOG_PATH", case.log_path()),
            ("REFDATA_HOST_PATH", String::new()),
            ("JOB_UPDATE_TIMEOUT_MIN", "1".to_owned()),
            ("DOCKER_HOST", case.testbed.engine.docker_host.clone()),
            ("CTS_LOG_LEVEL", "INFO".to_owned()),
            ("CTS_STOP_GRACE_SECS", "2".to_owned()),
            ("PATH", "/usr/bin:/bin".to_owned()),
        ]);
        Self {
            environment,
            directory,
            by_wrapper: false,
        }
    }

    /// As the existing service submits it to HTCondor: no other variables than the contract's (condor.md,
    /// section 2) and what a pool may set itself, and the wrapper in front.
    pub(crate) fn by_wrapper(case: &Case) -> Self {
        let mut executor = Self::new(case)
            .env("CODE_ARCHIVE", ARCHIVE)
            .env("GLOBAL_CACHE_DIR", "/tmp")
            .env("REFDATA_HOST_PATH", "/refdata")
            .env("JOB_UPDATE_TIMEOUT_MIN", "360")
            .without("CTS_LOG_LEVEL")
            .without("CTS_STOP_GRACE_SECS");
        executor.by_wrapper = true;
        executor
    }

    /// Sets a variable.
    pub(crate) fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.insert(name, value.into());
        self
    }

    /// Leaves a variable out.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.environment.remove(name);
        self
    }

    /// Runs another container of the job.
    pub(crate) fn container(self, number: u32) -> Self {
        self.env("CONTAINER_NUMBER", number.to_string())
    }

    /// Puts another text into the token file.
    pub(crate) fn token(self, token: &str) -> Self {
        std::fs::write(&self.environment["TOKEN_PATH"], token).unwrap();
        self
    }

    /// The path of the token file.
    pub(crate) fn token_path(&self) -> String {
        self.environment["TOKEN_PATH"].clone()
    }

    /// The job directory.
    pub(crate) fn job_dir(&self) -> PathBuf {
        self.directory.path().join("job")
    }

    /// Starts it under `coordinator`.
    pub(crate) fn start(self, coordinator: &Coordinator) -> Running {
        let job_dir = self.job_dir();
        std::fs::create_dir(&job_dir).unwrap();
        let output = |name| std::fs::File::create(self.directory.path().join(name)).unwrap();
        let child = self
            .command(&job_dir)
            .env_clear()
            .envs(&self.environment)
            .env("SERVICE_ROOT_URL", coordinator.url())
            .current_dir(&job_dir)
            .stdin(Stdio::null())
            .stdout(output("stdout"))
            .stderr(output("stderr"))
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Running {
            child,
            directory: self.directory,
            job_dir,
            started: Instant::now(),
        }
    }

    /// The command to start, with the files that it needs in `job_dir`.
    fn command(&self, job_dir: &Path) -> Command {
        if self.by_wrapper {
            let archive = binaries::executor_archive().unwrap_or_else(|error| panic!("{error}"));
            std::fs::copy(archive, job_dir.join(ARCHIVE)).unwrap();
            std::fs::copy(binaries::wrapper(), job_dir.join(WRAPPER)).unwrap();
            let mut command = Command::new("/bin/bash");
            command.arg(WRAPPER);
            return command;
        }
        let binary = binaries::executor().unwrap_or_else(|error| panic!("{error}"));
        let mut command = Command::new(binary);
        command.arg("run");
        command
    }

    /// Runs the worker check with the same settings.
    pub(crate) async fn doctor(self, coordinator: &Coordinator) -> std::process::Output {
        let binary = binaries::executor().unwrap_or_else(|error| panic!("{error}"));
        let check = Command::new(binary)
            .arg("doctor")
            .env_clear()
            .envs(&self.environment)
            .env("SERVICE_ROOT_URL", coordinator.url())
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        tokio::time::timeout(DEADLINE, check)
            .await
            .expect("doctor does not end")
            .unwrap()
    }

    /// Runs the clean-up of orphans, as a cron does.
    pub(crate) async fn reap(case: &Case) -> String {
        let binary = binaries::executor().unwrap_or_else(|error| panic!("{error}"));
        let reap = Command::new(binary)
            .arg("reap")
            .env_clear()
            .env("DOCKER_HOST", &case.testbed.engine.docker_host)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(DEADLINE, reap)
            .await
            .expect("reap does not end")
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts it, waits for its end and checks that nothing is left.
    pub(crate) async fn run(self, case: &Case, coordinator: &Coordinator) -> Outcome {
        self.start(coordinator).finish(case, coordinator).await
    }
}

/// A running executor.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    directory: TempDir,
    job_dir: PathBuf,
    started: Instant,
}

impl Running {
    /// Sends SIGTERM, as HTCondor does to evict a job.
    pub(crate) fn terminate(&self) {
        let pid = self
            .child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Ends it by SIGKILL: it cannot clean up, but its guardian can.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Ends it and its guardian by SIGKILL, as HTCondor ends all processes of a job: nothing cleans up.
    pub(crate) async fn kill_all(self) {
        let pid = self.child.id().unwrap();
        let children = std::fs::read_dir(format!("/proc/{pid}/task"))
            .unwrap()
            .map(|task| task.unwrap().path().join("children"))
            .map(|path| std::fs::read_to_string(path).unwrap_or_default())
            .collect::<String>();
        let children: Vec<i32> = children
            .split_ascii_whitespace()
            .map(|child| child.parse().unwrap())
            .collect();
        assert_eq!(children.len(), 1, "the guardian, and nothing else");
        for child in children {
            let child = rustix::process::Pid::from_raw(child).unwrap();
            rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
        }
        self.kill().await;
    }

    /// A file below `__output__`, if it is there.
    pub(crate) fn output(&self, name: &str) -> Result<(), String> {
        let path = self.job_dir.join("__output__").join(name);
        if path.exists() {
            Ok(())
        } else {
            Err(format!("{} is absent", path.display()))
        }
    }

    /// Waits for its end and checks what must hold after any end: no container left, no file that
    /// looks like an input but is none, no secret printed or stored.
    pub(crate) async fn finish(mut self, case: &Case, coordinator: &Coordinator) -> Outcome {
        let waited = tokio::time::timeout(DEADLINE, self.child.wait()).await;
        let timed_out = waited.is_err();
        let status = match waited {
            Ok(status) => status.unwrap(),
            Err(_) => {
                self.child.kill().await.unwrap();
                self.child.wait().await.unwrap()
            }
        };
        let ended = Instant::now();
        let read = |name| {
            let bytes = std::fs::read(self.directory.path().join(name)).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let outcome = Outcome {
            status,
            took: ended.duration_since(self.started),
            ended,
            stdout: read("stdout"),
            stderr: read("stderr"),
            updates: coordinator.updates(),
            job_dir: self.job_dir,
            _directory: self.directory,
        };
        outcome.check(!timed_out, "ends by itself");
        outcome.check_nothing_left(case).await;
        outcome.check_no_secret(case).await;
        outcome
    }
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    status: ExitStatus,
    took: Duration,
    pub(crate) ended: Instant,
    stdout: String,
    stderr: String,
    updates: Vec<Update>,
    job_dir: PathBuf,
    _directory: TempDir,
}

impl Outcome {
    /// Fails the test with everything known of the run, unless `holds`.
    #[track_caller]
    pub(crate) fn check(&self, holds: bool, what: &str) {
        assert!(holds, "expected: {what}\n{}", self.describe());
    }

    /// The process's exit status.
    #[track_caller]
    pub(crate) fn check_status(&self, code: i32) {
        self.check(
            self.status.code() == Some(code),
            &format!("exit status {code}"),
        );
    }

    /// The states reported, in order.
    #[track_caller]
    pub(crate) fn check_states(&self, expected: &[&str]) {
        let states: Vec<&str> = self
            .updates
            .iter()
            .map(|update| update.state.as_str())
            .collect();
        self.check(states == expected, &format!("the reports {expected:?}"));
    }

    /// The last report is `error`, and its text holds all of `parts`, in any case of letters.
    #[track_caller]
    pub(crate) fn check_error_names(&self, parts: &[&str]) {
        let text = self.admin_error().to_lowercase();
        self.check(!text.is_empty(), "a final report of an error");
        for part in parts {
            self.check(
                text.contains(&part.to_lowercase()),
                &format!("an error that says {part:?}"),
            );
        }
    }

    /// The text of the final error report; empty if there is none.
    pub(crate) fn admin_error(&self) -> String {
        let last = self.updates.last().filter(|update| update.state == "error");
        let text = last.and_then(|update| update.body["admin_error"].as_str());
        text.unwrap_or_default().to_owned()
    }

    /// The body of the report of `state`.
    #[track_caller]
    pub(crate) fn body(&self, state: &str) -> &Value {
        let found = self.updates.iter().find(|update| update.state == state);
        self.check(found.is_some(), &format!("a report of {state}"));
        &found.unwrap().body
    }

    /// The `outputs` of the `complete` report: S3 path and checksum.
    #[track_caller]
    pub(crate) fn outputs(&self) -> BTreeMap<String, String> {
        let body = self.body("complete");
        let list = body["outputs"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        list.iter()
            .map(|output| (text(&output["file"]), text(&output["crc64nvme"])))
            .collect()
    }

    /// A file in the job directory.
    #[track_caller]
    pub(crate) fn job_file(&self, name: &str) -> String {
        let bytes = std::fs::read(self.job_dir.join(name));
        self.check(bytes.is_ok(), &format!("a file {name}"));
        String::from_utf8_lossy(&bytes.unwrap()).into_owned()
    }

    /// What the process wrote to standard output.
    pub(crate) fn stdout(&self) -> &str {
        &self.stdout
    }

    /// What the process wrote to standard error.
    pub(crate) fn stderr(&self) -> &str {
        &self.stderr
    }

    /// No container of the job, and below `__input__` nothing but complete inputs.
    async fn check_nothing_left(&self, case: &Case) {
        case.no_container_left().await;
        let expected = case.input_checksums();
        let input_dir = self.job_dir.join("__input__");
        for file in files_below(&input_dir) {
            let name = file
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let checksum = crc64nvme(&std::fs::read(input_dir.join(&file)).unwrap());
            self.check(
                expected.get(&name) == Some(&checksum),
                &format!("no partial or wrong input, not {}", file.display()),
            );
        }
    }

    /// Neither token nor S3 secret in what was printed, reported, stored or left behind.
    async fn check_no_secret(&self, case: &Case) {
        let secrets = [TOKEN, case.testbed.s3.secret.as_str()];
        let clean = |text: &str| secrets.iter().all(|secret| !text.contains(secret));
        self.check(
            clean(&self.stdout) && clean(&self.stderr),
            "no secret in the output",
        );
        let reports = format!("{:?}", self.updates);
        self.check(clean(&reports), "no secret in the reports");
        for path in case.written().await {
            let content = case.store.get(&path).await.unwrap().unwrap_or_default();
            self.check(
                clean(&String::from_utf8_lossy(&content)),
                &format!("no secret in {path}"),
            );
        }
    }

    fn describe(&self) -> String {
        let mut text = format!("exit: {} after {:.1?}\n", self.status, self.took);
        for Update { state, body } in &self.updates {
            let _ = writeln!(text, "report: {state} {body}");
        }
        let _ = write!(
            text,
            "--- stdout\n{}--- stderr\n{}",
            self.stdout, self.stderr
        );
        text
    }
}

/// Regular files below `root`, relative to it; empty if there is no such directory.
fn files_below(root: &Path) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(path);
            } else {
                found.extend(path.strip_prefix(root).map(Path::to_owned));
            }
        }
    }
    found.into_iter().collect()
}
