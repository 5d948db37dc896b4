//! Where an event stands in its source, and the source's frontier.
//!
//! A file is partition 0 and its offset is the record's number in it, from 0.
//! Invariants: offsets are exclusive ends everywhere (the next record to read). Neighbours: `source`, `state::commit`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A topic's partitions are numbered below this: an entry keeps the number in so many bits, beside its source's rank.
pub const PARTITIONS_MAX: i32 = 1 << 24;

/// For each partition of each source (its definition's name), the next offset to read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offsets(pub BTreeMap<String, BTreeMap<i32, i64>>);

impl Offsets {
    /// The next offset to read, 0 for a fresh partition.
    pub fn get(&self, source: &str, partition: i32) -> i64 {
        self.0.get(source).and_then(|p| p.get(&partition)).copied().unwrap_or(0)
    }

    /// Moves one partition forward; never back.
    pub fn advance(&mut self, source: &str, partition: i32, next: i64) {
        let at = self.0.entry(source.to_string()).or_default().entry(partition).or_insert(0);
        *at = (*at).max(next);
    }

    /// Takes the greater of both, partition by partition.
    pub fn merge(&mut self, other: &Offsets) {
        for (source, partitions) in &other.0 {
            for (&partition, &next) in partitions {
                self.advance(source, partition, next);
            }
        }
    }
}
