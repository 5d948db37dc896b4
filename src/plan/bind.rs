//! A view's query as DataFusion plans it: names and types resolved against our streams and tables, errors with spans.
//!
//! Invariants: nothing is optimised here, so aggregates stand as they were written; `now()` stays in the plan.
//! Neighbours: `definition` has the syntax tree; `lower` takes the plan apart.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{
    DFSchema, DFSchemaRef, DataFusionError, Diagnostic as DfDiagnostic, Result, TableReference, plan_err,
};
use datafusion::execution::SessionState;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::logical_plan::builder::LogicalTableSource;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner, TypePlanner};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{
    AggregateUDF, Expr, ExprSchemable, HigherOrderUDF, LogicalPlan, ScalarUDF, TableSource, WindowUDF,
};
use datafusion::optimizer::Analyzer;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::expressions::Literal;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::planner::{ParserOptions, SqlToRel};
use datafusion::sql::sqlparser::ast::{self, Spanned};
use datafusion::sql::sqlparser::tokenizer::Span as TokenSpan;
use datafusion::sql::unparser::expr_to_sql;

use super::functions;
use super::operator::Compiled;
use super::signatures;
use crate::definition::bounded;
use crate::definition::check::{self, words};
use crate::definition::meaning::{Types, checked, meant, unlisted};
use crate::definition::{Definitions, Source, sql_name, timestamp};
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
        bounded::register(&context);
        context.register_udf(functions::now());
        context.register_udf(functions::list_sum());
        signatures::planned().for_each(|function| context.register_udaf(function));
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

    /// What of a plan, as written, is not on the list of what has a meaning; see [`crate::definition::meaning`].
    ///
    /// # Errors
    /// The first expression that is not.
    pub fn judge(&self, plan: &LogicalPlan) -> Result<()> {
        plan.apply(|node| {
            let mut schema = DFSchema::empty();
            node.inputs().into_iter().for_each(|input| schema.merge(input.schema()));
            node.apply_expressions(|expr| {
                meant(expr.clone(), &schema)?;
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        Ok(())
    }

    /// Where an expression of the outer SELECT stands, narrowed to `now` if it asks for that.
    pub fn place_of(&self, query: &ast::Query, expr: &Expr) -> Option<TokenSpan> {
        let (select, schema) = self.outer(query)?;
        let wanted = expr.clone().unalias_nested().data;
        let same = |e: &ast::Expr| match self.expression(e, &schema) {
            Ok(planned) if planned.clone().unalias_nested().data == wanted => {
                Err(DataFusionError::Internal(String::new()))
            }
            _ => Ok(()),
        };
        let mut finder = Smallest { plans: same, nested: 0 };
        let ControlFlow::Break((found, _)) = ast::Visit::visit(select, &mut finder) else { return None };
        let now = match ast::Visit::visit(&found, &mut Now) {
            ControlFlow::Break(span) => Some(span),
            ControlFlow::Continue(()) => None,
        };
        now.or(Some(found.span())).filter(|s| s.start.line > 0)
    }

    /// The outer SELECT, and the columns that its FROM offers.
    fn outer<'q>(&self, query: &'q ast::Query) -> Option<(&'q ast::Select, DFSchemaRef)> {
        let ast::SetExpr::Select(select) = query.body.as_ref() else { return None };
        let mut from = query.clone();
        from.order_by = None;
        if let ast::SetExpr::Select(s) = from.body.as_mut() {
            s.projection = vec![ast::SelectItem::Wildcard(Default::default())];
            (s.selection, s.having) = (None, None);
            s.group_by = ast::GroupByExpr::Expressions(vec![], vec![]);
        }
        Some((select, Arc::clone(self.plan(&from).ok()?.schema())))
    }

    /// What stands in `WHERE` and is no condition, or else what stands in `HAVING`.
    fn value_for_condition<'q>(&self, query: &'q ast::Query) -> Option<&'q ast::Expr> {
        let (select, schema) = self.outer(query)?;
        let is_value = |e: &&ast::Expr| {
            let data_type = self.expression(e, &schema).and_then(|e| e.get_type(&schema));
            data_type.is_ok_and(|t| t != DataType::Boolean && !t.is_null())
        };
        select.selection.as_ref().filter(is_value).or(select.having.as_ref())
    }

    /// The name of an aggregate of one argument, and that argument's type.
    fn aggregated(&self, query: &ast::Query, expr: &ast::Expr) -> Option<(String, DataType)> {
        let ast::Expr::Function(function) = expr else { return None };
        let name = function.name.to_string().to_lowercase();
        self.get_aggregate_meta(&name)?;
        let ast::FunctionArguments::List(list) = &function.args else { return None };
        let [ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(argument))] = list.args.as_slice() else {
            return None;
        };
        let (_, schema) = self.outer(query)?;
        let data_type = self.expression(argument, &schema).ok()?.get_type(&schema).ok()?;
        Some((name, data_type))
    }

    /// The smallest expression of the outer SELECT that does not plan by itself, for errors without a place, and why.
    fn blame(&self, query: &ast::Query) -> Option<(ast::Expr, DataFusionError)> {
        let (select, schema) = self.outer(query)?;
        let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(Arc::clone(&schema)).build());
        let plans = |e: &ast::Expr| -> Result<()> {
            let e = meant(self.expression(e, &schema)?, &schema)?;
            simplifier.coerce(e, &schema)?.get_type(&schema).map(|_| ())
        };
        let mut finder = Smallest { plans, nested: 0 };
        match ast::Visit::visit(select, &mut finder) {
            ControlFlow::Break(found) => Some(found),
            ControlFlow::Continue(()) => None,
        }
    }
}

/// Where the name of a query's n-th column stands.
pub fn output(query: &ast::Query, n: usize) -> Option<TokenSpan> {
    let ast::SetExpr::Select(select) = query.body.as_ref() else { return None };
    let span = match select.projection.get(n)? {
        ast::SelectItem::ExprWithAlias { alias, .. } => alias.span,
        other => other.span(),
    };
    (span.start.line > 0).then_some(span)
}

/// Finds where `now` stands.
struct Now;

impl ast::Visitor for Now {
    type Break = TokenSpan;
    fn pre_visit_expr(&mut self, e: &ast::Expr) -> ControlFlow<TokenSpan> {
        match e {
            ast::Expr::Function(f)
                if ["now", "current_timestamp"].contains(&f.name.to_string().to_lowercase().as_str()) =>
            {
                ControlFlow::Break(f.name.span())
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

struct Smallest<F> {
    plans: F,
    nested: usize,
}

impl<F: Fn(&ast::Expr) -> Result<()>> ast::Visitor for Smallest<F> {
    type Break = (ast::Expr, DataFusionError);
    fn pre_visit_query(&mut self, _: &ast::Query) -> ControlFlow<Self::Break> {
        self.nested += 1;
        ControlFlow::Continue(())
    }
    fn post_visit_query(&mut self, _: &ast::Query) -> ControlFlow<Self::Break> {
        self.nested -= 1;
        ControlFlow::Continue(())
    }
    fn post_visit_expr(&mut self, e: &ast::Expr) -> ControlFlow<Self::Break> {
        match (self.plans)(e) {
            Err(error) if self.nested == 0 => ControlFlow::Break((e.clone(), error)),
            _ => ControlFlow::Continue(()),
        }
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
    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::new(Types))
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
    let text = written(expr);
    let context = SimplifyContext::builder().with_schema(Arc::new(schema.clone())).build();
    let simplifier = ExprSimplifier::new(context);
    let expr = simplifier.coerce(meant(expr.clone(), schema)?, schema)?;
    // Whatever a column's expression counts in, TIMESTAMP is microseconds: the log and the pages know no other unit.
    let expr = match expr.get_type(schema)? {
        DataType::Timestamp(_, _) => expr.cast_to(&timestamp(), schema)?,
        _ => expr,
    };
    let expr = simplifier.simplify(expr)?;
    let data_type = expr.get_type(schema)?;
    let expr = create_physical_expr(&expr, schema, &ExecutionProps::new(), &Default::default())?;
    let expr = checked(expr, schema.as_arrow())?;
    Ok(Compiled { text, identity: identity(&expr), expr, data_type })
}

/// The expression as SQL says it, for people: not as it was typed, and not in the form in which it is evaluated.
fn written(expr: &Expr) -> String {
    expr_to_sql(expr).map_or_else(|_| expr.human_display().to_string(), |sql| sql.to_string())
}

/// The expression as it is built. Its own text leaves out what it can: `a - b - c` may be either of two.
pub(super) fn identity(expr: &Arc<dyn PhysicalExpr>) -> String {
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
    let blamed = if error.diagnostic().is_none() { catalog.blame(query) } else { None };
    // The smallest expression's own error says more than that of the whole, if it is the same one.
    let same = |e: &&DataFusionError| unlisted(e).is_some() || plain(e) == plain(error);
    let said = blamed.as_ref().map(|(_, e)| e).filter(same).unwrap_or(error);
    let mut message = words(&plain(said));
    let mut help = None;
    if message.contains("duplicate unqualified field name") {
        help = Some("two columns have one name: give each its own with AS, and write each expression once".to_string());
    }
    if let Some(refused) = unlisted(said) {
        (message, help) = (refused.message.clone(), Some(refused.help.clone()));
    } else if let Some((name, of)) = blamed.as_ref().and_then(|(e, _)| catalog.aggregated(query, e)) {
        // DataFusion lists every signature that it has.
        message = format!("{name} over {} is not supported", sql_name(&of));
        help = Some(match name.as_str() {
            "bool_and" | "bool_or" => format!("compare it with something: {name}(x > 0)"),
            _ => "cast it to BIGINT, DOUBLE or DECIMAL".to_string(),
        });
    } else if let Some(value) = catalog.value_for_condition(query).filter(|_| message.contains("non-boolean predicate"))
    {
        message = format!("`{value}` is not a condition");
        help = Some("compare it with something".to_string());
        return vec![Diagnostic::new(message, place(file, value.span()), text, help)];
    }
    let mut span = blamed.as_ref().map(|(e, _)| place(file, e.span()));
    if let Some(d) = error.diagnostic() {
        message = words(&d.message);
        span = d.span.map(|s| location(file, s.start.line, s.start.column, s.end.line, s.end.column));
        help = help_of(d);
    }
    let span = span.filter(|s| s.line > 0).unwrap_or_else(|| place(file, query.span()));
    if let Some(quoted) = double_quoted(&message, &span, text) {
        help = Some(format!("a text stands in single quotes: '{quoted}'"));
    }
    vec![Diagnostic::new(message, span, text, help)]
}

/// The word in double quotes that was taken for a column and is none.
fn double_quoted(message: &str, span: &Span, text: &str) -> Option<String> {
    let line = text.lines().nth(usize::try_from(span.line).ok()?.checked_sub(1)?)?;
    let from = usize::try_from(span.column).ok()?.checked_sub(1)?;
    let word: String = line.chars().skip(from).collect();
    let word = word.strip_prefix('"')?.split('"').next()?.to_string();
    (message.contains("column") && message.contains("not found")).then_some(word)
}

fn help_of(d: &DfDiagnostic) -> Option<String> {
    let mut said: Vec<&str> = d.notes.iter().map(|n| n.message.as_str()).collect();
    said.extend(d.helps.iter().map(|h| h.message.as_str()));
    (!said.is_empty()).then(|| words(&said.join("; ")))
}

/// The message without DataFusion's wrapping.
fn plain(error: &DataFusionError) -> String {
    let text = error.strip_backtrace();
    check::plain(text.rsplit("\ncaused by\n").next().unwrap_or(&text))
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
    fn what_is_built_tells_expressions_apart_and_what_is_written_is_for_people() {
        let fields = ["a", "b", "c"].map(|n| Field::new(n, DataType::Int64, true)).to_vec();
        let schema = DFSchema::try_from(Schema::new(fields)).expect("distinct names");
        let context = SessionContext::new();
        let compiled = |sql: &str| {
            let expr = context.parse_sql_expr(sql, &schema).expect(sql);
            compile(&expr, &schema).expect(sql)
        };
        let (flat, nested) = (compiled("a - b - c"), compiled("a - (b - c)"));
        assert_eq!((flat.text.as_str(), nested.text.as_str()), ("((a - b) - c)", "(a - (b - c))"));
        // Neither the types that were coerced nor the places of columns.
        assert_eq!(compiled("lpad(CAST(a AS TEXT), b, '-')").text, "lpad(CAST(a AS VARCHAR), b, '-')");
        assert_ne!(flat.identity, nested.identity);
        assert_eq!(flat.identity, compiled("(a - b) - c").identity);
        assert_ne!(compiled("coalesce('NULL', 'x')").identity, compiled("coalesce(NULL, 'x')").identity);
        assert_ne!(compiled("CAST(a AS DOUBLE)").identity, compiled("CAST(a AS TEXT)").identity);
    }
}
