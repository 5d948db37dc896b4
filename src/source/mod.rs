//! Where events come from, and what a source owes the rest: order within a partition, and replay from an offset.
//!
//! A source yields decoded rows in [`crate::definition::Source::row_schema`], each with the epoch it belongs to, and
//! the records it refused. Invariants: a record is a row or a refusal, never neither; offsets are exclusive ends.
//! Neighbours: `definition` says what a row looks like; `engine` drives the readers and `dataflow` takes the rows.

pub mod broker;
pub mod decode;
pub mod file;
pub mod kafka;
pub mod live;
pub mod number;
pub mod replay;
pub mod topics;
pub mod watch;

mod assemble;
mod avro;
mod client;
mod column;
mod constraint;
mod csv;
mod json;
mod lane;
#[cfg(test)]
mod testing;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};

use crate::definition::Source;
use crate::offset::Offsets;
use crate::time::Epoch;
use replay::ReplayClock;

/// A record that was refused, on its way to the quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// The source's name.
    pub source: String,
    /// The view that could not take the row, when the record itself is sound.
    pub view: Option<String>,
    /// Where it stands.
    pub partition: i32,
    /// Where it stands.
    pub offset: i64,
    /// Why, for a person; starts with a stable class: `decode`, `not_null`, `check`, `event_time`, `future`, `key`,
    /// `null_payload`, `expression`, a colon and the details.
    pub reason: String,
    /// The epoch it belongs to.
    pub epoch: u64,
    /// The record's key, if it has one.
    pub key: Option<Vec<u8>>,
    /// The record as it came; empty for a null payload.
    pub bytes: Vec<u8>,
}

impl Rejected {
    /// A sound record whose row a view could not take: the log has the record.
    pub fn by_view(source: &str, view: &str, (partition, offset): (i32, i64), epoch: u64, reason: &str) -> Rejected {
        Rejected {
            source: source.to_string(),
            view: Some(view.to_string()),
            partition,
            offset,
            reason: format!("expression: {reason}"),
            epoch,
            key: None,
            bytes: vec![],
        }
    }
}

/// Records that the broker dropped before they were read: `from..to` of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The source's name.
    pub source: String,
    /// The partition.
    pub partition: i32,
    /// The offset that was wanted.
    pub from: i64,
    /// The earliest one there was; it is not in the gap.
    pub to: i64,
}

impl Gap {
    /// Records in it, as far as offsets can tell.
    pub fn records(&self) -> u64 {
        u64::try_from(self.to - self.from).unwrap_or(0)
    }
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Gap { source, partition, from, to } = self;
        write!(f, "`{source}` partition {partition}: offsets {from} to {to} were gone before they were read")
    }
}

/// What is kept of a topic beside its offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceState {
    /// The id of the topic that the offsets are of.
    pub topic_id: Option<String>,
    /// Why it is not to be read any more.
    pub refused: Option<String>,
}

/// How far a sorted source has been taken: what a resumed replay skips up to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SortedPosition {
    /// What it is sorted by: under another clock the position says nothing.
    pub clock: ReplayClock,
    /// The exclusive end offset of each partition, fixed when the replay started.
    pub end: BTreeMap<i32, i64>,
    /// (time, partition, offset) of the last row taken; [`SortedPosition::BEFORE_ALL`] if none was.
    pub last: (i64, i32, i64),
}

impl SortedPosition {
    /// The place before every row.
    pub const BEFORE_ALL: (i64, i32, i64) = (i64::MIN, i32::MIN, i64::MIN);

    /// The time up to which rows were taken.
    pub fn taken(&self) -> Option<i64> {
        (self.last != SortedPosition::BEFORE_ALL).then_some(self.last.0)
    }
}

/// The first sorted source that a replay has begun and not finished: offsets move only when its sorted part is used up, so
/// that whoever reads on from the offsets would read again what was taken.
pub fn unfinished<'a>(
    offsets: &Offsets,
    sorted: &'a BTreeMap<String, SortedPosition>,
) -> Option<(&'a str, &'a SortedPosition)> {
    let is_behind = |name: &str, position: &SortedPosition| {
        position.end.iter().any(|(partition, end)| offsets.get(name, *partition) < *end)
    };
    sorted.iter().find(|(name, position)| is_behind(name, position)).map(|(name, position)| (name.as_str(), position))
}

/// What sources hand over at once: all rows of some epochs, none of which is at or above `until`.
#[derive(Clone, Debug, Default)]
pub struct Slice {
    /// Decoded rows by source; `_epoch` is filled; within a source in the order of (epoch, partition, offset).
    pub batches: Vec<(Arc<Source>, RecordBatch)>,
    /// What was refused among them.
    pub rejected: Vec<Rejected>,
    /// Exclusive ends reached (only partitions that moved).
    pub offsets: Offsets,
    /// Positions of sorted sources that moved, by source name.
    pub sorted: BTreeMap<String, SortedPosition>,
    /// What brokers had dropped between an earlier slice's offsets and these.
    pub gaps: Vec<Gap>,
    /// Ids of topics whose first offsets these are, by source name.
    pub topic_ids: BTreeMap<String, String>,
    /// Greatest epoch in this slice; later slices have greater ones.
    pub last: Option<Epoch>,
    /// Live: everything appended up to this instant (µs) is in this slice or an earlier one, if that is known.
    pub complete: Option<i64>,
}
