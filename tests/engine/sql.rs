//! What a query means: answers worked out by hand where readings of SQL differ, each recomputed by the batch engine too;
//! and what is refused, at the word itself.

use super::support::{Deployment, How};
use headwater::source::replay::ReplayClock;

const EVENTS: &str = "CREATE STREAM events (
  u BIGINT, i BIGINT, n INT, x DOUBLE, d DECIMAL(12, 2), s TEXT, l DOUBLE[], ns BIGINT[], yes BOOLEAN,
  day DATE, other TIMESTAMP, ts TIMESTAMP NOT NULL
) EVENT TIME ts FROM FILE (path = 'events.jsonl', format = 'jsonl');
CREATE TABLE names (u BIGINT PRIMARY KEY, day DATE, ms BIGINT) FROM FILE (path = 'names.csv', format = 'csv');\n";

const NAMES: &str = "u,day,ms\n1,2024-01-01,1704067200123\n";

/// A deployment of these views over these rows, taken in.
fn taken_in(views: &str, rows: &[&str]) -> Deployment {
    let deployment = Deployment::new(&[
        ("a.sql", EVENTS),
        ("b.sql", views),
        ("./events.jsonl", &format!("{}\n", rows.join("\n"))),
        ("./names.csv", NAMES),
    ]);
    let loaded = deployment.load();
    let how = How { clock: ReplayClock::Record, workers: 2, cut: 1, kills: 0, seed: 1 };
    loaded.replay(&deployment.path("data"), &how);
    loaded.verify(&deployment.path("data"), 7, views);
    deployment
}

/// `get` says these words about a key at an instant.
#[track_caller]
fn says(deployment: &Deployment, view: &str, key: &str, as_of: &str, words: &[&str]) {
    deployment.run("get", "data", &[view, key, "--as-of", as_of]).expect(0, words);
}

/// Rule 14, and findings J1: 48 hours are more than a day, in rows and above aggregates.
#[test]
fn lengths_of_time_are_compared_by_their_length() {
    let views = "CREATE FEATURE VIEW v AS SELECT u,
      count(*) FILTER (WHERE ts - other > INTERVAL '1 day') AS over_a_day,
      count(*) FILTER (WHERE ts - other BETWEEN INTERVAL '1 day' AND INTERVAL '3 days') AS some_days,
      count(*) FILTER (WHERE ts - other IN (INTERVAL '48 hours', INTERVAL '1 week')) AS two_days,
      count(*) FILTER (WHERE ts - other < INTERVAL '7 days') AS within_a_week,
      max(date_part('epoch', ts - other)) AS longest,
      now() - max(ts) > INTERVAL '1 day' AS old,
      now() - max(ts) BETWEEN INTERVAL '1 day' AND INTERVAL '3 days' AS oldish,
      CASE now() - max(ts) WHEN INTERVAL '2 days' THEN 'two' ELSE 'other' END AS days
    FROM events GROUP BY u;";
    let rows = [
        r#"{"u":1,"ts":"2024-01-10T00:00:00Z","other":"2024-01-08T00:00:00Z"}"#,
        r#"{"u":1,"ts":"2024-01-10T00:00:00Z","other":"2024-01-09T12:00:00Z"}"#,
        r#"{"u":1,"ts":"2024-01-10T00:00:00Z","other":"2023-12-01T00:00:00Z"}"#,
    ];
    let deployment = taken_in(views, &rows);
    let counts =
        [r#""over_a_day":2"#, r#""some_days":1"#, r#""two_days":1"#, r#""within_a_week":2"#, r#""longest":3456000.0"#];
    let late = [&counts[..], &[r#""old":true"#, r#""oldish":true"#, r#""days":"two""#]].concat();
    says(&deployment, "v", "1", "2024-01-12T00:00:00Z", &late);
    let early = [&counts[..], &[r#""old":false"#, r#""oldish":false"#, r#""days":"other""#]].concat();
    says(&deployment, "v", "1", "2024-01-10T23:00:00Z", &early);
}

/// A group on which HAVING does not hold has no row: it is absent, and its features are those of no rows. It is judged at
/// the ask, so time alone lets a row come and go.
#[test]
fn having_decides_who_has_a_row() {
    let views = "CREATE FEATURE VIEW v AS SELECT u, count(*) AS rows, sum(n) AS sum, max(s) AS s, coalesce(max(i), -1) AS i
    FROM events WHERE ts > now() - INTERVAL '3 hours' GROUP BY u
    HAVING count(*) FILTER (WHERE ts > now() - INTERVAL '1 hour') >= 2 AND 10 / sum(n) > 0;
    CREATE FEATURE VIEW alias AS SELECT u, sum(n) AS total FROM events GROUP BY u HAVING total > 2 AND now() - max(ts) < INTERVAL '30 minutes';";
    let rows = [
        r#"{"u":1,"n":2,"i":7,"s":"a","ts":"2024-01-10T00:00:00Z"}"#,
        r#"{"u":1,"n":3,"i":8,"s":"b","ts":"2024-01-10T00:30:00Z"}"#,
        r#"{"u":2,"n":0,"i":9,"s":"c","ts":"2024-01-10T00:10:00Z"}"#,
        r#"{"u":2,"n":0,"i":9,"s":"c","ts":"2024-01-10T00:20:00Z"}"#,
    ];
    let deployment = taken_in(views, &rows);
    let nothing = [r#""status":"absent""#, r#""rows":0"#, r#""sum":null"#, r#""s":null"#, r#""i":-1"#];
    let of_one = |at: &str, words: &[&str]| says(&deployment, "v", "1", at, words);
    of_one("2024-01-10T00:29:59Z", &[&nothing[..], &[r#""event_time":"2024-01-10T00:00:00.000000Z""#]].concat());
    let both = [r#""status":"present""#, r#""rows":2"#, r#""sum":5"#, r#""s":"b""#, r#""i":8"#];
    of_one("2024-01-10T00:59:59Z", &both);
    // The first has left the hour, and is still a row of WHERE.
    of_one("2024-01-10T01:00:00Z", &[&nothing[..], &[r#""event_time":"2024-01-10T00:30:00.000000Z""#]].concat());
    of_one("2024-01-10T03:30:00Z", &[r#""status":"expired""#, r#""rows":0"#]);
    // A condition that fails does not hold.
    says(&deployment, "v", "2", "2024-01-10T00:30:00Z", &nothing);
    says(&deployment, "v", "3", "2024-01-10T00:30:00Z", &nothing);
    // Another name of an aggregate means the aggregate.
    says(&deployment, "alias", "1", "2024-01-10T00:45:00Z", &[r#""status":"present""#, r#""total":5"#]);
    says(&deployment, "alias", "1", "2024-01-10T01:00:00Z", &[r#""status":"absent""#, r#""total":null"#]);
    // What is asked for alone does not decide who has a row.
    let labels =
        "u,as_of\n1,2024-01-10T00:29:59Z\n1,2024-01-10T00:59:59Z\n1,2024-01-10T01:00:00Z\n2,2024-01-10T00:30:00Z\n";
    deployment.write("./labels.csv", labels);
    let (labels, out) = (deployment.path("labels.csv"), deployment.path("out.csv"));
    let (labels, text) = (labels.to_string_lossy(), out.to_string_lossy());
    let arguments = ["--labels", &labels, "--features", "v:sum,v:i,alias:total", "--out", &text];
    deployment.run("history", "data", &arguments).expect(0, &[]);
    let want = [
        "u,as_of,sum,i,total",
        "1,2024-01-10T00:29:59Z,,-1,",
        "1,2024-01-10T00:59:59Z,5,8,5",
        "1,2024-01-10T01:00:00Z,,-1,",
        "2,2024-01-10T00:30:00Z,,-1,",
    ];
    let got = std::fs::read_to_string(&out).expect("it was written");
    assert_eq!(got.lines().collect::<Vec<_>>(), want);
}

/// J5, D8: −0 is 0 and there is one NaN: decoded, computed, in lists and structs.
#[test]
fn there_is_one_zero_and_one_nan() {
    let views = "CREATE FEATURE VIEW v AS SELECT u,
      count(*) FILTER (WHERE x = 0.0) AS equal,
      count(*) FILTER (WHERE CASE x WHEN 0.0 THEN true ELSE false END) AS in_case,
      count(*) FILTER (WHERE nullif(x, 0.0) IS NULL) AS no_divisor,
      count(*) FILTER (WHERE CASE x * -1 WHEN 0.0 THEN true ELSE false END) AS product,
      count(*) FILTER (WHERE -x = 0.0 AND NOT -x < 0.0) AS negated,
      count(*) FILTER (WHERE x / x > 1.0) AS nans,
      count(DISTINCT x) AS values, count(DISTINCT x * -1) AS products, count(DISTINCT x / x) AS ratios,
      count(DISTINCT struct(x, s)) AS structs, count(DISTINCT struct(-x, s)) AS negated_structs, count(DISTINCT l) AS lists,
      first_value(s ORDER BY x, i) AS first_s, first_value(s ORDER BY -x, i) AS first_negated,
      nullif(min(x), 0.0) IS NULL AS least_is_zero, CASE -min(x) WHEN 0.0 THEN 1 ELSE 0 END AS opposite_of_least
    FROM events GROUP BY u;
    CREATE FEATURE VIEW by_x AS SELECT x, count(*) AS rows FROM events GROUP BY x;
    CREATE FEATURE VIEW by_product AS SELECT x * -1 AS product, count(*) AS rows FROM events GROUP BY x * -1;";
    let rows = [
        r#"{"u":1,"i":1,"s":"a","x":0.0,"l":[0.0,"NaN"],"ts":"2024-01-10T00:00:00Z"}"#,
        r#"{"u":1,"i":0,"s":"a","x":-0.0,"l":[-0.0,"NaN"],"ts":"2024-01-10T00:00:00Z"}"#,
        r#"{"u":1,"i":2,"s":"a","x":-1e-400,"l":[-0,"NaN"],"ts":"2024-01-10T00:00:00Z"}"#,
    ];
    let deployment = taken_in(views, &rows);
    let all = [
        r#""equal":3"#,
        r#""in_case":3"#,
        r#""no_divisor":3"#,
        r#""product":3"#,
        r#""negated":3"#,
        r#""nans":3"#,
        r#""values":1"#,
        r#""products":1"#,
        r#""ratios":1"#,
        r#""structs":1"#,
        r#""negated_structs":1"#,
        r#""lists":1"#,
        r#""least_is_zero":true"#,
        r#""opposite_of_least":1"#,
    ];
    says(&deployment, "v", "1", "2024-01-12T00:00:00Z", &all);
    says(&deployment, "by_x", "0", "2024-01-12T00:00:00Z", &[r#""rows":3"#]);
    says(&deployment, "by_product", "0", "2024-01-12T00:00:00Z", &[r#""rows":3"#]);
}

/// D4: times in other units are kept, sealed and asked for in microseconds, also through a join.
#[test]
fn times_in_other_units_are_microseconds() {
    let views = "CREATE FEATURE VIEW v AS SELECT u,
      max(to_timestamp_millis(i)) AS newest, last_value(to_timestamp_seconds(n) ORDER BY ts) AS last_n,
      max(CAST(day AS TIMESTAMP)) AS last_day, first_value(s ORDER BY to_timestamp_millis(i) DESC) AS newest_s,
      count(DISTINCT to_timestamp_millis(i)) AS times, now() - max(to_timestamp_millis(i)) < INTERVAL '1 day' AS fresh,
      date_trunc('hour', max(to_timestamp_millis(i))) AS hour
    FROM events GROUP BY u;
    CREATE FEATURE VIEW by_day AS SELECT CAST(day AS TIMESTAMP) AS day, count(*) AS rows FROM events GROUP BY CAST(day AS TIMESTAMP);
    CREATE FEATURE VIEW joined AS SELECT e.u, max(to_timestamp_millis(t.ms)) AS newest, max(CAST(t.day AS TIMESTAMP)) AS last_day
    FROM events AS e JOIN names AS t ON t.u = e.u GROUP BY e.u;";
    let rows = [
        r#"{"u":1,"i":1704888000123,"n":1704888000,"s":"a","day":"2024-01-10","ts":"2024-01-10T12:00:00Z"}"#,
        r#"{"u":1,"i":1704888000122,"n":1704888001,"s":"b","day":"2024-01-09","ts":"2024-01-10T12:00:01Z"}"#,
    ];
    let deployment = taken_in(views, &rows);
    let all = [
        r#""newest":"2024-01-10T12:00:00.123000Z""#,
        r#""last_n":"2024-01-10T12:00:01.000000Z""#,
        r#""last_day":"2024-01-10T00:00:00.000000Z""#,
        r#""newest_s":"a""#,
        r#""times":2"#,
        r#""fresh":true"#,
        r#""hour":"2024-01-10T12:00:00.000000Z""#,
    ];
    says(&deployment, "v", "1", "2024-01-11T00:00:00Z", &all);
    says(&deployment, "by_day", "2024-01-10T00:00:00Z", "2024-01-11T00:00:00Z", &[r#""rows":1"#]);
    let joined = [r#""newest":"2024-01-01T00:00:00.123000Z""#, r#""last_day":"2024-01-01T00:00:00.000000Z""#];
    says(&deployment, "joined", "1", "2024-01-11T00:00:00Z", &joined);
}

/// D6: doubles about `now()` are compared as they are written; moving a term to the other side would round elsewhere.
#[test]
fn comparisons_of_doubles_are_not_rewritten() {
    let views = "CREATE FEATURE VIEW v AS SELECT u,
      (date_part('epoch', now()) * 0.0 + 0.5) - max(x) < 0.4 AS below,
      (date_part('epoch', now()) * 0.0 + 0.5) - max(x) AS difference
    FROM events GROUP BY u;";
    let deployment = taken_in(views, &[r#"{"u":1,"x":0.1,"ts":"2024-01-10T00:00:00Z"}"#]);
    says(&deployment, "v", "1", "2024-01-11T00:00:00Z", &[r#""below":false"#, r#""difference":0.4"#]);
}

/// D7, rule 22: what does not fit sends the row to the quarantine, for that view alone.
#[test]
fn negation_does_not_wrap_around() {
    let views = "CREATE FEATURE VIEW opposites AS SELECT u, max(-i) AS i, count(*) AS rows FROM events GROUP BY u;
    CREATE FEATURE VIEW sizes AS SELECT u, max(abs(n)) AS n, count(*) AS rows FROM events GROUP BY u;
    CREATE FEATURE VIEW filtered AS SELECT u, count(*) AS rows FROM events WHERE -i < 0 GROUP BY u;
    CREATE FEATURE VIEW counts AS SELECT u, count(*) AS rows, -min(i) AS above FROM events GROUP BY u;";
    let rows = [
        r#"{"u":1,"i":-9223372036854775808,"n":-2147483648,"ts":"2024-01-10T00:00:00Z"}"#,
        r#"{"u":1,"i":5,"n":-7,"ts":"2024-01-10T00:00:00Z"}"#,
    ];
    let deployment = taken_in(views, &rows);
    says(&deployment, "opposites", "1", "2024-01-11T00:00:00Z", &[r#""i":-5"#, r#""rows":1"#]);
    says(&deployment, "sizes", "1", "2024-01-11T00:00:00Z", &[r#""n":7"#, r#""rows":1"#]);
    says(&deployment, "filtered", "1", "2024-01-11T00:00:00Z", &[r#""rows":1"#]);
    // Above the aggregates it is the feature that has no value.
    says(&deployment, "counts", "1", "2024-01-11T00:00:00Z", &[r#""rows":2"#, r#""above":null"#]);
    let refused = deployment.load().open(&deployment.path("data")).refused();
    let views: Vec<_> = refused.iter().map(|r| (r.1, r.2.as_deref().expect("a view's refusal"))).collect();
    assert_eq!(views, [(0, "filtered"), (0, "opposites"), (0, "sizes")]);
}

/// What the proof once read otherwise than the engine, or not at all.
#[test]
fn the_proof_reads_what_the_engine_reads() {
    let views = "CREATE FEATURE VIEW sums AS SELECT u, max(list_sum(ns)) AS most, count(*) AS rows FROM events GROUP BY u;
    CREATE FEATURE VIEW distinct_conditions AS SELECT u, bool_and(DISTINCT yes) AS every, bool_or(DISTINCT yes) AS any FROM events GROUP BY u;
    CREATE FEATURE VIEW rounded AS SELECT round(d) AS whole, max(round(d)) AS most, sum(round(d)) AS sum FROM events GROUP BY round(d);
    CREATE FEATURE VIEW named AS SELECT s AS as_of, count(*) AS rows FROM events GROUP BY s;
    CREATE FEATURE VIEW wide AS SELECT u, max(lpad(s, i, '0')) AS padded, max(repeat(s, i)) AS often, count(*) AS rows FROM events GROUP BY u;";
    let rows = [
        r#"{"u":1,"i":3,"ns":[9223372036854775807,1],"yes":true,"d":"1.50","s":"a","ts":"2024-01-10T00:00:00Z"}"#,
        r#"{"u":1,"i":9223372036854775807,"ns":[4,1],"yes":false,"d":"2.49","s":"b","ts":"2024-01-10T00:00:00Z"}"#,
    ];
    let deployment = taken_in(views, &rows);
    says(&deployment, "sums", "1", "2024-01-11T00:00:00Z", &[r#""most":5"#, r#""rows":1"#]);
    says(&deployment, "distinct_conditions", "1", "2024-01-11T00:00:00Z", &[r#""every":false"#, r#""any":true"#]);
    says(&deployment, "rounded", "2", "2024-01-11T00:00:00Z", &[r#""sum":"4""#]);
    says(&deployment, "named", "a", "2024-01-11T00:00:00Z", &[r#""rows":1"#]);
    says(&deployment, "wide", "1", "2024-01-11T00:00:00Z", &[r#""padded":"00a""#, r#""often":"aaa""#, r#""rows":1"#]);
}

/// A time that is not of the calendar is moved and cut by neither engine: its row is refused, for the views that do.
#[test]
fn times_beyond_the_calendar_are_read_alike() {
    let views = "CREATE FEATURE VIEW binned AS SELECT u, max(date_bin(INTERVAL '7 days', ts, to_timestamp_micros(i))) AS most, count(*) AS rows FROM events GROUP BY u;
    CREATE FEATURE VIEW earlier AS SELECT u, max(to_timestamp_micros(i) - INTERVAL '1 day') AS most, count(*) AS rows FROM events GROUP BY u;
    CREATE FEATURE VIEW later AS SELECT u, max(INTERVAL '1 day' + to_timestamp_micros(i)) AS most, count(*) AS rows FROM events GROUP BY u;
    CREATE FEATURE VIEW apart AS SELECT u, max(ts - (ts - to_timestamp_micros(i))) AS most, count(*) AS rows FROM events GROUP BY u;
    CREATE FEATURE VIEW filtered AS SELECT u, count(*) FILTER (WHERE to_timestamp_micros(i) - INTERVAL '1 day' > ts) AS ahead, count(*) AS rows FROM events GROUP BY u;
    CREATE FEATURE VIEW above AS SELECT u, max(to_timestamp_micros(i)) - INTERVAL '1 day' AS before, count(*) AS rows FROM events GROUP BY u;
    CREATE FEATURE VIEW reversed AS SELECT u, last_value(i ORDER BY ts - INTERVAL '1 day') AS last, count(*) AS rows FROM events GROUP BY u;";
    let row = |i: i64| format!(r#"{{"u":1,"i":{i},"ts":"2024-01-10T00:00:00Z"}}"#);
    // The last instant of the calendar but a second, the first beyond it, and the ends of the number.
    let rows = [8_210_266_876_799_000_000, 8_210_266_876_800_000_000, i64::MAX, i64::MIN, 5].map(row);
    let deployment = taken_in(views, &rows.each_ref().map(String::as_str));
    let check = |view: &str, words: &[&str]| says(&deployment, view, "1", "2024-01-11T00:00:00Z", words);
    check("binned", &[r#""most":"2024-01-08T23:59:59.000000Z""#, r#""rows":2"#]);
    check("earlier", &[r#""most":"+262142-12-30T23:59:59.000000Z""#, r#""rows":2"#]);
    check("later", &[r#""most":"1970-01-02T00:00:00.000005Z""#, r#""rows":1"#]);
    check("apart", &[r#""most":"+262142-12-31T23:59:59.000000Z""#, r#""rows":2"#]);
    check("filtered", &[r#""ahead":1"#, r#""rows":2"#]);
    check("above", &[r#""before":null"#, r#""rows":5"#]);
    check("reversed", &[r#""last":5"#, r#""rows":5"#]);
}

/// What would fail on every row, or mean another thing than it says, is refused where it stands.
#[test]
fn what_never_works_is_refused_at_its_word() {
    let refused = |select: &str, words: &[&str]| {
        let view = format!("CREATE FEATURE VIEW v AS {select};");
        Deployment::new(&[("a.sql", EVENTS), ("b.sql", &view), ("./names.csv", NAMES)])
            .run("check", "data", &[])
            .expect(2, words);
    };
    let of = |what: &str, words: &[&str]| refused(&format!("SELECT u, {what} AS f FROM events GROUP BY u"), words);
    of("count(*) FILTER (WHERE i > 9223372036854775807 + 1)", &["this fails on every row", "b.sql:1:63"]);
    of("max(CAST(2147483647 AS INT) + CAST(1 AS INT))", &["this fails on every row"]);
    of("count(*) FILTER (WHERE regexp_like(s, 'a', 'g'))", &["this fails on every row"]);
    of("max(regexp_replace(s, '(', 'a'))", &["this fails on every row: regex parse error: unclosed group"]);
    of("max(lpad('x', 9999999999))", &["lpad would give more than"]);
    of("max(trim(s, 'a', 'b'))", &["trim takes one text of characters"]);
    of("count(*) FILTER (WHERE array_has(ns, s))", &["array_has looks for TEXT in BIGINT[]"]);
    of("max(round(d, 1))", &["AS DECIMAL(p, s)), which rounds"]);
    of("last_value(named_struct('a', i, 'a', x))", &["two fields of the struct are called 'a'"]);
    refused(
        "SELECT u, count(*) AS n FROM events WHERE i + 1 GROUP BY u",
        &["`i + 1` is not a condition", "b.sql:1:68"],
    );
    let having = |what: &str, words: &[&str]| {
        refused(&format!("SELECT u, count(*) AS n FROM events WHERE yes GROUP BY u HAVING {what}"), words);
    };
    having("sum(i)", &["`sum(i)` is not a condition", "b.sql:1:90", "compare it with something"]);
    having("i > 3", &["must appear in GROUP BY", "b.sql:1:90"]);
    having("1 / 0 > 1", &["this fails on every row: divide by zero", "b.sql:1:90"]);
    having("random() > 0.5", &["random() is not supported", "b.sql:1:90"]);
    let join = "SELECT e.u, count(*) AS n FROM events AS e JOIN names AS t ON CASE WHEN now() > e.ts THEN e.u ELSE 0 END = t.u GROUP BY e.u";
    refused(join, &["now() may not stand in the equality of a join"]);
    let alone =
        "SELECT e.u, count(*) AS n FROM events AS e JOIN names AS t ON date_part('epoch', now()) = t.u GROUP BY e.u";
    refused(alone, &["now() may not stand in the equality of a join", "b.sql:1:"]);
    let left = "SELECT e.u, count(*) AS n FROM events AS e LEFT JOIN names AS t ON t.u = e.u AND e.i > 5 GROUP BY e.u";
    refused(left, &["this condition of a LEFT JOIN", "b.sql:1:"]);
}

/// D9: `=` sees the event time rounded down, as the other comparisons do; rule 14: without a grid it is exact.
#[test]
fn equality_with_now_sees_the_grid() {
    let select = "SELECT u, count(*) FILTER (WHERE ts = now()) AS now, count(*) FILTER (WHERE now() - ts = INTERVAL '1 hour') AS hour,
      count(*) FILTER (WHERE NOT (now() - ts >= INTERVAL '1 hour')) AS younger, count(*) FILTER (WHERE ts > now() - INTERVAL '1 hour') AS last_hour,
      count(*) AS rows
    FROM events GROUP BY u;";
    let views = format!(
        "CREATE FEATURE VIEW rounded WITH (resolution = '10 minutes') AS {select} CREATE FEATURE VIEW exact AS {select}"
    );
    let rows = [r#"{"u":1,"ts":"2024-01-10T00:05:00.000001Z"}"#, r#"{"u":1,"ts":"2024-01-10T00:00:00Z"}"#];
    let deployment = taken_in(&views, &rows);
    let check = |view: &str, as_of: &str, want: [u32; 4]| {
        let [now, hour, younger, last_hour] = want;
        let words = format!(r#""now":{now},"hour":{hour},"younger":{younger},"last_hour":{last_hour}"#);
        says(&deployment, view, "1", as_of, &[&words]);
    };
    check("rounded", "2024-01-10T01:00:00Z", [0, 2, 0, 0]);
    check("exact", "2024-01-10T01:00:00Z", [0, 1, 1, 1]);
    check("exact", "2024-01-10T01:05:00Z", [0, 0, 1, 1]);
    check("exact", "2024-01-10T01:05:00.000001Z", [0, 1, 0, 0]);
    check("exact", "2024-01-10T00:05:00.000001Z", [1, 0, 2, 2]);
    check("exact", "2024-01-10T00:05:00Z", [0, 0, 1, 1]);
}

/// Rule 22, for errors of any kind: a pattern that is none is an error of another crate than DataFusion.
#[test]
fn a_pattern_that_is_none_refuses_its_row() {
    let views = "CREATE FEATURE VIEW v AS SELECT u, max(regexp_replace('a.b', s, '-')) AS dashed, count(*) AS rows FROM events GROUP BY u;
    CREATE FEATURE VIEW filtered AS SELECT u, count(*) AS rows FROM events WHERE regexp_count('a.b', s) > 0 GROUP BY u;
    CREATE FEATURE VIEW joined AS SELECT e.u, count(*) AS rows FROM events AS e
      JOIN names AS t ON t.u = e.u AND regexp_replace('a.b', e.s, '-') <> '' GROUP BY e.u;";
    let rows = [r#"{"u":1,"s":"[.]","ts":"2024-01-10T00:00:00Z"}"#, r#"{"u":1,"s":"(","ts":"2024-01-10T00:00:00Z"}"#];
    let deployment = taken_in(views, &rows);
    says(&deployment, "v", "1", "2024-01-11T00:00:00Z", &[r#""dashed":"a-b""#, r#""rows":1"#]);
    says(&deployment, "filtered", "1", "2024-01-11T00:00:00Z", &[r#""rows":1"#]);
    says(&deployment, "joined", "1", "2024-01-11T00:00:00Z", &[r#""rows":1"#]);
}

/// Dates and times beyond the nanoseconds of 64 bits, decimals beside literals, and decimals that do not fit.
#[test]
fn the_whole_calendar_and_every_digit() {
    let views = "CREATE FEATURE VIEW times AS SELECT u, count(*) AS rows,
      count(*) FILTER (WHERE ts < day) AS before, count(*) FILTER (WHERE other BETWEEN day AND '9999-12-31') AS between,
      count(*) FILTER (WHERE CASE other WHEN day THEN true ELSE false END) AS equal, count(*) FILTER (WHERE other IN (day, ts)) AS within,
      max(date_trunc('week', other)) AS week, max(date_trunc('quarter', other)) AS quarter, min(date_trunc('year', other)) AS year,
      max(date_bin(INTERVAL '1 week', other)) AS bin, min(date_bin(INTERVAL '7 hours', other, TIMESTAMP '2024-01-01T01:00:00')) AS first_bin,
      max(other) >= max(day) AS later
    FROM events GROUP BY u;
    CREATE FEATURE VIEW decimals AS SELECT u, count(*) FILTER (WHERE d = 0.1) AS tenths, count(*) FILTER (WHERE d IN (0.1, 2)) AS some,
      count(*) FILTER (WHERE d BETWEEN -0.5 AND 0.5) AS small, sum(d) > 2.05 AS many, count(*) AS rows FROM events GROUP BY u;
    CREATE FEATURE VIEW large AS SELECT u, max(CAST(s AS DECIMAL(38, 0)) + i) AS most, count(*) AS rows FROM events GROUP BY u;";
    let rows = [
        r#"{"u":1,"i":1,"d":"0.1","s":"99999999999999999999999999999999999999","day":"9999-12-31","other":"9999-12-31T00:00:00Z","ts":"2024-01-10T00:00:00Z"}"#,
        r#"{"u":1,"i":0,"d":"2.00","s":"99999999999999999999999999999999999999","day":"0001-01-01","other":"0001-01-01T05:00:00Z","ts":"2024-01-10T00:00:00Z"}"#,
    ];
    let deployment = taken_in(views, &rows);
    let times = [
        r#""rows":2"#,
        r#""before":1"#,
        r#""between":2"#,
        r#""equal":1"#,
        r#""within":1"#,
        r#""week":"9999-12-27T00:00:00.000000Z""#,
        r#""quarter":"9999-10-01T00:00:00.000000Z""#,
        r#""year":"0001-01-01T00:00:00.000000Z""#,
        r#""later":true"#,
    ];
    says(&deployment, "times", "1", "2024-01-11T00:00:00Z", &times);
    let decimals = [r#""tenths":1"#, r#""some":2"#, r#""small":1"#, r#""many":true"#, r#""rows":2"#];
    says(&deployment, "decimals", "1", "2024-01-11T00:00:00Z", &decimals);
    let refused = deployment.load().open(&deployment.path("data")).refused();
    assert_eq!(refused.iter().filter_map(|r| r.2.as_deref()).collect::<Vec<_>>(), ["large"]);
    says(&deployment, "large", "1", "2024-01-11T00:00:00Z", &[r#""rows":1"#]);
}

/// A column keeps its name, also one that has a point in it.
#[test]
fn a_column_keeps_its_name() {
    let stream = "CREATE STREAM points (\"a.b\" TEXT, \"User Id\" BIGINT, ts TIMESTAMP NOT NULL) EVENT TIME ts FROM FILE (path = 'points.jsonl', format = 'jsonl');
    CREATE FEATURE VIEW v AS SELECT \"a.b\", points.\"User Id\", count(*) AS rows FROM points GROUP BY \"a.b\", \"User Id\";
    CREATE FEATURE VIEW w AS SELECT points.\"a.b\", max(\"User Id\") AS \"Max.Id\" FROM points GROUP BY \"a.b\";";
    let row = r#"{"a.b":"p","User Id":7,"ts":"2024-01-10T00:00:00Z"}"#;
    let deployment = Deployment::new(&[("a.sql", stream), ("./points.jsonl", row)]);
    let plan = deployment.load().plan;
    let names = |n: usize| plan.views[n].plan.entity.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!([names(0), names(1)], [vec!["a.b".to_string(), "User Id".to_string()], vec!["a.b".to_string()]]);
    assert_eq!(plan.views[1].plan.features[0].name, "Max.Id");
}

/// What is grouped by twice groups once.
#[test]
fn a_repeated_group_expression_changes_nothing() {
    let views = "CREATE FEATURE VIEW twice AS SELECT u, s, count(*) AS rows FROM events GROUP BY u, s, u;
    CREATE FEATURE VIEW by_place AS SELECT u, count(*) AS rows, max(i) AS i FROM events GROUP BY 1, events.u, 1;
    CREATE FEATURE VIEW constant AS SELECT 'x' AS x, count(*) AS rows FROM events GROUP BY 'x', 'x';";
    let rows = [
        r#"{"u":1,"i":5,"s":"a","ts":"2024-01-10T00:00:00Z"}"#,
        r#"{"u":1,"i":7,"s":"b","ts":"2024-01-10T00:00:00Z"}"#,
    ];
    let deployment = taken_in(views, &rows);
    says(&deployment, "twice", "1,a", "2024-01-11T00:00:00Z", &[r#""rows":1"#]);
    says(&deployment, "by_place", "1", "2024-01-11T00:00:00Z", &[r#""rows":2"#, r#""i":7"#]);
    says(&deployment, "constant", "x", "2024-01-11T00:00:00Z", &[r#""rows":2"#]);
}

/// Rules 19 and 23: over doubles the real sum, rounded once; over whole numbers null while the sum does not fit.
#[test]
fn sums_are_exact() {
    let views =
        "CREATE FEATURE VIEW v AS SELECT u, sum(x) AS sum_x, avg(x) AS avg_x, var(x) AS var_x, stddev(x) AS dev_x,
      min(x) AS min_x, max(x) AS max_x, sum(i) AS sum_i, avg(i) AS avg_i, sum(i) FILTER (WHERE i < 0 OR s = 'b') AS less
    FROM events GROUP BY u;";
    let row = |u: i64, i: i64, x: &str, s: &str| {
        format!(r#"{{"u":{u},"i":{i},"x":{x},"s":"{s}","ts":"2024-01-10T00:00:00Z"}}"#)
    };
    let most = i64::MAX;
    let rows = [
        row(1, most, "1e16", "a"),
        row(1, most, "1", "b"),
        row(1, -3, "1", "a"),
        row(1, 0, "-1e16", "a"),
        row(2, 1, "1", "a"),
        row(2, 2, "2", "a"),
        row(2, 4, "4", "a"),
        row(3, 1, "\"Infinity\"", "a"),
        row(3, 1, "\"NaN\"", "a"),
        row(3, 1, "-1e308", "a"),
    ];
    let deployment = taken_in(views, &rows.each_ref().map(String::as_str));
    let as_of = "2024-01-11T00:00:00Z";
    // 1e16 + 1 + 1 - 1e16 = 2; two of the greatest BIGINT do not fit, the greatest less three does.
    let one = [r#""sum_x":2"#, r#""avg_x":0.5"#, r#""sum_i":null"#, r#""less":9223372036854775804"#];
    says(&deployment, "v", "1", as_of, &one);
    // var = (3 · 21 − 49) / (3 · 2) = 7/3.
    let dev = (7.0f64 / 3.0).sqrt();
    let two = [r#""sum_x":7"#, &format!(r#""var_x":{}"#, 7.0 / 3.0), &format!(r#""dev_x":{dev}"#), r#""sum_i":7"#];
    says(&deployment, "v", "2", as_of, &two);
    says(&deployment, "v", "3", as_of, &[r#""sum_x":"NaN""#, r#""min_x":-1e+308"#, r#""max_x":"NaN""#]);
}

/// `check` refuses a view of this query at this word, with these words.
#[track_caller]
fn check(query: &str, word: &str, message: &str) {
    let deployment = Deployment::new(&[("a.sql", EVENTS), ("b.sql", &format!("CREATE FEATURE VIEW v AS\n{query};"))]);
    let column = query.find(word).expect("the word is there") + 1;
    deployment.run("check", "data", &[]).expect(2, &[&format!("dataflows/b.sql:2:{column}\n"), message]);
}

/// What cannot be kept, or would be the same for every row, is refused at the word.
#[test]
fn what_is_refused_is_refused_at_the_word() {
    // J4: nothing counts, and nothing is true.
    check("SELECT u, count(NULL) AS c FROM events GROUP BY u", "count", "the argument of count is NULL in every row");
    check(
        "SELECT u, bool_or(NULL) AS c FROM events GROUP BY u",
        "bool_or",
        "the argument of bool_or is NULL in every row",
    );
    // J6.
    let long = "SELECT u, count(*) FILTER (WHERE ts > now() - INTERVAL '106000000 days') AS c FROM events GROUP BY u";
    check(long, "'106000000", "an interval is at most 100 years");
    // Two outputs of one name, and a feature with the name of the entity (J7).
    check("SELECT u, sum(x) AS a, sum(i) AS a FROM events GROUP BY u", "a FROM", "two columns are named `a`");
    check(
        "SELECT max(x) AS u FROM events GROUP BY u",
        "u FROM",
        "the feature `u` has the name of a column of the entity",
    );
    // A feature is asked for by its name, and DataFusion's name for an expression is nobody's.
    check(
        "SELECT u, sum(i) FILTER (WHERE s = 'x') FROM events GROUP BY u",
        "sum",
        "`sum(i) FILTER (WHERE s = 'x')` has no name",
    );
    check("SELECT u, count(*) FROM events GROUP BY u", "count", "give it one with AS");
    check("SELECT u, lower(s), count(*) AS c FROM events GROUP BY u, lower(s)", "lower", "`lower(s)` has no name");
    check(
        "SELECT e.u, count(*) AS c FROM events AS e JOIN names AS t ON t.u = e.i GROUP BY e.u, t.u",
        "SELECT",
        "two columns of the entity are named `u`",
    );
    // No key can name a list.
    check("SELECT l, count(*) AS c FROM events GROUP BY l", "l, count", "a list in GROUP BY is not supported");
    check(
        "SELECT count(*) AS c FROM events GROUP BY u, struct(i, s)",
        "SELECT",
        "a struct in GROUP BY is not supported",
    );
    // Intervals have no place among the features.
    check("SELECT u, max(ts - other) AS c FROM events GROUP BY u", "max", "over an interval is not supported");
    check("SELECT u, now() - max(ts) AS age FROM events GROUP BY u", "age", "`age` is an interval");
    // now() and random() are found where they stand.
    check(
        "SELECT u, count(*) AS c FROM events\nGROUP BY u, now()".replace('\n', " ").as_str(),
        "now()",
        "may not stand in GROUP BY",
    );
    check("SELECT u, max(now() - ts) AS c FROM events GROUP BY u", "now()", "may not stand in an aggregate's argument");
    check(
        "SELECT u, last_value(x ORDER BY now()) AS c FROM events GROUP BY u",
        "now()",
        "may not stand in an aggregate's ORDER BY",
    );
    check(
        "SELECT u, count(*) FILTER (WHERE other > now()) AS c FROM events GROUP BY u",
        "now()",
        "compared with the event time only",
    );
    check("SELECT u, count(*) AS c FROM events WHERE random() < 0.5 GROUP BY u", "random", "random() is not supported");
}

/// Messages stand at the word, and say what to write.
#[test]
fn messages_say_what_to_write() {
    check(
        "SELECT u, count(*) FILTER (WHERE s = \"UA\") AS c FROM events GROUP BY u",
        "\"UA\"",
        "a text stands in single quotes: 'UA'",
    );
    check("SELECT u, count(*) FILTER (WHERE x > 'abc') AS c FROM events GROUP BY u", "x > ", "x` is DOUBLE");
    check(
        "SELECT u, count(*) FILTER (WHERE s = 5) AS c FROM events GROUP BY u",
        "s = ",
        "put the number into quotes: '5'",
    );
    check("SELECT u, sum(s) AS c FROM events GROUP BY u", "sum", "sum over TEXT is not supported");
    check("SELECT u, bool_or(i) AS c FROM events GROUP BY u", "bool_or", "compare it with something: bool_or(x > 0)");
    check(
        "SELECT u, count(*) FILTER (WHERE ts > now() - INTERVAL '01:30:00') AS c FROM events GROUP BY u",
        "'01:30:00'",
        "INTERVAL '1 hour 30 minutes'",
    );
    // Constants that are wrong are wrong on every row.
    check(
        "SELECT u, max(regexp_replace(s, '(', '')) AS c FROM events GROUP BY u",
        "regexp_replace",
        "fails on every row",
    );
    check("SELECT u, max(make_date(2020, 13, n)) AS c FROM events GROUP BY u", "make_date", "fails on every row");
    check("SELECT u, sum(1 / 0) AS c FROM events GROUP BY u", "1 / 0", "fails on every row");
    check(
        "SELECT u, count(*) FILTER (WHERE d > x) AS c FROM events GROUP BY u",
        "d > x",
        "write CAST(events.d AS DOUBLE)",
    );
    check("SELECT u, averge(x) AS c FROM events GROUP BY u", "averge", "write avg(column)");
    check(
        "SELECT u, count_if(x > 1) AS c FROM events GROUP BY u",
        "count_if",
        "write count(*) FILTER (WHERE condition)",
    );
    let tumble = "SELECT u, count(*) AS c FROM TUMBLE(events, ts, 5) GROUP BY u";
    check(tumble, "TUMBLE", "a window is a condition on the event time");
    check(
        "WITH r AS (SELECT * FROM events) SELECT u, count(*) AS c FROM r GROUP BY u",
        "WITH",
        "WITH r AS (…) is not supported yet",
    );
    // Clauses that DataFusion would drop without a word.
    let version = "SELECT e.u, count(*) AS c FROM events AS e JOIN names FOR SYSTEM_TIME AS OF e.ts AS t ON t.u = e.u GROUP BY e.u";
    check(version, "FOR SYSTEM_TIME", "FOR SYSTEM_TIME AS OF is not supported yet");
    check("SELECT u, count(*) AS c FROM events PREWHERE x > 1 GROUP BY u", "PREWHERE", "PREWHERE is not supported");
    check("SELECT u, count(*) AS c FROM events GROUP BY u WITH ROLLUP", "WITH ROLLUP", "WITH ROLLUP is not supported");
    check(
        "SELECT u, count(*) AS c FROM events WHERE s SIMILAR TO 'z%' GROUP BY u",
        "SIMILAR",
        "write LIKE, or regexp_like",
    );
}
