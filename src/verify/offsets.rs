//! Offsets against the log: every record up to a partition's committed end is an event, was refused, or was gone before
//! it was read and is recorded as such; and none is there twice.
//!
//! A topic may have holes of its own (compaction, transactions), which nobody can tell from losses afterwards: only what the
//! reader was refused by the broker is a gap, and it is in the commit that passes over it. A file has no holes.
//! Invariants: reads the log, changes nothing. Neighbours: `verify` is its caller, `state::commit` wrote what it reads.

use std::collections::{BTreeMap, BTreeSet};

use super::VerifyError;
use crate::event::EventBatch;
use crate::offline::Offline;
use crate::offset::Offsets;
use crate::plan::Plan;
use crate::source::Gap;
use crate::state::Store;
use crate::state::commit::CommitRecord;
use crate::time::Epoch;

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Records in the log, refused ones included.
    pub records: u64,
    /// What was gone before it was read, as the commits recorded it.
    pub gaps: Vec<Gap>,
    /// What does not hold, as sentences.
    pub problems: Vec<String>,
}

/// Offsets in the log, by source and partition.
type Present = BTreeMap<(String, i32), BTreeSet<i64>>;

/// Checks all sources.
///
/// # Errors
/// A log that cannot be read.
pub fn check(plan: &Plan, store: &Store, offline: &Offline) -> Result<Found, VerifyError> {
    let mut found = Found::default();
    let committed = commits(store, &mut found)?;
    let present = present(plan, store, offline, &mut found)?;
    for gap in &found.gaps {
        let inside = present.get(&(gap.source.clone(), gap.partition)).and_then(|o| o.range(gap.from..gap.to).next());
        if let Some(offset) = inside {
            let Gap { source, partition, from, to } = gap;
            found.problems.push(format!(
                "{source}/{partition}/{offset} is in the log, and {from} to {to} are recorded as gone before they were read"
            ));
        }
    }
    let sorted = store.sorted_positions()?;
    let ends = committed.0.iter().flat_map(|(source, ends)| ends.keys().map(|p| (source.clone(), *p)));
    let places: BTreeSet<(String, i32)> = ends.chain(present.keys().cloned()).collect();
    for (source, partition) in &places {
        let nothing = BTreeSet::new();
        let offsets = present.get(&(source.clone(), *partition)).unwrap_or(&nothing);
        let end = committed.get(source, *partition);
        let last = offsets.last().copied().unwrap_or(-1);
        if last >= end && !(sorted.contains_key(source) && end == 0) {
            found.problems.push(format!("{source}/{partition}/{last} is in the log, beyond the committed end {end}"));
        }
        let file = plan.source_index(source).is_some_and(|s| !plan.sources[s].is_kafka());
        if file && end > 0 && offsets.len() as i64 != end {
            found.problems.push(format!("{source}: {} of {end} records are in the log", offsets.len()));
        }
    }
    Ok(found)
}

/// Commits in order, their offsets rising, their gaps where the offsets jump; returns the ends they come to.
fn commits(store: &Store, found: &mut Found) -> Result<Offsets, VerifyError> {
    let (mut recorded, mut last) = (Offsets::default(), 0);
    for commit in store.commits() {
        let commit = commit?;
        gaps_of(&commit, &recorded, found);
        for (source, partition, next) in &commit.offsets {
            if *next < recorded.get(source, *partition) {
                let back = format!("{source}/{partition}: commit {} moves its offset back to {next}", commit.last);
                found.problems.push(back);
            }
            recorded.advance(source, *partition, *next);
        }
        if commit.last <= last {
            found.problems.push(format!("commit {} does not follow {last}", commit.last));
        }
        last = commit.last;
    }
    let committed = store.offsets()?;
    if committed != recorded {
        found.problems.push(format!("the committed offsets {committed:?} are not those of the commits {recorded:?}"));
    }
    Ok(committed)
}

/// A commit's gaps must lie between the offsets before it and its own.
fn gaps_of(commit: &CommitRecord, before: &Offsets, found: &mut Found) {
    for gap in &commit.gaps {
        let Gap { source, partition, from, to } = gap;
        let end = commit.offsets.iter().find(|(s, p, _)| s == source && p == partition).map(|(_, _, next)| *next);
        if !(before.get(source, *partition) <= *from && from < to && Some(*to) <= end) {
            found.problems.push(format!(
                "commit {} records that {source}/{partition} lost {from} to {to}, where it did not read",
                commit.last
            ));
        }
        found.gaps.push(gap.clone());
    }
}

/// All offsets that the log has.
fn present(plan: &Plan, store: &Store, offline: &Offline, found: &mut Found) -> Result<Present, VerifyError> {
    let mut present = Present::new();
    for rejected in store.quarantine() {
        let r = rejected?;
        if r.view.is_none() {
            present.entry((r.source, r.partition)).or_default().insert(r.offset);
        }
    }
    found.records = present.values().map(|s| s.len() as u64).sum();
    for (index, source) in plan.sources.iter().enumerate() {
        let mut twice = None;
        offline.events(index, Epoch(u64::MAX), &mut |batch| {
            let events = EventBatch::new(batch)?;
            for (partition, offset) in events.partitions().iter().zip(events.offsets()) {
                found.records += 1;
                if !present.entry((source.name.clone(), *partition)).or_default().insert(*offset) {
                    twice.get_or_insert((*partition, *offset));
                }
            }
            Ok(())
        })?;
        if let Some((partition, offset)) = twice {
            found.problems.push(format!("{}/{partition}/{offset} is in the log twice", source.name));
        }
    }
    Ok(present)
}
