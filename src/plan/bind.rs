//! A view's query as DataFusion plans it: names and types resolved against our streams and tables, errors with spans.
//!
//! Invariants: nothing is optimised here, so aggregates stand as they were written; `now()` stays in the plan.
//! Neighbours: `definition` has the syntax tree; `lower` takes the plan apart.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DataFusionError, Diagnostic as DfDiagnostic, Result, TableReference, plan_err};
use datafusion::execution::SessionState;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::logical_plan::builder::LogicalTableSource;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, ScalarUDF, TableSource, WindowUDF};
use datafusion::optimizer::Analyzer;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::expressions::{BinaryExpr, Literal};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::planner::{ParserOptions, SqlToRel};
use datafusion::sql::sqlparser::ast::{self, Spanned};

use super::functions;
use super::operator::Compiled;
use crate::definition::{Definitions, Source};
use crate::diagnostic::{Diagnostic, Span};

/// What queries can name.
pub struct Catalog {
    tables: HashMap<String, Arc<dyn TableSource>>,
    functions: SessionState,
}

/// The columns a query sees of a source: all but the mark of a tombstone.
pub fn visible_schema(source: &Source) -> Schema {
    let schema = source.row_schema();
    let fields: Vec<Field> =
        schema.fields().iter().filter(|f| f.name() != "_deleted").map(|f| f.as_ref().clone()).collect();
    Schema::new(fields)
}

impl Catalog {
    /// All streams and tables of a deployment.
    pub fn new(definitions: &Definitions) -> Catalog {
        let tables = definitions.sources.values().map(|s| {
            let table = LogicalTableSource::new(Arc::new(visible_schema(s)));
            (s.name.clone(), Arc::new(table) as Arc<dyn TableSource>)
        });
        let config = SessionConfig::new()
            .set_bool("datafusion.sql_parser.collect_spans", true)
            .set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false);
        let context = SessionContext::new_with_config(config);
        context.register_udf(functions::now());
        context.register_udf(functions::list_sum());
        Catalog { tables: tables.collect(), functions: context.state() }
    }

    /// Names resolved, types as written.
    ///
    /// # Errors
    /// Whatever DataFusion finds wrong, several at once as a collection.
    pub fn plan(&self, query: &ast::Query) -> Result<LogicalPlan> {
        let options = ParserOptions::from(&self.options().sql_parser);
        let statement = ast::Statement::Query(Box::new(query.clone()));
        SqlToRel::new_with_options(self, options).sql_statement_to_plan(statement)
    }

    /// Types coerced.
    ///
    /// # Errors
    /// Types that do not go together.
    pub fn analyze(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        Analyzer::new().execute_and_check(plan, self.options(), |_, _| {})
    }

    /// Plans one expression over a schema.
    ///
    /// # Errors
    /// As for a query.
    pub fn expression(&self, expr: &ast::Expr, schema: &DFSchema) -> Result<Expr> {
        let planner = SqlToRel::new_with_options(self, ParserOptions::from(&self.options().sql_parser));
        planner.sql_to_expr(expr.clone(), schema, &mut Default::default())
    }

    /// The smallest expression of the outer SELECT that does not plan by itself, for errors without a place.
    fn blame(&self, query: &ast::Query) -> Option<ast::Expr> {
        let ast::SetExpr::Select(select) = query.body.as_ref() else { return None };
        let mut from = query.clone();
        from.order_by = None;
        if let ast::SetExpr::Select(s) = from.body.as_mut() {
            s.projection = vec![ast::SelectItem::Wildcard(Default::default())];
            (s.selection, s.having) = (None, None);
            s.group_by = ast::GroupByExpr::Expressions(vec![], vec![]);
        }
        let schema = Arc::clone(self.plan(&from).ok()?.schema());
        let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(Arc::clone(&schema)).build());
        let plans = |e: &ast::Expr| -> Result<()> {
            use datafusion::logical_expr::ExprSchemable;
            let e = self.expression(e, &schema)?;
            simplifier.coerce(e, &schema)?.get_type(&schema).map(|_| ())
        };
        let mut finder = Smallest { plans, nested: 0 };
        match ast::Visit::visit(select.as_ref(), &mut finder) {
            std::ops::ControlFlow::Break(found) => Some(found),
            std::ops::ControlFlow::Continue(()) => None,
        }
    }
}

struct Smallest<F> {
    plans: F,
    nested: usize,
}

impl<F: Fn(&ast::Expr) -> Result<()>> ast::Visitor for Smallest<F> {
    type Break = ast::Expr;
    fn pre_visit_query(&mut self, _: &ast::Query) -> std::ops::ControlFlow<ast::Expr> {
        self.nested += 1;
        std::ops::ControlFlow::Continue(())
    }
    fn post_visit_query(&mut self, _: &ast::Query) -> std::ops::ControlFlow<ast::Expr> {
        self.nested -= 1;
        std::ops::ControlFlow::Continue(())
    }
    fn post_visit_expr(&mut self, e: &ast::Expr) -> std::ops::ControlFlow<ast::Expr> {
        if self.nested == 0 && (self.plans)(e).is_err() {
            return std::ops::ControlFlow::Break(e.clone());
        }
        std::ops::ControlFlow::Continue(())
    }
}

impl ContextProvider for Catalog {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        match self.tables.get(name.table()) {
            Some(table) => Ok(Arc::clone(table)),
            None => plan_err!("no stream or table is called `{name}`"),
        }
    }
    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.functions.scalar_functions().get(name).cloned()
    }
    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.functions.higher_order_functions().get(name).cloned()
    }
    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.functions.aggregate_functions().get(name).cloned()
    }
    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.functions.window_functions().get(name).cloned()
    }
    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }
    fn options(&self) -> &ConfigOptions {
        self.functions.config_options()
    }
    fn udf_names(&self) -> Vec<String> {
        self.functions.scalar_functions().keys().cloned().collect()
    }
    fn higher_order_function_names(&self) -> Vec<String> {
        self.functions.higher_order_functions().keys().cloned().collect()
    }
    fn udaf_names(&self) -> Vec<String> {
        self.functions.aggregate_functions().keys().cloned().collect()
    }
    fn udwf_names(&self) -> Vec<String> {
        self.functions.window_functions().keys().cloned().collect()
    }
    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        self.functions.expr_planners()
    }
}

/// An expression over rows of `schema`, coerced and simplified once, to be evaluated many times.
///
/// # Errors
/// Types that do not go together.
pub fn compile(expr: &Expr, schema: &DFSchema) -> Result<Compiled> {
    use datafusion::logical_expr::ExprSchemable;
    let context = SimplifyContext::builder().with_schema(Arc::new(schema.clone())).build();
    let simplifier = ExprSimplifier::new(context);
    let expr = simplifier.simplify(simplifier.coerce(expr.clone(), schema)?)?;
    let data_type = expr.get_type(schema)?;
    let expr = create_physical_expr(&expr, schema, &ExecutionProps::new(), &Default::default())?;
    let expr = checked(expr)?;
    Ok(Compiled { text: expr.to_string(), identity: identity(&expr), expr, data_type })
}

/// Sums, differences and products that do not fit their type are errors; DataFusion's own would wrap around silently.
fn checked(expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
    let checked = expr.transform_up(|e| {
        let Some(binary) = e.downcast_ref::<BinaryExpr>() else { return Ok(Transformed::no(e)) };
        let (left, right) = (Arc::clone(binary.left()), Arc::clone(binary.right()));
        Ok(Transformed::yes(Arc::new(BinaryExpr::new(left, *binary.op(), right).with_fail_on_overflow(true))))
    })?;
    Ok(checked.data)
}

/// The expression as it is built. Its own text leaves out what it can: `a - b - c` may be either of two.
fn identity(expr: &Arc<dyn PhysicalExpr>) -> String {
    if let Some(literal) = expr.downcast_ref::<Literal>() {
        return format!("{:?}", literal.value());
    }
    let parts: Vec<String> = expr.children().into_iter().map(identity).collect();
    if parts.is_empty() { expr.to_string() } else { format!("{expr} [{}]", parts.join(", ")) }
}

/// DataFusion's complaints about a view's query as diagnostics, each with a place in the file.
pub fn diagnose(
    error: &DataFusionError,
    catalog: &Catalog,
    query: &ast::Query,
    file: &str,
    text: &str,
) -> Vec<Diagnostic> {
    if let DataFusionError::Collection(errors) = error {
        return errors.iter().flat_map(|e| diagnose(e, catalog, query, file, text)).collect();
    }
    let (mut message, mut help, mut span) = (plain(error), None, None);
    if message.contains("duplicate unqualified field name") {
        // Its names of expressions leave parentheses out.
        help = Some("two expressions differ in their parentheses only; write one of them another way".to_string());
    }
    if let Some(d) = error.diagnostic() {
        message.clone_from(&d.message);
        span = d.span;
        help = help_of(d);
    }
    let span = match span {
        Some(s) => location(file, s.start.line, s.start.column, s.end.line, s.end.column),
        None => match catalog.blame(query) {
            Some(expr) => place(file, expr.span()),
            None => place(file, query.span()),
        },
    };
    vec![Diagnostic::new(message, span, text, help)]
}

fn help_of(d: &DfDiagnostic) -> Option<String> {
    let mut said: Vec<&str> = d.notes.iter().map(|n| n.message.as_str()).collect();
    said.extend(d.helps.iter().map(|h| h.message.as_str()));
    (!said.is_empty()).then(|| said.join("; "))
}

/// The message without DataFusion's wrapping.
fn plain(error: &DataFusionError) -> String {
    let text = error.strip_backtrace();
    let text = text.split("\n\nBacktrace").next().unwrap_or(&text).to_string();
    let text = text.split("This issue was likely caused by a bug").next().unwrap_or(&text).trim().to_string();
    [
        "Error during planning: ",
        "Schema error: ",
        "SQL error: ",
        "Internal error: ",
        "Optimizer rule 'type_coercion' failed\ncaused by\n",
    ]
    .iter()
    .fold(text, |t, prefix| t.strip_prefix(prefix).map_or(t.clone(), str::to_string))
    .trim_end_matches('.')
    .to_string()
}

/// A span of the syntax tree in a file.
pub fn place(file: &str, span: datafusion::sql::sqlparser::tokenizer::Span) -> Span {
    location(file, span.start.line, span.start.column, span.end.line, span.end.column)
}

fn location(file: &str, line: u64, column: u64, end_line: u64, end_column: u64) -> Span {
    Span { file: file.to_string(), line, column, end_line, end_column }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_not_equal_expressions() {
        let fields = ["a", "b", "c"].map(|n| Field::new(n, DataType::Int64, true)).to_vec();
        let schema = DFSchema::try_from(Schema::new(fields)).expect("distinct names");
        let context = SessionContext::new();
        let compiled = |sql: &str| {
            let expr = context.parse_sql_expr(sql, &schema).expect(sql);
            compile(&expr, &schema).expect(sql)
        };
        let (flat, nested) = (compiled("a - b - c"), compiled("a - (b - c)"));
        assert_eq!(flat.text, nested.text);
        assert_ne!(flat.identity, nested.identity);
        assert_eq!(flat.identity, compiled("(a - b) - c").identity);
        assert_ne!(compiled("coalesce('NULL', 'x')").identity, compiled("coalesce(NULL, 'x')").identity);
        assert_ne!(compiled("CAST(a AS DOUBLE)").identity, compiled("CAST(a AS TEXT)").identity);
    }
}
