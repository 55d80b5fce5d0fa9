//! Lists of outputs. A document holds 16 MB, and a container may write a hundred thousand files: short
//! lists are in the document of their job or container, as the contract has them; long ones are in
//! documents of their own, in parts, and the contract's field is absent or null. The existing
//! service then shows no outputs for that job, rather than some of them.
//!
//! Parts are written before the document that names their set. A set whose document was never written
//! stays behind if the service dies between; it names its job.

use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use serde::Deserialize;
use uuid::Uuid;

use cts_shared::id::JobId;
use cts_shared::wire::job::S3File;

use crate::job_store::StoreError;

use super::documents::{StoredOutputs, output_documents, read};
use super::retry::retried;
use super::{MongoStore, Name};

/// Longest list in the document of a job or container, in bytes. A job's document can have 10,000 input
/// files (11 MB), the outputs, and those of one container that is about to be written.
const MAX_INLINE_BYTES: usize = 1024 * 1024;
/// Longest part, in bytes.
const MAX_PART_BYTES: usize = 4 * 1024 * 1024;

#[derive(Deserialize)]
struct Part {
    outputs: Vec<S3File>,
    last: bool,
}

impl MongoStore {
    /// Writes a list where it fits, or says what to write.
    pub(super) async fn store_outputs(
        &self,
        job: JobId,
        outputs: Option<&[S3File]>,
    ) -> Result<StoredOutputs, StoreError> {
        self.store_outputs_as(&Uuid::new_v4().to_string(), job, outputs)
            .await
    }

    /// The same, in a set of that name if it is long; what is left there of a copy that was not finished is
    /// replaced.
    pub(super) async fn store_outputs_as(
        &self,
        set: &str,
        job: JobId,
        outputs: Option<&[S3File]>,
    ) -> Result<StoredOutputs, StoreError> {
        let Some(outputs) = outputs else {
            return Ok(StoredOutputs::Inline(Bson::Null));
        };
        if outputs.iter().map(bytes).sum::<usize>() <= MAX_INLINE_BYTES {
            return Ok(StoredOutputs::Inline(Bson::Array(output_documents(
                outputs,
            ))));
        }
        let collection = self.newest_of(Name::Outputs);
        retried("store outputs", |_| {
            collection.delete_many(doc! {"set": set}).into_future()
        })
        .await?;
        let mut parts = parts(outputs).into_iter().zip(0_i64..).peekable();
        while let Some((part, number)) = parts.next() {
            let document = doc! {
                "set": set,
                "part": number,
                "last": parts.peek().is_none(),
                "job_id": job.to_string(),
                "outputs": output_documents(part),
            };
            let written = retried("store outputs", |_| {
                collection.insert_one(&document).into_future()
            })
            .await;
            match written {
                // Of a call whose answer was lost: the set was empty.
                Ok(_) | Err(StoreError::Duplicate { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(StoredOutputs::Apart(set.to_owned()))
    }

    /// Reads a list that is in documents of its own.
    pub(super) async fn read_outputs(
        &self,
        job: JobId,
        set: &str,
    ) -> Result<Vec<S3File>, StoreError> {
        let collection = self.newest_of(Name::Outputs);
        let found: Vec<Document> = retried("read outputs", |_| {
            let collection = &collection;
            async move {
                collection
                    .find(doc! {"set": set})
                    .sort(doc! {"part": 1})
                    .await?
                    .try_collect()
                    .await
            }
        })
        .await?;
        let mut outputs = Vec::new();
        let mut is_complete = false;
        for document in found {
            let part: Part = read(&format!("outputs of job {job}"), document)?;
            is_complete = part.last;
            outputs.extend(part.outputs);
        }
        if is_complete {
            Ok(outputs)
        } else {
            Err(StoreError::Gone {
                what: format!("outputs of job {job} (set {set} of cts_outputs)"),
            })
        }
    }

    /// Removes a list that no document names. It is only waste if it stays.
    pub(super) async fn drop_outputs(&self, outputs: Option<&StoredOutputs>) {
        let Some(StoredOutputs::Apart(set)) = outputs else {
            return;
        };
        let collection = self.newest_of(Name::Outputs);
        if let Err(error) = collection.delete_many(doc! {"set": set}).await {
            tracing::warn!(set, %error, "cannot remove outputs that nothing refers to");
        }
    }
}

/// About what an output takes in a document.
fn bytes(output: &S3File) -> usize {
    const NAMES_AND_LENGTHS: usize = 50;
    let checksum = output.crc64nvme.as_ref().map_or(0, String::len);
    output.file.len() + checksum + NAMES_AND_LENGTHS
}

fn parts(outputs: &[S3File]) -> Vec<&[S3File]> {
    let mut parts = Vec::new();
    let mut rest = outputs;
    while !rest.is_empty() {
        let mut taken = 0;
        let fits = rest
            .iter()
            .take_while(|output| {
                taken += bytes(output);
                taken <= MAX_PART_BYTES
            })
            .count();
        let (part, others) = rest.split_at(fits.max(1));
        parts.push(part);
        rest = others;
    }
    parts
}
