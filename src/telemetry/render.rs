//! The registry as Prometheus text.
//!
//! Invariants: families come in the order of the table. Neighbours: `encode` writes the lines; `serve::http` sends them.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::encode::{Encoder, Value};
use super::lag::OperatorRow;
use super::serving::{RouteMetrics, ValueOutcome};
use super::source::{Outcome, PartitionMetrics, State};
use super::{Metrics, family};

impl Metrics {
    /// The text of `/metrics` at `now` (µs).
    pub fn render(&self, now: i64) -> String {
        self.collect();
        let mut out = Encoder::default();
        out.family(family("build_info")).sample(&[("version", env!("CARGO_PKG_VERSION"))], Value::Whole(1));
        self.render_sources(now, &mut out);
        render_operators(&self.operators.snapshot(), &mut out);
        self.render_views(&mut out);
        render_serving(&self.serving.routes(), &mut out);
        self.render_engine(&mut out);
        out.finish()
    }

    fn render_sources(&self, now: i64, out: &mut Encoder) {
        let sources: Vec<_> = self.sources.lock().iter().map(|(n, s)| (n.clone(), Arc::clone(s))).collect();
        let mut info = out.family(family("source_info"));
        for (name, source) in &sources {
            let (topic, arrival) = source.info();
            info.sample(&[("source", name), ("topic", &topic), ("arrival_clock", arrival)], Value::Whole(1));
        }
        let mut reachable = out.family(family("source_reachable"));
        for (name, source) in &sources {
            reachable.maybe(&[("source", name)], source.reachable.get().map(Value::Whole));
        }
        let mut partitions: Vec<(&str, String, Arc<PartitionMetrics>)> = vec![];
        for (name, source) in &sources {
            partitions.extend(source.partitions().into_iter().map(|(n, p)| (name.as_str(), n.to_string(), p)));
        }
        type Read = fn(&PartitionMetrics) -> Option<Value>;
        let gauges: [(&str, Read); 8] = [
            ("source_high_offset", |p| p.high.get().map(Value::Whole)),
            ("source_read_offset", |p| p.next.get().map(Value::Whole)),
            ("source_durable_offset", |p| p.durable.get().map(Value::Whole)),
            ("source_lag_records", |p| p.lag().map(Value::Whole)),
            ("source_oldest_unread_append_ts", |p| p.oldest_unread.get().map(Value::Micros)),
            ("source_event_ts_max", |p| p.event_time.get().map(Value::Micros)),
            ("source_watermark_ts", |p| p.watermark.get().map(Value::Micros)),
            ("source_watermark_hold_seconds_total", |p| {
                Some(Value::Micros(i64::try_from(p.held()).unwrap_or(i64::MAX)))
            }),
        ];
        for (metric, read) in gauges {
            let mut samples = out.family(family(metric));
            for (source, partition, p) in &partitions {
                samples.maybe(&[("source", source), ("partition", partition)], read(p));
            }
        }
        let mut states = out.family(family("source_state"));
        for (source, partition, p) in &partitions {
            let current = p.state(now);
            for state in State::ALL {
                let labels = [("source", *source), ("partition", partition), ("state", state.as_str())];
                states.sample(&labels, Value::Whole(i64::from(state == current)));
            }
        }
        let mut records = out.family(family("source_records_total"));
        for (source, partition, p) in &partitions {
            for outcome in Outcome::ALL {
                let labels = [("source", *source), ("partition", partition), ("outcome", outcome.as_str())];
                records.sample(&labels, Value::count(p.records(outcome)));
            }
        }
        let mut lost = out.family(family("source_lost_records_total"));
        for (source, partition, p) in &partitions {
            lost.sample(&[("source", source), ("partition", partition)], Value::count(p.lost()));
        }
        let mut bytes = out.family(family("source_bytes_total"));
        for (source, partition, p) in &partitions {
            bytes.maybe(&[("source", source), ("partition", partition)], p.bytes.get().map(Value::Whole));
        }
        let mut quarantine = out.family(family("quarantine_records_total"));
        for ((source, class), count) in &*self.quarantine.lock() {
            quarantine.sample(&[("source", source), ("class", class)], Value::count(*count));
        }
    }

    fn render_views(&self, out: &mut Encoder) {
        let views: Vec<_> =
            self.views.lock().iter().map(|(n, v)| (n.clone(), v.version.to_string(), Arc::clone(v))).collect();
        type Read = fn(&super::ViewMetrics) -> Option<Value>;
        let render = |out: &mut Encoder, metric: &str, read: Read| {
            let mut samples = out.family(family(metric));
            for (name, version, view) in &views {
                samples.maybe(&[("view", name), ("version", version)], read(view));
            }
        };
        render(out, "view_complete_ts", |v| v.complete.get().map(Value::Micros));
        render(out, "view_durable_ts", |v| v.durable.get().map(Value::Micros));
        let mut freshness = out.family(family("view_freshness_seconds"));
        for (name, version, view) in &views {
            freshness.histogram(&[("view", name), ("version", version)], &view.freshness.snapshot());
        }
        render(out, "view_keys", |v| Some(Value::count(v.keys.load(Relaxed))));
        render(out, "view_state_bytes", |v| Some(Value::count(v.state_bytes.load(Relaxed))));
    }

    fn render_engine(&self, out: &mut Encoder) {
        let engine = &self.engine;
        out.family(family("sums_unfit_total")).sample(&[], Value::count(engine.unfit.load(Relaxed)));
        out.family(family("ready")).sample(&[], Value::count(self.ready()));
        out.family(family("epoch_current")).maybe(&[], engine.epoch.get().map(Value::Micros));
        out.family(family("epoch_close_seconds")).histogram(&[], &engine.close.snapshot());
        let last = engine.checkpoint_last_success.get().map(Value::Micros);
        out.family(family("checkpoint_last_success_ts")).maybe(&[], last);
        out.family(family("checkpoint_seconds")).histogram(&[], &engine.checkpoint.snapshot());
        out.family(family("recovery_seconds")).maybe(&[], engine.recovery.get().map(Value::Micros));
        let mut memory = out.family(family("rocksdb_memory_bytes"));
        for (pool, bytes) in &*engine.rocksdb.lock() {
            memory.sample(&[("pool", pool)], Value::count(*bytes));
        }
    }
}

fn render_operators(rows: &[OperatorRow], out: &mut Encoder) {
    let epoch = |e: u64| i64::try_from(e).unwrap_or(i64::MAX);
    type Read<'a> = &'a dyn Fn(&OperatorRow) -> Option<Value>;
    let metrics: [(&str, Read<'_>); 7] = [
        ("operator_input_frontier_ts", &|r| r.input_frontier.map(|e| Value::Micros(epoch(e)))),
        ("operator_output_frontier_ts", &|r| r.output_frontier.map(|e| Value::Micros(epoch(e)))),
        ("operator_frontier_lag_seconds", &|r| {
            let (input, output) = (r.input_frontier?, r.output_frontier?);
            Some(Value::Micros(epoch(input.saturating_sub(output))))
        }),
        ("operator_busy_seconds_total", &|r| Some(Value::Nanos(r.totals.busy.as_nanos()))),
        ("operator_activations_total", &|r| Some(Value::count(r.totals.runs))),
        ("operator_records_in_total", &|r| Some(Value::count(r.records_in))),
        ("operator_records_out_total", &|r| Some(Value::count(r.records_out))),
    ];
    for (metric, read) in metrics {
        let mut samples = out.family(family(metric));
        for row in rows {
            let label = &row.label;
            samples.maybe(&[("view", &label.view), ("operator", &label.operator), ("kind", &label.kind)], read(row));
        }
    }
}

fn render_serving(routes: &[Arc<RouteMetrics>], out: &mut Encoder) {
    let labels = |r: &Arc<RouteMetrics>| {
        [("endpoint", r.endpoint.clone()), ("view", r.view.clone()), ("method", r.method.clone())]
    };
    fn with<'a>(labels: &'a [(&'a str, String); 3], more: Option<(&'a str, &'a str)>) -> Vec<(&'a str, &'a str)> {
        labels.iter().map(|(n, v)| (*n, v.as_str())).chain(more).collect()
    }
    let mut requests = out.family(family("serve_requests_total"));
    for route in routes {
        let labels = labels(route);
        for (code, count) in route.codes() {
            requests.sample(&with(&labels, Some(("code", &code.to_string()))), Value::count(count));
        }
    }
    let mut seconds = out.family(family("serve_request_seconds"));
    for route in routes {
        seconds.histogram(&with(&labels(route), None), &route.seconds.snapshot());
    }
    let mut wait = out.family(family("serve_wait_seconds"));
    for route in routes {
        let snapshot = route.wait.snapshot();
        if snapshot.count > 0 {
            wait.histogram(&with(&labels(route), None), &snapshot);
        }
    }
    let mut values = out.family(family("serve_values_total"));
    for route in routes {
        let labels = labels(route);
        for outcome in ValueOutcome::ALL {
            let count = route.served(outcome);
            if count > 0 {
                values.sample(&with(&labels, Some(("outcome", outcome.as_str()))), Value::count(count));
            }
        }
    }
}
