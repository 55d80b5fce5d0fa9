//! `make bench-service`: loads the service's release build on the testbed's real S3 server and prints tables
//! in Markdown on standard output, which `docs/performance.md` explains, and what it is doing on standard
//! error.

mod raw;
mod report;
mod stage;
mod workload;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use cts_tests::load::{Call, repeated};
use cts_tests::machine;
use cts_tests::service_process::{As, Store};
use cts_tests::testbed::Testbed;

use raw::Raw;
use report::{Goal, Memory, Requests};
use stage::{Measured, Sender, Stage};
use workload::{CONTAINERS, Job};

/// Connections of the two rows of each measurement.
const CONNECTIONS: [usize; 2] = [1, 32];

/// Loads the service's release build on the testbed's S3 server.
#[derive(Debug, Parser)]
struct Arguments {
    /// Seconds of each measurement of reads
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Jobs in the store when memory and lists are measured
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1000..=1_000_000))]
    stored_jobs: u32,
    /// Where the service keeps jobs
    #[arg(long, value_enum, default_value_t)]
    store: Kind,
    /// Measure only this; may be given more than once [default: everything]
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// The testbed's directory [default: .testbed at the root of the checkout]
    #[arg(long, env = "CTS_TESTBED_DIR")]
    dir: Option<PathBuf>,
}

/// A kind of store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A file
    #[default]
    Sqlite,
    /// The testbed's MongoDB-protocol server, or the one that `CTS_TEST_MONGO_URL` names: fewer jobs, no
    /// part "stored", and the server's own rates
    Mongodb,
}

impl Kind {
    fn store(self) -> Store {
        match self {
            Self::Sqlite => Store::File,
            Self::Mongodb => Store::fresh_database(),
        }
    }

    /// Of a number of jobs, as many as do not take minutes.
    fn jobs(self, number: usize) -> usize {
        match self {
            Self::Sqlite => number,
            Self::Mongodb => number.div_ceil(10),
        }
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Root and job status
    Reads,
    /// Container updates, and submissions with one input
    Updates,
    /// Submissions with 100 and 10,000 inputs
    Submissions,
    /// Memory and lists with many jobs stored
    Stored,
}

impl Arguments {
    fn wants(&self, part: Part) -> bool {
        // Jobs are put into files only.
        if self.store == Kind::Mongodb && part == Part::Stored {
            return false;
        }
        self.only.is_empty() || self.only.contains(&part)
    }

    fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// Says on standard error what is going on.
fn progress(text: &str) {
    // A closed terminal must not end the measurement.
    let _closed = writeln!(std::io::stderr().lock(), "bench-service: {text}");
}

// One thread: what the load generator takes from the two processors is bounded, and no more than it needs.
#[tokio::main(flavor = "current_thread")]
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
    let others = [("S3 server", testbed.state().s3.version())];
    let machine = machine::describe(&others).await;
    let data = testbed.layout().data("bench-service");
    let mut stage = Stage::set(&testbed, &data, arguments.store.store()).await?;
    let mut requests = Requests::new();
    let mut memory = Memory::new();
    let measured = measure(arguments, &mut stage, &mut requests, &mut memory).await;
    // Also when something failed: what was measured before that took minutes.
    writeln!(std::io::stdout().lock(), "{machine}\n{requests}\n{memory}")?;
    let database = stage.database();
    stage.strike().await?;
    if let Some((url, database)) = database {
        Raw::drop_database(&url, &database).await?;
    }
    measured
}

async fn measure(
    arguments: &Arguments,
    stage: &mut Stage,
    requests: &mut Requests,
    memory: &mut Memory,
) -> Result<(), Box<dyn Error>> {
    memory.add("after start", stage.resident_bytes()?, Some(40.0), "188");
    stage.register_image().await?;
    if let Some((url, database)) = stage.database() {
        the_server_alone(arguments, &url, &database, requests).await?;
    }
    if arguments.wants(Part::Reads) {
        reads(arguments, stage, requests).await?;
    }
    if arguments.wants(Part::Updates) {
        updates(arguments.store, stage, requests).await?;
        memory.add("after all updates", stage.resident_bytes()?, None, "");
    }
    if arguments.wants(Part::Submissions) {
        submissions(arguments.store, stage, requests).await?;
        let bytes = stage.resident_bytes()?;
        memory.add("after all submissions", bytes, None, "243");
    }
    if arguments.wants(Part::Stored) {
        progress(&format!("storing {} jobs", arguments.stored_jobs));
        stage.restart_with(arguments.stored_jobs).await?;
        let what = format!("after start, {} jobs stored", arguments.stored_jobs);
        memory.add(&what, stage.resident_bytes()?, None, "");
        lists(arguments, stage, requests).await?;
        memory.add("after the lists", stage.resident_bytes()?, None, "");
    }
    Ok(())
}

async fn the_server_alone(
    arguments: &Arguments,
    url: &str,
    database: &str,
    requests: &mut Requests,
) -> Result<(), Box<dyn Error>> {
    let raw = Raw::new(url, database).await?;
    for connections in CONNECTIONS {
        progress(&format!("the server alone, {connections} connections"));
        for (call, what) in raw::Call::ALL {
            let measured = raw.load(call, connections, arguments.duration()).await?;
            requests.add(what, connections, &measured, None, "");
        }
    }
    Ok(())
}

async fn reads(
    arguments: &Arguments,
    stage: &Stage,
    requests: &mut Requests,
) -> Result<(), Box<dyn Error>> {
    let job = workload::submit(stage, 1, &Job::inputs(1), 1).await?.1;
    let id = job.first().ok_or("no job was submitted")?;
    let status = Call::get(format!("/jobs/{id}/status"));
    for connections in CONNECTIONS {
        progress(&format!("reads, {connections} connections"));
        let root = repeated(Call::get("/"), arguments.duration());
        let measured = stage.load(Sender::Anyone, connections, root, drop).await?;
        requests.add("`GET /`", connections, &measured, None, "3,758/s");
        let calls = repeated(status.clone(), arguments.duration());
        let measured = stage
            .load(Sender::User(As::User), connections, calls, drop)
            .await?;
        let goal = (connections > 1).then_some(Goal::PerSecond(10_000.0));
        requests.add("job status", connections, &measured, goal, "915/s");
    }
    Ok(())
}

async fn updates(kind: Kind, stage: &Stage, requests: &mut Requests) -> Result<(), Box<dyn Error>> {
    for (connections, jobs) in [(1, 300), (32, 2000)] {
        let jobs = kind.jobs(jobs);
        progress(&format!("{jobs} jobs, {connections} connections"));
        let (measured, ids) = workload::submit(stage, connections, &Job::inputs(1), jobs).await?;
        requests.add("submit, 1 input", connections, &measured, None, "12 ms");
        let measured = workload::work_off(stage, connections, &ids, 1).await?;
        let goal = (connections > 1).then_some(Goal::PerSecond(2_000.0));
        let existing = if connections > 1 {
            "about 100/s"
        } else {
            "87/s"
        };
        let what = "container update, jobs of 1 container";
        requests.add(what, connections, &measured, goal, existing);
        workload::wait_for_ends(stage, &ids).await?;
    }
    for (connections, jobs) in [(1, 1), (32, 4)] {
        let jobs = kind.jobs(jobs);
        progress(&format!(
            "jobs of {CONTAINERS} containers, {connections} connections"
        ));
        let job = Job {
            containers: CONTAINERS,
            inputs: CONTAINERS,
        };
        let mut measured = Measured::default();
        // One after the other: it is one job's containers that get into each other's way.
        for _ in 0..jobs {
            let (_, ids) = workload::submit(stage, 1, &job, 1).await?;
            measured.add(&workload::work_off(stage, connections, &ids, CONTAINERS).await?);
            workload::wait_for_ends(stage, &ids).await?;
        }
        let what = format!("container update, the {CONTAINERS} containers of a job");
        let goal = (connections > 1).then_some(Goal::PerSecond(2_000.0));
        requests.add(&what, connections, &measured, goal, "28/s");
    }
    Ok(())
}

async fn submissions(
    kind: Kind,
    stage: &Stage,
    requests: &mut Requests,
) -> Result<(), Box<dyn Error>> {
    for (inputs, connections, jobs) in [
        (100, 1, 50),
        (100, 32, 320),
        (10_000, 1, 3),
        (10_000, 32, 32),
    ] {
        let jobs = kind.jobs(jobs);
        progress(&format!("{inputs} inputs, {connections} connections"));
        let job = Job::inputs(inputs);
        let (measured, _) = workload::submit(stage, connections, &job, jobs).await?;
        let one_large = inputs == 10_000 && connections == 1;
        let goal = one_large.then_some(Goal::Within(Duration::from_secs(2)));
        let existing = if inputs == 100 { "89 ms" } else { "10.2 s" };
        let what = format!("submit, {inputs} inputs");
        requests.add(&what, connections, &measured, goal, existing);
    }
    Ok(())
}

async fn lists(
    arguments: &Arguments,
    stage: &Stage,
    requests: &mut Requests,
) -> Result<(), Box<dyn Error>> {
    for connections in CONNECTIONS {
        progress(&format!("lists, {connections} connections"));
        let calls = repeated(Call::get("/jobs?limit=1000"), arguments.duration());
        let measured = stage
            .load(Sender::User(As::User), connections, calls, drop)
            .await?;
        let what = format!("list 1,000 of {} jobs", arguments.stored_jobs);
        requests.add(&what, connections, &measured, None, "");
    }
    Ok(())
}
