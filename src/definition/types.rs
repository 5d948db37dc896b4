//! The column types we have: from SQL to Arrow, and Arrow's back to the words a definition uses.
//!
//! Neighbours: `source` reads column lists with it; `avro` and `json_schema` arrive at the same types from schema files.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::sql::sqlparser::ast::{self, ArrayElemTypeDef, ExactNumberInfo, TimezoneInfo};

use super::near::nearest;
use super::timestamp;

/// What a definition may write.
const SUPPORTED: &str = "the types are BOOLEAN, INT, BIGINT, DOUBLE, DECIMAL(p, s), TEXT, TIMESTAMP, DATE, and \
                                    arrays of them, as in TEXT[]";

/// A column's type, or what to write instead.
pub(super) fn column_type(written: &ast::DataType) -> Result<DataType, String> {
    use ast::DataType as Sql;
    Ok(match written {
        Sql::Boolean | Sql::Bool => DataType::Boolean,
        Sql::Int(None) | Sql::Integer(None) => DataType::Int32,
        Sql::BigInt(None) => DataType::Int64,
        Sql::Double(ExactNumberInfo::None) | Sql::DoublePrecision => DataType::Float64,
        Sql::Decimal(size) | Sql::Numeric(size) => decimal(size)?,
        Sql::Text | Sql::Varchar(None) | Sql::String(None) => DataType::Utf8,
        Sql::Timestamp(None, TimezoneInfo::None) => timestamp(),
        Sql::Date => DataType::Date32,
        Sql::Array(ArrayElemTypeDef::AngleBracket(item) | ArrayElemTypeDef::SquareBracket(item, None)) => {
            match column_type(item)? {
                DataType::List(_) => return Err("an array of arrays cannot be a column".into()),
                item => list(item),
            }
        }
        other => return Err(instead(other)),
    })
}

/// An array of nullable items.
pub(super) fn list(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(item, true)))
}

/// DECIMAL(p, s), or what to write instead.
pub(super) fn decimal_of(precision: u64, scale: i64) -> Result<DataType, String> {
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(p @ 1..=38), Ok(s)) if s >= 0 && i64::from(s) <= i64::from(p) => Ok(DataType::Decimal128(p, s)),
        _ => Err("write DECIMAL(p, s) with p from 1 to 38 and s from 0 to p".into()),
    }
}

fn decimal(size: &ExactNumberInfo) -> Result<DataType, String> {
    match size {
        ExactNumberInfo::None => Err("write DECIMAL(p, s), as in DECIMAL(12, 2): exact numbers need their size".into()),
        ExactNumberInfo::Precision(p) => decimal_of(*p, 0),
        ExactNumberInfo::PrecisionAndScale(p, s) => decimal_of(*p, *s),
    }
}

fn instead(written: &ast::DataType) -> String {
    use ast::DataType as Sql;
    let write = match written {
        Sql::Float(_) | Sql::Real | Sql::Float4 | Sql::Float8 | Sql::Float32 | Sql::Float64 | Sql::Double(_) => {
            "DOUBLE"
        }
        Sql::TinyInt(_) | Sql::SmallInt(_) | Sql::MediumInt(_) | Sql::Int(_) | Sql::Integer(_) => "INT",
        Sql::Int2(_) | Sql::Int4(_) | Sql::Int16 | Sql::Int32 => "INT",
        Sql::BigInt(_) | Sql::Int8(_) | Sql::Int64 | Sql::UInt64 | Sql::UInt32 | Sql::HugeInt => "BIGINT",
        Sql::Varchar(Some(_)) | Sql::String(Some(_)) | Sql::Char(_) | Sql::Character(_) | Sql::CharVarying(_) => {
            return format!("write TEXT, and CHECK (character_length(…) <= n) for a limit; {SUPPORTED}");
        }
        Sql::CharacterVarying(_) | Sql::Nvarchar(_) | Sql::Uuid | Sql::Clob(_) => "TEXT",
        Sql::Timestamp(..) | Sql::TimestampNtz(_) | Sql::Datetime(_) | Sql::Datetime64(..) => {
            return format!("write TIMESTAMP: microseconds, UTC; {SUPPORTED}");
        }
        Sql::Array(ArrayElemTypeDef::SquareBracket(_, Some(_))) => "the array without a length",
        Sql::Array(_) => "T[] or ARRAY<T>",
        Sql::Custom(name, _) => {
            let names = ["BOOLEAN", "INT", "INTEGER", "BIGINT", "DOUBLE", "DECIMAL", "TEXT", "TIMESTAMP", "DATE"];
            match nearest(&name.to_string(), names) {
                Some(near) => return format!("did you mean {near}? {SUPPORTED}"),
                None => return SUPPORTED.into(),
            }
        }
        _ => return SUPPORTED.into(),
    };
    format!("write {write}; {SUPPORTED}")
}

/// The word a definition uses for an Arrow type; Arrow's own for one that no column can have.
pub fn sql_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "BOOLEAN".into(),
        DataType::Int32 => "INT".into(),
        DataType::Int64 => "BIGINT".into(),
        DataType::Float64 => "DOUBLE".into(),
        DataType::Decimal128(p, s) => format!("DECIMAL({p}, {s})"),
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => "TEXT".into(),
        DataType::Timestamp(_, _) => "TIMESTAMP".into(),
        DataType::Date32 => "DATE".into(),
        DataType::Binary => "BINARY".into(),
        DataType::List(item) => format!("{}[]", sql_name(item.data_type())),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::dialect;
    use datafusion::sql::sqlparser::parser::Parser;

    #[test]
    fn reads_types() {
        let check = |text: &str, want: Result<DataType, &str>| {
            let parsed = Parser::new(dialect()).try_with_sql(text).and_then(|mut p| p.parse_data_type()).expect(text);
            match (column_type(&parsed), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{text}"),
                (Err(got), Err(want)) => assert!(got.starts_with(want), "{text}: {got}"),
                (got, want) => panic!("{text}: {got:?}, expected {want:?}"),
            }
        };
        check("BOOLEAN", Ok(DataType::Boolean));
        check("int", Ok(DataType::Int32));
        check("INTEGER", Ok(DataType::Int32));
        check("BIGINT", Ok(DataType::Int64));
        check("DOUBLE", Ok(DataType::Float64));
        check("DOUBLE PRECISION", Ok(DataType::Float64));
        check("DECIMAL(12, 2)", Ok(DataType::Decimal128(12, 2)));
        check("NUMERIC(38)", Ok(DataType::Decimal128(38, 0)));
        check("TEXT", Ok(DataType::Utf8));
        check("VARCHAR", Ok(DataType::Utf8));
        check("STRING", Ok(DataType::Utf8));
        check("TIMESTAMP", Ok(timestamp()));
        check("DATE", Ok(DataType::Date32));
        check("DOUBLE[]", Ok(list(DataType::Float64)));
        check("ARRAY<DECIMAL(4, 2)>", Ok(list(DataType::Decimal128(4, 2))));
        check("DECIMAL", Err("write DECIMAL(p, s), as in"));
        check("DECIMAL(39, 2)", Err("write DECIMAL(p, s) with p"));
        check("DECIMAL(5, 6)", Err("write DECIMAL(p, s) with p"));
        check("DECIMAL(0)", Err("write DECIMAL(p, s) with p"));
        check("TEXT[][]", Err("an array of arrays"));
        check("TEXT[3]", Err("write the array without a length"));
        check("VARCHAR(20)", Err("write TEXT, and CHECK"));
        check("REAL", Err("write DOUBLE;"));
        check("SMALLINT", Err("write INT;"));
        check("TIMESTAMP WITH TIME ZONE", Err("write TIMESTAMP:"));
        check("TIMESTAMPTZ", Err("write TIMESTAMP:"));
        check("BIGINTT", Err("did you mean BIGINT?"));
        check("JSONB", Err("the types are"));
        check("BIGINT UNSIGNED", Err("the types are"));
    }
}
