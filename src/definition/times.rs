//! Times cut to the beginning of an hour, a week, a bin, and times moved by a length of time: in microseconds, over the
//! whole calendar.
//!
//! DataFusion's own `date_bin` and `date_trunc` count in nanoseconds, of which 64 bits reach from 1677 to 2262:
//! 9999-12-31, which many tables have for "until further notice", would fail or silently be null. Its sum of a time and a
//! duration counts on beyond the calendar, where its sum of a time and an interval fails.
//!
//! Invariant: a time that is not of the calendar is neither cut nor moved, and none comes of it: that is an error. What
//! was cut is at most the time itself.
//! Neighbours: `calls` and `meaning` put them in the place of DataFusion's; `verify` has its own.

use std::fmt;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::kernels::numeric::{add, sub};
use arrow::datatypes::{DataType, DurationMicrosecondType, FieldRef, Schema, TimeUnit, TimestampMicrosecondType};
use chrono::{DateTime, Datelike, Months, NaiveDate};
use datafusion::common::{Result, ScalarValue, exec_err, internal_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::BinaryExpr;
use datafusion::physical_expr_common::datum::apply;

use super::timestamp;
use crate::time::is_of_calendar;

/// The name of [`bin`] in a plan.
pub(super) const BIN: &str = "date_bin_micros";
/// The name of [`trunc`] in a plan.
pub(super) const TRUNC: &str = "date_trunc_micros";

/// `date_bin(width, time [, origin])`: the beginning of the bin in which the time lies.
pub(super) fn bin(args: Vec<Expr>) -> Expr {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
        let width = DataType::Duration(TimeUnit::Microsecond);
        let two = TypeSignature::Exact(vec![width.clone(), timestamp()]);
        let three = TypeSignature::Exact(vec![width, timestamp(), timestamp()]);
        let signature = Signature::one_of(vec![two, three], Volatility::Immutable);
        Arc::new(ScalarUDF::new_from_impl(Cut { name: BIN, signature }))
    });
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&FUNCTION), args))
}

/// `date_trunc('field', time)`.
pub(super) fn trunc(args: Vec<Expr>) -> Expr {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
        let signature = Signature::exact(vec![DataType::Utf8, timestamp()], Volatility::Immutable);
        Arc::new(ScalarUDF::new_from_impl(Cut { name: TRUNC, signature }))
    });
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&FUNCTION), args))
}

/// A sum or a difference, if it is of a time and a length of time: such that both times are of the calendar. Which they
/// are is asked of the rows alone, so that an expression keeps its text.
pub(super) fn moved(calculation: BinaryExpr, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
    let length = DataType::Duration(TimeUnit::Microsecond);
    let types = [calculation.left().data_type(schema)?, calculation.right().data_type(schema)?];
    Ok(match (types, calculation.op()) {
        ([time, by], Operator::Plus | Operator::Minus) if time == timestamp() && by == length => {
            Arc::new(Moved { calculation, time_is_left: true })
        }
        ([by, time], Operator::Plus) if time == timestamp() && by == length => {
            Arc::new(Moved { calculation, time_is_left: false })
        }
        _ => Arc::new(calculation),
    })
}

/// See [`moved`].
#[derive(Debug, PartialEq, Eq, Hash)]
struct Moved {
    calculation: BinaryExpr,
    time_is_left: bool,
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.calculation.fmt(f)
    }
}

impl PhysicalExpr for Moved {
    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.calculation.return_field(schema)
    }

    fn evaluate(&self, rows: &RecordBatch) -> Result<ColumnarValue> {
        let [left, right] = [self.calculation.left().evaluate(rows)?, self.calculation.right().evaluate(rows)?];
        let moved = match self.calculation.op() {
            Operator::Minus => apply(&left, &right, sub)?,
            _ => apply(&left, &right, add)?,
        };
        let time = if self.time_is_left { left } else { right };

        let (times, all) = (time.to_array(rows.num_rows())?, moved.to_array(rows.num_rows())?);
        let [times, all] = [&times, &all].map(|a| a.as_primitive::<TimestampMicrosecondType>());
        for (time, moved) in times.iter().zip(all) {
            let (Some(time), Some(moved)) = (time, moved) else { continue };
            if let Some(beyond) = [time, moved].into_iter().find(|t| !is_of_calendar(*t)) {
                return exec_err!("{beyond} microseconds since 1970 are beyond the calendar");
            }
        }
        Ok(moved)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.calculation.children()
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let [left, right]: [Arc<dyn PhysicalExpr>; 2] = match children.try_into() {
            Ok(sides) => sides,
            Err(_) => return internal_err!("a sum has two sides"),
        };
        let calculation = BinaryExpr::new(left, *self.calculation.op(), right).with_fail_on_overflow(true);
        Ok(Arc::new(Moved { calculation, time_is_left: self.time_is_left }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.calculation.fmt_sql(f)
    }
}

/// Either of the two that cut.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Cut {
    name: &'static str,
    signature: Signature,
}

impl ScalarUDFImpl for Cut {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(timestamp())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        // Asked for once: it is a literal.
        let field = match &args.args[0] {
            ColumnarValue::Scalar(ScalarValue::Utf8(Some(field))) => field.to_lowercase(),
            _ => String::new(),
        };
        let arrays: Vec<ArrayRef> = args.args.iter().map(|a| a.to_array(args.number_rows)).collect::<Result<_>>()?;
        let times = arrays[1].as_primitive::<TimestampMicrosecondType>();
        let mut cut = Vec::with_capacity(times.len());
        for n in 0..times.len() {
            if arrays.iter().any(|a| a.is_null(n)) {
                cut.push(None);
                continue;
            }
            let time = times.value(n);
            let origin = arrays.get(2).map_or(0, |a| a.as_primitive::<TimestampMicrosecondType>().value(n));
            let began = if self.name == TRUNC {
                beginning(&field, time)
            } else {
                bin_of(time, arrays[0].as_primitive::<DurationMicrosecondType>().value(n), origin)
            };
            let Some(began) = began.filter(|_| is_of_calendar(time) && is_of_calendar(origin)) else {
                return exec_err!("a time beyond the calendar cannot be cut");
            };
            cut.push(Some(began));
        }
        Ok(ColumnarValue::Array(Arc::new(TimestampMicrosecondArray::from(cut))))
    }
}

fn bin_of(time: i64, width: i64, origin: i64) -> Option<i64> {
    if width <= 0 {
        return None;
    }
    let since = (i128::from(time) - i128::from(origin)).rem_euclid(i128::from(width));
    i64::try_from(i128::from(time) - since).ok().filter(|t| is_of_calendar(*t))
}

const DAY: i64 = 86_400_000_000;

fn beginning(field: &str, time: i64) -> Option<i64> {
    let floor = |unit: i64| time.checked_sub(time.rem_euclid(unit));
    match field {
        "microsecond" => Some(time),
        "millisecond" => floor(1_000),
        "second" => floor(1_000_000),
        "minute" => floor(60_000_000),
        "hour" => floor(3_600_000_000),
        "day" => floor(DAY),
        // The first day of all was a Thursday, and weeks begin on Mondays.
        "week" => bin_of(time, 7 * DAY, -3 * DAY),
        "month" => month(time, 1),
        "quarter" => month(time, 3),
        "year" => month(time, 12),
        _ => None,
    }
}

/// The beginning of the group of so many months.
fn month(time: i64, months: u32) -> Option<i64> {
    let date: NaiveDate = DateTime::from_timestamp_micros(time)?.date_naive();
    let first = date.with_day(1)?.checked_sub_months(Months::new(date.month0() % months))?;
    Some(first.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros())
}
