//! The oracle's own aggregates: `sum`, `avg`, `var`, `stddev`, and `min` and `max` over doubles.
//!
//! They collect exact sums and round once at the end (semantics, rules 19 and 23).
//!
//! Neighbours: `oracle_numbers` does the arithmetic; `oracle_groups` is what they are to DataFusion; `recompute` registers and calls these.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array};
use arrow::array::{Decimal128Array, Int64Array, UInt64Array};
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int64Type, UInt64Type};
use datafusion::common::{Result, internal_err, not_impl_err, plan_err};
use datafusion::logical_expr::Volatility;
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature};
use num_bigint::{BigInt, BigUint};

use super::oracle_groups::{Groups, whole};
use super::oracle_numbers::{ExactSum, nearest_double, parts, round_half_away};

/// What an [`Exact`] aggregate returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Statistic {
    Sum,
    Mean,
    Variance,
    Deviation,
    /// A sum that is 0 over nothing.
    Total,
}

/// `sum`, `avg`, `var` or `stddev` from exact values.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Exact {
    statistic: Statistic,
    name: &'static str,
    aliases: Vec<String>,
    signature: Signature,
}

impl Exact {
    fn function(statistic: Statistic, name: &'static str, aliases: &[&str]) -> AggregateUDF {
        let aliases = aliases.iter().map(ToString::to_string).collect();
        let signature = Signature::user_defined(Volatility::Immutable);
        AggregateUDF::new_from_impl(Exact { statistic, name, aliases, signature })
    }

    /// The sum of doubles; 0 or null over nothing.
    pub(super) fn sum_of_terms(zero: bool) -> AggregateUDF {
        Exact::function(if zero { Statistic::Total } else { Statistic::Sum }, "sum_of_terms", &[])
    }

    /// All four, with the built-in ones' aliases.
    pub(super) fn all() -> [AggregateUDF; 4] {
        let function = Exact::function;
        [
            function(Statistic::Sum, "sum", &[]),
            function(Statistic::Mean, "avg", &["mean"]),
            function(Statistic::Variance, "var", &["var_sample", "var_samp"]),
            function(Statistic::Deviation, "stddev", &["stddev_samp"]),
        ]
    }
}

impl AggregateUDFImpl for Exact {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let [argument] = arg_types else {
            return plan_err!("{} takes one argument, not {}", self.name, arg_types.len());
        };
        // Integers and decimals stay what they are, so that nothing is rounded on the way in.
        Ok(vec![match argument {
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => DataType::Int64,
            DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => DataType::UInt64,
            DataType::Null | DataType::Float16 | DataType::Float32 | DataType::Float64 => DataType::Float64,
            DataType::Decimal128(_, _) => argument.clone(),
            DataType::Decimal32(p, s) | DataType::Decimal64(p, s) => DataType::Decimal128(*p, *s),
            other => return plan_err!("{} does not take {other}", self.name),
        }])
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(match (self.statistic, &arg_types[0]) {
            (Statistic::Sum, DataType::Decimal128(p, s)) => DataType::Decimal128((p + 10).min(38), *s),
            (Statistic::Sum | Statistic::Total, other) => other.clone(),
            (Statistic::Mean, DataType::Decimal128(p, s)) => DataType::Decimal128((p + 4).min(38), (s + 4).min(38)),
            (Statistic::Mean | Statistic::Variance | Statistic::Deviation, _) => DataType::Float64,
        })
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        internal_err!("the oracle's {} was asked for without groups", self.name)
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        if args.is_distinct {
            return not_impl_err!("{}(DISTINCT ..)", self.name);
        }
        let returns = args.return_field.data_type().clone();
        let takes = args.expr_fields[0].data_type().clone();
        whole(ExactGroups { statistic: self.statistic, takes, returns, groups: vec![] })
    }
}

/// Exact sums of one group's values and of their squares.
#[derive(Clone, Debug, Default)]
pub(super) struct Moments {
    /// How many values, of whatever kind.
    pub(super) count: u64,
    nans: u64,
    infinities: u64,
    negative_infinities: u64,
    /// The finite ones.
    pub(super) sum: ExactSum,
    squares: ExactSum,
}

impl Moments {
    /// Adds a value; its square too, if that is wanted.
    pub(super) fn add_double(&mut self, value: f64, squares: bool) {
        self.count += 1;
        if value.is_nan() {
            self.nans += 1;
        } else if value == f64::INFINITY {
            self.infinities += 1;
        } else if value == f64::NEG_INFINITY {
            self.negative_infinities += 1;
        } else {
            let (mantissa, exponent) = parts(value);
            self.sum.add(mantissa, exponent);
            if squares {
                self.squares.add(mantissa * mantissa, exponent * 2);
            }
        }
    }

    /// Adds an integer, or a decimal's digits.
    pub(super) fn add_integer(&mut self, value: i128, squares: bool) {
        self.count += 1;
        self.sum.add(value, 0);
        if squares {
            if value.unsigned_abs() < 1 << 63 {
                self.squares.add(value * value, 0);
                return;
            }
            // (high * 2^63 + low)^2 in parts that fit 128 bits: |high| <= 2^64, 0 <= low < 2^63.
            let (high, low) = (value >> 63, value & ((1 << 63) - 1));
            let square = BigInt::from(high) * high;
            let (upper, lower) = (&square >> 64u32, &square & BigInt::from(u64::MAX));
            for (part, exponent) in [(upper, 126 + 64), (lower, 126)] {
                self.squares.add(i128::try_from(part).expect("66 bits"), exponent);
            }
            for (part, exponent) in [(high * low, 64), (low * low, 0)] {
                self.squares.add(part, exponent);
            }
        }
    }

    /// What the values that are no numbers make of a sum, if there are any.
    fn special_sum(&self) -> Option<f64> {
        match (self.nans, self.infinities, self.negative_infinities) {
            (0, 0, 0) => None,
            (0, _, 0) => Some(f64::INFINITY),
            (0, 0, _) => Some(f64::NEG_INFINITY),
            (_, _, _) => Some(f64::NAN),
        }
    }

    /// Sum divided by `divisor`; `digits` decimal places are cut off on the way (the scale of decimals).
    pub(super) fn sum_over(&self, divisor: u64, digits: i8) -> f64 {
        self.special_sum().unwrap_or_else(|| {
            let (total, exponent) = self.sum.total();
            let (up, down) = powers(digits);
            nearest_double(&(total * BigInt::from(up)), &(down * divisor), exponent)
        })
    }

    /// The sample variance of values with a decimal scale; null for fewer than two.
    fn variance(&self, scale: i8) -> Option<f64> {
        if self.count < 2 {
            return None;
        }
        if self.special_sum().is_some() {
            return Some(f64::NAN);
        }
        let ((sum, sum_unit), (squares, squares_unit)) = (self.sum.total(), self.squares.total());
        // n * squares - sum^2, both as multiples of the smaller unit.
        let unit = squares_unit.min(2 * sum_unit);
        let squares = (squares * self.count) << squares_unit.abs_diff(unit);
        let square = (&sum * &sum) << (2 * sum_unit).abs_diff(unit);
        let (up, down) = powers(scale);
        let numerator = (squares - square) * BigInt::from(&up * &up);
        let denominator = BigUint::from(self.count) * (self.count - 1) * &down * &down;
        Some(nearest_double(&numerator, &denominator, unit))
    }
}

/// `10^-digits` as a fraction.
fn powers(digits: i8) -> (BigUint, BigUint) {
    let power = BigUint::from(10u32).pow(u32::from(digits.unsigned_abs()));
    if digits < 0 { (power, BigUint::from(1u32)) } else { (BigUint::from(1u32), power) }
}

/// One [`Moments`] per group.
struct ExactGroups {
    statistic: Statistic,
    takes: DataType,
    returns: DataType,
    groups: Vec<Moments>,
}

impl ExactGroups {
    fn scale(&self) -> i8 {
        if let DataType::Decimal128(_, scale) = self.takes { scale } else { 0 }
    }

    fn doubles(&self, groups: &[Moments]) -> Float64Array {
        let value = |m: &Moments| match self.statistic {
            Statistic::Sum => (m.count > 0).then(|| m.sum_over(1, 0)),
            Statistic::Total => Some(m.sum_over(1, 0)),
            Statistic::Mean => (m.count > 0).then(|| m.sum_over(m.count, self.scale())),
            Statistic::Variance => m.variance(self.scale()),
            Statistic::Deviation => m.variance(self.scale()).map(f64::sqrt),
        };
        groups.iter().map(value).collect()
    }

    /// Sums and means of decimals; null where the result does not fit its type.
    fn decimals(&self, groups: &[Moments], precision: u8, scale: i8) -> Result<Decimal128Array> {
        let limit = BigUint::from(10u32).pow(u32::from(precision));
        let value = |m: &Moments| {
            if m.count == 0 {
                return None;
            }
            let exact = match self.statistic {
                Statistic::Mean => {
                    let (down, up) = powers(scale - self.scale());
                    round_half_away(&(m.sum.integer() * BigInt::from(up)), &(down * m.count))
                }
                Statistic::Sum | Statistic::Total | Statistic::Variance | Statistic::Deviation => m.sum.integer(),
            };
            if *exact.magnitude() < limit { i128::try_from(exact).ok() } else { None }
        };
        Ok(groups.iter().map(value).collect::<Decimal128Array>().with_precision_and_scale(precision, scale)?)
    }
}

/// Calls `add` with the group and the row of every value that counts.
fn for_each_value(
    array: &dyn Array,
    groups: &[usize],
    filter: Option<&BooleanArray>,
    mut add: impl FnMut(usize, usize),
) {
    for (row, group) in groups.iter().enumerate() {
        if array.is_valid(row) && filter.is_none_or(|f| f.is_valid(row) && f.value(row)) {
            add(*group, row);
        }
    }
}

impl Groups for ExactGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.groups.resize_with(total_num_groups, Moments::default);
        let squares = matches!(self.statistic, Statistic::Variance | Statistic::Deviation);
        let (array, groups) = (values[0].as_ref(), &mut self.groups);
        match &self.takes {
            DataType::Float64 => {
                let values = array.as_primitive::<Float64Type>();
                let add = |group: usize, row| groups[group].add_double(values.value(row), squares);
                for_each_value(array, group_indices, opt_filter, add);
            }
            DataType::Int64 => {
                let values = array.as_primitive::<Int64Type>();
                let add = |group: usize, row| groups[group].add_integer(values.value(row).into(), squares);
                for_each_value(array, group_indices, opt_filter, add);
            }
            DataType::UInt64 => {
                let values = array.as_primitive::<UInt64Type>();
                let add = |group: usize, row| groups[group].add_integer(values.value(row).into(), squares);
                for_each_value(array, group_indices, opt_filter, add);
            }
            DataType::Decimal128(_, _) => {
                let values = array.as_primitive::<Decimal128Type>();
                let add = |group: usize, row| groups[group].add_integer(values.value(row), squares);
                for_each_value(array, group_indices, opt_filter, add);
            }
            other => return internal_err!("an exact sum over {other}"),
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let groups = emit_to.take_needed(&mut self.groups);
        let integer = |m: &Moments| if m.count == 0 { None } else { Some(m.sum.integer()) };
        Ok(match &self.returns {
            DataType::Float64 => Arc::new(self.doubles(&groups)),
            // A sum that does not fit is null (rule 23).
            DataType::Int64 => Arc::new(groups.iter().map(|m| i64::try_from(integer(m)?).ok()).collect::<Int64Array>()),
            DataType::UInt64 => {
                Arc::new(groups.iter().map(|m| u64::try_from(integer(m)?).ok()).collect::<UInt64Array>())
            }
            DataType::Decimal128(precision, scale) => Arc::new(self.decimals(&groups, *precision, *scale)?),
            other => return internal_err!("an exact sum as {other}"),
        })
    }

    fn size(&self) -> usize {
        self.groups.capacity() * size_of::<Moments>()
    }
}

/// `min` or `max` over doubles, with one zero and one NaN, the greatest.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct DoubleExtreme {
    greatest: bool,
    signature: Signature,
}

impl DoubleExtreme {
    /// The greatest or the least.
    pub(super) fn new(greatest: bool) -> DoubleExtreme {
        DoubleExtreme { greatest, signature: Signature::exact(vec![DataType::Float64], Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for DoubleExtreme {
    fn name(&self) -> &str {
        if self.greatest { "max_double" } else { "min_double" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        internal_err!("the oracle's {} was asked for without groups", self.name())
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        whole(ExtremeGroups { greatest: self.greatest, groups: vec![] })
    }
}

/// −0 as 0, every NaN as the positive quiet one, which `total_cmp` puts above all.
pub(super) fn canonical(value: f64) -> f64 {
    if value.is_nan() { f64::NAN.copysign(1.0) } else { value + 0.0 }
}

struct ExtremeGroups {
    greatest: bool,
    groups: Vec<Option<f64>>,
}

impl Groups for ExtremeGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.groups.resize(total_num_groups, None);
        let values = values[0].as_primitive::<Float64Type>();
        for_each_value(values, group_indices, opt_filter, |group, row| {
            let (held, new) = (&mut self.groups[group], canonical(values.value(row)));
            let better =
                |old: f64| if self.greatest { new.total_cmp(&old).is_gt() } else { new.total_cmp(&old).is_lt() };
            if held.is_none_or(better) {
                *held = Some(new);
            }
        });
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        Ok(Arc::new(Float64Array::from(emit_to.take_needed(&mut self.groups))))
    }

    fn size(&self) -> usize {
        self.groups.capacity() * size_of::<Option<f64>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(values: &[f64]) -> Moments {
        let mut moments = Moments::default();
        values.iter().for_each(|value| moments.add_double(*value, true));
        moments
    }

    #[test]
    fn values_that_are_no_numbers() {
        let check = |values: &[f64], want: f64| {
            let got = moments(values).sum_over(1, 0);
            assert!(got.total_cmp(&want).is_eq(), "{values:?}: {got}");
        };
        check(&[1.0, f64::INFINITY], f64::INFINITY);
        check(&[f64::NEG_INFINITY, 1.0, f64::NEG_INFINITY], f64::NEG_INFINITY);
        check(&[f64::INFINITY, f64::NEG_INFINITY], f64::NAN);
        check(&[f64::INFINITY, -f64::NAN], f64::NAN);
    }

    #[test]
    fn variance_is_exact() {
        let check = |values: &[f64], want: Option<f64>| assert_eq!(moments(values).variance(0), want, "{values:?}");
        check(&[], None);
        check(&[5.0], None);
        check(&[1.0, 2.0, 3.0, 4.0], Some(5.0 / 3.0));
        check(&[1e16, 1e16 + 2.0], Some(2.0)); // a sum of squared doubles would lose it all
        check(&[0.1, 0.1, 0.1], Some(0.0));
        check(&[1e-200, 3e-200], Some(0.0)); // 2e-400 underflows, once
        assert!(moments(&[1.0, f64::INFINITY]).variance(0).is_some_and(f64::is_nan));
    }

    #[test]
    fn integers_square_exactly() {
        let check = |values: &[i128], scale: i8, want: f64| {
            let mut moments = Moments::default();
            values.iter().for_each(|value| moments.add_integer(*value, true));
            assert_eq!(moments.variance(scale), Some(want), "{values:?}");
        };
        check(&[1, 2, 3, 4], 0, 5.0 / 3.0);
        check(&[i128::from(i64::MIN), i128::from(i64::MAX)], 0, 2f64.powi(127)); // (2^64 - 1)^2 / 2, rounded
        check(&[-150, 150], 2, 4.5);
        let big = 10i128.pow(38) - 1;
        check(&[-big, big], 38, 2.0);
        check(&[-big, -big + 2], 0, 2.0);
        check(&[(1 << 63) + 5, (1 << 63) + 7, (1 << 63) + 9], 0, 4.0);
    }
}
