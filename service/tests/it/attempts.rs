//! Several executors of one container: the last one that announced itself counts.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::test_app::{Answer, OUTPUT_CRC, TestApp};

const OUTPUT: &str = "cts/io/out/f";

/// The states of a good run, in order.
const GOOD: [&str; 5] = [
    "job_submitting",
    "job_submitted",
    "upload_submitting",
    "upload_submitted",
    "complete",
];

async fn app_with_job(containers: u32) -> (TestApp, String) {
    let app = TestApp::new();
    app.register_image().await;
    app.objects.insert(OUTPUT, "x", Some(OUTPUT_CRC));
    let id = app.submit(containers).await;
    (app, id)
}

fn path(job: &str) -> String {
    format!("/external_exec/jobs/{job}/container/0/attempts")
}

fn notice(instance: &str) -> Value {
    json!({
        "time": "2031-02-03T04:05:06.070809+00:00",
        "instance": instance,
        "host": format!("{instance}.example.org"),
    })
}

async fn announce(app: &TestApp, job: &str, instance: &str) -> Answer {
    app.call("executor", "POST", &path(job), Some(notice(instance)))
        .await
}

async fn renew(app: &TestApp, job: &str, attempt: u32, instance: &str) -> Answer {
    let path = format!("{}/{attempt}", path(job));
    app.call("executor", "PUT", &path, Some(notice(instance)))
        .await
}

/// A report of an attempt with all the data that its state needs. Later attempts report later times.
async fn report(app: &TestApp, job: &str, attempt: Option<u32>, state: &str) -> Answer {
    let mut body = json!({
        "time": format!("2031-02-03T05:0{}:00Z", attempt.unwrap_or(0)),
        "exit_code": i64::from(state == "error_processing_submitting"),
        "outputs": [{"file": OUTPUT, "crc64nvme": OUTPUT_CRC}],
        "admin_error": "Container exit code: 1",
    });
    if let Some(attempt) = attempt {
        body["attempt"] = json!(attempt);
    }
    app.update(job, 0, state, body).await
}

async fn container(app: &TestApp, job: &str) -> Value {
    let path = format!("/admin/jobs/{job}/container/0");
    app.get("admin", &path).await.expect(200).json()
}

fn standing(attempt: u32, wanted: bool, job_state: &str) -> Value {
    json!({"attempt": attempt, "wanted": wanted, "job_state": job_state})
}

/// Waits until the service has recorded that the site has the job.
async fn wait_until_taken(app: &TestApp, job: &str) {
    let taken = async {
        while app.state(job).await == "created" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), taken)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_service_says_that_it_has_attempts_and_usage() {
    let root = TestApp::new().get("", "/").await.expect(200).json();
    assert_eq!(
        root["capabilities"],
        json!(["idempotent_updates", "attempts", "usage"])
    );
}

#[tokio::test]
async fn each_executor_has_its_number_and_the_last_one_counts() {
    let (app, id) = app_with_job(1).await;
    wait_until_taken(&app, &id).await;
    let taken = "download_submitted";
    for _ in 0..2 {
        let answer = announce(&app, &id, "a").await.expect(200);
        assert_eq!(answer.json(), standing(1, true, taken));
    }
    let answer = renew(&app, &id, 1, "a").await.expect(200);
    assert_eq!(answer.json(), standing(1, true, taken));
    report(&app, &id, Some(1), "job_submitting")
        .await
        .expect(204);

    let answer = announce(&app, &id, "b").await.expect(200);
    let mut begun = answer.json();
    // The first one's last word was a moment ago: it may publish for its lease and a margin.
    let wait = begun["publish_after_ms"].take().as_u64().unwrap();
    assert!((50_000..=60_000).contains(&wait), "{wait}");
    begun.as_object_mut().unwrap().remove("publish_after_ms");
    assert_eq!(begun, standing(2, true, "job_submitting"));
    for refused in [
        report(&app, &id, Some(1), "job_submitted").await,
        report(&app, &id, Some(1), "error").await,
        renew(&app, &id, 1, "a").await,
        announce(&app, &id, "a").await,
    ] {
        let refused = refused.expect_error(409, 50200);
        let message = refused.message();
        for words in [&*id, "container 0", "attempt 2", "stop its container"] {
            assert!(message.contains(words), "{message}");
        }
        assert_eq!(refused.json()["error"]["apperror"], "Attempt superseded");
    }
    // The number of one executor and the instance of another are nobody.
    for (attempt, instance) in [(2, "a"), (1, "b"), (3, "b")] {
        renew(&app, &id, attempt, instance)
            .await
            .expect_error(409, 50200);
    }
    renew(&app, &id, 2, "b").await.expect(200);
    report(&app, &id, Some(2), "job_submitting")
        .await
        .expect(204);
}

#[tokio::test]
async fn reports_need_a_number_where_executors_announce_themselves_and_only_there() {
    let (app, id) = app_with_job(2).await;
    report(&app, &id, None, GOOD[0]).await.expect(204);
    announce(&app, &id, "a").await.expect(200);
    for state in GOOD {
        let refused = report(&app, &id, None, state).await;
        let refused = refused.expect_error(409, 50200);
        assert!(refused.message().contains("attempt 1"), "{}", refused.text);
    }
    assert_eq!(container(&app, &id).await["state"], "download_submitted");
    // The other container's executor does not know attempts.
    app.update(&id, 1, GOOD[0], json!({"time": 1_927_864_800}))
        .await
        .expect(204);
}

#[tokio::test]
async fn who_has_not_announced_itself_is_told_to() {
    let (app, id) = app_with_job(1).await;
    for refused in [
        report(&app, &id, Some(1), GOOD[0]).await,
        renew(&app, &id, 1, "a").await,
    ] {
        let refused = refused.expect_error(409, 50200);
        assert!(
            refused.message().contains("announce the attempt first"),
            "{}",
            refused.text
        );
    }
    assert_eq!(container(&app, &id).await.get("attempts"), None);
    for state in GOOD {
        report(&app, &id, None, state).await.expect(204);
    }
    app.finish_jobs().await;
    assert_eq!(app.state(&id).await, "complete");
}

#[tokio::test]
async fn a_rerun_from_any_state_completes_the_job() {
    for done in 0..GOOD.len() {
        let (app, id) = app_with_job(1).await;
        announce(&app, &id, "a").await.expect(200);
        for state in &GOOD[..done] {
            report(&app, &id, Some(1), state).await.expect(204);
        }
        let answer = announce(&app, &id, "b").await.expect(200).json();
        assert_eq!(
            (&answer["attempt"], &answer["wanted"]),
            (&json!(2), &json!(true)),
            "{done}"
        );
        report(&app, &id, Some(1), GOOD[done])
            .await
            .expect_error(409, 50200);
        for state in GOOD {
            report(&app, &id, Some(2), state).await.expect(204);
            // Reports may be repeated in a rerun, too.
            report(&app, &id, Some(2), state).await.expect(204);
        }
        app.finish_jobs().await;
        let job = app.get("alice", &format!("/jobs/{id}")).await.json();
        assert_eq!(job["state"], "complete", "{done}");
        assert_eq!(
            job["outputs"],
            json!([{"file": OUTPUT, "crc64nvme": OUTPUT_CRC}])
        );
        let states: Vec<&Value> = job["transition_times"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| &one["state"])
            .collect();
        let expected = ["created", "download_submitted"].into_iter().chain(GOOD);
        assert_eq!(states, expected.collect::<Vec<_>>(), "{done}");
    }
}

#[tokio::test]
async fn a_container_that_had_failed_is_not_run_again() {
    let failing = [
        GOOD[0],
        GOOD[1],
        "error_processing_submitting",
        "error_processing_submitted",
    ];
    for states in [&failing[..3], &failing[..]] {
        let (app, id) = app_with_job(1).await;
        announce(&app, &id, "a").await.expect(200);
        for state in states {
            report(&app, &id, Some(1), state).await.expect(204);
        }
        let answer = announce(&app, &id, "b").await.expect(200).json();
        assert_eq!(answer["wanted"], false);
        let shown = container(&app, &id).await;
        assert_eq!(shown["state"], "error");
        let reason = shown["admin_error"].as_str().unwrap();
        assert!(reason.starts_with("Container exit code: 1"), "{reason}");
        app.finish_jobs().await;
        assert_eq!(app.state(&id).await, "error");
    }
}

#[tokio::test]
async fn a_canceled_job_wants_no_executor() {
    let (app, id) = app_with_job(1).await;
    announce(&app, &id, "a").await.expect(200);
    let cancel = format!("/jobs/{id}/cancel");
    app.call("alice", "PUT", &cancel, None).await.expect(204);
    let answer = renew(&app, &id, 1, "a").await.expect(200);
    assert_eq!(answer.json(), standing(1, false, "canceling"));
    let answer = announce(&app, &id, "b").await.expect(200);
    assert_eq!(answer.json(), standing(1, false, "canceling"));
    app.finish_jobs().await;
    let answer = announce(&app, &id, "c").await.expect(200);
    assert_eq!(answer.json(), standing(1, false, "canceled"));
    let attempts = container(&app, &id).await["attempts"].take();
    assert_eq!(attempts.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_ended_container_wants_no_executor() {
    let (app, id) = app_with_job(2).await;
    for state in GOOD {
        report(&app, &id, None, state).await.expect(204);
    }
    let before = container(&app, &id).await;
    let answer = announce(&app, &id, "a").await.expect(200).json();
    assert_eq!(
        (&answer["attempt"], &answer["wanted"]),
        (&json!(0), &json!(false))
    );
    assert_eq!(container(&app, &id).await, before);
}

#[tokio::test]
async fn attempts_are_dated_by_the_services_clock_and_survive_a_restart() {
    let (app, id) = app_with_job(1).await;
    announce(&app, &id, "a").await.expect(200);
    let mut unnamed = notice("b");
    unnamed["host"].take();
    app.call("executor", "POST", &path(&id), Some(unnamed))
        .await
        .expect(200);
    app.clock.advance(Duration::from_mins(90));
    renew(&app, &id, 2, "b").await.expect(200);

    let shown = container(&app, &id).await["attempts"].take();
    assert_eq!(shown[0]["host"], "a.example.org");
    assert_eq!(shown[0]["last_seen"], shown[0]["started"]);
    assert_eq!(shown[1].get("host"), None);
    let time =
        |name: &str| -> jiff::Timestamp { shown[1][name].as_str().unwrap().parse().unwrap() };
    let between = time("last_seen").duration_since(time("started"));
    assert!(between.as_mins() == 90, "{between}");

    let app = app.restart();
    assert_eq!(container(&app, &id).await["attempts"], shown);
    report(&app, &id, Some(1), GOOD[0])
        .await
        .expect_error(409, 50200);
    report(&app, &id, Some(2), GOOD[0]).await.expect(204);
    let answer = announce(&app, &id, "c").await.expect(200).json();
    assert_eq!(answer["attempt"], 3);
}

#[tokio::test]
async fn what_a_container_used_is_stored_with_its_exit_code_and_shown() {
    let usage = json!({"cpu_ms": 61_500, "wall_ms": 70_000, "max_memory_bytes": 8_589_934_592_i64});
    for (state, exit_code) in [("upload_submitting", 0), ("error_processing_submitting", 3)] {
        for given in [usage.clone(), json!({"cpu_ms": 0}), json!({})] {
            let (app, id) = app_with_job(1).await;
            for state in &GOOD[..2] {
                report(&app, &id, None, state).await.expect(204);
            }
            assert_eq!(container(&app, &id).await.get("usage"), None);
            let mut body = json!({"time": "2031-02-03T05:00:00Z", "exit_code": exit_code});
            body["usage"] = given.clone();
            body["usage"]["more"] = json!("is passed over");
            app.update(&id, 0, state, body).await.expect(204);
            assert_eq!(container(&app, &id).await["usage"], given);
            let app = app.restart();
            assert_eq!(container(&app, &id).await["usage"], given);
        }
    }
}

#[tokio::test]
async fn what_an_earlier_attempt_used_is_not_the_last_ones() {
    let (app, id) = app_with_job(1).await;
    announce(&app, &id, "a").await.expect(200);
    for state in &GOOD[..2] {
        report(&app, &id, Some(1), state).await.expect(204);
    }
    let body = json!({
        "time": "2031-02-03T05:01:00Z", "attempt": 1, "exit_code": 0, "usage": {"cpu_ms": 5},
    });
    app.update(&id, 0, "upload_submitting", body)
        .await
        .expect(204);
    assert_eq!(container(&app, &id).await["usage"], json!({"cpu_ms": 5}));
    announce(&app, &id, "b").await.expect(200);
    let shown = container(&app, &id).await;
    for member in ["usage", "exit_code"] {
        assert_eq!(shown.get(member), None, "{shown}");
    }
}

#[tokio::test]
async fn bad_bodies_and_places_are_refused_with_all_their_faults() {
    let (app, id) = app_with_job(1).await;
    let places = |answer: &Answer| -> Vec<Value> {
        answer.json()["error"]["request_validation_detail"]
            .as_array()
            .unwrap()
            .iter()
            .map(|fault| fault["loc"].clone())
            .collect()
    };
    let faulty = json!({"instance": "two words", "host": 7});
    let answer = app
        .call(
            "executor",
            "PUT",
            &format!("/external_exec/jobs/{id}/container/x/attempts/0"),
            Some(faulty),
        )
        .await
        .expect_error(400, 30010);
    assert_eq!(
        places(&answer),
        [
            json!(["path", "container_num"]),
            json!(["path", "attempt"]),
            json!(["body", "time"]),
            json!(["body", "instance"]),
            json!(["body", "host"]),
        ]
    );
    let answer = app.call("executor", "POST", &path(&id), None).await;
    assert_eq!(places(&answer.expect_error(400, 30010)), [json!(["body"])]);
    let body = json!({"time": 1, "attempt": "x", "usage": 1});
    let answer = app.update(&id, 0, GOOD[0], body).await;
    assert_eq!(
        places(&answer.expect_error(400, 30010)),
        [json!(["body", "attempt"]), json!(["body", "usage"])]
    );

    let unknown = "00000000-0000-4000-8000-000000000000";
    announce(&app, unknown, "a").await.expect_error(404, 40040);
    renew(&app, unknown, 1, "a").await.expect_error(404, 40040);
    let other = format!("/external_exec/jobs/{id}/container/1/attempts");
    for (method, path) in [("POST", other.clone()), ("PUT", format!("{other}/1"))] {
        app.call("executor", method, &path, Some(notice("a")))
            .await
            .expect_error(404, 40050);
    }
    assert_eq!(container(&app, &id).await.get("attempts"), None);
}

/// However they come, one of them counts in the end, and it alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_executors_that_begin_at_once_one_counts() {
    let (app, id) = app_with_job(1).await;
    let app = Arc::new(app);
    let calls: Vec<_> = (0..8)
        .map(|number| {
            let (app, id) = (Arc::clone(&app), id.clone());
            tokio::spawn(async move { announce(&app, &id, &format!("i{number}")).await })
        })
        .collect();
    let mut told = Vec::new();
    for (number, call) in calls.into_iter().enumerate() {
        let answer = call.await.unwrap();
        if answer.status == 409 {
            answer.expect_error(409, 50200);
        } else {
            let attempt = answer.expect(200).json()["attempt"].as_u64().unwrap();
            told.push((u32::try_from(attempt).unwrap(), format!("i{number}")));
        }
    }
    told.sort();
    let numbers: Vec<u32> = told.iter().map(|(attempt, _)| *attempt).collect();
    assert_eq!(numbers.last(), Some(&8), "{numbers:?}");
    assert!(
        numbers.windows(2).all(|pair| pair[0] < pair[1]),
        "{numbers:?}"
    );
    for (attempt, instance) in told {
        let answer = renew(&app, &id, attempt, &instance).await;
        assert_eq!(answer.status == 200, attempt == 8, "{}", answer.text);
    }
}
