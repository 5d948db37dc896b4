//! Temporal predicates: comparisons of event time with `now()`, as windows of ages.
//!
//! Invariants: a window says exactly what its comparison says, on whole microseconds. Neighbours: `aggregate`
//! splits conditions into these and the rest.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use crate::fold::plan::Window;

/// Does the expression ask for the moment of the question?
pub fn mentions_now(expr: &Expr) -> bool {
    let mut found = false;
    // The walk cannot fail: the closure does not.
    let _ = datafusion::common::tree_node::TreeNode::apply(expr, |e| {
        found |= matches!(e, Expr::ScalarFunction(f) if f.func.name() == "now");
        Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
    });
    found
}

/// One side of a comparison: event time or now, and microseconds added to it.
enum Side {
    EventTime(i64),
    Now(i64),
}

/// The window that a comparison with `now()` says.
///
/// # Errors
/// What is not understood, and how to say it.
pub fn window_of(expr: &Expr, is_event_time: &dyn Fn(&Expr) -> bool) -> Result<Window, String> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (l, r) = (side_of(left, is_event_time)?, side_of(right, is_event_time)?);
            // et + a OP now + b, so that age = now - et OP' a - b.
            let (age, op) = match (l, r) {
                (Side::EventTime(a), Side::Now(b)) => (a.checked_sub(b), *op),
                (Side::Now(b), Side::EventTime(a)) => (a.checked_sub(b), op.swap().unwrap_or(*op)),
                _ => return Err(SHAPE.into()),
            };
            let age = age.ok_or("the interval is too long")?;
            bounds(op, age)
        }
        Expr::Between(b) if !b.negated => {
            let Side::EventTime(a) = side_of(&b.expr, is_event_time)? else { return Err(SHAPE.into()) };
            let (Side::Now(low), Side::Now(high)) = (side_of(&b.low, is_event_time)?, side_of(&b.high, is_event_time)?)
            else {
                return Err(SHAPE.into());
            };
            let age = |bound: i64| a.checked_sub(bound).ok_or("the interval is too long");
            Ok(bounds(Operator::GtEq, age(low)?)?.and(bounds(Operator::LtEq, age(high)?)?))
        }
        Expr::Alias(a) => window_of(&a.expr, is_event_time),
        _ => Err(SHAPE.into()),
    }
}

const SHAPE: &str = "now() may be compared with the event time only, each plus or minus an interval, \
                     by >, >=, <, <=, = or BETWEEN, joined by AND";

fn bounds(op: Operator, age: i64) -> Result<Window, String> {
    let window = match op {
        Operator::Gt => Window { from: 0, until: Some(age) },
        Operator::GtEq => Window { from: 0, until: Some(age.saturating_add(1)) },
        Operator::Lt => Window { from: age.saturating_add(1).max(0), until: None },
        Operator::LtEq => Window { from: age.max(0), until: None },
        Operator::Eq => Window { from: age.max(0), until: Some(age.saturating_add(1)) },
        _ => return Err(SHAPE.into()),
    };
    Ok(window)
}

fn side_of(expr: &Expr, is_event_time: &dyn Fn(&Expr) -> bool) -> Result<Side, String> {
    if is_event_time(expr) {
        return Ok(Side::EventTime(0));
    }
    match expr {
        Expr::ScalarFunction(f) if f.func.name() == "now" => Ok(Side::Now(0)),
        Expr::Alias(a) => side_of(&a.expr, is_event_time),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (side, by) = match (interval_of(left), op, interval_of(right)) {
                (_, Operator::Plus, Some(by)) => (left, by?),
                (_, Operator::Minus, Some(by)) => (left, by?.checked_neg().ok_or("the interval is too long")?),
                (Some(by), Operator::Plus, None) => (right, by?),
                _ => return Err(SHAPE.into()),
            };
            let add = |a: i64| a.checked_add(by).ok_or("the interval is too long");
            Ok(match side_of(side, is_event_time)? {
                Side::EventTime(a) => Side::EventTime(add(a)?),
                Side::Now(a) => Side::Now(add(a)?),
            })
        }
        _ => Err(SHAPE.into()),
    }
}

fn interval_of(expr: &Expr) -> Option<Result<i64, String>> {
    let Expr::Literal(value, _) = expr else { return None };
    let micros = |days: i64, nanos: i64| {
        if nanos % 1_000 != 0 {
            return Err("an interval is a whole number of microseconds".to_string());
        }
        days.checked_mul(86_400_000_000)
            .and_then(|d| d.checked_add(nanos / 1_000))
            .ok_or("the interval is too long".into())
    };
    const MONTHS: &str = "a month has no fixed length; write the interval in days";
    Some(match value {
        ScalarValue::IntervalMonthDayNano(Some(i)) if i.months != 0 => Err(MONTHS.into()),
        ScalarValue::IntervalMonthDayNano(Some(i)) => micros(i64::from(i.days), i.nanoseconds),
        ScalarValue::IntervalDayTime(Some(i)) => micros(i64::from(i.days), i64::from(i.milliseconds) * 1_000_000),
        ScalarValue::IntervalYearMonth(Some(0)) => Ok(0),
        ScalarValue::IntervalYearMonth(Some(_)) => Err(MONTHS.into()),
        ScalarValue::DurationMicrosecond(Some(v)) => Ok(*v),
        _ => return None,
    })
}
