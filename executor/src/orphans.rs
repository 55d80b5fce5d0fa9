//! Containers whose executor is gone.
//!
//! A container is a child of the engine, so it outlives an executor that is killed. Four things see to it
//! that it does not live on for long:
//! - [`guardian`](crate::guardian): a process beside the executor that removes the container when the
//!   executor dies;
//! - [`of_this_container`]: the next executor of the same container, before it starts its own;
//! - [`sweep`]: any next executor on this machine, and `cts-executor reap`, which a cron or the pool runs;
//! - the label [`labels::PROCESS`], which lets them tell the dead from the living.
//!
//! A container whose executor cannot be judged is left alone.

use std::collections::BTreeMap;

use cts_shared::id::{ContainerNumber, JobId};

use crate::container_engine::{ContainerEngine, ContainerSummary, EngineError};
use crate::labels;
use process_mark::{Judgement, Machine};

pub mod process_mark;

/// What was found about one container, and what was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The container.
    pub container: ContainerSummary,
    /// About its executor.
    pub judgement: Judgement,
    /// Why the container could not be removed, if it should have been.
    pub problem: Option<EngineError>,
}

/// Judges every container of an executor, on this engine; removes those whose executor is gone, unless it is
/// only to be told what would happen (`dry_run`).
///
/// # Errors
/// When the engine cannot be asked.
pub async fn sweep(
    engine: &dyn ContainerEngine,
    machine: &Machine,
    dry_run: bool,
) -> Result<Vec<Finding>, EngineError> {
    let any = [(labels::JOB.to_owned(), String::new())];
    let mut findings = Vec::new();
    for container in engine.list(&any).await? {
        let judgement = judge(&container.labels, Some(machine));
        let problem = match judgement {
            Judgement::Dead(_) if !dry_run => engine.remove(&container.id).await.err(),
            _ => None,
        };
        findings.push(Finding {
            container,
            judgement,
            problem,
        });
    }
    Ok(findings)
}

/// What earlier executors of one container left. Where the service counts attempts, that is every container
/// of the same number but those of later attempts: the caller may have stood still since it got its own.
/// Elsewhere an executor that is alive keeps its container, if it can be told (`machine`) that it is.
///
/// # Errors
/// When the engine cannot be asked.
pub async fn of_this_container(
    engine: &dyn ContainerEngine,
    machine: Option<&Machine>,
    (job, number): (JobId, ContainerNumber),
    attempt: Option<u32>,
) -> Result<Vec<ContainerSummary>, EngineError> {
    let found = engine.list(&labels::of_container(job, number)).await?;
    let is_left = |container: &ContainerSummary| match attempt {
        Some(ours) => attempt_of(container).is_none_or(|theirs| theirs <= ours),
        None => judge(&container.labels, machine) != Judgement::Alive,
    };
    Ok(found.into_iter().filter(is_left).collect())
}

fn attempt_of(container: &ContainerSummary) -> Option<u32> {
    container.labels.get(labels::ATTEMPT)?.parse().ok()
}

fn judge(labels: &BTreeMap<String, String>, machine: Option<&Machine>) -> Judgement {
    let mark = labels.get(labels::PROCESS).map(|mark| mark.parse());
    match (mark, machine) {
        (Some(Ok(mark)), Some(machine)) => machine.judge(&mark),
        (_, None) => Judgement::Unknown("this machine does not tell which processes it has"),
        (_, Some(_)) => Judgement::Unknown("nothing says which process started it"),
    }
}
