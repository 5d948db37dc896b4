//! From decoded columns to a batch of complete rows: system columns, and the source's conditions over all rows at once.
//!
//! Invariants: a row that a condition refuses is taken out whole; tombstones carry only their key and are not checked.
//! Neighbours: `decode` owns the columns; `constraint` evaluates; `replay` completes epochs with [`with_epochs`].

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::builder::NullBufferBuilder;
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Int32Array, Int64Array, RecordBatch,
    TimestampMicrosecondArray, new_null_array,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::compute::filter;
use arrow::datatypes::{Field, Schema, SchemaRef, TimestampMicrosecondType};

use super::Rejected;
use super::constraint::Condition;
use super::decode::{DecoderError, NO_TIME};
use crate::definition::{Source, timestamp};
use crate::time::{Epoch, format_instant, is_of_calendar};

/// In `_arrival_time` until the epoch is known: the row arrives with its epoch.
const ARRIVES_WITH_EPOCH: i64 = i64::MIN;

/// What came with the records that made it into the columns.
#[derive(Debug, Default)]
pub(super) struct Rows {
    partitions: Vec<i32>,
    offsets: Vec<i64>,
    /// [`NO_TIME`] for none.
    timestamps: Vec<i64>,
    times: Vec<i64>,
    /// Payloads, one after the other, and where each ends: a condition may still refuse the record.
    payloads: Vec<u8>,
    payload_ends: Vec<usize>,
    keys: Vec<u8>,
    key_ends: Vec<i32>,
    keyed: Vec<bool>,
    deleted: Vec<bool>,
    tombstones: usize,
}

impl Rows {
    pub(super) fn len(&self) -> usize {
        self.offsets.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.payloads.len().max(self.keys.len())
    }

    /// What was pushed; room for as much again stays.
    pub(super) fn take(&mut self) -> Rows {
        let n = self.len();
        let next = Rows {
            partitions: Vec::with_capacity(n),
            offsets: Vec::with_capacity(n),
            timestamps: Vec::with_capacity(n),
            times: Vec::with_capacity(n),
            payloads: Vec::with_capacity(self.payloads.len()),
            payload_ends: Vec::with_capacity(n),
            keys: Vec::with_capacity(self.keys.len()),
            key_ends: Vec::with_capacity(n),
            keyed: Vec::with_capacity(n),
            deleted: Vec::with_capacity(n),
            tombstones: 0,
        };
        std::mem::replace(self, next)
    }

    pub(super) fn push(
        &mut self,
        partition: i32,
        offset: i64,
        timestamp: Option<i64>,
        time: i64,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
    ) {
        self.partitions.push(partition);
        self.offsets.push(offset);
        self.timestamps.push(timestamp.unwrap_or(NO_TIME));
        self.times.push(time);
        self.payloads.extend_from_slice(payload.unwrap_or_default());
        self.payload_ends.push(self.payloads.len());
        self.keys.extend_from_slice(key.unwrap_or_default());
        self.key_ends.push(i32::try_from(self.keys.len()).expect("a full batch is finished before more is pushed"));
        self.keyed.push(key.is_some());
        self.deleted.push(payload.is_none());
        self.tombstones += usize::from(payload.is_none());
    }

    fn key(&self, row: usize) -> Option<Vec<u8>> {
        let start = if row == 0 { 0 } else { self.key_ends[row - 1] };
        let place = usize::try_from(start).expect("a length")..usize::try_from(self.key_ends[row]).expect("a length");
        self.keyed[row].then(|| self.keys[place].to_vec())
    }

    fn payload(&self, row: usize) -> Vec<u8> {
        let place: Range<usize> = (if row == 0 { 0 } else { self.payload_ends[row - 1] })..self.payload_ends[row];
        self.payloads[place].to_vec()
    }

    fn timestamp_column(&self) -> TimestampMicrosecondArray {
        let mut valid = NullBufferBuilder::new(self.len());
        for t in &self.timestamps {
            valid.append(*t != NO_TIME);
        }
        TimestampMicrosecondArray::new(self.timestamps.clone().into(), valid.finish())
    }

    fn key_column(&self) -> BinaryArray {
        let ends = std::iter::once(0).chain(self.key_ends.iter().copied()).collect::<Vec<i32>>();
        let valid = self.keyed.contains(&false).then(|| NullBuffer::from(self.keyed.clone()));
        BinaryArray::new(OffsetBuffer::new(ends.into()), Buffer::from(self.keys.as_slice()), valid)
    }
}

/// A source's conditions, compiled, and the shape of its rows.
#[derive(Debug)]
pub(super) struct Rules {
    checks: Vec<(Condition, String)>,
    event_time: Option<Condition>,
    arrival_time: Option<Condition>,
    /// What conditions see: the declared columns, and from Kafka `_key` and `_timestamp`.
    visible: SchemaRef,
    row: SchemaRef,
}

/// The instants of a batch, and why some rows are refused.
struct Judged {
    event: Option<TimestampMicrosecondArray>,
    arrival: Vec<i64>,
    reasons: BTreeMap<usize, String>,
}

impl Rules {
    pub(super) fn new(source: &Source) -> Result<Rules, DecoderError> {
        let row = source.row_schema();
        let nullable = |f: &Field| f.clone().with_nullable(true);
        let mut fields: Vec<Field> = source.declared_schema().fields().iter().map(|f| nullable(f)).collect();
        for name in ["_key", "_timestamp"] {
            fields.extend(row.field_with_name(name).ok().map(nullable));
        }
        let visible = Schema::new(fields);
        let fault =
            |text: String| move |e| DecoderError::Expression { source_name: source.name.clone(), text, source: e };
        let instant = |expr: &Option<datafusion::sql::sqlparser::ast::Expr>| {
            let compiled = expr.as_ref().map(|e| Condition::instant(e, &visible).map_err(fault(e.to_string())));
            compiled.transpose()
        };
        let checks = source
            .checks
            .iter()
            .map(|c| Ok((Condition::check(&c.expr, &visible).map_err(fault(c.text.clone()))?, c.text.clone())));
        Ok(Rules {
            checks: checks.collect::<Result<_, DecoderError>>()?,
            event_time: instant(&source.event_time)?,
            arrival_time: instant(&source.arrival_time)?,
            visible: Arc::new(visible),
            row,
        })
    }

    /// The rows that stand, with their record times; the others go to `refused`.
    pub(super) fn apply(
        &self,
        source: &Source,
        mut declared: Vec<ArrayRef>,
        rows: Rows,
        epoch: Option<Epoch>,
        bounded_future: bool,
        refused: &mut Vec<(Rejected, i64)>,
    ) -> (Option<RecordBatch>, Vec<i64>) {
        let mut origin: Vec<ArrayRef> = vec![];
        if source.is_kafka() {
            origin = vec![Arc::new(rows.key_column()), Arc::new(rows.timestamp_column())];
        }
        let visible = declared.iter().chain(&origin).cloned().collect();
        let visible = RecordBatch::try_new(Arc::clone(&self.visible), visible).expect("columns are even and typed");
        let Judged { event, arrival, reasons } = self.judge(source, &visible, &rows, epoch, bounded_future);

        let n = rows.len();
        declared.push(match event {
            Some(event) => Arc::new(event),
            None => new_null_array(&timestamp(), n),
        });
        declared.push(Arc::new(TimestampMicrosecondArray::from(arrival)));
        declared.push(Arc::new(TimestampMicrosecondArray::from(vec![epoch.map_or(0, Epoch::micros); n])));
        declared.push(Arc::new(Int32Array::from(rows.partitions.clone())));
        declared.push(Arc::new(Int64Array::from(rows.offsets.clone())));
        declared.extend(origin);
        if source.is_table() {
            declared.push(Arc::new(BooleanArray::from(rows.deleted.clone())));
        }
        let mut times = rows.times.clone();
        if !reasons.is_empty() {
            let keep: Vec<bool> = (0..n).map(|row| !reasons.contains_key(&row)).collect();
            let mut kept = keep.iter();
            times.retain(|_| *kept.next().expect("one per row"));
            let keep = BooleanArray::from(keep);
            for column in &mut declared {
                *column = filter(column, &keep).expect("the mask is as long as the column");
            }
            refused.extend(reasons.into_iter().map(|(row, reason)| rejection(source, &rows, row, reason)));
        }
        if times.is_empty() {
            return (None, times);
        }
        (Some(RecordBatch::try_new(Arc::clone(&self.row), declared).expect("nulls have been refused")), times)
    }

    fn judge(
        &self,
        source: &Source,
        visible: &RecordBatch,
        rows: &Rows,
        epoch: Option<Epoch>,
        bounded_future: bool,
    ) -> Judged {
        let mut reasons = BTreeMap::new();
        let mut refuse = |row: usize, reason: String| {
            if !rows.deleted[row] {
                reasons.entry(row).or_insert(reason);
            }
        };
        for (check, text) in &self.checks {
            let found = check.holds(visible);
            found.failed.into_iter().for_each(|(row, why)| refuse(row, format!("check: {text}: {why}")));
            if found.values.has_false() {
                let no = |row: &usize| found.values.is_valid(*row) && !found.values.value(*row);
                (0..rows.len()).filter(no).for_each(|row| refuse(row, format!("check: {text}")));
            }
        }
        let mut event = None;
        if let Some(condition) = &self.event_time {
            let found = condition.instants(visible);
            found.failed.into_iter().for_each(|(row, why)| refuse(row, format!("event_time: {why}")));
            let values = with_tombstones(found.values, rows);
            for row in (0..rows.len()).filter(|row| values.is_null(*row)) {
                if rows.deleted[row] {
                    reasons.insert(row, "event_time: a record without a payload needs a timestamp".into());
                } else {
                    reasons.entry(row).or_insert_with(|| "event_time: there is none".into());
                }
            }
            for (row, at) in
                (0..).zip(values.values()).filter(|(row, at)| values.is_valid(*row) && !is_of_calendar(**at))
            {
                reasons.entry(row).or_insert_with(|| not_of_calendar("event_time", *at));
            }
            event = Some(values);
        }
        let arrival = self.arrivals(visible, rows, epoch, &mut reasons);
        if let (true, Some(event)) = (bounded_future, &event) {
            for (row, &arrived) in arrival.iter().enumerate() {
                let ahead = event.value(row) > arrived.saturating_add(source.future);
                if ahead && arrived != ARRIVES_WITH_EPOCH && event.is_valid(row) {
                    let (event, arrived) = (format_instant(event.value(row)), format_instant(arrived));
                    let bound = source.future / 1_000_000;
                    reasons.entry(row).or_insert_with(|| {
                        format!("future: event time {event} is more than {bound} seconds after its arrival, {arrived}")
                    });
                }
            }
        }
        Judged { event, arrival, reasons }
    }

    /// `ARRIVAL TIME`, else the record's timestamp, else the epoch, which may not be known yet.
    fn arrivals(
        &self,
        visible: &RecordBatch,
        rows: &Rows,
        epoch: Option<Epoch>,
        reasons: &mut BTreeMap<usize, String>,
    ) -> Vec<i64> {
        let at_epoch = epoch.map_or(ARRIVES_WITH_EPOCH, Epoch::micros);
        let mut arrival: Vec<i64> = rows.timestamps.iter().map(|t| if *t == NO_TIME { at_epoch } else { *t }).collect();
        if let Some(condition) = &self.arrival_time {
            let found = condition.instants(visible);
            for (row, why) in found.failed.into_iter().filter(|(row, _)| !rows.deleted[*row]) {
                reasons.entry(row).or_insert_with(|| format!("arrival_time: {why}"));
            }
            for (row, arrived) in arrival.iter_mut().enumerate() {
                if found.values.is_valid(row) {
                    *arrived = found.values.value(row);
                    if !is_of_calendar(*arrived) {
                        reasons.entry(row).or_insert_with(|| not_of_calendar("arrival_time", *arrived));
                    }
                }
            }
        }
        arrival
    }
}

fn not_of_calendar(what: &str, micros: i64) -> String {
    format!("{what}: {micros} microseconds since 1970 are beyond the calendar: it is perhaps of another unit")
}

/// A tombstone happened when its record says.
fn with_tombstones(event: TimestampMicrosecondArray, rows: &Rows) -> TimestampMicrosecondArray {
    if rows.tombstones == 0 {
        return event;
    }
    let value = |row: usize| match rows.deleted[row] {
        true => Some(rows.timestamps[row]).filter(|t| *t != NO_TIME),
        false => event.is_valid(row).then(|| event.value(row)),
    };
    (0..rows.len()).map(value).collect()
}

fn rejection(source: &Source, rows: &Rows, row: usize, reason: String) -> (Rejected, i64) {
    let rejected = Rejected {
        source: source.name.clone(),
        view: None,
        partition: rows.partitions[row],
        offset: rows.offsets[row],
        reason,
        epoch: 0,
        key: rows.key(row),
        bytes: rows.payload(row),
    };
    (rejected, rows.times[row])
}

/// Gives rows that were decoded without an epoch theirs: one per row, in microseconds. Sets `_epoch`, and
/// `_arrival_time` where nothing but the epoch says when the row arrived.
pub fn with_epochs(batch: &RecordBatch, epochs: Vec<i64>) -> RecordBatch {
    let schema = batch.schema();
    let mut columns = batch.columns().to_vec();
    let arrival = schema.index_of("_arrival_time").expect("every row has it");
    let known = columns[arrival].as_primitive::<TimestampMicrosecondType>();
    if known.values().contains(&ARRIVES_WITH_EPOCH) {
        let pairs = known.values().iter().zip(&epochs);
        let filled = pairs.map(|(a, e)| if *a == ARRIVES_WITH_EPOCH { *e } else { *a }).collect::<Vec<i64>>();
        columns[arrival] = Arc::new(TimestampMicrosecondArray::from(filled));
    }
    let epoch = schema.index_of("_epoch").expect("every row has it");
    columns[epoch] = Arc::new(TimestampMicrosecondArray::from(epochs));
    RecordBatch::try_new(schema, columns).expect("one epoch per row")
}

/// Is the row's arrival its epoch, not yet known?
pub(super) fn arrives_with_epoch(arrival: i64) -> bool {
    arrival == ARRIVES_WITH_EPOCH
}
