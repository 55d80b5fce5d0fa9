//! Identifiers. Parsed once at the edge, so that code inside never meets a malformed one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A job's id: a UUID, written in lower case with hyphens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(Uuid);

/// The text is not a UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a job id; a job id is a UUID such as 986e5df7-f7f3-48d3-b388-29346ddb6656")]
pub struct InvalidJobId(String);

impl JobId {
    /// Wraps a UUID.
    #[must_use]
    pub const fn new(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl FromStr for JobId {
    type Err = InvalidJobId;

    /// Accepts every form a UUID parser takes: any case, with or without hyphens, braces, `urn:uuid:`.
    fn from_str(text: &str) -> Result<Self, InvalidJobId> {
        Uuid::parse_str(text.trim())
            .map(Self)
            .map_err(|_| InvalidJobId(text.to_owned()))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

/// A container's number within its job, counted from 0.
pub type ContainerNumber = u32;
