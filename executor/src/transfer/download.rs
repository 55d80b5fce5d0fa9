//! Objects to files.
//!
//! The first GET of an object asks for its first part and tells its size, so small objects need one
//! request and no HEAD. First parts go before all others: the space that everything needs is known
//! after one part of each, and checked each time it grows, before a byte of the new object is
//! written.

mod large;
mod space;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use cts_shared::crc64nvme::Crc64Nvme;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::options::TransferOptions;
use super::part::{Origin, PartFetcher, Version};
use super::partial::InputTree;
use super::queue::WorkQueue;
use super::{Download, Summary, TransferError};
use crate::object_store::{GetResponse, ObjectStore};
use crate::progress::Counters;
use large::LargeObject;
use space::Space;

pub(super) async fn run(
    store: Arc<dyn ObjectStore>,
    options: Arc<TransferOptions>,
    items: Vec<Download>,
    input_root: PathBuf,
    counters: Arc<Counters>,
    cancel: CancellationToken,
) -> Result<Summary, TransferError> {
    counters.expect(items.len() as u64, 0);
    let tree = InputTree::prepare(&input_root, &items)?;
    let firsts = (0..items.len()).map(|index| Work::Begin {
        index,
        earlier: None,
    });
    let downloads = Arc::new(Downloads {
        queue: WorkQueue::new(firsts),
        space: Space::new(options.reserve_bytes),
        parts: PartFetcher {
            store,
            options: Arc::clone(&options),
            counters: Arc::clone(&counters),
        },
        options,
        tree,
        items,
        counters,
    });
    let stop = cancel.child_token();
    let mut workers = JoinSet::new();
    for _ in 0..downloads.options.download_concurrency.max(1) {
        let (downloads, stop) = (Arc::clone(&downloads), stop.clone());
        workers.spawn(async move {
            let work = stop.run_until_cancelled(downloads.work());
            work.await.unwrap_or(Err(TransferError::Cancelled))
        });
    }
    let result = super::first_failure(workers, &stop).await;
    downloads.tree.remove_partials();
    result?;
    Ok(Summary {
        files: downloads.items.len() as u64,
        bytes: downloads.space.written(),
    })
}

/// What the workers share.
#[derive(Debug)]
struct Downloads {
    parts: PartFetcher,
    options: Arc<TransferOptions>,
    items: Vec<Download>,
    tree: InputTree,
    queue: WorkQueue<Work>,
    space: Space,
    counters: Arc<Counters>,
}

#[derive(Debug)]
enum Work {
    /// Fetch an object's first part, or all of it.
    Begin {
        index: usize,
        /// 1, or 2 after a mismatch.
        /// What its bytes had at the first try, if this is the second.
        earlier: Option<Crc64Nvme>,
    },
    /// Fetch another part.
    Continue(Arc<LargeObject>),
}

impl Downloads {
    async fn work(&self) -> Result<(), TransferError> {
        while let Some((work, _taken)) = self.queue.next().await {
            match work {
                Work::Begin { index, earlier } => self.begin(index, earlier).await?,
                Work::Continue(object) => self.fetch_next_part(object).await?,
            }
        }
        Ok(())
    }

    async fn begin(&self, index: usize, earlier: Option<Crc64Nvme>) -> Result<(), TransferError> {
        let Some(item) = self.items.get(index) else {
            return Ok(());
        };
        let fresh_connection = earlier.is_some();
        let first_part_bytes = self.options.first_part_bytes;
        let response = self
            .parts
            .first_answer(
                &item.object,
                item.expected,
                first_part_bytes,
                fresh_connection,
            )
            .await?;
        let version = Version::of(&response);
        if earlier.is_none() {
            self.counters.expect(0, version.size);
            self.space.need(version.size, &self.tree)?;
        }
        let file = self
            .tree
            .create(index)
            .map_err(|cause| self.local("create the partial file of", item, cause))?;
        // A store that ignores ranges sends everything at once.
        let first_part = 0..version.size.min(response.range.end);
        let rest = LargeObject::new(index, earlier, version.clone(), first_part.end);
        if first_part.end < version.size {
            self.queue.push_back(Work::Continue(Arc::clone(&rest)));
        }
        let origin = Origin {
            object: &item.object,
            version: &version,
            fresh_connection,
        };
        let checksum = self
            .fetch_part(origin, item, &file, first_part.clone(), Some(response))
            .await?;
        drop(file);
        self.part_done(&rest, first_part, checksum)
    }

    async fn fetch_next_part(&self, object: Arc<LargeObject>) -> Result<(), TransferError> {
        let Some((part, is_last)) = object.take_part(self.options.part_bytes) else {
            return Ok(());
        };
        if !is_last {
            self.queue.push_front(Work::Continue(Arc::clone(&object)));
        }
        let Some(item) = self.items.get(object.index) else {
            return Ok(());
        };
        let file = self
            .tree
            .reopen(object.index)
            .map_err(|cause| self.local("open the partial file of", item, cause))?;
        let origin = Origin {
            object: &item.object,
            version: &object.version,
            fresh_connection: object.earlier.is_some(),
        };
        let checksum = self
            .fetch_part(origin, item, &file, part.clone(), None)
            .await?;
        drop(file);
        self.part_done(&object, part, checksum)
    }

    /// Writes a part to its place in the file; returns its checksum.
    async fn fetch_part(
        &self,
        origin: Origin<'_>,
        item: &Download,
        file: &File,
        part: Range<u64>,
        response: Option<GetResponse>,
    ) -> Result<Crc64Nvme, TransferError> {
        let mut write = |at: u64, chunk: &[u8]| {
            file.write_all_at(chunk, at)
                .map_err(|cause| self.local("write the partial file of", item, cause))?;
            self.space.wrote(chunk.len() as u64);
            Ok(())
        };
        self.parts.fetch(origin, part, response, &mut write).await
    }

    fn part_done(
        &self,
        object: &LargeObject,
        part: Range<u64>,
        checksum: Crc64Nvme,
    ) -> Result<(), TransferError> {
        match object.part_done(part, checksum) {
            Some(checksum) => self.finish(object, checksum),
            None => Ok(()),
        }
    }

    /// All bytes are there: compares, and gives the file its name or fetches it once more.
    fn finish(&self, object: &LargeObject, actual: Crc64Nvme) -> Result<(), TransferError> {
        let Some(item) = self.items.get(object.index) else {
            return Ok(());
        };
        if actual == item.expected {
            self.tree
                .place(object.index, &item.destination)
                .map_err(|cause| self.local("put into place", item, cause))?;
            self.counters.finish_file();
            return Ok(());
        }
        let mismatch = TransferError::ChecksumMismatch {
            object: item.object.clone(),
            expected: item.expected,
            actual,
            version: object.version.to_string(),
            // The same wrong bytes twice are what the store has; others were damaged on the way.
            is_other_content: object.earlier == Some(actual),
        };
        // Once more: a bit can flip on the way. Not twice: then the object itself is another one.
        if object.earlier.is_some() {
            return Err(mismatch);
        }
        tracing::warn!("{mismatch}; fetching it once more on a new connection");
        self.counters.count_retry();
        self.counters.take_back_bytes(object.version.size);
        self.space.take_back(object.version.size);
        self.queue.push_front(Work::Begin {
            index: object.index,
            earlier: Some(actual),
        });
        Ok(())
    }

    fn local(&self, action: &'static str, item: &Download, cause: io::Error) -> TransferError {
        if matches!(
            cause.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ) {
            return self.space.exhausted(&self.tree);
        }
        TransferError::Local {
            action,
            path: self.tree.path().join(&item.destination),
            cause,
        }
    }
}
