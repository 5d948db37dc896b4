//! When each value was last there: counts the distinct values of any window that ends now without looking at its rows.
//!
//! A value is in a window that reaches back to `since` exactly if it was last there after `since`. Kept for groups too
//! large to be scanned at every read.
//!
//! Invariants: follows from the group's entries, so it is never stored; times are tiled event times. Neighbours: `group`
//! keeps one per counted value and filter, and says what came and went.

use rustc_hash::FxHashMap;

use super::aggregate::Held;
use super::chunk::Chunk;
use super::entry::Entry;
use super::group::Fold;
use super::sketch::{Sketch, hash};

/// Which rows are looked at, and which of their values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The value.
    pub value: usize,
    /// The filter bit that must be set.
    pub filter: Option<usize>,
}

impl Counted {
    /// The value of an entry that is counted; none where it is null or filtered out.
    fn held(self, entry: &Entry<'_>, fold: &Fold) -> Option<Held> {
        let filtered = self.filter.is_some_and(|f| !entry.bit(fold.plan.values.len() + f));
        (!filtered && !entry.is_null(self.value)).then(|| Held::of(entry, self.value, &fold.shape, true))
    }
}

/// The last time of each value.
#[derive(Clone, Debug)]
pub struct Latest {
    counted: Counted,
    times_of: FxHashMap<Held, i64>,
    times: Times,
}

impl Latest {
    /// Of these entries.
    pub fn of(counted: Counted, chunks: &[Chunk], fold: &Fold) -> Latest {
        let mut latest = Latest { counted, times_of: FxHashMap::default(), times: Times::default() };
        for chunk in chunks {
            for n in 0..chunk.len(&fold.shape) {
                let entry = chunk.entry(n, &fold.shape);
                if entry.multiplicity() > 0 {
                    latest.came(&entry, fold);
                }
            }
        }
        latest
    }

    /// Which values of which rows.
    pub fn counted(&self) -> Counted {
        self.counted
    }

    /// A row that was not there is.
    pub fn came(&mut self, entry: &Entry<'_>, fold: &Fold) {
        let Some(held) = self.counted.held(entry, fold) else { return };
        let time = fold.plan.tile(entry.event_time());
        match self.times_of.get_mut(&held) {
            Some(last) if *last >= time => return,
            Some(last) => self.times.remove(std::mem::replace(last, time)),
            None => {
                self.times_of.insert(held, time);
            }
        }
        self.times.insert(time);
    }

    /// A row that was there is not, because it was taken back; `chunks`: those that are left, in order.
    pub fn taken_back(&mut self, entry: &Entry<'_>, chunks: &[Chunk], fold: &Fold) {
        let Some(held) = self.counted.held(entry, fold) else { return };
        let time = fold.plan.tile(entry.event_time());
        if self.times_of.get(&held) != Some(&time) {
            return;
        }
        // It was the last of its value, or one of them: what is left of the value is not after its tile.
        let first = |c: &Chunk| (c.len(&fold.shape) > 0).then(|| fold.plan.tile(c.entry(0, &fold.shape).event_time()));
        let end = chunks.partition_point(|c| first(c).is_none_or(|t| t <= time));
        let same = |e: &Entry<'_>| e.multiplicity() > 0 && self.counted.held(e, fold).as_ref() == Some(&held);
        let before = chunks[..end]
            .iter()
            .rev()
            .find_map(|chunk| (0..chunk.len(&fold.shape)).rev().map(|n| chunk.entry(n, &fold.shape)).find(same));
        self.times.remove(time);
        match before {
            Some(before) => {
                let before = fold.plan.tile(before.event_time());
                self.times.insert(before);
                self.times_of.insert(held, before);
            }
            None => {
                self.times_of.remove(&held);
            }
        }
    }

    /// The oldest rows leave.
    pub fn retired(&mut self, chunk: &Chunk, fold: &Fold) {
        for n in 0..chunk.len(&fold.shape) {
            let entry = chunk.entry(n, &fold.shape);
            let Some(held) = self.counted.held(&entry, fold) else { continue };
            let time = fold.plan.tile(entry.event_time());
            if self.times_of.get(&held) == Some(&time) {
                self.times_of.remove(&held);
                self.times.remove(time);
            }
        }
    }

    /// How many values were last there after this instant.
    pub fn after(&self, instant: i64) -> usize {
        self.times.after(instant)
    }

    /// Of the values that were last there after this instant.
    pub fn sketch_after(&self, instant: i64) -> Sketch {
        let mut sketch = Sketch::default();
        #[expect(clippy::iter_over_hash_type, reason = "a sketch follows from the set")]
        for (held, last) in &self.times_of {
            if *last > instant {
                sketch.see(hash(held));
            }
        }
        sketch
    }

    /// Bytes of memory, without long values.
    pub fn memory(&self) -> usize {
        self.times_of.capacity() * (size_of::<Held>() + 9) + self.times.len * 8
    }
}

/// Times of a run; one that reaches twice that is cut in half.
const RUN: usize = 512;

/// Instants in order, each as often as it was put in.
#[derive(Clone, Debug, Default)]
struct Times {
    /// None is empty.
    runs: Vec<Vec<i64>>,
    len: usize,
}

impl Times {
    fn insert(&mut self, time: i64) {
        self.len += 1;
        let at = self.runs.partition_point(|r| r.last().is_some_and(|last| *last < time));
        let at = at.min(self.runs.len().saturating_sub(1));
        let Some(run) = self.runs.get_mut(at) else {
            self.runs.push(vec![time]);
            return;
        };
        run.insert(run.partition_point(|t| *t < time), time);
        if run.len() >= 2 * RUN {
            let tail = run.split_off(RUN);
            self.runs.insert(at + 1, tail);
        }
    }

    fn remove(&mut self, time: i64) {
        let at = self.runs.partition_point(|r| r.last().is_some_and(|last| *last < time));
        let Some(run) = self.runs.get_mut(at) else { return };
        let Ok(n) = run.binary_search(&time) else { return };
        run.remove(n);
        self.len -= 1;
        if run.is_empty() {
            self.runs.remove(at);
        }
    }

    fn after(&self, instant: i64) -> usize {
        let at = self.runs.partition_point(|r| r.last().is_some_and(|last| *last <= instant));
        let Some(run) = self.runs.get(at) else { return 0 };
        run.len() - run.partition_point(|t| *t <= instant) + self.runs[at + 1..].iter().map(Vec::len).sum::<usize>()
    }
}
