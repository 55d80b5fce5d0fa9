//! Nobody stages beforehand: executors do, each for its node, when they need it.

use futures::FutureExt;
use futures::future::BoxFuture;

use cts_shared::crc64nvme::Crc64Nvme;

use super::{RefdataStager, Staging, StagingError, StagingItem};

/// Whether executors stage reference data themselves; if they do not, there is nobody who would.
#[derive(Debug, Clone, Copy)]
pub struct StagedByExecutors {
    enabled: bool,
}

impl StagedByExecutors {
    /// With the setting `ExternalExecution.refdata_staged_by_executors`.
    #[must_use]
    pub const fn new(enabled: bool) -> Self {
        Self { enabled }
    }
}

impl RefdataStager for StagedByExecutors {
    fn stage(&self, item: StagingItem) -> BoxFuture<'_, Result<Staging, StagingError>> {
        let can_be_checked = item
            .crc64nvme
            .is_some_and(|checksum| Crc64Nvme::from_base64(&checksum).is_ok());
        let staging = if self.enabled && !can_be_checked {
            Err(StagingError::Failed(
                "the object's checksum was not noted when it was registered; register it under another path"
                    .to_owned(),
            ))
        } else if self.enabled {
            // Nothing has to be there before a job is.
            Ok(Staging::UnderWay(futures::future::ready(Ok(())).boxed()))
        } else {
            Err(StagingError::Failed(
                "nobody stages reference data for this site; set ExternalExecution.refserver_url and \
                 refserver_token to have a server do so, or \
                 ExternalExecution.refdata_staged_by_executors = \"true\" to have each executor do so; \
                 then recover this with force=true"
                    .to_owned(),
            ))
        };
        futures::future::ready(staging).boxed()
    }

    fn hands_over(&self) -> bool {
        false
    }

    fn check(&self) -> BoxFuture<'_, Result<(), String>> {
        futures::future::ready(Ok(())).boxed()
    }
}
