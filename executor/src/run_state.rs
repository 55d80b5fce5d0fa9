//! The states of a run and what each step reports: pure, no IO.
//!
//! ```text
//! Staging --staged--> Starting --started--> Running --exited 0--> Publishing --stored--> Ended
//!                                              \--exited n--> SavingLogs --saved--> Ended
//! any but Ended --failed--> Ended
//! ```
//!
//! Every run that is not stopped by a signal reports exactly one terminal state, and the reports of
//! a run are a legal path of the contract (executor.md, section 2; service.md, section 5).

use cts_shared::state::JobState;
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::container::{ContainerUpdate, ContainerUsage};
use cts_shared::wire::job::S3File;

/// Where a run is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Image and inputs are being fetched.
    Staging,
    /// The container is being created.
    Starting,
    /// The container runs.
    Running,
    /// The container succeeded; its outputs are being stored.
    Publishing,
    /// The container failed; its logs are being stored.
    SavingLogs {
        /// Why, in the words of the report.
        reason: String,
    },
    /// Nothing more will happen.
    Ended(Outcome),
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The container succeeded and its outputs are stored.
    Completed,
    /// The container failed. The executor did its work.
    ContainerFailed,
    /// Something around the container failed.
    Failed,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Image and inputs are there, every checksum is right.
    Staged,
    /// The container has started.
    Started,
    /// The container's process ended.
    Exited {
        /// Its exit code; 0 is success.
        exit_code: i64,
        /// What a code that is not the tool's own means (signal, memory, time), in words.
        explanation: Option<String>,
        /// What the container used, where the service takes it.
        usage: Option<ContainerUsage>,
    },
    /// The outputs are stored.
    OutputsStored(Vec<S3File>),
    /// The logs of a failed container are stored, or could not be, in words.
    LogsSaved {
        /// What kept the logs from being stored.
        problem: Option<String>,
    },
    /// Something around the container failed.
    Failed {
        /// What, in one sentence.
        message: String,
        /// Where in the run, and the chain of causes.
        trace: String,
    },
}

/// One state update as it will be sent; the time is when the event happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The state entered.
    pub state: JobState,
    /// The request's body.
    pub body: ContainerUpdate,
}

impl Report {
    fn new(state: JobState, now: UtcTime) -> Self {
        let body = ContainerUpdate {
            time: now.to_offset_string(),
            exit_code: None,
            outputs: None,
            admin_error: None,
            traceback: None,
            attempt: None,
            usage: None,
        };
        Self { state, body }
    }
}

/// The event cannot happen in this phase: a bug of the executor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bug: {event} while {phase:?}")]
pub struct IllegalEvent {
    phase: Phase,
    event: &'static str,
}

impl Event {
    const fn name(&self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Started => "started",
            Self::Exited { .. } => "exited",
            Self::OutputsStored(_) => "outputs stored",
            Self::LogsSaved { .. } => "logs saved",
            Self::Failed { .. } => "failed",
        }
    }
}

impl Phase {
    /// The next phase, and what is to be reported of the step.
    ///
    /// # Errors
    /// When the event cannot happen in this phase; the phase then stays.
    pub fn next(self, event: Event, now: UtcTime) -> Result<(Self, Vec<Report>), IllegalEvent> {
        use JobState as S;
        let report = |state| Report::new(state, now);
        Ok(match (self, event) {
            (Self::Staging, Event::Staged) => (Self::Starting, vec![report(S::JobSubmitting)]),
            (Self::Starting, Event::Started) => (Self::Running, vec![report(S::JobSubmitted)]),
            (
                Self::Running,
                Event::Exited {
                    exit_code: 0,
                    usage,
                    ..
                },
            ) => {
                let mut submitting = report(S::UploadSubmitting);
                submitting.body.exit_code = Some(0);
                submitting.body.usage = usage;
                (
                    Self::Publishing,
                    vec![submitting, report(S::UploadSubmitted)],
                )
            }
            (
                Self::Running,
                Event::Exited {
                    exit_code,
                    explanation,
                    usage,
                },
            ) => {
                let mut submitting = report(S::ErrorProcessingSubmitting);
                submitting.body.exit_code = Some(exit_code);
                submitting.body.usage = usage;
                let reason = match explanation {
                    Some(words) => format!("Container exit code: {exit_code}: {words}"),
                    None => format!("Container exit code: {exit_code}"),
                };
                let reports = vec![submitting, report(S::ErrorProcessingSubmitted)];
                (Self::SavingLogs { reason }, reports)
            }
            (Self::Publishing, Event::OutputsStored(outputs)) => {
                let mut complete = report(S::Complete);
                complete.body.outputs = (!outputs.is_empty()).then_some(outputs);
                (Self::Ended(Outcome::Completed), vec![complete])
            }
            (Self::SavingLogs { reason }, Event::LogsSaved { problem }) => {
                let mut error = report(S::Error);
                error.body.admin_error = Some(match problem {
                    Some(problem) => format!("{reason}; its logs could not be stored: {problem}"),
                    None => reason,
                });
                (Self::Ended(Outcome::ContainerFailed), vec![error])
            }
            (
                Self::Staging
                | Self::Starting
                | Self::Running
                | Self::Publishing
                | Self::SavingLogs { .. },
                Event::Failed { message, trace },
            ) => {
                let mut error = report(S::Error);
                // The service refuses a blank message (contract executor.md, section 6.13).
                let message = if message.trim().is_empty() {
                    "unknown failure".to_owned()
                } else {
                    message
                };
                error.body.admin_error = Some(message);
                error.body.traceback = Some(trace);
                (Self::Ended(Outcome::Failed), vec![error])
            }
            (
                phase,
                event @ (Event::Staged
                | Event::Started
                | Event::Exited { .. }
                | Event::OutputsStored(_)
                | Event::LogsSaved { .. }
                | Event::Failed { .. }),
            ) => {
                return Err(IllegalEvent {
                    phase,
                    event: event.name(),
                });
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> UtcTime {
        UtcTime::new("2031-02-03T04:05:06.070809Z".parse().unwrap())
    }

    fn events() -> Vec<Event> {
        vec![
            Event::Staged,
            Event::Started,
            Event::Exited {
                exit_code: 0,
                explanation: None,
                usage: None,
            },
            Event::Exited {
                exit_code: 3,
                explanation: None,
                usage: None,
            },
            Event::OutputsStored(vec![]),
            Event::LogsSaved { problem: None },
            Event::Failed {
                message: " ".to_owned(),
                trace: "t".to_owned(),
            },
        ]
    }

    /// Every pair of phase and event: what is reported, or that it is illegal.
    #[test]
    fn every_pair_is_decided() {
        use JobState as S;
        let saving = Phase::SavingLogs {
            reason: "r".to_owned(),
        };
        let failed = || Some(vec![S::Error]);
        let table: Vec<(Phase, Vec<Option<Vec<S>>>)> = vec![
            (
                Phase::Staging,
                vec![
                    Some(vec![S::JobSubmitting]),
                    None,
                    None,
                    None,
                    None,
                    None,
                    failed(),
                ],
            ),
            (
                Phase::Starting,
                vec![
                    None,
                    Some(vec![S::JobSubmitted]),
                    None,
                    None,
                    None,
                    None,
                    failed(),
                ],
            ),
            (
                Phase::Running,
                vec![
                    None,
                    None,
                    Some(vec![S::UploadSubmitting, S::UploadSubmitted]),
                    Some(vec![
                        S::ErrorProcessingSubmitting,
                        S::ErrorProcessingSubmitted,
                    ]),
                    None,
                    None,
                    failed(),
                ],
            ),
            (
                Phase::Publishing,
                vec![
                    None,
                    None,
                    None,
                    None,
                    Some(vec![S::Complete]),
                    None,
                    failed(),
                ],
            ),
            (
                saving,
                vec![None, None, None, None, None, Some(vec![S::Error]), failed()],
            ),
            (Phase::Ended(Outcome::Completed), vec![None; 7]),
        ];
        for (phase, row) in table {
            for (event, expected) in events().into_iter().zip(row) {
                let got = phase.clone().next(event.clone(), now()).ok();
                let states =
                    got.map(|(_, reports)| reports.iter().map(|report| report.state).collect());
                assert_eq!(states, expected, "{phase:?} {event:?}");
            }
        }
    }

    #[test]
    fn bodies_are_the_contracts() {
        let body = |phase: Phase, event| {
            let (_, reports) = phase.next(event, now()).unwrap();
            serde_json::to_value(&reports[0].body).unwrap()
        };
        let time = "2031-02-03T04:05:06.070809+00:00";
        assert_eq!(
            body(Phase::Staging, Event::Staged),
            serde_json::json!({ "time": time })
        );
        assert_eq!(
            body(
                Phase::Running,
                Event::Exited {
                    exit_code: 7,
                    explanation: None,
                    usage: None,
                }
            ),
            serde_json::json!({ "time": time, "exit_code": 7 })
        );
        assert_eq!(
            body(Phase::Publishing, Event::OutputsStored(vec![])),
            serde_json::json!({ "time": time })
        );
        assert_eq!(
            body(
                Phase::SavingLogs {
                    reason: "Container exit code: 7".to_owned()
                },
                Event::LogsSaved { problem: None }
            ),
            serde_json::json!({ "time": time, "admin_error": "Container exit code: 7" })
        );
        assert_eq!(
            body(
                Phase::Running,
                Event::Failed {
                    message: " ".to_owned(),
                    trace: "t".to_owned()
                }
            ),
            serde_json::json!({ "time": time, "admin_error": "unknown failure", "traceback": "t" })
        );
    }
}
