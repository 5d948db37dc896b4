//! The oracle against answers worked out by hand, rule by rule.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::sql::sqlparser::ast;

use super::recompute::{Recompute, RecomputeError};
use crate::definition::{Column, Connector, Definitions, Format, Source, SourceKind, View, parse_query, timestamp};

/// Definitions and logged events.
#[derive(Default)]
struct World {
    definitions: Definitions,
    events: HashMap<String, Vec<RecordBatch>>,
}

impl World {
    /// A source whose `EVENT TIME` is its column `ts`, if it has one. `key`: how many leading columns are the primary
    /// key; 0 makes a stream. `rows`: see [`batch`].
    fn with(mut self, name: &str, columns: &[(&str, DataType)], key: usize, rows: &[&str]) -> World {
        let column = |(name, data_type): &(&str, DataType)| Column {
            name: (*name).to_string(),
            data_type: data_type.clone(),
            nullable: true,
        };
        let timed = columns.iter().any(|(name, _)| *name == "ts");
        let source = Source {
            name: name.to_string(),
            kind: if key == 0 { SourceKind::Stream } else { SourceKind::Table { key: (0..key).collect() } },
            columns: columns.iter().map(column).collect(),
            checks: vec![],
            event_time: timed.then(|| ast::Expr::Identifier(ast::Ident::new("TS"))),
            arrival_time: None,
            from: Connector::File { path: String::new(), format: Format::Json },
            future: 0,
            span: Default::default(),
        };
        // Two batches, so that nothing depends on there being one.
        let (early, late) = rows.split_at(rows.len() / 2);
        self.events.insert(name.to_string(), vec![batch(&source, early), batch(&source, late)]);
        self.definitions.sources.insert(name.to_string(), Arc::new(source));
        self
    }

    fn view(&self, sql: &str, resolution: Option<i64>) -> View {
        View {
            name: "v".to_string(),
            query: parse_query(sql).expect("the test's SQL parses"),
            text: sql.to_string(),
            entity: None,
            freshness: None,
            resolution,
            retention: None,
            labels: Default::default(),
            span: Default::default(),
        }
    }

    fn answer(&self, sql: &str, resolution: Option<i64>, now: i64) -> Result<RecordBatch, RecomputeError> {
        Recompute::new(&self.definitions, &self.view(sql, resolution))?.at(&self.events, now)
    }

    /// `want`: the answer's rows, each as its cells with a space between, null as `-`.
    fn check(&self, sql: &str, now: i64, want: &[&str]) {
        self.check_rounded(sql, None, now, want);
    }

    fn check_rounded(&self, sql: &str, resolution: Option<i64>, now: i64, want: &[&str]) {
        let answer = self.answer(sql, resolution, now).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        let options = FormatOptions::default().with_null("-");
        let cells: Vec<_> =
            answer.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).expect("printable")).collect();
        let line = |row| cells.iter().map(|c| c.value(row).to_string()).collect::<Vec<_>>().join(" ");
        let mut got: Vec<String> = (0..answer.num_rows()).map(line).collect();
        let mut want = want.to_vec();
        got.sort_unstable();
        want.sort_unstable();
        assert_eq!(got, want, "{sql} at {now}");
    }

    fn check_refused(&self, sql: &str, resolution: Option<i64>, what: &str) {
        match self.answer(sql, resolution, 0) {
            Err(RecomputeError::Unsupported { what: found, .. }) => assert!(found.contains(what), "{sql}: {found}"),
            other => panic!("{sql}: {other:?}"),
        }
    }
}

/// Rows as text: the declared columns' cells, `-` for null, then the partition and the offset, then perhaps `deleted`.
fn batch(source: &Source, rows: &[&str]) -> RecordBatch {
    let cells: Vec<Vec<&str>> = rows.iter().map(|row| row.split_whitespace().collect()).collect();
    let text = |index: usize| -> ArrayRef {
        let column = cells.iter().map(|row| row.get(index).copied().filter(|cell| *cell != "-"));
        Arc::new(column.collect::<StringArray>())
    };
    let typed = |text: ArrayRef, data_type: &DataType| {
        let numbers = if *data_type == timestamp() { cast(&text, &DataType::Int64).expect("µs") } else { text };
        cast(&numbers, data_type).expect("the cells fit")
    };
    let declared = source.columns.len();
    let column = |field: &Arc<Field>| {
        let position = source.columns.iter().position(|c| c.name == *field.name());
        let event_time = source.columns.iter().position(|c| c.name == "ts");
        match field.name().as_str() {
            "_partition" => typed(text(declared), &DataType::Int32),
            "_offset" => typed(text(declared + 1), &DataType::Int64),
            "_event_time" => typed(text(event_time.unwrap_or(usize::MAX)), &timestamp()),
            "_arrival_time" | "_epoch" => typed(Arc::new(StringArray::from(vec!["1"; rows.len()])), &timestamp()),
            "_deleted" => {
                let deleted = cells.iter().map(|row| Some(row.get(declared + 2).is_some()));
                Arc::new(deleted.collect::<arrow::array::BooleanArray>())
            }
            _ => typed(text(position.expect("a declared column")), field.data_type()),
        }
    };
    let schema = source.row_schema();
    let columns = schema.fields().iter().map(column).collect();
    RecordBatch::try_new(schema, columns).expect("the rows fit the schema")
}

/// Stream `e (u, x, n, s, ts)`.
fn events(rows: &[&str]) -> World {
    let columns = [
        ("u", DataType::Int64),
        ("x", DataType::Float64),
        ("n", DataType::Int64),
        ("s", DataType::Utf8),
        ("ts", timestamp()),
    ];
    World::default().with("e", &columns, 0, rows)
}

const SECOND: i64 = 1_000_000;

#[test]
fn only_the_past_is_seen_and_nulls_are_a_group() {
    let world = events(&["1 1 1 a 10 0 0", "- 2 2 b 20 0 1", "1 3 3 c 30 0 2", "- 4 4 d -5 0 3"]);
    let sql = "SELECT u, count(*) AS c, sum(n) AS total FROM e GROUP BY u";
    world.check(sql, -6, &[]);
    world.check(sql, 9, &["- - 1 4"]);
    world.check(sql, 20, &["1 1 1 1", "- - 2 6"]);
    world.check(sql, 30, &["1 1 2 4", "- - 2 6"]);
}

#[test]
fn windows_are_exact_at_both_edges() {
    let world = events(&["1 1 1 a 1000000 0 0", "2 1 1 a 1000001 0 1"]);
    let sql = "SELECT u, count(*) FILTER (WHERE ts > now() - INTERVAL '1 second') AS open,
        count(*) FILTER (WHERE _event_time >= current_timestamp - INTERVAL '1 second') AS closed FROM e GROUP BY u";
    world.check(sql, 2 * SECOND - 1, &["1 1 1 1", "2 2 1 1"]);
    world.check(sql, 2 * SECOND, &["1 1 0 1", "2 2 1 1"]);
    world.check(sql, 2 * SECOND + 1, &["1 1 0 0", "2 2 0 1"]);
    let filtered = "SELECT u, count(*) AS c FROM e WHERE ts > now() - INTERVAL '1 second' GROUP BY u";
    world.check(filtered, 2 * SECOND, &["2 2 1"]);
    world.check(filtered, 3 * SECOND, &[]);
}

#[test]
fn doubles_are_summed_exactly() {
    let world = events(&["1 1e16 1 a 1 0 0", "1 1 2 a 1 0 1", "1 1 3 a 1 0 2", "1 -1e16 4 a 1 0 3", "2 3 - a 1 0 4"]);
    let sql = "SELECT u, sum(x), avg(x), var(n), stddev_samp(n), mean(n), sum(n), count(n) FROM e GROUP BY u";
    let deviation = (5.0f64 / 3.0).sqrt();
    let one = format!("1 1 2.0 0.5 {} {deviation} 2.5 10 4", 5.0 / 3.0);
    world.check(sql, 1, &[&one, "2 2 3.0 3.0 - - - - 0"]);
    world.check("SELECT sum(x), count(*) FROM e", 1, &["5.0 5"]);
    world.check("SELECT sum(x), count(*) FROM e", 0, &[]);
    // Beside a DISTINCT, which DataFusion would turn into sums of rounded sums.
    world.check("SELECT u, sum(x), count(DISTINCT n) FROM e GROUP BY u", 1, &["1 1 2.0 4", "2 2 3.0 0"]);
}

#[test]
fn integers_do_not_pass_through_doubles() {
    // The three add up to 3 * 2^53 + 3; as doubles they would be 2^53, 2^53 + 2, 2^53.
    let world = events(&[
        "1 0 9007199254740993 a 1 0 0",
        "1 0 9007199254740993 a 1 0 1",
        "1 0 9007199254740993 a 1 0 2",
        "2 0 9223372036854775807 a 1 0 3",
        "2 0 1 a 1 0 4",
        "3 0 9007199254740993 a 1 0 5",
        "3 0 9007199254740992 a 1 0 6",
    ]);
    let sql = "SELECT u, var(n), sum(n), sum(n) FILTER (WHERE n = 1) FROM e GROUP BY u";
    let two = format!("2 2 {:?} - 1", 2f64.powi(125)); // (2^63 - 2)^2 / 2, rounded; the sum does not fit
    world.check(sql, 1, &["1 1 0.0 27021597764222979 -", &two, "3 3 0.5 18014398509481985 -"]);
}

#[test]
fn decimals_are_exact_and_halves_go_away_from_zero() {
    let columns = [("u", DataType::Int64), ("d", DataType::Decimal128(34, 2)), ("ts", timestamp())];
    let rows = ["1 0.01 1 0 0", "1 0.02 1 0 1", "1 0.02 1 0 2", "2 -0.05 1 0 3", "2 -0.04 1 0 4", "3 - 1 0 5"];
    let world = World::default().with("e", &columns, 0, &rows);
    let sql = "SELECT u, sum(d), avg(d), var(d), min(d) FROM e GROUP BY u";
    world.check(
        sql,
        1,
        &["1 1 0.05 0.016667 0.000033333333333333335 0.01", "2 2 -0.09 -0.045000 0.00005 -0.05", "3 3 - - - -"],
    );
    let types = world.answer(sql, None, 1).expect("it runs").schema();
    assert_eq!(types.field(2).data_type(), &DataType::Decimal128(38, 2));
    assert_eq!(types.field(3).data_type(), &DataType::Decimal128(38, 6));
    // A thirty-second, 0.03125, at four places.
    let whole = [("u", DataType::Int64), ("d", DataType::Decimal128(5, 0)), ("ts", timestamp())];
    let rows: Vec<String> = (0..64).map(|i| format!("{} {} 1 0 {i}", i % 2, [1, -1, 0][i.min(2)])).collect();
    let world = World::default().with("e", &whole, 0, &rows.iter().map(String::as_str).collect::<Vec<_>>());
    world.check("SELECT u, avg(d) FROM e GROUP BY u", 1, &["0 0 0.0313", "1 1 -0.0313"]);
    let wide = [("u", DataType::Int64), ("d", DataType::Decimal128(38, 0)), ("ts", timestamp())];
    let nines = "9".repeat(38);
    let rows = [format!("1 {nines} 1 0 0"), format!("1 {nines} 1 0 1"), format!("2 {nines} 1 0 2")];
    let world = World::default().with("e", &wide, 0, &rows.each_ref().map(String::as_str));
    // Neither the sum nor the mean's four more places fit 38 digits.
    world.check("SELECT u, sum(d), avg(d) FROM e GROUP BY u", 1, &["1 1 - -", &format!("2 2 {nines} -")]);
}

#[test]
fn one_zero_and_one_nan() {
    let world =
        events(&["1 -0.0 1 a 1 0 0", "1 0.0 1 a 1 0 1", "1 NaN 1 a 1 0 2", "1 -NaN 1 a 1 0 3", "1 inf 1 a 1 0 4"]);
    let sql =
        "SELECT u, min(x), max(x), count(DISTINCT x), max(x) FILTER (WHERE x < 1 AND x > -1), sum(x) FROM e GROUP BY u";
    world.check(sql, 1, &["1 1 0.0 NaN 3 0.0 NaN"]);
    world.check("SELECT x, count(*) FROM e GROUP BY x, e.x, 1", 1, &["0.0 0.0 2", "NaN NaN 2", "inf inf 1"]);
    world.check("SELECT x, count(*) FROM e GROUP BY x", 1, &["0.0 0.0 2", "NaN NaN 2", "inf inf 1"]);
    world.check("SELECT u, count(DISTINCT struct(x, s)) FROM e GROUP BY u", 1, &["1 1 3"]);
}

#[test]
fn distinct_counts_with_filters() {
    let world = events(&["1 1 1 a 1 0 0", "1 1 2 a 1 0 1", "1 2 2 b 1 0 2", "1 2 2 - 1 0 3", "1 2 2 - 1 0 4"]);
    let sql = "SELECT u, count(DISTINCT s), count(DISTINCT n) FILTER (WHERE s = 'a'),
        count(DISTINCT struct(x, s)) FILTER (WHERE n = 2), count(DISTINCT n + 1) FROM e GROUP BY u";
    world.check(sql, 1, &["1 1 2 2 3 2"]);
}

#[test]
fn ties_go_by_partition_and_offset() {
    // Logged out of order; event time 5 is shared by three rows.
    let world = events(&["1 1 7 c 5 1 0", "1 1 8 b 5 0 9", "1 1 9 a 5 0 2", "1 - 6 d 4 3 0", "2 1 1 z 4 0 3"]);
    let all = |function: &str| format!("SELECT u, {function} FROM e GROUP BY u");
    world.check(&all("first_value(s), last_value(s)"), 5, &["1 1 d c", "2 2 z z"]);
    world.check(&all("first_value(s ORDER BY ts), last_value(s ORDER BY ts)"), 5, &["1 1 d c", "2 2 z z"]);
    world.check(&all("first_value(s ORDER BY ts DESC), last_value(s ORDER BY ts DESC)"), 5, &["1 1 a d", "2 2 z z"]);
    world.check(&all("first_value(s ORDER BY x), last_value(s ORDER BY x)"), 5, &["1 1 a d", "2 2 z z"]);
    world.check(&all("last_value(s ORDER BY n, ts) FILTER (WHERE n < 9)"), 5, &["1 1 b", "2 2 z"]);
    world.check(&all("last_value(x ORDER BY x), last_value(x) IGNORE NULLS"), 5, &["1 1 - 1.0", "2 2 1.0 1.0"]);
    world.check(
        &all("array_agg(s ORDER BY ts LIMIT 9), array_agg(n LIMIT 9)"),
        5,
        &["1 1 [d, a, b, c] [6, 9, 8, 7]", "2 2 [z] [1]"],
    );
    world.check(&all("array_agg(s ORDER BY ts DESC, n DESC LIMIT 2)"), 5, &["1 1 [a, b]", "2 2 [z]"]);
    world.check(&all("first_value(s = 'd'), last_value(n > 8 ORDER BY ts)"), 5, &["1 1 true false", "2 2 false false"]);
}

#[test]
fn rows_of_one_event_are_ordered_by_value() {
    let world = events(&["1 1 1 a 5 0 0", "1 1 2 a 5 0 1"]).with(
        "t",
        &[("k", DataType::Int64), ("s", DataType::Utf8), ("c", DataType::Utf8)],
        1,
        &["1 a q 0 0", "2 a r 0 1", "3 a - 0 2", "4 b x 0 3"],
    );
    let sql = "SELECT e.u, first_value(t.c), last_value(t.c), count(*) FROM e JOIN t ON e.s = t.s GROUP BY e.u";
    world.check(sql, 5, &["1 1 - r 6"]);
}

#[test]
fn tables_without_time_hold_the_last_row_by_offset() {
    let world = events(&["1 1 1 a 5 0 0", "1 1 1 b 6 0 1", "1 1 1 c 7 0 2", "1 1 1 - 7 0 3"]).with(
        "t",
        &[("s", DataType::Utf8), ("c", DataType::Utf8)],
        1,
        &["a new 0 5", "a old 0 1", "b one 0 2", "b - 0 7 deleted", "c - 0 1 deleted", "c back 0 2"],
    );
    let sql = "SELECT t.c, count(*) FROM e JOIN t ON e.s = t.s GROUP BY t.c";
    world.check(sql, 9, &["new new 1", "back back 1"]);
    let left = "SELECT t.c, count(*) FROM e LEFT JOIN t ON e.s = t.s GROUP BY t.c";
    world.check(left, 9, &["new new 1", "back back 1", "- - 2"]);
}

#[test]
fn tables_with_time_hold_the_version_of_the_instant() {
    let world = events(&["1 1 1 a 5 0 0"]).with(
        "t",
        &[("s", DataType::Utf8), ("c", DataType::Utf8), ("ts", timestamp())],
        1,
        // Arrived out of order; at 20 two versions, the later by offset counts; at 30 a tombstone.
        &["a late 20 0 9", "a first 10 0 3", "a early 20 0 2", "a - 30 0 4 deleted", "a again 40 0 1"],
    );
    let sql = "SELECT e.u, last_value(t.c) AS c FROM e LEFT JOIN t ON e.s = t.s GROUP BY e.u";
    for (now, want) in [(9, "-"), (10, "first"), (19, "first"), (20, "late"), (29, "late"), (30, "-"), (40, "again")] {
        world.check(sql, now, &[&format!("1 1 {want}")]);
    }
    let inner = "SELECT e.u, count(*) FROM e JOIN t ON e.s = t.s AND t.c <> 'first' GROUP BY e.u";
    world.check(inner, 15, &[]);
    world.check(inner, 25, &["1 1 1"]);
}

#[test]
fn resolution_rounds_event_time_in_temporal_predicates_only() {
    let world = events(&["1 1 1 a 1500000 0 0", "2 1 1 a -500000 0 1"]);
    let sql = "SELECT u, count(*) FILTER (WHERE ts > now() - INTERVAL '1 second') AS a,
        count(*) FILTER (WHERE now() - INTERVAL '1 second' < e._event_time) AS b,
        count(*) FILTER (WHERE ts + INTERVAL '1 second' BETWEEN now() AND now() + INTERVAL '9 seconds') AS c,
        max(ts) AS latest,
        count(*) FILTER (WHERE ts > TIMESTAMP '1970-01-01T00:00:01.2') AS d FROM e GROUP BY u";
    let line = |u, bounds: &str, second: &str, d| format!("{u} {u} {bounds} {second} {d}");
    let (one, two) = ("1970-01-01T00:00:01.500", "1969-12-31T23:59:59.500");
    // The first counts as 1 s, the second as -1 s.
    let at = |now, first: &str, second: &str| {
        world.check_rounded(sql, Some(SECOND), now, &[&line(1, first, one, 1), &line(2, second, two, 0)]);
    };
    at(2 * SECOND - 1, "1 1 1", "0 0 0");
    at(2 * SECOND, "0 0 1", "0 0 0");
    at(2 * SECOND + 1, "0 0 0", "0 0 0");
    world.check_rounded(sql, Some(SECOND), 0, &[&line(2, "0 0 1", two, 0)]);
    world.check(sql, 2 * SECOND, &[&line(1, "1 1 1", one, 1), &line(2, "0 0 0", two, 0)]);
    let filtered = "SELECT u, count(*) FROM e WHERE ts >= now() - INTERVAL '1 second' GROUP BY u";
    world.check_rounded(filtered, Some(SECOND), 2 * SECOND, &["1 1 1"]);
    world.check_rounded(filtered, Some(SECOND), 2 * SECOND + 1, &[]);
}

#[test]
fn a_row_whose_expression_fails_is_left_out_alone() {
    let mut rows: Vec<String> = (1..100).map(|i| format!("1 1 {i} 7 5 0 {i}")).collect();
    rows.push("1 1 0 7 5 0 100".to_string());
    rows.push("2 1 1 no 5 0 101".to_string());
    let world = events(&rows.iter().map(String::as_str).collect::<Vec<_>>());
    // Anywhere below the aggregation: the whole row goes, also for the plain count.
    world.check("SELECT u, count(*), sum(100 / n) FROM e GROUP BY u", 5, &["1 1 99 481", "2 2 1 100"]);
    world.check("SELECT u, count(*) FROM e WHERE 100 / n >= 1 GROUP BY u", 5, &["1 1 99", "2 2 1"]);
    world.check("SELECT 100 / n > 50 AS g, count(*) FROM e GROUP BY 1", 5, &["true true 2", "false false 98"]);
    world.check("SELECT count(*), count(*) FILTER (WHERE 100 / n > 50) FROM e", 5, &["100 2"]);
    world.check("SELECT u, count(*), sum(s::int) FROM e GROUP BY u", 5, &["1 1 100 700"]);
    // Guards guard: the value is that on a batch of the row alone.
    world.check("SELECT count(*) FROM e WHERE n = 0 OR 100 / n > 50", 5, &["3"]);
    world.check("SELECT count(*), count(*) FILTER (WHERE n <> 0 AND 100 / n > 50) FROM e", 5, &["101 2"]);
    // What a function says of a value it does not take is of any kind: a pattern that is none is an error of another crate.
    world.check(
        "SELECT u, count(*), max(regexp_replace(s, CASE n WHEN 5 THEN '(' ELSE 'n' END, 'm')) FROM e GROUP BY u",
        5,
        &["1 1 99 7", "2 2 1 mo"],
    );
    world.check(
        "SELECT count(*) FROM e WHERE regexp_replace(s, CASE n WHEN 5 THEN '(' ELSE 'n' END, 'm') <> ''",
        5,
        &["100"],
    );
    // A row is left out at every instant, not only while a window admits it.
    let timed = "SELECT u, count(*), count(*) FILTER (WHERE ts > now() - INTERVAL '1 second' AND 100 / n > 50) FROM e
        GROUP BY u";
    world.check(timed, 5, &["1 1 99 1", "2 2 1 1"]);
    world.check(timed, 9 * SECOND, &["1 1 99 0", "2 2 1 0"]);
    // Above the aggregation, only that feature of that group.
    world.check("SELECT u, 1 / (count(*) - 1) AS r, count(*) FROM e GROUP BY u", 5, &["1 1 0 100", "2 2 - 1"]);
}

#[test]
fn a_row_that_fails_to_join_is_left_out() {
    let world = events(&["1 1 1 7 5 0 0", "1 1 1 no 5 0 1", "2 1 0 8 5 0 2"]).with(
        "t",
        &[("k", DataType::Int64), ("c", DataType::Utf8)],
        1,
        &["7 seven 0 0", "8 eight 0 1"],
    );
    let sql = "SELECT e.u, count(*), last_value(t.c) FROM e LEFT JOIN t ON t.k = CAST(e.s AS BIGINT) GROUP BY e.u";
    world.check(sql, 5, &["1 1 1 seven", "2 2 1 eight"]);
    let comma = "SELECT e.u, count(*) FROM e, t WHERE t.k = e.n + 7 AND 1 / e.n = 1 GROUP BY e.u";
    world.check(comma, 5, &["1 1 2"]);
}

#[test]
fn the_select_list_computes_on_aggregates() {
    let world = events(&["1 4 1 a 1000000 0 0", "1 2 0 a 2000000 0 1", "2 8 0 b 2000000 0 2"]);
    let sql = "SELECT u AS who, sum(n) / count(*)::double AS ratio,
        coalesce(sum(x) FILTER (WHERE s = 'z'), 0) AS z,
        CASE WHEN count(*) > 1 THEN 'many' ELSE 'one' END AS c, ln(exp(sum(x) / max(x))) AS l,
        now() - max(ts) > INTERVAL '1 second' AS old, now() AS t FROM e GROUP BY u HAVING count(*) < 3";
    let want = ["1 1 0.5 0.0 many 1.5 false 1970-01-01T00:00:03", "2 2 0.0 0.0 one 1.0 false 1970-01-01T00:00:03"];
    world.check(sql, 3 * SECOND, &want);
    world.check("SELECT u FROM e GROUP BY u HAVING count(*) > 1", 3 * SECOND, &["1 1"]);
    let batch = world.answer("SELECT u AS who, s, count(*) FROM e GROUP BY s, u", None, SECOND).expect("it runs");
    let names: Vec<_> = batch.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["__group_0", "__group_1", "who", "s", "count(*)"]);
}

#[test]
fn lists_add_up() {
    let world = events(&["1 1e16 1 a 1 0 0", "2 - 9223372036854775807 a 1 0 1"]);
    let sql = "SELECT u, sum(array_sum([x, 1.0, 1.0, -x])), max(list_sum([n, 1])), count(array_sum([x, NULL]))
        FROM e GROUP BY u";
    // A row on which an expression fails is refused, as the engine does.
    world.check(sql, 1, &["1 1 2.0 2 1"]);
}

#[test]
fn what_it_cannot_judge_is_refused() {
    let world = events(&[]).with("f", &[("u", DataType::Int64), ("ts", timestamp())], 0, &[]);
    let check = |sql, what| world.check_refused(sql, None, what);
    check("SELECT u FROM e", "GROUP BY");
    check("SELECT u, count(*) FROM e GROUP BY u ORDER BY u", "Sort");
    check("SELECT u, count(*) FROM e GROUP BY u LIMIT 1", "Limit");
    check("SELECT u, string_agg(s, ',') FROM e GROUP BY u", "string_agg");
    check("SELECT u, sum(DISTINCT x) FROM e GROUP BY u", "DISTINCT");
    check("SELECT u, count(*) FROM e GROUP BY ROLLUP (u)", "grouping sets");
    check("SELECT e.u, count(*) FROM e JOIN f ON e.u = f.u GROUP BY e.u", "more than one stream");
    check("SELECT c, count(*) FROM (SELECT u, count(*) AS c FROM e GROUP BY u) GROUP BY c", "inside FROM");
    let subquery = "SELECT u, count(*) FROM (SELECT u FROM e) GROUP BY u";
    world.check_refused(subquery, Some(SECOND), "subquery");
    assert!(matches!(world.answer("SELECT nope FROM e GROUP BY u", None, 0), Err(RecomputeError::Failed { .. })));
}

#[test]
fn lengths_of_time_are_compared_by_their_length() {
    const DAY: i64 = 24 * 3_600 * SECOND;
    let world = events(&[&format!("1 1 1 a {} 0 0", 10 * DAY)]);
    let sql = "SELECT u, count(*) FILTER (WHERE ts - TIMESTAMP '1970-01-09' > INTERVAL '1 day') AS a,
        count(*) FILTER (WHERE ts - TIMESTAMP '1970-01-09' BETWEEN INTERVAL '1 day' AND INTERVAL '47 hours') AS b,
        count(*) FILTER (WHERE ts - TIMESTAMP '1970-01-09' IN (INTERVAL '48 hours')) AS c,
        now() - max(ts) > INTERVAL '1 day' AS d, CASE now() - max(ts) WHEN INTERVAL '2 days' THEN 'two' ELSE '-' END AS e
        FROM e GROUP BY u";
    world.check(sql, 12 * DAY, &["1 1 1 0 1 true two"]);
    world.check(sql, 11 * DAY, &["1 1 1 0 1 false -"]);
}

#[test]
fn there_is_one_zero_and_negation_does_not_wrap_around() {
    let world = events(&["1 0 1 a 1 0 0", "1 0 -9223372036854775808 a 1 0 1"]);
    let sql = "SELECT u, count(*), sum(1.0 / nullif(-x, 0.0)), count(DISTINCT x * -1), min(CASE -x WHEN 0.0 THEN 1 ELSE 2 END) FROM e GROUP BY u";
    world.check(sql, 1, &["1 1 2 - 1 1"]);
    world.check("SELECT u, count(*), max(-n) FROM e GROUP BY u", 1, &["1 1 1 -1"]);
    world.check("SELECT u, count(*) FROM e WHERE -n < 0 GROUP BY u", 1, &["1 1 1"]);
}

/// What is recomputed is the text as it was written; another form of it is what `plan` reads.
#[test]
fn the_text_is_what_is_recomputed() {
    let world = events(&["1 1 1 a 5 0 0", "1 2 1 a 5 0 1"]);
    let sum = "SELECT u, sum(x) FROM e GROUP BY u";
    let mut view = world.view("SELECT u, count(*) FROM e GROUP BY u", None);
    view.text = sum.to_string();
    let answer = Recompute::new(&world.definitions, &view).and_then(|r| r.at(&world.events, 5)).expect("it runs");
    assert_eq!(answer.schema().field(2).name(), "sum(e.x)");
    // Two aggregates that DataFusion would give one name are told apart first.
    let both = "SELECT u, sum(n), sum(CAST(n AS DOUBLE)) FROM e GROUP BY u";
    view.text = both.to_string();
    view.query = parse_query("SELECT u, sum(n), sum(CAST(n AS DOUBLE)) FILTER (WHERE 1 = 1) FROM e GROUP BY u")
        .expect("it parses");
    assert!(Recompute::new(&world.definitions, &view).is_ok());
}
