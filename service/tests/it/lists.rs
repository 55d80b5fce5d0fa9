//! Lists of jobs.

use serde_json::{Value, json};

use crate::test_app::TestApp;

async fn ids(app: &TestApp, user: &str, path: &str) -> Vec<String> {
    let answer = app.get(user, path).await.expect(200).json();
    answer["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| job["id"].as_str().unwrap().to_owned())
        .collect()
}

/// Submits and waits until nothing more happens to the job by itself.
async fn submit(app: &TestApp) -> String {
    let id = app.submit(1).await;
    while app.state(&id).await != "download_submitted" {
        tokio::task::yield_now().await;
    }
    id
}

#[tokio::test]
async fn a_list_has_previews_last_changed_first() {
    let app = TestApp::new();
    app.register_image().await;
    let first = submit(&app).await;
    let second = submit(&app).await;
    assert_eq!(ids(&app, "alice", "/jobs").await, [&*second, &first]);
    let cancel = format!("/jobs/{first}/cancel");
    app.call("alice", "PUT", &cancel, None).await.expect(204);
    assert_eq!(ids(&app, "alice", "/jobs").await, [&*first, &second]);
    assert_eq!(ids(&app, "admin", "/admin/jobs").await, [&*first, &second]);
    assert!(ids(&app, "bob", "/jobs").await.is_empty());
    assert!(ids(&app, "admin", "/jobs").await.is_empty());

    let mut job = app.get("alice", &format!("/jobs/{second}")).await.json();
    job["job_input"]
        .as_object_mut()
        .unwrap()
        .remove("input_files");
    for (user, path) in [("alice", "/jobs?limit=2"), ("admin", "/admin/jobs?limit=2")] {
        let list = app.get(user, path).await.json();
        assert_eq!(list["jobs"][1], job, "{path}");
        assert_eq!(list["jobs"][1]["admin_meta"], json!({}));
    }
}

#[tokio::test]
async fn filters() {
    let app = TestApp::new();
    app.register_image().await;
    let first = submit(&app).await;
    let second = submit(&app).await;
    let cancel = format!("/jobs/{second}/cancel");
    app.call("alice", "PUT", &cancel, None).await.expect(204);
    let status = app.get("alice", &format!("/jobs/{second}/status")).await;
    let transitions = status.json()["transition_times"].clone();
    let changed = transitions.as_array().unwrap().last().unwrap()["time"].clone();
    let changed = changed.as_str().unwrap();
    let millis = {
        let time: jiff::Timestamp = changed.parse().unwrap();
        time.as_millisecond()
    };
    let both = vec![second.clone(), first.clone()];
    let newer = vec![second.clone()];
    let older = vec![first.clone()];
    for (query, expected) in [
        ("".to_owned(), &both),
        ("limit=1".to_owned(), &newer),
        ("limit=%201_000.0".to_owned(), &both),
        ("cluster=local".to_owned(), &both),
        ("cluster=kbase".to_owned(), &Vec::new()),
        ("state=canceling".to_owned(), &newer),
        ("state=download_submitted&cluster=local".to_owned(), &older),
        (format!("after={changed}"), &newer),
        (format!("before={changed}"), &older),
        (format!("after={millis}"), &newer),
        (format!("before={millis}"), &older),
        (
            format!("after={}", changed.replace('Z', "%2B00:00")),
            &newer,
        ),
        ("after=1600000000".to_owned(), &both),
        (
            "after=1600000000.5&before=2100-01-01T00:00:00-08:00".to_owned(),
            &both,
        ),
        ("before=1600000000".to_owned(), &Vec::new()),
        ("state=error&state=canceling".to_owned(), &newer),
        ("unknown=parameters&are=ignored".to_owned(), &both),
    ] {
        for (user, path) in [("alice", "/jobs"), ("admin", "/admin/jobs")] {
            assert_eq!(
                &ids(&app, user, &format!("{path}?{query}")).await,
                expected,
                "{query}"
            );
        }
    }
    assert_eq!(ids(&app, "admin", "/admin/jobs?user=alice").await, both);
    assert!(ids(&app, "admin", "/admin/jobs?user=bob").await.is_empty());
    app.get("admin", "/admin/jobs?user=nobody")
        .await
        .expect_error(400, 10040);
    assert_eq!(ids(&app, "alice", "/jobs?user=bob").await, both);
}

#[tokio::test]
async fn all_faults_of_a_query_are_reported() {
    let app = TestApp::new();
    let details = async |user: &str, path: &str| {
        let answer = app.get(user, path).await.expect_error(400, 30010);
        answer.json()["error"]["request_validation_detail"]
            .as_array()
            .unwrap()
            .iter()
            .map(|detail| {
                (
                    detail["loc"][1].clone(),
                    detail["type"].clone(),
                    detail["input"].clone(),
                )
            })
            .collect::<Vec<_>>()
    };
    let query = "limit=0&before=2031-02-03T04:05:06&after=soon&state=x&cluster=y&user=Alice";
    let of_both = [
        (json!("cluster"), json!("enum"), json!("y")),
        (json!("state"), json!("enum"), json!("x")),
        (
            json!("after"),
            json!("datetime_from_date_parsing"),
            json!("soon"),
        ),
        (
            json!("before"),
            json!("timezone_aware"),
            json!("2031-02-03T04:05:06"),
        ),
        (json!("limit"), json!("greater_than_equal"), json!("0")),
    ];
    assert_eq!(details("alice", &format!("/jobs?{query}")).await, of_both);
    // Validation comes before the role.
    let of_admin = details("alice", &format!("/admin/jobs?{query}")).await;
    assert_eq!(
        of_admin[0],
        (
            json!("user"),
            json!("string_pattern_mismatch"),
            json!("Alice")
        )
    );
    assert_eq!(of_admin[1..], of_both);
    for (query, kind) in [
        ("limit=1001", "less_than_equal"),
        ("limit=", "int_parsing"),
        ("limit=1.5", "int_parsing"),
        ("limit=99999999999999999999999999", "less_than_equal"),
        (
            "after=2031-02-03T04:05:06+00:00",
            "datetime_from_date_parsing",
        ),
        ("after=", "datetime_from_date_parsing"),
        ("after=1e300", "datetime_from_date_parsing"),
        ("before=2031-02-03", "timezone_aware"),
        ("cluster=", "enum"),
    ] {
        let found = details("alice", &format!("/jobs?{query}")).await;
        assert_eq!(found.len(), 1, "{query}");
        assert_eq!(found[0].1, Value::from(kind), "{query}");
    }
    for (user, kind) in [
        (String::new(), "string_too_short"),
        ("a".repeat(101), "string_too_long"),
        ("1a".to_owned(), "string_pattern_mismatch"),
        ("a-b".to_owned(), "string_pattern_mismatch"),
    ] {
        let found = details("admin", &format!("/admin/jobs?user={user}")).await;
        assert_eq!(found[0].1, Value::from(kind), "{user}");
    }
    app.get("", "/jobs?limit=0").await.expect_error(401, 10010);
}
