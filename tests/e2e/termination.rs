//! SIGTERM in every phase: container gone, no stray files, exit status 143, in time.

use std::time::{Duration, Instant};

use crate::harness::{Case, Coordinator, Executor, Fault, Outcome, Proxy, Running, eventually};

/// Ten seconds, the stop grace that the harness sets, and what a busy machine adds.
const IN_TIME: Duration = Duration::from_secs(30);
/// For the run to get to the phase that is to be interrupted.
const PHASE_DEADLINE: Duration = Duration::from_secs(120);
/// For the container of a killed executor to go.
const REAP_DEADLINE: Duration = Duration::from_secs(60);

fn check_terminated(outcome: &Outcome, since: Instant) {
    outcome.check_status(143);
    outcome.check(
        outcome.ended.duration_since(since) <= IN_TIME,
        "an end in time",
    );
}

/// An executor whose container has started and says that it is at work.
async fn container_at_work(case: &Case, coordinator: &Coordinator) -> Running {
    let running = Executor::new(case).start(coordinator);
    coordinator.wait_for("job_submitted", PHASE_DEADLINE).await;
    eventually("the container at work", PHASE_DEADLINE, async || {
        running.output("started")
    })
    .await;
    running
}

#[tokio::test]
async fn while_inputs_are_fetched() {
    let case = Case::new("term-staging", &["copy_inputs"]).await;
    let case = case.input("big.bin", &vec![7; 8 << 20]).await;
    let fault = Fault::StallDownload { after: 1 << 20 };
    let proxy = Proxy::start(&case.testbed.s3.url, fault).await;
    let coordinator = Coordinator::start(case.job()).await;
    let running = Executor::new(&case)
        .env("S3_URL", proxy.url())
        .start(&coordinator);
    proxy.struck().await;
    let since = Instant::now();
    running.terminate();
    let outcome = running.finish(&case, &coordinator).await;
    check_terminated(&outcome, since);
    outcome.check_states(&[]);
}

#[tokio::test]
async fn while_the_container_runs() {
    let case = Case::new("term-running", &["started_and_waiting"])
        .await
        .input("a", b"a")
        .await;
    let coordinator = Coordinator::start(case.job()).await;
    let running = container_at_work(&case, &coordinator).await;
    let since = Instant::now();
    running.terminate();
    let outcome = running.finish(&case, &coordinator).await;
    check_terminated(&outcome, since);
    outcome.check(
        case.published().await.is_empty(),
        "no output of a container that was stopped",
    );
}

#[tokio::test]
async fn while_the_container_ignores_the_signal() {
    let case = Case::new("term-deaf", &["ignore_sigterm", "started_and_waiting"]);
    let case = case.await.input("a", b"a").await;
    let coordinator = Coordinator::start(case.job()).await;
    let running = Executor::new(&case).start(&coordinator);
    eventually("the container at work", PHASE_DEADLINE, async || {
        running.output("started")
    })
    .await;
    let since = Instant::now();
    running.terminate();
    let outcome = running.finish(&case, &coordinator).await;
    check_terminated(&outcome, since);
}

#[tokio::test]
async fn while_outputs_are_stored() {
    let case = Case::new("term-upload", &["big out.bin 24"])
        .await
        .input("a", b"a")
        .await;
    let fault = Fault::StallUpload { after: 4 << 20 };
    let proxy = Proxy::start(&case.testbed.s3.url, fault).await;
    let coordinator = Coordinator::start(case.job()).await;
    let running = Executor::new(&case)
        .env("S3_URL", proxy.url())
        .start(&coordinator);
    proxy.struck().await;
    let since = Instant::now();
    running.terminate();
    let outcome = running.finish(&case, &coordinator).await;
    check_terminated(&outcome, since);
    outcome.check(
        case.published().await.is_empty(),
        "no half output in the store",
    );
}

/// SIGKILL cannot be handled: the guardian removes the container.
#[tokio::test]
async fn killed_outright_the_container_goes_within_seconds() {
    let case = Case::new("kill-guarded", &["ignore_sigterm", "started_and_waiting"])
        .await
        .input("a", b"a")
        .await;
    let coordinator = Coordinator::start(case.job()).await;
    let running = container_at_work(&case, &coordinator).await;
    running.kill().await;
    eventually("no container", REAP_DEADLINE, async || {
        match case.containers_left().await.len() {
            0 => Ok(()),
            left => Err(format!("{left} left")),
        }
    })
    .await;
}

/// Executor and guardian are killed together, as HTCondor does: the next executor of the same container cleans
/// up and does the work.
#[tokio::test]
async fn killed_outright_and_run_again() {
    let case = Case::new("kill", &["started_and_waiting"])
        .await
        .input("a", b"a")
        .await;
    let coordinator = Coordinator::start(case.job()).await;
    let running = container_at_work(&case, &coordinator).await;
    running.kill_all().await;

    let case = case.commands(&["copy_inputs"]);
    let coordinator = Coordinator::start(case.job()).await;
    let outcome = Executor::new(&case).run(&case, &coordinator).await;
    outcome.check_status(0);
    assert_eq!(outcome.outputs().len(), 1);
}

/// The same, and nobody comes: a cron does.
#[tokio::test]
async fn killed_outright_and_reaped_while_the_living_are_left_alone() {
    let case = Case::new("kill-reaped", &["started_and_waiting"])
        .await
        .input("a", b"a")
        .await;
    let living = Case::new("kill-living", &["started_and_waiting"])
        .await
        .input("a", b"a")
        .await;
    let coordinator = Coordinator::start(case.job()).await;
    let running = container_at_work(&case, &coordinator).await;
    let coordinator_of_living = Coordinator::start(living.job()).await;
    let living_on = container_at_work(&living, &coordinator_of_living).await;
    running.kill_all().await;
    // Another test's executor may have been quicker; then there is nothing to reap, which is as good.
    let said = Executor::reap(&case).await;
    assert_eq!(case.containers_left().await, Vec::<String>::new(), "{said}");
    let left = format!("left cts-{}-0-", living.job_id);
    assert!(said.contains(&left), "{said}");
    living_on.terminate();
    living_on.finish(&living, &coordinator_of_living).await;
}
