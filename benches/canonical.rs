//! The workload that is quoted: one stream of shop events, one view with ten features, 100,000 users with Zipf-like skew.
//!
//! `cargo bench --bench canonical` prints events per second and CPU per event of a replay from a file and, where
//! `HEADWATER_TEST_BROKERS` names a broker, from a real Kafka topic, with 1 and 2 workers; bytes of state per user; and at
//! a fixed 20,000 events/s the time from append to readable and the time of single reads; and reads of one user who has a
//! million events in the windows. `--events N` for another size, `--only file|kafka|live|hot|read` for a part. CPU is the whole process's, RocksDB's and librdkafka's threads included.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]
#![expect(clippy::cast_possible_truncation, reason = "what a bench measures lasts less than 500 years")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use headwater::engine::{Node, Settings};
use headwater::housekeeping::{Housekeeping, Pace};
use headwater::offline::Offline;
use headwater::online::{Online, StampRequest, ViewRequest};
use headwater::plan::Plan;
use headwater::source::kafka::KafkaSettings;
use headwater::source::live::{Live, Ticks};
use headwater::source::replay::{Replay, ReplayClock, Resume};
use headwater::state::commit::{ClockKind, LogKind};
use headwater::time::{Ask, Clock, Epoch, format_instant};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USERS: usize = 100_000;
const DAYS: i64 = 8;
const RATE: u64 = 20_000;
const START: i64 = 1_700_000_000_000_000;

const VIEW: &str = "CREATE FEATURE VIEW user_activity AS
SELECT user_id,
       count(*)   FILTER (WHERE ts > now() - INTERVAL '1 hour')   AS events_1h,
       count(*)   FILTER (WHERE ts > now() - INTERVAL '24 hours') AS events_24h,
       count(*)   FILTER (WHERE ts > now() - INTERVAL '7 days')   AS events_7d,
       sum(price) FILTER (WHERE ts > now() - INTERVAL '1 hour')   AS spend_1h,
       sum(price) FILTER (WHERE ts > now() - INTERVAL '24 hours') AS spend_24h,
       sum(price) FILTER (WHERE ts > now() - INTERVAL '7 days')   AS spend_7d,
       avg(price) FILTER (WHERE ts > now() - INTERVAL '1 hour')   AS price_1h,
       avg(price) FILTER (WHERE ts > now() - INTERVAL '24 hours') AS price_24h,
       avg(price) FILTER (WHERE ts > now() - INTERVAL '7 days')   AS price_7d,
       last_value(item_id ORDER BY ts) AS last_item
FROM clicks WHERE ts > now() - INTERVAL '7 days' GROUP BY user_id;\n";

/// What is hard with many rows: distinct values, extremes, the last of something, and windows that end before now.
const HOT_VIEW: &str = "CREATE FEATURE VIEW hot AS
SELECT user_id,
       count(*)                                                              AS events_7d,
       count(*)                FILTER (WHERE ts > now() - INTERVAL '1 hour') AS events_1h,
       sum(price)                                                            AS spend_7d,
       stddev(price)                                                         AS spread_7d,
       max(price)              FILTER (WHERE ts > now() - INTERVAL '1 day')  AS highest_1d,
       count(DISTINCT item_id)                                               AS items_7d,
       count(DISTINCT session)                                               AS sessions_7d,
       count(DISTINCT item_id) FILTER (WHERE ts > now() - INTERVAL '1 day')  AS items_1d,
       last_value(item_id ORDER BY ts)                                       AS last_item
FROM clicks WHERE ts > now() - INTERVAL '7 days' GROUP BY user_id;\n";

const STREAM: &str = "CREATE STREAM clicks (user_id BIGINT NOT NULL, item_id BIGINT NOT NULL, kind TEXT NOT NULL,
  price DOUBLE, session TEXT, ts TIMESTAMP NOT NULL) EVENT TIME ts FROM ";

fn main() {
    // `cargo test --benches` and `cargo bench` pass flags of their own.
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str| args.iter().position(|a| a == name).and_then(|n| args.get(n + 1)).cloned();
    let events: usize = value("--events").map_or(5_000_000, |v| v.parse().expect("--events takes a number"));
    let seconds: u64 = value("--seconds").map_or(20, |v| v.parse().expect("--seconds takes a number"));
    let only = value("--only").unwrap_or_default();
    let part = |name: &str| only.is_empty() || only == name;
    let dir = std::env::temp_dir().join(format!("headwater-bench-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("dataflows")).expect("a temporary directory can be made");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("machine: {cores} cores; {events} events over {DAYS} days, {USERS} users, Zipf");
    if part("file") {
        let started = Instant::now();
        write_events(&dir.join("events.jsonl"), events);
        println!("generated in {:.1} s", started.elapsed().as_secs_f64());
        for workers in [1, 2] {
            define(&dir, "FILE (path = 'events.jsonl', format = 'jsonl')");
            replay(&dir, &format!("file, {workers} worker(s)"), workers, &KafkaSettings::default());
        }
    }
    if part("hot") {
        hot(&dir);
    }
    if part("read") {
        read(&dir);
    }
    let Ok(brokers) = std::env::var("HEADWATER_TEST_BROKERS") else {
        println!("kafka and live: skipped, HEADWATER_TEST_BROKERS names no broker (see scripts/kafka)");
        let _ = std::fs::remove_dir_all(&dir);
        return;
    };
    let settings = KafkaSettings { brokers: Some(brokers.clone()), ..KafkaSettings::default() };
    if part("kafka") {
        let topic = format!("bench-{}", std::process::id());
        produce_all(&brokers, &topic, events);
        define(&dir, &format!("KAFKA (topic = '{topic}', format = 'json')"));
        for workers in [1, 2] {
            replay(&dir, &format!("kafka, {workers} worker(s)"), workers, &settings);
        }
    }
    if part("live") {
        let topic = format!("live-{}", std::process::id());
        define(&dir, &format!("KAFKA (topic = '{topic}', format = 'json')"));
        live(&dir, &brokers, &topic, seconds, &settings);
    }
    let _ = std::fs::remove_dir_all(&dir);
}

fn define(dir: &Path, from: &str) {
    std::fs::write(dir.join("dataflows/bench.sql"), format!("{STREAM}{from};\n{VIEW}")).expect("the directory is ours");
}

fn plan(dir: &Path) -> Arc<Plan> {
    let definitions = headwater::definition::load(dir, &BTreeMap::new()).expect("the definitions are right");
    Arc::new(headwater::plan::plan(&definitions).expect("the view can be planned"))
}

/// CPU seconds of this process so far, all threads.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Draws users by Zipf's law with exponent 1.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(n: usize) -> Zipf {
        let weights = (1..=n).scan(0.0, |sum, k| {
            *sum += 1.0 / k as f64;
            Some(*sum)
        });
        Zipf(weights.collect())
    }

    fn draw(&self, rng: &mut StdRng) -> usize {
        let x = rng.random_range(0.0..*self.0.last().expect("at least one"));
        // Ranks scattered over ids, so that hot users are not neighbours.
        self.0.partition_point(|c| *c < x) * 7919 % USERS
    }
}

fn event(rng: &mut StdRng, zipf: &Zipf, at: i64) -> (usize, String) {
    let user = zipf.draw(rng);
    let item: u32 = rng.random_range(1..20_000);
    let kind = ["view", "view", "view", "cart", "purchase"][rng.random_range(0..5)];
    let price = f64::from(rng.random_range(100..50_000)) / 100.0;
    let session: u32 = rng.random();
    let ts = format_instant(at);
    let line = format!(
        r#"{{"user_id":{user},"item_id":{item},"kind":"{kind}","price":{price},"session":"{session:08x}","ts":"{ts}"}}"#
    );
    (user, line)
}

fn write_events(path: &Path, events: usize) {
    let (mut rng, zipf) = (StdRng::seed_from_u64(1), Zipf::new(USERS));
    let mut out = std::io::BufWriter::new(std::fs::File::create(path).expect("the directory is ours"));
    let step = DAYS * 86_400_000_000 / events as i64;
    for n in 0..events {
        writeln!(out, "{}", event(&mut rng, &zipf, START + n as i64 * step).1).expect("the disk has room");
    }
    out.flush().expect("the disk has room");
}

fn replay(dir: &Path, name: &str, workers: usize, kafka: &KafkaSettings) {
    let data = dir.join("data");
    let _ = std::fs::remove_dir_all(&data);
    let plan = plan(dir);
    let (started, cpu_started) = (Instant::now(), cpu());
    let settings = Settings { workers, sync_always: false };
    let mut node = Node::start(Arc::clone(&plan), &data, settings, &Clock::Machine).expect("a fresh directory");
    let clock = ReplayClock::Event;
    let mut replay = Replay::new(&plan.sources, dir, clock, kafka, &Resume::default()).expect("the source is there");
    let (read, read_cpu) = (started.elapsed().as_secs_f64(), cpu() - cpu_started);
    while let Some(slice) = replay.next_slice(50_000).expect("the source can be read") {
        node.feed(slice, ClockKind::Event).expect("the engine runs");
    }
    let progress = node.drain().expect("the engine runs");
    let (seconds, used) = (started.elapsed().as_secs_f64(), cpu() - cpu_started);
    let (state, groups, events) = (node.cache().memory(0), node.cache().resident(0), progress.events as f64);
    println!(
        "{name}: {:.0} events/s, {:.2} us CPU per event (of it reading and sorting {:.2}, {read:.1} s); \
         {:.0} bytes of memory per user ({groups} users)",
        events / seconds,
        used * 1e6 / events,
        read_cpu * 1e6 / events,
        state as f64 / groups as f64,
    );
    let (stopping, before) = (Instant::now(), cpu());
    node.stop().expect("the store takes it");
    let after = (cpu() - before) * 1e6 / events;
    println!(
        "  then written back and sealed in {:.1} s, {after:.2} us CPU per event",
        stopping.elapsed().as_secs_f64()
    );
}

/// One user with a million events in the windows, among others with few: what taking in and reading cost.
fn hot(dir: &Path) {
    const HOT: usize = 1_000_000;
    let (mut rng, zipf) = (StdRng::seed_from_u64(4), Zipf::new(USERS));
    let mut out = std::io::BufWriter::new(std::fs::File::create(dir.join("hot.jsonl")).expect("the directory is ours"));
    let step = 7 * 86_400_000_000 / HOT as i64;
    for n in 0..HOT {
        let (_, line) = event(&mut rng, &zipf, START + n as i64 * step);
        let rest = line.find(',').expect("a field follows");
        writeln!(out, "{{\"user_id\":0{}", &line[rest..]).expect("the disk has room");
        if n % 10 == 0 {
            let (user, line) = event(&mut rng, &zipf, START + n as i64 * step);
            let rest = line.find(',').expect("a field follows");
            writeln!(out, "{{\"user_id\":{}{}", user + 1, &line[rest..]).expect("the disk has room");
        }
    }
    out.flush().expect("the disk has room");
    drop(out);
    let sql = format!("{STREAM}FILE (path = 'hot.jsonl', format = 'jsonl');\n{HOT_VIEW}");
    std::fs::write(dir.join("dataflows/bench.sql"), sql).expect("the directory is ours");
    let (plan, data) = (plan(dir), dir.join("data-hot"));
    let settings = Settings { workers: 1, sync_always: false };
    let (started, cpu_started) = (Instant::now(), cpu());
    let mut node = Node::start(Arc::clone(&plan), &data, settings, &Clock::Machine).expect("a fresh directory");
    let kafka = KafkaSettings::default();
    let mut replay =
        Replay::new(&plan.sources, dir, ReplayClock::Event, &kafka, &Resume::default()).expect("the source is there");
    while let Some(slice) = replay.next_slice(1_000).expect("the source can be read") {
        node.feed(slice, ClockKind::Event).expect("the engine runs");
    }
    let events = node.drain().expect("the engine runs").events as f64;
    let (seconds, used) = (started.elapsed().as_secs_f64(), cpu() - cpu_started);
    println!("hot: {:.0} events/s, {:.2} us CPU per event", events / seconds, used * 1e6 / events);
    let offline = Arc::new(Offline::new(Arc::clone(&plan), Arc::clone(node.store())).expect("types are right"));
    let online = Online::new(plan, Arc::clone(node.cache()), offline, Clock::Machine).expect("right types");
    let as_of = Some(Ask(node.cache().published().visible));
    for (name, user) in [("the user with a million events", 0), ("another user", 1 + 7919)] {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, 10_000_000_000, 3).expect("bounds are right");
        let entities = vec![vec![datafusion::common::ScalarValue::Int64(Some(user))]];
        let request = ViewRequest { view: 0, features: (0..9).collect(), entities };
        let mut answer = None;
        for _ in 0..2_000 {
            let started = Instant::now();
            let stamp = StampRequest { as_of, ..StampRequest::default() };
            answer = Some(online.lookup(std::slice::from_ref(&request), stamp).expect("it has an answer"));
            let _ = histogram.record(started.elapsed().as_nanos() as u64);
        }
        let at = |q: f64| histogram.value_at_quantile(q) as f64 / 1000.0;
        let values = answer.map(|a| format!("{:?}", a.rows[0][0].values[0])).unwrap_or_default();
        println!("  read of {name} ({values}): p50 {:.1} us, p99 {:.1} us", at(0.5), at(0.99));
    }
    let started = Instant::now();
    let pages = node.cache().write_back().expect("the store takes it");
    println!("  {pages} pages written back in {:.2} s", started.elapsed().as_secs_f64());
    drop(node);
}

/// What one read costs: of a user with some thousand events, of one with none in a hundred, of all features and of one.
fn read(dir: &Path) {
    const EVENTS: usize = 3_000;
    const READS: u32 = 20_000;
    let (mut rng, zipf) = (StdRng::seed_from_u64(6), Zipf::new(USERS));
    let mut out =
        std::io::BufWriter::new(std::fs::File::create(dir.join("read.jsonl")).expect("the directory is ours"));
    let step = DAYS * 86_400_000_000 / EVENTS as i64;
    for n in 0..EVENTS {
        let (_, line) = event(&mut rng, &zipf, START + n as i64 * step);
        let rest = &line[line.find(',').expect("a field follows")..];
        writeln!(out, "{{\"user_id\":1{rest}").expect("the disk has room");
        if n % 100 == 0 {
            writeln!(out, "{{\"user_id\":2{rest}").expect("the disk has room");
        }
    }
    out.flush().expect("the disk has room");
    drop(out);
    define(dir, "FILE (path = 'read.jsonl', format = 'jsonl')");
    let (plan, data) = (plan(dir), dir.join("data-read"));
    let settings = Settings { workers: 1, sync_always: false };
    let mut node = Node::start(Arc::clone(&plan), &data, settings, &Clock::Machine).expect("a fresh directory");
    let kafka = KafkaSettings::default();
    let mut replay =
        Replay::new(&plan.sources, dir, ReplayClock::Event, &kafka, &Resume::default()).expect("the source is there");
    while let Some(slice) = replay.next_slice(1_000).expect("the source can be read") {
        node.feed(slice, ClockKind::Event).expect("the engine runs");
    }
    node.drain().expect("the engine runs");
    let offline = Arc::new(Offline::new(Arc::clone(&plan), Arc::clone(node.store())).expect("types are right"));
    let online = Online::new(plan, Arc::clone(node.cache()), offline, Clock::Machine).expect("right types");
    let as_of = Some(Ask(node.cache().published().visible));
    for (name, user) in [("3,000 events", 1), ("30 events", 2), ("none", 3)] {
        for (what, features) in
            [("all ten features", (0..10).collect()), ("events_7d", vec![2]), ("last_item", vec![9])]
        {
            let entities = vec![vec![datafusion::common::ScalarValue::Int64(Some(user))]];
            let request = ViewRequest { view: 0, features, entities };
            let (before, mut answer) = (cpu(), None);
            for _ in 0..READS {
                let stamp = StampRequest { as_of, ..StampRequest::default() };
                answer = Some(online.lookup(std::slice::from_ref(&request), stamp).expect("it has an answer"));
            }
            let micros = (cpu() - before) * 1e6 / f64::from(READS);
            let values = answer.map(|a| format!("{:?}", a.rows[0][0].values)).unwrap_or_default();
            // A digest of the answer, so that nobody makes it faster by making it wrong.
            let digest = xxhash_rust::xxh3::xxh3_64(values.as_bytes());
            println!("read: {what} of a user with {name}: {micros:.2} us CPU (answer {digest:016x})");
        }
    }
    drop(node);
}

fn producer(brokers: &str) -> rdkafka::producer::BaseProducer {
    rdkafka::ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("linger.ms", "1")
        .set("enable.idempotence", "true")
        .set("queue.buffering.max.messages", "1000000")
        .create()
        .expect("the producer's settings are right")
}

fn make_topic(brokers: &str, topic: &str, partitions: i32) {
    use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
    let admin: AdminClient<_> = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create_with_context(rdkafka::client::DefaultClientContext)
        .expect("the admin client's settings are right");
    // Records carry the instant at which the broker appended them.
    let new =
        NewTopic::new(topic, partitions, TopicReplication::Fixed(1)).set("message.timestamp.type", "LogAppendTime");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(admin.create_topics([&new], &AdminOptions::new())).expect("the broker makes the topic");
}

fn send(producer: &rdkafka::producer::BaseProducer, topic: &str, key: &str, line: &str) {
    use rdkafka::producer::BaseRecord;
    while let Err((e, _)) = producer.send(BaseRecord::to(topic).key(key).payload(line)) {
        assert_eq!(e.rdkafka_error_code(), Some(rdkafka::types::RDKafkaErrorCode::QueueFull), "{e}");
        producer.poll(Duration::from_millis(10));
    }
}

fn produce_all(brokers: &str, topic: &str, events: usize) {
    use rdkafka::producer::Producer;
    make_topic(brokers, topic, 4);
    let producer = producer(brokers);
    let (mut rng, zipf) = (StdRng::seed_from_u64(1), Zipf::new(USERS));
    let step = DAYS * 86_400_000_000 / events as i64;
    for n in 0..events {
        let (user, line) = event(&mut rng, &zipf, START + n as i64 * step);
        send(&producer, topic, &user.to_string(), &line);
        if n % 1000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(Duration::from_secs(60)).expect("the broker takes it");
}

/// Append to readable and single reads, at a fixed rate.
fn live(dir: &Path, brokers: &str, topic: &str, seconds: u64, kafka: &KafkaSettings) {
    make_topic(brokers, topic, 4);
    let data = dir.join("data-live");
    let _ = std::fs::remove_dir_all(&data);
    let plan = plan(dir);
    let clock = Clock::Machine;
    let settings = Settings { workers: 1, sync_always: false };
    let mut node = Node::start(Arc::clone(&plan), &data, settings, &clock).expect("a fresh directory");
    let stop = Arc::new(AtomicBool::new(false));
    let housekeeping = Housekeeping::start(&node, Pace::default(), &stop);
    let offline = Arc::new(Offline::new(Arc::clone(&plan), Arc::clone(node.store())).expect("types are right"));
    let online = Online::new(Arc::clone(&plan), Arc::clone(node.cache()), offline, clock.clone()).expect("right types");
    let (to, name, stopping) = (brokers.to_string(), topic.to_string(), Arc::clone(&stop));
    let producing = std::thread::spawn(move || produce_live(&to, &name, &stopping));
    let stopping = Arc::clone(&stop);
    let reading = std::thread::spawn(move || read_live(&online, &stopping));
    let (cache, store, stopping) = (Arc::clone(node.cache()), Arc::clone(node.store()), Arc::clone(&stop));
    let watching = std::thread::spawn(move || watch_live(&cache, &store, &stopping));
    let ticks = Ticks { busy: Duration::from_millis(2), idle: Duration::from_millis(100) };
    let mut live = Live::new(&plan.sources, dir, kafka, Default::default(), &clock, ticks).expect("settings are right");
    let started = Instant::now();
    let mut last = Epoch::ZERO;
    while started.elapsed() < Duration::from_secs(seconds) {
        if let Some(slice) = live.next_slice(last).expect("the broker answers") {
            last = slice.last.unwrap_or(last);
            node.feed(slice, ClockKind::Wall).expect("the engine runs");
        }
        node.check().expect("the engine runs");
    }
    stop.store(true, Ordering::Release);
    let sent = producing.join().expect("the producer ends");
    let reads = reading.join().expect("the reader ends");
    let (appended, sent_at) = watching.join().expect("the watcher ends");
    housekeeping.join();
    let at = |h: &Histogram<u64>, q: f64| h.value_at_quantile(q) as f64 / 1000.0;
    println!("live, {} events/s sent, {} commits:", sent / seconds, node.progress().commits);
    for (from, fresh) in [("append", appended), ("send", sent_at)] {
        let (p50, p99) = (at(&fresh, 0.5), at(&fresh, 0.99));
        println!("  {from} to readable p50 {p50:.1} ms, p99 {p99:.1} ms ({} events)", fresh.len());
    }
    println!("  single read p50 {:.1} us, p99 {:.1} us ({} reads)", at(&reads, 0.5), at(&reads, 0.99), reads.len());
    drop(node);
}

fn produce_live(brokers: &str, topic: &str, stop: &AtomicBool) -> u64 {
    let producer = producer(brokers);
    let (mut rng, zipf) = (StdRng::seed_from_u64(2), Zipf::new(USERS));
    let (started, mut sent) = (Instant::now(), 0);
    while !stop.load(Ordering::Acquire) {
        let due = started.elapsed().as_micros() as u64 * RATE / 1_000_000;
        while sent < due {
            let (user, line) = event(&mut rng, &zipf, Clock::Machine.now());
            send(&producer, topic, &user.to_string(), &line);
            sent += 1;
        }
        // A poll with less than a millisecond would spin, and take a core from what is measured.
        producer.poll(Duration::ZERO);
        std::thread::sleep(Duration::from_millis(1));
    }
    sent
}

/// Single reads of random users, about a thousand a second, in nanoseconds.
fn read_live(online: &Online, stop: &AtomicBool) -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(1, 10_000_000_000, 3).expect("bounds are right");
    let (mut rng, zipf) = (StdRng::seed_from_u64(3), Zipf::new(USERS));
    let features: Vec<usize> = (0..10).collect();
    while !stop.load(Ordering::Acquire) {
        let user = zipf.draw(&mut rng) as i64;
        let entities = vec![vec![datafusion::common::ScalarValue::Int64(Some(user))]];
        let request = ViewRequest { view: 0, features: features.clone(), entities };
        let started = Instant::now();
        online.lookup(std::slice::from_ref(&request), StampRequest::default()).expect("a live read has an answer");
        let _ = histogram.record(started.elapsed().as_nanos() as u64);
        std::thread::sleep(Duration::from_millis(1));
    }
    histogram
}

/// For every event, in microseconds, when its commit could be read: from its append by the broker, which is known to the
/// millisecond and rounded down, and from its own time, which is set before it is sent.
fn watch_live(
    cache: &headwater::state::cache::Cache,
    store: &headwater::state::Store,
    stop: &AtomicBool,
) -> (Histogram<u64>, Histogram<u64>) {
    use arrow::array::AsArray;
    let mut appended = Histogram::new_with_bounds(1, 60_000_000, 3).expect("bounds are right");
    let mut sent = appended.clone();
    let (mut seen, started) = (0, Instant::now());
    while !stop.load(Ordering::Acquire) {
        let published = cache.wait(Duration::from_millis(50), |p| p.epoch > seen);
        let now = Clock::Machine.now();
        // The first seconds fill caches and connect.
        if published.epoch > seen && started.elapsed() > Duration::from_secs(3) {
            for record in
                store.tail(LogKind::Events(store.ids().source(0)), seen, published.epoch).expect("the tail can be read")
            {
                for batch in record.expect("the tail can be read").batches {
                    for (column, histogram) in [("_arrival_time", &mut appended), ("_event_time", &mut sent)] {
                        let at = batch.column_by_name(column).expect("a system column");
                        for at in at.as_primitive::<arrow::datatypes::TimestampMicrosecondType>().values() {
                            let _ = histogram.record((now - at).max(1).cast_unsigned());
                        }
                    }
                }
            }
        }
        seen = published.epoch;
    }
    (appended, sent)
}
