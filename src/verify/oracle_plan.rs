//! A view's query taken apart: FROM, WHERE, GROUP BY, aggregates, HAVING, SELECT, each as DataFusion analysed it.
//!
//! The oracle evaluates the parts one after the other, because a row whose expression fails must be left out alone
//! (semantics, rule 22), which DataFusion's own execution of the whole cannot do.
//!
//! Invariants: what the oracle would get wrong is refused, by name. Neighbours: `recompute` runs the parts.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchemaRef, Result, ScalarValue, TableReference};
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Aggregate, BinaryExpr, Expr, LogicalPlan, Operator, ScalarUDF};
use datafusion::sql::sqlparser::ast;

use super::oracle_lists::LIST;
use super::oracle_meaning::COUNTED;
use super::oracle_scalars::{FloorToGrid, NOW};
use crate::definition::{Definitions, Source};

/// The aggregates the oracle knows to be independent of order, or knows how to order.
const AGGREGATES: [&str; 29] = [
    "count",
    "decayed_sum",
    "decayed_count",
    "approx_distinct",
    "sum",
    "avg",
    "min",
    "max",
    "var",
    "stddev",
    "var_pop",
    "stddev_pop",
    "covar_samp",
    "covar_pop",
    "corr",
    "regr_slope",
    "skewness",
    "kurtosis",
    "median",
    "mode",
    "entropy",
    "approx_percentile_cont",
    "top_k",
    "bottom_k",
    "first_value",
    "last_value",
    LIST,
    "bool_and",
    "bool_or",
];

/// The parts of a view's query.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// FROM with its joins.
    pub(super) input: LogicalPlan,
    /// WHERE: all must hold. See [`conditions`].
    pub(super) filter: Vec<Expr>,
    /// GROUP BY.
    pub(super) groups: Vec<Expr>,
    /// The aggregates.
    pub(super) aggregates: Vec<Call>,
    /// The names and types of groups and aggregates, to which HAVING and SELECT refer.
    pub(super) schema: DFSchemaRef,
    /// HAVING: all must hold.
    pub(super) having: Vec<Expr>,
    /// SELECT, with output names.
    pub(super) select: Vec<(String, Expr)>,
    /// Event time, partition and offset of the stream's row: the canonical order's tail. `None` if a subquery hides them.
    pub(super) position: Option<[Expr; 3]>,
    /// What FROM reads, and as what.
    pub(super) scans: Vec<(TableReference, Arc<Source>)>,
}

/// One aggregate, its FILTER apart.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// The function and everything but the FILTER.
    pub(super) function: AggregateFunction,
    /// FILTER: all must hold. See [`conditions`].
    pub(super) filter: Vec<Expr>,
}

/// Takes an analysed plan apart. `Err` says what the oracle cannot do.
pub(super) fn take_apart(
    plan: LogicalPlan,
    definitions: &Definitions,
    resolution: Option<i64>,
) -> std::result::Result<Shape, String> {
    let LogicalPlan::Projection(projection) = plan else {
        return Err(format!("a query that ends in {}", plan.display()));
    };
    let names = projection.schema.fields().iter().map(|field| field.name().clone());
    let select: Vec<_> = names.zip(projection.expr).collect();
    let mut having = vec![];
    let mut below = projection.input;
    let aggregate = loop {
        match Arc::unwrap_or_clone(below) {
            LogicalPlan::Filter(filter) => {
                having.push(filter.predicate);
                below = filter.input;
            }
            LogicalPlan::Aggregate(aggregate) => break aggregate,
            other => return Err(format!("a query without GROUP BY, or with {} above it", other.display())),
        }
    };
    let Aggregate { input, group_expr, aggr_expr, schema, .. } = aggregate;
    if group_expr.iter().any(|e| matches!(e, Expr::GroupingSet(_))) {
        return Err("grouping sets".to_string());
    }
    let aggregates = aggr_expr.into_iter().map(call).collect::<std::result::Result<_, _>>()?;
    let mut input = Arc::unwrap_or_clone(input);
    let mut wheres = vec![];
    while let LogicalPlan::Filter(filter) = input {
        wheres.extend(split_conjunction_owned(filter.predicate));
        input = Arc::unwrap_or_clone(filter.input);
    }
    let mut scans = vec![];
    find_scans(&input, definitions, &mut scans)?;
    let first = one_stream(&scans)?;
    let position = position(&input, &scans[first].0);
    // The schema has an expression that is written twice once.
    let mut groups: Vec<Expr> = vec![];
    for (n, expr) in group_expr.iter().enumerate() {
        if !group_expr[..n].contains(expr) {
            groups.push(expr.clone().unalias_nested().data);
        }
    }
    let mut shape =
        Shape { input, filter: conditions(wheres), groups, aggregates, schema, having, select, position, scans };
    if let Some(grid) = resolution {
        shape.round_down(first, grid)?;
    }
    Ok(shape)
}

/// One aggregate expression, as the analyser left it: perhaps behind aliases that keep its name.
fn call(expr: Expr) -> std::result::Result<Call, String> {
    let Expr::AggregateFunction(mut function) = expr.unalias_nested().data else {
        return Err("an aggregate inside an expression".to_string());
    };
    let name = function.func.name();
    if !AGGREGATES.contains(&name) {
        return Err(format!("the aggregate {name}"));
    }
    let distinct = ["count", LIST, "min", "max", "bool_and", "bool_or", "top_k", "bottom_k"];
    if function.params.distinct && !distinct.contains(&name) {
        return Err(format!("{name}(DISTINCT ..)"));
    }
    let filter = function.params.filter.take().map_or_else(Vec::new, |filter| split_conjunction_owned(*filter));
    Ok(Call { function, filter: conditions(filter) })
}

/// Conjuncts joined to at most two conditions: those about `now()`, and the rest. The rest is judged on every row,
/// whatever the time: a row on which it fails is left out at every instant.
fn conditions(conjuncts: Vec<Expr>) -> Vec<Expr> {
    let (timed, rest): (Vec<_>, Vec<_>) = conjuncts.into_iter().partition(mentions_now);
    [conjunction(timed), conjunction(rest)].into_iter().flatten().collect()
}

pub(super) fn mentions_now(expr: &Expr) -> bool {
    expr.exists(|e| Ok(is_now(e))).unwrap_or(false)
}

pub(super) fn is_now(expr: &Expr) -> bool {
    matches!(expr, Expr::ScalarFunction(f) if f.func.name() == NOW)
}

/// Every table scan with the name its columns have.
fn find_scans(
    plan: &LogicalPlan,
    definitions: &Definitions,
    found: &mut Vec<(TableReference, Arc<Source>)>,
) -> std::result::Result<(), String> {
    let mut add = |relation: &TableReference, table: &TableReference| match definitions.sources.get(table.table()) {
        Some(source) => {
            found.push((relation.clone(), Arc::clone(source)));
            Ok(())
        }
        None => Err(format!("the table {table}")),
    };
    match plan {
        LogicalPlan::TableScan(scan) => add(&scan.table_name, &scan.table_name),
        LogicalPlan::SubqueryAlias(alias) if let LogicalPlan::TableScan(scan) = alias.input.as_ref() => {
            add(&alias.alias, &scan.table_name)
        }
        LogicalPlan::Aggregate(_) => Err("an aggregation inside FROM".to_string()),
        LogicalPlan::Union(_) => Err("UNION".to_string()),
        other => other.inputs().into_iter().try_for_each(|input| find_scans(input, definitions, found)),
    }
}

/// The scan whose rows are the events: the only stream, or the first table if there is none.
fn one_stream(scans: &[(TableReference, Arc<Source>)]) -> std::result::Result<usize, String> {
    let streams: Vec<usize> = (0..scans.len()).filter(|i| !scans[*i].1.is_table()).collect();
    match streams[..] {
        [] if scans.is_empty() => Err("a query that reads nothing".to_string()),
        [] => Ok(0),
        [one] => Ok(one),
        _ => Err("more than one stream".to_string()),
    }
}

fn position(input: &LogicalPlan, relation: &TableReference) -> Option<[Expr; 3]> {
    let column = |name: &str| {
        let column = Column::new(Some(relation.clone()), name);
        input.schema().has_column(&column).then_some(Expr::Column(column))
    };
    Some([column("_event_time")?, column("_partition")?, column("_offset")?])
}

impl Shape {
    /// The same at an instant: every `now()` is that constant.
    pub(super) fn at(&self, now: i64) -> Result<Shape> {
        let mut shape = self.clone();
        let instant = |expr: Expr| {
            expr.transform_up(|e| {
                if is_now(&e) {
                    Ok(Transformed::yes(Expr::Literal(ScalarValue::TimestampMicrosecond(Some(now), None), None)))
                } else {
                    Ok(Transformed::no(e))
                }
            })
        };
        shape.input = shape
            .input
            .transform_up_with_subqueries(|node| {
                let names = NamePreserver::new(&node);
                node.map_expressions(|e| {
                    let name = names.save(&e);
                    Ok(instant(e)?.update_data(|e| name.restore(e)))
                })
            })?
            .data;
        shape.map_expressions(|e| Ok(instant(e)?.data))?;
        Ok(shape)
    }

    /// Applies `f` to every expression outside FROM.
    fn map_expressions(&mut self, f: impl Fn(Expr) -> Result<Expr>) -> Result<()> {
        let each = |exprs: &mut Vec<Expr>| exprs.iter_mut().try_for_each(|e| replace(e, &f));
        each(&mut self.filter)?;
        each(&mut self.groups)?;
        each(&mut self.having)?;
        for call in &mut self.aggregates {
            let AggregateFunctionParams { args, order_by, .. } = &mut call.function.params;
            each(args)?;
            each(&mut call.filter)?;
            order_by.iter_mut().try_for_each(|sort| replace(&mut sort.expr, &f))?;
        }
        self.select.iter_mut().try_for_each(|(_, e)| replace(e, &f))
    }

    /// Rounds the event time down to `grid` inside the temporal predicates of WHERE and the FILTERs.
    fn round_down(&mut self, stream: usize, grid: i64) -> std::result::Result<(), String> {
        if self.position.is_none() || self.input.exists(|n| Ok(matches!(n, LogicalPlan::Projection(_)))).unwrap_or(true)
        {
            return Err("a subquery in a view with resolution".to_string());
        }
        let (relation, source) = &self.scans[stream];
        if source.is_table() || grid <= 0 {
            return Ok(());
        }
        let rounding = Rounding {
            relation: relation.clone(),
            column: event_time_column(source),
            floor: Arc::new(FloorToGrid::function(grid)),
        };
        let filters = self.aggregates.iter_mut().flat_map(|call| call.filter.iter_mut());
        for condition in self.filter.iter_mut().chain(filters) {
            replace(condition, |e| rounding.apply(e)).map_err(|e| e.to_string())?;
        }
        Ok(())
    }
}

fn replace(expr: &mut Expr, f: impl Fn(Expr) -> Result<Expr>) -> Result<()> {
    *expr = f(std::mem::take(expr))?;
    Ok(())
}

/// The EVENT TIME, if it is just a column.
fn event_time_column(source: &Source) -> Option<String> {
    match source.event_time.as_ref()? {
        ast::Expr::Identifier(name) if name.quote_style.is_some() => Some(name.value.clone()),
        ast::Expr::Identifier(name) => Some(name.value.to_lowercase()),
        _ => None,
    }
}

/// How event time is rounded in temporal predicates.
struct Rounding {
    relation: TableReference,
    column: Option<String>,
    floor: Arc<ScalarUDF>,
}

impl Rounding {
    fn apply(&self, condition: Expr) -> Result<Expr> {
        let rounded = condition.transform_up(|e| {
            Ok(match e {
                Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_bound(op) => {
                    Transformed::yes(self.compare(*left, op, *right)?)
                }
                // Each bound by itself: only one of them may be about now().
                Expr::Between(b) if mentions_now(&b.expr) || mentions_now(&b.low) || mentions_now(&b.high) => {
                    let lower = self.compare((*b.expr).clone(), Operator::GtEq, *b.low)?;
                    let both = lower.and(self.compare(*b.expr, Operator::LtEq, *b.high)?);
                    Transformed::yes(if b.negated { Expr::Not(Box::new(both)) } else { both })
                }
                other => Transformed::no(other),
            })
        })?;
        Ok(rounded.data)
    }

    /// `left op right`, the event time rounded down if this compares it with now().
    fn compare(&self, left: Expr, op: Operator, right: Expr) -> Result<Expr> {
        let is_event_time = |e: &Expr| self.is_event_time(e);
        let is_age = |e: &Expr| match e {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Minus, right }) => {
                (shifted(left, &is_now) && shifted(right, &is_event_time))
                    || (shifted(left, &is_event_time) && shifted(right, &is_now))
            }
            _ => false,
        };
        let (left, right) = if shifted(&left, &is_event_time) && shifted(&right, &is_now)
            || shifted(&left, &is_age) && constant(&right)
        {
            (self.floored(left)?, right)
        } else if shifted(&left, &is_now) && shifted(&right, &is_event_time)
            || constant(&left) && shifted(&right, &is_age)
        {
            (left, self.floored(right)?)
        } else {
            (left, right)
        };
        Ok(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right))))
    }

    fn is_event_time(&self, expr: &Expr) -> bool {
        let Expr::Column(column) = expr else { return false };
        let named = column.name == "_event_time" || Some(&column.name) == self.column.as_ref();
        named && column.relation.as_ref() == Some(&self.relation)
    }

    fn floored(&self, side: Expr) -> Result<Expr> {
        let floored = side.transform_up(|e| {
            if self.is_event_time(&e) {
                let floor = ScalarFunction::new_udf(Arc::clone(&self.floor), vec![e]);
                return Ok(Transformed::yes(Expr::ScalarFunction(floor)));
            }
            Ok(Transformed::no(e))
        })?;
        Ok(floored.data)
    }
}

fn is_bound(op: Operator) -> bool {
    matches!(op, Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq | Operator::Eq)
}

fn constant(expr: &Expr) -> bool {
    !mentions_now(expr) && expr.column_refs().is_empty()
}

/// Is it `base`, plus or minus constants?
fn shifted(expr: &Expr, base: &dyn Fn(&Expr) -> bool) -> bool {
    match expr {
        _ if base(expr) => true,
        Expr::Alias(alias) => shifted(&alias.expr, base),
        Expr::Cast(cast) => shifted(&cast.expr, base),
        // A length of time is counted in microseconds.
        Expr::ScalarFunction(f) if f.func.name() == COUNTED => f.args.iter().all(|e| shifted(e, base)),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Plus, right }) => {
            (shifted(left, base) && constant(right)) || (constant(left) && shifted(right, base))
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Minus, right }) => shifted(left, base) && constant(right),
        _ => false,
    }
}

/// The first clause DataFusion would read past without a word: `FOR SYSTEM_TIME AS OF`.
pub(super) fn ignored_clause(query: &ast::Query) -> Option<String> {
    struct Versions;
    impl ast::Visitor for Versions {
        type Break = String;
        fn pre_visit_table_factor(&mut self, factor: &ast::TableFactor) -> ControlFlow<String> {
            match factor {
                ast::TableFactor::Table { version: Some(version), .. } => ControlFlow::Break(version.to_string()),
                _ => ControlFlow::Continue(()),
            }
        }
    }
    match ast::Visit::visit(query, &mut Versions) {
        ControlFlow::Break(clause) => Some(clause.trim().to_string()),
        ControlFlow::Continue(()) => None,
    }
}
