//! The settings of `serve`: from a file and the environment to values that need no further check.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use cts_net::http_server as server;
use cts_net::secret::Secret;
use cts_net::tls::Verify;
use url::Url;

use super::fault::{Fault, Faults};
use super::keys;
use super::kind::StoreKind;
use super::reader::{Explained, Reader, Sources};
use super::{Cleaning, Config, PathPrefix, RequestLimits, WorkerFiles};
use crate::broker::KafkaSettings;
use crate::condor::commands::CommandSettings;
use crate::condor::submit_description::{Extras, FileUrl, SubmitError, SubmitSettings};
use crate::identity::KbaseAuthSettings;
use crate::mongo::MongoSettings;
use crate::refdata_stager::ServerStagerSettings;
use crate::stores::StoreSettings;
use crate::telemetry::{LogFormat, LogLevel};

/// Everything an operator decides about `serve`.
#[derive(Debug)]
pub struct Settings {
    /// Where to listen.
    pub address: SocketAddr,
    /// What clients may cost.
    pub server: server::Limits,
    /// Least level of log lines.
    pub log_level: LogLevel,
    /// The look of log lines.
    pub log_format: LogFormat,
    /// Directory of the database file and of executors.
    pub data_dir: PathBuf,
    /// Where jobs and images are kept.
    pub store: StoreSettings,
    /// Who is told of the jobs' transitions, if anyone.
    pub notifications: Option<NotificationSettings>,
    /// Who knows the users.
    pub identity: IdentitySettings,
    /// The S3 store.
    pub s3: S3Access,
    /// Registries that speak plain HTTP.
    pub plain_http_registries: BTreeSet<String>,
    /// The site `local`, if it is offered.
    pub local_site: Option<LocalSiteChoice>,
    /// The site `kbase`; none if it must not be used.
    pub condor_site: Option<CondorSiteChoice>,
    /// What the use cases go by.
    pub config: Config,
}

/// Who knows the users.
#[derive(Debug, Clone)]
pub enum IdentitySettings {
    /// A file with tokens.
    TokenFile(PathBuf),
    /// KBase auth.
    Kbase(KbaseAuthSettings),
}

/// How others are told of the jobs' transitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotificationSettings {
    /// Where messages go.
    pub kafka: KafkaSettings,
    /// How long another service over the same database may take to send its own before this one does; for ever
    /// if absent.
    pub adopt_after: Option<Duration>,
}

/// How the S3 store is reached.
#[derive(Debug, Clone)]
pub struct S3Access {
    /// The endpoint.
    pub url: Url,
    /// Access key.
    pub access_key: String,
    /// Secret key.
    pub secret: Secret,
    /// Whether the store's certificate is checked.
    pub verify: Verify,
}

/// What an operator chooses of the site `local`.
#[derive(Debug, Clone)]
pub struct LocalSiteChoice {
    /// The executor program; looked for if absent.
    pub executor: Option<PathBuf>,
    /// Executors at the same time; the number of CPUs if absent.
    pub max_executors: Option<usize>,
    /// File with the executors' token.
    pub token_path: PathBuf,
    /// Container engine; the executor's default if absent.
    pub docker_host: Option<String>,
    /// Minutes an executor keeps trying to report a state.
    pub job_update_timeout_min: u32,
}

/// What an operator chooses of the site `kbase`.
#[derive(Debug, Clone)]
pub struct CondorSiteChoice {
    /// What every submission says.
    pub submit: SubmitSettings,
    /// Who stages reference data.
    pub refdata: RefdataStagingChoice,
    /// How the pool is reached.
    pub commands: CommandSettings,
    /// Between two comparisons of the jobs with the pool.
    pub reconcile_interval: Duration,
    /// Times a held proc is released.
    pub max_releases: u32,
    /// What workers could not be given because no setting says where it is.
    pub lacking: Vec<&'static str>,
}

/// Who stages reference data for the site `kbase`.
#[derive(Debug, Clone)]
pub enum RefdataStagingChoice {
    /// A server.
    Server(ServerStagerSettings),
    /// Each executor, for its worker.
    Executors,
    /// Nobody: what is registered goes to state `error` there.
    Nobody,
}

/// A configuration as read.
#[derive(Debug)]
pub struct Loaded {
    /// The settings, or all that is wrong.
    pub settings: Result<Settings, Faults>,
    /// Every setting that is right, for people.
    pub explained: Vec<Explained>,
    /// What is allowed and probably not meant; one log line each.
    pub notes: Vec<String>,
    /// What has no effect although it was given; one log line each.
    pub without_effect: Vec<String>,
}

impl Loaded {
    /// Reads and checks a configuration. Touches nothing but its file.
    #[must_use]
    pub fn read(sources: &Sources) -> Self {
        let mut reader = Reader::new(sources);
        let settings = settings(&mut reader);
        let without_effect = without_effect(&reader);
        let Reader {
            explained,
            faults,
            notes,
            ..
        } = reader;
        Self {
            settings: match settings {
                Some(settings) if faults.is_empty() => Ok(settings),
                _ => Err(Faults(faults)),
            },
            explained,
            notes,
            without_effect,
        }
    }
}

/// How the MongoDB database of a configuration is reached, whether or not the service uses it, and whatever is
/// wrong with other settings.
///
/// # Errors
/// All that is wrong with these settings, or with the file as a whole.
pub fn mongo_settings(sources: &Sources) -> Result<MongoSettings, Faults> {
    let mut reader = Reader::new(sources);
    let settings = mongo(&mut reader);
    let is_of_another_key = |fault: &Fault| {
        !fault.subject.starts_with("MongoDB.")
            && keys::KEYS.iter().any(|key| key.path() == fault.subject)
    };
    reader.faults.retain(|fault| !is_of_another_key(fault));
    match settings {
        Some(settings) if reader.faults.is_empty() => Ok(settings),
        _ => Err(Faults(reader.faults)),
    }
}

/// The settings; none if one that is needed is absent or wrong, which the reader then has as a fault.
fn settings(reader: &mut Reader) -> Option<Settings> {
    let store = store(reader);
    check_paths(reader);
    let local_site = local_site(reader);
    let condor_site = if reader.get(&keys::SKIP_KBASE)? {
        None
    } else {
        Some(condor_site(reader)?)
    };
    let server = server_limits(reader);
    let config = config(reader);
    let identity = identity(reader);
    let s3 = s3(reader);
    Some(Settings {
        address: SocketAddr::new(reader.get(&keys::BIND_ADDRESS)?, reader.get(&keys::PORT)?),
        server: server?,
        log_level: reader.get(&keys::LOG_LEVEL)?,
        log_format: reader.get(&keys::LOG_FORMAT)?,
        data_dir: reader.get(&keys::DATA_DIR)?,
        store: store?,
        notifications: notifications(reader),
        identity: identity?,
        s3: s3?,
        plain_http_registries: reader
            .get(&keys::PLAIN_HTTP_REGISTRIES)
            .unwrap_or_default()
            .into_iter()
            .collect(),
        local_site,
        condor_site,
        config: config?,
    })
}

fn server_limits(reader: &Reader) -> Option<server::Limits> {
    Some(server::Limits {
        max_connections: usize::try_from(reader.get(&keys::MAX_CONNECTIONS)?).ok()?,
        head_timeout: seconds(reader.get(&keys::HEAD_TIMEOUT)?),
        max_head_bytes: reader.get(&keys::MAX_HEAD_BYTES)?,
        drain_timeout: seconds(reader.get(&keys::DRAIN_TIMEOUT)?),
    })
}

fn config(reader: &Reader) -> Option<Config> {
    Some(Config {
        allowed_paths: reader.get(&keys::ALLOWED_PATHS).unwrap_or_default(),
        log_dir: reader.get(&keys::LOG_DIR)?,
        max_cpu_hours: reader.get(&keys::MAX_CPU_HOURS)?,
        worker_files: WorkerFiles {
            executable: reader.get(&keys::CONDOR_EXECUTABLE),
            archive: reader.get(&keys::ARCHIVE_PATH),
        },
        start_jobs: !reader.get(&keys::TEST_MODE)?,
        cleaning: Cleaning {
            interval: hours(reader.get(&keys::CLEAN_FREQUENCY)?),
            age: hours(reader.get(&keys::CLEAN_AGE)?.saturating_mul(24)),
        },
        request_limits: RequestLimits {
            max_body_bytes: reader.get(&keys::MAX_BODY_BYTES)?,
            timeout: seconds(reader.get(&keys::REQUEST_TIMEOUT)?),
        },
        root_path: reader.get(&keys::ROOT_PATH),
        cors_origins: reader.get(&keys::CORS_ORIGINS).unwrap_or_default(),
    })
}

fn identity(reader: &Reader) -> Option<IdentitySettings> {
    if let Some(path) = reader.get(&keys::TOKEN_FILE) {
        return Some(IdentitySettings::TokenFile(path));
    }
    Some(IdentitySettings::Kbase(KbaseAuthSettings {
        url: reader.get(&keys::AUTH_URL)?,
        admin_roles: reader
            .get(&keys::ADMIN_ROLES)
            .unwrap_or_default()
            .into_iter()
            .collect(),
        kbase_staff_role: reader.get(&keys::KBASE_STAFF_ROLE)?,
        nersc_account_role: reader.get(&keys::NERSC_ACCOUNT_ROLE)?,
        external_executor_role: reader.get(&keys::EXECUTOR_ROLE)?,
        refdata_service_role: reader.get(&keys::REFDATA_ROLE)?,
    }))
}

fn s3(reader: &Reader) -> Option<S3Access> {
    Some(S3Access {
        url: reader.get(&keys::S3_URL)?,
        access_key: reader.get(&keys::S3_ACCESS_KEY)?,
        secret: reader.get(&keys::S3_ACCESS_SECRET)?,
        verify: if reader.get(&keys::S3_INSECURE)? {
            Verify::Nothing
        } else {
            Verify::Certificates
        },
    })
}

fn local_site(reader: &mut Reader) -> Option<LocalSiteChoice> {
    if !reader.get(&keys::LOCAL_ENABLED)? {
        return None;
    }
    let token_path = reader.needed(
        &keys::LOCAL_TOKEN_PATH,
        "LocalSite.enabled is true, which needs it",
    );
    Some(LocalSiteChoice {
        executor: reader.get(&keys::LOCAL_EXECUTOR),
        max_executors: reader
            .get(&keys::LOCAL_MAX_EXECUTORS)
            .and_then(|executors| usize::try_from(executors).ok()),
        token_path: token_path?,
        docker_host: reader.get(&keys::LOCAL_DOCKER_HOST),
        job_update_timeout_min: reader.get(&keys::UPDATE_TIMEOUT)?,
    })
}

fn condor_site(reader: &mut Reader) -> Option<CondorSiteChoice> {
    let root_url = reader.get(&keys::ROOT_URL)?.to_string();
    let root_url = root_url.trim_end_matches('/').to_owned();
    let external = reader.get(&keys::CONDOR_S3_EXTERNAL)?;
    let (s3_url, s3_insecure) = if external {
        let why = "HTCondor.use_S3_external_url is true, which needs it";
        let url = reader.needed(&keys::S3_EXTERNAL_URL, why);
        (url, &keys::S3_INSECURE_EXTERNAL)
    } else {
        (reader.get(&keys::S3_URL), &keys::S3_INSECURE)
    };
    let s3_insecure = reader.get(s3_insecure)?;
    let executable_url = file_url(
        reader,
        &keys::CONDOR_EXECUTABLE_URL,
        FileUrl::default_executable(&root_url),
    );
    let code_archive_url = file_url(
        reader,
        &keys::ARCHIVE_URL,
        FileUrl::default_code_archive(&root_url),
    );
    let refdata = refdata_staging(reader)?;
    let path = |reader: &Reader, key| {
        let path: PathBuf = reader.get(key)?;
        Some(path.to_string_lossy().into_owned())
    };
    let unless_zero = |number: u32, unit: u64| {
        (number > 0).then(|| Duration::from_secs(u64::from(number) * unit))
    };
    Some(CondorSiteChoice {
        submit: SubmitSettings {
            refdata_executor_dir: match refdata {
                RefdataStagingChoice::Executors => path(reader, &keys::REFDATA_EXECUTOR_PATH)
                    .or_else(|| path(reader, &keys::REFDATA_HOST_PATH)),
                RefdataStagingChoice::Server(_) | RefdataStagingChoice::Nobody => None,
            },
            initial_dir: path(reader, &keys::CONDOR_INITIALDIR)?,
            service_root_url: root_url,
            executable_url: executable_url?,
            code_archive_url: code_archive_url?,
            client_group: reader.get(&keys::CONDOR_CLIENTGROUP),
            token_path: path(reader, &keys::CONDOR_TOKEN_PATH)?,
            s3_secret_path: path(reader, &keys::CONDOR_S3_SECRET_PATH)?,
            cache_dir: path(reader, &keys::CONDOR_CACHE_DIR)?,
            additional_path: reader.get(&keys::CONDOR_ADDITIONAL_PATH),
            mount_prefix_override: reader.get(&keys::MOUNT_PREFIX),
            refdata_host_path: path(reader, &keys::REFDATA_HOST_PATH).unwrap_or_default(),
            s3_url: s3_url?.as_str().trim_end_matches('/').to_owned(),
            s3_access_key: reader.get(&keys::S3_ACCESS_KEY)?,
            s3_insecure,
            s3_log_dir: reader.get(&keys::LOG_DIR)?.as_str().to_owned(),
            job_update_timeout_min: reader.get(&keys::UPDATE_TIMEOUT)?,
            job_lease: seconds(reader.get(&keys::CONDOR_LEASE)?),
            log_level: reader
                .get(&keys::LOG_LEVEL)
                .filter(|_| reader.is_given(&keys::LOG_LEVEL))
                .map(|level| level.as_str().to_owned()),
            extras: Extras {
                request_disk: reader.get(&keys::CONDOR_REQUEST_DISK)?,
                transfer_allowance: unless_zero(reader.get(&keys::CONDOR_TRANSFER_ALLOWANCE)?, 60),
                batch_name: reader.get(&keys::CONDOR_BATCH_NAME)?,
                max_vacate_time: unless_zero(reader.get(&keys::CONDOR_MAX_VACATE)?, 1),
            },
        },
        refdata,
        commands: CommandSettings {
            directory: reader.get(&keys::CONDOR_COMMAND_DIR),
            schedd: reader.get(&keys::CONDOR_SCHEDD),
            ..CommandSettings::default()
        },
        reconcile_interval: seconds(reader.get(&keys::CONDOR_INTERVAL)?),
        max_releases: reader.get(&keys::CONDOR_MAX_RELEASES)?,
        lacking: lacking(reader),
    })
}

fn refdata_staging(reader: &mut Reader) -> Option<RefdataStagingChoice> {
    if let Some(url) = reader.get(&keys::REFSERVER_URL) {
        let why = "ExternalExecution.refserver_url is set, which needs it";
        let token = reader.needed(&keys::REFSERVER_TOKEN, why)?;
        let why = "ExternalExecution.refserver_url is set: workers must see what its server stages";
        reader.needed(&keys::REFDATA_HOST_PATH, why)?;
        let settings = ServerStagerSettings::new(url, token);
        return Some(RefdataStagingChoice::Server(settings));
    }
    if !reader.get(&keys::REFDATA_BY_EXECUTORS)? {
        return Some(RefdataStagingChoice::Nobody);
    }
    let why = "ExternalExecution.refdata_staged_by_executors is true, which needs it";
    reader.needed(&keys::REFDATA_HOST_PATH, why)?;
    Some(RefdataStagingChoice::Executors)
}

/// The service serves the files itself, or says where else they are.
fn lacking(reader: &Reader) -> Vec<&'static str> {
    [
        (
            &keys::CONDOR_EXECUTABLE,
            &keys::CONDOR_EXECUTABLE_URL,
            "HTCondor.executable_path or HTCondor.executable_url_override",
        ),
        (
            &keys::ARCHIVE_PATH,
            &keys::ARCHIVE_URL,
            "ExternalExecution.archive_path or ExternalExecution.archive_url_override",
        ),
    ]
    .into_iter()
    .filter(|(path, url, _)| reader.get(path).is_none() && reader.get(url).is_none())
    .map(|(_, _, names)| names)
    .collect()
}

/// A file's URL as given, else the service's own (contract condor.md, section 2).
fn file_url(
    reader: &mut Reader,
    key: &'static keys::Key<Url>,
    own: Result<FileUrl, SubmitError>,
) -> Option<FileUrl> {
    let url = match reader.get(key) {
        Some(url) => FileUrl::new(url.as_str()),
        None => own,
    };
    match url {
        Ok(url) => Some(url),
        Err(error) => {
            reader.fault(key, error.to_string());
            None
        }
    }
}

/// The store that was chosen, else the one that there are settings of.
fn store(reader: &mut Reader) -> Option<StoreSettings> {
    let mongo = mongo(reader);
    let implied = if reader.is_given(&keys::MONGO_HOST) {
        StoreKind::Mongodb
    } else {
        StoreKind::Sqlite
    };
    match reader.get(&keys::STORE_KIND).unwrap_or(implied) {
        StoreKind::Sqlite => Some(StoreSettings::Sqlite),
        StoreKind::Mongodb => mongo.map(StoreSettings::Mongo),
    }
}

fn mongo(reader: &mut Reader) -> Option<MongoSettings> {
    let user = reader.get(&keys::MONGO_USER);
    let password = reader.get(&keys::MONGO_PWD);
    let credentials = match (user, password) {
        (Some(user), Some(password)) => Some((user, password)),
        (None, None) => None,
        (Some(_), None) => {
            let problem =
                "it is given and MongoDB.mongo_pwd is not; give both or neither".to_owned();
            reader.fault(&keys::MONGO_USER, problem);
            return None;
        }
        (None, Some(_)) => {
            let problem =
                "it is given and MongoDB.mongo_user is not; give both or neither".to_owned();
            reader.fault(&keys::MONGO_PWD, problem);
            return None;
        }
    };
    Some(MongoSettings {
        host: reader.get(&keys::MONGO_HOST)?.as_str().to_owned(),
        database: reader.get(&keys::MONGO_DB)?,
        credentials,
        retry_writes: reader.get(&keys::MONGO_RETRYWRITES)?,
    })
}

fn notifications(reader: &Reader) -> Option<NotificationSettings> {
    let adopt_after = reader
        .get(&keys::KAFKA_DELAY)
        .and_then(|minutes| u64::try_from(minutes).ok())
        .filter(|minutes| *minutes > 0)
        .map(|minutes| Duration::from_secs(minutes.saturating_mul(60)));
    Some(NotificationSettings {
        kafka: KafkaSettings {
            servers: reader.get(&keys::KAFKA_SERVERS)?,
            topic: reader.get(&keys::KAFKA_TOPIC)?,
        },
        adopt_after,
    })
}

/// None of the allowed paths and the log path lies in another (contract config.md, checks at start).
fn check_paths(reader: &mut Reader) {
    let allowed = reader.get(&keys::ALLOWED_PATHS).unwrap_or_default();
    if allowed.is_empty() {
        return;
    }
    let log_dir = reader.get(&keys::LOG_DIR);
    let named = allowed
        .iter()
        .map(|path| ("Jobs.allowed_s3_paths", path))
        .chain(
            log_dir
                .iter()
                .map(|path| ("Jobs.container_s3_log_dir", path)),
        );
    let all: Vec<(&str, &PathPrefix)> = named.collect();
    for (index, (inner_key, inner)) in all.iter().enumerate() {
        for (other, (outer_key, outer)) in all.iter().enumerate() {
            if index != other && outer.contains(inner.as_str()) {
                let (inner, outer) = (inner.as_str(), outer.as_str());
                reader.faults.push(Fault {
                    subject: (*inner_key).to_owned(),
                    origin: None,
                    problem: format!(
                        "{inner} lies in {outer} of {outer_key}; allowed paths and the log path must lie \
                         beside each other"
                    ),
                });
            }
        }
    }
}

/// One line for what this service never uses, one for what comes later.
fn without_effect(reader: &Reader) -> Vec<String> {
    [
        (keys::Status::Ignored, "have no effect in this service"),
        (keys::Status::NotYet, "are not used yet by this version"),
    ]
    .into_iter()
    .filter_map(|(status, what)| {
        let given = reader.given_with(status);
        (!given.is_empty()).then(|| format!("settings that {what}: {}", given.join(", ")))
    })
    .collect()
}

fn hours(number: u32) -> Duration {
    Duration::from_secs(u64::from(number) * 3600)
}

fn seconds(number: u32) -> Duration {
    Duration::from_secs(u64::from(number))
}
