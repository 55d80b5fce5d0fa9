//! The life of one job in the service, as pure steps over its record: container reports, cancel, and
//! what ends the job (contract service.md, sections 5.2 to 5.4).
//!
//! A store loads the [`JobRecord`], applies one step, and saves what [`Change`] names, all in one
//! transaction. A step that is refused leaves the record as it was.
//!
//! ```text
//! JobRecord::new -> queued -> apply_report ... -> (pending: Complete or Error) -> finish
//!                       \-> cancel             -> (pending: Cancel)            -> finish
//! ```
//!
//! What this module decides differently from the existing system (contract decisions.md):
//! the same report again changes nothing and is no fault (5); no report is refused for its time, but a
//! transition is never stored before the previous one (6); a job that entered `canceling` ends in
//! `canceled`, late reports are recorded on the container only (7).

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::error_code::ErrorCode;
use crate::id::ContainerNumber;
use crate::state::lift::{LiftError, lift};
use crate::state::{JobState, REPORTED_STATES, Step};
use crate::timestamp::UtcTime;
use crate::wire::attempt::AttemptStanding;
use crate::wire::container::{ContainerUpdate, ContainerUsage};
use crate::wire::job::S3File;

pub use crate::state::record::{ContainerRecord, JobOutcome, JobRecord, Statistics, Transition};

#[cfg(test)]
mod tests;

/// What an executor reports of its container. Data that does not belong to the state is ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerReport {
    /// The state the container entered.
    pub state: JobState,
    /// When, by the worker's clock.
    pub time: UtcTime,
    /// For `upload_submitting` and `error_processing_submitting`: needed, not negative.
    pub exit_code: Option<i64>,
    /// For `complete`.
    pub outputs: Option<Vec<S3File>>,
    /// For `error`: needed, not blank.
    pub admin_error: Option<String>,
    /// For `error`.
    pub traceback: Option<String>,
    /// With `exit_code`.
    pub usage: Option<ContainerUsage>,
    /// Who says so.
    pub from: Reporter,
}

/// Who reports: decides whether the report counts (see [`crate::state::attempts`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reporter {
    /// An executor that does not know attempts. Refused where one that does has begun.
    Unnumbered,
    /// The executor of that attempt. Refused if it is not the last one.
    Attempt(u32),
    /// The service, about the executor that it saw there. Changes nothing if another has begun since.
    Observer {
        /// The attempt it saw, if executors announce themselves.
        attempt: Option<u32>,
    },
    /// The site, which starts no second executor of a container.
    Site,
}

impl ContainerReport {
    /// An executor's report from the update's address and body. The body's time is text in one of several
    /// forms; the caller has parsed it.
    #[must_use]
    pub fn new(state: JobState, time: UtcTime, body: ContainerUpdate) -> Self {
        let ContainerUpdate {
            time: _,
            exit_code,
            outputs,
            admin_error,
            traceback,
            attempt,
            usage,
        } = body;
        Self {
            state,
            time,
            exit_code,
            outputs,
            admin_error,
            traceback,
            usage,
            from: attempt.map_or(Reporter::Unnumbered, Reporter::Attempt),
        }
    }
}

/// What a step changed: what to save, whom to tell, what to do next.
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use = "what changed must be saved, and notifications sent"]
pub struct Change {
    /// The container that changed.
    pub container: Option<ContainerNumber>,
    /// The job's new transitions, oldest first. Each is one notification (contract section 7.2), and
    /// is stored with a transition id of its own, in the same transaction.
    pub transitions: Vec<Transition>,
    /// Whether the job's outcome changed.
    pub outcome: bool,
    /// What the service must do next, in the background; the same as [`JobRecord::pending`].
    pub pending: Option<Pending>,
    /// Where the executor stands that announced itself or renewed its attempt.
    pub standing: Option<AttemptStanding>,
}

impl Change {
    /// Whether there is nothing to save: the step was already true.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.container.is_none() && self.transitions.is_empty() && !self.outcome
    }
}

/// Work that ends a job and needs other systems first. It ends with [`JobRecord::finish`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pending {
    /// All containers completed: collect statistics and the checksums of
    /// [`JobRecord::merged_outputs`].
    Complete,
    /// All containers ended, some in error: collect statistics.
    Error,
    /// The job is being canceled: remove it from the batch system, collect statistics.
    Cancel,
}

/// What [`JobRecord::finish`] needs to know.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// What is known by now.
    pub statistics: Statistics,
    /// Whether the batch system's account is still to come.
    pub statistics_due: bool,
    /// For [`Pending::Complete`]: the CRC64NVME in S3 of each merged output, by path; an object that
    /// is missing or has no checksum is left out.
    pub checksums: &'a HashMap<String, String>,
    /// `<log directory>/<job id>`: where the logs are if there are any.
    pub log_path: &'a str,
    /// Whether logs are known to be there. They are taken to be there when a container exited
    /// non-zero, as the existing executor stores them in that case only.
    pub logs_stored: bool,
}

/// A step that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Executors do not report this state.
    #[error("containers cannot be updated to state {0}")]
    UnsupportedState(JobState),
    /// The report lacks what its state needs.
    #[error("an update to state {state} needs {field}")]
    MissingData {
        /// The state.
        state: JobState,
        /// What is needed, in words.
        field: &'static str,
    },
    /// The job has no such container.
    #[error("there is no container {container}; the job's containers are 0 to {}", .num_containers.saturating_sub(1))]
    NoSuchContainer {
        /// The number given.
        container: ContainerNumber,
        /// How many there are.
        num_containers: usize,
    },
    /// The container is in a state that the reported one cannot follow, or in that very state, with
    /// other data.
    #[error(
        "container {container} cannot go to state {next}, it is in state {current}{}",
        if current == next { " already, and the data reported with that was different" } else { "" }
    )]
    ContainerState {
        /// The container.
        container: ContainerNumber,
        /// Its state.
        current: JobState,
        /// The state reported.
        next: JobState,
    },
    /// Another executor has taken the container over, or none has announced itself.
    #[error(
        "{} of container {container} {}",
        attempt.map_or_else(|| "this executor".to_owned(), |number| format!("attempt {number}")),
        if *current == 0 {
            "is not known: no executor has announced itself; announce the attempt first".to_owned()
        } else {
            format!(
                "no longer counts: attempt {current} has taken it over; stop its container and end \
                 without further reports"
            )
        }
    )]
    Superseded {
        /// The container.
        container: ContainerNumber,
        /// The attempt that asked, if it has a number.
        attempt: Option<u32>,
        /// The attempt whose reports count; 0 if no executor has announced itself.
        current: u32,
    },
    /// The job is in a state that the new one cannot follow.
    #[error(
        "the job cannot go to state {next}, it is in state {current}{}",
        if current == next { " already" } else { "" }
    )]
    JobState {
        /// Its state.
        current: JobState,
        /// The state wanted.
        next: JobState,
    },
    /// The stored records contradict each other.
    #[error("the job's records contradict each other")]
    Inconsistent(#[from] LiftError),
}

impl Refusal {
    /// The code for the caller; none for a fault of the service's own records.
    #[must_use]
    pub const fn error_code(&self) -> Option<ErrorCode> {
        match self {
            Self::UnsupportedState(_) => Some(ErrorCode::UnsupportedOperation),
            Self::MissingData { .. } => Some(ErrorCode::IllegalParameter),
            Self::NoSuchContainer { .. } | Self::ContainerState { .. } => {
                Some(ErrorCode::NoSuchSubjob)
            }
            Self::Superseded { .. } => Some(ErrorCode::AttemptSuperseded),
            Self::JobState { .. } => Some(ErrorCode::NoSuchJob),
            Self::Inconsistent(_) => None,
        }
    }
}

/// What users see of a failure that is not theirs.
pub const UNEXPECTED_ERROR: &str = "An unexpected error occurred.";

/// What users see when a container of theirs failed.
pub const CONTAINER_FAILED: &str = "At least one container exited with a non-zero error code. \
    Please examine the logs for details.";

impl JobRecord {
    /// What must be done to end the job, if it can end now. A reconciler asks this of stored jobs to
    /// find work that was lost.
    #[must_use]
    pub fn pending(&self) -> Option<Pending> {
        let state = self.state();
        if state == JobState::Canceling {
            Some(Pending::Cancel)
        } else if state.is_terminal()
            || self.containers.is_empty()
            || !self
                .containers
                .iter()
                .all(|container| container.state().is_terminal())
        {
            None
        } else if self
            .containers
            .iter()
            .any(|container| container.state() == JobState::Error)
        {
            Some(Pending::Error)
        } else {
            Some(Pending::Complete)
        }
    }

    /// The batch system has accepted the job: it goes to `download_submitted`. Changes nothing if a
    /// container's report came first and has taken the job further.
    ///
    /// # Errors
    ///
    /// [`Refusal::JobState`] if the job was canceled or failed meanwhile: the batch job must go.
    pub fn queued(&mut self, now: UtcTime) -> Result<Change, Refusal> {
        let (current, next) = (self.state(), JobState::DownloadSubmitted);
        if current.is_terminal() || current.is_cancel() {
            return Err(Refusal::JobState { current, next });
        }
        let mut change = Change::default();
        self.advance(next, now, &mut change);
        change.pending = self.pending();
        Ok(change)
    }

    /// Records an executor's report, and moves the job if all containers have come that far.
    ///
    /// Reads and changes this container's record and the job's history; of the other containers it
    /// only reads the histories.
    ///
    /// # Errors
    ///
    /// Each [`Refusal`] but that of the job's state, in the contract's order: state, data, container.
    pub fn apply_report(
        &mut self,
        container: ContainerNumber,
        report: &ContainerReport,
    ) -> Result<Change, Refusal> {
        check_report(report)?;
        let record = self.container_mut(container)?;
        let mut change = Change::default();
        if !record.is_current(container, report.from)? {
            return Ok(change);
        }
        if record.repeats(report) {
            change.pending = self.pending();
            return Ok(change);
        }
        let (current, next) = (record.state(), report.state);
        if record.state().enter(next) != Ok(Step::Enter) {
            return Err(Refusal::ContainerState {
                container,
                current,
                next,
            });
        }
        let before = record.clone();
        record
            .transitions
            .push(Transition::after(&record.transitions, next, report.time));
        record.take_data(report);
        if let Err(error) = self.lift_to(next, &mut change) {
            *self.container_mut(container)? = before;
            return Err(error.into());
        }
        change.container = Some(container);
        change.pending = self.pending();
        Ok(change)
    }

    /// The job is to be canceled: it goes to `canceling`.
    ///
    /// # Errors
    ///
    /// [`Refusal::JobState`] if it has ended or is being canceled.
    pub fn cancel(&mut self, now: UtcTime) -> Result<Change, Refusal> {
        self.enter(JobState::Canceling, now)
    }

    /// The job cannot go on: it goes to `error` with these messages. A job that is being canceled
    /// stays so, and ends in `canceled`.
    ///
    /// # Errors
    ///
    /// [`Refusal::JobState`] if it has ended or is being canceled.
    pub fn fail(
        &mut self,
        error: &str,
        admin_error: &str,
        traceback: Option<&str>,
        now: UtcTime,
    ) -> Result<Change, Refusal> {
        if self.state() == JobState::Canceling {
            return Err(Refusal::JobState {
                current: self.state(),
                next: JobState::Error,
            });
        }
        let mut change = self.enter(JobState::Error, now)?;
        self.outcome.error = Some(error.to_owned());
        self.outcome.admin_error = Some(admin_error.to_owned());
        self.outcome.traceback = traceback.map(ToOwned::to_owned);
        change.outcome = true;
        Ok(change)
    }

    /// Ends a job for which something is [`pending`](Self::pending); for others changes nothing.
    ///
    /// A completed job whose outputs are not in S3 as reported, or that has none, ends in `error`.
    ///
    /// # Errors
    ///
    /// None in practice: a job with something pending can always end.
    pub fn finish(&mut self, evidence: &Evidence<'_>, now: UtcTime) -> Result<Change, Refusal> {
        match self.pending() {
            None => Ok(Change::default()),
            Some(Pending::Cancel) => {
                let mut change = self.enter(JobState::Canceled, now)?;
                self.take_statistics(evidence);
                change.outcome = true;
                Ok(change)
            }
            Some(Pending::Error) => {
                let failed = self
                    .containers
                    .iter()
                    .any(|one| one.exit_code.unwrap_or(0) != 0);
                let message = if failed {
                    CONTAINER_FAILED
                } else {
                    UNEXPECTED_ERROR
                };
                let admin_error = self.containers_in_error();
                let change = self.fail(message, &admin_error, None, now)?;
                self.take_statistics(evidence);
                if failed || evidence.logs_stored {
                    self.outcome.logpath = Some(evidence.log_path.to_owned());
                }
                Ok(change)
            }
            Some(Pending::Complete) => {
                let outputs = self.merged_outputs();
                if let Err((error, admin_error)) = check_outputs(&outputs, evidence.checksums) {
                    let change = self.fail(&error, &admin_error, None, now)?;
                    if evidence.logs_stored {
                        self.outcome.logpath = Some(evidence.log_path.to_owned());
                    }
                    return Ok(change);
                }
                let mut change = Change::default();
                self.advance(JobState::Complete, now, &mut change);
                self.take_statistics(evidence);
                self.outcome.output_file_count = u64::try_from(outputs.len()).ok();
                self.outcome.outputs = Some(outputs);
                if evidence.logs_stored {
                    self.outcome.logpath = Some(evidence.log_path.to_owned());
                }
                change.outcome = true;
                Ok(change)
            }
        }
    }

    /// What the batch system measured has come, or will not: `None`. Changes nothing if it was not
    /// waited for.
    pub fn account_for(&mut self, statistics: Option<Statistics>) -> Change {
        if !self.outcome.statistics_due {
            return Change::default();
        }
        self.outcome.statistics_due = false;
        if let Some(statistics) = statistics {
            self.outcome.statistics = statistics;
        }
        Change {
            outcome: true,
            pending: self.pending(),
            ..Change::default()
        }
    }

    fn take_statistics(&mut self, evidence: &Evidence<'_>) {
        self.outcome.statistics = evidence.statistics;
        self.outcome.statistics_due = evidence.statistics_due;
    }

    /// All containers' outputs by path, one for each path: a later container's wins.
    #[must_use]
    pub fn merged_outputs(&self) -> Vec<S3File> {
        let mut merged: BTreeMap<&str, &S3File> = BTreeMap::new();
        for output in self
            .containers
            .iter()
            .filter_map(|one| one.outputs.as_deref())
            .flatten()
        {
            merged.insert(&output.file, output);
        }
        merged.into_values().cloned().collect()
    }

    /// One container's record.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSuchContainer`].
    pub fn container(&self, container: ContainerNumber) -> Result<&ContainerRecord, Refusal> {
        usize::try_from(container)
            .ok()
            .and_then(|index| self.containers.get(index))
            .ok_or_else(|| self.no_such_container(container))
    }

    pub(super) fn container_mut(
        &mut self,
        container: ContainerNumber,
    ) -> Result<&mut ContainerRecord, Refusal> {
        let missing = self.no_such_container(container);
        usize::try_from(container)
            .ok()
            .and_then(|index| self.containers.get_mut(index))
            .ok_or(missing)
    }

    const fn no_such_container(&self, container: ContainerNumber) -> Refusal {
        Refusal::NoSuchContainer {
            container,
            num_containers: self.containers.len(),
        }
    }

    /// Enters a state that must be a legal step from the current one.
    fn enter(&mut self, next: JobState, now: UtcTime) -> Result<Change, Refusal> {
        let current = self.state();
        if current.enter(next) != Ok(Step::Enter) {
            return Err(Refusal::JobState { current, next });
        }
        let mut change = Change::default();
        self.push(next, now, &mut change);
        change.pending = self.pending();
        Ok(change)
    }

    /// A container entered `entered`: moves the job if that lets it.
    fn lift_to(&mut self, entered: JobState, change: &mut Change) -> Result<(), LiftError> {
        if self.state().is_terminal() || self.state().is_cancel() {
            return Ok(());
        }
        let num_containers = u32::try_from(self.containers.len()).unwrap_or(u32::MAX);
        let histories = self.containers.iter().map(|one| {
            // What an executor had come to that was replaced since does not count.
            one.current_run()
                .iter()
                .map(|entry| (entry.state, entry.time))
        });
        match lift(num_containers, entered, histories)? {
            // The job ends with `finish`, when the other systems have been asked.
            Some(lifted) if lifted.state.is_terminal() => {}
            Some(lifted) => self.advance(lifted.state, lifted.time, change),
            None => {}
        }
        Ok(())
    }

    /// Goes to `target` through every state between. A report may come before the service has
    /// recorded that the batch system took the job, so more than one step can be due. Changes
    /// nothing if the job is past `target`.
    fn advance(&mut self, target: JobState, time: UtcTime, change: &mut Change) {
        let current = self.state();
        let mut way = Vec::new();
        let mut at = target;
        while at != current {
            way.push(at);
            match at.predecessors() {
                [before] => at = *before,
                _ => return,
            }
        }
        for state in way.into_iter().rev() {
            self.push(state, time, change);
        }
    }

    fn push(&mut self, state: JobState, time: UtcTime, change: &mut Change) {
        let mut entry = Transition::after(&self.transitions, state, time);
        // Only a worker's clock is worth keeping beside; the containers' records have it.
        entry.reported_time = None;
        self.transitions.push(entry);
        change.transitions.push(entry);
    }

    /// Names the containers that ended in error, with the first one's message.
    fn containers_in_error(&self) -> String {
        let mut failed = self
            .containers
            .iter()
            .enumerate()
            .filter(|(_, container)| container.state() == JobState::Error);
        let Some((first, container)) = failed.next() else {
            return "no container is in state error".to_owned();
        };
        let message = container.admin_error.as_deref().unwrap_or("no message");
        match failed.count() {
            0 => format!("container {first} ended in error: {message}"),
            more => format!(
                "container {first} ended in error: {message}; and {more} more, see the containers' records"
            ),
        }
    }
}

impl ContainerRecord {
    /// Whether the report is about the executor whose reports count.
    fn is_current(&self, container: ContainerNumber, from: Reporter) -> Result<bool, Refusal> {
        let current = self.current_attempt().map(|attempt| attempt.number);
        let attempt = match from {
            Reporter::Site => return Ok(true),
            Reporter::Observer { attempt } => return Ok(attempt == current),
            Reporter::Unnumbered => None,
            Reporter::Attempt(number) => Some(number),
        };
        if attempt == current {
            return Ok(true);
        }
        Err(Refusal::Superseded {
            container,
            attempt,
            current: current.unwrap_or(0),
        })
    }

    /// Whether the report says what is recorded already: the same state and data, and either the
    /// state is the current one or it was reported with the same time.
    fn repeats(&self, report: &ContainerReport) -> bool {
        let Some(entry) = self
            .current_run()
            .iter()
            .find(|entry| entry.state == report.state)
        else {
            return false;
        };
        let same_data = match report.state {
            JobState::UploadSubmitting | JobState::ErrorProcessingSubmitting => {
                self.exit_code == report.exit_code
            }
            JobState::Complete => {
                self.outputs.as_deref().unwrap_or_default()
                    == report.outputs.as_deref().unwrap_or_default()
            }
            JobState::Error => self.admin_error == report.admin_error,
            _ => true,
        };
        // Stores keep milliseconds.
        let same_time = entry.reported().truncated_to_millis() == report.time.truncated_to_millis();
        same_data && (self.state() == report.state || same_time)
    }

    fn take_data(&mut self, report: &ContainerReport) {
        match report.state {
            JobState::UploadSubmitting | JobState::ErrorProcessingSubmitting => {
                self.exit_code = report.exit_code;
                self.usage = report.usage;
            }
            JobState::Complete => self.outputs = Some(report.outputs.clone().unwrap_or_default()),
            JobState::Error => {
                self.admin_error.clone_from(&report.admin_error);
                self.traceback.clone_from(&report.traceback);
            }
            _ => {}
        }
    }
}

fn check_report(report: &ContainerReport) -> Result<(), Refusal> {
    let state = report.state;
    if !REPORTED_STATES.contains(&state) {
        return Err(Refusal::UnsupportedState(state));
    }
    let missing = match state {
        JobState::UploadSubmitting | JobState::ErrorProcessingSubmitting => report
            .exit_code
            .is_none_or(|code| code < 0)
            .then_some("exit_code, 0 or more"),
        JobState::Error => report
            .admin_error
            .as_deref()
            .is_none_or(|text| text.trim().is_empty())
            .then_some("admin_error, not blank"),
        _ => None,
    };
    missing.map_or(Ok(()), |field| Err(Refusal::MissingData { state, field }))
}

/// The messages for user and administrator if the outputs are not there as reported.
fn check_outputs(
    outputs: &[S3File],
    checksums: &HashMap<String, String>,
) -> Result<(), (String, String)> {
    if outputs.is_empty() {
        return Err((
            "The containers ended without error but wrote no output files.".to_owned(),
            "no container reported an output file".to_owned(),
        ));
    }
    for output in outputs {
        let stored = checksums.get(&output.file);
        if stored.is_none() || stored != output.crc64nvme.as_ref() {
            let shown = |value: Option<&String>| value.map_or("none", String::as_str).to_owned();
            return Err((
                format!(
                    "Output file {} is not in S3 as it was uploaded; it may have been changed or \
                     removed meanwhile.",
                    output.file
                ),
                format!(
                    "output file {} has CRC64NVME {} in S3, its container reported {}",
                    output.file,
                    shown(stored),
                    shown(output.crc64nvme.as_ref())
                ),
            ));
        }
    }
    Ok(())
}
