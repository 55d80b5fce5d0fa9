//! What a clumsy or hostile container leaves in its output directory.

use crate::harness::{Case, Coordinator, Executor};

#[tokio::test]
async fn links_and_fifos_are_never_opened() {
    let case = Case::new("links", &[]).await.input("a.txt", b"a").await;
    // The executor's directory comes first, because the container is told of a file in it.
    let executor = Executor::new(&case);
    let link_to_token = format!("link stolen-token {}", executor.token_path());
    let case = case.args(&[
        "write good.txt good",
        &link_to_token,
        "link loop loop",
        "link up ../__input__",
        "link dangling /no/such/file",
        "fifo pipe",
    ]);
    let coordinator = Coordinator::start(case.job()).await;
    let outcome = executor.run(&case, &coordinator).await;

    outcome.check_status(0);
    let good = case.output_path("good.txt");
    outcome.check(
        outcome.outputs().keys().eq([&good]),
        "only the regular file as output",
    );
    outcome.check(
        case.published().await == [good],
        "only the regular file in the store",
    );
    for name in ["stolen-token", "loop", "up", "dangling", "pipe"] {
        outcome.check(
            outcome.stderr().contains(name),
            &format!("a word on {name}"),
        );
    }
}

#[tokio::test]
async fn all_unusable_names_are_reported_at_once() {
    let case = Case::new("names", &["write good.txt good", "bad_names"]);
    let case = case.await.input("a.txt", b"a").await;
    let coordinator = Coordinator::start(case.job()).await;
    let outcome = Executor::new(&case).run(&case, &coordinator).await;

    outcome.check_status(1);
    outcome.check_error_names(&["it's", r"a\nb", "not-"]);
}

#[tokio::test]
async fn a_hard_link_is_stored_as_its_bytes() {
    let case = Case::new(
        "hard-link",
        &["write a.txt text", "ln $OUT/a.txt $OUT/b.txt"],
    );
    let case = case.await.input("in.txt", b"in").await;
    let coordinator = Coordinator::start(case.job()).await;
    let outcome = Executor::new(&case).run(&case, &coordinator).await;

    outcome.check_status(0);
    let object = case.store.get(&case.output_path("b.txt")).await.unwrap();
    outcome.check(
        object.as_deref() == Some(b"text\n"),
        "the bytes of the file",
    );
}
