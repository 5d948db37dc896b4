//! The plan as a timely dataflow: events in, updates into pages and to the committer, one graph on every worker.
//!
//! A view over a stream alone is two operators: rows are projected where they are read, updates move to the worker that
//! owns their group. A view with joins keeps both sides of each join by key before it is projected. `worker` runs a
//! graph, `graph` builds it of `input` and one `view` after the other.
//!
//! Invariants: all workers build the same operators in the same order; what is fed again at a restart enters at the
//! resumed epoch and leaves no trace. An empty frontier means "stop", never "all is closed".
//! Neighbours: `engine` feeds it and owns the committer; `state::cache` takes the updates.

pub mod commit;
mod graph;
pub mod input;
pub mod join;
mod judge;
pub mod multiset;
pub mod overlap;
pub mod rows;
pub mod table;
mod view;
pub mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::Sender;

use crate::plan::Plan;
use crate::state::cache::Cache;
use crate::telemetry::Metrics;
use commit::ToCommitter;
use rows::Time;

pub use input::Feed;
pub use worker::{SteppedWorker, run_worker};

/// What all workers share.
pub struct Shared {
    /// The plan.
    pub plan: Arc<Plan>,
    /// Pages.
    pub cache: Arc<Cache>,
    /// The committer's inbox.
    pub committer: Sender<ToCommitter>,
    /// The last committed epoch when the graph was built.
    pub resumed: Time,
    /// What is exported.
    pub metrics: Arc<Metrics>,
    /// Set to end the workers.
    pub stop: AtomicBool,
    /// The first failure of a worker, which ends the process.
    pub failed: parking_lot::Mutex<Option<String>>,
}

impl Shared {
    /// Something cannot go on: the node stops, and says the first reason.
    pub(crate) fn fail(&self, what: &str, error: impl std::fmt::Display) {
        self.failed.lock().get_or_insert_with(|| format!("{what}: {error}"));
        self.stop.store(true, Ordering::Release);
        let _ = self.committer.send(ToCommitter::Stop);
    }

    /// Does a thread's work, and sees to it that its end is noticed: an error, a panic, or a return before anybody asked for
    /// it stops the node, which says the thread's name.
    ///
    /// # Errors
    /// The work's.
    pub(crate) fn guard<T, E: std::fmt::Display>(
        &self,
        thread: &str,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.guard_until(thread, &self.stop, work)
    }

    /// The same for a thread that another flag ends.
    ///
    /// # Errors
    /// The work's.
    pub(crate) fn guard_until<T, E: std::fmt::Display>(
        &self,
        thread: &str,
        asked: &AtomicBool,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let what = format!("thread `{thread}`");
        // What the work leaves behind is not used any more: the node stops.
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
            Ok(Ok(done)) => {
                if !asked.load(Ordering::Acquire) {
                    self.fail(&what, "it ended, and nobody had asked it to");
                }
                Ok(done)
            }
            Ok(Err(e)) => {
                self.fail(&what, &e);
                Err(e)
            }
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().map(|s| (*s).to_string());
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
                self.fail(&what, format!("it panicked: {}", text.as_deref().unwrap_or("no message")));
                std::panic::resume_unwind(panic)
            }
        }
    }
}
