//! Topics by script: partitions that the simulation appends to, cuts short and makes fail, and readers of them.
//!
//! Invariants: a reader gives each record of a partition once and in order, from where it was assigned; what it gave is
//! noted, and is what the model is computed from. Neighbours: `source::live` drives readers like Kafka's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use headwater::definition::Source;
use headwater::offset::Offsets;
use headwater::source::Gap;
use headwater::source::decode::{Decoded, Decoder};
use headwater::source::kafka::{KafkaError, Polled, TakenIn};
use headwater::source::live::{Opening, Topic, Topics};
use headwater::time::{Clock, Epoch, format_instant};
use parking_lot::Mutex;

use super::model::{Body, Record};

/// Partitions of each topic.
pub(crate) const PARTITIONS: i32 = 2;

/// One topic, as a broker has it.
pub(crate) struct Script {
    pub(crate) name: &'static str,
    pub(crate) clock: Clock,
    pub(crate) partitions: Mutex<Vec<Partition>>,
    /// Records of one poll, at most.
    pub(crate) batch: Mutex<usize>,
    /// Polls that fail from now on.
    pub(crate) failing: Mutex<usize>,
    /// (partition, offset) given to the decoder, and not in a slice yet.
    pub(crate) given: Mutex<Vec<(i32, i64)>>,
}

/// A partition.
#[derive(Default)]
pub(crate) struct Partition {
    /// Every record there ever was; its offset is its place.
    pub(crate) records: Vec<Record>,
    /// Retention took those before.
    pub(crate) earliest: i64,
}

impl Script {
    pub(crate) fn new(name: &'static str, clock: &Clock) -> Arc<Script> {
        let partitions = (0..PARTITIONS).map(|_| Partition::default()).collect();
        Arc::new(Script {
            name,
            clock: clock.clone(),
            partitions: Mutex::new(partitions),
            batch: Mutex::new(usize::MAX),
            failing: Mutex::new(0),
            given: Mutex::default(),
        })
    }

    pub(crate) fn append(&self, partition: i32, body: Body) {
        // Brokers keep milliseconds.
        let appended = self.clock.now() / 1_000 * 1_000;
        self.partitions.lock()[index(partition)].records.push(Record { body, appended });
    }

    pub(crate) fn record(&self, partition: i32, offset: i64) -> Record {
        self.partitions.lock()[index(partition)].records[usize::try_from(offset).expect("an offset")].clone()
    }

    pub(crate) fn bounds(&self, partition: i32) -> (i64, i64) {
        let partition = &self.partitions.lock()[index(partition)];
        (partition.earliest, i64::try_from(partition.records.len()).expect("few"))
    }

    /// Retention takes records of a partition, all but the newest `kept`.
    pub(crate) fn cut(&self, partition: i32, kept: i64) {
        let (earliest, end) = self.bounds(partition);
        self.partitions.lock()[index(partition)].earliest = earliest.max(end - kept);
    }
}

pub(crate) fn index(partition: i32) -> usize {
    usize::try_from(partition).expect("partitions count from 0")
}

/// A record's key and payload, as they are in the topic.
pub(crate) fn wire(body: &Body) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let json = |value: Option<String>| value.unwrap_or_else(|| "null".into());
    let quoted = |text: &str| format!("\"{text}\"");
    let instant = |at: i64| quoted(&format_instant(at));
    let bytes = |text: String| Some(text.into_bytes());
    match body {
        Body::Click { usr, item, n, s, ts } => {
            let (n, s) = (json(n.map(|n| n.to_string())), json(s.map(quoted)));
            let ts = instant(*ts);
            (None, bytes(format!("{{\"usr\":\"{usr}\",\"item\":{item},\"n\":{n},\"s\":{s},\"ts\":{ts}}}")))
        }
        Body::Item { item, price, from } => {
            let price = json(price.map(|p| p.to_string()));
            let payload = format!("{{\"item\":{item},\"price\":{price},\"valid_from\":{}}}", instant(*from));
            (bytes(item.to_string()), bytes(payload))
        }
        Body::NoItem { item } => (bytes(item.to_string()), None),
        Body::User { usr, tier } => {
            let payload = format!("{{\"usr\":\"{usr}\",\"tier\":{}}}", json(tier.map(quoted)));
            (bytes((*usr).to_string()), bytes(payload))
        }
        Body::NoUser { usr } => (bytes((*usr).to_string()), None),
        Body::Broken => (None, bytes("{\"usr\": 1, oh".into())),
    }
}

/// All topics, for live reading.
pub(crate) struct Scripts(pub(crate) Vec<Arc<Script>>);

impl Topics for Scripts {
    fn check(&self, _: &Arc<Source>) -> Result<(), KafkaError> {
        Ok(())
    }

    fn open(&self, source: &Arc<Source>, committed: &Offsets, _id: Option<&str>) -> Opening {
        let script = self.0.iter().find(|s| s.name == source.name).expect("every source has a topic");
        let reader = Reader {
            script: Arc::clone(script),
            decoder: Decoder::new(source).expect("it can be decoded"),
            next: (0..PARTITIONS).map(|p| (p, committed.get(&source.name, p))).collect(),
            given: vec![],
        };
        let mut outcome: Option<Box<dyn Topic>> = Some(Box::new(reader));
        Box::new(move || outcome.take().map(Ok))
    }
}

/// Reads one topic.
struct Reader {
    script: Arc<Script>,
    decoder: Decoder,
    next: BTreeMap<i32, i64>,
    /// Polled, and not finished: if the reader is dropped, they are polled again.
    given: Vec<(i32, i64)>,
}

impl Topic for Reader {
    fn poll(&mut self, records_max: usize, wait: Duration) -> Result<Polled, KafkaError> {
        let mut polled = Polled::default();
        let most = records_max.min(*self.script.batch.lock());
        for (partition, next) in &mut self.next {
            let (earliest, end) = self.script.bounds(*partition);
            if *next < earliest {
                let source = self.script.name.to_string();
                polled.gaps.push(Gap { source, partition: *partition, from: *next, to: earliest });
                *next = earliest;
            }
            while *next < end && polled.records < most {
                let record = self.script.record(*partition, *next);
                let (key, payload) = wire(&record.body);
                self.decoder.push(*partition, *next, Some(record.appended), key.as_deref(), payload.as_deref());
                self.given.push((*partition, *next));
                *next += 1;
                polled.records += 1;
            }
        }
        // With what was polled before it still in the decoder.
        let failing = &mut *self.script.failing.lock();
        if *failing > 0 {
            *failing -= 1;
            return Err(KafkaError::UnknownTopic { topic: self.script.name.into(), brokers: "nowhere".into() });
        }
        if polled.records == 0 {
            self.script.clock.sleep(wait);
        }
        Ok(polled)
    }

    fn pending(&self) -> usize {
        self.decoder.pending()
    }

    fn is_full(&self) -> bool {
        false
    }

    fn finish(&mut self, epoch: Option<Epoch>, bounded_future: bool) -> Decoded {
        self.script.given.lock().append(&mut self.given);
        self.decoder.finish(epoch, bounded_future)
    }

    fn positions(&self) -> &BTreeMap<i32, i64> {
        &self.next
    }

    fn end(&self, partition: i32) -> Option<i64> {
        Some(self.script.bounds(partition).1)
    }

    fn resolved(&mut self, begun: i64) -> Option<i64> {
        let read = self.next.iter().all(|(p, next)| *next >= self.script.bounds(*p).1);
        read.then_some(begun)
    }

    fn id(&self) -> Option<&str> {
        Some(self.script.name)
    }

    fn taken(&self, _: i32) -> TakenIn {
        TakenIn::default()
    }

    fn trouble(&self) -> Option<String> {
        None
    }

    fn acknowledge(&self, _: &Offsets) -> Result<(), KafkaError> {
        Ok(())
    }

    fn look_for_partitions(&mut self) -> Result<(), KafkaError> {
        Ok(())
    }
}
