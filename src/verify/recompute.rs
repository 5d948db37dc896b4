//! The batch recomputation: a view's own SQL over the logged events at one instant, by DataFusion.
//!
//! The query is planned once and taken apart. At an instant `now()` becomes a constant; the sources become what a
//! query sees of them then; DataFusion joins them and applies WHERE; the expressions below the aggregation are
//! evaluated, leaving out the rows on which one fails; DataFusion groups; the SELECT is evaluated per group.
//!
//! Invariants: it shares no code with `plan`, `fold` and `dataflow`, whose answers it is there to check, nor any
//! state between instants. Neighbours: `oracle_plan` takes apart, `oracle_rows` and `oracle_functions` compute.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Float64Array, Int8Array, RecordBatch, RecordBatchOptions};
use arrow::compute::{and, concat_batches, filter, filter_record_batch};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::MemTable;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, DataFusionError, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::execution::context::SessionState;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::expr::{AggregateFunction, NullTreatment, Sort};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{AggregateUDF, BinaryExpr, Expr, LogicalPlan, LogicalPlanBuilder, Operator, lit};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::expressions::BinaryExpr as Calculation;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::physical_plan::collect;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use thiserror::Error;

use super::oracle_decay::{Decayed, terms};
use super::oracle_functions::{DoubleExtreme, Exact};
use super::oracle_join::joins_doubles;
use super::oracle_lists::{LIST, Listed, limits_as_arguments};
use super::oracle_meaning::{Micros, read};
use super::oracle_plan::{Call, Shape, ignored_clause, take_apart};
use super::oracle_rows::{
    OrderColumn, Versions, all_but, evaluate, is_about_values, one_zero_one_nan, query_schema, ranks, truth, visible,
};
use super::oracle_scalars::{ArraySum, Now};
use super::oracle_statistics::Statistic;
use super::oracle_values::OfValues;
use crate::definition::{Definitions, View, bounded, parse_query};

/// Why a view cannot be recomputed.
#[derive(Debug, Error)]
pub enum RecomputeError {
    /// The oracle cannot judge this query; another way of writing it may do.
    #[error("view `{view}` cannot be recomputed: {what} is not supported there")]
    Unsupported {
        /// The view.
        view: String,
        /// The clause.
        what: String,
    },
    /// The batch engine refused the query or failed on it as a whole.
    #[error("view `{view}` could not be recomputed")]
    Failed {
        /// The view.
        view: String,
        /// What it said.
        source: Box<DataFusionError>,
    },
    /// No runtime to run the batch engine on.
    #[error("no runtime for the batch engine")]
    Runtime(#[from] std::io::Error),
}

/// The view's query as a batch query at one instant.
#[derive(Debug)]
pub struct Recompute {
    view: String,
    shape: Shape,
    sources: Vec<String>,
    state: SessionState,
}

pub(super) type Fallible<T> = Result<T, DataFusionError>;

impl Recompute {
    /// Plans the view's query. The definitions are those it reads from.
    ///
    /// # Errors
    /// [`RecomputeError::Unsupported`] if the oracle cannot judge the query, [`RecomputeError::Failed`] if it is wrong.
    pub fn new(definitions: &Definitions, view: &View) -> Result<Recompute, RecomputeError> {
        let unsupported = |what| RecomputeError::Unsupported { view: view.name.clone(), what };
        let failed = |source| RecomputeError::Failed { view: view.name.clone(), source: Box::new(source) };
        if let Some(clause) = ignored_clause(&view.query) {
            return Err(unsupported(clause));
        }
        let state = session(definitions).map_err(failed)?;
        let planned = |query: Box<ast::Query>| {
            let statement = Statement::Statement(Box::new(ast::Statement::Query(query)));
            // Planning only resolves names in memory, so any executor will do.
            futures::executor::block_on(state.statement_to_plan(statement))
        };
        // The text as it was written. DataFusion cannot plan it where two aggregates have one name: then they are told
        // apart, as they are for the engine.
        let written = parse_query(&view.text).map_err(|e| failed(DataFusionError::SQL(Box::new(e), None)))?;
        let plan = planned(limits_as_arguments(written)).or_else(|_| planned(view.query.clone())).map_err(failed)?;
        let plan = read(plan).map_err(failed)?;
        let options = state.config_options();
        let plan = state.analyzer().execute_and_check(plan, options, |_, _| {}).map_err(failed)?;
        let shape = take_apart(plan, definitions, view.resolution).map_err(unsupported)?;
        let mut sources: Vec<String> = vec![];
        for (_, source) in &shape.scans {
            if !sources.contains(&source.name) {
                sources.push(source.name.clone());
            }
        }
        Ok(Recompute { view: view.name.clone(), shape, sources, state })
    }

    /// Names of the sources it reads.
    pub fn sources(&self) -> &[String] {
        &self.sources
    }

    /// The answer at `now` (µs since 1970-01-01 UTC) for every group that has rows then.
    ///
    /// `events`: for each source by name the logged rows, in any order, in [`Source::row_schema`]; a source without an
    /// entry has none. Returns one batch, in no particular order: the `GROUP BY` values as `__group_0`, `__group_1`, …,
    /// then the SELECT list under its output names. A SELECT expression that fails on a group is null there.
    ///
    /// Blocks. It brings its own runtime, so async code calls it through `spawn_blocking`.
    ///
    /// # Errors
    /// [`RecomputeError::Failed`] if the batch engine does, or the rows do not fit the definitions.
    ///
    /// [`Source::row_schema`]: crate::definition::Source::row_schema
    pub fn at(&self, events: &HashMap<String, Vec<RecordBatch>>, now: i64) -> Result<RecordBatch, RecomputeError> {
        self.answer(self.shape.clone(), events, now)
    }

    /// Does HAVING keep groups out that have rows?
    pub fn withholds(&self) -> bool {
        !self.shape.having.is_empty()
    }

    /// As [`Recompute::at`], for every group that WHERE admits a row of, whatever HAVING says.
    ///
    /// # Errors
    /// As of [`Recompute::at`].
    pub fn at_without_having(
        &self,
        events: &HashMap<String, Vec<RecordBatch>>,
        now: i64,
    ) -> Result<RecordBatch, RecomputeError> {
        self.answer(Shape { having: vec![], ..self.shape.clone() }, events, now)
    }

    fn answer(
        &self,
        shape: Shape,
        events: &HashMap<String, Vec<RecordBatch>>,
        now: i64,
    ) -> Result<RecordBatch, RecomputeError> {
        self.block_on(async |recompute| {
            let tables = recompute.tables(events, now, &HashMap::new())?;
            let shape = shape.at(now)?;
            let run = Run { shape, state: at_instant(&recompute.state, now)?, further: vec![] };
            let (schema, rows) = run.rows(&tables).await?; // Step 1. Join, WHERE.
            let inputs = run.inputs(&schema, rows)?; // Step 2. What is grouped, without failing rows.
            let groups = run.aggregate(inputs).await?; // Step 3. Group.
            run.select(&groups) // Step 4. HAVING, SELECT.
        })
    }

    /// What the query sees of each source at `now`; of a table that `versions` names, what it says.
    pub(super) fn tables(
        &self,
        events: &HashMap<String, Vec<RecordBatch>>,
        now: i64,
        versions: &HashMap<String, Versions>,
    ) -> Fallible<HashMap<String, RecordBatch>> {
        let mut tables = HashMap::new();
        for (_, source) in &self.shape.scans {
            let rows = events.get(&source.name).map_or(&[][..], Vec::as_slice);
            let versions = versions.get(&source.name).copied().unwrap_or(Versions::Current);
            tables.insert(source.name.clone(), visible(source, rows, now, versions)?);
        }
        Ok(tables)
    }

    /// Runs something on the batch engine.
    pub(super) fn block_on<T>(&self, work: impl AsyncFnOnce(&Recompute) -> Fallible<T>) -> Result<T, RecomputeError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let outcome = runtime.block_on(work(self));
        outcome.map_err(|source| RecomputeError::Failed { view: self.view.clone(), source: Box::new(source) })
    }

    /// The query, taken apart.
    pub(super) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The session that it was planned in.
    pub(super) fn state(&self) -> &SessionState {
        &self.state
    }
}

/// DataFusion with the oracle's functions and empty tables for the names.
fn session(definitions: &Definitions) -> Fallible<SessionState> {
    let config = SessionConfig::new()
        .with_target_partitions(1)
        .set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false);
    let context = SessionContext::new_with_config(config);
    let own = Exact::all().into_iter().chain(Statistic::all()).chain(OfValues::all());
    own.chain(Decayed::all()).for_each(|function| context.register_udaf(function));
    context.register_udaf(AggregateUDF::from(Listed::new(false, true)));
    // Their values are DataFusion's own; without the bounds, a row that the engine refuses would end this process.
    bounded::register(&context);
    context.register_udf(Now::function());
    context.register_udf(ArraySum::function());
    // It would put a sum into two stacked aggregations, and so round it twice.
    context.remove_optimizer_rule("single_distinct_aggregation_to_group_by");
    for source in definitions.sources.values() {
        let empty = MemTable::try_new(query_schema(source), vec![vec![]])?;
        context.register_table(TableReference::bare(source.name.as_str()), Arc::new(empty))?;
    }
    Ok(SessionStateBuilder::new_from_existing(context.state()).with_type_planner(Arc::new(Micros)).build())
}

/// The same session for an instant: `current_date` and the like ask the session, not [`Now`].
pub(super) fn at_instant(state: &SessionState, now: i64) -> Fallible<SessionState> {
    let Some(time) = chrono::DateTime::from_timestamp_micros(now) else {
        return Err(DataFusionError::Plan(format!("{now} is not an instant of the calendar")));
    };
    let mut props = ExecutionProps::new().with_query_execution_start_time(time);
    props.config_options = Some(Arc::clone(state.config_options()));
    Ok(SessionStateBuilder::new_from_existing(state.clone()).with_execution_props(props).build())
}

/// One instant's work.
pub(super) struct Run {
    pub(super) shape: Shape,
    pub(super) state: SessionState,
    /// What is evaluated on each row beside what the aggregation reads.
    pub(super) further: Vec<Expr>,
}

/// Everything the aggregation reads, evaluated, one array per distinct expression; of the rows that count.
pub(super) struct Inputs {
    pub(super) rows: usize,
    pub(super) values: HashMap<Expr, ArrayRef>,
    /// False: the rows only name groups, and no aggregate counts them.
    pub(super) counted: bool,
}

impl Run {
    /// The joined rows that WHERE admits, with the columns that the rest of the query reads.
    pub(super) async fn rows(&self, tables: &HashMap<String, RecordBatch>) -> Fallible<(DFSchema, RecordBatch)> {
        let needed = columns_of(&self.input_expressions());
        let native = project(self.shape.input.clone(), conjunction(self.shape.filter.clone()), &needed)?;
        // DataFusion's own plan would let sums and products wrap around, and tells −0 from 0.
        let on_calculates = self.shape.input.exists(|node| Ok(node.expressions().iter().any(calculates)))?;
        let differs = on_calculates || joins_doubles(&self.shape.input) || self.shape.filter.iter().any(calculates);
        if !differs {
            match self.collect(&native, tables).await {
                Err(error) if is_about_values(&error) => {}
                other => return other,
            }
        }
        // An expression failed on some row, or may: join and judge row by row.
        let (schema, mut rows) = self.join(&self.shape.input, tables).await?;
        for condition in &self.shape.filter {
            let (holds, _) = evaluate(self.compile(condition, &schema)?.as_ref(), &rows)?;
            rows = filter_record_batch(&rows, &truth(&holds))?;
        }
        Ok((schema, rows))
    }

    /// Every expression below the aggregation, and the columns of the canonical order.
    pub(super) fn input_expressions(&self) -> Vec<Expr> {
        let mut found = self.shape.groups.clone();
        for Call { function, filter } in &self.shape.aggregates {
            found.extend(function.params.args.iter().filter(|e| !is_literal(e)).cloned());
            found.extend(function.params.order_by.iter().map(|sort| sort.expr.clone()));
            found.extend(filter.iter().cloned());
        }
        found.extend(self.shape.position.iter().flatten().chain(&self.further).cloned());
        found
    }

    /// Evaluates the expressions below the aggregation. A row on which any of them fails is left out.
    pub(super) fn inputs(&self, schema: &DFSchema, rows: RecordBatch) -> Fallible<Inputs> {
        let mut values = HashMap::new();
        let mut failed = vec![];
        for expr in self.input_expressions() {
            if let Entry::Vacant(place) = values.entry(expr) {
                let (value, fails) = evaluate(self.compile(place.key(), schema)?.as_ref(), &rows)?;
                failed.extend(fails);
                place.insert(value);
            }
        }
        failed.sort_unstable();
        failed.dedup();
        if !failed.is_empty() {
            let kept = all_but(&failed, rows.num_rows());
            let without = |(expr, value): (Expr, ArrayRef)| Ok((expr, filter(&value, &kept)?));
            values = values.into_iter().map(without).collect::<Fallible<_>>()?;
        }
        Ok(Inputs { rows: rows.num_rows() - failed.len(), values, counted: true })
    }

    /// Groups, by DataFusion. Returns the columns of the query's Aggregate.
    pub(super) async fn aggregate(&self, inputs: Inputs) -> Fallible<RecordBatch> {
        let mut table = Table::default();
        let mut groups: Vec<Expr> = vec![];
        for expr in &self.shape.groups {
            groups.push(table.add(one_zero_one_nan(&inputs.values[expr])));
        }
        if groups.is_empty() {
            // One group of all rows, and none of no rows.
            groups.push(table.add(Arc::new(Int8Array::from(vec![0; inputs.rows]))));
        }
        let invented = groups.len() - self.shape.groups.len();
        let calls = self.shape.aggregates.iter().map(|call| self.rewrite(call, &inputs, &mut table));
        let calls = calls.collect::<Fallible<Vec<_>>>()?;
        let batch = table.into_batch()?;
        let provider = MemTable::try_new(batch.schema(), vec![vec![batch]])?;
        let scan = LogicalPlanBuilder::scan("inputs", provider_as_source(Arc::new(provider)), None)?;
        let plan = scan.aggregate(groups, calls)?.build()?;
        let (_, grouped) = self.collect_bound(&plan).await?;
        let columns = grouped.columns()[invented..].to_vec();
        let schema = Arc::new(self.shape.schema.as_arrow().clone());
        let options = RecordBatchOptions::new().with_row_count(Some(grouped.num_rows()));
        Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
    }

    /// The aggregate over columns of `table`: FILTER as a column, ORDER BY as each row's place in the canonical order.
    fn rewrite(&self, call: &Call, inputs: &Inputs, table: &mut Table) -> Fallible<Expr> {
        let AggregateFunction { func, params } = &call.function;
        let name = func.name();
        let first = params.args.first().and_then(|e| inputs.values.get(e));
        let is_double = first.is_some_and(|values| values.data_type() == &DataType::Float64);
        let func: Arc<AggregateUDF> = match name {
            "min" | "max" if is_double => Arc::new(AggregateUDF::from(DoubleExtreme::new(name == "max"))),
            LIST => {
                let nulls = params.null_treatment != Some(NullTreatment::IgnoreNulls);
                Arc::new(AggregateUDF::from(Listed::new(params.distinct, nulls)))
            }
            _ => Arc::clone(func),
        };
        let mut args = vec![];
        for expr in &params.args {
            args.push(match inputs.values.get(expr) {
                Some(values) if params.distinct => table.add(one_zero_one_nan(values)),
                Some(values) => table.add(Arc::clone(values)),
                None => expr.clone(),
            });
        }
        let mut order_by = vec![];
        match (name, first) {
            ("first_value" | "last_value", Some(values)) => {
                order_by.push(Sort::new(table.add(self.order(&params.order_by, inputs, values)?), true, false));
            }
            (LIST, Some(values)) => args.push(table.add(self.order(&params.order_by, inputs, values)?)),
            _ => {}
        }
        let decays = matches!(name, "decayed_sum" | "decayed_count");
        let mut kept = (!inputs.counted).then(|| BooleanArray::from(vec![false; inputs.rows]));
        for condition in call.filter.iter().filter(|_| inputs.counted) {
            let holds = truth(&inputs.values[condition]);
            kept = Some(kept.map_or(Ok(holds.clone()), |kept| and(&kept, &holds))?);
        }
        let mut func = func;
        if decays {
            let (terms, lives) = self.decayed(&params.args, inputs)?;
            args = vec![table.add(Arc::new(terms))];
            func = Arc::new(Exact::sum_of_terms(name == "decayed_count"));
            kept = Some(kept.map_or(Ok(lives.clone()), |kept| and(&kept, &lives))?);
        }
        let kept = kept.map(|kept| Box::new(table.add(Arc::new(kept))));
        let distinct = params.distinct && !matches!(name, "min" | "max" | "bool_and" | "bool_or" | LIST);
        let nulls = params.null_treatment.filter(|_| name != LIST);
        let call = AggregateFunction::new_udf(func, args, distinct, kept, order_by, nulls);
        Ok(Expr::AggregateFunction(call))
    }

    /// The terms of a decayed sum or count, whose last argument is the half-life.
    fn decayed(&self, args: &[Expr], inputs: &Inputs) -> Fallible<(Float64Array, BooleanArray)> {
        let (Some([time, ..]), Some(half_life)) = (&self.shape.position, args.last()) else {
            return Err(DataFusionError::NotImplemented("a decayed aggregate over a subquery".to_string()));
        };
        let Some(now) = self.state.execution_props().query_execution_start_time else {
            return Err(DataFusionError::Internal("an answer is about an instant".to_string()));
        };
        let values = args.first().and_then(|e| inputs.values.get(e));
        terms(values, &inputs.values[time], half_life, now.timestamp_micros())
    }

    /// Each row's place: by ORDER BY (by event time if there is none), event time, partition, offset, the value.
    fn order(&self, order_by: &[Sort], inputs: &Inputs, value: &ArrayRef) -> Fallible<ArrayRef> {
        let Some(position) = &self.shape.position else {
            return Err(DataFusionError::NotImplemented("an ordered aggregate over a subquery".to_string()));
        };
        let column = |sort: &Sort| OrderColumn {
            values: Arc::clone(&inputs.values[&sort.expr]),
            options: arrow::compute::SortOptions { descending: !sort.asc, nulls_first: sort.nulls_first },
        };
        let order: Vec<_> = order_by.iter().map(column).collect();
        let tail: Vec<_> = position.iter().map(|e| Arc::clone(&inputs.values[e])).collect();
        Ok(Arc::new(ranks(&order, &tail, value)?))
    }

    /// HAVING and the SELECT list over the groups.
    pub(super) fn select(&self, groups: &RecordBatch) -> Fallible<RecordBatch> {
        let schema = self.shape.schema.as_ref();
        let mut groups = groups.clone();
        for condition in &self.shape.having {
            let (holds, _) = evaluate(self.compile(condition, schema)?.as_ref(), &groups)?;
            groups = filter_record_batch(&groups, &truth(&holds))?;
        }
        let keys = groups.columns()[..self.shape.groups.len()].iter().cloned();
        let mut columns: Vec<_> = keys.enumerate().map(|(i, values)| (format!("__group_{i}"), values)).collect();
        for (name, expr) in &self.shape.select {
            let (values, _) = evaluate(self.compile(expr, schema)?.as_ref(), &groups)?;
            columns.push((name.clone(), values));
        }
        let field = |(name, values): &(String, ArrayRef)| Field::new(name, values.data_type().clone(), true);
        let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
        Ok(RecordBatch::try_new(schema, columns.into_iter().map(|(_, values)| values).collect())?)
    }

    pub(super) fn compile(&self, expr: &Expr, schema: &DFSchema) -> Fallible<Arc<dyn PhysicalExpr>> {
        let props = self.state.execution_props();
        let context = SimplifyContext::builder()
            .with_schema(Arc::new(schema.clone()))
            .with_query_execution_start_time(props.query_execution_start_time)
            .build();
        let expr = ExprSimplifier::new(context).simplify(expr.clone())?;
        let expr = create_physical_expr(&expr, schema, props, &Default::default())?;
        // Overflow is an error (rule 22), which DataFusion has to be told.
        let strict = expr.transform_up(|e| {
            let Some(b) = e.downcast_ref::<Calculation>() else { return Ok(Transformed::no(e)) };
            let strict = Calculation::new(Arc::clone(b.left()), *b.op(), Arc::clone(b.right()));
            Ok(Transformed::yes(Arc::new(strict.with_fail_on_overflow(true))))
        })?;
        Ok(strict.data)
    }

    /// Runs a plan over these tables.
    pub(super) async fn collect(
        &self,
        plan: &LogicalPlan,
        tables: &HashMap<String, RecordBatch>,
    ) -> Fallible<(DFSchema, RecordBatch)> {
        let bound = plan.clone().transform_up(|node| {
            let LogicalPlan::TableScan(mut scan) = node else { return Ok(Transformed::no(node)) };
            let rows = tables[scan.table_name.table()].clone();
            scan.source = provider_as_source(Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows]])?));
            Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
        })?;
        self.collect_bound(&bound.data).await
    }

    pub(super) async fn collect_bound(&self, plan: &LogicalPlan) -> Fallible<(DFSchema, RecordBatch)> {
        let physical = self.state.create_physical_plan(plan).await?;
        let schema = physical.schema();
        let batches = collect(physical, self.state.task_ctx()).await?;
        Ok((plan.schema().as_ref().clone(), concat_batches(&schema, &batches)?))
    }
}

/// The columns that expressions read, each once.
fn columns_of(exprs: &[Expr]) -> Vec<Expr> {
    let mut seen: HashSet<&Column> = HashSet::new();
    let mut found = vec![];
    for column in exprs.iter().flat_map(|e| {
        let mut columns: Vec<_> = e.column_refs().into_iter().collect();
        columns.sort_unstable();
        columns
    }) {
        if seen.insert(column) {
            found.push(Expr::Column(column.clone()));
        }
    }
    found
}

fn project(input: LogicalPlan, filter: Option<Expr>, columns: &[Expr]) -> Fallible<LogicalPlan> {
    let mut builder = LogicalPlanBuilder::from(input);
    if let Some(filter) = filter {
        builder = builder.filter(filter)?;
    }
    let mut seen = HashSet::new();
    let mut columns: Vec<Expr> = columns.iter().filter(|e| seen.insert(*e)).cloned().collect();
    if columns.is_empty() {
        columns.push(lit(1i64)); // so that the rows can be counted
    }
    builder.project(columns)?.build()
}

/// Has it a sum, a difference or a product of columns?
fn calculates(expr: &Expr) -> bool {
    use Operator::{Minus, Multiply, Plus};
    expr.exists(|e| {
        let arithmetic = matches!(e, Expr::BinaryExpr(BinaryExpr { op: Plus | Minus | Multiply, .. }));
        Ok(arithmetic && e.exists(|e| Ok(matches!(e, Expr::Column(_))))?)
    })
    .unwrap_or(true)
}

fn is_literal(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(_, _))
}

/// Columns under made-up names.
#[derive(Default)]
struct Table {
    fields: Vec<Field>,
    columns: Vec<ArrayRef>,
}

impl Table {
    /// Adds a column and returns the expression for it.
    fn add(&mut self, values: ArrayRef) -> Expr {
        let name = format!("c{}", self.columns.len());
        self.fields.push(Field::new(&name, values.data_type().clone(), true));
        self.columns.push(values);
        Expr::Column(Column::new(Some("inputs"), name))
    }

    fn into_batch(self) -> Fallible<RecordBatch> {
        Ok(RecordBatch::try_new(Arc::new(Schema::new(self.fields)), self.columns)?)
    }
}
