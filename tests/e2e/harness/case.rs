//! One test's job, objects and expectations, apart from those of all other tests.

use std::collections::HashMap;
use std::time::Duration;

use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveImageOptions};
use cts_tests::object_store::ObjectStore;
use cts_tests::testbed::engine::JOB_LABEL;
use cts_tests::testbed::image::Image;
use cts_tests::testbed::{State, Testbed};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use uuid::Uuid;

use super::eventually;

/// For a container that an engine or a guardian is removing.
const CONTAINER_GONE_WITHIN: Duration = Duration::from_secs(30);

/// The testbed's addresses; brings it up for the first test of the process.
pub(crate) async fn testbed() -> &'static State {
    static STATE: OnceCell<State> = OnceCell::const_new();
    STATE
        .get_or_init(async || match Testbed::up(&Testbed::default_dir()).await {
            Ok(testbed) => testbed.state().clone(),
            Err(error) => panic!("the testbed is needed: {error}"),
        })
        .await
}

/// A job in the making, with a key prefix of its own.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) testbed: &'static State,
    pub(crate) store: ObjectStore,
    pub(crate) job_id: String,
    prefix: String,
    image: Image,
    args: Vec<Value>,
    inputs: Vec<Value>,
    containers: u32,
    memory_bytes: u64,
    runtime_secs: u64,
    declobber: bool,
}

impl Case {
    /// A job of one container that runs the test tool with `commands` (see
    /// `containers/test-tool/entry.sh`), without inputs yet.
    pub(crate) async fn new(name: &str, commands: &[&str]) -> Self {
        let testbed = testbed().await;
        let job_id = Uuid::new_v4().to_string();
        Self {
            store: testbed.s3.client().unwrap(),
            prefix: format!("{}/e2e/{name}-{job_id}", testbed.s3.bucket),
            image: testbed.images.test_tool.clone(),
            args: words(commands),
            inputs: Vec::new(),
            containers: 1,
            memory_bytes: 256_000_000,
            runtime_secs: 600,
            declobber: false,
            testbed,
            job_id,
        }
    }

    /// Stores an input object with its checksum and adds it to the job. `{job's prefix}/in/name`.
    pub(crate) async fn input(mut self, name: &str, content: &[u8]) -> Self {
        let file = self.input_path(name);
        let checksum = self.store.put(&file, content).await.unwrap();
        self.inputs
            .push(json!({ "file": file, "crc64nvme": checksum }));
        self
    }

    /// Adds an input to the job without storing an object.
    pub(crate) fn declared_input(mut self, name: &str, checksum: &str) -> Self {
        let file = self.input_path(name);
        self.inputs
            .push(json!({ "file": file, "crc64nvme": checksum }));
        self
    }

    /// Other commands than those given at first.
    pub(crate) fn commands(mut self, commands: &[&str]) -> Self {
        self.args = words(commands);
        self
    }

    /// Appends the paths of the inputs to the arguments.
    pub(crate) fn inputs_as_arguments(mut self) -> Self {
        let format = "space_separated_list";
        self.args
            .push(json!({ "type": "input_files", "input_files_format": format }));
        self
    }

    pub(crate) fn image(mut self, image: &Image) -> Self {
        self.image = image.clone();
        self
    }

    pub(crate) fn containers(mut self, count: u32) -> Self {
        self.containers = count;
        self
    }

    pub(crate) fn declobber(mut self) -> Self {
        self.declobber = true;
        self
    }

    pub(crate) fn memory_mb(mut self, megabytes: u64) -> Self {
        self.memory_bytes = megabytes * 1_000_000;
        self
    }

    pub(crate) fn runtime_secs(mut self, seconds: u64) -> Self {
        self.runtime_secs = seconds;
        self
    }

    /// The S3 path of an input.
    pub(crate) fn input_path(&self, name: &str) -> String {
        format!("{}/in/{name}", self.prefix)
    }

    /// The S3 path of an output.
    pub(crate) fn output_path(&self, name: &str) -> String {
        format!("{}/out/{name}", self.prefix)
    }

    /// The S3 path for the container logs, as the service hands it to an executor.
    pub(crate) fn log_path(&self) -> String {
        format!("{}/logs/{}", self.prefix, self.job_id)
    }

    /// The job as `GET /admin/jobs/{id}` answers it.
    pub(crate) fn job(&self) -> Value {
        json!({
            "id": self.job_id,
            "state": "download_submitted",
            "transition_times": [
                { "state": "created", "time": "2031-02-03T04:05:06.000000Z",
                  "trans_id": Uuid::new_v4().to_string(), "notif_sent": true },
                { "state": "download_submitted", "time": "2031-02-03T04:05:06.010000Z",
                  "trans_id": Uuid::new_v4().to_string(), "notif_sent": true },
            ],
            "user": "alice",
            "admin_meta": {},
            "job_input": {
                "cluster": "kbase",
                "image": self.image.tagged(),
                "params": {
                    "input_mount_point": "/input_files",
                    "output_mount_point": "/output_files",
                    "declobber": self.declobber,
                    "args": self.args,
                },
                "num_containers": self.containers,
                "cpus": 1,
                "memory": self.memory_bytes,
                "runtime": format!("PT{}S", self.runtime_secs),
                "output_dir": format!("{}/out/", self.prefix),
                "input_files": self.inputs,
            },
            "image": {
                "registered_by": "admin",
                "registered_on": "2031-02-03T04:05:05.000000Z",
                "name": self.image.name,
                "digest": self.image.digest,
                "entrypoint": self.image.entrypoint,
                "tag": self.image.tag,
            },
            "input_file_count": self.inputs.len(),
            "cleaned": false,
            "htcondor_details": { "cluster_id": [1] },
        })
    }

    /// Where the inputs of `container` land below `__input__`, with their checksums.
    pub(crate) fn input_checksums(&self) -> HashMap<String, String> {
        self.inputs
            .iter()
            .map(|input| {
                let path = input["file"].as_str().unwrap();
                let name = path.rsplit('/').next().unwrap().to_owned();
                (name, input["crc64nvme"].as_str().unwrap().to_owned())
            })
            .collect()
    }

    /// Everything below the output prefix of the job.
    pub(crate) async fn published(&self) -> Vec<String> {
        self.store
            .list(&format!("{}/out/", self.prefix))
            .await
            .unwrap()
    }

    /// Everything the job may have written, logs included.
    pub(crate) async fn written(&self) -> Vec<String> {
        let mut paths = self.published().await;
        paths.extend(
            self.store
                .list(&format!("{}/logs/", self.prefix))
                .await
                .unwrap(),
        );
        paths
    }

    /// Makes the engine forget the job's image, so that it has to be pulled.
    pub(crate) async fn remove_image(&self) {
        let docker = self.testbed.engine.client().await.unwrap();
        let name = format!("{}@{}", self.image.name, self.image.digest);
        match docker
            .remove_image(&name, None::<RemoveImageOptions>, None)
            .await
        {
            Ok(_) => {}
            Err(bollard::errors::Error::DockerResponseServerError {
                status_code: 404, ..
            }) => {}
            Err(error) => panic!("{name} cannot be removed: {error}"),
        }
    }

    /// The containers of this job, in any state.
    pub(crate) async fn containers_left(&self) -> Vec<String> {
        self.containers_of(&self.job_id).await
    }

    /// Waits until no container of this job is left: what an engine does not remove in time, a guardian does.
    pub(crate) async fn no_container_left(&self) {
        self.no_container_of(&self.job_id).await;
    }

    /// The same, of a job that a service gave the id.
    pub(crate) async fn no_container_of(&self, job_id: &str) {
        eventually("no container left", CONTAINER_GONE_WITHIN, async || {
            let left = self.containers_of(job_id).await;
            left.is_empty()
                .then_some(())
                .ok_or_else(|| format!("{left:?}"))
        })
        .await;
    }

    /// The containers of a job that a service gave the id, in any state.
    pub(crate) async fn containers_of(&self, job_id: &str) -> Vec<String> {
        let docker = self.testbed.engine.client().await.unwrap();
        let filters = HashMap::from([("label", vec![format!("{JOB_LABEL}={job_id}")])]);
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&filters)
            .build();
        let found = docker.list_containers(Some(options)).await.unwrap();
        found
            .into_iter()
            .filter_map(|container| container.id)
            .collect()
    }
}

/// Commands as the test tool takes them: words, with `then` between commands.
fn words(commands: &[&str]) -> Vec<Value> {
    let commands: Vec<Vec<&str>> = commands
        .iter()
        .map(|command| command.split(' ').collect())
        .collect();
    commands
        .join(&"then")
        .into_iter()
        .map(Value::from)
        .collect()
}
