//! A group's state: entries of its bounded windows, totals of the others, and the answer at an instant.
//!
//! An update is *due* at the later of its event time and the instant from which it counts. Due updates are absorbed:
//! into the entries if some window has a lower bound, and into the totals of aggregates that have none. Others wait.
//! An answer combines, per window, the partials of the chunks that lie inside it with the single entries at its edges;
//! runs of [`BLOCK`] chunks have a partial of their own, so that a window over a million rows reads some hundreds of
//! values. Distinct values cannot be combined so cheaply: large groups keep, per value, when it was last there.
//!
//! Invariants: an answer at `t` is possible for `floor() <= t` and does not change the group; absorbing is commutative.
//! Neighbours: `state::page` adds commits to it, `offline::point_in_time` moves it along a group's labels.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;

use super::aggregate::{Acc, Total};
use super::chunk::{CHUNK, Chunk};
use super::entry::{Entry, Shape, Update};
use super::latest::{Counted, Latest};
use crate::fold::plan::{Aggregate, FoldPlan, Function, Window};

/// Chunks with one partial over all of them.
const BLOCK: usize = 32;
/// A group with more chunks is too large to be scanned for distinct values at every read.
const SCANNED: usize = 2;

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
    windows: Vec<(Window, Vec<(usize, usize)>)>,
    /// What large groups keep the last times of.
    counted: Vec<Counted>,
    /// Distinct values of windows that end now: (aggregate, index among `counted`, age at which a row leaves).
    distinct: Vec<(usize, usize, i64)>,
}

impl Fold {
    /// Works out what follows from a plan.
    pub fn new(plan: FoldPlan) -> Fold {
        let (bounded, unbounded): (Vec<usize>, Vec<usize>) =
            (0..plan.aggregates.len()).partition(|a| plan.aggregates[*a].window.until.is_some());
        let (mut partials, mut counted, mut distinct) = (vec![], vec![], vec![]);
        for a in bounded {
            let Aggregate { function, value, filter, window, .. } = plan.aggregates[a];
            match (function, value, window) {
                (Function::CountDistinct, Some(value), Window { from: 0, until: Some(until) }) => {
                    let this = Counted { value, filter };
                    let at = counted.iter().position(|c| *c == this).unwrap_or(counted.len());
                    if at == counted.len() {
                        counted.push(this);
                    }
                    distinct.push((a, at, until));
                }
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
        Fold { plan, shape, partials, unbounded, horizon, windows, counted, distinct }
    }
}

/// What a group answers at an instant.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Is there a row?
    pub status: Status,
    /// The greatest event time among the group's insertions so far; `None` without one.
    pub event_time: Option<i64>,
    /// One value per aggregate.
    pub values: Vec<ScalarValue>,
}

/// Whether an entity has a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// `WHERE` admits a row.
    Present,
    /// It did at an earlier instant.
    Expired,
    /// It never did.
    Absent,
}

impl Status {
    /// As the protocols say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Present => "present",
            Status::Expired => "expired",
            Status::Absent => "absent",
        }
    }
}

impl Evaluation {
    /// The query over no rows.
    pub fn of_nothing(fold: &Fold) -> Evaluation {
        let plan = &fold.plan;
        let values = plan.aggregates.iter().map(|a| Acc::empty(plan, a).finish(a, plan)).collect();
        Evaluation { status: Status::Absent, event_time: None, values }
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

/// A group's state.
#[derive(Clone, Debug)]
pub struct Group {
    pub(super) chunks: Vec<Chunk>,
    blocks: Vec<Option<Box<[Acc]>>>,
    /// One per [`Fold::counted`] if the group is large, else none.
    latest: Vec<Latest>,
    pub(super) totals: Box<[Total]>,
    pub(super) waiting: Vec<Waiting>,
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
            Header { rows: 0, ever: 0, newest: i64::MIN, absorbed: i64::MIN, retired: i64::MIN, next_chunk: 0 },
        )
    }

    pub(super) fn from_parts(chunks: Vec<Chunk>, totals: Box<[Total]>, waiting: Vec<Waiting>, header: Header) -> Group {
        Group { chunks, blocks: vec![], latest: vec![], totals, waiting, header, stale: true }
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
        let (mut words, mut heap) = (vec![], vec![]);
        update.entry.append_to(&fold.shape, &mut words, &mut heap);
        self.waiting.push(Waiting { due, closing: update.closing, words: words.into(), heap: heap.into() });
    }

    /// Absorbs what is due at `now`. Afterwards no answer can be about an instant before the last of it.
    pub fn advance(&mut self, now: i64, fold: &Fold) {
        if self.waiting.iter().any(|w| w.due <= now) {
            let (due, rest) = std::mem::take(&mut self.waiting).into_iter().partition(|w| w.due <= now);
            self.waiting = rest;
            let due: Vec<Waiting> = due;
            for w in due {
                self.absorb(&Entry { words: &w.words, heap: &w.heap }, w.due, w.closing, fold);
            }
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
        let age = due.saturating_sub(fold.plan.tile(event_time));
        if !closing && fold.plan.admit.until.is_none_or(|until| age < until) {
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
            if self.chunks.last().is_none_or(|c| c.len(shape) >= CHUNK) {
                if let Some(full) = self.chunks.last_mut() {
                    full.summarise(&fold.partials, &fold.plan, shape);
                    full.words.shrink_to_fit();
                    full.heap.shrink_to_fit();
                }
                self.push_chunk(self.chunks.len(), Chunk::default());
                self.stale = true;
            }
            if let Some(last) = self.chunks.last_mut() {
                let change = last.change(entry, diff, shape);
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
        let change = self.chunks[at].change(entry, diff, shape);
        self.note(entry, change, fold);
        match self.chunks[at].len(shape) {
            0 => {
                self.chunks.remove(at);
                self.blocks.truncate(at / BLOCK);
            }
            n if n >= 2 * CHUNK => {
                let tail = self.chunks[at].split_off(n / 2, shape);
                self.push_chunk(at + 1, tail);
                self.blocks.truncate(at / BLOCK);
            }
            _ => {}
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
            chunk.summarise(&fold.partials, &fold.plan, &fold.shape);
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

    /// The answer at `now`, over all updates taken. `advance(now)` comes first.
    pub fn evaluate(&self, now: i64, fold: &Fold) -> Evaluation {
        debug_assert!(self.floor() <= now, "what this answer needs is gone or not yet known");
        let plan = &fold.plan;
        let mut values: Vec<ScalarValue> = plan.aggregates.iter().map(|a| null_of(&a.result)).collect();
        for (total, &a) in self.totals.iter().zip(&fold.unbounded) {
            values[a] = total.finish(&plan.aggregates[a], plan);
        }
        for (window, members) in &fold.windows {
            let mut accs: Vec<(usize, Acc)> =
                members.iter().map(|&(_, a)| (a, Acc::empty(plan, &plan.aggregates[a]))).collect();
            self.combine(*window, now, members, &mut accs, fold);
            for (a, acc) in &accs {
                values[*a] = finish(acc, &plan.aggregates[*a], plan);
            }
        }
        for &(a, counted, until) in &fold.distinct {
            let n = match self.latest.get(counted) {
                Some(latest) => Acc::Count(i64::try_from(latest.after(now.saturating_sub(until))).unwrap_or(i64::MAX)),
                None => self.scan_distinct(a, now, fold),
            };
            values[a] = finish(&n, &plan.aggregates[a], plan);
        }
        let status = match (self.admits(now, fold), plan.admit.until) {
            (true, _) => Status::Present,
            (false, Some(_)) if self.header.ever > self.too_young(now, fold) => Status::Expired,
            (false, _) => Status::Absent,
        };
        let event_time = (self.header.newest != i64::MIN).then_some(self.header.newest);
        Evaluation { status, event_time, values }
    }

    /// The distinct values of a small group's window.
    fn scan_distinct(&self, a: usize, now: i64, fold: &Fold) -> Acc {
        let plan = &fold.plan;
        let mut seen = [(a, Acc::empty(plan, &plan.aggregates[a]))];
        let (mut at, to) = self.range(plan.aggregates[a].window, now, fold);
        while at < to {
            let end = if at.0 == to.0 { to.1 } else { self.chunks[at.0].len(&fold.shape) };
            self.chunks[at.0].scan(at.1, end, &mut seen, plan, &fold.shape);
            at = (at.0 + 1, 0);
        }
        let [(_, seen)] = seen;
        seen
    }

    /// Rows that `WHERE` will admit, but has not yet.
    fn too_young(&self, now: i64, fold: &Fold) -> i64 {
        let age = fold.plan.admit.from;
        let (mut at, to) = self.range(Window { from: 0, until: Some(age) }, now, fold);
        let mut rows = 0;
        while age > 0 && at < to {
            let chunk = &self.chunks[at.0];
            let end = if at.0 == to.0 { to.1 } else { chunk.len(&fold.shape) };
            rows += (at.1..end).map(|n| i64::from(chunk.entry(n, &fold.shape).multiplicity())).sum::<i64>();
            at = (at.0 + 1, 0);
        }
        rows
    }

    /// Does `WHERE` admit a row now?
    fn admits(&self, now: i64, fold: &Fold) -> bool {
        let window = fold.plan.admit;
        if window == Window::ALL {
            return self.header.rows > 0;
        }
        let (from, to) = self.range(window, now, fold);
        let mut at = from;
        while at < to {
            let chunk = &self.chunks[at.0];
            let end = if at.0 == to.0 { to.1 } else { chunk.len(&fold.shape) };
            if (at.1..end).any(|n| chunk.entry(n, &fold.shape).multiplicity() > 0) {
                return true;
            }
            at = (at.0 + 1, 0);
        }
        false
    }

    /// The positions (chunk, entry) between which a window's entries lie.
    fn range(&self, window: Window, now: i64, fold: &Fold) -> ((usize, usize), (usize, usize)) {
        let shape = &fold.shape;
        let find = |before: &dyn Fn(Entry<'_>) -> bool| {
            let chunk = self.chunks.partition_point(|c| c.last(shape).is_none_or(before));
            let entry = self.chunks.get(chunk).map_or(0, |c| c.partition_point(shape, before));
            (chunk, entry)
        };
        let age = |e: Entry<'_>| now.saturating_sub(fold.plan.tile(e.event_time()));
        let from = match window.until {
            Some(until) => find(&|e| age(e) >= until),
            None => (0, 0),
        };
        (from, find(&|e| age(e) >= window.from))
    }

    fn combine(&self, window: Window, now: i64, members: &[(usize, usize)], accs: &mut [(usize, Acc)], fold: &Fold) {
        let (mut at, to) = self.range(window, now, fold);
        let mut take = |partials: &[Acc]| {
            for ((n, a), (_, acc)) in members.iter().zip(accs.iter_mut()) {
                acc.merge(&partials[*n], fold.plan.aggregates[*a].function);
            }
        };
        let mut edges: Vec<(usize, usize, usize)> = vec![];
        while at < to {
            let chunk = &self.chunks[at.0];
            let whole = at.1 == 0 && at.0 < to.0;
            let block = if whole && at.0 % BLOCK == 0 && at.0 + BLOCK <= to.0 { at.0 / BLOCK } else { usize::MAX };
            if let Some(Some(partials)) = self.blocks.get(block) {
                take(partials);
                at = (at.0 + BLOCK, 0);
                continue;
            }
            match &chunk.partial {
                Some(partials) if whole => take(partials),
                _ => {
                    let end = if at.0 == to.0 { to.1 } else { chunk.len(&fold.shape) };
                    edges.push((at.0, at.1, end));
                }
            }
            at = (at.0 + 1, 0);
        }
        for (chunk, from, to) in edges {
            self.chunks[chunk].scan(from, to, accs, &fold.plan, &fold.shape);
        }
    }

    /// Is a copy of it so large that one should be avoided?
    pub fn is_large(&self) -> bool {
        self.chunks.len() > BLOCK || self.totals.iter().map(Total::kept).sum::<usize>() > BLOCK * CHUNK
    }

    /// Nothing in it needs to be kept: no entries, nothing waiting, no totals and no history.
    pub fn is_blank(&self) -> bool {
        self.chunks.is_empty() && self.waiting.is_empty() && self.header.newest == i64::MIN && self.header.rows == 0
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        let waiting: usize = self.waiting.iter().map(|w| 64 + w.words.len() * 8 + w.heap.len()).sum();
        let totals: usize = self.totals.iter().map(|t| size_of::<Total>() + t.heap_bytes()).sum();
        let latest: usize = self.latest.iter().map(Latest::memory).sum();
        size_of::<Group>() + self.chunks.iter().map(Chunk::memory).sum::<usize>() + totals + waiting + latest
    }
}

fn finish(acc: &Acc, aggregate: &Aggregate, plan: &FoldPlan) -> ScalarValue {
    acc.finish(aggregate, plan)
}

fn null_of(data_type: &DataType) -> ScalarValue {
    ScalarValue::try_from(data_type).unwrap_or(ScalarValue::Null)
}

fn merge_all(accs: &mut [Acc], partials: &[Acc], fold: &Fold) {
    for ((acc, partial), &a) in accs.iter_mut().zip(partials).zip(&fold.partials) {
        acc.merge(partial, fold.plan.aggregates[a].function);
    }
}
