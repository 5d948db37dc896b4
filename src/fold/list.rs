//! Lists of the first few rows in an order: `array_agg`.
//!
//! By event time the rows of a window are looked for from that end, as for `first_value`: they are kept in that order. In any other
//! order each run of rows keeps its first few. With DISTINCT a value stands where it stands first.
//!
//! Invariants: rows are in the order of [`Edge`], which is rule 13's; a list never holds more than its limit. Neighbours:
//! `aggregate` merges lists, `evaluate` asks for those by event time.

use rustc_hash::FxHashSet;

use super::aggregate::{Edge, Held, edge_of, is_choice};
use super::entry::Entry;
use super::group::Fold;
use super::multiset::as_list;
use super::plan::{Aggregate, Function};

/// The first few rows, in order.
#[derive(Clone, Debug, Default)]
pub struct List(pub(super) Vec<Edge>);

/// How many rows a list has at most, and whether of different values.
fn bounds(function: Function) -> (usize, bool) {
    match function {
        Function::ArrayAgg { limit, distinct, .. } => (limit as usize, distinct),
        _ => unreachable!("no other function lists rows"),
    }
}

impl List {
    /// Would a row be one of them, if its value is none of theirs?
    pub(super) fn wants(&self, row: impl Fn(&Edge) -> bool, function: Function) -> bool {
        self.0.len() < bounds(function).0 || self.0.last().is_some_and(row)
    }

    /// Sees a row so many times.
    pub(super) fn see(&mut self, row: &Edge, times: i64, function: Function) {
        let (limit, distinct) = bounds(function);
        if distinct && let Some(at) = self.0.iter().position(|edge| edge.value == row.value) {
            if self.0[at] <= *row {
                return;
            }
            self.0.remove(at);
        }
        let at = self.0.partition_point(|edge| edge <= row);
        let copies = if distinct { 1 } else { usize::try_from(times).unwrap_or(0) };
        let copies = copies.min(limit.saturating_sub(at));
        if copies > 0 {
            self.0.splice(at..at, std::iter::repeat_n(row.clone(), copies));
            self.0.truncate(limit);
        }
    }

    /// Of all rows with how often each is there, in order.
    pub(super) fn of<'a>(rows: impl Iterator<Item = &'a (Edge, i64)>, function: Function) -> List {
        let (limit, distinct) = bounds(function);
        let (mut list, mut seen) = (List::default(), FxHashSet::default());
        for (row, times) in rows.filter(|(_, times)| *times > 0) {
            if list.0.len() >= limit {
                break;
            }
            let copies = match distinct {
                true => usize::from(seen.insert(&row.value)),
                false => usize::try_from(*times).unwrap_or(0).min(limit - list.0.len()),
            };
            list.0.extend(std::iter::repeat_n(row.clone(), copies));
        }
        list
    }

    /// As the aggregate's value; null if there is no row.
    pub(super) fn scalar(&self, aggregate: &Aggregate) -> datafusion::common::ScalarValue {
        as_list(self.0.iter().map(|edge| &edge.value), &aggregate.result)
    }
}

/// The first few by event time: `entries` are those of a window, from the end at which the list begins.
///
/// Rows of one instant stand in the order of places whichever end that is, so all of the last instant are looked at.
pub(super) fn by_event_time<'a>(entries: impl Iterator<Item = Entry<'a>>, aggregate: &Aggregate, fold: &Fold) -> List {
    let (limit, distinct) = bounds(aggregate.function);
    let mut rows: Vec<(Edge, i64)> = vec![];
    let (mut enough, mut seen) = (0, FxHashSet::<Held>::default());
    for entry in entries {
        if enough >= limit && rows.last().is_some_and(|(last, _)| last.event_time != entry.event_time()) {
            break;
        }
        if entry.multiplicity() <= 0 || !is_choice(&entry, aggregate, &fold.plan) {
            continue;
        }
        let (row, times) = (edge_of(&entry, aggregate, &fold.shape), i64::from(entry.multiplicity()));
        enough += match distinct {
            true => usize::from(seen.insert(row.value.clone())),
            false => usize::try_from(times).unwrap_or(0),
        };
        rows.push((row, times));
    }
    rows.sort_unstable();
    List::of(rows.iter(), aggregate.function)
}
