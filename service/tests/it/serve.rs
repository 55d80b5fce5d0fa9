//! `cts-service serve` and `check-config` as processes.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wiremock::matchers::{any, method, path, path_regex};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::installed::install;
use crate::pool_app::eventually;

/// Longer than anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

const SECRET: &str = "CANARY-s3-secret";

/// A data directory, a token file, and the environment of a service.
struct Home {
    directory: tempfile::TempDir,
    config: String,
}

impl Home {
    fn new(s3_url: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let tokens = directory.path().join("tokens.toml");
        let users = "[[user]]\nname = \"alice\"\ntoken = \"CANARY-0123456789\"\nroles = []\n";
        std::fs::write(&tokens, users).unwrap();
        let config = format!(
            "[Authentication]\ntoken_file = {tokens:?}\n[Store]\ndata_dir = {:?}\n\
             [Server]\nport = 0\nbind_address = \"127.0.0.1\"\n\
             [S3]\nurl = {s3_url:?}\naccess_key = \"key\"\naccess_secret = {SECRET:?}\n\
             [Jobs]\ncontainer_s3_log_dir = \"cts/logs\"\nallowed_s3_paths = \"cts/io, other\"\n",
            directory.path().join("data"),
        );
        Self { directory, config }
    }

    /// The program with a configuration file and an otherwise empty environment.
    fn command(&self, subcommand: &str) -> Command {
        let file = self.directory.path().join("cts.toml");
        std::fs::write(&file, &self.config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_cts-service"));
        command
            .arg(subcommand)
            .env_clear()
            .env("KB_DEPLOYMENT_CONFIG", file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn output(&self, subcommand: &str) -> Output {
        let output = self.command(subcommand).output().unwrap();
        let text = text(&output);
        assert!(!text.contains("CANARY"), "{text}");
        output
    }
}

fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8(both).unwrap()
}

/// A running service, killed at the end of its test.
struct Service {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Service {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Waits for a log line with this message.
    fn wait_for(&mut self, message: &str) -> Value {
        let until = Instant::now() + DEADLINE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("no {message:?} in {:#?}", self.seen);
            };
            assert!(!line.contains("CANARY"), "{line}");
            self.seen.push(line.clone());
            // Every line is one JSON object.
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["message"] == message {
                return line;
            }
        }
    }

    fn address(&mut self) -> SocketAddr {
        let line = self.wait_for("listening");
        line["address"].as_str().unwrap().parse().unwrap()
    }

    fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

fn get_root(address: SocketAddr) -> String {
    get(address, "/", "")
}

/// `headers` are whole lines.
fn get(address: SocketAddr, path: &str, headers: &str) -> String {
    use std::io::Write;
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A store that takes everything.
async fn kind_store() -> MockServer {
    let s3 = MockServer::start().await;
    Mock::given(any())
        .respond_with(ResponseTemplate::new(200))
        .mount(&s3)
        .await;
    s3
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_until_it_is_told_to_stop() {
    let s3 = kind_store().await;
    let home = Home::new(&s3.uri());
    let mut service = Service::start(home.command("serve"));
    let address = service.address();
    let answer = get_root(address);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.contains("\"service_name\":\"CDM Task Service\""),
        "{answer}"
    );
    service.terminate();
    service.wait_for("stopped");
    assert_eq!(service.ended().code(), Some(0));

    // The write test was in every path, and nothing else was asked.
    let requests = s3.received_requests().await.unwrap();
    let asked = |method: &str| -> Vec<String> {
        let requests = requests
            .iter()
            .filter(|request| request.method.as_str() == method);
        let mut paths: Vec<String> = requests
            .map(|request| request.url.path().rsplit_once('/').unwrap().0.to_owned())
            .collect();
        paths.sort();
        paths
    };
    assert_eq!(asked("PUT"), ["/cts/io", "/cts/logs", "/other"]);
    assert_eq!(asked("DELETE"), ["/cts/io", "/cts/logs", "/other"]);
    assert_eq!(requests.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_kbase_auth_is_logged_and_does_not_stop_the_start() {
    let s3 = kind_store().await;
    let something = MockServer::start().await;
    let mut home = Home::new(&s3.uri());
    let token_file = home.config.lines().nth(1).unwrap().to_owned();
    let url = format!("url = {:?}", something.uri());
    home.config = home.config.replace(&token_file, &url);
    let mut service = Service::start(home.command("serve"));
    let address = service.address();
    let warning = "the identity provider does not answer; starting all the same";
    // The start does not wait for it: it may have come before or after.
    if !service.seen.iter().any(|line| line.contains(warning)) {
        service.wait_for(warning);
    }
    let answer = get(address, "/whoami", "authorization: Bearer CANARY\r\n");
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    // A check that takes long is not good, and asked again two seconds later.
    eventually("the cause is told", async || {
        get(address, "/readyz", "").contains("404 Not Found")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_staging_server_is_logged_and_does_not_stop_the_start() {
    let s3 = kind_store().await;
    // It answers everything, and is no staging server.
    let something = kind_store().await;
    let mut home = Home::new(&s3.uri());
    let tools = home.directory.path().join("tools");
    std::fs::create_dir(&tools).unwrap();
    install(&tools.join("condor_version"), "#!/bin/sh\necho 1\n");
    home.config += &format!(
        "[HTCondor]\ncommand_dir = {tools:?}\ninitialdir = {tools:?}\n\
         executable_url_override = \"http://127.0.0.1:1/x\"\n\
         [ExternalExecution]\narchive_url_override = \"http://127.0.0.1:1/y\"\n\
         refserver_url = {:?}\nrefserver_token = \"CANARY\"\nrefdata_host_path = \"/refdata\"\n",
        something.uri()
    );
    let mut service = Service::start(home.command("serve"));
    let address = service.address();
    let warning = "no reference data can be staged now; starting all the same";
    // The start does not wait for it: it may have come before or after.
    let seen = service.seen.iter().find(|line| line.contains(warning));
    let line = match seen {
        Some(line) => serde_json::from_str(line).unwrap(),
        None => service.wait_for(warning),
    };
    assert_eq!(line["site"], "kbase", "{line}");
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("ExternalExecution.refserver_url"), "{line}");
    assert!(get_root(address).starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_be_changed_stops_the_start() {
    let error = |code: &str| format!("<Error><Code>{code}</Code><Message>no</Message></Error>");
    let s3 = MockServer::start().await;
    for (path, status, code) in [
        ("^/cts/", 403, "AccessDenied"),
        ("^/other/", 404, "NoSuchBucket"),
    ] {
        Mock::given(method("PUT"))
            .and(path_regex(path))
            .respond_with(ResponseTemplate::new(status).set_body_string(error(code)))
            .mount(&s3)
            .await;
    }
    let output = Home::new(&s3.uri()).output("serve");
    let text = text(&output);
    assert_eq!(output.status.code(), Some(78), "{text}");
    for expected in [
        "Jobs.container_s3_log_dir: the S3 store does not let the service write below cts/logs/",
        "Jobs.allowed_s3_paths: the S3 store does not let the service write below cts/io/",
        "Jobs.allowed_s3_paths: the bucket of other/ does not exist",
    ] {
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn a_store_that_does_not_answer_does_not_stop_the_start() {
    // Bound and not listened on.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let home = Home::new(&format!("http://{}", socket.local_addr().unwrap()));
    let mut service = Service::start(home.command("serve"));
    service.wait_for("the S3 store does not answer; starting all the same");
    let address = service.address();
    assert!(get_root(address).starts_with("HTTP/1.1 200"));
    service.terminate();
    assert_eq!(service.ended().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_is_tried_again_later() {
    let s3 = kind_store().await;
    let home = Home::new(&s3.uri());
    let mut first = Service::start(home.command("serve"));
    let address = first.address();
    let output = home.output("serve");
    assert_eq!(output.status.code(), Some(75), "{}", text(&output));
    assert!(text(&output).contains("another cts-service uses the directory"));

    let mut other = Home::new(&s3.uri());
    other.config = other
        .config
        .replace("port = 0", &format!("port = {}", address.port()));
    let output = other.output("serve");
    assert_eq!(output.status.code(), Some(75), "{}", text(&output));
    assert!(text(&output).contains(&format!("cannot listen on {address}")));
}

#[test]
fn faults_of_the_configuration_have_their_status() {
    let mut home = Home::new("http://127.0.0.1:1");
    let tokens = home.directory.path().join("tokens.toml");
    std::fs::remove_file(tokens).unwrap();
    let output = home.output("serve");
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output).contains("Authentication.token_file: there is no file"));

    home.config.push_str("[Log]\nlevel = \"LOUD\"\n");
    for command in ["serve", "check-config"] {
        let output = home.output(command);
        assert_eq!(output.status.code(), Some(78));
        assert!(
            text(&output).contains("cts.toml:16): \"LOUD\" is not right"),
            "{}",
            text(&output)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_site_local_is_offered_where_it_is_enabled() {
    let s3 = kind_store().await;
    let mut home = Home::new(&s3.uri());
    let token = home.directory.path().join("executor.token");
    home.config.push_str(&format!(
        "[LocalSite]\nenabled = \"true\"\nexecutor = \"/bin/true\"\ntoken_path = {token:?}\n"
    ));
    let output = home.output("serve");
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output).contains("LocalSite.token_path: cannot read the secret file"));

    std::fs::write(&token, "CANARY-0123456789").unwrap();
    let mut service = Service::start(home.command("serve"));
    let address = service.address();
    let answer = get(address, "/sites", "");
    let local = answer.find("\"cluster\":\"local\"").unwrap();
    let available = answer[local..].find("\"available\":true");
    assert!(available.is_some(), "{answer}");
    let secret = home.directory.path().join("data").join("s3_secret");
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), SECRET);
    let mode = secret.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    service.terminate();
    assert_eq!(service.ended().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_file_kbase_auth_knows_the_users() {
    let auth2 = MockServer::start().await;
    let answers = [
        ("/", json!({"servicename": "Authentication Service"})),
        (
            "/api/V2/token",
            json!({"type": "Login", "user": "bob", "cachefor": 1000, "expires": 4_000_000_000_000_u64}),
        ),
        (
            "/api/V2/me",
            json!({"user": "bob", "customroles": ["boss", "KBASE_STAFF", "HAS_NERSC_ACCOUNT"]}),
        ),
    ];
    for (at, answer) in answers {
        Mock::given(path(at))
            .respond_with(ResponseTemplate::new(200).set_body_json(answer))
            .mount(&auth2)
            .await;
    }
    let s3 = kind_store().await;
    let home = Home::new(&s3.uri());
    let mut command = home.command("serve");
    let config = home
        .config
        .lines()
        .filter(|line| !line.starts_with("token_file"))
        .map(|line| format!("{line}\n"));
    let file = home.directory.path().join("cts.toml");
    std::fs::write(file, config.collect::<String>()).unwrap();
    command
        .env("KBCTS_KBASE_AUTH2_URL", auth2.uri())
        .env("KBCTS_KBASE_AUTH2_ADMIN_ROLES", "boss");
    let mut service = Service::start(command);
    let address = service.address();
    let answer = get(address, "/whoami", "Authorization: Bearer CANARY-token\r\n");
    assert!(
        answer.contains(r#""user":"bob","roles":["full_admin"]"#),
        "{answer}"
    );
    service.terminate();
    assert_eq!(service.ended().code(), Some(0));
}

#[test]
fn the_environment_alone_is_enough_and_an_empty_variable_names_no_file() {
    let home = Home::new("http://127.0.0.1:1");
    let mut command = home.command("check-config");
    for (name, value) in [
        ("KB_DEPLOYMENT_CONFIG", ""),
        ("KBCTS_S3_URL", "http://127.0.0.1:1"),
        ("KBCTS_S3_ACCESS_KEY", "key"),
        ("KBCTS_S3_ACCESS_SECRET", SECRET),
        ("KBCTS_CONTAINER_S3_LOG_DIR", "cts/logs"),
    ] {
        command.env(name, value);
    }
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    // A flag comes before the variable.
    let output = command.args(["--config", "/missing"]).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output).contains("configuration file /missing"));
}

#[test]
fn a_right_configuration_is_explained() {
    let home = Home::new("http://127.0.0.1:1");
    let output = home.output("check-config");
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    let secret = text
        .lines()
        .find(|line| line.starts_with("S3.access_secret"));
    assert!(secret.unwrap().contains("[redacted]"), "{text}");
    let output = home.command("check-config").arg("--json").output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["faults"], serde_json::json!([]));
    assert!(!Path::new(&home.directory.path().join("data")).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_survives_the_want_of_file_descriptors() {
    let s3 = kind_store().await;
    let home = Home::new(&s3.uri());
    let command = home.command("serve");
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "ulimit -n 64; exec \"$0\" serve"])
        .arg(command.get_program())
        .env_clear()
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut service = Service::start(limited);
    let address = service.address();
    let crowd: Vec<TcpStream> = (0..100)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    service.wait_for("cannot accept connections, trying again soon");
    drop(crowd);
    assert!(get_root(address).starts_with("HTTP/1.1 200"));
    service.terminate();
    assert_eq!(service.ended().code(), Some(0));
}
