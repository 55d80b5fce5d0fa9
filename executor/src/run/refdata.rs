//! The reference data that the image needs, where executors stage it themselves: the first on a machine stages it,
//! the others wait for that and check what they find.

use std::sync::Arc;

use cts_shared::crc64nvme::{Crc64Nvme, InvalidCrc64Nvme};
use cts_shared::failure::FailureCode;
use cts_shared::id::RefdataId;
use cts_shared::s3_path::{InvalidS3Path, S3Path};
use cts_shared::wire::refdata::ReferenceData;
use indicatif::HumanBytes;
use tokio_util::sync::CancellationToken;

use super::{Run, Stop, failed};
use crate::failure::Classify;
use crate::object_store::{ObjectName, ObjectStore};
use crate::plan::ContainerPlan;
use crate::refdata::{Item, RefdataStore, StagingCounters};
use crate::report;

/// What the service says about reference data cannot be used.
#[derive(Debug, thiserror::Error)]
enum RecordError {
    #[error(
        "the service answers for reference data {wanted} with {got}; look at what stands between"
    )]
    Another { wanted: RefdataId, got: RefdataId },
    #[error(
        "the file of reference data {id} is no S3 path: {cause}; register the object under another path"
    )]
    Path { id: RefdataId, cause: InvalidS3Path },
    #[error(
        "reference data {0} has no CRC64NVME to check it by; register the object under another path"
    )]
    NoChecksum(RefdataId),
    #[error(
        "the CRC64NVME of reference data {id} cannot be read: {cause}; register the object under another path"
    )]
    Checksum {
        id: RefdataId,
        cause: InvalidCrc64Nvme,
    },
}

impl Classify for RecordError {
    fn code(&self) -> FailureCode {
        FailureCode::RefdataInvalid
    }
}

impl Run<'_> {
    /// Sees to it that the image's reference data is there and right, if that is this executor's to do.
    pub(super) async fn stage_refdata(
        &self,
        plan: &ContainerPlan,
        store: &Arc<dyn ObjectStore>,
        stopped: &CancellationToken,
    ) -> Result<(), Stop> {
        let (Some(id), Some(settings)) = (&plan.refdata, &self.config.refdata) else {
            return Ok(());
        };
        let (coordinator, clock) = (&self.parts.coordinator, &self.parts.clock);
        let budget = self.config.update_budget;
        let what = "asking for the reference data";
        let asked =
            report::retry_at_start(clock.as_ref(), budget, what, || coordinator.refdata(id));
        let record = self
            .unless_halted(asked)
            .await?
            .map_err(failed("ask for the reference data"))?;
        let item = item(id, record).map_err(failed("read the record of the reference data"))?;
        let root = settings.directory.clone();
        let metadata = RefdataStore::default_metadata(&root);
        let trees = RefdataStore::new(root, metadata, settings.limits);
        let counters = Arc::new(StagingCounters::default());
        let display = &self.parts.display;
        let phase = display.phase("reference data", Arc::clone(&counters));
        self.parts.pool.progress(&counters);
        let engine = self.transfers(store);
        match trees.stage(&item, &engine, counters, stopped).await {
            Ok(staged) => {
                if !staged.was_there {
                    phase.finish();
                }
                tracing::info!(
                    refdata.id = %id,
                    tree = %staged.tree.display(),
                    files = staged.files,
                    size = %HumanBytes(staged.bytes),
                    was_there = staged.was_there,
                    "the reference data is there and checked"
                );
                Ok(())
            }
            Err(error) if error.is_cancelled() => Err(self.why_halted()),
            Err(error) => Err(failed("stage the reference data")(error)),
        }
    }
}

/// What is to be staged, from the service's record of it.
fn item(wanted: &RefdataId, record: ReferenceData) -> Result<Item, RecordError> {
    let id = record.id;
    if id != *wanted {
        let wanted = wanted.clone();
        return Err(RecordError::Another { wanted, got: id });
    }
    let path = S3Path::parse(&record.file).map_err(|cause| RecordError::Path {
        id: id.clone(),
        cause,
    })?;
    let checksum = record
        .crc64nvme
        .ok_or_else(|| RecordError::NoChecksum(id.clone()))?;
    let expected = Crc64Nvme::from_base64(&checksum).map_err(|cause| RecordError::Checksum {
        id: id.clone(),
        cause,
    })?;
    Ok(Item {
        id,
        object: ObjectName::new(path.bucket().as_str(), path.key()),
        expected,
        unpack: record.unpack,
    })
}
