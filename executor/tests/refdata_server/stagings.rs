//! From the request to the service's receipt of the outcome, whatever the service does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cts_executor::clock::{Clock, SteppedClock, SystemClock};
use cts_executor::object_store::ObjectName;
use cts_shared::crc64nvme::Crc64Nvme;
use cts_shared::timestamp::UtcTime;
use futures::future::{BoxFuture, join_all};

use crate::area::End;
use crate::auth2::ADMIN;
use crate::bed::{Bed, eventually};
use crate::service::Mood;

#[tokio::test]
async fn an_item_goes_from_created_to_complete_and_nothing_is_left() {
    let bed = Bed::start().await;
    bed.register("x");
    bed.area.end("x", End::Done);
    assert_eq!(bed.ask("x").await.status, 204);
    bed.settled("x", "complete").await;
    assert_eq!(
        bed.service.calls(),
        ["GET x", "download_submitted x", "complete x"]
    );
    let items = bed.area.items();
    let [item] = items.as_slice() else {
        panic!("{items:?}")
    };
    assert_eq!(item.object, ObjectName::new("refdata", "x.tar.gz"));
    assert_eq!(item.expected, Crc64Nvme::of(b"123456789"));
    assert!(item.unpack);
}

#[tokio::test]
async fn a_promise_is_noted_before_the_caller_is_told() {
    let bed = Bed::start().await;
    bed.register("x");
    assert_eq!(bed.ask("x").await.status, 204);
    assert!(bed.note_path("x").exists());
    assert_eq!(bed.service.state("x"), "download_submitted");
}

#[tokio::test]
async fn many_asks_make_one_staging() {
    let bed = Bed::start().await;
    bed.register("x");
    let answers = join_all((0..20).map(|_| bed.ask("x"))).await;
    assert!(answers.iter().all(|answer| answer.status == 204));
    eventually("the staging", || bed.area.running() == 1).await;
    assert_eq!(bed.ask("x").await.status, 204);
    bed.area.end("x", End::Done);
    bed.settled("x", "complete").await;
    assert_eq!(bed.area.begun(), ["x"]);
    let mut told = bed.service.calls();
    told.retain(|call| call != "GET x");
    assert_eq!(told, ["download_submitted x", "complete x"]);
}

#[tokio::test]
async fn no_more_items_are_staged_at_once_than_the_settings_say() {
    let bed = Bed::with_concurrency(2).await;
    let ids = ["a", "b", "c", "d", "e"];
    for id in ids {
        bed.register(id);
        assert_eq!(bed.ask(id).await.status, 204);
    }
    eventually("two stagings", || bed.area.running() == 2).await;
    let listed = bed.get(ADMIN, "/refdata").await.body;
    let positions: Vec<_> = listed["data"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|item| item["queue_position"].as_u64())
        .collect();
    assert_eq!(positions, [1, 2, 3]);
    for id in ids {
        bed.area.end(id, End::Done);
    }
    for id in ids {
        bed.settled(id, "complete").await;
    }
    assert_eq!(bed.area.most_at_once(), 2);
    assert_eq!(bed.area.begun().len(), 5);
}

#[tokio::test]
async fn a_failure_is_reported_with_its_cause_and_may_be_asked_for_again() {
    let bed = Bed::start().await;
    bed.register("x");
    bed.area.end("x", End::Failed);
    assert_eq!(bed.ask("x").await.status, 204);
    bed.settled("x", "error").await;
    let failures = bed.service.failures();
    let [failure] = failures.as_slice() else {
        panic!("{failures:?}")
    };
    let cause = failure["admin_error"].as_str().unwrap();
    assert!(
        cause.starts_with("s3://refdata/x.tar.gz cannot be staged"),
        "{cause}"
    );
    assert!(failure["traceback"].as_str().unwrap().contains(cause));
    // An administrator recovers it.
    bed.service.set_state("x", "created");
    bed.area.end("x", End::Done);
    assert_eq!(bed.ask("x").await.status, 204);
    bed.settled("x", "complete").await;
    let status = bed.get(ADMIN, "/refdata/x/").await.body;
    assert_eq!(status["error"], serde_json::Value::Null);
}

#[tokio::test]
async fn a_service_that_is_away_at_the_end_is_told_when_it_is_back() {
    for mood in [Mood::Away, Mood::RefusesTheToken] {
        for (end, state) in [(End::Done, "complete"), (End::Failed, "error")] {
            let mut bed = Bed::without_server(1).await;
            let clock = bed.simulate_time();
            bed.start_server().await;
            bed.register("x");
            assert_eq!(bed.ask("x").await.status, 204);
            bed.service.set_mood(mood);
            bed.area.end("x", end);
            let hours = || clock.waits().iter().sum::<Duration>() > Duration::from_hours(12);
            eventually("half a day", hours).await;
            assert!(bed.note_path("x").exists());
            let listed = bed.get(ADMIN, "/refdata").await.body;
            assert_eq!(listed["data"][0]["reporting"], true, "{listed}");
            // It is not staged again because it is asked for again meanwhile.
            assert_eq!(bed.ask("x").await.status, 204);
            bed.service.set_mood(Mood::Well);
            bed.settled("x", state).await;
            assert_eq!(bed.area.begun(), ["x"]);
        }
    }
}

#[tokio::test]
async fn a_lost_answer_is_told_from_a_refusal() {
    let mut bed = Bed::without_server(1).await;
    bed.simulate_time();
    bed.start_server().await;
    bed.service.set_mood(Mood::LosesAnswers);
    for (id, end, state) in [("x", End::Done, "complete"), ("y", End::Failed, "error")] {
        bed.register(id);
        bed.area.end(id, end);
        assert_eq!(bed.ask(id).await.status, 204);
        bed.settled(id, state).await;
    }
    // Each update reached the service once: the state was asked for instead of sending it again.
    let updates: Vec<String> = bed
        .service
        .calls()
        .into_iter()
        .filter(|call| !call.starts_with("GET"))
        .collect();
    assert_eq!(
        updates,
        [
            "download_submitted x",
            "complete x",
            "download_submitted y",
            "error y"
        ]
    );
}

#[tokio::test]
async fn an_item_that_was_recovered_meanwhile_is_completed_all_the_same() {
    let bed = Bed::start().await;
    bed.register("x");
    assert_eq!(bed.ask("x").await.status, 204);
    bed.service.set_state("x", "created");
    assert_eq!(bed.ask("x").await.status, 204);
    assert_eq!(bed.service.state("x"), "download_submitted");
    bed.area.end("x", End::Done);
    bed.settled("x", "complete").await;
    assert_eq!(bed.area.begun(), ["x"]);
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_forgotten() {
    let bed = Bed::start().await;
    bed.register("failed");
    bed.register("gone");
    for id in ["failed", "gone"] {
        assert_eq!(bed.ask(id).await.status, 204);
    }
    bed.service.set_state("failed", "error");
    bed.service.remove("gone");
    for id in ["failed", "gone"] {
        bed.area.end(id, End::Done);
        eventually("the note is gone", || !bed.note_path(id).exists()).await;
    }
    assert_eq!(bed.service.state("failed"), "error");
}

/// Time stands still: a report that is due again waits for ever.
async fn bed_without_time() -> Bed {
    let mut bed = Bed::without_server(1).await;
    bed.set_clock(Arc::new(SteppedClock::default()));
    bed.start_server().await;
    bed
}

/// The service has heard of the failure, and dies before it says so.
#[tokio::test]
async fn an_item_recovered_while_its_failure_is_reported_is_staged_again() {
    let bed = bed_without_time().await;
    bed.register("x");
    assert_eq!(bed.ask("x").await.status, 204);
    bed.service.set_mood(Mood::Stumbles);
    bed.area.end("x", End::Failed);
    let heard = ["GET x", "download_submitted x", "error x", "GET x"];
    eventually("the failure", || bed.service.calls() == heard).await;
    bed.service.set_mood(Mood::Well);
    bed.service.set_state("x", "created");
    bed.area.end("x", End::Done);
    assert_eq!(bed.ask("x").await.status, 204);
    bed.settled("x", "complete").await;
    // The old failure was not told again, which would have been legal.
    assert_eq!(bed.service.failures().len(), 1);
    assert_eq!(bed.area.begun(), ["x", "x"]);
    let status = bed.get(ADMIN, "/refdata/x/").await.body;
    assert_eq!(status["state"], "done");
    assert_eq!(status["error"], serde_json::Value::Null);
}

/// Whatever the server has still to do about the failure.
#[tokio::test]
async fn what_is_asked_for_right_after_a_failure_is_staged() {
    const IDS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let bed = bed_without_time().await;
    for id in IDS {
        bed.register(id);
        bed.area.end(id, End::Failed);
        assert_eq!(bed.ask(id).await.status, 204);
        eventually("the failure", || bed.service.state(id) == "error").await;
        bed.area.end(id, End::Done);
        bed.service.set_state(id, "created");
        assert_eq!(bed.ask(id).await.status, 204);
        bed.settled(id, "complete").await;
    }
    assert_eq!(bed.service.failures().len(), IDS.len());
}

#[tokio::test]
async fn why_a_staging_failed_is_shown_before_the_service_knows() {
    let bed = bed_without_time().await;
    bed.register("x");
    assert_eq!(bed.ask("x").await.status, 204);
    bed.service.set_mood(Mood::Away);
    bed.area.end("x", End::Failed);
    let tried = || bed.service.calls().contains(&"error x".to_owned());
    eventually("a try", tried).await;
    let status = bed.get(ADMIN, "/refdata/x/").await.body;
    assert_eq!(status["state"], "none");
    let cause = status["error"].as_str().unwrap();
    assert!(cause.contains("s3://refdata/x.tar.gz"), "{cause}");
    let listed = bed.get(ADMIN, "/refdata").await.body;
    assert_eq!(listed["data"][0]["reporting"], true, "{listed}");
    assert_eq!(listed["data"][0]["error"], cause);
}

#[tokio::test]
async fn a_lost_word_that_the_staging_begins_is_asked_after() {
    let bed = Bed::start().await;
    bed.register("x");
    bed.service.set_mood(Mood::Stumbles);
    assert_eq!(bed.ask("x").await.status, 204);
    bed.service.set_mood(Mood::Well);
    bed.area.end("x", End::Done);
    bed.settled("x", "complete").await;
}

/// Breaks once when it is asked for the time.
#[derive(Debug, Default)]
struct BreakingClock {
    breaks: AtomicBool,
    clock: SystemClock,
}

impl Clock for BreakingClock {
    fn now(&self) -> UtcTime {
        assert!(!self.breaks.swap(false, Ordering::Relaxed), "as planned");
        self.clock.now()
    }

    fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.clock.sleep(duration)
    }
}

#[tokio::test]
async fn an_item_can_be_asked_for_again_after_a_bug() {
    let mut bed = Bed::without_server(1).await;
    let clock = Arc::new(BreakingClock::default());
    bed.set_clock(Arc::<BreakingClock>::clone(&clock));
    bed.start_server().await;
    bed.register("x");
    clock.breaks.store(true, Ordering::Relaxed);
    bed.ask("x").await.expect_error(500, None);
    assert!(!clock.breaks.load(Ordering::Relaxed));
    assert_eq!(bed.ask("x").await.status, 204);
}
