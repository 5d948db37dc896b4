//! The engine's own node, with nothing running: whatever it does, a step makes it do.
//!
//! Invariants: an error that the world did not cause is a failure of the test. Neighbours: `world` picks the steps, `check`
//! looks at what came of them.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use datafusion::common::ScalarValue;
use headwater::dataflow::SteppedWorker;
use headwater::engine::{EngineError, Node, Settings, SteppedCommitter};
use headwater::housekeeping::{Pace, Syncing, Work};
use headwater::online::{LookupError, Online, StampRequest, ViewRequest};
use headwater::source::live::{Live, Ticks};
use headwater::state::Store;
use headwater::state::commit::ClockKind;
use headwater::time::{Ask, Epoch};

use super::model::{Taken, USERS, VIEWS, answer, knows_event_time};
use super::topic::Scripts;
use super::world::{Remembered, World};

/// A node whose parts are stepped by hand. Each is borrowed while it works, so nothing is entered twice.
pub(crate) struct Running {
    pub(crate) node: RefCell<Option<Node>>,
    worker: RefCell<SteppedWorker>,
    committer: RefCell<SteppedCommitter>,
    house: RefCell<Work>,
    syncing: RefCell<Syncing>,
    live: RefCell<Live>,
    /// The last slice's epoch.
    pub(crate) fed: Cell<Epoch>,
    pub(crate) online: Online,
}

/// An answer with its stamp.
pub(crate) struct Answered {
    pub(crate) epoch: u64,
    pub(crate) as_of: i64,
    pub(crate) text: String,
    /// The same, as far as the model knows it.
    pub(crate) known: String,
}

impl Running {
    /// Starts a node on what is in the data directory.
    pub(crate) fn open(world: &World) -> Result<Running, EngineError> {
        let store = Arc::new(Store::open_watched(&world.dir.path().join("data"), &world.plan, world.faults())?);
        // RocksDB has put what it recovered into files of its own.
        world.disk.borrow_mut().database_synced();
        let settings = Settings { workers: 1, sync_always: world.sync_always };
        let (mut node, stepped) = Node::open_stepped(Arc::clone(&world.plan), store, settings, &world.clock)?;
        let mut worker = stepped.worker;
        node.rebuild_resting(&AtomicBool::new(false), || worker.step())?;
        node.go_live()?;
        let pace = Pace {
            write_back_rows: 8,
            write_back: Duration::from_secs(5),
            seal_rows: 24,
            memory: world.chance(0.5).then_some(1),
            ..Pace::default()
        };
        let syncing = Syncing::of(&node);
        let house = Work::of(&node, pace, &world.clock);
        let (cache, offline) = (Arc::clone(node.cache()), Arc::clone(node.offline()));
        let online = Online::new(Arc::clone(&world.plan), cache, offline, world.clock.clone());
        let offsets = node.store().offsets()?;
        let fed = Cell::new(node.store().begins_after().max(Epoch(node.cache().published().epoch)));
        let ticks = Ticks { busy: Duration::from_millis(2), idle: Duration::from_millis(10) };
        let scripts = Box::new(Scripts(world.topics.clone()));
        let live = Live::with_topics(&world.plan.sources, world.dir.path(), scripts, offsets, &world.clock, ticks);
        Ok(Running {
            live: RefCell::new(live.expect("scripts need no settings")),
            fed,
            node: RefCell::new(Some(node)),
            worker: RefCell::new(worker),
            committer: RefCell::new(stepped.committer),
            house: RefCell::new(house),
            syncing: RefCell::new(syncing),
            online: online.expect("views have keys"),
        })
    }

    /// Runs a part of the engine; if it fails, that must be the world's doing.
    fn run<T, E: std::fmt::Display>(&self, world: &World, part: &str, outcome: Result<T, E>) -> Option<T> {
        match outcome {
            Ok(done) => Some(done),
            Err(e) => {
                assert!(world.failed.get(), "{part}: {e}");
                world.note(|| format!("    {part}: {e}"));
                None
            }
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Node) -> T) -> Option<T> {
        self.node.try_borrow_mut().ok()?.as_mut().map(look)
    }

    /// A node that stops has ended its threads before it writes its last.
    fn is_stopping(&self) -> bool {
        self.node.try_borrow().is_ok_and(|node| node.is_none())
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.with(|node| node.check().is_ok() && node.is_drained()).unwrap_or(true)
    }

    /// One slice of input, if there is any.
    pub(crate) fn poll(&self, world: &World) {
        if !self.with(|node| node.check().is_ok() && node.has_room()).unwrap_or(false) {
            return;
        }
        world.topics.iter().for_each(|t| *t.batch.lock() = world.batch());
        let slice = self.live.borrow_mut().next_slice(self.fed.get()).expect("topics are never given up");
        let Some(slice) = slice else { return };
        let epoch = slice.last.expect("a slice has an epoch").0;
        self.fed.set(Epoch(epoch));
        let mut given = vec![];
        for (topic, script) in world.topics.iter().enumerate() {
            for (partition, offset) in script.given.lock().drain(..) {
                let record = script.record(partition, offset);
                given.push(Taken { epoch, topic, partition, offset, record });
            }
        }
        world.note(|| format!("slice {epoch}: {} records, gaps {:?}", given.len(), slice.gaps));
        let memory = &mut *world.memory.borrow_mut();
        memory.taken.extend(given);
        memory.gaps.extend(slice.gaps.iter().map(|gap| (epoch, gap.clone())));
        let fed = self.with(|node| node.feed(slice, ClockKind::Wall)).expect("just looked");
        self.run(world, "feed", fed);
    }

    pub(crate) fn step_worker(&self, world: &World) {
        let Ok(mut worker) = self.worker.try_borrow_mut() else { return };
        if self.is_stopping() {
            return;
        }
        let steps = world.pick(1..6);
        world.note(|| format!("worker: {steps} steps"));
        (0..steps).for_each(|_| worker.step());
    }

    /// The committer takes some of what waits for it, and commits what is closed.
    pub(crate) fn commit(&self, world: &World) {
        let Ok(mut committer) = self.committer.try_borrow_mut() else { return };
        if self.is_stopping() {
            return;
        }
        let most = if world.chance(0.7) { usize::MAX } else { world.pick(0..4) };
        let before = self.online.cache().published();
        let done = committer.step(most);
        self.run(world, "committer", done);
        let after = self.online.cache().published();
        if after.epoch != before.epoch {
            world.note(|| format!("commit {} visible {}", after.epoch, after.visible));
            world.counts.borrow_mut().commits += 1;
            self.check_commit(world);
        }
    }

    /// Housekeeping has its turn.
    pub(crate) fn keep_house(&self, world: &World) {
        let Ok(mut house) = self.house.try_borrow_mut() else { return };
        world.note(|| "housekeeping".into());
        let done = house.turn();
        self.run(world, "housekeeping", done);
    }

    /// The write-ahead log reaches the disk: what was committed before survives a power loss.
    pub(crate) fn sync(&self, world: &World) {
        let Ok(mut syncing) = self.syncing.try_borrow_mut() else { return };
        let epoch = self.online.cache().published().epoch;
        world.note(|| format!("sync at {epoch}"));
        let done = syncing.turn();
        if self.run(world, "sync", done).is_some() {
            let durable = &mut world.memory.borrow_mut().durable;
            *durable = epoch.max(*durable);
        }
    }

    pub(crate) fn write_back(&self, world: &World) {
        let Ok(_house) = self.house.try_borrow_mut() else { return };
        world.note(|| "write back".into());
        self.run(world, "write back", self.online.cache().write_back());
    }

    pub(crate) fn seal(&self, world: &World) {
        let Ok(_house) = self.house.try_borrow_mut() else { return };
        world.note(|| "seal".into());
        let until = self.online.cache().published().epoch;
        if self.run(world, "seal", self.online.offline().seal(Epoch(until))).is_some() {
            world.counts.borrow_mut().sealed += 1;
        }
    }

    /// A clean stop; everything is committed.
    pub(crate) fn stop(&self, world: &World) {
        let Some(node) = self.node.borrow_mut().take() else { return };
        let epoch = self.online.cache().published().epoch;
        let stopped = node.stop();
        if self.run(world, "stop", stopped).is_some() {
            let durable = &mut world.memory.borrow_mut().durable;
            *durable = epoch.max(*durable);
        }
    }

    /// All of one user's features of one view.
    pub(crate) fn ask(&self, view: usize, user: usize, stamp: StampRequest) -> Result<Answered, LookupError> {
        let plan = &self.online.plan().views[self.view(view)].plan;
        let entities = vec![vec![ScalarValue::from(USERS[user])]];
        let request = ViewRequest { view: self.view(view), features: (0..plan.features.len()).collect(), entities };
        let answer_ = self.online.lookup(&[request], stamp)?;
        let row = &answer_.rows[0][0];
        let values: Vec<String> = row.values.iter().map(ToString::to_string).collect();
        let event_time = row.event_time.map_or("NULL".to_string(), |t| t.to_string());
        let known = if knows_event_time(VIEWS[view]) { &event_time } else { "-" };
        Ok(Answered {
            epoch: answer_.epoch.0,
            as_of: answer_.as_of.0,
            text: answer(row.status.as_str(), &event_time, &values),
            known: answer(row.status.as_str(), known, &values),
        })
    }

    fn view(&self, view: usize) -> usize {
        self.online.view(VIEWS[view]).expect("it is planned")
    }

    /// Asks about now, or about some other stamp.
    pub(crate) fn read(&self, world: &World) {
        for _ in 0..world.pick(1..4) {
            let (view, user) = (world.pick(0..VIEWS.len()), world.pick(0..USERS.len()));
            let live = world.chance(0.7);
            let stamp = if live { StampRequest::default() } else { self.some_stamp(world) };
            match self.ask(view, user, stamp) {
                Ok(answered) => self.check_answer(world, view, user, stamp, answered),
                Err(LookupError::Future { .. } | LookupError::NotYet { .. } | LookupError::Unsettled { .. })
                    if !live => {}
                Err(e) => {
                    assert!(world.failed.get(), "{} of {}: {e}", VIEWS[view], USERS[user]);
                }
            }
        }
    }

    /// Some commit, some instant, or both.
    fn some_stamp(&self, world: &World) -> StampRequest {
        let epochs: Vec<u64> = world.memory.borrow().visible.keys().copied().collect();
        let epoch = (!epochs.is_empty() && world.chance(0.7)).then(|| Epoch(epochs[world.pick(0..epochs.len())]));
        let back = i64::try_from(world.pick(0..60_000_000)).expect("a minute") - 5_000_000;
        let as_of = (epoch.is_none() || world.chance(0.5)).then(|| Ask(world.clock.now() - back));
        StampRequest { epoch, as_of }
    }

    /// Asks again what was asked before.
    pub(crate) fn replay_some(&self, world: &World, most: usize) {
        let known = world.memory.borrow().answers.len();
        for _ in 0..most.min(known) {
            let remembered = world.memory.borrow().answers[world.pick(0..known)].clone();
            self.replay(world, &remembered);
        }
    }

    pub(crate) fn replay(&self, world: &World, remembered: &Remembered) {
        let Remembered { view, user, epoch, as_of, text, lost, .. } = remembered;
        let stamp = StampRequest { epoch: Some(Epoch(*epoch)), as_of: Some(Ask(*as_of)) };
        match self.ask(*view, *user, stamp) {
            Ok(again) => {
                assert!(!lost, "epoch {epoch} was lost with the power, and is answered");
                let what = format!("{} of {} at {as_of}, epoch {epoch}", VIEWS[*view], USERS[*user]);
                assert_eq!((again.text, again.epoch, again.as_of), (text.clone(), *epoch, *as_of), "{what}");
                world.counts.borrow_mut().replayed += 1;
            }
            Err(LookupError::Gone { .. } | LookupError::NotYet { .. }) if *lost => world.counts.borrow_mut().gone += 1,
            Err(e) => assert!(world.failed.get(), "epoch {epoch}: {e}"),
        }
    }
}
