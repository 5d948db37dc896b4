//! Opening the store, to write or to read, and what every opening compares.
//!
//! A writer holds `writer.lock`. A reader that finds nobody writing opens the database itself, and keeps writers out while
//! it does; beside a writer it opens a *picture* of it: links to its tables and log files and a copy of the manifest that
//! lists them. RocksDB's own way of following a writer passes over files that it cannot open; a picture is opened as
//! strictly as the database itself.
//!
//! Every opening compares, before RocksDB touches a file: the manifest and the newest log file with the witness. RocksDB:
//! that every table is there, with its length and its index; that the log files follow one another without a gap, and only
//! the end of the last is torn. Then `check`: the commits with the witness, and the tail's with each other.
//!
//! Invariants: a damaged store is refused before anything of ours is written to it; RocksDB itself, once the files have
//! passed, may have moved the end of its log into a table by then. Neighbours: `witness`, `check`.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rocksdb::{
    BlockBasedOptions, Cache as BlockCache, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, Options,
};

use super::commit::Tip;
use super::faults::Faults;
use super::published::{Board, Published};
use super::registry::Ids;
use super::witness::{Witness, WitnessFile};
use super::{Access, FAMILIES, StateError, Store, damaged};
use crate::offset::Offsets;
use crate::plan::Plan;
use crate::time::Epoch;

/// How long readers, who keep writers out while they open the store, may take to do so.
const OPENING: Duration = Duration::from_secs(2);
/// How often a picture is taken before it is given up: a writer may drop a file between two looks.
const PICTURES: usize = 50;

impl Store {
    /// Opens the store for writing, making it if need be.
    ///
    /// # Errors
    /// [`StateError`]; in use, another format, other definitions and what was lost have messages of their own.
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
        let path = dir.join("db");
        let witness = Witness::read(dir)?;
        check_files(dir, witness.as_ref())?;

        let mut options = options()?;
        // Never over the rest of a database that lost its `CURRENT`.
        options.create_if_missing(!path.join("CURRENT").exists());
        options.create_missing_column_families(true);
        let db = DB::open_cf_descriptors(&options, &path, families())?;
        let access = Access::Write { _lock: lock, witness: Mutex::new(WitnessFile::open(dir, faults.clone())?) };
        let mut store = Store { faults, ..Store::unchecked(db, dir, access) };
        store.check_format()?;
        store.look_up(plan)?;
        store.check_opened(witness.as_ref(), true)?;
        store.register(plan)?;
        store.board = Board::new(store.settled()?);
        let promise = store.promised()?;
        store.begins_after = store.find_beginning(promise)?;
        store.promised = AtomicI64::new(promise.map_or(i64::MIN, |p| p.bound));
        // From here on it is not as it was left.
        store.sync()?;
        Ok(store)
    }

    /// Opens the store as of its last commit; its writer may go on.
    ///
    /// # Errors
    /// [`StateError::Missing`] without a store; others as for [`Store::open`].
    pub fn open_reader(dir: &Path, plan: &Plan) -> Result<Store, StateError> {
        let scratch = Scratch(std::env::temp_dir().join(format!("headwater-reader-{}", uuid::Uuid::new_v4())));
        let lock = File::open(dir.join("writer.lock")).ok();
        let beside = lock.as_ref().is_some_and(|lock| lock.try_lock_shared().is_err());
        // Before the files: whatever it says is in them, and more may be.
        let witness = Witness::read(dir)?;
        if witness.is_none() && !dir.join("db").join("CURRENT").exists() {
            return Err(StateError::Missing(dir.to_path_buf()));
        }
        check_files(dir, witness.as_ref())?;

        let path = dir.join("db");
        let db = if beside { open_picture(&path, &scratch.0)? } else { open_alone(&path, &scratch.0)? };
        let mut store = Store::unchecked(db, dir, Access::Read { _scratch: scratch, beside });
        store.check_format()?;
        store.look_up(plan)?;
        store.check_opened(witness.as_ref(), !beside)?;
        store.board = Board::new(store.settled()?);
        Ok(store)
    }

    fn unchecked(db: DB, dir: &Path, access: Access) -> Store {
        Store {
            db,
            dir: dir.to_path_buf(),
            access,
            faults: Faults::default(),
            ids: Ids::default(),
            tip: Mutex::new(Tip::NONE),
            ends: Mutex::new(Offsets::default()),
            logged: AtomicU64::new(0),
            board: Board::new(Published::default()),
            promised: AtomicI64::new(i64::MIN),
            promised_durably: AtomicI64::new(i64::MIN),
            begins_after: Epoch::ZERO,
        }
    }
}

/// A reader's own directory, removed with it.
pub(super) struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What can be said of the files before RocksDB opens them.
fn check_files(dir: &Path, witness: Option<&Witness>) -> Result<(), StateError> {
    let db = dir.join("db");
    if let Some(witness) = witness.filter(|w| w.manifest.0 > 0) {
        return witness.check_files(&db);
    }
    // Made by a process that did not come to its first sync, or not at all: nothing can have been lost. But where there
    // are tables something was.
    let has_tables = |entries: std::fs::ReadDir| {
        entries.flatten().any(|e| e.path().extension().is_some_and(|extension| extension == "sst"))
    };
    if !db.join("CURRENT").exists() && std::fs::read_dir(&db).is_ok_and(has_tables) {
        return Err(damaged("db/CURRENT", "it is missing"));
    }
    Ok(())
}

/// Opens the database to read while nobody writes it.
fn open_alone(db: &Path, scratch: &Path) -> Result<DB, StateError> {
    let mut options = options()?;
    options.set_db_log_dir(scratch);
    Ok(DB::open_cf_descriptors_read_only(&options, db, families(), false)?)
}

/// Opens a picture of the database while somebody writes it.
fn open_picture(db: &Path, scratch: &Path) -> Result<DB, StateError> {
    let io = |source| StateError::Io { path: scratch.to_path_buf(), source };
    for _ in 0..PICTURES {
        let _ = std::fs::remove_dir_all(scratch);
        std::fs::create_dir_all(scratch).map_err(io)?;
        // The list changed while its files were linked: some may be missing.
        let Some(manifest) = take_picture(db, scratch).map_err(io)? else { continue };
        match DB::open_cf_descriptors_read_only(&options()?, scratch, families(), false) {
            // A log file that was dropped meanwhile may not have been read; what it said is in a table that is not linked.
            Ok(db) if links_lead_somewhere(scratch).map_err(io)? => return Ok(db),
            Ok(_) => {}
            // If the writer has not moved on, it is not for its sake that a file is missing.
            Err(e) if current(db).ok() == Some(manifest) => return Err(e.into()),
            Err(_) => {}
        }
    }
    Err(damaged("the database", "its files come and go faster than they can be opened; try again"))
}

/// The manifest's name and length.
type Manifest = (String, u64);

fn current(db: &Path) -> std::io::Result<Manifest> {
    let name = std::fs::read_to_string(db.join("CURRENT"))?.trim_end().to_string();
    let length = std::fs::metadata(db.join(&name))?.len();
    Ok((name, length))
}

/// Links tables and log files, and copies the manifest; `None` if it changed meanwhile: then some may be missing.
fn take_picture(db: &Path, scratch: &Path) -> std::io::Result<Option<Manifest>> {
    let manifest = current(db)?;
    let mut copied = File::create(scratch.join(&manifest.0))?;
    std::io::copy(&mut File::open(db.join(&manifest.0))?.take(manifest.1), &mut copied)?;
    std::fs::write(scratch.join("CURRENT"), format!("{}\n", manifest.0))?;
    let from = std::path::absolute(db)?;
    for entry in std::fs::read_dir(&from)? {
        let name = entry?.file_name();
        if matches!(Path::new(&name).extension().and_then(|e| e.to_str()), Some("sst" | "log")) {
            std::os::unix::fs::symlink(from.join(&name), scratch.join(&name))?;
        }
    }
    Ok((current(db)? == manifest).then_some(manifest))
}

/// Are all linked log files still there?
fn links_lead_somewhere(scratch: &Path) -> std::io::Result<bool> {
    for entry in std::fs::read_dir(scratch)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "log") && !path.exists() {
            return Ok(false);
        }
    }
    Ok(true)
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

fn options() -> Result<Options, StateError> {
    let mut options = Options::default();
    // Only what a write-ahead log lacks at its end is forgiven; a record that is altered is not. And every log file says
    // how the one before it ended, so that none between two others is missing or cut short.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    let mut options = options.get_options_from_string("track_and_verify_wals=true")?;
    // All tables are opened with the store: one that is missing or has no index is noticed then.
    options.set_max_open_files(-1);
    options.set_max_background_jobs(2);
    options.set_max_total_wal_size(256 << 20);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 << 20);
    Ok(options)
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
            // What is flushed is soon merged or dropped: compressing it was a tenth of a replay's CPU time.
            options.set_min_level_to_compress(1);
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
