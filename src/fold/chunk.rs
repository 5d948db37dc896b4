//! A run of entries in order, with what aggregates over windows make of all of them.
//!
//! Invariants: entries are sorted by [`Entry::compare`] and distinct by it; a partial, where there is one, is over exactly
//! the entries of the chunk. Neighbours: `group` keeps the chunks of a group in order and decides when one is full.

use std::cmp::Ordering;

use super::aggregate::Acc;
use super::entry::{Entry, PLACE, Shape, place};
use crate::fold::plan::FoldPlan;

/// Entries of a full chunk; it splits at twice that.
pub const CHUNK: usize = 256;

/// A run of entries.
#[derive(Clone, Debug, Default)]
pub struct Chunk {
    /// Names the chunk's row on disk, unique within its group.
    pub id: u64,
    /// Changed since it was written back.
    pub dirty: bool,
    /// The entries, end to end.
    pub words: Vec<u64>,
    /// Their long values (and those of entries since removed).
    pub heap: Vec<u8>,
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

    /// Changes how often a row is there, and says how often it was and is. A row that is there no more leaves.
    pub fn change(&mut self, entry: &Entry<'_>, times: i32, shape: &Shape) -> (i32, i32) {
        self.dirty = true;
        self.partial = None;
        let after = self.last(shape).is_none_or(|last| last.compare(entry, shape) == Ordering::Less);
        let at = if after {
            self.len(shape)
        } else {
            self.partition_point(shape, |e| e.compare(entry, shape) == Ordering::Less)
        };
        let word = at * shape.stride;
        if !after && self.entry(at, shape).compare(entry, shape) == Ordering::Equal {
            let there = self.entry(at, shape);
            let was = there.multiplicity();
            let now = was.wrapping_add(times);
            let partition = there.partition();
            if now == 0 {
                self.words.drain(word..word + shape.stride);
            } else {
                self.words[word + PLACE] = place(partition, now);
            }
            return (was, now);
        }
        let mut copy = entry.words[..shape.stride].to_vec();
        copy[PLACE] = place(entry.partition(), times);
        entry.move_bytes(shape, &mut copy, &mut self.heap);
        if after {
            self.words.extend_from_slice(&copy);
        } else {
            self.words.splice(word..word, copy);
        }
        (0, times)
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
    pub fn scan(&self, from: usize, to: usize, accs: &mut [(usize, Acc)], plan: &FoldPlan, shape: &Shape) {
        for n in from..to {
            let entry = self.entry(n, shape);
            let times = i64::from(entry.multiplicity());
            for (aggregate, acc) in accs.iter_mut() {
                let subtractable = !matches!(acc, Acc::Distinct(_) | Acc::Extreme(_) | Acc::Edge(_));
                if times > 0 || subtractable {
                    acc.see(&entry, times, &plan.aggregates[*aggregate], plan, shape);
                }
            }
        }
    }

    /// Computes the partial if there is none.
    pub fn summarise(&mut self, aggregates: &[usize], plan: &FoldPlan, shape: &Shape) {
        if self.partial.is_none() {
            let mut accs: Vec<_> = aggregates.iter().map(|&a| (a, Acc::empty(plan, &plan.aggregates[a]))).collect();
            self.scan(0, self.len(shape), &mut accs, plan, shape);
            self.partial = Some(accs.into_iter().map(|(_, acc)| acc).collect());
        }
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        let partial = self.partial.as_ref().map_or(0, |p| p.len() * size_of::<Acc>());
        size_of::<Chunk>() + self.words.capacity() * 8 + self.heap.capacity() + partial
    }
}
