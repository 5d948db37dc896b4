//! The witness: what had reached the disk at the last sync, written beside RocksDB rather than into it.
//!
//! RocksDB forgives a torn end of its write-ahead log and cannot know how long the log had been. The witness can: how many
//! commits there were and the digest of them all, the number of the last write, the length of the newest log file, and
//! the digest of the manifest that lists all others. It is replaced after each sync of commits, so the store may be ahead of it
//! and never behind it, unless something was lost.
//!
//! The file has two slots of a page each, written in turn: a torn write leaves the other one. After a clean stop the
//! witness says so, and then the store must be exactly at its last write.
//!
//! Invariants: nothing is in the witness before it is on the disk; a directory with a database has a witness, once it has
//! a commit. Neighbours: `open` compares it at every opening, `Store::sync` replaces it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::faults::Faults;
use super::{StateError, damaged};

/// Name of the file, in the data directory.
pub(super) const FILE: &str = "witness";
/// Distance of the two slots: whatever is written at once to a disk is no larger.
const SLOT: u64 = 4096;
/// Words of a slot: magic, turn, the witness, digest.
const WORDS: usize = 13;
const MAGIC: u64 = u64::from_be_bytes(*b"hw-witns");

/// What had reached the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Witness {
    /// Number of the last commit, from 1; 0 if there was none.
    pub(super) commits: u64,
    /// Digest of all commits up to it.
    pub(super) chain: u64,
    /// Its last epoch.
    pub(super) last: u64,
    /// RocksDB's number of the last write.
    pub(super) sequence: u64,
    /// Nothing was written after it: the process stopped by itself.
    pub(super) clean: bool,
    /// Number and length of RocksDB's newest log file.
    pub(super) wal: (u64, u64),
    /// Number, length and digest of RocksDB's manifest.
    pub(super) manifest: (u64, u64, u64),
}

impl Witness {
    fn words(&self, turn: u64) -> [u64; WORDS] {
        let (wal, manifest) = (self.wal, self.manifest);
        let mut words = [
            MAGIC,
            turn,
            self.commits,
            self.chain,
            self.last,
            self.sequence,
            u64::from(self.clean),
            wal.0,
            wal.1,
            manifest.0,
            manifest.1,
            manifest.2,
            0,
        ];
        words[WORDS - 1] = digest(&words[..WORDS - 1]);
        words
    }

    /// The turn and the witness of a slot, if it is whole.
    fn of(slot: &[u8]) -> Option<(u64, Witness)> {
        let words: Vec<u64> =
            slot.chunks_exact(8).take(WORDS).map(|w| u64::from_le_bytes(w.try_into().expect("eight bytes"))).collect();
        let [magic, turn, commits, chain, last, sequence, clean, wal, wal_bytes, manifest, bytes, of_manifest, sum] =
            words[..]
        else {
            return None;
        };
        (magic == MAGIC && sum == digest(&words[..WORDS - 1])).then_some((
            turn,
            Witness {
                commits,
                chain,
                last,
                sequence,
                clean: clean != 0,
                wal: (wal, wal_bytes),
                manifest: (manifest, bytes, of_manifest),
            },
        ))
    }

    /// Reads the witness of a data directory; `None` if it has none.
    ///
    /// # Errors
    /// A file that is cut short, or of which no slot is whole.
    pub(super) fn read(dir: &Path) -> Result<Option<Witness>, StateError> {
        Ok(read_slots(dir)?.map(|(_, witness)| witness))
    }

    /// Compares the files of the database with the witness. RocksDB has not touched them yet: opened for writing it
    /// would remove files that a damaged manifest does not list.
    ///
    /// # Errors
    /// The first that is missing, cut short or altered, as [`StateError::Damaged`].
    pub(super) fn check_files(&self, db: &Path) -> Result<(), StateError> {
        let manifest = current_manifest(db).map_err(|e| damaged("db/CURRENT", &e.to_string()))?;
        let (number, bytes, digest) = self.manifest;
        if manifest < number {
            return Err(damaged("db/CURRENT", "it names a manifest that is older than the last sync"));
        }
        if manifest == number {
            let found = digest_of(&manifest_path(db, number), bytes);
            let name = format!("db/MANIFEST-{number:06}");
            match found.map_err(|e| damaged(&name, &e.to_string()))? {
                Some(found) if found == digest => {}
                Some(_) => return Err(damaged(&name, "it was altered after it was synced")),
                None => return Err(damaged(&name, &format!("it is shorter than the {bytes} bytes that were synced"))),
            }
        }
        let (number, bytes) = self.wal;
        let name = format!("db/{number:06}.log");
        match std::fs::metadata(wal_path(db, number)) {
            Ok(found) if found.len() >= bytes => Ok(()),
            Ok(found) => Err(damaged(&name, &format!("{bytes} bytes of it were synced, it has {} now", found.len()))),
            // RocksDB drops a log file when what it says is in tables, and then has begun another.
            Err(_) if newest_wal(db).map_err(|e| io_error(db, e))? > number => Ok(()),
            Err(e) => Err(damaged(&name, &e.to_string())),
        }
    }
}

/// The witness of a store that is open for writing.
pub(super) struct WitnessFile {
    file: File,
    path: PathBuf,
    db: PathBuf,
    faults: Faults,
    turn: u64,
    /// The newest log file as it was found last, to be looked for again when it stops growing.
    wal: (u64, u64),
    /// The manifest as far as it has been read.
    manifest: (u64, u64),
    manifest_digest: Xxh3,
}

impl WitnessFile {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn open(dir: &Path, faults: Faults) -> Result<WitnessFile, StateError> {
        let path = dir.join(FILE);
        let found = read_slots(dir)?;
        if found.is_none() {
            create(&path, &faults).map_err(|e| io_error(&path, e))?;
        }
        // Also of a file that is there: whoever made it may have died before its name was on the disk.
        faults.sync_dir(dir).map_err(|e| io_error(&path, e))?;
        let file = File::options().write(true).open(&path).map_err(|e| io_error(&path, e))?;
        Ok(WitnessFile {
            file,
            path,
            db: dir.join("db"),
            faults,
            turn: found.map_or(0, |(turn, _)| turn),
            wal: (0, 0),
            manifest: (0, 0),
            manifest_digest: Xxh3::new(),
        })
    }

    /// Looks at the files of the database: to be asked before the sync that makes them durable as they are now.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn look(&mut self) -> Result<(), StateError> {
        self.look_at_wal().and_then(|()| self.look_at_manifest()).map_err(|source| io_error(&self.db, source))
    }

    fn look_at_wal(&mut self) -> io::Result<()> {
        let length = |number| std::fs::metadata(wal_path(&self.db, number)).map(|m| m.len());
        match length(self.wal.0) {
            Ok(bytes) if bytes > self.wal.1 => self.wal.1 = bytes,
            // It may be another's turn: a list of the folder is dearer than one look.
            Ok(_) | Err(_) => {
                let newest = newest_wal(&self.db)?;
                self.wal = (newest, length(newest)?);
            }
        }
        Ok(())
    }

    fn look_at_manifest(&mut self) -> io::Result<()> {
        let number = current_manifest(&self.db)?;
        if number != self.manifest.0 {
            self.manifest = (number, 0);
            self.manifest_digest = Xxh3::new();
        }
        let file = File::open(manifest_path(&self.db, number))?;
        let length = file.metadata()?.len();
        if length == self.manifest.1 {
            return Ok(());
        }
        // RocksDB syncs it after each entry; we may have come between.
        file.sync_data()?;
        let mut added = vec![0; usize::try_from(length - self.manifest.1).map_err(io::Error::other)?];
        file.read_exact_at(&mut added, self.manifest.1)?;
        self.manifest_digest.update(&added);
        self.manifest.1 = length;
        Ok(())
    }

    /// Replaces the witness, durably; the files are as of the last look.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn replace(&mut self, witness: Witness) -> Result<(), StateError> {
        let (number, bytes) = self.manifest;
        let witness = Witness { wal: self.wal, manifest: (number, bytes, self.manifest_digest.digest()), ..witness };
        self.turn += 1;
        let slot: Vec<u8> = witness.words(self.turn).iter().flat_map(|w| w.to_le_bytes()).collect();
        let written = self.file.write_all_at(&slot, self.turn % 2 * SLOT);
        let synced = written.and_then(|()| self.faults.sync_file(&self.file, &self.path));
        synced.map_err(|e| io_error(&self.path, e))
    }
}

/// Makes a file of two slots that say nothing was there, whole or not at all. Its name is not on the disk yet.
fn create(path: &Path, faults: &Faults) -> io::Result<()> {
    let unfinished = path.with_extension("tmp");
    let file = File::create(&unfinished)?;
    file.set_len(2 * SLOT)?;
    for turn in 0..2 {
        let slot: Vec<u8> = Witness::default().words(0).iter().flat_map(|w| w.to_le_bytes()).collect();
        file.write_all_at(&slot, turn * SLOT)?;
    }
    faults.sync_file(&file, &unfinished)?;
    faults.rename(&unfinished, path)
}

/// The newer whole slot.
fn read_slots(dir: &Path) -> Result<Option<(u64, Witness)>, StateError> {
    let path = dir.join(FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error(&path, e)),
    };
    if bytes.len() as u64 != 2 * SLOT {
        return Err(damaged("the witness", &format!("it has {} bytes instead of {}", bytes.len(), 2 * SLOT)));
    }
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let newest = [first, second].into_iter().filter_map(Witness::of).max_by_key(|(turn, _)| *turn);
    newest.map(Some).ok_or_else(|| damaged("the witness", "no slot of it is whole"))
}

/// The number of the manifest that `CURRENT` names.
fn current_manifest(db: &Path) -> io::Result<u64> {
    let named = std::fs::read_to_string(db.join("CURRENT"))?;
    let number = named.strip_prefix("MANIFEST-").and_then(|n| n.strip_suffix('\n')).and_then(|n| n.parse().ok());
    number.ok_or_else(|| io::Error::other("it names no manifest"))
}

fn manifest_path(db: &Path, number: u64) -> PathBuf {
    db.join(format!("MANIFEST-{number:06}"))
}

fn wal_path(db: &Path, number: u64) -> PathBuf {
    db.join(format!("{number:06}.log"))
}

/// The number of the newest log file; 0 if there is none.
fn newest_wal(db: &Path) -> io::Result<u64> {
    let mut newest = 0;
    for entry in std::fs::read_dir(db)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|n| n.strip_suffix(".log")).and_then(|n| n.parse().ok());
        newest = newest.max(number.unwrap_or(0));
    }
    Ok(newest)
}

/// The digest of the first bytes of a file; `None` if it has not so many.
fn digest_of(path: &Path, bytes: u64) -> io::Result<Option<u64>> {
    let mut file = File::open(path)?.take(bytes);
    let (mut hasher, mut buffer, mut left) = (Xxh3::new(), vec![0; 1 << 16], bytes);
    while left > 0 {
        match file.read(&mut buffer)? {
            0 => return Ok(None),
            n => {
                hasher.update(&buffer[..n]);
                left -= n as u64;
            }
        }
    }
    Ok(Some(hasher.digest()))
}

fn digest(words: &[u64]) -> u64 {
    xxh3_64(&words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>())
}

fn io_error(path: &Path, source: io::Error) -> StateError {
    StateError::Io { path: path.to_path_buf(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_write_leaves_the_witness_before_it() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("db")).expect("a directory");
        std::fs::write(dir.path().join("db/CURRENT"), "MANIFEST-000005\n").expect("written");
        std::fs::write(dir.path().join("db/MANIFEST-000005"), "edits").expect("written");
        std::fs::write(dir.path().join("db/000007.log"), "records").expect("written");
        let mut file = WitnessFile::open(dir.path(), Faults::default()).expect("made");
        assert_eq!(Witness::read(dir.path()).expect("whole"), Some(Witness::default()));
        for commits in 1..5 {
            file.look().expect("the files are there");
            file.replace(Witness { commits, ..Witness::default() }).expect("written");
            let read = Witness::read(dir.path()).expect("whole").expect("there");
            assert_eq!((read.commits, read.wal, read.manifest.1), (commits, (7, 7), 5));
            read.check_files(&dir.path().join("db")).expect("nothing was touched");
            // Each byte of the slot that was just written.
            let path = dir.path().join(FILE);
            let whole = std::fs::read(&path).expect("readable");
            let slot = usize::try_from(file.turn % 2 * SLOT).expect("small");
            for at in slot..slot + WORDS * 8 {
                let mut torn = whole.clone();
                torn[at] ^= 1;
                std::fs::write(&path, torn).expect("written");
                let read = Witness::read(dir.path()).expect("one slot is whole").expect("there");
                assert_eq!(read.commits, commits - 1, "byte {at}");
            }
            std::fs::write(&path, &whole).expect("written");
        }
    }

    /// Whoever made the file may have died before its name was on the disk: then a power loss would take the witness away
    /// from commits that are there.
    #[test]
    fn every_opening_puts_the_name_on_the_disk() {
        use std::sync::{Arc, Mutex};
        let dir = tempfile::tempdir().expect("a directory");
        for _ in 0..2 {
            let synced = Arc::new(Mutex::new(vec![]));
            let seen = Arc::clone(&synced);
            let faults = Faults::hooked(Arc::new(move |step: super::super::faults::Step<'_>| {
                if let super::super::faults::Step::DirSynced(dir) = step {
                    seen.lock().expect("no panic").push(dir.to_path_buf());
                }
                Ok(())
            }));
            WitnessFile::open(dir.path(), faults).expect("made or found");
            assert_eq!(*synced.lock().expect("no panic"), [dir.path()]);
        }
    }

    #[test]
    fn files_that_lost_something_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let db = dir.path().join("db");
        std::fs::create_dir(&db).expect("a directory");
        let write = |name: &str, text: &str| std::fs::write(db.join(name), text).expect("written");
        let whole = || {
            write("CURRENT", "MANIFEST-000005\n");
            write("MANIFEST-000005", "edits");
            write("000007.log", "records");
        };
        whole();
        let mut file = WitnessFile::open(dir.path(), Faults::default()).expect("made");
        file.look().expect("the files are there");
        file.replace(Witness::default()).expect("written");
        let witness = Witness::read(dir.path()).expect("whole").expect("there");
        let check = |change: &dyn Fn(), want: &str| {
            change();
            let found = witness.check_files(&db).map_or_else(|e| e.to_string(), |()| "nothing".into());
            assert!(found.contains(want), "{found}");
            let _ = std::fs::remove_file(db.join("000008.log"));
            whole();
        };
        check(&|| (), "nothing");
        check(&|| write("MANIFEST-000005", "edits and more"), "nothing");
        check(&|| write("000007.log", "records and more"), "nothing");
        check(&|| write("MANIFEST-000005", "edit"), "db/MANIFEST-000005 is damaged: it is shorter");
        check(&|| write("MANIFEST-000005", "edits".replace('t', "u").as_str()), "it was altered");
        check(&|| write("CURRENT", "MANIFEST-000004\n"), "older than the last sync");
        check(&|| write("CURRENT", "MANIFEST-000005"), "db/CURRENT is damaged");
        check(&|| std::fs::remove_file(db.join("CURRENT")).expect("removed"), "db/CURRENT is damaged");
        check(&|| write("000007.log", "record"), "db/000007.log is damaged");
        check(&|| std::fs::remove_file(db.join("000007.log")).expect("removed"), "db/000007.log is damaged");
        check(
            &|| {
                std::fs::remove_file(db.join("000007.log")).expect("removed");
                write("000008.log", "");
            },
            "nothing",
        );
    }
}
