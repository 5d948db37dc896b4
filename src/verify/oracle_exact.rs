//! The oracle's own answer to what DataFusion rounds, wraps or cuts: which type two sides of a comparison meet in, how many
//! digits a computed decimal may have, where a week or a bin begins, and when a time that a duration is added to is none.
//!
//! Invariants: it shares no code with `definition::exact` and `definition::times`, which answer the same for the engine.
//! Neighbours: `oracle_meaning` puts them into a plan.

use std::sync::Arc;

use arrow::array::{Array, AsArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Decimal128Type, DurationMicrosecondType, TimestampMicrosecondType};
use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveDateTime, Timelike};
use datafusion::common::{DFSchema, Result, ScalarValue, exec_datafusion_err, exec_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::definition::timestamp;

/// What is compared with each other: dates and texts beside a time as times in microseconds, doubles that are literals
/// beside a decimal as decimals.
pub(super) fn meet(sides: Vec<Expr>, schema: &DFSchema) -> Result<Vec<Expr>> {
    let types = sides.iter().map(|e| e.get_type(schema)).collect::<Result<Vec<_>>>()?;
    let times = types.iter().any(|t| matches!(t, DataType::Timestamp(_, _)));
    let decimals = types.iter().any(|t| matches!(t, DataType::Decimal128(_, _)));
    let met = sides.into_iter().zip(types).map(|(side, data_type)| match (&side, data_type) {
        (_, DataType::Date32 | DataType::Utf8) if times => side.cast_to(&timestamp(), schema),
        (Expr::Literal(ScalarValue::Float64(Some(x)), _), _) if decimals => decimal(*x),
        _ => Ok(side),
    });
    met.collect()
}

/// The decimal with the digits of a literal.
fn decimal(x: f64) -> Result<Expr> {
    let text = format!("{x}");
    let after = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    let all = text.chars().filter(char::is_ascii_digit).count();
    let (Ok(precision), Ok(scale)) = (u8::try_from(all), i8::try_from(after)) else {
        return exec_err!("{x} has too many digits");
    };
    let value = ScalarValue::try_from_string(text, &DataType::Decimal128(precision, scale))?;
    Ok(Expr::Literal(value, None))
}

/// A function of the oracle's own, by what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Own {
    /// A decimal with at most as many digits as its type has.
    Decimal,
    /// `date_trunc`.
    Trunc,
    /// `date_bin`, its width a duration.
    Bin,
    /// A time, and the same moved by a duration: the latter, where both are of the calendar.
    Moved,
}

impl Own {
    /// The function, called.
    pub(super) fn of(self, args: Vec<Expr>) -> Expr {
        let function = OwnFunction { own: self, signature: Signature::variadic_any(Volatility::Immutable) };
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::new_from_impl(function)), args))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OwnFunction {
    own: Own,
    signature: Signature,
}

impl ScalarUDFImpl for OwnFunction {
    fn name(&self) -> &str {
        match self.own {
            Own::Decimal => "oracle_decimal",
            Own::Trunc => "oracle_trunc",
            Own::Bin => "oracle_bin",
            Own::Moved => "oracle_moved",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        Ok(match self.own {
            Own::Decimal => args[0].clone(),
            Own::Trunc | Own::Bin | Own::Moved => timestamp(),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = args.args.iter().map(|a| a.to_array(args.number_rows)).collect::<Result<Vec<_>>>()?;
        if let (Own::Decimal, DataType::Decimal128(precision, _)) = (self.own, arrays[0].data_type()) {
            let bound = 10i128.pow(u32::from(*precision));
            if let Some(value) =
                arrays[0].as_primitive::<Decimal128Type>().iter().flatten().find(|v| *v >= bound || *v <= -bound)
            {
                return exec_err!("{value} has more than {precision} digits");
            }
            return Ok(ColumnarValue::Array(Arc::clone(&arrays[0])));
        }
        let mut cut: Vec<Option<i64>> = vec![];
        for row in 0..args.number_rows {
            if arrays.iter().any(|a| a.is_null(row)) {
                cut.push(None);
                continue;
            }
            let time = |n: usize| {
                let micros = arrays[n].as_primitive::<TimestampMicrosecondType>().value(row);
                let time = DateTime::from_timestamp_micros(micros).map(|t| t.naive_utc());
                time.ok_or_else(|| exec_datafusion_err!("{micros} is beyond the calendar"))
            };
            let began = match self.own {
                Own::Trunc => truncated(&arrays[0].as_string::<i32>().value(row).to_lowercase(), time(1)?),
                Own::Moved => Some((time(0)?, time(1)?).1),
                Own::Bin | Own::Decimal => {
                    let width = arrays[0].as_primitive::<DurationMicrosecondType>().value(row);
                    let origin = if arrays.len() > 2 { time(2)? } else { DateTime::UNIX_EPOCH.naive_utc() };
                    binned(width, time(1)?, origin)
                }
            };
            let Some(began) = began else { return exec_err!("a bin that is not in the calendar") };
            cut.push(Some(began.and_utc().timestamp_micros()));
        }
        Ok(ColumnarValue::Array(Arc::new(TimestampMicrosecondArray::from(cut))))
    }
}

fn truncated(field: &str, time: NaiveDateTime) -> Option<NaiveDateTime> {
    let date = time.date();
    let midnight = |date: NaiveDate| date.and_hms_opt(0, 0, 0);
    match field {
        "year" => midnight(NaiveDate::from_ymd_opt(date.year(), 1, 1)?),
        "quarter" => midnight(NaiveDate::from_ymd_opt(date.year(), (date.month() - 1) / 3 * 3 + 1, 1)?),
        "month" => midnight(NaiveDate::from_ymd_opt(date.year(), date.month(), 1)?),
        "week" => midnight(date.checked_sub_days(Days::new(date.weekday().num_days_from_monday().into()))?),
        "day" => midnight(date),
        "hour" => date.and_hms_opt(time.hour(), 0, 0),
        "minute" => date.and_hms_opt(time.hour(), time.minute(), 0),
        "second" => time.with_nanosecond(0),
        "millisecond" => time.with_nanosecond(time.nanosecond() / 1_000_000 * 1_000_000),
        "microsecond" => Some(time),
        _ => None,
    }
}

fn binned(width: i64, time: NaiveDateTime, origin: NaiveDateTime) -> Option<NaiveDateTime> {
    let since = time.signed_duration_since(origin).num_microseconds().map(i128::from);
    // Two ends of the calendar are further apart than 64 bits of microseconds.
    let between = || i128::from(time.and_utc().timestamp_micros()) - i128::from(origin.and_utc().timestamp_micros());
    let since = since.unwrap_or_else(between);
    let mut over = since % i128::from(width);
    if over < 0 {
        over += i128::from(width);
    }
    time.checked_sub_signed(chrono::TimeDelta::microseconds(i64::try_from(over).ok()?))
}
