//! Attempts: where the service counts them, an executor announces itself first, its reports say which attempt
//! it is, and one that another has taken over from stops at once and publishes nothing.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cts_executor::clock::SteppedClock;
use cts_executor::container_engine::Usage;
use cts_executor::container_engine::fake::{End, Script};
use cts_executor::exit::ExitStatus;
use cts_executor::identity::Identity;
use cts_executor::object_store::ObjectStore;
use cts_executor::object_store::faulty::{Fault, FaultyStore, Operation};
use cts_executor::object_store::memory::MemoryStore;
use cts_executor::report::Budget;
use cts_executor::report::attempt::Attempt;
use cts_executor::transfer::PublishGate;
use cts_shared::wire::attempt::PUBLISH_LEASE;
use futures::FutureExt;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::bed::{Answer, Bed, DEADLINE, JOB_ID, Service, eventually, job};

const ORDINARY: [&str; 8] = [
    "GET",
    "announce",
    "GET",
    "job_submitting",
    "job_submitted",
    "upload_submitting",
    "upload_submitted",
    "complete",
];

async fn bed(script: Script, answers: BTreeMap<usize, Answer>) -> (Bed, Arc<SteppedClock>) {
    let document = job(&json!({}), &["buk/a/x"], 1, "buk/out");
    let service = Service::counting_attempts(document, answers);
    let mut bed = Bed::new(service, script).await;
    let clock = Arc::new(SteppedClock::default());
    bed.stepped = Some(Arc::clone(&clock));
    bed.put("buk/a/x", b"");
    (bed, clock)
}

fn with_output() -> Script {
    Script {
        writes: vec![("/output_files/a".to_owned(), b"1".to_vec())],
        ..Script::default()
    }
}

fn running() -> Script {
    Script {
        end: End::WhenStopped,
        ..Script::default()
    }
}

/// Lets time pass until the attempt has been renewed. Little by little: whoever is about to wait counts from
/// the time that it is then.
async fn until_renewed(bed: &Bed, clock: &SteppedClock) {
    eventually("the renewal", || {
        clock.advance(Duration::from_secs(1));
        bed.service.short_calls().iter().any(|call| call == "renew")
    })
    .await;
}

fn breaking(bed: &Bed, operation: Operation, fault: Fault) -> Arc<FaultyStore> {
    let memory: Arc<dyn ObjectStore> = Arc::<MemoryStore>::clone(&bed.store);
    Arc::new(FaultyStore::new(memory).always(operation, fault))
}

async fn run_over(bed: &Bed, store: &Arc<FaultyStore>) -> ExitStatus {
    let store: Arc<dyn ObjectStore> = Arc::<FaultyStore>::clone(store);
    bed.run_over(Box::new(move || Ok(Arc::clone(&store)))).await
}

/// Another attempt has taken over: a quiet end, and nothing of this one anywhere.
fn assert_fenced(bed: &Bed, status: ExitStatus) {
    assert_eq!(status.code(), 0, "{:?}", bed.service.short_calls());
    assert_eq!(bed.objects("buk/out"), Vec::<String>::new());
    assert_eq!(bed.objects("logs"), Vec::<String>::new());
    assert!(!bed.service.reported().contains(&"error".to_owned()));
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_announces_itself_and_its_reports_say_which_attempt_it_is() {
    let usage = Usage {
        cpu_seconds: Some(1.5),
        peak_memory_bytes: Some(4096),
    };
    let script = Script {
        usage,
        ..with_output()
    };
    let (bed, _clock) = bed(script, BTreeMap::new()).await;
    assert_eq!(bed.run().await.code(), 0);
    assert_eq!(bed.service.short_calls(), ORDINARY);
    let calls = bed.service.calls();
    let path = format!("/services/cts/external_exec/jobs/{JOB_ID}/container/0/attempts");
    assert_eq!(calls[1].path, path);
    let notice = calls[1].body.as_ref().unwrap();
    let labels = &bed.engine.specs()[0].labels;
    assert_eq!(notice["instance"], labels["us.kbase.cts.executor"]);
    assert!(!notice["host"].as_str().unwrap().is_empty());
    for call in &calls[3..] {
        let body = call.body.as_ref().unwrap();
        assert_eq!(body["attempt"], 1);
        let expected = (call.short() == "upload_submitting")
            .then(|| json!({ "cpu_ms": 1500, "wall_ms": 0, "max_memory_bytes": 4096 }));
        assert_eq!(body.get("usage"), expected.as_ref());
    }
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_announcement_whose_answer_is_lost_is_repeated_and_is_the_same_attempt() {
    let (bed, clock) = bed(with_output(), BTreeMap::from([(2, Answer::Lost)])).await;
    let come_again = async {
        eventually("the announcement", || bed.service.calls().len() == 2).await;
        eventually("the next try", || {
            clock.advance(Duration::from_secs(5));
            bed.service.calls().len() > 2
        })
        .await;
    };
    let (status, ()) = tokio::join!(bed.run(), come_again);
    assert_eq!(status.code(), 0);
    let calls = bed.service.calls();
    let instance = |index: usize| calls[index].body.as_ref().unwrap()["instance"].clone();
    assert_eq!(calls[2].short(), "announce");
    assert_eq!(instance(1), instance(2));
    assert_eq!(calls.last().unwrap().body.as_ref().unwrap()["attempt"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_that_is_not_wanted_ends_quietly() {
    let (bed, _clock) = bed(Script::default(), BTreeMap::new()).await;
    bed.service.no_longer_want();
    assert_eq!(bed.run().await.code(), 0);
    assert_eq!(bed.service.short_calls(), ["GET", "announce"]);
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_whose_attempt_is_over_when_it_announces_itself_ends_quietly() {
    let superseded = Answer::Error {
        status: 409,
        appcode: Some(50200),
    };
    let (bed, _clock) = bed(Script::default(), BTreeMap::from([(2, superseded)])).await;
    assert_eq!(bed.run().await.code(), 0);
    assert_eq!(bed.service.short_calls(), ["GET", "announce"]);
    bed.assert_nothing_left();
}

/// `GET /` needs no token, so that this is the first call that can tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_refused_at_the_announcement_is_told_at_once() {
    let refused = Answer::Error {
        status: 401,
        appcode: Some(10020),
    };
    let (bed, _clock) = bed(Script::default(), BTreeMap::from([(2, refused)])).await;
    assert_eq!(bed.run().await.code(), 77);
    assert_eq!(bed.service.short_calls(), ["GET", "announce"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn superseded_while_inputs_are_fetched() {
    let (bed, clock) = bed(Script::default(), BTreeMap::new()).await;
    let store = breaking(&bed, Operation::Get, Fault::Stall);
    let take_over = async {
        eventually("the download", || store.calls().contains(&Operation::Get)).await;
        bed.service.supersede();
        until_renewed(&bed, &clock).await;
    };
    let (status, ()) = tokio::join!(run_over(&bed, &store), take_over);
    assert_fenced(&bed, status);
    assert_eq!(bed.engine.specs(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn superseded_while_the_container_runs() {
    let (bed, clock) = bed(running(), BTreeMap::new()).await;
    let take_over = async {
        eventually("the report", || bed.service.reported().len() == 2).await;
        bed.service.supersede();
        until_renewed(&bed, &clock).await;
    };
    let (status, ()) = tokio::join!(bed.run(), take_over);
    assert_fenced(&bed, status);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn superseded_when_the_container_has_ended() {
    for container in [0, 3] {
        let end = End::Exit {
            code: container,
            oom_killed: false,
        };
        let script = Script {
            end,
            ..with_output()
        };
        // Held: the report of the start. What follows it is refused.
        let (bed, _clock) = bed(script, BTreeMap::from([(5, Answer::Held)])).await;
        let take_over = async {
            eventually("the report", || bed.service.reported().len() == 2).await;
            bed.service.supersede();
            bed.service.release();
        };
        let (status, ()) = tokio::join!(bed.run(), take_over);
        assert_fenced(&bed, status);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn superseded_while_outputs_are_stored() {
    let (bed, clock) = bed(with_output(), BTreeMap::new()).await;
    let store = breaking(&bed, Operation::Put, Fault::Stall);
    let take_over = async {
        eventually("the upload", || store.calls().contains(&Operation::Put)).await;
        bed.service.supersede();
        until_renewed(&bed, &clock).await;
    };
    let (status, ()) = tokio::join!(run_over(&bed, &store), take_over);
    assert_fenced(&bed, status);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_of_a_superseded_attempt_is_nobodys_business() {
    let script = Script {
        end: End::Error(cts_executor::container_engine::EngineError::ContainerGone {
            id: "c".to_owned(),
        }),
        ..Script::default()
    };
    let (bed, _clock) = bed(script, BTreeMap::from([(5, Answer::Held)])).await;
    let take_over = async {
        eventually("the report", || bed.service.reported().len() == 2).await;
        bed.service.supersede();
        bed.service.release();
    };
    let (status, ()) = tokio::join!(bed.run(), take_over);
    // Refused, and that is no failure: HTCondor must not hold the loser.
    assert_eq!(bed.service.reported().last().unwrap(), "error");
    assert_eq!(status.code(), 0);
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_cancelled_stops_its_container_and_keeps_its_log() {
    let (bed, clock) = bed(running(), BTreeMap::new()).await;
    let cancel = async {
        eventually("the report", || bed.service.reported().len() == 2).await;
        bed.service.set_job_state("canceling");
        bed.service.no_longer_want();
        until_renewed(&bed, &clock).await;
    };
    let (status, ()) = tokio::join!(bed.run(), cancel);
    assert_eq!(status.code(), 0);
    assert_eq!(bed.service.reported(), ["job_submitting", "job_submitted"]);
    assert_eq!(bed.objects("logs").len(), 2);
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_away_does_not_stop_the_container() {
    let (bed, clock) = bed(running(), BTreeMap::new()).await;
    let renewals = || {
        let calls = bed.service.short_calls();
        calls.iter().filter(|call| *call == "renew").count()
    };
    let hours_later = async {
        eventually("the report", || bed.service.reported().len() == 2).await;
        bed.service.set_away(true);
        eventually("five renewals", || {
            clock.advance(Duration::from_secs(3600));
            renewals() >= 5
        })
        .await;
        assert_eq!(
            bed.engine.containers().len(),
            1,
            "the container was stopped"
        );
        bed.shutdown.request(15);
    };
    let (status, ()) = tokio::join!(bed.run(), hours_later);
    assert_eq!(status.code(), 143);
}

/// The service is taken back to one that does not count attempts, while the container runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_has_gone_back_gets_what_it_knows() {
    let (bed, clock) = bed(with_output(), BTreeMap::from([(7, Answer::Held)])).await;
    let go_back = async {
        eventually("the report", || bed.service.reported().len() == 4).await;
        bed.service.forget_attempts();
        until_renewed(&bed, &clock).await;
        clock.advance(PUBLISH_LEASE + Duration::from_secs(1));
        bed.service.release();
        eventually("the end", || {
            clock.advance(Duration::from_secs(1));
            bed.service.reported().len() == 5
        })
        .await;
    };
    let (status, ()) = tokio::join!(bed.run(), go_back);
    assert_eq!(status.code(), 0, "{:?}", bed.service.short_calls());
    assert_eq!(bed.objects("buk/out"), ["buk/out/a"]);
}

/// Between the question what the service can do and the announcement.
#[tokio::test]
async fn a_service_that_has_gone_back_before_the_announcement_is_served() {
    let (bed, _clock) = bed(with_output(), BTreeMap::new()).await;
    bed.service.forget_attempts();
    let status = bed.run().await;
    assert_eq!(status.code(), 0, "{:?}", bed.service.short_calls());
    assert_eq!(bed.objects("buk/out"), ["buk/out/a"]);
}

/// As after SIGSTOP and SIGCONT: time has passed since the service's last word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_published_on_an_old_word_of_the_service() {
    // The last report before the upload is asked, and answered when its answer is worth nothing any more.
    let (bed, clock) = bed(with_output(), BTreeMap::from([(7, Answer::Held)])).await;
    let store = breaking(&bed, Operation::Head, Fault::Stall);
    let renewals = || {
        let calls = bed.service.short_calls();
        calls.iter().filter(|call| *call == "renew").count()
    };
    let stop_and_continue = async {
        eventually("the report", || bed.service.reported().len() == 4).await;
        bed.service.set_away(true);
        clock.advance(PUBLISH_LEASE + Duration::from_secs(1));
        eventually("the ordinary renewal", || renewals() == 1).await;
        bed.service.release();
        // These are not due: the upload asks for them.
        eventually("the question before the upload", || renewals() == 2).await;
        eventually("the question once more", || {
            clock.advance(Duration::from_secs(1));
            renewals() >= 3
        })
        .await;
        assert!(
            !store.calls().contains(&Operation::Put),
            "published on an old word"
        );
        bed.service.set_away(false);
        eventually("the end", || {
            clock.advance(Duration::from_secs(1));
            bed.service.reported().len() == 5
        })
        .await;
    };
    let (status, ()) = tokio::join!(run_over(&bed, &store), stop_and_continue);
    assert_eq!(status.code(), 0, "{:?}", bed.service.short_calls());
    assert_eq!(bed.objects("buk/out"), ["buk/out/a"]);
}

/// A request that takes long is not disturbed while the attempt is renewed.
#[tokio::test]
async fn the_gate_lapses_when_the_service_has_said_nothing_for_long() {
    let (bed, clock) = bed(Script::default(), BTreeMap::new()).await;
    let announced = Attempt::announce(
        bed.coordinator(),
        Arc::<SteppedClock>::clone(&clock) as _,
        Budget(DEADLINE),
        Identity::new(),
        CancellationToken::new(),
    );
    let attempt = announced.await.unwrap().unwrap();
    attempt.pass().await.unwrap();
    let mut lapsed = attempt.lapsed();
    for _renewal in 0..3 {
        clock.advance(PUBLISH_LEASE - Duration::from_secs(1));
        assert!(futures::poll!(&mut lapsed).is_pending());
        // Renews the attempt, too.
        assert!(!attempt.is_job_canceled().await);
    }
    clock.advance(PUBLISH_LEASE);
    tokio::time::timeout(DEADLINE, lapsed).await.unwrap();
    assert!(attempt.pass().now_or_never().is_none());
}

/// The store has taken half of an output when the way to the service breaks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_of_an_executor_that_is_cut_off_is_broken_off() {
    let (bed, clock) = bed(with_output(), BTreeMap::new()).await;
    let store = breaking(&bed, Operation::Put, Fault::Hold);
    let has_ended = Cell::new(false);
    let cut_off = async {
        eventually("the upload", || store.held() == 1).await;
        bed.service.set_away(true);
        clock.advance(PUBLISH_LEASE + Duration::from_secs(1));
        eventually("the end of the upload", || store.held() == 0).await;
        store.release();
        assert_eq!(bed.objects("buk/out"), Vec::<String>::new());
        bed.service.supersede();
        bed.service.set_away(false);
        eventually("the end", || {
            clock.advance(Duration::from_secs(1));
            has_ended.get()
        })
        .await;
    };
    let run = async {
        let status = run_over(&bed, &store).await;
        has_ended.set(true);
        status
    };
    let (status, ()) = tokio::join!(run, cut_off);
    assert_fenced(&bed, status);
}

/// The earlier attempt may be alive, and does not know yet that this one has begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_published_while_an_earlier_attempt_may() {
    let (bed, clock) = bed(with_output(), BTreeMap::new()).await;
    bed.service.has_a_predecessor_for(Duration::from_secs(10));
    let store = breaking(&bed, Operation::Head, Fault::Stall);
    let wait = async {
        // The container has run meanwhile.
        eventually("the reports", || bed.service.reported().len() == 4).await;
        clock.advance(Duration::from_secs(9));
        let renewals = || {
            let calls = bed.service.short_calls();
            calls.iter().filter(|call| *call == "renew").count()
        };
        let published = eventually("a PUT", || store.calls().contains(&Operation::Put));
        let published = tokio::time::timeout(Duration::from_millis(500), published).await;
        assert!(published.is_err(), "published too early");
        assert_eq!(renewals(), 0, "nobody needs to be asked");
        eventually("the end", || {
            clock.advance(Duration::from_secs(1));
            bed.service.reported().len() == 5
        })
        .await;
    };
    let (status, ()) = tokio::join!(run_over(&bed, &store), wait);
    assert_eq!(status.code(), 0, "{:?}", bed.service.short_calls());
    assert_eq!(bed.objects("buk/out"), ["buk/out/a"]);
}

/// Its successor need not wait then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_executor_that_is_stopped_says_that_it_leaves_last_of_all() {
    let (bed, _clock) = bed(running(), BTreeMap::new()).await;
    let stop = async {
        eventually("the report", || bed.service.reported().len() == 2).await;
        bed.shutdown.request(15);
    };
    let (status, ()) = tokio::join!(bed.run(), stop);
    assert_eq!(status.code(), 143);
    let leaving = |call: &super::bed::Call| {
        let body = call.body.as_ref();
        body.is_some_and(|body| body["leaving"] == true)
    };
    // It waits a second at most for the answer.
    eventually("the farewell", || {
        bed.service.calls().last().is_some_and(leaving)
    })
    .await;
    let calls = bed.service.calls();
    assert_eq!(calls.last().unwrap().short(), "renew");
    assert_eq!(calls.iter().filter(|call| leaving(call)).count(), 1);
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn superseded_while_the_process_was_stopped() {
    let (bed, clock) = bed(with_output(), BTreeMap::from([(7, Answer::Held)])).await;
    let stop_and_continue = async {
        eventually("the report", || bed.service.reported().len() == 4).await;
        // The report was taken; then the other attempt came, and the answer arrives late.
        clock.advance(PUBLISH_LEASE + Duration::from_secs(1));
        bed.service.supersede();
        bed.service.release();
    };
    let (status, ()) = tokio::join!(bed.run(), stop_and_continue);
    assert_fenced(&bed, status);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_stays_away_before_the_upload_fails_the_run() {
    let (mut bed, clock) = bed(with_output(), BTreeMap::from([(7, Answer::Held)])).await;
    bed.set("JOB_UPDATE_TIMEOUT_MIN", "1");
    let stay_away = async {
        eventually("the report", || bed.service.reported().len() == 4).await;
        bed.service.set_away(true);
        clock.advance(PUBLISH_LEASE + Duration::from_secs(1));
        bed.service.release();
        eventually("the error", || {
            clock.advance(Duration::from_secs(1));
            bed.service.reported().contains(&"error".to_owned())
        })
        .await;
    };
    let (status, ()) = tokio::join!(bed.run(), stay_away);
    assert_eq!(status.code(), 1);
    assert_eq!(bed.objects("buk/out"), Vec::<String>::new());
    assert_eq!(bed.objects("logs"), Vec::<String>::new());
    bed.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_while_announcing() {
    let (bed, _clock) = bed(Script::default(), BTreeMap::from([(2, Answer::Never)])).await;
    let stop = async {
        eventually("the announcement", || bed.service.calls().len() == 2).await;
        bed.shutdown.request(15);
    };
    let (status, ()) = tokio::join!(bed.run(), stop);
    assert_eq!(status.code(), 143);
    bed.assert_nothing_left();
}

/// The batch system's way to cancel is a signal: the job's owner still finds the log. One who is evicted
/// leaves it to the next attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_signal_the_logs_are_kept_only_if_the_job_is_canceled() {
    for (canceled, away, logs) in [(true, false, 2), (false, false, 0), (true, true, 0)] {
        let (bed, _clock) = bed(running(), BTreeMap::new()).await;
        let stop = async {
            eventually("the report", || bed.service.reported().len() == 2).await;
            if canceled {
                bed.service.set_job_state("canceling");
                bed.service.no_longer_want();
            }
            bed.service.set_away(away);
            bed.shutdown.request(15);
        };
        let (status, ()) = tokio::join!(bed.run(), stop);
        assert_eq!(status.code(), 143);
        assert_eq!(bed.objects("logs").len(), logs, "{canceled} {away}");
        assert_eq!(bed.service.reported(), ["job_submitting", "job_submitted"]);
        bed.assert_nothing_left();
    }
}
