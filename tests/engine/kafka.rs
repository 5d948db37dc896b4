//! A real broker: a node that is killed again and again loses nothing and counts nothing twice; a topic that is made anew
//! is not read; what retention took is on record.
//!
//! Needs `HEADWATER_TEST_BROKERS` (scripts/test starts a broker and sets it): without one these tests fail.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::executor::block_on;
use headwater::plan::operator::Output;
use headwater::source::replay::ReplayClock;
use headwater::state::cache::Read;
use headwater::state::{StateError, Store};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

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

fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a client")
}

fn create_topic(brokers: &str, topic: &str) {
    let (admin, new) = (admin(brokers), NewTopic::new(topic, 4, TopicReplication::Fixed(1)));
    // One that was just deleted may be on its way out.
    wait_for("the topic", || {
        let made = block_on(admin.create_topics([&new], &AdminOptions::new())).expect("the broker answers");
        made.iter().all(Result::is_ok).then_some(())
    });
}

fn delete_topic(brokers: &str, topic: &str) {
    let gone = block_on(admin(brokers).delete_topics(&[topic], &AdminOptions::new())).expect("the broker answers");
    assert!(gone.iter().all(Result::is_ok), "{gone:?}");
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
    let store = match Store::open_reader(data, &loaded.plan) {
        Ok(store) => store,
        // There is none before the node has made it.
        Err(StateError::Missing(_)) => return 0,
        Err(e) => panic!("the store of a running node can be read: {e}"),
    };
    let offsets = store.offsets().expect("offsets are readable");
    (0..4).map(|partition| offsets.get("events", partition)).sum()
}

fn brokers() -> String {
    let named = std::env::var("HEADWATER_TEST_BROKERS");
    named.expect("HEADWATER_TEST_BROKERS names a broker for these tests; scripts/test starts one")
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
    let brokers = brokers();
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

/// A node that counts what a topic of its own has.
struct Counter {
    brokers: String,
    topic: String,
    producer: BaseProducer,
    deployment: Deployment,
    loaded: Loaded,
}

impl Counter {
    fn new() -> Counter {
        let (brokers, topic) = (brokers(), format!("counted-{}", uuid::Uuid::new_v4()));
        create_topic(&brokers, &topic);
        let deployment = Deployment::new(&[(
            "a.sql",
            &format!(
                "CREATE STREAM events (customer_id BIGINT, ts TIMESTAMP NOT NULL) EVENT TIME ts
                 FROM KAFKA (topic = '{topic}', format = 'json', brokers = '{brokers}');
                 CREATE FEATURE VIEW counted AS SELECT customer_id, count(*) AS n FROM events GROUP BY customer_id;"
            ),
        )]);
        let producer = ClientConfig::new().set("bootstrap.servers", &brokers).create().expect("a producer");
        let loaded = deployment.load();
        Counter { brokers, topic, producer, deployment, loaded }
    }

    fn send(&self, records: usize) {
        let line = |n| format!("{{\"customer_id\":{n},\"ts\":\"2024-01-01T00:00:00Z\"}}");
        send(&self.producer, &self.topic, &(0..records).map(line).collect::<Vec<_>>());
    }

    fn start(&self) -> (Running, String) {
        let args = ["--http", "127.0.0.1:0", "--grpc", "off", "--resp", "off"];
        Running::serving(&mut self.deployment.command("run", "data", &args))
    }

    fn committed(&self) -> i64 {
        committed(&self.loaded, &self.deployment.path("data"))
    }

    fn wait_until_committed(&self, records: i64) {
        wait_for(&format!("{records} records"), || (self.committed() == records).then_some(()));
    }

    /// The node cannot read the topic, and says so.
    fn wait_until_refused(&self, address: &str) {
        wait_for("the refusal", || {
            let store = Store::open_reader(&self.deployment.path("data"), &self.loaded.plan).ok()?;
            store.source_states().ok()?.remove("events")?.refused
        });
        wait_for("the metric", || metric(address, "source_reachable{source=\"events\"}").filter(|v| *v == 0.0));
    }

    fn verify(&self, words: &[&str]) {
        self.deployment.run("verify", "data", &["--all"]).expect(0, words);
    }
}

/// As behind a black hole: connections stay, and nothing comes. What was true a moment ago is not said of now.
#[test]
fn a_silent_broker_makes_answers_stale() {
    let mock = MockCluster::new(1).expect("a cluster");
    mock.create_topic("silent", 1, 1).expect("a topic");
    let brokers = mock.bootstrap_servers();
    let deployment = Deployment::new(&[(
        "a.sql",
        "CREATE STREAM events (customer_id BIGINT, ts TIMESTAMP NOT NULL) EVENT TIME ts
         FROM KAFKA (topic = 'silent', format = 'json');
         CREATE FEATURE VIEW counted AS SELECT customer_id, count(*) AS n FROM events GROUP BY customer_id;",
    )]);
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", &brokers).create().expect("a producer");
    send(&producer, "silent", &["{\"customer_id\":1,\"ts\":\"2024-01-01T00:00:00Z\"}".to_string()]);
    let args = ["--http", "127.0.0.1:0", "--grpc", "off", "--resp", "off", "--brokers", &brokers];
    let (_node, address) = Running::serving(&mut deployment.command("run", "data", &args));
    let fresh = || {
        let path = format!("http://{address}/v1/views/counted/1?max_staleness=2s");
        ureq::get(path).config().http_status_as_error(false).build().call().expect("an answer").status().as_u16()
    };
    wait_for("an answer that is fresh", || (fresh() == 200).then_some(()));
    let lag = || metric(&address, "source_lag_records{source=\"events\",partition=\"0\"}");
    wait_for("the lag to be known", || lag().filter(|lag| *lag == 0.0));
    mock.broker_round_trip_time(1, Duration::from_secs(3_600)).expect("it is slow from now on");
    wait_for("a refusal to call it fresh", || (fresh() == 409).then_some(()));
    wait_for("the metric", || metric(&address, "source_reachable{source=\"events\"}").filter(|v| *v == 0.0));
    let sample = |name: &str| metric(&address, &format!("{name}{{source=\"events\",partition=\"0\"}}"));
    assert_eq!((sample("source_lag_records"), sample("source_high_offset")), (None, None), "nobody knows");
    assert_eq!(fresh(), 409, "and it stays so");
}

/// A sample of `/metrics` by its name and labels, without the prefix.
fn metric(address: &str, sample: &str) -> Option<f64> {
    let text = get(address, "/metrics");
    let found = text.lines().filter(|l| !l.starts_with('#')).find_map(|l| l.split_once(sample))?;
    found.1.trim().parse().ok()
}

/// Until then the node is ready with what it has, and says what it lacks; it is not live, or nothing could be replayed.
#[test]
fn a_history_is_replayed_once_its_topic_is_there() {
    let counter = Counter::new();
    delete_topic(&counter.brokers, &counter.topic);
    let args = ["--clock", "record", "--http", "127.0.0.1:0", "--grpc", "off", "--resp", "off"];
    let (mut node, address) = Running::serving(&mut counter.deployment.command("run", "data", &args));
    assert_eq!(metric(&address, "source_reachable{source=\"events\"}"), Some(0.0));
    let all = r#"{"customer_id":7,"ts":"2024-01-01T00:00:00Z"}"#;
    create_topic(&counter.brokers, &counter.topic);
    let record = BaseRecord::<str, str>::to(&counter.topic).payload(all).timestamp(1_704_070_800_000);
    counter.producer.send(record).map_err(|(e, _)| e).expect("queued");
    counter.producer.flush(Duration::from_secs(60)).expect("delivered");
    counter.wait_until_committed(1);
    // As it would have been served: an hour after it happened.
    let get = |epoch: &str| counter.deployment.run("get", "data", &["counted", "7", "--epoch", epoch]);
    get("2024-01-01T01:00:00Z").expect(0, &[r#""n":1"#]);
    wait_for("the metric", || metric(&address, "source_reachable{source=\"events\"}").filter(|v| *v == 1.0));
    counter.send(10);
    counter.wait_until_committed(11);
    assert!(node.interrupt().success());
    counter.verify(&["records=11", "differing=0", "problems=0"]);
}

/// The name is the same, the records are others: offsets of the one say nothing about the other. It is found out at the
/// start, and stays so.
#[test]
fn a_topic_made_anew_while_the_node_is_down_is_not_read() {
    let counter = Counter::new();
    counter.send(100);
    let (node, _) = counter.start();
    counter.wait_until_committed(100);
    node.kill();
    delete_topic(&counter.brokers, &counter.topic);
    create_topic(&counter.brokers, &counter.topic);
    // More than there were: by its ends alone nobody could tell.
    counter.send(1_000);
    for _ in 0..2 {
        let (node, address) = counter.start();
        counter.wait_until_refused(&address);
        assert_eq!(counter.committed(), 100);
        node.kill();
    }
    counter.deployment.run("replay", "data", &[]).expect(1, &[]);
    counter.verify(&["records=100", "differing=0", "problems=0"]);
}

#[test]
fn a_topic_made_anew_while_it_is_read_is_not_read_on() {
    let counter = Counter::new();
    counter.send(100);
    let (_node, address) = counter.start();
    counter.wait_until_committed(100);
    delete_topic(&counter.brokers, &counter.topic);
    create_topic(&counter.brokers, &counter.topic);
    counter.wait_until_refused(&address);
    counter.send(1_000);
    let lag = metric(&address, "source_lag_records{source=\"events\",partition=\"0\"}");
    assert_eq!((counter.committed(), lag), (100, None), "nobody knows how much there is to read");
}

/// Every loss is in the commit that passes over it, in a counter and in what `verify` prints; and it is no inconsistency.
#[test]
fn what_retention_took_is_on_record() {
    let counter = Counter::new();
    counter.send(1_000);
    let (node, _) = counter.start();
    counter.wait_until_committed(1_000);
    node.kill();
    counter.send(2_000);
    let mut gone = TopicPartitionList::new();
    let end =
        |p| counter.producer.client().fetch_watermarks(&counter.topic, p, Duration::from_secs(30)).expect("ends").1;
    let ends: Vec<i64> = (0..4).map(end).collect();
    for (partition, end) in (0..4).zip(&ends) {
        gone.add_partition_offset(&counter.topic, partition, Offset::Offset(*end)).expect("a partition");
    }
    block_on(admin(&counter.brokers).delete_records(&gone, &AdminOptions::new())).expect("the broker answers");
    // Nothing is left to read: the loss alone is committed.
    let (node, address) = counter.start();
    counter.wait_until_committed(3_000);
    counter.send(5);
    counter.wait_until_committed(3_005);
    let lost: f64 = (0..4)
        .filter_map(|p| metric(&address, &format!("source_lost_records_total{{source=\"events\",partition=\"{p}\"}}")))
        .sum();
    assert_eq!(lost, 2_000.0);
    node.kill();
    counter.verify(&["records=1005", "gaps=4", "lost=2000", "were gone before they were read", "problems=0"]);
}
