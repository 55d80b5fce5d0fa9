//! The command line.

mod refdata;

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, Parser, Subcommand};
use cts_shared::id::ContainerNumber;

use crate::refdata_server::SETTINGS;
use crate::telemetry::{LogFormat, LogLevel};
use crate::variables::{CTS_LOG_FORMAT, CTS_LOG_LEVEL, VARIABLES, Variable};

pub use refdata::{
    ListArguments, ListFormat, PruneArguments, RefdataTask, StageArguments, StoreArguments,
    VerifyArguments,
};

/// Runs one container of a CDM Task Service job.
#[derive(Debug, Parser)]
#[command(name = "cts-executor", version, about, propagate_version = true)]
pub struct Cli {
    /// How log lines look.
    #[arg(
        long,
        global = true,
        value_enum,
        help = "How log lines look [env: CTS_LOG_FORMAT; default: text]"
    )]
    pub log_format: Option<LogFormat>,
    /// The least level that is logged.
    #[arg(long, global = true, value_name = "LEVEL", value_parser = LogLevel::parse,
        help = "The least level that is logged: DEBUG, INFO, WARNING, ERROR [env: CTS_LOG_LEVEL; default: INFO]")]
    pub log_level: Option<LogLevel>,
    /// What to do.
    #[command(subcommand)]
    pub command: Task,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Run one container of a job and report it to the service: what HTCondor starts on a worker
    ///
    /// Works in the current directory. Settings come from the environment or from flags of the same names.
    Run(Variables),
    /// Show what a run would do, without touching anything
    Plan(PlanArguments),
    /// Run one container of a job over local files, with no service and no S3
    Local(LocalArguments),
    /// Check whether this machine can run jobs: engine, S3, service, disk, clock
    ///
    /// Takes the same settings as `run`; what is not set is not checked, and said so.
    Doctor(DoctorArguments),
    /// Remove containers whose executor is gone, one line each; leave those that cannot be judged
    Reap(ReapArguments),
    /// Print the CRC64NVME checksums of files, in base64 as S3 takes them
    Checksum(ChecksumArguments),
    /// Stage, list, verify and remove reference data on this machine
    #[command(subcommand)]
    Refdata(RefdataTask),
    /// Stage reference data on this machine whenever the service asks for it
    ///
    /// Serves until SIGTERM. Settings come from the environment and from the TOML file that `KB_DEPLOYMENT_CONFIG`
    /// names; the environment goes first.
    #[command(name = "refdata-server", after_help = refdata_server_settings())]
    RefdataServer,
    /// Remove an executor's container when the executor dies
    #[command(hide = true)]
    Guard(GuardArguments),
}

/// The settings of `refdata-server`, for its help.
fn refdata_server_settings() -> String {
    let rows = SETTINGS.iter().map(|setting| {
        let default = setting
            .default
            .map_or_else(String::new, |default| format!("; default {default}"));
        format!(
            "  {} ({}.{})\n          {}{default}",
            setting.variable,
            setting.section,
            setting.key,
            setting.meaning()
        )
    });
    format!("Settings:\n{}", rows.collect::<Vec<_>>().join("\n"))
}

/// Settings given as flags; they go before the environment.
#[derive(Debug, Clone, Default)]
pub struct Variables(Vec<(&'static str, String)>);

impl Variables {
    /// The value of a variable: the flag's, else the environment's.
    #[must_use]
    pub fn lookup(&self, name: &str) -> Option<String> {
        let flag = self
            .0
            .iter()
            .find(|(flag, _)| *flag == name)
            .map(|(_, value)| value.clone());
        flag.or_else(|| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }
}

/// The variables that are flags of `run` and `doctor`; how to log is every command's.
fn flags() -> impl Iterator<Item = &'static Variable> {
    let everywhere = [CTS_LOG_FORMAT.name, CTS_LOG_LEVEL.name];
    VARIABLES
        .iter()
        .filter(move |variable| !variable.secret && !everywhere.contains(&variable.name))
}

/// Adds a flag for each variable.
fn add_flags<'a>(
    command: Command,
    variables: impl Iterator<Item = (&'a Variable, String)>,
) -> Command {
    variables.fold(command, |command, (variable, flag)| {
        command.arg(
            Arg::new(variable.name)
                .long(flag)
                .value_name(variable.name)
                .help(variable.meaning)
                .allow_hyphen_values(true),
        )
    })
}

impl Variables {
    /// The flags among these that were given.
    fn given(matches: &ArgMatches, variables: impl Iterator<Item = &'static Variable>) -> Self {
        let given = variables.filter_map(|variable| {
            let value = matches.get_one::<String>(variable.name)?;
            Some((variable.name, value.clone()))
        });
        Self(given.collect())
    }
}

impl Args for Variables {
    fn augment_args(command: Command) -> Command {
        let named = flags().filter_map(|variable| Some((variable, variable.flag()?)));
        add_flags(command, named)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Variables {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self::given(matches, flags()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Which container of which job.
#[derive(Debug, Clone, clap::Args)]
pub struct JobArguments {
    /// The job as the service's admin endpoint returns it (GET /admin/jobs/{id}); - reads standard input
    #[arg(long, value_name = "JOB.json")]
    pub job: PathBuf,
    /// The container's number within the job, from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub container: ContainerNumber,
    /// Root of the reference data on the container host, an absolute path
    #[arg(
        long,
        env = "REFDATA_HOST_PATH",
        value_name = "DIR",
        default_value = ""
    )]
    pub refdata_host_path: String,
    /// The most processes and threads of the container
    #[arg(
        long,
        env = "CTS_PIDS_LIMIT",
        value_name = "N",
        default_value_t = 4096,
        value_parser = clap::value_parser!(u32).range(16..=4_194_304)
    )]
    pub pids_limit: u32,
}

/// Arguments of `plan`.
#[derive(Debug, Clone, clap::Args)]
pub struct PlanArguments {
    /// Which container.
    #[command(flatten)]
    pub job: JobArguments,
    /// S3 path for the container logs: bucket, key prefix, job id at the end
    #[arg(long, env = "S3_ERROR_LOG_PATH", value_name = "PATH")]
    pub s3_error_log_path: Option<String>,
    /// How to show it
    #[arg(long, value_enum, default_value_t)]
    pub format: PlanFormat,
}

/// How `plan` shows the plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum PlanFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// Arguments of `local`.
#[derive(Debug, Clone, clap::Args)]
pub struct LocalArguments {
    /// Which container.
    #[command(flatten)]
    pub job: JobArguments,
    /// Where the input files are: each at its place below the container's input mount, or at bucket/key
    #[arg(long, value_name = "DIR")]
    pub inputs: PathBuf,
    /// Where the outputs go; made if it does not exist, must be empty
    #[arg(long, value_name = "DIR")]
    pub outputs: PathBuf,
    /// Take input files whose checksum is not the job's
    #[arg(long)]
    pub any_content: bool,
    /// Where the container engine listens
    #[arg(long, env = "DOCKER_HOST", value_name = "URL")]
    pub docker_host: Option<String>,
    /// Seconds between SIGTERM and SIGKILL for a container that must end
    #[arg(
        long,
        env = "CTS_STOP_GRACE_SECS",
        value_name = "SECONDS",
        default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(..=3600)
    )]
    pub stop_grace_secs: u64,
}

/// Arguments of `doctor`.
#[derive(Debug, Clone, clap::Args)]
pub struct DoctorArguments {
    /// Print attributes for the machine's ad, as a `STARTD_CRON` job does; the exit status is then always 0
    #[arg(long)]
    pub classad: bool,
    /// The settings.
    #[command(flatten)]
    pub variables: Variables,
}

/// Arguments of `reap`.
#[derive(Debug, Clone, clap::Args)]
pub struct ReapArguments {
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// No line for a container that is left
    #[arg(long)]
    pub quiet: bool,
    /// Where the container engine listens
    #[arg(long, env = "DOCKER_HOST", value_name = "URL")]
    pub docker_host: Option<String>,
}

/// Arguments of `checksum`.
#[derive(Debug, Clone, clap::Args)]
pub struct ChecksumArguments {
    /// The files
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// Arguments of `guard`.
#[derive(Debug, Clone, clap::Args)]
pub struct GuardArguments {
    /// The executor's instance, as in the label of its container
    #[arg(long)]
    pub instance: String,
    /// Where the container engine listens
    #[arg(long)]
    pub docker_host: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_go_by_the_variables_names_and_secrets_have_none() {
        let cli =
            Cli::try_parse_from(["cts-executor", "run", "--job-id", "x", "--s3-url=http://s"]);
        let Ok(Cli {
            command: Task::Run(variables),
            ..
        }) = cli
        else {
            panic!("{cli:?}")
        };
        assert_eq!(variables.lookup("JOB_ID").as_deref(), Some("x"));
        assert_eq!(variables.lookup("S3_URL").as_deref(), Some("http://s"));
        assert!(Cli::try_parse_from(["cts-executor", "run", "--token", "x"]).is_err());
        assert!(Cli::try_parse_from(["cts-executor", "run", "--s3-secret", "x"]).is_err());
    }
}
