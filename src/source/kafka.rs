//! A Kafka topic as a source; the only place that knows `rdkafka`.
//!
//! Partitions are assigned by hand at our own offsets: the group's committed ones are written for other people's lag
//! tools and never read. Invariants: records of a partition come in offset order, each once; an offset that the broker
//! no longer holds is reported as a [`Gap`], never skipped in silence. Neighbours: `decode` takes the messages where
//! they lie; `replay` and `engine` poll.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode as Code};
use rdkafka::message::Message;
use rdkafka::{ClientContext, Offset, Statistics, TopicPartitionList};

use super::decode::{Decoded, Decoder, DecoderError};
use crate::definition::{Connector, Source};
use crate::offset::Offsets;
use crate::time::Epoch;

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
    /// We have read further than the topic goes: it was made anew.
    #[error(
        "partition {partition} of topic '{topic}' ends at {end}, before offset {offset}, which was read already: the topic \
         was made anew; read it into another --data-dir, or give it another name"
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

/// Records that the broker dropped before they were read: `from..to` of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The partition.
    pub partition: i32,
    /// The offset that was wanted.
    pub from: i64,
    /// The earliest one there is.
    pub to: i64,
}

/// What one call of [`KafkaReader::poll`] saw.
#[derive(Clone, Debug, Default)]
pub struct Polled {
    /// Records pushed into the decoder.
    pub records: usize,
    /// Partitions that are read to their present end.
    pub caught_up: Vec<i32>,
    /// What retention took.
    pub gaps: Vec<Gap>,
}

/// What a reader has read of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakenIn {
    /// Bytes of payloads.
    pub bytes: u64,
    /// When the last record was appended, in µs, if records say so.
    pub appended: Option<i64>,
}

/// Reads one Kafka source.
pub struct KafkaReader {
    source_name: String,
    topic: String,
    brokers: String,
    acknowledges: bool,
    consumer: BaseConsumer<Watch>,
    decoder: Decoder,
    /// The next offset of each assigned partition.
    next: BTreeMap<i32, i64>,
    /// What was read of each partition so far.
    taken: BTreeMap<i32, TakenIn>,
    /// Partitions that are read to their end, although marks of transactions may follow the last record.
    ended: BTreeSet<i32>,
    /// Where partitions end for this reader, if the topic may be longer.
    until: BTreeMap<i32, i64>,
}

impl KafkaReader {
    /// A reader without partitions yet. Does not wait for a broker.
    ///
    /// # Errors
    /// [`KafkaError::NotConfigured`], [`KafkaError::Settings`] or [`KafkaError::Decoder`]: mistakes in the settings or
    /// the definition.
    pub fn new(source: &Arc<Source>, settings: &KafkaSettings) -> Result<KafkaReader, KafkaError> {
        let refuse = |reason| KafkaError::NotConfigured { source_name: source.name.clone(), reason };
        let Connector::Kafka { topic, brokers, .. } = &source.from else {
            return Err(refuse("its rows come from elsewhere"));
        };
        let brokers = brokers.as_ref().or(settings.brokers.as_ref());
        let brokers = brokers.ok_or_else(|| refuse("no brokers are given, use --brokers or brokers = '…'"))?.clone();
        let watch = Watch { topic: topic.clone(), seen: Mutex::default() };
        let consumer = client_config(&brokers, settings)
            .create_with_context(watch)
            .map_err(|e| KafkaError::Settings { source_name: source.name.clone(), source: e })?;
        Ok(KafkaReader {
            source_name: source.name.clone(),
            topic: topic.clone(),
            brokers,
            acknowledges: settings.group.is_some(),
            consumer,
            decoder: Decoder::new(source)?,
            next: BTreeMap::new(),
            taken: BTreeMap::new(),
            ended: BTreeSet::new(),
            until: BTreeMap::new(),
        })
    }

    /// The topic's partitions, as the broker says now.
    ///
    /// # Errors
    /// [`KafkaError::Unreachable`] after `timeout`, [`KafkaError::UnknownTopic`].
    pub fn partitions(&self, timeout: Duration) -> Result<Vec<i32>, KafkaError> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), timeout).map_err(|e| self.error(e))?;
        let topic = metadata.topics().iter().find(|t| t.name() == self.topic).ok_or_else(|| self.unknown_topic())?;
        if let Some(code) = topic.error() {
            return Err(self.error(ClientError::MetadataFetch(code.into())));
        }
        let mut partitions: Vec<i32> = topic.partitions().iter().map(|p| p.id()).collect();
        partitions.sort_unstable();
        if partitions.is_empty() { Err(self.unknown_topic()) } else { Ok(partitions) }
    }

    /// The earliest offset of a partition and its exclusive end, as the broker says now.
    ///
    /// # Errors
    /// As [`KafkaReader::partitions`].
    pub fn bounds(&self, partition: i32, timeout: Duration) -> Result<(i64, i64), KafkaError> {
        self.consumer.fetch_watermarks(&self.topic, partition, timeout).map_err(|e| self.error(e))
    }

    /// A partition's exclusive end as of the last second or so; never waits. `None` if it is not known yet.
    pub fn end(&self, partition: i32) -> Option<i64> {
        let known = self.consumer.context().seen.lock().ends.get(&partition).copied();
        let next = self.next.get(&partition).copied();
        // What was read is there, whatever was said a second ago.
        if self.ended.contains(&partition) { next } else { known.max(next.filter(|_| known.is_some())) }
    }

    /// Was the partition read to its end when it was last looked at?
    pub fn is_at_end(&self, partition: i32) -> bool {
        self.ended.contains(&partition)
    }

    /// Why no broker can be reached at the moment, if that is so.
    pub fn trouble(&self) -> Option<String> {
        self.consumer.context().seen.lock().trouble.clone()
    }

    /// The next offset of each assigned partition.
    pub fn positions(&self) -> &BTreeMap<i32, i64> {
        &self.next
    }

    /// Reads these partitions too, from these offsets on (0: from the earliest there is).
    ///
    /// # Errors
    /// [`KafkaError::Refused`] if the client does not take them.
    pub fn assign(&mut self, partitions: &BTreeMap<i32, i64>) -> Result<(), KafkaError> {
        self.next.extend(partitions);
        self.assign_all()
    }

    /// Reads partitions up to these exclusive ends only, whatever the topic gets meanwhile.
    pub fn stop_at(&mut self, ends: &BTreeMap<i32, i64>) {
        self.until.extend(ends);
    }

    /// Reads partitions that the topic has got since, from their start, and says which.
    ///
    /// # Errors
    /// As [`KafkaReader::partitions`] and [`KafkaReader::assign`].
    pub fn assign_new(&mut self, timeout: Duration) -> Result<Vec<i32>, KafkaError> {
        let mut new = self.partitions(timeout)?;
        new.retain(|p| !self.next.contains_key(p));
        if !new.is_empty() {
            self.assign(&new.iter().map(|p| (*p, 0)).collect())?;
        }
        Ok(new)
    }

    /// Pushes what is there into the decoder, up to `records_max`; waits up to `wait` for the first record.
    /// That no broker answers is no error here: see [`KafkaReader::trouble`].
    ///
    /// # Errors
    /// What does not pass by waiting: [`KafkaError::UnknownTopic`], [`KafkaError::Truncated`],
    /// [`KafkaError::Refused`]. What was polled before stays in the decoder.
    pub fn poll(&mut self, records_max: usize, wait: Duration) -> Result<Polled, KafkaError> {
        let mut polled = Polled::default();
        let mut wait = wait;
        while polled.records < records_max && !self.decoder.is_full() {
            let failure = match self.consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    // Left in a queue from before partitions were assigned anew: those come again or came already.
                    if let Some(next) = self.next.get_mut(&partition).filter(|next| offset >= **next) {
                        let until = self.until.get(&partition).copied().unwrap_or(i64::MAX);
                        *next = until.min(offset + 1);
                        if offset < until {
                            let micros = message.timestamp().to_millis().filter(|ms| *ms >= 0).map(|ms| ms * 1_000);
                            self.ended.remove(&partition);
                            let taken = self.taken.entry(partition).or_default();
                            taken.bytes += message.payload_len() as u64;
                            taken.appended = micros.or(taken.appended);
                            self.decoder.push(partition, offset, micros, message.key(), message.payload());
                            polled.records += 1;
                        }
                    }
                    None
                }
                Some(Err(e)) => Some(e),
            };
            match failure {
                None => {}
                Some(ClientError::PartitionEOF(partition)) => {
                    self.ended.insert(partition);
                    polled.caught_up.push(partition);
                }
                Some(ClientError::MessageConsumption(Code::AutoOffsetReset | Code::OffsetOutOfRange)) => {
                    polled.gaps.extend(self.reposition()?);
                }
                Some(e) => match self.error(e) {
                    KafkaError::Unreachable { source, .. } => {
                        self.consumer.context().seen.lock().trouble = Some(source.to_string());
                    }
                    lasting => return Err(lasting),
                },
            }
            wait = Duration::ZERO;
        }
        if polled.records > 0 || !polled.caught_up.is_empty() {
            self.consumer.context().seen.lock().trouble = None;
        }
        Ok(polled)
    }

    /// What was read of a partition so far.
    pub fn taken(&self, partition: i32) -> TakenIn {
        self.taken.get(&partition).copied().unwrap_or_default()
    }

    /// Records polled since the last [`KafkaReader::finish`].
    pub fn pending(&self) -> usize {
        self.decoder.pending()
    }

    /// Must what was polled be finished before more can be?
    pub fn is_full(&self) -> bool {
        self.decoder.is_full()
    }

    /// What was polled, as rows: see [`Decoder::finish`].
    pub fn finish(&mut self, epoch: Option<Epoch>, bounded_future: bool) -> Decoded {
        self.decoder.finish(epoch, bounded_future)
    }

    /// Tells the group, if there is one, how far this source is committed; does not wait, and is not needed by us.
    ///
    /// # Errors
    /// [`KafkaError::Refused`] if the client does not take them.
    pub fn acknowledge(&self, offsets: &Offsets) -> Result<(), KafkaError> {
        let Some(partitions) = offsets.0.get(&self.source_name).filter(|_| self.acknowledges) else { return Ok(()) };
        let list = self.list(partitions)?;
        self.consumer.commit(&list, CommitMode::Async).map_err(|e| self.error(e))
    }

    /// The broker does not hold an offset that we asked for: moves to the earliest there is and says what was lost.
    fn reposition(&mut self) -> Result<Vec<Gap>, KafkaError> {
        let mut gaps = vec![];
        for (partition, from) in self.next.clone() {
            let (earliest, end) = self.bounds(partition, Duration::from_secs(10))?;
            if from > end {
                return Err(KafkaError::Truncated { topic: self.topic.clone(), partition, offset: from, end });
            }
            if from < earliest {
                self.next.insert(partition, earliest);
                if from > 0 {
                    gaps.push(Gap { partition, from, to: earliest }); // a fresh partition just starts there
                }
            }
        }
        self.assign_all()?;
        Ok(gaps)
    }

    fn assign_all(&self) -> Result<(), KafkaError> {
        self.consumer.assign(&self.list(&self.next)?).map_err(|e| self.error(e))
    }

    fn list(&self, partitions: &BTreeMap<i32, i64>) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for (&partition, &next) in partitions {
            list.add_partition_offset(&self.topic, partition, Offset::Offset(next)).map_err(|e| self.error(e))?;
        }
        Ok(list)
    }

    fn unknown_topic(&self) -> KafkaError {
        KafkaError::UnknownTopic { topic: self.topic.clone(), brokers: self.brokers.clone() }
    }

    fn error(&self, source: ClientError) -> KafkaError {
        match source.rdkafka_error_code() {
            Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition) => self.unknown_topic(),
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
            ) => KafkaError::Unreachable { brokers: self.brokers.clone(), source },
            _ => KafkaError::Refused { topic: self.topic.clone(), source },
        }
    }
}

/// Long fetches and a deep queue keep the cost of a message low; what our offsets rely on comes last and always holds.
fn client_config(brokers: &str, settings: &KafkaSettings) -> ClientConfig {
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

/// What the client tells in passing.
struct Watch {
    topic: String,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    ends: BTreeMap<i32, i64>,
    trouble: Option<String>,
}

impl ClientContext for Watch {
    fn stats(&self, statistics: Statistics) {
        let mut seen = self.seen.lock();
        if statistics.brokers.values().any(|b| b.state == "UP") {
            seen.trouble = None;
        }
        let Some(topic) = statistics.topics.get(&self.topic) else { return };
        let ends = topic.partitions.iter().map(|(&partition, state)| {
            let end = if state.ls_offset >= 0 { state.ls_offset } else { state.hi_offset };
            (partition, end)
        });
        seen.ends.extend(ends.filter(|&(partition, end)| partition >= 0 && end >= 0));
    }

    fn error(&self, error: ClientError, reason: &str) {
        if matches!(error.rdkafka_error_code(), Some(Code::AllBrokersDown | Code::Resolve)) {
            self.seen.lock().trouble = Some(reason.to_string());
        }
    }
}

impl ConsumerContext for Watch {}

#[cfg(test)]
#[path = "kafka_tests.rs"]
mod tests;
