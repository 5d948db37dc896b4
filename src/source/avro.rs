//! Avro datums by their writer's schema, bare or behind Confluent's or the single-object header.
//!
//! Fields are found by name, as in JSON. Logical types go to the column types that mean the same.
//! Neighbours: `column` takes the values; `decode` calls this per record.

use std::sync::Arc;

use apache_avro::types::Value;
use apache_avro::{Schema, from_avro_datum};
use num_bigint::BigInt;

use super::column::{ColumnBuffer, Misfit};
use super::decode::Names;

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

    fn whole(&self, mut bytes: &[u8]) -> Result<Value, Misfit> {
        let value = from_avro_datum(&self.schema, &mut bytes, None).map_err(|e| format!("not Avro: {e}"))?;
        if bytes.is_empty() { Ok(value) } else { Err(format!("{} bytes are left after the Avro datum", bytes.len())) }
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
        Value::Decimal(decimal) => column.number(&format!("{}e-{scale}", BigInt::from(decimal.clone()))),
        Value::BigDecimal(decimal) => column.number(&decimal.to_string()),
        Value::Array(values) => column.list(|items| values.iter().try_for_each(|v| append(items, scale, v))),
        Value::Bytes(_) | Value::Fixed(..) | Value::Duration(_) | Value::Map(_) | Value::Record(_) => {
            Err(format!("expected {}, found an Avro value without a column type", column.type_name()))
        }
    }
}
