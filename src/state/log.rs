//! The log's tail: reading the records that commits wrote and that no segment holds yet, and dropping those it does.
//!
//! Invariants: records come back in the order of commits, every one that the commits name; a record that is missing, or
//! whose digest or rows are not its commit's, is damage, never data.
//! Each log is sealed by itself, and each view has a redo point of its own: a view that lags holds back the sealing of the
//! log that its pages follow from, and nothing else; no log is sealed beyond such a view's redo point (asserted in
//! [`Store::seal`]).
//! Neighbours: `commit` writes them; `offline` unions them with segments; recovery reads them from the redo points.

use std::collections::{BTreeMap, VecDeque};
use std::io::Cursor;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use rocksdb::{DBIterator, Direction, IteratorMode, WriteBatch};

use super::commit::{LogKind, digest, log_key, read_commit};
use super::faults::Step;
use super::{StateError, Store, View, damaged};
use crate::id::ViewId;
use crate::time::Epoch;

/// A batch as a log record's bytes.
///
/// # Errors
/// Types that IPC cannot hold; ours all can.
pub fn encode_batch(batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let options = IpcWriteOptions::try_new(8, false, arrow::ipc::MetadataVersion::V5)?;
    let mut writer = StreamWriter::try_new_with_options(Vec::with_capacity(1024), &batch.schema(), options)?;
    writer.write(batch)?;
    writer.into_inner()
}

/// A log record's bytes as batches.
///
/// # Errors
/// Bytes that are no record.
pub fn decode_batches(bytes: &[u8]) -> Result<Vec<RecordBatch>, ArrowError> {
    StreamReader::try_new(Cursor::new(bytes), None)?.collect()
}

/// A record of the tail.
pub struct TailRecord {
    /// The last epoch of its commit.
    pub last: u64,
    /// Its number within the commit.
    pub number: u32,
    /// The rows.
    pub batches: Vec<RecordBatch>,
}

/// The tail's records of one log, each compared with what its commit says.
pub struct Tail<'a> {
    log: LogKind,
    until: u64,
    rows: DBIterator<'a>,
    commits: DBIterator<'a>,
    /// What the commits that were read so far say must come: (last epoch, number, rows, digest).
    expected: VecDeque<(u64, u32, u64, u64)>,
    ended: bool,
    /// Dropped last.
    _view: View<'a>,
}

impl Tail<'_> {
    fn next_record(&mut self) -> Result<Option<TailRecord>, StateError> {
        let Some((last, number, bytes)) = self.next_row()? else {
            self.expect_up_to(self.until)?;
            return match self.expected.pop_front() {
                None => Ok(None),
                Some((last, number, ..)) => Err(self.damaged(last, number, "it is missing")),
            };
        };
        self.expect_up_to(last)?;
        let (rows, wanted) = match self.expected.pop_front() {
            Some((l, n, rows, digest)) if (l, n) == (last, number) => (rows, digest),
            Some((l, n, ..)) if (l, n) < (last, number) => return Err(self.damaged(l, n, "it is missing")),
            Some(_) | None => return Err(self.damaged(last, number, "no commit knows it")),
        };
        if digest(&bytes) != wanted {
            return Err(self.damaged(last, number, "its digest is not its commit's"));
        }
        let batches = decode_batches(&bytes).map_err(|e| self.damaged(last, number, &e.to_string()))?;
        if batches.iter().map(|b| b.num_rows() as u64).sum::<u64>() != rows {
            return Err(self.damaged(last, number, "its rows are not as many as its commit says"));
        }
        Ok(Some(TailRecord { last, number, batches }))
    }

    /// The next row of the log: last epoch, number, bytes.
    fn next_row(&mut self) -> Result<Option<(u64, u32, Box<[u8]>)>, StateError> {
        let Some(row) = self.rows.next() else { return Ok(None) };
        let (key, bytes) = row?;
        let Some((last, number)) = of_key(&key, self.log) else { return Ok(None) };
        Ok((last <= self.until).then_some((last, number, bytes)))
    }

    /// Reads commits until one ends at or above an epoch.
    fn expect_up_to(&mut self, epoch: u64) -> Result<(), StateError> {
        while self.expected.back().is_none_or(|(last, ..)| *last < epoch) {
            let Some(commit) = self.commits.next() else { return Ok(()) };
            let commit = read_commit(commit)?;
            if commit.last > self.until {
                return Ok(());
            }
            for (number, record) in (0..).zip(&commit.records) {
                if record.log == self.log {
                    self.expected.push_back((commit.last, number, record.rows, record.digest));
                }
            }
            if commit.last >= epoch {
                return Ok(());
            }
        }
        Ok(())
    }

    fn damaged(&self, last: u64, number: u32, why: &str) -> StateError {
        damaged(&format!("log record {} {number} of the commit up to {}", self.log, Epoch(last)), why)
    }
}

impl Iterator for Tail<'_> {
    type Item = Result<TailRecord, StateError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.next_record().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

/// Last epoch and number of a log record, if it is of this log.
fn of_key(key: &[u8], log: LogKind) -> Option<(u64, u32)> {
    let key: [u8; 17] = key.try_into().ok()?;
    let last = u64::from_be_bytes(key[5..13].try_into().expect("eight bytes"));
    let number = u32::from_be_bytes(key[13..].try_into().expect("four bytes"));
    (log_key(log, last, number) == key).then_some((last, number))
}

/// Word of `meta`: how far a log is sealed.
fn sealed_key(log: LogKind) -> String {
    format!("sealed:{log}")
}

/// Word of `meta`: a view's redo point.
pub(super) fn redo_key(view: ViewId) -> String {
    format!("redo:{view}")
}

impl Store {
    /// The tail's records of one log whose commits end above `after` and at or below `until`, in order. It stays as it
    /// is now, whatever is committed or sealed meanwhile.
    ///
    /// # Errors
    /// RocksDB's.
    pub fn tail(&self, log: LogKind, after: u64, until: u64) -> Result<Tail<'_>, StateError> {
        self.tail_of(View::new(self), log, after, until)
    }

    /// All of the tail's records of one log, and the catalogue of the segments that hold what came before them: both as
    /// of one moment, so that a record that is sealed meanwhile is in exactly one of them.
    ///
    /// # Errors
    /// RocksDB's; a damaged catalogue.
    pub fn whole_log(&self, log: LogKind) -> Result<(SegmentRows, Tail<'_>), StateError> {
        let view = View::new(self);
        let segments = self.segments_of(&view)?;
        self.faults().at(Step::LogHalfRead)?;
        Ok((segments, self.tail_of(view, log, 0, u64::MAX)?))
    }

    fn tail_of<'a>(&'a self, view: View<'a>, log: LogKind, after: u64, until: u64) -> Result<Tail<'a>, StateError> {
        // What is sealed is in the commits' records, and not in the tail.
        let after = after.max(view.number(&sealed_key(log))?);
        let from = log_key(log, after.saturating_add(1), 0);
        let rows = view.rows("log", IteratorMode::From(&from, Direction::Forward));
        let from = after.saturating_add(1).to_be_bytes();
        let commits = view.rows("commits", IteratorMode::From(&from, Direction::Forward));
        Ok(Tail { log, until, rows, commits, expected: VecDeque::new(), ended: false, _view: view })
    }

    /// How far a log has been moved into segments: its records of commits up to here are gone from the tail.
    ///
    /// # Errors
    /// RocksDB's.
    pub fn sealed(&self, log: LogKind) -> Result<u64, StateError> {
        self.meta_number(&sealed_key(log))
    }

    /// How far each log is sealed, as of one moment.
    pub(super) fn all_sealed(&self, view: &View<'_>) -> Result<BTreeMap<LogKind, u64>, StateError> {
        self.ids().logs().map(|log| Ok((log, view.number(&sealed_key(log))?))).collect()
    }

    /// All updates of a view up to here are in written-back pages.
    ///
    /// # Errors
    /// RocksDB's.
    pub fn redo_point(&self, view: ViewId) -> Result<u64, StateError> {
        self.meta_number(&redo_key(view))
    }

    /// How far a log may be sealed: to where the pages of every view that follows from it are; one from which no page
    /// follows, to the last commit.
    ///
    /// # Errors
    /// RocksDB's.
    pub fn sealable(&self, log: LogKind) -> Result<u64, StateError> {
        let mut least = self.tip.lock().last;
        for view in self.ids().readers(log) {
            least = least.min(self.redo_point(view)?);
        }
        Ok(least)
    }

    /// Adds segments to the catalogue and drops what they hold from the tail, in one batch: of each log, the records of
    /// commits up to an epoch.
    ///
    /// # Errors
    /// RocksDB's; then the tail is as it was.
    ///
    /// # Panics
    /// If a log would be sealed beyond [`Store::sealable`]: a restart redoes the tail, and would not find what it lacks.
    pub fn seal(&self, segments: &[NewSegment], until: &[(LogKind, u64)]) -> Result<(), StateError> {
        for (log, until) in until {
            let pages = self.sealable(*log)?;
            assert!(*until <= pages, "sealing {log} up to {}, pages hold it up to {}", Epoch(*until), Epoch(pages));
        }
        let mut batch = WriteBatch::default();
        let mut listed = listed_segments(self.meta("segments")?)?;
        for NewSegment { key, entry, blocks } in segments {
            listed = (listed.0 + 1, listed.1.wrapping_add(segment_digest(key, entry)));
            batch.put_cf(&self.family("registry"), format!("segment:{key}"), entry);
            batch.put_cf(&self.family("registry"), format!("blocks:{key}"), blocks);
        }
        let counted = [listed.0.to_be_bytes(), listed.1.to_be_bytes()].concat();
        batch.put_cf(&self.family("meta"), "segments", counted);
        let log = self.family("log");
        for (sealed, until) in until {
            batch.delete_range_cf(&log, log_key(*sealed, 0, 0), log_key(*sealed, until.saturating_add(1), 0));
            batch.put_cf(&self.family("meta"), sealed_key(*sealed), until.to_be_bytes());
        }
        self.write(batch, true)?;
        // What is sealed is in tables from now on, and the write-ahead log begins anew.
        self.flush()?;
        self.sync()
    }

    /// The digests of a segment's blocks.
    ///
    /// # Errors
    /// RocksDB's.
    pub fn segment_blocks(&self, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.db().get_cf(&self.family("registry"), format!("blocks:{key}"))?)
    }

    /// The catalogue of segments, as of one moment.
    ///
    /// # Errors
    /// RocksDB's; a catalogue that lacks an entry or holds another.
    pub fn segments(&self) -> Result<SegmentRows, StateError> {
        self.segments_of(&View::new(self))
    }

    fn segments_of(&self, view: &View<'_>) -> Result<SegmentRows, StateError> {
        let (mut rows, mut sum) = (vec![], 0u64);
        for row in view.rows("registry", IteratorMode::From(SEGMENT, Direction::Forward)) {
            let (key, value) = row?;
            let Some(key) = key.strip_prefix(SEGMENT) else { break };
            let key = String::from_utf8_lossy(key).into_owned();
            sum = sum.wrapping_add(segment_digest(&key, &value));
            rows.push((key, value.into_vec()));
        }
        let (count, wanted) = (rows.len() as u64, listed_segments(view.meta("segments")?)?);
        if (count, sum) != wanted {
            let why = format!("it lists {count} segments that are not the {} that were sealed", wanted.0);
            return Err(damaged("the catalogue of segments", &why));
        }
        Ok(SegmentRows { sealed: self.all_sealed(view)?, rows })
    }
}

/// A segment on its way into the catalogue.
pub struct NewSegment {
    /// Its name.
    pub key: String,
    /// What the catalogue says of it.
    pub entry: Vec<u8>,
    /// The digests of its blocks: only who reads the file wants them.
    pub blocks: Vec<u8>,
}

/// The catalogue of segments as it is stored.
pub struct SegmentRows {
    /// By log: records of commits up to here are in segments and not in the tail.
    pub sealed: BTreeMap<LogKind, u64>,
    /// Key and entry of each segment that was ever put into it.
    pub rows: Vec<(String, Vec<u8>)>,
}

/// Keys of segments in the registry begin so.
const SEGMENT: &[u8] = b"segment:";

/// How many segments were put into the catalogue, and the sum of their entries' digests.
fn listed_segments(value: Option<Vec<u8>>) -> Result<(u64, u64), StateError> {
    let Some(value) = value else { return Ok((0, 0)) };
    let words: [u8; 16] = value.try_into().map_err(|_| damaged("the catalogue's digest", "not 16 bytes"))?;
    let word = |at: usize| u64::from_be_bytes(words[at..at + 8].try_into().expect("eight bytes"));
    Ok((word(0), word(8)))
}

fn segment_digest(key: &str, entry: &[u8]) -> u64 {
    digest(&[key.as_bytes(), b"\0", entry].concat())
}
