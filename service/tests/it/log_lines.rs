//! What is logged while a test runs.

use std::io::Write;
use std::sync::{Arc, Mutex};

use tracing::dispatcher::DefaultGuard;

/// What was logged so far. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct LogLines(Arc<Mutex<Vec<u8>>>);

impl LogLines {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for LogLines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Has this thread log to the subscriber until what this returns is dropped.
pub(crate) fn log_to(
    subscriber: impl tracing::Subscriber + Send + Sync + 'static,
) -> (DefaultGuard, tracing::Dispatch) {
    // With a single subscriber in the process, a line that another test's thread reaches first would
    // be switched off for good, for that thread has none. A second one has it asked for each time.
    let second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    (tracing::subscriber::set_default(subscriber), second)
}
