//! The oracle's own functions of how often each value is there: median, mode, entropy, percentiles, the best few.
//!
//! They keep all values of a group, let Arrow sort them, and read the answer from the sorted column.
//!
//! Neighbours: `oracle_numbers` rounds; `recompute` registers these.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, UInt32Array, new_empty_array};
use arrow::compute::{SortOptions, concat, partition, sort, take};
use arrow::datatypes::{DataType, Decimal128Type, Field, Float64Type, Int32Type, Int64Type};
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::common::{Result, ScalarValue, internal_err, plan_err};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};
use num_bigint::{BigInt, BigUint};

use super::oracle_distinct::distinct;
use super::oracle_groups::{Groups, whole};
use super::oracle_numbers::{ExactSum, nearest_double, parts};
use super::oracle_rows::one_zero_one_nan;

/// What an [`OfValues`] says of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Of {
    Median,
    Mode,
    Entropy,
    Percentile,
    Greatest,
    Least,
    Distinct,
}

/// A function of how often each value is there.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct OfValues {
    of: Of,
    name: &'static str,
    signature: Signature,
}

impl OfValues {
    /// All.
    pub(super) fn all() -> [AggregateUDF; 7] {
        let function = |of, name| {
            let signature = Signature::user_defined(Volatility::Immutable);
            AggregateUDF::new_from_impl(OfValues { of, name, signature })
        };
        [
            function(Of::Median, "median"),
            function(Of::Mode, "mode"),
            function(Of::Entropy, "entropy"),
            function(Of::Percentile, "approx_percentile_cont"),
            function(Of::Greatest, "top_k"),
            function(Of::Least, "bottom_k"),
            function(Of::Distinct, "approx_distinct"),
        ]
    }
}

impl AggregateUDFImpl for OfValues {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let wanted = if matches!(self.of, Of::Median | Of::Mode | Of::Entropy | Of::Distinct) { 1 } else { 2 };
        if arg_types.len() != wanted {
            return plan_err!("{} takes {wanted} arguments, not {}", self.name, arg_types.len());
        }
        Ok(arg_types.to_vec())
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(match self.of {
            Of::Median | Of::Entropy | Of::Percentile => DataType::Float64,
            Of::Distinct => DataType::Int64,
            Of::Mode => arg_types[0].clone(),
            Of::Greatest | Of::Least => DataType::List(Arc::new(Field::new_list_field(arg_types[0].clone(), true))),
        })
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        internal_err!("the oracle's {} was asked for without groups", self.name)
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        let takes = args.expr_fields[0].data_type().clone();
        let returns = args.return_field.data_type().clone();
        whole(Values { of: self.of, distinct: args.is_distinct, takes, returns, constant: None, groups: vec![] })
    }
}

struct Values {
    of: Of,
    distinct: bool,
    takes: DataType,
    returns: DataType,
    /// The constant argument, known with the first row.
    constant: Option<ScalarValue>,
    /// The values of each group, without nulls, as they came.
    groups: Vec<Vec<ArrayRef>>,
}

impl Groups for Values {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.groups.resize_with(total_num_groups, Vec::new);
        if let (None, Some(constant)) = (&self.constant, values.get(1).filter(|c| !c.is_empty())) {
            self.constant = Some(ScalarValue::try_from_array(constant, 0)?);
        }
        let mut rows: Vec<Vec<u32>> = vec![vec![]; total_num_groups];
        for (row, group) in (0u32..).zip(group_indices) {
            let at = row as usize;
            if values[0].is_valid(at) && opt_filter.is_none_or(|f| f.is_valid(at) && f.value(at)) {
                rows[*group].push(row);
            }
        }
        for (group, rows) in self.groups.iter_mut().zip(rows).filter(|(_, rows)| !rows.is_empty()) {
            group.push(take(&values[0], &UInt32Array::from(rows), None)?);
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let groups = emit_to.take_needed(&mut self.groups);
        let answers = groups.iter().map(|parts| self.answer(parts)).collect::<Result<Vec<_>>>()?;
        if answers.is_empty() {
            return Ok(new_empty_array(&self.returns));
        }
        ScalarValue::iter_to_array(answers)
    }

    fn size(&self) -> usize {
        self.groups.iter().flatten().map(|part| part.get_array_memory_size()).sum()
    }
}

impl Values {
    fn answer(&self, parts: &[ArrayRef]) -> Result<ScalarValue> {
        if parts.is_empty() && self.of == Of::Distinct {
            return Ok(ScalarValue::Int64(Some(0)));
        }
        if parts.is_empty() {
            return ScalarValue::try_from(&self.returns);
        }
        let all = one_zero_one_nan(&concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<_>>())?);
        let descending = self.of == Of::Greatest;
        let sorted = sort(&all, Some(SortOptions { descending, nulls_first: false }))?;
        let of_row = |row: usize| ScalarValue::try_from_array(&sorted, row);
        let n = sorted.len();
        match self.of {
            Of::Median => Ok(ScalarValue::Float64(Some(self.mean_of_two(&sorted, (n - 1) / 2, n / 2)?))),
            Of::Mode => {
                let runs = partition(std::slice::from_ref(&sorted))?.ranges();
                // Of runs as long as each other the first: the least value.
                let longest = runs.iter().rev().max_by_key(|run| run.len()).map_or(0, |run| run.start);
                of_row(longest)
            }
            Of::Entropy => {
                let mut sum = ExactSum::default();
                for run in partition(std::slice::from_ref(&sorted))?.ranges() {
                    let share = run.len() as f64 / n as f64;
                    let (mantissa, exponent) = parts_of(share * share.log2());
                    sum.add(-mantissa, exponent);
                }
                let (total, exponent) = sum.total();
                Ok(ScalarValue::Float64(Some(nearest_double(&total, &BigUint::from(1u32), exponent))))
            }
            Of::Distinct => Ok(ScalarValue::Int64(Some(distinct(&sorted)?))),
            Of::Percentile => {
                let mut doubles =
                    (0..n).map(|row| Ok(shortened(self.double(&sorted, row)?))).collect::<Result<Vec<_>>>()?;
                doubles.sort_by(f64::total_cmp);
                let at = self.rank(n)?;
                Ok(ScalarValue::Float64(Some(doubles[at - 1])))
            }
            Of::Greatest | Of::Least => {
                let Some(ScalarValue::Int64(Some(k))) = self.constant else {
                    return internal_err!("how many to give is a whole number");
                };
                let mut kept: Vec<u32> = (0..u32::try_from(n).unwrap_or(u32::MAX)).collect();
                if self.distinct {
                    let starts = partition(std::slice::from_ref(&sorted))?.ranges();
                    kept = starts.iter().map(|run| u32::try_from(run.start).unwrap_or(u32::MAX)).collect();
                }
                kept.truncate(usize::try_from(k).unwrap_or(0));
                let best = take(&sorted, &UInt32Array::from(kept), None)?;
                Ok(SingleRowListArrayBuilder::new(best).build_list_scalar())
            }
        }
    }

    /// How many rows are at or below the percentile: the least number that is at least the fraction of all.
    fn rank(&self, rows: usize) -> Result<usize> {
        let text = match &self.constant {
            Some(ScalarValue::Float64(Some(p))) => format!("{p}"),
            Some(ScalarValue::Int64(Some(p))) => p.to_string(),
            other => return internal_err!("a fraction that is {other:?}"),
        };
        // In the digits in which it is written.
        let (whole, places) = text.split_once('.').unwrap_or((&text, ""));
        let digits: BigUint = format!("{whole}{places}").parse().unwrap_or_default();
        let unit = BigUint::from(10u32).pow(u32::try_from(places.len()).unwrap_or(0));
        let rank = (digits * rows + &unit - 1u32) / unit;
        Ok(usize::try_from(rank).unwrap_or(rows).max(1))
    }

    fn scale(&self) -> i8 {
        if let DataType::Decimal128(_, scale) = self.takes { scale } else { 0 }
    }

    fn whole(&self, column: &ArrayRef, row: usize) -> Result<i128> {
        Ok(match column.data_type() {
            DataType::Int32 => column.as_primitive::<Int32Type>().value(row).into(),
            DataType::Int64 => column.as_primitive::<Int64Type>().value(row).into(),
            DataType::Decimal128(_, _) => column.as_primitive::<Decimal128Type>().value(row),
            other => return internal_err!("a number that is {other}"),
        })
    }

    /// The nearest double.
    fn double(&self, column: &ArrayRef, row: usize) -> Result<f64> {
        if let Some(doubles) = column.as_any().downcast_ref::<Float64Array>() {
            return Ok(doubles.value(row));
        }
        Ok(scaled(&BigInt::from(self.whole(column, row)?), 1, self.scale()))
    }

    fn mean_of_two(&self, column: &ArrayRef, a: usize, b: usize) -> Result<f64> {
        if column.data_type() != &DataType::Float64 {
            let sum = BigInt::from(self.whole(column, a)?) + self.whole(column, b)?;
            return Ok(scaled(&sum, 2, self.scale()));
        }
        let doubles = column.as_primitive::<Float64Type>();
        let (a, b) = (doubles.value(a), doubles.value(b));
        if !a.is_finite() || !b.is_finite() {
            return Ok(a + b);
        }
        let mut sum = ExactSum::default();
        for (mantissa, exponent) in [parts(a), parts(b)] {
            sum.add(mantissa, exponent);
        }
        let (total, exponent) = sum.total();
        Ok(nearest_double(&total, &BigUint::from(2u32), exponent))
    }
}

fn parts_of(term: f64) -> (i128, i32) {
    parts(term)
}

/// whole / (divisor · 10^scale), rounded once.
fn scaled(whole: &BigInt, divisor: u32, scale: i8) -> f64 {
    let power = BigUint::from(10u32).pow(u32::from(scale.unsigned_abs()));
    if scale < 0 {
        nearest_double(&(whole * BigInt::from(power)), &BigUint::from(divisor), 0)
    } else {
        nearest_double(whole, &(power * divisor), 0)
    }
}

/// The double cut after the eighth binary digit of its mantissa, towards zero.
fn shortened(x: f64) -> f64 {
    if !x.is_finite() || x == 0.0 {
        return x;
    }
    let (mantissa, exponent) = parts(x);
    // 53 digits of a normal double; one that is smaller than all of them has the unit that the smallest has.
    let unit = 1i128 << 45;
    nearest_double(&BigInt::from(mantissa / unit * unit), &BigUint::from(1u32), exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_digits_stay() {
        let check = |x: f64, want: f64| assert_eq!(shortened(x).to_bits(), want.to_bits(), "{x:e}");
        check(255.0, 255.0);
        check(256.9, 256.0);
        check(257.0, 256.0);
        check(-259.5, -258.0);
        check(0.1, 0.099609375);
        check(-0.0, -0.0);
        check(f64::INFINITY, f64::INFINITY);
        check(f64::MAX, 255.0 / 128.0 * 2f64.powi(1023));
        check(5e-324, 0.0);
    }
}
