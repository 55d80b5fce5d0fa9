//! Bad input of every kind, on every route: it gets the contract's error, and is never a fault of the
//! service (decisions.md, row 9).

use std::sync::LazyLock;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, header};
use proptest::prelude::*;
use proptest::test_runner::{Config as ProptestConfig, TestRunner};
use serde_json::{Map, Value, json};

use cts_service::router;

use crate::test_app::{Answer, TestApp, job_input};

const USERS: [&str; 4] = ["", "alice", "admin", "executor"];

/// Bodies that are not JSON, or not as JSON should be.
static BROKEN: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    vec![
        b"{".to_vec(),
        b"nope".to_vec(),
        b"{\"a\": 1,}".to_vec(),
        b"[1 2]".to_vec(),
        b"\"open".to_vec(),
        b"\"\n\"".to_vec(),
        b"\"\\ud800\"".to_vec(),
        b"\"\\x\"".to_vec(),
        b"\xef\xbb\xbf{}".to_vec(),
        b"\xff\xfe{\x00}\x00".to_vec(),
        b"{\"a\": \"\xff\"}".to_vec(),
        b"\x00".to_vec(),
        b"NaN".to_vec(),
        b"1e999".to_vec(),
        b"{} {}".to_vec(),
        "[".repeat(100_000).into_bytes(),
        "{\"a\":".repeat(50_000).into_bytes(),
        format!("{}{}", "[".repeat(200), "]".repeat(200)).into_bytes(),
    ]
});

/// JSON that is seldom what is wanted.
static ODD: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let mut nested = json!("x");
    for _ in 0..100 {
        nested = json!([nested]);
    }
    vec![
        json!(null),
        json!(true),
        json!(-1),
        json!(0.5),
        json!(1e308),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(""),
        json!(" "),
        json!("\u{0}"),
        json!("a\u{0}b\r\n"),
        json!("\u{202e}\u{fffd}\u{10ffff}"),
        json!("../../etc/passwd"),
        json!("cts/../x"),
        json!("9".repeat(5000)),
        json!("x".repeat(100_000)),
        json!([]),
        json!([null]),
        json!([{}]),
        json!(vec!["cts/io/in/a.txt"; 10_001]),
        json!({}),
        json!({"\u{0}": "\u{0}"}),
        json!({"": {"": {"": null}}}),
        nested,
    ]
});

/// Text for paths and queries, percent-encoded.
const ODD_TEXTS: [&str; 18] = [
    "x",
    "%00",
    "%FF",
    "%C3%28",
    "%ED%A0%80",
    "%2F",
    "..",
    "%2e%2e%2fx",
    "%20",
    "%0d%0aX-Injected:%201",
    "-1",
    "1e400",
    "99999999999999999999999999999999999999999999",
    "%F0%9F%98%80",
    "null",
    "'%3B--",
    "%25",
    "{job_id}",
];

fn assert_proper(answer: &Answer, what: &str) {
    let status = answer.status.as_u16();
    assert!(status < 500, "{what}: {}", answer.text);
    assert!(!answer.headers.contains_key("x-injected"), "{what}");
    if status < 400 {
        return;
    }
    let error = &answer.json()["error"];
    assert_eq!(error["httpcode"], status, "{what}: {}", answer.text);
    for member in ["httpstatus", "time", "request_id"] {
        assert!(error[member].is_string(), "{what}: {}", answer.text);
    }
    assert_eq!(
        error["appcode"].is_null(),
        matches!(status, 405 | 416),
        "{what}: {}",
        answer.text
    );
    assert!(
        answer.text.len() < 400_000,
        "{what}: an answer without bound"
    );
    if error["appcode"] == 30010 {
        assert!(error.get("message").is_none(), "{what}: {}", answer.text);
        let details = error["request_validation_detail"].as_array().unwrap();
        assert!(!details.is_empty(), "{what}");
        for detail in details {
            let part = detail["loc"][0].as_str().unwrap();
            assert!(
                matches!(part, "body" | "path" | "query"),
                "{what}: {detail}"
            );
            assert!(detail["type"].is_string(), "{what}: {detail}");
            assert!(
                detail["msg"].as_str().is_some_and(|msg| !msg.is_empty()),
                "{what}: {detail}"
            );
        }
    } else {
        assert!(
            error["message"]
                .as_str()
                .is_some_and(|message| !message.is_empty()),
            "{what}: {}",
            answer.text
        );
    }
}

fn request(
    user: &str,
    method: &str,
    path: &str,
    content_type: &str,
    body: &[u8],
) -> Option<Request> {
    let mut request = Request::builder().method(method).uri(path);
    if !user.is_empty() {
        request = request.header(header::AUTHORIZATION, format!("Bearer {user}-token"));
    }
    if !content_type.is_empty() {
        request = request.header(header::CONTENT_TYPE, content_type);
    }
    request.body(Body::from(body.to_vec())).ok()
}

/// Every path with its methods. Not the endless events, and not the readiness of a service that is told
/// to stop.
async fn routes(app: &TestApp) -> Vec<(String, String)> {
    let mut routes = Vec::new();
    for path in router::paths() {
        if matches!(&*path, "/events" | "/readyz") {
            continue;
        }
        let answer = app
            .call("", Method::TRACE.as_str(), &fill(&path, "x"), None)
            .await;
        let allow = answer.headers[header::ALLOW].to_str().unwrap().to_owned();
        for method in allow.split(',') {
            routes.push((method.trim().to_owned(), path.clone()));
        }
    }
    routes
}

/// The path with a text in the place of each parameter.
fn fill(path: &str, text: &str) -> String {
    path.split('/')
        .map(|part| if part.starts_with('{') { text } else { part })
        .collect::<Vec<_>>()
        .join("/")
}

async fn app_with_job() -> (TestApp, String) {
    let app = TestApp::new();
    app.register_image().await;
    let id = app.submit(1).await;
    (app, id)
}

#[tokio::test]
async fn odd_paths() {
    let (app, _) = app_with_job().await;
    let long = "x".repeat(60_000);
    for (method, path) in routes(&app).await {
        for text in ODD_TEXTS.into_iter().chain([&*long]) {
            for user in USERS {
                let target = fill(&path, &text.replace(['{', '}'], "%7B"));
                let Some(request) = request(user, &method, &target, "", b"") else {
                    continue;
                };
                let answer = app.send(request).await;
                let shown: String = target.chars().take(100).collect();
                assert_proper(&answer, &format!("{user} {method} {shown}"));
            }
        }
    }
}

/// All parameters that any route takes in the query.
const QUERY_NAMES: [&str; 16] = [
    "cluster",
    "state",
    "after",
    "before",
    "limit",
    "user",
    "seek",
    "length",
    "force",
    "container_number",
    "notification_age",
    "require_lifetime",
    "refdata_id",
    "default_refdata_mount_point",
    "crc64nvme",
    "unpack",
];

#[tokio::test]
async fn odd_queries() {
    let (app, id) = app_with_job().await;
    for (method, path) in routes(&app).await {
        let path = fill(&path.replace("{container_num}", "0"), &id);
        for text in ODD_TEXTS.into_iter().chain([&*"9".repeat(2000)]) {
            let text = text.replace(['{', '}'], "%7B");
            let query: Vec<String> = QUERY_NAMES
                .iter()
                .map(|name| format!("{name}={text}"))
                .collect();
            let everything = format!("{path}?{}", query.join("&"));
            let alone = format!("{path}?{text}");
            let as_name = format!("{path}?&&={text}&{text}={text}&=&");
            for target in [everything, alone, as_name] {
                let request = request("admin", &method, &target, "", b"").unwrap();
                let shown: String = target.chars().take(100).collect();
                assert_proper(&app.send(request).await, &format!("{method} {shown}"));
            }
        }
    }
}

/// Routes that read a body, with one they take.
fn with_bodies(id: &str) -> [(&'static str, &'static str, String, Value); 7] {
    [
        ("alice", "POST", "/jobs".to_owned(), job_input()),
        (
            "executor",
            "PUT",
            format!("/external_exec/jobs/{id}/container/0/update/complete"),
            json!({
                "time": "2031-01-01T00:00:00Z", "exit_code": 0, "admin_error": "x", "traceback": "y",
                "outputs": [{"file": "cts/io/out/x", "crc64nvme": "AAAAAAAAAAA="}],
                "attempt": 1, "usage": {"cpu_ms": 1, "wall_ms": 2, "max_memory_bytes": 3},
            }),
        ),
        (
            "executor",
            "POST",
            format!("/external_exec/jobs/{id}/container/0/attempts"),
            json!({"time": "2031-01-01T00:00:00Z", "instance": "a", "host": "b"}),
        ),
        (
            "executor",
            "PUT",
            format!("/external_exec/jobs/{id}/container/0/attempts/1"),
            json!({"time": "2031-01-01T00:00:00Z", "instance": "a", "host": "b"}),
        ),
        (
            "refdata",
            "PUT",
            format!("/external_exec/refdata/{id}/local/update/error"),
            json!({"admin_error": "x", "traceback": "y"}),
        ),
        (
            "admin",
            "PUT",
            format!("/admin/jobs/{id}/meta"),
            json!({"set_fields": {"a": 1}, "unset_keys": ["b"]}),
        ),
        (
            "admin",
            "POST",
            "/admin/images/reg.example.org/kbase/sh:2".to_owned(),
            json!({"urls": ["https://example.org"], "usage_notes": "x", "from_image": "y"}),
        ),
    ]
}

#[tokio::test]
async fn broken_bodies_are_400_before_anything_else_is_looked_at() {
    let (app, id) = app_with_job().await;
    for (user, method, path, _) in with_bodies(&id) {
        for body in BROKEN.iter() {
            for user in ["", user, "bob"] {
                let request = request(user, method, &path, "application/json", body).unwrap();
                let answer = app.send(request).await;
                let shown = String::from_utf8_lossy(body.get(..40).unwrap_or(body)).into_owned();
                assert_proper(&answer, &format!("{method} {path} {shown}"));
                let answer = answer.expect_error(400, 30010);
                let details = &answer.json()["error"]["request_validation_detail"];
                assert_eq!(details[0]["type"], "json_invalid", "{shown}");
            }
        }
    }
}

#[tokio::test]
async fn other_content_types_are_a_text() {
    let (app, id) = app_with_job().await;
    for (user, method, path, good) in with_bodies(&id) {
        for content_type in [
            "",
            "text/plain",
            "text/json",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/jsonx",
            "application",
            "\u{e9}",
        ] {
            for body in [good.to_string().as_bytes(), b"\xff\x00", b"a=b"] {
                let request = request(user, method, &path, content_type, body).unwrap();
                let answer = app.send(request).await.expect_error(400, 30010);
                let detail = &answer.json()["error"]["request_validation_detail"][0];
                assert_eq!(
                    detail["type"], "model_attributes_type",
                    "{path} {content_type}"
                );
                assert_eq!(detail["loc"], json!(["body"]));
            }
        }
    }
}

/// Every document that differs from `good` in one value, or has one member too many.
fn spoiled(good: &Value) -> Vec<Value> {
    let mut all: Vec<Value> = ODD.clone();
    let paths = pointers(good, String::new());
    for pointer in &paths {
        for odd in ODD.iter() {
            let mut document = good.clone();
            *document.pointer_mut(pointer).unwrap() = odd.clone();
            all.push(document);
        }
    }
    for pointer in paths.iter().chain([&String::new()]) {
        let mut document = good.clone();
        if let Some(members) = document.pointer_mut(pointer).and_then(Value::as_object_mut) {
            members.insert("__proto__\u{0}".to_owned(), json!(1));
            all.push(document);
        }
    }
    all
}

fn pointers(value: &Value, at: String) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), value))
            .collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(index, value)| (index.to_string(), value))
            .collect(),
        _ => Vec::new(),
    };
    children
        .into_iter()
        .flat_map(|(name, value)| {
            let at = format!("{at}/{name}");
            let below = pointers(value, at.clone());
            std::iter::once(at).chain(below)
        })
        .collect()
}

#[tokio::test]
async fn documents_with_one_odd_value() {
    let (app, id) = app_with_job().await;
    for (user, method, path, good) in with_bodies(&id) {
        for document in spoiled(&good) {
            let answer = app.call(user, method, &path, Some(document.clone())).await;
            let shown: String = document.to_string().chars().take(300).collect();
            assert_proper(&answer, &format!("{method} {path} {shown}"));
        }
    }
}

#[tokio::test]
async fn a_small_request_gets_no_large_answer() {
    let (app, _) = app_with_job().await;
    // Each of the faults in the value stands below the long name.
    let value: Map<String, Value> = (0..1000).map(|n| (n.to_string(), json!(1))).collect();
    let mut job = job_input();
    job["params"]["environment"] = json!({"A".repeat(100_000): value});
    let answer = app.call("alice", "POST", "/jobs", Some(job)).await;
    let answer = answer.expect_error(400, 30010);
    assert!(answer.text.len() < 2_000_000, "{} bytes", answer.text.len());
}

#[tokio::test]
async fn of_two_members_with_one_name_the_last_counts() {
    let (app, _) = app_with_job().await;
    let text = job_input().to_string();
    let twice = text.replacen('{', "{\"cpus\": \"x\", \"cpus\": 1, ", 1);
    let request_twice = request(
        "alice",
        "POST",
        "/jobs",
        "application/json",
        twice.as_bytes(),
    );
    app.send(request_twice.unwrap()).await.expect(200);
}

#[derive(Debug, Clone)]
struct Fuzzed {
    user: &'static str,
    route: prop::sample::Index,
    method: Option<&'static str>,
    parts: Vec<String>,
    query: String,
    content_type: &'static str,
    body: Vec<u8>,
    range: Option<String>,
}

fn percent_encoded(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b':' => {
                char::from(*byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

fn any_part() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("{job_id}".to_owned()),
        prop::sample::select(vec![
            "0",
            "1",
            "job_submitting",
            "complete",
            "local",
            "kbase"
        ])
        .prop_map(str::to_owned),
        prop::collection::vec(any::<u8>(), 1..20).prop_map(|bytes| percent_encoded(&bytes)),
        "\\PC{1,12}".prop_map(|text| percent_encoded(text.as_bytes())),
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        prop::sample::select(ODD.clone()),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("\\PC{0,8}", inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// A body that one of the routes takes, with a value or two replaced.
fn any_near_miss() -> impl Strategy<Value = Value> {
    let replaced = (any::<prop::sample::Index>(), any_json());
    let good = prop::sample::select(with_bodies("x").map(|(.., body)| body).to_vec());
    (good, prop::collection::vec(replaced, 1..3)).prop_map(|(mut body, replacements)| {
        for (place, value) in replacements {
            let places = pointers(&body, String::new());
            if !places.is_empty() {
                let place: &String = place.get(&places);
                // None where a name has a slash in it.
                if let Some(spoiled) = body.pointer_mut(place) {
                    *spoiled = value;
                }
            }
        }
        body
    })
}

fn any_body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        1 => Just(Vec::new()),
        1 => prop::collection::vec(any::<u8>(), 0..64),
        2 => any_json().prop_map(|json| json.to_string().into_bytes()),
        4 => any_near_miss().prop_map(|json| json.to_string().into_bytes()),
    ]
}

fn any_request() -> impl Strategy<Value = Fuzzed> {
    let query = prop::collection::vec(
        (
            prop::sample::select([&QUERY_NAMES[..], &["x"]].concat()),
            any_part(),
        ),
        0..4,
    )
    .prop_map(|pairs| {
        let pairs: Vec<String> = pairs
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        pairs.join("&")
    });
    (
        prop::sample::select(USERS.to_vec()),
        any::<prop::sample::Index>(),
        prop::option::weighted(
            0.1,
            prop::sample::select(vec![
                "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS",
            ]),
        ),
        prop::collection::vec(any_part(), 4),
        query,
        prop::sample::select(vec![
            "application/json",
            "application/x+json",
            "text/plain",
            "",
        ]),
        any_body(),
        prop::option::weighted(0.1, "bytes=[0-9]{0,20}-[0-9]{0,20}"),
    )
        .prop_map(
            |(user, route, method, parts, query, content_type, body, range)| Fuzzed {
                user,
                route,
                method,
                parts,
                query,
                content_type,
                body,
                range,
            },
        )
}

impl Fuzzed {
    fn request(&self, routes: &[(String, String)], id: &str) -> Option<Request> {
        let (method, path) = self.route.get(routes);
        let mut parts = self.parts.iter();
        let path: Vec<&str> = path
            .split('/')
            .map(|part| match part {
                // Half of the time the rest of the request is to be reached.
                "{job_id}" if self.parts[0].len().is_multiple_of(2) => "{job_id}",
                part if part.starts_with('{') => parts.next().map_or("x", String::as_str),
                part => part,
            })
            .collect();
        let target = format!("{}?{}", path.join("/"), self.query).replace("{job_id}", id);
        let method = self.method.unwrap_or(method);
        let mut request = request(self.user, method, &target, self.content_type, &self.body)?;
        if let Some(range) = &self.range {
            let range = range.parse().ok()?;
            request.headers_mut().insert(header::RANGE, range);
        }
        Some(request)
    }
}

#[test]
fn no_request_is_a_fault_of_the_service() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (app, id) = runtime.block_on(app_with_job());
    let routes = runtime.block_on(routes(&app));
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&any_request(), |fuzzed| {
            let Some(request) = fuzzed.request(&routes, &id) else {
                return Err(TestCaseError::reject("not a request"));
            };
            let what = format!("{} {}", request.method(), request.uri());
            assert_proper(&runtime.block_on(app.send(request)), &what);
            Ok(())
        })
        .unwrap();
}
