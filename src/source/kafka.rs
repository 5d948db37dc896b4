//! A Kafka topic as a source; the only place that knows `rdkafka`.
//!
//! Partitions are assigned by hand at our own offsets: the group's committed ones are written for other people's lag
//! tools and never read. Invariants: records of a partition come in offset order, each once; an offset that the broker
//! no longer holds is reported as a [`Gap`], never skipped in silence; a topic that was made anew is refused. Neighbours:
//! `decode` takes the messages where they lie; `watch` knows what there is to read; `replay` and `topics` poll.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode as Code};
use rdkafka::message::Message;
use rdkafka::{ClientContext, Offset, Statistics, TopicPartitionList};

use super::Gap;
pub use super::client::{KafkaError, KafkaSettings};
use super::client::{client_config, place};
use super::decode::{Decoded, Decoder};
use super::watch::{Bounds, Watched};
use crate::definition::Source;
use crate::offset::Offsets;
use crate::time::{Epoch, is_of_calendar};

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
    consumer: BaseConsumer<Told>,
    decoder: Decoder,
    /// The next offset of each assigned partition.
    next: BTreeMap<i32, i64>,
    /// What was read of each partition so far.
    taken: BTreeMap<i32, TakenIn>,
    /// Partitions that are read to their end, although marks of transactions may follow the last record.
    ended: BTreeSet<i32>,
    /// Where partitions end for this reader, if the topic may be longer.
    until: BTreeMap<i32, i64>,
    /// What the brokers say beside the records, for a reader that follows a topic.
    watched: Option<Arc<Watched>>,
    /// The topic's id, if it has one: another one is another topic.
    id: Option<String>,
    /// Everything of a partition that was appended before this instant (µs) has been polled.
    resolved: BTreeMap<i32, i64>,
    /// The broker does not hold an offset that was asked for, and where the partitions begin is not known yet.
    lost: bool,
}

impl KafkaReader {
    /// A reader without partitions yet. Does not wait for a broker.
    ///
    /// # Errors
    /// [`KafkaError::NotConfigured`], [`KafkaError::Settings`] or [`KafkaError::Decoder`]: mistakes in the settings or
    /// the definition.
    pub fn new(source: &Arc<Source>, settings: &KafkaSettings) -> Result<KafkaReader, KafkaError> {
        let (topic, brokers) = place(source, settings)?;
        let told = Told { topic: topic.into(), seen: Mutex::default() };
        let consumer = client_config(brokers, settings)
            .create_with_context(told)
            .map_err(|e| KafkaError::Settings { source_name: source.name.clone(), source: e })?;
        Ok(KafkaReader {
            source_name: source.name.clone(),
            topic: topic.into(),
            brokers: brokers.into(),
            acknowledges: settings.group.is_some(),
            consumer,
            decoder: Decoder::new(source)?,
            next: BTreeMap::new(),
            taken: BTreeMap::new(),
            ended: BTreeSet::new(),
            until: BTreeMap::new(),
            watched: None,
            id: None,
            resolved: BTreeMap::new(),
            lost: false,
        })
    }

    /// Follows a topic: what is asked about its ends is answered from `watched`, without waiting. `known`: the id that
    /// the topic had when it was read before.
    ///
    /// # Errors
    /// [`KafkaError::MadeAnew`]: this is another topic.
    pub fn follow(&mut self, watched: Arc<Watched>, known: Option<&str>) -> Result<(), KafkaError> {
        self.id = known.map(str::to_string).or_else(|| watched.id());
        self.watched = Some(watched);
        self.check_id()
    }

    /// The topic's id, if it is followed and its brokers give topics ids.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    fn check_id(&self) -> Result<(), KafkaError> {
        match (&self.id, self.watched.as_ref().and_then(|w| w.id())) {
            (Some(known), Some(found)) if *known != found => {
                Err(KafkaError::MadeAnew { topic: self.topic.clone(), known: known.clone(), found })
            }
            _ => Ok(()),
        }
    }

    /// The topic's partitions, as the broker says now.
    ///
    /// # Errors
    /// [`KafkaError::Unreachable`] after `timeout`, [`KafkaError::UnknownTopic`], [`KafkaError::TooManyPartitions`].
    pub fn partitions(&self, timeout: Duration) -> Result<Vec<i32>, KafkaError> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), timeout).map_err(|e| self.error(e))?;
        let topic = metadata.topics().iter().find(|t| t.name() == self.topic).ok_or_else(|| self.unknown_topic())?;
        if let Some(code) = topic.error() {
            return Err(self.error(ClientError::MetadataFetch(code.into())));
        }
        let partitions = KafkaError::keepable(topic.partitions().iter().map(|p| p.id()).collect(), &self.topic)?;
        if partitions.is_empty() { Err(self.unknown_topic()) } else { Ok(partitions) }
    }

    /// The earliest offset of a partition and its exclusive end, as the broker says now.
    ///
    /// # Errors
    /// As [`KafkaReader::partitions`].
    pub fn bounds(&self, partition: i32, timeout: Duration) -> Result<(i64, i64), KafkaError> {
        self.consumer.fetch_watermarks(&self.topic, partition, timeout).map_err(|e| self.error(e))
    }

    /// A partition's exclusive end, as of the broker's last answer or what was read since; never waits. `None` if it is
    /// not known.
    pub fn end(&self, partition: i32) -> Option<i64> {
        let end = *self.watched.as_ref()?.answer()?.ends.get(&partition)?;
        Some(if self.is_read_to(partition, end) { self.next[&partition] } else { end })
    }

    /// Is an assigned partition read up to this end? Marks of transactions may follow the last record.
    fn is_read_to(&self, partition: i32, end: i64) -> bool {
        let passed = || self.consumer.context().seen.lock().ended.get(&partition).is_some_and(|at| *at >= end);
        self.next.get(&partition).is_some_and(|next| *next >= end || (self.ended.contains(&partition) && passed()))
    }

    /// Everything appended up to this instant (µs) has been polled: never later than the last answer of the brokers,
    /// unless later records have come; at most `begun`.
    pub fn resolved(&mut self, begun: i64) -> Option<i64> {
        let answer = self.watched.as_ref()?.answer()?;
        for partition in self.next.keys() {
            let end = *answer.ends.get(partition)?;
            if self.is_read_to(*partition, end) {
                let resolved = self.resolved.entry(*partition).or_insert(answer.asked);
                *resolved = answer.asked.max(*resolved);
            }
        }
        let least = self.next.keys().map(|p| self.resolved.get(p).copied()).min()?;
        least.map(|at| at.min(begun))
    }

    /// Why no broker can be reached at the moment, if that is so.
    pub fn trouble(&self) -> Option<String> {
        match &self.watched {
            Some(watched) => watched.trouble(),
            None => self.consumer.context().seen.lock().trouble.clone(),
        }
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

    /// The partitions of a topic that is followed, as last seen.
    pub fn known_partitions(&self) -> Vec<i32> {
        self.watched.as_ref().map(|w| w.partitions()).unwrap_or_default()
    }

    /// Reads partitions that the topic has got since, from their start, and says which. Never waits.
    ///
    /// # Errors
    /// As [`KafkaReader::assign`].
    pub fn assign_new(&mut self) -> Result<Vec<i32>, KafkaError> {
        let mut new = self.known_partitions();
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
    /// [`KafkaError::MadeAnew`], [`KafkaError::Refused`]. What was polled before stays in the decoder.
    pub fn poll(&mut self, records_max: usize, wait: Duration) -> Result<Polled, KafkaError> {
        let mut polled = Polled::default();
        self.check_id()?;
        if self.lost {
            polled.gaps = self.find_lost()?;
        }
        // A record that comes was appended before this.
        let begun = self.watched.as_ref().map(|w| w.now());
        let mut wait = wait;
        while polled.records < records_max && !self.decoder.is_full() {
            let failure = match self.consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    if passes(&mut self.next, &self.until, partition, offset) {
                        let millis = message.timestamp().to_millis().filter(|ms| *ms >= 0);
                        // A producer may write any number there.
                        let micros = millis.and_then(|ms| ms.checked_mul(1_000)).filter(|us| is_of_calendar(*us));
                        self.ended.remove(&partition);
                        let taken = self.taken.entry(partition).or_default();
                        taken.bytes += message.payload_len() as u64;
                        taken.appended = micros.or(taken.appended);
                        if let (Some(begun), Some(appended)) = (begun, micros) {
                            let resolved = self.resolved.entry(partition).or_insert(appended.min(begun));
                            *resolved = appended.min(begun).max(*resolved);
                        }
                        self.decoder.push(partition, offset, micros, message.key(), message.payload());
                        polled.records += 1;
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
                    self.lost = true;
                    polled.gaps.extend(self.find_lost()?);
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

    /// The broker does not hold an offset that was asked for: moves to the earliest there is and says what was lost. A
    /// reader that follows a topic does not wait for where that is: until then nothing more of the partition comes.
    fn find_lost(&mut self) -> Result<Vec<Gap>, KafkaError> {
        let bounds = match &self.watched {
            Some(watched) => match watched.bounds() {
                None => return Ok(vec![]),
                Some(bounds) => bounds,
            },
            None => self.next.keys().map(|p| Ok((*p, self.bounds(*p, Duration::from_secs(10))?))).collect(),
        };
        match bounds {
            Ok(bounds) => self.reposition(&bounds),
            // It is asked again with the next poll.
            Err(KafkaError::Unreachable { .. }) if self.watched.is_some() => Ok(vec![]),
            Err(e) => Err(e),
        }
    }

    fn reposition(&mut self, bounds: &Bounds) -> Result<Vec<Gap>, KafkaError> {
        let mut gaps = vec![];
        for (partition, from) in self.next.clone() {
            let Some(&(earliest, end)) = bounds.get(&partition) else { continue };
            if from > end {
                return Err(KafkaError::Truncated { topic: self.topic.clone(), partition, offset: from, end });
            }
            if from < earliest {
                self.next.insert(partition, earliest);
                if from > 0 {
                    // A fresh partition just starts there.
                    gaps.push(Gap { source: self.source_name.clone(), partition, from, to: earliest });
                }
            }
        }
        self.assign_all()?;
        self.lost = false;
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
        KafkaError::of(source, &self.topic, &self.brokers)
    }
}

/// Is this record one to take? Then the next of its partition is the one after it. What was left in a queue from before
/// partitions were assigned anew is not: it comes again, or came already.
fn passes(next: &mut BTreeMap<i32, i64>, until: &BTreeMap<i32, i64>, partition: i32, offset: i64) -> bool {
    let Some(next) = next.get_mut(&partition).filter(|next| offset >= **next) else { return false };
    let end = until.get(&partition).copied();
    *next = end.map_or(offset + 1, |end| end.min(offset + 1));
    end.is_none_or(|end| offset < end)
}

/// What the client tells in passing.
struct Told {
    topic: String,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Up to where the client has met the end of a partition, marks of transactions included; about a second old.
    ended: BTreeMap<i32, i64>,
    trouble: Option<String>,
}

impl ClientContext for Told {
    fn stats(&self, statistics: Statistics) {
        let Some(topic) = statistics.topics.get(&self.topic) else { return };
        let ended = topic.partitions.iter().map(|(&partition, state)| (partition, state.eof_offset));
        self.seen.lock().ended.extend(ended.filter(|&(partition, at)| partition >= 0 && at >= 0));
    }

    fn error(&self, error: ClientError, reason: &str) {
        if matches!(error.rdkafka_error_code(), Some(Code::AllBrokersDown | Code::Resolve)) {
            self.seen.lock().trouble = Some(reason.to_string());
        }
    }
}

impl ConsumerContext for Told {}

#[cfg(test)]
#[path = "kafka_tests.rs"]
mod tests;
