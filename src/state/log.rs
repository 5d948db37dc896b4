//! The log's tail: reading the records that commits wrote and that no segment holds yet, and dropping those it does.
//!
//! Invariants: records come back in the order of commits; a record whose digest is not its commit's is damage, never data.
//! Neighbours: `commit` writes them; `offline` unions them with segments; recovery reads them from the redo point.

use std::collections::HashMap;
use std::io::Cursor;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use rocksdb::WriteBatch;

use super::commit::{EVENTS, LogKind, UPDATES, digest, log_key};
use super::{StateError, Store};

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

impl Store {
    fn kind_and_id(&self, kind: LogKind) -> (u8, u32) {
        match kind {
            LogKind::Events(source) => (EVENTS, self.source_id(source)),
            LogKind::Updates(view) => (UPDATES, self.view_id(view)),
        }
    }

    /// The tail's records of one kind whose commits end above `after` and at or below `until`, in order.
    pub fn tail(
        &self,
        kind: LogKind,
        after: u64,
        until: u64,
    ) -> impl Iterator<Item = Result<TailRecord, StateError>> + '_ {
        let (kind, id) = self.kind_and_id(kind);
        let start = log_key(kind, id, after.saturating_add(1), 0);
        let mode = rocksdb::IteratorMode::From(&start, rocksdb::Direction::Forward);
        let rows = self.db().iterator_cf(&self.family("log"), mode);
        rows.map_while(move |row| match row {
            Err(e) => Some(Err(e.into())),
            Ok((key, value)) => {
                let key: [u8; 17] = key.as_ref().try_into().ok()?;
                if key[..5] != start[..5] {
                    return None;
                }
                let last = u64::from_be_bytes(key[5..13].try_into().expect("eight bytes"));
                if last > until {
                    return None;
                }
                let number = u32::from_be_bytes(key[13..].try_into().expect("four bytes"));
                let batches = decode_batches(&value).map_err(|e| StateError::Damaged {
                    what: format!("log record {last}/{number}"),
                    why: e.to_string(),
                });
                Some(batches.map(|batches| TailRecord { last, number, batches }))
            }
        })
    }

    /// How far the tail has been moved into segments: records of commits up to here are gone from it.
    ///
    /// # Errors
    /// RocksDB's.
    pub fn sealed(&self) -> Result<u64, StateError> {
        self.meta_number("sealed")
    }

    /// All updates up to here are in written-back pages.
    ///
    /// # Errors
    /// RocksDB's.
    pub fn redo_point(&self) -> Result<u64, StateError> {
        self.meta_number("redo")
    }

    /// Adds segments to the catalogue (key, entry) and drops what they hold from the tail, in one batch.
    ///
    /// # Errors
    /// RocksDB's; then the tail is as it was.
    pub fn seal(
        &self,
        segments: &[(String, Vec<u8>)],
        until: u64,
        sources: usize,
        views: usize,
    ) -> Result<(), StateError> {
        let mut batch = WriteBatch::default();
        for (key, entry) in segments {
            batch.put_cf(&self.family("registry"), format!("segment:{key}"), entry);
        }
        let log = self.family("log");
        let kinds = (0..sources).map(LogKind::Events).chain((0..views).map(LogKind::Updates));
        for kind in kinds {
            let (kind, id) = self.kind_and_id(kind);
            batch.delete_range_cf(&log, log_key(kind, id, 0, 0), log_key(kind, id, until.saturating_add(1), 0));
        }
        batch.put_cf(&self.family("meta"), "sealed", until.to_be_bytes());
        self.write(batch, true)
    }

    /// The catalogue of segments: (key, entry).
    ///
    /// # Errors
    /// RocksDB's.
    pub fn segments(&self) -> Result<Vec<(String, Vec<u8>)>, StateError> {
        const PREFIX: &[u8] = b"segment:";
        let mode = rocksdb::IteratorMode::From(PREFIX, rocksdb::Direction::Forward);
        let mut found = vec![];
        for row in self.db().iterator_cf(&self.family("registry"), mode) {
            let (key, value) = row?;
            let Some(key) = key.strip_prefix(PREFIX) else { break };
            found.push((String::from_utf8_lossy(key).into_owned(), value.into_vec()));
        }
        Ok(found)
    }

    /// Compares the tail with what the commits say of it: every record there, every digest right.
    ///
    /// # Errors
    /// The first difference, as [`StateError::Damaged`].
    pub fn check_tail(&self) -> Result<u64, StateError> {
        let sealed = self.sealed()?;
        let mut expected: HashMap<[u8; 17], (u64, u64)> = HashMap::new();
        for commit in self.commits() {
            let commit = commit?;
            for (number, (kind, id, rows, digest)) in (0u32..).zip(&commit.records) {
                if commit.last > sealed {
                    expected.insert(log_key(*kind, *id, commit.last, number), (*rows, *digest));
                }
            }
        }
        let mut checked = 0;
        for row in self.db().iterator_cf(&self.family("log"), rocksdb::IteratorMode::Start) {
            let (key, value) = row?;
            let key: [u8; 17] = key.as_ref().try_into().map_err(|_| damaged("a log key", "not 17 bytes"))?;
            let name = format!("log record {:?}", key);
            match expected.remove(&key) {
                None => return Err(damaged(&name, "no commit knows it")),
                Some((_, want)) if digest(&value) != want => {
                    return Err(damaged(&name, "its digest is not its commit's"));
                }
                Some(_) => checked += 1,
            }
        }
        match expected.keys().next() {
            Some(key) => Err(damaged(&format!("log record {key:?}"), "it is missing")),
            None => Ok(checked),
        }
    }
}

fn damaged(what: &str, why: &str) -> StateError {
    StateError::Damaged { what: what.into(), why: why.into() }
}
