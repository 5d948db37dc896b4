//! A group's page: a base that contains the log up to an epoch, recent updates by epoch, and the read at a stamp.
//!
//! Updates come in before their commit and wait in `recent`, tagged with their epochs. They are merged into the base once
//! they are committed and no reader can ask for less. A read at epoch `E` counts exactly the updates with epoch <= E.
//!
//! A page's row begins with a [`Header`]: its digest, the epoch it contains, and the digest of the chunk rows that belong to
//! it. So a row that is altered, or a chunk row that is missing, is damage and never an answer.
//!
//! Invariants: the base never contains an update above the limit it was given, which is never above the last commit; what the
//! base contains is never applied again (asserted in [`Page::merge`]).
//! Neighbours: `cache` holds pages and knows the limit; `fold::group` is the base.

use rustc_hash::{FxHashMap, FxHashSet};
use xxhash_rust::xxh3::Xxh3;

use crate::fold::entry::{CLOSING, Entry, Update};
use crate::fold::layout::{self, LayoutError};
use crate::fold::{Evaluation, Fold, Group, Wanted};

/// Words before the entry in `recent`: epoch, counts-from, flags.
pub(super) const PREFIX: usize = 3;

/// How long after its last window an entry is kept, for reads at stamps of a moment ago.
const SLACK_MICROS: i64 = 10_000_000;

/// A group of one view, in memory.
pub struct Page {
    /// Hash of the group's bytes.
    pub hash: u64,
    /// The group's bytes.
    pub key: Box<[u8]>,
    /// All updates up to here are in the base.
    merged: u64,
    base: Group,
    recent: Vec<u64>,
    recent_heap: Vec<u8>,
    /// Differs from its row on disk.
    dirty: bool,
    /// Chunks that have rows on disk, and their digests.
    listed: Vec<(u64, u64)>,
    /// Digest of the row on disk, if there is one.
    row: Option<u64>,
    /// Written to or read since a pass last looked for idle pages.
    used: bool,
}

/// Why a page does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// It is past that stamp; the log can answer.
    NeedsLog,
    /// Another reader holds back what this one asks for, and the group is large to copy. Readers are soon gone.
    HeldBack,
}

/// A page's rows on their way to disk.
pub struct PageRows {
    /// The page row.
    pub page: Vec<u8>,
    /// Chunk rows to write: (id, bytes).
    pub chunks: Vec<(u64, Vec<u8>)>,
    /// Chunk rows to delete.
    pub dropped: Vec<u64>,
    /// Digest of the page row that this one replaces, if there is one, and of this one.
    pub digests: (Option<u64>, u64),
}

/// What a page row says before the group's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Digest of the group's bytes and of everything behind this word.
    pub digest: u64,
    /// All updates up to this epoch are in the state.
    pub merged: u64,
    /// Chunk rows that belong to it.
    pub chunks: u64,
    /// Sum of their digests.
    pub chunk_digests: u64,
}

impl Header {
    /// Bytes of a header.
    pub const LEN: usize = 32;

    /// The header of a group's row, and the state behind it.
    ///
    /// # Errors
    /// A row that is not as it was written.
    pub fn read<'a>(key: &[u8], row: &'a [u8]) -> Result<(Header, &'a [u8]), RowError> {
        let (words, state) = row.split_at_checked(Header::LEN).ok_or(RowError::Altered)?;
        let word = |n: usize| u64::from_le_bytes(words[n * 8..][..8].try_into().expect("eight bytes"));
        let header = Header { digest: word(0), merged: word(1), chunks: word(2), chunk_digests: word(3) };
        if row_digest(key, &row[8..]) != header.digest {
            return Err(RowError::Altered);
        }
        Ok((header, state))
    }

    /// A row: header and state, and its digest.
    fn row(key: &[u8], merged: u64, chunks: &[(u64, u64)], state: &[u8]) -> (Vec<u8>, u64) {
        let mut row = Vec::with_capacity(Header::LEN + state.len());
        let sum = chunks.iter().fold(0u64, |sum, (_, digest)| sum.wrapping_add(*digest));
        for word in [0, merged, chunks.len() as u64, sum] {
            row.extend(word.to_le_bytes());
        }
        row.extend_from_slice(state);
        let digest = row_digest(key, &row[8..]);
        row[..8].copy_from_slice(&digest.to_le_bytes());
        (row, digest)
    }
}

/// A row that does not hold what it should.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// Its bytes are other.
    #[error("it is not as it was written")]
    Altered,
    /// Chunk rows are missing, or are not those that were written with it.
    #[error("its chunk rows are not those that were written with it")]
    Chunks,
    /// The state cannot be read.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// The digest of a row under a key: of a page under its group, of a chunk under its id.
pub fn row_digest(key: &[u8], row: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(row);
    hasher.digest()
}

impl Page {
    /// A page of a group that has no row on disk.
    pub fn new(hash: u64, key: &[u8], fold: &Fold) -> Page {
        Page {
            hash,
            key: key.into(),
            merged: 0,
            base: Group::new(fold),
            recent: vec![],
            recent_heap: vec![],
            dirty: false,
            listed: vec![],
            row: None,
            used: true,
        }
    }

    /// A page from its row on disk; `chunk` reads a chunk row.
    ///
    /// # Errors
    /// Rows that are damaged or of another format.
    pub fn load(
        hash: u64,
        key: &[u8],
        row: &[u8],
        fold: &Fold,
        mut chunk: impl FnMut(u64) -> Option<Vec<u8>>,
    ) -> Result<Page, RowError> {
        let (header, state) = Header::read(key, row)?;
        let mut listed = vec![];
        let base = layout::decode(state, fold, |id| {
            let row = chunk(id)?;
            listed.push((id, row_digest(&id.to_be_bytes(), &row)));
            Some(row)
        })?;
        let sum = listed.iter().fold(0u64, |sum, (_, digest)| sum.wrapping_add(*digest));
        if (listed.len() as u64, sum) != (header.chunks, header.chunk_digests) {
            return Err(RowError::Chunks);
        }
        Ok(Page { merged: header.merged, base, listed, row: Some(header.digest), ..Page::new(hash, key, fold) })
    }

    /// Takes an update of an epoch that is not committed yet. One that the base has is skipped: a redo repeats them.
    pub fn push(&mut self, update: &Update<'_>, fold: &Fold) {
        if update.epoch <= self.merged {
            return;
        }
        (self.dirty, self.used) = (true, true);
        let flags = if update.closing { u64::from(CLOSING) } else { 0 };
        self.recent.extend([update.epoch, update.counts_from.cast_unsigned(), flags]);
        update.entry.append_to(&fold.shape, &mut self.recent, &mut self.recent_heap);
    }

    /// Merges what is at or below the limit: committed, and not above what any reader may ask for.
    pub fn merge(&mut self, limit: u64, fold: &Fold) {
        if self.recent.is_empty() || limit <= self.merged {
            return;
        }
        let width = PREFIX + fold.shape.stride;
        let all = self.recent.chunks_exact(width).all(|r| r[0] <= limit);
        let now = limit.cast_signed();
        let recent = std::mem::take(&mut self.recent);
        let heap = std::mem::take(&mut self.recent_heap);
        for record in recent.chunks_exact(width) {
            let update = update_of(record, &heap, self.hash, &self.key);
            assert!(update.epoch > self.merged, "epoch {} is in the base already", update.epoch);
            if update.epoch <= limit {
                self.base.apply(&update, now, fold);
            } else {
                self.recent.extend_from_slice(&record[..PREFIX]);
                update.entry.append_to(&fold.shape, &mut self.recent, &mut self.recent_heap);
            }
        }
        if all {
            // The buffers are used again: most groups that were touched will be touched again.
            (self.recent, self.recent_heap) = (recent, heap);
            self.recent.clear();
            self.recent_heap.clear();
            if self.recent.capacity() > 64 * width {
                self.recent.shrink_to(4 * width);
                self.recent_heap.shrink_to(256);
            }
        }
        self.merged = limit;
        self.base.retire(now.saturating_sub(SLACK_MICROS), fold);
        self.base.advance(now, fold);
    }

    /// The answer at a stamp: of the aggregates that are asked for. `limit` as for [`Page::merge`]; `patient`: whoever
    /// asks can ask again.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn read(
        &mut self,
        epoch: u64,
        now: i64,
        limit: u64,
        patient: bool,
        asked: &Wanted,
        fold: &Fold,
    ) -> Result<Evaluation, Unanswered> {
        self.used = true;
        self.merge(limit.min(epoch), fold);
        if self.merged > epoch || self.base.floor() > now {
            return Err(Unanswered::NeedsLog);
        }
        let width = PREFIX + fold.shape.stride;
        let visible = |r: &&[u64]| r[0] <= epoch;
        if !self.recent.chunks_exact(width).any(|r| r[0] <= epoch) {
            self.base.advance(now, fold);
            self.base.prepare(fold);
            return Ok(self.base.evaluate_some(now, asked, fold));
        }
        // Another reader holds the limit below this epoch: answer from a copy.
        if patient && self.base.is_large() {
            return Err(Unanswered::HeldBack);
        }
        let mut copy = self.base.clone();
        for record in self.recent.chunks_exact(width).filter(visible) {
            copy.apply(&update_of(record, &self.recent_heap, self.hash, &self.key), now, fold);
        }
        copy.advance(now, fold);
        Ok(copy.evaluate_some(now, asked, fold))
    }

    /// Merges up to the limit and gives the rows to write, or nothing if the disk has them.
    pub fn write_back(&mut self, limit: u64, fold: &Fold) -> Option<PageRows> {
        self.merge(limit, fold);
        // Also of groups that nothing is heard of any more.
        self.dirty |= self.base.retire(limit.cast_signed().saturating_sub(SLACK_MICROS), fold);
        // A group of which nothing is committed yet has no row: its commit may never come.
        if !self.dirty || (self.row.is_none() && self.base.is_blank()) {
            return None;
        }
        let encoded = layout::encode(&self.base, fold, false);
        layout::mark_clean(&mut self.base);
        let before = std::mem::take(&mut self.listed);
        let written = encoded.chunks.iter().map(|(id, row)| (*id, row_digest(&id.to_be_bytes(), row)));
        let known: FxHashMap<u64, u64> = before.iter().copied().chain(written).collect();
        let digest_of = |id: &u64| *known.get(id).expect("a chunk has a row before it is listed");
        self.listed = encoded.listed.iter().map(|id| (*id, digest_of(id))).collect();
        let kept: FxHashSet<u64> = encoded.listed.into_iter().collect();
        let dropped = before.into_iter().map(|(id, _)| id).filter(|id| !kept.contains(id)).collect();
        self.dirty = !self.recent.is_empty();
        let (page, digest) = Header::row(&self.key, self.merged, &self.listed, &encoded.page);
        let digests = (self.row.replace(digest), digest);
        Some(PageRows { page, chunks: encoded.chunks, dropped, digests })
    }

    /// Nothing would be lost without it, and nobody has asked for it since this was asked last.
    pub fn is_idle(&mut self) -> bool {
        !std::mem::take(&mut self.used) && self.is_clean()
    }

    /// Nothing would be lost without it, once the rows that were made of it are in the store.
    pub fn is_clean(&mut self) -> bool {
        !self.dirty && self.recent.is_empty()
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        let recent = self.recent.capacity() * 8 + self.recent_heap.capacity();
        size_of::<Page>() + self.key.len() + self.listed.len() * 16 + self.base.memory() + recent
    }
}

fn update_of<'a>(record: &'a [u64], heap: &'a [u8], hash: u64, group: &'a [u8]) -> Update<'a> {
    Update {
        hash,
        group,
        epoch: record[0],
        counts_from: record[1].cast_signed(),
        closing: record[2] & u64::from(CLOSING) != 0,
        entry: Entry { words: &record[PREFIX..], heap },
    }
}
