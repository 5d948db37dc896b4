//! Sources for the tests of this folder, without SQL files.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use crate::definition::{Check, Column, Connector, Format, Source, SourceKind, timestamp};
use crate::diagnostic::Span;

pub(super) const DAY: i64 = 86_400_000_000;

/// An expression from its text.
pub(super) fn expr(text: &str) -> ast::Expr {
    Parser::new(&GenericDialect {}).try_with_sql(text).expect("tokens").parse_expr().expect("an expression")
}

/// A source without columns yet; the event time is `ts`.
pub(super) fn source(name: &str, from: Connector) -> Source {
    Source {
        name: name.into(),
        kind: SourceKind::Stream,
        columns: vec![],
        checks: vec![],
        event_time: Some(expr("ts")),
        arrival_time: None,
        from,
        future: DAY,
        span: Span::default(),
    }
}

impl Source {
    /// With columns written `name TYPE [!]`, `!` for NOT NULL.
    pub(super) fn with(mut self, columns: &[&str]) -> Source {
        for text in columns {
            let words: Vec<&str> = text.split(' ').collect();
            let (name, data_type) = (words[0].to_string(), data_type(words[1]));
            self.columns.push(Column { name, data_type, nullable: !words.contains(&"!") });
        }
        self
    }

    pub(super) fn check(mut self, text: &str) -> Source {
        self.checks.push(Check { expr: expr(text), text: text.into() });
        self
    }

    pub(super) fn event(mut self, text: Option<&str>) -> Source {
        self.event_time = text.map(expr);
        self
    }

    pub(super) fn arrival(mut self, text: &str) -> Source {
        self.arrival_time = Some(expr(text));
        self
    }

    /// As a table with this primary key.
    pub(super) fn key(mut self, key: &[usize]) -> Source {
        self.kind = SourceKind::Table { key: key.to_vec() };
        self
    }
}

pub(super) fn kafka(topic: &str) -> Connector {
    Connector::Kafka { topic: topic.into(), format: Format::Json, brokers: None }
}

pub(super) fn file(path: &str, format: Format) -> Connector {
    Connector::File { path: path.into(), format }
}

fn data_type(text: &str) -> DataType {
    if let Some(item) = text.strip_suffix("[]") {
        return DataType::List(Arc::new(Field::new("item", data_type(item), true)));
    }
    match text {
        "BOOLEAN" => DataType::Boolean,
        "INT" => DataType::Int32,
        "BIGINT" => DataType::Int64,
        "DOUBLE" => DataType::Float64,
        "DECIMAL" => DataType::Decimal128(10, 2),
        "TEXT" => DataType::Utf8,
        "TIMESTAMP" => timestamp(),
        "DATE" => DataType::Date32,
        other => panic!("no type {other}"),
    }
}

/// A directory of files that goes with the test.
pub(super) struct Dir(tempfile::TempDir);

impl Dir {
    pub(super) fn new() -> Dir {
        Dir(tempfile::tempdir().expect("a temporary directory"))
    }

    pub(super) fn path(&self) -> PathBuf {
        self.0.path().to_path_buf()
    }

    pub(super) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.0.path().join(name), bytes).expect("written");
    }
}

/// The batch as one line per row, cells separated by a space, nulls as `-`.
pub(super) fn lines(batch: &arrow::array::RecordBatch, columns: &[&str]) -> Vec<String> {
    use arrow::util::display::{ArrayFormatter, FormatOptions};
    let options = FormatOptions::default().with_null("-");
    let batch = batch.project(&columns.iter().map(|c| batch.schema().index_of(c).expect(c)).collect::<Vec<_>>());
    let batch = batch.expect("columns that are there");
    let cells: Vec<_> =
        batch.columns().iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options).expect("printable")).collect();
    let line = |row| cells.iter().map(|c| c.value(row).to_string()).collect::<Vec<_>>().join(" ");
    (0..batch.num_rows()).map(line).collect()
}
