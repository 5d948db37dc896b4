//! Commits, pages and the witness, in a store of a temporary directory.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use datafusion::common::DataFusionError;
use rocksdb::WriteBatch;

use super::cache::{Cache, Read};
use super::commit::{ClockKind, Commit, LogKind, LogRecord};
use super::log::{encode_batch, redo_key};
use super::published::Promise;
use super::redo::redo;
use super::witness::Witness;
use super::{StateError, Store};
use crate::event::EventBatch;
use crate::fold::entry::Updates;
use crate::id::ViewId;
use crate::key::EntityCodec;
use crate::offset::Offsets;
use crate::plan::Plan;
use crate::plan::project::Projector;
use crate::source::Rejected;
use crate::time::Epoch;

const SQL: &str = "
CREATE STREAM clicks (user_id BIGINT, x BIGINT, ts TIMESTAMP NOT NULL) EVENT TIME ts
FROM FILE (path = 'clicks.jsonl', format = 'jsonl');
CREATE FEATURE VIEW users AS SELECT user_id, count(*) AS n, sum(x) FILTER (WHERE ts > now() - INTERVAL '1 day') AS x
FROM clicks GROUP BY user_id;
CREATE FEATURE VIEW more AS SELECT user_id, max(x) AS x FROM clicks GROUP BY user_id;";

struct World {
    dir: tempfile::TempDir,
    plan: Arc<Plan>,
    store: Arc<Store>,
    cache: Cache,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("dataflows")).expect("a directory");
        std::fs::write(dir.path().join("dataflows/all.sql"), SQL).expect("written");
        let definitions = crate::definition::load(dir.path(), &BTreeMap::new()).expect("sound");
        let plan = Arc::new(crate::plan::plan(&definitions).expect("it can be planned"));
        let store = Arc::new(Store::open(&dir.path().join("data"), &plan).expect("made"));
        let cache = Cache::new(Arc::clone(&store), &plan).expect("empty");
        World { dir, plan, store, cache }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The log of the clicks.
    fn events(&self) -> LogKind {
        LogKind::Events(self.store.ids().source(0))
    }

    /// The redo points of both views.
    fn redo_points(&self) -> [u64; 2] {
        [0, 1].map(|view| self.store.redo_point(self.store.ids().view(view)).expect("readable"))
    }

    /// The process ends, by itself or not, and another opens what it left.
    fn again(self) -> World {
        let World { dir, plan, store, cache } = self;
        drop((store, cache));
        let store = Arc::new(Store::open(&dir.path().join("data"), &plan).expect("it opens"));
        let cache = Cache::new(Arc::clone(&store), &plan).expect("readable");
        redo(&store, &plan, &cache, None, |view, events| projected(&store, &plan, view, events))
            .expect("the tail is readable");
        World { dir, plan, store, cache }
    }

    /// One click of each user.
    fn clicks(&self, epoch: u64, users: std::ops::Range<i64>) -> RecordBatch {
        let rows = users.clone().count();
        let time = || Arc::new(TimestampMicrosecondArray::from(vec![epoch.cast_signed(); rows])) as ArrayRef;
        let offsets = (0..).take(rows).map(|n: i64| epoch.cast_signed() * 100_000 + n);
        let schema = self.plan.sources[0].row_schema();
        let columns = schema.fields().iter().map(|field| match field.name().as_str() {
            "user_id" => Arc::new(Int64Array::from_iter_values(users.clone())) as ArrayRef,
            "x" => Arc::new(Int64Array::from(vec![epoch.cast_signed(); rows])),
            "_partition" => Arc::new(Int32Array::from(vec![0; rows])),
            "_offset" => Arc::new(Int64Array::from_iter_values(offsets.clone())),
            _ => time(),
        });
        RecordBatch::try_new(Arc::clone(&schema), columns.collect()).expect("columns of the schema")
    }

    fn commit_of(&self, epoch: u64, batch: Option<&RecordBatch>, refused: usize) -> Commit {
        let record = |batch: &RecordBatch| LogRecord {
            kind: self.events(),
            rows: batch.num_rows(),
            bytes: encode_batch(batch).expect("plain types"),
        };
        let rejected = |n: usize| Rejected {
            epoch,
            source: "clicks".into(),
            partition: 0,
            offset: n as i64,
            view: None,
            reason: format!("decode: the {n}th of {epoch}"),
            key: None,
            bytes: vec![7; 30],
        };
        let mut offsets = Offsets::default();
        offsets.advance("clicks", 0, epoch.cast_signed() * 100_000);
        Commit {
            last: Epoch(epoch),
            clock: ClockKind::Wall,
            visible: epoch.cast_signed(),
            records: batch.into_iter().map(record).collect(),
            rejected: (0..refused).map(rejected).collect(),
            offsets,
            sorted: BTreeMap::new(),
            gaps: vec![],
            topic_ids: BTreeMap::new(),
        }
    }

    /// Commits one click of each user, and publishes it.
    fn take(&self, epoch: u64, users: std::ops::Range<i64>) {
        let batch = self.clicks(epoch, users);
        self.push(&batch);
        self.store.commit(&self.commit_of(epoch, Some(&batch), 0), false).expect("written");
        self.cache.publish(epoch, epoch.cast_signed());
    }

    /// Puts the updates of a batch into pages, before their commit.
    fn push(&self, batch: &RecordBatch) {
        for view in 0..self.plan.views.len() {
            for updates in projected(&self.store, &self.plan, view, batch).expect("it can be evaluated") {
                self.cache.push(&updates).expect("pages are readable");
            }
        }
    }

    /// The number of a user's clicks, as of the last commit.
    fn count(&self, user: i64) -> String {
        let codec = EntityCodec::new(&self.plan.views[0].plan).expect("one column");
        let key = codec.group(&codec.parse(&user.to_string()).expect("a number")).expect("a group").expect("not null");
        let epoch = self.cache.published().epoch;
        match self.cache.read(0, &key, epoch, epoch.cast_signed()).expect("readable") {
            Read::Answer(answer) => format!("{:?}", answer.values),
            other => format!("{other:?}"),
        }
    }
}

fn projected(store: &Store, plan: &Plan, view: usize, events: &RecordBatch) -> Result<Vec<Updates>, DataFusionError> {
    Ok(Projector::new(store.ids().view(view), &plan.views[view])?
        .project_events(&EventBatch::new(events.clone())?, 1)?
        .updates)
}

/// What a panic said.
fn panic_of(run: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(run)).expect_err("it must not go on");
    panic.downcast_ref::<String>().cloned().unwrap_or_default()
}

#[test]
fn a_commit_follows_the_one_before_it() {
    let world = World::new();
    world.take(10, 0..3);
    let check = |change: &dyn Fn(&mut Commit), says: &str| {
        let mut commit = world.commit_of(20, None, 0);
        change(&mut commit);
        let said = panic_of(|| world.store.commit(&commit, false).expect("written"));
        assert!(said.contains(says), "{said}");
    };
    check(&|c| c.last = Epoch(10), "epoch 10 does not follow 10");
    check(&|c| c.visible = 10, "10 is not visible after 10");
    check(&|c| c.visible = 19, "visible before it began");
    check(&|c| c.offsets = Offsets(BTreeMap::from([("clicks".into(), BTreeMap::from([(0, 5)]))])), "goes back");
    world.store.commit(&world.commit_of(20, None, 0), false).expect("written");
    assert_eq!(world.store.check_all().expect("whole").commits, 2);
    // And so it is after a restart.
    let world = world.again();
    let said = panic_of(|| world.store.commit(&world.commit_of(20, None, 0), false).expect("written"));
    assert!(said.contains("epoch 20 does not follow 20"), "{said}");
}

/// Rule 28: an epoch that was lost with the power is given to nothing else, whatever the clock says then.
#[test]
fn epochs_begin_above_all_that_may_have_been_shown() {
    let mut world = World::new();
    assert_eq!(world.store.begins_after(), Epoch::ZERO);
    world.take(10, 0..3);
    world.store.promise(Promise { through: 10, bound: 500 }, true).expect("written");
    assert_eq!(world.store.promised_durably(), 500);
    world = world.again();
    assert_eq!(
        (world.store.begins_after(), world.cache.published().epoch),
        (Epoch(500), 10),
        "it did not stop by itself"
    );
    assert_eq!(world.store.promised_durably(), 500);
    world.take(501, 0..3);
    world.store.promise(Promise { through: 501, bound: 2_000 }, false).expect("written");
    assert_eq!(world.store.promised_durably(), 500, "a power loss would leave no more");
    world.store.sync().expect("synced");
    assert_eq!(world.store.promised_durably(), 2_000);
    world.store.promise(Promise { through: 600, bound: 600 }, false).expect("written");
    assert_eq!(world.again().store.begins_after(), Epoch(501), "it had stopped, and lost nothing");
}

/// Where a partition stood once is found in the last thousand commits before, whenever it moved.
#[test]
fn offsets_of_any_epoch_are_those_of_the_commits_up_to_it() {
    let world = World::new();
    for epoch in 1..=2_100_u64 {
        let mut commit = world.commit_of(epoch, None, 0);
        // Partition 0 moves once and no more, another rarely.
        let moved = [(0, epoch == 1), (1, epoch % 700 == 0), (2, epoch % 3 == 0)];
        let ends = moved.iter().filter(|(_, moves)| *moves).map(|(partition, _)| (*partition, epoch.cast_signed()));
        commit.offsets = Offsets(BTreeMap::from([("clicks".into(), ends.collect())]));
        world.store.commit(&commit, false).expect("written");
    }
    for epoch in [1, 2, 699, 700, 1_023, 1_024, 1_025, 1_400, 2_047, 2_048, 2_100, 9_999] {
        let mut want = Offsets::default();
        for commit in world.store.commits().map(|c| c.expect("readable")).filter(|c| c.last <= epoch) {
            commit.offsets.iter().for_each(|(source, partition, next)| want.advance(source, *partition, *next));
        }
        assert_eq!(world.store.offsets_at(Epoch(epoch)).expect("readable"), want, "epoch {epoch}");
    }
    let whole = world.store.commit_at(2_048).expect("readable").expect("it is there");
    assert_eq!(whole.offsets.len(), 3, "it says where everything stands: {:?}", whole.offsets);
}

/// Pages are fed before the commit, which may never come.
#[test]
fn a_group_of_which_nothing_is_committed_has_no_row() {
    let mut world = World::new();
    for _ in 0..2 {
        world.push(&world.clicks(10, 0..3));
        assert_eq!(world.cache.write_back().expect("written"), 0);
        assert_eq!(world.store.check_all().expect("whole").pages, 0);
        world = world.again();
    }
    world.take(20, 0..2);
    world.push(&world.clicks(30, 0..3));
    assert_eq!(world.cache.write_back().expect("written"), 2 * 2);
    let world = world.again();
    assert_eq!([world.count(0), world.count(2)], ["[Int64(20)]", "Nothing"]);
    world.take(40, 0..3);
    assert_eq!(world.cache.write_back().expect("written"), 3 * 2);
    assert_eq!(world.store.check_all().expect("whole").pages, 3 * 2);
}

#[test]
fn the_witness_follows_each_sync_and_no_commit_alone() {
    let world = World::new();
    let seen = || Witness::read(&world.data()).expect("whole").expect("there");
    assert_eq!((seen().commits, seen().clean), (0, false));
    world.take(10, 0..3);
    assert_eq!(seen().commits, 0, "not on the disk yet");
    world.store.sync().expect("on the disk");
    assert_eq!((seen().commits, seen().last), (1, 10));
    // `[commit] sync = 'always'`.
    world.store.commit(&world.commit_of(20, None, 0), true).expect("written");
    assert_eq!((seen().commits, seen().last, seen().clean), (2, 20, false));
    world.store.close().expect("closed");
    assert!(seen().clean);
    let world = world.again();
    assert!(!Witness::read(&world.data()).expect("whole").expect("there").clean, "it is being written again");
}

#[test]
fn a_stopped_store_is_written_by_nobody_else() {
    for clean in [true, false] {
        let world = World::new();
        world.take(10, 0..3);
        if clean {
            world.store.close().expect("closed");
        } else {
            world.store.sync().expect("on the disk");
        }
        let mut batch = WriteBatch::default();
        batch.put_cf(&world.store.family("meta"), "mine", b"1");
        world.store.write(batch, true).expect("written");
        let World { dir, plan, store, cache } = world;
        drop((store, cache));
        let opened = Store::open_reader(&dir.path().join("data"), &plan);
        match (clean, opened) {
            (true, Err(StateError::Damaged { why, .. })) => assert!(why.contains("something else wrote"), "{why}"),
            (false, Ok(_)) => {}
            (_, other) => panic!("clean {clean}: {:?}", other.err()),
        }
    }
}

/// Whoever still reads an older epoch holds pages back: the redo point stays with them.
#[test]
fn the_redo_point_is_where_every_page_is() {
    let world = World::new();
    world.take(10, 0..300);
    let (_, hold) = world.cache.hold_published();
    world.take(20, 0..300);
    world.cache.write_back().expect("written");
    assert_eq!(world.redo_points(), [10, 10]);
    drop(hold);
    let world = world.again();
    assert_eq!(world.count(7), World::new_count(2));
    world.cache.write_back().expect("written");
    assert_eq!(world.redo_points(), [20, 20]);
}

impl World {
    /// What [`World::count`] says after so many clicks, from a store that never stopped.
    fn new_count(clicks: u64) -> String {
        let world = World::new();
        (1..=clicks).for_each(|n| world.take(n * 10, 0..300));
        world.count(7)
    }
}

/// A crash between the pages and the redo point: redo meets pages that have what it repeats.
#[test]
fn redo_skips_what_a_page_has() {
    let world = World::new();
    world.take(10, 0..300);
    world.take(20, 0..300);
    let before = world.count(7);
    world.cache.write_back().expect("written");
    for view in world.store.ids().views() {
        world.store.put_meta(&redo_key(view), &0u64.to_be_bytes()).expect("written");
    }
    let world = world.again();
    assert_eq!(world.count(7), before);
    world.take(30, 0..300);
    assert_eq!(world.count(7), World::new_count(3));
}

#[test]
fn pages_are_counted_as_they_are_written() {
    let world = World::new();
    // More than two chunks of one user, so that it has chunk rows.
    for epoch in 1..=900 {
        world.take(epoch, 0..2);
        if epoch % 300 == 0 {
            world.cache.write_back().expect("written");
            assert_eq!(world.store.check_pages().expect("all there"), 4, "two users, two views");
        }
    }
    let row_of = |family: &str| {
        let row = world.store.db().iterator_cf(&world.store.family(family), rocksdb::IteratorMode::Start).next();
        row.expect("there is one").expect("readable")
    };
    for family in ["pages", "chunks"] {
        let (key, row) = row_of(family);
        let families = world.store.family(family);
        let check = || world.store.check_pages().map_err(|e| e.to_string());
        let mut other = row.to_vec();
        *other.last_mut().expect("not empty") ^= 1;
        world.store.db().put_cf(&families, &key, other).expect("written");
        assert!(check().is_err(), "{family} altered");
        world.store.db().delete_cf(&families, &key).expect("deleted");
        assert!(check().is_err(), "{family} gone");
        world.store.db().put_cf(&families, &key, &row).expect("written");
        assert_eq!(check(), Ok(4));
        let stray = [&*key, b"x".as_slice()].concat();
        world.store.db().put_cf(&families, &stray, &row).expect("written");
        assert!(check().is_err(), "{family} too many");
        world.store.db().delete_cf(&families, &stray).expect("deleted");
    }
    // A page whose chunk is gone is no answer.
    let (key, _) = row_of("chunks");
    world.store.db().delete_cf(&world.store.family("chunks"), &key).expect("deleted");
    let World { dir, plan, store, cache } = world;
    drop((store, cache));
    let store = Arc::new(Store::open(&dir.path().join("data"), &plan).expect("it opens"));
    let cache = Cache::new(Arc::clone(&store), &plan).expect("readable");
    let (epoch, codec) = (cache.published().epoch, EntityCodec::new(&plan.views[0].plan).expect("one column"));
    let read = |view: usize, user: i64| {
        let key = codec.group(&codec.parse(&user.to_string()).expect("a number")).expect("a group").expect("not null");
        cache.read(view, &key, epoch, epoch.cast_signed()).map(|_| ())
    };
    let errors: Vec<_> =
        [(0, 0), (0, 1), (1, 0), (1, 1)].into_iter().filter_map(|(view, user)| read(view, user).err()).collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].to_string().contains("chunk row"), "{errors:?}");
}

#[test]
fn every_view_loses_pages_in_its_turn() {
    let world = World::new();
    world.take(10, 0..20_000);
    let all = world.cache.memory(0) + world.cache.memory(1);
    world.cache.keep_in_memory(all as u64 * 3 / 4);
    // The first pass counts, the second lets go of what it needs to, the third of what was missed.
    for _ in 0..4 {
        world.cache.write_back().expect("written");
    }
    let (first, second) = (world.cache.resident(0), world.cache.resident(1));
    assert!(first < 20_000 || second < 20_000, "{first} {second}");
    world.cache.keep_in_memory(all as u64 / 2);
    for _ in 0..4 {
        world.cache.write_back().expect("written");
    }
    let (first, second) = (world.cache.resident(0), world.cache.resident(1));
    assert!(first < 20_000 && second < 20_000, "{first} {second}");
    assert_eq!(world.count(7), World::new_count(1));
}

/// Pages that are asked for all the time: the limit holds all the same.
#[test]
fn busy_pages_leave_when_idle_ones_are_not_enough() {
    let world = World::new();
    world.take(10, 0..5_000);
    let all = world.cache.memory(0) + world.cache.memory(1);
    world.cache.keep_in_memory(all as u64 / 4);
    for n in 2..8 {
        world.take(n * 10, 0..5_000);
        world.cache.write_back().expect("written");
    }
    let left = world.cache.memory(0) + world.cache.memory(1);
    assert!(left < all / 2, "{left} of {all} bytes are left");
    assert_eq!(world.count(7), World::new_count(7));
}

#[test]
fn pages_that_are_only_read_count_as_well() {
    let world = World::new();
    world.take(10, 0..5_000);
    let all = world.cache.memory(0) + world.cache.memory(1);
    world.cache.write_back().expect("written");
    let world = world.again();
    world.cache.keep_in_memory(all as u64 / 40);
    assert!(!world.cache.is_over_memory());
    let one = World::new_count(1);
    for from in (0..5_000).step_by(1_000) {
        (from..from + 1_000).for_each(|user| assert_eq!(world.count(user), one));
        assert!(world.cache.is_over_memory(), "housekeeping learns of it");
        // What was just read stays once, and goes if that is not enough.
        for _ in 0..3 {
            world.cache.write_back().expect("written");
        }
        assert!(world.cache.memory(0) < all / 5, "{} of {all} bytes are left", world.cache.memory(0));
    }
}

#[test]
fn what_the_tail_lacks_is_noticed_when_it_is_read() {
    let world = World::new();
    (1..=5).for_each(|n| world.take(n * 10, 0..3));
    let read = || world.store.tail(world.events(), 0, u64::MAX).expect("readable").map(|r| r.map(|r| r.last));
    let last = |n: u64| super::commit::log_key(world.events(), n, 0);
    assert_eq!(read().collect::<Result<Vec<_>, _>>().expect("whole"), [10, 20, 30, 40, 50]);
    let log = world.store.family("log");
    for n in [10, 30, 50] {
        let row = world.store.db().get_cf(&log, last(n)).expect("readable").expect("there");
        world.store.db().delete_cf(&log, last(n)).expect("deleted");
        let found: Vec<_> = read().collect();
        assert_eq!(found.len() as u64, n / 10, "everything before it, and the error: {n}");
        let error = found.into_iter().next_back().expect("one").expect_err("it is missing").to_string();
        assert!(error.contains("it is missing"), "{error}");
        // What ends before it is whole.
        let before = world.store.tail(world.events(), 0, n - 1).expect("readable");
        assert_eq!(before.filter(Result::is_ok).count() as u64, n / 10 - 1);
        let mut other = row.clone();
        let middle = other.len() / 2;
        other[middle] ^= 1;
        world.store.db().put_cf(&log, last(n), other).expect("written");
        let error = read().find_map(Result::err).expect("it differs").to_string();
        assert!(error.contains("digest"), "{error}");
        world.store.db().put_cf(&log, last(n), row).expect("written");
    }
    let row = world.store.db().get_cf(&log, last(10)).expect("readable").expect("there");
    world.store.db().put_cf(&log, last(15), row).expect("written");
    let error = read().find_map(Result::err).expect("one too many").to_string();
    assert!(error.contains("no commit knows it"), "{error}");
}

#[test]
fn what_the_quarantine_lacks_is_noticed_when_it_is_read() {
    let world = World::new();
    for (n, refused) in [(10, 2), (20, 0), (30, 3)] {
        world.store.commit(&world.commit_of(n, None, refused), false).expect("written");
    }
    let read = || world.store.quarantine().collect::<Result<Vec<_>, _>>().map(|all| all.len());
    assert_eq!(read().expect("whole"), 5);
    let family = world.store.family("quarantine");
    let rows: Vec<_> = world.store.db().iterator_cf(&family, rocksdb::IteratorMode::Start).collect();
    for row in rows {
        let (key, row) = row.expect("readable");
        world.store.db().delete_cf(&family, &key).expect("deleted");
        assert!(read().is_err());
        let mut other = row.to_vec();
        *other.last_mut().expect("not empty") ^= 1;
        world.store.db().put_cf(&family, &key, other).expect("written");
        assert!(read().is_err());
        world.store.db().put_cf(&family, &key, row).expect("written");
        assert_eq!(read().expect("whole"), 5);
    }
    let stray = [20u64.to_be_bytes().as_slice(), &[0; 4]].concat();
    world.store.db().put_cf(&family, stray, b"").expect("written");
    assert!(read().is_err());
}

/// Log rows count, whether or not a view admits them; what the tail holds at a start counts, too.
#[test]
fn the_log_grows_by_what_is_logged() {
    let world = World::new();
    let batch = world.clicks(10, 0..40);
    world.store.commit(&world.commit_of(10, Some(&batch), 0), false).expect("written");
    assert_eq!(world.store.logged(), 40);
    let world = world.again();
    assert_eq!(world.store.logged(), 40);
    world.take(20, 0..2);
    assert_eq!(world.store.logged(), 42);
}

#[test]
fn another_format_is_refused_with_what_to_do() {
    let world = World::new();
    world.store.put_meta("format", &1u32.to_be_bytes()).expect("written");
    let World { dir, plan, store, cache } = world;
    drop((store, cache));
    for error in [
        Store::open(&dir.path().join("data"), &plan).err().expect("refused"),
        Store::open_reader(&dir.path().join("data"), &plan).err().expect("refused"),
    ] {
        assert_eq!(
            error.to_string(),
            "the data directory has format 1, this program reads 4: replay the sources into another --data-dir, or \
             read it with the version that made it"
        );
    }
}

/// What one view's pages lack holds back nobody else: each is redone from its own point, and a log is sealed as far as the
/// views that read it.
#[test]
fn each_view_is_redone_from_its_own_point() {
    for lags in [0, 1] {
        let world = World::new();
        (1..=4).for_each(|n| world.take(n * 10, 0..300));
        let before = (world.count(7), world.store.sealable(world.events()).expect("readable"));
        assert_eq!(before.1, 0, "no page has a row yet");
        world.cache.write_back().expect("written");
        assert_eq!(world.store.sealable(world.events()).expect("readable"), 40);
        // One view's rows are those of an earlier moment, as if it had come later, or a pass had ended before it.
        let id = world.store.ids().view(lags);
        let mut batch = WriteBatch::default();
        for family in ["pages", "chunks"] {
            batch.delete_range_cf(&world.store.family(family), id.to_be_bytes(), after(id));
        }
        batch.delete_cf(&world.store.family("meta"), super::check::count_key(id));
        batch.delete_cf(&world.store.family("meta"), redo_key(id));
        world.store.write(batch, true).expect("written");
        let world = world.again();
        assert_eq!(world.redo_points()[lags], 0);
        assert_eq!(world.redo_points()[1 - lags], 40, "the other is where it was");
        assert_eq!(world.count(7), before.0, "view {lags} is redone from the first commit on");
        assert_eq!(world.store.sealable(world.events()).expect("readable"), 0, "it still needs the tail");
        let said = panic_of(|| world.store.seal(&[], &[(world.events(), 20)]).expect("written"));
        assert!(said.contains("pages hold it up to"), "{said}");
        world.cache.write_back().expect("written");
        assert_eq!(world.redo_points(), [40, 40]);
        world.store.check_all().expect("whole");
    }
}

/// The first key behind all of a view's.
fn after(view: ViewId) -> [u8; 4] {
    (u32::from_be_bytes(view.to_be_bytes()) + 1).to_be_bytes()
}

/// An id that was given stays given, whatever becomes of what had it.
#[test]
fn an_id_is_never_given_twice() {
    let world = World::new();
    let ids = |world: &World| {
        let ids = world.store.ids();
        let views: Vec<String> = ids.views().map(|v| v.to_string()).collect();
        (views, ids.source(0).to_string())
    };
    assert_eq!(ids(&world), (vec!["1".into(), "2".into()], "3".into()));
    let clear = |world: &World| {
        let registry = world.store.family("registry");
        let rows = world.store.db().iterator_cf(&registry, rocksdb::IteratorMode::Start);
        rows.for_each(|row| world.store.db().delete_cf(&registry, row.expect("readable").0).expect("deleted"));
    };
    let world = world.again();
    assert_eq!(ids(&world), (vec!["1".into(), "2".into()], "3".into()), "opened again, they are what they were");
    clear(&world);
    let world = world.again();
    assert_eq!(ids(&world), (vec!["5".into(), "6".into()], "7".into()), "their key was the fourth");
    // Behind a commit nobody could say whose it was.
    world.take(10, 0..3);
    clear(&world);
    let World { dir, plan, store, cache } = world;
    drop((store, cache));
    let error = Store::open(&dir.path().join("data"), &plan).err().expect("refused").to_string();
    assert!(error.contains("the registry is damaged"), "{error}");
}
