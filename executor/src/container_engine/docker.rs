//! The Docker Engine API, as Docker and Podman's compatible socket serve it
//! ([reference](https://docs.docker.com/reference/api/engine/version/v1.41/)). The client's types stop here.
//!
//! `create`: what a container is created with. `container`: its life. `watch`: how it ends. `measure`: what it
//! uses. `pull`: images. `failure`: the engine's errors in our words.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error as ApiError;
use bollard::query_parameters::{
    ListContainersOptionsBuilder, RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use cts_net::registry::Credentials;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_util::task::TaskTracker;

use super::{
    ContainerEngine, ContainerLogs, ContainerSpec, ContainerSummary, EngineError, EngineInfo,
    MINIMUM_API_VERSION, RunningContainer, Unreachable,
};
use crate::progress::Counters;

mod container;
mod create;
mod failure;
mod measure;
mod pull;
#[cfg(test)]
mod tests;
mod watch;

/// Where Docker listens unless told otherwise.
pub const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";

/// Whether an engine's address is on this machine: a socket is.
#[must_use]
pub fn is_local(host: &str) -> bool {
    host.starts_with("unix://")
}

/// How the engine is reached, and how patiently.
#[derive(Debug, Clone)]
pub struct DockerOptions {
    /// `unix:///path/to/socket` or `tcp://host:port` (no TLS), as in `DOCKER_HOST`.
    pub host: String,
    /// Logins for pulls, by registry (`host` or `host:port`, `docker.io` for Docker Hub).
    pub credentials: BTreeMap<String, Credentials>,
    /// Deadlines.
    pub deadlines: Deadlines,
}

impl Default for DockerOptions {
    fn default() -> Self {
        Self {
            host: DEFAULT_HOST.to_owned(),
            credentials: BTreeMap::new(),
            deadlines: Deadlines::default(),
        }
    }
}

/// How long the engine may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// To answer a question.
    pub question: Duration,
    /// To create, start or remove a container or an image: work on its disk.
    pub change: Duration,
    /// Between two signs of progress of a pull.
    pub pull_stall: Duration,
    /// Not a deadline but a pause: before the second try of a pull. It doubles with each try and is jittered.
    pub pull_pause: Duration,
    /// To come back after it went away while a container ran.
    pub engine_return: Duration,
    /// Between two checks that a container which is waited for still runs.
    pub check_interval: Duration,
    /// For the rest of a container's output, after its end, as long as nothing arrives.
    pub output_quiet: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            question: Duration::from_secs(30),
            change: Duration::from_secs(120),
            pull_stall: Duration::from_secs(300),
            pull_pause: Duration::from_secs(1),
            engine_return: Duration::from_secs(300),
            check_interval: Duration::from_secs(60),
            output_quiet: Duration::from_secs(5),
        }
    }
}

/// Backstop of the client library. Every call has a deadline of ours; only a wait may last for weeks.
const LIBRARY_TIMEOUT_SECS: u64 = 366 * 24 * 3600;

/// How long [`ContainerEngine::settle`] waits.
const SETTLE_DEADLINE: Duration = Duration::from_secs(10);

/// A Docker-compatible engine.
#[derive(Debug)]
pub struct DockerEngine {
    client: Client,
    credentials: BTreeMap<String, Credentials>,
}

/// What every part of this adapter needs. Clones share one connection set-up.
#[derive(Debug, Clone)]
struct Client {
    docker: Docker,
    host: Arc<str>,
    deadlines: Deadlines,
    /// Removals, and runs that were abandoned half way.
    background: TaskTracker,
    runtime: tokio::runtime::Handle,
}

impl DockerEngine {
    /// Connects, and agrees on an API version that the engine speaks. To be called on a tokio runtime, which
    /// then also runs the removals in the background.
    ///
    /// # Errors
    /// [`EngineError::InvalidHost`], [`EngineError::Unreachable`], [`EngineError::Hung`] and [`EngineError::ApiTooOld`], each
    /// with the remedy in words.
    pub async fn connect(options: DockerOptions) -> Result<Self, EngineError> {
        let DockerOptions {
            host,
            credentials,
            deadlines,
        } = options;
        let docker = open(&host).await?;
        let client = Client {
            docker: docker.clone(),
            host: host.into(),
            deadlines,
            background: TaskTracker::new(),
            runtime: tokio::runtime::Handle::current(),
        };
        // The library's own version is refused by every older engine.
        let docker = client
            .ask("get version", docker.negotiate_version())
            .await?;
        let agreed = docker.client_version();
        let (major, minor) = MINIMUM_API_VERSION;
        if (agreed.major_version, agreed.minor_version) < (major, minor) {
            return Err(EngineError::ApiTooOld {
                host: client.host.to_string(),
                found: agreed.to_string(),
                minimum: format!("{major}.{minor}"),
            });
        }
        Ok(Self {
            client: Client { docker, ..client },
            credentials,
        })
    }

    async fn describe(&self) -> Result<EngineInfo, EngineError> {
        let docker = &self.client.docker;
        let version = self.client.ask("get version", docker.version()).await?;
        let info = self.client.ask("get info", docker.info()).await?;
        let component = version
            .components
            .unwrap_or_default()
            .into_iter()
            .find(|component| component.name.contains("Podman"));
        let (product, number) = match component {
            Some(podman) => ("Podman".to_owned(), Some(podman.version)),
            None => ("Docker".to_owned(), version.version),
        };
        Ok(EngineInfo {
            product,
            version: number.unwrap_or_else(|| "unknown".to_owned()),
            api_version: docker.client_version().to_string(),
            root_dir: info.docker_root_dir.map(PathBuf::from),
            platform: format!(
                "{}/{}",
                version.os.unwrap_or_else(|| "linux".to_owned()),
                version.arch.unwrap_or_else(|| "unknown".to_owned())
            ),
            cpus: info.ncpu.and_then(|count| u64::try_from(count).ok()),
            memory_bytes: info.mem_total.and_then(|bytes| u64::try_from(bytes).ok()),
            warnings: info.warnings.unwrap_or_default(),
            host: self.client.host.to_string(),
        })
    }

    async fn find(
        &self,
        labels: &[(String, String)],
    ) -> Result<Vec<ContainerSummary>, EngineError> {
        let wanted: Vec<String> = labels
            .iter()
            .map(|(key, value)| match value.as_str() {
                "" => key.clone(),
                value => format!("{key}={value}"),
            })
            .collect();
        let options = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&HashMap::from([("label", wanted)]))
            .build();
        let listing = self.client.docker.list_containers(Some(options));
        let found = self.client.ask("list containers", listing).await?;
        Ok(found
            .into_iter()
            .filter_map(|container| {
                let name = container
                    .names
                    .and_then(|names| names.into_iter().next())
                    .unwrap_or_default();
                Some(ContainerSummary {
                    id: container.id?,
                    name: name.trim_start_matches('/').to_owned(),
                    state: container
                        .state
                        .map_or_else(String::new, |state| state.to_string()),
                    labels: container.labels.unwrap_or_default().into_iter().collect(),
                })
            })
            .collect())
    }
}

/// Opens the connection's set-up; for a socket, after a look at it that gives better words than a failed call.
async fn open(host: &str) -> Result<Docker, EngineError> {
    let invalid = |reason: String| EngineError::InvalidHost {
        host: host.to_owned(),
        reason,
    };
    if let Some(path) = host.strip_prefix("unix://") {
        if !path.starts_with('/') {
            return Err(invalid("the socket's path must be absolute".to_owned()));
        }
        if let Err(error) = tokio::fs::metadata(path).await {
            return Err(EngineError::Unreachable {
                host: host.to_owned(),
                reason: failure::unreachable(&error),
            });
        }
        Docker::connect_with_unix(path, LIBRARY_TIMEOUT_SECS, API_DEFAULT_VERSION)
            .map_err(|error| invalid(error.to_string()))
    } else if host.starts_with("tcp://") || host.starts_with("http://") {
        Docker::connect_with_http(host, LIBRARY_TIMEOUT_SECS, API_DEFAULT_VERSION)
            .map_err(|error| invalid(error.to_string()))
    } else {
        Err(invalid("this kind of address is not supported".to_owned()))
    }
}

impl Client {
    /// A question, with its deadline and its errors in our words.
    async fn ask<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, EngineError> {
        self.within(call, self.deadlines.question, answer).await
    }

    async fn within<T>(
        &self,
        call: &'static str,
        deadline: Duration,
        answer: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, EngineError> {
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(failure::from_api(&self.host, call, &error)),
            Err(_) => Err(EngineError::Hung {
                host: self.host.to_string(),
                call,
                after: deadline,
            }),
        }
    }

    /// Kills and removes a container. One that is gone already is a success, and so is one that others are
    /// removing, once they have done it.
    async fn remove_container(&self, id: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        let removal = self.docker.remove_container(id, Some(options));
        match self
            .within("remove container", self.deadlines.change, removal)
            .await
        {
            Err(EngineError::Refused {
                status: Some(404), ..
            }) => Ok(()),
            // A removal is under way.
            Err(EngineError::Refused {
                status: Some(409), ..
            }) => watch::until_removed(self, id).await,
            result => result,
        }
    }
}

/// Names end up in request paths; this keeps a hostile one from changing the path.
fn check_image_name(image: &str) -> Result<(), EngineError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-/:@[]".contains(c);
    if image.contains('@') && image.chars().all(legal) && !image.contains("..") {
        Ok(())
    } else {
        Err(EngineError::ImageNotFound {
            image: image.to_owned(),
            detail: "not of the form name@digest".to_owned(),
        })
    }
}

impl ContainerEngine for DockerEngine {
    fn info(&self) -> BoxFuture<'_, Result<EngineInfo, EngineError>> {
        self.describe().boxed()
    }

    fn has_image<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<bool, EngineError>> {
        pull::has_image(&self.client, image).boxed()
    }

    fn pull<'a>(
        &'a self,
        image: &'a str,
        progress: &'a Counters,
    ) -> BoxFuture<'a, Result<(), EngineError>> {
        pull::pull(&self.client, &self.credentials, image, progress).boxed()
    }

    fn run(
        &self,
        spec: ContainerSpec,
        logs: ContainerLogs,
    ) -> BoxFuture<'_, Result<Box<dyn RunningContainer>, EngineError>> {
        async move {
            let client = self.client.clone();
            let (hand_over, receive) = tokio::sync::oneshot::channel();
            // A task of its own: when this future is dropped half way, the container that is being made
            // comes to be, finds nobody to be handed to, and is removed.
            self.client.background.spawn(async move {
                let started = container::start(client, spec, logs).await;
                // Dropped in here if nobody takes it, so that `settle` cannot miss the removal.
                drop(hand_over.send(started));
            });
            match receive.await {
                Ok(started) => {
                    started.map(|container| -> Box<dyn RunningContainer> { Box::new(container) })
                }
                Err(_) => Err(EngineError::Refused {
                    call: "run container",
                    status: None,
                    detail: "the task that started it has failed".to_owned(),
                }),
            }
        }
        .boxed()
    }

    fn list<'a>(
        &'a self,
        labels: &'a [(String, String)],
    ) -> BoxFuture<'a, Result<Vec<ContainerSummary>, EngineError>> {
        self.find(labels).boxed()
    }

    fn remove<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), EngineError>> {
        self.client.remove_container(id).boxed()
    }

    fn remove_image<'a>(&'a self, image: &'a str) -> BoxFuture<'a, Result<(), EngineError>> {
        async move {
            check_image_name(image)?;
            let options = RemoveImageOptionsBuilder::default().build();
            let removal = self.client.docker.remove_image(image, Some(options), None);
            let deadline = self.client.deadlines.change;
            match self.client.within("remove image", deadline, removal).await {
                Ok(_)
                | Err(EngineError::Refused {
                    status: Some(404), ..
                }) => Ok(()),
                Err(error) => Err(error),
            }
        }
        .boxed()
    }

    fn settle(&self) -> BoxFuture<'_, ()> {
        async {
            let background = &self.client.background;
            background.close();
            let settled = tokio::time::timeout(SETTLE_DEADLINE, background.wait()).await;
            background.reopen();
            if settled.is_err() {
                tracing::error!(
                    tasks = background.len(),
                    "containers may be left: their removal did not end in time"
                );
            }
        }
        .boxed()
    }
}
