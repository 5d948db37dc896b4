//! What brokers say beside the stream of records: where partitions end, which there are, and whether a topic is still
//! the one that was read.
//!
//! A client of its own asks, on a thread of its own, several times a second. The client that reads cannot know: one that
//! hears nothing looks just like one for which there is nothing.
//!
//! Invariants: all that was appended before [`Answer::asked`] lies below the ends of that answer. Nobody who reads waits for
//! anything here. Neighbours: `kafka` compares with this what it has read; `topics` starts it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError as ClientError;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::client::{KafkaError, KafkaSettings, client_config};
use crate::diagnostic::spoken;
use crate::time::{Clock, format_instant};

/// Between two questions about a topic's ends; with many topics more.
const EVERY: Duration = Duration::from_millis(100);
/// What one question may take of a node's time: with hundreds of topics they are asked less often.
const SHARE: Duration = Duration::from_millis(5);
/// Between two looks for new partitions and for the topic's id, in µs.
const LOOK: i64 = 5_000_000;
/// How long a broker may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Without an answer for so long (µs), a topic counts as one that cannot be read.
const SILENCE: i64 = 3_000_000;

/// Where a topic's partitions ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// When that was asked, in µs.
    pub asked: i64,
    /// Exclusive ends; of the last stable offset, where readers of transactions see no further.
    pub ends: BTreeMap<i32, i64>,
}

/// Earliest offset and exclusive end, by partition.
pub type Bounds = BTreeMap<i32, (i64, i64)>;

/// What is known of one topic.
pub struct Watched {
    topic: String,
    brokers: String,
    clock: Clock,
    state: Mutex<State>,
    /// Wakes whoever asks, before its time.
    hurry: Arc<Hurry>,
}

#[derive(Default)]
struct State {
    partitions: Vec<i32>,
    id: Option<String>,
    answer: Option<Answer>,
    /// When a broker last answered anything about this topic, in µs.
    heard: i64,
    /// What it said to the question after that, if it was no answer.
    failure: Option<String>,
    looked: i64,
    look_now: bool,
    bounds_wanted: bool,
    bounds: Option<Result<Bounds, KafkaError>>,
}

impl Watched {
    /// The clock that instants here are of, in µs.
    pub fn now(&self) -> i64 {
        self.clock.now()
    }

    /// The last answer about the ends.
    pub fn answer(&self) -> Option<Answer> {
        self.state.lock().answer.clone()
    }

    /// Its partitions, as last seen.
    pub fn partitions(&self) -> Vec<i32> {
        self.state.lock().partitions.clone()
    }

    /// The topic's id, if its brokers give topics ids.
    pub fn id(&self) -> Option<String> {
        self.state.lock().id.clone()
    }

    /// Why it cannot be read, if that is so.
    pub fn trouble(&self) -> Option<String> {
        let state = self.state.lock();
        if state.failure.is_none() && self.clock.now() - state.heard < SILENCE {
            return None;
        }
        let since = format_instant(state.heard);
        let why = state.failure.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        Some(format!("no broker at '{}' has answered since {since}{why}", self.brokers))
    }

    /// Earliest offsets and ends as of a moment after the first call: `None` until they are there. Never waits.
    pub fn bounds(&self) -> Option<Result<Bounds, KafkaError>> {
        let mut state = self.state.lock();
        let bounds = state.bounds.take();
        state.bounds_wanted = bounds.is_none();
        if state.bounds_wanted {
            self.hurry.now();
        }
        bounds
    }

    fn take_answer(&self, answer: Result<Answer, KafkaError>) {
        let mut state = self.state.lock();
        match answer {
            Ok(answer) => {
                // An end that comes down is the first sign of a topic that was made anew.
                let shorter = |before: &Answer| before.ends.iter().any(|(p, end)| answer.ends.get(p) < Some(end));
                state.look_now |= state.answer.as_ref().is_some_and(shorter);
                (state.heard, state.failure) = (answer.asked, None);
                state.answer = Some(answer);
            }
            Err(e) => state.failure = Some(spoken(&e)),
        }
    }
}

/// Ends a wait before its time.
#[derive(Default)]
struct Hurry {
    wanted: Mutex<bool>,
    changed: Condvar,
}

impl Hurry {
    fn now(&self) {
        *self.wanted.lock() = true;
        self.changed.notify_all();
    }

    fn wait(&self, time: Duration) {
        let mut wanted = self.wanted.lock();
        if !*wanted {
            self.changed.wait_for(&mut wanted, time);
        }
        *wanted = false;
    }
}

/// Asks the brokers of one list about topics, until it is dropped.
pub struct Watcher {
    brokers: String,
    consumer: BaseConsumer<Ids>,
    clock: Clock,
    topics: Mutex<Vec<Weak<Watched>>>,
    hurry: Arc<Hurry>,
}

impl Watcher {
    /// A client that is asked by hand; see [`Watcher::start`].
    ///
    /// # Errors
    /// [`KafkaError::Settings`]: properties that the client does not take.
    pub fn new(brokers: &str, settings: &KafkaSettings, clock: &Clock) -> Result<Watcher, KafkaError> {
        let mut config = client_config(brokers, settings);
        // The client says a topic's id nowhere but in its log; there is no other way without `unsafe`.
        config.set("debug", "metadata").set("statistics.interval.ms", "0");
        config.set_log_level(RDKafkaLogLevel::Debug);
        let consumer = config.create_with_context(Ids::default());
        let consumer = consumer.map_err(|e| KafkaError::Settings { source_name: brokers.into(), source: e })?;
        let (topics, hurry) = Default::default();
        Ok(Watcher { brokers: brokers.into(), consumer, clock: clock.clone(), topics, hurry })
    }

    /// A client with a thread that asks about every topic that [`Watcher::watch`] has made known.
    ///
    /// # Errors
    /// As of [`Watcher::new`].
    pub fn start(brokers: &str, settings: &KafkaSettings, clock: &Clock) -> Result<Arc<Watcher>, KafkaError> {
        let watcher = Arc::new(Watcher::new(brokers, settings, clock)?);
        let (weak, hurry) = (Arc::downgrade(&watcher), Arc::clone(&watcher.hurry));
        std::thread::spawn(move || {
            while let Some(watcher) = weak.upgrade() {
                let asked = watcher.turn();
                drop(watcher);
                hurry.wait(EVERY.max(SHARE * asked));
            }
        });
        Ok(watcher)
    }

    /// Learns what there is of a topic now, and keeps asking for as long as the outcome is held.
    ///
    /// # Errors
    /// [`KafkaError::Unreachable`] after some seconds, [`KafkaError::UnknownTopic`].
    pub fn watch(&self, topic: &str) -> Result<Arc<Watched>, KafkaError> {
        let (clock, hurry) = (self.clock.clone(), Arc::clone(&self.hurry));
        let (topic, brokers) = (topic.to_string(), self.brokers.clone());
        let watched = Arc::new(Watched { topic, brokers, clock, state: Mutex::default(), hurry });
        self.look(&watched)?;
        self.topics.lock().push(Arc::downgrade(&watched));
        self.hurry.now();
        Ok(watched)
    }

    /// Asks once about all topics; returns how many there are.
    fn turn(&self) -> u32 {
        let topics: Vec<Arc<Watched>> = {
            let mut topics = self.topics.lock();
            topics.retain(|t| t.strong_count() > 0);
            topics.iter().filter_map(Weak::upgrade).collect()
        };
        for watched in &topics {
            watched.take_answer(self.ends(watched));
            let now = self.clock.now();
            let state = watched.state.lock();
            let (look, bounds) = (state.look_now || now - state.looked >= LOOK, state.bounds_wanted);
            drop(state);
            if look && let Err(e) = self.look(watched) {
                watched.state.lock().failure = Some(spoken(&e));
            }
            if bounds {
                let found = self.bounds(watched);
                let mut state = watched.state.lock();
                (state.bounds, state.bounds_wanted) = (Some(found), false);
            }
        }
        u32::try_from(topics.len()).unwrap_or(u32::MAX)
    }

    fn ends(&self, watched: &Watched) -> Result<Answer, KafkaError> {
        let error = |e: ClientError| KafkaError::of(e, &watched.topic, &self.brokers);
        let partitions = watched.partitions();
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            // The timestamp of "latest" is the offset "end".
            list.add_partition_offset(&watched.topic, partition, Offset::End).map_err(error)?;
        }
        let asked = self.clock.now();
        let found = self.consumer.offsets_for_times(list, ANSWER).map_err(error)?;
        let mut ends = BTreeMap::new();
        for partition in found.elements() {
            partition.error().map_err(error)?;
            if let Offset::Offset(end) = partition.offset() {
                ends.insert(partition.partition(), end);
            }
        }
        Ok(Answer { asked, ends })
    }

    /// The topic's partitions and its id.
    fn look(&self, watched: &Watched) -> Result<(), KafkaError> {
        let error = |e: ClientError| KafkaError::of(e, &watched.topic, &self.brokers);
        let asked = self.clock.now();
        let metadata = self.consumer.fetch_metadata(Some(&watched.topic), ANSWER).map_err(error)?;
        let topic = metadata.topics().iter().find(|t| t.name() == watched.topic);
        if let Some(code) = topic.and_then(|t| t.error()) {
            return Err(error(ClientError::MetadataFetch(code.into())));
        }
        let partitions = topic.iter().flat_map(|t| t.partitions()).map(|p| p.id()).collect();
        let partitions = KafkaError::keepable(partitions, &watched.topic)?;
        if partitions.is_empty() {
            return Err(KafkaError::UnknownTopic { topic: watched.topic.clone(), brokers: self.brokers.clone() });
        }
        self.read_log();
        let id = self.consumer.context().found.lock().get(&watched.topic).cloned();
        let mut state = watched.state.lock();
        (state.partitions, state.id) = (partitions, id);
        (state.heard, state.looked, state.look_now) = (asked.max(state.heard), asked, false);
        Ok(())
    }

    fn bounds(&self, watched: &Watched) -> Result<Bounds, KafkaError> {
        let error = |e: ClientError| KafkaError::of(e, &watched.topic, &self.brokers);
        let bounds = |p: i32| Ok((p, self.consumer.fetch_watermarks(&watched.topic, p, ANSWER).map_err(error)?));
        watched.partitions().into_iter().map(bounds).collect()
    }

    /// Lets the client hand over what it has logged: it was logged before its answers came.
    fn read_log(&self) {
        let lines = || self.consumer.context().lines.load(Ordering::Relaxed);
        loop {
            let before = lines();
            // Nothing is assigned, so there are no records.
            if self.consumer.poll(Duration::ZERO).is_none() && lines() == before {
                return;
            }
        }
    }
}

/// Topics' ids, read from the client's log.
#[derive(Default)]
struct Ids {
    found: Mutex<BTreeMap<String, String>>,
    lines: AtomicU64,
}

impl ClientContext for Ids {
    fn log(&self, _: RDKafkaLogLevel, _: &str, message: &str) {
        self.lines.fetch_add(1, Ordering::Relaxed);
        if let Some((topic, id)) = changed_id(message) {
            self.found.lock().insert(topic.into(), id.into());
        }
    }

    fn error(&self, _: ClientError, _: &str) {}
}

impl ConsumerContext for Ids {}

/// The topic and its new id, if a line of the client's log is about that.
fn changed_id(line: &str) -> Option<(&str, &str)> {
    let (before, after) = line.split_once(" changed id from ")?;
    let (_, topic) = before.rsplit_once("Topic ")?;
    let (_, id) = after.split_once(" to ")?;
    Some((topic, id.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_from_the_log() {
        let line = "[thrd:main]: Topic a.b-c changed id from AAAAAAAAAAAAAAAAAAAAAA to x0/zX+1ZTvGvGmnRo3hJxQ";
        assert_eq!(changed_id(line), Some(("a.b-c", "x0/zX+1ZTvGvGmnRo3hJxQ")));
        assert_eq!(changed_id("[thrd:main]: Topic a [0] Leader 1 Epoch 0"), None);
    }

    fn watched(clock: &Clock) -> Watched {
        let (topic, brokers) = ("t".to_string(), "b:1".to_string());
        Watched { topic, brokers, clock: clock.clone(), state: Mutex::default(), hurry: Arc::default() }
    }

    #[test]
    fn silence_is_trouble_and_an_answer_ends_it() {
        let now = Arc::new(std::sync::atomic::AtomicI64::new(10_000_000));
        let watched = watched(&Clock::Manual(Arc::clone(&now)));
        let answer = |asked| Ok(Answer { asked, ends: BTreeMap::from([(0, 5)]) });
        watched.take_answer(answer(10_000_000));
        assert_eq!(watched.trouble(), None);
        now.store(10_000_000 + SILENCE, Ordering::SeqCst);
        let why = watched.trouble().expect("nobody answers");
        assert!(why.contains("'b:1'") && why.contains("1970-01-01T00:00:10"), "{why}");
        watched.take_answer(answer(13_000_000));
        assert_eq!(watched.trouble(), None);
        let unreachable = KafkaError::UnknownTopic { topic: "t".into(), brokers: "b:1".into() };
        watched.take_answer(Err(unreachable));
        assert!(watched.trouble().is_some_and(|why| why.contains("does not exist")));
        assert_eq!(watched.answer().map(|a| a.asked), Some(13_000_000), "the last answer stays what is known");
    }

    #[test]
    fn an_end_that_comes_down_asks_for_a_look() {
        let watched = watched(&Clock::Machine);
        let take = |ends: &[(i32, i64)]| {
            watched.take_answer(Ok(Answer { asked: 1, ends: ends.iter().copied().collect() }));
            watched.state.lock().look_now
        };
        assert!(!take(&[(0, 5)]));
        assert!(!take(&[(0, 7), (1, 0)]));
        assert!(take(&[(0, 6), (1, 9)]));
    }
}
