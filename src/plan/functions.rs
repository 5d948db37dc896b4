//! Scalar functions that queries have beyond DataFusion's: `now()` in microseconds, and `list_sum`.
//!
//! Invariants: `now()` is never computed here; it stands in a plan until a window (`plan::temporal`) or a column (`plan::feature`)
//! takes its place, so a query that runs it is a bug. Neighbours: `plan::bind` registers them; the oracle has its own.

use std::sync::Arc;

use arrow::array::{Array, AsArray, Float64Array, Int64Array};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

use crate::definition::timestamp;
use crate::exact_sum::ExactSum;

/// `now()`: the moment you ask.
pub fn now() -> ScalarUDF {
    ScalarUDF::new_from_impl(Now {
        signature: Signature::new(TypeSignature::Nullary, Volatility::Stable),
        aliases: vec!["current_timestamp".into()],
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Now {
    signature: Signature,
    aliases: Vec<String>,
}

impl ScalarUDFImpl for Now {
    fn name(&self) -> &str {
        "now"
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
        exec_err!("now() was not replaced before the query ran")
    }
}

/// `list_sum(list)`, also `array_sum`: the sum of a list's elements without its nulls; null for none.
pub fn list_sum() -> ScalarUDF {
    ScalarUDF::new_from_impl(ListSum {
        signature: Signature::any(1, Volatility::Immutable),
        aliases: vec!["array_sum".into()],
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ListSum {
    signature: Signature,
    aliases: Vec<String>,
}

impl ScalarUDFImpl for ListSum {
    fn name(&self) -> &str {
        "list_sum"
    }
    fn aliases(&self) -> &[String] {
        &self.aliases
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        match args {
            [DataType::List(child)] => match child.data_type() {
                DataType::Float64 => Ok(DataType::Float64),
                DataType::Int32 | DataType::Int64 => Ok(DataType::Int64),
                other => plan_err!("list_sum takes a list of DOUBLE, INT or BIGINT, not of {other}"),
            },
            _ => plan_err!("list_sum takes a list"),
        }
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let lists = args.args[0].to_array(args.number_rows)?;
        let lists = lists.as_list::<i32>();
        let elements = |n: usize| (!lists.is_null(n)).then(|| lists.value(n)).filter(|e| e.null_count() < e.len());
        if args.return_field.data_type() == &DataType::Float64 {
            let sums = (0..lists.len()).map(|n| {
                elements(n).map(|e| {
                    let mut sum = ExactSum::default();
                    e.as_primitive::<Float64Type>().iter().flatten().for_each(|x| sum.add(x, 1));
                    sum.value()
                })
            });
            return Ok(ColumnarValue::Array(Arc::new(sums.collect::<Float64Array>())));
        }
        let mut sums = Vec::with_capacity(lists.len());
        for n in 0..lists.len() {
            let Some(e) = elements(n) else {
                sums.push(None);
                continue;
            };
            let e = arrow::compute::cast(&e, &DataType::Int64)?;
            let mut sum = 0i64;
            for x in e.as_primitive::<Int64Type>().iter().flatten() {
                sum = match sum.checked_add(x) {
                    Some(sum) => sum,
                    None => return exec_err!("list_sum does not fit BIGINT"),
                };
            }
            sums.push(Some(sum));
        }
        Ok(ColumnarValue::Array(Arc::new(Int64Array::from(sums))))
    }
}
