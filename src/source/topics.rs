//! Topics of brokers, as live reading wants them: opened on threads of their own, and watched.
//!
//! Invariants: topics of one list of brokers share one watching client. Neighbours: `live` reads them; `kafka` and `watch`
//! are what they are made of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::client::place;
use super::decode::Decoded;
use super::kafka::{KafkaError, KafkaReader, KafkaSettings, Polled, TakenIn};
use super::live::{Opening, Topic, Topics};
use super::watch::Watcher;
use crate::definition::Source;
use crate::offset::Offsets;
use crate::time::{Clock, Epoch};

/// Who asks the brokers of each list.
type Watchers = Arc<Mutex<BTreeMap<String, Arc<Watcher>>>>;

/// Topics of real brokers.
pub struct KafkaTopics {
    settings: KafkaSettings,
    clock: Clock,
    watchers: Watchers,
}

impl KafkaTopics {
    /// None is opened yet.
    pub fn new(settings: &KafkaSettings, clock: &Clock) -> KafkaTopics {
        KafkaTopics { settings: settings.clone(), clock: clock.clone(), watchers: Watchers::default() }
    }
}

impl Topics for KafkaTopics {
    fn check(&self, source: &Arc<Source>) -> Result<(), KafkaError> {
        KafkaReader::new(source, &self.settings).map(|_| ())
    }

    fn open(&self, source: &Arc<Source>, committed: &Offsets, id: Option<&str>) -> Opening {
        let (settings, clock, watchers) = (self.settings.clone(), self.clock.clone(), Arc::clone(&self.watchers));
        let (theirs, committed, id) = (Arc::clone(source), committed.clone(), id.map(str::to_string));
        // Brokers take their time to answer, and nobody waits for this.
        let mut thread = Some(std::thread::spawn(move || {
            let mut reader = KafkaReader::new(&theirs, &settings)?;
            let (topic, brokers) = place(&theirs, &settings)?;
            let watcher = watcher(&watchers, brokers, &settings, &clock)?;
            reader.follow(watcher.watch(topic)?, id.as_deref())?;
            let partitions = reader.known_partitions();
            reader.assign(&partitions.into_iter().map(|p| (p, committed.get(&theirs.name, p))).collect())?;
            Ok(Box::new(reader) as Box<dyn Topic>)
        }));
        let source_name = source.name.clone();
        Box::new(move || {
            let outcome = thread.take_if(|t| t.is_finished())?.join();
            Some(outcome.unwrap_or_else(|_| Err(KafkaError::Panicked { source_name: source_name.clone() })))
        })
    }
}

/// Looks once whether a topic is the one that was read: `known` is that one's id. Returns its id, if it has one.
///
/// # Errors
/// [`KafkaError::MadeAnew`], [`KafkaError::Unreachable`], [`KafkaError::UnknownTopic`].
pub fn look_at(source: &Source, settings: &KafkaSettings, known: Option<&str>) -> Result<Option<String>, KafkaError> {
    let (topic, brokers) = place(source, settings)?;
    let found = Watcher::new(brokers, settings, &Clock::Machine)?.watch(topic)?.id();
    match (known, &found) {
        (Some(known), Some(found)) if known != found => {
            Err(KafkaError::MadeAnew { topic: topic.into(), known: known.into(), found: found.clone() })
        }
        _ => Ok(found),
    }
}

fn watcher(
    watchers: &Watchers,
    brokers: &str,
    settings: &KafkaSettings,
    clock: &Clock,
) -> Result<Arc<Watcher>, KafkaError> {
    let mut watchers = watchers.lock();
    if let Some(watcher) = watchers.get(brokers) {
        return Ok(Arc::clone(watcher));
    }
    let watcher = Watcher::start(brokers, settings, clock)?;
    watchers.insert(brokers.to_string(), Arc::clone(&watcher));
    Ok(watcher)
}

impl Topic for KafkaReader {
    fn poll(&mut self, records_max: usize, wait: Duration) -> Result<Polled, KafkaError> {
        KafkaReader::poll(self, records_max, wait)
    }

    fn pending(&self) -> usize {
        KafkaReader::pending(self)
    }

    fn is_full(&self) -> bool {
        KafkaReader::is_full(self)
    }

    fn finish(&mut self, epoch: Option<Epoch>, bounded_future: bool) -> Decoded {
        KafkaReader::finish(self, epoch, bounded_future)
    }

    fn positions(&self) -> &BTreeMap<i32, i64> {
        KafkaReader::positions(self)
    }

    fn end(&self, partition: i32) -> Option<i64> {
        KafkaReader::end(self, partition)
    }

    fn resolved(&mut self, begun: i64) -> Option<i64> {
        KafkaReader::resolved(self, begun)
    }

    fn id(&self) -> Option<&str> {
        KafkaReader::id(self)
    }

    fn taken(&self, partition: i32) -> TakenIn {
        KafkaReader::taken(self, partition)
    }

    fn trouble(&self) -> Option<String> {
        KafkaReader::trouble(self)
    }

    fn acknowledge(&self, committed: &Offsets) -> Result<(), KafkaError> {
        KafkaReader::acknowledge(self, committed)
    }

    fn look_for_partitions(&mut self) -> Result<(), KafkaError> {
        self.assign_new().map(|_| ())
    }
}
