//! Threads of the transfer engine's own.

use std::io;

use tokio::runtime::{Builder, Handle, Runtime};

/// Measured best for 8 parts in flight: enough that a few blocked in file IO leave some for the
/// network.
const THREADS: usize = 4;

/// A runtime whose threads may block in file IO. Dropping it never blocks, so it may be owned and
/// dropped by async code.
#[derive(Debug)]
pub struct TransferRuntime {
    // None only while dropping.
    runtime: Option<Runtime>,
    handle: Handle,
}

impl TransferRuntime {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("cts-transfer")
            .enable_all()
            .build()?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    /// What spawns onto it.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for TransferRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // An ordinary drop waits for blocked threads, and panics in async code.
            runtime.shutdown_background();
        }
    }
}
