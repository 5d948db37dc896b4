//! A node that starts without its topic, and one whose threads die: what it says, what it serves, and how it ends.

use std::collections::BTreeMap;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::*;
use crate::dataflow::commit::{Input, ToCommitter};
use crate::engine::EngineError;

const DEFINITIONS: &str = "CREATE STREAM clicks (u BIGINT, ts TIMESTAMP NOT NULL) EVENT TIME ts
FROM KAFKA (topic = 'clicks', format = 'json', brokers = '127.0.0.1:1');
CREATE FEATURE VIEW counts AS SELECT u, count(*) AS n FROM clicks GROUP BY u;";

/// A deployment whose topic cannot be reached: it is ready all the same.
fn deployment() -> (tempfile::TempDir, Definitions, Arc<Plan>) {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("dataflows")).expect("a directory");
    std::fs::write(dir.path().join("dataflows/a.sql"), DEFINITIONS).expect("a file");
    let definitions = crate::definition::load(dir.path(), &BTreeMap::new()).unwrap_or_else(|e| panic!("{e}"));
    let plan = Arc::new(crate::plan::plan(&definitions).unwrap_or_else(|e| panic!("{e:?}")));
    (dir, definitions, plan)
}

/// Says where it serves, and kills the committer when it is told to.
struct Poison {
    ready: Sender<String>,
    kill: Receiver<()>,
}

impl Observer for Poison {
    fn ready(&mut self, ready: &Ready) -> anyhow::Result<()> {
        self.ready.send(ready.http.clone().expect("it serves")).expect("the test listens");
        Ok(())
    }

    fn turn(&mut self, node: &Node, _: &Live) {
        if self.kill.try_recv().is_ok() {
            // Events of a source that there is not: the store's table of ids has no such place.
            let source = &node.plan().sources[0];
            let events = vec![(usize::MAX, arrow::array::RecordBatch::new_empty(source.row_schema()))];
            let input = Input { last: 1, events, ..Input::default() };
            let committer = &node.shared().committer;
            committer.send(ToCommitter::Input(input, ClockKind::Wall)).expect("it lives");
            committer.send(ToCommitter::Closed(2)).expect("it lives");
        }
    }
}

fn serving<'a>(
    definitions: &'a Definitions,
    plan: &'a Arc<Plan>,
    data_dir: &'a Path,
    history: Option<ReplayClock>,
) -> Serving<'a> {
    let config = Config::default();
    Serving {
        definitions,
        plan,
        data_dir,
        workers: 1,
        history,
        kafka: kafka_settings(&config),
        http: "127.0.0.1:0",
        grpc: "off",
        commit: config.commit,
        pace: Pace::of(&config),
    }
}

/// Counts how often a node is ready, and has it stop then.
struct StopWhenReady<'a> {
    stop: &'a AtomicBool,
    ready: usize,
}

impl Observer for StopWhenReady<'_> {
    fn ready(&mut self, _: &Ready) -> anyhow::Result<()> {
        self.ready += 1;
        self.stop.store(true, Ordering::Release);
        Ok(())
    }

    fn turn(&mut self, _: &Node, _: &Live) {}
}

/// Once it is live, its history could not be replayed any more.
#[test]
fn a_node_whose_history_cannot_be_read_is_ready_and_not_live() {
    let (dir, definitions, plan) = deployment();
    let data_dir = dir.path().join("data");
    let stop = Arc::new(AtomicBool::new(false));
    let mut observer = StopWhenReady { stop: &stop, ready: 0 };
    let serving = serving(&definitions, &plan, &data_dir, Some(ReplayClock::Record));
    serve_node(&serving, &stop, &mut observer).expect("it stops as it was told to");
    assert_eq!(observer.ready, 1);
    let settings = Settings { workers: 1, sync_always: false };
    let node = Node::start(plan, &data_dir, settings, &Clock::Machine).expect("it starts again");
    assert!(!node.store().has_been_live().expect("readable"));
}

#[test]
fn a_node_that_was_told_to_stop_does_not_say_that_it_is_ready() {
    let (dir, definitions, plan) = deployment();
    let data_dir = dir.path().join("data");
    let stop = Arc::new(AtomicBool::new(true));
    let mut observer = StopWhenReady { stop: &stop, ready: 0 };
    let serving = serving(&definitions, &plan, &data_dir, None);
    serve_node(&serving, &stop, &mut observer).expect("it stops as it was told to");
    assert_eq!(observer.ready, 0);
}

#[test]
fn a_node_whose_committer_panics_is_not_ready_and_ends_with_its_name() {
    let (dir, definitions, plan) = deployment();
    let data_dir = dir.path().join("data");
    let serving = serving(&definitions, &plan, &data_dir, None);
    let ((told, ready), (kill, killed)) = (unbounded(), unbounded());
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::scope(|s| {
        let running = s.spawn(|| serve_node(&serving, &stop, &mut Poison { ready: told, kill: killed }));
        let url = format!("http://{}/ready", ready.recv().expect("it gets ready"));
        let is_ready = || ureq::get(&url).call().is_ok();
        assert!(is_ready());
        kill.send(()).expect("it listens");
        // 503 first, and nobody there in the end; never ready again.
        while is_ready() {
            std::thread::yield_now();
        }
        let ended = running.join().expect("it does not panic itself");
        assert!(!is_ready());
        let Err(Failure::Work(why)) = ended else { panic!("it must exit with 1: {ended:?}") };
        assert!(why.to_string().contains("thread `committer`: it panicked"), "{why}");
    });
}

#[test]
fn every_thread_is_missed_by_its_name() {
    let (dir, _, plan) = deployment();
    let settings = Settings { workers: 1, sync_always: false };
    let check = |name: &str, work: &(dyn Fn() -> Result<(), String> + Sync), want: &str| {
        let data = dir.path().join(name);
        let mut node = Node::start(Arc::clone(&plan), &data, settings, &Clock::Machine).expect("it starts");
        node.check().expect("all is well");
        std::thread::scope(|s| drop(s.spawn(|| node.shared().guard("housekeeping", work)).join()));
        let stopped = node.check().expect_err("a thread is gone");
        assert!(matches!(&stopped, EngineError::Stopped(why) if why.contains(want)), "{stopped}");
    };
    check("a", &|| panic!("of {}", "something"), "thread `housekeeping`: it panicked: of something");
    check("b", &|| Err("the disk is gone".into()), "thread `housekeeping`: the disk is gone");
    check("c", &|| Ok(()), "thread `housekeeping`: it ended, and nobody had asked it to");
}
