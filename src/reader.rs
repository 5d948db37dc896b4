//! A data directory, open to read: store, log and pages, wired and compared once for every command that reads.
//!
//! Whatever an opening can know in time that grows with the tail and not with the history is compared here: see
//! `state::open`, `state::check` and `offline::catalogue`. `verify --all` compares the rest.
//!
//! Invariants: nothing is written. Neighbours: `cli` asks; `engine` is the other who wires these, to write.

use std::path::Path;
use std::sync::Arc;

use crate::offline::{Offline, OfflineError};
use crate::plan::Plan;
use crate::state::cache::Cache;
use crate::state::redo::redo;
use crate::state::{StateError, Store};
use crate::time::Clock;

/// A data directory as of its last commit.
pub struct Reader {
    /// The plan.
    pub plan: Arc<Plan>,
    /// The store.
    pub store: Arc<Store>,
    /// The log.
    pub offline: Arc<Offline>,
}

impl Reader {
    /// Opens a data directory: alone as of the present, beside its writer as of what that wrote down.
    ///
    /// # Errors
    /// A directory that holds no data, is of other definitions or of another format, or has lost something.
    pub fn open(dir: &Path, plan: &Arc<Plan>) -> Result<Reader, OfflineError> {
        // Before it is opened: whoever writes later is visible later.
        let opened = Clock::Machine.now();
        let store = Arc::new(Store::open_reader(dir, plan)?);
        store.rest_at(opened);
        let offline = Arc::new(Offline::new(Arc::clone(plan), Arc::clone(&store))?);
        Ok(Reader { plan: Arc::clone(plan), store, offline })
    }

    /// The pages of all views or of one, with the log behind the redo point.
    ///
    /// # Errors
    /// A log or a page that cannot be read.
    pub fn pages(&self, only: Option<usize>) -> Result<Cache, StateError> {
        let cache = Cache::new(Arc::clone(&self.store), &self.plan)?;
        redo(&self.store, &self.plan, &cache, only, |view, events| self.offline.project_events(view, events))?;
        Ok(cache)
    }
}
