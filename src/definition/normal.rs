//! A view's query in the form that the rest reads: the same answers, written so that planning understands it.
//!
//! - `now() - ts < INTERVAL '1 hour'` becomes `ts > now() - INTERVAL '1 hour'`, and a NOT before such a comparison goes into it.
//! - Aggregates that DataFusion would name alike, because its names leave out casts and parentheses, get conditions that
//!   always hold (`FILTER (WHERE 1 = 1)`) and tell them apart.
//!
//! Invariants: nulls and errors stay what they were; spans stay those of the text. Neighbours: `view` keeps the outcome,
//! `plan` and `verify` both read it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, Query, UnaryOperator, Value, Visit, VisitMut, Visitor, VisitorMut,
};

/// Functions that may stand twice, over arguments that are named alike.
const AGGREGATES: [&str; 14] = [
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "first_value",
    "last_value",
    "var",
    "var_samp",
    "stddev",
    "stddev_samp",
    "bool_and",
    "bool_or",
    "array_agg",
];

/// Rewrites a query.
pub(super) fn normal(query: &Query) -> Query {
    let mut query = query.clone();
    let _: ControlFlow<()> = VisitMut::visit(&mut query, &mut Comparisons);
    let mut names = Names::default();
    let _: ControlFlow<()> = Visit::visit(&query, &mut names);
    names.calls.retain(|_, texts| texts.len() > 1);
    if !names.calls.is_empty() {
        let _: ControlFlow<()> = VisitMut::visit(&mut query, &mut names);
    }
    query
}

/// Comparisons with `now()`.
struct Comparisons;

impl VisitorMut for Comparisons {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Some(better) = rewritten(expr) {
            *expr = better;
        }
        ControlFlow::Continue(())
    }
}

fn rewritten(expr: &Expr) -> Option<Expr> {
    match expr {
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => {
            let Expr::BinaryOp { left, op, right } = plain(expr) else { return None };
            let op = negated(op)?;
            let temporal = mentions_now(left) || mentions_now(right);
            temporal.then(|| Expr::BinaryOp { left: left.clone(), op, right: right.clone() })
        }
        Expr::BinaryOp { left, op, right } => {
            let swapped = swapped(op)?;
            match (difference(left), difference(right)) {
                (Some((a, b)), None) if !mentions_now(right) => Some(compared(a, b, op.clone(), swapped, right)),
                (None, Some((a, b))) if !mentions_now(left) => Some(compared(a, b, swapped, op.clone(), left)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// `a - b OP interval`, where one of both is `now()`: the other one compared with it.
fn compared(a: &Expr, b: &Expr, op: BinaryOperator, swapped: BinaryOperator, interval: &Expr) -> Expr {
    let nested = |e: &Expr| Box::new(Expr::Nested(Box::new(e.clone())));
    let sum = |now: &Expr, sign| Expr::BinaryOp { left: nested(now), op: sign, right: nested(interval) };
    if mentions_now(a) {
        // now - b < i: b > now - i
        let bound = Box::new(Expr::Nested(Box::new(sum(a, BinaryOperator::Minus))));
        return Expr::BinaryOp { left: nested(b), op: swapped, right: bound };
    }
    // a - now < i: a < now + i
    let bound = Box::new(Expr::Nested(Box::new(sum(b, BinaryOperator::Plus))));
    Expr::BinaryOp { left: nested(a), op, right: bound }
}

/// The two instants that are subtracted, one of them `now()`.
fn difference(expr: &Expr) -> Option<(&Expr, &Expr)> {
    let Expr::BinaryOp { left, op: BinaryOperator::Minus, right } = plain(expr) else { return None };
    let instants = !matches!(plain(right), Expr::Interval(_));
    (instants && mentions_now(left) != mentions_now(right)).then_some((left, right))
}

fn plain(expr: &Expr) -> &Expr {
    match expr {
        Expr::Nested(inner) => plain(inner),
        other => other,
    }
}

fn swapped(op: &BinaryOperator) -> Option<BinaryOperator> {
    Some(match op {
        BinaryOperator::Lt => BinaryOperator::Gt,
        BinaryOperator::LtEq => BinaryOperator::GtEq,
        BinaryOperator::Gt => BinaryOperator::Lt,
        BinaryOperator::GtEq => BinaryOperator::LtEq,
        BinaryOperator::Eq => BinaryOperator::Eq,
        _ => return None,
    })
}

fn negated(op: &BinaryOperator) -> Option<BinaryOperator> {
    Some(match op {
        BinaryOperator::Lt => BinaryOperator::GtEq,
        BinaryOperator::LtEq => BinaryOperator::Gt,
        BinaryOperator::Gt => BinaryOperator::LtEq,
        BinaryOperator::GtEq => BinaryOperator::Lt,
        _ => return None,
    })
}

fn mentions_now(expr: &Expr) -> bool {
    struct Now;
    impl Visitor for Now {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match expr {
                Expr::Function(f) if name(f) == "now" => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        }
    }
    Visit::visit(expr, &mut Now).is_break()
}

fn name(function: &Function) -> String {
    function.name.to_string().to_lowercase()
}

/// The calls of aggregates: how they are written, by how they would be named.
#[derive(Default)]
struct Names {
    calls: BTreeMap<String, Vec<String>>,
}

/// The call without what a name leaves out.
fn named(function: &Function) -> String {
    struct Bare;
    impl VisitorMut for Bare {
        type Break = ();
        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            if let Expr::Nested(inner) | Expr::Cast { expr: inner, .. } = expr {
                *expr = inner.as_ref().clone();
            }
            ControlFlow::Continue(())
        }
    }
    let mut function = function.clone();
    let _: ControlFlow<()> = VisitMut::visit(&mut function, &mut Bare);
    // Quotes are left out as well.
    function.to_string().to_lowercase().replace(['\'', '"'], "")
}

impl Visitor for Names {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr
            && AGGREGATES.contains(&name(function).as_str())
        {
            let (texts, text) = (self.calls.entry(named(function)).or_default(), function.to_string());
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        ControlFlow::Continue(())
    }
}

impl VisitorMut for Names {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        let text = function.to_string();
        let found = self.calls.get(&named(function)).and_then(|texts| texts.iter().position(|t| *t == text));
        if let Some(n) = found.filter(|n| *n > 0) {
            let number = || Box::new(Expr::Value(Value::Number(n.to_string(), false).into()));
            let holds = Expr::BinaryOp { left: number(), op: BinaryOperator::Eq, right: number() };
            function.filter = Some(Box::new(match function.filter.take() {
                None => holds,
                Some(filter) => Expr::BinaryOp {
                    left: Box::new(Expr::Nested(filter)),
                    op: BinaryOperator::And,
                    right: Box::new(holds),
                },
            }));
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::dialect::parse_query;

    fn rewritten(condition: &str) -> String {
        let query = parse_query(&format!("SELECT g, count(*) FROM s WHERE {condition} GROUP BY g")).expect(condition);
        let text = normal(&query).to_string();
        let (_, rest) = text.split_once(" WHERE ").expect("it has a condition");
        rest.strip_suffix(" GROUP BY g").expect("it is grouped").replace(['(', ')'], "")
    }

    #[test]
    fn ages_are_compared_as_instants() {
        let check = |condition: &str, want: &str| assert_eq!(rewritten(condition), want, "{condition}");
        check("now() - ts < INTERVAL '1 hour'", "ts > now - INTERVAL '1 hour'");
        check("INTERVAL '1 hour' >= (now() - ts)", "ts >= now - INTERVAL '1 hour'");
        check("ts - now() > INTERVAL '-1 hour'", "ts > now + INTERVAL '-1 hour'");
        check("NOT (ts <= now() - INTERVAL '1 day')", "ts > now - INTERVAL '1 day'");
        check("NOT (now() - ts >= INTERVAL '1 day') AND x - y > 3", "ts > now - INTERVAL '1 day' AND x - y > 3");
        check("ts > now() - INTERVAL '1 hour'", "ts > now - INTERVAL '1 hour'");
    }

    #[test]
    fn aggregates_that_are_named_alike_are_told_apart() {
        let text = |list: &str| {
            let query = parse_query(&format!("SELECT g, {list} FROM s GROUP BY g")).expect(list);
            normal(&query).to_string()
        };
        let check = |list: &str, want: &str| assert_eq!(text(list), format!("SELECT g, {want} FROM s GROUP BY g"));
        check("sum(p), sum(p)", "sum(p), sum(p)");
        check("sum(p), sum(CAST(p AS DOUBLE))", "sum(p), sum(CAST(p AS DOUBLE)) FILTER (WHERE 1 = 1)");
        check(
            "sum(a - b - c), sum(a - (b - c)) FILTER (WHERE x), sum(a - b - c) FILTER (WHERE (x))",
            "sum(a - b - c), sum(a - (b - c)) FILTER (WHERE x), sum(a - b - c) FILTER (WHERE ((x)) AND 1 = 1)",
        );
    }
}
