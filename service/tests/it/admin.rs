//! What administrators do with jobs, images and sites.

use serde_json::{Value, json};

use crate::test_app::{TestApp, job_input};

const UNKNOWN: &str = "00000000-0000-4000-8000-000000000000";

fn time(second: u32) -> Value {
    json!({"time": format!("2031-02-03T05:00:{second:02}Z")})
}

fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

/// Has a container end in error with that exit code.
async fn fail(app: &TestApp, id: &str, container: u32) {
    for (state, body) in [
        ("job_submitting", time(1)),
        ("job_submitted", time(2)),
        (
            "error_processing_submitting",
            with(time(3), "exit_code", json!(3)),
        ),
        ("error_processing_submitted", time(4)),
        ("error", with(time(5), "admin_error", json!("exit code 3"))),
    ] {
        app.update(id, container, state, body).await.expect(204);
    }
}

/// Every route that only administrators may call; the job in it exists.
fn admin_routes(id: &str) -> Vec<(&'static str, String, Option<Value>)> {
    let job = |rest: &str| format!("/admin/jobs/{id}{rest}");
    vec![
        ("GET", "/admin/jobs".to_owned(), None),
        ("GET", job("/exit_codes"), None),
        ("GET", job("/container"), None),
        ("GET", job("/container/0"), None),
        ("GET", job("/runner_status"), None),
        ("PUT", job("/cancel"), None),
        ("PUT", job("/meta"), Some(json!({"set_fields": {"a": 1}}))),
        ("PUT", job("/notify?state=created"), None),
        ("DELETE", job("/clean"), None),
        ("POST", "/admin/images/reg.example.org/x:1".to_owned(), None),
        (
            "DELETE",
            "/admin/images/reg.example.org/x:1".to_owned(),
            None,
        ),
        ("PUT", "/admin/sites/local/active".to_owned(), None),
        ("DELETE", "/admin/sites/local/active".to_owned(), None),
        ("GET", "/admin/clients/nersc".to_owned(), None),
        ("POST", "/admin/unsent_notifications".to_owned(), None),
    ]
}

#[tokio::test]
async fn a_job_that_does_not_exist_is_told_after_the_request_is_checked() {
    let app = TestApp::new();
    for id in [UNKNOWN, "not-a-uuid"] {
        for (method, path, body) in admin_routes(id) {
            if path.contains(id) {
                app.call("admin", method, &path, body)
                    .await
                    .expect_error(404, 40040);
            }
        }
    }
    for (method, path, body) in admin_routes("x!") {
        if path.contains("x!") {
            let answer = app.call("alice", method, &path, body).await;
            let answer = answer.expect_error(400, 30010);
            let details = answer.json()["error"]["request_validation_detail"].clone();
            assert_eq!(details[0]["loc"], json!(["path", "job_id"]));
            assert_eq!(details[0]["type"], "string_pattern_mismatch");
        }
    }
}

#[tokio::test]
async fn containers_and_exit_codes() {
    let app = TestApp::new();
    app.register_image().await;
    let id = app.submit(2).await;
    fail(&app, &id, 1).await;
    let admin = async |path: &str| app.get("admin", &format!("/admin/jobs/{id}{path}")).await;
    let all = admin("/container").await.expect(200).json();
    assert_eq!(
        admin("/container/1").await.expect(200).json(),
        all["subjobs"][1]
    );
    assert_eq!(all["subjobs"][1]["exit_code"], 3);
    assert!(all["subjobs"][0].get("exit_code").is_none());
    assert_eq!(
        admin("/exit_codes").await.expect(200).json(),
        json!({"exit_codes": [null, 3]})
    );
    for number in ["2", "4294967295", "99999999999999999999999"] {
        admin(&format!("/container/{number}"))
            .await
            .expect_error(404, 40050);
    }
    for number in ["-1", "x", "1.5", "%00"] {
        let answer = admin(&format!("/container/{number}"))
            .await
            .expect_error(400, 30010);
        let details = &answer.json()["error"]["request_validation_detail"];
        assert_eq!(details[0]["loc"], json!(["path", "container_num"]));
    }
    admin("/runner_status").await.expect_error(400, 100_000);
    admin("/runner_status?container_number=-1")
        .await
        .expect_error(400, 30010);
}

#[tokio::test]
async fn an_administrator_cancels_a_job_of_someone_else() {
    let app = TestApp::new();
    app.register_image().await;
    let id = app.submit(1).await;
    let path = format!("/admin/jobs/{id}/cancel");
    app.call("admin", "PUT", &path, None).await.expect(204);
    assert_eq!(app.state(&id).await, "canceling");
    app.call("admin", "PUT", &path, None)
        .await
        .expect_error(404, 40040);
}

#[tokio::test]
async fn notes_are_set_and_removed_and_seen_by_the_owner() {
    let app = TestApp::new();
    app.register_image().await;
    let id = app.submit(1).await;
    let put = async |body: Value| {
        let path = format!("/admin/jobs/{id}/meta");
        app.call("admin", "PUT", &path, Some(body)).await
    };
    put(json!({"set_fields": {"a": "x", "b": 1, "c": 1.5, "d": true, "e": 1.0}, "unset_keys": ["z"]}))
        .await
        .expect(204);
    put(json!({"set_fields": {"a": "y"}, "unset_keys": ["b", "b"]}))
        .await
        .expect(204);
    for (user, path) in [
        ("alice", format!("/jobs/{id}")),
        ("alice", format!("/jobs/{id}/status")),
        ("admin", format!("/admin/jobs/{id}")),
    ] {
        let job = app.get(user, &path).await.expect(200).json();
        let expected = json!({"a": "y", "c": 1.5, "d": 1, "e": 1.0});
        assert_eq!(job["admin_meta"], expected, "{path}");
    }
    let list = app.get("alice", "/jobs").await.json();
    assert_eq!(list["jobs"][0]["admin_meta"]["a"], "y");
}

#[tokio::test]
async fn notes_that_are_refused() {
    let app = TestApp::new();
    app.register_image().await;
    let id = app.submit(1).await;
    let put = async |body: Value| {
        let path = format!("/admin/jobs/{id}/meta");
        app.call("admin", "PUT", &path, Some(body)).await
    };
    for body in [
        json!({}),
        json!({"set_fields": {}, "unset_keys": []}),
        json!({"set_fields": {"a": 1}, "unset_keys": ["a"]}),
        json!({"set_fields": {"": 1}}),
        json!({"set_fields": {"a.b": 1}}),
        json!({"set_fields": {"$a": 1}}),
        json!({"set_fields": {"a\u{0}": 1}}),
        json!({"set_fields": {"a".repeat(300): 1}}),
        json!({"unset_keys": [""]}),
        json!({"unset_keys": ["a.b"]}),
        json!({"set_fields": {"a": "x".repeat(70_000)}}),
    ] {
        let answer = put(body.clone()).await.expect_error(400, 30001);
        assert!(!answer.message().is_empty(), "{body}");
    }
    for (body, loc) in [
        (
            json!({"set_fields": {"a": null}}),
            json!(["body", "set_fields", "a", "str"]),
        ),
        (
            json!({"set_fields": {"a": [1]}}),
            json!(["body", "set_fields", "a", "str"]),
        ),
        (json!({"set_fields": null}), json!(["body", "set_fields"])),
        (json!({"set_fields": [1]}), json!(["body", "set_fields"])),
        (json!({"unset_keys": {}}), json!(["body", "unset_keys"])),
        (json!({"unset_keys": [1]}), json!(["body", "unset_keys", 0])),
        (json!({"more": 1}), json!(["body", "more"])),
        (json!([]), json!(["body"])),
        (json!(null), json!(["body"])),
    ] {
        let answer = put(body.clone()).await.expect_error(400, 30010);
        let details = &answer.json()["error"]["request_validation_detail"];
        assert_eq!(details[0]["loc"], loc, "{body}");
    }
    // Many small notes reach the bound, too, and can be removed then.
    for batch in 0..64 {
        let fields: serde_json::Map<String, Value> = (0..10)
            .map(|number| (format!("{batch}-{number}"), json!("x".repeat(90))))
            .collect();
        put(json!({"set_fields": fields})).await.expect(204);
    }
    let more = json!({"set_fields": {"more": "x".repeat(5000)}});
    put(more).await.expect_error(400, 30001);
    put(json!({"unset_keys": ["0-0"]})).await.expect(204);
}

#[tokio::test]
async fn a_transition_is_told_once_more() {
    let app = TestApp::new();
    app.register_image().await;
    let id = app.submit(1).await;
    let put = async |query: &str| {
        let path = format!("/admin/jobs/{id}/notify{query}");
        app.call("admin", "PUT", &path, None).await
    };
    let sent: Vec<String> = app
        .app
        .outbox
        .to_send(None, 10)
        .await
        .unwrap()
        .into_iter()
        .map(|event| event.trans_id)
        .collect();
    app.app.outbox.mark_sent(sent.clone()).await.unwrap();
    put("?state=created").await.expect(204);
    let again = app.app.outbox.to_send(None, 10).await.unwrap();
    assert!(again.iter().any(|event| event.trans_id == sent[0]));
    put("?state=complete").await.expect_error(400, 30300);
    for (query, kind) in [
        ("", "missing"),
        ("?state=", "enum"),
        ("?state=Created", "enum"),
    ] {
        let answer = put(query).await.expect_error(400, 30010);
        let detail = &answer.json()["error"]["request_validation_detail"][0];
        assert_eq!(detail["type"], kind);
        assert_eq!(detail["loc"], json!(["query", "state"]));
    }
}

#[tokio::test]
async fn unsent_transitions_are_counted_by_age() {
    let app = TestApp::new();
    app.register_image().await;
    app.submit(1).await;
    let post = async |query: &str| {
        let path = format!("/admin/unsent_notifications{query}");
        app.call("admin", "POST", &path, None).await
    };
    let nothing = json!({"jobs": 0, "transitions": 0});
    for query in [
        "",
        "?notification_age=PT1M",
        "?notification_age=P4294967295Y",
    ] {
        assert_eq!(post(query).await.expect(200).json(), nothing, "{query}");
    }
    app.clock.advance(std::time::Duration::from_secs(601));
    assert_eq!(post("").await.expect(200).json()["jobs"], 1);
    assert_eq!(
        post("?notification_age=00:20:00").await.expect(200).json(),
        nothing
    );
    for (age, kind) in [
        ("PT59S", "greater_than_equal"),
        ("-PT10M", "greater_than_equal"),
        ("600", "time_delta_parsing"),
        ("", "time_delta_parsing"),
    ] {
        let answer = post(&format!("?notification_age={age}"))
            .await
            .expect_error(400, 30010);
        let detail = &answer.json()["error"]["request_validation_detail"][0];
        assert_eq!(detail["type"], kind, "{age}");
        assert_eq!(detail["loc"], json!(["query", "notification_age"]));
    }
}

#[tokio::test]
async fn an_ended_job_is_cleaned_once_and_a_running_one_by_force() {
    let app = TestApp::new();
    app.register_image().await;
    let id = app.submit(2).await;
    let clean = async |query: &str| {
        let path = format!("/admin/jobs/{id}/clean{query}");
        app.call("admin", "DELETE", &path, None).await
    };
    let cleaned = async || {
        let job = app.get("admin", &format!("/admin/jobs/{id}")).await.json();
        job["cleaned"].clone()
    };
    fail(&app, &id, 1).await;
    clean("").await.expect_error(400, 30300);
    clean("?force=no").await.expect_error(400, 30300);
    clean("?force=maybe").await.expect_error(400, 30010);
    assert!(app.site.cleaned().await.is_empty());
    // What the running container has is not touched, and the job is not taken for cleaned.
    clean("?force=Yes").await.expect(204);
    assert_eq!(app.site.cleaned().await, [(id.clone(), vec![1])]);
    assert_eq!(cleaned().await, false);
    fail(&app, &id, 0).await;
    app.finish_jobs().await;
    for _ in 0..2 {
        clean("").await.expect(204);
    }
    assert_eq!(app.site.cleaned().await.len(), 2);
    assert_eq!(app.site.cleaned().await[1], (id.clone(), vec![0, 1]));
    assert_eq!(cleaned().await, true);
}

#[tokio::test]
async fn a_site_that_is_switched_off_takes_no_new_jobs_and_finishes_the_others() {
    let app = TestApp::new();
    app.register_image().await;
    let id = app.submit(1).await;
    let active = async || {
        let sites = app.get("", "/sites").await.expect(200).json();
        sites["sites"][1]["active"].clone()
    };
    let switch = async |method: &str, site: &str| {
        let path = format!("/admin/sites/{site}/active");
        app.call("admin", method, &path, None).await
    };
    let submit = async |cluster: &str| {
        let job = with(job_input(), "cluster", json!(cluster));
        app.call("alice", "POST", "/jobs", Some(job)).await
    };
    for _ in 0..2 {
        switch("DELETE", "local").await.expect(204);
        assert_eq!(active().await, false);
    }
    submit("local").await.expect_error(400, 60010);
    // Not registered comes before switched off, and that before unavailable.
    switch("DELETE", "lawrencium-jaws").await.expect(204);
    submit("lawrencium-jaws").await.expect_error(400, 60020);
    submit("kbase").await.expect_error(400, 60020);
    switch("DELETE", "kbase").await.expect(204);
    submit("kbase").await.expect_error(400, 60010);
    fail(&app, &id, 0).await;
    app.finish_jobs().await;
    assert_eq!(app.state(&id).await, "error");
    app.get("", &format!("/callback/job/{id}"))
        .await
        .expect_error(400, 60010);
    switch("PUT", "local").await.expect(204);
    assert_eq!(active().await, true);
    submit("local").await.expect(200);
    let answer = switch("PUT", "nowhere").await.expect_error(400, 30010);
    let detail = &answer.json()["error"]["request_validation_detail"][0];
    assert_eq!(detail["type"], "enum");
    assert_eq!(detail["loc"], json!(["path", "site"]));
}

#[tokio::test]
async fn an_image_is_deleted_and_jobs_keep_their_copy() {
    let app = TestApp::new();
    app.register_image().await;
    let id = app.submit(1).await;
    let path = "/admin/images/reg.example.org/kbase/sh:1";
    app.call("admin", "DELETE", path, None).await.expect(204);
    app.call("admin", "DELETE", path, None)
        .await
        .expect_error(404, 40030);
    app.call("admin", "DELETE", "/admin/images/Not%20An%20Image", None)
        .await
        .expect_error(400, 30040);
    app.call("admin", "DELETE", "/admin/images/", None)
        .await
        .expect_error(400, 30010);
    app.get("", "/images/reg.example.org/kbase/sh:1")
        .await
        .expect_error(404, 40030);
    let job = app.get("alice", &format!("/jobs/{id}")).await.json();
    assert_eq!(job["image"]["name"], "reg.example.org/kbase/sh");
    app.register_image().await;
}

#[tokio::test]
async fn what_belongs_to_sites_this_service_does_not_have() {
    let app = TestApp::new();
    app.register_image().await;
    let id = app.submit(1).await;
    app.get("admin", "/admin/clients/nersc?require_lifetime=P1D")
        .await
        .expect_error(400, 60000);
    app.get("admin", "/admin/clients/nersc?require_lifetime=long")
        .await
        .expect_error(400, 30010);
    for callback in ["download", "job", "upload", "errlogs"] {
        app.get("", &format!("/callback/{callback}/{id}"))
            .await
            .expect_error(400, 100_000);
        app.get("", &format!("/callback/{callback}/{UNKNOWN}"))
            .await
            .expect_error(404, 40040);
        app.get("", &format!("/callback/{callback}/x!"))
            .await
            .expect_error(400, 30010);
    }
}
