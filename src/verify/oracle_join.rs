//! The oracle's joins, step by step, for queries on which DataFusion's own would fail as a whole or differ from `=`.
//!
//! The sides of an equality are evaluated row by row before the join, what `ON` says of one side is applied to it, and
//! what it says of both is applied to the result. A row on which an expression fails is left out where it fails: a row of
//! a side before the join, a joined row after it (semantics, rule 22). DataFusion joins by columns alone, which no row can
//! fail.
//!
//! Invariant: keys over DOUBLE take −0 as 0 and one NaN. Neighbours: `recompute` comes here when its own way fails.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::{filter, filter_record_batch};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::MemTable;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{Column, DFSchema, DataFusionError, JoinType};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Join, LogicalPlan, LogicalPlanBuilder, Operator, col};

use super::oracle_rows::{all_but, evaluate, one_zero_one_nan, truth};
use super::recompute::{Fallible, Run};

/// One side of a join, with the keys by which it is joined.
struct Side {
    schema: DFSchema,
    batch: RecordBatch,
    keys: Vec<ArrayRef>,
}

impl Side {
    fn keep(&mut self, kept: &arrow::array::BooleanArray) -> Fallible<()> {
        self.batch = filter_record_batch(&self.batch, kept)?;
        self.keys = self.keys.iter().map(|k| Ok(filter(k, kept)?)).collect::<Fallible<_>>()?;
        Ok(())
    }

    /// Adds a key; rows on which it fails leave.
    fn add_key(&mut self, run: &Run, expr: &Expr) -> Fallible<()> {
        let (values, failed) = evaluate(run.compile(expr, &self.schema)?.as_ref(), &self.batch)?;
        self.keys.push(one_zero_one_nan(&values));
        self.keep(&all_but(&failed, self.batch.num_rows()))
    }

    /// Keeps the rows for which a condition holds; where it fails it does not.
    fn restrict(&mut self, run: &Run, condition: &Expr) -> Fallible<()> {
        let (holds, _) = evaluate(run.compile(condition, &self.schema)?.as_ref(), &self.batch)?;
        self.keep(&truth(&holds))
    }

    /// Is all that the expression reads on this side?
    fn has(&self, expr: &Expr) -> bool {
        let columns = expr.column_refs();
        !columns.is_empty() && columns.into_iter().all(|c| self.schema.has_column(c))
    }

    /// Its columns as `c0`, `c1`, … and its keys as `k0`, `k1`, …
    fn scan(&self, name: &str) -> Fallible<LogicalPlanBuilder> {
        let columns: Vec<ArrayRef> = self.batch.columns().iter().chain(&self.keys).cloned().collect();
        let named = |(n, array): (usize, &ArrayRef)| {
            let own = self.batch.num_columns();
            let name = if n < own { format!("c{n}") } else { format!("k{}", n - own) };
            Field::new(name, array.data_type().clone(), true)
        };
        let schema = Arc::new(Schema::new(columns.iter().enumerate().map(named).collect::<Vec<_>>()));
        let options = RecordBatchOptions::new().with_row_count(Some(self.batch.num_rows()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options)?;
        let table = MemTable::try_new(schema, vec![vec![batch]])?;
        LogicalPlanBuilder::scan(name, provider_as_source(Arc::new(table)), None)
    }

    fn columns(&self, name: &str) -> impl Iterator<Item = Expr> {
        (0..self.batch.num_columns()).map(move |n| col(Column::new(Some(name), format!("c{n}"))))
    }
}

impl Run {
    /// The joined rows of FROM.
    pub(super) async fn join(
        &self,
        plan: &LogicalPlan,
        tables: &HashMap<String, RecordBatch>,
    ) -> Fallible<(DFSchema, RecordBatch)> {
        let LogicalPlan::Join(join) = plan else { return self.collect(plan, tables).await };
        let (schema, batch) = Box::pin(self.join(&join.left, tables)).await?;
        let mut left = Side { schema, batch, keys: vec![] };
        let (schema, batch) = Box::pin(self.join(&join.right, tables)).await?;
        let mut right = Side { schema, batch, keys: vec![] };

        // Step 1. What can fail, before the join: keys, and conditions on the side that is not kept whole.
        let mut rest = vec![];
        for condition in conditions(join) {
            if let Some((l, r)) = equality(&condition, &left, &right) {
                left.add_key(self, l)?;
                right.add_key(self, r)?;
            } else if right.has(&condition) && matches!(join.join_type, JoinType::Inner | JoinType::Left) {
                right.restrict(self, &condition)?;
            } else if left.has(&condition) && matches!(join.join_type, JoinType::Inner | JoinType::Right) {
                left.restrict(self, &condition)?;
            } else if join.join_type == JoinType::Inner {
                rest.push(condition);
            } else {
                return Err(DataFusionError::NotImplemented("a condition of an outer join on both sides".into()));
            }
        }

        // Step 2. The join, by columns.
        let keys =
            |name: &str| (0..left.keys.len()).map(|n| Column::new(Some(name), format!("k{n}"))).collect::<Vec<_>>();
        let columns: Vec<Expr> = left.columns("l").chain(right.columns("r")).collect();
        let (l, r) = (left.scan("l")?, right.scan("r")?.build()?);
        let joined = match left.keys.is_empty() {
            true => l.cross_join(r)?,
            false => l.join(r, join.join_type, (keys("l"), keys("r")), None)?,
        };
        let (_, batch) = self.collect_bound(&joined.project(columns)?.build()?).await?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let arrow = Arc::new(join.schema.as_arrow().clone());
        let batch = RecordBatch::try_new_with_options(arrow, batch.columns().to_vec(), &options)?;

        // Step 3. Conditions on both sides, on the joined rows.
        let mut joined = Side { schema: join.schema.as_ref().clone(), batch, keys: vec![] };
        rest.iter().try_for_each(|condition| joined.restrict(self, condition))?;
        Ok((joined.schema, joined.batch))
    }
}

/// All that ON says.
fn conditions(join: &Join) -> Vec<Expr> {
    let equalities = join.on.iter().map(|(l, r)| l.clone().eq(r.clone()));
    equalities.chain(join.filter.iter().flat_map(split_conjunction).cloned()).collect()
}

/// An equality between the sides, as (left, right).
fn equality<'a>(condition: &'a Expr, left: &Side, right: &Side) -> Option<(&'a Expr, &'a Expr)> {
    let Expr::BinaryExpr(BinaryExpr { left: a, op: Operator::Eq, right: b }) = condition else { return None };
    match (left.has(a) && right.has(b), left.has(b) && right.has(a)) {
        (true, _) => Some((a, b)),
        (_, true) => Some((b, a)),
        _ => None,
    }
}

/// Does a join compare doubles? DataFusion's own tells −0 from 0.
pub(super) fn joins_doubles(input: &LogicalPlan) -> bool {
    let is_double = |e: &Expr, schema: &DFSchema| e.get_type(schema).is_ok_and(|t| t == DataType::Float64);
    let found = input.exists(|node| {
        let LogicalPlan::Join(join) = node else { return Ok(false) };
        Ok(conditions(join).iter().any(|condition| match condition {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, .. }) => is_double(left, &join.schema),
            _ => false,
        }))
    });
    found.unwrap_or(true)
}
