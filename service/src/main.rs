//! `cts-service`: see [`cts_service`].

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use serde_json::Value;

use cts_service::api::openapi;
use cts_service::cli::{Cli, Command};
use cts_service::{dev, telemetry};

fn main() -> ExitCode {
    let cli = Cli::parse();
    cts_net::tls::install_provider();
    let outcome: Result<(), Box<dyn Error>> = match cli.command {
        Command::Dev(args) => {
            telemetry::init(args.log_format, args.log_level);
            dev::run(*args).map_err(Into::into)
        }
        Command::Openapi => print(&openapi::document(None))
            .map_err(|error| format!("cannot print the document: {error}").into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; the exit status still tells.
            let _closed = writeln!(io::stderr(), "cts-service: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a document to standard output.
fn print(document: &Value) -> io::Result<()> {
    match writeln!(io::stdout(), "{document:#}") {
        // A reader such as `head` has had enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}
