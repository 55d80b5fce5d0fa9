//! Jobs that succeed: the contract's calls, right outputs, nothing else.

use cts_tests::object_store::crc64nvme;

use crate::harness::{Case, Coordinator, Executor};

const COMPLETE: [&str; 5] = [
    "job_submitting",
    "job_submitted",
    "upload_submitting",
    "upload_submitted",
    "complete",
];

#[tokio::test]
async fn inputs_arrive_and_outputs_are_stored_with_their_checksums() {
    let case = Case::new(
        "success",
        &["copy_inputs", "write sub/note.txt done", "say hello"],
    );
    let case = case
        .await
        .input("reads.fq", b"@r\nACGT\n+\n!!!!\n")
        .await
        .input("empty", b"")
        .await;
    let coordinator = Coordinator::start(case.job()).await;
    let outcome = Executor::new(&case).run(&case, &coordinator).await;

    outcome.check_status(0);
    outcome.check_states(&COMPLETE);
    outcome.check(
        outcome.body("upload_submitting")["exit_code"] == 0,
        "the exit code",
    );
    let reported = outcome.outputs();
    let stored = case.published().await;
    outcome.check(
        reported.keys().eq(&stored),
        "a report of exactly what is stored",
    );
    for (name, content) in [
        ("reads.fq", &b"@r\nACGT\n+\n!!!!\n"[..]),
        ("empty", b""),
        ("sub/note.txt", b"done\n"),
    ] {
        let path = case.output_path(name);
        let object = case.store.get(&path).await.unwrap();
        outcome.check(
            object.as_deref() == Some(content),
            &format!("{path} as written"),
        );
        let checksum = crc64nvme(content);
        outcome.check(
            reported.get(&path) == Some(&checksum),
            &format!("{path} as {checksum}"),
        );
        let kept = case.store.stored_checksum(&path).await.unwrap();
        outcome.check(
            kept.as_ref() == Some(&checksum),
            "the store to know the checksum",
        );
    }
}

#[tokio::test]
async fn a_large_object_goes_through_in_parts_both_ways() {
    // Above every part size in use, and no multiple of one.
    let numbers = (0..10_000_001_u32).map(|i| i.wrapping_mul(2_654_435_761));
    let content: Vec<u8> = numbers.flat_map(u32::to_le_bytes).chain(*b"end").collect();
    let case = Case::new("large", &["copy_inputs"])
        .await
        .input("genome.fa", &content)
        .await;
    let coordinator = Coordinator::start(case.job()).await;
    let outcome = Executor::new(&case).run(&case, &coordinator).await;

    outcome.check_status(0);
    let path = case.output_path("genome.fa");
    let checksum = crc64nvme(&content);
    outcome.check(
        outcome.outputs().get(&path) == Some(&checksum),
        "the checksum of the whole",
    );
    let object = case.store.get(&path).await.unwrap();
    outcome.check(
        object.is_some_and(|object| object == content),
        "the same bytes",
    );
    let kept = case.store.stored_checksum(&path).await.unwrap();
    outcome.check(
        kept == Some(checksum),
        "a full-object checksum in the store",
    );
}

#[tokio::test]
async fn declobber_gives_each_container_a_directory_of_its_own() {
    let case = Case::new("declobber", &["copy_inputs", "write same.txt x"]);
    let case = case.await.containers(2).declobber();
    let case = case.input("a.txt", b"a").await.input("b.txt", b"b").await;
    for (number, input) in [(0, "a.txt"), (1, "b.txt")] {
        let coordinator = Coordinator::start(case.job()).await;
        let executor = Executor::new(&case).container(number);
        let outcome = executor.run(&case, &coordinator).await;
        outcome.check_status(0);
        let expected =
            [input, "same.txt"].map(|name| case.output_path(&format!("{number}/{name}")));
        outcome.check(
            outcome.outputs().keys().eq(&expected),
            "outputs below the container's number",
        );
    }
}

#[tokio::test]
async fn many_files_are_all_stored() {
    let case = Case::new("many", &["many 500"])
        .await
        .input("a.txt", b"a")
        .await;
    let coordinator = Coordinator::start(case.job()).await;
    let outcome = Executor::new(&case).run(&case, &coordinator).await;

    outcome.check_status(0);
    let reported = outcome.outputs();
    outcome.check(reported.len() == 500, "500 outputs");
    let last = case.output_path("many/4/499.txt");
    outcome.check(
        reported.get(&last) == Some(&crc64nvme(b"file 499\n")),
        "the right checksums",
    );
    outcome.check(
        reported.keys().eq(&case.published().await),
        "all of them stored",
    );
}

#[tokio::test]
async fn no_output_is_a_success_without_outputs() {
    let case = Case::new("no-output", &["say nothing"])
        .await
        .input("a.txt", b"a")
        .await;
    let coordinator = Coordinator::start(case.job()).await;
    let outcome = Executor::new(&case).run(&case, &coordinator).await;

    outcome.check_status(0);
    outcome.check_states(&COMPLETE);
    outcome.check(
        outcome.body("complete").get("outputs").is_none(),
        "no member `outputs`",
    );
}

#[tokio::test]
async fn a_lost_answer_to_an_update_does_not_lose_the_job() {
    let case = Case::new("lost-answer", &["write a.txt a"])
        .await
        .input("a.txt", b"a")
        .await;
    let coordinator = Coordinator::losing_the_answer_of(case.job(), "job_submitted").await;
    let outcome = Executor::new(&case).run(&case, &coordinator).await;

    outcome.check_status(0);
    outcome.check_states(&COMPLETE);
}

#[tokio::test]
async fn arguments_with_spaces_reach_the_program_unquoted() {
    let case = Case::new("spaces", &["write 'a b.txt' \"it's $((6 * 7))\""]);
    let case = case.await.input("a.txt", b"a").await;
    let coordinator = Coordinator::start(case.job()).await;
    let outcome = Executor::new(&case).run(&case, &coordinator).await;

    outcome.check_status(0);
    let object = case.store.get(&case.output_path("a b.txt")).await.unwrap();
    outcome.check(
        object.as_deref() == Some(b"it's 42\n"),
        "the argument as it was given",
    );
}
