//! An Avro record schema to columns.
//!
//! Neighbours: `schema_file` reads the file; the decoder reads payloads by the schema kept beside the columns.

use std::sync::Arc;

use apache_avro::schema::{NamesRef, ResolvedSchema};
use apache_avro::{AvroResult, Schema};
use arrow::datatypes::DataType;

use super::schema_file::{SchemaColumn, SchemaFile, Unusable};
use super::timestamp;
use super::types::{decimal_of, list};

/// The columns of a record; `shown` names the file in messages.
pub(super) fn read(text: &str, shown: &str) -> Result<SchemaFile, Unusable> {
    let invalid = |e: apache_avro::Error| {
        Unusable::new(format!("{shown} is not an Avro schema: {e}"), "correct the file; it must hold one record schema")
    };
    let schema = Schema::parse_str(text).map_err(invalid)?;
    let Schema::Record(record) = &schema else {
        return Err(Unusable::new(format!("{shown} is not the schema of a record"), "write {\"type\": \"record\", …}"));
    };
    let resolved: AvroResult<ResolvedSchema<'_>> = ResolvedSchema::try_from(&schema);
    let resolved = resolved.map_err(invalid)?;
    let columns = record
        .fields
        .iter()
        .map(|field| {
            let (inner, nullable) = optional(&field.schema);
            let data_type = inner.and_then(|s| column_type(s, resolved.get_names()));
            SchemaColumn { name: field.name.clone(), data_type, nullable, checks: vec![] }
        })
        .collect();
    drop(resolved);
    Ok(SchemaFile { columns, avro: Some(Arc::new(schema)) })
}

/// A union of null and one other is that other, nullable.
fn optional(schema: &Schema) -> (Result<&Schema, String>, bool) {
    let Schema::Union(union) = schema else { return (Ok(schema), matches!(schema, Schema::Null)) };
    let others: Vec<&Schema> = union.variants().iter().filter(|s| !matches!(s, Schema::Null)).collect();
    let nullable = others.len() < union.variants().len();
    match others.as_slice() {
        [one] => (Ok(one), nullable),
        _ => (Err("a union of several types cannot be a column".into()), nullable),
    }
}

fn column_type(schema: &Schema, names: &NamesRef<'_>) -> Result<DataType, String> {
    Ok(match schema {
        Schema::Boolean => DataType::Boolean,
        Schema::Int => DataType::Int32,
        Schema::Long => DataType::Int64,
        Schema::Float | Schema::Double => DataType::Float64,
        Schema::String | Schema::Enum(_) | Schema::Uuid => DataType::Utf8,
        Schema::Date => DataType::Date32,
        Schema::TimestampMillis | Schema::TimestampMicros => timestamp(),
        Schema::Decimal(d) => {
            let size = u64::try_from(d.precision).ok().zip(i64::try_from(d.scale).ok());
            let (precision, scale) = size.ok_or("a decimal of that size cannot be a column")?;
            decimal_of(precision, scale)
                .map_err(|_| format!("DECIMAL({precision}, {scale}) has more than 38 digits"))?
        }
        Schema::Array(array) => {
            let (item, _) = optional(&array.items);
            match column_type(item?, names)? {
                DataType::List(_) => return Err("an array of arrays cannot be a column".into()),
                item => list(item),
            }
        }
        Schema::Ref { name } => match names.get(name) {
            Some(Schema::Ref { .. }) | None => return Err(format!("its type `{name}` is not defined in the file")),
            Some(named) => column_type(named, names)?,
        },
        Schema::Record(_) => return Err("a record inside a record cannot be a column".into()),
        Schema::Map(_) => return Err("a map cannot be a column".into()),
        Schema::Bytes | Schema::Fixed(_) => {
            return Err("bytes without the logical type decimal cannot be a column".into());
        }
        Schema::Union(_) => return Err("a union inside a union cannot be a column".into()),
        Schema::Null => return Err("null alone is no type for a column".into()),
        Schema::TimestampNanos | Schema::LocalTimestampNanos => {
            return Err("nanoseconds do not fit: use timestamp-micros".into());
        }
        Schema::LocalTimestampMillis | Schema::LocalTimestampMicros => {
            return Err("a local time is no instant: use timestamp-micros".into());
        }
        Schema::BigDecimal => return Err("a decimal without a fixed scale cannot be a column".into()),
        Schema::TimeMillis | Schema::TimeMicros => return Err("a time of day cannot be a column".into()),
        Schema::Duration => return Err("a duration cannot be a column".into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(field_type: &str) -> (Result<DataType, String>, bool) {
        let text = format!(
            r#"{{"type":"record","name":"R","fields":[
                {{"name":"k","type":{{"type":"enum","name":"Kind","symbols":["a","b"]}}}},
                {{"name":"f","type":{field_type}}}]}}"#
        );
        let mut columns = read(&text, "schemas/r.avsc").expect(field_type).columns;
        let last = columns.pop().expect("two fields");
        (last.data_type, last.nullable)
    }

    #[test]
    fn maps_types() {
        let check = |field_type: &str, want: DataType, nullable: bool| {
            assert_eq!(one(field_type), (Ok(want), nullable), "{field_type}");
        };
        check(r#""int""#, DataType::Int32, false);
        check(r#""long""#, DataType::Int64, false);
        check(r#""float""#, DataType::Float64, false);
        check(r#""boolean""#, DataType::Boolean, false);
        check(r#"["null","string"]"#, DataType::Utf8, true);
        check(r#"["double","null"]"#, DataType::Float64, true);
        check(r#"["long"]"#, DataType::Int64, false);
        check(r#""Kind""#, DataType::Utf8, false);
        check(r#"["null","Kind"]"#, DataType::Utf8, true);
        check(r#"{"type":"int","logicalType":"date"}"#, DataType::Date32, false);
        check(r#"["null",{"type":"long","logicalType":"timestamp-millis"}]"#, timestamp(), true);
        check(r#"{"type":"long","logicalType":"timestamp-micros"}"#, timestamp(), false);
        check(
            r#"{"type":"bytes","logicalType":"decimal","precision":12,"scale":2}"#,
            DataType::Decimal128(12, 2),
            false,
        );
        check(
            r#"{"type":{"type":"fixed","name":"F","size":8},"logicalType":"decimal","precision":9,"scale":3}"#,
            DataType::Decimal128(9, 3),
            false,
        );
        check(r#"{"type":"array","items":["null","long"]}"#, list(DataType::Int64), false);
    }

    #[test]
    fn says_why_a_field_is_no_column() {
        let check = |field_type: &str, want: &str| {
            let got = one(field_type).0.expect_err(field_type);
            assert!(got.contains(want), "{field_type}: {got}");
        };
        check(r#"["null","long","string"]"#, "union of several");
        check(r#"{"type":"map","values":"long"}"#, "map");
        check(r#""bytes""#, "bytes");
        check(r#"{"type":"record","name":"In","fields":[]}"#, "record inside");
        check(r#"{"type":"array","items":{"type":"array","items":"int"}}"#, "array of arrays");
        check(r#"{"type":"bytes","logicalType":"decimal","precision":40,"scale":2}"#, "38 digits");
    }

    #[test]
    fn refuses_what_is_no_record() {
        let check = |text: &str, want: &str| {
            let got = read(text, "schemas/r.avsc").expect_err(text).message;
            assert!(got.starts_with(want), "{text}: {got}");
        };
        check("{", "schemas/r.avsc is not an Avro schema: ");
        check(r#""long""#, "schemas/r.avsc is not the schema of a record");
        check(r#"{"type":"record","name":"R","fields":[{"name":"a","type":"lang"}]}"#, "schemas/r.avsc is not an Avro");
    }
}
