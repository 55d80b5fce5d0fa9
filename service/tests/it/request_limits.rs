//! What one request may cost, and which web pages may send it.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, header};
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

fn from_page(method: &str, origin: &str) -> Request {
    Request::builder()
        .method(method)
        .uri("/jobs")
        .header(header::ORIGIN, origin)
        .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST")
        .header(header::ACCESS_CONTROL_REQUEST_HEADERS, "authorization")
        .body(Body::empty())
        .unwrap()
}

#[tokio::test]
async fn no_page_may_call_by_default() {
    let app = TestApp::new();
    for method in ["OPTIONS", "POST"] {
        let answer = app.send(from_page(method, "https://kbase.us")).await;
        let allowed = header::ACCESS_CONTROL_ALLOW_ORIGIN;
        assert!(!answer.headers.contains_key(allowed), "{method}");
        assert_ne!(answer.status, 200);
    }
}

#[tokio::test]
async fn configured_pages_may_call_and_read_errors() {
    let origin = "https://kbase.us";
    let app = TestApp::with(|app| app.config.cors_origins = vec![HeaderValue::from_static(origin)]);
    let answer = app.send(from_page("OPTIONS", origin)).await.expect(200);
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, origin),
        (header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "POST"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization"),
    ] {
        assert_eq!(answer.headers[&name], value, "{name}");
    }
    let answer = app.send(from_page("POST", origin)).await.expect(401);
    assert_eq!(answer.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], origin);
    let answer = app
        .send(from_page("OPTIONS", "https://evil.example.org"))
        .await;
    let allowed = header::ACCESS_CONTROL_ALLOW_ORIGIN;
    assert!(!answer.headers.contains_key(allowed));
}
