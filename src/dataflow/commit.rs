//! The committer: gathers what belongs to closed epochs, makes it durable in one batch, and publishes it.
//!
//! It is one thread. Inputs are sent to it before the dataflow is told that their epochs are over, so when an epoch is
//! closed everything of it has arrived.
//!
//! It alone publishes, so it alone decides: a commit is visible from an instant above all that live answers were about,
//! and while no commit is being written `through`, the instant of live answers, follows the clock.
//!
//! Invariants: an epoch is committed whole; nothing is published before it is durable; `through` never passes what was
//! written down beforehand, and no commit becomes visible at or below it. After a failed write nothing more is
//! committed. Neighbours: `engine` starts it, `state::commit` writes, `state::published` publishes,
//! `monitor` hears what was committed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::fold::columns::{to_batch, updates_schema};
use crate::fold::entry::Updates;
use crate::offset::Offsets;
use crate::plan::Plan;
use crate::source::{Gap, Rejected, SortedPosition};
use crate::state::cache::Cache;
use crate::state::commit::{ClockKind, Commit, LogKind, LogRecord};
use crate::state::log::encode_batch;
use crate::state::published::Promise;
use crate::state::{StateError, Store};
use crate::time::{Clock, Epoch};

/// How far behind the clock `through` is, at most, while commits come and while none does.
const BUSY: Duration = Duration::from_millis(2);
const IDLE: Duration = Duration::from_millis(10);
/// How far ahead of the clock a node writes down that it may go, and with how much left it does so again, in µs. A node that
/// was killed comes back at what it wrote: so far ahead of the clock its first commits may be visible.
const AHEAD: i64 = 1_500_000;
const LEFT: i64 = 500_000;

/// What the sources took in: rows, refusals and the offsets they reach.
#[derive(Debug, Default)]
pub struct Input {
    /// The greatest epoch in it.
    pub last: u64,
    /// When the last of it had been read.
    pub closed: Option<Instant>,
    /// Everything appended up to this instant is in it or in earlier ones, if that is known.
    pub complete: Option<i64>,
    /// Rows by source (index in the plan).
    pub events: Vec<(usize, RecordBatch)>,
    /// Refused records.
    pub rejected: Vec<Rejected>,
    /// Exclusive ends.
    pub offsets: Offsets,
    /// Positions of sorted sources.
    pub sorted: BTreeMap<String, SortedPosition>,
    /// What brokers had dropped below these offsets.
    pub gaps: Vec<Gap>,
    /// Ids of topics of which these are the first offsets.
    pub topic_ids: BTreeMap<String, String>,
}

/// The committer's inbox.
#[derive(Debug)]
pub enum ToCommitter {
    /// Taken in by the sources, under this clock.
    Input(Input, ClockKind),
    /// Fed to a joined view.
    Updates(Updates),
    /// Refused by a view.
    Refused(Vec<Rejected>),
    /// All epochs below this are over.
    Closed(u64),
    /// From now on epochs are the machine's clock's: what is visible by now is all that ever will have been.
    Live,
    /// Leave.
    Stop,
}

/// What the committer has done, for whoever waits for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Everything below is committed.
    pub closed: u64,
    /// Commits written.
    pub commits: u64,
    /// Rows in them.
    pub events: u64,
    /// Refused records in them.
    pub rejected: u64,
}

/// Hears of each commit once it can be read: its inputs and what became of them.
pub type OnCommit = Box<dyn FnMut(&[(Input, ClockKind)], &Commit) + Send>;

/// Gathers and commits.
pub struct Committer {
    plan: Arc<Plan>,
    store: Arc<Store>,
    cache: Arc<Cache>,
    clock: Clock,
    sync_always: bool,
    inputs: Vec<(Input, ClockKind)>,
    updates: Vec<Updates>,
    refused: Vec<Rejected>,
    progress: Progress,
    /// `through` follows the clock. During a replay it does not: its epochs are visible at their own, past times.
    live: bool,
    /// What is written down: `through` may go so far.
    bound: i64,
    /// Committed since that was written.
    busy: bool,
    on_commit: OnCommit,
}

impl Committer {
    /// For a store whose last commit the cache shows. `live`: see [`ToCommitter::Live`].
    pub fn new(
        plan: Arc<Plan>,
        cache: Arc<Cache>,
        clock: Clock,
        sync_always: bool,
        live: bool,
        on_commit: OnCommit,
    ) -> Committer {
        let published = cache.published();
        Committer {
            plan,
            store: Arc::clone(cache.store()),
            cache,
            clock,
            sync_always,
            inputs: vec![],
            updates: vec![],
            refused: vec![],
            progress: Progress { closed: published.epoch, ..Progress::default() },
            live,
            bound: published.through,
            busy: false,
            on_commit,
        }
    }

    /// Works until told to stop; reports progress after every turn that closed something.
    ///
    /// # Errors
    /// The store's: the process must end, nothing after the last published commit is kept.
    pub fn run(mut self, inbox: &Receiver<ToCommitter>, progress: &Sender<Progress>) -> Result<(), StateError> {
        let mut pause = IDLE;
        loop {
            let first = match inbox.recv_timeout(pause) {
                Ok(first) => Some(first),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let before = self.progress;
            let goes_on = self.turn(first.into_iter().chain(inbox.try_iter()))?;
            if self.progress != before {
                let _ = progress.send(self.progress);
            }
            if !goes_on {
                break;
            }
            pause = if self.progress.commits == before.commits { IDLE } else { BUSY };
        }
        self.rest()
    }

    /// One step: takes all that has arrived, commits what is over, one commit for it, and lets `through` follow the clock.
    /// False once it was told to stop.
    ///
    /// # Errors
    /// As of [`Committer::run`].
    pub fn turn(&mut self, arrived: impl Iterator<Item = ToCommitter>) -> Result<bool, StateError> {
        let (mut closed, mut stop) = (0, false);
        for message in arrived {
            match message {
                ToCommitter::Input(input, clock) => self.inputs.push((input, clock)),
                ToCommitter::Updates(updates) => self.updates.push(updates),
                ToCommitter::Refused(rejected) => self.refused.extend(rejected),
                ToCommitter::Closed(frontier) => closed = frontier.max(closed),
                ToCommitter::Live => self.live = true,
                ToCommitter::Stop => stop = true,
            }
        }
        if stop {
            // Whoever failed says so before its epoch can close: that epoch lacks something, and is not committed.
            return Ok(false);
        }
        if closed > self.progress.closed {
            self.close(closed)?;
        }
        self.follow_clock()?;
        Ok(true)
    }

    /// Moves `through` to the present. All that is visible by now is published, and what comes later is visible later: the
    /// next commit is decided on this thread.
    fn follow_clock(&mut self) -> Result<(), StateError> {
        let (now, through) = (self.clock.now(), self.cache.published().through);
        // All reads of a tick have one stamp.
        if !self.live || now < through.saturating_add(micros(BUSY)) {
            return Ok(());
        }
        self.reserve(now, now)?;
        self.cache.advance(now);
        Ok(())
    }

    /// Before anything is shown at `until`: that we may go so far is written down, and a power loss leaves it. Whoever
    /// comes then makes nothing visible at an instant that was answered, and gives no epoch twice.
    fn reserve(&mut self, through: i64, until: i64) -> Result<(), StateError> {
        if until > self.bound - LEFT {
            // While commits come they are synced soon; without any nobody else would sync.
            self.promise(Promise { through, bound: until + AHEAD }, !self.busy)?;
            self.busy = false;
        }
        // Only when syncing has been late for longer than what was left.
        if until > self.store.promised_durably() { self.store.sync() } else { Ok(()) }
    }

    fn promise(&mut self, promise: Promise, sync: bool) -> Result<(), StateError> {
        self.store.promise(promise, sync)?;
        self.bound = promise.bound;
        Ok(())
    }

    /// The end: nothing is shown from here on, so the next node need not keep a distance.
    fn rest(&mut self) -> Result<(), StateError> {
        let through = self.cache.published().through;
        if self.live { self.promise(Promise { through, bound: through }, false) } else { Ok(()) }
    }

    /// What has been committed since the start.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    fn close(&mut self, closed: u64) -> Result<(), StateError> {
        let (inputs, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.inputs).into_iter().partition(|(i, _)| i.last < closed);
        self.inputs = rest;
        // Clocks change only between a replay and what follows it; a commit has one.
        let mut from = 0;
        while from < inputs.len() {
            let clock = inputs[from].1;
            let until = inputs[from..].iter().position(|(_, c)| *c != clock).map_or(inputs.len(), |n| from + n);
            let last = inputs[from..until].iter().map(|(i, _)| i.last).max().unwrap_or(0);
            self.commit(&inputs[from..until], clock, last)?;
            from = until;
        }
        self.progress.closed = closed;
        Ok(())
    }

    /// Commits slices, the last of which ends with this epoch, and what their epochs brought.
    fn commit(&mut self, inputs: &[(Input, ClockKind)], clock: ClockKind, last: u64) -> Result<(), StateError> {
        let mut commit = Commit {
            last: Epoch(last),
            clock,
            visible: 0,
            records: vec![],
            rejected: vec![],
            offsets: Offsets::default(),
            sorted: BTreeMap::new(),
            gaps: vec![],
            topic_ids: BTreeMap::new(),
        };
        for (input, _) in inputs {
            for (source, batch) in &input.events {
                self.progress.events += batch.num_rows() as u64;
                let bytes = encode_batch(batch).map_err(|e| unencodable(&e))?;
                commit.records.push(LogRecord {
                    kind: LogKind::Events(self.store.ids().source(*source)),
                    rows: batch.num_rows(),
                    bytes,
                });
            }
            commit.rejected.extend(input.rejected.iter().cloned());
            commit.offsets.merge(&input.offsets);
            commit.sorted.extend(input.sorted.clone());
            commit.gaps.extend(input.gaps.iter().cloned());
            commit.topic_ids.extend(input.topic_ids.clone());
        }
        // Not all that is closed: while a join works through a slice, epochs in the middle of it are over. What they brought
        // belongs to the slice's own commit; in this one it would outlive a crash that the slice's events do not.
        self.take_updates(last, &mut commit)?;
        let (refused, later) = std::mem::take(&mut self.refused).into_iter().partition(|r| r.epoch <= last);
        self.refused = later;
        commit.rejected.extend::<Vec<_>>(refused);
        self.progress.rejected += commit.rejected.len() as u64;
        let wall = clock == ClockKind::Wall;
        commit.visible = last.cast_signed();
        if wall {
            // Above every instant that was answered. Until it is published nobody moves `through`: that is us.
            let through = self.cache.published().through;
            commit.visible = self.clock.now().max(through + 1).max(commit.visible);
            self.live = true;
            self.reserve(through, commit.visible)?;
        }
        self.store.commit(&commit, self.sync_always)?;
        self.cache.publish(last, commit.visible);
        self.busy = true;
        self.progress.commits += 1;
        (self.on_commit)(inputs, &commit);
        Ok(())
    }

    /// Moves the joined views' updates of epochs up to `last` into the commit.
    fn take_updates(&mut self, last: u64, commit: &mut Commit) -> Result<(), StateError> {
        let mut later = vec![];
        for updates in std::mem::take(&mut self.updates) {
            let index = self.store.ids().view_index(updates.view).expect("updates are of views that the store knows");
            let planned = &self.plan.views[index];
            let shape = &planned.fold.shape;
            let all = 0..u32::try_from(updates.len()).expect("batches are bounded");
            let (now, rest): (Vec<u32>, Vec<u32>) = all.partition(|n| updates.epochs[*n as usize] <= last);
            if now.is_empty() {
                later.push(updates);
                continue;
            }
            if !rest.is_empty() {
                let mut kept = Updates { worker: updates.worker, ..Updates::of(updates.view) };
                rest.iter().for_each(|n| kept.push(&updates.get(*n as usize, shape), shape));
                later.push(kept);
            }
            let names: Vec<String> = planned.plan.groups.iter().map(|(name, _)| name.clone()).collect();
            let schema = updates_schema(&planned.fold.plan, &names);
            let batch = to_batch(&updates, &now, &planned.fold.plan, shape, &schema).map_err(|e| unencodable(&e))?;
            let bytes = encode_batch(&batch).map_err(|e| unencodable(&e))?;
            commit.records.push(LogRecord { kind: LogKind::Updates(updates.view), rows: now.len(), bytes });
        }
        self.updates = later;
        Ok(())
    }
}

fn micros(length: Duration) -> i64 {
    i64::try_from(length.as_micros()).expect("ticks are short")
}

fn unencodable(error: &arrow::error::ArrowError) -> StateError {
    StateError::Damaged { what: "a batch on its way into the log".into(), why: error.to_string() }
}

#[cfg(test)]
#[path = "commit_tests.rs"]
mod tests;
