//! Between Arrow columns and entries: values in, values out, and a batch of updates as the log writes it.
//!
//! TEXT is kept as its bytes; lists, structs and binary as Arrow's row format, which decodes and compares like the value.
//!
//! Invariants: what goes in comes out with the same type and bytes, except that a NaN is one NaN. Neighbours: `entry`
//! lays the words out, `plan::project` encodes, `offline::segment` writes the batches.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float64Array, Int32Array, Int64Array, PrimitiveArray,
    RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array, new_null_array,
};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float64Type, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit,
    TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use datafusion::common::ScalarValue;

use super::aggregate::{Held, float_bits};
use super::entry::{BITS, CLOSING, Entry, Origin, Shape, Updates, hash_group, pack_bytes, place};
use crate::definition::timestamp;
use crate::fold::plan::{FoldPlan, ValueType};
use crate::id::ViewId;

/// How a value of this type is kept.
pub fn value_type(data_type: &DataType) -> ValueType {
    match data_type {
        DataType::Boolean | DataType::Int32 | DataType::Int64 | DataType::Date32 => ValueType::Int,
        DataType::Timestamp(TimeUnit::Microsecond, None) => ValueType::Int,
        DataType::Float64 => ValueType::Float,
        DataType::Decimal128(_, _) => ValueType::Decimal,
        _ => ValueType::Bytes,
    }
}

/// A column of values on its way into entries.
pub enum Encoder<'a> {
    /// BOOLEAN.
    Bool(&'a BooleanArray),
    /// INT.
    Int32(&'a Int32Array),
    /// BIGINT.
    Int64(&'a Int64Array),
    /// TIMESTAMP.
    Time(&'a TimestampMicrosecondArray),
    /// DATE.
    Date(&'a PrimitiveArray<Date32Type>),
    /// DOUBLE.
    Float(&'a Float64Array),
    /// DECIMAL.
    Decimal(&'a PrimitiveArray<Decimal128Type>),
    /// TEXT.
    Text(&'a StringArray),
    /// BINARY that is an order's sort key already.
    Binary(&'a BinaryArray),
    /// Anything else, in row format.
    Rows(arrow::row::Rows, &'a dyn Array),
}

impl<'a> Encoder<'a> {
    /// Prepares a column.
    ///
    /// # Errors
    /// A type that Arrow's row format cannot hold.
    pub fn new(array: &'a ArrayRef) -> Result<Encoder<'a>, ArrowError> {
        Ok(match array.data_type() {
            DataType::Boolean => Encoder::Bool(array.as_boolean()),
            DataType::Int32 => Encoder::Int32(array.as_primitive::<Int32Type>()),
            DataType::Int64 => Encoder::Int64(array.as_primitive::<Int64Type>()),
            DataType::Timestamp(TimeUnit::Microsecond, None) => {
                Encoder::Time(array.as_primitive::<TimestampMicrosecondType>())
            }
            DataType::Date32 => Encoder::Date(array.as_primitive::<Date32Type>()),
            DataType::Float64 => Encoder::Float(array.as_primitive::<Float64Type>()),
            DataType::Decimal128(_, _) => Encoder::Decimal(array.as_primitive::<Decimal128Type>()),
            DataType::Utf8 => Encoder::Text(array.as_string::<i32>()),
            DataType::Binary => Encoder::Binary(array.as_binary::<i32>()),
            other => {
                let converter = RowConverter::new(vec![SortField::new(other.clone())])?;
                Encoder::Rows(converter.convert_columns(std::slice::from_ref(array))?, array.as_ref())
            }
        })
    }

    /// Is the n-th value null?
    pub fn is_null(&self, n: usize) -> bool {
        match self {
            Encoder::Bool(a) => a.is_null(n),
            Encoder::Int32(a) => a.is_null(n),
            Encoder::Int64(a) => a.is_null(n),
            Encoder::Time(a) => a.is_null(n),
            Encoder::Date(a) => a.is_null(n),
            Encoder::Float(a) => a.is_null(n),
            Encoder::Decimal(a) => a.is_null(n),
            Encoder::Text(a) => a.is_null(n),
            Encoder::Binary(a) => a.is_null(n),
            Encoder::Rows(_, a) => a.is_null(n),
        }
    }

    /// Bytes of the n-th value, if it is kept as bytes; else 0.
    pub fn bytes(&self, n: usize) -> usize {
        match self {
            _ if self.is_null(n) => 0,
            Encoder::Text(a) => a.value(n).len(),
            Encoder::Binary(a) => a.value(n).len(),
            Encoder::Rows(rows, _) => rows.row(n).as_ref().len(),
            Encoder::Bool(_) | Encoder::Int32(_) | Encoder::Int64(_) | Encoder::Time(_) => 0,
            Encoder::Date(_) | Encoder::Float(_) | Encoder::Decimal(_) => 0,
        }
    }

    /// Appends the n-th value's words; nulls are zeros.
    pub fn append(&self, n: usize, words: &mut Vec<u64>, heap: &mut Vec<u8>) {
        if self.is_null(n) {
            words.push(0);
            if let Encoder::Decimal(_) = self {
                words.push(0);
            }
            return;
        }
        match self {
            Encoder::Bool(a) => words.push(u64::from(a.value(n))),
            Encoder::Int32(a) => words.push(i64::from(a.value(n)).cast_unsigned()),
            Encoder::Int64(a) => words.push(a.value(n).cast_unsigned()),
            Encoder::Time(a) => words.push(a.value(n).cast_unsigned()),
            Encoder::Date(a) => words.push(i64::from(a.value(n)).cast_unsigned()),
            Encoder::Float(a) => words.push(a.value(n).to_bits()),
            Encoder::Decimal(a) => {
                let bits = a.value(n).cast_unsigned();
                #[expect(clippy::cast_possible_truncation, reason = "the halves of a word")]
                words.extend([bits as u64, (bits >> 64) as u64]);
            }
            Encoder::Text(a) => words.push(pack_bytes(a.value(n).as_bytes(), heap)),
            Encoder::Binary(a) => words.push(pack_bytes(a.value(n), heap)),
            Encoder::Rows(rows, _) => words.push(pack_bytes(rows.row(n).as_ref(), heap)),
        }
    }
}

/// A held value as a result of the given type.
pub fn decode_value(held: &Held, result: &DataType) -> ScalarValue {
    let small = |v: &i64| i32::try_from(*v).ok();
    match (held, result) {
        (Held::Null, _) => ScalarValue::try_from(result).unwrap_or(ScalarValue::Null),
        (Held::Int(v), DataType::Boolean) => ScalarValue::Boolean(Some(*v == 1)),
        (Held::Int(v), DataType::Int32) => ScalarValue::Int32(small(v)),
        (Held::Int(v), DataType::Date32) => ScalarValue::Date32(small(v)),
        (Held::Int(v), DataType::Timestamp(_, zone)) => ScalarValue::TimestampMicrosecond(Some(*v), zone.clone()),
        (Held::Int(v), _) => ScalarValue::Int64(Some(*v)),
        (Held::Float(key), _) => ScalarValue::Float64(Some(f64::from_bits(float_bits(*key)))),
        (Held::Decimal(v), DataType::Decimal128(p, s)) => ScalarValue::Decimal128(Some(*v), *p, *s),
        (Held::Decimal(v), _) => ScalarValue::Decimal128(Some(*v), 38, 0),
        (Held::Bytes(b), DataType::Utf8) => ScalarValue::Utf8(Some(String::from_utf8_lossy(b).into_owned())),
        (Held::Bytes(b), DataType::Binary) => ScalarValue::Binary(Some(b.to_vec())),
        (Held::Bytes(b), other) => decode_rows(&[Some(b)], other)
            .and_then(|a| ScalarValue::try_from_array(&a, 0).map_err(|e| ArrowError::ComputeError(e.to_string())))
            .unwrap_or(ScalarValue::Null),
    }
}

fn decode_rows(rows: &[Option<&[u8]>], data_type: &DataType) -> Result<ArrayRef, ArrowError> {
    let converter = RowConverter::new(vec![SortField::new(data_type.clone())])?;
    let null = converter.convert_columns(&[new_null_array(data_type, 1)])?;
    let parser = converter.parser();
    let rows = rows.iter().map(|r| match r {
        Some(bytes) => parser.parse(bytes),
        None => null.row(0),
    });
    converter.convert_rows(rows)?.pop().ok_or_else(|| ArrowError::ComputeError("one column was asked for".into()))
}

/// Columns of an update beside those of its group and its values.
const SYSTEM: usize = 10;

/// The columns of a view's updates in the log: `_hash`, the group's, system columns, then one per value. `_source` is the
/// stream that a row is of.
pub fn updates_schema(plan: &FoldPlan, groups: &[String]) -> SchemaRef {
    let mut fields = vec![Field::new("_hash", DataType::UInt64, false)];
    fields.extend(groups.iter().zip(&plan.group_types).map(|(name, t)| Field::new(name, t.clone(), true)));
    fields.push(Field::new("_event_time", timestamp(), false));
    fields.push(Field::new("_source", DataType::Utf8, false));
    fields.push(Field::new("_partition", DataType::Int32, false));
    fields.push(Field::new("_offset", DataType::Int64, false));
    fields.push(Field::new("_counts_from", timestamp(), true));
    fields.push(Field::new("_closing", DataType::Boolean, false));
    fields.push(Field::new("_epoch", timestamp(), false));
    fields.push(Field::new("_diff", DataType::Int64, false));
    fields.push(Field::new("_filters", DataType::UInt64, false));
    fields.extend(plan.value_types.iter().enumerate().map(|(n, t)| Field::new(format!("value_{n}"), t.clone(), true)));
    Arc::new(Schema::new(fields))
}

/// Converts group columns to bytes and back: the group's identity everywhere.
pub fn group_converter(plan: &FoldPlan) -> Result<RowConverter, ArrowError> {
    RowConverter::new(plan.group_types.iter().cloned().map(SortField::new).collect())
}

/// A batch of updates as Arrow, in the order given.
///
/// # Errors
/// Group bytes that are not of the plan's types: a log of another version.
pub fn to_batch(
    updates: &Updates,
    order: &[u32],
    plan: &FoldPlan,
    shape: &Shape,
    schema: &SchemaRef,
) -> Result<RecordBatch, ArrowError> {
    let rows: Vec<_> = order.iter().map(|n| updates.get(*n as usize, shape)).collect();
    let converter = group_converter(plan)?;
    let parser = converter.parser();
    let time = |v: Vec<i64>| Arc::new(TimestampMicrosecondArray::from(v)) as ArrayRef;
    let mut columns: Vec<ArrayRef> = vec![Arc::new(UInt64Array::from_iter_values(rows.iter().map(|u| u.hash)))];
    columns.extend(converter.convert_rows(rows.iter().map(|u| parser.parse(u.group)))?);
    columns.push(time(rows.iter().map(|u| u.entry.event_time()).collect()));
    let origins: Vec<Origin> = rows.iter().map(|u| u.entry.origin()).collect();
    columns.push(Arc::new(StringArray::from_iter_values(origins.iter().map(|o| &plan.streams[usize::from(o.rank())]))));
    columns.push(Arc::new(Int32Array::from_iter_values(origins.iter().map(|o| o.partition()))));
    columns.push(Arc::new(Int64Array::from_iter_values(rows.iter().map(|u| u.entry.offset()))));
    let later = rows.iter().map(|u| (u.counts_from > u.entry.event_time()).then_some(u.counts_from));
    columns.push(Arc::new(later.collect::<TimestampMicrosecondArray>()));
    columns.push(Arc::new(BooleanArray::from_iter(rows.iter().map(|u| Some(u.closing)))));
    columns.push(time(rows.iter().map(|u| u.epoch.cast_signed()).collect()));
    columns.push(Arc::new(Int64Array::from_iter_values(rows.iter().map(|u| i64::from(u.entry.multiplicity())))));
    let values = plan.values.len();
    columns.push(Arc::new(UInt64Array::from_iter_values(
        rows.iter().map(|u| u.entry.words[BITS].checked_shr(u32::try_from(values).unwrap_or(64)).unwrap_or(0)),
    )));
    let entries: Vec<Entry<'_>> = rows.iter().map(|u| u.entry).collect();
    for value in 0..values {
        columns.push(value_column(&entries, value, &plan.value_types[value], shape)?);
    }
    RecordBatch::try_new(Arc::clone(schema), columns)
}

fn value_column(
    entries: &[Entry<'_>],
    value: usize,
    data_type: &DataType,
    shape: &Shape,
) -> Result<ArrayRef, ArrowError> {
    let slot = shape.slots[value].0;
    let words = entries.iter().map(|e| (!e.is_null(value)).then(|| e.word(slot)));
    let ints = words.clone().map(|w| w.map(u64::cast_signed));
    let small = ints.clone().map(|v| v.and_then(|v| i32::try_from(v).ok()));
    Ok(match data_type {
        DataType::Boolean => Arc::new(BooleanArray::from_iter(words.map(|w| w.map(|w| w == 1)))),
        DataType::Int32 => Arc::new(small.collect::<Int32Array>()),
        DataType::Date32 => Arc::new(small.collect::<PrimitiveArray<Date32Type>>()),
        DataType::Int64 => Arc::new(ints.collect::<Int64Array>()),
        DataType::Timestamp(_, _) => Arc::new(ints.collect::<TimestampMicrosecondArray>()),
        DataType::Float64 => Arc::new(words.map(|w| w.map(f64::from_bits)).collect::<Float64Array>()),
        DataType::Decimal128(p, s) => {
            let wide = entries.iter().map(|e| (!e.is_null(value)).then(|| e.wide(slot)));
            Arc::new(wide.collect::<PrimitiveArray<Decimal128Type>>().with_precision_and_scale(*p, *s)?)
        }
        other => {
            let packed: Vec<_> = entries.iter().map(|e| (!e.is_null(value)).then(|| e.bytes(slot))).collect();
            let bytes: Vec<Option<&[u8]>> = packed.iter().map(|p| p.as_ref().map(|p| p.as_slice())).collect();
            match other {
                DataType::Utf8 => {
                    let text = bytes.iter().map(|b| b.map(|b| std::str::from_utf8(b).unwrap_or_default()));
                    Arc::new(text.collect::<StringArray>())
                }
                DataType::Binary => Arc::new(bytes.into_iter().collect::<BinaryArray>()),
                _ => decode_rows(&bytes, other)?,
            }
        }
    })
}

/// The rank of each row's stream; `None` if one is not of the view's.
fn ranks(sources: &StringArray, plan: &FoldPlan) -> Option<Vec<u8>> {
    let rank = |name: &str| plan.streams.iter().position(|s| s == name).and_then(|n| u8::try_from(n).ok());
    sources.iter().map(|name| rank(name?)).collect()
}

/// What [`to_batch`] wrote, read back.
///
/// # Errors
/// A batch of another schema.
pub fn from_batch(view: ViewId, batch: &RecordBatch, plan: &FoldPlan) -> Result<Updates, ArrowError> {
    let groups = plan.group_types.len();
    let wrong = || ArrowError::SchemaError("not a batch of this view's updates".into());
    if batch.num_columns() != groups + SYSTEM + plan.values.len() {
        return Err(wrong());
    }
    let columns = batch.columns();
    let rows = group_converter(plan)?.convert_columns(&columns[1..=groups])?;
    let at = |n: usize| &columns[groups + 1 + n];
    let times = |n: usize| at(n).as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(wrong);
    let (event_time, counts_from, epoch) = (times(0)?, times(4)?, times(6)?);
    let ranks = ranks(at(1).as_string_opt::<i32>().ok_or_else(wrong)?, plan).ok_or_else(wrong)?;
    let partition = at(2).as_primitive_opt::<Int32Type>().ok_or_else(wrong)?;
    let offset = at(3).as_primitive_opt::<Int64Type>().ok_or_else(wrong)?;
    let closing = at(5).as_boolean_opt().ok_or_else(wrong)?;
    let diff = at(7).as_primitive_opt::<Int64Type>().ok_or_else(wrong)?;
    let filters = at(8).as_primitive_opt::<arrow::datatypes::UInt64Type>().ok_or_else(wrong)?;
    let encoders: Vec<_> = columns[groups + SYSTEM..].iter().map(Encoder::new).collect::<Result<_, _>>()?;
    let mut updates = Updates::of(view);
    let late = counts_from.null_count() < batch.num_rows();
    let closes = closing.true_count() > 0;
    for (n, &rank) in ranks.iter().enumerate() {
        let group = rows.row(n);
        updates.hashes.push(hash_group(group.as_ref()));
        updates.group_bytes.extend_from_slice(group.as_ref());
        updates.group_ends.push(u32::try_from(updates.group_bytes.len()).map_err(|_| wrong())?);
        updates.epochs.push(epoch.value(n).cast_unsigned());
        if late {
            updates.counts_from.push(if counts_from.is_null(n) { i64::MIN } else { counts_from.value(n) });
        }
        if closes {
            updates.flags.push(if closing.value(n) { CLOSING } else { 0 });
        }
        let nulls = encoders.iter().enumerate().fold(0, |bits, (v, e)| bits | u64::from(e.is_null(n)) << v);
        let filters = filters.value(n).checked_shl(u32::try_from(encoders.len()).unwrap_or(64)).unwrap_or(0);
        let diff = i32::try_from(diff.value(n)).map_err(|_| wrong())?;
        let words = &mut updates.words;
        words.push(event_time.value(n).cast_unsigned());
        words.push(offset.value(n).cast_unsigned());
        words.push(place(Origin::new(rank, partition.value(n)), diff));
        words.push(nulls | filters);
        for encoder in &encoders {
            encoder.append(n, words, &mut updates.heap);
        }
    }
    Ok(updates)
}
