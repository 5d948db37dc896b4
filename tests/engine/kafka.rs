//! A real broker and a node that is killed again and again: nothing is lost, nothing counts twice.
//!
//! Needs `HEADWATER_TEST_BROKERS` (scripts/test sets it) and the real data; without a broker it fails.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;
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
    lines.map(|l| l.expect("text")).collect()
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
    let brokers = std::env::var("HEADWATER_TEST_BROKERS")
        .expect("HEADWATER_TEST_BROKERS names a broker; scripts/test starts one, or scripts/kafka start");
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
    let args = ["--workers", "2", "--http", "127.0.0.1:0", "--grpc", "off", "--resp", "off"];
    let start = || Running::serving(&mut live.command("run", "data", &args));
    let (all, customers) = (lines.len() as i64, customers(&lines));

    let sender = std::thread::spawn({
        let (lines, topic, brokers) = (Arc::clone(&lines), topic.clone(), brokers.clone());
        move || {
            let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &brokers).create().expect("one");
            for part in lines.chunks(lines.len() / (2 * KILLS)) {
                send(&producer, &topic, part);
            }
        }
    });
    let mut given: Vec<String> = vec![];
    for kill in 0..KILLS {
        let before = committed(&loaded, &store);
        let (node, address) = start();
        assert_same_bytes(&address, &given);
        // Somewhere in the middle, or at the end of what has been sent.
        let more = rng.random_range(1..all / KILLS as i64);
        wait_for(&format!("{more} more records before kill {kill}"), || {
            let now = committed(&loaded, &store);
            (now >= before + more || now == all).then_some(())
        });
        for _ in 0..20 {
            let customer = customers[rng.random_range(0..customers.len())];
            given.push(get(&address, &format!("/v1/views/retail_customer/{customer}")));
        }
        node.kill();
    }
    sender.join().expect("all were sent");
    let (mut node, address) = start();
    wait_for("the end of the topic", || (committed(&loaded, &store) == all).then_some(()));
    assert_same_bytes(&address, &given);
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
    assert!(want.len() > 3_000, "{} customers", want.len());
    assert_eq!(got, want, "HEADWATER_TEST_SEED={seed}");
    for view in ["retail_customer", "retail_item", "retail_sub_region"] {
        let (got, want) = (corrected(&live, &data, view), corrected(&file, &data, view));
        assert!(want.lines().count() == 201 && got == want, "{view}, HEADWATER_TEST_SEED={seed}\n{got}\n{want}");
    }
}

/// Every customer there is.
fn customers(lines: &[String]) -> Vec<i64> {
    let customer = |line: &String| {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        line["customer_id"].as_i64()
    };
    lines.iter().filter_map(customer).collect::<BTreeSet<_>>().into_iter().collect()
}

fn get(address: &str, path: &str) -> String {
    let mut response = ureq::get(format!("http://{address}{path}")).call().unwrap_or_else(|e| panic!("{path}: {e}"));
    response.body_mut().read_to_string().expect("a text")
}

/// What was answered before is answered again, to the byte, when its stamp is given back.
fn assert_same_bytes(address: &str, given: &[String]) {
    for body in given {
        let parsed: serde_json::Value = serde_json::from_str(body).expect("JSON");
        let text = |name: &str| parsed[name].as_str().unwrap_or_else(|| panic!("no {name} in {body}"));
        let path = format!("/v1/views/retail_customer/{}", parsed["entity"]["customer_id"]);
        let again = get(address, &format!("{path}?epoch={}&as_of={}", text("epoch"), text("as_of")));
        assert_eq!(again, *body);
    }
}

/// The history of all probes of a view, as corrected: the file's text.
fn corrected(deployment: &Deployment, data: &Path, view: &str) -> String {
    let labels = data.join("expected/probes").join(format!("{view}.csv")).display().to_string();
    let (out, features) = (deployment.path("corrected.csv"), format!("{view}:*"));
    let path = out.display().to_string();
    let args = ["--labels", &labels, "--features", &features, "--mode", "corrected", "--out", &path];
    deployment.run("history", "data", &args).expect(0, &[]);
    std::fs::read_to_string(out).expect("it was written")
}
