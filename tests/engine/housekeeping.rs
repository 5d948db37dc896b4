//! What happens beside the dataflow: syncing that waits for nobody, sealing that follows the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use headwater::engine::Node;
use headwater::housekeeping::{Housekeeping, Pace, Work};
use headwater::reader::Reader;
use headwater::source::kafka::KafkaSettings;
use headwater::source::replay::{Replay, ReplayClock, Resume};
use headwater::state::commit::{ClockKind, LogKind};
use headwater::time::Clock;

use super::support::{Deployment, Loaded, wait_for};

const EVENTS: &str = "CREATE STREAM events (u BIGINT, x BIGINT, ts TIMESTAMP NOT NULL) EVENT TIME ts
FROM FILE (path = 'events.jsonl', format = 'jsonl');
CREATE STREAM unread (u BIGINT, ts TIMESTAMP NOT NULL) EVENT TIME ts FROM FILE (path = 'unread.jsonl', format = 'jsonl');\n";

/// A node over events of a thousand users, and the slices of them.
struct Fed {
    deployment: Deployment,
    loaded: Loaded,
    node: Node,
    replay: Replay,
}

impl Fed {
    fn new(view: &str, rows: usize, workers: usize) -> Fed {
        let line = |n: usize| {
            format!("{{\"u\":{},\"x\":{n},\"ts\":\"2024-01-01T{:02}:{:02}:00Z\"}}\n", n % 1000, n / 60 % 24, n % 60)
        };
        let lines: String = (0..rows).map(line).collect();
        let deployment = Deployment::new(&[
            ("a.sql", EVENTS),
            ("b.sql", view),
            ("./events.jsonl", &lines),
            ("./unread.jsonl", &lines),
        ]);
        let loaded = deployment.load();
        let node = loaded.node(&deployment.path("data"), workers);
        let kafka = KafkaSettings::default();
        let replay = Replay::new(&loaded.plan.sources, &loaded.dir, ReplayClock::Event, &kafka, &Resume::default());
        Fed { node, replay: replay.expect("sources are readable"), loaded, deployment }
    }

    fn feed(&mut self, slices: usize) {
        for _ in 0..slices {
            let slice = self.replay.next_slice(100).expect("readable").expect("there is more");
            self.node.feed(slice, ClockKind::Event).expect("taken");
        }
        self.node.drain().expect("committed");
    }
}

fn pace() -> Pace {
    let hour = Duration::from_secs(3600);
    Pace { sync: hour, write_back_rows: 100, write_back: hour, seal_rows: 200, memory: None, rest: 0 }
}

const SUMS: &str = "CREATE FEATURE VIEW sums AS SELECT u, sum(x) AS x FROM events GROUP BY u;\n";

/// The write-back rests for hours; what is committed meanwhile reaches the disk.
#[test]
fn syncing_does_not_wait_for_the_write_back() {
    let mut fed = Fed::new(SUMS, 4000, 1);
    let stop = Arc::new(AtomicBool::new(false));
    let pace = Pace { sync: Duration::from_millis(10), rest: u32::MAX, ..pace() };
    let housekeeping = Housekeeping::start(&fed.node, pace, &stop);
    let store = Arc::clone(fed.node.store());
    for _ in 0..5 {
        fed.feed(4);
        let last = store.last_commit().expect("readable").expect("there is one").last;
        wait_for("the sync", || (store.synced().expect("readable") == last).then_some(()));
    }
    // One pass began, and is resting ever since.
    let data = fed.deployment.path("data");
    let pages = || Reader::open(&data, &fed.loaded.plan).expect("it opens").store.check_pages().expect("whole");
    wait_for("the write-back", || (pages() > 0).then_some(()));
    let redo_point = || store.redo_point(store.ids().view(0)).expect("readable");
    assert_eq!(redo_point(), 0, "the pass has come to its end: it did not rest");
    stop.store(true, Ordering::Release);
    housekeeping.join();
    assert!(redo_point() > 0, "told to stop, it comes to its end");
}

/// Rows that no view admits are sealed, and so are those of a stream that no view reads.
#[test]
fn sealing_follows_the_log() {
    let none = "CREATE FEATURE VIEW sums AS SELECT u, sum(x) AS x FROM events WHERE x < 0 GROUP BY u;\n";
    let mut fed = Fed::new(none, 6000, 1);
    let mut keeping = Work::of(&fed.node, pace(), &Clock::Machine);
    let store = Arc::clone(fed.node.store());
    for _ in 0..5 {
        let sealed = || store.ids().logs().map(|log| store.sealed(log).expect("readable")).collect::<Vec<_>>();
        let before = sealed();
        fed.feed(4);
        keeping.turn().expect("written and sealed");
        let last = store.last_commit().expect("readable").expect("there is one").last;
        assert!(before.iter().all(|before| *before < last));
        assert_eq!(sealed(), [last, last], "the events of both streams");
        assert_eq!(store.check_tail().expect("whole"), 0, "nothing is left in the tail");
    }
    drop((fed.node, store, keeping));
    // What a tail holds at the start is not forgotten.
    let mut fed = Fed { node: fed.loaded.node(&fed.deployment.path("data"), 1), ..fed };
    fed.feed(1);
    drop(fed.node);
    let node = fed.loaded.node(&fed.deployment.path("data"), 1);
    let pace = Pace { write_back_rows: 1, seal_rows: 1, ..pace() };
    Work::of(&node, pace, &Clock::Machine).turn().expect("written and sealed");
    assert_eq!(node.store().check_tail().expect("whole"), 0);
}

/// A reader that holds an older epoch keeps pages there; what they lack stays in the tail.
#[test]
fn only_what_every_page_has_is_sealed() {
    let mut fed = Fed::new(SUMS, 1000, 1);
    let mut keeping = Work::of(&fed.node, pace(), &Clock::Machine);
    fed.feed(4);
    let cache = Arc::clone(fed.node.cache());
    let (published, hold) = cache.hold_published();
    fed.feed(4);
    assert!(cache.published().epoch > published.epoch);
    keeping.turn().expect("written and sealed");
    let store = fed.node.store();
    let sealed = |source: usize| store.sealed(LogKind::Events(store.ids().source(source))).expect("readable");
    assert_eq!(sealed(0), published.epoch);
    assert_eq!(sealed(1), cache.published().epoch, "what no view reads waits for no page");
    let (data, loaded) = (fed.deployment.path("data"), fed.loaded);
    let answer = |cache: &headwater::state::cache::Cache| {
        let last = cache.published();
        let groups = cache.groups(0).expect("readable");
        let read = |g: &Vec<u8>| format!("{:?}", cache.read(0, g, last.epoch, last.visible).expect("readable"));
        groups.iter().map(read).collect::<Vec<_>>()
    };
    drop(hold);
    let before = answer(&cache);
    drop((cache, keeping));
    drop(fed.node);
    let opened = loaded.open(&data);
    assert_eq!(answer(&opened.cache), before);
}

#[test]
fn sealing_ends_where_pages_do() {
    let mut fed = Fed::new(SUMS, 1000, 1);
    fed.feed(2);
    fed.node.cache().write_back().expect("written");
    let store = Arc::clone(fed.node.store());
    let written = store.redo_point(store.ids().view(0)).expect("readable");
    fed.feed(2);
    let last = store.last_commit().expect("readable").expect("there is one").last;
    assert!(written < last);
    fed.node.offline().seal(headwater::time::Epoch(last)).expect("sealed");
    assert_eq!(store.sealed(LogKind::Events(store.ids().source(0))).expect("readable"), written);
}

/// A replay writes back and seals on the way: many segments, not one at the end. Of few groups, so that a pass over all pages
/// takes little of the replay's time.
#[test]
fn a_replay_seals_on_the_way() {
    let line =
        |n: usize| format!("{},{n},2024-01-01T{:02}:{:02}:{:02}Z\n", n % 500, n / 36_000, n / 600 % 60, n / 10 % 60);
    let rows: String = std::iter::once("u,x,ts\n".to_string()).chain((0..400_000).map(line)).collect();
    let events = "CREATE STREAM events (u BIGINT, x BIGINT, ts TIMESTAMP NOT NULL) EVENT TIME ts
FROM FILE (path = 'events.csv', format = 'csv');\n";
    let settings = "[state]\nseal_events = 60000\nwrite_back_events = 30000\n";
    let deployment =
        Deployment::new(&[("a.sql", events), ("b.sql", SUMS), ("./events.csv", &rows), ("./headwater.toml", settings)]);
    deployment.run("replay", "data", &["--clock", "event"]).expect(0, &["events=400000"]);
    let files = std::fs::read_dir(deployment.path("data/segments/events/events")).expect("there").count();
    assert!(files >= 2, "{files} file: all was sealed at the end");
    deployment.run("get", "data", &["sums", "7"]).expect(0, &["present"]);
}
