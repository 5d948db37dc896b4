//! One value as a cell of CSV.
//!
//! Null is nothing and an empty string `""`; doubles are the shortest text that reads back, decimals keep their scale, times
//! are written as everywhere, bytes as base64, lists and structs as JSON. What no calendar has is the number that stands for
//! it. Neighbours: `label_csv` reads cells; `label_file` writes lines of them.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow::util::display::array_value_to_string;
use base64::Engine as _;
use datafusion::common::ScalarValue;

use crate::serve::json::to_json;
use crate::time::format_instant;

/// A value as CSV says it: null is nothing, an empty string `""`, numbers in the shortest text that reads back.
pub(super) fn put_cell(column: &ArrayRef, row: usize, line: &mut String) -> anyhow::Result<()> {
    if column.is_null(row) {
        return Ok(());
    }
    // A text like any other: without bytes it is empty, and not null.
    let mut bytes = |bytes: &[u8]| put_text(&base64::engine::general_purpose::STANDARD.encode(bytes), line);
    match column.data_type() {
        // Without a list of its nulls: all are.
        DataType::Null => {}
        DataType::Float32 => match column.as_primitive::<Float32Type>().value(row) {
            value if value.is_finite() => line.push_str(&format!("{value:?}")),
            value => line.push_str(&double(value.into())),
        },
        DataType::Float64 => line.push_str(&double(column.as_primitive::<Float64Type>().value(row))),
        DataType::Decimal128(_, _) => line.push_str(&column.as_primitive::<Decimal128Type>().value_as_string(row)),
        DataType::Timestamp(unit, _) => line.push_str(&instant(column, *unit, row)),
        DataType::Date32 => {
            let date = column.as_primitive::<Date32Type>().value_as_date(row);
            // No calendar has it: the number of days says what it is.
            let day = || column.as_primitive::<Date32Type>().value(row).to_string();
            line.push_str(&date.map_or_else(day, |d| d.to_string()));
        }
        DataType::Binary => bytes(column.as_binary::<i32>().value(row)),
        DataType::LargeBinary => bytes(column.as_binary::<i64>().value(row)),
        DataType::BinaryView => bytes(column.as_binary_view().value(row)),
        DataType::FixedSizeBinary(_) => bytes(column.as_fixed_size_binary().value(row)),
        DataType::Utf8 => put_text(column.as_string::<i32>().value(row), line),
        DataType::List(_) | DataType::Struct(_) => {
            put_text(&to_json(&ScalarValue::try_from_array(column, row)?).to_string(), line);
        }
        _ => put_text(&array_value_to_string(column, row)?, line),
    }
    Ok(())
}

/// A timestamp of any unit as instants are written everywhere: six digits, nine where there are more than six.
fn instant(column: &ArrayRef, unit: TimeUnit, row: usize) -> String {
    let micros = |value: i64, scale: i64| match value.checked_mul(scale) {
        Some(micros) => format_instant(micros),
        // No calendar has it: the number says what it is.
        None => value.to_string(),
    };
    match unit {
        TimeUnit::Second => micros(column.as_primitive::<TimestampSecondType>().value(row), 1_000_000),
        TimeUnit::Millisecond => micros(column.as_primitive::<TimestampMillisecondType>().value(row), 1_000),
        TimeUnit::Microsecond => micros(column.as_primitive::<TimestampMicrosecondType>().value(row), 1),
        TimeUnit::Nanosecond => {
            let nanos = column.as_primitive::<TimestampNanosecondType>().value(row);
            let text = format_instant(nanos.div_euclid(1_000));
            match (nanos.rem_euclid(1_000), text.strip_suffix('Z')) {
                (0, _) | (_, None) => text,
                (rest, Some(text)) => format!("{text}{rest:03}Z"),
            }
        }
    }
}

fn double(value: f64) -> String {
    if value.is_nan() {
        "NaN".into()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity".into() } else { "-Infinity".into() }
    } else {
        format!("{value:?}")
    }
}

/// A text, in quotes where it must be.
pub(super) fn put_text(text: &str, line: &mut String) {
    if !text.is_empty() && !text.contains([',', '"', '\n', '\r']) {
        line.push_str(text);
        return;
    }
    line.push('"');
    line.push_str(&text.replace('"', "\"\""));
    line.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use arrow::array::{
        BinaryArray, BinaryViewArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float32Array,
        Float64Array, LargeBinaryArray, NullArray, StringArray, TimestampMicrosecondArray, TimestampMillisecondArray,
        TimestampNanosecondArray, TimestampSecondArray,
    };

    #[test]
    fn values_are_written_so_that_they_read_back() {
        let check = |array: ArrayRef, want: &str| {
            let mut line = String::new();
            put_cell(&array, 0, &mut line).unwrap();
            assert_eq!(line, want);
        };
        let double = |v: f64| Arc::new(Float64Array::from(vec![v])) as ArrayRef;
        let text = |v: &str| Arc::new(StringArray::from(vec![v])) as ArrayRef;
        check(double(0.1), "0.1");
        check(double(-2.0), "-2.0");
        check(double(1e300), "1e300");
        check(double(f64::NAN), "NaN");
        check(double(f64::NEG_INFINITY), "-Infinity");
        check(Arc::new(Decimal128Array::from(vec![1250]).with_precision_and_scale(10, 2).unwrap()), "12.50");
        check(Arc::new(TimestampMicrosecondArray::from(vec![-1])), "1969-12-31T23:59:59.999999Z");
        // One form whatever the file's unit, and no digit lost.
        let (seconds, millis) = (TimestampSecondArray::from(vec![1]), TimestampMillisecondArray::from(vec![-1]));
        check(Arc::new(seconds.with_timezone("+02:00")), "1970-01-01T00:00:01.000000Z");
        check(Arc::new(millis), "1969-12-31T23:59:59.999000Z");
        check(Arc::new(TimestampNanosecondArray::from(vec![1_500])), "1970-01-01T00:00:00.000001500Z");
        check(Arc::new(TimestampNanosecondArray::from(vec![-1])), "1969-12-31T23:59:59.999999999Z");
        check(Arc::new(TimestampNanosecondArray::from(vec![2_000])), "1970-01-01T00:00:00.000002Z");
        check(Arc::new(BooleanArray::from(vec![true])), "true");
        check(text(""), "\"\"");
        check(text("a b"), "a b");
        check(text("a,\"b\"\n"), "\"a,\"\"b\"\"\n\"");
        check(Arc::new(StringArray::from(vec![None::<&str>])), "");
        check(Arc::new(NullArray::new(1)), "");
        check(Arc::new(Float32Array::from(vec![0.1])), "0.1");
        check(Arc::new(Float32Array::from(vec![f32::INFINITY])), "Infinity");
        check(Arc::new(LargeBinaryArray::from_vec(vec![b"ab"])), "YWI=");
        check(Arc::new(BinaryArray::from_vec(vec![b"ab"])), "YWI=");
        check(Arc::new(BinaryViewArray::from_iter_values([b"ab"])), "YWI=");
        check(Arc::new(BinaryViewArray::from_iter_values([b"longer than twelve"])), "bG9uZ2VyIHRoYW4gdHdlbHZl");
        check(Arc::new(BinaryArray::from_vec(vec![b""])), "\"\"");
        check(Arc::new(BinaryViewArray::from_iter_values([b""])), "\"\"");
        check(Arc::new(BinaryArray::from_opt_vec(vec![None])), "");
        check(Arc::new(Date32Array::from(vec![19_782])), "2024-02-29");
        check(Arc::new(Date32Array::from(vec![i32::MAX])), "2147483647");
        check(Arc::new(FixedSizeBinaryArray::try_from_iter([b"ab"].into_iter()).unwrap()), "YWI=");
    }
}
