//! Processes of the testbed: started detached, recognised beyond doubt, stopped with a deadline.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

const POLL: Duration = Duration::from_millis(50);
/// After SIGKILL only the kernel is left to wait for.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// A process that cannot be mistaken for a later one with the same pid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessId {
    /// Its pid.
    pub(super) pid: i32,
    /// Its start, in clock ticks since boot (field 22 of `/proc/PID/stat`).
    start_ticks: u64,
    /// The boot those ticks count from.
    boot_id: String,
}

impl ProcessId {
    /// The process that has `pid` now; `None` if there is none or it has ended unreaped.
    pub(super) fn of(pid: i32) -> Option<Self> {
        let (state, _, start_ticks) = stat(pid)?;
        (state != 'Z' && state != 'X').then(|| Self {
            pid,
            start_ticks,
            boot_id: boot_id(),
        })
    }

    /// Whether this very process still runs.
    pub(super) fn is_running(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// Sends a signal, if it still runs.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.is_running()) {
            // It may have ended since the check; the caller looks again anyway.
            let _ = kill_process(pid, signal);
        }
    }
}

/// State letter, parent pid and start time of a process.
fn stat(pid: i32) -> Option<(char, i32, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name is in parentheses and may itself hold spaces and parentheses.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let start = fields.nth(17)?.parse().ok()?;
    Some((state, parent, start))
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

/// Starts `command` in a process group of its own, so that Ctrl-C at the terminal does not reach
/// it, with its output appended to `log`.
///
/// # Errors
/// When the log cannot be opened or the program cannot be started.
pub(super) fn spawn_daemon(command: &mut Command, log: &Path) -> io::Result<ProcessId> {
    let log = File::options().create(true).append(true).open(log)?;
    let child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    ProcessId::of(pid).ok_or_else(|| io::Error::other("it ended at once"))
}

/// A process as `/proc` shows it.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) id: ProcessId,
    parent: i32,
    /// Last component of the program's path.
    pub(super) program: OsString,
    pub(super) arguments: Vec<OsString>,
    /// The process's cgroups, as the kernel lists them.
    pub(super) cgroups: String,
}

impl Seen {
    /// Its root directory, where that can be looked at; for one in a mount namespace of its own, the path
    /// that it has there.
    pub(super) fn root(&self) -> Option<PathBuf> {
        std::fs::read_link(format!("/proc/{}/root", self.id.pid)).ok()
    }

    /// Its pid in the innermost process namespace that it is in.
    pub(super) fn innermost_pid(&self) -> Option<i32> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id.pid)).ok()?;
        let pids = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))?;
        pids.split_ascii_whitespace().last()?.parse().ok()
    }

    /// Whether any argument contains `text`.
    pub(super) fn mentions(&self, text: &OsStr) -> bool {
        let text = text.as_bytes();
        self.arguments.iter().any(|argument| {
            argument
                .as_bytes()
                .windows(text.len())
                .any(|part| part == text)
        })
    }
}

/// All processes that can be looked at.
pub(super) fn all() -> Vec<Seen> {
    let pids = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let id = ProcessId::of(pid)?;
        let (_, parent, _) = stat(pid)?;
        let cmdline = std::fs::read(proc.join("cmdline")).ok()?;
        let arguments: Vec<OsString> = cmdline
            .split(|byte| *byte == 0)
            .map(|argument| OsStr::from_bytes(argument).to_owned())
            .collect();
        let program = Path::new(arguments.first()?)
            .file_name()
            .unwrap_or_default()
            .to_owned();
        let cgroups = std::fs::read_to_string(proc.join("cgroup")).unwrap_or_default();
        Some(Seen {
            id,
            parent,
            program,
            arguments,
            cgroups,
        })
    })
    .collect()
}

/// `roots` and everything below them in the process tree.
pub(super) fn with_descendants(all: &[Seen], roots: Vec<ProcessId>) -> Vec<ProcessId> {
    let mut found = roots;
    let mut next = 0;
    while let Some(parent) = found.get(next).map(|process| process.pid) {
        let children = all
            .iter()
            .filter(|seen| seen.parent == parent)
            .map(|seen| seen.id.clone());
        for child in children {
            if !found.contains(&child) {
                found.push(child);
            }
        }
        next += 1;
    }
    found
}

/// SIGTERM, `grace`, SIGKILL. Returns those that are there even after that.
pub(super) async fn stop(processes: &[ProcessId], grace: Duration) -> Vec<ProcessId> {
    for (signal, wait) in [(Signal::TERM, grace), (Signal::KILL, KILL_WAIT)] {
        for process in processes {
            process.signal(signal);
        }
        let deadline = Instant::now() + wait;
        while processes.iter().any(ProcessId::is_running) && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
    }
    processes
        .iter()
        .filter(|process| process.is_running())
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_recognised_and_stopped() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let process = spawn_daemon(Command::new("sleep").arg("600"), log.path()).unwrap();
        assert!(process.is_running());
        let other = ProcessId {
            start_ticks: process.start_ticks + 1,
            ..process.clone()
        };
        assert!(!other.is_running(), "another start time is another process");
        // A process has no arguments yet when its start returns.
        let is_seen = || {
            all()
                .iter()
                .any(|seen| seen.id == process && seen.mentions(OsStr::new("600")))
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_seen() {
            assert!(Instant::now() < deadline, "it is never seen");
            tokio::time::sleep(POLL).await;
        }
        assert!(
            stop(std::slice::from_ref(&process), Duration::from_secs(10))
                .await
                .is_empty()
        );
        assert!(!process.is_running());
    }

    #[test]
    fn descendants_follow_parents() {
        let this = ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let found = with_descendants(&all(), vec![this]);
        assert!(
            found
                .iter()
                .any(|process| process.pid == i32::try_from(child.id()).unwrap())
        );
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
