//! Joins from outside: what is written down here, the batch engine and the node must agree about, rows that fail included.

use std::collections::BTreeMap;

use headwater::key::EntityCodec;
use headwater::source::replay::ReplayClock;
use headwater::time::Ask;

use super::support::{Deployment, How, Loaded, at};

/// Half past ten: after all that happens in these histories.
const LATER: &str = "2024-01-01T10:30:00Z";

fn how(clock: ReplayClock, workers: usize, cut: usize, kills: usize) -> How {
    How { clock, workers, cut, kills, seed: 7 }
}

/// Takes the history in, verifies it, and gives each view's rows at an instant as corrected: `view key` and its values.
/// A view without rows is not verified.
#[track_caller]
fn answers(loaded: &Loaded, data: &std::path::Path, instant: &str) -> BTreeMap<String, String> {
    let opened = loaded.open(data);
    let last = opened.offline.timeline().expect("commits are readable").last();
    let mut answers = BTreeMap::new();
    for (view, planned) in loaded.plan.views.iter().enumerate() {
        let codec = EntityCodec::new(&planned.plan).expect("plain types");
        for group in opened.cache.groups(view).expect("pages are readable") {
            let answer = opened.offline.evaluate(view, &group, last, Ask(at(instant))).expect("the log is readable");
            let key: Vec<String> = codec.decode(&group).expect("plain types").iter().map(ToString::to_string).collect();
            let values: Vec<String> = answer.values.iter().map(ToString::to_string).collect();
            let name = format!("{} {}", planned.plan.name, key.join(","));
            if answer.status == headwater::fold::Status::Present {
                answers.insert(name, values.join(" "));
            }
        }
    }
    answers
}

/// The history taken in several ways: all are verified, have these rows, and refuse these records for a view.
#[track_caller]
fn check(deployment: &Deployment, want: &[(&str, &str)], refused: &[(&str, i64, &str)]) {
    let loaded = deployment.load();
    let ways = [(1, 1_000, 0), (3, 2, 0), (2, 3, 2)];
    for (n, (workers, cut, kills)) in ways.into_iter().enumerate() {
        let data = deployment.path(&format!("data{n}"));
        let how = how(ReplayClock::Record, workers, cut, kills);
        loaded.replay(&data, &how);
        loaded.verify(&data, 1, &format!("{how:?}"));
        let got = answers(&loaded, &data, LATER);
        let want: BTreeMap<String, String> = want.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        assert_eq!(got, want, "{how:?}");
        let got: Vec<_> = loaded.open(&data).refused().into_iter().filter(|r| r.2.is_some()).collect();
        let got: Vec<(&str, i64, &str)> =
            got.iter().map(|r| (r.0.as_str(), r.1, r.2.as_deref().unwrap_or_default())).collect();
        assert_eq!(got, refused, "{how:?}");
    }
}

const SALES: &str = "
CREATE STREAM s (sku TEXT, code TEXT, n BIGINT, x DOUBLE, ts TIMESTAMP NOT NULL) EVENT TIME ts
  FROM FILE (path = 's.jsonl', format = 'jsonl');
CREATE TABLE t (id BIGINT, name TEXT, p BIGINT, PRIMARY KEY (id)) FROM FILE (path = 't.csv', format = 'csv');";

/// Six sales of ten o'clock and after; one code is no number, one is null, one names nothing.
const SOLD: &str = r#"{"sku":"a","code":"1","n":1,"x":0.0,"ts":"2024-01-01T10:00:00Z"}
{"sku":"a","code":"2","n":2,"x":-0.0,"ts":"2024-01-01T10:00:01Z"}
{"sku":"a","code":"x","n":3,"x":1.5,"ts":"2024-01-01T10:00:02Z"}
{"sku":"b","code":"2","n":4,"x":"NaN","ts":"2024-01-01T10:00:03Z"}
{"sku":"b","code":"9","n":5,"x":2.5,"ts":"2024-01-01T10:00:04Z"}
{"sku":"b","code":null,"n":6,"x":null,"ts":"2024-01-01T10:00:05Z"}
"#;

const NAMES: &str = "id,name,p\n1,one,0\n2,two,2\n3,three,3\n";

fn sales(views: &str) -> Deployment {
    Deployment::new(&[("a.sql", SALES), ("b.sql", views), ("./s.jsonl", SOLD), ("./t.csv", NAMES)])
}

#[test]
fn a_join_of_which_no_table_column_is_read() {
    let views = "
CREATE FEATURE VIEW inner_join AS SELECT s.sku, count(*) AS n FROM s JOIN t ON t.id = s.n GROUP BY s.sku;
CREATE FEATURE VIEW left_join AS SELECT s.sku, count(*) AS n FROM s LEFT JOIN t ON t.id = s.n GROUP BY s.sku;
CREATE FEATURE VIEW twice AS SELECT s.sku, count(*) AS n, max(b.name) AS name
  FROM s JOIN t AS a ON a.id = s.n LEFT JOIN t AS b ON b.p = s.n GROUP BY s.sku;";
    let want = [("inner_join a", "3"), ("left_join a", "3"), ("left_join b", "3"), ("twice a", "3 two")];
    check(&sales(views), &want, &[]);
}

/// Rule 22: the row whose key fails is refused for this view, in either kind of join; the others count.
#[test]
fn a_row_whose_key_fails_is_refused() {
    let views = "
CREATE FEATURE VIEW inner_join AS
  SELECT s.sku, count(*) AS n, max(t.name) AS name FROM s JOIN t ON CAST(s.code AS BIGINT) = t.id GROUP BY s.sku;
CREATE FEATURE VIEW left_join AS
  SELECT s.sku, count(*) AS n, max(t.name) AS name FROM s LEFT JOIN t ON CAST(s.code AS BIGINT) = t.id GROUP BY s.sku;
CREATE FEATURE VIEW no_join AS SELECT sku, count(*) AS n FROM s GROUP BY sku;";
    let want = [
        ("inner_join a", "2 two"),
        ("inner_join b", "1 two"),
        ("left_join a", "2 two"),
        ("left_join b", "3 two"),
        ("no_join a", "3"),
        ("no_join b", "3"),
    ];
    check(&sales(views), &want, &[("s", 2, "inner_join"), ("s", 2, "left_join")]);
}

/// A row of the table on which its own key or its condition in ON fails is refused for this view, and joins nothing.
#[test]
fn a_row_of_the_table_that_fails_is_refused() {
    let views = "
CREATE FEATURE VIEW by_condition AS
  SELECT s.sku, count(*) AS n, max(t.name) AS name FROM s LEFT JOIN t ON t.id = s.n AND 6 / t.p > 2 GROUP BY s.sku;
CREATE FEATURE VIEW by_key AS
  SELECT s.sku, count(*) AS n, max(t.name) AS name FROM s LEFT JOIN t ON 6 / t.p = s.n GROUP BY s.sku;";
    // 6 / 2 = 3 passes the condition, 6 / 3 = 2 does not; the keys are 3 and 2.
    let want =
        [("by_condition a", "3 two"), ("by_condition b", "3 NULL"), ("by_key a", "3 two"), ("by_key b", "3 NULL")];
    check(&sales(views), &want, &[("t", 0, "by_condition"), ("t", 0, "by_key")]);
}

/// A condition of both sides is one on the joined row: where it fails, that row is refused.
#[test]
fn a_condition_of_both_sides_that_fails_refuses_the_joined_row() {
    let views = "
CREATE FEATURE VIEW by_sku AS
  SELECT s.sku, count(*) AS n, min(t.name) AS name FROM s JOIN t ON t.id = s.n AND s.n / t.p >= 1 GROUP BY s.sku;
CREATE FEATURE VIEW guarded AS SELECT s.sku, count(*) AS n FROM s
  JOIN t ON t.id = s.n AND CASE WHEN t.p = 0 THEN false ELSE s.n / t.p >= 1 END GROUP BY s.sku;";
    check(&sales(views), &[("by_sku a", "2 three"), ("guarded a", "2")], &[("s", 0, "by_sku")]);
}

/// What a left join says of the table in ON decides what is joined, not which rows there are.
#[test]
fn a_condition_on_the_table_in_on_leaves_the_row() {
    let views = "
CREATE FEATURE VIEW by_sku AS SELECT s.sku, count(*) AS n, count(t.id) AS joined, max(t.name) AS name
  FROM s LEFT JOIN t ON t.id = s.n AND t.p > 2 GROUP BY s.sku;";
    check(&sales(views), &[("by_sku a", "3 1 three"), ("by_sku b", "3 0 NULL")], &[]);
}

/// A row on which what is aggregated fails is refused by the joined view too, once.
#[test]
fn a_joined_row_that_fails_is_refused_once() {
    let views = "
CREATE FEATURE VIEW shares AS SELECT s.sku, sum(s.n / t.p) AS shares, count(*) AS good
  FROM s JOIN t ON t.id = s.n GROUP BY s.sku;";
    check(&sales(views), &[("shares a", "2 2")], &[("s", 0, "shares")]);
}

/// Keys are equal where `=` says so: −0 is 0, and NaN is NaN; of a primary key, too.
#[test]
fn doubles_are_joined_as_they_compare() {
    let sources = "
CREATE TABLE d (k DOUBLE, name TEXT, PRIMARY KEY (k)) FROM FILE (path = 'd.jsonl', format = 'jsonl');";
    let views = "
CREATE FEATURE VIEW names AS SELECT d.name, count(*) AS n FROM s JOIN d ON d.k = s.x GROUP BY d.name;
CREATE FEATURE VIEW computed AS SELECT d.name, count(*) AS n FROM s JOIN d ON d.k = s.x * -1.0 GROUP BY d.name;";
    let table = "{\"k\":-0.0,\"name\":\"first\"}\n{\"k\":0.0,\"name\":\"zero\"}\n{\"k\":\"NaN\",\"name\":\"nan\"}\n";
    let files = [
        ("a.sql", SALES),
        ("b.sql", views),
        ("c.sql", sources),
        ("./s.jsonl", SOLD),
        ("./t.csv", NAMES),
        ("./d.jsonl", table),
    ];
    let want = [("computed nan", "1"), ("computed zero", "2"), ("names nan", "1"), ("names zero", "2")];
    check(&Deployment::new(&files), &want, &[]);
}

/// Rule 15: versions in the order of event time, whatever the order in which they came; late rows of either side.
#[test]
fn a_row_counts_with_the_version_of_each_instant() {
    let sources = "
CREATE STREAM e (k BIGINT, ts TIMESTAMP NOT NULL, arrived TIMESTAMP NOT NULL) EVENT TIME ts ARRIVAL TIME arrived
  FROM FILE (path = 'e.jsonl', format = 'jsonl');
CREATE TABLE v (k BIGINT, name TEXT, since TIMESTAMP NOT NULL, arrived TIMESTAMP NOT NULL, PRIMARY KEY (k))
  EVENT TIME since ARRIVAL TIME arrived FROM FILE (path = 'v.jsonl', format = 'jsonl');";
    let views = "
CREATE FEATURE VIEW unbounded AS SELECT v.name, count(*) AS n FROM e JOIN v ON v.k = e.k GROUP BY v.name;
CREATE FEATURE VIEW bounded AS SELECT v.name, count(*) AS n, max(e.ts) AS newest FROM e LEFT JOIN v ON v.k = e.k
  WHERE e.ts > now() - INTERVAL '10 minutes' GROUP BY v.name;";
    let event = |ts: &str, arrived: &str| {
        format!("{{\"k\":1,\"ts\":\"2024-01-01T10:{ts}Z\",\"arrived\":\"2024-01-01T10:{arrived}Z\"}}\n")
    };
    let version = |name: &str, since: &str, arrived: &str| {
        let since = format!("\"2024-01-01T10:{since}Z\",\"arrived\":\"2024-01-01T10:{arrived}Z\"");
        format!("{{\"k\":1,\"name\":\"{name}\",\"since\":{since}}}\n")
    };
    // The event of 02:00 comes last; the version of 05:00 comes after that of 20:00.
    let events = [event("01:00", "01:00"), event("12:00", "12:00"), event("02:00", "29:00")].concat();
    let versions =
        [version("old", "00:30", "00:30"), version("new", "20:00", "21:00"), version("mid", "05:00", "28:00")];
    let files = [("a.sql", sources), ("b.sql", views), ("./e.jsonl", &events), ("./v.jsonl", &versions.concat())];
    let deployment = Deployment::new(&files);
    let loaded = deployment.load();
    let data = deployment.path("data");
    loaded.replay(&data, &how(ReplayClock::Record, 2, 1, 0));
    loaded.verify(&data, 3, "late versions");
    let check = |instant: &str, want: &[(&str, &str)]| {
        let want: BTreeMap<String, String> = want.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let values = answers(&loaded, &data, &format!("2024-01-01T10:{instant}Z"));
        let counts: BTreeMap<String, String> =
            values.into_iter().map(|(k, v)| (k, v.split(' ').next().unwrap_or_default().to_string())).collect();
        assert_eq!(counts, want, "at {instant}");
    };
    check("00:59", &[]);
    check("01:00", &[("bounded old", "1"), ("unbounded old", "1")]);
    check("04:59", &[("bounded old", "2"), ("unbounded old", "2")]);
    check("05:00", &[("bounded mid", "2"), ("unbounded mid", "2")]);
    check("10:59", &[("bounded mid", "2"), ("unbounded mid", "2")]);
    check("11:00", &[("bounded mid", "1"), ("unbounded mid", "2")]);
    check("12:00", &[("bounded mid", "1"), ("unbounded mid", "3")]);
    check("20:00", &[("bounded new", "1"), ("unbounded new", "3")]);
    check("22:00", &[("unbounded new", "3")]);
}

/// Rule 18: a null in a group key forms a group, in a joined view as in one over a stream.
#[test]
fn nulls_form_a_group() {
    let views = "
CREATE FEATURE VIEW joined AS SELECT t.name, count(*) AS n FROM s LEFT JOIN t ON t.id = s.n GROUP BY t.name;
CREATE FEATURE VIEW plain AS SELECT code, count(*) AS n FROM s GROUP BY code;";
    let want = [
        ("joined NULL", "3"),
        ("joined one", "1"),
        ("joined three", "1"),
        ("joined two", "1"),
        ("plain 1", "1"),
        ("plain 2", "2"),
        ("plain 9", "1"),
        ("plain NULL", "1"),
        ("plain x", "1"),
    ];
    check(&sales(views), &want, &[]);
}
