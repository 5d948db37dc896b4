//! Accumulators: what an aggregate keeps of the rows it has seen, and which of that can be undone.
//!
//! [`Acc`] combines (a chunk's partial, then another's) and never undoes; [`Total`] belongs to an aggregate without a
//! lower bound and takes insertions and retractions for ever.
//!
//! Invariants: combining is commutative and associative, sums are exact; results have DataFusion's types.
//! Neighbours: `exact_sum` does the arithmetic, `group` decides which rows are seen.

use std::cmp::Ordering;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use rustc_hash::FxHashSet;

use super::columns::decode_value;
use super::entry::{Entry, Origin, Shape};
use super::tally::Tally;
use crate::exact_sum::{ExactMoments, ExactSum, IntegerMoments, IntegerSum};
use crate::fold::plan::{Aggregate, FoldPlan, Function, ValueType};

/// A value that outlives its entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Held {
    /// SQL's null; before all else.
    Null,
    /// BOOLEAN, INT, BIGINT, DATE, TIMESTAMP.
    Int(i64),
    /// DOUBLE as bits that sort like the value, −0 as 0, one NaN: see [`float_key`].
    Float(u64),
    /// DECIMAL, unscaled.
    Decimal(i128),
    /// TEXT, or Arrow's row format.
    Bytes(Box<[u8]>),
}

/// Bits that sort like the double. NaN is the greatest; −0 stays apart from 0 unless `normal`.
pub fn float_key(bits: u64, normal: bool) -> u64 {
    let x = f64::from_bits(bits);
    let bits = if x.is_nan() {
        f64::NAN.to_bits() & !(1 << 63)
    } else if normal && x == 0.0 {
        0
    } else {
        bits
    };
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

/// The bits behind a [`float_key`].
pub fn float_bits(key: u64) -> u64 {
    if key >> 63 == 1 { key & !(1 << 63) } else { !key }
}

impl Held {
    /// A copy of an entry's value. `normal`: −0 becomes 0, as grouping, `min`, `max` and `distinct` see it.
    pub fn of(entry: &Entry<'_>, value: usize, shape: &Shape, normal: bool) -> Held {
        if entry.is_null(value) {
            return Held::Null;
        }
        let (slot, kind) = shape.slots[value];
        match kind {
            ValueType::Int => Held::Int(entry.word(slot).cast_signed()),
            ValueType::Float => Held::Float(float_key(entry.word(slot), normal)),
            ValueType::Decimal => Held::Decimal(entry.wide(slot)),
            ValueType::Bytes => Held::Bytes(entry.bytes(slot).as_slice().into()),
        }
    }

    fn compare(&self, entry: &Entry<'_>, value: usize, shape: &Shape, normal: bool) -> Ordering {
        let (slot, kind) = shape.slots[value];
        match (self, entry.is_null(value)) {
            (Held::Null, true) => return Ordering::Equal,
            (Held::Null, false) => return Ordering::Less,
            (_, true) => return Ordering::Greater,
            (_, false) => {}
        }
        match (self, kind) {
            (Held::Int(a), ValueType::Int) => a.cmp(&entry.word(slot).cast_signed()),
            (Held::Float(a), ValueType::Float) => a.cmp(&float_key(entry.word(slot), normal)),
            (Held::Decimal(a), ValueType::Decimal) => a.cmp(&entry.wide(slot)),
            (Held::Bytes(a), ValueType::Bytes) => (**a).cmp(entry.bytes(slot).as_slice()),
            _ => unreachable!("a value's kind is fixed by the plan"),
        }
    }

    /// As a result of the given type.
    pub fn scalar(&self, result: &DataType) -> ScalarValue {
        decode_value(self, result)
    }

    fn heap_bytes(&self) -> usize {
        match self {
            Held::Bytes(b) => b.len(),
            Held::Null | Held::Int(_) | Held::Float(_) | Held::Decimal(_) => 0,
        }
    }
}

/// The row that `first_value` or `last_value` chose, with what it was chosen by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// Sort key of `ORDER BY` beyond event time; empty without one.
    pub order: Box<[u8]>,
    /// Then by event time,
    pub event_time: i64,
    /// stream and partition,
    pub origin: Origin,
    /// offset
    pub offset: i64,
    /// and the value itself.
    pub value: Held,
}

impl Edge {
    /// Its order against a row that was not chosen.
    fn compare(&self, entry: &Entry<'_>, aggregate: &Aggregate, shape: &Shape) -> Ordering {
        let order = aggregate.order.map(|o| entry.bytes(shape.slots[o].0));
        let by_order = (*self.order).cmp(order.as_ref().map_or(&[][..], |o| o.as_slice()));
        let by_place = by_order.then_with(|| (self.event_time, self.origin, self.offset).cmp(&entry.place()));
        by_place.then_with(|| {
            aggregate.value.map_or(Ordering::Equal, |value| self.value.compare(entry, value, shape, false))
        })
    }
}

/// What an aggregate has seen of a run of rows.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "one per family of functions; the fields are what the names say")]
pub enum Acc {
    Count(i64),
    Distinct(FxHashSet<Held>),
    Integer { sum: IntegerSum, n: i64 },
    Float { sum: ExactSum, n: i64 },
    IntegerMoments { moments: IntegerMoments, n: i64 },
    FloatMoments { moments: ExactMoments, n: i64 },
    Extreme(Option<Held>),
    Edge(Option<Box<Edge>>),
    Bools { trues: i64, falses: i64 },
}

fn kind_of(plan: &FoldPlan, aggregate: &Aggregate) -> Option<ValueType> {
    aggregate.value.map(|v| plan.values[v])
}

/// Decimal digits after the point of an aggregate's input; 0 for integers.
fn scale_of(plan: &FoldPlan, aggregate: &Aggregate) -> i8 {
    match aggregate.value.map(|v| &plan.value_types[v]) {
        Some(DataType::Decimal128(_, scale)) => *scale,
        _ => 0,
    }
}

impl Acc {
    /// Having seen nothing.
    pub fn empty(plan: &FoldPlan, aggregate: &Aggregate) -> Acc {
        let float = kind_of(plan, aggregate) == Some(ValueType::Float);
        match aggregate.function {
            Function::Count => Acc::Count(0),
            Function::CountDistinct => Acc::Distinct(FxHashSet::default()),
            Function::Sum | Function::Avg if float => Acc::Float { sum: ExactSum::default(), n: 0 },
            Function::Sum | Function::Avg => Acc::Integer { sum: IntegerSum::default(), n: 0 },
            Function::Var | Function::Stddev if float => Acc::FloatMoments { moments: ExactMoments::default(), n: 0 },
            Function::Var | Function::Stddev => Acc::IntegerMoments { moments: IntegerMoments::default(), n: 0 },
            Function::Min | Function::Max => Acc::Extreme(None),
            Function::First | Function::Last => Acc::Edge(None),
            Function::BoolAnd | Function::BoolOr => Acc::Bools { trues: 0, falses: 0 },
        }
    }

    /// Sees one row `times` times; negative takes it back, which only counts and sums can.
    pub fn see(&mut self, entry: &Entry<'_>, times: i64, aggregate: &Aggregate, plan: &FoldPlan, shape: &Shape) {
        if aggregate.filter.is_some_and(|f| !entry.bit(plan.values.len() + f)) {
            return;
        }
        let Some(value) = aggregate.value else {
            if let Acc::Count(n) = self {
                *n += times;
            }
            return;
        };
        let null = entry.is_null(value);
        if null && (aggregate.ignore_nulls || !matches!(self, Acc::Edge(_))) {
            return;
        }
        let (slot, kind) = shape.slots[value];
        let integer =
            || if kind == ValueType::Decimal { entry.wide(slot) } else { entry.word(slot).cast_signed().into() };
        match self {
            Acc::Count(n) => *n += times,
            Acc::Distinct(seen) => {
                seen.insert(Held::of(entry, value, shape, true));
            }
            Acc::Integer { sum, n } => {
                sum.add(integer(), times);
                *n += times;
            }
            Acc::Float { sum, n } => {
                sum.add(f64::from_bits(entry.word(slot)), times);
                *n += times;
            }
            Acc::IntegerMoments { moments, n } => {
                moments.add(integer(), times);
                *n += times;
            }
            Acc::FloatMoments { moments, n } => {
                moments.add(f64::from_bits(entry.word(slot)), times);
                *n += times;
            }
            Acc::Extreme(best) => {
                let want = extreme_of(aggregate.function);
                let better = best.as_ref().is_none_or(|b| b.compare(entry, value, shape, true) == want);
                if better {
                    *best = Some(Held::of(entry, value, shape, true));
                }
            }
            Acc::Edge(best) => {
                let want = if aggregate.function == Function::Last { Ordering::Less } else { Ordering::Greater };
                if best.as_ref().is_none_or(|best| best.compare(entry, aggregate, shape) == want) {
                    *best = Some(Box::new(edge_of(entry, aggregate, shape)));
                }
            }
            Acc::Bools { trues, falses } => *(if entry.word(slot) == 1 { trues } else { falses }) += times,
        }
    }

    /// Can a row be taken back from it?
    pub fn is_subtractable(&self) -> bool {
        !matches!(self, Acc::Distinct(_) | Acc::Extreme(_) | Acc::Edge(_))
    }

    /// Keeps the later of two rows for `last_value`, else the earlier.
    pub fn better_edge(best: &mut Option<Box<Edge>>, found: Option<Edge>, function: Function) {
        let Some(found) = found else { return };
        let last = function == Function::Last;
        if best.as_ref().is_none_or(|best| if last { found > **best } else { found < **best }) {
            *best = Some(Box::new(found));
        }
    }

    /// Adds what another has seen.
    pub fn merge(&mut self, other: &Acc, function: Function) {
        match (self, other) {
            (Acc::Count(a), Acc::Count(b)) => *a += b,
            (Acc::Distinct(a), Acc::Distinct(b)) => a.extend(b.iter().cloned()),
            (Acc::Integer { sum, n }, Acc::Integer { sum: s, n: m }) => {
                sum.merge(s);
                *n += m;
            }
            (Acc::Float { sum, n }, Acc::Float { sum: s, n: m }) => {
                sum.merge(s);
                *n += m;
            }
            (Acc::IntegerMoments { moments, n }, Acc::IntegerMoments { moments: s, n: m }) => {
                moments.merge(s);
                *n += m;
            }
            (Acc::FloatMoments { moments, n }, Acc::FloatMoments { moments: s, n: m }) => {
                moments.merge(s);
                *n += m;
            }
            (Acc::Extreme(a), Acc::Extreme(Some(b))) => {
                if a.as_ref().is_none_or(|a| a.cmp(b) == extreme_of(function)) {
                    *a = Some(b.clone());
                }
            }
            (Acc::Edge(a), Acc::Edge(Some(b))) => {
                let last = function == Function::Last;
                if a.as_ref().is_none_or(|a| if last { **b > **a } else { **b < **a }) {
                    *a = Some(b.clone());
                }
            }
            (Acc::Extreme(_), Acc::Extreme(None)) | (Acc::Edge(_), Acc::Edge(None)) => {}
            (Acc::Bools { trues, falses }, Acc::Bools { trues: t, falses: f }) => {
                *trues += t;
                *falses += f;
            }
            _ => unreachable!("accumulators of one aggregate are of one kind"),
        }
    }

    /// The aggregate's value.
    pub fn finish(&self, aggregate: &Aggregate, plan: &FoldPlan) -> ScalarValue {
        let null = || ScalarValue::try_from(&aggregate.result).unwrap_or(ScalarValue::Null);
        let scale = scale_of(plan, aggregate);
        match self {
            Acc::Count(n) => ScalarValue::Int64(Some(*n)),
            Acc::Distinct(seen) => ScalarValue::Int64(Some(i64::try_from(seen.len()).unwrap_or(i64::MAX))),
            Acc::Integer { n, .. } | Acc::Float { n, .. } if *n == 0 => null(),
            Acc::Integer { sum, n } if aggregate.function == Function::Avg => match aggregate.result {
                DataType::Decimal128(p, s) => {
                    let extra = u8::try_from(i32::from(s) - i32::from(scale)).unwrap_or(0);
                    ScalarValue::Decimal128(sum.mean_decimal(*n, extra, p), p, s)
                }
                _ => ScalarValue::Float64(Some(sum.mean_f64(*n, scale))),
            },
            Acc::Integer { sum, .. } => integer_result(sum.value(), &aggregate.result),
            Acc::Float { sum, n } if aggregate.function == Function::Avg => ScalarValue::Float64(Some(sum.mean(*n))),
            Acc::Float { sum, .. } => ScalarValue::Float64(Some(sum.value())),
            Acc::IntegerMoments { moments, n } => spread(aggregate.function, moments.variance(*n, scale)),
            Acc::FloatMoments { moments, n } => spread(aggregate.function, moments.variance(*n)),
            Acc::Extreme(best) => best.as_ref().map_or_else(null, |b| b.scalar(&aggregate.result)),
            Acc::Edge(best) => best.as_ref().map_or_else(null, |b| b.value.scalar(&aggregate.result)),
            Acc::Bools { trues: 0, falses: 0 } => ScalarValue::Boolean(None),
            Acc::Bools { trues, falses } => ScalarValue::Boolean(Some(match aggregate.function {
                Function::BoolAnd => *falses == 0,
                _ => *trues > 0,
            })),
        }
    }
}

fn extreme_of(function: Function) -> Ordering {
    // The held value is worse than the new one when it compares like this.
    if function == Function::Max { Ordering::Less } else { Ordering::Greater }
}

fn spread(function: Function, variance: Option<f64>) -> ScalarValue {
    ScalarValue::Float64(variance.map(|v| if function == Function::Stddev { v.sqrt() } else { v }))
}

/// Sums that did not fit their type, of all answers that this process has worked out.
static UNFIT: AtomicU64 = AtomicU64::new(0);

/// How many sums did not fit their type, of all answers that this process has worked out.
pub fn sums_that_did_not_fit() -> u64 {
    UNFIT.load(Relaxed)
}

/// A sum that does not fit its type is null, and counted.
fn integer_result(sum: Option<i128>, result: &DataType) -> ScalarValue {
    let (value, fits) = match result {
        DataType::Decimal128(p, s) => {
            let bound = 10i128.checked_pow(u32::from(*p)).unwrap_or(i128::MAX);
            let sum = sum.filter(|v| v.unsigned_abs() < bound.unsigned_abs());
            (ScalarValue::Decimal128(sum, *p, *s), sum.is_some())
        }
        _ => {
            let sum = sum.and_then(|v| i64::try_from(v).ok());
            (ScalarValue::Int64(sum), sum.is_some())
        }
    };
    UNFIT.fetch_add(u64::from(!fits), Relaxed);
    value
}

/// May `first_value` or `last_value` choose the row?
pub(super) fn is_choice(entry: &Entry<'_>, aggregate: &Aggregate, plan: &FoldPlan) -> bool {
    let passes = aggregate.filter.is_none_or(|f| entry.bit(plan.values.len() + f));
    passes && !(aggregate.ignore_nulls && aggregate.value.is_some_and(|value| entry.is_null(value)))
}

/// A row as `first_value` or `last_value` keeps it.
pub(super) fn edge_of(entry: &Entry<'_>, aggregate: &Aggregate, shape: &Shape) -> Edge {
    let order = aggregate.order.map(|o| entry.bytes(shape.slots[o].0));
    let (event_time, origin, offset) = entry.place();
    Edge {
        order: order.as_ref().map_or(&[][..], |o| o.as_slice()).into(),
        event_time,
        origin,
        offset,
        value: aggregate.value.map_or(Held::Null, |value| Held::of(entry, value, shape, false)),
    }
}

/// The order of two rows as their [`Edge`]s have it.
pub(super) fn in_order(a: &Entry<'_>, b: &Entry<'_>, aggregate: &Aggregate, shape: &Shape) -> Ordering {
    let by_order = aggregate.order.map_or(Ordering::Equal, |o| {
        let slot = shape.slots[o].0;
        a.bytes(slot).as_slice().cmp(b.bytes(slot).as_slice())
    });
    by_order.then_with(|| a.place().cmp(&b.place())).then_with(|| match aggregate.value {
        Some(value) => Held::of(a, value, shape, false).compare(b, value, shape, false),
        None => Ordering::Equal,
    })
}

/// The state of an aggregate whose window has no lower bound.
#[derive(Clone, Debug)]
pub enum Total {
    /// Counts and sums: retraction is subtraction. Also the best row of an input that never retracts.
    Acc(Acc),
    /// How often each value is there.
    Distinct(Tally<Held>),
    /// `min`, `max` over an input that retracts.
    Values(Tally<Held>),
    /// `first_value`, `last_value` over an input that retracts.
    Edges(Tally<Edge>),
}

impl Total {
    /// Having seen nothing.
    pub fn empty(plan: &FoldPlan, aggregate: &Aggregate) -> Total {
        match aggregate.function {
            Function::CountDistinct => Total::Distinct(Tally::default()),
            Function::Min | Function::Max if plan.retracts => Total::Values(Tally::default()),
            Function::First | Function::Last if plan.retracts => Total::Edges(Tally::default()),
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
                values.add(Held::of(entry, value, shape, true), times);
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
            Total::Distinct(values) => ScalarValue::Int64(Some(i64::try_from(values.len()).unwrap_or(i64::MAX))),
            Total::Values(values) => {
                let best = if max { values.last() } else { values.first() };
                Acc::Extreme(best.cloned()).finish(aggregate, plan)
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
            Total::Acc(Acc::Edge(Some(e))) => size_of::<Edge>() + e.order.len() + e.value.heap_bytes(),
            Total::Acc(_) => 0,
            Total::Distinct(v) => v.keys().map(|k| 48 + k.heap_bytes()).sum(),
            Total::Values(v) => v.keys().map(|k| 48 + k.heap_bytes()).sum(),
            Total::Edges(v) => v.keys().map(|k| 96 + k.order.len() + k.value.heap_bytes()).sum(),
        }
    }
}
