//! `cts-service migrate` as a process.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rand::Rng;

use cts_service::sqlite::SqliteStore;
use cts_service::store_copy::StoreCopy;

use super::{FURNISHED, TestFile, check, events, furnish};
use crate::fixtures::insert;

/// Longer than any run here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// The program with that environment and no other.
pub(super) fn migrate(from: &str, to: &str, environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cts-service"));
    command
        .args(["migrate", "--from", from, "--to", to])
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

pub(super) fn output(mut command: Command) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = String::from_utf8([stdout, stderr].concat()).unwrap();
    assert!(!text.contains("canary"), "{text}");
    (status.code(), text)
}

pub(super) fn place(file: &TestFile) -> String {
    format!("sqlite:{}", file.directory.path().display())
}

/// Has the program killed again and again, each time when the target holds some more of that many jobs.
pub(super) async fn kill_again_and_again(
    from: &str,
    to: &str,
    total: u64,
    in_target: impl AsyncFn() -> u64,
) {
    let mut killed_midway = 0;
    for round in 1..=5 {
        let enough = total * round / 6;
        let mut child = migrate(from, to, &[]).spawn().unwrap();
        let begun = Instant::now();
        while in_target().await < enough && child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < DEADLINE, "{enough} jobs are never there");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // At any point of the next job.
        let delay = rand::rng().random_range(0..5000);
        tokio::time::sleep(Duration::from_micros(delay)).await;
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        assert!(!ended.success() || in_target().await == total);
        killed_midway += u32::from((1..total).contains(&in_target().await));
    }
    assert!(killed_midway >= 2, "killed midway {killed_midway} times");
    let (status, text) = output(migrate(from, to, &[]));
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("both stores are the same"), "{text}");
}

/// Stores that many jobs.
pub(super) async fn fill(store: &SqliteStore, jobs: u64) {
    furnish(store).await;
    let more = (FURNISHED.jobs..jobs).map(|_| insert(store, 3));
    futures::future::join_all(more).await;
}

#[tokio::test]
async fn a_killed_run_is_completed_by_the_next() {
    const JOBS: u64 = 600;
    let (source, target) = (TestFile::new(), TestFile::new());
    fill(&source.open(), JOBS).await;
    let path = target.directory.path().join("cts.sqlite");
    let in_target = async || count(&path).unwrap_or(0);
    kill_again_and_again(&place(&source), &place(&target), JOBS, in_target).await;
    let (source, target) = (source.open(), target.open());
    assert_eq!(check(&source, &target).await.unwrap().jobs, JOBS);
    assert_eq!(events(&target).await, events(&source).await);
}

/// The jobs in a file that the program may be about to make.
fn count(path: &Path) -> rusqlite::Result<u64> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = rusqlite::Connection::open_with_flags(path, flags)?;
    connection.query_row("SELECT count(*) FROM jobs", (), |row| {
        row.get::<_, i64>(0).map(i64::unsigned_abs)
    })
}

#[tokio::test]
async fn it_says_what_was_copied_and_checks() {
    let (source, target) = (TestFile::new(), TestFile::new());
    furnish(&source.open()).await;
    let (from, to) = (place(&source), place(&target));
    let mut command = migrate(&from, &to, &[]);
    command.arg("--check");
    let (status, text) = output(command);
    assert_eq!(status, Some(78), "{text}");
    assert!(text.contains("--to: there is no database"), "{text}");

    let (status, text) = output(migrate(&from, &to, &[]));
    assert_eq!(status, Some(0), "{text}");
    let counted = "6 jobs with 9 containers and 14 transitions, 4 images, 2 reference data, 1 sites switched off";
    assert!(text.contains(counted), "{text}");

    let strange = insert(&target.open(), 1).await.id.to_string();
    for check in [true, false] {
        let mut command = migrate(&from, &format!("{to}/cts.sqlite"), &[]);
        command.args(check.then_some("--check"));
        let (status, text) = output(command);
        assert_eq!(status, Some(1), "{text}");
        assert!(text.contains(&strange), "{text}");
    }
    assert_eq!(target.open().sizes().await.unwrap().jobs, 7);
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let (source, target) = (TestFile::new(), TestFile::new());
    drop(source.open());
    let (from, to) = (place(&source), place(&target));
    let inside = format!("{from}/cts.sqlite");
    for (from, to, wanted) in [
        (&*from, &*inside, "--from and --to: both are the same store"),
        (
            "mongodb://a/b",
            "mongodb://a/b?c=d",
            "both are the same store",
        ),
        (
            "sqlite:/nowhere/at/all",
            &*to,
            "--from: there is no database",
        ),
        (&*from, "mongodb://cts:canary@db/cts", "--to: other users"),
        (&*from, "somewhere", "--to: it is no store"),
    ] {
        let (status, text) = output(migrate(from, to, &[]));
        assert_eq!(status, Some(78), "{text}");
        assert!(text.contains(wanted), "{wanted:?} in {text}");
    }
    // A configuration that is not there is not that of a database on this machine.
    let config = [("KB_DEPLOYMENT_CONFIG", "/nowhere/cts.toml")];
    let (status, text) = output(migrate(&from, "mongodb", &config));
    assert_eq!(status, Some(78), "{text}");
    assert!(text.contains("/nowhere/cts.toml"), "{text}");

    let lock = std::fs::File::create(source.directory.path().join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let (status, text) = output(migrate(&from, &to, &[]));
    assert_eq!(status, Some(75), "{text}");
    assert!(
        text.contains("another cts-service uses the directory"),
        "{text}"
    );
}
