//! What follows from how often each value is there: median, mode, entropy, percentiles, the greatest and the least few.
//!
//! A percentile is approximate because its values are cut to eight binary digits before they are counted: there are then 128
//! of them from one power of two to the next, however many rows there are, and counts can be taken back. The cut value is at
//! most 1/128 nearer to zero.
//!
//! Invariants: an answer follows from the values and their counts alone; ties go to the least value. Neighbours: `tally` counts,
//! `aggregate` and `total` keep tallies; the definitions are in `docs/sql.md`.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;

use super::aggregate::{Held, float_bits, float_key};
use super::entry::{Entry, Shape};
use super::plan::{Aggregate, FoldPlan, Function, ValueType};
use super::sketch::{Sketch, hash};
use super::tally::Tally;
use crate::exact_sum::{ExactSum, IntegerSum};

/// Binary digits of a double behind those that [`cut`] keeps.
const CUT: u32 = 45;

/// The double with the first eight of its binary digits; infinities and NaN stay.
pub(super) fn cut(x: f64) -> f64 {
    f64::from_bits(x.to_bits() >> CUT << CUT)
}

/// The value of an entry, which is not null, as its function counts it.
pub(super) fn counted(entry: &Entry<'_>, value: usize, function: Function, plan: &FoldPlan, shape: &Shape) -> Held {
    let held = Held::of(entry, value, shape, true);
    match function {
        Function::ApproxDistinct => Held::Int(hash(&held).cast_signed()),
        Function::Percentile { .. } => Held::Float(float_key(cut(double(&held, plan, value)).to_bits(), true)),
        _ => held,
    }
}

/// The number of an entry, which is not null, as the nearest double.
pub(super) fn as_double(entry: &Entry<'_>, value: usize, plan: &FoldPlan, shape: &Shape) -> f64 {
    let (slot, kind) = shape.slots[value];
    match kind {
        ValueType::Float => f64::from_bits(entry.word(slot)),
        _ => double(&Held::of(entry, value, shape, true), plan, value),
    }
}

/// A number as the nearest double.
fn double(held: &Held, plan: &FoldPlan, value: usize) -> f64 {
    let nearest = |x: i128, scale: i8| {
        let mut sum = IntegerSum::default();
        sum.add(x, 1);
        sum.mean_f64(1, scale)
    };
    match held {
        Held::Float(key) => f64::from_bits(float_bits(*key)),
        Held::Int(x) => nearest((*x).into(), 0),
        Held::Decimal(x) => nearest(*x, scale(plan, value)),
        Held::Null | Held::Bytes(_) => f64::NAN,
    }
}

fn scale(plan: &FoldPlan, value: usize) -> i8 {
    match &plan.value_types[value] {
        DataType::Decimal128(_, scale) => *scale,
        _ => 0,
    }
}

/// What a function makes of all values and their counts.
pub(super) fn of_tally(tally: &Tally<Held>, aggregate: &Aggregate, plan: &FoldPlan) -> ScalarValue {
    let counts = || tally.counts().filter(|(_, times)| *times > 0);
    let rows: i64 = counts().map(|(_, times)| times).sum();
    let value = aggregate.value.unwrap_or_default();
    let double = |x: Option<f64>| ScalarValue::Float64(x);
    if rows == 0 {
        return ScalarValue::try_from(&aggregate.result).unwrap_or(ScalarValue::Null);
    }
    match aggregate.function {
        Function::Mode => {
            let most = counts().map(|(_, times)| *times).max();
            let first = counts().find(|(_, times)| Some(*times) == most);
            first.map_or(ScalarValue::Null, |(held, _)| held.scalar(&aggregate.result))
        }
        Function::Entropy => double(Some(entropy(counts().map(|(_, times)| *times), rows))),
        Function::Percentile { millionths } => {
            let held = ranked(counts(), rank(millionths, rows));
            double(held.map(|held| self::double(held, plan, value)))
        }
        Function::TopK { k, distinct } => list(counts().rev(), k, distinct, aggregate),
        Function::BottomK { k, distinct } => list(counts(), k, distinct, aggregate),
        _ => double(median(counts().collect(), rows, scale(plan, value))),
    }
}

/// How many of these hashes there are, about, as a sketch of them says.
pub(super) fn approximately(hashes: &Tally<Held>) -> i64 {
    let mut sketch = Sketch::default();
    for held in hashes.keys() {
        if let Held::Int(hash) = held {
            sketch.see(hash.cast_unsigned());
        }
    }
    sketch.count()
}

/// The value at a rank, the least having rank 1.
fn ranked<'a>(counts: impl Iterator<Item = &'a (Held, i64)>, rank: i64) -> Option<&'a Held> {
    let mut before = 0;
    let mut counts = counts.skip_while(|(_, times)| {
        before += times;
        before < rank
    });
    counts.next().map(|(held, _)| held)
}

/// The rank at which at least so many millionths of the rows lie at or below.
fn rank(millionths: u32, rows: i64) -> i64 {
    let below = i128::from(millionths) * i128::from(rows);
    // Up to the next whole one, and at least the first.
    i64::try_from((below + 999_999) / 1_000_000).unwrap_or(rows).max(1)
}

/// The middle value, or the mean of the two, rounded once.
fn median(counts: Vec<&(Held, i64)>, rows: i64, scale: i8) -> Option<f64> {
    let middle = |rank: i64| ranked(counts.iter().copied(), rank);
    let both = [middle((rows + 1) / 2)?, middle(rows / 2 + 1)?];
    let (mut doubles, mut whole) = (ExactSum::default(), IntegerSum::default());
    for held in both {
        match held {
            Held::Float(key) => doubles.add(f64::from_bits(float_bits(*key)), 1),
            Held::Int(x) => whole.add((*x).into(), 1),
            Held::Decimal(x) => whole.add(*x, 1),
            Held::Null | Held::Bytes(_) => return None,
        }
    }
    let of_doubles = matches!(both[0], Held::Float(_));
    Some(if of_doubles { doubles.mean(2) } else { whole.mean_f64(2, scale) })
}

/// −Σ p log₂ p: each term a double, their sum exact and rounded once.
fn entropy(counts: impl Iterator<Item = i64>, rows: i64) -> f64 {
    let mut sum = ExactSum::default();
    for times in counts {
        let share = times as f64 / rows as f64;
        sum.add(share * share.log2(), -1);
    }
    sum.value()
}

fn list<'a>(
    counts: impl Iterator<Item = &'a (Held, i64)>,
    k: u32,
    distinct: bool,
    aggregate: &Aggregate,
) -> ScalarValue {
    let times = |times: i64| if distinct { 1 } else { usize::try_from(times).unwrap_or(usize::MAX).min(k as usize) };
    let values = counts.flat_map(|(held, n)| std::iter::repeat_n(held, times(*n)));
    as_list(values.take(k as usize), &aggregate.result)
}

/// Values as a list of the given type; null if there is none.
pub(super) fn as_list<'a>(values: impl Iterator<Item = &'a Held>, result: &DataType) -> ScalarValue {
    let DataType::List(item) = result else { unreachable!("the plan gives a list's type") };
    let values: Vec<ScalarValue> = values.map(|held| held.scalar(item.data_type())).collect();
    if values.is_empty() {
        return ScalarValue::try_from(result).unwrap_or(ScalarValue::Null);
    }
    ScalarValue::List(ScalarValue::new_list_nullable(&values, item.data_type()))
}

/// The best few of what was seen, the best first: all that `top_k` and `bottom_k` can ever need of rows that stay.
#[derive(Clone, Debug, Default)]
pub struct Best(pub(super) Vec<Held>);

impl Best {
    /// Sees a value so many times.
    pub(super) fn see(&mut self, held: &Held, times: i64, function: Function) {
        let (k, distinct, greatest) = match function {
            Function::TopK { k, distinct } => (k as usize, distinct, true),
            Function::BottomK { k, distinct } => (k as usize, distinct, false),
            _ => unreachable!("no other function keeps the best few"),
        };
        let at = self.0.partition_point(|best| if greatest { best >= held } else { best <= held });
        let known = at > 0 && self.0[at - 1] == *held;
        let free = k.saturating_sub(at);
        let copies = if distinct { usize::from(!known) } else { usize::try_from(times).unwrap_or(0) };
        if copies.min(free) > 0 {
            self.0.splice(at..at, std::iter::repeat_n(held.clone(), copies.min(free)));
            self.0.truncate(k);
        }
    }

    /// Can a value that is no better than all of these be passed over?
    pub(super) fn is_full(&self, function: Function) -> bool {
        matches!(function, Function::TopK { k, .. } | Function::BottomK { k, .. } if self.0.len() >= k as usize)
    }
}
