//! The text of `/metrics`, read back by a small parser of the format.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::serving::ValueOutcome;
use super::source::Outcome;
use super::{Kind, Metrics, PREFIX, TABLE};

type Series = BTreeMap<String, f64>;

/// Reads the text: families in order with their types, and every series with its value. Panics on what is not the format.
fn parse(text: &str) -> (Vec<(String, String)>, Series) {
    let (mut families, mut series): (Vec<(String, String)>, Series) = (vec![], BTreeMap::new());
    let mut help = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest.split_once(' ').expect("help has a text").0.to_string());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            assert_eq!(help.take().as_deref(), Some(name), "help stands before type");
            assert!(families.iter().all(|(n, _)| n != name), "{name} is written twice");
            families.push((name.to_string(), kind.to_string()));
        } else {
            let (key, value) = line.rsplit_once(' ').expect("a sample has a value");
            let name = key.split('{').next().expect("a name");
            let (family, kind) = families.last().expect("a sample stands below its family");
            let suffix = name.strip_prefix(family.as_str()).expect("samples are of the family above them");
            let fits =
                suffix.is_empty() != (kind == "histogram") && ["", "_bucket", "_sum", "_count"].contains(&suffix);
            assert!(fits, "{line}");
            let value = if value == "+Inf" { f64::INFINITY } else { value.parse().expect(line) };
            assert!(series.insert(key.to_string(), value).is_none(), "{key} stands twice");
        }
    }
    (families, series)
}

/// A registry in which everything has been reported once.
fn full() -> Metrics {
    let metrics = Metrics::new([("user_activity".to_string(), 3)]);
    let source = metrics.source("clicks");
    source.set_info("shop.clicks", "broker");
    source.reachable.set(1);
    let partition = source.partition(2);
    partition.high.set(120);
    partition.next.raise(100);
    partition.bytes.raise(4_096);
    partition.count(Outcome::Applied, 90);
    partition.count(Outcome::DecodeError, 10);
    partition.durable.set(95);
    partition.oldest_unread.set(1_700_000_000_000_000);
    partition.event_time.raise(1_700_000_001_500_000);
    partition.watermark.set(-1_500_000);
    metrics.quarantined("clicks", "decode: not a number: `x`", 9);
    metrics.quarantined("clicks", "surprise", 1);
    let operators = metrics.operators();
    operators.rows("fold user_activity").took(7);
    operators.rows("fold user_activity").gave(5);
    operators.frontiers("fold user_activity", 0).set_input(3_000_000);
    operators.frontiers("fold user_activity", 0).set_output(1_000_000);
    metrics.set_complete(5_000_000);
    metrics.set_durable(4_000_000);
    let view = metrics.view("user_activity").expect("it was declared");
    view.freshness.record_micros(2_000, 50);
    let route = metrics.serving().route("/v1/features", "POST", "");
    route.request(200, Duration::from_micros(40));
    route.request(404, Duration::from_micros(400));
    route.values(ValueOutcome::Null, 2);
    route.wait.record(Duration::from_millis(3));
    let engine = metrics.engine();
    engine.epoch.set(6_000_000);
    engine.close.record(Duration::from_millis(1));
    engine.checkpoint_last_success.set(7_000_000);
    engine.recovery.set(250_000);
    metrics.on_scrape(|m| m.engine().rocksdb_memory("memtables", 1 << 20));
    metrics
}

#[test]
fn everything_in_the_table_is_exported_in_its_order() {
    let (families, _) = parse(&full().render(0));
    let kind = |k: Kind| match k {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let want: Vec<_> = TABLE.iter().map(|f| (format!("{PREFIX}{}", f.name), kind(f.kind).to_string())).collect();
    assert_eq!(families, want);
    let names: BTreeSet<_> = TABLE.iter().map(|f| f.name).collect();
    assert_eq!(names.len(), TABLE.len(), "a name stands twice in the table");
    for family in TABLE {
        assert_eq!(family.kind == Kind::Counter, family.name.ends_with("_total"), "{}", family.name);
        assert!(family.help.ends_with('.') && family.help.len() < 120, "{}", family.name);
    }
}

#[test]
fn what_was_reported_is_what_is_exported() {
    let (_, series) = parse(&full().render(1_700_000_010_000_000));
    let check = |key: &str, want: f64| {
        assert_eq!(series.get(&format!("headwater_{key}")), Some(&want), "{key}");
    };
    check("source_info{source=\"clicks\",topic=\"shop.clicks\",arrival_clock=\"broker\"}", 1.0);
    let at = "{source=\"clicks\",partition=\"2\"}";
    check(&format!("source_high_offset{at}"), 120.0);
    check(&format!("source_read_offset{at}"), 100.0);
    check(&format!("source_durable_offset{at}"), 95.0);
    check(&format!("source_lag_records{at}"), 20.0);
    check(&format!("source_oldest_unread_append_ts{at}"), 1_700_000_000.0);
    check(&format!("source_event_ts_max{at}"), 1_700_000_001.5);
    check(&format!("source_watermark_ts{at}"), -1.5);
    check(&format!("source_bytes_total{at}"), 4096.0);
    check("source_state{source=\"clicks\",partition=\"2\",state=\"active\"}", 1.0);
    check("source_state{source=\"clicks\",partition=\"2\",state=\"stalled\"}", 0.0);
    check("source_records_total{source=\"clicks\",partition=\"2\",outcome=\"applied\"}", 90.0);
    check("source_records_total{source=\"clicks\",partition=\"2\",outcome=\"decode_error\"}", 10.0);
    check("quarantine_records_total{source=\"clicks\",class=\"decode\"}", 9.0);
    check("quarantine_records_total{source=\"clicks\",class=\"other\"}", 1.0);
    let fold = "{view=\"user_activity\",operator=\"fold\",kind=\"fold\"}";
    check(&format!("operator_frontier_lag_seconds{fold}"), 2.0);
    check(&format!("operator_records_in_total{fold}"), 7.0);
    check(&format!("operator_records_out_total{fold}"), 5.0);
    let view = "view=\"user_activity\",version=\"3\"";
    check(&format!("view_complete_ts{{{view}}}"), 5.0);
    check(&format!("view_durable_ts{{{view}}}"), 4.0);
    check(&format!("view_freshness_seconds_bucket{{{view},le=\"0.001\"}}"), 0.0);
    check(&format!("view_freshness_seconds_bucket{{{view},le=\"0.0025\"}}"), 50.0);
    check(&format!("view_freshness_seconds_sum{{{view}}}"), 0.1);
    let route = "endpoint=\"/v1/features\",method=\"POST\"";
    check(&format!("serve_requests_total{{{route},code=\"404\"}}"), 1.0);
    check(&format!("serve_request_seconds_bucket{{{route},le=\"0.00005\"}}"), 1.0);
    check(&format!("serve_request_seconds_bucket{{{route},le=\"+Inf\"}}"), 2.0);
    check(&format!("serve_values_total{{{route},outcome=\"null\"}}"), 2.0);
    check("epoch_current", 6.0);
    check("recovery_seconds", 0.25);
    check("rocksdb_memory_bytes{pool=\"memtables\"}", f64::from(1 << 20));
}

#[test]
fn a_stall_shows_at_the_second_look() {
    let metrics = full();
    let stalled = |now: i64| {
        let (_, series) = parse(&metrics.render(now));
        series["headwater_source_state{source=\"clicks\",partition=\"2\",state=\"stalled\"}"]
    };
    assert_eq!((stalled(0), stalled(29_000_000), stalled(30_000_000)), (0.0, 0.0, 1.0));
}
