//! What fails whatever the row: `1 / 0`, a pattern that is none, the thirteenth month.
//!
//! A call, a division or a cast whose constants are wrong would send every row to the quarantine, and say nothing until
//! then. So each is tried over a few rows of usual values: one that fails on all of them is refused where it stands.
//!
//! Invariant: nothing is refused that has a value for one of the rows tried; what would take long is not tried.
//! Neighbours: `meaning` asks for every expression that it judged.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{Column, DFSchema, DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{BinaryExpr, Cast, Expr, ExprSchemable, Operator, Volatility};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::create_physical_expr;

use super::check::plain;
use super::meaning::{checked, refuse};

/// How many rows are tried.
const ROWS: usize = 4;

/// Refuses an expression that fails on every row because of what is constant in it.
pub(super) fn refuse_hopeless(expr: &Expr, schema: &DFSchema) -> Result<()> {
    let Some(operands) = operands(expr) else { return Ok(()) };
    if !operands.iter().any(is_constant) {
        return Ok(());
    }
    let mut failure = None;
    for row in 0..ROWS {
        // What cannot be run in this form says nothing of its constants.
        let Ok(outcome) = tried(expr, &operands, schema, row) else { return Ok(()) };
        let Err(error) = outcome else { return Ok(()) };
        match error.find_root() {
            DataFusionError::NotImplemented(_) | DataFusionError::Internal(_) => return Ok(()),
            _ => failure = failure.or(Some(error)),
        }
    }
    let why = failure.map_or(String::new(), |e| reason(&e.find_root().strip_backtrace()));
    refuse(format!("this fails on every row: {why}"), "mend the constants in it")
}

/// An error in one line. A pattern's begins with a line that only says so, then shows the pattern, and has its reason last.
fn reason(error: &str) -> String {
    let first = plain(error);
    match (first.strip_suffix(':'), error.lines().rfind(|line| !line.trim().is_empty())) {
        (Some(of), Some(last)) => format!("{of}: {}", plain(last.trim().trim_start_matches("error: "))),
        _ => first,
    }
}

/// Sums and products wrap where DataFusion folds constants.
const CALCULATES: [Operator; 5] =
    [Operator::Plus, Operator::Minus, Operator::Multiply, Operator::Divide, Operator::Modulo];

/// The operands of what is tried.
fn operands(expr: &Expr) -> Option<Vec<Expr>> {
    // These give back an argument, and DataFusion runs some of them in
    // another form only.
    const UNTRIED: [&str; 6] = ["coalesce", "nvl", "nullif", "greatest", "least", "make_array"];
    match expr {
        Expr::ScalarFunction(f) if !UNTRIED.contains(&f.func.name()) => Some(f.args.clone()),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if CALCULATES.contains(op) => {
            Some(vec![left.as_ref().clone(), right.as_ref().clone()])
        }
        Expr::Cast(Cast { expr, .. }) => Some(vec![expr.as_ref().clone()]),
        _ => None,
    }
}

fn is_constant(expr: &Expr) -> bool {
    let varies = |e: &Expr| {
        Ok(match e {
            Expr::ScalarFunction(f) => f.func.signature().volatility != Volatility::Immutable,
            Expr::Literal(_, _) | Expr::Cast(_) | Expr::TryCast(_) | Expr::BinaryExpr(_) | Expr::Negative(_) => false,
            _ => true,
        })
    };
    !expr.exists(varies).unwrap_or(true)
}

/// Evaluates the expression with the n-th usual value for each operand that is not constant: outside, what kept it from
/// being evaluated; inside, what came of it.
fn tried(expr: &Expr, operands: &[Expr], schema: &DFSchema, row: usize) -> Result<Result<()>> {
    let (mut fields, mut columns, mut given) = (vec![], vec![], vec![]);
    for (n, operand) in operands.iter().enumerate() {
        if is_constant(operand) {
            given.push(operand.clone());
            continue;
        }
        let data_type = operand.get_type(schema)?;
        let name = format!("c{n}");
        columns.push(usual(&data_type, row)?.to_array()?);
        fields.push(Field::new(&name, data_type, true));
        given.push(Expr::Column(Column::new_unqualified(name)));
    }
    if fields.is_empty() {
        fields.push(Field::new("c", DataType::Boolean, true));
        columns.push(ScalarValue::Boolean(None).to_array()?);
    }
    let arrow = Arc::new(Schema::new(fields));
    let schema = DFSchema::try_from(arrow.as_ref().clone())?;
    let expr = match expr {
        Expr::ScalarFunction(f) => {
            let mut f = f.clone();
            f.args = given;
            Expr::ScalarFunction(f)
        }
        Expr::BinaryExpr(binary) => {
            let right = Box::new(given.remove(1));
            Expr::BinaryExpr(BinaryExpr::new(Box::new(given.remove(0)), binary.op, right))
        }
        Expr::Cast(cast) => Expr::Cast(Cast { expr: Box::new(given.remove(0)), field: Arc::clone(&cast.field) }),
        other => other.clone(),
    };
    let context = SimplifyContext::builder().with_schema(Arc::new(schema.clone())).build();
    let expr = ExprSimplifier::new(context).coerce(expr, &schema)?;
    let expr = checked(create_physical_expr(&expr, &schema, &ExecutionProps::new(), &Default::default())?, &arrow)?;
    let batch = RecordBatch::try_new(arrow, columns)?;
    let outcome = catch_unwind(AssertUnwindSafe(|| expr.evaluate(&batch)?.into_array(1)));
    Ok(outcome.unwrap_or_else(|_| Err(DataFusionError::Execution("it panicked".into()))).map(|_| ()))
}

/// A usual value of a type; null where nobody said what is usual.
fn usual(data_type: &DataType, row: usize) -> Result<ScalarValue> {
    let number = [1i64, 0, -1, 2][row];
    let text = ["a", "", "1", "2024-02-29"][row];
    match data_type {
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => ScalarValue::from(text).cast_to(data_type),
        DataType::Boolean => Ok(ScalarValue::Boolean(Some(row.is_multiple_of(2)))),
        DataType::Int32 | DataType::Int64 | DataType::Float64 => ScalarValue::Int64(Some(number)).cast_to(data_type),
        DataType::Decimal128(p, s) => Ok(ScalarValue::Decimal128(Some(i128::from(number)), *p, *s)),
        DataType::Timestamp(_, _) => {
            ScalarValue::TimestampMicrosecond(Some(number * 86_400_000_000), None).cast_to(data_type)
        }
        DataType::Date32 => Ok(ScalarValue::Date32(i32::try_from(number).ok())),
        DataType::Duration(_) => ScalarValue::DurationMicrosecond(Some(number * 1_000_000)).cast_to(data_type),
        other => ScalarValue::try_from(other),
    }
}
