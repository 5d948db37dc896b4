//! Expressions over a row that is written as text: what the tests of operators and of functions ask with.
//!
//! Columns are named by their types: `f` DOUBLE, `i` BIGINT, `n` INT, `d` DECIMAL(12, 2), `t` TEXT, `s` TIMESTAMP, `a` DATE,
//! `b` BOOLEAN, `l` BIGINT[], `y` BINARY. A second one of a type has a 2 behind it.
//!
//! Invariant: an expression is checked, compiled and evaluated as a view's is. Neighbours: `meaning_tests` and
//! `function_tests` have the cases.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::sql::sqlparser::parser::Parser;

use super::bounded;
use super::check::{check_expr, compile};
use super::dialect::dialect;
use super::expressions;
use super::sql_name;
use super::timestamp;

/// An expression, the row as `name=value` pairs, and the answer as [`answer`] gives it.
pub(super) type Case = (&'static str, &'static str, &'static str);

/// A column of one value, by its name and the value's text.
fn column(name: &str, value: Option<&str>) -> ArrayRef {
    let text = || Arc::new(StringArray::from(vec![value])) as ArrayRef;
    let cast_to = |t: &DataType| cast(&text(), t).expect("the test's value is of its type");
    match name.chars().next().expect("columns have names") {
        'f' => Arc::new(Float64Array::from(vec![value.map(|v| v.parse().expect("a double"))])),
        'i' => Arc::new(Int64Array::from(vec![value.map(|v| v.parse().expect("a whole number"))])),
        'n' => Arc::new(Int32Array::from(vec![value.map(|v| v.parse().expect("a whole number"))])),
        'd' => cast_to(&DataType::Decimal128(12, 2)),
        't' => text(),
        's' => cast_to(&timestamp()),
        'a' => cast_to(&DataType::Date32),
        'b' => Arc::new(BooleanArray::from(vec![value.map(|v| v == "true")])),
        'l' => {
            let item = |v: &str| if v == "NULL" { None } else { Some(v.parse().expect("a whole number")) };
            let list = value.map(|v| v.split('|').filter(|v| !v.is_empty()).map(item).collect::<Vec<_>>());
            Arc::new(arrow::array::ListArray::from_iter_primitive::<Int64Type, _, _>(vec![list]))
        }
        'y' => Arc::new(BinaryArray::from_opt_vec(vec![value.map(str::as_bytes)])),
        other => panic!("no type is called {other}"),
    }
}

/// `name=value` pairs as a row.
fn row(values: &str) -> RecordBatch {
    let pairs = values.split("; ").filter(|p| !p.is_empty()).map(|p| p.split_once('=').expect("name=value"));
    let columns = pairs.map(|(name, value)| (name, column(name, (value != "NULL").then_some(value))));
    let (fields, columns): (Vec<Field>, Vec<ArrayRef>) =
        columns.map(|(name, c)| (Field::new(name, c.data_type().clone(), true), c)).unzip();
    if columns.is_empty() {
        return row("i=0");
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("columns of one row")
}

/// The answer as its type and its text; `error` where it fails on the row, `refused: …` where it is not on the list.
/// A panic is neither: where DataFusion panics, a form that does not is what an expression should have.
pub(super) fn answer(text: &str, values: &str) -> String {
    let mut parser = Parser::new(dialect()).try_with_sql(text).expect("the test's SQL has tokens");
    let expr = parser.parse_expr().unwrap_or_else(|e| panic!("{text}: {e}"));
    assert_eq!(parser.peek_token_ref().token.to_string(), "EOF", "{text} is more than an expression");
    if let Some(refused) = expressions::refused(&expr, &[]).first() {
        return format!("refused: {}", refused.message);
    }
    let row = row(values);
    if let Err(findings) = check_expr(&expr, &row.schema()) {
        return format!("refused: {}", findings[0].message);
    }
    let compiled = compile(&expr, &row.schema()).unwrap_or_else(|e| panic!("{text}: {e}"));
    let value = match bounded::evaluate(compiled.as_ref(), text, &row) {
        Ok(value) => value,
        Err(e) if e.strip_backtrace().contains(" panicked: ") => panic!("{text}: {e}"),
        Err(_) => return "error".to_string(),
    };
    let options = FormatOptions::default().with_null("NULL");
    let formatter = ArrayFormatter::try_new(&value, &options).expect("printable");
    format!("{} {}", sql_name(value.data_type()), formatter.value(0))
}

#[track_caller]
pub(super) fn check(rows: &[Case]) {
    let mut wrong = vec![];
    for (text, values, want) in rows {
        let got = answer(text, values);
        let as_wanted = match want.strip_prefix("refused") {
            Some(_) => got.starts_with(want),
            None => got == *want,
        };
        if !as_wanted {
            wrong.push(format!("{text} [{values}]: {got}, expected {want}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}
