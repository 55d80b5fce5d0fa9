//! The MongoDB-protocol server: `SecantusDB`, a Python program. A real server cannot be had from a public
//! package registry; whoever has one names it in `CTS_TEST_MONGO_URL` and runs the store's tests by hand.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::component::{Component, cannot_start, fresh_data_dir, stop_over_data};
use super::error::TestbedError;
use super::layout::Layout;
use super::packages::{Packages, find_program};
use super::ports::free_ports;
use super::process::{self, ProcessId};

/// The PyPI distribution, and the version the tests are known to pass on.
const DISTRIBUTION: (&str, &str) = ("secantusdb", "0.7.0b3");
const GRACE: Duration = Duration::from_secs(10);

/// `{hello: 1, $db: "admin"}` as a message of the protocol.
const HELLO: &[u8] = b"\x34\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0\0\
    \x1f\0\0\0\x10hello\0\x01\0\0\0\x02$db\0\x06\0\0\0admin\0\0";

/// A `SecantusDB` process.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct MongoServer {
    /// The connection string.
    pub url: String,
    address: String,
    process: Option<ProcessId>,
    #[serde(skip)]
    python: PathBuf,
    #[serde(skip)]
    tree: PathBuf,
}

impl Component for MongoServer {
    const NAME: &'static str = "mongo";
    const READY_WITHIN: Duration = Duration::from_secs(60);

    async fn ensure_installed(&mut self, layout: &Layout) -> Result<(), TestbedError> {
        let (name, version) = DISTRIBUTION;
        self.tree = Packages::new(layout, Self::NAME)
            .python_tree_with_dependencies(name, version, "the MongoDB-protocol server")
            .await?;
        // The one that unpacked it.
        self.python = find_program("python3").unwrap_or_else(|| "python3".into());
        Ok(())
    }

    async fn start(&mut self, layout: &Layout) -> Result<(), TestbedError> {
        let data = fresh_data_dir(Self::NAME, layout)?;
        let [port] = free_ports(Self::NAME)?;
        let mut command = Command::new(&self.python);
        command
            .args(["-m", "secantus", "--host", "127.0.0.1", "--port"])
            .arg(port.to_string())
            .args([OsStr::new("--storage-path"), data.as_os_str()])
            // Tests have it fail on purpose.
            .arg("--enable-test-commands")
            .env("PYTHONPATH", &self.tree);
        // It looks for configuration in its working directory and in the home directory.
        command.current_dir(&data).env("HOME", &data);
        let process = process::spawn_daemon(&mut command, &layout.log(Self::NAME))
            .map_err(|error| cannot_start(Self::NAME, layout, &error))?;
        self.process = Some(process);
        self.address = format!("127.0.0.1:{port}");
        // It does not know all retried writes.
        self.url = format!("mongodb://{}/?retryWrites=false", self.address);
        Ok(())
    }

    async fn ready(&self) -> Result<(), String> {
        let ask = async {
            let mut stream = TcpStream::connect(&self.address).await?;
            stream.write_all(HELLO).await?;
            let mut answer = vec![0; 64 * 1024];
            let length = stream.read(&mut answer).await?;
            answer.truncate(length);
            Ok(answer)
        };
        let answer = ask
            .await
            .map_err(|error: std::io::Error| error.to_string())?;
        let wanted = b"isWritablePrimary\0\x01";
        if answer.windows(wanted.len()).any(|found| found == wanted) {
            Ok(())
        } else {
            Err("it does not say that it can be written to".to_owned())
        }
    }

    async fn stop(&mut self, layout: &Layout) -> Result<(), TestbedError> {
        let is_ours = |program: &OsStr| program.to_string_lossy().starts_with("python");
        stop_over_data(Self::NAME, layout, self.process.take(), is_ours, GRACE).await?;
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
