//! Attempts: of two executors of one container the later one counts, and the earlier one ends without a trace.

use std::time::Duration;

use crate::harness::{Case, Coordinator, Executor, eventually};

/// For an executor to start its container.
const PHASE_DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn the_later_of_two_executors_counts_and_the_earlier_one_ends_quietly() {
    let case = Case::new("attempts", &["started_and_waiting"])
        .await
        .input("a", b"a")
        .await;
    let coordinator = Coordinator::counting_attempts(case.job()).await;
    let earlier = Executor::new(&case).start(&coordinator);
    eventually("the first container at work", PHASE_DEADLINE, async || {
        earlier.output("started")
    })
    .await;

    let case = case.commands(&["copy_inputs"]);
    coordinator.set_job(case.job());
    let later = Executor::new(&case).run(&case, &coordinator).await;
    later.check_status(0);
    assert_eq!(later.outputs().len(), 1);

    let earlier = earlier.finish(&case, &coordinator).await;
    earlier.check_status(0);
    earlier.check(
        earlier
            .stderr()
            .contains("another attempt runs this container now"),
        "a line on why it ended",
    );
    // Told apart by the attempt they carry.
    assert_eq!(later.body("complete")["attempt"], 2);
}
