//! A group's state: entries of its bounded windows, and totals of the others.
//!
//! An update is *due* at the later of its event time and the instant from which it counts. Due updates are absorbed:
//! into the entries if some window has a lower bound, and into the totals of aggregates that have none. Others wait.
//! An answer combines, per window, the partials of the chunks that lie inside it with the single entries at its edges;
//! runs of [`BLOCK`] chunks have a partial of their own, so that a window over a million rows reads some hundreds of
//! values. Distinct values cannot be combined so cheaply: large groups keep, per value, when it was last there.
//!
//! Invariants: an answer at `t` is possible for `floor() <= t`; absorbing is commutative. Neighbours: `evaluate` answers,
//! `state::page` adds commits, `offline::point_in_time` moves a group along its labels.

use super::aggregate::Acc;
use super::chunk::{CHUNK, Chunk};
use super::entry::{Entry, PLACE, Shape, Update, place};
use super::latest::{Counted, Latest};
use super::total::Total;
use crate::fold::plan::{Aggregate, FoldPlan, Function, Window};

/// Chunks with one partial over all of them.
pub(super) const BLOCK: usize = 32;
/// A group with more chunks is too large to be scanned for distinct values at every read.
const SCANNED: usize = 2;
/// A chunk of fewer entries is scanned as fast as its partial is found.
const SMALL: usize = 64;
/// Updates that wait are put in order when so many have come, and again when there are twice as many.
const UNSETTLED: usize = 64;

/// A fold plan with what follows from it: shared by all groups of a view.
#[derive(Clone, Debug)]
pub struct Fold {
    /// The plan.
    pub plan: FoldPlan,
    /// Where values lie in entries.
    pub shape: Shape,
    /// Aggregates with a lower bound and partials, by index.
    pub partials: Vec<usize>,
    /// Aggregates without, by index.
    pub unbounded: Vec<usize>,
    /// Age at which entries are wanted no more.
    pub horizon: Option<i64>,
    /// Aggregates with partials of each distinct window: (window, [(index among `partials`, aggregate)]).
    pub(super) windows: Vec<(Window, Vec<(usize, usize)>)>,
    /// What large groups keep the last times of.
    counted: Vec<Counted>,
    /// Distinct values of windows that end now: (aggregate, index among `counted`, age at which a row leaves).
    pub(super) distinct: Vec<(usize, usize, i64)>,
    /// Aggregates that walk over the rows of their window, which have no partials.
    pub(super) walks: Vec<usize>,
}

impl Fold {
    /// Works out what follows from a plan.
    pub fn new(plan: FoldPlan) -> Fold {
        let (bounded, unbounded): (Vec<usize>, Vec<usize>) =
            (0..plan.aggregates.len()).partition(|a| plan.aggregates[*a].window.until.is_some());
        let (mut partials, mut counted, mut distinct, mut walks) = (vec![], vec![], vec![], vec![]);
        for a in bounded {
            let Aggregate { function, value, filter, window, .. } = plan.aggregates[a];
            match (function, value, window) {
                (
                    Function::CountDistinct | Function::ApproxDistinct,
                    Some(value),
                    Window { from: 0, until: Some(until) },
                ) => {
                    let this = Counted { value, filter };
                    let at = counted.iter().position(|c| *c == this).unwrap_or(counted.len());
                    if at == counted.len() {
                        counted.push(this);
                    }
                    distinct.push((a, at, until));
                }
                _ if plan.aggregates[a].walks() => walks.push(a),
                _ => partials.push(a),
            }
        }
        let mut windows: Vec<(Window, Vec<(usize, usize)>)> = vec![];
        for (n, &a) in partials.iter().enumerate() {
            let window = plan.aggregates[a].window;
            match windows.iter_mut().find(|(w, _)| *w == window) {
                Some((_, members)) => members.push((n, a)),
                None => windows.push((window, vec![(n, a)])),
            }
        }
        let (shape, horizon) = (Shape::of(&plan), plan.horizon());
        Fold { plan, shape, partials, unbounded, horizon, windows, counted, distinct, walks }
    }
}

/// An update that is not due yet.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// When it will be.
    pub due: i64,
    /// See [`super::entry::CLOSING`].
    pub closing: bool,
    /// The entry; its multiplicity is the diff.
    pub words: Box<[u64]>,
    /// Its long values.
    pub heap: Box<[u8]>,
}

impl Waiting {
    /// The entry.
    pub fn entry(&self) -> Entry<'_> {
        Entry { words: &self.words, heap: &self.heap }
    }
}

/// A group's state.
#[derive(Clone, Debug)]
pub struct Group {
    pub(super) chunks: Vec<Chunk>,
    pub(super) blocks: Vec<Option<Box<[Acc]>>>,
    /// One per [`Fold::counted`] if the group is large, else none.
    pub(super) latest: Vec<Latest>,
    pub(super) totals: Box<[Total]>,
    pub(super) waiting: Vec<Waiting>,
    /// (due, event time) of rows that came and are not due yet, of an input that retracts; also of those that were taken
    /// back since, for that does not lower an answer's event time. By due, and only those later in event time than all
    /// that are due before them.
    pub(super) announced: Vec<(i64, i64)>,
    /// At how many updates that wait they are settled next.
    settle_at: usize,
    pub(super) header: Header,
    /// Some partial may be missing.
    stale: bool,
}

/// The part of a group that outlives its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Rows that are there, of any age.
    pub rows: i64,
    /// Rows that `WHERE` admitted at some instant.
    pub ever: i64,
    /// Greatest event time inserted; `i64::MIN` without one.
    pub newest: i64,
    /// All updates due up to here are in; an answer cannot be about an earlier instant.
    pub absorbed: i64,
    /// Entries that no window wants from here on are gone; likewise.
    pub retired: i64,
    /// Name of the next chunk.
    pub next_chunk: u64,
}

impl Group {
    /// A group without rows.
    pub fn new(fold: &Fold) -> Group {
        let totals = fold.unbounded.iter().map(|&a| Total::empty(&fold.plan, &fold.plan.aggregates[a])).collect();
        Group::from_parts(
            vec![],
            totals,
            vec![],
            vec![],
            Header { rows: 0, ever: 0, newest: i64::MIN, absorbed: i64::MIN, retired: i64::MIN, next_chunk: 0 },
        )
    }

    pub(super) fn from_parts(
        chunks: Vec<Chunk>,
        totals: Box<[Total]>,
        waiting: Vec<Waiting>,
        announced: Vec<(i64, i64)>,
        header: Header,
    ) -> Group {
        let settle_at = UNSETTLED.max(2 * waiting.len());
        Group { chunks, blocks: vec![], latest: vec![], totals, waiting, announced, settle_at, header, stale: true }
    }

    /// The earliest instant it can answer for.
    pub fn floor(&self) -> i64 {
        self.header.absorbed.max(self.header.retired)
    }

    /// Takes an update; `now`: an instant that no later answer will precede.
    pub fn apply(&mut self, update: &Update<'_>, now: i64, fold: &Fold) {
        let due = update.counts_from;
        if due <= now {
            self.absorb(&update.entry, due, update.closing, fold);
            return;
        }
        if fold.plan.retracts && !update.closing && update.entry.multiplicity() > 0 {
            self.announce(due, update.entry.event_time());
        }
        let (mut words, mut heap) = (vec![], vec![]);
        update.entry.append_to(&fold.shape, &mut words, &mut heap);
        self.waiting.push(Waiting { due, closing: update.closing, words: words.into(), heap: heap.into() });
        // A table that changes again and again takes back what it has announced.
        if self.waiting.len() >= self.settle_at {
            settle(&mut self.waiting, fold);
            self.settle_at = UNSETTLED.max(2 * self.waiting.len());
        }
    }

    /// Remembers when an answer's event time will be how great at least.
    fn announce(&mut self, due: i64, event_time: i64) {
        let at = self.announced.partition_point(|(d, _)| *d <= due);
        if at > 0 && self.announced[at - 1].1 >= event_time {
            return;
        }
        let from = self.announced[..at].partition_point(|(d, _)| *d < due);
        let to = at + self.announced[at..].partition_point(|(_, t)| *t <= event_time);
        self.announced.splice(from..to, [(due, event_time)]);
    }

    /// Absorbs what is due at `now`. Afterwards no answer can be about an instant before the last of it.
    pub fn advance(&mut self, now: i64, fold: &Fold) {
        if self.waiting.iter().any(|w| w.due <= now) {
            let (due, rest) = std::mem::take(&mut self.waiting).into_iter().partition(|w| w.due <= now);
            self.waiting = rest;
            let due: Vec<Waiting> = due;
            for w in due {
                self.absorb(&w.entry(), w.due, w.closing, fold);
            }
        }
        let due = self.announced.partition_point(|(due, _)| *due <= now);
        if let Some((due, event_time)) = self.announced.drain(..due).next_back() {
            self.header.absorbed = self.header.absorbed.max(due);
            self.header.newest = self.header.newest.max(event_time);
        }
        self.refresh(fold);
    }

    fn absorb(&mut self, entry: &Entry<'_>, due: i64, closing: bool, fold: &Fold) {
        let (event_time, diff) = (entry.event_time(), entry.multiplicity());
        let header = &mut self.header;
        header.absorbed = header.absorbed.max(due);
        header.rows += i64::from(diff);
        if diff > 0 {
            header.newest = header.newest.max(event_time);
        }
        // A row was admitted at some instant if it comes before it is too old, and stays until it is old enough: a closing
        // before that takes back what was counted when it came, a later one does not.
        let age = due.saturating_sub(fold.plan.tile(event_time));
        let admit = fold.plan.admit;
        if if closing { age <= admit.from } else { admit.until.is_none_or(|until| age < until) } {
            header.ever += i64::from(diff);
        }
        for (total, &a) in self.totals.iter_mut().zip(&fold.unbounded) {
            total.see(entry, i64::from(diff), &fold.plan.aggregates[a], &fold.plan, &fold.shape);
        }
        if let Some(horizon) = fold.horizon
            && fold.plan.tile(event_time).saturating_add(horizon) > self.header.retired
        {
            self.place(entry, diff, fold);
        }
    }

    /// Puts an entry where it belongs.
    fn place(&mut self, entry: &Entry<'_>, diff: i32, fold: &Fold) {
        let shape = &fold.shape;
        let after_all =
            self.chunks.last().and_then(|c| c.last(shape)).is_none_or(|last| last.compare(entry, shape).is_lt());
        if after_all {
            if self.chunks.last().is_none_or(|c| c.is_full(shape)) {
                if let Some(full) = self.chunks.last_mut() {
                    full.summarise(fold);
                    full.words.shrink_to_fit();
                    full.heap.shrink_to_fit();
                }
                self.push_chunk(self.chunks.len(), Chunk::default());
                self.stale = true;
            }
            if let Some(last) = self.chunks.last_mut() {
                let change = last.change(entry, diff, fold);
                self.note(entry, change, fold);
            }
            return;
        }
        // The last chunk that starts at or before the entry; the first if none does.
        let after =
            self.chunks.partition_point(|c| c.len(shape) == 0 || !c.entry(0, shape).compare(entry, shape).is_gt());
        let at = after.saturating_sub(1);
        self.forget_block(at);
        self.stale = true;
        let change = self.chunks[at].change(entry, diff, fold);
        self.note(entry, change, fold);
        let n = self.chunks[at].len(shape);
        if n == 0 {
            self.chunks.remove(at);
            self.blocks.truncate(at / BLOCK);
        } else if self.chunks[at].is_too_full(shape) {
            let tail = self.chunks[at].split_off(n / 2, shape);
            self.push_chunk(at + 1, tail);
            self.blocks.truncate(at / BLOCK);
        }
    }

    /// A row was there so often, and is now so often.
    fn note(&mut self, entry: &Entry<'_>, (was, is): (i32, i32), fold: &Fold) {
        for latest in &mut self.latest {
            match (was > 0, is > 0) {
                (false, true) => latest.came(entry, fold),
                (true, false) => latest.taken_back(entry, &self.chunks, fold),
                _ => {}
            }
        }
    }

    fn push_chunk(&mut self, at: usize, mut chunk: Chunk) {
        chunk.id = self.header.next_chunk;
        self.header.next_chunk += 1;
        self.chunks.insert(at, chunk);
    }

    fn forget_block(&mut self, chunk: usize) {
        if let Some(block) = self.blocks.get_mut(chunk / BLOCK) {
            *block = None;
        }
    }

    /// Computes the partials that answers will combine. Without them an answer is the same, and slower.
    fn refresh(&mut self, fold: &Fold) {
        let full = self.chunks.len().saturating_sub(1);
        if !self.stale || full < 2 {
            return;
        }
        self.stale = false;
        if self.latest.is_empty() && self.chunks.len() > SCANNED {
            self.latest = fold.counted.iter().map(|c| Latest::of(*c, &self.chunks, fold)).collect();
        }
        let blocks = full / BLOCK;
        self.blocks.resize(blocks, None);
        for chunk in &mut self.chunks[..full] {
            chunk.summarise(fold);
        }
        for (n, block) in self.blocks.iter_mut().enumerate().filter(|(_, b)| b.is_none()) {
            let mut accs: Box<[Acc]> =
                fold.partials.iter().map(|&a| Acc::empty(&fold.plan, &fold.plan.aggregates[a])).collect();
            for chunk in &self.chunks[n * BLOCK..(n + 1) * BLOCK] {
                merge_all(&mut accs, chunk.partial.as_deref().unwrap_or_default(), fold);
            }
            *block = Some(accs);
        }
    }

    /// Works out what makes the next reads fast, of a group that is read: also what is in its last chunk.
    pub fn prepare(&mut self, fold: &Fold) {
        if fold.partials.is_empty() {
            return;
        }
        // The full chunks of larger groups have been seen to by `advance`.
        let full = self.chunks.len().saturating_sub(1);
        let unseen = if full < 2 { 0 } else { full };
        for chunk in self.chunks[unseen..].iter_mut().filter(|c| c.len(&fold.shape) >= SMALL) {
            chunk.summarise(fold);
        }
    }

    /// Drops entries that no answer at or after `now` wants; says whether there were any.
    pub fn retire(&mut self, now: i64, fold: &Fold) -> bool {
        let (Some(horizon), shape) = (fold.horizon, &fold.shape) else { return false };
        let mut some = false;
        let dead = |e: Entry<'_>| fold.plan.tile(e.event_time()).saturating_add(horizon) <= now;
        let chunks = self.chunks.iter().take_while(|c| c.last(shape).is_none_or(dead)).count();
        // Whole blocks, so that those which stay keep their places; single chunks while there are no blocks.
        let whole = if self.chunks.len() > 2 * BLOCK { chunks / BLOCK * BLOCK } else { chunks };
        if whole > 0 {
            (self.stale, some) = (true, true);
            for chunk in self.chunks.drain(..whole) {
                self.latest.iter_mut().for_each(|l| l.retired(&chunk, fold));
            }
            self.blocks.drain(..(whole / BLOCK).min(self.blocks.len()));
            if whole % BLOCK != 0 {
                self.blocks.clear();
            }
            self.header.retired = self.header.retired.max(now);
        }
        if self.chunks.len() > SCANNED {
            return some;
        }
        self.latest.clear();
        if let Some(first) = self.chunks.first_mut() {
            let (n, gone) = (first.len(shape), first.partition_point(shape, dead));
            // Copying what stays must be paid for by what goes.
            if gone * 2 >= n && gone > 0 {
                first.keep(gone, n, shape);
                self.header.retired = self.header.retired.max(now);
                some = true;
            }
        }
        some
    }

    /// Is a copy of it so large that one should be avoided?
    pub fn is_large(&self) -> bool {
        self.chunks.len() > BLOCK || self.totals.iter().map(Total::kept).sum::<usize>() > BLOCK * CHUNK
    }

    /// Nothing in it needs to be kept: no entries, nothing waiting, no totals and no history.
    pub fn is_blank(&self) -> bool {
        let nothing_waits = self.waiting.is_empty() && self.announced.is_empty();
        self.chunks.is_empty() && nothing_waits && self.header.newest == i64::MIN && self.header.rows == 0
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        let waiting: usize = self.waiting.iter().map(|w| 64 + w.words.len() * 8 + w.heap.len()).sum();
        let totals: usize = self.totals.iter().map(|t| size_of::<Total>() + t.heap_bytes()).sum();
        let latest: usize = self.latest.iter().map(Latest::memory).sum();
        size_of::<Group>()
            + self.chunks.iter().map(Chunk::memory).sum::<usize>()
            + totals
            + waiting
            + latest
            + 16 * self.announced.len()
    }
}

/// Puts updates that wait in order, and equal ones together: what is announced and taken back is gone.
pub(super) fn settle(waiting: &mut Vec<Waiting>, fold: &Fold) {
    let order = |a: &Waiting, b: &Waiting| {
        let by_due = (a.due, a.closing).cmp(&(b.due, b.closing));
        by_due.then_with(|| a.entry().compare(&b.entry(), &fold.shape))
    };
    waiting.sort_by(order);
    waiting.dedup_by(|b, a| {
        let equal = order(a, b).is_eq();
        if equal {
            let times = a.entry().multiplicity().checked_add(b.entry().multiplicity());
            a.words[PLACE] = place(a.entry().origin(), times.expect("a row is there fewer than 2^31 times"));
        }
        equal
    });
    waiting.retain(|w| w.entry().multiplicity() != 0);
}

fn merge_all(accs: &mut [Acc], partials: &[Acc], fold: &Fold) {
    for ((acc, partial), &a) in accs.iter_mut().zip(partials).zip(&fold.partials) {
        acc.merge(partial, fold.plan.aggregates[a].function);
    }
}
