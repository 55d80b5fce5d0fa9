//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use url::Url;

use crate::config::kind::{self, ConnectionString};
use crate::config::{DEFAULT_MAX_CPU_HOURS, PathPrefix};
use crate::telemetry::{LogFormat, LogLevel};

/// The coordinating service of the CDM Task Service.
#[derive(Debug, Parser)]
#[command(name = "cts-service", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the service as its configuration says.
    Serve(ServeArgs),
    /// Print every setting and where it came from, secrets redacted; status 78 if something is wrong.
    CheckConfig(CheckConfigArgs),
    /// Start everything on this machine: REST API, database file, tokens, S3 server, executors.
    Dev(Box<DevArgs>),
    /// Copy everything the service remembers to another store, and compare. Stop every service first.
    Migrate(MigrateArgs),
    /// Print the description of the REST API, an OpenAPI document in JSON.
    Openapi,
}

/// Where the configuration is.
#[derive(Debug, Clone, Args)]
pub struct ConfigFile {
    /// The configuration file (TOML) [default: the one that the variable `KB_DEPLOYMENT_CONFIG` names].
    /// Environment variables override it; without it they and the defaults are all there is.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Options of `cts-service serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigFile,
}

/// Options of `cts-service check-config`.
#[derive(Debug, Clone, Args)]
pub struct CheckConfigArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigFile,

    /// Print one JSON object, for programs.
    #[arg(long)]
    pub json: bool,
}

/// Options of `cts-service migrate`.
#[derive(Debug, Clone, Args)]
pub struct MigrateArgs {
    /// The store to read: `sqlite:PATH` (a data directory, or the database file in one), `mongodb` (the
    /// database of the configuration), or `mongodb://HOST/DATABASE` where no password is needed.
    #[arg(long, value_name = "STORE")]
    pub from: String,

    /// The store to write, in the same forms. It is empty, or an earlier run has begun it.
    #[arg(long, value_name = "STORE")]
    pub to: String,

    /// Only compare; write nothing.
    #[arg(long)]
    pub check: bool,

    /// Where the configuration is, for mongodb.
    #[command(flatten)]
    pub config: ConfigFile,
}

/// Options of `cts-service dev`.
#[derive(Debug, Clone, Args)]
pub struct DevArgs {
    /// Directory of everything the service keeps; made if absent.
    #[arg(
        long,
        value_name = "DIR",
        default_value = "cts-data",
        env = "CTS_DATA_DIR"
    )]
    pub data_dir: PathBuf,

    /// Address to listen on. Tokens travel unencrypted: think before you leave the loopback.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub bind: IpAddr,

    /// Port to listen on; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 5000)]
    pub port: u16,

    /// A `MongoDB` server to keep jobs and images in: a connection string, or host and port. Without it they
    /// are in a file of the data directory.
    #[arg(long, value_name = "HOST", value_parser = mongo_host)]
    pub mongo_host: Option<ConnectionString>,

    /// The database on --mongo-host.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "cdmtaskservice",
        requires = "mongo_host"
    )]
    pub mongo_db: String,

    /// Kafka brokers to send messages about jobs to, with commas between. Without any they stay in the store,
    /// unsent.
    #[arg(long, value_name = "HOST[:PORT]", value_delimiter = ',', value_parser = kafka_server)]
    pub kafka: Vec<String>,

    /// The topic on --kafka; it is made if it is not there.
    #[arg(long, value_name = "NAME", default_value = "cts-jobs", requires = "kafka", value_parser = kafka_topic)]
    pub kafka_topic: String,

    /// An S3 store to use. Without it a `SeaweedFS` server is started over the data directory.
    #[arg(long, value_name = "URL", requires_all = ["s3_access_key", "s3_secret_file"])]
    pub s3_url: Option<Url>,

    /// Access key for --s3-url.
    #[arg(long, value_name = "KEY", requires = "s3_url")]
    pub s3_access_key: Option<String>,

    /// File with the secret key for --s3-url.
    #[arg(long, value_name = "FILE", requires = "s3_url")]
    pub s3_secret_file: Option<PathBuf>,

    /// Do not check the certificate of --s3-url.
    #[arg(long, requires = "s3_url")]
    pub s3_insecure: bool,

    /// The `SeaweedFS` program [default: `weed` in PATH].
    #[arg(long, value_name = "PATH", env = "CTS_WEED", conflicts_with = "s3_url")]
    pub weed: Option<PathBuf>,

    /// The executor program [default: `cts-executor` beside this program, or in PATH].
    #[arg(long, value_name = "PATH", env = "CTS_EXECUTOR")]
    pub executor: Option<PathBuf>,

    /// Executors that run at the same time [default: the number of CPUs].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub max_executors: Option<u16>,

    /// Container engine for the executors, e.g. `unix:///run/user/1000/docker.sock`.
    #[arg(long, value_name = "HOST", env = "DOCKER_HOST")]
    pub docker_host: Option<String>,

    /// Registry (host or host:port) to speak plain HTTP with; loopback ones need no mention.
    #[arg(long, value_name = "HOST")]
    pub plain_http_registry: Vec<String>,

    /// Bucket, or path in one, that jobs may read and write; may be given more than once. Without
    /// any, all that the S3 credentials allow.
    #[arg(long, value_name = "BUCKET[/PREFIX]")]
    pub allowed_s3_path: Vec<PathPrefix>,

    /// Where container logs go.
    #[arg(long, value_name = "BUCKET/PREFIX", default_value = "cts/logs")]
    pub log_dir: PathPrefix,

    /// Most CPU hours a job may ask for.
    #[arg(long, value_name = "HOURS", default_value_t = DEFAULT_MAX_CPU_HOURS)]
    pub max_cpu_hours: f64,

    /// Minutes an executor keeps trying to report one state.
    #[arg(long, value_name = "MINUTES", default_value_t = 360, value_parser = clap::value_parser!(u32).range(1..))]
    pub job_update_timeout_min: u32,

    /// How log lines look.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// DEBUG, INFO, WARNING or ERROR; given to executors, too.
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "INFO",
        env = "CTS_LOG_LEVEL"
    )]
    pub log_level: LogLevel,
}

fn mongo_host(text: &str) -> Result<ConnectionString, String> {
    let kind = kind::CONNECTION_STRING;
    (kind.parse)(text).map_err(|_mismatch| format!("it must be {}", kind.expected))
}

fn kafka_server(text: &str) -> Result<String, String> {
    kind::kafka_server(text).map_err(|_mismatch| "it must be a host, or host:port".to_owned())
}

fn kafka_topic(text: &str) -> Result<String, String> {
    let kind = kind::TOPIC;
    (kind.parse)(text).map_err(|_mismatch| format!("it must be {}", kind.expected))
}
