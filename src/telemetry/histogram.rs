//! Lengths of time, recorded cheaply and read as Prometheus buckets or quantiles.
//!
//! Invariants: counts and sums are exact, the value of an observation is within one percent. Neighbours: every part of
//! `telemetry` that has a `_seconds` histogram.

use std::time::Duration;

use hdrhistogram::Histogram as Recorded;
use parking_lot::Mutex;

/// Buckets of request latencies, in µs: 50 µs to 10 s.
pub const LATENCY: &[u64] = &[
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// Buckets of freshness, in µs: 1 ms to an hour.
pub const FRESHNESS: &[u64] = &[
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    900_000_000,
    3_600_000_000,
];

/// Beyond a day an observation counts as a day.
const LONGEST: u64 = 86_400_000_000;

/// A histogram of lengths of time, shared by all who record into it.
pub struct Histogram {
    bounds: &'static [u64],
    inner: Mutex<Inner>,
}

struct Inner {
    /// In µs, rounded up, so that a bucket never holds what is longer than its bound.
    recorded: Recorded<u64>,
    nanos: u128,
}

/// What a scrape sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// (upper bound in µs, observations up to it).
    pub buckets: Vec<(u64, u64)>,
    /// All observations.
    pub count: u64,
    /// Their sum in nanoseconds.
    pub nanos: u128,
}

impl Histogram {
    /// An empty one with these upper bounds in µs, ascending.
    pub fn new(bounds: &'static [u64]) -> Histogram {
        let recorded = Recorded::new_with_bounds(1, LONGEST, 2).expect("the bounds are constants that fit");
        Histogram { bounds, inner: Mutex::new(Inner { recorded, nanos: 0 }) }
    }

    /// One observation.
    pub fn record(&self, length: Duration) {
        self.record_many(length, 1);
    }

    /// The same observation `count` times; none for zero.
    pub fn record_many(&self, length: Duration, count: u64) {
        if count == 0 {
            return;
        }
        let nanos = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        let mut inner = self.inner.lock();
        inner.recorded.saturating_record_n(nanos.div_ceil(1_000).min(LONGEST), count);
        inner.nanos += u128::from(nanos) * u128::from(count);
    }

    /// An observation in µs, weighted; a negative one (clocks of two machines) counts as none.
    pub fn record_micros(&self, micros: i64, count: u64) {
        self.record_many(Duration::from_micros(u64::try_from(micros).unwrap_or(0)), count);
    }

    /// The buckets now.
    pub fn snapshot(&self) -> Snapshot {
        let inner = self.inner.lock();
        let mut buckets: Vec<(u64, u64)> = self.bounds.iter().map(|b| (*b, 0)).collect();
        for step in inner.recorded.iter_recorded() {
            let value = inner.recorded.median_equivalent(step.value_iterated_to());
            // To the first bound that holds it.
            if let Some((_, count)) = buckets.iter_mut().find(|(bound, _)| value <= *bound) {
                *count += step.count_at_value();
            }
        }
        let mut below = 0;
        for (_, count) in &mut buckets {
            below += *count;
            *count = below;
        }
        Snapshot { buckets, count: inner.recorded.len(), nanos: inner.nanos }
    }

    /// The length that a share of the observations (0 to 1) does not exceed; `None` without observations.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let inner = self.inner.lock();
        (!inner.recorded.is_empty()).then(|| Duration::from_micros(inner.recorded.value_at_quantile(share)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observations_fall_into_the_first_bucket_that_holds_them() {
        const BOUNDS: &[u64] = &[50, 100, 1_000_000];
        let check = |micros: f64, want: [u64; 3]| {
            let histogram = Histogram::new(BOUNDS);
            histogram.record(Duration::from_secs_f64(micros / 1e6));
            let counts: Vec<u64> = histogram.snapshot().buckets.iter().map(|(_, n)| *n).collect();
            assert_eq!(counts, want, "{micros} µs");
            assert_eq!(histogram.snapshot().count, 1, "{micros} µs");
        };
        check(0.0, [1, 1, 1]);
        check(49.5, [1, 1, 1]);
        check(50.0, [1, 1, 1]);
        check(50.5, [0, 1, 1]);
        check(100.5, [0, 0, 1]);
        check(900_000.0, [0, 0, 1]);
        check(1_100_000.0, [0, 0, 0]);
        check(1e15, [0, 0, 0]);
    }

    #[test]
    fn sums_are_weighted_and_exact() {
        let histogram = Histogram::new(LATENCY);
        assert_eq!(histogram.quantile(0.99), None);
        histogram.record_many(Duration::from_nanos(1_500), 3);
        histogram.record_many(Duration::from_secs(1), 0);
        histogram.record_micros(-5, 1);
        assert_eq!(histogram.snapshot().nanos, 4_500);
        assert_eq!(histogram.snapshot().count, 4);
        assert_eq!(histogram.quantile(1.0), Some(Duration::from_micros(2)));
    }
}
