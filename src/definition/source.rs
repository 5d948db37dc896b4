//! `CREATE STREAM` and `CREATE TABLE` as parsed to a checked [`Source`], or every problem found.
//!
//! Columns come from the list, from a schema file, or from the list as a selection of the file's.
//!
//! Neighbours: `statement` is what comes in; `schema_file` and `types` give columns, `check` judges expressions.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion::sql::sqlparser::ast::Ident;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Span as TokenSpan, TokenWithSpan};

use super::check::{as_timestamp, check_expr};
use super::clauses::Refused;
use super::dialect::dialect;
use super::expressions;
use super::file::File;
use super::names::{column_fault, known_as};
use super::near::{listed, nearest};
use super::options::Options;
use super::schema_file::{self, SchemaColumn, SchemaFile};
use super::statement::{Clause, FromClause, SourceStatement};
use super::types::{column_type, sql_name};
use super::{Check, Column, Connector, Format, Source, SourceKind};
use crate::diagnostic::Diagnostic;

/// How far ahead of its arrival an event may be dated if the definition does not say: 24 hours.
const FUTURE: i64 = 86_400_000_000;

const ARGUMENTS: &str = "check the operands and their types; CAST(x AS BIGINT) changes one";

/// A statement being checked.
pub(super) struct Builder<'a> {
    /// The file it stands in.
    pub(super) file: &'a File,
    /// The deployment directory.
    pub(super) dir: &'a Path,
    /// The statement's tokens.
    pub(super) tokens: &'a [TokenWithSpan],
    /// Where problems go.
    pub(super) problems: &'a mut Vec<Diagnostic>,
}

/// What FROM says.
struct Origin {
    connector: Option<Connector>,
    /// The schema file, and where it is named.
    schema: Option<(SchemaFile, String, TokenSpan)>,
    /// A schema was named, but cannot be read: the columns are not known.
    broken: bool,
}

impl Builder<'_> {
    /// The source, unless something is wrong with it.
    pub(super) fn build(mut self, statement: &SourceStatement, span: TokenSpan) -> Option<Source> {
        let before = self.problems.len();
        let origin = self.origin(statement);
        let (columns, mut checks, complete) = self.columns(statement, &origin);
        let key = self.key(statement, &columns, complete);
        let future = self.with(statement);
        self.times_present(statement);
        for clause in &statement.checks {
            checks.push(Check { expr: clause.expr.clone(), text: self.file.slice(clause.span).to_string() });
        }
        let mut source = Source {
            name: known_as(&statement.name),
            kind: if statement.table { SourceKind::Table { key } } else { SourceKind::Stream },
            columns,
            checks,
            event_time: statement.event_time.as_ref().map(|c| c.expr.clone()),
            arrival_time: statement.arrival_time.as_ref().map(|c| c.expr.clone()),
            from: origin.connector.unwrap_or(Connector::File { path: String::new(), format: Format::Json }),
            future,
            span: self.file.span(span),
        };
        if let SourceKind::Table { key } = &source.kind {
            key.iter().for_each(|k| source.columns[*k].nullable = false);
        }
        // With a column missing, every expression that names it would be wrong too.
        if complete {
            self.expressions(statement, &source);
        }
        (self.problems.len() == before).then_some(source)
    }

    fn problem(&mut self, at: TokenSpan, message: impl Into<String>, help: impl Into<String>) {
        self.problems.push(self.file.problem(at, message, help));
    }

    fn origin(&mut self, statement: &SourceStatement) -> Origin {
        let none = Origin { connector: None, schema: None, broken: true };
        if let Some(at) = statement.backfill {
            self.problem(
                at,
                "BACKFILL FROM FILE is not supported yet",
                "read the file with FROM FILE, in a stream of its own",
            );
        }
        let Some(from) = &statement.from else {
            let kind = if statement.table { "table" } else { "stream" };
            let help = "add FROM KAFKA (topic = '…', format = 'json') or FROM FILE (path = '…', format = 'jsonl')";
            self.problem(statement.name.span, format!("the {kind} `{}` has no FROM", known_as(&statement.name)), help);
            return none;
        };
        match from.connector.value.to_uppercase().as_str() {
            "KAFKA" => self.kafka(from),
            "FILE" => self.read_file(from),
            "PUSH" => {
                let help = "use FROM KAFKA (topic = '…', format = 'json') or FROM FILE (path = '…', format = 'jsonl')";
                self.problem(from.span, "FROM PUSH is not supported yet", help);
                none
            }
            other => {
                let help = match nearest(other, ["KAFKA", "FILE"]) {
                    Some(near) => format!("did you mean {near}?"),
                    None => "write FROM KAFKA (…) or FROM FILE (…)".into(),
                };
                self.problem(from.connector.span, format!("there is no source `{}`", from.connector.value), help);
                none
            }
        }
    }

    fn kafka(&mut self, from: &FromClause) -> Origin {
        let known = (
            "FROM KAFKA",
            ["topic", "format", "schema", "brokers"].as_slice(),
            "properties of librdkafka go under [kafka.properties] in headwater.toml",
        );
        let options = Options::new(self.file, &from.options, known, self.problems);
        let topic = self.required(&options, from, "topic", "topic = 'clicks'");
        let brokers = options.text("brokers", self.problems).map(|b| b.0);
        let (schema, broken) = self.schema(&options);
        let avro = schema.as_ref().and_then(|s| s.0.avro.clone());
        let format =
            self.required(&options, from, "format", "format = 'json' or 'avro'").and_then(|(name, at)| {
                match (name.to_lowercase().as_str(), avro) {
                    ("json", _) => Some(Format::Json),
                    ("avro", Some(writer)) => Some(Format::Avro(writer)),
                    ("avro", None) => {
                        if !broken {
                            let help = "name the writer's schema, a file under schemas/: schema = 'clicks.avsc'";
                            self.problem(at, "format 'avro' needs an Avro schema", help);
                        }
                        None
                    }
                    ("protobuf", _) => {
                        self.problem(at, "format 'protobuf' is not supported yet", "write 'json' or 'avro'");
                        None
                    }
                    (other, _) => {
                        let help = match nearest(other, ["json", "avro"]) {
                            Some(near) => format!("did you mean '{near}'?"),
                            None => "write 'json' or 'avro'".into(),
                        };
                        self.problem(at, format!("KAFKA has no format '{name}'"), help);
                        None
                    }
                }
            });
        let connector = topic.zip(format).map(|((topic, _), format)| Connector::Kafka { topic, format, brokers });
        Origin { connector, schema, broken }
    }

    fn read_file(&mut self, from: &FromClause) -> Origin {
        let known = ("FROM FILE", ["path", "format", "schema"].as_slice(), "");
        let options = Options::new(self.file, &from.options, known, self.problems);
        let path = self.required(&options, from, "path", "path = 'data/clicks.jsonl'");
        let (schema, broken) = self.schema(&options);
        let format = self.required(&options, from, "format", "format = 'jsonl' or 'csv'").and_then(|(name, at)| {
            let help = match name.to_lowercase().as_str() {
                "jsonl" => return Some(Format::Json),
                "csv" => return Some(Format::Csv),
                "parquet" => {
                    let help = "convert the file, and write 'jsonl' or 'csv'";
                    self.problem(at, "format 'parquet' is not supported yet", help);
                    return None;
                }
                "json" | "ndjson" => "write 'jsonl': one JSON object a line".into(),
                other => match nearest(other, ["jsonl", "csv"]) {
                    Some(near) => format!("did you mean '{near}'?"),
                    None => "write 'jsonl' or 'csv'".into(),
                },
            };
            self.problem(at, format!("FILE has no format '{name}'"), help);
            None
        });
        let connector = path.zip(format).map(|((path, _), format)| Connector::File { path, format });
        Origin { connector, schema, broken }
    }

    fn required(
        &mut self,
        options: &Options<'_>,
        from: &FromClause,
        name: &str,
        help: &str,
    ) -> Option<(String, TokenSpan)> {
        if !options.has(name) {
            let message = format!("FROM {} needs `{name}`", from.connector.value.to_uppercase());
            self.problem(from.connector.span, message, format!("add {help}"));
        }
        options.text(name, self.problems)
    }

    /// The schema file, and whether one was named that cannot be used.
    fn schema(&mut self, options: &Options<'_>) -> (Option<(SchemaFile, String, TokenSpan)>, bool) {
        let Some((name, at)) = options.text("schema", self.problems) else { return (None, options.has("schema")) };
        match schema_file::read(self.dir, &name) {
            Ok(schema) => (Some((schema, format!("schemas/{name}"), at)), false),
            Err(e) => {
                self.problem(at, e.message, e.help);
                (None, true)
            }
        }
    }

    /// The columns, the checks that come with them, and whether all columns are known.
    fn columns(&mut self, statement: &SourceStatement, origin: &Origin) -> (Vec<Column>, Vec<Check>, bool) {
        if statement.columns.is_empty() {
            return match &origin.schema {
                Some((schema, shown, at)) => self.columns_of(schema, shown, *at),
                None if origin.broken => (vec![], vec![], false),
                None => {
                    let help =
                        "list them after the name, (user_id BIGINT NOT NULL, …), or name a file with schema = '…'";
                    self.problem(statement.name.span, format!("`{}` has no columns", known_as(&statement.name)), help);
                    (vec![], vec![], false)
                }
            };
        }
        let mut complete = true;
        let mut columns: Vec<Column> = vec![];
        for (i, clause) in statement.columns.iter().enumerate() {
            let name = known_as(&clause.name);
            if let Some((message, help)) = column_fault(&clause.name) {
                self.problem(clause.name.span, message, help);
            } else if statement.columns[..i].iter().any(|c| known_as(&c.name) == name) {
                self.problem(clause.name.span, format!("there are two columns `{name}`"), "give each its own name");
                continue;
            }
            match column_type(&clause.data_type) {
                Ok(data_type) => {
                    if let Some((schema, shown, _)) = &origin.schema {
                        self.in_schema(schema, shown, (&clause.name, &name), &data_type, clause.type_span);
                    }
                    columns.push(Column { name, data_type, nullable: !clause.not_null });
                }
                Err(help) => {
                    complete = false;
                    let written = self.file.slice(clause.type_span).to_uppercase();
                    self.problem(clause.type_span, format!("a column cannot be of type {written}"), help);
                }
            }
        }
        (columns, vec![], complete)
    }

    /// A listed column must be a field of the schema file, of a type that it can be read from.
    fn in_schema(
        &mut self,
        schema: &SchemaFile,
        shown: &str,
        (ident, name): (&Ident, &str),
        data_type: &DataType,
        at: TokenSpan,
    ) {
        let Some(field) = schema.columns.iter().find(|c| c.name == name) else {
            let names = || schema.columns.iter().map(|c| c.name.as_str());
            let help = match nearest(name, names()) {
                Some(near) if near.to_lowercase() != near => format!("write \"{near}\" in quotes, to keep its case"),
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("it has {}", listed(names())),
            };
            return self.problem(ident.span, format!("{shown} has no field `{name}`"), help);
        };
        let why = match &field.data_type {
            Err(why) => format!("in {shown}: {why}"),
            Ok(from) if schema.avro.is_none() || readable(from, data_type) => return,
            Ok(from) => format!("{shown} says {}", sql_name(from)),
        };
        let help = match &field.data_type {
            Ok(from) => format!("write {}", sql_name(from)),
            Err(_) => "leave the column out".into(),
        };
        self.problem(at, format!("`{name}` cannot be read as {}: {why}", sql_name(data_type)), help);
    }

    fn columns_of(&mut self, schema: &SchemaFile, shown: &str, at: TokenSpan) -> (Vec<Column>, Vec<Check>, bool) {
        let (mut columns, mut checks) = (vec![], vec![]);
        let before = self.problems.len();
        let help = "list the columns you need in the definition; the schema's others are then left out";
        if schema.columns.is_empty() {
            self.problem(at, format!("{shown} has no fields"), "write fields into it, or list the columns here");
        }
        for field in &schema.columns {
            let SchemaColumn { name, data_type, nullable, checks: conditions } = field;
            match (data_type, column_fault(&Ident::with_quote('"', name))) {
                (Err(why), _) => self.problem(at, format!("field `{name}` of {shown}: {why}"), help),
                (Ok(_), Some((message, _))) => self.problem(at, format!("field `{name}` of {shown}: {message}"), help),
                (Ok(data_type), None) => {
                    columns.push(Column { name: name.clone(), data_type: data_type.clone(), nullable: *nullable });
                }
            }
            for text in conditions {
                match Parser::new(dialect()).try_with_sql(text).and_then(|mut p| p.parse_expr()) {
                    Ok(expr) => checks.push(Check { expr, text: text.clone() }),
                    Err(e) => self.problem(at, format!("field `{name}` of {shown}: {text} is no condition: {e}"), help),
                }
            }
        }
        (columns, checks, self.problems.len() == before)
    }

    fn key(&mut self, statement: &SourceStatement, columns: &[Column], complete: bool) -> Vec<usize> {
        let name = known_as(&statement.name);
        if !statement.table {
            for clause in &statement.keys {
                let help = "leave it out, or write CREATE TABLE if rows replace each other by key";
                self.problem(clause.span, format!("`{name}` is a stream, and a stream has no primary key"), help);
            }
            return vec![];
        }
        let Some(clause) = statement.keys.first() else {
            let help = "write PRIMARY KEY after the column's type, or PRIMARY KEY (a, b) after the columns";
            self.problem(statement.name.span, format!("the table `{name}` has no primary key"), help);
            return vec![];
        };
        for other in &statement.keys[1..] {
            let help = "name all its columns in one: PRIMARY KEY (a, b)";
            self.problem(other.span, "there is a second primary key", help);
        }
        let mut key = vec![];
        for ident in &clause.columns {
            let column = known_as(ident);
            match columns.iter().position(|c| c.name == column) {
                Some(i) if key.contains(&i) => {
                    self.problem(ident.span, format!("`{column}` is in the primary key twice"), "leave one of them");
                }
                Some(i) if matches!(columns[i].data_type, DataType::List(_)) => {
                    let help = "choose columns that hold one value";
                    self.problem(ident.span, format!("`{column}` is an array, and cannot be in a primary key"), help);
                }
                Some(i) => key.push(i),
                None if !complete => {}
                None => {
                    let names = || columns.iter().map(|c| c.name.as_str());
                    let help = match nearest(&column, names()) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!("the columns are {}", listed(names())),
                    };
                    self.problem(ident.span, format!("the primary key names `{column}`, which is no column"), help);
                }
            }
        }
        key
    }

    fn with(&mut self, statement: &SourceStatement) -> i64 {
        let known = ("a stream or table", ["future"].as_slice(), "");
        let options = Options::new(self.file, &statement.with, known, self.problems);
        options.duration("future", 0, self.problems).unwrap_or(FUTURE)
    }

    fn times_present(&mut self, statement: &SourceStatement) {
        if !statement.table && statement.event_time.is_none() {
            let help =
                "add EVENT TIME and a column before FROM; for Kafka, EVENT TIME _timestamp is the record's own time";
            self.problem(
                statement.name.span,
                format!("the stream `{}` has no EVENT TIME", known_as(&statement.name)),
                help,
            );
        }
    }

    /// CHECKs over the declared columns, times also over what the source adds.
    fn expressions(&mut self, statement: &SourceStatement, source: &Source) {
        let declared = source.declared_schema();
        for clause in &statement.checks {
            if let Some(data_type) = self.typed(clause, &declared)
                && data_type != DataType::Boolean
            {
                let message = format!("this CHECK is {}, not a condition", sql_name(&data_type));
                self.problem(clause.span, message, "write a comparison, as in CHECK (price >= 0)");
            }
        }
        let kafka = statement.from.as_ref().is_some_and(|f| f.connector.value.eq_ignore_ascii_case("KAFKA"));
        let input: Arc<Schema> = if kafka { super::kafka_input(&declared) } else { declared };
        let times = [("EVENT TIME", &statement.event_time), ("ARRIVAL TIME", &statement.arrival_time)];
        for (name, clause) in times.into_iter().filter_map(|(name, clause)| Some((name, clause.as_ref()?))) {
            if let Some(data_type) = self.typed(clause, &input)
                && !matches!(data_type, DataType::Timestamp(_, _))
            {
                let help = as_timestamp(self.file.slice(clause.span), &data_type);
                self.problem(clause.span, format!("{name} is {}, not TIMESTAMP", sql_name(&data_type)), help);
            }
        }
    }

    fn typed(&mut self, clause: &Clause, schema: &Schema) -> Option<DataType> {
        let refused = expressions::refused(&clause.expr, self.tokens);
        if !refused.is_empty() {
            for Refused { at, message, help } in refused {
                let alone = "only the columns of the row itself can be used; put the rest into a view".to_string();
                self.problem(at, message.clone(), if message == expressions::SUBQUERY { alone } else { help });
            }
            return None;
        }
        match check_expr(&clause.expr, schema) {
            Ok(data_type) => Some(data_type),
            Err(findings) => {
                for finding in findings {
                    let help = if finding.help.is_empty() { ARGUMENTS.to_string() } else { finding.help };
                    self.problem(finding.span.unwrap_or(clause.span), finding.message, help);
                }
                None
            }
        }
    }
}

/// Can a value of an Avro field become the column's? Numbers may change size if they fit; a text may be read.
fn readable(from: &DataType, to: &DataType) -> bool {
    let number =
        |t: &DataType| matches!(t, DataType::Int32 | DataType::Int64 | DataType::Float64 | DataType::Decimal128(_, _));
    match (from, to) {
        (DataType::List(from), DataType::List(to)) => readable(from.data_type(), to.data_type()),
        (DataType::Utf8, DataType::Timestamp(_, _) | DataType::Date32 | DataType::Decimal128(_, _)) => true,
        _ => from == to || (number(from) && number(to)),
    }
}
