//! The shape of answers: errors, redirects, the public endpoints.

use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use serde_json::json;

use crate::test_app::TestApp;

#[tokio::test]
async fn an_error_has_every_member_that_applies() {
    let app = TestApp::new();
    let answer = app.get("alice", "/jobs/xyz").await.expect(404);
    let error = &answer.json()["error"];
    let members: Vec<&String> = error.as_object().unwrap().keys().collect();
    assert_eq!(
        members,
        [
            "httpcode",
            "httpstatus",
            "time",
            "request_id",
            "appcode",
            "apperror",
            "message"
        ]
    );
    assert_eq!(error["httpcode"], 404);
    assert_eq!(error["httpstatus"], "Not Found");
    assert_eq!(error["appcode"], 40040);
    assert_eq!(error["apperror"], "No such job");
    assert_eq!(error["message"], "No job with ID 'xyz' exists");
    assert!(error["time"].as_str().unwrap().ends_with("+00:00"));
    let again = app.get("alice", "/jobs/xyz").await.json();
    assert_ne!(again["error"]["request_id"], error["request_id"]);
}

#[tokio::test]
async fn a_validation_failure_has_details_and_no_message() {
    let app = TestApp::new();
    let mut job = crate::test_app::job_input();
    job["cpus"] = json!(0);
    let answer = app
        .call("alice", "POST", "/jobs", Some(job))
        .await
        .expect_error(400, 30010);
    let error = &answer.json()["error"];
    assert!(error.get("message").is_none());
    assert_eq!(
        error["request_validation_detail"][0]["loc"],
        json!(["body", "cpus"])
    );
}

#[tokio::test]
async fn a_body_that_is_not_json_fails_validation() {
    let app = TestApp::new();
    for content_type in ["text/plain", "application/xml"] {
        let request = Request::post("/jobs")
            .header(header::AUTHORIZATION, "Bearer alice-token")
            .header(header::CONTENT_TYPE, content_type)
            .body(Body::from("{}"))
            .unwrap();
        let answer = app.send(request).await.expect_error(400, 30010);
        let detail = &answer.json()["error"]["request_validation_detail"][0];
        assert_eq!(detail["type"], "model_attributes_type");
        assert_eq!(detail["loc"], json!(["body"]));
    }
    let request = Request::post("/jobs")
        .header(header::AUTHORIZATION, "Bearer alice-token")
        .header(header::CONTENT_TYPE, "application/cts+json; charset=utf-8")
        .body(Body::from("{}"))
        .unwrap();
    let answer = app.send(request).await.expect_error(400, 30010);
    assert_eq!(
        answer.json()["error"]["request_validation_detail"][0]["type"],
        "missing"
    );
}

#[tokio::test]
async fn a_slash_too_many_is_redirected() {
    let app = TestApp::new();
    let answer = app.get("", "/images/?a=b").await;
    assert_eq!(answer.status, 400, "the image endpoint with an empty name");
    let answer = app.get("alice", "/jobs/abc/status/?x=1").await.expect(307);
    assert_eq!(answer.headers[header::LOCATION], "../status?x=1");
    app.get("", "/nowhere/").await.expect_error(404, 40000);
}

#[tokio::test]
async fn an_encoded_slash_is_no_part_of_an_id() {
    let app = TestApp::new();
    app.get("alice", "/jobs/a%2Fb")
        .await
        .expect_error(404, 40000);
    app.get("alice", "/jobs/%FF").await.expect_error(404, 40000);
}

#[tokio::test]
async fn the_public_endpoints() {
    let app = TestApp::new();
    let root = app.get("", "/").await.expect(200).json();
    assert_eq!(root["service_name"], "CDM Task Service");
    assert_eq!(root["server_time"], "2031-02-03T04:05:06Z");
    app.get("", "/livez").await.expect(200);
    let sites = app.get("", "/sites").await.expect(200).json();
    let sites = sites["sites"].as_array().unwrap();
    assert_eq!(sites.len(), 2);
    assert_eq!(
        sites[0],
        json!({
            "cluster": "kbase", "nodes": null, "cpus_per_node": 168, "memory_per_node_gb": 990,
            "max_runtime_min": 10065, "notes": [], "active": true, "available": false,
            "unavailable_reason": "no pool is configured",
        })
    );
    assert_eq!(sites[1]["available"], true);
    assert_eq!(sites[1]["unavailable_reason"], json!(null));
}

#[tokio::test]
async fn every_path_answers_other_methods_with_405_and_a_slash_too_many_with_307() {
    let app = TestApp::new();
    for path in cts_service::router::paths() {
        let path = path
            .replace("{*rest}", "a/b")
            .replace("{job_id}", "x%20y")
            .replace(['{', '}'], "");
        for method in ["HEAD", "PATCH", "OPTIONS"] {
            let answer = app.call("", method, &path, None).await.expect(405);
            let allow = answer.headers[header::ALLOW].to_str().unwrap();
            assert!(!allow.contains("HEAD"), "{path}: {allow}");
        }
        // The rest of a path may end in a slash, or be empty.
        if path == "/" || path == "/images" || path.ends_with("a/b") {
            continue;
        }
        for method in ["GET", "PUT", "POST", "DELETE"] {
            let target = format!("{path}/?a=b%20c&d");
            let answer = app.call("", method, &target, None).await.expect(307);
            assert_eq!(
                answer.headers[header::LOCATION],
                format!("../{}?a=b%20c&d", path.rsplit('/').next().unwrap())
            );
        }
    }
}

#[tokio::test]
async fn the_rest_of_a_path_keeps_its_slashes() {
    let app = TestApp::new();
    app.register_image().await;
    for name in [
        "reg.example.org/kbase/sh:1",
        "reg.example.org%2Fkbase%2Fsh:1",
    ] {
        app.get("", &format!("/images/{name}")).await.expect(200);
    }
    for name in ["reg.example.org//kbase/sh:1", "/kbase", "kbase/", "/"] {
        let answer = app.get("", &format!("/images/{name}")).await;
        answer.expect_error(400, 30040);
    }
    app.get("", &format!("/images/{}", "a".repeat(1001)))
        .await
        .expect_error(400, 30010);
    app.call("", "GET", "/admin/images/x", None)
        .await
        .expect_error(405, None::<u32>);
    app.call("", "POST", "/admin/images/", None)
        .await
        .expect_error(401, 10010);
    app.call("alice", "POST", "/admin/images/", None)
        .await
        .expect_error(400, 30010);
}
