//! What an operator decides about the service.
//!
//! | module | what lives there |
//! |---|---|
//! | [`keys`], [`kind`] | every setting: name, variable, default, what it may be |
//! | [`settings`] | the settings of `serve`, read from a file and the environment, checked |
//! | [`explain`] | what `check-config` prints |
//! | [`fault`] | what is wrong, and where it stands |

use std::path::PathBuf;
use std::time::Duration;

use axum::http::HeaderValue;

use cts_shared::s3_path::{Bucket, S3Path};

pub mod explain;
pub mod fault;
mod file;
pub mod keys;
pub mod kind;
mod reader;
pub mod settings;
mod suggest;

pub use reader::{Explained, Sources};

/// What the use cases and the HTTP routes go by.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where users may read and write; no restriction if empty.
    pub allowed_paths: Vec<PathPrefix>,
    /// Where container logs go: not a place for outputs.
    pub log_dir: PathPrefix,
    /// Most CPU hours one job may ask for: CPUs x containers x runtime.
    pub max_cpu_hours: f64,
    /// What workers download.
    pub worker_files: WorkerFiles,
    /// Whether stored jobs are handed to their sites. Not in test mode (contract config.md).
    pub start_jobs: bool,
    /// When what ended jobs left behind is removed.
    pub cleaning: Cleaning,
    /// What one request may cost.
    pub request_limits: RequestLimits,
    /// Prefix that a reverse proxy takes away, for the API's documentation.
    pub root_path: Option<String>,
    /// Pages of these origins (scheme, host, port) may call the service from a browser.
    pub cors_origins: Vec<HeaderValue>,
}

/// Files that the service hands to workers (contract service.md, section 6, "Files for workers").
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkerFiles {
    /// `/external_exec/files/condor/executable.sh`
    pub executable: Option<PathBuf>,
    /// `/external_exec/files/code_archive.tgz`
    pub archive: Option<PathBuf>,
}

/// Default of [`Config::max_cpu_hours`] (contract config.md).
pub const DEFAULT_MAX_CPU_HOURS: f64 = 100.0;

/// When what ended jobs left behind at their sites is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cleaning {
    /// Between two rounds.
    pub interval: Duration,
    /// How long ago a job must have ended.
    pub age: Duration,
}

impl Default for Cleaning {
    /// As the contract has it (config.md): every day, after thirty.
    fn default() -> Self {
        Self {
            interval: Duration::from_hours(24),
            age: Duration::from_hours(30 * 24),
        }
    }
}

/// What one request may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// Largest body.
    pub max_body_bytes: usize,
    /// How long it may take until the answer begins.
    pub timeout: Duration,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            // A submission of 10,000 files with the longest paths and data ids is half of this.
            max_body_bytes: 32 * 1024 * 1024,
            // Such a submission takes its time where the store is slow.
            timeout: Duration::from_secs(300),
        }
    }
}

/// A bucket, or a bucket and key prefix; ends in one `/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathPrefix(String);

/// The text is no bucket or S3 path.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text:?} is not a bucket or a path in one: {cause}")]
pub struct InvalidPathPrefix {
    text: String,
    cause: String,
}

impl std::str::FromStr for PathPrefix {
    type Err = InvalidPathPrefix;

    fn from_str(text: &str) -> Result<Self, InvalidPathPrefix> {
        let invalid = |cause: String| InvalidPathPrefix {
            text: text.to_owned(),
            cause,
        };
        let trimmed = text.trim().trim_end_matches('/');
        let valid = if trimmed.contains('/') {
            S3Path::parse(trimmed)
                .map_err(|error| invalid(error.to_string()))?
                .to_string()
        } else {
            Bucket::parse(trimmed)
                .map_err(|error| invalid(error.to_string()))?
                .to_string()
        };
        Ok(Self(format!("{valid}/")))
    }
}

impl PathPrefix {
    /// The prefix, with its final `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether an S3 path lies below.
    #[must_use]
    pub fn contains(&self, path: &str) -> bool {
        path.starts_with(&self.0)
    }

    /// A path below, without a `/` at its end.
    #[must_use]
    pub fn join(&self, rest: impl std::fmt::Display) -> String {
        format!("{}{rest}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_in_one_slash() {
        let prefix: PathPrefix = "cts".parse().unwrap();
        assert_eq!(prefix.as_str(), "cts/");
        let prefix: PathPrefix = "cts/logs//".parse().unwrap();
        assert_eq!(prefix.as_str(), "cts/logs/");
        assert_eq!(prefix.join("x"), "cts/logs/x");
        assert!(prefix.contains("cts/logs/a"));
        assert!(!prefix.contains("cts/logsa"));
        assert!("".parse::<PathPrefix>().is_err());
        assert!("C".parse::<PathPrefix>().is_err());
    }
}
