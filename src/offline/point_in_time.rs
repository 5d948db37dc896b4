//! The point-in-time join: what a view answered, or would have answered, for many groups at many instants.
//!
//! Labels and updates are walked in the order of the groups' hashes, and each group's labels in the order of their
//! instants: the group is folded once, from the first label to the last, whatever the number of labels.
//!
//! An update *counts* from the instant it says; *as served* also not before its commit was visible. What counts at an
//! instant is applied, and nothing else: then the one evaluator answers.
//!
//! Invariants: an answer equals [`Offline::evaluate`]'s for the epoch served at the label's instant (or the last one, as
//! corrected); memory holds the labels, one group and a batch per segment. Neighbours: `fold` answers; `history` makes
//! columns of the answers.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::by_hash::ByHash;
use super::{Offline, OfflineError, Timeline};
use crate::fold::entry::{Updates, hash_group};
use crate::fold::{Evaluation, Fold, Group, Wanted};
use crate::time::{Ask, Epoch};

/// Which past is asked about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// What was known at the instant.
    #[default]
    Served,
    /// What is known now, late events included.
    Corrected,
}

/// What is asked of one view: a group (or none) and an instant per row.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a> {
    /// The groups' bytes.
    pub groups: &'a [Option<Vec<u8>>],
    /// µs since 1970.
    pub instants: &'a [i64],
    /// The aggregates that answers are to have.
    pub asked: &'a Wanted,
}

/// Takes an answer: the label's row, and what it is.
pub type TakeAnswer<'a> = dyn FnMut(usize, &Evaluation) -> Result<(), OfflineError> + 'a;

/// Answers every label, in an order of its own. All labels are answered from the same commits, those of `timeline`.
///
/// # Errors
/// A log that cannot be read, or what `take` says.
pub fn join(
    offline: &Offline,
    view: usize,
    labels: Labels<'_>,
    mode: Mode,
    timeline: &Timeline,
    take: &mut TakeAnswer<'_>,
) -> Result<(), OfflineError> {
    let fold = &offline.plan.views[view].fold;
    let nothing = Evaluation::of_nothing(fold);
    let (mut order, mut nobody): (Vec<(u64, u32)>, Vec<usize>) = (vec![], vec![]);
    for (n, group) in labels.groups.iter().enumerate() {
        match group {
            Some(group) => order.push((hash_group(group), u32::try_from(n).expect("labels come in bounded chunks"))),
            None => nobody.push(n),
        }
    }
    nobody.into_iter().try_for_each(|n| take(n, &nothing))?;
    let key = |n: u32| (labels.groups[n as usize].as_deref(), labels.instants[n as usize], n);
    order.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| key(a.1).cmp(&key(b.1))));
    let mut asked: Vec<u64> = order.iter().map(|(hash, _)| *hash).collect();
    asked.dedup();
    let mut walk = ByHash::new(offline, view, &Some(Arc::from(asked)), timeline.last())?;
    let mut updates = Updates::of(offline.store.ids().view(view));
    for same_hash in order.chunk_by(|a, b| a.0 == b.0) {
        walk.take(same_hash[0].0, &mut updates)?;
        for same_group in same_hash.chunk_by(|a, b| labels.groups[a.1 as usize] == labels.groups[b.1 as usize]) {
            let group = labels.groups[same_group[0].1 as usize].as_deref().unwrap_or_default();
            let due = due(&updates, group, mode, timeline, fold);
            let rows = same_group.iter().map(|(_, n)| *n as usize);
            if due.is_empty() {
                rows.into_iter().try_for_each(|n| take(n, &nothing))?;
            } else {
                slide(&updates, &due, rows, &labels, fold, take)?;
            }
        }
    }
    Ok(())
}

/// A group's updates, each with the instant from which it counts, in that order.
fn due(updates: &Updates, group: &[u8], mode: Mode, timeline: &Timeline, fold: &Fold) -> Vec<(i64, usize)> {
    let mut due = vec![];
    for n in 0..updates.len() {
        let update = updates.get(n, &fold.shape);
        if update.group != group {
            continue;
        }
        let known = match mode {
            // One that no commit covers was never visible.
            Mode::Served => timeline.visible(Epoch(update.epoch)).unwrap_or(i64::MAX),
            Mode::Corrected => i64::MIN,
        };
        due.push((update.counts_from.max(known), n));
    }
    due.sort_unstable();
    due
}

/// Folds a group along its labels, which come in the order of their instants.
fn slide(
    updates: &Updates,
    due: &[(i64, usize)],
    rows: impl Iterator<Item = usize>,
    labels: &Labels<'_>,
    fold: &Fold,
    take: &mut TakeAnswer<'_>,
) -> Result<(), OfflineError> {
    let mut group = Group::new(fold);
    let mut next = 0;
    let mut answer: Option<(i64, Evaluation)> = None;
    for row in rows {
        let now = Ask(labels.instants[row]).0;
        if answer.as_ref().is_none_or(|(at, _)| *at != now) {
            while let Some((_, n)) = due.get(next).filter(|(from, _)| *from <= now) {
                group.apply(&updates.get(*n, &fold.shape), now, fold);
                next += 1;
            }
            group.advance(now, fold);
            answer = Some((now, group.evaluate_some(now, labels.asked, fold)));
        }
        if let Some((_, evaluation)) = &answer {
            take(row, evaluation)?;
        }
    }
    Ok(())
}
