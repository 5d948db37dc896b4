//! The oracle's own scalar functions: `now`, the floor of an event time to a view's grid, `array_sum`.
//!
//! Invariants: none reads a clock. Neighbours: `recompute` registers them, `oracle_plan` puts the floor into temporal
//! predicates and the instant in the place of `now`; `oracle_functions` has the aggregates.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, TimestampMicrosecondType};
use datafusion::common::{Result, exec_err, internal_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::oracle_functions::Moments;
use crate::definition::timestamp;

/// The name under which [`Now`] is found in a plan.
pub(super) const NOW: &str = "now";

/// `now()` in microseconds. Every call is replaced by the asked instant before anything runs.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Now {
    aliases: Vec<String>,
    signature: Signature,
}

impl Now {
    /// With its alias `current_timestamp`.
    pub(super) fn function() -> ScalarUDF {
        let signature = Signature::nullary(Volatility::Stable);
        ScalarUDF::new_from_impl(Now { aliases: vec!["current_timestamp".to_string()], signature })
    }
}

impl ScalarUDFImpl for Now {
    fn name(&self) -> &str {
        NOW
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(timestamp())
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        internal_err!("now() was not replaced by the asked instant")
    }
}

/// An event time rounded down to a view's `resolution`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct FloorToGrid {
    grid: i64,
    signature: Signature,
}

impl FloorToGrid {
    /// `grid`: microseconds, positive.
    pub(super) fn function(grid: i64) -> ScalarUDF {
        let signature = Signature::exact(vec![timestamp()], Volatility::Immutable);
        ScalarUDF::new_from_impl(FloorToGrid { grid, signature })
    }
}

impl ScalarUDFImpl for FloorToGrid {
    fn name(&self) -> &str {
        "floor_to_grid"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(timestamp())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let times = args.args[0].to_array(args.number_rows)?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let floor = |time: i64| time - time.rem_euclid(self.grid);
        let floored: TimestampMicrosecondArray = times.iter().map(|time| time.map(floor)).collect();
        Ok(ColumnarValue::Array(Arc::new(floored)))
    }
}

/// `array_sum(list)`, also `list_sum`: the sum of the elements that are not null; null if there are none.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ArraySum {
    aliases: Vec<String>,
    signature: Signature,
}

impl ArraySum {
    /// Over lists of DOUBLE or BIGINT.
    pub(super) fn function() -> ScalarUDF {
        let signature = Signature::user_defined(Volatility::Immutable);
        ScalarUDF::new_from_impl(ArraySum { aliases: vec!["list_sum".to_string()], signature })
    }
}

impl ScalarUDFImpl for ArraySum {
    fn name(&self) -> &str {
        "array_sum"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let [DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _)] = arg_types else {
            return plan_err!("array_sum takes one list");
        };
        let element = match field.data_type() {
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => DataType::Int64,
            DataType::Null | DataType::Float16 | DataType::Float32 | DataType::Float64 => DataType::Float64,
            other => return plan_err!("array_sum does not take a list of {other}"),
        };
        Ok(vec![DataType::List(Arc::new(Field::new_list_field(element, true)))])
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match arg_types {
            [DataType::List(field)] => Ok(field.data_type().clone()),
            other => plan_err!("array_sum does not take {other:?}"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let lists = args.args[0].to_array(args.number_rows)?;
        let lists = lists.as_list::<i32>();
        let moments = lists.iter().map(|list| list.map(|list| moments_of(&list)).transpose());
        let moments: Vec<Option<Moments>> = moments.collect::<Result<_>>()?;
        let moments = moments.iter().map(|m| m.as_ref().filter(|m| m.count > 0));
        Ok(ColumnarValue::Array(match args.return_field.data_type() {
            DataType::Int64 => {
                // A row on which a feature's expression fails is refused, and has no null.
                let fits = |m: &Moments| {
                    let sum = i64::try_from(m.sum.integer());
                    sum.or_else(|_| exec_err!("the sum of a list does not fit BIGINT"))
                };
                Arc::new(moments.map(|m| m.map(fits).transpose()).collect::<Result<Int64Array>>()?)
            }
            _ => Arc::new(moments.map(|m| Some(m?.sum_over(1, 0))).collect::<Float64Array>()),
        }))
    }
}

fn moments_of(list: &ArrayRef) -> Result<Moments> {
    let mut moments = Moments::default();
    match list.data_type() {
        DataType::Float64 => {
            list.as_primitive::<Float64Type>().iter().flatten().for_each(|value| moments.add_double(value, false));
        }
        DataType::Int64 => {
            list.as_primitive::<Int64Type>().iter().flatten().for_each(|v| moments.add_integer(v.into(), false));
        }
        other => return exec_err!("array_sum over a list of {other}"),
    }
    Ok(moments)
}
