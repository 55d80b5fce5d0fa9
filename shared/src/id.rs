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

/// Reference data's id: 1 to 50 of the characters `A-Z a-z 0-9 _ -`, and so always a plain file name. Its
/// data lies below a directory of that name.
///
/// This service makes them as UUIDs. The contract lets all of Unicode's letters and digits pass in paths; no
/// service makes such ids, and look-alikes have no place in file names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RefdataId(String);

/// The text cannot be the id of reference data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an id of reference data; one has 1 to 50 letters, digits, underscores or hyphens"
)]
pub struct InvalidRefdataId(String);

impl RefdataId {
    /// Most characters.
    pub const MAX_LENGTH: usize = 50;

    /// A new id.
    #[must_use]
    pub fn of_uuid(uuid: Uuid) -> Self {
        Self(uuid.as_hyphenated().to_string())
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RefdataId {
    type Error = InvalidRefdataId;

    fn try_from(text: String) -> Result<Self, InvalidRefdataId> {
        let is_valid = (1..=Self::MAX_LENGTH).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        if is_valid {
            Ok(Self(text))
        } else {
            Err(InvalidRefdataId(text.chars().take(100).collect()))
        }
    }
}

impl FromStr for RefdataId {
    type Err = InvalidRefdataId;

    fn from_str(text: &str) -> Result<Self, InvalidRefdataId> {
        Self::try_from(text.to_owned())
    }
}

impl From<RefdataId> for String {
    fn from(id: RefdataId) -> Self {
        id.0
    }
}

impl fmt::Display for RefdataId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_reference_data_is_a_plain_file_name() {
        for good in ["a", "GTDB_r220-v1", &"x".repeat(50)] {
            assert_eq!(good.parse::<RefdataId>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a.b",
            "\u{e9}",
            &"x".repeat(51),
        ] {
            bad.parse::<RefdataId>().unwrap_err();
            serde_json::from_value::<RefdataId>(bad.into()).unwrap_err();
        }
    }
}
