//! A directory tree with the executor and nothing else, and the executor running in it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

use crate::harness::TOKEN;

/// For one run; each check of `doctor` ends by itself within 15 s.
const DEADLINE: Duration = Duration::from_secs(60);
/// Where `chroot`, `unshare` and `ip` are, whatever the user's path is.
const SYSTEM_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// For an ordinary user: runs the named test again as root of a user and network namespace of its
/// own, where it may change the root directory and serve port 53, and says true. For root: brings
/// nothing about, says false, and the caller goes on.
pub(super) async fn rerun_as_root(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return false;
    }
    // A new network namespace has a loopback interface, but it is down.
    let script =
        r#"PATH="$PATH:/usr/sbin:/sbin"; ip link set lo up && exec "$0" "$1" --exact --nocapture"#;
    let output = Command::new("unshare")
        .args(["--map-root-user", "--net", "sh", "-euc", script])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(2 * DEADLINE, output)
        .await
        .unwrap_or_else(|_| panic!("{test} in a namespace: no end within {:?}", 2 * DEADLINE))
        .unwrap_or_else(|error| panic!("unshare (Debian package util-linux): {error}"));
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && stdout.contains("1 passed"),
        "{test} as root of a namespace: {}; needed are user namespaces for ordinary users and \
         `ip` (Debian package iproute2), or root\n{stdout}{stderr}",
        output.status
    );
    true
}

/// A directory tree that has only what the test puts there.
#[derive(Debug)]
pub(super) struct EmptyTree(TempDir);

impl EmptyTree {
    /// A tree with the executor.
    pub(super) fn new(executor: &Path) -> Self {
        let root = tempfile::tempdir().unwrap();
        // By another process: one that this process starts meanwhile would inherit the open file, and a file that is
        // open for writing cannot be run.
        let copied = std::process::Command::new("cp")
            .arg(executor)
            .arg(root.path().join("cts-executor"))
            .status();
        assert!(copied.unwrap().success());
        Self(root)
    }

    /// Adds a file.
    pub(super) fn file(self, path: &str, content: &str) -> Self {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    /// Runs the executor with the tree as its root directory and no other environment.
    pub(super) async fn run(&self, arguments: &[&str], environment: &[(&str, String)]) -> Outcome {
        let output = Command::new("chroot")
            .arg(self.0.path())
            .arg("/cts-executor")
            .args(arguments)
            .env_clear()
            .env("PATH", SYSTEM_PATH)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(DEADLINE, output)
            .await
            .unwrap_or_else(|_| panic!("{arguments:?}: no end within {DEADLINE:?}"))
            .unwrap();
        Outcome {
            success: output.status.success(),
            ended: output.status.to_string(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs `doctor` with a token against the service at `url`.
    pub(super) async fn doctor(self, url: &str, environment: &[(&str, String)]) -> Outcome {
        let tree = self.file("token", TOKEN);
        let mut all = vec![
            ("SERVICE_ROOT_URL", url.to_owned()),
            ("TOKEN_PATH", "/token".to_owned()),
        ];
        all.extend_from_slice(environment);
        tree.run(&["doctor"], &all).await
    }
}

/// How the executor ended and what it printed.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) success: bool,
    pub(super) stdout: String,
    ended: String,
    stderr: String,
}

impl Outcome {
    /// Fails the test with everything printed, unless `holds`.
    #[track_caller]
    pub(super) fn check(&self, holds: bool, what: &str) {
        assert!(
            holds,
            "expected: {what}\n{}\n--- stdout\n{}--- stderr\n{}",
            self.ended, self.stdout, self.stderr
        );
    }

    /// The line of one of `doctor`'s checks, with its answer (`ok`, `FAIL`) and all of `words`.
    #[track_caller]
    pub(super) fn check_line(&self, check: &str, answer: &str, words: &[&str]) -> &str {
        let line = self
            .stdout
            .lines()
            .find(|line| line.split_whitespace().nth(1) == Some(check))
            .unwrap_or_default();
        self.check(
            line.starts_with(&format!("{answer} ")),
            &format!("{answer} for {check}"),
        );
        for word in words {
            self.check(line.contains(word), &format!("{word:?} in {line:?}"));
        }
        line
    }
}
