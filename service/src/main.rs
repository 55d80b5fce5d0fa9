//! `cts-service`: see [`cts_service`].

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use cts_service::cli::{Cli, Command};
use cts_service::{dev, telemetry};

fn main() -> ExitCode {
    let cli = Cli::parse();
    cts_net::tls::install_provider();
    let outcome = match cli.command {
        Command::Dev(args) => {
            telemetry::init(args.log_format, args.log_level);
            dev::run(args)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; the exit status still tells.
            let _closed = writeln!(std::io::stderr(), "cts-service: {error}");
            ExitCode::FAILURE
        }
    }
}
