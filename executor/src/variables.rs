//! Every environment variable of `cts-executor run`, in one place: the settings are parsed from this
//! list, `run --help` prints it, and each is also a flag of the same name (`JOB_ID`, `--job-id`;
//! `CTS_PIDS_LIMIT`, `--pids-limit`).
//!
//! The first part is the contract's (executor.md, section 1); those starting with `CTS_` (but for
//! `CTS_LOG_LEVEL`) are ours.

/// One environment variable.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it should be; completes the sentence "it should be ...".
    pub meaning: &'static str,
    /// Secrets have no flag: arguments show in process lists.
    pub secret: bool,
}

const fn variable(name: &'static str, meaning: &'static str) -> Variable {
    Variable {
        name,
        meaning,
        secret: false,
    }
}

const fn secret(name: &'static str, meaning: &'static str) -> Variable {
    Variable {
        name,
        meaning,
        secret: true,
    }
}

/// See [`VARIABLES`].
pub const JOB_ID: Variable = variable("JOB_ID", "the job's id, a UUID");
/// See [`VARIABLES`].
pub const CONTAINER_NUMBER: Variable = variable(
    "CONTAINER_NUMBER",
    "the container's number within the job, an integer from 0",
);
/// See [`VARIABLES`].
pub const SERVICE_ROOT_URL: Variable = variable(
    "SERVICE_ROOT_URL",
    "the root URL of the CDM Task Service, http or https",
);
/// See [`VARIABLES`].
pub const TOKEN: Variable = secret(
    "TOKEN",
    "a service token with the external executor role; better a file, TOKEN_PATH",
);
/// See [`VARIABLES`].
pub const TOKEN_PATH: Variable = variable(
    "TOKEN_PATH",
    "a file with a service token that has the external executor role",
);
/// See [`VARIABLES`].
pub const S3_URL: Variable = variable("S3_URL", "the URL of the S3 store, http or https");
/// See [`VARIABLES`].
pub const S3_ACCESS_KEY: Variable = variable("S3_ACCESS_KEY", "the S3 access key id");
/// See [`VARIABLES`].
pub const S3_SECRET: Variable = secret(
    "S3_SECRET",
    "the S3 secret key; better a file, S3_SECRET_PATH",
);
/// See [`VARIABLES`].
pub const S3_SECRET_PATH: Variable = variable("S3_SECRET_PATH", "a file with the S3 secret key");
/// See [`VARIABLES`].
pub const S3_ERROR_LOG_PATH: Variable = variable(
    "S3_ERROR_LOG_PATH",
    "the S3 path for the container logs: bucket, key prefix, job id at the end",
);
/// See [`VARIABLES`].
pub const S3_INSECURE: Variable = variable(
    "S3_INSECURE",
    "true to skip the check of the S3 store's certificate, else false",
);
/// See [`VARIABLES`].
pub const REFDATA_HOST_PATH: Variable = variable(
    "REFDATA_HOST_PATH",
    "the root of the reference data on the container host, an absolute path; may be empty where there \
     is none",
);
/// See [`VARIABLES`].
pub const JOB_UPDATE_TIMEOUT_MIN: Variable = variable(
    "JOB_UPDATE_TIMEOUT_MIN",
    "how many minutes one state update is tried, an integer from 1",
);
/// See [`VARIABLES`].
pub const MOUNT_PREFIX_OVERRIDE: Variable = variable(
    "MOUNT_PREFIX_OVERRIDE",
    "OLD:NEW, two absolute paths: the job directory lies below OLD here and below NEW on the \
     container host",
);
/// See [`VARIABLES`].
pub const CTS_LOG_LEVEL: Variable = variable(
    "CTS_LOG_LEVEL",
    "DEBUG, INFO, WARNING, ERROR or CRITICAL; default INFO",
);
/// See [`VARIABLES`].
pub const CTS_LOG_FORMAT: Variable = variable("CTS_LOG_FORMAT", "text or json; default text");
/// See [`VARIABLES`].
pub const DOCKER_HOST: Variable = variable(
    "DOCKER_HOST",
    "where the container engine listens; default unix:///var/run/docker.sock",
);
/// See [`VARIABLES`].
pub const DOCKER_CONFIG: Variable = variable(
    "DOCKER_CONFIG",
    "the directory of Docker's config.json, whose logins registries are shown; default ~/.docker",
);
/// See [`VARIABLES`].
pub const CTS_STOP_GRACE_SECS: Variable = variable(
    "CTS_STOP_GRACE_SECS",
    "seconds between SIGTERM and SIGKILL for a container that must end, 0 to 3600; default 10",
);
/// See [`VARIABLES`].
pub const CTS_S3_SIGN_PAYLOAD: Variable = variable(
    "CTS_S3_SIGN_PAYLOAD",
    "true to have the signature cover the bytes that are uploaded, which costs a SHA-256 of each; \
     default true over http, false over https",
);
/// See [`VARIABLES`].
pub const CTS_TRANSFER_CONCURRENCY: Variable = variable(
    "CTS_TRANSFER_CONCURRENCY",
    "S3 downloads in flight, 1 to 64; default 8",
);
/// See [`VARIABLES`].
pub const CTS_TRANSFER_TIMEOUT_MIN: Variable = variable(
    "CTS_TRANSFER_TIMEOUT_MIN",
    "how many minutes a part of a transfer is tried while the store is away, an integer from 1; \
     default 60",
);
/// See [`VARIABLES`].
pub const CTS_PIDS_LIMIT: Variable = variable(
    "CTS_PIDS_LIMIT",
    "the most processes and threads of the container, 16 to 4194304; default 4096",
);
/// See [`VARIABLES`].
pub const CTS_LOG_LIMIT_MIB: Variable = variable(
    "CTS_LOG_LIMIT_MIB",
    "MiB kept of each of the container's output streams, 1 to 1048576; default 1024",
);
/// See [`VARIABLES`].
pub const CTS_PLAIN_HTTP_REGISTRIES: Variable = variable(
    "CTS_PLAIN_HTTP_REGISTRIES",
    "registries that speak http, host:port separated by commas; those on this machine always may",
);

/// See [`VARIABLES`].
pub const CTS_REFDATA_DIR: Variable = variable(
    "CTS_REFDATA_DIR",
    "where this machine sees REFDATA_HOST_PATH, an absolute path: reference data is staged there when a \
     job needs it, and checked; if not set it is mounted as it is found",
);
/// See [`VARIABLES`].
pub const CTS_REFDATA_MAX_ENTRIES: Variable = variable(
    "CTS_REFDATA_MAX_ENTRIES",
    "the most files, directories and links of one archive of reference data, from 1; default 1000000",
);
/// See [`VARIABLES`].
pub const CTS_REFDATA_MAX_EXPANSION: Variable = variable(
    "CTS_REFDATA_MAX_EXPANSION",
    "the most unpacked bytes per byte of an archive of reference data beyond 1 GiB, from 1; default 200",
);
/// See [`VARIABLES`].
pub const CTS_REFDATA_MAX_UNPACKED_GIB: Variable = variable(
    "CTS_REFDATA_MAX_UNPACKED_GIB",
    "the most GiB of one item of reference data once unpacked, 1 to 1048576; default 4096",
);
/// See [`VARIABLES`].
pub const CTS_REFDATA_RESERVE_MIB: Variable = variable(
    "CTS_REFDATA_RESERVE_MIB",
    "MiB that staging reference data leaves free, 0 to 1048576; default 1024",
);

/// All of them, in the order of the documentation.
pub const VARIABLES: [Variable; 30] = [
    JOB_ID,
    CONTAINER_NUMBER,
    SERVICE_ROOT_URL,
    TOKEN,
    TOKEN_PATH,
    S3_URL,
    S3_ACCESS_KEY,
    S3_SECRET,
    S3_SECRET_PATH,
    S3_ERROR_LOG_PATH,
    S3_INSECURE,
    REFDATA_HOST_PATH,
    JOB_UPDATE_TIMEOUT_MIN,
    MOUNT_PREFIX_OVERRIDE,
    CTS_LOG_LEVEL,
    DOCKER_HOST,
    DOCKER_CONFIG,
    CTS_LOG_FORMAT,
    CTS_STOP_GRACE_SECS,
    CTS_S3_SIGN_PAYLOAD,
    CTS_TRANSFER_CONCURRENCY,
    CTS_TRANSFER_TIMEOUT_MIN,
    CTS_PIDS_LIMIT,
    CTS_LOG_LIMIT_MIB,
    CTS_PLAIN_HTTP_REGISTRIES,
    CTS_REFDATA_DIR,
    CTS_REFDATA_MAX_ENTRIES,
    CTS_REFDATA_MAX_EXPANSION,
    CTS_REFDATA_MAX_UNPACKED_GIB,
    CTS_REFDATA_RESERVE_MIB,
];

impl Variable {
    /// The flag's name without its dashes: the variable's, without a leading `CTS_`. None for secrets.
    #[must_use]
    pub fn flag(&self) -> Option<String> {
        let name = self.name.strip_prefix("CTS_").unwrap_or(self.name);
        (!self.secret).then(|| name.to_ascii_lowercase().replace('_', "-"))
    }
}
