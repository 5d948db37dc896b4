//! From a group and its aggregates to the features: the projection above the fold, with `now()` as the ask.
//!
//! Invariants: one row or many give the same values: rows are evaluated alone where a batch of them fails, and a row that
//! fails alone is null in that feature. Neighbours: `operator` has the expressions; `online` and `offline` call this.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::physical_expr::utils::collect_columns;

use super::feature::NOW;
use super::operator::{Compiled, Output, ViewPlan};
use crate::definition::bounded::evaluate;
use crate::definition::timestamp;
use crate::fold::Wanted;

/// Evaluates a view's features.
#[derive(Clone, Debug)]
pub struct Outputs {
    plan: Arc<ViewPlan>,
    schema: SchemaRef,
}

impl Outputs {
    /// For one view.
    pub fn new(plan: &Arc<ViewPlan>) -> Outputs {
        let groups = plan.groups.iter().map(|(n, c)| Field::new(n, c.data_type.clone(), true));
        let aggregates = plan.fold.aggregates.iter().enumerate();
        let aggregates = aggregates.map(|(n, a)| Field::new(format!("__aggregate_{n}"), a.result.clone(), true));
        let now = Field::new(NOW, timestamp(), false);
        let fields: Vec<Field> = groups.chain(aggregates).chain([now]).collect();
        Outputs { plan: Arc::clone(plan), schema: Arc::new(Schema::new(fields)) }
    }

    /// The aggregates that these features read.
    pub fn asked(&self, wanted: &[usize]) -> Wanted {
        let first = self.plan.groups.len();
        let mut read = vec![];
        for n in wanted {
            match &self.plan.features[*n].output {
                Output::Group(_) => {}
                Output::Aggregate(a) => read.push(*a),
                // Its columns are groups, aggregates, now.
                Output::Expression(c) => {
                    let columns = collect_columns(&c.expr).into_iter().map(|c| c.index());
                    let aggregates = first..first + self.plan.fold.aggregates.len();
                    read.extend(columns.filter(|c| aggregates.contains(c)).map(|c| c - first));
                }
            }
        }
        Wanted::of(read, self.plan.fold.aggregates.len())
    }

    /// The features of one group, in the order of `wanted` (indices of features).
    ///
    /// # Errors
    /// Values of other types than the plan's.
    pub fn one(
        &self,
        wanted: &[usize],
        group: &[ScalarValue],
        aggregates: &[ScalarValue],
        now: i64,
    ) -> Result<Vec<ScalarValue>, DataFusionError> {
        let mut row: Option<Vec<ArrayRef>> = None;
        let mut values = Vec::with_capacity(wanted.len());
        for &n in wanted {
            values.push(match &self.plan.features[n].output {
                Output::Group(g) => group[*g].clone(),
                Output::Aggregate(a) => aggregates[*a].clone(),
                Output::Expression(_) => {
                    if row.is_none() {
                        let columns = group.iter().chain(aggregates).map(|v| v.to_array_of_size(1));
                        row = Some(columns.collect::<Result<Vec<_>, _>>()?);
                    }
                    let columns = row.as_deref().unwrap_or_default();
                    let (groups, aggregates) = columns.split_at(group.len());
                    ScalarValue::try_from_array(&self.many(&[n], groups, aggregates, &[now])?[0], 0)?
                }
            });
        }
        Ok(values)
    }

    /// The features of many groups, a column each.
    ///
    /// # Errors
    /// Columns of other types than the plan's.
    pub fn many(
        &self,
        wanted: &[usize],
        groups: &[ArrayRef],
        aggregates: &[ArrayRef],
        now: &[i64],
    ) -> Result<Vec<ArrayRef>, DataFusionError> {
        let instants: ArrayRef = Arc::new(TimestampMicrosecondArray::from(now.to_vec()));
        let columns: Vec<ArrayRef> = groups.iter().chain(aggregates).cloned().chain([instants]).collect();
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        let feature = |n: &usize| match &self.plan.features[*n].output {
            Output::Group(g) => Ok(Arc::clone(&groups[*g])),
            Output::Aggregate(a) => Ok(Arc::clone(&aggregates[*a])),
            Output::Expression(c) => match evaluate(c.expr.as_ref(), &c.text, &rows) {
                Ok(array) => Ok(array),
                Err(_) => alone(c, &rows),
            },
        };
        wanted.iter().map(feature).collect()
    }
}

/// Each row by itself; null where that fails.
fn alone(c: &Compiled, rows: &RecordBatch) -> Result<ArrayRef, DataFusionError> {
    let one = |n: usize| {
        let value = evaluate(c.expr.as_ref(), &c.text, &rows.slice(n, 1));
        value.unwrap_or_else(|_| new_null_array(&c.data_type, 1))
    };
    let parts: Vec<ArrayRef> = (0..rows.num_rows()).map(one).collect();
    if parts.is_empty() {
        return Ok(new_null_array(&c.data_type, 0));
    }
    Ok(concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<_>>())?)
}
