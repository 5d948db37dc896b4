//! Expressions evaluated so that no row ends the process: what panics has failed, and what could grow has a bound.
//!
//! `lpad(s, n)` of one record with a great `n` asks for more memory than there is, which nothing can catch. So what such
//! a call would take is reckoned before DataFusion does it, and is an error if it is too much.
//!
//! Invariant: on one row the outcome depends on that row alone; a batch whose rows are too much together fails too, and
//! is taken apart by who asked. Neighbours: `check`, `plan::bind` and `verify` put these functions in the place of
//! DataFusion's; `source` and `plan::project` evaluate.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::{Result, ScalarValue, exec_err};
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
        let mut args = args;
        if name.ends_with("pad") {
            args.args[1] = lengths(&args.args)?;
        }
        within_bounds(name, &Arguments::new(&args.args)?, rows)?;
        self.inner.invoke_with_args(args)
    }
}

/// Is what this many rows would take within the bounds?
fn within_bounds(name: &str, arguments: &Arguments, rows: usize) -> Result<()> {
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
    Ok(())
}

/// The lengths to fill up to: none is negative, since DataFusion panics at one in a column and takes it for 0 where it
/// is constant; where another argument is null, nothing is filled up, however great the length.
fn lengths(args: &[ColumnarValue]) -> Result<ColumnarValue> {
    let rows = args.iter().find_map(|a| match a {
        ColumnarValue::Array(array) => Some(array.len()),
        ColumnarValue::Scalar(_) => None,
    });
    let given = Arguments::new(args)?;
    let mended: Int64Array = (0..rows.unwrap_or(1))
        .map(|n| {
            let null = (0..args.len()).any(|arg| arg != 1 && given.is_null(arg, n));
            given.whole(1, n).map(|length| if null { 0 } else { length.max(0) })
        })
        .collect();

    // A constant stays one: DataFusion is faster with it.
    let same = mended.iter().all(|length| Some(length) == mended.iter().next());
    Ok(match (&args[1], rows) {
        (ColumnarValue::Scalar(_), None | Some(1..)) if same => {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&mended, 0)?)
        }
        _ => ColumnarValue::Array(Arc::new(mended)),
    })
}

/// The arguments as texts and whole numbers: of a constant one, whatever the rows.
struct Arguments(Vec<ArrayRef>);

impl Arguments {
    fn new(args: &[ColumnarValue]) -> Result<Arguments> {
        let array = |arg: &ColumnarValue| {
            let array = match arg {
                ColumnarValue::Array(array) => Arc::clone(array),
                ColumnarValue::Scalar(constant) => constant.to_array()?,
            };
            let to = if array.data_type().is_integer() { DataType::Int64 } else { DataType::Utf8 };
            Ok(if array.data_type() == &to { array } else { cast(&array, &to)? })
        };
        args.iter().map(array).collect::<Result<_>>().map(Arguments)
    }

    /// Where an argument has its value for a row.
    fn at(&self, arg: usize, n: usize) -> usize {
        n.min(self.0[arg].len().saturating_sub(1))
    }

    fn is_null(&self, arg: usize, n: usize) -> bool {
        self.0[arg].is_null(self.at(arg, n))
    }

    /// A null is as good as nothing here: it makes the result null.
    fn text(&self, arg: usize, n: usize) -> &str {
        if self.is_null(arg, n) { "" } else { self.0[arg].as_string::<i32>().value(self.at(arg, n)) }
    }

    fn whole(&self, arg: usize, n: usize) -> Option<i64> {
        let numbers = self.0[arg].as_primitive::<Int64Type>();
        (!self.is_null(arg, n)).then(|| numbers.value(self.at(arg, n)))
    }

    fn number(&self, arg: usize, n: usize) -> usize {
        self.whole(arg, n).and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
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
            // A character of the filling may have four bytes; where there is nothing to fill, `lengths` says 0.
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
    use arrow::array::StringArray;
    use arrow::datatypes::{Field, Schema};

    use super::*;
    use crate::definition::check::compile;
    use crate::definition::parse_query;

    fn values<'a, T: Into<Option<&'a str>> + Copy>(expr: &str, rows: &[(T, i64)]) -> Result<Vec<Option<String>>> {
        let schema = Schema::new(vec![Field::new("t", DataType::Utf8, true), Field::new("n", DataType::Int64, true)]);
        let batch = RecordBatch::try_new(
            Arc::new(schema.clone()),
            vec![
                Arc::new(StringArray::from_iter(rows.iter().map(|r| r.0.into()))),
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
        let replaced = values(&format!("replace(t, 'a', '{}')", "c".repeat(1000)), &[(rare.as_str(), 0)]);
        assert_eq!(replaced.expect("one match")[0].as_ref().map(String::len), Some(1_001_000));
    }

    #[test]
    fn a_negative_length_leaves_nothing_and_a_null_is_not_filled_up() {
        let rows = [(Some("ab"), -5), (Some("ab"), i64::MIN), (None, i64::MAX), (Some("ab"), 3), (Some("é"), 2)];
        let text = |t: &str| Some(t.to_string());
        let check =
            |expr: &str, want: [Option<String>; 5]| assert_eq!(values(expr, &rows).expect(expr), want, "{expr}");
        check("lpad(t, n)", [text(""), text(""), None, text(" ab"), text(" é")]);
        check("rpad(t, n, 'x')", [text(""), text(""), None, text("abx"), text("éx")]);
        check("lpad('ab', CASE WHEN n > 5 THEN -1 ELSE n END)", ["", "", "", " ab", "ab"].map(text));
        check("lpad(t, -1)", [text(""), text(""), None, text(""), text("")]);
        check("rpad(t, n, nullif('x', 'x'))", [None, None, None, None, None]);
        // The great length stands beside a null here, and beside texts there.
        check(
            "rpad(t, CASE WHEN t IS NULL THEN 9223372036854775807 ELSE 1 END)",
            [text("a"), text("a"), None, text("a"), text("é")],
        );
        assert_eq!(values("lpad(t, n)", &[] as &[(Option<&str>, i64)]).expect("no rows"), []);
    }

    /// A constant of a view stands beside every row of a batch.
    #[test]
    fn a_constant_is_looked_at_once() {
        let constant = ColumnarValue::Scalar(ScalarValue::from("x".repeat(20_000)));
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["a"; 8192]));
        let arguments = Arguments::new(&[ColumnarValue::Array(texts), constant]).expect("texts");
        assert_eq!(arguments.0[1].len(), 1);
        assert_eq!((arguments.text(0, 8191), arguments.text(1, 8191).len()), ("a", 20_000));
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
