//! Times cut to the beginning of an hour, a week, a bin: in microseconds, over the whole calendar.
//!
//! DataFusion's own `date_bin` and `date_trunc` count in nanoseconds, of which 64 bits reach from 1677 to 2262:
//! 9999-12-31, which many tables have for "until further notice", would fail or silently be null.
//!
//! Invariant: what they give is at most the time itself, and an instant of the calendar; a time that is none is an error.
//! Neighbours: `calls` puts them in the place of DataFusion's; `verify` has its own.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, DurationMicrosecondType, TimeUnit, TimestampMicrosecondType};
use chrono::{DateTime, Datelike, Months, NaiveDate};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

use super::timestamp;

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

/// Either of the two.
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
            let began = if self.name == TRUNC {
                beginning(&field, time)
            } else {
                let width = arrays[0].as_primitive::<DurationMicrosecondType>().value(n);
                let origin = arrays.get(2).map_or(0, |a| a.as_primitive::<TimestampMicrosecondType>().value(n));
                bin_of(time, width, origin)
            };
            let Some(began) = began.filter(|_| in_calendar(time)) else {
                return exec_err!("a time beyond the calendar cannot be cut");
            };
            cut.push(Some(began));
        }
        Ok(ColumnarValue::Array(Arc::new(TimestampMicrosecondArray::from(cut))))
    }
}

fn in_calendar(time: i64) -> bool {
    DateTime::from_timestamp_micros(time).is_some()
}

fn bin_of(time: i64, width: i64, origin: i64) -> Option<i64> {
    if width <= 0 {
        return None;
    }
    let since = (i128::from(time) - i128::from(origin)).rem_euclid(i128::from(width));
    i64::try_from(i128::from(time) - since).ok().filter(|t| in_calendar(*t))
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
