//! Label columns into entities and instants: found by name, cast to the view's types, every cell accounted for.
//!
//! Invariants: a cell means one value or is an error that names its row and column; nothing is rounded on the way to an
//! entity. A null names no entity. Neighbours: `history` asks with these; label files and Flight uploads bring them.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray, new_null_array,
};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{cast, is_not_null, nullif};
use arrow::datatypes::{
    DataType, Float64Type, Schema, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use arrow::util::display::array_value_to_string;
use datafusion::common::ScalarValue;

use super::history::HistoryError;
use crate::definition::{sql_name, timestamp};
use crate::key::parse_value;
use crate::time::{Ask, parse_instant};

/// Names of the time column where none is given.
const TIME_COLUMNS: [&str; 2] = ["as_of", "event_timestamp"];

/// Labels in which every column has a name of its own: what is asked of one is not answered from another.
///
/// # Errors
/// Two columns of one name.
pub fn distinct_names(schema: &Schema) -> Result<(), HistoryError> {
    let mut seen = BTreeSet::new();
    match schema.fields().iter().find(|f| !seen.insert(f.name())) {
        None => Ok(()),
        Some(twice) => {
            Err(HistoryError::Labels(format!("the labels have two columns `{}`; rename or remove one", twice.name())))
        }
    }
}

/// Index of the time column.
///
/// # Errors
/// Labels without one.
pub fn time_column(schema: &Schema, asked: Option<&str>) -> Result<usize, HistoryError> {
    let find = |name: &str| schema.fields().iter().position(|f| f.name() == name);
    let found = match asked {
        Some(name) => find(name),
        None => TIME_COLUMNS.into_iter().find_map(find),
    };
    found.ok_or_else(|| {
        let wanted = match asked {
            Some(name) => format!("column `{name}`"),
            None => "time column `as_of` or `event_timestamp`; name it with --time-column (time_column)".into(),
        };
        HistoryError::Labels(format!("the labels have no {wanted}; they have {}", names(schema)))
    })
}

/// The labels' instants in µs; `first_row` counts the rows before this batch.
///
/// # Errors
/// A cell that is null or no instant.
pub fn instants(labels: &RecordBatch, column: usize, first_row: usize) -> Result<Vec<i64>, HistoryError> {
    let (array, schema) = (labels.column(column), labels.schema());
    let name = schema.field(column).name();
    let micros = match array.data_type() {
        DataType::Timestamp(_, _) => instants_of(array),
        DataType::Date32 | DataType::Date64 => instants_of(&cast(array, &timestamp())?),
        DataType::Null => Int64Array::new_null(array.len()),
        t if is_text(t) => {
            let text = cast(array, &DataType::Utf8)?;
            let text = text.as_string::<i32>();
            let read = (0..text.len()).map(|n| text.is_valid(n).then(|| parse_instant(text.value(n))).flatten());
            let read: Int64Array = read.collect();
            if let Some(n) = (0..text.len()).find(|n| text.is_valid(*n) && read.is_null(*n)) {
                let cell = text.value(n);
                return Err(wrong(first_row + n, name, &format!("`{cell}` is not an instant; write RFC 3339")));
            }
            read
        }
        other => {
            let why = format!("the time column `{name}` is {other}; it must be a timestamp, a date or RFC 3339 text");
            return Err(HistoryError::Labels(why));
        }
    };
    match (0..micros.len()).find(|n| micros.is_null(*n)) {
        Some(n) => Err(wrong(first_row + n, name, "it is empty; every label needs an instant")),
        None => Ok(micros.values().to_vec()),
    }
}

/// No instant after this one.
///
/// # Errors
/// The first label that is.
pub fn none_after(through: Ask, instants: &[i64], column: &str, first_row: usize) -> Result<(), HistoryError> {
    match instants.iter().position(|at| *at > through.0) {
        None => Ok(()),
        Some(n) => {
            let at = Ask(instants[n]);
            let why = format!("{at} is later than {through}, up to when it is known what was visible; ask again then");
            Err(wrong(first_row + n, column, &why))
        }
    }
}

/// A view's entity column in its type.
///
/// # Errors
/// Labels without it, or a cell that is no value of the type.
pub fn entity(
    labels: &RecordBatch,
    view: &str,
    name: &str,
    data_type: &DataType,
    first_row: usize,
) -> Result<ArrayRef, HistoryError> {
    let schema = labels.schema();
    let Some((_, field)) = schema.fields().find(name) else {
        let has = names(&schema);
        return Err(HistoryError::Labels(format!(
            "the labels have no column `{name}`, the entity of view `{view}`; they have {has}"
        )));
    };
    let array = labels.column_by_name(name).expect("its field was just found");
    match (field.data_type(), data_type) {
        (from, to) if from == to => Ok(Arc::clone(array)),
        // How a column without a value is written where nobody knows its type.
        (DataType::Null, to) => Ok(new_null_array(to, array.len())),
        (from, DataType::Utf8) if is_text(from) => Ok(cast(array, &DataType::Utf8)?),
        (from, to) if is_text(from) => parsed(array, name, to, first_row),
        (DataType::Timestamp(_, _), DataType::Timestamp(_, _)) => {
            Ok(Arc::new(TimestampMicrosecondArray::new(instants_of(array).values().clone(), array.nulls().cloned())))
        }
        _ => converted(array, name, data_type, first_row),
    }
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => is_text(value),
        _ => false,
    }
}

fn parsed(array: &ArrayRef, name: &str, to: &DataType, first_row: usize) -> Result<ArrayRef, HistoryError> {
    let text = cast(array, &DataType::Utf8)?;
    let text = text.as_string::<i32>();
    let null = ScalarValue::try_from(to).map_err(|e| HistoryError::Labels(e.to_string()))?;
    let value = |n: usize| {
        if text.is_null(n) {
            return Ok(null.clone());
        }
        parse_value(text.value(n), name, to).map_err(|e| wrong(first_row + n, name, &e.to_string()))
    };
    if text.is_empty() {
        return Ok(arrow::array::new_empty_array(to));
    }
    let values = (0..text.len()).map(value).collect::<Result<Vec<_>, _>>()?;
    ScalarValue::iter_to_array(values).map_err(|e| HistoryError::Labels(e.to_string()))
}

/// Between types that are not text: only what comes back as it was is the same value.
fn converted(array: &ArrayRef, name: &str, to: &DataType, first_row: usize) -> Result<ArrayRef, HistoryError> {
    let mut array = Arc::clone(array);
    if array.data_type().is_floating() && !to.is_floating() {
        // How pandas writes a missing integer.
        let wide = cast(&array, &DataType::Float64)?;
        let nan = wide.as_primitive::<Float64Type>().iter().map(|v| Some(v.is_some_and(f64::is_nan)));
        array = nullif(&array, &BooleanArray::from_iter(nan))?;
    }
    let refused = |_| {
        let from = array.data_type();
        HistoryError::Labels(format!("the column `{name}` is {from}; the entity is {}", sql_name(to)))
    };
    let there = cast(&array, to).map_err(refused)?;
    let back = cast(&there, array.data_type()).map_err(refused)?;
    let (same, given) = (not_distinct(&array, &back)?, is_not_null(&array)?);
    match (0..array.len()).find(|n| given.value(*n) && (there.is_null(*n) || !same.value(*n))) {
        Some(n) => {
            let cell = array_value_to_string(&array, n)?;
            Err(wrong(first_row + n, name, &format!("`{cell}` is not a {}, the entity's type", sql_name(to))))
        }
        None => Ok(there),
    }
}

/// Timestamps of any unit in µs, finer digits cut.
fn instants_of(array: &ArrayRef) -> Int64Array {
    let nulls = array.nulls().cloned();
    let values: Vec<i64> = match array.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => {
            let values = array.as_primitive::<TimestampSecondType>().values();
            values.iter().map(|v| v.saturating_mul(1_000_000)).collect()
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            let values = array.as_primitive::<TimestampMillisecondType>().values();
            values.iter().map(|v| v.saturating_mul(1_000)).collect()
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            let values = array.as_primitive::<TimestampNanosecondType>().values();
            values.iter().map(|v| v.div_euclid(1_000)).collect()
        }
        _ => array.as_primitive::<TimestampMicrosecondType>().values().to_vec(),
    };
    Int64Array::new(values.into(), nulls)
}

fn names(schema: &Schema) -> String {
    schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", ")
}

/// `row` counts from 0; people count from 1.
fn wrong(row: usize, column: &str, why: &str) -> HistoryError {
    HistoryError::Labels(format!("row {}, column `{column}`: {why}", row + 1))
}
