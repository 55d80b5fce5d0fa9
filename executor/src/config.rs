//! Settings: from variables to values that need no further check.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cts_net::secret::{Secret, SecretError, SecretSource};
use cts_net::tls::Verify;
use cts_shared::id::{ContainerNumber, JobId};
use cts_shared::s3_path::S3Path;
use url::{Host, Url};

use crate::condor::ads::vacate_time;
use crate::container_engine::docker;
use crate::refdata::StagingLimits;
use crate::registry_logins;
use crate::report::Budget;
use crate::telemetry::{LogFormat, LogLevel};
use crate::variables as vars;

mod mount_prefix;
mod reader;

pub use mount_prefix::MountPrefixOverride;
pub use reader::{ConfigError, Lookup};
pub(crate) use reader::{Reader, between, http_url, non_empty};
use reader::{boolean, minutes};

/// After a signal everything is over this long after the stop grace.
const AFTER_THE_GRACE: Duration = Duration::from_secs(10);
/// Cleaning up gets this much of it, also when the engine hangs.
pub const CLEANUP_TIMEOUT: Duration = Duration::from_secs(8);

/// The settings of `run`.
#[derive(Debug)]
pub struct RunConfig {
    /// Which job.
    pub job: JobId,
    /// Which of its containers.
    pub container: ContainerNumber,
    /// The service's root, without a slash at the end.
    pub service: Url,
    /// The service token.
    pub token: Arc<SecretSource>,
    /// The object store.
    pub s3: S3Config,
    /// Where the container logs go in S3: bucket and key prefix without a slash at the end.
    pub log_path: S3Path,
    /// Root of the reference data on the container host; empty where there is none.
    pub refdata_host_path: String,
    /// Where this executor stages reference data itself; none: what containers mount is there already.
    pub refdata: Option<RefdataConfig>,
    /// How long one state update is tried.
    pub update_budget: Budget,
    /// How the container host sees the job directory, if differently.
    pub mount_prefix: Option<MountPrefixOverride>,
    /// What is ours to choose.
    pub limits: Limits,
    /// Registries that speak http.
    pub plain_http_registries: Vec<String>,
    /// Where the container engine listens; the engine's default if not given.
    pub docker_host: Option<String>,
    /// The directory with the logins of registries.
    pub docker_config: Option<PathBuf>,
}

/// Staging of reference data by executors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefdataConfig {
    /// Where this machine sees [`RunConfig::refdata_host_path`].
    pub directory: PathBuf,
    /// What one item may take.
    pub limits: StagingLimits,
}

/// Bounds that the contract leaves to the executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Between SIGTERM and SIGKILL: the setting, or less where the batch system grants less.
    pub stop_grace: Duration,
    /// S3 downloads in flight.
    pub transfer_concurrency: NonZeroUsize,
    /// How long a part of a transfer is tried.
    pub transfer_budget: Duration,
    /// Processes and threads of the container.
    pub pids: u32,
    /// Bytes kept of each output stream.
    pub log_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stop_grace: Duration::from_secs(10),
            transfer_concurrency: NonZeroUsize::MIN.saturating_add(7),
            transfer_budget: Duration::from_secs(60 * 60),
            pids: 4096,
            log_bytes: 1024 * 1024 * 1024,
        }
    }
}

/// The object store. The secret's file is read when the store is first needed, as the contract has it.
#[derive(Debug, Clone)]
pub struct S3Config {
    /// Endpoint.
    pub url: Url,
    /// Access key id.
    pub access_key: String,
    /// Where the secret key comes from.
    pub secret: SecretOrigin,
    /// Whether the store's certificate is checked.
    pub verify: Verify,
    /// Whether signatures cover the bytes that are uploaded; by the URL's scheme if not given.
    pub sign_payload: Option<bool>,
}

/// Where a secret comes from.
#[derive(Debug, Clone)]
pub enum SecretOrigin {
    /// A file.
    File(PathBuf),
    /// A value of the environment.
    Value(Secret),
}

impl SecretOrigin {
    /// Reads the secret.
    ///
    /// # Errors
    /// When its file cannot be read or holds no secret.
    pub fn load(&self) -> Result<SecretSource, SecretError> {
        match self {
            Self::File(path) => SecretSource::from_file(path),
            Self::Value(secret) => Ok(SecretSource::from_value(secret.clone())),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::File(path) => format!("in {}", path.display()),
            Self::Value(_) => "[redacted]".to_owned(),
        }
    }
}

impl RunConfig {
    /// Reads the settings of `run`. Reads the token's file; sends nothing.
    ///
    /// # Errors
    /// Every setting that is missing or wrong, one line each.
    pub fn read(lookup: Lookup<'_>) -> Result<Self, Vec<ConfigError>> {
        let mut reader = Reader::new(lookup);
        let job = reader.required(vars::JOB_ID, |text| text.parse().ok());
        let container = reader.required(vars::CONTAINER_NUMBER, |text| {
            between(text, 0, ContainerNumber::MAX)
        });
        let service = ServiceConfig::read_with(&mut reader);
        let s3 = S3Config::read_with(&mut reader);
        let log_path = reader.required(vars::S3_ERROR_LOG_PATH, |text| {
            S3Path::parse(text.trim_matches('/')).ok()
        });
        let refdata_host_path = reader.required(vars::REFDATA_HOST_PATH, |text| {
            (text.is_empty() || text.starts_with('/')).then(|| text.to_owned())
        });
        let refdata = RefdataConfig::read_with(&mut reader);
        let update_budget = reader
            .required(vars::JOB_UPDATE_TIMEOUT_MIN, minutes)
            .map(Budget);
        let mount_prefix = reader
            .optional(vars::MOUNT_PREFIX_OVERRIDE, |text| match text {
                "" => Some(None),
                text => text.parse().ok().map(Some),
            })
            .flatten();
        reader.optional(vars::CTS_LOG_LEVEL, |text| text.parse::<LogLevel>().ok());
        reader.optional(vars::CTS_LOG_FORMAT, |text| text.parse::<LogFormat>().ok());
        let defaults = Limits::default();
        let stop_grace = reader
            .optional(vars::CTS_STOP_GRACE_SECS, |text| between(text, 0, 3600))
            .map_or(defaults.stop_grace, Duration::from_secs);
        let granted = vacate_time(lookup).map(|granted| granted.saturating_sub(AFTER_THE_GRACE));
        let limits = Limits {
            stop_grace: granted.map_or(stop_grace, |granted| granted.min(stop_grace)),
            transfer_concurrency: reader
                .optional(vars::CTS_TRANSFER_CONCURRENCY, |text| between(text, 1, 64))
                .and_then(NonZeroUsize::new)
                .unwrap_or(defaults.transfer_concurrency),
            transfer_budget: reader
                .optional(vars::CTS_TRANSFER_TIMEOUT_MIN, minutes)
                .unwrap_or(defaults.transfer_budget),
            pids: reader
                .optional(vars::CTS_PIDS_LIMIT, |text| between(text, 16, 4_194_304))
                .unwrap_or(defaults.pids),
            log_bytes: reader
                .optional(vars::CTS_LOG_LIMIT_MIB, |text| between(text, 1, 1_048_576))
                .map_or(defaults.log_bytes, |mib: u64| mib * 1024 * 1024),
        };
        let plain_http_registries = plain_http_registries(&mut reader);
        let docker_host = reader.optional(vars::DOCKER_HOST, |text| Some(text.to_owned()));
        let docker_host = docker_host.filter(|host| !host.is_empty());
        let docker_config = registry_logins::directory(lookup);
        let errors = reader.errors;
        match (
            job,
            container,
            service,
            s3,
            log_path,
            refdata_host_path,
            update_budget,
        ) {
            (
                Some(job),
                Some(container),
                Some(ServiceConfig {
                    root: service,
                    token,
                }),
                Some(s3),
                Some(log_path),
                Some(refdata_host_path),
                Some(update_budget),
            ) if errors.is_empty() => Ok(Self {
                job,
                container,
                service,
                token,
                s3,
                log_path,
                refdata_host_path,
                refdata,
                update_budget,
                mount_prefix,
                limits,
                plain_http_registries,
                docker_host,
                docker_config,
            }),
            _ => Err(errors),
        }
    }

    /// Whether the container engine is on this machine.
    #[must_use]
    pub fn has_local_engine(&self) -> bool {
        self.docker_host.as_deref().is_none_or(docker::is_local)
    }

    /// The configuration as lines of `NAME: value`, secrets redacted.
    #[must_use]
    pub fn describe(&self) -> Vec<(&'static str, String)> {
        vec![
            (vars::JOB_ID.name, self.job.to_string()),
            (vars::CONTAINER_NUMBER.name, self.container.to_string()),
            (vars::SERVICE_ROOT_URL.name, self.service.to_string()),
            (
                vars::TOKEN.name,
                self.token.path().map_or_else(
                    || "[redacted]".to_owned(),
                    |path| format!("in {}", path.display()),
                ),
            ),
            (vars::S3_URL.name, self.s3.url.to_string()),
            (vars::S3_ACCESS_KEY.name, self.s3.access_key.clone()),
            (vars::S3_SECRET.name, self.s3.secret.describe()),
            (vars::S3_ERROR_LOG_PATH.name, self.log_path.to_string()),
            (
                vars::S3_INSECURE.name,
                (self.s3.verify == Verify::Nothing).to_string(),
            ),
            (vars::REFDATA_HOST_PATH.name, self.refdata_host_path.clone()),
            (
                vars::CTS_REFDATA_DIR.name,
                self.refdata.as_ref().map_or_else(
                    || "none".to_owned(),
                    |refdata| refdata.directory.display().to_string(),
                ),
            ),
            (
                vars::JOB_UPDATE_TIMEOUT_MIN.name,
                (self.update_budget.0.as_secs() / 60).to_string(),
            ),
            (
                vars::MOUNT_PREFIX_OVERRIDE.name,
                self.mount_prefix
                    .as_ref()
                    .map_or_else(|| "none".to_owned(), ToString::to_string),
            ),
            (
                vars::DOCKER_HOST.name,
                self.docker_host
                    .clone()
                    .unwrap_or_else(|| docker::DEFAULT_HOST.to_owned()),
            ),
            (
                vars::CTS_STOP_GRACE_SECS.name,
                self.limits.stop_grace.as_secs().to_string(),
            ),
            (
                vars::CTS_TRANSFER_CONCURRENCY.name,
                self.limits.transfer_concurrency.to_string(),
            ),
            (
                vars::CTS_TRANSFER_TIMEOUT_MIN.name,
                (self.limits.transfer_budget.as_secs() / 60).to_string(),
            ),
            (vars::CTS_PIDS_LIMIT.name, self.limits.pids.to_string()),
            (
                vars::CTS_LOG_LIMIT_MIB.name,
                (self.limits.log_bytes / (1024 * 1024)).to_string(),
            ),
            (
                vars::CTS_PLAIN_HTTP_REGISTRIES.name,
                self.plain_http_registries.join(","),
            ),
        ]
    }

    /// What is allowed and should not stay: each in a sentence for the log.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.s3.verify == Verify::Nothing {
            warnings.push(format!(
                "{} is set: whoever can come between can read and change the data; give the store a \
                 certificate that SSL_CERT_FILE can verify",
                vars::S3_INSECURE.name
            ));
        }
        if self.service.scheme() == "http" && !is_this_machine(&self.service) {
            warnings.push(format!(
                "{} is not https: the token travels unencrypted",
                vars::SERVICE_ROOT_URL.name
            ));
        }
        warnings
    }
}

/// Whether what is sent there stays on this machine.
pub(crate) fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Hosts that speak http, from a comma separated list.
fn plain_http_registries(reader: &mut Reader<'_>) -> Vec<String> {
    reader
        .optional(vars::CTS_PLAIN_HTTP_REGISTRIES, |text| {
            let hosts: Vec<String> = text
                .split(',')
                .map(|host| host.trim().to_owned())
                .filter(|host| !host.is_empty())
                .collect();
            hosts
                .iter()
                .all(|host| !host.contains('/'))
                .then_some(hosts)
        })
        .unwrap_or_default()
}

/// Which container of which job, if at least that is set right.
#[must_use]
pub fn which_container(lookup: Lookup<'_>) -> Option<(JobId, ContainerNumber)> {
    let job = lookup(vars::JOB_ID.name)?.trim().parse().ok()?;
    let container = lookup(vars::CONTAINER_NUMBER.name)?.trim().parse().ok()?;
    Some((job, container))
}

/// Where the service is and how to sign in.
#[derive(Debug)]
pub struct ServiceConfig {
    /// The service's root, without a slash at the end.
    pub root: Url,
    /// The service token.
    pub token: Arc<SecretSource>,
}

impl ServiceConfig {
    /// Reads only the settings of the service.
    ///
    /// # Errors
    /// Every one that is missing or wrong.
    pub fn read(lookup: Lookup<'_>) -> Result<Self, Vec<ConfigError>> {
        let mut reader = Reader::new(lookup);
        Self::read_with(&mut reader).ok_or(reader.errors)
    }

    fn read_with(reader: &mut Reader<'_>) -> Option<Self> {
        let root = reader.required(vars::SERVICE_ROOT_URL, http_url);
        let token = read_token(reader)?;
        Some(Self { root: root?, token })
    }
}

/// What staging may make of one item.
fn staging_limits(reader: &mut Reader<'_>) -> StagingLimits {
    let defaults = StagingLimits::default();
    StagingLimits {
        max_entries: reader
            .optional(vars::CTS_REFDATA_MAX_ENTRIES, |text| {
                between(text, 1, u64::MAX)
            })
            .unwrap_or(defaults.max_entries),
        max_expansion: reader
            .optional(vars::CTS_REFDATA_MAX_EXPANSION, |text| {
                between(text, 1, u64::MAX)
            })
            .unwrap_or(defaults.max_expansion),
        max_unpacked_bytes: reader
            .optional(vars::CTS_REFDATA_MAX_UNPACKED_GIB, |text| {
                between(text, 1, 1_048_576)
            })
            .map_or(defaults.max_unpacked_bytes, |gib: u64| gib << 30),
        reserve_bytes: reader
            .optional(vars::CTS_REFDATA_RESERVE_MIB, |text| {
                between(text, 0, 1_048_576)
            })
            .map_or(defaults.reserve_bytes, |mib: u64| mib << 20),
        ..defaults
    }
}

/// The settings of `refdata stage`.
#[derive(Debug)]
pub struct StageConfig {
    /// The object store.
    pub s3: S3Config,
    /// How long a part of the transfer is tried.
    pub transfer_budget: Duration,
    /// What the item may take.
    pub limits: StagingLimits,
}

impl StageConfig {
    /// Reads them; sends nothing.
    ///
    /// # Errors
    /// Every setting that is missing or wrong.
    pub fn read(lookup: Lookup<'_>) -> Result<Self, Vec<ConfigError>> {
        let mut reader = Reader::new(lookup);
        let s3 = S3Config::read_with(&mut reader);
        let transfer_budget = reader
            .optional(vars::CTS_TRANSFER_TIMEOUT_MIN, minutes)
            .unwrap_or(Limits::default().transfer_budget);
        let limits = staging_limits(&mut reader);
        match s3 {
            Some(s3) if reader.errors.is_empty() => Ok(Self {
                s3,
                transfer_budget,
                limits,
            }),
            _ => Err(reader.errors),
        }
    }
}

/// The service token, if one is set.
///
/// # Errors
/// When its file or value cannot be used.
pub fn service_token(lookup: Lookup<'_>) -> Result<Option<Arc<SecretSource>>, Vec<ConfigError>> {
    if [vars::TOKEN_PATH, vars::TOKEN]
        .iter()
        .all(|variable| lookup(variable.name).is_none())
    {
        return Ok(None);
    }
    let mut reader = Reader::new(lookup);
    let token = read_token(&mut reader);
    token.map(Some).ok_or(reader.errors)
}

fn read_token(reader: &mut Reader<'_>) -> Option<Arc<SecretSource>> {
    match reader.secret(vars::TOKEN_PATH, vars::TOKEN)?.load() {
        Ok(source) => Some(Arc::new(source)),
        Err(error) => {
            let (name, cause) = (vars::TOKEN_PATH.name, error.to_string());
            reader.errors.push(ConfigError::SecretFile { name, cause });
            None
        }
    }
}

impl RefdataConfig {
    fn read_with(reader: &mut Reader<'_>) -> Option<Self> {
        let directory = reader
            .optional(vars::CTS_REFDATA_DIR, |text| {
                (text.is_empty() || text.starts_with('/')).then(|| PathBuf::from(text))
            })
            .filter(|path| !path.as_os_str().is_empty());
        let limits = staging_limits(reader);
        Some(Self {
            directory: directory?,
            limits,
        })
    }
}

impl S3Config {
    /// Reads only the settings of the object store.
    ///
    /// # Errors
    /// Every one that is missing or wrong.
    pub fn read(lookup: Lookup<'_>) -> Result<Self, Vec<ConfigError>> {
        let mut reader = Reader::new(lookup);
        Self::read_with(&mut reader).ok_or(reader.errors)
    }

    fn read_with(reader: &mut Reader<'_>) -> Option<Self> {
        let url = reader.required(vars::S3_URL, http_url);
        let access_key = reader.required(vars::S3_ACCESS_KEY, non_empty);
        let secret = reader.secret(vars::S3_SECRET_PATH, vars::S3_SECRET);
        let insecure = reader.optional(vars::S3_INSECURE, boolean).unwrap_or(false);
        let verify = if insecure {
            Verify::Nothing
        } else {
            Verify::Certificates
        };
        let sign_payload = reader.optional(vars::CTS_S3_SIGN_PAYLOAD, boolean);
        Some(Self {
            url: url?,
            access_key: access_key?,
            secret: secret?,
            verify,
            sign_payload,
        })
    }
}

#[cfg(test)]
mod tests;
