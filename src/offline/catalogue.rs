//! The catalogue of segments: which file holds what, and its digest.
//!
//! Entries live in the store, beside the tail, so that one batch adds a segment and drops what it holds from the tail.
//!
//! Invariants: a file that is not in the catalogue does not exist for readers; one that is never changes. Both are looked at
//! whenever a data directory is opened. Neighbours: `seal` adds entries, `segment` reads the files, `verify` compares the
//! digests.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::OfflineError;
use crate::id::{KeyId, SourceId, ViewId};
use crate::state::commit::LogKind;
use crate::state::log::SegmentRows;
use crate::state::{StateError, Store};
use crate::time::Epoch;

/// What a segment is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Content {
    /// A source's events.
    Events(SourceId),
    /// The updates of a view that logs them.
    Updates(ViewId),
    /// A stream's events, sorted by what views group them by.
    Keyed(KeyId),
}

/// A segment in the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Relative to the data directory; its key in the catalogue.
    pub path: String,
    /// What it is of.
    pub of: Content,
    /// The log whose records it follows from: it is sealed with these.
    pub log: LogKind,
    /// Its least epoch.
    pub first: u64,
    /// Its greatest epoch.
    pub last: u64,
    /// Its rows.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// xxh3-128 of the digests of its blocks, in hexadecimal.
    pub digest: String,
}

/// All segments, and up to which commit they hold each log.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    /// Oldest first.
    pub entries: Vec<Entry>,
    /// By log: records of commits up to here are in segments and not in the tail.
    pub sealed: BTreeMap<LogKind, u64>,
}

impl Catalogue {
    /// Reads it.
    ///
    /// # Errors
    /// A damaged entry; one that is missing.
    pub fn read(store: &Store) -> Result<Catalogue, StateError> {
        Catalogue::of(store.segments()?)
    }

    /// Of its rows in the store.
    ///
    /// # Errors
    /// A damaged entry.
    pub fn of(stored: SegmentRows) -> Result<Catalogue, StateError> {
        let entry = |(key, value): (String, Vec<u8>)| {
            serde_json::from_slice::<Entry>(&value)
                .map_err(|e| StateError::Damaged { what: format!("catalogue entry {key}"), why: e.to_string() })
        };
        let mut entries = stored.rows.into_iter().map(entry).collect::<Result<Vec<_>, _>>()?;
        entries.sort_by(|a, b| (a.first, &a.path).cmp(&(b.first, &b.path)));
        Ok(Catalogue { entries, sealed: stored.sealed })
    }

    /// Compares the files with the entries: each is there, with its length, and no file holds a sealed part of the log
    /// that no entry lists. What an interrupted sealing left is not yet sealed; the next one removes it. Contents are
    /// for [`super::Offline::check_segments`].
    ///
    /// # Errors
    /// The first that does not fit.
    pub fn check_files(&self, data_dir: &Path, folders: &Folders) -> Result<(), OfflineError> {
        for entry in &self.entries {
            let path = data_dir.join(&entry.path);
            let found = std::fs::metadata(&path).map_err(|source| OfflineError::Io { path: path.clone(), source })?;
            if found.len() != entry.bytes {
                let why = format!("it has {} bytes, the catalogue says {}", found.len(), entry.bytes);
                return Err(OfflineError::Segment { path, why });
            }
            let sealed = self.sealed(entry.log);
            if entry.last > sealed {
                let why = format!("it reaches to {}, the log is sealed up to {}", Epoch(entry.last), Epoch(sealed));
                return Err(OfflineError::Segment { path, why });
            }
        }
        let listed = self.paths();
        for file in files(data_dir)? {
            let is_listed = listed.contains(file.name.as_str());
            if !is_listed && file.range.is_some() && !self.is_unsealed(&file, folders) {
                return Err(OfflineError::Segment { path: file.path, why: "the catalogue does not list it".into() });
            }
        }
        Ok(())
    }

    /// How far a log is sealed.
    pub fn sealed(&self, log: LogKind) -> u64 {
        self.sealed.get(&log).copied().unwrap_or(0)
    }

    /// Is the file named like a segment of what is not sealed yet? What lies in a folder that is nobody's is not.
    pub fn is_unsealed(&self, file: &SegmentFile, folders: &Folders) -> bool {
        let log = file.path.parent().and_then(|folder| folders.get(folder));
        file.range.zip(log).is_some_and(|((first, _), log)| first > self.sealed(*log))
    }

    /// The files that it lists.
    pub fn paths(&self) -> BTreeSet<&str> {
        self.entries.iter().map(|e| e.path.as_str()).collect()
    }

    /// The segments of a source, a view or a key.
    pub fn of_content(&self, content: Content) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |e| e.of == content)
    }
}

/// Of each folder of segments, whole, the log that they are sealed with.
pub type Folders = HashMap<PathBuf, LogKind>;

/// A file under `segments/`.
pub struct SegmentFile {
    /// Where it is.
    pub path: PathBuf,
    /// Relative to the data directory, as the catalogue names it.
    pub name: String,
    /// The epochs that its name says, if it is named like a segment.
    pub range: Option<(u64, u64)>,
}

/// All files under `segments/`.
///
/// # Errors
/// The file system's.
pub fn files(data_dir: &Path) -> Result<Vec<SegmentFile>, OfflineError> {
    let (mut found, mut dirs) = (vec![], vec![data_dir.join("segments")]);
    while let Some(dir) = dirs.pop() {
        let io = |source| OfflineError::Io { path: dir.clone(), source };
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(io(e)),
        };
        for entry in entries {
            let entry = entry.map_err(io)?;
            let path = entry.path();
            if entry.file_type().map_err(io)?.is_dir() {
                dirs.push(path);
                continue;
            }
            let name = path.strip_prefix(data_dir).unwrap_or(&path).to_string_lossy().into_owned();
            let range = path.file_name().and_then(|n| n.to_str()).and_then(range_of);
            found.push(SegmentFile { path, name, range });
        }
    }
    Ok(found)
}

/// The epochs in a segment's name: `FIRST-LAST.parquet`, or `FIRST-LAST-NUMBER.parquet`.
fn range_of(name: &str) -> Option<(u64, u64)> {
    let mut numbers = name.strip_suffix(".parquet")?.split('-').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Directory of a source's events.
pub fn events_dir(source: &str) -> PathBuf {
    Path::new("segments").join("events").join(file_name(source))
}

/// Directory of a view's updates.
pub fn updates_dir(view: &str, version: u32) -> PathBuf {
    Path::new("segments").join("updates").join(file_name(view)).join(format!("v{version}"))
}

/// Directory of a stream's events sorted by a key; `name`: what people know the key by, which may be long.
pub fn keyed_dir(stream: &str, name: &str, key: KeyId) -> PathBuf {
    let name: String = file_name(name).chars().take(NAME_MAX).collect();
    Path::new("segments").join("keyed").join(file_name(stream)).join(format!("{name}-k{key}"))
}

/// Characters of a key's name in its directory.
const NAME_MAX: usize = 80;

/// A name as a directory: what file systems may not take is written as `%` and two digits, so names stay apart.
fn file_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_epochs() {
        let check = |name: &str, want: Option<(u64, u64)>| assert_eq!(range_of(name), want, "{name}");
        check("3-17.parquet", Some((3, 17)));
        check("3-17-2.parquet", Some((3, 17)));
        check("3-17.tmp", None);
        check("mine.parquet", None);
        check("3.parquet", None);
    }

    #[test]
    fn names_become_directories() {
        let check = |name: &str, want: &str| assert_eq!(file_name(name), want);
        check("user_activity", "user_activity");
        check("Clicks-2", "Clicks-2");
        check("../x y", "%2E%2E%2Fx%20y");
        check("a%2E", "a%252E");
    }
}
