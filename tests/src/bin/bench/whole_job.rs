//! What the executor costs: its start, a job that does nothing, and a large file each way.

use std::error::Error;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptions, RemoveContainerOptionsBuilder, StartContainerOptions,
    WaitContainerOptions,
};
use cts_tests::markdown::Table;
use cts_tests::testbed::image::Image;
use futures::TryStreamExt as _;

use crate::executor::{Executor, Job, Run};
use crate::measure::measure;
use crate::progress;
use crate::statistics::Spread;
use crate::workload::{MIB, Workload};

/// Starts of the program that are counted.
const STARTS: u32 = 50;
/// Jobs that do nothing.
const SMALL_JOBS: u32 = 10;
/// Warm-up runs, not counted.
const WARM_UP: u32 = 2;
const BUCKET: &str = "cts-bench-jobs";

/// Measures the start of the program.
///
/// # Errors
/// When the executor fails.
pub(crate) async fn start_up(executor: &Executor<'_>) -> Result<Table, Box<dyn Error>> {
    progress(&format!("starting the executor {STARTS} times"));
    let ended = Job {
        state: "complete",
        args: Vec::new(),
        // Never fetched.
        inputs: vec![(format!("{BUCKET}/in/none"), "AAAAAAAAAAA=".to_owned())],
        prefix: BUCKET.to_owned(),
    };
    let (mut version, mut first_request, mut end, mut peak) = (vec![], vec![], vec![], vec![]);
    for round in 0..STARTS + WARM_UP {
        let program = executor.program.clone();
        let usage = tokio::task::spawn_blocking(move || {
            measure(Command::new(program).arg("--version").stdout(Stdio::null()))
        });
        let usage = usage.await??;
        let run = executor.run(&ended, &[]).await?;
        if round < WARM_UP {
            continue;
        }
        version.push(usage.wall);
        first_request.push(run.to_first_request().ok_or("no request came")?);
        end.push(run.usage.wall);
        peak.push(run.usage.peak_bytes);
    }
    let mut table = Table::new(&["start", "figure"]);
    let ms = |times: Vec<Duration>| format!("{} ms", Spread::millis(times));
    table.row(&[
        "`cts-executor --version`, exec to exit".to_owned(),
        ms(version),
    ]);
    table.row(&[
        "exec to first request at the service".to_owned(),
        ms(first_request),
    ]);
    table.row(&[
        "exec to exit of a job that has ended already".to_owned(),
        ms(end),
    ]);
    table.row(&[
        "peak memory of it".to_owned(),
        format!("{} MiB", Spread::mib(peak)),
    ]);
    Ok(table)
}

/// Measures a job that does next to nothing, and the container engine without the executor.
///
/// # Errors
/// When the executor or the engine fails.
pub(crate) async fn small_job(executor: &Executor<'_>) -> Result<Table, Box<dyn Error>> {
    progress(&format!("running {SMALL_JOBS} small jobs"));
    let store = executor.testbed.s3.client()?;
    store.create_bucket(BUCKET).await?;
    let input = format!("{BUCKET}/in/reads.fq");
    let checksum = store.put(&input, b"@r\nACGT\n+\n!!!!\n").await?;
    let job = Job {
        state: "download_submitted",
        args: vec!["copy_inputs".to_owned()],
        inputs: vec![(input, checksum)],
        prefix: BUCKET.to_owned(),
    };
    let docker = executor.testbed.engine.client().await?;
    let image = &executor.testbed.images.test_tool;
    let (mut engine_alone, mut runs) = (vec![], vec![]);
    for round in 0..SMALL_JOBS + WARM_UP {
        let run = executor.run(&job, &[]).await?;
        let alone = run_container(&docker, image).await?;
        if round >= WARM_UP {
            runs.push(run);
            engine_alone.push(alone);
        }
    }
    let mut table = Table::new(&["small job", "figure"]);
    let ms = |times: Vec<Duration>| format!("{} ms", Spread::millis(times));
    let between = |from, to| {
        ms(runs
            .iter()
            .filter_map(|run| run.between(from, to))
            .collect())
    };
    let wall: Vec<_> = runs.iter().map(|run| run.usage.wall).collect();
    let over: Vec<_> = wall
        .iter()
        .zip(&engine_alone)
        .map(|(job, engine)| job.saturating_sub(*engine))
        .collect();
    let cpu = runs.iter().map(|run| run.usage.cpu).collect();
    table.row(&["exec to exit".to_owned(), ms(wall)]);
    table.row(&[
        "of it until the container may start (input, image)".to_owned(),
        between("", "job_submitting"),
    ]);
    table.row(&[
        "of it container created and started".to_owned(),
        between("job_submitting", "job_submitted"),
    ]);
    table.row(&[
        "of it until the container had ended".to_owned(),
        between("job_submitted", "upload_submitting"),
    ]);
    table.row(&[
        "of it outputs and logs stored".to_owned(),
        between("upload_submitted", "complete"),
    ]);
    table.row(&[
        "the engine alone: same container created, started, waited for, removed".to_owned(),
        ms(engine_alone),
    ]);
    table.row(&["executor beyond the engine".to_owned(), ms(over)]);
    table.row(&["CPU of the executor".to_owned(), ms(cpu)]);
    let peak = Spread::mib(runs.iter().map(|run| run.usage.peak_bytes));
    table.row(&[
        "peak memory of the executor".to_owned(),
        format!("{peak} MiB"),
    ]);
    Ok(table)
}

/// The same container as the job's, without the executor.
async fn run_container(docker: &Docker, image: &Image) -> Result<Duration, bollard::errors::Error> {
    let begun = Instant::now();
    let body = ContainerCreateBody {
        image: Some(image.pinned()),
        cmd: Some(vec!["copy_inputs".to_owned()]),
        ..ContainerCreateBody::default()
    };
    let created = docker
        .create_container(None::<CreateContainerOptions>, body)
        .await?;
    docker
        .start_container(&created.id, None::<StartContainerOptions>)
        .await?;
    let waited = docker.wait_container(&created.id, None::<WaitContainerOptions>);
    // Its exit status does not matter: it has no input to copy.
    let _failed = waited.try_for_each(|_| async { Ok(()) }).await;
    let options = RemoveContainerOptionsBuilder::new().force(true).build();
    docker.remove_container(&created.id, Some(options)).await?;
    Ok(begun.elapsed())
}

/// Measures whole jobs with one large input, and with one large output.
///
/// # Errors
/// When the executor fails.
pub(crate) async fn large_file(
    executor: &Executor<'_>,
    workload: &Workload,
    runs: u32,
) -> Result<Table, Box<dyn Error>> {
    let store = executor.testbed.s3.client()?;
    store.create_bucket(BUCKET).await?;
    let mib = workload.file_bytes / MIB;
    progress(&format!("running {} jobs of {mib} MiB", runs * 3));
    let job = |args: String, inputs: Vec<(String, String)>| Job {
        state: "download_submitted",
        args: args.split(' ').map(str::to_owned).collect(),
        inputs,
        prefix: BUCKET.to_owned(),
    };
    // The first job's output is the input of the others.
    let unsigned = [("CTS_S3_SIGN_PAYLOAD", "false")];
    let signed = [("CTS_S3_SIGN_PAYLOAD", "true")];
    let small = format!("{BUCKET}/in/reads.fq");
    let checksum = store.put(&small, b"@r\nACGT\n+\n!!!!\n").await?;
    let writer = job(format!("big large.bin {mib}"), vec![(small, checksum)]);
    let (mut up_signed, mut up_unsigned, mut down) = (vec![], vec![], vec![]);
    for _ in 0..runs {
        up_signed.push(executor.run(&writer, &signed).await?);
        up_unsigned.push(executor.run(&writer, &unsigned).await?);
        let object = format!("{BUCKET}/out/large.bin");
        let checksum = store.stored_checksum(&object).await?;
        let checksum = checksum.ok_or("the store has no checksum of the output")?;
        let reader = job("say done".to_owned(), vec![(object, checksum)]);
        down.push(executor.run(&reader, &[]).await?);
    }
    let columns = [
        "job",
        "transfer wall s",
        "CPU s, whole process",
        "CPU s per GiB",
        "peak MiB",
    ];
    let mut table = Table::new(&columns);
    let title = workload.title();
    let mut row = |name: String, runs: &[Run], from: &str, to: &str| {
        let cpu = Spread::secs(runs.iter().map(|run| run.usage.cpu));
        table.row(&[
            name,
            Spread::secs(runs.iter().filter_map(|run| run.between(from, to))).to_string(),
            cpu.to_string(),
            cpu.per(workload.gib()).to_string(),
            Spread::mib(runs.iter().map(|run| run.usage.peak_bytes)).to_string(),
        ]);
    };
    row(format!("input of {title}"), &down, "", "job_submitting");
    row(
        format!("output of {title}, payload signed (default over http)"),
        &up_signed,
        "upload_submitted",
        "complete",
    );
    row(
        format!("output of {title}, payload not signed (default over https)"),
        &up_unsigned,
        "upload_submitted",
        "complete",
    );
    store.remove_bucket(BUCKET).await?;
    Ok(table)
}
