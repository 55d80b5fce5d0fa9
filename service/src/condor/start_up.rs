//! What must be there before jobs can be sent to the pool, and looking for it until it is (contract service.md,
//! section 6).

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::commands::CondorCommands;
use crate::sites::SiteGate;

/// Between two looks.
pub const LOOK_AGAIN_AFTER: Duration = Duration::from_mins(5);

/// The tools, and a place for what the executors print.
#[derive(Debug)]
pub struct StartUp {
    commands: Arc<CondorCommands>,
    initial_dir: String,
    again_after: Duration,
}

impl StartUp {
    /// Nothing is looked at yet.
    #[must_use]
    pub fn new(commands: Arc<CondorCommands>, initial_dir: String, again_after: Duration) -> Self {
        Self {
            commands,
            initial_dir,
            again_after,
        }
    }

    /// Looks once. A pool that does not answer is no fault: jobs wait for it.
    ///
    /// # Errors
    /// What is missing, and what to do.
    pub async fn check(&self) -> Result<(), String> {
        let version = self.commands.version().await;
        let version = version.map_err(|error| error.to_string())?;
        tokio::fs::create_dir_all(&self.initial_dir)
            .await
            .map_err(|error| {
                format!(
                    "HTCondor.initialdir: cannot make {}: {error}; correct it, or make it",
                    self.initial_dir
                )
            })?;
        tracing::info!(version, "found HTCondor's tools");
        Ok(())
    }

    /// Opens the gate once everything is there. Ends before if told to stop.
    pub async fn open(&self, gate: &SiteGate, stop: &CancellationToken) {
        while gate.is_closed() {
            let again = tokio::time::sleep(self.again_after);
            if stop.run_until_cancelled(again).await.is_none() {
                return;
            }
            match self.check().await {
                Ok(()) => gate.open(),
                Err(reason) => gate.close(reason),
            }
        }
    }
}
