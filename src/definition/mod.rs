//! What the user defined: streams, tables and feature views, checked, or every problem found.
//!
//! `load` reads `dataflows/*.sql` in name order, substitutes `${NAME}`, parses the statements around DataFusion's SQL,
//! resolves schemas under `schemas/`, and reports all problems at once. It does no planning: a view's query is kept as
//! its syntax tree and text, for `plan` and, separately, for `verify`.
//!
//! Invariants: names are unique over streams, tables and views; names are lower-cased unless quoted.
//! Neighbours: `plan` binds the queries; `source` decodes by the columns.

mod arguments;
mod avro;
pub mod bounded;
mod calls;
pub mod check;
mod clauses;
mod constant;
mod dialect;
mod exact;
mod expressions;
mod file;
#[cfg(test)]
mod function_tests;
mod functions;
mod interval;
mod json_schema;
mod load;
pub mod meaning;
#[cfg(test)]
mod meaning_tests;
mod names;
mod near;
mod normal;
mod options;
#[cfg(test)]
mod refused_tests;
mod schema_file;
mod source;
mod sql;
mod statement;
mod substitute;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod times;
mod types;
mod view;

pub use dialect::{HeadwaterDialect, dialect, parse_query};
pub use load::{LoadError, load};
pub use near::{listed, nearest};
pub use normal::LISTED;
pub use types::sql_name;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::sql::sqlparser::ast;

use crate::diagnostic::Span;

/// All definitions of a deployment directory.
#[derive(Clone, Debug, Default)]
pub struct Definitions {
    /// The deployment directory; paths of files are relative to it.
    pub dir: PathBuf,
    /// Streams and tables by name.
    pub sources: BTreeMap<String, Arc<Source>>,
    /// Feature views by name.
    pub views: BTreeMap<String, Arc<View>>,
    /// Feature services by name: (view, feature or `None` for all of them).
    pub services: BTreeMap<String, Vec<(String, Option<String>)>>,
    /// The text of every file after substitution, by the name that spans use: for excerpts in later diagnostics.
    pub texts: BTreeMap<String, String>,
}

/// A stream or a table: where rows come from and what they look like.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// Append-only events, or upserts by primary key.
    pub kind: SourceKind,
    /// The declared columns, in order, without system columns.
    pub columns: Vec<Column>,
    /// `CHECK`s of columns and of the whole, to be evaluated over the declared columns. Null passes.
    pub checks: Vec<Check>,
    /// `EVENT TIME`: over declared columns, `_timestamp` and `_key`. Always there for a stream.
    pub event_time: Option<ast::Expr>,
    /// `ARRIVAL TIME`, for files.
    pub arrival_time: Option<ast::Expr>,
    /// Where the rows come from.
    pub from: Connector,
    /// How far ahead of its arrival an event may be dated, in microseconds (`WITH (future = '…')`).
    pub future: i64,
    /// The whole statement's place.
    pub span: Span,
}

/// Append-only, or keyed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// Append-only events.
    Stream,
    /// Upserts by primary key: indices into the columns. A null payload deletes.
    Table {
        /// Indices of the primary key's columns, in declared order.
        key: Vec<usize>,
    },
}

/// One declared column.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Its name, which is also the JSON field's, the CSV header's, the Avro field's.
    pub name: String,
    /// BOOLEAN, INT (Int32), BIGINT (Int64), DOUBLE (Float64), DECIMAL (Decimal128), TEXT (Utf8), TIMESTAMP
    /// (Timestamp(µs), no zone, UTC), DATE (Date32), or a List of one of them (child field `item`, nullable).
    pub data_type: DataType,
    /// False for `NOT NULL` and primary-key columns.
    pub nullable: bool,
}

/// A `CHECK` constraint.
#[derive(Clone, Debug)]
pub struct Check {
    /// The condition.
    pub expr: ast::Expr,
    /// Its text, for the quarantine's reason.
    pub text: String,
}

/// Where rows come from.
#[derive(Clone, Debug)]
pub enum Connector {
    /// A Kafka topic.
    Kafka {
        /// The topic.
        topic: String,
        /// How payloads are encoded.
        format: Format,
        /// `brokers = '…'`, if the definition names them.
        brokers: Option<String>,
    },
    /// A bounded file. `.gz` and `.zst` are unpacked on the way.
    File {
        /// As written; relative to the deployment directory.
        path: String,
        /// How records are encoded.
        format: Format,
    },
}

/// How one record is encoded.
#[derive(Clone, Debug)]
pub enum Format {
    /// A JSON object; in a file, one a line.
    Json,
    /// CSV with a header line.
    Csv,
    /// An Avro datum by this writer schema (bare, or behind Confluent's or the single-object header).
    Avro(Arc<apache_avro::Schema>),
}

/// A feature view.
#[derive(Clone, Debug)]
pub struct View {
    /// Its name.
    pub name: String,
    /// The query after `AS`, its aggregates told apart where DataFusion's names do not.
    pub query: Box<ast::Query>,
    /// The query's text, as written (after substitution).
    pub text: String,
    /// `entity = 'a, b'`: output columns that name the entity; `None` means the `GROUP BY` columns in order.
    pub entity: Option<Vec<String>>,
    /// Declared objective from append to readable, in microseconds.
    pub freshness: Option<i64>,
    /// Grid to which event time is rounded down inside temporal predicates, in microseconds.
    pub resolution: Option<i64>,
    /// Declared retention, in microseconds.
    pub retention: Option<i64>,
    /// Free text: `owner`, `description`, `tags`.
    pub labels: BTreeMap<String, String>,
    /// The whole statement's place.
    pub span: Span,
}

/// The system columns of every source row, in this order after the declared columns.
pub const SYSTEM_COLUMNS: [&str; 5] = ["_event_time", "_arrival_time", "_epoch", "_partition", "_offset"];

/// TIMESTAMP: microseconds, UTC, without a zone in the type.
pub fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}

/// The declared columns, then what Kafka adds: `_key` (Binary) and `_timestamp` (TIMESTAMP).
fn kafka_input(declared: &Schema) -> SchemaRef {
    let mut fields: Vec<Field> = declared.fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.push(Field::new("_key", DataType::Binary, true));
    fields.push(Field::new("_timestamp", timestamp(), true));
    Arc::new(Schema::new(fields))
}

impl Source {
    /// Is it a table?
    pub fn is_table(&self) -> bool {
        matches!(self.kind, SourceKind::Table { .. })
    }

    /// Is it read from Kafka?
    pub fn is_kafka(&self) -> bool {
        matches!(self.from, Connector::Kafka { .. })
    }

    /// The declared columns as an Arrow schema.
    pub fn declared_schema(&self) -> SchemaRef {
        let fields = self.columns.iter().map(|c| Field::new(&c.name, c.data_type.clone(), c.nullable));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// What `event_time` and `arrival_time` are expressions over: the declared columns, and from Kafka `_key` (Binary)
    /// and `_timestamp` (TIMESTAMP) after them.
    pub fn input_schema(&self) -> SchemaRef {
        let declared = self.declared_schema();
        if self.is_kafka() { kafka_input(&declared) } else { declared }
    }

    /// The schema of its rows in the engine, the events log and the queries: the declared columns (all nullable for a
    /// table, whose tombstones carry only the key), then `_event_time` (TIMESTAMP; null for a row of a table without
    /// one), `_arrival_time` (TIMESTAMP), `_epoch` (TIMESTAMP), `_partition` (Int32), `_offset` (Int64); from Kafka
    /// also `_key` (Binary) and `_timestamp` (TIMESTAMP); for a table last `_deleted` (Boolean, true for a tombstone).
    pub fn row_schema(&self) -> SchemaRef {
        let table = self.is_table();
        let mut fields: Vec<Field> =
            self.columns.iter().map(|c| Field::new(&c.name, c.data_type.clone(), c.nullable || table)).collect();
        fields.push(Field::new("_event_time", timestamp(), table));
        fields.push(Field::new("_arrival_time", timestamp(), false));
        fields.push(Field::new("_epoch", timestamp(), false));
        fields.push(Field::new("_partition", DataType::Int32, false));
        fields.push(Field::new("_offset", DataType::Int64, false));
        if self.is_kafka() {
            fields.push(Field::new("_key", DataType::Binary, true));
            fields.push(Field::new("_timestamp", timestamp(), true));
        }
        if table {
            fields.push(Field::new("_deleted", DataType::Boolean, false));
        }
        Arc::new(Schema::new(fields))
    }
}
