//! What one request may cost.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header;
use serde_json::Value;

use crate::test_app::TestApp;

fn submission(body: Body) -> Request {
    Request::builder()
        .method("POST")
        .uri("/jobs")
        .header(header::AUTHORIZATION, "Bearer alice-token")
        .header(header::CONTENT_TYPE, "application/json")
        .body(body)
        .unwrap()
}

#[tokio::test]
async fn a_request_that_takes_too_long_gets_503() {
    let app = TestApp::with(|app| app.config.request_limits.timeout = Duration::from_millis(50));
    let never = futures::stream::pending::<Result<Bytes, std::io::Error>>();
    let answer = app
        .send(submission(Body::from_stream(never)))
        .await
        .expect_error(503, Value::Null);
    assert!(answer.message().contains("longer than"), "{}", answer.text);
    assert_eq!(answer.headers[header::RETRY_AFTER], "60");
    assert!(answer.json()["error"]["request_id"].is_string());
    app.get("", "/").await.expect(200);
}

#[tokio::test]
async fn the_limit_of_bodies_is_the_configured_one() {
    let app = TestApp::with(|app| app.config.request_limits.max_body_bytes = 10);
    app.send(submission(Body::from("[123456789]")))
        .await
        .expect_error(413, Value::Null);
    app.send(submission(Body::from("[12345678]")))
        .await
        .expect_error(400, 30010);
}
