//! Stage: the image, the inputs and the reference data, side by side. Whichever fails first ends the others.

use std::sync::Arc;
use std::time::Duration;

use cts_net::registry::{ImageLookup, Registry, RegistryError};
use cts_shared::failure::FailureCode;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Run, Stop, failed};
use crate::container_engine::{ContainerEngine, EngineInfo};
use crate::disk;
use crate::failure::{Classify, RunFailure};
use crate::object_store::{ObjectName, ObjectStore};
use crate::orphans::process_mark::{Judgement, Machine};
use crate::orphans::{self, Finding};
use crate::plan::ContainerPlan;
use crate::progress::Counters;
use crate::report::attempt::Attempt;
use crate::transfer::{Download, TransferEngine, TransferError, TransferOptions};

/// Others' containers are no reason to start late.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(30);

/// Why an image cannot be had, found out before anything is pulled.
#[derive(Debug, thiserror::Error)]
enum ImageError {
    /// The registry says no.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The engine's disk is too small.
    #[error(
        "no space for image {image}: its compressed layers alone need {need_bytes} bytes, and \
         {directory} has {free_bytes} free; free some (docker system prune) or use another worker"
    )]
    NoSpace {
        image: String,
        need_bytes: u64,
        free_bytes: u64,
        directory: String,
    },
}

impl Run<'_> {
    /// Fetches everything the container needs. Returns the opened object store and the engine.
    pub(super) async fn stage(
        &mut self,
        plan: &ContainerPlan,
        declobber: bool,
    ) -> Result<(Arc<dyn ObjectStore>, Arc<dyn ContainerEngine>), Stop> {
        let store = (self.parts.open_store)()?;
        let engine = self
            .unless_halted((self.parts.connect_engine)())
            .await?
            .map_err(failed("reach the container engine"))?;
        self.engine = Some(Arc::clone(&engine));
        // Before the directories are emptied: what was left may still write to them.
        self.remove_leftovers(engine.as_ref()).await?;
        self.on_disk("prepare the job directory", move |workdir| {
            workdir.prepare(declobber)
        })
        .await?;
        let stopped = self.halt.child_token();
        self.fetch_side_by_side(plan, engine.as_ref(), &store, &stopped)
            .await?;
        if let Some(manifest) = plan.manifest.clone() {
            self.on_disk("write the manifest", move |workdir| {
                workdir.write_manifest(&manifest)
            })
            .await?;
        }
        Ok((store, engine))
    }

    /// Image, inputs and reference data; whichever fails first ends the others.
    async fn fetch_side_by_side(
        &self,
        plan: &ContainerPlan,
        engine: &dyn ContainerEngine,
        store: &Arc<dyn ObjectStore>,
        stopped: &CancellationToken,
    ) -> Result<(), Stop> {
        // A transfer is told to stop and cleans up after itself; a pull may be dropped.
        let image = async {
            let fetched = stopped.run_until_cancelled(self.fetch_image(&plan.image, engine));
            fetched.await.unwrap_or_else(|| Err(self.why_halted()))
        };
        let mut running: FuturesUnordered<BoxFuture<'_, Result<(), Stop>>> = [
            image.boxed(),
            self.fetch_inputs(plan, store, stopped).boxed(),
            self.stage_refdata(plan, store, stopped).boxed(),
        ]
        .into_iter()
        .collect();
        let mut result = Ok(());
        while let Some(ended) = running.next().await {
            // What the others say after the first failure follows from being told to stop.
            if ended.is_err() && result.is_ok() {
                stopped.cancel();
                result = ended;
            }
        }
        result
    }

    /// Containers that a killed executor left on this host: of the same container, which must go, and of any
    /// other, which should.
    async fn remove_leftovers(&self, engine: &dyn ContainerEngine) -> Result<(), Stop> {
        let machine = Machine::here(self.config.has_local_engine());
        if let Err(error) = &machine {
            tracing::warn!("cannot tell whether other executors live: {error}");
        }
        let machine = machine.ok();
        let ours = (self.config.job, self.config.container);
        let attempt = self.attempt.as_ref().map(|attempt| attempt.number());
        let removal = async {
            for left in orphans::of_this_container(engine, machine.as_ref(), ours, attempt).await? {
                tracing::warn!(
                    container.name = left.name,
                    container.state = left.state,
                    "removing a container that an earlier run left"
                );
                engine.remove(&left.id).await?;
            }
            Ok(())
        };
        self.unless_halted(removal).await?.map_err(
            failed::<crate::container_engine::EngineError>("look for leftover containers"),
        )?;
        let Some(machine) = machine else {
            return Ok(());
        };
        let sweep = timeout(SWEEP_TIMEOUT, orphans::sweep(engine, &machine, false));
        match self.unless_halted(sweep).await? {
            Ok(Ok(findings)) => findings.iter().for_each(note_finding),
            Ok(Err(error)) => {
                tracing::warn!("cannot look for containers of lost executors: {error}")
            }
            Err(_) => tracing::warn!("looking for containers of lost executors took too long"),
        }
        Ok(())
    }

    /// For an image that was there and is not any more.
    pub(super) async fn fetch_image_again(
        &self,
        plan: &ContainerPlan,
        engine: &dyn ContainerEngine,
    ) -> Result<(), Stop> {
        self.unless_halted(self.fetch_image(&plan.image, engine))
            .await?
    }

    async fn fetch_image(&self, image: &str, engine: &dyn ContainerEngine) -> Result<(), Stop> {
        if engine
            .has_image(image)
            .await
            .map_err(failed("look for the image"))?
        {
            tracing::info!(image, "the engine has the image already");
            return Ok(());
        }
        if let Some(options) = &self.parts.registry {
            match Registry::new(options.clone()).lookup(image).await {
                Ok(found) => {
                    let info = engine.info().await.map_err(failed("ask the engine"))?;
                    check_space(image, &found, &info).map_err(failed("look the image up"))?;
                }
                Err(error) if error.is_permanent() => {
                    return Err(failed("look the image up")(ImageError::from(error)));
                }
                Err(error) => {
                    // The engine may know another way: a mirror, a proxy, a login.
                    tracing::warn!("{error}; the engine will try by itself");
                }
            }
        }
        let counters = Arc::new(Counters::default());
        let phase = self.parts.display.phase("pull", Arc::clone(&counters));
        engine
            .pull(image, &counters)
            .await
            .map_err(failed("pull the image"))?;
        phase.finish();
        Ok(())
    }

    async fn fetch_inputs(
        &self,
        plan: &ContainerPlan,
        store: &Arc<dyn ObjectStore>,
        stopped: &CancellationToken,
    ) -> Result<(), Stop> {
        let items = plan
            .files
            .iter()
            .map(|file| Download {
                object: ObjectName::new(file.file.bucket().as_str(), file.file.key()),
                destination: file.path.as_str().into(),
                expected: file.crc64nvme,
            })
            .collect();
        let counters = Arc::new(Counters::default());
        let phase = self.parts.display.phase("download", Arc::clone(&counters));
        self.parts.pool.progress(&counters);
        let engine = self.transfers(store);
        match engine
            .download(items, self.workdir.input(), counters, stopped)
            .await
        {
            Ok(_summary) => {
                phase.finish();
                Ok(())
            }
            Err(TransferError::Cancelled) => Err(self.why_halted()),
            Err(error) => Err(failed("download the inputs")(error)),
        }
    }

    /// The transfer engine with this run's limits. It publishes only while this attempt is the current one.
    pub(super) fn transfers(&self, store: &Arc<dyn ObjectStore>) -> TransferEngine {
        let limits = self.config.limits;
        let mut options = TransferOptions {
            download_concurrency: limits.transfer_concurrency.get(),
            ..TransferOptions::default()
        };
        options.retry.max_elapsed = limits.transfer_budget;
        options.retry.max_attempts = u32::MAX;
        let engine = TransferEngine::new(Arc::clone(store), options, &self.parts.transfers);
        match &self.attempt {
            Some(attempt) => engine.with_gate(Arc::<Attempt>::clone(attempt)),
            None => engine,
        }
    }
}

fn note_finding(finding: &Finding) {
    let (Judgement::Dead(reason), name) = (finding.judgement, &finding.container.name) else {
        return;
    };
    match &finding.problem {
        None => tracing::warn!(container.name = name, "removed a container: {reason}"),
        Some(error) => tracing::warn!(container.name = name, "cannot remove a container: {error}"),
    }
}

/// Fails early when the image cannot fit. Layers grow when they are unpacked, by an unknown factor, so
/// this only catches what is hopeless.
fn check_space(image: &str, found: &ImageLookup, info: &EngineInfo) -> Result<(), ImageError> {
    let Some(directory) = &info.root_dir else {
        return Ok(());
    };
    // The engine may run on another machine, or its directory may be hidden from this process.
    let Ok(free_bytes) = disk::free_bytes(directory) else {
        return Ok(());
    };
    let need_bytes = found.compressed_bytes;
    if free_bytes < need_bytes {
        return Err(ImageError::NoSpace {
            image: image.to_owned(),
            need_bytes,
            free_bytes,
            directory: directory.display().to_string(),
        });
    }
    tracing::info!(
        image,
        compressed_bytes = need_bytes,
        "the registry has the image"
    );
    Ok(())
}

impl Classify for ImageError {
    fn code(&self) -> FailureCode {
        match self {
            Self::Registry(error) => error.code(),
            Self::NoSpace { .. } => FailureCode::DiskFull,
        }
    }
}

/// The store of a run, opened with the settings.
///
/// # Errors
/// When the secret cannot be read or TLS not be set up.
pub fn open_store(config: &crate::config::S3Config) -> Result<Arc<dyn ObjectStore>, RunFailure> {
    let secret = config
        .secret
        .load()
        .map_err(|error| RunFailure::new("read the S3 secret", &error))?;
    let settings = cts_net::s3::S3Settings {
        url: config.url.clone(),
        access_key: config.access_key.clone(),
        secret: Arc::new(secret),
        verify: config.verify,
    };
    let store = crate::object_store::s3::S3Store::new(settings)
        .map_err(|error| RunFailure::new("set up the S3 client", &error))?;
    Ok(Arc::new(match config.sign_payload {
        Some(sign_payload) => store.with_payload_signing(sign_payload),
        None => store,
    }))
}
