//! Jobs and reports to store.

use jiff::Timestamp;

use cts_service::error::Error;
use cts_service::job_store::{JobStep, JobStore, NewJob};
use cts_shared::error_code::ErrorCode;
use cts_shared::id::JobId;
use cts_shared::job_input::{InputFile, InputFiles, JobInput, Parameters, Runtime};
use cts_shared::site::Site;
use cts_shared::state::JobState;
use cts_shared::state::job_flow::{ContainerReport, JobRecord, Reporter};
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::image::JobImage;

/// A time, in seconds since the epoch.
pub(crate) fn at(second: i64) -> UtcTime {
    UtcTime::new(Timestamp::from_second(second).unwrap())
}

/// A job with that many containers and input files.
pub(crate) fn new_job(containers: u32) -> NewJob {
    let files = (0..containers.max(1))
        .map(|number| InputFile {
            file: format!("buk/in/{number}"),
            crc64nvme: Some("AAAAAAAAAAA=".to_owned()),
            data_id: None,
        })
        .collect();
    NewJob {
        id: JobId::new(uuid::Uuid::new_v4()),
        user: "alice".to_owned(),
        job_input: JobInput {
            cluster: Site::Local,
            image: "docker.io/library/x:1".to_owned(),
            params: Parameters {
                input_mount_point: "/in".to_owned(),
                output_mount_point: "/out".to_owned(),
                declobber: false,
                refdata_mount_point: None,
                args: None,
                environment: None,
            },
            num_containers: containers,
            cpus: 1,
            memory_bytes: 10_000_000,
            runtime: Runtime::default(),
            input_roots: None,
            output_dir: "buk/out/".to_owned(),
            input_files: InputFiles::Files(files),
        },
        image: JobImage {
            registered_by: "admin".to_owned(),
            registered_on: at(1),
            name: "docker.io/library/x".to_owned(),
            digest: format!("sha256:{}", "a".repeat(64)),
            entrypoint: vec!["e".to_owned()],
            tag: Some("1".to_owned()),
            refdata_id: None,
            default_refdata_mount_point: None,
        },
        input_bytes: Some(u64::from(containers)),
        record: JobRecord::new(containers, at(10)),
    }
}

/// A report with everything that any state needs.
pub(crate) fn report(state: JobState, time: UtcTime) -> ContainerReport {
    ContainerReport {
        state,
        time,
        exit_code: Some(0),
        outputs: None,
        admin_error: Some("broken".to_owned()),
        traceback: None,
        usage: None,
        from: Reporter::Unnumbered,
    }
}

/// The step that applies a [`report`].
pub(crate) fn reported(container: u32, state: JobState, time: UtcTime) -> JobStep {
    Box::new(move |record| {
        record
            .apply_report(container, &report(state, time))
            .map_err(|refusal| Error::refused(ErrorCode::NoSuchSubjob, refusal.to_string()))
    })
}

/// Stores a [`new_job`].
pub(crate) async fn insert(store: &impl JobStore, containers: u32) -> NewJob {
    let job = new_job(containers);
    store
        .insert_job(job.clone())
        .await
        .expect("a job is stored");
    job
}

/// The step that has a job fail.
pub(crate) fn failed(time: UtcTime) -> JobStep {
    Box::new(move |record| {
        record
            .fail("for users", "for administrators", None, time)
            .map_err(|refusal| Error::Internal(refusal.to_string()))
    })
}
