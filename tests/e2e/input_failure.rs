//! Inputs that are not what the job says: nothing runs, and the object is named.

use crate::harness::{Case, Coordinator, Executor, Fault, Proxy};
use cts_tests::object_store::crc64nvme;

#[tokio::test]
async fn a_missing_object_is_named() {
    let case = Case::new("missing", &["copy_inputs"])
        .await
        .input("there.txt", b"there")
        .await;
    let case = case.declared_input("absent.txt", "AAAAAAAAAAA=");
    let coordinator = Coordinator::start(case.job()).await;
    let outcome = Executor::new(&case).run(&case, &coordinator).await;

    outcome.check_status(1);
    outcome.check_states(&["error"]);
    outcome.check_error_names(&[&case.input_path("absent.txt")]);
}

#[tokio::test]
async fn an_object_that_changed_since_submission_is_refused() {
    let case = Case::new("changed", &["copy_inputs"])
        .await
        .input("a.txt", b"as submitted")
        .await;
    // Replaced after the job was submitted, with a checksum that is right for the new content.
    let found = case
        .store
        .put(&case.input_path("a.txt"), b"another one!")
        .await
        .unwrap();
    let coordinator = Coordinator::start(case.job()).await;
    let outcome = Executor::new(&case).run(&case, &coordinator).await;

    outcome.check_status(1);
    outcome.check_states(&["error"]);
    let path = case.input_path("a.txt");
    outcome.check_error_names(&[&path, &crc64nvme(b"as submitted"), &found]);
}

#[tokio::test]
async fn an_object_without_checksum_in_the_store_is_checked_all_the_same() {
    let case = Case::new("unchecked", &["copy_inputs"]).await;
    let path = case.input_path("a.txt");
    case.store
        .put_without_checksum(&path, b"damaged")
        .await
        .unwrap();
    let case = case.declared_input("a.txt", &crc64nvme(b"intact!"));
    let coordinator = Coordinator::start(case.job()).await;
    let outcome = Executor::new(&case).run(&case, &coordinator).await;

    outcome.check_status(1);
    outcome.check_states(&["error"]);
    outcome.check_error_names(&[&path, &crc64nvme(b"intact!"), &crc64nvme(b"damaged")]);
}

#[tokio::test]
async fn a_bit_flipped_on_the_way_is_noticed() {
    let case = Case::new("bit-flip", &["copy_inputs"]).await;
    let content = b"ACGT-marker-to-be-damaged-ACGT";
    let case = case.input("a.txt", content).await;
    let proxy = Proxy::start(
        &case.testbed.s3.url,
        Fault::Corrupt {
            text: b"marker-to-be",
        },
    )
    .await;
    let coordinator = Coordinator::start(case.job()).await;
    let executor = Executor::new(&case).env("S3_URL", proxy.url());
    let outcome = executor.run(&case, &coordinator).await;

    outcome.check_status(1);
    outcome.check_states(&["error"]);
    outcome.check_error_names(&[&case.input_path("a.txt"), &crc64nvme(content)]);
    proxy.struck().await;
}

#[tokio::test]
async fn inputs_that_collide_are_refused_before_anything_is_fetched() {
    let case = Case::new("collision", &["copy_inputs"])
        .await
        .input("x/same.txt", b"1")
        .await;
    let case = case.input("y/same.txt", b"2").await;
    let coordinator = Coordinator::start(case.job()).await;
    let outcome = Executor::new(&case).run(&case, &coordinator).await;

    outcome.check_status(1);
    outcome.check_states(&["error"]);
    outcome.check_error_names(&[
        &case.input_path("x/same.txt"),
        &case.input_path("y/same.txt"),
    ]);
}
