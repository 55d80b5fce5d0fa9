//! The `refdata` commands: for operators, and for a service that stages on its own machine.

mod progress_file;
mod prune;

use std::io::Write;
use std::sync::Arc;

use indicatif::HumanBytes;

use crate::cli::{
    ListArguments, ListFormat, RefdataTask, StageArguments, StoreArguments, VerifyArguments,
};
use crate::commands::complain;
use crate::config::StageConfig;
use crate::exit::ExitStatus;
use crate::object_store::ObjectName;
use crate::progress_display::Display;
use crate::refdata::{
    Item, ItemState, RefdataError, RefdataStore, StagedItem, StagingCounters, StagingLimits,
    check_directories,
};
use crate::run::stage::open_store;
use crate::shutdown::Shutdown;
use crate::telemetry::Screen;
use crate::transfer::{TransferEngine, TransferOptions, TransferRuntime};

/// What ends a command early.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs one of the commands.
pub async fn refdata(task: &RefdataTask, screen: Screen) -> ExitStatus {
    let shutdown = match Shutdown::listen() {
        Ok(shutdown) => shutdown,
        Err(error) => {
            complain(format_args!("cannot listen for signals: {error}"));
            return ExitStatus::Failed;
        }
    };
    if let Some(metadata) = &task.store().metadata
        && let Err(error) = check_directories(&task.store().root, metadata)
    {
        complain(error);
        return ExitStatus::Configuration;
    }
    let ended = match task {
        RefdataTask::Stage(arguments) => stage(arguments, screen, &shutdown).await,
        RefdataTask::List(arguments) => list(arguments).await,
        RefdataTask::Verify(arguments) => verify(arguments, &shutdown).await,
        RefdataTask::Prune(arguments) => prune::prune(arguments, &shutdown).await,
    };
    match ended {
        Ok(status) => status,
        // Whatever it says follows from the signal.
        Err(_) if shutdown.token().is_cancelled() => {
            ExitStatus::Signal(shutdown.signal().unwrap_or(15))
        }
        Err(error) => {
            complain(error);
            ExitStatus::Failed
        }
    }
}

fn store(arguments: &StoreArguments, limits: StagingLimits) -> RefdataStore {
    let root = arguments.root.clone();
    let metadata = arguments.metadata.clone();
    let metadata = metadata.unwrap_or_else(|| RefdataStore::default_metadata(&root));
    RefdataStore::new(root, metadata, limits)
}

/// One line on standard output.
fn say(line: impl std::fmt::Display) {
    // Nothing is left to do if standard output is gone.
    let _unwritable = writeln!(std::io::stdout(), "{line}");
}

/// Runs what blocks, where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RefdataError> + Send + 'static,
) -> Result<T, Failure> {
    Ok(tokio::task::spawn_blocking(work).await??)
}

/// `cts-executor refdata stage`.
async fn stage(
    arguments: &StageArguments,
    screen: Screen,
    shutdown: &Shutdown,
) -> Result<ExitStatus, Failure> {
    let config = match StageConfig::read(&|name| arguments.variables.lookup(name)) {
        Ok(config) => config,
        Err(errors) => {
            errors.iter().for_each(complain);
            return Ok(ExitStatus::Configuration);
        }
    };
    let objects = match open_store(&config.s3) {
        Ok(objects) => objects,
        Err(failure) => {
            complain(failure.failure.message());
            return Ok(ExitStatus::Configuration);
        }
    };
    let mut options = TransferOptions::default();
    options.retry.max_elapsed = config.transfer_budget;
    options.retry.max_attempts = u32::MAX;
    let threads = TransferRuntime::start()?;
    let engine = TransferEngine::new(objects, options, &threads);
    let item = Item {
        id: arguments.id.clone(),
        object: ObjectName::new(arguments.object.bucket().as_str(), arguments.object.key()),
        expected: arguments.crc64nvme,
        unpack: arguments.unpack,
    };
    let counters = Arc::new(StagingCounters::default());
    let phase = Display::new(screen).phase("staging", Arc::clone(&counters));
    let store = store(&arguments.store, config.limits);
    let staging = store.stage(&item, &engine, Arc::clone(&counters), shutdown.token());
    let staged = match &arguments.progress {
        Some(file) => progress_file::kept(file, &counters, staging).await?,
        None => staging.await?,
    };
    if !staged.was_there {
        phase.finish();
    }
    say(format_args!(
        "{} {}: {}, {}",
        if staged.was_there {
            "already there:"
        } else {
            "staged"
        },
        staged.tree.display(),
        files(staged.files),
        HumanBytes(staged.bytes)
    ));
    Ok(ExitStatus::Done)
}

/// `cts-executor refdata list`.
async fn list(arguments: &ListArguments) -> Result<ExitStatus, Failure> {
    let store = store(&arguments.store, StagingLimits::default());
    let items = blocking(move || store.list()).await?;
    match arguments.format {
        ListFormat::Json => say(serde_json::to_string_pretty(&items)?),
        ListFormat::Text => {
            say(row(["ID", "STATE", "FILES", "SIZE", "SINCE", "PROBLEM"]));
            items.iter().map(text).for_each(say);
        }
    }
    Ok(ExitStatus::Done)
}

fn text(item: &StagedItem) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let state = match item.state {
        ItemState::Staging => "staging",
        ItemState::Done => "done",
        ItemState::Damaged => "damaged",
        ItemState::Foreign => "foreign",
    };
    row([
        item.id.as_str(),
        state,
        &or_dash(item.files.map(|files| files.to_string())),
        &or_dash(size(item)),
        &or_dash(item.since.map(|since| since.strftime("%FT%TZ").to_string())),
        item.problem.as_deref().unwrap_or_default(),
    ])
}

fn row([id, state, files, size, since, problem]: [&str; 6]) -> String {
    let line = format!("{id:<36}  {state:<7}  {files:>8}  {size:>11}  {since:<20}  {problem}");
    line.trim_end().to_owned()
}

fn files(number: u64) -> String {
    match number {
        1 => "1 file".to_owned(),
        _ => format!("{number} files"),
    }
}

fn size(item: &StagedItem) -> Option<String> {
    item.bytes.map(|bytes| HumanBytes(bytes).to_string())
}

/// `cts-executor refdata verify`. Goes through all of them, whatever is wrong with some.
async fn verify(arguments: &VerifyArguments, shutdown: &Shutdown) -> Result<ExitStatus, Failure> {
    let store = store(&arguments.store, StagingLimits::default());
    let mut ids = arguments.ids.clone();
    if ids.is_empty() {
        let store = store.clone();
        let items = blocking(move || store.list()).await?;
        let (busy, others): (Vec<_>, Vec<_>) = items
            .into_iter()
            .partition(|item| item.state == ItemState::Staging);
        for item in busy {
            say(format_args!("STAGING   {}: left alone", item.id));
        }
        ids.extend(others.into_iter().map(|item| item.id));
    }
    let mut status = ExitStatus::Done;
    for id in ids {
        let (store, checked) = (store.clone(), id.clone());
        let cancel = shutdown.token().clone();
        match blocking(move || store.verify(&checked, true, &cancel)).await {
            Ok(verification) if verification.is_good() => say(format_args!(
                "ok        {id}: {}, {}",
                files(verification.files),
                HumanBytes(verification.bytes)
            )),
            Ok(verification) => {
                status = ExitStatus::Failed;
                say(format_args!("DIFFERENT {id}: {verification}"));
            }
            Err(error) if shutdown.token().is_cancelled() => return Err(error),
            Err(error) => {
                status = ExitStatus::Failed;
                say(format_args!("FAILED    {id}: {error}"));
            }
        }
    }
    Ok(status)
}
