//! How a function may be called: the clauses inside and behind its parentheses that are on the list.
//!
//! DataFusion drops some of them without a word, as FILTER after a scalar function. Nothing is destructured with `..`.
//!
//! Invariant: ORDER BY and IGNORE NULLS pass only where they decide an answer. Neighbours: `expressions` calls this for
//! every function; `functions` has the names.

use datafusion::sql::sqlparser::ast::{
    DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArgumentList,
    FunctionArguments, Interval, OrderByExpr, OrderByOptions, Spanned, UnaryOperator, Value,
};
use datafusion::sql::sqlparser::tokenizer::Span as TokenSpan;

use super::check::is_function;
use super::clauses::Walk;
use super::expressions::SUBQUERY;
use super::functions::{aggregated, calls, is_aggregate, unlisted};
use super::interval::length;
use super::names::known_as;

impl Walk<'_> {
    /// A call of a function, scalar or aggregate.
    pub(super) fn function(&mut self, function: &Function) {
        let Function { name, uses_odbc_syntax: _, parameters, args, filter, null_treatment, over, within_group } =
            function;
        let at = name.span();
        let known = match name.0.as_slice() {
            [one] => one.as_ident().map(known_as).unwrap_or_default(),
            _ => name.to_string(),
        };
        let aggregate = is_aggregate(&known);
        if !aggregate && calls(&known).is_none() {
            let (message, help) = unlisted(&known, is_function(&known));
            // Its arguments may make sense only in what it stands for.
            return self.refuse(at, message, help);
        }
        if !matches!(parameters, FunctionArguments::None) {
            self.refuse(at, format!("{known} with parameters is not supported"), "write its arguments alone");
        }
        let ordered = matches!(known.as_str(), "first_value" | "last_value" | "array_agg");
        self.arguments(at, &known, args, aggregate, ordered);
        if let Some(condition) = filter {
            self.expr(condition);
            if !aggregate {
                let at = self.place(at.end, "FILTER");
                self.refuse(at, format!("FILTER after {known} is not supported"), "only aggregates have a FILTER");
            }
        }
        if null_treatment.is_some() && !ordered {
            self.nulls(at, &known);
        }
        if over.is_some() {
            let at = self.place(at.end, "OVER");
            self.refuse(at, "window functions (OVER) are not supported", "use FILTER with now() in an aggregate");
        }
        if !within_group.is_empty() {
            let at = self.place(at.end, "WITHIN GROUP");
            let help = match known.as_str() {
                "approx_percentile_cont" => "write approx_percentile_cont(column, 0.95)",
                _ => "use last_value(column ORDER BY other)",
            };
            self.refuse(at, "WITHIN GROUP is not supported", help);
        }
    }

    fn nulls(&mut self, from: TokenSpan, name: &str) {
        let at = self.place(from.end, "NULLS");
        let help = "leave it out: only first_value, last_value and array_agg see nulls";
        self.refuse(at, format!("IGNORE NULLS and RESPECT NULLS in {name} are not supported"), help);
    }

    fn arguments(&mut self, at: TokenSpan, name: &str, args: &FunctionArguments, aggregate: bool, ordered: bool) {
        let FunctionArgumentList { duplicate_treatment, args, clauses } = match args {
            FunctionArguments::None => return,
            FunctionArguments::Subquery(query) => {
                return self.refuse(query.span(), SUBQUERY, "join the table instead");
            }
            FunctionArguments::List(list) => list,
        };
        match duplicate_treatment {
            Some(DuplicateTreatment::Distinct) if !aggregate => {
                let at = self.place(at.end, "DISTINCT");
                self.refuse(at, format!("DISTINCT in {name} is not supported"), "only aggregates have it");
            }
            None | Some(DuplicateTreatment::All | DuplicateTreatment::Distinct) => {}
        }
        let star =
            |arg: &FunctionArg| matches!(arg, FunctionArg::Unnamed(arg) if !matches!(arg, FunctionArgExpr::Expr(_)));
        if matches!(duplicate_treatment, Some(DuplicateTreatment::Distinct)) && args.iter().any(star) {
            let at = self.place(at.end, "DISTINCT");
            let help = "write count(DISTINCT column), or count(DISTINCT struct(a, b)) for several";
            return self.refuse(at, format!("{name}(DISTINCT *) is not supported"), help);
        }
        args.iter().for_each(|arg| self.argument(at, name, arg));
        let constants = aggregated(name).unwrap_or_default().chars().zip(args);
        constants.for_each(|(letter, arg)| self.constant(name, letter, arg));
        if name == "array_agg" {
            let limited = clauses.iter().any(|clause| matches!(clause, FunctionArgumentClause::Limit(_)));
            if args.len() != 1 {
                self.refuse(at, "array_agg takes one argument", "wrap several in struct(…)");
            } else if !limited {
                let help = "say how many: array_agg(column ORDER BY ts DESC LIMIT 10) has the last ten";
                self.refuse(at, "array_agg without LIMIT is not supported: the list would grow for ever", help);
            }
        }
        for clause in clauses {
            let word = match clause {
                FunctionArgumentClause::OrderBy(keys) => {
                    keys.iter().for_each(|key| self.sort_key(key));
                    if ordered {
                        continue;
                    }
                    "ORDER BY"
                }
                FunctionArgumentClause::IgnoreOrRespectNulls(_) => {
                    if !ordered {
                        self.nulls(at, name);
                    }
                    continue;
                }
                FunctionArgumentClause::Limit(limit) if name == "array_agg" => {
                    if !is_number_of_values(limit) {
                        let message = format!("LIMIT takes a whole number from 1 to {MOST}");
                        self.refuse(limit.span(), message, "write array_agg(column ORDER BY ts DESC LIMIT 10)");
                    }
                    continue;
                }
                FunctionArgumentClause::Limit(_) => "LIMIT",
                FunctionArgumentClause::OnOverflow(_) => "ON OVERFLOW",
                FunctionArgumentClause::Having(_) => "HAVING",
                FunctionArgumentClause::Separator(_) => "SEPARATOR",
                FunctionArgumentClause::JsonNullClause(_) => "NULL",
                FunctionArgumentClause::JsonReturningClause(_) => "RETURNING",
            };
            let at = self.place(at.end, word);
            self.refuse(at, format!("{word} in {name} is not supported"), "leave it out: it would change nothing");
        }
    }

    fn argument(&mut self, at: TokenSpan, name: &str, arg: &FunctionArg) {
        let arg = match arg {
            FunctionArg::Unnamed(arg) => arg,
            FunctionArg::Named { name: argument, arg: _, operator: _ } => {
                let help = "write the arguments in their order, without names";
                return self.refuse(argument.span, "a named argument is not supported", help);
            }
            FunctionArg::ExprNamed { name: argument, arg: _, operator: _ } => {
                let help = "write the arguments in their order, without names";
                return self.refuse(argument.span(), "a named argument is not supported", help);
            }
        };
        match arg {
            FunctionArgExpr::Expr(expr) => self.expr(expr),
            FunctionArgExpr::Wildcard if name == "count" => {}
            FunctionArgExpr::WildcardWithOptions(options) if name == "count" => self.wildcard(options),
            FunctionArgExpr::Wildcard | FunctionArgExpr::WildcardWithOptions(_) => {
                self.refuse(at, format!("{name}(*) is not supported"), "name a column");
            }
            FunctionArgExpr::QualifiedWildcard(_) => {
                self.refuse(at, format!("{name}(table.*) is not supported"), "write count(*), or name a column");
            }
        }
    }

    /// An argument that must be a constant: `letter` says of which kind.
    fn constant(&mut self, name: &str, letter: char, arg: &FunctionArg) {
        let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) = arg else { return };
        match letter {
            'k' if !is_number_of_values(expr) => {
                let message = format!("{name} takes how many it gives, a whole number from 1 to {MOST}");
                self.refuse(expr.span(), message, format!("write {name}(column, 3)"));
            }
            'p' if !number(expr).is_some_and(|digits| is_fraction(&digits)) => {
                let message = format!("{name} takes a fraction from 0 to 1 of at most six places");
                self.refuse(expr.span(), message, format!("write {name}(column, 0.95)"));
            }
            'h' if !is_half_life(expr) => {
                let message = format!("{name} takes a half-life, a positive interval of days and smaller units");
                let before = if name == "decayed_sum" { "column, " } else { "" };
                self.refuse(expr.span(), message, format!("write {name}({before}INTERVAL '1 day')"));
            }
            _ => {}
        }
    }

    fn sort_key(&mut self, OrderByExpr { expr, options, with_fill }: &OrderByExpr) {
        let OrderByOptions { asc: _, nulls_first: _ } = options;
        self.expr(expr);
        if with_fill.is_some() {
            self.refuse(expr.span(), "WITH FILL is not supported", "leave it out");
        }
    }
}

/// The greatest number of values that an aggregate may give.
const MOST: i64 = 1_000;

/// A number as it is written, with its sign.
fn number(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => Some(digits.clone()),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => number(expr).map(|digits| format!("-{digits}")),
        Expr::Nested(expr) => number(expr),
        _ => None,
    }
}

fn is_number_of_values(expr: &Expr) -> bool {
    number(expr).and_then(|digits| digits.parse().ok()).is_some_and(|k: i64| (1..=MOST).contains(&k))
}

/// An interval that cannot be read at all has been refused as such.
fn is_half_life(expr: &Expr) -> bool {
    let Expr::Interval(Interval { value, leading_field, .. }) = expr else { return false };
    let Expr::Value(value) = value.as_ref() else { return true };
    let (Value::SingleQuotedString(text) | Value::Number(text, _)) = &value.value else { return true };
    let unit = leading_field.as_ref().map(ToString::to_string);
    length(text, unit.as_deref()).is_ok_and(|length| length.months == 0 && length.micros > 0)
}

fn is_fraction(digits: &str) -> bool {
    let places = digits.split_once('.').map_or(0, |(_, places)| places.trim_end_matches('0').len());
    let plain = digits.chars().all(|c| c.is_ascii_digit() || c == '.');
    plain && places <= 6 && digits.parse().is_ok_and(|x: f64| (0.0..=1.0).contains(&x))
}
