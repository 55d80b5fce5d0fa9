//! The wrapper of HTCondor jobs (`condor/run_job.sh`) and the archive that it unpacks, on a worker as the
//! existing service and HTCondor set it up. The first tests run jobs on the real components; the others
//! need none, since the wrapper ends before the executor, or the executor before its first request.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use cts_tests::binaries;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::harness::{Case, Coordinator, Executor, eventually};

const DEADLINE: Duration = Duration::from_secs(60);
const JOB_ID: &str = "6f1c3bb0-6d0c-4c4e-93c0-6f1d6e3c1f56";
const ACCESS_KEY: &str = "e2e-access-key-9b1d-canary";

#[tokio::test]
async fn runs_a_job_of_the_existing_service() {
    let case = Case::new(
        "wrapper",
        &["copy_inputs", "say hello", "complain about that"],
    );
    let case = case.await.input("reads.fq", b"@r\nACGT\n+\n!!!!\n").await;
    let coordinator = Coordinator::start(case.job()).await;
    let outcome = Executor::by_wrapper(&case).run(&case, &coordinator).await;

    outcome.check_status(0);
    let update = |state| {
        let job = &case.job_id;
        format!("PUT /external_exec/jobs/{job}/container/0/update/{state}")
    };
    let expected = [
        "GET ".to_owned(),
        format!("GET /admin/jobs/{}", case.job_id),
        update("job_submitting"),
        update("job_submitted"),
        update("upload_submitting"),
        update("upload_submitted"),
        update("complete"),
    ];
    let requests = coordinator.requests();
    outcome.check(
        requests == expected,
        &format!("the requests {expected:?}, not {requests:?}"),
    );
    for (path, content) in [
        (case.output_path("reads.fq"), "@r\nACGT\n+\n!!!!\n"),
        (
            format!("{}/container-0-stdout.txt", case.log_path()),
            "hello\n",
        ),
        (
            format!("{}/container-0-stderr.txt", case.log_path()),
            "about that\n",
        ),
    ] {
        let object = case.store.get(&path).await.unwrap();
        outcome.check(
            object.as_deref() == Some(content.as_bytes()),
            &format!("{content:?} in {path}"),
        );
    }
    let logs = format!("cts-{}-0-container", case.job_id);
    outcome.check(
        outcome.job_file(&format!("{logs}.out")) == "hello\n"
            && outcome.job_file(&format!("{logs}.err")) == "about that\n",
        "the container's streams in the files that HTCondor takes back",
    );
    outcome.check(
        outcome
            .stdout()
            .contains(&format!("JOB_ID={}", case.job_id)),
        "the variables on standard output",
    );
}

/// HTCondor sets no path for jobs without the submitter's environment.
#[tokio::test]
async fn runs_a_job_without_a_path() {
    let case = Case::new("wrapper-no-path", &["exit 3"]).await;
    let case = case.input("a", b"a").await;
    let coordinator = Coordinator::start(case.job()).await;
    let outcome = Executor::by_wrapper(&case)
        .without("PATH")
        .run(&case, &coordinator)
        .await;
    outcome.check_status(0);
    outcome.check_error_names(&["Container exit code: 3"]);
    let path = outcome
        .stdout()
        .lines()
        .find(|line| line.starts_with("PATH:"));
    let path = path.unwrap_or_default();
    outcome.check(
        path.contains("/bin") && !path.ends_with(":."),
        "a path without the current directory",
    );
}

#[tokio::test]
async fn hands_sigterm_on_to_the_executor() {
    let case = Case::new("wrapper-term", &["started_and_waiting"]).await;
    let case = case.input("a", b"a").await;
    let coordinator = Coordinator::start(case.job()).await;
    let running = Executor::by_wrapper(&case)
        .env("CTS_STOP_GRACE_SECS", "2")
        .start(&coordinator);
    eventually("the container at work", DEADLINE, async || {
        running.output("started")
    })
    .await;
    running.terminate();
    // That the container is gone is checked after every run.
    let outcome = running.finish(&case, &coordinator).await;
    outcome.check_status(143);
}

#[tokio::test]
async fn a_truncated_archive_is_told() {
    let whole = std::fs::read(archive()).unwrap();
    let worker = Worker::new(Archive::Bytes(whole[..whole.len() / 2].to_vec()));
    let outcome = worker.run().await;
    outcome.check_failed(75, "cannot unpack cts-executor from the archive.tgz");
}

#[tokio::test]
async fn an_archive_with_something_else_is_told() {
    let other = archive_of("main.py", b"print()");
    let outcome = Worker::new(Archive::Bytes(other)).run().await;
    outcome.check_failed(75, "cannot unpack cts-executor from the archive.tgz");
}

#[tokio::test]
async fn an_archive_that_is_not_there_is_told() {
    let outcome = Worker::new(Archive::Absent).run().await;
    outcome.check_failed(78, "the executor's archive the archive.tgz (CODE_ARCHIVE)");
}

#[tokio::test]
async fn an_executor_for_other_machines_is_told() {
    // The head of a program for AArch64 (System V ABI, "ELF Header"): 64 bits, little endian, machine 183.
    let mut program = vec![0; 64];
    program[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    program[16] = 2;
    program[18] = 183;
    program[20] = 1;
    let archive = archive_of("cts-executor", &program);
    let outcome = Worker::new(Archive::Bytes(archive)).run().await;
    outcome.check_failed(78, "does not run on this machine (Linux");
}

#[tokio::test]
async fn a_worker_without_tar_is_told() {
    let worker = Worker::new(Archive::Real).env("PATH", "/nonexistent");
    worker.run().await.check_failed(78, "tar is not installed");
}

#[tokio::test]
async fn wrong_variables_are_the_executors_to_tell() {
    let worker = Worker::new(Archive::Real).env("S3_URL", "no url");
    let outcome = worker.run().await;
    outcome.check_status(78);
    outcome.check(outcome.stderr.contains("S3_URL"), "S3_URL named");
    outcome.check(outcome.log("err").is_some(), "log files");

    let outcome = Worker::new(Archive::Real).env("JOB_ID", "../x").run().await;
    outcome.check_status(78);
    outcome.check(outcome.stderr.contains("JOB_ID"), "JOB_ID named");
}

/// The signal comes when the wrapper has only just started tar: it may still be bash that opens the archive.
#[tokio::test]
async fn sigterm_ends_the_unpacking_that_has_just_begun() {
    sigterm_ends_the_unpacking(b"").await;
}

/// tar's decompressor, a process of its own, is reading.
#[tokio::test]
async fn sigterm_ends_the_unpacking_in_its_middle() {
    // The header of a gzip member (RFC 1952, section 2.3).
    sigterm_ends_the_unpacking(b"\x1f\x8b\x08\0\0\0\0\0\0\x03").await;
}

/// A FIFO as the archive: unpacking goes on for as long as the test likes.
async fn sigterm_ends_the_unpacking(beginning: &[u8]) {
    let worker = Worker::new(Archive::Fifo);
    let fifo = worker.file(ARCHIVE);
    let child = worker.start();
    let writer = eventually("tar at work", DEADLINE, async || {
        // Opening succeeds when there is a reader.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let mut options = std::fs::OpenOptions::new();
        let opened = options.write(true).custom_flags(flags).open(&fifo);
        opened.map_err(|error| error.to_string())
    })
    .await;
    rustix::io::write(&writer, beginning).unwrap();
    eventually(
        "the beginning read",
        DEADLINE,
        async || match rustix::io::ioctl_fionread(&writer) {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await;
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    // Its pipes are closed: no process is left that has them.
    let outcome = worker.outcome(child).await;
    outcome.check_status(143);
    eventually("tar's end", DEADLINE, async || {
        match rustix::io::write(&writer, b"x") {
            Err(rustix::io::Errno::PIPE) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn variables_survive_into_the_file_for_debugging() {
    let values = [
        ("ADDITIONAL_PATH", "/opt/it's here:/a \"b\"/bin"),
        ("REFDATA_HOST_PATH", "/ref data/$(touch pwned)/`x`;&\n*"),
        ("CTS_REFDATA_DIR", "/mnt/ref data"),
        ("MOUNT_PREFIX_OVERRIDE", "/a:/b"),
    ];
    // One that ends the run after the file was written.
    let mut worker = Worker::new(Archive::Bytes(Vec::new()));
    for (name, value) in values {
        worker = worker.env(name, value);
    }
    let outcome = worker.run().await;
    outcome.check_status(75);
    let file = outcome.file("job_envs.source");
    let mode = file.metadata().unwrap().permissions().mode();
    outcome.check(mode & 0o7777 == 0o600, "mode 0600");
    let printed = std::fs::read_to_string(&file).unwrap() + &outcome.stdout + &outcome.stderr;
    outcome.check(!printed.contains(ACCESS_KEY), "no access key");
    for (name, value) in values {
        let script = format!(". ./job_envs.source && printf %s \"${name}\"");
        let output = Command::new("/bin/bash")
            .args(["-euc", &script])
            .current_dir(file.parent().unwrap())
            .env_clear()
            .output();
        let output = output.await.unwrap();
        let read = String::from_utf8_lossy(&output.stdout);
        outcome.check(read == value, &format!("{name}={value:?}, not {read:?}"));
    }
    outcome.check(!outcome.file("pwned").exists(), "nothing executed");
}

const SCRIPT: &str = "executable.sh";
const ARCHIVE: &str = "the archive.tgz";

/// What the worker has under the archive's name.
enum Archive {
    /// That of `make archive`.
    Real,
    Bytes(Vec<u8>),
    Fifo,
    Absent,
}

fn archive() -> PathBuf {
    binaries::executor_archive().unwrap_or_else(|error| panic!("{error}"))
}

/// An archive with one program.
fn archive_of(name: &str, content: &[u8]) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join(name);
    std::fs::write(&program, content).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let output = std::process::Command::new("tar")
        .arg("-cz")
        .arg("-C")
        .arg(directory.path())
        .arg(name)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

/// A scratch directory with the two files, and the variables of container 0.
struct Worker {
    scratch: TempDir,
    environment: BTreeMap<&'static str, String>,
}

impl Worker {
    fn new(archive: Archive) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::copy(binaries::wrapper(), scratch.path().join(SCRIPT)).unwrap();
        let path = scratch.path().join(ARCHIVE);
        match archive {
            Archive::Real => drop(std::fs::copy(self::archive(), path).unwrap()),
            Archive::Bytes(bytes) => std::fs::write(path, bytes).unwrap(),
            Archive::Fifo => {
                let mode = rustix::fs::Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0)
                    .unwrap();
            }
            Archive::Absent => {}
        }
        let variables = [
            ("JOB_ID", JOB_ID),
            ("CONTAINER_NUMBER", "0"),
            ("CODE_ARCHIVE", ARCHIVE),
            ("SERVICE_ROOT_URL", "http://127.0.0.1:1"),
            ("TOKEN_PATH", "/nonexistent/token"),
            ("S3_URL", "http://127.0.0.1:1"),
            ("S3_ACCESS_KEY", ACCESS_KEY),
            ("S3_SECRET_PATH", "/nonexistent/secret"),
            ("PATH", "/usr/bin:/bin"),
        ];
        let environment = variables.map(|(name, value)| (name, value.to_owned()));
        Self {
            scratch,
            environment: environment.into(),
        }
    }

    fn env(mut self, name: &'static str, value: &str) -> Self {
        self.environment.insert(name, value.to_owned());
        self
    }

    fn file(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn start(&self) -> Child {
        Command::new("/bin/bash")
            .arg(SCRIPT)
            .env_clear()
            .envs(&self.environment)
            .current_dir(self.scratch.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    async fn outcome(self, child: Child) -> Outcome {
        let output = tokio::time::timeout(DEADLINE, child.wait_with_output())
            .await
            .expect("the wrapper does not end")
            .unwrap();
        Outcome {
            scratch: self.scratch,
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    async fn run(self) -> Outcome {
        let child = self.start();
        self.outcome(child).await
    }
}

/// How the wrapper ended.
struct Outcome {
    scratch: TempDir,
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Outcome {
    #[track_caller]
    fn check(&self, holds: bool, what: &str) {
        let Self {
            status,
            stdout,
            stderr,
            ..
        } = self;
        assert!(
            holds,
            "expected: {what}\nstatus: {status:?}\n--- stdout\n{stdout}--- stderr\n{stderr}"
        );
    }

    #[track_caller]
    fn check_status(&self, code: i32) {
        self.check(self.status == Some(code), &format!("exit status {code}"));
    }

    /// The wrapper itself failed: it says so on standard error and in the container's log file.
    #[track_caller]
    fn check_failed(&self, code: i32, sentence: &str) {
        self.check_status(code);
        let told = self.stderr.lines().filter(|line| line.contains(sentence));
        self.check(told.count() == 1, &format!("{sentence:?}, once"));
        let log = self.log("err").unwrap_or_default();
        self.check(log.contains(sentence), &format!("the same in {log:?}"));
        self.check(self.log("out").is_some(), "both log files");
    }

    /// One of the two files that HTCondor takes back.
    fn log(&self, suffix: &str) -> Option<String> {
        let path = self.file(&format!("cts-{JOB_ID}-0-container.{suffix}"));
        match std::fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            read => Some(read.unwrap()),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }
}
