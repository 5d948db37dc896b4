//! Atomic commit: the only writer of the log.
//!
//! One RocksDB write batch carries the log records of all epochs it covers, the refused records, the offsets they came
//! from and the commit itself, so a crash leaves all of it or none. Pages are not in it: they follow from the log.
//!
//! Each record carries its number and the digest of all records up to it, so that one that is missing or altered is
//! noticed by the next.
//!
//! Invariants, asserted in [`Store::commit`]: commits are in the order of their epochs; offsets never move back; `visible`
//! rises strictly and is at least the last epoch. Neighbours: `dataflow::commit` gives us closed epochs, `log` and
//! `quarantine` read what was written, `check` compares it.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use rocksdb::{IteratorMode, WriteBatch};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::{StateError, Store};
use crate::id::{SourceId, ViewId};
use crate::offset::Offsets;
use crate::source::{Gap, Rejected, SortedPosition, SourceState};
use crate::time::Epoch;

/// Which clock gave the epochs of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClockKind {
    /// The machine's.
    Wall,
    /// Record timestamps, or a file's arrival column.
    Record,
    /// Event time.
    Event,
}

/// What a log record is about: one of the logs that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LogKind {
    /// Events of a source.
    Events(SourceId),
    /// Updates of a view that logs them.
    Updates(ViewId),
}

impl LogKind {
    /// As keys begin that are about it: a letter, and the id.
    fn key(self) -> [u8; 5] {
        let (letter, id) = match self {
            LogKind::Events(source) => (EVENTS, source.to_be_bytes()),
            LogKind::Updates(view) => (UPDATES, view.to_be_bytes()),
        };
        let mut key = [letter; 5];
        key[1..].copy_from_slice(&id);
        key
    }
}

impl std::fmt::Display for LogKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LogKind::Events(source) => write!(f, "e{source}"),
            LogKind::Updates(view) => write!(f, "u{view}"),
        }
    }
}

/// A log record on its way into a commit.
pub struct LogRecord {
    /// What it is about.
    pub kind: LogKind,
    /// Rows in it.
    pub rows: usize,
    /// Arrow IPC.
    pub bytes: Vec<u8>,
}

/// Everything that becomes durable and visible at once.
pub struct Commit {
    /// The greatest epoch it covers.
    pub last: Epoch,
    /// Which clock gave its epochs.
    pub clock: ClockKind,
    /// When it is visible from, in µs: at least `last` (under `record` and `event` each epoch at its own time).
    pub visible: i64,
    /// Log records, in order.
    pub records: Vec<LogRecord>,
    /// Refused records.
    pub rejected: Vec<Rejected>,
    /// Exclusive ends that moved.
    pub offsets: Offsets,
    /// Positions of sorted sources that moved.
    pub sorted: BTreeMap<String, SortedPosition>,
    /// What brokers had dropped before it was read, below these offsets.
    pub gaps: Vec<Gap>,
    /// Ids of topics of which these are the first offsets, by source.
    pub topic_ids: BTreeMap<String, String>,
}

/// Every so many commits one holds the ends of all partitions: whoever asks where they stood once reads no more than that.
const ALL_ENDS: u64 = 1024;

/// What a commit says of one of its log records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// What it is about.
    pub log: LogKind,
    /// Rows in it.
    pub rows: u64,
    /// Digest of its bytes.
    pub digest: u64,
}

/// A commit as it is stored; never dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitRecord {
    /// The greatest epoch it covers.
    pub last: u64,
    /// Which clock gave its epochs.
    pub clock: ClockKind,
    /// When it is visible from, in µs.
    pub visible: i64,
    /// Exclusive ends that moved, in each [`ALL_ENDS`]th commit all: (source, partition, next offset).
    pub offsets: Vec<(String, i32, i64)>,
    /// Positions of sorted sources that moved.
    pub sorted: Vec<(String, SortedPosition)>,
    /// Its log records, in the order of their numbers.
    pub records: Vec<Recorded>,
    /// How many records it refused.
    pub rejected: u64,
    /// Digest of the refused records as they are stored, in order.
    pub rejected_digest: u64,
    /// What brokers had dropped before it was read, below these offsets: the log has no such records, and never will.
    pub gaps: Vec<Gap>,
    /// Ids of topics of which these are the first offsets, by source.
    pub topic_ids: Vec<(String, String)>,
    /// Its place among the commits, from 1.
    pub number: u64,
    /// Digest of the chain of the commit before and of this record.
    pub chain: u64,
}

impl CommitRecord {
    /// What `chain` must be, behind a commit of this chain.
    pub(super) fn chained(&self, before: u64) -> u64 {
        let mut hasher = Xxh3::new();
        hasher.update(&before.to_be_bytes());
        hasher.update(&encode(&CommitRecord { chain: 0, ..self.clone() }));
        hasher.digest()
    }

    /// Rows of one log in it.
    pub fn rows_of(&self, log: LogKind) -> u64 {
        self.records.iter().filter(|r| r.log == log).map(|r| r.rows).sum()
    }

    /// Rows in its log records.
    pub fn rows(&self) -> u64 {
        self.records.iter().map(|r| r.rows).sum()
    }
}

/// The last commit, as the next one must follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tip {
    pub(super) number: u64,
    pub(super) chain: u64,
    pub(super) last: u64,
    pub(super) visible: i64,
}

impl Tip {
    /// Before the first commit.
    pub(super) const NONE: Tip = Tip { number: 0, chain: 0, last: 0, visible: i64::MIN };

    pub(super) fn of(record: &CommitRecord) -> Tip {
        Tip { number: record.number, chain: record.chain, last: record.last, visible: record.visible }
    }
}

/// Key of a log record.
pub(super) fn log_key(log: LogKind, last: u64, number: u32) -> [u8; 17] {
    let mut key = [0; 17];
    key[..5].copy_from_slice(&log.key());
    key[5..13].copy_from_slice(&last.to_be_bytes());
    key[13..].copy_from_slice(&number.to_be_bytes());
    key
}

/// Kind byte of events in log keys.
const EVENTS: u8 = b'e';
/// Kind byte of updates in log keys.
const UPDATES: u8 = b'u';

/// The digest of a log record.
pub(super) fn digest(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

impl Store {
    /// Writes a commit: all of it or nothing. `sync`: it is on the disk, and the witness knows it, when this returns.
    ///
    /// # Errors
    /// The store may be full or broken; then nothing of the commit is visible, and the process must stop.
    ///
    /// # Panics
    /// If the commit does not follow the one before it: whoever gathered it is broken, and nothing may be built on that.
    pub fn commit(&self, commit: &Commit, sync: bool) -> Result<(), StateError> {
        // Held to the end: commits are written one after the other.
        let mut ends = self.ends.lock();
        let tip = *self.tip.lock();
        assert!(commit.last.0 > tip.last, "epoch {} does not follow {}", commit.last.0, tip.last);
        assert!(commit.visible > tip.visible, "{} is not visible after {}", commit.visible, tip.visible);
        assert!(commit.visible >= commit.last.micros(), "epoch {} is visible before it began", commit.last.0);

        let mut batch = WriteBatch::default();
        let records = self.put_records(&mut batch, commit);
        let rejected_digest = self.put_rejected(&mut batch, commit);
        let mut all = commit.offsets.clone();
        if (tip.number + 1).is_multiple_of(ALL_ENDS) {
            all.merge(&ends);
        }
        let offsets = all.0.iter().flat_map(|(s, p)| p.iter().map(move |(p, n)| (s.clone(), *p, *n)));
        let mut record = CommitRecord {
            last: commit.last.0,
            clock: commit.clock,
            visible: commit.visible,
            offsets: offsets.collect(),
            sorted: commit.sorted.iter().map(|(s, p)| (s.clone(), p.clone())).collect(),
            records,
            rejected: commit.rejected.len() as u64,
            rejected_digest,
            gaps: commit.gaps.clone(),
            topic_ids: commit.topic_ids.iter().map(|(s, id)| (s.clone(), id.clone())).collect(),
            number: tip.number + 1,
            chain: 0,
        };
        record.chain = record.chained(tip.chain);
        batch.put_cf(&self.family("commits"), record.last.to_be_bytes(), encode(&record));

        let meta = self.family("meta");
        for (source, partition, next) in &record.offsets {
            let before = ends.get(source, *partition);
            let moved = commit.offsets.0.get(source).and_then(|p| p.get(partition)).unwrap_or(next);
            assert!(*moved >= before, "`{source}` partition {partition} goes back from {before} to {moved}");
            batch.put_cf(&meta, format!("offset:{partition}:{source}"), next.to_be_bytes());
        }
        for (source, position) in &record.sorted {
            batch.put_cf(&meta, format!("sorted:{source}"), encode(position));
        }
        // With the offsets: whoever goes on after them must find the topic that they are of.
        for (source, id) in &record.topic_ids {
            batch.put_cf(&meta, format!("topic:{source}"), id.as_bytes());
        }
        self.write(batch, false)?;

        ends.merge(&commit.offsets);
        *self.tip.lock() = Tip::of(&record);
        self.logged.fetch_add(record.rows(), Ordering::Relaxed);
        if sync { self.sync() } else { Ok(()) }
    }

    fn put_records(&self, batch: &mut WriteBatch, commit: &Commit) -> Vec<Recorded> {
        let log = self.family("log");
        let mut records = Vec::with_capacity(commit.records.len());
        for (number, record) in (0u32..).zip(&commit.records) {
            batch.put_cf(&log, log_key(record.kind, commit.last.0, number), &record.bytes);
            let (rows, digest) = (record.rows as u64, digest(&record.bytes));
            records.push(Recorded { log: record.kind, rows, digest });
        }
        records
    }

    fn put_rejected(&self, batch: &mut WriteBatch, commit: &Commit) -> u64 {
        let quarantine = self.family("quarantine");
        let mut hasher = Xxh3::new();
        for (number, rejected) in (0u32..).zip(&commit.rejected) {
            let row = encode(rejected);
            hasher.update(&row);
            let mut key = commit.last.0.to_be_bytes().to_vec();
            key.extend(number.to_be_bytes());
            batch.put_cf(&quarantine, key, row);
        }
        hasher.digest()
    }

    /// Rows logged and not sealed, and all that have been logged since the store was opened: it only rises, by as much
    /// as the log does.
    pub fn logged(&self) -> u64 {
        self.logged.load(Ordering::Relaxed)
    }

    /// The commit that ends with an epoch.
    ///
    /// # Errors
    /// A damaged record.
    pub(super) fn commit_at(&self, last: u64) -> Result<Option<CommitRecord>, StateError> {
        let row = self.db().get_cf(&self.family("commits"), last.to_be_bytes())?;
        row.map(|row| decode(&row, "a commit record")).transpose()
    }

    /// The last commit that ends at or below an epoch.
    ///
    /// # Errors
    /// A damaged record.
    pub(super) fn commit_below(&self, last: u64) -> Result<Option<CommitRecord>, StateError> {
        let key = last.to_be_bytes();
        let mode = IteratorMode::From(&key, rocksdb::Direction::Reverse);
        self.db().iterator_cf(&self.family("commits"), mode).next().map(read_commit).transpose()
    }

    /// The last commit.
    ///
    /// # Errors
    /// A damaged record.
    pub fn last_commit(&self) -> Result<Option<CommitRecord>, StateError> {
        self.db().iterator_cf(&self.family("commits"), rocksdb::IteratorMode::End).next().map(read_commit).transpose()
    }

    /// All commits, oldest first.
    pub fn commits(&self) -> impl Iterator<Item = Result<CommitRecord, StateError>> + '_ {
        self.db().iterator_cf(&self.family("commits"), rocksdb::IteratorMode::Start).map(read_commit)
    }

    /// The commits that end above an epoch, oldest first.
    pub fn commits_after(&self, last: u64) -> impl Iterator<Item = Result<CommitRecord, StateError>> + '_ {
        let from = last.saturating_add(1).to_be_bytes();
        let mode = rocksdb::IteratorMode::From(&from, rocksdb::Direction::Forward);
        self.db().iterator_cf(&self.family("commits"), mode).map(read_commit)
    }

    /// The committed offsets.
    ///
    /// # Errors
    /// A damaged record.
    pub fn offsets(&self) -> Result<Offsets, StateError> {
        let mut offsets = Offsets::default();
        for (key, value) in self.meta_with("offset:")? {
            let damaged = || StateError::Damaged { what: format!("offset {key}"), why: "not an offset".into() };
            let (partition, source) = key["offset:".len()..].split_once(':').ok_or_else(damaged)?;
            let next = i64::from_be_bytes(value.try_into().map_err(|_| damaged())?);
            offsets.advance(source, partition.parse().map_err(|_| damaged())?, next);
        }
        Ok(offsets)
    }

    /// The offsets that the commits up to an epoch had come to.
    ///
    /// # Errors
    /// A damaged record.
    pub fn offsets_at(&self, epoch: Epoch) -> Result<Offsets, StateError> {
        let mut offsets = Offsets::default();
        let key = epoch.0.to_be_bytes();
        let mode = IteratorMode::From(&key, rocksdb::Direction::Reverse);
        for commit in self.db().iterator_cf(&self.family("commits"), mode).map(read_commit) {
            let commit = commit?;
            // The newest counts: ends only rise.
            commit.offsets.iter().for_each(|(source, partition, next)| offsets.advance(source, *partition, *next));
            if commit.number.is_multiple_of(ALL_ENDS) {
                break;
            }
        }
        Ok(offsets)
    }

    /// The positions of sorted sources.
    ///
    /// # Errors
    /// A damaged record.
    pub fn sorted_positions(&self) -> Result<BTreeMap<String, SortedPosition>, StateError> {
        let rows = self.meta_with("sorted:")?;
        rows.into_iter().map(|(k, v)| Ok((k["sorted:".len()..].to_string(), decode(&v, &k)?))).collect()
    }

    /// What is known of topics beside their offsets, by source.
    ///
    /// # Errors
    /// The store's.
    pub fn source_states(&self) -> Result<BTreeMap<String, SourceState>, StateError> {
        let mut states: BTreeMap<String, SourceState> = BTreeMap::new();
        let text = |bytes: Vec<u8>| Some(String::from_utf8_lossy(&bytes).into_owned());
        for (key, id) in self.meta_with("topic:")? {
            states.entry(key["topic:".len()..].to_string()).or_default().topic_id = text(id);
        }
        for (key, why) in self.meta_with("refused:")? {
            states.entry(key["refused:".len()..].to_string()).or_default().refused = text(why);
        }
        Ok(states)
    }

    /// This source is not read any more, for a reason that no waiting and no restart changes.
    ///
    /// # Errors
    /// The store's.
    pub fn refuse_source(&self, source: &str, why: &str) -> Result<(), StateError> {
        let mut batch = WriteBatch::default();
        batch.put_cf(&self.family("meta"), format!("refused:{source}"), why.as_bytes());
        self.write(batch, true)
    }

    fn meta_with(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StateError> {
        let from = rocksdb::IteratorMode::From(prefix.as_bytes(), rocksdb::Direction::Forward);
        let mut found = vec![];
        for row in self.db().iterator_cf(&self.family("meta"), from) {
            let (key, value) = row?;
            if !key.starts_with(prefix.as_bytes()) {
                break;
            }
            found.push((String::from_utf8_lossy(&key).into_owned(), value.into_vec()));
        }
        Ok(found)
    }
}

/// The number of a refused record in its key.
pub(super) fn key_number(number: u64) -> [u8; 4] {
    u32::try_from(number).expect("it was counted with four bytes").to_be_bytes()
}

/// A key and its value, as RocksDB's iterators give them.
type Row = (Box<[u8]>, Box<[u8]>);

pub(super) fn read_commit(row: Result<Row, rocksdb::Error>) -> Result<CommitRecord, StateError> {
    decode(&row?.1, "a commit record")
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("records of plain fields always encode")
}

pub(super) fn decode<T: for<'a> Deserialize<'a>>(bytes: &[u8], what: &str) -> Result<T, StateError> {
    postcard::from_bytes(bytes).map_err(|e| StateError::Damaged { what: what.into(), why: e.to_string() })
}
