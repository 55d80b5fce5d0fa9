//! `cts-service dev` as a child process on the testbed's components.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::process::{Child, Command};

use crate::binaries::{self, MissingBinary};
use crate::testbed::{State, http};

const READY_WITHIN: Duration = Duration::from_secs(30);
/// The service stops its executors first, each with its container's grace.
const STOP_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// The service could not be started, or a request to it failed.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Not built.
    #[error(transparent)]
    Missing(#[from] MissingBinary),
    /// Did not come up.
    #[error("cts-service dev: {problem}; its log is {}", log.display())]
    Start {
        /// Why.
        problem: String,
        /// What it printed.
        log: PathBuf,
    },
    /// Answered something else than success, or nothing.
    #[error("{request}: {problem}")]
    Request {
        /// Method and path.
        request: String,
        /// Status and body, or the reason there is none.
        problem: String,
    },
}

/// A running development service with a data directory of its own. Killed when dropped.
#[derive(Debug)]
pub struct DevService {
    url: String,
    log: PathBuf,
    tokens: Tokens,
    client: reqwest::Client,
    child: Child,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    /// An ordinary user, who may submit jobs.
    User,
    /// A full administrator.
    Admin,
}

#[derive(Debug)]
struct Tokens {
    user: String,
    admin: String,
}

impl Tokens {
    /// From the file the service makes at its first start.
    fn read(path: &Path) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct File {
            user: Vec<Entry>,
        }
        #[derive(Deserialize)]
        struct Entry {
            name: String,
            token: String,
        }
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let file: File = toml::from_str(&text).map_err(|error| error.message().to_owned())?;
        let token = |name: &str| {
            let entry = file.user.iter().find(|entry| entry.name == name);
            entry
                .map(|entry| entry.token.clone())
                .ok_or_else(|| format!("{} has no user {name}", path.display()))
        };
        Ok(Self {
            user: token("dev")?,
            admin: token("admin")?,
        })
    }
}

/// The command line of `cts-service dev`.
fn command(program: &Path, executor: &Path, testbed: &State, data: &Path, port: u16) -> Command {
    let s3 = &testbed.s3;
    let mut command = Command::new(program);
    command
        .arg("dev")
        .arg("--data-dir")
        .arg(data)
        .args(["--port", &port.to_string()])
        .args(["--s3-url", &s3.url])
        .args(["--s3-access-key", &s3.access_key])
        .arg("--s3-secret-file")
        .arg(secret_file(data))
        .args(["--log-path", &format!("{}/logs", s3.bucket)])
        .args(["--docker-host", &testbed.engine.docker_host])
        .arg("--executor")
        .arg(executor);
    command
}

fn secret_file(data: &Path) -> PathBuf {
    data.join("s3_secret")
}

impl DevService {
    /// Starts the service with an empty store in `data`, which is emptied, and waits until it
    /// answers.
    ///
    /// # Errors
    /// When a program is missing or the service does not answer in time.
    pub async fn start(testbed: &State, data: &Path, log: &Path) -> Result<Self, ServiceError> {
        let failed = |problem: String| ServiceError::Start {
            problem,
            log: log.to_owned(),
        };
        let io_failed = |error: std::io::Error| failed(error.to_string());
        let program = binaries::service()?;
        let executor = binaries::executor()?;
        if data.exists() {
            std::fs::remove_dir_all(data).map_err(io_failed)?;
        }
        std::fs::create_dir_all(data).map_err(io_failed)?;
        write_private(&secret_file(data), &testbed.s3.secret).map_err(io_failed)?;
        let port = free_port().map_err(io_failed)?;
        let output = std::fs::File::create(log).map_err(io_failed)?;
        let child = command(&program, &executor, testbed, data, port)
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(io_failed)?)
            .stderr(output)
            // Ctrl-C is for this process, which then stops the service in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(io_failed)?;
        let mut service = Self {
            url: format!("http://127.0.0.1:{port}"),
            log: log.to_owned(),
            tokens: Tokens {
                user: String::new(),
                admin: String::new(),
            },
            client: http::client().map_err(failed)?,
            child,
        };
        service.wait_ready(data).await.map_err(failed)?;
        Ok(service)
    }

    async fn wait_ready(&mut self, data: &Path) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let problem = match self.client.get(&self.url).send().await {
                Ok(response) if response.status().is_success() => break,
                Ok(response) => format!("GET / answers {}", response.status()),
                Err(error) => http::reason(&error),
            };
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("ended with {status}"));
            }
            if begun.elapsed() >= READY_WITHIN {
                return Err(format!(
                    "not ready in {} s: {problem}",
                    READY_WITHIN.as_secs()
                ));
            }
            tokio::time::sleep(POLL).await;
        }
        self.tokens = Tokens::read(&data.join("tokens.toml"))?;
        Ok(())
    }

    /// The service's root URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What the service prints.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Sends a request as one of the users and reads the JSON answer.
    ///
    /// # Errors
    /// When there is no answer, or one that is no success.
    pub async fn call(
        &self,
        who: As,
        method: reqwest::Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<serde_json::Value, ServiceError> {
        let request = format!("{method} {path}");
        let failed = |problem: String| ServiceError::Request {
            request: request.clone(),
            problem,
        };
        let token = match who {
            As::User => &self.tokens.user,
            As::Admin => &self.tokens.admin,
        };
        let mut builder = self
            .client
            .request(method.clone(), format!("{}{path}", self.url))
            .bearer_auth(token);
        if let Some(body) = body {
            builder = builder.json(body);
        }
        let response = builder
            .send()
            .await
            .map_err(|error| failed(http::reason(&error)))?;
        let status = response.status();
        let text = response
            .text()
            .await
            .map_err(|error| failed(http::reason(&error)))?;
        if !status.is_success() {
            return Err(failed(format!("{status} {text}")));
        }
        if text.is_empty() {
            return Ok(serde_json::Value::Null);
        }
        serde_json::from_str(&text).map_err(|error| failed(error.to_string()))
    }

    /// Stops the service and waits for its end.
    ///
    /// # Errors
    /// When it does not end in time; it is killed then.
    pub async fn stop(mut self) -> Result<(), ServiceError> {
        let failed = |problem: String| ServiceError::Start {
            problem,
            log: self.log.clone(),
        };
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            // Gone already is fine too.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        match tokio::time::timeout(STOP_WITHIN, self.child.wait()).await {
            Ok(ended) => ended.map(|_| ()).map_err(|error| failed(error.to_string())),
            Err(_) => {
                let seconds = STOP_WITHIN.as_secs();
                Err(failed(format!("did not end {seconds} s after SIGTERM")))
            }
        }
    }
}

fn write_private(path: &Path, content: &str) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::File::options();
    options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?
        .write_all(content.as_bytes())
}

fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port())
}
