//! Why the testbed could not be had.

use std::fmt;
use std::path::{Path, PathBuf};

/// How much of a component's log an error shows.
const TAIL_LINES: usize = 15;
/// How many bytes at the end of a log are searched for those lines.
const TAIL_BYTES: u64 = 16 * 1024;

/// A component could not be installed, started, reached or stopped.
#[derive(Debug, thiserror::Error)]
pub struct TestbedError {
    component: &'static str,
    problem: String,
    next_step: String,
    log: Option<(PathBuf, Vec<String>)>,
}

impl TestbedError {
    /// `problem` says what failed and why, `next_step` what the reader can do about it.
    pub fn new(
        component: &'static str,
        problem: impl Into<String>,
        next_step: impl Into<String>,
    ) -> Self {
        Self {
            component,
            problem: problem.into(),
            next_step: next_step.into(),
            log: None,
        }
    }

    /// Adds the last lines of the component's log.
    #[must_use]
    pub fn with_log(mut self, path: &Path) -> Self {
        self.log = Some((path.to_owned(), tail(path)));
        self
    }

    /// The component that failed.
    pub fn component(&self) -> &'static str {
        self.component
    }
}

impl fmt::Display for TestbedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}; {}",
            self.component, self.problem, self.next_step
        )?;
        if let Some((path, lines)) = &self.log {
            write!(f, "\n  the end of {}:", path.display())?;
            for line in lines {
                write!(f, "\n  | {line}")?;
            }
        }
        Ok(())
    }
}

/// The last lines of a log; empty when it cannot be read, because the error at hand matters more.
fn tail(path: &Path) -> Vec<String> {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(TAIL_LINES);
    lines
        .iter()
        .skip(first)
        .map(|line| (*line).to_owned())
        .collect()
}
