//! The oracle's own `decayed_sum` and `decayed_count`: each row's term at the ask, for an exact sum to add up.
//!
//! A term is x · 2^(−age / half-life) in doubles, and there is none from 64 half-lives on: that is the definition, so it is written here
//! as it stands there. What is added, and rounded once, is `oracle_functions`'.
//!
//! Neighbours: `recompute` gives the columns.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array};
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, internal_err};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Expr, Signature, Volatility};
use num_bigint::{BigInt, BigUint};

use super::oracle_numbers::nearest_double;

/// The functions' names, for the planner; `recompute` calls a sum in their place.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Decayed {
    name: &'static str,
    signature: Signature,
}

impl Decayed {
    /// Both.
    pub(super) fn all() -> [AggregateUDF; 2] {
        let signature = || Signature::user_defined(Volatility::Immutable);
        ["decayed_sum", "decayed_count"].map(|name| AggregateUDF::from(Decayed { name, signature: signature() }))
    }
}

impl AggregateUDFImpl for Decayed {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        Ok(arg_types.to_vec())
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        internal_err!("a sum of terms stands for {}", self.name)
    }
}

/// The terms at `now`, and the rows that have one as far as age decides. `values`: what is summed; `None`: rows are counted.
pub(super) fn terms(
    values: Option<&ArrayRef>,
    times: &ArrayRef,
    half_life: &Expr,
    now: i64,
) -> Result<(Float64Array, BooleanArray)> {
    let half_life = micros(half_life)?;
    let times = times.as_primitive::<TimestampMicrosecondType>();
    let ages: Vec<i64> = (0..times.len()).map(|row| now - times.value(row)).collect();
    let term = |(row, age): (usize, &i64)| {
        let weight = f64::exp2(-(*age as f64 / half_life as f64));
        match values {
            None => Ok(Some(weight)),
            Some(values) if values.is_null(row) => Ok(None),
            Some(values) => Ok(Some(double(values, row)? * weight)),
        }
    };
    let terms = ages.iter().enumerate().map(term).collect::<Result<Float64Array>>()?;
    let lives = ages.iter().map(|age| Some(i128::from(*age) < 64 * i128::from(half_life))).collect();
    Ok((terms, lives))
}

fn micros(half_life: &Expr) -> Result<i64> {
    let length = match half_life {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(i)), _) => {
            i128::from(i.days) * 86_400_000_000 + i128::from(i.nanoseconds / 1_000)
        }
        other => return internal_err!("a half-life that is {other}"),
    };
    i64::try_from(length).map_err(|_| exec_datafusion_err!("the half-life is too long"))
}

/// The nearest double.
fn double(values: &ArrayRef, row: usize) -> Result<f64> {
    let (whole, scale): (i128, u32) = match values.data_type() {
        DataType::Float64 => return Ok(values.as_primitive::<Float64Type>().value(row)),
        DataType::Int32 => (values.as_primitive::<Int32Type>().value(row).into(), 0),
        DataType::Int64 => (values.as_primitive::<Int64Type>().value(row).into(), 0),
        DataType::Decimal128(_, scale @ 0..) => {
            (values.as_primitive::<Decimal128Type>().value(row), scale.unsigned_abs().into())
        }
        other => return internal_err!("a decayed sum over {other}"),
    };
    Ok(nearest_double(&BigInt::from(whole), &BigUint::from(10u32).pow(scale), 0))
}
