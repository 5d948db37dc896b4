//! The Prometheus text format, version 0.0.4: families with help and type, samples with escaped labels.
//!
//! Invariants: a family is written once, in one piece, under the name, type and help of the table; one without samples is
//! not written. Neighbours: `telemetry` has the table and says what goes in; `serve::http` sends it.

use std::fmt::{self, Write};

use super::histogram::Snapshot;
use super::{Family, Kind, PREFIX};

/// Content type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Labels of a sample; one with an empty value is left out, which means the same.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// A sample's value, written exactly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A count or an offset.
    Whole(i64),
    /// Any other number.
    Real(f64),
    /// Microseconds, written in seconds: instants and lengths of time.
    Micros(i64),
    /// Nanoseconds, written in seconds.
    Nanos(u128),
}

impl Value {
    /// A count.
    pub fn count(n: u64) -> Value {
        Value::Whole(i64::try_from(n).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Value::Whole(n) => write!(f, "{n}"),
            Value::Real(x) if x == f64::INFINITY => f.write_str("+Inf"),
            Value::Real(x) if x == f64::NEG_INFINITY => f.write_str("-Inf"),
            Value::Real(x) => write!(f, "{x}"),
            Value::Micros(n) => {
                let sign = if n < 0 { "-" } else { "" };
                write!(f, "{sign}{}.{:06}", n.unsigned_abs() / 1_000_000, n.unsigned_abs() % 1_000_000)
            }
            Value::Nanos(n) => write!(f, "{}.{:09}", n / 1_000_000_000, n % 1_000_000_000),
        }
    }
}

/// Writes families one after the other.
#[derive(Default)]
pub struct Encoder {
    out: String,
}

/// One family being written.
pub struct Samples<'a> {
    out: &'a mut String,
    family: &'a Family,
    begun: bool,
}

impl Encoder {
    /// Starts a family.
    pub fn family<'a>(&'a mut self, family: &'a Family) -> Samples<'a> {
        Samples { out: &mut self.out, family, begun: false }
    }

    /// The text.
    pub fn finish(self) -> String {
        self.out
    }
}

impl Samples<'_> {
    /// One sample.
    pub fn sample(&mut self, labels: Labels<'_>, value: Value) {
        self.line("", labels, None, value);
    }

    /// One sample if there is a value.
    pub fn maybe(&mut self, labels: Labels<'_>, value: Option<Value>) {
        if let Some(value) = value {
            self.sample(labels, value);
        }
    }

    /// A histogram: cumulative buckets, sum and count.
    pub fn histogram(&mut self, labels: Labels<'_>, snapshot: &Snapshot) {
        for (bound, count) in &snapshot.buckets {
            // The shortest text of the bound, as scrapers compare bounds by their text.
            let bound = (*bound as f64 / 1e6).to_string();
            self.line("_bucket", labels, Some(&bound), Value::count(*count));
        }
        self.line("_bucket", labels, Some("+Inf"), Value::count(snapshot.count));
        self.line("_sum", labels, None, Value::Nanos(snapshot.nanos));
        self.line("_count", labels, None, Value::count(snapshot.count));
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, le: Option<&str>, value: Value) {
        if !self.begun {
            self.begun = true;
            self.header();
        }
        let out = &mut *self.out;
        out.push_str(PREFIX);
        out.push_str(self.family.name);
        out.push_str(suffix);
        let mut separator = '{';
        for (name, text) in labels.iter().copied().chain(le.map(|b| ("le", b))).filter(|(_, text)| !text.is_empty()) {
            out.push(separator);
            separator = ',';
            out.push_str(name);
            out.push_str("=\"");
            escape(text, true, out);
            out.push('"');
        }
        if separator == ',' {
            out.push('}');
        }
        // Writing to a string cannot fail.
        let _ = writeln!(out, " {value}");
    }

    fn header(&mut self) {
        let Family { name, kind, help } = self.family;
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = write!(self.out, "# HELP {PREFIX}{name} ");
        escape(help, false, self.out);
        let _ = writeln!(self.out, "\n# TYPE {PREFIX}{name} {kind}");
    }
}

fn escape(text: &str, quotes: bool, out: &mut String) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_exact() {
        let check = |value: Value, want: &str| assert_eq!(value.to_string(), want);
        check(Value::Whole(-3), "-3");
        check(Value::count(u64::MAX), "9223372036854775807");
        check(Value::Real(0.5), "0.5");
        check(Value::Real(f64::NAN), "NaN");
        check(Value::Real(f64::INFINITY), "+Inf");
        check(Value::Real(f64::NEG_INFINITY), "-Inf");
        check(Value::Micros(1_700_000_000_123_456), "1700000000.123456");
        check(Value::Micros(-1), "-0.000001");
        check(Value::Micros(i64::MIN), "-9223372036854.775808");
        check(Value::Nanos(1_000_000_001), "1.000000001");
    }

    #[test]
    fn families_are_written_once_and_escaped() {
        let family = Family { name: "x", kind: Kind::Gauge, help: "a \\ \"b\"\nc" };
        let silent = Family { name: "y", kind: Kind::Counter, help: "never" };
        let mut encoder = Encoder::default();
        let mut samples = encoder.family(&family);
        samples.sample(&[("view", "a\"b\\c\nd"), ("operator", ""), ("kind", "fold")], Value::Whole(1));
        samples.maybe(&[], None);
        samples.maybe(&[], Some(Value::Whole(2)));
        encoder.family(&silent).maybe(&[], None);
        let want = concat!(
            "# HELP headwater_x a \\\\ \"b\"\\nc\n",
            "# TYPE headwater_x gauge\n",
            "headwater_x{view=\"a\\\"b\\\\c\\nd\",kind=\"fold\"} 1\n",
            "headwater_x 2\n",
        );
        assert_eq!(encoder.finish(), want);
    }

    #[test]
    fn histograms_are_cumulative() {
        let family = Family { name: "h", kind: Kind::Histogram, help: "h" };
        let snapshot = Snapshot { buckets: vec![(50, 1), (1_000_000, 3)], count: 4, nanos: 2_500_000_000 };
        let mut encoder = Encoder::default();
        encoder.family(&family).histogram(&[("a", "b")], &snapshot);
        let want = concat!(
            "# HELP headwater_h h\n",
            "# TYPE headwater_h histogram\n",
            "headwater_h_bucket{a=\"b\",le=\"0.00005\"} 1\n",
            "headwater_h_bucket{a=\"b\",le=\"1\"} 3\n",
            "headwater_h_bucket{a=\"b\",le=\"+Inf\"} 4\n",
            "headwater_h_sum{a=\"b\"} 2.500000000\n",
            "headwater_h_count{a=\"b\"} 4\n",
        );
        assert_eq!(encoder.finish(), want);
    }
}
