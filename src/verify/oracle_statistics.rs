//! The oracle's own statistics of one column or of two: covariances, correlation, slope, skewness, kurtosis, and the
//! variance of a population.
//!
//! They keep the values and work with deviations from the mean, n·x − Σx, as big integers: the formulas of the textbook,
//! where the engine has those of sums of powers. What is rounded is rounded where the engine's definition says.
//!
//! Neighbours: `oracle_numbers` rounds; `recompute` registers these.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array};
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int64Type};
use datafusion::common::{Result, internal_err, plan_err};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};
use num_bigint::{BigInt, BigUint, Sign};

use super::oracle_groups::{Groups, whole};
use super::oracle_numbers::{nearest_double, parts};

/// What a [`Statistic`] says of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Of {
    VariancePop,
    DeviationPop,
    CovarianceSample,
    CovariancePop,
    Correlation,
    Slope,
    Skewness,
    Kurtosis,
}

/// A statistic of one column or two.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Statistic {
    of: Of,
    name: &'static str,
    columns: usize,
    aliases: Vec<String>,
    signature: Signature,
}

impl Statistic {
    /// All, with every alias of the built-in ones: a session is made anew from all its names, and one of theirs would bring them back.
    pub(super) fn all() -> [AggregateUDF; 8] {
        let function = |of, name, columns, aliases: &[&str]| {
            let aliases = aliases.iter().map(ToString::to_string).collect();
            let signature = Signature::user_defined(Volatility::Immutable);
            AggregateUDF::new_from_impl(Statistic { of, name, columns, aliases, signature })
        };
        [
            function(Of::VariancePop, "var_pop", 1, &["var_population"]),
            function(Of::DeviationPop, "stddev_pop", 1, &[]),
            function(Of::CovarianceSample, "covar_samp", 2, &["covar"]),
            function(Of::CovariancePop, "covar_pop", 2, &[]),
            function(Of::Correlation, "corr", 2, &[]),
            function(Of::Slope, "regr_slope", 2, &[]),
            function(Of::Skewness, "skewness", 1, &[]),
            function(Of::Kurtosis, "kurtosis", 1, &[]),
        ]
    }
}

impl AggregateUDFImpl for Statistic {
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
        if arg_types.len() != self.columns {
            return plan_err!("{} takes {} arguments, not {}", self.name, self.columns, arg_types.len());
        }
        // As they are, so that nothing is rounded on the way in.
        let one = |argument: &DataType| match argument {
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => Ok(DataType::Int64),
            DataType::Null | DataType::Float32 | DataType::Float64 => Ok(DataType::Float64),
            DataType::Decimal128(_, _) => Ok(argument.clone()),
            other => plan_err!("{} does not take {other}", self.name),
        };
        arg_types.iter().map(one).collect()
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        internal_err!("the oracle's {} was asked for without groups", self.name)
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        let scale = |data_type: &DataType| match data_type {
            DataType::Decimal128(_, scale) => i32::from(*scale),
            _ => 0,
        };
        let scales: Vec<i32> = args.expr_fields.iter().map(|field| scale(field.data_type())).collect();
        let scales = (scales[0], scales.last().copied().unwrap_or(0));
        whole(Statistics { of: self.of, scales, groups: vec![] })
    }
}

/// A finite number: mantissa·2^exponent.
type Number = (i128, i32);

/// The values of one group.
#[derive(Clone, Default)]
struct Values {
    /// Pairs; a single value is paired with itself.
    finite: Vec<(Number, Number)>,
    /// Rows with a NaN or an infinity.
    others: usize,
}

struct Statistics {
    of: Of,
    /// Decimal places of the first column and of the last.
    scales: (i32, i32),
    groups: Vec<Values>,
}

/// A row's number; `None` for one that is not finite.
fn number(array: &ArrayRef, row: usize) -> Result<Option<Number>> {
    Ok(match array.data_type() {
        DataType::Float64 => {
            let value = array.as_primitive::<Float64Type>().value(row);
            value.is_finite().then(|| parts(value))
        }
        DataType::Int64 => Some((array.as_primitive::<Int64Type>().value(row).into(), 0)),
        DataType::Decimal128(_, _) => Some((array.as_primitive::<Decimal128Type>().value(row), 0)),
        other => return internal_err!("a statistic over {other}"),
    })
}

impl Groups for Statistics {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.groups.resize_with(total_num_groups, Values::default);
        let last = &values[values.len() - 1];
        for (row, group) in group_indices.iter().enumerate() {
            let filtered = opt_filter.is_some_and(|f| f.is_null(row) || !f.value(row));
            if filtered || values.iter().any(|column| column.is_null(row)) {
                continue;
            }
            let group = &mut self.groups[*group];
            match (number(&values[0], row)?, number(last, row)?) {
                (Some(first), Some(last)) => group.finite.push((first, last)),
                _ => group.others += 1,
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let groups = emit_to.take_needed(&mut self.groups);
        Ok(Arc::new(groups.iter().map(|values| statistic(self.of, values, self.scales)).collect::<Float64Array>()))
    }

    fn size(&self) -> usize {
        self.groups.iter().map(|g| size_of::<Values>() + g.finite.capacity() * size_of::<(Number, Number)>()).sum()
    }
}

/// n·x − Σx of each value, as integers, and the power of two that they are multiples of.
fn deviations(values: &[Number]) -> (Vec<BigInt>, i32) {
    let unit = values.iter().map(|(_, exponent)| *exponent).min().unwrap_or(0);
    let whole: Vec<BigInt> = values.iter().map(|(m, e)| BigInt::from(*m) << e.abs_diff(unit)).collect();
    let sum: BigInt = whole.iter().sum();
    (whole.into_iter().map(|x| x * values.len() - &sum).collect(), unit)
}

fn statistic(of: Of, values: &Values, scales: (i32, i32)) -> Option<f64> {
    let rows = values.finite.len() + values.others;
    let least = match of {
        Of::VariancePop | Of::DeviationPop | Of::CovariancePop => 1,
        Of::CovarianceSample | Of::Correlation | Of::Slope => 2,
        Of::Skewness => 3,
        Of::Kurtosis => 4,
    };
    if rows < least {
        return None;
    }
    if values.others > 0 {
        return Some(f64::NAN);
    }
    let (first, first_unit) = deviations(&values.finite.iter().map(|(first, _)| *first).collect::<Vec<_>>());
    let (last, last_unit) = deviations(&values.finite.iter().map(|(_, last)| *last).collect::<Vec<_>>());
    let products = |a: &[BigInt], b: &[BigInt]| -> BigInt { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    let n = BigInt::from(rows);
    let both = products(&first, &last);
    match of {
        Of::VariancePop | Of::CovariancePop | Of::DeviationPop | Of::CovarianceSample => {
            let rest = if of == Of::CovarianceSample { &n - 1 } else { n.clone() };
            let covariance = over(&both, &(&n * &n * rest), first_unit + last_unit, -scales.0 - scales.1);
            Some(if of == Of::DeviationPop { covariance.sqrt() } else { covariance })
        }
        Of::Correlation => {
            let below = products(&first, &first) * products(&last, &last);
            root_of_ratio(&both, &(&both * &both), &below)
        }
        Of::Slope => {
            let below = products(&last, &last);
            // Of the first column's unit for each of the last's.
            positive(&below).then(|| over(&both, &below, first_unit - last_unit, scales.1 - scales.0))
        }
        Of::Skewness => {
            let cubes: BigInt = first.iter().map(|d| d * d * d).sum();
            // n³m₂ and n⁴m₃: √(n (n − 1)) / (n − 2) · m₃ / m₂^(3/2), squared.
            let above = &cubes * &cubes * &n * &n * (&n - 1);
            root_of_ratio(&cubes, &above, &(&both * &both * &both * (&n - 2) * (&n - 2)))
        }
        Of::Kurtosis => {
            let fourths: BigInt = first.iter().map(|d| d * d * d * d).sum();
            let square = &both * &both;
            // n³m₂ and n⁵m₄: m₄ / m₂² is n·fourths / square.
            let above = (&n - 1) * ((&n + 1) * &n * fourths - (&n - 1) * 3 * &square);
            let below = square * (&n - 2) * (&n - 3);
            positive(&below).then(|| over(&above, &below, 0, 0))
        }
    }
}

fn positive(below: &BigInt) -> bool {
    below.sign() == Sign::Plus
}

/// above / below · 2^exponent · 10^power.
fn over(above: &BigInt, below: &BigInt, exponent: i32, power: i32) -> f64 {
    let ten = BigUint::from(10u32).pow(power.unsigned_abs());
    if power > 0 {
        nearest_double(&(above * BigInt::from(ten)), below.magnitude(), exponent)
    } else {
        nearest_double(above, &(below.magnitude() * ten), exponent)
    }
}

/// ±√(above / below), with the sign of `signed`; `None` over nothing.
fn root_of_ratio(signed: &BigInt, above: &BigInt, below: &BigInt) -> Option<f64> {
    let root = positive(below).then(|| over(above, below, 0, 0).sqrt())?;
    Some(if signed.sign() == Sign::Minus { -root } else { root })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(of: Of, pairs: &[(f64, f64)]) -> Option<f64> {
        let mut values = Values::default();
        for (first, last) in pairs {
            match first.is_finite() && last.is_finite() {
                true => values.finite.push((parts(*first), parts(*last))),
                false => values.others += 1,
            }
        }
        statistic(of, &values, (0, 0))
    }

    #[test]
    fn statistics_of_pairs_by_hand() {
        // Deviations −1, 0, 1 and −1, 1, 0: their products add up to 1, their squares to 2 each.
        let pairs = [(1.0, 10.0), (2.0, 12.0), (3.0, 11.0)];
        assert_eq!(of(Of::CovarianceSample, &pairs), Some(0.5));
        assert_eq!(of(Of::CovariancePop, &pairs), Some(1.0 / 3.0));
        assert_eq!(of(Of::Correlation, &pairs), Some(0.5));
        assert_eq!(of(Of::Slope, &pairs), Some(0.5));
        assert_eq!(of(Of::Slope, &[(1.0, 1.0), (5.0, 3.0)]), Some(2.0));
        assert_eq!(of(Of::Correlation, &[(1.0, 3.0), (5.0, 1.0)]), Some(-1.0));
        assert_eq!(of(Of::Correlation, &[(1.0, 3.0), (1.0, 1.0)]), None);
        assert_eq!(of(Of::CovarianceSample, &[(1.0, 3.0)]), None);
        assert_eq!(of(Of::CovariancePop, &[(1.0, 3.0)]), Some(0.0));
        assert!(of(Of::Correlation, &[(1.0, 3.0), (f64::INFINITY, 1.0)]).is_some_and(f64::is_nan));
    }

    #[test]
    fn statistics_of_one_column_by_hand() {
        let alone = |kind, values: &[f64]| of(kind, &values.iter().map(|x| (*x, *x)).collect::<Vec<_>>());
        assert_eq!(alone(Of::VariancePop, &[1.0, 2.0, 3.0, 4.0]), Some(1.25));
        assert_eq!(alone(Of::DeviationPop, &[2.0, 4.0]), Some(1.0));
        // Mean 2, deviations −2, −1, −1, 4: m₂ = 22/4, m₃ = 54/4. √12 / 2 · 13.5 / 5.5^1.5.
        let skewed = alone(Of::Skewness, &[0.0, 1.0, 1.0, 6.0]).expect("four values");
        assert!((skewed - 1.812_801_96).abs() < 1e-6, "{skewed}");
        assert_eq!(alone(Of::Skewness, &[1.0, 2.0, 3.0]), Some(0.0));
        assert_eq!(alone(Of::Skewness, &[1.0, 1.0, 1.0]), None);
        // m₂ = 1.25, m₄ = 2.5625: 3 / 2 · (5 · 1.64 − 9).
        let flat = alone(Of::Kurtosis, &[1.0, 2.0, 3.0, 4.0]).expect("four values");
        assert!((flat + 1.2).abs() < 1e-15, "{flat}");
        assert_eq!(alone(Of::Kurtosis, &[1.0, 2.0, 3.0]), None);
    }
}
