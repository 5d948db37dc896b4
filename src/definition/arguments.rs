//! How a function may be called: the clauses inside and behind its parentheses that are on the list.
//!
//! DataFusion drops some of them without a word, as FILTER after a scalar function. Nothing is destructured with `..`.
//!
//! Invariant: ORDER BY and IGNORE NULLS pass only where they decide an answer. Neighbours: `expressions` calls this for
//! every function; `functions` has the names.

use datafusion::sql::sqlparser::ast::{
    DuplicateTreatment, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArgumentList,
    FunctionArguments, OrderByExpr, OrderByOptions, Spanned,
};
use datafusion::sql::sqlparser::tokenizer::Span as TokenSpan;

use super::check::is_function;
use super::clauses::Walk;
use super::expressions::SUBQUERY;
use super::functions::{calls, is_aggregate, unlisted};
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
        let ordered = matches!(known.as_str(), "first_value" | "last_value");
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
            self.refuse(at, "WITHIN GROUP is not supported", "use last_value(column ORDER BY other)");
        }
    }

    fn nulls(&mut self, from: TokenSpan, name: &str) {
        let at = self.place(from.end, "NULLS");
        let help = "leave it out: only first_value and last_value see nulls";
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

    fn sort_key(&mut self, OrderByExpr { expr, options, with_fill }: &OrderByExpr) {
        let OrderByOptions { asc: _, nulls_first: _ } = options;
        self.expr(expr);
        if with_fill.is_some() {
            self.refuse(expr.span(), "WITH FILL is not supported", "leave it out");
        }
    }
}
