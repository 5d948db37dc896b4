//! Expressions evaluated so that no row ends the process: what panics has failed, and what could grow has a bound.
//!
//! `lpad(s, n)` of one record with a great `n` asks for more memory than there is, which nothing can catch. So what such
//! a call would take is reckoned before DataFusion does it, and is an error if it is too much.
//!
//! Invariant: on one row the outcome depends on that row alone; a batch whose rows are too much together fails too, and
//! is taken apart by who asked. Neighbours: `check`, `plan::bind` and `verify` put these functions in the place of
//! DataFusion's; `source` and `plan::project` evaluate.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::SessionContext;

/// Bytes that the texts of one call may have, over all rows of a batch.
const BYTES_MAX: usize = 256 << 20;
/// Steps of one row's `levenshtein`, which takes one for each pair of characters: some ten milliseconds.
const STEPS_MAX: usize = 1 << 24;

/// The value on each row; `text` is how the expression was written.
///
/// # Errors
/// DataFusion's, and a panic; on a batch also where a guard does not guard, so rows are to be asked alone then.
pub fn evaluate(expr: &dyn PhysicalExpr, text: &str, rows: &RecordBatch) -> Result<ArrayRef> {
    // A slice has the lists of the batch that it was cut from, and functions look at all of them.
    let own = if rows.num_rows() == 1 && rows.columns().iter().any(|c| c.data_type().is_nested()) {
        Some(take_record_batch(rows, &UInt32Array::from(vec![0]))?)
    } else {
        None
    };
    let rows = own.as_ref().unwrap_or(rows);
    let evaluated = catch_unwind(AssertUnwindSafe(|| expr.evaluate(rows)?.into_array(rows.num_rows())));
    evaluated.unwrap_or_else(|panic| {
        let why = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        exec_err!("`{text}` panicked: {}", why.unwrap_or("it does not say why"))
    })
}

/// Puts the functions with a bound in the place of a session's.
pub fn register(context: &SessionContext) {
    for name in ["lpad", "rpad", "repeat", "replace", "regexp_replace", "levenshtein"] {
        let inner = context.state().scalar_functions()[name].as_ref().clone();
        context.register_udf(ScalarUDF::new_from_impl(Bounded { inner }));
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: ScalarUDF,
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.inner().return_field_from_args(args)
    }

    fn is_strict(&self) -> bool {
        self.inner.inner().is_strict()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.inner().coerce_types(types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let name = self.inner.name();
        // Constants alone are one row, whatever the batch; the two that fill up make as many of it as there are rows.
        let constant = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let rows = if constant && !name.ends_with("pad") { 1 } else { args.number_rows };
        let arguments = Arguments::new(&args.args, rows)?;
        let mut all = 0_usize;
        for n in 0..rows {
            match name {
                "levenshtein" => {
                    let steps = arguments.text(0, n).len().saturating_mul(arguments.text(1, n).len());
                    if steps > STEPS_MAX {
                        return exec_err!(
                            "{name} of texts so long takes {steps} steps: shorten them, as left(…, 1000) does"
                        );
                    }
                }
                _ => all = all.saturating_add(arguments.result(name, n)),
            }
        }
        if all > BYTES_MAX {
            return exec_err!("{name} would give more than {BYTES_MAX} bytes");
        }
        self.inner.invoke_with_args(args)
    }
}

/// The arguments as texts and whole numbers.
struct Arguments(Vec<ArrayRef>);

impl Arguments {
    fn new(args: &[ColumnarValue], rows: usize) -> Result<Arguments> {
        let array = |arg: &ColumnarValue| {
            let array = arg.to_array(rows)?;
            let to = if array.data_type().is_integer() { DataType::Int64 } else { DataType::Utf8 };
            Ok(if array.data_type() == &to { array } else { cast(&array, &to)? })
        };
        args.iter().map(array).collect::<Result<_>>().map(Arguments)
    }

    /// A null is as good as nothing here: it makes the result null.
    fn text(&self, arg: usize, n: usize) -> &str {
        let texts = self.0[arg].as_string::<i32>();
        if texts.is_null(n) { "" } else { texts.value(n) }
    }

    fn number(&self, arg: usize, n: usize) -> usize {
        let numbers = self.0[arg].as_primitive::<Int64Type>();
        if numbers.is_null(n) { 0 } else { usize::try_from(numbers.value(n)).unwrap_or(0) }
    }

    /// The most bytes that a row's result may have.
    fn result(&self, name: &str, n: usize) -> usize {
        let text = self.text(0, n);
        match name {
            "repeat" => text.len().saturating_mul(self.number(1, n)),
            "replace" => text.len().saturating_add(self.replaced(text, n)),
            // One match without `g`; with it, empty ones too, one for each byte and one more. What replaces it may name it.
            "regexp_replace" => {
                let put_in = self.text(2, n);
                let all = self.0.len() > 3 && self.text(3, n).contains('g');
                let matches = if all { text.len() + 1 } else { 1 };
                let named = put_in.matches(['\\', '$']).count().saturating_mul(text.len());
                text.len().saturating_add(matches.saturating_mul(put_in.len())).saturating_add(named)
            }
            // A character of the filling may have four bytes.
            _ => text.len().max(self.number(1, n).saturating_mul(4)),
        }
    }

    /// What `replace` puts in; matches are counted only where there may be too many.
    fn replaced(&self, text: &str, n: usize) -> usize {
        let (from, to) = (self.text(1, n), self.text(2, n));
        let most = (text.len() / from.len().max(1) + 1).saturating_mul(to.len());
        if most <= BYTES_MAX / 8192 { most } else { text.matches(from).count().saturating_mul(to.len()) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{Field, Schema};

    use super::*;
    use crate::definition::check::compile;
    use crate::definition::parse_query;

    fn values(expr: &str, rows: &[(&str, i64)]) -> Result<Vec<Option<String>>> {
        let schema = Schema::new(vec![Field::new("t", DataType::Utf8, true), Field::new("n", DataType::Int64, true)]);
        let batch = RecordBatch::try_new(
            Arc::new(schema.clone()),
            vec![
                Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.0))),
                Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.1))),
            ],
        )?;
        let values = evaluate(compile(&expression(expr), &schema)?.as_ref(), expr, &batch)?;
        let values = cast(&values, &DataType::Utf8)?;
        Ok(values.as_string::<i32>().iter().map(|v| v.map(str::to_string)).collect())
    }

    fn expression(text: &str) -> datafusion::sql::sqlparser::ast::Expr {
        use datafusion::sql::sqlparser::ast::{SelectItem, SetExpr};
        let query = parse_query(&format!("SELECT {text}")).expect("SQL");
        let SetExpr::Select(select) = *query.body else { panic!("a SELECT") };
        let SelectItem::UnnamedExpr(expr) = select.projection.into_iter().next().expect("one") else { panic!("plain") };
        expr
    }

    #[test]
    fn what_a_row_would_blow_up_is_an_error_of_that_row() {
        let (long, much) = ("ab".repeat(20_000), i64::MAX);
        for (expr, row) in [
            ("lpad(t, n)", ("a", much)),
            ("rpad(t, n, 'é')", ("a", 1 << 27)),
            ("repeat(t, n)", (long.as_str(), 1 << 20)),
            ("replace(t, 'a', t)", (long.as_str(), 0)),
            ("replace(t, '', t)", (long.as_str(), 0)),
            ("regexp_replace(t, '.', t, 'g')", (long.as_str(), 0)),
            ("levenshtein(t, reverse(t))", (long.as_str(), 0)),
        ] {
            let error = values(expr, &[row]).expect_err(expr).strip_backtrace();
            assert!(error.contains("more than 268435456 bytes") || error.contains("steps"), "{expr}: {error}");
        }
    }

    #[test]
    fn what_is_in_bounds_is_what_datafusion_says() {
        for (expr, expected) in [
            ("lpad(t, n, '0')", "00007"),
            ("rpad(t, n)", "7    "),
            ("rpad(t, -1)", ""),
            ("repeat(t, n)", "77777"),
            ("replace(t, '7', 'eight')", "eight"),
            ("regexp_replace(t, '7', '[\\0]')", "[7]"),
            ("levenshtein(t, '17')", "1"),
            ("lpad('x', 3, '-')", "--x"),
        ] {
            assert_eq!(values(expr, &[("7", 5)]).expect(expr), [Some(expected.to_string())], "{expr}");
        }
        let rare = "a".to_string() + &"b".repeat(1_000_000);
        let replaced = values(&format!("replace(t, 'a', '{}')", "c".repeat(1000)), &[(&rare, 0)]);
        assert_eq!(replaced.expect("one match")[0].as_ref().map(String::len), Some(1_001_000));
    }

    /// Rule 22: what fails on one row's list is no failure of its neighbour.
    #[test]
    fn a_row_alone_is_not_judged_by_its_neighbours_lists() {
        use arrow::array::ListBuilder;
        use arrow::array::StringBuilder;
        let mut lists = ListBuilder::new(StringBuilder::new());
        ["1", "a"].into_iter().for_each(|tag| lists.append_value([Some(tag)]));
        let lists = lists.finish();
        let schema = Arc::new(Schema::new(vec![Field::new("tags", lists.data_type().clone(), true)]));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(lists)]).expect("one column");
        let schema = datafusion::common::DFSchema::try_from(schema.as_ref().clone()).expect("one column");
        let context = SessionContext::new();
        let casts = context.parse_sql_expr("array_has(tags, 1)", &schema).expect("SQL");
        let casts = context.create_physical_expr(casts, &schema).expect("its column is there");
        let has = |row: usize| evaluate(casts.as_ref(), "it", &batch.slice(row, 1));
        assert!(has(0).expect("a number").as_boolean().value(0));
        assert!(has(1).is_err());
    }

    #[test]
    fn constants_are_checked_where_they_are_written() {
        let schema = Schema::new(vec![Field::new("t", DataType::Utf8, true)]);
        let refused = compile(&expression("lpad('x', 9999999999)"), &schema).map(|_| ()).expect_err("too long");
        assert!(refused.strip_backtrace().contains("lpad would give more than"), "{refused}");
    }
}
