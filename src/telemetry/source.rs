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

/// What became of a record that was read. Nothing is dropped here for being late, for being there twice or by a view's
/// filter: those three stay at zero until something does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Committed as a row, above the partition's watermark.
    Applied,
    /// Committed as a row, although its partition had promised that nothing so old would come.
    LateApplied,
    /// Too late to be taken.
    LateDropped,
    /// Committed as a row of a later time than now: no answer about now has it yet.
    FutureHeld,
    /// In the quarantine, whatever the reason.
    DecodeError,
    /// There already.
    Duplicate,
    /// Of no use to anybody.
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
    /// What its events so far let expect: none below this, in µs. It is the greatest event time less the most by which an
    /// event has come behind a later one; it never falls, so an event that breaks the promise is a late one.
    pub watermark: Gauge,
    /// The most by which an event has come behind a later one, in µs.
    disorder: AtomicI64,
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

    /// Takes the event times of rows in, in the order in which they came, and counts their outcomes.
    pub fn take_rows(&self, event_times: impl Iterator<Item = Option<i64>>, now: i64) {
        let watermark = self.watermark.get().unwrap_or(i64::MIN);
        let (mut newest, mut disorder) = (self.event_time.get(), self.disorder.load(Relaxed));
        let mut outcomes = [0u64; Outcome::ALL.len()];
        for event_time in event_times {
            let outcome = match event_time {
                Some(at) if at > now => Outcome::FutureHeld,
                Some(at) if at < watermark => Outcome::LateApplied,
                Some(_) | None => Outcome::Applied,
            };
            outcomes[outcome as usize] += 1;
            // The future promises nothing, and would make everything else late.
            let Some(at) = event_time.filter(|at| *at <= now) else { continue };
            disorder = disorder.max(newest.map_or(0, |newest| newest.saturating_sub(at)));
            newest = newest.max(Some(at));
        }
        for (outcome, count) in Outcome::ALL.into_iter().zip(outcomes) {
            self.count(outcome, count);
        }
        self.disorder.store(disorder, Relaxed);
        if let Some(newest) = newest {
            self.event_time.raise(newest);
            self.watermark.raise(newest.saturating_sub(disorder));
        }
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

    /// So much time (µs) passed: of the partitions of which there is more to read, the one with the least watermark held
    /// the source's.
    pub fn pass(&self, elapsed: u64) {
        let partitions = self.partitions.lock();
        // One that is read to its end holds nobody up: it has nothing older to come with. One alone does not either.
        let behind = partitions.values().filter(|p| p.lag() != Some(0) && !p.unassigned.load(Relaxed));
        let known = behind.filter_map(|p| Some((p.watermark.get()?, p)));
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
    fn who_is_read_to_the_end_holds_nobody_up() {
        let source = SourceMetrics::default();
        let held = || source.partitions().iter().map(|(_, p)| p.held()).collect::<Vec<_>>();
        for (n, (watermark, high)) in [(5, 10), (7, 20), (9, 20)].into_iter().enumerate() {
            let partition = source.partition(i32::try_from(n).expect("few"));
            partition.watermark.raise(watermark);
            partition.high.set(high);
            partition.next.set(10);
        }
        source.pass(100);
        assert_eq!(held(), [0, 100, 0], "the first is caught up");
        source.partition(1).set_assigned(false);
        source.pass(10);
        assert_eq!(held(), [0, 100, 10]);
        source.partition(0).high.set(11);
        source.pass(1);
        assert_eq!(held(), [1, 100, 10], "there is more of the first");
    }

    #[test]
    fn rows_have_outcomes_and_make_a_promise() {
        let p = PartitionMetrics::default();
        let check = |event_times: &[Option<i64>], now: i64, newest: i64, watermark: i64, outcomes: [u64; 3]| {
            p.take_rows(event_times.iter().copied(), now);
            assert_eq!((p.event_time.get(), p.watermark.get()), (Some(newest), Some(watermark)), "{event_times:?}");
            let counted = [Outcome::Applied, Outcome::LateApplied, Outcome::FutureHeld].map(|o| p.records(o));
            assert_eq!(counted, outcomes, "{event_times:?}");
        };
        check(&[Some(10), Some(20), None], 100, 20, 20, [3, 0, 0]);
        // Behind by five: late once, and from then on expected.
        check(&[Some(15), Some(30)], 100, 30, 25, [4, 1, 0]);
        check(&[Some(26), Some(31)], 100, 31, 26, [6, 1, 0]);
        check(&[Some(101), Some(40)], 100, 40, 35, [7, 1, 1]);
        // A promise is not taken back, it is broken.
        check(&[Some(10)], 100, 40, 35, [7, 2, 1]);
        check(&[Some(80)], 100, 80, 50, [8, 2, 1]);
        let sum: u64 = Outcome::ALL.into_iter().map(|o| p.records(o)).sum();
        assert_eq!(sum, 11, "the outcomes sum to the records read");
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
