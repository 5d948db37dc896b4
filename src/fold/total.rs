//! The state of an aggregate whose window has no lower bound: it takes insertions and retractions for ever.
//!
//! What can be undone is one accumulator. The rest keeps how often each value is there, so that the next best is known when the
//! best is taken back; over an input that never retracts one value is enough.
//!
//! Invariants: what was seen and taken back leaves nothing. Neighbours: `aggregate` has the accumulators, `tally` the counts;
//! `group` feeds them, `layout` writes them.

use datafusion::common::ScalarValue;

use super::aggregate::{Acc, Edge, Held, edge_of};
use super::entry::{Entry, Shape};
use super::list::List;
use super::multiset::{approximately, counted, of_tally};
use super::plan::{Aggregate, FoldPlan, Function};
use super::tally::Tally;

/// The state of an aggregate whose window has no lower bound.
#[derive(Clone, Debug)]
pub enum Total {
    /// Counts and sums: retraction is subtraction. Also the best row of an input that never retracts.
    Acc(Acc),
    /// How often each value is there; of `approx_distinct` each hash, over an input that retracts.
    Distinct(Tally<Held>),
    /// What reads how often each value is there; of an input that retracts also `min`, `max`, `top_k` and `bottom_k`.
    Values(Tally<Held>),
    /// `first_value`, `last_value`, `array_agg` over an input that retracts.
    Edges(Tally<Edge>),
}

impl Total {
    /// Having seen nothing.
    pub fn empty(plan: &FoldPlan, aggregate: &Aggregate) -> Total {
        match aggregate.function {
            Function::CountDistinct => Total::Distinct(Tally::default()),
            Function::ApproxDistinct if plan.retracts => Total::Distinct(Tally::default()),
            Function::Min | Function::Max if plan.retracts => Total::Values(Tally::default()),
            function if function.is_of_best_values() && plan.retracts => Total::Values(Tally::default()),
            function if function.is_of_all_values() => Total::Values(Tally::default()),
            Function::First | Function::Last | Function::ArrayAgg { .. } if plan.retracts => {
                Total::Edges(Tally::default())
            }
            _ => Total::Acc(Acc::empty(plan, aggregate)),
        }
    }

    /// Sees a row `times` times more, or less.
    pub fn see(&mut self, entry: &Entry<'_>, times: i64, aggregate: &Aggregate, plan: &FoldPlan, shape: &Shape) {
        if let Total::Acc(acc) = self {
            return acc.see(entry, times, aggregate, plan, shape);
        }
        let Some(value) = aggregate.value else { return };
        if aggregate.filter.is_some_and(|f| !entry.bit(plan.values.len() + f)) {
            return;
        }
        let null = entry.is_null(value);
        match self {
            Total::Distinct(values) | Total::Values(values) if !null => {
                values.add(counted(entry, value, aggregate.function, plan, shape), times);
            }
            Total::Edges(edges) if !(null && aggregate.ignore_nulls) => {
                edges.add(edge_of(entry, aggregate, shape), times);
            }
            Total::Distinct(_) | Total::Values(_) | Total::Edges(_) | Total::Acc(_) => {}
        }
    }

    /// The aggregate's value.
    pub fn finish(&self, aggregate: &Aggregate, plan: &FoldPlan) -> ScalarValue {
        let max = matches!(aggregate.function, Function::Max | Function::Last);
        match self {
            Total::Acc(acc) => acc.finish(aggregate, plan),
            Total::Distinct(hashes) if aggregate.function == Function::ApproxDistinct => {
                ScalarValue::Int64(Some(approximately(hashes)))
            }
            Total::Distinct(values) => ScalarValue::Int64(Some(i64::try_from(values.len()).unwrap_or(i64::MAX))),
            Total::Values(values) if !matches!(aggregate.function, Function::Min | Function::Max) => {
                of_tally(values, aggregate, plan)
            }
            Total::Values(values) => {
                let best = if max { values.last() } else { values.first() };
                Acc::Extreme(best.cloned()).finish(aggregate, plan)
            }
            Total::Edges(edges) if matches!(aggregate.function, Function::ArrayAgg { .. }) => {
                List::of(edges.counts(), aggregate.function).scalar(aggregate)
            }
            Total::Edges(edges) => {
                let best = if max { edges.last() } else { edges.first() };
                Acc::Edge(best.map(|e| Box::new(e.clone()))).finish(aggregate, plan)
            }
        }
    }

    /// How many values are kept.
    pub fn kept(&self) -> usize {
        match self {
            Total::Acc(_) => 1,
            Total::Distinct(values) => values.len(),
            Total::Values(values) => values.len(),
            Total::Edges(edges) => edges.len(),
        }
    }

    /// Bytes on the heap, roughly.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Total::Acc(acc) => acc.heap_bytes(),
            Total::Distinct(v) => v.keys().map(|k| 48 + k.heap_bytes()).sum(),
            Total::Values(v) => v.keys().map(|k| 48 + k.heap_bytes()).sum(),
            Total::Edges(v) => v.keys().map(|k| 96 + k.order.len() + k.value.heap_bytes()).sum(),
        }
    }
}
