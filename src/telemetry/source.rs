//! What is known of each partition of each source, as its reader and the committer report it.
//!
//! Invariants: offsets are exclusive ends; the outcomes of a partition sum to the records read. Neighbours: `engine` and
//! the sources call the setters, `telemetry` renders.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

/// A number that may be unknown.
pub struct Gauge(AtomicI64);

impl Default for Gauge {
    fn default() -> Gauge {
        Gauge(AtomicI64::new(i64::MIN))
    }
}

impl Gauge {
    /// Known from now on.
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    /// The greater of both.
    pub fn raise(&self, value: i64) {
        self.0.fetch_max(value, Relaxed);
    }

    /// Unknown from now on.
    pub fn clear(&self) {
        self.0.store(i64::MIN, Relaxed);
    }

    /// If known.
    pub fn get(&self) -> Option<i64> {
        Some(self.0.load(Relaxed)).filter(|v| *v != i64::MIN)
    }
}

/// What became of a record that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the metric's label")]
pub enum Outcome {
    Applied,
    LateApplied,
    LateDropped,
    FutureHeld,
    DecodeError,
    Duplicate,
    Filtered,
}

impl Outcome {
    /// All of them, in the order of their counters.
    pub const ALL: [Outcome; 7] = [
        Outcome::Applied,
        Outcome::LateApplied,
        Outcome::LateDropped,
        Outcome::FutureHeld,
        Outcome::DecodeError,
        Outcome::Duplicate,
        Outcome::Filtered,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Applied => "applied",
            Outcome::LateApplied => "late_applied",
            Outcome::LateDropped => "late_dropped",
            Outcome::FutureHeld => "future_held",
            Outcome::DecodeError => "decode_error",
            Outcome::Duplicate => "duplicate",
            Outcome::Filtered => "filtered",
        }
    }
}

/// How a partition is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Read, and there is more.
    Active,
    /// All read.
    CaughtUpIdle,
    /// Held back on purpose.
    Paused,
    /// There is more, and nothing was read for [`STALLED_AFTER`].
    Stalled,
    /// Read by nobody here.
    Unassigned,
}

/// A partition with unread records whose read offset has not moved for so long (µs) is stalled.
pub const STALLED_AFTER: i64 = 30_000_000;

impl State {
    /// All of them.
    pub const ALL: [State; 5] = [State::Active, State::CaughtUpIdle, State::Paused, State::Stalled, State::Unassigned];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Active => "active",
            State::CaughtUpIdle => "caught_up_idle",
            State::Paused => "paused",
            State::Stalled => "stalled",
            State::Unassigned => "unassigned",
        }
    }
}

/// One partition.
#[derive(Default)]
pub struct PartitionMetrics {
    /// The broker's high watermark.
    pub high: Gauge,
    /// The next offset to read.
    pub next: Gauge,
    /// The offset covered by the last commit.
    pub durable: Gauge,
    /// When the oldest unread record was appended, in µs; unknown when caught up.
    pub oldest_unread: Gauge,
    /// Greatest accepted event time, in µs.
    pub event_time: Gauge,
    /// No more events below this are promised, in µs.
    pub watermark: Gauge,
    records: [AtomicU64; 7],
    lost: AtomicU64,
    /// Payload bytes read since the start.
    pub bytes: Gauge,
    /// Time during which this partition's watermark was the least of its source's, in µs.
    held: AtomicU64,
    paused: AtomicBool,
    unassigned: AtomicBool,
    /// The read offset when it was last seen to move, and when that was.
    moved: Mutex<Option<(i64, i64)>>,
}

impl PartitionMetrics {
    /// Records that had this outcome.
    pub fn count(&self, outcome: Outcome, records: u64) {
        self.records[outcome as usize].fetch_add(records, Relaxed);
    }

    /// Records that the broker had dropped before they were read.
    pub fn count_lost(&self, records: u64) {
        self.lost.fetch_add(records, Relaxed);
    }

    /// Such records so far.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Held back, or not any more.
    pub fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Relaxed);
    }

    /// Ours, or not any more.
    pub fn set_assigned(&self, assigned: bool) {
        self.unassigned.store(!assigned, Relaxed);
    }

    /// Records with this outcome.
    pub fn records(&self, outcome: Outcome) -> u64 {
        self.records[outcome as usize].load(Relaxed)
    }

    /// Time during which this partition held the source's watermark, in µs.
    pub fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }

    /// Unread records, if both ends are known.
    pub fn lag(&self) -> Option<i64> {
        Some((self.high.get()? - self.next.get().unwrap_or(0)).max(0))
    }

    /// How it is doing at `now` (µs). A stall is seen by asking more than once.
    pub fn state(&self, now: i64) -> State {
        let next = self.next.get().unwrap_or(0);
        let mut moved = self.moved.lock();
        let since = match *moved {
            Some((at, since)) if at == next => since,
            _ => now,
        };
        let lag = self.lag().unwrap_or(0);
        // A partition that was caught up starts to wait when there is something to read, not before.
        let since = if lag == 0 { now } else { since };
        *moved = Some((next, since));
        match (self.unassigned.load(Relaxed), self.paused.load(Relaxed), lag) {
            (true, _, _) => State::Unassigned,
            (_, true, _) => State::Paused,
            (_, _, 0) => State::CaughtUpIdle,
            _ if now - since >= STALLED_AFTER => State::Stalled,
            _ => State::Active,
        }
    }
}

/// One source.
#[derive(Default)]
pub struct SourceMetrics {
    info: Mutex<(String, &'static str)>,
    partitions: Mutex<BTreeMap<i32, Arc<PartitionMetrics>>>,
    /// Can it be read: 0 or 1; unknown for files.
    pub reachable: Gauge,
}

impl SourceMetrics {
    /// Where it comes from (a topic, a path) and what its arrival times are: `broker`, `column` or `fetch`.
    pub fn set_info(&self, topic: &str, arrival_clock: &'static str) {
        *self.info.lock() = (topic.to_string(), arrival_clock);
    }

    /// What [`SourceMetrics::set_info`] said.
    pub fn info(&self) -> (String, &'static str) {
        self.info.lock().clone()
    }

    /// A partition, made at its first mention.
    pub fn partition(&self, partition: i32) -> Arc<PartitionMetrics> {
        Arc::clone(self.partitions.lock().entry(partition).or_default())
    }

    /// So much time (µs) passed: the partition with the least watermark held the source's.
    pub fn pass(&self, elapsed: u64) {
        let partitions = self.partitions.lock();
        // One alone holds nobody up.
        let known = partitions.values().filter_map(|p| Some((p.watermark.get()?, p)));
        if let Some((_, least)) = known.min_by_key(|(at, _)| *at).filter(|_| partitions.len() > 1) {
            least.held.fetch_add(elapsed, Relaxed);
        }
    }

    /// All partitions, in order.
    pub fn partitions(&self) -> Vec<(i32, Arc<PartitionMetrics>)> {
        self.partitions.lock().iter().map(|(n, p)| (*n, Arc::clone(p))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_know_what_they_do_not_know() {
        let gauge = Gauge::default();
        assert_eq!(gauge.get(), None);
        gauge.raise(-5);
        gauge.raise(-7);
        assert_eq!(gauge.get(), Some(-5));
        gauge.set(-7);
        assert_eq!(gauge.get(), Some(-7));
        gauge.clear();
        assert_eq!(gauge.get(), None);
    }

    #[test]
    fn the_slowest_partition_holds_the_watermark() {
        let source = SourceMetrics::default();
        let held = || source.partitions().iter().map(|(_, p)| p.held()).collect::<Vec<_>>();
        source.partition(0).watermark.raise(10);
        source.pass(100);
        assert_eq!(held(), [0]);
        source.partition(1).watermark.raise(5);
        source.partition(2);
        source.pass(100);
        assert_eq!(held(), [0, 100, 0]);
        source.partition(1).watermark.raise(11);
        source.pass(7);
        assert_eq!(held(), [7, 100, 0]);
    }

    #[test]
    fn a_partition_stalls_when_there_is_more_and_nothing_moves() {
        let p = PartitionMetrics::default();
        let check = |now: i64, want: State| assert_eq!(p.state(now), want, "at {now}");
        check(0, State::CaughtUpIdle);
        check(100 * STALLED_AFTER, State::CaughtUpIdle);
        p.high.set(10);
        p.next.raise(4);
        assert_eq!(p.lag(), Some(6));
        let t = 101 * STALLED_AFTER;
        check(t, State::Active);
        check(t + STALLED_AFTER - 1, State::Active);
        check(t + STALLED_AFTER, State::Stalled);
        p.next.raise(5);
        check(t + STALLED_AFTER + 1, State::Active);
        p.set_paused(true);
        check(t + 9 * STALLED_AFTER, State::Paused);
        p.set_assigned(false);
        check(t + 9 * STALLED_AFTER, State::Unassigned);
        p.set_assigned(true);
        p.set_paused(false);
        p.next.raise(10);
        check(t + 99 * STALLED_AFTER, State::CaughtUpIdle);
        assert_eq!(p.lag(), Some(0));
    }
}
