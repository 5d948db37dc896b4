//! Tables: upserts in offset order become rows with the interval of `now()` in which each is current.
//!
//! A table without event time has one version per key, current always; one with event time keeps all versions, each
//! current from its event time until the next. The output is a differential collection of `[from, until) ++ row`.
//!
//! Invariants: within an epoch upserts apply in (partition, offset) order whatever the order of arrival. Neighbours:
//! `join` indexes the output by each join's key.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow::row::{RowConverter, SortField};
use differential_dataflow::{AsCollection, VecCollection};
use rustc_hash::FxHashMap;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::operator::Operator;

use super::rows::{Diff, Row, Time};
use crate::definition::{Source, SourceKind};

/// A record of a table on its way to the worker that owns its key.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Upsert {
    /// The primary key, in row format.
    pub key: Row,
    /// (event time or minimum, partition, offset).
    pub place: (i64, i32, i64),
    /// The whole row in row format; `None` for a tombstone.
    pub row: Option<Row>,
    /// Its epoch.
    pub epoch: Time,
}

/// Bytes of the interval before the row.
pub const INTERVAL: usize = 16;

/// A row with the interval in which it is current.
pub fn with_interval(from: i64, until: i64, row: &[u8]) -> Row {
    Row::cat(&[&from.to_le_bytes(), &until.to_le_bytes(), row])
}

/// The interval in front of a row.
pub fn interval(bytes: &[u8]) -> (i64, i64) {
    let at = |n: usize| i64::from_le_bytes(bytes[n..n + 8].try_into().expect("eight bytes"));
    (at(0), at(8))
}

/// Converts a table's batches into upserts.
pub struct UpsertReader {
    key: Vec<usize>,
    keys: RowConverter,
    rows: RowConverter,
    timed: bool,
    columns: [usize; 4],
}

impl UpsertReader {
    /// For one table.
    ///
    /// # Errors
    /// Key or row types that have no row format.
    pub fn new(table: &Source) -> Result<UpsertReader, arrow::error::ArrowError> {
        let schema = table.row_schema();
        let SourceKind::Table { key } = &table.kind else {
            return Err(arrow::error::ArrowError::SchemaError(format!("{} is not a table", table.name)));
        };
        let field = |n: &usize| SortField::new(schema.field(*n).data_type().clone());
        let at = |name: &str| schema.index_of(name);
        Ok(UpsertReader {
            keys: RowConverter::new(key.iter().map(field).collect())?,
            rows: RowConverter::new(schema.fields().iter().map(|f| SortField::new(f.data_type().clone())).collect())?,
            key: key.clone(),
            timed: table.event_time.is_some(),
            columns: [at("_event_time")?, at("_partition")?, at("_offset")?, at("_deleted")?],
        })
    }

    /// The upserts of a batch, all at `epoch` if one is given, else each at its own.
    ///
    /// # Errors
    /// A batch of another schema.
    pub fn read(&self, batch: &RecordBatch, epoch: Option<Time>) -> Result<Vec<Upsert>, arrow::error::ArrowError> {
        let columns = batch.columns();
        let keys: Vec<_> = self.key.iter().map(|k| Arc::clone(&columns[*k])).collect();
        let (keys, rows) = (self.keys.convert_columns(&keys)?, self.rows.convert_columns(columns)?);
        let event_time = columns[self.columns[0]].as_primitive::<TimestampMicrosecondType>();
        let partition = columns[self.columns[1]].as_primitive::<Int32Type>();
        let offset = columns[self.columns[2]].as_primitive::<Int64Type>();
        let deleted = columns[self.columns[3]].as_boolean();
        let epochs = batch.column(batch.schema().index_of("_epoch")?).as_primitive::<TimestampMicrosecondType>();
        let upsert = |n: usize| Upsert {
            key: Row::from_slice(keys.row(n).as_ref()),
            place: (
                if self.timed && event_time.is_valid(n) { event_time.value(n) } else { i64::MIN },
                partition.value(n),
                offset.value(n),
            ),
            row: (!deleted.value(n)).then(|| Row::from_slice(rows.row(n).as_ref())),
            epoch: epoch.unwrap_or_else(|| epochs.value(n).cast_unsigned()),
        };
        Ok((0..batch.num_rows()).map(upsert).collect())
    }
}

/// The versions of one key.
#[derive(Default)]
struct Versions(BTreeMap<(i64, i32, i64), Option<Row>>);

impl Versions {
    /// The rows and their intervals, as they are now.
    fn intervals(&self) -> Vec<(i64, i64, &Row)> {
        let mut found = vec![];
        let mut following = self.0.iter().skip(1).map(|(place, _)| place.0).chain([i64::MAX]);
        for ((from, _, _), row) in &self.0 {
            let until = following.next().unwrap_or(i64::MAX);
            // Versions of one instant: only the last of them is ever current.
            if let Some(row) = row
                && *from < until
            {
                found.push((*from, until, row));
            }
        }
        found
    }

    fn take(&mut self, upsert: Upsert, timed: bool) {
        if timed {
            self.0.insert(upsert.place, upsert.row);
            return;
        }
        let later = self.0.last_key_value().is_none_or(|(place, _)| *place <= upsert.place);
        if later {
            self.0.clear();
            self.0.insert(upsert.place, upsert.row);
        }
    }
}

/// Keeps a table: each epoch's upserts, in order, as changes of its rows.
pub fn versions<'s>(
    upserts: StreamVec<'s, Time, Upsert>,
    name: &str,
    timed: bool,
) -> VecCollection<'s, Time, Row, Diff> {
    let by_key = Exchange::new(|u: &Upsert| xxhash_rust::xxh3::xxh3_64(&u.key));
    type Out = CapacityContainerBuilder<Vec<(Row, Time, Diff)>>;
    upserts
        .unary_frontier::<Out, _, _, _>(by_key, &format!("table {name}"), move |cap, _info| {
            let mut cap = Some(cap);
            let mut pending: BTreeMap<Time, Vec<Upsert>> = BTreeMap::new();
            let mut keys: FxHashMap<Row, Versions> = FxHashMap::default();
            move |(input, frontier), output| {
                input.for_each(|_message, data| {
                    for upsert in data.drain(..) {
                        pending.entry(upsert.epoch).or_default().push(upsert);
                    }
                });
                let Some(held) = cap.as_mut() else { return };
                let Some(&closed) = frontier.frontier().first() else {
                    cap = None;
                    return;
                };
                while let Some(first) = pending.first_entry().filter(|e| *e.key() < closed) {
                    let (epoch, mut batch) = first.remove_entry();
                    batch.sort_by_key(|u| (u.place.1, u.place.2));
                    let at = held.delayed(&epoch);
                    let mut out = output.session(&at);
                    for upsert in batch {
                        let versions = keys.entry(upsert.key.clone()).or_default();
                        for (from, until, row) in versions.intervals() {
                            out.give((with_interval(from, until, row), epoch, -1));
                        }
                        versions.take(upsert, timed);
                        for (from, until, row) in versions.intervals() {
                            out.give((with_interval(from, until, row), epoch, 1));
                        }
                    }
                }
                if closed > *held.time() {
                    held.downgrade(&closed);
                }
            }
        })
        .as_collection()
}
