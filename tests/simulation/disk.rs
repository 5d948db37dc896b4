//! What a power loss leaves of a data directory: what was forced to the disk, and anything or nothing of the rest.
//!
//! Of the database that is its files as of the last sync, and perhaps a piece of what was appended to its write-ahead log
//! since. Of other files it is the bytes that were there when they were synced, under the names their directory had when
//! it was synced.
//!
//! Invariants: nothing that was synced is taken away. Neighbours: `world` passes on what the store says it does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use headwater::state::faults::Step;
use rand::RngExt;
use rand::rngs::StdRng;

/// The disk below a data directory.
pub(crate) struct Disk {
    root: PathBuf,
    /// The database's files as of its last sync.
    database: BTreeMap<PathBuf, Vec<u8>>,
    /// Bytes that were synced, by the present name.
    bytes: BTreeMap<PathBuf, Vec<u8>>,
    /// Names that a power loss keeps, and what they name.
    names: BTreeMap<PathBuf, Option<Vec<u8>>>,
}

impl Disk {
    pub(crate) fn new(root: &Path) -> Disk {
        Disk { root: root.into(), database: BTreeMap::new(), bytes: BTreeMap::new(), names: BTreeMap::new() }
    }

    /// Takes note of what is on the disk now.
    pub(crate) fn note(&mut self, step: Step<'_>) {
        match step {
            Step::Synced | Step::Written { sync: true } => self.database_synced(),
            Step::FileSynced(path) => {
                let bytes = std::fs::read(path).expect("it was just written");
                // A file that keeps its name is whole again at once.
                if let Some(kept) = self.names.get_mut(path) {
                    *kept = Some(bytes.clone());
                }
                self.bytes.insert(path.into(), bytes);
            }
            Step::Renamed { from, to } => {
                if let Some(bytes) = self.bytes.remove(from) {
                    self.bytes.insert(to.into(), bytes);
                }
            }
            Step::DirSynced(dir) => {
                self.names.retain(|path, _| path.parent() != Some(dir));
                for path in entries(dir) {
                    let bytes =
                        if path.is_dir() { None } else { Some(self.bytes.get(&path).cloned().unwrap_or_default()) };
                    self.names.insert(path, bytes);
                }
            }
            _ => {}
        }
    }

    /// The database is as it is now, also after a power loss.
    pub(crate) fn database_synced(&mut self) {
        let dir = self.root.join("db");
        let look = || -> Option<BTreeMap<PathBuf, Vec<u8>>> {
            let files = entries(&dir).into_iter().filter(|path| !is_lock_or_log(path));
            files.map(|path| Some((path.clone(), std::fs::read(&path).ok()?))).collect()
        };
        // Its threads make and drop files while we look: until two looks see the same.
        let mut before = look();
        loop {
            let now = look();
            match now {
                Some(files) if before.as_ref() == Some(&files) => {
                    self.database = files;
                    return;
                }
                now => before = now,
            }
        }
    }

    /// Makes the directory what a power loss leaves. Nobody has it open.
    pub(crate) fn lose_power(&mut self, rng: &mut StdRng) {
        let now = self.database_now();
        let same: BTreeSet<&PathBuf> = now.keys().collect();
        let extended = same == self.database.keys().collect() && rng.random_bool(0.5);
        let _ = std::fs::remove_dir_all(self.root.join("db"));
        std::fs::create_dir_all(self.root.join("db")).expect("a directory");
        for (path, bytes) in &self.database {
            let mut bytes = bytes.clone();
            let appended = now.get(path).and_then(|all| all.strip_prefix(bytes.as_slice())).unwrap_or_default();
            if extended && is_write_ahead_log(path) && !appended.is_empty() {
                // The system had begun to write it.
                bytes.extend_from_slice(&appended[..rng.random_range(0..=appended.len())]);
            }
            std::fs::write(path, bytes).expect("a file");
        }
        self.lose_others(rng);
        self.database_synced();
    }

    fn database_now(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let files = entries(&self.root.join("db")).into_iter().filter(|path| !is_lock_or_log(path));
        files.map(|path| (path.clone(), std::fs::read(&path).expect("nobody changes it"))).collect()
    }

    fn lose_others(&mut self, rng: &mut StdRng) {
        let mut found = BTreeMap::new();
        let mut dirs = vec![self.root.clone()];
        while let Some(dir) = dirs.pop() {
            for path in entries(&dir).into_iter().filter(|p| *p != self.root.join("db")) {
                if path.is_dir() {
                    dirs.push(path);
                } else {
                    let bytes = std::fs::read(&path).expect("nobody changes it");
                    found.insert(path, bytes);
                }
            }
        }
        for (path, bytes) in found.iter().filter(|(path, _)| !self.names.contains_key(*path)) {
            // A name that was not synced may be there or not; bytes that were not may be any of them.
            if rng.random_bool(0.5) {
                std::fs::remove_file(path).expect("it is there");
            } else if !self.bytes.contains_key(path) {
                std::fs::write(path, &bytes[..rng.random_range(0..=bytes.len())]).expect("a file");
            }
        }
        for (path, bytes) in &self.names {
            match bytes {
                None => std::fs::create_dir_all(path).expect("a directory"),
                // What was removed since may be back.
                Some(bytes) if found.contains_key(path) || rng.random_bool(0.5) => {
                    std::fs::create_dir_all(path.parent().expect("it is in one")).expect("a directory");
                    std::fs::write(path, bytes).expect("a file");
                }
                Some(_) => {}
            }
        }
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return vec![] };
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    paths.sort();
    paths
}

fn is_lock_or_log(path: &Path) -> bool {
    path.file_name().is_some_and(|n| n == "LOCK" || n.to_string_lossy().starts_with("LOG"))
}

fn is_write_ahead_log(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "log")
}
