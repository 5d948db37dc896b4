//! The oracle's reading of scalar expressions, where DataFusion's own would not be SQL's: lengths of time, times in other
//! units than microseconds, negation, the zeros and NaNs of doubles, and what `oracle_exact` has.
//!
//! Arrow compares intervals field by field, so that 48 hours are less than a day: here they are compared as whole numbers
//! of microseconds. A negated integer may not fit: here it is a subtraction, which `recompute` checks. A double that was
//! computed has one zero and one NaN.
//!
//! Invariants: it shares no code with `definition::meaning`, which reads the same queries for the engine; the names of a
//! plan's columns stay. Neighbours: `recompute` applies it to a plan before types are coerced.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, DurationMicrosecondArray, Float64Array, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, DurationMicrosecondType, Field, FieldRef, Float64Type, IntervalMonthDayNanoType, IntervalUnit, TimeUnit,
};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DataFusionError, Result, ScalarValue, exec_err};
use datafusion::logical_expr::expr::{Case, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility, lit,
};
use datafusion::sql::sqlparser::ast;

use super::oracle_exact::{Own, meet};
use crate::definition::timestamp;

/// A plan whose expressions mean what SQL says.
pub(super) fn read(plan: LogicalPlan) -> Result<LogicalPlan> {
    let read = plan.transform_up(|node| {
        let mut schema = DFSchema::empty();
        node.inputs().into_iter().for_each(|input| schema.merge(input.schema()));
        let names = NamePreserver::new(&node);
        let node = node.map_expressions(|expr| {
            let name = names.save(&expr);
            Ok(expr.transform_up(|e| reading(e, &schema))?.update_data(|e| name.restore(e)))
        })?;
        node.map_data(LogicalPlan::recompute_schema)
    })?;
    Ok(read.data)
}

/// One node, its children being read already.
fn reading(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let expr = match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(op) => {
            let mut sides = compared(vec![*left, *right], schema)?;
            let right = Box::new(sides.remove(1));
            Expr::BinaryExpr(BinaryExpr::new(Box::new(sides.remove(0)), op, right))
        }
        Expr::Between(mut between) => {
            let mut sides = [&mut between.expr, &mut between.low, &mut between.high];
            let taken = sides.iter_mut().map(|side| std::mem::take(side.as_mut())).collect();
            for (side, read) in sides.into_iter().zip(compared(taken, schema)?) {
                **side = read;
            }
            Expr::Between(between)
        }
        Expr::InList(mut list) => {
            let mut sides = compared(std::iter::once(*list.expr).chain(list.list).collect(), schema)?;
            list.expr = Box::new(sides.remove(0));
            list.list = sides;
            Expr::InList(list)
        }
        Expr::Case(Case { expr: Some(operand), when_then_expr, else_expr }) => {
            let (whens, thens): (Vec<_>, Vec<_>) = when_then_expr.into_iter().map(|(when, then)| (*when, then)).unzip();
            let mut sides = compared(std::iter::once(*operand).chain(whens).collect(), schema)?;
            let operand = Some(Box::new(sides.remove(0)));
            Expr::Case(Case {
                expr: operand,
                when_then_expr: sides.into_iter().map(Box::new).zip(thens).collect(),
                else_expr,
            })
        }
        Expr::Negative(e) => opposite(*e, schema)?,
        // DataFusion cuts the seconds of a length of time.
        Expr::ScalarFunction(mut f) if f.func.name() == "date_part" && is_length(&f.args[1].get_type(schema)?) => {
            let micros = counted(f.args.swap_remove(1), schema)?;
            micros.cast_to(&DataType::Float64, schema)? / lit(1_000_000.0)
        }
        Expr::ScalarFunction(f) if ["date_bin", "date_trunc"].contains(&f.func.name()) => {
            let own = if f.func.name() == "date_bin" { Own::Bin } else { Own::Trunc };
            let mut args = f.args.into_iter();
            let mut cut =
                args.next().map_or(Ok(vec![]), |first| Ok::<_, DataFusionError>(vec![length(first, schema)?]))?;
            for time in args {
                cut.push(time.cast_to(&timestamp(), schema)?);
            }
            own.of(cut)
        }
        Expr::ScalarFunction(mut f) => {
            f.args = f.args.into_iter().map(|e| length(e, schema)).collect::<Result<_>>()?;
            Expr::ScalarFunction(f)
        }
        other => other,
    };
    Ok(Transformed::yes(settled(expr, schema)?))
}

fn compares(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

fn is_length(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Interval(IntervalUnit::MonthDayNano) | DataType::Duration(_))
}

/// What is compared with each other, so that it can be.
fn compared(sides: Vec<Expr>, schema: &DFSchema) -> Result<Vec<Expr>> {
    meet(sides.into_iter().map(|e| counted(e, schema)).collect::<Result<_>>()?, schema)
}

/// A length of time as its microseconds; anything else as it is.
fn counted(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    Ok(if is_length(&expr.get_type(schema)?) { Microseconds::of(expr, DataType::Int64) } else { expr })
}

/// A length of time in microseconds; anything else as it is.
fn length(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let length = is_length(&expr.get_type(schema)?);
    Ok(if length { Microseconds::of(expr, DataType::Duration(TimeUnit::Microsecond)) } else { expr })
}

/// `-x` as `0 - x`, which says when it does not fit.
fn opposite(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    Ok(match expr.get_type(schema)? {
        whole @ (DataType::Int32 | DataType::Int64) => {
            let zero = Expr::Literal(ScalarValue::new_zero(&whole)?, None);
            Expr::BinaryExpr(BinaryExpr::new(Box::new(zero), Operator::Minus, Box::new(expr)))
        }
        _ => Expr::Negative(Box::new(expr)),
    })
}

/// What an expression computed, in the form in which it is kept.
fn settled(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    if let Expr::Literal(ScalarValue::Float64(Some(x)), _) = &expr
        && *x == 0.0
    {
        return Ok(Expr::Literal(ScalarValue::Float64(Some(0.0)), None));
    }
    use Expr::{BinaryExpr as Binary, Cast, Negative, ScalarFunction as Call, TryCast};
    if !matches!(expr, Binary(_) | Negative(_) | Call(_) | Cast(_) | TryCast(_)) {
        return Ok(expr);
    }
    Ok(match expr.get_type(schema)? {
        DataType::Float64 => Plain::of(expr),
        DataType::Decimal128(_, _) if matches!(expr, Binary(_)) => Own::Decimal.of(vec![expr]),
        DataType::Timestamp(TimeUnit::Microsecond, None) => moved(expr, schema)?,
        DataType::Timestamp(_, _) => expr.cast_to(&timestamp(), schema)?,
        DataType::UInt32 | DataType::UInt64 => expr.cast_to(&DataType::Int64, schema)?,
        _ => expr,
    })
}

/// A time to which a duration is added, or from which one is taken: DataFusion sees to the calendar for intervals alone.
fn moved(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let Expr::BinaryExpr(BinaryExpr { left, right, .. }) = &expr else { return Ok(expr) };
    let is_duration = |e: &Expr| Ok::<_, DataFusionError>(matches!(e.get_type(schema)?, DataType::Duration(_)));
    let time = match (is_duration(left)?, is_duration(right)?) {
        (true, false) => right,
        (false, true) => left,
        _ => return Ok(expr),
    };
    Ok(Own::Moved.of(vec![time.as_ref().clone(), expr]))
}

/// TIMESTAMP is microseconds.
#[derive(Debug)]
pub(super) struct Micros;

impl TypePlanner for Micros {
    fn plan_type_field(&self, written: &ast::DataType) -> Result<Option<FieldRef>> {
        Ok(match written {
            ast::DataType::Timestamp(None, ast::TimezoneInfo::None) => {
                Some(Arc::new(Field::new("", timestamp(), true)))
            }
            _ => None,
        })
    }
}

/// The name of [`Microseconds`] in a plan.
pub(super) const COUNTED: &str = "microseconds";

/// The microseconds of an interval without months or of a duration, as a number or as a duration.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Microseconds {
    result: DataType,
    signature: Signature,
}

impl Microseconds {
    fn of(expr: Expr, result: DataType) -> Expr {
        let function = Microseconds { result, signature: Signature::any(1, Volatility::Immutable) };
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::new_from_impl(function)), vec![expr]))
    }
}

impl ScalarUDFImpl for Microseconds {
    fn name(&self) -> &str {
        COUNTED
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.result.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let lengths = args.args[0].to_array(args.number_rows)?;
        let mut counted: Vec<Option<i64>> = Vec::with_capacity(lengths.len());
        if lengths.data_type() == &DataType::Interval(IntervalUnit::MonthDayNano) {
            for interval in lengths.as_primitive::<IntervalMonthDayNanoType>() {
                counted.push(match interval {
                    None => None,
                    Some(i) if i.months != 0 => return exec_err!("a month has no fixed length"),
                    Some(i) => {
                        let micros = i128::from(i.days) * 86_400_000_000 + i128::from(i.nanoseconds / 1_000);
                        let Ok(micros) = i64::try_from(micros) else { return exec_err!("the interval is too long") };
                        Some(micros)
                    }
                });
            }
        } else {
            let lengths = cast(&lengths, &DataType::Duration(TimeUnit::Microsecond))?;
            counted.extend(lengths.as_primitive::<DurationMicrosecondType>());
        }
        Ok(ColumnarValue::Array(match self.result {
            DataType::Int64 => Arc::new(Int64Array::from(counted)) as ArrayRef,
            _ => Arc::new(DurationMicrosecondArray::from(counted)),
        }))
    }
}

/// A double, with one zero and one NaN.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Plain {
    signature: Signature,
}

impl Plain {
    fn of(expr: Expr) -> Expr {
        static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
            let signature = Signature::exact(vec![DataType::Float64], Volatility::Immutable);
            Arc::new(ScalarUDF::new_from_impl(Plain { signature }))
        });
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&FUNCTION), vec![expr]))
    }
}

impl ScalarUDFImpl for Plain {
    fn name(&self) -> &str {
        "plain_double"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let doubles = args.args[0].to_array(args.number_rows)?;
        let plain = |x: f64| match x {
            x if x.is_nan() => f64::NAN,
            // Of both zeros the one without a sign.
            0.0 => 0.0,
            x => x,
        };
        let plain: Float64Array = doubles.as_primitive::<Float64Type>().iter().map(|x| x.map(plain)).collect();
        Ok(ColumnarValue::Array(Arc::new(plain)))
    }
}
