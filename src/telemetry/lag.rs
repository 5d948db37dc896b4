//! Lag, busy time and volumes per operator, from timely's own log.
//!
//! Each worker has a [`Recorder`]; it adds what is new to the [`OperatorStats`] that all workers share a few times a
//! second. Timely counts containers; where a container item is a batch, the operator counts its rows itself.
//!
//! Invariants: labels come from the SQL (an operator's name says its view), never from run-time ids; counters only rise.
//! Neighbours: `dataflow` names the operators and calls us, `telemetry` renders.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use timely::dataflow::ProbeHandle;
use timely::logging::{StartStop, TimelyEvent, TimelyEventBuilder};
use timely::worker::Worker;

use crate::time::{Clock, Mark};

/// How often a worker hands over what it has counted.
const EVERY: Duration = Duration::from_millis(250);
/// A worker that has said nothing for so long is inside of an operator: an idle one is woken more often.
const STUCK: Duration = Duration::from_secs(2);

/// Which operator: its view (empty where views share it), its name without the view, its kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    /// The view; empty where views share it.
    pub view: String,
    /// What it is called.
    pub operator: String,
    /// `source`, `map`, `upsert`, `join`, `project`, `fold`, `sink`, `scope`, or timely's name in lower case.
    pub kind: String,
}

/// Rows that passed an operator, counted by the operator.
#[derive(Debug, Default)]
pub struct RowCounters {
    input: AtomicU64,
    output: AtomicU64,
}

impl RowCounters {
    /// Rows came in.
    pub fn took(&self, rows: usize) {
        self.input.fetch_add(rows as u64, Relaxed);
    }

    /// Rows went out.
    pub fn gave(&self, rows: usize) {
        self.output.fetch_add(rows as u64, Relaxed);
    }
}

/// A worker's frontiers of one operator, in epochs; [`u64::MAX`] is the empty frontier.
#[derive(Debug, Default)]
pub struct Frontiers {
    input: AtomicU64,
    output: AtomicU64,
}

impl Frontiers {
    /// The input's frontier.
    pub fn set_input(&self, epoch: u64) {
        self.input.store(epoch, Relaxed);
    }

    /// The output's frontier.
    pub fn set_output(&self, epoch: u64) {
        self.output.store(epoch, Relaxed);
    }
}

/// Which end of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where it reads.
    Input,
    /// Where it writes.
    Output,
}

/// What has been counted, all workers together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Time spent in it.
    pub busy: Duration,
    /// How often it ran.
    pub runs: u64,
    /// Messages' items in and out, as timely counts them.
    pub items_in: u64,
    /// See `items_in`.
    pub items_out: u64,
}

/// One operator, as metrics and `explain --analyze` show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorRow {
    /// Which.
    pub label: Label,
    /// Time and items.
    pub totals: Totals,
    /// Rows in: the operator's own count, else timely's items.
    pub records_in: u64,
    /// Rows out: the operator's own count, else timely's items.
    pub records_out: u64,
    /// Least input frontier over the workers, in epochs (µs); `None` if unknown or empty.
    pub input_frontier: Option<u64>,
    /// Least output frontier over the workers, in epochs (µs); `None` if unknown or empty.
    pub output_frontier: Option<u64>,
}

type ByWorker = BTreeMap<usize, Arc<Frontiers>>;

/// What the workers share.
#[derive(Default)]
pub struct OperatorStats {
    /// Longest name first, so that a name that starts like another is not taken for it.
    views: Vec<String>,
    totals: Mutex<BTreeMap<Label, Totals>>,
    rows: Mutex<BTreeMap<Label, Arc<RowCounters>>>,
    frontiers: Mutex<BTreeMap<Label, ByWorker>>,
    /// Every epoch below this was given to the workers, says who gave them.
    fed: AtomicU64,
    /// When each worker last handed over what it had counted.
    heard: Mutex<BTreeMap<usize, Mark>>,
}

impl OperatorStats {
    /// For these views.
    pub fn new(views: impl IntoIterator<Item = String>) -> OperatorStats {
        let mut views: Vec<String> = views.into_iter().collect();
        views.sort_by_key(|v| std::cmp::Reverse(v.len()));
        OperatorStats { views, ..OperatorStats::default() }
    }

    /// The row counters of an operator, by its name in the dataflow; the same for all workers.
    pub fn rows(&self, name: &str) -> Arc<RowCounters> {
        Arc::clone(self.rows.lock().entry(self.label(name, "")).or_default())
    }

    /// Every epoch below this has been given to the workers. A worker that is stuck in an operator cannot say so itself.
    pub fn set_fed(&self, epoch: u64) {
        self.fed.fetch_max(epoch, Relaxed);
    }

    fn heard_of(&self, worker: usize, now: Mark) {
        self.heard.lock().insert(worker, now);
    }

    /// A worker's frontiers of an operator, by its name in the dataflow.
    pub fn frontiers(&self, name: &str, worker: usize) -> Arc<Frontiers> {
        let label = self.label(name, "");
        Arc::clone(self.frontiers.lock().entry(label).or_default().entry(worker).or_default())
    }

    /// An operator's label from its name in the dataflow. `attributed` is the view it was built for, where known.
    pub fn label(&self, name: &str, attributed: &str) -> Label {
        let label = |view: &str, operator: String, kind: &str| Label { view: view.into(), operator, kind: kind.into() };
        match name {
            "feed" => return label("", name.into(), "source"),
            "close" => return label("", name.into(), "sink"),
            _ => {}
        }
        if name.starts_with("table ") {
            return label("", name.into(), "upsert");
        }
        for kind in ["project", "fold"] {
            if let Some(view) = name.strip_prefix(kind).and_then(|n| n.strip_prefix(' ')) {
                return label(view, kind.into(), kind);
            }
        }
        for (start, kind) in [("key of table ", "map"), ("key of ", "map"), ("join of ", "join")] {
            let Some(rest) = name.strip_prefix(start) else { continue };
            let found = self.views.iter().find_map(|v| Some((v, rest.strip_prefix(v.as_str())?.strip_prefix(' ')?)));
            if let Some((view, table)) = found {
                return label(view, format!("{start}{table}"), kind);
            }
        }
        label(attributed, name.into(), &name.to_lowercase())
    }

    /// All operators, in the order of their labels.
    pub fn snapshot(&self) -> Vec<OperatorRow> {
        self.snapshot_at(Clock::Machine.mark())
    }

    fn snapshot_at(&self, now: Mark) -> Vec<OperatorRow> {
        let silent = |at: &Mark| now.since(*at) >= STUCK;
        let stuck: BTreeSet<usize> = self.heard.lock().iter().filter(|(_, at)| silent(at)).map(|(n, _)| *n).collect();
        let fed = self.fed.load(Relaxed);
        let totals = self.totals.lock().clone();
        let rows = self.rows.lock();
        let frontiers = self.frontiers.lock();
        let mut labels: Vec<&Label> = totals.keys().chain(rows.keys()).chain(frontiers.keys()).collect();
        labels.sort();
        labels.dedup();
        let row = |label: &Label| {
            let totals = totals.get(label).cloned().unwrap_or_default();
            let own = rows.get(label);
            let count = |own: Option<&AtomicU64>, items: u64| own.map_or(items, |n| n.load(Relaxed));
            let least = |side: fn(&Frontiers) -> &AtomicU64, at_least: u64| {
                let of_worker = |(worker, f): (&usize, &Arc<Frontiers>)| {
                    let known = side(f).load(Relaxed);
                    // What a stuck worker last said of its input is old; what it was given is not.
                    if known != 0 && stuck.contains(worker) { known.max(at_least) } else { known }
                };
                // Zero: this worker has not said anything yet.
                let known = frontiers.get(label)?.iter().map(of_worker).min()?;
                (known != 0 && known != u64::MAX).then_some(known)
            };
            OperatorRow {
                label: label.clone(),
                records_in: count(own.map(|r| &r.input), totals.items_in),
                records_out: count(own.map(|r| &r.output), totals.items_out),
                totals,
                input_frontier: least(|f| &f.input, fed),
                output_frontier: least(|f| &f.output, 0),
            }
        };
        labels.into_iter().map(row).collect()
    }

    fn add(&self, label: Label, new: &Totals) {
        let mut totals = self.totals.lock();
        let sum = totals.entry(label).or_default();
        sum.busy += new.busy;
        sum.runs += new.runs;
        sum.items_in += new.items_in;
        sum.items_out += new.items_out;
    }
}

#[derive(Default)]
struct Operator {
    name: String,
    depth: usize,
    new: Totals,
}

/// What one worker has heard from timely since it last handed over.
#[derive(Default)]
struct Heard {
    operators: BTreeMap<usize, Operator>,
    by_addr: HashMap<Vec<usize>, usize>,
    /// Addresses of source and target.
    channels: HashMap<usize, (Vec<usize>, Vec<usize>)>,
    /// (operator, since, time in nested operators).
    running: Vec<(usize, Duration, Duration)>,
}

impl Heard {
    fn hear(&mut self, at: Duration, event: TimelyEvent) {
        match event {
            TimelyEvent::Operates(o) => {
                self.operators.insert(o.id, Operator { name: o.name, depth: o.addr.len(), new: Totals::default() });
                self.by_addr.insert(o.addr, o.id);
            }
            TimelyEvent::Channels(c) => {
                // Ends are (index within the scope, port); index 0 is the scope itself.
                let addr = |node: usize| c.scope_addr.iter().copied().chain((node != 0).then_some(node)).collect();
                self.channels.insert(c.id, (addr(c.source.0), addr(c.target.0)));
            }
            TimelyEvent::Messages(m) => {
                let Some((source, target)) = self.channels.get(&m.channel) else { return };
                let Some(id) = self.by_addr.get(if m.is_send { source } else { target }) else { return };
                let Some(operator) = self.operators.get_mut(id) else { return };
                let items = u64::try_from(m.record_count).unwrap_or(0);
                if m.is_send { operator.new.items_out += items } else { operator.new.items_in += items }
            }
            TimelyEvent::Schedule(s) => match s.start_stop {
                StartStop::Start => self.running.push((s.id, at, Duration::ZERO)),
                StartStop::Stop => {
                    let Some((id, since, nested)) = self.running.pop() else { return };
                    let all = at.saturating_sub(since);
                    if let Some(operator) = self.operators.get_mut(&id) {
                        // A scope's span contains its children's.
                        operator.new.busy += all.saturating_sub(nested);
                        operator.new.runs += 1;
                    }
                    if let Some(outer) = self.running.last_mut() {
                        outer.2 += all;
                    }
                }
            },
            TimelyEvent::PushProgress(_)
            | TimelyEvent::Shutdown(_)
            | TimelyEvent::CommChannels(_)
            | TimelyEvent::Park(_)
            | TimelyEvent::Text(_) => {}
        }
    }
}

/// One worker's side. It is not `Send`: it lives where its worker does.
pub struct Recorder {
    heard: Rc<RefCell<Heard>>,
    shared: Arc<OperatorStats>,
    worker: usize,
    views: Vec<(Range<usize>, String)>,
    probes: Vec<(ProbeHandle<u64>, Side, Arc<Frontiers>)>,
    last: Option<Instant>,
}

/// Listens to a worker. Call before building any dataflow: operators fetch their logger when they are made.
pub fn install(worker: &Worker, shared: Arc<OperatorStats>) -> Recorder {
    let heard = Rc::new(RefCell::new(Heard::default()));
    if let Some(mut register) = worker.log_register() {
        let hearing = Rc::clone(&heard);
        // The action gets full buffers, and `None` on a flush.
        register.insert::<TimelyEventBuilder, _>("timely", move |_lower, batch| {
            let mut hearing = hearing.borrow_mut();
            for (at, event) in batch.iter_mut().flat_map(|b| b.drain(..)) {
                hearing.hear(at, event);
            }
        });
    }
    Recorder { heard, shared, worker: worker.index(), views: vec![], probes: vec![], last: None }
}

impl Recorder {
    /// What the workers share.
    pub fn shared(&self) -> &Arc<OperatorStats> {
        &self.shared
    }

    /// The operators with identifiers in this range were built for a view: identifiers are handed out in order, so
    /// `worker.peek_identifier()` before and after building gives it. Only names that say no view need this.
    pub fn attribute(&mut self, identifiers: Range<usize>, view: &str) {
        self.views.push((identifiers, view.to_string()));
    }

    /// Reads an operator's frontier from a probe at every publish. A probe on what an operator gives is its output's,
    /// one on what it takes its input's.
    pub fn probe(&mut self, name: &str, side: Side, probe: &ProbeHandle<u64>) {
        self.probes.push((probe.clone(), side, self.shared.frontiers(name, self.worker)));
    }

    /// Hands over what is new, at most four times a second; cheap otherwise. Call after each step, outside of operators.
    pub fn publish(&mut self, worker: &Worker) {
        let now = Instant::now();
        if self.last.is_some_and(|last| now.duration_since(last) < EVERY) {
            return;
        }
        self.last = Some(now);
        self.publish_now(worker);
    }

    /// Hands over what is new at once: before a worker leaves, and in tests.
    pub fn publish_now(&self, worker: &Worker) {
        if let Some(mut register) = worker.log_register() {
            register.flush();
        }
        let mut heard = self.heard.borrow_mut();
        for (id, operator) in &mut heard.operators {
            if operator.new == Totals::default() {
                continue;
            }
            let view = self.views.iter().find(|(range, _)| range.contains(id)).map_or("", |(_, view)| view.as_str());
            let mut label = self.shared.label(&operator.name, view);
            if operator.depth == 1 {
                label.kind = "scope".into();
            }
            self.shared.add(label, &std::mem::take(&mut operator.new));
        }
        for (probe, side, frontiers) in &self.probes {
            let epoch = probe.with_frontier(|f| f.first().copied().unwrap_or(u64::MAX));
            match side {
                Side::Input => frontiers.set_input(epoch),
                Side::Output => frontiers.set_output(epoch),
            }
        }
        self.shared.heard_of(self.worker, Clock::Machine.mark());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use timely::container::CapacityContainerBuilder;
    use timely::dataflow::InputHandle;
    use timely::dataflow::channels::pact::Pipeline;
    use timely::dataflow::operators::Input;
    use timely::dataflow::operators::generic::operator::Operator as _;
    use timely::dataflow::operators::probe::Probe;

    #[test]
    fn names_become_labels() {
        let stats = OperatorStats::new(["user".to_string(), "user activity".to_string(), "a".to_string()]);
        let check = |name: &str, view: &str, operator: &str, kind: &str| {
            let want = Label { view: view.into(), operator: operator.into(), kind: kind.into() };
            assert_eq!(stats.label(name, "given"), want, "{name}");
        };
        check("feed", "", "feed", "source");
        check("close", "", "close", "sink");
        check("project user activity", "user activity", "project", "project");
        check("fold a", "a", "fold", "fold");
        check("join of user activity items", "user activity", "join of items", "join");
        check("join of user items", "user", "join of items", "join");
        check("key of a items", "a", "key of items", "map");
        check("key of table a items", "a", "key of table items", "map");
        check("table items", "", "table items", "upsert");
        check("FlatMap", "given", "FlatMap", "flatmap");
    }

    #[test]
    fn a_worker_reports_time_items_and_frontiers() {
        let stats = Arc::new(OperatorStats::new(["v".to_string()]));
        let inside = Arc::clone(&stats);
        timely::execute_directly(move |worker| {
            let mut recorder = install(worker, Arc::clone(&inside));
            let (mut input, probe) =
                (InputHandle::<u64, CapacityContainerBuilder<Vec<u64>>>::new(), ProbeHandle::new());
            let rows = inside.rows("fold v");
            worker.dataflow::<u64, _, _>(|scope| {
                let numbers = scope.input_from(&mut input);
                type Out = CapacityContainerBuilder<Vec<u64>>;
                let kept = numbers.unary::<Out, _, _, _>(Pipeline, "project v", |_, _| {
                    |input, output| {
                        input.for_each(|cap, data| {
                            std::thread::sleep(Duration::from_millis(2));
                            output.session(&cap).give_iterator(data.drain(..).filter(|n| n % 2 == 0));
                        });
                    }
                });
                let folded = kept.unary::<Out, _, _, _>(Pipeline, "fold v", move |_, _| {
                    let rows = Arc::clone(&rows);
                    move |input, _output| {
                        input.for_each(|_, data| {
                            rows.took(data.len() * 100);
                            data.clear();
                        });
                    }
                });
                folded.probe_with(&probe);
            });
            recorder.probe("fold v", Side::Output, &probe);
            for n in 0..10 {
                input.send(n);
            }
            input.advance_to(7);
            worker.step_while(|| probe.less_than(&7));
            recorder.publish(worker);
            recorder.publish(worker);
        });
        let rows = stats.snapshot();
        let find = |operator: &str| rows.iter().find(|r| r.label.operator == operator).expect(operator);
        let (project, fold) = (find("project"), find("fold"));
        assert_eq!((project.records_in, project.records_out), (10, 5));
        assert!(project.totals.busy >= Duration::from_millis(2), "{project:?}");
        assert!(project.totals.busy < Duration::from_secs(5) && project.totals.runs > 0, "{project:?}");
        assert_eq!((fold.totals.items_in, fold.records_in, fold.records_out), (5, 500, 0));
        assert_eq!((fold.input_frontier, fold.output_frontier), (None, Some(7)));
    }

    #[test]
    fn a_worker_that_is_stuck_lags_behind_what_it_was_given() {
        let stats = OperatorStats::new(["v".to_string()]);
        let begun = Clock::Machine.mark();
        let later = begun + STUCK;
        for worker in 0..2 {
            stats.frontiers("fold v", worker).set_input(5);
            stats.frontiers("fold v", worker).set_output(5);
            stats.heard_of(worker, begun);
        }
        stats.set_fed(9);
        let lag = |at: Mark| {
            let row = stats.snapshot_at(at).remove(0);
            row.input_frontier.zip(row.output_frontier).map(|(input, output)| input - output)
        };
        assert_eq!(lag(begun), Some(0), "they may not have come to it yet");
        assert_eq!(lag(later), Some(4));
        // One goes on; the other one is still in its operator.
        stats.frontiers("fold v", 0).set_input(9);
        stats.frontiers("fold v", 0).set_output(9);
        stats.heard_of(0, later);
        assert_eq!(lag(later), Some(4));
        stats.frontiers("fold v", 1).set_output(9);
        assert_eq!(lag(later), Some(0));
    }

    #[test]
    fn the_slowest_worker_is_the_frontier() {
        let stats = OperatorStats::new(["v".to_string()]);
        stats.frontiers("fold v", 0).set_input(9);
        let second = stats.frontiers("fold v", 1);
        let check = |want: Option<u64>| assert_eq!(stats.snapshot()[0].input_frontier, want);
        check(None);
        second.set_input(5);
        check(Some(5));
        second.set_input(u64::MAX);
        check(Some(9));
        stats.frontiers("fold v", 0).set_input(u64::MAX);
        check(None);
    }
}
