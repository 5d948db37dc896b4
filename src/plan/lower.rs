//! From DataFusion's logical plan to ours: joins, the fold, the final projection; what cannot be kept is refused by name.
//!
//! The plan as written gives the aggregates' inputs (the analyzer would cast `avg(bigint)`'s input to a double before we
//! see it); the analyzed plan gives the types of results and the projection above them.
//!
//! Invariants: equal expressions are one value, equal filters one bit. Neighbours: `bind` planned the query, `temporal`
//! reads the windows, `operator` is what comes out.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DataFusionError, JoinType, ScalarValue, TableReference};
use datafusion::logical_expr::expr::{AggregateFunction, NullTreatment};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator};
use sha2::{Digest, Sha256};

use super::bind::{Catalog, compile};
use super::operator::{
    Aggregate, Compiled, Feature, FoldPlan, Function, JoinPlan, Output, ValueType, ViewPlan, Window,
};
use super::temporal::{mentions_now, window_of};
use crate::definition::{Definitions, Source, View, timestamp};
use crate::fold::columns::value_type;

/// Why a query is not a feature view that can be kept.
#[derive(Debug, thiserror::Error)]
pub enum LowerError {
    /// It asks for what is not supported (yet); says what to write.
    #[error("{message}")]
    Refused {
        /// What.
        message: String,
        /// What to write instead.
        help: String,
    },
    /// DataFusion's own complaint.
    #[error(transparent)]
    Query(#[from] DataFusionError),
}

fn refuse<T>(message: impl Into<String>, help: impl Into<String>) -> Result<T, LowerError> {
    Err(LowerError::Refused { message: message.into(), help: help.into() })
}

/// Name of the column that stands for `now()` in output expressions.
pub const NOW: &str = "__now";

/// A stream or table in `FROM`, under the name that columns are qualified with.
struct Relation {
    qualifier: TableReference,
    source: Arc<Source>,
}

/// One join as written: its right relation, and its condition.
struct Step {
    relation: usize,
    left: bool,
    keys: Vec<(Expr, Expr)>,
    rest: Vec<Expr>,
}

/// Plans a view.
///
/// # Errors
/// [`LowerError`], without a place: the caller has the syntax tree.
pub fn lower(view: &View, definitions: &Definitions, catalog: &Catalog) -> Result<ViewPlan, LowerError> {
    let written = catalog.plan(&view.query)?;
    let analyzed = catalog.analyze(written.clone())?;
    let (projection, aggregate) = top(&written)?;
    let (final_projection, final_aggregate) = top(&analyzed)?;
    let mut lowering = Lowering::new(view, definitions);
    let conditions = lowering.inputs(&aggregate.input)?;
    lowering.find_stream()?;
    lowering.order_joins()?;
    lowering.collect_columns(aggregate, &conditions)?;
    lowering.finish(&conditions, aggregate, projection, final_aggregate, final_projection)
}

type AggregateNode = datafusion::logical_expr::Aggregate;

/// The projection and the aggregation that a feature query ends in.
fn top(plan: &LogicalPlan) -> Result<(&[Expr], &AggregateNode), LowerError> {
    let LogicalPlan::Projection(projection) = plan else {
        return match plan {
            LogicalPlan::Sort(_) => {
                refuse("ORDER BY of the whole query is not supported", "leave it out: a view has no order")
            }
            LogicalPlan::Limit(_) => refuse("LIMIT is not supported", "leave it out"),
            LogicalPlan::Distinct(_) => refuse("SELECT DISTINCT is not supported yet", "GROUP BY the columns"),
            LogicalPlan::Union(_) => refuse("UNION is not supported yet", "define one view for each stream"),
            other => refuse(format!("{} is not supported yet", name_of(other)), SHAPE),
        };
    };
    match projection.input.as_ref() {
        LogicalPlan::Aggregate(aggregate) => Ok((&projection.expr, aggregate)),
        LogicalPlan::Filter(f) if matches!(*f.input, LogicalPlan::Aggregate(_)) => {
            refuse("HAVING is not supported yet", "leave it out, or use FILTER in the aggregates")
        }
        LogicalPlan::Window(_) => {
            refuse("window functions (OVER) are not supported", "use FILTER with now() in an aggregate")
        }
        LogicalPlan::Join(_) => refuse("a join after the grouping is not supported yet", SHAPE),
        _ => refuse("a view without GROUP BY is not supported yet", "GROUP BY the columns that name the entity"),
    }
}

const SHAPE: &str = "write SELECT …, aggregate(…) FROM stream [JOIN table ON …] [WHERE …] GROUP BY …";

fn name_of(plan: &LogicalPlan) -> String {
    let text = plan.display().to_string();
    text.split([':', ' ']).next().unwrap_or("this clause").to_string()
}

struct Lowering<'a> {
    view: &'a View,
    definitions: &'a Definitions,
    relations: Vec<Relation>,
    steps: Vec<Step>,
    stream: usize,
    /// Columns that the row has: (relation, index in its row schema), relations in the order of the joins.
    columns: Vec<(usize, usize)>,
}

impl<'a> Lowering<'a> {
    fn new(view: &'a View, definitions: &'a Definitions) -> Self {
        Lowering { view, definitions, relations: vec![], steps: vec![], stream: 0, columns: vec![] }
    }

    /// Takes `FROM` and `WHERE` apart; returns the conditions on rows.
    fn inputs(&mut self, plan: &LogicalPlan) -> Result<Vec<Expr>, LowerError> {
        match plan {
            LogicalPlan::Filter(filter) => {
                let mut conditions: Vec<Expr> = split_conjunction(&filter.predicate).into_iter().cloned().collect();
                conditions.extend(self.inputs(&filter.input)?);
                Ok(conditions)
            }
            other => {
                self.relation_tree(other)?;
                // An inner join's other conditions are conditions on its result.
                Ok(self.steps.iter_mut().filter(|s| !s.left).flat_map(|s| std::mem::take(&mut s.rest)).collect())
            }
        }
    }

    fn relation_tree(&mut self, plan: &LogicalPlan) -> Result<(), LowerError> {
        match plan {
            LogicalPlan::TableScan(scan) => self.add_relation(scan.table_name.clone(), scan.table_name.table()),
            LogicalPlan::SubqueryAlias(alias) => match alias.input.as_ref() {
                LogicalPlan::TableScan(scan) => self.add_relation(alias.alias.clone(), scan.table_name.table()),
                _ => refuse("a subquery in FROM is not supported yet", "name streams and tables directly"),
            },
            LogicalPlan::Join(join) => {
                let (first, second, left) = match join.join_type {
                    JoinType::Inner => (&join.left, &join.right, false),
                    JoinType::Left => (&join.left, &join.right, true),
                    JoinType::Right => (&join.right, &join.left, true),
                    JoinType::Full => return refuse("FULL JOIN is not supported yet", "use JOIN or LEFT JOIN"),
                    other => return refuse(format!("{other} join is not supported"), "use JOIN or LEFT JOIN"),
                };
                self.relation_tree(first)?;
                let before = self.relations.len();
                self.relation_tree(second)?;
                if self.relations.len() != before + 1 {
                    return refuse("a join in parentheses is not supported yet", "join one table after another");
                }
                let mut conditions: Vec<Expr> = join.on.iter().map(|(l, r)| l.clone().eq(r.clone())).collect();
                if let Some(filter) = &join.filter {
                    conditions.extend(split_conjunction(filter).into_iter().cloned());
                }
                self.add_step(before, left, conditions)
            }
            LogicalPlan::Projection(_) | LogicalPlan::Aggregate(_) => {
                refuse("a subquery in FROM is not supported yet", "name streams and tables directly")
            }
            other => refuse(format!("{} in FROM is not supported yet", name_of(other)), SHAPE),
        }
    }

    fn add_relation(&mut self, qualifier: TableReference, name: &str) -> Result<(), LowerError> {
        let Some(source) = self.definitions.sources.get(name) else {
            return refuse(format!("no stream or table is called `{name}`"), "define it, or mend the name");
        };
        self.relations.push(Relation { qualifier, source: Arc::clone(source) });
        Ok(())
    }

    fn add_step(&mut self, relation: usize, left: bool, conditions: Vec<Expr>) -> Result<(), LowerError> {
        let (mut keys, mut rest) = (vec![], vec![]);
        for condition in conditions {
            let pair = match &condition {
                Expr::BinaryExpr(BinaryExpr { left: l, op: Operator::Eq, right: r }) => {
                    match (self.only(l, relation), self.only(r, relation)) {
                        (Some(true), Some(false)) => Some((r.as_ref().clone(), l.as_ref().clone())),
                        (Some(false), Some(true)) => Some((l.as_ref().clone(), r.as_ref().clone())),
                        _ => None,
                    }
                }
                _ => None,
            };
            match pair {
                Some(pair) => keys.push(pair),
                None => rest.push(condition),
            }
        }
        if keys.is_empty() {
            return refuse("a join needs an equality", "write JOIN table ON stream.a = table.b");
        }
        if left && rest.iter().any(|c| self.only(c, relation) != Some(true)) {
            let help =
                "keep equalities, and conditions on the joined table alone, in ON; put others into WHERE or FILTER";
            return refuse("this condition of a LEFT JOIN is not supported yet", help);
        }
        self.steps.push(Step { relation, left, keys, rest });
        Ok(())
    }

    /// Does the expression read only this relation (`Some(true)`), only others (`Some(false)`), or both or none?
    fn only(&self, expr: &Expr, relation: usize) -> Option<bool> {
        let mut sides = expr.column_refs().into_iter().map(|c| self.relation_of(c) == Some(relation));
        let first = sides.next()?;
        sides.all(|s| s == first).then_some(first)
    }

    fn relation_of(&self, column: &Column) -> Option<usize> {
        let has = |r: &Relation| r.source.row_schema().index_of(&column.name).is_ok();
        match &column.relation {
            Some(q) => self.relations.iter().position(|r| r.qualifier == *q),
            None => self.relations.iter().position(has),
        }
    }

    fn find_stream(&mut self) -> Result<(), LowerError> {
        let streams: Vec<usize> = (0..self.relations.len()).filter(|r| !self.relations[*r].source.is_table()).collect();
        match streams[..] {
            [one] => {
                self.stream = one;
                Ok(())
            }
            [] => refuse("a view over tables alone is not supported yet", "start FROM a stream"),
            _ => refuse("a view over several streams is not supported yet", "define one view for each stream"),
        }
    }

    /// Inner joins may be written with the stream on either side; ours start at the stream.
    fn order_joins(&mut self) -> Result<(), LowerError> {
        if self.stream == 0 {
            return Ok(());
        }
        if self.steps.iter().any(|s| s.left) {
            return refuse("the stream must be what a LEFT JOIN keeps", "write FROM stream LEFT JOIN table ON …");
        }
        if self.steps.len() > 1 {
            return refuse(
                "several joins must start at the stream",
                "write FROM stream JOIN table ON … JOIN table ON …",
            );
        }
        let step = &mut self.steps[0];
        step.relation = 0;
        for pair in &mut step.keys {
            std::mem::swap(&mut pair.0, &mut pair.1);
        }
        Ok(())
    }

    /// The columns that anything above the sources reads.
    fn collect_columns(&mut self, aggregate: &AggregateNode, conditions: &[Expr]) -> Result<(), LowerError> {
        let mut used: Vec<Column> = vec![];
        let exprs = conditions.iter().chain(&aggregate.group_expr).chain(&aggregate.aggr_expr);
        for expr in exprs.chain(self.steps.iter().flat_map(|s| s.keys.iter().map(|(row, _)| row))) {
            expr.apply(|e| {
                if let Expr::Column(c) = e {
                    used.push(c.clone());
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        let mut wanted: Vec<(usize, usize)> = vec![];
        for column in used {
            let Some(r) = self.relation_of(&column) else {
                return refuse(format!("column `{}` was not found", column.flat_name()), "qualify it with its table");
            };
            wanted.push((
                r,
                self.relations[r].source.row_schema().index_of(&column.name).map_err(DataFusionError::from)?,
            ));
        }
        let schema = self.relations[self.stream].source.row_schema();
        for system in ["_event_time", "_partition", "_offset"] {
            wanted.push((self.stream, schema.index_of(system).map_err(DataFusionError::from)?));
        }
        let order: Vec<usize> = std::iter::once(self.stream).chain(self.steps.iter().map(|s| s.relation)).collect();
        wanted.sort_by_key(|(r, c)| (order.iter().position(|o| o == r), *c));
        wanted.dedup();
        self.columns = wanted;
        Ok(())
    }

    fn row_schema(&self) -> Result<DFSchema, LowerError> {
        let left = |r: usize| self.steps.iter().any(|s| s.relation == r && s.left);
        let fields = self.columns.iter().map(|&(r, c)| {
            let relation = &self.relations[r];
            let field = relation.source.row_schema().field(c).clone();
            let nullable = field.is_nullable() || left(r);
            (Some(relation.qualifier.clone()), Arc::new(field.with_nullable(nullable)))
        });
        Ok(DFSchema::new_with_metadata(fields.collect(), Default::default())?)
    }

    fn is_event_time(&self, expr: &Expr) -> bool {
        let stream = &self.relations[self.stream];
        let Expr::Column(column) = expr else { return false };
        if self.relation_of(column) != Some(self.stream) {
            return false;
        }
        column.name == "_event_time"
            || self.event_time_column().is_some_and(|name| {
                name == column.name
                    && stream.source.columns.iter().any(|c| c.name == name && c.data_type == timestamp())
            })
    }

    /// The declared column that is the event time, if `EVENT TIME` is just a column.
    fn event_time_column(&self) -> Option<String> {
        use datafusion::sql::sqlparser::ast;
        match &self.relations[self.stream].source.event_time {
            Some(ast::Expr::Identifier(i)) if i.quote_style.is_some() => Some(i.value.clone()),
            Some(ast::Expr::Identifier(i)) => Some(i.value.to_lowercase()),
            _ => None,
        }
    }

    /// Splits conditions into the window they say and the rest.
    fn split(&self, conditions: &[Expr]) -> Result<(Window, Vec<Expr>), LowerError> {
        let (mut window, mut rest) = (Window::ALL, vec![]);
        for condition in conditions {
            if !mentions_now(condition) {
                rest.push(condition.clone());
                continue;
            }
            match window_of(condition, &|e| self.is_event_time(e)) {
                Ok(w) => window = window.and(w),
                Err(message) => return refuse(message, "for instance: ts > now() - INTERVAL '1 hour'"),
            }
        }
        if window.until.is_none() && window.from > 0 {
            let help = "add a lower bound: AND ts > now() - INTERVAL '…'";
            return refuse("a window that ends before now() needs a lower bound as well", help);
        }
        Ok((window, rest))
    }

    fn finish(
        &self,
        conditions: &[Expr],
        aggregate: &AggregateNode,
        _projection: &[Expr],
        final_aggregate: &AggregateNode,
        final_projection: &[Expr],
    ) -> Result<ViewPlan, LowerError> {
        let row = self.row_schema()?;
        let (admit, rest) = self.split(conditions)?;
        let mut inputs = Inputs { row: &row, values: vec![], filters: vec![], orders: vec![] };
        let mut groups = vec![];
        for (n, expr) in aggregate.group_expr.iter().enumerate() {
            if mentions_now(expr) {
                return refuse("now() may not stand in GROUP BY", "compare it with the event time in WHERE or FILTER");
            }
            let name = final_aggregate.schema.field(n).name().clone();
            groups.push((name, inputs.compile(expr)?));
        }
        if groups.is_empty() {
            return refuse("a view without GROUP BY is not supported yet", "GROUP BY the columns that name the entity");
        }
        let mut aggregates = vec![];
        for expr in &aggregate.aggr_expr {
            aggregates.push(self.aggregate(expr, admit, &mut inputs)?);
        }
        for (n, a) in aggregates.iter().enumerate() {
            let typed = final_aggregate.schema.field(groups.len() + n);
            if *typed.data_type() != a.result {
                let message = format!("`{}` has the type {}", typed.name(), typed.data_type());
                return refuse(message, format!("cast its argument so that the result is {}", a.result));
            }
        }
        let admit_rest = conjunction(rest).map(|e| inputs.condition(&e)).transpose()?;
        let mut values = inputs.values;
        let mut value_kinds: Vec<ValueType> = values.iter().map(|v| value_type(&v.data_type)).collect();
        let mut value_types: Vec<DataType> = values.iter().map(|v| v.data_type.clone()).collect();
        // Orders come after the values that aggregates read.
        for a in &mut aggregates {
            a.order = a.order.map(|o| values.len() + o);
        }
        for _ in &inputs.orders {
            value_kinds.push(ValueType::Bytes);
            value_types.push(DataType::Binary);
        }
        if value_kinds.len() + inputs.filters.len() > 64 {
            let message = "a view has at most 64 distinct aggregated expressions and filters together";
            return refuse(message, "split it into two views");
        }
        let fold = FoldPlan {
            group_types: groups.iter().map(|(_, c)| c.data_type.clone()).collect(),
            values: value_kinds,
            value_types,
            filters: inputs.filters.len(),
            admit,
            aggregates,
            resolution: self.view.resolution,
            retracts: !self.steps.is_empty(),
        };
        let joins = self.joins(&row)?;
        let (entity, features) = self.outputs(&groups, final_aggregate, final_projection)?;
        values.shrink_to_fit();
        let stream = &self.relations[self.stream].source;
        let fields: Fields = row.fields().iter().map(|f| f.as_ref().clone()).collect::<Vec<_>>().into();
        let mut plan = ViewPlan {
            name: self.view.name.clone(),
            stream: Arc::clone(stream),
            stream_columns: self.columns.iter().filter(|(r, _)| *r == self.stream).map(|(_, c)| *c).collect(),
            joins,
            row: Arc::new(Schema::new(fields)),
            admit: admit_rest,
            groups,
            values,
            filters: inputs.filters,
            orders: inputs.orders,
            fold: Arc::new(fold),
            entity,
            features,
            freshness: self.view.freshness,
            fingerprint: String::new(),
        };
        plan.fingerprint = fingerprint(&plan);
        Ok(plan)
    }

    fn aggregate(&self, expr: &Expr, admit: Window, inputs: &mut Inputs<'_>) -> Result<Aggregate, LowerError> {
        let inner = expr.clone().unalias_nested().data;
        let Expr::AggregateFunction(AggregateFunction { func, params }) = &inner else {
            return refuse(format!("`{expr}` is not supported"), "use an aggregate function");
        };
        let function = function_of(func.name(), params.distinct)?;
        if params.args.len() != 1 {
            return refuse(format!("{} takes one argument", func.name()), "wrap several in struct(…)");
        }
        let argument = params.args[0].clone().unalias_nested().data;
        if mentions_now(&argument) {
            return refuse(
                "now() may not stand in an aggregate's argument",
                "compare it with the event time in FILTER",
            );
        }
        let everything = function == Function::Count && matches!(&argument, Expr::Literal(v, _) if !v.is_null());
        let value = if everything { None } else { Some(inputs.value(&argument)?) };
        let filter: Vec<Expr> =
            params.filter.as_ref().map_or_else(Vec::new, |f| split_conjunction(f).into_iter().cloned().collect());
        let (window, rest) = self.split(&filter)?;
        let filter = conjunction(rest).map(|e| inputs.filter(&e)).transpose()?;
        let mut order = None;
        if matches!(function, Function::First | Function::Last) {
            let mut keys = vec![];
            for sort in &params.order_by {
                keys.push((inputs.compile(&sort.expr)?, !sort.asc, sort.nulls_first));
            }
            let by_event_time =
                params.order_by.len() == 1 && params.order_by[0].asc && self.is_event_time(&params.order_by[0].expr);
            if !keys.is_empty() && !by_event_time {
                order = Some(inputs.order(keys));
            }
        }
        let input = value.map(|v| inputs.values[v].data_type.clone());
        Ok(Aggregate {
            function,
            value,
            order,
            filter,
            window: admit.and(window),
            ignore_nulls: params.null_treatment == Some(NullTreatment::IgnoreNulls),
            result: result_type(function, input.as_ref(), func.name())?,
        })
    }

    fn joins(&self, row: &DFSchema) -> Result<Vec<JoinPlan>, LowerError> {
        let mut joins = vec![];
        for step in &self.steps {
            let relation = &self.relations[step.relation];
            let table = DFSchema::try_from_qualified_schema(relation.qualifier.clone(), &relation.source.row_schema())?;
            let (mut row_key, mut table_key) = (vec![], vec![]);
            for (ours, theirs) in &step.keys {
                let (l, r) = common_type((ours, row), (theirs, &table))?;
                row_key.push(compiled(&l, row)?);
                table_key.push(compiled(&r, &table)?);
            }
            joins.push(JoinPlan {
                table: Arc::clone(&relation.source),
                left: step.left,
                row_key,
                table_key,
                table_filter: conjunction(step.rest.clone()).map(|e| compiled(&e, &table)).transpose()?,
                table_columns: self.columns.iter().filter(|(r, _)| *r == step.relation).map(|(_, c)| *c).collect(),
            });
        }
        Ok(joins)
    }

    #[expect(clippy::type_complexity, reason = "the two halves of the output, used once")]
    fn outputs(
        &self,
        groups: &[(String, Compiled)],
        aggregate: &AggregateNode,
        projection: &[Expr],
    ) -> Result<(Vec<(String, usize)>, Vec<Feature>), LowerError> {
        let mut fields: Vec<_> = aggregate.schema.iter().map(|(q, f)| (q.cloned(), Arc::clone(f))).collect();
        fields.push((None, Arc::new(Field::new(NOW, timestamp(), false))));
        let schema = DFSchema::new_with_metadata(fields, Default::default())?;
        let mut outputs: Vec<(String, Output, DataType)> = vec![];
        for expr in projection {
            let name = expr.schema_name().to_string();
            let name = name
                .rsplit_once('.')
                .filter(|_| matches!(expr, Expr::Column(_)))
                .map_or(name.clone(), |(_, n)| n.into());
            let inner = expr.clone().unalias_nested().data;
            let output = match &inner {
                Expr::Column(c) => match schema.index_of_column(c)? {
                    n if n < groups.len() => Output::Group(n),
                    n => Output::Aggregate(n - groups.len()),
                },
                _ => Output::Expression(compiled(&replace_now(inner.clone())?, &schema)?),
            };
            outputs.push((name, output, inner.get_type(&schema)?));
        }
        let entity = self.entity(groups, &outputs)?;
        let is_entity = |o: &(String, Output, DataType)| matches!(&o.1, Output::Group(g) if entity.iter().any(|(name, e)| e == g && *name == o.0));
        let features = outputs.iter().filter(|o| !is_entity(o)).cloned();
        let features: Vec<Feature> =
            features.map(|(name, output, data_type)| Feature { name, data_type, output }).collect();
        if features.is_empty() {
            return refuse("the view has no feature beside its entity", "SELECT at least one aggregate");
        }
        Ok((entity, features))
    }

    fn entity(
        &self,
        groups: &[(String, Compiled)],
        outputs: &[(String, Output, DataType)],
    ) -> Result<Vec<(String, usize)>, LowerError> {
        let shown = |g: usize| outputs.iter().find(|(_, o, _)| matches!(o, Output::Group(n) if *n == g));
        let named: Vec<(String, usize)> = (0..groups.len())
            .map(|g| (shown(g).map_or_else(|| groups[g].0.clone(), |(name, _, _)| name.clone()), g))
            .collect();
        let Some(wanted) = &self.view.entity else { return Ok(named) };
        let mut entity = vec![];
        for name in wanted {
            match named.iter().find(|(n, g)| n == name || groups[*g].0 == *name) {
                Some((_, g)) => entity.push((name.clone(), *g)),
                None => {
                    let names: Vec<&str> = named.iter().map(|(n, _)| n.as_str()).collect();
                    let help = format!("the view is grouped by {}", names.join(", "));
                    return refuse(format!("entity column `{name}` is not grouped by"), help);
                }
            }
        }
        if entity.len() != groups.len() {
            return refuse("entity must name every GROUP BY column", "name them all, or leave the option out");
        }
        Ok(entity)
    }
}

/// The distinct inputs of aggregates, as they are met.
struct Inputs<'a> {
    row: &'a DFSchema,
    values: Vec<Compiled>,
    filters: Vec<Compiled>,
    orders: Vec<Vec<(Compiled, bool, bool)>>,
}

impl Inputs<'_> {
    fn compile(&self, expr: &Expr) -> Result<Compiled, LowerError> {
        compiled(expr, self.row)
    }

    fn condition(&self, expr: &Expr) -> Result<Compiled, LowerError> {
        let c = self.compile(expr)?;
        if c.data_type != DataType::Boolean {
            return refuse(format!("`{}` is not a condition", c.text), "compare it with something");
        }
        Ok(c)
    }

    fn value(&mut self, expr: &Expr) -> Result<usize, LowerError> {
        let c = self.compile(expr)?;
        if let Some(n) = self.values.iter().position(|v| v.text == c.text) {
            return Ok(n);
        }
        self.values.push(c);
        Ok(self.values.len() - 1)
    }

    fn filter(&mut self, expr: &Expr) -> Result<usize, LowerError> {
        let c = self.condition(expr)?;
        if let Some(n) = self.filters.iter().position(|v| v.text == c.text) {
            return Ok(n);
        }
        self.filters.push(c);
        Ok(self.filters.len() - 1)
    }

    fn order(&mut self, keys: Vec<(Compiled, bool, bool)>) -> usize {
        let text = |k: &[(Compiled, bool, bool)]| -> Vec<(String, bool, bool)> {
            k.iter().map(|(c, d, n)| (c.text.clone(), *d, *n)).collect()
        };
        if let Some(n) = self.orders.iter().position(|o| text(o) == text(&keys)) {
            return n;
        }
        self.orders.push(keys);
        self.orders.len() - 1
    }
}

fn compiled(expr: &Expr, schema: &DFSchema) -> Result<Compiled, LowerError> {
    let (physical, data_type) = compile(expr.clone(), schema)?;
    Ok(Compiled { text: physical.to_string(), expr: physical, data_type })
}

fn conjunction(exprs: Vec<Expr>) -> Option<Expr> {
    exprs.into_iter().reduce(Expr::and)
}

/// `now()` as the column that carries the ask.
fn replace_now(expr: Expr) -> Result<Expr, LowerError> {
    let replaced = expr.transform_up(|e| {
        Ok(match &e {
            Expr::ScalarFunction(f) if f.func.name() == "now" => {
                Transformed::yes(Expr::Column(Column::new_unqualified(NOW)))
            }
            _ => Transformed::no(e),
        })
    })?;
    Ok(replaced.data)
}

/// Both sides of an equality, cast to the type in which they are compared.
fn common_type((l, left): (&Expr, &DFSchema), (r, right): (&Expr, &DFSchema)) -> Result<(Expr, Expr), LowerError> {
    use datafusion::logical_expr::binary::comparison_coercion;
    let (a, b) = (l.get_type(left)?, r.get_type(right)?);
    let Some(common) = comparison_coercion(&a, &b) else {
        return refuse(format!("{a} and {b} cannot be compared"), "cast one side of the ON equality");
    };
    Ok((l.clone().cast_to(&common, left)?, r.clone().cast_to(&common, right)?))
}

fn function_of(name: &str, distinct: bool) -> Result<Function, LowerError> {
    let function = match name {
        "count" if distinct => return Ok(Function::CountDistinct),
        "count" => Function::Count,
        "sum" => Function::Sum,
        "avg" => Function::Avg,
        "min" => Function::Min,
        "max" => Function::Max,
        "first_value" => Function::First,
        "last_value" => Function::Last,
        "var" | "var_samp" => Function::Var,
        "stddev" | "stddev_samp" => Function::Stddev,
        "bool_and" => Function::BoolAnd,
        "bool_or" => Function::BoolOr,
        other => {
            let help = "supported: count, count(distinct), sum, avg, min, max, first_value, last_value, stddev, var, \
                        bool_and, bool_or";
            return refuse(format!("the aggregate {other} is not supported yet"), help);
        }
    };
    let idempotent = matches!(function, Function::Min | Function::Max | Function::BoolAnd | Function::BoolOr);
    if distinct && !idempotent {
        return refuse(format!("{name}(DISTINCT …) is not supported yet"), "count(DISTINCT …) is");
    }
    Ok(function)
}

/// DataFusion's result types.
fn result_type(function: Function, input: Option<&DataType>, name: &str) -> Result<DataType, LowerError> {
    let number =
        |t: &DataType| matches!(t, DataType::Int32 | DataType::Int64 | DataType::Float64 | DataType::Decimal128(_, _));
    match (function, input) {
        (Function::Count | Function::CountDistinct, _) => Ok(DataType::Int64),
        (Function::Sum | Function::Avg | Function::Var | Function::Stddev, Some(t)) if !number(t) => {
            refuse(format!("{name} over {t} is not supported"), "cast it to BIGINT, DOUBLE or DECIMAL")
        }
        (Function::Sum, Some(DataType::Int32 | DataType::Int64)) => Ok(DataType::Int64),
        (Function::Sum, Some(DataType::Decimal128(p, s))) => Ok(DataType::Decimal128((p + 10).min(38), *s)),
        (Function::Avg, Some(DataType::Decimal128(p, s))) => Ok(DataType::Decimal128((p + 4).min(38), (s + 4).min(38))),
        (Function::Sum | Function::Avg | Function::Var | Function::Stddev, _) => Ok(DataType::Float64),
        (Function::BoolAnd | Function::BoolOr, _) => Ok(DataType::Boolean),
        (Function::Min | Function::Max, Some(t)) if t.is_nested() => {
            refuse(format!("{name} over {t} is not supported"), "aggregate one of its elements")
        }
        (Function::Min | Function::Max | Function::First | Function::Last, Some(t)) => Ok(t.clone()),
        (_, None) => refuse(format!("{name} takes an argument"), "name a column"),
    }
}

/// What the plan means and what its inputs look like, hashed; not where they come from.
fn fingerprint(plan: &ViewPlan) -> String {
    let source = |s: &Source| {
        format!("{:?} {:?} {:?} {:?}", s.name, s.kind, s.columns, s.event_time.as_ref().map(ToString::to_string))
    };
    let mut hash = Sha256::new();
    hash.update(source(&plan.stream));
    for join in &plan.joins {
        hash.update(source(&join.table));
        let texts = |k: &[Compiled]| k.iter().map(|c| c.text.clone()).collect::<Vec<_>>();
        let filter = join.table_filter.as_ref().map(|f| &f.text);
        hash.update(format!(
            "{} {:?} {:?} {filter:?} {:?}",
            join.left,
            texts(&join.row_key),
            texts(&join.table_key),
            join.table_columns
        ));
    }
    let text = |c: &Compiled| c.text.clone();
    hash.update(format!("{:?} {:?}", plan.stream_columns, plan.admit.as_ref().map(text)));
    hash.update(format!("{:?}", plan.groups.iter().map(|(n, c)| (n, text(c))).collect::<Vec<_>>()));
    hash.update(format!("{:?}", plan.values.iter().map(text).collect::<Vec<_>>()));
    hash.update(format!("{:?}", plan.filters.iter().map(text).collect::<Vec<_>>()));
    let orders: Vec<Vec<_>> =
        plan.orders.iter().map(|o| o.iter().map(|(c, d, n)| (text(c), *d, *n)).collect()).collect();
    hash.update(format!("{orders:?} {:?} {:?}", plan.fold, plan.entity));
    for feature in &plan.features {
        let output = match &feature.output {
            Output::Group(n) => format!("group {n}"),
            Output::Aggregate(n) => format!("aggregate {n}"),
            Output::Expression(c) => text(c),
        };
        hash.update(format!("{} {:?} {output}", feature.name, feature.data_type));
    }
    hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect()
}

/// A literal of microseconds, as output expressions see `now()`.
pub fn instant(micros: i64) -> ScalarValue {
    ScalarValue::TimestampMicrosecond(Some(micros), None)
}
