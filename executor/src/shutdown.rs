//! SIGTERM and SIGINT, from the first moment to the last (contract executor.md, section 5).

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Tells every part of a run that it has to end, and why.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
    signal: Arc<AtomicU8>,
}

/// A signal asked the run to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopped by a signal")]
pub struct Interrupted;

impl Shutdown {
    /// Listens for SIGTERM and SIGINT from now on.
    ///
    /// # Errors
    /// When the system refuses signal handlers.
    pub fn listen() -> std::io::Result<Self> {
        let shutdown = Self::default();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let told = shutdown.clone();
        tokio::spawn(async move {
            let number = tokio::select! {
                _ = terminate.recv() => 15,
                _ = interrupt.recv() => 2,
            };
            told.request(number);
        });
        Ok(shutdown)
    }

    /// Asks for the end, as if the signal had come.
    pub fn request(&self, signal: u8) {
        self.signal.store(signal, Ordering::Release);
        self.token.cancel();
    }

    /// Is cancelled when the run has to end.
    #[must_use]
    pub const fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// The signal that came, if any.
    #[must_use]
    pub fn signal(&self) -> Option<u8> {
        Some(self.signal.load(Ordering::Acquire)).filter(|number| *number != 0)
    }

    /// Waits for `work`, or for a signal. The work is dropped then, so it must be safe to drop.
    ///
    /// # Errors
    /// When a signal came first.
    pub async fn unless_interrupted<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<T, Interrupted> {
        tokio::select! {
            biased;
            () = self.token.cancelled() => Err(Interrupted),
            value = work => Ok(value),
        }
    }
}
