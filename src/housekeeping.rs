//! What happens beside the dataflow: the write-ahead log to disk, pages written back, the tail sealed.
//!
//! One thread syncs, at its own pace: how much is lost with the machine must not depend on how much there is to write
//! back. Another writes back and seals, one after the other, and rests between parts of its work, so that it competes
//! little with events and reads. Both go by how far the log has grown, whether or not a view admits its rows.
//!
//! Invariants: what fails here stops the node, since it can no longer keep what it promises; only what is written back is
//! sealed. Neighbours: `engine` is the node; `state::cache` writes back, `offline::seal` seals.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::config::Config;
use crate::engine::{EngineError, Node};
use crate::offline::Offline;
use crate::state::Store;
use crate::state::cache::Cache;
use crate::telemetry::Metrics;
use crate::time::{Clock, Epoch, Mark};

/// How long writing back rests beside a live node, in lengths of the work before: the cores are for events and reads.
const REST: u32 = 4;
/// Between two looks whether there is something to do, at most.
const LOOK: Duration = Duration::from_millis(100);

/// How often each is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two syncs of the write-ahead log.
    pub sync: Duration,
    /// Pages are written back when so many rows have been logged since the last time,
    pub write_back_rows: u64,
    /// or any at all since so long.
    pub write_back: Duration,
    /// The tail is sealed when it has so many rows that are written back.
    pub seal_rows: u64,
    /// Bytes of pages kept in memory, about; `None`: all that were touched.
    pub memory: Option<u64>,
    /// How long writing back rests, in lengths of the work before.
    pub rest: u32,
}

impl Pace {
    /// As the settings say.
    pub fn of(config: &Config) -> Pace {
        Pace {
            sync: Duration::from_millis(config.commit.sync_interval_ms),
            write_back_rows: config.state.write_back_events,
            write_back: Duration::from_secs(config.state.write_back_seconds),
            seal_rows: config.state.seal_events,
            memory: config.state.memory_mb.map(|mb| mb.saturating_mul(1 << 20)),
            rest: REST,
        }
    }

    /// The same for a replay: nobody reads beside it, and what waits to be written back waits in memory.
    pub fn of_replay(config: &Config) -> Pace {
        Pace { rest: 0, ..Pace::of(config) }
    }
}

impl Default for Pace {
    fn default() -> Pace {
        Pace::of(&Config::default())
    }
}

/// The threads.
pub struct Housekeeping {
    threads: Vec<JoinHandle<()>>,
}

impl Housekeeping {
    /// Starts it for a node; it ends once `stop` is set.
    pub fn start(node: &Node, pace: Pace, stop: &Arc<AtomicBool>) -> Housekeeping {
        let clock = Clock::Machine;
        let mut syncing = Syncing::of(node);
        let mut work = Work { stop: Arc::clone(stop), ..Work::of(node, pace, &clock) };
        let sync = run("sync", node, stop, pace.sync, move || syncing.turn());
        let keep = run("housekeeping", node, stop, LOOK, move || work.turn());
        Housekeeping { threads: [sync, keep].into_iter().flatten().collect() }
    }

    /// Waits for its end; the stop flag must be set.
    pub fn join(self) {
        for thread in self.threads {
            // Its panic has stopped the node already.
            let _ = thread.join();
        }
    }
}

/// A thread that takes a turn after each pause, until `stop` is set. Its failure, or its panic, is the node's.
fn run(
    name: &'static str,
    node: &Node,
    stop: &Arc<AtomicBool>,
    pause: Duration,
    mut turn: impl FnMut() -> Result<(), EngineError> + Send + 'static,
) -> Option<JoinHandle<()>> {
    let (stop, shared) = (Arc::clone(stop), Arc::clone(node.shared()));
    let body = move || {
        let _: Result<(), EngineError> = shared.guard_until(name, &stop, || {
            let clock = Clock::Machine;
            let mut begun = clock.mark();
            while !stop.load(Ordering::Acquire) {
                // From the beginning of a turn to that of the next, however long it works.
                let left = pause.saturating_sub(clock.since(begun));
                clock.sleep(left.min(LOOK));
                if left <= LOOK {
                    begun = clock.mark();
                    turn()?;
                }
            }
            Ok(())
        });
    };
    let spawned = std::thread::Builder::new().name(name.into()).spawn(body);
    spawned.map_err(|e| node.shared().fail(name, e)).ok()
}

/// The write-ahead log to disk.
pub struct Syncing {
    cache: Arc<Cache>,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    /// The epoch that is on disk.
    synced: u64,
}

impl Syncing {
    /// For a node, from now on.
    pub fn of(node: &Node) -> Syncing {
        Syncing {
            cache: Arc::clone(node.cache()),
            store: Arc::clone(node.store()),
            metrics: Arc::clone(node.metrics()),
            synced: 0,
        }
    }

    /// Syncs if anything was committed since the last time.
    ///
    /// # Errors
    /// The store's and the file system's: the node must stop.
    pub fn turn(&mut self) -> Result<(), EngineError> {
        let epoch = self.cache.published().epoch;
        if epoch != self.synced {
            // What was complete before is in commits before: those are synced.
            let complete = self.metrics.complete();
            self.store.sync()?;
            complete.iter().for_each(|instant| self.metrics.set_durable(*instant));
            self.synced = epoch;
        } else {
            // Nothing was committed since: what is complete by now is on disk.
            let complete = self.metrics.complete();
            if self.cache.published().epoch == epoch {
                complete.iter().for_each(|instant| self.metrics.set_durable(*instant));
            }
        }
        Ok(())
    }
}

/// Pages written back, the tail sealed; turn by turn.
pub struct Work {
    cache: Arc<Cache>,
    store: Arc<Store>,
    offline: Arc<Offline>,
    metrics: Arc<Metrics>,
    pace: Pace,
    clock: Clock,
    /// Once it is set there is no rest any more.
    stop: Arc<AtomicBool>,
    /// Rows logged when pages were last written back, and when that was.
    written: (u64, Mark),
    /// Rows logged when what is sealed now was written back.
    sealed: u64,
}

impl Work {
    /// For a node, from now on; what its tail holds already counts as rows to be written back and sealed.
    pub fn of(node: &Node, pace: Pace, clock: &Clock) -> Work {
        pace.memory.iter().for_each(|bytes| node.cache().keep_in_memory(*bytes));
        Work {
            cache: Arc::clone(node.cache()),
            store: Arc::clone(node.store()),
            offline: Arc::clone(node.offline()),
            metrics: Arc::clone(node.metrics()),
            pace,
            clock: clock.clone(),
            stop: Arc::default(),
            written: (0, clock.mark()),
            sealed: 0,
        }
    }

    /// Does what is due.
    ///
    /// # Errors
    /// The store's and the file system's: the node must stop.
    pub fn turn(&mut self) -> Result<(), EngineError> {
        let logged = self.store.logged();
        let unwritten = logged - self.written.0;
        let late = unwritten > 0 && self.clock.since(self.written.1) >= self.pace.write_back;
        if unwritten >= self.pace.write_back_rows || late || self.cache.is_over_memory() {
            let started = self.clock.mark();
            let mut since = started;
            self.cache.write_back_at_ease(|| {
                self.rest(self.clock.since(since));
                since = self.clock.mark();
            })?;
            self.written = (logged, self.clock.mark());
            self.metrics.engine().checkpoint.record(self.clock.since(started));
            self.metrics.engine().checkpoint_last_success.set(self.clock.now());
        }

        // What is not written back cannot be sealed.
        if self.written.0 - self.sealed >= self.pace.seal_rows {
            self.offline.seal(Epoch(self.cache.published().epoch))?;
            self.sealed = self.written.0;
        }
        Ok(())
    }

    fn rest(&self, worked: Duration) {
        let mut left = worked.saturating_mul(self.pace.rest);
        while !left.is_zero() && !self.stop.load(Ordering::Acquire) {
            let part = left.min(LOOK);
            self.clock.sleep(part);
            left -= part;
        }
    }
}
