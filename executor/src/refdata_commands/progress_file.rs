//! A file that says how far a staging is, for a program that started it.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use crate::refdata::StagingCounters;

/// How often it is renewed.
const EVERY: Duration = Duration::from_secs(1);

/// Waits for a staging, while the file says how far it is. The file goes when the staging has ended.
pub(super) async fn kept<T>(
    file: &Path,
    counters: &StagingCounters,
    staging: impl Future<Output = T>,
) -> T {
    let mut staging = pin!(staging);
    let mut ticks = tokio::time::interval(EVERY);
    let mut is_writable = true;
    let ended = loop {
        tokio::select! {
            biased;
            ended = &mut staging => break ended,
            _ = ticks.tick() => {
                let written = write(file, counters).await;
                // Said once: the staging goes on without it.
                if let Err(error) = &written && is_writable {
                    tracing::warn!(path = %file.display(), %error, "cannot write how far the staging is");
                }
                is_writable = written.is_ok();
            }
        }
    };
    // It may never have been written.
    let _absent = tokio::fs::remove_file(file).await;
    ended
}

/// Replaces the file in one step: a reader sees a whole one.
async fn write(file: &Path, counters: &StagingCounters) -> io::Result<()> {
    let json = serde_json::to_vec(&counters.snapshot())?;
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    tokio::fs::write(&new, json).await?;
    tokio::fs::rename(&new, file).await
}
