//! What is submitted: one cluster a job, one proc a container (contract condor.md, section 2).
//!
//! Every value that comes from configuration or from a user passes through a type that quotes it for
//! the place it stands in, so that none can add an attribute, end a string or expand a macro.

use std::fmt;
use std::time::Duration;

use cts_shared::id::JobId;
use url::Url;

use crate::condor::quoting::{Environment, SubmitValue};

/// The macro that holds a proc's container number.
const CONTAINER_NUMBER: &str = "$(container_number)";

const BYTES_PER_KIB: u64 = 1024;

const BYTES_PER_MIB: u64 = 1024 * 1024;

/// Disk asked for beside the inputs and as much again for the outputs: the executor, logs, and tools' own
/// files.
const SPARE_DISK_BYTES: u64 = 1024 * 1024 * 1024;

/// 12 hours, the contract's: how long a proc goes on without the schedd, and `HTCondor` waits for a lost worker.
pub const JOB_LEASE: Duration = Duration::from_hours(12);

/// 12 hours: how long a draining worker waits for a proc.
const RETIREMENT_SECS: u32 = 43_200;

/// 7 days: a proc that ran longer is held.
const MAX_WALL_CLOCK_SECS: u32 = 604_800;

/// The service's settings that go into every submit description.
#[derive(Debug, Clone)]
pub struct SubmitSettings {
    /// Directory on the schedd's host where procs' output, error and log files go.
    pub initial_dir: String,
    /// Where executors find the service.
    pub service_root_url: String,
    /// The wrapper script.
    pub executable_url: FileUrl,
    /// The archive with the executor.
    pub code_archive_url: FileUrl,
    /// Only workers whose `CLIENTGROUP` matches this regular expression.
    pub client_group: Option<String>,
    /// On the workers: the file with the executor's token.
    pub token_path: String,
    /// On the workers: the file with the S3 secret.
    pub s3_secret_path: String,
    /// On the workers: a directory for caches.
    pub cache_dir: String,
    /// On the workers: directories put in front of `PATH`.
    pub additional_path: Option<String>,
    /// On the workers: `<old prefix>:<new prefix>` of mounted directories.
    pub mount_prefix_override: Option<String>,
    /// On the workers: the root of the reference data.
    pub refdata_host_path: String,
    /// On the workers: where executors stage reference data themselves, if they do. An addition to the contract.
    pub refdata_executor_dir: Option<String>,
    /// The object store, as workers reach it.
    pub s3_url: String,
    /// The key to the object store; its secret is never in a submit description.
    pub s3_access_key: String,
    /// Whether the store's certificate is not verified.
    pub s3_insecure: bool,
    /// S3 path below which container logs go.
    pub s3_log_dir: String,
    /// How long an executor keeps retrying one report, in minutes.
    pub job_update_timeout_min: u32,
    /// `JobLeaseDuration`; see [`JOB_LEASE`].
    pub job_lease: Duration,
    /// The executors' log level, where the service has one set.
    pub log_level: Option<String>,
    /// What the contract leaves out.
    pub extras: Extras,
}

/// What a pool's administrator expects of a submission beyond the contract; each can be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extras {
    /// Ask for disk, from the sizes of the inputs.
    pub request_disk: bool,
    /// Have the pool hold a proc that runs longer than the job's runtime and this: the time for image, inputs
    /// and outputs. The executor ends the container at its runtime by itself; this is for an executor
    /// that hangs.
    pub transfer_allowance: Option<Duration>,
    /// Have `condor_q` show the job's procs as one batch, by the job's id.
    pub batch_name: bool,
    /// How long an executor may take to stop its container when its slot is wanted back.
    pub max_vacate_time: Option<Duration>,
}

/// What of a job goes into its submit description.
#[derive(Debug, Clone, Copy)]
pub struct SubmitJob<'a> {
    /// The job's id.
    pub id: JobId,
    /// Its owner.
    pub user: &'a str,
    /// How many containers.
    pub num_containers: u32,
    /// CPUs per container.
    pub cpus: u32,
    /// Memory per container.
    pub memory_bytes: u64,
    /// How long a container may run.
    pub runtime: Duration,
    /// Bytes of the input files of the container that has most, if known.
    pub input_bytes: Option<u64>,
}

/// A submit description cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// A URL that `HTCondor` cannot be given as a file to transfer.
    #[error("{url:?} cannot be a file for HTCondor to transfer: {reason}")]
    FileUrl {
        /// The URL.
        url: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A value that would change the meaning of its line.
    #[error(
        "{attribute} of the submit description cannot be {value:?}: it has a character that the \
         attribute cannot hold"
    )]
    Value {
        /// The attribute or variable.
        attribute: &'static str,
        /// The value.
        value: String,
    },
    /// A name that cannot be counted by.
    #[error(
        "{attribute} of the submit description cannot be {value:?}: HTCondor takes ASCII letters, digits and \
         underscores there, the first no digit, and one dot between two such names"
    )]
    Limit {
        /// The attribute.
        attribute: &'static str,
        /// The value.
        value: String,
    },
}

/// The URL of a file that `HTCondor` fetches to the worker, where it has the URL's last part as name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileUrl {
    url: String,
    file_name: String,
}

impl FileUrl {
    /// Checks that the URL names one file.
    ///
    /// # Errors
    ///
    /// [`SubmitError::FileUrl`] for what is no absolute URL, has a query or fragment, ends in `/`, or
    /// has a character that the list of files to transfer cannot hold.
    pub fn new(url: &str) -> Result<Self, SubmitError> {
        let bad = |reason| SubmitError::FileUrl {
            url: url.to_owned(),
            reason,
        };
        let parsed = Url::parse(url).map_err(|_| bad("it is not an absolute URL"))?;
        if parsed.query().is_some() || parsed.fragment().is_some() {
            return Err(bad("it has a query string or fragment"));
        }
        if url.contains(|c: char| c.is_whitespace() || c.is_control() || ",;\"'$".contains(c)) {
            return Err(bad(
                "it has a blank, a comma, a semicolon, a quote or a dollar sign",
            ));
        }
        let file_name = parsed
            .path_segments()
            .and_then(|mut segments| segments.next_back())
            .filter(|name| !name.is_empty())
            .ok_or_else(|| bad("its last path segment, the file's name, is empty"))?
            .to_owned();
        Ok(Self {
            url: url.to_owned(),
            file_name,
        })
    }

    /// The service's own copy of the wrapper script.
    ///
    /// # Errors
    ///
    /// See [`FileUrl::new`].
    pub fn default_executable(service_root_url: &str) -> Result<Self, SubmitError> {
        Self::of_service(service_root_url, "external_exec/files/condor/executable.sh")
    }

    /// The service's own copy of the archive with the executor.
    ///
    /// # Errors
    ///
    /// See [`FileUrl::new`].
    pub fn default_code_archive(service_root_url: &str) -> Result<Self, SubmitError> {
        Self::of_service(service_root_url, "external_exec/files/code_archive.tgz")
    }

    fn of_service(root: &str, path: &str) -> Result<Self, SubmitError> {
        Self::new(&format!("{}/{path}", root.trim_end_matches('/')))
    }

    /// The URL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.url
    }

    /// The file's name on the worker.
    #[must_use]
    pub fn file_name(&self) -> &str {
        &self.file_name
    }
}

/// A submit description: attributes in order, and the container numbers to queue. Displays as the
/// text that `condor_submit` reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubmitDescription {
    script: String,
    attributes: Vec<(&'static str, SubmitValue)>,
    num_containers: u32,
}

impl SubmitDescription {
    /// The description of one job.
    ///
    /// # Errors
    ///
    /// [`SubmitError::Value`] if a setting cannot be written into it, [`SubmitError::Limit`] if the user's name
    /// cannot.
    pub fn new(settings: &SubmitSettings, job: &SubmitJob<'_>) -> Result<Self, SubmitError> {
        let id = job.id;
        let script = settings.executable_url.file_name().to_owned();
        let per_container =
            |suffix: &str| SubmitValue::trusted(format!("cts-{id}-{CONTAINER_NUMBER}{suffix}"));
        let mut attributes = vec![
            ("shell", SubmitValue::trusted(format!("bash {script}"))),
            (
                "initialdir",
                SubmitValue::text("initialdir", &settings.initial_dir)?,
            ),
            (
                "transfer_input_files",
                SubmitValue::trusted(format!(
                    "{}, {}",
                    settings.executable_url.as_str(),
                    settings.code_archive_url.as_str()
                )),
            ),
            ("environment", environment(settings, id)?.into_value()),
            ("output", per_container(".out")),
            ("error", per_container(".err")),
            ("log", per_container(".log")),
            (
                "transfer_output_files",
                SubmitValue::trusted(format!(
                    "cts-{id}-{CONTAINER_NUMBER}-container.out, cts-{id}-{CONTAINER_NUMBER}-container.err"
                )),
            ),
            ("request_cpus", SubmitValue::trusted(job.cpus.to_string())),
            (
                "request_memory",
                SubmitValue::trusted((job.memory_bytes / BYTES_PER_MIB).to_string()),
            ),
            ("want_graceful_removal", SubmitValue::trusted("true")),
            (
                "Concurrency_Limits",
                SubmitValue::limit("Concurrency_Limits", job.user)?,
            ),
            (
                "+AccountingGroup",
                SubmitValue::string("+AccountingGroup", job.user)?,
            ),
            (
                "+CTSJobID",
                SubmitValue::string("+CTSJobID", &id.to_string())?,
            ),
            (
                "+CTSContainerNumber",
                SubmitValue::trusted(CONTAINER_NUMBER),
            ),
        ];
        if let Some(group) = &settings.client_group {
            let group = SubmitValue::string("requirements", group)?;
            let requirements =
                SubmitValue::trusted(format!("regexp({},CLIENTGROUP)", group.as_str()));
            attributes.push(("requirements", requirements));
        }
        let constants = [
            ("JobLeaseDuration", settings.job_lease.as_secs().to_string()),
            ("MaxJobRetirementTime", RETIREMENT_SECS.to_string()),
            (
                "Periodic_Hold",
                format!("( RemoteWallClockTime > {MAX_WALL_CLOCK_SECS} )"),
            ),
            ("on_exit_hold", "ExitCode =!= 0".to_owned()),
            ("should_transfer_files", "yes".to_owned()),
            ("when_to_transfer_output", "on_exit_or_evict".to_owned()),
            ("getenv", "False".to_owned()),
        ];
        attributes.extend(constants.map(|(name, value)| (name, SubmitValue::trusted(value))));
        attributes.extend(extras(&settings.extras, job));
        Ok(Self {
            script,
            attributes,
            num_containers: job.num_containers,
        })
    }

    /// Names and values in order, quoted, as the contract has them.
    pub fn attributes(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.attributes
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
    }

    /// The values of `container_number`, one a proc, so that a proc's id is its container's number.
    pub fn container_numbers(&self) -> impl Iterator<Item = u32> + use<> {
        0..self.num_containers
    }
}

impl fmt::Display for SubmitDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.attributes() {
            if name == "shell" {
                // condor_submit does not know `shell`, only the Python bindings do; this is the same.
                writeln!(f, "executable = /bin/bash")?;
                writeln!(f, "transfer_executable = false")?;
                writeln!(f, "arguments = {}", self.script)?;
            } else {
                writeln!(f, "{name} = {value}")?;
            }
        }
        writeln!(f, "queue container_number from (")?;
        for number in self.container_numbers() {
            writeln!(f, "{number}")?;
        }
        writeln!(f, ")")
    }
}

/// The lines beyond the contract.
fn extras(extras: &Extras, job: &SubmitJob<'_>) -> Vec<(&'static str, SubmitValue)> {
    let mut lines = Vec::new();
    let mut add = |name, value: String| lines.push((name, SubmitValue::trusted(value)));
    if let Some(input_bytes) = job.input_bytes.filter(|_| extras.request_disk) {
        let bytes = input_bytes
            .saturating_mul(2)
            .saturating_add(SPARE_DISK_BYTES);
        add("request_disk", bytes.div_ceil(BYTES_PER_KIB).to_string());
    }
    if let Some(allowance) = extras.transfer_allowance {
        let longest = job.runtime.saturating_add(allowance).as_secs();
        add("allowed_execute_duration", longest.to_string());
    }
    if extras.batch_name {
        add("batch_name", format!("\"cts {}\"", job.id));
    }
    if let Some(time) = extras.max_vacate_time {
        add("job_max_vacate_time", time.as_secs().to_string());
    }
    lines
}

fn environment(settings: &SubmitSettings, id: JobId) -> Result<Environment, SubmitError> {
    let log_path = format!("{}/{id}", settings.s3_log_dir.trim_matches('/'));
    let timeout_min = settings.job_update_timeout_min.to_string();
    let mut environment = Environment::default();
    environment.set("JOB_ID", &id.to_string())?;
    environment.set_trusted("CONTAINER_NUMBER", CONTAINER_NUMBER);
    environment.set("CODE_ARCHIVE", settings.code_archive_url.file_name())?;
    environment.set("GLOBAL_CACHE_DIR", &settings.cache_dir)?;
    environment.set("SERVICE_ROOT_URL", &settings.service_root_url)?;
    environment.set("TOKEN_PATH", &settings.token_path)?;
    environment.set("S3_URL", &settings.s3_url)?;
    environment.set("S3_ACCESS_KEY", &settings.s3_access_key)?;
    environment.set("S3_SECRET_PATH", &settings.s3_secret_path)?;
    environment.set("S3_ERROR_LOG_PATH", &log_path)?;
    environment.set("JOB_UPDATE_TIMEOUT_MIN", &timeout_min)?;
    environment.set("REFDATA_HOST_PATH", &settings.refdata_host_path)?;
    environment.set_optional("CTS_REFDATA_DIR", settings.refdata_executor_dir.as_deref())?;
    environment.set_optional(
        "MOUNT_PREFIX_OVERRIDE",
        settings.mount_prefix_override.as_deref(),
    )?;
    environment.set_optional("ADDITIONAL_PATH", settings.additional_path.as_deref())?;
    environment.set_optional("S3_INSECURE", settings.s3_insecure.then_some("TRUE"))?;
    environment.set_optional("CTS_LOG_LEVEL", settings.log_level.as_deref())?;
    Ok(environment)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings() -> SubmitSettings {
        let root = "https://cts.example.org/services/cts";
        SubmitSettings {
            initial_dir: "/condor/logs".to_owned(),
            service_root_url: root.to_owned(),
            executable_url: FileUrl::default_executable(root).unwrap(),
            code_archive_url: FileUrl::default_code_archive(root).unwrap(),
            client_group: None,
            token_path: "/cts/token".to_owned(),
            s3_secret_path: "/cts/secret".to_owned(),
            cache_dir: "/tmp".to_owned(),
            additional_path: None,
            mount_prefix_override: None,
            refdata_host_path: "/refdata".to_owned(),
            refdata_executor_dir: None,
            s3_url: "http://s3.internal:9000".to_owned(),
            s3_access_key: "ak".to_owned(),
            s3_insecure: false,
            s3_log_dir: "logs/cts/".to_owned(),
            job_update_timeout_min: 360,
            job_lease: JOB_LEASE,
            log_level: None,
            extras: Extras::default(),
        }
    }

    fn describe(settings: &SubmitSettings, user: &str) -> Result<SubmitDescription, SubmitError> {
        let id = "986e5df7-f7f3-48d3-b388-29346ddb6656".parse().unwrap();
        let job = SubmitJob {
            id,
            user,
            num_containers: 2,
            cpus: 1,
            memory_bytes: 10_000_000,
            runtime: Duration::from_mins(1),
            input_bytes: Some(1024),
        };
        SubmitDescription::new(settings, &job)
    }

    fn attribute(description: &SubmitDescription, name: &str) -> String {
        description
            .attributes()
            .find(|(found, _)| *found == name)
            .unwrap()
            .1
            .to_owned()
    }

    #[test]
    fn text_runs_the_script_with_bash() {
        let text = describe(&settings(), "alice").unwrap().to_string();
        let expected = "executable = /bin/bash\n\
                        transfer_executable = false\n\
                        arguments = executable.sh\n\
                        initialdir = /condor/logs\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(
            text.ends_with("queue container_number from (\n0\n1\n)\n"),
            "{text}"
        );
        assert!(!text.contains("shell"), "{text}");
    }

    #[test]
    fn environment_values_are_quoted() {
        let mut settings = settings();
        settings.cache_dir = "/a b/it's".to_owned();
        settings.token_path = "/t\"x\"".to_owned();
        settings.s3_access_key = "$(Owner)".to_owned();
        let environment = attribute(&describe(&settings, "alice").unwrap(), "environment");
        for part in [
            "GLOBAL_CACHE_DIR='/a b/it''s' ",
            "TOKEN_PATH=/t\"\"x\"\" ",
            "S3_ACCESS_KEY=$(DOLLAR)(Owner) ",
        ] {
            assert!(environment.contains(part), "{environment}");
        }
    }

    #[test]
    fn executors_are_told_where_to_stage_only_where_they_do() {
        let environment = |settings: &SubmitSettings| {
            attribute(&describe(settings, "alice").unwrap(), "environment")
        };
        let mut settings = settings();
        assert!(!environment(&settings).contains("CTS_REFDATA_DIR"));
        settings.refdata_executor_dir = Some("/nfs/refdata".to_owned());
        assert!(environment(&settings).contains(" CTS_REFDATA_DIR=/nfs/refdata"));
    }

    #[test]
    fn values_that_change_their_line_are_refused() {
        for value in ["/a\ngetenv = true", "/a\\", "$$(Memory)"] {
            let mut settings = settings();
            settings.initial_dir = value.to_owned();
            let error = describe(&settings, "alice").unwrap_err().to_string();
            assert!(error.contains("initialdir"), "{error}");
        }
    }

    /// As `condor_submit` 23 checks them.
    #[test]
    fn users_whom_the_pool_cannot_count_are_refused() {
        for user in ["alice", "_a1", "A", "a.b_2"] {
            let description = describe(&settings(), user).unwrap();
            assert_eq!(attribute(&description, "Concurrency_Limits"), user);
        }
        for user in [
            "", "a,b", "a b", "a\"b", "a\nb", "a-b", "a@b", "1a", "é", ".a", "a.", "a.b.c", "a.1",
            "a:2",
        ] {
            let error = describe(&settings(), user).unwrap_err().to_string();
            assert!(error.contains("Concurrency_Limits"), "{error}");
            assert!(error.contains("the first no digit"), "{error}");
        }
    }

    #[test]
    fn extras_are_added_each_by_itself() {
        let plain = describe(&settings(), "alice").unwrap().attributes().count();
        let all = Extras {
            request_disk: true,
            transfer_allowance: Some(Duration::from_mins(2)),
            batch_name: true,
            max_vacate_time: Some(Duration::from_secs(60)),
        };
        for (extras, name, value) in [
            (
                Extras {
                    request_disk: true,
                    ..Extras::default()
                },
                "request_disk",
                "1048578",
            ),
            (
                Extras {
                    transfer_allowance: all.transfer_allowance,
                    ..Extras::default()
                },
                "allowed_execute_duration",
                "180",
            ),
            (
                Extras {
                    batch_name: true,
                    ..Extras::default()
                },
                "batch_name",
                "\"cts 986e5df7-f7f3-48d3-b388-29346ddb6656\"",
            ),
            (
                Extras {
                    max_vacate_time: all.max_vacate_time,
                    ..Extras::default()
                },
                "job_max_vacate_time",
                "60",
            ),
        ] {
            let mut settings = settings();
            settings.extras = extras;
            let description = describe(&settings, "alice").unwrap();
            assert_eq!(attribute(&description, name), value);
            assert_eq!(description.attributes().count(), plain + 1);
        }
    }

    #[test]
    fn client_groups_are_strings() {
        let mut settings = settings();
        settings.client_group = Some("g\",true) || f(\"".to_owned());
        let requirements = attribute(&describe(&settings, "alice").unwrap(), "requirements");
        assert_eq!(requirements, r#"regexp("g\",true) || f(\"",CLIENTGROUP)"#);
    }

    #[test]
    fn file_urls_name_a_file() {
        let url = FileUrl::new("https://f.example.org/x/run2.sh").unwrap();
        assert_eq!(url.file_name(), "run2.sh");
        for bad in [
            "run.sh",
            "https://f.example.org/x/",
            "https://f.example.org",
            "https://f.example.org/x?y=1",
            "https://f.example.org/x#y",
            "https://f.example.org/x,y",
            "https://f.example.org/a b",
        ] {
            let error = FileUrl::new(bad).unwrap_err().to_string();
            assert!(error.contains(bad), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_value_adds_a_line_or_expands(user in ".{0,12}", value in "(.|\n|\\$\\(x\\)){0,12}") {
            let mut settings = settings();
            settings.cache_dir = value.clone();
            settings.initial_dir = value.clone();
            settings.client_group = Some(value);
            let plain = describe(&self::settings(), "alice").unwrap().to_string();
            if let Ok(description) = describe(&settings, &user) {
                let text = description.to_string();
                // The client group adds its one line.
                prop_assert_eq!(text.lines().count(), plain.lines().count() + 1);
                let macros = text.replace("$(container_number)", "").replace("$(DOLLAR)", "");
                prop_assert!(!macros.contains('$'), "{}", text);
            }
        }
    }
}
