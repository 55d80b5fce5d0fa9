//! Work that no request waits for.

use std::time::Duration;

use cts_service::background::cleaner::clean_old_jobs;
use cts_service::background::starter::start_waiting_jobs;
use cts_service::job_store::NewJob;
use cts_shared::id::JobId;
use cts_shared::job_input::JobInput;
use cts_shared::state::job_flow::JobRecord;
use serde_json::Value;

use crate::test_app::{TestApp, job_input};

/// The service was killed between storing a job and handing it to its site.
#[tokio::test]
async fn a_job_that_no_site_has_taken_is_handed_over() {
    let app = TestApp::new();
    app.register_image().await;
    let image = app
        .get("", "/images/reg.example.org/kbase/sh:1")
        .await
        .expect(200)
        .json();
    let id = JobId::new(uuid::Uuid::new_v4());
    let submitted = app.app.clock.now();
    app.app
        .jobs
        .insert_job(NewJob {
            id,
            user: "alice".to_owned(),
            job_input: JobInput::from_json(&job_input()).unwrap(),
            image: serde_json::from_value::<cts_shared::wire::image::JobImage>(without(
                image,
                &["urls", "usage_notes"],
            ))
            .unwrap(),
            input_bytes: None,
            record: JobRecord::new(2, submitted),
        })
        .await
        .unwrap();
    // The submission itself may still be about to.
    start_waiting_jobs(&app.app, Duration::from_secs(60))
        .await
        .unwrap();
    assert_eq!(app.state(&id.to_string()).await, "created");
    start_waiting_jobs(&app.app, Duration::ZERO).await.unwrap();
    assert_eq!(app.site.wait_for(&id.to_string()).await, [0, 1]);
    assert_eq!(app.state(&id.to_string()).await, "download_submitted");
}

fn without(mut value: Value, members: &[&str]) -> Value {
    for member in members {
        value.as_object_mut().unwrap().remove(*member);
    }
    value
}

/// Only jobs that ended long ago, and each once.
#[tokio::test]
async fn what_old_jobs_left_behind_is_removed() {
    let app = TestApp::with_config(|config| config.cleaning.age = Duration::from_secs(3600));
    app.register_image().await;
    let old = app.submit(1).await;
    let running = app.submit(1).await;
    let path = format!("/jobs/{old}/cancel");
    app.call("alice", "PUT", &path, None).await.expect(204);
    app.finish_jobs().await;
    assert_eq!(clean_old_jobs(&app.app).await.unwrap(), 0);
    app.clock.advance(Duration::from_secs(3601));
    assert_eq!(clean_old_jobs(&app.app).await.unwrap(), 1);
    assert_eq!(clean_old_jobs(&app.app).await.unwrap(), 0);
    let cleaned = async |job: &str| {
        let job = app.get("admin", &format!("/admin/jobs/{job}")).await;
        job.expect(200).json()["cleaned"].clone()
    };
    assert_eq!(cleaned(&old).await, true);
    assert_eq!(cleaned(&running).await, false);
}

/// The one who reports may go away before the answer: an executor that is killed, a browser.
#[tokio::test]
async fn a_job_is_told_to_the_finisher_though_nobody_waits_for_the_change() {
    let (sender, mut due) = tokio::sync::mpsc::unbounded_channel();
    let app = TestApp::with(|app| app.due_jobs = sender);
    app.register_image().await;
    let job = app.submit(1).await;
    {
        let id = job.parse().unwrap();
        let mut cancel = std::pin::pin!(cts_service::jobs::cancel::cancel_any(&app.app, id));
        // As far as it goes at once; then its caller is gone.
        let _waiting = futures::poll!(&mut cancel);
    }
    let told = tokio::time::timeout(Duration::from_secs(20), due.recv()).await;
    assert_eq!(told.unwrap().unwrap().to_string(), job);
    assert_eq!(app.state(&job).await, "canceling");
}
