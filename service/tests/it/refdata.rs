//! Reference data over REST: registering, looking up, reporting, cleaning, recovering; images and jobs that need
//! it.

use std::time::Duration;

use serde_json::{Value, json};

use cts_service::background::cleaner::clean_old_refdata;
use cts_service::object_store::ObjectStore;
use cts_service::refdata_stager::RefdataStagers;
use cts_service::refdata_store::{Begun, Recorded, Refdata, RefdataEvent, RefdataStore, status_at};
use cts_service::sites::{SiteStatus, Sites};
use cts_shared::id::RefdataId;
use cts_shared::s3_path::S3Path;
use cts_shared::site::Site;
use cts_shared::state::refdata::RefdataState;
use cts_shared::wire::refdata::RefdataUpdate;

use crate::pool_app::eventually;
use crate::stager_double::Plan;
use crate::test_app::{Answer, CRC, OUTPUT_CRC, TestApp};

const FILE: &str = "cts/refdata/db.tar.gz";

async fn register(app: &TestApp, path: &str) -> Answer {
    let path = format!("/admin/refdata/{path}");
    app.call("admin", "POST", &path, None).await
}

async fn report(app: &TestApp, id: &str, state: &str, body: Option<Value>) -> Answer {
    let path = format!("/external_exec/refdata/{id}/local/update/{state}");
    app.call("refdata", "PUT", &path, body).await
}

async fn recover(app: &TestApp, id: &str, site: &str) -> Answer {
    let path = format!("/admin/refdata/{id}/{site}/recover");
    app.call("admin", "PUT", &path, None).await
}

async fn clean(app: &TestApp, id: &str, query: &str) -> Answer {
    let path = format!("/admin/refdata/{id}/local/clean{query}");
    app.call("admin", "DELETE", &path, None).await
}

/// Reference data whose staging failed.
async fn failed(app: &TestApp) -> String {
    app.stager.plan(Plan::Fail("the disk is full".to_owned()));
    let id = app.register_refdata(FILE).await;
    app.wait_for_refdata(&id, "error").await;
    id
}

#[tokio::test]
async fn what_is_registered_is_listed_and_found() {
    let app = TestApp::new();
    app.objects.insert(FILE, "x", Some(CRC));
    let answer = register(&app, &format!("%20{FILE}?unpack=yes&crc64nvme={CRC}")).await;
    let registered = answer.expect(200).json();
    let id = registered["id"].as_str().unwrap();
    assert_eq!(
        registered,
        json!({
            "id": id,
            "registered_by": "admin",
            "registered_on": "2031-02-03T04:05:06Z",
            "file": FILE,
            "crc64nvme": CRC,
            "unpack": true,
            "statuses": [{
                "cluster": "local",
                "state": "created",
                "transition_times": [{"state": "created", "time": "2031-02-03T04:05:06Z"}],
            }],
        })
    );
    app.wait_for_refdata(id, "download_submitted").await;
    let by_id = app.get("", &format!("/refdata/id/{id}")).await.expect(200);
    let found = by_id.json();
    assert_eq!(found["statuses"][0]["state"], "download_submitted");
    let list = json!({"data": [found]});
    assert_eq!(app.get("", "/refdata").await.expect(200).json(), list);
    for path in [FILE, "%20%1fcts/refdata/db.tar.gz%0a"] {
        let answer = app.get("", &format!("/refdata/path/{path}")).await;
        assert_eq!(answer.expect(200).json(), list, "{path}");
    }
    // No syntax check.
    for path in ["cts/refdata/db.tar", "/no//path", "12345"] {
        let answer = app.get("", &format!("/refdata/path/{path}")).await;
        assert_eq!(answer.expect(200).json(), json!({"data": []}), "{path}");
    }
    app.get("", "/refdata/path/1234")
        .await
        .expect_error(400, 30010);
    for unknown in ["x", "8d1b6d9e-0000-4000-8000-000000000000", "%C3%A9"] {
        let answer = app.get("", &format!("/refdata/id/{unknown}")).await;
        answer.expect_error(404, 40060);
        let answer = app.get("admin", &format!("/admin/refdata/{unknown}")).await;
        answer.expect_error(404, 40060);
    }
    app.get("", "/refdata/id/a.b")
        .await
        .expect_error(400, 30010);
}

#[tokio::test]
async fn lists_are_by_file() {
    let app = TestApp::new();
    for file in ["cts/b", "cts/a/b", "cts/a"] {
        app.register_refdata(file).await;
    }
    let list = app.get("", "/refdata").await.json();
    let files: Vec<&str> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["file"].as_str().unwrap())
        .collect();
    assert_eq!(files, ["cts/a", "cts/a/b", "cts/b"]);
}

/// Each request has all the faults of those below it, too.
#[tokio::test]
async fn what_cannot_be_registered_in_the_contracts_order() {
    let app = TestApp::new();
    app.objects.insert("cts/no-checksum.gz", "x", None);
    app.objects.insert("cts/a.gz", "x", Some(CRC));
    app.objects.deny("cts/denied.gz");
    register(&app, "a/b?crc64nvme=short")
        .await
        .expect_error(400, 30010);
    register(&app, "cts/db.gz?unpack=perhaps")
        .await
        .expect_error(400, 30010);
    for path in [
        "cts.gz",
        "/cts/db",
        "cts//db",
        "CTS/db",
        "cts/../db",
        "cts/%27",
    ] {
        let answer = register(&app, &format!("{path}?unpack=true")).await;
        answer.expect_error(400, 30020);
    }
    for name in ["db", "db.GZ", "db.tar.xz", "db.gz.txt"] {
        let answer = register(&app, &format!("cts/{name}?unpack=true")).await;
        let message = answer.expect_error(400, 30001).message();
        assert!(message.contains(".tar.gz"), "{message}");
    }
    let other = format!("crc64nvme={OUTPUT_CRC}");
    register(&app, &format!("cts/none.gz?unpack=true&{other}"))
        .await
        .expect_error(404, 40010);
    register(&app, "none/none").await.expect_error(404, 40010);
    register(&app, &format!("cts/denied.gz?{other}"))
        .await
        .expect_error(403, 20010);
    register(&app, &format!("cts/no-checksum.gz?{other}"))
        .await
        .expect_error(400, 30001);
    app.call("admin", "DELETE", "/admin/sites/local/active", None)
        .await
        .expect(204);
    register(&app, &format!("cts/a.gz?{other}"))
        .await
        .expect_error(400, 30030);
    let nowhere = register(&app, "cts/a.gz")
        .await
        .expect_error(500, json!(null));
    assert!(
        nowhere.message().contains("GET /sites"),
        "{}",
        nowhere.message()
    );
    assert_eq!(app.get("", "/refdata").await.json(), json!({"data": []}));
    app.call("admin", "PUT", "/admin/sites/local/active", None)
        .await
        .expect(204);
    for ending in ["gz", "tgz", "tar.gz", "tar", "zst", "tar.zst", "zip"] {
        let file = format!("cts/b.{ending}");
        app.objects.insert(&file, "x", Some(CRC));
        register(&app, &format!("{file}?unpack=true"))
            .await
            .expect(200);
    }
    let again = register(&app, "cts/b.gz").await.expect_error(400, 50100);
    let message = again.message();
    assert!(message.contains("GET /refdata/path/cts/b.gz"), "{message}");
    eventually("all are staged", async || app.stager.asked().len() == 7).await;
}

#[tokio::test]
async fn a_file_is_registered_once_however_many_ask() {
    let app = TestApp::new();
    app.objects.insert(FILE, "x", Some(CRC));
    let requests = (0..8).map(|_| register(&app, FILE));
    let answers = futures::future::join_all(requests).await;
    let count = |status: u16| {
        answers
            .iter()
            .filter(|one| one.status.as_u16() == status)
            .count()
    };
    assert_eq!((count(200), count(400)), (1, 7));
    assert_eq!(
        app.get("", "/refdata").await.json()["data"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn sites_without_a_stager_have_no_reference_data() {
    let app = TestApp::with(|app| app.refdata_stagers = RefdataStagers::default());
    app.objects.insert(FILE, "x", Some(CRC));
    register(&app, FILE).await.expect_error(500, json!(null));
}

/// From each state, a report of each.
#[tokio::test]
async fn reports_follow_the_table_and_may_be_repeated() {
    let way = |state| match state {
        "created" => &[][..],
        "download_submitted" => &["download_submitted"],
        "complete" => &["download_submitted", "complete"],
        _ => &["error"],
    };
    let body = json!({"admin_error": "broken", "traceback": "line 1"});
    // Nobody but the test reports.
    let app = TestApp::with_config(|config| config.start_jobs = false);
    let states = ["created", "download_submitted", "complete", "error"];
    for (from, current) in states.into_iter().enumerate() {
        for (to, next) in states.into_iter().enumerate() {
            let id = app.register_refdata(&format!("cts/{current}-{next}")).await;
            for state in way(current) {
                report(&app, &id, state, Some(body.clone()))
                    .await
                    .expect(204);
            }
            let before = app.refdata_status(&id).await;
            assert_eq!(before["state"], current);
            let answer = report(&app, &id, next, Some(body.clone())).await;
            let is_legal = from == to || next == "error" || to == from + 1 && current != "complete";
            let after = app.refdata_status(&id).await;
            if is_legal {
                answer.expect(204);
                assert_eq!(after["state"], next);
            } else {
                let message = answer.expect_error(404, 40060).message();
                assert!(
                    message.contains(&format!("in state {current}")),
                    "{message}"
                );
            }
            if !is_legal || from == to {
                assert_eq!(after, before, "{current} to {next}");
            }
        }
    }
}

#[tokio::test]
async fn a_failure_is_told_to_administrators_only() {
    let app = TestApp::with_config(|config| config.start_jobs = false);
    let id = app.register_refdata(FILE).await;
    for body in [
        None,
        Some(json!({})),
        Some(json!({"admin_error": " \n"})),
        Some(Value::Null),
    ] {
        report(&app, &id, "error", body)
            .await
            .expect_error(400, 30001);
    }
    report(&app, &id, "error", Some(json!({"admin_error": 5})))
        .await
        .expect_error(400, 30010);
    let body = json!({"admin_error": "the disk is full", "traceback": "line 1", "more": 1});
    report(&app, &id, "error", Some(body)).await.expect(204);
    let transitions = json!([
        {"state": "created", "time": app.refdata_status(&id).await["transition_times"][0]["time"]},
        {"state": "error", "time": app.refdata_status(&id).await["transition_times"][1]["time"]},
    ]);
    let everyone = json!({
        "cluster": "local", "state": "error", "transition_times": transitions,
        "error": "An unexpected error occurred",
    });
    let seen = app.get("", &format!("/refdata/id/{id}")).await.json();
    assert_eq!(seen["statuses"], json!([everyone]));
    let mut admins = everyone;
    admins["cleaned"] = json!(false);
    admins["admin_error"] = json!("the disk is full");
    admins["traceback"] = json!("line 1");
    assert_eq!(app.refdata_status(&id).await, admins);
}

#[tokio::test]
async fn reports_of_what_is_not_there() {
    let app = TestApp::with_config(|config| config.start_jobs = false);
    let id = app.register_refdata(FILE).await;
    report(&app, "none", "error", None)
        .await
        .expect_error(404, 40060);
    let put = async |path: &str| {
        let path = format!("/external_exec/refdata/{path}");
        app.call("refdata", "PUT", &path, None).await
    };
    let elsewhere = put(&format!("{id}/kbase/update/complete")).await;
    let message = elsewhere.expect_error(404, 40060).message();
    assert!(message.contains("kbase/recover"), "{message}");
    put(&format!("{id}/mars/update/complete"))
        .await
        .expect_error(400, 30010);
    put(&format!("{id}/local/update/canceled"))
        .await
        .expect_error(400, 30010);
    // Who stages may go on at a site that takes no new jobs.
    app.call("admin", "DELETE", "/admin/sites/local/active", None)
        .await
        .expect(204);
    report(&app, &id, "download_submitted", None)
        .await
        .expect(204);
}

#[tokio::test]
async fn callbacks_are_nobodys() {
    let app = TestApp::new();
    let id = app.register_refdata(FILE).await;
    let call = async |path: &str| {
        app.get("", &format!("/callback/refdata_download/{path}"))
            .await
    };
    call("none/local").await.expect_error(404, 40060);
    call(&format!("{id}/kbase")).await.expect_error(400, 60020);
    call(&format!("{id}/mars")).await.expect_error(400, 30010);
    call(&format!("{id}/local"))
        .await
        .expect_error(400, 100_000);
    app.call("admin", "DELETE", "/admin/sites/local/active", None)
        .await
        .expect(204);
    call(&format!("{id}/local")).await.expect_error(400, 60010);
}

#[tokio::test]
async fn what_has_ended_is_cleaned() {
    let app = TestApp::new();
    let id = app.register_refdata(FILE).await;
    app.wait_for_refdata(&id, "download_submitted").await;
    clean(&app, "none", "").await.expect_error(404, 40060);
    for query in ["", "?force=true"] {
        clean(&app, &id, query).await.expect(204);
        let status = app.refdata_status(&id).await;
        assert_eq!(status["state"], "download_submitted", "{status}");
        assert_eq!(status["cleaned"], false, "it has not ended: {status}");
    }
    let path = format!("/admin/refdata/{id}/kbase/clean?force=true");
    let answer = app.call("admin", "DELETE", &path, None).await;
    let message = answer.expect_error(400, 30400).message();
    assert!(message.contains("kbase/recover"), "{message}");
    app.stager.plan(Plan::Succeed);
    app.wait_for_refdata(&id, "complete").await;
    for query in ["?force=true", "", "?force=true"] {
        clean(&app, &id, query).await.expect(204);
        let status = app.refdata_status(&id).await;
        assert_eq!(status["state"], "complete", "it can be used: {status}");
        assert_eq!(status["cleaned"], true, "{status}");
    }
    let other = format!("/admin/refdata/{id}/local/clean?force=perhaps");
    let answer = app.call("admin", "DELETE", &other, None).await;
    answer.expect_error(400, 30010);
}

#[tokio::test]
async fn nothing_is_cleaned_at_a_site_that_cannot_be_used() {
    let app = TestApp::new();
    let id = failed(&app).await;
    let app = app.restart_with(|app| {
        let reason = "another service has it".to_owned();
        app.sites = Sites::new([(Site::Local, SiteStatus::Unavailable { reason })]);
    });
    clean(&app, &id, "").await.expect_error(400, 60020);
    assert_eq!(app.refdata_status(&id).await["cleaned"], false);
}

/// Data that is lost, though it was complete and even cleaned up after.
#[tokio::test]
async fn what_is_lost_is_recovered_by_force() {
    let app = TestApp::new();
    app.stager.plan(Plan::Succeed);
    let id = app.register_refdata(FILE).await;
    register_image(
        &app,
        &format!("refdata_id={id}&default_refdata_mount_point=/db"),
    )
    .await
    .expect(200);
    app.wait_for_refdata(&id, "complete").await;
    clean(&app, &id, "").await.expect(204);
    submit(&app, None).await.expect(200);
    let message = recover(&app, &id, "local").await;
    let message = message.expect_error(404, 40060).message();
    assert!(message.contains("force=true"), "{message}");

    let by_force = format!("/admin/refdata/{id}/local/recover?force=true");
    for (user, status, code) in [
        ("", 401, 10010),
        ("alice", 403, 20000),
        ("executor", 403, 20000),
        ("refdata", 403, 20000),
    ] {
        let answer = app.call(user, "PUT", &by_force, None).await;
        answer.expect_error(status, code);
    }
    assert_eq!(app.refdata_status(&id).await["state"], "complete");
    app.stager.plan(Plan::Wait);
    let answer = app.call("admin", "PUT", &by_force, None).await;
    answer.expect(204);
    app.wait_for_refdata(&id, "download_submitted").await;
    let message = submit(&app, None).await.expect_error(400, 30400).message();
    assert!(message.contains("still being staged"), "{message}");
    app.stager.plan(Plan::Succeed);
    let status = app.wait_for_refdata(&id, "complete").await;
    assert_eq!(
        status["cleaned"], false,
        "it begins as one that is new: {status}"
    );
    submit(&app, None).await.expect(200);
    assert_eq!(app.stager.asked().len(), 2);
}

#[tokio::test]
async fn what_failed_is_recovered_by_force_in_one_step() {
    let app = TestApp::new();
    let id = failed(&app).await;
    app.stager.plan(Plan::Succeed);
    let path = format!("/admin/refdata/{id}/local/recover?force=true");
    app.call("admin", "PUT", &path, None).await.expect(204);
    let status = app.wait_for_refdata(&id, "complete").await;
    assert_eq!(status["admin_error"], Value::Null, "{status}");
    // What cannot be staged again stays.
    app.objects.insert(FILE, "changed", Some(OUTPUT_CRC));
    let answer = app.call("admin", "PUT", &path, None).await;
    answer.expect_error(400, 30030);
    assert_eq!(app.refdata_status(&id).await["state"], "complete");
}

/// As an early version of the existing service may have registered it.
#[tokio::test]
async fn what_could_not_be_checked_is_not_recovered() {
    let app = TestApp::new();
    app.objects.insert(FILE, "x", Some(CRC));
    let refdata = Refdata {
        id: "old".parse().unwrap(),
        registered_by: "admin".to_owned(),
        registered_on: app.app.clock.now(),
        file: FILE.to_owned(),
        crc64nvme: None,
        unpack: false,
        statuses: Vec::new(),
    };
    assert!(app.store.insert_refdata(refdata).await.unwrap());
    let message = recover(&app, "old", "local").await;
    let message = message.expect_error(400, 30001).message();
    assert!(message.contains("under another path"), "{message}");
    assert_eq!(app.stager.asked(), []);
}

/// The existing server fails over a site that it does not know.
#[tokio::test]
async fn a_staging_server_is_not_told_of_the_site_local() {
    let app = TestApp::with_every_site();
    let id = app.register_refdata(FILE).await;
    app.wait_for_refdata(&id, "download_submitted").await;
    let kbase = app
        .store
        .begin_refdata(id.parse().unwrap(), Site::Kbase, app.app.clock.now());
    kbase.await.unwrap();
    let by_id = format!("/refdata/id/{id}");
    let by_path = format!("/refdata/path/{FILE}");
    let sites = async |user: &str| {
        let one = app.get(user, &by_id).await.expect(200).json();
        let list = app.get(user, &by_path).await.expect(200).json();
        assert_eq!(list["data"], json!([one]));
        let statuses = one["statuses"].as_array().unwrap();
        let sites = statuses.iter().map(|status| status["cluster"].clone());
        sites.collect::<Vec<_>>()
    };
    for user in ["", "alice", "admin", "executor"] {
        assert_eq!(sites(user).await, ["local", "kbase"], "{user}");
    }
    assert_eq!(sites("refdata").await, ["kbase"]);
    // `prune` goes by it, at every site.
    let list = app.get("refdata", "/refdata").await.expect(200).json();
    assert_eq!(list["data"][0]["statuses"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn the_cleaner_takes_what_is_old() {
    let app = TestApp::new();
    let id = failed(&app).await;
    app.clock
        .advance(app.app.config.cleaning.age - Duration::from_secs(60));
    assert_eq!(clean_old_refdata(&app.app).await.unwrap(), 0);
    app.clock.advance(Duration::from_secs(120));
    assert_eq!(clean_old_refdata(&app.app).await.unwrap(), 1);
    assert_eq!(app.refdata_status(&id).await["cleaned"], true);
    assert_eq!(clean_old_refdata(&app.app).await.unwrap(), 0);
}

/// The existing service's, which may have it back.
#[tokio::test]
async fn the_cleaner_leaves_sites_alone_that_this_service_has_not() {
    let app = TestApp::new();
    let id = app.register_refdata(FILE).await;
    let id: RefdataId = id.parse().unwrap();
    let nersc = Site::PerlmutterJaws;
    let now = app.app.clock.now();
    let begun = app.store.begin_refdata(id.clone(), nersc, now).await;
    assert_eq!(begun.unwrap(), Begun::Yes);
    let failure = RefdataEvent {
        state: RefdataState::Error,
        time: now,
        only_from: None,
        only_begun: None,
        report: RefdataUpdate::default(),
    };
    let failed = app.store.record_refdata(id.clone(), nersc, failure).await;
    assert_eq!(failed.unwrap(), Recorded::Entered);
    app.clock
        .advance(app.app.config.cleaning.age + Duration::from_secs(60));
    assert_eq!(clean_old_refdata(&app.app).await.unwrap(), 0);
    let refdata = app.store.refdata(id).await.unwrap().unwrap();
    assert!(!status_at(&refdata, nersc).unwrap().cleaned);
}

/// Each request has all the faults of those below it, too.
#[tokio::test]
async fn what_cannot_be_recovered_in_the_contracts_order() {
    let app = TestApp::new();
    let id = failed(&app).await;
    recover(&app, "none", "mars").await.expect_error(400, 30010);
    recover(&app, "none", "kbase")
        .await
        .expect_error(404, 40060);
    let denied = app.register_refdata("cts/denied.gz").await;
    app.objects.deny("cts/denied.gz");
    recover(&app, &denied, "kbase")
        .await
        .expect_error(403, 20010);
    let file = S3Path::parse(FILE).unwrap();
    app.objects.delete(&file).await.unwrap();
    recover(&app, &id, "kbase").await.expect_error(404, 40010);
    app.objects.insert(FILE, "changed", Some(OUTPUT_CRC));
    recover(&app, &id, "kbase").await.expect_error(400, 30030);
    app.objects.insert(FILE, "changed", None);
    recover(&app, &id, "kbase").await.expect_error(400, 30001);
    app.objects.insert(FILE, "x", Some(CRC));
    recover(&app, &id, "kbase").await.expect_error(400, 60020);
    app.call("admin", "DELETE", "/admin/sites/local/active", None)
        .await
        .expect(204);
    recover(&app, &id, "local").await.expect_error(400, 60010);
    app.call("admin", "PUT", "/admin/sites/local/active", None)
        .await
        .expect(204);
    let message = recover(&app, &id, "local")
        .await
        .expect_error(404, 40060)
        .message();
    assert!(
        message.contains("state error") && message.contains("cleaned"),
        "{message}"
    );
}

#[tokio::test]
async fn a_cleaned_failure_begins_anew() {
    let app = TestApp::new();
    let id = failed(&app).await;
    clean(&app, &id, "").await.expect(204);
    app.stager.plan(Plan::Succeed);
    recover(&app, &id, "local").await.expect(204);
    let status = app.wait_for_refdata(&id, "complete").await;
    let states: Vec<&str> = status["transition_times"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["created", "download_submitted", "complete"]);
    assert_eq!(status["cleaned"], false);
    assert_eq!(
        (&status["error"], &status["admin_error"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(app.stager.asked().len(), 2);
    recover(&app, &id, "local").await.expect_error(404, 40060);
    clean(&app, &id, "").await.expect(204);
    recover(&app, &id, "local").await.expect_error(404, 40060);
}

/// The image of the tests, which needs reference data.
async fn register_image(app: &TestApp, query: &str) -> Answer {
    let path = format!("/admin/images/reg.example.org/kbase/sh:1?{query}");
    app.call("admin", "POST", &path, None).await
}

async fn submit(app: &TestApp, mount_point: Option<&str>) -> Answer {
    let mut job = app.job_input(1);
    if let Some(mount_point) = mount_point {
        job["params"]["refdata_mount_point"] = json!(mount_point);
    }
    app.call("alice", "POST", "/jobs", Some(job)).await
}

#[tokio::test]
async fn jobs_wait_for_the_reference_data_of_their_image() {
    let app = TestApp::new();
    let id = app.register_refdata(FILE).await;
    register_image(&app, "refdata_id=none")
        .await
        .expect_error(404, 40060);
    register_image(&app, "refdata_id=a.b")
        .await
        .expect_error(400, 30010);
    register_image(&app, "default_refdata_mount_point=/db")
        .await
        .expect_error(400, 30001);
    let with_mount_point = format!("refdata_id={id}&default_refdata_mount_point=/db");
    let image = register_image(&app, &with_mount_point).await;
    let image = image.expect(200).json();
    assert_eq!(image["refdata_id"], json!(id));
    assert_eq!(image["default_refdata_mount_point"], "/db");

    app.wait_for_refdata(&id, "download_submitted").await;
    let message = submit(&app, None).await.expect_error(400, 30400).message();
    assert!(message.contains("still being staged"), "{message}");
    app.stager.plan(Plan::Succeed);
    app.wait_for_refdata(&id, "complete").await;
    for (given, mounted) in [(None, Value::Null), (Some("/other"), json!("/other"))] {
        let answer = submit(&app, given).await.expect(200).json();
        let job = app
            .get(
                "executor",
                &format!("/admin/jobs/{}", answer["job_id"].as_str().unwrap()),
            )
            .await
            .expect(200)
            .json();
        assert_eq!(job["image"]["refdata_id"], json!(id));
        assert_eq!(job["image"]["default_refdata_mount_point"], "/db");
        assert_eq!(job["job_input"]["params"]["refdata_mount_point"], mounted);
    }
    let taken = submit(&app, Some("/input_files")).await;
    taken.expect_error(400, 30001);
    // Even what is complete may turn out to be broken.
    report(&app, &id, "error", Some(json!({"admin_error": "lost"})))
        .await
        .expect(204);
    let message = submit(&app, None).await.expect_error(400, 30400).message();
    assert!(message.contains("could not be staged"), "{message}");
}

#[tokio::test]
async fn a_jobs_reference_data_is_checked_in_the_contracts_order() {
    let app = TestApp::with_every_site();
    let id = app.register_refdata(FILE).await;
    register_image(&app, &format!("refdata_id={id}"))
        .await
        .expect(200);
    let message = submit(&app, None).await.expect_error(400, 30001).message();
    assert!(message.contains("refdata_mount_point"), "{message}");
    let mut elsewhere = app.job_input(1);
    elsewhere["params"]["refdata_mount_point"] = json!("/db");
    elsewhere["cluster"] = json!(Site::Kbase);
    // Comes after.
    elsewhere["output_dir"] = json!("cts/logs/x");
    let answer = app
        .call("alice", "POST", "/jobs", Some(elsewhere.clone()))
        .await;
    let message = answer.expect_error(400, 30400).message();
    assert!(message.contains("not staged"), "{message}");
    elsewhere["cpus"] = json!(169);
    let answer = app.call("alice", "POST", "/jobs", Some(elsewhere)).await;
    answer.expect_error(400, 30001);
}

#[tokio::test]
async fn an_image_inherits_its_reference_data() {
    let app = TestApp::new();
    let id = app.register_refdata(FILE).await;
    register_image(
        &app,
        &format!("refdata_id={id}&default_refdata_mount_point=/db"),
    )
    .await
    .expect(200);
    let path = "/admin/images/reg.example.org/kbase/sh:2";
    let body = json!({"from_image": "reg.example.org/kbase/sh:1"});
    let image = app
        .call("admin", "POST", path, Some(body))
        .await
        .expect(200)
        .json();
    assert_eq!(image["refdata_id"], json!(id));
    assert_eq!(image["default_refdata_mount_point"], "/db");
}
