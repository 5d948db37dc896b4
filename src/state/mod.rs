//! What is stored, under which keys, in which format: one RocksDB with the log's tail, commits, pages and refused records.
//!
//! | family | key | value |
//! |---|---|---|
//! | `meta` | a word | format number, the next id, each view's redo point (`redo:…`), how far each log is sealed (`sealed:…`), offsets, positions of sorted sources (`sorted:…`), ids of topics (`topic:…`), sources that may not go on (`refused:…`), how far a live node may go, counts of other families |
//! | `registry` | `view:NAME@VERSION`, `source:NAME`, `key:STREAM:…`, `segment:…`, `blocks:…` | id, fingerprint; the catalogue of segments |
//! | `commits` | last epoch | [`commit::CommitRecord`] |
//! | `log` | kind, id, last epoch, number | Arrow IPC: events of a source, updates of a view |
//! | `pages` | view, group | [`page::Header`], then `fold::layout` |
//! | `chunks` | view, group, chunk or run of a tally | `fold::layout` |
//! | `quarantine` | epoch, number | a refused record |
//!
//! Beside it, in the data directory: `witness`, what had reached the disk; `writer.lock`; `segments/`, of `offline`.
//!
//! A view and a source are named by their ids, which `registry` gives: a version of a view has one of its own. Numbers in
//! keys are big-endian, so keys sort by them.
//!
//! Invariants: the view version is in every state key; a store of another format or of other definitions is refused by
//! name. Neighbours: `open` opens it, `commit` and `cache` write, `check` compares what is there with what was written,
//! everyone reads.

pub mod cache;
pub mod check;
pub mod commit;
pub mod faults;
pub mod log;
mod open;
pub mod page;
pub mod published;
pub mod quarantine;
pub mod redo;
pub mod registry;
#[cfg(test)]
mod tests;
mod witness;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;
use rocksdb::{BoundColumnFamily, DB, DBIterator, IteratorMode, ReadOptions, Snapshot, WriteBatch, WriteOptions};

use crate::offset::Offsets;
use crate::time::Epoch;
use commit::Tip;
use faults::{Faults, Step};
use published::Board;
use registry::Ids;
use witness::{Witness, WitnessFile};

/// Format of the whole store.
const FORMAT: u32 = 4;

/// Column families.
pub const FAMILIES: [&str; 7] = ["meta", "registry", "commits", "log", "pages", "chunks", "quarantine"];

/// What can go wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// There is no store.
    #[error("{0} holds no data yet; `headwater run` or `headwater replay` makes it")]
    Missing(PathBuf),
    /// There is a store, and no commit in it.
    #[error(
        "nothing is committed yet in {0}: `headwater run` commits as events come, and a `headwater replay` that was interrupted goes on when it is given again"
    )]
    NothingCommitted(PathBuf),
    /// Another process writes it.
    #[error("the data directory {dir} is in use by process {pid}; stop it, or choose another --data-dir")]
    InUse {
        /// Which directory.
        dir: PathBuf,
        /// Who.
        pid: String,
    },
    /// It was made by a version of Headwater with another format.
    #[error(
        "the data directory has format {found}, this program reads {FORMAT}: replay the sources into another \
         --data-dir, or read it with the version that made it"
    )]
    Format {
        /// Its format.
        found: u32,
    },
    /// It was made by other definitions.
    #[error("the data directory was made by other definitions: {}; use another --data-dir, or take the change back", .0.join("; "))]
    OtherDefinitions(Vec<String>),
    /// What is stored cannot be read, or is not all there.
    #[error("{what} is damaged: {why}")]
    Damaged {
        /// Which record.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// RocksDB's own complaint.
    #[error("the store failed: {0}")]
    Rocks(#[from] rocksdb::Error),
    /// The file system's.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// An open store.
pub struct Store {
    db: DB,
    dir: PathBuf,
    access: Access,
    faults: Faults,
    /// Of what the plan names.
    ids: Ids,
    /// The last commit.
    tip: Mutex<Tip>,
    /// The committed offsets; held while a commit is written.
    ends: Mutex<Offsets>,
    /// Rows of the tail when it was opened, and of all commits since.
    logged: AtomicU64,
    /// What readers in this process may see.
    board: Board,
    /// How far a node may go by what is written down, and by what a power loss leaves of that, in µs.
    promised: AtomicI64,
    promised_durably: AtomicI64,
    /// See [`Store::begins_after`].
    begins_after: Epoch,
}

/// How a store is open.
enum Access {
    /// We write; nobody else can while the lock lives.
    Write {
        /// Dropped with the store.
        _lock: File,
        /// Replaced after each sync.
        witness: Mutex<WitnessFile>,
    },
    /// We read.
    Read {
        /// Removed with the store.
        _scratch: open::Scratch,
        /// Beside a writer.
        beside: bool,
    },
}

impl Store {
    fn is_writer(&self) -> bool {
        matches!(self.access, Access::Write { .. })
    }

    /// Is this a reader, of a directory that nobody writes?
    fn is_alone(&self) -> bool {
        matches!(self.access, Access::Read { beside: false, .. })
    }

    fn check_format(&self) -> Result<(), StateError> {
        match self.meta("format")? {
            Some(found) if found == FORMAT.to_be_bytes() => Ok(()),
            Some(found) => {
                let found = found.try_into().map(u32::from_be_bytes);
                Err(StateError::Format { found: found.map_err(|_| damaged("the format", "it is no number"))? })
            }
            None if self.last_commit()?.is_some() => Err(damaged("the format", "it is missing")),
            None if !self.is_writer() => Err(StateError::Missing(self.dir.clone())),
            None => self.put_meta("format", &FORMAT.to_be_bytes()),
        }
    }

    /// What readers in this process may see. A reader's own board shows what was there when it was opened.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// RocksDB itself, for the modules of `state`.
    pub(in crate::state) fn db(&self) -> &DB {
        &self.db
    }

    /// A column family; all exist in an open store.
    pub(in crate::state) fn family(&self, name: &str) -> Arc<BoundColumnFamily<'_>> {
        self.db.cf_handle(name).expect("every family is made when the store is opened")
    }

    /// A word of `meta`.
    ///
    /// # Errors
    /// RocksDB's.
    pub fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.db.get_cf(&self.family("meta"), key)?)
    }

    /// Sets a word of `meta`.
    ///
    /// # Errors
    /// RocksDB's.
    pub fn put_meta(&self, key: &str, value: &[u8]) -> Result<(), StateError> {
        self.faults.at(Step::PutMeta(key))?;
        Ok(self.db.put_cf(&self.family("meta"), key, value)?)
    }

    /// A number in `meta`, 0 if it was never set.
    ///
    /// # Errors
    /// RocksDB's; a value that is no number.
    pub fn meta_number(&self, key: &str) -> Result<u64, StateError> {
        number(key, self.meta(key)?)
    }

    /// Writes a batch to the log file of the operating system, or through to the disk.
    ///
    /// # Errors
    /// RocksDB's; a full disk among them.
    pub fn write(&self, batch: WriteBatch, sync: bool) -> Result<(), StateError> {
        self.faults.at(Step::Write { sync })?;
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.db.write_opt(batch, &options)?;
        self.faults.at(Step::Written { sync })
    }

    /// Forces what was written so far to the disk, and then says so in the witness.
    ///
    /// # Errors
    /// RocksDB's and the file system's.
    pub fn sync(&self) -> Result<(), StateError> {
        self.sync_and_witness(false)
    }

    /// The end of a store that nobody writes any more: everything in tables and on the disk, and the witness says that
    /// nothing follows.
    ///
    /// # Errors
    /// RocksDB's and the file system's.
    pub fn close(&self) -> Result<(), StateError> {
        self.flush()?;
        self.sync_and_witness(true)
    }

    /// Whoever watches what is written; the steps of a sealing pass here too.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The last epoch that is known to be on the disk.
    ///
    /// # Errors
    /// A witness that cannot be read.
    pub fn synced(&self) -> Result<u64, StateError> {
        Ok(Witness::read(&self.dir)?.map_or(0, |witness| witness.last))
    }

    fn sync_and_witness(&self, clean: bool) -> Result<(), StateError> {
        let Access::Write { witness, .. } = &self.access else { return Ok(()) };
        // One after the other: the witness never goes back.
        let mut witness = witness.lock();
        // Looked at before the sync, so that all of it is on the disk when the witness says so.
        let tip = *self.tip.lock();
        let sequence = self.db.latest_sequence_number();
        let promised = self.promised.load(Ordering::Acquire);
        witness.look()?;
        self.faults.at(Step::Sync)?;
        self.db.flush_wal(true)?;
        self.faults.at(Step::Synced)?;
        self.promised_durably.fetch_max(promised, Ordering::AcqRel);
        witness.replace(Witness {
            commits: tip.number,
            chain: tip.chain,
            last: tip.last,
            sequence,
            clean,
            ..Witness::default()
        })
    }

    /// Writes everything that is only in memory and in the write-ahead log into tables.
    ///
    /// # Errors
    /// RocksDB's.
    pub fn flush(&self) -> Result<(), StateError> {
        let families: Vec<_> = FAMILIES.iter().map(|name| self.family(name)).collect();
        let families: Vec<_> = families.iter().collect();
        Ok(self.db.flush_cfs_opt(&families, &rocksdb::FlushOptions::default())?)
    }

    /// A property of RocksDB, for metrics.
    pub fn property(&self, name: &str) -> Option<u64> {
        self.db.property_int_value(name).ok().flatten()
    }
}

/// The store at one moment, to read several families as they were together.
struct View<'a> {
    store: &'a Store,
    snapshot: Snapshot<'a>,
}

impl<'a> View<'a> {
    fn new(store: &'a Store) -> View<'a> {
        View { store, snapshot: store.db.snapshot() }
    }

    /// Rows of a family; whoever keeps them keeps the view, too.
    fn rows(&self, family: &str, mode: IteratorMode<'_>) -> DBIterator<'a> {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        self.store.db.iterator_cf_opt(&self.store.family(family), options, mode)
    }

    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.snapshot.get_cf(&self.store.family("meta"), key)?)
    }

    fn number(&self, key: &str) -> Result<u64, StateError> {
        number(key, self.meta(key)?)
    }
}

fn number(key: &str, value: Option<Vec<u8>>) -> Result<u64, StateError> {
    let Some(value) = value else { return Ok(0) };
    let value = value.try_into().map_err(|_| damaged(&format!("the number `{key}`"), "it has not eight bytes"))?;
    Ok(u64::from_be_bytes(value))
}

fn damaged(what: &str, why: &str) -> StateError {
    StateError::Damaged { what: what.into(), why: why.into() }
}
