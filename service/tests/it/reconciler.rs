//! What becomes of jobs whose procs do something else than run and report, seen through the API.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use cts_service::background::reconciler::Reconciler;
use cts_service::lease_store::{Lease, LeaseRequest};
use cts_service::sites::Sites;
use cts_shared::site::Site;

use crate::pool_app::{INTERVAL, PoolApp, SILENCE, eventually};
use crate::pool_double::{Call, ENTERED};

/// Held because the executor ended with a status.
fn exited(status: i64) -> Value {
    json!({
        "HoldReasonCode": 3, "ExitCode": status,
        "HoldReason": "The job attribute OnExitHold expression 'ExitCode =!= 0' evaluated to TRUE",
    })
}

/// A service with one job in the pool, cluster 1.
async fn with_job(containers: u32) -> (PoolApp, Reconciler, String) {
    let app = PoolApp::new().await;
    let job = app.submitted(containers).await;
    let reconciler = app.reconciler();
    (app, reconciler, job)
}

/// Round after round, until that time is over.
async fn rounds(app: &PoolApp, reconciler: &mut Reconciler, time: Duration) {
    let until = app.app.app.clock.now().plus(time);
    while app.app.app.clock.now() < until {
        app.app.clock.advance(INTERVAL);
        reconciler.round().await.unwrap();
    }
}

/// The lease by which one reconciler works at a time, for another service that long from now.
async fn take_lease(app: &PoolApp, from_now: Duration) -> Lease {
    let now = app.app.app.clock.now().plus(from_now);
    let request = LeaseRequest {
        name: "reconcile kbase".to_owned(),
        holder: "another service".to_owned(),
        now,
        until: now.plus(Duration::from_mins(5)),
    };
    app.leases().take_lease(request).await.unwrap()
}

/// The job ends in error; what administrators are told.
async fn failed(app: &PoolApp, job: &str) -> String {
    app.app.finish_jobs().await;
    assert_eq!(app.app.state(job).await, "error");
    assert_eq!(app.job(job).await["error"], "An unexpected error occurred.");
    app.admin_error(job).await
}

#[tokio::test]
async fn jobs_that_wait_or_run_are_left_alone() {
    let (app, mut reconciler, job) = with_job(3).await;
    app.pool.run(1, 1);
    app.pool.change(1, 2, json!({"JobStatus": 7}));
    let before = app.job(&job).await;
    for _ in 0..3 {
        reconciler.round().await.unwrap();
    }
    assert_eq!(app.job(&job).await, before);
    assert_eq!(app.pool.calls(Call::History), 0);
    assert_eq!(app.pool.calls(Call::Remove), 0);
}

/// As by the existing service over the same database, which died after the last report.
#[tokio::test]
async fn a_job_that_nobody_ends_is_ended() {
    let (sender, mut due) = tokio::sync::mpsc::unbounded_channel();
    let app = PoolApp::with(|app| app.due_jobs = sender).await;
    let job = app.submitted(1).await;
    let mut reconciler = app.reconciler();
    app.complete(&job, 0, None).await;
    // The service that took the report is told at once.
    assert_eq!(due.recv().await.unwrap().to_string(), job);
    reconciler.round().await.unwrap();
    assert!(due.try_recv().is_err(), "it has time to end the job");
    app.app.clock.advance(Duration::from_mins(10));
    reconciler.round().await.unwrap();
    assert_eq!(due.try_recv().unwrap().to_string(), job);
}

#[tokio::test]
async fn an_idle_service_does_not_bother_the_pool() {
    let app = PoolApp::new().await;
    app.reconciler().round().await.unwrap();
    assert_eq!(app.pool.calls(Call::Queue), 0);
}

#[tokio::test]
async fn a_proc_held_by_hand_ends_its_container() {
    let (app, mut reconciler, job) = with_job(2).await;
    let by_hand = json!({"HoldReasonCode": 1, "HoldReason": "via condor_hold (by user root)"});
    app.pool.hold(1, 0, 1, by_hand);
    app.pool.run(1, 1);
    reconciler.round().await.unwrap();
    assert_eq!(app.container_state(&job, 0).await, "error");
    assert_eq!(app.container_state(&job, 1).await, "download_submitted");
    assert_eq!(app.pool.removed(), ["1.0"]);
    reconciler.round().await.unwrap();
    app.complete(&job, 1, None).await;
    let error = failed(&app, &job).await;
    let notice = app.notice(&job).await;
    assert!(
        notice.starts_with("container 0: HTCondor holds proc 1.0: via condor_hold (by user root)"),
        "{notice}"
    );
    assert!(
        error.starts_with(
            "container 0 ended in error: HTCondor holds proc 1.0: via condor_hold (by user root) (code 1.0): \
             somebody held it by hand"
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_proc_held_for_its_exit_status_is_released_as_often_as_allowed() {
    let (app, mut reconciler, job) = with_job(1).await;
    for times in 1..=2 {
        app.pool.hold(1, 0, times, exited(1));
        reconciler.round().await.unwrap();
        assert_eq!(app.pool.released().len(), usize::try_from(times).unwrap());
        assert_eq!(app.app.state(&job).await, "download_submitted");
        let notice = app.notice(&job).await;
        assert!(
            notice.starts_with("container 0: HTCondor holds proc 1.0"),
            "{notice}"
        );
        assert!(notice.ends_with("it is tried again"), "{notice}");
        app.pool.run(1, 0);
        reconciler.round().await.unwrap();
        assert_eq!(app.notice(&job).await, "");
    }
    app.pool.hold(1, 0, 3, exited(1));
    reconciler.round().await.unwrap();
    assert_eq!(app.pool.released().len(), 2);
    assert_eq!(app.pool.removed(), ["1.0"]);
    let error = failed(&app, &job).await;
    assert!(error.contains("for the 3rd time"), "{error}");
    // In the owner's view as well.
    assert!(app.notice(&job).await.contains("for the 3rd time"));
}

#[tokio::test]
async fn a_proc_without_its_input_is_released_and_then_fails() {
    let (app, mut reconciler, job) = with_job(1).await;
    for times in 1..=3 {
        let input =
            json!({"HoldReasonCode": 13, "HoldReason": "Transfer input files failure: 404"});
        app.pool.hold(1, 0, times, input);
        reconciler.round().await.unwrap();
    }
    assert_eq!(app.pool.released(), ["1.0", "1.0"]);
    let error = failed(&app, &job).await;
    assert!(
        error.contains("HTCondor.executable_url_override"),
        "{error}"
    );
}

#[tokio::test]
async fn a_refused_token_fails_at_once() {
    let (app, mut reconciler, job) = with_job(1).await;
    app.pool.hold(1, 0, 1, exited(77));
    reconciler.round().await.unwrap();
    assert_eq!(app.pool.released(), [""; 0]);
    let error = failed(&app, &job).await;
    assert!(error.contains("HTCondor.token_path"), "{error}");
}

#[tokio::test]
async fn a_release_that_is_refused_is_not_tried_for_ever() {
    let (app, mut reconciler, job) = with_job(1).await;
    app.pool.hold(1, 0, 1, exited(1));
    app.pool.make_stubborn(1, 0);
    for _ in 0..2 {
        let error = reconciler.round().await.unwrap_err().to_string();
        assert!(error.contains("Permission denied"), "{error}");
        assert_eq!(app.container_state(&job, 0).await, "download_submitted");
    }
    reconciler.round().await.unwrap_err();
    assert_eq!(app.pool.calls(Call::Release), 2);
    let error = failed(&app, &job).await;
    assert!(error.contains("does not release it for CTS"), "{error}");
}

#[tokio::test]
async fn a_removed_proc_ends_its_container_also_while_it_is_still_shown() {
    for still_shown in [false, true] {
        let (app, mut reconciler, job) = with_job(1).await;
        let removed = json!({"JobStatus": 3, "RemoveReason": "via condor_rm (by user root)"});
        if still_shown {
            app.pool.change(1, 0, removed);
        } else {
            app.pool.leave(1, 0, removed);
        }
        reconciler.round().await.unwrap();
        let error = failed(&app, &job).await;
        assert!(
            error.contains("outside CTS: via condor_rm (by user root);"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn an_executor_that_ended_without_a_report_ends_its_container() {
    let (app, mut reconciler, job) = with_job(1).await;
    app.pool.run(1, 0);
    let ended = json!({"JobStatus": 4, "ExitCode": 0, "LastRemoteHost": "slot1@n1.example.org"});
    app.pool.leave(1, 0, ended);
    reconciler.round().await.unwrap();
    let error = failed(&app, &job).await;
    assert!(
        error.contains("proc 1.0 (last on n1.example.org) ended with exit code 0 without"),
        "{error}"
    );
}

/// The executor reports, ends, and its proc leaves: in this order.
#[tokio::test]
async fn an_executor_that_reported_is_not_missed() {
    let (app, mut reconciler, job) = with_job(1).await;
    app.complete(&job, 0, None).await;
    app.pool.leave(1, 0, json!({"JobStatus": 4, "ExitCode": 0}));
    reconciler.round().await.unwrap();
    app.app.finish_jobs().await;
    assert_eq!(app.app.state(&job).await, "complete");
}

#[tokio::test]
async fn a_proc_that_the_pool_does_not_know_is_lost_in_the_second_round() {
    let (app, mut reconciler, job) = with_job(2).await;
    app.pool.run(1, 1);
    app.pool.lose(1, 0);
    reconciler.round().await.unwrap();
    assert_eq!(app.container_state(&job, 0).await, "download_submitted");
    reconciler.round().await.unwrap();
    assert_eq!(app.container_state(&job, 0).await, "error");
    assert_eq!(app.container_state(&job, 1).await, "download_submitted");
    app.complete(&job, 1, None).await;
    let error = failed(&app, &job).await;
    assert!(
        error.contains("knows nothing of proc 1.0 any more"),
        "{error}"
    );
}

#[tokio::test]
async fn a_silent_executor_is_given_up() {
    let (app, mut reconciler, job) = with_job(1).await;
    app.pool.run(1, 0);
    reconciler.round().await.unwrap();
    app.announce(&job, 0, "a").await;
    rounds(
        &app,
        &mut reconciler,
        SILENCE.checked_sub(INTERVAL).unwrap(),
    )
    .await;
    assert_eq!(app.container_state(&job, 0).await, "download_submitted");
    rounds(&app, &mut reconciler, INTERVAL * 2).await;
    assert_eq!(app.pool.removed(), ["1.0"]);
    let error = failed(&app, &job).await;
    assert!(
        error.contains("the executor on n1.example.org has not been heard of since"),
        "{error}"
    );
}

/// The host was suspended, the store or the pool was away: executors may have talked to nobody.
#[tokio::test]
async fn executors_that_could_not_be_heard_are_not_silent() {
    for pool_was_away in [false, true] {
        let (app, mut reconciler, job) = with_job(1).await;
        app.pool.run(1, 0);
        app.announce(&job, 0, "a").await;
        reconciler.round().await.unwrap();
        if pool_was_away {
            app.pool.set_away(true);
            for _ in 0..15 {
                app.app.clock.advance(INTERVAL * 3);
                reconciler.round().await.unwrap_err();
            }
            app.pool.set_away(false);
        } else {
            app.app.clock.advance(SILENCE * 2);
        }
        rounds(
            &app,
            &mut reconciler,
            SILENCE.checked_sub(INTERVAL).unwrap(),
        )
        .await;
        assert_eq!(app.container_state(&job, 0).await, "download_submitted");
        rounds(&app, &mut reconciler, INTERVAL * 3).await;
        assert_eq!(app.container_state(&job, 0).await, "error");
    }
}

#[tokio::test]
async fn a_lost_worker_is_told_until_it_is_back() {
    let (app, mut reconciler, job) = with_job(1).await;
    app.pool.run(1, 0);
    app.announce(&job, 0, "a").await;
    app.pool
        .change(1, 0, json!({"JobDisconnectedDate": ENTERED}));
    reconciler.round().await.unwrap();
    let notice = app.notice(&job).await;
    assert!(
        notice.contains("HTCondor has lost contact with n1.example.org since 2031-"),
        "{notice}"
    );
    app.pool.change(1, 0, json!({"JobDisconnectedDate": null}));
    reconciler.round().await.unwrap();
    assert_eq!(app.notice(&job).await, "");
    assert_eq!(app.app.state(&job).await, "download_submitted");
}

#[tokio::test]
async fn machines_that_are_not_healthy_are_told() {
    let (app, mut reconciler, job) = with_job(1).await;
    app.pool.set_machines(json!([{
        "Machine": "a", "CtsExecutorHealthy": false, "CtsExecutorProblem": "engine: no socket there",
    }]));
    app.app.clock.advance(INTERVAL * 2);
    reconciler.round().await.unwrap();
    let notice = app.notice(&job).await;
    assert!(notice.contains("a: engine: no socket there;"), "{notice}");
    app.pool
        .set_machines(json!([{"Machine": "a", "CtsExecutorHealthy": true}]));
    reconciler.round().await.unwrap();
    assert_eq!(app.notice(&job).await, "");
}

#[tokio::test]
async fn a_request_that_no_machine_meets_is_told_until_one_does() {
    let (app, mut reconciler, job) = with_job(1).await;
    app.pool.change(1, 0, json!({"RequestCpus": 99}));
    app.pool
        .set_machines(json!([{"Machine": "a", "TotalSlotCpus": 8}]));
    reconciler.round().await.unwrap();
    assert_eq!(app.notice(&job).await, "", "it may be matched any moment");
    app.app.clock.advance(INTERVAL * 2);
    reconciler.round().await.unwrap();
    let notice = app.notice(&job).await;
    assert!(
        notice.contains("asks for 99 CPUs, the largest machine has 8"),
        "{notice}"
    );
    let since = app.job(&job).await["site_notice"]["since"].clone();
    reconciler.round().await.unwrap();
    assert_eq!(app.job(&job).await["site_notice"]["since"], since);
    app.pool
        .set_machines(json!([{"Machine": "a", "TotalSlotCpus": 128}]));
    reconciler.round().await.unwrap();
    assert_eq!(app.notice(&job).await, "");
    assert_eq!(app.app.state(&job).await, "download_submitted");
}

#[tokio::test]
async fn a_notice_ends_with_its_job() {
    let (app, mut reconciler, job) = with_job(1).await;
    app.pool.hold(1, 0, 1, exited(1));
    reconciler.round().await.unwrap();
    assert!(!app.notice(&job).await.is_empty());
    app.complete(&job, 0, None).await;
    app.app.finish_jobs().await;
    assert_eq!(app.app.state(&job).await, "complete");
    assert_eq!(app.notice(&job).await, "");
    assert_eq!(app.job(&job).await.get("site_notice"), None);
}

/// Held and released, and then the container fails by itself before the next round.
#[tokio::test]
async fn a_job_that_fails_by_itself_does_not_show_what_it_waited_for() {
    let (app, mut reconciler, job) = with_job(1).await;
    app.pool.hold(1, 0, 1, exited(1));
    reconciler.round().await.unwrap();
    assert!(!app.notice(&job).await.is_empty());
    let report = json!({"time": "2031-02-03T04:06:00Z", "admin_error": "S3 refused the upload"});
    app.app.update(&job, 0, "error", report).await.expect(204);
    failed(&app, &job).await;
    assert_eq!(app.notice(&job).await, "");
}

#[tokio::test]
async fn a_second_cluster_of_a_job_is_removed() {
    let (app, mut reconciler, job) = with_job(2).await;
    assert_eq!(app.pool.put(&job, 2), 2);
    reconciler.round().await.unwrap();
    assert_eq!(app.pool.queued(), ["1.0", "1.1"]);
    assert_eq!(app.clusters(&job).await, json!([1]));
    assert_eq!(app.app.state(&job).await, "download_submitted");
}

/// Anybody who may submit can name a job of ours.
#[tokio::test]
async fn procs_of_somebody_else_with_a_jobs_id_are_left_alone() {
    let (app, mut reconciler, job) = with_job(1).await;
    app.pool.put_as("eve", &job, 1);
    app.pool.make_stubborn(2, 0);
    app.pool.run(2, 0);
    reconciler.round().await.unwrap();
    assert_eq!(app.clusters(&job).await, json!([1]));
    assert_eq!(app.app.state(&job).await, "download_submitted");
    app.cancel(&job).await;
    app.app.finish_jobs().await;
    assert_eq!(app.app.state(&job).await, "canceled");
    for _ in 0..2 {
        reconciler.round().await.unwrap();
    }
    assert_eq!(app.pool.removed(), ["1.0"]);
    assert_eq!(app.pool.queued(), ["2.0"]);
    let due = app.app.app.jobs.jobs_with_statistics_due(Site::Kbase, 9);
    assert_eq!(due.await.unwrap(), [], "its account is there");
    let path = format!("/admin/jobs/{job}/clean");
    let clean = app.app.call("admin", "DELETE", &path, None);
    clean.await.expect(204);
}

/// It was executed, for it has reported, and then the schedd forgot it.
#[tokio::test]
async fn a_job_that_got_on_without_a_known_cluster_is_found_or_ended() {
    for left in [true, false] {
        let app = PoolApp::new().await;
        app.pool.set_away(true);
        let job = app.submit(1).await;
        eventually("it waits", async || !app.notice(&job).await.is_empty()).await;
        let report = json!({"time": "2031-02-03T04:06:00Z"});
        app.app
            .update(&job, 0, "job_submitting", report)
            .await
            .expect(204);
        app.pool.set_away(false);
        let mut reconciler = app.reconciler();
        if left {
            app.pool.put(&job, 1);
            let removed = json!({"JobStatus": 3, "RemoveReason": "via condor_rm (by user root)"});
            app.pool.leave(1, 0, removed);
        } else {
            reconciler.round().await.unwrap();
            assert_eq!(app.container_state(&job, 0).await, "job_submitting");
        }
        reconciler.round().await.unwrap();
        let error = failed(&app, &job).await;
        let (clusters, expected) = if left {
            (json!([1]), "outside CTS: via condor_rm")
        } else {
            (Value::Null, "HTCondor knows nothing of the job any more")
        };
        assert!(error.contains(expected), "{error}");
        assert_eq!(app.clusters(&job).await, clusters);
    }
}

#[tokio::test]
async fn a_cluster_that_the_store_does_not_know_is_noted() {
    let app = PoolApp::new().await;
    app.pool.set_away(true);
    let job = app.submit(1).await;
    eventually("it waits", async || !app.notice(&job).await.is_empty()).await;
    app.pool.put(&job, 1);
    app.pool.set_away(false);
    app.reconciler().round().await.unwrap();
    assert_eq!(app.clusters(&job).await, json!([1]));
    assert_eq!(app.app.state(&job).await, "download_submitted");
    assert_eq!(app.notice(&job).await, "");
    app.start_waiting().await;
    assert_eq!(app.pool.queued(), ["1.0"]);
}

#[tokio::test]
async fn a_held_proc_of_an_ended_container_is_removed() {
    let (app, mut reconciler, job) = with_job(2).await;
    let report = json!({"time": "2031-02-03T04:06:00Z", "admin_error": "S3 refused the upload"});
    app.app.update(&job, 0, "error", report).await.expect(204);
    app.pool.hold(1, 0, 1, exited(1));
    app.pool.run(1, 1);
    reconciler.round().await.unwrap();
    assert_eq!(app.pool.removed(), ["1.0"]);
    assert_eq!(app.pool.released(), [""; 0]);
    assert_eq!(
        app.container(&job, 0).await["admin_error"],
        "S3 refused the upload"
    );
}

#[tokio::test]
async fn procs_of_ended_jobs_are_removed_in_the_second_round_and_held_ones_at_once() {
    let (app, mut reconciler, job) = with_job(2).await;
    for container in 0..2 {
        app.complete(&job, container, None).await;
    }
    app.app.finish_jobs().await;
    assert_eq!(app.app.state(&job).await, "complete");
    app.pool.run(1, 0);
    app.pool.hold(1, 1, 1, exited(1));
    reconciler.round().await.unwrap();
    assert_eq!(app.pool.removed(), ["1.1"]);
    reconciler.round().await.unwrap();
    assert_eq!(app.pool.removed(), ["1.1", "1.0"]);
    assert_eq!(app.app.state(&job).await, "complete");
}

#[tokio::test]
async fn jobs_of_another_system_in_the_same_pool_are_left_alone() {
    let (app, mut reconciler, _job) = with_job(1).await;
    app.pool.put("986e5df7-f7f3-48d3-b388-29346ddb6656", 1);
    app.pool.put("not an id", 1);
    app.pool.hold(2, 0, 1, json!({"HoldReasonCode": 1}));
    for _ in 0..3 {
        reconciler.round().await.unwrap();
    }
    assert_eq!(app.pool.queued(), ["1.0", "2.0", "3.0"]);
    assert_eq!(app.pool.removed(), [""; 0]);
    assert_eq!(app.pool.released(), [""; 0]);
}

/// A proc that was held, released by hand and runs again, all between the look and the action.
#[tokio::test]
async fn a_container_whose_next_attempt_has_begun_is_not_ended() {
    let (app, mut reconciler, job) = with_job(2).await;
    app.announce(&job, 0, "a").await;
    app.pool.hold(1, 0, 1, json!({"HoldReasonCode": 1}));
    // The history is asked for this one, when the job's record has been read.
    app.pool.lose(1, 1);
    let mut pause = app.pool.pause(Call::History);
    let round = tokio::spawn(async move { reconciler.round().await });
    pause.reached().await;
    app.pool.run(1, 0);
    assert_eq!(app.announce(&job, 0, "b").await, 2);
    pause.go_on();
    round.await.unwrap().unwrap();
    assert_eq!(app.container_state(&job, 0).await, "download_submitted");
    assert_eq!(app.pool.removed(), [""; 0], "its proc goes on, too");
}

#[tokio::test]
async fn nothing_changes_while_the_pool_is_away() {
    let (app, mut reconciler, job) = with_job(1).await;
    app.pool.run(1, 0);
    app.announce(&job, 0, "a").await;
    let before = app.job(&job).await;
    app.pool.set_away(true);
    for _ in 0..3 {
        let error = reconciler.round().await.unwrap_err().to_string();
        assert_eq!(
            error,
            "HTCondor does not answer: Failed to connect to schedd"
        );
    }
    assert_eq!(app.job(&job).await, before);
    app.pool.set_away(false);
    reconciler.round().await.unwrap();
    assert_eq!(app.job(&job).await, before);
}

#[tokio::test]
async fn a_job_that_is_being_canceled_is_left_alone() {
    let (app, mut reconciler, job) = with_job(1).await;
    app.pool.set_away(true);
    app.cancel(&job).await;
    app.app.finish_jobs().await;
    app.pool.set_away(false);
    app.pool.leave(1, 0, json!({"JobStatus": 3}));
    for _ in 0..3 {
        reconciler.round().await.unwrap();
    }
    assert_eq!(app.app.state(&job).await, "canceling");
    assert_eq!(app.container_state(&job, 0).await, "download_submitted");
    app.app.finish_jobs().await;
    assert_eq!(app.app.state(&job).await, "canceled");
}

/// Whatever the order in which they are looked at.
#[tokio::test]
async fn a_job_whose_proc_cannot_be_removed_does_not_keep_others_waiting() {
    let app = PoolApp::new().await;
    let mut jobs = Vec::new();
    for cluster in 1..=3 {
        jobs.push(app.submitted(1).await);
        app.pool.hold(cluster, 0, 1, json!({"HoldReasonCode": 1}));
        app.pool.make_stubborn(cluster, 0);
    }
    let mut reconciler = app.reconciler();
    let error = reconciler.round().await.unwrap_err().to_string();
    assert!(error.contains("Permission denied"), "{error}");
    for job in jobs {
        assert_eq!(app.container_state(&job, 0).await, "error");
        assert!(app.notice(&job).await.contains("HTCondor holds proc"));
    }
}

#[tokio::test]
async fn many_jobs_that_fail_do_not_keep_others_waiting() {
    let app = PoolApp::new().await;
    let mut jobs = Vec::new();
    for cluster in 1..=13 {
        jobs.push(app.submitted(1).await);
        app.pool.hold(cluster, 0, 1, json!({"HoldReasonCode": 1}));
        if cluster != 13 {
            app.pool.make_stubborn(cluster, 0);
        }
    }
    app.reconciler().round().await.unwrap_err();
    for job in &jobs {
        assert_eq!(app.container_state(job, 0).await, "error");
    }
    assert_eq!(app.pool.removed(), ["13.0"]);
}

#[tokio::test]
async fn a_collector_that_does_not_answer_keeps_nothing_waiting() {
    let app = PoolApp::new().await;
    let jobs = [app.submitted(2).await, app.submitted(2).await];
    for cluster in 1..=2 {
        app.pool.hold(cluster, 1, 1, json!({"HoldReasonCode": 1}));
    }
    app.pool.silence(Call::Machines);
    app.app.clock.advance(INTERVAL * 2);
    app.reconciler().round().await.unwrap();
    for job in &jobs {
        assert_eq!(app.container_state(job, 1).await, "error");
    }
    assert_eq!(app.pool.calls(Call::Machines), 1);
}

#[tokio::test]
async fn a_history_that_is_not_told_keeps_only_those_waiting_that_need_it() {
    let app = PoolApp::new().await;
    let mut jobs = Vec::new();
    for cluster in 1..=5 {
        jobs.push(app.submitted(1).await);
        app.pool.lose(cluster, 0);
    }
    let held = app.submitted(1).await;
    app.pool.hold(6, 0, 1, json!({"HoldReasonCode": 1}));
    app.pool.silence(Call::History);
    let mut reconciler = app.reconciler();
    let error = reconciler.round().await.unwrap_err().to_string();
    assert!(error.contains("history"), "{error}");
    assert_eq!(app.container_state(&held, 0).await, "error");
    assert_eq!(app.pool.calls(Call::History), 3, "each may take a minute");
    for job in &jobs {
        assert_eq!(app.app.state(job).await, "download_submitted");
    }
}

/// The history is read from its end, and tells of the order in which procs left, not of when.
#[tokio::test]
async fn an_old_proc_that_left_late_does_not_hide_others() {
    let (app, mut reconciler, job) = with_job(1).await;
    let removed = json!({"JobStatus": 3, "RemoveReason": "via condor_rm (by user root)"});
    app.pool.leave(1, 0, removed);
    let other = app.pool.put_as("eve", "not an id", 1);
    let kept = json!({
        "JobStatus": 4, "EnteredCurrentStatus": ENTERED - 864_000, "LeaveJobInQueue": "/Expr(time() < 1)/",
    });
    app.pool.leave(other, 0, kept);
    reconciler.round().await.unwrap();
    let error = failed(&app, &job).await;
    assert!(error.contains("outside CTS: via condor_rm"), "{error}");
}

#[tokio::test]
async fn the_lease_is_kept_through_a_long_round() {
    let app = PoolApp::new().await;
    for cluster in 1..=2 {
        app.submitted(1).await;
        app.pool.hold(cluster, 0, 1, json!({"HoldReasonCode": 1}));
    }
    let mut reconciler = app.reconciler();
    let mut pause = app.pool.pause(Call::Remove);
    let round = tokio::spawn(async move { reconciler.round().await });
    pause.reached().await;
    app.app.clock.advance(INTERVAL * 2);
    pause.go_on();
    round.await.unwrap().unwrap();
    assert_eq!(take_lease(&app, INTERVAL * 2).await, Lease::Held);
    assert_eq!(take_lease(&app, INTERVAL * 4).await, Lease::TakenOver);
}

#[tokio::test]
async fn a_round_ends_when_its_lease_is_anothers_or_it_stood_still() {
    for suspended in [false, true] {
        let app = PoolApp::new().await;
        for cluster in 1..=2 {
            app.submitted(1).await;
            app.pool.hold(cluster, 0, 1, json!({"HoldReasonCode": 1}));
        }
        let mut reconciler = app.reconciler();
        let mut pause = app.pool.pause(Call::Remove);
        let round = tokio::spawn(async move { reconciler.round().await });
        pause.reached().await;
        let expected = if suspended {
            app.app.clock.advance(Duration::from_hours(1));
            "stood still"
        } else {
            app.app.clock.advance(INTERVAL * 4);
            assert_eq!(take_lease(&app, Duration::ZERO).await, Lease::TakenOver);
            "another service looks after the jobs"
        };
        pause.go_on();
        let error = round.await.unwrap().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(app.pool.removed().len(), 1);
    }
}

#[tokio::test]
async fn a_job_ended_by_a_service_without_the_pool_gets_its_account_too() {
    let app = PoolApp::with(|app| app.sites = Sites::new([])).await;
    let job = app.stored("alice", 1).await;
    app.complete(&job.to_string(), 0, None).await;
    app.app.finish_jobs().await;
    assert_eq!(app.app.state(&job.to_string()).await, "complete");
    let due = app.app.app.jobs.jobs_with_statistics_due(Site::Kbase, 9);
    assert_eq!(due.await.unwrap(), [job]);
}

#[tokio::test]
async fn statistics_come_when_the_procs_have_left() {
    let (app, mut reconciler, job) = with_job(2).await;
    for container in 0..2 {
        app.pool.run(1, container);
    }
    for container in 0..2 {
        app.complete(&job, container, None).await;
    }
    app.app.finish_jobs().await;
    let ended = app.job(&job).await;
    assert_eq!(ended["state"], "complete");
    for name in ["cpu_hours", "cpu_factor", "max_memory"] {
        assert_eq!(ended[name], Value::Null, "{name}");
    }
    let used = json!({
        "JobStatus": 4, "ExitCode": 0, "RemoteUserCpu": 1700.0, "RemoteSysCpu": 100.0, "CommittedTime": 3600,
        "MemoryUsage": 3,
    });
    app.pool.leave(1, 0, used.clone());
    reconciler.round().await.unwrap();
    assert_eq!(
        app.job(&job).await["cpu_hours"],
        Value::Null,
        "one is still there"
    );
    app.pool.leave(1, 1, used);
    reconciler.round().await.unwrap();
    let accounted = app.job(&job).await;
    assert_eq!(accounted["cpu_hours"], 1.0);
    assert_eq!(accounted["cpu_factor"], 0.5);
    assert_eq!(accounted["max_memory"], 3 * 1024 * 1024);
    assert_eq!(accounted["state"], "complete");
    assert_eq!(accounted["transition_times"], ended["transition_times"]);
    let asked = app.pool.calls(Call::Queue);
    reconciler.round().await.unwrap();
    assert_eq!(
        app.pool.calls(Call::Queue),
        asked,
        "nothing is due any more"
    );
}

#[tokio::test]
async fn a_job_that_ended_before_its_cluster_was_known_gets_it_with_its_account() {
    let app = PoolApp::new().await;
    app.pool.set_away(true);
    let job = app.submit(1).await;
    eventually("it waits", async || !app.notice(&job).await.is_empty()).await;
    app.pool.put(&job, 1);
    app.complete(&job, 0, None).await;
    app.app.finish_jobs().await;
    app.pool.set_away(false);
    app.pool.leave(
        1,
        0,
        json!({"JobStatus": 4, "ExitCode": 0, "MemoryUsage": 3}),
    );
    app.reconciler().round().await.unwrap();
    assert_eq!(app.clusters(&job).await, json!([1]));
    assert_eq!(app.job(&job).await["max_memory"], 3 * 1024 * 1024);
}

#[tokio::test]
async fn what_executors_measured_is_there_at_once_and_added_to_the_pools_account() {
    let (app, mut reconciler, job) = with_job(1).await;
    let usage = json!({"cpu_ms": 1_800_000, "wall_ms": 3_600_000, "max_memory_bytes": 1000});
    app.complete(&job, 0, Some(usage)).await;
    app.app.finish_jobs().await;
    let measured = app.job(&job).await;
    assert_eq!(measured["cpu_hours"], 0.5);
    assert_eq!(measured["max_memory"], 1000);
    let ended = json!({"JobStatus": 4, "ExitCode": 0, "RemoteUserCpu": 1800.0, "MemoryUsage": 3});
    app.pool.leave(1, 0, ended);
    reconciler.round().await.unwrap();
    let accounted = app.job(&job).await;
    assert_eq!(accounted["cpu_hours"], 1.0);
    assert_eq!(accounted["max_memory"], 1000);
}

#[tokio::test]
async fn an_account_that_never_comes_is_given_up_after_a_day() {
    for knows_usage in [false, true] {
        let (app, mut reconciler, job) = with_job(1).await;
        let usage = knows_usage.then(|| json!({"cpu_ms": 1_800_000}));
        app.complete(&job, 0, usage).await;
        app.app.finish_jobs().await;
        let ended = app.job(&job).await;
        app.pool.lose(1, 0);
        app.app.clock.advance(Duration::from_hours(23));
        reconciler.round().await.unwrap();
        let asked = app.pool.calls(Call::History);
        assert_eq!(asked, 1);
        app.app.clock.advance(Duration::from_hours(2));
        for _ in 0..2 {
            reconciler.round().await.unwrap();
        }
        assert_eq!(app.pool.calls(Call::History), 2, "asked for the last time");
        assert_eq!(app.job(&job).await, ended);
        assert_eq!(ended["state"], "complete");
    }
}

#[tokio::test]
async fn a_history_that_is_never_told_is_given_up_after_a_day() {
    let (app, mut reconciler, job) = with_job(1).await;
    app.complete(&job, 0, None).await;
    app.app.finish_jobs().await;
    app.pool.leave(1, 0, json!({"JobStatus": 4}));
    app.pool.silence(Call::History);
    reconciler.round().await.unwrap_err();
    app.app.clock.advance(Duration::from_hours(25));
    for _ in 0..2 {
        reconciler.round().await.unwrap();
    }
    assert_eq!(app.pool.calls(Call::History), 2, "asked for the last time");
}

#[tokio::test]
async fn a_canceled_job_gets_its_account_too() {
    let (app, mut reconciler, job) = with_job(1).await;
    app.pool.run(1, 0);
    app.pool.change(1, 0, json!({"RemoteUserCpu": 3600.0}));
    app.cancel(&job).await;
    app.app.finish_jobs().await;
    assert_eq!(app.app.state(&job).await, "canceled");
    reconciler.round().await.unwrap();
    assert_eq!(app.job(&job).await["cpu_hours"], 1.0);
}

#[tokio::test]
async fn a_job_that_was_never_submitted_has_no_account() {
    let app = PoolApp::new().await;
    let mut reconciler = app.reconciler();
    let job = app.stored("alice", 1).await.to_string();
    app.cancel(&job).await;
    app.app.finish_jobs().await;
    assert_eq!(app.app.state(&job).await, "canceled");
    app.app.clock.advance(Duration::from_mins(11));
    reconciler.round().await.unwrap();
    let asked = app.pool.calls(Call::Queue);
    reconciler.round().await.unwrap();
    assert_eq!(
        app.pool.calls(Call::Queue),
        asked,
        "nothing is due any more"
    );
}

/// Several services over one store: one works, and another takes over.
#[tokio::test]
async fn one_reconciler_works_at_a_time() {
    let (app, _, _job) = with_job(1).await;
    let every = Duration::from_millis(20);
    let looks = || app.pool.calls(Call::Queue);
    let start = || {
        let stop = CancellationToken::new();
        let task = tokio::spawn(app.reconciler_every(every).run(stop.clone()));
        (stop, task)
    };
    // The test's clock moves a millisecond whenever it is asked: a lease of 60 ms does not lapse soon.
    let (stop_first, first) = start();
    eventually("the first works", async || looks() > 0).await;
    first.abort();
    let _aborted = first.await;
    let seen = looks();
    let (stop_second, second) = start();
    let asked_five_times = app.app.clock.peek() + 5000;
    eventually("the second asks", async || {
        app.app.clock.peek() >= asked_five_times
    })
    .await;
    assert_eq!(looks(), seen, "the lease is the first one's");
    app.app.clock.advance(Duration::from_secs(1));
    eventually("the second takes over", async || looks() > seen).await;
    stop_second.cancel();
    second.await.unwrap();
    // It gave its lease back: a third need not wait.
    let seen = looks();
    let (stop_third, third) = start();
    eventually("the third begins", async || looks() > seen).await;
    stop_third.cancel();
    third.await.unwrap();
    drop(stop_first);
}
