//! Sides of a comparison, and results of one expression, in one type that holds them all exactly.
//!
//! Left alone, DataFusion compares a DECIMAL with a DOUBLE as DECIMAL(30, 15), a TIMESTAMP with a DATE in nanoseconds, and
//! cuts the digits of decimals of which no type holds both: equal values differ, and rows fail on which nothing is wrong.
//!
//! Invariant: what passes is compared without rounding, but for a whole number and a DOUBLE, which are compared as doubles.
//! Neighbours: `meaning` judges which kinds of types may meet at all; `plan::row` asks for the keys of joins.

use std::sync::{Arc, LazyLock};

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Decimal128Type};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::constant::refuse_hopeless;
use super::meaning::{Kind, name, refuse, shown};
use super::timestamp;

/// Digits of a number before the point, and after it.
#[derive(Clone, Copy)]
struct Digits {
    before: u32,
    after: u32,
}

/// Puts what is compared with each other into one type.
pub(super) fn aligned(mut sides: Vec<Expr>, schema: &DFSchema) -> Result<Vec<Expr>> {
    let kinds = sides.iter().map(|e| Ok(Kind::of(&e.get_type(schema)?))).collect::<Result<Vec<_>>>()?;
    if kinds.contains(&Kind::Timestamp) {
        for (side, kind) in sides.iter_mut().zip(&kinds) {
            if matches!(kind, Kind::Date | Kind::Text) {
                *side = side.clone().cast_to(&timestamp(), schema)?;
                refuse_hopeless(side, schema)?;
            }
        }
    }
    if kinds.contains(&Kind::Decimal) {
        for side in &mut sides {
            if let Expr::Literal(ScalarValue::Float64(Some(x)), _) = side {
                *side = Expr::Literal(decimal(*x)?, None);
            }
        }
    }
    held(&sides.iter().collect::<Vec<_>>(), schema)?;
    Ok(sides)
}

/// Is there a number type that holds all of these exactly? What is no number does not matter.
pub(super) fn held(exprs: &[&Expr], schema: &DFSchema) -> Result<()> {
    let types = exprs.iter().map(|e| e.get_type(schema)).collect::<Result<Vec<_>>>()?;
    let find = |kind: Kind| types.iter().position(|t| Kind::of(t) == kind);
    let Some(decimal) = find(Kind::Decimal) else { return Ok(()) };
    if let Some(double) = find(Kind::Double) {
        let message = format!(
            "`{}` is {} and `{}` is DOUBLE: no type holds both exactly",
            shown(exprs[decimal]),
            name(&types[decimal]),
            shown(exprs[double])
        );
        let help = format!(
            "write CAST({} AS DOUBLE), or CAST({} AS {})",
            shown(exprs[decimal]),
            shown(exprs[double]),
            name(&types[decimal])
        );
        return refuse(message, help);
    }
    let mut most: [Option<(usize, u32)>; 2] = [None, None];
    for (n, (expr, data_type)) in exprs.iter().zip(&types).enumerate() {
        let Some(digits) = digits(expr, data_type) else { continue };
        for (most, has) in most.iter_mut().zip([digits.before, digits.after]) {
            if most.is_none_or(|(_, m)| has > m) {
                *most = Some((n, has));
            }
        }
    }
    match most {
        [Some((a, before)), Some((b, after))] if before + after > 38 => {
            let message = format!(
                "`{}` is {} and `{}` is {}: no DECIMAL holds both",
                shown(exprs[a]),
                name(&types[a]),
                shown(exprs[b]),
                name(&types[b])
            );
            let help = format!("write CAST({} AS DECIMAL(p, s)) with fewer digits before the point", shown(exprs[a]));
            refuse(message, help)
        }
        _ => Ok(()),
    }
}

fn digits(expr: &Expr, data_type: &DataType) -> Option<Digits> {
    if let Expr::Literal(ScalarValue::Int64(Some(n)), _) = expr {
        return Some(Digits { before: n.unsigned_abs().checked_ilog10().map_or(1, |l| l + 1), after: 0 });
    }
    match data_type {
        DataType::Int8 | DataType::Int16 | DataType::Int32 => Some(Digits { before: 10, after: 0 }),
        DataType::Int64 => Some(Digits { before: 19, after: 0 }),
        DataType::Decimal128(p, s) => {
            let after = u32::from(s.unsigned_abs());
            Some(Digits { before: u32::from(*p).saturating_sub(after), after })
        }
        _ => None,
    }
}

/// A literal with a point, as it was written: a double of at most 15 digits is the only one that is written so.
fn decimal(x: f64) -> Result<ScalarValue> {
    let text = x.abs().to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let whole = whole.trim_start_matches('0');
    let digits = format!("{whole}{fraction}");
    let written = digits.trim_matches('0').len();
    let value: Option<i128> = if digits.is_empty() { Some(0) } else { digits.parse().ok() };
    match (value, u8::try_from(digits.len().max(1)), i8::try_from(fraction.len())) {
        (Some(value), Ok(p @ 1..=38), Ok(s)) if written <= 15 => {
            Ok(ScalarValue::Decimal128(Some(if x < 0.0 { -value } else { value }), p, s))
        }
        _ => refuse(
            format!("{x:e} has more digits than a literal beside a DECIMAL can have"),
            "write CAST('…' AS DECIMAL(p, s))",
        ),
    }
}

/// The name of [`within_precision`] in a plan.
pub(super) const WITHIN_PRECISION: &str = "within_precision";

/// A computed DECIMAL; an error where it has more digits than its type, which Arrow's own arithmetic keeps.
pub(super) fn within_precision(expr: Expr) -> Expr {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
        Arc::new(ScalarUDF::new_from_impl(WithinPrecision { signature: Signature::any(1, Volatility::Immutable) }))
    });
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&FUNCTION), vec![expr]))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct WithinPrecision {
    signature: Signature,
}

impl ScalarUDFImpl for WithinPrecision {
    fn name(&self) -> &str {
        WITHIN_PRECISION
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        Ok(args[0].clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let values = args.args[0].to_array(args.number_rows)?;
        if let DataType::Decimal128(precision, _) = values.data_type() {
            values.as_primitive::<Decimal128Type>().validate_decimal_precision(*precision)?;
        }
        Ok(ColumnarValue::Array(values))
    }
}
