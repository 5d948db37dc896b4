//! Live reading: one slice of input per tick, from all files and topics at once, under the machine's clock.
//!
//! A slice's epoch is the clock reading that opened it. Files are read to their end, tables without a time before
//! anything else; a topic whose broker does not answer is tried again, and holds nobody up.
//!
//! Invariants: all records of a slice carry its epoch; offsets in a slice are exactly those of its records, and what
//! retention took before them is in the slice that passes over it. A topic whose offsets mean other records than those
//! that were read is not read again.
//! Neighbours: `file` reads files, `topics` brings the [`Topic`]s of brokers (the simulation brings scripted ones);
//! `engine` feeds the slices and asks for the next.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Slice;
use super::decode::Decoded;
use super::file::{FileError, FileReader};
use super::kafka::{KafkaError, KafkaSettings, Polled, TakenIn};
use super::topics::KafkaTopics;
use super::{Gap, SourceState};
use crate::definition::{Connector, Source};
use crate::diagnostic::spoken;
use crate::offset::Offsets;
use crate::time::{Clock, Epoch, Mark};

/// Records of one source in one slice, at most.
const RECORDS: usize = 50_000;
/// Between two tries to reach a topic.
const RETRY: Duration = Duration::from_secs(1);
/// Between two looks for new partitions.
const REFRESH: Duration = Duration::from_secs(1);

/// How long ticks are.
#[derive(Clone, Copy, Debug)]
pub struct Ticks {
    /// With input: from the first record to the close.
    pub busy: Duration,
    /// Without: how old the open epoch may get.
    pub idle: Duration,
}

/// What live reading needs of a topic. No method waits for a broker, but [`Topic::poll`] for as long as it is told to.
pub trait Topic: Send {
    /// Takes in what is there, up to `records_max`; waits up to `wait` for the first record.
    ///
    /// # Errors
    /// What does not pass by waiting on this reader. What was polled before is kept.
    fn poll(&mut self, records_max: usize, wait: Duration) -> Result<Polled, KafkaError>;
    /// Records polled since the last [`Topic::finish`].
    fn pending(&self) -> usize;
    /// Must what was polled be finished before more can be?
    fn is_full(&self) -> bool;
    /// What was polled, as rows of this epoch; `bounded_future`: rows too far ahead of it are refused.
    fn finish(&mut self, epoch: Option<Epoch>, bounded_future: bool) -> Decoded;
    /// The next offset to poll of each assigned partition.
    fn positions(&self) -> &BTreeMap<i32, i64>;
    /// A partition's exclusive end, as far as the broker has told.
    fn end(&self, partition: i32) -> Option<i64>;
    /// Everything appended up to this instant (µs) has been polled, as far as anybody can tell; at most `begun`, when
    /// polling began.
    fn resolved(&mut self, begun: i64) -> Option<i64>;
    /// The topic's id, if it has one: a topic of the same name and another id is another topic.
    fn id(&self) -> Option<&str>;
    /// What was polled of a partition so far.
    fn taken(&self, partition: i32) -> TakenIn;
    /// Why no broker can be reached at the moment, if that is so.
    fn trouble(&self) -> Option<String>;
    /// Tells lag tools how far this source is committed; ours are in the store.
    ///
    /// # Errors
    /// The client does not take them.
    fn acknowledge(&self, committed: &Offsets) -> Result<(), KafkaError>;
    /// Reads partitions that the topic has got since, from their start on.
    ///
    /// # Errors
    /// The client does not take them.
    fn look_for_partitions(&mut self) -> Result<(), KafkaError>;
}

/// A try to reach a topic: asked again and again until it has an outcome, and never waited for.
pub type Opening = Box<dyn FnMut() -> Option<Result<Box<dyn Topic>, KafkaError>> + Send>;

/// Where topics come from.
pub trait Topics: Send {
    /// Can the source be read at all, as it is defined and configured?
    ///
    /// # Errors
    /// A mistake in the definition or the settings.
    fn check(&self, source: &Arc<Source>) -> Result<(), KafkaError>;
    /// Begins to open a topic at what is committed of it. `id`: the id that the topic had when that was read; with
    /// another one it is refused.
    fn open(&self, source: &Arc<Source>, committed: &Offsets, id: Option<&str>) -> Opening;
}

/// A topic as it is being read, or why not.
struct Track {
    source: Arc<Source>,
    reader: Option<Box<dyn Topic>>,
    /// A try to reach it, which may take its time.
    opening: Option<Opening>,
    next_try: Mark,
    trouble: Option<String>,
    /// It is not tried again: see [`KafkaError::is_lasting`].
    refused: bool,
    /// The id that was committed with its offsets.
    id: Option<String>,
    /// What was found to be gone, and is not in a slice yet.
    gaps: Vec<Gap>,
}

impl Track {
    /// Nothing is read until it is opened again, if that can help.
    fn close(&mut self, why: &KafkaError, now: Mark) {
        (self.reader, self.next_try) = (None, now + RETRY);
        // What was polled is not in a slice: it is polled again, and so are the gaps before it.
        self.gaps.clear();
        (self.trouble, self.refused) = (Some(spoken(why)), why.is_lasting());
    }
}

/// How one partition stands, for telemetry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionState {
    /// The source's name.
    pub source: String,
    /// The partition.
    pub partition: i32,
    /// The next offset to read.
    pub read: i64,
    /// The broker's end offset, if known.
    pub high: Option<i64>,
    /// What was read of it.
    pub taken: TakenIn,
}

/// All live sources of a node.
pub struct Live {
    files: Vec<(Arc<Source>, FileReader)>,
    topics: Vec<Track>,
    from: Box<dyn Topics>,
    committed: Offsets,
    clock: Clock,
    ticks: Ticks,
}

impl Live {
    /// Opens the files; topics are tried as the slices go.
    ///
    /// # Errors
    /// A missing or broken file, or Kafka settings that cannot be right.
    pub fn new(
        sources: &[Arc<Source>],
        dir: &Path,
        settings: &KafkaSettings,
        committed: Offsets,
        clock: &Clock,
        ticks: Ticks,
    ) -> Result<Live, LiveError> {
        Live::with_topics(sources, dir, Box::new(KafkaTopics::new(settings, clock)), committed, clock, ticks)
    }

    /// As [`Live::new`], with topics from elsewhere.
    ///
    /// # Errors
    /// As of [`Live::new`].
    pub fn with_topics(
        sources: &[Arc<Source>],
        dir: &Path,
        from: Box<dyn Topics>,
        committed: Offsets,
        clock: &Clock,
        ticks: Ticks,
    ) -> Result<Live, LiveError> {
        let (mut files, mut topics) = (vec![], vec![]);
        for source in sources {
            match source.from {
                Connector::File { .. } => {
                    files.push((Arc::clone(source), FileReader::open(dir, source, committed.get(&source.name, 0))?));
                }
                Connector::Kafka { .. } => topics.push(Track {
                    source: Arc::clone(source),
                    reader: None,
                    opening: None,
                    next_try: clock.mark(),
                    trouble: None,
                    refused: false,
                    id: None,
                    gaps: vec![],
                }),
            }
        }
        // Tables without a time come before all else, then other tables.
        files.sort_by_key(|(s, _)| (!is_untimed(s), !s.is_table()));
        for topic in &topics {
            // Settings that cannot be right are found before anything runs.
            from.check(&topic.source)?;
        }
        Ok(Live { files, topics, from, committed, clock: clock.clone(), ticks })
    }

    /// What earlier runs have found out about topics: their ids, and which of them are not to be read.
    pub fn remember(&mut self, states: BTreeMap<String, SourceState>) {
        for (name, state) in states {
            let Some(topic) = self.topics.iter_mut().find(|t| t.source.name == name) else { continue };
            (topic.id, topic.refused) = (state.topic_id, state.refused.is_some());
            topic.trouble = state.refused;
        }
    }

    /// Reads one slice, or nothing if an idle tick passed without input.
    ///
    /// # Errors
    /// A file that cannot be read on, or a topic in a state that does not pass by waiting.
    pub fn next_slice(&mut self, last: Epoch) -> Result<Option<Slice>, LiveError> {
        let begun = self.clock.now();
        let epoch = Epoch::open(begun, last);
        let mut slice = Slice::default();
        if !self.files.is_empty() {
            self.read_files(epoch, &mut slice)?;
        }
        // A table without a time is read to its end before anything else is looked at.
        if !self.files.first().is_some_and(|(s, _)| is_untimed(s)) {
            self.poll_topics(slice.last.is_some())?;
        }
        slice.complete = self.complete(begun);
        self.finish_topics(epoch, &mut slice);
        Ok(slice.last.is_some().then_some(slice))
    }

    fn read_files(&mut self, epoch: Epoch, slice: &mut Slice) -> Result<(), LiveError> {
        let untimed_first = self.files.first().is_some_and(|(s, _)| is_untimed(s));
        let mut kept = vec![];
        for (source, mut reader) in std::mem::take(&mut self.files) {
            if untimed_first && !is_untimed(&source) {
                kept.push((source, reader));
                continue;
            }
            if let Some(decoded) = reader.read(8192, Some(epoch), true)? {
                slice.offsets.advance(&source.name, 0, reader.position());
                take(&source, decoded, epoch, slice);
                kept.push((source, reader));
            }
        }
        self.files = kept;
        Ok(())
    }

    /// Polls until the tick is over: `busy` after the first record, `idle` without any.
    fn poll_topics(&mut self, busy: bool) -> Result<(), LiveError> {
        let start = self.clock.mark();
        let mut first: Option<Mark> = busy.then_some(start);
        self.connect();
        loop {
            let reading = self.topics.iter().filter(|t| t.reader.is_some()).count();
            // With several topics nobody may be waited for long: a record elsewhere would wait too.
            let wait = match (first, reading) {
                (_, 0) => {
                    if !busy {
                        self.clock.sleep(self.ticks.idle.min(Duration::from_millis(20)));
                    }
                    return Ok(());
                }
                (Some(_), _) => Duration::ZERO,
                (None, 1) => self.ticks.idle,
                (None, _) => Duration::from_millis(1),
            };
            let mut full = false;
            let mut any = false;
            for topic in &mut self.topics {
                let Some(reader) = &mut topic.reader else { continue };
                let polled = match reader.poll(RECORDS - reader.pending().min(RECORDS), wait) {
                    Ok(polled) => polled,
                    Err(e) => {
                        // The others go on.
                        topic.close(&e, self.clock.mark());
                        continue;
                    }
                };
                any |= polled.records > 0;
                full |= reader.is_full() || reader.pending() >= RECORDS;
                topic.gaps.extend(polled.gaps);
            }
            let now = self.clock.mark();
            if any && first.is_none() {
                first = Some(now);
            }
            let over = match first {
                Some(at) => now.since(at) >= self.ticks.busy,
                None => now.since(start) >= self.ticks.idle,
            };
            if full || over {
                return Ok(());
            }
            if let Some(at) = first {
                // The client wakes us for every record; at the end of a short tick they are all there.
                self.clock.sleep(self.ticks.busy.saturating_sub(now.since(at)));
            }
        }
    }

    /// Connects topics that are not being read, each at most once a second, and looks for new partitions of the others.
    fn connect(&mut self) {
        let now = self.clock.mark();
        for topic in self.topics.iter_mut().filter(|t| !t.refused) {
            if let Some(outcome) = topic.opening.as_mut().and_then(|opening| opening()) {
                topic.opening = None;
                match outcome {
                    Ok(reader) => {
                        (topic.reader, topic.trouble) = (Some(reader), None);
                        topic.next_try = now + REFRESH;
                    }
                    Err(e) => topic.close(&e, now),
                }
            }
            if let Some(reader) = &topic.reader {
                topic.trouble = reader.trouble();
            }
            if topic.next_try > now {
                continue;
            }
            match &mut topic.reader {
                Some(reader) => {
                    topic.next_try = now + REFRESH;
                    if topic.trouble.is_none() {
                        // It is looked for again; until then nothing of a new partition is read.
                        let _ = reader.look_for_partitions();
                    }
                }
                None if topic.opening.is_none() => {
                    topic.next_try = now + RETRY;
                    topic.opening = Some(self.from.open(&topic.source, &self.committed, topic.id.as_deref()));
                }
                None => {}
            }
        }
    }

    fn finish_topics(&mut self, epoch: Epoch, slice: &mut Slice) {
        for topic in &mut self.topics {
            let gaps = std::mem::take(&mut topic.gaps);
            let Some(reader) = topic.reader.as_mut().filter(|r| r.pending() > 0 || !gaps.is_empty()) else { continue };
            let decoded = reader.finish(Some(epoch), true);
            // With the first of its offsets: who reads on after them must find the same topic.
            if let Some(id) = reader.id().filter(|id| topic.id.as_deref() != Some(id)) {
                topic.id = Some(id.to_string());
                slice.topic_ids.insert(topic.source.name.clone(), id.to_string());
            }
            slice.gaps.extend(gaps);
            // Committed or not, these are on their way: a reader that is opened anew goes on after them.
            for (partition, next) in reader.positions() {
                if *next > self.committed.get(&topic.source.name, *partition) {
                    slice.offsets.advance(&topic.source.name, *partition, *next);
                    self.committed.advance(&topic.source.name, *partition, *next);
                }
            }
            take(&topic.source, decoded, epoch, slice);
        }
    }

    /// Tells Kafka's consumer groups how far we are, for the lag tools people have.
    pub fn acknowledge(&self, committed: &Offsets) {
        for reader in self.topics.iter().filter_map(|t| t.reader.as_ref()) {
            // Only lag tools read these offsets; ours are in the store.
            let _ = reader.acknowledge(committed);
        }
    }

    /// Topics that cannot be read now, and why.
    pub fn troubles(&self) -> BTreeMap<String, String> {
        let trouble = |t: &Track| t.trouble.clone().map(|why| (t.source.name.clone(), why));
        self.topics.iter().filter_map(trouble).collect()
    }

    /// Every topic's source, and why it cannot be read now.
    pub fn reachable(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.topics.iter().map(|t| {
            let why = t.trouble.as_deref();
            (t.source.name.as_str(), why.or(t.reader.is_none().then_some("it is being connected")))
        })
    }

    /// Everything appended up to this instant is read, as far as that is known. `begun`: when reading began.
    pub fn complete(&mut self, begun: i64) -> Option<i64> {
        if !self.files.is_empty() {
            return None;
        }
        let mut upto = begun;
        for topic in &mut self.topics {
            let reader = topic.reader.as_mut().filter(|_| topic.trouble.is_none())?;
            upto = upto.min(reader.resolved(begun)?);
        }
        Some(upto)
    }

    /// Is everything read that there is, as far as the brokers have told? False while a topic cannot be read.
    pub fn is_caught_up(&self) -> bool {
        let at_end = |topic: &Track| {
            let Some(reader) = topic.reader.as_ref().filter(|r| topic.trouble.is_none() && r.trouble().is_none())
            else {
                return false;
            };
            reader.pending() == 0
                && reader.positions().iter().all(|(p, next)| reader.end(*p).is_some_and(|end| *next >= end))
        };
        // A file that is read to its end is not kept.
        self.files.is_empty() && self.topics.iter().all(at_end)
    }

    /// How every assigned partition stands.
    pub fn partitions(&self) -> Vec<PartitionState> {
        let mut states = vec![];
        for topic in &self.topics {
            let Some(reader) = &topic.reader else { continue };
            states.extend(reader.positions().iter().map(|(p, next)| PartitionState {
                source: topic.source.name.clone(),
                partition: *p,
                read: *next,
                // An end that a broker told before it fell silent says nothing of now.
                high: reader.end(*p).filter(|_| topic.trouble.is_none()),
                taken: reader.taken(*p),
            }));
        }
        states
    }

    /// Topics that are not read any more, and why: see [`KafkaError::is_lasting`].
    pub fn refused(&self) -> impl Iterator<Item = (&str, &str)> {
        let refused = self.topics.iter().filter(|t| t.refused);
        refused.filter_map(|t| Some((t.source.name.as_str(), t.trouble.as_deref()?)))
    }
}

/// Why live reading cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A topic.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
}

fn is_untimed(source: &Source) -> bool {
    source.is_table() && source.event_time.is_none() && source.arrival_time.is_none() && !source.is_kafka()
}

fn take(source: &Arc<Source>, decoded: Decoded, epoch: Epoch, slice: &mut Slice) {
    slice.last = Some(epoch);
    if let Some(batch) = decoded.batch {
        slice.batches.push((Arc::clone(source), batch));
    }
    slice.rejected.extend(decoded.rejected);
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
