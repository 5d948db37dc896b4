//! Rows judged one by one: mapped, dropped, or refused for one view.
//!
//! ```text
//! epoch 7: a row comes on which the key fails            refused in epoch 7
//! epoch 9: it ends earlier, so it leaves and comes       nothing new
//! ```
//!
//! Invariants: a row is refused once for each epoch in which it comes, not for each change of when it is valid; its epoch
//! stays open until the committer has been told. Neighbours: `join` judges by keys and conditions, `commit` gets refusals.

use std::sync::Arc;

use differential_dataflow::consolidation::consolidate_updates;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::operator::Operator;

use super::Shared;
use super::commit::ToCommitter;
use super::join::{Keyed, Rows};
use super::rows::{Dated, Diff, Row, Time};
use crate::plan::operator::ViewPlan;
use crate::source::Rejected;

/// A row that a view cannot take.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Refusal {
    /// Where its record stands.
    pub(super) partition: i32,
    /// Where its record stands.
    pub(super) offset: i64,
    /// What the expression said.
    pub(super) reason: String,
}

/// Refused rows of one source on their way to the quarantine, until their epochs are closed.
pub(super) struct Refusals {
    source: String,
    view: String,
    shared: Arc<Shared>,
    refused: Vec<(Refusal, Time, Diff)>,
    /// Keeps their epochs open.
    held: Option<Capability<Time>>,
}

impl Refusals {
    /// None yet, of this source for this view.
    pub(super) fn new(plan: &ViewPlan, source: &str, shared: &Arc<Shared>) -> Refusals {
        let (source, view) = (source.to_string(), plan.name.clone());
        Refusals { source, view, shared: Arc::clone(shared), refused: vec![], held: None }
    }

    fn add(&mut self, refusal: Refusal, time: Time, diff: Diff, cap: impl FnOnce() -> Capability<Time>) {
        // Of rows that a restart feeds again it was said before.
        if time <= self.shared.resumed {
            return;
        }
        self.refused.push((refusal, time, diff));
        let cap = cap();
        if self.held.as_ref().is_none_or(|held| cap.time() < held.time()) {
            self.held = Some(cap);
        }
    }

    /// Sends those of closed epochs.
    fn settle(&mut self, closed: Time) {
        if self.refused.is_empty() {
            return;
        }
        let (mut due, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.refused).into_iter().partition(|(_, t, _)| *t < closed);
        self.refused = rest;
        // A row whose end moved leaves and comes again: that is nothing new.
        consolidate_updates(&mut due);
        let rejected = due.into_iter().filter(|(_, _, diff)| *diff > 0).map(|(refusal, epoch, _)| {
            let place = (refusal.partition, refusal.offset);
            Rejected::by_view(&self.source, &self.view, place, epoch, &refusal.reason)
        });
        let rejected: Vec<Rejected> = rejected.collect();
        if !rejected.is_empty() {
            let _ = self.shared.committer.send(ToCommitter::Refused(rejected));
        }
        match &mut self.held {
            Some(held) if !self.refused.is_empty() => {
                if closed > *held.time() {
                    held.downgrade(&closed);
                }
            }
            held => *held = None,
        }
    }
}

/// Maps rows a message at a time, so that expressions run over batches; `None` drops a row, an error refuses it.
pub(super) fn judged<'s, K: Clone + 'static>(
    rows: Rows<'s>,
    name: &str,
    mut refusals: Refusals,
    mut judge: impl FnMut(&[Dated]) -> Vec<Result<Option<(K, Row)>, Refusal>> + 'static,
) -> Keyed<'s, K> {
    type Out<K> = CapacityContainerBuilder<Vec<((K, Dated), Time, Diff)>>;
    rows.unary_frontier::<Out<K>, _, _, _>(Pipeline, name, move |_cap, _info| {
        move |(input, frontier), output| {
            input.for_each(|cap, data| {
                let (rows, rest): (Vec<Dated>, Vec<(Time, Diff)>) = data.drain(..).map(|(r, t, d)| (r, (t, d))).unzip();
                let mut out = output.session(&cap);
                for ((judgement, row), (time, diff)) in judge(&rows).into_iter().zip(&rows).zip(rest) {
                    let &Dated { valid_from, valid_to, .. } = row;
                    match judgement {
                        Ok(Some((key, row))) => out.give(((key, Dated { row, valid_from, valid_to }), time, diff)),
                        Ok(None) => {}
                        Err(refusal) => refusals.add(refusal, time, diff, || cap.retain(0)),
                    }
                }
            });
            // No frontier is the end, at which nothing more is committed.
            refusals.settle(frontier.frontier().first().copied().unwrap_or(0));
        }
    })
}
