//! A view's query in a form that DataFusion can plan: aggregates that it would name alike, because its names leave out
//! casts and parentheses, get conditions that always hold (`FILTER (WHERE 1 = 1)`) and tell them apart; the LIMIT of an
//! `array_agg` becomes its second argument.
//!
//! Invariants: nothing else is changed; spans stay those of the text. Neighbours: `view` keeps the outcome, which `plan`
//! reads; `verify` reads the original text, and this only where DataFusion cannot plan that.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArguments, Ident,
    Query, Value, Visit, VisitMut, Visitor, VisitorMut,
};

use super::functions::is_aggregate;

/// Other names of functions, and those by which DataFusion knows them.
const ALIASES: [(&str, &str); 20] = [
    ("mean", "avg"),
    ("covar", "covar_samp"),
    ("var_samp", "var"),
    ("var_sample", "var"),
    ("stddev_samp", "stddev"),
    ("trim", "btrim"),
    ("pow", "power"),
    ("ifnull", "nvl"),
    ("length", "character_length"),
    ("char_length", "character_length"),
    ("instr", "strpos"),
    ("position", "strpos"),
    ("substring", "substr"),
    ("datepart", "date_part"),
    ("datetrunc", "date_trunc"),
    ("list_sum", "array_sum"),
    ("array_contains", "array_has"),
    ("list_contains", "array_has"),
    ("list_has", "array_has"),
    ("current_timestamp", "now"),
];

/// Rewrites a query.
pub(super) fn normal(query: &Query) -> Query {
    let mut query = query.clone();
    let _: ControlFlow<()> = VisitMut::visit(&mut query, &mut Limits);
    let mut names = Names::default();
    let _: ControlFlow<()> = Visit::visit(&query, &mut names);
    names.calls.retain(|_, texts| texts.len() > 1);
    if !names.calls.is_empty() {
        let _: ControlFlow<()> = VisitMut::visit(&mut query, &mut names);
    }
    query
}

/// The name of `array_agg` in a query that is planned: by its own DataFusion would take an element of it for another function.
pub const LISTED: &str = "array_agg_first";

/// DataFusion has no LIMIT inside an aggregate: here it is the second argument of `array_agg`, which takes one otherwise.
struct Limits;

impl VisitorMut for Limits {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr
            && name(function) == "array_agg"
            && let FunctionArguments::List(list) = &mut function.args
        {
            function.name = Ident::new(LISTED).into();
            let (limits, others) = std::mem::take(&mut list.clauses).into_iter().partition(is_limit);
            list.clauses = others;
            let limits: Vec<FunctionArgumentClause> = limits;
            list.args.extend(limits.into_iter().filter_map(|clause| match clause {
                FunctionArgumentClause::Limit(limit) => Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(limit))),
                _ => None,
            }));
        }
        ControlFlow::Continue(())
    }
}

fn is_limit(clause: &FunctionArgumentClause) -> bool {
    matches!(clause, FunctionArgumentClause::Limit(_))
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
            let called = |text: String| Expr::Identifier(Ident::new(text));
            match expr {
                Expr::Nested(inner) | Expr::Cast { expr: inner, .. } => *expr = inner.as_ref().clone(),
                Expr::Function(function) => rename(function),
                // The forms with words inside their parentheses are calls like any other.
                Expr::Trim { expr: inner, trim_where: None, trim_what: None, trim_characters: None } => {
                    *expr = called(format!("btrim({inner})"));
                }
                Expr::Substring { expr: inner, substring_from: Some(from), substring_for, .. } => {
                    let length = substring_for.as_ref().map_or(String::new(), |l| format!(", {l}"));
                    *expr = called(format!("substr({inner}, {from}{length})"));
                }
                Expr::Position { expr: part, r#in } => *expr = called(format!("strpos({}, {part})", r#in)),
                _ => {}
            }
            ControlFlow::Continue(())
        }
    }
    fn rename(function: &mut Function) {
        if let Some((_, known)) = ALIASES.iter().find(|(alias, _)| *alias == name(function)) {
            function.name = Ident::new(*known).into();
        }
    }
    let mut function = function.clone();
    rename(&mut function);
    let _: ControlFlow<()> = VisitMut::visit(&mut function, &mut Bare);
    // Quotes are left out as well.
    function.to_string().to_lowercase().replace(['\'', '"'], "")
}

impl Visitor for Names {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr
            && (is_aggregate(&name(function)) || name(function) == LISTED)
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

    #[test]
    fn aggregates_that_are_named_alike_are_told_apart() {
        let text = |list: &str| {
            let query = parse_query(&format!("SELECT g, {list} FROM s GROUP BY g")).expect(list);
            normal(&query).to_string()
        };
        let check = |list: &str, want: &str| assert_eq!(text(list), format!("SELECT g, {want} FROM s GROUP BY g"));
        check("sum(p), sum(p)", "sum(p), sum(p)");
        check("array_agg(p ORDER BY t DESC LIMIT 3)", "array_agg_first(p, 3 ORDER BY t DESC)");
        check(
            "array_agg(p LIMIT 3), array_agg(CAST(p AS INT) LIMIT 3)",
            "array_agg_first(p, 3), array_agg_first(CAST(p AS INT), 3) FILTER (WHERE 1 = 1)",
        );
        check("avg(p), mean(CAST(p AS INT))", "avg(p), mean(CAST(p AS INT)) FILTER (WHERE 1 = 1)");
        check("avg(p), mean(p)", "avg(p), mean(p) FILTER (WHERE 1 = 1)");
        check("var(p), var_sample(CAST(p AS INT))", "var(p), var_sample(CAST(p AS INT)) FILTER (WHERE 1 = 1)");
        check(
            "max(trim(t)), max(btrim(CAST(t AS TEXT)))",
            "max(TRIM(t)), max(btrim(CAST(t AS TEXT))) FILTER (WHERE 1 = 1)",
        );
        check(
            "sum(pow(p, 2)), sum(power(CAST(p AS INT), 2))",
            "sum(pow(p, 2)), sum(power(CAST(p AS INT), 2)) FILTER (WHERE 1 = 1)",
        );
        check("sum(p), sum(CAST(p AS DOUBLE))", "sum(p), sum(CAST(p AS DOUBLE)) FILTER (WHERE 1 = 1)");
        check(
            "sum(a - b - c), sum(a - (b - c)) FILTER (WHERE x), sum(a - b - c) FILTER (WHERE (x))",
            "sum(a - b - c), sum(a - (b - c)) FILTER (WHERE x), sum(a - b - c) FILTER (WHERE ((x)) AND 1 = 1)",
        );
    }
}
