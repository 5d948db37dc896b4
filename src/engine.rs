//! One node: starts, wires and stops the parts, in that order; computes nothing.
//!
//! Start: open the store, redo the log into pages, build the dataflow, feed the joins what they held. Stop: take no
//! more input, wait for the last commit, write pages back, seal the tail.
//!
//! Invariants: input reaches the committer before the workers hear that its epochs are over; at most a few slices are
//! under way. Neighbours: `source` reads, `dataflow` computes, `state` keeps, `monitor` reports; `cli`
//! calls this.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, unbounded};
use timely::scheduling::SyncActivator;

use crate::dataflow::commit::{Committer, Input, Progress, ToCommitter};
use crate::dataflow::{Feed, Shared, SteppedWorker, run_worker};
use crate::event::EventBatch;
use crate::monitor;
use crate::offline::{Offline, OfflineError};
use crate::plan::Plan;
use crate::source::replay::ReplayClock;
use crate::source::{Slice, unfinished};
use crate::state::cache::Cache;
use crate::state::commit::ClockKind;
use crate::state::redo::redo;
use crate::state::{StateError, Store};
use crate::telemetry::Metrics;
use crate::time::{Clock, Epoch};

/// Slices fed and not yet committed, at most.
const UNDER_WAY: usize = 4;
/// Batches of the log that wait for a worker while joins are rebuilt, at most.
const AGAIN_UNDER_WAY: usize = 8;

/// Why a node cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The store.
    #[error(transparent)]
    State(#[from] StateError),
    /// The log.
    #[error(transparent)]
    Offline(#[from] OfflineError),
    /// A worker or the committer has ended.
    #[error("the engine stopped: {0}")]
    Stopped(String),
    /// A slice of a source that the plan does not have.
    #[error("`{0}` is not among the sources of this node's definitions")]
    UnknownSource(String),
    /// A replay was interrupted: going live now would read its sources again from where they began.
    #[error(
        "a replay of `{name}` under --clock {clock} was interrupted: finish it with `headwater replay --clock {clock}`, \
         or go on with `headwater run --clock {clock}`; or use another --data-dir"
    )]
    Unfinished {
        /// The source.
        name: String,
        /// The replay's clock.
        clock: ReplayClock,
    },
}

/// How a node is run.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Timely workers.
    pub workers: usize,
    /// Sync every commit to disk.
    pub sync_always: bool,
}

/// A running node.
pub struct Node {
    plan: Arc<Plan>,
    store: Arc<Store>,
    cache: Arc<Cache>,
    offline: Arc<Offline>,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    feeds: Vec<Sender<Feed>>,
    wakers: Vec<SyncActivator>,
    progress: Receiver<Progress>,
    last_progress: Progress,
    under_way: std::collections::VecDeque<u64>,
    /// The last epoch committed before the start.
    resumed: u64,
    /// The committer has been told that epochs are the machine's clock's.
    live: bool,
    workers: Option<JoinHandle<Result<(), String>>>,
    committer: Option<JoinHandle<Result<(), StateError>>>,
    /// Rows redone at the start.
    pub redone: u64,
}

impl Node {
    /// Opens the data directory and starts the dataflow, ready to be fed.
    ///
    /// # Errors
    /// A directory in use, of other definitions, or damaged.
    pub fn start(
        plan: Arc<Plan>,
        dir: &std::path::Path,
        settings: Settings,
        clock: &Clock,
    ) -> Result<Node, EngineError> {
        let mut node = Node::open(plan, dir, settings, clock)?;
        node.rebuild(&AtomicBool::new(false))?;
        Ok(node)
    }

    /// Opens the data directory and starts the dataflow: what was committed can be read. See [`Node::rebuild`].
    ///
    /// # Errors
    /// As of [`Node::start`].
    pub fn open(
        plan: Arc<Plan>,
        dir: &std::path::Path,
        settings: Settings,
        clock: &Clock,
    ) -> Result<Node, EngineError> {
        let started = Instant::now();
        let store = Arc::new(Store::open(dir, &plan)?);
        let (mut node, committer) = Node::over(plan, store, settings, clock)?;
        let (inbox, report) = (committer.inbox, committer.report);
        let committer = committer.committer;
        let guarding = Arc::clone(&node.shared);
        let thread = std::thread::Builder::new()
            .name("committer".into())
            .spawn(move || guarding.guard("committer", || committer.run(&inbox, &report)))
            .map_err(|e| EngineError::Stopped(e.to_string()))?;
        node.committer = Some(thread);
        let (feeds, wakers, workers) = start_workers(&node.shared, settings.workers)?;
        (node.feeds, node.wakers, node.workers) = (feeds, wakers, Some(workers));
        node.metrics.engine().recovery.set(i64::try_from(started.elapsed().as_micros()).unwrap_or(i64::MAX));
        Ok(node)
    }

    /// The same without a thread: one worker and the committer do nothing but what they are stepped to. For simulations.
    /// [`Node::feed`], [`Node::drain`] and [`Node::stop`] wait for the committer and must not have to.
    ///
    /// # Errors
    /// As of [`Node::start`].
    pub fn open_stepped(
        plan: Arc<Plan>,
        store: Arc<Store>,
        settings: Settings,
        clock: &Clock,
    ) -> Result<(Node, Stepped), EngineError> {
        assert_eq!(settings.workers, 1, "nobody steps more than one");
        let (mut node, committer) = Node::over(plan, store, settings, clock)?;
        let (feed, inbox) = unbounded();
        let (wake, awake) = unbounded();
        let worker = SteppedWorker::new(&node.shared, inbox, &wake);
        node.feeds = vec![feed];
        node.wakers = awake.try_iter().map(|(_, waker)| waker).collect();
        Ok((node, Stepped { worker, committer }))
    }

    /// A node over a store, without workers, and its committer, which nobody runs yet.
    fn over(
        plan: Arc<Plan>,
        store: Arc<Store>,
        settings: Settings,
        clock: &Clock,
    ) -> Result<(Node, SteppedCommitter), EngineError> {
        let metrics = Arc::new(monitor::metrics(&plan));
        let cache = Arc::new(Cache::new(Arc::clone(&store), &plan)?);
        let offline = Arc::new(Offline::new(Arc::clone(&plan), Arc::clone(&store))?);
        let redone = redo(&store, &plan, &cache, None, |view, events| offline.project_events(view, events))?;
        let resumed = cache.published().epoch;
        monitor::resume_at(&metrics, &store.offsets()?);
        let (to_committer, inbox) = unbounded();
        let (report, progress) = unbounded();
        let shared = Arc::new(Shared {
            plan: Arc::clone(&plan),
            cache: Arc::clone(&cache),
            committer: to_committer,
            resumed,
            metrics: Arc::clone(&metrics),
            stop: AtomicBool::new(false),
            failed: parking_lot::Mutex::new(None),
        });
        // Once a node has been live here all that is past is settled, also while joins are rebuilt.
        let live = store.has_been_live()?;
        let committer = Committer::new(
            Arc::clone(&plan),
            Arc::clone(&cache),
            clock.clone(),
            settings.sync_always,
            live,
            monitor::on_commit(Arc::clone(&plan), Arc::clone(&metrics), clock.clone()),
        );
        let node = Node {
            plan,
            store,
            cache,
            offline,
            shared,
            metrics,
            feeds: vec![],
            wakers: vec![],
            progress,
            last_progress: Progress { closed: resumed, ..Progress::default() },
            under_way: std::collections::VecDeque::new(),
            resumed,
            live,
            workers: None,
            committer: None,
            redone,
        };
        node.metrics.engine().epoch.set(resumed.cast_signed());
        monitor::collect_at_scrape(&node.metrics, &node.plan, &node.cache, &node.store);
        Ok((node, SteppedCommitter { committer, inbox, report }))
    }

    /// Rebuilds the joins' state: all events of sources that joins read enter again, at the resumed epoch. Reads are answered
    /// meanwhile. Nothing may be fed before; a `stop` that is set ends it early, and then nothing may be fed at all.
    ///
    /// # Errors
    /// A log that cannot be read; the engine has stopped.
    pub fn rebuild(&mut self, stop: &AtomicBool) -> Result<(), EngineError> {
        self.rebuild_resting(stop, || std::thread::sleep(std::time::Duration::from_millis(1)))
    }

    /// The same; `rest` is called while the workers have enough to do.
    ///
    /// # Errors
    /// As of [`Node::rebuild`].
    pub fn rebuild_resting(&mut self, stop: &AtomicBool, mut rest: impl FnMut()) -> Result<(), EngineError> {
        let joined = self.plan.views.iter().filter(|v| v.logs_updates());
        let names =
            joined.flat_map(|v| std::iter::once(&v.plan.stream.name).chain(v.plan.joins.iter().map(|j| &j.table.name)));
        let sources: BTreeSet<usize> = names.filter_map(|n| self.plan.source_index(n)).collect();
        for source in sources.into_iter().filter(|_| self.resumed > 0) {
            let mut turn = 0;
            let all = self.offline.events(source, Epoch(self.resumed), &mut |batch| {
                turn = (turn + 1) % self.feeds.len();
                // The log may be far larger than memory.
                while self.feeds[turn].len() >= AGAIN_UNDER_WAY {
                    // A worker that is gone takes nothing any more.
                    if stop.load(Ordering::Acquire) || self.shared.stop.load(Ordering::Acquire) {
                        return Err(OfflineError::Stopped);
                    }
                    let _ = self.wakers[turn].activate();
                    rest();
                }
                let _ = self.feeds[turn].send(Feed::Again(source, EventBatch::new(batch)?));
                Ok(())
            });
            match all {
                Err(OfflineError::Stopped) => return self.check(),
                all => all?,
            }
        }
        self.tick(self.resumed + 1);
        Ok(())
    }

    /// From now on epochs are the machine's clock's, and live answers are about the present. There is no way back: what is
    /// past is settled.
    ///
    /// # Errors
    /// [`EngineError::Unfinished`]: what an interrupted replay has taken, reading live would take again.
    pub fn go_live(&mut self) -> Result<(), EngineError> {
        if self.live {
            return Ok(());
        }
        // Under way there may be the end of a replay, of which the store does not know yet.
        self.drain()?;
        self.check_finished()?;
        let _ = self.shared.committer.send(ToCommitter::Live);
        self.live = true;
        Ok(())
    }

    /// Has every replay on this directory been finished?
    ///
    /// # Errors
    /// [`EngineError::Unfinished`].
    pub fn check_finished(&self) -> Result<(), EngineError> {
        match unfinished(&self.store.offsets()?, &self.store.sorted_positions()?) {
            Some((name, position)) => Err(EngineError::Unfinished { name: name.into(), clock: position.clock }),
            None => Ok(()),
        }
    }

    /// Takes a slice in: to the committer whole, to the workers in parts. Waits while too much is under way.
    ///
    /// # Errors
    /// The engine has stopped: the store failed or a worker did.
    pub fn feed(&mut self, slice: Slice, clock: ClockKind) -> Result<(), EngineError> {
        let Some(last) = slice.last else { return Ok(()) };
        if clock == ClockKind::Wall {
            self.go_live()?;
        }
        self.check()?;
        while self.under_way.len() >= UNDER_WAY {
            self.await_progress()?;
        }
        let mut events = vec![];
        for (source, batch) in &slice.batches {
            let index = self.plan.source_index(&source.name);
            events.push((index.ok_or_else(|| EngineError::UnknownSource(source.name.clone()))?, batch.clone()));
        }
        let input = Input {
            last: last.0,
            closed: Some(Instant::now()),
            complete: slice.complete,
            events: events.clone(),
            rejected: slice.rejected,
            offsets: slice.offsets,
            sorted: slice.sorted,
            gaps: slice.gaps,
            topic_ids: slice.topic_ids,
        };
        let _ = self.shared.committer.send(ToCommitter::Input(input, clock));
        for (source, batch) in events {
            let batch = EventBatch::new(batch).map_err(OfflineError::from)?;
            let rows = batch.len();
            let part = rows.div_ceil(self.feeds.len()).max(1);
            for (n, from) in (0..rows).step_by(part).enumerate() {
                let part = batch.slice(from, part.min(rows - from));
                let _ = self.feeds[n].send(Feed::Rows(source, part));
            }
        }
        self.under_way.push_back(last.0);
        self.tick(last.0 + 1);
        Ok(())
    }

    /// Says that no row below this epoch will come.
    pub fn tick(&self, epoch: u64) {
        self.metrics.operators().set_fed(epoch);
        for (feed, waker) in self.feeds.iter().zip(&self.wakers) {
            let _ = feed.send(Feed::Tick(epoch));
            let _ = waker.activate();
        }
    }

    fn await_progress(&mut self) -> Result<(), EngineError> {
        match self.progress.recv_timeout(std::time::Duration::from_millis(200)) {
            Ok(progress) => self.note(progress),
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => {}
            Err(crossbeam_channel::RecvTimeoutError::Disconnected) => return Err(self.why_stopped()),
        }
        self.check()
    }

    fn note(&mut self, progress: Progress) {
        self.last_progress = progress;
        while self.under_way.front().is_some_and(|last| *last < progress.closed) {
            self.under_way.pop_front();
        }
    }

    /// Is everything well?
    ///
    /// # Errors
    /// What stopped the engine.
    pub fn check(&mut self) -> Result<(), EngineError> {
        while let Ok(progress) = self.progress.try_recv() {
            self.note(progress);
        }
        if self.shared.stop.load(Ordering::Acquire) || self.committer.as_ref().is_some_and(JoinHandle::is_finished) {
            return Err(self.why_stopped());
        }
        Ok(())
    }

    fn why_stopped(&mut self) -> EngineError {
        self.shared.stop.store(true, Ordering::Release);
        // The committer's own error says more than its text.
        if let Some(committer) = self.committer.take_if(|c| c.is_finished())
            && let Ok(Err(e)) = committer.join()
        {
            return EngineError::State(e);
        }
        let why = self.shared.failed.lock().clone();
        EngineError::Stopped(why.unwrap_or_else(|| "it was told to".into()))
    }

    /// Waits until everything fed is committed.
    ///
    /// # Errors
    /// The engine has stopped.
    pub fn drain(&mut self) -> Result<Progress, EngineError> {
        while !self.under_way.is_empty() {
            self.await_progress()?;
        }
        Ok(self.last_progress)
    }

    /// Is everything fed committed, as of the last [`Node::check`]?
    pub fn is_drained(&self) -> bool {
        self.under_way.is_empty()
    }

    /// What has been committed since the start.
    pub fn progress(&self) -> Progress {
        self.last_progress
    }

    /// Commits what was fed, writes pages back, seals the tail, and ends the threads.
    ///
    /// # Errors
    /// The store's.
    pub fn stop(mut self) -> Result<Progress, EngineError> {
        let progress = self.drain()?;
        self.check()?;
        self.end_threads()?;
        self.cache.write_back()?;
        self.seal()?;
        self.store.close()?;
        Ok(progress)
    }

    fn seal(&self) -> Result<(), EngineError> {
        self.offline.seal(Epoch(self.cache.published().epoch))?;
        Ok(())
    }

    /// The committer's error, if it has ended with one.
    fn end_threads(&mut self) -> Result<(), EngineError> {
        self.shared.stop.store(true, Ordering::Release);
        let _ = self.shared.committer.send(ToCommitter::Stop);
        for waker in &self.wakers {
            let _ = waker.activate();
        }
        let committed = self.committer.take().map(JoinHandle::join);
        if let Some(workers) = self.workers.take() {
            let _ = workers.join();
        }
        match committed {
            Some(Ok(Err(e))) => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// May a slice be fed without waiting for a commit?
    pub fn has_room(&self) -> bool {
        self.under_way.len() < UNDER_WAY
    }

    /// What the threads of the node share.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// What is exported.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The store.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The pages.
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// The log.
    pub fn offline(&self) -> &Arc<Offline> {
        &self.offline
    }
}

/// The parts of a node that are threads elsewhere: see [`Node::open_stepped`].
pub struct Stepped {
    /// The only worker.
    pub worker: SteppedWorker,
    /// The committer.
    pub committer: SteppedCommitter,
}

/// A committer and its inbox.
pub struct SteppedCommitter {
    committer: Committer,
    inbox: Receiver<ToCommitter>,
    report: Sender<Progress>,
}

impl SteppedCommitter {
    /// Takes up to so many messages in, and commits what they close.
    ///
    /// # Errors
    /// The store's; it must not be stepped again then.
    pub fn step(&mut self, messages: usize) -> Result<(), StateError> {
        self.committer.turn(self.inbox.try_iter().take(messages))?;
        let _ = self.report.send(self.committer.progress());
        Ok(())
    }

    /// Messages that wait for it.
    pub fn waiting(&self) -> usize {
        self.inbox.len()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.end_threads();
    }
}

type Workers = (Vec<Sender<Feed>>, Vec<SyncActivator>, JoinHandle<Result<(), String>>);

fn start_workers(shared: &Arc<Shared>, workers: usize) -> Result<Workers, EngineError> {
    let (feeds, inboxes): (Vec<Sender<Feed>>, Vec<Receiver<Feed>>) = (0..workers).map(|_| unbounded()).unzip();
    let (wake, awake) = unbounded();
    let theirs = Arc::clone(shared);
    let thread = std::thread::Builder::new().name("dataflow".into()).spawn(move || {
        let guards = timely::execute(timely::Config::process(workers), move |worker| {
            let inbox = inboxes[worker.index()].clone();
            let name = format!("worker {}", worker.index());
            let _: Result<(), String> = theirs.guard(&name, || {
                run_worker(worker, &theirs, inbox, &wake);
                Ok(())
            });
        })?;
        guards.join().into_iter().collect::<Result<Vec<()>, String>>().map(|_| ())
    });
    let thread = thread.map_err(|e| EngineError::Stopped(e.to_string()))?;
    let mut wakers = vec![];
    for _ in 0..workers {
        match awake.recv_timeout(std::time::Duration::from_secs(30)) {
            Ok(waker) => wakers.push(waker),
            Err(_) => {
                let why = shared.failed.lock().clone().unwrap_or_else(|| "a worker did not start".into());
                return Err(EngineError::Stopped(why));
            }
        }
    }
    wakers.sort_by_key(|(index, _)| *index);
    Ok((feeds, wakers.into_iter().map(|(_, w)| w).collect(), thread))
}
