//! Every metric: its name, type, unit and meaning in one table, and the registry behind `/metrics`.
//!
//! The parts of a node report through setters, which are atomics or short locks; [`Metrics::render`] writes the text.
//! Instants are exported as Unix seconds, so that `time() - x` keeps growing when the process is stuck.
//!
//! Invariants: what is exported is in [`TABLE`]; labels are bounded by the definitions. Neighbours: `lag`, `source` and
//! `serving` hold the numbers; `engine`, `dataflow` and `serve` report them.

pub mod encode;
pub mod histogram;
pub mod lag;
pub mod serving;
pub mod source;

mod render;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use histogram::{FRESHNESS, Histogram, LATENCY};
use lag::OperatorStats;
use serving::Serving;
use source::{Gauge, SourceMetrics};

/// Every name starts with it.
pub const PREFIX: &str = "headwater_";

/// A metric's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are Prometheus' own names")]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric: name (without the prefix), type and meaning.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Without the prefix; the unit is its last word.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// What it means.
    pub help: &'static str,
}

const fn gauge(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Gauge, help }
}

const fn counter(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Counter, help }
}

const fn histogram(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Histogram, help }
}

/// Every metric, in the order of the text. `_ts` is an instant in Unix seconds.
pub const TABLE: &[Family] = &[
    gauge("build_info", "Constant 1, labelled with the version."),
    // Labels: source, topic, arrival_clock.
    gauge("source_info", "Constant 1: where a source comes from and what its arrival times are."),
    // Labels: source.
    gauge("source_reachable", "1 while the source's brokers and topic can be reached."),
    // Labels: source, partition.
    gauge("source_high_offset", "The partition's end: the offset after its last record."),
    gauge("source_read_offset", "Next offset to read."),
    gauge("source_durable_offset", "Offset covered by the last commit."),
    gauge("source_lag_records", "Records not read yet."),
    gauge("source_oldest_unread_append_ts", "When the oldest unread record was appended; absent when caught up."),
    gauge("source_event_ts_max", "Greatest accepted event time."),
    gauge("source_watermark_ts", "The partition's promise: no more events below this."),
    counter("source_watermark_hold_seconds_total", "Time during which this partition held the source's watermark."),
    // Labels: source, partition, state.
    gauge("source_state", "1 for the state the partition is in: active, caught_up_idle, paused, stalled, unassigned."),
    // Labels: source, partition, outcome.
    counter("source_records_total", "Records by what became of them; the outcomes sum to the records read."),
    // Labels: source, partition.
    counter("source_lost_records_total", "Records that the broker had dropped before they were read."),
    counter("source_bytes_total", "Payload bytes read."),
    // Labels: source, class.
    counter("quarantine_records_total", "Refused records by the class of the reason."),
    // Labels: view, operator, kind.
    gauge("operator_input_frontier_ts", "Every epoch below this has reached the operator on all workers."),
    gauge("operator_output_frontier_ts", "Every epoch below this has left the operator on all workers."),
    gauge("operator_frontier_lag_seconds", "How far the operator's output trails its input."),
    counter("operator_busy_seconds_total", "Time spent in the operator, all workers together."),
    counter("operator_activations_total", "How often the operator ran."),
    counter("operator_records_in_total", "Records that reached the operator."),
    counter("operator_records_out_total", "Records that left the operator."),
    // Labels: view, version.
    gauge("view_complete_ts", "Every event appended up to here is reflected in reads."),
    gauge("view_durable_ts", "Every event appended up to here is reflected in reads and survives a crash."),
    histogram("view_freshness_seconds", "From an event's append to its being readable, weighted by events."),
    gauge("view_keys", "Entities in memory."),
    gauge("view_state_bytes", "Bytes of their state in memory."),
    // Labels: endpoint, view, method, and code.
    counter("serve_requests_total", "Requests by status code."),
    // Labels: endpoint, view, method.
    histogram("serve_request_seconds", "How long requests took."),
    histogram("serve_wait_seconds", "How long requests waited for a commit, those that asked to."),
    // Labels: endpoint, view, method, outcome.
    counter("serve_values_total", "Feature values served: present, null, absent_key, expired."),
    counter("sums_unfit_total", "Sums in answers that did not fit their type and are null."),
    gauge("ready", "1 once all that was committed can be read."),
    gauge("epoch_current", "The last published epoch, in Unix seconds."),
    histogram("epoch_close_seconds", "From the end of an epoch's input to its commit being readable."),
    gauge("checkpoint_last_success_ts", "When pages were last written back."),
    histogram("checkpoint_seconds", "How long writing back took."),
    gauge("recovery_seconds", "How long the last start took until everything committed could be read."),
    // Labels: pool.
    gauge("rocksdb_memory_bytes", "Memory that RocksDB holds."),
];

/// The row of the table; names are literals of this module.
fn family(name: &str) -> &'static Family {
    TABLE.iter().find(|f| f.name == name).expect("every exported name is in the table")
}

/// What is known of one view.
pub struct ViewMetrics {
    /// Its version's number.
    pub version: u32,
    /// Every event appended up to here is reflected in reads, in µs.
    pub complete: Gauge,
    /// The same, surviving a crash, in µs.
    pub durable: Gauge,
    /// From append to readable, weighted by events.
    pub freshness: Histogram,
    /// Entities in memory.
    pub keys: AtomicU64,
    /// Bytes of their state in memory.
    pub state_bytes: AtomicU64,
}

/// What is known of the node.
pub struct EngineMetrics {
    /// Everything committed can be read: 0 or 1.
    pub ready: AtomicU64,
    /// The last published epoch, in µs.
    pub epoch: Gauge,
    /// From the end of an epoch's input to its commit being readable.
    pub close: Histogram,
    /// When pages were last written back, in µs.
    pub checkpoint_last_success: Gauge,
    /// How long that took.
    pub checkpoint: Histogram,
    /// How long the start took, in µs.
    pub recovery: Gauge,
    /// Sums in answers that did not fit their type.
    pub unfit: AtomicU64,
    rocksdb: Mutex<BTreeMap<&'static str, u64>>,
}

impl EngineMetrics {
    /// Memory of one of RocksDB's pools: `memtables`, `block_cache`, `table_readers`, …
    pub fn rocksdb_memory(&self, pool: &'static str, bytes: u64) {
        self.rocksdb.lock().insert(pool, bytes);
    }
}

type Collector = Box<dyn Fn(&Metrics) + Send + Sync>;

/// The registry.
pub struct Metrics {
    sources: Mutex<BTreeMap<String, Arc<SourceMetrics>>>,
    views: Mutex<BTreeMap<String, Arc<ViewMetrics>>>,
    quarantine: Mutex<BTreeMap<(String, String), u64>>,
    operators: Arc<OperatorStats>,
    serving: Serving,
    engine: EngineMetrics,
    complete: Gauge,
    collectors: Mutex<Vec<Collector>>,
}

impl Metrics {
    /// For these views: (name, version).
    pub fn new(views: impl IntoIterator<Item = (String, u32)>) -> Metrics {
        let view = |version| ViewMetrics {
            version,
            complete: Gauge::default(),
            durable: Gauge::default(),
            freshness: Histogram::new(FRESHNESS),
            keys: AtomicU64::new(0),
            state_bytes: AtomicU64::new(0),
        };
        let views: BTreeMap<String, Arc<ViewMetrics>> =
            views.into_iter().map(|(name, version)| (name, Arc::new(view(version)))).collect();
        Metrics {
            operators: Arc::new(OperatorStats::new(views.keys().cloned())),
            views: Mutex::new(views),
            sources: Mutex::default(),
            quarantine: Mutex::default(),
            serving: Serving::default(),
            engine: EngineMetrics {
                ready: AtomicU64::new(0),
                epoch: Gauge::default(),
                close: Histogram::new(LATENCY),
                checkpoint_last_success: Gauge::default(),
                checkpoint: Histogram::new(LATENCY),
                recovery: Gauge::default(),
                unfit: AtomicU64::new(0),
                rocksdb: Mutex::default(),
            },
            complete: Gauge::default(),
            collectors: Mutex::default(),
        }
    }

    /// A source, made at its first mention.
    pub fn source(&self, name: &str) -> Arc<SourceMetrics> {
        Arc::clone(self.sources.lock().entry(name.to_string()).or_default())
    }

    /// Sources that cannot be read, or of which there is more than is read, and why.
    pub fn unready_sources(&self, now: i64) -> Vec<(String, String)> {
        let sources = self.sources.lock();
        let mut unready = vec![];
        for (name, source) in &*sources {
            if source.reachable.get() == Some(0) {
                unready.push((name.clone(), "it cannot be reached".to_string()));
            }
            for (partition, of_it) in source.partitions() {
                if of_it.state(now) == source::State::Stalled {
                    unready.push((name.clone(), format!("partition {partition} has records that are not read")));
                }
            }
        }
        unready
    }

    /// So much time (µs) has passed: see [`SourceMetrics::pass`].
    pub fn pass(&self, elapsed: u64) {
        self.sources.lock().values().for_each(|s| s.pass(elapsed));
    }

    /// A view of the plan.
    pub fn view(&self, name: &str) -> Option<Arc<ViewMetrics>> {
        self.views.lock().get(name).cloned()
    }

    /// What the workers share.
    pub fn operators(&self) -> &Arc<OperatorStats> {
        &self.operators
    }

    /// The endpoints.
    pub fn serving(&self) -> &Serving {
        &self.serving
    }

    /// The node.
    pub fn engine(&self) -> &EngineMetrics {
        &self.engine
    }

    /// Records were refused for a reason of this class: what stands before the colon of a refusal's reason.
    pub fn quarantined(&self, source: &str, reason: &str, count: u64) {
        let class = reason.split(':').next().unwrap_or_default();
        let known = [
            "decode",
            "not_null",
            "check",
            "event_time",
            "arrival_time",
            "future",
            "key",
            "null_payload",
            "expression",
        ];
        let class = if known.contains(&class) { class } else { "other" };
        *self.quarantine.lock().entry((source.to_string(), class.to_string())).or_insert(0) += count;
    }

    /// Every event appended up to this instant (µs) is reflected in what is published: also when there were none.
    /// Sets it for all views; they advance together.
    pub fn set_complete(&self, instant: i64) {
        self.complete.raise(instant);
        for view in self.views.lock().values() {
            view.complete.raise(instant);
        }
    }

    /// What [`Metrics::set_complete`] said last.
    pub fn complete(&self) -> Option<i64> {
        self.complete.get()
    }

    /// The same, surviving a crash.
    pub fn set_durable(&self, instant: i64) {
        for view in self.views.lock().values() {
            view.durable.raise(instant);
        }
    }

    /// Runs before each rendering: for numbers that are asked for rather than reported.
    pub fn on_scrape(&self, collect: impl Fn(&Metrics) + Send + Sync + 'static) {
        self.collectors.lock().push(Box::new(collect));
    }

    fn collect(&self) {
        for collect in &*self.collectors.lock() {
            collect(self);
        }
    }

    fn ready(&self) -> u64 {
        self.engine.ready.load(Relaxed)
    }
}
