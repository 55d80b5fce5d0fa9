//! Publish: outputs and logs to S3, under the contract's keys (executor.md, section 4).

use std::sync::Arc;
use std::time::Duration;

use cts_shared::container_log::LogStream;
use cts_shared::s3_path::S3Path;
use cts_shared::wire::job::S3File;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Run, Stop, failed};
use crate::collect::{self, CollectLimits};
use crate::object_store::{ObjectName, ObjectStore};
use crate::plan::{ContainerPlan, log_prefix};
use crate::progress::Counters;
use crate::run_state::Event;
use crate::transfer::{Source, TransferError, Upload};

/// Storing logs may take this long after a failure: they must not hold up the report for ever.
const LOG_TIMEOUT: Duration = Duration::from_secs(10 * 60);

impl Run<'_> {
    /// Stores the outputs, then the logs. A log that cannot be stored does not fail a success.
    pub(super) async fn publish(
        &mut self,
        plan: &ContainerPlan,
        declobber: bool,
        store: &Arc<dyn ObjectStore>,
    ) -> Result<Event, Stop> {
        let prefix = S3Path::parse(&plan.output_prefix).map_err(failed("name the outputs"))?;
        let outputs = self.workdir.output(declobber);
        let (bucket, key_prefix) = (prefix.bucket().as_str().to_owned(), prefix.key().to_owned());
        // With a directory of its own only: below a shared one the open uploads may be another
        // container's.
        if declobber {
            self.abort_orphans(store, &bucket, &key_prefix).await?;
        }
        let output_dir = plan.output_prefix.trim_end_matches('/').to_owned();
        let cancel = self.halt.clone();
        let collected = self
            .on_disk("collect the outputs", move |_| {
                collect::collect(&outputs, &output_dir, CollectLimits::default(), &cancel)
            })
            .await?;
        if collected.skipped_links > 0 {
            let count = collected.skipped_links;
            tracing::info!(count, "links to directories of the outputs are left out");
        }
        let items = collected
            .files
            .into_iter()
            .map(|file| Upload {
                object: ObjectName::new(&bucket, format!("{key_prefix}{}", file.path())),
                source: Source::Output(file),
            })
            .collect();
        let counters = Arc::new(Counters::default());
        let phase = self.parts.display.phase("upload", Arc::clone(&counters));
        self.parts.pool.progress(&counters);
        let sent = self
            .transfers(store)
            .upload(items, counters, &self.halt)
            .await
            .map_err(|error| match error {
                TransferError::Cancelled | TransferError::Closed => self.why_halted(),
                error => failed("upload the outputs")(error),
            })?;
        phase.finish();
        let mut outputs: Vec<S3File> = sent
            .into_iter()
            .map(|sent| S3File {
                file: format!("{}/{}", sent.object.bucket, sent.object.key),
                crc64nvme: Some(sent.checksum.to_string()),
            })
            .collect();
        outputs.sort();
        if let Some(problem) = self.save_logs(plan, store).await? {
            tracing::warn!("the container's logs could not be stored: {problem}");
        }
        Ok(Event::OutputsStored(outputs))
    }

    /// Throws away what a killed run of this container left half uploaded below its own directory.
    async fn abort_orphans(
        &self,
        store: &Arc<dyn ObjectStore>,
        bucket: &str,
        key_prefix: &str,
    ) -> Result<(), Stop> {
        let engine = self.transfers(store);
        let aborting = engine.abort_orphans(bucket, key_prefix);
        match self.unless_halted(aborting).await? {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "aborted uploads that an earlier run left open"),
            // Listing uploads is a right that the key may lack; they cost space, nothing else.
            Err(error) => tracing::debug!("cannot look for uploads left open: {error}"),
        }
        Ok(())
    }

    /// Stores both logs; what kept them from being stored, in words.
    pub(super) async fn save_logs(
        &self,
        plan: &ContainerPlan,
        store: &Arc<dyn ObjectStore>,
    ) -> Result<Option<String>, Stop> {
        let cancel = self.halt.child_token();
        let saving = self.upload_logs(&plan.log_prefix, store, LOG_TIMEOUT, &cancel);
        match saving.await {
            Err(_) if self.halt.is_cancelled() => Err(self.why_halted()),
            saved => Ok(saved.err()),
        }
    }

    /// As [`Self::save_logs`], when nothing of the run is left but its settings.
    pub(super) async fn save_logs_after_failure(&self) -> Result<(), String> {
        let cancel = self.shutdown.token().child_token();
        self.save_logs_in_the_end(LOG_TIMEOUT, &cancel).await
    }

    /// As [`Self::save_logs_after_failure`], after a signal, in the time that is left.
    pub(super) async fn save_logs_on_the_way_out(&self, limit: Duration) -> Result<(), String> {
        let cancel = CancellationToken::new();
        self.save_logs_in_the_end(limit, &cancel).await
    }

    async fn save_logs_in_the_end(
        &self,
        limit: Duration,
        cancel: &CancellationToken,
    ) -> Result<(), String> {
        let store = (self.parts.open_store)().map_err(|failure| failure.failure.to_string())?;
        let prefix = log_prefix(&self.config.log_path.to_string(), self.config.container);
        self.upload_logs(&prefix, &store, limit, cancel).await
    }

    /// Bounded in time: logs must not hold up a report for ever. When it is over the upload is told to
    /// stop and waited for, so that no multipart upload stays open.
    async fn upload_logs(
        &self,
        prefix: &str,
        store: &Arc<dyn ObjectStore>,
        limit: Duration,
        cancel: &CancellationToken,
    ) -> Result<(), String> {
        // The prefix was checked when the settings were read.
        let (bucket, key) = prefix.split_once('/').unwrap_or((prefix, ""));
        let items = [
            (self.workdir.stderr_log(), LogStream::Stderr),
            (self.workdir.stdout_log(), LogStream::Stdout),
        ]
        .into_iter()
        .map(|(path, stream)| Upload {
            source: Source::File(path),
            object: ObjectName::new(bucket, format!("{key}{}", stream.name_suffix())),
        })
        .collect();
        let counters = Arc::new(Counters::default());
        let engine = self.transfers(store);
        let saving = engine.upload(items, counters, cancel);
        tokio::pin!(saving);
        match timeout(limit, &mut saving).await {
            Ok(saved) => saved.map(drop).map_err(|error| error.to_string()),
            Err(_) => {
                cancel.cancel();
                // What it says now follows from being told to stop.
                let _cancelled = saving.await;
                Err(format!("not done within {} s", limit.as_secs()))
            }
        }
    }
}
