//! One simulated deployment: topics, a clock, a disk, and a node of which nothing moves unless a step says so.
//!
//! A seed picks the steps. The node is the engine's own, its worker, committer and housekeeping stepped on this thread;
//! while one of them writes, another may be given a turn by the store's hook, where threads would interleave.
//!
//! Invariants: a seed decides everything. Neighbours: `node` is the node, `model` says what is right, `check` compares.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use headwater::definition::Definitions;
use headwater::plan::Plan;
use headwater::source::Gap;
use headwater::state::faults::{Faults, Step};
use headwater::time::Clock;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::disk::Disk;
use super::model::{Body, SECOND, TOPICS, Taken, USERS};
use super::node::Running;
use super::topic::{PARTITIONS, Script};

/// Where the clock stands when a history begins: 2026-01-01.
const START: i64 = 1_767_225_600 * SECOND;

/// Turns until a history ends. A topic that failed is opened again a second later, by a clock that may have been set back
/// by minutes since (a machine's own intervals are not measured by the clock that is set).
const TURNS_AT_LEAST: usize = 8;
const TURNS_AT_MOST: usize = 5_000;

/// How often what happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) steps: u64,
    pub(crate) commits: u64,
    pub(crate) crashes: u64,
    pub(crate) power_losses: u64,
    pub(crate) faults: u64,
    pub(crate) answers: u64,
    pub(crate) replayed: u64,
    pub(crate) gone: u64,
    pub(crate) sealed: u64,
    pub(crate) verified: u64,
}

impl Counts {
    pub(crate) fn and(self, other: Counts) -> Counts {
        Counts {
            steps: self.steps + other.steps,
            commits: self.commits + other.commits,
            crashes: self.crashes + other.crashes,
            power_losses: self.power_losses + other.power_losses,
            faults: self.faults + other.faults,
            answers: self.answers + other.answers,
            replayed: self.replayed + other.replayed,
            gone: self.gone + other.gone,
            sealed: self.sealed + other.sealed,
            verified: self.verified + other.verified,
        }
    }
}

/// An answer that must come again, byte for byte.
#[derive(Clone, Debug)]
pub(crate) struct Remembered {
    pub(crate) view: usize,
    pub(crate) user: usize,
    pub(crate) epoch: u64,
    pub(crate) as_of: i64,
    pub(crate) text: String,
    /// Was it answered as of now?
    pub(crate) live: bool,
    /// Its commit was lost with the power.
    pub(crate) lost: bool,
}

/// What the world remembers over crashes.
#[derive(Default)]
pub(crate) struct Memory {
    /// Records in the order in which slices were fed; after a crash only those that are committed.
    pub(crate) taken: Vec<Taken>,
    pub(crate) answers: Vec<Remembered>,
    /// Committed epochs and from when they were visible.
    pub(crate) visible: BTreeMap<u64, i64>,
    /// The last epoch that must survive a power loss.
    pub(crate) durable: u64,
    /// The greatest instant that a live answer was about.
    pub(crate) through: i64,
    /// What retention took before it was read, and the epoch of the slice that says so.
    pub(crate) gaps: Vec<(u64, Gap)>,
}

/// One simulated deployment.
pub(crate) struct World {
    pub(crate) definitions: Rc<Definitions>,
    pub(crate) plan: Arc<Plan>,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) clock: Clock,
    at: Arc<AtomicI64>,
    pub(crate) topics: Vec<Arc<Script>>,
    pub(crate) rng: RefCell<StdRng>,
    pub(crate) memory: RefCell<Memory>,
    pub(crate) disk: RefCell<Disk>,
    pub(crate) running: RefCell<Option<Rc<Running>>>,
    /// Steps of the store until one fails, if one shall.
    fault: Cell<Option<u32>>,
    /// Nothing fails any more.
    calm: Cell<bool>,
    /// The node has failed, and only a crash follows.
    pub(crate) failed: Cell<bool>,
    /// Inside the hook.
    inside: Cell<bool>,
    /// Power was lost since the last start that came to an end.
    power_lost: Cell<bool>,
    pub(crate) sync_always: bool,
    pub(crate) counts: RefCell<Counts>,
    pub(crate) trace: RefCell<Vec<String>>,
}

thread_local! {
    /// The world whose store says what it does, on this thread.
    static WORLD: RefCell<Weak<World>> = const { RefCell::new(Weak::new()) };
}

impl World {
    pub(crate) fn new(seed: u64, definitions: &Rc<Definitions>, plan: &Arc<Plan>) -> Rc<World> {
        let mut rng = StdRng::seed_from_u64(seed);
        let memory = std::path::Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let dir = dir.expect("a temporary directory");
        let at = Arc::new(AtomicI64::new(START));
        let clock = Clock::Manual(Arc::clone(&at));
        let world = Rc::new(World {
            definitions: Rc::clone(definitions),
            plan: Arc::clone(plan),
            topics: TOPICS.iter().map(|name| Script::new(name, &clock)).collect(),
            disk: RefCell::new(Disk::new(&dir.path().join("data"))),
            dir,
            clock,
            at,
            memory: RefCell::default(),
            running: RefCell::default(),
            fault: Cell::new(None),
            calm: Cell::new(false),
            failed: Cell::new(false),
            inside: Cell::new(false),
            power_lost: Cell::new(false),
            sync_always: rng.random_bool(0.2),
            counts: RefCell::default(),
            trace: RefCell::default(),
            rng: RefCell::new(rng),
        });
        WORLD.with(|w| *w.borrow_mut() = Rc::downgrade(&world));
        world
    }

    pub(crate) fn faults(&self) -> Faults {
        Faults::hooked(Arc::new(|step: Step<'_>| {
            let world = WORLD.with(|w| w.borrow().upgrade());
            world.map_or(Ok(()), |world| world.hook(step))
        }))
    }

    pub(crate) fn note(&self, what: impl FnOnce() -> String) {
        let now = self.clock.now() - START;
        self.trace.borrow_mut().push(format!("{:>12} {}", now, what()));
    }

    pub(crate) fn chance(&self, p: f64) -> bool {
        self.rng.borrow_mut().random_bool(p)
    }

    pub(crate) fn pick(&self, range: std::ops::Range<usize>) -> usize {
        self.rng.borrow_mut().random_range(range)
    }

    pub(crate) fn node(&self) -> Option<Rc<Running>> {
        self.running.borrow().clone()
    }

    /// What the store says before and after it writes: the disk takes note, it fails if it shall, and at times others get
    /// a turn.
    fn hook(&self, step: Step<'_>) -> std::io::Result<()> {
        self.disk.borrow_mut().note(step);
        if self.failed.get() {
            // What is left of a node that has failed may not write.
            return if is_before(step) { Err(std::io::Error::other("power is gone")) } else { Ok(()) };
        }
        match self.fault.get() {
            Some(0) => {
                self.fault.set(None);
                self.failed.set(true);
                self.counts.borrow_mut().faults += 1;
                self.note(|| format!("    {step:?} fails"));
                return Err(std::io::Error::other("a simulated failure"));
            }
            Some(n) => self.fault.set(Some(n - 1)),
            None => {}
        }
        if !self.inside.replace(true) {
            if self.chance(0.3) {
                self.meanwhile(step);
            }
            self.inside.set(false);
        }
        Ok(())
    }

    /// What other threads may do between two steps of the store.
    fn meanwhile(&self, step: Step<'_>) {
        let Some(node) = self.node() else { return };
        self.note(|| format!("    meanwhile, at {step:?}:"));
        if self.chance(0.5) {
            self.pass(5_000);
        }
        match self.pick(0..4) {
            0 => node.read(self),
            // A commit that syncs waits for the sync that is under way, and on one thread that would be for ever.
            1 if !(is_of_a_sync(step) && (self.sync_always || self.would_sync(&node))) => {
                node.step_worker(self);
                node.commit(self);
            }
            2 if matches!(step, Step::LogHalfRead) => {
                node.write_back(self);
                node.seal(self);
            }
            _ => node.replay_some(self, 2),
        }
    }

    /// Is the next commit shown at an instant that is not written down durably yet?
    fn would_sync(&self, node: &Running) -> bool {
        let fed = node.fed.get().micros();
        let cache = node.online.cache();
        self.clock.now().max(fed).max(cache.published().through + 1) > cache.store().promised_durably()
    }

    /// Time goes by.
    pub(crate) fn pass(&self, most: i64) {
        let micros = self.rng.borrow_mut().random_range(0..=most);
        self.at.fetch_add(micros, Ordering::SeqCst);
    }

    /// Takes one step.
    pub(crate) fn step(&self) {
        self.counts.borrow_mut().steps += 1;
        self.pass(if self.chance(0.1) { 3 * SECOND } else { 20_000 });
        if self.failed.get() || self.node().is_none() {
            self.end(if self.chance(0.5) { End::Crash } else { End::PowerLoss });
            return;
        }
        let step = self.pick(0..100);
        match step {
            0..25 => return self.append(),
            91 => return self.jump(),
            92..94 => {
                let steps = u32::try_from(self.pick(0..8)).expect("few");
                self.note(|| format!("the store will fail in {steps} steps"));
                self.fault.set(Some(steps));
                return;
            }
            94 => return self.trouble(),
            95 => return self.end(End::Stop),
            96..98 => return self.end(End::Crash),
            98.. => return self.end(End::PowerLoss),
            _ => {}
        }
        // Not before: a node that ends must not be held.
        let node = self.node().expect("just looked");
        match step {
            25..45 => node.poll(self),
            45..57 => node.step_worker(self),
            57..69 => node.commit(self),
            69..77 => node.read(self),
            77..81 => node.replay_some(self, 3),
            81..85 => node.keep_house(self),
            85..87 => node.write_back(self),
            87..89 => node.seal(self),
            _ => node.sync(self),
        }
    }

    /// Records come.
    fn append(&self) {
        for _ in 0..self.pick(1..6) {
            let topic = *[0, 0, 0, 1, 2].choose(&mut *self.rng.borrow_mut()).expect("not empty");
            let (partition, body) = self.body(topic);
            self.note(|| format!("append {} {partition} {body:?}", TOPICS[topic]));
            self.topics[topic].append(partition, body);
            if self.chance(0.3) {
                self.pass(2_000);
            }
        }
    }

    fn body(&self, topic: usize) -> (i32, Body) {
        let rng = &mut *self.rng.borrow_mut();
        let now = self.clock.now();
        // Round instants at times, so that some coincide with one another and with windows' edges.
        let instant = |rng: &mut StdRng| {
            let at = match rng.random_range(0..10) {
                0 => now + rng.random_range(0..20 * SECOND),
                1 => now - rng.random_range(0..70 * SECOND),
                2 => now + 24 * 3_600 * SECOND + rng.random_range(-2..3) * 1_000,
                _ => now - rng.random_range(0..3 * SECOND),
            };
            if rng.random_bool(0.4) { at / SECOND * SECOND } else { at }
        };
        let usr = *USERS.choose(rng).expect("not empty");
        let item = rng.random_range(1..4_i64);
        let of_key = |key: usize| i32::try_from(key).expect("few") % PARTITIONS;
        let user = USERS.iter().position(|u| *u == usr).expect("it is one");
        if rng.random_bool(0.03) {
            return (rng.random_range(0..PARTITIONS), Body::Broken);
        }
        match topic {
            0 => {
                let n = [None, Some(0), Some(1), Some(-3), Some(7), Some(12), Some(1000)];
                let n = *n.choose(rng).expect("not empty");
                let s = *[None, Some("p"), Some("q"), Some("a longer text")].choose(rng).expect("not empty");
                (rng.random_range(0..PARTITIONS), Body::Click { usr, item, n, s, ts: instant(rng) })
            }
            1 => {
                let partition = of_key(usize::try_from(item).expect("positive"));
                let price = rng.random_bool(0.9).then(|| rng.random_range(1..100));
                match rng.random_bool(0.15) {
                    true => (partition, Body::NoItem { item }),
                    false => (partition, Body::Item { item, price, from: instant(rng) }),
                }
            }
            _ => {
                let tier = *[None, Some("gold"), Some("iron")].choose(rng).expect("not empty");
                match rng.random_bool(0.2) {
                    true => (of_key(user), Body::NoUser { usr }),
                    false => (of_key(user), Body::User { usr, tier }),
                }
            }
        }
    }

    /// The machine's clock is set.
    fn jump(&self) {
        let micros = match self.pick(0..4) {
            0 => self.rng.borrow_mut().random_range(0..90 * SECOND),
            1 => -self.rng.borrow_mut().random_range(0..90 * SECOND),
            2 => -self.rng.borrow_mut().random_range(0..5_000),
            _ => self.rng.borrow_mut().random_range(0..2 * SECOND),
        };
        self.at.fetch_add(micros, Ordering::SeqCst);
        self.note(|| format!("the clock jumps by {micros}"));
    }

    /// A topic fails for a while, or retention takes records.
    fn trouble(&self) {
        let topic = self.pick(0..TOPICS.len());
        if self.chance(0.6) {
            let polls = self.pick(1..4);
            self.note(|| format!("{} fails {polls} times", TOPICS[topic]));
            *self.topics[topic].failing.lock() = polls;
        } else {
            let partition = i32::try_from(self.pick(0..2)).expect("few");
            let kept = i64::try_from(self.pick(0..4)).expect("few");
            self.topics[topic].cut(partition, kept);
            let bounds = self.topics[topic].bounds(partition);
            self.note(|| format!("{} {partition} holds {bounds:?} only", TOPICS[topic]));
        }
    }

    /// The node's end, and its next start.
    pub(crate) fn end(&self, how: End) {
        self.note(|| format!("{how:?}"));
        if let Some(node) = self.node().filter(|_| how == End::Stop) {
            self.settle(&node);
            if !self.failed.get() {
                node.stop(self);
            }
        }
        self.fault.set(None);
        self.failed.set(true);
        *self.running.borrow_mut() = None;
        for topic in &self.topics {
            topic.given.lock().clear();
        }
        self.counts.borrow_mut().crashes += 1;
        if how == End::PowerLoss {
            self.counts.borrow_mut().power_losses += 1;
            self.power_lost.set(true);
            self.disk.borrow_mut().lose_power(&mut self.rng.borrow_mut());
        }
        self.failed.set(false);
        self.start(how);
    }

    /// Steps until all that was fed is committed.
    pub(crate) fn settle(&self, node: &Running) {
        for _ in 0..50 {
            if self.failed.get() || node.is_drained() {
                return;
            }
            node.step_worker(self);
            node.commit(self);
        }
        panic!("what was fed is not committed after 50 turns");
    }

    /// Opens what is there, and compares it with what should be.
    pub(crate) fn start(&self, how: End) {
        if self.chance(0.05) {
            self.fault.set(Some(u32::try_from(self.pick(0..4)).expect("few")));
        }
        match Running::open(self) {
            Ok(node) => {
                *self.running.borrow_mut() = Some(Rc::new(node));
                let node = self.node().expect("just set");
                // A start that failed in between has not been looked at.
                let how = if self.power_lost.take() { End::PowerLoss } else { how };
                self.quietly(|| node.check_recovered(self, how));
            }
            Err(e) => {
                assert!(self.failed.get(), "the node does not start: {e}");
                self.note(|| format!("    it does not start: {e}"));
            }
        }
    }

    /// Looks at the node, and nothing comes between.
    pub(crate) fn quietly<T>(&self, look: impl FnOnce() -> T) -> T {
        let (inside, fault) = (self.inside.replace(true), self.fault.take());
        let seen = look();
        self.inside.set(inside);
        self.fault.set(fault);
        seen
    }

    /// From here on nothing fails, and a poll brings all that there is.
    pub(crate) fn calm(&self) {
        self.fault.set(None);
        self.calm.set(true);
        self.topics.iter().for_each(|t| *t.failing.lock() = 0);
    }

    /// Records of one poll, at most.
    pub(crate) fn batch(&self) -> usize {
        if self.calm.get() { usize::MAX } else { self.pick(0..5) }
    }

    /// Reads on until all that the topics have is committed.
    pub(crate) fn read_to_the_end(&self, node: &Running) {
        for turn in 0.. {
            self.pass(SECOND);
            node.poll(self);
            self.settle(node);
            let unread = self.unread(node);
            if turn >= TURNS_AT_LEAST && unread.is_empty() {
                return;
            }
            assert!(turn < TURNS_AT_MOST, "not all is read and committed: {unread:?}");
        }
    }

    /// Partitions that are not committed to their ends: where they are committed to, and where they end.
    fn unread(&self, node: &Running) -> Vec<(&'static str, i32, i64, i64)> {
        let committed = node.online.cache().store().offsets().expect("readable");
        let partitions = self.topics.iter().flat_map(|t| (0..PARTITIONS).map(move |p| (t, p)));
        let all = partitions.map(|(t, p)| (t.name, p, committed.get(t.name, p), t.bounds(p).1));
        all.filter(|(_, _, committed, end)| committed != end).collect()
    }

    pub(crate) fn story(&self) -> String {
        let mut story = String::new();
        for line in &*self.trace.borrow() {
            let _ = writeln!(story, "{line}");
        }
        story
    }
}

/// How a node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It never began.
    Nothing,
    /// It is told to stop.
    Stop,
    /// Killed: what was given to the operating system is there.
    Crash,
    /// What was not synced may be gone.
    PowerLoss,
}

/// A step of syncing the write-ahead log and replacing the witness.
fn is_of_a_sync(step: Step<'_>) -> bool {
    match step {
        Step::Sync | Step::Synced => true,
        Step::SyncFile(path) | Step::FileSynced(path) => path.ends_with("witness"),
        _ => false,
    }
}

/// A step that has not happened yet.
fn is_before(step: Step<'_>) -> bool {
    match step {
        Step::Write { .. } | Step::PutMeta(_) | Step::Sync | Step::SyncFile(_) | Step::Rename { .. } => true,
        Step::Written { .. }
        | Step::Synced
        | Step::FileSynced(_)
        | Step::Renamed { .. }
        | Step::DirSynced(_)
        | Step::LogHalfRead => false,
    }
}
