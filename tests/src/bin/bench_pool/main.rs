//! `make bench-pool`: how long a job that does nothing takes on the testbed's HTCondor pool, step by step, and
//! how long one of many containers. Prints tables in Markdown on standard output, which
//! `docs/performance.md` explains.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use cts_shared::timestamp::UtcTime;
use cts_tests::machine;
use cts_tests::markdown::Table;
use cts_tests::service_process::{As, Launch, ServiceProcess};
use cts_tests::testbed::{State, Testbed};
use reqwest::Method;
use serde_json::{Value, json};

/// A job may take this long; more is a fault and no measurement.
const DEADLINE: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(100);

/// The steps of a job, by the states that begin and end them.
const STEPS: [(&str, &str, &str); 5] = [
    ("submit", "created", "download_submitted"),
    (
        "queue, start, stage",
        "download_submitted",
        "job_submitting",
    ),
    ("start the container", "job_submitting", "job_submitted"),
    ("run", "job_submitted", "upload_submitting"),
    ("store, finish", "upload_submitting", "complete"),
];

/// Measures jobs on the testbed's HTCondor pool.
#[derive(Debug, Parser)]
struct Arguments {
    /// Jobs one after another
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    jobs: u32,
    /// Containers of the large job
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    containers: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed terminal must not hide the exit status.
            let _closed = writeln!(std::io::stderr(), "bench-pool: error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let testbed = Testbed::up(&Testbed::default_dir()).await?;
    let state = testbed.state();
    let machine = machine::describe(&[("S3 server", state.s3.version())]).await;
    let dir = tempfile::tempdir()?;
    let launch = Launch::on_pool()?;
    let log = dir.path().join("service.log");
    let service = ServiceProcess::launch(&launch, state, &dir.path().join("data"), &log).await?;
    let bench = Bench::new(state, &service).await?;

    let mut jobs = Vec::new();
    for _ in 0..arguments.jobs {
        jobs.push(bench.job(1).await?);
    }
    let mut steps = Table::new(&["step", "median s", "from", "to"]);
    for (name, from, to) in STEPS {
        let mut seconds = Vec::new();
        for job in &jobs {
            seconds.push(entered(job, to)? - entered(job, from)?);
        }
        steps.row(&row(name, seconds));
    }
    let mut seconds = Vec::new();
    for job in &jobs {
        seconds.push(entered(job, "complete")? - entered(job, "created")?);
    }
    steps.row(&row("all", seconds));

    let begun = Instant::now();
    bench.job(arguments.containers).await?;
    let mut large = Table::new(&["containers of one job", "s in all"]);
    let all = format!("{:.1}", begun.elapsed().as_secs_f64());
    large.row(&[arguments.containers.to_string(), all]);

    writeln!(std::io::stdout(), "{machine}\n{steps}\n{large}")?;
    service.stop().await?;
    Ok(())
}

fn row(name: &str, mut seconds: Vec<f64>) -> [String; 4] {
    seconds.sort_by(f64::total_cmp);
    let shown = |value: Option<&f64>| value.map_or_else(String::new, |value| format!("{value:.2}"));
    [
        name.to_owned(),
        shown(seconds.get(seconds.len() / 2)),
        shown(seconds.first()),
        shown(seconds.last()),
    ]
}

/// When a job entered a state, in seconds since the epoch.
fn entered(job: &Value, state: &str) -> Result<f64, Box<dyn Error>> {
    let transitions = job["transition_times"].as_array();
    let found = transitions
        .into_iter()
        .flatten()
        .find(|entry| entry["state"] == state)
        .ok_or_else(|| format!("the job did not enter {state}: {job}"))?;
    let time: UtcTime = serde_json::from_value(found["time"].clone())?;
    Ok(time.timestamp().as_duration().as_secs_f64())
}

struct Bench<'a> {
    testbed: &'a State,
    service: &'a ServiceProcess,
    prefix: String,
}

impl<'a> Bench<'a> {
    async fn new(testbed: &'a State, service: &'a ServiceProcess) -> Result<Self, Box<dyn Error>> {
        let image = format!("/admin/images/{}", testbed.images.test_tool.tagged());
        service.call(As::Admin, Method::POST, &image, None).await?;
        let prefix = format!("{}/bench-pool/{}", testbed.s3.bucket, uuid::Uuid::new_v4());
        Ok(Self {
            testbed,
            service,
            prefix,
        })
    }

    /// A job of containers that get one small file each and write one, from its submission to its end.
    async fn job(&self, containers: u32) -> Result<Value, Box<dyn Error>> {
        let store = self.testbed.s3.client()?;
        let files: Vec<String> = (0..containers)
            .map(|number| format!("{}/in/{number}.txt", self.prefix))
            .collect();
        for file in &files {
            store.put(file, b"a").await?;
        }
        let body = json!({
            "cluster": "kbase",
            "image": self.testbed.images.test_tool.tagged(),
            "params": {
                "input_mount_point": "/input_files",
                "output_mount_point": "/output_files",
                "declobber": true,
                "args": ["write", "out", "done"],
            },
            "num_containers": containers,
            "cpus": 1,
            "memory": "50MB",
            "runtime": "PT1M",
            "output_dir": format!("{}/out/{}", self.prefix, uuid::Uuid::new_v4()),
            "input_files": files,
        });
        let submitted = self
            .service
            .call(As::User, Method::POST, "/jobs", Some(&body))
            .await?;
        let id = submitted["job_id"].as_str().unwrap_or_default().to_owned();
        let path = format!("/jobs/{id}/status");
        let begun = Instant::now();
        loop {
            let job = self
                .service
                .call(As::User, Method::GET, &path, None)
                .await?;
            match job["state"].as_str() {
                Some("complete") => return Ok(job),
                Some("error" | "canceled") => return Err(format!("the job failed: {job}").into()),
                _ if begun.elapsed() > DEADLINE => {
                    return Err(format!("not in time: {job}").into());
                }
                _ => tokio::time::sleep(POLL).await,
            }
        }
    }
}
