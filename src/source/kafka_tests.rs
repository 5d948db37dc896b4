//! Against librdkafka's mock cluster: what is delivered, what is missing, what ends where.

use rdkafka::config::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};

use super::super::replay::{Replay, ReplayClock, ReplayError, Resume};
use super::super::testing::{Dir, kafka, lines, source};
use super::super::watch::Watcher;
use super::*;
use crate::time::Clock;

const WAIT: Duration = Duration::from_secs(10);

struct Cluster {
    mock: MockCluster<'static, DefaultProducerContext>,
    producer: BaseProducer,
}

impl Cluster {
    fn new(topic: &str, partitions: i32) -> Cluster {
        let mock = MockCluster::new(1).expect("a cluster");
        mock.create_topic(topic, partitions, 1).expect("a topic");
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", mock.bootstrap_servers()).set("linger.ms", "0");
        Cluster { mock, producer: config.create().expect("a producer") }
    }

    fn settings(&self) -> KafkaSettings {
        let properties = BTreeMap::from([("fetch.wait.max.ms".to_string(), "50".to_string())]);
        KafkaSettings { brokers: Some(self.mock.bootstrap_servers()), group: Some("g".into()), properties }
    }

    fn send(&self, partition: i32, millis: i64, key: Option<&str>, payload: Option<&str>) {
        let mut record = BaseRecord::<str, str>::to("t").partition(partition).timestamp(millis);
        (record.key, record.payload) = (key, payload);
        self.producer.send(record).map_err(|(e, _)| e).expect("queued");
        self.producer.poll(Duration::ZERO);
    }

    fn flush(&self) {
        self.producer.flush(WAIT).expect("delivered");
    }

    /// A reader that follows the topic from the start of all partitions, and who watches it.
    fn following(&self, known: Option<&str>) -> Result<(KafkaReader, Arc<Watcher>), KafkaError> {
        let brokers = self.mock.bootstrap_servers();
        let watcher = Watcher::start(&brokers, &self.settings(), &Clock::Machine).expect("a client");
        let mut reader = KafkaReader::new(&table(), &self.settings()).expect("a reader");
        reader.follow(watcher.watch("t").expect("the topic is there"), known)?;
        let partitions = reader.known_partitions();
        reader.assign(&partitions.into_iter().map(|p| (p, 0)).collect()).expect("assigned");
        Ok((reader, watcher))
    }
}

/// Polls until something holds.
#[track_caller]
fn poll_until<T>(reader: &mut KafkaReader, what: &str, mut holds: impl FnMut(&mut KafkaReader) -> Option<T>) -> T {
    for _ in 0..400 {
        reader.poll(100, Duration::from_millis(50)).expect("polled");
        if let Some(found) = holds(reader) {
            return found;
        }
    }
    panic!("{what} never came");
}

fn table() -> Arc<Source> {
    Arc::new(source("s", kafka("t")).with(&["id BIGINT !", "name TEXT"]).event(None).key(&[0]))
}

/// Polls until `records` have come.
fn poll(reader: &mut KafkaReader, records: usize) -> Polled {
    let mut all = Polled::default();
    for _ in 0..200 {
        if all.records >= records {
            break;
        }
        let polled = reader.poll(records - all.records, Duration::from_millis(100)).expect("polled");
        all.records += polled.records;
        all.gaps.extend(polled.gaps);
        all.caught_up.extend(polled.caught_up);
    }
    assert_eq!(all.records, records);
    all
}

#[test]
fn records_come_as_they_were_sent() {
    let cluster = Cluster::new("t", 2);
    cluster.send(0, 5, Some("1"), Some("{\"id\":1,\"name\":\"a\"}"));
    cluster.send(0, 3, Some("1"), None);
    cluster.send(0, 7, None, Some(""));
    cluster.send(1, 9, Some(""), Some("{\"id\":2}"));
    cluster.flush();
    let mut reader = KafkaReader::new(&table(), &cluster.settings()).expect("a reader");
    assert_eq!(reader.partitions(WAIT).expect("partitions"), [0, 1]);
    assert_eq!(reader.bounds(0, WAIT).expect("bounds"), (0, 3));
    reader.assign(&BTreeMap::from([(0, 0)])).expect("assigned");
    poll(&mut reader, 3);
    assert_eq!(reader.assign_new().expect("nobody watches"), [0; 0]);
    let watcher = Watcher::new(&cluster.mock.bootstrap_servers(), &cluster.settings(), &Clock::Machine);
    reader.follow(watcher.expect("a client").watch("t").expect("it is there"), None).expect("it is new to us");
    assert_eq!(reader.assign_new().expect("assigned"), [1]);
    assert_eq!(reader.assign_new().expect("assigned"), [0; 0]);
    poll(&mut reader, 1);
    assert_eq!(*reader.positions(), BTreeMap::from([(0, 3), (1, 1)]));
    let decoded = reader.finish(Some(Epoch(1)), true);
    let rows = lines(
        &decoded.batch.expect("rows"),
        &["_partition", "_offset", "id", "name", "_key", "_timestamp", "_deleted"],
    );
    assert_eq!(
        rows,
        [
            "0 0 1 a 31 1970-01-01T00:00:00.005 false",
            "0 1 1 - 31 1970-01-01T00:00:00.003 true",
            "1 0 2 -  1970-01-01T00:00:00.009 false",
        ]
    );
    assert_eq!(decoded.record_times, [5_000, 5_000, 9_000]);
    let refused: Vec<_> = decoded.rejected.iter().map(|r| (r.offset, r.key.as_deref(), r.reason.as_str())).collect();
    assert_eq!(refused, [(2, None, "decode: not a JSON object")]);
    let mut offsets = Offsets::default();
    offsets.advance("s", 0, 3);
    reader.acknowledge(&offsets).expect("sent");
    let committed = || {
        reader.consumer.poll(Duration::from_millis(50));
        let list = reader.list(&BTreeMap::from([(0, 0)])).expect("a list");
        let list = reader.consumer.committed_offsets(list, WAIT).expect("an answer");
        list.elements()[0].offset() == Offset::Offset(3)
    };
    assert!((0..100).any(|_| committed()), "the group's offset is there for lag tools");
}

#[test]
fn what_is_resolved_follows_the_brokers_answers() {
    let cluster = Cluster::new("t", 2);
    cluster.send(0, 5, None, Some("{\"id\":1}"));
    cluster.flush();
    let unwatched = KafkaReader::new(&table(), &cluster.settings()).expect("a reader");
    assert_eq!((unwatched.end(0), unwatched.trouble()), (None, None));
    let (mut reader, _watcher) = cluster.following(None).expect("it is new to us");
    let begun = Clock::Machine.now();
    let resolved =
        poll_until(&mut reader, "an answer after the start", |r| r.resolved(i64::MAX).filter(|at| *at > begun));
    assert!(resolved <= Clock::Machine.now(), "nobody knows the future");
    assert_eq!(reader.resolved(begun), Some(begun), "no later than when polling began");
    assert_eq!((reader.end(0), reader.end(1), reader.trouble()), (Some(1), Some(0), None));
    // What is unread holds it back, to when the last record that was read had been appended at the latest.
    reader.next.insert(0, 0);
    reader.ended.clear();
    reader.resolved.insert(0, 5_000);
    assert_eq!(reader.resolved(i64::MAX), Some(5_000));
}

/// The broker takes connections and answers nothing any more, as behind a black hole.
#[test]
fn a_silent_broker_is_trouble_and_resolves_nothing() {
    let cluster = Cluster::new("t", 1);
    let (mut reader, _watcher) = cluster.following(None).expect("it is new to us");
    poll_until(&mut reader, "a first answer", |r| r.resolved(i64::MAX));
    cluster.mock.broker_round_trip_time(1, Duration::from_secs(3_600)).expect("it is slow from now on");
    let silent = Clock::Machine.now();
    let why = poll_until(&mut reader, "trouble", |r| r.trouble());
    assert!(why.contains("has answered since"), "{why}");
    // Answers that were under way when it fell silent may still have come.
    let resolved = reader.resolved(i64::MAX).expect("what was known is known");
    assert!(resolved < silent + 1_000_000, "{resolved} is long after {silent}");
}

#[test]
fn a_topic_of_another_id_is_refused() {
    let cluster = Cluster::new("t", 1);
    let (reader, _watcher) = cluster.following(None).expect("it is new to us");
    let id = reader.id().expect("this version of Kafka gives topics ids, and the client says them").to_string();
    assert!(id.len() == 22 && id.bytes().any(|b| b != b'A'), "{id}");
    let (mut same, _watcher) = cluster.following(Some(&id)).expect("it is the one that was read");
    assert_eq!(same.id(), Some(id.as_str()));
    let other = cluster.following(Some("x0zXA1ZTvGvGmnRo3hJxQw")).err().expect("it is another one");
    assert!(matches!(&other, KafkaError::MadeAnew { found, .. } if *found == id), "{other:?}");
    assert!(other.is_lasting());
    // Found out while it is read.
    same.id = Some("x0zXA1ZTvGvGmnRo3hJxQw".into());
    assert!(matches!(same.poll(1, Duration::ZERO), Err(KafkaError::MadeAnew { .. })));
}

/// A queue may hold records of before partitions were assigned anew; and a reader may have to end before its topic.
#[test]
fn records_pass_once_and_in_order() {
    let mut next = BTreeMap::from([(0, 5), (1, 0)]);
    let until = BTreeMap::from([(1, 2)]);
    let mut check = |partition, offset, want: bool, after: i64| {
        assert_eq!(passes(&mut next, &until, partition, offset), want, "{partition}/{offset}");
        assert_eq!(next.get(&partition).copied().unwrap_or(-1), after, "{partition}/{offset}");
    };
    check(0, 4, false, 5);
    check(0, 5, true, 6);
    check(0, 5, false, 6);
    check(0, 9, true, 10);
    check(1, 1, true, 2);
    check(1, 2, false, 2);
    check(2, 0, false, -1);
}

#[test]
fn errors_have_types() {
    let cluster = Cluster::new("other", 1);
    let reader = KafkaReader::new(&table(), &cluster.settings()).expect("a reader");
    let error = reader.partitions(WAIT).expect_err("no such topic");
    assert!(matches!(&error, KafkaError::UnknownTopic { topic, .. } if topic == "t"), "{error:?}");
    let closed = KafkaSettings { brokers: Some("127.0.0.1:1".into()), ..KafkaSettings::default() };
    let reader = KafkaReader::new(&table(), &closed).expect("a reader");
    let error = reader.partitions(Duration::from_secs(1)).expect_err("nobody there");
    assert!(matches!(&error, KafkaError::Unreachable { brokers, .. } if brokers == "127.0.0.1:1"), "{error:?}");
    let none = KafkaReader::new(&table(), &KafkaSettings::default()).err();
    assert!(matches!(none, Some(KafkaError::NotConfigured { .. })));
    let wrong = BTreeMap::from([("no.such.property".to_string(), "1".to_string())]);
    let wrong = KafkaSettings { properties: wrong, ..closed };
    assert!(matches!(KafkaReader::new(&table(), &wrong).err(), Some(KafkaError::Settings { .. })));
}

#[test]
fn what_retention_took_is_reported() {
    let cluster = Cluster::new("t", 1);
    let filler = "x".repeat(800_000);
    for i in 0..20 {
        cluster.send(0, 5, None, Some(&format!("{{\"id\":{i},\"name\":\"{filler}\"}}")));
        cluster.flush(); // one message a batch: the cluster drops whole batches
    }
    let mut reader = KafkaReader::new(&table(), &cluster.settings()).expect("a reader");
    let (earliest, end) = reader.bounds(0, WAIT).expect("bounds");
    assert!(earliest > 1 && end == 20, "the cluster keeps a few megabytes: {earliest}..{end}");
    reader.assign(&BTreeMap::from([(0, 1)])).expect("assigned");
    let left = usize::try_from(end - earliest).expect("a count");
    let gap = Gap { source: "s".into(), partition: 0, from: 1, to: earliest };
    assert_eq!(poll(&mut reader, left).gaps, [gap.clone()]);
    assert_eq!(lines(&reader.finish(None, true).batch.expect("rows"), &["id"])[0], earliest.to_string());
    // A fresh partition starts at what there is; nothing of it was lost to us.
    let mut fresh = KafkaReader::new(&table(), &cluster.settings()).expect("a reader");
    fresh.assign(&BTreeMap::from([(0, 0)])).expect("assigned");
    assert_eq!(poll(&mut fresh, left).gaps, []);
    // One that follows does not wait for where the topic begins now, and comes to the same.
    let (mut follows, _watcher) = cluster.following(None).expect("it is new to us");
    follows.assign(&BTreeMap::from([(0, 1)])).expect("assigned");
    assert_eq!(poll(&mut follows, left).gaps, [gap]);
    let mut beyond = KafkaReader::new(&table(), &cluster.settings()).expect("a reader");
    beyond.assign(&BTreeMap::from([(0, 21)])).expect("assigned");
    let error = (0..100).find_map(|_| beyond.poll(1, Duration::from_millis(100)).err());
    assert!(matches!(error, Some(KafkaError::Truncated { offset: 21, end: 20, .. })), "{error:?}");
}

fn replay(cluster: &Cluster, clock: ReplayClock, rows: usize, slices: usize, resume: &mut Resume) -> Vec<String> {
    let s = source("s", kafka("t")).with(&["id BIGINT", "ms BIGINT"]).event(Some("to_timestamp_millis(ms)"));
    let mut replay = Replay::new(&[Arc::new(s)], &Dir::new().path(), clock, &cluster.settings(), resume).expect("read");
    let mut shown = vec![];
    while shown.len() < slices
        && let Some(slice) = replay.next_slice(rows).expect("readable")
    {
        resume.offsets.merge(&slice.offsets);
        resume.sorted.extend(slice.sorted);
        resume.last = slice.last;
        let rows = slice
            .batches
            .iter()
            .flat_map(|(_, b)| lines(b, &["id", "_epoch"]))
            .map(|l| l.replace("1970-01-01T00:00:", ""));
        let refused = slice.rejected.iter().map(|r| format!("!{} {}", r.offset, r.epoch));
        shown.push(rows.chain(refused).collect::<Vec<_>>().join(", "));
    }
    shown
}

#[test]
fn topics_replay_to_their_end() {
    let cluster = Cluster::new("t", 2);
    let send = |partition, millis, id: i64, ms: i64| {
        cluster.send(partition, millis, None, Some(&format!("{{\"id\":{id},\"ms\":{ms}}}")));
    };
    send(0, 20, 1, 11);
    send(0, 10, 2, 5);
    cluster.send(0, 40, None, Some("nonsense"));
    send(0, 30, 3, 12);
    send(1, 25, 4, 11);
    cluster.flush();
    let whole = |clock| replay(&cluster, clock, 100, 9, &mut Resume::default());
    assert_eq!(whole(ReplayClock::Event), ["2 00.005, 1 00.011, 4 00.011, 3 00.012, !2 5000"]);
    assert_eq!(whole(ReplayClock::Record), ["1 00.020, 2 00.020, 4 00.025, 3 00.040, !2 40000"]);
    // Stopped after the first slice; what comes meanwhile is read after what was begun.
    let mut resume = Resume::default();
    assert_eq!(replay(&cluster, ReplayClock::Event, 1, 1, &mut resume), ["2 00.005, !2 5000"]);
    assert_eq!(resume.offsets, Offsets::default());
    send(1, 50, 5, 3);
    send(1, 50, 6, 13);
    cluster.flush();
    let rest = replay(&cluster, ReplayClock::Event, 100, 9, &mut resume);
    assert_eq!(rest, ["1 00.011, 4 00.011, 3 00.012", "5 00.012001, 6 00.013"]);
    assert_eq!(resume.offsets.0["s"], BTreeMap::from([(0, 4), (1, 3)]));
    assert!(replay(&cluster, ReplayClock::Event, 100, 9, &mut resume).is_empty());
}

#[test]
fn a_replay_without_a_topic_fails() {
    let cluster = Cluster::new("other", 1);
    let error =
        Replay::new(&[table()], &Dir::new().path(), ReplayClock::Event, &cluster.settings(), &Resume::default());
    assert!(matches!(error.err(), Some(ReplayError::Kafka(KafkaError::UnknownTopic { .. }))));
}

/// While nothing comes from a broker, too.
#[test]
fn a_topic_is_not_waited_for_when_reading_is_told_to_end() {
    let cluster = Cluster::new("t", 1);
    cluster.send(0, 10, None, Some("{\"id\":1}"));
    cluster.flush();
    let (settings, resume) = (cluster.settings(), Resume::default());
    let told = Box::new(|_: &str, records| records > 0);
    let replay = Replay::telling(&[table()], &Dir::new().path(), ReplayClock::Event, &settings, &resume, told);
    assert!(matches!(replay.err(), Some(ReplayError::Stopped)));
}
