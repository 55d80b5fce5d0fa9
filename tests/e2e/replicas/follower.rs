//! A client that follows `GET /events` over every reconnection.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::harness::eventually;

const FIRST_EVENT_DEADLINE: Duration = Duration::from_secs(60);
const RECONNECT_AFTER: Duration = Duration::from_millis(100);

/// What was told, in order: a transition's id and the message about it.
type Told = Arc<Mutex<Vec<(String, Value)>>>;

/// A running client.
#[derive(Debug)]
pub(super) struct Follower {
    told: Told,
    task: JoinHandle<()>,
}

impl Follower {
    /// Follows everybody's jobs, with an administrator's token.
    pub(super) async fn start(url: &str, token: &str) -> Self {
        let told = Told::default();
        let client = cts_tests::testbed::http::client();
        let client = client.unwrap_or_else(|error| panic!("{error}"));
        let request = client
            .get(format!("{url}/events?all=true"))
            .bearer_auth(token);
        let connected = Arc::new(tokio::sync::Notify::new());
        let task = tokio::spawn(follow(request, Arc::clone(&told), Arc::clone(&connected)));
        connected.notified().await;
        Self { told, task }
    }

    /// Waits for the first event: from then on the client knows where to go on.
    pub(super) async fn has_begun(&self) {
        eventually("the first event", FIRST_EVENT_DEADLINE, async || {
            let begun = !self.told.lock().unwrap().is_empty();
            begun.then_some(()).ok_or_else(|| "none".to_owned())
        })
        .await;
    }

    /// Waits until all of these transitions have been told, and checks that each was told once and each job's in
    /// their order.
    pub(super) async fn finish(
        self,
        expected: &BTreeMap<String, Vec<String>>,
        deadline: Duration,
    ) -> String {
        let wanted: BTreeSet<&String> = expected.values().flatten().collect();
        eventually("all events", deadline, async || {
            let told = self.told.lock().unwrap();
            let seen: BTreeSet<&String> = told.iter().map(|(id, _)| id).collect();
            let missing: Vec<_> = wanted.difference(&seen).collect();
            if missing.is_empty() {
                Ok(())
            } else {
                Err(format!("{} not told of: {missing:?}", missing.len()))
            }
        })
        .await;
        self.task.abort();
        let told = self.told.lock().unwrap();
        let mut by_job: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (id, message) in told.iter() {
            assert_eq!(message["trans_id"], **id, "{message}");
            let job = message["job_id"].as_str().unwrap();
            by_job.entry(job).or_default().push(id);
        }
        for (job, ids) in expected {
            assert_eq!(&by_job[job.as_str()], ids, "events of job {job}");
        }
        format!("{} events followed", told.len())
    }
}

/// Server-sent events (HTML standard, "Parsing an event stream"), as far as the service makes use of them.
async fn follow(request: reqwest::RequestBuilder, told: Told, connected: Arc<tokio::sync::Notify>) {
    loop {
        let mut request = request.try_clone().unwrap();
        if let Some((last, _)) = told.lock().unwrap().last() {
            request = request.header("last-event-id", last);
        }
        if let Ok(response) = request.send().await
            && response.status().is_success()
        {
            connected.notify_one();
            let mut stream = response.bytes_stream();
            let mut text = Vec::new();
            while let Some(Ok(bytes)) = stream.next().await {
                text.extend_from_slice(&bytes);
                while let Some(end) = text.windows(2).position(|two| two == b"\n\n") {
                    let event: Vec<u8> = text.drain(..end + 2).collect();
                    let event = String::from_utf8(event).unwrap();
                    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
                    if let (Some(id), Some(data)) = (field("id: "), field("data: ")) {
                        let message = serde_json::from_str(data).unwrap();
                        told.lock().unwrap().push((id.to_owned(), message));
                    }
                }
            }
        }
        tokio::time::sleep(RECONNECT_AFTER).await;
    }
}
