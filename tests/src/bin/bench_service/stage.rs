//! The service that is measured, and what it works on.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use cts_tests::binaries;
use cts_tests::load::{Call, Figures, LoadError, Target, drive};
use cts_tests::object_store::ObjectStore;
use cts_tests::service_process::{As, Launch, ServiceProcess, Store};
use cts_tests::testbed::Testbed;
use futures::{StreamExt, TryStreamExt};
use hyper::header::HeaderValue;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::progress;

/// Input objects: those of the largest legal job.
const INPUTS: u32 = 10_000;
const PUTS_AT_ONCE: usize = 32;
/// After a start, and after load: until memory that is only for the moment is given back.
const SETTLE: Duration = Duration::from_secs(2);

/// `/proc/PID/stat` counts in hundredths of a second, whatever the kernel's own tick (`proc_pid_stat(5)`).
const TICK: Duration = Duration::from_millis(10);

/// Who sends requests.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sender {
    /// Without a token, on public routes.
    Anyone,
    /// One of the service's users.
    User(As),
}

/// What clients saw, and what it cost the service.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) figures: Figures,
    /// Processor time of the service, user and system, of all its threads.
    pub(crate) cpu: Duration,
}

impl Measured {
    /// Takes over another measurement that came after this one.
    pub(crate) fn add(&mut self, other: &Self) {
        self.figures.add(&other.figures);
        self.cpu += other.cpu;
    }
}

/// A running service with an image and inputs for jobs.
#[derive(Debug)]
pub(crate) struct Stage {
    service: ServiceProcess,
    dir: PathBuf,
    prefix: String,
    image: String,
    output_checksum: String,
    database: Option<(String, String)>,
}

impl Stage {
    /// Stores the objects, starts the service with an empty store, in `dir` if it is a file, and lets it come to rest.
    ///
    /// # Errors
    /// When a program is missing or a component fails.
    pub(crate) async fn set(
        testbed: &Testbed,
        dir: &Path,
        store: Store,
    ) -> Result<Self, Box<dyn Error>> {
        let state = testbed.state();
        let prefix = format!("{}/bench-service", state.s3.bucket);
        let objects = state.s3.client()?;
        progress(&format!("storing {INPUTS} input objects"));
        put_inputs(&objects, &prefix).await?;
        let output = format!("{prefix}/out/result");
        let output_checksum = objects.put(&output, b"result").await?;
        if dir.exists() {
            std::fs::remove_dir_all(dir)?;
        }
        std::fs::create_dir_all(dir)?;
        let mut launch = Launch::with_idle_executor(binaries::release_service()?, dir)?;
        let database = store.database(state);
        launch.store = store;
        // No object is written to try the right to write: that would measure the S3 server.
        let allowed = ["--allowed-s3-path", &state.s3.bucket];
        launch.options.extend(allowed.map(str::to_owned));
        let (data, log) = (dir.join("data"), testbed.layout().log("bench-service"));
        let service = ServiceProcess::launch(&launch, state, &data, &log).await?;
        let stage = Self {
            service,
            dir: dir.to_owned(),
            prefix,
            image: state.images.test_tool.tagged(),
            output_checksum,
            database,
        };
        tokio::time::sleep(SETTLE).await;
        Ok(stage)
    }

    /// Server and name of the service's database, if its store is one.
    pub(crate) fn database(&self) -> Option<(String, String)> {
        self.database.clone()
    }

    /// Registers the image that jobs name. Not done at the start: the service is at rest then.
    pub(crate) async fn register_image(&self) -> Result<(), Box<dyn Error>> {
        let path = format!("/admin/images/{}", self.image);
        self.service
            .call(As::Admin, Method::POST, &path, None)
            .await?;
        Ok(())
    }

    /// Ends the service, puts jobs into its store and starts it again.
    ///
    /// # Errors
    /// When one of these fails.
    pub(crate) async fn restart_with(&mut self, jobs: u32) -> Result<(), Box<dyn Error>> {
        self.service.kill().await?;
        let database = self.dir.join("data/cts.sqlite");
        let filled = Command::new(binaries::store_prefill()?)
            .arg(&database)
            .args(["--jobs", &jobs.to_string()])
            .status()
            .await?;
        if !filled.success() {
            return Err(format!("cts-store-prefill: {filled}").into());
        }
        self.service.restart().await?;
        tokio::time::sleep(SETTLE).await;
        Ok(())
    }

    /// Stops the service and removes its data.
    ///
    /// # Errors
    /// When it does not end.
    pub(crate) async fn strike(self) -> Result<(), Box<dyn Error>> {
        self.service.stop().await?;
        Ok(std::fs::remove_dir_all(&self.dir)?)
    }

    /// A submission of `containers` containers with the first of the input objects.
    pub(crate) fn submission(&self, containers: u32, inputs: u32) -> Value {
        let inputs: Vec<_> = (0..inputs.min(INPUTS))
            .map(|number| input(&self.prefix, number))
            .collect();
        json!({
            "cluster": "local",
            "image": self.image,
            "params": {},
            "num_containers": containers,
            "output_dir": format!("{}/out", self.prefix),
            "input_files": inputs,
        })
    }

    /// What a container that completes names as its output. It is there.
    pub(crate) fn outputs(&self) -> Value {
        json!([{
            "file": format!("{}/out/result", self.prefix),
            "crc64nvme": self.output_checksum,
        }])
    }

    /// Where requests go.
    pub(crate) fn target(&self, sender: Sender) -> Target {
        let token = match sender {
            Sender::Anyone => None,
            Sender::User(who) => Some(format!("Bearer {}", self.service.token(who))),
        };
        Target {
            address: self.service.address(),
            authorization: token.and_then(|value| HeaderValue::from_str(&value).ok()),
        }
    }

    /// Sends requests, and measures what they cost the service.
    ///
    /// # Errors
    /// At the first that is not answered with a success.
    pub(crate) async fn load(
        &self,
        sender: Sender,
        connections: usize,
        calls: impl IntoIterator<Item = Call>,
        answered: impl FnMut(Bytes),
    ) -> Result<Measured, LoadError> {
        let before = self.cpu_time();
        let figures = drive(&self.target(sender), connections, calls, answered).await?;
        let cpu = self.cpu_time().saturating_sub(before);
        Ok(Measured { figures, cpu })
    }

    /// The service's processor time so far; nothing once it has ended.
    fn cpu_time(&self) -> Duration {
        let stat = self
            .service
            .pid()
            .and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok())
            .unwrap_or_default();
        // After the name, which is in brackets and may hold anything; utime and stime are fields 14, 15.
        let fields = stat.rsplit_once(')').map(|(_, fields)| fields);
        let times = fields
            .unwrap_or_default()
            .split_ascii_whitespace()
            .skip(11)
            .take(2);
        let ticks: u32 = times.filter_map(|field| field.parse::<u32>().ok()).sum();
        TICK * ticks
    }

    /// The service's resident set.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn resident_bytes(&self) -> Result<u64, Box<dyn Error>> {
        let pid = self.service.pid().ok_or("the service has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
        let kib: u64 = kib.ok_or("no VmRSS in /proc")?.trim().parse()?;
        Ok(kib * 1024)
    }
}

fn input(prefix: &str, number: u32) -> String {
    format!("{prefix}/in/{number}")
}

async fn put_inputs(store: &ObjectStore, prefix: &str) -> Result<(), Box<dyn Error>> {
    futures::stream::iter(0..INPUTS)
        .map(|number| async move { store.put(&input(prefix, number), b"input").await })
        .buffer_unordered(PUTS_AT_ONCE)
        .try_for_each(|_checksum| futures::future::ready(Ok(())))
        .await?;
    Ok(())
}
