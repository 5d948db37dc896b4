//! A worker's life: builds the graph, then steps until told to stop.
//!
//! Invariants: the graph ends by being dropped; its inputs are never closed, since a closed input would say that time has
//! ended. Neighbours: `engine` starts the workers and wakes them, `graph` is what they run.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use timely::WorkerConfig;
use timely::communication::Allocator;
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

/// A worker without a thread: whoever holds it steps it, and between two steps nothing happens. For simulations.
pub struct SteppedWorker {
    worker: Worker,
}

impl SteppedWorker {
    /// Builds the graph for this worker alone.
    pub(crate) fn new(shared: &Arc<Shared>, inbox: Receiver<Feed>, wake: &Sender<(usize, SyncActivator)>) -> Self {
        let alone = timely::communication::allocator::thread::Thread::default();
        // Without an instant to count from there is no log, so the recorder hears nothing.
        let mut worker = Worker::new(WorkerConfig::default(), Allocator::Thread(alone), None);
        let mut recorder = lag::install(&worker, Arc::clone(shared.metrics.operators()));
        if let Err(e) = build(&mut worker, shared, inbox, wake, &mut recorder) {
            shared.fail("the dataflow could not be built", e);
        }
        SteppedWorker { worker }
    }

    /// Gives every operator that has something to do its turn.
    pub fn step(&mut self) {
        self.worker.step();
    }
}

impl Drop for SteppedWorker {
    fn drop(&mut self) {
        for dataflow in self.worker.installed_dataflows() {
            self.worker.drop_dataflow(dataflow);
        }
    }
}
