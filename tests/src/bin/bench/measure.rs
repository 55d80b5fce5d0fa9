//! Runs a program and measures it from outside, as the kernel accounts for it.

use std::io;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// A program that takes longer is killed: the whole benchmark must end.
const DEADLINE: Duration = Duration::from_secs(180);
/// How often the high-water mark is read. It only grows, so only what is reached in the very last
/// interval can be missed.
const SAMPLE_EVERY: Duration = Duration::from_millis(5);
/// `/proc/PID/stat` counts in hundredths of a second, whatever the kernel's own tick (`proc_pid_stat(5)`).
const TICK: Duration = Duration::from_millis(10);

/// What one run of a program took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Just before it was started.
    pub(crate) started: Instant,
    /// From then until it had ended.
    pub(crate) wall: Duration,
    /// User and system time of all its threads, to 10 ms.
    pub(crate) cpu: Duration,
    /// The largest resident set.
    pub(crate) peak_bytes: u64,
}

/// A program that cannot be measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MeasureError {
    /// Not started, or lost.
    #[error("cannot run {program}: {cause}")]
    NotRun { program: String, cause: io::Error },
    /// Ended in failure: its figures mean nothing.
    #[error("{program} failed ({status}); its messages are above, or in the log it was given")]
    Failed { program: String, status: ExitStatus },
}

/// Runs `command` to its end. Blocks.
///
/// # Errors
/// When it cannot be started, fails, or does not end within three minutes.
pub(crate) fn measure(command: &mut Command) -> Result<Usage, MeasureError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let not_run = |cause| MeasureError::NotRun {
        program: program.clone(),
        cause,
    };
    let started = Instant::now();
    let mut child = command.spawn().map_err(not_run)?;
    let pid = Pid::from_child(&child);
    let ended = AtomicBool::new(false);
    let (waited, wall, peak_bytes) = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| watch(pid, started, &ended));
        // Not reaped yet: the accounts of a process go with it.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let waited = waitid(WaitId::Pid(pid), options);
        let wall = started.elapsed();
        ended.store(true, Ordering::Relaxed);
        (waited, wall, sampler.join().unwrap_or_default())
    });
    let cpu = cpu_time(pid);
    let status = child.wait().map_err(not_run)?;
    waited.map_err(|error| not_run(error.into()))?;
    if !status.success() {
        return Err(MeasureError::Failed { program, status });
    }
    Ok(Usage {
        started,
        wall,
        cpu: cpu.ok_or_else(|| not_run(io::Error::other("its accounts cannot be read")))?,
        peak_bytes,
    })
}

/// The largest resident set seen until `ended`; kills the process at the deadline.
fn watch(pid: Pid, started: Instant, ended: &AtomicBool) -> u64 {
    let mut peak = 0;
    while !ended.load(Ordering::Relaxed) {
        peak = peak.max(high_water_bytes(pid).unwrap_or(0));
        if started.elapsed() > DEADLINE {
            // It may just have ended; it cannot have been reaped, so the pid is still its own.
            let _ended = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(SAMPLE_EVERY);
    }
    peak
}

fn high_water_bytes(pid: Pid) -> Option<u64> {
    let path = format!("/proc/{}/status", pid.as_raw_nonzero());
    let status = std::fs::read_to_string(path).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// User and system time of a process, of all its threads and of children it waited for.
fn cpu_time(pid: Pid) -> Option<Duration> {
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let stat = std::fs::read_to_string(path).ok()?;
    // After the name, which is in brackets and may hold anything; utime is field 14.
    let fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let ticks = fields.take(4).map(|field| field.parse::<u32>().ok());
    Some(TICK * ticks.sum::<Option<u32>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_measured() {
        let script = "i=0; while [ $i -lt 2000000 ]; do i=$((i+1)); done";
        let usage = measure(Command::new("sh").args(["-c", script])).unwrap();
        assert!(usage.cpu > Duration::ZERO && usage.wall >= TICK);
        assert!(usage.peak_bytes > 100_000);
    }

    #[test]
    fn a_failure_is_not_a_figure() {
        let failed = measure(Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert!(matches!(failed, MeasureError::Failed { .. }), "{failed}");
        let absent = measure(&mut Command::new("/nonexistent/program")).unwrap_err();
        assert!(matches!(absent, MeasureError::NotRun { .. }), "{absent}");
    }
}
