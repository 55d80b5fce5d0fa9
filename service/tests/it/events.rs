//! Following transitions as they happen.

use std::time::Duration;

use axum::body::BodyDataStream;
use axum::response::Response;
use futures::StreamExt;
use serde_json::{Value, json};

use cts_service::api::events::MAX_FOLLOWERS_OF_A_USER;

use crate::test_app::TestApp;

const DEADLINE: Duration = Duration::from_secs(20);

/// The events of an answer.
struct Events {
    body: BodyDataStream,
    text: String,
}

#[derive(Debug, PartialEq)]
struct Event {
    id: String,
    data: Value,
}

impl Events {
    fn of(response: Response) -> Self {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            body: response.into_body().into_data_stream(),
            text: String::new(),
        }
    }

    /// The next event; none at the end of the stream.
    async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    block
                        .lines()
                        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                };
                let event = field("id").map(|id| Event {
                    id: id.to_owned(),
                    data: serde_json::from_str(field("data").unwrap()).unwrap(),
                });
                self.text = rest.to_owned();
                if event.is_some() {
                    return event;
                }
            }
            let chunk = tokio::time::timeout(DEADLINE, self.body.next())
                .await
                .expect("an event in time")?;
            self.text += std::str::from_utf8(&chunk.unwrap()).unwrap();
        }
    }

    async fn states(&mut self, count: usize) -> Vec<String> {
        let mut states = Vec::new();
        for _ in 0..count {
            let event = self.next().await.unwrap();
            states.push(event.data["state"].as_str().unwrap().to_owned());
        }
        states
    }
}

#[tokio::test]
async fn transitions_are_told_as_they_happen() {
    let app = TestApp::new();
    app.register_image().await;
    app.submit(1).await;
    let mut events = Events::of(app.open("alice", "/events", &[]).await);
    let job = app.submit(1).await;
    let created = loop {
        let event = events.next().await.unwrap();
        if event.data["job_id"] == json!(job) {
            break event;
        }
        // The first job's site may have taken it only now.
        assert_ne!(event.data["state"], "created", "from now on only");
    };
    assert_eq!(created.data["state"], "created");
    assert_eq!(created.data["trans_id"], json!(created.id));
    let time = created.data["time"].as_str().unwrap();
    assert!(time.ends_with("+00:00"), "{time}");
    assert_eq!(events.states(1).await, ["download_submitted"]);
    app.update(
        &job,
        0,
        "job_submitting",
        json!({"time": "2031-02-03T05:00:00Z"}),
    )
    .await
    .expect(204);
    assert_eq!(events.states(1).await, ["job_submitting"]);
    let details = app
        .get("admin", &format!("/admin/jobs/{job}"))
        .await
        .expect(200)
        .json();
    assert_eq!(
        details["transition_times"][0]["trans_id"],
        json!(created.id)
    );
}

#[tokio::test]
async fn a_client_goes_on_where_it_was_cut_off() {
    let app = TestApp::new();
    app.register_image().await;
    let mut events = Events::of(app.open("alice", "/events", &[]).await);
    let job = app.submit(1).await;
    let first = events.next().await.unwrap();
    drop(events);
    app.update(
        &job,
        0,
        "job_submitting",
        json!({"time": "2031-02-03T05:00:00Z"}),
    )
    .await
    .expect(204);
    let expected = ["download_submitted", "job_submitting"];
    let mut again = Events::of(
        app.open("alice", "/events", &[("last-event-id", &first.id)])
            .await,
    );
    assert_eq!(again.states(2).await, expected);
    let path = format!("/events?since={}", first.id);
    let mut since = Events::of(app.open("alice", &path, &[]).await);
    assert_eq!(since.states(2).await, expected);
    app.get("alice", "/events?since=nonsense")
        .await
        .expect_error(400, 30001);
}

#[tokio::test]
async fn everybody_sees_their_own_jobs_and_administrators_all() {
    let app = TestApp::new();
    app.register_image().await;
    let mut bobs = Events::of(app.open("bob", "/events", &[]).await);
    let mut all = Events::of(app.open("admin", "/events?all=true", &[]).await);
    app.submit(1).await;
    let job = crate::test_app::job_input();
    let answer = app
        .call("bob", "POST", "/jobs", Some(job))
        .await
        .expect(200);
    let id = answer.json()["job_id"].clone();
    assert_eq!(bobs.next().await.unwrap().data["job_id"], id);
    let mut jobs = std::collections::HashSet::new();
    while jobs.len() < 2 {
        let event = all.next().await.unwrap();
        jobs.insert(event.data["job_id"].as_str().unwrap().to_owned());
    }
    app.get("bob", "/events?all=true")
        .await
        .expect_error(403, 20000);
    app.get("bob", "/events?all=maybe")
        .await
        .expect_error(400, 30010);
    app.get("", "/events").await.expect_error(401, 10010);
}

#[tokio::test]
async fn followers_are_bounded_and_let_go_when_the_service_stops() {
    let app = TestApp::new();
    let mut followers = Vec::new();
    for _ in 0..MAX_FOLLOWERS_OF_A_USER {
        followers.push(Events::of(app.open("alice", "/events", &[]).await));
    }
    let refused = app
        .get("alice", "/events")
        .await
        .expect_error(503, Value::Null);
    assert!(refused.headers.contains_key("retry-after"));
    let mut first = followers.swap_remove(0);
    drop(followers.pop());
    let again = Events::of(app.open("alice", "/events", &[]).await);
    followers.push(again);
    app.app.stopping.cancel();
    assert_eq!(first.next().await, None);
}
