//! Which executor of a container is the one whose reports count, as pure steps over a job's record.
//!
//! ```text
//! announced by a new executor: attempt 1, 2, ...; the container starts again
//! reports and renewals of the last attempt are taken, those of earlier ones are refused
//! ```
//!
//! A container starts again unless nothing is left to compute: one that has ended stays ended, and one
//! whose process had failed already ends in error, for only its logs are missing. The job does not go
//! back: its state says how far all containers have come at least once.
//!
//! An executor that does not know attempts announces nothing; then this module changes nothing, and its
//! reports are taken as the contract says.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::ContainerNumber;
use crate::state::JobState;
use crate::state::job_flow::{Change, JobRecord, Refusal};
use crate::state::record::{ContainerRecord, Transition};
use crate::timestamp::UtcTime;
use crate::wire::attempt::{Attempt, AttemptStanding, PUBLISH_LEASE, PUBLISH_MARGIN};

/// Attempts remembered for a container: the numbers go on, the oldest are forgotten.
const MAX_REMEMBERED: usize = 50;

/// Runs of a container whose states are remembered: the current one and those before it.
const MAX_REMEMBERED_RUNS: usize = 10;

/// One executor of a container, as the service keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// From 1.
    pub number: u32,
    /// Tells the executor's process from others.
    pub instance: String,
    /// Its worker, if it told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// When it announced itself, by the service's clock.
    pub started: UtcTime,
    /// When it was last heard of, by the service's clock.
    pub last_seen: UtcTime,
    /// Whether it said that it publishes nothing any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_left: bool,
    /// Until then earlier attempts may still publish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish_from: Option<UtcTime>,
}

/// What an executor tells of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Tells its process from others.
    pub instance: String,
    /// Its worker.
    pub host: Option<String>,
}

impl AttemptRecord {
    /// What administrators see.
    #[must_use]
    pub fn to_view(&self) -> Attempt {
        Attempt {
            attempt: self.number,
            host: self.host.clone(),
            started: self.started,
            last_seen: self.last_seen,
        }
    }
}

impl ContainerRecord {
    /// The executor whose reports count, if executors announce themselves.
    #[must_use]
    pub fn current_attempt(&self) -> Option<&AttemptRecord> {
        self.attempts.last()
    }

    /// The history since the container started last.
    #[must_use]
    pub fn current_run(&self) -> &[Transition] {
        let start = self
            .transitions
            .iter()
            .rposition(|entry| entry.state == JobState::DownloadSubmitted);
        self.transitions
            .get(start.unwrap_or_default()..)
            .unwrap_or_default()
    }

    /// A new executor begins.
    fn begin(&mut self, announcement: &Announcement, now: UtcTime) {
        let number = self
            .attempts
            .last()
            .map_or(0, |last| last.number)
            .saturating_add(1);
        let publish_from = self
            .attempts
            .iter()
            .filter(|earlier| !earlier.has_left)
            .map(|earlier| earlier.last_seen.plus(PUBLISH_LEASE + PUBLISH_MARGIN))
            .max()
            .filter(|until| *until > now);
        if self.attempts.len() >= MAX_REMEMBERED {
            self.attempts.remove(0);
        }
        self.attempts.push(AttemptRecord {
            number,
            instance: announcement.instance.clone(),
            host: announcement.host.clone(),
            started: now,
            last_seen: now,
            has_left: false,
            publish_from,
        });
        if self.state() != JobState::DownloadSubmitted {
            self.enter(JobState::DownloadSubmitted, now);
            self.forget_old_runs();
        }
        self.exit_code = None;
        self.outputs = None;
        self.usage = None;
    }

    /// A container that is evicted again and again does not grow without end. What was before its first run
    /// stays.
    fn forget_old_runs(&mut self) {
        let mut starts = self
            .transitions
            .iter()
            .enumerate()
            .filter(|(_, entry)| entry.state == JobState::DownloadSubmitted)
            .map(|(index, _)| index);
        let first = starts.next();
        let kept = starts.rev().nth(MAX_REMEMBERED_RUNS - 1);
        if let (Some(first), Some(kept)) = (first, kept) {
            self.transitions.drain(first..kept);
        }
    }

    /// The container's process had failed when the last executor went away: the container ends in
    /// error.
    fn end_as_failed(&mut self, now: UtcTime) {
        let reason = self.exit_code.map_or_else(
            || "the container failed".to_owned(),
            |code| format!("Container exit code: {code}"),
        );
        self.admin_error = Some(format!(
            "{reason}; its executor was stopped before it had stored the logs"
        ));
        if self.state() == JobState::ErrorProcessingSubmitting {
            self.enter(JobState::ErrorProcessingSubmitted, now);
        }
        self.enter(JobState::Error, now);
    }

    fn enter(&mut self, state: JobState, now: UtcTime) {
        let entry = Transition::after(&self.transitions, state, now);
        self.transitions.push(entry);
    }
}

impl JobRecord {
    /// An executor begins with a container. The same executor again is only [renewed](Self::renew).
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchContainer`]; [`Refusal::Superseded`] if a later one has begun since.
    pub fn announce(
        &mut self,
        container: ContainerNumber,
        announcement: &Announcement,
        now: UtcTime,
    ) -> Result<Change, Refusal> {
        let job_wants_it = !self.state().is_terminal() && !self.state().is_cancel();
        let record = self.container_mut(container)?;
        let known = record
            .attempts
            .iter()
            .find(|attempt| attempt.instance == announcement.instance)
            .map(|attempt| attempt.number);
        if let Some(number) = known {
            return self.renew(container, number, &announcement.instance, now);
        }
        let mut change = Change::default();
        let state = record.state();
        let failed_before = matches!(
            state,
            JobState::ErrorProcessingSubmitting | JobState::ErrorProcessingSubmitted
        );
        if !state.is_terminal() && job_wants_it {
            if failed_before {
                record.end_as_failed(now);
            } else {
                record.begin(announcement, now);
            }
            change.container = Some(container);
        }
        change.pending = self.pending();
        change.standing = Some(self.standing(container, &announcement.instance, now)?);
        Ok(change)
    }

    /// An executor is still at work.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchContainer`]; [`Refusal::Superseded`] if it is not the last one that began.
    pub fn renew(
        &mut self,
        container: ContainerNumber,
        attempt: u32,
        instance: &str,
        now: UtcTime,
    ) -> Result<Change, Refusal> {
        let record = self.container_mut(container)?;
        let mut change = Change::default();
        match record.attempts.last_mut() {
            Some(last) if last.number == attempt && last.instance == instance => {
                last.last_seen = last.last_seen.max(now);
                change.container = Some(container);
            }
            last => {
                return Err(Refusal::Superseded {
                    container,
                    attempt: Some(attempt),
                    current: last.map_or(0, |last| last.number),
                });
            }
        }
        change.pending = self.pending();
        change.standing = Some(self.standing(container, instance, now)?);
        Ok(change)
    }

    /// An executor ends, and publishes nothing any more. Its attempt stays the current one until another
    /// begins.
    ///
    /// # Errors
    ///
    /// As [`renew`](Self::renew).
    pub fn leave(
        &mut self,
        container: ContainerNumber,
        attempt: u32,
        instance: &str,
        now: UtcTime,
    ) -> Result<Change, Refusal> {
        let change = self.renew(container, attempt, instance, now)?;
        if let Some(last) = self.container_mut(container)?.attempts.last_mut() {
            last.has_left = true;
        }
        Ok(change)
    }

    /// Where the executor stands after one of the steps above.
    fn standing(
        &self,
        container: ContainerNumber,
        instance: &str,
        now: UtcTime,
    ) -> Result<AttemptStanding, Refusal> {
        let record = self.container(container)?;
        let last = record.attempts.last();
        let attempt = last.map_or(0, |last| last.number);
        let is_current = last.is_some_and(|last| last.instance == instance);
        let is_wanted = !record.state().is_terminal()
            && !self.state().is_terminal()
            && !self.state().is_cancel();
        if is_wanted && !is_current {
            return Err(Refusal::Superseded {
                container,
                attempt: None,
                current: attempt,
            });
        }
        Ok(AttemptStanding {
            attempt,
            wanted: is_wanted,
            job_state: self.state(),
            publish_after_ms: last
                .and_then(|last| last.publish_from)
                .and_then(|from| {
                    from.timestamp()
                        .duration_since(now.timestamp())
                        .try_into()
                        .ok()
                })
                .map(|wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
                .filter(|wait| *wait > 0),
        })
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::state::job_flow::{ContainerReport, Pending, Reporter};

    fn at(second: i64) -> UtcTime {
        UtcTime::new(Timestamp::from_second(second).unwrap())
    }

    fn executor(instance: &str) -> Announcement {
        Announcement {
            instance: instance.to_owned(),
            host: Some("node1.example.org".to_owned()),
        }
    }

    fn report(state: JobState, from: Reporter) -> ContainerReport {
        ContainerReport {
            state,
            time: at(20),
            exit_code: Some(i64::from(state == JobState::ErrorProcessingSubmitting)),
            outputs: None,
            admin_error: Some("it broke".to_owned()),
            traceback: None,
            usage: None,
            from,
        }
    }

    fn run(record: &mut JobRecord, attempt: u32, states: &[JobState]) {
        for state in states {
            let _change = record
                .apply_report(0, &report(*state, Reporter::Attempt(attempt)))
                .unwrap();
        }
    }

    const GOOD: [JobState; 5] = [
        JobState::JobSubmitting,
        JobState::JobSubmitted,
        JobState::UploadSubmitting,
        JobState::UploadSubmitted,
        JobState::Complete,
    ];

    #[test]
    fn a_rerun_completes_from_every_state_and_the_old_executor_is_refused() {
        for done in 0..=4 {
            let mut record = JobRecord::new(1, at(0));
            let _change = record.queued(at(1)).unwrap();
            let _change = record.announce(0, &executor("a"), at(2)).unwrap();
            assert_eq!(record.standing(0, "a", at(99)).unwrap().attempt, 1);
            run(&mut record, 1, &GOOD[..done]);
            let job_state = record.state();

            let _change = record.announce(0, &executor("b"), at(30)).unwrap();
            assert_eq!(record.state(), job_state, "the job does not go back");
            let standing = record.standing(0, "b", at(99)).unwrap();
            assert_eq!((standing.attempt, standing.wanted), (2, true));
            for old in [Reporter::Attempt(1), Reporter::Unnumbered] {
                for state in [GOOD[done], JobState::Error] {
                    let refused = record.apply_report(0, &report(state, old)).unwrap_err();
                    assert!(matches!(refused, Refusal::Superseded { .. }), "{refused:?}");
                }
            }
            assert!(record.renew(0, 1, "a", at(31)).is_err());
            assert!(record.announce(0, &executor("a"), at(31)).is_err());
            assert!(record.standing(0, "a", at(99)).is_err());

            run(&mut record, 2, &GOOD);
            assert_eq!(record.pending(), Some(Pending::Complete), "{done}");
            assert_eq!(record.containers[0].attempts.len(), 2);
        }
    }

    #[test]
    fn a_successor_publishes_only_when_its_predecessor_cannot_any_more() {
        let wait = |change: &Change| change.standing.as_ref().unwrap().publish_after_ms;
        let mut record = JobRecord::new(1, at(0));
        let change = record.announce(0, &executor("a"), at(100)).unwrap();
        assert_eq!(wait(&change), None, "nobody was before");
        let _change = record.renew(0, 1, "a", at(120)).unwrap();
        let change = record.announce(0, &executor("b"), at(130)).unwrap();
        assert_eq!(
            wait(&change),
            Some(50_000),
            "45 s lease and 15 s margin from second 120"
        );
        let change = record.renew(0, 2, "b", at(170)).unwrap();
        assert_eq!(wait(&change), Some(10_000));
        let change = record.renew(0, 2, "b", at(180)).unwrap();
        assert_eq!(wait(&change), None);

        let _change = record.leave(0, 2, "b", at(181)).unwrap();
        let change = record.announce(0, &executor("c"), at(182)).unwrap();
        assert_eq!(wait(&change), None, "a is long gone, and b has said so");
        assert!(record.leave(0, 2, "b", at(183)).is_err());
        let change = record.announce(0, &executor("d"), at(400)).unwrap();
        assert_eq!(wait(&change), None, "c was not heard of for long");
    }

    #[test]
    fn what_failed_already_is_not_computed_again() {
        let failing = [
            JobState::JobSubmitting,
            JobState::JobSubmitted,
            JobState::ErrorProcessingSubmitting,
            JobState::ErrorProcessingSubmitted,
        ];
        for states in [&failing[..3], &failing[..]] {
            let mut record = JobRecord::new(1, at(0));
            let _change = record.announce(0, &executor("a"), at(2)).unwrap();
            run(&mut record, 1, states);
            let change = record.announce(0, &executor("b"), at(30)).unwrap();
            assert_eq!(change.pending, Some(Pending::Error));
            let container = &record.containers[0];
            assert_eq!(container.state(), JobState::Error);
            assert_eq!(container.exit_code, Some(1));
            let reason = container.admin_error.as_deref().unwrap();
            assert!(reason.starts_with("Container exit code: 1; "), "{reason}");
            assert!(!record.standing(0, "b", at(99)).unwrap().wanted);
        }
    }

    #[test]
    fn an_ended_container_and_a_canceled_job_want_nobody() {
        let mut record = JobRecord::new(2, at(0));
        let _change = record.announce(0, &executor("a"), at(2)).unwrap();
        run(&mut record, 1, &GOOD);
        let change = record.announce(0, &executor("b"), at(30)).unwrap();
        assert!(change.is_empty());
        assert!(!record.standing(0, "b", at(99)).unwrap().wanted);

        let _change = record.announce(1, &executor("c"), at(30)).unwrap();
        let _change = record.cancel(at(31)).unwrap();
        let _change = record.renew(1, 1, "c", at(32)).unwrap();
        let standing = record.standing(1, "c", at(99)).unwrap();
        assert!(!standing.wanted);
        assert_eq!(standing.job_state, JobState::Canceling);
        let _change = record.announce(1, &executor("d"), at(33)).unwrap();
        assert!(!record.standing(1, "d", at(99)).unwrap().wanted);
        assert!(record.announce(2, &executor("d"), at(33)).is_err());
    }

    #[test]
    fn an_executor_that_announces_itself_twice_keeps_its_number() {
        let mut record = JobRecord::new(1, at(0));
        for second in [2, 3] {
            let _change = record.announce(0, &executor("a"), at(second)).unwrap();
            assert_eq!(record.standing(0, "a", at(99)).unwrap().attempt, 1);
        }
        let attempt = record.containers[0].current_attempt().unwrap();
        assert_eq!((attempt.started, attempt.last_seen), (at(2), at(3)));
        let _change = record.renew(0, 1, "a", at(1)).unwrap();
        let attempt = record.containers[0].current_attempt().unwrap();
        assert_eq!(
            attempt.last_seen,
            at(3),
            "a clock that steps back is passed over"
        );
    }

    #[test]
    fn a_rerun_may_fail_where_the_first_run_had_succeeded() {
        let mut record = JobRecord::new(1, at(0));
        let _change = record.queued(at(1)).unwrap();
        let _change = record.announce(0, &executor("a"), at(2)).unwrap();
        run(&mut record, 1, &GOOD[..4]);
        let _change = record.announce(0, &executor("b"), at(30)).unwrap();
        run(
            &mut record,
            2,
            &[
                JobState::JobSubmitting,
                JobState::JobSubmitted,
                JobState::ErrorProcessingSubmitting,
                JobState::ErrorProcessingSubmitted,
                JobState::Error,
            ],
        );
        assert_eq!(record.pending(), Some(Pending::Error));
    }

    #[test]
    fn the_states_of_the_last_runs_are_remembered() {
        let mut record = JobRecord::new(1, at(0));
        let _change = record.queued(at(1)).unwrap();
        for number in 1..=60 {
            let _change = record
                .announce(0, &executor(&number.to_string()), at(i64::from(number)))
                .unwrap();
            run(&mut record, number, &GOOD[..2]);
            let runs = usize::try_from(number).unwrap().min(MAX_REMEMBERED_RUNS);
            let container = &record.containers[0];
            assert_eq!(container.transitions.len(), 1 + 3 * runs);
            assert_eq!(container.transitions[0].state, JobState::Created);
            let current: Vec<JobState> = container
                .current_run()
                .iter()
                .map(|entry| entry.state)
                .collect();
            assert_eq!(
                current,
                [
                    JobState::DownloadSubmitted,
                    JobState::JobSubmitting,
                    JobState::JobSubmitted
                ]
            );
        }
        run(&mut record, 60, &GOOD[2..]);
        assert_eq!(record.pending(), Some(Pending::Complete));
    }

    #[test]
    fn numbers_go_on_when_old_attempts_are_forgotten() {
        let mut record = JobRecord::new(1, at(0));
        for number in 1..=60 {
            let instance = number.to_string();
            let _change = record
                .announce(0, &executor(&instance), at(number))
                .unwrap();
            let standing = record.standing(0, &instance, at(99)).unwrap();
            assert_eq!(i64::from(standing.attempt), number);
        }
        assert_eq!(record.containers[0].attempts.len(), MAX_REMEMBERED);
    }
}
