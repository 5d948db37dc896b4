//! The input of the graph: rows as they come, ticks as capabilities.
//!
//! Invariants: a worker holds the capability of the last tick, so an epoch is open until every worker was told that it is
//! over; what is fed again enters at the resumed epoch. Neighbours: `engine` fills the inbox, `view` reads the events.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::generic::operator::source;
use timely::dataflow::{Scope, StreamVec};
use timely::scheduling::SyncActivator;

use super::rows::Time;
use crate::event::EventBatch;
use crate::telemetry::lag::RowCounters;

/// What a worker is fed.
#[derive(Clone, Debug)]
pub enum Feed {
    /// Rows of a source (index in the plan), in its `row_schema`, of epochs at or above the last tick.
    Rows(usize, EventBatch),
    /// Rows that were committed before a restart: they rebuild the joins' state, at the resumed epoch.
    Again(usize, EventBatch),
    /// No row below this epoch will come.
    Tick(Time),
}

/// A batch on its way through the graph.
#[derive(Clone, Debug)]
pub(super) struct Event {
    /// Index in the plan.
    pub(super) source: usize,
    /// In its `row_schema`.
    pub(super) batch: EventBatch,
    /// Committed before a restart.
    pub(super) again: bool,
}

/// The source operator of one worker.
pub(super) fn feed<'s>(
    scope: Scope<'s, Time>,
    inbox: Receiver<Feed>,
    wake: Sender<(usize, SyncActivator)>,
    index: usize,
    resumed: Time,
    rows: Arc<RowCounters>,
) -> StreamVec<'s, Time, Event> {
    source::<_, CapacityContainerBuilder<Vec<Event>>, _, _>(scope, "feed", move |mut cap, info| {
        // Whoever fills the inbox wakes us with this.
        let _ = wake.send((index, scope.worker().sync_activator_for(info.address.to_vec())));
        let again = scope.activator_for(info.address);
        cap.downgrade(&resumed);
        let mut cap = Some(cap);
        move |output| {
            let Some(held) = cap.as_mut() else { return };
            for _ in 0..16 {
                match inbox.try_recv() {
                    Ok(Feed::Rows(source, batch)) => {
                        rows.gave(batch.len());
                        output.session(&*held).give(Event { source, batch, again: false });
                    }
                    Ok(Feed::Again(source, batch)) => {
                        output.session(&*held).give(Event { source, batch, again: true });
                    }
                    Ok(Feed::Tick(epoch)) if epoch > *held.time() => held.downgrade(&epoch),
                    Ok(Feed::Tick(_)) => {}
                    Err(TryRecvError::Empty) => return,
                    Err(TryRecvError::Disconnected) => {
                        cap = None;
                        return;
                    }
                }
            }
            again.activate();
        }
    })
}
