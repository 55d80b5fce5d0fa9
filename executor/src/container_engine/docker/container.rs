//! One container, from its creation to its removal: create, listen, start, signal, remove.
//!
//! How it ends is found out by a task of its own, see [`watch`](super::watch); the handle only reads what that task
//! publishes, so that a wait may be dropped and repeated at will.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, StopContainerOptionsBuilder,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch as channel;
use tokio_util::task::AbortOnDropHandle;

use super::super::logs::Tails;
use super::super::{Exit, LogTail, STOP_MARGIN, StartFault, Usage};
use super::watch::{self, Output, Watcher};
use super::{Client, ContainerLogs, ContainerSpec, EngineError, RunningContainer};
use super::{check_image_name, create, failure, measure};

/// How often a removal in the background is tried.
const REMOVAL_TRIES: u32 = 3;

/// See [`ContainerEngine::run`](super::ContainerEngine::run).
pub(super) async fn start(
    client: Client,
    spec: ContainerSpec,
    logs: ContainerLogs,
) -> Result<DockerContainer, EngineError> {
    check_image_name(&spec.image)?;
    let container = create(&client, &spec).await?;
    let started = async {
        // Listening comes before starting: what a container prints first is not kept for late listeners.
        // Podman makes the container ready only now, so that a bad mount may show here.
        let output = watch::attach(&client, &container.id)
            .await
            .map_err(|error| failure::not_started(&spec, error))?;
        let starting = client.docker.start_container(&container.id, None);
        client
            .within("start container", client.deadlines.change, starting)
            .await
            .map_err(|error| failure::not_started(&spec, error))?;
        Ok(output)
    };
    match started.await {
        Ok(output) => Ok(DockerContainer::watch(container, output, logs)),
        Err(error) => {
            if let Err(removal) = container.remove().await {
                tracing::error!(container.name = spec.name, error = %removal, "container that did not start could not be removed");
            }
            Err(error)
        }
    }
}

async fn create(client: &Client, spec: &ContainerSpec) -> Result<Owned, EngineError> {
    let body = create::body(spec).map_err(|detail| EngineError::NotStarted {
        name: spec.name.clone(),
        image: spec.image.clone(),
        fault: StartFault::Other(detail),
    })?;
    let options = CreateContainerOptionsBuilder::default()
        .name(&spec.name)
        .build();
    // Owned by name until the id is known: an engine that hangs may still create it after our deadline.
    let mut container = Owned {
        client: client.clone(),
        id: spec.name.clone(),
        gone: Arc::new(AtomicBool::new(false)),
    };
    let creating = client.docker.create_container(Some(options), body);
    match client
        .within("create container", client.deadlines.change, creating)
        .await
    {
        Ok(created) => {
            for warning in &created.warnings {
                tracing::warn!(
                    container.name = spec.name,
                    warning,
                    "from the container engine"
                );
            }
            container.id = created.id;
            Ok(container)
        }
        Err(EngineError::Refused { status, detail, .. }) => {
            // A definite no: nothing was created, and the name may be somebody else's.
            container.gone.store(true, Ordering::Release);
            Err(match status {
                Some(404) => EngineError::ImageNotFound {
                    image: spec.image.clone(),
                    detail,
                },
                Some(409) => EngineError::NameTaken {
                    name: spec.name.clone(),
                },
                _ => failure::not_started(
                    spec,
                    EngineError::Refused {
                        call: "create container",
                        status,
                        detail,
                    },
                ),
            })
        }
        Err(error) => Err(error),
    }
}

/// A container that is ours to remove. Dropping it removes it in the background.
#[derive(Debug)]
struct Owned {
    client: Client,
    /// Id, or the name as long as the id is not known.
    id: String,
    gone: Arc<AtomicBool>,
}

impl Owned {
    /// Goes on in the background when the future is dropped.
    async fn remove(&self) -> Result<(), EngineError> {
        if self.gone.load(Ordering::Acquire) {
            return Ok(());
        }
        let (client, id, gone) = (self.client.clone(), self.id.clone(), Arc::clone(&self.gone));
        let removal = self.client.background.spawn(async move {
            client.remove_container(&id).await?;
            gone.store(true, Ordering::Release);
            Ok(())
        });
        removal.await.unwrap_or_else(|error| {
            Err(EngineError::Refused {
                call: "remove container",
                status: None,
                detail: error.to_string(),
            })
        })
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if self.gone.load(Ordering::Acquire) {
            return;
        }
        let (client, id) = (self.client.clone(), self.id.clone());
        let removal = async move {
            for tries in 1..=REMOVAL_TRIES {
                match client.remove_container(&id).await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::error!(container.id = id, tries, %error, "container could not be removed");
                    }
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        // Not awaited here; `settle` does.
        self.client
            .background
            .spawn_on(removal, &self.client.runtime);
    }
}

/// See [`RunningContainer`].
#[derive(Debug)]
pub(super) struct DockerContainer {
    container: Owned,
    ended: channel::Receiver<Option<Result<Exit, EngineError>>>,
    usage: Arc<Mutex<Usage>>,
    tails: Tails,
    /// Dropped with the handle: the tasks that watch the container.
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl DockerContainer {
    fn watch(container: Owned, output: Output, logs: ContainerLogs) -> Self {
        let (publish, ended) = channel::channel(None);
        let usage = Arc::new(Mutex::new(Usage::default()));
        let tails = logs.tails();
        let watcher = Watcher::new(container.client.clone(), container.id.clone());
        let watching = async move {
            let end = watcher.watch(output, logs).await;
            // Fails only when the handle, and so everyone who could ask, is gone.
            let _ = publish.send(Some(end));
        };
        let measuring = measure::measure(
            container.client.clone(),
            container.id.clone(),
            Arc::clone(&usage),
        );
        Self {
            container,
            ended,
            usage,
            tails,
            _tasks: [
                AbortOnDropHandle::new(tokio::spawn(watching)),
                AbortOnDropHandle::new(tokio::spawn(measuring)),
            ],
        }
    }

    fn client(&self) -> &Client {
        &self.container.client
    }
}

impl RunningContainer for DockerContainer {
    fn id(&self) -> &str {
        &self.container.id
    }

    fn wait(&self) -> BoxFuture<'_, Result<Exit, EngineError>> {
        let mut ended = self.ended.clone();
        async move {
            let found = ended.wait_for(Option::is_some).await;
            match found.ok().and_then(|end| end.clone()) {
                Some(end) => end,
                // The watching task died: a bug, which must not look like an end of the tool.
                None => Err(EngineError::ExitUnknown {
                    id: self.container.id.clone(),
                    detail: "the task that watched it has failed".to_owned(),
                }),
            }
        }
        .boxed()
    }

    fn stop(&self, grace: Duration) -> BoxFuture<'_, Result<(), EngineError>> {
        async move {
            let seconds = create::whole_seconds(grace);
            let options = StopContainerOptionsBuilder::default()
                .t(i32::try_from(seconds).unwrap_or(i32::MAX))
                .build();
            let client = self.client();
            let stopping = client
                .docker
                .stop_container(&self.container.id, Some(options));
            let deadline = Duration::from_secs(seconds).saturating_add(STOP_MARGIN);
            failure::ended_is_fine(client.within("stop container", deadline, stopping).await)
        }
        .boxed()
    }

    fn kill(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        async move {
            let options = KillContainerOptionsBuilder::default()
                .signal("SIGKILL")
                .build();
            let client = self.client();
            let killing = client
                .docker
                .kill_container(&self.container.id, Some(options));
            failure::ended_is_fine(client.within("kill container", STOP_MARGIN, killing).await)
        }
        .boxed()
    }

    fn remove(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        self.container.remove().boxed()
    }

    fn usage(&self) -> Usage {
        *self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log_tail(&self) -> LogTail {
        self.tails.read()
    }
}
