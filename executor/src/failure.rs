//! What ends a run that is neither the container's doing nor a signal's.

use std::error::Error;
use std::fmt::Write;

/// A failure around the container: one sentence for people, and the chain of causes for the report's
/// `traceback`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFailure {
    /// What failed, with the object, the cause and the next step.
    pub message: String,
    /// Which step, and every cause below it.
    pub trace: String,
}

impl RunFailure {
    /// From an error met in a step of the run, e.g. `stage inputs`.
    #[must_use]
    pub fn new(step: &str, error: &(dyn Error + 'static)) -> Self {
        let mut trace = format!("while trying to {step}: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            // Writing to a String cannot fail.
            let _infallible = write!(trace, "\n  caused by: {cause}");
            source = cause.source();
        }
        Self {
            message: error.to_string(),
            trace,
        }
    }
}
