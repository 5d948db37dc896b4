//! The aggregate functions: which there are, which arguments they take and what they give; and those that DataFusion does
//! not have, or has with other types, as far as its planner must know them.
//!
//! Invariants: what is planned under a name here has the type that [`result_type`] says. Neighbours: `aggregate` reads calls;
//! `fold` computes them, the oracle has functions of its own; `definition::arguments` has judged constants among the arguments.

use std::hash::Hash;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Expr, Signature, Volatility};

use super::refusal::{LowerError, refuse};
use crate::definition::{LISTED, sql_name};
use crate::fold::plan::Function;

/// Which function a call names.
pub(super) fn function_of(name: &str, distinct: bool, args: &[Expr]) -> Result<Function, LowerError> {
    let function = match name {
        "count" if distinct => Function::CountDistinct,
        "count" => Function::Count,
        "decayed_sum" => Function::DecayedSum { half_life: constant(name, args.get(1), length)? },
        "decayed_count" => Function::DecayedCount { half_life: constant(name, args.first(), length)? },
        "approx_distinct" => Function::ApproxDistinct,
        "sum" => Function::Sum,
        "avg" => Function::Avg,
        "min" => Function::Min,
        "max" => Function::Max,
        "first_value" => Function::First,
        "last_value" => Function::Last,
        "var" | "var_samp" => Function::Var,
        "stddev" | "stddev_samp" => Function::Stddev,
        "var_pop" => Function::VarPop,
        "stddev_pop" => Function::StddevPop,
        "covar_samp" => Function::CovarSamp,
        "covar_pop" => Function::CovarPop,
        "corr" => Function::Corr,
        "regr_slope" => Function::RegrSlope,
        "skewness" => Function::Skewness,
        "kurtosis" => Function::Kurtosis,
        "bool_and" => Function::BoolAnd,
        "bool_or" => Function::BoolOr,
        "median" => Function::Median,
        "mode" => Function::Mode,
        "entropy" => Function::Entropy,
        "top_k" => Function::TopK { k: constant(name, args.get(1), whole)?, distinct },
        "bottom_k" => Function::BottomK { k: constant(name, args.get(1), whole)?, distinct },
        // Whether it begins with the latest is for its ORDER BY to say.
        LISTED => Function::ArrayAgg { limit: constant(name, args.get(1), whole)?, distinct, latest_first: false },
        "approx_percentile_cont" => Function::Percentile { millionths: constant(name, args.get(1), fraction)? },
        other => {
            let help = "supported: count, count(distinct), sum, avg, min, max, first_value, last_value, stddev, var, \
                        bool_and, bool_or; docs/sql.md has them all";
            return refuse(format!("the aggregate {other} is not supported yet"), help);
        }
    };
    let takes_distinct = match function {
        Function::Min | Function::Max | Function::BoolAnd | Function::BoolOr | Function::CountDistinct => true,
        other => other.is_of_best_values() || matches!(other, Function::ArrayAgg { .. }),
    };
    if distinct && !takes_distinct {
        return refuse(format!("{name}(DISTINCT …) is not supported yet"), "count(DISTINCT …) is");
    }
    let constants = match function {
        Function::TopK { .. } | Function::BottomK { .. } | Function::Percentile { .. } | Function::ArrayAgg { .. } => 1,
        other if other.half_life().is_some() => 1,
        _ => 0,
    };
    match (values_of(function), args.len() == values_of(function) + constants) {
        (_, true) => Ok(function),
        (2, false) => refuse(format!("{name} takes two arguments"), format!("write {name}(y, x)")),
        _ if constants > 0 => refuse(format!("{name} takes a column and a constant"), "docs/sql.md has an example"),
        _ => refuse(format!("{name} takes one argument"), "wrap several in struct(…)"),
    }
}

/// A constant argument, read as its function reads it. What it may be, `definition` has said at its place in the text.
fn constant<T>(name: &str, arg: Option<&Expr>, read: fn(&ScalarValue) -> Option<T>) -> Result<T, LowerError> {
    match arg {
        Some(Expr::Literal(value, _)) if let Some(read) = read(value) => Ok(read),
        _ => refuse(format!("{name} takes a constant as its last argument"), "docs/sql.md has an example"),
    }
}

fn whole(value: &ScalarValue) -> Option<u32> {
    match value {
        ScalarValue::Int64(Some(k)) => u32::try_from(*k).ok().filter(|k| *k > 0),
        _ => None,
    }
}

/// The microseconds of an interval without months.
fn length(value: &ScalarValue) -> Option<i64> {
    let micros = match value {
        ScalarValue::IntervalMonthDayNano(Some(i)) if i.months == 0 && i.nanoseconds % 1_000 == 0 => {
            i64::from(i.days).checked_mul(86_400_000_000)?.checked_add(i.nanoseconds / 1_000)?
        }
        ScalarValue::DurationMicrosecond(Some(micros)) => *micros,
        _ => return None,
    };
    (micros > 0).then_some(micros)
}

/// Millionths of a fraction within 0 and 1 that has no more places.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within 0 and a million")]
fn fraction(value: &ScalarValue) -> Option<u32> {
    let x = match value {
        ScalarValue::Int64(Some(x @ 0..=1)) => *x as f64,
        ScalarValue::Float64(Some(x)) if (0.0..=1.0).contains(x) => *x,
        _ => return None,
    };
    let millionths = (x * 1e6).round();
    (millionths / 1e6 == x).then_some(millionths as u32)
}

/// How many values of a row a function reads: its first arguments.
pub(super) fn values_of(function: Function) -> usize {
    match function {
        Function::CovarSamp | Function::CovarPop | Function::Corr | Function::RegrSlope => 2,
        Function::DecayedCount { .. } => 0,
        _ => 1,
    }
}

/// The type of a call's result; of functions that DataFusion has, its own.
pub(super) fn result_type(function: Function, inputs: &[&DataType], name: &str) -> Result<DataType, LowerError> {
    use Function as F;
    let number =
        |t: &DataType| matches!(t, DataType::Int32 | DataType::Int64 | DataType::Float64 | DataType::Decimal128(_, _));
    let ordered =
        function.is_of_best_values() || matches!(function, F::Min | F::Max | F::Mode | F::Entropy | F::ApproxDistinct);
    let numbers_only = !ordered
        && !matches!(
            function,
            F::Count | F::CountDistinct | F::First | F::Last | F::ArrayAgg { .. } | F::BoolAnd | F::BoolOr
        );
    if let Some(other) = inputs.iter().find(|t| numbers_only && !number(t)) {
        return refuse(
            format!("{name} over {} is not supported", sql_name(other)),
            "cast it to BIGINT, DOUBLE or DECIMAL",
        );
    }
    match (function, inputs.first().copied()) {
        (F::Count | F::CountDistinct, _) => Ok(DataType::Int64),
        (F::Sum, Some(DataType::Int32 | DataType::Int64)) => Ok(DataType::Int64),
        (F::Sum, Some(DataType::Decimal128(p, s))) => Ok(DataType::Decimal128((p + 10).min(38), *s)),
        (F::Avg, Some(DataType::Decimal128(p, s))) => Ok(DataType::Decimal128((p + 4).min(38), (s + 4).min(38))),
        (F::BoolAnd | F::BoolOr, _) => Ok(DataType::Boolean),
        _ if numbers_only => Ok(DataType::Float64),
        (_, Some(DataType::Duration(_) | DataType::Interval(_))) => {
            refuse(format!("{name} over an interval is not supported"), "write date_part('epoch', a - b): its seconds")
        }
        (_, Some(t)) if ordered && t.is_nested() => {
            refuse(format!("{name} over {t} is not supported"), "aggregate one of its elements")
        }
        (F::Entropy, _) => Ok(DataType::Float64),
        (F::ApproxDistinct, _) => Ok(DataType::Int64),
        (F::TopK { .. } | F::BottomK { .. } | F::ArrayAgg { .. }, Some(t)) => Ok(list_of(t)),
        (_, Some(t)) => Ok(t.clone()),
        (_, None) => refuse(format!("{name} takes an argument"), "name a column"),
    }
}

fn list_of(item: &DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(item.clone(), true)))
}

/// What a function gives, for the planner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Gives {
    /// BIGINT.
    Whole,
    /// DOUBLE.
    Double,
    /// What it takes.
    Same,
    /// A list of what it takes.
    List,
}

/// The functions that DataFusion does not have, or has with arguments cast to DOUBLE: (name, aliases, what it gives).
const PLANNED: [(&str, &[&str], Gives); 18] = [
    ("approx_distinct", &[], Gives::Whole),
    ("var_pop", &["var_population"], Gives::Double),
    ("stddev_pop", &[], Gives::Double),
    ("covar_samp", &["covar"], Gives::Double),
    ("covar_pop", &[], Gives::Double),
    ("corr", &[], Gives::Double),
    ("regr_slope", &[], Gives::Double),
    ("skewness", &[], Gives::Double),
    ("kurtosis", &[], Gives::Double),
    ("median", &[], Gives::Double),
    ("mode", &[], Gives::Same),
    ("entropy", &[], Gives::Double),
    (LISTED, &[], Gives::List),
    ("decayed_sum", &[], Gives::Double),
    ("decayed_count", &[], Gives::Double),
    ("top_k", &[], Gives::List),
    ("bottom_k", &[], Gives::List),
    ("approx_percentile_cont", &[], Gives::Double),
];

/// All of these.
pub(super) fn planned() -> impl Iterator<Item = AggregateUDF> {
    PLANNED.into_iter().map(|(name, aliases, gives)| {
        let aliases = aliases.iter().map(ToString::to_string).collect();
        let signature = Signature::user_defined(Volatility::Immutable);
        AggregateUDF::new_from_impl(Planned { name, aliases, gives, signature })
    })
}

/// A function's name and type. It is never computed by DataFusion, whose planner gets arguments of any type past it: what
/// they are is for [`result_type`] to say.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Planned {
    name: &'static str,
    aliases: Vec<String>,
    gives: Gives,
    signature: Signature,
}

impl AggregateUDFImpl for Planned {
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
        Ok(arg_types.to_vec())
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(match self.gives {
            Gives::Whole => DataType::Int64,
            Gives::Double => DataType::Float64,
            // A call without an argument is refused when it is read.
            Gives::Same => arg_types.first().cloned().unwrap_or(DataType::Null),
            Gives::List => list_of(arg_types.first().unwrap_or(&DataType::Null)),
        })
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.name == LISTED
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        exec_err!("{} is not computed by DataFusion", self.name)
    }
}
