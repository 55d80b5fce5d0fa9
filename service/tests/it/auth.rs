//! Who is let in, and in which order things are found wrong (contract service.md, section 1.1).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use cts_service::api::extract::MAX_ANONYMOUS_BODY_BYTES;
use cts_service::identity::{KbaseAuth, KbaseAuthSettings};
use serde_json::{Value, json};
use wiremock::matchers::path;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::test_app::{Answer, TestApp};

async fn with_header(app: &TestApp, path: &str, value: &str) -> Answer {
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
async fn of_strangers_no_large_body_is_read() {
    let app = TestApp::new();
    let large = format!("[{}", " ".repeat(MAX_ANONYMOUS_BODY_BYTES));
    let submission = || Request::post("/jobs").header(header::CONTENT_TYPE, "application/json");
    let stranger = submission().body(Body::from(large.clone())).unwrap();
    app.send(stranger).await.expect_error(401, 10010);
    let alice = submission()
        .header(header::AUTHORIZATION, "Bearer alice-token")
        .body(Body::from(large))
        .unwrap();
    app.send(alice).await.expect_error(400, 30010);
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

/// What `GET /whoami` answers when KBase auth2 answers so.
async fn who_am_i(token: ResponseTemplate, custom_roles: &[&str]) -> Answer {
    let auth2 = MockServer::start().await;
    let me = json!({"user": "carol", "customroles": custom_roles});
    let me = ResponseTemplate::new(200).set_body_json(me);
    for (route, answer) in [("/api/V2/token", token), ("/api/V2/me", me)] {
        Mock::given(path(route))
            .respond_with(answer)
            .mount(&auth2)
            .await;
    }
    let app = TestApp::with(|app| {
        let settings = KbaseAuthSettings {
            url: auth2.uri().parse().unwrap(),
            admin_roles: ["ADMIN".to_owned()].into(),
            kbase_staff_role: "STAFF".to_owned(),
            nersc_account_role: "NERSC".to_owned(),
            external_executor_role: "EXECUTOR".to_owned(),
            refdata_service_role: "REFDATA".to_owned(),
        };
        app.identity = Arc::new(KbaseAuth::new(settings, app.metrics.dependency_calls()).unwrap());
    });
    app.get("any", "/whoami").await
}

#[tokio::test]
async fn users_of_kbase_auth_have_the_roles_it_gives_them() {
    let valid = json!({"type": "Login", "cachefor": 300_000, "expires": 4_000_000_000_000_i64});
    let valid = || ResponseTemplate::new(200).set_body_json(&valid);
    let answer = who_am_i(valid(), &["STAFF"]).await.expect(200).json();
    assert_eq!(answer["user"], "carol");
    assert_eq!(answer["roles"], json!([]));
    let admin = who_am_i(valid(), &["ADMIN", "STAFF", "NERSC"]).await;
    assert_eq!(admin.expect(200).json()["roles"], json!(["full_admin"]));
    who_am_i(valid(), &["ADMIN", "NERSC"])
        .await
        .expect_error(403, 20000);
}

#[tokio::test]
async fn what_kbase_auth_says_becomes_the_contracts_errors() {
    let error = |appcode: u32| {
        ResponseTemplate::new(401).set_body_json(json!({"error": {"appcode": appcode}}))
    };
    who_am_i(error(10020), &[]).await.expect_error(401, 10020);
    let fault = who_am_i(error(20000), &[]).await;
    let fault = fault.expect_error(500, Value::Null).json();
    assert_eq!(fault["error"]["message"], "An unexpected error occurred");
    let away = who_am_i(ResponseTemplate::new(502), &[]).await;
    let away = away.expect_error(503, Value::Null);
    assert_eq!(away.headers[header::RETRY_AFTER], "10");
}
