//! Every route by every role (contract service.md, sections 1.2 and 1.3). A route without a row fails.

use std::collections::BTreeSet;

use axum::http::{Method, header};
use axum::response::Response;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use cts_service::router;

use crate::test_app::{TestApp, job_input, request};

/// No token where one is needed.
const NONE: &str = "401 10010";
/// A role is missing, or the job is another's.
const NO: &str = "403 20000";

/// Not for jobs of this site.
const UNSUPPORTED: &str = "400 100000";
/// None is configured.
const NO_FILE: &str = "404 40000";

/// Who asks, in the order of the table's columns. The jobs are alice's.
const CALLERS: [&str; 6] = ["", "alice", "bob", "admin", "executor", "refdata"];

/// What everyone gets: status, and application code where there is one. That something is not there or
/// not the case (`404 40070`) means that the caller got through to it.
#[rustfmt::skip]
const TABLE: &[(&str, &str, [&str; 6])] = &[
    //                                                             nobody  alice  bob    admin  executor refdata
    ("GET",  "/",                                                  ["200", "200", "200", "200", "200", "200"]),
    ("GET",  "/whoami",                                            [NONE,  "200", "200", "200", "200", "200"]),
    ("GET",  "/livez",                                             ["200", "200", "200", "200", "200", "200"]),
    ("GET",  "/readyz",                                            ["200", "200", "200", "200", "200", "200"]),
    ("GET",  "/metrics",                                           ["200", "200", "200", "200", "200", "200"]),
    ("GET",  "/openapi.json",                                      ["200", "200", "200", "200", "200", "200"]),
    ("GET",  "/docs",                                              ["200", "200", "200", "200", "200", "200"]),
    ("GET",  "/docs/{file}",                                       ["200", "200", "200", "200", "200", "200"]),
    ("GET",  "/redoc",                                             ["307", "307", "307", "307", "307", "307"]),
    ("GET",  "/sites",                                             ["200", "200", "200", "200", "200", "200"]),
    ("GET",  "/events",                                            [NONE,  "200", "200", "200", "200", "200"]),
    ("GET",  "/events?all=true",                                   [NONE,  NO,    NO,    "200", NO,    NO]),
    ("GET",  "/images",                                            ["200", "200", "200", "200", "200", "200"]),
    ("GET",  "/images/{*rest}",                                    ["200", "200", "200", "200", "200", "200"]),
    ("POST", "/jobs",                                              [NONE,  "200", "200", "200", "200", "200"]),
    ("GET",  "/jobs/{job_id}",                                     [NONE,  "200", NO,    NO,    NO,    NO]),
    ("GET",  "/jobs/{job_id}/status",                              [NONE,  "200", NO,    NO,    NO,    NO]),
    ("GET",  "/jobs/{job_id}/exit_codes",                          [NONE,  "200", NO,    NO,    NO,    NO]),
    ("PUT",  "/jobs/{job_id}/cancel",                              [NONE,  "204", NO,    NO,    NO,    NO]),
    ("GET",  "/jobs/{job_id}/log/{container_num}/stdout",          [NONE,  "404 40070", NO, NO, NO,    NO]),
    ("GET",  "/jobs/{job_id}/log/{container_num}/stderr",          [NONE,  "404 40070", NO, NO, NO,    NO]),
    ("GET",  "/admin/jobs/{job_id}",                               [NONE,  NO,    NO,    "200", "200", NO]),
    ("GET",  "/admin/jobs/{job_id}/container",                     [NONE,  NO,    NO,    "200", NO,    NO]),
    ("GET",  "/jobs",                                              [NONE,  "200", "200", "200", "200", "200"]),
    ("GET",  "/admin/jobs",                                        [NONE,  NO,    NO,    "200", NO,    NO]),
    ("GET",  "/admin/jobs/{job_id}/exit_codes",                    [NONE,  NO,    NO,    "200", NO,    NO]),
    ("GET",  "/admin/jobs/{job_id}/container/{container_num}",     [NONE,  NO,    NO,    "200", NO,    NO]),
    ("GET",  "/admin/jobs/{job_id}/runner_status",                 [NONE,  NO,    NO,    "400 100000", NO, NO]),
    ("PUT",  "/admin/jobs/{job_id}/cancel",                        [NONE,  NO,    NO,    "204", NO,    NO]),
    ("PUT",  "/admin/jobs/{job_id}/meta",                          [NONE,  NO,    NO,    "204", NO,    NO]),
    ("PUT",  "/admin/jobs/{job_id}/notify?state=created",          [NONE,  NO,    NO,    "204", NO,    NO]),
    ("DELETE", "/admin/jobs/{job_id}/clean",                       [NONE,  NO,    NO,    "400 30300", NO, NO]),
    ("PUT",  "/admin/sites/{site}/active",                         [NONE,  NO,    NO,    "204", NO,    NO]),
    ("DELETE", "/admin/sites/{site}/active",                       [NONE,  NO,    NO,    "204", NO,    NO]),
    ("GET",  "/admin/clients/nersc",                               [NONE,  NO,    NO,    "400 60000", NO, NO]),
    ("POST", "/admin/unsent_notifications",                        [NONE,  NO,    NO,    "200", NO,    NO]),
    ("GET",  "/callback/download/{job_id}",                        [UNSUPPORTED; 6]),
    ("GET",  "/callback/job/{job_id}",                             [UNSUPPORTED; 6]),
    ("GET",  "/callback/upload/{job_id}",                          [UNSUPPORTED; 6]),
    ("GET",  "/callback/errlogs/{job_id}",                         [UNSUPPORTED; 6]),
    ("GET",  "/external_exec/files/condor/executable.sh",          [NO_FILE; 6]),
    ("GET",  "/external_exec/files/code_archive.tgz",              [NO_FILE; 6]),
    ("GET",  "/refdata",                                           ["200", "200", "200", "200", "200", "200"]),
    ("GET",  "/refdata/id/{refdata_id}",                           ["200", "200", "200", "200", "200", "200"]),
    ("GET",  "/refdata/path/{*rest}",                              ["200", "200", "200", "200", "200", "200"]),
    ("POST", "/admin/refdata/{*rest}",                             [NONE,  NO,    NO,    "200", NO,    NO]),
    ("GET",  "/admin/refdata/{*rest}",                             [NONE,  NO,    NO,    "200", NO,    NO]),
    // It is there and has not failed.
    ("PUT",  "/admin/refdata/{*rest}",                             [NONE,  NO,    NO,    "404 40060", NO, NO]),
    ("DELETE", "/admin/refdata/{*rest}",                           [NONE,  NO,    NO,    "204", NO,    NO]),
    ("PUT",  "/external_exec/refdata/{refdata_id}/{cluster}/update/{new_state}",
                                                                   [NONE,  NO,    NO,    NO,    NO,    "204"]),
    ("GET",  "/callback/refdata_download/{refdata_id}/{cluster}",  [UNSUPPORTED; 6]),
    ("DELETE", "/admin/images/{*rest}",                            [NONE,  NO,    NO,    "404 40030", NO, NO]),
    ("POST", "/admin/images/{*rest}",                              [NONE,  NO,    NO,    "200", NO,    NO]),
    ("PUT",  "/external_exec/jobs/{job_id}/container/{container_num}/update/{new_state}",
                                                                   [NONE,  NO,    NO,    NO,    "204", NO]),
    ("POST", "/external_exec/jobs/{job_id}/container/{container_num}/attempts",
                                                                   [NONE,  NO,    NO,    NO,    "200", NO]),
    ("PUT",  "/external_exec/jobs/{job_id}/container/{container_num}/attempts/{attempt}",
                                                                   [NONE,  NO,    NO,    NO,    "409 50200", NO]),
];

fn body(method: &str, path: &str) -> Option<Value> {
    match (method, path) {
        ("POST", "/jobs") => Some(job_input()),
        ("PUT", path) if path.ends_with("/meta") => Some(json!({"set_fields": {"a": 1}})),
        (_, path) if path.contains("/attempts") => {
            Some(json!({"time": "2031-01-01T00:00:00Z", "instance": "a"}))
        }
        ("PUT", path) if path.contains("/refdata/") => None,
        ("PUT", path) if path.contains("/update/") => Some(json!({"time": "2031-01-01T00:00:00Z"})),
        _ => None,
    }
}

/// As the table has it.
async fn outcome(response: Response) -> String {
    let status = response.status();
    if status.is_success() || status.is_redirection() {
        // Some bodies do not end.
        return status.as_u16().to_string();
    }
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    format!("{} {}", status.as_u16(), body["error"]["appcode"])
}

fn fill_in(method: &str, path: &str, job: &str, refdata: &str) -> String {
    let rest = match (method, path) {
        ("GET", "/admin/refdata/{*rest}") => refdata.to_owned(),
        ("PUT", "/admin/refdata/{*rest}") => format!("{refdata}/local/recover"),
        ("DELETE", "/admin/refdata/{*rest}") => format!("{refdata}/local/clean"),
        // Not registered yet.
        (_, "/admin/refdata/{*rest}") => "cts/refdata/new".to_owned(),
        (_, path) if path.starts_with("/admin/") => "reg.example.org/kbase/sh:2".to_owned(),
        _ => "reg.example.org/kbase/sh:1".to_owned(),
    };
    let state = if path.contains("/refdata/") {
        "download_submitted"
    } else {
        "job_submitting"
    };
    path.replace("{job_id}", job)
        .replace("{container_num}", "0")
        .replace("{site}", "kbase")
        .replace("{new_state}", state)
        .replace("{refdata_id}", refdata)
        .replace("{cluster}", "local")
        .replace("{attempt}", "1")
        .replace("{file}", "initializer.js")
        .replace("{*rest}", &rest)
}

#[tokio::test]
async fn every_route_lets_in_whom_it_should() {
    for (method, path, expected) in TABLE {
        let app = TestApp::new();
        app.register_image().await;
        app.submit(1).await;
        for object in ["cts/io/in/a.txt", "cts/refdata/new"] {
            app.objects.insert(object, "x", Some(crate::test_app::CRC));
        }
        let refdata = app.register_refdata("cts/refdata/old").await;
        let ask = async |caller: &str| {
            let job = app.submit(1).await;
            if path.contains("/jobs/") && path.contains("/update/") {
                app.update(&job, 0, "download_submitted", body("PUT", path).unwrap())
                    .await;
            }
            let request = request(
                caller,
                method,
                &fill_in(method, path, &job, &refdata),
                body(method, path),
            );
            outcome(app.respond(request).await).await
        };
        for (caller, expected) in CALLERS.iter().zip(expected) {
            assert_eq!(
                ask(caller).await,
                *expected,
                "{method} {path} as {caller:?}"
            );
        }
        // These two are the same wherever they go, on public routes too.
        assert_eq!(ask("nobody-s").await, "401 10020", "{method} {path}");
        assert_eq!(ask("half_admin").await, NO, "{method} {path}");
    }
}

#[tokio::test]
async fn every_route_has_a_row() {
    let app = TestApp::new();
    let mut routes = BTreeSet::new();
    for path in router::paths() {
        // No path has this method: the answer names those it has.
        let answer = app
            .call(
                "",
                Method::TRACE.as_str(),
                &fill_in("", &path, "x", "x"),
                None,
            )
            .await
            .expect(405);
        for method in answer.headers[header::ALLOW].to_str().unwrap().split(',') {
            routes.insert((method.trim().to_owned(), path.clone()));
        }
    }
    let rows: BTreeSet<(String, String)> = TABLE
        .iter()
        .map(|(method, path, _)| {
            let path = path.split('?').next().unwrap_or(path);
            ((*method).to_owned(), path.to_owned())
        })
        .collect();
    let missing: Vec<_> = routes.difference(&rows).collect();
    assert!(missing.is_empty(), "routes without a row: {missing:?}");
    let gone: Vec<_> = rows.difference(&routes).collect();
    assert!(gone.is_empty(), "rows without a route: {gone:?}");
}
