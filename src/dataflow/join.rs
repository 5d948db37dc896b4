//! Joins of a stream with tables: a change on either side changes the results, whenever it comes.
//!
//! A row on its way is its place (event time, partition, offset) and its columns in Arrow's row format, valid from its event
//! time until `WHERE` admits it no more. The format of several columns is that of each, one after the other, so joining is
//! appending. Each join is three operators: one finds the key of each row, one that of each row of the table, and one
//! keeps both sides by key (`overlap`). In the end each joined row counts from where it starts to be valid, and a
//! closing one takes it back where it ends.
//!
//! A row on which a key or the table's condition in `ON` fails is refused for this view alone (`judge`), and joins nothing.
//!
//! Invariants: all that a view's windows can see of a join comes out, and no row is valid when none can see it. Neighbours:
//! `table` makes the versions, `plan::project` evaluates what comes out.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{DataType, Int32Type, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use datafusion::common::DataFusionError;
use datafusion::physical_expr::expressions::{CastExpr, Column};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::operator::Operator;

use super::Shared;
use super::judge::{Refusal, Refusals, judged};
use super::overlap::{Change, Kind, Overlap};
use super::rows::{Dated, Diff, Row, Time, sortable, unsortable};
use crate::definition::SourceKind;
use crate::event::EventBatch;
use crate::fold::entry::CLOSING;
use crate::plan::operator::{Compiled, JoinPlan, ViewPlan};
use crate::plan::project::{holds, normal, value};

/// Changes of dated rows.
pub type Rows<'s> = StreamVec<'s, Time, (Dated, Time, Diff)>;
/// Changes of dated rows, each with its key.
pub type Keyed<'s, K> = StreamVec<'s, Time, ((K, Dated), Time, Diff)>;

/// Where a stream's event stands: the first bytes of its row, which sort like the event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// µs.
    pub event_time: i64,
    /// Of the stream's event.
    pub partition: i32,
    /// Of the stream's event.
    pub offset: i64,
}

/// Bytes of a [`Place`].
const PLACE: usize = 20;

impl Place {
    fn encode(self) -> [u8; PLACE] {
        let mut bytes = [0; PLACE];
        bytes[..8].copy_from_slice(&sortable(self.event_time));
        bytes[8..12].copy_from_slice(&self.partition.to_be_bytes());
        bytes[12..].copy_from_slice(&self.offset.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Place {
        Place {
            event_time: unsortable(bytes),
            partition: i32::from_be_bytes(bytes[8..12].try_into().expect("four bytes")),
            offset: i64::from_be_bytes(bytes[12..20].try_into().expect("eight bytes")),
        }
    }
}

/// One update of a joined row: the row, and from when it counts more, or less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// The event's.
    pub place: Place,
    /// From when the update counts.
    pub counts_from: i64,
    /// See [`CLOSING`].
    pub flags: u8,
}

impl Point {
    /// Bytes before the columns.
    pub const BYTES: usize = PLACE + 9;

    /// The updates that a change of a joined row is. `end`: the instant from which no window wants the row.
    pub fn updates((row, time, diff): (Dated, Time, Diff), end: i64) -> impl Iterator<Item = (Row, Time, Diff)> {
        let (place, columns) = row.row.split_at(PLACE);
        let at = |instant: i64, flags: u8| Row::cat(&[place, &instant.to_le_bytes(), &[flags], columns]);
        let closing = (row.valid_to < end).then(|| (at(row.valid_to, CLOSING), time, -diff));
        [Some((at(row.valid_from, 0), time, diff)), closing].into_iter().flatten()
    }

    /// From the bytes in front of a row.
    pub fn decode(bytes: &[u8]) -> Point {
        let counts_from = i64::from_le_bytes(bytes[PLACE..PLACE + 8].try_into().expect("eight bytes"));
        Point { place: Place::decode(bytes), counts_from, flags: bytes[PLACE + 8] }
    }
}

/// The instant from which no window wants a joined row.
pub fn end_of(plan: &ViewPlan, row: &Row) -> i64 {
    plan.fold.admitted_until(unsortable(row))
}

/// Rows of some columns, between bytes and Arrow. No columns are no bytes.
pub struct Codec {
    schema: SchemaRef,
    converter: RowConverter,
}

/// A batch's rows as bytes.
pub struct Encoded(Option<arrow::row::Rows>);

impl Encoded {
    /// The n-th row.
    pub fn row(&self, n: usize) -> &[u8] {
        self.0.as_ref().map_or(&[], |rows| rows.row(n).data())
    }
}

impl Codec {
    /// For a schema.
    ///
    /// # Errors
    /// A type without a row format.
    pub fn new(schema: SchemaRef) -> Result<Codec, ArrowError> {
        let fields = schema.fields().iter().map(|f| SortField::new(f.data_type().clone())).collect();
        Ok(Codec { converter: RowConverter::new(fields)?, schema })
    }

    /// The columns of encoded rows.
    ///
    /// # Errors
    /// Bytes of another schema.
    pub fn decode<'a>(&self, rows: impl ExactSizeIterator<Item = &'a [u8]>) -> Result<RecordBatch, ArrowError> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let parser = self.converter.parser();
        let columns = self.converter.convert_rows(rows.map(|r| parser.parse(r)))?;
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
    }

    /// Encodes a batch's rows.
    ///
    /// # Errors
    /// A batch of another schema.
    pub fn encode(&self, batch: &RecordBatch) -> Result<Encoded, ArrowError> {
        if self.schema.fields().is_empty() {
            // Arrow makes no rows of no columns.
            return Ok(Encoded(None));
        }
        Ok(Encoded(Some(self.converter.convert_columns(batch.columns())?)))
    }
}

/// Evaluates a join key over batches: encoded keys, `None` where a part is null (such a row matches nothing).
struct Keys {
    exprs: Vec<Compiled>,
    converter: RowConverter,
}

impl Keys {
    fn new(exprs: &[Compiled]) -> Result<Keys, ArrowError> {
        let fields = exprs.iter().map(|c| SortField::new(c.data_type.clone())).collect();
        Ok(Keys { exprs: exprs.to_vec(), converter: RowConverter::new(fields)? })
    }

    fn of(&self, batch: &RecordBatch) -> Result<Vec<Option<Row>>, DataFusionError> {
        // As SQL's `=` has it: −0 is 0, and NaN is NaN.
        let columns = self.exprs.iter().map(|c| Ok(normal(value(c, batch)?)));
        let columns = columns.collect::<Result<Vec<_>, DataFusionError>>()?;
        let rows = self.converter.convert_columns(&columns)?;
        let null = |n: usize| columns.iter().any(|c| c.is_null(n));
        Ok((0..batch.num_rows()).map(|n| (!null(n)).then(|| Row::from_slice(rows.row(n).as_ref()))).collect())
    }
}

/// What `of` says of each row; where it fails on the batch, of each row alone.
fn each<T>(
    batch: &RecordBatch,
    of: impl Fn(&RecordBatch) -> Result<Vec<T>, DataFusionError>,
) -> Vec<Result<T, String>> {
    let alone = |n: usize| {
        let found = of(&batch.slice(n, 1)).map_err(|e| e.strip_backtrace())?;
        found.into_iter().next().ok_or_else(|| "it has no value".to_string())
    };
    match of(batch) {
        Ok(all) => all.into_iter().map(Ok).collect(),
        Err(_) => (0..batch.num_rows()).map(alone).collect(),
    }
}

/// The schema of a row after the stream and its first `joins` tables.
fn schema_after(plan: &ViewPlan, joins: usize) -> SchemaRef {
    let width = plan.stream_columns.len() + plan.joins[..joins].iter().map(|j| j.table_columns.len()).sum::<usize>();
    Arc::new(Schema::new(plan.row.fields()[..width].to_vec()))
}

/// The stream's rows that `WHERE` may ever admit, encoded: each with its number in the batch.
///
/// # Errors
/// A batch of another schema.
pub fn encode_stream(plan: &ViewPlan, codec: &Codec, batch: &EventBatch) -> Result<Vec<(usize, Dated)>, ArrowError> {
    let (event_times, partitions, offsets) = (batch.event_times(), batch.partitions(), batch.offsets());
    let rows = codec.encode(&batch.rows().project(&plan.stream_columns)?)?;
    let encode = |n: usize| {
        let place = Place { event_time: event_times.value(n), partition: partitions[n], offset: offsets[n] };
        let (valid_from, valid_to) = (place.event_time, plan.fold.admitted_until(place.event_time));
        let row = || Row::cat(&[&place.encode(), rows.row(n)]);
        (valid_from < valid_to).then(|| (n, Dated { row: row(), valid_from, valid_to }))
    };
    Ok((0..batch.len()).filter_map(encode).collect())
}

/// A codec for the rows that enter the first join.
///
/// # Errors
/// A type without a row format.
pub fn stream_codec(plan: &ViewPlan) -> Result<Codec, ArrowError> {
    Codec::new(schema_after(plan, 0))
}

/// Joins the stream's rows with all tables of the plan. `tables`: each join's table as [`super::table::versions`] gives it.
///
/// # Errors
/// Types without a row format; found before anything runs.
pub fn joined<'s>(
    plan: &Arc<ViewPlan>,
    stream: Rows<'s>,
    tables: Vec<Rows<'s>>,
    shared: &Arc<Shared>,
) -> Result<Rows<'s>, ArrowError> {
    let mut rows = stream;
    for (n, (join, table)) in plan.joins.iter().zip(tables).enumerate() {
        let name = format!("{} {}", plan.name, join.table.name);
        let keyed = key_rows(plan, n, rows, &name, shared)?;
        let versions = key_versions(plan, join, table, &name, shared)?;
        let kind = Kind {
            reach: plan.fold.admit.until,
            one_version: is_primary_key(join),
            nulls: join.left.then(|| null_row(join)).transpose()?,
        };
        // What a restart feeds again, the last join has given before.
        let silent = if n + 1 == plan.joins.len() { shared.resumed } else { 0 };
        rows = overlapped(keyed, versions, &format!("join of {name}"), kind, silent);
    }
    Ok(rows)
}

/// Finds the key of each row; none matches nothing, which a left join keeps.
fn key_rows<'s>(
    plan: &Arc<ViewPlan>,
    n: usize,
    rows: Rows<'s>,
    name: &str,
    shared: &Arc<Shared>,
) -> Result<Keyed<'s, Option<Row>>, ArrowError> {
    let join = &plan.joins[n];
    let (keys, codec, left) = (Keys::new(&join.row_key)?, Codec::new(schema_after(plan, n))?, join.left);
    let refusals = Refusals::new(plan, &plan.stream.name, shared);
    Ok(judged(rows, &format!("key of {name}"), refusals, move |rows| {
        let decoded = codec.decode(rows.iter().map(|r| &r.row[PLACE..])).expect("rows decode as they were encoded");
        let key = |(key, row): (Result<Option<Row>, String>, &Dated)| match key {
            Ok(None) if !left => Ok(None),
            Ok(key) => Ok(Some((key, row.row.clone()))),
            Err(reason) => {
                let Place { partition, offset, .. } = Place::decode(&row.row);
                Err(Refusal { partition, offset, reason })
            }
        };
        each(&decoded, |batch| keys.of(batch)).into_iter().zip(rows).map(key).collect()
    }))
}

/// Finds the key of each of the table's rows that the table's condition in `ON` admits, and the columns that it brings.
fn key_versions<'s>(
    plan: &ViewPlan,
    join: &JoinPlan,
    table: Rows<'s>,
    name: &str,
    shared: &Arc<Shared>,
) -> Result<Keyed<'s, Row>, ArrowError> {
    let schema = join.table.row_schema();
    let codec = Codec::new(Arc::clone(&schema))?;
    let gained = Codec::new(Arc::new(schema.project(&join.table_columns)?))?;
    let keys = Keys::new(&join.table_key)?;
    let (filter, columns) = (join.table_filter.clone(), join.table_columns.clone());
    let (partition, offset) = (schema.index_of("_partition")?, schema.index_of("_offset")?);
    let refusals = Refusals::new(plan, &join.table.name, shared);
    Ok(judged(table, &format!("key of table {name}"), refusals, move |rows| {
        let decoded = codec.decode(rows.iter().map(|r| &r.row[..])).expect("rows decode as they were encoded");
        let gained = decoded.project(&columns).and_then(|b| gained.encode(&b)).expect("columns of the same schema");
        let partitions = decoded.column(partition).as_primitive::<Int32Type>();
        let offsets = decoded.column(offset).as_primitive::<Int64Type>();
        let keys = each(&decoded, |batch| {
            let mut found = keys.of(batch)?;
            if let Some(filter) = &filter {
                let passes = value(filter, batch)?;
                found
                    .iter_mut()
                    .enumerate()
                    .filter(|(n, _)| !holds(passes.as_boolean(), *n))
                    .for_each(|(_, k)| *k = None);
            }
            Ok(found)
        });
        let pair = |(n, key): (usize, Result<Option<Row>, String>)| match key {
            Ok(key) => Ok(key.map(|key| (key, Row::from_slice(gained.row(n))))),
            Err(reason) => Err(Refusal { partition: partitions.value(n), offset: offsets.value(n), reason }),
        };
        keys.into_iter().enumerate().map(pair).collect()
    }))
}

/// Are the primary key's columns among those that the join compares? Then one version of a key is valid at a time.
fn is_primary_key(join: &JoinPlan) -> bool {
    let column = |c: &Compiled| {
        // Integers of two sizes are compared as the larger; no two become one.
        let inner = match c.expr.downcast_ref::<CastExpr>() {
            Some(cast) if c.data_type == DataType::Int64 => cast.expr(),
            _ => &c.expr,
        };
        let index = inner.downcast_ref::<Column>().map(Column::index)?;
        let from = join.table.row_schema().field(index).data_type().clone();
        (from == c.data_type || from == DataType::Int32).then_some(index)
    };
    let SourceKind::Table { key } = &join.table.kind else { return false };
    let compared: Vec<usize> = join.table_key.iter().filter_map(column).collect();
    key.iter().all(|k| compared.contains(k))
}

fn null_row(join: &JoinPlan) -> Result<Row, ArrowError> {
    let schema = Arc::new(join.table.row_schema().project(&join.table_columns)?);
    let nulls = schema.fields().iter().map(|f| new_null_array(f.data_type(), 1)).collect();
    let nullable = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>();
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let batch = RecordBatch::try_new_with_options(Arc::new(Schema::new(nullable)), nulls, &options)?;
    Ok(Row::from_slice(Codec::new(schema)?.encode(&batch)?.row(0)))
}

/// One epoch's changes of both sides, and rows without a key.
#[derive(Default)]
struct Changes {
    rows: Vec<Change>,
    versions: Vec<Change>,
    unmatched: Vec<(Dated, Diff)>,
}

/// Keeps both sides by key and gives what changes of the join, epoch by epoch; nothing up to the epoch `silent`.
fn overlapped<'s>(
    rows: Keyed<'s, Option<Row>>,
    versions: Keyed<'s, Row>,
    name: &str,
    kind: Kind,
    silent: Time,
) -> Rows<'s> {
    type Out = CapacityContainerBuilder<Vec<(Dated, Time, Diff)>>;
    let hash = |row: &Row| xxhash_rust::xxh3::xxh3_64(row);
    let by_key =
        Exchange::new(move |((k, r), _, _): &((Option<Row>, Dated), Time, Diff)| hash(k.as_ref().unwrap_or(&r.row)));
    let by_version = Exchange::new(move |((k, _), _, _): &((Row, Dated), Time, Diff)| hash(k));
    rows.binary_frontier::<_, Out, _, _, _, _>(versions, by_key, by_version, name, move |cap, _info| {
        let mut cap = Some(cap);
        let (nulls, mut state) = (kind.nulls.clone(), Overlap::new(kind));
        let mut pending: BTreeMap<Time, Changes> = BTreeMap::new();
        move |(rows, rows_frontier), (versions, versions_frontier), output| {
            // Step 1. What has come waits for the end of its epoch.
            rows.for_each(|_message, data| {
                for ((key, row), time, diff) in data.drain(..) {
                    let changes = pending.entry(time).or_default();
                    match key {
                        Some(key) => changes.rows.push(((key, row), diff)),
                        None => changes.unmatched.push((row, diff)),
                    }
                }
            });
            versions.for_each(|_message, data| {
                for (version, time, diff) in data.drain(..) {
                    pending.entry(time).or_default().versions.push((version, diff));
                }
            });

            // Step 2. An epoch is over when it is over on both sides.
            let Some(held) = cap.as_mut() else { return };
            let ends = (rows_frontier.frontier().first().copied(), versions_frontier.frontier().first().copied());
            let (Some(a), Some(b)) = ends else {
                cap = None;
                return;
            };
            let closed = a.min(b);

            // Step 3. Epoch by epoch: the state is always that of one.
            while let Some(first) = pending.first_entry().filter(|e| *e.key() < closed) {
                let (epoch, Changes { rows, versions, unmatched }) = first.remove_entry();
                let at = held.delayed(&epoch);
                let mut out = output.session(&at);
                let mut give = |row: Dated, diff: Diff| {
                    if epoch > silent {
                        out.give((row, epoch, diff));
                    }
                };
                state.step(rows, versions, &mut give);
                for (row, diff) in unmatched {
                    let Some(nulls) = &nulls else { continue };
                    give(Dated { row: Row::cat(&[&row.row, nulls]), ..row }, diff);
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
    use super::*;

    #[test]
    fn a_row_counts_while_it_is_valid() {
        let place = Place { event_time: -5, partition: 3, offset: 1 };
        let row = Row::cat(&[&place.encode(), b"columns"]);
        let check = |valid: (i64, i64), end: i64, want: &[(i64, u8, Diff)]| {
            let dated = Dated { row: row.clone(), valid_from: valid.0, valid_to: valid.1 };
            let got: Vec<_> = Point::updates((dated, 7, 1), end).collect();
            let points: Vec<_> = got.iter().map(|(r, _, d)| (Point::decode(r), *d)).collect();
            assert_eq!(points.iter().map(|(p, d)| (p.counts_from, p.flags, *d)).collect::<Vec<_>>(), want);
            assert!(points.iter().all(|(p, _)| p.place == place));
            assert!(got.iter().all(|(r, time, _)| &r[Point::BYTES..] == b"columns" && *time == 7));
        };
        check((-5, i64::MAX), i64::MAX, &[(-5, 0, 1)]);
        check((-5, 8), i64::MAX, &[(-5, 0, 1), (8, CLOSING, -1)]);
        // What no window wants any more need not be taken back.
        check((7, 20), 20, &[(7, 0, 1)]);
        check((7, 19), 20, &[(7, 0, 1), (19, CLOSING, -1)]);
    }

    #[test]
    fn rows_of_no_columns_are_rows() {
        let codec = Codec::new(Arc::new(Schema::empty())).expect("no types");
        let options = RecordBatchOptions::new().with_row_count(Some(3));
        let batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).expect("no columns");
        let encoded = codec.encode(&batch).expect("no columns");
        let rows: Vec<&[u8]> = (0..3).map(|n| encoded.row(n)).collect();
        assert_eq!(rows, [b"", b"", b""]);
        assert_eq!(codec.decode(rows.into_iter()).expect("no columns").num_rows(), 3);
    }
}
