//! A run of entries in order, with what aggregates over windows make of all of them.
//!
//! Long values lie in a heap beside the entries. A row that leaves leaves its bytes behind; when they are half of the heap
//! it is written anew, so that rows which a table's changes move away and back do not add up.
//!
//! Invariants: entries are sorted by [`Entry::compare`] and distinct by it; a partial, where there is one, is over exactly
//! the entries of the chunk; no more than half of the heap is dead. Neighbours: `group` keeps the chunks of a group in
//! order and decides when one is full.

use std::cmp::Ordering;

use super::aggregate::{Acc, Edge, edge_of, in_order, is_choice};
use super::entry::{Entry, PLACE, Shape, place};
use super::group::Fold;
use super::plan::{Aggregate, Function};

/// Entries of a full chunk; it splits at twice that.
pub const CHUNK: usize = 256;
/// Bytes of long values at which a chunk of several entries is full, too: offsets into the heap have 32 bits.
const HEAP: usize = 1 << 28;

/// A run of entries.
#[derive(Clone, Debug, Default)]
pub struct Chunk {
    /// Names the chunk's row on disk, unique within its group.
    pub id: u64,
    /// Changed since it was written back.
    pub dirty: bool,
    /// The entries, end to end.
    pub words: Vec<u64>,
    /// Their long values, and those of entries that have left.
    pub heap: Vec<u8>,
    /// Bytes of the heap that no entry refers to.
    pub dead: usize,
    /// One accumulator per aggregate that has partials, over all entries.
    pub partial: Option<Box<[Acc]>>,
}

impl Chunk {
    /// Number of entries.
    pub fn len(&self, shape: &Shape) -> usize {
        self.words.len() / shape.stride
    }

    /// The n-th entry.
    pub fn entry(&self, n: usize, shape: &Shape) -> Entry<'_> {
        Entry { words: &self.words[n * shape.stride..(n + 1) * shape.stride], heap: &self.heap }
    }

    /// The last entry.
    pub fn last(&self, shape: &Shape) -> Option<Entry<'_>> {
        let n = self.len(shape);
        (n > 0).then(|| self.entry(n - 1, shape))
    }

    /// Index of the first entry for which `before` is false; entries are partitioned by it.
    pub fn partition_point(&self, shape: &Shape, mut before: impl FnMut(Entry<'_>) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len(shape));
        while low < high {
            let middle = (low + high) / 2;
            if before(self.entry(middle, shape)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Is it so large that what follows belongs into another?
    pub fn is_full(&self, shape: &Shape) -> bool {
        self.len(shape) >= CHUNK || self.heap.len() >= HEAP
    }

    /// Is it so large that it must be cut?
    pub fn is_too_full(&self, shape: &Shape) -> bool {
        self.len(shape) >= 2 * CHUNK || self.heap.len() >= 2 * HEAP && self.len(shape) > 1
    }

    /// Changes how often a row is there, and says how often it was and is. A row that is there no more leaves.
    ///
    /// # Panics
    /// If one row is there more than 2^31 times: an entry cannot count so far.
    pub fn change(&mut self, entry: &Entry<'_>, times: i32, fold: &Fold) -> (i32, i32) {
        let shape = &fold.shape;
        self.dirty = true;
        let after = self.last(shape).is_none_or(|last| last.compare(entry, shape) == Ordering::Less);
        let at = if after {
            self.len(shape)
        } else {
            self.partition_point(shape, |e| e.compare(entry, shape) == Ordering::Less)
        };
        let there = (!after).then(|| self.entry(at, shape)).filter(|e| e.compare(entry, shape) == Ordering::Equal);
        let found = there.map(|e| (e.multiplicity(), e.heap_bytes(shape)));
        let was = found.map_or(0, |(times, _)| times);
        let now = was.checked_add(times).expect("a row is there fewer than 2^31 times");
        self.keep_partial(entry, times, (was, now), fold);

        let word = at * shape.stride;
        match (found, now) {
            (Some((_, long)), 0) => {
                self.words.drain(word..word + shape.stride);
                self.dead += long;
                self.compact(shape);
            }
            (Some(_), _) => self.words[word + PLACE] = place(entry.origin(), now),
            (None, _) => {
                let mut copy = entry.words[..shape.stride].to_vec();
                copy[PLACE] = place(entry.origin(), times);
                entry.move_bytes(shape, &mut copy, &mut self.heap);
                if after {
                    self.words.extend_from_slice(&copy);
                } else {
                    self.words.splice(word..word, copy);
                }
            }
        }
        (was, now)
    }

    /// Lets the partial see a change where it can; else there is none until it is asked for.
    fn keep_partial(&mut self, entry: &Entry<'_>, times: i32, (was, now): (i32, i32), fold: &Fold) {
        let Some(partial) = &mut self.partial else { return };
        // What cannot be undone sees how often a row is there more, and must be worked out again where it is there less.
        let more = i64::from(now.max(0)) - i64::from(was.max(0));
        for (acc, &a) in partial.iter_mut().zip(&fold.partials) {
            let aggregate = &fold.plan.aggregates[a];
            if acc.is_subtractable() {
                acc.see(entry, times.into(), aggregate, &fold.plan, &fold.shape);
            } else if more < 0 {
                self.partial = None;
                return;
            } else if more > 0 {
                acc.see(entry, more, aggregate, &fold.plan, &fold.shape);
            }
        }
    }

    /// Writes the heap anew if half of it is dead.
    fn compact(&mut self, shape: &Shape) {
        assert!(self.dead <= self.heap.len(), "no more is dead than there is");
        if self.dead > 0 && 2 * self.dead >= self.heap.len() {
            let partial = self.partial.take();
            self.keep(0, self.len(shape), shape);
            self.partial = partial;
        }
    }

    /// Takes the entries from `at` on into a chunk of their own.
    pub fn split_off(&mut self, at: usize, shape: &Shape) -> Chunk {
        let mut tail = Chunk { dirty: true, ..Chunk::default() };
        for n in at..self.len(shape) {
            self.entry(n, shape).append_to(shape, &mut tail.words, &mut tail.heap);
        }
        self.keep(0, at, shape);
        tail
    }

    /// Drops all but the entries `from..to`, and what the heap holds for the others.
    pub fn keep(&mut self, from: usize, to: usize, shape: &Shape) {
        let mut kept = Chunk { id: self.id, dirty: true, ..Chunk::default() };
        kept.words.reserve_exact((to - from) * shape.stride);
        for n in from..to {
            self.entry(n, shape).append_to(shape, &mut kept.words, &mut kept.heap);
        }
        *self = kept;
    }

    /// Lets accumulators see the entries `from..to`.
    pub fn scan(&self, from: usize, to: usize, accs: &mut [(usize, Acc)], fold: &Fold) {
        for (a, acc) in accs.iter_mut() {
            let aggregate = &fold.plan.aggregates[*a];
            if let Acc::Edge(best) = acc {
                let found = self.edge(from, to, aggregate, fold);
                Acc::better_edge(best, found, aggregate.function);
                continue;
            }
            let subtractable = acc.is_subtractable();
            for n in from..to {
                let entry = self.entry(n, &fold.shape);
                let times = i64::from(entry.multiplicity());
                if times > 0 || subtractable {
                    acc.see(&entry, times, aggregate, &fold.plan, &fold.shape);
                }
            }
        }
    }

    /// What `first_value` or `last_value` chooses among the entries `from..to`.
    ///
    /// Without an order of its own that is the first or last row that counts, so rows are asked from that end on.
    pub fn edge(&self, from: usize, to: usize, aggregate: &Aggregate, fold: &Fold) -> Option<Edge> {
        let (shape, last) = (&fold.shape, aggregate.function == Function::Last);
        let mut best: Option<Entry<'_>> = None;
        for n in 0..to.saturating_sub(from) {
            let entry = self.entry(if last { to - 1 - n } else { from + n }, shape);
            // Rows of one place differ in what they were joined with: the value decides.
            if let (Some(best), None) = (&best, aggregate.order)
                && best.place() != entry.place()
            {
                break;
            }
            if entry.multiplicity() <= 0 || !is_choice(&entry, aggregate, &fold.plan) {
                continue;
            }
            let better = if last { Ordering::Greater } else { Ordering::Less };
            if best.as_ref().is_none_or(|best| in_order(&entry, best, aggregate, shape) == better) {
                best = Some(entry);
            }
        }
        best.map(|entry| edge_of(&entry, aggregate, shape))
    }

    /// Computes the partial if there is none.
    pub fn summarise(&mut self, fold: &Fold) {
        if self.partial.is_none() {
            let empty = |a: usize| (a, Acc::empty(&fold.plan, &fold.plan.aggregates[a]));
            let mut accs: Vec<_> = fold.partials.iter().copied().map(empty).collect();
            self.scan(0, self.len(&fold.shape), &mut accs, fold);
            self.partial = Some(accs.into_iter().map(|(_, acc)| acc).collect());
        }
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        let partial =
            self.partial.iter().flat_map(|p| p.iter()).map(|acc| size_of::<Acc>() + acc.heap_bytes()).sum::<usize>();
        size_of::<Chunk>() + self.words.capacity() * 8 + self.heap.capacity() + partial
    }
}
