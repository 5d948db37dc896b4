//! What must hold after every step: commits, answers, the log, and what a node finds when it starts again.
//!
//! Invariants: nothing here changes the world. Neighbours: `node` calls this where something has happened, `model` says
//! what an answer should be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use headwater::online::StampRequest;
use headwater::source::Gap;
use headwater::state::cache::Cache;
use headwater::state::redo::redo;
use headwater::time::Epoch;
use headwater::verify::{Request, Verifier, offsets};
use rand::RngExt;

use super::model::{TOPICS, USERS, VIEWS, expected};
use super::node::{Answered, Running};
use super::world::{End, Remembered, World};

/// (partition, offset, epoch) of a record in the log.
type Place = (i32, i64, u64);

impl Running {
    /// After a commit: epochs and visible instants rise, and no live answer was about an instant that is now another's.
    pub(crate) fn check_commit(&self, world: &World) {
        let published = self.online.cache().published();
        let memory = &mut *world.memory.borrow_mut();
        if published.epoch == 0 || memory.visible.contains_key(&published.epoch) {
            return;
        }
        if let Some((last, visible)) = memory.visible.last_key_value() {
            assert!(published.epoch > *last, "epoch {} after {last}", published.epoch);
            assert!(published.visible > *visible, "visible at {} after {visible}", published.visible);
        }
        assert!(published.visible >= published.epoch.cast_signed(), "{published:?}");
        assert!(
            published.visible > memory.through,
            "visible at {}, and an answer was about {}",
            published.visible,
            memory.through
        );
        memory.visible.insert(published.epoch, published.visible);
        if world.sync_always {
            memory.durable = published.epoch;
        }
    }

    /// An answer is what the model says; a live one is about an instant of its commit.
    pub(crate) fn check_answer(
        &self,
        world: &World,
        view: usize,
        user: usize,
        stamp: StampRequest,
        answered: Answered,
    ) {
        world.counts.borrow_mut().answers += 1;
        // Perhaps the committer has just published, and is not done with its turn.
        self.check_commit(world);
        let Answered { epoch, as_of, text, known } = answered;
        let live = stamp.epoch.is_none() && stamp.as_of.is_none();
        let memory = &mut *world.memory.borrow_mut();
        let visible = memory.visible.get(&epoch).copied();
        assert!(epoch == 0 || visible.is_some(), "epoch {epoch} is answered, and not committed");
        if live || stamp.epoch.is_none() {
            let next = memory.visible.range(epoch + 1..).next();
            assert!(visible.is_none_or(|v| v <= as_of), "epoch {epoch} is visible from {visible:?}, not at {as_of}");
            assert!(next.is_none_or(|(_, v)| as_of < *v), "at {as_of} epoch {next:?} is visible, and {epoch} answers");
        }
        if live {
            assert!(as_of >= memory.through, "an answer about {as_of} after one about {}", memory.through);
            memory.through = as_of;
        }
        let want = expected(&memory.taken, VIEWS[view], USERS[user], epoch, as_of);
        assert_eq!(known, want, "{} of `{}` at {as_of}, epoch {epoch} (got, want)", VIEWS[view], USERS[user]);
        memory.answers.push(Remembered { view, user, epoch, as_of, text, live, lost: false });
    }

    /// After a start: what was committed is there, once; answers come again.
    pub(crate) fn check_recovered(&self, world: &World, how: End) {
        let last = self.online.cache().published().epoch;
        world.note(|| format!("    starts at {last}"));
        self.forget_lost(world, how, last);
        self.check_commits(world);
        self.check_log(world);
        let answers = world.memory.borrow().answers.len();
        // All that was lost, and some of the rest.
        for n in 0..answers {
            let remembered = world.memory.borrow().answers[n].clone();
            if remembered.lost || answers < 12 || world.chance(12.0 / 200.0) {
                self.replay(world, &remembered);
            }
        }
        self.check_now(world);
    }

    /// Takes what is not committed out of the model, if it may be missing.
    fn forget_lost(&self, world: &World, how: End, last: u64) {
        let memory = &mut *world.memory.borrow_mut();
        let newest = memory.visible.last_key_value().map_or(0, |(e, _)| *e);
        match how {
            End::PowerLoss => assert!(last >= memory.durable, "epoch {} was durable, {last} is left", memory.durable),
            // A commit may have been written and not published.
            End::Crash | End::Stop | End::Nothing => {
                assert!(last >= newest, "epoch {newest} was committed, {last} is left")
            }
        }
        memory.taken.retain(|t| t.epoch <= last);
        memory.gaps.retain(|(epoch, _)| *epoch <= last);
        memory.visible.retain(|epoch, _| *epoch <= last);
        memory.answers.iter_mut().filter(|a| a.epoch > last).for_each(|a| a.lost = true);
    }

    /// The commits that are stored are those that were seen, and perhaps one more that was being written.
    fn check_commits(&self, world: &World) {
        let memory = &mut *world.memory.borrow_mut();
        let (mut stored, mut gaps) = (BTreeMap::new(), vec![]);
        for commit in self.online.cache().store().commits() {
            let commit = commit.expect("commits are readable");
            stored.insert(commit.last, commit.visible);
            gaps.extend(commit.gaps.iter().map(|gap| format!("{gap:?}")));
        }
        let mut known: Vec<String> = memory.gaps.iter().map(|(_, gap)| format!("{gap:?}")).collect();
        (gaps.sort(), known.sort());
        assert_eq!(gaps, known, "what retention took (got, want)");
        let mut before = (0, i64::MIN);
        for (epoch, visible) in &stored {
            assert!(*epoch > before.0 && *visible > before.1, "{epoch} visible at {visible} after {before:?}");
            before = (*epoch, *visible);
        }
        for (epoch, visible) in &memory.visible {
            assert_eq!(stored.get(epoch), Some(visible), "the commit of epoch {epoch}");
        }
        let unseen = stored.keys().filter(|e| !memory.visible.contains_key(e)).count();
        assert!(unseen <= 1, "{unseen} commits that nobody has seen");
        memory.visible = stored;
        // Answers fit the commits that came after them.
        for a in memory.answers.iter().filter(|a| a.live && !a.lost) {
            let next = memory.visible.range(a.epoch + 1..).next();
            assert!(
                next.is_none_or(|(_, v)| a.as_of < *v),
                "at {} epoch {next:?} is visible, {} answered",
                a.as_of,
                a.epoch
            );
        }
    }

    /// Events, refusals and offsets are those of the records that were taken in: none is missing, none is there twice.
    pub(crate) fn check_log(&self, world: &World) {
        let (store, offline) = (self.online.cache().store(), self.online.offline());
        let memory = &*world.memory.borrow();
        let last = self.online.cache().published().epoch;
        let mut found: Vec<BTreeSet<Place>> = vec![BTreeSet::new(); TOPICS.len()];
        let mut refused: Vec<BTreeSet<Place>> = found.clone();
        let mut by_view = BTreeSet::new();
        for (topic, name) in TOPICS.iter().enumerate() {
            let source = world.plan.source_index(name).expect("it is planned");
            let read = offline.events(source, Epoch(u64::MAX), &mut |batch| {
                let column =
                    |name: &str| Arc::clone(batch.column_by_name(name).expect("events have their system columns"));
                let (partitions, offsets, epochs) = (column("_partition"), column("_offset"), column("_epoch"));
                for n in 0..batch.num_rows() {
                    let place = (
                        partitions.as_primitive::<Int32Type>().value(n),
                        offsets.as_primitive::<Int64Type>().value(n),
                        epochs.as_primitive::<TimestampMicrosecondType>().value(n).cast_unsigned(),
                    );
                    assert!(found[topic].insert(place), "{name} {place:?} is in the log twice");
                }
                Ok(())
            });
            read.expect("the log is readable");
        }
        for rejected in store.quarantine() {
            let r = rejected.expect("readable");
            let place = (r.partition, r.offset, r.epoch);
            match r.view {
                None => {
                    let topic = TOPICS.iter().position(|t| *t == r.source).expect("one of ours");
                    assert!(refused[topic].insert(place), "{} {place:?} is refused twice", r.source);
                }
                Some(view) => assert!(by_view.insert((view.clone(), place)), "{view} refuses {place:?} twice"),
            }
        }
        let (mut want, mut want_refused) = (vec![BTreeSet::new(); TOPICS.len()], vec![BTreeSet::new(); TOPICS.len()]);
        let mut want_by_view = BTreeSet::new();
        for t in memory.taken.iter().filter(|t| t.epoch <= last) {
            let place = (t.partition, t.offset, t.epoch);
            let into = if t.record.is_refused() { &mut want_refused } else { &mut want };
            assert!(into[t.topic].insert(place), "{} {place:?} was read twice", TOPICS[t.topic]);
            if t.record.is_refused_by_totals() {
                want_by_view.insert(("totals".to_string(), place));
            }
        }
        assert_eq!(found, want, "the events log (got, want)");
        assert_eq!(refused, want_refused, "the quarantine (got, want)");
        assert_eq!(by_view, want_by_view, "rows that a view refused (got, want)");
        self.check_offsets(world, last);
    }

    /// Up to the committed offset of a partition every record is taken in, or retention took it.
    fn check_offsets(&self, world: &World, last: u64) {
        let memory = &*world.memory.borrow();
        let committed = self.online.cache().store().offsets().expect("readable");
        for (topic, name) in TOPICS.iter().enumerate() {
            for partition in 0..super::topic::PARTITIONS {
                let taken =
                    memory.taken.iter().filter(|t| t.epoch <= last && (t.topic, t.partition) == (topic, partition));
                let taken: BTreeSet<i64> = taken.map(|t| t.offset).collect();
                let end = committed.get(name, partition);
                let ours = |(epoch, gap): &&(u64, Gap)| {
                    *epoch <= last && (gap.source.as_str(), gap.partition) == (*name, partition)
                };
                let gaps: Vec<_> = memory.gaps.iter().filter(ours).map(|(_, gap)| gap.from..gap.to).collect();
                let reached = taken.last().map_or(0, |o| o + 1);
                let reached = gaps.iter().map(|g| g.end).chain([reached]).max().unwrap_or(0);
                assert_eq!(end, reached, "{name} {partition}: the committed offset");
                for offset in (0..end).filter(|o| !taken.contains(o)) {
                    assert!(gaps.iter().any(|g| g.contains(&offset)), "{name} {partition} {offset} was never read");
                }
            }
        }
    }

    /// Every view of every user, now.
    pub(crate) fn check_now(&self, world: &World) {
        for view in 0..VIEWS.len() {
            for user in 0..USERS.len() {
                match self.ask(view, user, StampRequest::default()) {
                    Ok(answered) => self.check_answer(world, view, user, StampRequest::default(), answered),
                    Err(e) => assert!(world.failed.get(), "{e}"),
                }
            }
        }
    }

    /// What `verify --all` does, with the pages of the running node or, `anew`, with pages made from the disk.
    pub(crate) fn verify(&self, world: &World, anew: bool, views: &[usize]) {
        let (store, offline) = (self.online.cache().store(), self.online.offline());
        if self.online.cache().published().epoch == 0 {
            return;
        }
        store.check_all().expect("what is stored is whole");
        offline.check_segments().expect("segments are whole");
        let found = offsets::check(&world.plan, store, offline).expect("the log is readable");
        assert!(found.problems.is_empty(), "{:?}", found.problems);
        let fresh;
        let cache = if anew {
            fresh = Cache::new(Arc::clone(store), &world.plan).expect("pages are readable");
            let project = |view: usize, events: &RecordBatch| offline.project_events(view, events);
            redo(store, &world.plan, &fresh, None, project).expect("the tail is readable");
            &fresh
        } else {
            &**self.online.cache()
        };
        let (definitions, plan) = (&*world.definitions, &world.plan);
        let verifier = Verifier { definitions, plan, cache, offline };
        for view in views {
            let view = self.online.view(VIEWS[*view]).expect("it is planned");
            let seed = world.rng.borrow_mut().random();
            let request = Request { views: vec![view], sample: None, epoch: None, seed, present: world.clock.now() };
            let report = verifier.view(view, &request).expect("everything is readable");
            let differences: Vec<String> = report.differences.iter().map(ToString::to_string).collect();
            assert_eq!(report.differing, 0, "{}\n{}", report.view, differences.join("\n"));
            world.counts.borrow_mut().verified += report.checked;
        }
    }
}
