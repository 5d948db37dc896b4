//! The closed bound: what is published when, step by step under a clock set by hand, without threads.

use std::sync::atomic::{AtomicI64, Ordering};

use crossbeam_channel::unbounded;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::offline::Offline;
use crate::online::{LookupError, Online, StampRequest};
use crate::state::published::Published;
use crate::time::Ask;

const DEFINITIONS: &str = "CREATE STREAM clicks (u BIGINT, ts TIMESTAMP NOT NULL) EVENT TIME ts
FROM KAFKA (topic = 'clicks', format = 'json');
CREATE FEATURE VIEW counts AS SELECT u, count(*) AS n FROM clicks GROUP BY u;";

/// A day in 2026, in µs.
const DAY: i64 = 1_795_000_000_000_000;

/// A directory, and the nodes that come and go on it.
struct World {
    dir: tempfile::TempDir,
    plan: Arc<Plan>,
    clock: Arc<AtomicI64>,
}

/// A node as far as publishing goes.
struct Node {
    committer: Committer,
    online: Online,
    clock: Arc<AtomicI64>,
    last: u64,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("dataflows")).expect("a directory");
        std::fs::write(dir.path().join("dataflows/a.sql"), DEFINITIONS).expect("a file");
        let definitions = crate::definition::load(dir.path(), &BTreeMap::new()).unwrap_or_else(|e| panic!("{e}"));
        let plan = Arc::new(crate::plan::plan(&definitions).unwrap_or_else(|e| panic!("{e:?}")));
        World { dir, plan, clock: Arc::new(AtomicI64::new(DAY)) }
    }

    fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    fn start(&self) -> Node {
        self.over(Store::open(&self.data(), &self.plan).expect("a store"))
    }

    /// What a process that only reads is shown.
    fn reader(&self) -> Store {
        Store::open_reader(&self.data(), &self.plan).expect("a store")
    }

    fn over(&self, store: Store) -> Node {
        let store = Arc::new(store);
        let live = store.has_been_live().expect("readable");
        let cache = Arc::new(Cache::new(Arc::clone(&store), &self.plan).expect("a cache"));
        let offline = Arc::new(Offline::new(Arc::clone(&self.plan), store).expect("a log"));
        let clock = || Clock::Manual(Arc::clone(&self.clock));
        let online = Online::new(Arc::clone(&self.plan), Arc::clone(&cache), offline, clock()).expect("online");
        let last = cache.published().epoch;
        let committer = Committer::new(Arc::clone(&self.plan), cache, clock(), false, live, Box::new(|_, _| ()));
        Node { committer, online, clock: Arc::clone(&self.clock), last }
    }

    fn set(&self, micros: i64) {
        self.clock.store(micros, Ordering::SeqCst);
    }
}

impl Node {
    fn turn(&mut self, messages: Vec<ToCommitter>) -> Result<(), StateError> {
        self.committer.turn(messages.into_iter()).map(drop)
    }

    /// Commits an epoch that opens now.
    fn commit(&mut self, clock: ClockKind) {
        self.try_commit(self.clock.load(Ordering::SeqCst), clock).expect("it is committed");
    }

    fn try_commit(&mut self, reading: i64, clock: ClockKind) -> Result<(), StateError> {
        self.last = Epoch::open(reading, Epoch(self.last)).0;
        let input = Input { last: self.last, ..Input::default() };
        self.turn(vec![ToCommitter::Input(input, clock), ToCommitter::Closed(self.last + 1)])
    }

    fn published(&self) -> Published {
        self.online.cache().published()
    }

    /// A live answer's stamp, given what was published when it was taken.
    fn live(&self, published: &Published) -> (Epoch, Ask) {
        self.online.stamp(StampRequest::default(), published).expect("there always is one")
    }

    fn served(&self, as_of: i64) -> Result<Epoch, LookupError> {
        let stamp = StampRequest { epoch: None, as_of: Some(Ask(as_of)) };
        self.online.stamp(stamp, &self.published()).map(|(epoch, _)| epoch)
    }

    fn visible(&self, epoch: Epoch) -> Option<i64> {
        self.online.offline().timeline().expect("readable").visible(epoch)
    }
}

#[test]
fn a_reader_that_is_overtaken_by_a_commit_keeps_its_instant() {
    let world = World::new();
    let mut node = world.start();
    node.commit(ClockKind::Wall);
    // A reader takes the pair, and is held up before it looks for its instant: the next commit is decided and published.
    let taken = node.published();
    world.set(DAY + 100);
    node.commit(ClockKind::Wall);
    world.set(DAY + 101);
    let (epoch, as_of) = node.live(&taken);
    let next = node.published();
    assert!(epoch.0 == taken.epoch && as_of.0 < next.visible, "{epoch:?} at {as_of:?}, and {next:?}");
    assert_eq!(node.served(as_of.0).expect("it is settled"), epoch, "asked again, the instant is still that epoch's");
}

/// Rules 1, 8, 9 and 10, by a clock that also jumps back, nodes that are killed, and readers that remember every answer.
#[test]
fn no_answer_is_ever_overtaken() {
    for seed in 0..4 {
        let world = World::new();
        let mut rng = StdRng::seed_from_u64(seed);
        let mut node = world.start();
        let mut answers: Vec<(Epoch, Ask)> = vec![];
        node.turn(vec![ToCommitter::Live]).expect("it goes live");
        for _ in 0..400 {
            let before = node.published();
            let now = world.clock.load(Ordering::SeqCst);
            match rng.random_range(0..100) {
                0..=39 => node.commit(ClockKind::Wall),
                40..=89 => node.turn(vec![]).expect("it goes on"),
                90..=94 => world.set(now - rng.random_range(0..5_000_000)),
                _ => {
                    // Killed: it writes nothing more down.
                    drop(node);
                    node = world.start();
                }
            }
            world.set(world.clock.load(Ordering::SeqCst) + rng.random_range(0..30_000));
            let after = node.published();
            assert!(after.epoch >= before.epoch && after.through >= before.through, "{before:?}, then {after:?}");
            answers.push(node.live(&after));
            let past = after.through - rng.random_range(0..1_000_000);
            answers.push((node.served(past).expect("it is settled"), Ask(past)));
        }
        let timeline = node.online.offline().timeline().expect("readable");
        assert!(timeline.len() > 100, "seed {seed}: {} commits", timeline.len());
        for (epoch, as_of) in answers {
            let context = format!("seed {seed}: {epoch:?} at {as_of:?}");
            assert!(timeline.visible(epoch).expect("it is committed") <= as_of.0.max(0), "{context}");
            assert_eq!(timeline.served(as_of), epoch, "{context}");
        }
    }
}

#[test]
fn an_idle_node_follows_the_clock_and_writes_ahead() {
    let world = World::new();
    let mut node = world.start();
    node.turn(vec![ToCommitter::Live]).expect("it goes live");
    for step in 1..=500 {
        world.set(DAY + step * 10_000);
        node.turn(vec![]).expect("it goes on");
        let shown = node.published();
        assert_eq!((shown.epoch, shown.through), (0, DAY + step * 10_000), "it is as far as the clock");
        let promise = node.online.cache().store().promised().expect("readable").expect("it is live");
        assert!(promise.bound >= shown.through && promise.through <= shown.through, "{promise:?}, {shown:?}");
        assert!(shown.through - promise.through <= 1_000_000, "a reader beside it is at most a second behind");
    }
    // Less than a tick later there is nothing new: reads of one tick have one stamp.
    world.set(DAY + 5_001_000);
    node.turn(vec![]).expect("it goes on");
    assert_eq!(node.published().through, DAY + 5_000_000);
    // The clock goes back an hour, and the node is killed: whatever was answered stays.
    drop(node);
    world.set(DAY - 3_600_000_000);
    let mut node = world.start();
    assert!(node.published().through >= DAY + 5_000_000);
    node.turn(vec![]).expect("it goes on");
    node.commit(ClockKind::Wall);
    assert!(node.published().visible > DAY + 5_000_000, "{:?}", node.published());
    // After a clean end the next node need not keep a distance.
    let through = node.published().through;
    let (inbox, messages) = unbounded();
    inbox.send(ToCommitter::Stop).expect("it listens");
    node.committer.run(&messages, &unbounded().0).expect("it ends");
    drop(node.online);
    assert_eq!(world.start().published().through, through);
}

#[test]
fn a_replay_is_visible_at_its_own_times() {
    let world = World::new();
    let mut node = world.start();
    for (reading, want) in [(1_000, 1_000), (5_000, 5_000), (4_000, 5_001)] {
        node.try_commit(reading, ClockKind::Event).expect("it is committed");
        node.turn(vec![]).expect("it goes on");
        let published = node.published();
        assert_eq!((published.epoch.cast_signed(), published.visible, published.through), (want, want, want));
    }
    assert_eq!([1_000, 1_001, 4_999, 5_000].map(|e| node.visible(Epoch(e))), [1_000, 1_001, 4_999, 5_000].map(Some));
    assert!(!node.online.cache().store().has_been_live().expect("readable"), "a second replay may follow");
    assert!(matches!(node.served(5_002), Err(LookupError::Unsettled { .. })), "it may bring more of the past");
    node.turn(vec![ToCommitter::Live]).expect("it goes live");
    assert_eq!(node.published().through, DAY);
    assert_eq!(node.served(5_002).expect("it is settled"), Epoch(5_001));
    assert!(node.online.cache().store().has_been_live().expect("readable"));
}

#[test]
fn an_instant_is_settled_or_later_or_not_yet() {
    let world = World::new();
    let mut node = world.start();
    node.commit(ClockKind::Wall);
    world.set(DAY + 50_000);
    node.turn(vec![]).expect("it goes on");
    world.set(DAY + 60_000);
    assert_eq!(node.served(DAY + 50_000).expect("it is settled"), Epoch(DAY.cast_unsigned()));
    for not_yet in [DAY + 50_001, DAY + 60_000] {
        let said = node.served(not_yet).expect_err("more may come").to_string();
        assert!(said.contains("is not settled yet") && said.contains("50000Z"), "{said}");
    }
    assert!(matches!(node.served(DAY + 60_001), Err(LookupError::Future { .. })));
    assert_eq!(node.served(DAY - 1).expect("nothing was"), Epoch::ZERO);
    let ask = |epoch: i64, as_of: Option<i64>| {
        let stamp = StampRequest { epoch: Some(Epoch(epoch.cast_unsigned())), as_of: as_of.map(Ask) };
        node.online.stamp(stamp, &node.published())
    };
    let (_, as_of) = ask(DAY, None).expect("it is committed");
    assert_eq!(Some(as_of.0), node.visible(Epoch(DAY.cast_unsigned())), "an epoch alone takes its visible instant");
    for any in [0, DAY - 5, DAY + 60_001, 2 * DAY] {
        assert_eq!(ask(DAY, Some(any)).expect("both are given").1, Ask(any));
    }
    assert!(matches!(ask(DAY + 1, None), Err(LookupError::NotYet { .. })));
    assert!(matches!(ask(DAY - 1, None), Err(LookupError::Gone { .. })));
}

#[test]
fn a_reader_beside_a_node_shows_no_more_than_is_settled() {
    let world = World::new();
    let mut node = world.start();
    node.commit(ClockKind::Wall);
    for step in 1..=300 {
        world.set(DAY + step * 7_000);
        if step % 50 == 0 {
            node.commit(ClockKind::Wall);
        } else {
            node.turn(vec![]).expect("it goes on");
        }
        if step % 20 == 0 {
            let (reader, shown) = (world.reader(), node.published());
            // Beside a node the present is the node's, whatever the reader's clock says.
            reader.rest_at(DAY + 1_000_000_000);
            let seen = reader.board().published();
            assert_eq!((seen.epoch, seen.visible), (shown.epoch, shown.visible));
            assert!(seen.through >= seen.visible && seen.through <= shown.through, "{seen:?}, {shown:?}");
        }
    }
    drop(node);
    let reader = world.reader();
    reader.rest_at(DAY + 1_000_000_000);
    assert_eq!(reader.board().published().through, DAY + 1_000_000_000, "nobody writes: it is the present");
}

#[test]
fn what_is_not_durable_is_not_published() {
    let world = World::new();
    world.start().commit(ClockKind::Wall);
    let mut node = world.over(world.reader());
    let before = node.published();
    node.try_commit(DAY + 10, ClockKind::Wall).expect_err("a reader's store takes no commits");
    assert_eq!(node.published(), before);
}

/// A worker that fails stops the committer before the epoch that lacks its updates is over.
#[test]
fn an_epoch_in_which_something_failed_is_not_committed() {
    let world = World::new();
    let mut node = world.start();
    node.commit(ClockKind::Wall);
    let before = node.published();
    let last = before.epoch + 10;
    let input = ToCommitter::Input(Input { last, ..Input::default() }, ClockKind::Wall);
    node.turn(vec![input, ToCommitter::Stop, ToCommitter::Closed(last + 1)]).expect("it ends");
    assert_eq!(node.published(), before);
    let committed = node.online.cache().store().last_commit().expect("readable").expect("there is one");
    assert_eq!(committed.last, before.epoch);
}

/// A join that works through a slice closes epochs in its middle. What they brought is not committed before their events:
/// after a kill these are read again, and would bring it twice.
#[test]
fn what_an_epoch_brought_waits_for_its_slice() {
    let world = World::new();
    let mut node = world.start();
    let slice = |last: u64| ToCommitter::Input(Input { last, ..Input::default() }, ClockKind::Event);
    let refused = |epoch: u64| Rejected {
        epoch,
        source: "clicks".into(),
        partition: 0,
        offset: epoch.cast_signed(),
        reason: "1/0".into(),
        view: Some("counts".into()),
        key: None,
        bytes: vec![],
    };
    let brought = ToCommitter::Refused(vec![refused(20), refused(45)]);
    node.turn(vec![slice(30), slice(60), brought, ToCommitter::Closed(46)]).expect("it is committed");
    let kept = || world.reader().quarantine().map(|r| r.expect("readable").epoch).collect::<Vec<_>>();
    assert_eq!((node.published().epoch, kept()), (30, vec![20]));
    node.turn(vec![ToCommitter::Closed(61)]).expect("it is committed");
    assert_eq!((node.published().epoch, kept()), (60, vec![20, 45]));
}
