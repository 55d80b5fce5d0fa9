//! Jobs that are submitted and worked off. Every update is a step that its container has not taken yet.

use std::error::Error;
use std::time::{Duration, Instant};

use cts_tests::load::{Call, Connection};
use cts_tests::service_process::As;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::stage::{Measured, Sender, Stage};

/// Containers of the large job.
pub(crate) const CONTAINERS: u32 = 300;

const STATES: [&str; 5] = [
    "job_submitting",
    "job_submitted",
    "upload_submitting",
    "upload_submitted",
    "complete",
];

const END_DEADLINE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(20);

/// The size of a job.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    pub(crate) containers: u32,
    pub(crate) inputs: u32,
}

impl Job {
    /// One container.
    pub(crate) const fn inputs(inputs: u32) -> Self {
        Self {
            containers: 1,
            inputs,
        }
    }
}

/// Submits `count` jobs; their ids.
///
/// # Errors
/// When one is refused.
pub(crate) async fn submit(
    stage: &Stage,
    connections: usize,
    job: &Job,
    count: usize,
) -> Result<(Measured, Vec<String>), Box<dyn Error>> {
    #[derive(Deserialize)]
    struct Submitted {
        job_id: String,
    }
    let call = Call::post("/jobs", &stage.submission(job.containers, job.inputs));
    let calls = std::iter::repeat_n(call, count);
    let mut answers = Vec::with_capacity(count);
    let owner = Sender::User(As::User);
    let measured = stage.load(owner, connections, calls, |body| answers.push(body));
    let measured = measured.await?;
    let ids = answers
        .iter()
        .map(|body| serde_json::from_slice(body).map(|submitted: Submitted| submitted.job_id));
    Ok((measured, ids.collect::<Result<_, _>>()?))
}

/// Reports every state of every container: all containers' first, then all containers' second, and so
/// on. The time between the rounds does not count.
///
/// # Errors
/// When an update is refused.
pub(crate) async fn work_off(
    stage: &Stage,
    connections: usize,
    jobs: &[String],
    containers: u32,
) -> Result<Measured, Box<dyn Error>> {
    let mut measured = Measured::default();
    let executor = Sender::User(As::Executor);
    let outputs = stage.outputs();
    for state in STATES {
        let body = report(state, &outputs);
        let calls: Vec<Call> = jobs
            .iter()
            .flat_map(|job| (0..containers).map(move |number| (job, number)))
            .map(|(job, number)| {
                let path = format!("/external_exec/jobs/{job}/container/{number}/update/{state}");
                Call::put(path, &body)
            })
            .collect();
        measured.add(&stage.load(executor, connections, calls, drop).await?);
    }
    Ok(measured)
}

fn report(state: &str, outputs: &Value) -> Value {
    // The service records the worker's clock and does not go by it.
    let mut report = json!({ "time": "2031-02-03T04:05:06.070809+00:00" });
    match state {
        "upload_submitting" => report["exit_code"] = json!(0),
        "complete" => report["outputs"] = outputs.clone(),
        _ => {}
    }
    report
}

/// Waits until the jobs have ended, so that what the service does in the background is no load on what
/// is measured next.
///
/// # Errors
/// When one does not end, or not in `complete`.
pub(crate) async fn wait_for_ends(stage: &Stage, jobs: &[String]) -> Result<(), Box<dyn Error>> {
    #[derive(Deserialize)]
    struct Status {
        state: String,
    }
    let mut connection = Connection::open(&stage.target(Sender::User(As::User))).await?;
    let begun = Instant::now();
    for job in jobs {
        loop {
            let answer = connection.call(Call::get(format!("/jobs/{job}/status")));
            let status: Status = serde_json::from_slice(&answer.await?)?;
            match status.state.as_str() {
                "complete" => break,
                ended @ ("error" | "canceled") => {
                    return Err(format!("job {job} ended in {ended}").into());
                }
                state if begun.elapsed() > END_DEADLINE => {
                    return Err(format!("job {job} is still {state}").into());
                }
                _ => tokio::time::sleep(POLL).await,
            }
        }
    }
    Ok(())
}
