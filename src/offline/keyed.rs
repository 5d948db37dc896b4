//! One copy of a stream's events per group key, sorted by group: what all views with that key are answered from.
//!
//! A row is the hash of its group, then the event with all its columns. A view reads the columns that it needs, and its
//! own projection makes updates of them: its `WHERE` decides then, and what it refuses is refused again, in silence, since
//! the quarantine has it. An event on which the group's own expressions fail is in no view's groups, and not in the copy.
//!
//! Invariants: a key has its copy of everything that is sealed, since no key comes to a store later on: other definitions
//! are refused; the hash that is stored is the one that every view with the key gives the row; parts come in the order of
//! hashes. Neighbours: `plan::keyed` is the key, `seal` writes the copy, `by_hash` and point reads take their updates
//! from it.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use datafusion::common::DataFusionError;

use super::OfflineError;
use crate::definition::Source;
use crate::event::EventBatch;
use crate::fold::entry::Updates;
use crate::plan::keyed::GroupKey;
use crate::plan::operator::ViewPlan;
use crate::plan::project::Projector;

/// The columns of a copy: `_hash`, then the stream's rows.
pub(super) fn schema(stream: &Source) -> SchemaRef {
    let mut fields = vec![Arc::new(Field::new("_hash", DataType::UInt64, false))];
    fields.extend(stream.row_schema().fields().iter().cloned());
    Arc::new(Schema::new(fields))
}

/// The rows that a copy has of some events, in its order: (hash, row).
pub(super) fn order(key: &GroupKey, events: &EventBatch) -> Result<Vec<(u64, u32)>, DataFusionError> {
    let hashes = key.hashes(events.rows())?;
    let rows = (0u32..).zip(hashes).filter_map(|(row, hash)| Some((hash?, row)));
    let mut order: Vec<(u64, u32)> = rows.collect();
    let (times, partitions, offsets) = (events.event_times().values(), events.partitions(), events.offsets());
    order.sort_unstable_by_key(|(hash, row)| {
        let row = *row as usize;
        (*hash, times[row], partitions[row], offsets[row])
    });
    Ok(order)
}

/// Some rows of a copy.
pub(super) fn rows(events: &RecordBatch, order: &[(u64, u32)], schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let places = UInt32Array::from_iter_values(order.iter().map(|(_, row)| *row));
    let taken = take_record_batch(events, &places)?;
    let hashes = Arc::new(UInt64Array::from_iter_values(order.iter().map(|(hash, _)| *hash))) as ArrayRef;
    let columns = std::iter::once(hashes).chain(taken.columns().iter().cloned());
    RecordBatch::try_new(Arc::clone(schema), columns.collect())
}

/// How a view reads its copy.
pub(super) struct Reading {
    /// The columns of the copy that are read, in its order: the hash, the view's, and the epoch.
    pub(super) columns: Vec<usize>,
    /// Where the view's own are among these.
    own: Vec<usize>,
    epoch: usize,
}

impl Reading {
    /// Of a view without joins.
    pub(super) fn of(plan: &ViewPlan) -> Result<Reading, ArrowError> {
        let epoch = plan.stream.row_schema().index_of("_epoch")?;
        // Behind the hash.
        let mut columns: Vec<usize> = plan.stream_columns.iter().chain([&epoch]).map(|c| c + 1).collect();
        columns.push(0);
        columns.sort_unstable();
        columns.dedup();
        let place = |column: &usize| columns.binary_search(&(column + 1)).expect("it is one of these");
        let (own, epoch) = (plan.stream_columns.iter().map(place).collect(), place(&epoch));
        Ok(Reading { columns, own, epoch })
    }

    /// The updates that rows of the copy are, in the order of hashes.
    pub(super) fn updates(&self, projector: &Projector, batch: &RecordBatch) -> Result<Vec<Updates>, OfflineError> {
        let wrong = || ArrowError::SchemaError("not rows of a copy of events".into());
        let epochs = batch.columns().get(self.epoch).and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
        let epochs = epochs.ok_or_else(wrong)?.values();
        let mut updates = projector.project(&batch.project(&self.own)?, epochs, None, 1)?.updates;
        updates.retain(|part| !part.is_empty());
        // Each part is a run of the rows; the last one that was begun stands first.
        updates.sort_by_key(|part| (part.hashes.first().copied(), part.hashes.last().copied()));
        Ok(updates)
    }
}
