//! `make bench`: measures the static executor as a whole process, and its transfer engine side by side
//! with other S3 programs, on the testbed's real components. Prints tables in Markdown on standard
//! output, which `docs/performance.md` explains, and what it is doing on standard error.

mod executor;
mod measure;
mod programs;
mod refdata;
mod service_stub;
mod side_by_side;
mod statistics;
mod whole_job;
mod workload;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use cts_tests::binaries;
use cts_tests::machine;
use cts_tests::testbed::Testbed;

use executor::Executor;
use programs::{Programs, empty_dir};
use refdata::Staging;
use side_by_side::SideBySide;
use workload::{MIB, Workload};

/// Measures the executor and its peers on the testbed.
#[derive(Debug, Parser)]
struct Arguments {
    /// MiB of the large file
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(64..=16384))]
    large_mib: u64,
    /// MiB of the archive of reference data
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(64..=16384))]
    archive_mib: u64,
    /// How many small files of 100 KiB
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    small_files: u32,
    /// Counted runs of each transfer
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    runs: u32,
    /// Measure only this; may be given more than once [default: everything]
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// The testbed's directory [default: .testbed at the root of the checkout]
    #[arg(long, env = "CTS_TESTBED_DIR")]
    dir: Option<PathBuf>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The executor as a whole process
    Executor,
    /// Programs side by side, one large file
    Large,
    /// Programs side by side, many small files
    Small,
    /// Staging an archive of reference data
    Refdata,
}

impl Arguments {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

/// Says on standard error what is going on.
fn progress(text: &str) {
    // A closed terminal must not end the measurement.
    let _closed = writeln!(std::io::stderr().lock(), "bench: {text}");
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let dir = arguments.dir.clone();
    let testbed = Testbed::up(&dir.unwrap_or_else(Testbed::default_dir)).await?;
    let programs = Programs::find(testbed.layout()).await?;
    let data = testbed.layout().data("bench");
    empty_dir(&data)?;
    let executor = Executor {
        program: binaries::static_executor()?,
        testbed: testbed.state(),
        dir: &data,
    };
    let side_by_side = SideBySide {
        s3: &testbed.state().s3,
        programs: &programs,
        dir: &data,
        runs: arguments.runs,
    };
    let large = Workload {
        name: "large",
        files: 1,
        file_bytes: arguments.large_mib * MIB,
    };
    let small = Workload {
        name: "small",
        files: arguments.small_files,
        file_bytes: 100 * 1024,
    };
    let engine = testbed.state().engine.client().await?.version().await?;
    let others = [
        ("container engine", engine.version.unwrap_or_default()),
        ("S3 server", testbed.state().s3.version()),
        ("beside", programs.versions().join(", ")),
    ];
    print(&machine::describe(&others).await)?;
    print("\nFigures are min / **median** / max.\n")?;
    if arguments.wants(Part::Executor) {
        print("## The executor, whole process\n")?;
        print(&whole_job::start_up(&executor).await?.to_string())?;
        print(&whole_job::small_job(&executor).await?.to_string())?;
        let large_file = whole_job::large_file(&executor, &large, arguments.runs);
        print(&large_file.await?.to_string())?;
    }
    for (part, workload) in [(Part::Large, &large), (Part::Small, &small)] {
        if arguments.wants(part) {
            print(&side_by_side.measure(workload).await?)?;
        }
    }
    if arguments.wants(Part::Refdata) {
        let staging = Staging {
            program: binaries::static_executor()?,
            s3: &testbed.state().s3,
            dir: &data,
            runs: arguments.runs,
            archive_mib: arguments.archive_mib,
        };
        print(&staging.measure().await?)?;
    }
    std::fs::remove_dir_all(&data)?;
    Ok(())
}

/// A part of the result, at once: a run takes minutes.
fn print(text: &str) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{text}")?;
    output.flush()
}
