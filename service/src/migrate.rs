//! `cts-service migrate`: copies everything that the service remembers from one store to another, from a file
//! to MongoDB or back, and reads it back.
//!
//! Not copied: who holds a lease, for no service works on either store meanwhile.

use std::io::Write;
use std::time::Instant;

use crate::cli::MigrateArgs;
use crate::data_dir::DataDirError;
use crate::exit::ExitStatus;
use crate::job_store::StoreError;
use crate::telemetry::{self, LogFormat, LogLevel};

pub mod copying;
mod place;
mod progress;

use copying::{CopyError, Counts};
use place::{Expect, Place};
pub use progress::Progress;

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
enum MigrateError {
    /// An option or a setting is wrong.
    #[error("{0}")]
    Usage(String),
    /// A service works on a store.
    #[error("{0}")]
    InUse(String),
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The copy failed, or is not the same.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// The async runtime.
    #[error("cannot start: {0}")]
    Runtime(String),
}

impl MigrateError {
    fn runtime(error: impl std::fmt::Display) -> Self {
        Self::Runtime(error.to_string())
    }

    fn exit_status(&self) -> ExitStatus {
        match self {
            Self::InUse(_) | Self::DataDir(DataDirError::Locked(_)) => ExitStatus::TryAgain,
            Self::Usage(_) | Self::DataDir(DataDirError::Io { .. }) => ExitStatus::Configuration,
            Self::Store(_) | Self::Copy(_) | Self::Runtime(_) => ExitStatus::Failed,
        }
    }
}

/// Copies or compares, and tells people.
pub fn run(args: &MigrateArgs) -> ExitStatus {
    telemetry::init(LogFormat::Text, LogLevel::Warning);
    let begun = Instant::now();
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(MigrateError::runtime)
        .and_then(|runtime| runtime.block_on(migrate(args)));
    // Both may be closed; the exit status still tells.
    match outcome {
        Ok(counts) => {
            let _closed = writeln!(
                std::io::stdout(),
                "both stores are the same: {}; {:.1} s",
                in_words(counts),
                begun.elapsed().as_secs_f64()
            );
            ExitStatus::Done
        }
        Err(error) => {
            let _closed = writeln!(std::io::stderr(), "cts-service: {error}");
            error.exit_status()
        }
    }
}

async fn migrate(args: &MigrateArgs) -> Result<Counts, MigrateError> {
    let place = |option: &str, text: &str| {
        text.parse::<Place>()
            .map_err(|fault| MigrateError::Usage(format!("{option}: {fault}")))
    };
    let (from, to) = (place("--from", &args.from)?, place("--to", &args.to)?);
    let target = if args.check {
        Expect::Existing
    } else {
        Expect::Any
    };
    let (from, to) = Place::open_both(&from, &to, &args.config, target).await?;
    let verb = if args.check { "comparing" } else { "copying" };
    // Nobody may be reading; the exit status still tells.
    let _closed = writeln!(std::io::stderr(), "{verb}: {} to {}", from.name, to.name);
    let progress = Progress::default();
    let work = async {
        if args.check {
            copying::check(&*from.store, &*to.store, &progress).await
        } else {
            copying::copy(&*from.store, &*to.store, &progress).await
        }
    };
    Ok(progress.told_during(work).await?)
}

fn in_words(counts: Counts) -> String {
    let Counts {
        jobs,
        containers,
        transitions,
        images,
        refdata,
        inactive_sites,
    } = counts;
    format!(
        "{jobs} jobs with {containers} containers and {transitions} transitions, {images} images, \
         {refdata} reference data, {inactive_sites} sites switched off"
    )
}
