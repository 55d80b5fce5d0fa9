//! Settings: from variables to values that need no further check.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use cts_net::secret::{Secret, SecretError, SecretSource};
use cts_net::tls::Verify;
use cts_shared::id::{ContainerNumber, JobId};
use cts_shared::s3_path::S3Path;
use url::{Host, Url};

use crate::container_engine::docker;
use crate::registry_logins;
use crate::report::Budget;
use crate::telemetry::{LogFormat, LogLevel};
use crate::variables::{self as vars, Variable};

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

/// Bounds that the contract leaves to the executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Between SIGTERM and SIGKILL.
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

/// `OLD:NEW`: the container host sees below NEW what lies below OLD here. For workers that are
/// containers themselves (contract executor.md, section 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPrefixOverride {
    old: PathBuf,
    new: PathBuf,
}

impl MountPrefixOverride {
    /// The place on the container host of an absolute path here, if it lies below OLD.
    #[must_use]
    pub fn on_host(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(&self.old)
            .ok()
            .map(|rest| self.new.join(rest))
    }

    /// The prefix that paths must lie below.
    #[must_use]
    pub fn old(&self) -> &Path {
        &self.old
    }
}

impl FromStr for MountPrefixOverride {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (old, new) = text.split_once(':').ok_or(())?;
        let is_one_path = |text: &str| text.starts_with('/') && !text.contains(':');
        if !is_one_path(old) || !is_one_path(new) {
            return Err(());
        }
        Ok(Self {
            old: old.into(),
            new: new.into(),
        })
    }
}

impl fmt::Display for MountPrefixOverride {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.old.display(), self.new.display())
    }
}

/// One setting that is missing or wrong, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not set.
    #[error("{name} is not set; it should be {meaning}")]
    Missing {
        /// The variable.
        name: &'static str,
        /// What it should be.
        meaning: &'static str,
    },
    /// Neither of two variables is set.
    #[error("neither {path} nor {value} is set; {path} should be {meaning}")]
    MissingSecret {
        /// The variable with the path.
        path: &'static str,
        /// The variable with the value.
        value: &'static str,
        /// What the path should be.
        meaning: &'static str,
    },
    /// Set to something else than it should be.
    #[error("{name} is {given:?}; it should be {meaning}")]
    Wrong {
        /// The variable.
        name: &'static str,
        /// Its value.
        given: String,
        /// What it should be.
        meaning: &'static str,
    },
    /// Its file is not usable.
    #[error("{name}: {cause}")]
    SecretFile {
        /// The variable.
        name: &'static str,
        /// What is wrong with the file.
        cause: String,
    },
    /// Empty secret in the environment.
    #[error("{name} is empty or not one line of text; it should be {meaning}")]
    WrongSecret {
        /// The variable.
        name: &'static str,
        /// What it should be.
        meaning: &'static str,
    },
}

/// Looks a variable up: flags first, then the environment.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads variables and collects what is wrong with them.
struct Reader<'a> {
    lookup: Lookup<'a>,
    errors: Vec<ConfigError>,
}

impl<'a> Reader<'a> {
    const fn new(lookup: Lookup<'a>) -> Self {
        let errors = Vec::new();
        Self { lookup, errors }
    }

    fn text(&self, variable: Variable) -> Option<String> {
        (self.lookup)(variable.name).map(|value| value.trim().to_owned())
    }

    fn wrong<T>(&mut self, variable: Variable, given: &str) -> Option<T> {
        let Variable { name, meaning, .. } = variable;
        let given = without_password(given);
        self.errors.push(ConfigError::Wrong {
            name,
            given,
            meaning,
        });
        None
    }

    /// A variable that must be set and that `parse` must accept.
    fn required<T>(
        &mut self,
        variable: Variable,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let Some(given) = self.text(variable) else {
            let Variable { name, meaning, .. } = variable;
            self.errors.push(ConfigError::Missing { name, meaning });
            return None;
        };
        match parse(&given) {
            Some(value) => Some(value),
            None => self.wrong(variable, &given),
        }
    }

    /// A variable that `parse` must accept if it is set.
    fn optional<T>(
        &mut self,
        variable: Variable,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let given = self.text(variable)?;
        match parse(&given) {
            Some(value) => Some(value),
            None => self.wrong(variable, &given),
        }
    }

    /// A secret: the file wins, the plain variable is then ignored, even if the file is missing.
    fn secret(&mut self, path: Variable, value: Variable) -> Option<SecretOrigin> {
        if self.text(path).is_some() {
            return self
                .required(path, non_empty)
                .map(|path| SecretOrigin::File(path.into()));
        }
        let Some(text) = self.text(value) else {
            let meaning = path.meaning;
            let (path, value) = (path.name, value.name);
            self.errors.push(ConfigError::MissingSecret {
                path,
                value,
                meaning,
            });
            return None;
        };
        if text.is_empty() || text.chars().any(char::is_control) {
            let Variable { name, meaning, .. } = value;
            self.errors.push(ConfigError::WrongSecret { name, meaning });
            return None;
        }
        Some(SecretOrigin::Value(Secret::from(text)))
    }
}

/// A value as it may be shown: an address may have a password in it.
fn without_password(text: &str) -> String {
    match text
        .split_once("://")
        .map(|(scheme, rest)| (scheme, rest.rsplit_once('@')))
    {
        Some((scheme, Some((_, host)))) => format!("{scheme}://[redacted]@{host}"),
        _ => text.to_owned(),
    }
}

fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn http_url(text: &str) -> Option<Url> {
    let url = Url::parse(text.trim_end_matches('/')).ok()?;
    let usable = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    usable.then_some(url)
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" | "t" | "y" => Some(true),
        "false" | "0" | "no" | "off" | "f" | "n" => Some(false),
        _ => None,
    }
}

fn between<T: FromStr + PartialOrd>(text: &str, lowest: T, highest: T) -> Option<T> {
    text.parse()
        .ok()
        .filter(|value| (lowest..=highest).contains(value))
}

fn minutes(text: &str) -> Option<Duration> {
    // A year: longer makes no sense and would overflow arithmetic on the way.
    between::<u64>(text, 1, 525_600).map(|minutes| Duration::from_secs(minutes * 60))
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
        let limits = Limits {
            stop_grace: reader
                .optional(vars::CTS_STOP_GRACE_SECS, |text| between(text, 0, 3600))
                .map_or(defaults.stop_grace, Duration::from_secs),
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

fn is_this_machine(url: &Url) -> bool {
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
        let token = reader.secret(vars::TOKEN_PATH, vars::TOKEN)?;
        match token.load() {
            Ok(source) => Some(Self {
                root: root?,
                token: Arc::new(source),
            }),
            Err(error) => {
                let (name, cause) = (vars::TOKEN_PATH.name, error.to_string());
                reader.errors.push(ConfigError::SecretFile { name, cause });
                None
            }
        }
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
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn complete() -> BTreeMap<&'static str, &'static str> {
        BTreeMap::from([
            ("JOB_ID", " 986E5DF7F7F348D3B38829346DDB6656 "),
            ("CONTAINER_NUMBER", "3"),
            ("SERVICE_ROOT_URL", "https://cts.example.org/services/cts/"),
            ("TOKEN", "tok"),
            ("S3_URL", "http://127.0.0.1:9000"),
            ("S3_ACCESS_KEY", "ak"),
            ("S3_SECRET", "sk"),
            (
                "S3_ERROR_LOG_PATH",
                "/logs/cts/986e5df7-f7f3-48d3-b388-29346ddb6656/",
            ),
            ("REFDATA_HOST_PATH", ""),
            ("JOB_UPDATE_TIMEOUT_MIN", "360"),
        ])
    }

    fn read(variables: &BTreeMap<&str, &str>) -> Result<RunConfig, Vec<ConfigError>> {
        RunConfig::read(&|name| variables.get(name).map(|value| (*value).to_owned()))
    }

    fn lines(variables: &BTreeMap<&str, &str>) -> Vec<String> {
        read(variables)
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn values_are_stripped_and_normalised() {
        let config = read(&complete()).unwrap();
        assert_eq!(
            config.job.to_string(),
            "986e5df7-f7f3-48d3-b388-29346ddb6656"
        );
        assert_eq!(
            config.service.as_str(),
            "https://cts.example.org/services/cts"
        );
        assert_eq!(
            config.log_path.to_string(),
            "logs/cts/986e5df7-f7f3-48d3-b388-29346ddb6656"
        );
        assert_eq!(config.update_budget, Budget(Duration::from_secs(360 * 60)));
        assert_eq!(config.limits, Limits::default());
    }

    #[test]
    fn each_required_variable_is_named_when_missing() {
        for name in complete().keys() {
            let mut variables = complete();
            variables.remove(name);
            let lines = lines(&variables);
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert!(
                lines[0].contains(name) && lines[0].contains("should be"),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn wrong_values_are_named_with_what_they_should_be() {
        for (name, value) in [
            ("JOB_ID", "12"),
            ("CONTAINER_NUMBER", "-1"),
            ("CONTAINER_NUMBER", "one"),
            ("SERVICE_ROOT_URL", ""),
            ("SERVICE_ROOT_URL", "ftp://x"),
            ("SERVICE_ROOT_URL", "cts.example.org"),
            ("TOKEN", " "),
            ("TOKEN_PATH", ""),
            ("S3_URL", "http://"),
            ("S3_ACCESS_KEY", ""),
            ("S3_SECRET", ""),
            ("S3_ERROR_LOG_PATH", "bucketonly"),
            ("S3_INSECURE", "maybe"),
            ("JOB_UPDATE_TIMEOUT_MIN", "0"),
            ("MOUNT_PREFIX_OVERRIDE", "/a"),
            ("REFDATA_HOST_PATH", "refdata"),
            ("MOUNT_PREFIX_OVERRIDE", "a:b"),
            ("MOUNT_PREFIX_OVERRIDE", "/a:/b:/c"),
            ("CTS_LOG_LEVEL", "loud"),
            ("CTS_S3_SIGN_PAYLOAD", "http"),
            ("CTS_TRANSFER_CONCURRENCY", "0"),
        ] {
            let mut variables = complete();
            variables.insert(name, value);
            let lines = lines(&variables);
            assert_eq!(lines.len(), 1, "{name} {value}: {lines:?}");
            assert!(
                lines[0].contains(name) && lines[0].contains("should be"),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn all_faults_are_told_at_once() {
        assert_eq!(lines(&BTreeMap::new()).len(), complete().len());
    }

    #[test]
    fn the_file_wins_even_when_it_is_missing() {
        let mut variables = complete();
        variables.insert("TOKEN_PATH", "/nonexistent/token");
        let lines = lines(&variables);
        assert!(
            lines[0].starts_with("TOKEN_PATH: cannot read the secret file"),
            "{lines:?}"
        );
        // The S3 secret is read when the store is first needed.
        let mut variables = complete();
        variables.insert("S3_SECRET_PATH", "/nonexistent/secret");
        assert!(read(&variables).unwrap().s3.secret.load().is_err());
    }

    #[test]
    fn secrets_are_not_described() {
        let mut variables = complete();
        variables.insert("TOKEN", "canary-token");
        variables.insert("S3_SECRET", "canary-secret");
        let config = read(&variables).unwrap();
        let text = format!("{:?} {config:?}", config.describe());
        assert!(!text.contains("canary"), "{text}");
    }

    #[test]
    fn a_password_in_an_address_is_not_told() {
        let mut variables = complete();
        variables.insert("SERVICE_ROOT_URL", "https://me:canary@cts.example.org");
        let lines = lines(&variables);
        assert!(
            lines[0].contains("https://[redacted]@cts.example.org") && !lines[0].contains("canary"),
            "{lines:?}"
        );
    }

    #[test]
    fn what_should_not_stay_is_warned_of() {
        assert_eq!(read(&complete()).unwrap().warnings(), Vec::<String>::new());
        let mut variables = complete();
        variables.insert("S3_INSECURE", "yes");
        variables.insert("SERVICE_ROOT_URL", "http://cts.example.org");
        let warnings = read(&variables).unwrap().warnings();
        assert!(
            warnings[0].starts_with("S3_INSECURE") && warnings[1].starts_with("SERVICE_ROOT_URL")
        );
        variables.insert("SERVICE_ROOT_URL", "http://127.0.0.1:5000");
        assert_eq!(read(&variables).unwrap().warnings().len(), 1);
    }

    #[test]
    fn payload_signing_is_the_stores_choice_unless_given() {
        let mut variables = complete();
        assert_eq!(read(&variables).unwrap().s3.sign_payload, None);
        for (given, expected) in [(" true ", true), ("No", false), ("0", false)] {
            variables.insert("CTS_S3_SIGN_PAYLOAD", given);
            assert_eq!(read(&variables).unwrap().s3.sign_payload, Some(expected));
        }
    }

    #[test]
    fn mount_prefix() {
        let prefix: MountPrefixOverride = "/var/lib/condor:/host/condor".parse().unwrap();
        assert_eq!(
            prefix.on_host(Path::new("/var/lib/condor/x/__input__")),
            Some(PathBuf::from("/host/condor/x/__input__"))
        );
        assert_eq!(prefix.on_host(Path::new("/var/lib/condor2/x")), None);
    }
}
