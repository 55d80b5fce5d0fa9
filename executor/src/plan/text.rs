//! The plan as text for people.

use std::fmt::Write;

use super::ContainerPlan;

/// More files than this are counted, not listed: the JSON form lists all.
const MAX_FILES_SHOWN: usize = 50;

/// The plan for a terminal. Values that came with the job are quoted, so that no control character
/// of theirs reaches the terminal.
#[must_use]
pub fn to_text(plan: &ContainerPlan) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _infallible = write_plan(&mut text, plan);
    text
}

fn write_plan(out: &mut String, plan: &ContainerPlan) -> std::fmt::Result {
    writeln!(out, "image        {}", plan.image)?;
    writeln!(out, "command")?;
    for argument in &plan.command {
        writeln!(out, "  {argument:?}")?;
    }
    writeln!(
        out,
        "environment{}",
        if plan.environment.is_empty() {
            "  none"
        } else {
            ""
        }
    )?;
    for (name, value) in &plan.environment {
        writeln!(out, "  {name}={value:?}")?;
    }
    writeln!(out, "mounts")?;
    for mount in &plan.mounts {
        let access = if mount.read_only {
            "read-only"
        } else {
            "read-write"
        };
        writeln!(
            out,
            "  {} -> {} ({access})",
            mount.host.display(),
            mount.container
        )?;
    }
    writeln!(out, "input files  {}", plan.files.len())?;
    for file in plan.files.iter().take(MAX_FILES_SHOWN) {
        writeln!(
            out,
            "  {:?} {} -> {:?}",
            file.file.to_string(),
            file.crc64nvme,
            file.path.as_str()
        )?;
    }
    if plan.files.len() > MAX_FILES_SHOWN {
        writeln!(
            out,
            "  and {} more (--format json lists all)",
            plan.files.len() - MAX_FILES_SHOWN
        )?;
    }
    if let Some(manifest) = &plan.manifest {
        writeln!(out, "manifest     {:?}", manifest.path.as_str())?;
    }
    let limits = plan.limits;
    writeln!(out, "limits")?;
    writeln!(out, "  cpus       {}", limits.cpus)?;
    writeln!(out, "  memory     {} bytes, no swap", limits.memory_bytes)?;
    writeln!(out, "  processes  {}", limits.pids)?;
    writeln!(out, "  runtime    {:?}", limits.runtime)?;
    writeln!(out, "outputs to   {}", plan.output_prefix)?;
    writeln!(out, "logs to      {}{{stdout,stderr}}.txt", plan.log_prefix)
}
