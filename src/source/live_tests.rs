//! Live reading of a scripted topic: what a slice says of offsets, gaps and ids, and what a reader that failed leaves.

use std::sync::Arc;

use parking_lot::Mutex;

use super::super::decode::Decoder;
use super::super::testing::{Dir, kafka, lines, source};
use super::*;

/// One partition whose records are the numbers from 0 on, and what is to happen to it.
#[derive(Default)]
struct Script {
    /// Records there are.
    end: i64,
    /// The earliest that is still there.
    begins: i64,
    /// The next poll fails with this.
    fails: Option<KafkaError>,
    id: Option<String>,
    /// Offsets and ids that openings began with.
    opened: Vec<(i64, Option<String>)>,
}

#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<Script>>);

struct Reader {
    script: Scripted,
    decoder: Decoder,
    next: BTreeMap<i32, i64>,
    id: Option<String>,
}

impl Topics for Scripted {
    fn check(&self, _: &Arc<Source>) -> Result<(), KafkaError> {
        Ok(())
    }

    fn open(&self, source: &Arc<Source>, committed: &Offsets, id: Option<&str>) -> Opening {
        let mut script = self.0.lock();
        let from = committed.get(&source.name, 0);
        script.opened.push((from, id.map(str::to_string)));
        let decoder = Decoder::new(source).expect("it can be decoded");
        let reader = Reader { script: self.clone(), decoder, next: BTreeMap::from([(0, from)]), id: script.id.clone() };
        let mut outcome: Option<Result<Box<dyn Topic>, KafkaError>> = Some(Ok(Box::new(reader)));
        Box::new(move || outcome.take())
    }
}

impl Topic for Reader {
    fn poll(&mut self, records_max: usize, _: Duration) -> Result<Polled, KafkaError> {
        let mut script = self.script.0.lock();
        let mut polled = Polled::default();
        let next = self.next.get_mut(&0).expect("one partition");
        if *next < script.begins {
            polled.gaps.push(Gap { source: "s".into(), partition: 0, from: *next, to: script.begins });
            *next = script.begins;
        }
        while *next < script.end && polled.records < records_max {
            self.decoder.push(0, *next, None, None, Some(format!("{{\"id\":{next}}}").as_bytes()));
            *next += 1;
            polled.records += 1;
        }
        script.fails.take().map_or(Ok(polled), Err)
    }

    fn pending(&self) -> usize {
        self.decoder.pending()
    }

    fn is_full(&self) -> bool {
        false
    }

    fn finish(&mut self, epoch: Option<Epoch>, bounded_future: bool) -> Decoded {
        self.decoder.finish(epoch, bounded_future)
    }

    fn positions(&self) -> &BTreeMap<i32, i64> {
        &self.next
    }

    fn end(&self, _: i32) -> Option<i64> {
        Some(self.script.0.lock().end)
    }

    fn resolved(&mut self, begun: i64) -> Option<i64> {
        Some(begun)
    }

    fn id(&self) -> Option<&str> {
        self.id.as_deref()
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

fn live(script: &Scripted, committed: Offsets) -> Live {
    let source = Arc::new(source("s", kafka("t")).with(&["id BIGINT"]).event(Some("to_timestamp_millis(id)")));
    let ticks = Ticks { busy: Duration::ZERO, idle: Duration::ZERO };
    let topics = Box::new(script.clone());
    Live::with_topics(&[source], &Dir::new().path(), topics, committed, &Clock::Machine, ticks).expect("it starts")
}

/// The next slice that is not empty: its rows' ids, and the offset it reaches.
fn next(live: &mut Live, last: &mut Epoch) -> (Vec<String>, i64, Slice) {
    for _ in 0..400 {
        live.topics[0].next_try = Clock::Machine.mark();
        if let Some(slice) = live.next_slice(*last).expect("it goes on") {
            *last = slice.last.expect("it has an epoch");
            let rows = slice.batches.iter().flat_map(|(_, batch)| lines(batch, &["id"])).collect();
            return (rows, slice.offsets.get("s", 0), slice);
        }
    }
    panic!("nothing came");
}

/// What was handed over in slices is never read a second time by the same node, committed or not; what was only polled
/// when its reader failed is.
#[test]
fn a_reader_that_failed_is_opened_where_slices_end() {
    let script = Scripted::default();
    script.0.lock().end = 2;
    let (mut live, mut last) = (live(&script, Offsets::default()), Epoch::ZERO);
    assert_eq!(next(&mut live, &mut last).0, ["0", "1"]);
    script.0.lock().end = 3;
    let topic = || "t".to_string();
    script.0.lock().fails = Some(KafkaError::UnknownTopic { topic: topic(), brokers: "b".into() });
    assert_eq!(live.next_slice(last).expect("the others go on").map(|s| s.offsets), None);
    assert!(live.troubles()["s"].contains("does not exist"));
    script.0.lock().end = 4;
    let (rows, end, _) = next(&mut live, &mut last);
    assert_eq!((rows, end), (vec!["2".to_string(), "3".to_string()], 4));
    assert_eq!(script.0.lock().opened, [(0, None), (2, None)]);
    assert_eq!((live.troubles().len(), live.refused().count()), (0, 0));
}

#[test]
fn a_gap_is_in_the_slice_that_passes_over_it() {
    let script = Scripted::default();
    script.0.lock().end = 2;
    let (mut live, mut last) = (live(&script, Offsets::default()), Epoch::ZERO);
    assert_eq!(next(&mut live, &mut last).2.gaps, []);
    // Nothing is left to read: what is gone is said at once, and not with a record that may never come.
    (script.0.lock().begins, script.0.lock().end) = (7, 7);
    let (rows, end, slice) = next(&mut live, &mut last);
    let gap = |from, to| Gap { source: "s".into(), partition: 0, from, to };
    assert_eq!((rows.len(), end, slice.gaps), (0, 7, vec![gap(2, 7)]));
    // A reader that fails after it saw one is opened before it, and says it once.
    (script.0.lock().begins, script.0.lock().end) = (9, 10);
    script.0.lock().fails = Some(KafkaError::UnknownTopic { topic: "t".into(), brokers: "b".into() });
    assert!(live.next_slice(last).expect("the others go on").is_none());
    let (rows, end, slice) = next(&mut live, &mut last);
    assert_eq!((rows, end, slice.gaps), (vec!["9".to_string()], 10, vec![gap(7, 9)]));
}

#[test]
fn a_topic_made_anew_is_not_read_again() {
    let script = Scripted::default();
    (script.0.lock().end, script.0.lock().id) = (2, Some("one".into()));
    let (mut live, mut last) = (live(&script, Offsets::default()), Epoch::ZERO);
    let ids = |slice: &Slice| slice.topic_ids.get("s").cloned();
    assert_eq!(ids(&next(&mut live, &mut last).2).as_deref(), Some("one"));
    script.0.lock().end = 3;
    assert_eq!(ids(&next(&mut live, &mut last).2), None, "it is said once");
    let (known, found) = ("one".to_string(), "two".to_string());
    script.0.lock().fails = Some(KafkaError::MadeAnew { topic: "t".into(), known, found });
    script.0.lock().end = 9;
    for _ in 0..3 {
        assert!(live.next_slice(last).expect("the others go on").is_none());
        live.topics[0].next_try = Clock::Machine.mark();
    }
    let refused: Vec<(String, String)> = live.refused().map(|(s, why)| (s.into(), why.into())).collect();
    assert!(matches!(&refused[..], [(s, why)] if s == "s" && why.contains("made anew")), "{refused:?}");
    assert!(!live.is_caught_up() && live.complete(5).is_none() && live.troubles().contains_key("s"));
    assert_eq!(script.0.lock().opened.len(), 1);
}

/// Whoever starts again is told what was found out before.
#[test]
fn what_was_found_out_outlives_a_run() {
    let script = Scripted::default();
    script.0.lock().end = 5;
    let mut committed = Offsets::default();
    committed.advance("s", 0, 3);
    let mut first = live(&script, committed.clone());
    let state = |topic_id: &str, refused: Option<&str>| {
        let state = SourceState { topic_id: Some(topic_id.into()), refused: refused.map(str::to_string) };
        BTreeMap::from([("s".to_string(), state)])
    };
    first.remember(state("one", None));
    assert_eq!(next(&mut first, &mut Epoch(0)).0, ["3", "4"]);
    assert_eq!(script.0.lock().opened, [(3, Some("one".to_string()))]);
    let mut refused = live(&script, committed);
    refused.remember(state("one", Some("it is another topic")));
    for _ in 0..3 {
        assert!(refused.next_slice(Epoch::ZERO).expect("nothing fails").is_none());
    }
    assert_eq!(script.0.lock().opened.len(), 1);
    assert_eq!(refused.troubles()["s"], "it is another topic");
}
