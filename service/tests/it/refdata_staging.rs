//! Stagings begun by whoever registers, and begun again after a service was killed: once, over all services.

use std::sync::Arc;
use std::time::Duration;

use cts_service::app::App;
use cts_service::background::refdata_stager::stage_waiting_refdata;
use cts_service::lease_store::{Lease, LeaseRequest, LeaseStore};
use cts_service::refdata_stager::{RefdataStager, RefdataStagers};
use cts_service::sites::{SiteStatus, Sites};
use cts_shared::site::Site;
use serde_json::{Value, json};

use crate::pool_app::eventually;
use crate::stager_double::{Plan, StagerDouble};
use crate::test_app::TestApp;

const FILE: &str = "cts/refdata/db.tar.gz";

/// A service whose stager another one is.
fn with_stager(stager: &Arc<StagerDouble>) -> TestApp {
    let stager = Arc::clone(stager) as Arc<dyn RefdataStager>;
    TestApp::with(|app| app.refdata_stagers = RefdataStagers::new([(Site::Local, stager)]))
}

/// What the stager's loop does in each round, and all that comes of it.
async fn sweep(app: &Arc<App>, age: Duration) {
    for staging in stage_waiting_refdata(app, age).await.unwrap() {
        staging.await.unwrap();
    }
}

#[tokio::test]
async fn a_staging_is_recorded_from_its_begin_to_its_end() {
    let app = TestApp::new();
    app.objects.insert(FILE, "x", Some(crate::test_app::CRC));
    let path = format!("/admin/refdata/{FILE}?unpack=1");
    let answer = app.call("admin", "POST", &path, None).await.expect(200);
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    app.wait_for_refdata(&id, "download_submitted").await;
    let [item] = app.stager.asked().try_into().unwrap();
    assert_eq!(item.id.as_str(), id);
    assert_eq!((&*item.file, item.unpack), (FILE, true));
    assert_eq!(item.crc64nvme.as_deref(), Some(crate::test_app::CRC));
    app.stager.plan(Plan::Fail("the disk is full".to_owned()));
    let status = app.wait_for_refdata(&id, "error").await;
    assert_eq!(status["admin_error"], "the disk is full");
    assert_eq!(status["error"], "An unexpected error occurred");
}

#[tokio::test]
async fn in_test_mode_nothing_is_staged() {
    let app = TestApp::with_config(|config| config.start_jobs = false);
    let id = app.register_refdata(FILE).await;
    sweep(&app.app, Duration::ZERO).await;
    assert_eq!(app.refdata_status(&id).await["state"], "created");
    assert_eq!(app.stager.asked(), []);
}

/// The service is killed between the registration and the staging.
#[tokio::test]
async fn what_nobody_has_begun_is_begun() {
    let app = TestApp::with_config(|config| config.start_jobs = false);
    let id = app.register_refdata(FILE).await;
    // The configuration of the next run starts jobs.
    let app = app.restart_with(|app| app.config.start_jobs = true);
    app.stager.plan(Plan::Succeed);
    sweep(&app.app, Duration::from_secs(3600)).await;
    assert_eq!(
        app.stager.asked(),
        [],
        "whoever registered it may be about to"
    );
    app.clock.advance(Duration::from_secs(7200));
    sweep(&app.app, Duration::from_secs(3600)).await;
    assert_eq!(app.refdata_status(&id).await["state"], "complete");
    sweep(&app.app, Duration::ZERO).await;
    assert_eq!(app.stager.asked().len(), 1);
}

/// The service is killed while it stages.
#[tokio::test]
async fn what_was_under_way_is_begun_again() {
    let app = TestApp::new();
    let id = app.register_refdata(FILE).await;
    app.wait_for_refdata(&id, "download_submitted").await;
    let app = app.restart();
    // As a service does that opens a file of its own.
    app.store.lapse_leases().await.unwrap();
    app.stager.plan(Plan::Succeed);
    sweep(&app.app, Duration::from_secs(3600)).await;
    let status = app.refdata_status(&id).await;
    assert_eq!(status["state"], "complete");
    assert_eq!(status["transition_times"].as_array().unwrap().len(), 3);
    assert_eq!(app.stager.asked().len(), 1);
}

/// Another service has the site: of its stagings nobody here knows how far they are.
#[tokio::test]
async fn a_site_that_is_anothers_is_left_alone() {
    let app = TestApp::new();
    let id = app.register_refdata(FILE).await;
    app.wait_for_refdata(&id, "download_submitted").await;
    let app = app.restart_with(|app| {
        let reason = "another service has it".to_owned();
        app.sites = Sites::new([(Site::Local, SiteStatus::Unavailable { reason })]);
    });
    app.store.lapse_leases().await.unwrap();
    app.stager.plan(Plan::Succeed);
    sweep(&app.app, Duration::ZERO).await;
    assert_eq!(app.stager.asked(), []);
    assert_eq!(app.refdata_status(&id).await["state"], "download_submitted");
}

/// The service stops while it stages.
#[tokio::test]
async fn a_stop_is_no_failure() {
    let app = TestApp::new();
    let id = app.register_refdata(FILE).await;
    app.wait_for_refdata(&id, "download_submitted").await;
    app.stager.plan(Plan::Stop);
    sweep(&app.app, Duration::ZERO).await;
    assert_eq!(app.refdata_status(&id).await["state"], "download_submitted");
    app.stager.plan(Plan::Succeed);
    eventually("the lease is given back", async || {
        sweep(&app.app, Duration::ZERO).await;
        app.refdata_status(&id).await["state"] == "complete"
    })
    .await;
}

/// Two services over one store, each of which tries again and again.
#[tokio::test(flavor = "multi_thread")]
async fn of_several_services_one_stages() {
    let app = TestApp::with_config(|config| config.start_jobs = false);
    let id = app.register_refdata(FILE).await;
    let app = app.restart_with(|app| app.config.start_jobs = true);
    let stager = Arc::clone(&app.stager);
    let other = app.beside(|other| {
        other.refdata_stagers = RefdataStagers::new([(Site::Local, stager as _)]);
    });
    let sweeps = |_| {
        [&app, &other].map(|service| {
            let service = Arc::clone(&service.app);
            tokio::spawn(async move { sweep(&service, Duration::ZERO).await })
        })
    };
    let mut begun: Vec<_> = (0..8).flat_map(sweeps).collect();
    app.wait_for_refdata(&id, "download_submitted").await;
    begun.extend((0..8).flat_map(sweeps));
    app.stager.plan(Plan::Succeed);
    for sweep in begun {
        sweep.await.unwrap();
    }
    assert_eq!(other.refdata_status(&id).await["state"], "complete");
    assert_eq!(app.stager.asked().len(), 1);
}

/// Another service has the lease, and dies.
#[tokio::test]
async fn what_a_dead_service_was_at_is_taken_over() {
    let app = TestApp::with_config(|config| config.start_jobs = false);
    let id = app.register_refdata(FILE).await;
    let app = app.restart_with(|app| app.config.start_jobs = true);
    app.stager.plan(Plan::Succeed);
    let now = app.app.clock.now();
    let lease = LeaseRequest {
        name: format!("stage reference data {id} at local"),
        holder: "the other".to_owned(),
        now,
        until: now.plus(Duration::from_secs(60)),
    };
    app.store.take_lease(lease).await.unwrap();
    sweep(&app.app, Duration::ZERO).await;
    assert_eq!(app.refdata_status(&id).await["state"], "created");
    app.clock.advance(Duration::from_secs(61));
    sweep(&app.app, Duration::ZERO).await;
    assert_eq!(app.refdata_status(&id).await["state"], "complete");
}

#[tokio::test]
async fn what_is_handed_over_is_reported_by_whoever_has_it() {
    let stager = Arc::new(StagerDouble::new(Plan::HandOver, true));
    let app = with_stager(&stager);
    let id = app.register_refdata(FILE).await;
    eventually("it was asked", async || stager.asked().len() == 1).await;
    assert_eq!(app.refdata_status(&id).await["state"], "created");
    let path = format!("/external_exec/refdata/{id}/local/update/download_submitted");
    app.call("refdata", "PUT", &path, None).await.expect(204);
    sweep(&app.app, Duration::ZERO).await;
    assert_eq!(stager.asked().len(), 1, "it is theirs");
}

/// The server has taken the staging and said so by the status; its answer was lost.
#[tokio::test]
async fn a_lost_answer_is_no_failure() {
    let stager = Arc::new(StagerDouble::new(Plan::Wait, true));
    let app = with_stager(&stager);
    let id = app.register_refdata(FILE).await;
    eventually("it was asked", async || stager.asked().len() == 1).await;
    let path = format!("/external_exec/refdata/{id}/local/update/download_submitted");
    app.call("refdata", "PUT", &path, None).await.expect(204);
    stager.plan(Plan::Fail("no answer".to_owned()));
    let lease = LeaseRequest {
        name: format!("stage reference data {id} at local"),
        holder: "the test".to_owned(),
        now: app.app.clock.now(),
        until: app.app.clock.now(),
    };
    eventually("the staging has ended", async || {
        let taken = app.store.take_lease(lease.clone()).await.unwrap();
        taken == Lease::Fresh
    })
    .await;
    let status = app.refdata_status(&id).await;
    assert_eq!(status["state"], "download_submitted");
    assert_eq!(status["admin_error"], Value::Null);
}

async fn give_up(app: &TestApp, id: &str) {
    let path = format!("/admin/refdata/{id}/local/recover?force=true");
    app.call("admin", "PUT", &path, None).await.expect(204);
}

/// Whoever staged it before it was given up goes on and fails.
#[tokio::test]
async fn the_end_of_what_was_given_up_is_not_that_of_the_new() {
    let app = TestApp::new();
    let id = app.register_refdata(FILE).await;
    app.wait_for_refdata(&id, "download_submitted").await;
    give_up(&app, &id).await;
    app.stager.plan(Plan::Fail("of the earlier".to_owned()));
    let lease = LeaseRequest {
        name: format!("stage reference data {id} at local"),
        holder: "the test".to_owned(),
        now: app.app.clock.now(),
        until: app.app.clock.now(),
    };
    eventually("the earlier one has ended", async || {
        app.store.take_lease(lease.clone()).await.unwrap() == Lease::Fresh
    })
    .await;
    let status = app.refdata_status(&id).await;
    assert_eq!(status["state"], "created", "{status}");
    app.stager.plan(Plan::Succeed);
    sweep(&app.app, Duration::ZERO).await;
    let status = app.refdata_status(&id).await;
    assert_eq!(status["state"], "complete", "{status}");
}

/// Whoever staged it before it was given up goes on and on.
#[tokio::test]
async fn what_is_given_up_does_not_hold_up_the_new() {
    let app = TestApp::new();
    let id = app.register_refdata(FILE).await;
    app.wait_for_refdata(&id, "download_submitted").await;
    give_up(&app, &id).await;
    sweep(&app.app, Duration::ZERO).await;
    assert_eq!(app.refdata_status(&id).await["state"], "created");
    assert_eq!(app.stager.asked().len(), 1);
    // The lease is renewed, and the status looked at.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(16)).await;
    tokio::time::resume();
    eventually("the new one is at it", async || {
        let stagings = stage_waiting_refdata(&app.app, Duration::ZERO).await;
        drop(stagings.unwrap());
        app.refdata_status(&id).await["state"] == "download_submitted"
    })
    .await;
    assert_eq!(app.stager.asked().len(), 2);
    app.stager.plan(Plan::Succeed);
    let status = app.wait_for_refdata(&id, "complete").await;
    assert_eq!(status["transition_times"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_refusal_is_a_failure() {
    let stager = Arc::new(StagerDouble::new(Plan::Fail("it says no".to_owned()), true));
    let app = with_stager(&stager);
    let id = app.register_refdata(FILE).await;
    let status = app.wait_for_refdata(&id, "error").await;
    assert_eq!(status["admin_error"], "it says no");
    assert_eq!(
        status["transition_times"].as_array().unwrap().len(),
        2,
        "{}",
        json!(status)
    );
}
