//! Aggregates of many groups at once, as the oracle runs them: in one partition, so that there are no partial states.
//!
//! Invariant: DataFusion never asks for a state, nor merges one; if it does, that is an error and no answer.
//! Neighbours: `oracle_functions`, `oracle_lists`, `oracle_statistics` and `oracle_values` compute; `recompute` plans for one
//! partition.

use arrow::array::{ArrayRef, BooleanArray};
use datafusion::common::{Result, internal_err};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};

/// What an aggregate has seen, by group.
pub(super) trait Groups: Send + 'static {
    /// Takes rows in: the arguments, each row's group, which rows count (all without `filter`), how many groups there are.
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()>;
    /// The values of the groups to be given, which are forgotten then.
    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef>;
    /// Bytes, roughly.
    fn size(&self) -> usize;
}

/// For DataFusion.
pub(super) fn whole(groups: impl Groups) -> Result<Box<dyn GroupsAccumulator>> {
    Ok(Box::new(Whole(groups)))
}

struct Whole<G>(G);

impl<G: Groups> GroupsAccumulator for Whole<G> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.0.update_batch(values, groups, filter, total)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        self.0.evaluate(emit_to)
    }

    fn state(&mut self, _: EmitTo) -> Result<Vec<ArrayRef>> {
        internal_err!("the oracle aggregates in one partition")
    }

    fn merge_batch(&mut self, _: &[ArrayRef], _: &[usize], _: usize) -> Result<()> {
        internal_err!("the oracle aggregates in one partition")
    }

    fn convert_to_state(&self, _: &[ArrayRef], _: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        internal_err!("the oracle aggregates in one partition")
    }

    fn size(&self) -> usize {
        self.0.size()
    }
}
