//! Live reading: one slice of input per tick, from all files and topics at once, under the machine's clock.
//!
//! A slice's epoch is the clock reading that opened it. Files are read to their end, tables without a time before
//! anything else; a topic whose broker does not answer is tried again, and holds nobody up.
//!
//! Invariants: all records of a slice carry its epoch; offsets in a slice are exactly those of its records.
//! Neighbours: `file` reads files, `kafka` is the [`Topic`] of a broker (the simulation brings a scripted one); `engine`
//! feeds the slices and asks for the next.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Slice;
use super::decode::Decoded;
use super::file::{FileError, FileReader};
use super::kafka::{Gap, KafkaError, KafkaReader, KafkaSettings, Polled, TakenIn};
use crate::definition::{Connector, Source};
use crate::diagnostic::spoken;
use crate::offset::Offsets;
use crate::time::{Clock, Epoch};

/// Records of one source in one slice, at most.
const RECORDS: usize = 50_000;
/// How long an answer about a topic's partitions may take.
const ANSWER: Duration = Duration::from_secs(3);
/// Between two tries to reach a topic.
const RETRY: Duration = Duration::from_secs(1);
/// Between two looks for new partitions.
const REFRESH: Duration = Duration::from_secs(20);
/// How long such a look may take: reading waits for it.
const LOOK: Duration = Duration::from_millis(250);

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
    /// As [`KafkaReader::assign_new`].
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
    /// Begins to open a topic at what is committed of it. `id`: the id that the topic had when that was read, if it is
    /// known; with another one it is refused.
    fn open(&self, source: &Arc<Source>, committed: &Offsets, id: Option<&str>) -> Opening;
}

/// Topics of real brokers, each opened on a thread of its own.
struct KafkaTopics(KafkaSettings);

impl Topics for KafkaTopics {
    fn check(&self, source: &Arc<Source>) -> Result<(), KafkaError> {
        KafkaReader::new(source, &self.0).map(|_| ())
    }

    fn open(&self, source: &Arc<Source>, committed: &Offsets, _: Option<&str>) -> Opening {
        let (source, settings, committed) = (Arc::clone(source), self.0.clone(), committed.clone());
        let name = source.name.clone();
        let mut thread = Some(std::thread::spawn(move || open(&source, &settings, &committed)));
        Box::new(move || {
            let outcome = thread.take_if(|t| t.is_finished())?.join();
            Some(outcome.unwrap_or_else(|_| Err(KafkaError::Panicked { source_name: name.clone() })))
        })
    }
}

/// A topic as it is being read, or why not.
struct Track {
    source: Arc<Source>,
    reader: Option<Box<dyn Topic>>,
    /// A try to reach it, which may take its time.
    opening: Option<Opening>,
    next_try: Instant,
    trouble: Option<String>,
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
    gaps: Vec<(String, Gap)>,
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
        Live::with_topics(sources, dir, Box::new(KafkaTopics(settings.clone())), committed, clock, ticks)
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
                    next_try: Instant::now(),
                    trouble: None,
                }),
            }
        }
        // Tables without a time come before all else, then other tables.
        files.sort_by_key(|(s, _)| (!is_untimed(s), !s.is_table()));
        for topic in &topics {
            // Settings that cannot be right are found before anything runs.
            from.check(&topic.source)?;
        }
        Ok(Live { files, topics, from, committed, clock: clock.clone(), ticks, gaps: vec![] })
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
        let start = Instant::now();
        let mut first: Option<Instant> = busy.then_some(start);
        self.connect();
        loop {
            let reading = self.topics.iter().filter(|t| t.reader.is_some()).count();
            // With several topics nobody may be waited for long: a record elsewhere would wait too.
            let wait = match (first, reading) {
                (_, 0) => {
                    if !busy {
                        std::thread::sleep(self.ticks.idle.min(Duration::from_millis(20)));
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
                        // The others go on. What was polled before is read again once the topic can be.
                        topic.trouble = Some(spoken(&e));
                        (topic.reader, topic.next_try) = (None, Instant::now() + RETRY);
                        continue;
                    }
                };
                any |= polled.records > 0;
                full |= reader.is_full() || reader.pending() >= RECORDS;
                self.gaps.extend(polled.gaps.into_iter().map(|g| (topic.source.name.clone(), g)));
            }
            let now = Instant::now();
            if any && first.is_none() {
                first = Some(now);
            }
            let over = match first {
                Some(at) => now.duration_since(at) >= self.ticks.busy,
                None => now.duration_since(start) >= self.ticks.idle,
            };
            if full || over {
                return Ok(());
            }
            if let Some(at) = first {
                // The client wakes us for every record; at the end of a short tick they are all there.
                std::thread::sleep(self.ticks.busy.saturating_sub(now.duration_since(at)));
            }
        }
    }

    /// Connects topics that are not being read, each at most once a second, and looks for new partitions of the others.
    fn connect(&mut self) {
        let now = Instant::now();
        for topic in &mut self.topics {
            if let Some(outcome) = topic.opening.as_mut().and_then(|opening| opening()) {
                topic.opening = None;
                match outcome {
                    Ok(reader) => {
                        (topic.reader, topic.trouble) = (Some(reader), None);
                        topic.next_try = now + REFRESH;
                    }
                    Err(e) => topic.trouble = Some(spoken(&e)),
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
                    topic.opening = Some(self.from.open(&topic.source, &self.committed, None));
                }
                None => {}
            }
        }
    }

    fn finish_topics(&mut self, epoch: Epoch, slice: &mut Slice) {
        for topic in &mut self.topics {
            let Some(reader) = topic.reader.as_mut().filter(|r| r.pending() > 0) else { continue };
            let decoded = reader.finish(Some(epoch), true);
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
    fn complete(&mut self, begun: i64) -> Option<i64> {
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
                high: reader.end(*p),
                taken: reader.taken(*p),
            }));
        }
        states
    }

    /// What retention took before it was read, since the last call.
    pub fn take_gaps(&mut self) -> Vec<(String, Gap)> {
        std::mem::take(&mut self.gaps)
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

fn open(source: &Arc<Source>, settings: &KafkaSettings, committed: &Offsets) -> Result<Box<dyn Topic>, KafkaError> {
    let mut reader = KafkaReader::new(source, settings)?;
    let partitions = reader.partitions(ANSWER)?;
    let at = partitions.into_iter().map(|p| (p, committed.get(&source.name, p))).collect();
    reader.assign(&at)?;
    Ok(Box::new(reader))
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

    fn id(&self) -> Option<&str> {
        None
    }

    fn resolved(&mut self, begun: i64) -> Option<i64> {
        let mut upto = begun;
        for partition in self.positions().keys() {
            // What may be unread was appended no earlier than the last that was read.
            if !self.is_at_end(*partition) {
                upto = upto.min(self.taken(*partition).appended?);
            }
        }
        Some(upto)
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
        self.assign_new(LOOK).map(|_| ())
    }
}
