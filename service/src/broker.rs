//! The message broker, and the trait of whatever is one.

use futures::future::BoxFuture;

use crate::outbox::Event;

mod kafka;

pub use kafka::{KafkaBroker, KafkaSettings};

/// What became of some messages.
#[derive(Debug, Default)]
pub struct Delivery {
    /// The ids of the transitions whose messages the broker has stored for good.
    pub acknowledged: Vec<String>,
    /// What kept the others, or some of them, if there are any.
    pub failure: Option<BrokerError>,
}

/// Why messages were not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// No broker answers, or not sensibly.
    #[error(
        "cannot reach Kafka at {servers}: {cause}; see that its brokers run and that Kafka.bootstrap_servers \
         names them"
    )]
    Unreachable {
        /// Where it was looked for.
        servers: String,
        /// What happened.
        cause: String,
    },
    /// There is no such topic, and the broker makes none.
    #[error(
        "Kafka at {servers} has no topic {topic}: {cause}; make it (kafka-topics.sh --bootstrap-server \
         {servers} --create --topic {topic}), or correct Kafka.topic_jobs"
    )]
    NoTopic {
        /// Where it was looked for.
        servers: String,
        /// The topic.
        topic: String,
        /// Why it is not there.
        cause: String,
    },
    /// A part of the messages is not taken.
    #[error(
        "Kafka at {servers} takes no messages for partition {partition} of topic {topic}: {cause}; look at the \
         partition's leader and replicas (kafka-topics.sh --bootstrap-server {servers} --describe --topic {topic})"
    )]
    Partition {
        /// Where Kafka is.
        servers: String,
        /// The topic.
        topic: String,
        /// The partition's number.
        partition: i32,
        /// What happened.
        cause: String,
    },
}

impl BrokerError {
    /// Whether messages of other jobs may be taken all the same.
    #[must_use]
    pub const fn concerns_some_jobs_only(&self) -> bool {
        matches!(self, Self::Partition { .. })
    }
}

/// Takes messages and keeps them for whoever reads them.
pub trait MessageBroker: Send + Sync + std::fmt::Debug {
    /// Sends the messages about transitions, those of one job in the order given: a message is stored only
    /// after, or together with, all that come before it of the same job. So what is acknowledged of a
    /// job comes before what is not. What is not may have been stored all the same. Ends within a
    /// minute. May be given up at any time.
    fn send(&self, events: Vec<Event>) -> BoxFuture<'_, Delivery>;

    /// Asks whether messages could be sent.
    ///
    /// # Errors
    /// When they could not.
    fn check(&self) -> BoxFuture<'_, Result<(), BrokerError>>;
}
