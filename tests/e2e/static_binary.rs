//! The executor as one static file: `make static` builds it.

use std::path::PathBuf;
use std::process::Command;

use cts_tests::binaries;

const MAX_BYTES: u64 = 20_000_000;

/// The static build. `make test` makes it first; a missing one fails the test.
fn binary() -> PathBuf {
    binaries::static_executor().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn is_one_small_static_file() {
    let binary = binary();
    let size = binary.metadata().unwrap().len();
    assert!(
        size < MAX_BYTES,
        "{size} bytes, at most {MAX_BYTES} are allowed"
    );
    let output = Command::new("ldd").arg(&binary).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let is_static = text.contains("statically linked") || text.contains("not a dynamic executable");
    assert!(is_static, "ldd says: {text}");
}

#[test]
fn starts_in_an_empty_directory_tree() {
    let root = tempfile::tempdir().unwrap();
    std::fs::copy(binary(), root.path().join("cts-executor")).unwrap();
    // An ordinary user may change the root in a user namespace of its own.
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new("chroot")
    } else {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "chroot"]);
        command
    };
    let output = command
        .arg(root.path())
        .args(["/cts-executor", "--version"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {errors}", output.status);
    assert!(text.starts_with("cts-executor "), "it says {text:?}");
}
