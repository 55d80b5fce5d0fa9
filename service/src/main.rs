//! `cts-service`: see [`cts_service`].

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use cts_service::cli::{Cli, Command};
use cts_service::exit::ExitStatus;
use cts_service::{dev, serve, telemetry};

fn main() -> ExitCode {
    let cli = Cli::parse();
    cts_net::tls::install_provider();
    let outcome = match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::CheckConfig(args) => return serve::check_config(&args).into(),
        Command::Dev(args) => {
            telemetry::init(args.log_format, args.log_level);
            dev::run(*args)
        }
    };
    let status = match outcome {
        Ok(()) => ExitStatus::Done,
        Err(error) => {
            // Standard error may be closed; the exit status still tells.
            let _closed = writeln!(std::io::stderr(), "cts-service: {error}");
            error.exit_status()
        }
    };
    status.into()
}
