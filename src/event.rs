//! Batches of a source's rows: where a row stands in time and in its source, read by name once.
//!
//! Every row of the engine carries system columns behind the declared ones ([`SYSTEM_COLUMNS`]). Whoever needs them asks
//! an [`EventBatch`], so their names and types are written here and where the schema is made, and nowhere else.
//!
//! Invariants: a batch that is not of a `row_schema` does not become an [`EventBatch`]; only `_event_time` has nulls.
//! Neighbours: `definition` makes the schema, `source` the rows; everything behind it reads them.
//!
//! [`SYSTEM_COLUMNS`]: crate::definition::SYSTEM_COLUMNS

use arrow::array::{Array, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow::error::ArrowError;

use crate::time::Epoch;

/// Instants in µs since 1970-01-01 UTC, some of them perhaps missing.
pub type Instants = PrimitiveArray<TimestampMicrosecondType>;

/// Rows of one source in its `row_schema`.
#[derive(Clone, Debug)]
pub struct EventBatch {
    rows: RecordBatch,
    event_time: usize,
    arrival_time: usize,
    epoch: usize,
    partition: usize,
    offset: usize,
}

impl EventBatch {
    /// Takes a batch for one of events.
    ///
    /// # Errors
    /// A system column is missing, of another type, or has nulls where it may not.
    pub fn new(rows: RecordBatch) -> Result<EventBatch, ArrowError> {
        let place = |name: &str| rows.schema_ref().index_of(name);
        let batch = EventBatch {
            event_time: place("_event_time")?,
            arrival_time: place("_arrival_time")?,
            epoch: place("_epoch")?,
            partition: place("_partition")?,
            offset: place("_offset")?,
            rows,
        };
        batch.check::<TimestampMicrosecondType>(batch.event_time, true)?;
        batch.check::<TimestampMicrosecondType>(batch.arrival_time, false)?;
        batch.check::<TimestampMicrosecondType>(batch.epoch, false)?;
        batch.check::<Int32Type>(batch.partition, false)?;
        batch.check::<Int64Type>(batch.offset, false)?;
        Ok(batch)
    }

    fn check<T: ArrowPrimitiveType>(&self, column: usize, nullable: bool) -> Result<(), ArrowError> {
        let array = self.rows.column(column);
        let name = self.rows.schema_ref().field(column).name();
        if array.as_primitive_opt::<T>().is_none() {
            return Err(ArrowError::SchemaError(format!("{name} of an event is {}", array.data_type())));
        }
        if !nullable && array.null_count() > 0 {
            return Err(ArrowError::SchemaError(format!("an event without {name}")));
        }
        Ok(())
    }

    /// All columns, the declared ones first.
    pub fn rows(&self) -> &RecordBatch {
        &self.rows
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// No row?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When each happened; null for a row of a table that has no event time.
    pub fn event_times(&self) -> &Instants {
        self.rows.column(self.event_time).as_primitive()
    }

    /// When each arrived, in µs.
    pub fn arrival_times(&self) -> &[i64] {
        self.rows.column(self.arrival_time).as_primitive::<TimestampMicrosecondType>().values()
    }

    /// The epoch of each, in µs.
    pub fn epochs(&self) -> &[i64] {
        self.rows.column(self.epoch).as_primitive::<TimestampMicrosecondType>().values()
    }

    /// The partition that each came from.
    pub fn partitions(&self) -> &[i32] {
        self.rows.column(self.partition).as_primitive::<Int32Type>().values()
    }

    /// The offset of each in its partition.
    pub fn offsets(&self) -> &[i64] {
        self.rows.column(self.offset).as_primitive::<Int64Type>().values()
    }

    /// Rows `from..from + count`, without a copy.
    pub fn slice(&self, from: usize, count: usize) -> EventBatch {
        EventBatch { rows: self.rows.slice(from, count), ..*self }
    }
}

/// The rows of a batch of the log, of events or of updates, with epoch <= `until`.
///
/// # Errors
/// A batch without epochs.
pub fn up_to(batch: &RecordBatch, until: Epoch) -> Result<RecordBatch, ArrowError> {
    let column = batch.column(batch.schema_ref().index_of("_epoch")?);
    let wrong = || ArrowError::SchemaError(format!("_epoch of a row is {}", column.data_type()));
    let epochs = column.as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(wrong)?.values();
    // Most batches are of one commit, and pass as they are.
    if epochs.iter().all(|e| *e <= until.micros()) {
        return Ok(batch.clone());
    }
    filter_record_batch(batch, &BooleanArray::from_iter(epochs.iter().map(|e| Some(*e <= until.micros()))))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int32Array, Int64Array, TimestampMicrosecondArray};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::definition::{SYSTEM_COLUMNS, timestamp};

    /// Rows as (event time, epoch, offset); `other` replaces columns by name.
    fn batch(rows: &[(Option<i64>, i64, i64)], other: &[(&str, ArrayRef)]) -> RecordBatch {
        let instants = |v: Vec<Option<i64>>| Arc::new(TimestampMicrosecondArray::from(v)) as ArrayRef;
        let columns: [ArrayRef; 5] = [
            instants(rows.iter().map(|r| r.0).collect()),
            instants(rows.iter().map(|r| Some(r.1 + 1)).collect()),
            instants(rows.iter().map(|r| Some(r.1)).collect()),
            Arc::new(Int32Array::from(vec![3; rows.len()])),
            Arc::new(Int64Array::from(rows.iter().map(|r| r.2).collect::<Vec<_>>())),
        ];
        let columns = SYSTEM_COLUMNS.iter().zip(columns).map(|(name, column)| {
            let column = other.iter().find(|(n, _)| n == name).map_or(column, |(_, c)| Arc::clone(c));
            (Field::new(*name, column.data_type().clone(), true), column)
        });
        let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = columns.unzip();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("one length")
    }

    #[test]
    fn system_columns_are_read_by_name() {
        let events = EventBatch::new(batch(&[(Some(5), 10, 0), (None, 20, 1), (Some(7), 30, 2)], &[])).expect("events");
        assert_eq!((events.len(), events.is_empty()), (3, false));
        assert_eq!(events.event_times().iter().collect::<Vec<_>>(), [Some(5), None, Some(7)]);
        assert_eq!(events.arrival_times(), [11, 21, 31]);
        assert_eq!(events.epochs(), [10, 20, 30]);
        assert_eq!((events.partitions(), events.offsets()), (&[3, 3, 3][..], &[0, 1, 2][..]));
        let part = events.slice(1, 2);
        assert_eq!((part.epochs(), part.offsets()), (&[20, 30][..], &[1, 2][..]));
    }

    #[test]
    fn the_log_is_cut_at_an_epoch() {
        let rows = batch(&[(Some(5), 10, 0), (None, 20, 1), (Some(7), 30, 2)], &[]);
        let count = |until: u64| up_to(&rows, Epoch(until)).expect("a log").num_rows();
        assert_eq!([0, 9, 10, 19, 20, 30, 99].map(count), [0, 0, 1, 1, 2, 3, 3]);
    }

    #[test]
    fn other_batches_are_no_events() {
        let rows = [(Some(5), 10, 0)];
        let check = |other: &[(&str, ArrayRef)], what: &str| {
            let refused = EventBatch::new(batch(&rows, other)).expect_err("it is refused").to_string();
            assert!(refused.contains(what), "{refused}");
        };
        check(&[("_epoch", Arc::new(Int64Array::from(vec![10])))], "_epoch of an event is Int64");
        let none = Arc::new(TimestampMicrosecondArray::from(vec![None::<i64>]));
        assert_eq!(none.data_type(), &timestamp());
        check(&[("_epoch", none)], "an event without _epoch");
        let short = batch(&rows, &[]).project(&[0, 1, 2, 3]).expect("four columns");
        assert!(EventBatch::new(short).expect_err("it is refused").to_string().contains("_offset"));
        let no_type = DataType::Null;
        assert!(
            up_to(&RecordBatch::new_empty(Arc::new(Schema::new(vec![Field::new("_epoch", no_type, true)]))), Epoch(1))
                .is_err()
        );
    }
}
