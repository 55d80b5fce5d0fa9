//! `GET /events`: the transitions of jobs as they happen, as server-sent events.
//!
//! The format is that of the [HTML standard]. Each event's id is the transition's, so that a client
//! that reconnects (a browser's `EventSource` does so by itself, with `Last-Event-ID`) misses
//! nothing; its data is the message of contract service.md, section 7.2.
//!
//! [HTML standard]: https://html.spec.whatwg.org/multipage/server-sent-events.html

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse;
use axum::response::{IntoResponse, Response, Sse};
use futures::Stream;
use tokio::sync::watch;

use cts_shared::error_code::ErrorCode;
use cts_shared::validation::scalars::boolean;

use crate::app::App;
use crate::error::Error;
use crate::identity::Role;
use crate::outbox::Event;

use super::checks::Checks;
use super::error::ApiError;
use super::extract::QueryParams;
use super::request_context::Caller;

mod followers;

pub use followers::{Followers, MAX_FOLLOWERS, MAX_FOLLOWERS_OF_A_USER};

use followers::Place;

/// Transitions read at a time.
const BATCH: u32 = 500;

/// Between two readings for one client: what happens meanwhile is read at once.
const PACE: Duration = Duration::from_millis(100);

/// Looks again at least this often, for what another process has stored.
const POLL: Duration = Duration::from_secs(2);

/// A sign of life at least this often, for proxies that close silent connections.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How long a client waits before it reconnects.
const RECONNECT: Duration = Duration::from_secs(2);

/// `GET /events`: the caller's own jobs, or with `all=true` everybody's, for administrators. From
/// the transition named by `Last-Event-ID` or `since` on, else from now on.
pub async fn follow(
    State(app): State<Arc<App>>,
    caller: Caller,
    headers: HeaderMap,
    query: QueryParams,
) -> Result<Response, ApiError> {
    let user = caller.user()?;
    let mut checks = Checks::default();
    let Some(all) = checks.query(&query, "all", boolean) else {
        return Err(checks.refuse());
    };
    let all = all.unwrap_or(false);
    let since = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok())
        .filter(|id| !id.is_empty())
        .or_else(|| query.get("since"))
        .map(str::to_owned);
    if all {
        user.require_any(&[Role::FullAdmin])?;
    }
    let place = app
        .followers
        .enter(&user.name)
        .ok_or_else(|| Error::Unavailable {
            message: format!(
                "{MAX_FOLLOWERS_OF_A_USER} clients of user {}, or {MAX_FOLLOWERS} in all, follow \
                 events already; close some",
                user.name
            ),
            retry_after: Duration::from_secs(30),
        })?;
    // Before anything is read, so that nothing is missed in between.
    let changes = app.outbox.changes();
    let last = match since {
        Some(id) => {
            let known = app
                .outbox
                .events_after(Some(id.clone()), None, 0)
                .await
                .map_err(Error::from)?;
            if known.is_none() {
                return Err(Error::refused(
                    ErrorCode::IllegalParameter,
                    format!("no transition has the id {id:?}; leave it out to start from now"),
                )
                .into());
            }
            Some(id)
        }
        None => app.outbox.newest().await.map_err(Error::from)?,
    };
    let follower = Follower {
        user: (!all).then(|| user.name.clone()),
        app,
        last,
        changes,
        read: VecDeque::new(),
        _place: place,
    };
    let keep_alive = sse::KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(follower.events())
        .keep_alive(keep_alive)
        .into_response())
}

/// One client.
struct Follower {
    app: Arc<App>,
    /// Whose jobs; everybody's if none.
    user: Option<String>,
    /// Id of the last transition told; none before the first of all.
    last: Option<String>,
    changes: watch::Receiver<u64>,
    read: VecDeque<Event>,
    _place: Place,
}

impl Follower {
    /// The stream ends when the service stops or the store fails: the client reconnects.
    fn events(self) -> impl Stream<Item = Result<sse::Event, Infallible>> {
        let hello = sse::Event::default().comment("connected").retry(RECONNECT);
        futures::stream::unfold((self, Some(hello)), |(mut follower, hello)| async move {
            if let Some(hello) = hello {
                return Some((Ok(hello), (follower, None)));
            }
            let event = follower.next().await?;
            Some((Ok(event), (follower, None)))
        })
    }

    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            if let Some(event) = self.read.pop_front() {
                self.last = Some(event.trans_id.clone());
                let message = sse::Event::default()
                    .id(&event.trans_id)
                    .event("transition")
                    .json_data(event.to_message());
                return match message {
                    Ok(message) => Some(message),
                    Err(error) => {
                        tracing::error!(%error, "a transition cannot be written as JSON");
                        None
                    }
                };
            }
            self.changes.mark_unchanged();
            match self
                .app
                .outbox
                .events_after(self.last.clone(), self.user.clone(), BATCH)
                .await
            {
                Ok(Some(events)) if !events.is_empty() => self.read = events.into(),
                Ok(Some(_none)) => self.wait().await?,
                Ok(None) => return None,
                Err(error) => {
                    tracing::error!(%error, "cannot read transitions for a client that follows");
                    return None;
                }
            }
        }
    }

    /// Waits until there may be more; none when the service stops.
    async fn wait(&mut self) -> Option<()> {
        tokio::select! {
            () = self.app.stopping.cancelled() => return None,
            changed = self.changes.changed() => changed.ok()?,
            () = tokio::time::sleep(POLL) => return Some(()),
        }
        tokio::select! {
            () = self.app.stopping.cancelled() => None,
            () = tokio::time::sleep(PACE) => Some(()),
        }
    }
}
