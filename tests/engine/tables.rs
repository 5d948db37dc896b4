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

/// A table of a composite key, and one with versions.
const SHOPS: &str = "
CREATE STREAM clicks (product BIGINT, ts TIMESTAMP NOT NULL) EVENT TIME ts FROM KAFKA (topic = 'clicks', format = 'json');
CREATE TABLE stock (product BIGINT, shop TEXT, PRIMARY KEY (product, shop)) FROM KAFKA (topic = 'stock', format = 'json');
CREATE FEATURE VIEW by_shop AS
  SELECT s.shop, count(*) AS clicks FROM clicks AS c JOIN stock AS s ON s.product = c.product GROUP BY s.shop;
CREATE TABLE prices (id BIGINT, price BIGINT, since TIMESTAMP NOT NULL, PRIMARY KEY (id)) EVENT TIME since
  FROM KAFKA (topic = 'prices', format = 'json');
CREATE FEATURE VIEW by_price AS
  SELECT p.price, count(*) AS clicks FROM clicks AS c JOIN prices AS p ON p.id = c.product GROUP BY p.price;";

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
        for topic in ["clicks", "products", "stock", "prices"] {
            mock.create_topic(topic, 1, 1).expect("a topic");
        }
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", mock.bootstrap_servers()).set("linger.ms", "0");
        let loaded = deployment.load();
        let node = loaded.node(&deployment.path("data"), 2);
        let live = follow(&loaded, &mock, &node);
        let producer = config.create().expect("a producer");
        World { loaded, mock, producer, node, live, sent: BTreeMap::new() }
    }

    /// The node is gone without a stop, and another one goes on in its place.
    fn killed(self, deployment: &Deployment) -> World {
        let World { loaded, mock, producer, node, live, sent } = self;
        drop((live, node));
        let node = loaded.node(&deployment.path("data"), 3);
        let live = follow(&loaded, &mock, &node);
        World { loaded, mock, producer, node, live, sent }
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

/// Reads on where the node's store says.
fn follow(loaded: &Loaded, mock: &MockCluster<'static, DefaultProducerContext>, node: &Node) -> Live {
    let properties = BTreeMap::from([("fetch.wait.max.ms".to_string(), "50".to_string())]);
    let kafka = KafkaSettings { brokers: Some(mock.bootstrap_servers()), group: None, properties };
    let ticks = Ticks { busy: Duration::from_millis(2), idle: Duration::from_millis(20) };
    let offsets = node.store().offsets().expect("readable");
    Live::new(&loaded.plan.sources, &loaded.dir, &kafka, offsets, &Clock::Machine, ticks).expect("it starts")
}

/// Ends the node and proves what it left.
fn finish(world: World, deployment: &Deployment) {
    let World { node, loaded, mock, .. } = world;
    node.stop().expect("the node stops");
    drop(mock);
    // Not every test feeds every view.
    let reports = loaded.compared(&deployment.path("data"), 1, "after the changes");
    assert!(reports.iter().any(|report| report.checked > 0), "there is nothing to compare");
}

/// Rule 16: a change after a kill finds the events from before it, and a kill after a change loses nothing of it.
#[test]
fn a_change_finds_old_events_across_kills() {
    let deployment = Deployment::new(&[("a.sql", DEFINITIONS)]);
    let mut world = World::new(&deployment);
    let product = |category: &str| format!(r#"{{"id":1,"category":"{category}"}}"#);
    let click = ("1", Some(r#"{"product":1,"ts":"2024-01-01T00:00:00Z"}"#));
    world.take_in("products", &[("1", Some(&product("a")))]);
    let clicked = world.take_in("clicks", &[click, click]);
    let mut world = world.killed(&deployment);
    world.check("by_category", clicked, &[("a", 2)]);
    let moved = world.take_in("products", &[("1", Some(&product("b")))]);
    let mut world = world.killed(&deployment);
    world.check("by_category", moved, &[("a", 0), ("b", 2)]);
    let more = world.take_in("clicks", &[click]);
    world.check("by_category", more, &[("a", 0), ("b", 3)]);
    world.check("by_category", clicked, &[("a", 2), ("b", 0)]);
    finish(world, &deployment);
}

/// Rule 17: a composite key's tombstone is a JSON object; a versioned row ends at the tombstone's own time.
#[test]
fn tombstones_end_rows() {
    let deployment = Deployment::new(&[("a.sql", SHOPS)]);
    let mut world = World::new(&deployment);
    let stock = [
        ("a", Some(r#"{"product":1,"shop":"x"}"#)),
        ("b", Some(r#"{"product":1,"shop":"y"}"#)),
        ("c", Some(r#"{"product":2,"shop":"y"}"#)),
    ];
    world.take_in("stock", &stock);
    world.take_in("prices", &[("1", Some(r#"{"id":1,"price":5,"since":"2023-01-01T00:00:00Z"}"#))]);
    let click = |n: &str| (n.to_string(), format!(r#"{{"product":{n},"ts":"2024-01-01T00:00:00Z"}}"#));
    let clicks = [click("1"), click("1"), click("2")];
    let clicks: Vec<(&str, Option<&str>)> = clicks.iter().map(|(k, v)| (k.as_str(), Some(v.as_str()))).collect();
    let clicked = world.take_in("clicks", &clicks);
    world.check("by_shop", clicked, &[("x", 2), ("y", 3)]);
    world.check("by_price", clicked, &[("5", 2)]);
    let sold_out = world.take_in("stock", &[(r#"{"product":1,"shop":"y"}"#, None)]);
    world.check("by_shop", sold_out, &[("x", 2), ("y", 1)]);
    let unpriced = world.take_in("prices", &[("1", None)]);
    world.check("by_price", unpriced, &[("5", 0)]);
    world.check("by_price", sold_out, &[("5", 2)]);
    // A key that fits no row is refused, and ends none.
    let refused = world.take_in("stock", &[("7", None)]);
    world.check("by_shop", refused, &[("x", 2), ("y", 1)]);
    finish(world, &deployment);
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
    finish(world, &deployment);
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
