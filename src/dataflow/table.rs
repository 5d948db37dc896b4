//! Tables: upserts become rows with the interval of `now()` in which each is valid.
//!
//! A table without event time has one version per key, valid always: the last by partition and offset. One with event time
//! keeps all versions, each valid from its event time until the next by (event time, partition, offset); a tombstone is a
//! version without a row. A late version changes its predecessor's end, and nothing else.
//!
//! ```text
//! key 1: `a` from 5        a [5, MAX)
//! key 1: `b` from 9        a [5, MAX) leaves, a [5, 9) and b [9, MAX) come
//! key 1: gone from 7       a [5, 9) leaves, a [5, 7) comes
//! ```
//!
//! Invariants: within an epoch upserts apply in (partition, offset) order whatever the order of arrival; of equal keys
//! there is one (−0 is 0). Neighbours: `join` finds the key that a join asks for, `overlap` joins.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::row::{RowConverter, SortField};
use rustc_hash::FxHashMap;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::operator::Operator;

use super::rows::{Dated, Diff, Row, Time};
use crate::definition::{Source, SourceKind};
use crate::event::EventBatch;
use crate::plan::project::normal;

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

/// Converts a table's batches into upserts.
pub struct UpsertReader {
    key: Vec<usize>,
    keys: RowConverter,
    rows: RowConverter,
    timed: bool,
    deleted: usize,
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
        Ok(UpsertReader {
            keys: RowConverter::new(key.iter().map(field).collect())?,
            rows: RowConverter::new(schema.fields().iter().map(|f| SortField::new(f.data_type().clone())).collect())?,
            key: key.clone(),
            timed: table.event_time.is_some(),
            deleted: schema.index_of("_deleted")?,
        })
    }

    /// The upserts of a batch, all at `epoch` if one is given, else each at its own.
    ///
    /// # Errors
    /// A batch of another schema.
    pub fn read(&self, batch: &EventBatch, epoch: Option<Time>) -> Result<Vec<Upsert>, arrow::error::ArrowError> {
        let columns = batch.rows().columns();
        let keys: Vec<_> = self.key.iter().map(|k| normal(Arc::clone(&columns[*k]))).collect();
        let (keys, rows) = (self.keys.convert_columns(&keys)?, self.rows.convert_columns(columns)?);
        let (event_times, epochs) = (batch.event_times(), batch.epochs());
        let (partitions, offsets) = (batch.partitions(), batch.offsets());
        let deleted = columns[self.deleted].as_boolean();
        let upsert = |n: usize| Upsert {
            key: Row::from_slice(keys.row(n).as_ref()),
            place: (
                if self.timed && event_times.is_valid(n) { event_times.value(n) } else { i64::MIN },
                partitions[n],
                offsets[n],
            ),
            row: (!deleted.value(n)).then(|| Row::from_slice(rows.row(n).as_ref())),
            epoch: epoch.unwrap_or_else(|| epochs[n].cast_unsigned()),
        };
        Ok((0..batch.len()).map(upsert).collect())
    }
}

/// The versions of one key, tombstones included, in the order of their places.
#[derive(Default)]
struct Versions(Vec<((i64, i32, i64), Option<Row>)>);

impl Versions {
    /// Takes an upsert; `give` gets what changes of the rows and of when they are valid.
    fn upsert(&mut self, upsert: Upsert, timed: bool, give: &mut impl FnMut(Dated, Diff)) {
        if !timed {
            return self.replace(upsert, give);
        }
        let at = self.0.partition_point(|(place, _)| *place < upsert.place);
        if self.0.get(at).is_some_and(|(place, _)| *place == upsert.place) {
            // The same record again: it says what is valid from here on.
            self.give_valid(at, self.end(at), -1, give);
            self.0[at].1 = upsert.row;
            return self.give_valid(at, self.end(at), 1, give);
        }

        // The version before it, if any, ends here instead of where it did; no other changes.
        let (from, next) = (upsert.place.0, self.start(at));
        if let Some(before) = at.checked_sub(1) {
            self.give_valid(before, next, -1, give);
            self.give_valid(before, from, 1, give);
        }
        if self.0.is_empty() {
            self.0.reserve_exact(1);
        }
        self.0.insert(at, (upsert.place, upsert.row));
        self.give_valid(at, next, 1, give);
    }

    /// Without event time the last record is the row, at every instant.
    fn replace(&mut self, upsert: Upsert, give: &mut impl FnMut(Dated, Diff)) {
        if self.0.first().is_some_and(|(place, _)| *place > upsert.place) {
            return;
        }
        if !self.0.is_empty() {
            self.give_valid(0, i64::MAX, -1, give);
        }
        self.0.clear();
        self.0.reserve_exact(1);
        self.0.push((upsert.place, upsert.row));
        self.give_valid(0, i64::MAX, 1, give);
    }

    /// Where the n-th version starts to be valid; for ever away if there is none.
    fn start(&self, n: usize) -> i64 {
        self.0.get(n).map_or(i64::MAX, |((from, _, _), _)| *from)
    }

    /// Where the n-th version ends.
    fn end(&self, n: usize) -> i64 {
        self.start(n + 1)
    }

    /// Gives the n-th version as valid up to an instant. Of versions of one instant only the last is ever valid.
    fn give_valid(&self, n: usize, valid_to: i64, diff: Diff, give: &mut impl FnMut(Dated, Diff)) {
        let ((valid_from, _, _), row) = &self.0[n];
        if let Some(row) = row
            && *valid_from < valid_to
        {
            give(Dated { row: row.clone(), valid_from: *valid_from, valid_to }, diff);
        }
    }
}

/// Keeps a table: each epoch's upserts, in order, as changes of its rows and of when they are valid.
pub fn versions<'s>(
    upserts: StreamVec<'s, Time, Upsert>,
    name: &str,
    timed: bool,
) -> StreamVec<'s, Time, (Dated, Time, Diff)> {
    let by_key = Exchange::new(|u: &Upsert| xxhash_rust::xxh3::xxh3_64(&u.key));
    type Out = CapacityContainerBuilder<Vec<(Dated, Time, Diff)>>;
    upserts.unary_frontier::<Out, _, _, _>(by_key, &format!("table {name}"), move |cap, _info| {
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

            // Epoch by epoch, each in the order of its records: workers may have read them in any.
            while let Some(first) = pending.first_entry().filter(|e| *e.key() < closed) {
                let (epoch, mut batch) = first.remove_entry();
                batch.sort_by_key(|u| (u.place.1, u.place.2));
                let at = held.delayed(&epoch);
                let mut out = output.session(&at);
                for upsert in batch {
                    let versions = keys.entry(upsert.key.clone()).or_default();
                    versions.upsert(upsert, timed, &mut |row, diff| out.give((row, epoch, diff)));
                }
            }
            if closed > *held.time() {
                held.downgrade(&closed);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// What is valid when, from the places alone.
    fn valid(places: &BTreeMap<(i64, i32, i64), Option<Row>>) -> BTreeMap<Dated, Diff> {
        let ends = places.keys().skip(1).map(|place| place.0).chain([i64::MAX]);
        let row = |((place, row), valid_to): ((&(i64, i32, i64), &Option<Row>), i64)| {
            let row = row.clone().filter(|_| place.0 < valid_to)?;
            Some((Dated { row, valid_from: place.0, valid_to }, 1))
        };
        places.iter().zip(ends).filter_map(row).collect()
    }

    #[test]
    fn a_version_is_valid_until_the_next_whatever_the_order() {
        for seed in 0..50 {
            let mut rng = StdRng::seed_from_u64(seed);
            let (mut versions, mut places) = (Versions::default(), BTreeMap::new());
            let mut got = BTreeMap::<Dated, Diff>::new();
            for offset in 0..80i64 {
                // Few instants, so that versions of one instant are common; one in four is a tombstone.
                let place = (rng.random_range(0..20), rng.random_range(0..2), offset);
                let row = rng.random_bool(0.75).then(|| Row::from_slice(&offset.to_le_bytes()));
                places.insert(place, row.clone());
                let (mut changes, upsert) = (0, Upsert { key: Row::default(), place, row, epoch: 1 });
                versions.upsert(upsert, true, &mut |row, diff| {
                    changes += 1;
                    *got.entry(row).or_default() += diff;
                });
                got.retain(|_, diff| *diff != 0);
                assert_eq!(got, valid(&places), "seed {seed}, after {offset}");
                assert!(changes <= 3, "only its neighbour is touched: {changes}");
            }
        }
    }

    #[test]
    fn without_event_time_the_last_offset_counts() {
        let mut versions = Versions::default();
        let mut got = BTreeMap::<Dated, Diff>::new();
        let mut check = |place: (i32, i64), row: Option<&[u8]>, want: Option<&[u8]>| {
            let place = (i64::MIN, place.0, place.1);
            let upsert = Upsert { key: Row::default(), place, row: row.map(Row::from_slice), epoch: 1 };
            versions.upsert(upsert, false, &mut |row, diff| *got.entry(row).or_default() += diff);
            got.retain(|_, diff| *diff != 0);
            let row = |r: &[u8]| Dated { row: Row::from_slice(r), valid_from: i64::MIN, valid_to: i64::MAX };
            assert_eq!(got, want.map(|r| (row(r), 1)).into_iter().collect(), "after {place:?}");
        };
        check((0, 5), Some(b"a"), Some(b"a"));
        check((0, 4), Some(b"b"), Some(b"a"));
        check((0, 6), Some(b"c"), Some(b"c"));
        check((0, 7), None, None);
        check((0, 8), Some(b"d"), Some(b"d"));
        check((0, 9), Some(b"d"), Some(b"d"));
    }
}
