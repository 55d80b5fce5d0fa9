//! Every setting of the service, in one place: the configuration file and the environment are read by this
//! list, `check-config` prints it, and `docs/service.md` has a row for each.
//!
//! Sections, names, variables and defaults are the contract's (contract config.md) but for the sections
//! `Server`, `Log`, `Store` and `LocalSite`, the keys `Authentication.token_file`,
//! `Images.plain_http_registries` and those of `HTCondor` with variables `CTS_HTC_*`, and names in the file for what the contract has as variables only.

use std::net::IpAddr;
use std::path::PathBuf;

use axum::http::HeaderValue;
use cts_net::secret::Secret;
use url::Url;

use super::PathPrefix;
use super::kind::{self, ConnectionString, Form, Kind, Mismatch, Show, StoreKind};
use crate::telemetry::{LogFormat, LogLevel};

/// What happens when a setting is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The service does not start.
    Required,
    /// The service does without, or with what the meaning says.
    Optional,
    /// This is taken, read as if it stood in the environment.
    Default(&'static str),
}

/// What becomes of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It has its effect.
    Used,
    /// It is read and checked; the part of the service that needs it comes later.
    NotYet,
    /// It has no meaning for this service and is accepted for the sake of existing files.
    Ignored,
}

/// One setting.
#[derive(Debug)]
pub struct Key<T> {
    /// Section of the file.
    pub section: &'static str,
    /// Name in the section.
    pub name: &'static str,
    /// The environment variable that overrides the file.
    pub variable: &'static str,
    /// What happens without it.
    pub need: Need,
    /// What becomes of it.
    pub status: Status,
    /// What it is, for operators.
    pub meaning: &'static str,
    /// What it may be.
    pub kind: Kind<T>,
}

const fn used<T>(
    section: &'static str,
    name: &'static str,
    variable: &'static str,
    kind: Kind<T>,
    meaning: &'static str,
) -> Key<T> {
    Key {
        section,
        name,
        variable,
        need: Need::Optional,
        status: Status::Used,
        meaning,
        kind,
    }
}

const fn not_yet<T>(
    section: &'static str,
    name: &'static str,
    variable: &'static str,
    kind: Kind<T>,
    meaning: &'static str,
) -> Key<T> {
    let mut key = used(section, name, variable, kind, meaning);
    key.status = Status::NotYet;
    key
}

const fn ignored<T>(
    section: &'static str,
    name: &'static str,
    variable: &'static str,
    kind: Kind<T>,
    meaning: &'static str,
) -> Key<T> {
    let mut key = used(section, name, variable, kind, meaning);
    key.status = Status::Ignored;
    key
}

impl<T> Key<T> {
    const fn required(mut self) -> Self {
        self.need = Need::Required;
        self
    }

    const fn or(mut self, default: &'static str) -> Self {
        self.need = Need::Default(default);
        self
    }
}

/// A setting without its type.
pub trait AnyKey: std::fmt::Debug {
    /// Section of the file.
    fn section(&self) -> &'static str;
    /// Name in the section.
    fn name(&self) -> &'static str;
    /// The environment variable that overrides the file.
    fn variable(&self) -> &'static str;
    /// What happens without it.
    fn need(&self) -> Need;
    /// What becomes of it.
    fn status(&self) -> Status;
    /// What it is, for operators.
    fn meaning(&self) -> &'static str;
    /// How it is written.
    fn form(&self) -> Form;
    /// What it must be.
    fn expected(&self) -> &'static str;
    /// Parses a value and gives it back as it may be shown.
    ///
    /// # Errors
    /// When the value is not of the key's kind.
    fn check(&self, text: &str) -> Result<String, Mismatch>;

    /// Section and name.
    fn path(&self) -> String {
        format!("{}.{}", self.section(), self.name())
    }
}

impl<T: Show> AnyKey for Key<T> {
    fn section(&self) -> &'static str {
        self.section
    }

    fn name(&self) -> &'static str {
        self.name
    }

    fn variable(&self) -> &'static str {
        self.variable
    }

    fn need(&self) -> Need {
        self.need
    }

    fn status(&self) -> Status {
        self.status
    }

    fn meaning(&self) -> &'static str {
        self.meaning
    }

    fn form(&self) -> Form {
        self.kind.form
    }

    fn expected(&self) -> &'static str {
        self.kind.expected
    }

    fn check(&self, text: &str) -> Result<String, Mismatch> {
        (self.kind.parse)(text).map(|value| value.show())
    }
}

/// See [`KEYS`].
pub static AUTH_URL: Key<Url> = used(
    "Authentication",
    "url",
    "KBCTS_KBASE_AUTH2_URL",
    kind::HTTP_URL,
    "root of KBase auth; not used with a token file",
)
.or("https://ci.kbase.us/services/auth");

/// See [`KEYS`].
pub static ADMIN_ROLES: Key<Vec<String>> = used(
    "Authentication",
    "admin_roles_full",
    "KBCTS_KBASE_AUTH2_ADMIN_ROLES",
    kind::LIST,
    "KBase roles that make a full administrator",
);

/// See [`KEYS`].
pub static KBASE_STAFF_ROLE: Key<String> = used(
    "Authentication",
    "kbase_staff_role",
    "KBCTS_KBASE_STAFF_ROLE",
    kind::TEXT,
    "KBase role that makes KBase staff",
)
.or("KBASE_STAFF");

/// See [`KEYS`].
pub static NERSC_ACCOUNT_ROLE: Key<String> = used(
    "Authentication",
    "has_nersc_account_role",
    "KBCTS_HAS_NERSC_ACCOUNT_ROLE",
    kind::TEXT,
    "KBase role that says the user has a NERSC account",
)
.or("HAS_NERSC_ACCOUNT");

/// See [`KEYS`].
pub static EXECUTOR_ROLE: Key<String> = used(
    "Authentication",
    "external_executor_role",
    "KBCTS_EXTERNAL_EXECUTOR_ROLE",
    kind::TEXT,
    "KBase role of executors",
)
.or("CTS_EXTERNAL_EXECUTOR");

/// See [`KEYS`].
pub static REFDATA_ROLE: Key<String> = used(
    "Authentication",
    "refdata_service_role",
    "KBCTS_REFDATA_SERVICE_ROLE",
    kind::TEXT,
    "KBase role of the reference data server",
)
.or("CTS_REFDATA_SERVICE");

/// See [`KEYS`].
pub static TOKEN_FILE: Key<PathBuf> = used(
    "Authentication",
    "token_file",
    "CTS_TOKEN_FILE",
    kind::PATH,
    "file with users and their tokens, instead of KBase auth",
);

/// See [`KEYS`].
pub static JAWS_USER: Key<String> = ignored(
    "NERSC_JAWS",
    "user",
    "KBCTS_NERSC_JAWS_USER",
    kind::TEXT,
    "NERSC user",
);

/// See [`KEYS`].
pub static JAWS_REFDATA_ROOT: Key<String> = ignored(
    "NERSC_JAWS",
    "refdata_root_dir",
    "KBCTS_NERSC_JAWS_REFDATA_DIR",
    kind::TEXT,
    "root of the reference data at NERSC",
);

/// See [`KEYS`].
pub static JAWS_STAGING_DTN: Key<String> = ignored(
    "NERSC_JAWS",
    "jaws_staging_dir_dtn",
    "KBCTS_NERSC_JAWS_DTN_STAGING_DIR",
    kind::TEXT,
    "staging directory, as transfer nodes see it",
);

/// See [`KEYS`].
pub static JAWS_STAGING_PERLMUTTER: Key<String> = ignored(
    "NERSC_JAWS",
    "jaws_staging_dir_perlmutter",
    "KBCTS_NERSC_JAWS_PERMUTTER_STAGING_DIR",
    kind::TEXT,
    "staging directory, as Perlmutter sees it; the variable is spelled so",
);

/// See [`KEYS`].
pub static NERSC_CREDENTIALS: Key<String> = ignored(
    "NERSC",
    "sfapi_cred_path",
    "KBCTS_SFAPI_CRED_PATH",
    kind::TEXT,
    "file with the NERSC API client",
);

/// See [`KEYS`].
pub static NERSC_CODE_DIR: Key<String> = ignored(
    "NERSC",
    "remote_code_dir",
    "KBCTS_NERSC_REMOTE_CODE_DIR",
    kind::TEXT,
    "directory of remote code at NERSC",
);

/// See [`KEYS`].
pub static JAWS_URL: Key<String> =
    ignored("JAWS", "url", "KBCTS_JAWS_URL", kind::TEXT, "root of JAWS");

/// See [`KEYS`].
pub static JAWS_TOKEN: Key<Secret> = ignored(
    "JAWS",
    "token",
    "KBCTS_JAWS_TOKEN",
    kind::SECRET,
    "token for JAWS",
);

/// See [`KEYS`].
pub static JAWS_GROUP: Key<String> = ignored(
    "JAWS",
    "group",
    "KBCTS_JAWS_GROUP",
    kind::TEXT,
    "group in JAWS",
);

/// See [`KEYS`].
pub static CONDOR_INITIALDIR: Key<PathBuf> = used(
    "HTCondor",
    "initialdir",
    "KBCTS_HTC_INITIAL_DIR",
    kind::ABSOLUTE_PATH,
    "`initialdir` of submissions",
)
.or("/condor_workdir");

/// See [`KEYS`].
pub static CONDOR_CLIENTGROUP: Key<String> = used(
    "HTCondor",
    "clientgroup",
    "KBCTS_HTC_CLIENT_GROUP",
    kind::TEXT,
    "client group that workers must have",
);

/// See [`KEYS`].
pub static CONDOR_TOKEN_PATH: Key<PathBuf> = used(
    "HTCondor",
    "token_path",
    "KBCTS_HTC_TOKEN_PATH",
    kind::ABSOLUTE_PATH,
    "file with the executor's token on the workers",
)
.or("/cts/cts_token");

/// See [`KEYS`].
pub static CONDOR_S3_SECRET_PATH: Key<PathBuf> = used(
    "HTCondor",
    "s3_access_secret_path",
    "KBCTS_HTC_S3_ACCESS_SECRET_PATH",
    kind::ABSOLUTE_PATH,
    "file with the S3 secret key on the workers",
)
.or("/cts/s3_secret");

/// See [`KEYS`].
pub static CONDOR_ADDITIONAL_PATH: Key<String> = used(
    "HTCondor",
    "additional_path",
    "KBCTS_HTC_ADDL_PATH",
    kind::TEXT,
    "put in front of PATH on the workers",
);

/// See [`KEYS`].
pub static CONDOR_CACHE_DIR: Key<PathBuf> = used(
    "HTCondor",
    "cache_dir",
    "KBCTS_HTC_CACHE_DIR",
    kind::ABSOLUTE_PATH,
    "cache directory on the workers",
)
.or("/tmp");

/// See [`KEYS`].
pub static CONDOR_S3_EXTERNAL: Key<bool> = used(
    "HTCondor",
    "use_S3_external_url",
    "KBCTS_HTC_USE_S3_EXTERNAL_URL",
    kind::TRUE_ANY_CASE,
    "workers use S3.external_url",
)
.or("false");

/// See [`KEYS`].
pub static CONDOR_EXECUTABLE: Key<PathBuf> = used(
    "HTCondor",
    "executable_path",
    "KBCTS_HTC_EXE_PATH",
    kind::PATH,
    "file served as the worker script",
);

/// See [`KEYS`].
pub static CONDOR_EXECUTABLE_URL: Key<Url> = used(
    "HTCondor",
    "executable_url_override",
    "KBCTS_HTC_EXE_URL_OVERRIDE",
    kind::HTTP_URL,
    "other URL of the worker script",
);

/// See [`KEYS`].
pub static CONDOR_COMMAND_DIR: Key<PathBuf> = used(
    "HTCondor",
    "command_dir",
    "CTS_HTC_COMMAND_DIR",
    kind::ABSOLUTE_PATH,
    "directory of `condor_submit` and the other tools; those of `PATH` if absent",
);

/// See [`KEYS`].
pub static CONDOR_SCHEDD: Key<String> = used(
    "HTCondor",
    "schedd_name",
    "CTS_HTC_SCHEDD_NAME",
    kind::TEXT,
    "the schedd to use; if absent this machine's own, else the only one that the collector knows",
);

/// See [`KEYS`].
pub static CONDOR_INTERVAL: Key<u32> = used(
    "HTCondor",
    "reconcile_interval_sec",
    "CTS_HTC_RECONCILE_INTERVAL_SEC",
    kind::SECONDS,
    "seconds between two comparisons of the jobs with the pool",
)
.or("30");

/// See [`KEYS`].
pub static CONDOR_MAX_RELEASES: Key<u32> = used(
    "HTCondor",
    "max_releases",
    "CTS_HTC_MAX_RELEASES",
    kind::FROM_ZERO,
    "times that a container held by HTCondor for a cause that may pass is tried again",
)
.or("3");

/// See [`KEYS`].
pub static CONDOR_REQUEST_DISK: Key<bool> = used(
    "HTCondor",
    "request_disk",
    "CTS_HTC_REQUEST_DISK",
    kind::NOT_EXACTLY_FALSE,
    "ask the pool for twice the size of a container's inputs, and 1 GiB",
)
.or("true");

/// See [`KEYS`].
pub static CONDOR_TRANSFER_ALLOWANCE: Key<u32> = used(
    "HTCondor",
    "transfer_allowance_min",
    "CTS_HTC_TRANSFER_ALLOWANCE_MIN",
    kind::FROM_ZERO,
    "minutes beyond the job's runtime after which HTCondor holds a container's executor; 0 for no such limit",
)
.or("1440");

/// See [`KEYS`].
pub static CONDOR_BATCH_NAME: Key<bool> = used(
    "HTCondor",
    "batch_name",
    "CTS_HTC_BATCH_NAME",
    kind::NOT_EXACTLY_FALSE,
    "name each job's procs for `condor_q`",
)
.or("true");

/// See [`KEYS`].
pub static CONDOR_MAX_VACATE: Key<u32> = used(
    "HTCondor",
    "max_vacate_time_sec",
    "CTS_HTC_MAX_VACATE_TIME_SEC",
    kind::FROM_ZERO,
    "seconds an executor gets to stop its container when its slot is wanted back; 0 leaves it to the pool",
)
.or("60");

/// See [`KEYS`].
pub static CONDOR_LEASE: Key<u32> = used(
    "HTCondor",
    "job_lease_sec",
    "CTS_HTC_JOB_LEASE_SEC",
    kind::LEASE_SECONDS,
    "seconds that containers go on without the schedd, and that HTCondor waits for a lost worker before it starts its \
     containers elsewhere",
)
.or("43200");

/// See [`KEYS`].
pub static REFSERVER_URL: Key<Url> = used(
    "ExternalExecution",
    "refserver_url",
    "KBCTS_REFDATA_SERVER_URL",
    kind::HTTP_URL,
    "root of the server that stages reference data for the site `kbase`",
);

/// See [`KEYS`].
pub static REFSERVER_TOKEN: Key<Secret> = used(
    "ExternalExecution",
    "refserver_token",
    "KBCTS_REFDATA_SERVER_TOKEN",
    kind::SECRET,
    "token of a user with that server's CTS role; needed with `refserver_url`",
);

/// See [`KEYS`].
pub static REFDATA_BY_EXECUTORS: Key<bool> = used(
    "ExternalExecution",
    "refdata_staged_by_executors",
    "KBCTS_REFDATA_STAGED_BY_EXECUTORS",
    kind::TRUE_ANY_CASE,
    "without `refserver_url`: executors stage reference data themselves, each for its worker",
)
.or("false");

/// See [`KEYS`].
pub static REFDATA_EXECUTOR_PATH: Key<PathBuf> = used(
    "ExternalExecution",
    "refdata_executor_path",
    "KBCTS_REFDATA_EXECUTOR_PATH",
    kind::ABSOLUTE_PATH,
    "where workers see `refdata_host_path`, for executors that stage there; the same path if absent",
);

/// See [`KEYS`].
pub static REFDATA_HOST_PATH: Key<PathBuf> = used(
    "ExternalExecution",
    "refdata_host_path",
    "KBCTS_REFDATA_HOST_PATH",
    kind::ABSOLUTE_PATH,
    "root of the reference data on container hosts of site `kbase`",
);

/// See [`KEYS`].
pub static UPDATE_TIMEOUT: Key<u32> = used(
    "ExternalExecution",
    "job_update_timeout_min",
    "KBCTS_EXTERNAL_JOB_UPDATE_TIMEOUT_MIN",
    kind::FROM_ONE,
    "minutes an executor keeps trying to report a state",
)
.or("360");

/// See [`KEYS`].
pub static MOUNT_PREFIX: Key<String> = used(
    "ExternalExecution",
    "mount_prefix_override",
    "KBCTS_EXTERNAL_JOB_MOUNT_PREFIX_OVERRIDE",
    kind::MOUNT_PREFIX,
    "how container hosts see the job directories of workers",
);

/// See [`KEYS`].
pub static ARCHIVE_PATH: Key<PathBuf> = used(
    "ExternalExecution",
    "archive_path",
    "KBCTS_CODE_ARCHIVE_PATH",
    kind::PATH,
    "file served as the code archive",
);

/// See [`KEYS`].
pub static ARCHIVE_URL: Key<Url> = used(
    "ExternalExecution",
    "archive_url_override",
    "KBCTS_CODE_ARCHIVE_URL_OVERRIDE",
    kind::HTTP_URL,
    "other URL of the code archive",
);

/// See [`KEYS`].
pub static S3_URL: Key<Url> = used(
    "S3",
    "url",
    "KBCTS_S3_URL",
    kind::HTTP_URL,
    "S3 store, as the service reaches it",
)
.required();

/// See [`KEYS`].
pub static S3_EXTERNAL_URL: Key<Url> = used(
    "S3",
    "external_url",
    "KBCTS_S3_EXTERNAL_URL",
    kind::HTTP_URL,
    "the same store, as workers elsewhere reach it",
);

/// See [`KEYS`].
pub static S3_VERIFY_EXTERNAL: Key<bool> = not_yet(
    "S3",
    "verify_external_url",
    "KBCTS_VERIFY_S3_EXTERNAL_URL",
    kind::NOT_EXACTLY_FALSE,
    "try the external URL at the start",
)
.or("true");

/// See [`KEYS`].
pub static S3_ACCESS_KEY: Key<String> = used(
    "S3",
    "access_key",
    "KBCTS_S3_ACCESS_KEY",
    kind::TEXT,
    "access key",
)
.required();

/// See [`KEYS`].
pub static S3_ACCESS_SECRET: Key<Secret> = used(
    "S3",
    "access_secret",
    "KBCTS_S3_ACCESS_SECRET",
    kind::SECRET,
    "secret key",
)
.required();

/// See [`KEYS`].
pub static S3_INSECURE: Key<bool> = used(
    "S3",
    "allow_insecure",
    "KBCTS_S3_ALLOW_INSECURE",
    kind::EXACTLY_TRUE,
    "do not check the certificate of the store",
)
.or("false");

/// See [`KEYS`].
pub static S3_INSECURE_EXTERNAL: Key<bool> = used(
    "S3",
    "allow_insecure_external",
    "KBCTS_S3_ALLOW_INSECURE_EXTERNAL",
    kind::EXACTLY_TRUE,
    "do not check the certificate of the external URL",
)
.or("false");

/// See [`KEYS`].
pub static MONGO_HOST: Key<ConnectionString> = used(
    "MongoDB",
    "mongo_host",
    "KBCTS_MONGO_HOST",
    kind::CONNECTION_STRING,
    "where MongoDB is",
)
.or("mongodb://localhost:27017");

/// See [`KEYS`].
pub static MONGO_DB: Key<String> = used(
    "MongoDB",
    "mongo_db",
    "KBCTS_MONGO_DB",
    kind::TEXT,
    "database, also the one that knows the user",
)
.or("cdmtaskservice");

/// See [`KEYS`].
pub static MONGO_USER: Key<String> = used(
    "MongoDB",
    "mongo_user",
    "KBCTS_MONGO_USER",
    kind::TEXT,
    "user; both or neither with the password",
);

/// See [`KEYS`].
pub static MONGO_PWD: Key<Secret> = used(
    "MongoDB",
    "mongo_pwd",
    "KBCTS_MONGO_PWD",
    kind::SECRET,
    "password",
);

/// See [`KEYS`].
pub static MONGO_RETRYWRITES: Key<bool> = used(
    "MongoDB",
    "mongo_retrywrites",
    "KBCTS_MONGO_RETRYWRITES",
    kind::TRUE_ANY_CASE,
    "whether the driver retries writes",
)
.or("false");

/// See [`KEYS`].
pub static ALLOWED_PATHS: Key<Vec<PathPrefix>> = used(
    "Jobs",
    "allowed_s3_paths",
    "KBCTS_ALLOWED_S3_PATHS",
    kind::S3_PATHS,
    "where users may read and write; no restriction if absent",
);

/// See [`KEYS`].
pub static LOG_DIR: Key<PathPrefix> = used(
    "Jobs",
    "container_s3_log_dir",
    "KBCTS_CONTAINER_S3_LOG_DIR",
    kind::S3_PATH,
    "where the logs of containers go",
)
.required();

/// See [`KEYS`].
pub static MAX_CPU_HOURS: Key<f64> = used(
    "Jobs",
    "max_cpu_hours",
    "KBCTS_JOB_MAX_CPU_HOURS",
    kind::NUMBER_FROM_ONE,
    "most CPU hours of one job: CPUs x containers x runtime",
)
.or("100");

/// See [`KEYS`].
pub static CLEAN_FREQUENCY: Key<u32> = used(
    "Jobs",
    "clean_frequency_hours",
    "KBCTS_JOB_CLEAN_FREQUENCY_HOURS",
    kind::FROM_ONE,
    "hours between two cleanings",
)
.or("24");

/// See [`KEYS`].
pub static CLEAN_AGE: Key<u32> = used(
    "Jobs",
    "clean_age_days",
    "KBCTS_CLEAN_AGE_DAYS",
    kind::FROM_ONE,
    "days after which a job is cleaned",
)
.or("30");

/// See [`KEYS`].
pub static KAFKA_SERVERS: Key<Vec<String>> = used(
    "Kafka",
    "bootstrap_servers",
    "KBCTS_KAFKA_BOOTSTRAP_SERVERS",
    kind::KAFKA_SERVERS,
    "where Kafka is; without it no messages about jobs are sent",
);

/// See [`KEYS`].
pub static KAFKA_TOPIC: Key<String> = used(
    "Kafka",
    "topic_jobs",
    "KBCTS_KAFKA_TOPIC_JOBS",
    kind::TOPIC,
    "topic of job transitions",
)
.or("cts-jobs");

/// See [`KEYS`].
pub static KAFKA_DELAY: Key<i64> = used(
    "Kafka",
    "check_unsent_messages_on_startup_delay_min",
    "KBCTS_KAFKA_STARTUP_UNSENT_MSG_DELAY_MIN",
    kind::ANY_INTEGER,
    "from 1: send transitions that another service over the same database has left unsent for so many minutes",
)
.or("-1");

/// See [`KEYS`].
pub static CRANE: Key<String> = ignored(
    "Images",
    "crane_path",
    "KBCTS_CRANE_PATH",
    kind::TEXT,
    "registry client of the existing service; this one needs none",
);

/// See [`KEYS`].
pub static PLAIN_HTTP_REGISTRIES: Key<Vec<String>> = used(
    "Images",
    "plain_http_registries",
    "CTS_PLAIN_HTTP_REGISTRIES",
    kind::REGISTRIES,
    "registries that speak plain HTTP; those on this machine always may",
);

/// See [`KEYS`].
pub static ROOT_URL: Key<Url> = used(
    "Service",
    "root_url",
    "KBCTS_SERVICE_ROOT_URL",
    kind::HTTP_URL,
    "root of this service, as workers elsewhere reach it",
)
.or("https://ci.kbase.us/services/cts");

/// See [`KEYS`].
pub static ROOT_PATH: Key<String> = used(
    "Service",
    "root_path",
    "KBCTS_SERVICE_ROOT_PATH",
    kind::TEXT,
    "prefix that a reverse proxy takes away, for the documentation pages",
);

/// See [`KEYS`].
pub static GROUP: Key<String> = ignored(
    "Service",
    "group_id",
    "KBCTS_SERVICE_GROUP",
    kind::TEXT,
    "name of the deployment, for its files at NERSC",
);

/// See [`KEYS`].
pub static MODE: Key<()> = used(
    "Service",
    "mode",
    "KBCTS_MODE",
    kind::MODE,
    "`refdata` is refused: that server is another program",
);

/// See [`KEYS`].
pub static TEST_MODE: Key<bool> = used(
    "Service",
    "test_mode",
    "KBCTS_TEST_MODE",
    kind::TRUE_ANY_CASE,
    "jobs are stored and not started",
)
.or("false");

/// See [`KEYS`].
pub static SKIP_KBASE: Key<bool> = used(
    "Service",
    "skip_kbase",
    "KBCTS_SKIP_KBASE",
    kind::TRUE_ANY_CASE,
    "do not use the site `kbase`",
)
.or("false");

/// See [`KEYS`].
pub static SKIP_NERSC: Key<bool> = ignored(
    "Service",
    "skip_nersc",
    "KBCTS_SKIP_NERSC",
    kind::TRUE_ANY_CASE,
    "do not use the NERSC and LBNL sites; they are never used",
);

/// See [`KEYS`].
pub static BIND_ADDRESS: Key<IpAddr> = used(
    "Server",
    "bind_address",
    "CTS_BIND_ADDRESS",
    kind::ADDRESS,
    "address to listen on",
)
.or("0.0.0.0");

/// See [`KEYS`].
pub static PORT: Key<u16> = used(
    "Server",
    "port",
    "KBCTS_PORT",
    kind::PORT,
    "port to listen on",
)
.or("5000");

/// See [`KEYS`].
pub static CORS_ORIGINS: Key<Vec<HeaderValue>> = used(
    "Server",
    "cors_origins",
    "CTS_CORS_ORIGINS",
    kind::ORIGINS,
    "pages of these origins may call the service from a browser; none if absent",
);

/// See [`KEYS`].
pub static MAX_BODY_BYTES: Key<usize> = used(
    "Server",
    "max_body_bytes",
    "CTS_MAX_BODY_BYTES",
    kind::BYTES,
    "largest body of a request; larger ones are answered with 413",
)
.or("33554432");

/// See [`KEYS`].
pub static MAX_HEAD_BYTES: Key<usize> = used(
    "Server",
    "max_head_bytes",
    "CTS_MAX_HEAD_BYTES",
    kind::BYTES,
    "largest head of a request; larger ones are answered with 431",
)
.or("32768");

/// See [`KEYS`].
pub static MAX_CONNECTIONS: Key<u32> = used(
    "Server",
    "max_connections",
    "CTS_MAX_CONNECTIONS",
    kind::FROM_ONE,
    "connections at the same time; further ones wait",
)
.or("512");

/// See [`KEYS`].
pub static HEAD_TIMEOUT: Key<u32> = used("Server", "head_timeout_sec", "CTS_HEAD_TIMEOUT_SEC", kind::SECONDS, "seconds a client may take to send the head of a request; idle connections are closed after it, too").or("30");

/// See [`KEYS`].
pub static REQUEST_TIMEOUT: Key<u32> = used(
    "Server",
    "request_timeout_sec",
    "CTS_REQUEST_TIMEOUT_SEC",
    kind::SECONDS,
    "seconds until an answer must begin; slower requests are answered with 503",
)
.or("300");

/// See [`KEYS`].
pub static DRAIN_TIMEOUT: Key<u32> = used(
    "Server",
    "drain_timeout_sec",
    "CTS_DRAIN_TIMEOUT_SEC",
    kind::SECONDS,
    "seconds that requests in progress get when the service stops",
)
.or("10");

/// See [`KEYS`].
pub static LOG_LEVEL: Key<LogLevel> = used(
    "Log",
    "level",
    "CTS_LOG_LEVEL",
    kind::LOG_LEVEL,
    "least level of log lines; executors get it, too",
)
.or("INFO");

/// See [`KEYS`].
pub static LOG_FORMAT: Key<LogFormat> = used(
    "Log",
    "format",
    "CTS_LOG_FORMAT",
    kind::LOG_FORMAT,
    "one JSON object a line, or text for people",
)
.or("json");

/// See [`KEYS`].
pub static STORE_KIND: Key<StoreKind> = used(
    "Store",
    "kind",
    "CTS_STORE",
    kind::STORE,
    "where jobs and images are kept: a file in `Store.data_dir`, or MongoDB, which several services may share; \
     `mongodb` where `MongoDB.mongo_host` is set, else `sqlite`",
);

/// See [`KEYS`].
pub static DATA_DIR: Key<PathBuf> = used(
    "Store",
    "data_dir",
    "CTS_DATA_DIR",
    kind::PATH,
    "directory of the database and of executors; made if absent",
)
.or("/var/lib/cts");

/// See [`KEYS`].
pub static LOCAL_ENABLED: Key<bool> = used(
    "LocalSite",
    "enabled",
    "CTS_LOCAL_SITE_ENABLED",
    kind::TRUE_ANY_CASE,
    "offer the site `local`: executors as child processes of the service",
)
.or("false");

/// See [`KEYS`].
pub static LOCAL_EXECUTOR: Key<PathBuf> = used(
    "LocalSite",
    "executor",
    "CTS_EXECUTOR",
    kind::PATH,
    "executor program; `cts-executor` beside this program or in PATH if absent",
);

/// See [`KEYS`].
pub static LOCAL_MAX_EXECUTORS: Key<u32> = used(
    "LocalSite",
    "max_executors",
    "CTS_LOCAL_SITE_MAX_EXECUTORS",
    kind::FROM_ONE,
    "executors at the same time; the number of CPUs if absent",
);

/// See [`KEYS`].
pub static LOCAL_TOKEN_PATH: Key<PathBuf> = used(
    "LocalSite",
    "token_path",
    "CTS_LOCAL_SITE_TOKEN_PATH",
    kind::PATH,
    "file with a token of a user with the executor role; needed if the site is enabled",
);

/// See [`KEYS`].
pub static LOCAL_DOCKER_HOST: Key<String> = used(
    "LocalSite",
    "docker_host",
    "DOCKER_HOST",
    kind::TEXT,
    "container engine of the executors; unix:///var/run/docker.sock if absent",
);

/// All settings, in the order of the documentation.
pub static KEYS: [&(dyn AnyKey + Sync); 90] = [
    &AUTH_URL,
    &ADMIN_ROLES,
    &KBASE_STAFF_ROLE,
    &NERSC_ACCOUNT_ROLE,
    &EXECUTOR_ROLE,
    &REFDATA_ROLE,
    &TOKEN_FILE,
    &JAWS_USER,
    &JAWS_REFDATA_ROOT,
    &JAWS_STAGING_DTN,
    &JAWS_STAGING_PERLMUTTER,
    &NERSC_CREDENTIALS,
    &NERSC_CODE_DIR,
    &JAWS_URL,
    &JAWS_TOKEN,
    &JAWS_GROUP,
    &CONDOR_INITIALDIR,
    &CONDOR_CLIENTGROUP,
    &CONDOR_TOKEN_PATH,
    &CONDOR_S3_SECRET_PATH,
    &CONDOR_ADDITIONAL_PATH,
    &CONDOR_CACHE_DIR,
    &CONDOR_S3_EXTERNAL,
    &CONDOR_EXECUTABLE,
    &CONDOR_EXECUTABLE_URL,
    &CONDOR_COMMAND_DIR,
    &CONDOR_SCHEDD,
    &CONDOR_INTERVAL,
    &CONDOR_MAX_RELEASES,
    &CONDOR_REQUEST_DISK,
    &CONDOR_TRANSFER_ALLOWANCE,
    &CONDOR_BATCH_NAME,
    &CONDOR_MAX_VACATE,
    &CONDOR_LEASE,
    &REFSERVER_URL,
    &REFSERVER_TOKEN,
    &REFDATA_BY_EXECUTORS,
    &REFDATA_EXECUTOR_PATH,
    &REFDATA_HOST_PATH,
    &UPDATE_TIMEOUT,
    &MOUNT_PREFIX,
    &ARCHIVE_PATH,
    &ARCHIVE_URL,
    &S3_URL,
    &S3_EXTERNAL_URL,
    &S3_VERIFY_EXTERNAL,
    &S3_ACCESS_KEY,
    &S3_ACCESS_SECRET,
    &S3_INSECURE,
    &S3_INSECURE_EXTERNAL,
    &MONGO_HOST,
    &MONGO_DB,
    &MONGO_USER,
    &MONGO_PWD,
    &MONGO_RETRYWRITES,
    &ALLOWED_PATHS,
    &LOG_DIR,
    &MAX_CPU_HOURS,
    &CLEAN_FREQUENCY,
    &CLEAN_AGE,
    &KAFKA_SERVERS,
    &KAFKA_TOPIC,
    &KAFKA_DELAY,
    &CRANE,
    &PLAIN_HTTP_REGISTRIES,
    &ROOT_URL,
    &ROOT_PATH,
    &GROUP,
    &MODE,
    &TEST_MODE,
    &SKIP_KBASE,
    &SKIP_NERSC,
    &BIND_ADDRESS,
    &PORT,
    &CORS_ORIGINS,
    &MAX_BODY_BYTES,
    &MAX_HEAD_BYTES,
    &MAX_CONNECTIONS,
    &HEAD_TIMEOUT,
    &REQUEST_TIMEOUT,
    &DRAIN_TIMEOUT,
    &LOG_LEVEL,
    &LOG_FORMAT,
    &STORE_KIND,
    &DATA_DIR,
    &LOCAL_ENABLED,
    &LOCAL_EXECUTOR,
    &LOCAL_MAX_EXECUTORS,
    &LOCAL_TOKEN_PATH,
    &LOCAL_DOCKER_HOST,
];
