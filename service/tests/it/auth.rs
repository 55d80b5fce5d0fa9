//! Who is let in, and in which order things are found wrong (contract service.md, section 1.1).

use axum::body::Body;
use axum::extract::Request;
use axum::http::header;

use crate::test_app::TestApp;

async fn with_header(app: &TestApp, path: &str, value: &str) -> crate::test_app::Answer {
    let request = Request::builder()
        .uri(path)
        .header(header::AUTHORIZATION, value)
        .body(Body::empty())
        .unwrap();
    app.send(request).await
}

#[tokio::test]
async fn headers_that_are_not_bearer_tokens_are_refused_everywhere() {
    let app = TestApp::new();
    for path in ["/", "/whoami", "/no/such/path"] {
        for value in [
            "Bearer",
            "Bearer ",
            "Basic alice-token",
            "alice-token",
            " x",
        ] {
            with_header(&app, path, value)
                .await
                .expect_error(401, 10030);
        }
        with_header(&app, path, "Bearer wrong")
            .await
            .expect_error(401, 10020);
    }
    for value in ["bearer alice-token", "BEARER   alice-token"] {
        with_header(&app, "/whoami", value).await.expect(200);
    }
    // An empty header is none.
    with_header(&app, "/", "").await.expect(200);
    with_header(&app, "/whoami", "")
        .await
        .expect_error(401, 10010);
}

#[tokio::test]
async fn routing_comes_after_the_token_and_before_the_user() {
    let app = TestApp::new();
    app.get("", "/no/such/path").await.expect_error(404, 40000);
    app.call("", "DELETE", "/jobs", None)
        .await
        .expect_error(405, None::<u32>);
    app.call("", "HEAD", "/", None).await.expect(405);
    app.call("", "HEAD", "/nowhere", None).await.expect(404);
}

#[tokio::test]
async fn json_syntax_comes_before_the_user_and_the_user_before_the_rest() {
    let app = TestApp::new();
    let broken = |token: Option<&str>| {
        let mut request = Request::post("/jobs").header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        request.body(Body::from("{\"a\": \n nope}")).unwrap()
    };
    for token in [None, Some("alice-token")] {
        let answer = app.send(broken(token)).await.expect_error(400, 30010);
        let detail = &answer.json()["error"]["request_validation_detail"][0];
        assert_eq!(detail["type"], "json_invalid");
        assert_eq!(detail["loc"][0], "body");
    }
    app.call("", "POST", "/jobs", Some(serde_json::json!({})))
        .await
        .expect_error(401, 10010);
    app.get("", "/jobs/!!!").await.expect_error(401, 10010);
    app.get("alice", "/jobs/!!!").await.expect_error(400, 30010);
}

#[tokio::test]
async fn validation_comes_before_the_role() {
    let app = TestApp::new();
    let bad = serde_json::json!({"unknown": 1});
    let path = "/admin/images/reg.example.org/kbase/sh:1";
    app.call("alice", "POST", path, Some(bad))
        .await
        .expect_error(400, 30010);
    app.call("alice", "POST", path, None)
        .await
        .expect_error(403, 20000);
    app.get("alice", "/admin/jobs/x!")
        .await
        .expect_error(400, 30010);
    app.get("alice", "/admin/jobs/xyz")
        .await
        .expect_error(403, 20000);
}

#[tokio::test]
async fn an_administrator_needs_the_other_roles_too() {
    let app = TestApp::new();
    for path in ["/whoami", "/", "/sites"] {
        app.get("half_admin", path).await.expect_error(403, 20000);
    }
    let answer = app.get("admin", "/whoami").await.expect(200).json();
    assert_eq!(
        answer,
        serde_json::json!({"user": "admin", "roles": ["full_admin"], "allowed_paths": []})
    );
    let answer = app.get("executor", "/whoami").await.expect(200).json();
    assert_eq!(answer["roles"], serde_json::json!([]));
}

#[tokio::test]
async fn administrators_do_not_report_container_states() {
    let app = TestApp::new();
    let path = "/external_exec/jobs/x/container/0/update/job_submitting";
    let body = || Some(serde_json::json!({"time": "2031-01-01T00:00:00Z"}));
    app.call("admin", "PUT", path, body())
        .await
        .expect_error(403, 20000);
    app.call("executor", "PUT", path, body())
        .await
        .expect_error(404, 40040);
}
