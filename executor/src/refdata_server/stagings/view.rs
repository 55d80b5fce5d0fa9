//! What is shown of items: what the disk says, and what is known of them beyond that.

use std::collections::BTreeMap;
use std::sync::Arc;

use cts_shared::id::RefdataId;
use cts_shared::timestamp::UtcTime;
use cts_shared::wire::refdata::{RefdataLocalState, RefdataLocalStatus, StagingProgress};
use serde::Serialize;

use super::super::error::ApiError;
use super::items::Phase;
use super::{Stagings, blocking};
use crate::refdata::{ItemState, RefdataError, StagedItem};

/// An item as administrators see it.
#[derive(Debug, Serialize)]
pub(in crate::refdata_server) struct ItemView {
    id: RefdataId,
    state: ViewState,
    /// Bytes and files of a complete item.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<u64>,
    /// When it was asked for; of one that is complete, when it became so.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<UtcTime>,
    /// 1 for the next to be staged.
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_position: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<StagingProgress>,
    /// The service has not taken the outcome yet.
    reporting: bool,
    /// What is wrong with what is on the disk, or why the last staging failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// How an item is on this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum ViewState {
    /// Nothing is there: its staging failed.
    None,
    /// It waits for its turn.
    Queued,
    /// It is on its way, or another process works on it.
    Staging,
    /// It is complete.
    Done,
    /// What is there is not complete, and nobody works on it.
    Damaged,
}

impl Stagings {
    /// How far an item is: what the disk says, and what is known of it beyond that.
    pub(in crate::refdata_server) async fn status(
        &self,
        id: &RefdataId,
    ) -> Result<RefdataLocalStatus, ApiError> {
        let area = Arc::clone(&self.0.area);
        let on_disk = id.clone();
        let mut status = blocking(move || area.status(&on_disk))
            .await
            .map_err(from_disk)?;
        let items = self.items();
        status.error = items.failures.get(id).cloned();
        if let Some(live) = items.live.get(id)
            && !matches!(live.phase, Phase::Reporting | Phase::Ending)
        {
            status.state = RefdataLocalState::Staging;
            status.files = None;
            status.progress = Some(live.counters.snapshot());
        }
        Ok(status)
    }

    /// Every item that is on the disk, on its way, or failed.
    pub(in crate::refdata_server) async fn list(&self) -> Result<Vec<ItemView>, ApiError> {
        let area = Arc::clone(&self.0.area);
        let staged = blocking(move || area.list()).await.map_err(from_disk)?;
        let items = self.items();
        let mut views: BTreeMap<RefdataId, ItemView> = staged
            .into_iter()
            .map(|staged| (staged.id.clone(), ItemView::of_disk(staged)))
            .collect();
        for (id, failure) in &items.failures {
            let view = views
                .entry(id.clone())
                .or_insert_with(|| ItemView::nothing(id));
            view.error = Some(failure.clone());
        }
        for (id, live) in &items.live {
            let view = views
                .entry(id.clone())
                .or_insert_with(|| ItemView::nothing(id));
            match live.phase {
                Phase::Checking | Phase::Queued => {
                    *view = ItemView {
                        state: ViewState::Queued,
                        since: Some(live.since),
                        queue_position: (live.phase == Phase::Queued)
                            .then(|| items.queue_position(live.number)),
                        ..ItemView::nothing(id)
                    };
                }
                Phase::Staging => {
                    *view = ItemView {
                        state: ViewState::Staging,
                        since: Some(live.since),
                        progress: Some(live.counters.snapshot()),
                        ..ItemView::nothing(id)
                    };
                }
                Phase::Reporting => view.reporting = true,
                Phase::Ending => {}
            }
        }
        Ok(views.into_values().collect())
    }
}

impl ItemView {
    fn nothing(id: &RefdataId) -> Self {
        Self {
            id: id.clone(),
            state: ViewState::None,
            bytes: None,
            files: None,
            since: None,
            queue_position: None,
            progress: None,
            reporting: false,
            error: None,
        }
    }

    fn of_disk(staged: StagedItem) -> Self {
        Self {
            state: match staged.state {
                ItemState::Staging => ViewState::Staging,
                ItemState::Done => ViewState::Done,
                ItemState::Damaged | ItemState::Foreign => ViewState::Damaged,
            },
            bytes: staged.bytes,
            files: staged.files,
            since: staged.since.map(UtcTime::new),
            error: staged.problem,
            ..Self::nothing(&staged.id)
        }
    }
}

fn from_disk(error: RefdataError) -> ApiError {
    ApiError::Internal(error.to_string())
}
