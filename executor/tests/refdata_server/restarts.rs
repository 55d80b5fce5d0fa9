//! A server that is stopped or killed, and the next one.

use std::fs;

use serde_json::json;

use crate::area::End;
use crate::bed::{Bed, CHECKSUM, eventually};
use crate::service::Mood;

/// A note as a killed server leaves it.
fn leave_note(bed: &Bed, id: &str, outcome: Option<serde_json::Value>) {
    let mut note = json!({
        "id": id, "site": "kbase", "file": format!("refdata/{id}.tar.gz"), "crc64nvme": CHECKSUM,
        "unpack": true, "since": "2031-01-01T00:00:00Z",
    });
    if let Some(outcome) = outcome {
        note["outcome"] = outcome;
    }
    let path = bed.note_path(id);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, note.to_string()).unwrap();
}

#[tokio::test]
async fn stopping_breaks_stagings_off_and_the_next_start_begins_them_again() {
    let mut bed = Bed::with_concurrency(1).await;
    for id in ["x", "queued"] {
        bed.register(id);
        assert_eq!(bed.ask(id).await.status, 204);
    }
    eventually("the staging", || bed.area.running() == 1).await;
    bed.stop_server().await;
    assert_eq!(bed.area.running(), 0);
    assert_eq!(bed.service.state("x"), "download_submitted");
    assert!(bed.service.failures().is_empty());

    bed.start_server().await;
    for id in ["x", "queued"] {
        bed.area.end(id, End::Done);
        bed.settled(id, "complete").await;
    }
    assert_eq!(bed.area.begun(), ["x", "x", "queued"]);
}

#[tokio::test]
async fn a_server_killed_before_or_after_its_promise_keeps_it() {
    for state in ["created", "download_submitted"] {
        let mut bed = Bed::without_server(1).await;
        bed.register("x");
        bed.service.set_state("x", state);
        leave_note(&bed, "x", None);
        bed.area.end("x", End::Done);
        bed.start_server().await;
        bed.settled("x", "complete").await;
        assert_eq!(bed.area.begun(), ["x"]);
    }
}

#[tokio::test]
async fn a_server_killed_before_its_report_reports_and_stages_nothing() {
    let mut bed = Bed::without_server(1).await;
    for id in ["done", "failed"] {
        bed.register(id);
        bed.service.set_state(id, "download_submitted");
    }
    leave_note(&bed, "done", Some(json!("complete")));
    let failure = json!({ "admin_error": "the archive is damaged", "traceback": "a\nb" });
    leave_note(&bed, "failed", Some(json!({ "failed": failure })));
    bed.start_server().await;
    bed.settled("done", "complete").await;
    bed.settled("failed", "error").await;
    assert_eq!(bed.service.failures(), [failure]);
    assert!(bed.area.begun().is_empty());
}

/// The service may have been told of the failure, and of the new wish the killed server.
#[tokio::test]
async fn a_failure_that_was_recovered_while_the_server_was_away_is_not_told_any_more() {
    let mut bed = Bed::without_server(1).await;
    bed.register("x");
    let failure = json!({ "admin_error": "the archive is damaged", "traceback": "a\nb" });
    leave_note(&bed, "x", Some(json!({ "failed": failure })));
    bed.area.end("x", End::Done);
    bed.start_server().await;
    bed.settled("x", "complete").await;
    assert!(bed.service.failures().is_empty());
}

#[tokio::test]
async fn a_server_killed_after_its_report_only_forgets() {
    let mut bed = Bed::without_server(1).await;
    bed.register("done");
    bed.service.set_state("done", "complete");
    leave_note(&bed, "done", Some(json!("complete")));
    leave_note(&bed, "gone", None);
    bed.start_server().await;
    for id in ["done", "gone"] {
        eventually("the note is gone", || !bed.note_path(id).exists()).await;
    }
    assert_eq!(bed.service.state("done"), "complete");
    assert!(bed.area.begun().is_empty());
}

#[tokio::test]
async fn a_service_that_is_away_at_the_next_start_holds_nothing_up() {
    let mut bed = Bed::without_server(1).await;
    bed.simulate_time();
    bed.register("x");
    bed.service.set_state("x", "download_submitted");
    leave_note(&bed, "x", None);
    bed.service.set_mood(Mood::Away);
    bed.area.end("x", End::Done);
    bed.start_server().await;
    eventually("the staging", || bed.area.begun() == ["x"]).await;
    bed.service.set_mood(Mood::Well);
    bed.settled("x", "complete").await;
}

#[tokio::test]
async fn a_report_that_is_due_survives_stopping() {
    let mut bed = Bed::start().await;
    bed.register("x");
    assert_eq!(bed.ask("x").await.status, 204);
    bed.service.set_mood(Mood::Away);
    bed.area.end("x", End::Done);
    eventually("a try", || {
        bed.service.calls().contains(&"complete x".to_owned())
    })
    .await;
    bed.stop_server().await;
    bed.service.set_mood(Mood::Well);
    bed.start_server().await;
    bed.settled("x", "complete").await;
    assert_eq!(bed.area.begun(), ["x"]);
}
