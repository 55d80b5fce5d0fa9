//! The server that stages reference data for the site `kbase`, as a double.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use wiremock::matchers::{any, header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use cts_service::background::refdata_stager::stage_waiting_refdata;
use cts_service::metrics::Metrics;
use cts_service::refdata_stager::{
    RefdataStager, RefdataStagers, ServerStager, ServerStagerSettings, StagedByExecutors,
    StagingError, StagingItem,
};
use cts_service::sites::{SiteStatus, Sites};
use cts_shared::site::Site;

use crate::pool_app::eventually;
use crate::test_app::TestApp;

const FILE: &str = "cts/refdata/db.tar.gz";

/// Long enough for one more call.
const RETRY_FOR: Duration = Duration::from_millis(1500);

fn stager(url: &str, retry_for: Duration) -> Arc<dyn RefdataStager> {
    let settings = ServerStagerSettings {
        retry_for,
        ..ServerStagerSettings::new(url.parse().unwrap(), "CANARY".to_owned().into())
    };
    assert!(!format!("{settings:?}").contains("CANARY"));
    Arc::new(ServerStager::new(settings, Metrics::new().dependency_calls()).unwrap())
}

/// A service of which the site `kbase` is staged for in that way.
fn app(stager: Arc<dyn RefdataStager>) -> TestApp {
    TestApp::with(|app| {
        let site = Arc::clone(app.sites.available(Site::Local).unwrap());
        app.sites = Sites::new([(Site::Kbase, SiteStatus::Available(site))]);
        app.refdata_stagers = RefdataStagers::new([(Site::Kbase, stager)]);
    })
}

async fn server_named(name: &str) -> MockServer {
    let server = MockServer::start().await;
    let root = json!({"service_name": name, "version": "1", "notes": "x"});
    Mock::given(method("GET"))
        .and(path("/r/"))
        .respond_with(ResponseTemplate::new(200).set_body_json(root))
        .mount(&server)
        .await;
    server
}

async fn server() -> MockServer {
    server_named("CDM Refdata Service").await
}

async fn answer_posts(server: &MockServer, answer: ResponseTemplate) {
    Mock::given(method("POST"))
        .respond_with(answer)
        .mount(server)
        .await;
}

fn url(server: &MockServer) -> String {
    format!("{}/r", server.uri())
}

async fn posts(server: &MockServer) -> Vec<String> {
    let requests = server.received_requests().await.unwrap();
    requests
        .iter()
        .filter(|one| one.method == "POST")
        .map(|one| one.url.path().to_owned())
        .collect()
}

async fn report(app: &TestApp, id: &str, state: &str) {
    let path = format!("/external_exec/refdata/{id}/kbase/update/{state}");
    app.call("refdata", "PUT", &path, None).await.expect(204);
}

#[tokio::test]
async fn the_server_is_asked_and_reports() {
    let server = server().await;
    Mock::given(method("POST"))
        .and(header("authorization", "Bearer CANARY"))
        .respond_with(ResponseTemplate::new(204))
        .mount(&server)
        .await;
    let app = app(stager(&url(&server), RETRY_FOR));
    let id = app.register_refdata(FILE).await;
    let wanted = format!("/r/refdata/{id}/kbase");
    eventually("the server is asked", async || {
        posts(&server).await == [wanted.clone()]
    })
    .await;
    for state in ["download_submitted", "complete"] {
        report(&app, &id, state).await;
        assert_eq!(app.refdata_status(&id).await["state"], state);
    }
    let requests = server.received_requests().await.unwrap();
    let token = requests[0].headers.get("authorization");
    assert!(token.is_none(), "whose token it is, is not known yet");
    let good = json!({"name": "refdata:kbase", "ok": true, "required": false, "detail": ""});
    // A check that takes long is not good, and asked again two seconds later.
    eventually("the server is ready", async || {
        let ready = app.get("", "/readyz").await.expect(200).json();
        let dependencies = ready["dependencies"].as_array().unwrap();
        dependencies.contains(&good)
    })
    .await;
}

#[tokio::test]
async fn a_refusal_is_told_in_the_servers_words() {
    let server = server().await;
    let answer = json!({"error": {
        "httpcode": 403, "appcode": 20000, "message": "User cts is not\na task service",
    }});
    answer_posts(&server, ResponseTemplate::new(403).set_body_json(answer)).await;
    let app = app(stager(&url(&server), RETRY_FOR));
    let id = app.register_refdata(FILE).await;
    let status = app.wait_for_refdata(&id, "error").await;
    let problem = status["admin_error"].as_str().unwrap();
    assert!(
        problem.contains("403 Forbidden: User cts is not a task service"),
        "{problem}"
    );
    assert!(!problem.contains("CANARY"), "{problem}");
    assert_eq!(posts(&server).await.len(), 1);
}

#[tokio::test]
async fn another_server_gets_no_token() {
    for name in ["CDM Task Service", ""] {
        let server = server_named(name).await;
        let app = app(stager(&url(&server), RETRY_FOR));
        let id = app.register_refdata(FILE).await;
        let status = app.wait_for_refdata(&id, "error").await;
        let problem = status["admin_error"].as_str().unwrap();
        assert!(
            problem.contains("ExternalExecution.refserver_url"),
            "{problem}"
        );
        assert_eq!(posts(&server).await, Vec::<String>::new());
        let requests = server.received_requests().await.unwrap();
        assert!(
            requests
                .iter()
                .all(|one| one.headers.get("authorization").is_none())
        );
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = server().await;
    let server = MockServer::start().await;
    Mock::given(any())
        .respond_with(ResponseTemplate::new(307).insert_header("location", url(&elsewhere)))
        .mount(&server)
        .await;
    let app = app(stager(&url(&server), RETRY_FOR));
    let id = app.register_refdata(FILE).await;
    let status = app.wait_for_refdata(&id, "error").await;
    assert!(
        status["admin_error"].as_str().unwrap().contains("307"),
        "{status}"
    );
    assert_eq!(elsewhere.received_requests().await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_server_that_is_away_is_asked_again_for_a_while() {
    // The last as a proxy's page for people.
    for page in ["", &"sorry ".repeat(20_000)] {
        let server = server().await;
        Mock::given(method("POST"))
            .respond_with(ResponseTemplate::new(503).set_body_string(page))
            .up_to_n_times(1)
            .mount(&server)
            .await;
        answer_posts(&server, ResponseTemplate::new(204)).await;
        let app = app(stager(&url(&server), Duration::from_secs(60)));
        let id = app.register_refdata(FILE).await;
        eventually("it is asked again", async || {
            posts(&server).await.len() == 2
        })
        .await;
        assert_eq!(app.refdata_status(&id).await["state"], "created");
    }
}

#[tokio::test]
async fn a_server_that_stays_away_is_a_failure_of_this_and_of_nothing_else() {
    // Nobody listens there.
    let app = app(stager("http://127.0.0.1:1/r", RETRY_FOR));
    let id = app.register_refdata(FILE).await;
    let status = app.wait_for_refdata(&id, "error").await;
    let problem = status["admin_error"].as_str().unwrap();
    assert!(
        problem.contains("does not answer GET http://127.0.0.1:1/r/"),
        "{problem}"
    );
    for next_step in ["ExternalExecution.refserver_url", "force=true"] {
        assert!(problem.contains(next_step), "{problem}");
    }
    let sites = app.get("", "/sites").await.expect(200).json();
    assert_eq!(sites["sites"][0]["available"], true);
    let ready = app.get("", "/readyz").await.expect(200).json();
    assert_eq!(ready["ready"], true);
    app.register_image().await;
    let mut job = app.job_input(1);
    job["cluster"] = json!("kbase");
    app.call("alice", "POST", "/jobs", Some(job))
        .await
        .expect(200);
}

/// The server takes the staging and says so; its answer is lost on the way. The existing server would stage it
/// twice at the same time if it were asked again.
#[tokio::test]
async fn what_was_heard_is_not_asked_for_again() {
    let server = server().await;
    // Heard at once, answered when the report is long there.
    let lost = ResponseTemplate::new(502).set_delay(Duration::from_secs(5));
    answer_posts(&server, lost).await;
    let app = app(stager(&url(&server), Duration::from_secs(60)));
    let id = app.register_refdata(FILE).await;
    eventually("it is asked", async || posts(&server).await.len() == 1).await;
    report(&app, &id, "download_submitted").await;
    // Nobody is at it any more when the test has its lease.
    eventually("the staging is the server's", async || {
        let lease = cts_service::lease_store::LeaseRequest {
            name: format!("stage reference data {id} at kbase"),
            holder: "the test".to_owned(),
            now: app.app.clock.now(),
            until: app.app.clock.now(),
        };
        let taken = app.app.leases.take_lease(lease).await.unwrap();
        taken == cts_service::lease_store::Lease::Fresh
    })
    .await;
    assert_eq!(posts(&server).await.len(), 1);
    let stagings = stage_waiting_refdata(&app.app, Duration::ZERO).await;
    assert!(stagings.unwrap().is_empty(), "it is the server's");
    let status = app.refdata_status(&id).await;
    assert_eq!(status["state"], "download_submitted", "{status}");
    report(&app, &id, "complete").await;
}

#[tokio::test]
async fn executors_that_stage_themselves_need_nothing_beforehand() {
    let app = app(Arc::new(StagedByExecutors::new(true)));
    let id = app.register_refdata(FILE).await;
    let status = app.wait_for_refdata(&id, "complete").await;
    assert_eq!(status["transition_times"].as_array().unwrap().len(), 3);
}

/// Executors would have nothing to check what they stage against.
#[tokio::test]
async fn executors_need_a_checksum() {
    let stager = StagedByExecutors::new(true);
    for crc64nvme in [None, Some("none".to_owned())] {
        let item = StagingItem {
            id: "a".parse().unwrap(),
            file: FILE.to_owned(),
            crc64nvme,
            unpack: true,
        };
        let Err(StagingError::Failed(problem)) = stager.stage(item).await else {
            panic!("it can be staged");
        };
        assert!(problem.contains("under another path"), "{problem}");
    }
}

#[tokio::test]
async fn where_nobody_stages_both_settings_are_named() {
    let app = app(Arc::new(StagedByExecutors::new(false)));
    let id = app.register_refdata(FILE).await;
    let status = app.wait_for_refdata(&id, "error").await;
    let problem = status["admin_error"].as_str().unwrap();
    for setting in ["refserver_url", "refdata_staged_by_executors"] {
        assert!(
            problem.contains(&format!("ExternalExecution.{setting}")),
            "{problem}"
        );
    }
}
