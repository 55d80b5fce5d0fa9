//! `testbed up|down|status|env`: the real components for end-to-end tests and the demo.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use cts_tests::testbed::{Testbed, TestbedError, say};

/// Starts and stops the real components for end-to-end tests and the demo.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// The testbed's directory [default: .testbed at the root of the checkout]
    #[arg(long, global = true, env = "CTS_TESTBED_DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Command {
    /// Install and start what is missing
    Up,
    /// Stop what the testbed started and remove its data
    Down,
    /// Show where the components are; status 1 if one does not run
    Status,
    /// Print the variables by which other tests find the components, one a line
    Env,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let dir = arguments.dir.unwrap_or_else(Testbed::default_dir);
    match run(arguments.command, &dir).await {
        Ok(code) => code,
        Err(error) => {
            say(format_args!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command, dir: &std::path::Path) -> Result<ExitCode, TestbedError> {
    match command {
        Command::Up => {
            let testbed = Testbed::up(dir).await?;
            let file = testbed.layout().state_file();
            say(format_args!(
                "all components are up; addresses are in {}",
                file.display()
            ));
        }
        Command::Down => {
            Testbed::down(dir).await?;
            say(format_args!(
                "stopped; logs are in {}",
                dir.join("logs").display()
            ));
        }
        Command::Env => {
            let mut output = std::io::stdout().lock();
            for (name, value) in Testbed::variables(dir).await? {
                // Nobody reads a closed pipe.
                let _ = writeln!(output, "{name}={value}");
            }
        }
        Command::Status => {
            let components = Testbed::status(dir).await?;
            let mut output = std::io::stdout().lock();
            for component in &components {
                let state = component.problem.as_deref().unwrap_or("up");
                // Nobody reads a closed pipe.
                let _ = writeln!(
                    output,
                    "{:<18} {:<48} {state}",
                    component.name, component.address
                );
            }
            if components
                .iter()
                .any(|component| component.problem.is_some())
            {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
