//! Reading jobs, who may, cancel, logs.

use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use serde_json::json;

use crate::test_app::{Answer, TestApp};

#[tokio::test]
async fn only_the_owner_sees_a_job_and_the_admin_view_is_for_admins_and_executors() {
    let app = TestApp::new();
    app.register_image().await;
    let id = app.submit(1).await;
    for path in ["", "/status", "/exit_codes"] {
        let path = format!("/jobs/{id}{path}");
        app.get("alice", &path).await.expect(200);
        app.get("bob", &path).await.expect_error(403, 20000);
        app.get("admin", &path).await.expect_error(403, 20000);
        app.get("", &path).await.expect_error(401, 10010);
    }
    let cancel = format!("/jobs/{id}/cancel");
    app.call("admin", "PUT", &cancel, None)
        .await
        .expect_error(403, 20000);
    let admin = format!("/admin/jobs/{id}");
    app.get("admin", &admin).await.expect(200);
    app.get("executor", &admin).await.expect(200);
    app.get("alice", &admin).await.expect_error(403, 20000);
    let containers = format!("{admin}/container");
    app.get("admin", &containers).await.expect(200);
    app.get("executor", &containers)
        .await
        .expect_error(403, 20000);
}

#[tokio::test]
async fn a_job_has_one_id() {
    let app = TestApp::new();
    app.register_image().await;
    let id = app.submit(1).await;
    app.get("alice", &format!("/jobs/{id}")).await.expect(200);
    for other in [id.to_uppercase(), id.replace('-', "")] {
        app.get("alice", &format!("/jobs/{other}"))
            .await
            .expect_error(404, 40040);
    }
}

#[tokio::test]
async fn only_the_admin_view_has_the_notifications() {
    let app = TestApp::new();
    app.register_image().await;
    let id = app.submit(1).await;
    let job = app.get("alice", &format!("/jobs/{id}")).await.json();
    let transition = job["transition_times"][0].as_object().unwrap();
    assert_eq!(transition.keys().collect::<Vec<_>>(), ["state", "time"]);
    let job = app.get("admin", &format!("/admin/jobs/{id}")).await.json();
    let transition = &job["transition_times"][0];
    assert_eq!(transition["notif_sent"], false);
    assert!(transition["trans_id"].is_string());
    assert_eq!(job["cleaned"], false);
}

#[tokio::test]
async fn a_canceled_job_ends_in_canceled_whatever_its_containers_report() {
    let app = TestApp::new();
    app.register_image().await;
    let id = app.submit(1).await;
    let cancel = format!("/jobs/{id}/cancel");
    app.call("alice", "PUT", &cancel, None).await.expect(204);
    assert_eq!(app.state(&id).await, "canceling");
    app.call("alice", "PUT", &cancel, None)
        .await
        .expect_error(404, 40040);
    let body = json!({"time": "2031-02-03T05:00:00Z"});
    app.update(&id, 0, "job_submitting", body).await.expect(204);
    assert_eq!(app.state(&id).await, "canceling");
    app.finish_jobs().await;
    assert_eq!(app.state(&id).await, "canceled");
    assert_eq!(app.site.cancelled().await, [id]);
}

#[tokio::test]
async fn logs_are_read_by_part() {
    let app = TestApp::new();
    app.register_image().await;
    let id = app.submit(1).await;
    let log = format!("/jobs/{id}/log/0/stderr");
    app.get("alice", &log).await.expect_error(404, 40070);
    for (state, body) in [
        ("job_submitting", json!({"time": "2031-02-03T05:00:00Z"})),
        ("job_submitted", json!({"time": "2031-02-03T05:00:01Z"})),
        (
            "error_processing_submitting",
            json!({"time": "2031-02-03T05:00:02Z", "exit_code": 3}),
        ),
        (
            "error_processing_submitted",
            json!({"time": "2031-02-03T05:00:03Z"}),
        ),
        (
            "error",
            json!({"time": "2031-02-03T05:00:04Z", "admin_error": "Container exit code: 3"}),
        ),
    ] {
        app.update(&id, 0, state, body).await.expect(204);
    }
    app.finish_jobs().await;
    app.get("alice", &log).await.expect_error(404, 40010);
    app.objects.insert(
        &format!("cts/logs/{id}/container-0-stderr.txt"),
        "0123456789",
        None,
    );
    let answer = app.get("alice", &log).await.expect(200);
    assert_eq!(answer.text, "0123456789");
    assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    assert_eq!(
        answer.headers["content-disposition"],
        "attachment; filename=container-0-stderr.txt"
    );
    for (query, expected) in [
        ("seek=3", "3456789"),
        ("length=2", "01"),
        ("seek=8&length=100", "89"),
    ] {
        let answer = app
            .get("alice", &format!("{log}?{query}"))
            .await
            .expect(200);
        assert_eq!(answer.text, expected, "{query}");
    }
    app.get("alice", &format!("{log}?seek=10"))
        .await
        .expect_error(400, 30001);
    app.get("alice", &format!("{log}?seek=-1"))
        .await
        .expect_error(400, 30010);
    app.get("alice", &format!("{log}?length=0"))
        .await
        .expect_error(400, 30010);
    app.get("alice", &format!("/jobs/{id}/log/1/stdout"))
        .await
        .expect_error(400, 30001);
    app.get("alice", &format!("/jobs/{id}/log/x/stdout"))
        .await
        .expect_error(400, 30010);
    app.get("bob", &log).await.expect_error(403, 20000);
}

/// A job whose container failed and left a standard error of ten bytes, and that log's path.
async fn job_with_log(app: &TestApp) -> String {
    app.register_image().await;
    let id = app.submit(1).await;
    let body = json!({"time": "2031-02-03T05:00:00Z", "admin_error": "it broke"});
    app.objects
        .insert(&format!("cts/logs/{id}/container-0-stdout.txt"), "", None);
    app.objects.insert(
        &format!("cts/logs/{id}/container-0-stderr.txt"),
        "0123456789",
        None,
    );
    app.update(&id, 0, "error", body).await.expect(204);
    app.finish_jobs().await;
    format!("/jobs/{id}/log/0")
}

async fn ranged(app: &TestApp, path: &str, range: &str, more: Option<&str>) -> Answer {
    let mut request = Request::get(path)
        .header(header::AUTHORIZATION, "Bearer alice-token")
        .header(header::RANGE, range);
    if let Some(if_range) = more {
        request = request.header(header::IF_RANGE, if_range);
    }
    app.send(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn logs_are_read_by_range() {
    let app = TestApp::new();
    let log = job_with_log(&app).await + "/stderr";
    for (range, expected, content_range) in [
        ("bytes=0-0", "0", "bytes 0-0/10"),
        ("bytes=3-5", "345", "bytes 3-5/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=-4", "6789", "bytes 6-9/10"),
        ("bytes=8-100", "89", "bytes 8-9/10"),
        ("bytes=-100", "0123456789", "bytes 0-9/10"),
    ] {
        let answer = ranged(&app, &log, range, None).await.expect(206);
        assert_eq!(answer.text, expected, "{range}");
        assert_eq!(answer.headers["content-range"], content_range, "{range}");
        assert_eq!(answer.headers["content-length"], expected.len().to_string());
        assert_eq!(answer.headers["content-type"], "text/plain; charset=utf-8");
    }
    for range in ["bytes=10-", "bytes=100-200"] {
        let answer = ranged(&app, &log, range, None)
            .await
            .expect_error(416, None::<u32>);
        assert_eq!(answer.headers["content-range"], "bytes */10", "{range}");
    }
    // Passed over: other units, nonsense, several ranges.
    for range in [
        "lines=1-2",
        "bytes",
        "bytes=x-y",
        "bytes=5-3",
        "bytes=0-1,3-4",
    ] {
        let answer = ranged(&app, &log, range, None).await.expect(200);
        assert_eq!(answer.text, "0123456789", "{range}");
        assert_eq!(answer.headers["accept-ranges"], "bytes", "{range}");
        assert!(!answer.headers.contains_key("content-range"));
    }
    // A range counts the log's own bytes, so what is sent of it is never compressed.
    let request = Request::get(&log)
        .header(header::AUTHORIZATION, "Bearer alice-token")
        .header(header::ACCEPT_ENCODING, "gzip")
        .header(header::RANGE, "bytes=1-3");
    let answer = app.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(answer.expect(206).text, "123");
    // The contract's parameters win, and there is no validator for If-Range.
    let answer = ranged(&app, &format!("{log}?seek=8"), "bytes=0-1", None).await;
    assert_eq!(answer.expect(200).text, "89");
    let answer = ranged(&app, &log, "bytes=0-1", Some("\"x\"")).await;
    assert_eq!(answer.expect(200).text, "0123456789");
}

#[tokio::test]
async fn an_empty_log_is_read_in_every_way() {
    let app = TestApp::new();
    let log = job_with_log(&app).await + "/stdout";
    for query in ["", "?seek=0", "?length=5", "?seek=0&length=1"] {
        let answer = app.get("alice", &format!("{log}{query}")).await;
        assert_eq!(answer.expect(200).text, "", "{query}");
    }
    for range in ["bytes=0-", "bytes=-5"] {
        let answer = ranged(&app, &log, range, None)
            .await
            .expect_error(416, None::<u32>);
        assert_eq!(answer.headers["content-range"], "bytes */0", "{range}");
    }
}

#[tokio::test]
async fn all_faults_of_a_log_request_are_reported() {
    let app = TestApp::new();
    let answer = app
        .get("alice", "/jobs/x!/log/y/stdout?seek=-1&length=0")
        .await
        .expect_error(400, 30010);
    let details = answer.json()["error"]["request_validation_detail"].clone();
    let found: Vec<_> = details
        .as_array()
        .unwrap()
        .iter()
        .map(|detail| (detail["loc"].clone(), detail["type"].clone()))
        .collect();
    assert_eq!(
        found,
        [
            (json!(["path", "job_id"]), json!("string_pattern_mismatch")),
            (json!(["path", "container_num"]), json!("int_parsing")),
            (json!(["query", "seek"]), json!("greater_than_equal")),
            (json!(["query", "length"]), json!("greater_than_equal")),
        ]
    );
}

#[tokio::test]
async fn a_restarted_service_knows_everything() {
    let app = TestApp::new();
    app.register_image().await;
    let id = app.submit(2).await;
    let body = json!({"time": "2031-02-03T05:00:00Z"});
    app.update(&id, 1, "job_submitting", body.clone())
        .await
        .expect(204);
    let path = format!("/admin/jobs/{id}");
    // The site takes the job in the background; ask until it has told.
    let before = loop {
        let answer = app.get("admin", &path).await.expect(200);
        if answer.json()["state"] == "download_submitted" {
            break answer.text;
        }
        tokio::task::yield_now().await;
    };
    let app = app.restart();
    assert_eq!(app.get("admin", &path).await.expect(200).text, before);
    app.get("", "/images/reg.example.org/kbase/sh:1")
        .await
        .expect(200);

    cts_service::jobs::resume::resume_site(&app.app, cts_shared::site::Site::Local)
        .await
        .unwrap();
    assert_eq!(app.site.wait_for(&id).await, [0, 1]);
    app.update(&id, 0, "job_submitting", body).await.expect(204);
    assert_eq!(app.state(&id).await, "job_submitting");
}
