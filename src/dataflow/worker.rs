//! A worker's life: builds the graph, then steps until told to stop.
//!
//! Invariants: the graph ends by being dropped; its inputs are never closed, since a closed input would say that time has
//! ended. Neighbours: `engine` starts the workers and wakes them, `graph` is what they run.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use timely::scheduling::SyncActivator;
use timely::worker::Worker;

use super::graph::build;
use super::{Feed, Shared};
use crate::telemetry::lag;

/// A worker's life: builds the graph, then steps until told to stop.
pub fn run_worker(
    worker: &mut Worker,
    shared: &Arc<Shared>,
    inbox: Receiver<Feed>,
    wake: &Sender<(usize, SyncActivator)>,
) {
    // Before anything is built: operators fetch their logger when they are made.
    let mut recorder = lag::install(worker, Arc::clone(shared.metrics.operators()));
    let built = build(worker, shared, inbox, wake, &mut recorder);
    if let Err(e) = built {
        shared.fail("the dataflow could not be built", e);
    }
    while !shared.stop.load(Ordering::Acquire) && worker.has_dataflows() {
        worker.step_or_park(Some(Duration::from_millis(500)));
        recorder.publish(worker);
    }
    // Closing inputs would say that time has ended. Dropping the graph says nothing.
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
}
