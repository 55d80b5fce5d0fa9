//! The static executor as a whole process, under a stub service, on the real engine, registry and
//! object store.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cts_tests::testbed::State;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::measure::{Usage, measure};
use crate::programs::empty_dir;
use crate::service_stub::{Arrival, ServiceStub};

/// A service token; the stub takes any.
const TOKEN: &str = "bench-token";
/// Memory limit of the containers: enough that writing 2 GiB is not held up by reclaiming pages.
const MEMORY_BYTES: u64 = 4_000_000_000;

/// The job that the executor is given.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// `download_submitted` for one to run, `complete` for one that has ended.
    pub(crate) state: &'static str,
    /// Commands of the test tool.
    pub(crate) args: Vec<String>,
    /// Inputs: S3 path and CRC64NVME.
    pub(crate) inputs: Vec<(String, String)>,
    /// Bucket and key prefix of everything it writes.
    pub(crate) prefix: String,
}

/// A run of the executor.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) usage: Usage,
    arrivals: Vec<Arrival>,
}

impl Run {
    /// From the start of the process to its first request.
    pub(crate) fn to_first_request(&self) -> Option<Duration> {
        let first = self.arrivals.first()?;
        Some(first.at.duration_since(self.usage.started))
    }

    /// Between the reports of two states.
    pub(crate) fn between(&self, from: &str, to: &str) -> Option<Duration> {
        let at = |name: &str| -> Option<Instant> {
            self.arrivals.iter().find(|a| a.name == name).map(|a| a.at)
        };
        Some(at(to)?.duration_since(at(from)?))
    }
}

/// Runs executors.
#[derive(Debug)]
pub(crate) struct Executor<'a> {
    pub(crate) program: PathBuf,
    pub(crate) testbed: &'a State,
    /// For job directories.
    pub(crate) dir: &'a Path,
}

impl Executor<'_> {
    /// Runs `job` once in a new job directory, which is removed afterwards.
    ///
    /// # Errors
    /// When it fails; what it printed is kept in the benchmark's directory.
    pub(crate) async fn run(
        &self,
        job: &Job,
        settings: &[(&'static str, &str)],
    ) -> Result<Run, Box<dyn Error>> {
        let id = Uuid::new_v4().to_string();
        let service = ServiceStub::start(self.document(job, &id)).await?;
        let job_dir = self.dir.join("job");
        empty_dir(&job_dir)?;
        let token = self.secret_file("token", TOKEN)?;
        let secret = self.secret_file("s3-secret", &self.testbed.s3.secret)?;
        let log = std::fs::File::create(self.dir.join("executor.log"))?;
        let mut command = Command::new(&self.program);
        command
            .arg("run")
            .env_clear()
            .env("JOB_ID", &id)
            .env("CONTAINER_NUMBER", "0")
            .env("SERVICE_ROOT_URL", service.url())
            .env("TOKEN_PATH", token)
            .env("S3_URL", &self.testbed.s3.url)
            .env("S3_ACCESS_KEY", &self.testbed.s3.access_key)
            .env("S3_SECRET_PATH", secret)
            .env("S3_ERROR_LOG_PATH", format!("{}/logs/{id}", job.prefix))
            .env("REFDATA_HOST_PATH", "")
            .env("JOB_UPDATE_TIMEOUT_MIN", "1")
            .env("DOCKER_HOST", &self.testbed.engine.docker_host)
            .envs(settings.iter().copied())
            .current_dir(&job_dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let usage = tokio::task::spawn_blocking(move || measure(&mut command)).await??;
        let arrivals = service.take_arrivals();
        let last = arrivals.last().map(|arrival| arrival.name.as_str());
        if job.state != "complete" && last != Some("complete") {
            let log = self.dir.join("executor.log");
            let log = log.display();
            return Err(format!("the executor did not complete the job; see {log}").into());
        }
        std::fs::remove_dir_all(&job_dir)?;
        Ok(Run { usage, arrivals })
    }

    fn secret_file(&self, name: &str, content: &str) -> std::io::Result<PathBuf> {
        let path = self.dir.join(name);
        std::fs::write(&path, content)?;
        Ok(path)
    }

    /// The job as `GET /admin/jobs/{id}` answers it.
    fn document(&self, job: &Job, id: &str) -> Value {
        let image = &self.testbed.images.test_tool;
        let time = "2031-02-03T04:05:06.000000Z";
        let inputs: Vec<Value> = job
            .inputs
            .iter()
            .map(|(file, checksum)| json!({ "file": file, "crc64nvme": checksum }))
            .collect();
        json!({
            "id": id,
            "state": job.state,
            "transition_times": [
                { "state": "created", "time": time, "trans_id": id, "notif_sent": true },
                { "state": job.state, "time": time, "trans_id": id, "notif_sent": true },
            ],
            "user": "bench",
            "admin_meta": {},
            "job_input": {
                "cluster": "kbase",
                "image": image.tagged(),
                "params": {
                    "input_mount_point": "/input_files",
                    "output_mount_point": "/output_files",
                    "args": job.args,
                },
                "num_containers": 1,
                "cpus": 2,
                "memory": MEMORY_BYTES,
                "runtime": "PT600S",
                "output_dir": format!("{}/out/", job.prefix),
                "input_files": inputs,
            },
            "image": {
                "registered_by": "bench",
                "registered_on": time,
                "name": image.name,
                "digest": image.digest,
                "entrypoint": image.entrypoint,
                "tag": image.tag,
            },
            "input_file_count": job.inputs.len(),
            "cleaned": false,
            "htcondor_details": { "cluster_id": [1] },
        })
    }
}
