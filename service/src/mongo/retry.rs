//! What the driver's errors mean, and which calls are made again.

use std::time::{Duration, Instant};

use mongodb::error::{Error, ErrorKind, RETRYABLE_WRITE_ERROR, WriteFailure};
use rand::Rng;

use crate::job_store::StoreError;

/// Calls of one operation at most.
const ATTEMPTS: u32 = 5;
/// All calls of one operation together.
const WITHIN: Duration = Duration::from_secs(25);
/// One call: longer than a server may take to be found, or a majority to acknowledge. The driver
/// waits for an answer without end.
const CALL_WITHIN: Duration = Duration::from_secs(15);
const FIRST_DELAY: Duration = Duration::from_millis(50);

const DUPLICATE_KEY: i32 = 11000;

/// Codes of a server that cannot do it now: it stops, is not the primary, cannot reach others or a
/// majority, was interrupted by a change of the primary, or lost what a query had come to.
const UNAVAILABLE: [i32; 19] = [
    6,     // HostUnreachable
    7,     // HostNotFound
    43,    // CursorNotFound
    50,    // MaxTimeMSExpired
    64,    // WriteConcernTimeout
    89,    // NetworkTimeout
    91,    // ShutdownInProgress
    100,   // UnsatisfiableWriteConcern
    112,   // WriteConflict
    134,   // ReadConcernMajorityNotAvailableYet
    175,   // QueryPlanKilled
    189,   // PrimarySteppedDown
    262,   // ExceededTimeLimit
    9001,  // SocketException
    10107, // NotWritablePrimary
    11600, // InterruptedAtShutdown
    11602, // InterruptedDueToReplStateChange
    13435, // NotPrimaryNoSecondaryOk
    13436, // NotPrimaryOrSecondary
];

/// Makes a call, and again while the server cannot answer, or does not in time. The call gets the number of
/// the attempt, from 0: after the first, an earlier one may have been carried out.
pub(super) async fn retried<T, F>(
    action: &'static str,
    call: impl Fn(u32) -> F,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, Error>>,
{
    let begun = Instant::now();
    let mut attempt = 0;
    loop {
        let left = WITHIN.saturating_sub(begun.elapsed());
        let error = match timely(action, CALL_WITHIN.min(left), call(attempt)).await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        attempt += 1;
        let delay = FIRST_DELAY * 2_u32.pow(attempt);
        let again = matches!(error, StoreError::Unavailable { .. });
        if !again || attempt >= ATTEMPTS || begun.elapsed() + delay >= WITHIN {
            return Err(error);
        }
        tracing::debug!(action, attempt, %error, "trying again");
        pause(delay).await;
    }
}

/// Makes a call once. One that is not answered in time may have been carried out, or yet be.
pub(super) async fn timely<T>(
    action: &'static str,
    within: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(within, call).await {
        Ok(answer) => answer.map_err(|error| store_error(action, &error)),
        Err(_) => Err(StoreError::Unavailable {
            action,
            cause: format!("no answer within {} s", within.as_secs()),
        }),
    }
}

/// Waits for about that long, so that those who met do not meet again.
pub(super) async fn pause(delay: Duration) {
    let part = rand::rng().random_range(0.5..1.0);
    tokio::time::sleep(delay.mul_f64(part)).await;
}

/// What an error of the driver is for the service.
pub(super) fn store_error(action: &'static str, error: &Error) -> StoreError {
    let cause = error.to_string();
    let code = code(error);
    if code == Some(DUPLICATE_KEY) {
        return StoreError::Duplicate { action, cause };
    }
    let is_unavailable = error.contains_label(RETRYABLE_WRITE_ERROR)
        || code.is_some_and(|code| UNAVAILABLE.contains(&code))
        || matches!(
            *error.kind,
            ErrorKind::Io(_)
                | ErrorKind::ConnectionPoolCleared { .. }
                | ErrorKind::ServerSelection { .. }
                | ErrorKind::DnsResolve { .. }
        );
    if is_unavailable {
        StoreError::Unavailable { action, cause }
    } else {
        StoreError::Failed { action, cause }
    }
}

/// The server's number for an error.
pub(super) fn code(error: &Error) -> Option<i32> {
    match error.kind.as_ref() {
        ErrorKind::Command(error) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(error)) => Some(error.code),
        ErrorKind::InsertMany(errors) => errors
            .write_errors
            .iter()
            .flatten()
            // One that is no duplicate is worse than any number of duplicates.
            .map(|error| error.code)
            .max_by_key(|code| *code != DUPLICATE_KEY)
            .or_else(|| errors.write_concern_error.as_ref().map(|error| error.code)),
        _ => None,
    }
}
