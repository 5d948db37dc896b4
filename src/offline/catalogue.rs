//! The catalogue of segments: which file holds what, and its digest.
//!
//! Entries live in the store, beside the tail, so that one batch adds a segment and drops what it holds from the tail.
//!
//! Invariants: a file that is not in the catalogue does not exist for readers; one that is never changes. Neighbours:
//! `seal` adds entries, `segment` reads the files, `verify` compares the digests.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::state::{StateError, Store};

/// What a segment is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SegmentKind {
    /// A source's events.
    Events,
    /// A view's updates.
    Updates,
}

/// A segment in the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Relative to the data directory; its key in the catalogue.
    pub path: String,
    /// Events or updates.
    pub kind: SegmentKind,
    /// Of which source or view.
    pub name: String,
    /// The view's version; 0 for events.
    pub version: u32,
    /// Its least epoch.
    pub first: u64,
    /// Its greatest epoch.
    pub last: u64,
    /// Its rows.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// xxh3-128 of its bytes, in hexadecimal.
    pub digest: String,
}

/// All segments, and up to which commit they hold the log.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    /// Oldest first.
    pub entries: Vec<Entry>,
    /// Records of commits up to here are in segments and not in the tail.
    pub sealed: u64,
}

impl Catalogue {
    /// Reads it.
    ///
    /// # Errors
    /// A damaged entry.
    pub fn read(store: &Store) -> Result<Catalogue, StateError> {
        loop {
            // Whoever seals changes both in one batch: if the number has not moved, the entries belong to it.
            let sealed = store.sealed()?;
            let segments = store.segments()?;
            if store.sealed()? != sealed {
                continue;
            }
            let entry = |(key, value): (String, Vec<u8>)| {
                serde_json::from_slice::<Entry>(&value)
                    .map_err(|e| StateError::Damaged { what: format!("catalogue entry {key}"), why: e.to_string() })
            };
            let mut entries = segments.into_iter().map(entry).collect::<Result<Vec<_>, _>>()?;
            entries.sort_by(|a, b| (a.first, &a.path).cmp(&(b.first, &b.path)));
            return Ok(Catalogue { entries, sealed });
        }
    }

    /// The segments of one source.
    pub fn events<'a>(&'a self, source: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |e| e.kind == SegmentKind::Events && e.name == source)
    }

    /// The segments of one version of a view.
    pub fn updates<'a>(&'a self, view: &'a str, version: u32) -> impl Iterator<Item = &'a Entry> {
        let wanted = move |e: &&Entry| e.kind == SegmentKind::Updates && e.name == view && e.version == version;
        self.entries.iter().filter(wanted)
    }
}

/// Directory of a source's events.
pub fn events_dir(source: &str) -> PathBuf {
    Path::new("segments").join("events").join(file_name(source))
}

/// Directory of a view's updates.
pub fn updates_dir(view: &str, version: u32) -> PathBuf {
    Path::new("segments").join("updates").join(file_name(view)).join(format!("v{version}"))
}

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
    fn names_become_directories() {
        let check = |name: &str, want: &str| assert_eq!(file_name(name), want);
        check("user_activity", "user_activity");
        check("Clicks-2", "Clicks-2");
        check("../x y", "%2E%2E%2Fx%20y");
        check("a%2E", "a%252E");
    }
}
