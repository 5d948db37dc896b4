//! What a node says of itself: plan, commits, pages and RocksDB read into `telemetry`.
//!
//! Invariants: it watches and changes nothing; a number that it has no reading for is left as it was. Neighbours:
//! `dataflow::commit` tells it of commits, `telemetry` keeps the numbers and renders them, `engine` starts it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow::array::Array;

use crate::dataflow::commit::{Input, OnCommit};
use crate::definition::{Connector, Source};
use crate::event::EventBatch;
use crate::fold::aggregate::sums_that_did_not_fit;
use crate::offset::Offsets;
use crate::plan::Plan;
use crate::state::Store;
use crate::state::cache::Cache;
use crate::state::commit::{ClockKind, Commit};
use crate::telemetry::Metrics;
use crate::telemetry::source::Outcome;
use crate::time::Clock;

/// Between two counts of the pages' memory for whoever scrapes: it looks at every page.
const COUNT: Duration = Duration::from_secs(10);

/// The registry for a plan: its views, and where its sources come from.
pub fn metrics(plan: &Plan) -> Metrics {
    let metrics = Metrics::new(plan.views.iter().map(|v| (v.plan.name.clone(), v.version)));
    for source in &plan.sources {
        let (place, arrival) = origin(source);
        metrics.source(&source.name).set_info(place, arrival);
    }
    metrics
}

/// Where a source comes from, and what its arrival times are.
fn origin(source: &Source) -> (&str, &'static str) {
    let arrival = if source.arrival_time.is_some() { "column" } else { "fetch" };
    match &source.from {
        Connector::Kafka { topic, .. } if source.arrival_time.is_none() => (topic, "broker"),
        Connector::Kafka { topic, .. } => (topic, arrival),
        Connector::File { path, .. } => (path, arrival),
    }
}

/// The positions from which the sources go on after a start.
pub fn resume_at(metrics: &Metrics, offsets: &Offsets) {
    for (source, partitions) in &offsets.0 {
        for (partition, next) in partitions {
            let exported = metrics.source(source).partition(*partition);
            exported.durable.set(*next);
            exported.next.set(*next);
        }
    }
}

/// Numbers that are asked for at each scrape rather than reported.
pub fn collect_at_scrape(metrics: &Metrics, plan: &Arc<Plan>, cache: &Arc<Cache>, store: &Arc<Store>) {
    let (cache, store, plan) = (Arc::clone(cache), Arc::clone(store), Arc::clone(plan));
    let counted = parking_lot::Mutex::new(None::<Instant>);
    metrics.on_scrape(move |metrics| {
        // It looks at every page: whoever scrapes meanwhile gets what was counted before.
        let Some(mut counted) = counted.try_lock() else { return };
        let again = counted.is_none_or(|at| at.elapsed() >= COUNT);
        for (n, view) in plan.views.iter().enumerate() {
            let Some(exported) = metrics.view(&view.plan.name) else { continue };
            exported.keys.store(cache.resident(n), Ordering::Relaxed);
            if again {
                exported.state_bytes.store(cache.memory(n) as u64, Ordering::Relaxed);
            }
        }
        if again {
            *counted = Some(Instant::now());
        }
        metrics.engine().unfit.store(sums_that_did_not_fit(), Ordering::Relaxed);
        let pools = [
            ("memtables", "rocksdb.cur-size-all-mem-tables"),
            ("block_cache", "rocksdb.block-cache-usage"),
            ("table_readers", "rocksdb.estimate-table-readers-mem"),
        ];
        for (pool, property) in pools {
            metrics.engine().rocksdb_memory(pool, store.property(property).unwrap_or(0));
        }
    });
}

/// For the committer: reports each commit.
pub fn on_commit(plan: Arc<Plan>, metrics: Arc<Metrics>, clock: Clock) -> OnCommit {
    let reporter = Reporter { plan, metrics, clock };
    Box::new(move |inputs, commit| reporter.report(inputs, commit))
}

/// Reads commits.
struct Reporter {
    plan: Arc<Plan>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl Reporter {
    /// Says what was committed: offsets, refusals, and how long events took from their arrival to here.
    fn report(&self, inputs: &[(Input, ClockKind)], commit: &Commit) {
        let wall = commit.clock == ClockKind::Wall;
        for (input, _) in inputs {
            input.closed.iter().for_each(|at| self.metrics.engine().close.record(at.elapsed()));
        }
        let now = self.clock.now();
        self.metrics.engine().epoch.set(commit.last.micros());
        let known = inputs.iter().filter_map(|(input, _)| input.complete).max();
        if let Some(complete) = if wall { known } else { Some(commit.visible) } {
            self.metrics.set_complete(complete);
        }
        for rejected in &commit.rejected {
            self.metrics.quarantined(&rejected.source, &rejected.reason, 1);
            // What a view refuses was a good record of its source.
            if rejected.view.is_none() {
                let source = self.metrics.source(&rejected.source);
                source.partition(rejected.partition).count(Outcome::DecodeError, 1);
            }
        }
        for gap in &commit.gaps {
            self.metrics.source(&gap.source).partition(gap.partition).count_lost(gap.records());
        }
        for (source, partitions) in &commit.offsets.0 {
            let source = self.metrics.source(source);
            for (p, next) in partitions {
                let partition = source.partition(*p);
                partition.durable.raise(*next);
                partition.next.raise(*next);
            }
        }
        for (index, batch) in inputs.iter().flat_map(|(i, _)| &i.events) {
            // What is committed has the columns of its source; numbers alone are no reason to stop.
            if let Ok(events) = EventBatch::new(batch.clone()) {
                self.report_events(*index, &events, now, wall);
            }
        }
    }

    fn report_events(&self, index: usize, events: &EventBatch, now: i64, wall: bool) {
        let source = &self.plan.sources[index];
        let metrics = self.metrics.source(&source.name);
        // In each partition in the order in which they came: what is behind a later one is out of order.
        let mut rows: BTreeMap<i32, Vec<Option<i64>>> = BTreeMap::new();
        let event_time = events.event_times();
        for (n, p) in events.partitions().iter().enumerate() {
            rows.entry(*p).or_default().push(event_time.is_valid(n).then(|| event_time.value(n)));
        }
        for (p, event_times) in rows {
            metrics.partition(p).take_rows(event_times.into_iter(), now);
        }
        if !wall {
            return;
        }
        let readers = self.plan.views.iter().filter(|v| v.plan.stream.name == source.name);
        for view in readers.filter_map(|v| self.metrics.view(&v.plan.name)) {
            // Records of one append have one time.
            for run in events.arrival_times().chunk_by(|a, b| a == b) {
                view.freshness.record_micros(now - run[0], run.len() as u64);
            }
        }
    }
}
