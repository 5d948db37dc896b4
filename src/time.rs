//! The kinds of time, each its own type, and the clock that is the only way to ask for now.
//!
//! An event time says when something happened; an epoch names a closed slice of input; an ask is the moment a
//! question is about, the value of `now()` in it. They are all microseconds since 1970-01-01 UTC and they never mix.
//!
//! Invariants: nothing else in the crate reads the machine's clock. Neighbours: everything.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use chrono::{DateTime, NaiveDateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// When an event happened by its producer's word: microseconds since 1970-01-01 UTC. May be before 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EventTime(pub i64);

/// The clock reading that opened a slice of input: microseconds since 1970-01-01 UTC, strictly increasing.
/// It names the slice: the unit of visibility and recovery. It is not the ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// The moment a question is about, the value of `now()` in it: microseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ask(pub i64);

impl Epoch {
    /// Before the first commit.
    pub const ZERO: Epoch = Epoch(0);

    /// The epoch of a slice that opens at `reading`, after `last`: a clock that goes back never reuses one.
    pub fn open(reading: i64, last: Epoch) -> Epoch {
        Epoch(u64::try_from(reading).unwrap_or(0).max(last.0 + 1).max(1))
    }

    /// As an instant; epochs are far below `i64::MAX`.
    pub fn micros(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_instant(self.micros()))
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_instant(self.0))
    }
}

/// RFC 3339 with six decimals and `Z`: the one way an instant is written.
pub fn format_instant(micros: i64) -> String {
    match DateTime::<Utc>::from_timestamp_micros(micros) {
        Some(t) => t.to_rfc3339_opts(SecondsFormat::Micros, true),
        None => micros.to_string(), // beyond year 262143: no calendar can say it
    }
}

/// Reads RFC 3339 text (`T` or a space between date and time; no zone means UTC; a date alone is its midnight).
/// Digits beyond microseconds are cut. `None` if it is not an instant.
pub fn parse_instant(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(t) = DateTime::parse_from_rfc3339(text) {
        return Some(floor_micros(t.timestamp(), t.timestamp_subsec_nanos()));
    }
    for format in ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z"] {
        if let Ok(t) = DateTime::parse_from_str(text, format) {
            return Some(floor_micros(t.timestamp(), t.timestamp_subsec_nanos()));
        }
    }
    for format in ["%Y-%m-%dT%H:%M:%S%.fZ", "%Y-%m-%d %H:%M:%S%.fZ", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"] {
        if let Ok(t) = NaiveDateTime::parse_from_str(text, format) {
            return Some(floor_micros(t.and_utc().timestamp(), t.and_utc().timestamp_subsec_nanos()));
        }
    }
    let date = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    Some(date.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros())
}

fn floor_micros(seconds: i64, nanos: u32) -> i64 {
    // A leap second (nanos >= 1e9) runs into the next second.
    seconds.saturating_mul(1_000_000).saturating_add(i64::from(nanos / 1_000))
}

/// The only way to ask for now. Tests step it by hand.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's.
    Machine,
    /// Set by its owner: microseconds since 1970-01-01 UTC.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// Microseconds since 1970-01-01 UTC.
    pub fn now(&self) -> i64 {
        match self {
            #[expect(clippy::disallowed_methods, reason = "this is the one place that may")]
            Clock::Machine => match SystemTime::now().duration_since(UNIX_EPOCH) {
                Ok(d) => i64::try_from(d.as_micros()).unwrap_or(i64::MAX),
                Err(e) => -i64::try_from(e.duration().as_micros()).unwrap_or(i64::MAX),
            },
            Clock::Manual(at) => at.load(Ordering::SeqCst),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_read_and_write() {
        let check = |text: &str, want: Option<&str>| {
            assert_eq!(parse_instant(text).map(format_instant).as_deref(), want, "{text}");
        };
        check("2013-07-10T22:00:00Z", Some("2013-07-10T22:00:00.000000Z"));
        check("2013-07-10T22:00:00.123456789+02:00", Some("2013-07-10T20:00:00.123456Z"));
        check("2013-07-10 22:00:00.5", Some("2013-07-10T22:00:00.500000Z"));
        check("2013-07-10", Some("2013-07-10T00:00:00.000000Z"));
        check("1969-12-31T23:59:59.9999999Z", Some("1969-12-31T23:59:59.999999Z"));
        check("1714564800", None);
        check("", None);
    }

    #[test]
    fn an_epoch_is_never_reused() {
        assert_eq!(Epoch::open(100, Epoch(5)), Epoch(100));
        assert_eq!(Epoch::open(3, Epoch(5)), Epoch(6));
        assert_eq!(Epoch::open(-3, Epoch::ZERO), Epoch(1));
    }
}
