//! Steps in any order, with any clocks. Whole lives of jobs are in the contract's vectors.

use std::collections::HashMap;

use jiff::Timestamp;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::state::TERMINAL_STATES;
use crate::state::attempts::Announcement;

fn at(second: i64) -> UtcTime {
    UtcTime::new(Timestamp::from_second(second).unwrap())
}

fn output(container: u32) -> S3File {
    S3File {
        file: format!("buk/out/{container}"),
        crc64nvme: Some("AAAAAAAAAAA=".to_owned()),
    }
}

fn report(container: u32, state: JobState, second: i64) -> ContainerReport {
    ContainerReport {
        state,
        time: at(second),
        exit_code: Some(i64::from(state == JobState::ErrorProcessingSubmitting)),
        outputs: Some(vec![output(container)]),
        admin_error: Some("it broke".to_owned()),
        traceback: None,
        usage: None,
        from: Reporter::Unnumbered,
    }
}

fn finish(record: &mut JobRecord, second: i64) -> Change {
    let checksums: HashMap<String, String> = record
        .merged_outputs()
        .into_iter()
        .filter_map(|output| Some((output.file, output.crc64nvme?)))
        .collect();
    let evidence = Evidence {
        statistics: Statistics::default(),
        statistics_due: false,
        checksums: &checksums,
        log_path: "logs/job",
        logs_stored: false,
    };
    record.finish(&evidence, at(second)).unwrap()
}

/// Applies the good way up to and with `state`.
fn run_to(record: &mut JobRecord, container: u32, state: JobState) {
    for next in REPORTED_STATES {
        let _change = record
            .apply_report(container, &report(container, next, 10))
            .unwrap();
        if next == state {
            break;
        }
    }
}

#[test]
fn a_report_may_come_before_the_job_is_recorded_as_queued() {
    let mut record = JobRecord::new(1, at(0));
    let change = record
        .apply_report(0, &report(0, JobState::JobSubmitting, 5))
        .unwrap();
    let entered: Vec<JobState> = change.transitions.iter().map(|entry| entry.state).collect();
    assert_eq!(
        entered,
        [JobState::DownloadSubmitted, JobState::JobSubmitting]
    );
    assert!(record.queued(at(6)).unwrap().is_empty());
    assert_eq!(record.state(), JobState::JobSubmitting);
}

#[test]
fn a_canceled_job_refuses_to_be_queued_and_ends_canceled() {
    let mut record = JobRecord::new(1, at(0));
    assert_eq!(record.cancel(at(1)).unwrap().pending, Some(Pending::Cancel));
    let refusal = record.queued(at(2)).unwrap_err();
    assert_eq!(refusal.error_code(), Some(ErrorCode::NoSuchJob));
    assert!(record.fail("x", "y", None, at(2)).is_err());
    let change = record
        .apply_report(0, &report(0, JobState::Error, 3))
        .unwrap();
    assert_eq!((change.container, change.transitions.len()), (Some(0), 0));
    let _change = finish(&mut record, 4);
    assert_eq!(record.state(), JobState::Canceled);
    assert_eq!(record.outcome.error, None);
}

#[test]
fn a_repeated_report_needs_the_same_data() {
    let mut record = JobRecord::new(1, at(0));
    run_to(&mut record, 0, JobState::UploadSubmitting);
    let same = report(0, JobState::UploadSubmitting, 10);
    assert!(record.apply_report(0, &same).unwrap().is_empty());
    let later = ContainerReport {
        time: at(11),
        ..same.clone()
    };
    assert!(
        record.apply_report(0, &later).unwrap().is_empty(),
        "the current state again"
    );
    let other = ContainerReport {
        exit_code: Some(7),
        ..same
    };
    let refusal = record.apply_report(0, &other).unwrap_err();
    assert_eq!(refusal.error_code(), Some(ErrorCode::NoSuchSubjob));
    assert!(
        refusal
            .to_string()
            .contains("is in state upload_submitting"),
        "{refusal}"
    );
    assert!(
        record
            .apply_report(0, &report(0, JobState::JobSubmitting, 10))
            .unwrap()
            .is_empty()
    );
    assert!(
        record
            .apply_report(0, &report(0, JobState::JobSubmitting, 11))
            .is_err()
    );
}

#[test]
fn reports_without_their_data_are_refused() {
    let mut record = JobRecord::new(1, at(0));
    let mut bad = report(0, JobState::UploadSubmitting, 1);
    for exit_code in [None, Some(-1)] {
        bad.exit_code = exit_code;
        let refusal = record.apply_report(0, &bad).unwrap_err();
        assert_eq!(
            refusal.error_code(),
            Some(ErrorCode::IllegalParameter),
            "{exit_code:?}"
        );
    }
    let mut bad = report(0, JobState::Error, 1);
    for text in [None, Some(" \n".to_owned())] {
        bad.admin_error = text;
        let refusal = record.apply_report(0, &bad).unwrap_err();
        assert_eq!(refusal.error_code(), Some(ErrorCode::IllegalParameter));
    }
    for state in JobState::ALL
        .into_iter()
        .filter(|state| !REPORTED_STATES.contains(state))
    {
        let refusal = record.apply_report(0, &report(0, state, 1)).unwrap_err();
        assert_eq!(refusal.error_code(), Some(ErrorCode::UnsupportedOperation));
    }
    assert_eq!(record, JobRecord::new(1, at(0)));
}

#[test]
fn completing_without_what_was_reported_is_an_error() {
    let mut record = JobRecord::new(1, at(0));
    let _change = record.queued(at(1)).unwrap();
    for state in [
        JobState::JobSubmitting,
        JobState::JobSubmitted,
        JobState::UploadSubmitting,
        JobState::UploadSubmitted,
        JobState::Complete,
    ] {
        let _change = record.apply_report(0, &report(0, state, 2)).unwrap();
    }
    let evidence = Evidence {
        statistics: Statistics {
            cpu_hours: Some(1.0),
            ..Statistics::default()
        },
        statistics_due: false,
        checksums: &HashMap::new(),
        log_path: "logs/job",
        logs_stored: true,
    };
    let _change = record.finish(&evidence, at(3)).unwrap();
    assert_eq!(record.state(), JobState::Error);
    assert!(
        record
            .outcome
            .error
            .as_deref()
            .unwrap()
            .contains("buk/out/0")
    );
    assert_eq!(record.outcome.statistics, Statistics::default());
    assert_eq!(record.outcome.logpath.as_deref(), Some("logs/job"));
}

#[derive(Debug, Clone)]
enum Op {
    /// Any state at all.
    Report(u32, JobState, i64),
    /// The next state, on the good or the bad way.
    Next(u32, bool, i64),
    /// An executor begins with a container. It reports from then on.
    Announce(u32, u32),
    Again,
    Queued,
    Cancel,
    Finish,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        // Container 2 does not exist, and containers do not enter every state.
        4 => (0..3_u32, select(&JobState::ALL[..]), -50..50_i64)
            .prop_map(|(container, state, skew)| Op::Report(container, state, skew)),
        16 => (0..2_u32, any::<bool>(), -50..50_i64)
            .prop_map(|(container, good, skew)| Op::Next(container, good, skew)),
        2 => (0..3_u32, 0..5_u32)
            .prop_map(|(container, executor)| Op::Announce(container, executor)),
        2 => Just(Op::Again),
        1 => Just(Op::Queued),
        1 => Just(Op::Cancel),
        2 => Just(Op::Finish),
    ];
    vec(op, 0..40)
}

/// The container's next state on the good or the bad way, `error` where there is none.
fn next_state(record: &JobRecord, container: u32, good: bool) -> JobState {
    let state = record.containers[container as usize].state();
    let way = if good {
        REPORTED_STATES
    } else {
        [
            JobState::JobSubmitting,
            JobState::JobSubmitted,
            JobState::ErrorProcessingSubmitting,
            JobState::ErrorProcessingSubmitted,
            JobState::Error,
            JobState::Error,
            JobState::Error,
            JobState::Error,
        ]
    };
    way.into_iter()
        .find(|next| next.predecessors().contains(&state))
        .unwrap_or(JobState::Error)
}

fn check_history(history: &[Transition], may_start_again: bool) -> Result<(), TestCaseError> {
    for pair in history.windows(2) {
        // A container may start again; a job never does.
        let starts_again = pair[1].state == JobState::DownloadSubmitted;
        prop_assert!(
            (may_start_again && starts_again)
                || pair[1].state.predecessors().contains(&pair[0].state),
            "{:?}",
            history
        );
        prop_assert!(pair[0].time <= pair[1].time, "{:?}", history);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_steps_keep_the_histories_legal(ops in ops()) {
        let mut record = JobRecord::new(2, at(1000));
        let mut notified = vec![record.transitions[0]];
        let mut last: Option<(u32, ContainerReport)> = None;
        for (now, op) in (1000..).zip(ops) {
            let before = record.clone();
            let op = match op {
                Op::Next(container, good, skew) => {
                    Op::Report(container, next_state(&record, container, good), skew)
                }
                other => other,
            };
            let result = match op {
                Op::Next(..) => unreachable!("made a report above"),
                Op::Report(container, state, skew) => {
                    let mut report = report(container, state, now + skew);
                    let attempt = record.container(container).ok().and_then(ContainerRecord::current_attempt);
                    report.from = attempt
                        .map_or(Reporter::Unnumbered, |current| Reporter::Attempt(current.number));
                    let result = record.apply_report(container, &report);
                    if result.is_ok() {
                        last = Some((container, report));
                    }
                    result
                }
                Op::Again => match &last {
                    Some((container, report)) => {
                        let result = record.apply_report(*container, report);
                        let changes_nothing = match &result {
                            Ok(change) => change.is_empty(),
                            Err(refusal) => matches!(refusal, Refusal::Superseded { .. }),
                        };
                        prop_assert!(changes_nothing);
                        result
                    }
                    None => continue,
                },
                Op::Announce(container, executor) => {
                    let instance = executor.to_string();
                    let announcement = Announcement { instance, host: None };
                    let result = record.announce(container, &announcement, at(now));
                    if let Ok(change) = &result {
                        prop_assert!(change.standing.is_some());
                    }
                    result
                }
                Op::Queued => record.queued(at(now)),
                Op::Cancel => record.cancel(at(now)),
                Op::Finish => Ok(finish(&mut record, now)),
            };
            match result {
                Ok(change) => {
                    // A renewal within the same second is saved as well.
                    prop_assert!(!change.is_empty() || record == before);
                    prop_assert_eq!(change.pending, record.pending());
                    notified.extend(change.transitions);
                }
                Err(refusal) => {
                    prop_assert!(!matches!(refusal, Refusal::Inconsistent(_)), "{}", refusal);
                    prop_assert_eq!(&record, &before);
                }
            }
            if before.state().is_terminal() {
                prop_assert_eq!(&record.transitions, &before.transitions);
                prop_assert_eq!(&record.outcome, &before.outcome);
            }
        }
        check_history(&record.transitions, false)?;
        for container in &record.containers {
            check_history(&container.transitions, true)?;
        }
        prop_assert_eq!(&notified, &record.transitions, "each transition is notified once");

        let _change = finish(&mut record, 2000);
        prop_assert_eq!(record.pending(), None);
        if record.transitions.iter().any(|entry| entry.state == JobState::Canceling) {
            prop_assert_eq!(record.state(), JobState::Canceled);
        }
        if record.containers.iter().all(|one| one.state().is_terminal()) {
            prop_assert!(TERMINAL_STATES.contains(&record.state()));
        }
    }

    #[test]
    fn records_round_trip_through_json(ops in ops()) {
        let mut record = JobRecord::new(2, at(1000));
        for op in ops {
            if let Op::Next(container, good, skew) = op {
                let state = next_state(&record, container, good);
                let _refused = record.apply_report(container, &report(container, state, 1000 + skew));
            }
        }
        let text = serde_json::to_string(&record).unwrap();
        prop_assert_eq!(serde_json::from_str::<JobRecord>(&text).unwrap(), record);
    }
}
