//! The sites where containers run and what one node of each offers (contract service.md, section 4).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A compute site; the wire format calls it `cluster`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Site {
    /// NERSC's Perlmutter through JAWS. Known, never available in this system.
    #[serde(rename = "perlmutter-jaws")]
    PerlmutterJaws,
    /// LBNL's Lawrencium through JAWS. Known, never available in this system.
    #[serde(rename = "lawrencium-jaws")]
    LawrenciumJaws,
    /// KBase's HTCondor pool.
    #[serde(rename = "kbase")]
    Kbase,
    /// Executors as child processes of the service; our addition to the contract's list.
    #[serde(rename = "local")]
    Local,
}

/// What a site offers a container: a row of the contract's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SiteLimits {
    /// Number of nodes, if known.
    pub nodes: Option<u32>,
    /// CPUs of one node: the most a container may ask for.
    pub cpus_per_node: u32,
    /// Memory of one node in GB (10^9 bytes).
    pub memory_per_node_gb: u32,
    /// Longest runtime in minutes.
    pub max_runtime_min: u32,
    /// Whether the service follows each container; elsewhere only the site does.
    pub containers_are_tracked: bool,
}

impl Site {
    /// Every site, in the contract's order, ours last.
    pub const ALL: [Self; 4] = [
        Self::PerlmutterJaws,
        Self::LawrenciumJaws,
        Self::Kbase,
        Self::Local,
    ];

    /// Whether the site's batch system gives an account of what an ended job used, some time later: see
    /// [`JobOutcome::statistics_due`](crate::state::job_flow::JobOutcome::statistics_due).
    #[must_use]
    pub const fn gives_account(self) -> bool {
        matches!(self, Self::Kbase)
    }

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PerlmutterJaws => "perlmutter-jaws",
            Self::LawrenciumJaws => "lawrencium-jaws",
            Self::Kbase => "kbase",
            Self::Local => "local",
        }
    }

    /// The site's limits.
    #[must_use]
    pub const fn limits(self) -> SiteLimits {
        match self {
            Self::PerlmutterJaws => SiteLimits {
                nodes: Some(3072),
                cpus_per_node: 256,
                memory_per_node_gb: 492,
                max_runtime_min: 2865,
                containers_are_tracked: false,
            },
            Self::LawrenciumJaws => SiteLimits {
                nodes: Some(8),
                cpus_per_node: 32,
                memory_per_node_gb: 492,
                max_runtime_min: 4305,
                containers_are_tracked: false,
            },
            Self::Kbase | Self::Local => SiteLimits {
                nodes: None,
                cpus_per_node: 168,
                memory_per_node_gb: 990,
                max_runtime_min: 10065,
                containers_are_tracked: true,
            },
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name is no site's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a site; the sites are perlmutter-jaws, lawrencium-jaws, kbase and local")]
pub struct UnknownSite(String);

impl FromStr for Site {
    type Err = UnknownSite;

    fn from_str(text: &str) -> Result<Self, UnknownSite> {
        Self::ALL
            .into_iter()
            .find(|site| site.as_str() == text)
            .ok_or_else(|| UnknownSite(text.to_owned()))
    }
}
