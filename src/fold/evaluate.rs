//! The answer of a group at an instant: per window, partials of what lies inside and single entries at its edges.
//!
//! Only what is asked is worked out. `first_value`, `last_value` and `array_agg` by event time are looked for from their end of the
//! window: entries are in that order, so the first that counts is the answer.
//!
//! Invariants: an answer does not change the group; it is the same with and without partials, and however little is asked
//! beside it. Neighbours: `group` keeps the entries and their partials; `state::page` and `offline` ask.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;

use super::aggregate::{Acc, Edge};
use super::decay::decayed;
use super::entry::Entry;
use super::group::{BLOCK, Fold, Group};
use super::list::by_event_time;
use super::plan::{Aggregate, FoldPlan, Function, Window};
use super::sketch::FEW;

/// Which aggregates are asked for.
#[derive(Clone, Debug)]
pub struct Wanted(Option<Box<[bool]>>);

impl Wanted {
    /// All.
    pub const ALL: Wanted = Wanted(None);

    /// Those of so many with these indices.
    pub fn of(indices: impl IntoIterator<Item = usize>, aggregates: usize) -> Wanted {
        let mut asked = vec![false; aggregates];
        indices.into_iter().for_each(|a| asked[a] = true);
        Wanted(Some(asked.into()))
    }

    /// Is this one asked for?
    pub fn has(&self, aggregate: usize) -> bool {
        self.0.as_ref().is_none_or(|asked| asked[aggregate])
    }
}

/// What a group answers at an instant.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Is there a row?
    pub status: Status,
    /// The greatest event time among the group's insertions so far; `None` without one.
    pub event_time: Option<i64>,
    /// One value per aggregate; null for those that were not asked for.
    pub values: Vec<ScalarValue>,
}

/// Whether an entity has a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// `WHERE` admits a row, and `HAVING` holds.
    Present,
    /// `WHERE` admits none, but did at an earlier instant.
    Expired,
    /// It never did; or it does, and `HAVING` does not hold.
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
        Evaluation { status: Status::Absent, event_time: None, values: values_of_nothing(&fold.plan) }
    }
}

/// The aggregates over no rows.
pub fn values_of_nothing(plan: &FoldPlan) -> Vec<ScalarValue> {
    plan.aggregates.iter().map(|a| Acc::empty(plan, a).finish(a, plan)).collect()
}

/// (chunk, entry) of a group's first entry in a window, and of the first after it.
type Range = ((usize, usize), (usize, usize));

impl Group {
    /// The answer at `now`, over all updates taken. `advance(now)` comes first.
    pub fn evaluate(&self, now: i64, fold: &Fold) -> Evaluation {
        self.evaluate_some(now, &Wanted::ALL, fold)
    }

    /// As [`Group::evaluate`], without the values that are not asked for.
    pub fn evaluate_some(&self, now: i64, asked: &Wanted, fold: &Fold) -> Evaluation {
        debug_assert!(self.floor() <= now, "what this answer needs is gone or not yet known");
        let plan = &fold.plan;
        let mut values: Vec<ScalarValue> = plan.aggregates.iter().map(|a| null_of(&a.result)).collect();

        // Without a lower bound: totals.
        for (total, &a) in self.totals.iter().zip(&fold.unbounded).filter(|(_, a)| asked.has(**a)) {
            values[a] = total.finish(&plan.aggregates[a], plan);
        }

        // Window by window, so that each is looked for once.
        for (window, members) in &fold.windows {
            let asked = || members.iter().copied().filter(|(_, a)| asked.has(*a));
            if asked().next().is_none() {
                continue;
            }
            let range = self.range(*window, now, fold);
            let by_event_time = |(_, a): &(usize, usize)| is_by_event_time(&plan.aggregates[*a]);
            for (n, a) in asked().filter(by_event_time) {
                let best = self.edge_within(range, (n, a), fold).map(Box::new);
                values[a] = Acc::Edge(best).finish(&plan.aggregates[a], plan);
            }
            let others: Vec<(usize, usize)> = asked().filter(|m| !by_event_time(m)).collect();
            for (a, acc) in self.combine(range, &others, fold) {
                values[a] = acc.finish(&plan.aggregates[a], plan);
            }
        }
        for &(a, counted, until) in fold.distinct.iter().filter(|(a, _, _)| asked.has(*a)) {
            let n = match self.latest.get(counted) {
                Some(latest) => {
                    let since = now.saturating_sub(until);
                    match (plan.aggregates[a].function, latest.after(since)) {
                        (Function::ApproxDistinct, FEW..) => Acc::Sketch(latest.sketch_after(since)),
                        (_, n) => Acc::Count(i64::try_from(n).expect("fewer values than memory has bytes")),
                    }
                }
                None => self.scan_distinct(a, now, fold),
            };
            values[a] = n.finish(&plan.aggregates[a], plan);
        }
        for &a in fold.walks.iter().filter(|a| asked.has(**a)) {
            values[a] = self.walk(a, now, fold);
        }
        let event_time = (self.header.newest != i64::MIN).then_some(self.header.newest);
        Evaluation { status: self.status(now, fold), event_time, values }
    }

    fn status(&self, now: i64, fold: &Fold) -> Status {
        match (self.admits(now, fold), fold.plan.admit.until) {
            (true, _) => Status::Present,
            (false, Some(_)) if self.header.ever > self.too_young(now, fold) => Status::Expired,
            (false, _) => Status::Absent,
        }
    }

    /// The distinct values of a small group's window.
    fn scan_distinct(&self, a: usize, now: i64, fold: &Fold) -> Acc {
        let plan = &fold.plan;
        let mut seen = [(a, Acc::empty(plan, &plan.aggregates[a]))];
        for (chunk, from, to) in self.parts(self.range(plan.aggregates[a].window, now, fold), fold) {
            self.chunks[chunk].scan(from, to, &mut seen, fold);
        }
        let [(_, seen)] = seen;
        seen
    }

    /// The value of an aggregate that needs the rows of its window.
    fn walk(&self, a: usize, now: i64, fold: &Fold) -> ScalarValue {
        let aggregate = &fold.plan.aggregates[a];
        let range = self.range(aggregate.window, now, fold);
        if let Some(half_life) = aggregate.function.half_life() {
            let rows = self.entries(range, fold);
            return decayed(rows, (now, half_life), aggregate, fold).finish(aggregate, &fold.plan);
        }
        let list = match aggregate.function {
            Function::ArrayAgg { latest_first: true, .. } => {
                by_event_time(self.entries_from_the_end(range, fold), aggregate, fold)
            }
            _ => by_event_time(self.entries(range, fold), aggregate, fold),
        };
        list.scalar(aggregate)
    }

    /// Rows that `WHERE` will admit, but has not yet.
    fn too_young(&self, now: i64, fold: &Fold) -> i64 {
        let age = fold.plan.admit.from;
        if age == 0 {
            return 0;
        }
        let range = self.range(Window { from: 0, until: Some(age) }, now, fold);
        self.entries(range, fold).map(|e| i64::from(e.multiplicity())).sum()
    }

    /// Does `WHERE` admit a row now?
    fn admits(&self, now: i64, fold: &Fold) -> bool {
        let window = fold.plan.admit;
        if window == Window::ALL {
            return self.header.rows > 0;
        }
        self.entries(self.range(window, now, fold), fold).any(|e| e.multiplicity() > 0)
    }

    /// The positions between which a window's entries lie.
    fn range(&self, window: Window, now: i64, fold: &Fold) -> Range {
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

    /// The parts of chunks that lie in a range, in order: (chunk, first entry, the one after the last).
    fn parts(&self, (from, to): Range, fold: &Fold) -> impl DoubleEndedIterator<Item = (usize, usize, usize)> {
        let end = if to.1 > 0 { to.0 + 1 } else { to.0 };
        (from.0..end.max(from.0)).filter_map(move |chunk| {
            let first = if chunk == from.0 { from.1 } else { 0 };
            let after = if chunk == to.0 { to.1 } else { self.chunks[chunk].len(&fold.shape) };
            (first < after).then_some((chunk, first, after))
        })
    }

    fn entries<'a>(&'a self, range: Range, fold: &'a Fold) -> impl Iterator<Item = Entry<'a>> {
        let entries = move |(chunk, from, to): (usize, usize, usize)| {
            (from..to).map(move |n| self.chunks[chunk].entry(n, &fold.shape))
        };
        self.parts(range, fold).flat_map(entries)
    }

    fn entries_from_the_end<'a>(&'a self, range: Range, fold: &'a Fold) -> impl Iterator<Item = Entry<'a>> {
        let entries = move |(chunk, from, to): (usize, usize, usize)| {
            (from..to).rev().map(move |n| self.chunks[chunk].entry(n, &fold.shape))
        };
        self.parts(range, fold).rev().flat_map(entries)
    }

    /// What `first_value` or `last_value` by event time chooses in a range, looked for from that end.
    fn edge_within(&self, range: Range, (n, a): (usize, usize), fold: &Fold) -> Option<Edge> {
        let aggregate = &fold.plan.aggregates[a];
        let last = aggregate.function == Function::Last;
        let mut parts = self.parts(range, fold);
        let mut best: Option<Box<Edge>> = None;
        while let Some((chunk, from, to)) = if last { parts.next_back() } else { parts.next() } {
            let chunk = &self.chunks[chunk];
            // Rows of one place differ in what they were joined with, and may lie in two chunks.
            if let Some(best) = &best {
                let next = chunk.entry(if last { to - 1 } else { from }, &fold.shape).place();
                if next != (best.event_time, best.origin, best.offset) {
                    break;
                }
            }
            let found = match chunk.partial.as_deref().map(|p| &p[n]) {
                Some(Acc::Edge(found)) if from == 0 && to == chunk.len(&fold.shape) => found.as_deref().cloned(),
                _ => chunk.edge(from, to, aggregate, fold),
            };
            Acc::better_edge(&mut best, found, aggregate.function);
        }
        best.map(|edge| *edge)
    }

    /// What aggregates (with their indices among the partials) have seen of a range.
    fn combine(&self, range: Range, members: &[(usize, usize)], fold: &Fold) -> Vec<(usize, Acc)> {
        let plan = &fold.plan;
        let mut accs: Vec<(usize, Acc)> =
            members.iter().map(|&(_, a)| (a, Acc::empty(plan, &plan.aggregates[a]))).collect();
        if members.is_empty() {
            return accs;
        }
        let take = |partials: &[Acc], accs: &mut [(usize, Acc)]| {
            for ((n, a), (_, acc)) in members.iter().zip(accs) {
                acc.merge(&partials[*n], plan.aggregates[*a].function);
            }
        };
        let (mut at, to) = range;
        while at < to {
            let Some(chunk) = self.chunks.get(at.0) else { break };
            let len = chunk.len(&fold.shape);
            let end = if at.0 == to.0 { to.1 } else { len };
            // Whole blocks first, then whole chunks, then entries.
            let block = (at.1 == 0 && at.0 % BLOCK == 0 && at.0 + BLOCK <= to.0).then_some(at.0 / BLOCK);
            if let Some(Some(partials)) = block.and_then(|block| self.blocks.get(block)) {
                take(partials, &mut accs);
                at = (at.0 + BLOCK, 0);
                continue;
            }
            match &chunk.partial {
                Some(partials) if at.1 == 0 && end == len => take(partials, &mut accs),
                _ => chunk.scan(at.1, end, &mut accs, fold),
            }
            at = (at.0 + 1, 0);
        }
        accs
    }
}

fn is_by_event_time(aggregate: &Aggregate) -> bool {
    matches!(aggregate.function, Function::First | Function::Last) && aggregate.order.is_none()
}

fn null_of(data_type: &DataType) -> ScalarValue {
    ScalarValue::try_from(data_type).unwrap_or(ScalarValue::Null)
}
