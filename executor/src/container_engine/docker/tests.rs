//! The adapter against an Engine API of our own that misbehaves on request, over a real socket.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::task::AbortOnDropHandle;

use super::super::{Exit, Mount, StartFault};
use super::*;

const IMAGE: &str = "localhost:5000/tool@sha256:aa";

pub(super) fn spec() -> ContainerSpec {
    ContainerSpec {
        name: "cts-test".to_owned(),
        image: IMAGE.to_owned(),
        command: vec!["tool".to_owned(), "a b".to_owned()],
        environment: vec!["A=1".to_owned()],
        mounts: vec![Mount {
            host: PathBuf::from("/host/in"),
            container: "/in".to_owned(),
            read_only: true,
        }],
        cpus: 1.5,
        memory_bytes: 64 << 20,
        pids_limit: 64,
        labels: BTreeMap::from([("job".to_owned(), "j".to_owned())]),
        stop_grace: Duration::from_secs(10),
    }
}

/// What the engine does with a request.
#[derive(Debug, Clone)]
enum Reply {
    Json(u16, &'static str),
    /// Takes the request and never answers.
    Hang,
    /// Closes the connection.
    Close,
    /// Upgrades, sends this on standard error, ends the stream.
    Attach(&'static str),
    /// Upgrades, sends this on standard error, keeps the stream open.
    AttachOpen(&'static str),
}

const NO_CONTENT: Reply = Reply::Json(204, "");
const RUNNING: Reply = Reply::Json(
    200,
    r#"{"State":{"Status":"running","Running":true,"ExitCode":0}}"#,
);
const EXITED_0: Reply = Reply::Json(
    200,
    r#"{"State":{"Status":"exited","Running":false,"ExitCode":0}}"#,
);
const WAITED_0: Reply = Reply::Json(200, r#"{"StatusCode":0}"#);

/// Replies by request (`GET /version`); the last of a list is repeated.
type Replies = HashMap<&'static str, Vec<Reply>>;

/// Of everything that a test does not wait for to pass: a loaded machine may take its time.
const PATIENT: Duration = Duration::from_secs(20);

struct FakeApi {
    directory: tempfile::TempDir,
    /// For engines that connect from now on.
    deadlines: Deadlines,
    seen: Arc<Mutex<Vec<String>>>,
    server: AbortOnDropHandle<()>,
}

impl FakeApi {
    /// An engine on which a container runs and exits with 0, but for `changes`.
    fn start(changes: &[(&'static str, Vec<Reply>)]) -> Self {
        let mut replies = Replies::from([
            (
                "GET /version",
                vec![Reply::Json(
                    200,
                    r#"{"Version":"20.10","ApiVersion":"1.41","Os":"linux","Arch":"amd64"}"#,
                )],
            ),
            (
                "POST /containers/create",
                vec![Reply::Json(201, r#"{"Id":"c1","Warnings":[]}"#)],
            ),
            ("POST /containers/c1/attach", vec![Reply::Attach("said\n")]),
            ("POST /containers/c1/start", vec![NO_CONTENT]),
            ("POST /containers/c1/stop", vec![NO_CONTENT]),
            ("POST /containers/c1/wait", vec![WAITED_0]),
            ("GET /containers/c1/json", vec![EXITED_0]),
            ("GET /containers/c1/stats", vec![Reply::Hang]),
            ("DELETE /containers/c1", vec![NO_CONTENT]),
            ("DELETE /containers/cts-test", vec![NO_CONTENT]),
        ]);
        replies.extend(changes.iter().cloned());
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let server = tokio::spawn(serve(listener, replies, Arc::clone(&seen)));
        Self {
            directory,
            deadlines: Deadlines {
                question: PATIENT,
                change: PATIENT,
                pull_stall: PATIENT,
                pull_pause: Duration::from_millis(1),
                engine_return: PATIENT,
                check_interval: PATIENT,
                output_quiet: PATIENT,
            },
            seen,
            server: AbortOnDropHandle::new(server),
        }
    }

    async fn connect(&self) -> Result<DockerEngine, EngineError> {
        let socket = self.directory.path().join("s");
        DockerEngine::connect(DockerOptions {
            host: format!("unix://{}", socket.display()),
            credentials: BTreeMap::new(),
            deadlines: self.deadlines,
        })
        .await
    }

    fn logs(&self) -> ContainerLogs {
        let path = |name: &str| self.directory.path().join(name);
        ContainerLogs::create(&path("out"), &path("err"), 1 << 20).unwrap()
    }

    async fn run(&self) -> Result<Box<dyn RunningContainer>, EngineError> {
        let engine = self.connect().await?;
        within(engine.run(spec(), self.logs())).await
    }

    /// Runs a container and says how it ended.
    async fn exit(&self) -> Result<Exit, EngineError> {
        let container = self.run().await?;
        let end = within(container.wait()).await;
        assert_eq!(
            within(container.wait()).await,
            end,
            "a wait may be repeated"
        );
        end
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    fn count(&self, request: &str) -> usize {
        self.seen().iter().filter(|seen| *seen == request).count()
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENT * 3, future).await.unwrap()
}

async fn serve(listener: UnixListener, replies: Replies, seen: Arc<Mutex<Vec<String>>>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (connection, _) = listener.accept().await.unwrap();
        let (replies, seen) = (replies.clone(), Arc::clone(&seen));
        connections.spawn(async move {
            // The peer may hang up at any time.
            let _ = answer(connection, &replies, &seen).await;
        });
    }
}

async fn answer(
    mut connection: UnixStream,
    replies: &Replies,
    seen: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let request = read_request(&mut connection).await?;
    let nth = {
        let mut seen = seen.lock().unwrap();
        seen.push(request.clone());
        seen.iter().filter(|other| **other == request).count() - 1
    };
    let missing = vec![Reply::Json(404, r#"{"message":"no such thing"}"#)];
    let list = replies.get(request.as_str()).unwrap_or(&missing);
    match list.get(nth).or(list.last()).unwrap() {
        Reply::Json(status, body) => {
            let head = format!(
                "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            connection.write_all(head.as_bytes()).await?;
            connection.write_all(body.as_bytes()).await
        }
        Reply::Hang => std::future::pending().await,
        Reply::Close => Ok(()),
        Reply::Attach(text) => upgrade(&mut connection, text).await,
        Reply::AttachOpen(text) => {
            upgrade(&mut connection, text).await?;
            std::future::pending().await
        }
    }
}

async fn upgrade(connection: &mut UnixStream, stderr: &str) -> std::io::Result<()> {
    connection
        .write_all(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
        .await?;
    let length = u32::try_from(stderr.len()).unwrap().to_be_bytes();
    connection.write_all(&[2, 0, 0, 0]).await?;
    connection.write_all(&length).await?;
    connection.write_all(stderr.as_bytes()).await
}

/// Reads one request; returns its method and path without version and query.
async fn read_request(connection: &mut UnixStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| {
        line.to_ascii_lowercase()
            .strip_prefix("content-length: ")?
            .parse()
            .ok()
    });
    let mut body = vec![0; length.unwrap_or(0)];
    connection.read_exact(&mut body).await?;
    let mut words = head.split([' ', '?']);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let path = path
        .trim_start_matches("/v1.")
        .trim_start_matches(|c: char| c.is_ascii_digit());
    Ok(format!("{method} {path}"))
}

#[tokio::test]
async fn listens_before_it_starts() {
    let api = FakeApi::start(&[]);
    let container = api.run().await.unwrap();
    let exit = within(container.wait()).await.unwrap();
    assert_eq!(
        (exit.code, exit.oom_killed, exit.engine_error),
        (0, false, None)
    );
    assert_eq!((exit.stderr.printed_bytes, exit.stderr.error), (5, None));
    assert_eq!(container.log_tail().stderr, "said\n");
    let seen = api.seen();
    let at = |request: &str| seen.iter().position(|seen| seen == request).unwrap();
    assert!(at("POST /containers/create") < at("POST /containers/c1/attach"));
    assert!(at("POST /containers/c1/attach") < at("POST /containers/c1/start"));
    assert!(at("POST /containers/c1/start") < at("POST /containers/c1/wait"));
}

#[tokio::test]
async fn codes_memory_and_init_are_told() {
    let api = FakeApi::start(&[
        (
            "POST /containers/c1/wait",
            vec![Reply::Json(200, r#"{"StatusCode":137}"#)],
        ),
        (
            "GET /containers/c1/json",
            vec![Reply::Json(
                200,
                r#"{"State":{"Running":false,"ExitCode":137,"OOMKilled":true}}"#,
            )],
        ),
    ]);
    let exit = api.exit().await.unwrap();
    assert_eq!((exit.code, exit.oom_killed), (137, true));

    let api = FakeApi::start(&[
        (
            "POST /containers/c1/attach",
            vec![Reply::Attach("[FATAL tini (7)] exec nope failed\n")],
        ),
        (
            "POST /containers/c1/wait",
            vec![Reply::Json(200, r#"{"StatusCode":127}"#)],
        ),
        (
            "GET /containers/c1/json",
            vec![Reply::Json(200, r#"{"State":{"ExitCode":127}}"#)],
        ),
    ]);
    let said = api.exit().await.unwrap().engine_error.unwrap();
    assert!(said.contains("exec nope failed"), "{said}");
}

/// Decision 10: no code, or one that is not believable, is never the tool's success or failure.
#[tokio::test]
async fn an_unbelievable_end_is_an_infrastructure_failure() {
    let exited = |state: &'static str| vec![Reply::Json(200, state)];
    for (waited, inspected) in [
        // status missing
        (vec![Reply::Json(200, "{}")], vec![EXITED_0]),
        // -1
        (
            exited(r#"{"StatusCode":-1}"#),
            exited(r#"{"State":{"ExitCode":-1}}"#),
        ),
        (exited(r#"{"StatusCode":-1}"#), vec![EXITED_0]),
        // not a code
        (
            exited(r#"{"StatusCode":4711}"#),
            exited(r#"{"State":{"ExitCode":4711}}"#),
        ),
        // the two disagree
        (exited(r#"{"StatusCode":3}"#), vec![EXITED_0]),
        (vec![WAITED_0], exited(r#"{"State":{"Running":false}}"#)),
        (vec![WAITED_0], exited("{}")),
        // the container is still there
        (vec![WAITED_0], vec![RUNNING]),
        // the connection broke, and it has ended meanwhile
        (vec![Reply::Close], vec![EXITED_0]),
        // it runs on after a break, and ends with the code for a missed end
        (
            vec![Reply::Close, Reply::Json(200, r#"{"StatusCode":255}"#)],
            vec![RUNNING, Reply::Json(200, r#"{"State":{"ExitCode":255}}"#)],
        ),
        // nobody announces the end
        (vec![Reply::Hang], vec![EXITED_0]),
    ] {
        let mut api = FakeApi::start(&[
            ("POST /containers/c1/wait", waited.clone()),
            ("GET /containers/c1/json", inspected),
        ]);
        if matches!(waited[..], [Reply::Hang]) {
            api.deadlines.check_interval = Duration::from_millis(200);
            api.deadlines.output_quiet = Duration::from_millis(100);
        }
        let error = api.exit().await.unwrap_err();
        assert!(
            matches!(error, EngineError::ExitUnknown { .. }),
            "{waited:?}: {error:?}"
        );
    }
}

#[tokio::test]
async fn a_broken_wait_is_taken_up_again() {
    let api = FakeApi::start(&[
        ("POST /containers/c1/wait", vec![Reply::Close, WAITED_0]),
        ("GET /containers/c1/json", vec![RUNNING, EXITED_0]),
    ]);
    let exit = api.exit().await.unwrap();
    assert_eq!(exit.code, 0);
    assert_eq!(api.count("POST /containers/c1/attach"), 2);
    assert!(exit.stderr.error.unwrap().contains("may be missing"));
}

#[tokio::test]
async fn an_engine_that_stays_away_is_given_up() {
    let mut api = FakeApi::start(&[("POST /containers/c1/wait", vec![Reply::Hang])]);
    api.deadlines.engine_return = Duration::from_millis(500);
    let container = api.run().await.unwrap();
    std::fs::remove_file(api.directory.path().join("s")).unwrap();
    drop(api.server);
    let error = within(container.wait()).await.unwrap_err();
    assert!(matches!(error, EngineError::Lost { .. }), "{error:?}");
    assert!(!error.is_permanent());
}

#[tokio::test]
async fn a_container_removed_by_others_is_named() {
    let api = FakeApi::start(&[(
        "POST /containers/c1/wait",
        vec![Reply::Json(404, r#"{"message":"No such container: c1"}"#)],
    )]);
    let error = api.exit().await.unwrap_err();
    assert_eq!(
        error,
        EngineError::ContainerGone {
            id: "c1".to_owned()
        }
    );
}

#[tokio::test]
async fn an_output_stream_that_stays_open_is_left() {
    let mut api = FakeApi::start(&[(
        "POST /containers/c1/attach",
        vec![Reply::AttachOpen("all\n")],
    )]);
    api.deadlines.output_quiet = Duration::from_secs(1);
    let exit = api.exit().await.unwrap();
    assert_eq!((exit.stderr.printed_bytes, exit.stderr.error), (4, None));
}

#[tokio::test]
async fn a_container_that_does_not_start_is_removed() {
    let refusal = r#"{"message":"OCI runtime create failed: exec: \"tool\": executable file not found in $PATH: unknown"}"#;
    let api = FakeApi::start(&[("POST /containers/c1/start", vec![Reply::Json(400, refusal)])]);
    let error = api.run().await.unwrap_err();
    assert!(
        matches!(
            &error,
            EngineError::NotStarted {
                fault: StartFault::EntrypointNotFound { .. },
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(api.count("DELETE /containers/c1"), 1);
}

#[tokio::test]
async fn a_refused_creation_removes_nothing() {
    for (status, message, words) in [
        (
            404,
            r#"{"message":"No such image: x"}"#,
            "image localhost:5000/tool@sha256:aa is not there",
        ),
        (
            409,
            r#"{"message":"Conflict. The container name is already in use"}"#,
            "exists already",
        ),
        (
            400,
            r#"{"message":"invalid mount config for type \"bind\": bind source path does not exist: /host/in"}"#,
            "/host/in -> /in",
        ),
        (
            500,
            r#"{"message":"mkdir /var/lib/docker/x: no space left on device"}"#,
            "no disk space left",
        ),
    ] {
        let api = FakeApi::start(&[(
            "POST /containers/create",
            vec![Reply::Json(status, message)],
        )]);
        let error = api.run().await.unwrap_err();
        assert!(error.is_permanent(), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
        let removals = api
            .seen()
            .iter()
            .filter(|seen| seen.starts_with("DELETE"))
            .count();
        assert!(removals == 0 || status == 500, "{:?}", api.seen());
    }
}

#[tokio::test]
async fn a_creation_that_hangs_is_undone_by_name() {
    let mut api = FakeApi::start(&[("POST /containers/create", vec![Reply::Hang])]);
    api.deadlines.change = Duration::from_secs(2);
    let engine = api.connect().await.unwrap();
    let error = within(engine.run(spec(), api.logs())).await.unwrap_err();
    assert!(
        matches!(
            &error,
            EngineError::Hung {
                call: "create container",
                ..
            }
        ),
        "{error:?}"
    );
    within(engine.settle()).await;
    assert_eq!(api.count("DELETE /containers/cts-test"), 1);
}

#[tokio::test]
async fn what_is_dropped_is_removed() {
    let api = FakeApi::start(&[("POST /containers/c1/wait", vec![Reply::Hang])]);
    let engine = api.connect().await.unwrap();
    let container = within(engine.run(spec(), api.logs())).await.unwrap();
    drop(container);
    within(engine.settle()).await;
    assert_eq!(api.count("DELETE /containers/c1"), 1);

    // Dropped half way: polled once, so that the creation is under way.
    let mut running = engine.run(spec(), api.logs());
    assert!((&mut running).now_or_never().is_none());
    drop(running);
    within(engine.settle()).await;
    assert_eq!(api.count("DELETE /containers/c1"), 2);
}

/// Another executor, or the engine itself, may be at it: it is removed only when that is done.
#[tokio::test]
async fn a_removal_under_way_is_waited_for() {
    let under_way = (
        "DELETE /containers/c1",
        vec![Reply::Json(
            409,
            r#"{"message":"removal of container c1 is already in progress"}"#,
        )],
    );
    let remove = async |waited: Vec<Reply>| {
        let mut api = FakeApi::start(&[under_way.clone(), ("POST /containers/c1/wait", waited)]);
        api.deadlines.change = Duration::from_secs(2);
        let engine = api.connect().await.unwrap();
        let removed = within(engine.remove("c1")).await;
        assert_eq!(api.count("POST /containers/c1/wait"), 1);
        removed
    };
    for gone in [
        WAITED_0,
        Reply::Json(200, r#"{"StatusCode":137}"#),
        Reply::Json(404, r#"{"message":"no such container"}"#),
    ] {
        assert_eq!(remove(vec![gone.clone()]).await, Ok(()), "{gone:?}");
    }
    for (waited, expected) in [
        (Reply::Hang, "did not answer"),
        (
            Reply::Json(
                200,
                r#"{"StatusCode":137,"Error":{"Message":"device or resource busy"}}"#,
            ),
            "device or resource busy",
        ),
        (
            Reply::Json(500, r#"{"message":"out of sorts"}"#),
            "out of sorts",
        ),
    ] {
        let error = remove(vec![waited]).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn signals_to_an_ended_container_are_fine() {
    let api = FakeApi::start(&[
        ("POST /containers/c1/stop", vec![Reply::Json(304, "")]),
        (
            "POST /containers/c1/kill",
            vec![Reply::Json(409, r#"{"message":"not running"}"#)],
        ),
        (
            "DELETE /containers/c1",
            vec![Reply::Json(404, r#"{"message":"no such container"}"#)],
        ),
    ]);
    let container = api.run().await.unwrap();
    within(container.stop(Duration::from_secs(1)))
        .await
        .unwrap();
    within(container.kill()).await.unwrap();
    within(container.remove()).await.unwrap();
    within(container.remove()).await.unwrap();
    assert_eq!(api.count("DELETE /containers/c1"), 1);
}

#[tokio::test]
async fn unusable_engines_come_with_a_remedy() {
    let old = r#"{"Version":"1.12","ApiVersion":"1.24"}"#;
    for (version, words, setup) in [
        (
            Reply::Json(200, old),
            "speaks API 1.24, at least 1.40",
            true,
        ),
        (Reply::Hang, "did not answer \"get version\"", false),
        (Reply::Close, "container engine at unix:", true),
        (
            Reply::Json(200, "<html>"),
            "its answer makes no sense",
            false,
        ),
        (Reply::Json(500, r#"{"message":"oops"}"#), "oops", false),
    ] {
        let mut api = FakeApi::start(&[("GET /version", vec![version])]);
        api.deadlines.question = Duration::from_secs(1);
        let error = api.connect().await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.is_setup(), setup, "{error:?}");
    }
    let nothing = DockerEngine::connect(DockerOptions {
        host: "unix:///nonexistent/docker.sock".to_owned(),
        ..DockerOptions::default()
    });
    let said = within(nothing).await.unwrap_err().to_string();
    assert!(said.contains("start the engine"), "{said}");
    for host in [
        "npipe:////./pipe/docker",
        "unix://relative",
        "/var/run/docker.sock",
        "",
    ] {
        let odd = DockerEngine::connect(DockerOptions {
            host: host.to_owned(),
            ..DockerOptions::default()
        });
        let error = within(odd).await.unwrap_err();
        assert!(
            matches!(error, EngineError::InvalidHost { .. }),
            "{host}: {error:?}"
        );
    }
}

const INSPECT_IMAGE: &str = "GET /images/localhost:5000/tool@sha256:aa/json";
const PULL_IMAGE: &str = "POST /images/create";
const ABSENT: Reply = Reply::Json(404, r#"{"message":"No such image"}"#);
const PRESENT: Reply = Reply::Json(200, r#"{"Id":"sha256:bb"}"#);

async fn pull(
    changes: &[(&'static str, Vec<Reply>)],
) -> (FakeApi, Result<(), EngineError>, Counters) {
    let mut api = FakeApi::start(changes);
    api.deadlines.pull_stall = Duration::from_secs(2);
    let engine = api.connect().await.unwrap();
    let counters = Counters::default();
    let result = within(engine.pull(IMAGE, &counters)).await;
    (api, result, counters)
}

#[tokio::test]
async fn a_pull_counts_its_bytes_once() {
    let messages = concat!(
        r#"{"id":"l1","status":"Downloading","progressDetail":{"current":60,"total":100}}"#,
        "\n",
        r#"{"id":"l1","status":"Downloading","progressDetail":{"current":10,"total":100}}"#,
        "\n",
        r#"{"id":"l2","status":"Already exists"}"#,
        "\n",
        r#"{"id":"l1","status":"Download complete"}"#,
        "\n",
        r#"{"id":"l1","status":"Extracting","progressDetail":{"current":5,"total":100}}"#,
        "\n",
        r#"{"id":"l1","status":"Pull complete"}"#,
        "\n",
    );
    let (_, result, counters) = pull(&[
        (INSPECT_IMAGE, vec![ABSENT, PRESENT]),
        (PULL_IMAGE, vec![Reply::Json(200, messages)]),
    ])
    .await;
    result.unwrap();
    let counted = counters.snapshot();
    assert_eq!((counted.bytes_done, counted.bytes_total), (100, 100));
    assert_eq!((counted.files_done, counted.files_total), (1, 1));
}

#[tokio::test]
async fn an_image_that_is_there_is_not_pulled() {
    let (api, result, _) = pull(&[(INSPECT_IMAGE, vec![PRESENT])]).await;
    result.unwrap();
    assert_eq!(api.count(PULL_IMAGE), 0);
}

#[tokio::test]
async fn pulls_that_may_succeed_later_are_repeated() {
    let (api, result, counters) = pull(&[
        (INSPECT_IMAGE, vec![ABSENT, ABSENT, PRESENT]),
        (
            PULL_IMAGE,
            vec![
                Reply::Json(500, r#"{"message":"dial tcp: i/o timeout"}"#),
                Reply::Close,
                // stalls
                Reply::Hang,
                // ends without the image
                Reply::Json(200, r#"{"status":"Pulling from tool"}"#),
            ],
        ),
    ])
    .await;
    result.unwrap();
    assert_eq!(api.count(PULL_IMAGE), 5);
    assert_eq!(counters.snapshot().retries, 4);
}

#[tokio::test]
async fn pulls_that_cannot_succeed_are_not_repeated() {
    for (reply, words) in [
        (
            Reply::Json(404, r#"{"message":"manifest unknown"}"#),
            "is not there",
        ),
        (
            Reply::Json(
                500,
                r#"{"message":"unauthorized: authentication required"}"#,
            ),
            "refused image",
        ),
        (
            Reply::Json(
                200,
                r#"{"errorDetail":{"message":"write x: no space left on device"},"error":"x"}"#,
            ),
            "no disk space left",
        ),
        (
            Reply::Json(400, r#"{"message":"invalid reference format"}"#),
            "invalid reference format",
        ),
    ] {
        let (api, result, _) =
            pull(&[(INSPECT_IMAGE, vec![ABSENT]), (PULL_IMAGE, vec![reply])]).await;
        let error = result.unwrap_err();
        assert!(error.is_permanent(), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(api.count(PULL_IMAGE), 1, "{error}");
    }
}

#[tokio::test]
async fn a_pull_that_never_succeeds_says_how_often_it_was_tried() {
    let (_, result, _) = pull(&[
        (INSPECT_IMAGE, vec![ABSENT]),
        (
            PULL_IMAGE,
            vec![Reply::Json(500, r#"{"message":"unexpected EOF"}"#)],
        ),
    ])
    .await;
    let error = result.unwrap_err();
    assert!(!error.is_permanent());
    assert!(
        error.to_string().ends_with("in 6 tries: unexpected EOF"),
        "{error}"
    );
}

#[tokio::test]
async fn odd_image_names_never_reach_a_path() {
    let api = FakeApi::start(&[]);
    let engine = api.connect().await.unwrap();
    for image in [
        "x",
        "../../containers/c1@sha256:aa",
        "x@sha256:aa?force=1",
        "x y@sha256:aa",
    ] {
        let error = engine.has_image(image).await.unwrap_err();
        assert!(
            matches!(error, EngineError::ImageNotFound { .. }),
            "{image}"
        );
    }
    assert_eq!(api.seen(), ["GET /version"]);
}

#[tokio::test]
async fn leftovers_are_listed_with_their_labels() {
    let api = FakeApi::start(&[(
        "GET /containers/json",
        vec![Reply::Json(
            200,
            r#"[{"Id":"c9","Names":["/cts-old"],"State":"exited","Labels":{"job":"j"}},{"Names":["/no-id"]}]"#,
        )],
    )]);
    let engine = api.connect().await.unwrap();
    let labels = [("job".to_owned(), "j".to_owned())];
    let found = engine.list(&labels).await.unwrap();
    assert_eq!(
        found,
        [ContainerSummary {
            id: "c9".to_owned(),
            name: "cts-old".to_owned(),
            state: "exited".to_owned(),
            labels: labels.into_iter().collect(),
        }]
    );
}
