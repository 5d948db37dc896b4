//! A table's row changes while a node runs: exactly the answers that depend on it change, at that commit, and those of
//! earlier commits stay.

use std::collections::BTreeMap;
use std::time::Duration;

use headwater::engine::Node;
use headwater::key::EntityCodec;
use headwater::source::kafka::KafkaSettings;
use headwater::source::live::{Live, Ticks};
use headwater::state::cache::Read;
use headwater::state::commit::ClockKind;
use headwater::time::{Ask, Clock, Epoch};
use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};

use super::support::{Deployment, Loaded, wait_for};

const DEFINITIONS: &str = "
CREATE STREAM clicks (product BIGINT, ts TIMESTAMP NOT NULL) EVENT TIME ts FROM KAFKA (topic = 'clicks', format = 'json');
CREATE TABLE products (id BIGINT, category TEXT, PRIMARY KEY (id)) FROM KAFKA (topic = 'products', format = 'json');
CREATE FEATURE VIEW by_category AS
  SELECT p.category, count(*) AS clicks, min(c.ts) AS first FROM clicks AS c JOIN products AS p ON p.id = c.product
  GROUP BY p.category;
CREATE FEATURE VIEW by_product AS SELECT product, count(*) AS clicks FROM clicks GROUP BY product;";

/// A node that follows a mock cluster.
struct World {
    loaded: Loaded,
    mock: MockCluster<'static, DefaultProducerContext>,
    producer: BaseProducer,
    node: Node,
    live: Live,
    sent: BTreeMap<&'static str, i64>,
}

impl World {
    fn new(deployment: &Deployment) -> World {
        let mock = MockCluster::new(1).expect("a cluster");
        for topic in ["clicks", "products"] {
            mock.create_topic(topic, 1, 1).expect("a topic");
        }
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", mock.bootstrap_servers()).set("linger.ms", "0");
        let properties = BTreeMap::from([("fetch.wait.max.ms".to_string(), "50".to_string())]);
        let kafka = KafkaSettings { brokers: Some(mock.bootstrap_servers()), group: None, properties };
        let loaded = deployment.load();
        let node = loaded.node(&deployment.path("data"), 2);
        let ticks = Ticks { busy: Duration::from_millis(2), idle: Duration::from_millis(20) };
        let offsets = node.store().offsets().expect("readable");
        let live = Live::new(&loaded.plan.sources, &loaded.dir, &kafka, offsets, &Clock::Machine, ticks);
        let producer = config.create().expect("a producer");
        World { loaded, mock, producer, node, live: live.expect("it starts"), sent: BTreeMap::new() }
    }

    /// Sends records and follows until they are committed. Returns that commit.
    fn take_in(&mut self, topic: &'static str, records: &[(&str, Option<&str>)]) -> Epoch {
        for (key, payload) in records {
            let mut record = BaseRecord::<str, str>::to(topic).key(*key);
            record.payload = *payload;
            self.producer.send(record).map_err(|(e, _)| e).expect("queued");
        }
        self.producer.flush(Duration::from_secs(30)).expect("delivered");
        *self.sent.entry(topic).or_default() += records.len() as i64;
        let want = self.sent[topic];
        wait_for("the records to be committed", || {
            let last = Epoch(self.node.cache().published().epoch);
            if let Some(slice) = self.live.next_slice(last).expect("it goes on") {
                self.node.feed(slice, ClockKind::Wall).expect("the node takes it");
                self.node.drain().expect("it is committed");
            }
            (self.node.store().offsets().expect("readable").get(topic, 0) == want).then_some(())
        });
        Epoch(self.node.cache().published().epoch)
    }

    /// The first feature of an entity as of a commit, from the log; pages must agree where they can say.
    fn clicks(&self, view: &str, key: &str, epoch: Epoch) -> i64 {
        let plan = &self.loaded.plan;
        let view = plan.view_index(view).expect("there is one");
        let codec = EntityCodec::new(&plan.views[view].plan).expect("plain types");
        let entity = codec.parse(key).expect("it fits");
        let group = codec.group(&entity).expect("plain types").expect("no null");
        let timeline = self.node.offline().timeline().expect("readable");
        let visible = timeline.visible(epoch).expect("a commit");
        let answer = self.node.offline().evaluate(view, &group, epoch, Ask(visible)).expect("readable");
        if let Read::Answer(pages) = self.node.cache().read(view, &group, epoch.0, visible).expect("readable") {
            assert_eq!(pages, answer, "{key} at {epoch}");
        }
        let text = answer.values[0].to_string();
        text.parse().unwrap_or_else(|_| panic!("{text} is no count"))
    }

    #[track_caller]
    fn check(&self, view: &str, epoch: Epoch, want: &[(&str, i64)]) {
        for (key, clicks) in want {
            assert_eq!(self.clicks(view, key, epoch), *clicks, "{view} {key} at {epoch}");
        }
    }
}

#[test]
fn a_moved_product_takes_its_clicks_along() {
    let deployment = Deployment::new(&[("a.sql", DEFINITIONS)]);
    let mut world = World::new(&deployment);
    world.take_in(
        "products",
        &[
            ("1", Some(r#"{"id":1,"category":"a"}"#)),
            ("2", Some(r#"{"id":2,"category":"b"}"#)),
            ("3", Some(r#"{"id":3,"category":"c"}"#)),
        ],
    );
    let click = |n| match n {
        1 => ("1", Some(r#"{"product":1,"ts":"2024-01-01T00:00:00Z"}"#)),
        2 => ("2", Some(r#"{"product":2,"ts":"2024-01-01T00:00:01Z"}"#)),
        3 => ("3", Some(r#"{"product":3,"ts":"2024-01-01T00:00:02Z"}"#)),
        _ => ("4", Some(r#"{"product":4,"ts":"2024-01-01T00:00:03Z"}"#)),
    };
    let clicked = world.take_in("clicks", &[click(1), click(2), click(3), click(1), click(4)]);
    let before = [("a", 2), ("b", 1), ("c", 1)];
    world.check("by_category", clicked, &before);
    let moved = world.take_in("products", &[("1", Some(r#"{"id":1,"category":"b"}"#))]);
    world.check("by_category", moved, &[("a", 0), ("b", 3), ("c", 1)]);
    let removed = world.take_in("products", &[("2", None)]);
    world.check("by_category", removed, &[("a", 0), ("b", 2), ("c", 1)]);
    let late = world.take_in("products", &[("4", Some(r#"{"id":4,"category":"a"}"#))]);
    world.check("by_category", late, &[("a", 1), ("b", 2), ("c", 1)]);
    let more = world.take_in("clicks", &[click(1), click(2)]);
    world.check("by_category", more, &[("a", 1), ("b", 3), ("c", 1)]);
    // History before each change is what it was, and a view without the table never changed.
    world.check("by_category", clicked, &before);
    world.check("by_category", moved, &[("a", 0), ("b", 3), ("c", 1)]);
    world.check("by_category", removed, &[("a", 0), ("b", 2), ("c", 1)]);
    for epoch in [clicked, moved, removed, late] {
        world.check("by_product", epoch, &[("1", 2), ("2", 1), ("3", 1), ("4", 1)]);
    }
    let World { node, loaded, mock, .. } = world;
    node.stop().expect("the node stops");
    drop(mock);
    loaded.verify(&deployment.path("data"), 1, "after the changes");
}

#[test]
fn a_reader_knows_when_it_has_caught_up() {
    let deployment = Deployment::new(&[("a.sql", DEFINITIONS)]);
    let mut world = World::new(&deployment);
    assert!(!world.live.is_caught_up(), "no topic is read yet");
    world.take_in("products", &[("1", Some(r#"{"id":1,"category":"a"}"#))]);
    world.take_in("clicks", &[("1", Some(r#"{"product":1,"ts":"2024-01-01T00:00:00Z"}"#))]);
    wait_for("the brokers to tell that this is all", || {
        let slice = world.live.next_slice(Epoch(world.node.cache().published().epoch)).expect("it goes on");
        assert!(slice.is_none(), "nothing was sent");
        world.live.is_caught_up().then_some(())
    });
    assert!(world.node.check().is_ok() && world.node.is_drained());
}
