//! One source of a replay, put in time order: its rows and refused records, each with its epoch.
//!
//! The order is (epoch, partition, offset). A file that is in order already keeps its batches as they are; otherwise an
//! index over them is sorted. Invariants: epochs do not decrease along a lane; whatever was taken up to an instant in
//! an earlier run is left out by its time alone, because no epoch is ever split.
//! Neighbours: `replay` merges lanes; `decode` fills them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::{concat_batches, interleave_record_batch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};

use super::Rejected;
use super::assemble::arrives_with_epoch;
use super::decode::{Decoded, NO_TIME, with_epochs};
use super::replay::ReplayClock;
use crate::definition::Source;
use crate::time::Epoch;

/// What times a source's rows under a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timing {
    /// The row's event time.
    Event,
    /// The greatest record timestamp so far in its partition.
    Record,
    /// `ARRIVAL TIME`.
    Arrival,
    /// Nothing: the table is there from the beginning.
    Untimed,
}

impl Timing {
    pub(super) fn of(source: &Source, clock: ReplayClock) -> Timing {
        match (clock, source.is_kafka()) {
            (ReplayClock::Event, _) if source.event_time.is_some() => Timing::Event,
            (ReplayClock::Event | ReplayClock::Record, true) => Timing::Record,
            (ReplayClock::Event | ReplayClock::Record, false) if source.arrival_time.is_some() => Timing::Arrival,
            (ReplayClock::Record, false) if source.event_time.is_some() => Timing::Event,
            (ReplayClock::Event | ReplayClock::Record, false) => Timing::Untimed,
        }
    }
}

/// Collects a source's records in the order they are read.
pub(super) struct LaneBuilder {
    timing: Timing,
    batches: Vec<RecordBatch>,
    /// One per row.
    times: Vec<i64>,
    refused: Vec<(i64, Rejected)>,
    /// The time of the last row of each partition: that of records without one after it.
    last: BTreeMap<i32, i64>,
    /// Refused records without a time, before the first row of their partition.
    waiting: BTreeMap<i32, Vec<Rejected>>,
}

impl LaneBuilder {
    pub(super) fn new(timing: Timing) -> LaneBuilder {
        let (batches, times, refused, last, waiting) = Default::default();
        LaneBuilder { timing, batches, times, refused, last, waiting }
    }

    /// Adds what was read next.
    pub(super) fn add(&mut self, decoded: Decoded) {
        let mut refused: BTreeMap<i32, VecDeque<(i64, Rejected)>> = BTreeMap::new();
        for (rejected, time) in decoded.rejected.into_iter().zip(decoded.rejected_times) {
            let time = if self.timing == Timing::Record { time } else { NO_TIME };
            refused.entry(rejected.partition).or_default().push_back((time, rejected));
        }
        if let Some(batch) = decoded.batch {
            let mut times = self.row_times(&batch, decoded.record_times);
            let partitions = batch["_partition"].as_primitive::<Int32Type>().values();
            let offsets = batch["_offset"].as_primitive::<Int64Type>().values();
            for (row, time) in times.iter_mut().enumerate() {
                let partition = partitions[row];
                if let Some(queue) = refused.get_mut(&partition) {
                    while queue.front().is_some_and(|(_, r)| r.offset < offsets[row]) {
                        let (own, rejected) = queue.pop_front().expect("there is one");
                        self.refuse(own, rejected);
                    }
                }
                if *time == NO_TIME {
                    *time = self.last.get(&partition).copied().unwrap_or(NO_TIME);
                }
                if let Some(waiting) = self.waiting.remove(&partition) {
                    self.refused.extend(waiting.into_iter().map(|r| (*time, r)));
                }
                // Only the last of a run of rows matters to those after it, unless one of them has no time.
                let run_ends = partitions.get(row + 1) != Some(&partition);
                if run_ends || !refused.is_empty() || self.timing != Timing::Event {
                    self.last.insert(partition, *time);
                }
            }
            self.times.extend(times);
            self.batches.push(batch);
        }
        for (own, rejected) in refused.into_values().flatten() {
            self.refuse(own, rejected);
        }
    }

    fn refuse(&mut self, own: i64, rejected: Rejected) {
        match (own, self.last.get(&rejected.partition)) {
            (NO_TIME, None) => self.waiting.entry(rejected.partition).or_default().push(rejected),
            (NO_TIME, Some(&last)) => self.refused.push((last, rejected)),
            (own, _) => self.refused.push((own, rejected)),
        }
    }

    fn row_times(&self, batch: &RecordBatch, record_times: Vec<i64>) -> Vec<i64> {
        let event = batch["_event_time"].as_primitive::<TimestampMicrosecondType>();
        let event = |row: usize| if event.is_valid(row) { event.value(row) } else { NO_TIME };
        match self.timing {
            Timing::Record => record_times,
            Timing::Event => (0..batch.num_rows()).map(event).collect(),
            Timing::Arrival => {
                let arrival = batch["_arrival_time"].as_primitive::<TimestampMicrosecondType>().values().iter();
                arrival.enumerate().map(|(row, a)| if arrives_with_epoch(*a) { event(row) } else { *a }).collect()
            }
            Timing::Untimed => vec![NO_TIME; batch.num_rows()],
        }
    }

    /// Sorts. Leaves out what was `taken` (up to that time) by an earlier run; epochs are above `floor`.
    pub(super) fn build(self, source: &Arc<Source>, taken: Option<i64>, floor: Epoch) -> Lane {
        let LaneBuilder { batches, times, mut refused, last, waiting, .. } = self;
        // Partitions of which every record was refused, none with a time: they go with the first slice.
        refused.extend(waiting.into_values().flatten().map(|r| (NO_TIME, r)));
        let left = |time: i64| taken.is_none_or(|t| time > t);
        let epoch = |time: i64| time.max(floor.micros().saturating_add(1));
        refused.retain(|(time, _)| left(*time));
        refused.sort_by_key(|(time, r)| (epoch(*time), r.partition, r.offset));
        for (time, _) in refused.iter_mut().filter(|(time, _)| *time != NO_TIME) {
            *time = epoch(*time);
        }
        let suffix = times.iter().position(|t| left(*t)).unwrap_or(times.len());
        let in_order = last.len() <= 1
            && times[suffix..].iter().all(|t| left(*t))
            && times[suffix..].windows(2).all(|w| epoch(w[0]) <= epoch(w[1]));
        let (rows, epochs) = if in_order {
            let epochs: Vec<i64> = times[suffix..].iter().map(|t| epoch(*t)).collect();
            (Rows::InOrder { batches: batches.into(), start: suffix }, epochs)
        } else {
            let mut entries = Vec::with_capacity(times.len());
            let mut times = times.into_iter();
            for (b, batch) in (0u32..).zip(&batches) {
                let partitions = batch["_partition"].as_primitive::<Int32Type>().values();
                let rows = (0u32..).zip(partitions.iter()).zip(times.by_ref());
                entries.extend(rows.filter(|(_, t)| left(*t)).map(|((row, p), t)| (epoch(t), *p, b, row)));
            }
            // Stable: within a partition records were read in offset order.
            entries.sort_by_key(|(epoch, partition, ..)| (*epoch, *partition));
            let epochs = entries.iter().map(|(epoch, ..)| *epoch).collect();
            (Rows::Sorted { batches, order: entries.into_iter().map(|(_, _, b, row)| (b, row)).collect() }, epochs)
        };
        Lane { source: Arc::clone(source), rows, epochs, refused: refused.into(), next: 0 }
    }
}

/// What is left of a source, in order.
pub(super) struct Lane {
    source: Arc<Source>,
    rows: Rows,
    /// One per row, in order.
    epochs: Vec<i64>,
    /// Each with its epoch, in order; [`NO_TIME`] for those that go with the first slice.
    refused: VecDeque<(i64, Rejected)>,
    /// The first row that is not taken yet.
    next: usize,
}

enum Rows {
    /// The batches' own order is right. `start`: how many of their rows come before the lane's first.
    InOrder { batches: VecDeque<RecordBatch>, start: usize },
    /// Row by row: which of the batches, and which row of it.
    Sorted { batches: Vec<RecordBatch>, order: Vec<(u32, u32)> },
}

/// What a lane gives up to some epoch.
pub(super) struct Taken {
    pub(super) batch: Option<RecordBatch>,
    pub(super) refused: Vec<(i64, Rejected)>,
    /// (epoch, partition, offset) of the last of both.
    pub(super) last: Option<(i64, i32, i64)>,
}

impl Lane {
    pub(super) fn is_done(&self) -> bool {
        self.next == self.epochs.len() && self.refused.is_empty()
    }

    /// Rows that are left.
    pub(super) fn len(&self) -> usize {
        self.epochs.len() - self.next
    }

    /// The epoch of the `n`th row that is left, from 0.
    pub(super) fn epoch(&self, n: usize) -> Option<i64> {
        self.epochs.get(self.next + n).copied()
    }

    /// The lane's last epoch.
    pub(super) fn last_epoch(&self) -> Option<i64> {
        self.epochs.last().copied().max(self.refused.back().map(|(epoch, _)| *epoch))
    }

    /// Takes all with an epoch up to `until`.
    pub(super) fn take(&mut self, until: i64) -> Taken {
        let count = self.epochs[self.next..].partition_point(|e| *e <= until);
        let batch = (count > 0).then(|| self.take_rows(count));
        let mut refused = vec![];
        while self.refused.front().is_some_and(|(epoch, _)| *epoch <= until) {
            refused.extend(self.refused.pop_front());
        }
        let row = batch.as_ref().map(|batch| {
            let row = batch.num_rows() - 1;
            let partition = batch["_partition"].as_primitive::<Int32Type>().value(row);
            (self.epochs[self.next - 1], partition, batch["_offset"].as_primitive::<Int64Type>().value(row))
        });
        let last = refused.iter().map(|(epoch, r)| (*epoch, r.partition, r.offset)).max().max(row);
        Taken { batch, refused, last }
    }

    fn take_rows(&mut self, count: usize) -> RecordBatch {
        let place = self.next..self.next + count;
        self.next = place.end;
        let batch = match &mut self.rows {
            Rows::InOrder { batches, start } => {
                let mut parts = vec![];
                let mut left = count;
                while left > 0 {
                    let batch = batches.front().expect("as many rows as epochs");
                    let here = batch.num_rows().saturating_sub(*start).min(left);
                    if here > 0 {
                        parts.push(batch.slice(*start, here));
                    }
                    *start += here;
                    left -= here;
                    if *start >= batch.num_rows() {
                        *start -= batch.num_rows();
                        batches.pop_front(); // what is taken need not stay in memory
                    }
                }
                match parts.as_slice() {
                    [whole] => whole.clone(),
                    parts => concat_batches(&self.source.row_schema(), parts).expect("all have the source's schema"),
                }
            }
            Rows::Sorted { batches, order } => gather(batches, &order[place.clone()]),
        };
        with_epochs(&batch, self.epochs[place].to_vec())
    }
}

/// The rows in that order, as one batch. Only batches that occur are touched.
fn gather(batches: &[RecordBatch], order: &[(u32, u32)]) -> RecordBatch {
    let index = |n: u32| usize::try_from(n).expect("a usize has 32 bits at least");
    let mut used: BTreeMap<u32, usize> = order.iter().map(|(b, _)| (*b, 0)).collect();
    let mut chosen = Vec::with_capacity(used.len());
    for (b, place) in &mut used {
        *place = chosen.len();
        chosen.push(&batches[index(*b)]);
    }
    let (mut before, mut place) = (None, 0);
    let rows = order.iter().map(|(b, row)| {
        if before != Some(*b) {
            (before, place) = (Some(*b), used[b]);
        }
        (place, index(*row))
    });
    interleave_record_batch(&chosen, &rows.collect::<Vec<_>>()).expect("all have the source's schema")
}
