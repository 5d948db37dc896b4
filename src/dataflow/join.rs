//! Joins of a stream with tables, on differential arrangements: a change on either side re-derives the results.
//!
//! A row on its way is a prefix (event time, partition, offset, counts-from, flags) and its columns in Arrow's row format;
//! the format of several columns is that of each, one after the other, so joining is appending. A table row current in
//! `[from, until)` makes a row count from `max(counts-from, from)` as it did, until `max(counts-from, until)` negated.
//! A left join adds the row with nulls, and takes it back where any table row of its key is current.
//!
//! Invariants: nothing of the stream is forgotten, since any table row may come, change or go later. Neighbours: `table`
//! makes the intervals, `project` evaluates what comes out.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use datafusion::common::DataFusionError;
use differential_dataflow::operators::arrange::arrangement::Arranged;
use differential_dataflow::operators::arrange::{Arrange, TraceAgent};
use differential_dataflow::{AsCollection, VecCollection};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::vec::Map;

use super::rows::{Diff, Row, RowBatcher, RowBuilder, RowSpine, Time};
use super::table::{INTERVAL, interval};
use crate::fold::entry::CLOSING;
use crate::plan::operator::{Compiled, JoinPlan, ViewPlan};

/// A collection of encoded rows.
pub type Rows<'s> = VecCollection<'s, Time, Row, Diff>;
type Keyed<'s> = VecCollection<'s, Time, (Row, Row), Diff>;
type Index<'s> = Arranged<'s, TraceAgent<RowSpine>>;

/// Bytes before the columns of a row.
pub const PREFIX: usize = 29;

/// What stands before a row's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// µs.
    pub event_time: i64,
    /// Of the stream's event.
    pub partition: i32,
    /// Of the stream's event.
    pub offset: i64,
    /// From when the row counts.
    pub counts_from: i64,
    /// See [`CLOSING`].
    pub flags: u8,
}

impl Prefix {
    /// As bytes.
    pub fn encode(self) -> [u8; PREFIX] {
        let mut bytes = [0; PREFIX];
        bytes[..8].copy_from_slice(&self.event_time.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.partition.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.offset.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.counts_from.to_le_bytes());
        bytes[28] = self.flags;
        bytes
    }

    /// From the bytes in front of a row.
    pub fn decode(bytes: &[u8]) -> Prefix {
        let at = |n: usize| i64::from_le_bytes(bytes[n..n + 8].try_into().expect("eight bytes"));
        Prefix {
            event_time: at(0),
            partition: i32::from_le_bytes(bytes[8..12].try_into().expect("four bytes")),
            offset: at(12),
            counts_from: at(20),
            flags: bytes[28],
        }
    }
}

/// Rows of some columns, between bytes and Arrow.
pub struct Codec {
    schema: SchemaRef,
    converter: RowConverter,
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
    pub fn encode(&self, batch: &RecordBatch) -> Result<arrow::row::Rows, ArrowError> {
        self.converter.convert_columns(batch.columns())
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
        let columns = self.exprs.iter().map(|c| c.expr.evaluate(batch)?.into_array(batch.num_rows()));
        let columns = columns.collect::<Result<Vec<_>, DataFusionError>>()?;
        let rows = self.converter.convert_columns(&columns)?;
        let null = |n: usize| columns.iter().any(|c| c.is_null(n));
        Ok((0..batch.num_rows()).map(|n| (!null(n)).then(|| Row::from_slice(rows.row(n).as_ref()))).collect())
    }

    /// As [`Keys::of`], asking row by row where the batch fails; a row without a key of its own matches nothing.
    fn of_each(&self, batch: &RecordBatch) -> Vec<Option<Row>> {
        self.of(batch).unwrap_or_else(|_| {
            let one = |n: usize| self.of(&batch.slice(n, 1)).ok().and_then(|mut k| k.pop()).flatten();
            (0..batch.num_rows()).map(one).collect()
        })
    }
}

/// The schema of a row after the stream and its first `joins` tables.
fn schema_after(plan: &ViewPlan, joins: usize) -> SchemaRef {
    let width = plan.stream_columns.len() + plan.joins[..joins].iter().map(|j| j.table_columns.len()).sum::<usize>();
    Arc::new(Schema::new(plan.row.fields()[..width].to_vec()))
}

/// The stream's rows, encoded: prefix and the plan's stream columns.
///
/// # Errors
/// A batch of another schema.
pub fn encode_stream(plan: &ViewPlan, codec: &Codec, batch: &RecordBatch) -> Result<Vec<Row>, ArrowError> {
    use arrow::array::AsArray;
    use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
    let schema = batch.schema();
    let column = |name: &str| schema.index_of(name).map(|n| batch.column(n));
    let event_time = column("_event_time")?.as_primitive::<TimestampMicrosecondType>();
    let partition = column("_partition")?.as_primitive::<Int32Type>();
    let offset = column("_offset")?.as_primitive::<Int64Type>();
    let rows = codec.encode(&batch.project(&plan.stream_columns)?)?;
    let encode = |n: usize| {
        let time = event_time.value(n);
        let place = (partition.value(n), offset.value(n));
        let prefix = Prefix { event_time: time, partition: place.0, offset: place.1, counts_from: time, flags: 0 };
        Row::cat(&[&prefix.encode(), rows.row(n).as_ref()])
    };
    Ok((0..batch.num_rows()).map(encode).collect())
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
pub fn joined<'s>(plan: &ViewPlan, stream: Rows<'s>, tables: Vec<Rows<'s>>) -> Result<Rows<'s>, ArrowError> {
    let mut rows = stream;
    for (n, (join, table)) in plan.joins.iter().zip(tables).enumerate() {
        rows = one_join(plan, n, join, rows, table)?;
    }
    Ok(rows)
}

fn one_join<'s>(
    plan: &ViewPlan,
    n: usize,
    join: &JoinPlan,
    rows: Rows<'s>,
    table: Rows<'s>,
) -> Result<Rows<'s>, ArrowError> {
    let name = format!("{} {}", plan.name, join.table.name);
    let keys = Keys::new(&join.row_key)?;
    let codec = Codec::new(schema_after(plan, n))?;
    let nulls = null_row(join)?;
    let left = join.left;
    let keyed: Keyed<'s> = batched(rows.clone(), &format!("key of {name}"), move |batch| {
        let decoded = codec.decode(batch.iter().map(|r| &r[PREFIX..])).expect("rows decode as they were encoded");
        let keys = keys.of_each(&decoded);
        batch.iter().zip(keys).map(|(row, key)| key.map(|k| (k, row.clone()))).collect()
    });
    let rows_index: Index<'s> = keyed.arrange_named::<RowBatcher, RowBuilder, RowSpine>(&format!("rows of {name}"));
    let table_index = index_table(join, table, &name)?;
    let matched = unfold(
        rows_index
            .clone()
            .join_core(table_index.clone(), |_key, row, table| clipped(row, interval(table), &table[INTERVAL..], 0)),
    );
    if !left {
        return Ok(matched);
    }
    // The row with nulls, less where its key has any current table row.
    let all = {
        let nulls = nulls.clone();
        rows.map(move |row| Row::cat(&[&row, &nulls]))
    };
    let covered = table_index.reduce_abelian::<_, RowBuilder, RowSpine, _, _>(
        &format!("cover of {name}"),
        |_key, rows, out| {
            let intervals = rows.iter().filter(|(_, d)| *d > 0).map(|(row, _)| interval(row)).collect();
            for (from, until) in union(intervals) {
                out.push((Row::cat(&[&from.to_le_bytes(), &until.to_le_bytes()]), 1));
            }
        },
        |out, key, updates| {
            out.clear();
            out.extend(updates.drain(..).map(|(v, t, d)| ((Row::from_slice(key), v), t, d)));
        },
    );
    // Taking the null row back, where that is not from its start on, closes it.
    let taken =
        unfold(rows_index.join_core(covered, move |_key, row, cover| clipped(row, interval(cover), &nulls, CLOSING)));
    Ok(matched.concat(all).concat(taken.negate()))
}

/// Mark of a row that ends another: a join's closure can only give rows, [`unfold`] negates the marked ones.
const NEGATE: u8 = 1 << 7;

/// A row as it counts while a table row is current: from, and negated until.
/// `late`: flags of a row that starts to count later than the row it was made of.
fn clipped(row: &[u8], (from, until): (i64, i64), columns: &[u8], late: u8) -> Clipped {
    let prefix = Prefix::decode(row);
    let (from, until) = (prefix.counts_from.max(from), prefix.counts_from.max(until));
    let late = if from > prefix.counts_from { late } else { 0 };
    if from >= until {
        return Clipped { row: None, until: None };
    }
    let at = |counts_from: i64, flags: u8| {
        Row::cat(&[&Prefix { counts_from, flags, ..prefix }.encode(), &row[PREFIX..], columns])
    };
    let end = (until != i64::MAX).then(|| at(until, prefix.flags | CLOSING | NEGATE));
    Clipped { row: Some(at(from, prefix.flags | late)), until: end }
}

/// Negates the rows that end others.
fn unfold<'s>(rows: Rows<'s>) -> Rows<'s> {
    rows.inner
        .map(|(mut row, time, diff)| {
            if row[PREFIX - 1] & NEGATE == 0 {
                return (row, time, diff);
            }
            row.0[PREFIX - 1] &= !NEGATE;
            (row, time, -diff)
        })
        .as_collection()
}

/// What [`clipped`] makes: an iterator that allocates only its rows. The closing row has a flag, and is given negated by
/// [`unfold`].
struct Clipped {
    row: Option<Row>,
    until: Option<Row>,
}

impl Iterator for Clipped {
    type Item = Row;
    fn next(&mut self) -> Option<Row> {
        self.row.take().or_else(|| self.until.take())
    }
}

/// The table's rows by the join's key: interval, then the columns that the row gains.
fn index_table<'s>(join: &JoinPlan, table: Rows<'s>, name: &str) -> Result<Index<'s>, ArrowError> {
    let schema = join.table.row_schema();
    let codec = Codec::new(Arc::clone(&schema))?;
    let gained = Codec::new(Arc::new(schema.project(&join.table_columns)?))?;
    let keys = Keys::new(&join.table_key)?;
    let (filter, columns) = (join.table_filter.clone(), join.table_columns.clone());
    let keyed: Keyed<'s> = batched(table, &format!("key of table {name}"), move |batch| {
        let decoded = codec.decode(batch.iter().map(|r| &r[INTERVAL..])).expect("rows decode as they were encoded");
        let keys = keys.of_each(&decoded);
        let gained = decoded.project(&columns).and_then(|b| gained.encode(&b)).expect("columns of the same schema");
        let passes = |n: usize| filter.as_ref().is_none_or(|f| passes(f, &decoded.slice(n, 1)));
        let pair = |n: usize, key: Option<Row>| {
            let key = key.filter(|_| passes(n))?;
            Some((key, Row::cat(&[&batch[n][..INTERVAL], gained.row(n).as_ref()])))
        };
        keys.into_iter().enumerate().map(|(n, key)| pair(n, key)).collect()
    });
    Ok(keyed.arrange_named::<RowBatcher, RowBuilder, RowSpine>(&format!("table of {name}")))
}

fn passes(filter: &Compiled, row: &RecordBatch) -> bool {
    use arrow::array::AsArray;
    let held = filter.expr.evaluate(row).and_then(|v| v.into_array(1));
    held.is_ok_and(|a| a.data_type() == &DataType::Boolean && a.is_valid(0) && a.as_boolean().value(0))
}

fn null_row(join: &JoinPlan) -> Result<Row, ArrowError> {
    let schema = join.table.row_schema().project(&join.table_columns)?;
    let nulls: Vec<_> = schema.fields().iter().map(|f| new_null_array(f.data_type(), 1)).collect();
    if nulls.is_empty() {
        return Ok(Row::default());
    }
    let fields = schema.fields().iter().map(|f| SortField::new(f.data_type().clone())).collect();
    let converter = RowConverter::new(fields)?;
    Ok(Row::from_slice(converter.convert_columns(&nulls)?.row(0).as_ref()))
}

/// The union of intervals, in order.
fn union(mut intervals: Vec<(i64, i64)>) -> Vec<(i64, i64)> {
    intervals.sort_unstable();
    let mut merged: Vec<(i64, i64)> = vec![];
    for (from, until) in intervals {
        match merged.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(until),
            _ => merged.push((from, until)),
        }
    }
    merged
}

/// Maps rows a message at a time, so that expressions run over batches; `None` drops a row.
fn batched<'s>(
    rows: Rows<'s>,
    name: &str,
    mut map: impl FnMut(&[Row]) -> Vec<Option<(Row, Row)>> + 'static,
) -> Keyed<'s> {
    type Out = CapacityContainerBuilder<Vec<((Row, Row), Time, Diff)>>;
    rows.inner
        .unary::<Out, _, _, _>(Pipeline, name, move |_cap, _info| {
            move |input, output| {
                input.for_each(|cap, data| {
                    let (batch, rest): (Vec<Row>, Vec<(Time, Diff)>) =
                        data.drain(..).map(|(r, t, d)| (r, (t, d))).unzip();
                    let mapped = map(&batch);
                    let kept = mapped.into_iter().zip(rest).filter_map(|(pair, (t, d))| Some((pair?, t, d)));
                    output.session(&cap).give_iterator(kept);
                });
            }
        })
        .as_collection()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_unite() {
        let check = |given: &[(i64, i64)], want: &[(i64, i64)]| assert_eq!(union(given.to_vec()), want);
        check(&[], &[]);
        check(&[(5, 9), (0, 5)], &[(0, 9)]);
        check(&[(5, 9), (0, 4), (6, 7)], &[(0, 4), (5, 9)]);
    }

    #[test]
    fn a_row_counts_while_its_table_row_is_current() {
        let prefix = Prefix { event_time: 5, partition: 0, offset: 1, counts_from: 5, flags: 0 };
        let row = Row::cat(&[&prefix.encode(), b"x"]);
        let check = |from: i64, until: i64, want: &[(i64, u8)]| {
            let got: Vec<_> = clipped(&row, (from, until), b"y", 0).map(|r| Prefix::decode(&r)).collect();
            assert_eq!(got.iter().map(|p| (p.counts_from, p.flags)).collect::<Vec<_>>(), want);
        };
        check(i64::MIN, i64::MAX, &[(5, 0)]);
        check(7, i64::MAX, &[(7, 0)]);
        check(0, 8, &[(5, 0), (8, CLOSING | NEGATE)]);
        check(0, 5, &[]);
    }
}
