//! Every route: who may call it, what it answers, and which errors it has (contract service.md, sections 1 and 2).

use jsonschema::Validator;
use reqwest::Method;
use serde_json::{Value, json};

use crate::area::End;
use crate::auth2::{ADMIN, SERVICE, UNLUCKY, USER};
use crate::bed::{Bed, eventually};
use crate::service::Mood;

/// The contract's document as it was published.
const CONTRACT: &str = include_str!("contract/openapi.refdata.json");

/// Checks a body against a schema of the contract.
#[track_caller]
fn assert_is(schema: &str, body: &Value) {
    let mut document: Value = serde_json::from_str(CONTRACT).unwrap();
    // Error bodies have the members that apply: the contract's README says so, its document does not.
    document["components"]["schemas"]["ClientErrorDetail"]["required"] =
        json!(["httpcode", "httpstatus", "time"]);
    document["components"]["schemas"]["ServerErrorDetail"]["required"] =
        json!(["httpcode", "httpstatus", "time", "message"]);
    document["$ref"] = json!(format!("#/components/schemas/{schema}"));
    let validator: Validator = jsonschema::options().build(&document).unwrap();
    let faults: Vec<String> = validator
        .iter_errors(body)
        .map(|fault| fault.to_string())
        .collect();
    assert!(faults.is_empty(), "{faults:?}\n{body:#}");
}

#[tokio::test]
async fn every_path_of_the_contract_is_served_with_its_methods() {
    let bed = Bed::start().await;
    let document: Value = serde_json::from_str(CONTRACT).unwrap();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let path = path
            .replace("{refdata_id}", "x")
            .replace("{cluster}", "kbase");
        let answer = bed.call("", Method::PATCH, &path).await;
        let error = answer.expect_error(405, None);
        assert_eq!(error["message"], "Method Not Allowed");
        assert_is("ClientError", &answer.body);
        let served = answer.headers["allow"].to_str().unwrap().to_lowercase();
        let described: Vec<&String> = methods.as_object().unwrap().keys().collect();
        assert_eq!([&served], described.as_slice(), "{path}");
        assert_eq!(
            bed.call("", Method::HEAD, &path).await.status,
            405,
            "{path}"
        );
    }
}

#[tokio::test]
async fn the_root_says_which_service_it_is() {
    let bed = Bed::start().await;
    let answer = bed.get("", "/").await;
    assert_eq!(answer.status, 200);
    assert_is("Root", &answer.body);
    assert_eq!(answer.body["service_name"], "CDM Refdata Service");
    assert_eq!(bed.get("", "/livez").await.status, 200);
    assert!(
        !answer.headers.contains_key("access-control-allow-origin"),
        "there is no CORS here"
    );
}

#[tokio::test]
async fn whoami_shows_administrators_only_as_such() {
    let bed = Bed::start().await;
    for (token, user, roles) in [
        (USER, "user", json!([])),
        (SERVICE, "service", json!([])),
        (ADMIN, "admin", json!(["full_admin"])),
    ] {
        let answer = bed.get(token, "/whoami").await;
        assert_eq!(answer.status, 200);
        assert_is("WhoAmI", &answer.body);
        assert_eq!(
            answer.body,
            json!({ "user": user, "roles": roles, "allowed_paths": [] })
        );
    }
    bed.get("", "/whoami").await.expect_error(401, Some(10010));
}

#[tokio::test]
async fn tokens_are_looked_at_before_anything_else() {
    let bed = Bed::start().await;
    for path in ["/", "/nowhere", "/refdata/x/", "/refdata/x/kbase"] {
        for (header, code) in [
            ("Bearer", 10030),
            ("Bearer ", 10030),
            ("Basic eDp5", 10030),
            ("Bearer UNKNOWN", 10020),
        ] {
            let answer = bed.call_with(header, Method::GET, path).await;
            answer.expect_error(401, Some(code));
            assert_is("ClientError", &answer.body);
        }
        let unlucky = bed.get(UNLUCKY, path).await;
        unlucky.expect_error(503, None);
        assert!(unlucky.headers.contains_key("retry-after"));
        assert_is("ServerError", &unlucky.body);
    }
    let lenient = format!("bEARER   {USER}");
    let answer = bed.call_with(&lenient, Method::GET, "/whoami").await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn auth2_is_asked_once_about_a_user() {
    let bed = Bed::start().await;
    for _ in 0..5 {
        assert_eq!(bed.get(USER, "/whoami").await.status, 200);
    }
    // The token, and its user.
    assert_eq!(bed.auth2.calls(), 2);
}

#[tokio::test]
async fn unknown_paths_are_not_found_and_slashes_are_redirected() {
    let bed = Bed::start().await;
    for path in ["/nowhere", "/refdata/a/b/c", "/refdata/a%2Fb/", "/docs"] {
        let answer = bed.get("", path).await;
        let error = answer.expect_error(404, Some(40000));
        assert_eq!(error["message"], "Not Found");
        assert_is("ClientError", &answer.body);
    }
    for (path, target) in [
        ("/refdata/x?y=1", "/refdata/x/?y=1"),
        ("/refdata/", "/refdata"),
        ("/whoami/", "/whoami"),
        ("/refdata/x/kbase/", "/refdata/x/kbase"),
    ] {
        let answer = bed.get("", path).await;
        assert_eq!(answer.status, 307, "{path}");
        let asked: reqwest::Url = bed.url(path).parse().unwrap();
        let location = answer.headers["location"].to_str().unwrap();
        assert_eq!(asked.join(location).unwrap().as_str(), bed.url(target));
    }
}

#[tokio::test]
async fn a_user_is_needed_then_a_valid_request_then_the_role() {
    let bed = Bed::start().await;
    let post = |token, path| bed.call(token, Method::POST, path);
    post("", "/refdata/b%20d/mars")
        .await
        .expect_error(401, Some(10010));
    let invalid = post(USER, "/refdata/b%20d/mars").await;
    let error = invalid.expect_error(400, Some(30010));
    assert_is("ClientError", &invalid.body);
    assert_eq!(error["message"], Value::Null);
    let places: Vec<&Value> = error["request_validation_detail"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| &fault["loc"])
        .collect();
    assert_eq!(
        places,
        [&json!(["path", "refdata_id"]), &json!(["path", "cluster"])]
    );
    // Our own site stages by itself.
    post(SERVICE, "/refdata/x/local")
        .await
        .expect_error(400, Some(30010));
    for token in [USER, ADMIN] {
        post(token, "/refdata/x/kbase")
            .await
            .expect_error(403, Some(20000));
    }
    bed.get("", "/refdata/b%20d/")
        .await
        .expect_error(401, Some(10010));
    bed.get(USER, "/refdata/b%20d/")
        .await
        .expect_error(400, Some(30010));
    for token in [USER, SERVICE] {
        for path in ["/refdata/x/", "/refdata"] {
            bed.get(token, path).await.expect_error(403, Some(20000));
        }
    }
    bed.get("", "/refdata").await.expect_error(401, Some(10010));
    assert!(bed.service.calls().is_empty());
}

#[tokio::test]
async fn only_what_the_service_wants_is_staged() {
    let bed = Bed::start().await;
    bed.ask("x").await.expect_error(404, Some(40060));
    bed.register("x");
    for state in ["download_submitted", "complete", "error"] {
        bed.service.set_state("x", state);
        let answer = bed.ask("x").await;
        let error = answer.expect_error(400, Some(30400));
        assert!(error["message"].as_str().unwrap().contains(state));
    }
    bed.service.set_state("x", "created");
    let elsewhere = bed
        .call(SERVICE, Method::POST, "/refdata/x/perlmutter-jaws")
        .await;
    elsewhere.expect_error(400, Some(30400));
    // What the service says and what cannot be used is its fault.
    bed.service.register("y", "no-key", "AAAAAAAAAAA=", false);
    bed.ask("y").await.expect_error(500, None);
    bed.service.register("z", "bucket/key", "short", false);
    let fault = bed.ask("z").await;
    let error = fault.expect_error(500, None);
    assert_is("ServerError", &fault.body);
    assert_eq!(error["message"], "An unexpected error occurred");
    assert!(bed.area.begun().is_empty());
    assert!(!bed.note_path("x").exists());
}

#[tokio::test]
async fn a_service_that_is_away_at_the_start_gets_no_promise() {
    let bed = Bed::start().await;
    bed.register("x");
    for mood in [Mood::Away, Mood::RefusesTheToken] {
        bed.service.set_mood(mood);
        bed.ask("x").await.expect_error(503, None);
    }
    bed.service.set_mood(Mood::Well);
    assert_eq!(bed.service.state("x"), "created");
    assert!(!bed.note_path("x").exists());
    assert_eq!(bed.ask("x").await.status, 204);
}

#[tokio::test]
async fn the_state_is_none_then_staging_then_done() {
    let bed = Bed::with_concurrency(1).await;
    let status = || bed.get(ADMIN, "/refdata/x/");
    let before = status().await;
    assert_is("RefdataLocalStatus", &before.body);
    assert_eq!(before.body, json!({ "state": "none" }));

    bed.register("x");
    bed.register("waits");
    assert_eq!(bed.ask("x").await.status, 204);
    eventually("the staging", || bed.area.running() == 1).await;
    assert_eq!(bed.ask("waits").await.status, 204);
    let during = status().await;
    assert_is("RefdataLocalStatus", &during.body);
    assert_eq!(during.body["state"], "staging");
    assert_eq!(during.body["progress"]["downloaded_bytes"], 4);
    assert_eq!(during.body["progress"]["object_bytes"], 10);
    let listed = bed.get(ADMIN, "/refdata").await.body;
    assert_eq!(listed["data"][0]["id"], "waits");
    assert_eq!(listed["data"][0]["state"], "queued");
    assert_eq!(listed["data"][0]["queue_position"], 1);
    assert_eq!(listed["data"][1]["state"], "staging");
    assert_eq!(listed["data"][1]["progress"]["downloaded_bytes"], 4);

    bed.area.end("x", End::Done);
    bed.area.end("waits", End::Failed);
    bed.settled("x", "complete").await;
    bed.settled("waits", "error").await;
    let after = status().await;
    assert_is("RefdataLocalStatus", &after.body);
    assert_eq!(
        after.body,
        json!({ "state": "done", "files": [
            { "file": "db/x", "md5": "acbd18db4cc2f85cedef654fccc4a4d8", "size": 3 },
        ]})
    );
    let failed = bed.get(ADMIN, "/refdata/waits/").await.body;
    assert_eq!(failed["state"], "none");
    assert!(
        failed["error"].as_str().unwrap().contains("waits.tar.gz"),
        "{failed}"
    );
    let listed = bed.get(ADMIN, "/refdata").await.body;
    assert_eq!(listed["data"][0]["error"], failed["error"]);
    assert_eq!(
        listed["data"][1],
        json!({ "id": "x", "state": "done", "bytes": 3, "files": 1, "reporting": false })
    );
}
