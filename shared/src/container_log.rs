//! Where a container's output is kept: below the job's log path, one object for each stream.

use crate::id::ContainerNumber;

/// One of a container's output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What the names of a container's logs start with: `container-<n>-`.
#[must_use]
pub fn log_name_prefix(container: ContainerNumber) -> String {
    format!("container-{container}-")
}

impl LogStream {
    /// What the names of the stream's logs end in: `stdout.txt`.
    #[must_use]
    pub const fn name_suffix(self) -> &'static str {
        match self {
            Self::Stdout => "stdout.txt",
            Self::Stderr => "stderr.txt",
        }
    }

    /// The name of a container's log: the last part of its key.
    #[must_use]
    pub fn file_name(self, container: ContainerNumber) -> String {
        log_name_prefix(container) + self.name_suffix()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_contracts() {
        assert_eq!(LogStream::Stdout.file_name(0), "container-0-stdout.txt");
        assert_eq!(LogStream::Stderr.file_name(12), "container-12-stderr.txt");
    }
}
