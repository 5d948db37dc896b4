//! The log read back, sealed and not, and labels against one evaluation after the other.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::catalogue::{Catalogue, Content, keyed_dir};
use super::history::{History, HistoryError, HistoryRequest, parse_features};
use super::point_in_time::{Labels, Mode, join};
use super::{Offline, OfflineError, SealSummary};
use crate::definition;
use crate::fold::columns::{group_converter, to_batch, updates_schema};
use crate::fold::entry::{Origin, Updates, hash_group, place};
use crate::fold::{Evaluation, Wanted};
use crate::offset::Offsets;
use crate::plan::Plan;
use crate::state::Store;
use crate::state::commit::{ClockKind, Commit, LogKind, LogRecord};
use crate::state::log::encode_batch;
use crate::time::{Ask, Epoch};

const SQL: &str = "
CREATE STREAM clicks (user_id BIGINT NOT NULL, kind TEXT, price DOUBLE, item BIGINT, ts TIMESTAMP NOT NULL) EVENT TIME ts
FROM FILE (path = 'clicks.csv', format = 'csv');
CREATE TABLE items (item BIGINT PRIMARY KEY, category TEXT) FROM FILE (path = 'items.csv', format = 'csv');
CREATE FEATURE VIEW users AS
SELECT user_id, count(*) FILTER (WHERE ts > now() - INTERVAL '40 microseconds') AS n, sum(price) AS spent,
       last_value(kind ORDER BY ts) AS last, max(ts) AS seen,
       count(*) FILTER (WHERE kind = 'b' AND ts > now() - INTERVAL '200 microseconds') AS bs
FROM clicks WHERE ts > now() - INTERVAL '400 microseconds' GROUP BY user_id;
CREATE FEATURE VIEW kinds WITH (entity = 'kind, item') AS
SELECT item, kind, count(*) AS n, avg(price) AS mean, count(*) + 1 AS more FROM clicks GROUP BY item, kind;
CREATE FEATURE VIEW spenders AS
SELECT c.user_id AS who, max(c.price) AS most, sum(10 / c.item) AS tens FROM clicks AS c WHERE c.price > 0 GROUP BY c.user_id;
CREATE FEATURE VIEW parts AS
SELECT 100 / (item - 2) AS part, count(*) AS n, first_value(kind) AS first FROM clicks GROUP BY 100 / (item - 2);
CREATE FEATURE VIEW categories AS
SELECT i.category, count(*) AS n, sum(c.price) FILTER (WHERE c.ts > now() - INTERVAL '100 microseconds') AS spent
FROM clicks AS c JOIN items AS i ON i.item = c.item GROUP BY i.category;
CREATE FEATURE SERVICE both AS users(spent), kinds;
";

/// A store under a directory of its own.
struct World {
    dir: tempfile::TempDir,
    plan: Arc<Plan>,
    offline: Arc<Offline>,
    rng: StdRng,
    /// Offset of the next event.
    next: i64,
}

impl World {
    fn new(seed: u64) -> World {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("dataflows")).unwrap();
        std::fs::write(dir.path().join("dataflows/all.sql"), SQL).unwrap();
        let definitions = definition::load(dir.path(), &BTreeMap::new()).unwrap_or_else(|e| panic!("{e}"));
        let plan = Arc::new(crate::plan::plan(&definitions).unwrap_or_else(|e| panic!("{e:?}")));
        let store = Arc::new(Store::open(&dir.path().join("data"), &plan).expect("a store"));
        let offline = Arc::new(Offline::new(Arc::clone(&plan), store).expect("a log"));
        World { dir, plan, offline, rng: StdRng::seed_from_u64(seed), next: 0 }
    }

    fn view(&self, name: &str) -> usize {
        self.plan.view_index(name).expect("the view exists")
    }

    /// A commit of `rows` events in epochs `from..=last`, and as many updates of the joined view.
    fn commit(&mut self, (from, last): (u64, u64), clock: ClockKind, visible: i64, rows: usize, users: i64) {
        let clicks = self.plan.source_index("clicks").expect("the stream exists");
        let mut records = vec![];
        // Two records a commit, whose epochs interleave.
        for _ in 0..2 {
            let batch = self.events((from, last), rows / 2, users);
            let bytes = encode_batch(&batch).unwrap();
            records.push(LogRecord {
                kind: LogKind::Events(self.offline.store().ids().source(clicks)),
                rows: batch.num_rows(),
                bytes,
            });
        }
        let view = self.view("categories");
        let updates = self.joined((from, last), rows);
        let fold = &self.plan.views[view].fold;
        let schema = updates_schema(&fold.plan, &["category".to_string()]);
        let order: Vec<u32> = (0..u32::try_from(updates.len()).unwrap()).collect();
        let batch = to_batch(&updates, &order, &fold.plan, &fold.shape, &schema).unwrap();
        let bytes = encode_batch(&batch).unwrap();
        records.push(LogRecord { kind: LogKind::Updates(updates.view), rows, bytes });
        let commit = Commit {
            last: Epoch(last),
            clock,
            visible,
            records,
            rejected: vec![],
            offsets: Offsets::default(),
            sorted: BTreeMap::new(),
            gaps: vec![],
            topic_ids: BTreeMap::new(),
        };
        self.offline.store().commit(&commit, false).unwrap();
        self.offline.store().board().publish(last, visible);
    }

    /// Seals, as if all pages had been written back.
    fn seal(&self, until: Epoch) -> Result<SealSummary, OfflineError> {
        let store = self.offline.store();
        for view in store.ids().views() {
            let redo = store.redo_point(view).unwrap().max(until.0);
            store.put_meta(&format!("redo:{view}"), &redo.to_be_bytes()).unwrap();
        }
        self.offline.seal(until)
    }

    fn events(&mut self, (from, last): (u64, u64), rows: usize, users: i64) -> RecordBatch {
        let rng = &mut self.rng;
        let (mut user, mut kind, mut price, mut item, mut ts, mut epoch, mut offset) =
            (vec![], vec![], vec![], vec![], vec![], vec![], vec![]);
        for _ in 0..rows {
            let e = rng.random_range(from..=last).cast_signed();
            user.push(rng.random_range(0..users));
            kind.push([Some("a"), Some("b"), Some("a kind with a long name"), None][rng.random_range(0..4)]);
            price.push(rng.random_bool(0.8).then(|| rng.random_range(-5.0..5.0)));
            item.push(rng.random_bool(0.9).then(|| rng.random_range(0..4)));
            // Late and early events, too.
            ts.push(e + rng.random_range(-60..20));
            epoch.push(e);
            offset.push(self.next);
            self.next += 1;
        }
        let time = |v: &Vec<i64>| Arc::new(TimestampMicrosecondArray::from(v.clone())) as ArrayRef;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(user)),
            Arc::new(StringArray::from(kind)),
            Arc::new(Float64Array::from(price)),
            Arc::new(Int64Array::from(item)),
            time(&ts),
            time(&ts),
            time(&epoch),
            time(&epoch),
            Arc::new(Int32Array::from(vec![0; rows])),
            Arc::new(Int64Array::from(offset)),
        ];
        let clicks = self.plan.source_index("clicks").expect("the stream exists");
        RecordBatch::try_new(self.plan.sources[clicks].row_schema(), columns).unwrap()
    }

    /// Rows that count from later than their event time, and some that are taken back.
    fn joined(&mut self, (from, last): (u64, u64), rows: usize) -> Updates {
        let view = self.view("categories");
        let fold = Arc::clone(&self.plan.views[view].fold);
        let (rng, mut updates) = (&mut self.rng, Updates::of(self.offline.store().ids().view(view)));
        let converter = group_converter(&fold.plan).unwrap();
        let names =
            converter.convert_columns(&[Arc::new(StringArray::from(vec![Some("x"), Some("y"), None]))]).unwrap();
        assert_eq!(fold.plan.values.len(), 1, "the price");
        for n in 0..rows {
            let group = names.row(rng.random_range(0..3));
            updates.hashes.push(hash_group(group.as_ref()));
            updates.group_bytes.extend_from_slice(group.as_ref());
            updates.group_ends.push(u32::try_from(updates.group_bytes.len()).unwrap());
            let epoch = rng.random_range(from..=last);
            let event_time = epoch.cast_signed() + rng.random_range(-60..20);
            updates.epochs.push(epoch);
            updates.counts_from.push(if rng.random_bool(0.3) {
                event_time + rng.random_range(1..90)
            } else {
                i64::MIN
            });
            updates.flags.push(0);
            let (null, price) = (rng.random_bool(0.2), rng.random_range(-5.0..5.0f64));
            let place = place(Origin::new(0, 0), if rng.random_bool(0.2) { 2 } else { 1 });
            let bits = u64::from(null);
            let word = if null { 0 } else { price.to_bits() };
            updates.words.extend([event_time.cast_unsigned(), n as u64, place, bits, word]);
        }
        updates
    }

    /// What a view straight from the stream is read from.
    fn copy_of(&self, view: &str) -> Content {
        let key = self.plan.views[self.view(view)].key.expect("it reads a stream alone");
        Content::Keyed(self.offline.store().ids().key(key))
    }

    fn keyed_dir(&self, view: &str) -> PathBuf {
        let Content::Keyed(id) = self.copy_of(view) else { panic!("its events are sorted by a key") };
        let key = &self.plan.keys[self.plan.views[self.view(view)].key.expect("it has one")];
        keyed_dir(&key.stream.name, &key.name(), id)
    }

    /// Every event and every update up to an epoch, as text, sorted.
    fn log(&self, until: Epoch) -> Vec<String> {
        let mut lines = vec![];
        for source in 0..self.plan.sources.len() {
            self.offline
                .events(source, until, &mut |batch| {
                    lines.extend(rows(&batch).into_iter().map(|line| format!("{source} {line}")));
                    Ok(())
                })
                .unwrap();
        }
        for (view, planned) in self.plan.views.iter().enumerate() {
            let (fold, mut whole) = (&planned.fold, vec![]);
            let groups: Vec<String> = planned.plan.groups.iter().map(|(n, _)| n.clone()).collect();
            let schema = updates_schema(&fold.plan, &groups);
            self.offline
                .updates(view, &None, until, &mut |updates| {
                    let order: Vec<u32> = (0..u32::try_from(updates.len()).unwrap()).collect();
                    whole.push(to_batch(&updates, &order, &fold.plan, &fold.shape, &schema)?);
                    Ok(())
                })
                .unwrap();
            for batch in &whole {
                lines.extend(rows(batch).into_iter().map(|line| format!("{} {line}", planned.plan.name)));
            }
        }
        lines.sort();
        lines
    }
}

fn rows(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("-");
    let cells: Vec<_> = batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
    (0..batch.num_rows()).map(|n| cells.iter().map(|c| c.value(n).to_string()).collect::<Vec<_>>().join("|")).collect()
}

/// A replay of two commits, then three live ones.
fn filled(seed: u64) -> World {
    let mut world = World::new(seed);
    world.commit((1, 300), ClockKind::Event, 300, 200, 5);
    world.commit((301, 450), ClockKind::Event, 450, 100, 5);
    world.commit((600, 600), ClockKind::Wall, 640, 30, 5);
    world.commit((700, 710), ClockKind::Wall, 720, 40, 5);
    world.commit((800, 800), ClockKind::Wall, 800, 2, 5);
    world
}

#[test]
fn what_is_sealed_reads_as_before() {
    let world = filled(1);
    let asked = [0, 1, 150, 300, 301, 450, 600, 705, 710, 800, 900].map(Epoch);
    let before: Vec<_> = asked.iter().map(|e| world.log(*e)).collect();
    assert!(before[0].is_empty());
    assert!(before.windows(2).all(|w| w[0].len() <= w[1].len()));
    let mut events = 0;
    for until in [300, 710, 710, 800] {
        let summary = world.seal(Epoch(until)).unwrap();
        events += summary.events;
        let catalogue = Catalogue::read(world.offline.store()).unwrap();
        assert!(catalogue.sealed.len() >= 3 && catalogue.sealed.values().all(|sealed| *sealed == until));
        for (epoch, want) in asked.iter().zip(&before) {
            assert!(world.log(*epoch) == *want, "sealed to {until}, read to {epoch:?}");
        }
        world.offline.check_segments().unwrap();
        world.offline.store().check_tail().unwrap();
    }
    assert_eq!(events, 372);
    assert_eq!(world.seal(Epoch(800)).unwrap(), Default::default(), "nothing is left");
}

/// Rule 29: however many views group a stream by the same expressions, its events are sorted by these once.
#[test]
fn views_of_one_key_share_one_copy_of_the_events() {
    let world = filled(6);
    assert_eq!(world.plan.keys.len(), 3, "by user, by item and kind, by a quotient");
    assert_eq!(world.copy_of("users"), world.copy_of("spenders"), "whatever they are called, admit and compute");
    assert_eq!(world.keyed_dir("parts").parent(), world.keyed_dir("users").parent());
    let before = world.log(Epoch(800));
    let summary = world.seal(Epoch(800)).unwrap();
    let mut of_item_2 = 0;
    let clicks = world.plan.source_index("clicks").unwrap();
    let mut count = |batch: RecordBatch| {
        of_item_2 += rows(&batch.project(&[3]).unwrap()).iter().filter(|item| *item == "2").count() as u64;
        Ok(())
    };
    world.offline.events(clicks, Epoch(800), &mut count).unwrap();
    assert!(of_item_2 > 0 && world.log(Epoch(800)) == before);
    // An event without a group is in no copy by that key, and in all others.
    assert_eq!((summary.events, summary.keyed, summary.updates), (372, 3 * 372 - of_item_2, 372));
    let catalogue = Catalogue::read(world.offline.store()).unwrap();
    for view in ["users", "kinds", "parts"] {
        let files: Vec<_> = catalogue.of_content(world.copy_of(view)).map(|e| e.path.as_str()).collect();
        assert!(files.len() == 1 && files[0].starts_with(world.keyed_dir(view).to_str().unwrap()), "{files:?}");
    }
    let data = world.dir.path().join("data/segments");
    let folders = |name: &str| std::fs::read_dir(data.join(name)).map_or(0, Iterator::count);
    assert_eq!((folders("keyed/clicks"), folders("updates")), (3, 1), "only the joined view has updates of its own");
}

#[test]
fn events_come_in_the_order_of_epochs() {
    let world = filled(2);
    world.seal(Epoch(450)).unwrap();
    let clicks = world.plan.source_index("clicks").unwrap();
    let mut offsets = vec![];
    let mut take = |batch: RecordBatch| {
        offsets.extend(rows(&batch.project(&[7]).unwrap()));
        Ok(())
    };
    world.offline.events(clicks, Epoch(450), &mut take).unwrap();
    let mut sorted = offsets.clone();
    sorted.sort();
    assert_eq!(offsets.len(), 300, "all of them");
    assert_eq!(offsets, sorted);
}

#[test]
fn row_groups_without_the_group_are_skipped() {
    let mut world = World::new(3);
    world.commit((1, 1000), ClockKind::Event, 1000, 200_000, 5000);
    world.seal(Epoch(1000)).unwrap();
    let view = world.view("users");
    let catalogue = Catalogue::read(world.offline.store()).unwrap();
    let content = world.copy_of("users");
    let entries: Vec<_> = catalogue.of_content(content).collect();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].rows, 200_000);
    let segment = world.offline.segment(entries[0]).unwrap();
    let codec = crate::key::EntityCodec::new(&world.plan.views[view].plan).unwrap();
    let fold = &world.plan.views[view].fold;
    for user in [0, 17, 4999] {
        let group = codec.group(&codec.parse(&format!("{user}")).unwrap()).unwrap().unwrap();
        // A group's rows may straddle two.
        let groups = segment.row_groups(&[hash_group(&group)]);
        assert!((1..=2).contains(&groups.len()), "{groups:?}");
        let wanted = group.as_slice();
        let count = |asked: &super::segment::Asked| {
            let (mut read, mut found) = (0, 0);
            let mut take = |updates: Updates| {
                read += updates.len();
                found += (0..updates.len()).filter(|n| updates.get(*n, &fold.shape).group == wanted).count();
                Ok(())
            };
            world.offline.updates(view, asked, Epoch(1000), &mut take).unwrap();
            (read, found)
        };
        let (all, want) = count(&None);
        assert_eq!(all, 200_000);
        assert_eq!(count(&Some(Arc::from([hash_group(&group)]))), (want, want), "only its rows are read");
    }
    let nobody = codec.group(&codec.parse("-77").unwrap()).unwrap().unwrap();
    assert_eq!(world.offline.evaluate(view, &nobody, Epoch(1000), Ask(1000)).unwrap(), Evaluation::of_nothing(fold));
}

#[test]
fn leftovers_of_a_crash_are_ignored_and_removed() {
    let world = filled(4);
    world.seal(Epoch(300)).unwrap();
    let data = world.dir.path().join("data");
    let stray = data.join("segments/events/clicks/301-450.parquet");
    std::fs::write(&stray, b"half a file").unwrap();
    let unfinished = data.join(world.keyed_dir("users")).join("301-450.tmp");
    std::fs::write(&unfinished, b"").unwrap();
    let before = world.log(Epoch(800));
    world.offline.check_segments().unwrap();
    world.seal(Epoch(450)).unwrap();
    assert!(!unfinished.exists());
    assert!(world.log(Epoch(800)) == before);
    let known = Catalogue::read(world.offline.store()).unwrap().entries;
    assert!(known.iter().all(|e| data.join(&e.path).is_file()));
}

#[test]
fn a_damaged_segment_is_found() {
    let world = filled(5);
    world.seal(Epoch(800)).unwrap();
    let catalogue = Catalogue::read(world.offline.store()).unwrap();
    assert_eq!(world.offline.check_segments().unwrap(), catalogue.entries.len() as u64);
    let path = world.dir.path().join("data").join(&catalogue.entries[1].path);
    let whole = std::fs::read(&path).unwrap();
    let check = |bytes: Option<&[u8]>| {
        match bytes {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let error = world.offline.check_segments().expect_err("it is damaged").to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    };
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    check(Some(&flipped));
    check(Some(&whole[..whole.len() - 1]));
    check(None);
    std::fs::write(&path, &whole).unwrap();
    world.offline.check_segments().unwrap();
}

#[test]
fn labels_get_what_one_evaluation_gives() {
    for (seed, sealed) in [(10, 0), (11, 450), (12, 710), (13, 800)] {
        let mut world = filled(seed);
        if sealed > 0 {
            world.seal(Epoch(sealed)).unwrap();
        }
        let timeline = world.offline.timeline().unwrap();
        for view in 0..world.plan.views.len() {
            let mut known: Vec<Vec<u8>> = vec![b"not a group".to_vec()];
            let shape = &world.plan.views[view].fold.shape;
            let mut take = |updates: Updates| {
                known.extend((0..updates.len()).map(|n| updates.get(n, shape).group.to_vec()));
                Ok(())
            };
            world.offline.updates(view, &None, Epoch(u64::MAX), &mut take).unwrap();
            let pick = |rng: &mut StdRng| match rng.random_range(0..20) {
                0 => None,
                _ => Some(known[rng.random_range(0..known.len())].clone()),
            };
            let groups: Vec<_> = (0..300).map(|_| pick(&mut world.rng)).collect();
            let instants: Vec<i64> = (0..300).map(|_| world.rng.random_range(-80..1300)).collect();
            for mode in [Mode::Served, Mode::Corrected] {
                let mut answers: Vec<Option<Evaluation>> = vec![None; 300];
                let labels = Labels { groups: &groups, instants: &instants, asked: &Wanted::ALL };
                join(&world.offline, view, labels, mode, &timeline, &mut |row, answer| {
                    assert!(answers[row].replace(answer.clone()).is_none(), "row {row} is answered twice");
                    Ok(())
                })
                .unwrap();
                for (row, answer) in answers.into_iter().enumerate() {
                    let at = Ask(instants[row]);
                    let epoch = if mode == Mode::Served { timeline.served(at) } else { timeline.last() };
                    let want = match &groups[row] {
                        Some(group) => world.offline.evaluate(view, group, epoch, at).unwrap(),
                        None => Evaluation::of_nothing(&world.plan.views[view].fold),
                    };
                    assert_eq!(answer, Some(want), "view {view}, {mode:?}, at {at:?}");
                }
            }
        }
    }
}

fn labels(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
}

#[test]
fn a_training_set_has_the_features_in_order() {
    let world = filled(20);
    let features = parse_features(&world.plan, &["users:spent", "kinds:*", "users:n", "users:spent"]).unwrap();
    let request = HistoryRequest { features, mode: Mode::Served, full_names: true };
    let history = History::new(&world.offline, &request).unwrap();
    let names: Vec<&str> = history.schema().fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(names, ["users__spent", "kinds__n", "kinds__mean", "kinds__more", "users__n"]);
    let chunk = labels(vec![
        ("as_of", Arc::new(StringArray::from(vec!["1970-01-01T00:00:00.000700Z"; 4]))),
        ("user_id", Arc::new(StringArray::from(vec![Some("1"), Some("99"), None, Some("1")]))),
        ("item", Arc::new(Float64Array::from(vec![Some(1.0), Some(2.0), None, Some(f64::NAN)]))),
        ("kind", Arc::new(StringArray::from(vec!["a", "b", "a", "a"]))),
    ]);
    let got = history.join(&chunk, None, 0).unwrap();
    let user = world.view("users");
    let codec = crate::key::EntityCodec::new(&world.plan.views[user].plan).unwrap();
    let group = codec.group(&codec.parse("1").unwrap()).unwrap().unwrap();
    let want = world.offline.evaluate(user, &group, Epoch(600), Ask(700)).unwrap();
    let spent = datafusion::common::ScalarValue::try_from_array(got.column(0), 0).unwrap();
    assert_eq!(spent, want.values[1]);
    let lines = rows(&got);
    assert!(lines[1].starts_with("-|") && lines[1].ends_with("|0"), "{lines:?}");
    assert_eq!(lines[2], "-|0|-|1|0", "a null names nobody");
    assert!(lines[3].contains("|0|-|1|"), "{lines:?}");
    let service = parse_features(&world.plan, &["both"]).unwrap();
    assert_eq!(service.iter().map(|(_, f)| f.len()).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn what_cannot_be_asked_says_why() {
    let world = filled(21);
    let check = |names: &[&str], want: &str| {
        let request = parse_features(&world.plan, names).and_then(|features| {
            History::new(&world.offline, &HistoryRequest { features, ..HistoryRequest::default() })
        });
        let error = request.err().unwrap_or_else(|| panic!("{names:?} is refused")).to_string();
        assert!(error.contains(want), "{error}");
    };
    check(&["user:n"], "there is no view `user`; did you mean `users`?");
    check(&["users:spend"], "did you mean `spent`?");
    check(&["nothing"], "there is no service `nothing`; there are `both`");
    check(&["users"], "write users:*");
    check(&[], "no feature is asked for");
    check(&["users:n", "kinds:n"], "--full-names");
    let features = parse_features(&world.plan, &["users:n"]).unwrap();
    let history = History::new(&world.offline, &HistoryRequest { features, ..HistoryRequest::default() }).unwrap();
    let refuse = |columns: Vec<(&str, ArrayRef)>, time: Option<&str>, want: &str| {
        let batch = labels(columns);
        let refused =
            history.joined_schema(&batch.schema(), time).err().or_else(|| history.join(&batch, time, 10).err());
        let error = refused.unwrap_or_else(|| panic!("refused with {want}")).to_string();
        assert!(error.contains(want), "{error}");
    };
    let ids = || ("user_id", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef);
    let times = || ("as_of", Arc::new(TimestampMicrosecondArray::from(vec![1, 2])) as ArrayRef);
    let text = |cells: [Option<&str>; 2]| Arc::new(StringArray::from(cells.to_vec())) as ArrayRef;
    refuse(vec![ids()], None, "no time column `as_of` or `event_timestamp`");
    refuse(vec![ids(), times()], Some("at"), "no column `at`; they have user_id, as_of");
    refuse(vec![times()], None, "no column `user_id`, the entity of view `users`");
    refuse(vec![ids(), times(), ("n", ids().1)], None, "have a column `n`");
    refuse(vec![("user_id", text([Some("1"), Some("x")])), times()], None, "row 12, column `user_id`: `x`");
    refuse(vec![("user_id", text([Some("1e0"), Some("1.5")])), times()], None, "row 12, column `user_id`: `1.5`");
    refuse(vec![("user_id", Arc::new(Float64Array::from(vec![1.0, 1.5]))), times()], None, "`1.5` is not a BIGINT");
    refuse(vec![ids(), ("as_of", text([None, Some("2020-01-01")]))], None, "row 11, column `as_of`: it is empty");
    refuse(vec![ids(), ("as_of", text([Some("2020-01-01"), Some("17")]))], None, "row 12, column `as_of`: `17`");
    refuse(vec![ids(), ("as_of", ids().1)], None, "the time column `as_of` is Int64");
    refuse(vec![ids(), times(), ("user_id", ids().1)], None, "two columns `user_id`; rename or remove one");
    refuse(vec![ids(), times(), ("as_of", times().1)], None, "two columns `as_of`");
    refuse(vec![ids(), times(), ("note", ids().1), ("note", ids().1)], None, "two columns `note`");
    let nothing = |rows| Arc::new(arrow::array::NullArray::new(rows)) as ArrayRef;
    refuse(vec![ids(), ("as_of", nothing(2))], None, "row 11, column `as_of`: it is empty");
}

#[test]
fn entities_come_in_the_types_that_label_files_have() {
    use arrow::array::{Float32Array, NullArray};
    let world = filled(23);
    let features = parse_features(&world.plan, &["users:*"]).unwrap();
    let history = History::new(&world.offline, &HistoryRequest { features, ..HistoryRequest::default() }).unwrap();
    let ask = |users: ArrayRef| {
        let times = Arc::new(TimestampMicrosecondArray::from(vec![700, 700])) as ArrayRef;
        rows(&history.join(&labels(vec![("user_id", users), ("as_of", times)]), None, 0).unwrap())
    };
    let nobody = ask(Arc::new(Int64Array::from(vec![None::<i64>, None])));
    assert_eq!(ask(Arc::new(NullArray::new(2))), nobody);
    assert_eq!(ask(Arc::new(Float32Array::from(vec![f32::NAN, f32::NAN]))), nobody);
    let some = ask(Arc::new(Int64Array::from(vec![Some(1), None])));
    assert_ne!(some, nobody);
    assert_eq!(ask(Arc::new(Float32Array::from(vec![1.0, f32::NAN]))), some);
}

#[test]
fn a_join_that_nobody_wants_ends() {
    let world = filled(24);
    let features = parse_features(&world.plan, &["users:n"]).unwrap();
    let history = History::new(&world.offline, &HistoryRequest { features, ..HistoryRequest::default() }).unwrap();
    let times = Arc::new(TimestampMicrosecondArray::from(vec![700])) as ArrayRef;
    let batch = labels(vec![("user_id", Arc::new(Int64Array::from(vec![1]))), ("as_of", times)]);
    assert!(history.join(&batch, None, 0).is_ok());
    history.stop();
    let ended = history.join(&batch, None, 0);
    assert!(matches!(ended, Err(HistoryError::Offline(OfflineError::Stopped))), "{ended:?}");
}

#[test]
fn a_label_beyond_what_is_settled_is_refused_by_its_row() {
    // Commits are visible up to 800; then nothing comes, and the node says that nothing else will have been by 900.
    let mut world = filled(22);
    world.offline.store().board().advance(900);
    let request = |mode: Mode| {
        let features = parse_features(&world.plan, &["users:n"]).unwrap();
        History::new(&world.offline, &HistoryRequest { features, mode, full_names: false }).unwrap()
    };
    let batch = |instants: Vec<i64>| {
        let ids = Arc::new(Int64Array::from(vec![1; instants.len()]));
        labels(vec![("user_id", ids), ("as_of", Arc::new(TimestampMicrosecondArray::from(instants)))])
    };
    for mode in [Mode::Served, Mode::Corrected] {
        let history = request(mode);
        history.join(&batch(vec![800, 900]), None, 10).expect("all of this is settled");
        let error = history.join(&batch(vec![900, 901]), None, 10).expect_err("this is not").to_string();
        assert!(error.contains("row 12, ") && error.contains("00.000901Z") && error.contains("00.000900Z"), "{error}");
    }
    // What is settled is what was when the request came: the same request answers the same, whatever comes meanwhile.
    let history = request(Mode::Served);
    let before = rows(&history.join(&batch(vec![900]), None, 0).unwrap());
    world.commit((950, 950), ClockKind::Wall, 950, 40, 5);
    assert_eq!(rows(&history.join(&batch(vec![900]), None, 0).unwrap()), before);
    assert!(history.join(&batch(vec![950]), None, 0).is_err());
}
