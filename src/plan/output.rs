//! From a group and its aggregates to the features: HAVING and the projection above the fold, with `now()` as the ask.
//!
//! A group on which HAVING does not hold has no row, so its features are those of the query over no rows.
//!
//! Invariants: one row or many give the same values: rows are evaluated alone where a batch of them fails, and a row that
//! fails alone is null in that feature, and does not hold. Neighbours: `operator` has the expressions; `online` and `offline` call this.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, TimestampMicrosecondArray, new_null_array};
use arrow::compute::kernels::zip::zip;
use arrow::compute::{concat, prep_null_mask_filter};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::physical_expr::utils::collect_columns;

use super::feature::NOW;
use super::operator::{Compiled, Output, ViewPlan};
use crate::definition::bounded::evaluate;
use crate::definition::timestamp;
use crate::fold::evaluate::values_of_nothing;
use crate::fold::{Evaluation, Status, Wanted};

/// Evaluates a view's features.
#[derive(Clone, Debug)]
pub struct Outputs {
    plan: Arc<ViewPlan>,
    schema: SchemaRef,
    /// The aggregates over no rows; empty without HAVING.
    nothing: Vec<ScalarValue>,
}

impl Outputs {
    /// For one view.
    pub fn new(plan: &Arc<ViewPlan>) -> Outputs {
        let groups = plan.groups.iter().map(|(n, c)| Field::new(n, c.data_type.clone(), true));
        let aggregates = plan.fold.aggregates.iter().enumerate();
        let aggregates = aggregates.map(|(n, a)| Field::new(format!("__aggregate_{n}"), a.result.clone(), true));
        let now = Field::new(NOW, timestamp(), false);
        let fields: Vec<Field> = groups.chain(aggregates).chain([now]).collect();
        let nothing = plan.having.as_ref().map_or(vec![], |_| values_of_nothing(&plan.fold));
        Outputs { plan: Arc::clone(plan), schema: Arc::new(Schema::new(fields)), nothing }
    }

    /// The aggregates that these features read, and HAVING.
    pub fn asked(&self, wanted: &[usize]) -> Wanted {
        let mut read = self.plan.having.as_ref().map_or(vec![], |having| self.reads(having));
        for n in wanted {
            match &self.plan.features[*n].output {
                Output::Group(_) => {}
                Output::Aggregate(a) => read.push(*a),
                Output::Expression(c) => read.extend(self.reads(c)),
            }
        }
        Wanted::of(read, self.plan.fold.aggregates.len())
    }

    /// The aggregates that an expression reads: its columns are groups, aggregates, now.
    fn reads(&self, c: &Compiled) -> Vec<usize> {
        let first = self.plan.groups.len();
        let aggregates = first..first + self.plan.fold.aggregates.len();
        let columns = collect_columns(&c.expr).into_iter().map(|c| c.index());
        columns.filter(|c| aggregates.contains(c)).map(|c| c - first).collect()
    }

    /// What a group answers, given what it holds: one on which HAVING does not hold has no row.
    ///
    /// # Errors
    /// Values of other types than the plan's.
    pub fn judge(
        &self,
        group: &[ScalarValue],
        evaluation: Evaluation,
        now: i64,
    ) -> Result<Evaluation, DataFusionError> {
        if self.plan.having.is_none() || evaluation.status != Status::Present {
            return Ok(evaluation);
        }
        match self.holding(&self.row(group, &evaluation.values, now)?)? {
            Some(holds) if !holds.value(0) => {
                Ok(Evaluation { status: Status::Absent, values: self.nothing.clone(), ..evaluation })
            }
            _ => Ok(evaluation),
        }
    }

    fn row(&self, group: &[ScalarValue], aggregates: &[ScalarValue], now: i64) -> Result<RecordBatch, DataFusionError> {
        let columns = group.iter().chain(aggregates).map(|v| v.to_array_of_size(1));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let (groups, aggregates) = columns.split_at(group.len());
        self.rows(groups, aggregates, &[now])
    }

    fn rows(&self, groups: &[ArrayRef], aggregates: &[ArrayRef], now: &[i64]) -> Result<RecordBatch, DataFusionError> {
        let instants: ArrayRef = Arc::new(TimestampMicrosecondArray::from(now.to_vec()));
        let columns: Vec<ArrayRef> = groups.iter().chain(aggregates).cloned().chain([instants]).collect();
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    /// On which rows HAVING holds, if there is one; null does not.
    fn holding(&self, rows: &RecordBatch) -> Result<Option<BooleanArray>, DataFusionError> {
        let Some(having) = &self.plan.having else { return Ok(None) };
        let holds = values(having, rows)?;
        let holds = holds.as_boolean();
        Ok(Some(if holds.null_count() > 0 { prep_null_mask_filter(holds) } else { holds.clone() }))
    }

    /// The features of one group, judged, in the order of `wanted` (indices of features).
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
        let mut row: Option<RecordBatch> = None;
        let mut found = Vec::with_capacity(wanted.len());
        for &n in wanted {
            found.push(match &self.plan.features[n].output {
                Output::Group(g) => group[*g].clone(),
                Output::Aggregate(a) => aggregates[*a].clone(),
                Output::Expression(c) => {
                    let row = match row.take() {
                        Some(known) => row.insert(known),
                        None => row.insert(self.row(group, aggregates, now)?),
                    };
                    ScalarValue::try_from_array(&values(c, row)?, 0)?
                }
            });
        }
        Ok(found)
    }

    /// The features of many groups, a column each, HAVING judged.
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
        let mut rows = self.rows(groups, aggregates, now)?;
        let mut aggregates = aggregates.to_vec();
        if let Some(holds) = self.holding(&rows)?.filter(|holds| holds.has_false()) {
            for (column, nothing) in aggregates.iter_mut().zip(&self.nothing) {
                *column = zip(&holds, column, &nothing.to_scalar()?)?;
            }
            rows = self.rows(groups, &aggregates, now)?;
        }
        let feature = |n: &usize| match &self.plan.features[*n].output {
            Output::Group(g) => Ok(Arc::clone(&groups[*g])),
            Output::Aggregate(a) => Ok(Arc::clone(&aggregates[*a])),
            Output::Expression(c) => values(c, &rows),
        };
        wanted.iter().map(feature).collect()
    }
}

/// An expression's values on rows, as on each alone.
fn values(c: &Compiled, rows: &RecordBatch) -> Result<ArrayRef, DataFusionError> {
    match evaluate(c.expr.as_ref(), &c.text, rows) {
        Ok(array) => Ok(array),
        Err(_) => alone(c, rows),
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
