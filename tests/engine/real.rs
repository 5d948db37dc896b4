//! Real data: every view of every set is verified, and answers what another engine answered.
//!
//! The data is not part of the repository. It is looked for beside the checkout (`../shared/data`) or at
//! `HEADWATER_DATA`. Where there is none, these tests fail, or are counted as skipped: see [`data`].

use std::io::Write;
use std::path::{Path, PathBuf};

use super::support::{Done, headwater};

/// Windows are open below and closed above, and so are the expected rows that count.
const BOUNDS: &str = "(]";

/// The data. `None` only where somebody counts: the test names itself in the file `HEADWATER_TEST_SKIPS`, and its caller
/// returns. Without that file a test that cannot run fails, since a pass would say that it ran.
pub(crate) fn data() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    let found = std::env::var_os("HEADWATER_DATA").map_or(beside, PathBuf::from);
    if found.is_dir() {
        return Some(found.canonicalize().expect("it is there"));
    }
    let why = format!("there is no real data at {}; HEADWATER_DATA names another place", found.display());
    let skips = std::env::var_os("HEADWATER_TEST_SKIPS").unwrap_or_else(|| panic!("{why}"));
    let mut skips = std::fs::OpenOptions::new().append(true).create(true).open(skips).expect("it can be written");
    let thread = std::thread::current();
    let line = format!("{}: {why}\n", thread.name().expect("libtest names a test's thread"));
    // One write: tests run side by side, and a line is a test.
    skips.write_all(line.as_bytes()).expect("it can be written");
    None
}

/// A command on a set's definitions.
fn command(name: &str, set: &str, data: &Path, store: &Path) -> std::process::Command {
    let mut command = headwater(name);
    command.arg("--dir").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real").join(set));
    command.arg("--data-dir").arg(store).arg("--set").arg(format!("DATA={}", data.join(set).display()));
    command
}

/// Replays and verifies a set, then compares each view with its expected values.
fn check(set: &str, views: &[&str]) {
    let Some(data) = data() else { return };
    let store = tempfile::tempdir().expect("a temporary directory");
    let run = |name: &str, args: &[&str]| Done::of(command(name, set, &data, store.path()).args(args)).expect(0, &[]);
    let replayed = run("replay", &["--clock", "event"]);
    assert!(replayed.out.contains("events="), "{}", replayed.out);
    let verified = run("verify", &["--all"]).expect(0, &["differing=0", "problems=0"]);
    for view in views {
        assert!(verified.out.contains(&format!("{view}: groups=")), "{}", verified.out);
        let out = store.path().join(format!("{view}.csv"));
        let labels = data.join("expected/probes").join(format!("{view}.csv"));
        run(
            "history",
            &[
                "--labels",
                labels.to_str().expect("plain"),
                "--features",
                &format!("{view}:*"),
                "--out",
                out.to_str().expect("plain"),
            ],
        );
        compare(view, &data.join("expected").join(format!("{view}.csv")), &out);
    }
}

#[test]
fn retail_is_what_was_expected() {
    check("retail", &["retail_customer", "retail_item", "retail_sub_region"]);
}

#[test]
fn flights_are_what_was_expected() {
    check("flights", &["flights_tail", "flights_origin", "flights_carrier_dest"]);
}

#[test]
fn recs_are_what_was_expected() {
    check("recs", &["recs_item", "recs_item_feature"]);
}

#[test]
fn taxi_is_what_was_expected() {
    check("taxi", &["taxi_pickup_zone", "taxi_dropoff_borough"]);
}

/// The question in the data's README: 28 pickups in that hour, of which 23 could be known at its end.
#[test]
fn late_trips_are_corrected_and_not_served() {
    let Some(data) = data() else { return };
    let store = tempfile::tempdir().expect("a temporary directory");
    let run =
        |name: &str, args: &[&str]| Done::of(command(name, "taxi", &data, store.path()).args(args)).expect(0, &[]);
    run("replay", &["--clock", "record"]);
    let labels = store.path().join("labels.csv");
    std::fs::write(&labels, "pu_location_id,as_of\n74,2024-01-12T18:00:00Z\n").expect("a file");
    for (mode, want) in [("served", "23"), ("corrected", "28")] {
        let out = store.path().join(format!("{mode}.csv"));
        let (labels, path) = (labels.to_str().expect("plain"), out.to_str().expect("plain"));
        let features = "taxi_pickup_zone:pickups_1h";
        run("history", &["--labels", labels, "--features", features, "--out", path, "--mode", mode]);
        let (columns, rows) = read(&out);
        let n = columns.iter().position(|c| c == "pickups_1h").expect("the feature");
        assert_eq!(rows[0][n].as_deref(), Some(want), "{mode}");
    }
}

type Rows = Vec<Vec<Option<String>>>;

/// Compares by `probe_id` every column that both files have; doubles to one part in 10^9, everything else as text.
#[track_caller]
fn compare(view: &str, expected: &Path, out: &Path) {
    let (columns, expected) = read(expected);
    let (out_columns, out) = read(out);
    let place = |columns: &[String], name: &str| columns.iter().position(|c| c == name);
    let bounds = place(&columns, "bounds").expect("expected values have bounds");
    let probe = place(&columns, "probe_id").expect("expected values have probes");
    let out_probe = place(&out_columns, "probe_id").expect("label columns are copied");
    let wanted: Vec<_> = expected.iter().filter(|r| r[bounds].as_deref() == Some(BOUNDS)).collect();
    assert_eq!((wanted.len(), out.len()), (200, 200), "{view}");
    let (mut problems, mut compared) = (vec![], 0);
    for (n, name) in columns.iter().enumerate().filter(|(n, _)| *n != bounds) {
        let Some(m) = place(&out_columns, name) else { continue };
        compared += 1;
        let double = is_double(expected.iter().filter_map(|r| r[n].as_deref()));
        for row in &wanted {
            let got =
                out.iter().find(|r| r[out_probe] == row[probe]).unwrap_or_else(|| panic!("{view}: a probe is lost"));
            if !same(row[n].as_deref(), got[m].as_deref(), double) {
                problems.push(format!("{view} probe {:?} {name}: expected {:?}, got {:?}", row[probe], row[n], got[m]));
            }
        }
    }
    let features = out_columns.iter().filter(|c| !matches!(c.as_str(), "probe_id" | "kind" | "as_of")).count();
    assert!(compared > 5 && features > 5, "{view}: only {compared} columns are in both files");
    assert!(problems.is_empty(), "{} problems\n{}", problems.len(), problems[..problems.len().min(20)].join("\n"));
}

fn same(expected: Option<&str>, got: Option<&str>, double: bool) -> bool {
    let parse = |t: Option<&str>| t.and_then(|t| t.parse::<f64>().ok());
    match (double, parse(expected), parse(got)) {
        (true, Some(e), Some(g)) => (e - g).abs() <= 1e-9 * e.abs().max(g.abs()),
        _ => expected == got,
    }
}

/// Numbers with a point that do not all have one scale; money has two or three places everywhere.
fn is_double<'a>(values: impl Iterator<Item = &'a str>) -> bool {
    let mut scales = std::collections::BTreeSet::new();
    for value in values {
        if value.parse::<f64>().is_err() {
            return false;
        }
        scales.insert(value.split_once('.').map_or(0, |(_, fraction)| fraction.len()));
    }
    let places: Vec<usize> = scales.into_iter().collect();
    !matches!(places[..], [] | [0] | [2] | [3])
}

/// Columns and rows of a CSV file; an unquoted empty field is null.
fn read(path: &Path) -> (Vec<String>, Rows) {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (mut rows, mut row, mut field, mut was_quoted, mut quoted) = (vec![], vec![], String::new(), false, false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' => (quoted, was_quoted) = (!quoted, true),
            ',' | '\n' if !quoted => {
                let value = std::mem::take(&mut field);
                row.push((was_quoted || !value.is_empty()).then_some(value));
                was_quoted = false;
                if c == '\n' {
                    rows.push(std::mem::take(&mut row));
                }
            }
            '\r' if !quoted => {}
            c => field.push(c),
        }
    }
    assert!(row.is_empty() && field.is_empty(), "{}: the last line has no end", path.display());
    let header = rows.remove(0).into_iter().map(|c| c.expect("columns have names")).collect();
    (header, rows)
}
