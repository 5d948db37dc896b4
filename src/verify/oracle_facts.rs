//! What the oracle says of groups beside their values: which rows they have had, what they answer over no rows, and
//! which events no expression of the view fails on.
//!
//! Invariants: as `recompute`'s. Where a joined table has had several versions, or a predicate is not monotone in `now()`,
//! the definition alone does not decide event time and status without replaying the log: then the oracle gives what is
//! certain and what is possible, and an answer must lie between. Neighbours: `recompute` joins and evaluates; `verify`
//! compares.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{cast, filter, filter_record_batch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, JoinType, ScalarValue};
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{Between, BinaryExpr, Expr, LogicalPlan, Operator, lit};
use datafusion::physical_expr::PhysicalExpr;

use super::oracle_plan::{Shape, is_now, mentions_now};
use super::oracle_rows::{Versions, all_but, evaluate, one_zero_one_nan, query_schema, queryable, truth};
use super::recompute::{Fallible, Inputs, Recompute, RecomputeError, Run, at_instant};
use crate::definition::Source;

/// Rows that a group has had up to an instant, one line each.
pub struct Facts {
    /// The `GROUP BY` values.
    pub groups: Vec<ArrayRef>,
    /// When each happened, in µs.
    pub event_times: Vec<Option<i64>>,
    /// Has WHERE admitted it at some instant up to this one?
    pub admitted: Vec<bool>,
}

/// What of the joined tables is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breadth {
    /// What a query sees at the instant: these rows the group has had.
    Certain,
    /// Every version there has been, or none: other rows it has not had.
    Possible,
}

impl Recompute {
    /// Are certain and possible the same? They are where one stream is all that is read.
    pub fn is_decided(&self) -> bool {
        let shape = self.shape();
        shape.scans.len() == 1 && !shape.scans[0].1.is_table()
    }

    /// Does it read a table with versions? Then a row that is there now may not have been when it would have counted.
    pub fn reads_versions(&self) -> bool {
        self.shape().scans.iter().any(|(_, s)| s.is_table() && s.event_time.is_some())
    }

    /// The rows that groups have had at `now`; `None` if the query hides when they happened, or `now()` is used in a way
    /// of which the oracle does not know when it admits.
    ///
    /// # Errors
    /// As of [`Recompute::at`].
    pub fn facts(
        &self,
        events: &HashMap<String, Vec<RecordBatch>>,
        now: i64,
        breadth: Breadth,
    ) -> Result<Option<Vec<Facts>>, RecomputeError> {
        let shape = self.shape();
        let Some(position) = &shape.position else { return Ok(None) };
        let Some(admission) = admission(&shape.filter, &position[0]) else { return Ok(None) };
        let Some(seen) = self.combinations(breadth) else { return Ok(None) };
        let facts = seen.iter().map(|versions| {
            self.block_on(async |recompute| {
                // What depends on the time decides nothing here: it is evaluated beside the rest.
                let mut shape = recompute.shape().clone();
                shape.filter.retain(|f| !mentions_now(f));
                shape.filter.push(admission.clone());
                let mut shape = shape.at(now)?;
                let admission = shape.filter.pop().expect("it was put there last");
                let state = at_instant(recompute.state(), now)?;
                let run = Run { shape, state, further: vec![admission.clone()] };
                let tables = recompute.tables(events, now, versions)?;
                let (schema, rows) = run.rows(&tables).await?;
                let inputs = run.inputs(&schema, rows)?;
                let times = inputs.values[&position[0]].as_primitive::<TimestampMicrosecondType>().clone();
                let admitted = truth(&inputs.values[&admission]);
                let groups = run.shape.groups.iter().map(|e| one_zero_one_nan(&inputs.values[e])).collect();
                Ok(Facts {
                    groups,
                    event_times: times.iter().collect(),
                    admitted: (0..inputs.rows).map(|n| admitted.value(n)).collect(),
                })
            })
        });
        facts.collect::<Result<Vec<_>, _>>().map(Some)
    }

    /// What tables are taken as, one entry per source that is read; `None` if there are too many ways.
    fn combinations(&self, breadth: Breadth) -> Option<Vec<HashMap<String, Versions>>> {
        let names: Vec<&String> =
            self.shape().scans.iter().filter(|(_, s)| s.is_table()).map(|(_, s)| &s.name).collect();
        if breadth == Breadth::Certain {
            return Some(vec![HashMap::new()]);
        }
        let outer =
            |node: &LogicalPlan| Ok(matches!(node, LogicalPlan::Join(join) if join.join_type != JoinType::Inner));
        let outer = self.shape().input.exists(outer).unwrap_or(true);
        if names.len() > 4 {
            return None;
        }
        let ways = if outer { 1 << names.len() } else { 1 };
        let way = |n: u32| {
            let versions = |i: usize| if n >> i & 1 == 0 { Versions::All } else { Versions::None };
            names.iter().enumerate().map(|(i, name)| ((*name).clone(), versions(i))).collect()
        };
        Some((0..ways).map(way).collect())
    }

    /// The SELECT of groups that have no row, by DataFusion: the aggregates over nothing, whatever HAVING says of that.
    /// `groups`: one array per `GROUP BY` expression, a line per group, each once. The outcome is as [`Recompute::at`]'s.
    ///
    /// # Errors
    /// As of [`Recompute::at`].
    pub fn over_nothing(&self, groups: &[ArrayRef], now: i64) -> Result<RecordBatch, RecomputeError> {
        self.block_on(async |recompute| {
            let shape = Shape { having: vec![], ..recompute.shape().at(now)? };
            let run = Run { shape, state: at_instant(recompute.state(), now)?, further: vec![] };
            let (schema, none) = run.rows(&recompute.tables(&HashMap::new(), now, &HashMap::new())?).await?;
            let mut inputs = run.inputs(&schema, none)?;
            inputs.rows = groups.first().map_or(1, |g| g.len());
            for values in inputs.values.values_mut() {
                *values = new_null_array(values.data_type(), inputs.rows);
            }
            for (expr, group) in run.shape.groups.iter().zip(groups) {
                let values = inputs.values.get_mut(expr).expect("what is grouped by is among the inputs");
                *values = cast(group, values.data_type())?;
            }
            let grouped = run.aggregate(Inputs { counted: false, ..inputs }).await?;
            run.select(&grouped)
        })
    }

    /// The lengths of time in the query's predicates, in µs.
    pub fn lengths(&self) -> Vec<i64> {
        let shape = self.shape();
        let mut found = vec![];
        for condition in shape.filter.iter().chain(shape.aggregates.iter().flat_map(|call| &call.filter)) {
            let _ = condition.apply(|e| {
                if let Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(i)), _) = e {
                    found.push(i64::from(i.days) * 86_400_000_000 + i.nanoseconds / 1_000);
                }
                Ok(TreeNodeRecursion::Continue)
            });
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// What looks at single events of the stream, if it can tell their groups: no subquery stands between, and no table's
    /// column is grouped by.
    ///
    /// # Errors
    /// As of [`Recompute::at`].
    pub fn sieve(&self) -> Result<Option<Sieve>, RecomputeError> {
        let shape = self.shape();
        let Some((relation, source)) = shape.scans.iter().find(|(_, s)| !s.is_table()) else { return Ok(None) };
        let alone = shape.scans.len() == 1;
        let between = |node: &LogicalPlan| {
            let plain =
                matches!(node, LogicalPlan::TableScan(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Join(_));
            Ok(!plain)
        };
        let theirs = |e: &Expr| e.column_refs().iter().all(|c| c.relation.as_ref() == Some(relation));
        if shape.input.exists(between).unwrap_or(true) || !shape.groups.iter().all(theirs) {
            return Ok(None);
        }
        self.block_on(async |recompute| {
            let schema = DFSchema::try_from_qualified_schema(relation.clone(), &query_schema(source))?;
            let run = Run { shape: shape.clone(), state: at_instant(recompute.state(), 0)?, further: vec![] };
            let compile = |exprs: Vec<Expr>| {
                let untimed = exprs.into_iter().filter(|e| !mentions_now(e));
                untimed.map(|e| run.compile(&e, &schema)).collect::<Fallible<Vec<_>>>()
            };
            let groups = compile(shape.groups.clone())?;
            // What a joined row is kept out or refused for cannot be told from the event alone.
            let conditions = if alone { compile(shape.filter.clone())? } else { vec![] };
            let inputs = if alone { compile(run.input_expressions())? } else { groups.clone() };
            Ok(Some(Sieve { source: Arc::clone(source), alone, conditions, groups, inputs }))
        })
    }
}

/// Looks at events one by one: which are refused, which are a group's.
pub struct Sieve {
    source: Arc<Source>,
    /// Is the stream all that the query reads? Then what it says of rows and refusals is all that there is to say.
    pub alone: bool,
    conditions: Vec<Arc<dyn PhysicalExpr>>,
    groups: Vec<Arc<dyn PhysicalExpr>>,
    inputs: Vec<Arc<dyn PhysicalExpr>>,
}

/// What a [`Sieve`] says of a batch.
pub struct Sifted {
    /// Places in the batch of the rows that what does not depend on `now()` admits.
    pub rows: Vec<u32>,
    /// Their `GROUP BY` values.
    pub groups: Vec<ArrayRef>,
    /// (partition, offset) of the rows on which an expression fails.
    pub refused: Vec<(i32, i64)>,
}

impl Sieve {
    /// Sifts logged rows.
    ///
    /// # Errors
    /// What is not about a row's values.
    pub fn sift(&self, batch: &RecordBatch) -> Fallible<Sifted> {
        let mut rows = queryable(&self.source, batch)?;
        let mut places = UInt32Array::from_iter_values(0..u32::try_from(rows.num_rows()).unwrap_or(u32::MAX));
        let mut refused = vec![];
        let mut refuse = |rows: &RecordBatch, failed: &[usize]| {
            let column = |name: &str| rows.column_by_name(name).expect("every row has its place");
            let partitions = column("_partition").as_primitive::<Int32Type>();
            let offsets = column("_offset").as_primitive::<Int64Type>();
            refused.extend(failed.iter().map(|n| (partitions.value(*n), offsets.value(*n))));
        };
        for condition in &self.conditions {
            let (holds, failed) = evaluate(condition.as_ref(), &rows)?;
            refuse(&rows, &failed);
            let holds = truth(&holds);
            (rows, places) = (filter_record_batch(&rows, &holds)?, kept(&places, &holds)?);
        }
        let mut failed = vec![];
        for input in &self.inputs {
            failed.extend(evaluate(input.as_ref(), &rows)?.1);
        }
        failed.sort_unstable();
        failed.dedup();
        refuse(&rows, &failed);
        if !failed.is_empty() {
            let sound = all_but(&failed, rows.num_rows());
            (rows, places) = (filter_record_batch(&rows, &sound)?, kept(&places, &sound)?);
        }
        let group = |e: &Arc<dyn PhysicalExpr>| Ok(one_zero_one_nan(&evaluate(e.as_ref(), &rows)?.0));
        let groups = self.groups.iter().map(group).collect::<Fallible<_>>()?;
        Ok(Sifted { rows: places.values().to_vec(), groups, refused })
    }
}

fn kept(places: &UInt32Array, which: &BooleanArray) -> Fallible<UInt32Array> {
    Ok(filter(places, which)?.as_primitive().clone())
}

/// What conditions say of "has it held yet", where that is known: the parts about `now()` that come true as time passes
/// and then stay so, and those that end, as of when the event happened: what has ended by then never held. `None`:
/// something else.
fn admission(conditions: &[Expr], event_time: &Expr) -> Option<Expr> {
    let mut parts = vec![];
    for part in conditions.iter().flat_map(split_conjunction).filter(|part| mentions_now(part)) {
        timed_part(part, event_time, &mut parts)?;
    }
    Some(conjunction(parts).unwrap_or(lit(true)))
}

fn timed_part(part: &Expr, event_time: &Expr, parts: &mut Vec<Expr>) -> Option<()> {
    match part {
        Expr::Alias(alias) => timed_part(&alias.expr, event_time, parts),
        Expr::Between(Between { expr, negated: false, low, high }) => {
            let bound = |op, bound: &Expr| Expr::BinaryExpr(BinaryExpr::new(expr.clone(), op, Box::new(bound.clone())));
            for part in [bound(Operator::GtEq, low), bound(Operator::LtEq, high)] {
                match mentions_now(&part) {
                    true => timed_part(&part, event_time, parts)?,
                    false => parts.push(part),
                }
            }
            Some(())
        }
        other => {
            let then = |e: Expr| Ok(if is_now(&e) { Transformed::yes(event_time.clone()) } else { Transformed::no(e) });
            parts.push(match comes_true(other)? {
                true => part.clone(),
                false => part.clone().transform_up(then).ok()?.data,
            });
            Some(())
        }
    }
}

/// Does a comparison come true as time passes, or end? `None`: neither, or nobody knows.
fn comes_true(part: &Expr) -> Option<bool> {
    match part {
        Expr::Not(inner) => comes_true(inner).map(|comes| !comes),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let left_rises = match (rises(left), rises(right)) {
                (Some(rises), None) if !mentions_now(right) => rises,
                (None, Some(rises)) if !mentions_now(left) => !rises,
                _ => return None,
            };
            match op {
                Operator::Gt | Operator::GtEq => Some(left_rises),
                Operator::Lt | Operator::LtEq => Some(!left_rises),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Does an instant or a length of time rise with `now()`, as `now() - ts`, or fall, as `ts - now()`?
fn rises(expr: &Expr) -> Option<bool> {
    match expr {
        _ if is_now(expr) => Some(true),
        Expr::Alias(alias) => rises(&alias.expr),
        Expr::Cast(cast) => rises(&cast.expr),
        // A length of time, counted.
        Expr::ScalarFunction(f) if f.func.name() == "microseconds" => rises(f.args.first()?),
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::Plus | Operator::Minus), right }) => {
            match (mentions_now(left), mentions_now(right)) {
                (true, false) => rises(left),
                (false, true) => rises(right).map(|up| up == (*op == Operator::Plus)),
                _ => None,
            }
        }
        _ => None,
    }
}
