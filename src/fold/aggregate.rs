//! Accumulators: what an aggregate keeps of the rows it has seen, and which of that can be undone.
//!
//! [`Acc`] combines: a chunk's partial, then another's. Counts and sums can also be undone.
//!
//! Invariants: combining is commutative and associative, sums are exact; results have DataFusion's types.
//! Neighbours: `exact_sum` does the arithmetic, `group` decides which rows are seen; `total` has those without a lower bound.

use std::cmp::Ordering;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use rustc_hash::FxHashSet;

use super::columns::decode_value;
use super::entry::{Entry, Origin, Shape};
use super::list::List;
use super::multiset::{Best, as_list, counted, of_tally};
use super::sketch::{Sketch, hash};
use super::tally::Tally;
use crate::exact_sum::{ExactMoments, ExactSum, IntegerMoments, IntegerSum, Number, PowerSums};
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

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Held::Bytes(b) => b.len(),
            Held::Null | Held::Int(_) | Held::Float(_) | Held::Decimal(_) => 0,
        }
    }
}

/// A row that `first_value`, `last_value` or `array_agg` chose, with what it was chosen by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// Sort key of `ORDER BY` beyond event time; empty without one; of a list with the latest first, how early it is.
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
        let by_order = with_order(entry, aggregate, shape, |order| (*self.order).cmp(order));
        let by_place = by_order.then_with(|| (self.event_time, self.origin, self.offset).cmp(&entry.place()));
        by_place.then_with(|| {
            aggregate
                .value
                .map_or(Ordering::Equal, |value| self.value.compare(entry, value, shape, one_zero(aggregate)))
        })
    }
}

/// Gives the sort key of a row beyond event time to a function.
fn with_order<T>(entry: &Entry<'_>, aggregate: &Aggregate, shape: &Shape, give: impl FnOnce(&[u8]) -> T) -> T {
    match (aggregate.order, aggregate.function) {
        (Some(order), _) => give(entry.bytes(shape.slots[order].0).as_slice()),
        (None, Function::ArrayAgg { latest_first: true, .. }) => {
            // Bytes that are greater the earlier it is.
            give(&(!(entry.event_time().cast_unsigned() ^ 1 << 63)).to_be_bytes())
        }
        (None, _) => give(&[]),
    }
}

/// Are values told apart, so that −0 is 0?
fn one_zero(aggregate: &Aggregate) -> bool {
    matches!(aggregate.function, Function::ArrayAgg { distinct: true, .. })
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
    Powers { sums: Box<PowerSums>, n: i64 },
    Extreme(Option<Held>),
    Edge(Option<Box<Edge>>),
    Bools { trues: i64, falses: i64 },
    Values(Tally<Held>),
    Best(Best),
    List(List),
    Sketch(Sketch),
}

fn kind_of(plan: &FoldPlan, aggregate: &Aggregate) -> Option<ValueType> {
    aggregate.value.map(|v| plan.values[v])
}

/// Decimal digits after the point of an aggregate's input; 0 for what is no decimal.
fn scale_of(plan: &FoldPlan, value: Option<usize>) -> i8 {
    match value.map(|v| &plan.value_types[v]) {
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
            Function::ApproxDistinct => Acc::Sketch(Sketch::default()),
            // Its terms are doubles, whatever it sums.
            Function::DecayedSum { .. } | Function::DecayedCount { .. } => {
                Acc::Float { sum: ExactSum::default(), n: 0 }
            }
            Function::Sum | Function::Avg if float => Acc::Float { sum: ExactSum::default(), n: 0 },
            Function::Sum | Function::Avg => Acc::Integer { sum: IntegerSum::default(), n: 0 },
            Function::Var | Function::Stddev | Function::VarPop | Function::StddevPop if float => {
                Acc::FloatMoments { moments: ExactMoments::default(), n: 0 }
            }
            Function::Var | Function::Stddev | Function::VarPop | Function::StddevPop => {
                Acc::IntegerMoments { moments: IntegerMoments::default(), n: 0 }
            }
            Function::CovarSamp | Function::CovarPop => Acc::powers(PowerSums::COVARIANCE),
            Function::Corr => Acc::powers(PowerSums::CORRELATION),
            Function::RegrSlope => Acc::powers(PowerSums::SLOPE),
            Function::Skewness => Acc::powers(PowerSums::SKEWNESS),
            Function::Kurtosis => Acc::powers(PowerSums::KURTOSIS),
            Function::Min | Function::Max => Acc::Extreme(None),
            Function::First | Function::Last => Acc::Edge(None),
            Function::BoolAnd | Function::BoolOr => Acc::Bools { trues: 0, falses: 0 },
            Function::Median | Function::Mode | Function::Entropy | Function::Percentile { .. } => {
                Acc::Values(Tally::default())
            }
            Function::TopK { .. } | Function::BottomK { .. } => Acc::Best(Best::default()),
            Function::ArrayAgg { .. } => Acc::List(List::default()),
        }
    }

    fn powers(terms: &'static [(u8, u8)]) -> Acc {
        Acc::Powers { sums: Box::new(PowerSums::new(terms)), n: 0 }
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
        let null = entry.is_null(value) || aggregate.second.is_some_and(|second| entry.is_null(second));
        if null && (aggregate.ignore_nulls || !matches!(self, Acc::Edge(_) | Acc::List(_))) {
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
            Acc::Powers { sums, n } => {
                let (x, y) = (number(entry, value, shape), number(entry, aggregate.second.unwrap_or(value), shape));
                sums.add(x, y, times);
                *n += times;
            }
            Acc::Extreme(best) => {
                let want = extreme_of(aggregate.function);
                if best.as_ref().is_none_or(|b| b.compare(entry, value, shape, true) == want) {
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
            Acc::List(list) => {
                let worse = |last: &Edge| last.compare(entry, aggregate, shape) == Ordering::Greater;
                if list.wants(worse, aggregate.function) {
                    list.see(&edge_of(entry, aggregate, shape), times, aggregate.function);
                }
            }
            Acc::Sketch(sketch) => sketch.see(hash(&Held::of(entry, value, shape, true))),
            Acc::Values(values) => values.add(counted(entry, value, aggregate.function, plan, shape), times),
            Acc::Best(best) => {
                let worse = |last: &Held| last.compare(entry, value, shape, true) != better_of(aggregate.function);
                if !best.is_full(aggregate.function) || !best.0.last().is_some_and(worse) {
                    best.see(&Held::of(entry, value, shape, true), times, aggregate.function);
                }
            }
        }
    }

    /// Can a row be taken back from it?
    pub fn is_subtractable(&self) -> bool {
        !matches!(
            self,
            Acc::Distinct(_) | Acc::Extreme(_) | Acc::Edge(_) | Acc::Best(_) | Acc::List(_) | Acc::Sketch(_)
        )
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
            (Acc::Powers { sums, n }, Acc::Powers { sums: s, n: m }) => {
                sums.merge(s);
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
            (Acc::Values(a), Acc::Values(b)) => b.counts().for_each(|(held, times)| a.add(held.clone(), *times)),
            (Acc::Sketch(a), Acc::Sketch(b)) => a.merge(b),
            (Acc::List(a), Acc::List(b)) => b.0.iter().for_each(|row| a.see(row, 1, function)),
            (Acc::Best(a), Acc::Best(b)) => b.0.iter().for_each(|held| a.see(held, 1, function)),
            _ => unreachable!("accumulators of one aggregate are of one kind"),
        }
    }

    /// The aggregate's value.
    pub fn finish(&self, aggregate: &Aggregate, plan: &FoldPlan) -> ScalarValue {
        let null = || ScalarValue::try_from(&aggregate.result).unwrap_or(ScalarValue::Null);
        let scale = scale_of(plan, aggregate.value);
        match self {
            Acc::Count(n) => ScalarValue::Int64(Some(*n)),
            Acc::Distinct(seen) => ScalarValue::Int64(Some(i64::try_from(seen.len()).unwrap_or(i64::MAX))),
            Acc::Float { n: 0, .. } if matches!(aggregate.function, Function::DecayedCount { .. }) => {
                ScalarValue::Float64(Some(0.0))
            }
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
            Acc::IntegerMoments { moments, n } => spread(aggregate.function, |all| {
                if all { moments.population_variance(*n, scale) } else { moments.variance(*n, scale) }
            }),
            Acc::FloatMoments { moments, n } => {
                spread(
                    aggregate.function,
                    |all| {
                        if all { moments.population_variance(*n) } else { moments.variance(*n) }
                    },
                )
            }
            Acc::Powers { sums, n } => {
                let scales = (i32::from(scale), i32::from(scale_of(plan, aggregate.second)));
                ScalarValue::Float64(of_powers(aggregate.function, sums, *n, scales))
            }
            Acc::Extreme(best) => best.as_ref().map_or_else(null, |b| b.scalar(&aggregate.result)),
            Acc::Edge(best) => best.as_ref().map_or_else(null, |b| b.value.scalar(&aggregate.result)),
            Acc::Bools { trues: 0, falses: 0 } => ScalarValue::Boolean(None),
            Acc::Bools { trues, falses } => ScalarValue::Boolean(Some(match aggregate.function {
                Function::BoolAnd => *falses == 0,
                _ => *trues > 0,
            })),
            Acc::Values(values) => of_tally(values, aggregate, plan),
            Acc::Best(best) => as_list(best.0.iter(), &aggregate.result),
            Acc::List(list) => list.scalar(aggregate),
            Acc::Sketch(sketch) => ScalarValue::Int64(Some(sketch.count())),
        }
    }

    /// Bytes on the heap, roughly.
    pub fn heap_bytes(&self) -> usize {
        let held = |held: &Held| size_of::<Held>() + held.heap_bytes();
        let edge = |e: &Edge| size_of::<Edge>() + e.order.len() + e.value.heap_bytes();
        match self {
            Acc::Edge(Some(e)) => edge(e),
            Acc::List(list) => list.0.iter().map(edge).sum(),
            Acc::Powers { sums, .. } => size_of::<PowerSums>() + sums.heap_bytes(),
            // One by one they would be too many to ask at every change.
            Acc::Values(values) => values.len() * (size_of::<Held>() + size_of::<i64>()),
            Acc::Best(best) => best.0.iter().map(held).sum(),
            Acc::Sketch(sketch) => sketch.heap_bytes(),
            _ => 0,
        }
    }
}

/// How the worst value that is kept compares with a better one.
fn better_of(function: Function) -> Ordering {
    if matches!(function, Function::TopK { .. }) { Ordering::Less } else { Ordering::Greater }
}

fn extreme_of(function: Function) -> Ordering {
    // The held value is worse than the new one when it compares like this.
    if function == Function::Max { Ordering::Less } else { Ordering::Greater }
}

/// A variance, or its root; `variance` says that of the rows as a whole population, or as a sample of one.
fn spread(function: Function, variance: impl Fn(bool) -> Option<f64>) -> ScalarValue {
    let variance = variance(matches!(function, Function::VarPop | Function::StddevPop));
    let root = matches!(function, Function::Stddev | Function::StddevPop);
    ScalarValue::Float64(variance.map(|v| if root { v.sqrt() } else { v }))
}

/// What a function makes of sums of powers; `scales`: decimal places of the first value and of the second.
fn of_powers(function: Function, sums: &PowerSums, n: i64, scales: (i32, i32)) -> Option<f64> {
    match function {
        Function::CovarPop => sums.covariance(n, true, scales.0 + scales.1),
        Function::Corr => sums.correlation(n),
        Function::RegrSlope => sums.slope(n, scales.0 - scales.1),
        Function::Skewness => sums.skewness(n),
        Function::Kurtosis => sums.kurtosis(n),
        _ => sums.covariance(n, false, scales.0 + scales.1),
    }
}

/// A value as it is summed exactly; none for a double that is not finite.
fn number(entry: &Entry<'_>, value: usize, shape: &Shape) -> Option<Number> {
    let (slot, kind) = shape.slots[value];
    match kind {
        ValueType::Float => Number::of_double(f64::from_bits(entry.word(slot))),
        ValueType::Decimal => Some(Number::of_integer(entry.wide(slot))),
        ValueType::Int | ValueType::Bytes => Some(Number::of_integer(entry.word(slot).cast_signed().into())),
    }
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

/// May `first_value`, `last_value` or `array_agg` choose the row?
pub(super) fn is_choice(entry: &Entry<'_>, aggregate: &Aggregate, plan: &FoldPlan) -> bool {
    let passes = aggregate.filter.is_none_or(|f| entry.bit(plan.values.len() + f));
    passes && !(aggregate.ignore_nulls && aggregate.value.is_some_and(|value| entry.is_null(value)))
}

/// A row as `first_value`, `last_value` or `array_agg` keeps it.
pub(super) fn edge_of(entry: &Entry<'_>, aggregate: &Aggregate, shape: &Shape) -> Edge {
    let (event_time, origin, offset) = entry.place();
    Edge {
        order: with_order(entry, aggregate, shape, |order| order.into()),
        event_time,
        origin,
        offset,
        value: aggregate.value.map_or(Held::Null, |value| Held::of(entry, value, shape, one_zero(aggregate))),
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
