//! One job, from its inputs to its checked output.

use std::time::{Duration, Instant};

use cts_tests::object_store::{ObjectStore, crc64nvme};
use cts_tests::service_process::{As, ServiceProcess};
use cts_tests::testbed::Testbed;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::screen::Screen;
use crate::{Failure, data};

/// For a job of a few seconds.
const JOB_DEADLINE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(100);
const RESULT: &str = "stats.tsv";

/// Uploads the inputs, runs the job, checks its output to the byte.
pub(crate) async fn run(
    screen: &mut Screen,
    testbed: &Testbed,
    service: &ServiceProcess,
) -> Result<(), Failure> {
    let store = testbed.state().s3.client()?;
    let prefix = format!("{}/demo/{}", testbed.state().s3.bucket, Uuid::new_v4());

    screen.step("Upload the lambda phage's genome and reads to S3, with checksums");
    let (inputs, expected) = upload(screen, testbed, &store, &prefix).await?;
    screen.done();

    screen.step("Register SeqKit's image with the service, by the digest the registry gives");
    let image = &testbed.state().images.seqkit;
    let path = format!("/admin/images/{}", image.tagged());
    let registered = service.call(As::Admin, Method::POST, &path, None).await?;
    screen.line(&format!(
        "{}@{}",
        text(&registered, "name"),
        text(&registered, "digest")
    ));
    screen.done();

    screen.step("Submit a job: seqkit stats over the inputs, one container");
    let body = json!({
        "cluster": "local",
        "image": image.tagged(),
        "params": {
            "input_mount_point": "/input_files",
            "output_mount_point": "/output_files",
            "args": [
                "stats", "--tabular", "--threads", "1",
                "--out-file", format!("/output_files/{RESULT}"),
                { "type": "input_files", "input_files_format": "space_separated_list" },
            ],
        },
        "num_containers": 1,
        "cpus": 1,
        "memory": "500MB",
        "runtime": "PT2M",
        "input_files": inputs,
        "output_dir": format!("{prefix}/out"),
    });
    let submitted = service
        .call(As::User, Method::POST, "/jobs", Some(&body))
        .await?;
    let id = text(&submitted, "job_id");
    screen.line(&format!("job {id}"));
    screen.done();

    screen.step("Watch it: stage and check the inputs, pull the image, run, collect");
    let state = follow(screen, service, id).await?;
    let job = service
        .call(As::User, Method::GET, &format!("/jobs/{id}"), None)
        .await?;
    if state != "complete" {
        let path = format!("/admin/jobs/{id}");
        let details = service.call(As::Admin, Method::GET, &path, None).await?;
        let reason = text(&details, "admin_error");
        let log = service.log().display().to_string();
        return Err(format!("job {id} ended in {state}: {reason}; see also {log}").into());
    }
    screen.done();

    screen.step("Download the outputs and check them");
    let result = check_outputs(screen, &store, &job).await?;
    if result != expected.as_bytes() {
        let result = String::from_utf8_lossy(&result);
        return Err(format!("the result is\n{result}but should be\n{expected}").into());
    }
    screen.right("the table is right to the byte");
    screen.done();
    show_table(screen, &expected);
    Ok(())
}

async fn upload(
    screen: &Screen,
    testbed: &Testbed,
    store: &ObjectStore,
    prefix: &str,
) -> Result<(Vec<Value>, String), Failure> {
    let (files, expected) = data::files(screen, testbed.layout()).await?;
    let mut inputs = Vec::new();
    for file in files {
        let content = std::fs::read(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let path = format!("{prefix}/in/{name}");
        let checksum = store.put(&path, &content).await?;
        screen.line(&format!(
            "{name:<16} {:>9} bytes  CRC64NVME {checksum}",
            content.len()
        ));
        inputs.push(json!({ "file": path, "crc64nvme": checksum }));
    }
    Ok((inputs, expected))
}

/// Prints each state as it comes; the final one is returned.
async fn follow(screen: &Screen, service: &ServiceProcess, id: &str) -> Result<String, Failure> {
    let begun = Instant::now();
    let path = format!("/jobs/{id}/status");
    let mut shown = 0;
    loop {
        let status = service.call(As::User, Method::GET, &path, None).await?;
        let transitions = status["transition_times"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        for transition in transitions.iter().skip(shown) {
            screen.line(&format!(
                "{}  {}",
                text(transition, "time"),
                text(transition, "state")
            ));
        }
        shown = transitions.len();
        let state = text(&status, "state");
        if ["complete", "error", "canceled"].contains(&state) {
            return Ok(state.to_owned());
        }
        if begun.elapsed() > JOB_DEADLINE {
            let log = service.log().display();
            let seconds = JOB_DEADLINE.as_secs();
            return Err(format!("the job is in {state} after {seconds} s; see {log}").into());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Compares each output with the checksum the job reports; returns the table.
async fn check_outputs(
    screen: &Screen,
    store: &ObjectStore,
    job: &Value,
) -> Result<Vec<u8>, Failure> {
    let mut result = None;
    for output in job["outputs"].as_array().into_iter().flatten() {
        let (path, reported) = (text(output, "file"), text(output, "crc64nvme"));
        let content = store
            .get(path)
            .await?
            .ok_or_else(|| format!("{path} is not in S3"))?;
        let computed = crc64nvme(&content);
        if computed != reported {
            let problem = format!("{path} has the checksum {computed}, reported was {reported}");
            return Err(problem.into());
        }
        screen.right(&format!(
            "{path}  {} bytes  CRC64NVME {computed}",
            content.len()
        ));
        if path.ends_with(RESULT) {
            result = Some(content.to_vec());
        }
    }
    result.ok_or_else(|| format!("the job has no output {RESULT}").into())
}

fn show_table(screen: &Screen, table: &str) {
    screen.line("");
    for line in table.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        let [file, columns @ ..] = columns.as_slice() else {
            continue;
        };
        let columns: String = columns
            .iter()
            .map(|column| format!("{column:>9}"))
            .collect();
        screen.line(&format!("{file:<30}{columns}"));
    }
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_default()
}
