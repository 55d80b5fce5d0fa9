//! Executors' reports and what they do to the job.

use std::sync::Arc;

use serde_json::{Value, json};

use cts_service::compute_site::SiteEvent;
use cts_service::jobs::report::handle_site_event;

use crate::test_app::{OUTPUT_CRC, TestApp};

fn time(second: u32) -> String {
    format!("2031-02-03T05:00:{second:02}.000000+00:00")
}

fn body(second: u32) -> Value {
    json!({"time": time(second)})
}

fn good_run(output: &str) -> Vec<(&'static str, Value)> {
    vec![
        ("job_submitting", body(1)),
        ("job_submitted", body(2)),
        (
            "upload_submitting",
            json!({"time": time(3), "exit_code": 0}),
        ),
        ("upload_submitted", body(4)),
        (
            "complete",
            json!({"time": time(5), "outputs": [{"file": output, "crc64nvme": OUTPUT_CRC}]}),
        ),
    ]
}

#[tokio::test]
async fn a_good_run_ends_complete() {
    let app = TestApp::new();
    app.register_image().await;
    let id = app.submit(1).await;
    app.objects.insert("cts/io/out/f", "x", Some(OUTPUT_CRC));
    for (state, body) in good_run("cts/io/out/f") {
        app.update(&id, 0, state, body).await.expect(204);
    }
    assert_eq!(
        app.state(&id).await,
        "upload_submitted",
        "the end waits for S3"
    );
    app.finish_jobs().await;
    let job = app
        .get("alice", &format!("/jobs/{id}"))
        .await
        .expect(200)
        .json();
    assert_eq!(job["state"], "complete");
    assert_eq!(
        job["outputs"],
        json!([{"file": "cts/io/out/f", "crc64nvme": OUTPUT_CRC}])
    );
    assert_eq!(job["output_file_count"], 1);
    let codes = app
        .get("alice", &format!("/jobs/{id}/exit_codes"))
        .await
        .json();
    assert_eq!(codes, json!({"exit_codes": [0]}));
}

#[tokio::test]
async fn a_repeated_report_changes_nothing_and_is_no_fault() {
    let app = TestApp::new();
    app.register_image().await;
    let id = app.submit(1).await;
    let path = format!("/admin/jobs/{id}/container");
    for (state, body) in good_run("cts/io/out/f") {
        app.update(&id, 0, state, body.clone()).await.expect(204);
        let before = app.get("admin", &path).await.text;
        app.update(&id, 0, state, body).await.expect(204);
        assert_eq!(app.get("admin", &path).await.text, before);
    }
}

#[tokio::test]
async fn a_repeated_report_with_other_data_is_refused() {
    let app = TestApp::new();
    app.register_image().await;
    let id = app.submit(1).await;
    for state in ["job_submitting", "job_submitted"] {
        app.update(&id, 0, state, body(1)).await.expect(204);
    }
    let exited = |code: i64| json!({"time": time(2), "exit_code": code});
    app.update(&id, 0, "upload_submitting", exited(0))
        .await
        .expect(204);
    let answer = app
        .update(&id, 0, "upload_submitting", exited(1))
        .await
        .expect_error(404, 40050);
    assert!(answer.message().contains("different"), "{}", answer.text);
}

#[tokio::test]
async fn illegal_reports_are_refused_with_the_current_state() {
    let app = TestApp::new();
    app.register_image().await;
    let id = app.submit(1).await;
    let answer = app
        .update(&id, 0, "complete", body(1))
        .await
        .expect_error(404, 40050);
    assert!(
        answer.message().contains("download_submitted"),
        "{}",
        answer.text
    );
    app.update(&id, 1, "job_submitting", body(1))
        .await
        .expect_error(404, 40050);
    app.update(&id, 0, "canceled", body(1))
        .await
        .expect_error(400, 100_000);
    app.update(&id, 0, "created", body(1))
        .await
        .expect_error(400, 100_000);
    app.update(&id, 0, "nonsense", body(1))
        .await
        .expect_error(400, 30010);
    app.update(&id, 0, "job_submitting", json!({}))
        .await
        .expect_error(400, 30010);
    app.update(
        &id,
        0,
        "error",
        json!({"time": time(1), "admin_error": " "}),
    )
    .await
    .expect_error(400, 30001);
    app.update(&id, 0, "upload_submitting", body(1))
        .await
        .expect_error(400, 30001);
    let unknown = "00000000-0000-4000-8000-000000000000";
    app.update(unknown, 0, "job_submitting", body(1))
        .await
        .expect_error(404, 40040);
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_recorded_and_never_a_reason_to_refuse() {
    let app = TestApp::new();
    app.register_image().await;
    let id = app.submit(1).await;
    let early = json!({"time": "2001-01-01T00:00:00Z"});
    app.update(&id, 0, "job_submitting", early)
        .await
        .expect(204);
    let containers = app
        .get("admin", &format!("/admin/jobs/{id}/container"))
        .await
        .json();
    let container = &containers["subjobs"][0];
    assert_eq!(container["state"], "job_submitting");
    assert_eq!(container["reported_time"], "2001-01-01T00:00:00Z");
    let times = container["transition_times"].as_array().unwrap();
    assert_eq!(times[2]["time"], times[1]["time"]);
}

#[tokio::test]
async fn no_time_that_is_taken_makes_a_container_unreadable() {
    let app = TestApp::new();
    app.register_image().await;
    let id = app.submit(5).await;
    for (container, (time, status)) in (0..).zip([
        (json!("0001-01-01T00:00:00Z"), 204),
        (json!("9999-12-31T23:59:59Z"), 204),
        (json!(-20_000_000_000_i64), 204),
        (json!("-009999-01-02T01:59:59Z"), 400),
        (json!(-300_000_000_000_000_i64), 400),
    ]) {
        app.update(&id, container, "job_submitting", json!({"time": time}))
            .await
            .expect(status);
        app.get("admin", &format!("/admin/jobs/{id}/container/{container}"))
            .await
            .expect(200);
    }
}

#[tokio::test]
async fn a_failed_container_ends_the_job_in_error_with_logs() {
    let app = TestApp::new();
    app.register_image().await;
    let id = app.submit(2).await;
    app.update(
        &id,
        0,
        "error",
        json!({"time": time(1), "admin_error": "disk broke"}),
    )
    .await
    .expect(204);
    for (state, body) in good_run("cts/io/out/f") {
        app.update(&id, 1, state, body).await.expect(204);
    }
    app.finish_jobs().await;
    let job = app.get("alice", &format!("/jobs/{id}")).await.json();
    assert_eq!(job["state"], "error");
    assert_eq!(job["error"], "An unexpected error occurred.");
    assert!(job.get("admin_error").is_none());
    let job = app.get("admin", &format!("/admin/jobs/{id}")).await.json();
    assert!(job["admin_error"].as_str().unwrap().contains("disk broke"));
}

#[tokio::test]
async fn a_container_that_lost_its_executor_ends_in_error_unless_it_has_ended() {
    let app = TestApp::new();
    app.register_image().await;
    app.objects.insert("cts/io/out/f", "x", Some(OUTPUT_CRC));
    let id = app.submit(2).await;
    for (state, body) in good_run("cts/io/out/f") {
        app.update(&id, 0, state, body).await.expect(204);
    }
    for container in [0, 1, 1] {
        let event = SiteEvent::ExecutorEnded {
            job: id.parse().unwrap(),
            container,
            description: "it is gone".to_owned(),
            last_output: "line one\nline two".to_owned(),
        };
        handle_site_event(&app.app, event).await.unwrap();
    }
    let containers = app
        .get("admin", &format!("/admin/jobs/{id}/container"))
        .await
        .json();
    assert_eq!(containers["subjobs"][0]["state"], "complete");
    let lost = &containers["subjobs"][1];
    assert_eq!(lost["state"], "error");
    assert_eq!(lost["admin_error"], "it is gone");
    assert_eq!(lost["traceback"], "line one\nline two");
    app.finish_jobs().await;
    assert_eq!(app.state(&id).await, "error");
}

#[tokio::test]
async fn outputs_that_are_not_in_s3_as_reported_are_an_error() {
    let app = TestApp::new();
    app.register_image().await;
    let id = app.submit(1).await;
    app.objects
        .insert("cts/io/out/f", "x", Some("AAAAAAAAAAA="));
    for (state, body) in good_run("cts/io/out/f") {
        app.update(&id, 0, state, body).await.expect(204);
    }
    app.finish_jobs().await;
    let job = app.get("admin", &format!("/admin/jobs/{id}")).await.json();
    assert_eq!(job["state"], "error");
    assert!(
        job["admin_error"]
            .as_str()
            .unwrap()
            .contains("cts/io/out/f")
    );
}

#[tokio::test]
async fn an_end_that_s3_delays_is_found_again_after_a_restart() {
    let app = TestApp::new();
    app.register_image().await;
    let id = app.submit(1).await;
    app.objects.insert("cts/io/out/f", "x", Some(OUTPUT_CRC));
    for (state, body) in good_run("cts/io/out/f") {
        app.update(&id, 0, state, body).await.expect(204);
    }
    app.objects.set_down(true);
    app.finish_jobs().await;
    assert_eq!(app.state(&id).await, "upload_submitted");
    let app = app.restart();
    app.objects.set_down(false);
    app.finish_jobs().await;
    app.finish_jobs().await;
    let job = app.get("alice", &format!("/jobs/{id}")).await.json();
    assert_eq!(job["state"], "complete");
    let states: Vec<&str> = job["transition_times"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["state"].as_str().unwrap())
        .collect();
    assert_eq!(
        states.iter().filter(|state| **state == "complete").count(),
        1
    );
}

/// The race the existing service loses half of the time: two containers report at one moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_containers_that_finish_at_once_lift_the_job_once() {
    let app = Arc::new(TestApp::new());
    app.register_image().await;
    app.objects.insert("cts/io/out/f0", "x", Some(OUTPUT_CRC));
    app.objects.insert("cts/io/out/f1", "x", Some(OUTPUT_CRC));
    for round in 0..40 {
        let id = app.submit(2).await;
        let runs = [good_run("cts/io/out/f0"), good_run("cts/io/out/f1")];
        for step in 0..5 {
            let reports: Vec<_> = (0..2_u32)
                .zip(&runs)
                .map(|(container, run)| {
                    let (app, id, (state, body)) =
                        (Arc::clone(&app), id.clone(), run[step].clone());
                    tokio::spawn(async move { app.update(&id, container, state, body).await })
                })
                .collect();
            for report in reports {
                report.await.unwrap().expect(204);
            }
        }
        tokio::join!(app.finish_jobs(), app.finish_jobs());
        let job = app.get("admin", &format!("/admin/jobs/{id}")).await.json();
        let states: Vec<&str> = job["transition_times"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["state"].as_str().unwrap())
            .collect();
        assert_eq!(
            states,
            [
                "created",
                "download_submitted",
                "job_submitting",
                "job_submitted",
                "upload_submitting",
                "upload_submitted",
                "complete"
            ],
            "round {round}"
        );
        assert_eq!(job["output_file_count"], 2);
    }
}
