//! What is stored, under which keys, in which format: one RocksDB with the log's tail, commits, pages and refused records.
//!
//! | family | key | value |
//! |---|---|---|
//! | `meta` | a word | format number, redo point, how far the tail is sealed, how far a live node may go |
//! | `registry` | `view:NAME`, `source:NAME`, `segment:…` | identity, version, fingerprint; the catalogue of segments |
//! | `commits` | last epoch | [`commit::CommitRecord`] |
//! | `log` | kind, id, last epoch, number | Arrow IPC: events of a source, updates of a view |
//! | `pages` | view, version, group | the epoch it contains, then `fold::layout` |
//! | `chunks` | view, version, group, chunk or run of a tally | `fold::layout` |
//! | `quarantine` | epoch, number | a refused record |
//!
//! Numbers in keys are big-endian, so keys sort by them. Invariants: the view version is in every state key; a store of
//! another format or of other definitions is refused by name. Neighbours: `commit` and `cache` write, everyone reads.

pub mod cache;
pub mod commit;
pub mod faults;
pub mod log;
pub mod page;
pub mod published;
pub mod redo;

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rocksdb::{
    BlockBasedOptions, BoundColumnFamily, Cache as BlockCache, ColumnFamilyDescriptor, DB, DBCompressionType, Options,
    WriteBatch, WriteOptions,
};
use serde::{Deserialize, Serialize};

use self::faults::{Faults, Step};
use crate::plan::Plan;
use published::{Board, Published};

/// Format of the whole store.
const FORMAT: u32 = 1;

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
    #[error("the data directory has format {found}, this program reads {FORMAT}")]
    Format {
        /// Its format.
        found: String,
    },
    /// It was made by other definitions.
    #[error("the data directory was made by other definitions: {}; use another --data-dir, or take the change back", .0.join("; "))]
    OtherDefinitions(Vec<String>),
    /// What is stored cannot be read.
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

/// The identity of a view in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Registered {
    id: u32,
    version: u32,
    fingerprint: String,
}

/// An open store.
pub struct Store {
    db: DB,
    dir: PathBuf,
    access: Access,
    faults: Faults,
    /// Ids of views and sources by their index in the plan.
    view_ids: Vec<(u32, u32)>,
    source_ids: Vec<u32>,
    /// What readers in this process may see.
    board: Board,
}

/// How a store is open.
enum Access {
    /// We write; nobody else can while the lock lives.
    Write {
        /// Dropped with the store.
        _lock: File,
    },
    /// We read.
    Read {
        /// A reader's own directory, removed with it.
        scratch: PathBuf,
        /// Beside a writer, whom we follow.
        beside: bool,
    },
}

impl Store {
    /// Opens the store for writing, making it if need be.
    ///
    /// # Errors
    /// [`StateError`]; in use, another format and other definitions have messages of their own.
    pub fn open(dir: &Path, plan: &Plan) -> Result<Store, StateError> {
        Store::open_watched(dir, plan, Faults::default())
    }

    /// The same, with somebody who sees every write and sync and may make it fail.
    ///
    /// # Errors
    /// As of [`Store::open`].
    pub fn open_watched(dir: &Path, plan: &Plan, faults: Faults) -> Result<Store, StateError> {
        let io = |source| StateError::Io { path: dir.to_path_buf(), source };
        std::fs::create_dir_all(dir).map_err(io)?;
        let lock = take_lock(dir)?;
        let mut options = options();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let db = DB::open_cf_descriptors(&options, dir.join("db"), families())?;
        let mut store = Store {
            db,
            dir: dir.to_path_buf(),
            access: Access::Write { _lock: lock },
            faults,
            view_ids: vec![],
            source_ids: vec![],
            board: Board::new(Published::default()),
        };
        store.check_format()?;
        store.register(plan, true)?;
        store.board = Board::new(store.settled()?);
        Ok(store)
    }

    /// Opens the store beside its writer, if there is one, as of its last commit.
    ///
    /// # Errors
    /// [`StateError::Missing`] without a store; others as for [`Store::open`].
    pub fn open_reader(dir: &Path, plan: &Plan) -> Result<Store, StateError> {
        if !dir.join("db").join("CURRENT").exists() {
            return Err(StateError::Missing(dir.to_path_buf()));
        }
        let scratch = std::env::temp_dir().join(format!("headwater-reader-{}", uuid::Uuid::new_v4()));
        let (db, beside) = open_to_read(dir, &scratch)?;
        let access = Access::Read { scratch, beside };
        let (dir, faults, board) = (dir.to_path_buf(), Faults::default(), Board::new(Published::default()));
        let mut store = Store { db, dir, access, faults, view_ids: vec![], source_ids: vec![], board };
        store.catch_up()?;
        store.check_format()?;
        store.register(plan, false)?;
        store.board = Board::new(store.settled()?);
        Ok(store)
    }

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
            Some(found) => Err(StateError::Format { found: format!("{found:?}") }),
            None if !self.is_writer() => Err(StateError::Missing(self.dir.clone())),
            None => self.put_meta("format", &FORMAT.to_be_bytes()),
        }
    }

    /// Gives every view and source its id, and refuses definitions that the store was not made by.
    fn register(&mut self, plan: &Plan, write: bool) -> Result<(), StateError> {
        let mut known: BTreeMap<String, Registered> = BTreeMap::new();
        for row in self.db.iterator_cf(&self.family("registry"), rocksdb::IteratorMode::Start) {
            let (key, value) = row?;
            let key = String::from_utf8_lossy(&key).into_owned();
            if key.starts_with("view:") || key.starts_with("source:") {
                let registered = serde_json::from_slice(&value)
                    .map_err(|e| StateError::Damaged { what: format!("registry entry {key}"), why: e.to_string() })?;
                known.insert(key, registered);
            }
        }
        let wanted: Vec<(String, String)> = (plan.views.iter())
            .map(|v| (format!("view:{}", v.plan.name), v.plan.fingerprint.clone()))
            .chain(plan.sources.iter().map(|s| (format!("source:{}", s.name), format!("{:?} {:?}", s.kind, s.columns))))
            .collect();
        let fresh = known.is_empty();
        let mut differences = vec![];
        for (key, fingerprint) in &wanted {
            match known.get(key) {
                Some(r) if r.fingerprint == *fingerprint => {}
                Some(_) => differences.push(format!("{} has changed", spoken(key))),
                None if fresh => {}
                None => differences.push(format!("{} is new", spoken(key))),
            }
        }
        let gone = known.keys().filter(|k| !wanted.iter().any(|(w, _)| w == *k));
        differences.extend(gone.map(|k| format!("{} is missing", spoken(k))));
        if !differences.is_empty() {
            return Err(StateError::OtherDefinitions(differences));
        }
        if fresh && write {
            let mut batch = WriteBatch::default();
            for (id, (key, fingerprint)) in (1u32..).zip(&wanted) {
                let registered = Registered { id, version: 1, fingerprint: fingerprint.clone() };
                let value = serde_json::to_vec(&registered).expect("plain fields always encode");
                batch.put_cf(&self.family("registry"), key, value);
                known.insert(key.clone(), registered);
            }
            self.write(batch, true)?;
        } else if fresh {
            return Err(StateError::Missing(self.dir.clone()));
        }
        let id = |key: String| known.get(&key).map_or((0, 0), |r| (r.id, r.version));
        self.view_ids = plan.views.iter().map(|v| id(format!("view:{}", v.plan.name))).collect();
        self.source_ids = plan.sources.iter().map(|s| id(format!("source:{}", s.name)).0).collect();
        Ok(())
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
    /// RocksDB's.
    pub fn meta_number(&self, key: &str) -> Result<u64, StateError> {
        let value = self.meta(key)?;
        Ok(value.and_then(|v| v.try_into().ok()).map_or(0, u64::from_be_bytes))
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

    /// Forces what was written so far to the disk.
    ///
    /// # Errors
    /// RocksDB's.
    pub fn sync(&self) -> Result<(), StateError> {
        self.faults.at(Step::Sync)?;
        self.db.flush_wal(true)?;
        self.faults.at(Step::Synced)
    }

    /// Whoever watches what is written; the steps of a sealing pass here too.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// A reader follows its writer.
    ///
    /// # Errors
    /// RocksDB's.
    pub fn catch_up(&self) -> Result<(), StateError> {
        if let Access::Read { beside: true, .. } = self.access {
            self.db.try_catch_up_with_primary()?;
        }
        Ok(())
    }

    /// Start of a view's keys in `pages` and `chunks`: id and version.
    pub fn view_prefix(&self, view: usize) -> [u8; 8] {
        let (id, version) = self.view_ids[view];
        let mut key = [0; 8];
        key[..4].copy_from_slice(&id.to_be_bytes());
        key[4..].copy_from_slice(&version.to_be_bytes());
        key
    }

    /// A source's id.
    pub fn source_id(&self, source: usize) -> u32 {
        self.source_ids[source]
    }

    /// A view's id.
    pub fn view_id(&self, view: usize) -> u32 {
        self.view_ids[view].0
    }

    /// A property of RocksDB, for metrics.
    pub fn property(&self, name: &str) -> Option<u64> {
        self.db.property_int_value(name).ok().flatten()
    }

    /// Reads every block of every table and compares its checksum.
    ///
    /// # Errors
    /// The first that does not hold.
    #[expect(deprecated, reason = "it is slower only for those who do not need it")]
    pub fn check_blocks(&self) -> Result<(), StateError> {
        for family in FAMILIES {
            let mut options = rocksdb::ReadOptions::default();
            options.set_verify_checksums(true);
            // Also what was sealed and waits to be compacted away.
            options.set_ignore_range_deletions(true);
            options.fill_cache(false);
            for row in self.db.iterator_cf_opt(&self.family(family), options, rocksdb::IteratorMode::Start) {
                row?;
            }
        }
        Ok(())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Access::Read { scratch, .. } = &self.access {
            let _ = std::fs::remove_dir_all(scratch);
        }
    }
}

fn spoken(key: &str) -> String {
    match key.split_once(':') {
        Some(("view", name)) => format!("view `{name}`"),
        Some((_, name)) => format!("stream or table `{name}`"),
        None => key.to_string(),
    }
}

/// How long readers, who keep writers out while they open the store, may take to do so.
const OPENING: Duration = Duration::from_secs(2);

/// Opens the database to read: alone if nobody writes it, else beside the writer. Beside a writer RocksDB reads past
/// files that it cannot open, as if they held nothing; alone it refuses them, as the writer did when it opened them.
fn open_to_read(dir: &Path, scratch: &Path) -> Result<(DB, bool), StateError> {
    let path = dir.join("db");
    let mut options = options();
    options.set_max_open_files(-1);
    let lock = File::open(dir.join("writer.lock")).ok();
    if lock.as_ref().is_none_or(|lock| lock.try_lock_shared().is_ok()) {
        options.set_db_log_dir(scratch);
        return Ok((DB::open_cf_descriptors_read_only(&options, path, families(), false)?, false));
    }
    let mut tries = 0;
    loop {
        // The writer may drop a file between our reading its list and opening it.
        match DB::open_cf_descriptors_as_secondary(&options, &path, &scratch.to_path_buf(), families()) {
            Ok(db) => return Ok((db, true)),
            Err(_) if tries < 20 => tries += 1,
            Err(e) => return Err(e.into()),
        }
    }
}

fn take_lock(dir: &Path) -> Result<File, StateError> {
    let path = dir.join("writer.lock");
    let io = |source| StateError::Io { path: path.clone(), source };
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
    let in_use = |mut file: File| {
        let mut pid = String::new();
        let _ = file.read_to_string(&mut pid);
        StateError::InUse { dir: dir.to_path_buf(), pid: pid.trim().to_string() }
    };
    let deadline = Instant::now() + OPENING;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(e)) => return Err(io(e)),
            Err(TryLockError::WouldBlock) => {}
        }
        // Whoever only reads lets others read, and is soon done opening; a writer lets nobody, and stays.
        match file.try_lock_shared() {
            Ok(()) => file.unlock().map_err(io)?,
            Err(TryLockError::WouldBlock) => return Err(in_use(file)),
            Err(TryLockError::Error(e)) => return Err(io(e)),
        }
        if Instant::now() >= deadline {
            return Err(in_use(file));
        }
        std::thread::sleep(OPENING / 40);
    }
    file.set_len(0).map_err(io)?;
    file.rewind().map_err(io)?;
    writeln!(file, "{}", std::process::id()).map_err(io)?;
    Ok(file)
}

fn options() -> Options {
    let mut options = Options::default();
    options.set_max_background_jobs(2);
    options.set_max_total_wal_size(256 << 20);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 << 20);
    options
}

fn families() -> Vec<ColumnFamilyDescriptor> {
    let cache = BlockCache::new_lru_cache(64 << 20);
    FAMILIES
        .iter()
        .map(|&name| {
            let mut options = Options::default();
            let mut blocks = BlockBasedOptions::default();
            blocks.set_block_cache(&cache);
            options.set_compression_type(DBCompressionType::Lz4);
            match name {
                "log" => {
                    // Written once, read in order, dropped by range: large runs, no hurry to merge them.
                    options.set_write_buffer_size(64 << 20);
                    options.set_level_zero_file_num_compaction_trigger(8);
                    options.set_level_zero_slowdown_writes_trigger(40);
                    options.set_level_zero_stop_writes_trigger(64);
                    options.set_target_file_size_base(128 << 20);
                    blocks.set_block_size(64 << 10);
                }
                "pages" | "chunks" => {
                    options.set_write_buffer_size(32 << 20);
                    blocks.set_bloom_filter(10.0, false);
                    blocks.set_block_size(16 << 10);
                }
                _ => options.set_write_buffer_size(8 << 20),
            }
            options.set_block_based_table_factory(&blocks);
            ColumnFamilyDescriptor::new(name, options)
        })
        .collect()
}
