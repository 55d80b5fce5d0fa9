//! The `refdata` commands as processes, over an S3 store on loopback: what they print, how they end, and what
//! is left when one is killed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cts_executor::refdata::unpack::remove_tree;
use cts_shared::crc64nvme::Crc64Nvme;
use cts_shared::wire::refdata::StagingProgress;
use futures::StreamExt;
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::{Value, json};
use tokio::sync::watch;
use wiremock::matchers::{body_json, header as has_header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::bed::DEADLINE;
use super::refdata::{archive, files, names, tree};

const PROGRAM: &str = env!("CARGO_BIN_EXE_cts-executor");

/// An S3 store with one object, `s3://bucket/db.tar.gz`.
struct S3 {
    url: String,
    shared: Arc<Shared>,
}

struct Shared {
    body: Bytes,
    gets: AtomicUsize,
    /// Bodies stop in the middle while this is true.
    held: watch::Sender<bool>,
}

impl S3 {
    async fn start() -> Self {
        let shared = Arc::new(Shared {
            body: archive().into(),
            gets: AtomicUsize::new(0),
            held: watch::Sender::new(false),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/bucket/db.tar.gz", axum::routing::get(get))
            .with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, shared }
    }

    fn hold(&self, held: bool) {
        self.shared.held.send_replace(held);
    }

    fn gets(&self) -> usize {
        self.shared.gets.load(Ordering::Relaxed)
    }
}

async fn get(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    shared.gets.fetch_add(1, Ordering::Relaxed);
    let len = shared.body.len();
    let range = headers.get(header::RANGE).map(|range| {
        let range = range.to_str().unwrap().strip_prefix("bytes=").unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let end = end.parse::<usize>().unwrap().min(len - 1);
        start.parse::<usize>().unwrap()..end + 1
    });
    let (status, range) = match range {
        Some(range) => (StatusCode::PARTIAL_CONTENT, range),
        None => (StatusCode::OK, 0..len),
    };
    let content_range = format!("bytes {}-{}/{len}", range.start, range.end - 1);
    let bytes = shared.body.slice(range);
    let content_length = bytes.len();
    let middle = bytes.len() / 2;
    let (first, rest) = (bytes.slice(..middle), bytes.slice(middle..));
    let mut held = shared.held.subscribe();
    let body = futures::stream::iter([first]).chain(futures::stream::once(async move {
        held.wait_for(|held| !held).await.unwrap();
        rest
    }));
    let headers = [
        (header::ETAG, "\"etag\"".to_owned()),
        (header::CONTENT_RANGE, content_range),
        (header::CONTENT_LENGTH, content_length.to_string()),
    ];
    let body = Body::from_stream(body.map(Ok::<_, std::io::Error>));
    (status, headers, body).into_response()
}

/// A directory for the data.
struct Bed {
    s3: S3,
    dir: tempfile::TempDir,
}

impl Drop for Bed {
    fn drop(&mut self) {
        remove_tree(self.dir.path()).unwrap();
    }
}

impl Bed {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        Self {
            s3: S3::start().await,
            dir,
        }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn command(&self, task: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(["refdata", task, "--root"])
            .arg(self.root())
            .args(arguments)
            .env_clear()
            .envs([
                ("S3_URL", self.s3.url.as_str()),
                ("S3_ACCESS_KEY", "key"),
                ("S3_SECRET", "secret"),
                ("CTS_REFDATA_RESERVE_MIB", "0"),
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn stage(&self) -> Command {
        let checksum = Crc64Nvme::of(&archive()).to_string();
        self.command(
            "stage",
            &[
                "--id",
                "x",
                "--object",
                "bucket/db.tar.gz",
                "--crc64nvme",
                &checksum,
                "--unpack",
            ],
        )
    }

    /// Starts a staging that stops in the middle, and waits until it has begun to write.
    fn stage_half(&self) -> Child {
        self.s3.hold(true);
        let gets = self.s3.gets();
        let child = self.stage().spawn().unwrap();
        let begun = || self.s3.gets() > gets && self.root().join(".staging-x").exists();
        wait_until("the staging begins", begun);
        child
    }

    fn assert_staged(&self) {
        assert_eq!(
            names(&self.root()),
            [".metadata", "x"].map(str::to_owned).into()
        );
        assert_eq!(tree(&self.root().join("x")), files());
    }
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The end of a process, on a thread that may wait for it.
async fn end(child: Child) -> Output {
    let waiting = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    tokio::time::timeout(DEADLINE, waiting)
        .await
        .unwrap()
        .unwrap()
}

async fn output(mut command: Command) -> Output {
    end(command.spawn().unwrap()).await
}

fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The lines that are for people, not the log's.
fn complaints(output: &Output) -> Vec<&str> {
    text(&output.stderr)
        .lines()
        .filter(|line| line.starts_with("cts-executor: "))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn data_is_staged_listed_verified_and_pruned() {
    let bed = Bed::new().await;
    let staged = output(bed.stage()).await;
    assert_eq!(staged.status.code(), Some(0), "{}", text(&staged.stderr));
    let said = text(&staged.stdout);
    assert!(
        said.starts_with("staged ") && said.contains("3 files"),
        "{said}"
    );
    bed.assert_staged();
    let again = output(bed.stage()).await;
    assert!(text(&again.stdout).starts_with("already there: "));

    let listed = output(bed.command("list", &["--format", "json"])).await;
    let items: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(items[0]["id"], "x");
    assert_eq!(items[0]["state"], "done");
    assert_eq!(
        (&items[0]["files"], &items[0]["bytes"]),
        (&json!(3), &json!(14))
    );
    let table = output(bed.command("list", &[])).await;
    let table: Vec<Vec<&str>> = text(&table.stdout)
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(table[0][..3], ["ID", "STATE", "FILES"]);
    assert_eq!(table[1][..5], ["x", "done", "3", "14", "B"]);

    let verified = output(bed.command("verify", &[])).await;
    assert_eq!(verified.status.code(), Some(0));
    let victim = bed.root().join("x/readme");
    fs::set_permissions(&victim, PermissionsExt::from_mode(0o644)).unwrap();
    fs::write(&victim, "tixt").unwrap();
    let different = output(bed.command("verify", &["x"])).await;
    assert_eq!(different.status.code(), Some(1));
    let said = text(&different.stdout);
    assert!(
        said.contains("DIFFERENT x: \"readme\" has CRC64NVME"),
        "{said}"
    );

    let kept = output(bed.command("prune", &["--keep", "x"])).await;
    assert!(text(&kept.stdout).contains("removed 0 of 0"));
    let shown = output(bed.command("prune", &["--dry-run", "--keep", "y"])).await;
    assert!(text(&shown.stdout).contains("would remove x, 14 B"));
    assert!(bed.root().join("x").exists());
    let pruned = output(bed.command("prune", &["--keep", "y"])).await;
    assert_eq!(pruned.status.code(), Some(0));
    assert!(text(&pruned.stdout).contains("removed 1 of 1 unused, 14 B"));
    assert_eq!(names(&bed.root()), [".metadata".to_owned()].into());
    assert!(names(&bed.root().join(".metadata")).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_or_misplaced_metadata_directory_costs_nothing() {
    let bed = Bed::new().await;
    assert!(output(bed.stage()).await.status.success());
    let elsewhere = bed.dir.path().join("metadata");
    fs::rename(bed.root().join(".metadata"), &elsewhere).unwrap();
    let listed = output(bed.command("list", &[])).await;
    let said = text(&listed.stdout);
    assert!(
        said.contains("foreign") && said.contains("left alone"),
        "{said}"
    );
    let pruned = output(bed.command("prune", &["--keep", "y"])).await;
    assert!(text(&pruned.stdout).contains("removed 0 of 0"));
    let verified = output(bed.command("verify", &[])).await;
    assert_eq!(verified.status.code(), Some(1));

    let among = bed.root().join("metadata");
    fs::rename(&elsewhere, &among).unwrap();
    for task in ["list", "verify", "prune"] {
        let mut command = bed.command(task, &["--metadata", among.to_str().unwrap()]);
        if task == "prune" {
            command.args(["--keep", "y"]);
        }
        let refused = output(command).await;
        assert_eq!(refused.status.code(), Some(78), "{task}");
        assert!(
            complaints(&refused)[0].contains("lies among the trees"),
            "{}",
            text(&refused.stderr)
        );
    }
    assert!(among.join("x/md5.json").exists());
    assert_eq!(tree(&bed.root().join("x")), files());
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_told_one_a_line_and_flags_go_first() {
    let bed = Bed::new().await;
    let mut command = bed.stage();
    command
        .env_remove("S3_URL")
        .env("CTS_REFDATA_MAX_ENTRIES", "many")
        .env_remove("S3_SECRET");
    let refused = output(command).await;
    assert_eq!(refused.status.code(), Some(78));
    let said = complaints(&refused);
    for (line, name) in said
        .iter()
        .zip(["S3_URL", "S3_SECRET_PATH", "CTS_REFDATA_MAX_ENTRIES"])
    {
        assert!(line.contains(name), "{said:?}");
    }
    assert_eq!(said.len(), 3, "{said:?}");

    let mut command = bed.stage();
    command
        .args(["--max-entries", "2"])
        .env("CTS_REFDATA_MAX_ENTRIES", "9");
    let refused = output(command).await;
    assert_eq!(refused.status.code(), Some(1));
    let said = complaints(&refused);
    assert!(
        said.len() == 1 && said[0].contains("max_entries"),
        "{said:?}"
    );
    assert_eq!(names(&bed.root()), [".metadata".to_owned()].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_it_cleanly_within_seconds() {
    let bed = Bed::new().await;
    let child = bed.stage_half();
    send(&child, Signal::TERM);
    let told = Instant::now();
    let ended = end(child).await;
    assert!(told.elapsed() < Duration::from_secs(20));
    assert_eq!(ended.status.code(), Some(143), "{}", text(&ended.stderr));
    assert_eq!(names(&bed.root()), [".metadata".to_owned()].into());
    assert_eq!(
        names(&bed.root().join(".metadata/x")),
        ["lock".to_owned()].into()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_says_how_far_it_is_while_it_is_staged() {
    let bed = Bed::new().await;
    let file = bed.dir.path().join("progress.json");
    bed.s3.hold(true);
    let child = bed.stage().arg("--progress").arg(&file).spawn().unwrap();
    let progress = || -> Option<StagingProgress> {
        // A reader sees none or a whole one.
        let text = fs::read(&file).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    };
    let size = u64::try_from(archive().len()).unwrap();
    wait_until("it says how large the object is", || {
        progress().is_some_and(|progress| progress.object_bytes == size)
    });
    bed.s3.hold(false);
    let ended = end(child).await;
    assert_eq!(ended.status.code(), Some(0), "{}", text(&ended.stderr));
    bed.assert_staged();
    assert_eq!(names(bed.dir.path()), ["root".to_owned()].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_left_is_seen_and_the_next_one_is_whole() {
    let bed = Bed::new().await;
    let mut child = bed.stage_half();
    child.kill().unwrap();
    end(child).await;
    assert!(bed.root().join(".staging-x").exists() && !bed.root().join("x").exists());
    let listed = output(bed.command("list", &["--format", "json"])).await;
    let items: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(items[0]["state"], "damaged");
    let verified = output(bed.command("verify", &[])).await;
    assert_eq!(verified.status.code(), Some(1));

    bed.s3.hold(false);
    let staged = output(bed.stage()).await;
    assert_eq!(staged.status.code(), Some(0), "{}", text(&staged.stderr));
    bed.assert_staged();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_stage_it_once_and_a_killed_one_is_in_nobodys_way() {
    let bed = Bed::new().await;
    let mut first = bed.stage_half();
    let waiting = [(); 2].map(|()| {
        let mut child = bed.stage().spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let holder = log.next().unwrap().unwrap();
        (child, log, holder)
    });
    let held = output(bed.command("list", &["--format", "json"])).await;
    let items: Value = serde_json::from_slice(&held.stdout).unwrap();
    assert_eq!(items[0]["state"], "staging");
    let waited = format!("held by process {} on ", first.id());
    first.kill().unwrap();
    end(first).await;
    bed.s3.hold(false);
    let mut said = Vec::new();
    for (child, log, line) in waiting {
        assert!(line.contains(&waited), "{line}");
        let ended = end(child).await;
        let log: Vec<String> = log.map(Result::unwrap).collect();
        assert_eq!(ended.status.code(), Some(0), "{log:?}");
        said.push(text(&ended.stdout).split(' ').next().unwrap().to_owned());
    }
    said.sort();
    assert_eq!(said, ["already", "staged"]);
    assert_eq!(bed.s3.gets(), 2, "the killed one's and another's");
    bed.assert_staged();
}

/// A worker may have the data read-only.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_read_checks_what_is_there_and_cannot_stage() {
    const NOBODY: u32 = 65534;
    let bed = Bed::new().await;
    assert!(output(bed.stage()).await.status.success());
    let metadata = bed.root().join(".metadata");
    let read_only = |path: &std::path::Path, mode| {
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    fs::remove_file(metadata.join("x/verified.json")).unwrap();
    read_only(bed.dir.path(), 0o755);
    read_only(&metadata.join("x/lock"), 0o444);
    for directory in [metadata.join("x"), metadata.clone(), bed.root()] {
        read_only(&directory, 0o555);
    }
    let as_reader = |mut command: Command| {
        // Root may write everywhere.
        if geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    };
    let checked = output(as_reader(bed.stage())).await;
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stderr));
    assert!(text(&checked.stdout).starts_with("already there: "));
    assert!(!metadata.join("x/verified.json").exists());

    let mut absent = bed.command("stage", &["--id", "y", "--object", "bucket/db.tar.gz"]);
    absent.args(["--crc64nvme", &Crc64Nvme::of(&archive()).to_string()]);
    let absent = as_reader(absent);
    let refused = output(absent).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        complaints(&refused)[0].contains("take the lock")
            && complaints(&refused)[0].contains("--root"),
        "{}",
        text(&refused.stderr)
    );
}

fn image(refdata: Option<&str>) -> Value {
    json!({
        "registered_by": "u", "registered_on": "2031-01-01T00:00:00Z", "name": "n", "digest": "sha256:a",
        "entrypoint": ["e"], "refdata_id": refdata,
    })
}

fn registered(id: &str, state: &str) -> Value {
    json!({
        "id": id, "registered_by": "u", "registered_on": "2031-01-01T00:00:00Z", "file": "b/k",
        "statuses": [{ "cluster": "kbase", "state": state, "transition_times": [] }],
    })
}

async fn service(images: Vec<Value>, refdata: Vec<Value>) -> MockServer {
    let server = MockServer::start().await;
    for (place, data) in [("/cts/images", images), ("/cts/refdata", refdata)] {
        Mock::given(method("GET"))
            .and(path(place))
            .respond_with(ResponseTemplate::new(200).set_body_json(json!({ "data": data })))
            .mount(&server)
            .await;
    }
    server
}

/// Data of this id, as after a staging.
fn plant(bed: &Bed, id: &str) {
    fs::create_dir_all(bed.root().join(id)).unwrap();
    let metadata = bed.root().join(".metadata").join(id);
    fs::create_dir_all(&metadata).unwrap();
    fs::write(metadata.join("md5.json"), r#"{"files":[]}"#).unwrap();
}

fn left(bed: &Bed) -> Vec<String> {
    let names = names(&bed.root()).into_iter();
    names.filter(|name| name != ".metadata").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_keeps_what_the_service_needs_and_tells_it_what_goes() {
    let bed = Bed::new().await;
    for id in ["used", "pending", "unused", "failed", "unknown"] {
        plant(&bed, id);
    }
    let refdata = [
        ("used", "complete"),
        ("pending", "download_submitted"),
        ("unused", "complete"),
        ("failed", "error"),
    ];
    let refdata = refdata.map(|(id, state)| registered(id, state)).to_vec();
    let server = service(vec![image(None), image(Some("used"))], refdata).await;
    let uri = format!("{}/cts/", server.uri());
    let arguments = ["--service", uri.as_str()];

    let refused = output(bed.command("prune", &arguments)).await;
    assert_eq!(refused.status.code(), Some(78));
    assert!(complaints(&refused)[0].contains("--token-path"));
    let shown = output(bed.command("prune", &["--dry-run", "--service", &uri])).await;
    let said = text(&shown.stdout);
    assert!(
        said.contains("would remove 3 of 3"),
        "{said}\n{}",
        text(&shown.stderr)
    );
    assert_eq!(left(&bed).len(), 5);

    // Not removed, because it could not be told.
    let mut command = bed.command("prune", &arguments);
    command.env("TOKEN", "t");
    let untold = output(command).await;
    assert_ne!(untold.status.code(), Some(0));
    assert!(
        complaints(&untold)[0].contains("unused stays"),
        "{:?}",
        complaints(&untold)
    );
    assert_eq!(left(&bed), ["pending", "unused", "used"]);

    let host = rustix::system::uname();
    let host = host.nodename().to_str().unwrap();
    let words = format!("removed by prune on {host}; clean and recover it to stage it again");
    Mock::given(method("PUT"))
        .and(path("/cts/external_exec/refdata/unused/kbase/update/error"))
        .and(has_header("authorization", "Bearer t"))
        .and(body_json(json!({ "admin_error": words })))
        .respond_with(ResponseTemplate::new(204))
        .expect(1)
        .mount(&server)
        .await;
    let token = bed.dir.path().join("token");
    fs::write(&token, "t\n").unwrap();
    let token = token.to_str().unwrap();
    let pruned = output(bed.command("prune", &["--service", &uri, "--token-path", token])).await;
    assert_eq!(pruned.status.code(), Some(0), "{}", text(&pruned.stderr));
    assert_eq!(left(&bed), ["pending", "used"]);
    server.verify().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_does_not_tell_the_service_of_what_is_being_worked_on_and_keeps_what_is_named() {
    let bed = Bed::new().await;
    for id in ["a", "b", "named"] {
        plant(&bed, id);
    }
    let refdata = ["a", "b", "named"]
        .map(|id| registered(id, "complete"))
        .to_vec();
    let server = service(Vec::new(), refdata).await;
    // Whoever stages "b" takes its lock when "a" is being removed already.
    let path_of_lock = bed.root().join(".metadata/b/lock");
    let lock = Arc::new(fs::File::create(path_of_lock).unwrap());
    let taken = Arc::clone(&lock);
    Mock::given(method("PUT"))
        .and(path("/cts/external_exec/refdata/a/kbase/update/error"))
        .respond_with(move |_: &wiremock::Request| {
            taken.lock().unwrap();
            ResponseTemplate::new(204)
        })
        .expect(1)
        .mount(&server)
        .await;
    Mock::given(method("PUT"))
        .and(path("/cts/external_exec/refdata/b/kbase/update/error"))
        .respond_with(ResponseTemplate::new(204))
        .expect(0)
        .mount(&server)
        .await;
    let uri = format!("{}/cts", server.uri());
    let mut command = bed.command("prune", &["--service", &uri, "--keep", "named"]);
    command.env("TOKEN", "t");
    let pruned = output(command).await;
    assert_eq!(pruned.status.code(), Some(1), "{}", text(&pruned.stderr));
    let said = complaints(&pruned);
    assert!(
        said.len() == 1 && said[0].contains("b is being worked on"),
        "{said:?}"
    );
    assert_eq!(left(&bed), ["b", "named"]);
    server.verify().await;
    lock.unlock().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_removes_nothing_when_the_services_list_may_be_cut_or_it_is_away() {
    let bed = Bed::new().await;
    plant(&bed, "unused");
    let server = service(vec![image(None); 1000], Vec::new()).await;
    let uri = format!("{}/cts", server.uri());
    let cut = output(bed.command("prune", &["--service", &uri, "--no-report"])).await;
    assert_eq!(cut.status.code(), Some(1));
    assert!(
        complaints(&cut)[0].contains("--keep"),
        "{:?}",
        complaints(&cut)
    );
    drop(server);
    let arguments = ["--service", "http://127.0.0.1:9/", "--no-report"];
    let away = output(bed.command("prune", &arguments)).await;
    assert_eq!(away.status.code(), Some(75));
    assert_eq!(left(&bed), ["unused"]);
    let nothing_named = output(bed.command("prune", &[])).await;
    assert_eq!(nothing_named.status.code(), Some(2));
}
