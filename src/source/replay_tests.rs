//! Merging, shared epochs, refused records between rows, and going on where a replay stopped.

use arrow::array::AsArray;
use arrow::datatypes::TimestampMicrosecondType;

use super::super::testing::{Dir, expr, file, kafka, lines, source};
use super::*;
use crate::definition::{Connector, Format};

/// A stream of a file of records `{"id":…,"ts":…}`, `ts` in milliseconds.
fn stream(name: &str) -> Arc<Source> {
    let s = source(name, file(&format!("{name}.jsonl"), Format::Json));
    Arc::new(s.with(&["id BIGINT", "ts BIGINT", "at BIGINT"]).event(Some("to_timestamp_millis(ts)")))
}

fn write(dir: &Dir, name: &str, records: &[(i64, Option<i64>)]) {
    let line = |(id, ts): &(i64, Option<i64>)| match ts {
        Some(ts) => format!("{{\"id\":{id},\"ts\":{ts}}}\n"),
        None => format!("{{\"id\":{id}}}\n"),
    };
    dir.write(&format!("{name}.jsonl"), records.iter().map(line).collect::<String>());
}

/// One slice as text: `source:id@epoch` per row in order, `!offset@epoch` per refused, epochs in milliseconds.
fn show(slice: &Slice) -> String {
    let mut words = vec![];
    for (source, batch) in &slice.batches {
        let epochs = batch["_epoch"].as_primitive::<TimestampMicrosecondType>();
        let ids = lines(batch, &["id"]);
        words.extend(ids.iter().zip(epochs.values()).map(|(id, e)| format!("{}:{id}@{}", source.name, millis(*e))));
    }
    for r in &slice.rejected {
        words.push(format!("!{}:{}@{}", r.source, r.offset, millis(i64::try_from(r.epoch).expect("an instant"))));
    }
    words.join(" ")
}

/// Milliseconds, and microseconds beyond them after a plus.
fn millis(micros: i64) -> String {
    match micros % 1_000 {
        0 => (micros / 1_000).to_string(),
        more => format!("{}+{more}", micros / 1_000),
    }
}

/// Takes up to `slices` slices, records in `resume` what a commit would, and shows each.
fn run(
    dir: &Dir,
    sources: &[Arc<Source>],
    clock: ReplayClock,
    rows: usize,
    slices: usize,
    resume: &mut Resume,
) -> Vec<String> {
    let settings = KafkaSettings::default();
    let mut replay = Replay::new(sources, &dir.path(), clock, &settings, resume).expect("a replay");
    let mut shown = vec![];
    while shown.len() < slices
        && let Some(slice) = replay.next_slice(rows).expect("readable")
    {
        assert!(resume.last < slice.last, "epochs increase: {:?} then {:?}", resume.last, slice.last);
        let epochs = slice
            .batches
            .iter()
            .flat_map(|(_, b)| b["_epoch"].as_primitive::<TimestampMicrosecondType>().values().to_vec());
        let floor = resume.last.map_or(0, Epoch::micros);
        let top = slice.last.expect("an epoch").micros();
        assert!(epochs.into_iter().all(|e| e > floor && e <= top), "all epochs are the slice's own");
        resume.offsets.merge(&slice.offsets);
        resume.sorted.extend(slice.sorted.clone());
        resume.last = slice.last;
        shown.push(show(&slice));
    }
    shown
}

fn check(dir: &Dir, sources: &[Arc<Source>], rows: usize, want: &[&str]) {
    let mut resume = Resume::default();
    assert_eq!(run(dir, sources, ReplayClock::Event, rows, usize::MAX, &mut resume), want);
    let again = run(dir, sources, ReplayClock::Event, rows, usize::MAX, &mut resume);
    assert!(again.is_empty(), "a second replay finds nothing new: {again:?}");
    // Stopped after each slice and started again, it gives the same.
    let (mut resume, mut shown) = (Resume::default(), vec![]);
    loop {
        let next = run(dir, sources, ReplayClock::Event, rows, 1, &mut resume);
        if next.is_empty() {
            break;
        }
        shown.extend(next);
    }
    assert_eq!(shown, want, "stopped and resumed");
}

#[test]
fn reading_ends_when_it_is_told_to() {
    let dir = Dir::new();
    let sources = [stream("a"), stream("b")];
    for name in ["a", "b"] {
        write(&dir, name, &[(1, Some(1)), (2, Some(2))]);
    }
    let (kafka, resume) = (KafkaSettings::default(), Resume::default());
    let telling = |told| Replay::telling(&sources, &dir.path(), ReplayClock::Event, &kafka, &resume, told);
    let until = |last: &'static str| Box::new(move |source: &str, _| source != last) as Told;
    assert!(matches!(telling(until("a")).err(), Some(ReplayError::Stopped)));
    assert!(matches!(telling(until("b")).err(), Some(ReplayError::Stopped)));
    assert_eq!(telling(until("c")).expect("read").rows_left(), 4);
}

/// Nobody answers there: a question takes seconds, and whoever stops meanwhile need not wait for it.
#[test]
fn a_broker_that_does_not_answer_is_not_waited_for() {
    let source = Arc::new(source("s", kafka("t")).with(&["id BIGINT"]));
    let kafka = KafkaSettings { brokers: Some("127.0.0.1:1".into()), ..KafkaSettings::default() };
    let mut left = 3;
    let told: Told = Box::new(move |_, records| {
        assert_eq!(records, 0);
        left -= 1;
        left > 0
    });
    let replay = Replay::telling(&[source], &Dir::new().path(), ReplayClock::Record, &kafka, &Resume::default(), told);
    assert!(matches!(replay.err(), Some(ReplayError::Stopped)));
}

#[test]
fn what_may_be_read_later_is_told_from_what_may_not() {
    let topic = |name: &str, brokers: Option<&str>| {
        let brokers = brokers.map(str::to_string);
        source(name, Connector::Kafka { topic: name.into(), format: Format::Json, brokers })
    };
    let settings = KafkaSettings { brokers: Some("here".into()), ..KafkaSettings::default() };
    let sources = [topic("a", None), topic("b", None), topic("c", Some("there")), source("f", file("f", Format::Json))];
    let check = |error: ReplayError, want: &[&str]| {
        let found = sources.iter().filter(|s| error.is_out_of_reach(s, &settings)).map(|s| s.name.as_str());
        assert_eq!(found.collect::<Vec<_>>(), want, "{error}");
    };
    let (source_name, brokers) = ("b".to_string(), "here".to_string());
    check(ReplayError::Stalled { source_name: source_name.clone(), reason: "silence".into() }, &["b"]);
    let cause = rdkafka::error::KafkaError::Canceled;
    check(KafkaError::Unreachable { brokers: brokers.clone(), source: cause.clone() }.into(), &["a", "b"]);
    check(KafkaError::UnknownTopic { topic: "b".into(), brokers }.into(), &["b"]);
    check(KafkaError::Refused { topic: "b".into(), source: cause }.into(), &[]);
    check(ReplayError::Refused { source_name, why: "it is another one".into() }, &[]);
    check(ReplayError::Stopped, &[]);
}

#[test]
fn sources_are_merged_in_time_order() {
    let dir = Dir::new();
    write(&dir, "a", &[(1, Some(10)), (2, Some(30)), (3, Some(20)), (4, Some(30))]);
    write(&dir, "b", &[(5, Some(20)), (6, Some(25)), (7, Some(40))]);
    let sources = [stream("a"), stream("b")];
    check(&dir, &sources, 100, &["a:1@10 a:3@20 a:2@30 a:4@30 b:5@20 b:6@25 b:7@40"]);
    check(&dir, &sources, 1, &["a:1@10", "a:3@20 b:5@20", "b:6@25", "a:2@30 a:4@30", "b:7@40"]);
    check(&dir, &sources, 2, &["a:1@10 a:3@20 b:5@20", "a:2@30 a:4@30 b:6@25", "b:7@40"]);
}

#[test]
fn tables_come_first() {
    let dir = Dir::new();
    write(&dir, "a", &[(1, Some(10)), (2, Some(0)), (3, Some(-5))]);
    write(&dir, "dim", &[(8, None), (9, None)]);
    write(&dir, "versions", &[(6, Some(10)), (7, Some(5))]);
    dir.write("more.jsonl", "nonsense\n");
    let table = |name: &str, event: Option<&str>| {
        let s = source(name, file(&format!("{name}.jsonl"), Format::Json)).with(&["id BIGINT !", "ts BIGINT"]);
        Arc::new(s.event(event).key(&[0]))
    };
    let sources =
        [stream("a"), table("dim", None), table("versions", Some("to_timestamp_millis(ts)")), table("more", None)];
    check(
        &dir,
        &sources,
        100,
        &[
            "dim:8@0+1 dim:9@0+1 !more:0@0+1",
            // Times at or below the last epoch share the next one; there the order is that of the offsets.
            "versions:7@5 versions:6@10 a:2@0+2 a:3@0+2 a:1@10",
        ],
    );
}

#[test]
fn refused_records_go_with_the_row_before_them() {
    let dir = Dir::new();
    dir.write("a.jsonl", "?\n{\"id\":1,\"ts\":10}\n?\n{\"id\":2,\"ts\":30}\n?\n{\"id\":3,\"ts\":20}\n?\n");
    check(&dir, &[stream("a")], 1, &["a:1@10 !a:0@10 !a:2@10", "a:3@20 !a:6@20", "a:2@30 !a:4@30"]);
    dir.write("b.jsonl", "?\n?\n");
    check(&dir, &[stream("b")], 1, &["!b:0@0+1 !b:1@0+1"]);
    check(
        &dir,
        &[stream("b"), stream("a")],
        100,
        &["a:1@10 a:3@20 a:2@30 !b:0@10 !b:1@10 !a:0@10 !a:2@10 !a:6@20 !a:4@30"],
    );
}

#[test]
fn what_came_since_is_read_after_what_was_begun() {
    let dir = Dir::new();
    write(&dir, "a", &[(1, Some(10)), (2, Some(30)), (3, Some(20)), (4, Some(40))]);
    write(&dir, "b", &[(5, Some(15)), (6, Some(60))]);
    let sources = [stream("a"), stream("b")];
    let mut resume = Resume::default();
    assert_eq!(run(&dir, &sources, ReplayClock::Event, 2, 1, &mut resume), ["a:1@10 a:3@20 b:5@15"]);
    assert_eq!(resume.offsets, Offsets::default(), "offsets move when a sorted part is used up");
    write(
        &dir,
        "a",
        &[(1, Some(10)), (2, Some(30)), (3, Some(20)), (4, Some(40)), (7, Some(5)), (8, Some(50)), (9, Some(40))],
    );
    assert_eq!(
        run(&dir, &sources, ReplayClock::Event, 100, 100, &mut resume),
        ["a:2@30 a:4@40", "a:7@40+1 a:9@40+1 a:8@50 b:6@60",]
    );
    assert_eq!((resume.offsets.get("a", 0), resume.offsets.get("b", 0)), (7, 2));
    write(&dir, "a", &[(1, Some(10))]);
    let error = Replay::new(&sources, &dir.path(), ReplayClock::Event, &KafkaSettings::default(), &resume);
    let error = error.err().expect("the file is shorter now").to_string();
    assert_eq!(error, "the file of 'a' has 1 records, and an earlier replay read 7: it was replaced");
}

#[test]
fn under_the_record_clock_files_are_sorted_by_arrival() {
    let dir = Dir::new();
    let line = |(id, ts, at): (i64, i64, i64)| format!("{{\"id\":{id},\"ts\":{ts},\"at\":{at}}}\n");
    dir.write("a.jsonl", [(1, 10, 40), (2, 20, 30), (3, 100_000_000, 35)].map(line).concat());
    let mut s = Source::clone(&stream("a"));
    s.arrival_time = Some(expr("to_timestamp_millis(at)"));
    let s = Arc::new(s);
    let all = |clock| run(&dir, &[Arc::clone(&s)], clock, 100, 100, &mut Resume::default());
    assert_eq!(all(ReplayClock::Record), ["a:2@30 a:1@40 !a:2@30"]);
    assert_eq!(all(ReplayClock::Event), ["a:1@10 a:2@20 a:3@100000000"]);
}

#[test]
fn a_missing_file_is_named() {
    let error = Replay::new(
        &[stream("a")],
        &Dir::new().path(),
        ReplayClock::Event,
        &KafkaSettings::default(),
        &Resume::default(),
    );
    assert!(matches!(error.err(), Some(ReplayError::File(FileError::Open { path, .. })) if path.ends_with("a.jsonl")));
}

proptest::proptest! {
    /// Whatever the sizes of files, slices and stops: each record once, in order, under the epoch of an unbroken run.
    #[test]
    fn stopping_changes_nothing(
        a in proptest::collection::vec(proptest::option::weighted(0.9, -3i64..40), 0..60),
        b in proptest::collection::vec(proptest::option::weighted(0.9, -3i64..40), 0..60),
        rows in 1usize..20,
    ) {
        let dir = Dir::new();
        let numbered = |times: &[Option<i64>]| (0..).zip(times.iter().copied()).collect::<Vec<_>>();
        write(&dir, "a", &numbered(&a));
        write(&dir, "b", &numbered(&b));
        let sources = [stream("a"), stream("b")];
        let whole = run(&dir, &sources, ReplayClock::Event, usize::MAX / 2, usize::MAX, &mut Resume::default());
        let (mut resume, mut parts) = (Resume::default(), vec![]);
        loop {
            let next = run(&dir, &sources, ReplayClock::Event, rows, 1, &mut resume);
            if next.is_empty() { break; }
            parts.extend(next);
            // Until it is at its end it is known to be unfinished, also by sources of which nothing was taken.
            let left = run(&dir, &sources, ReplayClock::Event, usize::MAX / 2, usize::MAX, &mut resume.clone());
            proptest::prop_assert_eq!(unfinished(&resume.offsets, &resume.sorted).is_some(), !left.is_empty());
        }
        let rows_of = |shown: &[String]| {
            let mut words: Vec<String> = shown.iter().flat_map(|s| s.split(' ')).map(str::to_string).collect();
            words.sort();
            words
        };
        let (whole, parts) = (rows_of(&whole), rows_of(&parts));
        proptest::prop_assert_eq!(whole.iter().filter(|w| !w.is_empty()).count(), a.len() + b.len());
        proptest::prop_assert_eq!(whole, parts);
    }
}

/// `cargo test --release replay_speed -- --ignored --nocapture` for the figure.
#[test]
#[ignore = "a measurement"]
fn replay_speed() {
    let dir = Dir::new();
    let text = |i: i64| {
        format!(
            "{{\"user_id\":{},\"item_id\":{},\"kind\":\"view\",\"price\":{}.5,\"ok\":true,\
             \"ts\":\"2024-05-{:02}T12:{:02}:{:02}.{:06}Z\"}}\n",
            i * 7919 % 100_000,
            i % 1_000,
            i % 300,
            i / 36_000 % 28 + 1,
            (i / 600 + i % 2) % 60,
            i / 10 % 60,
            i % 1_000_000
        )
    };
    dir.write("s.jsonl", (0..1_000_000).map(text).collect::<String>());
    let columns =
        ["user_id BIGINT !", "item_id BIGINT !", "kind TEXT !", "price DOUBLE", "ok BOOLEAN", "ts TIMESTAMP !"];
    let s = Arc::new(source("s", file("s.jsonl", Format::Json)).with(&columns));
    let start = std::time::Instant::now();
    let mut replay = Replay::new(&[s], &dir.path(), ReplayClock::Event, &KafkaSettings::default(), &Resume::default())
        .expect("read");
    let (sorted, mut rows) = (start.elapsed(), 0);
    while let Some(slice) = replay.next_slice(8_192).expect("readable") {
        rows += slice.batches.iter().map(|(_, b)| b.num_rows()).sum::<usize>();
    }
    println!("{rows} rows: read and sorted in {sorted:?}, all in {:?}", start.elapsed());
    assert_eq!(rows, 1_000_000);
}
