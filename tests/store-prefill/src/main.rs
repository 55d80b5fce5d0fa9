//! `cts-store-prefill`: fills the database of a service that is not running with jobs that have completed.

use std::error::Error;
use std::path::PathBuf;

use clap::Parser;
use futures::{StreamExt, TryStreamExt};
use serde_json::json;

use cts_service::job_store::{JobStore, NewJob};
use cts_service::sqlite::SqliteStore;
use cts_shared::id::JobId;
use cts_shared::job_input::JobInput;
use cts_shared::state::JobState;
use cts_shared::state::job_flow::{
    ContainerReport, Evidence, JobRecord, Refusal, Reporter, Statistics,
};
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::image::JobImage;
use cts_shared::wire::job::S3File;

/// Jobs being stored at a time: what the store commits together.
const AT_ONCE: usize = 64;

const OUTPUT: &str = "prefill/out/result.tsv";
const CHECKSUM: &str = "AAAAAAAAAAA=";

/// Fills the service's database with completed jobs of one container.
#[derive(Debug, Parser)]
struct Arguments {
    /// The database file; made if absent
    database: PathBuf,
    /// How many jobs
    #[arg(long)]
    jobs: u32,
    /// Whose
    #[arg(long, default_value = "dev")]
    user: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let store = SqliteStore::open(&arguments.database)?;
    futures::stream::iter(0..arguments.jobs)
        .map(|number| store_job(&store, &arguments.user, number))
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await
}

/// One job, from its submission to its end.
async fn store_job(store: &SqliteStore, user: &str, number: u32) -> Result<(), Box<dyn Error>> {
    // A second apart: the list is sorted by time.
    let submitted = jiff::Timestamp::from_second(1_750_000_000 + i64::from(number))?;
    let time = UtcTime::new(submitted);
    let id = JobId::new(uuid::Uuid::new_v4());
    store
        .insert_job(NewJob {
            id,
            user: user.to_owned(),
            job_input: job_input()?,
            image: JobImage {
                registered_by: "admin".to_owned(),
                registered_on: time,
                name: "ghcr.io/kbase/tool".to_owned(),
                digest: format!("sha256:{}", "0".repeat(64)),
                entrypoint: vec!["tool".to_owned()],
                tag: Some("1.0.0".to_owned()),
                refdata_id: None,
                default_refdata_mount_point: None,
            },
            input_bytes: None,
            record: finished_containers(time)?,
        })
        .await?;
    let finish = move |record: &mut JobRecord| {
        let checksums = [(OUTPUT.to_owned(), CHECKSUM.to_owned())].into();
        let evidence = Evidence {
            statistics: Statistics::default(),
            statistics_due: false,
            checksums: &checksums,
            log_path: "",
            logs_stored: false,
        };
        record
            .finish(&evidence, time)
            .map_err(|refusal| cts_service::error::Error::Internal(refusal.to_string()))
    };
    store.change_job(id, Box::new(finish)).await?;
    Ok(())
}

fn job_input() -> Result<JobInput, String> {
    let body = json!({
        "cluster": "local",
        "image": "ghcr.io/kbase/tool:1.0.0",
        "params": { "args": ["--threads", "1", { "type": "input_files",
            "input_files_format": "space_separated_list" }] },
        "output_dir": "prefill/out",
        "input_files": [{ "file": "prefill/in/genome.fa", "crc64nvme": CHECKSUM }],
    });
    JobInput::from_json(&body).map_err(|faults| format!("the job input is refused: {faults:?}"))
}

/// A job whose container has gone all the way to `complete`.
fn finished_containers(time: UtcTime) -> Result<JobRecord, Refusal> {
    let mut record = JobRecord::new(1, time);
    let _queued = record.queued(time)?;
    for state in [
        JobState::JobSubmitting,
        JobState::JobSubmitted,
        JobState::UploadSubmitting,
        JobState::UploadSubmitted,
        JobState::Complete,
    ] {
        let report = ContainerReport {
            state,
            time,
            exit_code: Some(0),
            outputs: Some(vec![S3File {
                file: OUTPUT.to_owned(),
                crc64nvme: Some(CHECKSUM.to_owned()),
            }]),
            admin_error: None,
            traceback: None,
            usage: None,
            from: Reporter::Unnumbered,
        };
        let _lifted = record.apply_report(0, &report)?;
    }
    Ok(record)
}
