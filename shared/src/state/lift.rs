//! From the containers' states to the job's (contract service.md, section 5.3).
//!
//! Counted is how many containers have *ever* entered a state, so the answer does not depend on how
//! far the others have gone since.

use crate::state::JobState;
use crate::timestamp::UtcTime;

/// The job's new state and the latest time at which a container entered one of the counted states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lift {
    /// The state the job moves to.
    pub state: JobState,
    /// When the last container got there.
    pub time: UtcTime,
}

/// The question makes no sense, or the records contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LiftError {
    /// Containers never enter the cancel states.
    #[error("containers do not enter the state {0}, only jobs do")]
    Canceling(JobState),
    /// More containers than the job has entered the counted states.
    #[error(
        "{entered} containers entered {state} or its counterpart, but the job has {num_containers}"
    )]
    TooManyContainers {
        /// The state asked about.
        state: JobState,
        /// How many entered.
        entered: usize,
        /// How many there are.
        num_containers: u32,
    },
    /// No container is recorded to have entered the state that one is said to have just entered.
    #[error("no container is recorded to have entered {0}")]
    NoContainerInState(JobState),
}

impl LiftError {
    /// A stable label of the fault.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Canceling(_) => "canceling",
            Self::TooManyContainers { .. } => "too_many_subjobs",
            Self::NoContainerInState(_) => "no_subjob_in_state",
        }
    }
}

/// The states counted after a container entered `state`: on the ways that part, the good one and
/// the bad one.
const fn counted(state: JobState) -> Option<(JobState, Option<JobState>)> {
    match state {
        JobState::Created
        | JobState::DownloadSubmitted
        | JobState::JobSubmitting
        | JobState::JobSubmitted => Some((state, None)),
        JobState::UploadSubmitting | JobState::ErrorProcessingSubmitting => Some((
            JobState::UploadSubmitting,
            Some(JobState::ErrorProcessingSubmitting),
        )),
        JobState::UploadSubmitted | JobState::ErrorProcessingSubmitted => Some((
            JobState::UploadSubmitted,
            Some(JobState::ErrorProcessingSubmitted),
        )),
        JobState::Complete | JobState::Error => Some((JobState::Complete, Some(JobState::Error))),
        JobState::Canceling | JobState::Canceled => None,
    }
}

/// A container has just entered `state`, and its record says so: must the job move?
///
/// `containers` are the state transitions of each of the job's containers. The job moves when all
/// `num_containers` have entered the counted states, to the bad one if any container did.
///
/// # Errors
///
/// See [`LiftError`].
pub fn lift<C, T>(
    num_containers: u32,
    state: JobState,
    containers: C,
) -> Result<Option<Lift>, LiftError>
where
    C: IntoIterator<Item = T>,
    T: IntoIterator<Item = (JobState, UtcTime)>,
{
    let (good, bad) = counted(state).ok_or(LiftError::Canceling(state))?;
    let mut entered = 0;
    let mut any_in_state = false;
    let mut any_bad = false;
    let mut latest: Option<UtcTime> = None;
    for transitions in containers {
        let mut counts = false;
        for (entered_state, time) in transitions {
            if entered_state == good || Some(entered_state) == bad {
                counts = true;
                any_bad |= Some(entered_state) == bad;
                any_in_state |= entered_state == state;
                latest = latest.max(Some(time));
            }
        }
        entered += usize::from(counts);
    }
    let Some(time) = latest.filter(|_| any_in_state) else {
        return Err(LiftError::NoContainerInState(state));
    };
    let needed = usize::try_from(num_containers).unwrap_or(usize::MAX);
    if entered > needed {
        return Err(LiftError::TooManyContainers {
            state,
            entered,
            num_containers,
        });
    }
    let lifted = bad.filter(|_| any_bad).unwrap_or(good);
    Ok((entered == needed).then_some(Lift {
        state: lifted,
        time,
    }))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> UtcTime {
        UtcTime::new(Timestamp::from_second(second).unwrap())
    }

    /// The records of containers that have come so far along the good (or bad) way.
    fn histories(progress: &[(usize, bool)]) -> Vec<Vec<(JobState, UtcTime)>> {
        use JobState as S;
        let good = [S::UploadSubmitting, S::UploadSubmitted, S::Complete];
        let bad = [
            S::ErrorProcessingSubmitting,
            S::ErrorProcessingSubmitted,
            S::Error,
        ];
        let start = [
            S::Created,
            S::DownloadSubmitted,
            S::JobSubmitting,
            S::JobSubmitted,
        ];
        progress
            .iter()
            .map(|(steps, fails)| {
                let way = start.into_iter().chain(if *fails { bad } else { good });
                way.take(*steps + 1).zip((0..).map(at)).collect()
            })
            .collect()
    }

    proptest! {
        #[test]
        fn the_job_moves_with_the_slowest(progress in vec((0..7_usize, any::<bool>()), 1..6)) {
            let histories = histories(&progress);
            let containers = || histories.iter().map(|history| history.iter().copied());
            let num_containers = u32::try_from(progress.len()).unwrap();
            let slowest = progress.iter().map(|(steps, _)| *steps).min().unwrap();
            for (container, (steps, _)) in progress.iter().enumerate() {
                let (state, _) = *histories[container].last().unwrap();
                let lifted = lift(num_containers, state, containers()).unwrap();
                prop_assert_eq!(lifted.is_some(), *steps == slowest);
                if let Some(lifted) = lifted {
                    let any_bad = *steps > 3 && progress.iter().any(|(_, fails)| *fails);
                    let bad = counted(state).unwrap().1;
                    prop_assert_eq!(Some(lifted.state) == bad, any_bad);
                    // Every container takes one second a state.
                    prop_assert_eq!(lifted.time, at(i64::try_from(*steps).unwrap()));
                }
            }
        }
    }

    #[test]
    fn cancel_states_are_the_jobs_own() {
        for state in [JobState::Canceling, JobState::Canceled] {
            let none: [[(JobState, UtcTime); 0]; 0] = [];
            assert_eq!(lift(1, state, none), Err(LiftError::Canceling(state)));
        }
    }
}
