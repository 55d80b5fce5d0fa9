//! The states of jobs and containers and the legal steps between them
//! (contract service.md, section 5).
//!
//! [`JobState::predecessors`] is the one table of legal steps: [`JobState::enter`] decides by it, and
//! a store takes the condition of its conditional update from it. [`lift`] derives the job's state from its
//! containers' states, [`job_flow`] applies reports and cancels to a job's [`record`], [`refdata`] has
//! the states of reference data.

pub mod attempts;
pub mod job_flow;
pub mod lift;
pub mod record;
pub mod refdata;

use std::fmt;

use serde::{Deserialize, Serialize};

/// State of a job or of one of its containers. Containers never enter the cancel states.
///
/// ```text
/// created -> download_submitted -> job_submitting -> job_submitted
///     -> upload_submitting -> upload_submitted -> complete
///     -> error_processing_submitting -> error_processing_submitted -> error
/// any non-terminal -> error;  job: any non-terminal -> canceling -> canceled
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "the diagram above says it better than one line each"
)]
pub enum JobState {
    Created,
    DownloadSubmitted,
    JobSubmitting,
    JobSubmitted,
    UploadSubmitting,
    UploadSubmitted,
    Complete,
    Canceling,
    Canceled,
    ErrorProcessingSubmitting,
    ErrorProcessingSubmitted,
    Error,
}

/// States that nothing can follow.
pub const TERMINAL_STATES: [JobState; 3] =
    [JobState::Complete, JobState::Error, JobState::Canceled];

/// States that an executor may report of its container; a container is made in
/// [`JobState::DownloadSubmitted`].
pub const REPORTED_STATES: [JobState; 8] = [
    JobState::JobSubmitting,
    JobState::JobSubmitted,
    JobState::UploadSubmitting,
    JobState::UploadSubmitted,
    JobState::Complete,
    JobState::ErrorProcessingSubmitting,
    JobState::ErrorProcessingSubmitted,
    JobState::Error,
];

/// What an update to a state means for what is in some state already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A legal step: enter the new state.
    Enter,
    /// The new state is the current one: nothing to do, and no fault.
    AlreadyTrue,
}

/// The state cannot follow the current one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("state {next} cannot follow {current}; it follows {}", list(.next.predecessors()))]
pub struct IllegalTransition {
    /// The current state.
    pub current: JobState,
    /// The state asked for.
    pub next: JobState,
}

fn list(states: &[JobState]) -> String {
    match states {
        [] => "nothing, it is where everything starts".to_owned(),
        [one] => one.to_string(),
        [head @ .., last] => {
            let head: Vec<&str> = head.iter().map(|state| state.as_str()).collect();
            format!("{} or {last}", head.join(", "))
        }
    }
}

impl JobState {
    /// Every state, in the order of the diagram.
    pub const ALL: [Self; 12] = [
        Self::Created,
        Self::DownloadSubmitted,
        Self::JobSubmitting,
        Self::JobSubmitted,
        Self::UploadSubmitting,
        Self::UploadSubmitted,
        Self::Complete,
        Self::ErrorProcessingSubmitting,
        Self::ErrorProcessingSubmitted,
        Self::Error,
        Self::Canceling,
        Self::Canceled,
    ];

    /// The states from which this one may be entered: the table of legal steps.
    #[must_use]
    pub const fn predecessors(self) -> &'static [Self] {
        match self {
            Self::Created => &[],
            Self::DownloadSubmitted => &[Self::Created],
            Self::JobSubmitting => &[Self::DownloadSubmitted],
            Self::JobSubmitted => &[Self::JobSubmitting],
            Self::UploadSubmitting | Self::ErrorProcessingSubmitting => &[Self::JobSubmitted],
            Self::UploadSubmitted => &[Self::UploadSubmitting],
            Self::Complete => &[Self::UploadSubmitted],
            Self::ErrorProcessingSubmitted => &[Self::ErrorProcessingSubmitting],
            Self::Canceled => &[Self::Canceling],
            Self::Canceling => &[
                Self::Created,
                Self::DownloadSubmitted,
                Self::JobSubmitting,
                Self::JobSubmitted,
                Self::UploadSubmitting,
                Self::UploadSubmitted,
                Self::ErrorProcessingSubmitting,
                Self::ErrorProcessingSubmitted,
            ],
            Self::Error => &[
                Self::Created,
                Self::DownloadSubmitted,
                Self::JobSubmitting,
                Self::JobSubmitted,
                Self::UploadSubmitting,
                Self::UploadSubmitted,
                Self::ErrorProcessingSubmitting,
                Self::ErrorProcessingSubmitted,
                Self::Canceling,
            ],
        }
    }

    /// What going to `next` means here.
    ///
    /// # Errors
    ///
    /// [`IllegalTransition`] if `next` is neither the current state nor one that may follow it.
    pub fn enter(self, next: Self) -> Result<Step, IllegalTransition> {
        if self == next {
            Ok(Step::AlreadyTrue)
        } else if next.predecessors().contains(&self) {
            Ok(Step::Enter)
        } else {
            Err(IllegalTransition {
                current: self,
                next,
            })
        }
    }

    /// Whether the state belongs to canceling, which only jobs do.
    #[must_use]
    pub const fn is_cancel(self) -> bool {
        matches!(self, Self::Canceling | Self::Canceled)
    }

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::DownloadSubmitted => "download_submitted",
            Self::JobSubmitting => "job_submitting",
            Self::JobSubmitted => "job_submitted",
            Self::UploadSubmitting => "upload_submitting",
            Self::UploadSubmitted => "upload_submitted",
            Self::Complete => "complete",
            Self::Canceling => "canceling",
            Self::Canceled => "canceled",
            Self::ErrorProcessingSubmitting => "error_processing_submitting",
            Self::ErrorProcessingSubmitted => "error_processing_submitted",
            Self::Error => "error",
        }
    }

    /// Whether nothing can follow.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Complete | Self::Error | Self::Canceled)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name is no state's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a job state")]
pub struct UnknownJobState(String);

impl std::str::FromStr for JobState {
    type Err = UnknownJobState;

    fn from_str(text: &str) -> Result<Self, UnknownJobState> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| UnknownJobState(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every legal step, as the contract's table has it (service.md, section 5.1).
    fn is_legal(current: JobState, next: JobState) -> bool {
        match next {
            JobState::Created => false,
            JobState::DownloadSubmitted => current == JobState::Created,
            JobState::JobSubmitting => current == JobState::DownloadSubmitted,
            JobState::JobSubmitted => current == JobState::JobSubmitting,
            JobState::UploadSubmitting | JobState::ErrorProcessingSubmitting => {
                current == JobState::JobSubmitted
            }
            JobState::UploadSubmitted => current == JobState::UploadSubmitting,
            JobState::Complete => current == JobState::UploadSubmitted,
            JobState::ErrorProcessingSubmitted => current == JobState::ErrorProcessingSubmitting,
            JobState::Error => !TERMINAL_STATES.contains(&current),
            JobState::Canceling => {
                !TERMINAL_STATES.contains(&current) && current != JobState::Canceling
            }
            JobState::Canceled => current == JobState::Canceling,
        }
    }

    #[test]
    fn every_pair_of_states() {
        for current in JobState::ALL {
            for next in JobState::ALL {
                let expected = if current == next {
                    Ok(Step::AlreadyTrue)
                } else if is_legal(current, next) {
                    Ok(Step::Enter)
                } else {
                    Err(IllegalTransition { current, next })
                };
                assert_eq!(current.enter(next), expected, "{current} -> {next}");
            }
        }
    }

    #[test]
    fn nothing_follows_a_terminal_state() {
        for state in JobState::ALL {
            assert_eq!(TERMINAL_STATES.contains(&state), state.is_terminal());
            let followed = JobState::ALL
                .iter()
                .any(|next| next.predecessors().contains(&state));
            assert_eq!(followed, !state.is_terminal(), "{state}");
        }
    }

    #[test]
    fn names_round_trip() {
        for state in JobState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        assert!("Created".parse::<JobState>().is_err());
    }

    #[test]
    fn a_refusal_says_what_may_be_done() {
        let error = JobState::Created.enter(JobState::Complete).unwrap_err();
        assert_eq!(
            error.to_string(),
            "state complete cannot follow created; it follows upload_submitted"
        );
    }
}
