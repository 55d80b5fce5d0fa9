//! Which process an executor is, in a form that others can check: boot, pid namespace, pid, start time. A pid
//! alone would soon be another process's.

use std::fmt;
use std::fs;
use std::io;
use std::str::FromStr;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

/// A process, told from every other one that ever was. As a label:
/// `<boot id>/<pid namespace>/<pid>/<start time in clock ticks since boot>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessMark {
    boot: String,
    namespace: u64,
    pid: u32,
    started: u64,
}

impl ProcessMark {
    /// This process.
    ///
    /// # Errors
    /// When `/proc` does not tell.
    pub fn of_this_process() -> io::Result<Self> {
        let Machine {
            boot, namespace, ..
        } = Machine::here(true)?;
        let pid = std::process::id();
        let started = start_time(&fs::read_to_string("/proc/self/stat")?)
            .ok_or_else(|| io::Error::other("/proc/self/stat has no start time"))?;
        Ok(Self {
            boot,
            namespace,
            pid,
            started,
        })
    }
}

impl fmt::Display for ProcessMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            boot,
            namespace,
            pid,
            started,
        } = self;
        write!(f, "{boot}/{namespace}/{pid}/{started}")
    }
}

impl FromStr for ProcessMark {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('/');
        let mut part = || parts.next().filter(|part| !part.is_empty()).ok_or(());
        let mark = Self {
            boot: part()?.to_owned(),
            namespace: part()?.parse().map_err(|_| ())?,
            pid: part()?.parse().map_err(|_| ())?,
            started: part()?.parse().map_err(|_| ())?,
        };
        match parts.next() {
            None => Ok(mark),
            Some(_) => Err(()),
        }
    }
}

/// Whether an executor is alive, as far as it can be told from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// It is there, or something with its pid that may be it.
    Alive,
    /// It is certainly gone; the reason.
    Dead(&'static str),
    /// It cannot be told; the reason.
    Unknown(&'static str),
}

/// What a look at a pid shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Process {
    Gone,
    /// When it started, if that may be seen.
    There(Option<u64>),
}

/// Where the judging process stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    boot: String,
    namespace: u64,
    /// The engine is on this machine, and so are all executors that use it.
    has_engine: bool,
}

impl Machine {
    /// This one.
    ///
    /// # Errors
    /// When `/proc` does not tell.
    pub fn here(has_engine: bool) -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let link = fs::read_link("/proc/self/ns/pid")?;
        let namespace = link
            .to_str()
            .and_then(|link| link.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok())
            .ok_or_else(|| io::Error::other("/proc/self/ns/pid names no namespace"))?;
        Ok(Self {
            boot: boot.trim().to_owned(),
            namespace,
            has_engine,
        })
    }

    /// Whether the process of a mark is alive.
    #[must_use]
    pub fn judge(&self, mark: &ProcessMark) -> Judgement {
        self.judge_by(mark, look_at)
    }

    fn judge_by(&self, mark: &ProcessMark, look_at: impl FnOnce(u32) -> Process) -> Judgement {
        // Before the boot: LXC and systemd-nspawn give each of their machines a boot id of its own. The
        // namespace of a whole machine is the same after each of its boots.
        if mark.namespace != self.namespace {
            return Judgement::Unknown("its executor's processes are hidden from here");
        }
        if mark.boot != self.boot {
            return if self.has_engine {
                Judgement::Dead("this machine was started again since")
            } else {
                Judgement::Unknown("its executor may be on another machine")
            };
        }
        match look_at(mark.pid) {
            Process::Gone => Judgement::Dead("its executor is gone"),
            Process::There(Some(started)) if started != mark.started => {
                Judgement::Dead("its executor is gone, and its pid is another process's")
            }
            Process::There(_) => Judgement::Alive,
        }
    }
}

/// Asks the kernel, not `/proc` alone: that may hide what other users run.
fn look_at(pid: u32) -> Process {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let Some(raw) = raw else { return Process::Gone };
    if test_kill_process(raw) == Err(Errno::SRCH) {
        return Process::Gone;
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    match stat {
        // A zombie does nothing any more.
        Some(stat) if fields_after_name(&stat).next() == Some("Z") => Process::Gone,
        stat => Process::There(stat.and_then(|stat| start_time(&stat))),
    }
}

/// The start time in `/proc/<pid>/stat`: field 22 (`proc_pid_stat(5)`).
fn start_time(stat: &str) -> Option<u64> {
    // Field 3 is the first after the name.
    fields_after_name(stat).nth(22 - 3)?.parse().ok()
}

/// The name of the program is in parentheses and may have any characters, parentheses included.
fn fields_after_name(stat: &str) -> impl Iterator<Item = &str> {
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_ascii_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(has_engine: bool) -> Machine {
        Machine {
            boot: "b".to_owned(),
            namespace: 7,
            has_engine,
        }
    }

    #[test]
    fn only_what_is_certainly_gone_is_dead() {
        let mark = |text: &str| text.parse::<ProcessMark>().unwrap();
        for (text, process, expected) in [
            ("b/7/12/34", Process::Gone, "dead"),
            ("b/7/12/34", Process::There(Some(35)), "dead"),
            ("b/7/12/34", Process::There(Some(34)), "alive"),
            ("b/7/12/34", Process::There(None), "alive"),
            ("b/8/12/34", Process::Gone, "unknown"),
            ("other/7/12/34", Process::There(Some(34)), "dead"),
            // LXC and systemd-nspawn give each of their machines a boot id of its own.
            ("other/8/12/34", Process::Gone, "unknown"),
        ] {
            let judgement = machine(true).judge_by(&mark(text), |pid| {
                assert_eq!(pid, 12);
                process
            });
            let word = match judgement {
                Judgement::Alive => "alive",
                Judgement::Dead(_) => "dead",
                Judgement::Unknown(_) => "unknown",
            };
            assert_eq!(word, expected, "{text} {process:?}");
        }
        let elsewhere = machine(false).judge_by(&mark("other/7/12/34"), |_| Process::Gone);
        assert!(matches!(elsewhere, Judgement::Unknown(_)), "{elsewhere:?}");
    }

    #[test]
    fn a_mark_is_read_as_it_is_written_and_nothing_else_is_one() {
        let mark = ProcessMark::of_this_process().unwrap();
        assert_eq!(mark.to_string().parse(), Ok(mark));
        for text in [
            "",
            "b/7/12",
            "b/7/12/34/5",
            "/7/12/34",
            "b/7/-1/34",
            "b/x/12/34",
        ] {
            assert_eq!(text.parse::<ProcessMark>(), Err(()), "{text}");
        }
    }

    #[test]
    fn living_dead_and_replaced_processes_are_told_apart() {
        let here = Machine::here(true).unwrap();
        let mut mark = ProcessMark::of_this_process().unwrap();
        assert_eq!(here.judge(&mark), Judgement::Alive);
        mark.started += 1;
        assert!(matches!(here.judge(&mark), Judgement::Dead(_)));

        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        mark.pid = child.id();
        mark.started = start_time(&stat).unwrap();
        assert_eq!(here.judge(&mark), Judgement::Alive);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(here.judge(&mark), Judgement::Dead(_)));
    }

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        for name in ["a", "a b", "a) S 1 (", ""] {
            assert_eq!(start_time(&format!("9 ({name}) {rest}")), Some(4711));
        }
        assert_eq!(start_time("9 (a) S 1 2"), None);
        assert_eq!(start_time(""), None);
    }
}
