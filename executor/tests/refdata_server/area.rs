//! The double of the disk: stages nothing, and ends when the test says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use cts_executor::refdata::{
    Item, ItemState, RefdataError, Staged, StagedItem, StagingCounters, StagingError,
};
use cts_executor::refdata_server::StagingArea;
use cts_shared::id::RefdataId;
use cts_shared::wire::refdata::{RefdataFile, RefdataLocalState, RefdataLocalStatus};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How a staging ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    Failed,
}

#[derive(Debug, Default)]
pub(crate) struct FakeArea {
    state: Mutex<State>,
    ends: watch::Sender<BTreeMap<String, End>>,
}

#[derive(Debug, Default)]
struct State {
    /// Every staging that began, in order.
    begun: Vec<Item>,
    running: BTreeSet<String>,
    most_at_once: usize,
    done: BTreeSet<String>,
}

impl FakeArea {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Lets the staging of an item end, now or whenever it begins.
    pub(crate) fn end(&self, id: &str, end: End) {
        self.ends.send_modify(|ends| {
            ends.insert(id.to_owned(), end);
        });
    }

    /// The ids of all stagings that began, in order.
    pub(crate) fn begun(&self) -> Vec<String> {
        self.lock()
            .begun
            .iter()
            .map(|item| item.id.to_string())
            .collect()
    }

    /// What was asked of it.
    pub(crate) fn items(&self) -> Vec<Item> {
        self.lock().begun.clone()
    }

    pub(crate) fn running(&self) -> usize {
        self.lock().running.len()
    }

    pub(crate) fn most_at_once(&self) -> usize {
        self.lock().most_at_once
    }

    async fn carry_out(
        &self,
        item: &Item,
        counters: &StagingCounters,
        cancel: &CancellationToken,
    ) -> Result<Staged, StagingError> {
        let id = item.id.to_string();
        {
            let mut state = self.lock();
            state.begun.push(item.clone());
            assert!(state.running.insert(id.clone()), "{id} is staged twice");
            state.most_at_once = state.most_at_once.max(state.running.len());
        }
        counters.set_object_bytes(10);
        counters.add_downloaded(4);
        let mut ends = self.ends.subscribe();
        let end = tokio::select! {
            ends = ends.wait_for(|ends| ends.contains_key(&id)) => Some(ends.unwrap()[&id]),
            () = cancel.cancelled() => None,
        };
        let mut state = self.lock();
        state.running.remove(&id);
        match end {
            None => Err(StagingError::Cancelled),
            Some(End::Failed) => Err(StagingError::UnusableName {
                object: item.object.clone(),
            }),
            Some(End::Done) => {
                state.done.insert(id);
                Ok(Staged {
                    tree: "/refdata".into(),
                    files: 1,
                    bytes: 3,
                    was_there: false,
                })
            }
        }
    }
}

impl StagingArea for FakeArea {
    fn stage<'a>(
        &'a self,
        item: &'a Item,
        counters: Arc<StagingCounters>,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Staged, StagingError>> {
        async move { self.carry_out(item, &counters, cancel).await }.boxed()
    }

    fn status(&self, id: &RefdataId) -> Result<RefdataLocalStatus, RefdataError> {
        let is_done = self.lock().done.contains(id.as_str());
        let file = RefdataFile {
            file: "db/x".to_owned(),
            md5: "acbd18db4cc2f85cedef654fccc4a4d8".to_owned(),
            size: 3,
            crc64nvme: None,
        };
        Ok(RefdataLocalStatus {
            state: if is_done {
                RefdataLocalState::Done
            } else {
                RefdataLocalState::None
            },
            files: is_done.then(|| vec![file]),
            progress: None,
            error: None,
        })
    }

    fn list(&self) -> Result<Vec<StagedItem>, RefdataError> {
        let done = self.lock().done.clone();
        let item = |id: String| StagedItem {
            id: id.parse().unwrap(),
            state: ItemState::Done,
            files: Some(1),
            bytes: Some(3),
            since: None,
            problem: None,
        };
        Ok(done.into_iter().map(item).collect())
    }
}
