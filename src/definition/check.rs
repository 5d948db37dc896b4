//! Single expressions over the columns of a source: planned, type-checked, compiled.
//!
//! Functions, types and error positions are DataFusion's. Numbers with a point are DOUBLE, texts are Utf8.
//!
//! Invariant: what [`check_expr`] passes is a function of the row alone: no aggregates, no subqueries, no clock.
//! Neighbours: `source` (ours) checks CHECK, EVENT TIME and ARRIVAL TIME; the decoder compiles them and runs them.

use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError, Result, TableReference, plan_err};
use datafusion::execution::context::{SessionConfig, SessionContext};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner, TypePlanner};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{
    AggregateUDF, Expr, ExprSchemable, HigherOrderUDF, ScalarUDF, TableSource, Volatility, WindowUDF,
};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use datafusion::sql::sqlparser::ast::{self, Spanned, Visit, Visitor};
use datafusion::sql::sqlparser::tokenizer::{Location, Span as TokenSpan};

use super::bounded;
use super::meaning::{Types, checked, meant, unlisted};
use super::near::{listed, nearest};
use super::types::sql_name;

/// The settings that definitions and queries are planned with: positions kept, texts as Utf8, `0.1` a DOUBLE.
pub fn session_config() -> SessionConfig {
    SessionConfig::new()
        .set_bool("datafusion.sql_parser.collect_spans", true)
        .set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false)
        .set_bool("datafusion.sql_parser.parse_float_as_decimal", false)
}

/// DataFusion's functions, and no tables.
struct Functions {
    state: SessionState,
}

static FUNCTIONS: LazyLock<Functions> = LazyLock::new(|| {
    let context = SessionContext::new_with_config(session_config());
    bounded::register(&context);
    Functions { state: context.state() }
});

impl ContextProvider for Functions {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        plan_err!("`{name}` cannot be read here")
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.state.scalar_functions().get(name).cloned()
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.state.higher_order_functions().get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.state.aggregate_functions().get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.state.window_functions().get(name).cloned()
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        self.state.config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        self.state.scalar_functions().keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        self.state.higher_order_functions().keys().cloned().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.state.aggregate_functions().keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.state.window_functions().keys().cloned().collect()
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::new(Types))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        self.state.expr_planners()
    }
}

/// An expression over the columns of `schema`: names resolved, types not yet coerced.
///
/// # Errors
/// DataFusion's, with its diagnostics: see [`findings`].
pub fn plan_expr(expr: &ast::Expr, schema: &DFSchema) -> Result<Expr> {
    let options = ParserOptions::from(&FUNCTIONS.options().sql_parser);
    SqlToRel::new_with_options(&*FUNCTIONS, options).sql_to_expr(expr.clone(), schema, &mut PlannerContext::new())
}

/// An expression over rows of `schema`, coerced and simplified once, to be evaluated per batch. Columns are bound by
/// their index in `schema`. `now()` has no value in it.
///
/// # Errors
/// DataFusion's: an expression that [`check_expr`] did not pass for this schema.
pub fn compile(expr: &ast::Expr, schema: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
    let schema = DFSchema::try_from(schema.clone())?;
    let expr = plan_expr(expr, &schema)?;
    let simplifier = simplifier(&schema);
    let expr = simplifier.simplify(simplifier.coerce(meant(expr, &schema)?, &schema)?)?;
    checked(create_physical_expr(&expr, &schema, &ExecutionProps::new(), &Default::default())?, schema.as_arrow())
}

/// Has DataFusion a function of this name, whether or not it is on our list?
pub(super) fn is_function(name: &str) -> bool {
    let state = &FUNCTIONS.state;
    let (scalar, higher) =
        (state.scalar_functions().contains_key(name), state.higher_order_functions().contains_key(name));
    scalar || higher || state.aggregate_functions().contains_key(name) || state.window_functions().contains_key(name)
}

fn simplifier(schema: &DFSchema) -> ExprSimplifier {
    ExprSimplifier::new(SimplifyContext::builder().with_schema(Arc::new(schema.clone())).build())
}

fn typed(expr: &ast::Expr, schema: &DFSchema) -> Result<(Expr, DataType)> {
    let planned = simplifier(schema).coerce(meant(plan_expr(expr, schema)?, schema)?, schema)?;
    let data_type = planned.get_type(schema)?;
    Ok((planned, data_type))
}

/// [`typed`], and run over no rows: what fails then, as `x > 'abc'` over a number does, fails for every row.
fn runs(expr: &ast::Expr, schema: &DFSchema) -> Result<(Expr, DataType)> {
    let (planned, data_type) = typed(expr, schema)?;
    if impure(&planned, expr).is_none() {
        compile(expr, schema.as_arrow())?.evaluate(&RecordBatch::new_empty(Arc::clone(schema.inner())))?;
    }
    Ok((planned, data_type))
}

/// What is wrong with an expression or a query, in words for its author.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong, in lower case, without a full stop.
    pub message: String,
    /// Where in the text that was parsed, if DataFusion knows.
    pub span: Option<TokenSpan>,
    /// What to write; may be empty.
    pub help: String,
}

/// The type of an expression that is a function of one row of `schema` alone, or all that is wrong with it.
pub fn check_expr(expr: &ast::Expr, schema: &Schema) -> std::result::Result<DataType, Vec<Finding>> {
    let columns = DFSchema::try_from(schema.clone()).map_err(|e| findings(&e))?;
    if let ControlFlow::Break(span) = Visit::visit(expr, &mut Subqueries) {
        return Err(vec![Finding {
            message: "a subquery cannot stand here".into(),
            span: known(span),
            help: "only the columns of the row itself can be used; put the rest into a view".into(),
        }]);
    }
    match runs(expr, &columns) {
        Ok((planned, data_type)) => match impure(&planned, expr) {
            Some(finding) => Err(vec![finding]),
            None => Ok(data_type),
        },
        Err(error) => {
            let mut found = findings(&error);
            if found.iter().all(|f| f.span.is_none())
                && let ControlFlow::Break((span, error)) = Visit::visit(expr, &mut Smallest { schema: &columns })
            {
                found = findings(&error);
                found.iter_mut().for_each(|f| f.span = f.span.or(known(span)));
            }
            found.iter_mut().for_each(|f| name_columns(f, schema));
            Err(found)
        }
    }
}

/// An error of DataFusion's planner as findings: several where it found several.
pub fn findings(error: &DataFusionError) -> Vec<Finding> {
    let one = |error: &DataFusionError| {
        if let Some(refused) = unlisted(error) {
            return Finding { message: refused.message.clone(), span: None, help: refused.help.clone() };
        }
        let Some(d) = error.diagnostic() else {
            return Finding { message: words(&plain(&error.strip_backtrace())), span: None, help: String::new() };
        };
        let span = d.span.as_ref().map(|s| {
            let place = |l: datafusion::common::Location| Location::new(l.line, l.column);
            TokenSpan::new(place(s.start), place(s.end))
        });
        let notes = d.notes.iter().map(|n| &n.message).chain(d.helps.iter().map(|h| &h.message));
        let notes: Vec<String> = notes
            .map(|note| match note.strip_prefix("possible column ") {
                Some(column) => format!("did you mean `{column}`?"),
                None => words(note),
            })
            .collect();
        let message = lower_first(&words(&first_line(&d.message)));
        named_function(Finding { message, span, help: notes.join("; ") })
    };
    error.iter().map(one).collect()
}

/// For an unknown function, the one probably meant: DataFusion names one however far it is.
fn named_function(finding: Finding) -> Finding {
    let Some(name) = finding.message.strip_prefix("invalid function `").and_then(|m| m.strip_suffix('`')) else {
        return finding;
    };
    let (message, help) = super::functions::unlisted(name, false);
    Finding { message, help, ..finding }
}

/// The message without DataFusion's kinds of error before it, and without what it says to its own developers.
pub fn plain(message: &str) -> String {
    let mut text = first_line(message);
    for kind in [
        "Error during planning: ",
        "Schema error: ",
        "SQL error: ",
        "This feature is not implemented: ",
        "Internal error: ",
        "Arrow error: ",
        "Execution error: ",
        "External error: ",
        "Optimizer rule ",
        "Parser error: ",
        "Cast error: ",
        "Compute error: ",
    ] {
        text = text.replace(kind, "");
    }
    let text = text.split(" This issue was likely caused by a bug").next().unwrap_or("").trim_end_matches(['.', ' ']);
    lower_first(text)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or("").to_string()
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next();
    // `SUM(…)` and `NOT …` stay as they are.
    if chars.clone().next().is_some_and(char::is_uppercase) {
        return text.to_string();
    }
    first.map(|c| c.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// A message of DataFusion's in our words: `name` for 'name' if the quotes pair up, TEXT for Utf8.
pub fn words(text: &str) -> String {
    let mut text =
        if text.matches('\'').count().is_multiple_of(2) { text.replace('\'', "`") } else { text.to_string() };
    for (theirs, ours) in [
        ("Utf8", "TEXT"),
        ("Float64", "DOUBLE"),
        ("Int64", "BIGINT"),
        ("Int32", "INT"),
        ("Timestamp(µs)", "TIMESTAMP"),
        ("Boolean", "BOOLEAN"),
        ("Date32", "DATE"),
        ("Decimal128(", "DECIMAL("),
        // What it advises and we refuse.
        ("ANY_VALUE(", "last_value("),
        (". Consider using HAVING instead", ""),
    ] {
        text = text.replace(theirs, ours);
    }
    text
}

fn known(span: TokenSpan) -> Option<TokenSpan> {
    Some(span).filter(|s| s.start.line > 0)
}

/// For an unknown column, the columns there are.
fn name_columns(finding: &mut Finding, schema: &Schema) {
    let Some(name) = finding.message.strip_prefix("column `").and_then(|m| m.strip_suffix("` not found")) else {
        return;
    };
    let columns = || schema.fields().iter().map(|f| f.name().as_str());
    let bare = name.rsplit('.').next().unwrap_or(name).trim_matches('"');
    finding.help = match nearest(bare, columns()) {
        Some(near) if near.eq_ignore_ascii_case(bare) => format!("write \"{near}\" in quotes, to keep its case"),
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the columns are {}", listed(columns())),
    };
}

/// What makes an expression more than a function of its row.
fn impure(planned: &Expr, written: &ast::Expr) -> Option<Finding> {
    let mut found: Option<(Vec<String>, &str)> = None;
    let walked = planned.apply(|e| {
        match e {
            Expr::ScalarFunction(f) if f.func.signature().volatility != Volatility::Immutable => {
                let names = std::iter::once(f.func.name().to_string()).chain(f.func.aliases().iter().cloned());
                found =
                    Some((names.collect(), "answers would depend on when it is asked: use `_timestamp` or a column"));
            }
            Expr::AggregateFunction(f) => {
                let names = std::iter::once(f.func.name().to_string()).chain(f.func.aliases().iter().cloned());
                found = Some((names.collect(), "it needs many rows: put it into a view"));
            }
            Expr::Placeholder(_) => {
                found = Some((vec!["?".to_string()], "write the value itself, or ${NAME} for one given with --set"));
            }
            Expr::WindowFunction(f) => {
                found = Some((vec![f.fun.name().to_string()], "it needs many rows: put it into a view"));
            }
            _ => return Ok(TreeNodeRecursion::Continue),
        }
        Ok(TreeNodeRecursion::Stop)
    });
    walked.ok()?;
    let (names, why) = found?;
    let span = match Visit::visit(written, &mut Called { names: &names }) {
        ControlFlow::Break(span) => known(span),
        ControlFlow::Continue(()) => None,
    };
    Some(Finding { message: format!("`{}` cannot be used here", names[0]), span, help: why.into() })
}

/// Finds the first subquery.
struct Subqueries;

impl Visitor for Subqueries {
    type Break = TokenSpan;

    fn pre_visit_query(&mut self, query: &ast::Query) -> ControlFlow<TokenSpan> {
        ControlFlow::Break(query.span())
    }
}

/// Finds where a function is called.
struct Called<'a> {
    names: &'a [String],
}

impl Visitor for Called<'_> {
    type Break = TokenSpan;

    fn pre_visit_expr(&mut self, expr: &ast::Expr) -> ControlFlow<TokenSpan> {
        match expr {
            ast::Expr::Function(f) if self.names.contains(&f.name.to_string().to_lowercase()) => {
                ControlFlow::Break(f.name.span())
            }
            ast::Expr::Value(v) if matches!(v.value, ast::Value::Placeholder(_)) && self.names == ["?"] => {
                ControlFlow::Break(v.span)
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// Finds the smallest part that does not plan by itself: children first.
struct Smallest<'a> {
    schema: &'a DFSchema,
}

impl Visitor for Smallest<'_> {
    type Break = (TokenSpan, DataFusionError);

    fn post_visit_expr(&mut self, expr: &ast::Expr) -> ControlFlow<Self::Break> {
        match runs(expr, self.schema) {
            Ok(_) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break((expr.span(), error)),
        }
    }
}

/// For a clause that must be of a type and is not: what to write, if there is an obvious way.
pub(super) fn as_timestamp(text: &str, data_type: &DataType) -> String {
    match data_type {
        DataType::Int64 | DataType::Int32 | DataType::Float64 => format!(
            "say what the number counts: to_timestamp_millis({text}), to_timestamp_micros({text}) or \
             to_timestamp_seconds({text})"
        ),
        DataType::Utf8 => format!("declare the column as TIMESTAMP, or write CAST({text} AS TIMESTAMP)"),
        DataType::Date32 => format!("write CAST({text} AS TIMESTAMP)"),
        other => format!("{} is not a time: write a TIMESTAMP column", sql_name(other)),
    }
}
