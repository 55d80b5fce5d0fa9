//! The container engine: one that is there, else a `dockerd` of the testbed's own.

mod daemon;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder};
use serde::{Deserialize, Serialize};

use super::component::Component;
use super::console::say;
use super::error::TestbedError;
use super::layout::Layout;
use super::process::ProcessId;
use daemon::Daemon;

/// The label by which the executor's containers are known.
pub const JOB_LABEL: &str = "us.kbase.cts.job";

/// A container engine with the Docker Engine API.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Engine {
    /// Its address, in the form of `DOCKER_HOST`.
    pub docker_host: String,
    /// The testbed's own daemon; absent where an engine was there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    daemon: Option<Daemon>,
}

impl Engine {
    /// A client for it.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub async fn client(&self) -> Result<Docker, bollard::errors::Error> {
        connect(&self.docker_host).await
    }

    /// Whether the testbed started it.
    pub fn is_own(&self) -> bool {
        self.daemon.is_some()
    }

    /// Removes containers that executors left which ran images of the registry at `registry`.
    ///
    /// In an engine that others use too, the registry's address tells ours from theirs.
    pub(super) async fn remove_containers_of(&self, registry: &str) -> Result<(), TestbedError> {
        let failed = |error: bollard::errors::Error| {
            TestbedError::new(
                Self::NAME,
                format!(
                    "cannot remove left containers at {}: {error}",
                    self.docker_host
                ),
                format!("remove those labelled {JOB_LABEL} by hand"),
            )
        };
        let Ok(docker) = self.client().await else {
            // No engine, no containers.
            return Ok(());
        };
        let filters = std::collections::HashMap::from([("label", vec![JOB_LABEL])]);
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&filters)
            .build();
        let prefix = format!("{registry}/");
        for container in docker
            .list_containers(Some(options))
            .await
            .map_err(failed)?
        {
            let ours = container
                .image
                .is_some_and(|image| image.starts_with(&prefix));
            if let Some(id) = container.id.filter(|_| ours) {
                say(format_args!(
                    "removing container {id}, left by an earlier run"
                ));
                let options = RemoveContainerOptionsBuilder::new().force(true).build();
                docker
                    .remove_container(&id, Some(options))
                    .await
                    .map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// Connects and agrees on an API version.
async fn connect(docker_host: &str) -> Result<Docker, bollard::errors::Error> {
    Docker::connect_with_host(docker_host)?
        .with_timeout(Duration::from_secs(120))
        .negotiate_version()
        .await
}

async fn answers(docker_host: &str) -> Result<(), String> {
    let ask = async {
        let docker = connect(docker_host)
            .await
            .map_err(|error| error.to_string())?;
        docker
            .ping()
            .await
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    tokio::time::timeout(Duration::from_secs(10), ask)
        .await
        .unwrap_or_else(|_| Err("no answer within 10 s".to_owned()))
}

/// Sockets at which an engine may be found, where `DOCKER_HOST` does not say.
fn usual_sockets() -> Vec<PathBuf> {
    let mut sockets = vec![PathBuf::from("/var/run/docker.sock")];
    if let Some(dir) = std::env::var_os("XDG_RUNTIME_DIR") {
        sockets.push(Path::new(&dir).join("docker.sock"));
        sockets.push(Path::new(&dir).join("podman/podman.sock"));
    }
    sockets
}

/// The engine that is there, if any; and why the others are not usable.
async fn existing() -> Result<String, Vec<String>> {
    let mut refused = Vec::new();
    for socket in usual_sockets().into_iter().filter(|socket| socket.exists()) {
        let docker_host = format!("unix://{}", socket.display());
        match answers(&docker_host).await {
            Ok(()) => return Ok(docker_host),
            Err(error) => refused.push(format!("{docker_host}: {error}")),
        }
    }
    Err(refused)
}

impl Component for Engine {
    const NAME: &'static str = "container-engine";
    const READY_WITHIN: Duration = Duration::from_secs(60);

    async fn ensure_installed(&mut self, layout: &Layout) -> Result<(), TestbedError> {
        if let Some(docker_host) = std::env::var("DOCKER_HOST").ok().filter(|h| !h.is_empty()) {
            // Said explicitly: another engine in its place would surprise.
            answers(&docker_host).await.map_err(|error| {
                TestbedError::new(
                    Self::NAME,
                    format!("the engine at DOCKER_HOST={docker_host} cannot be used: {error}"),
                    "start it, or unset DOCKER_HOST",
                )
            })?;
            self.docker_host = docker_host;
            return Ok(());
        }
        match existing().await {
            Ok(docker_host) => {
                self.docker_host = docker_host;
                Ok(())
            }
            Err(_) if rustix::process::geteuid().is_root() => {
                daemon::ensure_installed(layout).await?;
                // On some systems the package starts a daemon.
                if let Ok(docker_host) = existing().await {
                    self.docker_host = docker_host;
                }
                Ok(())
            }
            Err(refused) => {
                let found = if refused.is_empty() {
                    "no container engine found".to_owned()
                } else {
                    format!("no usable container engine: {}", refused.join("; "))
                };
                Err(TestbedError::new(
                    Self::NAME,
                    found,
                    "start Docker (or Podman's socket) and see that you may use it (group \
                     docker), set DOCKER_HOST, or run as root",
                ))
            }
        }
    }

    async fn start(&mut self, layout: &Layout) -> Result<(), TestbedError> {
        if self.docker_host.is_empty() {
            let daemon = Daemon::start(layout).await?;
            self.docker_host = daemon.docker_host();
            self.daemon = Some(daemon);
        } else {
            say(format_args!(
                "using the container engine at {}",
                self.docker_host
            ));
        }
        Ok(())
    }

    async fn ready(&self) -> Result<(), String> {
        answers(&self.docker_host).await
    }

    async fn stop(&mut self, layout: &Layout) -> Result<(), TestbedError> {
        daemon::stop(layout, self.daemon.take()).await?;
        *self = Self::default();
        Ok(())
    }

    fn process(&self) -> Option<&ProcessId> {
        self.daemon.as_ref().map(Daemon::process)
    }

    fn address(&self) -> String {
        self.docker_host.clone()
    }
}
