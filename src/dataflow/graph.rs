//! The graph of a plan: the input, each view behind it, and the word that an epoch is closed.
//!
//! Invariants: every event passes to the end, also those that no view reads, so that all epochs close. Neighbours:
//! `input` and `view` make the operators, `commit` hears of closed epochs, `telemetry::lag` watches the frontiers.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Concatenate;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::probe::Probe;
use timely::dataflow::operators::vec::Map;
use timely::dataflow::{ProbeHandle, StreamVec};
use timely::scheduling::SyncActivator;
use timely::worker::Worker;

use super::commit::ToCommitter;
use super::input::feed;
use super::join::Rows;
use super::rows::Time;
use super::view::{direct, fold, joined};
use super::{Feed, Shared};
use crate::telemetry::lag::{Recorder, Side};

/// Builds it on one worker.
pub(super) fn build(
    worker: &mut Worker,
    shared: &Arc<Shared>,
    inbox: Receiver<Feed>,
    wake: &Sender<(usize, SyncActivator)>,
    recorder: &mut Recorder,
) -> Result<(), String> {
    let (index, peers) = (worker.index(), worker.peers());
    let mut result = Ok(());
    let out = &mut result;
    worker.dataflow_named::<Time, _, _>("headwater", |scope| {
        let rows = shared.metrics.operators().rows("feed");
        let events = feed(scope, inbox, wake.clone(), index, shared.resumed, rows);
        let events = watched(events, "feed", Side::Output, recorder);
        let mut ends: Vec<StreamVec<'_, Time, ()>> = vec![];
        let mut tables: BTreeMap<usize, Rows<'_>> = BTreeMap::new();
        for (n, planned) in shared.plan.views.iter().enumerate() {
            let first = scope.worker().peek_identifier();
            let updates = if !planned.logs_updates() {
                let name = format!("project {}", planned.plan.name);
                direct(watched(events.clone(), &name, Side::Input, recorder), n, shared, peers)
            } else {
                joined(events.clone(), n, shared, peers, &mut tables, recorder)
            };
            match updates {
                Ok(updates) => {
                    let name = &planned.plan.name;
                    let updates = watched(updates, &format!("project {name}"), Side::Output, recorder);
                    let updates = watched(updates, &format!("fold {name}"), Side::Input, recorder);
                    ends.push(watched(fold(updates, n, shared), &format!("fold {name}"), Side::Output, recorder));
                }
                Err(e) => *out = Err(format!("view `{}`: {e}", planned.plan.name)),
            }
            recorder.attribute(first..scope.worker().peek_identifier(), &planned.plan.name);
        }
        // Events that no view reads pass here, so that their epochs close like the others.
        ends.push(events.flat_map(|_| None));
        let end = scope.concatenate(ends);
        close(watched(end, "close", Side::Input, recorder), shared);
    });
    result
}

/// A stream with a probe whose frontier is exported as that of an operator's input or output.
pub(super) fn watched<'s, D: Clone + 'static>(
    stream: StreamVec<'s, Time, D>,
    name: &str,
    side: Side,
    recorder: &mut Recorder,
) -> StreamVec<'s, Time, D> {
    let probe = ProbeHandle::new();
    recorder.probe(name, side, &probe);
    stream.probe_with(&probe)
}

/// Tells the committer which epochs are closed: any worker's word is enough, since the frontier is everyone's.
fn close(end: StreamVec<'_, Time, ()>, shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    end.unary_frontier::<CapacityContainerBuilder<Vec<()>>, _, _, _>(Pipeline, "close", move |_cap, _info| {
        let mut told = 0;
        move |(input, frontier), _output| {
            input.for_each(|_cap, data| data.clear());
            let Some(&closed) = frontier.frontier().first() else { return };
            if closed > told {
                told = closed;
                let _ = shared.committer.send(ToCommitter::Closed(closed));
            }
        }
    });
}
