//! Processes found again after the service was killed.

use std::path::Path;

use rustix::process::Pid;
use tokio::process::Child;

/// A process id together with when that process started, because ids are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessIdentity {
    pid: Pid,
    /// Clock ticks between boot and the start: field 22 of `/proc/<pid>/stat`, see proc(5).
    start_ticks: u64,
}

impl ProcessIdentity {
    /// The identity of a live process. None for one that has ended, waited for or not.
    pub(crate) fn of(pid: Pid) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        // The second field is the command in parentheses and may hold anything, spaces included.
        let (_, after_command) = stat.rsplit_once(')')?;
        let mut fields = after_command.split_ascii_whitespace();
        // A zombie has ended; its parent has only not asked yet.
        if fields.next()? == "Z" {
            return None;
        }
        // `after_command` starts with field 3, of which one is taken: 18 more lie before field 22.
        let start_ticks = fields.nth(18)?.parse().ok()?;
        Some(Self { pid, start_ticks })
    }

    /// Its process id.
    pub(crate) const fn pid(self) -> Pid {
        self.pid
    }

    /// Whether that very process still runs.
    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Reads what [`Self::write`] wrote.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        let (pid, start_ticks) = text.trim().split_once(' ')?;
        Some(Self {
            pid: Pid::from_raw(pid.parse().ok()?)?,
            start_ticks: start_ticks.parse().ok()?,
        })
    }

    /// Writes process id and start into a file.
    pub(crate) fn write(self, path: &Path) -> std::io::Result<()> {
        std::fs::write(
            path,
            format!("{} {}\n", self.pid.as_raw_nonzero(), self.start_ticks),
        )
    }
}

/// The id of a child that was not waited for yet.
pub(crate) fn child_pid(child: &Child) -> Option<Pid> {
    child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_again_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let identity = ProcessIdentity::of(pid).unwrap();
        identity.write(&file).unwrap();
        let found = ProcessIdentity::read(&file).unwrap();
        assert_eq!(found, identity);
        assert!(found.is_alive());
        let reused = ProcessIdentity {
            start_ticks: found.start_ticks + 1,
            ..found
        };
        assert!(!reused.is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!found.is_alive());
    }
}
