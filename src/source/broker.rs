//! A Kafka broker inside the process, for the demo: librdkafka's mock cluster, and a producer to fill it.
//!
//! It speaks Kafka's protocol on a loopback port and keeps its topics in memory: of each partition the newest 5 MB or
//! 100,000 batches. Invariants: records of a partition are stored in the order they were sent.
//! Neighbours: `kafka` reads it like any other broker; `cli::demo` fills it.

use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode as Code};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};

/// Why the broker cannot do what it is asked to.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// It does not start, or does not take a topic.
    #[error("the in-process broker does not start")]
    Start(#[source] ClientError),
    /// It does not take records.
    #[error("the in-process broker takes no records")]
    Send(#[source] ClientError),
}

/// The broker; it ends when this is dropped.
pub struct Broker {
    mock: MockCluster<'static, DefaultProducerContext>,
}

impl Broker {
    /// Starts it with these topics, each with its number of partitions.
    ///
    /// # Errors
    /// [`BrokerError::Start`].
    pub fn start(topics: &[(&str, i32)]) -> Result<Broker, BrokerError> {
        let mock = MockCluster::new(1).map_err(BrokerError::Start)?;
        for (topic, partitions) in topics {
            mock.create_topic(topic, *partitions, 1).map_err(BrokerError::Start)?;
        }
        Ok(Broker { mock })
    }

    /// `HOST:PORT`, as clients want it.
    pub fn address(&self) -> String {
        self.mock.bootstrap_servers()
    }

    /// Somebody who can send to it.
    ///
    /// # Errors
    /// [`BrokerError::Send`].
    pub fn sender(&self) -> Result<Sender, BrokerError> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.address()).set("linger.ms", "5");
        Ok(Sender { producer: config.create().map_err(BrokerError::Send)? })
    }
}

/// One record on its way to a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The topic.
    pub topic: &'static str,
    /// The partition.
    pub partition: i32,
    /// The record's own timestamp: milliseconds since 1970-01-01 UTC.
    pub millis: i64,
    /// The key.
    pub key: String,
    /// The payload; `None` deletes the key of a table.
    pub payload: Option<Vec<u8>>,
}

/// Sends records to a [`Broker`], in order.
pub struct Sender {
    producer: BaseProducer,
}

impl Sender {
    /// Queues a record; waits while the queue is full.
    ///
    /// # Errors
    /// [`BrokerError::Send`].
    pub fn send(&self, record: &Outgoing) -> Result<(), BrokerError> {
        let mut outgoing = BaseRecord::<str, [u8]>::to(record.topic)
            .partition(record.partition)
            .timestamp(record.millis)
            .key(&record.key);
        outgoing.payload = record.payload.as_deref();
        loop {
            match self.producer.send(outgoing) {
                Ok(()) => return Ok(()),
                Err((ClientError::MessageProduction(Code::QueueFull), back)) => {
                    self.producer.poll(Duration::from_millis(10));
                    outgoing = back;
                }
                Err((e, _)) => return Err(BrokerError::Send(e)),
            }
        }
    }

    /// Lets the client do its work, without waiting.
    pub fn poll(&self) {
        self.producer.poll(Duration::ZERO);
    }

    /// Waits until the broker has all that was sent.
    ///
    /// # Errors
    /// [`BrokerError::Send`] if it does not within 30 seconds.
    pub fn flush(&self) -> Result<(), BrokerError> {
        self.producer.flush(Duration::from_secs(30)).map_err(BrokerError::Send)
    }
}
