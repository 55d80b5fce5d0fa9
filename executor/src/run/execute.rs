//! Execute: the container, from its start to its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cts_shared::id::{ContainerNumber, JobId};
use cts_shared::wire::container::ContainerUsage;

use super::{Run, Stop, failed};
use crate::container_engine::{
    ContainerEngine, ContainerLogs, ContainerSpec, EngineError, EngineInfo, Exit, LogTail, Mount,
    RunningContainer, Usage, container_name, explain_exit,
};
use crate::identity::Identity;
use crate::labels;
use crate::plan::ContainerPlan;
use crate::run_state::Event;
use crate::shutdown::Interrupted;

/// Reported for a container that was stopped at its runtime limit and ended with 0: 128 + SIGTERM,
/// which is what ended it.
const STOPPED_AT_LIMIT: i64 = 143;

/// How often an engine that did not stop a container in time is told to kill it.
const KILL_TRIES: u32 = 3;

impl Run<'_> {
    /// Runs the container and says how it ended.
    pub(super) async fn execute(
        &mut self,
        plan: &ContainerPlan,
        engine: &dyn ContainerEngine,
    ) -> Result<Event, Stop> {
        let info = self
            .unless_halted(engine.info())
            .await?
            .map_err(failed("ask the engine"))?;
        let owner = Owner {
            job: self.config.job,
            container: self.config.container,
            executor: self.identity.clone(),
            attempt: self.attempt.as_ref().map(|attempt| attempt.number()),
        };
        let grace = self.config.limits.stop_grace;
        let spec = container_spec(plan, owner, self.mounts(plan)?, &info, grace);
        self.start_guardian();
        let container: Arc<dyn RunningContainer> = match self.start(engine, &spec).await? {
            // Somebody cleaned up between the pull and now. Once is bad luck.
            Err(EngineError::ImageNotFound { .. }) => {
                tracing::warn!(image = plan.image, "the image went away, pulling it again");
                self.fetch_image_again(plan, engine).await?;
                self.start(engine, &spec).await?
            }
            started => started,
        }
        .map(Arc::from)
        .map_err(failed("start the container"))?;
        self.container = Some(Arc::clone(&container));
        self.has_logs = true;
        self.parts.pool.container(container.id());
        tracing::info!(image = plan.image, "container started");
        self.step(Event::Started).await?;
        let started = self.parts.clock.elapsed();
        let (exit, timed_out) = self.wait(container.as_ref(), plan.limits.runtime).await?;
        let wall = self.parts.clock.elapsed().saturating_sub(started);
        let usage = container.usage();
        log_usage(usage);
        let usage = self.reports_usage.then(|| usage_to_report(usage, wall));
        let event = ended(container.as_ref(), plan, &exit, timed_out, usage);
        // Nothing may write to the outputs any more, not even a process that outlived its parent.
        self.remove_container()
            .await
            .map_err(|Interrupted| Stop::Interrupted)?;
        Ok(event)
    }

    /// Before there is a container, so that none is ever without one.
    fn start_guardian(&mut self) {
        let Some(program) = &self.parts.guardian else {
            return;
        };
        match program.start(&self.identity.instance) {
            Ok(guardian) => self.guardian = Some(guardian),
            Err(error) => tracing::warn!(
                "no guardian: {error}; should this process be killed, its container runs on until the next \
                 executor or `cts-executor reap` comes along"
            ),
        }
    }

    async fn start(
        &self,
        engine: &dyn ContainerEngine,
        spec: &ContainerSpec,
    ) -> Result<Result<Box<dyn RunningContainer>, EngineError>, Stop> {
        let limit = self.config.limits.log_bytes;
        let logs = self
            .on_disk("open the log files", move |workdir| {
                ContainerLogs::create(&workdir.stdout_log(), &workdir.stderr_log(), limit)
            })
            .await?;
        self.unless_halted(engine.run(spec.clone(), logs)).await
    }

    /// Waits for the end, at most the job's runtime.
    async fn wait(
        &mut self,
        container: &dyn RunningContainer,
        runtime: Duration,
    ) -> Result<(Exit, Option<Duration>), Stop> {
        let in_time = tokio::select! {
            biased;
            () = self.halt.cancelled() => return Err(self.why_halted()),
            exit = container.wait() => Some(exit),
            // The job was cancelled, or the service will not have this container's reports: stop now
            // instead of computing in vain.
            error = self.reporter.failed() => return Err(Stop::Report(error)),
            () = tokio::time::sleep(runtime) => None,
        };
        if let Some(exit) = in_time {
            return Ok((exit.map_err(failed("run the container"))?, None));
        }
        tracing::warn!(
            runtime_secs = runtime.as_secs(),
            "runtime limit reached, stopping the container"
        );
        let exit = self
            .unless_halted(stop(container, self.config.limits.stop_grace))
            .await?
            .map_err(failed("stop the container at its runtime limit"))?;
        Ok((exit, Some(runtime)))
    }

    fn mounts(&self, plan: &ContainerPlan) -> Result<Vec<Mount>, Stop> {
        let prefix = self.config.mount_prefix.as_ref();
        plan.mounts
            .iter()
            .map(|mount| {
                let host = self
                    .workdir
                    .on_host(&mount.host, prefix)
                    .map_err(failed("find the job directory on the container host"))?;
                Ok(Mount {
                    host,
                    container: mount.container.clone(),
                    read_only: mount.read_only,
                })
            })
            .collect()
    }
}

/// Stops the container and says how it ended. An engine that has much to do may answer late: what counts is the end,
/// and an infrastructure failure would blame the site for a tool that took too long.
async fn stop(container: &dyn RunningContainer, grace: Duration) -> Result<Exit, EngineError> {
    let stopping = async {
        let mut stopped = container.stop(grace).await;
        for _ in 0..KILL_TRIES {
            let Err(error) = stopped else { break };
            tracing::warn!("{error}; killing the container");
            stopped = container.kill().await;
        }
        stopped
    };
    tokio::select! {
        biased;
        exit = container.wait() => exit,
        Err(error) = stopping => Err(error),
    }
}

/// Whose a container is.
#[derive(Debug, Clone)]
pub struct Owner {
    /// The job.
    pub job: JobId,
    /// The container's number.
    pub container: ContainerNumber,
    /// The executor.
    pub executor: Identity,
    /// The executor's attempt, where the service counts them.
    pub attempt: Option<u32>,
}

/// What the engine is asked for: the plan, labelled, with its directories on the container host.
#[must_use]
pub fn container_spec(
    plan: &ContainerPlan,
    owner: Owner,
    mounts: Vec<Mount>,
    info: &EngineInfo,
    stop_grace: Duration,
) -> ContainerSpec {
    let Owner {
        job,
        container,
        executor,
        attempt,
    } = owner;
    let Identity {
        instance, process, ..
    } = executor;
    let mut labels = BTreeMap::from_iter(labels::of_container(job, container));
    labels.insert(labels::USER.to_owned(), plan.user.clone());
    labels.insert(labels::INSTANCE.to_owned(), instance.clone());
    if let Some(attempt) = attempt {
        labels.insert(labels::ATTEMPT.to_owned(), attempt.to_string());
    }
    if let Some(process) = process {
        labels.insert(labels::PROCESS.to_owned(), process.to_string());
    }
    ContainerSpec {
        name: container_name(&job, container, instance.get(..8).unwrap_or(&instance)),
        image: plan.image.clone(),
        command: plan.command.clone(),
        environment: plan
            .environment
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect(),
        mounts,
        cpus: usable_cpus(plan.limits.cpus, info.cpus),
        memory_bytes: plan.limits.memory_bytes,
        pids_limit: plan.limits.pids,
        labels,
        stop_grace,
    }
}

/// What an end means: the exit code to report, and words where the number does not say it all.
#[must_use]
pub fn judge(
    plan: &ContainerPlan,
    exit: &Exit,
    timed_out: Option<Duration>,
) -> (i64, Option<String>) {
    let oom_limit = exit.oom_killed.then_some(plan.limits.memory_bytes);
    let mut explanation = explain_exit(exit.code, oom_limit, timed_out);
    // A program that the init process cannot start is told of here and nowhere else.
    if let (code @ 1.., Some(engine)) = (exit.code, &exit.engine_error) {
        let words = explanation.unwrap_or_else(|| format!("the engine says about {code}"));
        explanation = Some(format!("{words}: {engine}"));
    }
    let exit_code = match (exit.code, timed_out) {
        (0, Some(_)) => STOPPED_AT_LIMIT,
        (code, _) => i64::from(code),
    };
    (exit_code, explanation)
}

/// Writes down how it ended and turns it into the event.
fn ended(
    container: &dyn RunningContainer,
    plan: &ContainerPlan,
    exit: &Exit,
    timed_out: Option<Duration>,
    usage: Option<ContainerUsage>,
) -> Event {
    let (exit_code, explanation) = judge(plan, exit, timed_out);
    for (stream, summary) in [("stdout", &exit.stdout), ("stderr", &exit.stderr)] {
        if let Some(error) = &summary.error {
            tracing::warn!("the container's {stream} is incomplete: {error}");
        } else if summary.dropped_bytes > 0 {
            tracing::warn!(
                dropped_bytes = summary.dropped_bytes,
                "the container's {stream} is longer than the limit, its middle is left out"
            );
        }
    }
    let words = explanation.as_deref().unwrap_or_default();
    if exit_code == 0 {
        tracing::info!("container exited with 0");
        if !words.is_empty() {
            tracing::warn!("{words}");
        }
    } else {
        let colon = if words.is_empty() { "" } else { ": " };
        tracing::error!("container exit code {exit_code}{colon}{words}");
        log_tail(&container.log_tail());
    }
    Event::Exited {
        exit_code,
        explanation,
        usage,
    }
}

/// What the container used, as it is reported.
fn usage_to_report(usage: Usage, wall: Duration) -> ContainerUsage {
    let whole = |time: Duration| u64::try_from(time.as_millis()).ok();
    let cpu = usage
        .cpu_seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    ContainerUsage {
        cpu_ms: cpu.and_then(whole),
        wall_ms: whole(wall),
        max_memory_bytes: usage.peak_memory_bytes,
    }
}

/// An engine refuses a limit above what it has; such a limit would not limit anything.
fn usable_cpus(wanted: u32, available: Option<u64>) -> f64 {
    let wanted = f64::from(wanted);
    match available
        .and_then(|cpus| u32::try_from(cpus).ok())
        .map(f64::from)
    {
        Some(available) if available < wanted => {
            tracing::warn!(
                wanted,
                available,
                "this host has fewer CPUs than the job asks for"
            );
            available
        }
        _ => wanted,
    }
}

/// One line on what the container used.
fn log_usage(usage: Usage) {
    if let (Some(cpu_seconds), Some(peak)) = (usage.cpu_seconds, usage.peak_memory_bytes) {
        tracing::info!(cpu_seconds, peak_memory_bytes = peak, "container usage");
    }
}

/// The end of what the container said, for the log of a failure.
fn log_tail(tail: &LogTail) {
    for (stream, text) in [("stderr", &tail.stderr), ("stdout", &tail.stdout)] {
        let lines: Vec<&str> = text.lines().rev().take(10).collect();
        for line in lines.iter().rev() {
            // Debug quoting keeps the container's control characters off the operator's terminal.
            tracing::info!("container {stream}: {line:?}");
        }
    }
}
