//! The committer: gathers what belongs to closed epochs, makes it durable in one batch, and publishes it.
//!
//! It is one thread. Inputs are sent to it before the dataflow is told that their epochs are over, so when an epoch is
//! closed everything of it has arrived.
//!
//! Invariants: an epoch is committed whole; nothing is published before it is durable; `visible` rises strictly. After a
//! failed write nothing more is committed. Neighbours: `engine` starts it, `state::commit` writes, `state::cache` publishes,
//! `monitor` hears what was committed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use crossbeam_channel::{Receiver, Sender};

use crate::fold::columns::{to_batch, updates_schema};
use crate::fold::entry::Updates;
use crate::offset::Offsets;
use crate::plan::Plan;
use crate::source::{Gap, Rejected, SortedPosition};
use crate::state::cache::Cache;
use crate::state::commit::{ClockKind, Commit, LogKind, LogRecord};
use crate::state::log::encode_batch;
use crate::state::{StateError, Store};
use crate::time::{Clock, Epoch};

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
    last_visible: i64,
    on_commit: OnCommit,
}

impl Committer {
    /// For a store whose last commit the cache shows.
    pub fn new(plan: Arc<Plan>, cache: Arc<Cache>, clock: Clock, sync_always: bool, on_commit: OnCommit) -> Committer {
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
            last_visible: published.visible,
            on_commit,
        }
    }

    /// Works until told to stop; reports progress after every turn.
    ///
    /// # Errors
    /// The store's: the process must end, nothing after the last published commit is kept.
    pub fn run(mut self, inbox: &Receiver<ToCommitter>, progress: &Sender<Progress>) -> Result<(), StateError> {
        while let Ok(first) = inbox.recv() {
            let before = self.progress;
            let goes_on = self.turn(std::iter::once(first).chain(inbox.try_iter()))?;
            if self.progress != before {
                let _ = progress.send(self.progress);
            }
            if !goes_on {
                break;
            }
        }
        Ok(())
    }

    /// One step: takes all that has arrived, and commits what is over, one commit for it. False once it was told to stop.
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
                ToCommitter::Stop => stop = true,
            }
        }
        if closed > self.progress.closed {
            self.close(closed)?;
        }
        Ok(!stop)
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
            let upto = if until == inputs.len() { closed } else { last + 1 };
            self.commit(&inputs[from..until], clock, last, upto)?;
            from = until;
        }
        self.progress.closed = closed;
        Ok(())
    }

    fn commit(
        &mut self,
        inputs: &[(Input, ClockKind)],
        clock: ClockKind,
        last: u64,
        upto: u64,
    ) -> Result<(), StateError> {
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
                commit.records.push(LogRecord { kind: LogKind::Events(*source), rows: batch.num_rows(), bytes });
            }
            commit.rejected.extend(input.rejected.iter().cloned());
            commit.offsets.merge(&input.offsets);
            commit.sorted.extend(input.sorted.clone());
            commit.gaps.extend(input.gaps.iter().cloned());
            commit.topic_ids.extend(input.topic_ids.clone());
        }
        self.take_updates(upto, &mut commit)?;
        let (refused, later) = std::mem::take(&mut self.refused).into_iter().partition(|r| r.epoch < upto);
        self.refused = later;
        commit.rejected.extend::<Vec<_>>(refused);
        self.progress.rejected += commit.rejected.len() as u64;
        let wall = clock == ClockKind::Wall;
        commit.visible = if wall { self.clock.now().max(self.last_visible + 1) } else { 0 }.max(last.cast_signed());
        if wall {
            // From here on no live answer is about that instant until the commit can be read.
            self.cache.announce(commit.visible);
        }
        self.store.commit(&commit, self.sync_always)?;
        self.cache.publish(last, commit.visible);
        self.last_visible = self.last_visible.max(commit.visible);
        self.progress.commits += 1;
        (self.on_commit)(inputs, &commit);
        Ok(())
    }

    /// Moves the joined views' updates of closed epochs into the commit.
    fn take_updates(&mut self, upto: u64, commit: &mut Commit) -> Result<(), StateError> {
        let mut later = vec![];
        for updates in std::mem::take(&mut self.updates) {
            let planned = &self.plan.views[updates.view];
            let shape = &planned.fold.shape;
            let all = 0..u32::try_from(updates.len()).unwrap_or(u32::MAX);
            let (now, rest): (Vec<u32>, Vec<u32>) = all.partition(|n| updates.epochs[*n as usize] < upto);
            if !rest.is_empty() {
                let mut kept = Updates { view: updates.view, worker: updates.worker, ..Updates::default() };
                rest.iter().for_each(|n| kept.push(&updates.get(*n as usize, shape), shape));
                later.push(kept);
            }
            if now.is_empty() {
                continue;
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

fn unencodable(error: &arrow::error::ArrowError) -> StateError {
    StateError::Damaged { what: "a batch on its way into the log".into(), why: error.to_string() }
}
