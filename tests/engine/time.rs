//! Time and nodes: replays that were interrupted, what is settled beside a node, threads that die, second nodes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use headwater::engine::EngineError;
use headwater::source::kafka::KafkaSettings;
use headwater::source::replay::{Replay, ReplayClock, Resume};
use headwater::state::commit::ClockKind;
use headwater::state::{StateError, Store};
use headwater::time::format_instant;

use super::support::{Deployment, Done, Running, at, wait_for};

const EVENTS: &str = "CREATE STREAM events (u BIGINT, ts TIMESTAMP NOT NULL, seen TIMESTAMP NOT NULL)
EVENT TIME ts ARRIVAL TIME seen FROM FILE (path = 'events.jsonl', format = 'jsonl');\n";
const VIEW: &str = "CREATE FEATURE VIEW counts AS SELECT u, count(*) AS n FROM events GROUP BY u;\n";
const SERVE: [&str; 6] = ["--http", "127.0.0.1:0", "--grpc", "off", "--resp", "off"];
const ROWS: i64 = 30;

/// Events of one user, one a second; they arrive in another order than they happen in.
fn deployment() -> Deployment {
    let start = at("2024-01-01T00:00:00Z");
    let second = |n: i64| format_instant(start + n * 1_000_000);
    let row =
        |n: i64| format!("{{\"u\":1,\"ts\":\"{}\",\"seen\":\"{}\"}}\n", second(n), second(1_000 + (n * 7) % ROWS));
    let rows: String = (0..ROWS).map(row).collect();
    Deployment::new(&[("a.sql", EVENTS), ("b.sql", VIEW), ("./events.jsonl", &rows)])
}

/// Takes a third of the history in under this clock; then the process is gone without a stop.
fn interrupted(clock: ReplayClock, kind: ClockKind) -> Deployment {
    let deployment = deployment();
    let loaded = deployment.load();
    let mut node = loaded.node(&deployment.path("data"), 1);
    let (kafka, resume) = (KafkaSettings::default(), Resume::default());
    let mut replay = Replay::new(&loaded.plan.sources, &loaded.dir, clock, &kafka, &resume).expect("a history");
    let slice = replay.next_slice(10).expect("readable").expect("there are rows");
    node.feed(slice, kind).expect("the node takes it");
    assert_eq!(node.drain().expect("it is committed").events, 10);
    deployment
}

fn count(deployment: &Deployment) -> String {
    let done = deployment.run("get", "data", &["counts", "1"]).expect(0, &["\"n\":"]);
    done.out.rsplit("\"n\":").next().expect("it is there").trim_end_matches(['}', '\n']).to_string()
}

/// Rule 6, and what an interrupted replay owes: nothing is read twice, whoever comes next.
#[test]
fn an_interrupted_replay_is_finished_under_its_clock_or_refused() {
    for (clock, kind, own, other) in [
        (ReplayClock::Event, ClockKind::Event, "event", "record"),
        (ReplayClock::Record, ClockKind::Record, "record", "event"),
    ] {
        let deployment = interrupted(clock, kind);
        let said = ["was interrupted", &format!("--clock {own}")];
        deployment.run("run", "data", &SERVE).expect(1, &said);
        deployment.run("run", "data", &[&SERVE[..], &["--clock", other]].concat()).expect(1, &said);
        deployment.run("replay", "data", &["--clock", other]).expect(1, &said);
        assert_eq!(count(&deployment), "10");
        deployment.run("replay", "data", &["--clock", own]).expect(0, &["events=20"]);
        assert_eq!(count(&deployment), ROWS.to_string());
        // Now that all is taken, the order in which it was no longer matters.
        deployment.run("replay", "data", &["--clock", other]).expect(0, &["events=0"]);
        deployment.run("verify", "data", &["--all"]).expect(0, &["differing=0"]);
    }
}

#[test]
fn a_node_under_a_clock_goes_on_with_its_replay_and_then_lives() {
    let deployment = interrupted(ReplayClock::Event, ClockKind::Event);
    let mut run = deployment.command("run", "data", &[&SERVE[..], &["--clock", "event"]].concat());
    let (node, address) = Running::serving(&mut run);
    let url = format!("http://{address}/v1/views/counts/1");
    let answer = || {
        let mut reply = ureq::get(&url).call().expect("an answer");
        reply.body_mut().read_json::<serde_json::Value>().expect("JSON")
    };
    // At first it is as far as the replay is; once that is over its answers are about the present.
    let live = wait_for("it to be live", || {
        Some(answer()).filter(|a| at(a["as_of"].as_str().expect("an instant")) > at("2026-01-01T00:00:00Z"))
    });
    assert_eq!(live["features"]["n"], ROWS, "{live}");
    assert_eq!(live["epoch"], format_instant(at("2024-01-01T00:00:00Z") + (ROWS - 1) * 1_000_000));
    node.kill();
    // The replay's commits are visible at their own times, as before.
    let fifth = "2024-01-01T00:00:04.000000Z";
    let stamped = deployment.run("get", "data", &["counts", "1", "--epoch", fifth]);
    stamped.expect(0, &[&format!("\"as_of\":\"{fifth}\""), "\"n\":5"]);
    deployment.run("get", "data", &["counts", "1", "--as-of", fifth]).expect(0, &["\"n\":5"]);
    // Nothing was committed live, but answers were given: the past is settled.
    deployment.run("replay", "data", &[]).expect(1, &["has been live", "--data-dir"]);
    deployment.run("verify", "data", &["--all"]).expect(0, &["differing=0"]);
}

#[test]
fn before_the_first_commit_nothing_is_answered_from_outside() {
    let deployment = deployment();
    drop(deployment.load().node(&deployment.path("data"), 1));
    deployment.write("./labels.csv", "u,as_of\n1,2024-01-01T00:00:00Z\n");
    let labels = deployment.path("labels.csv").display().to_string();
    let out = deployment.path("out.csv").display().to_string();
    let none = ["nothing is committed yet", "data"];
    deployment.run("get", "data", &["counts", "1"]).expect(1, &none);
    deployment.run("verify", "data", &["--all"]).expect(1, &none);
    let history = ["--labels", &labels, "--features", "counts:n", "--out", &out];
    deployment.run("history", "data", &history).expect(1, &none);
    assert!(!deployment.path("out.csv").exists());
    deployment.run("replay", "data", &[]).expect(0, &["events=30"]);
    deployment.run("history", "data", &history).expect(0, &[]);
}

/// Rules 8 to 10 from outside a node: what a second process says beside it holds from then on.
#[test]
fn a_stamp_taken_beside_a_node_is_answered_the_same_from_then_on() {
    let deployment = deployment();
    let (node, address) = Running::serving(&mut deployment.command("run", "data", &SERVE));
    let url = format!("http://{address}/v1/views/counts/1");
    let body = |query: &str| {
        let mut reply = ureq::get(format!("{url}{query}")).call().expect("an answer");
        reply.body_mut().read_to_string().expect("text")
    };
    wait_for("all events", || body("").contains(&format!("\"n\":{ROWS}")).then_some(()));
    let field = |text: &str, name: &str| {
        let value: serde_json::Value = serde_json::from_str(text).expect("JSON");
        value[name].as_str().expect("text").to_string()
    };
    let beside = deployment.run("get", "data", &["counts", "1"]).expect(0, &["\"n\":30"]).out;
    let (epoch, as_of) = (field(&beside, "epoch"), field(&beside, "as_of"));
    let stamp = ["counts", "1", "--epoch", &epoch, "--as-of", &as_of];
    let live = body("");
    assert!(as_of <= field(&live, "as_of"), "a reader beside it is not ahead of the node: {beside} {live}");
    // The instant alone is the same answer: no other epoch will ever have been visible then.
    assert_eq!(body(&format!("?as_of={as_of}")).trim(), beside.trim());
    assert_eq!(deployment.run("get", "data", &stamp).expect(0, &[]).out, beside);
    // The present of the clock is beyond what the node has settled; it can be waited for.
    let soon = format_instant(at(&field(&body(""), "as_of")) + 5_000);
    let waited = wait_for("the instant to be past", || {
        let reply = ureq::get(format!("{url}?as_of={soon}&wait=1%20second")).call();
        reply.ok().map(|mut r| r.body_mut().read_to_string().expect("text"))
    });
    assert_eq!(field(&waited, "as_of"), soon);
    deployment.write("./labels.csv", "u,as_of\n1,2024-01-01T00:00:04Z\n1,2999-01-01T00:00:00Z\n");
    let labels = deployment.path("labels.csv").display().to_string();
    let out = deployment.path("out.csv").display().to_string();
    let history = ["--labels", &labels, "--features", "counts:n", "--out", &out];
    deployment.run("history", "data", &history).expect(1, &["row 2, column `as_of`", "2999", "known what was visible"]);
    node.kill();
    deployment.run("history", "data", &history).expect(1, &["row 2, column `as_of`", "2999", "known what was visible"]);
    assert_eq!(deployment.run("get", "data", &stamp).expect(0, &[]).out, beside);
    assert_eq!(deployment.run("get", "data", &["counts", "1", "--as-of", &as_of]).expect(0, &[]).out, beside);
}

#[test]
fn a_second_node_is_refused_at_once_and_a_reader_is_waited_for() {
    let deployment = deployment();
    let loaded = deployment.load();
    let data = deployment.path("data");
    let node = loaded.node(&data, 1);
    let begun = Instant::now();
    let refused = Store::open(&data, &loaded.plan);
    assert!(matches!(refused, Err(StateError::InUse { .. })), "it is in use");
    assert!(begun.elapsed() < Duration::from_millis(300), "it took {:?} to say so", begun.elapsed());
    drop(node);
    // Whoever opens to read keeps writers out for a moment only: that is no reason to refuse.
    let reading = std::fs::File::open(data.join("writer.lock")).expect("it is there");
    reading.lock_shared().expect("nobody writes");
    std::thread::scope(|s| {
        let opening = s.spawn(|| Store::open(&data, &loaded.plan).map(drop));
        wait_for("it to have tried", || (begun.elapsed() > Duration::from_millis(400)).then_some(()));
        reading.unlock().expect("it is locked");
        opening.join().expect("it ends").expect("the reader was soon done");
    });
}

/// A worker that panics (an expression kernel is enough) must not leave anybody waiting.
#[test]
fn a_worker_that_panics_stops_the_node_by_name() {
    const SOURCE: &str = "CREATE STREAM events (u BIGINT, good BOOLEAN, ts TIMESTAMP NOT NULL)
      EVENT TIME ts FROM FILE (path = 'events.jsonl', format = 'jsonl');
    CREATE FEATURE VIEW counts AS SELECT u, count(*) AS n FROM events WHERE good GROUP BY u;";
    let row = r#"{"u":1,"good":true,"ts":"2024-01-01T00:00:00Z"}"#;
    for workers in [1, 3] {
        let deployment = Deployment::new(&[("a.sql", SOURCE), ("./events.jsonl", row)]);
        let loaded = deployment.load();
        let mut node = loaded.node(&deployment.path("data"), workers);
        let (kafka, resume) = (KafkaSettings::default(), Resume::default());
        let replay = Replay::new(&loaded.plan.sources, &loaded.dir, ReplayClock::Event, &kafka, &resume);
        let mut slice = replay.and_then(|mut r| r.next_slice(100)).expect("readable").expect("there are rows");
        // A column of another type than the view relies on.
        let (source, batch) = slice.batches.pop().expect("there are rows");
        let (schema, mut columns) = (batch.schema(), batch.columns().to_vec());
        let good = schema.index_of("good").expect("a declared column");
        columns[good] = Arc::new(Int64Array::from(vec![0; batch.num_rows()])) as ArrayRef;
        let mut fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone()).collect();
        fields[good] = Field::new("good", DataType::Int64, true);
        let broken = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("a batch");
        slice.batches.push((source, broken));
        let last = slice.clone();
        node.feed(slice, ClockKind::Event).expect("it is on its way");
        let stopped = loop {
            if let Err(e) = node.feed(last.clone(), ClockKind::Event).and_then(|()| node.drain().map(drop)) {
                break e;
            }
        };
        let said = stopped.to_string();
        assert!(matches!(stopped, EngineError::Stopped(_)), "{said}");
        assert!(said.contains("thread `worker ") && said.contains("panicked"), "{said}");
        let said = node.stop().expect_err("it has stopped").to_string();
        assert!(said.contains("thread `worker "), "{said}");
    }
}

#[test]
fn a_replay_tells_of_its_progress_on_standard_error_only() {
    let deployment = deployment();
    let Done { out, .. } = deployment.run("replay", "data", &[]).expect(0, &["events=30"]);
    assert_eq!(out.lines().count(), 1, "{out}");
}

/// Rules 11 and 12: what was taken back and what was swept leaves its event time, and the status that it had.
#[test]
fn event_time_and_status_outlive_retractions_and_the_sweep() {
    let sources = "CREATE STREAM events (u BIGINT, ts TIMESTAMP NOT NULL) EVENT TIME ts
FROM FILE (path = 'events.jsonl', format = 'jsonl');
CREATE TABLE places (u BIGINT NOT NULL, place TEXT, PRIMARY KEY (u)) FROM FILE (path = 'places.jsonl', format = 'jsonl');\n";
    let views = "CREATE FEATURE VIEW recent AS SELECT u, count(*) AS n FROM events
WHERE ts > now() - INTERVAL '1 hour' GROUP BY u;
CREATE FEATURE VIEW here AS SELECT p.place, count(*) AS n FROM events e JOIN places p ON e.u = p.u GROUP BY p.place;\n";
    let events = "{\"u\":1,\"ts\":\"2024-01-01T00:00:00Z\"}\n{\"u\":1,\"ts\":\"2024-01-01T00:10:00Z\"}
{\"u\":2,\"ts\":\"2024-01-02T00:00:00Z\"}\n";
    let places = "{\"u\":1,\"place\":\"a\"}\n{\"u\":2,\"place\":\"b\"}\n";
    let files = [("a.sql", sources), ("b.sql", views), ("./events.jsonl", events), ("./places.jsonl", places)];
    let deployment = Deployment::new(&files);
    deployment.run("replay", "data", &[]).expect(0, &["events=5"]);
    let check = |args: &[&str], status: &str, event_time: Option<&str>, n: u64| {
        let event_time = event_time.map_or("null".into(), |t| format!("\"{t}.000000Z\""));
        let (status, n) = (format!("\"status\":\"{status}\""), format!("\"n\":{n}}}"));
        deployment.run("get", "data", args).expect(0, &[&status, &format!("\"event_time\":{event_time}"), &n]);
    };
    let (first, last) = (Some("2024-01-01T00:10:00"), Some("2024-01-02T00:00:00"));
    // The stop wrote the pages back a day after user 1 was last seen: its entries are swept, its header is not.
    check(&["recent", "1"], "expired", first, 0);
    check(&["recent", "1", "--as-of", "2024-01-01T00:30:00Z"], "present", first, 2);
    check(&["recent", "1", "--as-of", "2024-01-01T00:05:00Z"], "present", Some("2024-01-01T00:00:00"), 1);
    check(&["recent", "1", "--as-of", "2023-12-31T00:00:00Z"], "absent", None, 0);
    check(&["recent", "7"], "absent", None, 0);
    check(&["here", "a"], "present", first, 2);
    check(&["here", "b"], "present", last, 1);
    // User 1 moves: what place a counted it never counted, as this epoch knows it; but it was heard of.
    deployment.write("./places.jsonl", &format!("{places}{{\"u\":1,\"place\":\"b\"}}\n"));
    deployment.run("replay", "data", &[]).expect(0, &["events=1"]);
    check(&["here", "a"], "absent", first, 0);
    check(&["here", "b"], "present", last, 3);
    check(&["here", "a", "--as-of", "2024-01-02T00:00:00Z"], "present", first, 2);
    deployment.run("verify", "data", &["--all"]).expect(0, &["differing=0"]);
}
