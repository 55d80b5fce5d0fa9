//! Arguments of the `refdata` commands.

use std::path::PathBuf;

use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand};
use cts_shared::crc64nvme::Crc64Nvme;
use cts_shared::id::RefdataId;
use cts_shared::s3_path::S3Path;
use cts_shared::site::Site;
use url::Url;

use super::{Variables, add_flags};
use crate::variables::{self as vars, Variable};

/// The commands for reference data.
#[derive(Debug, Subcommand)]
pub enum RefdataTask {
    /// Stage one object: download, check, unpack, list its files, make it visible in one step
    ///
    /// Ends with 0 as soon as the data is there and checked, also if it was there before.
    Stage(Box<StageArguments>),
    /// List what is staged, how large it is, and what is left of stagings that were killed
    List(ListArguments),
    /// Read every byte of staged data and compare it with its listing
    Verify(VerifyArguments),
    /// Remove staged data that no image uses
    Prune(PruneArguments),
}

impl RefdataTask {
    /// Where the data is.
    #[must_use]
    pub fn store(&self) -> &StoreArguments {
        match self {
            Self::Stage(arguments) => &arguments.store,
            Self::List(arguments) => &arguments.store,
            Self::Verify(arguments) => &arguments.store,
            Self::Prune(arguments) => &arguments.store,
        }
    }
}

/// Where the data is.
#[derive(Debug, Clone, clap::Args)]
pub struct StoreArguments {
    /// The directory with the staged data
    #[arg(long, value_name = "DIR")]
    pub root: PathBuf,
    /// The directory with its listings and locks [default: .metadata below the root]
    #[arg(long, value_name = "DIR")]
    pub metadata: Option<PathBuf>,
}

/// Arguments of `refdata stage`.
#[derive(Debug, clap::Args)]
pub struct StageArguments {
    /// Where.
    #[command(flatten)]
    pub store: StoreArguments,
    /// The id: the name of the directory
    #[arg(long, value_name = "ID")]
    pub id: RefdataId,
    /// The object
    #[arg(long, value_name = "BUCKET/KEY", value_parser = S3Path::parse)]
    pub object: S3Path,
    /// The object's CRC64NVME, in base64
    #[arg(long, value_name = "BASE64", value_parser = Crc64Nvme::from_base64)]
    pub crc64nvme: Crc64Nvme,
    /// Unpack the object, an archive by the end of its name
    #[arg(long)]
    pub unpack: bool,
    /// A file that says how far it is while it is staged, in JSON, renewed every second
    #[arg(long, value_name = "FILE")]
    pub progress: Option<PathBuf>,
    /// The settings.
    #[command(flatten)]
    pub variables: StageVariables,
}

/// Settings of `refdata stage` given as flags; they go before the environment.
#[derive(Debug, Clone, Default)]
pub struct StageVariables(Variables);

/// Those of `run` that have a meaning here.
const STAGE_VARIABLES: [Variable; 10] = [
    vars::S3_URL,
    vars::S3_ACCESS_KEY,
    vars::S3_SECRET_PATH,
    vars::S3_INSECURE,
    vars::CTS_S3_SIGN_PAYLOAD,
    vars::CTS_TRANSFER_TIMEOUT_MIN,
    vars::CTS_REFDATA_MAX_ENTRIES,
    vars::CTS_REFDATA_MAX_EXPANSION,
    vars::CTS_REFDATA_MAX_UNPACKED_GIB,
    vars::CTS_REFDATA_RESERVE_MIB,
];

impl StageVariables {
    /// The value of a variable: the flag's, else the environment's.
    #[must_use]
    pub fn lookup(&self, name: &str) -> Option<String> {
        self.0.lookup(name)
    }
}

impl Args for StageVariables {
    fn augment_args(command: Command) -> Command {
        let named = STAGE_VARIABLES.iter().filter_map(|variable| {
            let flag = variable.flag()?;
            // Everything here is about reference data.
            let flag = flag.strip_prefix("refdata-").unwrap_or(&flag).to_owned();
            Some((variable, flag))
        });
        add_flags(command, named)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for StageVariables {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(Variables::given(matches, STAGE_VARIABLES.iter())))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Arguments of `refdata list`.
#[derive(Debug, Clone, clap::Args)]
pub struct ListArguments {
    /// Where.
    #[command(flatten)]
    pub store: StoreArguments,
    /// How to show it
    #[arg(long, value_enum, default_value_t)]
    pub format: ListFormat,
}

/// How `refdata list` shows the list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ListFormat {
    /// A table for people.
    #[default]
    Text,
    /// A JSON array.
    Json,
}

/// Arguments of `refdata verify`.
#[derive(Debug, Clone, clap::Args)]
pub struct VerifyArguments {
    /// Where.
    #[command(flatten)]
    pub store: StoreArguments,
    /// What; everything if nothing is named
    #[arg(value_name = "ID")]
    pub ids: Vec<RefdataId>,
}

/// Arguments of `refdata prune`.
#[derive(Debug, Clone, clap::Args)]
#[command(group = clap::ArgGroup::new("kept").required(true).multiple(true).args(["service", "keep"]))]
pub struct PruneArguments {
    /// Where.
    #[command(flatten)]
    pub store: StoreArguments,
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Keep what the images of the service at this root URL use, and what it still has staged
    #[arg(long, value_name = "URL")]
    pub service: Option<Url>,
    /// Keep these; with --service, beside what it needs
    #[arg(long, value_name = "ID", num_args = 1..)]
    pub keep: Vec<RefdataId>,
    /// A file with a service token of the reference data role: removals are reported with it [or TOKEN]
    #[arg(long, value_name = "FILE", env = vars::TOKEN_PATH.name)]
    pub token_path: Option<PathBuf>,
    /// Do not tell the service what was removed: jobs that need it fail until it is staged again
    #[arg(long)]
    pub no_report: bool,
    /// The site whose data this is
    #[arg(long, value_name = "SITE", default_value = "kbase")]
    pub site: Site,
}
