//! What operators and browsers see: readiness, metrics, compression, CORS, security headers, panics,
//! log lines.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use secrecy::SecretString;
use serde_json::{Value, json};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;

use cts_service::identity::{Identity, IdentityError, User};
use cts_service::image_registry::{ImageRegistry, RegistryError, RegistryImage};
use cts_service::job_store::StoreError;
use cts_service::site_store::SiteStore;
use cts_shared::site::Site;

use crate::log_lines::{LogLines, log_to};
use crate::test_app::{Answer, OUTPUT_CRC, TestApp, request};

const ORIGIN: &str = "https://narrative.kbase.us";

/// Sends a request of nobody's with headers.
async fn get_with(app: &TestApp, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    app.send(request.body(Body::empty()).unwrap()).await
}

/// Knows nobody, and answers only when `answers` says so.
#[derive(Debug)]
struct BrokenIdentity {
    answers: bool,
}

impl Identity for BrokenIdentity {
    fn user<'a>(&'a self, _token: &'a SecretString) -> BoxFuture<'a, Result<User, IdentityError>> {
        futures::future::ready(Err(self.error())).boxed()
    }

    fn check_user_name<'a>(
        &'a self,
        _name: &'a str,
        _token: &'a SecretString,
    ) -> BoxFuture<'a, Result<(), IdentityError>> {
        futures::future::ready(Err(self.error())).boxed()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), IdentityError>> {
        if self.answers {
            futures::future::ready(Err(self.error())).boxed()
        } else {
            futures::future::pending().boxed()
        }
    }
}

impl BrokenIdentity {
    fn error(&self) -> IdentityError {
        IdentityError::Unavailable {
            message: "auth2 is away".to_owned(),
            retry_after: Duration::from_secs(10),
        }
    }
}

#[derive(Debug)]
struct ClosedSiteStore;

impl SiteStore for ClosedSiteStore {
    fn inactive_sites(&self) -> BoxFuture<'_, Result<BTreeSet<Site>, StoreError>> {
        futures::future::ready(Err(StoreError::Closed)).boxed()
    }

    fn set_site_active(&self, _: Site, _: bool) -> BoxFuture<'_, Result<(), StoreError>> {
        futures::future::ready(Err(StoreError::Closed)).boxed()
    }
}

#[derive(Debug)]
struct PanickingRegistry;

impl ImageRegistry for PanickingRegistry {
    fn lookup<'a>(
        &'a self,
        _reference: &'a str,
    ) -> BoxFuture<'a, Result<RegistryImage, RegistryError>> {
        panic!("this test wants it so");
    }
}

fn dependency<'a>(report: &'a Value, name: &str) -> &'a Value {
    let dependencies = report["dependencies"].as_array().unwrap();
    let found = dependencies.iter().find(|one| one["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {report}"))
}

#[tokio::test]
async fn a_service_with_everything_is_ready() {
    let app = TestApp::new();
    let report = app.get("", "/readyz").await.expect(200).json();
    assert_eq!(
        report,
        json!({"ready": true, "dependencies": [
            {"name": "process", "ok": true, "required": true, "detail": ""},
            {"name": "store", "ok": true, "required": true, "detail": ""},
            {"name": "s3", "ok": true, "required": false, "detail": ""},
            {"name": "identity", "ok": true, "required": false, "detail": ""},
            {"name": "site:kbase", "ok": false, "required": false, "detail": "no pool is configured"},
            {"name": "site:local", "ok": true, "required": false, "detail": ""},
        ]})
    );
}

#[tokio::test]
async fn a_service_without_s3_and_users_is_ready_for_what_needs_neither() {
    let app = TestApp::with(|app| app.identity = Arc::new(BrokenIdentity { answers: true }));
    app.objects.set_down(true);
    let report = app.get("", "/readyz").await.expect(200).json();
    assert_eq!(report["ready"], true);
    assert_eq!(dependency(&report, "s3")["ok"], false);
    assert_eq!(dependency(&report, "identity")["detail"], "auth2 is away");
}

#[tokio::test]
async fn a_service_without_its_store_is_not_ready() {
    let app = TestApp::with(|app| app.site_store = Arc::new(ClosedSiteStore));
    let report = app.get("", "/readyz").await.expect(503).json();
    assert_eq!(report["ready"], false);
    assert_eq!(dependency(&report, "store")["ok"], false);
}

#[tokio::test]
async fn a_service_that_stops_is_not_ready_but_alive() {
    let app = TestApp::new();
    app.app.draining.cancel();
    let report = app.get("", "/readyz").await.expect(503).json();
    assert_eq!(dependency(&report, "process")["ok"], false);
    app.get("", "/livez").await.expect(200);
}

#[tokio::test]
async fn a_dependency_that_hangs_does_not_hold_up_the_report() {
    let app = TestApp::with(|app| app.identity = Arc::new(BrokenIdentity { answers: false }));
    let asking = app.get("", "/readyz");
    let answer = tokio::time::timeout(Duration::from_secs(20), asking).await;
    let report = answer.unwrap().expect(200).json();
    assert_eq!(
        dependency(&report, "identity")["detail"],
        "no answer within 2 s"
    );
}

#[tokio::test]
async fn asking_often_does_not_reach_the_dependencies() {
    let app = TestApp::new();
    for _ in 0..50 {
        app.get("", "/readyz").await.expect(200);
    }
    let heads = value(
        &app.get("", "/metrics").await.text,
        r#"cts_dependency_calls_total{dependency="s3",operation="head",outcome="refused"}"#,
    );
    // One every two seconds, however slow this machine is.
    assert!((1.0..10.0).contains(&heads), "{heads}");
}

/// The value of a sample, by its name and labels as they are written.
fn value(metrics: &str, sample: &str) -> f64 {
    let found = metrics
        .lines()
        .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    let found = found.unwrap_or_else(|| panic!("no {sample} in\n{metrics}"));
    found.parse().unwrap()
}

/// A job of one container that is complete, with an output and a log.
async fn run_a_job(app: &TestApp) -> String {
    app.register_image().await;
    let job = app.submit(1).await;
    app.objects.insert("cts/io/out/x", "x", Some(OUTPUT_CRC));
    app.objects.insert(
        &format!("cts/logs/{job}/container-0-stdout.txt"),
        "a line",
        None,
    );
    let time = "2031-02-03T05:00:00Z";
    for (state, body) in [
        ("job_submitting", json!({"time": time})),
        ("job_submitted", json!({"time": time})),
        ("upload_submitting", json!({"time": time, "exit_code": 0})),
        ("upload_submitted", json!({"time": time})),
        (
            "complete",
            json!({"time": time, "outputs": [{"file": "cts/io/out/x", "crc64nvme": OUTPUT_CRC}]}),
        ),
    ] {
        app.update(&job, 0, state, body).await.expect(204);
    }
    app.finish_jobs().await;
    assert_eq!(app.state(&job).await, "complete");
    job
}

#[tokio::test]
async fn requests_jobs_and_calls_are_counted() {
    let app = TestApp::new();
    run_a_job(&app).await;
    app.get("", "/jobs/a").await.expect(401);
    app.get("", "/jobs/b").await.expect(401);
    app.get("", "/nowhere/1").await.expect(404);
    app.get("", "/nowhere/2").await.expect(404);
    app.call("", "BREW", "/whoami", None).await.expect(405);
    let answer = app.get("", "/metrics").await.expect(200);
    assert_eq!(
        answer.headers[header::CONTENT_TYPE],
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    let metrics = answer.text;
    for (sample, expected) in [
        (
            r#"cts_http_requests_total{method="GET",route="/jobs/{job_id}",status="401"}"#,
            2.0,
        ),
        (
            r#"cts_http_requests_total{method="GET",route="none",status="404"}"#,
            2.0,
        ),
        (
            r#"cts_http_requests_total{method="other",route="/whoami",status="405"}"#,
            1.0,
        ),
        (
            r#"cts_http_requests_total{method="POST",route="/jobs",status="200"}"#,
            1.0,
        ),
        (
            r#"cts_http_request_duration_seconds_count{method="POST",route="/jobs"}"#,
            1.0,
        ),
        // This one.
        ("cts_http_requests_in_flight", 1.0),
        (r#"cts_job_transitions_total{state="created"}"#, 1.0),
        (r#"cts_job_transitions_total{state="complete"}"#, 1.0),
        (
            r#"cts_dependency_calls_total{dependency="registry",operation="lookup",outcome="ok"}"#,
            1.0,
        ),
        (r#"cts_jobs_waiting{for="site"}"#, 0.0),
        (r#"cts_jobs_waiting{for="end"}"#, 0.0),
        // Nothing sends here.
        (
            "cts_outbox_unsent_transitions",
            sum(&metrics, "cts_job_transitions_total{"),
        ),
    ] {
        assert!(
            (value(&metrics, sample) - expected).abs() < 0.5,
            "{sample}\n{metrics}"
        );
    }
    assert!(value(&metrics, "cts_outbox_oldest_unsent_seconds") > 0.0);
    assert!(value(&metrics, "process_resident_memory_bytes") > 1e6);
    assert!(value(&metrics, "process_start_time_seconds") > 1.7e9);
    assert!(!metrics.contains("nowhere"), "{metrics}");
    assert!(metrics.ends_with("# EOF\n"));
}

fn sum(metrics: &str, prefix: &str) -> f64 {
    let values = metrics
        .lines()
        .filter(|line| line.starts_with(prefix))
        .filter_map(|line| line.rsplit(' ').next());
    values.map(|value| value.parse::<f64>().unwrap()).sum()
}

#[tokio::test]
async fn every_metric_has_its_row_in_the_documentation() {
    let app = TestApp::new();
    run_a_job(&app).await;
    let metrics = app.get("", "/metrics").await.text;
    let exported: BTreeSet<(String, String)> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, kind)| {
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            (format!("{name}{suffix}"), kind.to_owned())
        })
        .collect();
    let page = include_str!("../../../docs/operations.md");
    let documented: BTreeSet<(String, String)> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| line.split_once("` | "))
        .filter(|(name, _)| name.starts_with("cts_") || name.starts_with("process_"))
        .map(|(name, rest)| {
            let kind = rest.split(" |").next().unwrap();
            (name.to_owned(), kind.to_owned())
        })
        .collect();
    assert_eq!(exported, documented);
}

fn unzip(bytes: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(bytes)
        .read_to_string(&mut text)
        .unwrap();
    text
}

const GZIP: (&str, &str) = ("accept-encoding", "gzip");

#[tokio::test]
async fn large_bodies_are_compressed_for_clients_that_can_read_it() {
    let app = TestApp::new();
    let job = format!("/jobs/{}", run_a_job(&app).await);
    let plain = app.get("alice", &job).await.expect(200);
    assert!(plain.text.len() >= 500, "{}", plain.text);
    assert!(plain.headers.get(header::CONTENT_ENCODING).is_none());
    let token = ("authorization", "Bearer alice-token");
    let zipped = get_with(&app, &job, &[token, GZIP]).await.expect(200);
    assert_eq!(zipped.headers[header::CONTENT_ENCODING], "gzip");
    assert_eq!(unzip(&zipped.bytes), plain.text);
    let unwanted = get_with(&app, &job, &[token, ("accept-encoding", "identity")]).await;
    assert_eq!(unwanted.text, plain.text);
    let small = get_with(&app, "/", &[GZIP]).await.expect(200);
    assert!(small.text.len() < 500);
    assert!(small.headers.get(header::CONTENT_ENCODING).is_none());
}

#[tokio::test]
async fn streams_are_compressed_whatever_their_length_but_events_are_not() {
    let app = TestApp::new();
    let job = run_a_job(&app).await;
    let headers = [GZIP];
    let log = format!("/jobs/{job}/log/0/stdout");
    let answer = app.open("alice", &log, &headers).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()[header::CONTENT_ENCODING], "gzip");
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(unzip(&body), "a line");
    let events = app.open("alice", "/events", &headers).await;
    assert_eq!(events.status(), 200);
    assert!(events.headers().get(header::CONTENT_ENCODING).is_none());
}

fn cors_headers(headers: &HeaderMap) -> Vec<(&str, &str)> {
    headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("access-control-"))
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect()
}

#[tokio::test]
async fn no_other_origin_is_let_in_by_default() {
    let app = TestApp::new();
    let answer = get_with(&app, "/", &[("origin", ORIGIN)]).await.expect(200);
    assert_eq!(cors_headers(&answer.headers), []);
    let preflight = Request::options("/jobs")
        .header(header::ORIGIN, ORIGIN)
        .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST")
        .body(Body::empty())
        .unwrap();
    app.send(preflight).await.expect(405);
}

#[tokio::test]
async fn configured_origins_are_let_in_with_credentials_on_errors_too() {
    let app = TestApp::with(|app| {
        app.config.cors_origins = vec![
            "https://other.example.org".parse().unwrap(),
            ORIGIN.parse().unwrap(),
        ];
    });
    let allowed = [
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-origin", ORIGIN),
    ];
    let token = ("authorization", "Bearer wrong");
    for (path, headers, status) in [
        ("/", vec![("origin", ORIGIN)], 200),
        ("/whoami", vec![("origin", ORIGIN)], 401),
        ("/whoami", vec![("origin", ORIGIN), token], 401),
        ("/nowhere", vec![("origin", ORIGIN)], 404),
    ] {
        let answer = get_with(&app, path, &headers).await.expect(status);
        let mut found = cors_headers(&answer.headers);
        found.sort_unstable();
        assert_eq!(found, allowed, "{path}");
    }
    let answer = get_with(&app, "/", &[("origin", "https://evil.example.org")]).await;
    assert!(
        answer
            .headers
            .get(header::ACCESS_CONTROL_ALLOW_ORIGIN)
            .is_none()
    );
    for origin in ["", ORIGIN] {
        let no_preflight = Request::options("/jobs").header(header::ORIGIN, origin);
        app.send(no_preflight.body(Body::empty()).unwrap())
            .await
            .expect(405);
    }
    // A preflight carries no token.
    let preflight = Request::options("/jobs/x/cancel")
        .header(header::ORIGIN, ORIGIN)
        .header(header::ACCESS_CONTROL_REQUEST_METHOD, "PUT")
        .header(
            header::ACCESS_CONTROL_REQUEST_HEADERS,
            "authorization,x-own",
        )
        .body(Body::empty())
        .unwrap();
    let answer = app.send(preflight).await.expect(200);
    let found = cors_headers(&answer.headers);
    for header in [
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-origin", ORIGIN),
        ("access-control-allow-methods", "PUT"),
        ("access-control-max-age", "600"),
        ("access-control-allow-headers", "authorization,x-own"),
    ] {
        assert!(found.contains(&header), "{header:?} not in {found:?}");
    }
}

#[tokio::test]
async fn answers_carry_the_security_headers() {
    let app = TestApp::new();
    for (user, path) in [
        ("", "/"),
        ("", "/nowhere"),
        ("", "/whoami"),
        ("alice", "/whoami"),
        ("wrong", "/whoami"),
    ] {
        let headers = app.get(user, path).await.headers;
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
        ] {
            assert_eq!(headers[name], value, "{user} {path}");
        }
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        let cache = headers.get(header::CACHE_CONTROL);
        assert_eq!(
            cache.is_some_and(|value| value == "no-store"),
            !user.is_empty(),
            "{user} {path}"
        );
    }
}

#[tokio::test]
async fn a_panic_is_an_internal_error_that_only_administrators_see() {
    let app = TestApp::with(|app| app.registry = Arc::new(PanickingRegistry));
    let path = "/admin/images/reg.example.org/kbase/sh:1";
    let answer = app
        .call("admin", "POST", path, None)
        .await
        .expect_error(500, Value::Null)
        .json();
    assert!(answer["error"]["request_id"].is_string());
    assert_eq!(
        answer["error"]["message"],
        "a handler panicked: this test wants it so"
    );
    let metrics = app.get("", "/metrics").await.text;
    let sample =
        r#"cts_http_requests_total{method="POST",route="/admin/images/{*rest}",status="500"}"#;
    assert!((value(&metrics, sample) - 1.0).abs() < 0.5);
    app.get("alice", "/whoami").await.expect(200);
}

#[tokio::test]
async fn a_request_has_one_log_line_with_its_context() {
    let lines = LogLines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::registry()
        .with(cts_service::telemetry::json_lines(move || writer.clone()))
        .with(LevelFilter::INFO);
    let _logging = log_to(subscriber);
    let app = TestApp::new();
    let mut with_headers = request("alice", "GET", "/jobs/xyz?secret=1", None);
    for (name, value) in [
        ("x-real-ip", "192.0.2.7"),
        ("user-agent", "a browser"),
        ("x-request-id", "mine"),
    ] {
        with_headers
            .headers_mut()
            .insert(name, value.parse().unwrap());
    }
    app.get("", "/livez").await.expect(200);
    let answer = app.send(with_headers).await.expect(404);
    let logged = lines.text();
    let requests: Vec<Value> = logged
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &Value| line["message"] == "request")
        .collect();
    let [line] = requests.as_slice() else {
        panic!("not one line: {logged}");
    };
    assert_eq!(line["http.status"], 404);
    let context = &line["span"];
    assert_eq!(context["request_id"], answer.json()["error"]["request_id"]);
    assert_eq!(context["user"], "alice");
    assert_eq!(context["http.method"], "GET");
    assert_eq!(context["http.path"], "/jobs/xyz");
    assert_eq!(context["x_real_ip"], "192.0.2.7");
    assert_eq!(context["user_agent"], "a browser");
    // What is not known is left out.
    for absent in ["ip", "x_forwarded_for"] {
        assert!(context.get(absent).is_none(), "{absent} in {context}");
    }
    assert!(!logged.contains("alice-token"), "{logged}");
    assert!(!logged.contains("mine"), "{logged}");
}
