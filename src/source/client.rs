//! How Kafka is reached, and what is wrong when it is not.
//!
//! Invariants: nothing is ever committed by the client itself, and it never chooses an offset: ours are in the store.
//! Neighbours: `kafka` reads with such a client, `watch` asks with another.

use std::collections::BTreeMap;

use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode as Code};

use super::decode::DecoderError;
use crate::definition::{Connector, Source};
use crate::offset::PARTITIONS_MAX;

/// How to reach Kafka.
#[derive(Clone, Debug, Default)]
pub struct KafkaSettings {
    /// `HOST:PORT,…`, where a definition does not name its own.
    pub brokers: Option<String>,
    /// The consumer group whose offsets [`KafkaReader::acknowledge`] writes, if any.
    pub group: Option<String>,
    /// Further librdkafka properties.
    pub properties: BTreeMap<String, String>,
}

/// Why a topic cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// The source is not Kafka's, or nobody says where its brokers are.
    #[error("'{source_name}' cannot be read from Kafka: {reason}")]
    NotConfigured {
        /// The source.
        source_name: String,
        /// What is missing.
        reason: &'static str,
    },
    /// A property that librdkafka does not take.
    #[error("the Kafka settings of '{source_name}' are refused")]
    Settings {
        /// The source.
        source_name: String,
        /// Why.
        source: ClientError,
    },
    /// No broker answers; it may later.
    #[error("no Kafka broker answers at '{brokers}'")]
    Unreachable {
        /// Where they should be.
        brokers: String,
        /// Why.
        source: ClientError,
    },
    /// The topic does not exist; it may later.
    #[error("topic '{topic}' does not exist at '{brokers}'")]
    UnknownTopic {
        /// The topic.
        topic: String,
        /// Where it was looked for.
        brokers: String,
    },
    /// We have read further than the topic goes: it was made anew, or a broker lost what it had acknowledged.
    #[error(
        "partition {partition} of topic '{topic}' ends at {end}, before offset {offset}, which was read already: the topic \
         was made anew, or its end was lost, and its offsets mean other records now; what was read stays, read the rest \
         into another --data-dir"
    )]
    Truncated {
        /// The topic.
        topic: String,
        /// Its partition.
        partition: i32,
        /// Our next offset.
        offset: i64,
        /// The broker's.
        end: i64,
    },
    /// The topic that was read is gone, and another one has its name.
    #[error(
        "topic '{topic}' was made anew (its id is {found}, and {known} was read), and its offsets mean other records now; \
         what was read stays, read the new topic into another --data-dir"
    )]
    MadeAnew {
        /// The topic.
        topic: String,
        /// The id of the topic that was read.
        known: String,
        /// The id of the one there is.
        found: String,
    },
    /// More partitions than an entry can tell apart.
    #[error(
        "topic '{topic}' has partition {partition}, and those above {} cannot be kept: read a topic with fewer", PARTITIONS_MAX - 1
    )]
    TooManyPartitions {
        /// The topic.
        topic: String,
        /// The greatest.
        partition: i32,
    },
    /// The broker refuses.
    #[error("topic '{topic}' cannot be read")]
    Refused {
        /// The topic.
        topic: String,
        /// Why.
        source: ClientError,
    },
    /// A bug: the thread that opened the topic panicked.
    #[error("the thread that opens '{source_name}' panicked")]
    Panicked {
        /// The source.
        source_name: String,
    },
    /// The source cannot be decoded.
    #[error(transparent)]
    Decoder(#[from] DecoderError),
}

impl KafkaError {
    /// Do the topic's offsets mean other records than those that were read? Then no waiting helps, and going on would
    /// skip or double records: somebody has to decide.
    pub fn is_lasting(&self) -> bool {
        matches!(self, KafkaError::Truncated { .. } | KafkaError::MadeAnew { .. })
    }

    /// A topic's partitions in order, if all can be kept.
    pub(super) fn keepable(mut partitions: Vec<i32>, topic: &str) -> Result<Vec<i32>, KafkaError> {
        partitions.sort_unstable();
        match partitions.last() {
            Some(&partition) if partition >= PARTITIONS_MAX => {
                Err(KafkaError::TooManyPartitions { topic: topic.into(), partition })
            }
            _ => Ok(partitions),
        }
    }

    /// What the client says of a topic, as what can be done about it.
    pub(super) fn of(source: ClientError, topic: &str, brokers: &str) -> KafkaError {
        match source.rdkafka_error_code() {
            Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition) => {
                KafkaError::UnknownTopic { topic: topic.into(), brokers: brokers.into() }
            }
            Some(
                Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::OperationTimedOut
                | Code::RequestTimedOut
                | Code::Resolve
                | Code::NetworkException
                | Code::LeaderNotAvailable
                | Code::NotLeaderForPartition
                | Code::BrokerNotAvailable
                | Code::CoordinatorNotAvailable
                | Code::CoordinatorLoadInProgress,
            ) => KafkaError::Unreachable { brokers: brokers.into(), source },
            _ => KafkaError::Refused { topic: topic.into(), source },
        }
    }
}

/// A source's topic and where its brokers are.
pub(super) fn place<'a>(source: &'a Source, settings: &'a KafkaSettings) -> Result<(&'a str, &'a str), KafkaError> {
    let refuse = |reason| KafkaError::NotConfigured { source_name: source.name.clone(), reason };
    let Connector::Kafka { topic, brokers, .. } = &source.from else {
        return Err(refuse("its rows come from elsewhere"));
    };
    let brokers = brokers.as_ref().or(settings.brokers.as_ref());
    Ok((topic, brokers.ok_or_else(|| refuse("no brokers are given, use --brokers or brokers = '…'"))?))
}

/// Long fetches and a deep queue keep the cost of a message low; what our offsets rely on comes last and always holds.
pub(super) fn client_config(brokers: &str, settings: &KafkaSettings) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (name, value) in [
        ("client.id", "headwater"),
        ("check.crcs", "false"), // TCP and the broker have checked
        ("queued.min.messages", "100000"),
        ("queued.max.messages.kbytes", "65536"),
        ("fetch.message.max.bytes", "4194304"),
        ("fetch.queue.backoff.ms", "5"), // the default pauses a full queue for a second
        ("reconnect.backoff.max.ms", "1000"),
        ("topic.metadata.refresh.interval.ms", "30000"),
        ("socket.keepalive.enable", "true"),
        ("statistics.interval.ms", "1000"),
    ] {
        config.set(name, value);
    }
    for (name, value) in &settings.properties {
        config.set(name, value);
    }
    config.set("bootstrap.servers", brokers);
    // Assigning by hand needs a group's name too, even if nothing is ever committed to it.
    config.set("group.id", settings.group.as_deref().unwrap_or("headwater"));
    for (name, value) in [
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("auto.offset.reset", "error"),
        ("enable.partition.eof", "true"),
        ("allow.auto.create.topics", "false"),
    ] {
        config.set(name, value);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beyond the bits of an entry there are no partitions: said before anything of the topic is read.
    #[test]
    fn a_topic_of_too_many_partitions_is_refused() {
        let check = |partitions: &[i32]| KafkaError::keepable(partitions.to_vec(), "clicks").map_err(|e| e.to_string());
        assert_eq!(check(&[2, 0, 1]), Ok(vec![0, 1, 2]));
        assert_eq!(check(&[PARTITIONS_MAX - 1]), Ok(vec![PARTITIONS_MAX - 1]));
        let refused = check(&[PARTITIONS_MAX, 0]).expect_err("it cannot be kept");
        assert_eq!(
            refused,
            "topic 'clicks' has partition 16777216, and those above 16777215 cannot be kept: read a topic with fewer"
        );
    }
}
