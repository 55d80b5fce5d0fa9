//! Whether engine and registry work together, with the files of this machine.

use std::time::Duration;

use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptions, CreateImageOptionsBuilder, RemoveContainerOptionsBuilder,
    StartContainerOptions, WaitContainerOptions,
};
use futures::TryStreamExt as _;

use super::super::component::remove_data_dir;
use super::super::console::say;
use super::super::engine::Engine;
use super::super::error::TestbedError;
use super::super::layout::Layout;
use super::Image;

const NAME: &str = "container-engine";
const DIR: &str = "engine-check";
/// Enough for a pull from a registry on this machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// Pulls the test tool by digest and runs it with limits and a mounted directory.
///
/// An engine that answers may still be useless here: it may run on another machine and see
/// neither the registry nor our files, or lack the memory controller.
pub(in super::super) async fn check_engine(
    engine: &Engine,
    image: &Image,
    layout: &Layout,
) -> Result<(), TestbedError> {
    let failed = |problem: String| {
        TestbedError::new(
            NAME,
            format!(
                "{} cannot run {}: {problem}",
                engine.docker_host,
                image.pinned()
            ),
            "use an engine on this machine that may set limits and mount the testbed directory",
        )
        .with_log(&layout.log(NAME))
    };
    let dir = super::super::component::fresh_data_dir(DIR, layout)?;
    let docker = engine
        .client()
        .await
        .map_err(|error| failed(error.to_string()))?;
    tokio::time::timeout(DEADLINE, run(&docker, image, &dir.display().to_string()))
        .await
        .unwrap_or_else(|_| Err(format!("took more than {} s", DEADLINE.as_secs())))
        .map_err(failed)?;
    let written = std::fs::read_to_string(dir.join("result")).unwrap_or_default();
    if written != "works\n" {
        return Err(failed(
            "what it wrote into a mounted directory did not arrive".to_owned(),
        ));
    }
    remove_data_dir(DIR, layout)?;
    say(format_args!(
        "checked: the engine pulls from the registry and runs with limits"
    ));
    Ok(())
}

async fn run(docker: &Docker, image: &Image, dir: &str) -> Result<(), String> {
    let pinned = image.pinned();
    let options = CreateImageOptionsBuilder::new().from_image(&pinned).build();
    docker
        .create_image(Some(options), None, None)
        .try_for_each(|_| async { Ok(()) })
        .await
        .map_err(|error| format!("pull: {error}"))?;
    let body = ContainerCreateBody {
        image: Some(pinned),
        cmd: Some(["write", "result", "works"].map(str::to_owned).to_vec()),
        host_config: Some(HostConfig {
            memory: Some(64 << 20),
            memory_swap: Some(64 << 20),
            pids_limit: Some(64),
            nano_cpus: Some(1_000_000_000),
            init: Some(true),
            binds: Some(vec![format!("{dir}:/output_files")]),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let container = docker
        .create_container(None::<CreateContainerOptions>, body)
        .await
        .map_err(|error| format!("create: {error}"))?;
    let ended = run_created(docker, &container.id).await;
    let options = RemoveContainerOptionsBuilder::new().force(true).build();
    docker
        .remove_container(&container.id, Some(options))
        .await
        .map_err(|error| format!("remove: {error}"))?;
    ended
}

async fn run_created(docker: &Docker, id: &str) -> Result<(), String> {
    docker
        .start_container(id, None::<StartContainerOptions>)
        .await
        .map_err(|error| format!("start: {error}"))?;
    let ends: Vec<_> = docker
        .wait_container(id, None::<WaitContainerOptions>)
        .try_collect()
        .await
        .map_err(|error| format!("run: {error}"))?;
    if ends.is_empty() {
        Err("run: ended without a status".to_owned())
    } else {
        Ok(())
    }
}
