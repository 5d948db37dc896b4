//! What happens beside the dataflow: the write-ahead log to disk, pages written back, the tail sealed.
//!
//! One thread does all three, so they never compete with each other, and rests between parts of its work, so that they
//! compete little with events and reads.
//!
//! Invariants: what fails here stops the node, since it can no longer keep what it promises. Neighbours: `engine` is the
//! node; `state::cache` writes back, `offline::seal` seals.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::config::Config;
use crate::engine::{EngineError, Node};
use crate::time::{Clock, Epoch, Mark};

/// How long writing back rests, in lengths of the work before: the cores are for events and reads.
const REST: u32 = 4;
/// Between two looks whether there is something to do, at most.
const LOOK: Duration = Duration::from_millis(100);

/// How often each is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two syncs of the write-ahead log.
    pub sync: Duration,
    /// Pages are written back when so many updates have come since the last time,
    pub write_back_updates: u64,
    /// or any at all since so long.
    pub write_back: Duration,
    /// The tail is sealed when so many updates have come since the last time.
    pub seal_updates: u64,
    /// Bytes of pages kept in memory, about; `None`: all that were touched.
    pub memory: Option<u64>,
}

impl Pace {
    /// As the settings say.
    pub fn of(config: &Config) -> Pace {
        Pace {
            sync: Duration::from_millis(config.commit.sync_interval_ms),
            write_back_updates: config.state.write_back_events,
            write_back: Duration::from_secs(config.state.write_back_seconds),
            seal_updates: config.state.seal_events,
            memory: config.state.memory_mb.map(|mb| mb.saturating_mul(1 << 20)),
        }
    }
}

impl Default for Pace {
    fn default() -> Pace {
        Pace::of(&Config::default())
    }
}

/// The thread.
pub struct Housekeeping {
    thread: Option<JoinHandle<()>>,
}

impl Housekeeping {
    /// Starts it for a node; it ends once `stop` is set.
    pub fn start(node: &Node, pace: Pace, stop: &Arc<AtomicBool>) -> Housekeeping {
        let clock = Clock::Machine;
        let mut work = Work::of(node, pace, &clock);
        let (stop, shared) = (Arc::clone(stop), Arc::clone(node.shared()));
        let run = move || {
            while !stop.load(Ordering::Acquire) {
                clock.sleep(pace.sync.min(LOOK));
                if let Err(e) = work.turn() {
                    shared.fail("beside the dataflow", e);
                    return;
                }
            }
        };
        Housekeeping { thread: std::thread::Builder::new().name("housekeeping".into()).spawn(run).ok() }
    }

    /// Waits for its end; the stop flag must be set.
    pub fn join(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The work itself, turn by turn.
pub struct Work {
    cache: Arc<crate::state::cache::Cache>,
    store: Arc<crate::state::Store>,
    offline: Arc<crate::offline::Offline>,
    metrics: Arc<crate::telemetry::Metrics>,
    pace: Pace,
    clock: Clock,
    /// The epoch that is on disk, and since when.
    synced: (u64, Mark),
    /// Updates taken when pages were last written back, and when that was.
    written: (u64, Mark),
    /// Updates taken when the tail was last sealed.
    sealed: u64,
}

impl Work {
    /// For a node, from now on.
    pub fn of(node: &Node, pace: Pace, clock: &Clock) -> Work {
        pace.memory.iter().for_each(|bytes| node.cache().keep_in_memory(*bytes));
        Work {
            cache: Arc::clone(node.cache()),
            store: Arc::clone(node.store()),
            offline: Arc::clone(node.offline()),
            metrics: Arc::clone(node.metrics()),
            pace,
            clock: clock.clone(),
            synced: (0, clock.mark()),
            written: (0, clock.mark()),
            sealed: 0,
        }
    }

    /// Does what is due.
    ///
    /// # Errors
    /// The store's or the file system's: the node must stop.
    pub fn turn(&mut self) -> Result<(), EngineError> {
        let epoch = self.cache.published().epoch;
        if epoch != self.synced.0 && self.clock.since(self.synced.1) >= self.pace.sync {
            self.synced.1 = self.clock.mark();
            // What was complete before is in commits before: those are synced.
            let complete = self.metrics.complete();
            self.store.sync()?;
            complete.iter().for_each(|instant| self.metrics.set_durable(*instant));
            self.synced.0 = epoch;
        } else if epoch == self.synced.0 {
            // Nothing was committed since: what is complete by now is on disk.
            let complete = self.metrics.complete();
            if self.cache.published().epoch == epoch {
                complete.iter().for_each(|instant| self.metrics.set_durable(*instant));
            }
        }
        let taken = self.cache.taken();
        let unwritten = taken - self.written.0;
        let late = unwritten > 0 && self.clock.since(self.written.1) >= self.pace.write_back;
        if unwritten >= self.pace.write_back_updates || late {
            let started = self.clock.mark();
            let mut since = started;
            self.cache.write_back_at_ease(|| {
                self.clock.sleep(self.clock.since(since) * REST);
                since = self.clock.mark();
            })?;
            self.written = (taken, self.clock.mark());
            self.metrics.engine().checkpoint.record(self.clock.since(started));
            self.metrics.engine().checkpoint_last_success.set(self.clock.now());
        }
        // What is not written back cannot be sealed.
        if self.written.0 - self.sealed >= self.pace.seal_updates {
            self.offline.seal(Epoch(self.store.redo_point()?))?;
            self.sealed = self.written.0;
        }
        Ok(())
    }
}
