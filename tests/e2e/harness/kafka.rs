//! A Kafka topic as its consumers see it, and a broker that can be away.

use std::process::Stdio;
use std::time::Duration;

use cts_tests::testbed::{free_port, kafka};
use rskafka::client::ClientBuilder;
use rskafka::client::partition::{OffsetAt, UnknownTopicHandling};
use serde_json::Value;
use tokio::process::{Child, Command};
use uuid::Uuid;

use super::{Case, Gate, eventually};

const DEADLINE: Duration = Duration::from_secs(60);

/// A topic that nobody has used.
#[derive(Debug)]
pub(crate) struct Topic {
    server: String,
    name: String,
}

impl Topic {
    /// A topic of the broker at `server` (host:port); nobody has made it yet.
    pub(crate) fn at(server: String) -> Self {
        Self {
            server,
            name: format!("cts-e2e-{}", Uuid::new_v4()),
        }
    }

    /// The options by which a service of the tests sends to it.
    pub(crate) fn options(&self) -> Vec<String> {
        ["--kafka", &self.server, "--kafka-topic", &self.name]
            .map(str::to_owned)
            .into()
    }

    /// The variables by which a service sends to it.
    pub(crate) fn settings(&self) -> [(&'static str, String); 2] {
        [
            ("KBCTS_KAFKA_BOOTSTRAP_SERVERS", self.server.clone()),
            ("KBCTS_KAFKA_TOPIC_JOBS", self.name.clone()),
        ]
    }

    /// Every message, those of a partition in order. None are there if the topic is not.
    pub(crate) async fn messages(&self) -> Vec<Value> {
        let reading = tokio::time::timeout(DEADLINE, self.read());
        reading.await.unwrap().unwrap()
    }

    async fn read(&self) -> Result<Vec<Value>, rskafka::client::error::Error> {
        let client = ClientBuilder::new(vec![self.server.clone()])
            .build()
            .await?;
        let topics = client.list_topics().await?;
        let topic = topics.into_iter().find(|topic| topic.name == self.name);
        let mut messages = Vec::new();
        for number in topic.into_iter().flat_map(|topic| topic.partitions) {
            let handling = UnknownTopicHandling::Error;
            let partition = client
                .partition_client(&self.name, number, handling)
                .await?;
            let end = partition.get_offset(OffsetAt::Latest).await?;
            let mut next = 0;
            while next < end {
                let (found, _) = partition.fetch_records(next, 1..10_000_000, 1000).await?;
                for one in found {
                    next = one.offset + 1;
                    assert_eq!(one.record.key, None, "a message has no key");
                    let text = one.record.value.unwrap();
                    messages.push(serde_json::from_slice(&text).unwrap());
                }
            }
        }
        Ok(messages)
    }
}

/// A broker of the test's own behind a gate. Killed when dropped.
#[derive(Debug)]
pub(crate) struct OwnBroker {
    pub(crate) gate: Gate,
    _child: Child,
}

impl OwnBroker {
    pub(crate) async fn start(case: &Case) -> Self {
        let port = free_port("kafka").unwrap_or_else(|error| panic!("{error}"));
        let gate = Gate::to(port).await;
        let command = kafka::command(&case.testbed.kafka.program, port, &gate.address());
        let child = Command::from(command)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let broker = Self {
            gate,
            _child: child,
        };
        let topic = Topic::at(broker.gate.address());
        eventually("the test's broker", DEADLINE, async || {
            topic.read().await.map_err(|error| error.to_string())
        })
        .await;
        broker
    }
}
