//! Messages about transitions: each arrives, in the order of its job, whatever fails. Time is the runtime's,
//! which passes when everybody waits.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::layer::SubscriberExt;
use uuid::Uuid;

use cts_service::background::sender::{LAPSES_AFTER, SEND_NOTIFICATIONS, Sender};
use cts_service::metrics::Metrics;
use cts_service::role::Role;
use cts_shared::id::JobId;

use crate::log_lines::{LogLines, log_to};
use crate::test_app::TestApp;

mod doubles;

use doubles::{
    Fate, MemoryBroker, MemoryLeases, MemoryOutbox, PARTITIONS, RuntimeClock, Step, partition,
};

/// Longer than anything may take, in the runtime's time.
const DEADLINE: Duration = Duration::from_hours(2);

/// A broker that takes longer than anybody waits.
const HANGING: Duration = Duration::from_hours(1000);

struct Bed {
    outbox: Arc<MemoryOutbox>,
    leases: Arc<MemoryLeases>,
    broker: Arc<MemoryBroker>,
    metrics: Metrics,
    clock: Arc<RuntimeClock>,
}

/// A sender that runs.
struct Running {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        within(self.task).await.unwrap();
    }
}

async fn within<F: Future>(waiting: F) -> F::Output {
    tokio::time::timeout(DEADLINE, waiting).await.unwrap()
}

impl Bed {
    fn new(broker: Arc<MemoryBroker>) -> Self {
        Self {
            outbox: MemoryOutbox::new(Vec::new()),
            leases: Arc::default(),
            broker,
            metrics: Metrics::new(),
            clock: Arc::new(RuntimeClock::new()),
        }
    }

    fn good() -> Self {
        Self::new(MemoryBroker::new(Vec::new(), Step::GOOD))
    }

    fn sender(&self) -> Sender {
        let leases = Arc::clone(&self.leases);
        let clock = Arc::clone(&self.clock);
        Sender {
            outbox: Arc::clone(&self.outbox) as _,
            broker: Arc::clone(&self.broker) as _,
            role: Role::new(leases, clock.clone(), SEND_NOTIFICATIONS, LAPSES_AFTER),
            clock,
            metrics: self.metrics.notifications(),
            adopt_after: None,
        }
    }

    fn run(&self) -> Running {
        run(self.sender())
    }

    async fn all_sent(&self) {
        within(async {
            while self.outbox.unsent() > 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    }

    fn metric(&self, name: &str) -> f64 {
        let text = self.metrics.to_text().unwrap();
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        found.unwrap().parse().unwrap()
    }

    fn ids(&self) -> Vec<String> {
        self.outbox.all().into_iter().map(|(id, _)| id).collect()
    }

    /// Every transition arrived, and those of a job first arrived in their order.
    fn assert_arrived_in_order(&self) {
        let mut seen = HashSet::new();
        let mut first_arrivals: HashMap<JobId, Vec<String>> = HashMap::new();
        for event in self.broker.arrived.lock().unwrap().iter() {
            if seen.insert(event.trans_id.clone()) {
                let of_job = first_arrivals.entry(event.job_id).or_default();
                of_job.push(event.trans_id.clone());
            }
        }
        let mut stored: HashMap<JobId, Vec<String>> = HashMap::new();
        for (trans_id, job) in self.outbox.all() {
            stored.entry(job).or_default().push(trans_id);
        }
        assert_eq!(first_arrivals, stored);
    }
}

fn run(sender: Sender) -> Running {
    let stop = CancellationToken::new();
    let task = tokio::spawn(sender.run(stop.clone()));
    Running { task, stop }
}

/// A job whose messages go to that partition.
fn job_in(wanted: usize) -> JobId {
    std::iter::repeat_with(|| JobId::new(Uuid::new_v4()))
        .find(|job| partition(*job) == wanted)
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_sent_once_page_by_page_in_order() {
    let bed = Bed::good();
    let jobs: Vec<JobId> = (0..70).map(|_| job_in(0)).collect();
    for _ in 0..20 {
        for job in &jobs {
            bed.outbox.add(*job);
        }
    }
    let sender = bed.run();
    bed.all_sent().await;
    assert_eq!(bed.broker.arrived(), bed.ids());
    assert_eq!(*bed.outbox.longest_page.lock().unwrap(), 500);
    assert_eq!(bed.metric("cts_notifications_sent_total"), 1400.0);
    assert_eq!(bed.metric("cts_notifications_failures_total"), 0.0);
    assert_eq!(bed.metric("cts_notifications_sender"), 1.0);

    let begun = tokio::time::Instant::now();
    bed.outbox.add(jobs[0]);
    bed.all_sent().await;
    assert!(begun.elapsed() < Duration::from_millis(100), "at once");
    assert_eq!(bed.broker.arrived(), bed.ids());
    sender.stop().await;
    assert_eq!(bed.metric("cts_notifications_sender"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_takes_nothing_holds_up_its_own_jobs_only() {
    let fates = Some([Fate::Stored, Fate::Refused, Fate::Stored]);
    let takes = Duration::ZERO;
    let bed = Bed::new(MemoryBroker::new(Vec::new(), Step { takes, fates }));
    let held: Vec<JobId> = (0..600).map(|_| job_in(1)).collect();
    for job in &held {
        bed.outbox.add(*job);
    }
    let free = job_in(2);
    let first = bed.outbox.add(free);
    bed.outbox.add(held[0]);
    let second = bed.outbox.add(free);
    let sender = bed.run();
    within(async {
        while bed.outbox.unsent() > 601 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(bed.broker.arrived(), [first, second]);
    bed.broker.from_now_on(Step::GOOD);
    bed.all_sent().await;
    bed.assert_arrived_in_order();
    sender.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_stored_in_silence_is_sent_again() {
    let silent = Step {
        takes: Duration::ZERO,
        fates: Some([Fate::StoredInSilence; PARTITIONS]),
    };
    let bed = Bed::new(MemoryBroker::new(vec![silent], Step::GOOD));
    let job = job_in(0);
    let first = bed.outbox.add(job);
    let second = bed.outbox.add(job);
    let sender = bed.run();
    bed.all_sent().await;
    let twice = [&first, &second, &first, &second].map(Clone::clone);
    assert_eq!(bed.broker.arrived(), twice);
    assert_eq!(bed.metric("cts_notifications_failures_total"), 1.0);
    sender.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_away_for_days_costs_a_try_now_and_then_and_a_line_a_minute() {
    let bed = Bed::new(MemoryBroker::new(Vec::new(), Step::AWAY));
    let lines = LogLines::default();
    let writer = lines.clone();
    let layer = cts_service::telemetry::json_lines(move || writer.clone());
    let _logging = log_to(tracing_subscriber::registry().with(layer));
    let job = job_in(0);
    for _ in 0..3 {
        bed.outbox.add(job);
    }
    let sender = bed.run();
    let away = Duration::from_hours(48);
    tokio::time::sleep(away).await;
    let tries = u64::try_from(*bed.broker.requests.borrow()).unwrap();
    let (least, most) = (away.as_secs() / 10, away.as_secs() / 5 + 100);
    assert!((least..most).contains(&tries), "{tries}");

    bed.broker.from_now_on(Step::GOOD);
    let begun = tokio::time::Instant::now();
    bed.all_sent().await;
    assert!(begun.elapsed() <= Duration::from_secs(10));
    sender.stop().await;
    assert_eq!(bed.broker.arrived(), bed.ids());
    let text = lines.text();
    let complaints = text.matches("not sent now").count();
    // Tries are seconds apart, so a line may come some seconds late.
    assert!((48 * 50..=48 * 60).contains(&complaints), "{complaints}");
    let again: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("sent again"))
        .collect();
    assert_eq!(again.len(), 1, "{again:?}");
    assert!(again[0].contains("\"sent\":3"), "{again:?}");
    assert!(text.contains("cannot reach Kafka at kafka1:9092: connection refused"));
}

#[tokio::test(start_paused = true)]
async fn another_service_takes_over_from_one_that_died() {
    let bed = Bed::good();
    let first = bed.run();
    let second = bed.run();
    bed.outbox.add(job_in(0));
    bed.all_sent().await;
    let dead = bed.leases.holder();
    first.task.abort();
    let begun = tokio::time::Instant::now();
    bed.outbox.add(job_in(0));
    bed.all_sent().await;
    assert!(begun.elapsed() < Duration::from_secs(15));
    assert_ne!(bed.leases.holder(), dead);

    second.stop().await;
    assert_eq!(bed.leases.holder(), None, "given up");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_has_lost_its_role_sends_nothing_more() {
    let hanging = Step {
        takes: HANGING,
        ..Step::GOOD
    };
    let bed = Bed::new(MemoryBroker::new(vec![hanging], Step::GOOD));
    bed.outbox.add(job_in(0));
    let sender = bed.run();
    within(bed.broker.wait_for_requests(1)).await;
    bed.leases.give_to_another();
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(bed.metric("cts_notifications_sender"), 0.0);
    assert_eq!(*bed.broker.requests.borrow(), 1);
    assert_eq!(bed.outbox.unsent(), 1);
    sender.stop().await;
    assert_eq!(bed.leases.holder().as_deref(), Some("another"));
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_at_the_stop_arrives_and_is_noted() {
    let slow = Step {
        takes: Duration::from_secs(1),
        ..Step::GOOD
    };
    let bed = Bed::new(MemoryBroker::new(vec![slow], Step::GOOD));
    bed.outbox.add(job_in(0));
    let sender = bed.run();
    within(bed.broker.wait_for_requests(1)).await;
    sender.stop().await;
    assert_eq!(bed.outbox.unsent(), 0);
    assert_eq!(bed.broker.arrived(), bed.ids());
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_hangs_does_not_hold_up_the_stop() {
    let hanging = Step {
        takes: HANGING,
        ..Step::GOOD
    };
    let bed = Bed::new(MemoryBroker::new(vec![hanging], Step::GOOD));
    bed.outbox.add(job_in(0));
    let sender = bed.run();
    within(bed.broker.wait_for_requests(1)).await;
    let begun = tokio::time::Instant::now();
    sender.stop().await;
    assert!(begun.elapsed() <= Duration::from_secs(6));
    assert_eq!(bed.leases.holder(), None);
}

#[tokio::test(start_paused = true)]
async fn what_another_program_left_is_looked_for_at_the_start_and_every_minute_if_wanted() {
    let bed = Bed::good();
    let sender = bed.run();
    tokio::time::sleep(Duration::from_mins(10)).await;
    sender.stop().await;
    assert_eq!(bed.outbox.adoptions.lock().unwrap().len(), 0);

    let age = Duration::from_mins(5);
    let begun = cts_service::clock::Clock::now(&*bed.clock);
    let sender = run(Sender {
        adopt_after: Some(age),
        ..bed.sender()
    });
    tokio::time::sleep(Duration::from_mins(10)).await;
    sender.stop().await;
    let adoptions = bed.outbox.adoptions.lock().unwrap().clone();
    assert_eq!(adoptions[0], begun.minus(age));
    assert!((9..=11).contains(&adoptions.len()), "{adoptions:?}");
}

#[tokio::test]
async fn a_service_without_its_broker_is_ready() {
    let broker = MemoryBroker::new(Vec::new(), Step::AWAY);
    let app = TestApp::with(|app| app.broker = Some(Arc::clone(&broker) as _));
    let report = app.get("", "/readyz").await.expect(200).json();
    assert_eq!(report["ready"], true);
    let kafka = &report["dependencies"][4];
    assert_eq!(kafka["name"], "kafka");
    assert_eq!(kafka["ok"], false);
    assert_eq!(kafka["required"], false);
    let detail = kafka["detail"].as_str().unwrap();
    assert!(detail.contains("kafka1:9092"), "{detail}");
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        2 => Just(Fate::Stored),
        1 => Just(Fate::StoredInSilence),
        1 => Just(Fate::Refused),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let takes = prop_oneof![Just(0), 0..2000_u64, Just(20_000)].prop_map(Duration::from_millis);
    let fates = prop_oneof![
        4 => [fate(), fate(), fate()].prop_map(Some),
        1 => Just(None),
    ];
    (takes, fates).prop_map(|(takes, fates)| Step { takes, fates })
}

/// Jobs, by number, that make a transition; and how long after the one before.
fn load() -> impl Strategy<Value = Vec<(usize, u64)>> {
    vec(
        (0..6_usize, prop_oneof![2 => Just(0), 1 => 0..5000_u64]),
        1..60,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// One sender, or two that both believe to be the only one: one that was paused wakes up.
    #[test]
    fn every_transition_arrives_and_each_jobs_in_order(
        load in load(),
        steps in vec(step(), 0..40),
        failures in vec(any::<bool>(), 0..20),
        senders in 1..=2_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let bed = Bed {
                outbox: MemoryOutbox::new(failures),
                leases: MemoryLeases::generous(),
                ..Bed::new(MemoryBroker::new(steps, Step::GOOD))
            };
            let running: Vec<Running> = (0..senders).map(|_| bed.run()).collect();
            let jobs: Vec<JobId> = (0..6).map(|number| job_in(number % PARTITIONS)).collect();
            for (job, after) in load {
                tokio::time::sleep(Duration::from_millis(after)).await;
                bed.outbox.add(jobs[job]);
            }
            bed.all_sent().await;
            for sender in running {
                sender.stop().await;
            }
            bed.assert_arrived_in_order();
        });
    }
}
