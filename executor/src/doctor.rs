//! `cts-executor doctor`: can this machine run jobs? One line a check; what fails comes with the
//! remedy. Takes the settings of `run`; what is not set is not checked, and said so. With `--classad` the
//! answer is attributes for the machine's ad, as a `STARTD_CRON` job prints them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cts_net::secret::read_secret_file;
use cts_net::tls::{self, TrustRoots};
use indicatif::HumanBytes;
use rustix::fs::Access;

use crate::commands::connect_engine;
use crate::condor::class_ad;
use crate::config::{ConfigError, Lookup, S3Config, ServiceConfig};
use crate::container_engine::EngineInfo;
use crate::coordinator::http::HttpCoordinator;
use crate::coordinator::{Coordinator, CoordinatorError};
use crate::disk;
use crate::exit::ExitStatus;
use crate::object_store::{GetRequest, ObjectName, StoreErrorKind};
use crate::run::stage;
use crate::variables::{self as vars, Variable};

/// No check takes longer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(15);
/// AWS refuses requests whose time is further off (`RequestTimeTooSkewed`).
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(15 * 60);
/// Less than this is no use to any job.
const MIN_FREE_BYTES: u64 = 1 << 30;

/// The answer of one check.
enum Answer {
    Good(String),
    Skipped(String),
    Bad {
        problem: String,
        remedy: &'static str,
    },
}

/// Prints the answers, or keeps quiet, and collects the bad ones.
struct Sheet {
    is_quiet: bool,
    problems: Vec<String>,
}

impl Sheet {
    fn write(&mut self, name: &str, answer: Answer) {
        let line = match answer {
            Answer::Good(words) => format!("ok    {name:<8} {words}"),
            Answer::Skipped(words) => format!("skip  {name:<8} {words}"),
            Answer::Bad { problem, remedy } => {
                let problem = match remedy {
                    "" => problem,
                    remedy => format!("{problem}; {remedy}"),
                };
                self.problems.push(format!("{name}: {problem}"));
                format!("FAIL  {name:<8} {problem}")
            }
        };
        if !self.is_quiet {
            print(&line);
        }
    }
}

fn print(line: &str) {
    // Nothing is left to do if standard output is gone.
    let _unwritable = writeln!(std::io::stdout(), "{line}");
}

/// Attributes of the machine, as `STARTD_CRON` jobs print them: the line with a dash ends them.
fn print_class_ad(problems: &[String]) {
    print(&format!("CtsExecutorHealthy = {}", problems.is_empty()));
    if !problems.is_empty() {
        let problem = class_ad::string(&problems.join("; "));
        print(&format!("CtsExecutorProblem = {problem}"));
    }
    let version = class_ad::string(env!("CARGO_PKG_VERSION"));
    print(&format!("CtsExecutorVersion = {version}"));
    print("-");
}

fn bad(problem: impl Display, remedy: &'static str) -> Answer {
    Answer::Bad {
        problem: problem.to_string(),
        remedy,
    }
}

/// Settings that are wrong, all in one line.
fn bad_settings(errors: &[ConfigError]) -> Answer {
    let problems: Vec<String> = errors.iter().map(ToString::to_string).collect();
    bad(problems.join("; "), "")
}

async fn in_time(check: impl Future<Output = Answer>) -> Answer {
    tokio::time::timeout(CHECK_TIMEOUT, check)
        .await
        .unwrap_or_else(|_| {
            bad(
                format!("no answer within {} s", CHECK_TIMEOUT.as_secs()),
                "see whether it hangs",
            )
        })
}

/// Runs every check. Done if none fails; as a class ad always, since then the ad is the answer.
pub async fn doctor(lookup: Lookup<'_>, as_class_ad: bool) -> ExitStatus {
    let mut sheet = Sheet {
        is_quiet: as_class_ad,
        problems: Vec::new(),
    };
    let docker_host = lookup(vars::DOCKER_HOST.name)
        .map(|host| host.trim().to_owned())
        .filter(|host| !host.is_empty());
    let mut info = None;
    let answer = in_time(async {
        let engine = match connect_engine(docker_host, BTreeMap::new())().await {
            Ok(engine) => engine,
            Err(error) => return bad(error, ""),
        };
        match engine.info().await {
            Ok(found) => {
                let answer = describe_engine(&found);
                info = Some(found);
                answer
            }
            Err(error) => bad(error, ""),
        }
    })
    .await;
    sheet.write("engine", answer);
    sheet.write("tls", check_trust_roots(tls::trust_roots()));
    sheet.write("secret", check_secret(lookup));
    sheet.write("s3", in_time(check_s3(lookup)).await);
    check_service(lookup, &mut sheet).await;
    sheet.write("disk", in_time(check_disk(".".into())).await);
    sheet.write("refdata", in_time(check_refdata(lookup)).await);
    if let Some(root) = info.and_then(|info| info.root_dir)
        && root.exists()
    {
        sheet.write("images", in_time(check_disk(root)).await);
    }
    if as_class_ad {
        print_class_ad(&sheet.problems);
        return ExitStatus::Done;
    }
    if sheet.problems.is_empty() {
        ExitStatus::Done
    } else {
        ExitStatus::Failed
    }
}

fn describe_engine(info: &EngineInfo) -> Answer {
    let EngineInfo {
        product,
        version,
        api_version,
        platform,
        host,
        ..
    } = info;
    let mut words = format!("{product} {version} (API {api_version}, {platform}) at {host}");
    if let (Some(cpus), Some(memory)) = (info.cpus, info.memory_bytes) {
        words.push_str(&format!(", {cpus} CPUs, {}", HumanBytes(memory)));
    }
    for warning in &info.warnings {
        words.push_str(&format!("; {warning}"));
    }
    Answer::Good(words)
}

fn check_trust_roots(roots: &TrustRoots) -> Answer {
    if !roots.problems.is_empty() {
        return bad(
            roots.problems.join("; "),
            "check SSL_CERT_FILE and SSL_CERT_DIR, else this machine's CA certificates",
        );
    }
    let system = roots.system_count;
    let bundled = roots.certificates.len() - system;
    Answer::Good(format!(
        "trusts {bundled} bundled authorities and {system} of this machine or SSL_CERT_FILE"
    ))
}

/// What is not set.
fn unset(variable: Variable) -> Answer {
    Answer::Skipped(format!("{} is not set", variable.name))
}

/// The file with the S3 secret, also where there is no store to try it on: it is put on workers by hand.
fn check_secret(lookup: Lookup<'_>) -> Answer {
    let Some(path) = lookup(vars::S3_SECRET_PATH.name) else {
        return unset(vars::S3_SECRET_PATH);
    };
    match read_secret_file(Path::new(path.trim())) {
        Ok(_) => Answer::Good(format!("{} can be read", path.trim())),
        Err(error) => bad(error, ""),
    }
}

/// Asks for an object that is not there: an answer of "no such object" proves address and keys.
async fn check_s3(lookup: Lookup<'_>) -> Answer {
    for needed in [vars::S3_URL, vars::S3_ACCESS_KEY] {
        if lookup(needed.name).is_none() {
            return unset(needed);
        }
    }
    let config = match S3Config::read(lookup) {
        Ok(config) => config,
        Err(errors) => return bad_settings(&errors),
    };
    let store = match stage::open_store(&config) {
        Ok(store) => store,
        Err(failure) => return bad(failure.failure.message(), ""),
    };
    let log_path = lookup(vars::S3_ERROR_LOG_PATH.name).unwrap_or_default();
    let log_path = log_path.trim().trim_matches('/');
    let probe = match log_path.split_once('/') {
        Some((bucket, key)) => ObjectName::new(bucket, format!("{key}/cts-doctor-probe")),
        None if !log_path.is_empty() => ObjectName::new(log_path, "cts-doctor-probe"),
        None => ObjectName::new("cts-doctor-probe", "cts-doctor-probe"),
    };
    let request = GetRequest {
        object: &probe,
        range: None,
        if_match: None,
        fresh_connection: false,
    };
    let url = &config.url;
    match store.get(request).await {
        Ok(_) => Answer::Good(format!("{url} answers, the keys are accepted")),
        Err(error) => match error.kind() {
            StoreErrorKind::NotFound => {
                Answer::Good(format!("{url} answers, the keys are accepted"))
            }
            StoreErrorKind::BucketMissing if log_path.is_empty() => {
                Answer::Good(format!("{url} answers, the keys are accepted"))
            }
            StoreErrorKind::BucketMissing => bad(
                error,
                "make the bucket, or set S3_ERROR_LOG_PATH to one that exists",
            ),
            StoreErrorKind::AccessDenied => bad(
                error,
                "check S3_ACCESS_KEY, the secret and the key's rights",
            ),
            _ => bad(error, "check S3_URL and the network"),
        },
    }
}

async fn check_service(lookup: Lookup<'_>, sheet: &mut Sheet) {
    let has_token = [vars::TOKEN_PATH, vars::TOKEN]
        .iter()
        .any(|variable| lookup(variable.name).is_some());
    if lookup(vars::SERVICE_ROOT_URL.name).is_none() {
        sheet.write("service", unset(vars::SERVICE_ROOT_URL));
        sheet.write("token", check_token_file(lookup));
        sheet.write("clock", unset(vars::SERVICE_ROOT_URL));
        return;
    }
    // Who the service is it tells everybody.
    let or_no_token = |name: &str| match lookup(name) {
        None if !has_token && name == vars::TOKEN.name => Some("none".to_owned()),
        given => given,
    };
    let lookup: Lookup<'_> = &or_no_token;
    let service = match ServiceConfig::read(lookup) {
        Ok(service) => service,
        Err(errors) => return sheet.write("service", bad_settings(&errors)),
    };
    let job = cts_shared::id::JobId::new(uuid::Uuid::nil());
    let coordinator = match HttpCoordinator::new(service.root, service.token, job, 0) {
        Ok(coordinator) => coordinator,
        Err(error) => return sheet.write("service", bad(error, "")),
    };
    let mut clock = Answer::Skipped("the service's time is not known".to_owned());
    let answer = in_time(async {
        match coordinator.root().await {
            Ok(root) => {
                clock = check_clock(root.server_time.timestamp());
                Answer::Good(format!("{} {}", root.service_name, root.version))
            }
            Err(CoordinatorError::TokenRefused { .. }) => {
                Answer::Good("answers, but see the token".to_owned())
            }
            // It says itself what to check.
            Err(error @ CoordinatorError::Unreachable { .. }) => bad(error, ""),
            Err(error) => bad(error, "check SERVICE_ROOT_URL and the network"),
        }
    })
    .await;
    let answers = !matches!(answer, Answer::Bad { .. });
    sheet.write("service", answer);
    if !answers {
        for name in ["token", "clock"] {
            sheet.write(
                name,
                Answer::Skipped("only the service can tell".to_owned()),
            );
        }
        return;
    }
    if !has_token {
        sheet.write("token", unset(vars::TOKEN_PATH));
        sheet.write("clock", clock);
        return;
    }
    let answer = in_time(async {
        match coordinator.whoami().await {
            Ok(user) => Answer::Good(format!("valid, belongs to {user:?}")),
            Err(error) => bad(error, ""),
        }
    })
    .await;
    sheet.write("token", answer);
    sheet.write("clock", clock);
}

/// The token's file, where there is no service to try it on.
fn check_token_file(lookup: Lookup<'_>) -> Answer {
    let Some(path) = lookup(vars::TOKEN_PATH.name) else {
        return unset(vars::SERVICE_ROOT_URL);
    };
    match read_secret_file(Path::new(path.trim())) {
        Ok(_) => Answer::Good(format!("{} can be read", path.trim())),
        Err(error) => bad(error, ""),
    }
}

fn check_clock(service: jiff::Timestamp) -> Answer {
    let skew = jiff::Timestamp::now()
        .duration_since(service)
        .unsigned_abs();
    if skew > MAX_CLOCK_SKEW {
        let problem = format!("differs from the service's by {} s", skew.as_secs());
        return bad(
            problem,
            "set it (NTP): S3 refuses requests that are 15 minutes off",
        );
    }
    Answer::Good(format!("within {} s of the service's", skew.as_secs() + 1))
}

/// Where executors stage reference data themselves, they must be able to.
async fn check_refdata(lookup: Lookup<'_>) -> Answer {
    let name = vars::CTS_REFDATA_DIR.name;
    let Some(directory) = lookup(name).filter(|text| !text.trim().is_empty()) else {
        return unset(vars::CTS_REFDATA_DIR);
    };
    let directory = PathBuf::from(directory.trim());
    let path = directory.clone();
    let writable = tokio::task::spawn_blocking(move || {
        rustix::fs::access(&path, Access::WRITE_OK | Access::EXEC_OK)
    });
    match writable.await {
        Ok(Ok(())) => check_disk(directory).await,
        Ok(Err(error)) => bad(
            format!("{} cannot be written: {error}", directory.display()),
            "make it, and give it to the user that jobs run as",
        ),
        Err(lost) => bad(lost, ""),
    }
}

/// A file system that hangs must not hang the doctor.
async fn check_disk(directory: PathBuf) -> Answer {
    let asked = tokio::task::spawn_blocking(move || {
        let directory = directory.canonicalize().unwrap_or(directory);
        (disk::free_bytes(&directory), directory)
    });
    let (free_bytes, directory) = match asked.await {
        Ok(answer) => answer,
        Err(lost) => return bad(lost, ""),
    };
    let directory = directory.display();
    match free_bytes {
        Ok(free) if free < MIN_FREE_BYTES => bad(
            format!("only {} free in {directory}", HumanBytes(free)),
            "free some or use another machine",
        ),
        Ok(free) => Answer::Good(format!("{} free in {directory}", HumanBytes(free))),
        Err(error) => bad(format!("{directory}: {error}"), "see whether it is mounted"),
    }
}
