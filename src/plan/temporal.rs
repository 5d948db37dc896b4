//! Temporal predicates: comparisons of event time with `now()`, as windows of ages.
//!
//! Invariants: a window says exactly what its comparison says, on whole microseconds; a comparison of anything else is
//! refused, and not rewritten. Neighbours: `aggregate`
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

/// One side of a comparison, in microseconds.
enum Side {
    /// Event time, and what is added to it.
    EventTime(i64),
    /// The moment of the question, and what is added to it.
    Now(i64),
    /// `now() - event time`, and what is added to it.
    Age(i64),
    /// `event time - now()`, and what is added to it.
    Ahead(i64),
    /// A length of time.
    Length(i64),
}

/// The window that a comparison with `now()` says.
///
/// # Errors
/// What is not understood, and how to say it.
pub fn window_of(expr: &Expr, is_event_time: &dyn Fn(&Expr) -> bool) -> Result<Window, String> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => compared(left, *op, right, is_event_time),
        Expr::Between(b) if !b.negated => {
            let low = compared(&b.expr, Operator::GtEq, &b.low, is_event_time)?;
            Ok(low.and(compared(&b.expr, Operator::LtEq, &b.high, is_event_time)?))
        }
        // Event time and now() are never null, so the opposite of a comparison is a comparison.
        Expr::Not(inner) => match inner.as_ref() {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                let opposite = match op {
                    Operator::Lt => Operator::GtEq,
                    Operator::LtEq => Operator::Gt,
                    Operator::Gt => Operator::LtEq,
                    Operator::GtEq => Operator::Lt,
                    _ => return Err(SHAPE.into()),
                };
                compared(left, opposite, right, is_event_time)
            }
            _ => Err(SHAPE.into()),
        },
        Expr::Alias(a) => window_of(&a.expr, is_event_time),
        _ => Err(SHAPE.into()),
    }
}

const SHAPE: &str = "now() may be compared with the event time only, each plus or minus an interval, or their difference \
                     with an interval, by >, >=, <, <=, = or BETWEEN, joined by AND";

const TOO_LONG: &str = "the interval is too long";

fn compared(left: &Expr, op: Operator, right: &Expr, is_event_time: &dyn Fn(&Expr) -> bool) -> Result<Window, String> {
    // The age that a row must have, and how it is compared with it.
    let swapped = op.swap().unwrap_or(op);
    let (age, op) = match (side_of(left, is_event_time)?, side_of(right, is_event_time)?) {
        // et + a OP now + b: age = now - et OP' a - b.
        (Side::EventTime(a), Side::Now(b)) => (a.checked_sub(b), op),
        (Side::Now(b), Side::EventTime(a)) => (a.checked_sub(b), swapped),
        // age + a OP b: age OP b - a, which `bounds` has the other way round.
        (Side::Age(a), Side::Length(b)) => (b.checked_sub(a), swapped),
        (Side::Length(b), Side::Age(a)) => (b.checked_sub(a), op),
        // a - age OP b: age OP' a - b.
        (Side::Ahead(a), Side::Length(b)) => (a.checked_sub(b), op),
        (Side::Length(b), Side::Ahead(a)) => (a.checked_sub(b), swapped),
        _ => return Err(SHAPE.into()),
    };
    bounds(op, age.ok_or(TOO_LONG)?)
}

/// The ages of rows whose event time plus `age` compares with now like this.
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
    if let Some(length) = interval_of(expr) {
        return Ok(Side::Length(length?));
    }
    let (left, op, right) = match expr {
        Expr::ScalarFunction(f) if f.func.name() == "now" => return Ok(Side::Now(0)),
        Expr::Alias(a) => return side_of(&a.expr, is_event_time),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => (left, *op, right),
        _ => return Err(SHAPE.into()),
    };
    let sum = |a: i64, b: i64| a.checked_add(b).ok_or(TOO_LONG);
    let difference = |a: i64, b: i64| a.checked_sub(b).ok_or(TOO_LONG);
    Ok(match (side_of(left, is_event_time)?, op, side_of(right, is_event_time)?) {
        (Side::EventTime(a), Operator::Plus, Side::Length(b))
        | (Side::Length(b), Operator::Plus, Side::EventTime(a)) => Side::EventTime(sum(a, b)?),
        (Side::Now(a), Operator::Plus, Side::Length(b)) | (Side::Length(b), Operator::Plus, Side::Now(a)) => {
            Side::Now(sum(a, b)?)
        }
        (Side::EventTime(a), Operator::Minus, Side::Length(b)) => Side::EventTime(difference(a, b)?),
        (Side::Now(a), Operator::Minus, Side::Length(b)) => Side::Now(difference(a, b)?),
        (Side::Age(a), Operator::Plus, Side::Length(b)) => Side::Age(sum(a, b)?),
        (Side::Age(a), Operator::Minus, Side::Length(b)) => Side::Age(difference(a, b)?),
        (Side::Ahead(a), Operator::Plus, Side::Length(b)) => Side::Ahead(sum(a, b)?),
        (Side::Ahead(a), Operator::Minus, Side::Length(b)) => Side::Ahead(difference(a, b)?),
        (Side::Length(a), Operator::Plus, Side::Length(b)) => Side::Length(sum(a, b)?),
        (Side::Length(a), Operator::Minus, Side::Length(b)) => Side::Length(difference(a, b)?),
        (Side::Now(a), Operator::Minus, Side::EventTime(b)) => Side::Age(difference(a, b)?),
        (Side::EventTime(a), Operator::Minus, Side::Now(b)) => Side::Ahead(difference(a, b)?),
        _ => return Err(SHAPE.into()),
    })
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

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::common::DFSchema;
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::definition::timestamp;
    use crate::plan::functions;

    fn window(condition: &str) -> Result<(i64, Option<i64>), String> {
        let fields = vec![Field::new("ts", timestamp(), false), Field::new("x", DataType::Float64, true)];
        let schema = DFSchema::try_from(Schema::new(fields)).expect("distinct names");
        let context = SessionContext::new();
        context.register_udf(functions::now());
        let expr = context.parse_sql_expr(condition, &schema).expect(condition);
        window_of(&expr, &|e| matches!(e, Expr::Column(c) if c.name == "ts")).map(|w| (w.from, w.until))
    }

    /// Ages are compared as instants are; each line is worked out by hand.
    #[test]
    fn windows_are_what_comparisons_say() {
        const HOUR: i64 = 3_600_000_000;
        let check = |condition: &str, from: i64, until: Option<i64>| {
            assert_eq!(window(condition), Ok((from, until)), "{condition}");
        };
        check("ts > now() - INTERVAL '1 hour'", 0, Some(HOUR));
        check("now() - ts < INTERVAL '1 hour'", 0, Some(HOUR));
        check("INTERVAL '1 hour' > now() - ts", 0, Some(HOUR));
        check("ts - now() > INTERVAL '-1 hour'", 0, Some(HOUR));
        check("INTERVAL '-1 hour' < ts - now()", 0, Some(HOUR));
        check("NOT (ts <= now() - INTERVAL '1 hour')", 0, Some(HOUR));
        check("NOT (now() - ts >= INTERVAL '1 hour')", 0, Some(HOUR));
        check("ts >= now() - INTERVAL '1 hour'", 0, Some(HOUR + 1));
        check("now() - ts <= INTERVAL '1 hour'", 0, Some(HOUR + 1));
        check("ts <= now() - INTERVAL '1 hour'", HOUR, None);
        check("now() - ts >= INTERVAL '1 hour'", HOUR, None);
        check("ts < now() - INTERVAL '1 hour'", HOUR + 1, None);
        check("INTERVAL '1 hour' < now() - ts", HOUR + 1, None);
        check("ts = now() - INTERVAL '1 hour'", HOUR, Some(HOUR + 1));
        check("now() - ts = INTERVAL '1 hour'", HOUR, Some(HOUR + 1));
        check("ts = now()", 0, Some(1));
        check("now() - ts BETWEEN INTERVAL '1 hour' AND INTERVAL '2 hours'", HOUR, Some(2 * HOUR + 1));
        check("ts BETWEEN now() - INTERVAL '2 hours' AND now() - INTERVAL '1 hour'", HOUR, Some(2 * HOUR + 1));
        check("now() - INTERVAL '1 hour' - ts > INTERVAL '1 hour'", 2 * HOUR + 1, None);
        check("ts + INTERVAL '1 hour' > now() + INTERVAL '30 minutes'", 0, Some(HOUR / 2));
        check("ts > now() - (INTERVAL '2 days' - INTERVAL '47 hours')", 0, Some(HOUR));
    }

    #[test]
    fn nothing_but_event_time_is_compared_with_now() {
        for condition in [
            "date_part('epoch', now()) - x < 0.5",
            "now() <> ts",
            "NOT (ts = now())",
            "now() - ts < ts - now()",
            "ts > now() - INTERVAL '1 month'",
            "ts > now() - INTERVAL '1 hour' OR x > 1",
        ] {
            assert!(window(condition).is_err(), "{condition}");
        }
    }
}
