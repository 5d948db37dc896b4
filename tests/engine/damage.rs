//! A directory that lost something says so: every file of a data directory, flipped, shortened and removed.
//!
//! Either somebody notices, or every answer is as it was. The library looks at hundreds of changes, with the answers of
//! all groups; the program at one of each kind, with its exit codes.

use std::collections::BTreeMap;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use headwater::offline::OfflineError;
use headwater::reader::Reader;
use headwater::source::replay::ReplayClock;
use headwater::state::Store;
use headwater::state::cache::Read;
use headwater::time::{Ask, Epoch};
use headwater::verify::offsets;

use super::oracle::deployment;
use super::support::{Deployment, How, Loaded};
use super::tamper::copy_dir;

/// One event at a time, so that there are many commits.
const HOW: How = How { clock: ReplayClock::Event, workers: 1, cut: 6, kills: 0, seed: 7 };

struct World {
    deployment: Deployment,
    loaded: Loaded,
}

impl World {
    fn new() -> World {
        let deployment = deployment(7, 90);
        let loaded = deployment.load();
        World { deployment, loaded }
    }

    fn path(&self, data: &str) -> PathBuf {
        self.deployment.path(data)
    }

    /// Cleanly stopped, with all in segments and tables.
    fn stopped(&self) -> PathBuf {
        self.loaded.replay(&self.path("stopped"), &HOW);
        self.path("stopped")
    }

    /// Killed, with a part of it everywhere.
    fn killed(&self) -> PathBuf {
        self.loaded.take_in_and_die(&self.path("killed"), &HOW);
        self.path("killed")
    }

    /// Everything that can be read of a directory, as text: answers from pages and from the log, events, refusals.
    fn read(&self, data: &Path) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
        self.read_of(&Reader::open(data, &self.loaded.plan)?)
    }

    fn read_of(&self, reader: &Reader) -> Result<BTreeMap<String, String>, Box<dyn Error>> {
        let cache = reader.pages(None)?;
        let timeline = reader.offline.timeline()?;
        let last = timeline.last();
        let mut found = BTreeMap::from([("last".to_string(), format!("{last} of {}", timeline.len()))]);
        for (view, planned) in reader.plan.views.iter().enumerate() {
            for group in cache.groups(view)? {
                let name = format!("{} {group:?}", planned.plan.name);
                let at = last.micros();
                let log = reader.offline.evaluate(view, &group, last, Ask(at))?;
                found.insert(format!("{name} log"), format!("{log:?}"));
                let page = match cache.read(view, &group, last.0, at)? {
                    Read::Answer(answer) => format!("{answer:?}"),
                    other => format!("{other:?}"),
                };
                found.insert(format!("{name} page"), page);
            }
        }
        for (n, source) in reader.plan.sources.iter().enumerate() {
            let mut rows = vec![];
            let mut take = |batch: arrow::array::RecordBatch| {
                let text = arrow::util::pretty::pretty_format_batches(&[batch]).map_err(OfflineError::Arrow)?;
                rows.extend(text.to_string().lines().map(str::to_string));
                Ok(())
            };
            reader.offline.events(n, last, &mut take)?;
            rows.sort();
            found.insert(source.name.clone(), rows.join("\n"));
        }
        for refused in reader.store.quarantine() {
            let refused = refused?;
            found.insert(format!("refused {found}", found = found.len()), format!("{refused:?}"));
        }
        Ok(found)
    }

    /// What `verify --all` looks at before it compares answers.
    fn check(&self, data: &Path) -> Result<(), Box<dyn Error>> {
        let reader = Reader::open(data, &self.loaded.plan)?;
        reader.store.check_all()?;
        reader.offline.check_segments()?;
        let found = offsets::check(&self.loaded.plan, &reader.store, &reader.offline)?;
        match found.problems.first() {
            Some(problem) => Err(problem.clone().into()),
            None => Ok(()),
        }
    }

    /// Changes a copy. Who reads it notices or answers as before; who writes it does, too.
    fn judge(&self, made: &Path, change: &Change, known: &BTreeMap<String, String>) -> Result<bool, String> {
        let copy = self.path("copy");
        let _ = std::fs::remove_dir_all(&copy);
        copy_dir(made, &copy);
        change.apply(&copy);
        let calm = |what: &str, read: &mut dyn FnMut() -> Result<bool, Box<dyn Error>>| match catch_unwind(
            AssertUnwindSafe(read),
        ) {
            Ok(Ok(equal)) => Ok(Some(equal)),
            Ok(Err(_)) => Ok(None),
            Err(_) => Err(format!("{change}: {what} panicked")),
        };
        let read = calm("reading", &mut || Ok(self.read(&copy)? == *known))?;
        let noticed = read.is_none();
        if read == Some(false) && calm("checking", &mut || self.check(&copy).map(|()| true))?.is_some() {
            return Err(format!("{change}: other answers, and nobody notices"));
        }
        // A writer changes what it opens: what is answered afterwards must be right all the same.
        let written = calm("writing", &mut || {
            drop(Store::open(&copy, &self.loaded.plan)?);
            Ok(self.read(&copy)? == *known)
        })?;
        if written == Some(false) && calm("checking", &mut || self.check(&copy).map(|()| true))?.is_some() {
            return Err(format!("{change}: other answers after it was opened for writing, and nobody notices"));
        }
        Ok(noticed)
    }

    /// All changes of all files of a directory.
    fn judge_all(&self, made: &Path) {
        let known = self.read(made).expect("the untouched directory is readable");
        self.check(made).expect("the untouched directory is whole");
        assert!(known.len() > 50, "{}", known.len());
        let untouched = Change { file: "writer.lock".into(), what: What::Nothing };
        assert_eq!(self.judge(made, &untouched, &known), Ok(false), "an untouched copy");
        let (mut changes, mut noticed, mut wrong) = (0, 0, vec![]);
        for change in changes_of(made) {
            changes += 1;
            match self.judge(made, &change, &known) {
                Ok(n) => noticed += usize::from(n),
                Err(e) => wrong.push(e),
            }
        }
        eprintln!("{}: {noticed} of {changes} changes noticed by a reader", made.display());
        assert!(wrong.is_empty(), "{} of {changes}:\n{}", wrong.len(), wrong.join("\n"));
        assert!(noticed > changes / 2, "{noticed} of {changes}");
    }
}

/// What is done to a file.
#[derive(Clone, Copy, Debug)]
enum What {
    Nothing,
    Flip(usize, u8),
    Shorten(usize),
    Remove,
}

#[derive(Debug)]
struct Change {
    /// Below the data directory.
    file: PathBuf,
    what: What,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}", self.file.display(), self.what)
    }
}

impl Change {
    fn apply(&self, data: &Path) {
        let path = data.join(&self.file);
        match self.what {
            What::Nothing => {}
            What::Remove => std::fs::remove_file(path).expect("it is there"),
            What::Flip(at, bits) => {
                let mut bytes = std::fs::read(&path).expect("readable");
                bytes[at] ^= bits;
                std::fs::write(path, bytes).expect("written");
            }
            What::Shorten(length) => {
                let file = std::fs::File::options().write(true).open(path).expect("it is there");
                file.set_len(length as u64).expect("shortened");
            }
        }
    }
}

/// Flips from the first byte to the last, lengths from nothing to one less, and none at all, of every file.
fn changes_of(data: &Path) -> Vec<Change> {
    const PLACES: usize = 6;
    let mut found = vec![];
    super::tamper::files(data.to_path_buf(), &mut found);
    let mut changes = vec![];
    for path in found {
        let file = path.strip_prefix(data).expect("below it").to_path_buf();
        let name = file.to_string_lossy().into_owned();
        let length = std::fs::metadata(&path).expect("it is there").len() as usize;
        let mut add = |what| changes.push(Change { file: file.clone(), what });
        add(What::Remove);
        if length == 0 || name.starts_with("db/LOG") || name.starts_with("db/OPTIONS") {
            continue;
        }
        let mut places: Vec<usize> = (0..PLACES).map(|n| n * (length - 1) / (PLACES - 1)).collect();
        places.extend((0..5).filter(|at| *at < length));
        places.sort_unstable();
        places.dedup();
        for (n, at) in places.into_iter().enumerate() {
            // The lowest bit, and the highest: a length with that one reaches behind the end.
            add(What::Flip(at, if n % 2 == 0 { 1 } else { 0x80 }));
        }
        for left in [0, length / 2, length - 1] {
            add(What::Shorten(left));
        }
    }
    changes
}

#[test]
fn every_file_of_a_stopped_node() {
    let world = World::new();
    let made = world.stopped();
    world.judge_all(&made);
}

#[test]
fn every_file_of_a_killed_node() {
    let world = World::new();
    let made = world.killed();
    let names = |dir: &str, extension: &str| {
        let mut found = vec![];
        super::tamper::files(made.join(dir), &mut found);
        found.retain(|f| f.extension().is_some_and(|e| e == extension));
        found.len()
    };
    assert!(names("db", "sst") > 3 && names("db", "log") > 0 && names("segments", "parquet") > 3);
    world.judge_all(&made);
}

/// Beside a node that writes: what cannot be opened is never passed over.
#[test]
fn every_file_beside_a_running_node() {
    let world = World::new();
    let data = world.path("running");
    let node = world.loaded.take_in_thirds(&data, &HOW);
    node.store().sync().expect("it is on the disk");
    let known = world.read(&data).expect("it is readable beside its writer");
    let whole = world.path("whole");
    copy_dir(&data, &whole);
    let (mut changes, mut noticed, mut wrong) = (0, 0, vec![]);
    for change in changes_of(&whole).into_iter().filter(|c| !matches!(c.what, What::Flip(..))) {
        // The writer has its files open, and does not see what becomes of their names.
        let path = data.join(&change.file);
        let aside = world.path("aside");
        std::fs::rename(&path, &aside).expect("it is there");
        std::fs::copy(whole.join(&change.file), &path).expect("copied");
        change.apply(&data);
        changes += 1;
        match world.read(&data) {
            Err(_) => noticed += 1,
            Ok(found) if found == known => {}
            Ok(_) => wrong.push(change.to_string()),
        }
        std::fs::rename(&aside, &path).expect("it goes back");
    }
    assert!(wrong.is_empty(), "{} of {changes}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(noticed > changes / 2, "{noticed} of {changes}");
    assert_eq!(world.read(&data).expect("it is whole again"), known);
    drop(node);
}

/// Each kind of damage, by the program: every command that opens the directory exits with 1 and says what is wrong.
#[test]
fn every_command_says_what_is_wrong() {
    let world = World::new();
    let (stopped, killed) = (world.stopped(), world.killed());
    world.deployment.write("./labels.csv", "item,as_of\n1,2024-01-04T00:00:00Z\n");
    let labels = world.path("labels.csv").to_string_lossy().into_owned();
    let out = world.path("out.csv").to_string_lossy().into_owned();
    let history = ["--labels", &labels, "--features", "totals:*", "--out", &out];
    let commands: [(&str, &[&str]); 5] = [
        ("get", &["totals", "1"]),
        ("history", &history),
        ("quarantine", &[]),
        ("verify", &[]),
        ("replay", &["--clock", "event"]),
    ];
    let run = |command: &str, data: &str, args: &[&str]| match command {
        "quarantine" => {
            let mut program = super::support::headwater("quarantine");
            program.arg("list").arg("--dir").arg(world.path("")).arg("--data-dir").arg(world.path(data));
            super::support::Done::of(&mut program)
        }
        _ => world.deployment.run(command, data, args),
    };
    for made in ["stopped", "killed"] {
        copy_dir(&world.path(made), &world.path("copy"));
        for (command, args) in commands {
            run(command, "copy", args).expect(0, &[]);
        }
        std::fs::remove_dir_all(world.path("copy")).expect("removed");
    }
    let one = |dir: &Path, extension: &str| {
        let mut found = vec![];
        super::tamper::files(dir.to_path_buf(), &mut found);
        found.retain(|f| f.extension().is_some_and(|e| e == extension));
        found.pop().unwrap_or_else(|| panic!("no .{extension} in {}", dir.display()))
    };
    let within = |made: &Path, path: &Path| path.strip_prefix(made).expect("below it").to_path_buf();
    let length = |path: &Path| std::fs::metadata(path).expect("it is there").len() as usize;
    let wal = one(&killed.join("db"), "log");
    let table = one(&stopped.join("db"), "sst");
    let segment = one(&stopped.join("segments"), "parquet");
    let wal_file = within(&killed, &wal);
    let cases = [
        (&killed, Change { file: wal_file.clone(), what: What::Flip(length(&wal) / 10, 1) }, "orruption"),
        (&killed, Change { file: wal_file.clone(), what: What::Flip(length(&wal) / 2, 1) }, "orruption"),
        (&killed, Change { file: wal_file.clone(), what: What::Shorten(length(&wal) - 1) }, ".log"),
        (&killed, Change { file: wal_file, what: What::Remove }, ".log"),
        (&stopped, Change { file: "db/CURRENT".into(), what: What::Remove }, "CURRENT"),
        (&stopped, Change { file: "witness".into(), what: What::Remove }, "the witness"),
        (&stopped, Change { file: within(&stopped, &table), what: What::Remove }, ".sst"),
        (&stopped, Change { file: within(&stopped, &segment), what: What::Remove }, ".parquet"),
        (&stopped, Change { file: within(&stopped, &segment), what: What::Shorten(length(&segment) - 1) }, ".parquet"),
    ];
    for (made, change, says) in cases {
        for (command, args) in commands {
            let copy = world.path("copy");
            let _ = std::fs::remove_dir_all(&copy);
            copy_dir(made, &copy);
            change.apply(&copy);
            eprintln!("{command} after {change}");
            run(command, "copy", args).expect(1, &[says]);
        }
    }
    // A segment that no catalogue lists.
    let copy = world.path("copy");
    let _ = std::fs::remove_dir_all(&copy);
    copy_dir(&stopped, &copy);
    let lone = copy.join(within(&stopped, &segment)).with_file_name("1-2.parquet");
    std::fs::copy(&segment, &lone).expect("copied");
    for (command, args) in commands {
        run(command, "copy", args).expect(1, &["1-2.parquet", "catalogue"]);
    }
}

/// What was not on the disk may be lost with the machine, whole commits of it, from the end.
#[test]
fn a_torn_end_is_forgiven() {
    let world = World::new();
    let data = world.path("torn");
    let mut node = world.loaded.node(&data, 1);
    let slices = |node: &mut headwater::engine::Node, count: usize| {
        let store = node.store();
        let resume = headwater::source::replay::Resume {
            offsets: store.offsets().expect("readable"),
            sorted: store.sorted_positions().expect("readable"),
            last: store.last_commit().expect("readable").map(|c| Epoch(c.last)),
            states: store.source_states().expect("readable"),
        };
        let kafka = headwater::source::kafka::KafkaSettings::default();
        let mut replay = headwater::source::replay::Replay::new(
            &world.loaded.plan.sources,
            &world.loaded.dir,
            HOW.clock,
            &kafka,
            &resume,
        )
        .expect("sources are readable");
        for _ in 0..count {
            let slice = replay.next_slice(HOW.cut).expect("readable").expect("there is more");
            node.feed(slice, headwater::state::commit::ClockKind::Event).expect("taken");
            node.drain().expect("committed");
        }
    };
    slices(&mut node, 6);
    node.store().sync().expect("on the disk");
    let synced = node.store().last_commit().expect("readable").expect("there is one").last;
    let wal = {
        let mut found = vec![];
        super::tamper::files(data.join("db"), &mut found);
        found.retain(|f| f.extension().is_some_and(|e| e == "log"));
        found.pop().expect("there is one")
    };
    let on_disk = std::fs::metadata(&wal).expect("there").len();
    slices(&mut node, 4);
    drop(node);
    let length = std::fs::metadata(&wal).expect("there").len();
    assert!(on_disk < length);
    let (mut ends, step) = (std::collections::BTreeSet::new(), ((length - on_disk) / 150).max(1));
    let lengths = (on_disk - 3..=length).step_by(usize::try_from(step).expect("small")).chain([on_disk, length]);
    for left in lengths {
        let copy = world.path("copy");
        let _ = std::fs::remove_dir_all(&copy);
        copy_dir(&data, &copy);
        let file = copy.join(wal.strip_prefix(&data).expect("below it"));
        std::fs::File::options().write(true).open(file).expect("there").set_len(left).expect("shortened");
        let opened = Reader::open(&copy, &world.loaded.plan);
        if left < on_disk {
            assert!(opened.is_err(), "{left} of {on_disk} bytes that were on the disk");
            continue;
        }
        let reader = opened.unwrap_or_else(|e| panic!("cut to {left}: {e}"));
        let last = reader.store.last_commit().expect("readable").expect("there is one").last;
        assert!(last >= synced, "cut to {left}");
        ends.insert(last);
        // Whole commits: their records, their refused records, and the offsets that belong to them.
        reader.store.check_all().unwrap_or_else(|e| panic!("cut to {left}: {e}"));
        world.read_of(&reader).unwrap_or_else(|e| panic!("cut to {left}: {e}"));
    }
    assert_eq!(ends.len(), 5, "as it was synced, and after each commit: {ends:?}");
}
