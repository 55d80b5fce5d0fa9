//! The program as a process, with a disk: what it prints, and what it leaves when it is stopped or killed.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cts_executor::refdata_server::SETTINGS;
use cts_shared::crc64nvme::Crc64Nvme;
use reqwest::Method;
use serde_json::Value;

use crate::auth2::{ADMIN, Auth2, SERVICE};
use crate::bed::eventually;
use crate::s3::S3;
use crate::service::{self, Service};

/// Found in no line of the log.
const S3_SECRET: &str = "CANARYCANARYCANARY";

/// A file that is packed with gzip.
const CONTENT: &[u8] = b"reference data";

struct Machine {
    auth2: Auth2,
    service: Service,
    s3: S3,
    directory: tempfile::TempDir,
}

/// A running program. Killed when it is dropped.
struct Program {
    child: Child,
    url: String,
    log: Arc<Mutex<String>>,
    /// Until its standard error ends.
    reader: Option<std::thread::JoinHandle<()>>,
}

fn packed() -> Vec<u8> {
    let mut packer = flate2::read::GzEncoder::new(CONTENT, flate2::Compression::fast());
    let mut packed = Vec::new();
    packer.read_to_end(&mut packed).unwrap();
    packed
}

impl Machine {
    async fn start() -> Self {
        cts_net::tls::install_provider();
        let machine = Self {
            auth2: Auth2::start().await,
            service: Service::start().await,
            s3: S3::start("/refdata/db.faa.gz", &packed()).await,
            directory: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(machine.root()).unwrap();
        machine
    }

    fn register(&self, checksum: Crc64Nvme) {
        self.service
            .register("x", "refdata/db.faa.gz", &checksum.to_string(), true);
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn note(&self) -> PathBuf {
        self.directory.path().join("metadata/x/staging.json")
    }

    /// What is in the directory of the data.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root()).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    async fn run(&self) -> Program {
        let file = self.directory.path().join("deploy.toml");
        let settings = format!(
            "[Authentication]\nurl = '{}'\nadmin_roles_full = 'CTS_ADMIN'\n\
             [S3]\nurl = '{}'\naccess_key = 'key'\naccess_secret = '{S3_SECRET}'\n\
             [CTS]\ncts_root_url = '{}'\ncts_refdata_token = '{}'\n\
             [Refdata]\nlocal_path = '{}'\nmetadata_path = '{}'\nspare = 1\n",
            self.auth2.url,
            self.s3.url,
            self.service.url,
            service::TOKEN,
            self.root().display(),
            self.directory.path().join("metadata").display(),
        );
        fs::write(&file, settings).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_cts-executor"))
            .arg("refdata-server")
            .env_clear()
            .env("KB_DEPLOYMENT_CONFIG", file)
            .env("KBCTS_HOST", "127.0.0.1")
            .env("KBCTS_PORT", "0")
            .env("KBCTS_REFDATA_RESERVE_MIB", "0")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(String::new()));
        let written = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in lines.lines() {
                *written.lock().unwrap() += &(line.unwrap() + "\n");
            }
        });
        let listening = || log.lock().unwrap().contains("listening on ");
        eventually("listening", listening).await;
        let text = log.lock().unwrap().clone();
        let address = text.split("listening on ").nth(1).unwrap();
        let address = address.lines().next().unwrap().to_owned();
        Program {
            child,
            url: format!("http://{address}"),
            log,
            reader: Some(reader),
        }
    }
}

impl Program {
    async fn call(&self, token: &str, method: Method, path: &str) -> (u16, Value) {
        let request = reqwest::Client::new()
            .request(method, format!("{}{path}", self.url))
            .header("authorization", format!("Bearer {token}"));
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let body = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default();
        (status, body)
    }

    async fn ask(&self) -> u16 {
        self.call(SERVICE, Method::POST, "/refdata/x/kbase").await.0
    }

    async fn status(&self) -> Value {
        self.call(ADMIN, Method::GET, "/refdata/x/").await.1
    }

    fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// SIGTERM, and the exit status.
    async fn terminate(mut self) -> (Option<i32>, String) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status.code();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let status = tokio::time::timeout(Duration::from_secs(30), ended)
            .await
            .unwrap();
        // The last lines may still be on their way.
        self.reader.take().unwrap().join().unwrap();
        (status, self.log())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        let _gone = self.child.kill();
        self.child.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_is_staged_and_no_secret_is_logged() {
    let machine = Machine::start().await;
    let program = machine.run().await;
    machine.s3.give();
    machine.register(Crc64Nvme::of(&packed()));
    assert_eq!(program.status().await["state"], "none");
    assert_eq!(program.ask().await, 204);
    eventually("complete", || machine.service.state("x") == "complete").await;
    let file = machine.root().join("x/db.faa");
    assert_eq!(fs::read(file).unwrap(), CONTENT);
    let status = program.status().await;
    assert_eq!(status["state"], "done", "{status}");
    assert_eq!(status["files"][0]["file"], "db.faa");
    assert_eq!(status["files"][0]["size"], CONTENT.len());
    eventually("the note is gone", || !machine.note().exists()).await;

    let (code, log) = program.terminate().await;
    assert_eq!(code, Some(0), "{log}");
    for line in [
        "Refdata.spare is no setting",
        "S3.access_secret (KBCTS_S3_ACCESS_SECRET): [redacted]",
        "staging begins",
        "staging is done",
        "stopped",
    ] {
        assert!(log.contains(line), "{line}\n{log}");
    }
    for secret in [S3_SECRET, SERVICE, ADMIN, service::TOKEN] {
        assert!(!log.contains(secret), "{secret}\n{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_checksum_is_reported_with_both_and_leaves_nothing() {
    let machine = Machine::start().await;
    let program = machine.run().await;
    machine.s3.give();
    let registered = Crc64Nvme::of(b"something else");
    machine.register(registered);
    assert_eq!(program.ask().await, 204);
    eventually("error", || machine.service.state("x") == "error").await;
    let failures = machine.service.failures();
    let cause = failures[0]["admin_error"].as_str().unwrap();
    for checksum in [registered, Crc64Nvme::of(&packed())] {
        assert!(cause.contains(&checksum.to_string()), "{cause}");
    }
    assert!(cause.contains("s3://refdata/db.faa.gz"), "{cause}");
    assert!(machine.names().is_empty(), "{:?}", machine.names());
    eventually("the note is gone", || !machine.note().exists()).await;
    let status = program.status().await;
    assert_eq!(status["state"], "none");
    assert_eq!(status["error"], cause);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_or_killed_in_the_middle_the_next_start_ends_it() {
    for is_killed in [false, true] {
        let machine = Machine::start().await;
        machine.register(Crc64Nvme::of(&packed()));
        let program = machine.run().await;
        assert_eq!(program.ask().await, 204);
        eventually("the download", || machine.s3.asked() > 0).await;
        assert_eq!(program.status().await["state"], "staging");
        if is_killed {
            drop(program);
        } else {
            let (code, log) = program.terminate().await;
            assert_eq!(code, Some(0), "{log}");
            assert!(machine.names().is_empty(), "{:?}", machine.names());
        }
        assert!(machine.note().exists());
        assert_eq!(machine.service.state("x"), "download_submitted");

        machine.s3.give();
        let _program = machine.run().await;
        eventually("complete", || machine.service.state("x") == "complete").await;
        assert_eq!(machine.names(), ["x"]);
        eventually("the note is gone", || !machine.note().exists()).await;
        assert!(machine.service.failures().is_empty());
    }
}

/// Two servers over one directory, as by mistake: whoever comes second finds it done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_over_one_directory_stage_once() {
    let machine = Machine::start().await;
    machine.register(Crc64Nvme::of(&packed()));
    let first = machine.run().await;
    assert_eq!(first.ask().await, 204);
    eventually("the download", || machine.s3.asked() > 0).await;
    // Takes the first one's note up.
    let second = machine.run().await;
    eventually("the second one's turn", || {
        second.log().contains("staging begins")
    })
    .await;
    machine.s3.give();
    eventually("complete", || machine.service.state("x") == "complete").await;
    eventually("both are done", || {
        [&first, &second]
            .iter()
            .all(|program| program.log().contains("staging is done"))
    })
    .await;
    assert_eq!(machine.s3.asked(), 1);
    assert_eq!(machine.names(), ["x"]);
    assert!(machine.service.failures().is_empty());
}

fn output(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_cts-executor"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn the_help_lists_every_setting() {
    let (code, text) = output(&["refdata-server", "--help"], &[]);
    assert_eq!(code, Some(0));
    for setting in SETTINGS {
        assert!(text.contains(setting.variable), "{}", setting.variable);
    }
}

#[test]
fn without_settings_it_does_not_start() {
    let (code, text) = output(&["refdata-server"], &[]);
    assert_eq!(code, Some(78));
    for variable in ["KBCTS_S3_URL", "KBCTS_REFDATA_METADATA_PATH"] {
        assert!(text.contains(&format!("({variable}) is not set")), "{text}");
    }
}

/// A start that ends at its directories.
fn refused(root: &str, metadata: &str) -> String {
    let (code, text) = output(
        &["refdata-server"],
        &[
            ("KBCTS_S3_URL", "http://127.0.0.1:9"),
            ("KBCTS_S3_ACCESS_KEY", "key"),
            ("KBCTS_S3_ACCESS_SECRET", "secret"),
            ("KBCTS_REFDATA_SERVICE_TOKEN", "token"),
            ("KBCTS_REFDATA_LOCAL_PATH", root),
            ("KBCTS_REFDATA_METADATA_PATH", metadata),
        ],
    );
    assert_eq!(code, Some(78), "{text}");
    text
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_str().unwrap();
    let text = refused("/proc", &format!("{root}/metadata"));
    assert!(text.contains("/proc, Refdata.local_path"), "{text}");
    let text = refused(root, "/proc/metadata");
    let named = "/proc/metadata, Refdata.metadata_path";
    assert!(text.contains(named), "{text}");
}

/// Its file system is not mounted: staged below the mount point, data would fill another disk, and be hidden.
#[test]
fn a_root_that_is_not_there_is_not_made() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("data");
    let metadata = directory.path().join("metadata");
    let text = refused(root.to_str().unwrap(), metadata.to_str().unwrap());
    assert!(text.contains(root.to_str().unwrap()), "{text}");
    assert!(text.contains("is the file system mounted?"), "{text}");
    assert!(!root.exists());
}

#[test]
fn metadata_among_the_trees_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_str().unwrap();
    let text = refused(root, &format!("{root}/metadata"));
    assert!(
        text.contains(&format!("lies among the trees of {root}")),
        "{text}"
    );
}
