//! A server that stages reference data, as a child process with an auth2 of its own.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use cts_tests::auth2::{Auth2, TokenSpec};
use cts_tests::binaries;
use cts_tests::service_process::As;
use cts_tests::testbed::http;
use cts_tests::testbed::{Layout, Packages, Testbed, free_port};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{Case, TestService, eventually};

const READY_WITHIN: Duration = Duration::from_secs(120);

/// A server about to be started, running, or killed. Killed when dropped.
#[derive(Debug)]
pub(crate) struct RefdataServer {
    url: String,
    port: u16,
    auth2: Auth2,
    /// Of the coordinating service.
    service_token: String,
    /// Of an administrator.
    admin_token: String,
    client: reqwest::Client,
    dir: TempDir,
    root: PathBuf,
    command: Option<Command>,
    child: Option<Child>,
}

impl RefdataServer {
    /// Not started yet: the service must know its address first.
    pub(crate) async fn prepare() -> Self {
        let auth2 = Auth2::start().await.unwrap();
        auth2.set_user("cts", &["CDM_TASK_SERVICE_SERVER"]);
        auth2.set_user("admin", &["CTS_ADMIN"]);
        let port = free_port("refdata-server").unwrap();
        let dir = tempfile::Builder::new()
            .prefix("cts-e2e-refdata-")
            .tempdir()
            .unwrap();
        Self {
            url: format!("http://127.0.0.1:{port}"),
            port,
            service_token: auth2.add_token("cts", TokenSpec::default()),
            admin_token: auth2.add_token("admin", TokenSpec::default()),
            auth2,
            client: http::client().unwrap(),
            root: dir.path().join("refdata"),
            dir,
            command: None,
            child: None,
        }
    }

    /// Another one over the same directories.
    pub(crate) async fn prepare_beside(other: &Self) -> Self {
        let mut beside = Self::prepare().await;
        beside.root.clone_from(&other.root);
        beside
    }

    /// What the service has to be told.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        [
            ("KBCTS_REFDATA_SERVER_URL", self.url.clone()),
            ("KBCTS_REFDATA_SERVER_TOKEN", self.service_token.clone()),
            ("KBCTS_REFDATA_HOST_PATH", self.root.display().to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// The tree of staged data.
    pub(crate) fn tree(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    fn metadata(&self) -> PathBuf {
        // Beside the data, so that two servers over the same data share it.
        self.root.with_extension("metadata")
    }

    /// Starts it for a service, with an S3 server at `s3_url`, and waits until it answers.
    pub(crate) async fn start(&mut self, case: &Case, service: &TestService, s3_url: &str) {
        self.start_by(case, service, s3_url, |executor| {
            let mut command = Command::new(executor);
            command.arg("refdata-server");
            command
        })
        .await;
    }

    /// The same on a file system of `mib` MiB, which is there for the server alone and as long as it runs.
    pub(crate) async fn start_on_small_disk(
        &mut self,
        case: &Case,
        service: &TestService,
        s3_url: &str,
        mib: u32,
    ) {
        let layout = Layout::new(&Testbed::default_dir()).unwrap();
        let packages = Packages::new(&layout, "refdata-server");
        let mkfs =
            packages.debian_installed("e2fsprogs", "mkfs.ext4", "a small disk is made with it");
        let mkfs = mkfs.await.unwrap_or_else(|error| panic!("{error}"));
        let image = self.dir.path().join("disk");
        let script = format!(
            "truncate -s {mib}M {image} && {mkfs} -q {image} && mount -o loop {image} \"$KBCTS_REFDATA_LOCAL_PATH\" && \
             exec \"$0\" refdata-server",
            image = image.display(),
            mkfs = mkfs.display(),
        );
        self.start_by(case, service, s3_url, |executor| {
            let mut command = Command::new("unshare");
            command
                .args(["--mount", "sh", "-c", &script])
                .arg(executor)
                .env("KBCTS_REFDATA_RESERVE_MIB", "1");
            command
        })
        .await;
    }

    async fn start_by(
        &mut self,
        case: &Case,
        service: &TestService,
        s3_url: &str,
        program: impl FnOnce(&Path) -> Command,
    ) {
        std::fs::create_dir_all(&self.root).unwrap();
        std::fs::create_dir_all(self.metadata()).unwrap();
        let executor = binaries::executor().unwrap_or_else(|error| panic!("{error}"));
        let s3 = &case.testbed.s3;
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .unwrap();
        let mut command = program(&executor);
        command
            .env("KBCTS_PORT", self.port.to_string())
            .env("KBCTS_HOST", "127.0.0.1")
            .env("KBCTS_KBASE_AUTH2_URL", self.auth2.url())
            .env("KBCTS_KBASE_AUTH2_ADMIN_ROLES", "CTS_ADMIN")
            .env("KBCTS_S3_URL", s3_url)
            .env("KBCTS_S3_ACCESS_KEY", &s3.access_key)
            .env("KBCTS_S3_ACCESS_SECRET", &s3.secret)
            .env("KBCTS_SERVICE_ROOT_URL", service.url())
            .env("KBCTS_REFDATA_SERVICE_TOKEN", service.token(As::Refdata))
            .env("KBCTS_REFDATA_LOCAL_PATH", &self.root)
            .env("KBCTS_REFDATA_METADATA_PATH", self.metadata())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true);
        self.command = Some(command);
        self.restart().await;
    }

    /// Starts it again as it was started before, and waits until it answers.
    pub(crate) async fn restart(&mut self) {
        let command = self.command.as_mut().unwrap();
        self.child = Some(command.spawn().unwrap());
        eventually("the refdata server", READY_WITHIN, async || {
            match self.client.get(&self.url).send().await {
                Ok(response) if response.status().is_success() => Ok(()),
                Ok(response) => Err(response.status().to_string()),
                Err(error) => Err(format!("{}\n{}", http::reason(&error), self.log())),
            }
        })
        .await;
    }

    /// Kills it as a power cut would.
    pub(crate) async fn kill(&mut self) {
        self.child.as_mut().unwrap().kill().await.unwrap();
    }

    /// Asks it to stage, as the service does. Returns the status of the answer and its application code.
    pub(crate) async fn ask(&self, id: &str) -> (u16, Option<u64>) {
        let url = format!("{}/refdata/{id}/kbase", self.url);
        let request = self.client.post(url).bearer_auth(&self.service_token);
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default();
        (status, body["error"]["appcode"].as_u64())
    }

    /// What it says about staged data.
    pub(crate) async fn status(&self, id: &str) -> Value {
        let url = format!("{}/refdata/{id}/", self.url);
        let request = self.client.get(url).bearer_auth(&self.admin_token);
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
        answer.json().await.unwrap()
    }

    /// The names in the directory of staged data, as the server sees it.
    pub(crate) fn names(&self) -> Vec<String> {
        let pid = self.child.as_ref().and_then(Child::id).unwrap();
        // Through the process: its file system may be its own.
        let seen = format!("/proc/{pid}/root{}", self.root.display());
        let mut names: Vec<String> = std::fs::read_dir(seen)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "lost+found")
            .collect();
        names.sort();
        names
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("refdata-server.log")
    }

    /// What it has printed.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }
}

impl Drop for RefdataServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A closed terminal must not hide why the test failed.
            let _closed = writeln!(
                std::io::stderr(),
                "the refdata server's log:\n{}",
                self.log()
            );
        }
        // Staged trees are read-only: not even their owner could remove their files.
        let _unreadable = std::process::Command::new("chmod")
            .args(["-R", "u+w"])
            .arg(self.dir.path())
            .status();
    }
}
