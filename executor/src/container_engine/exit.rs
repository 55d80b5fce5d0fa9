//! How a container ended, and what that means in words.

use std::time::Duration;

use super::LogSummary;

/// How a container ended. An end without a believable exit code is an
/// [`EngineError::ExitUnknown`](super::EngineError::ExitUnknown), not an `Exit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, 0 to 255.
    pub code: u8,
    /// The kernel killed a process of the container for want of memory. With code 0: a child was killed and its
    /// parent carried on, so that the result may be incomplete.
    pub oom_killed: bool,
    /// What the engine itself had to say about the end, if anything.
    pub engine_error: Option<String>,
    /// What became of standard output.
    pub stdout: LogSummary,
    /// What became of standard error.
    pub stderr: LogSummary,
}

impl Exit {
    /// An end with this code and nothing else to tell.
    #[must_use]
    pub fn with_code(code: u8) -> Self {
        Self {
            code,
            oom_killed: false,
            engine_error: None,
            stdout: LogSummary::default(),
            stderr: LogSummary::default(),
        }
    }
}

/// Says what an end means, where its number does not. None for 0 and for codes of the tool's own.
///
/// `oom_limit_bytes`: the memory limit, if the kernel killed a process of the container for reaching it.
/// `timed_out`: the runtime limit, if the executor stopped the container for reaching it.
///
/// The codes 125 to 127 are the convention of shells and container engines; 128 plus a signal's number is how a
/// process killed by that signal is reported.
#[must_use]
pub fn explain_exit(
    code: u8,
    oom_limit_bytes: Option<u64>,
    timed_out: Option<Duration>,
) -> Option<String> {
    if let Some(limit) = timed_out {
        return Some(format!(
            "stopped because it reached its runtime limit of {} s; ask for a longer runtime or give each container less input",
            limit.as_secs()
        ));
    }
    if let Some(limit) = oom_limit_bytes {
        let limit = in_megabytes(limit);
        return Some(if code == 0 {
            format!(
                "exited with 0, but the kernel killed one of its processes at the memory limit of {limit}; the results may be incomplete; ask for more memory"
            )
        } else {
            format!(
                "killed at its memory limit of {limit}; ask for more memory or give each container less input"
            )
        });
    }
    match code {
        125 => Some("by convention a failure of the container engine itself; if the tool did not return it, look at the engine's log".to_owned()),
        126 => Some("by convention a command that was found but cannot be run: not executable, or built for another architecture".to_owned()),
        127 => Some("by convention a command that was not found: the entrypoint, or one that a script calls".to_owned()),
        129..=192 => {
            let number = code - 128;
            let name = signal_name(number).map_or(String::new(), |name| format!(" ({name})"));
            let advice = match number {
                9 => "; the engine did not say that memory ran out, but some never do: ask for more memory, or find out who killed it",
                4 => "; the program may be built for a newer processor",
                11 | 6 | 7 | 8 => "; the program crashed",
                24 => "; a processor time limit was reached",
                25 => "; a file size limit was reached",
                _ => "",
            };
            Some(format!("killed by signal {number}{name}{advice}"))
        }
        _ => None,
    }
}

fn in_megabytes(bytes: u64) -> String {
    const MIB: u64 = 1024 * 1024;
    const MB: u64 = 1_000_000;
    if bytes >= MIB && bytes.is_multiple_of(MIB) {
        format!("{} MiB", bytes / MIB)
    } else if bytes >= MB && bytes.is_multiple_of(MB) {
        format!("{} MB", bytes / MB)
    } else {
        format!("{bytes} bytes")
    }
}

/// Names of the signals on Linux that end a process by default.
fn signal_name(number: u8) -> Option<&'static str> {
    Some(match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_codes_need_no_words() {
        for code in [0, 1, 2, 3, 124, 128, 255] {
            assert_eq!(explain_exit(code, None, None), None, "{code}");
        }
    }

    #[test]
    fn conventional_codes_are_named() {
        for (code, words) in [
            (125, "container engine"),
            (126, "cannot be run"),
            (127, "not found"),
            (137, "SIGKILL"),
            (139, "SIGSEGV"),
            (143, "SIGTERM"),
        ] {
            let said = explain_exit(code, None, None).unwrap();
            assert!(said.contains(words), "{code}: {said}");
        }
    }

    #[test]
    fn memory_and_time_come_before_the_signal() {
        let said = explain_exit(137, Some(512 * 1024 * 1024), None).unwrap();
        assert!(said.contains("memory limit of 512 MiB"), "{said}");
        let said = explain_exit(0, Some(5), None).unwrap();
        assert!(
            said.contains("incomplete") && said.contains("5 bytes"),
            "{said}"
        );
        let said = explain_exit(143, None, Some(Duration::from_secs(60))).unwrap();
        assert!(said.contains("runtime limit of 60 s"), "{said}");
    }
}
