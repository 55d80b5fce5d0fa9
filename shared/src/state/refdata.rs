//! The states of reference data at one site (contract service.md, section 5.5).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::state::Step;

/// State of the staging of reference data at one site.
///
/// ```text
/// created -> download_submitted -> complete;  any, even complete -> error
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "the diagram above says it better than one line each"
)]
pub enum RefdataState {
    Created,
    DownloadSubmitted,
    Complete,
    Error,
}

/// The state cannot follow the current one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("reference data state {next} cannot follow {current}")]
pub struct IllegalRefdataTransition {
    /// The current state.
    pub current: RefdataState,
    /// The state asked for.
    pub next: RefdataState,
}

impl RefdataState {
    /// Every state.
    pub const ALL: [Self; 4] = [
        Self::Created,
        Self::DownloadSubmitted,
        Self::Complete,
        Self::Error,
    ];

    /// The states from which this one may be entered: the table of legal steps.
    #[must_use]
    pub const fn predecessors(self) -> &'static [Self] {
        match self {
            Self::Created => &[],
            Self::DownloadSubmitted => &[Self::Created],
            Self::Complete => &[Self::DownloadSubmitted],
            Self::Error => &[Self::Created, Self::DownloadSubmitted, Self::Complete],
        }
    }

    /// What going to `next` means here.
    ///
    /// # Errors
    ///
    /// [`IllegalRefdataTransition`] if `next` is neither the current state nor one that may follow.
    pub fn enter(self, next: Self) -> Result<Step, IllegalRefdataTransition> {
        if self == next {
            Ok(Step::AlreadyTrue)
        } else if next.predecessors().contains(&self) {
            Ok(Step::Enter)
        } else {
            Err(IllegalRefdataTransition {
                current: self,
                next,
            })
        }
    }

    /// Whether staging has ended, so that the record may be cleaned.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Complete | Self::Error)
    }

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::DownloadSubmitted => "download_submitted",
            Self::Complete => "complete",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for RefdataState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::RefdataState::{self, Complete, Created, DownloadSubmitted, Error};
    use super::*;

    #[test]
    fn every_pair_of_states() {
        let legal = [
            (Created, DownloadSubmitted),
            (DownloadSubmitted, Complete),
            (Created, Error),
            (DownloadSubmitted, Error),
            (Complete, Error),
        ];
        for current in RefdataState::ALL {
            for next in RefdataState::ALL {
                let expected = if current == next {
                    Ok(Step::AlreadyTrue)
                } else if legal.contains(&(current, next)) {
                    Ok(Step::Enter)
                } else {
                    Err(IllegalRefdataTransition { current, next })
                };
                assert_eq!(current.enter(next), expected, "{current} -> {next}");
            }
        }
    }

    #[test]
    fn names_are_the_wires() {
        for state in RefdataState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
