//! A worker that is set up wrongly.

use crate::harness::{Case, Coordinator, Executor};

#[tokio::test]
async fn a_refused_token_is_said_and_nothing_is_reported() {
    let case = Case::new("token", &["copy_inputs"])
        .await
        .input("a", b"a")
        .await;
    let coordinator = Coordinator::start(case.job()).await;
    let executor = Executor::new(&case).token("not-the-right-one");
    let outcome = executor.run(&case, &coordinator).await;

    outcome.check_states(&[]);
    outcome.check(
        outcome.stderr().contains("TOKEN_PATH"),
        "the variable to look at",
    );
    outcome.check(
        !outcome.stderr().contains("not-the-right-one"),
        "no token in the output",
    );
    outcome.check_status(77);
}

#[tokio::test]
async fn a_missing_setting_is_named_before_any_request() {
    let case = Case::new("setting", &["copy_inputs"])
        .await
        .input("a", b"a")
        .await;
    let coordinator = Coordinator::start(case.job()).await;
    let executor = Executor::new(&case).env("S3_URL", "");
    let outcome = executor.run(&case, &coordinator).await;

    outcome.check_status(78);
    outcome.check_states(&[]);
    outcome.check(outcome.stderr().contains("S3_URL"), "the variable");
}

#[tokio::test]
async fn a_wrong_s3_secret_fails_the_job_with_words() {
    let case = Case::new("s3-secret", &["copy_inputs"])
        .await
        .input("a", b"a")
        .await;
    let coordinator = Coordinator::start(case.job()).await;
    let executor = Executor::new(&case).env("S3_ACCESS_KEY", "nobody");
    let outcome = executor.run(&case, &coordinator).await;

    outcome.check_status(1);
    outcome.check_states(&["error"]);
    outcome.check_error_names(&["S3"]);
}
