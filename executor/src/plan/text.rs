//! The plan as text for people.

use std::fmt::Write;

use super::ContainerPlan;

/// More files than this are counted, not listed: the JSON form lists all.
const MAX_FILES_SHOWN: usize = 50;

/// The plan for a terminal. Values that came with the job are quoted or escaped, so that no control
/// character of theirs reaches the terminal.
#[must_use]
pub fn to_text(plan: &ContainerPlan) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _infallible = write_plan(&mut text, plan);
    text
}

/// Text that came with the job, with its control characters escaped.
fn plain(text: &str) -> String {
    text.chars()
        .map(|char| match char.is_control() {
            true => char.escape_default().to_string(),
            false => char.to_string(),
        })
        .collect()
}

fn write_plan(out: &mut String, plan: &ContainerPlan) -> std::fmt::Result {
    writeln!(out, "image        {}", plain(&plan.image))?;
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
        writeln!(out, "  {}={value:?}", plain(name))?;
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
            plain(&mount.host.to_string_lossy()),
            plain(&mount.container)
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
    writeln!(out, "outputs to   {}", plain(&plan.output_prefix))?;
    let logs = plain(&plan.log_prefix);
    writeln!(out, "logs to      {logs}{{stdout,stderr}}.txt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(plain("/a b\u{1b}[2J\r\u{9b}é"), "/a b\\u{1b}[2J\\r\\u{9b}é");
    }
}
