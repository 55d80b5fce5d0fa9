//! `cts-service` as a child process on the testbed's components: `dev`, or `serve` for jobs on the HTCondor pool
//! or users of KBase auth2.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::process::{Child, Command};

use crate::binaries::{self, MissingBinary};
use crate::testbed::{State, free_port, http};

const READY_WITHIN: Duration = Duration::from_secs(120);
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
    #[error("cts-service: {problem}; its log is {}", log.display())]
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

/// A running service with a data directory of its own. Killed when dropped.
#[derive(Debug)]
pub struct ServiceProcess {
    url: String,
    address: SocketAddr,
    log: PathBuf,
    tokens: Tokens,
    client: reqwest::Client,
    command: Command,
    child: Child,
}

/// What is run, and how.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The service.
    pub service: PathBuf,
    /// The executor that its `local` site starts.
    pub executor: PathBuf,
    /// Further options.
    pub options: Vec<String>,
    /// Where it keeps jobs.
    pub store: Store,
    /// Jobs run on the pool (`cts-service serve`), and not as child processes of the service
    /// (`cts-service dev`).
    pub pool: Option<OnPool>,
    /// Users are those of an auth2 (`cts-service serve`), and not those of a token file.
    pub auth2: Option<OnAuth2>,
}

/// Where users come from. KBase roles have the names that are the service's defaults, and `CTS_ADMIN` makes
/// administrators.
#[derive(Debug, Clone)]
pub struct OnAuth2 {
    /// Root of auth2.
    pub url: String,
    /// Tokens that it knows.
    pub tokens: Tokens,
}

/// Where a service keeps jobs and images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Store {
    /// In a file of its data directory.
    File,
    /// In a database of the testbed's MongoDB server, or of the one that `CTS_TEST_MONGO_URL` names.
    Mongo {
        /// The database.
        database: String,
    },
}

impl Store {
    /// A database that nobody has used.
    pub fn fresh_database() -> Self {
        Self::Mongo {
            database: format!("cts_test_{}", uuid::Uuid::new_v4().simple()),
        }
    }

    /// A file, or a fresh database if the variable `CTS_TEST_STORE` is `mongodb`: the same tests are run over
    /// both.
    pub fn chosen() -> Self {
        match std::env::var("CTS_TEST_STORE").as_deref() {
            Ok("mongodb") => Self::fresh_database(),
            _ => Self::File,
        }
    }

    /// The server and the database, if it is one.
    pub fn database(&self, testbed: &State) -> Option<(String, String)> {
        let Self::Mongo { database } = self else {
            return None;
        };
        let named = std::env::var("CTS_TEST_MONGO_URL");
        Some((
            named.unwrap_or_else(|_| testbed.mongo.url.clone()),
            database.clone(),
        ))
    }
}

/// What workers of the pool get, and how the service is set.
#[derive(Debug, Clone)]
pub struct OnPool {
    /// The wrapper script.
    pub wrapper: PathBuf,
    /// The archive with the executor.
    pub archive: PathBuf,
    /// Directory of HTCondor's commands, if not the pool's own.
    pub commands: Option<PathBuf>,
    /// Further settings, by variable.
    pub settings: Vec<(String, String)>,
}

impl Launch {
    /// The programs of this workspace's development build, no further options.
    ///
    /// # Errors
    /// When one is missing.
    pub fn development() -> Result<Self, MissingBinary> {
        Ok(Self {
            service: binaries::service()?,
            executor: binaries::executor()?,
            options: Vec::new(),
            store: Store::chosen(),
            pool: None,
            auth2: None,
        })
    }

    /// The programs of this workspace's development build, and users of an auth2.
    ///
    /// # Errors
    /// When a program is missing.
    pub fn on_auth2(auth2: OnAuth2) -> Result<Self, MissingBinary> {
        Ok(Self {
            auth2: Some(auth2),
            ..Self::development()?
        })
    }

    /// The development build of the service, for jobs that the static executor carries out on the pool.
    ///
    /// # Errors
    /// When a program is missing.
    pub fn on_pool() -> Result<Self, MissingBinary> {
        Ok(Self {
            pool: Some(OnPool {
                wrapper: binaries::wrapper(),
                archive: binaries::executor_archive()?,
                commands: None,
                settings: Vec::new(),
            }),
            ..Self::development()?
        })
    }

    /// `service` with executors that do nothing: whoever started the service reports the containers'
    /// states itself. The first container that comes gets the only place for an executor; all others
    /// wait for it.
    ///
    /// The executor is a script in `dir` that lives as long as its file.
    ///
    /// # Errors
    /// When the script cannot be written.
    pub fn with_idle_executor(service: PathBuf, dir: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let executor = dir.join("idle-executor");
        std::fs::write(
            &executor,
            "#!/bin/sh\nwhile [ -e \"$0\" ]; do sleep 1; done\n",
        )?;
        std::fs::set_permissions(&executor, std::fs::Permissions::from_mode(0o755))?;
        Ok(Self {
            service,
            executor,
            options: ["--max-executors", "1"].map(str::to_owned).into(),
            store: Store::chosen(),
            pool: None,
            auth2: None,
        })
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    /// An ordinary user, who may submit jobs.
    User,
    /// A full administrator.
    Admin,
    /// An external executor, who may report container states.
    Executor,
    /// A server that stages reference data. Not a user of `cts-service dev`.
    Refdata,
}

/// A token of each.
#[derive(Debug, Clone, Default)]
pub struct Tokens {
    /// [`As::User`]'s.
    pub user: String,
    /// [`As::Admin`]'s.
    pub admin: String,
    /// [`As::Executor`]'s.
    pub executor: String,
    /// [`As::Refdata`]'s.
    pub refdata: String,
}

impl Tokens {
    /// A user's token.
    pub fn of(&self, who: As) -> &str {
        match who {
            As::User => &self.user,
            As::Admin => &self.admin,
            As::Executor => &self.executor,
            As::Refdata => &self.refdata,
        }
    }

    fn random() -> Self {
        let [user, admin, executor, refdata] = [(); 4].map(|()| uuid::Uuid::new_v4().to_string());
        Self {
            user,
            admin,
            executor,
            refdata,
        }
    }

    /// The file that gives the same users as the one of `cts-service dev`, and one more.
    fn to_toml(&self) -> String {
        [
            ("dev", &self.user, "\"kbase_staff\""),
            (
                "admin",
                &self.admin,
                "\"full_admin\", \"kbase_staff\", \"nersc_account\"",
            ),
            ("executor", &self.executor, "\"external_executor\""),
            ("refdata", &self.refdata, "\"refdata_service\""),
        ]
        .map(|(name, token, roles)| {
            format!("[[user]]\nname = \"{name}\"\ntoken = \"{token}\"\nroles = [{roles}]\n\n")
        })
        .concat()
    }

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
            executor: token("executor")?,
            refdata: token("refdata").unwrap_or_default(),
        })
    }
}

/// The command line of `cts-service serve`, with everything in variables.
fn serve_command(
    launch: &Launch,
    testbed: &State,
    data: &Path,
    port: u16,
) -> std::io::Result<Command> {
    let s3 = &testbed.s3;
    let mut command = Command::new(&launch.service);
    command
        .arg("serve")
        .args(&launch.options)
        .env("CTS_DATA_DIR", data)
        .env("CTS_BIND_ADDRESS", Ipv4Addr::LOCALHOST.to_string())
        .env("KBCTS_PORT", port.to_string())
        .env("KBCTS_SERVICE_ROOT_URL", format!("http://127.0.0.1:{port}"))
        .env("KBCTS_S3_URL", &s3.url)
        .env("KBCTS_S3_ACCESS_KEY", &s3.access_key)
        .env("KBCTS_S3_ACCESS_SECRET", &s3.secret)
        .env("KBCTS_CONTAINER_S3_LOG_DIR", format!("{}/logs", s3.bucket));
    if let Some((host, database)) = launch.store.database(testbed) {
        command
            .env("KBCTS_MONGO_HOST", host)
            .env("KBCTS_MONGO_DB", database);
    }
    let tokens = match &launch.auth2 {
        None => {
            let tokens = Tokens::random();
            write_private(&tokens_file(data), &tokens.to_toml())?;
            command.env("CTS_TOKEN_FILE", tokens_file(data));
            tokens
        }
        Some(auth2) => {
            command
                .env("KBCTS_KBASE_AUTH2_URL", &auth2.url)
                .env("KBCTS_KBASE_AUTH2_ADMIN_ROLES", "CTS_ADMIN");
            auth2.tokens.clone()
        }
    };
    match &launch.pool {
        None => add_local_site(&mut command, launch, testbed, data, &tokens.executor)?,
        Some(on_pool) => add_pool(&mut command, on_pool, testbed, &tokens.executor)?,
    }
    Ok(command)
}

fn add_local_site(
    command: &mut Command,
    launch: &Launch,
    testbed: &State,
    data: &Path,
    executor_token: &str,
) -> std::io::Result<()> {
    let token = data.join("executor_token");
    write_private(&token, executor_token)?;
    command
        .env("KBCTS_SKIP_KBASE", "true")
        .env("CTS_LOCAL_SITE_ENABLED", "true")
        .env("CTS_LOCAL_SITE_TOKEN_PATH", token)
        .env("CTS_EXECUTOR", &launch.executor)
        .env("DOCKER_HOST", &testbed.engine.docker_host);
    Ok(())
}

fn add_pool(
    command: &mut Command,
    on_pool: &OnPool,
    testbed: &State,
    executor_token: &str,
) -> std::io::Result<()> {
    let pool = &testbed.htcondor;
    let name = uuid::Uuid::new_v4();
    let initial_dir = pool.share_dir(&format!("{name}-logs"))?;
    let token = pool.share_file(&format!("{name}-token"), executor_token.as_bytes())?;
    let secret = pool.share_file(&format!("{name}-secret"), testbed.s3.secret.as_bytes())?;
    command
        .env("KBCTS_HTC_INITIAL_DIR", initial_dir)
        .env("KBCTS_HTC_TOKEN_PATH", token)
        .env("KBCTS_HTC_S3_ACCESS_SECRET_PATH", secret)
        .env("KBCTS_HTC_EXE_PATH", &on_pool.wrapper)
        .env("KBCTS_CODE_ARCHIVE_PATH", &on_pool.archive)
        .env(
            "KBCTS_EXTERNAL_JOB_MOUNT_PREFIX_OVERRIDE",
            &pool.mount_prefix_override,
        )
        .env(
            "CTS_HTC_COMMAND_DIR",
            on_pool.commands.as_ref().unwrap_or(&pool.bin_dir),
        )
        .env("CTS_HTC_RECONCILE_INTERVAL_SEC", "2")
        .envs(on_pool.settings.iter().map(|(name, value)| (name, value)));
    Ok(())
}

/// The command line of `cts-service dev`.
fn dev_command(launch: &Launch, testbed: &State, data: &Path, port: u16) -> Command {
    let s3 = &testbed.s3;
    let mut command = Command::new(&launch.service);
    command
        .arg("dev")
        .arg("--data-dir")
        .arg(data)
        .args(["--port", &port.to_string()])
        .args(["--s3-url", &s3.url])
        .args(["--s3-access-key", &s3.access_key])
        .arg("--s3-secret-file")
        .arg(secret_file(data))
        .args(["--log-dir", &format!("{}/logs", s3.bucket)])
        .args(["--docker-host", &testbed.engine.docker_host])
        .arg("--executor")
        .arg(&launch.executor)
        .args(&launch.options);
    if let Some((host, database)) = launch.store.database(testbed) {
        command
            .args(["--mongo-host", &host])
            .args(["--mongo-db", &database]);
    }
    command
}

fn tokens_file(data: &Path) -> PathBuf {
    data.join("tokens.toml")
}

fn secret_file(data: &Path) -> PathBuf {
    data.join("testbed_s3_secret")
}

impl ServiceProcess {
    /// Starts the service with an empty store in `data`, which is emptied, and waits until it
    /// answers.
    ///
    /// # Errors
    /// When a program is missing or the service does not answer in time.
    pub async fn start(testbed: &State, data: &Path, log: &Path) -> Result<Self, ServiceError> {
        Self::launch(&Launch::development()?, testbed, data, log).await
    }

    /// The same with other programs and options.
    ///
    /// # Errors
    /// When the service cannot be started or does not answer in time.
    pub async fn launch(
        launch: &Launch,
        testbed: &State,
        data: &Path,
        log: &Path,
    ) -> Result<Self, ServiceError> {
        let failed = |problem: String| ServiceError::Start {
            problem,
            log: log.to_owned(),
        };
        let io_failed = |error: std::io::Error| failed(error.to_string());
        if data.exists() {
            std::fs::remove_dir_all(data).map_err(io_failed)?;
        }
        std::fs::create_dir_all(data).map_err(io_failed)?;
        write_private(&secret_file(data), &testbed.s3.secret).map_err(io_failed)?;
        let port = free_port("cts-service").map_err(|error| failed(error.to_string()))?;
        let output = std::fs::File::create(log).map_err(io_failed)?;
        let mut command = if launch.pool.is_none() && launch.auth2.is_none() {
            dev_command(launch, testbed, data, port)
        } else {
            serve_command(launch, testbed, data, port).map_err(io_failed)?
        };
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(io_failed)?)
            .stderr(output)
            // Ctrl-C is for this process, which then stops the service in order.
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn().map_err(io_failed)?;
        let mut service = Self {
            url: format!("http://127.0.0.1:{port}"),
            address: (Ipv4Addr::LOCALHOST, port).into(),
            log: log.to_owned(),
            tokens: Tokens::default(),
            client: http::client().map_err(failed)?,
            command,
            child,
        };
        service.wait_ready().await.map_err(failed)?;
        service.tokens = match &launch.auth2 {
            None => Tokens::read(&tokens_file(data)).map_err(failed)?,
            Some(auth2) => auth2.tokens.clone(),
        };
        Ok(service)
    }

    /// Kills the service as a power cut would, and waits until it is gone. Its executors live on.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn kill(&mut self) -> Result<(), ServiceError> {
        let killed = self.child.kill().await;
        killed.map_err(|error| self.failed(error.to_string()))
    }

    /// Waits until the service has been killed by somebody else.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn ended(&mut self) -> Result<(), ServiceError> {
        let ended = tokio::time::timeout(STOP_WITHIN, self.child.wait()).await;
        match ended {
            Ok(status) => status
                .map(drop)
                .map_err(|error| self.failed(error.to_string())),
            Err(_) => {
                let seconds = STOP_WITHIN.as_secs();
                Err(self.failed(format!("still runs after {seconds} s")))
            }
        }
    }

    /// Starts the service again, after [`ServiceProcess::kill`], at its old address with its old data, and
    /// waits until it answers. Cancel safe: the service runs from the first poll on.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn restart(&mut self) -> Result<(), ServiceError> {
        let spawned = self.command.spawn();
        self.child = spawned.map_err(|error| self.failed(error.to_string()))?;
        let ready = self.wait_ready().await;
        ready.map_err(|problem| self.failed(problem))
    }

    fn failed(&self, problem: String) -> ServiceError {
        ServiceError::Start {
            problem,
            log: self.log.clone(),
        }
    }

    async fn wait_ready(&mut self) -> Result<(), String> {
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
        Ok(())
    }

    /// The service's process id; none once it has ended.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// A user's token.
    pub fn token(&self, who: As) -> &str {
        self.tokens.of(who)
    }

    /// The tokens of all users.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The service's root URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
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
        let text = self.send(who, method.clone(), path, body).await?;
        if text.is_empty() {
            return Ok(serde_json::Value::Null);
        }
        serde_json::from_str(&text).map_err(|error| ServiceError::Request {
            request: format!("{method} {path}"),
            problem: error.to_string(),
        })
    }

    /// Reads what is no JSON: a container's log.
    ///
    /// # Errors
    /// When there is no answer, or one that is no success.
    pub async fn text(&self, who: As, path: &str) -> Result<String, ServiceError> {
        self.send(who, reqwest::Method::GET, path, None).await
    }

    async fn send(
        &self,
        who: As,
        method: reqwest::Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<String, ServiceError> {
        let request = format!("{method} {path}");
        let failed = |problem: String| ServiceError::Request {
            request: request.clone(),
            problem,
        };
        let mut builder = self
            .client
            .request(method.clone(), format!("{}{path}", self.url))
            .bearer_auth(self.token(who));
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
        Ok(text)
    }

    /// Stops the service and waits for its end.
    ///
    /// # Errors
    /// When it does not end in time; it is killed then.
    pub async fn stop(mut self) -> Result<(), ServiceError> {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            // Gone already is fine too.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        match tokio::time::timeout(STOP_WITHIN, self.child.wait()).await {
            Ok(ended) => ended
                .map(|_| ())
                .map_err(|error| self.failed(error.to_string())),
            Err(_) => {
                let seconds = STOP_WITHIN.as_secs();
                Err(self.failed(format!("did not end {seconds} s after SIGTERM")))
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
