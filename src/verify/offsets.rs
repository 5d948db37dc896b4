//! Offsets against the log: every record up to a partition's committed end is an event or was refused, and none twice.
//!
//! A topic may have holes of its own (compaction, transactions): they are counted, and only a file's are an error.
//! Invariants: reads the log, changes nothing. Neighbours: `verify` is its caller, `state::commit` wrote what it reads.

use std::collections::{BTreeMap, BTreeSet};

use super::VerifyError;
use crate::event::EventBatch;
use crate::offline::Offline;
use crate::plan::Plan;
use crate::state::Store;
use crate::time::Epoch;

/// Checks all sources. What does not hold, as sentences; and how many records were found.
///
/// # Errors
/// A log that cannot be read.
pub fn check(plan: &Plan, store: &Store, offline: &Offline) -> Result<(u64, Vec<String>), VerifyError> {
    let mut problems = vec![];
    let committed = store.offsets()?;
    let mut recorded = crate::offset::Offsets::default();
    let mut last = 0;
    for commit in store.commits() {
        let commit = commit?;
        for (source, partition, next) in &commit.offsets {
            if *next < recorded.get(source, *partition) {
                problems.push(format!("{source}/{partition}: commit {} moves its offset back to {next}", commit.last));
            }
            recorded.advance(source, *partition, *next);
        }
        if commit.last <= last {
            problems.push(format!("commit {} does not follow {last}", commit.last));
        }
        last = commit.last;
    }
    if committed != recorded {
        problems.push(format!("the committed offsets {committed:?} are not those of the commits {recorded:?}"));
    }
    let mut found: BTreeMap<(String, i32), BTreeSet<i64>> = BTreeMap::new();
    for rejected in store.quarantine() {
        let r = rejected?;
        if r.view.is_none() {
            found.entry((r.source, r.partition)).or_default().insert(r.offset);
        }
    }
    let mut records = found.values().map(|s| s.len() as u64).sum();
    for (index, source) in plan.sources.iter().enumerate() {
        let mut twice = None;
        offline.events(index, Epoch(u64::MAX), &mut |batch| {
            let events = EventBatch::new(batch)?;
            for (partition, offset) in events.partitions().iter().zip(events.offsets()) {
                records += 1;
                if !found.entry((source.name.clone(), *partition)).or_default().insert(*offset) {
                    twice.get_or_insert((*partition, *offset));
                }
            }
            Ok(())
        })?;
        if let Some((partition, offset)) = twice {
            problems.push(format!("{}/{partition}/{offset} is in the log twice", source.name));
        }
    }
    for ((source, partition), offsets) in &found {
        let end = committed.get(source, *partition);
        let sorted = store.sorted_positions()?.contains_key(source);
        let last = offsets.last().copied().unwrap_or(-1);
        if last >= end && !(sorted && end == 0) {
            problems.push(format!("{source}/{partition}/{last} is in the log, beyond the committed end {end}"));
        }
        let file = plan.source_index(source).is_some_and(|s| !plan.sources[s].is_kafka());
        if file && end > 0 && offsets.len() as i64 != end {
            problems.push(format!("{source}: {} of {end} records are in the log", offsets.len()));
        }
    }
    Ok((records, problems))
}
