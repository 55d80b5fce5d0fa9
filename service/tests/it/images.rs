//! Registering and finding images.

use serde_json::json;

use crate::test_app::{DIGEST, TestApp};

const SH: &str = "/admin/images/reg.example.org/kbase/sh";

#[tokio::test]
async fn an_image_is_registered_listed_and_found() {
    let app = TestApp::new();
    let body = json!({"urls": ["HTTPS://Example.org"], "usage_notes": "run it"});
    let image = app
        .call("admin", "POST", &format!("{SH}:1"), Some(body))
        .await
        .expect(200)
        .json();
    assert_eq!(
        image,
        json!({
            "registered_by": "admin",
            "registered_on": "2031-02-03T04:05:06Z",
            "name": "reg.example.org/kbase/sh",
            "digest": DIGEST,
            "entrypoint": ["/bin/busybox", "sh", "/entry.sh"],
            "tag": "1",
            "urls": ["https://example.org/"],
            "usage_notes": "run it",
        })
    );
    let list = app.get("", "/images").await.expect(200).json();
    assert_eq!(list, json!({"data": [image]}));
    for name in [
        "sh:1".to_owned(),
        format!("sh@{DIGEST}"),
        format!("sh:9@{DIGEST}"),
    ] {
        let found = app
            .get("", &format!("/images/reg.example.org/kbase/{name}"))
            .await;
        assert_eq!(found.expect(200).json(), image, "{name}");
    }
    app.get("", "/images/reg.example.org/kbase/sh")
        .await
        .expect_error(404, 40030);
}

#[tokio::test]
async fn what_cannot_be_registered() {
    let app = TestApp::new();
    app.register_image().await;
    let post = async |name: &str| app.call("admin", "POST", name, None).await;
    post(&format!("{SH}:1")).await.expect_error(400, 50000);
    post(&format!("{SH}:same")).await.expect_error(400, 50010);
    post(&format!("{SH}:3")).await.expect_error(400, 30050);
    post("/admin/images/reg.example.org/kbase/none:1")
        .await
        .expect_error(400, 30060);
    post("/admin/images/Not%20An%20Image")
        .await
        .expect_error(400, 30040);
    post(&format!("{SH}:2?default_refdata_mount_point=/x"))
        .await
        .expect_error(400, 30001);
    post(&format!("{SH}:2?refdata_id=abc"))
        .await
        .expect_error(404, 40060);
    post(&format!("{SH}:2@{DIGEST}"))
        .await
        .expect_error(400, 30050);
    post(&format!("{SH}:2")).await.expect(200);
}

#[tokio::test]
async fn an_image_can_inherit_from_another() {
    let app = TestApp::new();
    let body = json!({"urls": ["https://example.org/a"], "usage_notes": "notes"});
    app.call("admin", "POST", &format!("{SH}:1"), Some(body))
        .await
        .expect(200);
    let body = json!({
        "from_image": "reg.example.org/kbase/sh:1", "urls": [], "usage_notes": "",
    });
    let image = app
        .call("admin", "POST", &format!("{SH}:2"), Some(body))
        .await
        .expect(200)
        .json();
    assert_eq!(image["usage_notes"], "notes");
    assert!(image.get("urls").is_none());
    let body = json!({"from_image": "reg.example.org/kbase/unknown:1"});
    app.call("admin", "POST", &format!("{SH}:same"), Some(body))
        .await
        .expect_error(404, 40030);
}

#[tokio::test]
async fn faults_of_the_body_have_their_place() {
    let app = TestApp::new();
    let long = format!("https://example.org/{}", "x".repeat(2083));
    for (body, kind, loc) in [
        (json!([]), "model_attributes_type", json!(["body"])),
        (
            json!({"more": 1}),
            "extra_forbidden",
            json!(["body", "more"]),
        ),
        (
            json!({"usage_notes": 1}),
            "string_type",
            json!(["body", "usage_notes"]),
        ),
        (json!({"urls": "x"}), "list_type", json!(["body", "urls"])),
        (
            json!({"urls": ["https://example.org", "ftp://example.org"]}),
            "url_scheme",
            json!(["body", "urls", 1]),
        ),
        (json!({"urls": [1]}), "url_type", json!(["body", "urls", 0])),
        (
            json!({"urls": [""]}),
            "url_parsing",
            json!(["body", "urls", 0]),
        ),
        (
            json!({"urls": [long]}),
            "url_too_long",
            json!(["body", "urls", 0]),
        ),
    ] {
        let answer = app
            .call("admin", "POST", &format!("{SH}:1"), Some(body))
            .await
            .expect_error(400, 30010);
        let details = &answer.json()["error"]["request_validation_detail"];
        assert_eq!(details[0]["loc"], loc);
        assert_eq!(details[0]["type"], kind);
    }
}
