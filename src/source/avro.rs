//! Avro datums by their writer's schema, bare or behind Confluent's or the single-object header.
//!
//! Fields are found by name, as in JSON. Logical types go to the column types that mean the same.
//! Invariants: a datum is read whole or refused; no value costs more than time in proportion to its bytes;
//! a text has 16 MiB at most, and room is made for 16 million items at a time, whatever a record says.
//! Neighbours: `column` takes the values; `decode` calls this per record.

use std::io::{Error, ErrorKind, Read};
use std::sync::Arc;

use apache_avro::types::Value;
use apache_avro::util::max_allocation_bytes;
use apache_avro::{Schema, from_avro_datum};
use num_bigint::BigInt;

use super::column::{ColumnBuffer, Misfit};
use super::decode::Names;

/// A decimal of more bits is beyond every column type, whatever its scale: no double is as large.
const DECIMAL_BITS_MAX: u64 = 1_024;

/// The longest text, and the most items of a list, that are read. The library makes room for as many as a record says
/// there are before it reads one: by default for 512 million items, of six bytes that came.
const LENGTH_MAX: usize = 16 << 20;

/// Reads datums of one schema.
#[derive(Debug)]
pub(super) struct Reader {
    schema: Arc<Schema>,
    /// For each field of the record: the column it is, and how its decimals are scaled.
    fields: Vec<(Option<usize>, u32)>,
}

impl Reader {
    /// `None` if the schema is not that of a record.
    pub(super) fn new(schema: &Arc<Schema>, names: &Names) -> Option<Reader> {
        let Schema::Record(record) = schema.as_ref() else { return None };
        max_allocation_bytes(LENGTH_MAX);
        let fields = record.fields.iter().map(|f| (names.find(f.name.as_bytes()), scale(&f.schema))).collect();
        Some(Reader { schema: Arc::clone(schema), fields })
    }

    /// Reads one datum and calls `field` with each declared column, its decimals' scale and its value.
    pub(super) fn record(
        &self,
        payload: &[u8],
        mut field: impl FnMut(usize, u32, &Value) -> Result<(), Misfit>,
    ) -> Result<(), Misfit> {
        let Value::Record(values) = self.datum(payload)? else { return Err("not an Avro record".into()) };
        for ((_, value), &(column, scale)) in values.iter().zip(&self.fields) {
            if let Some(column) = column {
                field(column, scale, value)?;
            }
        }
        Ok(())
    }

    /// The datum behind whatever header it has. A bare datum may begin like a header: then it is what reads whole.
    fn datum(&self, payload: &[u8]) -> Result<Value, Misfit> {
        let body = match payload {
            [0xC3, 0x01, _, _, _, _, _, _, _, _, body @ ..] => Some(body), // magic, fingerprint
            [0, _, _, _, _, body @ ..] => Some(body),                      // magic, registry's schema id
            _ => None,
        };
        match body.map(|body| self.whole(body)) {
            Some(Ok(value)) => Ok(value),
            Some(Err(why)) => self.whole(payload).map_err(|_| why),
            None => self.whole(payload),
        }
    }

    fn whole(&self, bytes: &[u8]) -> Result<Value, Misfit> {
        let mut rest = Unread(bytes);
        let value = from_avro_datum(&self.schema, &mut rest, None).map_err(|e| format!("not Avro: {e}"))?;
        match rest.0.len() {
            0 => Ok(value),
            left => Err(format!("{left} bytes are left after the Avro datum")),
        }
    }
}

/// What is unread of a datum. That it ends early is an error like any other: of `UnexpectedEof` the reader would make a
/// null where a string, a boolean or a union should begin.
struct Unread<'a>(&'a [u8]);

impl Read for Unread<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(into)? {
            0 if !into.is_empty() => Err(Error::new(ErrorKind::InvalidData, "the datum is cut off")),
            read => Ok(read),
        }
    }
}

/// The scale of the decimals in a field, which their values do not carry.
fn scale(schema: &Schema) -> u32 {
    match schema {
        Schema::Decimal(decimal) => u32::try_from(decimal.scale).unwrap_or(u32::MAX),
        Schema::Union(union) => union.variants().iter().map(scale).max().unwrap_or(0),
        Schema::Array(array) => scale(&array.items),
        _ => 0,
    }
}

/// Appends a value.
pub(super) fn append(column: &mut ColumnBuffer, scale: u32, value: &Value) -> Result<(), Misfit> {
    match value {
        Value::Null => {
            column.null();
            Ok(())
        }
        Value::Union(_, inner) => append(column, scale, inner),
        Value::Boolean(b) => column.boolean(*b),
        Value::Int(n) | Value::TimeMillis(n) => column.whole(i64::from(*n)),
        Value::Long(n) | Value::TimeMicros(n) => column.whole(*n),
        Value::Float(x) => column.double(f64::from(*x)),
        Value::Double(x) => column.double(*x),
        Value::String(text) | Value::Enum(_, text) => column.text(text),
        Value::Uuid(id) => column.text(&id.to_string()),
        Value::Date(days) => column.date(*days),
        Value::TimestampMillis(t) | Value::LocalTimestampMillis(t) => {
            column.instant(t.checked_mul(1_000).ok_or_else(|| format!("{t} ms is not an instant"))?)
        }
        Value::TimestampMicros(t) | Value::LocalTimestampMicros(t) => column.instant(*t),
        Value::TimestampNanos(t) | Value::LocalTimestampNanos(t) => column.instant(t.div_euclid(1_000)),
        Value::Decimal(value) => decimal(column, &BigInt::from(value.clone()), -i64::from(scale)),
        Value::BigDecimal(value) => {
            let (digits, exponent) = value.as_bigint_and_exponent();
            // The library's exponent counts downwards.
            decimal(column, &digits, exponent.saturating_neg())
        }
        Value::Array(values) => column.list(|items| values.iter().try_for_each(|v| append(items, scale, v))),
        Value::Bytes(_) | Value::Fixed(..) | Value::Duration(_) | Value::Map(_) | Value::Record(_) => {
            Err(format!("expected {}, found an Avro value without a column type", column.type_name()))
        }
    }
}

/// Appends `digits * 10^exponent`. Writing digits down takes time with the square of their number, so those come first.
fn decimal(column: &mut ColumnBuffer, digits: &BigInt, exponent: i64) -> Result<(), Misfit> {
    if digits.bits() > DECIMAL_BITS_MAX {
        return Err(format!("a decimal of {} bits is out of the range of {}", digits.bits(), column.type_name()));
    }
    column.number(&format!("{digits}e{exponent}"))
}
