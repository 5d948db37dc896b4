//! Values as JSON, and JSON as values: what every protocol that speaks JSON answers with.
//!
//! BIGINT is a number, DECIMAL a string with its scale, TIMESTAMP RFC 3339 with microseconds, DATE `YYYY-MM-DD`, binary
//! base64; NaN and the infinities are the strings `NaN`, `Infinity`, `-Infinity`.
//!
//! Invariants: the same answer is the same bytes: fields are in one fixed order. Neighbours: `online` makes the answers;
//! `http` and `cli get` send them.

use arrow::array::{Array, ArrayRef, StructArray};
use arrow::datatypes::DataType;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::NaiveDate;
use datafusion::common::ScalarValue;
use serde_json::{Map, Number, Value, json};

use super::request::Request;
use crate::definition::sql_name;
use crate::key::{KeyError, parse_value};
use crate::online::{Answer, Row};
use crate::plan::{Plan, PlannedView};
use crate::time::format_instant;

/// A value as JSON.
pub fn to_json(value: &ScalarValue) -> Value {
    use ScalarValue as S;
    if value.is_null() {
        return Value::Null;
    }
    match value {
        S::Boolean(Some(x)) => Value::Bool(*x),
        S::Int8(Some(x)) => Value::from(*x),
        S::Int16(Some(x)) => Value::from(*x),
        S::Int32(Some(x)) => Value::from(*x),
        S::Int64(Some(x)) => Value::from(*x),
        S::UInt8(Some(x)) => Value::from(*x),
        S::UInt16(Some(x)) => Value::from(*x),
        S::UInt32(Some(x)) => Value::from(*x),
        S::UInt64(Some(x)) => Value::from(*x),
        S::Float64(Some(x)) => float(*x),
        // The shortest text of a single is shorter than that of the double it becomes.
        S::Float32(Some(x)) => float(x.to_string().parse().unwrap_or(f64::from(*x))),
        S::Decimal128(Some(x), _, scale) => Value::String(decimal(*x, *scale)),
        S::Utf8(Some(x)) | S::Utf8View(Some(x)) | S::LargeUtf8(Some(x)) => Value::String(x.clone()),
        S::Binary(Some(x)) | S::BinaryView(Some(x)) | S::LargeBinary(Some(x)) | S::FixedSizeBinary(_, Some(x)) => {
            Value::String(STANDARD.encode(x))
        }
        S::TimestampMicrosecond(Some(x), _) => Value::String(format_instant(*x)),
        S::TimestampSecond(Some(x), _) => Value::String(format_instant(x.saturating_mul(1_000_000))),
        S::TimestampMillisecond(Some(x), _) => Value::String(format_instant(x.saturating_mul(1_000))),
        S::TimestampNanosecond(Some(x), _) => Value::String(format_instant(x.div_euclid(1_000))),
        S::Date32(Some(x)) => Value::String(date(*x)),
        S::List(list) => array(&list.value(0)),
        S::LargeList(list) => array(&list.value(0)),
        S::FixedSizeList(list) => array(&list.value(0)),
        S::Struct(row) => object(row),
        S::Dictionary(_, inner) => to_json(inner),
        // Intervals and the like: the text SQL shows.
        other => match other.cast_to(&DataType::Utf8) {
            Ok(S::Utf8(Some(text))) => Value::String(text),
            _ => Value::String(other.to_string()),
        },
    }
}

fn float(x: f64) -> Value {
    match Number::from_f64(x) {
        Some(number) => Value::Number(number),
        None if x.is_nan() => "NaN".into(),
        None if x > 0.0 => "Infinity".into(),
        None => "-Infinity".into(),
    }
}

/// A decimal with all the digits of its scale.
fn decimal(unscaled: i128, scale: i8) -> String {
    let digits = unscaled.unsigned_abs().to_string();
    let sign = if unscaled < 0 { "-" } else { "" };
    match usize::try_from(scale) {
        Ok(0) => format!("{sign}{digits}"),
        Ok(scale) => {
            let padded = format!("{digits:0>width$}", width = scale + 1);
            let (whole, fraction) = padded.split_at(padded.len() - scale);
            format!("{sign}{whole}.{fraction}")
        }
        Err(_) if unscaled == 0 => digits,
        Err(_) => format!("{sign}{digits}{}", "0".repeat(usize::from(scale.unsigned_abs()))),
    }
}

fn date(days: i32) -> String {
    // Day 719163 of the common era is 1970-01-01.
    let date = days.checked_add(719_163).and_then(NaiveDate::from_num_days_from_ce_opt);
    date.map_or_else(|| days.to_string(), |d| d.format("%Y-%m-%d").to_string())
}

fn array(items: &ArrayRef) -> Value {
    Value::Array((0..items.len()).map(|n| item(items, n)).collect())
}

fn object(row: &StructArray) -> Value {
    row.column_names()
        .into_iter()
        .zip(row.columns())
        .map(|(name, column)| (name.to_string(), item(column, 0)))
        .collect()
}

fn item(items: &ArrayRef, n: usize) -> Value {
    ScalarValue::try_from_array(items, n).map_or(Value::Null, |v| to_json(&v))
}

/// An entity column's value from JSON: a number or a string (or a boolean) of its type; null is null.
///
/// # Errors
/// [`KeyError::Type`].
pub fn from_json(value: &Value, column: &str, data_type: &DataType) -> Result<ScalarValue, KeyError> {
    let wrong = || KeyError::Type { text: value.to_string(), column: column.into(), data_type: data_type.clone() };
    match value {
        Value::Null => ScalarValue::try_from(data_type).map_err(|_| wrong()),
        Value::String(text) if *data_type == DataType::Binary => {
            Ok(ScalarValue::Binary(Some(STANDARD.decode(text).map_err(|_| wrong())?)))
        }
        Value::String(text) => parse_value(text, column, data_type),
        // Beyond 2^53 a double no longer says which number it was.
        Value::Number(number)
            if number.is_f64() && data_type.is_integer() && number.as_f64().is_none_or(|x| x.abs() >= 9.0e15) =>
        {
            Err(wrong())
        }
        Value::Number(number) => parse_value(&number.to_string(), column, data_type),
        Value::Bool(truth) => parse_value(&truth.to_string(), column, data_type),
        Value::Array(_) | Value::Object(_) => Err(wrong()),
    }
}

/// The answer about one entity of one view, as `GET /v1/views/{view}/{key}` and `headwater get` say it.
///
/// `entity` is in declared order, `features` are indices as they were asked for; `row` is the entity's in `answer`.
pub fn entity_json(
    planned: &PlannedView,
    entity: &[ScalarValue],
    features: &[usize],
    answer: &Answer,
    row: &Row,
) -> Value {
    let plan = &planned.plan;
    let entity = plan.entity.iter().zip(entity).map(|((name, _), value)| (name.clone(), to_json(value)));
    let features = features.iter().zip(&row.values).map(|(n, value)| (plan.features[*n].name.clone(), to_json(value)));
    json!({
        "view": plan.name,
        "version": planned.version,
        "entity": entity.collect::<Map<_, _>>(),
        "status": row.status.as_str(),
        "epoch": answer.epoch.to_string(),
        "as_of": answer.as_of.to_string(),
        "event_time": row.event_time.map(format_instant),
        "features": features.collect::<Map<_, _>>(),
    })
}

/// The answer about many entities of several views, as `POST /v1/features` says it: a row per entity, values in the order
/// of `names`. It is written row by row: as values of JSON it would take many times its bytes. `None`: it has more bytes
/// than `limit`.
pub fn answer_json(plan: &Plan, request: &Request, answer: &Answer, limit: usize) -> Option<Vec<u8>> {
    let view = |n: usize| &plan.views[request.views[n].view];
    let versions = (0..request.views.len()).map(|n| (view(n).plan.name.clone(), Value::from(view(n).version)));
    let names = request.columns.iter().map(|(n, feature)| {
        let plan = &view(*n).plan;
        format!("{}:{}", plan.name, plan.features[request.views[*n].features[*feature]].name)
    });
    let head = json!({
        "epoch": answer.epoch.to_string(),
        "as_of": answer.as_of.to_string(),
        "versions": versions.collect::<Map<_, _>>(),
        "names": names.collect::<Vec<_>>(),
    });
    let mut out = head.to_string().into_bytes();
    out.pop();
    out.extend(br#","rows":["#);
    for row in 0..request.rows {
        if row > 0 {
            out.push(b',');
        }
        let status = answer.rows.iter().enumerate();
        let status = status.map(|(n, rows)| (view(n).plan.name.clone(), Value::from(rows[row].status.as_str())));
        let status = Value::Object(status.collect());
        out.extend(format!(r#"{{"status":{status},"values":["#).into_bytes());
        for (place, (n, feature)) in request.columns.iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            out.extend(to_json(&answer.rows[*n][row].values[*feature]).to_string().into_bytes());
        }
        out.extend(b"]}");
        if out.len() > limit {
            return None;
        }
    }
    out.extend(b"]}");
    Some(out)
}

/// What a view is: name, version, entity and features with their types, freshness.
pub fn view_json(planned: &PlannedView) -> Value {
    let plan = &planned.plan;
    let typed = |name: &str, t: &DataType| json!({ "name": name, "type": sql_name(t) });
    json!({
        "name": plan.name,
        "version": planned.version,
        "entity": plan.entity.iter().map(|(n, g)| typed(n, &plan.fold.group_types[*g])).collect::<Vec<_>>(),
        "features": plan.features.iter().map(|f| typed(&f.name, &f.data_type)).collect::<Vec<_>>(),
        "freshness": plan.freshness.map(duration),
        "stream": plan.stream.name,
        "tables": plan.joins.iter().map(|j| j.table.name.as_str()).collect::<Vec<_>>(),
    })
}

/// A length of time in the greatest unit that divides it.
fn duration(micros: i64) -> String {
    let units = [(86_400_000_000, "day"), (3_600_000_000, "hour"), (60_000_000, "minute"), (1_000_000, "second")];
    let fits = units.into_iter().find(|(size, _)| micros != 0 && micros % size == 0);
    match fits {
        Some((size, unit)) if micros == size => format!("1 {unit}"),
        Some((size, unit)) => format!("{} {unit}s", micros / size),
        None if micros % 1_000 == 0 => format!("{} ms", micros / 1_000),
        None => format!("{micros} us"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::timestamp;
    use arrow::array::{Float64Array, Int64Array};
    use arrow::datatypes::Field;
    use std::sync::Arc;

    #[test]
    fn values_become_json() {
        let check = |value: ScalarValue, want: &str| assert_eq!(to_json(&value).to_string(), want, "{value:?}");
        check(ScalarValue::Null, "null");
        check(ScalarValue::Int64(None), "null");
        check(ScalarValue::Int64(Some(i64::MIN)), "-9223372036854775808");
        check(ScalarValue::UInt64(Some(u64::MAX)), "18446744073709551615");
        check(ScalarValue::Int32(Some(7)), "7");
        check(ScalarValue::Boolean(Some(false)), "false");
        check(ScalarValue::Float64(Some(0.1)), "0.1");
        check(ScalarValue::Float64(Some(3.0)), "3.0");
        check(ScalarValue::Float64(Some(5e-324)), "5e-324");
        check(ScalarValue::Float32(Some(0.1)), "0.1");
        check(ScalarValue::Float64(Some(f64::NAN)), "\"NaN\"");
        check(ScalarValue::Float64(Some(f64::INFINITY)), "\"Infinity\"");
        check(ScalarValue::Float64(Some(f64::NEG_INFINITY)), "\"-Infinity\"");
        check(ScalarValue::Decimal128(Some(1250), 12, 2), "\"12.50\"");
        check(ScalarValue::Decimal128(Some(-5), 12, 2), "\"-0.05\"");
        check(ScalarValue::Decimal128(Some(0), 12, 3), "\"0.000\"");
        check(ScalarValue::Decimal128(Some(42), 12, 0), "\"42\"");
        check(ScalarValue::Decimal128(Some(42), 12, -2), "\"4200\"");
        check(ScalarValue::Utf8(Some("a\"b\u{e9}".into())), "\"a\\\"b\u{e9}\"");
        check(ScalarValue::Binary(Some(vec![0, 255, 16])), "\"AP8Q\"");
        check(ScalarValue::TimestampMicrosecond(Some(1), None), "\"1970-01-01T00:00:00.000001Z\"");
        check(ScalarValue::TimestampMicrosecond(Some(-1), None), "\"1969-12-31T23:59:59.999999Z\"");
        check(ScalarValue::Date32(Some(0)), "\"1970-01-01\"");
        check(ScalarValue::Date32(Some(-1)), "\"1969-12-31\"");
        check(ScalarValue::Date32(Some(20_000)), "\"2024-10-04\"");
    }

    #[test]
    fn lists_and_structs_become_arrays_and_objects() {
        let list = |items: &[ScalarValue], t: &DataType| ScalarValue::List(ScalarValue::new_list(items, t, true));
        let check = |value: ScalarValue, want: &str| assert_eq!(to_json(&value).to_string(), want);
        let doubles = [ScalarValue::Float64(Some(f64::NAN)), ScalarValue::Float64(None)];
        check(list(&doubles, &DataType::Float64), "[\"NaN\",null]");
        check(list(&[], &DataType::Int64), "[]");
        let fields = [("n", DataType::Int64), ("x", DataType::Float64)];
        let fields: Vec<Field> = fields.into_iter().map(|(n, t)| Field::new(n, t, true)).collect();
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from(vec![7])), Arc::new(Float64Array::from(vec![Some(0.5)]))];
        let row = StructArray::new(fields.into(), columns, None);
        check(ScalarValue::Struct(Arc::new(row)), "{\"n\":7,\"x\":0.5}");
    }

    #[test]
    fn json_becomes_entities() {
        let check = |text: &str, data_type: &DataType, want: Option<ScalarValue>| {
            let value: Value = serde_json::from_str(text).expect(text);
            assert_eq!(from_json(&value, "user_id", data_type).ok(), want, "{text} as {data_type}");
        };
        let int = |n: i64| Some(ScalarValue::Int64(Some(n)));
        check("42", &DataType::Int64, int(42));
        check("\"42\"", &DataType::Int64, int(42));
        check("42.0", &DataType::Int64, int(42));
        check("-9223372036854775808", &DataType::Int64, int(i64::MIN));
        check("\"42.0\"", &DataType::Int64, int(42));
        check("1e3", &DataType::Int64, int(1_000));
        check("42.5", &DataType::Int64, None);
        check("9007199254740993.0", &DataType::Int64, None);
        check("9223372036854775808", &DataType::Int64, None);
        check("1e300", &DataType::Int64, None);
        check("\"x\"", &DataType::Int64, None);
        check("true", &DataType::Int64, None);
        check("[42]", &DataType::Int64, None);
        check("{}", &DataType::Int64, None);
        check("null", &DataType::Int64, Some(ScalarValue::Int64(None)));
        check("42", &DataType::Utf8, Some(ScalarValue::Utf8(Some("42".into()))));
        check("\" a,b=c \"", &DataType::Utf8, Some(ScalarValue::Utf8(Some(" a,b=c ".into()))));
        check("true", &DataType::Boolean, Some(ScalarValue::Boolean(Some(true))));
        check("\"NaN\"", &DataType::Float64, Some(ScalarValue::Float64(Some(f64::NAN))));
        check("\"12.5\"", &DataType::Decimal128(12, 2), Some(ScalarValue::Decimal128(Some(1250), 12, 2)));
        check("12.5", &DataType::Decimal128(12, 2), Some(ScalarValue::Decimal128(Some(1250), 12, 2)));
        check("12.501", &DataType::Decimal128(12, 2), None);
        check("\"12.501\"", &DataType::Decimal128(12, 2), None);
        check("\"2024-10-04\"", &DataType::Date32, Some(ScalarValue::Date32(Some(20_000))));
        let instant = Some(ScalarValue::TimestampMicrosecond(Some(1), None));
        check("\"1970-01-01T00:00:00.000001Z\"", &timestamp(), instant);
        check("\"AP8Q\"", &DataType::Binary, Some(ScalarValue::Binary(Some(vec![0, 255, 16]))));
        check("\"%\"", &DataType::Binary, None);
    }

    #[test]
    fn durations_are_said_as_they_are_written() {
        let check = |micros: i64, want: &str| assert_eq!(duration(micros), want);
        check(1_000_000, "1 second");
        check(90_000_000, "90 seconds");
        check(3_600_000_000, "1 hour");
        check(172_800_000_000, "2 days");
        check(500_000, "500 ms");
        check(0, "0 ms");
        check(1, "1 us");
    }
}
