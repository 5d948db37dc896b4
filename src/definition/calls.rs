//! Which arguments the functions of `functions` take, and in which form DataFusion evaluates a call.
//!
//! Invariant: a call that passes gives what `function_tests` says: times in microseconds, whole numbers as BIGINT, doubles
//! with one zero and one NaN. Neighbours: `meaning` judges everything else of an expression.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, ExprSchemable, lit};

use super::exact::WITHIN_PRECISION;
use super::expressions::FIELDS;
use super::functions::{calls, unlisted};
use super::meaning::{Kind, ONE_ZERO, name, one_family, one_zero, refuse, shown};
use super::times::{BIN, TRUNC, bin, trunc};
use super::timestamp;

/// A call of a scalar function: its arguments judged, in the form in which it is evaluated.
pub(super) fn call(function: ScalarFunction, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let called = function.func.name().to_string();
    // Ours, from an earlier walk over the same expression.
    if [ONE_ZERO, WITHIN_PRECISION, BIN, TRUNC].contains(&called.as_str()) {
        return Ok(Transformed::no(Expr::ScalarFunction(function)));
    }
    // DataFusion's own, where `plan` has not put ours in its place: it sums whole numbers as doubles.
    if called == "array_sum" {
        return refuse("list_sum cannot be used here", "put it into a view");
    }
    let Some(ways) = calls(&called) else {
        let (message, help) = unlisted(&called, true);
        return refuse(message, help);
    };
    let types = function.args.iter().map(|e| e.get_type(schema)).collect::<Result<Vec<_>>>()?;
    let args: Vec<(&Expr, &DataType)> = function.args.iter().zip(&types).collect();
    if *ways == ["+"] && !args.is_empty() {
        one_family(&called, &function.args.iter().collect::<Vec<_>>(), schema)?;
    } else if !ways.iter().any(|way| fits(way, &args)) {
        let given: Vec<String> = types.iter().map(name).collect();
        let ways: Vec<String> = ways.iter().map(|way| described(&called, way)).collect();
        return refuse(
            format!("{called} does not take ({})", given.join(", ")),
            format!("write {}", ways.join(" or ")),
        );
    }
    fields_of_times(&called, &args)?;
    refuse_unlike(&called, &args)?;
    evaluated(called.as_str(), function, schema)
}

/// The call in the form in which it is evaluated.
fn evaluated(called: &str, mut function: ScalarFunction, schema: &DFSchema) -> Result<Transformed<Expr>> {
    if called == "date_part" && Kind::of(&function.args[1].get_type(schema)?) == Kind::Length {
        // DataFusion cuts the seconds of a duration.
        let micros = function.args.swap_remove(1).cast_to(&DataType::Int64, schema)?;
        return Ok(Transformed::yes(micros.cast_to(&DataType::Float64, schema)? / lit(1e6)));
    }
    if called == "date_bin" {
        match &function.args[0] {
            Expr::Literal(ScalarValue::DurationMicrosecond(Some(1..)), _) => {}
            _ => return refuse("date_bin takes a positive interval", "write date_bin(INTERVAL '5 minutes', ts)"),
        }
        return Ok(Transformed::yes(bin(function.args)));
    }
    if called == "date_trunc" {
        return Ok(Transformed::yes(trunc(function.args)));
    }
    let expr = Expr::ScalarFunction(function);
    Ok(match expr.get_type(schema)? {
        // These give back one of their arguments.
        DataType::Float64
            if !["coalesce", "nullif", "nvl", "greatest", "least", "array_element", "get_field"].contains(&called) =>
        {
            Transformed::yes(one_zero(expr))
        }
        DataType::UInt64 | DataType::UInt32 => Transformed::yes(expr.cast_to(&DataType::Int64, schema)?),
        DataType::Timestamp(unit, zone) if unit != TimeUnit::Microsecond || zone.is_some() => {
            Transformed::yes(expr.cast_to(&timestamp(), schema)?)
        }
        _ => Transformed::no(expr),
    })
}

/// What the types alone do not show.
fn refuse_unlike(called: &str, args: &[(&Expr, &DataType)]) -> Result<()> {
    match (called, args) {
        // It casts the whole list to the value's type, and fails on what does not fit.
        ("array_contains" | "array_has" | "list_contains" | "list_has", [(_, DataType::List(item)), (_, value)]) => {
            let (item, kind) = (Kind::of(item.data_type()), Kind::of(value));
            let numbers = item.is_number() && kind.is_number();
            if item == kind || kind == Kind::Null || numbers {
                return Ok(());
            }
            let message = format!("{called} looks for {} in {}", name(value), name(args[0].1));
            refuse(message, "look for a value of the type of the list's elements")
        }
        // How many digits the result has depends on the number, which the type of a plan does not.
        ("round", [(_, DataType::Decimal128(_, _)), _]) => refuse(
            format!("{called} of a DECIMAL to some digits is not supported"),
            format!("write CAST({} AS DECIMAL(p, s)), which rounds", shown(args[0].0)),
        ),
        ("named_struct", _) => {
            let mut names = std::collections::HashSet::new();
            let repeated = args.iter().step_by(2).find_map(|(e, _)| match e {
                Expr::Literal(ScalarValue::Utf8(Some(name)), _) if !names.insert(name) => Some(name),
                _ => None,
            });
            match repeated {
                Some(name) => refuse(format!("two fields of the struct are called '{name}'"), "rename one"),
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// Do arguments of these types fit one way to call a function? See [`super::functions::SCALARS`].
fn fits(way: &str, args: &[(&Expr, &DataType)]) -> bool {
    let one = |letter: char, (expr, data_type): &(&Expr, &DataType)| {
        let kind = Kind::of(data_type);
        kind == Kind::Null && letter != 'f'
            || match letter {
                'n' => kind.is_number(),
                'i' => kind == Kind::Integer,
                't' => kind == Kind::Text,
                'f' => matches!(expr, Expr::Literal(ScalarValue::Utf8(Some(_)), _)),
                'T' => kind == Kind::Timestamp,
                'D' => kind == Kind::Date,
                'b' => kind == Kind::Boolean,
                'd' => kind == Kind::Length,
                'l' => kind == Kind::List,
                'r' => kind == Kind::Struct,
                'a' => !matches!(kind, Kind::Months | Kind::Other),
                _ => false,
            }
    };
    match way.strip_suffix('*').and_then(|way| way.chars().last()) {
        Some(letter) => !args.is_empty() && args.iter().all(|arg| one(letter, arg)),
        None => way.chars().count() == args.len() && way.chars().zip(args).all(|(letter, arg)| one(letter, arg)),
    }
}

/// A way to call a function, for people.
fn described(called: &str, way: &str) -> String {
    let word = |letter: char| match letter {
        'n' => "number",
        'i' => "whole number",
        't' => "text",
        'f' => "'field'",
        'T' => "timestamp",
        'D' => "date",
        'b' => "condition",
        'd' => "interval",
        'l' => "list",
        'r' => "struct",
        '*' | '+' => "…",
        _ => "value",
    };
    format!("{called}({})", way.chars().map(word).collect::<Vec<_>>().join(", "))
}

/// `date_part` and `date_trunc` name a field of a time, which that time must have.
fn fields_of_times(called: &str, args: &[(&Expr, &DataType)]) -> Result<()> {
    const SMALLER: [&str; 5] = ["hour", "minute", "second", "millisecond", "microsecond"];
    let [(Expr::Literal(ScalarValue::Utf8(Some(field)), _), _), (_, of), ..] = args else { return Ok(()) };
    let field = field.to_lowercase();
    let known: Vec<&str> = match (called, Kind::of(of)) {
        ("date_part", Kind::Length) => vec!["epoch"],
        ("date_part", Kind::Date) => FIELDS.into_iter().filter(|f| !SMALLER.contains(f)).collect(),
        ("date_part", _) => FIELDS.to_vec(),
        ("date_trunc", _) => FIELDS.into_iter().filter(|f| !["dow", "doy", "epoch"].contains(f)).collect(),
        _ => return Ok(()),
    };
    if known.contains(&field.as_str()) {
        return Ok(());
    }
    refuse(format!("{called} of {} has no field '{field}'", name(of)), format!("the fields are {}", known.join(", ")))
}
