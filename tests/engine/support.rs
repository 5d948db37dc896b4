//! Deployments in temporary directories, the program and the library run on them, and their answers as text.
//!
//! Invariants: nothing here waits for a time, only for a condition; what fails panics with what the engine said.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater::definition::{self, Definitions};
use headwater::engine::{Node, Settings};
use headwater::offline::Offline;
use headwater::plan::{self, Plan};
use headwater::reader::Reader;
use headwater::source::kafka::KafkaSettings;
use headwater::source::replay::{Replay, ReplayClock, Resume};
use headwater::state::Store;
use headwater::state::cache::{Cache, Read};
use headwater::state::commit::ClockKind;
use headwater::time::{Ask, Clock, Epoch, parse_instant};
use headwater::verify::{Report, Request, Verifier, offsets};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Ends what hangs; nothing else waits for it.
const DEADLINE: Duration = Duration::from_secs(180);

/// A deployment directory of its own; its data is in `data/` unless a test says otherwise.
pub(crate) struct Deployment {
    dir: tempfile::TempDir,
}

impl Deployment {
    /// With these files; a name without a folder is in `dataflows/`.
    pub(crate) fn new(files: &[(&str, &str)]) -> Deployment {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir_all(dir.path().join("dataflows")).expect("a directory");
        let deployment = Deployment { dir };
        files.iter().for_each(|(name, text)| deployment.write(name, text));
        deployment
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = if name.contains('/') { self.path(name) } else { self.path("dataflows").join(name) };
        std::fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a directory");
        std::fs::write(path, text).expect("a file");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn load(&self) -> Loaded {
        Loaded::new(self.dir.path())
    }

    /// A command of the program on this deployment and its data in `data`.
    pub(crate) fn command(&self, command: &str, data: &str, args: &[&str]) -> Command {
        let mut program = headwater(command);
        program.arg("--dir").arg(self.dir.path()).arg("--data-dir").arg(self.path(data)).args(args);
        program
    }

    pub(crate) fn run(&self, command: &str, data: &str, args: &[&str]) -> Done {
        Done::of(&mut self.command(command, data, args))
    }
}

/// The built program, with none of the environment's settings.
pub(crate) fn headwater(command: &str) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_headwater"));
    program.arg(command).env_remove("HEADWATER_KAFKA_BROKERS").env_remove("DATA").stdin(Stdio::null());
    program
}

/// How a run of the program ended.
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    pub(crate) fn of(command: &mut Command) -> Done {
        let Output { status, stdout, stderr } = command.output().expect("the program starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("its output is text");
        Done { code: status.code(), out: text(stdout), err: text(stderr) }
    }

    /// With this code, and these words somewhere in what it said.
    #[track_caller]
    pub(crate) fn expect(self, code: i32, words: &[&str]) -> Done {
        assert_eq!(self.code, Some(code), "out: {}\nerr: {}", self.out, self.err);
        let said = format!("{}\n{}", self.out, self.err);
        for word in words {
            assert!(said.contains(word), "`{word}` is not in:\n{said}");
        }
        self
    }
}

/// A process that does not outlive the test.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    /// A node that serves HTTP on a free port: it and its address, once it is ready.
    pub(crate) fn serving(command: &mut Command) -> (Running, String) {
        let (running, ready) = Running::ready(command);
        (running, ready.get("http").unwrap_or_else(|| panic!("it serves no HTTP: {ready:?}")).clone())
    }

    /// A node and the fields of the line that it prints once it serves. One that says nothing is killed in the end.
    pub(crate) fn ready(command: &mut Command) -> (Running, BTreeMap<String, String>) {
        let (running, lines) = Running::until(command, |line| line.starts_with("ready "));
        let line = lines.last().expect("until gives the line that was waited for");
        let field = |word: &str| word.split_once('=').map(|(n, v)| (n.to_string(), v.to_string()));
        (running, line.split_whitespace().filter_map(field).collect())
    }

    /// A program and what it has said on standard output, once it has said a line for which `last` holds.
    pub(crate) fn until(command: &mut Command, last: impl Fn(&str) -> bool) -> (Running, Vec<String>) {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("the program starts");
        let mut running = Running(child);
        let out = running.0.stdout.take().expect("it is piped");
        let (sender, said) = std::sync::mpsc::channel();
        // Reads on when nobody listens any more: a full pipe would stop the program.
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut lines: Vec<String> = vec![];
        while !lines.last().is_some_and(|line| last(line)) {
            let line = said.recv_timeout(DEADLINE);
            lines.push(line.unwrap_or_else(|e| panic!("{e}; after {lines:#?}")));
        }
        (running, lines)
    }

    /// SIGINT, as Ctrl-C sends it, and how it ended.
    pub(crate) fn interrupt(&mut self) -> ExitStatus {
        let sent = Command::new("sh").args(["-c", &format!("kill -INT {}", self.0.id())]).status();
        assert!(sent.expect("there is a shell").success(), "the program runs");
        wait_for("the program to end", || self.0.try_wait().expect("it is our child"))
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it is our child");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Polls until `done` gives something; the deadline only ends what hangs.
pub(crate) fn wait_for<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = done() {
            return found;
        }
        assert!(Instant::now() < deadline, "still waiting for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Definitions and their plan.
pub(crate) struct Loaded {
    pub(crate) dir: PathBuf,
    pub(crate) definitions: Definitions,
    pub(crate) plan: Arc<Plan>,
}

/// How a history is taken in: any way must come to the same answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    pub(crate) clock: ReplayClock,
    pub(crate) workers: usize,
    /// Rows of a slice, at most.
    pub(crate) cut: usize,
    /// How often the node is dropped without a stop, write-backs and seals beside it.
    pub(crate) kills: usize,
    pub(crate) seed: u64,
}

impl Loaded {
    pub(crate) fn new(dir: &Path) -> Loaded {
        let loaded = definition::load(dir, &BTreeMap::new());
        let definitions = loaded.unwrap_or_else(|e| panic!("{:#?}", e.problems));
        let plan = plan::plan(&definitions).unwrap_or_else(|e| panic!("{e:#?}"));
        Loaded { dir: dir.to_path_buf(), definitions, plan: Arc::new(plan) }
    }

    pub(crate) fn node(&self, data: &Path, workers: usize) -> Node {
        let settings = Settings { workers, sync_always: false };
        Node::start(Arc::clone(&self.plan), data, settings, &Clock::Machine).expect("the node starts")
    }

    /// Takes the whole history in, and stops.
    pub(crate) fn replay(&self, data: &Path, how: &How) {
        let mut rng = StdRng::seed_from_u64(how.seed);
        for _ in 0..how.kills {
            let slices = rng.random_range(1..6);
            if self.feed(data, how, &mut rng, Some(slices)) {
                break;
            }
        }
        assert!(self.feed(data, how, &mut rng, None));
    }

    /// Takes the whole history in without a stop: all of the log stays in the tail, and there are no page rows.
    pub(crate) fn take_in(&self, data: &Path, how: &How) {
        assert!(!self.feed(data, how, &mut StdRng::seed_from_u64(how.seed), Some(usize::MAX)));
    }

    /// Takes the history in and is killed: a third of it sealed, a third written back, all of it on the disk; tables,
    /// log files and segments are there, and none of them holds everything.
    pub(crate) fn take_in_and_die(&self, data: &Path, how: &How) {
        let node = self.take_in_thirds(data, how);
        node.store().sync().expect("it is on the disk");
    }

    /// The node that is about to be killed so.
    pub(crate) fn take_in_thirds(&self, data: &Path, how: &How) -> Node {
        let mut node = self.node(data, how.workers);
        let kind = if how.clock == ReplayClock::Event { ClockKind::Event } else { ClockKind::Record };
        let kafka = KafkaSettings::default();
        let mut replay = Replay::new(&self.plan.sources, &self.dir, how.clock, &kafka, &Resume::default())
            .expect("sources are readable");
        let mut slices = vec![];
        while let Some(slice) = replay.next_slice(how.cut).expect("sources are readable") {
            slices.push(slice);
        }
        let all = slices.len();
        assert!(all >= 6, "{all} slices have no thirds");
        for (n, slice) in slices.into_iter().enumerate() {
            node.feed(slice, kind).expect("the node takes it");
            if [all / 3, all * 2 / 3].contains(&n) {
                node.drain().expect("what was fed is committed");
                node.cache().write_back().expect("pages are written");
            }
            if n == all / 3 {
                let until = node.cache().published().epoch;
                node.offline().seal(Epoch(until)).expect("the tail is sealed");
            }
        }
        node.drain().expect("what was fed is committed");
        node
    }

    /// Some slices and then an end without a stop, or all of them and a stop. Returns whether it came to the end.
    fn feed(&self, data: &Path, how: &How, rng: &mut StdRng, slices: Option<usize>) -> bool {
        let mut node = self.node(data, how.workers);
        let store = Arc::clone(node.store());
        let last = store.last_commit().expect("commits are readable").map(|c| Epoch(c.last));
        let resume = Resume {
            offsets: store.offsets().expect("offsets are readable"),
            sorted: store.sorted_positions().expect("positions are readable"),
            last,
            states: store.source_states().expect("states are readable"),
        };
        let (sources, kafka) = (&self.plan.sources, KafkaSettings::default());
        let mut replay = Replay::new(sources, &self.dir, how.clock, &kafka, &resume).expect("sources are readable");
        let kind = if how.clock == ReplayClock::Event { ClockKind::Event } else { ClockKind::Record };
        if how.kills > 0 && rng.random_bool(0.5) {
            node.cache().keep_in_memory(1);
        }
        let mut fed = 0;
        while let Some(slice) = replay.next_slice(rng.random_range(1..=how.cut)).expect("sources are readable") {
            if slices == Some(fed) {
                // Dropped with slices under way, or with all of them committed and in no page row.
                if rng.random_bool(0.5) {
                    node.drain().expect("what was fed is committed");
                }
                return false;
            }
            node.feed(slice, kind).expect("the node takes it");
            fed += 1;
            if how.kills > 0 && rng.random_bool(0.2) {
                node.drain().expect("what was fed is committed");
                node.cache().write_back().expect("pages are written");
                if rng.random_bool(0.5) {
                    let until = node.cache().published().epoch;
                    node.offline().seal(Epoch(until)).expect("the tail is sealed");
                }
            }
        }
        drop(store);
        if slices == Some(usize::MAX) {
            node.drain().expect("what was fed is committed");
            return false;
        }
        node.stop().expect("the node stops");
        true
    }

    pub(crate) fn open(&self, data: &Path) -> Opened {
        let reader = Reader::open(data, &self.plan).expect("the directory opens");
        let cache = reader.pages(None).expect("pages and the tail are readable");
        Opened { plan: reader.plan, store: reader.store, cache, offline: reader.offline }
    }

    /// Pages, updates, batch engine: one answer in every view, each of which has some; and the log is whole.
    #[track_caller]
    pub(crate) fn verify(&self, data: &Path, seed: u64, context: &str) {
        for report in self.compared(data, seed, context) {
            assert!(report.groups > 0 && report.checked > 0, "{context}: {} has nothing to compare", report.view);
        }
    }

    /// The same where a view may have nothing: what was compared in each.
    #[track_caller]
    pub(crate) fn compared(&self, data: &Path, seed: u64, context: &str) -> Vec<Report> {
        let opened = self.open(data);
        let log = offsets::check(&self.plan, &opened.store, &opened.offline).expect("readable");
        assert!(log.records > 0 && log.problems.is_empty(), "{context}: {:?}", log.problems);
        let verifier = Verifier {
            definitions: &self.definitions,
            plan: &self.plan,
            cache: &opened.cache,
            offline: &opened.offline,
        };
        let mut reports = vec![];
        for view in 0..self.plan.views.len() {
            let request = Request { views: vec![view], sample: None, epoch: None, seed, present: Clock::Machine.now() };
            let report = verifier.view(view, &request).unwrap_or_else(|e| panic!("{context}: {e}"));
            let differences: Vec<String> = report.differences.iter().map(ToString::to_string).collect();
            assert_eq!(report.differing, 0, "{context}: {}\n{}", report.view, differences.join("\n"));
            reports.push(report);
        }
        reports
    }
}

/// A store beside its writer, if it has one.
pub(crate) struct Opened {
    pub(crate) plan: Arc<Plan>,
    pub(crate) store: Arc<Store>,
    pub(crate) cache: Cache,
    pub(crate) offline: Arc<Offline>,
}

impl Opened {
    /// Answers of all groups of all views: as served and as corrected at these instants, from the log, and from the
    /// pages at the last of them, which must not be before the last commit.
    pub(crate) fn answers(&self, instants: &[i64]) -> BTreeMap<String, String> {
        let timeline = self.offline.timeline().expect("commits are readable");
        let last = timeline.last();
        let mut answers = BTreeMap::new();
        for (view, planned) in self.plan.views.iter().enumerate() {
            for group in self.cache.groups(view).expect("pages are readable") {
                let name = format!("{} {group:?}", planned.plan.name);
                for &at in instants {
                    for (mode, epoch) in [("served", timeline.served(Ask(at))), ("corrected", last)] {
                        let answer = self.offline.evaluate(view, &group, epoch, Ask(at)).expect("the log is readable");
                        answers.insert(format!("{name} {mode} at {at}"), format!("{answer:?}"));
                    }
                }
                let at = *instants.last().expect("some instant");
                match self.cache.read(view, &group, last.0, at).expect("pages are readable") {
                    Read::Answer(answer) => {
                        let log = &answers[&format!("{name} corrected at {at}")];
                        assert_eq!(format!("{answer:?}"), *log, "{name}: pages and log");
                    }
                    other => panic!("{name}: the pages say {other:?}"),
                }
            }
        }
        answers
    }

    /// Refused records, as (source, offset, view, class of the reason).
    pub(crate) fn refused(&self) -> Vec<(String, i64, Option<String>, String)> {
        let refused = self.store.quarantine().map(|r| r.expect("readable"));
        let class = |reason: &str| reason.split(':').next().unwrap_or_default().to_string();
        let mut all: Vec<_> = refused.map(|r| (r.source, r.offset, r.view, class(&r.reason))).collect();
        all.sort();
        all
    }
}

/// An instant that a test writes as text.
pub(crate) fn at(text: &str) -> i64 {
    parse_instant(text).expect("the test's instants are instants")
}
