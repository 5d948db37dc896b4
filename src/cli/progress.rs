//! How far a replay has come, on standard error: one line that is rewritten on a terminal, a line now and then elsewhere.
//!
//! Invariants: standard output is the summary's alone; what is over before the first line is due says nothing.
//! Neighbours: `replay` and `run` replay with this.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Between two lines: on a terminal, and where each of them stays.
const REWRITTEN: Duration = Duration::from_millis(200);
const KEPT: Duration = Duration::from_secs(10);

/// Rows by source, and since when they are counted.
pub(super) struct Progress {
    terminal: bool,
    begun: Instant,
    said: Option<Instant>,
    read: BTreeMap<String, u64>,
    taken: BTreeMap<String, u64>,
}

impl Progress {
    pub(super) fn new() -> Progress {
        let (read, taken) = Default::default();
        Progress { terminal: std::io::stderr().is_terminal(), begun: Instant::now(), said: None, read, taken }
    }

    /// So many records of a source have been read and sorted.
    pub(super) fn read(&mut self, source: &str, records: u64) {
        *self.read.entry(source.to_string()).or_default() += records;
        self.tell(false);
    }

    /// So many rows of a source have been taken in.
    pub(super) fn take(&mut self, source: &str, rows: u64) {
        *self.taken.entry(source.to_string()).or_default() += rows;
        self.tell(false);
    }

    /// The last line stays.
    pub(super) fn finish(&mut self) {
        if self.said.is_some() {
            self.tell(true);
        }
    }

    fn tell(&mut self, last: bool) {
        let every = if self.terminal { REWRITTEN } else { KEPT };
        if !last && self.said.unwrap_or(self.begun).elapsed() < every {
            return;
        }
        self.said = Some(Instant::now());
        let (line, mut err) = (self.line(self.begun.elapsed()), std::io::stderr().lock());
        // Nobody who reads the summary depends on this.
        let _ = match (self.terminal, last) {
            (true, false) => write!(err, "\r\x1b[K{line}").and_then(|()| err.flush()),
            (true, true) => writeln!(err, "\r\x1b[K{line}"),
            (false, _) => writeln!(err, "{line}"),
        };
    }

    fn line(&self, elapsed: Duration) -> String {
        let (verb, counts) = if self.taken.is_empty() { ("read", &self.read) } else { ("replayed", &self.taken) };
        let (all, read): (u64, u64) = (counts.values().sum(), self.read.values().sum());
        let of = if self.taken.is_empty() { String::new() } else { format!(" of {}", read.max(all)) };
        let rate = all as f64 / elapsed.as_secs_f64().max(1e-3);
        let sources: Vec<String> = counts.iter().map(|(name, n)| format!("{name} {n}")).collect();
        format!("{verb} {all}{of} rows, {rate:.0} rows/s: {}", sources.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_rows_rate_and_sources() {
        let mut progress = Progress { terminal: false, ..Progress::new() };
        progress.read("clicks", 3_000);
        progress.read("items", 500);
        let second = Duration::from_secs(2);
        assert_eq!(progress.line(second), "read 3500 rows, 1750 rows/s: clicks 3000, items 500");
        progress.take("items", 500);
        progress.take("clicks", 100);
        progress.take("clicks", 100);
        assert_eq!(progress.line(second), "replayed 700 of 3500 rows, 350 rows/s: clicks 200, items 500");
        assert_eq!(progress.said, None, "nothing is said of what is over at once");
    }
}
