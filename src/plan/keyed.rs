//! What a view straight from a stream groups by: the stream, and expressions over its rows.
//!
//! Views that group one stream by the same expressions have one key, whatever they are called, admit and compute: one
//! copy of the stream's events, sorted by group, serves them all.
//!
//! Invariants: equal keys have equal identities, and give every event the group that the views' own projections give it.
//! Neighbours: `lower` makes the key of a view, `offline::seal` sorts events by it.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::row::{RowConverter, SortField};
use datafusion::common::DataFusionError;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::reassign_expr_columns;

use super::bind::identity;
use super::operator::{Compiled, ViewPlan};
use super::project::{normal, value};
use crate::definition::Source;
use crate::fold::entry::hash_group;

/// Rows evaluated at once.
const SLICE: usize = 8192;

/// A stream and what its events are grouped by.
#[derive(Clone, Debug)]
pub struct GroupKey {
    /// The stream.
    pub stream: Arc<Source>,
    /// The group expressions, over the stream's `row_schema`.
    groups: Vec<Compiled>,
    /// Equal for equal keys only.
    pub identity: String,
}

impl GroupKey {
    /// A view's; `None` if it has joins.
    pub(super) fn of(plan: &ViewPlan) -> Result<Option<GroupKey>, DataFusionError> {
        if !plan.joins.is_empty() {
            return Ok(None);
        }
        let schema = plan.stream.row_schema();
        let whole = |(_, c): &(String, Compiled)| {
            // The view's row has the columns that it reads; a key must not depend on which these are.
            let expr = reassign_expr_columns(Arc::clone(&c.expr), &schema)?;
            Ok::<_, DataFusionError>(Compiled { identity: identity(&expr), expr, ..c.clone() })
        };
        let groups = plan.groups.iter().map(whole).collect::<Result<Vec<_>, _>>()?;
        let parts: Vec<_> = groups.iter().map(|c| (&c.identity, &c.data_type)).collect();
        let identity = format!("{} {parts:?}", plan.stream.name);
        Ok(Some(GroupKey { stream: Arc::clone(&plan.stream), groups, identity }))
    }

    /// For people: the columns that it groups by.
    pub fn name(&self) -> String {
        let name = |c: &Compiled| c.expr.downcast_ref::<Column>().map_or("expression", Column::name).to_string();
        self.groups.iter().map(name).collect::<Vec<_>>().join("-")
    }

    /// The hash of each row's group; `None` where an expression fails: such a row is in no group of any view.
    ///
    /// # Errors
    /// Types that have no row format; a batch of another schema.
    pub fn hashes(&self, rows: &RecordBatch) -> Result<Vec<Option<u64>>, DataFusionError> {
        let types = self.groups.iter().map(|c| SortField::new(c.data_type.clone()));
        let converter = RowConverter::new(types.collect())?;
        let mut hashes = Vec::with_capacity(rows.num_rows());
        for from in (0..rows.num_rows()).step_by(SLICE) {
            self.hash_rows(&rows.slice(from, SLICE.min(rows.num_rows() - from)), &converter, &mut hashes)?;
        }
        Ok(hashes)
    }

    /// What fails is halved until the rows that fail are alone: see [`super::project`].
    fn hash_rows(
        &self,
        rows: &RecordBatch,
        converter: &RowConverter,
        hashes: &mut Vec<Option<u64>>,
    ) -> Result<(), DataFusionError> {
        let count = rows.num_rows();
        let groups = self.groups.iter().map(|c| Ok(normal(value(c, rows)?)));
        match groups.collect::<Result<Vec<ArrayRef>, DataFusionError>>() {
            _ if count == 0 => {}
            Ok(groups) => {
                hashes.extend(converter.convert_columns(&groups)?.iter().map(|group| Some(hash_group(group.as_ref()))));
            }
            Err(_) if count == 1 => hashes.push(None),
            Err(_) => {
                for (from, count) in [(0, count / 2), (count / 2, count - count / 2)] {
                    self.hash_rows(&rows.slice(from, count), converter, hashes)?;
                }
            }
        }
        Ok(())
    }
}
