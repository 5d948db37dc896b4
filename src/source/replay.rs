//! A finished history, in time order: all sources merged under a clock, as slices of whole epochs.
//!
//! Every source is read to the end it has at the start, sorted by time, and taken from in step with the others.
//! Invariants: epochs increase from slice to slice and no epoch is split; what a slice says of offsets and positions is
//! enough to go on after it and to come to the same epochs. Offsets of a source move only when its sorted part is used
//! up.
//! Neighbours: `lane` sorts one source; `file` and `kafka` read; `engine` commits slice by slice.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::client::place;
use super::file::{FileError, FileReader};
use super::kafka::{KafkaError, KafkaReader, KafkaSettings};
use super::lane::{Lane, LaneBuilder, Taken, Timing};
use super::topics::look_at;
use super::{Gap, Slice, SortedPosition, SourceState, unfinished};
use crate::definition::Source;
use crate::offset::Offsets;
use crate::time::Epoch;

/// Records decoded at a time.
const BATCH_RECORDS: usize = 32 * 1024;
/// How long a broker may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How long somebody who is told waits for the next time, while a broker has not answered.
const TOLD: Duration = Duration::from_millis(50);
/// How long one poll waits, and how many may bring nothing before the broker counts as lost.
const POLL: Duration = Duration::from_millis(100);
const EMPTY_POLLS_MAX: u32 = 300;

/// What orders a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplayClock {
    /// Event time: nothing is late.
    Event,
    /// Record timestamps, and the arrival column of files: as it would have been served.
    Record,
}

impl fmt::Display for ReplayClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ReplayClock::Event => "event",
            ReplayClock::Record => "record",
        })
    }
}

/// Why a history cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A topic.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// A file has fewer records than were read before.
    #[error("the file of '{source_name}' has {found} records, and an earlier replay read {end}: it was replaced")]
    Shrunk {
        /// The source.
        source_name: String,
        /// Where the earlier replay ended.
        end: i64,
        /// How many there are now.
        found: i64,
    },
    /// An earlier replay, under another clock, was interrupted: its positions are in another order.
    #[error(
        "a replay of '{source_name}' under --clock {clock} was interrupted: finish it under that clock, or use another \
         --data-dir"
    )]
    OtherClock {
        /// The source.
        source_name: String,
        /// The clock of the replay that was interrupted.
        clock: ReplayClock,
    },
    /// It was found out before that the topic is another one.
    #[error("'{source_name}' is not read any more: {why}")]
    Refused {
        /// The source.
        source_name: String,
        /// Why.
        why: String,
    },
    /// The broker stopped answering.
    #[error("topic of '{source_name}': nothing came for 30 seconds although it is not read to its end; {reason}")]
    Stalled {
        /// The source.
        source_name: String,
        /// What the client says.
        reason: String,
    },
    /// Whoever is told how far it is did not want it to go on.
    #[error("the history was not read to its end: it was told to stop")]
    Stopped,
}

impl ReplayError {
    /// Is it that this source cannot be read now, although it may be later? Then what was read of the others is not lost
    /// either: another replay from the same offsets comes to the same epochs.
    pub fn is_out_of_reach(&self, source: &Source, kafka: &KafkaSettings) -> bool {
        let place = || place(source, kafka).ok();
        match self {
            ReplayError::Stalled { source_name, .. } => *source_name == source.name,
            ReplayError::Kafka(KafkaError::Unreachable { brokers, .. }) => place().is_some_and(|(_, b)| b == brokers),
            ReplayError::Kafka(KafkaError::UnknownTopic { topic, brokers }) => {
                place().is_some_and(|at| at == (topic, brokers))
            }
            ReplayError::Kafka(_)
            | ReplayError::File(_)
            | ReplayError::Shrunk { .. }
            | ReplayError::OtherClock { .. }
            | ReplayError::Refused { .. }
            | ReplayError::Stopped => false,
        }
    }
}

/// Where an earlier replay stopped: what its last commit recorded.
#[derive(Clone, Debug, Default)]
pub struct Resume {
    /// Exclusive ends of each partition.
    pub offsets: Offsets,
    /// Positions of sources, by name.
    pub sorted: BTreeMap<String, SortedPosition>,
    /// The last committed epoch.
    pub last: Option<Epoch>,
    /// What was found out about topics, by source.
    pub states: BTreeMap<String, SourceState>,
}

/// Is told of every so many records that were read of a source, and of none while a broker is waited for: then at least ten
/// times a second, whatever was asked of it. Says whether to go on.
pub type Told = Box<dyn FnMut(&str, u64) -> bool + Send>;

/// The slices of a history.
pub struct Replay {
    dir: PathBuf,
    clock: ReplayClock,
    kafka: KafkaSettings,
    /// Tables without any time: a slice before all others.
    untimed: Option<Slice>,
    /// Tables first, then in the order given.
    tracks: Vec<Track>,
    last: Epoch,
    told: Told,
}

/// A source and how far it is.
struct Track {
    source: Arc<Source>,
    lane: Lane,
    /// The end of what is in the lane.
    end: BTreeMap<i32, i64>,
    /// A slice has said where it ends.
    begun: bool,
    /// The lane is used up, and a slice has said so.
    reported: bool,
    /// What came since the earlier replay that the lane finishes: to be read, and sorted, after the lane.
    later: Option<Span>,
    /// What was gone before it was read, up to the end: said with the offsets that pass over it.
    gaps: Vec<Gap>,
    /// The topic's id, until a slice has said it.
    topic_id: Option<String>,
}

/// Where a topic ends now, and its id.
type Present = (BTreeMap<i32, i64>, Option<String>);

/// A part of a source that was read and sorted, up to its actual end.
struct Part {
    lane: Lane,
    end: BTreeMap<i32, i64>,
    gaps: Vec<Gap>,
}

/// A part of a source: from these offsets to these exclusive ends; a file without an end is read to its own.
#[derive(Clone, Debug, Default)]
struct Span {
    start: BTreeMap<i32, i64>,
    end: BTreeMap<i32, i64>,
}

impl Replay {
    /// Reads and sorts `sources`. Files are relative to `dir`; a Kafka topic ends at its present end offsets.
    ///
    /// # Errors
    /// [`ReplayError`]: a missing or broken file, an unreachable broker, a missing topic.
    pub fn new(
        sources: &[Arc<Source>],
        dir: &Path,
        clock: ReplayClock,
        kafka: &KafkaSettings,
        resume: &Resume,
    ) -> Result<Replay, ReplayError> {
        Replay::telling(sources, dir, clock, kafka, resume, Box::new(|_, _| true))
    }

    /// The same, for whoever wants to know how far it is, or to end it: all is read before the first slice.
    ///
    /// # Errors
    /// As of [`Replay::new`], and [`ReplayError::Stopped`].
    pub fn telling(
        sources: &[Arc<Source>],
        dir: &Path,
        clock: ReplayClock,
        kafka: &KafkaSettings,
        resume: &Resume,
        told: Told,
    ) -> Result<Replay, ReplayError> {
        // Before anything is read, which may take long.
        if let Some((name, position)) = unfinished(&resume.offsets, &resume.sorted)
            && position.clock != clock
        {
            return Err(ReplayError::OtherClock { source_name: name.into(), clock: position.clock });
        }
        let last = resume.last.unwrap_or(Epoch::ZERO);
        let (dir, kafka) = (dir.to_path_buf(), kafka.clone());
        let mut replay = Replay { dir, clock, kafka, untimed: None, tracks: vec![], last, told };
        // A topic that cannot be read is found before anything is, since whoever asks may ask again.
        let mut present = BTreeMap::new();
        for source in sources {
            let known = resume.states.get(&source.name).cloned().unwrap_or_default();
            present.insert(source.name.clone(), replay.present_end(source, &known)?);
            replay.tell(&source.name, 0)?;
        }
        let is_untimed = |s: &&Arc<Source>| Timing::of(s, clock) == Timing::Untimed;
        replay.untimed = replay.read_untimed(sources.iter().filter(is_untimed), &resume.offsets)?;
        // The floor under all other epochs.
        let floor = replay.untimed.as_ref().and_then(|s| s.last).unwrap_or(last);
        let mut timed: Vec<&Arc<Source>> = sources.iter().filter(|s| !is_untimed(s)).collect();
        timed.sort_by_key(|s| !s.is_table());
        for source in timed {
            let present = present.remove(&source.name).unwrap_or_default();
            let track = replay.open(source, resume, present, floor)?;
            replay.tracks.push(track);
        }
        Ok(replay)
    }

    /// The next whole epochs, `rows_max` rows or somewhat more of them (fewer at the end); `None` after the last.
    /// A source may have several batches, in order.
    ///
    /// # Errors
    /// [`ReplayError`], if a source has got records since the earlier replay that this one finishes, and they cannot
    /// be read, or are not to be ([`ReplayError::Stopped`]).
    pub fn next_slice(&mut self, rows_max: usize) -> Result<Option<Slice>, ReplayError> {
        if let Some(mut slice) = self.untimed.take() {
            self.begin(&mut slice);
            self.last = slice.last.unwrap_or(self.last);
            return Ok(Some(slice));
        }
        self.read_later()?;
        if self.tracks.iter().all(|t| t.lane.is_done()) {
            return Ok(None);
        }
        let until = self.cut(rows_max.max(1));
        let next = self.tracks.iter().filter_map(|t| t.lane.epoch(0)).filter(|epoch| *epoch <= until).min();
        let first = Epoch::open(next.unwrap_or(0), self.last);
        let mut slice = Slice::default();
        self.begin(&mut slice);
        let mut last = first;
        for track in &mut self.tracks {
            let name = &track.source.name;
            let Taken { batch, refused, last: taken } = track.lane.take(until);
            for (epoch, mut rejected) in refused {
                rejected.epoch = Epoch::open(epoch, Epoch::ZERO).max(first).0;
                slice.rejected.push(rejected);
            }
            if let Some(taken) = taken {
                last = last.max(Epoch::open(taken.0, Epoch::ZERO));
                slice
                    .sorted
                    .insert(name.clone(), SortedPosition { clock: self.clock, end: track.end.clone(), last: taken });
                slice.topic_ids.extend(track.topic_id.take().map(|id| (name.clone(), id)));
            }
            slice.batches.extend(batch.map(|batch| (Arc::clone(&track.source), batch)));
            if track.lane.is_done() && !track.reported {
                track.end.iter().for_each(|(partition, end)| slice.offsets.advance(name, *partition, *end));
                slice.gaps.append(&mut track.gaps);
                slice.topic_ids.extend(track.topic_id.take().map(|id| (name.clone(), id)));
                track.reported = true;
            }
        }
        slice.last = Some(last);
        self.last = last;
        Ok(Some(slice))
    }

    /// With a replay's first slice all its sources have begun: whoever comes after a kill must finish those, too, of which
    /// no row was taken.
    fn begin(&mut self, slice: &mut Slice) {
        for track in self.tracks.iter_mut().filter(|t| !t.begun && !t.lane.is_done()) {
            let (end, last) = (track.end.clone(), SortedPosition::BEFORE_ALL);
            slice.sorted.insert(track.source.name.clone(), SortedPosition { clock: self.clock, end, last });
            track.begun = true;
        }
    }

    /// Rows that are read and sorted but not taken yet.
    pub fn rows_left(&self) -> usize {
        let untimed = self.untimed.iter().flat_map(|s| &s.batches).map(|(_, b)| b.num_rows()).sum::<usize>();
        untimed + self.tracks.iter().map(|t| t.lane.len()).sum::<usize>()
    }

    /// The greatest epoch of the next slice: at least `rows_max` rows of one source or all that is left, but nothing
    /// beyond what a source has yet to read.
    fn cut(&self, rows_max: usize) -> i64 {
        let bounds = self.tracks.iter().filter_map(|t| match t.lane.epoch(rows_max - 1) {
            Some(epoch) => Some(epoch),
            None if t.later.is_some() => t.lane.last_epoch(),
            None => None,
        });
        // Refused records without any time come before the least epoch there can be: that one is cut whole, too.
        bounds.min().map_or(i64::MAX, |epoch| epoch.max(Epoch::open(0, self.last).micros()))
    }

    /// Reads what came since an earlier replay, for sources whose earlier part is used up.
    fn read_later(&mut self) -> Result<(), ReplayError> {
        for i in 0..self.tracks.len() {
            if self.tracks[i].lane.is_done()
                && let Some(span) = self.tracks[i].later.take()
            {
                let source = Arc::clone(&self.tracks[i].source);
                let part = self.read(&source, span, None, self.last)?;
                let track = &mut self.tracks[i];
                (track.lane, track.end, track.gaps) = (part.lane, part.end, part.gaps);
                (track.begun, track.reported) = (false, false);
            }
        }
        Ok(())
    }

    fn read_untimed<'a>(
        &mut self,
        sources: impl Iterator<Item = &'a Arc<Source>>,
        offsets: &Offsets,
    ) -> Result<Option<Slice>, ReplayError> {
        let epoch = Epoch::open(0, self.last);
        let mut slice = Slice { last: Some(epoch), ..Slice::default() };
        for source in sources {
            let mut reader = FileReader::open(&self.dir, source, offsets.get(&source.name, 0))?;
            let mut read = false;
            while let Some(decoded) = reader.read(BATCH_RECORDS, Some(epoch), false)? {
                self.tell(&source.name, decoded.records())?;
                slice.batches.extend(decoded.batch.map(|batch| (Arc::clone(source), batch)));
                slice.rejected.extend(decoded.rejected);
                read = true;
            }
            let (end, found) = (offsets.get(&source.name, 0), reader.position());
            if found < end {
                return Err(ReplayError::Shrunk { source_name: source.name.clone(), end, found });
            }
            if read {
                slice.offsets.advance(&source.name, 0, reader.position());
            }
        }
        Ok((!slice.offsets.0.is_empty()).then_some(slice))
    }

    fn open(
        &mut self,
        source: &Arc<Source>,
        resume: &Resume,
        (present_end, id): Present,
        floor: Epoch,
    ) -> Result<Track, ReplayError> {
        let start = resume.offsets.0.get(&source.name).cloned().unwrap_or_default();
        let unfinished = resume.sorted.get(&source.name).filter(|position| {
            position.end.iter().any(|(partition, end)| start.get(partition).copied().unwrap_or(0) < *end)
        });
        let known = resume.states.get(&source.name).cloned().unwrap_or_default();
        let mut present = Span { start, end: present_end };
        let (Part { lane, end, gaps }, later) = match unfinished {
            None => (self.read(source, present, None, floor)?, None),
            Some(position) => {
                let span = Span { start: present.start.clone(), end: position.end.clone() };
                let part = self.read(source, span, position.taken(), floor)?;
                present.start.extend(position.end.clone());
                (part, Some(present))
            }
        };
        let topic_id = id.filter(|id| known.topic_id.as_ref() != Some(id));
        let begun = unfinished.is_some();
        Ok(Track { source: Arc::clone(source), lane, end, begun, reported: false, later, gaps, topic_id })
    }

    /// Where a topic ends now, and its id; nothing for a file, which is read to its end anyway.
    fn present_end(&mut self, source: &Arc<Source>, known: &SourceState) -> Result<Present, ReplayError> {
        if !source.is_kafka() {
            return Ok((BTreeMap::new(), None));
        }
        if let Some(why) = &known.refused {
            return Err(ReplayError::Refused { source_name: source.name.clone(), why: why.clone() });
        }
        let known = known.topic_id.clone();
        self.asked(source, move |source, kafka| {
            let id = look_at(source, kafka, known.as_deref())?;
            let reader = KafkaReader::new(source, kafka)?;
            let bounds = |partition| Ok((partition, reader.bounds(partition, ANSWER)?.1));
            let end: Result<_, KafkaError> = reader.partitions(ANSWER)?.into_iter().map(bounds).collect();
            Ok((end?, id))
        })
    }

    /// What brokers answer. They are asked on another thread, since they take their time, and whoever is told may not want
    /// to wait for it: then the thread ends by itself.
    fn asked<T: Send + 'static>(
        &mut self,
        source: &Arc<Source>,
        question: impl FnOnce(&Arc<Source>, &KafkaSettings) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, ReplayError> {
        let (answer, answered) = mpsc::channel();
        let (theirs, kafka) = (Arc::clone(source), self.kafka.clone());
        std::thread::spawn(move || {
            // Nobody listens any more where the replay was told to stop.
            let _ = answer.send(question(&theirs, &kafka));
        });
        loop {
            self.tell(&source.name, 0)?;
            match answered.recv_timeout(TOLD) {
                Ok(answer) => return Ok(answer?),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(KafkaError::Panicked { source_name: source.name.clone() }.into());
                }
            }
        }
    }

    /// Reads and sorts a part of a source.
    fn read(
        &mut self,
        source: &Arc<Source>,
        span: Span,
        taken: Option<i64>,
        floor: Epoch,
    ) -> Result<Part, ReplayError> {
        let mut builder = LaneBuilder::new(Timing::of(source, self.clock));
        let mut gaps = vec![];
        let bounded = self.clock == ReplayClock::Record;
        let end = match source.is_kafka() {
            true => self.read_topic(source, span, bounded, &mut builder, &mut gaps)?,
            false => self.read_file(source, &span, bounded, &mut builder)?,
        };
        Ok(Part { lane: builder.build(source, taken, floor), end, gaps })
    }

    fn read_file(
        &mut self,
        source: &Arc<Source>,
        span: &Span,
        bounded: bool,
        builder: &mut LaneBuilder,
    ) -> Result<BTreeMap<i32, i64>, ReplayError> {
        let start = span.start.get(&0).copied().unwrap_or(0);
        let end = span.end.get(&0).copied();
        let mut reader = FileReader::open(&self.dir, source, start)?;
        loop {
            let left = end.map_or(BATCH_RECORDS, |end| usize::try_from(end - reader.position()).unwrap_or(0));
            match reader.read(left.min(BATCH_RECORDS), None, bounded)? {
                Some(decoded) => {
                    self.tell(&source.name, decoded.records())?;
                    builder.add(decoded);
                }
                None => break,
            }
        }
        let found = reader.position();
        match end.unwrap_or(start) {
            end if found < end => Err(ReplayError::Shrunk { source_name: source.name.clone(), end, found }),
            _ => Ok(BTreeMap::from([(0, found)])),
        }
    }

    fn read_topic(
        &mut self,
        source: &Arc<Source>,
        mut span: Span,
        bounded: bool,
        builder: &mut LaneBuilder,
        gaps: &mut Vec<Gap>,
    ) -> Result<BTreeMap<i32, i64>, ReplayError> {
        let partitions: Vec<i32> = span.end.keys().copied().collect();
        let (mut reader, bounds) = self.asked(source, move |source, kafka| {
            let reader = KafkaReader::new(source, kafka)?;
            let bounds = partitions.into_iter().map(|p| Ok((p, reader.bounds(p, ANSWER)?)));
            let bounds = bounds.collect::<Result<BTreeMap<i32, (i64, i64)>, KafkaError>>()?;
            Ok((reader, bounds))
        })?;
        span.start.retain(|partition, _| span.end.contains_key(partition));
        for (&partition, &end) in &span.end {
            let start = span.start.entry(partition).or_insert(0);
            let (earliest, now) = bounds[&partition];
            if *start > now {
                let topic = source.name.clone();
                return Err(KafkaError::Truncated { topic, partition, offset: *start, end: now }.into());
            }
            let earliest = earliest.min(end);
            if *start > 0 && *start < earliest {
                gaps.push(Gap { source: source.name.clone(), partition, from: *start, to: earliest });
            }
            *start = (*start).max(earliest);
        }
        let mut unread = span.start;
        unread.retain(|partition, start| *start < span.end[partition]);
        reader.stop_at(&span.end);
        reader.assign(&unread)?;
        let mut empty = 0;
        while !unread.is_empty() {
            self.tell(&source.name, 0)?;
            let polled = reader.poll(BATCH_RECORDS - reader.pending(), POLL)?;
            gaps.extend(polled.gaps);
            unread.retain(|p, _| reader.positions()[p] < span.end[p] && !polled.caught_up.contains(p));
            if reader.is_full() || reader.pending() >= BATCH_RECORDS || unread.is_empty() {
                let decoded = reader.finish(None, bounded);
                self.tell(&source.name, decoded.records())?;
                builder.add(decoded);
            }
            empty = if polled.records > 0 { 0 } else { empty + 1 };
            if empty > EMPTY_POLLS_MAX {
                let reason = reader.trouble().unwrap_or_else(|| "the client says nothing".into());
                return Err(ReplayError::Stalled { source_name: source.name.clone(), reason });
            }
        }
        Ok(span.end)
    }

    fn tell(&mut self, source: &str, records: u64) -> Result<(), ReplayError> {
        if (self.told)(source, records) { Ok(()) } else { Err(ReplayError::Stopped) }
    }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
