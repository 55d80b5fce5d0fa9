//! `cts-service`: see [`cts_service`].

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use cts_service::api::openapi;
use cts_service::cli::{Cli, Command};
use cts_service::exit::ExitStatus;
use cts_service::{dev, migrate, serve, telemetry};

fn main() -> ExitCode {
    // Before any thread exists and any name is looked up.
    cts_net::name_service::use_built_in_services();
    let cli = Cli::parse();
    cts_net::tls::install_provider();
    let outcome = match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::CheckConfig(args) => return serve::check_config(&args).into(),
        Command::Dev(args) => {
            telemetry::init(args.log_format, args.log_level);
            dev::run(*args)
        }
        Command::Migrate(args) => return migrate::run(&args).into(),
        Command::Openapi => return print_description().into(),
    };
    let status = match outcome {
        Ok(()) => ExitStatus::Done,
        Err(error) => {
            // Standard error may be closed; the exit status still tells.
            let _closed = writeln!(io::stderr(), "cts-service: {error}");
            error.exit_status()
        }
    };
    status.into()
}

/// `cts-service openapi`
fn print_description() -> ExitStatus {
    match writeln!(io::stdout(), "{:#}", openapi::document(None)) {
        Ok(()) => ExitStatus::Done,
        // A reader such as `head` has had enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitStatus::Done,
        Err(error) => {
            let _closed = writeln!(
                io::stderr(),
                "cts-service: cannot print the API's description: {error}"
            );
            ExitStatus::Failed
        }
    }
}
