//! A real broker and a node that is killed again and again: nothing is lost, nothing counts twice.
//!
//! Needs `HEADWATER_TEST_BROKERS` (scripts/test sets it) and the real data; without either it says so and passes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use headwater::plan::operator::Output;
use headwater::source::replay::ReplayClock;
use headwater::state::Store;
use headwater::state::cache::Read;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::real::data;
use super::support::{Deployment, How, Loaded, Running, wait_for};

/// Order lines taken from the real data; enough that a kill comes in the middle of them.
const LINES: usize = 60_000;
const KILLS: usize = 10;
/// Later than any commit.
const LATER: i64 = 4_000_000_000_000_000;

/// The retail deployment with its events from `connector`.
fn deployment(data: &Path, connector: &str) -> Deployment {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/retail/dataflows");
    let deployment = Deployment::new(&[]);
    for entry in std::fs::read_dir(from).expect("the definitions are there") {
        let path = entry.expect("readable").path();
        let text = std::fs::read_to_string(&path).expect("text");
        let file = "FROM FILE (path = '${DATA}/events.jsonl.gz', format = 'jsonl')";
        let text = text.replace(file, connector).replace("${DATA}", &data.join("retail").display().to_string());
        deployment.write(&path.file_name().expect("a name").to_string_lossy(), &text);
    }
    deployment
}

fn lines(data: &Path) -> Vec<String> {
    let file = std::fs::File::open(data.join("retail/events.jsonl.gz")).expect("the events are there");
    let lines = BufReader::new(flate2::read::GzDecoder::new(file)).lines();
    lines.take(LINES).map(|l| l.expect("text")).collect()
}

fn create_topic(brokers: &str, topic: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a client");
    let new = NewTopic::new(topic, 4, TopicReplication::Fixed(1));
    let made =
        futures::executor::block_on(admin.create_topics([&new], &AdminOptions::new())).expect("the broker answers");
    assert!(made.iter().all(Result::is_ok), "{made:?}");
}

/// Sends lines by customer.
fn send(producer: &BaseProducer, topic: &str, lines: &[String]) {
    for line in lines {
        let parsed: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let key = parsed["customer_id"].to_string();
        let mut record = BaseRecord::to(topic).key(&key).payload(line);
        while let Err((error, again)) = producer.send(record) {
            let full = matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
            assert!(full, "{error}");
            producer.poll(Duration::from_millis(10));
            record = again;
        }
    }
    producer.flush(Duration::from_secs(60)).expect("delivered");
}

/// Records of the topic that are committed, read beside the node.
fn committed(loaded: &Loaded, data: &Path) -> i64 {
    // There is none before the node has made it.
    let Ok(store) = Store::open_reader(data, &loaded.plan) else { return 0 };
    let offsets = store.offsets().expect("offsets are readable");
    (0..4).map(|partition| offsets.get("events", partition)).sum()
}

/// `lines_all` and `spend_all` of every customer.
fn lifetime(loaded: &Loaded, data: &Path) -> BTreeMap<Vec<u8>, String> {
    let opened = loaded.open(data);
    let view = loaded.plan.view_index("retail_customer").expect("there is one");
    let planned = &loaded.plan.views[view].plan;
    let aggregate = |name: &str| match planned.features.iter().find(|f| f.name == name).map(|f| &f.output) {
        Some(Output::Aggregate(n)) => *n,
        other => panic!("{name}: {other:?}"),
    };
    let wanted = ["lines_all", "spend_all"].map(aggregate);
    let last = opened.store.last_commit().expect("readable").expect("there is one").last;
    let groups = opened.cache.groups(view).expect("pages are readable");
    let answer = |group: Vec<u8>| match opened.cache.read(view, &group, last, LATER).expect("pages are readable") {
        Read::Answer(a) => (group, format!("{:?}", wanted.map(|n| a.values[n].clone()))),
        other => panic!("the pages say {other:?}"),
    };
    groups.into_iter().map(answer).collect()
}

fn fresh_seed() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}

#[test]
fn a_node_killed_ten_times_answers_as_one_that_was_not() {
    let Ok(brokers) = std::env::var("HEADWATER_TEST_BROKERS") else {
        eprintln!("skipped: HEADWATER_TEST_BROKERS names no broker; scripts/test starts one");
        return;
    };
    let Some(data) = data() else { return };
    let lines = Arc::new(lines(&data));
    let seed = std::env::var("HEADWATER_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(fresh_seed);
    eprintln!("HEADWATER_TEST_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);

    let topic = format!("retail-{}", uuid::Uuid::new_v4());
    create_topic(&brokers, &topic);
    let kafka = format!("FROM KAFKA (topic = '{topic}', format = 'json', brokers = '{brokers}')");
    let live = deployment(&data, &kafka);
    let (loaded, store) = (live.load(), live.path("data"));
    let args = ["--workers", "2", "--http", "off", "--grpc", "off", "--resp", "off"];
    let start = || Running::start(&mut live.command("run", "data", &args));

    let sent = Arc::new(AtomicBool::new(false));
    let sender = std::thread::spawn({
        let (lines, sent, topic, brokers) = (Arc::clone(&lines), Arc::clone(&sent), topic.clone(), brokers.clone());
        move || {
            let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &brokers).create().expect("one");
            for part in lines.chunks(lines.len() / (2 * KILLS)) {
                send(&producer, &topic, part);
                std::thread::yield_now();
            }
            sent.store(true, Ordering::Release);
        }
    });
    for kill in 0..KILLS {
        let before = committed(&loaded, &store);
        let node = start();
        // Somewhere in the middle, or at the end of what has been sent.
        let more = rng.random_range(1..(LINES / KILLS) as i64);
        wait_for(&format!("{more} more records before kill {kill}"), || {
            let now = committed(&loaded, &store);
            (now >= before + more || now == LINES as i64).then_some(())
        });
        node.kill();
    }
    sender.join().expect("all were sent");
    assert!(sent.load(Ordering::Acquire));
    let mut node = start();
    wait_for("the end of the topic", || (committed(&loaded, &store) == LINES as i64).then_some(()));
    let stopped = std::process::Command::new("kill").arg(node.0.id().to_string()).status().expect("kill is there");
    assert!(stopped.success());
    let status = node.0.wait().expect("it is our child");
    assert_eq!(status.code(), Some(0), "a node that is told to stop exits with 0");

    live.run("verify", "data", &["--all"]).expect(0, &["differing=0", "problems=0"]);
    let file = deployment(&data, "FROM FILE (path = 'events.jsonl', format = 'jsonl')");
    file.write("./events.jsonl", &(lines.join("\n") + "\n"));
    let replayed = file.load();
    let how = How { clock: ReplayClock::Event, workers: 1, cut: 20_000, kills: 0, seed };
    replayed.replay(&file.path("data"), &how);
    let (got, want) = (lifetime(&loaded, &store), lifetime(&replayed, &file.path("data")));
    assert!(want.len() > 500, "{} customers", want.len());
    assert_eq!(got, want, "HEADWATER_TEST_SEED={seed}");
}
