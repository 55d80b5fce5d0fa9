//! The site `kbase`: jobs are submitted once, whatever happens, and canceled.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use cts_service::compute_site::ComputeSite;
use cts_service::identity::{Role, TokenFile};
use cts_service::jobs::resume::start_on_site;
use cts_service::lease_store::LeaseRequest;
use cts_shared::id::JobId;
use cts_shared::site::Site;

use crate::pool_app::{PoolApp, eventually};
use crate::pool_double::Call;
use crate::test_app::user;

fn id(job: &str) -> JobId {
    job.parse().unwrap()
}

#[tokio::test]
async fn a_job_is_one_cluster_with_a_proc_for_each_container() {
    let app = PoolApp::new().await;
    let job = app.submitted(3).await;
    assert_eq!(app.clusters(&job).await, json!([1]));
    assert_eq!(app.pool.queued(), ["1.0", "1.1", "1.2"]);
    assert_eq!(app.notice(&job).await, "");
    let taken = app.pool.taken();
    assert_eq!(taken.len(), 1);
    assert!(taken[0].contains(&format!("+CTSJobID = \"{job}\"\n")));
    assert!(taken[0].contains("Concurrency_Limits = alice\n"));
    // Taken once, however often it is handed over.
    start_on_site(&app.app.app, Site::Kbase, id(&job))
        .await
        .unwrap();
    assert_eq!(app.pool.taken().len(), 1);
}

#[tokio::test]
async fn users_need_the_role_and_a_name_that_can_be_written() {
    let app = PoolApp::with(|app| {
        app.identity = Arc::new(TokenFile::from_users([
            user(
                "admin",
                &[Role::FullAdmin, Role::KbaseStaff, Role::NerscAccount],
            ),
            user("bob", &[]),
            user("eve,all", &[Role::KbaseStaff]),
        ]));
    })
    .await;
    let job = app.job_input(1);
    app.app
        .call("bob", "POST", "/jobs", Some(job.clone()))
        .await
        .expect_error(403, 20000);
    let refused = app.app.call("eve,all", "POST", "/jobs", Some(job)).await;
    let message = refused.expect_error(400, 30001).message();
    assert!(message.contains("Concurrency_Limits"), "{message}");
    assert!(message.contains("eve,all"), "{message}");
    assert_eq!(app.pool.calls(Call::Submit), 0);
}

#[tokio::test]
async fn a_submission_whose_answer_was_lost_is_found_again() {
    let app = PoolApp::new().await;
    app.pool.lose_answers();
    let job = app.submit(2).await;
    eventually("the loss is told", async || {
        app.notice(&job).await == "it waits for site kbase: timed out"
    })
    .await;
    assert_eq!(app.app.state(&job).await, "created");
    app.pool.accept();
    app.start_waiting().await;
    assert_eq!(app.app.state(&job).await, "download_submitted");
    assert_eq!(app.clusters(&job).await, json!([1]));
    assert_eq!(app.pool.taken().len(), 1);
    assert_eq!(app.notice(&job).await, "");
}

/// A service was killed after the pool took the job and before it noted that.
#[tokio::test]
async fn the_submission_of_a_service_that_died_is_found_in_queue_or_history() {
    for left in [false, true] {
        let app = PoolApp::new().await;
        let job = app.stored("alice", 1).await;
        let now = app.app.app.clock.now();
        let request = LeaseRequest {
            name: format!("submit {job}"),
            holder: "the dead".to_owned(),
            now,
            until: now.plus(Duration::from_mins(5)),
        };
        app.leases().take_lease(request).await.unwrap();
        let cluster = app.pool.put(&job.to_string(), 1);
        if left {
            app.pool
                .leave(cluster, 0, json!({"JobStatus": 4, "ExitCode": 0}));
        }
        app.start_waiting().await;
        assert_eq!(
            app.app.state(&job.to_string()).await,
            "created",
            "it may be alive"
        );
        app.app.clock.advance(Duration::from_mins(6));
        app.start_waiting().await;
        assert_eq!(app.app.state(&job.to_string()).await, "download_submitted");
        assert_eq!(app.clusters(&job.to_string()).await, json!([cluster]));
        assert_eq!(app.pool.calls(Call::Submit), 0);
    }
}

/// The existing service over the same database takes no lease.
#[tokio::test]
async fn a_job_that_was_submitted_without_a_lease_is_found() {
    let app = PoolApp::new().await;
    let job = app.stored("alice", 1).await;
    let cluster = app.pool.put(&job.to_string(), 1);
    app.app.clock.advance(Duration::from_mins(6));
    app.start_waiting().await;
    assert_eq!(app.app.state(&job.to_string()).await, "download_submitted");
    assert_eq!(app.clusters(&job.to_string()).await, json!([cluster]));
    assert_eq!(app.pool.calls(Call::Submit), 0);
}

/// The process stands still before it submits; another takes the job, submits it, and gives its lease back.
#[tokio::test]
async fn a_service_that_stood_still_does_not_submit() {
    let app = PoolApp::new().await;
    let job = app.stored("alice", 1).await;
    app.app.clock.advance(Duration::from_mins(1));
    let mut pause = app.pool.pause(Call::Queue);
    let late = app.site();
    let late = tokio::spawn(async move { late.start(job, vec![0]).await });
    pause.reached().await;
    let now = app.app.app.clock.now().plus(Duration::from_mins(2));
    let request = LeaseRequest {
        name: format!("submit {job}"),
        holder: "the other".to_owned(),
        now,
        until: now.plus(Duration::from_mins(1)),
    };
    let (name, holder) = (request.name.clone(), request.holder.clone());
    app.leases().take_lease(request).await.unwrap();
    app.leases().give_back_lease(name, holder).await.unwrap();
    pause.go_on();
    late.await.unwrap().unwrap_err();
    assert_eq!(app.pool.calls(Call::Submit), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn services_that_start_a_job_together_submit_it_once() {
    let app = PoolApp::new().await;
    for round in 1..=25 {
        let job = app.stored("alice", 1).await;
        let (first, second) = (app.site(), app.site());
        // Each service may be at it twice: its submission and its starter.
        let _outcomes = tokio::join!(
            first.start(job, vec![0]),
            second.start(job, vec![0]),
            first.start(job, vec![0]),
            second.start(job, vec![0]),
        );
        app.start_waiting().await;
        assert_eq!(app.app.state(&job.to_string()).await, "download_submitted");
        assert_eq!(app.pool.taken().len(), round);
    }
}

/// The pool is slow, so the starter of the same service comes while the submission is under way.
#[tokio::test]
async fn a_submission_under_way_is_not_made_again() {
    let app = PoolApp::new().await;
    let mut pause = app.pool.pause(Call::Submit);
    let job = app.submit(1).await;
    pause.reached().await;
    app.start_waiting().await;
    assert_eq!(app.pool.taken().len(), 0);
    assert_eq!(app.notice(&job).await, "");
    pause.go_on();
    app.wait_for_state(&job, "download_submitted").await;
    assert_eq!(app.pool.taken().len(), 1);
    assert_eq!(app.clusters(&job).await, json!([1]));
}

#[tokio::test]
async fn a_job_waits_for_a_pool_that_is_away() {
    let app = PoolApp::new().await;
    app.pool.set_away(true);
    let job = app.submit(1).await;
    let expected = "it waits for site kbase: Failed to connect to schedd";
    eventually("the cause is told", async || {
        app.notice(&job).await == expected
    })
    .await;
    let since = app.job(&job).await["site_notice"]["since"].clone();
    app.start_waiting().await;
    assert_eq!(app.app.state(&job).await, "created");
    assert_eq!(app.job(&job).await["site_notice"]["since"], since);
    app.pool.set_away(false);
    app.start_waiting().await;
    assert_eq!(app.app.state(&job).await, "download_submitted");
    assert_eq!(app.notice(&job).await, "");
    assert_eq!(app.pool.taken().len(), 1);
}

#[tokio::test]
async fn what_the_pool_refuses_fails_after_an_hour() {
    let app = PoolApp::new().await;
    app.pool.refuse("ERROR: too big for this schedd");
    let job = app.submit(1).await;
    eventually("the refusal is told", async || {
        app.notice(&job)
            .await
            .ends_with("ERROR: too big for this schedd")
    })
    .await;
    app.app.clock.advance(Duration::from_mins(59));
    app.start_waiting().await;
    assert_eq!(app.app.state(&job).await, "created");
    app.app.clock.advance(Duration::from_mins(2));
    app.start_waiting().await;
    assert_eq!(app.app.state(&job).await, "error");
    assert_eq!(
        app.admin_error(&job).await,
        "site kbase does not take the job: ERROR: too big for this schedd"
    );
    assert_eq!(
        app.job(&job).await["error"],
        "An unexpected error occurred."
    );
    // The owner learns no more than that from the error.
    assert_eq!(
        app.notice(&job).await,
        "site kbase does not take the job: ERROR: too big for this schedd; ask the service's administrators"
    );
}

/// What a schedd says that has just come back is no reason to give up what has waited for it.
#[tokio::test]
async fn the_hour_begins_with_the_refusal_and_not_with_the_job() {
    let app = PoolApp::new().await;
    app.pool.set_away(true);
    let job = app.submit(1).await;
    // The first try is over: it must not meet what comes next.
    eventually("why it waits is told", async || {
        !app.notice(&job).await.is_empty()
    })
    .await;
    app.app.clock.advance(Duration::from_hours(5));
    app.start_waiting().await;
    app.pool.set_away(false);
    app.pool.refuse("ERROR: Failed to create cluster");
    app.start_waiting().await;
    assert_eq!(app.app.state(&job).await, "created");
    app.app.clock.advance(Duration::from_mins(61));
    app.start_waiting().await;
    assert_eq!(app.app.state(&job).await, "error");
}

/// It could be written when the job was submitted: settings have changed since.
#[tokio::test]
async fn what_cannot_be_written_fails_at_once() {
    let app = PoolApp::new().await;
    let job = app.stored("a,b", 1).await.to_string();
    app.start_waiting().await;
    let record = app.job(&job).await;
    assert_eq!(record["state"], "error");
    let error = app.admin_error(&job).await;
    assert!(error.contains("Concurrency_Limits"), "{error}");
    assert_eq!(app.pool.calls(Call::Submit), 0);
}

#[tokio::test]
async fn a_canceled_job_leaves_the_pool() {
    let app = PoolApp::new().await;
    let job = app.submitted(2).await;
    let other = app.submitted(1).await;
    app.cancel(&job).await;
    app.app.finish_jobs().await;
    assert_eq!(app.app.state(&job).await, "canceled");
    assert_eq!(app.pool.removed(), ["1.0", "1.1"]);
    assert_eq!(app.pool.queued(), ["2.0"]);
    assert_eq!(app.app.state(&other).await, "download_submitted");
}

#[tokio::test]
async fn a_cancel_waits_for_a_pool_that_is_away() {
    let app = PoolApp::new().await;
    let job = app.submitted(1).await;
    app.pool.set_away(true);
    app.cancel(&job).await;
    app.app.finish_jobs().await;
    assert_eq!(app.app.state(&job).await, "canceling");
    app.pool.set_away(false);
    app.app.finish_jobs().await;
    assert_eq!(app.app.state(&job).await, "canceled");
    assert_eq!(app.pool.queued(), [""; 0]);
}

#[tokio::test]
async fn a_cancel_waits_until_the_executors_are_gone() {
    let app = PoolApp::new().await;
    let job = app.submitted(1).await;
    app.pool.remove_slowly();
    app.cancel(&job).await;
    let finishing = app.app.finish_jobs();
    let ending = async {
        eventually("it is being removed", async || {
            app.pool.removed() == ["1.0"]
        })
        .await;
        assert_eq!(app.app.state(&job).await, "canceling");
        app.pool.leave(1, 0, json!({}));
    };
    tokio::join!(finishing, ending);
    assert_eq!(app.app.state(&job).await, "canceled");
}

#[tokio::test]
async fn a_job_canceled_before_its_submission_is_never_submitted() {
    let app = PoolApp::new().await;
    app.pool.set_away(true);
    let job = app.submit(1).await;
    eventually("it waits", async || !app.notice(&job).await.is_empty()).await;
    app.cancel(&job).await;
    assert_eq!(
        app.notice(&job).await,
        "",
        "it does not wait to start any more"
    );
    app.pool.set_away(false);
    app.start_waiting().await;
    app.app.finish_jobs().await;
    assert_eq!(app.app.state(&job).await, "canceled");
    assert_eq!(app.notice(&job).await, "");
    app.start_waiting().await;
    assert_eq!(app.pool.taken().len(), 0);
}

/// The submission was on its way when the job was canceled: nobody else looks after its cluster.
#[tokio::test]
async fn the_cluster_of_a_job_canceled_meanwhile_is_removed() {
    let app = PoolApp::new().await;
    let mut reconciler = app.reconciler();
    let mut pause = app.pool.pause(Call::Submit);
    let job = app.submit(1).await;
    pause.reached().await;
    app.cancel(&job).await;
    app.app.finish_jobs().await;
    assert_eq!(app.app.state(&job).await, "canceled");
    reconciler.round().await.unwrap();
    pause.go_on();
    eventually("it is noted", async || {
        app.clusters(&job).await == json!([1])
    })
    .await;
    for _ in 0..2 {
        reconciler.round().await.unwrap();
    }
    assert_eq!(app.pool.removed(), ["1.0"]);
    assert_eq!(app.app.state(&job).await, "canceled");
}

#[tokio::test]
async fn the_runners_status_is_from_queue_or_history() {
    let app = PoolApp::new().await;
    app.pool.set_away(true);
    let job = app.submit(2).await;
    let status = async |number: u32| {
        let path = format!("/admin/jobs/{job}/runner_status?container_number={number}");
        app.app.get("admin", &path).await
    };
    assert_eq!(
        status(0).await.expect(200).json(),
        json!({}),
        "no cluster yet"
    );
    app.pool.set_away(false);
    eventually("the pool has it", async || {
        app.start_waiting().await;
        app.app.state(&job).await == "download_submitted"
    })
    .await;
    app.pool.run(1, 1);
    let running = status(1).await.expect(200).json();
    assert_eq!(
        (&running["ProcId"], &running["JobStatus"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(running["RemoteHost"], "slot1@n1.example.org");
    app.pool.leave(1, 1, json!({"JobStatus": 4, "ExitCode": 0}));
    assert_eq!(status(1).await.expect(200).json()["ExitCode"], 0);
    app.pool.lose(1, 0);
    let message = status(0).await.expect(500).message();
    assert!(!message.is_empty());
    app.pool.set_away(true);
    let message = status(0).await.expect(503).message();
    assert!(message.contains("Failed to connect to schedd"), "{message}");
}

#[tokio::test]
async fn a_job_is_clean_when_its_executors_are_gone() {
    let app = PoolApp::new().await;
    let job = app.submitted(2).await;
    for container in 0..2 {
        app.complete(&job, container, None).await;
        app.pool.run(1, i64::from(container));
    }
    app.app.finish_jobs().await;
    assert_eq!(app.app.state(&job).await, "complete");
    let path = format!("/admin/jobs/{job}/clean");
    let clean = async || app.app.call("admin", "DELETE", &path, None).await;
    clean().await.expect(503);
    app.pool.leave(1, 0, json!({"JobStatus": 4}));
    app.pool.hold(1, 1, 1, json!({"HoldReasonCode": 3}));
    app.pool.set_away(true);
    let refused = clean().await;
    assert!(refused.status.is_server_error(), "{}", refused.text);
    app.pool.set_away(false);
    clean().await.expect(204);
    assert_eq!(app.job(&job).await["cleaned"], true);
}
