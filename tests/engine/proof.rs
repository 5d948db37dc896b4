//! `verify` finds what is planted: each kind of answer, changed behind the engine's back, is named.

use std::path::Path;

use headwater::fold::{Fold, layout};
use headwater::source::replay::ReplayClock;
use headwater::state::Store;
use headwater::state::page::{Header, row_digest};
use headwater::time::Clock;
use rocksdb::IteratorMode;

use super::support::{Deployment, Done, How, Loaded};
use super::tamper::{copy_dir, open};

const DEFINITIONS: &str = "
CREATE STREAM visits (who TEXT, pages BIGINT, share BIGINT, ts TIMESTAMP NOT NULL) EVENT TIME ts
  FROM FILE (path = 'visits.jsonl', format = 'jsonl');
CREATE FEATURE VIEW recent AS
  SELECT who, count(*) AS visits, sum(pages) AS pages, avg(100 / share) AS percent, coalesce(max(pages), -1) AS most
  FROM visits WHERE ts > now() - INTERVAL '1 day' GROUP BY who;
CREATE FEATURE VIEW ever AS SELECT who, count(*) AS visits, last_value(pages) AS last FROM visits GROUP BY who;";

/// A small history in segments and pages; two of its records have a share of zero, which `recent` cannot divide by.
struct World {
    deployment: Deployment,
    loaded: Loaded,
}

impl World {
    fn new() -> World {
        let deployment = Deployment::new(&[("a.sql", DEFINITIONS)]);
        let mut lines = String::new();
        for n in 0..300 {
            let (who, share) = (n % 7, if n == 40 || n == 200 { 0 } else { 1 + n % 5 });
            // Two weeks, so that most have expired at the end and all were there once.
            let (day, minute) = (1 + n / 25, n % 60);
            lines += &format!(
                "{{\"who\":\"w{who}\",\"pages\":{n},\"share\":{share},\"ts\":\"2024-01-{day:02}T10:{minute:02}:00Z\"}}\n"
            );
        }
        deployment.write("./visits.jsonl", &lines);
        let loaded = deployment.load();
        let how = How { clock: ReplayClock::Event, workers: 1, cut: 60, kills: 0, seed: 7 };
        loaded.replay(&deployment.path("made"), &how);
        // A directory that was cleanly stopped is refused when anything was written to it: what else is noticed?
        drop(Store::open(&deployment.path("made"), &loaded.plan).expect("it opens"));
        let world = World { deployment, loaded };
        let said = world.verify("made", &["--all"]).expect(0, &["differing=0", "problems=0"]);
        for view in ["recent", "ever"] {
            let line = said.out.lines().find(|l| l.starts_with(view)).expect("it is verified");
            // Two stamps about the present, and as of the last commit every instant that was corrected.
            let number = |name: &str| -> u64 {
                let found = line.split_whitespace().find_map(|w| w.strip_prefix(name)).expect("it is counted");
                found.parse().expect("a number")
            };
            assert!(number("pages_compared=") >= 14 && number("histories_compared=") >= 7 * 20, "{line}");
            assert_eq!(number("refused="), if view == "recent" { 2 } else { 0 }, "{line}");
        }
        world
    }

    fn verify(&self, data: &str, args: &[&str]) -> Done {
        self.deployment.run("verify", data, &[&["--seed", "1"], args].concat())
    }

    /// Changes a copy; verifying it, all of it or a sample, must fail and say all of `words` on one line.
    #[track_caller]
    fn check(&self, what: &str, words: &[&str], change: impl FnOnce(&Path)) {
        let copy = self.deployment.path(what);
        copy_dir(&self.deployment.path("made"), &copy);
        change(&copy);
        let said = self.verify(what, &["--sample", "100"]).expect(3, &[]);
        let named = said.out.lines().any(|line| line.contains("DIFFERS") && words.iter().all(|w| line.contains(w)));
        assert!(named, "{what}: no line has {words:?}:\n{}", said.out);
    }

    /// A page row with one bit changed so that what `pick` shows of its answer in the present changes, and nothing else.
    fn change_page(&self, data: &Path, view: &str, pick: fn(&headwater::fold::Evaluation) -> String) {
        let view = self.loaded.plan.view_index(view).expect("there is one");
        let fold = &self.loaded.plan.views[view].fold;
        let prefix = self.loaded.open(data).store.ids().view(view).to_be_bytes();
        let db = open(data);
        let pages = db.cf_handle("pages").expect("all families exist");
        for row in db.iterator_cf(&pages, IteratorMode::Start) {
            let (key, value) = row.expect("readable");
            if key.starts_with(&prefix)
                && let Some(other) = other_page(&key, &value, fold, Clock::Machine.now(), pick)
            {
                return db.put_cf(&pages, key, other).expect("written");
            }
        }
        panic!("no page could be changed so");
    }
}

fn other_page(
    key: &[u8],
    row: &[u8],
    fold: &Fold,
    now: i64,
    pick: fn(&headwater::fold::Evaluation) -> String,
) -> Option<Vec<u8>> {
    let answer = |row: &[u8]| {
        let mut group = layout::decode(row.get(Header::LEN..)?, fold, |_| None).ok()?;
        if group.floor() > now {
            return None;
        }
        group.advance(now, fold);
        Some(group.evaluate(now, fold))
    };
    let was = answer(row)?;
    (Header::LEN..row.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))).find_map(|(at, bit)| {
        let mut other = row.to_vec();
        other[at] ^= 1 << bit;
        let is = answer(&other)?;
        (is.values == was.values && pick(&is) != pick(&was)).then(|| {
            // As a writer with a bug would have written it.
            let digest = row_digest(&key[4..], &other[8..]);
            other[..8].copy_from_slice(&digest.to_le_bytes());
            other
        })
    })
}

#[test]
fn whatever_is_changed_is_named() {
    let world = World::new();
    world.check("deleted_page", &["recent", "pages say nothing", "an answer"], |data| {
        let prefix =
            world.loaded.open(data).store.ids().view(world.loaded.plan.view_index("recent").expect("there is one"));
        let prefix = prefix.to_be_bytes();
        let db = open(data);
        let pages = db.cf_handle("pages").expect("all families exist");
        let mut rows = db.iterator_cf(&pages, IteratorMode::Start).map(|row| row.expect("readable").0);
        let key = rows.find(|key| key.starts_with(&prefix)).expect("there are pages");
        db.delete_cf(&pages, key).expect("deleted");
    });
    world.check("changed_status", &["recent", "status: pages say"], |data| {
        world.change_page(data, "recent", |answer| format!("{:?} {:?}", answer.status, answer.event_time.is_some()));
    });
    world.check("changed_event_time", &["ever", "event_time: pages say"], |data| {
        world.change_page(data, "ever", |answer| format!("{:?}", answer.event_time));
    });
}

/// Having looked at nothing is not success.
#[test]
fn nothing_compared_proves_nothing() {
    let world = World::new();
    world.verify("made", &["ever", "--sample", "0"]).expect(3, &["nothing was compared"]);
    world.verify("made", &["ever", "--sample", "1"]).expect(0, &["groups=1", "differing=0"]);
}
