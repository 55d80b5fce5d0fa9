//! Containers that fail: the executor did its work, and says in words what happened.

use crate::harness::{Case, Coordinator, Executor};

const FAILED: [&str; 5] = [
    "job_submitting",
    "job_submitted",
    "error_processing_submitting",
    "error_processing_submitted",
    "error",
];

#[tokio::test]
async fn an_exit_code_is_reported_and_the_logs_are_kept() {
    let case = Case::new(
        "exit-3",
        &["say on stdout", "complain on stderr", "write a b", "exit 3"],
    );
    let case = case.await.input("a.txt", b"a").await;
    let coordinator = Coordinator::start(case.job()).await;
    let outcome = Executor::new(&case).run(&case, &coordinator).await;

    outcome.check_status(0);
    outcome.check_states(&FAILED);
    outcome.check(
        outcome.body("error_processing_submitting")["exit_code"] == 3,
        "the exit code",
    );
    outcome.check_error_names(&["Container exit code: 3"]);
    outcome.check(
        case.published().await.is_empty(),
        "no output of a failed container",
    );
    for (stream, content) in [("stdout", "on stdout\n"), ("stderr", "on stderr\n")] {
        let path = format!("{}/container-0-{stream}.txt", case.log_path());
        let log = case.store.get(&path).await.unwrap();
        outcome.check(
            log.as_deref() == Some(content.as_bytes()),
            &format!("the log {path}"),
        );
    }
}

#[tokio::test]
async fn out_of_memory_is_said_in_words() {
    let case = Case::new("oom", &["hog_memory 200"])
        .await
        .memory_mb(64)
        .input("a", b"a")
        .await;
    let coordinator = Coordinator::start(case.job()).await;
    let outcome = Executor::new(&case).run(&case, &coordinator).await;

    outcome.check_status(0);
    outcome.check_states(&FAILED);
    outcome.check(
        outcome.body("error_processing_submitting")["exit_code"] == 137,
        "exit code 137",
    );
    outcome.check_error_names(&["Container exit code: 137", "memory"]);
}

#[tokio::test]
async fn the_runtime_is_enforced() {
    let case = Case::new("timeout", &["ignore_sigterm", "started_and_waiting"]);
    let case = case.await.runtime_secs(3).input("a", b"a").await;
    let coordinator = Coordinator::start(case.job()).await;
    let outcome = Executor::new(&case).run(&case, &coordinator).await;

    outcome.check_status(0);
    outcome.check_states(&FAILED);
    outcome.check_error_names(&["runtime"]);
    outcome.check(
        case.published().await.is_empty(),
        "no output of a container that was stopped",
    );
}

#[tokio::test]
async fn a_missing_program_is_named() {
    let case = Case::new("no-program", &["exec /no/such/program"])
        .await
        .input("a", b"a")
        .await;
    let coordinator = Coordinator::start(case.job()).await;
    let outcome = Executor::new(&case).run(&case, &coordinator).await;

    outcome.check_status(0);
    outcome.check_states(&FAILED);
    outcome.check_error_names(&["Container exit code: 127", "not found"]);
}
