//! The kinds of time, each its own type, and the clock that is the only way to ask for now.
//!
//! An event time says when something happened; an epoch names a closed slice of input; an ask is the moment a
//! question is about, the value of `now()` in it. They are all microseconds since 1970-01-01 UTC and they never mix.
//!
//! Invariants: nothing else in the crate reads the machine's clock, nor measures or waits by it where that decides
//! anything. Neighbours: everything.

use std::fmt;
use std::ops::Add;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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

/// The first and the last µs of the calendar, of the years -262143 and 262142: beyond them there is no text for an instant.
const CALENDAR: std::ops::RangeInclusive<i64> = -8_334_601_228_800_000_000..=8_210_266_876_799_999_999;

/// Can a calendar say it? What cannot is no time of an event, but a number in another unit.
pub fn is_of_calendar(micros: i64) -> bool {
    CALENDAR.contains(&micros)
}

/// RFC 3339 with six decimals and `Z`: the one way an instant is written. Years beyond 9999 have a sign.
pub fn format_instant(micros: i64) -> String {
    match DateTime::<Utc>::from_timestamp_micros(micros) {
        Some(t) => t.to_rfc3339_opts(SecondsFormat::Micros, true),
        None => micros.to_string(), // beyond year 262143: no calendar can say it
    }
}

/// Reads RFC 3339 text (`T` or a space between date and time; no zone means UTC; a date alone is its midnight), and what
/// [`format_instant`] writes.
/// Digits beyond microseconds are cut. `None` if it is not an instant.
pub fn parse_instant(text: &str) -> Option<i64> {
    let text = text.trim();
    // As far years are written, and only so.
    if text.starts_with(['+', '-']) {
        let t = NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.6fZ").ok()?;
        return Some(t.and_utc().timestamp_micros()).filter(|micros| format_instant(*micros) == text);
    }
    // A year has four digits; the formats below would take more behind a sign.
    if text.bytes().take_while(u8::is_ascii_digit).count() != 4 {
        return None;
    }
    if let Some(micros) = parse_rfc3339(text) {
        return Some(micros);
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

/// Reads an instant as RFC 3339 has it and nothing looser: with a zone, `T`, `t` or a space between date and time. Digits
/// beyond microseconds are cut. `None` if it is not one.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    // chrono also takes the minus sign that is not ASCII's.
    let t = DateTime::parse_from_rfc3339(text).ok().filter(|_| text.is_ascii())?;
    Some(floor_micros(t.timestamp(), t.timestamp_subsec_nanos()))
}

fn floor_micros(seconds: i64, nanos: u32) -> i64 {
    // A leap second (nanos >= 1e9) runs into the next second.
    seconds.saturating_mul(1_000_000).saturating_add(i64::from(nanos / 1_000))
}

/// Reads a length of time: a number and a unit, `'1 second'`, `'24 hours'`, `'500 ms'`, `'1.5 days'`, or several of them,
/// `'1 day 12 hours'`. Returns microseconds; `None` if it is not one, is finer than a microsecond or does not fit.
/// There are no months or years, whose length is not fixed.
pub fn parse_duration(text: &str) -> Option<i64> {
    let mut rest = text.trim();
    let mut total = 0i64;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(number);
        let after = after.trim_start();
        let unit = after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        total = total.checked_add(scaled(number, unit_micros(unit)?)?)?;
        rest = after.trim_start();
    }
    if text.trim().is_empty() { None } else { Some(total) }
}

/// A decimal number of units in microseconds, exactly: digits never go through a double.
fn scaled(number: &str, unit: i64) -> Option<i64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let mut micros = whole.parse::<i64>().ok()?.checked_mul(unit)?;
    let fraction_digits = fraction.trim_end_matches('0');
    if fraction.is_empty() {
        return None;
    }
    if !fraction_digits.is_empty() {
        let scale = 10i128.checked_pow(u32::try_from(fraction_digits.len()).ok()?)?;
        let part = fraction_digits.parse::<i128>().ok()?.checked_mul(i128::from(unit))?;
        if part % scale != 0 {
            return None;
        }
        micros = micros.checked_add(i64::try_from(part / scale).ok()?)?;
    }
    Some(micros)
}

fn unit_micros(unit: &str) -> Option<i64> {
    Some(match unit.to_lowercase().as_str() {
        "us" | "\u{b5}s" | "\u{3bc}s" | "microsecond" | "microseconds" => 1,
        "ms" | "millisecond" | "milliseconds" => 1_000,
        "s" | "sec" | "secs" | "second" | "seconds" => 1_000_000,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000_000,
        "h" | "hour" | "hours" => 3_600_000_000,
        "d" | "day" | "days" => 86_400_000_000,
        "w" | "week" | "weeks" => 604_800_000_000,
        _ => return None,
    })
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

    /// Where a measurement begins. The machine's marks never go back, whatever its time of day does.
    pub fn mark(&self) -> Mark {
        match self {
            Clock::Machine => Mark(STARTED.elapsed()),
            Clock::Manual(at) => Mark(Duration::from_micros(u64::try_from(at.load(Ordering::SeqCst)).unwrap_or(0))),
        }
    }

    /// The time since a mark of this clock; nothing if a manual clock was set back behind it.
    pub fn since(&self, mark: Mark) -> Duration {
        self.mark().since(mark)
    }

    /// Waits. A manual clock moves on by that much at once: who waits by it wants to find it there.
    pub fn sleep(&self, duration: Duration) {
        match self {
            Clock::Machine => std::thread::sleep(duration),
            Clock::Manual(at) => {
                let micros = i64::try_from(duration.as_micros()).expect("nobody waits for an age");
                at.fetch_add(micros, Ordering::SeqCst);
            }
        }
    }
}

/// From here marks of the machine's clock count.
#[expect(clippy::disallowed_methods, reason = "this is the one place that may")]
static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A point of a clock that only measures: it says how much time has gone by since, and names no instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(Duration);

impl Mark {
    /// The time from an earlier mark to this one; nothing if that is later.
    pub fn since(self, earlier: Mark) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Mark {
    type Output = Mark;

    fn add(self, duration: Duration) -> Mark {
        Mark(self.0.saturating_add(duration))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read() {
        let check = |text: &str, want: Option<i64>| assert_eq!(parse_duration(text), want, "{text}");
        check("1 second", Some(1_000_000));
        check("24 hours", Some(86_400_000_000));
        check("1 minute", Some(60_000_000));
        check(" 30 DAYS ", Some(2_592_000_000_000));
        check("500 ms", Some(500_000));
        check("500ms", Some(500_000));
        check("1.5 hours", Some(5_400_000_000));
        check("1 day 12 hours", Some(129_600_000_000));
        check("1h30m", Some(5_400_000_000));
        check("0 seconds", Some(0));
        check("0.000001 s", Some(1));
        check("0.0000001 s", None);
        for wrong in
            ["", " ", "1", "hour", "one hour", "-1 hour", "1 fortnight", "1 month", "1. s", ".5 s", "1..5 s", "1,5 s"]
        {
            check(wrong, None);
        }
        check("99999999999 weeks", None);
    }

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
        check("9999-12-31T23:59:59Z", Some("9999-12-31T23:59:59.000000Z"));
        // Far years, as they are written.
        check("+55840-11-08T22:13:20.000000Z", Some("+55840-11-08T22:13:20.000000Z"));
        check("-0001-03-01T00:00:00.000001Z", Some("-0001-03-01T00:00:00.000001Z"));
        for end in [CALENDAR.start(), CALENDAR.end()] {
            assert_eq!(parse_instant(&format_instant(*end)), Some(*end));
        }
        let beyond = [CALENDAR.start() - 1, CALENDAR.end() + 1, i64::MIN, i64::MAX];
        assert!(beyond.iter().all(|t| DateTime::<Utc>::from_timestamp_micros(*t).is_none() && !is_of_calendar(*t)));
        for wrong in [
            "+55840-11-08T22:13:20Z",
            "1714564800",
            "",
            "+12020-01-01T00:00:00Z",
            "12020-01-01T00:00:00Z",
            "-0001-01-01",
            "202-01-01",
            "+2020-01-01",
        ] {
            check(wrong, None);
        }
    }

    #[test]
    fn a_manual_clock_measures_and_waits_by_itself() {
        let at = Arc::new(AtomicI64::new(1_000));
        let clock = Clock::Manual(Arc::clone(&at));
        let mark = clock.mark();
        clock.sleep(Duration::from_millis(2));
        assert_eq!((clock.now(), clock.since(mark)), (3_000, Duration::from_millis(2)));
        assert!(mark + Duration::from_millis(3) > clock.mark());
        at.store(0, Ordering::SeqCst);
        assert_eq!(clock.since(mark), Duration::ZERO);
        let mark = Clock::Machine.mark();
        assert!(Clock::Machine.mark() >= mark);
    }

    #[test]
    fn an_epoch_is_never_reused() {
        assert_eq!(Epoch::open(100, Epoch(5)), Epoch(100));
        assert_eq!(Epoch::open(3, Epoch(5)), Epoch(6));
        assert_eq!(Epoch::open(-3, Epoch::ZERO), Epoch(1));
    }
}
