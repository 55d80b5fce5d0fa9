//! Kafka, through `rskafka`.
//!
//! Every record is acknowledged by all in-sync replicas (`acks=all`, which is what `rskafka` asks for), has no
//! key (contract service.md, section 7.2) and goes to the partition that its job's id says, so that a job's
//! messages are in one partition, in order. The records of one request and one partition are one
//! batch, which the broker appends whole or not at all.
//!
//! `rskafka` tries again by itself, with a deadline only between tries and none for a try; so everything here
//! has a deadline of its own. After any failure the connections are closed and everything is learnt anew from
//! the bootstrap servers: leaders, addresses, partitions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use rskafka::BackoffConfig;
use rskafka::chrono::{DateTime, Utc};
use rskafka::client::error::{Error as KafkaError, ProtocolError};
use rskafka::client::partition::{Compression, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::Record;
use tokio::sync::Mutex;
use tokio::time::Instant;

use cts_shared::id::JobId;

use super::{BrokerError, Delivery, MessageBroker};
use crate::metrics::{Dependency, DependencyCalls, Outcome};
use crate::outbox::Event;

/// How long it may take to find the brokers and the topic.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a partition may take with its share of the messages. `rskafka` lets the broker wait 30 s for its
/// replicas.
const PRODUCE: Duration = Duration::from_secs(35);

/// How long `rskafka` tries again by itself, so that a new leader is found without an error.
const RETRY: Duration = Duration::from_secs(3);

/// How long a partition is left alone after it failed, so that one whose leader hangs does not hold up
/// page after page of the others' messages.
const REST: Duration = Duration::from_secs(3);

/// How long a broker may take to make a topic.
const CREATE_TOPIC: Duration = Duration::from_secs(5);

/// Longest answer that is read: a list of all topics.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// "Whatever the broker's configuration says", for partitions and replicas.
const BROKERS_CHOICE: i16 = -1;

/// Where Kafka is, and what messages go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaSettings {
    /// Brokers to ask for the others, each as host:port.
    pub servers: Vec<String>,
    /// The topic. It is made, with the broker's defaults, if it is not there.
    pub topic: String,
}

/// The topic of a Kafka cluster. Connects when it is used.
#[derive(Debug)]
pub struct KafkaBroker {
    settings: KafkaSettings,
    calls: DependencyCalls,
    state: Mutex<State>,
    /// A connection for checks, which do not wait for messages. Taken out while it is used, as the other.
    probe: Mutex<Option<Client>>,
}

#[derive(Debug, Default)]
struct State {
    /// Taken out while it is used and put back only by who succeeded: whoever fails, or is given up,
    /// drops it.
    connection: Option<Connection>,
    /// Partitions that failed, and until when they are left alone.
    resting: HashMap<i32, (Instant, BrokerError)>,
}

/// A cluster whose topic is there.
#[derive(Debug)]
struct Connection {
    client: Client,
    /// The topic's partitions; there is at least one.
    partitions: Vec<i32>,
    /// Connections to the leaders of partitions that were used.
    leaders: HashMap<i32, Arc<PartitionClient>>,
}

impl KafkaBroker {
    /// Does not connect yet. Counts what it does.
    #[must_use]
    pub fn new(settings: KafkaSettings, calls: DependencyCalls) -> Self {
        Self {
            settings,
            calls,
            state: Mutex::default(),
            probe: Mutex::default(),
        }
    }

    fn unreachable(&self, cause: impl std::fmt::Display) -> BrokerError {
        BrokerError::Unreachable {
            servers: self.settings.servers.join(","),
            cause: cause.to_string(),
        }
    }

    fn no_topic(&self, cause: impl std::fmt::Display) -> BrokerError {
        BrokerError::NoTopic {
            servers: self.settings.servers.join(","),
            topic: self.settings.topic.clone(),
            cause: cause.to_string(),
        }
    }

    fn partition_error(&self, partition: i32, cause: impl std::fmt::Display) -> BrokerError {
        BrokerError::Partition {
            servers: self.settings.servers.join(","),
            topic: self.settings.topic.clone(),
            partition,
            cause: cause.to_string(),
        }
    }

    async fn client(&self) -> Result<Client, BrokerError> {
        ClientBuilder::new(self.settings.servers.clone())
            .client_id("cts-service")
            .max_message_size(MAX_ANSWER_BYTES)
            .backoff_config(BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(1),
                base: 3.0,
                deadline: Some(RETRY),
            })
            .build()
            .await
            .map_err(|error| self.unreachable(error))
    }

    /// The topic's partitions; none if the cluster does not know the topic.
    async fn partitions(&self, client: &Client) -> Result<Option<Vec<i32>>, BrokerError> {
        let topics = client
            .list_topics()
            .await
            .map_err(|error| self.unreachable(error))?;
        let topic = topics
            .into_iter()
            .find(|topic| topic.name == self.settings.topic);
        Ok(topic.map(|topic| topic.partitions.into_iter().collect()))
    }

    async fn create_topic(&self, client: &Client) -> Result<(), BrokerError> {
        let controller = client
            .controller_client()
            .map_err(|error| self.unreachable(error))?;
        let deadline = i32::try_from(CREATE_TOPIC.as_millis()).unwrap_or(i32::MAX);
        let created = controller
            .create_topic(
                &self.settings.topic,
                BROKERS_CHOICE.into(),
                BROKERS_CHOICE,
                deadline,
            )
            .await;
        match created {
            Ok(()) => {
                tracing::info!(
                    topic = self.settings.topic,
                    "made the topic, with Kafka's defaults"
                );
                Ok(())
            }
            // Another service was quicker.
            Err(KafkaError::ServerError {
                protocol_error: ProtocolError::TopicAlreadyExists,
                ..
            }) => Ok(()),
            Err(error) => Err(self.no_topic(format_args!("it cannot be made: {error}"))),
        }
    }

    async fn connect(&self) -> Result<Connection, BrokerError> {
        let client = self.client().await?;
        let mut partitions = self.partitions(&client).await?;
        if partitions.is_none() {
            self.create_topic(&client).await?;
            partitions = self.partitions(&client).await?;
        }
        match partitions {
            Some(partitions) if !partitions.is_empty() => Ok(Connection {
                client,
                partitions,
                leaders: HashMap::new(),
            }),
            _ => Err(self.no_topic("Kafka does not say where its partitions are")),
        }
    }

    async fn connect_in_time(&self) -> Result<Connection, BrokerError> {
        let connect = async {
            match tokio::time::timeout(CONNECT, self.connect()).await {
                Ok(connection) => connection,
                Err(_elapsed) => Err(self.no_answer(CONNECT)),
            }
        };
        self.calls
            .measure(Dependency::Kafka, "connect", connect, outcome)
            .await
    }

    fn no_answer(&self, deadline: Duration) -> BrokerError {
        self.unreachable(format_args!("no answer within {} s", deadline.as_secs()))
    }

    async fn send_events(&self, events: Vec<Event>) -> Delivery {
        let mut state = self.state.lock().await;
        let mut connection = match state.connection.take() {
            Some(connection) => connection,
            None => match self.connect_in_time().await {
                Ok(connection) => connection,
                Err(error) => {
                    return Delivery {
                        acknowledged: Vec::new(),
                        failure: Some(error),
                    };
                }
            },
        };
        let mut delivery = Delivery::default();
        let mut shares = connection.shares(events);
        let now = Instant::now();
        state.resting.retain(|_, (until, _)| *until > now);
        for (partition, (_, error)) in &state.resting {
            if shares.remove(partition).is_some() {
                delivery.failure = Some(error.clone());
            }
        }
        let sent = shares.into_iter().map(|(partition, events)| {
            let leader = connection.leaders.get(&partition).cloned();
            self.send_share(&connection.client, leader, partition, events)
        });
        let shares = join_all(sent).await;

        let mut sound = true;
        for share in shares {
            delivery.acknowledged.extend(share.acknowledged);
            match share.end {
                Ok(leader) => {
                    connection.leaders.insert(share.partition, leader);
                }
                Err(error) => {
                    let rest = (Instant::now() + REST, error.clone());
                    state.resting.insert(share.partition, rest);
                    delivery.failure = Some(error);
                    sound = false;
                }
            }
        }
        if sound {
            state.connection = Some(connection);
        }
        delivery
    }

    /// Sends one partition's messages, within the deadline.
    async fn send_share(
        &self,
        client: &Client,
        leader: Option<Arc<PartitionClient>>,
        partition: i32,
        events: Vec<Event>,
    ) -> Share {
        let mut acknowledged = Vec::new();
        let produce = async {
            let produce = self.produce(client, leader, partition, &events, &mut acknowledged);
            match tokio::time::timeout(PRODUCE, produce).await {
                Ok(outcome) => outcome,
                Err(_elapsed) => {
                    let cause = format_args!("no answer within {} s", PRODUCE.as_secs());
                    Err(self.partition_error(partition, cause))
                }
            }
        };
        let end = self
            .calls
            .measure(Dependency::Kafka, "produce", produce, outcome)
            .await;
        Share {
            partition,
            acknowledged,
            end,
        }
    }

    /// Sends messages in one batch, or in smaller ones if that is too large for the broker.
    async fn produce(
        &self,
        client: &Client,
        leader: Option<Arc<PartitionClient>>,
        partition: i32,
        events: &[Event],
        acknowledged: &mut Vec<String>,
    ) -> Result<Arc<PartitionClient>, BrokerError> {
        let leader = match leader {
            Some(leader) => leader,
            None => {
                let topic = self.settings.topic.as_str();
                let handling = UnknownTopicHandling::Error;
                let leader = client.partition_client(topic, partition, handling).await;
                Arc::new(leader.map_err(|error| self.partition_error(partition, error))?)
            }
        };
        let mut rest = events;
        let mut batch_size = events.len();
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(batch_size.min(rest.len()));
            let records = batch
                .iter()
                .map(to_record)
                .collect::<Result<_, _>>()
                .map_err(|error| self.partition_error(partition, error))?;
            match leader.produce(records, Compression::NoCompression).await {
                Ok(_offsets) => {
                    acknowledged.extend(batch.iter().map(|event| event.trans_id.clone()));
                    rest = after;
                }
                Err(KafkaError::ServerError {
                    protocol_error:
                        ProtocolError::MessageTooLarge | ProtocolError::RecordListTooLarge,
                    ..
                }) if batch.len() > 1 => batch_size = batch.len() / 2,
                Err(error) => return Err(self.partition_error(partition, error)),
            }
        }
        Ok(leader)
    }

    async fn check_topic(&self) -> Result<(), BrokerError> {
        let mut kept = self.probe.lock().await;
        let client = match kept.take() {
            Some(client) => client,
            None => self.client().await?,
        };
        let partitions = self.partitions(&client).await?;
        *kept = Some(client);
        match partitions {
            Some(_) => Ok(()),
            None => Err(self.no_topic("it is made when the first message is sent, if that may be")),
        }
    }
}

/// What became of one partition's messages.
struct Share {
    partition: i32,
    /// The first of them.
    acknowledged: Vec<String>,
    /// The connection that was used.
    end: Result<Arc<PartitionClient>, BrokerError>,
}

impl Connection {
    /// The messages of each partition, in the order they had.
    fn shares(&self, events: Vec<Event>) -> BTreeMap<i32, Vec<Event>> {
        let mut shares: BTreeMap<i32, Vec<Event>> = BTreeMap::new();
        for event in events {
            if let Some(partition) = partition_of(event.job_id, &self.partitions) {
                shares.entry(partition).or_default().push(event);
            }
        }
        shares
    }
}

/// The partition that a job's messages go to, whichever service sends them.
fn partition_of(job: JobId, partitions: &[i32]) -> Option<i32> {
    // FNV-1a: the same in every process, version and machine, unlike the hashes of the standard library.
    let hash = job
        .to_string()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let count = u64::try_from(partitions.len()).ok()?;
    let index = hash.checked_rem(count)?;
    partitions.get(usize::try_from(index).ok()?).copied()
}

fn to_record(event: &Event) -> Result<Record, serde_json::Error> {
    Ok(Record {
        key: None,
        value: Some(serde_json::to_vec(&event.to_message())?),
        headers: BTreeMap::new(),
        // The transition's own time is in the message. By this one Kafka removes what is old.
        timestamp: DateTime::<Utc>::from(SystemTime::now()),
    })
}

fn outcome(_error: &BrokerError) -> Outcome {
    Outcome::Failed
}

impl MessageBroker for KafkaBroker {
    fn send(&self, events: Vec<Event>) -> BoxFuture<'_, Delivery> {
        self.send_events(events).boxed()
    }

    fn check(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        async {
            match tokio::time::timeout(CONNECT, self.check_topic()).await {
                Ok(answer) => answer,
                Err(_elapsed) => Err(self.no_answer(CONNECT)),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jobs_partition_never_changes_and_all_partitions_are_used() {
        let job: JobId = "986e5df7-f7f3-48d3-b388-29346ddb6656".parse().unwrap();
        // A value that was computed once: services of all versions must agree.
        assert_eq!(
            partition_of(job, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
            Some(2)
        );
        assert_eq!(partition_of(job, &[]), None);
        let partitions = [0, 1, 2, 5];
        let used: std::collections::BTreeSet<i32> = (0..200)
            .filter_map(|_| partition_of(JobId::new(uuid::Uuid::new_v4()), &partitions))
            .collect();
        assert!(used.into_iter().eq(partitions));
    }
}
