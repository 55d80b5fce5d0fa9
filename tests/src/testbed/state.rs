//! What the testbed is made of, as `state.json` keeps it.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use serde::{Deserialize, Serialize};

use super::engine::Engine;
use super::error::TestbedError;
use super::htcondor::HtCondor;
use super::image::Images;
use super::kafka::KafkaBroker;
use super::layout::Layout;
use super::mongo::MongoServer;
use super::registry::{AuthRegistry, OpenRegistry};
use super::s3::S3Server;

/// The components and where to find them. Tests and the demo read it; scripts may too.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The container engine.
    pub engine: Engine,
    /// The registry that anyone may use.
    pub registry: OpenRegistry,
    /// The registry that asks for a name and a password.
    pub auth_registry: AuthRegistry,
    /// The S3 server.
    pub s3: S3Server,
    /// The MongoDB-protocol server.
    pub mongo: MongoServer,
    /// The Kafka-protocol broker.
    pub kafka: KafkaBroker,
    /// The HTCondor pool.
    pub htcondor: HtCondor,
    /// Images in the registries.
    pub images: Images,
}

impl State {
    /// The state an earlier run stored; the default where there is none or it cannot be read,
    /// because leftovers are found without it too.
    pub(super) fn load(layout: &Layout) -> Self {
        std::fs::read(layout.state_file())
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// Stores the state, for its owner's eyes only.
    pub(super) fn save(&self, layout: &Layout) -> Result<(), TestbedError> {
        let path = layout.state_file();
        let partial = path.with_extension("json.partial");
        let write = || -> std::io::Result<()> {
            let mut file = std::fs::File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&partial)?;
            serde_json::to_writer_pretty(&file, self)?;
            file.write_all(b"\n")?;
            std::fs::rename(&partial, &path)
        };
        write().map_err(|error| {
            TestbedError::new(
                "testbed directory",
                format!("cannot write {}: {error}", path.display()),
                "check owner and free space of the testbed directory",
            )
        })
    }
}
