//! What must hold of a store: a little at every opening, all of it when asked.
//!
//! At every opening, in time that grows with the tail and not with the history: the commits are those that the witness
//! saw, those of the tail follow one another, the committed offsets are the last commits', and no log is sealed beyond the
//! redo points of the views whose pages follow from it. What is read from the tail, the quarantine, the catalogue and the
//! pages is compared with what their writers counted whenever it is read. `verify --all` reads all of it: [`Store::check_all`].
//!
//! Invariants: nothing here changes the store. Neighbours: `open` calls it, `commit`, `log` and `cache` count what they
//! write.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;

use rocksdb::IteratorMode;

use super::commit::{CommitRecord, LogKind, Tip, digest, log_key};
use super::page::{Header, row_digest};
use super::witness::Witness;
use super::{FAMILIES, StateError, Store, View, damaged};
use crate::id::ViewId;
use crate::offset::Offsets;
use crate::time::Epoch;

/// What is compared first.
const ORDER: &str = "the order of sealing, pages and commits";

/// How much of a store was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Commits.
    pub commits: u64,
    /// Log records of the tail.
    pub records: u64,
    /// Page rows.
    pub pages: u64,
    /// Refused records.
    pub rejected: u64,
}

/// Rows of a view's pages, and the sum of their digests: whoever writes a row writes this in the same batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PageCount {
    pub(super) rows: u64,
    pub(super) digests: u64,
}

impl PageCount {
    /// A row takes the place of another, or of none.
    pub(super) fn replace(&mut self, before: Option<u64>, after: u64) {
        self.rows += u64::from(before.is_none());
        self.digests = self.digests.wrapping_sub(before.unwrap_or_default()).wrapping_add(after);
    }

    pub(super) fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.rows.to_be_bytes());
        bytes[8..].copy_from_slice(&self.digests.to_be_bytes());
        bytes
    }

    fn of(value: Option<Vec<u8>>) -> Result<PageCount, StateError> {
        let Some(value) = value else { return Ok(PageCount::default()) };
        let (rows, digests) = value.split_at_checked(8).unwrap_or_default();
        let (Ok(rows), Ok(digests)) = (rows.try_into(), digests.try_into()) else {
            return Err(damaged("the count of pages", "it has not sixteen bytes"));
        };
        Ok(PageCount { rows: u64::from_be_bytes(rows), digests: u64::from_be_bytes(digests) })
    }
}

impl Store {
    /// What is compared at every opening. `exact`: nobody else has it open.
    pub(super) fn check_opened(&mut self, witness: Option<&Witness>, exact: bool) -> Result<(), StateError> {
        let last = self.last_commit()?;
        let witness = match (witness, &last) {
            (Some(witness), _) => *witness,
            (None, None) => Witness::default(),
            (None, Some(_)) => return Err(damaged("the witness", "it is missing")),
        };
        self.check_witnessed(&witness, last.as_ref())?;
        let found = self.db.latest_sequence_number();
        if found < witness.sequence {
            let why = format!("it ends with write {found}, and {} were on the disk", witness.sequence);
            return Err(damaged("the database", &why));
        }
        if exact && witness.clean && found != witness.sequence {
            return Err(damaged("the database", "something else wrote to it after Headwater had stopped"));
        }

        *self.tip.get_mut() = last.as_ref().map_or(Tip::NONE, Tip::of);
        let sealed = self.check_order()?;
        let least = sealed.values().min().copied().unwrap_or(0);
        let tail = self.check_chain(self.commit_below(least)?.as_ref(), &sealed)?;
        self.check_ends(&tail)?;

        *self.ends.get_mut() = self.offsets()?;
        self.logged.store(tail.rows, Ordering::Relaxed);
        Ok(())
    }

    /// No redo point is beyond the commits, and no log is sealed beyond the redo points of its views. Returns how far each
    /// is sealed.
    fn check_order(&self) -> Result<BTreeMap<LogKind, u64>, StateError> {
        let end = self.tip.lock().last;
        for view in self.ids().views() {
            let redo = self.redo_point(view)?;
            if redo > end {
                let why = format!("the pages of view {view} up to {redo}, commits up to {end}");
                return Err(damaged(ORDER, &why));
            }
        }
        let sealed = self.all_sealed(&View::new(self))?;
        for (log, sealed) in &sealed {
            let pages = self.sealable(*log)?;
            if *sealed > pages {
                let why = format!("log {log} is sealed up to {sealed}, pages up to {pages}, commits up to {end}");
                return Err(damaged(ORDER, &why));
            }
        }
        Ok(sealed)
    }

    /// The commit that the witness saw last is there, with everything before it.
    fn check_witnessed(&self, witness: &Witness, last: Option<&CommitRecord>) -> Result<(), StateError> {
        if witness.commits == 0 {
            return Ok(());
        }
        let seen = self.commit_at(witness.last)?;
        if seen.is_some_and(|c| (c.number, c.chain) == (witness.commits, witness.chain)) {
            return Ok(());
        }
        let have = match last {
            None => "there is none".to_string(),
            Some(last) => format!("the last one there is number {}, up to {}", last.number, Epoch(last.last)),
        };
        let why = format!("{} commits up to {} were on the disk; {have}", witness.commits, Epoch(witness.last));
        Err(damaged("the record of commits", &why))
    }

    /// Every commit after this one follows the one before it. `sealed`: of each log, what is not in the tail.
    fn check_chain(
        &self,
        after: Option<&CommitRecord>,
        sealed: &BTreeMap<LogKind, u64>,
    ) -> Result<TailEnds, StateError> {
        let mut before = after.map_or(Tip::NONE, Tip::of);
        let mut tail = TailEnds::default();
        for commit in self.commits_after(before.last) {
            let commit = commit?;
            let what = || format!("the commit up to {}", Epoch(commit.last));
            if commit.number != before.number + 1 {
                let why = format!("it is number {} and follows number {}", commit.number, before.number);
                return Err(damaged(&what(), &why));
            }
            if commit.chain != commit.chained(before.chain) {
                return Err(damaged(&what(), "it is not as it was written, or the one before it is not"));
            }
            commit.offsets.iter().for_each(|(source, partition, next)| tail.ends.advance(source, *partition, *next));
            let in_tail = |log: &LogKind| sealed.get(log).is_none_or(|sealed| commit.last > *sealed);
            tail.rows += commit.records.iter().filter(|r| in_tail(&r.log)).map(|r| r.rows).sum::<u64>();
            before = Tip::of(&commit);
        }
        tail.commits = before.number;
        Ok(tail)
    }

    /// The committed offsets are those of the commits.
    fn check_ends(&self, tail: &TailEnds) -> Result<(), StateError> {
        let ends = self.offsets()?;
        for (source, partitions) in &tail.ends.0 {
            for (partition, next) in partitions {
                let found = ends.get(source, *partition);
                if found != *next {
                    let what = format!("the committed offset of `{source}` partition {partition}");
                    return Err(damaged(&what, &format!("it is {found}, its last commit says {next}")));
                }
            }
        }
        Ok(())
    }

    /// Compares everything that is stored with what was counted when it was written: every commit with the one before it,
    /// every log record of the tail and every refused record with its commit, every page and chunk with the count of
    /// them, every block of every table with its checksum.
    ///
    /// # Errors
    /// The first difference, as [`StateError::Damaged`].
    pub fn check_all(&self) -> Result<Checked, StateError> {
        self.check_blocks()?;
        let commits = self.check_chain(None, &BTreeMap::new())?.commits;
        let mut rejected = 0;
        for refused in self.quarantine() {
            refused?;
            rejected += 1;
        }
        Ok(Checked { commits, records: self.check_tail()?, pages: self.check_pages()?, rejected })
    }

    /// Compares the tail with what the commits say of it: every record there, every digest right.
    ///
    /// # Errors
    /// The first difference, as [`StateError::Damaged`].
    pub fn check_tail(&self) -> Result<u64, StateError> {
        let view = View::new(self);
        let sealed = self.all_sealed(&view)?;
        let mut expected: HashMap<[u8; 17], u64> = HashMap::new();
        for commit in view.rows("commits", IteratorMode::Start) {
            let commit = super::commit::read_commit(commit)?;
            for (number, record) in (0u32..).zip(&commit.records) {
                // A log that the registry does not know is nobody's: what is left of it is not a record that is missed.
                if sealed.get(&record.log).is_some_and(|sealed| commit.last > *sealed) {
                    expected.insert(log_key(record.log, commit.last, number), record.digest);
                }
            }
        }
        let mut checked = 0;
        for row in view.rows("log", IteratorMode::Start) {
            let (key, value) = row?;
            let key: [u8; 17] = key.as_ref().try_into().map_err(|_| damaged("a log key", "not 17 bytes"))?;
            let name = format!("log record {key:?}");
            match expected.remove(&key) {
                None => return Err(damaged(&name, "no commit knows it")),
                Some(want) if digest(&value) != want => return Err(damaged(&name, "its digest is not its commit's")),
                Some(_) => checked += 1,
            }
        }
        match expected.keys().min() {
            Some(key) => Err(damaged(&format!("log record {key:?}"), "it is missing")),
            None => Ok(checked),
        }
    }

    /// Compares page rows with the count of them, and chunk rows with their pages.
    ///
    /// # Errors
    /// The first difference, as [`StateError::Damaged`].
    pub fn check_pages(&self) -> Result<u64, StateError> {
        let view = View::new(self);
        let mut chunks: BTreeMap<Vec<u8>, (u64, u64)> = BTreeMap::new();
        for row in view.rows("chunks", IteratorMode::Start) {
            let (key, row) = row?;
            let (page, id) = key.split_at_checked(key.len().wrapping_sub(8)).unwrap_or_default();
            let found = chunks.entry(page.to_vec()).or_default();
            *found = (found.0 + 1, found.1.wrapping_add(row_digest(id, &row)));
        }
        let mut counts: BTreeMap<ViewId, PageCount> = BTreeMap::new();
        for row in view.rows("pages", IteratorMode::Start) {
            let (key, row) = row?;
            let what = || format!("the page of group {key:?}");
            let id = key.first_chunk::<4>().ok_or_else(|| damaged(&what(), "its key is too short"))?;
            let (header, _) = Header::read(&key[4..], &row).map_err(|e| damaged(&what(), &e.to_string()))?;
            if chunks.remove(&*key).unwrap_or_default() != (header.chunks, header.chunk_digests) {
                return Err(damaged(&what(), "its chunk rows are not those that were written with it"));
            }
            counts.entry(ViewId::from_be_bytes(*id)).or_default().replace(None, header.digest);
        }
        if let Some(key) = chunks.keys().next() {
            return Err(damaged(&format!("the page of group {key:?}"), "it is missing, and its chunk rows are there"));
        }
        for id in self.ids().views() {
            let found = counts.remove(&id).unwrap_or_default();
            let wanted = PageCount::of(view.meta(&count_key(id))?)?;
            if found != wanted {
                let why = format!("{} rows of it are there, {} were written", found.rows, wanted.rows);
                return Err(damaged(&format!("the state of view {id}"), &why));
            }
        }
        if let Some((id, found)) = counts.first_key_value() {
            let why = format!("{} rows of it are there, and no view has this id", found.rows);
            return Err(damaged(&format!("the state of view {id}"), &why));
        }
        Ok(view.rows("pages", IteratorMode::Start).count() as u64)
    }

    /// What was counted of a view's pages.
    pub(super) fn page_count(&self, view: ViewId) -> Result<PageCount, StateError> {
        PageCount::of(self.meta(&count_key(view))?)
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
            for row in self.db.iterator_cf_opt(&self.family(family), options, IteratorMode::Start) {
                row?;
            }
        }
        Ok(())
    }
}

/// What the commits of the tail say together.
#[derive(Default)]
struct TailEnds {
    ends: Offsets,
    rows: u64,
    /// Number of the last commit.
    commits: u64,
}

/// Word of `meta` for the count of a view's pages.
pub(super) fn count_key(view: ViewId) -> String {
    format!("pages:{view}")
}
