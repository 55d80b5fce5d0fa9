//! Kafka's adapter. Some cases need a broker, which `CTS_TEST_KAFKA` names (host:port); without one they
//! are not tested and that is said. `make e2e` names one. Each case has a topic of its own.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::time::{Duration, Instant};

use rskafka::client::partition::{OffsetAt, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::Record;
use tokio::net::{TcpListener, TcpSocket};
use uuid::Uuid;

use cts_service::broker::{BrokerError, KafkaBroker, KafkaSettings, MessageBroker};
use cts_service::metrics::Metrics;
use cts_service::outbox::Event;
use cts_shared::id::JobId;
use cts_shared::state::JobState;
use cts_shared::timestamp::UtcTime;

/// How long any answer may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// A topic that nobody has used, on a real broker.
struct TestTopic {
    server: String,
    name: String,
}

impl TestTopic {
    /// None, loudly, where there is no broker.
    fn new() -> Option<Self> {
        let Ok(server) = std::env::var("CTS_TEST_KAFKA") else {
            // Not `eprintln`, which the test harness keeps to itself.
            let text = b"SKIPPED: a test of Kafka; CTS_TEST_KAFKA names no broker\n";
            std::io::stderr().write_all(text).unwrap();
            return None;
        };
        Some(Self {
            server,
            name: format!("cts-test-{}", Uuid::new_v4()),
        })
    }

    fn broker(&self) -> KafkaBroker {
        broker(&self.server, &self.name)
    }

    async fn client(&self) -> Client {
        let client = ClientBuilder::new(vec![self.server.clone()]).build();
        within(client).await.unwrap()
    }

    async fn create(&self, partitions: i32) {
        let controller = self.client().await.controller_client().unwrap();
        let created = controller.create_topic(&self.name, partitions, 1, 5000);
        within(created).await.unwrap();
    }

    /// Everything in it, by partition.
    async fn records(&self) -> BTreeMap<i32, Vec<Record>> {
        let client = self.client().await;
        let topics = within(client.list_topics()).await.unwrap();
        let topic = topics.into_iter().find(|topic| topic.name == self.name);
        let mut records = BTreeMap::new();
        for number in topic.unwrap().partitions {
            let handling = UnknownTopicHandling::Error;
            let partition = within(client.partition_client(&self.name, number, handling)).await;
            let partition = partition.unwrap();
            let end = within(partition.get_offset(OffsetAt::Latest))
                .await
                .unwrap();
            let mut found: Vec<Record> = Vec::new();
            let mut next = 0;
            while next < end {
                let fetch = partition.fetch_records(next, 1..10_000_000, 1000);
                for one in within(fetch).await.unwrap().0 {
                    next = one.offset + 1;
                    found.push(one.record);
                }
            }
            records.insert(number, found);
        }
        records
    }
}

fn broker(server: &str, topic: &str) -> KafkaBroker {
    let settings = KafkaSettings {
        servers: vec![server.to_owned()],
        topic: topic.to_owned(),
    };
    KafkaBroker::new(settings, Metrics::new().dependency_calls())
}

async fn within<F: Future>(waiting: F) -> F::Output {
    tokio::time::timeout(DEADLINE, waiting).await.unwrap()
}

fn event(job_id: JobId, state: JobState) -> Event {
    Event {
        trans_id: Uuid::new_v4().to_string(),
        job_id,
        user: "alice".to_owned(),
        state,
        time: UtcTime::new("2031-02-03T04:05:06.070809Z".parse().unwrap()),
    }
}

fn a_job() -> JobId {
    JobId::new(Uuid::new_v4())
}

fn text(record: &Record) -> String {
    String::from_utf8(record.value.clone().unwrap()).unwrap()
}

/// The topic is not there: it is made. The message is the contract's, to the byte.
#[tokio::test]
async fn a_message_is_what_the_contract_says() {
    let Some(topic) = TestTopic::new() else {
        return;
    };
    let broker = topic.broker();
    let missing = within(broker.check()).await.unwrap_err();
    assert!(matches!(missing, BrokerError::NoTopic { .. }), "{missing}");
    let event = event(a_job(), JobState::JobSubmitted);
    let delivery = within(broker.send(vec![event.clone()])).await;
    assert_eq!(delivery.failure, None);
    assert_eq!(delivery.acknowledged, [event.trans_id.clone()]);
    assert_eq!(within(broker.check()).await, Ok(()));

    let records: Vec<Record> = topic.records().await.into_values().flatten().collect();
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(records[0].key, None);
    assert!(records[0].headers.is_empty());
    let expected = format!(
        "{{\"job_id\":\"{}\",\"state\":\"job_submitted\",\"time\":\"2031-02-03T04:05:06.070809+00:00\",\
         \"trans_id\":\"{}\"}}",
        event.job_id, event.trans_id
    );
    assert_eq!(text(&records[0]), expected);
}

#[tokio::test]
async fn a_jobs_messages_are_in_one_partition_in_order() {
    let Some(topic) = TestTopic::new() else {
        return;
    };
    topic.create(3).await;
    let jobs: Vec<JobId> = (0..40).map(|_| a_job()).collect();
    let rounds: Vec<Vec<Event>> = (0..5)
        .map(|_| {
            let job = |job: &JobId| {
                [JobState::Created, JobState::JobSubmitted].map(|state| event(*job, state))
            };
            jobs.iter().flat_map(job).collect()
        })
        .collect();
    for (number, events) in rounds.iter().enumerate() {
        // Another service each time: all choose the same partitions.
        let broker = topic.broker();
        let delivery = within(broker.send(events.clone())).await;
        assert_eq!(delivery.failure, None, "{number}");
        assert_eq!(delivery.acknowledged.len(), events.len());
    }

    let records = topic.records().await;
    assert!(records.values().all(|records| !records.is_empty()));
    let mut seen: HashMap<String, (i32, Vec<String>)> = HashMap::new();
    for (partition, records) in &records {
        for record in records {
            let message: serde_json::Value = serde_json::from_str(&text(record)).unwrap();
            let id = |name: &str| message[name].as_str().unwrap().to_owned();
            let of_job = seen.entry(id("job_id")).or_insert((*partition, Vec::new()));
            assert_eq!(of_job.0, *partition, "one partition a job");
            of_job.1.push(id("trans_id"));
        }
    }
    for job in jobs {
        let sent: Vec<String> = rounds
            .iter()
            .flatten()
            .filter(|event| event.job_id == job)
            .map(|event| event.trans_id.clone())
            .collect();
        assert_eq!(seen[&job.to_string()].1, sent);
    }
}

#[tokio::test]
async fn a_full_page_is_taken_at_once() {
    let Some(topic) = TestTopic::new() else {
        return;
    };
    let broker = topic.broker();
    let job = a_job();
    let page: Vec<Event> = (0..500)
        .map(|_| event(job, JobState::JobSubmitted))
        .collect();
    for _ in 0..2 {
        let delivery = within(broker.send(page.clone())).await;
        assert_eq!(delivery.failure, None);
    }
    let records: Vec<Record> = topic.records().await.into_values().flatten().collect();
    assert_eq!(
        records.len(),
        1000,
        "the same transitions again: {}",
        page.len()
    );
}

#[tokio::test]
async fn a_partition_that_has_failed_is_left_alone_for_a_moment_and_a_lost_topic_made_again() {
    let Some(topic) = TestTopic::new() else {
        return;
    };
    let broker = topic.broker();
    let job = a_job();
    let send = async || within(broker.send(vec![event(job, JobState::Created)])).await;
    assert_eq!(send().await.failure, None);
    let controller = topic.client().await.controller_client().unwrap();
    within(controller.delete_topic(&topic.name, 5000))
        .await
        .unwrap();

    let begun = Instant::now();
    let failure = send().await.failure.unwrap();
    assert!(failure.concerns_some_jobs_only(), "{failure}");
    assert!(failure.to_string().contains(&topic.name), "{failure}");
    within(async {
        loop {
            let Some(again) = send().await.failure else {
                break;
            };
            assert_eq!(again, failure, "it is not asked again so soon");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert!(begun.elapsed() >= Duration::from_secs(3));
    assert_eq!(topic.records().await.into_values().flatten().count(), 1);
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_named() {
    // Bound and not listened on.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let server = socket.local_addr().unwrap().to_string();
    let broker = broker(&server, "cts-jobs");
    let delivery = within(broker.send(vec![event(a_job(), JobState::Created)])).await;
    assert!(delivery.acknowledged.is_empty());
    let error = delivery.failure.unwrap();
    assert!(!error.concerns_some_jobs_only());
    let told = error.to_string();
    assert!(
        told.contains(&format!("cannot reach Kafka at {server}")),
        "{told}"
    );
    assert!(told.contains("refused"), "{told}");
    assert!(told.contains("Kafka.bootstrap_servers"), "{told}");
    within(broker.check()).await.unwrap_err();
}

/// Time passes when everybody waits, so this takes none.
#[tokio::test(start_paused = true)]
async fn a_broker_that_does_not_answer_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap().to_string();
    let silent = tokio::spawn(async move {
        let mut connections = Vec::new();
        while let Ok(connection) = listener.accept().await {
            connections.push(connection);
        }
    });
    let broker = broker(&server, "cts-jobs");
    let delivery = within(broker.send(vec![event(a_job(), JobState::Created)])).await;
    let told = delivery.failure.unwrap().to_string();
    assert!(told.contains("no answer within 10 s"), "{told}");
    within(broker.check()).await.unwrap_err();
    silent.abort();
}
