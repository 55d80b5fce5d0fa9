//! Output trees as containers leave them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cts_executor::collect::{self, CollectError, CollectLimits, Collected, UnusableOutputs};
use cts_executor::object_store::ObjectName;
use cts_executor::transfer::{Source, Upload};
use rustix::fs::{CWD, Mode};
use tokio_util::sync::CancellationToken;

use crate::setup::Setup;

pub(crate) fn collect(root: &Path) -> Result<Collected, CollectError> {
    let limits = CollectLimits::default();
    collect::collect(root, "bucket/out", limits, &CancellationToken::new())
}

pub(crate) fn uploads(collected: Collected) -> Vec<Upload> {
    let files = collected.files.into_iter();
    files
        .map(|file| Upload {
            object: ObjectName::new("b", format!("out/{}", file.path())),
            source: Source::Output(file),
        })
        .collect()
}

fn paths(collected: &Collected) -> Vec<&str> {
    collected
        .files
        .iter()
        .map(cts_executor::collect::CollectedFile::path)
        .collect()
}

fn unusable(result: Result<Collected, CollectError>) -> BTreeMap<String, String> {
    let report: UnusableOutputs = match result {
        Err(CollectError::Unusable(report)) => report,
        other => panic!("{other:?}"),
    };
    assert_eq!(report.count(), report.listed().count() as u64);
    report
        .listed()
        .map(|(name, reason)| (name, reason.to_owned()))
        .collect()
}

fn write(path: impl AsRef<Path>, body: &str) {
    fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    fs::write(path, body).unwrap();
}

#[tokio::test]
async fn files_hard_links_and_inner_links_are_uploaded_in_order() {
    let setup = Setup::new();
    let out = setup.output();
    write(out.join("b/two"), "two");
    write(out.join("a b/ü"), "one");
    write(out.join(".hidden"), "hidden");
    write(out.join("empty"), "");
    fs::create_dir_all(out.join("no/files/here")).unwrap();
    fs::write(setup.dir.path().join("elsewhere"), "hard").unwrap();
    fs::hard_link(setup.dir.path().join("elsewhere"), out.join("hard")).unwrap();
    symlink("../b/two", out.join("a b/latest")).unwrap();
    symlink("b", out.join("linked directory")).unwrap();
    let collected = collect(&out).unwrap();
    assert_eq!(
        paths(&collected),
        [".hidden", "a b/latest", "a b/ü", "b/two", "empty", "hard"]
    );
    assert_eq!(collected.skipped_links, 1);
    assert_eq!(collected.total_bytes(), 6 + 3 + 3 + 3 + 4);

    setup.upload(uploads(collected)).await.unwrap();
    let body = |key| setup.memory.object(&ObjectName::new("b", key)).unwrap();
    assert_eq!(body("out/a b/latest"), "two");
    assert_eq!(body("out/hard"), "hard");
}

#[test]
fn an_empty_tree_has_no_files_and_a_missing_one_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(collect(dir.path()).unwrap().files.len(), 0);
    let error = collect(&dir.path().join("none")).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot read the output directory"),
        "{error}"
    );
    symlink("/etc", dir.path().join("link")).unwrap();
    collect(&dir.path().join("link")).unwrap_err();
}

#[test]
fn everything_unusable_is_reported_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    write(out.join("good"), "good");
    write(dir.path().join("secret"), "token");
    symlink("/etc/passwd", out.join("passwd")).unwrap();
    symlink("/proc/self/environ", out.join("environ")).unwrap();
    symlink("../secret", out.join("climbs")).unwrap();
    symlink("..", out.join("parent")).unwrap();
    symlink("nothing", out.join("dangling")).unwrap();
    symlink("loop", out.join("loop")).unwrap();
    symlink("good/x", out.join("through a file")).unwrap();
    rustix::fs::mkfifoat(CWD, out.join("fifo"), Mode::RUSR | Mode::WUSR).unwrap();
    symlink("fifo", out.join("to fifo")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(out.join("socket")).unwrap();
    write(out.join("new\nline"), "");
    write(out.join("quo'te"), "");
    write(out.join("semi;colon"), "");
    write(out.join(OsStr::from_bytes(b"latin\xe9")), "");
    let long = "x".repeat(250);
    write(out.join(format!("{long}/{long}/{long}/{long}/{long}")), "");
    let report = unusable(collect(&out));
    let reason = |name: &str| report.get(name).map_or("not reported", |reason| &**reason);
    for link in ["passwd", "environ", "climbs", "parent"] {
        assert!(
            reason(link).starts_with("is a link that leads out"),
            "{link}: {}",
            reason(link)
        );
    }
    assert_eq!(reason("dangling"), "is a link to nothing");
    assert_eq!(reason("through a file"), "is a link to nothing");
    assert!(reason("loop").starts_with("is a link that cannot be followed"));
    assert_eq!(reason("fifo"), "is a FIFO");
    assert_eq!(reason("to fifo"), "is a link to something that is a FIFO");
    assert_eq!(reason("socket"), "is a socket");
    assert_eq!(
        reason("new\\nline"),
        "has a control, format, private or unassigned character"
    );
    assert_eq!(reason("quo\\'te"), "has a ' or ;");
    assert_eq!(reason("semi;colon"), "has a ' or ;");
    assert_eq!(reason("latin\\xe9"), "is not UTF-8");
    assert!(
        report
            .values()
            .any(|reason| reason.contains("more than 1024 bytes")),
        "{report:?}"
    );
    assert_eq!(report.len(), 15);
}

#[test]
fn unreadable_files_and_directories_are_reported_by_name() {
    // Root reads everything.
    if rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    write(dir.path().join("file"), "");
    write(dir.path().join("directory/inner"), "");
    for name in ["file", "directory"] {
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let report = unusable(collect(dir.path()));
    fs::set_permissions(
        dir.path().join("directory"),
        fs::Permissions::from_mode(0o700),
    )
    .unwrap();
    assert_eq!(
        report.get("file").unwrap(),
        "is a file that only the container's user may read"
    );
    assert_eq!(
        report.get("directory").unwrap(),
        "is a directory that only the container's user may read"
    );
}

#[test]
fn a_deep_tree_does_not_run_out_of_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let mut at = rustix::fs::open(
        dir.path(),
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY,
        Mode::empty(),
    )
    .unwrap();
    for _ in 0..4000 {
        rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, "d", rustix::fs::OFlags::RDONLY, Mode::empty()).unwrap();
    }
    let report = unusable(collect(dir.path()));
    assert_eq!(report.len(), 1);
    assert!(report.values().next().unwrap().starts_with("is too deep"));
}

#[test]
fn too_many_entries_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..20 {
        write(dir.path().join(format!("d{n}/f")), "");
    }
    let limits = CollectLimits { max_entries: 39 };
    let error = collect::collect(dir.path(), "b/o", limits, &CancellationToken::new()).unwrap_err();
    assert!(
        matches!(error, CollectError::TooMany { limit: 39 }),
        "{error}"
    );
    let limits = CollectLimits { max_entries: 40 };
    collect::collect(dir.path(), "bucket/o", limits, &CancellationToken::new()).unwrap();
}

#[test]
fn a_cancelled_walk_ends() {
    let dir = tempfile::tempdir().unwrap();
    let cancel = CancellationToken::new();
    cancel.cancel();
    let error = collect::collect(dir.path(), "bucket/o", CollectLimits::default(), &cancel);
    assert!(matches!(error, Err(CollectError::Cancelled)));
}

/// Someone swaps a directory for a link to a secret directory, over and over, while the tree is
/// walked and read. Whatever comes of it, the secret does not.
#[tokio::test]
async fn swaps_during_the_walk_never_lead_outside() {
    let setup = Setup::new();
    let inside = setup.output().join("d");
    write(inside.join("file"), "harmless");
    let secret = setup.dir.path().join("secret");
    write(secret.join("file"), "secret");
    let link = setup.dir.path().join("link");
    symlink(&secret, &link).unwrap();

    let stop = Arc::new(AtomicBool::new(false));
    let racer = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(CWD, &inside, CWD, &link, flags).unwrap();
                std::thread::yield_now();
            }
        })
    };
    for _ in 0..500 {
        if let Ok(collected) = collect(&setup.output()) {
            // Sent, or refused as changed.
            drop(setup.upload(uploads(collected)).await);
        }
    }
    stop.store(true, Ordering::Relaxed);
    racer.join().unwrap();
    for object in setup.memory.objects() {
        let body = setup.memory.object(&object).unwrap();
        assert_eq!(body, "harmless", "{object}");
    }
}
