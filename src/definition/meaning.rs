//! What an expression means: which operators, functions, casts and pairs of types may be used, and in which form DataFusion
//! evaluates them so that the answer is the one SQL gives.
//!
//! Both engines evaluate scalar expressions with DataFusion's kernels, so `verify` cannot find what those get wrong. On the
//! list here is what `meaning_tests` and `function_tests` compare with values worked out by hand or by plain Rust;
//! everything else is refused by name. Some things are put into another form first:
//! - A length of time without months is a number of microseconds. Arrow compares months, days and nanoseconds one after
//!   the other, so that 48 hours would be less than a day.
//! - TIMESTAMP is microseconds, whatever unit a function counts in.
//! - Negation is a subtraction, which says when it does not fit; Arrow's own wraps around.
//! - What is compared is put into one type that holds both sides exactly; see `exact`.
//! - A computed DECIMAL with more digits than its type is an error. Times are cut by functions of our own, and a time
//!   beyond the calendar is not moved; see `times`.
//! - A DOUBLE that was computed has one zero and one NaN: some kernels tell −0 from 0, and CASE, nullif and ORDER BY
//!   would not agree with `=`.
//!
//! Invariant: an expression that passes has the types it had when DataFusion planned it, but for times, whose unit may
//! change. Neighbours: `calls` has the functions; `check` compiles the expressions of sources, `plan::bind` those of views;
//! `verify` has its own reading of the same rules.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, AsArray, Float64Array};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Schema, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::expr::{Case, Cast, InList, ScalarFunction, TryCast};
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::logical_expr::{
    Between, BinaryExpr, ColumnarValue, Expr, ExprSchemable, Like, Operator, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::BinaryExpr as Calculation;
use datafusion::sql::sqlparser::ast;

use super::calls::call;
use super::constant::refuse_hopeless;
use super::exact::{aligned, held, within_precision};
use super::times::moved;
use super::timestamp;
use super::types::sql_name;

/// An expression that is not on the list; travels in [`DataFusionError::External`].
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Unlisted {
    /// What it is, by name.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

/// What [`meant`] refused, if the error is that.
pub fn unlisted(error: &DataFusionError) -> Option<&Unlisted> {
    match error {
        DataFusionError::External(e) => e.downcast_ref(),
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => unlisted(inner),
        _ => None,
    }
}

pub(super) fn refuse<T>(message: impl Into<String>, help: impl Into<String>) -> Result<T> {
    Err(DataFusionError::External(Box::new(Unlisted { message: message.into(), help: help.into() })))
}

/// An expression as planned, types not yet coerced, in the form in which it is evaluated.
///
/// # Errors
/// [`Unlisted`] for what is not on the list; DataFusion's for what has no type.
pub fn meant(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let meant = expr.transform_up(|e| {
        let meant = judge(e.clone(), schema)?;
        refuse_hopeless(&e, schema)?;
        Ok(meant)
    })?;
    Ok(meant.data)
}

/// An expression, coerced and compiled, whose sums, differences and products say when they do not fit their type, and
/// whose times do not leave the calendar.
///
/// # Errors
/// None of its own.
pub fn checked(expr: Arc<dyn PhysicalExpr>, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
    use datafusion::common::tree_node::TreeNode as _;
    let checked = expr.transform_up(|e| {
        let Some(binary) = e.downcast_ref::<Calculation>() else { return Ok(Transformed::no(e)) };
        let (left, right) = (Arc::clone(binary.left()), Arc::clone(binary.right()));
        let exact = Calculation::new(left, *binary.op(), right).with_fail_on_overflow(true);
        Ok(Transformed::yes(moved(exact, schema)?))
    })?;
    Ok(checked.data)
}

/// The SQL types of casts: as DataFusion has them, but TIMESTAMP is microseconds.
#[derive(Debug)]
pub struct Types;

impl TypePlanner for Types {
    fn plan_type_field(&self, sql_type: &ast::DataType) -> Result<Option<FieldRef>> {
        let ours = matches!(sql_type, ast::DataType::Timestamp(None, ast::TimezoneInfo::None));
        Ok(ours.then(|| Arc::new(Field::new("", timestamp(), true))))
    }
}

/// What of a type decides what may be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Boolean,
    Integer,
    Double,
    Decimal,
    Text,
    Timestamp,
    Date,
    /// A length of time in microseconds.
    Length,
    /// A length of time with months, which have no length.
    Months,
    Binary,
    List,
    Struct,
    /// What no expression that is on the list has.
    Other,
}

impl Kind {
    pub(super) fn of(data_type: &DataType) -> Kind {
        match data_type {
            DataType::Null => Kind::Null,
            DataType::Boolean => Kind::Boolean,
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => Kind::Integer,
            DataType::Float64 => Kind::Double,
            DataType::Decimal128(_, _) => Kind::Decimal,
            DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => Kind::Text,
            DataType::Timestamp(_, None) => Kind::Timestamp,
            DataType::Date32 => Kind::Date,
            DataType::Duration(TimeUnit::Microsecond) => Kind::Length,
            DataType::Interval(_) => Kind::Months,
            DataType::Binary => Kind::Binary,
            DataType::List(_) => Kind::List,
            DataType::Struct(_) => Kind::Struct,
            _ => Kind::Other,
        }
    }

    pub(super) fn is_number(self) -> bool {
        matches!(self, Kind::Integer | Kind::Double | Kind::Decimal)
    }

    /// May values of both stand in the same column?
    fn family(self, other: Kind) -> bool {
        self == Kind::Null || other == Kind::Null || self == other || (self.is_number() && other.is_number())
    }
}

/// What a person calls a type.
pub(super) fn name(data_type: &DataType) -> String {
    match Kind::of(data_type) {
        Kind::Length | Kind::Months => "an interval".into(),
        Kind::Null => "NULL".into(),
        Kind::Struct => "a struct".into(),
        _ => sql_name(data_type),
    }
}

/// An expression as a person would write it.
pub(super) fn shown(expr: &Expr) -> String {
    match expr {
        Expr::Literal(ScalarValue::Utf8(Some(text)), _) => format!("'{text}'"),
        other => other.human_display().to_string(),
    }
}

fn judge(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let kind = |e: &Expr| Ok::<_, DataFusionError>(Kind::of(&e.get_type(schema)?));
    match &expr {
        Expr::Literal(value, _) => return literal(value),
        Expr::Column(_) | Expr::Alias(_) | Expr::AggregateFunction(_) | Expr::IsNull(_) | Expr::IsNotNull(_) => {}
        // What they ask of the rest of the row or of the query is for others to judge.
        Expr::Placeholder(_) | Expr::WindowFunction(_) | Expr::OuterReferenceColumn(_, _) => {}
        Expr::Exists(_) | Expr::InSubquery(_) | Expr::ScalarSubquery(_) | Expr::SetComparison(_) => {}
        Expr::GroupingSet(_) => {}
        #[expect(deprecated, reason = "count(*) is planned with it")]
        Expr::Wildcard { .. } => {}
        Expr::Not(e)
        | Expr::IsTrue(e)
        | Expr::IsFalse(e)
        | Expr::IsUnknown(e)
        | Expr::IsNotTrue(e)
        | Expr::IsNotFalse(e)
        | Expr::IsNotUnknown(e) => condition(e, schema)?,
        Expr::BinaryExpr(binary) => return operation(binary.clone(), schema),
        Expr::Between(Between { expr: e, negated, low, high }) => {
            let [e, low, high] = compared([e.as_ref(), low, high], schema)?;
            let [e, low, high] = [e, low, high].map(Box::new);
            return Ok(Transformed::yes(Expr::Between(Between { expr: e, negated: *negated, low, high })));
        }
        Expr::InList(InList { expr: e, list, negated }) => {
            let (e, list) = compared_with(e, list.iter(), schema)?;
            return Ok(Transformed::yes(Expr::InList(InList { expr: Box::new(e), list, negated: *negated })));
        }
        Expr::Like(Like { negated: _, expr: e, pattern, escape_char, case_insensitive: _ }) => {
            if escape_char.is_some() {
                return refuse("ESCAPE is not supported", "write \\% and \\_ for the characters themselves");
            }
            for side in [e, pattern] {
                if !matches!(kind(side)?, Kind::Text | Kind::Null) {
                    let message =
                        format!("`{}` is {}, and LIKE compares TEXT", shown(side), name(&side.get_type(schema)?));
                    return refuse(message, format!("write CAST({} AS TEXT)", shown(side)));
                }
            }
        }
        Expr::SimilarTo(_) => {
            return refuse("SIMILAR TO is not supported", "write LIKE, or regexp_like(text, '^(pattern)$')");
        }
        Expr::Negative(e) => return negated(e, schema),
        Expr::Case(case) => return branches(case, schema),
        Expr::Cast(Cast { expr: e, field }) => return cast(&expr, e, field.data_type(), schema),
        Expr::TryCast(TryCast { expr: e, field }) => return cast(&expr, e, field.data_type(), schema),
        Expr::ScalarFunction(function) => return call(function.clone(), schema),
        other => {
            return refuse(format!("`{}` is not supported", shown(other)), "use comparisons, arithmetic and functions");
        }
    }
    Ok(Transformed::no(expr))
}

fn literal(value: &ScalarValue) -> Result<Transformed<Expr>> {
    let same = || Transformed::no(Expr::Literal(value.clone(), None));
    Ok(match value {
        ScalarValue::IntervalMonthDayNano(Some(i)) if i.months == 0 => {
            let days = i64::from(i.days).checked_mul(86_400_000_000);
            match days.and_then(|days| days.checked_add(i.nanoseconds / 1_000)) {
                Some(micros) if i.nanoseconds % 1_000 == 0 => {
                    Transformed::yes(Expr::Literal(ScalarValue::DurationMicrosecond(Some(micros)), None))
                }
                _ => return refuse("this interval is not a number of microseconds", "write it in days or seconds"),
            }
        }
        ScalarValue::Float64(Some(x)) => {
            Transformed::yes(Expr::Literal(ScalarValue::Float64(Some(canonical(*x))), None))
        }
        ScalarValue::UInt64(Some(n)) => {
            return refuse(format!("{n} does not fit BIGINT"), "write it as DOUBLE, with a point: 1e19");
        }
        _ => same(),
    })
}

/// Conditions are BOOLEAN: no number is true.
fn condition(expr: &Expr, schema: &DFSchema) -> Result<()> {
    let data_type = expr.get_type(schema)?;
    match Kind::of(&data_type) {
        Kind::Boolean | Kind::Null => Ok(()),
        _ => refuse(format!("`{}` is {}, not a condition", shown(expr), name(&data_type)), "compare it with something"),
    }
}

fn operation(binary: BinaryExpr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    use Operator as Op;
    let BinaryExpr { left, op, right } = &binary;
    match op {
        Op::Eq | Op::NotEq | Op::Lt | Op::LtEq | Op::Gt | Op::GtEq | Op::IsDistinctFrom | Op::IsNotDistinctFrom => {
            let [left, right] = compared([left.as_ref(), right], schema)?.map(Box::new);
            return Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op: *op, right })));
        }
        Op::And | Op::Or => {
            condition(left, schema)?;
            condition(right, schema)?;
        }
        Op::Plus | Op::Minus | Op::Multiply | Op::Divide | Op::Modulo => {
            arithmetic(&binary, schema)?;
            let expr = Expr::BinaryExpr(binary);
            return Ok(match expr.get_type(schema)? {
                DataType::Float64 => Transformed::yes(one_zero(expr)),
                DataType::Decimal128(_, _) => Transformed::yes(within_precision(expr)),
                _ => Transformed::no(expr),
            });
        }
        Op::StringConcat => {
            for side in [left, right] {
                let data_type = side.get_type(schema)?;
                if !matches!(Kind::of(&data_type), Kind::Text | Kind::Null) {
                    let message = format!("`{}` is {}, and || joins TEXT", shown(side), name(&data_type));
                    return refuse(message, format!("write CAST({} AS TEXT)", shown(side)));
                }
            }
        }
        other => return refuse(format!("the operator {other} is not supported"), "use comparisons and functions"),
    }
    Ok(Transformed::no(Expr::BinaryExpr(binary)))
}

/// What is compared with the first of them, each judged, in the form in which it is.
fn compared<const N: usize>(sides: [&Expr; N], schema: &DFSchema) -> Result<[Expr; N]> {
    let (first, rest) = compared_with(sides[0], sides[1..].iter().copied(), schema)?;
    let all: Vec<Expr> = std::iter::once(first).chain(rest).collect();
    Ok(all.try_into().expect("as many come out as went in"))
}

fn compared_with<'a>(
    first: &Expr,
    rest: impl Iterator<Item = &'a Expr>,
    schema: &DFSchema,
) -> Result<(Expr, Vec<Expr>)> {
    let mut sides = vec![first.clone()];
    for side in rest {
        comparable(first, side, schema)?;
        sides.push(side.clone());
    }
    let mut sides = aligned(sides, schema)?;
    let first = sides.remove(0);
    Ok((first, sides))
}

/// May both sides be compared?
fn comparable(left: &Expr, right: &Expr, schema: &DFSchema) -> Result<()> {
    let types = (left.get_type(schema)?, right.get_type(schema)?);
    let text = |e: &Expr| matches!(e, Expr::Literal(ScalarValue::Utf8(_) | ScalarValue::Utf8View(_), _));
    let (a, b) = (Kind::of(&types.0), Kind::of(&types.1));
    let nested = |k: Kind| matches!(k, Kind::List | Kind::Struct | Kind::Months | Kind::Other);
    let fits = match (a, b) {
        _ if nested(a) || nested(b) => false,
        _ if a.family(b) => true,
        (Kind::Timestamp, Kind::Date) | (Kind::Date, Kind::Timestamp) => true,
        // A literal is read when the definition is.
        (Kind::Timestamp | Kind::Date, Kind::Text) => text(right),
        (Kind::Text, Kind::Timestamp | Kind::Date) => text(left),
        _ => false,
    };
    if fits {
        return Ok(());
    }
    let message = format!(
        "`{}` is {} and `{}` is {}: they cannot be compared",
        shown(left),
        name(&types.0),
        shown(right),
        name(&types.1)
    );
    let help = match (a, b) {
        (Kind::Text, k) if k.is_number() && matches!(right, Expr::Literal(_, _)) => {
            format!("put the number into quotes: '{}'", shown(right))
        }
        (k, Kind::Text) if k.is_number() && text(right) => "write a number without quotes".to_string(),
        (Kind::Months, _) | (_, Kind::Months) => "a month has no fixed length; write the interval in days".to_string(),
        (Kind::List, _) | (_, Kind::List) => "compare its elements, or use array_has(list, value)".to_string(),
        (Kind::Struct, _) | (_, Kind::Struct) => "compare its fields one by one".to_string(),
        (Kind::Length, _) | (_, Kind::Length) => {
            "write date_part('epoch', …) for the seconds of an interval, or INTERVAL '1 hour'".to_string()
        }
        (k, Kind::Timestamp | Kind::Date) | (Kind::Timestamp | Kind::Date, k) if k.is_number() => {
            "make a time of the number: to_timestamp_seconds(…), to_timestamp_millis(…)".to_string()
        }
        _ => format!("write CAST({} AS {})", shown(right), name(&types.0)),
    };
    refuse(message, help)
}

fn arithmetic(binary: &BinaryExpr, schema: &DFSchema) -> Result<()> {
    let BinaryExpr { left, op, right } = binary;
    let types = (left.get_type(schema)?, right.get_type(schema)?);
    let (a, b) = (Kind::of(&types.0), Kind::of(&types.1));
    let number = |k: Kind| k.is_number() || k == Kind::Null;
    let fits = match (a, op, b) {
        _ if number(a) && number(b) => true,
        (Kind::Timestamp, Operator::Minus, Kind::Timestamp) => true,
        (Kind::Timestamp, Operator::Plus | Operator::Minus, Kind::Length | Kind::Months) => true,
        (Kind::Length | Kind::Months, Operator::Plus, Kind::Timestamp) => true,
        (Kind::Length, Operator::Plus | Operator::Minus, Kind::Length) => true,
        _ => false,
    };
    if fits {
        return Ok(());
    }
    let message = format!("{} {op} {} is not supported", name(&types.0), name(&types.1));
    let help = match (a, b) {
        (Kind::Date, Kind::Date) => {
            "write date_part('epoch', CAST(a AS TIMESTAMP) - CAST(b AS TIMESTAMP)) / 86400".into()
        }
        (Kind::Date, _) | (_, Kind::Date) => "write CAST(day AS TIMESTAMP) and INTERVAL '1 day'".into(),
        (Kind::Length, k) | (k, Kind::Length) if k.is_number() => {
            "write the length out, as in INTERVAL '90 minutes'".into()
        }
        (Kind::Timestamp, k) | (k, Kind::Timestamp) if k.is_number() => "write ts + INTERVAL '1 day'".into(),
        (Kind::Months, _) | (_, Kind::Months) => "a month has no fixed length; write the interval in days".into(),
        (Kind::Text, _) => format!("write CAST({} AS DOUBLE), or another number", shown(left)),
        (_, Kind::Text) => format!("write CAST({} AS DOUBLE), or another number", shown(right)),
        _ => "numbers are added to numbers, intervals to times".to_string(),
    };
    refuse(message, help)
}

/// `-x`. Of a whole number it may not fit: the least one has no opposite.
fn negated(e: &Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let data_type = e.get_type(schema)?;
    let zero = match &data_type {
        DataType::Int32 => ScalarValue::Int32(Some(0)),
        DataType::Int64 => ScalarValue::Int64(Some(0)),
        DataType::Float64 => return Ok(Transformed::yes(one_zero(Expr::Negative(Box::new(e.clone()))))),
        DataType::Decimal128(_, _) | DataType::Null => return Ok(Transformed::no(Expr::Negative(Box::new(e.clone())))),
        other => return refuse(format!("`{}` is {}, and - takes a number", shown(e), name(other)), "negate a number"),
    };
    let zero = Box::new(Expr::Literal(zero, None));
    Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(zero, Operator::Minus, Box::new(e.clone())))))
}

/// All results of a CASE are of one family, and so is what is compared.
fn branches(case: &Case, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Case { expr, when_then_expr, else_expr } = case;
    let results: Vec<&Expr> =
        when_then_expr.iter().map(|(_, then)| then.as_ref()).chain(else_expr.as_deref()).collect();
    one_family("CASE", &results, schema)?;
    let Some(operand) = expr else {
        when_then_expr.iter().try_for_each(|(when, _)| condition(when, schema))?;
        return Ok(Transformed::no(Expr::Case(case.clone())));
    };
    let (operand, whens) = compared_with(operand, when_then_expr.iter().map(|(when, _)| when.as_ref()), schema)?;
    let thens = when_then_expr.iter().map(|(_, then)| then.clone());
    let when_then_expr = whens.into_iter().map(Box::new).zip(thens).collect();
    let case = Case { expr: Some(Box::new(operand)), when_then_expr, else_expr: else_expr.clone() };
    Ok(Transformed::yes(Expr::Case(case)))
}

pub(super) fn one_family(what: &str, exprs: &[&Expr], schema: &DFSchema) -> Result<()> {
    let mut seen: Option<(&Expr, DataType)> = None;
    for expr in exprs {
        let data_type = expr.get_type(schema)?;
        let kind = Kind::of(&data_type);
        if matches!(kind, Kind::Months | Kind::Other) {
            return refuse(format!("`{}` in {what} is not supported", shown(expr)), "use numbers, texts and times");
        }
        if kind == Kind::Null {
            continue;
        }
        match &seen {
            Some((first, t)) if !Kind::of(t).family(kind) => {
                let message = format!(
                    "`{}` is {} and `{}` is {}: {what} has one type",
                    shown(first),
                    name(t),
                    shown(expr),
                    name(&data_type)
                );
                let help = format!("write CAST({} AS {}), or a literal of that type", shown(expr), name(t));
                return refuse(message, help);
            }
            Some(_) => {}
            None => seen = Some((expr, data_type)),
        }
    }
    held(exprs, schema)
}

fn cast(whole: &Expr, e: &Expr, to: &DataType, schema: &DFSchema) -> Result<Transformed<Expr>> {
    use Kind::{Binary, Boolean, Date, Decimal, Double, Integer, Text, Timestamp};
    let from = e.get_type(schema)?;
    let fits = match (Kind::of(&from), Kind::of(to)) {
        (Kind::Null, _) => true,
        (Boolean, Boolean | Integer | Text) => true,
        (Integer | Double | Decimal, Integer | Double | Decimal | Text) => true,
        (Text, Text | Integer | Double | Decimal | Boolean | Timestamp | Date) => true,
        (Timestamp, Timestamp | Date | Text) | (Date, Date | Timestamp | Text) => true,
        (Binary, Text | Binary) => true,
        _ => from == *to,
    };
    if !fits {
        let help = match (Kind::of(&from), Kind::of(to)) {
            (Integer | Double | Decimal, Timestamp) => {
                "say what the number counts: to_timestamp_millis(n), to_timestamp_micros(n) or to_timestamp_seconds(n)"
            }
            (Timestamp | Date | Kind::Length, Integer | Double | Decimal) => "write date_part('epoch', …): the seconds",
            (_, Boolean) => "compare it, as in x <> 0",
            _ => "cast it to TEXT first",
        };
        return refuse(format!("a cast from {} to {} is not supported", name(&from), name(to)), help);
    }
    let whole = whole.clone();
    Ok(if *to == DataType::Float64 && Kind::of(&from) == Text {
        Transformed::yes(one_zero(whole))
    } else {
        Transformed::no(whole)
    })
}

/// −0 as 0, and every NaN as one.
pub fn canonical(x: f64) -> f64 {
    if x.is_nan() { f64::NAN } else { x + 0.0 }
}

pub(super) fn one_zero(expr: Expr) -> Expr {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
        let signature = Signature::exact(vec![DataType::Float64], Volatility::Immutable);
        Arc::new(ScalarUDF::new_from_impl(OneZero { signature }))
    });
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&FUNCTION), vec![expr]))
}

pub(super) const ONE_ZERO: &str = "one_zero";

/// [`canonical`] of a column.
#[derive(Debug, PartialEq, Eq, Hash)]
struct OneZero {
    signature: Signature,
}

impl ScalarUDFImpl for OneZero {
    fn name(&self) -> &str {
        ONE_ZERO
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match &args.args[0] {
            ColumnarValue::Scalar(ScalarValue::Float64(x)) => {
                Ok(ColumnarValue::Scalar(ScalarValue::Float64(x.map(canonical))))
            }
            other => {
                let array = other.to_array(args.number_rows)?;
                let ones: Float64Array = array.as_primitive::<Float64Type>().unary(canonical);
                Ok(ColumnarValue::Array(Arc::new(ones) as ArrayRef))
            }
        }
    }
}
