//! The `cts-executor` program: reads the command line, runs the command, ends with its exit status.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use cts_executor::cli::{Cli, Task};
use cts_executor::exit::ExitStatus;
use cts_executor::telemetry::{self, LogFormat, LogLevel, Screen};
use cts_executor::variables::{CTS_LOG_FORMAT, CTS_LOG_LEVEL};
use cts_executor::{commands, process};

fn main() -> ExitCode {
    // Before any thread exists and any name is looked up.
    cts_net::name_service::use_built_in_services();
    cts_net::tls::install_provider();
    process::harden();
    process::share_files_with_the_container();
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("cts")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("cannot start threads: {error}")),
    };
    let status = runtime.block_on(async {
        let screen = start_logging(cli.log_level, cli.log_format);
        match cli.command {
            Task::Run(variables) => commands::run(&|name| variables.lookup(name), screen).await,
            Task::Plan(arguments) => commands::plan(&arguments),
            Task::Local(arguments) => cts_executor::local::local(&arguments, screen).await,
            Task::Checksum(arguments) => cts_executor::checksum::run(&arguments),
            Task::Reap(arguments) => commands::reap(&arguments).await,
            Task::Guard(arguments) => cts_executor::guardian::guard(&arguments).await,
            Task::Refdata(task) => cts_executor::refdata_commands::refdata(&task, screen).await,
            Task::RefdataServer => {
                let environment = |name: &str| std::env::var(name).ok();
                cts_executor::refdata_server::refdata_server(&environment).await
            }
            Task::Doctor(arguments) => {
                let lookup = |name: &str| arguments.variables.lookup(name);
                cts_executor::doctor::doctor(&lookup, arguments.classad).await
            }
        }
    });
    // A file system that hangs must not keep the process from ending.
    runtime.shutdown_background();
    status.into()
}

/// Flags go before the environment. Wrong values of the environment are reported with all other
/// settings, by the command.
fn start_logging(level: Option<LogLevel>, format: Option<LogFormat>) -> Screen {
    let set = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|value| value.trim().to_owned())
    };
    let level = level
        .or_else(|| set(CTS_LOG_LEVEL.name)?.parse().ok())
        .unwrap_or_default();
    let format = format
        .or_else(|| set(CTS_LOG_FORMAT.name)?.parse().ok())
        .unwrap_or_default();
    telemetry::start(level, format, no_color())
}

/// Any value but the empty one counts (no-color.org).
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

fn complain(message: &str) -> ExitCode {
    // Nothing is left to do if standard error is gone.
    let _unwritable = writeln!(std::io::stderr(), "cts-executor: {message}");
    ExitStatus::Failed.into()
}
