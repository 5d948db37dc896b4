//! Random histories: however they are cut, spread over workers, killed and resumed, the answers are one, and they are
//! those of the batch engine.
//!
//! Every failure names its seed; `HEADWATER_TEST_SEED` runs that one alone.

use std::fmt::Write;
use std::sync::Arc;

use headwater::engine::Node;
use headwater::source::kafka::KafkaSettings;
use headwater::source::replay::{Replay, ReplayClock, Resume};
use headwater::state::cache::Read;
use headwater::state::commit::ClockKind;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::support::{Deployment, How, at};

const SOURCES: &str = "
CREATE STREAM events (
  grp TEXT, item BIGINT, x DOUBLE, d DECIMAL(12, 2), n BIGINT CHECK (n < 1000), s TEXT, b BOOLEAN,
  ts TIMESTAMP NOT NULL, arrived TIMESTAMP NOT NULL
) EVENT TIME ts ARRIVAL TIME arrived FROM FILE (path = 'events.jsonl', format = 'jsonl');
CREATE TABLE shops (grp TEXT, region TEXT, PRIMARY KEY (grp)) FROM FILE (path = 'shops.csv', format = 'csv');
CREATE TABLE items (
  item BIGINT, category TEXT, price DECIMAL(8, 2), valid_from TIMESTAMP NOT NULL, arrived TIMESTAMP NOT NULL,
  PRIMARY KEY (item)
) EVENT TIME valid_from ARRIVAL TIME arrived FROM FILE (path = 'items.jsonl', format = 'jsonl');";

const VIEWS: &str = "
CREATE FEATURE VIEW windows AS SELECT grp,
  count(*) FILTER (WHERE ts > now() - INTERVAL '1 hour') AS n_1h,
  count(x) FILTER (WHERE ts > now() - INTERVAL '6 hours' AND ts <= now() - INTERVAL '1 hour') AS older,
  sum(x) FILTER (WHERE ts > now() - INTERVAL '6 hours') AS sum_x,
  avg(x) FILTER (WHERE ts > now() - INTERVAL '6 hours') AS avg_x,
  stddev(x) FILTER (WHERE ts > now() - INTERVAL '6 hours') AS dev_x,
  min(x) FILTER (WHERE ts > now() - INTERVAL '6 hours') AS min_x,
  max(x) FILTER (WHERE ts > now() - INTERVAL '6 hours') AS max_x,
  count(DISTINCT x) FILTER (WHERE ts > now() - INTERVAL '1 day') AS distinct_x,
  count(DISTINCT s) FILTER (WHERE ts > now() - INTERVAL '1 day') AS distinct_s,
  sum(d) FILTER (WHERE ts > now() - INTERVAL '1 day') AS sum_d,
  avg(d) FILTER (WHERE ts > now() - INTERVAL '1 day' AND n > 2) AS avg_d,
  max(s) FILTER (WHERE ts > now() - INTERVAL '1 day') AS max_s,
  last_value(s ORDER BY ts) FILTER (WHERE ts > now() - INTERVAL '6 hours') AS last_s,
  first_value(s ORDER BY n DESC) FILTER (WHERE ts > now() - INTERVAL '6 hours') AS top_s,
  last_value(x ORDER BY n DESC NULLS FIRST, s) FILTER (WHERE ts > now() - INTERVAL '1 day') AS last_x,
  bool_or(b) FILTER (WHERE ts > now() - INTERVAL '1 hour') AS any_b,
  sum(n - 3 - item) FILTER (WHERE ts > now() - INTERVAL '6 hours') AS taken_twice,
  max(n - (3 - item)) FILTER (WHERE ts > now() - INTERVAL '6 hours') AS taken_and_given,
  count(*) FILTER (WHERE ts > now() - INTERVAL '1 day' AND s IS DISTINCT FROM NULL) AS with_s,
  count(*) FILTER (WHERE ts > now() - INTERVAL '1 day' AND s IS DISTINCT FROM 'NULL') AS not_the_word,
  count(*) FILTER (WHERE now() - ts < INTERVAL '2 hours') AS n_2h, count(*) FILTER (WHERE ts = now()) AS n_now,
  sum(n) FILTER (WHERE NOT (ts <= now() - INTERVAL '3 hours')) AS n_3h,
  sum(CAST(n AS DOUBLE)) FILTER (WHERE NOT (ts <= now() - INTERVAL '3 hours')) AS x_3h
FROM events GROUP BY grp;

CREATE FEATURE VIEW totals AS SELECT item,
  count(*) AS rows_all, sum(x) AS sum_x, avg(x) AS avg_x, var(x) AS var_x, min(x) AS min_x, max(d) AS max_d,
  sum(d) AS sum_d, avg(n) AS avg_n, count(DISTINCT s) AS distinct_s,
  last_value(s ORDER BY ts) AS last_s, first_value(x ORDER BY n DESC, s) AS top_x,
  first_value(d) FILTER (WHERE n < 4) AS first_d, bool_and(b) AS all_b, max(ts) AS newest,
  count(*) FILTER (WHERE ts <= now() - INTERVAL '1 hour') AS settled,
  max(s) FILTER (WHERE ts < now() - INTERVAL '5 hours') AS max_s
FROM events GROUP BY item;

CREATE FEATURE VIEW settled AS SELECT i.category, count(*) AS rows_all, sum(e.x) AS sum_x, count(DISTINCT e.s) AS distinct_s,
  last_value(e.s ORDER BY e.ts) AS last_s, sum(e.x) FILTER (WHERE e.ts > now() - INTERVAL '6 hours') AS sum_6h
FROM events AS e JOIN items AS i ON i.item = e.item WHERE e.ts <= now() - INTERVAL '2 hours' GROUP BY i.category;

CREATE FEATURE VIEW recent WITH (resolution = '10 minutes') AS SELECT grp, n % 2 AS odd,
  count(*) AS n_3h, sum(x) AS sum_x, min(s) AS min_s, count(*) FILTER (WHERE ts <= now() - INTERVAL '1 hour') AS older,
  sum(d) FILTER (WHERE ts > now() - INTERVAL '30 minutes') AS sum_d
FROM events WHERE ts > now() - INTERVAL '3 hours' AND s <> 'skip' GROUP BY grp, n % 2;

CREATE FEATURE VIEW by_category AS SELECT i.category,
  count(*) AS rows_all, sum(i.price * e.n) AS worth, min(e.x) AS min_x, max(e.s) AS max_s,
  count(DISTINCT e.grp) AS groups, last_value(e.s ORDER BY e.ts) AS last_s,
  sum(e.x) FILTER (WHERE e.ts > now() - INTERVAL '6 hours') AS sum_x, max(to_timestamp_millis(e.n)) AS time,
  count(*) FILTER (WHERE e.ts - i.valid_from > INTERVAL '1 day') AS settled, count(DISTINCT struct(-e.x)) AS values,
  last_value(e.n ORDER BY e.n DESC) FILTER (WHERE e.ts > now() - INTERVAL '6 hours') AS least_n
FROM events AS e JOIN items AS i ON i.item = e.item GROUP BY i.category;

CREATE FEATURE VIEW by_region AS SELECT r.region,
  count(*) AS n_12h, count(i.category) AS known, sum(i.price) AS prices, max(e.x) AS max_x,
  count(*) FILTER (WHERE e.ts > now() - INTERVAL '2 hours' AND i.category = 'a') AS a_2h,
  first_value(i.category ORDER BY e.ts) AS first_category
FROM events AS e LEFT JOIN shops AS r ON r.grp = e.grp LEFT JOIN items AS i ON i.item = e.item
WHERE e.ts > now() - INTERVAL '12 hours' GROUP BY r.region;

CREATE FEATURE VIEW meanings AS SELECT grp,
  count(*) FILTER (WHERE arrived - ts > INTERVAL '1 hour') AS late, count(*) FILTER (WHERE arrived - ts BETWEEN INTERVAL '-1 day' AND INTERVAL '20 hours') AS near,
  count(*) FILTER (WHERE ts + INTERVAL '1 month' < arrived + INTERVAL '30 days') AS short_month,
  count(*) FILTER (WHERE CASE -x WHEN 0.0 THEN true ELSE false END) AS zeros, sum(1.0 / nullif(x * -1, 0.0)) AS inverses, min(x / x) AS ratio,
  count(DISTINCT struct(-x, s)) AS pairs, first_value(s ORDER BY -x, n) AS greatest_s, last_value(s ORDER BY x * 0.0, n) AS any_s,
  max(to_timestamp_millis(n)) AS time, last_value(date_trunc('day', ts) ORDER BY ts) AS day, max(-n) AS least, max(abs(d)) AS size,
  max(date_part('epoch', arrived - ts)) FILTER (WHERE now() - ts < INTERVAL '6 hours') AS longest_6h, count(*) FILTER (WHERE now() - INTERVAL '1 hour' - ts >= INTERVAL '1 hour') AS older,
  sum(length(upper(s)) + strpos(s, 'e')) AS letters, count(*) FILTER (WHERE s LIKE '%y%' OR s IN ('p', 'q')) AS some, max(coalesce(s, 'none')) AS max_s,
  now() - max(ts) > INTERVAL '1 day' AS old, CASE WHEN count(*) > 3 THEN 'many' ELSE 'few' END AS size_word, round(avg(x), 2) AS rounded,
  date_part('epoch', now()) - date_part('epoch', max(ts)) < 86400.5 AS seconds_of_a_day
FROM events GROUP BY grp;

CREATE FEATURE VIEW by_hour AS SELECT date_trunc('hour', ts) AS hour, date_part('dow', ts) AS weekday, count(*) AS n_all, sum(-d) AS debt,
  count(*) FILTER (WHERE NOT (now() - ts > INTERVAL '12 hours')) AS n_12h
FROM events GROUP BY date_trunc('hour', ts), date_part('dow', ts);

CREATE FEATURE VIEW busy AS SELECT grp, n % 2 AS odd, count(*) AS n_all, sum(x) AS sum_x, max(n) + 1 AS next,
  last_value(s ORDER BY ts) AS last_s, count(*) FILTER (WHERE ts > now() - INTERVAL '2 hours') AS n_2h
FROM events WHERE ts > now() - INTERVAL '12 hours' GROUP BY grp, n % 2
HAVING count(*) FILTER (WHERE ts > now() - INTERVAL '3 hours') >= 2 AND 6 / (max(n) - 3) < 3 AND now() - max(ts) < INTERVAL '2 hours';

CREATE FEATURE VIEW dear AS SELECT i.category, sum(e.x) AS sum_x, count(*) AS n_all
FROM events AS e JOIN items AS i ON i.item = e.item GROUP BY i.category HAVING sum(i.price) > 10 AND i.category <> 'b';

CREATE FEATURE VIEW faulty AS SELECT grp,
  sum(n * 1500000000000000000) AS products, sum(100 / n) AS shares, sum(100 / n) FILTER (WHERE ts > now() - INTERVAL '6 hours') AS shares_6h, count(*) AS good
FROM events GROUP BY grp;";

/// The other aggregates of docs/sql.md, over windows and without a lower bound, joined and not.
const AGGREGATES: &str = "
CREATE FEATURE VIEW moments AS SELECT grp,
  covar(x, n) FILTER (WHERE ts > now() - INTERVAL '6 hours') AS covar_6h, covar_pop(d, x) AS covar_all, covar_samp(n, d) FILTER (WHERE b) AS covar_b,
  corr(x, d) FILTER (WHERE ts > now() - INTERVAL '1 day') AS corr_1d, corr(n, item) AS corr_all, corr(n, d) FILTER (WHERE ts <= now() - INTERVAL '3 hours') AS corr_old,
  regr_slope(d, n) FILTER (WHERE ts > now() - INTERVAL '12 hours') AS slope_12h, regr_slope(x, d) AS slope_all,
  skewness(d) FILTER (WHERE ts > now() - INTERVAL '1 day') AS skewness_1d, skewness(x) AS skewness_all, kurtosis(n) FILTER (WHERE ts > now() - INTERVAL '1 day') AS kurtosis_1d,
  kurtosis(d) AS kurtosis_all, kurtosis(x) FILTER (WHERE x < 1e9) AS kurtosis_x, var_pop(x) FILTER (WHERE ts > now() - INTERVAL '6 hours') AS var_6h,
  var_pop(n) AS var_all, stddev_pop(d) AS dev_all, stddev_pop(x) FILTER (WHERE ts <= now() - INTERVAL '1 hour' AND ts > now() - INTERVAL '1 day') AS dev_old
FROM events GROUP BY grp;

CREATE FEATURE VIEW moments_joined AS SELECT i.category,
  covar(e.x, i.price) AS covar_all, corr(e.d, i.price) FILTER (WHERE e.ts > now() - INTERVAL '1 day') AS corr_1d, regr_slope(e.n, i.price) AS slope_all,
  skewness(i.price) AS skewness_all, kurtosis(e.n) FILTER (WHERE e.ts > now() - INTERVAL '1 day') AS kurtosis_1d, var_pop(i.price) AS var_all
FROM events AS e JOIN items AS i ON i.item = e.item GROUP BY i.category;

CREATE FEATURE VIEW multisets AS SELECT grp,
  median(x) FILTER (WHERE ts > now() - INTERVAL '6 hours') AS median_6h, median(d) AS median_all, median(n) FILTER (WHERE ts <= now() - INTERVAL '3 hours') AS median_old,
  mode(s) FILTER (WHERE ts > now() - INTERVAL '1 day') AS mode_1d, mode(x) AS mode_all, mode(b) AS mode_b, entropy(s) AS entropy_all,
  entropy(x) FILTER (WHERE ts > now() - INTERVAL '12 hours' AND n > 2) AS entropy_12h, approx_percentile_cont(x, 0.9) FILTER (WHERE ts > now() - INTERVAL '1 day') AS p90_1d,
  approx_percentile_cont(d, 0.333333) AS p33_all, approx_percentile_cont(n, 0) AS p0, approx_percentile_cont(x, 1) AS p100,
  top_k(x, 3) FILTER (WHERE ts > now() - INTERVAL '6 hours') AS top_6h, top_k(s, 4) AS top_all, top_k(DISTINCT x, 3) AS top_distinct, bottom_k(d, 2) AS bottom_all,
  bottom_k(DISTINCT s, 3) FILTER (WHERE ts > now() - INTERVAL '1 day') AS bottom_1d, bottom_k(ts, 2) FILTER (WHERE ts <= now() - INTERVAL '1 hour' AND ts > now() - INTERVAL '9 hours') AS first_times,
  top_k(arrived - ts > INTERVAL '0 days', 2) AS late
FROM events GROUP BY grp;

CREATE FEATURE VIEW multisets_joined AS SELECT i.category,
  median(e.x) AS median_all, mode(e.s) AS mode_all, entropy(e.n) AS entropy_all, approx_percentile_cont(i.price, 0.75) AS p75, top_k(i.price, 3) AS top_all,
  top_k(DISTINCT e.s, 2) FILTER (WHERE e.ts > now() - INTERVAL '12 hours') AS top_12h, bottom_k(e.x, 3) FILTER (WHERE e.ts > now() - INTERVAL '1 day') AS bottom_1d,
  median(i.price) FILTER (WHERE e.ts > now() - INTERVAL '1 day') AS median_1d, bottom_k(DISTINCT e.n, 2) AS bottom_n
FROM events AS e JOIN items AS i ON i.item = e.item GROUP BY i.category;

CREATE FEATURE VIEW lists AS SELECT grp,
  array_agg(s ORDER BY ts DESC LIMIT 3) FILTER (WHERE ts > now() - INTERVAL '6 hours') AS last_6h, array_agg(x ORDER BY ts DESC LIMIT 4) AS last_all,
  array_agg(n ORDER BY ts LIMIT 2) FILTER (WHERE ts > now() - INTERVAL '1 day') AS first_1d, array_agg(d LIMIT 5) FILTER (WHERE n > 2) AS first_all,
  array_agg(DISTINCT s ORDER BY ts DESC LIMIT 3) FILTER (WHERE ts > now() - INTERVAL '12 hours') AS seen_12h, array_agg(DISTINCT x ORDER BY ts LIMIT 4) AS seen_all,
  array_agg(DISTINCT n ORDER BY ts DESC LIMIT 3) IGNORE NULLS AS seen_n, array_agg(x ORDER BY n DESC, s LIMIT 3) FILTER (WHERE ts > now() - INTERVAL '1 day') AS by_n_1d,
  array_agg(s ORDER BY x LIMIT 2) IGNORE NULLS AS by_x, array_agg(DISTINCT b ORDER BY d DESC LIMIT 2) AS by_d,
  array_agg(item ORDER BY ts DESC LIMIT 3) FILTER (WHERE ts <= now() - INTERVAL '2 hours' AND ts > now() - INTERVAL '20 hours') AS older,
  approx_distinct(x) AS distinct_all, approx_distinct(x) FILTER (WHERE ts > now() - INTERVAL '2 days') AS distinct_2d, approx_distinct(d) FILTER (WHERE n > 1) AS distinct_d,
  approx_distinct(d) FILTER (WHERE ts <= now() - INTERVAL '1 hour' AND ts > now() - INTERVAL '2 days') AS distinct_old, approx_distinct(s) AS distinct_s, approx_distinct(ts) AS distinct_ts,
  array_agg(date_trunc('hour', ts) ORDER BY ts DESC LIMIT 2) AS hours, cardinality(array_agg(n LIMIT 100)) AS many
FROM events GROUP BY grp;

CREATE FEATURE VIEW lists_joined AS SELECT i.category,
  array_agg(e.s ORDER BY e.ts DESC LIMIT 3) AS last_all, array_agg(i.price ORDER BY e.ts DESC LIMIT 3) FILTER (WHERE e.ts > now() - INTERVAL '1 day') AS prices_1d,
  array_agg(DISTINCT e.grp ORDER BY e.ts DESC LIMIT 3) FILTER (WHERE e.ts > now() - INTERVAL '12 hours') AS groups_12h, array_agg(DISTINCT e.x ORDER BY e.n LIMIT 3) AS by_n,
  approx_distinct(e.d) AS distinct_all, approx_distinct(e.ts) FILTER (WHERE e.ts > now() - INTERVAL '2 days') AS distinct_2d, approx_distinct(i.price) AS distinct_prices,
  array_agg(e.x ORDER BY i.price, e.n DESC LIMIT 2) FILTER (WHERE e.ts > now() - INTERVAL '1 day') AS by_price
FROM events AS e JOIN items AS i ON i.item = e.item GROUP BY i.category;

CREATE FEATURE VIEW decayed AS SELECT grp,
  decayed_sum(x, INTERVAL '2 hours') FILTER (WHERE ts > now() - INTERVAL '1 day') AS sum_1d, decayed_sum(d, INTERVAL '6 hours') AS sum_all, decayed_count(INTERVAL '90 minutes') AS count_all,
  decayed_sum(n, INTERVAL '10 minutes') FILTER (WHERE b) AS sum_n, decayed_count(INTERVAL '1 hour') FILTER (WHERE ts <= now() - INTERVAL '1 hour' AND n > 2) AS count_old
FROM events GROUP BY grp;

CREATE FEATURE VIEW decayed_joined WITH (resolution = '10 minutes') AS SELECT i.category,
  decayed_sum(i.price, INTERVAL '3 hours') AS sum_all, decayed_count(INTERVAL '20 minutes') AS count_all, decayed_sum(e.x, INTERVAL '1 hour') FILTER (WHERE e.ts > now() - INTERVAL '12 hours') AS sum_12h
FROM events AS e JOIN items AS i ON i.item = e.item GROUP BY i.category;";

/// A double as JSON; those that sums and orders stumble over, often.
fn double(rng: &mut StdRng) -> String {
    const HARD: [&str; 12] =
        ["1e16", "-1e16", "1", "-0.0", "0.0", "\"NaN\"", "1e308", "-1e308", "5e-324", "0.1", "\"Infinity\"", "null"];
    match rng.random_bool(0.6) {
        true => (*HARD.choose(rng).expect("not empty")).to_string(),
        false => format!("{}", rng.random_range(-1e3..1e3)),
    }
}

/// An instant within three days; round ones, so that times coincide with one another and with window edges.
fn instant(rng: &mut StdRng) -> i64 {
    let start = at("2024-01-01T00:00:00Z");
    start
        + match rng.random_range(0..4) {
            0 => rng.random_range(0..72) * 3_600_000_000,
            1 => rng.random_range(0..72) * 3_600_000_000 + rng.random_range(-1..=1),
            _ => rng.random_range(0..72 * 3_600) * 1_000_000 + rng.random_range(0..2) * 500_001,
        }
}

fn text(micros: i64) -> String {
    headwater::time::format_instant(micros)
}

/// When it arrived: on time, late, or before its time (beyond the bound at times).
fn arrival(rng: &mut StdRng, ts: i64) -> i64 {
    const HOUR: i64 = 3_600_000_000;
    ts + match rng.random_range(0..10) {
        0 => rng.random_range(0..30 * HOUR),
        1 => -rng.random_range(0..26 * HOUR),
        2 | 3 => rng.random_range(0..HOUR),
        _ => 0,
    }
}

fn events(rng: &mut StdRng, rows: usize) -> String {
    let mut lines = String::new();
    for _ in 0..rows {
        let ts = instant(rng);
        let arrived = text(arrival(rng, ts));
        let broken = match rng.random_range(0..40) {
            0 => "{\"grp\": 1, oh".to_string(),
            1 => format!("{{\"grp\":\"a\",\"ts\":null,\"arrived\":\"{arrived}\"}}"),
            2 => format!("{{\"grp\":\"a\",\"n\":1000,\"ts\":\"{}\",\"arrived\":\"{arrived}\"}}", text(ts)),
            3 => format!("{{\"d\":1.001,\"ts\":\"{}\",\"arrived\":\"{arrived}\"}}", text(ts)),
            _ => String::new(),
        };
        if !broken.is_empty() {
            lines.push_str(&broken);
            lines.push('\n');
            continue;
        }
        let group = ["\"a\"", "\"b\"", "\"\"", "\"a longer name than seven\"", "null"].choose(rng).expect("not empty");
        let s = ["\"p\"", "\"q\"", "\"skip\"", "\"a text beyond seven bytes\"", "null"].choose(rng).expect("not empty");
        let item = if rng.random_bool(0.1) { "null".into() } else { rng.random_range(1..6).to_string() };
        let n = if rng.random_bool(0.1) { "null".into() } else { rng.random_range(0..8).to_string() };
        let b = ["true", "false", "null"].choose(rng).expect("not empty");
        let (x, d) = (double(rng), rng.random_range(-100_000..100_000));
        let sign = if d < 0 { "-" } else { "" };
        let d = format!("{sign}{}.{:02}", (d as i64).abs() / 100, (d as i64).abs() % 100);
        let ts = text(ts);
        writeln!(
            lines,
            "{{\"grp\":{group},\"item\":{item},\"x\":{x},\"d\":{d},\"n\":{n},\"s\":{s},\"b\":{b},\"ts\":\"{ts}\",\"arrived\":\"{arrived}\"}}"
        )
        .expect("a string takes all");
    }
    lines
}

fn items(rng: &mut StdRng) -> String {
    let mut lines = String::new();
    for _ in 0..25 {
        let from = instant(rng);
        let (item, arrived) = (rng.random_range(1..5), text(arrival(rng, from)));
        let category = ["\"a\"", "\"b\"", "null"].choose(rng).expect("not empty");
        let (price, from) = (rng.random_range(1..50), text(from));
        writeln!(
            lines,
            "{{\"item\":{item},\"category\":{category},\"price\":{price}.25,\"valid_from\":\"{from}\",\"arrived\":\"{arrived}\"}}"
        )
        .expect("a string takes all");
    }
    lines
}

/// The definitions with a history of that many events.
pub(crate) fn deployment(seed: u64, rows: usize) -> Deployment {
    deployment_of(VIEWS, seed, rows)
}

fn deployment_of(views: &str, seed: u64, rows: usize) -> Deployment {
    let mut rng = StdRng::seed_from_u64(seed);
    Deployment::new(&[
        ("sources.sql", SOURCES),
        ("views.sql", views),
        ("./events.jsonl", &events(&mut rng, rows)),
        ("./items.jsonl", &items(&mut rng)),
        ("./shops.csv", "grp,region\na,north\nb,south\na longer name than seven,north\n"),
    ])
}

/// Ways to take a history in: workers, rows of a slice at most, kills.
const WAYS: [(usize, usize, usize); 5] = [(1, 10_000, 0), (2, 60, 0), (7, 25, 0), (1, 40, 3), (2, 30, 4)];

/// One history, several ways.
fn check(seed: u64, clock: ReplayClock, rows: usize, ways: &[(usize, usize, usize)]) {
    check_of(VIEWS, seed, clock, rows, ways);
}

fn check_of(views: &str, seed: u64, clock: ReplayClock, rows: usize, ways: &[(usize, usize, usize)]) {
    let deployment = deployment_of(views, seed, rows);
    let loaded = deployment.load();
    // The last is beyond every event, so that pages can answer it too.
    let instants = ["2024-01-01T18:00:00Z", "2024-01-02T12:00:00.000001Z", "2024-01-07T00:00:00Z"].map(at);
    let mut expected = None;
    for (n, &(workers, cut, kills)) in ways.iter().enumerate() {
        let how = How { clock, workers, cut, kills, seed };
        let context = format!("HEADWATER_TEST_SEED={seed} {how:?}");
        eprintln!("{context}");
        let data = deployment.path(&format!("data{n}"));
        loaded.replay(&data, &how);
        let opened = loaded.open(&data);
        let got = (opened.answers(&instants), opened.refused());
        match &expected {
            None => {
                loaded.verify(&data, seed, &context);
                let divided = views == AGGREGATES || got.1.iter().any(|r| r.2.as_deref() == Some("faulty"));
                assert!(divided, "{context}: no division by zero");
                assert!(got.1.iter().any(|r| r.2.is_none()), "{context}: nothing was refused");
                expected = Some(got);
            }
            Some(expected) => {
                for (place, answer) in &expected.0 {
                    assert_eq!(got.0.get(place), Some(answer), "{context}: {place}");
                }
                assert_eq!(got.0.len(), expected.0.len(), "{context}: other groups");
                assert_eq!(got.1, expected.1, "{context}: the refused records");
            }
        }
        if kills > 3 {
            loaded.verify(&data, seed, &context);
        }
    }
}

fn check_all(clock: ReplayClock, seeds: std::ops::Range<u64>) {
    match std::env::var("HEADWATER_TEST_SEED").ok().and_then(|s| s.parse().ok()) {
        Some(seed) => check(seed, clock, 250, &WAYS),
        None => seeds.for_each(|seed| check(seed, clock, 250, &WAYS)),
    }
}

#[test]
fn all_ways_lead_to_one_answer_under_the_event_clock() {
    check_all(ReplayClock::Event, 0..3);
}

#[test]
fn all_ways_lead_to_one_answer_under_the_record_clock() {
    check_all(ReplayClock::Record, 100..103);
}

/// Groups of many chunks, tallies of many runs: as above.
#[test]
fn large_groups_are_no_exception() {
    check(200, ReplayClock::Record, 6_000, &[(1, 20_000, 0), (2, 900, 4)]);
}

/// The aggregates of docs/sql.md that are not in every other test: as above.
#[test]
fn every_aggregate_has_one_answer_too() {
    let seed = std::env::var("HEADWATER_TEST_SEED").ok().and_then(|s| s.parse().ok());
    check_of(AGGREGATES, seed.unwrap_or(500), ReplayClock::Event, 250, &WAYS);
    check_of(AGGREGATES, seed.unwrap_or(501), ReplayClock::Record, 250, &WAYS);
}

/// Groups of many chunks, sketches that estimate, tallies of many runs.
#[test]
fn every_aggregate_of_a_large_group_is_no_exception() {
    check_of(AGGREGATES, 502, ReplayClock::Record, 3_000, &[(1, 20_000, 0), (2, 900, 4)]);
}

/// A node that keeps as good as nothing in memory comes to the same pages.
#[test]
fn pages_that_left_memory_are_read_again() {
    let deployment = deployment(300, 600);
    let loaded = deployment.load();
    let data = deployment.path("data");
    let mut node = loaded.node(&data, 2);
    node.cache().keep_in_memory(1);
    let (sources, kafka) = (&loaded.plan.sources, KafkaSettings::default());
    let mut replay =
        Replay::new(sources, &loaded.dir, ReplayClock::Record, &kafka, &Resume::default()).expect("files are readable");
    let mut least = u64::MAX;
    while let Some(slice) = replay.next_slice(40).expect("files are readable") {
        node.feed(slice, ClockKind::Record).expect("the node takes it");
        node.drain().expect("it is committed");
        // A page that a pass has written may leave in the next but one that finds it unused.
        for _ in 0..3 {
            node.cache().write_back().expect("pages are written");
        }
        least = least.min(node.cache().resident(0));
    }
    assert!(node.cache().evicted() > 100 && least == 0, "{} left, {least} stayed", node.cache().evicted());
    node.stop().expect("the node stops");
    loaded.verify(&data, 300, "pages left memory");
}

/// Readers of an older commit and of a newer one do not disturb each other.
#[test]
fn a_held_commit_and_a_newer_one_are_both_answered() {
    let deployment = deployment(400, 400);
    let loaded = deployment.load();
    let mut node = loaded.node(&deployment.path("data"), 2);
    let (sources, kafka) = (&loaded.plan.sources, KafkaSettings::default());
    let mut replay =
        Replay::new(sources, &loaded.dir, ReplayClock::Record, &kafka, &Resume::default()).expect("files are readable");
    let mut feed = |node: &mut Node, slices: usize| {
        for _ in 0..slices {
            let Some(slice) = replay.next_slice(40).expect("files are readable") else { break };
            node.feed(slice, ClockKind::Record).expect("the node takes it");
        }
        node.drain().expect("it is committed");
    };
    let later = at("2024-01-07T00:00:00Z");
    let answers = |node: &Node, epoch: u64| {
        let mut answers = vec![];
        for view in 0..loaded.plan.views.len() {
            for group in node.cache().groups(view).expect("pages are readable") {
                let answer = node.cache().read(view, &group, epoch, later).expect("pages are readable");
                answers.push(match answer {
                    // A group that has no row yet, or not any more, answers as one that was never heard of.
                    Read::Answer(a) => format!("{view} {group:?} {a:?}"),
                    Read::Nothing => format!("{view} {group:?} nothing"),
                    Read::NeedsLog => panic!("view {view}: nothing is past these commits"),
                });
            }
        }
        answers
    };
    feed(&mut node, 4);
    let cache = Arc::clone(node.cache());
    let (older, hold) = cache.hold_published();
    let before = answers(&node, older.epoch);
    feed(&mut node, usize::MAX);
    let newer = node.cache().published().epoch;
    let held = answers(&node, newer);
    let still: Vec<String> = answers(&node, older.epoch);
    assert!(before.iter().all(|a| still.contains(a)), "the older commit is answered as before");
    drop(hold);
    let free = answers(&node, newer);
    assert_eq!(held.len(), free.len());
    for (held, free) in held.iter().zip(&free) {
        assert_eq!(held, free, "the newer commit is answered as if nobody held the older one");
    }
    assert_ne!(held, still);
}
